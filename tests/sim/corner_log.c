/* SPDX-License-Identifier: Apache-2.0
 *
 * Corners of the log: an operator takes the votes of those who have just been cut off; a store is
 * lost, and a further vote taken; a lost store is made anew at once, while those who know what is
 * committed are away; a node's disk is put into another machine while the old one runs on.
 */
#include "tests/sim/corner.h"

static struct {
    struct ha_rng rng;
    bool is_on;
} logs;

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&logs.rng, bound);
}

static uint64_t ms_between(uint64_t low, uint64_t high)
{
    return (low + below(high - low + 1)) * NS_MS;
}

static bool has_time(void)
{
    return logs.is_on && !sim.is_healing && sim.now + 90 * NS_S < sim.heal_at;
}

static uint32_t everybody(void)
{
    return (1u << (sim.node_count + 1)) - 2;
}

/* `count` more nodes of `from`, with those of `set`. */
static uint32_t with_some(uint32_t set, uint32_t from, uint32_t count)
{
    for (uint32_t i = (uint32_t)below(sim.node_count), tries = 0; count > 0 && tries < SIM_NODES;
         i++, tries++) {
        uint32_t bit = 1u << (1 + i % sim.node_count);
        if (!(from & bit) || (set & bit))
            continue;
        set |= bit;
        count--;
    }
    return set;
}

/* ---- votes -------------------------------------------------------------------------------------
 */

/* Most of those that are left without `removed` are up, and hear it and are heard. */
static bool has_majority(const struct sim_node *node, const struct sim_node *removed)
{
    uint32_t count = 0;

    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (id == removed->id)
            continue;
        bool is_near =
            id == node->id || (sim_net_reaches(id, node->id) && sim_net_reaches(node->id, id));
        count += is_near && sim_node(id)->procs[SIM_HAMGRD].state == SIM_RUNS;
    }
    return 2 * count > sim.node_count - 1;
}

/* A voter's promises are gone, and nobody has taken its vote yet. */
static bool is_store_lost(void)
{
    const struct ha_state *truth = sim_truth();

    for (uint32_t i = 0; i < truth->node_count; i++) {
        const struct ha_node *n = &truth->nodes[i];
        if (n->is_voter &&
            (!sim_disk_exists(sim_node(n->id)) || !sim_disk_is(sim_node(n->id), n->store_id)))
            return true;
    }
    return false;
}

/* Who types, in the low byte; whose vote, in the next. */
static void on_take_vote(void *data, uint64_t who)
{
    struct sim_node *at = sim_node((uint32_t)(who & 0xff)), *other = sim_node((uint32_t)(who >> 8));

    (void)data;
    if (!sim.is_healing && (!is_store_lost() || has_majority(at, other)))
        sim_operator_take_vote(at, other);
}

/* As on_take_vote; behind the loss of a store only where a quorum is left that can decide it: a
 * removal that waits for a lost voter is more than can be survived. */
static void on_take_vote_safely(void *data, uint64_t who)
{
    struct sim_node *at = sim_node((uint32_t)(who & 0xff)), *other = sim_node((uint32_t)(who >> 8));

    if (has_majority(at, other))
        on_take_vote(data, who);
}

/* The leader is on the smaller side; with that many votes fewer its side would be the quorum. */
static void take_votes_of_other_side(void)
{
    struct sim_node *leader = sim_corner_leader(NULL);

    if (!leader || sim.node_count < 3)
        return;
    uint32_t size = 1 + (uint32_t)below((sim.node_count - 1) / 2);
    uint32_t side = with_some(1u << leader->id, everybody(), size - 1);
    uint32_t count = sim.node_count - 2 * size + 1;

    sim_trace(leader->id, "is cut off with %u others, and %u votes are taken", size - 1, count);
    sim_faults_split(side, ms_between(5000, 12000));
    for (uint32_t id = 1; id <= sim.node_count && count > 0; id++) {
        if (side >> id & 1)
            continue;
        sim_after(ms_between(5, 900), NULL, on_take_vote, NULL, (uint64_t)id << 8 | leader->id);
        count--;
    }
}

/* Somebody makes the cluster smaller, because of a node that will be back. */
static void take_vote_beside_lost_store(void)
{
    uint32_t victim = 1 + (uint32_t)below(sim.node_count);
    uint32_t other = 1 + (uint32_t)((victim + below(sim.node_count - 1)) % sim.node_count);

    if (!sim_faults_lose_store(sim_node(victim), ms_between(20000, 40000)))
        return;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (id != victim)
            sim_after(ms_between(500, 5000), NULL, on_take_vote_safely, NULL,
                      (uint64_t)other << 8 | id);
    }
}

/* ---- stores ------------------------------------------------------------------------------------
 */

/* data: whose store; arg: the side that comes back. */
static void on_amnesia(void *data, uint64_t back)
{
    struct sim_node *node = data;

    if (sim.is_healing || !sim_faults_renew_store(node))
        return;
    sim_trace(node->id, "has an empty store, and those who know more are away");
    sim_faults_split((uint32_t)back | 1u << node->id, ms_between(5000, 12000));
}

/* The smaller side is away while the other commits; then all of that but one are away, and that one
 * has forgotten it. */
static void forget_commits(void)
{
    uint32_t victim = 1 + (uint32_t)below(sim.node_count);
    uint32_t away = with_some(0, everybody() & ~(1u << victim), sim.node_count / 2);
    uint64_t span = ms_between(4000, 6000);

    if (sim.node_count < 3 || sim.node_count % 2 == 0)
        return;
    sim_faults_split(away, span);
    sim_after(span, NULL, on_amnesia, sim_node(victim), away);
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static void on_corner(void *data, uint64_t arg)
{
    bool is_kept = sim_faults_extra(SIM_F_CORNER);

    (void)data;
    (void)arg;
    if (!has_time())
        return;
    uint64_t which = below(5);
    if (is_kept && which < 2)
        take_votes_of_other_side();
    else if (is_kept && which == 2)
        take_vote_beside_lost_store();
    else if (is_kept && which == 3)
        forget_commits();
    else if (is_kept)
        sim_machine_swap(sim_node(1 + (uint32_t)below(sim.node_count)), ms_between(100, 2000));
    sim_after(ms_between(30000, 90000), NULL, on_corner, NULL, 0);
}

void sim_corner_log_begin(bool is_on)
{
    logs.rng.state = sim.options.seed * UINT64_C(0xe7037ed1a0b428db) + 17;
    logs.is_on = is_on && below(2) == 0;
    if (logs.is_on)
        sim_after(ms_between(15000, 40000), NULL, on_corner, NULL, 0);
}
