/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is there, and what each last said of itself. A peer is alive while the transport lists it and
 * its heartbeats come; a process is told from an older one of the same node by its nonce.
 */
#include <stdio.h>
#include <string.h>

#include "quorum/log_internal.h"

struct log_peer *log_peer_find(struct log *log, uint32_t node)
{
    for (uint32_t i = 0; i < log->peer_count; i++) {
        if (log->peers[i].node == node)
            return &log->peers[i];
    }
    return NULL;
}

static bool is_slot_free(const struct log *log, const struct log_peer *peer)
{
    return !peer->is_present && peer != log->self &&
           log_names_find(&log->current.names, peer->node) < 0 &&
           log_voters_find(&log->survey.voters, peer->node) < 0;
}

struct log_peer *log_peer_get(struct log *log, uint32_t node)
{
    struct log_peer *peer = log_peer_find(log, node);

    if (peer || node == 0)
        return peer;
    bool is_full = log->peer_count == HA_NODES_MAX;
    if (!is_full)
        peer = &log->peers[log->peer_count++];
    for (uint32_t i = 0; is_full && i < log->peer_count; i++) {
        struct log_peer *slot = &log->peers[i];
        if (is_slot_free(log, slot) && (!peer || slot->heard_ms < peer->heard_ms))
            peer = slot;
    }
    if (!peer)
        return NULL;
    /* When we last acknowledged the one forgotten must not count as longer ago than it was. */
    if (peer->ack_ms > log->forgotten_ms)
        log->forgotten_ms = peer->ack_ms;
    memset(peer, 0, sizeof(*peer));
    peer->node = node;
    return peer;
}

static bool is_listed(const struct log_event *event, uint32_t node)
{
    for (uint32_t i = 0; i < event->u.members.count && i < HA_NODES_MAX; i++) {
        if (event->u.members.nodes[i] == node)
            return true;
    }
    return false;
}

static void set_present(struct log *log, struct log_peer *peer, bool is_present)
{
    if (peer->is_present == is_present)
        return;
    peer->is_present = is_present;
    peer->is_heard = false;
    peer->present_ms = log->now_ms;
    log->attempt_ms = 0;
    log_trace(log, "members: n%u %s", peer->node, is_present ? "appeared" : "is gone");
}

void log_peers_members(struct log *log, const struct log_event *event)
{
    for (uint32_t i = 0; i < event->u.members.count && i < HA_NODES_MAX; i++) {
        if (!log_peer_get(log, event->u.members.nodes[i]) && log_may_trace_drop(log, 0))
            log_trace(log, "members: no room for n%u -> it is not seen", event->u.members.nodes[i]);
    }
    for (uint32_t i = 0; i < log->peer_count; i++)
        set_present(log, &log->peers[i], is_listed(event, log->peers[i].node));
    log->is_connected = log->self->is_present;
    log->heartbeat_ms = log->now_ms; /* whoever is new hears at once who is there */
}

bool log_peer_is_fresh(struct log *log, struct log_peer *peer, uint64_t nonce)
{
    uint64_t silence_ms = log->now_ms - peer->nonce_ms;

    peer->nonce_ms = log->now_ms;
    if (peer->nonce == nonce)
        return true;
    for (uint32_t i = 0; i < LOG_OLD_NONCES; i++) {
        if (peer->old_nonces[i] != nonce)
            continue;
        /* A late message of a dead process; unless it was the other one that came late. */
        if (silence_ms < 2 * (uint64_t)log->config.timing.heartbeat_ms) {
            peer->nonce_ms = log->now_ms - silence_ms;
            return false;
        }
        peer->old_nonces[i] = 0;
    }
    if (peer->nonce != 0) {
        log_trace(log, "n%u speaks as a new process -> what the old one said is void", peer->node);
        peer->old_nonces[peer->old_next++ % LOG_OLD_NONCES] = peer->nonce;
    }
    peer->nonce = nonce;
    peer->hb.n = 0;
    peer->is_heard = false;
    peer->acked_n = 0;
    peer->numbered_seq = 0;
    memset(peer->refused, 0, sizeof(peer->refused));
    return true;
}

