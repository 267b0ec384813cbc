/* SPDX-License-Identifier: Apache-2.0
 *
 * corosync as hamgrd sees it, in place of quorum/transport.c: rings that form, break and merge, one
 * order of messages in a ring, delivered some later here than there; when a ring breaks, those that
 * go on together deliver the same messages first. Cables are cut one way or both, between any two.
 *
 * A ring whose members do not all hear each other loses its token: nothing is ordered until the
 * token timeout has passed and new rings have formed. Who hears somebody of another ring makes both
 * form anew; where hearing is not transitive, that goes on and on, as in life.
 */
#include "quorum/transport.h"

#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define LOG_MAX 512u /* messages of a ring that somebody may still lack */

struct message {
    uint64_t ordered; /* true time */
    uint32_t uses;
    uint32_t from;
    struct sim_memo memo;
    size_t size;
    uint8_t data[];
};

struct transport {
    struct sim_proc *proc;
    const struct transport_callbacks *callbacks;
    void *user;
    bool is_connected, is_member;
};

struct ring {
    bool is_used, is_broken;
    uint32_t number;
    uint32_t members; /* bits of node ids */
    uint64_t ordered; /* messages so far */
    struct message *log[LOG_MAX];
    uint64_t form_event;
};

struct queued {
    struct queued *next;
    struct message *message;
};

/* corosync on one node. */
struct station {
    bool is_alive;
    struct ring *ring; /* NULL: gathering, or dead */
    uint64_t delivered;
    bool is_delivering;          /* an event for the next delivery is under way */
    uint64_t not_before;         /* of the next delivery */
    struct queued *first, **end; /* sent, not yet in any order */
    bool is_flushing;
};

static struct ring rings[SIM_NODES * 2];
static struct station stations[SIM_NODES + 1];
static bool cut[SIM_NODES + 1][SIM_NODES + 1];
static uint32_t loss, ring_high;
static uint64_t delay_ns, merge_event;

static void deliver_to(uint32_t id, struct message *message);
static void flush_soon(uint32_t id);

/* ---- who hears whom ----------------------------------------------------------------------------
 */

bool sim_net_reaches(uint32_t from, uint32_t to)
{
    return !cut[from][to] && sim.nodes[from - 1].has_power && sim.nodes[to - 1].has_power;
}

static bool is_heard(uint32_t from, uint32_t to)
{
    return stations[from].is_alive && stations[to].is_alive && sim_net_reaches(from, to);
}

static bool are_close(uint32_t a, uint32_t b)
{
    return a == b || (is_heard(a, b) && is_heard(b, a));
}

/* ---- messages ----------------------------------------------------------------------------------
 */

static void drop_message(struct message *message)
{
    if (--message->uses == 0)
        free(message);
}

static struct message *logged(const struct ring *ring, uint64_t number)
{
    return ring->log[number % LOG_MAX];
}

static void on_deliver(void *data, uint64_t ring_number);

static void deliver_soon(uint32_t id)
{
    struct station *s = &stations[id];

    if (!s->ring || s->is_delivering || s->delivered == s->ring->ordered)
        return;
    uint64_t at = logged(s->ring, s->delivered + 1)->ordered;
    if (delay_ns > 0)
        at += sim_below(delay_ns);
    if (loss > 0 && sim_chance(loss))
        at += sim_between(20, 240) * NS_MS; /* asked for again with the token */
    if (at < s->not_before)
        at = s->not_before;
    s->not_before = at;
    s->is_delivering = true;
    if (at <= sim.now)
        on_deliver(s, s->ring->number);
    else
        sim_at(at, NULL, on_deliver, s, s->ring->number);
}

static void on_deliver(void *data, uint64_t ring_number)
{
    struct station *s = data;
    uint32_t id = (uint32_t)(s - stations);

    if (!s->ring || s->ring->number != ring_number)
        return;
    s->is_delivering = false;
    if (s->ring->is_broken || s->delivered == s->ring->ordered)
        return; /* what is missing comes with the recovery */
    deliver_to(id, logged(s->ring, ++s->delivered));
    deliver_soon(id);
}

