/* SPDX-License-Identifier: Apache-2.0 */
#include "quorum/entry.h"

#include "hamgr/base/err.h"

static void put_view(struct ha_writer *w, struct log_view view)
{
    ha_put_u64(w, view.counter);
    ha_put_u32(w, view.leader);
}

static struct log_view get_view(struct ha_reader *r)
{
    struct log_view view;

    view.counter = ha_get_u64(r);
    view.leader = ha_get_u32(r);
    return view;
}

static bool get_bool(struct ha_reader *r)
{
    uint8_t value = ha_get_u8(r);

    if (value > 1)
        r->failed = true;
    return value == 1;
}

void log_member_encode(struct ha_writer *w, const struct log_member *member)
{
    ha_put_u32(w, member->node);
    ha_put_u64(w, member->nonce);
    ha_put_uuid(w, member->store_id);
    ha_put_uuid(w, member->boot_id);
    ha_put_uuid(w, member->hw_id);
    ha_put_u16(w, member->proto_min);
    ha_put_u16(w, member->proto_max);
}

void log_member_decode(struct ha_reader *r, struct log_member *ret_member)
{
    ret_member->node = ha_get_u32(r);
    ret_member->nonce = ha_get_u64(r);
    ret_member->store_id = ha_get_uuid(r);
    ret_member->boot_id = ha_get_uuid(r);
    ret_member->hw_id = ha_get_uuid(r);
    ret_member->proto_min = ha_get_u16(r);
    ret_member->proto_max = ha_get_u16(r);
    if (ret_member->node == 0 || ret_member->proto_min > ret_member->proto_max)
        r->failed = true;
}

void log_open_encode(struct ha_writer *w, const struct log_open *open)
{
    put_view(w, open->view);
    ha_put_u8(w, open->is_continuous);
    ha_put_u8(w, (uint8_t)open->member_count);
    if (open->member_count > HA_NODES_MAX) {
        w->failed = true;
        return;
    }
    for (uint32_t i = 0; i < open->member_count; i++)
        log_member_encode(w, &open->members[i]);
}

int log_open_decode(const uint8_t *body, size_t size, struct log_open *ret_open)
{
    struct ha_reader r = ha_reader_of(body, size);

    *ret_open = (struct log_open){.view = get_view(&r)};
    ret_open->is_continuous = get_bool(&r);
    uint8_t count = ha_get_u8(&r);
    if (r.failed || count == 0 || count > HA_NODES_MAX)
        return -HA_E_CORRUPT;
    for (uint8_t i = 0; i < count; i++) {
        log_member_decode(&r, &ret_open->members[i]);
        if (i > 0 && ret_open->members[i].node <= ret_open->members[i - 1].node)
            return -HA_E_CORRUPT;
    }
    ret_open->member_count = count;
    return ha_reader_is_done(&r) ? 0 : -HA_E_CORRUPT;
}

void log_voter_change_encode(struct ha_writer *w, const struct log_voter_change *change)
{
    ha_put_u8(w, change->is_added);
    ha_put_u32(w, change->node);
    ha_put_uuid(w, change->store_id);
}

int log_voter_change_decode(const uint8_t *body, size_t size, struct log_voter_change *ret_change)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret_change->is_added = get_bool(&r);
    ret_change->node = ha_get_u32(&r);
    ret_change->store_id = ha_get_uuid(&r);
    if (!ha_reader_is_done(&r) || ret_change->node == 0)
        return -HA_E_CORRUPT;
    return 0;
}

/* Everything but digest and body. */
static void put_head(struct ha_writer *w, const struct log_entry *entry)
{
    ha_put_u64(w, entry->index);
    put_view(w, entry->view);
    ha_put_u8(w, entry->kind);
    ha_put_u32(w, entry->origin);
    ha_put_u64(w, entry->nonce);
    ha_put_u64(w, entry->seq);
    ha_put_u64(w, entry->mono_ms);
    ha_put_u64(w, entry->wall_ms);
    ha_put_u32(w, entry->body_size);
}

struct ha_digest log_entry_digest(struct ha_digest previous, const struct log_entry *entry)
{
    uint8_t head[LOG_ENTRY_HEAD];
    struct ha_writer w = ha_writer_of(head, sizeof(head));

    put_head(&w, entry);
    previous = ha_digest_bytes(previous, head, w.position);
    return ha_digest_bytes(previous, entry->body, entry->body_size);
}

void log_entry_encode(struct ha_writer *w, const struct log_entry *entry)
{
    put_head(w, entry);
    ha_put_digest(w, entry->digest);
    ha_put_raw(w, entry->body, entry->body_size);
}

/* The kinds the log itself reads must be readable before an entry is taken in. */
static bool is_body_readable(const struct log_entry *entry)
{
    struct log_open open;
    struct log_voter_change change;

    if (entry->kind == LOG_KIND_OPEN)
        return log_open_decode(entry->body, entry->body_size, &open) == 0;
    if (entry->kind == LOG_KIND_VOTER)
        return log_voter_change_decode(entry->body, entry->body_size, &change) == 0;
    return entry->kind == LOG_KIND_INIT || entry->kind == LOG_KIND_STATE;
}

int log_entry_decode(struct ha_reader *r, struct log_entry *ret_entry)
{
    struct log_entry e = {.index = ha_get_u64(r)};

    e.view = get_view(r);
    e.kind = ha_get_u8(r);
    e.origin = ha_get_u32(r);
    e.nonce = ha_get_u64(r);
    e.seq = ha_get_u64(r);
    e.mono_ms = ha_get_u64(r);
    e.wall_ms = ha_get_u64(r);
    e.body_size = ha_get_u32(r);
    e.digest = ha_get_digest(r);
    if (r->failed || e.index == 0 || e.body_size > HA_ENTRY_MAX) {
        r->failed = true;
        return -HA_E_CORRUPT;
    }
    e.body = ha_get_raw(r, e.body_size);
    if (r->failed || !is_body_readable(&e)) {
        r->failed = true;
        return -HA_E_CORRUPT;
    }
    *ret_entry = e;
    return 0;
}

uint16_t log_open_proto(const struct log_open *open)
{
    uint16_t proto = UINT16_MAX;

    for (uint32_t i = 0; i < open->member_count; i++) {
        if (open->members[i].proto_max < proto)
            proto = open->members[i].proto_max;
    }
    return open->member_count > 0 ? proto : 0;
}
