/* SPDX-License-Identifier: Apache-2.0
 *
 * Corners of leases, of the way back, and of hamgr-hv: a member comes back as another is lost, and
 * whoever heard that one meanwhile is a new process; one whose disk answers nobody for longer than
 * T_wait; all others hang for L; a host comes back to guests that could run nowhere else; a save is
 * stuck while its host is cut off twice; a guest crashes when all else is well, where hamgr-hv is
 * slow.
 */
#include "tests/sim/corner.h"

#define KINDS    5u
#define BEGUN_NS (1200 * NS_MS)

static struct {
    struct ha_rng rng;
    uint32_t kinds;
    uint64_t hv_latency_ns;
} cut;

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&cut.rng, bound);
}

static uint64_t ms_between(uint64_t low, uint64_t high)
{
    return (low + below(high - low + 1)) * NS_MS;
}

uint64_t sim_corner_hv_latency_ns(void)
{
    return cut.hv_latency_ns;
}

static void on_isolate(void *data, uint64_t span)
{
    if (!sim.is_healing)
        sim_faults_isolate(data, span);
}

static struct sim_node *other_than(const struct sim_node *victim)
{
    uint32_t step = 1 + (uint32_t)below(sim.node_count - 1);

    return sim_node(1 + (victim->id - 1 + step) % sim.node_count);
}

/* ---- leases ------------------------------------------------------------------------------------
 */

/* One comes back as the victim is cut off and the others restart: it has not heard the victim for
 * long, and nobody else remembers that he did. */
static void cut_in_turn(struct sim_node *victim)
{
    struct sim_node *absentee = other_than(victim);
    uint64_t span = ms_between(8000, 14500);

    sim_trace(victim->id, "is to be cut off when n%u is back", absentee->id);
    sim_corner_break_devices(span + 20 * NS_S);
    sim_faults_isolate(absentee, span);
    sim_after(span - ms_between(0, 300), NULL, on_isolate, victim, ms_between(16000, 22000));
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (id != victim->id && id != absentee->id)
            sim_after(span + ms_between(0, 200), NULL, sim_corner_on_restart, sim_node(id),
                      ms_between(50, 800));
    }
}

/* It is heard, but can promise nothing: the next view is one without it. */
static void stall_disk(struct sim_node *victim)
{
    uint64_t span = ms_between(17000, 28000);

    sim_trace(victim->id, "its disk answers nobody for %.3f s", (double)span / 1e9);
    sim_corner_break_devices(span);
    sim_disk_stall(victim, sim.now + span);
    sim_after(ms_between(200, 1500), NULL, sim_corner_on_restart, other_than(victim),
              ms_between(300, 3000));
}

static void hang_others(struct sim_node *victim)
{
    uint64_t span = ms_between(6500, 9000);

    sim_trace(victim->id, "every other hamgrd hangs for %.3f s", (double)span / 1e9);
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (id != victim->id)
            sim_faults_stop(sim_node(id), SIM_HAMGRD, span + ms_between(0, 200));
    }
}

/* ---- the way back ------------------------------------------------------------------------------
 */

static void on_others_maintained(void *data, uint64_t is_on)
{
    const struct sim_node *host = data;

    for (uint32_t id = 1; id <= sim.node_count && !sim.is_healing; id++) {
        struct sim_node *at = sim_operator_node(below(sim.node_count));
        if (at && id != host->id)
            sim_operator_node_cmd(at, sim_node(id), HA_CMD_MAINTENANCE, is_on != 0);
    }
}

static void on_verbs_fail(void *data, uint64_t per_mille)
{
    (void)data;
    if (!sim.is_healing)
        sim.verb_fail = (uint32_t)per_mille;
}

/* All others are in maintenance: its guests wait for it, and its old copies are still there, for
 * the hypervisor refuses to destroy them for a while. */
static void come_home(struct sim_node *host)
{
    uint64_t gone = ms_between(2000, 15000), span = ms_between(15500, 18500);

    sim_trace(host->id, "all others are in maintenance, and it is cut off");
    on_others_maintained(host, 1);
    sim_corner_break_devices(40 * NS_S);
    sim_after(gone, NULL, on_isolate, host, span);
    sim_after(gone + span, NULL, on_verbs_fail, NULL, 900);
    sim_after(gone + span + ms_between(4000, 8000), NULL, on_verbs_fail, NULL, 0);
    sim_after(45 * NS_S, NULL, on_others_maintained, host, 0);
}

/* ---- hamgr-hv ----------------------------------------------------------------------------------
 */

static void on_stuck(void *data, uint64_t span)
{
    if (!sim.is_healing)
        sim_host_stick(data, span);
}

