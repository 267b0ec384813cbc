/* SPDX-License-Identifier: Apache-2.0
 *
 * Goldens of the planner: where guests are started, in which order, after which failures, and when
 * it must not plan at all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hamgr/core/plan_internal.h"
#include "tests/unit/core/plan_rig.h"

/* --- When --- */

static void only_the_leader_of_an_open_view_plans(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n");
    r->rt.is_leader = false;
    assert_string_equal(plan_rig_plan(r), "");
    r->rt.is_leader = true;
    r->rt.is_open = false;
    assert_string_equal(plan_rig_plan(r), "");
    r->rt.is_open = true;
    r->rt.self = 4; /* not a node of the cluster */
    assert_string_equal(plan_rig_plan(r), "");
    r->rt.self = 1;
    plan_rig_refresh(r);
    r->rt.view.counter++; /* OPEN is not applied yet */
    ha_plan(&r->b->state, &r->rt, &r->limits, &r->scratch, &r->plan);
    assert_int_equal(r->plan.count, 0);
    plan_rig_refresh(r);
    r->rt.commit_index++; /* nor is the last committed entry */
    ha_plan(&r->b->state, &r->rt, &r->limits, &r->scratch, &r->plan);
    assert_int_equal(r->plan.count, 0);
    plan_rig_free(r);
}

/* --- Where --- */

static void guests_go_where_most_memory_is(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    for (uint32_t guest = 1; guest <= 5; guest++)
        build_guest(r->b, guest, HA_WANT_STARTED);
    build_capacity(r->b, 2, BUILD_MEM_KIB + BUILD_GUEST_KIB);
    assert_string_equal(plan_rig_plan(r), "assign g1 n2 e1 placement\n"
                                          "assign g2 n1 e1 placement\n"
                                          "assign g3 n3 e1 placement\n"
                                          "assign g4 n2 e1 placement\n"
                                          "assign g5 n1 e1 placement\n");
    assert_int_equal(r->plan.next_ms, UINT64_MAX);
    assert_false(r->plan.is_more);
    plan_rig_free(r);
}

/* After a cold start the first node that is armed would be given everything. */
static void a_cold_start_waits_for_most_nodes(void **state)
{
    struct plan_rig *r = plan_rig_empty(8);

    (void)state;
    build_nodes(r->b, 3);
    BUILD_OPEN(r->b, false, 1, 2, 3);
    for (uint32_t node = 1; node <= 3; node++)
        build_capacity(r->b, node, BUILD_MEM_KIB);
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_guest(r->b, 2, HA_WANT_STARTED);
    build_armed(r->b, 1);
    assert_string_equal(plan_rig_plan(r), "");
    assert_true(r->plan.next_ms > r->rt.now_ms);
    assert_true(r->plan.next_ms <= r->rt.now_ms + PLAN_SETTLE_MS);
    r->rt.wall_ms += PLAN_SETTLE_MS; /* the others can't arm: no guest stays down for them */
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n"
                                          "assign g2 n1 e1 placement\n");
    r->rt.wall_ms -= PLAN_SETTLE_MS;
    build_armed(r->b, 3);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n"
                                          "assign g2 n3 e1 placement\n");
    plan_rig_free(r);
}

/* A member that falls and joins anew again and again is waited for once. */
static void no_guest_waits_for_a_crash_loop(void **state)
{
    struct plan_rig *r = plan_rig_empty(8);

    (void)state;
    build_nodes(r->b, 2);
    BUILD_OPEN(r->b, false, 1, 2);
    for (uint32_t node = 1; node <= 2; node++)
        build_capacity(r->b, node, BUILD_MEM_KIB);
    build_armed(r->b, 1);
    build_guest(r->b, 1, HA_WANT_STARTED);
    assert_string_equal(plan_rig_plan(r), "");
    for (uint32_t i = 0; i < 4; i++) {
        r->b->wall_ms += PLAN_SETTLE_MS / 2;
        build_restart(r->b, 2);
        BUILD_OPEN(r->b, true, 1, 2);
        r->rt.wall_ms = r->b->wall_ms;
        assert_string_equal(plan_rig_plan(r), i < 3 ? "" : "assign g1 n1 e1 placement\n");
    }
    plan_rig_free(r);
}

