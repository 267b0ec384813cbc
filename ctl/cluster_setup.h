/* SPDX-License-Identifier: Apache-2.0
 *
 * What makes a node ready for a cluster, offline: corosync's configuration and key, the right of
 * hamgrd's user to talk to corosync, and the first store of a new cluster. Nothing that exists is
 * ever overwritten; each file appears whole or not at all.
 */
#ifndef CTL_CLUSTER_SETUP_H
#define CTL_CLUSTER_SETUP_H

#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "hamgr/base/limits.h"
#include "hamgr/store/store.h"

#define CLUSTER_SETUP_ETC       "/etc/corosync"
#define CLUSTER_SETUP_CONF_SIZE 16384u /* holds HA_NODES_MAX nodes */

struct cluster_setup_node {
    uint32_t id;
    const char *name;
    const char *addr; /* numeric IP address of ring 0 */
};

struct cluster_setup {
    const char *cluster_name;
    uint32_t token_ms;     /* 200..60000; 1000 is recommended */
    uint32_t consensus_ms; /* 0: corosync's own, 1.2 x token; else at least that */
    uint32_t node_count;
    const struct cluster_setup_node *nodes;
};

/* The text of corosync.conf into ret_text[capacity]. -HA_E_USAGE for names, addresses, ids or times
 * that corosync or hamgr would refuse, -HA_E_LIMIT when it does not fit. */
int cluster_setup_conf(const struct cluster_setup *setup, char *ret_text, size_t capacity,
                       struct ha_err *err);
/* Makes what is missing of corosync.conf (0644), authkey (256 random bytes, 0400) and
 * uidgid.d/hamgr (0644) in directory etc; what exists stays as it is. */
int cluster_setup_files(const char *etc, const struct cluster_setup *setup, struct ha_err *err);
/* Makes uidgid.d/hamgr in directory etc, if it is missing: a node that joins gets all else from
 * others. */
int cluster_setup_right(const char *etc, struct ha_err *err);
/* cluster_setup_files in /etc/corosync for a cluster of this one node. */
int cluster_setup_corosync(const char *cluster_name, uint32_t id, const char *node_name,
                           const char *addr, uint32_t token_ms, struct ha_err *err);
/* A store that begins a cluster: entry 1 is INIT with this body (HA_CMD_INIT as ha_cmd_encode
 * writes it), entry 2 makes identity's node with its store the only voter. -HA_E_EXISTS. */
int cluster_setup_first_store(const char *dir, const struct store_identity *identity,
                              const uint8_t *body, size_t size, struct ha_err *err);
/* Gives a store made by root to user hamgr; 0 too when there is no such user or we are not root. */
int cluster_setup_give_store(const char *dir, struct ha_err *err);

#endif
