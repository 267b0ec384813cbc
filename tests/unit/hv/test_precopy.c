/* SPDX-License-Identifier: Apache-2.0
 *
 * The downtime contract as a table of rounds, and the meter of the drain rate.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "hamgr/hv/precopy.h"

#define PAGE_BYTES UINT64_C(4104)
#define RATE       UINT64_C(410400000) /* 100000 pages a second */

static struct hv_save_params params_of(uint32_t max_downtime_ms, uint32_t deadline_ms,
                                       uint8_t on_slow)
{
    return (struct hv_save_params){.is_live = true,
                                   .max_downtime_ms = max_downtime_ms,
                                   .deadline_ms = deadline_ms,
                                   .on_slow = on_slow};
}

static struct precopy_decision feed(struct precopy *p, uint64_t elapsed_us, uint64_t dirty)
{
    struct precopy_round round = {.elapsed_us = elapsed_us,
                                  .dirty_pages = dirty,
                                  .page_bytes = PAGE_BYTES,
                                  .rate_bytes_s = RATE,
                                  .fixed_us = 3000};

    return precopy_decide(p, &round);
}

static void test_stops_at_the_aim(void **state)
{
    struct hv_save_params params = params_of(300, 0, HV_SLOW_ABORT);
    struct precopy p;

    (void)state;
    precopy_init(&p, &params, 131072);
    /* 20000 pages = 200 ms: within 300 ms, but rounds still shrink it. */
    assert_int_equal(feed(&p, 1000000, 20000).action, PRECOPY_GO_ON);
    assert_int_equal(feed(&p, 1200000, 3000).action, PRECOPY_GO_ON);
    struct precopy_decision d = feed(&p, 1230000, 500);
    assert_int_equal(d.action, PRECOPY_STOP);
    assert_in_range(d.predicted_us, 7900, 8100);
}

static void test_stops_when_rounds_do_not_help(void **state)
{
    struct hv_save_params params = params_of(300, 0, HV_SLOW_ABORT);
    struct precopy p;

    (void)state;
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 1000000, 20000).action, PRECOPY_GO_ON);
    assert_int_equal(feed(&p, 1200000, 19000).action, PRECOPY_STOP);
}

static void test_backlog_and_fixed_cost_count(void **state)
{
    struct hv_save_params params = params_of(8, 0, HV_SLOW_ABORT);
    struct precopy p;
    struct precopy_round round = {
        .dirty_pages = 100, .page_bytes = PAGE_BYTES, .rate_bytes_s = RATE, .fixed_us = 3000};

    (void)state;
    precopy_init(&p, &params, 131072);
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_STOP); /* 4 ms */
    precopy_init(&p, &params, 131072);
    round.backlog_bytes = RATE / 100; /* 10 ms more */
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_GO_ON);
    precopy_init(&p, &params, 131072);
    round.backlog_bytes = 0;
    round.fixed_us = 9000;
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_GO_ON);
}

static void test_unknown_rate_is_a_slow_link(void **state)
{
    struct hv_save_params params = params_of(300, 0, HV_SLOW_ABORT);
    struct precopy p;
    struct precopy_round round = {.dirty_pages = 2048, .page_bytes = PAGE_BYTES};

    (void)state;
    precopy_init(&p, &params, 2048);
    uint64_t us = precopy_decide(&p, &round).predicted_us;
    assert_in_range(us, 83900, 84200);
}

static void test_no_progress(void **state)
{
    const uint8_t policies[] = {HV_SLOW_PAUSE, HV_SLOW_ABORT};
    const enum precopy_action ends[] = {PRECOPY_STOP, PRECOPY_ABORT};

    (void)state;
    for (int n = 0; n < 2; n++) {
        struct hv_save_params params = params_of(50, 0, policies[n]);
        struct precopy p;
        unsigned rounds = 0;
        enum precopy_action action;
        precopy_init(&p, &params, 131072);
        do
            action = feed(&p, 1000000u * ++rounds, 100000).action;
        while (action == PRECOPY_GO_ON && rounds < 100);
        assert_int_equal(action, ends[n]);
        /* Round 0 got from 131072 to 100000: that was progress. */
        assert_int_equal(rounds, 1 + PRECOPY_STALE_ROUNDS);
    }
}

