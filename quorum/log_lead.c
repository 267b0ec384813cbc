/* SPDX-License-Identifier: Apache-2.0
 *
 * The leader's side of a view: PREPARE to those it just heard, gather their promises, get the log
 * with the highest (log view, last index), put OPEN behind it, send each what it lacks. OPEN rides
 * with the adopted log: its acknowledgement is the member's READY, so a view costs two round trips
 * and two writes until its OPEN is committed.
 *
 * Who does not answer within h is left out by a new, higher PREPARE: the list of a view never
 * changes.
 */
#include <string.h>

#include "quorum/log_internal.h"

#define VIEW_FMT       "%llu.%u"
#define VIEW_ARG(view) (unsigned long long)(view).counter, (view).leader

static void give_up(struct log *log, const char *why)
{
    uint32_t h = log->config.timing.heartbeat_ms;

    log_view_leave(log, why);
    if (log->attempts < 4)
        log->attempts++;
    log->attempt_ms =
        log->now_ms + h / 2 + ha_rng_below(&log->rng, (uint64_t)h * log->attempts + 1);
}

static void send_prepare(struct log *log)
{
    struct log_msg msg = log_msg_of(log, LOG_MSG_PREPARE, log->current.view);

    msg.u.prepare = log->current.names;
    log_send(log, &msg);
    log->lead.resend_ms = log->now_ms + log->config.timing.heartbeat_ms / 2;
}

void log_lead_start(struct log *log, const struct log_names *names)
{
    struct log_view view = {.counter = log->counter_high + 1, .leader = log->config.self.node};

    log_view_promise(log, view, log->config.self.nonce, names);
    log->lead.state = LOG_LEAD_PREPARING;
    log->lead.since_ms = log->now_ms;
    for (uint32_t i = 0; i < HA_NODES_MAX; i++)
        log->lead.promises[i].has = false;
    send_prepare(log);
}

static uint32_t count_durable_voters(const struct log *log, const struct log_voters *voters)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < log->current.names.count; i++) {
        const struct log_promised *promised = &log->lead.promises[i];
        if (promised->has && promised->p.is_durable &&
            log_voters_has(voters, log->current.names.list[i].node, promised->p.member.store_id))
            count++;
    }
    return count;
}

/* Prepares again, naming only those of the present list for which keep[] is set. */
static void start_without(struct log *log, const bool *keep)
{
    struct log_names names = {.count = 0};

    for (uint32_t i = 0; i < log->current.names.count; i++) {
        if (keep[i])
            names.list[names.count++] = log->current.names.list[i];
        else
            log_trace(log, "n%u is left out of the next view", log->current.names.list[i].node);
    }
    log_lead_start(log, &names);
}

/* What any member remembers node to have acknowledged from this store, against what it says now. */
static bool has_lost_entries(const struct log *log, uint32_t i, struct log_memory *ret_memory)
{
    const struct log_promise *p = &log->lead.promises[i].p;

    for (uint32_t j = 0; j < log->current.names.count; j++) {
        const struct log_promise *other = &log->lead.promises[j].p;
        for (uint32_t k = 0; k < other->memory_count; k++) {
            const struct log_memory *m = &other->memory[k];
            if (m->node != p->member.node || !ha_uuid_equal(m->store_id, p->member.store_id))
                continue;
            int cmp = log_view_cmp(p->log_view, m->view);
            if (cmp > 0 || (cmp == 0 && p->last >= m->index))
                continue;
            *ret_memory = *m;
            return true;
        }
    }
    return false;
}

/* Leaves out stores that lost what they acknowledged. True if a new view was prepared for that. */
static bool leave_out_rolled_back(struct log *log)
{
    bool keep[HA_NODES_MAX];
    bool has_lost = false;

    for (uint32_t i = 0; i < log->current.names.count; i++) {
        struct log_memory memory;
        struct log_peer *peer = log_peer_find(log, log->current.names.list[i].node);
        keep[i] = !log->lead.promises[i].p.is_durable || !has_lost_entries(log, i, &memory);
        if (keep[i] || !peer)
            continue;
        has_lost = true;
        peer->is_rolled_back = true;
        peer->rolled_back_store = memory.store_id;
        log_trace(log,
                  "n%u's store lost entries it acknowledged, it ends at %llu -> it counts nowhere",
                  peer->node, (unsigned long long)log->lead.promises[i].p.last);
        struct log_msg msg = log_msg_of(log, LOG_MSG_REFUSE, log->promised);
        msg.u.refuse = (struct log_refuse){.to = peer->node,
                                           .to_nonce = peer->nonce,
                                           .why = LOG_REFUSE_ROLLED_BACK,
                                           .value = memory.index,
                                           .view = memory.view};
        log_send(log, &msg);
    }
    if (has_lost && log->self->is_rolled_back)
        log_stop(log,
                 "a peer remembers that this store acknowledged more than it holds: rebuild it");
    else if (has_lost)
        start_without(log, keep);
    return has_lost;
}

