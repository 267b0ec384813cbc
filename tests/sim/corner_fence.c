/* SPDX-License-Identifier: Apache-2.0
 *
 * Corners of fencing: devices that refuse everything at once, or from which no answer ever comes,
 * while a host that owns guests is lost; a leader that is cut off while it fences, and whom it
 * fences is back among the others meanwhile; hosts that are lost while the cluster is disarmed; and
 * daemons that come back with a state from when it was.
 */
#include "tests/sim/corner.h"

#define KINDS 4u

static struct {
    struct ha_rng rng;
    bool is_on;
    uint32_t kinds; /* bits of those that this seed has */
    enum sim_devices devices;
    uint64_t until;
} fence;

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&fence.rng, bound);
}

static uint64_t ms_between(uint64_t low, uint64_t high)
{
    return (low + below(high - low + 1)) * NS_MS;
}

enum sim_devices sim_corner_devices(void)
{
    return sim.now < fence.until && !sim.is_healing ? fence.devices : SIM_DEVICES_WORK;
}

void sim_corner_break_devices(uint64_t span)
{
    fence.devices = below(3) > 0 ? SIM_DEVICES_REFUSE : SIM_DEVICES_SILENT;
    fence.until = sim.now + span;
}

/* ---- a leader that fences and is cut off -------------------------------------------------------
 */

static void on_leader_cut_off(void *data, uint64_t span)
{
    struct sim_node *leader = sim_corner_leader(data);

    if (sim.is_healing || !leader)
        return;
    sim_trace(leader->id, "the leader is cut off while it fences n%u",
              ((struct sim_node *)data)->id);
    sim_faults_isolate(leader, span);
}

static void on_fencers_hang(void *data, uint64_t span)
{
    const struct sim_node *leader = sim_corner_leader(data);

    for (uint32_t id = 1; id <= sim.node_count && !sim.is_healing; id++) {
        if (!leader || id != leader->id)
            sim_faults_stop(sim_node(id), SIM_FENCER, span);
    }
}

/* Who is fenced is mended when its leader is cut off: the others take it back. */
static void overtake(struct sim_node *victim)
{
    uint64_t then = below(2) ? ms_between(2000, 8000) : T_WAIT_MS * NS_MS - ms_between(0, 5000);

    sim_trace(victim->id, "is cut off until its leader is");
    sim_corner_break_devices(then + 2 * NS_S);
    sim_faults_isolate(victim, then + (below(3) == 0 ? ms_between(1000, 9000) : 0));
    sim_after(then, NULL, on_leader_cut_off, victim, ms_between(7000, 20000));
    if (below(2))
        sim_after(ms_between(500, 3500), NULL, on_fencers_hang, victim,
                  then + ms_between(6000, 14000));
}

static void lose_without_devices(struct sim_node *victim)
{
    uint64_t span = ms_between(14000, 20000);

    sim_trace(victim->id, "is lost, and no fence device answers");
    sim_corner_break_devices(span);
    if (below(4) == 0)
        sim_power_off(victim, "somebody pulled the plug");
    else
        sim_faults_isolate(victim, span);
}

/* ---- disarmed ----------------------------------------------------------------------------------
 */

static void on_cluster_cmd(void *data, uint64_t type)
{
    struct sim_node *at = sim_operator_node(below(sim.node_count));

    (void)data;
    if (at && !sim.is_healing)
        sim_operator_node_cmd(at, NULL, (uint8_t)type, true);
}

static void on_lost(void *data, uint64_t span)
{
    if (sim.is_healing)
        return;
    if (below(2))
        sim_power_off(data, "somebody pulled the plug while disarmed");
    else
        sim_faults_isolate(data, span);
}

static void lose_disarmed(struct sim_node *victim)
{
    on_cluster_cmd(NULL, HA_CMD_DISARM);
    sim_after(ms_between(300, 5000), NULL, on_lost, victim, ms_between(8000, 20000));
    sim_after(ms_between(12000, 25000), NULL, on_cluster_cmd, NULL, HA_CMD_ARM);
}

static void on_maintenance(void *data, uint64_t is_on)
{
    struct sim_node *at = sim_operator_node(below(sim.node_count));

    if (at && !sim.is_healing)
        sim_operator_node_cmd(at, data, HA_CMD_MAINTENANCE, is_on != 0);
}

/* Snapshots are taken while disarmed, and daemons come back with them when it is armed again. */
static void restart_with_old_state(struct sim_node *victim)
{
    on_cluster_cmd(NULL, HA_CMD_DISARM);
    for (uint32_t i = 0; i < 24; i++)
        sim_after((500 + 100 * i) * NS_MS, NULL, on_maintenance, victim, i % 2 == 0);
    sim_after(3500 * NS_MS, NULL, on_cluster_cmd, NULL, HA_CMD_ARM);
    for (uint32_t id = 1; id <= sim.node_count; id++)
        sim_after(ms_between(4500, 9000), NULL, sim_corner_on_restart, sim_node(id),
                  ms_between(50, 1500));
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static void on_corner(void *data, uint64_t arg)
{
    static void (*const acts[KINDS])(struct sim_node *) = {overtake, lose_without_devices,
                                                           lose_disarmed, restart_with_old_state};
    uint32_t kind = (uint32_t)below(KINDS);
    struct sim_node *victim = sim_corner_owner(below(sim.node_count));

    (void)data;
    (void)arg;
    if (!sim_corner_has_time(60 * NS_S))
        return;
    while (!(fence.kinds >> kind & 1))
        kind = (kind + 1) % KINDS;
    bool is_taken = victim && sim_corner_take(30 * NS_S);
    if (is_taken && sim_faults_extra(SIM_F_CORNER))
        acts[kind](victim);
    sim_after(is_taken ? ms_between(31000, 50000) : 3 * NS_S, NULL, on_corner, NULL, 0);
}

void sim_corner_fence_begin(bool is_on)
{
    fence.rng.state = sim.options.seed * UINT64_C(0x8cb92ba72f3d8dd7) + 11;
    fence.is_on = is_on;
    fence.devices = SIM_DEVICES_WORK;
    fence.until = 0;
    if (!is_on)
        return;
    fence.kinds = 1u << below(KINDS) | 1u << below(KINDS);
    if (sim.node_count >= 3)
        sim_after(ms_between(10000, 30000), NULL, on_corner, NULL, 0);
}
