/* SPDX-License-Identifier: Apache-2.0 */
#include "quorum/msg.h"

#include "hamgr/base/assert.h"
#include "hamgr/base/err.h"

#define HEADER_SIZE (4u + 2u + 1u + 16u + 8u + 12u + 8u)
/* Where the element count of ENTRIES and PROPOSE lies behind the header. */
#define ENTRIES_FIXED (1u + 4u + 8u + 16u + 8u + 8u + 16u)
#define PROPOSE_FIXED 8u

int log_names_find(const struct log_names *names, uint32_t node)
{
    for (uint32_t i = 0; i < names->count; i++) {
        if (names->list[i].node == node)
            return (int)i;
    }
    return -1;
}

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
    if (view.counter > LOG_COUNTER_MAX)
        r->failed = true;
    return view;
}

static bool get_bool(struct ha_reader *r)
{
    uint8_t value = ha_get_u8(r);

    if (value > 1)
        r->failed = true;
    return value == 1;
}

/* A list's length; fails the reader above max. */
static uint32_t get_count(struct ha_reader *r, uint32_t max)
{
    uint32_t count = ha_get_u8(r);

    if (count > max) {
        r->failed = true;
        return 0;
    }
    return count;
}

static void put_count(struct ha_writer *w, uint32_t count, uint32_t max)
{
    ha_assert(count <= max);
    ha_put_u8(w, (uint8_t)count);
}

static void put_heartbeat(struct ha_writer *w, const struct log_heartbeat *m)
{
    ha_put_u64(w, m->n);
    log_member_encode(w, &m->member);
    ha_put_u16(w, m->flags);
    ha_put_u8(w, m->phase);
    put_view(w, m->log_view);
    ha_put_u64(w, m->first);
    ha_put_u64(w, m->last);
    ha_put_u64(w, m->end);
    ha_put_u64(w, m->commit);
    ha_put_digest(w, m->commit_digest);
    ha_put_u64(w, m->acked);
    put_view(w, m->open);
    put_view(w, m->opened);
    ha_put_digest(w, m->voters);
    put_count(w, m->ack_count, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->ack_count; i++) {
        ha_put_u32(w, m->acks[i].node);
        ha_put_u64(w, m->acks[i].nonce);
        ha_put_u64(w, m->acks[i].n);
        ha_put_u8(w, m->acks[i].is_opened);
    }
}

static void get_heartbeat(struct ha_reader *r, struct log_heartbeat *m)
{
    m->n = ha_get_u64(r);
    log_member_decode(r, &m->member);
    m->flags = ha_get_u16(r);
    m->phase = ha_get_u8(r);
    m->log_view = get_view(r);
    m->first = ha_get_u64(r);
    m->last = ha_get_u64(r);
    m->end = ha_get_u64(r);
    m->commit = ha_get_u64(r);
    m->commit_digest = ha_get_digest(r);
    m->acked = ha_get_u64(r);
    m->open = get_view(r);
    m->opened = get_view(r);
    m->voters = ha_get_digest(r);
    m->ack_count = get_count(r, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->ack_count; i++) {
        m->acks[i].node = ha_get_u32(r);
        m->acks[i].nonce = ha_get_u64(r);
        m->acks[i].n = ha_get_u64(r);
        m->acks[i].is_opened = get_bool(r);
    }
    if (m->n == 0 || (m->flags & ~LOG_FLAGS_ALL) != 0 || m->phase > LOG_PHASE_OPEN)
        r->failed = true;
}

static void put_names(struct ha_writer *w, const struct log_names *m)
{
    put_count(w, m->count, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->count; i++) {
        ha_put_u32(w, m->list[i].node);
        ha_put_u64(w, m->list[i].nonce);
    }
}

static void get_names(struct ha_reader *r, struct log_names *m)
{
    m->count = get_count(r, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->count; i++) {
        m->list[i].node = ha_get_u32(r);
        m->list[i].nonce = ha_get_u64(r);
        if (m->list[i].node == 0 || (i > 0 && m->list[i].node <= m->list[i - 1].node))
            r->failed = true;
    }
    if (m->count == 0)
        r->failed = true;
}

