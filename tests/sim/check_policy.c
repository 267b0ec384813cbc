/* SPDX-License-Identifier: Apache-2.0
 *
 * Further ground truth: what commands promise when they are committed. T_wait, counted from the
 * lease that the fenced node's keeper really had; whom fence agents may be sent against; what a
 * REVERT gives back; in which order and where guests are placed.
 */
#include <string.h>

#include "quorum/log_internal.h"
#include "tests/sim/sim.h"

/* P, B and D as hamgr.conf has them by default. */
#define POLL_NS  (250 * NS_MS)
#define RESET_NS (1000 * NS_MS)
#define DRAIN_NS (2000 * NS_MS)
/* H with the times of net.c: 2 (token + consensus) + 3 h. */
#define HOLD_NS (5900 * NS_MS)
/* B and D are not stretched by rho: two clocks 1 % apart and rounding to ms make them shorter. */
#define CLOCKS_NS (35 * NS_MS)
/* Orders under way when a node was taken back, or a guest ordered, are nobody's fault. */
#define UNDER_WAY_NS (5 * NS_S)
#define GROWN_MAX    256u

static struct {
    uint64_t tried_index[SIM_GUESTS]; /* last ASSIGN, without effect, too */
    uint64_t told_at[SIM_GUESTS];     /* by an operator */
    uint64_t member_since[SIM_NODES + 1];
    uint64_t held_at[SIM_NODES + 1];   /* a guest, or an end of a ticket, before the last entry */
    uint64_t wanted_at[SIM_NODES + 1]; /* off, by an operator, before the last entry */
    bool is_held[SIM_NODES + 1];       /* absent in a view that followed another with a gap */
    uint64_t opened_at, open_index, disarmed_at;
    uint64_t ran_epoch[SIM_GUESTS]; /* the newest that was ever made runnable */
    struct {
        uint32_t node;
        uint64_t at, index, by_kib;
    } grown[GROWN_MAX]; /* guests made room there; a ring */
    uint32_t grown_count;
    struct {
        uint64_t nonce, seq;
    } numbered[SIM_NODES + 1][2]; /* of the two last processes of a node that proposed */
} seen;

void sim_check_policy_reset(void)
{
    memset(&seen, 0, sizeof(seen));
}

/* ---- the log -----------------------------------------------------------------------------------
 */

/* Committed means: durable on the disks of a strict majority of the voters that the log names. Lost
 * stores held it once. Whoever has a change of voters numbered behind counts by the new ones. */
static void check_durable(const struct log_entry *entry)
{
    const struct ha_state *state = sim_truth();
    uint32_t voters = 0, holders = 0;

    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct sim_node *node = sim_node(id);
        if (node->d && node->d->log && node->d->log->survey.voter_index > entry->index)
            return;
    }
    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct sim_node *node = sim_node(state->nodes[i].id);
        bool is_lost = !sim_disk_exists(node) || !sim_disk_is(node, state->nodes[i].store_id);
        voters += state->nodes[i].is_voter;
        holders += state->nodes[i].is_voter &&
                   (is_lost || sim_disk_holds(node, entry->index, entry->digest));
    }
    if (2 * holders <= voters)
        sim_violation("I4", 0, "entry %llu is committed, but durable at %u of %u voters only",
                      (unsigned long long)entry->index, holders, voters);
}

/* A process' proposals are committed in order, each once (section 3). */
static void check_numbered_once(const struct log_entry *entry)
{
    if (entry->seq == 0 || entry->origin == 0 || entry->origin > SIM_NODES)
        return;
    for (uint32_t i = 0; i < 2; i++) {
        if (seen.numbered[entry->origin][i].nonce != entry->nonce)
            continue;
        if (entry->seq <= seen.numbered[entry->origin][i].seq)
            sim_violation("I4", entry->origin, "its proposal %llu is committed twice",
                          (unsigned long long)entry->seq);
        seen.numbered[entry->origin][i].seq = entry->seq;
        return;
    }
    seen.numbered[entry->origin][1] = seen.numbered[entry->origin][0];
    seen.numbered[entry->origin][0].nonce = entry->nonce;
    seen.numbered[entry->origin][0].seq = entry->seq;
}

/* ---- fencing -----------------------------------------------------------------------------------
 */

static bool is_same_boot(const struct ha_state *state, const struct sim_node *node)
{
    const struct ha_node *n = ha_state_node(state, node->id);

    return node->has_power && n && ha_uuid_equal(n->boot_id, node->boot_id);
}

