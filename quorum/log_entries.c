/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries on their way: numbered by the leader, stored in sequence with the chain checked, asked
 * for when missing, acknowledged when durable, committed when a quorum of voters has acknowledged
 * them in the current view. Acknowledgements are multicast, so each member counts for itself.
 */
#include "quorum/log_internal.h"

#define VIEW_FMT       "%llu.%u"
#define VIEW_ARG(view) (unsigned long long)(view).counter, (view).leader

void log_set_survey(struct log *log, const struct log_survey *survey)
{
    if (!ha_digest_equal(log->survey.voters.digest, survey->voters.digest))
        log->voters_ms = log->now_ms;
    log->survey = *survey;
}

void log_appended(struct log *log, const struct log_entry *entry)
{
    struct log_survey survey;

    if (entry->kind == LOG_KIND_STATE)
        return;
    survey = log->survey;
    log_survey_entry(&survey, entry);
    log_set_survey(log, &survey);
}

void log_entries_ask(struct log *log, uint32_t to, uint8_t mode)
{
    if (log->need_ms != 0 && log->now_ms - log->need_ms < log->config.timing.heartbeat_ms / 4)
        return;
    log->need_ms = log->now_ms;
    struct log_msg msg = log_msg_of(log, LOG_MSG_NEED, log->promised);
    msg.u.need = (struct log_need){.to = to, .mode = mode, .commit = log->commit};
    log_ring_runs(&log->ring, true, &msg.u.need.runs);
    log_send(log, &msg);
}

/* Takes one entry numbered in this view. Returns false when those behind it are of no use. */
static bool take(struct log *log, const struct log_entry *entry)
{
    struct ha_digest digest;

    if (entry->index <= log->ring.last) {
        if (!log_ring_digest(&log->ring, entry->index, &digest) ||
            ha_digest_equal(digest, entry->digest))
            return true;
        if (entry->index <= log->commit)
            log_stop(log, "entry %llu is committed here with another digest than at the leader",
                     (unsigned long long)entry->index);
        else if (log_may_trace_drop(log, 2))
            log_trace(log, "entry %llu of the leader differs from ours -> dropped",
                      (unsigned long long)entry->index);
        return false;
    }
    if (entry->index != log->ring.last + 1 || log_view_cmp(entry->view, log->current.view) != 0 ||
        !log_ring_digest(&log->ring, log->ring.last, &digest) ||
        !ha_digest_equal(log_entry_digest(digest, entry), entry->digest))
        return false;
    if (!log_ring_append(&log->ring, entry)) {
        if (log_may_trace_drop(log, 3))
            log_trace(log, "no room for entry %llu until a snapshot is made -> dropped",
                      (unsigned long long)entry->index);
        return false;
    }
    log->need_ms = 0;
    log_appended(log, entry);
    log_propose_seen(log, entry);
    return true;
}

static void receive_view(struct log *log, const struct log_entries *m)
{
    struct ha_reader r = ha_reader_of(m->list, m->list_size);
    struct log_entry entry;

    if (m->prev_index > log->ring.last) {
        log_entries_ask(log, log->current.view.leader, LOG_ENTRIES_VIEW);
        return;
    }
    for (uint16_t i = 0; i < m->count && !log->is_stopped; i++) {
        if (log_entry_decode(&r, &entry) < 0 || !take(log, &entry))
            break;
    }
    if (!log->is_stopped)
        log_commit_to(log, m->commit);
}

/* Committed entries for a node outside the view. Own entries that differ are uncommitted leftovers;
 * with a committed prefix of an open view's log this log may call that view its log view: whoever
 * compares logs later meets a quorum that has at least as much of it. */
static bool catch_up_entry(struct log *log, const struct log_entry *entry)
{
    struct log_ring *r = &log->ring;
    struct ha_digest previous;

    if (!r->is_staging) {
        const struct log_entry *own = log_ring_at(r, entry->index);
        if (entry->index < r->first || (own && ha_digest_equal(own->digest, entry->digest)))
            return true;
        if (entry->index <= log->commit) {
            log_stop(log, "entry %llu is committed here and elsewhere with different contents",
                     (unsigned long long)entry->index);
            return false;
        }
        if (own && log->writing.token != 0 && !log->writing.is_failed)
            return false; /* a write under way still reads what would go */
        if (entry->index > r->last + 1)
            return false;
        log_ring_stage(r, entry->index);
    }
    const struct log_entry *before = log_ring_staged(r, entry->index - 1);
    if (before)
        previous = before->digest;
    else if (!log_ring_digest(r, entry->index - 1, &previous))
        return false;
    return entry->index == r->stage_last + 1 &&
           ha_digest_equal(log_entry_digest(previous, entry), entry->digest) &&
           log_ring_stage_append(r, entry);
}

