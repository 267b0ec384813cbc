/* SPDX-License-Identifier: Apache-2.0
 *
 * When a new view is wanted, who starts it, whom it names. While the leader of an open view is
 * heard it alone starts the next one; otherwise the lowest of those with the newest log does, at
 * once, and the others only when nothing came of it. Who stands back comes after all others, and
 * leaves a view that it leads. Racing leaders are harmless, so all of this is only about speed and
 * peace.
 */
#include <stdio.h>

#include "quorum/log_internal.h"

#define VIEW_FMT       "%llu.%u"
#define VIEW_ARG(view) (unsigned long long)(view).counter, (view).leader
#define YIELD_LEASES   10u /* between two tries to give the lead away, in L */

/* Of these voters that could promise durably this node hears a quorum, itself included, `without`
 * not; is_backed: of those that have promised no later view. */
static bool hears_quorum_of(const struct log *log, const struct log_voters *voters,
                            uint32_t without, bool is_backed)
{
    uint32_t quorum = log_quorum(voters);
    uint32_t count = log->is_connected && log_peer_is_voter(log, voters, log->self);

    for (uint32_t i = 0; i < log->peer_count && count < quorum; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (peer == log->self || peer->node == without || !log_peer_is_trusted(peer) ||
            !log_peer_is_alive(log, peer) || (peer->hb.flags & LOG_FLAG_STORE_FAILED))
            continue;
        if (is_backed && log_view_cmp(peer->promised, log->promised) > 0)
            continue;
        count += log_peer_is_voter(log, voters, peer);
    }
    return count >= quorum;
}

/* A log that is ahead and no longer has in memory what we would have to fetch. */
static bool is_out_of_reach(const struct log *log)
{
    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (peer != log->self && log_peer_is_alive(log, peer) &&
            log->ring.last + 1 < peer->hb.first &&
            log_peer_is_voter(log, &log->survey.voters, peer))
            return true;
    }
    return false;
}

bool log_hears_quorum(const struct log *log)
{
    return hears_quorum_of(log, &log->survey.voters, 0, false);
}

bool log_hears_quorum_without(const struct log *log, uint32_t node)
{
    return hears_quorum_of(log, &log->survey.voters, node, false);
}

bool log_is_backed(const struct log *log)
{
    struct log_voters before;

    if (!hears_quorum_of(log, &log->survey.voters, 0, true))
        return false;
    if (log->survey.voter_index <= log->commit)
        return true;
    /* A vote may be taken or given by who can't tell a quorum of it any more. */
    log_voters_before(log, &before);
    return hears_quorum_of(log, &before, 0, true);
}

bool log_can_lead(const struct log *log)
{
    return log->is_connected && !log->is_stopped && !log->is_installing &&
           !log->writing.is_failed && !log->needs_snapshot &&
           !log_is_stalled(log, log->config.timing.heartbeat_ms) &&
           log->config.self.proto_max >= log->survey.proto &&
           log_peer_is_voter(log, &log->survey.voters, log->self) && log_hears_quorum(log) &&
           !is_out_of_reach(log);
}

void log_lead_want_snapshot(struct log *log, struct log_peer *peer, uint64_t have)
{
    if (peer->snapshot_ms != 0 && log->now_ms - peer->snapshot_ms < log->config.timing.lease_ms)
        return;
    peer->snapshot_ms = log->now_ms;
    log_trace(log, "n%u has up to %llu, memory begins at %llu -> it needs a snapshot", peer->node,
              (unsigned long long)have, (unsigned long long)log->ring.first);
    struct log_action *action = log_act(log, LOG_ACT_SNAPSHOT_SEND);
    action->u.snapshot.node = peer->node;
    action->u.snapshot.have = have;
}

/* The peer speaks a protocol that all named so far (range low..high) speak and the log allows. */
static bool speaks(struct log *log, struct log_peer *peer, uint16_t *low, uint16_t *high)
{
    const struct log_member *m = &peer->hb.member;
    uint16_t new_low = m->proto_min > *low ? m->proto_min : *low;
    uint16_t new_high = m->proto_max < *high ? m->proto_max : *high;

    if (new_low <= new_high && new_high >= log->survey.proto) {
        *low = new_low;
        *high = new_high;
        return true;
    }
    uint16_t needed = *low > log->survey.proto ? *low : log->survey.proto;
    log->outdated = (struct log_outdated){peer->node, m->proto_max, needed};
    log->outdated_ms = log->now_ms;
    if (peer->refuse_ms != 0 && log->now_ms - peer->refuse_ms < log->config.timing.lease_ms)
        return false;
    peer->refuse_ms = log->now_ms;
    log_trace(log, "n%u speaks protocol %u to %u, %u to %u is needed -> not taken into a view",
              peer->node, m->proto_min, m->proto_max, needed, *high);
    struct log_msg msg = log_msg_of(log, LOG_MSG_REFUSE, log->promised);
    msg.u.refuse = (struct log_refuse){
        .to = peer->node, .to_nonce = peer->nonce, .why = LOG_REFUSE_VERSION, .value = needed};
    log_send(log, &msg);
    return false;
}

