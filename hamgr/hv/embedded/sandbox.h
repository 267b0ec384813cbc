/* SPDX-License-Identifier: Apache-2.0
 *
 * The lock behind the workload: a seccomp filter that leaves a guest its clocks, its sleep, the
 * one-byte ring of its disk's bell, and its end. Anything else kills it.
 */
#ifndef HAMGR_HV_EMBEDDED_SANDBOX_H
#define HAMGR_HV_EMBEDDED_SANDBOX_H

#include <stdbool.h>

/* Locks the calling thread in, for good. no_new_privs must be set. Also allowed: one report on
 * EMB_FD_REPORT, closing it, and stopping itself. Returns 0 or -errno. */
int sandbox_enter(bool has_disk);

#endif
