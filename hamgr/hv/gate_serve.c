/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate's connections. A peer that stops reading is remembered up to a limit and then dropped;
 * it never makes the gate wait.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <qb/qblog.h>

#include "hamgr/base/assert.h"
#include "hamgr/hv/gate_parts.h"

#define PEERS_MAX 16u
/* A reply for each guest a node may have, each as large as a listing's part is rare: 8 MiB. */
#define QUEUE_MAX_BYTES (8u * 1024 * 1024)
/* Packets of one peer per turn of the loop: the lease timer gets its turn in between. */
#define PACKETS_PER_TURN 32u

struct message {
    struct message *next;
    uint16_t type;
    uint64_t id;
    size_t size;
    uint8_t body[];
};

struct gate_peer {
    struct gate *gate;
    struct gate_peer *next;
    int fd;
    bool is_dropped;
    struct message *first, **end;
    size_t queued_bytes;
};

/* ---- sending -----------------------------------------------------------------------------------
 */

void gate_drop_peer(struct gate_peer *peer, const char *why)
{
    if (peer->is_dropped)
        return;
    peer->is_dropped = true;
    qb_log(LOG_WARNING, "gate: a peer is dropped: %s", why);
    shutdown(peer->fd, SHUT_RDWR); /* its end of file comes by the loop, and closes it there */
}

static void enqueue(struct gate_peer *peer, uint16_t type, uint64_t id,
                    const struct ha_writer *body)
{
    size_t size = body ? body->position : 0;
    struct message *message = NULL;

    if (peer->queued_bytes + size + sizeof(*message) <= QUEUE_MAX_BYTES)
        message = malloc(sizeof(*message) + size);
    if (!message) {
        gate_drop_peer(peer, "it does not read what it asked for");
        return;
    }
    *message = (struct message){.type = type, .id = id, .size = size};
    if (size > 0)
        memcpy(message->body, body->data, size);
    *peer->end = message;
    peer->end = &message->next;
    peer->queued_bytes += size + sizeof(*message);
}

static void pop(struct gate_peer *peer)
{
    struct message *message = peer->first;

    peer->first = message->next;
    if (!peer->first)
        peer->end = &peer->first;
    peer->queued_bytes -= message->size + sizeof(*message);
    free(message);
}

static int32_t on_peer(int32_t fd, int32_t events, void *data);

static void flush(struct gate_peer *peer)
{
    while (peer->first && !peer->is_dropped) {
        const struct message *m = peer->first;
        int rc = ha_sock_send(peer->fd, m->type, m->id, m->body, m->size, NULL, 0);
        if (rc == -EAGAIN)
            break;
        if (rc < 0) {
            gate_drop_peer(peer, "its connection is broken");
            return;
        }
        pop(peer);
    }
    (void)qb_loop_poll_mod(peer->gate->loop, QB_LOOP_MED, peer->fd,
                           peer->first ? POLLIN | POLLOUT : POLLIN, peer, on_peer);
}

void gate_send(struct gate_peer *peer, uint16_t type, uint64_t id, const struct ha_writer *body)
{
    ha_assert(!body || !body->failed);
    if (peer->is_dropped)
        return;
    bool was_empty = !peer->first;
    enqueue(peer, type, id, body);
    if (was_empty)
        flush(peer);
}

/* ---- events ------------------------------------------------------------------------------------
 */

void gate_send_all(struct gate *gate, uint16_t type, const struct ha_writer *body)
{
    for (struct gate_peer *peer = gate->peers; peer; peer = peer->next)
        gate_send(peer, type, 0, body);
}

/* Through an eventfd, so that a burst is one event: a job of libqb would wait for up to 50 ms. */
static int32_t on_changed_due(int32_t fd, int32_t events, void *data)
{
    struct gate *gate = data;
    uint64_t count;

    (void)events;
    (void)!read(fd, &count, sizeof(count));
    gate_send_all(gate, HVP_CHANGED, NULL);
    return 0;
}

void gate_tell_changed(struct gate *gate)
{
    uint64_t one = 1;

    (void)!write(gate->changed_fd, &one, sizeof(one));
}

/* ---- receiving ---------------------------------------------------------------------------------
 */

static void free_peer(struct gate_peer *peer)
{
    struct gate *gate = peer->gate;
    struct gate_peer **link = &gate->peers;

    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    gate_forget_peer(gate, peer);
    qb_loop_poll_del(gate->loop, peer->fd);
    close(peer->fd);
    while (peer->first)
        pop(peer);
    free(peer);
}

/* Keeps the first descriptor for who wants it, and the second of a save or restore; there is no use
 * for more. */
