/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"

#define REFUSED_MS   1000u /* a refused peer may read its ABORT this long */
#define NOTES_MAX    64u   /* refusals put into the log; after that they are only counted */
#define PACKET_SPACE (FRAME_HEADER_SIZE + FRAME_CONTROL_MAX)

/* A connection at the listener: TLS -> HELLO -> (won | REFUSED) */
enum pending_state { FREE = 0, TLS, HELLO, REFUSED };

struct pending {
    uint8_t state; /* enum pending_state */
    struct chan *chan;
    uint64_t deadline_ms; /* attended time */
    char from[HA_ADDR_MAX];
    struct inbox inbox;
    uint8_t buffer[PACKET_SPACE];
};

struct door {
    struct session *session;
    const struct streamp_start *start;
    struct tls_context *context;
    const struct identity *identity;
    int listener; /* -1: there is only the one socket we were given */
    uint64_t refused;
    struct ha_err last; /* the latest refusal */
    struct pending pending[LINK_PENDING_MAX];
};

/* Small frames are to leave at once; a dead network is to be noticed by the kernel too. PINGs find
 * a vanished peer within SESSION_PEER_GONE_MS. TCP_USER_TIMEOUT must not be as short: it also
 * counts while the window is shut because the receiver's hypervisor is slow, which only
 * idle_timeout may judge. Harmless where the socket is no TCP one. */
static void tune(int fd, uint32_t idle_timeout_ms)
{
    int on = 1;
    int user_timeout_ms =
        (int)(SESSION_PEER_GONE_MS + (idle_timeout_ms < 3600000 ? idle_timeout_ms : 3600000));
    int idle_s = 2, interval_s = 2, probes = 3; /* 2 + 3 * 2 = 8 s, as SESSION_PEER_GONE_MS */

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

/* ---- sender ---- */

static int wait_connected(struct session *s, int fd, struct ha_err *err)
{
    int code = 0;
    socklen_t size = sizeof(code);

    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    int rc = session_wait_fd(s, fd, POLLOUT, (int)LINK_HANDSHAKE_MS, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ha_err_set(err, HA_E_TIMEOUT, "connect: no answer within %u ms", LINK_HANDSHAKE_MS);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) == 0 && code != 0)
        return ha_err_set(err, code, "connect: %s", strerror(code));
    return 0;
}

static int handshake(struct session *s, struct chan *chan, struct ha_err *err)
{
    uint64_t until = session_now(s) + LINK_HANDSHAKE_MS;

    for (;;) {
        int rc = chan_tls_handshake(chan, err);
        if (rc != -EAGAIN)
            return rc < 0 ? rc : 0;
        rc = session_wait_fd(s, chan->fd, chan->read_wants, 100, err);
        if (rc < 0)
            return rc;
        if (session_now(s) >= until)
            return ha_err_set(err, HA_E_TIMEOUT, "no TLS handshake within %u ms",
                              LINK_HANDSHAKE_MS);
    }
}

int link_greet(struct session *s, const struct streamp_start *start, struct terms *ret_terms,
               struct ha_err *err)
{
    uint8_t *payload = session_begin(s, FRAME_HELLO_LANES, err);
    int size = payload ? hello_make(start, s->chan, payload) : -1;

    if (size < 0)
        return ha_err_set(err, HA_E_NO_MEMORY, "HELLO could not be made");
    int rc = session_commit(s, FRAME_HELLO, (size_t)size, NULL, 0, err);
    if (rc == 0)
        rc = session_flush(s, err);
    if (rc == 0)
        rc = session_next_frame(s, (int)LINK_HANDSHAKE_MS, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ha_err_set(err, HA_E_TIMEOUT, "no WELCOME within %u ms", LINK_HANDSHAKE_MS);
    if (s->inbox.header.type != FRAME_WELCOME)
        return ha_err_set(err, HA_E_PEER, "frame %s instead of WELCOME",
                          frame_name(s->inbox.header.type));
    return welcome_check(start, s->chan, inbox_payload(&s->inbox), s->inbox.header.size, ret_terms,
                         err);
}

int link_connect(struct session *s, const struct streamp_start *start, struct tls_context *context,
                 const struct identity *identity, int fd, struct ha_err *err)
{
    struct terms terms;
    int rc = wait_connected(s, fd, err);

    if (rc < 0) {
        close(fd);
        return rc;
    }
    tune(fd, s->idle_timeout_ms);
    s->chan = chan_tls_new(context, identity, fd, false, err);
    if (!s->chan)
        return -err->code;
    rc = handshake(s, s->chan, err);
    if (rc == 0)
        rc = link_greet(s, start, &terms, err);
    return rc < 0 ? ha_err_prefix(err, "%s", start->peer_name) : 0;
}

/* ---- receiver ---- */

static void name_peer(int fd, char ret_from[HA_ADDR_MAX])
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof(address);
    char text[INET6_ADDRSTRLEN] = "local";
    unsigned port = 0;

