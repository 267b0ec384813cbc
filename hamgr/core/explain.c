/* SPDX-License-Identifier: Apache-2.0
 *
 * Why a guest is where it is, or is not: the planner's own conditions, asked one by one and put
 * into words with their numbers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hamgr/core/explain_internal.h"

uint64_t explain_mib_have(uint64_t kib)
{
    return kib / 1024;
}

uint64_t explain_mib_need(uint64_t kib)
{
    return kib / 1024 + (kib % 1024 != 0);
}

const char *explain_node(const struct ha_state *state, uint32_t node, char buffer[HA_NAME_MAX])
{
    const struct ha_node *found = ha_state_node(state, node);

    if (found)
        snprintf(buffer, HA_NAME_MAX, "%s", found->name);
    else
        snprintf(buffer, HA_NAME_MAX, "node %" PRIu32, node);
    return buffer;
}

static void explain_memory(const struct ha_node *node, uint64_t free_kib, uint64_t mem_kib,
                           char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX])
{
    if (node->mem_kib == 0) {
        snprintf(ret_text, HA_TEXT_MAX, "%s: its memory for guests is not known yet", node->name);
        snprintf(ret_fix, HA_TEXT_MAX, "look at hamgr-hv on %s", node->name);
        return;
    }
    snprintf(ret_text, HA_TEXT_MAX, "%s: %" PRIu64 " MiB free of %" PRIu64 ", %" PRIu64 " needed",
             node->name, explain_mib_have(free_kib), explain_mib_have(node->mem_kib),
             explain_mib_need(mem_kib));
    snprintf(ret_fix, HA_TEXT_MAX, "free %" PRIu64 " MiB on %s",
             explain_mib_need(mem_kib - free_kib), node->name);
}

void explain_place(const struct ha_state *state, const struct ha_runtime *rt, uint32_t slot,
                   uint16_t reason, uint64_t free_kib, uint64_t mem_kib, char ret_text[HA_TEXT_MAX],
                   char ret_fix[HA_TEXT_MAX])
{
    const struct ha_node *node = &state->nodes[slot];
    const struct ha_report *report = plan_report(state, rt, node);

    if (reason == HA_REASON_NO_MEMORY) {
        explain_memory(node, free_kib, mem_kib, ret_text, ret_fix);
        return;
    }
    ret_fix[0] = '\0';
    if (reason == HA_REASON_NONE) {
        snprintf(ret_text, HA_TEXT_MAX, "%s: can take it, %" PRIu64 " MiB free, %" PRIu64 " needed",
                 node->name, explain_mib_have(free_kib), explain_mib_need(mem_kib));
        return;
    }
    snprintf(ret_text, HA_TEXT_MAX, "%s: %s", node->name, ha_reason_text(reason));
    if (reason == HA_REASON_NOT_MEMBER)
        snprintf(ret_text, HA_TEXT_MAX, "%s: it is not in the view (%s)", node->name,
                 ha_node_status_name(node->status));
    else if ((reason == HA_REASON_HV_NOT_READY || reason == HA_REASON_NOT_ARMED) && report &&
             report->alarm[0])
        snprintf(ret_text, HA_TEXT_MAX, "%s: %s: %.120s", node->name, ha_reason_text(reason),
                 report->alarm);
    if (reason == HA_REASON_MAINTENANCE)
        snprintf(ret_fix, HA_TEXT_MAX, "hactl maintenance %s off", node->name);
    else
        snprintf(ret_fix, HA_TEXT_MAX, "%s", ha_reason_fix(reason));
}

/* --- What the nodes' own checks found --- */

const struct ha_bar *explain_bar(const struct ha_runtime *rt, const struct ha_guest *guest,
                                 uint32_t node, uint32_t pause_ms)
{
    bool is_moving = guest->phase != HA_PHASE_FREE && guest->node != node;

    return ha_bar_against(rt, guest->id, is_moving ? guest->node : 0, node, pause_ms);
}

