/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/door.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "migrate/lanes.h"

#define REFUSED_MS   1000u /* a refused peer may read its ABORT this long */
#define NOTES_MAX    64u   /* refusals put into the log; after that they are only counted */
#define PACKET_SPACE (FRAME_HEADER_SIZE + FRAME_CONTROL_MAX)

/* A connection at the listener: TLS -> FIRST (frame: HELLO or JOIN) -> (let in | REFUSED) */
enum pending_state { FREE = 0, TLS, FIRST, REFUSED };

struct pending {
    uint8_t state; /* enum pending_state */
    struct chan *chan;
    uint64_t deadline_ms; /* attended time */
    char from[HA_ADDR_MAX];
    struct inbox inbox;
    uint8_t buffer[PACKET_SPACE];
};

struct door {
    struct attendant attendant; /* first */
    struct session *session;
    const struct streamp_start *start;
    struct tls_context *context;     /* for whoever comes now */
    const struct identity *identity; /* NULL: keys instead of certificates */
    int listener;                    /* -1: there is only the one socket we were given */
    bool has_peer;
    bool is_joining; /* has_peer, and further connections are welcome */
    struct terms terms;
    uint32_t attempts[FRAME_LANES_MAX + 1]; /* the last JOIN of each lane; 0: none */
    uint64_t refused;
    struct ha_err last; /* the latest refusal */
    struct pending pending[DOOR_PENDING_MAX];
    struct pending *owner[DOOR_PENDING_MAX + 1]; /* of the fds watched; NULL: the listener */
};

static void name_peer(const struct sockaddr_storage *address, char ret_from[HA_ADDR_MAX])
{
    char text[INET6_ADDRSTRLEN] = "local";
    unsigned port = 0;

    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;
        (void)inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
        port = ntohs(in->sin_port);
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)address;
        (void)inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof(text));
        port = ntohs(in->sin6_port);
    }
    snprintf(ret_from, HA_ADDR_MAX, "%s port %u", text, port);
}

static void drop(struct pending *p)
{
    if (p->chan)
        p->chan->ops->close(p->chan);
    memset(p, 0, sizeof(*p));
}

/* Says why, and remembers it: the reason of the last refusal is what an operator sees if nobody
 * better comes. */
static void note_refusal(struct door *d, struct pending *p, const struct ha_err *why)
{
    d->last = *why;
    d->refused++;
    if (d->refused <= NOTES_MAX)
        session_note(d->session, "refused a connection from %s: %s", p->from, why->text);
    if (d->refused == NOTES_MAX)
        session_note(d->session, "further refused connections are not listed");
}

/* The peer proved who it is, but not that it has this ticket: it is told why. */
static void refuse(struct door *d, struct pending *p, uint16_t code, const struct ha_err *why)
{
    uint8_t packet[PACKET_SPACE];
    struct ha_writer w = ha_writer_of(packet + FRAME_HEADER_SIZE, FRAME_CONTROL_MAX);
    struct frame_abort m = {.code = code};

    note_refusal(d, p, why);
    snprintf(m.text, sizeof(m.text), "refused: %.*s", (int)FRAME_ABORT_TEXT - 9, why->text);
    frame_abort_encode(&w, &m);
    struct frame_header header = {.type = FRAME_ABORT, .size = (uint32_t)w.position};
    frame_header_encode(packet, &header);
    (void)p->chan->ops->write(p->chan, packet, FRAME_HEADER_SIZE + w.position, NULL);
    p->chan->ops->finish(p->chan);
    p->state = REFUSED;
    p->deadline_ms = session_now(d->session) + REFUSED_MS;
}

static void admit(struct door *d, int fd, const struct sockaddr_storage *address)
{
    struct ha_err err = {0};
    struct pending *p = d->pending;

    while (p->state != FREE)
        p++; /* the caller made sure that there is one */
    name_peer(address, p->from);
    p->chan = d->identity ? chan_tls_new(d->context, d->identity, fd, true, &err)
                          : chan_tls_psk_new(d->context, 0, fd, true, &err);
    if (!p->chan) {
        note_refusal(d, p, &err);
        return;
    }
    p->state = TLS;
    p->deadline_ms = session_now(d->session) + DOOR_HANDSHAKE_MS;
    p->inbox = (struct inbox){.buffer = p->buffer, .capacity = sizeof(p->buffer)};
}

