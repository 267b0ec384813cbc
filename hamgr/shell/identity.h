/* SPDX-License-Identifier: Apache-2.0
 *
 * Which boot of which machine this is. Evidence of a reboot (design section 5) rests on it.
 */
#ifndef HAMGR_SHELL_IDENTITY_H
#define HAMGR_SHELL_IDENTITY_H

#include "hamgr/base/err.h"
#include "hamgr/base/id.h"

/* The first file of paths (up to a NULL) whose first line is an id, with or without dashes, and not
 * zero; false if there is none. */
bool identity_first(const char *const *paths, struct ha_uuid *ret_id);
/* Boot id: /run/hamgr-node/boot_id (a node in a namespace has its own), else the kernel's. Machine:
 * /run/hamgr-node/product_uuid, /run/hamgr/product_uuid (a copy that systemd's unit leaves for the
 * unprivileged daemon), the DMI product uuid, else /etc/machine-id. Returns 0 or a negative error
 * that names the files tried. */
int identity_read(struct ha_uuid *ret_boot_id, struct ha_uuid *ret_hw_id, struct ha_err *err);

#endif
