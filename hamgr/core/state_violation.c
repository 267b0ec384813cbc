/* SPDX-License-Identifier: Apache-2.0
 *
 * The invariants that replicated facts alone can show (I4, I6, I14 of the design) and the
 * consistency of the tables. One pass over nodes and guests; run after every entry in tests and
 * simulations, and on every snapshot that is read.
 */
#include <string.h>

#include "hamgr/core/state_internal.h"

/* An incarnation that may run something: only these may own guests or hold copies. */
static bool is_live(const struct ha_node *node)
{
    return node->status == HA_NODE_MEMBER || node->status == HA_NODE_UNCLEAN;
}

static const char *violation_of_node(const struct ha_state *state, const struct ha_node *node)
{
    if (node->id == 0)
        return "a node has the id 0";
    if (node->incarnation > state->incarnation_high)
        return "a node's incarnation is above the highest ever given";
    if (node->status > HA_NODE_LEFT)
        return "a node has an unknown status";
    if ((node->status == HA_NODE_NEW) != (node->incarnation == 0))
        return "a node joined without an incarnation, or has one without having joined";
    if (node->is_armed && (!is_live(node) || node->is_frozen || state->is_disarmed))
        return "I6: a node counts as armed although its keeper may be off";
    if (node->is_armed && (node->lease_ms == 0 || node->watchdog_ms == 0))
        return "I6: a node is armed without lease or watchdog time";
    if (node->is_hold && node->status != HA_NODE_UNCLEAN)
        return "a node that is not UNCLEAN is held";
    if (node->is_fence_wanted && !is_live(node))
        return "a node is to be fenced that is gone";
    if (node->status_index > state->applied || node->unarmed_index > state->applied)
        return "a node was changed by an entry not yet applied";
    return NULL;
}

static const char *violation_of_nodes(const struct ha_state *state)
{
    if (state->node_count > HA_NODES_MAX)
        return "there are too many nodes";
    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *node = &state->nodes[i];
        const char *violation = violation_of_node(state, node);
        if (violation)
            return violation;
        if (i > 0 && state->nodes[i - 1].id >= node->id)
            return "nodes are not ascending";
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(state->nodes[j].name, node->name) == 0)
                return "two nodes have one name";
            if (node->incarnation != 0 && state->nodes[j].incarnation == node->incarnation)
                return "two nodes have one incarnation";
        }
    }
    return NULL;
}

static bool is_present(const struct ha_node *node, uint64_t incarnation)
{
    return node && is_live(node) && !node->is_witness && node->incarnation == incarnation;
}

static const char *violation_of_ends(const struct ha_state *state, const struct ha_guest *guest)
{
    const struct ha_ticket *ticket = &guest->ticket;
    bool is_source_gone = guest->phase == HA_PHASE_SWITCHED && ticket->src_incarnation == 0;

    if (ticket->id > state->applied)
        return "a ticket is from an entry not yet applied";
    if (ticket->src == ticket->dst)
        return "a ticket has one node at both ends";
    if (ticket->src_epoch >= ticket->dst_epoch || ticket->dst_epoch > guest->epoch_high)
        return "I4: a ticket's epochs do not grow";
    if (!is_present(ha_state_node(state, ticket->dst), ticket->dst_incarnation))
        return "a ticket's destination is no incarnation that may run";
    if (!is_source_gone && !is_present(ha_state_node(state, ticket->src), ticket->src_incarnation))
        return "a ticket's source is no incarnation that may run";
    return NULL;
}

static const char *violation_of_ticket(const struct ha_state *state, const struct ha_guest *guest)
{
    const struct ha_ticket *ticket = &guest->ticket;

    switch (guest->phase) {
    case HA_PHASE_MIGRATING:
        if (ticket->id == 0 || guest->node != ticket->src || guest->epoch != ticket->src_epoch)
            return "a migrating guest is not owned by its ticket's source";
        return violation_of_ends(state, guest);
    case HA_PHASE_SWITCHED:
        if (ticket->id == 0 || guest->node != ticket->dst || guest->epoch != ticket->dst_epoch)
            return "a switched guest is not owned by its ticket's destination";
        return violation_of_ends(state, guest);
    default:
        return ticket->id != 0 ? "a guest has a ticket but does not move" : NULL;
    }
}

static const char *violation_of_guest(const struct ha_state *state, const struct ha_guest *guest)
{
    if (guest->phase >= HA_PHASE_COUNT)
        return "a guest is in an unknown phase";
    if (guest->mem_kib == 0 || guest->mem_kib > STATE_MEM_MAX_KIB)
        return "a guest's memory is out of range";
    if (guest->epoch > guest->epoch_high)
        return "I4: a guest's epoch is above the highest ever reserved";
    if (guest->phase_index > state->applied)
        return "a guest was changed by an entry not yet applied";
    if ((guest->phase == HA_PHASE_STOPPING) != (guest->stop_mode != 0))
        return "a guest has a stop mode but is not stopping, or the other way round";
    if (guest->phase == HA_PHASE_FREE) {
        if (guest->node != 0 || guest->incarnation != 0)
            return "I4: a free guest has an owner";
    } else if (!is_present(ha_state_node(state, guest->node), guest->incarnation)) {
        return "I3: a guest's owner is no incarnation that may run";
    }
    return violation_of_ticket(state, guest);
}

/* Adds the guest's memory to the nodes (by position) that hold it. */
static void add_memory(const struct ha_state *state, const struct ha_guest *guest,
                       uint64_t *used_kib)
{
    const struct ha_ticket *ticket = &guest->ticket;

    for (uint32_t i = 0; i < state->node_count; i++) {
        uint32_t id = state->nodes[i].id;
        bool is_end = ticket->id != 0 &&
                      (id == ticket->dst || (id == ticket->src && ticket->src_incarnation != 0));
        if (id == guest->node || is_end)
            used_kib[i] += guest->mem_kib;
    }
}

static const char *violation_of_memory(const struct ha_state *state, const uint64_t *used_kib)
{
    for (uint32_t i = 0; i < state->node_count; i++) {
        if (used_kib[i] > state->nodes[i].mem_kib && !state->nodes[i].is_mem_short)
            return "I14: a node's memory is promised twice";
    }
    return NULL;
}

const char *ha_state_violation(const struct ha_state *state)
{
    uint64_t used_kib[HA_NODES_MAX] = {0};
    const char *violation = violation_of_nodes(state);
    uint32_t tickets = 0;

    if (violation)
        return violation;
    if (state->guest_count > state->guest_capacity)
        return "there are more guests than room";
    for (uint32_t i = 0; i < state->guest_count; i++) {
        const struct ha_guest *guest = &state->guests[i];
        violation = violation_of_guest(state, guest);
        if (violation)
            return violation;
        if (i > 0 && ha_uuid_cmp(state->guests[i - 1].id, guest->id) >= 0)
            return "guests are not ascending";
        tickets += guest->ticket.id != 0;
        if (guest->phase != HA_PHASE_FREE)
            add_memory(state, guest, used_kib);
    }
    if (tickets > HA_TICKETS_MAX)
        return "there are too many tickets";
    return violation_of_memory(state, used_kib);
}
