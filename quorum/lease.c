/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases, ages, evidence. A node's lease runs L from the sending of its newest heartbeat that a
 * quorum of voters acknowledged. Members acknowledge only nodes of the view they last promised, and
 * a promise tells how long ago its sender last acknowledged everybody else: any quorum that renewed
 * a lease shares a voter with any quorum that promised a view without its holder.
 *
 * An acknowledgement counts only if its sender's log names the same voters as ours. Otherwise a
 * node that missed two voter changes could renew its lease from a quorum which shares nobody with
 * the quorum of the new voters. For the same reason evidence counts at the earliest from the last
 * voter change: quorums of neighbouring sets do meet, and whoever acknowledged under an older set
 * did so before it stored the next one, which was committed before the last one was numbered.
 *
 * And a quorum counts only if all of it has the same last OPEN, durable, and that OPEN names us.
 * Else a node left out of view 4 could renew its lease from members that were in view 4 and have
 * promised a view 5 which names it and never opens, while a FENCED numbered in view 4 on evidence
 * waits in a minority's log to be adopted and committed by view 6. As it is, let FENCED be numbered
 * in view w, whose OPEN a quorum stored before. A lease from members whose last OPEN is older: one
 * of them is of that quorum, it acknowledged before it promised w, and told the age of that, so the
 * lease is over when FENCED is numbered. From members whose last OPEN is of a later view o: a
 * quorum has it, so what is committed of older views lies before it; and if FENCED does, no lease
 * was left to be renewed.
 *
 * The first lease after an OPEN has no older one to renew: it counts only members that have that
 * very OPEN last. What came before it this node has applied.
 */
#include <string.h>

#include "quorum/log_internal.h"

uint32_t log_lease_min_ms(const struct log_timing *t)
{
    return 2 * (t->token_ms + t->consensus_ms) + 3 * t->heartbeat_ms;
}

uint32_t log_hold_ms(const struct log_timing *t)
{
    return 2 * (t->token_ms + t->consensus_ms) + 3 * t->heartbeat_ms;
}

uint32_t log_wait_ms(const struct log_timing *t, uint32_t lease_ms, uint32_t watchdog_ms)
{
    uint64_t plain = (uint64_t)lease_ms + t->keeper_ms + watchdog_ms;
    uint64_t drift = (plain * 2 * t->rho_ppm + 999999) / 1000000; /* rounded up */
    uint64_t wait = plain + drift + t->reset_ms + t->drain_ms;

    return wait > UINT32_MAX ? UINT32_MAX : (uint32_t)wait;
}

static void set_end(struct log *log, uint64_t newest, uint64_t end_ms)
{
    log->lease.newest = newest;
    log->lease.end_ms = end_ms;
    log_act(log, LOG_ACT_LEASE)->u.lease.end_ms = end_ms;
}

void log_lease_heard(struct log *log, struct log_peer *peer, const struct log_heartbeat *hb)
{
    for (uint32_t i = 0; i < hb->ack_count; i++) {
        if (hb->acks[i].node != log->config.self.node ||
            hb->acks[i].nonce != log->config.self.nonce)
            continue;
        if (hb->acks[i].n < peer->acked_n || hb->acks[i].n > log->lease.n)
            continue;
        peer->acked_n = hb->acks[i].n;
        peer->acked_voters = hb->voters;
        peer->acked_opened = hb->acks[i].is_opened ? hb->opened : (struct log_view){0, 0};
        log_lease_count(log);
    }
}

struct log_view log_lease_opened_view(const struct log *log)
{
    if (log->survey.open_index > log->durable_last)
        return (struct log_view){0, 0};
    return log->survey.open_view;
}

bool log_lease_is_opened(const struct log *log, uint32_t node, uint64_t nonce)
{
    int i = log_names_find(&log->survey.open_names, node);

    return i >= 0 && log->survey.open_names.list[i].nonce == nonce;
}

/* What voter i acknowledged: the newest own heartbeat, and under which OPEN that names us. */
struct acked {
    uint64_t n;
    struct log_view opened;
};

static struct acked acked_by(struct log *log, uint32_t i)
{
    const struct log_voters *voters = &log->survey.voters;
    const struct log_peer *peer = log_peer_find(log, voters->list[i].node);

    if (!peer || !log_peer_is_voter(log, voters, peer))
        return (struct acked){0};
    if (peer == log->self) {
        if (!log_lease_is_opened(log, log->config.self.node, log->config.self.nonce))
            return (struct acked){0};
        return (struct acked){.n = log->lease.n, .opened = log_lease_opened_view(log)};
    }
    if (!ha_digest_equal(peer->acked_voters, voters->digest))
        return (struct acked){0};
    return (struct acked){.n = peer->acked_n, .opened = peer->acked_opened};
}

/* Enough peers acknowledged heartbeats behind `newest` to be a quorum, whoever they are. Of those
 * that come for a heartbeat only one is the last that was missing: most stop here. */
