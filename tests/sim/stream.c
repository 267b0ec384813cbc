/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-stream: one end of a migration in a process of its own. Two ends with the same ticket find
 * each other, bytes move while the network carries them, and an end that dies takes the other with
 * it.
 */
#include "migrate/stream_spawn.h"

#include <string.h>

#include "tests/sim/fds.h"
#include "tests/sim/sim.h"

#define STREAMS_MAX 64u
#define TICK_NS     (250 * NS_MS)
#define IDLE_NS     (10 * NS_S)

struct stream {
    uint32_t pid; /* 0 = slot free */
    struct sim_node *node;
    bool is_sender, is_connected, is_ended;
    uint64_t ticket;
    int control, native; /* the hypervisor's end of native is one below it */
    struct sim_conn *conn;
    uint32_t conn_number;
    /* Of the sender: */
    uint64_t bytes, total, step, moved_at;
    bool is_fed;
};

static struct stream streams[STREAMS_MAX];
static uint32_t pid_high;
static uint64_t stalled_until;

void sim_streams_reset(void)
{
    memset(streams, 0, sizeof(streams));
    pid_high = 0;
    stalled_until = 0;
}

static struct stream *by_native(int hv_fd)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].pid && streams[i].native == hv_fd + 1)
            return &streams[i];
    }
    return NULL;
}

static struct stream *peer_of(const struct stream *s)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        struct stream *other = &streams[i];
        if (other->pid && other->ticket == s->ticket && other->is_sender != s->is_sender)
            return other;
    }
    return NULL;
}

static void reap(void *data, uint64_t arg)
{
    struct sim_node *node = data;

    (void)arg;
    if (node->d)
        sim_build_of(node)->child(node->d);
}

/* The process ends: SIGCHLD for hamgrd, end of file for the hypervisor. */
static void end(struct stream *s)
{
    struct sim_node *node = s->node;
    int hv_fd = s->native - 1;
    bool has_all = s->is_fed;

    if (s->conn && s->conn->is_used && s->conn->number == s->conn_number)
        sim_conn_end(s->conn);
    s->pid = 0;
    if (!has_all)
        sim_host_news(node, hv_fd, 3, 0, 0);
    if (sim_is_up(node, SIM_HAMGRD))
        sim_after(NS_MS, &node->procs[SIM_HAMGRD], reap, node, 0);
}

/* To its hamgrd, if that is there and has adopted it. */
static void tell(struct stream *s, uint16_t type, const void *body, size_t size)
{
    if (s->conn && s->conn->number == s->conn_number)
        sim_conn_reply(s->conn, type, 0, body, size);
}

static void tell_end(struct stream *s, bool is_ok, const char *text)
{
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct streamp_end m = {.is_ok = is_ok, .total = {.raw_bytes = s->bytes}};

    s->is_ended = true;
    snprintf(m.text, sizeof(m.text), "%s", text);
    streamp_end_encode(&w, &m);
    tell(s, STREAMP_END, body, w.position);
}

static void fail(struct stream *s, const char *why)
{
    tell_end(s, false, why);
    end(s);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static bool is_path_good(const struct stream *a, const struct stream *b)
{
    return sim.now >= stalled_until && sim_net_reaches(a->node->id, b->node->id) &&
           sim_net_reaches(b->node->id, a->node->id);
}

static void tell_connected(struct stream *s)
{
    s->is_connected = true;
    s->moved_at = sim.now;
    tell(s, STREAMP_CONNECTED, NULL, 0);
}

static void move_bytes(struct stream *s, struct stream *to)
{
    uint8_t body[128];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (s->step == 0)
        return; /* the save has not begun */
    s->bytes += s->step;
    s->moved_at = to->moved_at = sim.now;
    streamp_progress_encode(
        &w, &(struct streamp_progress){.raw_bytes = s->bytes, .wire_bytes = s->bytes});
    tell(s, STREAMP_PROGRESS, body, w.position);
    tell(to, STREAMP_PROGRESS, body, w.position);
    sim_host_news(s->node, s->native - 1, 1, s->bytes, s->total);
    sim_host_news(to->node, to->native - 1, 1, s->bytes, s->total);
}

/* The sender's tick: it also stands for the receiver's patience. */
static void tick(struct stream *s)
{
    struct stream *to = peer_of(s);

    if (!s->is_connected) {
        if (to && is_path_good(s, to)) {
            tell_connected(s);
            tell_connected(to);
        } else if (sim.now - s->moved_at > IDLE_NS) {
            fail(s, "connect: no answer");
        }
        return;
    }
    if (!to) {
        if (sim.now - s->moved_at > IDLE_NS || sim_chance(500))
            fail(s, "the peer ended the connection");
    } else if (!is_path_good(s, to)) {
        if (sim.now - s->moved_at > IDLE_NS) {
            fail(s, "no byte moved");
            fail(to, "no byte moved");
        }
    } else if (s->is_fed) {
        sim_host_news(to->node, to->native - 1, 2, s->bytes, s->total);
        to->is_fed = true;
        tell_end(s, true, "");
        tell_end(to, true, "");
        end(s);
        end(to);
    } else if (s->bytes < s->total || s->total == 0) {
        move_bytes(s, to);
    }
}

static void on_tick(void *data, uint64_t pid)
{
    struct stream *s = data;

    if (s->pid != pid)
        return;
    if (s->is_sender)
        tick(s);
    else if (s->is_connected && !peer_of(s) && !s->is_ended && !s->is_fed)
        fail(s, "the peer ended the connection");
    if (s->pid == pid)
        sim_after(TICK_NS, NULL, on_tick, s, pid);
}

/* Simulated hypervisors have no use for one. */
int stream_ring(int *ret_fd, struct ha_err *err)
{
    *ret_fd = -1;
    return ha_err_set(err, HA_E_REFUSED, "no rings here");
}

int stream_spawn_ring(const char *binary, const struct streamp_start *start, const int fds[4],
                      pid_t *ret_pid, int *ret_control_fd, struct ha_err *err)
{
    (void)binary;
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].pid)
            continue;
        streams[i] = (struct stream){.pid = ++pid_high,
                                     .node = sim.running->node,
                                     .is_sender = start->is_sender,
                                     .ticket = start->ticket,
                                     .control = sim_fd_new(),
                                     .native = fds[1],
                                     .moved_at = sim.now};
        *ret_pid = (pid_t)streams[i].pid;
        *ret_control_fd = streams[i].control;
        sim_after(sim_between(20, 60) * NS_MS, NULL, on_tick, &streams[i], streams[i].pid);
        return 0;
    }
    return ha_err_set(err, HA_E_LIMIT, "too many streams");
}

