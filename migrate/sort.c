/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/sort.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "hamgr/base/assert.h"

#define HAND_ON_MIN 32768u
#define AHEAD       4u /* records looked up so many pages before they are needed */

/* Of the memory limit, hashes get 3/8, but no more than remembers 5.6 GiB of pages: of a larger
 * guest the pages that are sent again and again, for a newer record takes an older one's place. A
 * cached page saves more bytes than 170 hashes. */
#define RECORD_ENOUGH ((size_t)32 << 20)
#define SLOT_COST     (FRAME_PAGE_SIZE + 13u) /* and its owner, its mark, its last unit */

static size_t record_share(size_t cache_bytes)
{
    size_t share = cache_bytes / 8 * 3;

    return share < RECORD_ENOUGH ? share : RECORD_ENOUGH;
}

int sorter_init(struct sorter *s, size_t cache_bytes, struct ha_err *err)
{
    size_t record_bytes = record_share(cache_bytes);
    size_t slots = (cache_bytes - record_bytes) / SLOT_COST;

    memset(s, 0, sizeof(*s));
    slots = slots < FRAME_CACHE_MAX ? slots : FRAME_CACHE_MAX;
    s->form = simd_best();
    s->entries = malloc(8u * FRAME_ENTRIES_MAX);
    s->slot_unit = calloc(slots + 1, sizeof(*s->slot_unit));
    int rc = s->entries && s->slot_unit ? 0 : ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    if (rc == 0)
        rc = pagetable_init(&s->table, record_bytes, (uint32_t)slots, err);
    if (rc == 0)
        rc = arena_init(&s->arena, s->table.slot_count, err);
    if (rc == 0 && getrandom(s->secret, sizeof(s->secret), 0) != (ssize_t)sizeof(s->secret))
        rc = ha_err_set(err, HA_E_NO_MEMORY, "no random bytes");
    if (rc < 0)
        sorter_fini(s);
    return rc;
}

void sorter_fini(struct sorter *s)
{
    pagetable_fini(&s->table);
    arena_fini(&s->arena);
    free(s->slot_unit);
    free(s->entries);
    memset(s, 0, sizeof(*s));
}

static uint64_t entry_at(const struct sorter *s, uint32_t index)
{
    uint64_t entry;

    memcpy(&entry, s->entries + 8 * (size_t)index, sizeof(entry));
    return le64toh(entry);
}

static unsigned type_of(uint64_t entry)
{
    return (unsigned)(entry >> 60);
}

static bool has_page(uint64_t entry)
{
    return type_of(entry) < 13;
}

static int open_unit(struct sorter *s, uint16_t type, struct unit **ret_unit, struct ha_err *err)
{
    struct unit *unit = pipeline_open(s->pipeline);

    if (!unit) {
        int rc = s->make_room(s->user, err);
        if (rc < 0)
            return rc;
        unit = pipeline_open(s->pipeline);
        ha_assert(unit);
    }
    unit->type = type;
    unit->level = s->level;
    *ret_unit = unit;
    return 0;
}

/* ---- groups of pages ---- */

static void close_group(struct sorter *s)
{
    struct unit *group = s->group;

    s->group = NULL;
    if (!group)
        return;
    if (group->pages.count == 0) { /* every page was as before */
        group->type = 0;
        pipeline_done(s->pipeline, group);
        return;
    }
    /* Handing it to another thread pays where it has something to think about. Making deltas takes
     * less than waking somebody for it; whatever else there is stays to be compressed. */
    if (s->has_delta)
        pack_settle(s->packer, group);
    pipeline_queue(s->pipeline, group,
                   group->level != 0 && group->place_count > 0 &&
                       (!s->has_delta || group->in_size >= HAND_ON_MIN));
}

static int open_group(struct sorter *s, struct ha_err *err)
{
    if (s->group)
        return 0;
    int rc = open_unit(s, FRAME_PAGES, &s->group, err);
    if (rc < 0)
        return rc;
    s->group->pages.first = s->kept_pages;
    s->has_delta = false;
    if (s->level == 0 && s->probe_each > 0 && ++s->stored >= s->probe_each) {
        s->stored = 0;
        s->group->level = 1;
    }
    return 0;
}

/* The entry stays; its page becomes the group's next. */
static void keep_page(struct sorter *s, uint64_t entry, uint8_t kind, struct ha_digest hash)
{
    struct unit *group = s->group;
    uint32_t index = group->pages.count++;
    uint64_t wire = htole64(entry);

    group->pages.kind[index] = kind;
    group->hashes[index] = hash;
    if (!s->is_settled)
        memcpy(s->batch->in + 8 * (size_t)s->kept, &wire, sizeof(wire));
    s->kept++;
    s->kept_pages++;
    if (group->pages.count == FRAME_PAGES_MAX || group->place_count == FRAME_GROUP_PAGES)
        close_group(s);
}