void explain_say_bar(const struct ha_state *state, uint32_t node, const struct ha_bar *bar,
                     uint32_t pause_ms, char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX])
{
    char name[HA_NAME_MAX], limit[48] = "";

    if (bar->pause_ms)
        snprintf(limit, sizeof(limit), ", %" PRIu32 " ms may be (%s)",
                 pause_ms ? pause_ms : bar->contract_ms,
                 pause_ms ? "--max-downtime" : "its contract");
    explain_node(state, node, name);
    size_t room = HA_TEXT_MAX - sizeof(": ") - strlen(name) - strlen(limit); /* it is not cut off */
    snprintf(ret_text, HA_TEXT_MAX, "%s: %.*s%s", name, (int)room, bar->text, limit);
    snprintf(ret_fix, HA_TEXT_MAX, "%s", bar->fix);
}

/* --- What is waited for while the owner is UNCLEAN --- */

void explain_unclean(const struct ha_state *state, const struct ha_runtime *rt, uint32_t id,
                     char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX])
{
    const struct ha_node *node = ha_state_node(state, id);
    uint32_t slot = plan_slot(state, id);
    const struct ha_fence_progress *fence =
        slot < HA_NODES_MAX && rt->fences[slot].node == id ? &rt->fences[slot] : NULL;
    char name[HA_NAME_MAX];
    char wait[64] = "no self-fencing to wait for";

    explain_node(state, id, name);
    if (fence && fence->wait_ms > 0)
        snprintf(wait, sizeof(wait), "silent for %" PRIu64 " of %" PRIu64 " ms",
                 fence->evidence_ms < fence->wait_ms ? fence->evidence_ms : fence->wait_ms,
                 fence->wait_ms);
    if (state->is_disarmed)
        snprintf(wait, sizeof(wait), "the cluster is disarmed, nobody fences");
    snprintf(ret_text, HA_TEXT_MAX, "its owner %s is gone and not proven dead: %s%s%.60s", name,
             wait, fence && fence->text[0] ? "; " : "", fence ? fence->text : "");
    if (state->is_disarmed)
        snprintf(ret_fix, HA_TEXT_MAX, "hactl arm");
    else if (fence && fence->wait_ms > fence->evidence_ms)
        snprintf(ret_fix, HA_TEXT_MAX,
                 "wait %" PRIu64 " s, or hactl confirm-fenced %s after making sure it is off",
                 (fence->wait_ms - fence->evidence_ms + 999) / 1000, name);
    else
        snprintf(ret_fix, HA_TEXT_MAX,
                 "bring %s back, or hactl confirm-fenced %s after making sure it is off",
                 node ? node->name : name, name);
}

void explain_failed(const struct ha_state *state, const struct ha_guest *guest,
                    char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX])
{
    char name[HA_NAME_MAX];

    explain_node(state, guest->last_node, name);
    if (!guest->policy.is_protected)
        snprintf(ret_text, HA_TEXT_MAX, "it is not protected and ended on %s%s%s", name,
                 guest->end_cause ? ": " : "",
                 guest->end_cause ? ha_end_cause_name(guest->end_cause) : "");
    else
        snprintf(ret_text, HA_TEXT_MAX,
                 "it failed %u times within %" PRIu32 " s (limit %u), last on %s: %s",
                 (unsigned)guest->failures, guest->policy.restart_window_s,
                 (unsigned)guest->policy.restart_max, name, ha_end_cause_name(guest->end_cause));
    snprintf(ret_fix, HA_TEXT_MAX, "mend it, then hactl guest start %s", guest->name);
}

/* --- ha_explain --- */

struct explain {
    const struct ha_state *state;
    const struct ha_runtime *rt;
    const struct ha_plan_limits *limits;
    const struct ha_guest *guest;
    struct ha_explanation *out;
};

