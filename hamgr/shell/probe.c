/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast the way to another node is, found out by using it: two real hamgr-stream processes with
 * all of a migration's handshakes move random pages for PROBE_MS, and the kernel's count of what
 * the other end acknowledged tells the rate (migrate/probe.h). Nothing of a guest is touched,
 * nothing is logged, and a number that no ticket can have stands in for one.
 *
 *   source                        destination
 *     PROBE_ASK (repeated)   ->     listens, starts a receiver that keeps nothing
 *     connects, sends        <-     PROBE_READY: address and secret, or why not
 *     CANCEL, as soon as it knows enough; ABORT ends the other process
 *
 * A node takes part in one probe at a time, and in none while a migration begins or ends there: who
 * asks is told so. What it may cost is bounded at both ends, whatever the other one does:
 * PROBE_MIB, LIMIT_MS, and a pause between two.
 */
#include "hamgr/shell/shell.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "migrate/probe.h"
#include "migrate/stream_spawn.h"
#include "migrate/tune.h"

/* Asked and answered (two messages, certificates read, a fork) 1000, both processes and their TLS
 * on busy nodes 1800, the measuring PROBE_MAX_MS, a turn of the loop 200. Below a forecast's
 * ANSWER_MS. */
#define LIMIT_MS  (1000u + 1800u + PROBE_MAX_MS + 200u)
#define REPEAT_MS 200u  /* ASK may be lost, so may READY */
#define END_MS    1000u /* a process that was told to end and has not is killed */
#define PAUSE_MS  1000u /* after a probe no other node's is taken for so long */
/* Asked for again so soon, the last answer is still true; this also bounds what questions of other
 * nodes can make this one send. */
#define FRESH_MS 5000u
/* No ticket: those are indices of the log. */
#define TICKET_BIT (UINT64_C(1) << 63)
#define SOCKETS    16u /* 9 connections, and some that came back */

enum step { IDLE = 0, ASKED, STARTED, MEASURING };

struct probe_end {
    struct hamgrd *d;
    uint8_t step;    /* enum step; the receiving end: IDLE or STARTED */
    pid_t pid;       /* 0 = none; may outlive the probe for a moment */
    uint64_t end_ms; /* when the process was told to end */
    uint64_t due_ms;
    uint32_t peer;
    struct link *control;
    struct peer_probe probe; /* what READY says */
};

struct shell_probe {
    struct probe_end out; /* this node measures */
    uint64_t repeat_ms;
    int sockets[SOCKETS]; /* of out: dups of the stream's, the first one its control connection */
    unsigned socket_count;
    struct probe_meter meter;
    qb_loop_timer_handle timer;
    struct probe_end in; /* another node measures the way to this one */
    int listener;        /* of in: a dup of its stream's */
    uint64_t free_ms;    /* no other node's probe before that */
    struct probe_found found[HA_NODES_MAX];
};

static struct shell_probe *all_of(struct hamgrd *d)
{
    if (!d->probe) {
        d->probe = calloc(1, sizeof(*d->probe));
        ha_assert(d->probe);
        d->probe->out.d = d->probe->in.d = d;
        d->probe->listener = -1;
    }
    return d->probe;
}

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- what was found ---- */

static struct probe_found *place_of(struct shell_probe *p, uint32_t node)
{
    struct probe_found *oldest = &p->found[0];

    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        if (p->found[i].node == node)
            return &p->found[i];
        if (p->found[i].made_ms < oldest->made_ms)
            oldest = &p->found[i];
    }
    return oldest;
}

static struct probe_found *new_found(struct hamgrd *d, uint32_t node)
{
    struct probe_found *found = place_of(all_of(d), node);

    *found = (struct probe_found){.node = node, .made_ms = shell_now_ms()};
    return found;
}

static void note_reason(struct hamgrd *d, uint32_t node, const char *why)
{
    struct probe_found *found = new_found(d, node);

    snprintf(found->text, sizeof(found->text), "%s", why);
    qb_log(LOG_INFO, "the link to %s was not measured: %s", shell_node_name(d, node), why);
}

const struct probe_found *probe_found(struct hamgrd *d, uint32_t node)
{
    const struct probe_found *found = place_of(all_of(d), node);

    return found->node == node && shell_now_ms() < found->made_ms + FRESH_MS ? found : NULL;
}

