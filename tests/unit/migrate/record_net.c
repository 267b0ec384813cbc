/* SPDX-License-Identifier: Apache-2.0 */
#include "record_net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "migrate/lanes.h"

#define JOIN_SIZE 16u

/* ---- a channel that writes down what it carries ---- */

struct chan_tap {
    struct chan chan;
    struct chan *inner;
    int log;
    size_t left; /* until the cut */
};

void tap_write_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        ssize_t r = write(fd, at, size);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0) {
            perror("stream_record: write");
            _exit(3);
        }
        at += r;
        size -= (size_t)r;
    }
}

static ssize_t tap_read(struct chan *chan, void *data, size_t size, struct ha_err *err)
{
    struct chan_tap *tap = (struct chan_tap *)chan;

    return tap->inner->ops->read(tap->inner, data, size, err);
}

static ssize_t tap_write(struct chan *chan, const void *data, size_t size, struct ha_err *err)
{
    struct chan_tap *tap = (struct chan_tap *)chan;

    if (tap->left == 0) {
        (void)shutdown(tap->chan.fd, SHUT_RDWR);
        return ha_err_set(err, ECONNRESET, "cut on purpose");
    }
    size = size < tap->left ? size : tap->left;
    ssize_t r = tap->inner->ops->write(tap->inner, data, size, err);
    if (r > 0) {
        tap_write_all(tap->log, data, (size_t)r);
        tap->left -= (size_t)r;
    }
    return r;
}

static void tap_finish(struct chan *chan)
{
    struct chan_tap *tap = (struct chan_tap *)chan;

    tap->inner->ops->finish(tap->inner);
}

static int tap_bind(struct chan *chan, uint8_t *ret_binding)
{
    (void)chan;
    memset(ret_binding, 0, CHAN_BINDING_SIZE);
    return 0;
}

static int tap_renew(struct chan *chan, struct ha_err *err)
{
    (void)chan;
    (void)err;
    return 0;
}

static void tap_close(struct chan *chan)
{
    struct chan_tap *tap = (struct chan_tap *)chan;

    tap->inner->ops->close(tap->inner);
    close(tap->log);
    free(tap);
}

static const struct chan_ops tap_ops = {
    .name = "tap",
    .read = tap_read,
    .write = tap_write,
    .finish = tap_finish,
    .bind = tap_bind,
    .renew = tap_renew,
    .close = tap_close,
};

struct chan *tap_new(int fd, const char *log_path, size_t cut_after)
{
    struct chan_tap *tap = calloc(1, sizeof(*tap));
    int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (!tap || log < 0) {
        perror(log_path);
        exit(3);
    }
    tap->inner = chan_fd_new(fd);
    ha_assert(tap->inner);
    tap->log = log;
    tap->left = cut_after > 0 ? cut_after : SIZE_MAX;
    tap->chan = *tap->inner;
    tap->chan.ops = &tap_ops;
    return &tap->chan;
}

/* ---- one end's further connections ---- */

struct record_end {
    struct attendant attendant; /* first */
    struct record_net *net;
    struct session *session;
    struct lanes *lanes;
    uint64_t ticket;
    unsigned count;
    uint32_t attempts[FRAME_LANES_MAX + 1]; /* by lane, made so far */
};

static struct chan *recorded(const char *path, unsigned lane, uint32_t attempt, int fd, size_t cut)
{
    char name[4096];

    snprintf(name, sizeof(name), "%s.%u.%u", path, lane, (unsigned)attempt);
    return tap_new(fd, name, cut);
}

