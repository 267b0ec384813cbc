/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules of commands about nodes and the cluster: arming, fencing, leaving, freezing, capacity.
 * Whether a node may count as dead is decided here and in state_open.c, nowhere else.
 */
#include <string.h>

#include "hamgr/core/state_internal.h"

void state_node_set_status(struct ha_node *node, const struct log_entry *entry, uint8_t status)
{
    node->status = status;
    node->status_index = entry->index;
    node->status_wall_ms = entry->wall_ms;
}

uint16_t state_check_incarnation(const struct ha_state *state, const struct ha_cmd *cmd,
                                 bool may_omit)
{
    const struct ha_node *node = ha_state_node(state, cmd->node);

    if (!node)
        return HA_REASON_NO_SUCH_NODE;
    if (may_omit && cmd->incarnation == 0)
        return HA_REASON_NONE;
    return cmd->incarnation == node->incarnation ? HA_REASON_NONE : HA_REASON_STALE_INCARNATION;
}

/* --- INIT, NODE_ADD, NODE_REMOVE --- */

static uint16_t check_init(const struct ha_state *state, const struct ha_cmd *cmd)
{
    if (state->applied != 0)
        return HA_REASON_INIT_TWICE;
    if (ha_uuid_is_zero(cmd->u.init.cluster_id) || ha_uuid_is_zero(cmd->u.init.store_id) ||
        cmd->u.init.generation == 0 || cmd->node == 0)
        return HA_REASON_BAD_VALUE;
    if (!ha_name_is_valid(cmd->u.init.name) || !ha_name_is_valid(cmd->u.init.node_name))
        return HA_REASON_BAD_VALUE;
    return HA_REASON_NONE;
}

static void effect_init(struct ha_state *state, const struct log_entry *entry,
                        const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_insert(state, cmd->node);

    state->cluster_id = cmd->u.init.cluster_id;
    state->generation = cmd->u.init.generation;
    memcpy(state->name, cmd->u.init.name, sizeof(state->name));
    memcpy(node->name, cmd->u.init.node_name, sizeof(node->name));
    memcpy(node->addr, cmd->u.init.addr, sizeof(node->addr));
    node->is_witness = cmd->u.init.is_witness;
    node->is_voter = true;
    node->store_id = cmd->u.init.store_id;
    state_node_set_status(node, entry, HA_NODE_NEW);
}

static uint16_t check_node_add(const struct ha_state *state, const struct ha_cmd *cmd)
{
    if (cmd->node == 0 || !ha_name_is_valid(cmd->u.node_add.name))
        return HA_REASON_BAD_VALUE;
    if (ha_state_node(state, cmd->node) || ha_state_node_by_name(state, cmd->u.node_add.name))
        return HA_REASON_NODE_EXISTS;
    return state->node_count == HA_NODES_MAX ? HA_REASON_LIMIT : HA_REASON_NONE;
}

static void effect_node_add(struct ha_state *state, const struct log_entry *entry,
                            const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_insert(state, cmd->node);

    memcpy(node->name, cmd->u.node_add.name, sizeof(node->name));
    memcpy(node->addr, cmd->u.node_add.addr, sizeof(node->addr));
    node->is_witness = cmd->u.node_add.is_witness;
    state_node_set_status(node, entry, HA_NODE_NEW);
}

static uint16_t check_node_remove(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, true);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_node *node = ha_state_node(state, cmd->node);
    if (node->status == HA_NODE_MEMBER)
        return HA_REASON_IS_MEMBER;
    if (node->is_voter)
        return HA_REASON_IS_VOTER;
    if (state_node_is_owner(state, node->id))
        return HA_REASON_OWNS_GUESTS;
    return state_node_is_ticket_end(state, node->id) ? HA_REASON_TICKET_OPEN : HA_REASON_NONE;
}

static void effect_node_remove(struct ha_state *state, const struct log_entry *entry,
                               const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_find(state, cmd->node);
    size_t behind = (size_t)(&state->nodes[state->node_count] - (node + 1));

    (void)entry;
    memmove(node, node + 1, behind * sizeof(*node));
    state->node_count--;
    memset(&state->nodes[state->node_count], 0, sizeof(*node));
}

/* --- ARMED, UNARMED --- */

static uint16_t check_armed(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, false);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_node *node = ha_state_node(state, cmd->node);
    if (cmd->u.armed.lease_ms == 0 || cmd->u.armed.watchdog_ms == 0)
        return HA_REASON_BAD_VALUE;
    if (node->status != HA_NODE_MEMBER)
        return HA_REASON_NOT_MEMBER;
    if (state->is_disarmed)
        return HA_REASON_DISARMED;
    if (node->is_frozen)
        return HA_REASON_FROZEN;
    /* Proposed before, applied after the keeper was allowed to stop: proves nothing any more. */
    if (cmd->epoch < node->unarmed_index)
        return HA_REASON_STALE_KEEPER;
    if (node->is_armed && cmd->u.armed.lease_ms <= node->lease_ms &&
        cmd->u.armed.watchdog_ms <= node->watchdog_ms)
        return HA_REASON_ALREADY;
    return HA_REASON_NONE;
}