static int take_fd(struct ha_packet *packet, int *ret_ring_fd)
{
    unsigned kept = packet->type == HVP_SAVE || packet->type == HVP_RESTORE ? 2 : 1;

    for (unsigned i = kept; i < HA_SOCK_FDS_MAX; i++)
        if (packet->fds[i] >= 0)
            close(packet->fds[i]);
    *ret_ring_fd = kept == 2 ? packet->fds[1] : -1;
    return packet->fds[0];
}

static void serve(struct gate_peer *peer, struct ha_packet *packet)
{
    int ring_fd, fd = take_fd(packet, &ring_fd);

    if (packet->type == HVP_HELLO)
        gate_serve_hello(peer->gate, peer, packet);
    else if (packet->type == HVP_LIST)
        gate_serve_list(peer->gate, peer, packet->id);
    else {
        gate_verb(peer->gate, peer, packet, fd, ring_fd);
        return;
    }
    if (fd >= 0)
        close(fd);
}

static int32_t on_peer(int32_t fd, int32_t events, void *data)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct gate_peer *peer = data;
    struct ha_packet packet;
    int rc = -EAGAIN;

    if (events & POLLOUT)
        flush(peer);
    for (unsigned i = 0; i < PACKETS_PER_TURN; i++) {
        rc = ha_sock_receive(fd, buffer, &packet);
        if (rc != 1)
            break;
        if (peer->is_dropped) {
            for (unsigned n = 0; n < HA_SOCK_FDS_MAX; n++)
                if (packet.fds[n] >= 0)
                    close(packet.fds[n]);
            continue;
        }
        serve(peer, &packet);
    }
    if (rc == -HA_E_PEER || rc == -HA_E_VERSION)
        gate_drop_peer(peer, ha_err_text(rc));
    else if (rc != 1 && rc != -EAGAIN)
        free_peer(peer);
    return 0;
}

static uint32_t count_peers(const struct gate *gate)
{
    uint32_t count = 0;

    for (const struct gate_peer *peer = gate->peers; peer; peer = peer->next)
        count++;
    return count;
}

static void add_peer(struct gate *gate, int fd)
{
    struct gate_peer *peer = count_peers(gate) < PEERS_MAX ? calloc(1, sizeof(*peer)) : NULL;

    if (!peer || qb_loop_poll_add(gate->loop, QB_LOOP_MED, fd, POLLIN, peer, on_peer) < 0) {
        qb_log(LOG_WARNING, "gate: a connection is refused: too many");
        free(peer);
        close(fd);
        return;
    }
    *peer = (struct gate_peer){.gate = gate, .next = gate->peers, .fd = fd};
    peer->end = &peer->first;
    gate->peers = peer;
}

static int32_t on_listener(int32_t listener, int32_t events, void *data)
{
    struct gate *gate = data;
    struct ha_err err = {0};
    int fd = ha_sock_accept(listener, gate->options.peer_uid, &err);

    (void)events;
    if (fd >= 0)
        add_peer(gate, fd);
    else if (fd != -EAGAIN)
        qb_log(LOG_WARNING, "gate: a connection is refused: %s", err.text);
    return 0;
}

int gate_serve_open(struct gate *gate, struct ha_err *err)
{
    char path[GATE_PATH_MAX];

    gate->changed_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (gate->changed_fd < 0 || qb_loop_poll_add(gate->loop, QB_LOOP_LOW, gate->changed_fd, POLLIN,
                                                 gate, on_changed_due) < 0)
        return ha_err_set(err, errno, "eventfd: %s", strerror(errno));
    snprintf(path, sizeof(path), "%s/hv.sock", gate->options.dir);
    gate->listen_fd = ha_sock_listen(path, gate->options.peer_gid, err);
    if (gate->listen_fd < 0)
        return gate->listen_fd;
    if (qb_loop_poll_add(gate->loop, QB_LOOP_MED, gate->listen_fd, POLLIN, gate, on_listener) < 0)
        return ha_err_set(err, errno, "watch %s: %s", path, strerror(errno));
    return 0;
}

void gate_serve_close(struct gate *gate)
{
    if (gate->changed_fd >= 0) {
        qb_loop_poll_del(gate->loop, gate->changed_fd);
        close(gate->changed_fd);
    }
    gate->changed_fd = -1;
    while (gate->peers)
        free_peer(gate->peers);
    if (gate->listen_fd >= 0) {
        qb_loop_poll_del(gate->loop, gate->listen_fd);
        close(gate->listen_fd);
    }
    gate->listen_fd = -1;
}