    if (getpeername(fd, (struct sockaddr *)&address, &size) == 0 && address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&address;
        (void)inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
        port = ntohs(in->sin_port);
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)&address;
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

static void admit(struct door *d, int fd)
{
    struct ha_err err = {0};
    struct pending *p = d->pending;

    while (p->state != FREE)
        p++; /* the caller made sure that there is one */
    name_peer(fd, p->from);
    tune(fd, d->session->idle_timeout_ms);
    p->chan = chan_tls_new(d->context, d->identity, fd, true, &err);
    if (!p->chan) {
        note_refusal(d, p, &err);
        return;
    }
    p->state = TLS;
    p->deadline_ms = session_now(d->session) + LINK_HANDSHAKE_MS;
    p->inbox = (struct inbox){.buffer = p->buffer, .capacity = sizeof(p->buffer)};
}

static int read_hello(struct door *d, struct pending *p)
{
    struct ha_err err = {0};
    uint16_t code = FRAME_ABORT_PROTOCOL;
    int rc = inbox_pump(&p->inbox, p->chan, NULL, &err);

    if (rc == 0)
        return 0;
    if (rc < 0 && err.code == ECONNRESET) {
        ha_err_prefix(&err, "before its HELLO");
        note_refusal(d, p, &err);
        drop(p);
        return 0;
    }
    if (rc > 0 && p->inbox.header.type != FRAME_HELLO)
        rc = ha_err_set(&err, HA_E_PEER, "frame %s instead of HELLO",
                        frame_name(p->inbox.header.type));
    if (rc > 0)
        rc = hello_check(d->start, p->chan, inbox_payload(&p->inbox), p->inbox.header.size, &code,
                         &err);
    if (rc < 0) {
        refuse(d, p, code, &err);
        return 0;
    }
    return 1;
}

/* Goes on with one connection. Returns 1 when it has won. */
static int advance(struct door *d, struct pending *p)
{
    struct ha_err err = {0};
    int rc;

    switch ((enum pending_state)p->state) {
    case TLS:
        rc = chan_tls_handshake(p->chan, &err);
        if (rc == -EAGAIN)
            return 0;
        if (rc < 0) {
            ha_err_prefix(&err, "TLS");
            note_refusal(d, p, &err);
            drop(p);
            return 0;
        }
        p->state = HELLO;
        return read_hello(d, p);
    case HELLO:
        return read_hello(d, p);
    case REFUSED:
        rc = (int)p->chan->ops->read(p->chan, p->buffer, sizeof(p->buffer), NULL);
        if (rc != -EAGAIN && rc <= 0)
            drop(p);
        return 0;
    case FREE:
        break;
    }
    return 0;
}

static void expire(struct door *d, struct pending *p)
{
    struct ha_err err = {0};

    if (p->state == FREE || session_now(d->session) < p->deadline_ms)
        return;
    if (p->state != REFUSED) {
        ha_err_set(&err, HA_E_TIMEOUT, "no %s within %u ms",
                   p->state == TLS ? "TLS handshake" : "HELLO", LINK_HANDSHAKE_MS);
        note_refusal(d, p, &err);
    }
    drop(p);
}

static void accept_one(struct door *d)
{
    int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0)
        admit(d, fd);
}

/* The winner becomes the session's channel, with what its inbox has counted. */
static void win(struct door *d, struct pending *p)
{
    d->session->chan = p->chan;
    d->session->inbox.sequence = p->inbox.sequence;
    d->session->progress.wire_bytes += p->inbox.have;
    p->chan = NULL;
}

/* One turn over everybody at the door. Returns 1 when somebody won, 0, or a negative error. */
static int turn(struct door *d, struct ha_err *err)
{
    struct pollfd fds[LINK_PENDING_MAX + 1];
    struct pending *owner[LINK_PENDING_MAX + 1] = {NULL};
    unsigned count = 0, busy = 0;

    for (unsigned i = 0; i < LINK_PENDING_MAX; i++) {
        struct pending *p = &d->pending[i];
        expire(d, p);
        if (p->state == FREE)
            continue;
        busy++;
        owner[count] = p;
        fds[count++] = (struct pollfd){.fd = p->chan->fd, .events = p->chan->read_wants};
    }
    if (d->listener < 0 && busy == 0)
        return ha_err_set(err, d->last.code, "%s", d->last.text);
    if (d->listener >= 0 && busy < LINK_PENDING_MAX)
        fds[count++] = (struct pollfd){.fd = d->listener, .events = POLLIN};
    int rc = session_wait(d->session, fds, count, 100, err);
    if (rc <= 0)
        return rc;
    for (unsigned i = 0; i < count; i++) {
        if (fds[i].revents == 0)
            continue;
        if (!owner[i])
            accept_one(d);
        else if (advance(d, owner[i]) == 1) {
            win(d, owner[i]);
            return 1;
        }
    }
    return 0;
}

static int send_welcome(struct session *s, const struct streamp_start *start, struct ha_err *err)
{
    uint8_t *payload = session_begin(s, FRAME_WELCOME_LANES, err);
    int size = payload ? welcome_make(start, s->chan, NULL, payload) : -1;

    if (size < 0)
        return ha_err_set(err, HA_E_NO_MEMORY, "WELCOME could not be made");
    int rc = session_commit(s, FRAME_WELCOME, (size_t)size, NULL, 0, err);
    return rc < 0 ? rc : session_flush(s, err);
}

int link_accept(struct session *s, const struct streamp_start *start, struct tls_context *context,
                const struct identity *identity, int fd, struct ha_err *err)
{
    struct door d = {.session = s,
                     .start = start,
                     .context = context,
                     .identity = identity,
                     .listener = start->is_listener ? fd : -1};
    int rc = 0;

    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (!start->is_listener)
        admit(&d, fd);
    while (rc == 0)
        rc = turn(&d, err);
    if (rc < 0 && err->code == HA_E_TIMEOUT && d.refused > 0) {
        struct ha_err last = d.last;
        ha_err_set(err, HA_E_TIMEOUT, "no valid connection; %llu refused, the last: %.160s",
                   (unsigned long long)d.refused, last.text);
    }
    for (unsigned i = 0; i < LINK_PENDING_MAX; i++)
        drop(&d.pending[i]);
    if (d.listener >= 0)
        close(d.listener);
    return rc < 0 ? rc : send_welcome(s, start, err);
}
