/* SPDX-License-Identifier: Apache-2.0
 *
 * Explanations and refusals: the right condition, its numbers, the smallest change; and that they
 * never contradict the planner or the log.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hamgr/core/plan_internal.h"
#include "hamgr/core/status.h"
#include "tests/unit/core/plan_rig.h"

static struct ha_explanation explanation;

static const struct ha_explanation *explain(struct plan_rig *r, uint32_t guest)
{
    plan_rig_plan(r); /* refreshes the runtime */
    if (r->rt.wall_ms == 0) {
        r->rt.wall_ms = r->b->wall_ms;
        ha_explain(&r->b->state, &r->rt, &r->limits, build_uuid(guest), &explanation);
        r->rt.wall_ms = 0;
    } else {
        ha_explain(&r->b->state, &r->rt, &r->limits, build_uuid(guest), &explanation);
    }
    return &explanation;
}

static const struct ha_condition *condition_of(uint32_t node)
{
    for (uint32_t i = 0; i < explanation.count; i++) {
        if (explanation.conditions[i].node == node)
            return &explanation.conditions[i];
    }
    fail_msg("no condition about node %u", node);
    return NULL;
}

static void a_running_guest_is_explained(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 2);
    explain(r, 1);
    assert_string_equal(explanation.summary, "g1 runs on n2 (epoch 1)");
    assert_int_equal(explanation.count, 2); /* where else it could run */
    assert_true(condition_of(1)->is_ok);
    assert_string_equal(condition_of(3)->text, "n3: can take it, 8192 MiB free, 1024 needed");
    plan_rig_free(r);
}

static void memory_is_explained_with_numbers(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_capacity(r->b, 1, UINT64_C(512) << 10);
    build_maintenance(r->b, 2, true);
    plan_rig_report(r, 3)->is_shutting_down = true;
    build_guest_mem(r->b, 1, HA_WANT_STARTED, UINT64_C(2048) << 10);
    explain(r, 1);
    assert_string_equal(explanation.summary, "g1 is down: no node can take it");
    assert_string_equal(condition_of(1)->text, "n1: 512 MiB free of 512, 2048 needed");
    assert_string_equal(condition_of(1)->fix, "free 1536 MiB on n1");
    assert_int_equal(condition_of(1)->reason, HA_REASON_NO_MEMORY);
    assert_string_equal(condition_of(2)->text, "n2: the node is in maintenance");
    assert_string_equal(condition_of(2)->fix, "hactl maintenance n2 off");
    assert_int_equal(condition_of(3)->reason, HA_REASON_SHUTTING_DOWN);
    assert_false(condition_of(3)->is_ok);
    plan_rig_free(r);
}

/* What the owner reports of itself comes first: it may be why the guest does not run. */
static void an_alarm_of_the_owner_is_told(void **state)
{
    static struct ha_status status;
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 2);
    snprintf(plan_rig_report(r, 2)->alarm, HA_TEXT_MAX, "guest g1 does not run: no such CPU");
    explain(r, 1);
    assert_string_equal(condition_of(2)->text, "n2 says: guest g1 does not run: no such CPU");
    assert_false(condition_of(2)->is_ok);
    plan_rig_report(r, 2)->received_ms = r->rt.now_ms;
    ha_status_compute(&r->b->state, &r->rt, &status);
    assert_int_equal(status.warning_count, 1);
    assert_string_equal(status.warnings[0], "n2: guest g1 does not run: no such CPU");
    plan_rig_free(r);
}

/* A node that no view ever named knows no node, not even itself: its own alarm is all it has. */
static void a_node_without_a_record_tells_its_own_alarm(void **state)
{
    static struct ha_status status;
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    plan_rig_plan(r);
    r->rt.self = 9;
    ha_status_compute(&r->b->state, &r->rt, &status);
    assert_int_equal(status.warning_count, 0);
    snprintf(r->rt.alarm, sizeof(r->rt.alarm), "stopped deciding: n1 remembers more");
    ha_status_compute(&r->b->state, &r->rt, &status);
    assert_int_equal(status.warning_count, 1);
    assert_string_equal(status.warnings[0], "this node: stopped deciding: n1 remembers more");
    r->rt.self = 1; /* told by its report, once */
    plan_rig_report(r, 1)->received_ms = r->rt.now_ms;
    ha_status_compute(&r->b->state, &r->rt, &status);
    assert_int_equal(status.warning_count, 0);
    plan_rig_free(r);
}

