/* SPDX-License-Identifier: Apache-2.0
 *
 * What the worker verbs' files share.
 */
#ifndef HAMGR_HV_XEN_WORK_H
#define HAMGR_HV_XEN_WORK_H

#include <sys/stat.h>

#include "hamgr/hv/xen/xen_priv.h"

void xen_nap(void);
/* Destroys a domain that is there, and its record. */
enum hv_outcome xen_remove(struct hv_xen *x, uint32_t domid, struct ha_err *err);
/* Dirty tracking off, the guest's own cap back. 0 or a negative error. */
int xen_tracking_off(struct hv_xen *x, const struct xen_look *look, struct ha_err *err);

/* Has libxl start our helper for what follows, if it will do here (tried once a handle). False: it
 * starts its own. */
bool xen_use_helper(struct hv_xen *x);

/* A worker that is told to stop gets /dev/null in its stream's place (worker_run.c): seen here. */
struct stream_mark {
    int fd;
    dev_t device;
    ino_t inode;
};
int stream_mark_take(struct stream_mark *mark, int fd, struct ha_err *err);
bool stream_is_taken_away(const struct stream_mark *mark);

#endif
