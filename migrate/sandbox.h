/* SPDX-License-Identifier: Apache-2.0
 *
 * What hamgr-stream gives up, step by step, so that whoever takes it over through the bytes of a
 * peer finds a process that can move bytes between the fds it has, and nothing else.
 */
#ifndef HAMGR_MIGRATE_SANDBOX_H
#define HAMGR_MIGRATE_SANDBOX_H

#include "hamgr/base/err.h"

enum sandbox_stage {
    SANDBOX_HANDSHAKE = 1, /* while strangers may connect: also accept and set up sockets */
    SANDBOX_STREAM = 2,    /* afterwards: read, write, wait */
    SANDBOX_DOOR = 3,      /* instead of STREAM, where connections may come back: accept4 too */
};

/* First thing in main: no new privileges, no core dumps, no ptrace by others, few fds. SIGPIPE is
 * ignored, and SIGTERM too: the order to stop is the end of the control socket, which leaves time
 * to tell the peer. Returns 0 or a negative error. */
int sandbox_early(struct ha_err *err);
/* Before any peer byte: empty mount view, no network or IPC of its own to open, an unprivileged
 * user if we are root, no capability. One thread. What this host does not allow (no namespaces for
 * unprivileged users) is told in ret_missing[HA_TEXT_MAX] (empty: nothing missing); what must work
 * (dropping root) fails. Sets the parent-death signal again, which the change of user clears. */
int sandbox_enter(char *ret_missing, struct ha_err *err);
/* Installs the filter of a stage for all threads; a new thread can't be made any more. Any other
 * system call ends the process (SIGSYS). Stages only shrink. Returns 0 or a negative error. */
int sandbox_filter(enum sandbox_stage stage, struct ha_err *err);

#endif