static void put_runs(struct ha_writer *w, const struct log_runs *runs)
{
    put_count(w, runs->count, LOG_RUNS_MAX);
    for (uint32_t i = 0; i < runs->count; i++) {
        put_view(w, runs->list[i].view);
        ha_put_u64(w, runs->list[i].last);
    }
}

static void get_runs(struct ha_reader *r, struct log_runs *runs)
{
    runs->count = get_count(r, LOG_RUNS_MAX);
    for (uint32_t i = 0; i < runs->count; i++) {
        struct log_run *run = &runs->list[i];
        run->view = get_view(r);
        run->last = ha_get_u64(r);
        if (i > 0 && (log_view_cmp(run->view, run[-1].view) >= 0 || run->last >= run[-1].last))
            r->failed = true;
    }
}

static void put_promise(struct ha_writer *w, const struct log_promise *m)
{
    ha_put_u8(w, m->is_durable);
    ha_put_u8(w, m->is_lease_valid);
    log_member_encode(w, &m->member);
    put_view(w, m->log_view);
    ha_put_u64(w, m->last);
    ha_put_digest(w, m->digest);
    ha_put_u64(w, m->commit);
    put_runs(w, &m->runs);
    ha_put_u64(w, m->rest_age_ms);
    put_count(w, m->age_count, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->age_count; i++) {
        ha_put_u32(w, m->ages[i].node);
        ha_put_u64(w, m->ages[i].age_ms);
    }
    put_count(w, m->memory_count, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->memory_count; i++) {
        ha_put_u32(w, m->memory[i].node);
        ha_put_uuid(w, m->memory[i].store_id);
        put_view(w, m->memory[i].view);
        ha_put_u64(w, m->memory[i].index);
    }
}

static void get_promise(struct ha_reader *r, struct log_promise *m)
{
    m->is_durable = get_bool(r);
    m->is_lease_valid = get_bool(r);
    log_member_decode(r, &m->member);
    m->log_view = get_view(r);
    m->last = ha_get_u64(r);
    m->digest = ha_get_digest(r);
    m->commit = ha_get_u64(r);
    get_runs(r, &m->runs);
    m->rest_age_ms = ha_get_u64(r);
    m->age_count = get_count(r, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->age_count; i++) {
        m->ages[i].node = ha_get_u32(r);
        m->ages[i].age_ms = ha_get_u64(r);
    }
    m->memory_count = get_count(r, HA_NODES_MAX);
    for (uint32_t i = 0; i < m->memory_count; i++) {
        m->memory[i].node = ha_get_u32(r);
        m->memory[i].store_id = ha_get_uuid(r);
        m->memory[i].view = get_view(r);
        m->memory[i].index = ha_get_u64(r);
    }
}

static void put_entries(struct ha_writer *w, const struct log_entries *m)
{
    ha_put_u8(w, m->mode);
    ha_put_u32(w, m->to);
    ha_put_u64(w, m->prev_index);
    ha_put_digest(w, m->prev_digest);
    ha_put_u64(w, m->commit);
    ha_put_u64(w, m->final_index);
    ha_put_digest(w, m->final_digest);
    ha_put_u16(w, m->list ? m->count : 0);
    if (m->list)
        ha_put_raw(w, m->list, m->list_size);
}

/* Walks the entries once: in sequence, all readable, nothing behind them. */
static void get_entries(struct ha_reader *r, struct log_entries *m)
{
    m->mode = ha_get_u8(r);
    m->to = ha_get_u32(r);
    m->prev_index = ha_get_u64(r);
    m->prev_digest = ha_get_digest(r);
    m->commit = ha_get_u64(r);
    m->final_index = ha_get_u64(r);
    m->final_digest = ha_get_digest(r);
    m->count = ha_get_u16(r);
    if (m->mode == 0 || m->mode >= LOG_ENTRIES_MODE_END || m->prev_index > LOG_COUNTER_MAX)
        r->failed = true;
    if (r->failed)
        return;
    m->list = r->data + r->position;
    m->list_size = r->size - r->position;
    for (uint16_t i = 0; i < m->count; i++) {
        struct log_entry entry;
        if (log_entry_decode(r, &entry) < 0 || entry.index != m->prev_index + 1 + i)
            r->failed = true;
        if (r->failed)
            return;
    }
}

