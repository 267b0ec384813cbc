/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes wrong, and when: the plan of a seed. Every seed enables some kinds of faults at a rate
 * of its own. Times between faults and how long they last lean to the timeouts of the design, a
 * little before or behind them; some follow closely on what was just committed. The plan has a
 * generator of its own: leaving one fault out (to shrink a seed) leaves the others as they are.
 */
#include <string.h>

#include "tests/sim/sim.h"

#define CUTS_MAX     32u
#define OPERATOR_END (20 * NS_S) /* before healing: no new orders */
#define SLEEPS_END   (40 * NS_S)
#define VERBS_END    (56 * NS_S) /* before healing: a verb that hangs is killed 50 s later */
/* L1: T_wait (15 s) and 30 s more; a boot takes some seconds before that. */
#define SETTLE_NS (55 * NS_S)
#define STORE_NS  (30 * NS_S) /* T_wait and a view, when a store has to be made anew */
#define CALM_NS   (2 * NS_S)  /* well for so long: it stays well */
#define BOOT_NS   (3 * NS_S)  /* of a host at least: longer than D, see README.md */

struct cut_set {
    bool is_used;
    uint16_t to[SIM_NODES + 1]; /* bits: from -> to is cut */
};

static struct {
    struct ha_rng rng, sleep_rng;
    uint64_t enabled;
    uint64_t mean_ns;
    uint32_t hook_chance; /* per mille, of each notable commit */
    uint32_t number;      /* of the last fault */
    uint32_t renewed;     /* stores that were lost in a corner */
    struct cut_set cuts[CUTS_MAX];
    uint64_t well_since, settle_from;
    struct sim_node *left; /* its hamgrd stays hung when all else is mended */
} plan;

static const char *const names[SIM_F_COUNT] = {
    "power",         "hamgrd-crash", "hamgrd-stop",  "hv-crash",       "hv-stop",
    "keeper-crash",  "keeper-stop",  "fencer-crash", "corosync-crash", "corosync-stop",
    "isolate",       "partition",    "one-way",      "bridge",         "loss",
    "delay",         "disk-stall",   "disk-fail",    "disk-full",      "store-lost",
    "storage-stuck", "verb-slow",    "verb-fail",    "verb-hang",      "verb-unknown",
    "guest-crash",   "guest-reboot", "fence-slow",   "fence-fail",     "fence-ack-lost",
    "clock-drift",   "clock-jump",   "version",      "operator",       "sleep",
    "corner"};

const char *sim_fault_name(uint8_t fault)
{
    return fault < SIM_F_COUNT ? names[fault] : "none";
}

static uint64_t below(uint64_t bound)
{
    return ha_rng_below(&plan.rng, bound);
}

/* A span that is likely to end just before, at or behind a timeout. */
static uint64_t draw_span(void)
{
    /* P, h, token, consensus, both, L/2, W, H, L, L + P + W, T_wait, in ms. */
    static const uint32_t timeouts[] = {250,  500,  1000, 1200,  2200, 3450,
                                        5000, 5900, 6900, 12150, 15272};
    static const uint32_t about[] = {1, 20, 100, 500};

    if (below(100) < 50) {
        uint64_t ms = timeouts[below(sizeof(timeouts) / sizeof(timeouts[0]))];
        uint64_t off = below(about[below(4)] + 1);
        return (below(2) || off >= ms ? ms + off : ms - off) * NS_MS;
    }
    return (10 + below(UINT64_C(1) << (4 + below(12)))) * NS_MS; /* up to 65 s, mostly less */
}

static bool is_kept(uint32_t number)
{
    return !sim.options.has_keep ||
           (number < SIM_KEEP && (sim.options.keep[number / 64] >> (number % 64) & 1));
}

/* ---- the network -------------------------------------------------------------------------------
 */

static void apply_cuts(void)
{
    for (uint32_t a = 1; a <= sim.node_count; a++) {
        uint32_t to = 0;
        for (uint32_t i = 0; i < CUTS_MAX; i++)
            to |= plan.cuts[i].is_used ? plan.cuts[i].to[a] : 0u;
        for (uint32_t b = 1; b <= sim.node_count; b++)
            sim_net_cut(a, b, (to >> b & 1) != 0);
    }
    sim_net_changed();
}

