/* SPDX-License-Identifier: Apache-2.0
 *
 * What corosync is configured to do, read from cmap. Each call may hang while corosync hangs: only
 * for the worker thread.
 */
#ifndef QUORUM_COROSYNC_CONFIG_H
#define QUORUM_COROSYNC_CONFIG_H

#include <corosync/cmap.h>

#include "quorum/transport.h"

/* Reads everything but `self`. Returns 0, -EAGAIN while corosync is busy, -HA_E_UNREACHABLE when it
 * went away, or -HA_E_REFUSED for what no transport_config can hold (too many nodes, long names).
 * Nothing is taken for unset only because it could not be read. */
int corosync_config_read(cmap_handle_t cmap, struct transport_config *ret_config,
                         struct ha_err *err);

#endif