/* The winner becomes the session's channel, with what its inbox has counted. */
static void let_in_first(struct door *d, struct pending *p)
{
    d->has_peer = true;
    d->session->chan = p->chan;
    d->session->inbox.sequence = p->inbox.sequence;
    d->session->progress.wire_bytes += p->inbox.have;
    p->chan = NULL;
    for (unsigned i = 0; i < DOOR_PENDING_MAX; i++)
        drop(&d->pending[i]);
}

static int check_hello(struct door *d, struct pending *p, uint16_t *ret_code, struct ha_err *err)
{
    const uint8_t *payload = inbox_payload(&p->inbox);
    uint32_t size = p->inbox.header.size;

    if (p->inbox.header.type != FRAME_HELLO)
        return ha_err_set(err, HA_E_PEER, "frame %s instead of HELLO",
                          frame_name(p->inbox.header.type));
    int rc = hello_check(d->start, p->chan, payload, size, ret_code, err);
    return rc < 0 ? rc : hello_agree(d->start, payload, size, &d->terms, err);
}

static int check_join(struct door *d, struct pending *p, struct frame_join *ret, struct ha_err *err)
{
    if (p->inbox.header.type != FRAME_JOIN)
        return ha_err_set(err, HA_E_PEER, "frame %s instead of JOIN",
                          frame_name(p->inbox.header.type));
    int rc = frame_join_decode(inbox_payload(&p->inbox), p->inbox.header.size, ret, err);
    if (rc < 0)
        return rc;
    if (ret->ticket != d->start->ticket || ret->lane > d->terms.connections ||
        ret->lane != chan_tls_lane(p->chan))
        return ha_err_set(err, HA_E_REFUSED, "its JOIN is for another ticket or lane than its key");
    if (ret->attempt <= d->attempts[ret->lane])
        return ha_err_set(err, HA_E_REFUSED, "its JOIN is older than the lane's connection");
    return 0;
}

static void let_in_lane(struct door *d, struct pending *p, const struct frame_join *join)
{
    struct chan *chan = p->chan;

    d->attempts[join->lane] = join->attempt;
    p->chan = NULL;
    if (join->lane == 0)
        session_set_control(d->session, chan, 0, p->inbox.sequence);
    else
        lanes_connect(d->session->lanes, join->lane, chan);
    if (join->attempt > 1 || join->lane == 0)
        session_note(d->session, "lane %u is back, from %s", (unsigned)join->lane, p->from);
    drop(p);
}

/* Reads HELLO or JOIN. */
static void read_first(struct door *d, struct pending *p)
{
    struct ha_err err = {0};
    struct frame_join join;
    uint16_t code = FRAME_ABORT_PROTOCOL;
    int rc = inbox_pump(&p->inbox, p->chan, NULL, &err);

    if (rc == 0)
        return;
    if (rc < 0 && err.code == ECONNRESET) {
        ha_err_prefix(&err, "before its %s", d->is_joining ? "JOIN" : "HELLO");
        note_refusal(d, p, &err);
        drop(p);
        return;
    }
    if (rc > 0)
        rc = d->is_joining ? check_join(d, p, &join, &err) : check_hello(d, p, &code, &err);
    if (rc < 0)
        refuse(d, p, code, &err);
    else if (d->is_joining)
        let_in_lane(d, p, &join);
    else
        let_in_first(d, p);
}

/* Goes on with one connection. */
static void advance(struct door *d, struct pending *p)
{
    struct ha_err err = {0};
    int rc;

    switch ((enum pending_state)p->state) {
    case TLS:
        rc = chan_tls_handshake(p->chan, &err);
        if (rc == -EAGAIN)
            return;
        if (rc < 0) {
            ha_err_prefix(&err, "TLS");
            note_refusal(d, p, &err);
            drop(p);
            return;
        }
        p->state = FIRST;
        read_first(d, p);
        return;
    case FIRST:
        read_first(d, p);
        return;
    case REFUSED:
        rc = (int)p->chan->ops->read(p->chan, p->buffer, sizeof(p->buffer), NULL);
        if (rc != -EAGAIN && rc <= 0)
            drop(p);
        return;
    case FREE:
        break;
    }
}