static void on_mended(void *data, uint64_t arg)
{
    struct cut_set *set = data;

    (void)arg;
    set->is_used = false;
    sim_trace(0, "a cut of the network is mended");
    apply_cuts();
}

static void cut_between(struct cut_set *set, uint32_t left, uint32_t right)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (left >> id & 1)
            set->to[id] |= (uint16_t)right;
        if (right >> id & 1)
            set->to[id] |= (uint16_t)left;
    }
}

static void cut_network(enum sim_fault fault, uint32_t victim, uint64_t draw, uint64_t span)
{
    uint32_t all = (1u << (sim.node_count + 1)) - 2;
    uint32_t other = 1 + (uint32_t)((victim + draw % (sim.node_count - 1)) % sim.node_count);
    uint32_t side = (uint32_t)(draw >> 8) & all;

    for (uint32_t i = 0; i < CUTS_MAX; i++) {
        struct cut_set *set = &plan.cuts[i];
        if (set->is_used)
            continue;
        *set = (struct cut_set){.is_used = true};
        if (fault == SIM_F_ISOLATE)
            cut_between(set, 1u << victim, all & ~(1u << victim));
        else if (fault == SIM_F_PARTITION)
            cut_between(set, side, all & ~side);
        else if (fault == SIM_F_BRIDGE)
            cut_between(set, 1u << victim, 1u << other);
        else
            set->to[victim] = (uint16_t)(1u << other);
        sim_after(span, NULL, on_mended, set, 0);
        apply_cuts();
        return;
    }
}

void sim_faults_split(uint32_t side, uint64_t span)
{
    uint32_t all = (1u << (sim.node_count + 1)) - 2;

    for (uint32_t i = 0; i < CUTS_MAX; i++) {
        struct cut_set *set = &plan.cuts[i];
        if (set->is_used)
            continue;
        *set = (struct cut_set){.is_used = true};
        cut_between(set, side, all & ~side);
        sim_after(span, NULL, on_mended, set, 0);
        apply_cuts();
        return;
    }
}

static void on_air_clear(void *data, uint64_t arg)
{
    (void)data;
    if (arg == SIM_F_LOSS)
        sim_net_loss(0);
    else
        sim_net_delay(0);
}

/* ---- processes, power, disks -------------------------------------------------------------------
 */

static void on_continue(void *data, uint64_t arg)
{
    struct sim_proc *proc = data;

    if (proc->node->sleep.is_asleep && proc->life == arg) {
        sim_after(NS_S, NULL, on_continue, proc, arg);
        return;
    }
    if (proc->life != arg || proc->state != SIM_STOPPED ||
        (proc->kind == SIM_HAMGRD && plan.left == proc->node))
        return;
    sim_trace(proc->node->id, "%s goes on", sim_kind_name(proc->kind));
    sim_proc_continue(proc);
    if (proc->kind == SIM_COROSYNC)
        sim_net_corosync(proc->node);
}

static void stop(struct sim_node *node, enum sim_kind kind, uint64_t span)
{
    struct sim_proc *proc = &node->procs[kind];

    bool is_needed = sim_slept_lately(node) && kind == SIM_KEEPER; /* or nobody lets it bite */
    if (proc->state != SIM_RUNS || is_needed)
        return;
    sim_proc_stop(proc);
    if (kind == SIM_COROSYNC)
        sim_net_corosync(node);
    sim_after(span, NULL, on_continue, proc, proc->life);
}

static void on_disk_good(void *data, uint64_t arg)
{
    struct sim_node *node = data;

    (void)arg;
    sim_disk_fail(node, false);
    sim_crash(node, SIM_HAMGRD, 500 * NS_MS); /* somebody restarts it: it stores again */
}

/* There is space again, and somebody restarts what gave up; until then that may have been tried in
 * vain. */
