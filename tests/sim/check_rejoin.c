/* SPDX-License-Identifier: Apache-2.0
 *
 * I10: whoever comes (back) into the cluster, as a new process or after it was left out, first
 * applies the OPEN that names it and lists what is there; only then does it order anything of its
 * hypervisor. Orders that harm nobody (pause, abort, throttle, promises of memory) are free; what
 * ends a copy (strays, a stop that the log asks for) is settling itself and needs no new listing.
 */
#include <string.h>

#include "tests/sim/sim.h"

static struct {
    uint64_t incarnation;
    uint64_t open_index; /* of the OPEN that took it in; 0 none since its process began */
    uint64_t list_id;    /* the first LIST it sent behind that; 0 none */
    bool is_settled;     /* that was answered */
} rejoin[SIM_NODES + 1];

void sim_check_rejoin_reset(void)
{
    memset(rejoin, 0, sizeof(rejoin));
}

static void begin(uint32_t node, uint64_t open_index)
{
    rejoin[node].open_index = open_index;
    rejoin[node].list_id = 0;
    rejoin[node].is_settled = false;
}

void sim_check_rejoin_started(const struct sim_node *node)
{
    begin(node->id, 0);
    if (sim_has_plant("acts-at-once"))
        sim_check_rejoin_asks(node, HVP_RUN, 0);
}

/* The truth has just applied an OPEN. */
void sim_check_rejoin_opened(void)
{
    const struct ha_state *state = sim_truth();

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *n = &state->nodes[i];
        if (n->status != HA_NODE_MEMBER || n->incarnation == rejoin[n->id].incarnation)
            continue;
        rejoin[n->id].incarnation = n->incarnation;
        begin(n->id, state->applied);
    }
}

static bool is_order(uint16_t type)
{
    switch (type) {
    case HVP_CREATE:
    case HVP_RUN:
    case HVP_SHUTDOWN:
    case HVP_DESTROY:
    case HVP_SAVE:
    case HVP_RESTORE:
    case HVP_RESUME_PREPARE:
        return true;
    default:
        return false;
    }
}

void sim_check_rejoin_asks(const struct sim_node *node, uint16_t type, uint64_t id)
{
    uint32_t n = node->id;
    bool has_applied =
        rejoin[n].open_index > 0 && node->d && node->d->state.applied >= rejoin[n].open_index;

    if (type == HVP_LIST && has_applied && rejoin[n].list_id == 0)
        rejoin[n].list_id = id;
    bool is_end = type == HVP_DESTROY || type == HVP_SHUTDOWN;
    if (!is_order(type) || rejoin[n].is_settled || (is_end && has_applied))
        return;
    sim_violation("I10", n, "orders %u of its hypervisor before it %s", type,
                  has_applied ? "knows what is there" : "applied the OPEN that names it");
}

void sim_check_rejoin_hears(const struct sim_node *node, uint16_t type, uint64_t id)
{
    uint32_t n = node->id;

    if (type == HVP_DOMAINS && rejoin[n].list_id > 0 && id >= rejoin[n].list_id)
        rejoin[n].is_settled = true;
}
