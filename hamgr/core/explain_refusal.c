/* SPDX-License-Identifier: Apache-2.0
 *
 * Would a command be refused now, and in which words? The conditions are the state's own
 * (ha_state_check) and the planner's (plan_check_node), so a refusal, a no-op in the log and
 * `hactl explain` never tell different stories.
 */
#include <inttypes.h>
#include <stdio.h>

#include "hamgr/core/explain_internal.h"

struct refusal {
    const struct ha_state *state;
    const struct ha_runtime *rt;
    const struct ha_cmd *cmd;
    const struct ha_guest *guest; /* NULL if the command has none or an unknown one */
    uint32_t target;              /* node the guest would go to, 0 = none */
    char *text;
    char *fix;
};

static uint32_t target_of(const struct ha_cmd *cmd)
{
    if (cmd->type == HA_CMD_MIGRATE)
        return cmd->u.migrate.dst;
    return cmd->type == HA_CMD_ASSIGN ? cmd->node : 0;
}

static uint32_t pause_of(const struct ha_cmd *cmd)
{
    return cmd->type == HA_CMD_MIGRATE ? cmd->u.migrate.max_downtime_ms : 0;
}

/* Conditions that only the leader's runtime knows. */
static uint16_t check_runtime(const struct refusal *f)
{
    uint32_t slot = plan_slot(f->state, f->target);

    if (f->target == 0 || slot == HA_NODES_MAX)
        return HA_REASON_NONE;
    uint16_t reason = plan_check_node(f->state, f->rt, slot);
    if (reason == HA_REASON_NONE && f->guest &&
        explain_bar(f->rt, f->guest, f->target, pause_of(f->cmd)))
        return HA_REASON_CANT_RUN;
    return reason;
}

/* Another node that could take it: the smallest change is often to name that one. */
static void suggest_node(const struct refusal *f)
{
    size_t used = 0;

    while (used < HA_TEXT_MAX && f->fix[used])
        used++;
    for (uint32_t slot = 0; f->guest && slot < f->state->node_count; slot++) {
        const struct ha_node *node = &f->state->nodes[slot];
        uint64_t used_kib = ha_state_mem_used_kib(f->state, node->id);
        if (node->id == f->target || node->id == f->guest->node || used_kib > node->mem_kib ||
            node->mem_kib - used_kib < f->guest->mem_kib ||
            plan_check_node(f->state, f->rt, slot) != HA_REASON_NONE ||
            explain_bar(f->rt, f->guest, node->id, pause_of(f->cmd)))
            continue;
        snprintf(f->fix + used, HA_TEXT_MAX - used, "%schoose %.63s (%" PRIu64 " MiB free)",
                 used ? ", or " : "", node->name, explain_mib_have(node->mem_kib - used_kib));
        return;
    }
}

/* Everything about the node the guest would go to. */
static void say_target(const struct refusal *f, uint16_t reason)
{
    uint32_t slot = plan_slot(f->state, f->target);
    const struct ha_node *node = &f->state->nodes[slot];
    uint64_t used_kib = ha_state_mem_used_kib(f->state, node->id);
    uint64_t free_kib = node->mem_kib > used_kib ? node->mem_kib - used_kib : 0;

    explain_place(f->state, f->rt, slot, reason, free_kib, f->guest ? f->guest->mem_kib : 0,
                  f->text, f->fix);
    if (reason == HA_REASON_CANT_RUN)
        explain_say_bar(f->state, f->target,
                        explain_bar(f->rt, f->guest, f->target, pause_of(f->cmd)), pause_of(f->cmd),
                        f->text, f->fix);
    suggest_node(f);
}

static void say_phase(const struct refusal *f)
{
    char owner[HA_NAME_MAX];

    snprintf(f->text, HA_TEXT_MAX, "%s is %s on %s", f->guest->name, ha_phase_name(f->guest->phase),
             explain_node(f->state, f->guest->node, owner));
    if (f->guest->phase == HA_PHASE_FREE)
        snprintf(f->text, HA_TEXT_MAX, "%s does not run", f->guest->name);
    snprintf(f->fix, HA_TEXT_MAX, "%s",
             f->guest->phase == HA_PHASE_FREE ? "hactl guest start, then try again"
                                              : ha_reason_fix(HA_REASON_WRONG_PHASE));
}

static void say_ticket(const struct refusal *f)
{
    char src[HA_NAME_MAX], dst[HA_NAME_MAX];

    snprintf(f->text, HA_TEXT_MAX, "%s is moving from %s to %s", f->guest->name,
             explain_node(f->state, f->guest->ticket.src, src),
             explain_node(f->state, f->guest->ticket.dst, dst));
    snprintf(f->fix, HA_TEXT_MAX, "wait for it, or hactl cancel %" PRIu64, f->guest->ticket.id);
}

