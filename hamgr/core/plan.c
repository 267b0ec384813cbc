/* SPDX-License-Identifier: Apache-2.0
 *
 * The planner's frame: when it may plan at all, its passes in order, and what they share.
 * Memoryless: the same state and runtime give the same plan, on whatever node.
 */
#include "hamgr/core/plan.h"

#include <string.h>

#include "hamgr/core/plan_internal.h"

/* --- Sort --- */

static void sift_down(uint32_t *order, uint32_t root, uint32_t count,
                      bool (*is_before)(const void *arg, uint32_t a, uint32_t b), const void *arg)
{
    uint32_t value = order[root];

    for (uint32_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        if (child + 1 < count && is_before(arg, order[child], order[child + 1]))
            child++;
        if (!is_before(arg, value, order[child]))
            break;
        order[root] = order[child];
        root = child;
    }
    order[root] = value;
}

void plan_sort(uint32_t *order, uint32_t count,
               bool (*is_before)(const void *arg, uint32_t a, uint32_t b), const void *arg)
{
    for (uint32_t i = count / 2; i > 0; i--)
        sift_down(order, i - 1, count, is_before, arg);
    for (uint32_t end = count; end > 1; end--) {
        uint32_t last = order[end - 1];
        order[end - 1] = order[0];
        order[0] = last;
        sift_down(order, 0, end - 1, is_before, arg);
    }
}

bool plan_is_before(const void *guests, uint32_t a, uint32_t b)
{
    const struct ha_guest *x = &((const struct ha_guest *)guests)[a];
    const struct ha_guest *y = &((const struct ha_guest *)guests)[b];

    if (x->policy.priority != y->policy.priority)
        return x->policy.priority > y->policy.priority;
    if (x->policy.start_order != y->policy.start_order)
        return x->policy.start_order < y->policy.start_order;
    if (x->mem_kib != y->mem_kib)
        return x->mem_kib > y->mem_kib;
    return ha_uuid_cmp(x->id, y->id) < 0; /* unique: the order is total */
}

/* --- Facts --- */

uint32_t plan_slot(const struct ha_state *state, uint32_t node)
{
    uint32_t low = 0;
    uint32_t high = state->node_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (state->nodes[middle].id < node)
            low = middle + 1;
        else
            high = middle;
    }
    return low < state->node_count && state->nodes[low].id == node ? low : HA_NODES_MAX;
}

static void take_memory(const struct ha_state *state, struct ha_plan_scratch *scratch,
                        uint32_t node, uint64_t mem_kib)
{
    uint32_t slot = plan_slot(state, node);

    if (slot == HA_NODES_MAX)
        return;
    uint64_t *free_kib = &scratch->free_kib[slot];
    *free_kib = *free_kib > mem_kib ? *free_kib - mem_kib : 0;
}

static void count_move(const struct ha_state *state, struct ha_plan_scratch *scratch, uint32_t node)
{
    uint32_t slot = plan_slot(state, node);

    if (slot != HA_NODES_MAX)
        scratch->moving[slot]++;
}

/* The same sum as ha_state_mem_used_kib, for all nodes in one pass. */
static void count_guest(const struct ha_state *state, struct ha_plan_scratch *scratch,
                        const struct ha_guest *guest)
{
    const struct ha_ticket *ticket = &guest->ticket;

    if (guest->phase == HA_PHASE_FREE)
        return;
    take_memory(state, scratch, guest->node, guest->mem_kib);
    if (guest->phase == HA_PHASE_ASSIGNED) {
        uint32_t slot = plan_slot(state, guest->node);
        if (slot != HA_NODES_MAX)
            scratch->starting[slot]++;
    }
    if (ticket->id == 0)
        return;
    count_move(state, scratch, ticket->src);
    count_move(state, scratch, ticket->dst);
    if (guest->node != ticket->dst)
        take_memory(state, scratch, ticket->dst, guest->mem_kib);
    else if (ticket->src_incarnation != 0)
        take_memory(state, scratch, ticket->src, guest->mem_kib);
}

