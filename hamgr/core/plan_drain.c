/* SPDX-License-Identifier: Apache-2.0
 *
 * Passes that end things: guests that are wanted stopped, migrations that can't or may not go on,
 * and nodes that are to become empty (maintenance, host shutdown).
 */
#include <stdio.h>

#include "hamgr/config/config.h"
#include "hamgr/core/plan_internal.h"

/* --- Stop --- */

static bool is_member(const struct ha_state *state, uint32_t id)
{
    const struct ha_node *node = ha_state_node(state, id);

    return node && node->status == HA_NODE_MEMBER;
}

static bool add_stop(struct plan_ctx *ctx, const struct ha_guest *guest, uint16_t reason,
                     bool is_relocation)
{
    struct ha_cmd *cmd = plan_add(ctx, HA_CMD_STOP, reason, guest->phase_index);

    if (!cmd)
        return false;
    cmd->node = guest->node;
    cmd->incarnation = guest->incarnation;
    cmd->guest = guest->id;
    cmd->epoch = guest->epoch;
    cmd->u.stop.mode = HA_STOP_GRACEFUL;
    cmd->u.stop.is_relocation = is_relocation;
    return true;
}

/* An absent owner can't stop anything; FENCED will free the guest and nobody starts it again. */
void plan_pass_stop(struct plan_ctx *ctx)
{
    for (uint32_t i = 0; i < ctx->state->guest_count; i++) {
        const struct ha_guest *guest = &ctx->state->guests[i];
        if (guest->want != HA_WANT_STOPPED)
            continue;
        if (guest->phase != HA_PHASE_RUNNING && guest->phase != HA_PHASE_ASSIGNED)
            continue;
        if (is_member(ctx->state, guest->node) &&
            !add_stop(ctx, guest, HA_REASON_NOT_WANTED, false))
            return;
    }
}

/* --- Abort --- */

static const struct ha_move_progress *progress_of(const struct ha_runtime *rt, uint64_t ticket)
{
    for (uint32_t i = 0; i < rt->move_count && i < HA_TICKETS_MAX; i++) {
        if (rt->moves[i].ticket == ticket)
            return &rt->moves[i];
    }
    return NULL;
}

/* True from the moment the guest is suspended: the end is near, and asking costs more than waiting.
 */
static bool is_late(const struct ha_move_progress *progress)
{
    return progress && progress->step >= HA_MOVE_STOPPED && progress->step != HA_MOVE_FAILED;
}

/* As its source counts, else by the wall clock (a jump may abort a move: harmless). */
static uint64_t elapsed_ms(const struct plan_ctx *ctx, const struct ha_ticket *ticket,
                           const struct ha_move_progress *progress)
{
    if (progress)
        return progress->elapsed_ms;
    return ctx->rt->wall_ms > ticket->wall_ms ? ctx->rt->wall_ms - ticket->wall_ms : 0;
}

static uint16_t deadline_reason(struct plan_ctx *ctx, const struct ha_ticket *ticket,
                                const struct ha_move_progress *progress)
{
    uint32_t deadline_ms = ticket->deadline_ms ? ticket->deadline_ms : ctx->limits->deadline_ms;
    uint64_t passed_ms = elapsed_ms(ctx, ticket, progress);

    if (deadline_ms == 0)
        return HA_REASON_NONE;
    if (passed_ms >= deadline_ms)
        return HA_REASON_DEADLINE;
    plan_again_in(ctx, deadline_ms - passed_ms);
    return HA_REASON_NONE;
}

/* The destination can be given nothing any more. */
static uint16_t destination_reason(const struct plan_ctx *ctx, uint32_t dst)
{
    const struct ha_node *node = ha_state_node(ctx->state, dst);
    const struct ha_report *report = node ? plan_report(ctx->state, ctx->rt, node) : NULL;

    if (!node || node->is_maintenance)
        return HA_REASON_MAINTENANCE;
    if (report && report->is_shutting_down)
        return HA_REASON_SHUTTING_DOWN;
    return plan_is_to_be_fenced(ctx->state, ctx->rt, node) ? HA_REASON_FENCE_WANTED
                                                           : HA_REASON_NONE;
}

