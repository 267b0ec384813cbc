/* SPDX-License-Identifier: Apache-2.0
 *
 * Another machine under a node's id (H28): its disk is put into a spare one, and the old one, with
 * no hamgrd any more and no cable to the others, runs its guests on until its lease ends and
 * hamgr-hv pauses them. Both hang on the outlet that the fence devices switch.
 */
#include <string.h>

#include "tests/sim/sim.h"

#define PAUSE_NS (250 * NS_MS) /* P */

static struct {
    uint32_t id, count; /* of the node; 0: there is no such machine */
    uint64_t until;
    struct ha_uuid guests[SIM_DOMAINS];
    uint32_t swaps;
} old;

void sim_machine_reset(void)
{
    memset(&old, 0, sizeof(old));
}

void sim_machine_off(const struct sim_node *node)
{
    if (old.id == node->id)
        old.id = 0;
}

bool sim_machine_runs(uint32_t id, struct ha_uuid guest)
{
    if (old.id == 0 || (id != 0 && id != old.id) || sim.now >= old.until)
        return false;
    for (uint32_t i = 0; i < old.count; i++) {
        if (ha_uuid_is_zero(guest) || ha_uuid_equal(old.guests[i], guest))
            return true;
    }
    return false;
}

/* Every node is the machine that the state knows: of two that it refuses an operator has to free
 * one after the other, and a cluster of two has no other node that could go on meanwhile. */
static bool is_nobody_strange(void)
{
    const struct ha_state *state = sim_truth();

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *n = &state->nodes[i];
        if (!ha_uuid_is_zero(n->hw_id) && !ha_uuid_equal(n->hw_id, sim_node(n->id)->hw_id))
            return false;
    }
    return sim.node_count > 2;
}

/* In good order but for what happens now: then it pauses its guests in time by itself. */
static bool is_sound(const struct sim_node *node)
{
    return node->has_power && !sim_slept_lately(node) && sim_is_up(node, SIM_HV) &&
           sim_is_up(node, SIM_KEEPER) && node->procs[SIM_HV].state == SIM_RUNS &&
           node->procs[SIM_KEEPER].state == SIM_RUNS && node->storage_stuck_until <= sim.now &&
           node->watchdog.is_armed && node->keeper.state != KEEPER_DISARMED &&
           !node->gate_hello.is_disarmed && !node->gate_hello.is_frozen &&
           node->page.lease_end_ns > sim_raw_ns(node);
}

static void on_boot(void *data, uint64_t boots)
{
    struct sim_node *node = data;

    if (node->boots == boots)
        sim_power_on(node);
}

void sim_machine_swap(struct sim_node *node, uint64_t boots_in_ns)
{
    if ((old.id && sim.now < old.until) || !is_nobody_strange() || !is_sound(node))
        return;
    uint64_t left_ns = node->page.lease_end_ns - sim_raw_ns(node);
    old.until = sim.now + sim_span(node, left_ns) + PAUSE_NS;
    old.count = 0;
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        if (sim_is_runnable(&node->domains[i]))
            old.guests[old.count++] = node->domains[i].d.label.guest;
    }
    sim_power_off(node, "its disk is put into another machine, and the old one runs on");
    old.id = node->id;
    memset(node->in_flight, 0, sizeof(node->in_flight)); /* they do not die */
    node->hw_id = sim_uuid(6, 1000u * ++old.swaps + node->id);
    sim_after(boots_in_ns, NULL, on_boot, node, node->boots);
}
