/* SPDX-License-Identifier: Apache-2.0
 *
 * A planning call seen from the leader, node 1, with its result as lines of text: what a golden
 * compares. Shared by the tests of planner and explain.
 */
#ifndef TESTS_UNIT_CORE_PLAN_RIG_H
#define TESTS_UNIT_CORE_PLAN_RIG_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/config/config.h"
#include "hamgr/core/plan.h"
#include "tests/lib/builders.h"

struct plan_rig {
    struct build *b;
    struct ha_runtime rt;
    struct ha_plan_limits limits;
    struct ha_plan_scratch scratch;
    struct ha_plan plan;
    char text[65536];
};

static inline struct plan_rig *plan_rig_empty(uint32_t guest_capacity)
{
    struct plan_rig *r = calloc(1, sizeof(*r));

    if (!r)
        abort();
    r->b = build_new(guest_capacity);
    r->rt.now_ms = 5000000;
    r->rt.self = 1;
    r->rt.is_open = true;
    r->rt.is_leader = true;
    r->rt.view_age_ms = 60000;
    r->limits = (struct ha_plan_limits){.start_parallel = 64,
                                        .move_parallel = 2,
                                        .proposals_max = HA_PROPOSALS_MAX,
                                        .shutdown = HA_SHUTDOWN_MIGRATE,
                                        .max_downtime_ms = 300};
    return r;
}

/* nodes ready nodes of 8 GiB; the present wall clock is that of the last entry. */
static inline struct plan_rig *plan_rig_new(uint32_t nodes)
{
    struct plan_rig *r = plan_rig_empty(64);

    build_ready(r->b, nodes);
    return r;
}

static inline void plan_rig_free(struct plan_rig *r)
{
    build_free(r->b);
    free(r);
}

static inline const char *plan_rig_guest(const struct plan_rig *r, struct ha_uuid id)
{
    const struct ha_guest *guest = ha_state_guest(&r->b->state, id);

    return guest ? guest->name : "?";
}

static inline void plan_rig_line(struct plan_rig *r, const struct ha_cmd *cmd)
{
    size_t used = strlen(r->text);
    char *at = r->text + used;
    size_t left = sizeof(r->text) - used;

    if (cmd->type == HA_CMD_ASSIGN)
        snprintf(at, left, "assign %s n%" PRIu32 " e%" PRIu64 " %s\n",
                 plan_rig_guest(r, cmd->guest), cmd->node, cmd->epoch, ha_reason_name(cmd->reason));
    else if (cmd->type == HA_CMD_STOP)
        snprintf(at, left, "stop %s n%" PRIu32 " %s%s\n", plan_rig_guest(r, cmd->guest), cmd->node,
                 ha_reason_name(cmd->reason), cmd->u.stop.is_relocation ? " relocate" : "");
    else if (cmd->type == HA_CMD_ABORT)
        snprintf(at, left, "abort %s %s\n", plan_rig_guest(r, cmd->guest),
                 ha_reason_name(cmd->reason));
    else if (cmd->type == HA_CMD_MIGRATE)
        snprintf(at, left, "migrate %s n%" PRIu32 "->n%" PRIu32 " e%" PRIu64 " %s\n",
                 plan_rig_guest(r, cmd->guest), cmd->node, cmd->u.migrate.dst, cmd->epoch,
                 ha_reason_name(cmd->reason));
    else
        snprintf(at, left, "%s\n", ha_cmd_name(cmd->type));
}

static inline void plan_rig_refresh(struct plan_rig *r)
{
    r->rt.view = r->b->state.view;
    r->rt.commit_index = r->b->state.applied;
    if (r->rt.wall_ms == 0)
        r->rt.wall_ms = r->b->wall_ms;
}

/* Plans, and returns the proposals as lines. rt.wall_ms 0 = the last entry's. */
static inline const char *plan_rig_plan(struct plan_rig *r)
{
    bool is_wall_given = r->rt.wall_ms != 0;

    plan_rig_refresh(r);
    ha_plan(&r->b->state, &r->rt, &r->limits, &r->scratch, &r->plan);
    if (!is_wall_given)
        r->rt.wall_ms = 0;
    r->text[0] = '\0';
    for (uint32_t i = 0; i < r->plan.count; i++)
        plan_rig_line(r, &r->plan.proposals[i]);
    return r->text;
}

/* Plans and applies; returns how many proposals the log refused (should be none). */
static inline uint32_t plan_rig_apply(struct plan_rig *r)
{
    uint32_t refused = 0;

    plan_rig_plan(r);
    for (uint32_t i = 0; i < r->plan.count; i++)
        refused += build_cmd(r->b, &r->plan.proposals[i]) != HA_REASON_NONE;
    return refused;
}

static inline struct ha_report *plan_rig_report(struct plan_rig *r, uint32_t node)
{
    struct ha_report *report = &r->rt.reports[node - 1];

    if (report->node == 0)
        *report = (struct ha_report){.node = node, .is_hv_ready = true, .mem_kib = BUILD_MEM_KIB};
    return report;
}

/* Adds a wanted guest with policy fields. */
static inline void plan_rig_guest_add(struct plan_rig *r, uint32_t guest, uint32_t mem_gib,
                                      uint16_t priority, uint16_t start_order)
{
    struct ha_policy policy = ha_policy_default();

    policy.priority = priority;
    policy.start_order = start_order;
    if (build_guest_mem(r->b, guest, HA_WANT_STARTED, (uint64_t)mem_gib << 20))
        abort();
    build_policy(r->b, guest, &policy); /* refused when nothing differs */
}

/* Runs the guest on a node. */
static inline void plan_rig_run(struct plan_rig *r, uint32_t guest, uint32_t node)
{
    build_phase(r->b, guest, HA_PHASE_RUNNING, node, 0);
}

#endif