static void take_caught_up(struct log *log, struct log_view view)
{
    struct log_ring *r = &log->ring;
    struct log_survey survey;
    uint64_t first = r->stage_first;

    if (r->stage_last < first) { /* nothing fitted */
        log_ring_unstage(r);
        return;
    }
    if (first <= r->last) {
        log_survey_all(log, true, &survey);
        log->writing.truncate_from = first;
        if (log->durable_last >= first)
            log->durable_last = first - 1;
        log_ring_merge(r);
        log_set_survey(log, &survey);
    } else {
        log_ring_merge(r);
        for (uint64_t i = first; i <= r->last; i++)
            log_appended(log, log_ring_at(r, i));
    }
    log->log_view = view;
    log->needs_snapshot = false;
    log->need_ms = 0;
}

/* Takes what it can; returns the index up to which this log now surely equals the sender's. */
static uint64_t catch_up(struct log *log, const struct log_entries *m)
{
    struct ha_reader r = ha_reader_of(m->list, m->list_size);
    struct ha_digest digest;
    struct log_entry entry;
    uint64_t equal = m->prev_index;

    if (m->prev_index >= log->ring.first && (!log_ring_digest(&log->ring, m->prev_index, &digest) ||
                                             !ha_digest_equal(digest, m->prev_digest)))
        return 0;
    for (uint16_t i = 0; i < m->count && !log->is_stopped; i++) {
        if (log_entry_decode(&r, &entry) < 0 || !catch_up_entry(log, &entry))
            break;
        equal = entry.index;
    }
    return equal;
}

static void receive_catch_up(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    const struct log_entries *m = &msg->u.entries;

    if (log->phase != LOG_PHASE_IDLE || log->is_installing || m->to != log->config.self.node ||
        log_view_cmp(msg->header.view, log->log_view) < 0 || m->prev_index + m->count > m->commit)
        return;
    uint64_t equal = catch_up(log, m);
    if (log->is_stopped)
        return;
    if (log->ring.is_staging)
        take_caught_up(log, msg->header.view);
    if (equal <= log->commit_known || equal > log->ring.last)
        return;
    log->commit_known = equal;
    if (m->commit > equal)
        log_entries_ask(log, peer->node, LOG_ENTRIES_CATCH_UP);
}

static bool is_current_leader(const struct log *log, const struct log_peer *peer,
                              const struct log_msg *msg)
{
    return log_view_cmp(msg->header.view, log->current.view) == 0 &&
           log->current.view.leader == peer->node && log->current.leader_nonce == msg->header.nonce;
}

void log_entries_receive(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    const struct log_entries *m = &msg->u.entries;

    if (m->to != 0 && m->to != log->config.self.node)
        return;
    switch ((enum log_entries_mode)m->mode) {
    case LOG_ENTRIES_VIEW:
        if (log->phase >= LOG_PHASE_ADOPTED && is_current_leader(log, peer, msg) &&
            !log->is_installing)
            receive_view(log, m);
        return;
    case LOG_ENTRIES_ADOPT:
        if (log->phase == LOG_PHASE_PROMISED && log->lead.state == LOG_LEAD_NONE &&
            is_current_leader(log, peer, msg))
            log_view_adopt(log, msg);
        return;
    case LOG_ENTRIES_FETCH:
        if (log->lead.state == LOG_LEAD_FETCHING && peer->node == log->lead.winner &&
            log_view_cmp(msg->header.view, log->current.view) == 0)
            log_view_adopt(log, msg);
        return;
    case LOG_ENTRIES_CATCH_UP:
        receive_catch_up(log, peer, msg);
        return;
    case LOG_ENTRIES_MODE_END:
        return;
    }
}