bool log_peer_is_alive(const struct log *log, const struct log_peer *peer)
{
    if (peer == log->self)
        return log->is_connected;
    return peer->is_present && peer->is_heard &&
           log->now_ms - peer->heard_ms < log->config.timing.lease_ms / 2;
}

bool log_peer_is_named(const struct log *log, const struct log_peer *peer)
{
    int i = log_names_find(&log->current.names, peer->node);

    return i >= 0 && log->current.names.list[i].nonce == peer->nonce;
}

bool log_peer_is_voter(const struct log *log, const struct log_voters *voters,
                       const struct log_peer *peer)
{
    if (peer == log->self)
        return log_voters_has(voters, peer->node, log->config.self.store_id);
    return peer->hb.n != 0 && log_voters_has(voters, peer->node, peer->hb.member.store_id);
}

/* This process heard nothing for a while because it did not run: the others get a moment to be
 * heard before their silence counts. */
void log_peers_after_hang(struct log *log, uint64_t gap_ms)
{
    uint64_t half = log->config.timing.lease_ms / 2;
    uint64_t grace = 2 * (uint64_t)log->config.timing.heartbeat_ms;
    uint64_t before = log->now_ms - gap_ms;

    for (uint32_t i = 0; i < log->peer_count; i++) {
        struct log_peer *peer = &log->peers[i];
        if (!peer->is_heard || before - peer->heard_ms >= half)
            continue;
        if (grace < half && log->now_ms - peer->heard_ms > half - grace)
            peer->heard_ms = log->now_ms - (half - grace);
    }
    log_trace(log, "did not run for %llu ms -> others' silence counts from now",
              (unsigned long long)gap_ms);
}

/* It is named in no view again, so nobody asks for its promise and answers with this: its operator
 * must learn why. It believes it only if it is so (log_lead_refused). */
static void tell_rolled_back(struct log *log, struct log_peer *peer)
{
    if (peer->log_nonce == 0 ||
        (peer->refuse_ms != 0 && log->now_ms - peer->refuse_ms < log->config.timing.lease_ms))
        return;
    peer->refuse_ms = log->now_ms;
    struct log_msg msg = log_msg_of(log, LOG_MSG_REFUSE, log->promised);
    msg.u.refuse = (struct log_refuse){.to = peer->node,
                                       .to_nonce = peer->nonce,
                                       .why = LOG_REFUSE_ROLLED_BACK,
                                       .value = peer->log_index,
                                       .view = peer->log_view};
    log_send(log, &msg);
}

/* A store that holds less than it acknowledged as an earlier process has lost entries (H5). It must
 * be said twice, h apart: once may be a late message of the earlier process. */
static void check_rollback(struct log *log, struct log_peer *peer)
{
    const struct log_heartbeat *hb = &peer->hb;

    if (peer->is_rolled_back && !ha_uuid_equal(peer->rolled_back_store, hb->member.store_id))
        peer->is_rolled_back = false;
    if (peer->is_rolled_back)
        tell_rolled_back(log, peer);
    if (peer->suspect_nonce == peer->nonce && !peer->is_rolled_back) {
        if (log->now_ms - peer->suspect_ms < log->config.timing.heartbeat_ms)
            return;
        peer->is_rolled_back = true;
        peer->rolled_back_store = hb->member.store_id;
        log_trace(log, "n%u's log had lost entries it acknowledged -> it counts nowhere",
                  peer->node);
        tell_rolled_back(log, peer);
        return;
    }
    peer->suspect_nonce = 0;
    if (peer->is_rolled_back || peer->log_nonce == 0 || peer->log_nonce == peer->nonce ||
        !ha_uuid_equal(peer->log_store, hb->member.store_id))
        return;
    int cmp = log_view_cmp(hb->log_view, peer->log_view);
    if (cmp > 0 || (cmp == 0 && hb->last >= peer->log_index))
        return;
    peer->suspect_nonce = peer->nonce;
    peer->suspect_ms = log->now_ms;
    log_trace(log, "n%u's log ends at %llu, it acknowledged %llu -> not believed yet", peer->node,
              (unsigned long long)hb->last, (unsigned long long)peer->log_index);
}

