/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/pagetable.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WAYS       4u /* four neighbouring pages share a set: dense memory touches dense memory */
#define EMPTY      0u /* slot_type of a record not in use has the bit below clear */
#define IN_USE     0x08000000u
#define SLOT_BITS  0x07ffffffu
#define LOOK_MAX   64u /* slots looked at for a victim */
#define ADMIT_EACH 8u  /* of so many pages that find the cache full, one gets in */

/* What slot_used says of a slot. */
enum {
    SLOT_RESTING = 0, /* it gave no delta since the hand last passed */
    SLOT_ACTIVE,      /* it did */
    SLOT_SPARE,       /* its page was sent once only, or is gone: anybody's who needs one */
};

_Static_assert(sizeof(struct page_record) == 24, "counts in the memory limit");

int pagetable_init(struct pagetable *t, size_t record_bytes, uint32_t slot_count,
                   struct ha_err *err)
{
    memset(t, 0, sizeof(*t));
    t->set_count = record_bytes / (WAYS * sizeof(struct page_record));
    t->slot_count = t->set_count > 0 ? slot_count : 0;
    if (t->set_count == 0)
        return 0;
    /* Mapped, not allocated: what no page needs is never touched. */
    t->records = mmap(NULL, t->set_count * WAYS * sizeof(struct page_record),
                      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    t->slot_pfn = calloc(slot_count + 1u, sizeof(*t->slot_pfn));
    t->slot_used = calloc(slot_count + 1u, sizeof(*t->slot_used));
    if (t->records == MAP_FAILED)
        t->records = NULL;
    if (t->records && t->slot_pfn && t->slot_used)
        return 0;
    pagetable_fini(t);
    return ha_err_set(err, HA_E_NO_MEMORY, "no memory for the page table");
}

void pagetable_fini(struct pagetable *t)
{
    if (t->records)
        (void)munmap(t->records, t->set_count * WAYS * sizeof(struct page_record));
    free(t->slot_pfn);
    free(t->slot_used);
    memset(t, 0, sizeof(*t));
}

static struct page_record *set_of(const struct pagetable *t, uint32_t pfn)
{
    return t->records + (pfn / WAYS) % t->set_count * WAYS;
}

static bool is_of(const struct page_record *record, uint32_t pfn)
{
    return record->pfn == pfn && (record->slot_type & IN_USE) != 0;
}

struct page_record *pagetable_find(const struct pagetable *t, uint32_t pfn)
{
    if (t->set_count == 0)
        return NULL;
    struct page_record *set = set_of(t, pfn);
    for (uint32_t i = 0; i < WAYS; i++) {
        struct page_record *record = &set[(pfn + i) % WAYS];
        if (is_of(record, pfn))
            return record;
    }
    return NULL;
}

static uint32_t slot_of(const struct page_record *record)
{
    uint32_t number = record->slot_type & SLOT_BITS;

    return number > 0 ? number - 1 : PAGETABLE_NO_SLOT;
}

static void mark(struct pagetable *t, uint32_t slot, uint8_t use)
{
    t->spare_count -= t->slot_used[slot] == SLOT_SPARE ? 1u : 0u;
    t->spare_count += use == SLOT_SPARE ? 1u : 0u;
    t->slot_used[slot] = use;
}

/* Its slot, if any, is nobody's from now on: the next victim. */
static void drop(struct pagetable *t, struct page_record *record)
{
    uint32_t slot = slot_of(record);

    if (slot != PAGETABLE_NO_SLOT) {
        mark(t, slot, SLOT_SPARE);
        t->slot_pfn[slot] = UINT32_MAX;
    }
    memset(record, 0, sizeof(*record));
}

struct page_record *pagetable_add(struct pagetable *t, uint32_t pfn)
{
    if (t->set_count == 0)
        return NULL;
    struct page_record *set = set_of(t, pfn);
    struct page_record *chosen = &set[pfn % WAYS];
    for (uint32_t i = 0; i < WAYS; i++)
        if ((set[(pfn + i) % WAYS].slot_type & IN_USE) == EMPTY) {
            chosen = &set[(pfn + i) % WAYS];
            break;
        }
    drop(t, chosen);
    chosen->pfn = pfn;
    chosen->slot_type = IN_USE;
    return chosen;
}

void pagetable_forget(struct pagetable *t, uint32_t pfn)
{
    struct page_record *record = pagetable_find(t, pfn);

    if (record)
        drop(t, record);
}

void pagetable_prefetch(const struct pagetable *t, uint32_t pfn)
{
    if (t->set_count > 0)
        __builtin_prefetch(set_of(t, pfn) + pfn % WAYS);
}

uint32_t pagetable_slot(struct pagetable *t, const struct page_record *record)
{
    uint32_t slot = slot_of(record);

    if (slot != PAGETABLE_NO_SLOT)
        mark(t, slot, SLOT_ACTIVE);
    return slot;
}

static uint32_t take_over(struct pagetable *t, uint32_t slot, struct page_record *record,
                          uint8_t use)
{
    t->slot_pfn[slot] = record->pfn;
    mark(t, slot, use);
    record->slot_type = (record->slot_type & ~SLOT_BITS) | (slot + 1u);
    return slot;
}

uint32_t pagetable_lend_slot(struct pagetable *t, struct page_record *record)
{
    if (t->slot_next == t->slot_count)
        return PAGETABLE_NO_SLOT;
    return take_over(t, t->slot_next++, record, SLOT_SPARE);
}

/* Looks at the next few slots for one to take: a spare one, or on a turn one that rests. */
static uint32_t find_victim(struct pagetable *t, bool is_turn)
{
    for (uint32_t i = 0; i < LOOK_MAX; i++) {
        uint32_t slot = t->hand;
        t->hand = (t->hand + 1) % t->slot_count;
        if (t->slot_used[slot] == SLOT_SPARE || (is_turn && t->slot_used[slot] == SLOT_RESTING))
            return slot;
        if (is_turn)
            t->slot_used[slot] = SLOT_RESTING;
    }
    return PAGETABLE_NO_SLOT;
}

uint32_t pagetable_give_slot(struct pagetable *t, struct page_record *record)
{
    if (t->slot_next < t->slot_count)
        return take_over(t, t->slot_next++, record, SLOT_RESTING);
    bool is_turn = t->slot_count > 0 && t->turns++ % ADMIT_EACH == 0;
    if (!is_turn && t->spare_count == 0)
        return PAGETABLE_NO_SLOT;
    uint32_t slot = find_victim(t, is_turn);
    if (slot == PAGETABLE_NO_SLOT)
        return slot;
    struct page_record *owner = pagetable_find(t, t->slot_pfn[slot]);
    if (owner && slot_of(owner) == slot)
        owner->slot_type &= ~SLOT_BITS;
    return take_over(t, slot, record, SLOT_RESTING);
}
