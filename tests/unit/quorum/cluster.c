/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_FENCE 0xfe

static void *grow(void *list, uint32_t count, uint32_t *capacity, size_t size)
{
    if (count < *capacity)
        return list;
    *capacity = *capacity ? *capacity * 2 : 16;
    list = realloc(list, *capacity * size);
    if (!list)
        abort();
    return list;
}

static void *must_calloc(size_t count, size_t size)
{
    void *p = calloc(count, size);

    if (!p)
        abort();
    return p;
}

void world_fail(struct world *w, const char *fmt, ...)
{
    va_list args;

    if (w->failure[0])
        return;
    va_start(args, fmt);
    int at = snprintf(w->failure, sizeof(w->failure), "[%8.3f s] ", (double)w->now_us / 1e6);
    vsnprintf(w->failure + at, sizeof(w->failure) - (size_t)at, fmt, args);
    va_end(args);
}

/* ---- time */

uint64_t world_local_ms(const struct world_node *n, uint64_t now_us)
{
    int64_t drift = (int64_t)now_us / 1000000 * n->drift_ppm +
                    (int64_t)(now_us % 1000000) * n->drift_ppm / 1000000;

    return (uint64_t)(((int64_t)now_us + drift + n->offset_us) / 1000);
}

/* First instant at which the node's clock shows local_ms. */
static uint64_t true_us(const struct world_node *n, uint64_t local_ms)
{
    int64_t want = (int64_t)local_ms * 1000 - n->offset_us;
    int64_t at = want - want / 1000000 * n->drift_ppm;

    if (at < 0)
        at = 0;
    while (at > 0 && world_local_ms(n, (uint64_t)at) >= local_ms)
        at -= at < 500 ? at : 500;
    while (world_local_ms(n, (uint64_t)at) < local_ms)
        at += 250;
    return (uint64_t)at;
}

/* ---- events */

static bool is_before(const struct world_event *a, const struct world_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void push_event(struct world *w, struct world_event *ev)
{
    uint32_t at;

    ev->order = ++w->order;
    w->heap = grow(w->heap, w->heap_count, &w->heap_capacity, sizeof(*w->heap));
    at = w->heap_count++;
    while (at > 0 && is_before(ev, w->heap[(at - 1) / 2])) {
        w->heap[at] = w->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    w->heap[at] = ev;
}

static struct world_event *pop_event(struct world *w)
{
    struct world_event *top = w->heap[0];
    struct world_event *last = w->heap[--w->heap_count];
    uint32_t at = 0;

    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= w->heap_count)
            break;
        if (child + 1 < w->heap_count && is_before(w->heap[child + 1], w->heap[child]))
            child++;
        if (!is_before(w->heap[child], last))
            break;
        w->heap[at] = w->heap[child];
        at = child;
    }
    if (w->heap_count > 0)
        w->heap[at] = last;
    return top;
}

static struct world_event *new_event(struct world *w, uint8_t type, uint32_t node, uint64_t in_us)
{
    struct world_event *ev = must_calloc(1, sizeof(*ev));

    ev->type = type;
    ev->node = node;
    ev->process = w->nodes[node].process;
    ev->at_us = w->now_us + in_us;
    return ev;
}

static void free_write(struct world_write *write)
{
    for (uint32_t i = 0; write && i < write->count; i++)
        free((void *)(uintptr_t)write->entries[i].e.body);
    if (write)
        free(write->entries);
    free(write);
}

static void free_event(struct world_event *ev)
{
    free(ev->data);
    free_write(ev->snapshot);
    free(ev);
}

/* ---- store */

static struct world_entry copy_entry(const struct log_entry *entry)
{
    struct world_entry copy = {.e = *entry};
    uint8_t *body = must_calloc(1, entry->body_size + 1);

    if (entry->body_size > 0)
        memcpy(body, entry->body, entry->body_size);
    copy.e.body = body;
    return copy;
}

static void drop_entries_from(struct world_store *s, uint64_t index)
{
    while (s->count > 0 && s->base + s->count >= index) {
        s->count--;
        free((void *)(uintptr_t)s->entries[s->count].e.body);
    }
}