static void order(struct ring *ring, struct message *message)
{
    uint64_t slot = ++ring->ordered % LOG_MAX;

    if (ring->log[slot])
        drop_message(ring->log[slot]);
    ring->log[slot] = message;
    message->ordered = sim.now;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct station *s = &stations[id];
        if (s->ring != ring)
            continue;
        if (ring->ordered - s->delivered >= LOG_MAX - 1) /* never so far behind */
            deliver_to(id, logged(ring, ++s->delivered));
        deliver_soon(id);
    }
}

static void on_flush(void *data, uint64_t arg)
{
    struct station *s = data;

    (void)arg;
    s->is_flushing = false;
    while (s->ring && !s->ring->is_broken && s->first) {
        struct queued *item = s->first;
        s->first = item->next;
        if (!s->first)
            s->end = &s->first;
        struct message *message = item->message;
        free(item);
        order(s->ring, message);
    }
}

static void flush_soon(uint32_t id)
{
    struct station *s = &stations[id];

    if (s->is_flushing || !s->first || !s->ring || s->ring->is_broken)
        return;
    s->is_flushing = true;
    sim_after(sim_between(50, 900) * 1000, NULL, on_flush, s, 0);
}

/* ---- hamgrd's side -----------------------------------------------------------------------------
 */

static struct transport *transport_of(uint32_t id)
{
    struct sim_node *node = &sim.nodes[id - 1];

    return sim_is_up(node, SIM_HAMGRD) ? node->transport : NULL;
}

static void hand_over(struct transport *t, struct message *message)
{
    if (!t->is_member)
        return;
    sim_memo_open(&message->memo);
    t->callbacks->message(t->user, message->from, message->data, message->size);
    sim_memo_open(NULL);
}

static void on_late_message(void *data, uint64_t id)
{
    struct message *message = data;
    struct transport *t = transport_of((uint32_t)id);

    if (t)
        hand_over(t, message);
    struct sim_proc *before = sim_enter(NULL);
    drop_message(message);
    sim_leave(before);
}

static void deliver_to(uint32_t id, struct message *message)
{
    struct transport *t = transport_of(id);

    if (!t || !t->is_member)
        return;
    if (t->proc->state != SIM_RUNS || t->proc->late_first || sim.running) {
        message->uses++;
        sim_after(0, t->proc, on_late_message, message, id);
        return;
    }
    sim_mix(message->size << 16 ^ id ^ message->data[message->size - 1]);
    struct sim_proc *before = sim_enter(t->proc);
    hand_over(t, message);
    sim_leave(before);
}

static void on_members(void *data, uint64_t members)
{
    struct transport *t = data;
    uint32_t nodes[SIM_NODES], count = 0;

    for (uint32_t id = 1; id <= SIM_NODES; id++) {
        if (members & 1u << id)
            nodes[count++] = id;
    }
    if (t->is_member)
        t->callbacks->members(t->user, nodes, count);
}

/* The group is who of the ring runs a hamgrd that has joined. */
static void tell_group(const struct ring *ring)
{
    uint64_t group = 0;

    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct transport *t = transport_of(id);
        if ((ring->members & 1u << id) && t && t->is_member)
            group |= 1u << id;
    }
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (group & 1u << id)
            sim_after(0, transport_of(id)->proc, on_members, transport_of(id), group);
    }
}

static void fill_config(const struct sim_node *node, struct transport_config *config)
{
    memset(config, 0, sizeof(*config));
    snprintf(config->cluster_name, sizeof(config->cluster_name), "sim");
    config->self = node->id;
    config->token_ms = sim.token_ms;
    config->consensus_ms = sim.consensus_ms;
    for (uint32_t i = 0; i < sim.node_count; i++) {
        struct transport_node *n = &config->nodes[config->node_count++];
        n->id = sim.nodes[i].id;
        snprintf(n->name, sizeof(n->name), "%s", sim.nodes[i].name);
        snprintf(n->addr, sizeof(n->addr), "10.0.0.%u", n->id);
    }
}

