/* SPDX-License-Identifier: Apache-2.0
 *
 * Between a worker and the save helper that libxl starts for it: a SEQPACKET pair, whose end the
 * helper inherits, named in its environment. libxl's own pipes carry neither a contract nor
 * figures.
 *
 *   worker -> helper   HVP_SAVE (hvp_save), once; fds[0]: the ring, if there is one
 *   helper -> worker   HVP_PROGRESS; HVP_DONE with the reason, if it failed
 *
 * A helper that is started without it (by xl) saves without a contract.
 */
#ifndef HAMGR_HV_XEN_HELPER_LINK_H
#define HAMGR_HV_XEN_HELPER_LINK_H

#include "hamgr/hv/hv.h"

#define LINK_ENV "HAMGR_HELPER_FD"

struct helper_link {
    int fd;          /* ours; -1: none */
    int inherited;   /* worker: the helper's end, until closed */
    uint8_t *buffer; /* HA_IPC_MAX bytes */
};

/* The worker's side. Makes the pair, puts the contract (and ring_fd, borrowed, -1: none) into it
 * and its end's number into the environment. 0 or a negative error. */
int helper_link_open(struct helper_link *l, const struct hv_save_params *params, int ring_fd,
                     struct ha_err *err);
/* Takes what has come. True: there was progress (the newest is in *ret). ret_why: why it failed,
 * as soon as it said so. */
bool helper_link_read(struct helper_link *l, struct hv_progress *ret, struct ha_err *ret_why);
/* Idempotent; takes the number out of the environment. */
void helper_link_close(struct helper_link *l);

/* The helper's side. False: nobody gave it a link. *ret_ring_fd -1: no ring. */
bool helper_link_take(struct helper_link *l, struct hv_save_params *ret_params, int *ret_ring_fd);
void helper_link_tell(const struct helper_link *l, const struct hv_progress *progress);
void helper_link_fail(const struct helper_link *l, const struct ha_err *why);

#endif
