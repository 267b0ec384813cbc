/* SPDX-License-Identifier: Apache-2.0
 *
 * The planner: what should change, given the state and what is known beside it. Runs only on the
 * leader of the open view. A list of passes; each proposal carries its reason. It may be wrong
 * without harm (ha_state_apply checks), so it may change in every release.
 *
 * Passes, in order: stop what is wanted stopped; abort migrations whose end or deadline says so;
 * free guests of failed starts within their limits; place FREE wanted guests (priority, then start
 * order, then larger first; on the eligible node with the most free memory, then fewest starts in
 * flight, then lowest id; after a cold start not before most nodes can take some, PLAN_SETTLE_MS at
 * most); drain nodes in maintenance or shutting down by migration.
 */
#ifndef HAMGR_CORE_PLAN_H
#define HAMGR_CORE_PLAN_H

#include "hamgr/core/runtime.h"

#define HA_PROPOSALS_MAX 1024u

struct ha_plan_limits {
    uint32_t start_parallel;  /* ASSIGNED guests per node at once */
    uint32_t move_parallel;   /* tickets per node at once, either end */
    uint32_t proposals_max;   /* <= HA_PROPOSALS_MAX per call */
    uint8_t shutdown;         /* enum ha_shutdown_policy of hamgr/config */
    uint32_t max_downtime_ms; /* default pause contract */
    uint32_t deadline_ms;     /* default deadline, 0 none */
};

/* Working memory of one planning call, caller-owned (too large for a stack). */
struct ha_plan_scratch {
    uint64_t free_kib[HA_NODES_MAX];
    uint32_t starting[HA_NODES_MAX];
    uint32_t moving[HA_NODES_MAX];
    uint32_t order[HA_GUESTS_MAX];
};

struct ha_plan {
    uint32_t count;
    struct ha_cmd proposals[HA_PROPOSALS_MAX];
    bool is_more;     /* proposals_max was reached: plan again after these are applied */
    uint64_t next_ms; /* plan again at this time at the latest; UINT64_MAX = when state changes */
};

void ha_plan(const struct ha_state *state, const struct ha_runtime *rt,
             const struct ha_plan_limits *limits, struct ha_plan_scratch *scratch,
             struct ha_plan *ret_plan);

/* What stands against guest on node, by the nodes' own checks; NULL: nothing known. from: the node
 * it would move from, 0 = it is started. pause_ms: what the move says it may stand still, 0 = what
 * the guest's contract says. */
const struct ha_bar *ha_bar_against(const struct ha_runtime *rt, struct ha_uuid guest,
                                    uint32_t from, uint32_t node, uint32_t pause_ms);

/* Why guest is where it is, or is not: conditions with their numbers, and the smallest change that
 * lifts each. The same text in every refusal. */
#define HA_CONDITIONS_MAX (HA_NODES_MAX + 8u)
struct ha_condition {
    uint16_t reason; /* enum ha_reason */
    uint32_t node;   /* 0 = about the guest or cluster */
    bool is_ok;
    char text[HA_TEXT_MAX]; /* "n2: 512 MiB free, 2048 MiB needed" */
    char fix[HA_TEXT_MAX];  /* "free 1536 MiB on n2 or add memory", may be empty */
};
struct ha_explanation {
    char summary[HA_TEXT_MAX];
    uint32_t count;
    struct ha_condition conditions[HA_CONDITIONS_MAX];
};
void ha_explain(const struct ha_state *state, const struct ha_runtime *rt,
                const struct ha_plan_limits *limits, struct ha_uuid guest,
                struct ha_explanation *ret_explanation);
/* Would `cmd` be refused now? 0, or the reason with the sentence and fix for people (numbers in).
 */
uint16_t ha_refusal(const struct ha_state *state, const struct ha_runtime *rt,
                    const struct ha_cmd *cmd, char ret_text[HA_TEXT_MAX],
                    char ret_fix[HA_TEXT_MAX]);

#endif