/* Rounding must never make a refusal look wrong: 1 KiB short is 1 MiB to free. */
static void rounding_never_hides_a_shortage(void **state)
{
    struct plan_rig *r = plan_rig_new(1);

    (void)state;
    build_capacity(r->b, 1, 1024 * 1024 - 1);
    build_guest(r->b, 1, HA_WANT_STARTED);
    explain(r, 1);
    assert_string_equal(condition_of(1)->text, "n1: 1023 MiB free of 1023, 1024 needed");
    assert_string_equal(condition_of(1)->fix, "free 1 MiB on n1");
    plan_rig_free(r);
}

static void stopped_failed_and_waiting_guests_are_explained(void **state)
{
    struct plan_rig *r = plan_rig_new(2);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STOPPED);
    explain(r, 1);
    assert_string_equal(explanation.summary, "g1 is stopped, as wanted");
    assert_string_equal(explanation.conditions[0].fix, "hactl guest start g1");
    build_want(r->b, 1, HA_WANT_STARTED);
    explain(r, 1);
    assert_string_equal(explanation.summary, "g1 is about to be started");
    for (int i = 0; i < 2; i++) {
        plan_rig_run(r, 1, 2);
        build_not_running(r->b, 1, HA_END_CRASHED);
    }
    explain(r, 1);
    assert_string_equal(explanation.summary, "g1 is down and will be started in 5 s");
    assert_string_equal(explanation.conditions[0].text,
                        "crashed after 2 failures: the next start is in 5 s");
    plan_rig_run(r, 1, 2);
    build_not_running(r->b, 1, HA_END_CRASHED);
    explain(r, 1);
    assert_string_equal(explanation.conditions[0].text,
                        "it failed 3 times within 3600 s (limit 3), last on n2: crashed");
    assert_string_equal(explanation.conditions[0].fix, "mend it, then hactl guest start g1");
    assert_int_equal(explanation.conditions[0].reason, HA_REASON_FAILED_LIMIT);
    plan_rig_free(r);
}

static void an_unclean_owner_is_explained_with_its_time(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 3);
    BUILD_OPEN(r->b, true, 1, 2);
    r->rt.fences[2] = (struct ha_fence_progress){
        .node = 3, .evidence_ms = 4200, .wait_ms = 15000, .text = "ipmi-n3: timed out"};
    explain(r, 1);
    assert_string_equal(explanation.summary,
                        "g1 may still run on n3, which is gone and not proven dead");
    assert_string_equal(condition_of(3)->text,
                        "its owner n3 is gone and not proven dead: silent for 4200 of 15000 ms; "
                        "ipmi-n3: timed out");
    assert_string_equal(condition_of(3)->fix,
                        "wait 11 s, or hactl confirm-fenced n3 after making sure it is off");
    r->rt.fences[2].wait_ms = 0;
    explain(r, 1);
    assert_string_equal(condition_of(3)->fix,
                        "bring n3 back, or hactl confirm-fenced n3 after making sure it is off");
    plan_rig_free(r);
}

static void a_move_is_explained_with_its_rate(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_phase(r->b, 1, HA_PHASE_MIGRATING, 2, 3);
    r->rt.move_count = 1;
    r->rt.moves[0] = (struct ha_move_progress){.ticket = build_guest_of(r->b, 1)->ticket.id,
                                               .remaining_kib = 512 << 10,
                                               .rate_kib_s = 64 << 10,
                                               .eta_ms = 9100,
                                               .elapsed_ms = 12000};
    explain(r, 1);
    assert_string_equal(explanation.summary,
                        "g1 is moving from n2 to n3: 512 MiB left at 64 MiB/s, about 9 s");
    r->rt.moves[0].eta_ms = 0;
    explain(r, 1);
    assert_string_equal(
        explanation.summary,
        "g1 is moving from n2 to n3: 512 MiB left at 64 MiB/s, no end in sight after 12 s");
    plan_rig_free(r);
}

