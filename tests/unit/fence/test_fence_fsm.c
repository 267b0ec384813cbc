/* SPDX-License-Identifier: Apache-2.0
 *
 * The decisions of fencing: when agents may start, what counts as evidence, levels, retries,
 * merging, cancelling. Each test names the node that would be shot, or the guest that would run
 * twice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "fence/fence_fsm.h"
#include "hamgr/base/sm.h"
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
static struct rig *rig_new(void)
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

static void rig_free(struct rig *r)
{
    build_free(r->b);
    free(r);
}

/* Member knows device `name` on level, for node target (0 = all). */
static struct fence_device *add_device(struct rig *r, uint32_t member, const char *name,
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

static const struct fence_actions *step(struct rig *r)
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

static void pass(struct rig *r, uint64_t ms)
{
    r->rt.now_ms += ms;
    r->rt.view_age_ms += ms;
    for (uint32_t i = 0; i < HA_NODES_MAX; i++)
        r->in.evidence_ms[i] += r->in.evidence_ms[i] ? ms : 0;
}

/* The only action, of type; NULL if there is none. */
static const struct fence_action *only(struct rig *r, uint8_t type)
{
    step(r);
    if (r->out.count == 0)
        return NULL;
    assert_int_equal(r->out.count, 1);
    assert_int_equal(r->out.list[0].type, type);
    return &r->out.list[0];
}

static void lose(struct rig *r, bool is_continuous)
{
    BUILD_OPEN(r->b, is_continuous, 1, 2, 3);
}

static uint8_t step_of(const struct rig *r, uint32_t node)
{
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        if (r->fsm.targets[i].node == node)
            return r->fsm.targets[i].step;
    }
    return FENCE_IDLE;
}

static uint64_t start(struct rig *r)
{
    const struct fence_action *action = only(r, FENCE_ACT_START);

    assert_non_null(action);
    return action->run;
}

/* --- The plain course --- */

static void verified_off_is_proposed_and_ends(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    assert_null(only(r, 0)); /* everybody is there */
    lose(r, true);
    const struct fence_action *action = only(r, FENCE_ACT_START);
    assert_non_null(action);
    assert_int_equal(action->node, VICTIM);
    assert_int_equal(action->by, 1);
    assert_int_equal(action->action, FENCEP_OFF);
    assert_int_equal(action->timeout_ms, 20000);
    assert_string_equal(action->device, "ipmi-n4");
    uint64_t run = action->run;
    assert_null(only(r, 0)); /* under way: not again */
    assert_int_equal(r->progress[3].node, VICTIM);
    assert_int_equal(r->progress[3].attempts, 1);
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "fence_ipmilan: status off");
    action = only(r, FENCE_ACT_PROPOSE);
    assert_non_null(action);
    assert_int_equal(action->cmd.type, HA_CMD_FENCED);
    assert_int_equal(action->cmd.u.fenced.evidence, HA_EVIDENCE_AGENT);
    assert_int_equal(action->cmd.incarnation, build_node_of(r->b, VICTIM)->incarnation);
    assert_string_equal(action->cmd.u.fenced.detail, "ipmi-n4: fence_ipmilan: status off");
    assert_int_equal(r->out.next_ms, r->rt.now_ms + FENCE_PROPOSE_MS);
    assert_null(only(r, 0));
    pass(r, FENCE_PROPOSE_MS);
    assert_non_null(only(r, FENCE_ACT_PROPOSE)); /* it seems to have been lost */
    assert_int_equal(build_cmd(r->b, &r->out.list[0].cmd), HA_REASON_NONE);
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_IDLE);
    assert_int_equal(r->progress[3].node, 0);
    assert_int_equal(r->out.next_ms, UINT64_MAX);
    rig_free(r);
}

/* I7: nothing but verified off is evidence. */
static void no_other_outcome_is_evidence(void **state)
{
    static const uint8_t outcomes[] = {FENCEP_IS_ON, FENCEP_OK, FENCEP_FAILED, FENCEP_CANCELLED, 0,
                                       77,           255};

    (void)state;
    for (size_t i = 0; i < sizeof(outcomes); i++) {
        struct rig *r = rig_new();
        add_device(r, 1, "ipmi-n4", 1, VICTIM);
        lose(r, true);
        fence_fsm_result(&r->fsm, start(r), outcomes[i], "");
        assert_null(only(r, 0));
        assert_int_equal(step_of(r, VICTIM), FENCE_BACKOFF);
        assert_int_equal(r->out.next_ms, r->rt.now_ms + FENCE_RETRY_MIN_MS);
        rig_free(r);
    }
}

