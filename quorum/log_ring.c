/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries in memory. Bodies lie in a ring of bytes addressed by an ever-growing offset; a body is
 * never split. Views never fall along the log, so a run's end is found by bisection.
 */
#include <string.h>

#include "quorum/log_internal.h"

void log_ring_init(struct log_ring *r, uint64_t base, struct ha_digest digest, struct log_view view)
{
    r->head = 0;
    r->first = base + 1;
    r->last = base;
    r->base = base;
    r->before_digest = digest;
    r->before_view = view;
    r->is_staging = false;
}

static struct log_cell *cell_at(const struct log_ring *r, uint64_t index)
{
    return &r->cells[index % r->capacity];
}

const struct log_entry *log_ring_at(const struct log_ring *r, uint64_t index)
{
    if (index < r->first || index > r->last)
        return NULL;
    return &cell_at(r, index)->entry;
}

const struct log_entry *log_ring_staged(const struct log_ring *r, uint64_t index)
{
    if (!r->is_staging || index < r->stage_first)
        return log_ring_at(r, index);
    if (index > r->stage_last)
        return NULL;
    return &r->stage[index % r->capacity].entry;
}

bool log_ring_digest(const struct log_ring *r, uint64_t index, struct ha_digest *ret)
{
    const struct log_entry *entry = log_ring_at(r, index);

    if (entry)
        *ret = entry->digest;
    else if (index + 1 == r->first)
        *ret = r->before_digest;
    else
        return false;
    return true;
}

bool log_ring_view(const struct log_ring *r, uint64_t index, struct log_view *ret)
{
    const struct log_entry *entry = log_ring_at(r, index);

    if (entry)
        *ret = entry->view;
    else if (index + 1 == r->first)
        *ret = r->before_view;
    else
        return false;
    return true;
}

/* Lets the oldest entry go; false if it has to stay. */
static bool drop_first(struct log_ring *r)
{
    uint64_t keep_after = r->base;

    if (r->may_drop_committed && r->dropable > keep_after)
        keep_after = r->dropable;
    if (r->first > r->last || r->first > keep_after)
        return false;
    if (r->is_staging && r->first >= r->stage_first)
        return false;
    const struct log_entry *entry = &cell_at(r, r->first)->entry;
    r->before_digest = entry->digest;
    r->before_view = entry->view;
    r->first++;
    return true;
}

static uint64_t tail_of(const struct log_ring *r)
{
    if (r->first <= r->last)
        return cell_at(r, r->first)->offset;
    if (r->is_staging && r->stage_first <= r->stage_last)
        return r->stage[r->stage_first % r->capacity].offset;
    return r->head;
}

/* Finds room for a body at the head, letting old entries go. */
static bool make_room(struct log_ring *r, uint32_t size, uint64_t *ret_offset)
{
    for (;;) {
        uint64_t at = r->head;
        uint64_t to_end = r->byte_capacity - at % r->byte_capacity;
        if (size > to_end)
            at += to_end;
        if (at + size - tail_of(r) <= r->byte_capacity) {
            *ret_offset = at;
            return true;
        }
        if (!drop_first(r))
            return false;
    }
}

static bool fill(struct log_ring *r, struct log_cell *cell, const struct log_entry *entry)
{
    uint64_t offset;

    if (!make_room(r, entry->body_size, &offset))
        return false;
    uint8_t *body = r->bytes + offset % r->byte_capacity;
    if (entry->body_size > 0)
        memcpy(body, entry->body, entry->body_size);
    r->head = offset + entry->body_size;
    cell->offset = offset;
    cell->entry = *entry;
    cell->entry.body = body;
    return true;
}

bool log_ring_has_room(const struct log_ring *r, uint32_t size)
{
    uint64_t first = r->base + 1 > r->first ? r->base + 1 : r->first;
    uint64_t used = first <= r->last ? r->head - cell_at(r, first)->offset : 0;
    uint64_t to_end = r->byte_capacity - r->head % r->byte_capacity;

    if (size > to_end)
        used += to_end;
    return r->last + 1 - first + r->capacity / 4 < r->capacity &&
           used + size + HA_ENTRY_MAX <= r->byte_limit;
}

