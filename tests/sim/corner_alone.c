/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeds in which nothing goes wrong by chance: one story after the other, each of a few things that
 * must come together while all else is well for as long as its rule needs to be seen. A worker of a
 * migration hangs, and nothing else ends it; a leader's host sleeps between two tries to fence, and
 * who was absent is back when it wakes; the keeper reads its order to stop only when the node is
 * back from another view, and armed.
 */
#include "tests/sim/corner.h"

#define KINDS 3u
#define CLASS 128u /* one of so many seeds with three nodes, and one with five */

static struct ha_rng rng;

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&rng, bound);
}

static uint64_t ms_between(uint64_t low, uint64_t high)
{
    return (low + below(high - low + 1)) * NS_MS;
}

bool sim_corner_is_alone(void)
{
    uint64_t rest = sim.options.seed % CLASS;

    return sim.options.has_corners && (rest == 73 || rest == 75) && !sim.options.is_gentle &&
           !sim.options.fault_mask && !sim_script_is_on() && !sim_matrix_is_on();
}

/* ---- a migration -------------------------------------------------------------------------------
 */

static void on_moves_hang(void *data, uint64_t arg)
{
    (void)arg;
    if (!sim.is_healing)
        sim_host_hang_moves(data);
}

/* Somewhere between its connections and its last page, at one end or both. */
static void on_moving(void *data, uint64_t ends)
{
    const struct ha_state *truth = sim_truth();

    (void)data;
    for (uint32_t i = 0; i < truth->guest_count; i++) {
        const struct ha_guest *guest = &truth->guests[i];
        if (guest->phase != HA_PHASE_MIGRATING)
            continue;
        sim_trace(guest->ticket.src, "a worker of its migration hangs");
        for (uint32_t n = 0; n < 10; n++) { /* whenever it begins */
            uint64_t ns = n * 150 * NS_MS;
            if (ends != 1)
                sim_after(ns, NULL, on_moves_hang, sim_node(guest->ticket.src), 0);
            if (ends != 0)
                sim_after(ns, NULL, on_moves_hang, sim_node(guest->ticket.dst), 0);
        }
        return;
    }
}

static void hang_move(struct sim_node *owner)
{
    (void)owner;
    sim_operator_migrate(ha_rng_next(&rng));
    sim_after(ms_between(50, 2000), NULL, on_moving, NULL, below(3));
}

/* ---- an order to fence -------------------------------------------------------------------------
 */

static void on_sleep(void *data, uint64_t draw)
{
    if (!sim.is_healing)
        sim_sleep(data, draw | 1); /* for nearly as long as can be covered */
}

/* No device does what it is asked, so the leader tries again and again, later each time. */
static void sleep_over_order(struct sim_node *victim)
{
    struct sim_node *leader = sim_corner_leader(victim);
    uint64_t span = ms_between(2800, 9500);

    if (!leader)
        return;
    sim_trace(victim->id, "is cut off until its leader's host is suspended");
    sim_corner_break_devices(40 * NS_S);
    sim_faults_isolate(victim, span);
    sim_after(span - ms_between(0, 800), NULL, on_sleep, leader, ha_rng_next(&rng));
}

/* ---- an order to the keeper --------------------------------------------------------------------
 */

static void on_isolate(void *data, uint64_t span)
{
    if (!sim.is_healing)
        sim_faults_isolate(data, span);
}

/* At another node than that one. */
static void on_cluster_cmd(void *data, uint64_t type)
{
    const struct sim_node *victim = data;
    struct sim_node *at = sim_node(1 + victim->id % sim.node_count);

    if (!sim.is_healing)
        sim_operator_node_cmd(at, NULL, (uint8_t)type, true);
}

/* For less than the watchdog's time. */
static void on_keeper_hangs(void *data, uint64_t spare)
{
    struct sim_node *node = data;
    uint64_t most = node->keeper_watchdog_ms * NS_MS;

    if (!sim.is_healing && most > spare)
        sim_faults_stop(node, SIM_KEEPER, most - spare);
}

/* DISARM and ARM, and the keeper finds the first one's order behind the second. Meanwhile its node
 * drops out of a view and is back. */
static void stop_late(struct sim_node *victim)
{
    uint64_t begin = 300 * NS_MS;

    sim_trace(victim->id, "its keeper hangs as DISARM comes, and it drops out before ARM");
    sim_corner_break_devices(20 * NS_S);
    sim_after(begin - ms_between(0, 150), NULL, on_keeper_hangs, victim, ms_between(300, 1500));
    sim_after(begin, NULL, on_cluster_cmd, victim, HA_CMD_DISARM);
    sim_after(begin + ms_between(20, 300), NULL, on_isolate, victim, ms_between(1200, 2600));
    for (uint32_t i = 0; i < 12; i++) /* until it is heard */
        sim_after(begin + ms_between(300, 600) + i * 500 * NS_MS, NULL, on_cluster_cmd, victim,
                  HA_CMD_ARM);
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static void on_corner(void *data, uint64_t arg)
{
    static void (*const acts[KINDS])(struct sim_node *) = {hang_move, sleep_over_order, stop_late};
    struct sim_node *owner = sim_corner_owner(below(sim.node_count));
    char why[160];

    (void)data;
    (void)arg;
    if (sim.is_healing || sim.now + 60 * NS_S > sim.heal_at)
        return;
    bool is_due = owner && sim_is_settled(why, sizeof(why));
    if (is_due && sim_faults_extra(SIM_F_CORNER))
        acts[below(KINDS)](owner);
    sim_after(is_due ? ms_between(45000, 60000) : NS_S, NULL, on_corner, NULL, 0);
}

void sim_corner_alone_begin(void)
{
    rng.state = sim.options.seed * UINT64_C(0x8cb92ba72f3d8dd7) + 23;
    if (sim_corner_is_alone() && sim.node_count >= 3)
        sim_after(ms_between(10000, 15000), NULL, on_corner, NULL, 0);
}
