/* SPDX-License-Identifier: Apache-2.0
 *
 * The replicated state: tables, queries, and the way from an entry to its rule. The rules are in
 * state_node.c, state_guest.c and state_move.c; OPEN and VOTER in state_open.c.
 */
#include "hamgr/core/state.h"

#include <string.h>

#include "hamgr/base/assert.h"
#include "hamgr/base/err.h"
#include "hamgr/core/state_internal.h"

void ha_state_init(struct ha_state *state, struct ha_guest *memory, uint32_t guest_capacity)
{
    ha_assert(memory);
    ha_assert(guest_capacity >= 1 && guest_capacity <= HA_GUESTS_MAX);
    memset(state, 0, sizeof(*state));
    state->guests = memory;
    state->guest_capacity = guest_capacity;
}

static const struct state_rule *rule_of(uint8_t type)
{
    const struct state_rule *rule = state_node_rule(type);

    if (!rule)
        rule = state_guest_rule(type);
    return rule ? rule : state_move_rule(type);
}

uint16_t ha_state_check(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct state_rule *rule = rule_of(cmd->type);

    return rule ? rule->check(state, cmd) : HA_REASON_BAD_VALUE;
}

static int apply_command(struct ha_state *state, const struct log_entry *entry,
                         struct ha_applied *applied)
{
    int rc = ha_cmd_decode(entry->body, entry->body_size, &applied->cmd);

    if (rc < 0)
        return rc;
    if (entry->kind == LOG_KIND_INIT && applied->cmd.type != HA_CMD_INIT)
        return -HA_E_CORRUPT;
    applied->refusal = ha_state_check(state, &applied->cmd);
    /* A cluster that begins with nonsense is no cluster. */
    if (entry->index == 1 && applied->refusal != HA_REASON_NONE)
        return -HA_E_CORRUPT;
    if (applied->refusal == HA_REASON_NONE)
        rule_of(applied->cmd.type)->effect(state, entry, &applied->cmd);
    applied->is_noop = applied->refusal != HA_REASON_NONE;
    return 0;
}

static int apply_kind(struct ha_state *state, const struct log_entry *entry,
                      struct ha_applied *applied)
{
    int rc;

    if (entry->index == 1 && entry->kind != LOG_KIND_INIT)
        return -HA_E_CORRUPT;
    switch (entry->kind) {
    case LOG_KIND_INIT:
    case LOG_KIND_STATE:
        return apply_command(state, entry, applied);
    case LOG_KIND_OPEN:
        /* A refusal here is a remark: one member was not readmitted, the view is open all the
         * same. */
        return state_apply_open(state, entry, &applied->refusal);
    case LOG_KIND_VOTER:
        rc = state_apply_voter(state, entry, &applied->refusal);
        applied->is_noop = applied->refusal != HA_REASON_NONE;
        return rc;
    default:
        return -HA_E_VERSION;
    }
}

int ha_state_apply(struct ha_state *state, const struct log_entry *entry,
                   struct ha_applied *ret_applied)
{
    ha_assert(entry->index == state->applied + 1);
    ha_assert(entry->body || entry->body_size == 0);
    memset(ret_applied, 0, sizeof(*ret_applied));
    ret_applied->kind = entry->kind;
    int rc = apply_kind(state, entry, ret_applied);
    if (rc < 0)
        return rc;
    state->applied = entry->index;
    state->digest = entry->digest;
    return 0;
}

/* Position of id, or where it belongs: the first node not below it. */
static uint32_t node_position(const struct ha_state *state, uint32_t id)
{
    uint32_t position = 0;

    while (position < state->node_count && state->nodes[position].id < id)
        position++;
    return position;
}

const struct ha_node *ha_state_node(const struct ha_state *state, uint32_t id)
{
    uint32_t position = node_position(state, id);

    if (position == state->node_count || state->nodes[position].id != id)
        return NULL;
    return &state->nodes[position];
}

struct ha_node *state_node_find(struct ha_state *state, uint32_t id)
{
    uint32_t position = node_position(state, id);

    if (position == state->node_count || state->nodes[position].id != id)
        return NULL;
    return &state->nodes[position];
}

struct ha_node *state_node_insert(struct ha_state *state, uint32_t id)
{
    uint32_t position = node_position(state, id);
    uint32_t behind = state->node_count - position;

