/* SPDX-License-Identifier: Apache-2.0
 *
 * Proposals from their making to their fate. A member sends its own in order and again until it
 * sees them in the log; the leader numbers each (process, seq) once, because it takes a process'
 * proposals only in order: a message tells which proposal went before its first one. The fate of
 * what an older view left open is known when the next view opens: its OPEN commits all that is
 * adopted, and nothing of an older view is numbered any more.
 */
#include <string.h>

#include "quorum/log_internal.h"

#define FATES_MAX 240u /* actions of a step after which fates wait for the next one */

enum numbering { NUMBERED, REFUSED, NOT_NOW };

static struct log_pending *slot_at(struct log_pendings *p, uint64_t i)
{
    return &p->list[i % LOG_PENDING_MAX];
}

static struct log_pending *find(struct log_pendings *p, uint64_t seq)
{
    for (uint64_t i = p->low; i < p->high; i++) {
        if (slot_at(p, i)->seq == seq)
            return slot_at(p, i);
    }
    return NULL;
}

static void resolve(struct log_pending *slot, uint64_t index)
{
    if (slot->is_done)
        return;
    slot->is_done = true;
    slot->index = index;
}

/* Copies a body behind the newest one; false when there is no room. */
static bool keep_body(struct log_pendings *p, struct log_pending *slot, const uint8_t *body,
                      size_t size)
{
    uint64_t tail = p->low < p->high ? slot_at(p, p->low)->offset : p->head;
    uint64_t at = p->head;
    uint64_t to_end = p->byte_capacity - at % p->byte_capacity;

    if (size > to_end)
        at += to_end;
    if (at + size - tail > p->byte_capacity)
        return false;
    if (size > 0)
        memcpy(p->bytes + at % p->byte_capacity, body, size);
    slot->offset = at;
    slot->body_size = (uint32_t)size;
    p->head = at + size;
    return true;
}

static void tell(struct log *log, uint64_t seq, uint64_t index, bool is_unknown)
{
    struct log_action *action = log_act(log, LOG_ACT_PROPOSED);

    action->u.proposed.seq = seq;
    action->u.proposed.index = index;
    action->u.proposed.is_unknown = is_unknown;
}

static bool is_sound(const struct log_event *event)
{
    struct log_voter_change change;

    if (event->u.propose.body_size > HA_ENTRY_MAX)
        return false;
    if (event->u.propose.kind == LOG_KIND_VOTER)
        return log_voter_change_decode(event->u.propose.body, event->u.propose.body_size,
                                       &change) == 0;
    return event->u.propose.kind == LOG_KIND_STATE;
}

void log_propose_local(struct log *log, const struct log_event *event)
{
    struct log_pendings *p = &log->pending;
    struct log_pending slot = {
        .seq = event->u.propose.seq, .kind = event->u.propose.kind, .view = log->current.view};

    if (log->phase != LOG_PHASE_OPEN || !is_sound(event) || p->high - p->low >= LOG_PENDING_MAX ||
        slot.seq <= p->seq_high ||
        !keep_body(p, &slot, event->u.propose.body, event->u.propose.body_size)) {
        tell(log, event->u.propose.seq, 0, false);
        return;
    }
    p->seq_high = slot.seq;
    *slot_at(p, p->high) = slot;
    p->high++;
}

/* Without the vote of `node`: are the members that are heard still a quorum? Else the removal could
 * not be committed, and would count all the same: it waits in the log for a voter that is gone. */
static bool is_quorum_without(struct log *log, uint32_t node)
{
    const struct log_voters *voters = &log->survey.voters;
    uint32_t count = 0;

    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        count += peer->node != node && log_peer_is_named(log, peer) &&
                 log_peer_is_alive(log, peer) && log_peer_is_voter(log, voters, peer) &&
                 !(peer->hb.flags & LOG_FLAG_STORE_FAILED);
    }
    return count >= (voters->count - 1) / 2 + 1;
}

/* A new voter must be a member whose store has just shown that it works: a vote given to one that
 * can't store may take the quorum away for good. So may a vote taken. */
static bool may_vote(struct log *log, const struct log_voter_change *change)
{
    if (!change->is_added)
        return is_quorum_without(log, change->node);
    const struct log_peer *peer = log_peer_find(log, change->node);

    return peer && log_peer_is_named(log, peer) && peer->log_nonce == peer->nonce &&
           ha_uuid_equal(peer->log_store, change->store_id) &&
           log_view_cmp(peer->log_view, log->current.view) == 0 &&
           peer->log_index + LOG_BATCH >= log->commit && !log->writing.is_failed;
}

