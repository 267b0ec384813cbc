/* SPDX-License-Identifier: Apache-2.0
 *
 * Ground truth, and what must hold of it (design section 11). The truth of the log is kept by
 * applying each entry once, when the first node does: every other must have the very same prefix.
 * The truth of guests is what the simulated hosts run and what disks can still be written by, never
 * what a daemon believes. Each check stands where its facts change, so that all together cost
 * little: a guest can become runnable in one place only, and all else that counts only fades.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define PREFIX_MAX       65536u
#define FENCE_ORDERS_MAX 40u
/* From the second failure on a guest waits before it is started again: that, doubled, at most. */
#define BACK_OFF_MIN_NS (5 * NS_S)
#define BACK_OFF_MAX_NS (60 * NS_S)
#define START_NS        (10 * NS_S) /* to assign and build it; nothing goes wrong then */

static struct ha_state truth;
static struct ha_guest truth_guests[SIM_GUESTS * 2];
static struct ha_digest prefix[PREFIX_MAX];
static struct {
    uint64_t disarmed_at; /* true time */
    uint64_t fenced_count, assign_count;
    uint16_t proto;                 /* highest that a view used */
    uint64_t moved[SIM_GUESTS];     /* ASSIGN and MIGRATE since healing began */
    uint64_t failed_at[SIM_GUESTS]; /* true time of the last failure that counts */
    uint64_t opened_at;             /* of the last OPEN */
    bool is_guarded[SIM_NODES + 1]; /* ARMED, and none of what lets a keeper stop (I6) since */
} seen;

int __wrap_ha_state_apply(struct ha_state *state, const struct log_entry *entry,
                          struct ha_applied *ret_applied);

void sim_check_reset(void)
{
    ha_state_init(&truth, truth_guests, SIM_GUESTS * 2);
    memset(&seen, 0, sizeof(seen));
    sim_check_policy_reset();
    sim_check_rejoin_reset();
    sim_check_state_reset();
    sim_check_view_reset();
}

const struct ha_state *sim_truth(void)
{
    return &truth;
}

int sim_guest_index(struct ha_uuid id)
{
    for (uint32_t i = 0; i < sim.guest_count; i++) {
        if (ha_uuid_equal(sim.guests[i].id, id))
            return (int)i;
    }
    return -1;
}

void sim_violation(const char *invariant, uint32_t node, const char *fmt, ...)
{
    char text[200];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (sim.result->violations++ == 0)
        snprintf(sim.result->first, sizeof(sim.result->first), "%s: %.200s at %.3f s%s%.0u",
                 invariant, text, (double)sim.now / 1e9, node ? " on n" : "", node);
    sim_trace(node, "VIOLATION of %s: %s", invariant, text);
}

/* ---- what runs where ---------------------------------------------------------------------------
 */

static struct sim_domain *copy_of(struct sim_node *node, struct ha_uuid guest, uint64_t epoch)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        struct sim_domain *domain = &node->domains[i];
        if (domain->is_used && domain->d.label.epoch == epoch &&
            ha_uuid_equal(domain->d.label.guest, guest))
            return domain;
    }
    return NULL;
}

static void check_elsewhere(const struct sim_node *node, const struct sim_domain *mine)
{
    int guest = sim_guest_index(mine->d.label.guest);

    if (sim_machine_runs(0, mine->d.label.guest))
        sim_violation("I1", node->id, "%s runs on a machine that was replaced, too", mine->d.name);
    for (uint32_t n = 0; n < sim.node_count; n++) {
        const struct sim_node *other = &sim.nodes[n];
        for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
            const struct sim_domain *d = &other->domains[i];
            if (!d->is_used || d == mine || !ha_uuid_equal(d->d.label.guest, mine->d.label.guest))
                continue;
            if (sim_is_runnable(d))
                sim_violation("I1", node->id, "%s runs on %s, too", mine->d.name, other->name);
            else if (d->io_until > sim.now)
                sim_violation("I2", node->id, "%s runs while its disk is written on %s",
                              mine->d.name, other->name);
        }
        if (guest >= 0 && other != node && other->in_flight[guest] && other->boots > 0 &&
            sim.now < other->died + other->in_flight_ns)
            sim_violation("I2", node->id, "%s runs while writes of dead %s are in flight",
                          mine->d.name, other->name);
    }
}