/* Its raw clock stood still so long since the heartbeat that its lease is of. */
static uint64_t slept_ns(const struct sim_node *node)
{
    const struct sim_sleep *sleep = &node->sleep;
    uint64_t done_ns = sleep->is_asleep ? sim.now - sleep->fell_at : sleep->span_ns;

    return sleep->is_asleep || sim_is_slept_through(node) ? done_ns : 0;
}

/* What its keeper counts on, or did before a suspend. */
static uint64_t lease_end_ns(const struct sim_node *node)
{
    return node->page.lease_end_ns > 0 ? node->page.lease_end_ns : node->sleep.lease_end_ns;
}

/* T_wait as the node sees it: its lease, and all that may come behind it, are over. */
static void check_wait(const struct ha_state *before, const struct ha_cmd *cmd)
{
    const struct sim_node *node = sim_node(cmd->node);
    uint64_t over =
        lease_end_ns(node) + POLL_NS + RESET_NS + DRAIN_NS + node->keeper_watchdog_ms * NS_MS;

    uint64_t now = sim_raw_ns(node) + slept_ns(node);

    if (!ha_state_node(before, cmd->node)->is_armed)
        sim_violation("I3", node->id, "FENCED by T_wait, but its watchdog was not told of");
    if (is_same_boot(before, node) && now + CLOCKS_NS < over)
        sim_violation("I3", node->id, "FENCED by T_wait is committed %llu ms too early",
                      (unsigned long long)((over - now) / NS_MS));
}

/* I7: who was verified off has not been on ever since. */
static void check_agent(const struct ha_state *before, const struct ha_cmd *cmd)
{
    if (is_same_boot(before, sim_node(cmd->node)))
        sim_violation("I7", cmd->node, "fenced by an agent's word, but it was never off");
}

static bool holds_something(const struct ha_state *state, uint32_t id)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        const struct ha_guest *guest = &state->guests[i];
        bool is_end = guest->ticket.id && (guest->ticket.src == id || guest->ticket.dst == id);
        if (guest->phase != HA_PHASE_FREE && (guest->node == id || is_end))
            return true;
    }
    return false;
}

/* So long an order may be on its way; through the sleep of who gave it or carries it out, too. */
static uint64_t under_way_ns(void)
{
    uint64_t slept = 0;

    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct sim_sleep *sleep = &sim_node(id)->sleep;
        bool is_fresh = sleep->woke_at > 0 && sim.now < sleep->woke_at + UNDER_WAY_NS;
        slept = is_fresh && sleep->span_ns > slept ? sleep->span_ns : slept;
    }
    return UNDER_WAY_NS + slept;
}

/* I11: an agent is sent against who is absent, or whom an operator wants off, or wanted off before
 * he took that back (DISARM does); after a reunion not before H. A hamgrd that hung may carry out
 * an order late, but not for long. */
void sim_check_fence_target(const struct sim_node *target)
{
    const struct ha_node *n = ha_state_node(sim_truth(), target->id);
    uint64_t late_ns = under_way_ns();

    if (sim_truth()->is_disarmed && sim.now > seen.disarmed_at + late_ns)
        sim_violation("I11", target->id, "is to be switched off while the cluster is disarmed");
    uint64_t wanted_at = seen.wanted_at[target->id];

    if (!n || n->is_fence_wanted || (wanted_at > 0 && sim.now <= wanted_at + late_ns))
        return;
    if (n->status == HA_NODE_MEMBER && sim.now > seen.member_since[target->id] + late_ns)
        sim_violation("I11", target->id, "is to be switched off although it is a member");
    if (n->status == HA_NODE_UNCLEAN && !holds_something(sim_truth(), target->id) &&
        sim.now > seen.held_at[target->id] + late_ns)
        sim_violation("I11", target->id, "is to be switched off although it holds nothing back");
    if (n->status == HA_NODE_UNCLEAN && n->is_hold && n->status_index == seen.open_index &&
        sim.now + CLOCKS_NS < seen.opened_at + HOLD_NS)
        sim_violation("I11", target->id, "is to be switched off before H is over");
}

/* Whoever came back while this leader's host was suspended is in a view that it does not know: its
 * own is none that is open and quorate any more (I11). */
static void check_slept_over(const struct sim_node *leader, const struct ha_node *target)
{
    const struct sim_sleep *sleep = &leader->sleep;
    uint64_t since = seen.member_since[target->id];

    if (target->status == HA_NODE_MEMBER && sleep->woke_at > 0 && since > sleep->fell_at &&
        since < sleep->woke_at && sim.now > seen.wanted_at[target->id] + under_way_ns())
        sim_violation("I11", target->id,
                      "n%u sends agents against it, and slept as it became a member", leader->id);
}

