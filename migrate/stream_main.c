/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-stream: one end of one migration. Started by hamgrd (stream_spawn.h) with a control socket
 * as fd 3; opens nothing itself. Order: take what was handed over, give up what is not needed, meet
 * the peer, give up the rest, move the stream, say how it ended.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "hamgr/ipc/sock.h"
#include "hamgr/ipc/streamproto.h"
#include "migrate/chan_tls.h"
#include "migrate/dial.h"
#include "migrate/door.h"
#include "migrate/lanes.h"
#include "migrate/link.h"
#include "migrate/page_sink.h"
#include "migrate/page_source.h"
#include "migrate/pem.h"
#include "migrate/recv.h"
#include "migrate/ring.h"
#include "migrate/sandbox.h"
#include "migrate/send.h"
#include "migrate/session.h"
#include "migrate/tune.h"
#include "migrate/workers.h"

#define START_MS  10000 /* hamgrd queues START before it starts us: waiting at all is a fault */
#define LINGER_MS 2000u /* for the last frames to arrive: a round trip and the peer's last look */

enum { FD_NET = 0, FD_NATIVE, FD_PEM, FD_RING, FD_COUNT };

/* Everything this end owns, in the order it comes to be. */
struct end {
    struct streamp_start start;
    int fds[FD_COUNT]; /* -1: moved on or absent */
    struct identity identity;
    struct tls_context *context;
    struct tls_context *psk; /* for all connections but the first */
    struct lanes *lanes;     /* their threads; NULL: none wanted */
    struct door *door;       /* receiver */
    struct dial *dial;       /* sender, over lanes */
    struct sender *sender;
    struct receiver *receiver;
    struct ring *ring;
    struct page_source *source;
    struct page_sink *sink;
    struct session session;
};

static int take_start(struct end *e, struct ha_err *err)
{
    struct pollfd fd = {.fd = STREAMP_FD, .events = POLLIN};
    uint8_t *buffer = malloc(HA_IPC_MAX);
    struct ha_packet packet;

    if (!buffer)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    int rc = poll(&fd, 1, START_MS) == 1 ? ha_sock_receive(STREAMP_FD, buffer, &packet) : -EAGAIN;
    if (rc != 1) {
        free(buffer);
        return ha_err_set(err, HA_E_USAGE, "no START on fd 3");
    }
    memcpy(e->fds, packet.fds, sizeof(e->fds));
    rc = packet.type == STREAMP_START
             ? streamp_start_decode(packet.body, packet.body_size, &e->start)
             : -HA_E_PEER;
    OPENSSL_cleanse(buffer, HA_IPC_MAX);
    free(buffer);
    if (rc < 0 || e->fds[FD_NET] < 0 || e->fds[FD_NATIVE] < 0 || e->fds[FD_PEM] < 0)
        return ha_err_set(err, HA_E_USAGE, "malformed START");
    if (!ha_name_is_valid(e->start.peer_name))
        return ha_err_set(err, HA_E_USAGE, "START names no peer");
    return 0;
}

static int take_fd(int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken;
}

static int open_ring(struct end *e, struct ha_err *err)
{
    if (e->fds[FD_RING] < 0)
        return 0;
    e->ring = ring_map(e->fds[FD_RING], err);
    close(take_fd(&e->fds[FD_RING]));
    return e->ring ? 0 : -err->code;
}

/* What the stream comes from or goes to. */
static int open_native(struct end *e, struct ha_err *err)
{
    int rc = open_ring(e, err);

    if (rc < 0)
        return rc;
    struct ring *ring = e->ring;
    int native = take_fd(&e->fds[FD_NATIVE]);
    e->ring = NULL; /* moved */
    if (e->start.is_sender)
        e->source = page_source_fd_new(native, ring);
    else if (ring)
        e->sink = page_sink_ring_new(native, ring, &e->session);
    else
        e->sink = page_sink_fd_new(native, &e->session);
    return e->source || e->sink ? 0 : ha_err_set(err, HA_E_NO_MEMORY, "no memory");
}

static int open_probe(struct end *e, struct ha_err *err)
{
    if (e->start.is_sender)
        e->source = page_source_probe_new(e->start.probe_mib);
    else
        e->sink = page_sink_null_new(e->start.probe_mib, &e->session);
    return e->source || e->sink ? 0 : ha_err_set(err, HA_E_NO_MEMORY, "no memory");
}

/* All that needs files, memory or the library's start-up. */
static int prepare(struct end *e, struct ha_err *err)
{
    int rc = identity_load(e->fds[FD_PEM], &e->identity, err);

    close(take_fd(&e->fds[FD_PEM]));
    if (rc < 0)
        return rc;
    e->context = tls_context_new(&e->identity, e->start.peer_name, err);
    if (!e->context)
        return -err->code;
    if (e->start.connections > 0) {
        e->psk = tls_context_psk_new(err);
        if (!e->psk)
            return -err->code;
    }
    return e->start.probe_mib > 0 ? open_probe(e, err) : open_native(e, err);
}

static int lock_up(struct end *e, struct ha_err *err)
{
    char missing[HA_TEXT_MAX];
    int rc = sandbox_enter(missing, err);

    if (rc < 0)
        return rc;
    if (missing[0] != '\0')
        session_note(&e->session, "hamgr-stream: %s; system calls are filtered all the same",
                     missing);
    /* Threads come now or never: after the change of user, which is per thread, and before the
     * filter, which lets none be made. */
    if (e->start.connections > 0) {
        e->lanes = lanes_new(e->start.is_sender, e->start.connections, err);
        if (!e->lanes)
            return -err->code;
    }
    if (e->start.is_sender)
        e->sender = sender_new(&e->start, err);
    else
        e->receiver = receiver_new(workers_for(e->start.workers), err);
    if (!e->sender && !e->receiver)
        return -err->code;
    return sandbox_filter(SANDBOX_HANDSHAKE, err);
}