/* At most one batch behind. Beside an open view its commit index tells that: the end of its log may
 * be leftovers. Without one nobody knows what is committed, and the end `end` of the longest log
 * has to do. */
static bool is_near(const struct log *log, const struct log_peer *peer, uint64_t end)
{
    bool is_open = log->phase == LOG_PHASE_OPEN;
    uint64_t at = is_open ? peer->hb.commit : peer->hb.last;

    return at + LOG_BATCH >= (is_open ? log->commit : end) && at + 1 >= log->ring.first &&
           !(peer->hb.flags & LOG_FLAG_SNAPSHOT);
}

/* What it lacks is in memory here, and not so much that it could not take it at once. */
static bool is_in_reach(const struct log *log, const struct log_peer *peer)
{
    return peer->hb.last + 1 >= log->ring.first && !(peer->hb.flags & LOG_FLAG_SNAPSHOT) &&
           (peer->hb.last >= log->ring.last ||
            log->ring.last - peer->hb.last <= log->ring.capacity / 2);
}

/* May be named, its log left aside. */
static bool is_nameable(const struct log *log, const struct log_peer *peer)
{
    return peer != log->self && log_peer_is_alive(log, peer) && peer->hb.n != 0 &&
           log_peer_is_trusted(peer);
}

static uint64_t longest(const struct log *log)
{
    uint64_t last = log->ring.last;

    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (is_nameable(log, peer) && peer->hb.last > last &&
            log_view_cmp(peer->hb.log_view, log->durable_log_view) >= 0)
            last = peer->hb.last;
    }
    return last;
}

static void add_name(struct log_names *names, uint32_t node, uint64_t nonce)
{
    uint32_t at = names->count++;

    for (; at > 0 && names->list[at - 1].node > node; at--)
        names->list[at] = names->list[at - 1];
    names->list[at] = (struct log_name){.node = node, .nonce = nonce};
}

/* Names self and all heard: those near only, or all in reach. Returns how many voters that is. */
static uint32_t name_members(struct log *log, bool are_near, struct log_names *ret_names)
{
    uint16_t low = log->config.self.proto_min;
    uint16_t high = log->config.self.proto_max;
    uint64_t end = longest(log);
    uint32_t voters = 1;

    ret_names->count = 0;
    add_name(ret_names, log->config.self.node, log->config.self.nonce);
    for (uint32_t i = 0; i < log->peer_count; i++) {
        struct log_peer *peer = &log->peers[i];
        if (!is_nameable(log, peer))
            continue;
        /* Heartbeats tell an old end of a busy member's log: it was near when it was named. */
        bool is_member = log_peer_is_named(log, peer) && peer->hb.last + 1 >= log->ring.first &&
                         !(peer->hb.flags & LOG_FLAG_SNAPSHOT);
        if (!is_member && !(are_near ? is_near(log, peer, end) : is_in_reach(log, peer)))
            continue;
        if (!speaks(log, peer, &low, &high))
            continue;
        add_name(ret_names, peer->node, peer->nonce);
        if (log_peer_is_voter(log, &log->survey.voters, peer) &&
            !(peer->hb.flags & LOG_FLAG_STORE_FAILED))
            voters++;
    }
    return voters;
}

/* They lack more than memory holds, and the voters of the log to be adopted may need them. */
static void feed_distant(struct log *log)
{
    for (uint32_t i = 0; i < log->peer_count; i++) {
        struct log_peer *peer = &log->peers[i];
        if (is_nameable(log, peer) && !is_in_reach(log, peer) && peer->hb.commit < log->commit)
            log_lead_want_snapshot(log, peer, peer->hb.last);
    }
}

static void text_of_names(const struct log_names *names, char *ret_text, size_t size)
{
    size_t at = 0;

    ret_text[0] = '\0';
    for (uint32_t i = 0; i < names->count && at + 16 < size; i++)
        at += (size_t)snprintf(ret_text + at, size - at, " n%u", names->list[i].node);
}