/* I11, from the leader's side: whoever is absent when a view opens after a gap, since then or for
 * longer, is given H to come back. An older leader's orders are not judged here. */
void sim_check_fence_actions(const struct ha_state *seen_by_leader,
                             const struct fence_actions *actions)
{
    for (uint32_t i = 0; i < actions->count; i++) {
        const struct fence_action *action = &actions->list[i];
        bool is_lease =
            action->type == FENCE_ACT_PROPOSE && action->cmd.u.fenced.evidence == HA_EVIDENCE_LEASE;
        uint32_t id = action->type == FENCE_ACT_PROPOSE ? action->cmd.node : action->node;
        const struct ha_node *n = ha_state_node(sim_truth(), id);
        if (action->type == FENCE_ACT_START && seen_by_leader->is_disarmed)
            sim_violation("I11", id, "agents are sent against it while the cluster is disarmed");
        if (action->type == FENCE_ACT_START && sim.running)
            sim_check_leader_hears(sim.running->node, id);
        if (action->type == FENCE_ACT_START && sim.running && n && !n->is_fence_wanted)
            check_slept_over(sim.running->node, n);
        if ((action->type != FENCE_ACT_START && !is_lease) || !n || n->is_fence_wanted ||
            n->status != HA_NODE_UNCLEAN || !seen.is_held[id] ||
            seen_by_leader->applied < seen.open_index)
            continue;
        if (sim.now + CLOCKS_NS < seen.opened_at + HOLD_NS)
            sim_violation("I11", id, "its fencing begins before H is over");
    }
}

/* ---- placing -----------------------------------------------------------------------------------
 */

static uint64_t room_kib(const struct ha_state *state, const struct ha_node *node)
{
    uint64_t used_kib = ha_state_mem_used_kib(state, node->id);

    return used_kib < node->mem_kib ? node->mem_kib - used_kib : 0;
}

/* A guest ended on a node: who planned just before did not have its room yet. */
static void note_room(const struct ha_state *before, uint64_t index)
{
    for (uint32_t i = 0; i < before->node_count; i++) {
        const struct ha_node *now = ha_state_node(sim_truth(), before->nodes[i].id);
        uint64_t was_kib = room_kib(before, &before->nodes[i]);
        uint64_t kib = now ? room_kib(sim_truth(), now) : 0;

        if (kib <= was_kib)
            continue;
        seen.grown[seen.grown_count % GROWN_MAX].node = now->id;
        seen.grown[seen.grown_count % GROWN_MAX].at = sim.now;
        seen.grown[seen.grown_count % GROWN_MAX].index = index;
        seen.grown[seen.grown_count % GROWN_MAX].by_kib = kib - was_kib;
        seen.grown_count++;
    }
}

/* As little as who placed `chosen` may have thought: all that was given away is gone, but of what
 * ended since that guest became free nothing need have been known. */
static uint64_t planned_room_kib(const struct ha_state *before, const struct ha_node *node,
                                 const struct ha_guest *chosen)
{
    uint64_t kib = room_kib(before, node), new_kib = 0;

    for (uint32_t i = 0; i < GROWN_MAX; i++) {
        if (seen.grown[i].node == node->id && seen.grown[i].index > chosen->phase_index &&
            sim.now <= seen.grown[i].at + UNDER_WAY_NS)
            new_kib += seen.grown[i].by_kib;
    }
    return new_kib < kib ? kib - new_kib : 0;
}

/* Freed by the same entry, wanted as long, more important, not tried, and it would fit. */
static bool is_passed_over(const struct ha_state *before, const struct ha_guest *chosen,
                           const struct ha_guest *other, uint64_t room)
{
    int g = sim_guest_index(other->id);

    return other != chosen && g >= 0 && other->phase == HA_PHASE_FREE &&
           other->want == HA_WANT_STARTED && !other->is_failed && other->end_cause == 0 &&
           other->phase_index == chosen->phase_index && before->applied > other->phase_index &&
           other->policy.priority > chosen->policy.priority && other->mem_kib <= room &&
           seen.tried_index[g] < other->phase_index &&
           (seen.told_at[g] == 0 || sim.now > seen.told_at[g] + UNDER_WAY_NS);
}