/* A disarmed cluster takes guests without arming: nothing to wait for. */
static void a_disarmed_cluster_does_not_wait(void **state)
{
    struct plan_rig *r = plan_rig_empty(8);

    (void)state;
    build_nodes(r->b, 2);
    BUILD_OPEN(r->b, false, 1, 2);
    for (uint32_t node = 1; node <= 2; node++)
        build_capacity(r->b, node, BUILD_MEM_KIB);
    struct ha_cmd disarm = build_command(r->b, HA_CMD_DISARM);
    assert_int_equal(build_cmd(r->b, &disarm), HA_REASON_NONE);
    build_guest(r->b, 1, HA_WANT_STARTED);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n");
    plan_rig_free(r);
}

static void order_is_priority_then_start_order_then_size_then_uuid(void **state)
{
    struct plan_rig *r = plan_rig_new(1);

    (void)state;
    build_capacity(r->b, 1, UINT64_C(100) << 20);
    plan_rig_guest_add(r, 1, 1, 100, 0);
    plan_rig_guest_add(r, 2, 1, 100, 0);
    plan_rig_guest_add(r, 3, 2, 100, 0);
    plan_rig_guest_add(r, 4, 4, 100, 5);
    plan_rig_guest_add(r, 5, 1, 900, 9);
    plan_rig_guest_add(r, 6, 1, 900, 3);
    assert_string_equal(plan_rig_plan(r), "assign g6 n1 e1 placement\n"
                                          "assign g5 n1 e1 placement\n"
                                          "assign g3 n1 e1 placement\n"
                                          "assign g1 n1 e1 placement\n"
                                          "assign g2 n1 e1 placement\n"
                                          "assign g4 n1 e1 placement\n");
    plan_rig_free(r);
}

/* I14: what the log would refuse is not proposed; who matters more gets the room; what is left
 * serves those that fit. */
static void memory_is_never_over_committed(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    plan_rig_guest_add(r, 1, 5, 100, 0);
    plan_rig_guest_add(r, 2, 5, 100, 0);
    plan_rig_guest_add(r, 3, 5, 200, 0);
    plan_rig_guest_add(r, 4, 3, 50, 0);
    assert_string_equal(plan_rig_plan(r), "assign g3 n1 e1 placement\n"
                                          "assign g1 n2 e1 placement\n"
                                          "assign g4 n1 e1 placement\n");
    plan_rig_free(r);
}

static void memory_of_both_ends_of_a_move_is_taken(void **state)
{
    static const uint8_t phases[] = {HA_PHASE_MIGRATING, HA_PHASE_SWITCHED};

    (void)state;
    for (size_t i = 0; i < sizeof(phases); i++) {
        struct plan_rig *r = plan_rig_new(2);
        plan_rig_guest_add(r, 1, 5, 100, 0);
        build_phase(r->b, 1, phases[i], 1, 2);
        plan_rig_guest_add(r, 2, 4, 100, 0);
        assert_string_equal(plan_rig_plan(r), "");
        plan_rig_free(r);
    }
}

static void memory_of_a_fenced_source_is_free(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    plan_rig_guest_add(r, 1, 5, 100, 0);
    build_phase(r->b, 1, HA_PHASE_SWITCHED, 2, 3);
    BUILD_OPEN(r->b, true, 1, 3);
    build_fenced(r->b, 2, HA_EVIDENCE_AGENT);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    build_armed(r->b, 2);
    plan_rig_guest_add(r, 2, 8, 100, 0);
    plan_rig_guest_add(r, 3, 8, 50, 0);
    assert_string_equal(plan_rig_plan(r), "assign g2 n1 e1 placement\n"
                                          "assign g3 n2 e1 placement\n");
    plan_rig_free(r);
}