static uint16_t absence_reason(struct plan_ctx *ctx, const struct ha_ticket *ticket)
{
    if (!is_member(ctx->state, ticket->dst))
        return HA_REASON_ABSENT;
    if (is_member(ctx->state, ticket->src))
        return HA_REASON_NONE;
    if (ctx->rt->view_age_ms >= PLAN_SWITCH_GRACE_MS)
        return HA_REASON_ABSENT;
    plan_again_in(ctx, PLAN_SWITCH_GRACE_MS - ctx->rt->view_age_ms);
    return HA_REASON_NONE;
}

/* Nothing is switched to a node whose keeper does not work, and the guest waits suspended (L3).
 * After a new view its ARMED has time to be renewed. */
static uint16_t arming_reason(struct plan_ctx *ctx, const struct ha_ticket *ticket)
{
    const struct ha_node *node = ha_state_node(ctx->state, ticket->dst);

    if (ctx->state->is_disarmed || node->is_armed)
        return HA_REASON_NONE;
    if (ctx->rt->view_age_ms >= PLAN_SWITCH_GRACE_MS)
        return HA_REASON_NOT_ARMED;
    plan_again_in(ctx, PLAN_SWITCH_GRACE_MS - ctx->rt->view_age_ms);
    return HA_REASON_NONE;
}

static uint16_t abort_reason(struct plan_ctx *ctx, const struct ha_guest *guest)
{
    const struct ha_ticket *ticket = &guest->ticket;
    const struct ha_move_progress *progress = progress_of(ctx->rt, ticket->id);
    uint16_t reason = absence_reason(ctx, ticket);

    if (reason == HA_REASON_NONE)
        reason = deadline_reason(ctx, ticket, progress);
    if (reason != HA_REASON_NONE)
        return reason;
    if (is_late(progress))
        return arming_reason(ctx, ticket);
    if (guest->want == HA_WANT_STOPPED)
        return HA_REASON_NOT_WANTED;
    return destination_reason(ctx, ticket->dst);
}

/* After SWITCH there is nothing to abort: the destination arrives, reverts or is fenced. */
void plan_pass_abort(struct plan_ctx *ctx)
{
    for (uint32_t i = 0; i < ctx->state->guest_count; i++) {
        const struct ha_guest *guest = &ctx->state->guests[i];
        if (guest->phase != HA_PHASE_MIGRATING)
            continue;
        uint16_t reason = abort_reason(ctx, guest);
        if (reason == HA_REASON_NONE)
            continue;
        struct ha_cmd *cmd = plan_add(ctx, HA_CMD_ABORT, reason, guest->phase_index);
        if (!cmd)
            return;
        cmd->guest = guest->id;
        cmd->ticket = guest->ticket.id;
        snprintf(cmd->u.text.detail, sizeof(cmd->u.text.detail), "%s", ha_reason_text(reason));
    }
}

/* --- Drain --- */

/* Why the node is to become empty, or HA_REASON_NONE. */
static uint16_t drain_reason(const struct plan_ctx *ctx, const struct ha_node *node)
{
    const struct ha_report *report = plan_report(ctx->state, ctx->rt, node);

    if (node->status != HA_NODE_MEMBER)
        return HA_REASON_NONE;
    if (report && report->is_shutting_down)
        return HA_REASON_SHUTDOWN;
    return node->is_maintenance ? HA_REASON_DRAIN : HA_REASON_NONE;
}