static void check_assign(const struct ha_state *before, const struct ha_cmd *cmd)
{
    const struct ha_node *node = ha_state_node(before, cmd->node);
    const struct ha_guest *chosen = ha_state_guest(before, cmd->guest);

    if (!node || !chosen)
        return;
    /* Only the owner's own word or its death frees a guest (section 6). */
    if (chosen->phase != HA_PHASE_FREE)
        sim_violation("I3", node->id, "%s is given to it while n%u owns it", chosen->name,
                      chosen->node);
    if (chosen->end_cause != 0)
        return;
    uint64_t room = planned_room_kib(before, node, chosen);
    for (uint32_t i = 0; i < before->guest_count; i++) {
        const struct ha_guest *other = &before->guests[i];
        if (is_passed_over(before, chosen, other, room))
            sim_violation("I14", node->id, "%s (priority %u) is started before %s (priority %u)",
                          chosen->name, chosen->policy.priority, other->name,
                          other->policy.priority);
    }
}

/* I14, and I4: an epoch that was ever reserved is not given out again. */
static void check_place(const struct ha_state *before, const struct ha_cmd *cmd, uint32_t id)
{
    const struct ha_node *node = ha_state_node(before, id);
    const struct ha_guest *guest = ha_state_guest(before, cmd->guest);

    if (guest && cmd->epoch <= guest->epoch_high)
        sim_violation("I4", id, "epoch %llu of %s is given out twice",
                      (unsigned long long)cmd->epoch, guest->name);
    if (node && (node->is_maintenance || node->is_frozen || node->is_witness ||
                 sim_has_plant("places-anywhere")))
        sim_violation("I14", id, "a guest is placed on a node that takes none");
}

/* ---- migration ---------------------------------------------------------------------------------
 */

static const struct sim_domain *copy_on(uint32_t id, struct ha_uuid guest, uint64_t epoch)
{
    const struct sim_node *node = sim_node(id);

    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        const struct sim_domain *domain = &node->domains[i];
        if (domain->is_used && domain->d.label.epoch == epoch &&
            ha_uuid_equal(domain->d.label.guest, guest))
            return domain;
    }
    return NULL;
}

/* I8: SWITCH rests on the source's word that it is suspended and drained. */
static void check_switch(const struct ha_state *before, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(before, cmd->guest);
    const struct ha_ticket *ticket = &guest->ticket;
    const struct sim_domain *left = copy_on(ticket->src, guest->id, ticket->src_epoch);

    if (left && (!left->is_saved || left->saved_for != ticket->id))
        sim_violation("I8", ticket->src, "SWITCH is committed before %s is handed over",
                      guest->name);
}

/* Memory never runs again after newer memory of the same guest: the disk is ahead of it. */
void sim_check_policy_run(const struct sim_node *node, const struct sim_domain *domain)
{
    int guest = sim_guest_index(domain->d.label.guest);
    uint64_t epoch = domain->d.label.epoch;

    if (guest < 0)
        return;
    if (epoch < seen.ran_epoch[guest])
        sim_violation("I8", node->id, "%s epoch %llu runs, but epoch %llu has run", domain->d.name,
                      (unsigned long long)epoch, (unsigned long long)seen.ran_epoch[guest]);
    else
        seen.ran_epoch[guest] = epoch;
}

/* Nor does the log give a guest back to a copy that is older than one that ran: a lost destination
 * may have run what was switched to it, whatever it still had time to say. */
static void check_memory(const struct log_entry *entry)
{
    const struct ha_state *now = sim_truth();

    for (uint32_t i = 0; i < now->guest_count; i++) {
        const struct ha_guest *guest = &now->guests[i];
        int index = sim_guest_index(guest->id);
        if (index < 0 || guest->phase == HA_PHASE_FREE || guest->phase_index != entry->index)
            continue;
        if (guest->epoch < seen.ran_epoch[index] + (sim_has_plant("older-memory") ? 1 : 0))
            sim_violation("I8", guest->node, "%s is given to epoch %llu, but epoch %llu has run",
                          guest->name, (unsigned long long)guest->epoch,
                          (unsigned long long)seen.ran_epoch[index]);
    }
}

/* I8: what REVERT gives back is still there, whole, and what it takes away has never run. */
static void check_revert(const struct ha_state *before, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(before, cmd->guest);
    const struct ha_ticket *ticket = &guest->ticket;
    const struct sim_domain *arrived = copy_on(ticket->dst, guest->id, ticket->dst_epoch);
    const struct sim_domain *left = copy_on(ticket->src, guest->id, ticket->src_epoch);
    int index = sim_guest_index(guest->id);

    if (arrived && sim_is_runnable(arrived))
        sim_violation("I8", ticket->dst, "REVERT is committed while %s runs", guest->name);
    else if (index >= 0 && seen.ran_epoch[index] == ticket->dst_epoch)
        sim_violation("I8", ticket->dst, "REVERT is committed, but %s has run", guest->name);
    if (is_same_boot(before, sim_node(ticket->src)) &&
        (!left || (left->d.state != HV_SUSPENDED && left->d.state != HV_PAUSED)))
        sim_violation("I8", ticket->src, "REVERT is committed, but the copy of %s is gone",
                      guest->name);
}