bool log_peer_is_trusted(const struct log_peer *peer)
{
    return !peer->is_rolled_back &&
           (peer->suspect_nonce == 0 || peer->suspect_nonce != peer->nonce);
}

/* What is committed anywhere is committed: whoever has the same entry there knows it too. */
static void learn_commit(struct log *log, const struct log_peer *peer)
{
    struct ha_digest digest;

    if (peer->hb.commit == 0 || !log_ring_digest(&log->ring, peer->hb.commit, &digest))
        return;
    bool is_same = ha_digest_equal(digest, peer->hb.commit_digest);
    if (is_same && peer->hb.commit > log->commit_known)
        log->commit_known = peer->hb.commit;
    else if (!is_same && peer->hb.commit <= log->commit && log_may_trace_drop(log, 2))
        log_trace(log, "n%u has another committed entry %llu than this log", peer->node,
                  (unsigned long long)peer->hb.commit);
}

/* Says what this node lacks of the log of an open view, if it hears so from the leader. */
static void follow(struct log *log, struct log_peer *peer)
{
    const struct log_heartbeat *hb = &peer->hb;
    bool is_leader = hb->open.leader == peer->node && hb->phase == LOG_PHASE_OPEN;

    if (log_view_cmp(peer->promised, log->current.view) == 0 &&
        log->current.view.leader == peer->node && log->current.leader_nonce == peer->nonce) {
        if (log->phase == LOG_PHASE_PROMISED && hb->phase >= LOG_PHASE_ADOPTED)
            log_entries_ask(log, peer->node, LOG_ENTRIES_ADOPT);
        if (log->phase >= LOG_PHASE_ADOPTED && hb->end > log->ring.last)
            log_entries_ask(log, peer->node, LOG_ENTRIES_VIEW);
        return;
    }
    if (log->phase == LOG_PHASE_IDLE && is_leader && hb->commit > log->commit)
        log_entries_ask(log, peer->node, LOG_ENTRIES_CATCH_UP);
}

void log_peers_heartbeat(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    const struct log_heartbeat *hb = &msg->u.heartbeat;

    if (hb->member.node != peer->node || hb->n <= peer->hb.n)
        return;
    memcpy(&peer->hb, hb, offsetof(struct log_heartbeat, acks)); /* those are looked at here */
    peer->hb.ack_count = 0;
    peer->promised = msg->header.view;
    peer->hb_ms = log->now_ms;
    peer->heard_ms = log->now_ms;
    peer->is_heard = true;
    check_rollback(log, peer);
    if (hb->acked > 0) {
        log_note_ack(log, peer, msg->header.view, hb->acked);
        log_commit_count(log); /* its ACK may have been lost, and no other need follow */
    }
    log_lease_heard(log, peer, hb);
    learn_commit(log, peer);
    if (log->phase != LOG_PHASE_IDLE && log_view_cmp(hb->open, log->promised) > 0) {
        log_trace(log, "n%u is open in view %llu.%u, later than ours", peer->node,
                  (unsigned long long)hb->open.counter, hb->open.leader);
        log_view_leave(log, "a later view is open without this node");
    }
    follow(log, peer);
    if (log->lead.state >= LOG_LEAD_ADOPTING && hb->phase == LOG_PHASE_PROMISED &&
        log_view_cmp(peer->promised, log->current.view) == 0 && log_peer_is_named(log, peer) &&
        log->now_ms - peer->adopt_ms >= log->config.timing.heartbeat_ms / 2)
        log_lead_send_adopt(log, peer->node, hb->last);
    uint64_t soon = log->now_ms + log->config.timing.heartbeat_ms / 10;
    if ((hb->flags & LOG_FLAG_URGENT) && log_peer_is_named(log, peer) && log->heartbeat_ms > soon)
        log->heartbeat_ms = soon;
}