static bool may_be_newer(const struct log *log, uint64_t newest)
{
    uint32_t count = 1; /* this node */

    for (uint32_t i = 0; i < log->peer_count; i++)
        count += log->peers[i].acked_n > newest;
    return count >= log_quorum(&log->survey.voters);
}

/* The newest own heartbeat that a quorum acknowledged under one OPEN, if that is one behind
 * `newest`, else `newest`. */
static uint64_t newest_of_quorum(struct log *log, uint64_t newest)
{
    struct acked acked[HA_NODES_MAX];
    uint32_t count = log->survey.voters.count;

    for (uint32_t i = 0; i < count; i++)
        acked[i] = acked_by(log, i);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t others = 0;
        if (acked[i].n <= newest || acked[i].opened.counter == 0)
            continue;
        if (log->lease.end_ms == 0 && log_view_cmp(acked[i].opened, log->current.view) != 0)
            continue;
        for (uint32_t j = 0; j < count; j++)
            others +=
                acked[j].n >= acked[i].n && log_view_cmp(acked[j].opened, acked[i].opened) == 0;
        if (others >= log_quorum(&log->survey.voters))
            newest = acked[i].n;
    }
    return newest;
}

void log_lease_count(struct log *log)
{
    struct log_lease *lease = &log->lease;

    if (lease->is_void || (lease->end_ms == 0 && log->phase != LOG_PHASE_OPEN))
        return;
    if (!may_be_newer(log, lease->newest))
        return;
    uint64_t newest = newest_of_quorum(log, lease->newest);
    if (newest == lease->newest || newest < lease->n_min || lease->n - newest >= LOG_STARTS)
        return;
    uint64_t end_ms = lease->starts[newest % LOG_STARTS] + log->config.timing.lease_ms;
    if (end_ms <= lease->end_ms || end_ms <= log->now_ms)
        return;
    if (lease->end_ms == 0)
        log_trace(log, "heartbeat %llu acknowledged by a quorum -> lease for %llu ms",
                  (unsigned long long)newest, (unsigned long long)(end_ms - log->now_ms));
    set_end(log, newest, end_ms);
}

/* A lease that ended is void until an OPEN names this node again, whatever is acknowledged (H21).
 */
void log_lease_expire(struct log *log)
{
    struct log_lease *lease = &log->lease;

    if (lease->end_ms != 0 && log->now_ms >= lease->end_ms) {
        log_trace(log, "no quorum acknowledged a heartbeat for L -> the lease has ended");
        set_end(log, 0, 0);
        lease->is_void = true;
        if (log->phase == LOG_PHASE_OPEN)
            log_view_leave(log, "the lease has ended");
        return;
    }
    if (lease->end_ms == 0 && !lease->is_void && log->phase == LOG_PHASE_OPEN &&
        log->now_ms - log->current.opened_ms >= log->config.timing.lease_ms) {
        lease->is_void = true;
        log_view_leave(log, "no lease came within L of opening");
    }
}

void log_lease_opened(struct log *log)
{
    struct log_lease *lease = &log->lease;

    if (lease->end_ms != 0)
        return; /* it never ran out: it goes on */
    lease->is_void = false;
    lease->n_min = lease->n + 1;
    log->heartbeat_ms = log->now_ms;
}

void log_lease_ages(const struct log *log, struct log_promise *p)
{
    uint64_t since = log->started_ms > log->forgotten_ms ? log->started_ms : log->forgotten_ms;

    p->rest_age_ms = log->now_ms - since;
    p->age_count = 0;
    for (uint32_t i = 0; i < log->peer_count; i++) {
        const struct log_peer *peer = &log->peers[i];
        if (peer->ack_ms == 0 || log_names_find(&log->current.names, peer->node) >= 0)
            continue;
        p->ages[p->age_count].node = peer->node;
        p->ages[p->age_count].age_ms = log->now_ms - peer->ack_ms;
        p->age_count++;
    }
}

static uint64_t age_of(const struct log_promise *p, uint32_t node)
{
    for (uint32_t i = 0; i < p->age_count; i++) {
        if (p->ages[i].node == node)
            return p->ages[i].age_ms;
    }
    return p->rest_age_ms;
}

uint64_t log_evidence_ms(const struct log *log, uint32_t node, uint64_t now_ms)
{
    const struct log_names *names = &log->current.names;

    if (log->lead.state != LOG_LEAD_OPEN || log_names_find(names, node) >= 0 ||
        now_ms < log->voters_ms)
        return 0;
    uint64_t evidence = now_ms - log->voters_ms;
    for (uint32_t i = 0; i < names->count; i++) {
        const struct log_promised *promised = &log->lead.promises[i];
        if (!log_voters_has(&log->survey.voters, names->list[i].node, promised->p.member.store_id))
            continue;
        if (now_ms < promised->received_ms)
            return 0;
        uint64_t age = age_of(&promised->p, node) + (now_ms - promised->received_ms);
        if (age < evidence)
            evidence = age;
    }
    return evidence;
}