/* The guests a node can't leave, or be removed, with. */
static void say_owned(const struct refusal *f)
{
    const char *first = "";
    uint32_t count = 0;
    char name[HA_NAME_MAX];

    for (uint32_t i = 0; i < f->state->guest_count; i++) {
        const struct ha_guest *guest = &f->state->guests[i];
        if (guest->phase == HA_PHASE_FREE || guest->node != f->cmd->node)
            continue;
        if (count++ == 0)
            first = guest->name;
    }
    explain_node(f->state, f->cmd->node, name);
    snprintf(f->text, HA_TEXT_MAX, "%s still owns %" PRIu32 " guest%s, %s%s", name, count,
             count == 1 ? "" : "s", count > 1 ? "first " : "", first);
    snprintf(f->fix, HA_TEXT_MAX, "hactl maintenance %s on drains it", name);
}

static void say_node_state(const struct refusal *f, uint16_t reason)
{
    const struct ha_node *node = ha_state_node(f->state, f->cmd->node);
    char name[HA_NAME_MAX];

    snprintf(f->text, HA_TEXT_MAX, "%s: %s (%s)", explain_node(f->state, f->cmd->node, name),
             ha_reason_text(reason), node ? ha_node_status_name(node->status) : "unknown");
    snprintf(f->fix, HA_TEXT_MAX, "%s", ha_reason_fix(reason));
}

static void say_limit(const struct refusal *f)
{
    if (f->cmd->type == HA_CMD_GUEST_ADD)
        snprintf(f->text, HA_TEXT_MAX,
                 "there are %" PRIu32 " guests already, the limit is %" PRIu32,
                 f->state->guest_count, f->state->guest_capacity);
    else if (f->cmd->type == HA_CMD_NODE_ADD)
        snprintf(f->text, HA_TEXT_MAX, "there are %" PRIu32 " nodes already, the limit is %u",
                 f->state->node_count, HA_NODES_MAX);
    else
        snprintf(f->text, HA_TEXT_MAX, "%u migrations are in flight, as many as allowed",
                 HA_TICKETS_MAX);
}

/* Refusals about a guest. False: not one of them. */
static bool say_guest(const struct refusal *f, uint16_t reason)
{
    if (!f->guest)
        return false;
    switch (reason) {
    case HA_REASON_WRONG_PHASE:
        say_phase(f);
        return true;
    case HA_REASON_TICKET_OPEN:
        if (f->guest->ticket.id == 0)
            return false;
        say_ticket(f);
        return true;
    case HA_REASON_OWNER_UNCLEAN:
        explain_unclean(f->state, f->rt, f->guest->node, f->text, f->fix);
        return true;
    case HA_REASON_FAILED_LIMIT:
    case HA_REASON_NOT_PROTECTED:
        explain_failed(f->state, f->guest, f->text, f->fix);
        return true;
    default:
        return false;
    }
}

static void say(const struct refusal *f, uint16_t reason)
{
    if (say_guest(f, reason))
        return;
    switch (reason) {
    case HA_REASON_NOT_MEMBER:
    case HA_REASON_NOT_ARMED:
    case HA_REASON_WITNESS:
    case HA_REASON_FROZEN:
    case HA_REASON_MAINTENANCE:
    case HA_REASON_NO_MEMORY:
    case HA_REASON_HV_NOT_READY:
    case HA_REASON_SHUTTING_DOWN:
    case HA_REASON_FENCE_WANTED:
    case HA_REASON_CANT_RUN:
        if (plan_slot(f->state, f->target) != HA_NODES_MAX && f->target != 0)
            say_target(f, reason);
        else
            say_node_state(f, reason);
        break;
    case HA_REASON_NOT_UNCLEAN:
    case HA_REASON_IS_MEMBER:
        say_node_state(f, reason);
        break;
    case HA_REASON_OWNS_GUESTS:
        say_owned(f);
        break;
    case HA_REASON_LIMIT:
        say_limit(f);
        break;
    default:
        break; /* the table's sentence, which has no numbers to give */
    }
}

uint16_t ha_refusal(const struct ha_state *state, const struct ha_runtime *rt,
                    const struct ha_cmd *cmd, char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX])
{
    struct refusal f = {.state = state,
                        .rt = rt,
                        .cmd = cmd,
                        .guest = ha_state_guest(state, cmd->guest),
                        .target = target_of(cmd),
                        .text = ret_text,
                        .fix = ret_fix};
    uint16_t reason = rt->is_open ? HA_REASON_NONE : HA_REASON_NO_QUORUM;

    if (reason == HA_REASON_NONE)
        reason = ha_state_check(state, cmd);
    if (reason == HA_REASON_NONE)
        reason = check_runtime(&f);
    snprintf(ret_text, HA_TEXT_MAX, "%s", ha_reason_text(reason));
    snprintf(ret_fix, HA_TEXT_MAX, "%s", ha_reason_fix(reason));
    if (reason != HA_REASON_NONE && reason != HA_REASON_NO_QUORUM)
        say(&f, reason);
    return reason;
}
