/* SPDX-License-Identifier: Apache-2.0
 *
 * A member's side of a view:
 *
 *     IDLE -PREPARE names us-> PROMISED -its log gathered-> ADOPTED -OPEN committed-> OPEN
 *       ^--------------- left behind, lease ended, transport gone ----------------------'
 *
 * A promise counts from the moment it is in memory (nothing older is acknowledged any more) and is
 * told when it is durable. The adopted log is gathered beside the own tail, which stays what counts
 * until log, OPEN and log_view are written in one transaction. A view once left is never
 * re-entered.
 */
#include <string.h>

#include "quorum/log_internal.h"

#define VIEW_FMT       "%llu.%u"
#define VIEW_ARG(view) (unsigned long long)(view).counter, (view).leader

bool log_is_stalled(const struct log *log, uint64_t limit_ms)
{
    return log->writing.token != 0 && !log->writing.is_failed &&
           log->now_ms - log->writing.started_ms >= limit_ms;
}

void log_view_leave(struct log *log, const char *why)
{
    if (log->phase == LOG_PHASE_IDLE)
        return;
    log_trace(log, "%s -> out of view " VIEW_FMT, why, VIEW_ARG(log->current.view));
    if (log->phase == LOG_PHASE_OPEN) {
        log_act(log, LOG_ACT_VIEW_CLOSED)->u.view.view = log->current.view;
        if (log->lease.end_ms == 0)
            log->lease.is_void = true;
    }
    log->phase = LOG_PHASE_IDLE;
    log->lead.state = LOG_LEAD_NONE;
    log->is_stage_ready = false;
    log->wanted_ms = 0;
    log_ring_unstage(&log->ring);
}

void log_view_promise(struct log *log, struct log_view view, uint64_t leader_nonce,
                      const struct log_names *names)
{
    ha_assert(log_view_cmp(view, log->promised) > 0);
    log_view_leave(log, "a new view is prepared");
    log->promised = view;
    if (view.counter > log->counter_high)
        log->counter_high = view.counter;
    log->current = (struct log_current){
        .view = view, .leader_nonce = leader_nonce, .names = *names, .since_ms = log->now_ms};
    log->phase = LOG_PHASE_PROMISED;
    log->commit_known = log->commit;
    log->need_ms = 0;
    log->wanted_ms = 0;
    log->heard_floor_ms = 0;
    for (uint32_t i = 0; i < log->peer_count; i++) {
        log->peers[i].numbered_seq = 0;
        log->peers[i].adopt_ms = 0;
        memset(log->peers[i].refused, 0, sizeof(log->peers[i].refused));
    }
}

static bool names_process(const struct log_names *names, uint32_t node, uint64_t nonce)
{
    int i = log_names_find(names, node);

    return i >= 0 && names->list[i].nonce == nonce;
}

void log_view_prepare(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    struct log_view view = msg->header.view;
    const struct log_names *names = &msg->u.prepare;

    if (view.leader != peer->node || !names_process(names, peer->node, msg->header.nonce))
        return;
    if (log_view_cmp(view, log->current.view) == 0 && log->phase == LOG_PHASE_PROMISED &&
        log->current.leader_nonce == msg->header.nonce) {
        log->current.is_promise_sent = false; /* it asks again: the answer was lost */
        log->current.is_promise_told = false;
        return;
    }
    if (log_view_cmp(view, log->promised) <= 0 || log_view_cmp(view, log->log_view) <= 0)
        return;
    if (!names_process(names, log->config.self.node, log->config.self.nonce)) {
        log_trace(log, "n%u prepares view " VIEW_FMT " without this node -> no part in it",
                  peer->node, VIEW_ARG(view));
        return;
    }
    if (log->is_installing) {
        log_trace(log, "n%u prepares view " VIEW_FMT " while a snapshot is stored -> no promise",
                  peer->node, VIEW_ARG(view));
        return;
    }
    log_view_promise(log, view, msg->header.nonce, names);
    log_trace(log, "n%u prepares view " VIEW_FMT " of %u -> promise", peer->node, VIEW_ARG(view),
              names->count);
}

/* What this node remembers named members to have acknowledged as earlier processes. */
static void fill_memory(struct log *log, struct log_promise *p)
{
    p->memory_count = 0;
    for (uint32_t i = 0; i < log->current.names.count; i++) {
        const struct log_name *name = &log->current.names.list[i];
        const struct log_peer *peer = log_peer_find(log, name->node);
        if (peer && peer->is_rolled_back) { /* whatever it may have copied since */
            p->memory[p->memory_count++] = (struct log_memory){.node = name->node,
                                                               .store_id = peer->rolled_back_store,
                                                               .view = {.counter = LOG_COUNTER_MAX},
                                                               .index = UINT64_MAX};
            continue;
        }
        if (!peer || peer->log_nonce == 0 || peer->log_nonce == name->nonce)
            continue;
        p->memory[p->memory_count++] = (struct log_memory){.node = name->node,
                                                           .store_id = peer->log_store,
                                                           .view = peer->log_view,
                                                           .index = peer->log_index};
    }
}