static void on_disk_freed(void *data, uint64_t arg)
{
    struct sim_node *node = data;

    (void)arg;
    sim_disk_fill(node, false);
    if (node->d && node->d->rt.is_store_failed)
        sim_crash(node, SIM_HAMGRD, 500 * NS_MS);
}

static void fill_disk(struct sim_node *node, uint64_t span, uint64_t draw)
{
    sim_disk_fill(node, true);
    sim_after(span, NULL, on_disk_freed, node, 0);
    if (draw % 2)
        sim_crash(node, SIM_HAMGRD, span / 2);
}

static bool owns_nothing(const struct sim_node *node)
{
    const struct ha_state *truth = sim_truth();
    const struct ha_node *n = ha_state_node(truth, node->id);

    for (uint32_t i = 0; i < truth->guest_count; i++) {
        const struct ha_guest *guest = &truth->guests[i];
        if ((guest->phase != HA_PHASE_FREE && guest->node == node->id) ||
            (guest->ticket.id && (guest->ticket.src == node->id || guest->ticket.dst == node->id)))
            return false;
    }
    return n && n->status != HA_NODE_UNCLEAN && n->status != HA_NODE_MEMBER;
}

/* An operator makes the lost store anew when the node's guests are settled, as the manual says:
 * before that the state would refuse it. The leader then takes the old vote. */
static void on_store_made(void *data, uint64_t number)
{
    struct sim_node *node = data;

    if (sim_disk_exists(node))
        return;
    if (!owns_nothing(node)) {
        sim_after(NS_S, NULL, on_store_made, node, number);
        return;
    }
    sim_disk_empty(node, 1000 + number);
    sim_start_daemon(node, SIM_HAMGRD);
}

/* More than a minority of stores lost is beyond what can be survived. */
static bool may_lose_store(const struct sim_node *node)
{
    const struct ha_state *truth = sim_truth();
    uint32_t voters = 0;

    for (uint32_t i = 0; i < truth->node_count; i++) {
        const struct ha_node *n = &truth->nodes[i];
        voters += n->is_voter;
        if (n->id != node->id && n->is_voter &&
            (!sim_disk_exists(sim_node(n->id)) || !sim_disk_is(sim_node(n->id), n->store_id)))
            return false;
        if (sim_disk_has_vote_pending(sim_node(n->id), truth->applied))
            return false; /* the next set of voters may count already */
    }
    /* A host that sleeps can't stop its hamgrd, which would go on with another store under it. */
    return voters >= 3 && truth->node_count == sim.node_count && !node->sleep.is_asleep;
}

static bool lose_store(struct sim_node *node, uint64_t span, uint32_t number)
{
    if (!may_lose_store(node))
        return false;
    sim_crash(node, SIM_HAMGRD, span);
    sim_disk_lose(node);
    sim_after(span, NULL, on_store_made, node, number);
    return true;
}

bool sim_faults_lose_store(struct sim_node *node, uint64_t span)
{
    return lose_store(node, span, SIM_KEEP + ++plan.renewed);
}

bool sim_faults_renew_store(struct sim_node *node)
{
    if (!may_lose_store(node))
        return false;
    if (node->procs[SIM_HAMGRD].state == SIM_DEAD) /* it has no store, or is on its way */
        sim_start_later(node, SIM_HAMGRD, 200 * NS_MS);
    else
        sim_crash(node, SIM_HAMGRD, 200 * NS_MS);
    sim_disk_empty(node, 1000 + SIM_KEEP + ++plan.renewed);
    return true;
}

static void end_guest(struct sim_node *node, uint64_t draw, uint8_t state)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        struct sim_domain *domain = &node->domains[(i + draw) % SIM_DOMAINS];
        if (!sim_is_runnable(domain))
            continue;
        sim_guest_ends(node, domain, state);
        return;
    }
}

static void on_knobs(void *data, uint64_t arg)
{
    uint32_t *knob = data;

    (void)arg;
    *knob = 0;
}