static void no_quorum_is_the_first_thing_said(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    r->rt.is_open = false;
    explain(r, 1);
    assert_int_equal(explanation.conditions[0].reason, HA_REASON_NO_QUORUM);
    assert_string_equal(explanation.summary, "g1 waits until most voters hear each other");
    explain(r, 9);
    assert_int_equal(explanation.conditions[0].reason, HA_REASON_NO_SUCH_GUEST);
    plan_rig_free(r);
}

/* Each condition that is met says so, and the planner agrees: it places the guest exactly if some
 * node's condition is met and nothing else stands against it. */
static void explain_and_plan_agree(void **state)
{
    uint32_t settled = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct ha_rng rng = {seed};
        struct plan_rig *r = plan_rig_new(4);
        plan_rig_guest_add(r, 1, 1 + (uint32_t)ha_rng_below(&rng, 6), 100, 0);
        for (uint32_t node = 1; node <= 4; node++) {
            build_capacity(r->b, node, ha_rng_below(&rng, 8) << 20);
            if (ha_rng_below(&rng, 4) == 0)
                build_maintenance(r->b, node, true);
            if (ha_rng_below(&rng, 4) == 0)
                build_node_cmd(r->b, HA_CMD_UNARMED, node);
            plan_rig_report(r, node)->is_hv_ready = ha_rng_below(&rng, 4) != 0;
        }
        if (ha_rng_below(&rng, 4) == 0)
            build_want(r->b, 1, HA_WANT_STOPPED);
        r->rt.wall_ms = r->b->wall_ms + ha_rng_below(&rng, 2) * PLAN_SETTLE_MS;
        explain(r, 1);
        bool is_able = false;
        bool is_settling = false;
        for (uint32_t i = 0; i < explanation.count; i++) {
            assert_true(explanation.conditions[i].text[0] != '\0');
            is_able |= explanation.conditions[i].is_ok;
            is_settling |= explanation.conditions[i].reason == HA_REASON_SETTLING;
        }
        bool is_planned = r->plan.count > 0;
        assert_int_equal(is_planned, is_able && !is_settling);
        settled += is_settling;
        plan_rig_free(r);
    }
    assert_true(settled > 0); /* the seeds do reach it */
}

/* --- Refusals --- */

static char text[HA_TEXT_MAX], fix[HA_TEXT_MAX];

static uint16_t refuse(struct plan_rig *r, const struct ha_cmd *cmd)
{
    plan_rig_refresh(r);
    return ha_refusal(&r->b->state, &r->rt, cmd, text, fix);
}

static struct ha_cmd migrate(struct plan_rig *r, uint32_t guest, uint32_t dst)
{
    struct ha_cmd cmd = build_guest_command(r->b, HA_CMD_MIGRATE, guest);
    const struct ha_node *node = ha_state_node(&r->b->state, dst);

    cmd.epoch = build_guest_of(r->b, guest)->epoch_high + 1;
    cmd.u.migrate.dst = dst;
    cmd.u.migrate.dst_incarnation = node ? node->incarnation : 0;
    return cmd;
}

static void a_grantable_command_is_not_refused(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 2);
    struct ha_cmd cmd = migrate(r, 1, 3);
    assert_int_equal(refuse(r, &cmd), HA_REASON_NONE);
    assert_string_equal(text, "");
    r->rt.is_open = false;
    assert_int_equal(refuse(r, &cmd), HA_REASON_NO_QUORUM);
    assert_string_equal(text, ha_reason_text(HA_REASON_NO_QUORUM));
    plan_rig_free(r);
}

static void refusals_of_a_target_have_numbers_and_name_another(void **state)
{
    struct plan_rig *r = plan_rig_new(3);

    (void)state;
    build_guest_mem(r->b, 1, HA_WANT_STARTED, UINT64_C(2048) << 10);
    plan_rig_run(r, 1, 1);
    build_capacity(r->b, 2, UINT64_C(512) << 10);
    struct ha_cmd cmd = migrate(r, 1, 2);
    assert_int_equal(refuse(r, &cmd), HA_REASON_NO_MEMORY);
    assert_string_equal(text, "n2: 512 MiB free of 512, 2048 needed");
    assert_string_equal(fix, "free 1536 MiB on n2, or choose n3 (8192 MiB free)");
    build_maintenance(r->b, 3, true);
    cmd = migrate(r, 1, 3);
    assert_int_equal(refuse(r, &cmd), HA_REASON_MAINTENANCE);
    assert_string_equal(fix, "hactl maintenance n3 off");
    build_maintenance(r->b, 3, false);
    plan_rig_report(r, 3)->is_hv_ready = false;
    snprintf(r->rt.reports[2].alarm, HA_TEXT_MAX, "worker hangs");
    assert_int_equal(refuse(r, &cmd), HA_REASON_HV_NOT_READY);
    assert_string_equal(text, "n3: hamgr-hv on the node does not answer: worker hangs");
    plan_rig_free(r);
}

