/* SPDX-License-Identifier: Apache-2.0
 *
 * A byte channel to the peer: what frames travel on. Drivers: TLS over a socket (chan_tls.h, the
 * only one hamgr-stream uses), a plain fd and a memory buffer (here, for tests and fuzzing).
 * Never blocks. One thread.
 */
#ifndef HAMGR_MIGRATE_CHAN_H
#define HAMGR_MIGRATE_CHAN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hamgr/base/err.h"

#define CHAN_BINDING_SIZE 32u

struct chan;

struct chan_ops {
    const char *name;
    /* Reads at most size bytes. Returns their number, 0 at the peer's end, -EAGAIN (poll fd for
     * read_wants) or another negative error, after which only close is useful. */
    ssize_t (*read)(struct chan *chan, void *data, size_t size, struct ha_err *err);
    /* Writes at most size bytes. Returns their number (> 0), -EAGAIN (poll fd for write_wants, then
     * call again with the same bytes in front and at least as many), or another negative error. */
    ssize_t (*write)(struct chan *chan, const void *data, size_t size, struct ha_err *err);
    /* Optional. From now on what is written may be kept back and sent in larger pieces, so that
     * less is spent on system calls; flush sends the rest: 0, -EAGAIN (poll fd for write_wants,
     * then call again) or a negative error. A channel that was not told to gather keeps nothing
     * back. */
    void (*gather)(struct chan *chan);
    int (*flush)(struct chan *chan, struct ha_err *err);
    /* Says once that nothing more will be written. Best effort; reading goes on. */
    void (*finish)(struct chan *chan);
    /* Fills ret_binding[CHAN_BINDING_SIZE] with what only the two ends of this very channel know
     * (zeros if the channel has no such thing). Returns 0 or a negative error. */
    int (*bind)(struct chan *chan, uint8_t *ret_binding);
    /* Uses a new sending key from here on. May be called between two writes only. 0 or error. */
    int (*renew)(struct chan *chan, struct ha_err *err);
    /* Closes and frees. */
    void (*close)(struct chan *chan);
};

/* A driver embeds this first. */
struct chan {
    const struct chan_ops *ops;
    int fd; /* to poll; -1: never -EAGAIN */
    short read_wants;
    short write_wants;
};

/* A channel over fd (moved; made non-blocking), without any protection. NULL: no memory, fd closed.
 */
struct chan *chan_fd_new(int fd);
/* Reads from input[size] (borrowed), then the end; what is written is dropped and counted as
 * written. NULL: no memory. */
struct chan *chan_mem_new(const uint8_t *input, size_t size);

#endif