static void drop_entries_to(struct world_store *s, uint64_t index)
{
    uint32_t n = 0;

    while (n < s->count && s->entries[n].e.index <= index) {
        free((void *)(uintptr_t)s->entries[n].e.body);
        n++;
    }
    s->count -= n;
    if (s->count > 0)
        memmove(s->entries, s->entries + n, s->count * sizeof(s->entries[0]));
}

static void store_add(struct world *w, struct world_store *s, const struct log_entry *entry)
{
    if (entry->index != s->base + s->count + 1)
        world_fail(w, "store %p: entry %llu written after %llu", (void *)s,
                   (unsigned long long)entry->index, (unsigned long long)(s->base + s->count));
    s->entries = grow(s->entries, s->count, &s->capacity, sizeof(s->entries[0]));
    s->entries[s->count++] = copy_entry(entry);
}

/* No view may have two OPEN entries, wherever they are stored. */
static void check_open(struct world *w, const struct log_entry *entry)
{
    for (uint32_t i = 0; i < w->open_count; i++) {
        if (log_view_cmp(w->opens[i].view, entry->view) != 0)
            continue;
        if (!ha_digest_equal(w->opens[i].digest, entry->digest))
            world_fail(w, "view %llu.%u has two OPEN entries",
                       (unsigned long long)entry->view.counter, entry->view.leader);
        return;
    }
    w->opens = grow(w->opens, w->open_count, &w->open_capacity, sizeof(*w->opens));
    w->opens[w->open_count].view = entry->view;
    w->opens[w->open_count++].digest = entry->digest;
}

static void apply_write(struct world *w, struct world_node *n, const struct world_write *write)
{
    struct world_store *s = &n->store;

    if (w->is_verbose)
        printf(
            "[%8.3f] n%u stores kind %u token %llu truncate %llu entries %u from %llu base %llu\n",
            (double)w->now_us / 1e6, n->id, write->kind, (unsigned long long)write->token,
            (unsigned long long)write->truncate_from, write->count,
            write->count ? (unsigned long long)write->entries[0].e.index : 0,
            (unsigned long long)write->index);
    if (write->kind == WRITE_LOG) {
        if (write->has_promise) {
            if (log_view_cmp(write->promised, s->promised) < 0)
                world_fail(w, "n%u: a promise goes back", n->id);
            s->promised = write->promised;
        }
        if (write->has_log_view)
            s->log_view = write->log_view;
        if (write->truncate_from)
            drop_entries_from(s, write->truncate_from);
        for (uint32_t i = 0; i < write->count; i++) {
            store_add(w, s, &write->entries[i].e);
            if (write->entries[i].e.kind == LOG_KIND_OPEN)
                check_open(w, &write->entries[i].e);
        }
        return;
    }
    if (write->kind == WRITE_INSTALL)
        drop_entries_from(s, 0);
    else
        drop_entries_to(s, write->index);
    s->base = write->index;
    s->base_digest = write->digest;
    s->base_view = write->view;
    s->voters = write->voters;
    s->base_open = write->open;
    if (write->kind == WRITE_INSTALL && log_view_cmp(write->view, s->log_view) > 0)
        s->log_view = write->view;
}

static void queue_write(struct world *w, struct world_node *n, struct world_write *write)
{
    struct world_write **tail = &n->writes;

    while (*tail)
        tail = &(*tail)->next;
    *tail = write;
    if (n->is_writing)
        return;
    n->is_writing = true;
    push_event(
        w, new_event(w, EV_DISK, n->id, w->disk_us + ha_rng_below(&w->rng, w->disk_jitter_us + 1)));
}

/* The voter set and the last OPEN as the shell's state has them at its applied index. */
static struct world_write *new_snapshot(struct world_node *n, uint8_t kind)
{
    struct world_write *write = must_calloc(1, sizeof(*write));

    write->kind = kind;
    write->index = n->applied;
    write->voters = n->voters;
    write->open = n->open_applied;
    if (!log_ring_digest(&n->log->ring, n->applied, &write->digest) ||
        !log_ring_view(&n->log->ring, n->applied, &write->view)) {
        free(write);
        return NULL;
    }
    return write;
}