/* A save that can't be aborted: its guest is to run again, is given to another, and it ends. */
static void on_saving(void *data, uint64_t arg)
{
    const struct ha_state *truth = sim_truth();
    struct sim_node *source = NULL;

    (void)data;
    (void)arg;
    for (uint32_t i = 0; i < truth->guest_count; i++) {
        if (truth->guests[i].phase == HA_PHASE_MIGRATING)
            source = sim_node(truth->guests[i].ticket.src);
    }
    if (!source || sim.is_healing)
        return;
    uint64_t first = ms_between(7000, 7600);
    sim_trace(source->id, "a save is stuck, and it is cut off twice");
    sim_corner_break_devices(38 * NS_S);
    for (uint32_t i = 0; i < 8; i++) /* it begins when the streams are connected */
        sim_after(i * 150 * NS_MS, NULL, on_stuck, source, ms_between(34000, 37000));
    sim_after(BEGUN_NS, NULL, on_isolate, source, first);
    sim_after(BEGUN_NS + ms_between(100, 3000), NULL, sim_corner_on_restart, source,
              ms_between(50, 300));
    sim_after(BEGUN_NS + first + ms_between(3000, 4500), NULL, on_isolate, source,
              ms_between(16500, 18500));
}

static void hang_save(struct sim_node *victim)
{
    (void)victim;
    sim_operator_act(below(UINT64_C(1) << 32), 0); /* a migration */
    sim_after(ms_between(100, 600), NULL, on_saving, NULL, 0);
}

/* It has not failed before: the next start does not wait. */
static bool may_crash(const struct sim_domain *domain)
{
    const struct ha_guest *guest = ha_state_guest(sim_truth(), domain->d.label.guest);

    return domain->is_used && sim_is_runnable(domain) && guest && guest->failures == 0;
}

static void crash_one(uint64_t draw)
{
    for (uint32_t i = 0; i < sim.node_count * SIM_DOMAINS; i++) {
        uint64_t at = (draw + i) % (sim.node_count * SIM_DOMAINS);
        struct sim_node *node = sim_node(1 + (uint32_t)(at / SIM_DOMAINS));
        struct sim_domain *domain = &node->domains[at % SIM_DOMAINS];
        if (!may_crash(domain))
            continue;
        sim_guest_ends(node, domain, HV_CRASHED);
        return;
    }
}

/* All is well: every event counts, for nothing else will make anybody look. */
static void on_late_crash(void *data, uint64_t draw)
{
    char why[160];

    (void)data;
    if (sim.now > sim.heal_at + 25 * NS_S)
        return;
    if (!sim_is_settled(why, sizeof(why))) {
        sim_after(500 * NS_MS, NULL, on_late_crash, NULL, draw);
        return;
    }
    cut.hv_latency_ns = ms_between(5, 80);
    crash_one(draw);
}

/* Once more so late that nothing else cleans up behind it. */
static void on_last_way_home(void *data, uint64_t draw)
{
    struct sim_node *host = sim_corner_owner(draw);

    (void)data;
    if (host && sim_corner_take(45 * NS_S) && sim_faults_extra(SIM_F_CORNER))
        come_home(host);
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static void on_corner(void *data, uint64_t arg)
{
    static void (*const acts[KINDS])(struct sim_node *) = {cut_in_turn, stall_disk, hang_others,
                                                           come_home, hang_save};
    uint32_t kind = (uint32_t)below(KINDS);
    struct sim_node *victim = sim_corner_owner(below(sim.node_count));

    (void)data;
    (void)arg;
    if (!sim_corner_has_time(80 * NS_S))
        return;
    while (!(cut.kinds >> kind & 1))
        kind = (kind + 1) % KINDS;
    bool is_taken = victim && sim_corner_take(45 * NS_S);
    if (is_taken && sim_faults_extra(SIM_F_CORNER))
        acts[kind](victim);
    sim_after(is_taken ? ms_between(46000, 60000) : 3 * NS_S, NULL, on_corner, NULL, 0);
}

void sim_corner_cut_begin(bool is_on)
{
    cut.rng.state = sim.options.seed * UINT64_C(0xd6e8feb86659fd93) + 13;
    cut.hv_latency_ns = 0;
    if (!is_on)
        return;
    cut.kinds = 1u << below(KINDS) | 1u << below(KINDS);
    if (sim.node_count >= 3 && below(2))
        sim_at(sim.heal_at - ms_between(45000, 60000), NULL, on_last_way_home, NULL,
               below(sim.node_count));
    if (sim.node_count >= 3)
        sim_after(ms_between(10000, 30000), NULL, on_corner, NULL, 0);
    if (below(2))
        sim_at(sim.heal_at + NS_S, NULL, on_late_crash, NULL, below(1000));
}
