/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/dial.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "migrate/lanes.h"

/* UP -> WAITING (pause) -> ASKED (for a socket) -> CONNECTING -> SHAKING (TLS) -> UP */
enum line_state { UP = 0, WAITING, ASKED, CONNECTING, SHAKING };

struct line {
    uint8_t state; /* enum line_state */
    int fd;        /* CONNECTING */
    struct chan *chan;
    uint32_t attempt;
    uint32_t pause_ms;
    uint64_t until_ms; /* attended time: when the state ends by itself; UP: since when */
};

struct dial {
    struct attendant attendant; /* first */
    struct session *session;
    struct tls_context *psk;
    uint64_t ticket;
    unsigned lanes;
    uint32_t grace_ms;
    uint64_t carried_ms;                    /* when a data connection was last there */
    struct line lines[FRAME_LANES_MAX + 1]; /* by lane; 0: control */
    uint8_t owner[FRAME_LANES_MAX + 1];     /* of the fds watched */
};

/* Not yet, or not any more: again after a pause. */
static void fail(struct dial *d, unsigned lane, const char *why)
{
    struct line *line = &d->lines[lane];

    if (line->fd >= 0)
        close(line->fd);
    if (line->chan)
        line->chan->ops->close(line->chan);
    line->fd = -1;
    line->chan = NULL;
    line->state = WAITING;
    line->until_ms = session_now(d->session) + line->pause_ms;
    if (line->pause_ms == DIAL_FIRST_MS) /* tried more than once: worth a line */
        session_note(d->session, "lane %u: %s", lane, why);
    line->pause_ms = line->pause_ms == 0 ? DIAL_FIRST_MS : 2 * line->pause_ms;
    line->pause_ms = line->pause_ms < DIAL_LAST_MS ? line->pause_ms : DIAL_LAST_MS;
}

static void ask(struct dial *d, unsigned lane)
{
    struct line *line = &d->lines[lane];

    line->state = ASKED;
    line->until_ms = session_now(d->session) + DIAL_MS;
    session_ask_socket(d->session, lane);
}

static void take_socket(struct attendant *a, unsigned lane, int fd)
{
    struct dial *d = (struct dial *)a;

    if (lane > d->lanes || d->lines[lane].state != ASKED) {
        if (fd >= 0)
            close(fd);
        return;
    }
    if (fd < 0) {
        fail(d, lane, "hamgrd has no socket for it");
        return;
    }
    d->lines[lane].fd = fd;
    d->lines[lane].state = CONNECTING;
}

/* The handshake is done: the first frame says what this connection is for. */
static void join(struct dial *d, unsigned lane)
{
    struct line *line = &d->lines[lane];
    uint8_t packet[FRAME_HEADER_SIZE + 16];
    struct ha_writer w = ha_writer_of(packet + FRAME_HEADER_SIZE, 16);
    struct frame_join m = {.ticket = d->ticket, .lane = (uint16_t)lane, .attempt = ++line->attempt};
    struct ha_err err = {0};
    struct chan *chan = line->chan;

    frame_join_encode(&w, &m);
    struct frame_header header = {.type = FRAME_JOIN, .size = (uint32_t)w.position};
    frame_header_encode(packet, &header);
    if (chan->ops->write(chan, packet, sizeof(packet), &err) != (ssize_t)sizeof(packet)) {
        fail(d, lane, err.code != 0 ? err.text : "JOIN could not be sent");
        return;
    }
    line->chan = NULL;
    line->state = UP;
    line->until_ms = session_now(d->session);
    if (m.attempt > 1 || lane == 0)
        session_note(d->session, "lane %u is back", lane);
    if (lane == 0)
        session_set_control(d->session, chan, 1, 0);
    else
        lanes_connect(d->session->lanes, lane, chan);
}

static void shake(struct dial *d, unsigned lane)
{
    struct line *line = &d->lines[lane];
    struct ha_err err = {0};
    int rc = chan_tls_handshake(line->chan, &err);

    if (rc == 1)
        join(d, lane);
    else if (rc != -EAGAIN)
        fail(d, lane, err.text);
}