static void on_connect(void *data, uint64_t arg)
{
    struct transport *t = data;
    struct sim_node *node = t->proc->node;
    struct station *s = &stations[node->id];
    struct transport_config config;

    (void)arg;
    if (!s->is_alive || !s->ring || s->ring->is_broken) {
        sim_after(sim_between(50, 500) * NS_MS, t->proc, on_connect, t, 0);
        return;
    }
    fill_config(node, &config);
    if (!t->callbacks->config(t->user, &config)) {
        sim_after(2 * NS_S, t->proc, on_connect, t, 0);
        return;
    }
    t->is_connected = t->is_member = true;
    if (t->callbacks->health)
        t->callbacks->health(t->user, TRANSPORT_OK, "connected");
    tell_group(s->ring);
}

int transport_open(qb_loop_t *loop, const char *group, const struct transport_callbacks *callbacks,
                   void *user, struct transport **ret_transport, struct ha_err *err)
{
    struct transport *t = calloc(1, sizeof(*t));

    (void)group;
    (void)err;
    ha_assert(t);
    *t = (struct transport){.proc = (struct sim_proc *)loop, .callbacks = callbacks, .user = user};
    t->proc->node->transport = t;
    sim_after(sim_between(10, 50) * NS_MS, t->proc, on_connect, t, 0);
    *ret_transport = t;
    return 0;
}

void transport_close(struct transport *t)
{
    (void)t; /* it goes with the process */
}

void transport_send(struct transport *t, const uint8_t *data, size_t size, bool is_heartbeat)
{
    uint32_t id = t->proc->node->id;
    struct station *s = &stations[id];

    (void)is_heartbeat;
    if (!t->is_connected || !s->is_alive)
        return;
    struct sim_proc *before = sim_enter(NULL);
    struct message *message = malloc(sizeof(*message) + size);
    struct queued *item = malloc(sizeof(*item));
    ha_assert(message && item);
    message->uses = 1;
    message->from = id;
    message->size = size;
    message->memo = (struct sim_memo){.data = message->data};
    memcpy(message->data, data, size);
    sim_memo_sent(&message->memo, data, size - sizeof(struct ha_digest));
    *item = (struct queued){.message = message};
    *s->end = item;
    s->end = &item->next;
    flush_soon(id);
    sim_leave(before);
}

bool transport_votequorum(struct transport *t, bool *ret_is_quorate, uint32_t *ret_votes)
{
    (void)t;
    *ret_is_quorate = true;
    *ret_votes = sim.node_count;
    return true;
}

bool transport_is_host_up(const struct transport *t, uint32_t node)
{
    const struct station *s = &stations[t->proc->node->id];

    return t->is_connected && s->ring && node >= 1 && node <= SIM_NODES &&
           (s->ring->members & 1u << node) != 0;
}

const char *transport_config_refusal(const struct transport_config *config)
{
    (void)config;
    return NULL;
}

void sim_net_hamgrd_gone(struct sim_node *node)
{
    struct station *s = &stations[node->id];

    node->transport = NULL;
    if (s->ring && !s->ring->is_broken)
        tell_group(s->ring);
}

/* ---- rings -------------------------------------------------------------------------------------
 */

static bool is_whole(const struct ring *ring)
{
    for (uint32_t a = 1; a <= sim.node_count; a++) {
        for (uint32_t b = 1; b <= sim.node_count; b++) {
            if ((ring->members & 1u << a) && (ring->members & 1u << b) && !are_close(a, b))
                return false;
            if (a == b && (ring->members & 1u << a) &&
                (!stations[a].is_alive || stations[a].ring != ring))
                return false;
        }
    }
    return true;
}

static struct ring *new_ring(uint32_t members)
{
    for (uint32_t i = 0; i < SIM_NODES * 2; i++) {
        if (rings[i].is_used)
            continue;
        rings[i] = (struct ring){.is_used = true, .number = ++ring_high, .members = members};
        return &rings[i];
    }
    ha_assert(!"too many rings");
    return NULL;
}

static void free_ring(struct ring *ring)
{
    for (uint32_t i = 0; i < LOG_MAX; i++) {
        if (ring->log[i])
            drop_message(ring->log[i]);
    }
    sim_cancel(ring->form_event);
    ring->is_used = false;
}