void log_view_fill_promise(struct log *log, struct log_promise *p)
{
    memset(p, 0, sizeof(*p));
    p->is_durable =
        !log->writing.is_failed && log_view_cmp(log->durable_promised, log->promised) == 0;
    p->is_lease_valid = log->lease.end_ms > log->now_ms;
    p->member = log->config.self;
    p->log_view = log->durable_log_view;
    p->last = log->stored_last;
    log_ring_digest(&log->ring, p->last, &p->digest);
    p->commit = log->commit;
    log_ring_runs(&log->ring, false, &p->runs);
    log_lease_ages(log, p);
    fill_memory(log, p);
}

void log_view_tell_promise(struct log *log)
{
    bool is_durable =
        !log->writing.is_failed && log_view_cmp(log->durable_promised, log->promised) == 0;

    if (log->phase != LOG_PHASE_PROMISED || log->current.is_promise_sent)
        return;
    /* A store that takes longer than h/2, half of what the leader waits, is not waited for: the
     * node stays in the view and keeps its lease, only its vote is missing until the store is back.
     */
    bool is_late = log->writing.is_failed ||
                   log->now_ms - log->current.since_ms >= log->config.timing.heartbeat_ms / 2;
    if (!is_durable && (log->current.is_promise_told || !is_late))
        return;
    log->current.is_promise_told = true;
    log->current.is_promise_sent = is_durable;
    if (log->current.view.leader == log->config.self.node) {
        log_lead_own_promise(log);
        return;
    }
    struct log_msg msg = log_msg_of(log, LOG_MSG_PROMISE, log->promised);
    log_view_fill_promise(log, &msg.u.promise);
    log_send(log, &msg);
}

static uint32_t gather_from(const struct log *log)
{
    return log->lead.state == LOG_LEAD_FETCHING ? log->lead.winner : log->current.view.leader;
}

static void gather_more(struct log *log)
{
    log_entries_ask(log, gather_from(log),
                    log->lead.state == LOG_LEAD_FETCHING ? LOG_ENTRIES_FETCH : LOG_ENTRIES_ADOPT);
}

/* The entry fits behind the staged log: its digest is the chain's. */
static bool is_chained(const struct log_ring *r, const struct log_entry *entry)
{
    const struct log_entry *before = log_ring_staged(r, entry->index - 1);
    struct ha_digest previous;

    if (before)
        previous = before->digest;
    else if (!log_ring_digest(r, entry->index - 1, &previous))
        return false;
    return ha_digest_equal(log_entry_digest(previous, entry), entry->digest);
}

/* Takes one entry of the log to adopt. Returns false when the rest of the message is of no use. */
static bool gather(struct log *log, const struct log_entry *entry)
{
    struct log_ring *r = &log->ring;

    if (!r->is_staging) {
        const struct log_entry *own = log_ring_at(r, entry->index);
        if (entry->index < r->first || (own && ha_digest_equal(own->digest, entry->digest)))
            return true; /* the same here */
        if (entry->index <= log->commit) {
            log_stop(log,
                     "entry %llu is committed here with another content than in view " VIEW_FMT,
                     (unsigned long long)entry->index, VIEW_ARG(log->current.view));
            return false;
        }
        if (entry->index > r->last + 1)
            return false;
        log_ring_stage(r, entry->index);
    }
    if (entry->index <= r->stage_last)
        return true;
    if (entry->index > r->stage_last + 1)
        return false;
    if (!is_chained(r, entry)) {
        log_trace(log, "entry %llu does not fit the chain -> ask again",
                  (unsigned long long)entry->index);
        return false;
    }
    if (!log_ring_stage_append(r, entry)) {
        log_trace(log, "entry %llu to adopt finds no room -> a snapshot is needed",
                  (unsigned long long)entry->index);
        log->needs_snapshot = true;
        return false;
    }
    log->need_ms = 0;
    return true;
}

/* True when what the message follows is what we have there. */
static bool follows_ours(struct log *log, const struct log_entries *m)
{
    const struct log_entry *before = log_ring_staged(&log->ring, m->prev_index);
    struct ha_digest digest;

    if (before)
        digest = before->digest;
    else if (!log_ring_digest(&log->ring, m->prev_index, &digest))
        return m->prev_index < log->ring.first; /* long committed: checked at the first known one */
    if (ha_digest_equal(digest, m->prev_digest))
        return true;
    if (m->prev_index <= log->commit && !log->ring.is_staging)
        log_stop(log, "entry %llu is committed here with another digest than at n%u",
                 (unsigned long long)m->prev_index, gather_from(log));
    return false;
}