/* For the ticket that is open now; another that has ended in ABORT is nobody's word any more. */
bool sim_is_handed_over(const struct sim_domain *domain)
{
    const struct ha_guest *guest = ha_state_guest(&truth, domain->d.label.guest);

    return domain->is_saved && guest && guest->ticket.id != 0 &&
           guest->ticket.id == domain->saved_for;
}

/* Ownership as committed: the copy that may run has the record's epoch, on the record's node. */
static void check_owner(const struct sim_node *node, const struct sim_domain *domain)
{
    const struct ha_guest *guest = ha_state_guest(&truth, domain->d.label.guest);
    uint64_t epoch = domain->d.label.epoch;

    if (!guest || guest->phase == HA_PHASE_FREE || guest->node != node->id || guest->epoch != epoch)
        sim_violation("I3", node->id, "%s epoch %llu runs, but the log gives epoch %llu to n%u",
                      domain->d.name, (unsigned long long)epoch,
                      guest ? (unsigned long long)guest->epoch : 0, guest ? guest->node : 0);
    else if (guest->phase == HA_PHASE_MIGRATING && sim_is_handed_over(domain))
        sim_violation("I8", node->id, "%s resumes on its source before ABORT", domain->d.name);
}

/* By what happened, or by the log: after a hamgrd that knew died, an arrived copy whose RUN failed
 * may have run, so ARRIVED is said of it, and it is let go on like any other. */
static bool has_run_before(const struct sim_node *node, const struct sim_domain *domain)
{
    const struct ha_guest *guest = ha_state_guest(&truth, domain->d.label.guest);

    return domain->has_run || (guest && guest->phase == HA_PHASE_RUNNING &&
                               guest->node == node->id && guest->epoch == domain->d.label.epoch);
}

/* DISARM is the last word that reached it: its keeper stopped for that, and nothing else there asks
 * for a lease. */
static bool knows_disarm(const struct sim_node *node)
{
    return node->d && node->d->state.is_disarmed;
}

bool sim_may_run_unleased(const struct sim_node *node, const struct sim_domain *domain)
{
    const struct ha_node *n = ha_state_node(&truth, node->id);
    /* What ran before goes on while nobody counts on this incarnation's lease (reconcile_guest.c).
     * The worst that can come of it: after DISARM and ARM a keeper hangs, its node is cut off, and
     * a RUN that was on its way makes a guest runnable there long after the lease. Somebody else
     * may start it only behind FENCED. By T_wait that is refused without an ARMED of this
     * incarnation; ARMED is committed only if the keeper was armed at or behind the entry that
     * unarmed it, and then the gate asks for the lease again, and the keeper resets a gate that
     * hangs. An agent's word and a new boot mean that nothing runs there; an operator's is his.
     * After SWITCH or a stop the copy is saved or destroyed by the same hamgr-hv, behind the RUN.
     * So it is I5's "unless disarmed or frozen", as long as a keeper stops for I6's reasons only,
     * which is asked for here: a rejoin alone also takes ARMED back. The same is true of a first
     * RUN that was on its way when DISARM came, to a hamgr-hv that hung. */
    bool is_uncounted = n && !n->is_armed && node->keeper.state == KEEPER_DISARMED &&
                        (has_run_before(node, domain) || knows_disarm(node)) &&
                        !seen.is_guarded[node->id];

    return truth.is_disarmed || (n && n->is_frozen) || is_uncounted ||
           node->gate_hello.is_disarmed || node->gate_hello.is_frozen;
}