/* May answer a NEED of this mode; *ret_last is what it may be sent at most. */
static bool may_answer(const struct log *log, const struct log_peer *peer,
                       const struct log_msg *msg, uint64_t *ret_last)
{
    bool is_same_view = log_view_cmp(msg->header.view, log->current.view) == 0;

    switch ((enum log_entries_mode)msg->u.need.mode) {
    case LOG_ENTRIES_VIEW:
        *ret_last = log->lead.sent;
        return is_same_view && log->lead.state == LOG_LEAD_OPEN;
    case LOG_ENTRIES_ADOPT:
        *ret_last = log->current.open_index;
        return is_same_view && log->lead.state >= LOG_LEAD_ADOPTING;
    case LOG_ENTRIES_FETCH:
        *ret_last = log->ring.last;
        return log->phase == LOG_PHASE_PROMISED && log->lead.state == LOG_LEAD_NONE &&
               is_current_leader(log, peer, msg);
    case LOG_ENTRIES_CATCH_UP:
        *ret_last = log->commit;
        return log->lead.state == LOG_LEAD_OPEN;
    case LOG_ENTRIES_MODE_END:
        break;
    }
    return false;
}

void log_entries_need(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    const struct log_need *m = &msg->u.need;
    uint64_t last;

    if (m->to != log->config.self.node || !may_answer(log, peer, msg, &last) ||
        !log_peer_is_trusted(peer))
        return; /* a store that lost entries must not be made to look whole */
    uint64_t common = log_ring_common(&log->ring, &m->runs, m->commit);
    if (m->commit > peer->hb.commit)
        peer->hb.commit = m->commit; /* it is nearer than its last heartbeat told */
    if (common > last)
        common = last;
    if (common + 1 < log->ring.first) {
        log_lead_want_snapshot(log, peer, common);
        return;
    }
    if (m->mode == LOG_ENTRIES_ADOPT) {
        log_lead_send_adopt(log, peer->node, common);
        return;
    }
    struct log_msg answer = log_msg_of(log, LOG_MSG_ENTRIES, log->current.view);
    struct log_entries *e = &answer.u.entries;
    *e = (struct log_entries){
        .mode = m->mode, .to = peer->node, .prev_index = common, .commit = log->commit};
    log_ring_digest(&log->ring, common, &e->prev_digest);
    if (m->mode == LOG_ENTRIES_FETCH) {
        e->final_index = last;
        log_ring_digest(&log->ring, last, &e->final_digest);
    }
    log_send_entries(log, &answer, common + 1, last);
}

void log_note_ack(struct log *log, struct log_peer *peer, struct log_view view, uint64_t index)
{
    struct ha_uuid store = peer == log->self ? log->config.self.store_id : peer->hb.member.store_id;

    if (peer != log->self && peer->hb.n == 0)
        return; /* whose store it is is not known yet */
    if (peer->log_nonce != 0 && ha_uuid_equal(peer->log_store, store)) {
        int cmp = log_view_cmp(view, peer->log_view);
        if (cmp < 0 || (cmp == 0 && index <= peer->log_index))
            return;
    }
    peer->log_nonce = peer == log->self ? log->config.self.nonce : peer->nonce;
    peer->log_store = store;
    peer->log_view = view;
    peer->log_index = index;
}

/* Counts members whose chain differs from ours in this view; a quorum of them means: it is us. */
static void off_chain(struct log *log, struct log_peer *peer, uint64_t index)
{
    uint32_t count = 0;

    if (!peer->is_off_chain || log_view_cmp(peer->off_chain_view, log->current.view) != 0)
        log_trace(log, "n%u acknowledges entry %llu with another digest -> it does not count",
                  peer->node, (unsigned long long)index);
    peer->is_off_chain = true;
    peer->off_chain_view = log->current.view;
    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *other = &log->peers[i];
        if (other->is_off_chain && log_view_cmp(other->off_chain_view, log->current.view) == 0 &&
            log_peer_is_voter(log, &log->survey.voters, other))
            count++;
    }
    if (count >= log_quorum(&log->survey.voters))
        log_stop(log, "a quorum has another entry %llu than this log: it is damaged",
                 (unsigned long long)index);
}

