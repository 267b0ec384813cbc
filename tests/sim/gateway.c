/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-hv around the production gate (gate.c, gate_verbs.c, gate_talk.c): its connections, in
 * place of gate_serve.c; its state file; its connection to the keeper.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/fds.h"
#include "tests/sim/sim.h"

#define KEEPER_LATENCY_NS (30 * UINT64_C(1000))

struct gate_peer {
    struct gate *gate;
    struct gate_peer *next;
    struct sim_conn *conn;
};

/* ---- connections -------------------------------------------------------------------------------
 */

void gate_drop_peer(struct gate_peer *peer, const char *why)
{
    sim_trace(peer->conn->node->id, "hamgr-hv: a peer is dropped: %s", why);
    sim_conn_end(peer->conn);
}

void gate_send(struct gate_peer *peer, uint16_t type, uint64_t id, const struct ha_writer *body)
{
    sim_conn_reply(peer->conn, type, id, body ? body->data : NULL, body ? body->position : 0);
}

void gate_send_all(struct gate *gate, uint16_t type, const struct ha_writer *body)
{
    for (struct gate_peer *peer = gate->peers; peer; peer = peer->next)
        gate_send(peer, type, 0, body);
}

static void on_changed(void *data, uint64_t arg)
{
    struct gate *gate = data;

    (void)arg;
    gate->changed_fd = -1;
    gate_send_all(gate, HVP_CHANGED, NULL);
}

/* A burst is one event. */
void gate_tell_changed(struct gate *gate)
{
    if (gate->changed_fd >= 0)
        return;
    gate->changed_fd = FD_GATE_EVENT;
    sim_after(0, (struct sim_proc *)gate->loop, on_changed, gate, 0);
}

void sim_gate_packet(struct sim_conn *conn, const struct ha_packet *packet, int fd)
{
    struct gate_peer *peer = conn->user;

    if (!peer)
        return;
    if (packet->type == HVP_HELLO)
        gate_serve_hello(peer->gate, peer, packet);
    else if (packet->type == HVP_LIST)
        gate_serve_list(peer->gate, peer, packet->id);
    else
        gate_verb(peer->gate, peer, packet, fd, -1);
}

static void add_peer(void *data, uint64_t number)
{
    struct sim_conn *conn = data;
    struct gate *gate = conn->node->gate;

    if (!conn->is_used || conn->number != number || conn->user)
        return;
    struct gate_peer *peer = calloc(1, sizeof(*peer));
    *peer = (struct gate_peer){.gate = gate, .next = gate->peers, .conn = conn};
    gate->peers = peer;
    conn->user = peer;
}

void sim_gate_joined(struct sim_conn *conn)
{
    sim_after(0, &conn->node->procs[SIM_HV], add_peer, conn, conn->number);
}

/* The client has gone; the gate hears of it by its loop. The connection's slot may be another's by
 * then, so the peer is named. */
static void remove_peer(void *data, uint64_t arg)
{
    struct gate_peer *peer = data;
    struct gate *gate = peer->gate;
    struct gate_peer **place = &gate->peers;

    (void)arg;
    while (*place != peer)
        place = &(*place)->next;
    *place = peer->next;
    gate_forget_peer(gate, peer);
    free(peer);
}

void sim_gate_left(struct sim_conn *conn)
{
    static struct sim_conn nobody;
    struct gate_peer *peer = conn->user;

    if (!peer || !sim_is_up(conn->node, SIM_HV))
        return;
    peer->conn = &nobody; /* what it is still told goes nowhere */
    nobody.node = conn->node;
    sim_after(0, &conn->node->procs[SIM_HV], remove_peer, peer, 0);
}

int gate_serve_open(struct gate *gate, struct ha_err *err)
{
    (void)gate;
    (void)err;
    return 0;
}

void gate_serve_close(struct gate *gate)
{
    (void)gate;
}

/* ---- what a restarted gate remembers -----------------------------------------------------------
 */

void gate_state_load(struct gate *gate)
{
    const struct sim_node *node = sim.running->node;

    if (!node->has_gate_state)
        return;
    gate->has_hello = !ha_uuid_is_zero(node->gate_hello.cluster_id);
    gate->hello = node->gate_hello;
    gate->fsm.was_armed = node->gate_was_armed;
    gate->fsm.has_slept = node->gate_has_slept;
    gate->fsm.slept_ns = node->gate_slept_ns;
    gate->fsm.void_end_ns = node->gate_void_end_ns;
    gate->fsm.woke_ns = node->gate_woke_ns;
}

