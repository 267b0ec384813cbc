/* SPDX-License-Identifier: Apache-2.0
 *
 * Corners: things that must come together for a rule to count, and do not by chance. In a quarter
 * of the seeds keepers start late, all but one hamgrd are restarted at once, a leader that is cut
 * off is typed at, cancels meet SWITCH, ARM and DISARM follow each other while a keeper hangs,
 * domains refuse to run, and fence devices give up early or never answer. The draws are of an own
 * generator: other seeds are as without (--no-corners).
 */
#include "tests/sim/corner.h"

static struct {
    bool is_on;
    struct ha_rng rng;
    uint64_t busy_until;
} corner;

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&corner.rng, bound);
}

static struct sim_node *any_node(void)
{
    return sim_node(1 + (uint32_t)below(sim.node_count));
}

bool sim_corner_has_time(uint64_t needed_ns)
{
    return corner.is_on && !sim.is_healing && sim.now + needed_ns < sim.heal_at;
}

bool sim_corner_take(uint64_t span)
{
    if (sim.now < corner.busy_until)
        return false;
    corner.busy_until = sim.now + span;
    return true;
}

static bool has_time(void)
{
    return sim_corner_has_time(40 * NS_S);
}

bool sim_corner_is_on(void)
{
    return corner.is_on;
}

/* ---- hosts -------------------------------------------------------------------------------------
 */

uint64_t sim_corner_keeper_late_ns(void)
{
    return has_time() && below(3) == 0 ? (1 + below(15)) * NS_S : 0;
}

void sim_corner_on_restart(void *data, uint64_t back_ns)
{
    sim_crash(data, SIM_HAMGRD, back_ns);
}

/* Whoever heard the one that is cut off is a new process soon after. */
static void restart_others(struct sim_node *victim)
{
    sim_trace(victim->id, "is cut off, and every other hamgrd restarts");
    sim_faults_isolate(victim, (8 + below(18)) * NS_S);
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (id != victim->id)
            sim_after(below(2000) * NS_MS, NULL, sim_corner_on_restart, sim_node(id),
                      (50 + below(1500)) * NS_MS);
    }
}

/* ---- operators ---------------------------------------------------------------------------------
 */

static void on_type(void *data, uint64_t type)
{
    struct sim_node *node = data;

    if (!sim.is_healing)
        sim_operator_node_cmd(node, node, (uint8_t)type, true);
}

static void on_type_back(void *data, uint64_t type)
{
    struct sim_node *at = sim_operator_node(below(sim.node_count));

    if (at && !sim.is_healing)
        sim_operator_node_cmd(at, data, (uint8_t)type, false);
}

struct sim_node *sim_corner_leader(const struct sim_node *other_than)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = sim_node(id);
        if (node != other_than && sim_is_up(node, SIM_HAMGRD) && node->d && node->d->log &&
            log_is_leader(node->d->log))
            return node;
    }
    return NULL;
}

struct sim_node *sim_corner_owner(uint64_t draw)
{
    const struct ha_state *truth = sim_truth();

    for (uint32_t i = 0; i < sim.node_count; i++) {
        uint32_t id = 1 + (uint32_t)((draw + i) % sim.node_count);
        const struct ha_node *node = ha_state_node(truth, id);
        for (uint32_t g = 0; g < truth->guest_count; g++) {
            if (node && node->status == HA_NODE_MEMBER && node->is_armed &&
                truth->guests[g].phase == HA_PHASE_RUNNING && truth->guests[g].node == id)
                return sim_node(id);
        }
    }
    return NULL;
}

/* Its log becomes the longest, and none of it is ever committed. */
static void type_at_cut_off(void)
{
    struct sim_node *node = sim_corner_leader(NULL);

    if (!node)
        return;
    sim_trace(node->id, "the leader is cut off, and typed at");
    sim_faults_isolate(node, (7 + below(8)) * NS_S);
    for (uint32_t i = 0; i < 12; i++)
        sim_after((50 + below(3000)) * NS_MS, NULL, on_type, node, HA_CMD_MAINTENANCE);
    sim_after(20 * NS_S, NULL, on_type_back, node, HA_CMD_MAINTENANCE);
}