static void turn(uint32_t *knob, uint32_t per_mille, uint64_t span)
{
    *knob = per_mille;
    sim_after(span + 5 * NS_S, NULL, on_knobs, knob, 0);
}

static void verb_fault(enum sim_fault fault, uint64_t draw, uint64_t span)
{
    uint32_t per_mille = 100 + (uint32_t)(draw % 900);

    if (sim.now + VERBS_END > sim.heal_at)
        return;
    if (fault == SIM_F_VERB_SLOW)
        turn(&sim.verb_slow, per_mille, span);
    else if (fault == SIM_F_VERB_FAIL)
        turn(&sim.verb_fail, per_mille, span);
    else if (fault == SIM_F_VERB_HANG)
        turn(&sim.verb_hang, per_mille / 3, span);
    else
        turn(&sim.verb_unknown, per_mille, span);
}

/* ---- one fault ---------------------------------------------------------------------------------
 */

static bool do_process_fault(enum sim_fault fault, struct sim_node *node, uint64_t span)
{
    static const struct {
        enum sim_fault fault;
        enum sim_kind kind;
        bool is_crash;
    } table[] = {
        {SIM_F_HAMGRD_CRASH, SIM_HAMGRD, true},
        {SIM_F_HAMGRD_STOP, SIM_HAMGRD, false},
        {SIM_F_HV_CRASH, SIM_HV, true},
        {SIM_F_HV_STOP, SIM_HV, false},
        {SIM_F_KEEPER_CRASH, SIM_KEEPER, true},
        {SIM_F_KEEPER_STOP, SIM_KEEPER, false},
        {SIM_F_FENCER_CRASH, SIM_FENCER, true},
        {SIM_F_COROSYNC_CRASH, SIM_COROSYNC, true},
        {SIM_F_COROSYNC_STOP, SIM_COROSYNC, false},
    };

    for (uint32_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].fault != fault)
            continue;
        if (table[i].is_crash)
            sim_crash(node, table[i].kind,
                      table[i].kind == SIM_KEEPER && sim_slept_lately(node) ? span % (50 * NS_MS)
                                                                            : span);
        else
            stop(node, table[i].kind, span);
        return true;
    }
    return false;
}

static void do_disk_fault(enum sim_fault fault, struct sim_node *node, uint64_t span, uint64_t draw,
                          uint32_t number)
{
    if (fault == SIM_F_DISK_STALL)
        sim_disk_stall(node, sim.now + span);
    else if (fault == SIM_F_DISK_FULL)
        fill_disk(node, span, draw);
    else if (fault == SIM_F_STORE_LOST)
        lose_store(node, span, number);
    else if (fault == SIM_F_STORAGE_STUCK)
        node->storage_stuck_until = sim.now + span;
    else {
        sim_disk_fail(node, true);
        sim_after(span, NULL, on_disk_good, node, 0);
    }
}

/* Upgraded, rolled back, or of a release that no longer speaks what the others do. */
static void change_version(struct sim_node *node, uint64_t span, uint64_t draw)
{
    if (node->sleep.is_asleep)
        return;
    node->version = (uint8_t)(draw % 3);
    sim_trace(node->id, "its hamgrd is of version %u from now on", node->version);
    sim_crash(node, SIM_HAMGRD, span % (5 * NS_S));
}