static void a_silent_agent_is_no_evidence(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    build_node_cmd(r->b, HA_CMD_UNARMED, VICTIM); /* nothing but the agent */
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    uint64_t run = start(r);
    assert_int_equal(r->out.next_ms, r->rt.now_ms + 20000 + FENCE_LATE_MS);
    pass(r, 20000 + FENCE_LATE_MS - 1);
    assert_null(only(r, 0));
    assert_int_equal(r->out.next_ms, r->rt.now_ms + 1);
    pass(r, 1);
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_BACKOFF);
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "too late"); /* of nobody's run */
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_BACKOFF);
    rig_free(r);
}

/* --- When it may not --- */

static void only_the_leader_of_an_open_view_fences(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    r->in.evidence_ms[3] = 100000;
    r->rt.is_leader = false;
    assert_null(only(r, 0));
    r->rt.is_leader = true;
    r->rt.is_open = false;
    assert_null(only(r, 0));
    r->rt.is_open = true;
    r->rt.self = VICTIM;
    assert_null(only(r, 0));
    r->rt.self = 1;
    step(r);
    assert_true(r->out.count > 0);
    rig_free(r);
}

static void nobody_fences_on_an_old_state(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    step(r);
    assert_int_equal(r->out.count, 1);
    fence_fsm_init(&r->fsm);
    r->rt.commit_index++;
    fence_fsm_step(&r->fsm, &r->in, &r->out);
    assert_int_equal(r->out.count, 0);
    r->rt.commit_index--;
    r->rt.view.counter++;
    fence_fsm_step(&r->fsm, &r->in, &r->out);
    assert_int_equal(r->out.count, 0);
    rig_free(r);
}

/* I11 */
static void a_disarmed_cluster_fences_nobody(void **state)
{
    struct rig *r = rig_new();
    struct ha_cmd disarm = build_command(r->b, HA_CMD_DISARM);

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    uint64_t run = start(r);
    build_cmd(r->b, &disarm);
    const struct fence_action *action = only(r, FENCE_ACT_CANCEL);
    assert_non_null(action);
    assert_int_equal(action->run, run);
    r->in.evidence_ms[3] = 1000000;
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    rig_free(r);
}

/* After a reunion of everybody the last port of the switch may come up a moment later. */
static void after_a_gap_nothing_starts_for_h(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, false);
    assert_true(build_node_of(r->b, VICTIM)->is_hold);
    r->in.evidence_ms[3] = 100000;
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_HELD);
    assert_int_equal(r->out.next_ms, r->rt.now_ms + 5900);
    assert_int_equal(r->progress[3].hold_until_ms, r->rt.now_ms + 5900);
    pass(r, 5899);
    assert_null(only(r, 0));
    pass(r, 1);
    assert_non_null(only(r, FENCE_ACT_PROPOSE)); /* T_wait is long over: no agent is needed */
    assert_int_equal(r->out.list[0].cmd.u.fenced.evidence, HA_EVIDENCE_LEASE);
    rig_free(r);
}

static void an_operator_does_not_wait_for_h(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, false);
    assert_null(only(r, 0));
    build_node_cmd(r->b, HA_CMD_FENCE_WANT, VICTIM);
    r->in.evidence_ms[3] = 100000; /* T_wait is still held: only the agent is hurried */
    assert_non_null(only(r, FENCE_ACT_START));
    rig_free(r);
}

/* L5: hamgrd is restarted, corosync and the guests live on: nobody is shot before L is over. */
static void a_restarting_hamgrd_gets_its_lease(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    r->in.is_host_up[3] = true;
    r->in.evidence_ms[3] = 400;
    uint32_t lease_ms = build_node_of(r->b, VICTIM)->lease_ms;
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_HELD);
    assert_int_equal(r->out.next_ms, r->rt.now_ms + lease_ms - 400);
    pass(r, lease_ms - 401);
    assert_null(only(r, 0));
    pass(r, 1);
    assert_non_null(only(r, FENCE_ACT_START));
    rig_free(r);
}