void plan_count(const struct ha_state *state, struct ha_plan_scratch *scratch)
{
    for (uint32_t i = 0; i < state->node_count; i++) {
        scratch->free_kib[i] = state->nodes[i].mem_kib;
        scratch->starting[i] = 0;
        scratch->moving[i] = 0;
    }
    for (uint32_t i = 0; i < state->guest_count; i++)
        count_guest(state, scratch, &state->guests[i]);
}

const struct ha_report *plan_report(const struct ha_state *state, const struct ha_runtime *rt,
                                    const struct ha_node *node)
{
    uint32_t slot = plan_slot(state, node->id);

    if (slot == HA_NODES_MAX || rt->reports[slot].node != node->id)
        return NULL;
    return &rt->reports[slot];
}

bool plan_is_to_be_fenced(const struct ha_state *state, const struct ha_runtime *rt,
                          const struct ha_node *node)
{
    const struct ha_fence_progress *fence = &rt->fences[plan_slot(state, node->id)];

    return node->is_fence_wanted &&
           !(fence->node == node->id && fence->incarnation == node->incarnation &&
             fence->has_no_device);
}

uint16_t plan_check_node(const struct ha_state *state, const struct ha_runtime *rt, uint32_t slot)
{
    const struct ha_node *node = &state->nodes[slot];
    const struct ha_report *report = plan_report(state, rt, node);
    uint16_t reason;

    if (!ha_state_node_is_eligible(state, node, &reason))
        return reason;
    if (plan_is_to_be_fenced(state, rt, node))
        return HA_REASON_FENCE_WANTED;
    /* Silent so far (a new leader has not heard everybody): what the log says is enough, failover
     * does not wait for a report. */
    if (!report)
        return HA_REASON_NONE;
    if (report->is_shutting_down)
        return HA_REASON_SHUTTING_DOWN;
    return report->is_hv_ready && !report->is_quarantined ? HA_REASON_NONE : HA_REASON_HV_NOT_READY;
}

struct bar_wish {
    uint32_t from, node, pause_ms;
};

static bool is_barred(const struct ha_bar *bar, const struct bar_wish *wish)
{
    uint32_t allowed_ms = wish->pause_ms ? wish->pause_ms : bar->contract_ms;

    return bar->node == wish->node && (bar->from == 0 || bar->from == wish->from) &&
           (bar->pause_ms == 0 || bar->pause_ms > allowed_ms);
}