/* Members of an old ring that go on together deliver what any of them has received: its own
 * messages at least, of the others' some. */
static void recover(struct ring *old, uint32_t together)
{
    uint64_t upto = 0;

    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct station *s = &stations[id];
        if (!(together & 1u << id) || s->ring != old)
            continue;
        uint64_t received = s->delivered + sim_below(old->ordered - s->delivered + 1);
        for (uint64_t n = received + 1; n <= old->ordered; n++)
            received = logged(old, n)->from == id ? n : received;
        upto = received > upto ? received : upto;
    }
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct station *s = &stations[id];
        while ((together & 1u << id) && s->ring == old && s->delivered < upto)
            deliver_to(id, logged(old, ++s->delivered));
    }
}

static void enter_ring(struct station *s, struct ring *ring)
{
    s->ring = ring;
    s->delivered = ring->ordered;
    s->is_delivering = false;
    s->not_before = 0;
}

static void join_ring(struct ring *fresh)
{
    for (uint32_t i = 0; i < SIM_NODES * 2; i++) {
        if (rings[i].is_used && &rings[i] != fresh)
            recover(&rings[i], fresh->members & rings[i].members);
    }
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct station *s = &stations[id];
        if (!(fresh->members & 1u << id))
            continue;
        enter_ring(s, fresh);
    }
    sim_trace(0, "corosync: ring %u of nodes 0x%x", fresh->number, fresh->members >> 1);
    tell_group(fresh);
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (fresh->members & 1u << id)
            flush_soon(id);
    }
}

/* New rings out of `nodes`: greedily, beginning anywhere. */
static void form(uint32_t nodes)
{
    uint32_t turn = (uint32_t)sim_below(sim.node_count);

    for (uint32_t i = 0; i < sim.node_count; i++) {
        uint32_t first = (i + turn) % sim.node_count + 1, members = 1u << first;
        if (!(nodes & members) || !stations[first].is_alive)
            continue;
        for (uint32_t k = 0; k < sim.node_count; k++) {
            uint32_t id = (k + turn) % sim.node_count + 1;
            bool is_close = (nodes & 1u << id) != 0;
            for (uint32_t m = 1; m <= sim.node_count && is_close; m++)
                is_close = !(members & 1u << m) || are_close(id, m);
            if (is_close)
                members |= 1u << id;
        }
        nodes &= ~members;
        join_ring(new_ring(members));
    }
}

static void forget_empty_rings(void)
{
    for (uint32_t i = 0; i < SIM_NODES * 2; i++) {
        bool is_in_use = false;
        for (uint32_t id = 1; id <= sim.node_count; id++)
            is_in_use |= rings[i].is_used && stations[id].ring == &rings[i];
        if (rings[i].is_used && !is_in_use)
            free_ring(&rings[i]);
    }
}

static void on_form(void *data, uint64_t number)
{
    struct ring *ring = data;

    if (!ring->is_used || ring->number != number)
        return;
    uint32_t nodes = 0;
    for (uint32_t id = 1; id <= sim.node_count; id++) /* who has not gone to another meanwhile */
        nodes |= stations[id].ring == ring ? 1u << id : 0;
    ring->form_event = 0;
    form(nodes);
    for (uint32_t id = 1; id <= sim.node_count; id++) { /* the dead */
        if (stations[id].ring == ring)
            stations[id].ring = NULL;
    }
    forget_empty_rings();
    sim_net_changed();
}

static void on_token_lost(void *data, uint64_t number)
{
    struct ring *ring = data;

    if (!ring->is_used || ring->number != number)
        return;
    if (is_whole(ring)) { /* it came back in time: asked for again, nothing lost */
        ring->form_event = 0;
        ring->is_broken = false;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            if (stations[id].ring != ring)
                continue;
            deliver_soon(id);
            flush_soon(id);
        }
        return;
    }
    ring->form_event =
        sim_after(sim_between(50, sim.consensus_ms) * NS_MS, NULL, on_form, ring, number);
}