static void put_need(struct ha_writer *w, const struct log_need *m)
{
    ha_put_u32(w, m->to);
    ha_put_u8(w, m->mode);
    ha_put_u64(w, m->commit);
    put_runs(w, &m->runs);
}

static void get_need(struct ha_reader *r, struct log_need *m)
{
    m->to = ha_get_u32(r);
    m->mode = ha_get_u8(r);
    m->commit = ha_get_u64(r);
    get_runs(r, &m->runs);
    if (m->to == 0 || m->mode == 0 || m->mode >= LOG_ENTRIES_MODE_END)
        r->failed = true;
}

void log_proposal_encode(struct ha_writer *w, const struct log_proposal *proposal)
{
    ha_put_u64(w, proposal->seq);
    ha_put_u8(w, proposal->kind);
    ha_put_blob(w, proposal->body, proposal->body_size);
}

int log_proposal_decode(struct ha_reader *r, struct log_proposal *ret_proposal)
{
    struct log_voter_change change;
    size_t size;

    ret_proposal->seq = ha_get_u64(r);
    ret_proposal->kind = ha_get_u8(r);
    ret_proposal->body = ha_get_blob(r, HA_ENTRY_MAX, &size);
    ret_proposal->body_size = (uint32_t)size;
    if (ret_proposal->kind == LOG_KIND_VOTER && !r->failed &&
        log_voter_change_decode(ret_proposal->body, size, &change) < 0)
        r->failed = true;
    if (ret_proposal->kind != LOG_KIND_VOTER && ret_proposal->kind != LOG_KIND_STATE)
        r->failed = true;
    return r->failed ? -HA_E_CORRUPT : 0;
}

static void put_propose(struct ha_writer *w, const struct log_propose *m)
{
    ha_put_u64(w, m->prev_seq);
    ha_put_u16(w, m->list ? m->count : 0);
    if (m->list)
        ha_put_raw(w, m->list, m->list_size);
}

static void get_propose(struct ha_reader *r, struct log_propose *m)
{
    uint64_t seq_low;

    m->prev_seq = ha_get_u64(r);
    m->count = ha_get_u16(r);
    if (r->failed)
        return;
    m->list = r->data + r->position;
    m->list_size = r->size - r->position;
    seq_low = m->prev_seq;
    for (uint16_t i = 0; i < m->count; i++) {
        struct log_proposal proposal;
        if (log_proposal_decode(r, &proposal) < 0 || proposal.seq <= seq_low)
            r->failed = true;
        if (r->failed)
            return;
        seq_low = proposal.seq;
    }
}

static void put_refuse(struct ha_writer *w, const struct log_refuse *m)
{
    ha_put_u32(w, m->to);
    ha_put_u64(w, m->to_nonce);
    ha_put_u8(w, m->why);
    ha_put_u64(w, m->value);
    put_view(w, m->view);
}

static void get_refuse(struct ha_reader *r, struct log_refuse *m)
{
    m->to = ha_get_u32(r);
    m->to_nonce = ha_get_u64(r);
    m->why = ha_get_u8(r);
    m->value = ha_get_u64(r);
    m->view = get_view(r);
    if (m->why == 0 || m->why >= LOG_REFUSAL_END)
        r->failed = true;
}

static void put_ack(struct ha_writer *w, const struct log_ack *m)
{
    ha_put_u64(w, m->index);
    ha_put_digest(w, m->digest);
}

static void get_ack(struct ha_reader *r, struct log_ack *m)
{
    m->index = ha_get_u64(r);
    m->digest = ha_get_digest(r);
}

