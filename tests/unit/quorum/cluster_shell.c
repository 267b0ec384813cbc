/* SPDX-License-Identifier: Apache-2.0
 *
 * Shells of the small world: they do what actions say and check it against the truth; the leader's
 * fences who is absent for T_wait and gives new stores a vote.
 */
#include "cluster_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_FENCE 0xfe

static void apply_voter(struct log_voters *v, const struct log_entry *entry)
{
    struct log_survey s = {.voters = *v};

    log_survey_entry(&s, entry);
    *v = s.voters;
}

/* True if members may still act for node's old lease: checked when a FENCE of it is committed. */
static void check_fence(struct world *w, struct world_commit *c, uint64_t index, uint32_t subject)
{
    const struct world_node *n = &w->nodes[subject];
    uint32_t members = 0;

    for (uint64_t i = index; i > 0; i--) {
        if (w->commits[i].is_known && w->commits[i].kind == LOG_KIND_OPEN) {
            members = w->commits[i].members;
            break;
        }
    }
    if (members & (1u << subject))
        return; /* readmitted before: a no-op */
    c->fenced = subject;
    w->fences++;
    if (n->open_index < index && n->lease_us > w->now_us)
        world_fail(w, "n%u fenced at %llu by evidence while its lease + W runs for %.3f s more",
                   subject, (unsigned long long)index, (double)(n->lease_us - w->now_us) / 1e6);
}

static uint32_t members_of(const struct log_entry *entry)
{
    struct log_open open;
    uint32_t bits = 0;

    if (log_open_decode(entry->body, entry->body_size, &open) == 0) {
        for (uint32_t i = 0; i < open.member_count; i++)
            bits |= 1u << open.members[i].node;
    }
    return bits;
}

static void learn_commit(struct world *w, struct world_node *n, const struct log_entry *entry)
{
    if (entry->index >= w->commit_capacity) {
        uint64_t more = (entry->index + 1) * 2;
        w->commits = realloc(w->commits, more * sizeof(*w->commits));
        if (!w->commits)
            abort();
        memset(w->commits + w->commit_capacity, 0,
               (more - w->commit_capacity) * sizeof(*w->commits));
        w->commit_capacity = more;
    }
    struct world_commit *c = &w->commits[entry->index];
    if (c->is_known) {
        if (!ha_digest_equal(c->digest, entry->digest))
            world_fail(w, "n%u commits another entry %llu than was committed", n->id,
                       (unsigned long long)entry->index);
        return;
    }
    *c = (struct world_commit){.is_known = true,
                               .digest = entry->digest,
                               .kind = entry->kind,
                               .origin = entry->origin,
                               .nonce = entry->nonce,
                               .seq = entry->seq};
    w->committed++;
    if (entry->index > w->commit_count)
        w->commit_count = entry->index;
    if (entry->kind == LOG_KIND_OPEN) {
        c->members = members_of(entry);
        w->views++;
    }
    if (entry->kind == LOG_KIND_STATE && entry->body_size >= 2 && entry->body[0] == BODY_FENCE)
        check_fence(w, c, entry->index, entry->body[1]);
}

void world_make_snapshot(struct world *w, struct world_node *n)
{
    bool is_due = log_snapshot_is_due(n->log) || n->applied >= n->log->ring.base + 60;

    if (!is_due || n->snapshot_asked != 0 || n->log->is_installing)
        return;
    struct world_write *write = world_new_snapshot(n, WRITE_SNAPSHOT);
    if (!write)
        return;
    n->snapshot_asked = write->index;
    world_queue_write(w, n, write);
}

static void apply_to(struct world *w, struct world_node *n, uint64_t index)
{
    while (n->applied < index) {
        const struct log_entry *entry = log_entry_at(n->log, n->applied + 1);
        if (!entry) {
            world_fail(w, "n%u: committed entry %llu is not in memory", n->id,
                       (unsigned long long)n->applied + 1);
            return;
        }
        learn_commit(w, n, entry);
        if (entry->kind == LOG_KIND_VOTER)
            apply_voter(&n->voters, entry);
        if (entry->kind == LOG_KIND_OPEN)
            n->open_applied = entry->index;
        n->applied = entry->index;
    }
    world_make_snapshot(w, n);
}

