/* SPDX-License-Identifier: Apache-2.0
 *
 * The sender's front: takes the items of a page source in order, copies each page once, and sorts
 * it: zero, unchanged since it was last sent (left out), changes to a cached version, or content.
 * The result are units of a pipeline. What it decides, the receiver is told; nothing has to be
 * guessed there.
 */
#ifndef HAMGR_MIGRATE_SORT_H
#define HAMGR_MIGRATE_SORT_H

#include "migrate/arena.h"
#include "migrate/page_source.h"
#include "migrate/pack.h"
#include "migrate/pagetable.h"
#include "migrate/pipeline.h"
#include "migrate/simd.h"

/* Records of at most this many entries (Xen writes 1024) are looked at as a whole, so that entries
 * can be left out; longer ones pass complete. */
#define SORT_BATCH_MAX 1024u

struct sorter {
    struct pipeline *pipeline; /* borrowed */
    struct session *session;   /* borrowed, set before the first item */
    struct packer *packer;     /* the owner's, borrowed */
    /* Makes at least one unit free, by committing. 0 or a negative error. */
    int (*make_room)(void *user, struct ha_err *err);
    void *user;
    struct pagetable table;
    struct arena arena;
    uint64_t *slot_unit; /* by slot: the unit that used it last */
    uint8_t secret[FRAME_SECRET_SIZE];
    enum simd_form form;
    bool is_identical;   /* nothing is left out */
    int level;           /* for the units to come; may be changed at any time */
    uint32_t probe_each; /* while level is 0, of so many groups one is tried; 0: none */
    uint32_t stored;     /* groups since the last that was tried */
    uint64_t same_pages;
    bool is_repeating; /* the last page that had been sent before was as before */
    /* the open batch */
    uint8_t *entries; /* FRAME_ENTRIES_MAX of them, as they came */
    uint32_t entry_count;
    uint32_t entry;      /* the next */
    uint32_t pages_left; /* not yet given */
    uint32_t kept;       /* entries that stay, in batch->in */
    uint32_t kept_pages; /* of them with a page; those of closed groups included */
    bool is_hvm;
    bool is_complete; /* no entry of this batch is left out */
    bool is_settled;  /* which ones are, if any, was said in advance: its BATCH has gone */
    struct unit *batch;
    struct unit *group; /* pages being gathered, or NULL */
    bool has_delta;     /* it has one */
};

/* cache_bytes: of hashes and cached pages together. Makes the secret. 0 or a negative error. */
int sorter_init(struct sorter *s, size_t cache_bytes, struct ha_err *err);
void sorter_fini(struct sorter *s);
/* True while the oldest unit may be one that waits for more of the source: the open batch's, or the
 * open group's. */
bool sorter_is_waiting(const struct sorter *s);
/* Takes an item other than END. 0 or a negative error. */
int sorter_take(struct sorter *s, const struct page_item *item, struct ha_err *err);

#endif