bool probe_is_open(const struct hamgrd *d, uint32_t node)
{
    return d->probe && d->probe->out.step != IDLE && d->probe->out.peer == node;
}

bool probe_is_busy(const struct hamgrd *d)
{
    const struct shell_probe *p = d->probe;

    return p && (p->out.step != IDLE || p->in.step != IDLE || p->out.pid || p->in.pid);
}

/* ---- processes ---- */

static void fill_start(const struct hamgrd *d, const struct probe_end *e, bool is_sender,
                       struct streamp_start *start)
{
    *start = (struct streamp_start){.is_sender = is_sender,
                                    .is_listener = !is_sender,
                                    .cluster_id = d->identity.cluster_id,
                                    .generation = d->identity.generation,
                                    .ticket = e->probe.id | TICKET_BIT,
                                    .rate_mbit = d->config.rate_mbit,
                                    .idle_timeout_ms = LIMIT_MS,
                                    .connections = d->config.connections,
                                    .grace_ms = LIMIT_MS,
                                    .workers = 1,
                                    .probe_mib = PROBE_MIB};
    memcpy(start->secret, e->probe.secret, sizeof(start->secret));
    snprintf(start->peer_name, sizeof(start->peer_name), "%s", shell_node_name(d, e->peer));
}

/* net_fd is moved. */
static int start_stream(struct hamgrd *d, struct probe_end *e, int net_fd,
                        const struct link_callbacks *callbacks, struct ha_err *err)
{
    bool is_sender = e == &d->probe->out;
    struct streamp_start start;
    int pem = -1, control = -1;
    int rc = stream_load_pem(d->config.ca_path, d->config.cert_path, d->config.key_path, &pem, err);
    int native = rc == 0 ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1;

    if (rc == 0 && native < 0)
        rc = ha_err_set(err, errno, "/dev/null: %s", strerror(errno));
    if (rc < 0) {
        close(net_fd);
        if (pem >= 0)
            close(pem);
        return rc;
    }
    fill_start(d, e, is_sender, &start);
    const int fds[4] = {net_fd, native, pem, -1};
    rc = stream_spawn_ring(d->stream_binary, &start, fds, &e->pid, &control, err);
    explicit_bzero(&start, sizeof(start));
    if (rc < 0)
        return rc;
    e->end_ms = 0;
    e->step = STARTED;
    e->control = link_adopt(d->loop, control, callbacks, e);
    return 0;
}

/* The process gets the word, and a second for its own to the peer. */
static void end_process(struct probe_end *e)
{
    if (e->control) {
        link_send(e->control, STREAMP_CANCEL, 0, NULL, 0, NULL, 0);
        link_close(e->control);
        e->control = NULL;
    }
    if (e->pid > 0)
        e->end_ms = shell_now_ms();
    explicit_bzero(e->probe.secret, sizeof(e->probe.secret));
    e->step = IDLE;
}

static void look_after(struct probe_end *e, uint64_t now_ms)
{
    int status;

    if (e->pid > 0 && waitpid(e->pid, &status, WNOHANG) == e->pid)
        e->pid = 0;
    if (e->pid > 0 && e->end_ms && now_ms > e->end_ms + END_MS)
        kill(e->pid, SIGKILL);
}

static void log_note(const char *who, const struct ha_packet *packet)
{
    struct ha_reader r = ha_reader_of(packet->body, packet->body_size);
    char text[HA_TEXT_MAX];

    ha_get_text(&r, text, sizeof(text));
    qb_log(LOG_DEBUG, "probe with %s: %s", who, text);
}

/* ---- this node measures ---- */

static void keep_socket(struct shell_probe *p, int fd)
{
    int copy = p->socket_count < SOCKETS ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;

    if (copy >= 0)
        p->sockets[p->socket_count++] = copy;
}

/* What waits in the kernel for the link is dropped with the process, not sent behind it; but what
 * the control connection has to say is said. */