    if (state->node_count == HA_NODES_MAX || state_node_find(state, id))
        return NULL;
    memmove(&state->nodes[position + 1], &state->nodes[position], behind * sizeof(state->nodes[0]));
    memset(&state->nodes[position], 0, sizeof(state->nodes[0]));
    state->nodes[position].id = id;
    state->node_count++;
    return &state->nodes[position];
}

const struct ha_node *ha_state_node_by_name(const struct ha_state *state, const char *name)
{
    for (uint32_t i = 0; i < state->node_count; i++) {
        if (strcmp(state->nodes[i].name, name) == 0)
            return &state->nodes[i];
    }
    return NULL;
}

/* Index of the first guest not below id. */
static uint32_t guest_position(const struct ha_state *state, struct ha_uuid id)
{
    uint32_t low = 0;
    uint32_t high = state->guest_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ha_uuid_cmp(state->guests[middle].id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct ha_guest *ha_state_guest(const struct ha_state *state, struct ha_uuid id)
{
    uint32_t position = guest_position(state, id);

    if (position == state->guest_count || !ha_uuid_equal(state->guests[position].id, id))
        return NULL;
    return &state->guests[position];
}

struct ha_guest *state_guest_find(struct ha_state *state, struct ha_uuid id)
{
    uint32_t position = guest_position(state, id);

    if (position == state->guest_count || !ha_uuid_equal(state->guests[position].id, id))
        return NULL;
    return &state->guests[position];
}

const struct ha_guest *ha_state_guest_by_name(const struct ha_state *state, const char *name)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        if (strcmp(state->guests[i].name, name) == 0)
            return &state->guests[i];
    }
    return NULL;
}

/* True if the node holds memory for the guest: as owner or as the other end of its ticket. */
static bool is_promised(const struct ha_guest *guest, uint32_t node)
{
    if (guest->phase == HA_PHASE_FREE)
        return false;
    if (guest->node == node)
        return true;
    if (guest->ticket.id == 0)
        return false;
    return guest->ticket.dst == node ||
           (guest->ticket.src == node && guest->ticket.src_incarnation != 0);
}

uint64_t ha_state_mem_used_kib(const struct ha_state *state, uint32_t node)
{
    uint64_t used_kib = 0;

    for (uint32_t i = 0; i < state->guest_count; i++) {
        if (is_promised(&state->guests[i], node))
            used_kib += state->guests[i].mem_kib;
    }
    return used_kib;
}

uint16_t state_check_memory(const struct ha_state *state, const struct ha_node *node,
                            uint64_t mem_kib)
{
    uint64_t used_kib = ha_state_mem_used_kib(state, node->id);

    if (used_kib > node->mem_kib || node->mem_kib - used_kib < mem_kib)
        return HA_REASON_NO_MEMORY;
    return HA_REASON_NONE;
}

static uint16_t eligibility(const struct ha_state *state, const struct ha_node *node)
{
    if (node->status != HA_NODE_MEMBER)
        return HA_REASON_NOT_MEMBER;
    if (node->is_witness)
        return HA_REASON_WITNESS;
    if (node->is_frozen)
        return HA_REASON_FROZEN;
    if (node->is_maintenance)
        return HA_REASON_MAINTENANCE;
    if (!node->is_armed && !state->is_disarmed)
        return HA_REASON_NOT_ARMED;
    return HA_REASON_NONE;
}

bool ha_state_node_is_eligible(const struct ha_state *state, const struct ha_node *node,
                               uint16_t *ret_reason)
{
    uint16_t reason = eligibility(state, node);

    if (ret_reason)
        *ret_reason = reason;
    return reason == HA_REASON_NONE;
}

bool state_node_is_owner(const struct ha_state *state, uint32_t node)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        if (state->guests[i].phase != HA_PHASE_FREE && state->guests[i].node == node)
            return true;
    }
    return false;
}

bool state_node_is_ticket_end(const struct ha_state *state, uint32_t node)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        if (state->guests[i].ticket.id != 0 && is_promised(&state->guests[i], node))
            return true;
    }
    return false;
}

const char *ha_phase_name(uint8_t phase)
{
    static const char *const names[HA_PHASE_COUNT] = {
        "free", "assigned", "running", "stopping", "migrating", "switched",
    };

    return phase < HA_PHASE_COUNT ? names[phase] : "?";
}

const char *ha_node_status_name(uint8_t status)
{
    static const char *const names[] = {"new", "member", "unclean", "fenced", "left"};

    return status < sizeof(names) / sizeof(names[0]) ? names[status] : "?";
}