static void refusals_about_a_guest_say_what_it_does(void **state)
{
    struct plan_rig *r = plan_rig_new(3);
    struct ha_cmd cmd;

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    cmd = migrate(r, 1, 3);
    assert_int_equal(refuse(r, &cmd), HA_REASON_WRONG_PHASE);
    assert_string_equal(text, "g1 does not run");
    build_assign(r->b, 1, 2);
    cmd = migrate(r, 1, 3);
    assert_int_equal(refuse(r, &cmd), HA_REASON_WRONG_PHASE);
    assert_string_equal(text, "g1 is assigned on n2");
    build_started(r->b, 1);
    build_migrate(r->b, 1, 3);
    cmd = migrate(r, 1, 1);
    assert_int_equal(refuse(r, &cmd), HA_REASON_TICKET_OPEN);
    assert_string_equal(text, "g1 is moving from n2 to n3");
    BUILD_OPEN(r->b, true, 1, 3);
    assert_int_equal(refuse(r, &cmd), HA_REASON_OWNER_UNCLEAN);
    assert_true(strstr(fix, "hactl confirm-fenced n2") != NULL);
    plan_rig_free(r);
}

static void refusals_about_a_node_count_its_guests(void **state)
{
    struct plan_rig *r = plan_rig_new(3);
    struct ha_cmd leave = build_node_command(r->b, HA_CMD_LEAVE, 2);

    (void)state;
    for (uint32_t guest = 1; guest <= 2; guest++) {
        build_guest(r->b, guest, HA_WANT_STARTED);
        plan_rig_run(r, guest, 2);
    }
    assert_int_equal(refuse(r, &leave), HA_REASON_OWNS_GUESTS);
    assert_string_equal(text, "n2 still owns 2 guests, first g1");
    assert_string_equal(fix, "hactl maintenance n2 on drains it");
    struct ha_cmd fenced = build_node_command(r->b, HA_CMD_FENCED, 2);
    fenced.u.fenced.evidence = HA_EVIDENCE_OPERATOR;
    assert_int_equal(refuse(r, &fenced), HA_REASON_NOT_UNCLEAN);
    assert_string_equal(text, "n2: the node is not UNCLEAN (member)");
    struct ha_cmd none = build_command(r->b, HA_CMD_WANT);
    none.guest = build_uuid(77);
    assert_int_equal(refuse(r, &none), HA_REASON_NO_SUCH_GUEST);
    assert_string_equal(text, ha_reason_text(HA_REASON_NO_SUCH_GUEST));
    plan_rig_free(r);
}

static void limits_are_named(void **state)
{
    struct plan_rig *r = plan_rig_empty(1);
    static const uint8_t bytes[] = "x";
    static const struct ha_digest zero;

    (void)state;
    build_ready(r->b, 2);
    build_guest(r->b, 1, HA_WANT_STARTED);
    struct ha_cmd cmd = build_command(r->b, HA_CMD_GUEST_ADD);
    cmd.guest = build_uuid(2);
    snprintf(cmd.u.guest_add.name, HA_NAME_MAX, "g2");
    cmd.u.guest_add.mem_kib = 1024;
    cmd.u.guest_add.policy = ha_policy_default();
    cmd.u.guest_add.definition_bytes = bytes;
    cmd.u.guest_add.definition_size = 1;
    cmd.u.guest_add.definition = ha_digest_bytes(zero, bytes, 1);
    assert_int_equal(refuse(r, &cmd), HA_REASON_LIMIT);
    assert_string_equal(text, "there are 1 guests already, the limit is 1");
    plan_rig_free(r);
}