static void unfit_nodes_get_nothing(void **state)
{
    struct plan_rig *r = plan_rig_new(3);
    struct ha_cmd want = build_node_command(r->b, HA_CMD_FENCE_WANT, 1);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_maintenance(r->b, 2, true);
    build_maintenance(r->b, 3, true);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n");
    plan_rig_report(r, 1)->is_hv_ready = false;
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_report(r, 1)->is_hv_ready = true;
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n");
    plan_rig_report(r, 1)->is_quarantined = true;
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_report(r, 1)->is_quarantined = false;
    plan_rig_report(r, 1)->is_shutting_down = true;
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_report(r, 1)->is_shutting_down = false;
    build_node_cmd(r->b, HA_CMD_UNARMED, 1);
    assert_string_equal(plan_rig_plan(r), "");
    build_armed(r->b, 1);
    build_cmd(r->b, &want);
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

/* Nobody could ever carry the wish out, and the guest would wait for it without end. */
static void a_wish_to_fence_that_cannot_come_true_bars_nothing(void **state)
{
    struct plan_rig *r = plan_rig_new(1);
    struct ha_fence_progress *fence = &r->rt.fences[0];

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_node_cmd(r->b, HA_CMD_FENCE_WANT, 1);
    assert_string_equal(plan_rig_plan(r), "");
    fence->node = 1;
    fence->incarnation = build_node_of(r->b, 1)->incarnation;
    assert_string_equal(plan_rig_plan(r), "");
    fence->has_no_device = true;
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n");
    fence->incarnation++; /* said of another life of the node */
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

/* --- Failover --- */

/* What a node's own checks found against one guest is nothing against the others; what is only
 * against moves is nothing against a start. */
static void a_guest_is_not_placed_where_it_cannot_run(void **state)
{
    struct plan_rig *r = plan_rig_new(3);
    const struct ha_bar bars[] = {{.node = 2, .from = 1, .text = "processors differ"},
                                  {.guest = build_uuid(1), .node = 1, .text = "no kernel"},
                                  {.guest = build_uuid(1), .node = 3, .text = "no kernel"},
                                  {.guest = build_uuid(3), .node = 2, .text = "no bridge"}};

    (void)state;
    for (uint32_t guest = 1; guest <= 3; guest++)
        build_guest(r->b, guest, HA_WANT_STARTED);
    r->rt.bars = bars;
    r->rt.bar_count = 4;
    assert_string_equal(plan_rig_plan(r), "assign g1 n2 e1 placement\n"
                                          "assign g2 n1 e1 placement\n"
                                          "assign g3 n3 e1 placement\n");
    build_maintenance(r->b, 2, true); /* the only one for g1 */
    assert_string_equal(plan_rig_plan(r), "assign g2 n1 e1 placement\n"
                                          "assign g3 n3 e1 placement\n");
    plan_rig_free(r);
}

static void a_lost_node_is_refilled_in_one_call(void **state)
{
    struct plan_rig *r = plan_rig_new(4);

    (void)state;
    for (uint32_t guest = 1; guest <= 7; guest++) {
        plan_rig_guest_add(r, guest, 1, guest == 7 ? 500 : 100, 0);
        plan_rig_run(r, guest, 4);
    }
    BUILD_OPEN(r->b, true, 1, 2, 3);
    assert_string_equal(plan_rig_plan(r), ""); /* UNCLEAN: nobody's to start */
    build_fenced(r->b, 4, HA_EVIDENCE_AGENT);
    assert_string_equal(plan_rig_plan(r), "assign g7 n1 e2 recovery\n"
                                          "assign g1 n2 e2 recovery\n"
                                          "assign g2 n3 e2 recovery\n"
                                          "assign g3 n1 e2 recovery\n"
                                          "assign g4 n2 e2 recovery\n"
                                          "assign g5 n3 e2 recovery\n"
                                          "assign g6 n1 e2 recovery\n");
    assert_int_equal(r->plan.proposals[0].cause, build_node_of(r->b, 4)->status_index);
    assert_int_equal(plan_rig_apply(r), 0);
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

/* Back-off is for guests that fail; a lost node is not their failure. */
static void failover_does_not_wait_for_an_old_back_off(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    for (int i = 0; i < 2; i++) {
        plan_rig_run(r, 1, 2);
        build_not_running(r->b, 1, HA_END_CRASHED);
    }
    assert_int_equal(build_guest_of(r->b, 1)->failures, 2);
    plan_rig_run(r, 1, 2);
    BUILD_OPEN(r->b, true, 1);
    build_fenced(r->b, 2, HA_EVIDENCE_LEASE);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e4 recovery\n");
    plan_rig_free(r);
}

static void limits_spread_a_plan_over_calls(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    for (uint32_t guest = 1; guest <= 5; guest++)
        build_guest(r->b, guest, HA_WANT_STARTED);
    r->limits.start_parallel = 1;
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n"
                                          "assign g2 n2 e1 placement\n");
    assert_false(r->plan.is_more);
    assert_int_equal(plan_rig_apply(r), 0);
    assert_string_equal(plan_rig_plan(r), ""); /* both are starting */
    build_started(r->b, 2);
    assert_string_equal(plan_rig_plan(r), "assign g3 n2 e1 placement\n");
    r->limits.start_parallel = 64;
    r->limits.proposals_max = 2;
    assert_string_equal(plan_rig_plan(r), "assign g3 n2 e1 placement\n"
                                          "assign g4 n1 e1 placement\n");
    assert_true(r->plan.is_more);
    plan_rig_free(r);
}

/* --- After failures --- */

static void a_failed_start_prefers_another_node(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_assign(r->b, 1, 1);
    build_capacity(r->b, 2, 2 * BUILD_GUEST_KIB); /* much less than node 1 */
    build_not_running(r->b, 1, HA_END_START_FAILED);
    assert_string_equal(plan_rig_plan(r), "assign g1 n2 e2 restart\n");
    build_maintenance(r->b, 2, true);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e2 restart\n"); /* better than nowhere */
    plan_rig_free(r);
}

static void a_relocation_prefers_another_node(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 1);
    build_capacity(r->b, 2, 2 * BUILD_GUEST_KIB);
    build_stop(r->b, 1, HA_STOP_DESTROY, true);
    build_not_running(r->b, 1, HA_END_STOPPED);
    assert_string_equal(plan_rig_plan(r), "assign g1 n2 e2 placement\n");
    build_maintenance(r->b, 2, true);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e2 placement\n");
    plan_rig_free(r);
}

/* L2: who ended by itself starts where it was, though another node has more room. */
static void a_guest_that_ended_by_itself_stays(void **state)
{
    static const uint8_t causes[] = {HA_END_REBOOT, HA_END_CRASHED, HA_END_LOST};

    (void)state;
    for (size_t i = 0; i < sizeof(causes); i++) {
        struct plan_rig *r = plan_rig_new(2);
        build_guest(r->b, 1, HA_WANT_STARTED);
        plan_rig_run(r, 1, 2);
        build_capacity(r->b, 2, 2 * BUILD_GUEST_KIB);
        build_not_running(r->b, 1, causes[i]);
        assert_string_equal(plan_rig_plan(r), "assign g1 n2 e2 restart\n");
        build_capacity(r->b, 2, BUILD_GUEST_KIB / 2);
        assert_string_equal(plan_rig_plan(r), "assign g1 n1 e2 restart\n");
        plan_rig_free(r);
    }
}

static void a_guest_that_switched_itself_off_stays_off(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 2);
    build_not_running(r->b, 1, HA_END_POWEROFF);
    assert_string_equal(plan_rig_plan(r), "");
    build_want(r->b, 1, HA_WANT_STARTED);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e2 placement\n");
    plan_rig_free(r);
}