static struct ha_condition *add(struct explain *e, uint16_t reason, uint32_t node, bool is_ok)
{
    struct ha_condition *condition = &e->out->conditions[e->out->count];

    if (e->out->count == HA_CONDITIONS_MAX)
        return NULL;
    e->out->count++;
    memset(condition, 0, sizeof(*condition));
    condition->reason = reason;
    condition->node = node;
    condition->is_ok = is_ok;
    return condition;
}

static void say(struct explain *e, uint16_t reason, bool is_ok, const char *text, const char *fix)
{
    struct ha_condition *condition = add(e, reason, 0, is_ok);

    if (!condition)
        return;
    snprintf(condition->text, sizeof(condition->text), "%s", text);
    snprintf(condition->fix, sizeof(condition->fix), "%s", fix);
}

static void say_quorum(struct explain *e)
{
    if (e->rt->is_open)
        return;
    say(e, HA_REASON_NO_QUORUM, false, ha_reason_text(HA_REASON_NO_QUORUM),
        ha_reason_fix(HA_REASON_NO_QUORUM));
}

static uint32_t starting_on(const struct ha_state *state, uint32_t node)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < state->guest_count; i++)
        count += state->guests[i].phase == HA_PHASE_ASSIGNED && state->guests[i].node == node;
    return count;
}

/* Can the node take the guest, with memory counted as the log counts it? */
static uint16_t place_reason(const struct explain *e, uint32_t slot, uint64_t *ret_free_kib)
{
    const struct ha_node *node = &e->state->nodes[slot];
    uint64_t used_kib = ha_state_mem_used_kib(e->state, node->id);
    uint16_t reason = plan_check_node(e->state, e->rt, slot);

    *ret_free_kib = node->mem_kib > used_kib ? node->mem_kib - used_kib : 0;
    if (reason != HA_REASON_NONE)
        return reason;
    if (*ret_free_kib < e->guest->mem_kib)
        return HA_REASON_NO_MEMORY;
    if (explain_bar(e->rt, e->guest, node->id, 0))
        return HA_REASON_CANT_RUN;
    bool is_busy = e->guest->phase == HA_PHASE_FREE &&
                   starting_on(e->state, node->id) >= e->limits->start_parallel;
    return is_busy ? HA_REASON_BUSY : HA_REASON_NONE;
}

/* One condition per node but the owner. Returns how many could take the guest. */
static uint32_t say_nodes(struct explain *e)
{
    uint32_t able = 0;

    for (uint32_t slot = 0; slot < e->state->node_count; slot++) {
        uint64_t free_kib;
        uint32_t node = e->state->nodes[slot].id;
        if (node == e->guest->node && e->guest->phase != HA_PHASE_FREE)
            continue;
        uint16_t reason = place_reason(e, slot, &free_kib);
        struct ha_condition *condition = add(e, reason, node, reason == HA_REASON_NONE);
        if (!condition)
            break;
        explain_place(e->state, e->rt, slot, reason, free_kib, e->guest->mem_kib, condition->text,
                      condition->fix);
        if (reason == HA_REASON_CANT_RUN)
            explain_say_bar(e->state, node, explain_bar(e->rt, e->guest, node, 0), 0,
                            condition->text, condition->fix);
        able += condition->is_ok;
    }
    return able;
}

static void summarize_free(struct explain *e, uint32_t able, uint64_t wait_ms)
{
    const char *name = e->guest->name;

    if (!e->rt->is_open)
        snprintf(e->out->summary, HA_TEXT_MAX, "%s waits until most voters hear each other", name);
    else if (able == 0)
        snprintf(e->out->summary, HA_TEXT_MAX, "%s is down: no node can take it", name);
    else if (wait_ms > 0)
        snprintf(e->out->summary, HA_TEXT_MAX, "%s is down and will be started in %" PRIu64 " s",
                 name, (wait_ms + 999) / 1000);
    else
        snprintf(e->out->summary, HA_TEXT_MAX, "%s is about to be started", name);
}