static void do_other_fault(enum sim_fault fault, struct sim_node *node, uint64_t span,
                           uint64_t draw)
{
    uint32_t per_mille = 200 + (uint32_t)(draw % 800);

    if (fault == SIM_F_LOSS) {
        sim_net_loss((uint32_t)(draw % (sim.options.is_gentle ? 100 : 300)));
        sim_after(span, NULL, on_air_clear, NULL, fault);
    } else if (fault == SIM_F_DELAY) {
        sim_net_delay(draw % (sim.options.is_gentle ? 200 : 700) * NS_MS);
        sim_after(span, NULL, on_air_clear, NULL, fault);
    } else if (fault == SIM_F_GUEST_CRASH) {
        end_guest(node, draw, HV_CRASHED);
    } else if (fault == SIM_F_GUEST_REBOOT) {
        end_guest(node, draw, HV_REBOOT);
    } else if (fault == SIM_F_FENCE_SLOW) {
        turn(&sim.fence_slow, per_mille, span);
    } else if (fault == SIM_F_FENCE_FAIL) {
        turn(&sim.fence_fail, per_mille, span);
    } else if (fault == SIM_F_FENCE_ACK_LOST) {
        turn(&sim.fence_ack_lost, per_mille, span);
    } else if (fault == SIM_F_CLOCK_DRIFT) {
        sim_clock_rate(node, (int64_t)(draw % 9801) - 4900); /* within rho, 0.5 % */
    } else if (fault == SIM_F_VERSION) {
        change_version(node, span, draw);
    } else if (fault == SIM_F_CLOCK_JUMP) {
        node->clock.wall_offset_ns += ((int64_t)(draw % 7200) - 3600) * (int64_t)NS_S;
    }
}

static bool is_compound(void)
{
    return sim.options.seed / 8 % 8 == 6 && !sim.options.is_gentle && !sim.options.fault_mask &&
           !sim_script_is_on();
}

/* A guest is about to leave: what it wrote last may be on its way for long. */
void sim_faults_moving(struct sim_node *source)
{
    if (is_compound() && !sim.is_healing && sim.now + 60 * NS_S < sim.heal_at && below(2))
        source->storage_stuck_until = sim.now + (1 + below(30)) * NS_S;
}

/* A guest is built and about to run: its host is cut off, and hamgr-hv finds the order to run it
 * only after the lease. */
void sim_faults_built(struct sim_node *node)
{
    if (!is_compound() || sim.is_healing || sim.now + 40 * NS_S > sim.heal_at || below(3) > 0)
        return;
    uint64_t span = 7 * NS_S + below(8 * NS_S);
    sim_trace(node->id, "cut off as a guest is about to run");
    cut_network(SIM_F_ISOLATE, node->id, 0, span);
    stop(node, SIM_HV, span - below(2 * NS_S));
}

/* With what they wrote last still on its way. */
static void crash_guests(struct sim_node *node)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        if (sim_is_runnable(&node->domains[i]))
            sim_guest_ends(node, &node->domains[i], HV_CRASHED);
    }
}

/* In some seeds who is cut off has a daemon that hangs, too: then the other one must do its part.
 */
static void hang_along(struct sim_node *node, uint64_t draw, uint64_t span)
{
    static const enum sim_kind kinds[] = {SIM_HV, SIM_HV, SIM_KEEPER, SIM_HAMGRD};

    if ((draw >> 43) % 4 == 0) {
        node->storage_stuck_until = sim.now + span;
        if ((draw >> 47) % 2 == 0)
            crash_guests(node);
        return;
    }
    enum sim_kind kind = kinds[(draw >> 41) % 4];
    sim_trace(node->id, "%s hangs along", sim_kind_name(kind));
    stop(node, kind, span + (draw >> 44) % 16000 * NS_MS);
}

static void do_fault(enum sim_fault fault, uint32_t number)
{
    uint32_t victim = 1 + (uint32_t)below(sim.node_count);
    uint64_t draw = ha_rng_next(&plan.rng), span = draw_span();
    struct sim_node *node = sim_node(victim);

    if (sim.options.is_gentle && (fault == SIM_F_HAMGRD_CRASH || fault == SIM_F_HV_CRASH ||
                                  fault == SIM_F_KEEPER_CRASH || fault == SIM_F_FENCER_CRASH))
        span = (50 + draw % 950) * NS_MS; /* back within L */
    if (!is_kept(number))
        return;
    sim.fault_count++;
    sim_cover_fault(fault);
    sim_mix(fault);
    sim_trace(victim, "FAULT %u: %s for %.3f s", number, names[fault], (double)span / 1e9);
    if (fault == SIM_F_POWER) {
        sim_power_off(node, "somebody pulled the plug");
    } else if (do_process_fault(fault, node, span)) {
        return;
    } else if (fault >= SIM_F_ISOLATE && fault <= SIM_F_BRIDGE) {
        if (sim_has_plant("watchdog-never-fires") || sim_has_plant("keeper-always-pets")) {
            stop(node, SIM_HV, 60 * NS_S);
            span += 30 * NS_S;
        }
        bool is_joined = is_compound() && (draw >> 40) % 2 == 0;
        span += is_joined ? 8 * NS_S : 0; /* longer than L */
        cut_network(fault, victim, draw, span);
        if (is_joined)
            hang_along(node, draw, span);
    } else if (fault >= SIM_F_DISK_STALL && fault <= SIM_F_STORAGE_STUCK) {
        do_disk_fault(fault, node, span, draw, number);
    } else if (fault >= SIM_F_VERB_SLOW && fault <= SIM_F_VERB_UNKNOWN) {
        verb_fault(fault, draw, span);
    } else if (fault == SIM_F_OPERATOR) {
        if (sim.now + OPERATOR_END < sim.heal_at)
            sim_operator_act(draw, span);
    } else {
        do_other_fault(fault, node, span, draw);
    }
}