/* L and W only grow within one boot: a lease taken under a longer L may still run when a restarted
 * hamgrd reports a shorter one, and T_wait must cover it. */
static void effect_armed(struct ha_state *state, const struct log_entry *entry,
                         const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_find(state, cmd->node);

    (void)entry;
    node->is_armed = true;
    if (cmd->u.armed.lease_ms > node->lease_ms)
        node->lease_ms = cmd->u.armed.lease_ms;
    if (cmd->u.armed.watchdog_ms > node->watchdog_ms)
        node->watchdog_ms = cmd->u.armed.watchdog_ms;
}

static uint16_t check_unarmed(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, false);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_node *node = ha_state_node(state, cmd->node);
    if (node->status != HA_NODE_MEMBER)
        return HA_REASON_NOT_MEMBER;
    return node->is_armed ? HA_REASON_NONE : HA_REASON_ALREADY;
}

static void disarm_node(struct ha_node *node, const struct log_entry *entry)
{
    node->is_armed = false;
    node->unarmed_index = entry->index;
}

static void effect_unarmed(struct ha_state *state, const struct log_entry *entry,
                           const struct ha_cmd *cmd)
{
    disarm_node(state_node_find(state, cmd->node), entry);
}

/* --- FENCED, FENCE_WANT --- */

static uint16_t check_evidence(const struct ha_node *node, uint8_t evidence)
{
    switch (evidence) {
    case HA_EVIDENCE_AGENT:
    case HA_EVIDENCE_OPERATOR:
        return HA_REASON_NONE;
    case HA_EVIDENCE_LEASE:
        if (node->is_frozen)
            return HA_REASON_FROZEN;
        return node->is_armed ? HA_REASON_NONE : HA_REASON_NOT_ARMED;
    default:
        /* A reboot is evidence only as an OPEN shows it, with store and hardware compared. */
        return HA_REASON_BAD_VALUE;
    }
}

static uint16_t check_fenced(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, false);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_node *node = ha_state_node(state, cmd->node);
    if (node->status != HA_NODE_UNCLEAN)
        return HA_REASON_NOT_UNCLEAN;
    if (state->is_disarmed)
        return HA_REASON_DISARMED;
    return check_evidence(node, cmd->u.fenced.evidence);
}

static void effect_fenced(struct ha_state *state, const struct log_entry *entry,
                          const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_find(state, cmd->node);

    state_release(state, entry, node->id);
    state_node_set_status(node, entry, HA_NODE_FENCED);
    disarm_node(node, entry);
    node->is_fence_wanted = false;
    node->is_hold = false;
    node->evidence = cmd->u.fenced.evidence;
    memcpy(node->evidence_detail, cmd->u.fenced.detail, sizeof(node->evidence_detail));
}

static uint16_t check_fence_want(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, false);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_node *node = ha_state_node(state, cmd->node);
    if (node->status != HA_NODE_MEMBER && node->status != HA_NODE_UNCLEAN)
        return HA_REASON_NOT_MEMBER;
    if (state->is_disarmed)
        return HA_REASON_DISARMED;
    return node->is_fence_wanted ? HA_REASON_ALREADY : HA_REASON_NONE;
}

static void effect_fence_want(struct ha_state *state, const struct log_entry *entry,
                              const struct ha_cmd *cmd)
{
    (void)entry;
    state_node_find(state, cmd->node)->is_fence_wanted = true;
}

/* --- LEAVE, FREEZE, UNFREEZE --- */

static uint16_t check_leave(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, false);

    if (reason != HA_REASON_NONE)
        return reason;
    if (ha_state_node(state, cmd->node)->status != HA_NODE_MEMBER)
        return HA_REASON_NOT_MEMBER;
    if (state_node_is_ticket_end(state, cmd->node))
        return HA_REASON_TICKET_OPEN;
    return state_node_is_owner(state, cmd->node) ? HA_REASON_OWNS_GUESTS : HA_REASON_NONE;
}

static void effect_leave(struct ha_state *state, const struct log_entry *entry,
                         const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_find(state, cmd->node);

    state_node_set_status(node, entry, HA_NODE_LEFT);
    disarm_node(node, entry);
    node->is_fence_wanted = false;
}

/* Only a member applies it before its keeper stops; freezing an absent one would just forbid the
 * evidence that its guests wait for. */