static void explain_free(struct explain *e)
{
    const struct ha_guest *guest = e->guest;
    uint64_t wait_ms = plan_restart_wait_ms(guest, e->rt->wall_ms);
    struct ha_condition *condition;
    char text[HA_TEXT_MAX], fix[HA_TEXT_MAX];

    if (guest->want == HA_WANT_STOPPED) {
        snprintf(e->out->summary, HA_TEXT_MAX, "%s is stopped, as wanted", guest->name);
        snprintf(fix, sizeof(fix), "hactl guest start %s", guest->name);
        say(e, HA_REASON_NOT_WANTED, false, "it is wanted stopped", fix);
        return;
    }
    if (guest->is_failed) {
        explain_failed(e->state, guest, text, fix);
        say(e, guest->policy.is_protected ? HA_REASON_FAILED_LIMIT : HA_REASON_NOT_PROTECTED, false,
            text, fix);
        snprintf(e->out->summary, HA_TEXT_MAX, "%s is down: %.180s", guest->name, text);
        return;
    }
    if (wait_ms > 0 && (condition = add(e, HA_REASON_BACK_OFF, 0, false)) != NULL) {
        snprintf(condition->text, HA_TEXT_MAX,
                 "%s after %u failures: the next start is in %" PRIu64 " s",
                 ha_end_cause_name(guest->end_cause), (unsigned)guest->failures,
                 (wait_ms + 999) / 1000);
        snprintf(condition->fix, HA_TEXT_MAX, "wait, or hactl guest start %s", guest->name);
    }
    uint64_t settle_ms = plan_settle_wait_ms(e->state, e->rt, guest);
    if (settle_ms > 0)
        say(e, HA_REASON_SETTLING, false, ha_reason_text(HA_REASON_SETTLING),
            ha_reason_fix(HA_REASON_SETTLING));
    summarize_free(e, say_nodes(e), wait_ms > settle_ms ? wait_ms : settle_ms);
}

static void explain_owner(struct explain *e)
{
    const struct ha_node *owner = ha_state_node(e->state, e->guest->node);
    struct ha_condition *condition;

    if (owner && owner->status == HA_NODE_MEMBER) {
        const struct ha_report *report = plan_report(e->state, e->rt, owner);
        if (report && report->alarm[0] &&
            (condition = add(e, HA_REASON_OBSERVED, owner->id, false)))
            snprintf(condition->text, HA_TEXT_MAX, "%.40s says: %.200s", owner->name,
                     report->alarm);
        return;
    }
    if (!owner)
        return;
    condition = add(e, HA_REASON_OWNER_UNCLEAN, owner->id, false);
    if (condition)
        explain_unclean(e->state, e->rt, owner->id, condition->text, condition->fix);
}

static void explain_assigned(struct explain *e, const char *owner)
{
    const struct ha_node *node = ha_state_node(e->state, e->guest->node);
    const struct ha_report *report = node ? plan_report(e->state, e->rt, node) : NULL;

    snprintf(e->out->summary, HA_TEXT_MAX, "%s is being started on %s", e->guest->name, owner);
    if (report && !report->is_hv_ready)
        say(e, HA_REASON_HV_NOT_READY, false, ha_reason_text(HA_REASON_HV_NOT_READY),
            ha_reason_fix(HA_REASON_HV_NOT_READY));
}