static enum sim_fault draw_fault(void)
{
    enum sim_fault fault = SIM_F_COUNT;

    while (fault == SIM_F_COUNT || !(plan.enabled >> fault & 1))
        fault = (enum sim_fault)below(SIM_F_DRAWN);
    return fault;
}

static void on_extra(void *data, uint64_t number)
{
    (void)data;
    if (sim.now < sim.heal_at)
        do_fault(draw_fault(), (uint32_t)number);
}

static void on_fault(void *data, uint64_t arg)
{
    uint64_t next = below(100) < 60 ? below(2 * plan.mean_ns) : draw_span();

    (void)data;
    (void)arg;
    if (sim.now >= sim.heal_at)
        return;
    do_fault(draw_fault(), ++plan.number);
    sim_after(next, NULL, on_fault, NULL, 0);
}

bool sim_faults_extra(enum sim_fault fault)
{
    uint32_t number = ++plan.number;

    if (!is_kept(number))
        return false;
    sim.fault_count++;
    sim_cover_fault(fault);
    sim_mix(fault);
    sim_trace(0, "FAULT %u: %s", number, names[fault]);
    return true;
}

void sim_faults_isolate(struct sim_node *node, uint64_t span)
{
    cut_network(SIM_F_ISOLATE, node->id, 0, span);
}

void sim_faults_stop(struct sim_node *node, enum sim_kind kind, uint64_t span)
{
    stop(node, kind, span);
}

/* In one of eight seeds hosts are suspended, too. What else goes wrong in them is as without. */
static bool is_sleepy(void)
{
    if (sim.options.fault_mask)
        return (sim.options.fault_mask >> SIM_F_SLEEP & 1) != 0;
    return sim.options.seed / 8 % 8 == 0 && !sim.options.is_gentle && !sim_script_is_on();
}

static void on_sleep(void *data, uint64_t arg)
{
    uint32_t victim = 1 + (uint32_t)ha_rng_below(&plan.sleep_rng, sim.node_count);
    uint64_t draw = ha_rng_next(&plan.sleep_rng);

    (void)data;
    (void)arg;
    if (sim.now + SLEEPS_END > sim.heal_at)
        return;
    if (sim_faults_extra(SIM_F_SLEEP))
        sim_sleep(sim_node(victim), draw);
    sim_after(NS_S + ha_rng_below(&plan.sleep_rng, 40 * NS_S), NULL, on_sleep, NULL, 0);
}

