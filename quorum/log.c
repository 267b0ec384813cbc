/* SPDX-License-Identifier: Apache-2.0 */
#include "quorum/log.h"

#include <string.h>

#include "hamgr/base/err.h"
#include "quorum/log_internal.h"

#define ALIGN 64u

static size_t aligned(size_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

/* Bodies of own proposals: a quarter of the log's, two of the largest at least. */
static size_t pending_bytes(const struct log_config *config)
{
    size_t size = config->ring_bytes / 4;

    return size < 2 * (size_t)HA_ENTRY_MAX ? 2 * (size_t)HA_ENTRY_MAX : size;
}

static size_t ring_bytes(const struct log_config *config)
{
    /* With less, one entry and the gap at the ring's end could stop everything. */
    return config->ring_bytes < 4 * (size_t)HA_ENTRY_MAX ? 4 * (size_t)HA_ENTRY_MAX
                                                         : config->ring_bytes;
}

static uint32_t ring_entries(const struct log_config *config)
{
    return config->ring_entries < 2 * LOG_BATCH ? 2 * LOG_BATCH : config->ring_entries;
}

size_t log_memory_size(const struct log_config *config)
{
    return aligned(sizeof(struct log)) +
           2 * aligned(ring_entries(config) * sizeof(struct log_cell)) +
           aligned(2 * ring_bytes(config)) + aligned(pending_bytes(config)) + aligned(LOG_OUT_SIZE);
}

static void *carve(uint8_t **memory, size_t size)
{
    void *piece = *memory;

    *memory += aligned(size);
    return piece;
}

static void carve_all(struct log *log, uint8_t *memory)
{
    const struct log_config *config = &log->config;

    log->ring.capacity = ring_entries(config);
    log->ring.byte_limit = ring_bytes(config);
    log->ring.byte_capacity = 2 * log->ring.byte_limit;
    log->pending.byte_capacity = pending_bytes(config);
    log->ring.cells = carve(&memory, log->ring.capacity * sizeof(struct log_cell));
    log->ring.stage = carve(&memory, log->ring.capacity * sizeof(struct log_cell));
    log->ring.bytes = carve(&memory, log->ring.byte_capacity);
    log->pending.bytes = carve(&memory, log->pending.byte_capacity);
    log->writer = ha_writer_of(carve(&memory, LOG_OUT_SIZE), LOG_OUT_SIZE);
}

struct log *log_init(void *memory, const struct log_config *config, const struct log_loaded *loaded)
{
    struct log *log = memory;
    struct log_survey *base = &log->base_survey;

    ha_assert((uintptr_t)memory % ALIGN == 0 && config->self.node != 0);
    memset(log, 0, sizeof(*log));
    log->config = *config;
    carve_all(log, (uint8_t *)memory + aligned(sizeof(*log)));
    log_ring_init(&log->ring, loaded->base_index, loaded->base_digest, loaded->base_view);
    base->proto = loaded->proto > config->self.proto_min ? loaded->proto : config->self.proto_min;
    for (uint32_t i = 0; i < loaded->voter_count && i < HA_NODES_MAX; i++)
        log_voters_add(&base->voters, loaded->voters[i].node, loaded->voters[i].store_id);
    log_voters_set_digest(&base->voters);
    base->open_view = loaded->base_view;
    log->survey = *base;
    log->promised = log->durable_promised = loaded->promised;
    log->log_view = log->durable_log_view = loaded->log_view;
    log->durable_last = log->stored_last = log->commit = log->commit_known = loaded->base_index;
    log->counter_high = loaded->promised.counter > loaded->log_view.counter
                            ? loaded->promised.counter
                            : loaded->log_view.counter;
    log->now_ms = log->started_ms = log->voters_ms = loaded->now_ms;
    log->lease.is_void = true;
    log->rng.state = config->rng_seed;
    log->self = &log->peers[0];
    log->peer_count = 1;
    log->self->node = config->self.node;
    log->self->nonce = config->self.nonce;
    return log;
}

int log_load(struct log *log, const struct log_entry *entry)
{
    struct ha_digest previous;

    if (entry->index != log->ring.last + 1 ||
        !log_ring_digest(&log->ring, log->ring.last, &previous) ||
        !ha_digest_equal(log_entry_digest(previous, entry), entry->digest))
        return -HA_E_CORRUPT;
    if (!log_ring_append(&log->ring, entry))
        return -HA_E_LIMIT;
    log_appended(log, entry);
    log->durable_last = log->stored_last = entry->index;
    return 0;
}

static bool is_ours(struct log *log, uint32_t from, const struct log_msg_header *h)
{
    if (!ha_uuid_equal(h->cluster_id, log->config.cluster_id) ||
        h->generation != log->config.generation) {
        if (log_may_trace_drop(log, 4))
            log_trace(log, "a message of n%u is of another cluster or generation -> dropped", from);
        return false;
    }
    return true;
}

static void handle(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    switch ((enum log_msg_type)msg->header.type) {
    case LOG_MSG_HEARTBEAT:
        log_peers_heartbeat(log, peer, msg);
        return;
    case LOG_MSG_PREPARE:
        log_view_prepare(log, peer, msg);
        return;
    case LOG_MSG_PROMISE:
        log_lead_on_promise(log, peer, msg);
        return;
    case LOG_MSG_ENTRIES:
        log_entries_receive(log, peer, msg);
        return;
    case LOG_MSG_NEED:
        log_entries_need(log, peer, msg);
        return;
    case LOG_MSG_ACK:
        log_entries_ack(log, peer, msg);
        return;
    case LOG_MSG_PROPOSE:
        log_propose_receive(log, peer, msg);
        return;
    case LOG_MSG_REFUSE:
        log_lead_refused(log, peer, msg);
        return;
    case LOG_MSG_TYPE_END:
        return;
    }
}

static void message(struct log *log, const struct log_event *event)
{
    uint32_t from = event->u.message.from;
    struct log_msg msg;

    if (from == log->config.self.node)
        return; /* what this node says to all it took note of when it said it */
    int rc = log_msg_decode(event->u.message.data, event->u.message.size, &msg);
    if (rc < 0) {
        if (log_may_trace_drop(log, 0))
            log_trace(log, "a message of n%u %s -> dropped", from,
                      rc == -HA_E_VERSION ? "has another format" : "is malformed");
        return;
    }
    struct log_peer *peer = log_peer_find(log, from);
    if (!peer || !peer->is_present || !is_ours(log, from, &msg.header) ||
        !log_peer_is_fresh(log, peer, msg.header.nonce))
        return;
    if (msg.header.view.counter > log->counter_high)
        log->counter_high = msg.header.view.counter;
    handle(log, peer, &msg);
}

static void down(struct log *log)
{
    log_view_leave(log, "the transport is gone");
    log->is_connected = false;
    for (uint32_t i = 0; i < log->peer_count; i++) {
        log->peers[i].is_present = false;
        log->peers[i].is_heard = false;
    }
}

/* While it is connected it sends a heartbeat, and so has an event, each heartbeat. */
uint64_t log_went_on_ms(const struct log *log, uint64_t now_ms)
{
    uint64_t most_ms = LOG_HUNG_HEARTBEATS * (uint64_t)log->config.timing.heartbeat_ms;

    return log->is_connected && now_ms > log->now_ms + most_ms ? now_ms : log->went_on_ms;
}

/* Time passes before anything else is looked at: a lease that ended ended before the message. */
static void pass_time(struct log *log, uint64_t now_ms)
{
    uint64_t gap_ms = now_ms > log->now_ms ? now_ms - log->now_ms : 0;

    log->went_on_ms = log_went_on_ms(log, now_ms);
    log->now_ms += gap_ms;
    if (log->is_connected && gap_ms > 2 * (uint64_t)log->config.timing.heartbeat_ms)
        log_peers_after_hang(log, gap_ms);
    log_lease_expire(log);
}

static void dispatch(struct log *log, const struct log_event *event)
{
    switch ((enum log_event_type)event->type) {
    case LOG_EV_TIMER:
        return;
    case LOG_EV_MEMBERS:
        log_peers_members(log, event);
        if (!log->is_connected)
            down(log);
        return;
    case LOG_EV_MESSAGE:
        message(log, event);
        return;
    case LOG_EV_DOWN:
        down(log);
        return;
    case LOG_EV_PERSISTED:
        log_persisted(log, event->u.persisted.token, event->u.persisted.is_ok);
        return;
    case LOG_EV_PROPOSE:
        log_propose_local(log, event);
        return;
    case LOG_EV_SNAPSHOT:
        log_snapshot_installed(log, event);
        return;
    }
}

/* Everything that follows from where we are now. */
static void pump(struct log *log)
{
    if (log->is_installing && log->phase == LOG_PHASE_PROMISED)
        log_view_leave(log, "a snapshot is stored first");
    log_view_timer(log);
    log_lead_timer(log);
    log_lead_decide(log);
    log_view_take_stage(log);
    for (int round = 0; round < 3;
         round++) { /* a commit may open the view, which may number more */
        log_propose_pump(log);
        log_entries_flush(log);
        log_persist_pump(log);
        if (!log_commit_advance(log))
            break;
    }
    if (log->is_connected && !log->is_stopped && log->now_ms >= log->heartbeat_ms)
        log_heartbeat_send(log);
}

void log_step(struct log *log, const struct log_event *event, struct log_actions *ret_actions)
{
    ret_actions->count = 0;
    if (log->is_stopped) {
        if (event->type == LOG_EV_PROPOSE) {
            log->out = ret_actions;
            log_propose_local(log, event);
        }
        return;
    }
    log->out = ret_actions;
    log->writer.position = 0;
    log->writer.failed = false;
    log->wall_ms = event->wall_ms;
    log->ring.may_drop_committed = log->writing.is_failed;
    log->ring.dropable = log->commit;
    pass_time(log, event->now_ms);
    dispatch(log, event);
    if (!log->is_stopped)
        pump(log);
    log->out = NULL;
}

static void sooner(uint64_t *deadline, uint64_t at)
{
    if (at < *deadline)
        *deadline = at;
}

uint64_t log_deadline_ms(const struct log *log)
{
    uint64_t deadline = UINT64_MAX;
    uint32_t h = log->config.timing.heartbeat_ms;
    uint64_t half = log->config.timing.lease_ms / 2;

    if (log->is_stopped)
        return deadline;
    if (log->lease.end_ms != 0)
        sooner(&deadline, log->lease.end_ms);
    if (!log->is_connected)
        return deadline;
    sooner(&deadline, log->heartbeat_ms);
    /* On the way somewhere: retries and time-outs are all multiples of h/8 or coarser. What a
     * leader has sent is its own matter: a follower's lead.sent stands still. */
    bool is_sending = log->lead.state != LOG_LEAD_NONE && log->lead.sent < log->ring.last;
    if (log->phase != LOG_PHASE_OPEN || log->pending.low != log->pending.high ||
        log->writing.token != 0 || log->wanted_ms != 0 || is_sending)
        sooner(&deadline, log->now_ms + (h >= 16 ? h / 8 : 2));
    /* Asked after every event, and nearly always everybody was heard of late. */
    if (log->heard_floor_ms + half < deadline)
        sooner(&deadline, log_heard_oldest_ms(log) + half);
    return deadline;
}

bool log_is_open(const struct log *log)
{
    return log->phase == LOG_PHASE_OPEN;
}

bool log_is_store_failed(const struct log *log)
{
    return log->writing.is_failed;
}

bool log_is_leader(const struct log *log)
{
    return log->lead.state == LOG_LEAD_OPEN;
}

void log_stand_back(struct log *log, bool is_back)
{
    log->is_standing_back = is_back;
}

struct log_view log_view_now(const struct log *log)
{
    return log->promised;
}

uint64_t log_commit_index(const struct log *log)
{
    return log->commit;
}

uint64_t log_last_index(const struct log *log)
{
    return log->ring.last;
}

uint64_t log_first_index(const struct log *log)
{
    return log->ring.first;
}

bool log_is_outdated(const struct log *log, struct log_outdated *ret)
{
    *ret = log->outdated;
    return log->outdated_ms != 0 &&
           log->now_ms - log->outdated_ms < 3 * (uint64_t)log->config.timing.lease_ms;
}

uint64_t log_lease_end_ms(const struct log *log)
{
    return log->lease.end_ms;
}

bool log_is_voter(const struct log *log)
{
    return log_voters_has(&log->survey.voters, log->config.self.node, log->config.self.store_id);
}

uint32_t log_voter_count(const struct log *log)
{
    return log->survey.voters.count;
}

const struct log_entry *log_entry_at(const struct log *log, uint64_t index)
{
    return log_ring_at(&log->ring, index);
}

uint64_t log_view_age_ms(const struct log *log, uint64_t now_ms)
{
    if (log->phase != LOG_PHASE_OPEN || now_ms < log->current.opened_ms)
        return 0;
    return now_ms - log->current.opened_ms;
}

void log_trim(struct log *log, uint64_t index, struct log_actions *ret_actions)
{
    ret_actions->count = 0;
    if (index > log->commit || (index > log->durable_last && !log->writing.is_failed))
        return;
    for (uint64_t i = log->ring.base + 1; i <= index; i++) {
        const struct log_entry *entry = log_ring_at(&log->ring, i);
        if (entry)
            log_survey_entry(&log->base_survey, entry);
        log->ring.base = i;
        log->needs_snapshot = false; /* there is room again */
    }
}

bool log_snapshot_is_due(const struct log *log)
{
    const struct log_ring *r = &log->ring;
    uint64_t first = r->base + 1 > r->first ? r->base + 1 : r->first;

    if (first > r->last || log->commit < first)
        return false;
    uint64_t bytes = r->head - r->cells[first % r->capacity].offset;
    /* Room for two entries and the gap at the ring's end: whoever asks after each commit never
     * finds the memory full with nothing left to commit. */
    uint64_t limit = r->byte_limit - 3 * (uint64_t)HA_ENTRY_MAX;
    if (limit > r->byte_limit / 2)
        limit = r->byte_limit / 2;
    return r->last - first + 1 >= r->capacity / 2 || bytes >= limit;
}

/* A longer log of our own is worth less than a snapshot of a later view: what it has beyond is not
 * committed and never will be, for the OPEN of that view is below it. */
bool log_snapshot_is_newer(const struct log *log, uint64_t index, struct log_view view)
{
    return index > log->ring.last || (index > log->commit && log_view_cmp(view, log->log_view) > 0);
}

bool log_snapshot_begin_at(struct log *log, uint64_t index, struct log_view view)
{
    if (log->is_stopped || log->is_installing || log->writing.is_failed ||
        log->lead.state != LOG_LEAD_NONE || !log_snapshot_is_newer(log, index, view))
        return false;
    log->is_installing = true;
    return true;
}

bool log_snapshot_begin(struct log *log, uint64_t index)
{
    return log_snapshot_begin_at(log, index, (struct log_view){0, 0});
}
