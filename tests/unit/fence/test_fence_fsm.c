/* SPDX-License-Identifier: Apache-2.0
 *
 * The decisions of fencing: when agents may start, what counts as evidence, views, operators. Each
 * test names the node that would be shot, or the guest that would run twice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/fence/fence_rig.h"

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

/* I11: a leader that is cut off has an open view for as long as its lease lasts. Meanwhile those it
 * left behind may have a view with the target in it. */
static void a_leader_without_quorum_sends_no_agent(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    r->in.is_quorate = false;
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_WATCH);
    r->in.is_quorate = true;
    const struct fence_action *start = only(r, FENCE_ACT_START);
    assert_non_null(start);
    r->in.is_quorate = false;
    assert_non_null(only(r, FENCE_ACT_CANCEL));
    assert_int_equal(step_of(r, VICTIM), FENCE_WATCH);
    rig_free(r);
}

/* Another machine came under the target's id, and votes: switched off with it the quorum is gone,
 * nobody records the proof, and the next view begins anew. */
static void who_is_needed_for_the_quorum_is_not_switched_off(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    r->in.is_needed[3] = true;
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_WATCH);
    assert_string_equal(r->progress[3].text,
                        "no quorum without the process that came under its id");
    r->in.is_needed[3] = false;
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

/* The ages may be unknown for long: L after the view began its lease is over all the same. */
static void a_restarting_hamgrd_without_known_age_gets_no_more(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    lose(r, true);
    r->in.is_host_up[3] = true;
    uint32_t lease_ms = build_node_of(r->b, VICTIM)->lease_ms;
    r->rt.view_age_ms = lease_ms - 1;
    assert_null(only(r, 0));
    assert_int_equal(r->out.next_ms, r->rt.now_ms + 1);
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

/* The orders of one step; what a cancelled run says frees its device. */
static uint32_t count_orders(struct rig *r)
{
    uint32_t orders = 0;

    step(r);
    for (uint32_t i = 0; i < r->out.count; i++) {
        const struct fence_action *action = &r->out.list[i];
        orders += action->type == FENCE_ACT_START;
        if (action->type == FENCE_ACT_CANCEL)
            fence_fsm_result(&r->fsm, action->run, FENCEP_CANCELLED, "");
    }
    return orders;
}

/* L4: a member that flaps opens a view each second, with gaps between some; an agent needs longer.
 * The second attempt comes at once, for a second node may have died; then it backs off. */
static void views_in_a_row_do_not_repeat_orders(void **state)
{
    struct rig *r = rig_new();
    uint32_t orders = 0;

    (void)state;
    build_node_cmd(r->b, HA_CMD_UNARMED, VICTIM);
    add_device(r, 1, "supply-a", 1, VICTIM);
    add_device(r, 1, "supply-b", 1, VICTIM);
    lose(r, true);
    for (uint32_t second = 0; second < 60; second++) {
        orders += count_orders(r) + count_orders(r);
        assert_true(second != 1 || orders == 4);
        r->rt.is_open = second % 3 != 0;
        BUILD_OPEN(r->b, true, 1, 2);
        orders += count_orders(r);
        r->rt.is_open = true;
        pass(r, 1000);
    }
    assert_in_range(orders, 8, 14); /* 0, 1, 3, 7, 15, 31 s */
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

/* It says off, but the node goes on: the device lies. Asked again, slowly, and never believed. */
static void a_live_member_that_stays_is_asked_again(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "ipmi-n4", 1, VICTIM);
    build_node_cmd(r->b, HA_CMD_FENCE_WANT, VICTIM);
    fence_fsm_result(&r->fsm, start(r), FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    assert_int_equal(r->out.next_ms, r->rt.now_ms + FENCE_RETRY_MAX_MS);
    assert_string_equal(r->progress[3].text, "ipmi-n4: off");
    pass(r, FENCE_RETRY_MAX_MS);
    fence_fsm_result(&r->fsm, start(r), FENCEP_IS_ON, "");
    assert_null(only(r, 0));
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
        cmocka_unit_test(a_leader_without_quorum_sends_no_agent),
        cmocka_unit_test(who_is_needed_for_the_quorum_is_not_switched_off),
        cmocka_unit_test(a_restarting_hamgrd_gets_its_lease),
        cmocka_unit_test(a_restarting_hamgrd_without_known_age_gets_no_more),
        cmocka_unit_test(a_host_that_goes_down_later_is_fenced_at_once),
        cmocka_unit_test(a_frozen_node_is_left_to_the_operator),
        cmocka_unit_test(a_node_without_guests_is_not_shot),
        cmocka_unit_test(the_end_of_a_migration_is_worth_fencing),
        cmocka_unit_test(t_wait_is_evidence_for_an_armed_incarnation),
        cmocka_unit_test(t_wait_is_no_evidence_without_armed),
        cmocka_unit_test(t_wait_overtakes_a_hanging_agent),
        cmocka_unit_test(a_result_of_an_earlier_view_is_not_evidence),
        cmocka_unit_test(views_in_a_row_do_not_repeat_orders),
        cmocka_unit_test(a_node_that_comes_back_is_not_fenced),
        cmocka_unit_test(a_run_on_a_lost_member_frees_its_device),
        cmocka_unit_test(answers_to_a_former_leader_do_not_fit),
        cmocka_unit_test(a_leader_that_steps_down_cancels),
        cmocka_unit_test(a_live_member_is_fenced_on_request),
        cmocka_unit_test(a_live_member_that_stays_is_asked_again),
        cmocka_unit_test(an_operators_wish_hastens_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