/* The durable log with the highest (log view, last index); ours wins a tie. */
static uint32_t choose(const struct log *log)
{
    const struct log_names *names = &log->current.names;
    uint32_t best = (uint32_t)log_names_find(names, log->config.self.node);

    for (uint32_t i = 0; i < names->count; i++) {
        const struct log_promise *p = &log->lead.promises[i].p;
        const struct log_promise *b = &log->lead.promises[best].p;
        if (!p->is_durable)
            continue;
        int cmp = log_view_cmp(p->log_view, b->log_view);
        if (cmp > 0 || (cmp == 0 && p->last > b->last))
            best = i;
    }
    return best;
}

/* A quorum of the last open view opens this one, and none of their leases ran out since. */
static bool is_continuous(const struct log *log, const struct log_survey *survey)
{
    const struct log_entry *entry = log_ring_staged(&log->ring, survey->open_index);
    struct log_open open;
    uint32_t count = 0;

    if (!entry || log_open_decode(entry->body, entry->body_size, &open) < 0)
        return false;
    for (uint32_t i = 0; i < log->current.names.count; i++) {
        const struct log_promise *p = &log->lead.promises[i].p;
        if (!p->is_lease_valid || !p->is_durable ||
            !log_voters_has(&survey->voters, p->member.node, p->member.store_id))
            continue;
        for (uint32_t j = 0; j < open.member_count; j++) {
            if (open.members[j].node == p->member.node && open.members[j].nonce == p->member.nonce)
                count++;
        }
    }
    return count >= log_quorum(&survey->voters);
}

/* Puts the view's OPEN behind the staged log. */
static bool stage_open(struct log *log, const struct log_survey *survey)
{
    uint8_t body[64 + HA_NODES_MAX * 80];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct log_open open = {.view = log->current.view,
                            .is_continuous = is_continuous(log, survey),
                            .member_count = log->current.names.count};
    struct ha_digest previous;

    for (uint32_t i = 0; i < open.member_count; i++)
        open.members[i] = log->lead.promises[i].p.member;
    log_open_encode(&w, &open);
    ha_assert(!w.failed);
    struct log_entry entry = {.index = log->ring.stage_last + 1,
                              .view = log->current.view,
                              .kind = LOG_KIND_OPEN,
                              .origin = log->config.self.node,
                              .nonce = log->config.self.nonce,
                              .mono_ms = log->now_ms,
                              .wall_ms = log->wall_ms,
                              .body_size = (uint32_t)w.position,
                              .body = body};
    const struct log_entry *before = log_ring_staged(&log->ring, log->ring.stage_last);
    if (before)
        previous = before->digest;
    else if (!log_ring_digest(&log->ring, log->ring.stage_last, &previous))
        return false;
    entry.digest = log_entry_digest(previous, &entry);
    log_trace(log, "view " VIEW_FMT ": log up to %llu adopted, %s", VIEW_ARG(open.view),
              (unsigned long long)entry.index - 1,
              open.is_continuous ? "leases went on" : "leases had run out -> hold fencing");
    return log_ring_stage_append(&log->ring, &entry);
}

/* How far back one message of entries ending at index reaches. */
static uint64_t chunk_before(const struct log *log, uint64_t index)
{
    size_t size = 0;

    for (; index > log->ring.first; index--) {
        const struct log_entry *entry = log_ring_at(&log->ring, index);
        size += LOG_ENTRY_HEAD + sizeof(entry->digest) + entry->body_size;
        if (size > LOG_CHUNK)
            return index;
    }
    return index - 1;
}

void log_lead_send_adopt(struct log *log, uint32_t to, uint64_t common)
{
    struct log_msg msg = log_msg_of(log, LOG_MSG_ENTRIES, log->current.view);
    struct log_entries *m = &msg.u.entries;
    struct log_peer *peer = log_peer_find(log, to);

    if (common >= log->current.open_index)
        common = log->current.open_index - 1;
    if (common + 1 < log->ring.first) {
        if (peer)
            log_lead_want_snapshot(log, peer, common);
        return;
    }
    *m = (struct log_entries){.mode = LOG_ENTRIES_ADOPT,
                              .to = to,
                              .prev_index = common,
                              .commit = log->commit,
                              .final_index = log->current.open_index};
    if (!log_ring_digest(&log->ring, common, &m->prev_digest) ||
        !log_ring_digest(&log->ring, m->final_index, &m->final_digest))
        return;
    if (peer)
        peer->adopt_ms = log->now_ms;
    log_send_entries(log, &msg, common + 1, m->final_index);
}