static void on_cancel(void *data, uint64_t arg)
{
    (void)data;
    if (!sim.is_healing)
        sim_operator_cancel(arg);
}

/* On nodes that have not applied the SWITCH yet. */
static void cancel_late(void)
{
    for (uint32_t i = 0; i < 3; i++)
        sim_after(below(1500) * 1000, NULL, on_cancel, NULL, below(sim.node_count));
}

static void on_cluster_cmd(void *data, uint64_t type)
{
    struct sim_node *at = sim_operator_node(below(sim.node_count));

    (void)data;
    if (at && !sim.is_healing)
        sim_operator_node_cmd(at, NULL, (uint8_t)type, true);
}

static void on_keeper_hangs(void *data, uint64_t span)
{
    sim_faults_stop(data, SIM_KEEPER, span);
}

/* The keeper reads its order late, and meanwhile the opposite is ordered. */
static void change_mind(void)
{
    struct sim_node *node = any_node();

    sim_after(below(20) * NS_MS, NULL, on_keeper_hangs, node, (300 + below(3500)) * NS_MS);
    sim_after(below(1500) * NS_MS, NULL, on_cluster_cmd, NULL, HA_CMD_ARM);
    if (below(2))
        sim_after(below(1500) * NS_MS, NULL, sim_corner_on_restart, node,
                  (50 + below(500)) * NS_MS);
    if (below(3) == 0)
        sim_after((1500 + below(700)) * NS_MS, NULL, on_cluster_cmd, NULL, HA_CMD_DISARM);
}

static void on_power_cut(void *data, uint64_t arg)
{
    (void)arg;
    sim_power_off(data, "somebody pulled the plug while disarmed");
}

/* Behind what was just committed. */
void sim_corner_committed(uint8_t cmd_type)
{
    if (!has_time())
        return;
    if (cmd_type == HA_CMD_SWITCH && below(2))
        cancel_late();
    else if (cmd_type == HA_CMD_DISARM && below(2))
        change_mind();
    else if (cmd_type == HA_CMD_DISARM)
        sim_after(below(2000) * NS_MS, NULL, on_power_cut, any_node(), 0);
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
    bool is_taken = is_kept && sim_corner_take(20 * NS_S);
    if (is_taken && below(2))
        restart_others(any_node());
    else if (is_taken)
        type_at_cut_off();
    sim_after((15 + below(60)) * NS_S, NULL, on_corner, NULL, 0);
}

void sim_corners_begin(void)
{
    uint64_t rest = sim.options.seed % 16; /* 3, 6, 2 and 7 nodes */

    corner.rng.state = sim.options.seed * UINT64_C(0xa0761d6478bd642f) + 3;
    corner.busy_until = 0;
    corner.is_on = sim.options.has_corners && (rest == 1 || rest == 4 || rest == 8 || rest == 13) &&
                   !sim.options.is_gentle && !sim.options.fault_mask;
    if (corner.is_on)
        sim_after((10 + below(30)) * NS_S, NULL, on_corner, NULL, 0);
    sim_corner_fence_begin(corner.is_on && sim.options.seed / 16 % 2 == 0);
    sim_corner_cut_begin(corner.is_on && sim.options.seed / 16 % 2 == 1);
    sim_corner_moves_begin(corner.is_on);
    sim_corner_log_begin(corner.is_on);
    sim_corner_late_begin(corner.is_on && sim.options.seed / 16 % 4 == 1);
    sim_corner_alone_begin();
}

void sim_corners_reset(void)
{
    corner.is_on = false;
    sim_corner_fence_begin(false);
    sim_corner_cut_begin(false);
    sim_corner_moves_begin(false);
    sim_corner_log_begin(false);
    sim_corner_late_begin(false);
}
