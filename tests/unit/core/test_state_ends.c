/* SPDX-License-Identifier: Apache-2.0
 *
 * How guests end, and what is made of it: causes, restart limits, guests that are not protected,
 * relocations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/base/err.h"
#include "tests/lib/builders.h"

static void check_sound(const struct build *b)
{
    const char *violation = ha_state_violation(&b->state);

    if (violation)
        fail_msg("violation: %s", violation);
}

static uint16_t build_clear(struct build *b)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_CLEAR, 1);

    return build_cmd(b, &cmd);
}

static const struct {
    uint8_t cause;
    uint8_t want_after;
    uint16_t failures_after;
} end_table[] = {
    {HA_END_STOPPED, HA_WANT_STARTED, 0},      {HA_END_POWEROFF, HA_WANT_STOPPED, 0},
    {HA_END_REBOOT, HA_WANT_STARTED, 0},       {HA_END_CRASHED, HA_WANT_STARTED, 1},
    {HA_END_START_FAILED, HA_WANT_STARTED, 1}, {HA_END_LOST, HA_WANT_STARTED, 1},
};

static void causes_decide_what_is_counted(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof(end_table) / sizeof(end_table[0]); i++) {
        for (uint8_t phase = HA_PHASE_ASSIGNED; phase < HA_PHASE_COUNT; phase++) {
            struct build *b = build_new(2);
            bool is_told = phase == HA_PHASE_STOPPING;

            build_ready(b, 2);
            build_guest(b, 1, HA_WANT_STARTED);
            build_phase(b, 1, phase, 1, 2);
            uint64_t epoch = build_guest_of(b, 1)->epoch;
            uint32_t owner = build_guest_of(b, 1)->node;
            assert_int_equal(build_not_running(b, 1, end_table[i].cause), 0);
            const struct ha_guest *guest = build_guest_of(b, 1);
            assert_int_equal(guest->want, is_told ? HA_WANT_STARTED : end_table[i].want_after);
            assert_int_equal(guest->failures, is_told ? 0 : end_table[i].failures_after);
            assert_int_equal(guest->phase, HA_PHASE_FREE);
            assert_int_equal(guest->end_cause, end_table[i].cause);
            assert_int_equal(guest->last_node, owner);
            assert_int_equal(guest->epoch, epoch);
            assert_int_equal(guest->ticket.id, 0);
            check_sound(b);
            build_free(b);
        }
    }
}

static void unknown_causes_are_refused(void **unused)
{
    struct build *b = build_new(2);

    (void)unused;
    build_ready(b, 1);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 1);
    assert_int_equal(build_not_running(b, 1, 0), HA_REASON_BAD_VALUE);
    assert_int_equal(build_not_running(b, 1, 7), HA_REASON_BAD_VALUE);
    build_free(b);
}

static void crash(struct build *b)
{
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    assert_int_equal(build_not_running(b, 1, HA_END_CRASHED), 0);
}

static void restarts_are_limited_within_the_window(void **unused)
{
    struct build *b = build_new(2);

    (void)unused;
    build_ready(b, 1);
    build_guest(b, 1, HA_WANT_STARTED);
    crash(b);
    crash(b);
    assert_false(build_guest_of(b, 1)->is_failed);
    b->wall_ms += 3600 * 1000 + 1000;
    crash(b); /* the old ones are forgotten */
    assert_int_equal(build_guest_of(b, 1)->failures, 1);
    crash(b);
    b->wall_ms -= 1000000000; /* a clock set back does not make room */
    crash(b);
    assert_int_equal(build_guest_of(b, 1)->failures, 3);
    assert_true(build_guest_of(b, 1)->is_failed);
    assert_int_equal(build_assign(b, 1, 1), HA_REASON_FAILED_LIMIT);
    /* It is wanted already, but saying so again lifts the limit. */
    assert_int_equal(build_want(b, 1, HA_WANT_STARTED), 0);
    assert_int_equal(build_want(b, 1, HA_WANT_STARTED), HA_REASON_ALREADY);
    assert_int_equal(build_guest_of(b, 1)->failures, 0);
    crash(b);
    assert_int_equal(build_clear(b), 0);
    assert_int_equal(build_guest_of(b, 1)->failures, 0);
    build_free(b);
}

static void unprotected_guests_are_not_restarted(void **unused)
{
    struct build *b = build_new(2);
    struct ha_policy policy = ha_policy_default();

    (void)unused;
    policy.is_protected = false;
    build_ready(b, 2);
    build_guest(b, 1, HA_WANT_STARTED);
    build_policy(b, 1, &policy);
    crash(b);
    assert_int_equal(build_assign(b, 1, 1), HA_REASON_NOT_PROTECTED);
    assert_int_equal(build_want(b, 1, HA_WANT_STARTED), 0);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    BUILD_OPEN(b, true, 2);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_AGENT), 0);
    assert_int_equal(build_assign(b, 1, 2), HA_REASON_NOT_PROTECTED);
    build_free(b);
}

static void relocation_is_remembered_until_the_next_start(void **unused)
{
    struct build *b = build_new(2);

    (void)unused;
    build_ready(b, 2);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    assert_int_equal(build_stop(b, 1, HA_STOP_GRACEFUL, true), 0);
    assert_int_equal(build_not_running(b, 1, HA_END_POWEROFF), 0);
    assert_true(build_guest_of(b, 1)->is_relocating);
    assert_int_equal(build_guest_of(b, 1)->want, HA_WANT_STARTED);
    assert_int_equal(build_assign(b, 1, 2), 0);
    assert_false(build_guest_of(b, 1)->is_relocating);
    build_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(causes_decide_what_is_counted),
        cmocka_unit_test(unknown_causes_are_refused),
        cmocka_unit_test(restarts_are_limited_within_the_window),
        cmocka_unit_test(unprotected_guests_are_not_restarted),
        cmocka_unit_test(relocation_is_remembered_until_the_next_start),
    };

    return cmocka_run_group_tests_name("state: ends", tests, NULL, NULL);
}
