/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/link.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/tune.h"

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
                 const struct identity *identity, int fd, struct terms *ret_terms,
                 struct ha_err *err)
{
    int rc = wait_connected(s, fd, err);

    if (rc < 0) {
        close(fd);
        return rc;
    }
    /* Longer than any pause of the receiver's hypervisor may be: over one connection the window is
     * shut meanwhile, which only idle_timeout may judge. */
    tune_socket(fd, SESSION_PEER_GONE_MS + s->idle_timeout_ms);
    s->chan = chan_tls_new(context, identity, fd, false, err);
    if (!s->chan)
        return -err->code;
    rc = handshake(s, s->chan, err);
    if (rc == 0)
        rc = link_greet(s, start, ret_terms, err);
    if (rc == 0 && ret_terms->connections > 0)
        tune_socket(fd, TUNE_LANE_MS);
    return rc < 0 ? ha_err_prefix(err, "%s", start->peer_name) : 0;
}

static int send_welcome(struct session *s, const struct streamp_start *start,
                        const struct terms *terms, struct ha_err *err)
{
    uint8_t *payload = session_begin(s, FRAME_WELCOME_LANES, err);
    int size = payload ? welcome_make(start, s->chan, terms, payload) : -1;

    if (size < 0)
        return ha_err_set(err, HA_E_NO_MEMORY, "WELCOME could not be made");
    int rc = session_commit(s, FRAME_WELCOME, (size_t)size, NULL, 0, err);
    return rc < 0 ? rc : session_flush(s, err);
}

int link_accept(struct session *s, const struct streamp_start *start, struct door *door,
                struct terms *ret_terms, struct ha_err *err)
{
    int rc = 0;

    door_open(door);
    while (rc >= 0 && !door_has_peer(door, ret_terms))
        rc = session_wait(s, NULL, 0, -1, err);
    if (rc < 0)
        door_explain(door, err);
    return rc < 0 ? -err->code : send_welcome(s, start, ret_terms, err);
}