static void the_restart_limit_is_kept(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    for (int i = 0; i < 3; i++) {
        plan_rig_run(r, 1, 2);
        build_not_running(r->b, 1, HA_END_CRASHED);
    }
    r->rt.wall_ms = r->b->wall_ms + 3600000;
    assert_string_equal(plan_rig_plan(r), "");
    assert_int_equal(r->plan.next_ms, UINT64_MAX);
    build_want(r->b, 1, HA_WANT_STARTED);
    assert_string_equal(plan_rig_plan(r), "assign g1 n2 e4 restart\n");
    plan_rig_free(r);
}

/* First restart at once, then 5, 10, 20, 40, 60, 60 s. */
static void restarts_back_off(void **state)
{
    static const uint32_t waits_s[] = {0, 5, 10, 20, 40, 60, 60};
    struct plan_rig *r = plan_rig_new(2);
    struct ha_policy policy = ha_policy_default();

    (void)state;
    policy.restart_max = 100;
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_policy(r->b, 1, &policy);
    for (size_t i = 0; i < sizeof(waits_s) / sizeof(waits_s[0]); i++) {
        plan_rig_run(r, 1, 2);
        build_not_running(r->b, 1, i % 2 ? HA_END_CRASHED : HA_END_LOST);
        uint64_t ended_ms = build_guest_of(r->b, 1)->phase_wall_ms;
        if (waits_s[i] > 0) {
            r->rt.wall_ms = ended_ms + waits_s[i] * 1000u - 1;
            assert_string_equal(plan_rig_plan(r), "");
            assert_int_equal(r->plan.next_ms, r->rt.now_ms + 1);
        }
        r->rt.wall_ms = ended_ms + waits_s[i] * 1000u;
        plan_rig_plan(r);
        assert_int_equal(r->plan.count, 1);
        r->rt.wall_ms = ended_ms - 3600000; /* the wall clock was set back: no reason to wait */
        plan_rig_plan(r);
        assert_int_equal(r->plan.count, 1);
    }
    plan_rig_free(r);
}