static void start(struct log *log, const char *why)
{
    struct log_names names;
    char text[120];
    uint32_t quorum = log_quorum(&log->survey.voters);

    /* Who is far behind is left to catch up later, unless it takes all to be a quorum (which the
     * log to be adopted may see in another way than ours). */
    feed_distant(log);
    bool is_enough = log->attempts == 0 && name_members(log, true, &names) >= quorum;
    if (!is_enough && name_members(log, false, &names) < quorum) {
        log->attempt_ms = log->now_ms + log->config.timing.heartbeat_ms / 2;
        if (log_may_trace_drop(log, 1))
            log_trace(log, "%s, but those in reach are no quorum -> wait", why);
        return;
    }
    text_of_names(&names, text, sizeof(text));
    log_lead_start(log, &names);
    log_trace(log, "%s -> prepare view " VIEW_FMT " of%s", why, VIEW_ARG(log->current.view), text);
}

/* Why a member makes the leader's view outdated; NULL if it does not. */
static const char *member_trouble(struct log *log, const struct log_name *name)
{
    const struct log_peer *peer = log_peer_find(log, name->node);

    if (name->node == log->config.self.node)
        return NULL;
    if (!peer || !peer->is_present)
        return "a member is gone";
    if (peer->nonce != name->nonce)
        return "a member is a new process";
    if (!log_peer_is_alive(log, peer))
        return "a member is silent for L/2";
    int cmp = log_view_cmp(peer->promised, log->current.view);
    if (cmp > 0)
        return "a member promised a later view";
    if (cmp == 0 && peer->hb.phase == LOG_PHASE_IDLE)
        return "a member left the view";
    return NULL;
}

static const char *leader_wants(struct log *log)
{
    for (uint32_t i = 0; i < log->current.names.count; i++) {
        const char *why = member_trouble(log, &log->current.names.list[i]);
        if (why)
            return why;
    }
    /* Joiners can wait a moment for each other. */
    if (log->now_ms - log->current.opened_ms < log->config.timing.heartbeat_ms)
        return NULL;
    for (uint32_t i = 0; i < log->peer_count; i++) {
        struct log_peer *peer = &log->peers[i];
        uint16_t low = log->config.self.proto_min;
        uint16_t high = log->config.self.proto_max;
        if (!is_nameable(log, peer) || log_names_find(&log->current.names, peer->node) >= 0)
            continue;
        if (is_near(log, peer, log->commit) && speaks(log, peer, &low, &high))
            return "a node is ready to join";
    }
    return NULL;
}

/* Why a member does without its leader; NULL while that one does its work. */
static const char *follower_wants(struct log *log)
{
    const struct log_peer *leader = log_peer_find(log, log->current.view.leader);

    if (!leader || !leader->is_present)
        return "the leader is gone";
    if (leader->nonce != log->current.leader_nonce)
        return "the leader is a new process";
    if (!log_peer_is_alive(log, leader))
        return "the leader is silent for L/2";
    if (leader->hb.flags & (LOG_FLAG_STORE_FAILED | LOG_FLAG_STALLED))
        return "the leader's store does not answer";
    if (log_view_cmp(leader->promised, log->current.view) >= 0 &&
        leader->hb.phase == LOG_PHASE_IDLE)
        return "the leader left the view";
    return NULL;
}

static const char *wanted(struct log *log)
{
    switch ((enum log_phase)log->phase) {
    case LOG_PHASE_IDLE:
        return "no view is open";
    case LOG_PHASE_PROMISED:
    case LOG_PHASE_ADOPTED:
        return NULL;
    case LOG_PHASE_OPEN:
        break;
    }
    return log->lead.state == LOG_LEAD_OPEN ? leader_wants(log) : follower_wants(log);
}

/* A leader of an open view is heard: it takes this node in when it is ready. */
static bool hears_open_leader(const struct log *log)
{
    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (peer != log->self && log_peer_is_alive(log, peer) && peer->hb.phase == LOG_PHASE_OPEN &&
            peer->hb.open.leader == peer->node &&
            !(peer->hb.flags & (LOG_FLAG_STORE_FAILED | LOG_FLAG_STALLED)))
            return true;
    }
    return false;
}