static void a_host_that_goes_down_later_is_fenced_at_once(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    r->in.is_host_up[3] = true;
    r->in.evidence_ms[3] = 400;
    assert_null(only(r, 0));
    r->in.is_host_up[3] = false;
    assert_non_null(only(r, FENCE_ACT_START));
    rig_free(r);
}

/* FREEZE is for upgrades: its guests run on, and only people may end them. */
static void a_frozen_node_is_left_to_the_operator(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    build_node_cmd(r->b, HA_CMD_FREEZE, VICTIM);
    lose(r, true);
    r->in.evidence_ms[3] = 1000000;
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_WATCH);
    assert_int_equal(r->progress[3].wait_ms, 0);
    build_node_cmd(r->b, HA_CMD_FENCE_WANT, VICTIM);
    fence_fsm_result(&r->fsm, start(r), FENCEP_VERIFIED_OFF, "off");
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    assert_int_equal(r->out.list[0].cmd.u.fenced.evidence, HA_EVIDENCE_AGENT);
    assert_int_equal(build_cmd(r->b, &r->out.list[0].cmd), HA_REASON_NONE);
    rig_free(r);
}

static void a_node_without_guests_is_not_shot(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "all", 1, 0);
    BUILD_OPEN(r->b, true, 1, 2, 4);
    r->in.evidence_ms[2] = 1000;
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, 3), FENCE_WATCH);
    r->in.evidence_ms[2] = 1000000; /* but its T_wait is proof as any */
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    rig_free(r);
}

static void the_end_of_a_migration_is_worth_fencing(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "all", 1, 0);
    build_migrate(r->b, 1, 3);
    BUILD_OPEN(r->b, true, 1, 2, 4);
    const struct fence_action *action = only(r, FENCE_ACT_START);
    assert_non_null(action);
    assert_int_equal(action->node, 3);
    rig_free(r);
}

/* --- T_wait --- */

static void t_wait_is_evidence_for_an_armed_incarnation(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    lose(r, true);
    const struct ha_node *node = build_node_of(r->b, VICTIM);
    uint64_t wait_ms = log_wait_ms(&r->rt.timing, node->lease_ms, node->watchdog_ms);
    assert_true(wait_ms > node->lease_ms);
    r->in.evidence_ms[3] = wait_ms - 1;
    assert_null(only(r, 0));
    assert_int_equal(r->out.next_ms, r->rt.now_ms + 1);
    assert_int_equal(r->progress[3].wait_ms, wait_ms);
    assert_int_equal(r->progress[3].evidence_ms, wait_ms - 1);
    pass(r, 1);
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    assert_int_equal(r->out.list[0].cmd.u.fenced.evidence, HA_EVIDENCE_LEASE);
    assert_int_equal(build_cmd(r->b, &r->out.list[0].cmd), HA_REASON_NONE);
    rig_free(r);
}

/* Without ARMED nobody knows that it fences itself: no time is long enough. */
static void t_wait_is_no_evidence_without_armed(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    build_node_cmd(r->b, HA_CMD_UNARMED, VICTIM);
    lose(r, true);
    r->in.evidence_ms[3] = 1000000000;
    assert_null(only(r, 0));
    rig_free(r);
}

static void t_wait_overtakes_a_hanging_agent(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM)->timeout_ms = 120000;
    lose(r, true);
    r->in.evidence_ms[3] = 1;
    uint64_t run = start(r);
    pass(r, 60000);
    step(r);
    assert_int_equal(r->out.count, 2);
    assert_int_equal(r->out.list[0].type, FENCE_ACT_CANCEL);
    assert_int_equal(r->out.list[0].run, run);
    assert_int_equal(r->out.list[1].type, FENCE_ACT_PROPOSE);
    assert_int_equal(r->out.list[1].cmd.u.fenced.evidence, HA_EVIDENCE_LEASE);
    rig_free(r);
}

/* --- Levels, devices, members --- */