static void check_lease(const struct sim_node *node, const struct sim_domain *domain)
{
    const struct ha_node *n = ha_state_node(&truth, node->id);

    if (sim_may_run_unleased(node, domain))
        return;
    if (node->page.lease_end_ns <= sim_raw_ns(node))
        sim_violation("I5", node->id, "%s is made runnable without a lease", domain->d.name);
    if (sim_is_slept_through(node))
        sim_violation("I5", node->id,
                      "%s is made runnable on a lease from before its host was suspended",
                      domain->d.name);
    if (node->keeper.state == KEEPER_QUARANTINED)
        sim_violation("I5", node->id,
                      "%s is made runnable while the keeper trusts a proof of quiet",
                      domain->d.name);
    if (node->keeper.state == KEEPER_DISARMED || !node->watchdog.is_armed)
        sim_violation("I6", node->id, "%s is made runnable without a watchdog", domain->d.name);
    /* A node that rejoins within a boot keeps its L and W: its guests go on while ARMED is renewed.
     * Behind DISARM and ARM it has none until then, and what ran before goes on all the same: by a
     * lease and a watchdog, as was asked above. */
    if (n && !n->is_armed && n->lease_ms == 0 && !has_run_before(node, domain))
        sim_violation("I6", node->id, "%s runs before ARMED is applied", domain->d.name);
}

void sim_check_run(struct sim_node *node, const struct sim_domain *domain)
{
    check_elsewhere(node, domain);
    check_owner(node, domain);
    check_lease(node, domain);
    sim_check_policy_run(node, domain);
}

static bool has_runnable(const struct sim_node *node)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        if (sim_is_runnable(&node->domains[i]))
            return true;
    }
    return false;
}

/* L6: a daemon that is back within L costs no guest a moment; nor does a lease while disarmed. */
void sim_check_pause(const struct sim_node *node, const struct sim_domain *domain)
{
    if (node->gate_hello.is_disarmed)
        sim_violation("L6", node->id, "%s is paused while the cluster is disarmed", domain->d.name);
    if (sim.options.is_gentle)
        sim_violation("L6", node->id, "%s is paused although nothing worse than a restart happened",
                      domain->d.name);
}

/* The guest was run behind the proof: the keeper hung, was told nothing of that yet, and believes
 * in its last proof for a second. Who is to be fenced by waiting was armed since, by a keeper that
 * had answered. */
static bool is_proof_older(const struct sim_node *node, const struct sim_domain *d)
{
    return d->is_unleased && d->ran_ns >= node->keeper.proof_ns;
}

/* A pet keeps the host alive: then its lease holds, or nothing runs here. */
void sim_check_pet(struct sim_node *node)
{
    if (node->keeper.lease_end_ns > node->told_lease_ns)
        sim_violation("I5", node->id, "the keeper counts on a lease that nobody gave");
    if (sim_is_slept_through(node) && node->keeper.lease_end_ns > sim_raw_ns(node) &&
        has_runnable(node))
        sim_violation("I5", node->id, "petted on a lease from before its host was suspended");
    if (node->keeper.lease_end_ns > sim_raw_ns(node))
        return;
    if (has_runnable(node) && !truth.is_disarmed && !node->gate_hello.is_disarmed &&
        !node->gate_hello.is_frozen)
        sim_violation("I5", node->id, "petted without a lease while guests run");
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        const struct sim_domain *d = &node->domains[i];
        if (d->is_used && !sim_is_runnable(d) && d->io_until > sim.now &&
            node->keeper.state == KEEPER_QUARANTINED && d->io_until > sim.now + 4 * 250 * NS_MS &&
            !is_proof_older(node, d))
            sim_violation("I2", node->id, "quarantined with writes of %s outstanding", d->d.name);
    }
}

/* I6: whoever counts on this node's watchdog has been told otherwise before. */
void sim_check_disarm(struct sim_node *node)
{
    const struct ha_node *n = ha_state_node(&truth, node->id);

    if ((n && n->is_armed) || seen.is_guarded[node->id])
        sim_violation("I6", node->id, "the keeper disarms while the log says ARMED");
}