/* One message for all who lack no more than fits in; the others ask for theirs. */
static void send_adopt_all(struct log *log)
{
    uint64_t low = chunk_before(log, log->current.open_index);
    uint64_t from = log->current.open_index - 1;

    for (uint32_t i = 0; i < log->current.names.count; i++) {
        const struct log_promise *p = &log->lead.promises[i].p;
        struct log_peer *peer = log_peer_find(log, log->current.names.list[i].node);
        if (!peer || peer == log->self)
            continue;
        peer->adopt_ms = log->now_ms;
        uint64_t common = log_ring_common(&log->ring, &p->runs, p->commit);
        if (common < from && common >= low)
            from = common;
        else if (common < low)
            from = low;
    }
    log_lead_send_adopt(log, 0, from);
}

/* Members are named by what this node's own log has seen; the log that is adopted may have seen a
 * later protocol, whose entries who does not speak it could not read (I12). */
static bool do_all_speak(const struct log *log, uint16_t proto)
{
    for (uint32_t i = 0; i < log->current.names.count; i++) {
        if (log->lead.promises[i].p.member.proto_max < proto)
            return false;
    }
    return true;
}

/* The log to adopt is in the stage: judges the quorum by its voters and opens the view with it. */
static void adopt(struct log *log)
{
    struct log_survey survey;

    log_survey_all(log, true, &survey);
    if (count_durable_voters(log, &survey.voters) < log_quorum(&survey.voters)) {
        give_up(log, "its members are no quorum of the voters its log names");
        return;
    }
    if (!do_all_speak(log, survey.proto)) {
        give_up(log, "its log needs a protocol that not all its members speak");
        return;
    }
    if (!stage_open(log, &survey)) {
        log->needs_snapshot = true;
        give_up(log, "its OPEN finds no room");
        return;
    }
    log->is_stage_ready = true;
    log_view_take_stage(log);
    if (log->phase != LOG_PHASE_ADOPTED) {
        give_up(log, "the adopted log could not be taken");
        return;
    }
    log->lead.state = LOG_LEAD_ADOPTING;
    log->lead.since_ms = log->now_ms;
    send_adopt_all(log);
}

void log_lead_fetched(struct log *log)
{
    ha_assert(log->lead.state == LOG_LEAD_FETCHING);
    adopt(log);
}

static void check_promises(struct log *log)
{
    const struct log_names *names = &log->current.names;
    bool are_durable = true;

    for (uint32_t i = 0; i < names->count; i++) {
        if (!log->lead.promises[i].has)
            return;
        are_durable = are_durable && log->lead.promises[i].p.is_durable;
    }
    int self = log_names_find(names, log->config.self.node);
    if (!log->lead.promises[self].p.is_durable ||
        (!are_durable &&
         count_durable_voters(log, &log->survey.voters) < log_quorum(&log->survey.voters)))
        return;
    if (leave_out_rolled_back(log))
        return;
    uint32_t winner = choose(log);
    if (names->list[winner].node == log->config.self.node) {
        log_ring_stage(&log->ring, log->ring.last + 1);
        adopt(log);
        return;
    }
    const struct log_promise *p = &log->lead.promises[winner].p;
    log_trace(log, "n%u has the longest log (view " VIEW_FMT ", %llu) -> adopt it",
              names->list[winner].node, VIEW_ARG(p->log_view), (unsigned long long)p->last);
    log->lead.state = LOG_LEAD_FETCHING;
    log->lead.since_ms = log->now_ms;
    log->lead.fetched_ms = log->now_ms;
    log->lead.winner = names->list[winner].node;
    log->need_ms = 0;
    log_entries_ask(log, log->lead.winner, LOG_ENTRIES_FETCH);
}

void log_lead_on_promise(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    int i = log_names_find(&log->current.names, peer->node);

    if (log->lead.state != LOG_LEAD_PREPARING || i < 0 ||
        log_view_cmp(msg->header.view, log->current.view) != 0 ||
        log->current.names.list[i].nonce != msg->header.nonce ||
        msg->u.promise.member.node != peer->node)
        return;
    struct log_promised *promised = &log->lead.promises[i];
    if (promised->has && (promised->p.is_durable || !msg->u.promise.is_durable))
        return;
    promised->has = true;
    promised->received_ms = log->now_ms;
    promised->p = msg->u.promise;
    check_promises(log);
}