static void test_deadline(void **state)
{
    struct hv_save_params params = params_of(50, 5000, HV_SLOW_ABORT);
    struct precopy p;

    (void)state;
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 4999999, 50000).action, PRECOPY_GO_ON);
    assert_int_equal(feed(&p, 5000000, 40000).action, PRECOPY_ABORT);
    params.on_slow = HV_SLOW_PAUSE;
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 5000000, 40000).action, PRECOPY_STOP);
    /* Late but within the target: no reason to wait for a better round. */
    params = params_of(500, 5000, HV_SLOW_ABORT);
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 5000000, 40000).action, PRECOPY_STOP);
}

static void test_throttle_goes_down_then_stops(void **state)
{
    struct hv_save_params params = params_of(50, 0, HV_SLOW_THROTTLE);
    const uint32_t steps[] = {80, 60, 40, 20, 10};
    struct precopy p;
    struct precopy_decision d = {PRECOPY_GO_ON, 0, 100, ""};
    unsigned found = 0;

    (void)state;
    precopy_init(&p, &params, 131072);
    for (unsigned rounds = 0; rounds < 100 && d.action != PRECOPY_STOP; rounds++) {
        d = feed(&p, 1000000u * rounds, 100000);
        if (d.action == PRECOPY_THROTTLE) {
            assert_in_range(found, 0, 4);
            assert_int_equal(d.throttle_percent, steps[found++]);
        }
    }
    assert_int_equal(found, 5);
    assert_int_equal(d.action, PRECOPY_STOP);
}

static void test_throttle_that_helps(void **state)
{
    struct hv_save_params params = params_of(50, 0, HV_SLOW_THROTTLE);
    struct precopy p;
    struct precopy_decision d = {PRECOPY_GO_ON, 0, 100, ""};
    unsigned rounds = 0;

    (void)state;
    precopy_init(&p, &params, 131072);
    while (d.action != PRECOPY_STOP && rounds++ < 100)
        d = feed(&p, 1000000u * rounds, p.throttle_percent > 40 ? 100000 : 2000);
    assert_int_equal(p.throttle_percent, 40);
    assert_in_range(d.predicted_us, 1, 50000);
}

static void test_huge_numbers_do_not_overflow(void **state)
{
    struct hv_save_params params = params_of(50, 0, HV_SLOW_PAUSE);
    struct precopy p;
    struct precopy_round round = {.dirty_pages = UINT64_C(1) << 32, /* 16 TiB */
                                  .page_bytes = PAGE_BYTES,
                                  .rate_bytes_s = UINT64_C(100000000000)};

    (void)state;
    precopy_init(&p, &params, round.dirty_pages);
    uint64_t us = precopy_decide(&p, &round).predicted_us;
    assert_in_range(us, 176000000, 177000000);
    round.rate_bytes_s = 1;
    us = precopy_decide(&p, &round).predicted_us;
    assert_true(us > UINT64_C(1) << 60);
}

static void test_rate(void **state)
{
    struct precopy_rate r = {0};
    uint64_t written = 0, us = 1000;

    (void)state;
    /* The first megabyte vanishes into buffers at once: no rate yet. */
    precopy_rate_update(&r, 0, 0, us, false);
    precopy_rate_update(&r, 1000000, 0, us += 10, false);
    assert_int_equal(r.rate_bytes_s, 0);
    /* 100 bytes a microsecond from there on. */
    written = 1000000;
    for (int n = 0; n < 20; n++)
        precopy_rate_update(&r, written += 1000000, 0, us += 10000, false);
    assert_in_range(r.rate_bytes_s, 99000000, 101000000);
    /* Written into a buffer is not drained. */
    uint64_t before = r.rate_bytes_s;
    precopy_rate_update(&r, written + 8000000, 8000000, us + 1000, false);
    assert_int_equal(r.rate_bytes_s, before);
    /* Idle time is not slowness. */
    precopy_rate_update(&r, written, 0, us += 5000000, true);
    precopy_rate_update(&r, written += 5000000, 0, us += 50000, false);
    assert_in_range(r.rate_bytes_s, 99000000, 101000000);
    /* A link that got slower is believed within two intervals. */
    for (int n = 0; n < 4; n++)
        precopy_rate_update(&r, written += 5000000, 0, us += 500000, false);
    assert_in_range(r.rate_bytes_s, 10000000, 20000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops_at_the_aim),
        cmocka_unit_test(test_stops_when_rounds_do_not_help),
        cmocka_unit_test(test_backlog_and_fixed_cost_count),
        cmocka_unit_test(test_unknown_rate_is_a_slow_link),
        cmocka_unit_test(test_no_progress),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_throttle_goes_down_then_stops),
        cmocka_unit_test(test_throttle_that_helps),
        cmocka_unit_test(test_huge_numbers_do_not_overflow),
        cmocka_unit_test(test_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