/* The words of the node's check, the same in explain and refusal; and only where it applies. */
static void what_a_node_lacks_is_told(void **state)
{
    struct plan_rig *r = plan_rig_new(3);
    const struct ha_bar bars[] = {
        {.node = 3, .from = 2, .text = "processors differ", .fix = "level them"},
        {.guest = build_uuid(1), .node = 1, .text = "no /srv/k", .fix = "copy /srv/k there"}};
    struct ha_cmd cmd;

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    r->rt.bars = bars;
    r->rt.bar_count = 2;
    explain(r, 1);
    assert_string_equal(condition_of(1)->text, "n1: no /srv/k");
    assert_string_equal(condition_of(1)->fix, "copy /srv/k there");
    assert_int_equal(condition_of(1)->reason, HA_REASON_CANT_RUN);
    assert_true(condition_of(3)->is_ok); /* it is started, not moved */
    plan_rig_run(r, 1, 2);
    explain(r, 1);
    assert_string_equal(condition_of(3)->text, "n3: processors differ");
    cmd = migrate(r, 1, 1);
    assert_int_equal(refuse(r, &cmd), HA_REASON_CANT_RUN);
    assert_string_equal(text, "n1: no /srv/k");
    assert_string_equal(fix, "copy /srv/k there"); /* and no other node to choose */
    plan_rig_free(r);
}

/* The limit that applied is named: a command's own goes before the guest's contract. */
static void a_pause_is_refused_with_the_limit_that_applied(void **state)
{
    struct plan_rig *r = plan_rig_new(3);
    const struct ha_bar slow = {.guest = build_uuid(1),
                                .node = 3,
                                .from = 2,
                                .pause_ms = 9000,
                                .contract_ms = 300,
                                .text = "9 s",
                                .fix = "allow 10 s"};
    struct ha_cmd cmd;

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    plan_rig_run(r, 1, 2);
    r->rt.bars = &slow;
    r->rt.bar_count = 1;
    explain(r, 1);
    assert_string_equal(condition_of(3)->text, "n3: 9 s, 300 ms may be (its contract)");
    assert_string_equal(condition_of(3)->fix, "allow 10 s");
    cmd = migrate(r, 1, 3);
    assert_int_equal(refuse(r, &cmd), HA_REASON_CANT_RUN); /* its contract would break */
    assert_string_equal(text, "n3: 9 s, 300 ms may be (its contract)");
    cmd.u.migrate.max_downtime_ms = 8999;
    assert_int_equal(refuse(r, &cmd), HA_REASON_CANT_RUN);
    assert_string_equal(text, "n3: 9 s, 8999 ms may be (--max-downtime)");
    assert_non_null(strstr(fix, "allow 10 s"));
    cmd.u.migrate.max_downtime_ms = 100; /* less than its contract is a wish, too */
    assert_int_equal(refuse(r, &cmd), HA_REASON_CANT_RUN);
    assert_string_equal(text, "n3: 9 s, 100 ms may be (--max-downtime)");
    cmd.u.migrate.max_downtime_ms = 9000; /* the operator says that it may */
    assert_int_equal(refuse(r, &cmd), HA_REASON_NONE);
    plan_rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_running_guest_is_explained),
        cmocka_unit_test(an_alarm_of_the_owner_is_told),
        cmocka_unit_test(a_node_without_a_record_tells_its_own_alarm),
        cmocka_unit_test(memory_is_explained_with_numbers),
        cmocka_unit_test(rounding_never_hides_a_shortage),
        cmocka_unit_test(stopped_failed_and_waiting_guests_are_explained),
        cmocka_unit_test(an_unclean_owner_is_explained_with_its_time),
        cmocka_unit_test(a_move_is_explained_with_its_rate),
        cmocka_unit_test(no_quorum_is_the_first_thing_said),
        cmocka_unit_test(explain_and_plan_agree),
        cmocka_unit_test(a_grantable_command_is_not_refused),
        cmocka_unit_test(refusals_of_a_target_have_numbers_and_name_another),
        cmocka_unit_test(refusals_about_a_guest_say_what_it_does),
        cmocka_unit_test(refusals_about_a_node_count_its_guests),
        cmocka_unit_test(limits_are_named),
        cmocka_unit_test(what_a_node_lacks_is_told),
        cmocka_unit_test(a_pause_is_refused_with_the_limit_that_applied),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