void log_entries_ack(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    const struct log_ack *m = &msg->u.ack;
    struct ha_digest digest;

    if (log->phase >= LOG_PHASE_ADOPTED && log_view_cmp(msg->header.view, log->current.view) == 0 &&
        log_ring_digest(&log->ring, m->index, &digest) && !ha_digest_equal(digest, m->digest)) {
        off_chain(log, peer, m->index);
        return;
    }
    log_note_ack(log, peer, msg->header.view, m->index);
    log_commit_count(log);
}

/* Up to which index voter i acknowledged in the current view. */
static uint64_t acknowledged_by(struct log *log, uint32_t i)
{
    const struct log_voters *voters = &log->survey.voters;
    const struct log_peer *peer = log_peer_find(log, voters->list[i].node);

    if (!peer || !log_peer_is_voter(log, voters, peer) ||
        log_view_cmp(peer->log_view, log->current.view) != 0)
        return 0;
    if (peer->is_off_chain && log_view_cmp(peer->off_chain_view, log->current.view) == 0)
        return 0;
    int at = log_names_find(&log->current.names, peer->node);
    if (at < 0 || log->current.names.list[at].nonce != peer->log_nonce)
        return 0;
    return peer->log_index;
}

void log_commit_count(struct log *log)
{
    uint64_t indexes[HA_NODES_MAX];
    uint32_t count = log->survey.voters.count;

    if (log->phase < LOG_PHASE_ADOPTED || count == 0)
        return;
    for (uint32_t i = 0; i < count; i++) { /* sorted, highest first */
        uint64_t index = acknowledged_by(log, i);
        uint32_t at = i;
        for (; at > 0 && indexes[at - 1] < index; at--)
            indexes[at] = indexes[at - 1];
        indexes[at] = index;
    }
    log_commit_to(log, indexes[log_quorum(&log->survey.voters) - 1]);
}

void log_commit_to(struct log *log, uint64_t index)
{
    if (index > log->ring.last)
        index = log->ring.last;
    /* Entries of older views are committed by this view's OPEN, never by counting (H10). */
    if (log->phase < LOG_PHASE_ADOPTED || index < log->current.open_index)
        return;
    if (index > log->commit_known)
        log->commit_known = index;
}

/* Tells what is committed, as far as the store was given it: a snapshot of the state must not come
 * to lie in the store ahead of the entries it covers. */
bool log_commit_advance(struct log *log)
{
    uint64_t given = log->writing.token != 0 ? log->writing.last : log->durable_last;
    uint64_t index = log->commit_known;
    uint64_t first = log->commit + 1;

    if (!log->writing.is_failed && index > given)
        index = given;
    if (index > log->ring.last)
        index = log->ring.last;
    if (index < first || log->is_stopped)
        return false;
    log->commit = index;
    log_act(log, LOG_ACT_COMMIT)->u.commit.index = index;
    log_propose_committed(log, first, index);
    if (log->phase == LOG_PHASE_ADOPTED && index >= log->current.open_index)
        log_view_opened(log);
    return true;
}

/* The leader sends what it numbered since: one message (if it fits) and, next, one write. While a
 * write is under way more gathers. */
void log_entries_flush(struct log *log)
{
    if (log->lead.state != LOG_LEAD_OPEN || log->writing.token != 0)
        return;
    while (log->lead.sent < log->ring.last) {
        struct log_msg msg = log_msg_of(log, LOG_MSG_ENTRIES, log->current.view);
        struct log_entries *m = &msg.u.entries;
        *m = (struct log_entries){
            .mode = LOG_ENTRIES_VIEW, .prev_index = log->lead.sent, .commit = log->commit};
        log_ring_digest(&log->ring, m->prev_index, &m->prev_digest);
        uint64_t sent = log_send_entries(log, &msg, log->lead.sent + 1, log->ring.last);
        if (sent == log->lead.sent)
            return; /* no room in this step: the next one goes on */
        log->lead.sent = sent;
    }
}

