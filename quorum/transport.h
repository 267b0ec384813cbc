/* SPDX-License-Identifier: Apache-2.0
 *
 * corosync behind the log: CPG (model V1) carries messages and tells who is there; cmap, cfg and
 * votequorum are read for status and for refusing unsafe options, never counted. Everything runs on
 * libqb's loop except calls that may hang (connect, cmap, cfg), which run on a thread whose hang is
 * reported as "corosync hangs".
 */
#ifndef QUORUM_TRANSPORT_H
#define QUORUM_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <qb/qbloop.h>

#include "hamgr/base/err.h"
#include "hamgr/base/limits.h"

/* The longest message: corosync carries 1 MiB - 1 KiB in one piece, and its ring holds two. */
#define TRANSPORT_MESSAGE_MAX (512u * 1024u)

struct transport;

struct transport_node {
    uint32_t id;
    char name[HA_NAME_MAX];
    char addr[HA_ADDR_MAX]; /* ring0 */
};

/* What corosync is configured to do, as read from cmap. */
struct transport_config {
    char cluster_name[HA_NAME_MAX];
    uint32_t self;
    uint32_t token_ms; /* in effect: token + (nodes - 2) x token_coefficient */
    uint32_t consensus_ms;
    uint32_t node_count;
    struct transport_node nodes[HA_NODES_MAX];
    bool has_two_node; /* refused, each with its reason */
    bool has_last_man_standing;
    bool has_auto_tie_breaker;
    bool has_no_crypto;
};

enum transport_health { TRANSPORT_OK = 0, TRANSPORT_DOWN, TRANSPORT_HANGS, TRANSPORT_CONGESTED };

struct transport_callbacks {
    /* The group's present members (nodes, ascending). Also after a reconnect. */
    void (*members)(void *user, const uint32_t *nodes, uint32_t count);
    /* Bytes from a member; borrowed. */
    void (*message)(void *user, uint32_t from, const uint8_t *data, size_t size);
    /* The connection is lost; reconnecting goes on by itself with back-off. */
    void (*down)(void *user, const char *why);
    /* Read after each (re)connect, before members, and again when an operator changed it under a
     * living connection (looked at every 5 s). Return false to stay disconnected (refused): it is
     * read anew every 2 s. */
    bool (*config)(void *user, const struct transport_config *config);
    /* Health changed, for status and logs; while down also when the reason did (borrowed). */
    void (*health)(void *user, enum transport_health health, const char *why);
};

/* Starts connecting to group `cluster`-specific name; corosync may come later. Callbacks run on the
 * loop's thread, never from inside transport_open or transport_send; members and message are
 * mandatory. Needs 2 MiB of stack in the loop's thread (corosync's dispatch buffer). */
int transport_open(qb_loop_t *loop, const char *group, const struct transport_callbacks *callbacks,
                   void *user, struct transport **ret_transport, struct ha_err *err);
/* Queues a multicast (copied, 1 to TRANSPORT_MESSAGE_MAX bytes); dropped when there is no
 * connection. It goes out at once when corosync takes it. A queued heartbeat is replaced by a newer
 * one. TRY_AGAIN is handled inside with a bounded queue; when it overflows the connection is
 * dropped and `down` is called. */
void transport_send(struct transport *t, const uint8_t *data, size_t size, bool is_heartbeat);
/* votequorum's view of things, for display: returns false when unknown. */
bool transport_votequorum(struct transport *t, bool *ret_is_quorate, uint32_t *ret_votes);
/* Leaves the group and frees t; allowed from its callbacks, none is called afterwards. Blocks for
 * 200 ms at most (when corosync hangs). NULL is allowed. */
/* True if corosync's ring has the node: its host lives, even if its hamgrd has left the group (a
 * restart). False while disconnected. A hint for patience, never evidence of anything. */
bool transport_is_host_up(const struct transport *t, uint32_t node);
void transport_close(struct transport *t);
/* NULL if config is acceptable, else why not and the cure. static */
const char *transport_config_refusal(const struct transport_config *config);

#endif
