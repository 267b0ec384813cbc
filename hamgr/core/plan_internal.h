/* SPDX-License-Identifier: Apache-2.0
 *
 * What the planner's files, explain and the reconciler share: the context of one planning call, the
 * conditions of placement (one function for planner, explain and refusals, so that they can't
 * disagree) and a sort without memory of its own.
 */
#ifndef HAMGR_CORE_PLAN_INTERNAL_H
#define HAMGR_CORE_PLAN_INTERNAL_H

#include "hamgr/core/plan.h"
#include "hamgr/core/reason.h"

/* A restart after the second failure waits 5 s, doubled to at most 60 s; the first is immediate. */
#define PLAN_RESTART_MIN_MS 5000u
#define PLAN_RESTART_MAX_MS 60000u
/* A drained guest whose move failed waits 10 s before the next try, doubled to at most 300 s:
 * copying gigabytes again and again helps nobody. */
#define PLAN_MOVE_MIN_MS 10000u
#define PLAN_MOVE_MAX_MS 300000u
/* Failed moves of a guest on a node that shuts down, within the last 10 minutes, before it is
 * stopped instead: the host can't wait for ever. */
#define PLAN_MOVE_TRIES     2u
#define PLAN_MOVE_MEMORY_MS 600000u
/* An absent source's ticket is aborted only after this: if HANDOVER was heard, SWITCH is one commit
 * away, and it saves the guest's memory. A commit takes < 0.5 s, with a lost message < 1.5 s. */
#define PLAN_SWITCH_GRACE_MS 2000u

/* After a cold start the first armed node would be given every guest. Placing waits until most
 * nodes that could take guests can, but at most 2 s after the last of them joined: a node reports
 * its memory and its armed watchdog within two commits and a keeper's start, 0.2 to 0.8 s. */
#define PLAN_SETTLE_MS 2000u
/* No guest waits longer than that in all: one whose hamgrd falls over and over again joins each
 * time anew. Twice the time, so that the second of two nodes that boot apart is still waited for.
 */
#define PLAN_SETTLE_MOST_MS (2 * PLAN_SETTLE_MS)

struct plan_ctx {
    const struct ha_state *state;
    const struct ha_runtime *rt;
    const struct ha_plan_limits *limits;
    struct ha_plan_scratch *scratch; /* free_kib, starting, moving: parallel to state->nodes */
    struct ha_plan *plan;
};

/* Sorts order[0..count) so that is_before(arg, order[i], order[j]) never holds for i > j. Heap
 * sort: no memory, O(n log n) always. is_before must be a total order. */
void plan_sort(uint32_t *order, uint32_t count,
               bool (*is_before)(const void *arg, uint32_t a, uint32_t b), const void *arg);

/* Index of a node in state->nodes, HA_NODES_MAX if unknown. */
uint32_t plan_slot(const struct ha_state *state, uint32_t node);
/* Fills free_kib, starting and moving from the state: one pass over the guests. */
void plan_count(const struct ha_state *state, struct ha_plan_scratch *scratch);
/* An operator wants it fenced, and a member has a device that can do it. Without one the wish can't
 * come true, and waiting for it would keep the node from guests without end. */
bool plan_is_to_be_fenced(const struct ha_state *state, const struct ha_runtime *rt,
                          const struct ha_node *node);
/* May the node in slot take a guest at all (memory aside)? HA_REASON_NONE or why not. */
uint16_t plan_check_node(const struct ha_state *state, const struct ha_runtime *rt, uint32_t slot);
/* The node's own report, NULL before there is one. */
const struct ha_report *plan_report(const struct ha_state *state, const struct ha_runtime *rt,
                                    const struct ha_node *node);
/* Time passed on wall clocks, which may jump: one that went back means "long ago" (UINT64_MAX), for
 * a jump must never keep a guest down. */
uint64_t plan_since_ms(uint64_t then_wall_ms, uint64_t wall_ms);
/* How long a FREE guest still waits for nodes that have just joined (PLAN_SETTLE_MS), ms; 0 = not.
 */
uint64_t plan_settle_wait_ms(const struct ha_state *state, const struct ha_runtime *rt,
                             const struct ha_guest *guest);
/* How long a FREE guest still waits before its next start, ms; 0 = now. */
uint64_t plan_restart_wait_ms(const struct ha_guest *guest, uint64_t wall_ms);
/* Moves of the present copy that failed lately. */
uint64_t plan_failed_moves(const struct ha_guest *guest, uint64_t wall_ms);
/* How long a running guest still waits before the next move away, ms. */
uint64_t plan_move_wait_ms(const struct ha_guest *guest, uint64_t wall_ms);
/* Order in which guests are treated: priority, start order, larger first, uuid. */
bool plan_is_before(const void *guests, uint32_t a, uint32_t b);

/* Best slot for a guest: `busy` holds operations in flight per slot and `busy_max` their limit. Not
 * `except`, `avoid` only if nothing else is left, `prefer` first (node ids, 0 = none). Returns
 * HA_NODES_MAX when none; *ret_is_busy then says that only limits in flight stood in the way. */
struct plan_wish {
    struct ha_uuid guest;
    uint64_t mem_kib;
    uint32_t from; /* the node it moves from, 0 = it is started */
    uint32_t except;
    uint32_t avoid;
    uint32_t prefer;
    const uint32_t *busy;
    uint32_t busy_max;
};
uint32_t plan_choose(const struct plan_ctx *ctx, const struct plan_wish *wish, bool *ret_is_busy);

/* The next proposal, zeroed but for type, reason, cause and actor; NULL when the plan is full. */
struct ha_cmd *plan_add(struct plan_ctx *ctx, uint8_t type, uint16_t reason, uint64_t cause);
/* Plan again in delay_ms at the latest. */
void plan_again_in(struct plan_ctx *ctx, uint64_t delay_ms);

/* The passes, in their order. */
void plan_pass_stop(struct plan_ctx *ctx);
void plan_pass_abort(struct plan_ctx *ctx);
void plan_pass_place(struct plan_ctx *ctx);
void plan_pass_drain(struct plan_ctx *ctx);

#endif