/* L4: back-off. Two levels, some leaders one after the other, and an operator's wish are far less.
 */
void sim_check_fence_order(struct sim_node *target)
{
    if (sim.now > target->fence_since + 60 * NS_S) {
        target->fence_since = sim.now;
        target->fence_orders = 0;
    }
    target->fence_orders += sim_has_plant("fence-storm") ? 41 : 1;
    if (target->fence_orders > FENCE_ORDERS_MAX)
        sim_violation("L4", target->id, "more than %u orders to switch it off in a minute",
                      FENCE_ORDERS_MAX);
}

void sim_check_fence_off(struct sim_node *target)
{
    if (truth.is_disarmed && sim.now > seen.disarmed_at + 25 * NS_S)
        sim_violation("I11", target->id, "fenced while the cluster is disarmed");
    if (sim.options.is_gentle)
        sim_violation("L5", target->id, "fenced although nothing worse than a restart happened");
}

/* ---- what is committed -------------------------------------------------------------------------
 */

/* FENCED frees the node's guests: from now on they may run elsewhere. */
static void on_fenced(const struct ha_state *before, const struct ha_cmd *cmd)
{
    struct sim_node *node = sim_node(cmd->node);

    seen.fenced_count++;
    if (cmd->u.fenced.evidence == HA_EVIDENCE_AGENT && node->has_power && node->boots > 0 &&
        has_runnable(node) && node->id != 0) {
        const struct ha_node *n = ha_state_node(before, cmd->node);
        if (n && ha_uuid_equal(n->boot_id, node->boot_id))
            sim_violation("I7", node->id, "fenced by an agent's word, but it is on");
    }
    for (uint32_t g = 0; g < before->guest_count; g++) {
        const struct ha_guest *guest = &before->guests[g];
        struct sim_domain *d = copy_of(node, guest->id, guest->epoch);
        if (guest->phase != HA_PHASE_FREE && guest->node == cmd->node && d && sim_is_runnable(d))
            sim_violation("I3", node->id, "FENCED is committed while it runs %s", d->d.name);
    }
    if (sim_machine_runs(node->id, (struct ha_uuid){{0}}))
        sim_violation("I3", node->id, "FENCED is committed while its old machine runs guests");
    if (sim.options.is_gentle)
        sim_violation("L5", node->id, "FENCED although nothing worse than a restart happened");
}

static void on_armed(const struct ha_cmd *cmd)
{
    struct sim_node *node = sim_node(cmd->node);
    const struct ha_node *n = ha_state_node(&truth, cmd->node);

    if (!node->has_power || !n || !ha_uuid_equal(n->boot_id, node->boot_id))
        return; /* it died meanwhile: its guests with it */
    if (!node->watchdog.is_armed || node->keeper_watchdog_ms > cmd->u.armed.watchdog_ms)
        sim_violation("I6", node->id, "ARMED is committed, but no watchdog of that time is");
}

/* What lets a keeper stop; the rejoin of a node does not. */
static void note_guard(const struct ha_cmd *cmd)
{
    if (cmd->type == HA_CMD_DISARM)
        memset(seen.is_guarded, 0, sizeof(seen.is_guarded));
    else if ((cmd->type == HA_CMD_UNARMED || cmd->type == HA_CMD_LEAVE ||
              cmd->type == HA_CMD_FREEZE || cmd->type == HA_CMD_ARMED) &&
             cmd->node <= SIM_NODES)
        seen.is_guarded[cmd->node] = cmd->type == HA_CMD_ARMED;
}

