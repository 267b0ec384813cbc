/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *world_grow(void *list, uint32_t count, uint32_t *capacity, size_t size)
{
    if (count < *capacity)
        return list;
    *capacity = *capacity ? *capacity * 2 : 16;
    list = realloc(list, *capacity * size);
    if (!list)
        abort();
    return list;
}

void *world_calloc(size_t count, size_t size)
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
uint64_t world_true_us(const struct world_node *n, uint64_t local_ms)
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

void world_push(struct world *w, struct world_event *ev)
{
    uint32_t at;

    ev->order = ++w->order;
    if (w->heap_count > 50000)
        world_fail(w, "a storm of messages");
    w->heap = world_grow(w->heap, w->heap_count, &w->heap_capacity, sizeof(*w->heap));
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

struct world_event *world_new_event(struct world *w, uint8_t type, uint32_t node, uint64_t in_us)
{
    struct world_event *ev = world_calloc(1, sizeof(*ev));

    ev->type = type;
    ev->node = node;
    ev->process = w->nodes[node].process;
    ev->at_us = w->now_us + in_us;
    return ev;
}

static void free_event(struct world_event *ev)
{
    free(ev->data);
    world_free_write(ev->snapshot);
    free(ev);
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
            world_push(w, world_new_event(w, EV_MEMBERS, id,
                                          1000 + ha_rng_below(&w->rng, w->detect_us + 1)));
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
        world_make_snapshot(w, n);
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
        world_push(w, ev);
        return;
    }
    free_event(ev);
    if (!write)
        return;
    n->writes = write->next;
    write->next = NULL;
    bool is_ok = !n->is_disk_failing;
    if (is_ok)
        world_apply_write(w, n, write);
    if (n->writes)
        world_push(w, world_new_event(w, EV_DISK, n->id,
                                      w->disk_us + ha_rng_below(&w->rng, w->disk_jitter_us + 1)));
    else
        n->is_writing = false;
    finish_write(w, n, write, is_ok);
    world_free_write(write);
}

static void snapshot_arrives(struct world *w, struct world_node *n, struct world_event *ev)
{
    if (!log_snapshot_begin_at(n->log, ev->snapshot->index, ev->snapshot->view))
        return;
    world_queue_write(w, n, ev->snapshot);
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
        world_push(w, ev);
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
        uint64_t at = world_true_us(n, deadline);
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
    world_lead(w, &w->nodes[node]);
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
            world_apply_write(w, n, write);
            kept--;
        }
        world_free_write(write);
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
        world_push(w, ev);
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

    world_store_cut(s, 0);
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
            world_store_add(w, &w->nodes[id].store, &entry);
    }
}

struct world *world_new(uint32_t count, uint32_t voters, uint64_t seed)
{
    struct world *w = world_calloc(1, sizeof(*w));

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
        world_store_cut(&n->store, 0);
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