/* Nobody works on the slot any more: the group may. */
static int claim_slot(struct sorter *s, uint32_t slot, struct ha_err *err)
{
    uint64_t last = s->slot_unit[slot];

    arena_prepare(&s->arena, slot);
    if (last != s->group->number && pipeline_is_busy(s->pipeline, last)) {
        int rc = pipeline_wait(s->pipeline, last, -1, s->session, err);
        if (rc < 0)
            return rc;
    }
    s->slot_unit[slot] = s->group->number;
    return 0;
}

/* Which slot the page may use, and for what. A page that is sent for the first time is lent a free
 * one while groups are compressed: then bytes are dearer than the copy (STREAM.md, section 4, has
 * the figures). Where the link takes pages as they are, or the kernel takes long for a slot, it
 * would not pay. */
static uint32_t choose_slot(struct sorter *s, struct page_record *record, bool is_again,
                            uint8_t *ret_kind)
{
    uint32_t slot = is_again ? pagetable_slot(&s->table, record) : PAGETABLE_NO_SLOT;

    *ret_kind = FRAME_DELTA;
    if (slot == PAGETABLE_NO_SLOT) {
        if (is_again)
            slot = pagetable_give_slot(&s->table, record);
        else if (record && s->level != 0 && !s->arena.is_dear)
            slot = pagetable_lend_slot(&s->table, record);
        *ret_kind = slot == PAGETABLE_NO_SLOT ? FRAME_DATA : FRAME_KEEP;
    }
    /* Twice in one group: no order among its pages is promised. */
    if (slot != PAGETABLE_NO_SLOT && s->slot_unit[slot] == s->group->number &&
        s->group->number > 0) {
        *ret_kind = FRAME_DATA;
        slot = PAGETABLE_NO_SLOT;
    }
    return slot == PAGETABLE_NO_SLOT ? UNIT_NO_SLOT : slot;
}

static bool is_same(const struct sorter *s, const struct page_record *record, unsigned type,
                    struct ha_digest hash)
{
    return !s->is_settled && record && page_record_type(record) == type &&
           ha_digest_equal(record->hash, hash);
}

static struct page_record *note_version(struct sorter *s, struct page_record *record,
                                        uint64_t entry, struct ha_digest hash)
{
    if (!record)
        record = pagetable_add(&s->table, (uint32_t)entry);
    if (record) {
        record->hash = hash;
        page_record_set_type(record, type_of(entry));
    }
    return record;
}

static int take_zero(struct sorter *s, uint64_t entry, struct ha_err *err)
{
    const struct ha_digest none = {0, 0};
    struct page_record *record = pagetable_find(&s->table, (uint32_t)entry);

    if (is_same(s, record, type_of(entry), none)) {
        s->same_pages++;
        return 0;
    }
    int rc = open_group(s, err);
    if (rc < 0)
        return rc;
    (void)note_version(s, record, entry, none);
    keep_page(s, entry, FRAME_ZERO, none);
    return 0;
}

/* Is the page what was last sent? If so, no copy is needed: what was read of it had that hash,
 * whatever the guest writes there now. Else the copy is what counts: *ret_hash is of that one. */
static bool copy_changed(struct sorter *s, const struct page_record *record, unsigned type,
                         const uint8_t *page, bool is_shared, uint8_t *place,
                         struct ha_digest *ret_hash)
{
    bool is_first_look = !is_shared || (record && s->is_repeating);
    bool is_unchanged = false;

    if (is_first_look) {
        *ret_hash = simd_page_hash(s->form, page, s->secret);
        is_unchanged = is_same(s, record, type, *ret_hash);
    }
    if (!is_unchanged) {
        memcpy(place, page, FRAME_PAGE_SIZE);
        if (is_shared) {
            *ret_hash = simd_page_hash(s->form, place, s->secret);
            is_unchanged = is_same(s, record, type, *ret_hash);
        }
    }
    s->is_repeating = record ? is_unchanged : s->is_repeating;
    return !is_unchanged;
}

static int take_page(struct sorter *s, uint64_t entry, const uint8_t *page, bool is_shared,
                     struct ha_err *err)
{
    int rc = open_group(s, err);

    if (rc < 0)
        return rc;
    struct unit *group = s->group;
    uint8_t *place = group->in + (size_t)group->place_count * FRAME_PAGE_SIZE;
    struct page_record *record = pagetable_find(&s->table, (uint32_t)entry);
    struct ha_digest hash;
    if (!copy_changed(s, record, type_of(entry), page, is_shared, place, &hash)) {
        s->same_pages++;
        return 0;
    }
    bool is_again = record != NULL;
    uint8_t kind = FRAME_DATA;
    record = note_version(s, record, entry, hash);
    uint32_t slot = choose_slot(s, record, is_again, &kind);
    if (slot != UNIT_NO_SLOT)
        rc = claim_slot(s, slot, err);
    if (rc < 0)
        return rc;
    s->has_delta = s->has_delta || kind == FRAME_DELTA;
    group->place_slot[group->place_count] = slot;
    group->place_index[group->place_count++] = group->pages.count;
    keep_page(s, entry, kind, hash);
    return 0;
}

/* ---- batches ---- */

/* XALLOC makes a restore populate the page; the other two mean nothing to HVM and PVH. */
static bool is_kept_hole(const struct sorter *s, uint64_t entry)
{
    return s->is_complete || !s->is_hvm || type_of(entry) == 14;
}