static void on_not_running(const struct ha_cmd *cmd)
{
    struct sim_node *node = sim_node(cmd->node);
    struct sim_domain *d = copy_of(node, cmd->guest, cmd->epoch);

    if (d && (sim_is_runnable(d) || d->io_until > sim.now))
        sim_violation("I9", node->id, "NOT_RUNNING is committed, but %s epoch %llu %s", d->d.name,
                      (unsigned long long)cmd->epoch, sim_is_runnable(d) ? "runs" : "still writes");
}

static void note_failure(const struct ha_state *before, const struct ha_cmd *cmd, int guest)
{
    const struct ha_guest *old = ha_state_guest(before, cmd->guest);
    const struct ha_guest *now = ha_state_guest(&truth, cmd->guest);

    if (cmd->type == HA_CMD_NOT_RUNNING && guest >= 0 && old && now &&
        now->failures != old->failures)
        seen.failed_at[guest] = sim.now;
}

static void on_switch(const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(&truth, cmd->guest);
    struct sim_node *source = guest && guest->ticket.src ? sim_node(guest->ticket.src) : NULL;
    struct sim_domain *d = source ? copy_of(source, cmd->guest, guest->ticket.src_epoch) : NULL;

    if (d && (sim_is_runnable(d) || d->io_until > sim.now))
        sim_violation("I8", source->id, "SWITCH is committed, but %s %s on its source", d->d.name,
                      sim_is_runnable(d) ? "runs" : "writes");
}

static void on_command(const struct ha_state *before, const struct ha_applied *applied)
{
    const struct ha_cmd *cmd = &applied->cmd;
    int guest = sim_guest_index(cmd->guest);

    note_guard(cmd);
    note_failure(before, cmd, guest);
    if (cmd->type == HA_CMD_FENCED)
        on_fenced(before, cmd);
    else if (cmd->type == HA_CMD_ARMED)
        on_armed(cmd);
    else if (cmd->type == HA_CMD_NOT_RUNNING)
        on_not_running(cmd);
    else if (cmd->type == HA_CMD_SWITCH)
        on_switch(cmd);
    else if (cmd->type == HA_CMD_DISARM)
        seen.disarmed_at = sim.now;
    if (sim.is_healing && guest >= 0 && (cmd->type == HA_CMD_ASSIGN || cmd->type == HA_CMD_MIGRATE))
        seen.moved[guest] += sim_has_plant("guests-hop") ? 9 : 1;
    sim_script_note(cmd);
    sim_matrix_note(cmd);
    sim_faults_hook(cmd->type);
    sim_corner_committed(cmd->type);
    sim_corner_moves_committed(before, cmd);
}

/* I4: the records' epochs only grow. */
static void check_epochs(const struct ha_state *before)
{
    for (uint32_t i = 0; i < truth.guest_count && i < before->guest_count; i++) {
        const struct ha_guest *now = &truth.guests[i], *old = &before->guests[i];
        if (!ha_uuid_equal(now->id, old->id))
            continue;
        if (now->epoch_high < old->epoch_high)
            sim_violation("I4", 0, "the epochs of %s went back", now->name);
        if (now->phase != old->phase)
            sim_transition(SIM_SM_GUEST, old->phase, now->phase);
    }
    for (uint32_t i = 0; i < truth.node_count && i < before->node_count; i++) {
        if (truth.nodes[i].status != before->nodes[i].status)
            sim_transition(SIM_SM_NODE, before->nodes[i].status, truth.nodes[i].status);
    }
}

/* I12: a view's members have a protocol in common, and none older than what the log has seen. */
static void check_versions(const struct log_entry *entry)
{
    struct log_open open;
    uint16_t low = 0, high = UINT16_MAX;

    if (log_open_decode(entry->body, entry->body_size, &open) < 0)
        return;
    for (uint32_t i = 0; i < open.member_count; i++) {
        const struct log_member *m = &open.members[i];
        low = m->proto_min > low ? m->proto_min : low;
        high = m->proto_max < high ? m->proto_max : high;
    }
    if (low > high || high < seen.proto || sim_has_plant("version-ignored"))
        sim_violation("I12", 0, "a view of protocols %u to %u, the log has seen %u", low, high,
                      seen.proto);
    seen.proto = high > seen.proto ? high : seen.proto;
}