/* Gives a proposal the next number, if it may have one. */
static enum numbering number(struct log *log, uint32_t origin, uint64_t nonce,
                             const struct log_proposal *proposal)
{
    struct log_voter_change change;
    struct ha_digest previous;
    struct log_entry entry = {.index = log->ring.last + 1,
                              .view = log->current.view,
                              .kind = proposal->kind,
                              .origin = origin,
                              .nonce = nonce,
                              .seq = proposal->seq,
                              .mono_ms = log->now_ms,
                              .wall_ms = log->wall_ms,
                              .body_size = proposal->body_size,
                              .body = proposal->body};

    if (proposal->kind == LOG_KIND_VOTER) {
        /* One at a time, each after the one before is committed in this view (H6): its OPEN is. */
        if (log->survey.voter_index > log->commit)
            return NOT_NOW;
        if (log_voter_change_decode(proposal->body, proposal->body_size, &change) < 0 ||
            !log_voters_accept(&log->survey.voters, &change)) {
            log_trace(log, "n%u proposes a voter change that changes nothing -> refused", origin);
            return REFUSED;
        }
        if (!may_vote(log, &change)) {
            log_trace(log,
                      change.is_added
                          ? "n%u has not acknowledged the newest entries -> no vote for it yet"
                          : "without the vote of n%u this view is no quorum -> it stays",
                      change.node);
            return REFUSED;
        }
    }
    if (!log_ring_digest(&log->ring, log->ring.last, &previous))
        return NOT_NOW;
    entry.digest = log_entry_digest(previous, &entry);
    if (!log_ring_has_room(&log->ring, entry.body_size) || !log_ring_append(&log->ring, &entry)) {
        if (log_may_trace_drop(log, 3))
            log_trace(log, "no room for entry %llu until a snapshot is made -> proposals wait",
                      (unsigned long long)entry.index);
        return NOT_NOW;
    }
    log_appended(log, &entry);
    return NUMBERED;
}

static void number_own(struct log *log)
{
    struct log_pendings *p = &log->pending;

    for (uint64_t i = p->low; i < p->high; i++) {
        struct log_pending *slot = slot_at(p, i);
        if (slot->is_done || slot->index != 0)
            continue;
        struct log_proposal proposal = {.seq = slot->seq,
                                        .kind = slot->kind,
                                        .body_size = slot->body_size,
                                        .body = p->bytes + slot->offset % p->byte_capacity};
        switch (number(log, log->config.self.node, log->config.self.nonce, &proposal)) {
        case NUMBERED:
            slot->index = log->ring.last;
            break;
        case REFUSED:
            resolve(slot, 0);
            break;
        case NOT_NOW:
            return;
        }
    }
}

/* Sends proposals from slot i on that are not in the log yet, as many as one message takes. */
static void send_from(struct log *log, uint64_t i)
{
    struct log_pendings *p = &log->pending;
    struct log_msg msg = log_msg_of(log, LOG_MSG_PROPOSE, log->current.view);
    uint8_t list[LOG_MSG_MAX];
    struct ha_writer w = ha_writer_of(list, sizeof(list));

    msg.u.propose = (struct log_propose){.list = list};
    if (i > p->low && !slot_at(p, i - 1)->is_done)
        msg.u.propose.prev_seq = slot_at(p, i - 1)->seq;
    for (; i < p->high; i++) {
        struct log_pending *slot = slot_at(p, i);
        if (slot->is_done || slot->index != 0)
            continue;
        if (msg.u.propose.count > 0 && w.position + slot->body_size > LOG_CHUNK)
            break;
        struct log_proposal proposal = {.seq = slot->seq,
                                        .kind = slot->kind,
                                        .body_size = slot->body_size,
                                        .body = p->bytes + slot->offset % p->byte_capacity};
        log_proposal_encode(&w, &proposal);
        slot->is_sent = true;
        msg.u.propose.count++;
    }
    if (msg.u.propose.count == 0)
        return;
    ha_assert(!w.failed);
    msg.u.propose.list_size = w.position;
    p->sent_ms = log->now_ms;
    log_send(log, &msg);
}

static void send_own(struct log *log)
{
    struct log_pendings *p = &log->pending;
    bool is_retry = log->now_ms - p->sent_ms >= log->config.timing.heartbeat_ms / 2;

    for (uint64_t i = p->low; i < p->high; i++) {
        struct log_pending *slot = slot_at(p, i);
        if (slot->is_done || slot->index != 0 || (slot->is_sent && !is_retry))
            continue;
        send_from(log, i);
        return;
    }
}

