/* SPDX-License-Identifier: Apache-2.0
 *
 * Corners of migrations and starts: what must come together in their few milliseconds. Guests are
 * moved often; an arrived copy refuses to run, or does so with an unknown outcome; a daemon at
 * either end, its connections, the network or all disks fail right behind MIGRATE, SWITCH or the
 * moment in which the source is drained; a start is slow, and its host cut off.
 */
#include "tests/sim/sim.h"

/* How the next tries go to make a copy runnable. */
struct arrival {
    struct ha_uuid guest;
    uint64_t epoch, until;
    uint8_t fate; /* enum sim_run_fate */
    uint32_t times;
};

static struct {
    struct ha_rng rng;
    bool is_on;
    uint32_t next;
    struct arrival arrivals[SIM_GUESTS];
    struct ha_uuid slow; /* the guest whose next start takes long */
    uint64_t slow_ns;
} moves;

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&moves.rng, bound);
}

static uint64_t ms_between(uint64_t low, uint64_t high)
{
    return (low + below(high - low + 1)) * NS_MS;
}

static bool has_time(void)
{
    return moves.is_on && !sim.is_healing && sim.now + 60 * NS_S < sim.heal_at;
}

/* ---- what happens to a daemon, to all disks, to a cable ----------------------------------------
 */

/* arg: kind, and how long it stays away. */
static void on_crash(void *data, uint64_t arg)
{
    sim_crash(data, (enum sim_kind)(arg >> 56), arg & ((UINT64_C(1) << 56) - 1));
}

static void crash_in(uint64_t ns, struct sim_node *node, enum sim_kind kind, uint64_t away_ns)
{
    sim_after(ns, NULL, on_crash, node, (uint64_t)kind << 56 | away_ns);
}

static void on_hang(void *data, uint64_t span)
{
    sim_faults_stop(data, SIM_HAMGRD, span);
}

static void on_cut_off(void *data, uint64_t span)
{
    sim_faults_isolate(data, span);
}

/* Storage that all share hangs for a moment. */
static void on_disks_stall(void *data, uint64_t span)
{
    (void)data;
    for (uint32_t id = 1; id <= sim.node_count; id++)
        sim_disk_stall(sim_node(id), sim.now + span);
}

/* The switch that all hang on starts anew: what is said meanwhile nobody hears. */
static void on_switch_restarts(void *data, uint64_t span)
{
    (void)data;
    for (uint32_t id = 1; id < sim.node_count; id++)
        sim_faults_isolate(sim_node(id), span);
}

static void on_worker_hangs(void *data, uint64_t arg)
{
    (void)arg;
    sim_host_hang_moves(data);
}

static void on_streams_fail(void *data, uint64_t arg)
{
    (void)arg;
    sim_streams_fail(data, "connection reset");
}

/* ---- making runnable ---------------------------------------------------------------------------
 */

static void expect(const struct ha_guest *guest, uint64_t epoch, enum sim_run_fate fate,
                   uint32_t times)
{
    moves.arrivals[moves.next++ % SIM_GUESTS] = (struct arrival){.guest = guest->id,
                                                                 .epoch = epoch,
                                                                 .until = sim.now + 20 * NS_S,
                                                                 .fate = (uint8_t)fate,
                                                                 .times = times};
}

enum sim_run_fate sim_corner_run_fate(struct sim_node *node, const struct sim_domain *domain)
{
    for (uint32_t i = 0; i < SIM_GUESTS && moves.is_on; i++) {
        struct arrival *a = &moves.arrivals[i];
        if (a->times == 0 || a->epoch != domain->d.label.epoch || a->until < sim.now ||
            !ha_uuid_equal(a->guest, domain->d.label.guest))
            continue;
        enum sim_run_fate fate = (enum sim_run_fate)a->fate;
        a->times--;
        /* It runs until its lease ends, and its next hamgrd finds it paused. */
        if (fate == SIM_RUN_UNHEARD)
            crash_in(0, node, SIM_HAMGRD, ms_between(6800, 8500));
        /* It runs until its lease ends; who comes back in time has the ticket still. */
        if (fate == SIM_RUN_CUT_OFF) {
            sim_after(0, NULL, on_cut_off, node, ms_between(7000, 11500));
            a->fate = SIM_RUN_FAILS;
            a->until += 5 * NS_S;
        }
        return fate;
    }
    return SIM_RUN_WELL;
}

/* ---- behind commits ----------------------------------------------------------------------------
 */

