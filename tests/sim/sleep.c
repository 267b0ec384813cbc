/* SPDX-License-Identifier: Apache-2.0
 *
 * A host that is suspended: its processes, guests and raw clock stand still, BOOTTIME goes on. The
 * leases from before it woke are void. hamgr-hv has P to see that and pause everything; where it
 * hangs, or storage does, the keeper has P to see it and to let the watchdog bite.
 *
 * No longer than the design covers: T_wait must not pass before the guests are paused, or before
 * the host is reset. The watchdog sleeps with its host and starts anew as that wakes.
 */
#include "tests/sim/sim.h"

#define SHORTEST_NS (200 * NS_MS)
#define POLL_NS     (250 * NS_MS)
#define RESET_NS    (1000 * NS_MS)
/* What devices count in, so the shortest that the keeper can give one; and some for its look. */
#define HURRIED_NS (1000 * NS_MS)
#define SLACK_NS   (200 * NS_MS)
#define LATELY_NS  (20 * NS_S)
/* hamgrd counts leases in whole ms. */
#define ROUNDED_NS (2 * NS_MS)

bool sim_slept_lately(const struct sim_node *node)
{
    return node->sleep.is_asleep ||
           (node->sleep.woke_at > 0 && sim.now < node->sleep.woke_at + LATELY_NS);
}

/* The lease that its keeper holds is of a heartbeat sent before it woke. */
bool sim_is_slept_through(const struct sim_node *node)
{
    return node->sleep.woke_at > 0 && node->page.lease_end_ns + ROUNDED_NS <
                                          node->sleep.woke_raw_ns + node->keeper_lease_ms * NS_MS;
}

/* ---- waking ------------------------------------------------------------------------------------
 */

static bool has_runnable(const struct sim_node *node)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        if (sim_is_runnable(&node->domains[i]))
            return true;
    }
    return false;
}

/* I5: P after it woke, and P after hamgr-hv was there again. */
static void on_paused_time(void *data, uint64_t life)
{
    struct sim_node *node = data;
    const struct sim_proc *hv = &node->procs[SIM_HV];
    uint64_t later_ns = 2 * POLL_NS + 100 * NS_MS;

    if (!node->has_power || node->sleep.is_asleep || node->sleep.woke_at == 0 ||
        !sim_is_slept_through(node))
        return;
    if (hv->life != life || hv->state != SIM_RUNS) {
        sim_after(later_ns, NULL, on_paused_time, node, hv->life);
        return;
    }
    if (node->keeper.state == KEEPER_DISARMED || node->gate_hello.is_disarmed ||
        node->gate_hello.is_frozen)
        return;
    if (has_runnable(node))
        sim_violation("I5", node->id, "guests run on a lease from before its host was suspended");
}

static void wake_kind(struct sim_node *node, enum sim_kind kind)
{
    if (!(node->sleep.kinds >> kind & 1))
        return;
    sim_proc_continue(&node->procs[kind]);
    if (kind == SIM_COROSYNC)
        sim_net_corosync(node);
}

/* Their timers are due up to P after the host woke. */
static void on_hv_wakes(void *data, uint64_t boots)
{
    struct sim_node *node = data;

    if (node->boots == boots && !node->sleep.is_asleep)
        wake_kind(node, SIM_HV);
}

static void on_keeper_wakes(void *data, uint64_t boots)
{
    struct sim_node *node = data;

    if (node->boots == boots && !node->sleep.is_asleep)
        wake_kind(node, SIM_KEEPER);
}

static void on_wake(void *data, uint64_t boots)
{
    struct sim_node *node = data;

    if (node->boots != boots || !node->has_power || !node->sleep.is_asleep)
        return;
    sim_clock_rate(node, node->clock.ppm);
    node->clock.slept_ns += (int64_t)node->sleep.span_ns;
    node->sleep.is_asleep = false;
    node->sleep.woke_at = sim.now;
    node->sleep.woke_raw_ns = sim_raw_ns(node);
    sim_trace(node->id, "the host wakes");
    for (uint32_t kind = 0; kind < SIM_KINDS; kind++) {
        if (kind != SIM_HV && kind != SIM_KEEPER)
            wake_kind(node, (enum sim_kind)kind);
    }
    sim_after(node->sleep.hv_late_ns, NULL, on_hv_wakes, node, boots);
    sim_after(node->sleep.keeper_late_ns, NULL, on_keeper_wakes, node, boots);
    sim_after(2 * POLL_NS + 100 * NS_MS, NULL, on_paused_time, node, node->procs[SIM_HV].life);
}

/* ---- falling asleep ----------------------------------------------------------------------------
 */

static bool may_sleep(const struct sim_node *node)
{
    return node->has_power && !sim_slept_lately(node) && node->procs[SIM_KEEPER].state == SIM_RUNS;
}

/* Of T_wait = (L + P + W)(1 + 2 rho) + B + D a part of L is over, or more where nothing says that
 * the guests do not run, and P is for pausing, or for the keeper to give the watchdog less. 0: it
 * can't be covered. */
static uint64_t longest_ns(const struct sim_node *node)
{
    uint64_t now_ns = sim_raw_ns(node), end_ns = node->page.lease_end_ns;
    uint64_t left_ns = end_ns > now_ns ? end_ns - now_ns : 0;
    uint64_t over_ns = node->keeper.state == KEEPER_EXPIRED ? now_ns - end_ns : 0;
    uint64_t most_ns = left_ns + node->keeper_watchdog_ms * NS_MS + RESET_NS;
    uint64_t less_ns = over_ns + HURRIED_NS + SLACK_NS;

    return most_ns > less_ns ? most_ns - less_ns : 0;
}

void sim_sleep(struct sim_node *node, uint64_t draw)
{
    struct sim_sleep *sleep = &node->sleep;

    if (!may_sleep(node))
        return;
    uint64_t longest = longest_ns(node);
    if (longest <= SHORTEST_NS + 500 * NS_MS)
        return;
    uint64_t room_ns = longest - SHORTEST_NS;
    bool is_long = draw % 2;
    sleep->span_ns = is_long ? SHORTEST_NS + room_ns - (draw >> 8) % (500 * NS_MS)
                             : SHORTEST_NS + (draw >> 8) % room_ns;
    sleep->hv_late_ns = (draw >> 1) % POLL_NS;
    sleep->keeper_late_ns = POLL_NS - sleep->hv_late_ns;
    if ((draw >> 40) % 3 == 0) /* it hangs as it wakes */
        sleep->hv_late_ns += (1 + (draw >> 44) % 20) * NS_S;
    sleep->lease_end_ns = node->page.lease_end_ns;
    sleep->kinds = 0;
    sim_trace(node->id, "the host is suspended for %.3f s", (double)sleep->span_ns / 1e9);
    for (uint32_t kind = 0; kind < SIM_KINDS; kind++) {
        if (node->procs[kind].state != SIM_RUNS)
            continue;
        sleep->kinds |= 1u << kind;
        sim_proc_stop(&node->procs[kind]);
    }
    sim_clock_rate(node, node->clock.ppm); /* from here on it stands still */
    sleep->is_asleep = true;
    sleep->fell_at = sim.now;
    node->watchdog.due =
        sim.now + sleep->span_ns + sim_span(node, node->keeper_watchdog_ms * NS_MS);
    if (sleep->kinds >> SIM_COROSYNC & 1)
        sim_net_corosync(node);
    sim_after(sleep->span_ns, NULL, on_wake, node, node->boots);
}