bool log_ring_append(struct log_ring *r, const struct log_entry *entry)
{
    ha_assert(!r->is_staging && entry->index == r->last + 1);
    if (entry->index - r->first >= r->capacity && !drop_first(r))
        return false;
    if (!fill(r, cell_at(r, entry->index), entry))
        return false;
    r->last = entry->index;
    return true;
}

void log_ring_stage(struct log_ring *r, uint64_t first)
{
    ha_assert(!r->is_staging && first >= r->first && first <= r->last + 1);
    r->is_staging = true;
    r->stage_first = first;
    r->stage_last = first - 1;
    r->stage_head = r->head;
}

bool log_ring_stage_append(struct log_ring *r, const struct log_entry *entry)
{
    ha_assert(r->is_staging && entry->index == r->stage_last + 1);
    while (entry->index - r->first >= r->capacity) {
        if (!drop_first(r))
            return false;
    }
    if (!fill(r, &r->stage[entry->index % r->capacity], entry))
        return false;
    r->stage_last = entry->index;
    return true;
}

void log_ring_unstage(struct log_ring *r)
{
    if (!r->is_staging)
        return;
    r->is_staging = false;
    r->head = r->stage_head;
}

void log_ring_merge(struct log_ring *r)
{
    ha_assert(r->is_staging);
    for (uint64_t i = r->stage_first; i <= r->stage_last; i++)
        r->cells[i % r->capacity] = r->stage[i % r->capacity];
    r->last = r->stage_last;
    r->is_staging = false;
}