/* A connection that failed shows it in the handshake's first write. */
static void start(struct dial *d, unsigned lane)
{
    struct line *line = &d->lines[lane];
    struct ha_err err = {0};

    line->chan = chan_tls_psk_new(d->psk, lane, line->fd, false, &err);
    line->fd = -1;
    if (!line->chan) {
        fail(d, lane, err.text);
        return;
    }
    line->state = SHAKING;
    shake(d, lane);
}

static unsigned watch(struct attendant *a, struct pollfd *fds, unsigned room)
{
    struct dial *d = (struct dial *)a;
    unsigned count = 0;

    ha_assert(room >= FRAME_LANES_MAX + 1);
    for (unsigned lane = 0; lane <= d->lanes; lane++) {
        const struct line *line = &d->lines[lane];
        if (line->state != CONNECTING && line->state != SHAKING)
            continue;
        d->owner[count] = (uint8_t)lane;
        fds[count++] =
            line->state == CONNECTING
                ? (struct pollfd){.fd = line->fd, .events = POLLOUT}
                : (struct pollfd){.fd = line->chan->fd, .events = line->chan->read_wants};
    }
    return count;
}

/* A connection that was good for a while is replaced at once; one that was not, after a pause. */
static void lose(struct dial *d, unsigned lane, const char *why)
{
    struct line *line = &d->lines[lane];

    if (line->state != UP)
        return;
    if (session_now(d->session) - line->until_ms > DIAL_LAST_MS)
        line->pause_ms = 0;
    fail(d, lane, why);
}

/* Who lost a connection without our doing. */
static void look_for_losses(struct dial *d)
{
    struct ha_err why = {0};
    unsigned lane;

    while ((lane = lanes_take_loss(d->session->lanes, &why)) > 0) {
        session_note(d->session, "lane %u lost its connection: %s", lane, why.text);
        lose(d, lane, why.text);
    }
    if (!d->session->chan)
        lose(d, 0, "lost");
}

static void check_times(struct dial *d)
{
    uint64_t now = session_now(d->session);
    bool has_one = false;

    for (unsigned lane = 0; lane <= d->lanes; lane++) {
        struct line *line = &d->lines[lane];
        has_one = has_one || (lane > 0 && line->state == UP);
        if (line->state == UP)
            continue;
        if (line->state == WAITING && now >= line->until_ms)
            ask(d, lane);
        else if (line->state != WAITING && now >= line->until_ms)
            fail(d, lane, "no connection within 5 s");
    }
    if (has_one)
        d->carried_ms = now;
}

static int turn(struct attendant *a, const struct pollfd *fds, unsigned count, struct ha_err *err)
{
    struct dial *d = (struct dial *)a;

    if (d->session->is_over)
        return 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned lane = d->owner[i];
        if (fds[i].revents == 0)
            continue;
        if (d->lines[lane].state == CONNECTING)
            start(d, lane);
        else if (d->lines[lane].state == SHAKING)
            shake(d, lane);
    }
    look_for_losses(d);
    check_times(d);
    if (session_now(d->session) - d->carried_ms > d->grace_ms)
        return ha_err_set(err, HA_E_TIMEOUT, "no data connection for %u ms", (unsigned)d->grace_ms);
    return 0;
}

struct dial *dial_new(struct session *s, struct tls_context *psk, uint64_t ticket,
                      const struct terms *terms)
{
    struct dial *d = calloc(1, sizeof(*d));

    if (!d)
        return NULL;
    d->attendant = (struct attendant){.watch = watch, .turn = turn, .socket = take_socket};
    d->session = s;
    d->psk = psk;
    d->ticket = ticket;
    d->lanes = terms->connections;
    d->grace_ms = terms->grace_ms;
    d->carried_ms = session_now(s);
    for (unsigned lane = 0; lane <= d->lanes; lane++) {
        d->lines[lane].fd = -1;
        if (lane > 0)
            ask(d, lane);
    }
    s->attendant = &d->attendant;
    return d;
}

void dial_free(struct dial *d)
{
    if (!d)
        return;
    if (d->session->attendant == &d->attendant)
        d->session->attendant = NULL;
    for (unsigned lane = 0; lane <= d->lanes; lane++) {
        if (d->lines[lane].fd >= 0)
            close(d->lines[lane].fd);
        if (d->lines[lane].chan)
            d->lines[lane].chan->ops->close(d->lines[lane].chan);
    }
    free(d);
}
