/* SPDX-License-Identifier: Apache-2.0
 *
 * The xen driver. Gate verbs are hypercalls (libxenctrl) and reads of small files below run_dir; no
 * service can hang them. Worker verbs use libxl, in processes that may be killed at any moment.
 *
 * Who a domain is stands in run_dir/domains/<domid>, written before the domain exists: hamgr gives
 * domids itself, so the record is there first, and it counts only for a domain whose handle (Xen's
 * uuid) is the guest's. Neither xenstore nor libxl's own files are asked for identity. run_dir is
 * on a file system that forgets at power-off, like the hypervisor.
 *
 * What libxl returns and logs is for people: what happened is decided by what the hypervisor shows
 * afterwards.
 *
 * Threads: one handle belongs to one thread. Different handles and processes may run in parallel.
 */
#ifndef HAMGR_HV_XEN_XEN_H
#define HAMGR_HV_XEN_XEN_H

#include "hamgr/hv/hv.h"

#define HV_XEN_RUN_DIR "/run/hamgr/xen"

struct hv_xen_options {
    const char *run_dir;    /* absolute; made if absent (its parent must exist) */
    const char *allow_path; /* what definitions may name: allow.h */
    /* Who moves memory. NULL: libxl's own helper; "auto": ours, beside this program, if it will do;
     * else ours at that path, if it will do. */
    const char *helper;
    /* Saves send every page once more when the guest stands still, and a restore that is sent them
     * compares, and fails if one differs: libxc's own proof. For tests, and guests without devices:
     * what a backend or the console's daemon writes into a guest that stands still differs, too. */
    bool is_verifying;
};

/* NULL and err if this is no dom0 of a Xen this driver speaks to. Options are copied. */
struct hv *hv_xen_open(const struct hv_xen_options *options, struct ha_err *err);

#endif
