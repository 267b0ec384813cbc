/* SPDX-License-Identifier: Apache-2.0
 *
 * The drivers a build of hamgr-hv has: one file each (driver_*.c), linked with hamgr-hv.c. There is
 * a program for each set of libraries, so that no node needs those of a hypervisor it has not.
 */
#ifndef HAMGR_HV_DRIVERS_H
#define HAMGR_HV_DRIVERS_H

#include "hamgr/hv/worker.h"

/* What the command line says. Strings are borrowed from it. */
struct hv_config {
    const char *driver;
    const char *dir;
    const char *run_dir; /* the driver's own directory */
    const char *guest_binary;
    const char *peer_user;
    const char *ident_dir;
    const char *xen_allow;  /* NULL: the driver's default */
    const char *xen_helper; /* as hv_xen_options.helper */
    bool is_verbose;
};

struct hv_driver {
    const char *name;
    worker_open_fn open; /* its user is the struct hv_config */
    const char *run_dir; /* unless another is given */
};

/* The first is the default; a NULL name ends the list. */
extern const struct hv_driver hv_drivers[];

#endif