static void behind_switch(const struct ha_guest *guest)
{
    struct sim_node *src = sim_node(guest->ticket.src), *dst = sim_node(guest->ticket.dst);
    uint64_t epoch = guest->ticket.dst_epoch;

    switch (below(14)) {
    case 0:
        expect(guest, epoch, SIM_RUN_FAILS, 1 + (uint32_t)below(3));
        break;
    case 1:
    case 8:
    case 9: /* its REVERT takes longer than until it is tried again */
        expect(guest, epoch, SIM_RUN_FAILS, 1);
        sim_after(ms_between(1, 12), NULL, on_disks_stall, NULL, ms_between(600, 2500));
        break;
    case 2:
        expect(guest, epoch, SIM_RUN_UNKNOWN_DONE, 1);
        break;
    case 3:
        expect(guest, epoch, SIM_RUN_UNKNOWN, 1 + (uint32_t)below(2));
        break;
    case 4:
    case 10:
        expect(guest, epoch, SIM_RUN_UNHEARD, 1);
        break;
    case 5:
        crash_in(ms_between(0, 200), dst, SIM_HV, ms_between(50, 1500));
        crash_in(ms_between(0, 200), src, SIM_HV, ms_between(50, 1500));
        break;
    case 6:
        expect(guest, epoch, SIM_RUN_FAILS, 2);
        crash_in(ms_between(0, 100), src, SIM_HAMGRD, ms_between(50, 1000));
        break;
    case 7:
        crash_in(ms_between(0, 100), dst, SIM_HAMGRD, ms_between(50, 1000));
        break;
    case 11:
    case 12: /* the first try cuts it off, all others fail */
        expect(guest, epoch, SIM_RUN_CUT_OFF, 20);
        break;
    default:
        break;
    }
}

static void behind_migrate(const struct ha_cmd *cmd)
{
    struct sim_node *src = sim_node(cmd->node), *dst = sim_node(cmd->u.migrate.dst);
    struct sim_node *end = below(2) ? src : dst;

    switch (below(24)) {
    case 0:
        sim_after(ms_between(200, 4000), NULL, on_streams_fail, end, 0);
        break;
    case 1:
        crash_in(ms_between(0, 4000), end, SIM_HAMGRD, ms_between(50, 1500));
        break;
    case 2:
        crash_in(ms_between(0, 4000), end, SIM_HV, ms_between(50, 1500));
        break;
    case 3:
    case 4:
        sim_after(ms_between(200, 2000), NULL, on_worker_hangs, end, 0);
        break;
    default:
        break;
    }
}

/* The host is cut off while it still builds, some time before its lease ends. */
static void behind_assign(const struct ha_cmd *cmd)
{
    if (below(12) > 0)
        return;
    moves.slow = cmd->guest;
    moves.slow_ns = ms_between(5500, 12000);
    if (below(2))
        sim_after(ms_between(4000, 6000), NULL, on_cut_off, sim_node(cmd->node),
                  ms_between(3000, 6000));
}

uint64_t sim_corner_build_ns(const struct hv_label *label)
{
    if (!has_time() || moves.slow_ns == 0 || !ha_uuid_equal(moves.slow, label->guest))
        return 0;
    uint64_t ns = moves.slow_ns;
    moves.slow_ns = 0;
    return ns;
}

void sim_corner_moves_committed(const struct ha_state *before, const struct ha_cmd *cmd)
{
    if (!has_time())
        return;
    if (cmd->type == HA_CMD_SWITCH && sim_faults_extra(SIM_F_CORNER))
        behind_switch(ha_state_guest(before, cmd->guest));
    else if (cmd->type == HA_CMD_MIGRATE && sim_faults_extra(SIM_F_CORNER))
        behind_migrate(cmd);
    else if (cmd->type == HA_CMD_ASSIGN)
        behind_assign(cmd);
}

/* The source is suspended and drained: HANDOVER is about to be said. */
void sim_corner_drained(struct sim_node *source, struct ha_uuid guest_id)
{
    const struct ha_guest *guest = ha_state_guest(sim_truth(), guest_id);

    if (!has_time() || !guest || guest->ticket.id == 0)
        return;
    struct sim_node *dst = sim_node(guest->ticket.dst);
    switch (below(20)) {
    case 0:
        sim_after(0, NULL, on_cut_off, source, ms_between(2200, 3800));
        break;
    case 1:
        sim_after(0, NULL, on_cut_off, dst, ms_between(2200, 6000));
        break;
    case 2:
        sim_after(0, NULL, on_hang, dst, ms_between(300, 3000));
        break;
    case 3:
        crash_in(ms_between(0, 20), dst, SIM_HAMGRD, ms_between(50, 1000));
        break;
    case 4:
        sim_after(ms_between(0, 10), NULL, on_disks_stall, NULL, ms_between(600, 3000));
        break;
    case 5:
    case 6:
        sim_after(0, NULL, on_switch_restarts, NULL, ms_between(2300, 5500));
        break;
    default:
        break;
    }
}

/* Most guests are small, and are there before the next fault. */
bool sim_corner_is_quick(void)
{
    return moves.is_on && below(4) > 0;
}

/* ---- operators ---------------------------------------------------------------------------------
 */

static void on_order(void *data, uint64_t arg)
{
    (void)data;
    (void)arg;
    if (!has_time())
        return;
    /* Now and then a host is emptied by hand, onto one other. */
    if (below(8) == 0)
        sim_operator_gather(ha_rng_next(&moves.rng));
    else
        sim_operator_migrate(ha_rng_next(&moves.rng));
    sim_after(ms_between(5000, 25000), NULL, on_order, NULL, 0);
}

void sim_corner_moves_begin(bool is_on)
{
    moves.rng.state = sim.options.seed * UINT64_C(0xd6e8feb86659fd93) + 11;
    moves.is_on = is_on && below(3) > 0;
    moves.next = 0;
    moves.slow_ns = 0;
    for (uint32_t i = 0; i < SIM_GUESTS; i++)
        moves.arrivals[i].times = 0;
    if (moves.is_on)
        sim_after(ms_between(10000, 20000), NULL, on_order, NULL, 0);
}
