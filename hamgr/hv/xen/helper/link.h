/* SPDX-License-Identifier: Apache-2.0
 *
 * Between a worker and the save helper that libxl starts for it: a SEQPACKET pair, whose end the
 * helper inherits, named in its environment. libxl's own pipes carry neither a contract nor
 * figures.
 *
 * A save:
 *   worker -> helper   HVP_SAVE (hvp_save), once; fds[0]: the ring, if there is one;
 *                      LINK_RINGS before it, if they are known
 *   helper -> worker   HVP_PROGRESS; HVP_DONE with the reason, if it failed
 * A restore, whose devices may be made early (restore.c):
 *   worker -> helper   HVP_RESTORE, once
 *   helper -> worker   LINK_MOVER, who restores; LINK_EARLY as soon as libxl goes on, or never;
 *                      HVP_DONE behind that, at the end
 * Each end that sees the other one's end gives up.
 *
 * A helper that is started without it (by xl) saves without a contract, and nothing is early.
 */
#ifndef HAMGR_HV_XEN_HELPER_LINK_H
#define HAMGR_HV_XEN_HELPER_LINK_H

#include <sys/types.h>

#include "hamgr/hv/hv.h"

#define LINK_ENV "HAMGR_HELPER_FD"

/* Beside those of hvproto.h. */
enum link_type {
    LINK_RINGS = 0x4c01, /* two u64: frames of this machine, to xenstored and xenconsoled */
    LINK_MOVER,          /* u32: its pid */
    LINK_EARLY,          /* no body */
};

/* What a worker knows of who restores. */
struct link_mover {
    pid_t pid; /* a child of the worker's; 0: not told yet */
    bool is_early;
    bool is_done; /* it said so: why.code 0, or why not */
    bool is_gone; /* nothing more will come */
    struct ha_err why;
};

struct helper_link {
    int fd;          /* ours; -1: none */
    int inherited;   /* worker: the helper's end, until closed */
    uint8_t *buffer; /* HA_IPC_MAX bytes */
};

/* The worker's side. Makes the pair, puts the contract (and ring_fd, borrowed, -1: none) into it
 * and its end's number into the environment. frames: of the guest's rings to xenstored and
 * xenconsoled, or NULL. 0 or a negative error. */
int helper_link_open(struct helper_link *l, const struct hv_save_params *params, int ring_fd,
                     const uint64_t *frames, struct ha_err *err);
/* The same for a restore. */
int helper_link_offer(struct helper_link *l, struct ha_err *err);
/* Takes what has come from a restore. */
void helper_link_hear(struct helper_link *l, struct link_mover *m);
/* Takes what has come. True: there was progress (the newest is in *ret). ret_why: why it failed,
 * as soon as it said so. */
bool helper_link_read(struct helper_link *l, struct hv_progress *ret, struct ha_err *ret_why);
/* Idempotent; takes the number out of the environment. */
void helper_link_close(struct helper_link *l);

/* The helper's side. False: nobody gave it a link. *ret_ring_fd -1: no ring. ret_frames[2]: of the
 * guest's rings, 0 if they are not known. */
bool helper_link_take(struct helper_link *l, struct hv_save_params *ret_params, int *ret_ring_fd,
                      uint64_t *ret_frames);
/* Of a restore. *ret_worker: the pid of who offered it. */
bool helper_link_accept(struct helper_link *l, pid_t *ret_worker);
void helper_link_say(const struct helper_link *l, enum link_type type, uint32_t value);
/* why NULL: it went well. */
void helper_link_done(const struct helper_link *l, const struct ha_err *why);
void helper_link_tell(const struct helper_link *l, const struct hv_progress *progress);

#endif
