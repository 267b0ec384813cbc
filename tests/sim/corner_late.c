/* SPDX-License-Identifier: Apache-2.0
 *
 * Corners of words that count too late: an order to fence is found when its giver hangs and whom it
 * is about is back; a leader that was cut off says FENCED when a hamgrd with another store is in
 * that node's place; promises come long behind their PREPARE, for every disk that must answer
 * stalls.
 */
#include "tests/sim/corner.h"

#define KINDS 3u

static struct {
    struct ha_rng rng;
    uint32_t kind; /* of this seed */
} late;

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&late.rng, bound);
}

static uint64_t ms_between(uint64_t low, uint64_t high)
{
    return (low + below(high - low + 1)) * NS_MS;
}

/* ---- an order ----------------------------------------------------------------------------------
 */

/* The planner of fencing asks that one first. */
static struct sim_node *first_member(const struct sim_node *other_than)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct ha_node *node = ha_state_node(sim_truth(), id);
        if (node && node->status == HA_NODE_MEMBER && id != other_than->id)
            return sim_node(id);
    }
    return NULL;
}

static void on_fencer_hangs(void *data, uint64_t span)
{
    if (!sim.is_healing)
        sim_faults_stop(data, SIM_FENCER, span);
}

static void on_left_behind(void *data, uint64_t span)
{
    struct sim_node *node = data;

    if (sim.is_healing)
        return;
    sim_trace(node->id, "is cut off and hangs, and its hamgr-fence wakes first");
    sim_faults_isolate(node, span);
    sim_faults_stop(node, SIM_HAMGRD, span + ms_between(0, 3000));
}

/* The victim is cut off until who has the order to fence it is, and is a member when that one's
 * hamgr-fence finds the order. */
static void find_order_late(struct sim_node *victim)
{
    struct sim_node *fencer = first_member(victim);
    uint64_t then = ms_between(2200, 4200), gone = ms_between(9000, 14000);

    if (!fencer)
        return;
    sim_trace(victim->id, "is cut off until n%u is, which has the order to fence it", fencer->id);
    sim_corner_break_devices(then + gone);
    sim_faults_isolate(victim, then);
    sim_after(ms_between(100, 900), NULL, on_fencer_hangs, fencer, then + ms_between(5000, 8500));
    sim_after(then, NULL, on_left_behind, fencer, gone);
}

/* ---- FENCED ------------------------------------------------------------------------------------
 */

static void on_leader_cut_off(void *data, uint64_t span)
{
    struct sim_node *leader = sim_corner_leader(data);

    if (leader && !sim.is_healing)
        sim_faults_isolate(leader, span);
}

static void on_store_renewed(void *data, uint64_t arg)
{
    (void)arg;
    if (!sim.is_healing)
        sim_faults_renew_store(data);
}

/* T_wait ends for a leader that nobody hears any more. Meanwhile the others take the victim's new
 * hamgrd into their log's views, and the state refuses it, for its old guests are still there. */
static void come_back_empty(struct sim_node *victim)
{
    uint64_t then = T_WAIT_MS * NS_MS - ms_between(2500, 5500);

    sim_trace(victim->id, "is cut off until its leader is, and comes back with an empty store");
    sim_corner_break_devices(then + 14 * NS_S);
    sim_faults_isolate(victim, then);
    sim_after(then, NULL, on_leader_cut_off, victim, ms_between(5500, 9000));
    sim_after(then + ms_between(0, 400), NULL, on_store_renewed, victim, 0);
}

/* ---- promises ----------------------------------------------------------------------------------
 */

/* data: any; arg: bits of those whose disks stall, and in the upper half for how many ms. */
static void on_disks_stall(void *data, uint64_t arg)
{
    (void)data;
    for (uint32_t id = 1; id <= sim.node_count && !sim.is_healing; id++) {
        if (arg >> id & 1)
            sim_disk_stall(sim_node(id), sim.now + (arg >> 32) * NS_MS);
    }
}

/* Just a quorum is left, so the view without the victim waits for all of its disks: for less than
 * L/2, or it is given up. */
static void promise_late(struct sim_node *victim)
{
    uint32_t away = 1u << victim->id, everybody = (1u << (sim.node_count + 1)) - 2;
    uint32_t spare = sim.node_count - (sim.node_count / 2 + 1) - 1;
    uint64_t span = ms_between(17000, 21000), stall_in = 200 + below(900);
    uint64_t stall = 2000 + below(1600) - stall_in;

    for (uint32_t i = 1; i <= spare; i++)
        away |= 1u << (1 + (victim->id - 1 + i) % sim.node_count);
    sim_trace(victim->id, "is cut off, and all disks stall that must promise a view without it");
    sim_corner_break_devices(span);
    sim_faults_split(away, span);
    sim_after(stall_in * NS_MS, NULL, on_disks_stall, NULL, stall << 32 | (everybody & ~away));
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static void on_corner(void *data, uint64_t arg)
{
    static void (*const acts[KINDS])(struct sim_node *) = {find_order_late, come_back_empty,
                                                           promise_late};
    struct sim_node *victim = sim_corner_owner(below(sim.node_count));

    (void)data;
    (void)arg;
    if (!sim_corner_has_time(80 * NS_S))
        return;
    bool is_taken = victim && sim_corner_take(40 * NS_S);
    if (is_taken && sim_faults_extra(SIM_F_CORNER))
        acts[late.kind](victim);
    sim_after(is_taken ? ms_between(60000, 110000) : 400 * NS_MS, NULL, on_corner, NULL, 0);
}

void sim_corner_late_begin(bool is_on)
{
    late.rng.state = sim.options.seed * UINT64_C(0xa24baed4963ee407) + 19;
    late.kind = (uint32_t)below(KINDS);
    if (is_on && sim.node_count >= 3)
        sim_after(ms_between(10000, 40000), NULL, on_corner, NULL, 0);
}