static void drop_sockets(struct hamgrd *d, struct shell_probe *p)
{
    const struct linger at_once = {.l_onoff = 1};

    for (unsigned i = 0; i < p->socket_count; i++) {
        if (i > 0 || d->config.connections == 0)
            setsockopt(p->sockets[i], SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        close(p->sockets[i]);
    }
    p->socket_count = 0;
}

/* Sum of what was acknowledged; *ret_rtt_us: the shortest way there and back, 0 = not known. */
static uint64_t look_at_sockets(const struct shell_probe *p, uint32_t *ret_rtt_us)
{
    uint32_t least_us = UINT32_MAX;
    uint64_t bytes = 0;

    for (unsigned i = 0; i < p->socket_count; i++) {
        struct tcp_info info = {.tcpi_min_rtt = UINT32_MAX};
        socklen_t size = sizeof(info);
        if (getsockopt(p->sockets[i], IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
            continue;
        bytes += info.tcpi_bytes_acked;
        least_us = info.tcpi_min_rtt < least_us ? info.tcpi_min_rtt : least_us;
    }
    *ret_rtt_us = least_us < UINT32_MAX ? least_us : 0;
    return bytes;
}

static void note_rate(struct hamgrd *d, struct shell_probe *p, const struct probe_rate *rate)
{
    struct probe_found *found = new_found(d, p->out.peer);

    found->is_ok = true;
    found->rate = *rate;
    look_at_sockets(p, &found->rtt_us);
    qb_log(LOG_INFO, "the link to %s takes %" PRIu64 " Mbit/s (%" PRIu64 " to %" PRIu64 "), %u us",
           shell_node_name(d, p->out.peer), rate->bytes_s / 125000, rate->low_bytes_s / 125000,
           rate->high_bytes_s / 125000, found->rtt_us);
}

/* why: if what was seen says nothing. */
static void finish_out(struct hamgrd *d, const char *why)
{
    struct shell_probe *p = d->probe;
    struct probe_rate rate;

    if (p->out.step == MEASURING && probe_result(&p->meter, &rate))
        note_rate(d, p, &rate);
    else
        note_reason(d, p->out.peer, why);
    qb_loop_timer_del(d->loop, p->timer);
    drop_sockets(d, p);
    end_process(&p->out);
}

static void on_sample(void *user)
{
    struct hamgrd *d = user;
    struct shell_probe *p = d->probe;
    uint32_t rtt_us;

    probe_sample(&p->meter, now_us(), look_at_sockets(p, &rtt_us));
    if (probe_is_enough(&p->meter))
        finish_out(d, "");
    else
        qb_loop_timer_add(d->loop, QB_LOOP_HIGH, PROBE_SAMPLE_MS * QB_TIME_NS_IN_MSEC, d, on_sample,
                          &p->timer);
}

/* As of a migration (moves.c): one more connection, to this probe's receiver and nobody else. */
static void give_socket(struct shell_probe *p, const struct ha_packet *packet)
{
    struct peer_move_ready to = {.port = p->out.probe.port};
    struct ha_err err = {0};
    struct streamp_lane lane;
    uint8_t body[8];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    int fd = -1;

    if (streamp_lane_decode(packet->body, packet->body_size, &lane) < 0)
        return;
    memcpy(to.addr, p->out.probe.addr, sizeof(to.addr));
    if (p->socket_count < SOCKETS)
        fd = movesock_connect(&to, &err);
    if (fd >= 0) {
        tune_socket(fd, TUNE_LANE_MS);
        keep_socket(p, fd);
    }
    streamp_lane_encode(&w, &lane);
    link_send(p->out.control, STREAMP_SOCKET, 0, body, w.position, &fd, fd >= 0 ? 1 : 0);
}

static void on_out_end(struct hamgrd *d, const struct ha_packet *packet)
{
    struct streamp_end end;
    char why[HA_TEXT_MAX];

    if (streamp_end_decode(packet->body, packet->body_size, &end) < 0)
        return;
    /* All that a probe may send is through, or it failed. */
    snprintf(why, sizeof(why), "%.250s",
             end.is_ok ? "it was through too soon to be measured" : end.text);
    finish_out(d, why);
}

static void on_out_packet(void *user, const struct ha_packet *packet)
{
    struct probe_end *e = user;
    struct shell_probe *p = e->d->probe;

    if (packet->type == STREAMP_NOTE) {
        log_note(shell_node_name(e->d, e->peer), packet);
    } else if (packet->type == STREAMP_CONNECT) {
        give_socket(p, packet);
    } else if (packet->type == STREAMP_CONNECTED && e->step == STARTED) {
        e->step = MEASURING;
        probe_begin(&p->meter);
        on_sample(e->d);
    } else if (packet->type == STREAMP_END) {
        on_out_end(e->d, packet);
    }
}

static void on_out_down(void *user, const char *why)
{
    struct probe_end *e = user;

    (void)why;
    if (e->step != IDLE)
        finish_out(e->d, "the stream process ended without a result");
}

static const struct link_callbacks out_callbacks = {.packet = on_out_packet, .down = on_out_down};

static void put_id(struct ha_writer *w, const void *m)
{
    ha_put_u64(w, ((const struct peer_probe *)m)->id);
}

static void put_probe(struct ha_writer *w, const void *m)
{
    peer_probe_encode(w, m);
}

/* Why this node takes part in no other probe now, into text; false: it may. */
static bool is_barred(const struct hamgrd *d, const struct shell_probe *p, char *text, size_t size)
{
    const char *self = shell_node_name(d, d->identity.node);

    text[0] = '\0';
    if (d->moves)
        snprintf(text, size, "a migration of %.60s runs, and would feel it", self);
    else if (p->out.step != IDLE || p->out.pid)
        snprintf(text, size, "%.60s measures another link", self);
    else if (p->in.step != IDLE || p->in.pid)
        snprintf(text, size, "another node measures its link to %.60s", self);
    else if (d->is_shutting_down)
        snprintf(text, size, "%.60s shuts down", self);
    return text[0] != '\0';
}

void probe_want(struct hamgrd *d, uint32_t node)
{
    struct shell_probe *p = all_of(d);
    const struct ha_node *target = ha_state_node(&d->state, node);
    const struct probe_found *known = probe_found(d, node);
    uint64_t now_ms = shell_now_ms(), id = 0;
    char why[HA_TEXT_MAX];

    if ((known && known->is_ok) || probe_is_open(d, node))
        return;
    if (!target || target->status != HA_NODE_MEMBER || node == d->identity.node)
        snprintf(why, sizeof(why), "there is no such member of the cluster");
    else
        is_barred(d, p, why, sizeof(why));
    if (!why[0] && getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
        snprintf(why, sizeof(why), "no random bytes");
    if (why[0]) {
        note_reason(d, node, why);
        return;
    }
    p->out.probe = (struct peer_probe){.id = id};
    p->out.peer = node;
    p->out.step = ASKED;
    p->out.due_ms = now_ms + LIMIT_MS;
    p->repeat_ms = now_ms + REPEAT_MS;
    peers_send(d, PEER_PROBE_ASK, node, put_id, &p->out.probe);
    shell_tick_soon(d);
}

void probe_ready(struct hamgrd *d, uint32_t from, const struct peer_probe *probe)
{
    struct shell_probe *p = all_of(d);
    struct peer_move_ready to = {.port = probe->port};
    struct ha_err err = {0};

    if (p->out.step == IDLE || p->out.peer != from || p->out.probe.id != probe->id)
        return;
    if (!probe->is_ok) {
        finish_out(d, probe->text);
        return;
    }
    if (p->out.step != ASKED)
        return; /* said again */
    p->out.probe = *probe;
    memcpy(to.addr, probe->addr, sizeof(to.addr));
    int fd = movesock_connect(&to, &err);
    if (fd >= 0)
        keep_socket(p, fd);
    if (fd < 0 || start_stream(d, &p->out, fd, &out_callbacks, &err) < 0)
        finish_out(d, err.text);
}

/* ---- another node measures ---- */

static void finish_in(struct hamgrd *d)
{
    struct shell_probe *p = d->probe;

    /* The port is free from now on, however long the process takes to end: a migration that begins
     * may have no other. */
    if (p->listener >= 0) {
        shutdown(p->listener, SHUT_RDWR);
        close(p->listener);
    }
    p->listener = -1;
    p->free_ms = shell_now_ms() + PAUSE_MS;
    end_process(&p->in);
}

static void on_in_packet(void *user, const struct ha_packet *packet)
{
    struct probe_end *e = user;

    if (packet->type == STREAMP_NOTE)
        log_note(shell_node_name(e->d, e->peer), packet);
    else if (packet->type == STREAMP_END)
        finish_in(e->d); /* how it ended is the source's to tell */
}

static void on_in_down(void *user, const char *why)
{
    struct probe_end *e = user;

    (void)why;
    if (e->step != IDLE)
        finish_in(e->d);
}

static const struct link_callbacks in_callbacks = {.packet = on_in_packet, .down = on_in_down};

static int begin_in(struct hamgrd *d, struct shell_probe *p, struct ha_err *err)
{
    struct peer_probe *probe = &p->in.probe;
    struct peer_move_ready at = {0};

    if (getrandom(probe->secret, sizeof(probe->secret), 0) != (ssize_t)sizeof(probe->secret))
        return ha_err_set(err, EIO, "no random bytes for the probe's secret");
    int listener = movesock_listen(d, &at, err);
    if (listener < 0)
        return listener;
    p->listener = fcntl(listener, F_DUPFD_CLOEXEC, 0);
    probe->port = at.port;
    memcpy(probe->addr, at.addr, sizeof(probe->addr));
    probe->is_ok = true;
    return start_stream(d, &p->in, listener, &in_callbacks, err);
}

static void say_no(struct hamgrd *d, uint32_t to, uint64_t id, const char *why)
{
    struct peer_probe no = {.id = id};

    snprintf(no.text, sizeof(no.text), "%s", why);
    peers_send(d, PEER_PROBE_READY, to, put_probe, &no);
}

void probe_asked(struct hamgrd *d, uint32_t from, uint64_t id)
{
    struct shell_probe *p = all_of(d);
    struct ha_err err = {0};
    char why[HA_TEXT_MAX];

    if (p->in.step != IDLE && p->in.peer == from && p->in.probe.id == id) {
        peers_send(d, PEER_PROBE_READY, from, put_probe, &p->in.probe);
        return;
    }
    if (!is_barred(d, p, why, sizeof(why)) && shell_now_ms() < p->free_ms)
        snprintf(why, sizeof(why), "a link to %.60s was measured just now, try again",
                 shell_node_name(d, d->identity.node));
    if (why[0]) {
        say_no(d, from, id, why);
        return;
    }
    p->in.peer = from;
    p->in.probe = (struct peer_probe){.id = id};
    p->in.due_ms = shell_now_ms() + LIMIT_MS;
    if (begin_in(d, p, &err) < 0) {
        finish_in(d);
        say_no(d, from, id, err.text);
        return;
    }
    peers_send(d, PEER_PROBE_READY, from, put_probe, &p->in.probe);
    shell_tick_soon(d);
}

/* ---- both ---- */

void probe_stop(struct hamgrd *d, const char *why)
{
    struct shell_probe *p = d->probe;

    if (p && p->out.step != IDLE) {
        p->out.step = STARTED; /* what it has seen so far was of two things at once */
        finish_out(d, why);
    }
    if (p && p->in.step != IDLE) {
        say_no(d, p->in.peer, p->in.probe.id, why);
        finish_in(d);
    }
}

void probe_tick(struct hamgrd *d)
{
    struct shell_probe *p = d->probe;
    uint64_t now_ms = shell_now_ms();

    if (!p)
        return;
    look_after(&p->out, now_ms);
    look_after(&p->in, now_ms);
    if (p->out.step != IDLE && now_ms >= p->out.due_ms)
        finish_out(d, p->out.step == ASKED ? "the node there did not answer in time"
                                           : "it took too long, or next to nothing came through");
    if (p->in.step != IDLE && now_ms >= p->in.due_ms)
        finish_in(d);
    if (p->out.step == ASKED && now_ms >= p->repeat_ms) {
        p->repeat_ms = now_ms + REPEAT_MS;
        peers_send(d, PEER_PROBE_ASK, p->out.peer, put_id, &p->out.probe);
    }
}

void probe_free(struct hamgrd *d)
{
    if (!d->probe)
        return;
    drop_sockets(d, d->probe);
    end_process(&d->probe->out);
    end_process(&d->probe->in);
    if (d->probe->listener >= 0)
        close(d->probe->listener);
    free(d->probe);
    d->probe = NULL;
}