/* ---- the whole ---------------------------------------------------------------------------------
 */

static void check_command(const struct ha_state *before, const struct ha_cmd *cmd)
{
    if (cmd->type == HA_CMD_FENCED && cmd->u.fenced.evidence == HA_EVIDENCE_LEASE)
        check_wait(before, cmd);
    else if (cmd->type == HA_CMD_FENCED && cmd->u.fenced.evidence == HA_EVIDENCE_AGENT)
        check_agent(before, cmd);
    else if (cmd->type == HA_CMD_DISARM)
        seen.disarmed_at = sim.now;
    else if (cmd->type == HA_CMD_SWITCH)
        check_switch(before, cmd);
    else if (cmd->type == HA_CMD_REVERT)
        check_revert(before, cmd);
    else if (cmd->type == HA_CMD_MIGRATE) {
        check_place(before, cmd, cmd->u.migrate.dst);
        sim_faults_moving(sim_node(cmd->node));
    } else if (cmd->type == HA_CMD_ASSIGN) {
        check_place(before, cmd, cmd->node);
        check_assign(before, cmd);
    }
}

/* I3: whoever returns under an absent node's id frees its guests only if they have ended. */
static void check_freed(const struct ha_state *before)
{
    for (uint32_t i = 0; i < before->guest_count; i++) {
        const struct ha_guest *old = &before->guests[i];
        const struct ha_guest *now = ha_state_guest(sim_truth(), old->id);
        if (old->phase != HA_PHASE_FREE && now && now->phase == HA_PHASE_FREE &&
            sim_machine_runs(old->node, old->id))
            sim_violation("I3", old->node,
                          "%s is freed while the machine that was replaced runs it", old->name);
    }
}

static void note_open(const struct ha_state *before, const struct log_entry *entry)
{
    const struct ha_state *now = sim_truth();

    struct log_open open;
    bool is_gap = log_open_decode(entry->body, entry->body_size, &open) == 0 && !open.is_continuous;

    seen.opened_at = sim.now;
    seen.open_index = entry->index;
    check_freed(before);
    for (uint32_t i = 0; i < now->node_count; i++) {
        const struct ha_node *node = &now->nodes[i];
        const struct ha_node *old = ha_state_node(before, node->id);
        if (node->id <= SIM_NODES)
            seen.is_held[node->id] =
                node->status == HA_NODE_UNCLEAN && (is_gap || seen.is_held[node->id]);
        if (node->id <= SIM_NODES && node->status == HA_NODE_MEMBER &&
            (!old || old->incarnation != node->incarnation))
            seen.member_since[node->id] = sim.now;
    }
}

void sim_check_policy(const struct ha_state *before, const struct log_entry *entry,
                      const struct ha_applied *applied)
{
    const struct ha_cmd *cmd = &applied->cmd;

    for (uint32_t i = 0; i < before->node_count; i++) {
        uint32_t id = before->nodes[i].id;
        if (id <= SIM_NODES && holds_something(before, id))
            seen.held_at[id] = sim.now;
        if (id <= SIM_NODES && before->nodes[i].is_fence_wanted)
            seen.wanted_at[id] = sim.now;
    }
    check_durable(entry);
    check_numbered_once(entry);
    if (applied->kind == LOG_KIND_OPEN)
        note_open(before, entry);
    if (applied->kind == LOG_KIND_VOTER)
        sim_check_votes_changed();
    check_memory(entry);
    if (applied->kind != LOG_KIND_STATE)
        return;
    if (!applied->is_noop)
        check_command(before, cmd);
    note_room(before, entry->index);
    int guest = sim_guest_index(cmd->guest);
    if (guest >= 0 && cmd->type == HA_CMD_ASSIGN)
        seen.tried_index[guest] = entry->index;
    if (guest >= 0 && (cmd->type == HA_CMD_WANT || cmd->type == HA_CMD_CLEAR ||
                       cmd->type == HA_CMD_GUEST_ADD || cmd->type == HA_CMD_GUEST_SET))
        seen.told_at[guest] = sim.now;
}
