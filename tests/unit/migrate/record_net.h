/* SPDX-License-Identifier: Apache-2.0
 *
 * The network of stream_record: unprotected connections between two ends in one process, each
 * written down in clear, one file a connection; and, over several of them, what dial.c and door.c
 * do with TLS: JOIN, and again after a connection was cut on purpose.
 */
#ifndef TESTS_MIGRATE_RECORD_NET_H
#define TESTS_MIGRATE_RECORD_NET_H

#include "migrate/hello.h"
#include "migrate/session.h"

/* A channel over fd (moved) that writes down what is sent into log_path; after cut_after bytes (0:
 * never) the connection breaks. Exits the process when a file can't be written. */
struct chan *tap_new(int fd, const char *log_path, size_t cut_after);
/* All of it, or the end of the process. */
void tap_write_all(int fd, const void *data, size_t size);

/* What both ends' threads share. Files are PATH.LANE.ATTEMPT. */
struct record_net {
    const char *sent;    /* of the sender's frames */
    const char *answers; /* of the receiver's, lane 0 only */
    unsigned cut_kib;    /* each first data connection breaks after so much; 0: none does */
    int door[2];         /* sender -> receiver: the other end of each new connection */
};

/* One end's part, from WELCOME on: its lanes, and whoever makes or takes connections. */
struct record_end;

struct record_end *record_end_new(struct record_net *net, struct session *s,
                                  const struct streamp_start *start, const struct terms *terms,
                                  bool is_sender);
/* After the session's linger, before session_fini. NULL is allowed. */
void record_end_free(struct record_end *e);

#endif