static void take_lease(struct world *w, struct world_node *n, uint64_t end_ms)
{
    if (end_ms == 0) {
        n->lease_end_us = 0; /* lease_us stays: what it was granted for counts on */
        n->is_lease_void = true;
        return;
    }
    uint64_t end_us = world_true_us(n, end_ms);
    uint64_t until_us = world_true_us(n, end_ms + w->timing.keeper_ms + w->watchdog_ms);
    if (end_us < w->now_us)
        world_fail(w, "n%u takes a lease that has ended", n->id);
    if (n->is_lease_void)
        world_fail(w, "n%u takes a lease before an OPEN named it again", n->id);
    n->lease_end_us = end_us;
    if (until_us > n->lease_us)
        n->lease_us = until_us;
    for (uint64_t i = n->open_index + 1; i <= w->commit_count; i++) {
        if (w->commits[i].is_known && w->commits[i].fenced == n->id)
            world_fail(w, "n%u takes a lease though it was fenced at %llu", n->id,
                       (unsigned long long)i);
    }
}

static void tell_fate(struct world *w, struct world_node *n, uint64_t seq, uint64_t index,
                      bool is_unknown)
{
    if (seq == 0 || seq > n->proposal_count) {
        world_fail(w, "n%u: fate of unknown proposal %llu", n->id, (unsigned long long)seq);
        return;
    }
    struct world_proposal *p = &n->proposals[seq - 1];
    if (p->is_told)
        world_fail(w, "n%u: fate of proposal %llu told twice", n->id, (unsigned long long)seq);
    p->is_told = true;
    p->is_certain = !is_unknown;
    p->index = index;
    w->unknown += is_unknown;
    w->tells++;
    if (index == 0)
        return;
    const struct world_commit *c = index <= w->commit_count ? &w->commits[index] : NULL;
    if (!c || !c->is_known || c->origin != n->id || c->nonce != n->nonce || c->seq != seq)
        world_fail(w, "n%u: proposal %llu is not what was committed at %llu", n->id,
                   (unsigned long long)seq, (unsigned long long)index);
}

static void deliver_later(struct world *w, uint32_t from, uint32_t to, const uint8_t *data,
                          size_t size)
{
    const struct world_link *link = &w->links[from][to];
    struct world_event *ev;

    if (from != to && (link->is_cut || w->nodes[from].group != w->nodes[to].group ||
                       ha_rng_below(&w->rng, 1000000) < link->loss_ppm))
        return;
    ev = world_new_event(w, EV_MESSAGE, to,
                         link->delay_us + ha_rng_below(&w->rng, link->jitter_us + 1));
    ev->from = from;
    ev->data = world_calloc(1, size);
    memcpy(ev->data, data, size);
    ev->size = size;
    world_push(w, ev);
    w->messages++;
}

static void send_all(struct world *w, uint32_t from, const uint8_t *data, size_t size)
{
    for (uint32_t to = 1; to <= w->count; to++) {
        if (!w->nodes[to].is_up)
            continue;
        deliver_later(w, from, to, data, size);
        if (ha_rng_below(&w->rng, 1000000) < w->links[from][to].repeat_ppm)
            deliver_later(w, from, to, data, size);
    }
}