/* ---- the shell */

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

static void make_snapshot(struct world *w, struct world_node *n)
{
    bool is_due = log_snapshot_is_due(n->log) || n->applied >= n->log->ring.base + 60;

    if (!is_due || n->snapshot_asked != 0 || n->log->is_installing)
        return;
    struct world_write *write = new_snapshot(n, WRITE_SNAPSHOT);
    if (!write)
        return;
    n->snapshot_asked = write->index;
    queue_write(w, n, write);
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
    make_snapshot(w, n);
}

static void take_lease(struct world *w, struct world_node *n, uint64_t end_ms)
{
    if (end_ms == 0) {
        n->lease_end_us = 0; /* lease_us stays: what it was granted for counts on */
        n->is_lease_void = true;
        return;
    }
    uint64_t end_us = true_us(n, end_ms);
    uint64_t until_us = true_us(n, end_ms + w->timing.keeper_ms + w->watchdog_ms);
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

static void tell_fate(struct world *w, struct world_node *n, uint64_t seq, uint64_t index)
{
    if (seq == 0 || seq > n->proposal_count) {
        world_fail(w, "n%u: fate of unknown proposal %llu", n->id, (unsigned long long)seq);
        return;
    }
    struct world_proposal *p = &n->proposals[seq - 1];
    if (p->is_told)
        world_fail(w, "n%u: fate of proposal %llu told twice", n->id, (unsigned long long)seq);
    p->is_told = true;
    p->index = index;
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
    ev = new_event(w, EV_MESSAGE, to, link->delay_us + ha_rng_below(&w->rng, link->jitter_us + 1));
    ev->from = from;
    ev->data = must_calloc(1, size);
    memcpy(ev->data, data, size);
    ev->size = size;
    push_event(w, ev);
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
    struct world_write *write = must_calloc(1, sizeof(*write));

    write->kind = WRITE_LOG;
    write->token = a->u.persist.token;
    write->has_promise = a->u.persist.has_promise;
    write->promised = a->u.persist.promised;
    write->has_log_view = a->u.persist.has_log_view;
    write->log_view = a->u.persist.log_view;
    write->truncate_from = a->u.persist.truncate_from;
    if (a->u.persist.first != 0) {
        write->entries =
            must_calloc(a->u.persist.last - a->u.persist.first + 1, sizeof(write->entries[0]));
        for (uint64_t i = a->u.persist.first; i <= a->u.persist.last; i++) {
            const struct log_entry *entry = log_entry_at(n->log, i);
            if (!entry) {
                world_fail(w, "n%u: entry %llu to store is not in memory", n->id,
                           (unsigned long long)i);
                break;
            }
            write->entries[write->count++] = copy_entry(entry);
        }
    }
    queue_write(w, n, write);
}

static void send_snapshot(struct world *w, struct world_node *n, uint32_t to)
{
    struct world_write *write;

    if (to == 0 || to > w->count || !w->nodes[to].is_up || w->nodes[to].group != n->group)
        return;
    write = new_snapshot(n, WRITE_INSTALL);
    if (!write)
        return;
    struct world_event *ev = new_event(w, EV_SNAPSHOT_ARRIVES, to, 20000);
    ev->snapshot = write;
    push_event(w, ev);
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
        tell_fate(w, n, a->u.proposed.seq, a->u.proposed.index);
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
        grow(n->proposals, n->proposal_count, &n->proposal_capacity, sizeof(n->proposals[0]));
    n->proposals[n->proposal_count++] = (struct world_proposal){.is_certain = true};
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

static void lead(struct world *w, struct world_node *n)
{
    if (w->has_no_shell || !n->is_up || n->is_hung || !log_is_leader(n->log) || !n->is_open)
        return;
    fence_absent(w, n);
    if (log_is_leader(n->log))
        mend_voters(w, n);
}

/* ---- events of the world */

static uint32_t seen_by(const struct world *w, uint32_t node)
{
    uint32_t bits = 0;

    for (uint32_t id = 1; id <= w->count; id++) {
        if (w->nodes[id].is_up && w->nodes[id].group == w->nodes[node].group)
            bits |= 1u << id;
    }
    return bits;
}

static void tell_members(struct world *w, struct world_node *n)
{
    struct log_event event = {.type = LOG_EV_MEMBERS};
    uint32_t bits = seen_by(w, n->id);

    if (bits == n->told)
        return;
    n->told = bits;
    for (uint32_t id = 1; id <= w->count; id++) {
        if (bits & (1u << id))
            event.u.members.nodes[event.u.members.count++] = id;
    }
    world_step(w, n->id, &event);
}

static void schedule_members(struct world *w)
{
    for (uint32_t id = 1; id <= w->count; id++) {
        if (w->nodes[id].is_up)
            push_event(
                w, new_event(w, EV_MEMBERS, id, 1000 + ha_rng_below(&w->rng, w->detect_us + 1)));
    }
}

void world_tell_members(struct world *w)
{
    for (uint32_t id = 1; id <= w->count; id++) {
        if (w->nodes[id].is_up && !w->nodes[id].is_hung)
            tell_members(w, &w->nodes[id]);
    }
}

static void finish_write(struct world *w, struct world_node *n, struct world_write *write,
                         bool is_ok)
{
    struct log_event event = {.type = LOG_EV_PERSISTED};

    if (write->kind == WRITE_LOG) {
        event.u.persisted.token = write->token;
        event.u.persisted.is_ok = is_ok;
        world_step(w, n->id, &event);
        return;
    }
    if (write->kind == WRITE_SNAPSHOT) {
        if (is_ok)
            log_trim(n->log, write->index, &w->actions);
        n->snapshot_asked = 0;
        make_snapshot(w, n);
        return;
    }
    event.type = LOG_EV_SNAPSHOT;
    event.u.snapshot.index = is_ok ? write->index : 0;
    event.u.snapshot.digest = write->digest;
    event.u.snapshot.log_view = write->view;
    event.u.snapshot.voter_count = write->voters.count;
    for (uint32_t i = 0; i < write->voters.count; i++) {
        event.u.snapshot.voters[i].node = write->voters.list[i].node;
        event.u.snapshot.voters[i].store_id = write->voters.list[i].store_id;
    }
    if (is_ok) {
        for (uint32_t i = 0; i < n->proposal_count; i++) {
            if (!n->proposals[i].is_told)
                n->proposals[i].is_certain = false;
        }
        n->applied = write->index;
        n->open_applied = write->open;
        n->voters = write->voters;
        w->snapshots++;
    }
    world_step(w, n->id, &event);
}

static void disk_event(struct world *w, struct world_node *n, struct world_event *ev)
{
    struct world_write *write = n->writes;

    if (n->is_disk_stalled) {
        ev->at_us = w->now_us + 10000;
        push_event(w, ev);
        return;
    }
    free_event(ev);
    if (!write)
        return;
    n->writes = write->next;
    write->next = NULL;
    bool is_ok = !n->is_disk_failing;
    if (is_ok)
        apply_write(w, n, write);
    if (n->writes)
        push_event(w, new_event(w, EV_DISK, n->id,
                                w->disk_us + ha_rng_below(&w->rng, w->disk_jitter_us + 1)));
    else
        n->is_writing = false;
    finish_write(w, n, write, is_ok);
    free_write(write);
}

static void snapshot_arrives(struct world *w, struct world_node *n, struct world_event *ev)
{
    if (!log_snapshot_begin_at(n->log, ev->snapshot->index, ev->snapshot->view))
        return;
    queue_write(w, n, ev->snapshot);
    ev->snapshot = NULL;
}

static void handle(struct world *w, struct world_event *ev)
{
    struct world_node *n = &w->nodes[ev->node];
    struct log_event event = {.type = LOG_EV_MESSAGE};

    if (!n->is_up || ev->process != n->process) {
        free_event(ev);
        return;
    }
    if (n->is_hung && ev->type != EV_DISK) {
        ev->next = NULL;
        if (n->backlog_last)
            n->backlog_last->next = ev;
        else
            n->backlog_first = ev;
        n->backlog_last = ev;
        return;
    }
    if (n->is_hung) { /* its store writes on, it does not hear of it */
        ev->at_us = w->now_us + 10000;
        push_event(w, ev);
        return;
    }
    switch ((enum world_event_type)ev->type) {
    case EV_MESSAGE:
        event.u.message.from = ev->from;
        event.u.message.data = ev->data;
        event.u.message.size = ev->size;
        world_step(w, ev->node, &event);
        break;
    case EV_MEMBERS:
        tell_members(w, n);
        break;
    case EV_DISK:
        disk_event(w, n, ev);
        return;
    case EV_SNAPSHOT_ARRIVES:
        snapshot_arrives(w, n, ev);
        break;
    case EV_CALL:
        break;
    }
    free_event(ev);
}

/* The next timer of any node, or UINT64_MAX. */
static uint64_t next_timer(struct world *w, uint32_t *ret_node)
{
    uint64_t best = UINT64_MAX;

    for (uint32_t id = 1; id <= w->count; id++) {
        struct world_node *n = &w->nodes[id];
        if (!n->is_up || n->is_hung)
            continue;
        uint64_t deadline = log_deadline_ms(n->log);
        if (deadline == UINT64_MAX)
            continue;
        uint64_t at = true_us(n, deadline);
        if (at <= w->now_us)
            at = w->now_us + 1000; /* never twice in an instant */
        if (at < best) {
            best = at;
            *ret_node = id;
        }
    }
    return best;
}

static bool step_world(struct world *w, uint64_t until_us)
{
    uint32_t node = 0;
    uint64_t timer_us = next_timer(w, &node);
    uint64_t event_us = w->heap_count ? w->heap[0]->at_us : UINT64_MAX;

    if (timer_us > until_us && event_us > until_us) {
        w->now_us = until_us;
        return false;
    }
    if (event_us <= timer_us) {
        struct world_event *ev = pop_event(w);
        if (ev->at_us > w->now_us)
            w->now_us = ev->at_us;
        handle(w, ev);
        return true;
    }
    w->now_us = timer_us;
    struct log_event event = {.type = LOG_EV_TIMER};
    world_step(w, node, &event);
    lead(w, &w->nodes[node]);
    return true;
}

bool world_run_until(struct world *w, uint64_t ms, bool (*done)(struct world *w, void *user),
                     void *user)
{
    uint64_t until_us = w->now_us + ms * 1000;

    while (!w->failure[0]) {
        if (done && done(w, user))
            return true;
        if (!step_world(w, until_us))
            break;
    }
    return false;
}

void world_run_ms(struct world *w, uint64_t ms)
{
    world_run_until(w, ms, NULL, NULL);
}

/* ---- faults */

static struct ha_uuid uuid_of(uint64_t a, uint64_t b)
{
    struct ha_uuid id;

    memcpy(id.b, &a, 8);
    memcpy(id.b + 8, &b, 8);
    return id;
}

static void free_backlog(struct world_node *n)
{
    while (n->backlog_first) {
        struct world_event *ev = n->backlog_first;
        n->backlog_first = ev->next;
        free_event(ev);
    }
    n->backlog_last = NULL;
}

void world_start(struct world *w, uint32_t node)
{
    struct world_node *n = &w->nodes[node];
    struct log_loaded loaded = {.promised = n->store.promised,
                                .log_view = n->store.log_view,
                                .base_index = n->store.base,
                                .base_digest = n->store.base_digest,
                                .base_view = n->store.base_view,
                                .voter_count = n->store.voters.count,
                                .now_ms = world_local_ms(n, w->now_us)};

    if (n->is_up)
        return;
    for (uint32_t i = 0; i < loaded.voter_count; i++) {
        loaded.voters[i].node = n->store.voters.list[i].node;
        loaded.voters[i].store_id = n->store.voters.list[i].store_id;
    }
    n->nonce = ++w->nonce_high * 7919;
    n->process++;
    n->is_up = true;
    n->is_hung = n->is_disk_failing = n->is_disk_stalled = false;
    n->config.cluster_id = uuid_of(1, 1);
    n->config.generation = 1;
    n->config.timing = w->timing;
    n->config.self.node = node;
    n->config.self.nonce = n->nonce;
    n->config.self.store_id = n->store.id;
    n->config.self.boot_id = uuid_of(2, n->process);
    n->config.self.hw_id = uuid_of(3, node);
    if (n->config.self.proto_max == 0)
        n->config.self.proto_min = n->config.self.proto_max = 1;
    n->config.ring_entries = w->ring_entries;
    n->config.ring_bytes = 0;
    n->config.rng_seed = ha_rng_next(&w->rng);
    if (!n->memory)
        n->memory = aligned_alloc(64, (log_memory_size(&n->config) + 63) / 64 * 64);
    n->log = log_init(n->memory, &n->config, &loaded);
    for (uint32_t i = 0; i < n->store.count; i++) {
        if (log_load(n->log, &n->store.entries[i].e) < 0)
            world_fail(w, "n%u: entry %u of its store is not taken", node, i);
    }
    n->applied = n->store.base;
    n->open_applied = n->store.base_open;
    n->voters = n->store.voters;
    n->is_open = n->is_stopped = false;
    n->is_lease_void = true;
    n->snapshot_asked = 0;
    n->proposal_count = 0;
    n->voter_seq = 0;
    n->told = 0;
    n->lease_end_us = 0;
    schedule_members(w);
}

void world_start_all(struct world *w)
{
    for (uint32_t id = 1; id <= w->count; id++)
        world_start(w, id);
}

void world_crash(struct world *w, uint32_t node, uint32_t kept)
{
    struct world_node *n = &w->nodes[node];

    if (!n->is_up)
        return;
    while (n->writes) {
        struct world_write *write = n->writes;
        n->writes = write->next;
        if (kept > 0 && !n->is_disk_failing) {
            apply_write(w, n, write);
            kept--;
        }
        free_write(write);
    }
    n->is_writing = false;
    n->is_up = n->is_open = false;
    n->is_hung = false;
    n->process++;
    free_backlog(n);
    schedule_members(w);
}

void world_hang(struct world *w, uint32_t node, bool is_hung)
{
    struct world_node *n = &w->nodes[node];

    if (!n->is_up || n->is_hung == is_hung)
        return;
    n->is_hung = is_hung;
    while (!is_hung && n->backlog_first) {
        struct world_event *ev = n->backlog_first;
        n->backlog_first = ev->next;
        ev->at_us = w->now_us;
        push_event(w, ev);
    }
    if (!is_hung)
        n->backlog_last = NULL;
}

void world_split(struct world *w, const uint32_t *groups)
{
    for (uint32_t id = 1; id <= w->count; id++)
        w->nodes[id].group = groups[id - 1];
    schedule_members(w);
}

void world_heal(struct world *w)
{
    for (uint32_t id = 1; id <= w->count; id++) {
        w->nodes[id].group = 0;
        for (uint32_t to = 1; to <= w->count; to++)
            w->links[id][to].is_cut = false;
    }
    schedule_members(w);
}

void world_lose_store(struct world *w, uint32_t node)
{
    struct world_store *s = &w->nodes[node].store;
    struct world_entry *entries = s->entries;
    uint32_t capacity = s->capacity;

    drop_entries_from(s, 0);
    *s = (struct world_store){
        .id = uuid_of(ha_rng_next(&w->rng), node), .entries = entries, .capacity = capacity};
}

/* ---- the world */

/* What `cluster init` and the first voter changes leave in each founder's store. */
static void found(struct world *w, uint32_t voters)
{
    struct ha_digest digest = {0, 0};

    for (uint64_t i = 1; i <= voters + 1; i++) {
        uint8_t body[64] = {0};
        struct ha_writer writer = ha_writer_of(body, sizeof(body));
        struct log_entry entry = {.index = i, .origin = 1, .body = body};
        entry.kind = i == 1 ? LOG_KIND_INIT : LOG_KIND_VOTER;
        if (i > 1) {
            struct log_voter_change change = {
                .is_added = true, .node = (uint32_t)i - 1, .store_id = w->nodes[i - 1].store.id};
            log_voter_change_encode(&writer, &change);
        }
        entry.body_size = (uint32_t)writer.position;
        entry.digest = digest = log_entry_digest(digest, &entry);
        for (uint32_t id = 1; id <= voters; id++)
            store_add(w, &w->nodes[id].store, &entry);
    }
}

struct world *world_new(uint32_t count, uint32_t voters, uint64_t seed)
{
    struct world *w = must_calloc(1, sizeof(*w));

    w->count = count;
    w->rng.state = seed;
    w->timing = (struct log_timing){.heartbeat_ms = 100,
                                    .keeper_ms = 50,
                                    .token_ms = 100,
                                    .consensus_ms = 120,
                                    .rho_ppm = 5000};
    w->timing.lease_ms = log_lease_min_ms(&w->timing) + 160;
    w->watchdog_ms = 300;
    w->disk_us = 1000;
    w->disk_jitter_us = 1000;
    w->detect_us = 50000;
    w->ring_entries = 256;
    for (uint32_t id = 1; id <= count; id++) {
        w->nodes[id].id = id;
        w->nodes[id].offset_us = (int64_t)ha_rng_below(&w->rng, 1u << 30) + 1000000;
        w->nodes[id].drift_ppm = (int32_t)ha_rng_below(&w->rng, 8001) - 4000;
        w->nodes[id].store.id = uuid_of(ha_rng_next(&w->rng), id);
        for (uint32_t to = 1; to <= count; to++) {
            w->links[id][to].delay_us = 200;
            w->links[id][to].jitter_us = 300;
        }
    }
    found(w, voters);
    return w;
}

void world_free(struct world *w)
{
    while (w->heap_count > 0)
        free_event(pop_event(w));
    for (uint32_t id = 1; id <= w->count; id++) {
        struct world_node *n = &w->nodes[id];
        world_crash(w, id, 0);
        while (w->heap_count > 0)
            free_event(pop_event(w));
        drop_entries_from(&n->store, 0);
        free(n->store.entries);
        free(n->memory);
        free(n->proposals);
    }
    free(w->heap);
    free(w->commits);
    free(w->opens);
    free(w);
}

bool world_is_whole(struct world *w, void *unused)
{
    struct log_view view = {0, 0};
    uint32_t up = 0;

    (void)unused;
    for (uint32_t id = 1; id <= w->count; id++) {
        const struct world_node *n = &w->nodes[id];
        if (!n->is_up)
            continue;
        if (!n->is_open || n->lease_end_us == 0 || n->applied + LOG_BATCH < w->commit_count ||
            n->log->is_installing)
            return false;
        if (up++ == 0)
            view = n->open_view;
        if (log_view_cmp(view, n->open_view) != 0)
            return false;
    }
    for (uint32_t id = 1; id <= w->count; id++) {
        if (w->nodes[id].is_up && w->nodes[id].log->current.names.count != up)
            return false;
    }
    return up > 0;
}

uint32_t world_leader(const struct world *w)
{
    struct log_view view = {0, 0};
    uint32_t leader = 0;

    for (uint32_t id = 1; id <= w->count; id++) {
        const struct world_node *n = &w->nodes[id];
        if (n->is_up && n->is_open && log_is_leader(n->log) &&
            log_view_cmp(n->open_view, view) > 0) {
            view = n->open_view;
            leader = id;
        }
    }
    return leader;
}

/* A (process, seq) is committed at most once, and never after its proposer was told it is lost. */
static void check_proposals(struct world *w)
{
    for (uint64_t i = 1; i <= w->commit_count; i++) {
        const struct world_commit *c = &w->commits[i];
        if (!c->is_known || c->seq == 0 || c->origin == 0 || c->origin > w->count)
            continue;
        const struct world_node *n = &w->nodes[c->origin];
        if (!n->is_up || n->nonce != c->nonce || c->seq > n->proposal_count)
            continue;
        const struct world_proposal *p = &n->proposals[c->seq - 1];
        if (p->is_told && p->is_certain && p->index != i)
            world_fail(w, "n%u: proposal %llu was reported at %llu, it is committed at %llu",
                       c->origin, (unsigned long long)c->seq, (unsigned long long)p->index,
                       (unsigned long long)i);
    }
}

void world_check_end(struct world *w)
{
    check_proposals(w);
}
