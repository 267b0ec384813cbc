/* SPDX-License-Identifier: Apache-2.0
 *
 * A receiver with one data connection whose other end is the test's, and what to say to it.
 */
#ifndef TESTS_UNIT_MIGRATE_LANESRIG_H
#define TESTS_UNIT_MIGRATE_LANESRIG_H

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "migrate/carry.h"
#include "migrate/lanes.h"

#define WAIT_MS 20000

static inline void make_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static inline void put(uint8_t *at, uint16_t type, uint32_t size, uint32_t epoch, uint64_t sequence)
{
    struct frame_header h = {.type = type, .size = size, .epoch = epoch, .sequence = sequence};

    frame_header_encode(at, &h);
}

/* A receiver with one lane, whose other end is ours. */
struct victim {
    struct lanes *lanes;
    struct session session;
    int fd;
};

static inline void set_up(struct victim *v, unsigned window)
{
    struct ha_err err = {0};
    int pair[2], control[2];

    make_pair(pair);
    make_pair(control);
    v->fd = pair[1];
    v->lanes = lanes_new(false, 1, &err);
    assert_non_null(v->lanes);
    lanes_agree(v->lanes, 1, window);
    lanes_connect(v->lanes, 1, chan_fd_new(pair[0]));
    assert_int_equal(session_init(&v->session, -1, 5000, 0, &err), 0);
    v->session.chan = chan_fd_new(control[0]);
    close(control[1]); /* the control connection is lost at once: nobody minds for the grace time */
    session_use_lanes(&v->session, v->lanes, false, window, 5000);
}

static inline void tear_down(struct victim *v)
{
    session_fini(&v->session);
    lanes_free(v->lanes);
    close(v->fd);
}

static inline void say(const struct victim *v, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        struct pollfd fd = {.fd = v->fd, .events = POLLOUT};
        ssize_t r = write(v->fd, at, size);
        if (r < 0 && errno == EPIPE)
            return;
        assert_true(r > 0 || errno == EAGAIN);
        if (r < 0)
            assert_int_equal(poll(&fd, 1, WAIT_MS), 1);
        at += r > 0 ? r : 0;
        size -= r > 0 ? (size_t)r : 0;
    }
}

/* A parcel that holds one RAW frame of 9 + 8 bytes. */
#define SMALL (2 * FRAME_HEADER_SIZE + FRAME_RAW_HEAD + 9)

static inline void small_parcel(uint8_t *at, uint64_t number, uint64_t frame)
{
    memset(at, 0, SMALL);
    put(at, FRAME_PARCEL, SMALL - FRAME_HEADER_SIZE, 0, number);
    put(at + FRAME_HEADER_SIZE, FRAME_RAW, FRAME_RAW_HEAD + 9, 0, frame);
}

#endif
