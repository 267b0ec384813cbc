/* SPDX-License-Identifier: Apache-2.0
 *
 * A batch of guest pages on its way into the stream, as libxenguest hands it over: one vector of a
 * record's head, its entries and its pages where they are mapped. What may be left out, and the
 * record that is written for the rest. And on the way into a new domain: which of the pages that
 * are to be populated make up superpages. Pure.
 */
#ifndef HAMGR_HV_XEN_HELPER_BATCH_H
#define HAMGR_HV_XEN_HELPER_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define BATCH_PAGE       4096u
#define BATCH_PAGES_MAX  1024u /* libxenguest's largest */
#define BATCH_HEAD       16u   /* record type, length, count, zero */
#define BATCH_PIECES_MAX (BATCH_PAGES_MAX + 1)
#define SUPER_PAGES      512u
#define SUPER_ORDER      9u

struct batch {
    uint32_t count;                                 /* entries */
    uint32_t data_count;                            /* of these with a page */
    uint8_t head[BATCH_HEAD + 8 * BATCH_PAGES_MAX]; /* the record up to its pages */
    int piece_count;
    struct iovec pieces[BATCH_PIECES_MAX]; /* head first; pages that are neighbours in memory are
                                            * one piece */
};

/* Is this vector a PAGE_DATA record that can be taken apart? Fills *ret. False: it is passed on as
 * it is. */
bool batch_take(const struct iovec *vector, int count, struct batch *ret);
/* Leaves out entries without a page that mean nothing to the receiver of a translated guest (HVM,
 * PVH): holes. Not for PV, where a hole may take back an earlier type of the page. The batch may be
 * empty afterwards (count 0): then there is no record at all. */
void batch_drop_holes(struct batch *b);
/* Bytes of the whole record. */
uint64_t batch_bytes(const struct batch *b);

/* Part of the frames to be populated, in order: single pages, or one superpage. */
struct super_run {
    uint64_t start; /* index */
    uint64_t count;
    bool is_super; /* SUPER_PAGES frames from an aligned one on */
};
/* The run that begins at `start` (< count). */
struct super_run super_next(const uint64_t *frames, uint64_t count, uint64_t start);

#endif