static int accept_first(struct end *e, int listener, struct terms *ret_terms, struct ha_err *err)
{
    /* What is accepted inherits these. The receiver sends little: what nobody acknowledges for long
     * means a dead path, whatever the sender does. */
    tune_socket(listener, TUNE_LANE_MS);
    e->door = door_new(&e->session, &e->start, e->context, &e->identity, listener);
    if (!e->door)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    return link_accept(&e->session, &e->start, e->door, ret_terms, err);
}

/* Everything after WELCOME over several connections, or none of them. */
static int spread(struct end *e, struct terms *terms, struct ha_err *err)
{
    if (terms->connections == 0) {
        door_free(e->door); /* nobody else is expected */
        e->door = NULL;
        return 0;
    }
    lanes_agree(e->lanes, terms->connections, terms->window);
    tls_context_key(e->psk, terms->psk, e->start.ticket, terms->connections);
    OPENSSL_cleanse(terms->psk, sizeof(terms->psk));
    session_use_lanes(&e->session, e->lanes, e->start.is_sender, terms->window, terms->grace_ms);
    if (!e->start.is_sender) {
        door_join(e->door, e->psk, terms);
        return 0;
    }
    e->dial = dial_new(&e->session, e->psk, e->start.ticket, terms);
    return e->dial ? 0 : ha_err_set(err, HA_E_NO_MEMORY, "no memory");
}

/* Until the peer is known and bound to the ticket; then the key goes. */
static int meet(struct end *e, struct ha_err *err)
{
    struct terms terms = {0};
    int net = take_fd(&e->fds[FD_NET]);
    int rc = e->start.is_sender
                 ? link_connect(&e->session, &e->start, e->context, &e->identity, net, &terms, err)
                 : accept_first(e, net, &terms, err);

    if (e->session.chan)
        chan_tls_forget_key(e->session.chan);
    identity_fini(&e->identity);
    OPENSSL_cleanse(e->start.secret, sizeof(e->start.secret));
    if (rc == 0)
        rc = spread(e, &terms, err);
    bool may_accept = terms.connections > 0 && !e->start.is_sender;
    if (rc == 0)
        rc = sandbox_filter(may_accept ? SANDBOX_DOOR : SANDBOX_STREAM, err);
    if (rc == 0)
        session_connected(&e->session);
    return rc;
}

static int move(struct end *e, struct ha_err *err)
{
    if (e->start.is_sender)
        return send_stream(e->sender, &e->session, e->source, err);
    int rc = recv_stream(e->receiver, &e->session, e->sink, err);
    /* Delivered and verified: good, even if the confirmation finds nobody any more. */
    struct ha_err late = {0};
    if (rc == 0 && session_flush(&e->session, &late) < 0)
        session_note(&e->session, "stream complete, but its confirmation was not sent: %s",
                     late.text);
    return rc;
}

static int run(struct end *e, struct ha_err *err)
{
    int rc = prepare(e, err);

    if (rc == 0)
        rc = lock_up(e, err);
    if (rc == 0)
        rc = meet(e, err);
    return rc < 0 ? rc : move(e, err);
}

/* The hypervisor's side learns of the end as soon as hamgrd does. */
static void leave_native(struct end *e)
{
    if (e->source)
        e->source->ops->close(e->source);
    if (e->sink)
        e->sink->ops->close(e->sink);
    e->source = NULL;
    e->sink = NULL;
    for (unsigned i = 0; i < FD_COUNT; i++)
        if (e->fds[i] >= 0)
            close(take_fd(&e->fds[i]));
}

static void clean_up(struct end *e)
{
    leave_native(e);
    sender_free(e->sender);
    receiver_free(e->receiver);
    ring_free(e->ring);
    door_free(e->door);
    dial_free(e->dial);
    session_fini(&e->session);
    tls_context_free(e->context);
    tls_context_free(e->psk);
    /* The lanes' threads have no connection any more; they end with the process. */
    identity_fini(&e->identity);
}

static int serve(struct end *e)
{
    struct ha_err err = {0};
    int rc = sandbox_early(&err);

    if (rc == 0)
        rc = take_start(e, &err);
    /* The session is what says how it ended: it comes first, with limits that may be unset. */
    struct ha_err failed = {0};
    if (session_init(&e->session, STREAMP_FD, e->start.idle_timeout_ms, e->start.rate_mbit,
                     &failed) < 0)
        return 1;
    if (rc == 0)
        rc = run(e, &err);
    if (rc < 0)
        session_abort(&e->session, &err);
    session_end(&e->session, rc == 0, rc == 0 ? "" : err.text);
    leave_native(e);
    /* hamgrd knows; now the peer gets the time to take our last frame before the socket closes. */
    session_linger(&e->session, LINGER_MS);
    return rc == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct end e = {.fds = {-1, -1, -1, -1}};

    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("hamgr-stream %s\n", HA_VERSION);
        return 0;
    }
    if (argc != 1) {
        fprintf(stderr, "hamgr-stream is started by hamgrd; it takes no arguments\n");
        return 2;
    }
    if (pem_wipe_what_is_freed() < 0)
        return 1;
    /* A second heap would be sized by the number of CPUs, and asking for that is not allowed. */
    (void)mallopt(M_ARENA_MAX, 1);
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    int rc = serve(&e);
    clean_up(&e);
    /* Nothing that runs at exit is allowed by the filter, or needed. */
    _exit(rc);
}