void log_persist_pump(struct log *log)
{
    struct log_writing *w = &log->writing;
    bool has_promise = log_view_cmp(log->promised, log->durable_promised) != 0;
    bool has_log_view = log_view_cmp(log->log_view, log->durable_log_view) != 0;
    bool has_entries = log->ring.last > log->durable_last;

    if (w->is_failed || w->token != 0 || log->is_installing || log->is_stopped ||
        (!has_promise && !has_log_view && !has_entries && w->truncate_from == 0))
        return;
    w->token = ++w->token_high;
    w->started_ms = log->now_ms;
    w->promised = log->promised;
    w->log_view = log->log_view;
    w->last = log->ring.last;
    struct log_action *action = log_act(log, LOG_ACT_PERSIST);
    action->u.persist.token = w->token;
    action->u.persist.has_promise = has_promise;
    action->u.persist.promised = log->promised;
    action->u.persist.has_log_view = has_log_view;
    action->u.persist.log_view = log->log_view;
    action->u.persist.truncate_from = w->truncate_from;
    action->u.persist.first = has_entries ? log->durable_last + 1 : 0;
    action->u.persist.last = has_entries ? log->ring.last : 0;
    w->truncate_from = 0;
}

static void acknowledge(struct log *log)
{
    struct log_msg msg;

    if (log->phase < LOG_PHASE_ADOPTED || log->durable_last < log->current.open_index ||
        log_view_cmp(log->durable_log_view, log->current.view) != 0)
        return;
    if (log_view_cmp(log->self->log_view, log->current.view) == 0 &&
        log->self->log_index >= log->durable_last)
        return;
    log_note_ack(log, log->self, log->current.view, log->durable_last);
    msg = log_msg_of(log, LOG_MSG_ACK, log->current.view);
    msg.u.ack.index = log->durable_last;
    if (log_ring_digest(&log->ring, log->durable_last, &msg.u.ack.digest))
        log_send(log, &msg);
    log_commit_count(log);
}

void log_persisted(struct log *log, uint64_t token, bool is_ok)
{
    struct log_writing *w = &log->writing;

    if (token == 0 || token != w->token)
        return;
    w->token = 0;
    if (!is_ok) {
        w->is_failed = true;
        log_trace(log, "the store failed -> this node resigns its vote");
        if (log->lead.state != LOG_LEAD_NONE)
            log_view_leave(log, "the store of the leader failed");
        log->heartbeat_ms = log->now_ms;
        return;
    }
    log->durable_promised = w->promised;
    log->durable_log_view = w->log_view;
    log->durable_last = log->stored_last = w->last;
    acknowledge(log);
}

void log_snapshot_installed(struct log *log, const struct log_event *event)
{
    uint64_t index = event->u.snapshot.index;
    struct log_survey survey = {.proto = log->survey.proto};

    if (event->u.snapshot.proto > survey.proto)
        survey.proto = event->u.snapshot.proto;
    log->is_installing = false;
    if (index == 0)
        return;
    if (!log_snapshot_is_newer(log, index, event->u.snapshot.log_view)) {
        log_stop(log, "a snapshot at %llu replaced a log that reaches %llu",
                 (unsigned long long)index, (unsigned long long)log->ring.last);
        return;
    }
    for (uint32_t i = 0; i < event->u.snapshot.voter_count && i < HA_NODES_MAX; i++)
        log_voters_add(&survey.voters, event->u.snapshot.voters[i].node,
                       event->u.snapshot.voters[i].store_id);
    log_voters_set_digest(&survey.voters);
    survey.open_view = event->u.snapshot.log_view;
    if (log_view_cmp(survey.open_view, log->current.view) == 0)
        survey.open_names = log->current.names;
    log_ring_init(&log->ring, index, event->u.snapshot.digest, event->u.snapshot.log_view);
    log->base_survey = survey;
    log_set_survey(log, &survey);
    log->durable_last = log->stored_last = index;
    log->commit = log->commit_known = index;
    log->writing.truncate_from = 0;
    log->needs_snapshot = false;
    log->need_ms = 0;
    if (log_view_cmp(event->u.snapshot.log_view, log->log_view) > 0)
        log->log_view = event->u.snapshot.log_view;
    log_trace(log, "snapshot at %llu stored -> go on from there", (unsigned long long)index);
    log_propose_snapshot(log, index, event->u.snapshot.log_view);
    if (log->phase == LOG_PHASE_ADOPTED && index >= log->current.open_index)
        log_view_opened(log);
    acknowledge(log);
}