/* Two power supplies: both must be off. */
static void all_devices_of_a_level_must_be_off(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "pdu-a", 1, VICTIM);
    add_device(r, 1, "pdu-b", 1, VICTIM);
    lose(r, true);
    step(r);
    assert_int_equal(r->out.count, 2);
    uint64_t a = r->out.list[0].run, b = r->out.list[1].run;
    assert_true(a != b);
    fence_fsm_result(&r->fsm, a, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    fence_fsm_result(&r->fsm, b, FENCEP_VERIFIED_OFF, "off");
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    assert_string_equal(r->out.list[0].cmd.u.fenced.detail, "pdu-a: off; pdu-b: off");
    rig_free(r);
}

static void one_failure_leads_to_the_next_level(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi", 2, VICTIM);
    add_device(r, 1, "pdu-a", 5, VICTIM);
    add_device(r, 1, "pdu-b", 5, VICTIM);
    lose(r, true);
    fence_fsm_result(&r->fsm, start(r), FENCEP_FAILED, "no route");
    step(r);
    assert_int_equal(r->out.count, 2);
    uint64_t a = r->out.list[0].run, b = r->out.list[1].run;
    assert_string_equal(r->out.list[0].device, "pdu-a");
    assert_string_equal(r->progress[3].text, "ipmi: no route");
    fence_fsm_result(&r->fsm, a, FENCEP_IS_ON, "");
    const struct fence_action *action = only(r, FENCE_ACT_CANCEL); /* the level is lost */
    assert_non_null(action);
    assert_int_equal(action->run, b);
    assert_int_equal(step_of(r, VICTIM), FENCE_BACKOFF);
    fence_fsm_result(&r->fsm, b, FENCEP_VERIFIED_OFF, "off"); /* of an attempt that is over */
    assert_null(only(r, 0));
    pass(r, FENCE_RETRY_MIN_MS);
    action = only(r, FENCE_ACT_START);
    assert_non_null(action);
    assert_string_equal(action->device, "ipmi"); /* from the first level again */
    rig_free(r);
}

/* L4: 2, 4, 8, 16, 32, 60, 60 s. */
static void retries_back_off(void **state)
{
    static const uint32_t waits_ms[] = {2000, 4000, 8000, 16000, 32000, 60000, 60000};
    struct rig *r = rig_new();

    (void)state;
    build_node_cmd(r->b, HA_CMD_UNARMED, VICTIM);
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    for (size_t i = 0; i < sizeof(waits_ms) / sizeof(waits_ms[0]); i++) {
        fence_fsm_result(&r->fsm, start(r), FENCEP_FAILED, "");
        assert_null(only(r, 0));
        assert_int_equal(r->out.next_ms, r->rt.now_ms + waits_ms[i]);
        pass(r, waits_ms[i] - 1);
        assert_null(only(r, 0));
        pass(r, 1);
    }
    assert_int_equal(r->progress[3].attempts, 7);
    rig_free(r);
}

static void another_member_runs_what_the_leader_can_not(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 4, "ipmi-n4", 1, VICTIM); /* the victim itself is never asked */
    add_device(r, 3, "ipmi-n4", 1, VICTIM);
    add_device(r, 2, "other", 1, 3);
    lose(r, true);
    const struct fence_action *action = only(r, FENCE_ACT_START);
    assert_non_null(action);
    assert_int_equal(action->by, 3);
    rig_free(r);
}

/* The same device on several members is one device; the next attempt asks the next of them. */
static void members_take_turns(void **state)
{
    static const uint32_t expected[] = {1, 2, 3, 1};
    struct rig *r = rig_new();

    (void)state;
    for (uint32_t member = 1; member <= 3; member++)
        add_device(r, member, "ipmi-n4", (uint8_t)(member == 1 ? 1 : 7), VICTIM);
    lose(r, true);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const struct fence_action *action = only(r, FENCE_ACT_START);
        assert_non_null(action);
        assert_int_equal(action->by, expected[i]);
        fence_fsm_result(&r->fsm, action->run, FENCEP_FAILED, "");
        assert_null(only(r, 0));
        pass(r, 60000);
    }
    rig_free(r);
}