static void break_ring(struct ring *ring, uint64_t after_ns)
{
    if (ring->form_event)
        return;
    ring->is_broken = true;
    ring->form_event = sim_after(after_ns, NULL, on_token_lost, ring, ring->number);
}

/* Somebody hears a node of another ring: both gather. */
static void on_merge(void *data, uint64_t arg)
{
    uint32_t nodes = 0;

    (void)data;
    (void)arg;
    merge_event = 0;
    for (uint32_t a = 1; a <= sim.node_count; a++) {
        for (uint32_t b = 1; b <= sim.node_count; b++) {
            if (a == b || !is_heard(a, b) || stations[a].ring == stations[b].ring)
                continue;
            if ((stations[a].ring && stations[a].ring->is_broken) ||
                (stations[b].ring && stations[b].ring->is_broken))
                continue;
            nodes |= stations[a].ring ? stations[a].ring->members : 1u << a;
            nodes |= stations[b].ring ? stations[b].ring->members : 1u << b;
        }
    }
    if (nodes) {
        form(nodes);
        forget_empty_rings();
    }
    sim_net_changed();
}

static bool is_merge_due(void)
{
    for (uint32_t a = 1; a <= sim.node_count; a++) {
        for (uint32_t b = 1; b <= sim.node_count; b++) {
            if (a != b && is_heard(a, b) && stations[a].ring != stations[b].ring)
                return true;
        }
    }
    return false;
}

static void merge_soon(uint64_t low_ms, uint64_t high_ms)
{
    if (merge_event || !is_merge_due())
        return;
    merge_event = sim_after(sim_between(low_ms, high_ms) * NS_MS, NULL, on_merge, NULL, 0);
}

void sim_net_changed(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (stations[id].is_alive && !stations[id].ring)
            enter_ring(&stations[id], new_ring(1u << id));
    }
    sim_check_network();
    for (uint32_t i = 0; i < SIM_NODES * 2; i++) {
        if (rings[i].is_used && !rings[i].is_broken && !is_whole(&rings[i]))
            break_ring(&rings[i], (sim.token_ms + sim_below(200)) * NS_MS);
    }
    merge_soon(200, 1500);
}

/* ---- the world ---------------------------------------------------------------------------------
 */

static void on_down(void *data, uint64_t arg)
{
    struct transport *t = data;

    (void)arg;
    if (!t->is_connected)
        return;
    t->is_connected = t->is_member = false;
    t->callbacks->down(t->user, "corosync has ended");
    sim_after(sim_between(100, 1000) * NS_MS, t->proc, on_connect, t, 0);
}

void sim_net_corosync(struct sim_node *node)
{
    struct station *s = &stations[node->id];
    bool is_alive = node->has_power && node->procs[SIM_COROSYNC].state == SIM_RUNS;
    struct transport *t = transport_of(node->id);

    if (s->is_alive == is_alive)
        return;
    s->is_alive = is_alive;
    if (node->procs[SIM_COROSYNC].state == SIM_DEAD) { /* what it had to send is gone with it */
        while (s->first) {
            struct queued *item = s->first;
            s->first = item->next;
            drop_message(item->message);
            free(item);
        }
        s->end = &s->first;
        s->ring = NULL;
        if (t)
            sim_after(NS_MS, t->proc, on_down, t, 0);
    }
    sim_net_changed();
}

void sim_net_cut(uint32_t from, uint32_t to, bool is_cut)
{
    cut[from][to] = is_cut;
}

void sim_net_loss(uint32_t per_mille)
{
    loss = per_mille;
}

void sim_net_delay(uint64_t ns)
{
    delay_ns = ns;
}

void sim_net_heal(void)
{
    memset(cut, 0, sizeof(cut));
    loss = 0;
    delay_ns = 0;
    sim_net_changed();
}

void sim_net_reset(void)
{
    memset(rings, 0, sizeof(rings));
    memset(stations, 0, sizeof(stations));
    memset(cut, 0, sizeof(cut));
    for (uint32_t i = 0; i <= SIM_NODES; i++)
        stations[i].end = &stations[i].first;
    loss = ring_high = 0;
    delay_ns = merge_event = 0;
}