void gate_state_save(const struct gate *gate)
{
    struct sim_node *node = sim.running->node;

    node->has_gate_state = true;
    node->gate_hello = gate->hello;
    node->gate_was_armed = gate->fsm.was_armed;
    node->gate_has_slept = gate->fsm.has_slept;
    node->gate_slept_ns = gate->fsm.slept_ns;
    node->gate_void_end_ns = gate->fsm.void_end_ns;
    node->gate_woke_ns = gate->fsm.woke_ns;
}

/* ---- the keeper --------------------------------------------------------------------------------
 */

int ha_sock_connect(const char *path, struct ha_err *err)
{
    struct sim_node *node = sim.running->node;

    (void)path;
    (void)err;
    if (!sim_is_up(node, SIM_KEEPER))
        return -ECONNREFUSED;
    node->gate_news = 0;
    node->is_gate_cut_off = false;
    return FD_GATE_KEEPER;
}

struct proof {
    size_t size;
    uint8_t body[32];
};

static void on_proof(void *data, uint64_t arg)
{
    struct proof *proof = data;

    (void)arg;
    sim_keeper_proof(sim.running->node, proof->body, proof->size);
}

int ha_sock_send(int fd, uint16_t type, uint64_t id, const void *body, size_t body_size,
                 const int *fds, unsigned fd_count)
{
    struct sim_node *node = sim.running->node;

    (void)fd;
    (void)type;
    (void)id;
    (void)fds;
    (void)fd_count;
    if (node->is_gate_cut_off || !sim_is_up(node, SIM_KEEPER))
        return -EPIPE;
    struct sim_proc *before = sim_enter(NULL);
    struct proof *proof = malloc(sizeof(*proof));
    sim_leave(before);
    ha_assert(proof && body_size <= sizeof(proof->body));
    proof->size = body_size;
    memcpy(proof->body, body, body_size);
    sim_after(KEEPER_LATENCY_NS, &node->procs[SIM_KEEPER], on_proof, proof, 0);
    return 0;
}

int ha_sock_receive(int fd, uint8_t *buffer, struct ha_packet *ret_packet)
{
    struct sim_node *node = sim.running->node;

    (void)fd;
    if (node->gate_news > 0) {
        node->gate_news--;
        *ret_packet =
            (struct ha_packet){.type = KEEPER_STATUS, .body = buffer, .fds = {-1, -1, -1, -1}};
        return 1;
    }
    return node->is_gate_cut_off ? 0 : -EAGAIN;
}

static void on_keeper_news(void *data, uint64_t is_end)
{
    struct sim_node *node = data;

    if (is_end)
        node->is_gate_cut_off = true;
    else
        node->gate_news++;
    sim_ready(&node->procs[SIM_HV], FD_GATE_KEEPER);
}

void sim_gate_keeper_changed(struct sim_node *node)
{
    if (sim_is_up(node, SIM_HV) && node->gate && node->gate->keeper_fd >= 0)
        sim_after(KEEPER_LATENCY_NS, &node->procs[SIM_HV], on_keeper_news, node, 0);
}

void sim_gate_keeper_gone(struct sim_node *node)
{
    if (sim_is_up(node, SIM_HV))
        sim_after(KEEPER_LATENCY_NS, &node->procs[SIM_HV], on_keeper_news, node, 1);
}

/* ---- life --------------------------------------------------------------------------------------
 */

void sim_gate_start(struct sim_node *node)
{
    static const struct gate_options options = {
        .dir = "/run/hamgr", .peer_uid = (uid_t)-1, .worker_max = GATE_WORKERS};
    struct ha_err err = {0};

    node->gate_timer = 0;
    node->gate = gate_open((qb_loop_t *)sim.running, &node->hv, NULL, NULL, &options, &err);
    ha_assert(node->gate);
}

void sim_gate_end(struct sim_node *node)
{
    node->gate = NULL;
    sim_host_gate_gone(node);
}

void sim_gate_changed(struct sim_node *node)
{
    if (node->gate && sim_is_up(node, SIM_HV))
        sim_ready(&node->procs[SIM_HV], FD_GATE_EVENT);
}