void log_lead_own_promise(struct log *log)
{
    int i = log_names_find(&log->current.names, log->config.self.node);

    if (log->lead.state != LOG_LEAD_PREPARING || i < 0)
        return;
    log->lead.promises[i].has = true;
    log->lead.promises[i].received_ms = log->now_ms;
    log_view_fill_promise(log, &log->lead.promises[i].p);
    check_promises(log);
}

/* After h without all answers: go on without those missing, if the rest is a quorum. */
static void leave_out_silent(struct log *log)
{
    bool keep[HA_NODES_MAX];
    bool is_missing = false;

    for (uint32_t i = 0; i < log->current.names.count; i++) {
        keep[i] = log->lead.promises[i].has;
        if (log->lead.state == LOG_LEAD_FETCHING &&
            log->current.names.list[i].node == log->lead.winner)
            keep[i] = false;
        is_missing = is_missing || !keep[i];
    }
    int self = log_names_find(&log->current.names, log->config.self.node);
    if (!is_missing || !keep[self] || !log->lead.promises[self].p.is_durable)
        return;
    uint32_t count = 0;
    for (uint32_t i = 0; i < log->current.names.count; i++) {
        const struct log_promise *p = &log->lead.promises[i].p;
        if (keep[i] && p->is_durable &&
            log_voters_has(&log->survey.voters, p->member.node, p->member.store_id))
            count++;
    }
    if (count >= log_quorum(&log->survey.voters))
        start_without(log, keep);
}

void log_lead_timer(struct log *log)
{
    const struct log_timing *t = &log->config.timing;
    uint64_t since = log->now_ms - log->lead.since_ms;

    switch ((enum log_lead)log->lead.state) {
    case LOG_LEAD_NONE:
        return;
    case LOG_LEAD_PREPARING:
        if (since >= t->lease_ms / 2)
            give_up(log, "no quorum promised within L/2");
        else if (since >= t->heartbeat_ms)
            leave_out_silent(log);
        if (log->lead.state == LOG_LEAD_PREPARING && log->now_ms >= log->lead.resend_ms)
            send_prepare(log);
        return;
    case LOG_LEAD_FETCHING:
        if (since >= t->lease_ms / 2)
            give_up(log, "the log to adopt did not come within L/2");
        else if (log->now_ms - log->lead.fetched_ms >= t->heartbeat_ms)
            leave_out_silent(log);
        if (log->lead.state == LOG_LEAD_FETCHING)
            log_entries_ask(log, log->lead.winner, LOG_ENTRIES_FETCH);
        return;
    case LOG_LEAD_ADOPTING:
        if (since >= t->lease_ms / 2)
            give_up(log, "its OPEN was not committed within L/2");
        return;
    case LOG_LEAD_OPEN:
        if (log_is_stalled(log, t->lease_ms / 2))
            log_view_leave(log, "the store of the leader stalls for L/2");
        else if (log->survey.voter_index <= log->commit && !log_is_voter(log))
            log_view_leave(log, "the leader is no voter any more");
        else
            return;
        log->heartbeat_ms = log->now_ms;
        return;
    }
}

void log_lead_refused(struct log *log, const struct log_peer *peer, const struct log_msg *msg)
{
    const struct log_refuse *m = &msg->u.refuse;

    if (m->to != log->config.self.node || m->to_nonce != log->config.self.nonce)
        return;
    if (m->why == LOG_REFUSE_PROPOSAL) {
        if (log->phase == LOG_PHASE_OPEN && log_view_cmp(msg->header.view, log->promised) == 0)
            log_propose_refused(log, m->value);
    } else if (m->why == LOG_REFUSE_VERSION) {
        log->outdated = (struct log_outdated){log->config.self.node, log->config.self.proto_max,
                                              (uint16_t)m->value};
        log->outdated_ms = log->now_ms;
        log_trace(log, "n%u refuses this node: the log needs protocol %llu, it speaks up to %u",
                  peer->node, (unsigned long long)m->value, log->config.self.proto_max);
    } else {
        int cmp = log_view_cmp(log->durable_log_view, m->view);
        if (cmp < 0 || (cmp == 0 && log->stored_last < m->value))
            log_stop(log,
                     "n%u remembers more than this store holds, which ends at %llu: move its files "
                     "aside, then hactl cluster join",
                     peer->node, (unsigned long long)log->stored_last);
    }
}
