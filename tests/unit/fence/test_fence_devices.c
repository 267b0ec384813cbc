/* SPDX-License-Identifier: Apache-2.0
 *
 * Levels, retries, which member runs which device, and lists of devices that nobody should send.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/fence/fence_rig.h"

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

/* --- Levels of which a part is out of reach (I7) --- */

/* One supply's device only in the fence.conf of a node that is gone: the other supply, verified
 * off, proves nothing, and is left on. */
static void a_level_that_a_lost_node_knew_more_of_proves_nothing(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 2, "feed-a", 1, VICTIM);
    add_device(r, 3, "feed-b", 1, VICTIM);
    BUILD_OPEN(r->b, true, 1, 2);
    step(r);
    for (uint32_t i = 0; i < r->out.count; i++)
        fence_fsm_result(&r->fsm, r->out.list[i].run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    assert_int_equal(step_of(r, VICTIM), FENCE_BACKOFF);
    assert_false(r->progress[3].has_no_device);
    assert_string_equal(r->progress[3].text, "level 1 needs feed-b, too, says n3: name it in "
                                             "fence.conf of n2, or bring that node back");
    r->in.evidence_ms[3] = r->progress[3].wait_ms; /* T_wait goes on */
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    assert_int_equal(r->out.list[0].cmd.u.fenced.evidence, HA_EVIDENCE_LEASE);
    rig_free(r);
}

static void a_level_is_whole_again_when_who_knew_it_returns(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 2, "feed-a", 1, VICTIM);
    add_device(r, 3, "feed-b", 1, VICTIM);
    BUILD_OPEN(r->b, true, 1, 2);
    assert_null(only(r, 0));
    BUILD_OPEN(r->b, true, 1, 2, 3);
    step(r);
    assert_int_equal(r->out.count, 2);
    assert_int_equal(r->out.list[0].by, 2);
    assert_int_equal(r->out.list[1].by, 3);
    rig_free(r);
}

/* Where the missing device is named here, too, by whatever level, it is run. */
static void whoever_names_a_device_can_drive_it_for_another_s_level(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 2, "feed-a", 1, VICTIM);
    add_device(r, 2, "feed-b", 2, VICTIM);
    add_device(r, 3, "feed-b", 1, VICTIM);
    BUILD_OPEN(r->b, true, 1, 2);
    step(r);
    assert_int_equal(r->out.count, 2);
    assert_string_equal(r->out.list[0].device, "feed-a");
    assert_string_equal(r->out.list[1].device, "feed-b");
    fence_fsm_result(&r->fsm, r->out.list[0].run, FENCEP_VERIFIED_OFF, "off");
    assert_null(only(r, 0));
    rig_free(r);
}

static void the_next_level_is_tried_where_one_is_out_of_reach(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "feed-a", 1, VICTIM);
    add_device(r, 1, "ipmi", 2, VICTIM);
    add_device(r, 4, "feed-b", 1, 0); /* the victim's own word, for all nodes */
    lose(r, true);
    const struct fence_action *action = only(r, FENCE_ACT_START);
    assert_non_null(action);
    assert_string_equal(action->device, "ipmi");
    assert_string_equal(r->progress[3].text,
                        "level 1 needs feed-b, too, says n4: name it in fence.conf of n1");
    fence_fsm_result(&r->fsm, action->run, FENCEP_VERIFIED_OFF, "off");
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    rig_free(r);
}

/* The leader's hamgr-fence dies: what it had said is known on, but can't be asked for. */
static void a_mute_member_knows_its_devices_on(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 1, "feed-a", 1, VICTIM);
    add_device(r, 2, "feed-b", 1, VICTIM);
    r->members[0].is_mute = true;
    lose(r, true);
    assert_null(only(r, 0));
    assert_string_equal(r->progress[3].text, "level 1 needs feed-a, too, which only n1 can drive: "
                                             "start hamgr-fence there");
    r->members[1].device_count = 0; /* and a level that nobody can be asked for is none */
    BUILD_OPEN(r->b, true, 1, 2);
    assert_null(only(r, 0));
    assert_true(r->progress[3].has_no_device);
    rig_free(r);
}

/* Of other nodes, or other levels: not this target's. */
static void what_else_a_lost_node_knew_does_not_matter(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    add_device(r, 2, "feed-a", 1, VICTIM);
    add_device(r, 3, "feed-b", 1, 2);
    add_device(r, 3, "ipmi", 3, VICTIM);
    BUILD_OPEN(r->b, true, 1, 2);
    fence_fsm_result(&r->fsm, start(r), FENCEP_VERIFIED_OFF, "off");
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
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
    assert_true(r->progress[3].has_no_device);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    assert_non_null(only(r, FENCE_ACT_START));
    assert_false(r->progress[3].has_no_device);
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

/* More words than the entry holds: cut, not overrun. */
static void long_answers_are_cut(void **state)
{
    struct rig *r = rig_new();
    char words[300];

    (void)state;
    memset(words, 'w', sizeof(words) - 1);
    words[sizeof(words) - 1] = '\0';
    add_device(r, 1, "pdu-a", 1, VICTIM);
    add_device(r, 1, "pdu-b", 1, VICTIM);
    add_device(r, 1, "pdu-c", 1, VICTIM);
    lose(r, true);
    step(r);
    assert_int_equal(r->out.count, 3);
    for (uint32_t i = 0; i < 3; i++)
        fence_fsm_result(&r->fsm, r->out.list[i].run, FENCEP_VERIFIED_OFF, words);
    assert_non_null(only(r, FENCE_ACT_PROPOSE));
    assert_int_equal(strlen(r->out.list[0].cmd.u.fenced.detail), 127);
    assert_int_equal(build_cmd(r->b, &r->out.list[0].cmd), HA_REASON_NONE);
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
    r->in.is_quorate = true;
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
        cmocka_unit_test(all_devices_of_a_level_must_be_off),
        cmocka_unit_test(a_level_that_a_lost_node_knew_more_of_proves_nothing),
        cmocka_unit_test(a_level_is_whole_again_when_who_knew_it_returns),
        cmocka_unit_test(whoever_names_a_device_can_drive_it_for_another_s_level),
        cmocka_unit_test(the_next_level_is_tried_where_one_is_out_of_reach),
        cmocka_unit_test(a_mute_member_knows_its_devices_on),
        cmocka_unit_test(what_else_a_lost_node_knew_does_not_matter),
        cmocka_unit_test(one_failure_leads_to_the_next_level),
        cmocka_unit_test(retries_back_off),
        cmocka_unit_test(another_member_runs_what_the_leader_can_not),
        cmocka_unit_test(members_take_turns),
        cmocka_unit_test(the_leader_asks_itself_first),
        cmocka_unit_test(an_absent_member_is_not_asked),
        cmocka_unit_test(a_device_that_turns_up_is_used),
        cmocka_unit_test(a_device_runs_for_one_node_at_a_time),
        cmocka_unit_test(the_table_has_names_and_no_way_out_of_proven_but_idle),
        cmocka_unit_test(strange_device_lists_are_survived),
        cmocka_unit_test(long_answers_are_cut),
        cmocka_unit_test(many_dead_nodes_are_fenced_in_parallel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
