/* SPDX-License-Identifier: Apache-2.0
 *
 * What libxl is given in a stream's place: one end of a socket pair. The helper that libxl starts
 * gets the stream itself under the same number; what libxl writes or reads besides goes over the
 * other end, whole. libxl 4.17 can't be let near a stream that may end:
 *
 *  - Whatever fails before the helper was started (the stream ends or breaks, libxl_ao_abort) is
 *    told to the helper's callback, which is set only when it is started: a call through a null
 *    pointer, of saves and restores (check_all_finished, libxl__save_helper_abort, helper_done).
 *  - The end of a stream counts as read, without an error. A record of which nothing came is one of
 *    type 0, END: a stream that was cut between two records is whole to libxl, be it behind the
 *    guest's memory or before it; and of an emulator's record the rest is what malloc gave.
 *  - It reads and writes blocking, on its only thread: nothing else is seen meanwhile.
 *
 * So a restore's libxl sees records that are complete only. If the stream ends early it gets a head
 * nevertheless, its helper reads the end of a file, and all that it made is taken back in order.
 *
 * Where libxl goes on before memory is there (early.h) it is told an END that the stream has not
 * come to; the stream's own is read at last, for whoever wants to know that it was whole.
 */
#ifndef HAMGR_HV_XEN_STANDIN_H
#define HAMGR_HV_XEN_STANDIN_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"

/* A stream begins so: the header of libxl's format 2, and the record that libxc's image follows. */
#define STAND_IN_HEAD 24u

struct stand_in {
    int libxl_fd;    /* libxl's end */
    const char *why; /* why the stream can't come to its end; NULL: it did, or goes on */
    /* private */
    int stream; /* borrowed */
    int ours;
    bool is_save;
    bool is_headed;   /* restore: libxl was given the head */
    bool is_ended;    /* restore: libxl was given the last it gets */
    bool is_giving;   /* restore: the record is whole, and not all of it taken */
    bool is_detached; /* restore: the stream is read by another, libxl gets none of it */
    bool is_over;     /* then: the stream's own end was read */
    uint8_t *record;  /* restore: being read, then being given */
    size_t capacity, have, given;
};

/* stream is borrowed until stand_in_close. 0 or a negative error. */
int stand_in_open(struct stand_in *s, int stream, bool is_save, struct ha_err *err);
void stand_in_close(struct stand_in *s);
/* libxl has begun: its end does not block from here on, whatever it set before. */
void stand_in_begun(const struct stand_in *s);
/* The stream is given up: libxl shall fail as soon as it wants to read on. The first why counts. */
void stand_in_refuse(struct stand_in *s, const char *why);

/* Restore: from now on another reads the guest's memory from the stream, and libxl is told, when it
 * asks, that there is no more. Idempotent. */
void stand_in_detach(struct stand_in *s);
/* ... and that other one is done: reads what is left, without waiting. True: that was all, and it
 * was as it should be. If it is not, why says so. */
bool stand_in_rest(struct stand_in *s);

/* Carries over what there is. is_wanted: at this moment libxl waits for bytes from its end; what is
 * behind the guest's head is its helper's at any other. Blocks only where a save's stream is full.
 */
void stand_in_move(struct stand_in *s, bool is_wanted);
/* What to wait for then, beside libxl's own. */
struct pollfd stand_in_watch(const struct stand_in *s, bool is_wanted);

/* Around each fork of libxl's: what it wrote comes before what the child writes; and the child has
 * the stream (if it is refused: /dev/null) where libxl has its end. False: the child must not go
 * on. */
void stand_in_before_fork(struct stand_in *s);
bool stand_in_child(const struct stand_in *s);

#endif