static uint16_t check_freeze(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, true);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_node *node = ha_state_node(state, cmd->node);
    if (node->status != HA_NODE_MEMBER)
        return HA_REASON_NOT_MEMBER;
    return node->is_frozen ? HA_REASON_ALREADY : HA_REASON_NONE;
}

static void effect_freeze(struct ha_state *state, const struct log_entry *entry,
                          const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_find(state, cmd->node);

    node->is_frozen = true;
    disarm_node(node, entry);
}

static uint16_t check_unfreeze(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, true);

    if (reason != HA_REASON_NONE)
        return reason;
    return ha_state_node(state, cmd->node)->is_frozen ? HA_REASON_NONE : HA_REASON_ALREADY;
}

static void effect_unfreeze(struct ha_state *state, const struct log_entry *entry,
                            const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_find(state, cmd->node);

    node->is_frozen = false;
    disarm_node(node, entry);
}

/* --- DISARM, ARM --- */

static uint16_t check_disarm(const struct ha_state *state, const struct ha_cmd *cmd)
{
    (void)cmd;
    return state->is_disarmed ? HA_REASON_ALREADY : HA_REASON_NONE;
}

/* Also takes back wishes to fence: an ARM weeks later must not carry out a forgotten one. */
static void effect_disarm(struct ha_state *state, const struct log_entry *entry,
                          const struct ha_cmd *cmd)
{
    (void)cmd;
    state->is_disarmed = true;
    for (uint32_t i = 0; i < state->node_count; i++) {
        disarm_node(&state->nodes[i], entry);
        state->nodes[i].is_fence_wanted = false;
    }
}

static uint16_t check_arm(const struct ha_state *state, const struct ha_cmd *cmd)
{
    (void)cmd;
    return state->is_disarmed ? HA_REASON_NONE : HA_REASON_ALREADY;
}

static void effect_arm(struct ha_state *state, const struct log_entry *entry,
                       const struct ha_cmd *cmd)
{
    (void)cmd;
    state->is_disarmed = false;
    for (uint32_t i = 0; i < state->node_count; i++)
        disarm_node(&state->nodes[i], entry);
}

/* --- MAINTENANCE, CAPACITY --- */

static uint16_t check_maintenance(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, true);

    if (reason != HA_REASON_NONE)
        return reason;
    if (ha_state_node(state, cmd->node)->is_maintenance == cmd->u.maintenance.is_on)
        return HA_REASON_ALREADY;
    return HA_REASON_NONE;
}

static void effect_maintenance(struct ha_state *state, const struct log_entry *entry,
                               const struct ha_cmd *cmd)
{
    (void)entry;
    state_node_find(state, cmd->node)->is_maintenance = cmd->u.maintenance.is_on;
}

static uint16_t check_capacity(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = state_check_incarnation(state, cmd, true);

    if (reason != HA_REASON_NONE)
        return reason;
    if (cmd->u.capacity.mem_kib > STATE_MEM_MAX_KIB)
        return HA_REASON_BAD_VALUE;
    if (ha_state_node(state, cmd->node)->mem_kib == cmd->u.capacity.mem_kib)
        return HA_REASON_ALREADY;
    return HA_REASON_NONE;
}

static void effect_capacity(struct ha_state *state, const struct log_entry *entry,
                            const struct ha_cmd *cmd)
{
    struct ha_node *node = state_node_find(state, cmd->node);

    (void)entry;
    node->mem_kib = cmd->u.capacity.mem_kib;
    node->is_mem_short = ha_state_mem_used_kib(state, node->id) > node->mem_kib;
}

const struct state_rule *state_node_rule(uint8_t type)
{
    static const struct state_rule rules[] = {
        [HA_CMD_INIT] = {check_init, effect_init},
        [HA_CMD_NODE_ADD] = {check_node_add, effect_node_add},
        [HA_CMD_NODE_REMOVE] = {check_node_remove, effect_node_remove},
        [HA_CMD_ARMED] = {check_armed, effect_armed},
        [HA_CMD_UNARMED] = {check_unarmed, effect_unarmed},
        [HA_CMD_FENCED] = {check_fenced, effect_fenced},
        [HA_CMD_LEAVE] = {check_leave, effect_leave},
        [HA_CMD_FREEZE] = {check_freeze, effect_freeze},
        [HA_CMD_UNFREEZE] = {check_unfreeze, effect_unfreeze},
        [HA_CMD_DISARM] = {check_disarm, effect_disarm},
        [HA_CMD_ARM] = {check_arm, effect_arm},
        [HA_CMD_MAINTENANCE] = {check_maintenance, effect_maintenance},
        [HA_CMD_CAPACITY] = {check_capacity, effect_capacity},
        [HA_CMD_FENCE_WANT] = {check_fence_want, effect_fence_want},
    };

    if (type >= sizeof(rules) / sizeof(rules[0]) || !rules[type].check)
        return NULL;
    return &rules[type];
}
