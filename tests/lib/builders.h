/* SPDX-License-Identifier: Apache-2.0
 *
 * Builders of replicated states for tests: a cluster grows by real entries through ha_state_apply,
 * so no test starts from a state that the rules could not reach. Nodes are numbered 1, 2, ... and
 * named "n1", "n2"; guests 1, 2, ... are named "g1", "g2" and have the uuid build_uuid(number).
 *
 * Functions that apply a command return its refusal (enum ha_reason), 0 when it took effect. A
 * body that can't be applied at all aborts: that is a broken test.
 */
#ifndef TESTS_LIB_BUILDERS_H
#define TESTS_LIB_BUILDERS_H

#include "hamgr/base/rng.h"
#include "hamgr/core/reason.h"
#include "hamgr/core/state.h"

#define BUILD_MEM_KIB   (8u << 20) /* of each node after build_ready: 8 GiB */
#define BUILD_GUEST_KIB (1u << 20) /* of each guest: 1 GiB */

struct build {
    struct ha_state state;
    struct ha_applied applied;                /* of the last entry */
    struct log_entry entry;                   /* the last entry; its body lies in `body` */
    struct log_member self[HA_NODES_MAX + 1]; /* by node: what it will say when it joins next */
    uint64_t wall_ms;                         /* stamped into entries; tests may move it */
    uint64_t mono_ms;
    uint16_t reason;   /* of the next commands, HA_REASON_NONE at first */
    const char *actor; /* likewise, "test" at first */
    uint8_t body[HA_ENTRY_MAX];
};

/* An empty state (no INIT yet). Free with build_free. */
struct build *build_new(uint32_t guest_capacity);
void build_free(struct build *b);

/* A uuid from a number: same number, same uuid; ascending with it. */
struct ha_uuid build_uuid(uint32_t number);
/* Applies any entry body of kind; returns what ha_state_apply returned. */
int build_apply(struct build *b, uint8_t kind, const uint8_t *body, size_t size);
/* Encodes and applies cmd as LOG_KIND_STATE (INIT as LOG_KIND_INIT). */
uint16_t build_cmd(struct build *b, const struct ha_cmd *cmd);
/* A command of type with the builder's reason and actor, the rest zero. */
struct ha_cmd build_command(const struct build *b, uint8_t type);
/* A command about a node at its present incarnation. */
struct ha_cmd build_node_command(const struct build *b, uint8_t type, uint32_t node);
/* A command about a guest: its owner's node and incarnation, its epoch, its ticket. */
struct ha_cmd build_guest_command(const struct build *b, uint8_t type, uint32_t guest);

/* INIT with node 1 as first voter, NODE_ADD of the others up to count: nobody has joined yet. */
void build_nodes(struct build *b, uint32_t count);
/* Opens the next view with nodes (a list that ends with 0). Returns the remark (BAD_IDENTITY). */
uint16_t build_open(struct build *b, bool is_continuous, const uint32_t *nodes);
#define BUILD_OPEN(b, is_continuous, ...)                                                          \
    build_open((b), (is_continuous), (const uint32_t[]){__VA_ARGS__, 0})
uint16_t build_voter(struct build *b, bool is_added, uint32_t node);
/* The node's hamgrd restarts: another nonce at its next join. */
void build_restart(struct build *b, uint32_t node);
/* The node reboots: another nonce and boot id. */
void build_reboot(struct build *b, uint32_t node);
/* build_nodes, all voters, one view, all armed, BUILD_MEM_KIB each. */
void build_ready(struct build *b, uint32_t count);

uint16_t build_armed(struct build *b, uint32_t node);
uint16_t build_capacity(struct build *b, uint32_t node, uint64_t mem_kib);
uint16_t build_fenced(struct build *b, uint32_t node, uint8_t evidence);
uint16_t build_node_cmd(struct build *b, uint8_t type, uint32_t node);
uint16_t build_maintenance(struct build *b, uint32_t node, bool is_on);

/* Adds guest with BUILD_GUEST_KIB, default policy, a small definition. */
uint16_t build_guest(struct build *b, uint32_t guest, uint8_t want);
uint16_t build_guest_mem(struct build *b, uint32_t guest, uint8_t want, uint64_t mem_kib);
uint16_t build_want(struct build *b, uint32_t guest, uint8_t want);
uint16_t build_policy(struct build *b, uint32_t guest, const struct ha_policy *policy);
/* ASSIGN at the next epoch. */
uint16_t build_assign(struct build *b, uint32_t guest, uint32_t node);
uint16_t build_started(struct build *b, uint32_t guest);
uint16_t build_stop(struct build *b, uint32_t guest, uint8_t mode, bool is_relocation);
uint16_t build_not_running(struct build *b, uint32_t guest, uint8_t cause);
/* MIGRATE from its owner to dst at the next epoch. */
uint16_t build_migrate(struct build *b, uint32_t guest, uint32_t dst);
/* SWITCH, ABORT, ARRIVED or REVERT of its open ticket, named by the destination. */
uint16_t build_move(struct build *b, uint8_t type, uint32_t guest);
/* Brings a FREE wanted guest into phase: owner (or source) src, destination dst. Aborts if not. */
void build_phase(struct build *b, uint32_t guest, uint8_t phase, uint32_t src, uint32_t dst);

/* The state without what every entry moves on (index, digest): two of them compare as bytes. For
 * small states. */
struct build_picture {
    int64_t size;
    uint8_t bytes[16384];
};
void build_picture(const struct build *b, struct build_picture *ret_picture);

/* Borrowed; abort when there is none. */
const struct ha_guest *build_guest_of(const struct build *b, uint32_t guest);
const struct ha_node *build_node_of(const struct build *b, uint32_t node);

#endif