static void persist(struct world *w, struct world_node *n, const struct log_action *a)
{
    struct world_write *write = world_calloc(1, sizeof(*write));

    write->kind = WRITE_LOG;
    write->token = a->u.persist.token;
    write->has_promise = a->u.persist.has_promise;
    write->promised = a->u.persist.promised;
    write->has_log_view = a->u.persist.has_log_view;
    write->log_view = a->u.persist.log_view;
    write->truncate_from = a->u.persist.truncate_from;
    if (a->u.persist.first != 0) {
        write->entries =
            world_calloc(a->u.persist.last - a->u.persist.first + 1, sizeof(write->entries[0]));
        for (uint64_t i = a->u.persist.first; i <= a->u.persist.last; i++) {
            const struct log_entry *entry = log_entry_at(n->log, i);
            if (!entry) {
                world_fail(w, "n%u: entry %llu to store is not in memory", n->id,
                           (unsigned long long)i);
                break;
            }
            write->entries[write->count++] = world_copy_entry(entry);
        }
    }
    world_queue_write(w, n, write);
}

static void send_snapshot(struct world *w, struct world_node *n, uint32_t to)
{
    struct world_write *write;

    if (to == 0 || to > w->count || !w->nodes[to].is_up || w->nodes[to].group != n->group)
        return;
    write = world_new_snapshot(n, WRITE_INSTALL);
    if (!write)
        return;
    struct world_event *ev = world_new_event(w, EV_SNAPSHOT_ARRIVES, to, 20000);
    ev->snapshot = write;
    world_push(w, ev);
}

static void note_stop(struct world *w, struct world_node *n, const char *line)
{
    n->is_stopped = true;
    w->stops++;
    if (!w->may_stop)
        world_fail(w, "n%u stops: %s", n->id, line);
}

static void opened(struct world *w, struct world_node *n, const struct log_action *a)
{
    const struct log_entry *entry = log_entry_at(n->log, n->open_applied);

    if (n->is_open)
        world_fail(w, "n%u: opened twice", n->id);
    if (!entry || log_view_cmp(entry->view, a->u.view.view) != 0)
        world_fail(w, "n%u: opened before its OPEN was applied", n->id);
    n->is_open = true;
    n->is_lease_void = false;
    n->open_view = a->u.view.view;
    n->open_index = n->open_applied;
    n->fenced = 0;
    n->opens++;
}

static void carry_out(struct world *w, struct world_node *n, const struct log_action *a)
{
    switch ((enum log_action_type)a->type) {
    case LOG_ACT_SEND:
        send_all(w, n->id, a->u.send.data, a->u.send.size);
        return;
    case LOG_ACT_PERSIST:
        persist(w, n, a);
        return;
    case LOG_ACT_COMMIT:
        apply_to(w, n, a->u.commit.index);
        return;
    case LOG_ACT_VIEW_OPEN:
        opened(w, n, a);
        return;
    case LOG_ACT_VIEW_CLOSED:
        if (!n->is_open)
            world_fail(w, "n%u: closed twice", n->id);
        n->is_open = false;
        return;
    case LOG_ACT_LEASE:
        take_lease(w, n, a->u.lease.end_ms);
        return;
    case LOG_ACT_PROPOSED:
        tell_fate(w, n, a->u.proposed.seq, a->u.proposed.index, a->u.proposed.is_unknown);
        return;
    case LOG_ACT_SNAPSHOT_SEND:
        send_snapshot(w, n, a->u.snapshot.node);
        return;
    case LOG_ACT_STOP:
        note_stop(w, n, a->u.text.line);
        return;
    case LOG_ACT_TRACE:
        memcpy(w->last_trace[n->id], a->u.text.line, sizeof(w->last_trace[0]));
        if (w->is_verbose)
            printf("[%8.3f] n%u %s\n", (double)w->now_us / 1e6, n->id, a->u.text.line);
        return;
    }
    world_fail(w, "n%u: unknown action %u", n->id, a->type);
}

void world_step(struct world *w, uint32_t node, struct log_event *event)
{
    struct world_node *n = &w->nodes[node];

    event->now_ms = world_local_ms(n, w->now_us);
    event->wall_ms = 1700000000000u + w->now_us / 1000;
    w->steps++;
    log_step(n->log, event, &w->actions);
    for (uint32_t i = 0; i < w->actions.count; i++)
        carry_out(w, n, &w->actions.list[i]);
}