static void expire(struct door *d, struct pending *p)
{
    struct ha_err err = {0};

    if (p->state == FREE || session_now(d->session) < p->deadline_ms)
        return;
    if (p->state != REFUSED) {
        ha_err_set(&err, HA_E_TIMEOUT, "no %s within %u ms",
                   p->state == TLS ? "TLS handshake"
                   : d->is_joining ? "JOIN"
                                   : "HELLO",
                   DOOR_HANDSHAKE_MS);
        note_refusal(d, p, &err);
    }
    drop(p);
}

static void accept_one(struct door *d)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    int fd = accept4(d->listener, (struct sockaddr *)&address, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        admit(d, fd, &address);
}

static unsigned watch(struct attendant *a, struct pollfd *fds, unsigned room)
{
    struct door *d = (struct door *)a;
    unsigned count = 0, busy = 0;

    ha_assert(room >= DOOR_PENDING_MAX + 1);
    if (d->has_peer && !d->is_joining)
        return 0;
    for (unsigned i = 0; i < DOOR_PENDING_MAX; i++) {
        struct pending *p = &d->pending[i];
        expire(d, p);
        if (p->state == FREE)
            continue;
        busy++;
        d->owner[count] = p;
        fds[count++] = (struct pollfd){.fd = p->chan->fd, .events = p->chan->read_wants};
    }
    if (d->listener < 0 || busy == DOOR_PENDING_MAX)
        return count;
    d->owner[count] = NULL;
    fds[count++] = (struct pollfd){.fd = d->listener, .events = POLLIN};
    return count;
}

static int turn(struct attendant *a, const struct pollfd *fds, unsigned count, struct ha_err *err)
{
    struct door *d = (struct door *)a;
    bool had_peer = d->has_peer;

    for (unsigned i = 0; i < count && d->has_peer == had_peer; i++) {
        if (fds[i].revents == 0)
            continue;
        if (d->owner[i])
            advance(d, d->owner[i]);
        else
            accept_one(d);
    }
    if (d->has_peer || d->listener >= 0)
        return d->has_peer != had_peer;
    for (unsigned i = 0; i < DOOR_PENDING_MAX; i++)
        if (d->pending[i].state != FREE)
            return 0;
    return ha_err_set(err, d->last.code, "%s", d->last.text);
}

struct door *door_new(struct session *s, const struct streamp_start *start,
                      struct tls_context *context, const struct identity *identity, int fd)
{
    struct door *d = calloc(1, sizeof(*d));

    if (!d) {
        close(fd);
        return NULL;
    }
    d->attendant = (struct attendant){.watch = watch, .turn = turn};
    d->session = s;
    d->start = start;
    d->context = context;
    d->identity = identity;
    d->listener = start->is_listener ? fd : -1;
    if (!start->is_listener) {
        struct sockaddr_storage address = {0};
        socklen_t size = sizeof(address);
        (void)getpeername(fd, (struct sockaddr *)&address, &size);
        admit(d, fd, &address);
    }
    return d;
}

void door_open(struct door *d)
{
    d->session->attendant = &d->attendant;
}

bool door_has_peer(const struct door *d, struct terms *ret_terms)
{
    if (d->has_peer)
        *ret_terms = d->terms;
    return d->has_peer;
}

void door_explain(const struct door *d, struct ha_err *err)
{
    if (err->code == HA_E_TIMEOUT && d->refused > 0)
        ha_err_set(err, HA_E_TIMEOUT, "no valid connection; %llu refused, the last: %.160s",
                   (unsigned long long)d->refused, d->last.text);
}

void door_join(struct door *d, struct tls_context *psk, const struct terms *terms)
{
    d->context = psk;
    d->identity = NULL;
    d->terms = *terms;
    d->is_joining = true;
}

void door_free(struct door *d)
{
    if (!d)
        return;
    if (d->session->attendant == &d->attendant)
        d->session->attendant = NULL;
    for (unsigned i = 0; i < DOOR_PENDING_MAX; i++)
        drop(&d->pending[i]);
    if (d->listener >= 0)
        close(d->listener);
    memset(&d->terms, 0, sizeof(d->terms));
    free(d);
}