static void an_own_reboot_does_not_back_off(void **state)
{
    struct plan_rig *r = plan_rig_new(1);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    for (int i = 0; i < 2; i++) {
        plan_rig_run(r, 1, 1);
        build_not_running(r->b, 1, HA_END_CRASHED);
    }
    plan_rig_run(r, 1, 1);
    build_not_running(r->b, 1, HA_END_REBOOT);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e4 restart\n");
    plan_rig_free(r);
}

static void an_unprotected_guest_is_not_restarted(void **state)
{
    struct plan_rig *r = plan_rig_new(2);
    struct ha_policy policy = ha_policy_default();

    (void)state;
    policy.is_protected = false;
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_policy(r->b, 1, &policy);
    assert_string_equal(plan_rig_plan(r), "assign g1 n1 e1 placement\n");
    plan_rig_run(r, 1, 2);
    BUILD_OPEN(r->b, true, 1);
    build_fenced(r->b, 2, HA_EVIDENCE_AGENT);
    assert_string_equal(plan_rig_plan(r), "");
    plan_rig_free(r);
}

/* --- Properties --- */

/* Whatever the cluster looks like, the log accepts every proposal of a plan, in order, and the
 * plans come to an end: the planner's conditions are the state's. */
static void scramble(struct plan_rig *r, struct ha_rng *rng, uint32_t nodes, uint32_t guests)
{
    for (uint32_t guest = 1; guest <= guests; guest++) {
        plan_rig_guest_add(r, guest, 1 + (uint32_t)ha_rng_below(rng, 3),
                           (uint16_t)ha_rng_below(rng, 3), (uint16_t)ha_rng_below(rng, 3));
        uint32_t src = 1 + (uint32_t)ha_rng_below(rng, nodes);
        uint32_t dst = 1 + src % nodes;
        switch (ha_rng_below(rng, 6)) {
        case 0:
            break;
        case 1:
            if (build_assign(r->b, guest, src) == 0)
                build_started(r->b, guest);
            break;
        case 2:
            if (build_assign(r->b, guest, src) == 0 && build_started(r->b, guest) == 0)
                build_migrate(r->b, guest, dst);
            break;
        case 3:
            if (build_assign(r->b, guest, src) == 0)
                build_not_running(r->b, guest, HA_END_START_FAILED);
            break;
        case 4:
            if (build_assign(r->b, guest, src) == 0 && build_started(r->b, guest) == 0)
                build_want(r->b, guest, HA_WANT_STOPPED);
            break;
        default:
            if (build_assign(r->b, guest, src) == 0)
                build_stop(r->b, guest, HA_STOP_GRACEFUL, true);
            break;
        }
    }
    for (uint32_t node = 2; node <= nodes; node++) {
        if (ha_rng_below(rng, 4) == 0)
            build_maintenance(r->b, node, true);
        if (ha_rng_below(rng, 6) == 0)
            plan_rig_report(r, node)->is_shutting_down = true;
        if (ha_rng_below(rng, 6) == 0)
            build_capacity(r->b, node, BUILD_GUEST_KIB);
    }
    uint32_t lost = 2 + (uint32_t)ha_rng_below(rng, nodes);
    uint32_t view[HA_NODES_MAX + 1] = {0};
    uint32_t count = 0;
    for (uint32_t node = 1; node <= nodes; node++) {
        if (node != lost)
            view[count++] = node;
    }
    build_open(r->b, true, view);
    if (lost <= nodes && ha_rng_below(rng, 2))
        build_fenced(r->b, lost, HA_EVIDENCE_AGENT);
}

