/* SPDX-License-Identifier: Apache-2.0
 *
 * Goldens of the planner: stops, aborts of migrations that can't or may not go on, and nodes that
 * are to become empty.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/core/plan_rig.h"

/* --- Stop --- */

static void unwanted_guests_are_stopped(void **state)
{
    static const uint8_t phases[] = {HA_PHASE_ASSIGNED, HA_PHASE_RUNNING, HA_PHASE_STOPPING};
    static const char *const expected[] = {"stop g1 n2 not-wanted\n", "stop g1 n2 not-wanted\n",
                                           ""};

    (void)state;
    for (size_t i = 0; i < sizeof(phases); i++) {
        struct plan_rig *r = plan_rig_new(3);
        build_guest(r->b, 1, HA_WANT_STARTED);
        build_phase(r->b, 1, phases[i], 2, 3);
        assert_string_equal(plan_rig_plan(r), "");
        build_want(r->b, 1, HA_WANT_STOPPED);
        assert_string_equal(plan_rig_plan(r), expected[i]);
        assert_int_equal(plan_rig_apply(r), 0);
        plan_rig_free(r);
    }
}

static void nothing_is_asked_of_an_absent_owner(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 3);
    build_want(r->b, 1, HA_WANT_STOPPED);
    BUILD_OPEN(r->b, true, 1, 2);
    assert_string_equal(plan_rig_plan(r), "");
    build_fenced(r->b, 3, HA_EVIDENCE_AGENT);
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

/* --- Abort --- */

static struct plan_rig *rig_moving(uint8_t phase)
{
    struct plan_rig *r = plan_rig_new(4);

    build_guest(r->b, 1, HA_WANT_STARTED);
    build_phase(r->b, 1, phase, 2, 3);
    return r;
}

static struct ha_move_progress *progress(struct plan_rig *r, uint8_t step)
{
    r->rt.move_count = 1;
    r->rt.moves[0].ticket = build_guest_of(r->b, 1)->ticket.id;
    r->rt.moves[0].step = step;
    return &r->rt.moves[0];
}

static void a_lost_destination_aborts_at_once(void **state)
{
    struct plan_rig *r = rig_moving(HA_PHASE_MIGRATING);

    (void)state;
    r->rt.view_age_ms = 0;
    assert_string_equal(plan_rig_plan(r), "");
    BUILD_OPEN(r->b, true, 1, 2, 4);
    assert_string_equal(plan_rig_plan(r), "abort g1 absent\n");
    assert_int_equal(plan_rig_apply(r), 0);
    plan_rig_free(r);
}

/* If HANDOVER was heard, SWITCH is on its way and saves the guest's memory. */
static void a_lost_source_leaves_time_for_switch(void **state)
{
    struct plan_rig *r = rig_moving(HA_PHASE_MIGRATING);

    (void)state;
    BUILD_OPEN(r->b, true, 1, 3, 4);
    r->rt.view_age_ms = 500;
    assert_string_equal(plan_rig_plan(r), "");
    assert_int_equal(r->plan.next_ms, r->rt.now_ms + 1500);
    r->rt.view_age_ms = 2000;
    assert_string_equal(plan_rig_plan(r), "abort g1 absent\n");
    plan_rig_free(r);
}