static bool add_migrate(struct plan_ctx *ctx, const struct ha_guest *guest, uint32_t from,
                        uint32_t to, uint16_t reason)
{
    struct ha_cmd *cmd = plan_add(ctx, HA_CMD_MIGRATE, reason, guest->phase_index);
    const struct ha_node *dst = &ctx->state->nodes[to];

    if (!cmd)
        return false;
    cmd->node = guest->node;
    cmd->incarnation = guest->incarnation;
    cmd->guest = guest->id;
    cmd->epoch = guest->epoch_high + 1;
    cmd->u.migrate.dst = dst->id;
    cmd->u.migrate.dst_incarnation = dst->incarnation;
    cmd->u.migrate.max_downtime_ms = guest->policy.max_downtime_ms ? guest->policy.max_downtime_ms
                                                                   : ctx->limits->max_downtime_ms;
    cmd->u.migrate.deadline_ms = ctx->limits->deadline_ms;
    ctx->scratch->free_kib[to] -= guest->mem_kib;
    ctx->scratch->moving[to]++;
    ctx->scratch->moving[from]++;
    return true;
}

/* Moves one guest away, or stops it where the host can't wait. False when the plan is full. */
static bool drain_guest(struct plan_ctx *ctx, const struct ha_guest *guest, uint32_t slot,
                        uint16_t reason)
{
    bool is_shutdown = reason == HA_REASON_SHUTDOWN;
    struct plan_wish wish = {.guest = guest->id,
                             .mem_kib = guest->mem_kib,
                             .from = guest->node,
                             .except = guest->node,
                             .busy = ctx->scratch->moving,
                             .busy_max = ctx->limits->move_parallel};
    bool is_busy;

    /* Not wanted any more: plan_pass_stop has it. */
    if (guest->want != HA_WANT_STARTED)
        return true;
    if (is_shutdown && plan_failed_moves(guest, ctx->rt->wall_ms) >= PLAN_MOVE_TRIES)
        return add_stop(ctx, guest, reason, true);
    uint64_t wait_ms = plan_move_wait_ms(guest, ctx->rt->wall_ms);
    if (wait_ms > 0) {
        plan_again_in(ctx, wait_ms);
        return true;
    }
    uint32_t to = plan_choose(ctx, &wish, &is_busy);
    if (to != HA_NODES_MAX)
        return ctx->scratch->moving[slot] >= ctx->limits->move_parallel ||
               add_migrate(ctx, guest, slot, to, reason);
    /* In maintenance it goes on running: an operator can make room, a shutdown can't wait. */
    return is_busy || !is_shutdown || add_stop(ctx, guest, reason, true);
}

static uint32_t gather_running(struct plan_ctx *ctx, uint32_t node)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < ctx->state->guest_count; i++) {
        const struct ha_guest *guest = &ctx->state->guests[i];
        if (guest->node == node && guest->phase == HA_PHASE_RUNNING)
            ctx->scratch->order[count++] = i;
    }
    plan_sort(ctx->scratch->order, count, plan_is_before, ctx->state->guests);
    return count;
}

/* Policy "stop": starts in flight are taken back as well. */
static bool stop_all(struct plan_ctx *ctx, uint32_t node)
{
    for (uint32_t i = 0; i < ctx->state->guest_count; i++) {
        const struct ha_guest *guest = &ctx->state->guests[i];
        bool has_copy = guest->phase == HA_PHASE_RUNNING || guest->phase == HA_PHASE_ASSIGNED;
        if (guest->node == node && has_copy && guest->want == HA_WANT_STARTED &&
            !add_stop(ctx, guest, HA_REASON_SHUTDOWN, true))
            return false;
    }
    return true;
}

static bool drain_node(struct plan_ctx *ctx, uint32_t slot, uint16_t reason)
{
    uint32_t node = ctx->state->nodes[slot].id;

    if (reason == HA_REASON_SHUTDOWN && ctx->limits->shutdown == HA_SHUTDOWN_STOP)
        return stop_all(ctx, node);
    uint32_t count = gather_running(ctx, node);
    for (uint32_t i = 0; i < count; i++) {
        if (!drain_guest(ctx, &ctx->state->guests[ctx->scratch->order[i]], slot, reason))
            return false;
    }
    return true;
}

void plan_pass_drain(struct plan_ctx *ctx)
{
    for (uint32_t slot = 0; slot < ctx->state->node_count; slot++) {
        uint16_t reason = drain_reason(ctx, &ctx->state->nodes[slot]);
        if (reason != HA_REASON_NONE && !drain_node(ctx, slot, reason))
            return;
    }
}