/* Says that it can lead, or had no time yet to hear who is there. */
static bool may_lead(const struct log *log, const struct log_peer *peer)
{
    if (peer->hb.flags & LOG_FLAG_CAN_LEAD)
        return true;
    return log->phase == LOG_PHASE_IDLE && peer->hb.n <= 2 &&
           !(peer->hb.flags & LOG_FLAG_STORE_FAILED) &&
           log_peer_is_voter(log, &log->survey.voters, peer);
}

/* How many others are better placed: newer log, or as new and lower; all, for who stands back. */
static uint32_t rank(const struct log *log)
{
    uint32_t better = 0;

    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (!is_nameable(log, peer) || !may_lead(log, peer))
            continue;
        int cmp = log_view_cmp(peer->hb.log_view, log->durable_log_view);
        if (log->is_standing_back || cmp > 0 || (cmp == 0 && peer->node < log->config.self.node))
            better++;
    }
    return better;
}

/* Nodes that just appeared get a moment to be heard, where nobody waits for this view yet. */
static bool awaits_newcomers(const struct log *log)
{
    if (log->phase != LOG_PHASE_IDLE)
        return false;
    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (peer != log->self && peer->is_present && !peer->is_heard &&
            log->now_ms - peer->present_ms < log->config.timing.heartbeat_ms / 4)
            return true;
    }
    return false;
}

static bool is_my_turn(struct log *log)
{
    uint64_t h = log->config.timing.heartbeat_ms;

    if (log->lead.state == LOG_LEAD_OPEN)
        return true;
    if (hears_open_leader(log) || awaits_newcomers(log)) {
        log->wanted_ms = 0;
        return false;
    }
    uint32_t better = rank(log);
    if (better == 0)
        return true;
    if (log->wanted_ms == 0) {
        log->wanted_ms = log->now_ms + better * h + h / 2 + ha_rng_below(&log->rng, h / 2 + 1);
        return false;
    }
    return log->now_ms >= log->wanted_ms;
}

/* A named member that is gone makes the list wrong before the view is open. */
static void check_preparing(struct log *log)
{
    for (uint32_t i = 0; i < log->current.names.count; i++) {
        const struct log_name *name = &log->current.names.list[i];
        const struct log_peer *peer = log_peer_find(log, name->node);
        if (peer == log->self ||
            (peer && peer->nonce == name->nonce && log_peer_is_alive(log, peer)))
            continue;
        if (!log_can_lead(log)) {
            log_view_leave(log, "a member is gone and no quorum is heard");
            return;
        }
        start(log, "a member is gone before the view opened");
        return;
    }
}

/* Who lacks more than memory holds, or says that it found no room, needs a snapshot. */
static void feed_by_snapshot(struct log *log)
{
    for (uint32_t i = 0; i < log->peer_count; i++) {
        struct log_peer *peer = &log->peers[i];
        if (is_nameable(log, peer) && (peer->hb.flags & LOG_FLAG_SNAPSHOT) &&
            peer->hb.commit < log->commit)
            log_lead_want_snapshot(log, peer, peer->hb.last);
    }
}

/* A member of the view that this node leads, which stands back, could lead the next one. It is
 * asked for seldom: if nothing came of it, a view without a plan is more than none. */
static bool can_yield(const struct log *log)
{
    if (!log->is_standing_back || log->lead.state != LOG_LEAD_OPEN || log->now_ms < log->yield_ms)
        return false;
    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (peer != log->self && log_peer_is_named(log, peer) && log_peer_is_alive(log, peer) &&
            peer->hb.phase == LOG_PHASE_OPEN && (peer->hb.flags & LOG_FLAG_CAN_LEAD) &&
            log_view_cmp(peer->hb.open, log->current.view) == 0)
            return true;
    }
    return false;
}

void log_lead_decide(struct log *log)
{
    if (log->is_stopped || !log->is_connected || log->is_installing)
        return;
    if (log->lead.state == LOG_LEAD_PREPARING || log->lead.state == LOG_LEAD_FETCHING) {
        check_preparing(log);
        return;
    }
    if (can_yield(log)) {
        log->yield_ms = log->now_ms + YIELD_LEASES * log->config.timing.lease_ms;
        log_view_leave(log, "the state does not take this node in, another is to lead");
        return;
    }
    const char *why = wanted(log);
    if (log->lead.state == LOG_LEAD_OPEN)
        feed_by_snapshot(log);
    if (!why || !log_can_lead(log)) {
        log->wanted_ms = 0;
        return;
    }
    if (log->now_ms < log->attempt_ms || !is_my_turn(log))
        return;
    feed_by_snapshot(log);
    start(log, why);
}