/* The shortest way first: the leader's own hamgr-fence, whatever its id. */
static void the_leader_asks_itself_first(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    r->rt.self = 2;
    for (uint32_t member = 1; member <= 3; member++)
        add_device(r, member, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    const struct fence_action *action = only(r, FENCE_ACT_START);
    assert_non_null(action);
    assert_int_equal(action->by, 2);
    r->rt.is_leader = false;
    action = only(r, FENCE_ACT_CANCEL); /* says whom, what and where */
    assert_non_null(action);
    assert_int_equal(action->by, 2);
    assert_int_equal(action->node, VICTIM);
    assert_string_equal(action->device, "ipmi-n4");
    rig_free(r);
}

static void an_absent_member_is_not_asked(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 3, "ipmi-n4", 1, VICTIM);
    BUILD_OPEN(r->b, true, 1, 2);
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_WATCH);
    assert_string_equal(r->progress[3].text, "no member has a fence device for it");
    BUILD_OPEN(r->b, true, 1, 2, 3);
    assert_non_null(only(r, FENCE_ACT_START));
    rig_free(r);
}

static void a_device_that_turns_up_is_used(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    lose(r, true);
    assert_null(only(r, 0));
    add_device(r, 2, "ipmi-n4", 3, VICTIM);
    assert_non_null(only(r, FENCE_ACT_START));
    r->members[1].device_count = 0; /* fence.conf was reread */
    assert_non_null(only(r, FENCE_ACT_CANCEL));
    assert_int_equal(step_of(r, VICTIM), FENCE_WATCH);
    rig_free(r);
}

/* Two dead nodes behind one chassis controller: one after the other. */
static void a_device_runs_for_one_node_at_a_time(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    build_guest(r->b, 2, HA_WANT_STARTED);
    build_phase(r->b, 2, HA_PHASE_RUNNING, 3, 0);
    add_device(r, 1, "chassis", 1, 0);
    BUILD_OPEN(r->b, true, 1, 2);
    const struct fence_action *action = only(r, FENCE_ACT_START);
    assert_non_null(action);
    assert_int_equal(action->node, 3);
    uint64_t run = action->run;
    assert_null(only(r, 0));
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    step(r);
    assert_int_equal(r->out.count, 2);
    assert_int_equal(r->out.list[0].type, FENCE_ACT_PROPOSE);
    assert_int_equal(r->out.list[0].cmd.node, 3);
    assert_int_equal(r->out.list[1].type, FENCE_ACT_START);
    assert_int_equal(r->out.list[1].node, VICTIM);
    rig_free(r);
}

/* --- Views --- */

/* H34: an agent started in a closed view is cancelled, or its result is only told. */
static void a_result_of_an_earlier_view_is_not_evidence(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    uint64_t run = start(r);
    BUILD_OPEN(r->b, true, 1, 2);
    const struct fence_action *action = only(r, FENCE_ACT_CANCEL); /* the device is still taken */
    assert_non_null(action);
    assert_int_equal(action->run, run);
    assert_null(only(r, 0));
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    uint64_t again = start(r); /* one more look, in this view */
    assert_true(again > run);
    assert_non_null(strstr(r->progress[3].text, "not evidence"));
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    fence_fsm_result(&r->fsm, again, FENCEP_VERIFIED_OFF, "off");
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    rig_free(r);
}

/* H14: it is back; what was found about its former life must not kill the new one. */
static void a_node_that_comes_back_is_not_fenced(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    uint64_t run = start(r);
    BUILD_OPEN(r->b, true, 1, 2, 3, 4);
    assert_non_null(only(r, FENCE_ACT_CANCEL));
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    lose(r, true); /* gone again, as another incarnation */
    uint64_t again = start(r);
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    fence_fsm_result(&r->fsm, again, FENCEP_VERIFIED_OFF, "off");
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    assert_int_equal(r->out.list[0].cmd.incarnation, build_node_of(r->b, VICTIM)->incarnation);
    rig_free(r);
}