static uint64_t propose(struct world *w, uint32_t node, uint8_t kind, const uint8_t *body,
                        size_t size)
{
    struct world_node *n = &w->nodes[node];
    struct log_event event = {.type = LOG_EV_PROPOSE};

    n->proposals =
        world_grow(n->proposals, n->proposal_count, &n->proposal_capacity, sizeof(n->proposals[0]));
    n->proposals[n->proposal_count++] = (struct world_proposal){0};
    event.u.propose.seq = n->proposal_count;
    event.u.propose.kind = kind;
    event.u.propose.body = body;
    event.u.propose.body_size = size;
    uint64_t seq = n->proposal_count;
    world_step(w, node, &event);
    return seq;
}

uint64_t world_propose(struct world *w, uint32_t node, uint32_t size)
{
    static uint8_t body[HA_ENTRY_MAX];

    memset(body, (int)node, size);
    return propose(w, node, LOG_KIND_STATE, body, size);
}

uint64_t world_propose_fence(struct world *w, uint32_t node, uint32_t subject)
{
    uint8_t body[2] = {BODY_FENCE, (uint8_t)subject};

    return propose(w, node, LOG_KIND_STATE, body, sizeof(body));
}

uint64_t world_propose_voter(struct world *w, uint32_t node, uint32_t subject, bool is_added)
{
    uint8_t body[64];
    struct ha_writer writer = ha_writer_of(body, sizeof(body));
    struct log_voter_change change = {
        .is_added = is_added, .node = subject, .store_id = w->nodes[subject].store.id};

    log_voter_change_encode(&writer, &change);
    return propose(w, node, LOG_KIND_VOTER, body, writer.position);
}

bool world_fate(const struct world *w, uint32_t node, uint64_t seq, uint64_t *ret_index)
{
    const struct world_proposal *p = &w->nodes[node].proposals[seq - 1];

    *ret_index = p->index;
    return p->is_told;
}

/* ---- a leader's rules */

static bool is_voter_change_open(const struct world_node *n)
{
    uint64_t index;
    const struct world_proposal *p = n->voter_seq ? &n->proposals[n->voter_seq - 1] : NULL;

    (void)index;
    return p && !p->is_told;
}

/* A node whose store is not the voter's: its old vote goes, then the new one comes. */
static void mend_voters(struct world *w, struct world_node *n)
{
    if (is_voter_change_open(n))
        return;
    for (uint32_t id = 1; id <= w->count; id++) {
        const struct log_peer *peer = log_peer_find(n->log, id);
        int at = log_voters_find(&n->voters, id);
        bool is_member = log_names_find(&n->log->current.names, id) >= 0;
        if (!peer || !is_member || (peer != n->log->self && peer->hb.n == 0))
            continue;
        struct ha_uuid store =
            peer == n->log->self ? n->config.self.store_id : peer->hb.member.store_id;
        if (at >= 0 && ha_uuid_equal(n->voters.list[at].store_id, store))
            continue;
        if (at >= 0 && n->voters.count == 1)
            continue;
        n->voter_seq = world_propose_voter(w, n->id, id, at < 0);
        return;
    }
}

static void fence_absent(struct world *w, struct world_node *n)
{
    uint64_t now_ms = world_local_ms(n, w->now_us);
    uint32_t wait_ms = log_wait_ms(&w->timing, w->timing.lease_ms, w->watchdog_ms);

    for (uint32_t id = 1; id <= w->count; id++) {
        if ((n->fenced & (1u << id)) || log_evidence_ms(n->log, id, now_ms) < wait_ms)
            continue;
        n->fenced |= 1u << id;
        world_propose_fence(w, n->id, id);
    }
}

void world_lead(struct world *w, struct world_node *n)
{
    if (w->has_no_shell || !n->is_up || n->is_hung || !log_is_leader(n->log) || !n->is_open)
        return;
    fence_absent(w, n);
    if (log_is_leader(n->log))
        mend_voters(w, n);
}
