/* SPDX-License-Identifier: Apache-2.0
 *
 * What the sender remembers of pages it sent: by page number, the hash of the last version and the
 * cache slot that holds it. Bounded: when there is no room, older knowledge is forgotten, which
 * costs bytes on the wire and nothing else. Nobody but the sender sees it.
 */
#ifndef HAMGR_MIGRATE_PAGETABLE_H
#define HAMGR_MIGRATE_PAGETABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/digest.h"
#include "hamgr/base/err.h"

#define PAGETABLE_NO_SLOT UINT32_MAX

struct page_record {
    struct ha_digest hash; /* of the last version sent; zero for a zero page */
    uint32_t pfn;
    uint32_t slot_type; /* private: slot + 1, and the page's type in the four bits above */
};

struct pagetable {
    struct page_record *records;
    uint64_t set_count;
    uint32_t *slot_pfn; /* by slot: whose it is */
    uint8_t *slot_used; /* by slot: of what use it is */
    uint32_t slot_count;
    uint32_t spare_count; /* slots that anybody may have: see pagetable_lend_slot */
    uint32_t slot_next;   /* slots from here on were never given out */
    uint32_t hand;        /* where the search for a victim goes on */
    uint32_t turns;
};

/* limit bytes for records and for slot_count slots' book-keeping; the slots themselves are the
 * caller's. 0 or -HA_E_NO_MEMORY. */
int pagetable_init(struct pagetable *t, size_t record_bytes, uint32_t slot_count,
                   struct ha_err *err);
void pagetable_fini(struct pagetable *t);

/* The record of a page, or NULL. */
struct page_record *pagetable_find(const struct pagetable *t, uint32_t pfn);
/* The record of a page that has none: empty, in place of an older one if need be. NULL when there
 * is no table. */
struct page_record *pagetable_add(struct pagetable *t, uint32_t pfn);
/* The last version counts no more (the page lost its content, say). */
void pagetable_forget(struct pagetable *t, uint32_t pfn);
/* Soon looked for. */
void pagetable_prefetch(const struct pagetable *t, uint32_t pfn);

/* The slot of a record, or PAGETABLE_NO_SLOT. Marks it as worth keeping. */
uint32_t pagetable_slot(struct pagetable *t, const struct page_record *record);
/* A slot for a page sent for the first time: one that was never given out, and only until a page
 * that is sent again needs it. PAGETABLE_NO_SLOT: there is none. */
uint32_t pagetable_lend_slot(struct pagetable *t, struct page_record *record);
/* A slot for a page that was sent before: a free one, a lent one, or now and then another page's:
 * a working set larger than the cache must not drive itself out of it. PAGETABLE_NO_SLOT: not this
 * time. */
uint32_t pagetable_give_slot(struct pagetable *t, struct page_record *record);

static inline unsigned page_record_type(const struct page_record *record)
{
    return record->slot_type >> 28;
}

static inline void page_record_set_type(struct page_record *record, unsigned type)
{
    record->slot_type = (record->slot_type & 0x0fffffffu) | (uint32_t)type << 28;
}

#endif