/* A member that dies with the agent in its hands must not keep the device. */
static void a_run_on_a_lost_member_frees_its_device(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 3, "ipmi-n4", 1, VICTIM);
    add_device(r, 2, "ipmi-n4", 1, VICTIM);
    r->members[1].device_count = 0;
    lose(r, true);
    assert_int_equal(only(r, FENCE_ACT_START)->by, 3);
    r->members[1].device_count = 1;
    BUILD_OPEN(r->b, true, 1, 2);
    step(r);
    assert_int_equal(r->out.count, 2);
    assert_int_equal(r->out.list[0].type, FENCE_ACT_CANCEL);
    assert_int_equal(r->out.list[1].type, FENCE_ACT_START);
    assert_int_equal(r->out.list[1].by, 2);
    rig_free(r);
}

/* A restarted leader begins with an empty machine: answers to its former life must not fit. */
static void answers_to_a_former_leader_do_not_fit(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    uint64_t run = start(r);
    build_restart(r->b, 1);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    fence_fsm_init(&r->fsm);
    assert_true(start(r) > run);
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    rig_free(r);
}

static void a_leader_that_steps_down_cancels(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    uint64_t run = start(r);
    r->rt.is_leader = false;
    assert_non_null(only(r, FENCE_ACT_CANCEL));
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    rig_free(r);
}

/* --- Operators --- */

/* A live member is switched off for an operator; the evidence is taken when it has left the view.
 */
static void a_live_member_is_fenced_on_request(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    add_device(r, 4, "ipmi-n4", 1, VICTIM);
    assert_null(only(r, 0));
    build_node_cmd(r->b, HA_CMD_FENCE_WANT, VICTIM);
    uint64_t run = start(r);
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0)); /* FENCED needs an UNCLEAN incarnation */
    assert_int_equal(step_of(r, VICTIM), FENCE_BACKOFF);
    lose(r, true);
    run = start(r);
    fence_fsm_result(&r->fsm, run, FENCEP_VERIFIED_OFF, "off");
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    assert_int_equal(r->out.list[0].cmd.reason, HA_REASON_OPERATOR);
    assert_int_equal(build_cmd(r->b, &r->out.list[0].cmd), HA_REASON_NONE);
    rig_free(r);
}

/* Requests merge: the run under way serves; a back-off is cut short once. */
static void an_operators_wish_hastens_once(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    uint64_t run = start(r);
    build_node_cmd(r->b, HA_CMD_FENCE_WANT, VICTIM);
    assert_null(only(r, 0)); /* one run per device */
    fence_fsm_result(&r->fsm, run, FENCEP_FAILED, "");
    assert_null(only(r, 0));
    run = start(r); /* at once */
    fence_fsm_result(&r->fsm, run, FENCEP_FAILED, "");
    assert_null(only(r, 0));
    assert_null(only(r, 0));
    pass(r, 4000);
    assert_non_null(only(r, FENCE_ACT_START));
    rig_free(r);
}

/* --- The table, limits --- */

static void the_table_has_names_and_no_way_out_of_proven_but_idle(void **state)
{
    (void)state;
    for (uint8_t i = 0; i < FENCE_STEP_COUNT; i++)
        assert_true(strlen(fence_step_name(i)) > 2);
    assert_string_equal(fence_step_name(FENCE_STEP_COUNT), "?");
}

/* Hostile or broken lists of devices: bounded, never read beyond. */
static void strange_device_lists_are_survived(void **state)
{
    struct rig *r = rig_new();
    static struct fence_device many[HA_DEVICES_MAX];

    (void)state;
    for (uint32_t i = 0; i < HA_DEVICES_MAX; i++) {
        memset(many[i].name, 'x', sizeof(many[i].name)); /* without an end */
        many[i].name[5] = (char)('a' + i % 7);
        many[i].level = (uint8_t)i; /* 0 and more than 9 are no levels */
        many[i].target_count = i % 3 ? UINT32_MAX : 1;
        many[i].targets[0] = i % 2 ? VICTIM : 0;
        many[i].is_for_all = i % 5 == 0;
    }
    r->members[0].devices = many;
    r->members[0].device_count = UINT32_MAX;
    lose(r, true);
    for (int i = 0; i < 200; i++) {
        step(r);
        for (uint32_t k = 0; k < r->out.count; k++) {
            assert_true(memchr(r->out.list[k].device, '\0', HA_NAME_MAX) != NULL);
            fence_fsm_result(&r->fsm, r->out.list[k].run, FENCEP_FAILED, NULL);
        }
        pass(r, 1000);
    }
    assert_true(r->progress[3].attempts > 0);
    rig_free(r);
}