int stream_load_pem(const char *ca, const char *cert, const char *key, int *ret_memfd,
                    struct ha_err *err)
{
    (void)ca;
    (void)cert;
    (void)key;
    (void)err;
    *ret_memfd = sim_fd_new();
    return 0;
}

bool sim_stream_adopt(int fd, struct sim_conn *conn)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (!streams[i].pid || streams[i].control != fd)
            continue;
        streams[i].conn = conn;
        streams[i].conn_number = conn->number;
        conn->user = &streams[i];
        return true;
    }
    return false;
}

/* Its control socket was closed: it ends within milliseconds. */
static void on_closed(void *data, uint64_t pid)
{
    struct stream *s = data;

    if (s->pid == pid)
        end(s);
}

void sim_stream_closed(struct sim_conn *conn)
{
    struct stream *s = conn->user;

    if (s && s->pid && s->conn == conn && s->conn_number == conn->number) {
        s->conn = NULL;
        sim_after(2 * NS_MS, NULL, on_closed, s, s->pid);
    }
}

void sim_stream_kill(struct sim_node *node, uint32_t pid)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].pid == pid && streams[i].node == node)
            sim_after(NS_MS, NULL, on_closed, &streams[i], pid);
    }
}

bool sim_stream_is_alive(struct sim_node *node, uint32_t pid)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].pid == pid && streams[i].node == node)
            return true;
    }
    return false;
}

void sim_streams_power_lost(struct sim_node *node)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].node == node)
            streams[i].pid = 0;
    }
}

/* ---- for who wants to strike
 * ---------------------------------------------------------------------
 */

enum sim_stream_stage sim_stream_stage(void)
{
    const struct stream *sender = NULL, *receiver = NULL;

    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].pid)
            *(streams[i].is_sender ? &sender : &receiver) = &streams[i];
    }
    if (!sender)
        return receiver ? SIM_STREAM_LISTENS : SIM_STREAM_NONE;
    if (!sender->is_connected)
        return SIM_STREAM_DIALLED;
    if (sender->bytes == 0)
        return SIM_STREAM_CONNECTED;
    if (sender->bytes >= sender->total)
        return SIM_STREAM_ALL;
    return sender->bytes / 3 < sender->total / 4 ? SIM_STREAM_MOVES : SIM_STREAM_LATE;
}

void sim_streams_fail(struct sim_node *node, const char *why)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].pid && streams[i].node == node)
            fail(&streams[i], why);
    }
}

void sim_streams_stall(uint64_t until)
{
    stalled_until = until;
}

/* ---- the hypervisor's ends ---------------------------------------------------------------------
 */

/* A save or restore begins on it. Most migrations take seconds, some long enough for everything to
 * happen meanwhile. */
bool sim_stream_feed(struct sim_node *node, int fd, uint64_t total_bytes)
{
    struct stream *s = by_native(fd);
    uint64_t ticks = sim_chance(150) ? sim_between(40, 200) : sim_between(1, 24);
    ticks = sim_corner_is_quick() ? 1 + ticks % 4 : ticks;

    if (!s || s->node != node)
        return false;
    s->total = total_bytes;
    s->step = total_bytes / ticks + 1;
    return true;
}

uint64_t sim_stream_moved_at(uint64_t ticket)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (streams[i].pid && streams[i].ticket == ticket && streams[i].is_connected)
            return streams[i].moved_at;
    }
    return 0;
}

void sim_stream_hang(struct sim_node *node, int fd)
{
    struct stream *s = by_native(fd);

    if (s && s->node == node)
        s->step = 0;
}

void sim_stream_fed(struct sim_node *node, int fd)
{
    struct stream *s = by_native(fd);

    if (s && s->node == node)
        s->is_fed = true;
}

/* The hypervisor's end was closed: before all was fed (or taken) the stream can't go on. */
void sim_stream_native_closed(struct sim_node *node, int fd)
{
    struct stream *s = by_native(fd);

    if (s && s->node == node && !s->is_fed && !s->is_ended)
        fail(s, "the native stream ended early");
}