/* A drained node keeps it: which other node could take it, and why not. */
static void explain_running(struct explain *e, const char *owner)
{
    const struct ha_node *node = ha_state_node(e->state, e->guest->node);
    uint64_t wait_ms = plan_move_wait_ms(e->guest, e->rt->wall_ms);

    snprintf(e->out->summary, HA_TEXT_MAX, "%s runs on %s (epoch %" PRIu64 ")", e->guest->name,
             owner, e->guest->epoch);
    uint32_t able = say_nodes(e);
    if (!node || !node->is_maintenance)
        return;
    if (able == 0)
        snprintf(e->out->summary, HA_TEXT_MAX,
                 "%s still runs on %s, which is in maintenance: no other node can take it",
                 e->guest->name, owner);
    else if (wait_ms > 0)
        snprintf(e->out->summary, HA_TEXT_MAX,
                 "%s still runs on %s: its last move failed, the next begins in %" PRIu64 " s",
                 e->guest->name, owner, (wait_ms + 999) / 1000);
}

static void explain_moving(struct explain *e)
{
    const struct ha_ticket *ticket = &e->guest->ticket;
    char src[HA_NAME_MAX], dst[HA_NAME_MAX];
    char how[128] = "";

    for (uint32_t i = 0; i < e->rt->move_count && i < HA_TICKETS_MAX; i++) {
        const struct ha_move_progress *move = &e->rt->moves[i];
        if (move->ticket != ticket->id)
            continue;
        snprintf(how, sizeof(how), ": %" PRIu64 " MiB left at %" PRIu64 " MiB/s, %s%" PRIu64 " s",
                 explain_mib_need(move->remaining_kib), move->rate_kib_s / 1024,
                 move->eta_ms ? "about " : "no end in sight after ",
                 (move->eta_ms ? move->eta_ms : move->elapsed_ms) / 1000);
    }
    snprintf(e->out->summary, HA_TEXT_MAX, "%s is moving from %s to %s%s", e->guest->name,
             explain_node(e->state, ticket->src, src), explain_node(e->state, ticket->dst, dst),
             e->guest->phase == HA_PHASE_MIGRATING ? how : ": it is decided and resuming there");
}

static void explain_phase(struct explain *e)
{
    char owner[HA_NAME_MAX];

    explain_node(e->state, e->guest->node, owner);
    switch ((enum ha_phase)e->guest->phase) {
    case HA_PHASE_FREE:
    case HA_PHASE_COUNT:
        explain_free(e);
        return;
    case HA_PHASE_ASSIGNED:
        explain_assigned(e, owner);
        break;
    case HA_PHASE_RUNNING:
        explain_running(e, owner);
        break;
    case HA_PHASE_STOPPING:
        snprintf(e->out->summary, HA_TEXT_MAX, "%s is being stopped on %s%s", e->guest->name, owner,
                 e->guest->is_relocating ? ", to be started elsewhere" : "");
        break;
    case HA_PHASE_MIGRATING:
    case HA_PHASE_SWITCHED:
        explain_moving(e);
        break;
    }
    const struct ha_node *node = ha_state_node(e->state, e->guest->node);
    if (node && node->status != HA_NODE_MEMBER)
        snprintf(e->out->summary, HA_TEXT_MAX,
                 "%s may still run on %s, which is gone and not proven dead", e->guest->name,
                 owner);
}

void ha_explain(const struct ha_state *state, const struct ha_runtime *rt,
                const struct ha_plan_limits *limits, struct ha_uuid guest,
                struct ha_explanation *ret_explanation)
{
    struct explain e = {.state = state,
                        .rt = rt,
                        .limits = limits,
                        .guest = ha_state_guest(state, guest),
                        .out = ret_explanation};

    ret_explanation->count = 0;
    ret_explanation->summary[0] = '\0';
    if (!e.guest) {
        snprintf(ret_explanation->summary, HA_TEXT_MAX, "%s",
                 ha_reason_text(HA_REASON_NO_SUCH_GUEST));
        say(&e, HA_REASON_NO_SUCH_GUEST, false, ha_reason_text(HA_REASON_NO_SUCH_GUEST),
            ha_reason_fix(HA_REASON_NO_SUCH_GUEST));
        return;
    }
    say_quorum(&e);
    explain_owner(&e);
    explain_phase(&e);
}