/* A new connection of a lane, JOIN in front; the receiver gets the other end. */
static void dial(struct record_end *e, unsigned lane)
{
    uint8_t packet[FRAME_HEADER_SIZE + JOIN_SIZE];
    struct ha_writer w = ha_writer_of(packet + FRAME_HEADER_SIZE, JOIN_SIZE);
    struct frame_join m = {
        .ticket = e->ticket, .lane = (uint16_t)lane, .attempt = ++e->attempts[lane]};
    struct frame_header header = {.type = FRAME_JOIN, .size = JOIN_SIZE};
    bool is_cut = lane > 0 && m.attempt == 1 && e->net->cut_kib > 0;
    int fds[2];

    ha_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    struct chan *chan =
        recorded(e->net->sent, lane, m.attempt, fds[0], is_cut ? (size_t)e->net->cut_kib << 10 : 0);
    frame_join_encode(&w, &m);
    frame_header_encode(packet, &header);
    ha_assert(chan->ops->write(chan, packet, sizeof(packet), NULL) == (ssize_t)sizeof(packet));
    tap_write_all(e->net->door[0], &fds[1], sizeof(fds[1]));
    if (lane == 0)
        session_set_control(e->session, chan, 1, 0);
    else
        lanes_connect(e->lanes, lane, chan);
}

static unsigned watch_nothing(struct attendant *a, struct pollfd *fds, unsigned room)
{
    (void)a;
    (void)fds;
    (void)room;
    return 0;
}

static int redial(struct attendant *a, const struct pollfd *fds, unsigned count, struct ha_err *err)
{
    struct record_end *e = (struct record_end *)a;
    struct ha_err why;
    unsigned lane;

    (void)fds;
    (void)count;
    (void)err;
    if (e->session->is_over)
        return 0;
    while ((lane = lanes_take_loss(e->lanes, &why)) > 0)
        dial(e, lane);
    if (!e->session->chan)
        dial(e, 0);
    return 0;
}

static unsigned watch_door(struct attendant *a, struct pollfd *fds, unsigned room)
{
    struct record_end *e = (struct record_end *)a;

    ha_assert(room > 0);
    fds[0] = (struct pollfd){.fd = e->net->door[1], .events = POLLIN};
    return 1;
}

/* JOIN is there already: it was sent before the connection was handed over. */
static void take_in(struct record_end *e, int fd)
{
    uint8_t packet[FRAME_HEADER_SIZE + JOIN_SIZE];
    struct frame_join m;

    ha_assert(recv(fd, packet, sizeof(packet), MSG_WAITALL) == (ssize_t)sizeof(packet));
    ha_assert(frame_join_decode(packet + FRAME_HEADER_SIZE, JOIN_SIZE, &m, NULL) == 0);
    ha_assert(m.lane <= e->count && m.attempt > e->attempts[m.lane]);
    e->attempts[m.lane] = m.attempt;
    if (m.lane == 0)
        session_set_control(e->session, recorded(e->net->answers, 0, m.attempt, fd, 0), 0, 1);
    else
        lanes_connect(e->lanes, m.lane, chan_fd_new(fd));
}

static int answer_door(struct attendant *a, const struct pollfd *fds, unsigned count,
                       struct ha_err *err)
{
    struct record_end *e = (struct record_end *)a;
    int fd = -1;

    (void)err;
    if (count > 0 && fds[0].revents != 0 && read(e->net->door[1], &fd, sizeof(fd)) == sizeof(fd))
        take_in(e, fd);
    return 0;
}

struct record_end *record_end_new(struct record_net *net, struct session *s,
                                  const struct streamp_start *start, const struct terms *terms,
                                  bool is_sender)
{
    struct record_end *e = calloc(1, sizeof(*e));
    struct ha_err err;

    ha_assert(e);
    e->attendant = is_sender ? (struct attendant){.watch = watch_nothing, .turn = redial}
                             : (struct attendant){.watch = watch_door, .turn = answer_door};
    e->net = net;
    e->session = s;
    e->ticket = start->ticket;
    e->count = terms->connections;
    e->lanes = lanes_new(is_sender, terms->connections, &err);
    ha_assert(e->lanes);
    lanes_agree(e->lanes, terms->connections, terms->window);
    session_use_lanes(s, e->lanes, is_sender, terms->window, terms->grace_ms);
    s->attendant = &e->attendant;
    for (unsigned lane = 1; is_sender && lane <= e->count; lane++)
        dial(e, lane);
    return e;
}

void record_end_free(struct record_end *e)
{
    if (!e)
        return;
    e->session->attendant = NULL;
    lanes_free(e->lanes);
    free(e);
}
