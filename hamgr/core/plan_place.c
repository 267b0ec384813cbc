/* SPDX-License-Identifier: Apache-2.0
 *
 * Pass: FREE guests that are wanted get a node. After a lost node all its guests are assigned in
 * one call, in order of priority, each where most memory is left; what was given away in this call
 * is counted as gone, so nothing is over-committed (I14).
 */
#include "hamgr/core/plan_internal.h"

/* --- Choosing a node --- */

struct candidate {
    uint32_t slot;
    uint32_t rank; /* 0 preferred, 1 any, 2 to be avoided */
};

static bool is_better(const struct plan_ctx *ctx, const struct plan_wish *wish,
                      const struct candidate *a, const struct candidate *b)
{
    const uint64_t *free_kib = ctx->scratch->free_kib;

    if (a->rank != b->rank)
        return a->rank < b->rank;
    if (free_kib[a->slot] != free_kib[b->slot])
        return free_kib[a->slot] > free_kib[b->slot];
    if (wish->busy[a->slot] != wish->busy[b->slot])
        return wish->busy[a->slot] < wish->busy[b->slot];
    return a->slot < b->slot; /* nodes ascend by id */
}

static uint32_t rank_of(const struct plan_wish *wish, uint32_t node)
{
    if (node == wish->avoid)
        return 2;
    return node == wish->prefer ? 0 : 1;
}

uint32_t plan_choose(const struct plan_ctx *ctx, const struct plan_wish *wish, bool *ret_is_busy)
{
    struct candidate best = {.slot = HA_NODES_MAX};

    *ret_is_busy = false;
    for (uint32_t slot = 0; slot < ctx->state->node_count; slot++) {
        uint32_t node = ctx->state->nodes[slot].id;
        struct candidate candidate = {.slot = slot, .rank = rank_of(wish, node)};
        if (node == wish->except || ctx->scratch->free_kib[slot] < wish->mem_kib ||
            plan_check_node(ctx->state, ctx->rt, slot) != HA_REASON_NONE ||
            ha_bar_against(ctx->rt, wish->guest, wish->from, node, 0))
            continue;
        if (wish->busy[slot] >= wish->busy_max) {
            *ret_is_busy = true;
            continue;
        }
        if (best.slot == HA_NODES_MAX || is_better(ctx, wish, &candidate, &best))
            best = candidate;
    }
    return best.slot;
}

/* --- Waiting --- */

/* How long a member that can't take guests yet may still need; 0: it never will by itself. */
static uint64_t settles_in_ms(const struct ha_node *node, uint64_t wall_ms)
{
    uint64_t passed_ms = plan_since_ms(node->status_wall_ms, wall_ms);

    if (node->status != HA_NODE_MEMBER || node->is_witness || node->is_maintenance ||
        node->is_frozen || node->is_armed)
        return 0;
    return passed_ms < PLAN_SETTLE_MS ? PLAN_SETTLE_MS - passed_ms : 0;
}

uint64_t plan_settle_wait_ms(const struct ha_state *state, const struct ha_runtime *rt,
                             const struct ha_guest *guest)
{
    uint64_t free_ms = plan_since_ms(guest->phase_wall_ms, rt->wall_ms);
    uint32_t ready = 0;
    uint32_t settling = 0;
    uint64_t wait_ms = 0;

    if (free_ms >= PLAN_SETTLE_MOST_MS)
        return 0;
    for (uint32_t slot = 0; slot < state->node_count; slot++) {
        bool is_ready = plan_check_node(state, rt, slot) == HA_REASON_NONE;
        uint64_t node_ms = is_ready ? 0 : settles_in_ms(&state->nodes[slot], rt->wall_ms);
        ready += is_ready;
        settling += node_ms > 0;
        if (node_ms > wait_ms)
            wait_ms = node_ms;
    }
    /* None is ready: nothing to wait with. Most are: a failover never waits for one that joins. */
    if (ready == 0 || ready > settling)
        return 0;
    return wait_ms < PLAN_SETTLE_MOST_MS - free_ms ? wait_ms : PLAN_SETTLE_MOST_MS - free_ms;
}

/* --- Placing --- */

static bool is_waiting(struct plan_ctx *ctx, const struct ha_guest *guest)
{
    uint64_t wait_ms = plan_restart_wait_ms(guest, ctx->rt->wall_ms);
    uint64_t settle_ms = plan_settle_wait_ms(ctx->state, ctx->rt, guest);

    if (settle_ms > wait_ms)
        wait_ms = settle_ms;
    if (wait_ms > 0)
        plan_again_in(ctx, wait_ms);
    return wait_ms > 0;
}

static uint32_t gather(struct plan_ctx *ctx)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < ctx->state->guest_count; i++) {
        const struct ha_guest *guest = &ctx->state->guests[i];
        if (guest->phase == HA_PHASE_FREE && guest->want == HA_WANT_STARTED && !guest->is_failed &&
            !is_waiting(ctx, guest))
            ctx->scratch->order[count++] = i;
    }
    return count;
}

/* A guest that ended by itself starts again where it was (L2: no move without need); one that could
 * not be started there, or is to leave, prefers any other node. */
static struct plan_wish wish_of(const struct plan_ctx *ctx, const struct ha_guest *guest)
{
    struct plan_wish wish = {.guest = guest->id,
                             .mem_kib = guest->mem_kib,
                             .busy = ctx->scratch->starting,
                             .busy_max = ctx->limits->start_parallel};

    if (guest->is_relocating || guest->end_cause == HA_END_START_FAILED)
        wish.avoid = guest->last_node;
    else if (guest->end_cause == HA_END_REBOOT || guest->end_cause == HA_END_CRASHED ||
             guest->end_cause == HA_END_LOST)
        wish.prefer = guest->last_node;
    return wish;
}

static uint16_t reason_of(const struct ha_guest *guest)
{
    if (guest->is_relocating)
        return HA_REASON_PLACEMENT;
    switch (guest->end_cause) {
    case 0: /* never ran, or its owner was fenced */
        return guest->last_node == 0 ? HA_REASON_PLACEMENT : HA_REASON_RECOVERY;
    case HA_END_STOPPED:
    case HA_END_POWEROFF:
        return HA_REASON_PLACEMENT;
    default:
        return HA_REASON_RESTART;
    }
}

static bool place(struct plan_ctx *ctx, const struct ha_guest *guest)
{
    struct plan_wish wish = wish_of(ctx, guest);
    bool is_busy;
    uint32_t slot = plan_choose(ctx, &wish, &is_busy);

    if (slot == HA_NODES_MAX)
        return true; /* ha_explain says why; a smaller one may still fit */
    struct ha_cmd *cmd = plan_add(ctx, HA_CMD_ASSIGN, reason_of(guest), guest->phase_index);
    if (!cmd)
        return false;
    cmd->node = ctx->state->nodes[slot].id;
    cmd->incarnation = ctx->state->nodes[slot].incarnation;
    cmd->guest = guest->id;
    cmd->epoch = guest->epoch_high + 1;
    ctx->scratch->free_kib[slot] -= guest->mem_kib;
    ctx->scratch->starting[slot]++;
    return true;
}

void plan_pass_place(struct plan_ctx *ctx)
{
    uint32_t count = gather(ctx);

    plan_sort(ctx->scratch->order, count, plan_is_before, ctx->state->guests);
    for (uint32_t i = 0; i < count; i++) {
        if (!place(ctx, &ctx->state->guests[ctx->scratch->order[i]]))
            return;
    }
}