static void nothing_is_aborted_after_switch(void **state)
{
    struct plan_rig *r = rig_moving(HA_PHASE_SWITCHED);

    (void)state;
    build_want(r->b, 1, HA_WANT_STOPPED);
    build_maintenance(r->b, 3, true);
    r->limits.deadline_ms = 1;
    BUILD_OPEN(r->b, true, 1, 4);
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

static void a_deadline_aborts(void **state)
{
    struct plan_rig *r = rig_moving(HA_PHASE_MIGRATING);
    uint64_t began_ms = build_guest_of(r->b, 1)->ticket.wall_ms;

    (void)state;
    r->rt.wall_ms = began_ms + 100000;
    assert_string_equal(plan_rig_plan(r), ""); /* none was given */
    r->limits.deadline_ms = 60000;
    r->rt.wall_ms = began_ms + 59999;
    assert_string_equal(plan_rig_plan(r), "");
    assert_int_equal(r->plan.next_ms, r->rt.now_ms + 1);
    r->rt.wall_ms = began_ms + 60000;
    assert_string_equal(plan_rig_plan(r), "abort g1 deadline\n");
    /* The source's own count is better than a wall clock. */
    progress(r, HA_MOVE_COPYING)->elapsed_ms = 30000;
    assert_string_equal(plan_rig_plan(r), "");
    assert_int_equal(r->plan.next_ms, r->rt.now_ms + 30000);
    progress(r, HA_MOVE_STOPPED)->elapsed_ms = 60000;
    assert_string_equal(plan_rig_plan(r), "abort g1 deadline\n");
    plan_rig_free(r);
}

static void wishes_end_a_move_until_the_guest_is_suspended(void **state)
{
    (void)state;
    for (int wish = 0; wish < 4; wish++) {
        static const char *const expected[] = {"abort g1 not-wanted\n", "abort g1 maintenance\n",
                                               "abort g1 shutting-down\n",
                                               "abort g1 fence-wanted\n"};
        struct plan_rig *r = rig_moving(HA_PHASE_MIGRATING);
        if (wish == 0)
            build_want(r->b, 1, HA_WANT_STOPPED);
        else if (wish == 1)
            build_maintenance(r->b, 3, true);
        else if (wish == 2)
            plan_rig_report(r, 3)->is_shutting_down = true;
        else
            build_node_cmd(r->b, HA_CMD_FENCE_WANT, 3);
        assert_string_equal(plan_rig_plan(r), expected[wish]);
        progress(r, HA_MOVE_COPYING);
        assert_string_equal(plan_rig_plan(r), expected[wish]);
        progress(r, HA_MOVE_STOPPED);
        assert_string_equal(plan_rig_plan(r), "");
        progress(r, HA_MOVE_DECIDING);
        assert_string_equal(plan_rig_plan(r), "");
        progress(r, HA_MOVE_FAILED);
        assert_string_equal(plan_rig_plan(r), expected[wish]);
        plan_rig_free(r);
    }
}

/* SWITCH would be refused for as long as the destination's keeper does not work. */
static void a_suspended_guest_does_not_wait_for_a_keeper(void **state)
{
    struct plan_rig *r = rig_moving(HA_PHASE_MIGRATING);

    (void)state;
    r->rt.view_age_ms = 60000;
    build_node_cmd(r->b, HA_CMD_UNARMED, 3);
    progress(r, HA_MOVE_COPYING);
    assert_string_equal(plan_rig_plan(r), "");
    progress(r, HA_MOVE_STOPPED);
    assert_string_equal(plan_rig_plan(r), "abort g1 not-armed\n");
    r->rt.view_age_ms = 500;
    assert_string_equal(plan_rig_plan(r), "");
    assert_int_equal(r->plan.next_ms, r->rt.now_ms + 1500);
    r->rt.view_age_ms = 2000;
    assert_string_equal(plan_rig_plan(r), "abort g1 not-armed\n");
    assert_int_equal(plan_rig_apply(r), 0);
    plan_rig_free(r);
}

/* --- Drain --- */

static struct plan_rig *rig_full(uint32_t guests)
{
    struct plan_rig *r = plan_rig_new(3);

    for (uint32_t guest = 1; guest <= guests; guest++) {
        plan_rig_guest_add(r, guest, 1, (uint16_t)(guest * 10), 0);
        plan_rig_run(r, guest, 1);
    }
    return r;
}

static void maintenance_moves_guests_away_two_at_a_time(void **state)
{
    struct plan_rig *r = rig_full(3);

    (void)state;
    assert_string_equal(plan_rig_plan(r), "");
    build_maintenance(r->b, 1, true);
    assert_string_equal(plan_rig_plan(r), "migrate g3 n1->n2 e2 drain\n"
                                          "migrate g2 n1->n3 e2 drain\n");
    assert_int_equal(r->plan.proposals[0].u.migrate.max_downtime_ms, 300);
    assert_int_equal(plan_rig_apply(r), 0);
    assert_string_equal(plan_rig_plan(r), "");
    build_move(r->b, HA_CMD_SWITCH, 2);
    assert_string_equal(plan_rig_plan(r), ""); /* both ends are busy until ARRIVED */
    build_move(r->b, HA_CMD_ARRIVED, 2);
    /* As much memory on both, but n2 is still receiving g3. */
    assert_string_equal(plan_rig_plan(r), "migrate g1 n1->n3 e2 drain\n");
    plan_rig_free(r);
}

static void a_guests_own_pause_contract_is_kept(void **state)
{
    struct plan_rig *r = rig_full(1);
    struct ha_policy policy = build_guest_of(r->b, 1)->policy;

    (void)state;
    policy.max_downtime_ms = 77;
    build_policy(r->b, 1, &policy);
    build_maintenance(r->b, 1, true);
    plan_rig_plan(r);
    assert_int_equal(r->plan.count, 1);
    assert_int_equal(r->plan.proposals[0].u.migrate.max_downtime_ms, 77);
    plan_rig_free(r);
}

/* In maintenance a guest without a place goes on running; a host that shuts down can't wait. */
static void without_room_maintenance_waits_and_shutdown_stops(void **state)
{
    struct plan_rig *r = rig_full(2);

    (void)state;
    build_maintenance(r->b, 2, true);
    build_capacity(r->b, 3, BUILD_GUEST_KIB);
    build_maintenance(r->b, 1, true);
    assert_string_equal(plan_rig_plan(r), "migrate g2 n1->n3 e2 drain\n");
    plan_rig_report(r, 1)->is_shutting_down = true;
    assert_string_equal(plan_rig_plan(r), "migrate g2 n1->n3 e2 shutdown\n"
                                          "stop g1 n1 shutdown relocate\n");
    plan_rig_free(r);
}

/* Busy is not full: the next one waits for its turn. */
static void shutdown_waits_for_busy_nodes(void **state)
{
    struct plan_rig *r = rig_full(3);

    (void)state;
    r->limits.move_parallel = 1;
    plan_rig_report(r, 1)->is_shutting_down = true;
    assert_string_equal(plan_rig_plan(r), "migrate g3 n1->n2 e2 shutdown\n");
    assert_int_equal(plan_rig_apply(r), 0);
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

static void shutdown_by_policy_stops_and_starts_elsewhere(void **state)
{
    struct plan_rig *r = rig_full(2);

    (void)state;
    r->limits.shutdown = HA_SHUTDOWN_STOP;
    build_guest(r->b, 3, HA_WANT_STARTED);
    build_assign(r->b, 3, 1);
    plan_rig_report(r, 1)->is_shutting_down = true;
    assert_string_equal(plan_rig_plan(r), "stop g1 n1 shutdown relocate\n"
                                          "stop g2 n1 shutdown relocate\n"
                                          "stop g3 n1 shutdown relocate\n");
    assert_int_equal(plan_rig_apply(r), 0);
    assert_string_equal(plan_rig_plan(r), "");
    build_not_running(r->b, 1, HA_END_STOPPED);
    assert_string_equal(plan_rig_plan(r), "assign g1 n2 e2 placement\n");
    /* Maintenance alone is not a shutdown. */
    plan_rig_report(r, 1)->is_shutting_down = false;
    plan_rig_free(r);
}

static void a_failed_move_is_tried_again_later(void **state)
{
    struct plan_rig *r = rig_full(1);

    (void)state;
    build_maintenance(r->b, 1, true);
    for (uint32_t failed = 1; failed <= 7; failed++) {
        uint64_t wait_ms = failed <= 5 ? 10000u << (failed - 1) : 300000;
        build_migrate(r->b, 1, 2);
        build_move(r->b, HA_CMD_ABORT, 1);
        r->rt.wall_ms = build_guest_of(r->b, 1)->phase_wall_ms + wait_ms - 1;
        assert_string_equal(plan_rig_plan(r), "");
        assert_int_equal(r->plan.next_ms, r->rt.now_ms + 1);
        r->rt.wall_ms++;
        plan_rig_plan(r);
        assert_int_equal(r->plan.count, 1);
    }
    plan_rig_free(r);
}

static void shutdown_gives_up_after_two_failed_moves(void **state)
{
    struct plan_rig *r = rig_full(1);

    (void)state;
    plan_rig_report(r, 1)->is_shutting_down = true;
    build_migrate(r->b, 1, 2);
    build_move(r->b, HA_CMD_ABORT, 1);
    assert_string_equal(plan_rig_plan(r), "");
    build_migrate(r->b, 1, 2);
    build_move(r->b, HA_CMD_ABORT, 1);
    assert_string_equal(plan_rig_plan(r), "stop g1 n1 shutdown relocate\n");
    /* Long ago does not count. */
    r->rt.wall_ms = build_guest_of(r->b, 1)->phase_wall_ms + 600001;
    assert_string_equal(plan_rig_plan(r), "migrate g1 n1->n2 e4 shutdown\n");
    plan_rig_free(r);
}

static void drained_nodes_do_not_feed_each_other(void **state)
{
    struct plan_rig *r = rig_full(1);

    (void)state;
    build_maintenance(r->b, 1, true);
    build_maintenance(r->b, 2, true);
    plan_rig_report(r, 3)->is_shutting_down = true;
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

/* One destination for two draining nodes: its limit holds for all that comes, and a guest that
 * waits or stops does not keep the others. */
static void a_destination_is_not_flooded(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    for (uint32_t guest = 1; guest <= 6; guest++) {
        plan_rig_guest_add(r, guest, 1, (uint16_t)(guest * 10), 0);
        plan_rig_run(r, guest, guest <= 3 ? 1 : 2);
    }
    build_migrate(r->b, 6, 1);
    build_move(r->b, HA_CMD_ABORT, 6); /* waits 10 s after this */
    build_want(r->b, 3, HA_WANT_STOPPED);
    build_maintenance(r->b, 1, true);
    build_maintenance(r->b, 2, true);
    assert_string_equal(plan_rig_plan(r), "stop g3 n1 not-wanted\n"
                                          "migrate g2 n1->n3 e2 drain\n"
                                          "migrate g1 n1->n3 e2 drain\n");
    uint64_t aborted_ms = build_guest_of(r->b, 6)->phase_wall_ms;
    assert_int_equal(r->plan.next_ms, r->rt.now_ms + 10000 - (r->b->wall_ms - aborted_ms));
    r->limits.move_parallel = 4;
    assert_string_equal(plan_rig_plan(r), "stop g3 n1 not-wanted\n"
                                          "migrate g2 n1->n3 e2 drain\n"
                                          "migrate g1 n1->n3 e2 drain\n"
                                          "migrate g5 n2->n3 e2 drain\n"
                                          "migrate g4 n2->n3 e2 drain\n");
    r->limits.shutdown = HA_SHUTDOWN_STOP;
    plan_rig_report(r, 1)->is_shutting_down = true;
    plan_rig_report(r, 2)->is_shutting_down = true;
    assert_string_equal(plan_rig_plan(r), "stop g3 n1 not-wanted\n"
                                          "stop g1 n1 shutdown relocate\n"
                                          "stop g2 n1 shutdown relocate\n"
                                          "stop g4 n2 shutdown relocate\n"
                                          "stop g5 n2 shutdown relocate\n"
                                          "stop g6 n2 shutdown relocate\n");
    /* Each names the owner it means. */
    for (uint32_t i = 0; i < r->plan.count; i++)
        assert_int_not_equal(r->plan.proposals[i].incarnation, 0);
    r->limits.proposals_max = 2;
    plan_rig_plan(r);
    assert_int_equal(r->plan.count, 2);
    assert_true(r->plan.is_more);
    plan_rig_free(r);
}

static void orders_of_a_move_are_passed_on(void **state)
{
    struct plan_rig *r = rig_full(1);

    (void)state;
    r->limits.deadline_ms = 60000;
    build_maintenance(r->b, 1, true);
    plan_rig_plan(r);
    assert_int_equal(r->plan.count, 1);
    assert_int_equal(r->plan.proposals[0].u.migrate.deadline_ms, 60000);
    assert_int_equal(plan_rig_apply(r), 0);
    build_maintenance(r->b, 2, true);
    plan_rig_plan(r);
    assert_int_equal(r->plan.count, 1);
    assert_string_equal(r->plan.proposals[0].u.text.detail, "the node is in maintenance");
    plan_rig_free(r);
}

static void an_absent_node_is_not_drained(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 3);
    build_maintenance(r->b, 3, true);
    BUILD_OPEN(r->b, true, 1, 2);
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unwanted_guests_are_stopped),
        cmocka_unit_test(nothing_is_asked_of_an_absent_owner),
        cmocka_unit_test(a_lost_destination_aborts_at_once),
        cmocka_unit_test(a_lost_source_leaves_time_for_switch),
        cmocka_unit_test(nothing_is_aborted_after_switch),
        cmocka_unit_test(a_deadline_aborts),
        cmocka_unit_test(a_suspended_guest_does_not_wait_for_a_keeper),
        cmocka_unit_test(wishes_end_a_move_until_the_guest_is_suspended),
        cmocka_unit_test(maintenance_moves_guests_away_two_at_a_time),
        cmocka_unit_test(a_guests_own_pause_contract_is_kept),
        cmocka_unit_test(without_room_maintenance_waits_and_shutdown_stops),
        cmocka_unit_test(shutdown_waits_for_busy_nodes),
        cmocka_unit_test(shutdown_by_policy_stops_and_starts_elsewhere),
        cmocka_unit_test(a_failed_move_is_tried_again_later),
        cmocka_unit_test(shutdown_gives_up_after_two_failed_moves),
        cmocka_unit_test(drained_nodes_do_not_feed_each_other),
        cmocka_unit_test(an_absent_node_is_not_drained),
        cmocka_unit_test(a_destination_is_not_flooded),
        cmocka_unit_test(orders_of_a_move_are_passed_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