static void every_proposal_takes_effect(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct ha_rng rng = {seed};
        uint32_t nodes = 2 + (uint32_t)ha_rng_below(&rng, 5);
        struct plan_rig *r = plan_rig_new(nodes);
        scramble(r, &rng, nodes, 1 + (uint32_t)ha_rng_below(&rng, 40));
        r->limits.proposals_max = 1 + (uint32_t)ha_rng_below(&rng, 40);
        r->rt.wall_ms = r->b->wall_ms + 100000;
        bool is_settled = false;
        for (int round = 0; round < 300 && !is_settled; round++) {
            uint32_t refused = plan_rig_apply(r);
            if (refused)
                fail_msg("seed %u: refused %u of:\n%s", (unsigned)seed, refused, r->text);
            const char *violation = ha_state_violation(&r->b->state);
            if (violation)
                fail_msg("seed %u: %s", (unsigned)seed, violation);
            is_settled = r->plan.count == 0;
            assert_true(is_settled || r->plan.count <= r->limits.proposals_max);
        }
        assert_true(is_settled);
        plan_rig_free(r);
    }
}

/* Same facts, same plan: whoever leads. */
static void plans_do_not_depend_on_what_was_planned_before(void **state)
{
    struct plan_rig *r = plan_rig_new(5);
    struct ha_rng rng = {42};
    char *first;

    (void)state;
    scramble(r, &rng, 5, 30);
    first = strdup(plan_rig_plan(r));
    assert_non_null(first);
    memset(&r->scratch, 0x5a, sizeof(r->scratch));
    memset(&r->plan, 0x5a, sizeof(r->plan));
    assert_string_equal(plan_rig_plan(r), first);
    assert_true(strlen(first) > 0);
    free(first);
    plan_rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_leader_of_an_open_view_plans),
        cmocka_unit_test(guests_go_where_most_memory_is),
        cmocka_unit_test(a_cold_start_waits_for_most_nodes),
        cmocka_unit_test(no_guest_waits_for_a_crash_loop),
        cmocka_unit_test(a_disarmed_cluster_does_not_wait),
        cmocka_unit_test(order_is_priority_then_start_order_then_size_then_uuid),
        cmocka_unit_test(memory_is_never_over_committed),
        cmocka_unit_test(memory_of_both_ends_of_a_move_is_taken),
        cmocka_unit_test(memory_of_a_fenced_source_is_free),
        cmocka_unit_test(unfit_nodes_get_nothing),
        cmocka_unit_test(a_wish_to_fence_that_cannot_come_true_bars_nothing),
        cmocka_unit_test(a_guest_is_not_placed_where_it_cannot_run),
        cmocka_unit_test(a_lost_node_is_refilled_in_one_call),
        cmocka_unit_test(failover_does_not_wait_for_an_old_back_off),
        cmocka_unit_test(limits_spread_a_plan_over_calls),
        cmocka_unit_test(a_failed_start_prefers_another_node),
        cmocka_unit_test(a_relocation_prefers_another_node),
        cmocka_unit_test(a_guest_that_ended_by_itself_stays),
        cmocka_unit_test(a_guest_that_switched_itself_off_stays_off),
        cmocka_unit_test(the_restart_limit_is_kept),
        cmocka_unit_test(restarts_back_off),
        cmocka_unit_test(an_own_reboot_does_not_back_off),
        cmocka_unit_test(an_unprotected_guest_is_not_restarted),
        cmocka_unit_test(every_proposal_takes_effect),
        cmocka_unit_test(plans_do_not_depend_on_what_was_planned_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