/* The worst moment is often right behind a decision. */
void sim_faults_hook(uint8_t cmd_type)
{
    static const uint64_t notable = UINT64_C(1) << HA_CMD_ASSIGN | UINT64_C(1) << HA_CMD_MIGRATE |
                                    UINT64_C(1) << HA_CMD_SWITCH | UINT64_C(1) << HA_CMD_FENCED |
                                    UINT64_C(1) << HA_CMD_ARMED | UINT64_C(1) << HA_CMD_STOP |
                                    UINT64_C(1) << HA_CMD_ABORT | UINT64_C(1) << HA_CMD_DISARM |
                                    UINT64_C(1) << HA_CMD_FREEZE;

    if (sim.is_healing || !(notable >> cmd_type & 1) || sim.now < 5 * NS_S ||
        plan.number > SIM_KEEP - 8 || below(1000) >= plan.hook_chance)
        return;
    sim_after(below(1000) * below(4000) * 1000, NULL, on_extra, NULL, ++plan.number);
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static void on_look(void *data, uint64_t arg)
{
    uint64_t latest = plan.settle_from + SETTLE_NS;
    char why[160];

    (void)data;
    (void)arg;
    if (!sim_is_settled(why, sizeof(why)))
        plan.well_since = 0;
    else if (plan.well_since == 0)
        plan.well_since = sim.now;
    if ((plan.well_since && sim.now >= plan.well_since + CALM_NS) ||
        (sim.now >= latest && !sim_is_only_backing_off(latest))) {
        sim.end_at = sim.now;
        return;
    }
    sim_after(500 * NS_MS, NULL, on_look, NULL, 0);
}

bool sim_is_left_hung(const struct sim_node *node)
{
    return plan.left == node && node->procs[SIM_HAMGRD].state == SIM_STOPPED;
}

/* In some seeds one hamgrd hangs for ever, and the others are well all the same (L1): they are a
 * quorum, and T_wait can count against it. Also of the voters that a change leaves which one disk
 * has and no quorum yet: whoever has it counts by it. And not where a DISARM waits so: no clock
 * proves anything of who is absent when the guard is taken off. */
static struct sim_node *draw_left(void)
{
    struct sim_node *node = sim_node(1 + (uint32_t)below(sim.node_count));
    const struct ha_state *truth = sim_truth();
    const struct ha_node *n = ha_state_node(truth, node->id);
    bool is_wanted = below(4) == 0 && sim.node_count >= 3 && !sim.options.is_gentle;

    if (!is_wanted || !n || n->status != HA_NODE_MEMBER || (!n->is_armed && !n->is_witness) ||
        node->procs[SIM_HAMGRD].state == SIM_DEAD || truth->node_count != sim.node_count)
        return NULL;
    for (uint32_t i = 0; i < truth->node_count; i++) {
        const struct ha_node *other = &truth->nodes[i];
        if (!other->is_voter || !sim_disk_exists(sim_node(other->id)) ||
            !sim_disk_is(sim_node(other->id), other->store_id) ||
            sim_disk_has_vote_pending(sim_node(other->id), truth->applied) ||
            sim_disk_has_command(sim_node(other->id), HA_CMD_DISARM, truth->applied))
            return NULL;
    }
    sim_trace(node->id, "its hamgrd hangs for ever");
    if (node->procs[SIM_HAMGRD].state == SIM_RUNS)
        sim_proc_stop(&node->procs[SIM_HAMGRD]);
    return node;
}

/* Nodes come back: whatever took their power, somebody gives it back. */
static void on_power_back(void *data, uint64_t boots)
{
    struct sim_node *node = data;

    if (node->boots == boots)
        sim_power_on(node);
}

static void heal_node(struct sim_node *node)
{
    uint64_t up_at = node->died + BOOT_NS;

    sim_disk_stall(node, 0);
    sim_disk_fail(node, false);
    sim_disk_fill(node, false);
    node->storage_stuck_until = 0;
    for (uint32_t kind = 0; kind < SIM_KINDS; kind++) {
        if (kind != SIM_HAMGRD || plan.left != node)
            on_continue(&node->procs[kind], node->procs[kind].life);
    }
    if (!sim_disk_exists(node))
        plan.settle_from = sim.now + STORE_NS; /* made anew after its guests are fenced */
    bool is_odd = node->version != SIM_VERSION_NEXT && (plan.enabled >> SIM_F_VERSION & 1);
    if (is_odd)
        node->version = SIM_VERSION_NEXT; /* what all can live with, whatever the log has seen */
    if ((is_odd || (node->d && node->d->rt.is_store_failed)) && plan.left != node)
        sim_crash(node, SIM_HAMGRD, 100 * NS_MS);
    if (sim.now >= up_at)
        sim_power_on(node);
    else
        sim_after(up_at - sim.now, NULL, on_power_back, node, node->boots);
}

static void on_heal(void *data, uint64_t arg)
{
    (void)data;
    (void)arg;
    sim_trace(0, "nothing goes wrong any more");
    if (plan.enabled == UINT64_C(1) << SIM_F_VERSION)
        sim_version_check_named();
    sim.is_healing = true;
    plan.settle_from = sim.now;
    memset(plan.cuts, 0, sizeof(plan.cuts));
    sim_net_heal();
    sim.verb_slow = sim.verb_fail = sim.verb_hang = sim.verb_unknown = 0;
    sim.fence_slow = sim.fence_fail = sim.fence_ack_lost = 0;
    plan.left = draw_left();
    for (uint32_t id = 1; id <= sim.node_count; id++)
        heal_node(sim_node(id));
    sim_operator_settle();
    sim_after(NS_S, NULL, on_look, NULL, 0);
}

void sim_faults_power_lost(struct sim_node *node)
{
    uint64_t ns = sim.is_healing ? 5 * NS_S : BOOT_NS + below(45) * NS_S;

    sim_after(ns, NULL, on_power_back, node, node->boots);
}

static uint64_t draw_enabled(void)
{
    static const uint64_t gentle =
        UINT64_C(1) << SIM_F_HAMGRD_CRASH | UINT64_C(1) << SIM_F_KEEPER_CRASH |
        UINT64_C(1) << SIM_F_FENCER_CRASH | UINT64_C(1) << SIM_F_HV_CRASH |
        UINT64_C(1) << SIM_F_LOSS | UINT64_C(1) << SIM_F_DELAY | UINT64_C(1) << SIM_F_CLOCK_DRIFT |
        UINT64_C(1) << SIM_F_CLOCK_JUMP;
    uint64_t enabled = 0, share = 15 + below(60);

    for (uint32_t fault = 0; fault < SIM_F_DRAWN; fault++)
        enabled |= below(100) < share ? UINT64_C(1) << fault : 0;
    if (below(100) < 70) /* without a failing node there is little to decide */
        enabled |= UINT64_C(1) << below(2) * SIM_F_ISOLATE;
    if (below(100) < 60)
        enabled |= UINT64_C(1) << SIM_F_OPERATOR;
    if (sim_has_plant("gentle-cuts"))
        return gentle | UINT64_C(1) << SIM_F_ISOLATE;
    if (sim_has_plant("gentle-power"))
        return gentle | UINT64_C(1) << SIM_F_POWER;
    return sim.options.is_gentle ? gentle : enabled | UINT64_C(1) << below(SIM_F_DRAWN);
}

void sim_faults_begin(void)
{
    memset(&plan, 0, sizeof(plan));
    plan.rng.state = sim.options.seed * UINT64_C(0xd1342543de82ef95) + 7;
    sim.options.is_gentle = below(12) == 0 && !sim.options.fault_mask;
    if (sim.options.plant && strncmp(sim.options.plant, "gentle-", 7) == 0)
        sim.options.is_gentle = true;
    plan.enabled = draw_enabled();
    if (sim.options.fault_mask)
        plan.enabled = sim.options.fault_mask;
    plan.mean_ns = 592 * NS_S / (40 + below(60));
    plan.hook_chance = (uint32_t)(below(2) * below(300));
    plan.sleep_rng.state = plan.rng.state ^ 5;
    if (sim_corner_is_alone())
        plan.enabled = plan.hook_chance = 0;
    if (plan.enabled & ((UINT64_C(1) << SIM_F_DRAWN) - 1))
        sim_after(8 * NS_S, NULL, on_fault, NULL, 0);
    if (is_sleepy())
        sim_after(10 * NS_S, NULL, on_sleep, NULL, 0);
    sim_at(sim.heal_at, NULL, on_heal, NULL, 0);
}
