/* SPDX-License-Identifier: Apache-2.0
 *
 * The look at this host: reads what doctor wants to know below /proc, /sys, /etc, /boot and /run,
 * and the things that guests' definitions name. It may hang where storage hangs, so it runs in a
 * process that may be killed (a worker of hamgr-hv), never on a daemon's loop. What can't be read
 * stays unknown.
 */
#ifndef HAMGR_DOCTOR_LOOK_H
#define HAMGR_DOCTOR_LOOK_H

#include "hamgr/doctor/lookproto.h"

/* root: "" for this host; a directory that stands for it in tests. Adds to ret_tell->facts what was
 * found; the things' answers are in the order asked. */
void look_host(const char *root, const struct look_ask *ask, struct look_tell *ret_tell);

#endif