/* Everything fails together: 31 dead nodes, one device each, at once. */
static void many_dead_nodes_are_fenced_in_parallel(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    static struct fence_device devices[HA_NODES_MAX];
    struct fence_member member = {.node = 1, .device_count = HA_NODES_MAX, .devices = devices};

    (void)state;
    assert_non_null(r);
    r->b = build_new(64);
    build_ready(r->b, HA_NODES_MAX);
    for (uint32_t node = 2; node <= HA_NODES_MAX; node++) {
        build_guest(r->b, node, HA_WANT_STARTED);
        build_phase(r->b, node, HA_PHASE_RUNNING, node, 0);
        snprintf(devices[node - 1].name, HA_NAME_MAX, "ipmi-%u", node);
        devices[node - 1].level = 1;
        devices[node - 1].target_count = 1;
        devices[node - 1].targets[0] = node;
    }
    BUILD_OPEN(r->b, true, 1);
    r->rt.self = 1;
    r->rt.is_open = r->rt.is_leader = true;
    r->rt.now_ms = 1000;
    r->rt.view = r->b->state.view;
    r->rt.commit_index = r->b->state.applied;
    r->in.state = &r->b->state;
    r->in.rt = &r->rt;
    r->in.member_count = 1;
    r->in.members = &member;
    fence_fsm_step(&r->fsm, &r->in, &r->out);
    assert_int_equal(r->out.count, HA_NODES_MAX - 1);
    for (uint32_t i = 0; i < r->out.count; i++)
        assert_int_equal(r->out.list[i].type, FENCE_ACT_START);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verified_off_is_proposed_and_ends),
        cmocka_unit_test(no_other_outcome_is_evidence),
        cmocka_unit_test(a_silent_agent_is_no_evidence),
        cmocka_unit_test(only_the_leader_of_an_open_view_fences),
        cmocka_unit_test(nobody_fences_on_an_old_state),
        cmocka_unit_test(a_disarmed_cluster_fences_nobody),
        cmocka_unit_test(after_a_gap_nothing_starts_for_h),
        cmocka_unit_test(an_operator_does_not_wait_for_h),
        cmocka_unit_test(a_restarting_hamgrd_gets_its_lease),
        cmocka_unit_test(a_host_that_goes_down_later_is_fenced_at_once),
        cmocka_unit_test(a_frozen_node_is_left_to_the_operator),
        cmocka_unit_test(a_node_without_guests_is_not_shot),
        cmocka_unit_test(the_end_of_a_migration_is_worth_fencing),
        cmocka_unit_test(t_wait_is_evidence_for_an_armed_incarnation),
        cmocka_unit_test(t_wait_is_no_evidence_without_armed),
        cmocka_unit_test(t_wait_overtakes_a_hanging_agent),
        cmocka_unit_test(all_devices_of_a_level_must_be_off),
        cmocka_unit_test(one_failure_leads_to_the_next_level),
        cmocka_unit_test(retries_back_off),
        cmocka_unit_test(another_member_runs_what_the_leader_can_not),
        cmocka_unit_test(members_take_turns),
        cmocka_unit_test(the_leader_asks_itself_first),
        cmocka_unit_test(an_absent_member_is_not_asked),
        cmocka_unit_test(a_device_that_turns_up_is_used),
        cmocka_unit_test(a_device_runs_for_one_node_at_a_time),
        cmocka_unit_test(a_result_of_an_earlier_view_is_not_evidence),
        cmocka_unit_test(a_node_that_comes_back_is_not_fenced),
        cmocka_unit_test(a_run_on_a_lost_member_frees_its_device),
        cmocka_unit_test(answers_to_a_former_leader_do_not_fit),
        cmocka_unit_test(a_leader_that_steps_down_cancels),
        cmocka_unit_test(a_live_member_is_fenced_on_request),
        cmocka_unit_test(an_operators_wish_hastens_once),
        cmocka_unit_test(the_table_has_names_and_no_way_out_of_proven_but_idle),
        cmocka_unit_test(strange_device_lists_are_survived),
        cmocka_unit_test(many_dead_nodes_are_fenced_in_parallel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