static void take_hole(struct sorter *s, uint64_t entry)
{
    uint64_t wire = htole64(entry);

    /* What the page holds when it comes back is not what was last sent. */
    pagetable_forget(&s->table, (uint32_t)entry);
    if (s->is_settled || !is_kept_hole(s, entry))
        return;
    memcpy(s->batch->in + 8 * (size_t)s->kept, &wire, sizeof(wire));
    s->kept++;
}

/* Entries up to the next one with a page. */
static void skip_holes(struct sorter *s)
{
    while (s->entry < s->entry_count && !has_page(entry_at(s, s->entry)))
        take_hole(s, entry_at(s, s->entry++));
}

static void hand_on_batch(struct sorter *s, uint32_t count, uint32_t data_count)
{
    struct unit *batch = s->batch;

    s->batch = NULL;
    batch->count = count;
    batch->data_count = data_count;
    batch->in_size = 8 * (size_t)count;
    if (count > 0) {
        pipeline_queue(s->pipeline, batch, false);
    } else {
        batch->type = 0;
        pipeline_done(s->pipeline, batch);
    }
}

static void close_batch(struct sorter *s)
{
    close_group(s);
    if (s->batch)
        hand_on_batch(s, s->kept, s->kept_pages);
}

/* No page of it was ever sent, as in the first round: none can be left out. */
static bool is_all_new(const struct sorter *s)
{
    for (uint32_t i = 0; i < s->entry_count; i++) {
        uint64_t entry = entry_at(s, i);
        if (i + AHEAD < s->entry_count)
            pagetable_prefetch(&s->table, (uint32_t)entry_at(s, i + AHEAD));
        if (has_page(entry) && pagetable_find(&s->table, (uint32_t)entry))
            return false;
    }
    return true;
}

/* What the batch will hold is known before its pages are looked at. */
static void settle_batch(struct sorter *s, uint32_t data_count)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < s->entry_count; i++) {
        uint64_t entry = entry_at(s, i);
        if (!has_page(entry) && !is_kept_hole(s, entry))
            continue;
        memcpy(s->batch->in + 8 * (size_t)count++, s->entries + 8 * (size_t)i, 8);
    }
    s->is_settled = true;
    hand_on_batch(s, count, data_count);
}

static int take_batch(struct sorter *s, const struct page_item *item, struct ha_err *err)
{
    int rc = open_unit(s, FRAME_BATCH, &s->batch, err);

    if (rc < 0)
        return rc;
    ha_assert(item->count <= FRAME_ENTRIES_MAX);
    memcpy(s->entries, item->entries, 8 * (size_t)item->count);
    s->entry_count = item->count;
    s->entry = s->kept = s->kept_pages = 0;
    s->pages_left = item->data_count;
    s->is_hvm = item->is_hvm;
    s->is_complete = s->is_identical || item->is_verifying || item->count > SORT_BATCH_MAX;
    s->is_settled = false;
    if (s->is_complete || is_all_new(s))
        settle_batch(s, item->data_count);
    skip_holes(s);
    if (s->pages_left == 0)
        close_batch(s);
    return 0;
}

static int take_pages(struct sorter *s, const struct page_item *item, struct ha_err *err)
{
    ha_assert(item->count <= s->pages_left);
    for (uint32_t i = 0; i < item->count; i++) {
        const uint8_t *page = item->data + (size_t)i * FRAME_PAGE_SIZE;
        uint64_t entry = entry_at(s, s->entry++);
        if (s->entry + AHEAD < s->entry_count)
            pagetable_prefetch(&s->table, (uint32_t)entry_at(s, s->entry + AHEAD));
        int rc = simd_is_zero(s->form, page) ? take_zero(s, entry, err)
                                             : take_page(s, entry, page, item->is_shared, err);
        if (rc < 0)
            return rc;
        s->pages_left--;
        skip_holes(s);
    }
    if (s->pages_left == 0)
        close_batch(s);
    return 0;
}

static int take_raw(struct sorter *s, const struct page_item *item, struct ha_err *err)
{
    struct unit *unit;
    int rc = open_unit(s, FRAME_RAW, &unit, err);

    if (rc < 0)
        return rc;
    memcpy(unit->in, item->data, item->size);
    unit->in_size = item->size;
    pipeline_queue(s->pipeline, unit, unit->level != 0);
    return 0;
}

int sorter_take(struct sorter *s, const struct page_item *item, struct ha_err *err)
{
    switch ((enum page_item_kind)item->kind) {
    case PAGE_ITEM_RAW:
        return take_raw(s, item, err);
    case PAGE_ITEM_BATCH:
        return take_batch(s, item, err);
    case PAGE_ITEM_PAGES:
        return take_pages(s, item, err);
    case PAGE_ITEM_END:
        break;
    }
    return 0;
}

bool sorter_is_waiting(const struct sorter *s)
{
    uint64_t oldest = pipeline_oldest(s->pipeline);

    return (s->batch && s->batch->number == oldest) || (s->group && s->group->number == oldest);
}
