/* SPDX-License-Identifier: Apache-2.0
 *
 * A leader that fences, driven step by step: four nodes, a guest on the fourth, devices and time in
 * the test's hands. Shared by the tests of the fence machine; included after cmocka.
 */
#ifndef TESTS_UNIT_FENCE_FENCE_RIG_H
#define TESTS_UNIT_FENCE_FENCE_RIG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fence/fence_fsm.h"
#include "tests/lib/builders.h"

#define MEMBERS 4u
#define VICTIM  4u

struct rig {
    struct build *b;
    struct ha_runtime rt;
    struct fence_fsm fsm;
    struct fence_input in;
    struct fence_member members[MEMBERS];
    struct fence_device devices[MEMBERS][4];
    struct fence_actions out;
    struct ha_fence_progress progress[HA_NODES_MAX];
};

/* Four ready nodes, guest 1 on node 4; node 1 leads, T_wait is 15 s, no fence device yet. */
static inline struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    r->b = build_new(16);
    build_ready(r->b, MEMBERS);
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_phase(r->b, 1, HA_PHASE_RUNNING, VICTIM, 0);
    fence_fsm_init(&r->fsm);
    r->rt.self = 1;
    r->rt.now_ms = 1000000;
    r->rt.view_age_ms = 100;
    r->rt.hold_ms = 6000;
    r->rt.lease_ms = 6900;
    r->rt.is_open = r->rt.is_leader = true;
    r->in.is_quorate = true;
    r->rt.timing = (struct log_timing){.heartbeat_ms = 500,
                                       .lease_ms = 6900,
                                       .keeper_ms = 250,
                                       .reset_ms = 1000,
                                       .drain_ms = 2000,
                                       .rho_ppm = 5000};
    for (uint32_t i = 0; i < MEMBERS; i++)
        r->members[i] = (struct fence_member){.node = i + 1, .devices = r->devices[i]};
    return r;
}

static inline void rig_free(struct rig *r)
{
    build_free(r->b);
    free(r);
}

/* Member knows device `name` on level, for node target (0 = all). */
static inline struct fence_device *add_device(struct rig *r, uint32_t member, const char *name,
                                              uint8_t level, uint32_t target)
{
    struct fence_member *m = &r->members[member - 1];
    struct fence_device *device = &r->devices[member - 1][m->device_count++];

    memset(device, 0, sizeof(*device));
    snprintf(device->name, sizeof(device->name), "%s", name);
    device->level = level;
    device->timeout_ms = 20000;
    device->is_for_all = target == 0;
    device->target_count = target ? 1 : 0;
    device->targets[0] = target;
    return device;
}

static inline const struct fence_actions *step(struct rig *r)
{
    r->rt.view = r->b->state.view;
    r->rt.commit_index = r->b->state.applied;
    r->in.state = &r->b->state;
    r->in.rt = &r->rt;
    r->in.member_count = MEMBERS;
    r->in.members = r->members;
    fence_fsm_step(&r->fsm, &r->in, &r->out);
    fence_fsm_progress(&r->fsm, &r->in, r->progress);
    return &r->out;
}

static inline void pass(struct rig *r, uint64_t ms)
{
    r->rt.now_ms += ms;
    r->rt.view_age_ms += ms;
    for (uint32_t i = 0; i < HA_NODES_MAX; i++)
        r->in.evidence_ms[i] += r->in.evidence_ms[i] ? ms : 0;
}

/* The only action, of type; NULL if there is none. */
static inline const struct fence_action *only(struct rig *r, uint8_t type)
{
    step(r);
    if (r->out.count == 0)
        return NULL;
    assert_int_equal(r->out.count, 1);
    assert_int_equal(r->out.list[0].type, type);
    return &r->out.list[0];
}

static inline void lose(struct rig *r, bool is_continuous)
{
    BUILD_OPEN(r->b, is_continuous, 1, 2, 3);
}

static inline uint8_t step_of(const struct rig *r, uint32_t node)
{
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        if (r->fsm.targets[i].node == node)
            return r->fsm.targets[i].step;
    }
    return FENCE_IDLE;
}

static inline uint64_t start(struct rig *r)
{
    const struct fence_action *action = only(r, FENCE_ACT_START);

    assert_non_null(action);
    return action->run;
}

#endif
