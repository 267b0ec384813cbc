/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's side of a restore whose devices are made while memory is still on its way
 * (helper/restore.c, helper/divide.c). libxl ends with what looks like a domain; it is one only
 * when the mover has said that all of its memory and state is there, and the stream's own end was
 * seen, which comes only when the stream was found whole.
 *
 * Whoever gives up ends the mover first: its mappings would keep a destroyed domain's memory. It is
 * a child of the worker's and dies with it.
 */
#ifndef HAMGR_HV_XEN_EARLY_H
#define HAMGR_HV_XEN_EARLY_H

#include <libxl.h>

#include "hamgr/hv/xen/helper/link.h"
#include "hamgr/hv/xen/rules.h"
#include "hamgr/hv/xen/standin.h"

struct early {
    struct helper_link link; /* fd -1: not offered */
    struct link_mover mover;
};

/* May a guest of this definition have its devices made while it still runs at its source? Its disks
 * are opened by the kernel's backend, which reads and writes nothing before the guest asks; a
 * script or a QEMU may do anything with a disk that another node writes. So with its cards: only
 * into the bridge, where nothing answers before the guest does. */
bool early_is_safe(const libxl_domain_config *config, enum xen_kind kind, enum xen_disks disks);

/* Before libxl begins. False: it is not offered, and nothing is early. */
bool early_offer(struct early *e);
/* Hears what the mover says, and lets the stand-in know. Often; cheap. */
void early_look(struct early *e, struct stand_in *s);
/* Readable when the mover says something; -1: it never will. */
int early_watch(const struct early *e);
/* libxl is done: 1 whole, 0 not yet, -1 it will not be, *ret_why says why. */
int early_whole(struct early *e, struct stand_in *s, const char **ret_why);
/* Ends what is left of the mover. Idempotent. */
void early_end(struct early *e);

#endif
