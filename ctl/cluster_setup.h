/* SPDX-License-Identifier: Apache-2.0
 *
 * Files that a node needs before hamgrd can start: corosync's configuration and key, its permission
 * for hamgrd, and the first store of a cluster. What exists already is left alone.
 */
#ifndef CTL_CLUSTER_SETUP_H
#define CTL_CLUSTER_SETUP_H

#include "hamgr/base/err.h"
#include "hamgr/store/store.h"

#define COROSYNC_CONF      "/etc/corosync/corosync.conf"
#define COROSYNC_KEY       "/etc/corosync/authkey"
#define COROSYNC_UIDGID    "/etc/corosync/uidgid.d/hamgr"
#define COROSYNC_KEY_BYTES 256

/* corosync.conf for a first node, encrypted, into buffer. token_ms 100..60000 is in effect as it
 * stands (token_coefficient 0); below 1000 ms knet's ping times are set too, or its links flap. */
int cluster_setup_conf_text(const char *cluster, uint32_t id, const char *node, const char *addr,
                            uint32_t token_ms, char *buffer, size_t size, struct ha_err *err);
/* Writes conf, key (random, 0400) and the uidgid entry where they do not exist. */
int cluster_setup_corosync(const char *cluster, uint32_t id, const char *node, const char *addr,
                           uint32_t token_ms, struct ha_err *err);
/* Makes the store of a new cluster: identity, and INIT as entry 1 (body from ha_cmd_encode). */
int cluster_setup_first_store(const char *dir, const struct store_identity *identity,
                              const uint8_t *body, size_t body_size, struct ha_err *err);

#endif