static void put_header(struct ha_writer *w, const struct log_msg_header *h)
{
    ha_put_u32(w, LOG_MSG_MAGIC);
    ha_put_u16(w, LOG_MSG_VERSION);
    ha_put_u8(w, h->type);
    ha_put_uuid(w, h->cluster_id);
    ha_put_u64(w, h->generation);
    put_view(w, h->view);
    ha_put_u64(w, h->nonce);
}

void log_msg_encode(struct ha_writer *w, const struct log_msg *msg)
{
    put_header(w, &msg->header);
    switch ((enum log_msg_type)msg->header.type) {
    case LOG_MSG_HEARTBEAT:
        put_heartbeat(w, &msg->u.heartbeat);
        return;
    case LOG_MSG_PREPARE:
        put_names(w, &msg->u.prepare);
        return;
    case LOG_MSG_PROMISE:
        put_promise(w, &msg->u.promise);
        return;
    case LOG_MSG_ENTRIES:
        put_entries(w, &msg->u.entries);
        return;
    case LOG_MSG_NEED:
        put_need(w, &msg->u.need);
        return;
    case LOG_MSG_ACK:
        put_ack(w, &msg->u.ack);
        return;
    case LOG_MSG_PROPOSE:
        put_propose(w, &msg->u.propose);
        return;
    case LOG_MSG_REFUSE:
        put_refuse(w, &msg->u.refuse);
        return;
    case LOG_MSG_TYPE_END:
        break;
    }
    ha_assert(false); /* every type is handled above */
}

void log_msg_set_count(struct ha_writer *w, size_t start, uint8_t type, uint16_t count)
{
    size_t at = start + HEADER_SIZE + (type == LOG_MSG_ENTRIES ? ENTRIES_FIXED : PROPOSE_FIXED);

    ha_assert(type == LOG_MSG_ENTRIES || type == LOG_MSG_PROPOSE);
    if (w->failed)
        return;
    ha_assert(at + 2 <= w->position);
    w->data[at] = (uint8_t)count;
    w->data[at + 1] = (uint8_t)(count >> 8);
}

static void get_body(struct ha_reader *r, struct log_msg *msg)
{
    switch (msg->header.type) {
    case LOG_MSG_HEARTBEAT:
        get_heartbeat(r, &msg->u.heartbeat);
        if (msg->u.heartbeat.member.nonce != msg->header.nonce)
            r->failed = true;
        return;
    case LOG_MSG_PREPARE:
        get_names(r, &msg->u.prepare);
        return;
    case LOG_MSG_PROMISE:
        get_promise(r, &msg->u.promise);
        if (msg->u.promise.member.nonce != msg->header.nonce)
            r->failed = true;
        return;
    case LOG_MSG_ENTRIES:
        get_entries(r, &msg->u.entries);
        return;
    case LOG_MSG_NEED:
        get_need(r, &msg->u.need);
        return;
    case LOG_MSG_ACK:
        get_ack(r, &msg->u.ack);
        return;
    case LOG_MSG_PROPOSE:
        get_propose(r, &msg->u.propose);
        return;
    case LOG_MSG_REFUSE:
        get_refuse(r, &msg->u.refuse);
        return;
    default:
        r->failed = true;
    }
}

int log_msg_decode(const uint8_t *data, size_t size, struct log_msg *ret_msg)
{
    struct ha_reader r = ha_reader_of(data, size);

    if (ha_get_u32(&r) != LOG_MSG_MAGIC)
        return -HA_E_CORRUPT;
    if (ha_get_u16(&r) != LOG_MSG_VERSION)
        return r.failed ? -HA_E_CORRUPT : -HA_E_VERSION;
    ret_msg->header.type = ha_get_u8(&r);
    ret_msg->header.cluster_id = ha_get_uuid(&r);
    ret_msg->header.generation = ha_get_u64(&r);
    ret_msg->header.view = get_view(&r);
    ret_msg->header.nonce = ha_get_u64(&r);
    if (r.failed)
        return -HA_E_CORRUPT;
    get_body(&r, ret_msg);
    return ha_reader_is_done(&r) ? 0 : -HA_E_CORRUPT;
}