static uint16_t own_flags(const struct log *log)
{
    unsigned flags = 0;

    if (log_can_lead(log) && !log->is_standing_back)
        flags |= LOG_FLAG_CAN_LEAD;
    if (log->writing.is_failed)
        flags |= LOG_FLAG_STORE_FAILED;
    if (log_is_stalled(log, log->config.timing.lease_ms / 2))
        flags |= LOG_FLAG_STALLED;
    if (log->needs_snapshot)
        flags |= LOG_FLAG_SNAPSHOT;
    if (!log->lease.is_void && log->lease.end_ms == 0)
        flags |= LOG_FLAG_URGENT;
    return (uint16_t)flags;
}

/* Acknowledges the members of the view last promised, each by the process that was named. */
static void fill_acks(struct log *log, struct log_heartbeat *hb)
{
    hb->ack_count = 0;
    for (uint32_t i = 0; i < log->current.names.count; i++) {
        struct log_peer *peer = log_peer_find(log, log->current.names.list[i].node);
        if (!peer || peer == log->self || peer->hb.n == 0 || !log_peer_is_named(log, peer))
            continue;
        hb->acks[hb->ack_count].node = peer->node;
        hb->acks[hb->ack_count].nonce = peer->nonce;
        hb->acks[hb->ack_count].n = peer->hb.n;
        hb->acks[hb->ack_count].is_opened = log_lease_is_opened(log, peer->node, peer->nonce);
        hb->ack_count++;
        if (peer->hb_ms > peer->ack_ms)
            peer->ack_ms = peer->hb_ms;
    }
}

uint64_t log_heard_oldest_ms(const struct log *log)
{
    uint64_t oldest = log->now_ms;

    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (peer->is_heard && peer->heard_ms < oldest &&
            peer->heard_ms + log->config.timing.lease_ms / 2 > log->now_ms &&
            log_names_find(&log->current.names, peer->node) >= 0)
            oldest = peer->heard_ms;
    }
    return oldest;
}

void log_heartbeat_send(struct log *log)
{
    struct log_msg msg = log_msg_of(log, LOG_MSG_HEARTBEAT, log->promised);
    struct log_heartbeat *hb = &msg.u.heartbeat;

    log->heartbeat_ms = log->now_ms + log->config.timing.heartbeat_ms;
    log->lease.n++;
    log->lease.starts[log->lease.n % LOG_STARTS] = log->now_ms;
    hb->n = log->lease.n;
    hb->member = log->config.self;
    hb->flags = own_flags(log);
    hb->phase = log->phase;
    hb->log_view = log->durable_log_view;
    hb->first = log->ring.first;
    hb->last = log->stored_last;
    hb->end = log->ring.last;
    hb->commit = log->commit;
    hb->commit_digest = (struct ha_digest){0, 0};
    log_ring_digest(&log->ring, log->commit, &hb->commit_digest);
    hb->opened = log_lease_opened_view(log);
    hb->acked = log_view_cmp(log->self->log_view, log->promised) == 0 ? log->self->log_index : 0;
    hb->open = log->phase == LOG_PHASE_OPEN ? log->current.view : (struct log_view){0, 0};
    hb->voters = log->survey.voters.digest;
    fill_acks(log, hb);
    log->heard_floor_ms = log_heard_oldest_ms(log);
    log_send(log, &msg);
    log_lease_count(log); /* a single voter needs nobody else's acknowledgement */
}