/* The first node to apply an entry tells the truth. */
static void extend(const struct log_entry *entry)
{
    static struct ha_state before;
    static struct ha_guest before_guests[SIM_GUESTS * 2];
    struct ha_applied applied;

    before = truth;
    before.guests = before_guests;
    memcpy(before_guests, truth_guests, truth.guest_count * sizeof(truth_guests[0]));
    ha_assert(entry->index < PREFIX_MAX);
    prefix[entry->index] = entry->digest;
    if (sim_version_apply_truth(&truth, entry, &applied, seen.proto) < 0) {
        sim_violation("I4", 0, "entry %llu can't be applied", (unsigned long long)entry->index);
        return;
    }
    sim_mix(entry->digest.low);
    sim_check_state_truth();
    const char *broken = ha_state_violation(&truth);
    if (broken)
        sim_violation("I4", 0, "%s", broken);
    sim_events_applied(&before, entry, &applied);
    check_epochs(&before);
    sim_check_policy(&before, entry, &applied);
    if (applied.kind == LOG_KIND_OPEN) {
        seen.opened_at = sim.now;
        check_versions(entry);
        sim_check_rejoin_opened();
    }
    if (applied.kind == LOG_KIND_STATE && !applied.is_noop)
        on_command(&before, &applied);
}

int __wrap_ha_state_apply(struct ha_state *state, const struct log_entry *entry,
                          struct ha_applied *ret_applied)
{
    uint32_t node = sim.running ? sim.running->node->id : 0;

    if (entry->index == truth.applied + 1)
        extend(entry);
    else if (entry->index > truth.applied + 1)
        sim_violation("I4", node, "entry %llu is applied behind a gap",
                      (unsigned long long)entry->index);
    else if (!ha_digest_equal(entry->digest, prefix[entry->index]) ||
             (sim_has_plant("entry-differs") && entry->index == 40))
        sim_violation("I4", node, "another entry %llu is committed here",
                      (unsigned long long)entry->index);
    int r = sim_version_apply(state, entry, ret_applied);
    sim_check_state_copy(node, state);
    return r;
}

/* ---- at the end: everything is well again ------------------------------------------------------
 */

static bool has_room(const struct ha_guest *guest)
{
    for (uint32_t i = 0; i < truth.node_count; i++) {
        const struct ha_node *node = &truth.nodes[i];
        if (ha_state_node_is_eligible(&truth, node, NULL) &&
            ha_state_mem_used_kib(&truth, node->id) + guest->mem_kib <= node->mem_kib)
            return true;
    }
    return false;
}

static bool runs_somewhere(const struct ha_guest *guest)
{
    for (uint32_t n = 0; n < sim.node_count; n++) {
        struct sim_domain *d = copy_of(&sim.nodes[n], guest->id, guest->epoch);
        if (d && sim_is_runnable(d))
            return true;
    }
    return false;
}

static bool nodes_are_well(char *ret_why, size_t size)
{
    for (uint32_t n = 0; n < sim.node_count; n++) {
        const struct sim_node *node = &sim.nodes[n];
        if (sim_is_left_hung(node))
            continue;
        if (!node->d || !node->d->log || !log_is_open(node->d->log) ||
            truth.applied > node->d->state.applied + 16) {
            snprintf(ret_why, size, "%s is not back in an up-to-date view", node->name);
            return false;
        }
    }
    for (uint32_t i = 0; i < truth.node_count; i++) {
        if (truth.nodes[i].status == HA_NODE_UNCLEAN &&
            !sim_is_left_hung(sim_node(truth.nodes[i].id))) {
            snprintf(ret_why, size, "n%u is still UNCLEAN", truth.nodes[i].id);
            return false;
        }
    }
    return true;
}