static const struct ha_bar *bar_of(const struct ha_runtime *rt, struct ha_uuid guest,
                                   const struct bar_wish *wish)
{
    uint32_t low = 0;
    uint32_t high = rt->bar_count;

    while (low < high) { /* the first of this guest */
        uint32_t middle = low + (high - low) / 2;
        if (ha_uuid_cmp(rt->bars[middle].guest, guest) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < rt->bar_count && ha_uuid_equal(rt->bars[low].guest, guest); low++) {
        if (is_barred(&rt->bars[low], wish))
            return &rt->bars[low];
    }
    return NULL;
}

const struct ha_bar *ha_bar_against(const struct ha_runtime *rt, struct ha_uuid guest,
                                    uint32_t from, uint32_t node, uint32_t pause_ms)
{
    static const struct ha_uuid any;
    const struct bar_wish wish = {.from = from, .node = node, .pause_ms = pause_ms};
    const struct ha_bar *bar = bar_of(rt, guest, &wish);

    return bar ? bar : bar_of(rt, any, &wish);
}

uint64_t plan_since_ms(uint64_t then_wall_ms, uint64_t wall_ms)
{
    return wall_ms >= then_wall_ms ? wall_ms - then_wall_ms : UINT64_MAX;
}

static uint64_t doubled(uint64_t first_ms, uint64_t times, uint64_t max_ms)
{
    while (times > 0 && first_ms < max_ms) {
        first_ms *= 2;
        times--;
    }
    return first_ms < max_ms ? first_ms : max_ms;
}

uint64_t plan_restart_wait_ms(const struct ha_guest *guest, uint64_t wall_ms)
{
    bool is_failure = guest->end_cause == HA_END_CRASHED ||
                      guest->end_cause == HA_END_START_FAILED || guest->end_cause == HA_END_LOST;

    if (!is_failure || guest->failures < 2)
        return 0;
    uint64_t delay_ms = doubled(PLAN_RESTART_MIN_MS, guest->failures - 2u, PLAN_RESTART_MAX_MS);
    uint64_t passed_ms = plan_since_ms(guest->phase_wall_ms, wall_ms);
    return passed_ms < delay_ms ? delay_ms - passed_ms : 0;
}

/* ASSIGN and ARRIVED leave epoch == epoch_high; each failed move since burned one epoch. */
uint64_t plan_failed_moves(const struct ha_guest *guest, uint64_t wall_ms)
{
    if (guest->phase != HA_PHASE_RUNNING ||
        plan_since_ms(guest->phase_wall_ms, wall_ms) > PLAN_MOVE_MEMORY_MS)
        return 0;
    return guest->epoch_high - guest->epoch;
}

uint64_t plan_move_wait_ms(const struct ha_guest *guest, uint64_t wall_ms)
{
    uint64_t failed = plan_failed_moves(guest, wall_ms);

    if (failed == 0)
        return 0;
    uint64_t delay_ms = doubled(PLAN_MOVE_MIN_MS, failed - 1, PLAN_MOVE_MAX_MS);
    uint64_t passed_ms = plan_since_ms(guest->phase_wall_ms, wall_ms);
    return passed_ms < delay_ms ? delay_ms - passed_ms : 0;
}

/* --- Proposals --- */

struct ha_cmd *plan_add(struct plan_ctx *ctx, uint8_t type, uint16_t reason, uint64_t cause)
{
    static const char actor[] = "planner";
    uint32_t max = ctx->limits->proposals_max;

    if (max == 0 || max > HA_PROPOSALS_MAX)
        max = HA_PROPOSALS_MAX;
    if (ctx->plan->count == max) {
        ctx->plan->is_more = true;
        return NULL;
    }
    struct ha_cmd *cmd = &ctx->plan->proposals[ctx->plan->count++];
    memset(cmd, 0, sizeof(*cmd));
    cmd->type = type;
    cmd->reason = reason;
    cmd->cause = cause;
    memcpy(cmd->actor, actor, sizeof(actor));
    return cmd;
}

void plan_again_in(struct plan_ctx *ctx, uint64_t delay_ms)
{
    uint64_t at_ms = ctx->rt->now_ms + delay_ms;

    if (at_ms < ctx->plan->next_ms)
        ctx->plan->next_ms = at_ms;
}

/* --- The whole --- */

/* Only the leader of the open view plans, on everything that is committed (I11, H10). */
static bool may_plan(const struct ha_state *state, const struct ha_runtime *rt)
{
    const struct ha_node *self = ha_state_node(state, rt->self);

    return rt->is_open && rt->is_leader && self && self->status == HA_NODE_MEMBER &&
           log_view_cmp(rt->view, state->view) == 0 && state->applied >= rt->commit_index;
}

void ha_plan(const struct ha_state *state, const struct ha_runtime *rt,
             const struct ha_plan_limits *limits, struct ha_plan_scratch *scratch,
             struct ha_plan *ret_plan)
{
    struct plan_ctx ctx = {
        .state = state, .rt = rt, .limits = limits, .scratch = scratch, .plan = ret_plan};

    ret_plan->count = 0;
    ret_plan->is_more = false;
    ret_plan->next_ms = UINT64_MAX;
    if (!may_plan(state, rt))
        return;
    plan_count(state, scratch);
    plan_pass_stop(&ctx);
    plan_pass_abort(&ctx);
    plan_pass_place(&ctx);
    plan_pass_drain(&ctx);
}