/* First index in memory whose view is at least view (last + 1 if none). */
static uint64_t lower_bound(const struct log_ring *r, struct log_view view)
{
    uint64_t low = r->first;
    uint64_t high = r->last + 1;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (log_view_cmp(cell_at(r, middle)->entry.view, view) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void log_ring_runs(const struct log_ring *r, bool is_staged, struct log_runs *ret)
{
    uint64_t last = r->last;

    ret->count = 0;
    if (is_staged && r->is_staging && r->stage_last >= r->stage_first) {
        /* What is staged is a part of the sender's own log: its last entry says it all. */
        ret->list[ret->count++] = (struct log_run){
            .view = r->stage[r->stage_last % r->capacity].entry.view, .last = r->stage_last};
        return;
    }
    while (ret->count < LOG_RUNS_MAX && last >= r->first) {
        struct log_view view = cell_at(r, last)->entry.view;
        ret->list[ret->count++] = (struct log_run){.view = view, .last = last};
        last = lower_bound(r, view) - 1;
    }
    if (ret->count < LOG_RUNS_MAX && last + 1 == r->first && last > 0 &&
        (ret->count == 0 || log_view_cmp(r->before_view, ret->list[ret->count - 1].view) < 0))
        ret->list[ret->count++] = (struct log_run){.view = r->before_view, .last = last};
}

/* Last index in memory (or the one before) of an entry of view, 0 if there is none. */
static uint64_t run_end(const struct log_ring *r, struct log_view view)
{
    uint64_t low = r->first;
    uint64_t high = r->last + 1;

    while (low < high) { /* first index whose view is above */
        uint64_t middle = low + (high - low) / 2;
        if (log_view_cmp(cell_at(r, middle)->entry.view, view) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    struct log_view found;
    if (low == 0 || !log_ring_view(r, low - 1, &found) || log_view_cmp(found, view) != 0)
        return 0;
    return low - 1;
}

uint64_t log_ring_common(const struct log_ring *r, const struct log_runs *runs, uint64_t commit)
{
    uint64_t common = commit < r->last ? commit : r->last;

    for (uint32_t i = 0; i < runs->count; i++) {
        uint64_t end = run_end(r, runs->list[i].view);
        if (end == 0)
            continue;
        if (end > runs->list[i].last)
            end = runs->list[i].last;
        return end > common ? end : common;
    }
    return common;
}

int log_voters_find(const struct log_voters *v, uint32_t node)
{
    for (uint32_t i = 0; i < v->count; i++) {
        if (v->list[i].node == node)
            return (int)i;
    }
    return -1;
}

bool log_voters_has(const struct log_voters *v, uint32_t node, struct ha_uuid store_id)
{
    int i = log_voters_find(v, node);

    return i >= 0 && ha_uuid_equal(v->list[i].store_id, store_id);
}

void log_voters_set_digest(struct log_voters *voters)
{
    struct ha_digest digest = {0, 0};

    for (uint32_t i = 0; i < voters->count; i++) {
        uint8_t bytes[20];
        struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
        ha_put_u32(&w, voters->list[i].node);
        ha_put_uuid(&w, voters->list[i].store_id);
        digest = ha_digest_bytes(digest, bytes, sizeof(bytes));
    }
    voters->digest = digest;
}

void log_voters_add(struct log_voters *v, uint32_t node, struct ha_uuid store_id)
{
    if (v->count >= HA_NODES_MAX)
        return;
    uint32_t i = v->count++;
    for (; i > 0 && v->list[i - 1].node > node; i--)
        v->list[i] = v->list[i - 1];
    v->list[i].node = node;
    v->list[i].store_id = store_id;
}

bool log_voters_accept(const struct log_voters *v, const struct log_voter_change *change)
{
    int i = log_voters_find(v, change->node);

    if (change->is_added)
        return i < 0 && v->count < HA_NODES_MAX && !ha_uuid_is_zero(change->store_id);
    return i >= 0 && v->count > 1;
}

static void change_voters(struct log_voters *v, const struct log_voter_change *change)
{
    int found = log_voters_find(v, change->node);

    if (!change->is_added && found >= 0) {
        v->count--;
        memmove(&v->list[found], &v->list[found + 1],
                (v->count - (uint32_t)found) * sizeof(v->list[0]));
    } else if (change->is_added && found < 0) {
        log_voters_add(v, change->node, change->store_id);
    }
    log_voters_set_digest(v);
}

void log_voters_before(const struct log *log, struct log_voters *ret)
{
    struct log_survey survey = log->base_survey;

    /* From the start: a removal does not say which store the vote was of. */
    for (uint64_t i = log->ring.base + 1; i < log->survey.voter_index; i++) {
        const struct log_entry *entry = log_ring_at(&log->ring, i);
        if (entry && entry->kind == LOG_KIND_VOTER)
            log_survey_entry(&survey, entry);
    }
    *ret = survey.voters;
}

void log_survey_entry(struct log_survey *s, const struct log_entry *entry)
{
    struct log_voter_change change;
    struct log_open open;

    if (entry->kind == LOG_KIND_VOTER &&
        log_voter_change_decode(entry->body, entry->body_size, &change) == 0) {
        change_voters(&s->voters, &change);
        s->voter_index = entry->index;
    } else if (entry->kind == LOG_KIND_OPEN &&
               log_open_decode(entry->body, entry->body_size, &open) == 0) {
        s->open_index = entry->index;
        s->open_view = open.view;
        s->open_names.count = open.member_count;
        for (uint32_t i = 0; i < open.member_count; i++)
            s->open_names.list[i] =
                (struct log_name){.node = open.members[i].node, .nonce = open.members[i].nonce};
        if (log_open_proto(&open) > s->proto)
            s->proto = log_open_proto(&open);
    }
}

void log_survey_all(const struct log *log, bool is_staged, struct log_survey *ret)
{
    const struct log_ring *r = &log->ring;
    uint64_t last = is_staged && r->is_staging ? r->stage_last : r->last;
    bool is_longer = is_staged && r->is_staging && r->stage_first > r->last;
    uint64_t first = is_longer ? r->stage_first : r->base + 1;

    *ret = is_longer ? log->survey : log->base_survey;
    for (uint64_t i = first; i <= last; i++) {
        const struct log_entry *entry = is_staged ? log_ring_staged(r, i) : log_ring_at(r, i);
        if (entry)
            log_survey_entry(ret, entry);
    }
}