static void tell_fates(struct log *log)
{
    struct log_pendings *p = &log->pending;

    for (uint64_t i = p->low; i < p->high && log->out->count < FATES_MAX; i++) {
        struct log_pending *slot = slot_at(p, i);
        if (!slot->is_done || slot->is_told)
            continue;
        slot->is_told = true;
        tell(log, slot->seq, slot->index, slot->is_unknown);
    }
    while (p->low < p->high && slot_at(p, p->low)->is_told)
        p->low++;
}

void log_propose_pump(struct log *log)
{
    if (log->pending.low == log->pending.high)
        return;
    if (log->lead.state == LOG_LEAD_OPEN)
        number_own(log);
    else if (log->phase == LOG_PHASE_OPEN)
        send_own(log);
    tell_fates(log);
}

static void refuse(struct log *log, struct log_peer *peer, uint64_t seq)
{
    struct log_msg msg = log_msg_of(log, LOG_MSG_REFUSE, log->current.view);

    msg.u.refuse = (struct log_refuse){
        .to = peer->node, .to_nonce = peer->nonce, .why = LOG_REFUSE_PROPOSAL, .value = seq};
    log_send(log, &msg);
}

static bool was_refused(const struct log_peer *peer, uint64_t seq)
{
    for (uint32_t i = 0; i < LOG_REFUSED_MAX; i++) {
        if (peer->refused[i] == seq)
            return true;
    }
    return false;
}

void log_propose_receive(struct log *log, struct log_peer *peer, const struct log_msg *msg)
{
    const struct log_propose *m = &msg->u.propose;
    struct ha_reader r = ha_reader_of(m->list, m->list_size);
    struct log_proposal proposal;

    if (log->lead.state != LOG_LEAD_OPEN || !log_peer_is_named(log, peer) ||
        log_view_cmp(msg->header.view, log->current.view) != 0 || peer->numbered_seq < m->prev_seq)
        return;
    for (uint16_t i = 0; i < m->count; i++) {
        if (log_proposal_decode(&r, &proposal) < 0)
            return;
        if (proposal.seq <= peer->numbered_seq) {
            if (was_refused(peer, proposal.seq))
                refuse(log, peer, proposal.seq);
            continue;
        }
        enum numbering result = number(log, peer->node, peer->nonce, &proposal);
        if (result == NOT_NOW)
            return;
        peer->numbered_seq = proposal.seq;
        if (result == REFUSED) {
            peer->refused[peer->refused_next++ % LOG_REFUSED_MAX] = proposal.seq;
            refuse(log, peer, proposal.seq);
        }
    }
}

void log_propose_refused(struct log *log, uint64_t seq)
{
    struct log_pending *slot = find(&log->pending, seq);

    if (slot && slot->index == 0)
        resolve(slot, 0);
}

static bool is_own(const struct log *log, const struct log_entry *entry)
{
    return entry->origin == log->config.self.node && entry->nonce == log->config.self.nonce &&
           entry->seq != 0;
}

void log_propose_seen(struct log *log, const struct log_entry *entry)
{
    struct log_pending *slot = is_own(log, entry) ? find(&log->pending, entry->seq) : NULL;

    if (slot && !slot->is_done)
        slot->index = entry->index;
}

void log_propose_committed(struct log *log, uint64_t first, uint64_t last)
{
    if (log->pending.low == log->pending.high)
        return;
    for (uint64_t i = first; i <= last; i++) {
        const struct log_entry *entry = log_ring_at(&log->ring, i);
        struct log_pending *slot =
            entry && is_own(log, entry) ? find(&log->pending, entry->seq) : NULL;
        if (slot)
            resolve(slot, i);
    }
}

void log_propose_settle(struct log *log)
{
    struct log_pendings *p = &log->pending;

    for (uint64_t i = p->low; i < p->high; i++) {
        struct log_pending *slot = slot_at(p, i);
        if (log_view_cmp(slot->view, log->current.view) < 0)
            resolve(slot, 0);
    }
}

/* The entries that would tell are not seen here. One that this log had from the view of the
 * snapshot is inside: a view has one leader, which gives a number once. One that never went out is
 * nowhere. All others may be inside, or on their way to a leader that still takes them: called
 * lost, they would be proposed and applied once more, behind what others have ordered since. */
void log_propose_snapshot(struct log *log, uint64_t index, struct log_view view)
{
    struct log_pendings *p = &log->pending;

    for (uint64_t i = p->low; i < p->high; i++) {
        struct log_pending *slot = slot_at(p, i);
        bool is_inside =
            slot->index != 0 && slot->index <= index && log_view_cmp(slot->view, view) == 0;
        if (slot->is_done)
            continue;
        slot->is_unknown = !is_inside && (slot->is_sent || slot->index != 0);
        resolve(slot, is_inside ? slot->index : 0);
    }
}
