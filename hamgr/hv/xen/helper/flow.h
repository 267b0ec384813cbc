/* SPDX-License-Identifier: Apache-2.0
 *
 * The stream on its way out of a save helper: bytes to the descriptor libxl gave, batches of pages
 * there too or into a ring beside it (STREAM.md, section 6), and what the other end tells of what
 * it took. Every wait sees an abort and the contract of a stopped guest.
 */
#ifndef HAMGR_HV_XEN_HELPER_FLOW_H
#define HAMGR_HV_XEN_HELPER_FLOW_H

#include "hamgr/base/err.h"
#include "hamgr/hv/xen/helper/batch.h"
#include "hamgr/hv/xen/helper/rings.h"
#include "hamgr/ipc/takenproto.h"
#include "migrate/ring.h"

/* What libxl has written of the native stream before a helper begins. */
#define FLOW_BEFORE 24u
#define FLOW_MARKER 24u

struct flow {
    int fd;       /* borrowed */
    int abort_fd; /* readable: give up. borrowed */
    bool is_socket;
    bool is_deaf; /* the stream tells nothing any more */
    bool is_translated;
    struct taken_reader taken;
    uint64_t bytes;     /* of the native stream; a batch in the ring counts like its record */
    uint64_t pages;     /* with content */
    struct ring *ring;  /* NULL: none. borrowed */
    struct batch batch; /* under way */
    uint8_t before_pages[RINGS_AHEAD]; /* records to be written in front of the first page */
    size_t before_size;                /* 0: none, or they are written */
    /* Asked before a batch and while waiting: 0, or the error that ends it. May be NULL. */
    int (*check)(void *user);
    void (*moved)(void *user);
    void *user;
    struct ha_err err; /* the first failure */
};

void flow_init(struct flow *f, int fd, int abort_fd, bool is_translated);
/* All of it. 0, or a negative error; f->err says why. */
int flow_write(struct flow *f, const struct iovec *vector, int count);
/* Bytes written and not taken over yet; of a stream that does not tell, what its pipe holds. */
uint64_t flow_backlog(struct flow *f, bool *ret_is_told);
/* Waits until the other end may have told something, at most us. False: aborted. */
bool flow_rest(struct flow *f, uint64_t us);
bool flow_is_aborted(const struct flow *f);

#endif