static bool is_gathered(struct log *log, const struct log_entries *m)
{
    struct log_ring *r = &log->ring;
    struct ha_digest digest;

    if (!r->is_staging) {
        /* The log to adopt may be a part of ours: then the rest of ours goes. */
        if (m->final_index > r->last || m->final_index < log->commit ||
            !log_ring_digest(r, m->final_index, &digest) ||
            !ha_digest_equal(digest, m->final_digest))
            return false;
        log_ring_stage(r, m->final_index + 1);
        return true;
    }
    const struct log_entry *last = log_ring_staged(r, r->stage_last);
    return r->stage_last == m->final_index && last &&
           ha_digest_equal(last->digest, m->final_digest);
}

void log_view_adopt(struct log *log, const struct log_msg *msg)
{
    const struct log_entries *m = &msg->u.entries;
    struct ha_reader r = ha_reader_of(m->list, m->list_size);
    struct log_entry entry;

    if (log->is_stage_ready || m->final_index == 0)
        return;
    log->lead.fetched_ms = log->now_ms;
    if (!follows_ours(log, m)) {
        gather_more(log);
        return;
    }
    for (uint16_t i = 0; i < m->count && !log->is_stopped; i++) {
        if (log_entry_decode(&r, &entry) < 0 || !gather(log, &entry))
            break;
    }
    if (log->is_stopped)
        return;
    if (log->needs_snapshot) {
        log_view_leave(log, "the log to adopt finds no room");
        return;
    }
    if (!is_gathered(log, m)) {
        gather_more(log);
        return;
    }
    if (log->lead.state == LOG_LEAD_FETCHING)
        log_lead_fetched(log);
    else
        log->is_stage_ready = true;
}

static bool is_own_open(const struct log *log, const struct log_entry *entry)
{
    struct log_open open;

    return entry && entry->kind == LOG_KIND_OPEN &&
           log_view_cmp(entry->view, log->current.view) == 0 &&
           log_open_decode(entry->body, entry->body_size, &open) == 0 &&
           log_view_cmp(open.view, log->current.view) == 0;
}

void log_view_take_stage(struct log *log)
{
    struct log_ring *r = &log->ring;
    struct log_survey survey;

    /* What a write under way still reads must not be overwritten. */
    if (!log->is_stage_ready || (log->writing.token != 0 && !log->writing.is_failed))
        return;
    if (!is_own_open(log, log_ring_staged(r, r->stage_last))) {
        log_view_leave(log, "the log to adopt does not end with the view's OPEN");
        return;
    }
    log->is_stage_ready = false;
    log_survey_all(log, true, &survey);
    if (r->stage_first <= r->last)
        log->writing.truncate_from = r->stage_first;
    if (log->durable_last >= r->stage_first)
        log->durable_last = r->stage_first - 1;
    log_ring_merge(r);
    log_set_survey(log, &survey);
    log->log_view = log->current.view;
    log->current.open_index = r->last;
    log->phase = LOG_PHASE_ADOPTED;
    log_trace(log, "the log of view " VIEW_FMT " is here up to %llu -> store and acknowledge it",
              VIEW_ARG(log->current.view), (unsigned long long)r->last);
}

void log_view_opened(struct log *log)
{
    bool is_leader = log->lead.state == LOG_LEAD_ADOPTING;

    log->phase = LOG_PHASE_OPEN;
    log->current.opened_ms = log->now_ms;
    log->attempts = 0;
    log->attempt_ms = 0;
    log->needs_snapshot = false;
    if (is_leader) {
        log->lead.state = LOG_LEAD_OPEN;
        log->lead.sent = log->ring.last;
    }
    log_trace(log, "its OPEN is committed at %llu -> view " VIEW_FMT " is open here",
              (unsigned long long)log->current.open_index, VIEW_ARG(log->current.view));
    struct log_action *action = log_act(log, LOG_ACT_VIEW_OPEN);
    action->u.view.view = log->current.view;
    action->u.view.is_leader = is_leader;
    log_propose_settle(log);
    log_lease_opened(log);
}

/* A view that gets nowhere is left: its leader is gone, or L/2 + h have passed. */
void log_view_timer(struct log *log)
{
    const struct log_timing *t = &log->config.timing;

    log_view_tell_promise(log);
    if ((log->phase != LOG_PHASE_PROMISED && log->phase != LOG_PHASE_ADOPTED) ||
        log->lead.state != LOG_LEAD_NONE)
        return;
    const struct log_peer *leader = log_peer_find(log, log->current.view.leader);
    bool is_silent = leader && leader->is_heard && !log_peer_is_alive(log, leader);
    if (!leader || !leader->is_present || leader->nonce != log->current.leader_nonce || is_silent)
        log_view_leave(log, "its leader is gone");
    else if (log->now_ms - log->current.since_ms >= t->lease_ms / 2 + t->heartbeat_ms)
        log_view_leave(log, "it got nowhere");
}