static bool is_well(const struct ha_guest *guest, char *ret_why, size_t size)
{
    bool runs = guest->phase == HA_PHASE_RUNNING && runs_somewhere(guest);

    if (guest->ticket.id) {
        snprintf(ret_why, size, "the migration of %s does not end", guest->name);
        return false;
    }
    if (guest->want == HA_WANT_STARTED && !guest->is_failed && !runs &&
        (guest->phase != HA_PHASE_FREE || has_room(guest))) {
        snprintf(ret_why, size, "%s does not run (%s, n%u, epoch %llu)", guest->name,
                 ha_phase_name(guest->phase), guest->node, (unsigned long long)guest->epoch);
        return false;
    }
    if (guest->want == HA_WANT_STOPPED && guest->phase != HA_PHASE_FREE) {
        snprintf(ret_why, size, "%s is not stopped (%s)", guest->name, ha_phase_name(guest->phase));
        return false;
    }
    return true;
}

bool sim_is_settled(char *ret_why, size_t size)
{
    if (!nodes_are_well(ret_why, size))
        return false;
    for (uint32_t i = 0; i < truth.guest_count; i++) {
        if (!is_well(&truth.guests[i], ret_why, size))
            return false;
    }
    return true;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Counted by the true clock, not by what the planner makes of its own: one that gets its back-off
 * wrong is found. A leader counts by its own clock since the failure, which may seem to be just now
 * to the next one: another view is another back-off, but none that opens behind `latest` is. */
static bool is_backing_off(const struct ha_guest *guest, uint64_t latest)
{
    int index = sim_guest_index(guest->id);
    uint64_t wait_ns = BACK_OFF_MIN_NS;

    if (index < 0 || guest->failures < 2 || guest->ticket.id || seen.failed_at[index] > latest ||
        (guest->phase != HA_PHASE_FREE && guest->phase != HA_PHASE_ASSIGNED))
        return false;
    for (uint32_t i = 2; i < guest->failures && wait_ns < BACK_OFF_MAX_NS; i++)
        wait_ns *= 2;
    wait_ns = wait_ns < BACK_OFF_MAX_NS ? wait_ns : BACK_OFF_MAX_NS;
    uint64_t opened_at = seen.opened_at < latest ? seen.opened_at : latest;
    return sim.now < later(seen.failed_at[index], opened_at) + wait_ns + START_NS;
}

bool sim_is_only_backing_off(uint64_t latest)
{
    char why[160];

    if (!nodes_are_well(why, sizeof(why)))
        return false;
    for (uint32_t i = 0; i < truth.guest_count; i++) {
        const struct ha_guest *guest = &truth.guests[i];
        if (!is_well(guest, why, sizeof(why)) && !is_backing_off(guest, latest))
            return false;
    }
    return true;
}

/* L1 and L3. */
void sim_check_end(void)
{
    char why[160];

    if (truth.applied == 0)
        sim_violation("L1", 0, "no view ever opened");
    else if (!sim_is_settled(why, sizeof(why)))
        sim_violation("L1", 0, "%s", why);
    for (uint32_t n = 0; n < sim.node_count; n++) {
        const struct sim_node *node = &sim.nodes[n];
        bool is_stopped = node->d && node->d->is_stopped && !sim_version_is_refused(node);
        if (is_stopped || (node->d && sim_has_plant("hamgrd-gives-up")))
            sim_violation("L3", node->id, "hamgrd stopped: %.150s", node->d->alarm);
        if (node->d && truth.applied > node->d->state.applied + 64 && !sim_is_left_hung(node))
            sim_violation("L3", node->id, "lags behind by %llu entries",
                          (unsigned long long)(truth.applied - node->d->state.applied));
    }
    for (uint32_t g = 0; g < sim.guest_count; g++) {
        if (seen.moved[g] > 6)
            sim_violation("L2", 0, "g%u was moved %llu times after the last fault", g + 1,
                          (unsigned long long)seen.moved[g]);
    }
}
