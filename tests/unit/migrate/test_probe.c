/* SPDX-License-Identifier: Apache-2.0
 *
 * The meter of a link probe: what it makes of samples, and when it has seen enough.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migrate/probe.h"

#define MS 1000u

/* Samples each step_ms from from_ms to to_ms at rate bytes/ms, on top of *bytes. */
static void feed(struct probe_meter *m, unsigned from_ms, unsigned to_ms, unsigned step_ms,
                 uint64_t rate, uint64_t *bytes)
{
    for (unsigned ms = from_ms; ms < to_ms; ms += step_ms) {
        *bytes += rate * step_ms;
        probe_sample(m, (uint64_t)(ms + step_ms) * MS, *bytes);
    }
}

static void assert_near(uint64_t value, uint64_t wanted)
{
    assert_in_range(value, wanted - wanted / 20, wanted + wanted / 20);
}

static void a_steady_link_is_told_as_it_is(void **state)
{
    struct probe_meter m;
    struct probe_rate rate;
    uint64_t bytes = 0;

    (void)state;
    probe_begin(&m);
    feed(&m, 0, 290, 10, 12500, &bytes);
    assert_false(probe_is_enough(&m));
    feed(&m, 290, 340, 10, 12500, &bytes);
    assert_true(probe_is_enough(&m));
    assert_true(probe_result(&m, &rate));
    assert_near(rate.bytes_s, 12500000);
    assert_near(rate.low_bytes_s, 12500000);
    assert_near(rate.high_bytes_s, 12500000);
}

/* Handshakes and silence before the data, and a shaper's burst at its beginning. */
static void neither_the_beginning_nor_a_burst_counts(void **state)
{
    struct probe_meter m;
    struct probe_rate rate;
    uint64_t bytes = 5000;

    (void)state;
    probe_begin(&m);
    feed(&m, 0, 500, 10, 10, &bytes);
    assert_int_equal(m.count, 0);
    feed(&m, 500, 530, 10, 100000, &bytes);
    feed(&m, 530, 830, 10, 1250, &bytes);
    assert_true(probe_is_enough(&m));
    assert_true(probe_result(&m, &rate));
    assert_near(rate.bytes_s, 1250000);
}

static void a_rate_that_grows_is_given_time(void **state)
{
    struct probe_meter m;
    struct probe_rate rate;
    uint64_t bytes = 0;
    unsigned ms = 0;

    (void)state;
    probe_begin(&m);
    for (uint64_t speed = 1000; ms < 500; ms += 50, speed += speed / 2) {
        feed(&m, ms, ms + 50, 10, speed, &bytes);
        assert_false(probe_is_enough(&m));
    }
    for (; ms < 2000 && !probe_is_enough(&m); ms += 10)
        feed(&m, ms, ms + 10, 10, 60000, &bytes);
    assert_in_range(ms, 510, PROBE_MAX_MS + 50);
    assert_true(probe_result(&m, &rate));
    assert_in_range(rate.low_bytes_s, 1, rate.bytes_s - 1);
    assert_in_range(rate.high_bytes_s, rate.bytes_s + 1, 61000000);
}

static void one_that_never_stops_growing_ends_all_the_same(void **state)
{
    struct probe_meter m;
    uint64_t bytes = 0, speed = 1000;
    unsigned ms = 0;

    (void)state;
    probe_begin(&m);
    for (; ms < 5000 && !probe_is_enough(&m); ms += 10, speed += speed / 20 + 1)
        feed(&m, ms, ms + 10, 10, speed, &bytes);
    assert_in_range(ms, PROBE_MAX_MS, PROBE_MAX_MS + 100);
}

static void too_little_says_nothing(void **state)
{
    struct probe_meter m;
    struct probe_rate rate;
    uint64_t bytes = 0;

    (void)state;
    probe_begin(&m);
    assert_false(probe_result(&m, &rate));
    assert_false(probe_is_enough(&m));
    feed(&m, 0, 80, 10, 100000, &bytes);
    assert_false(probe_result(&m, &rate));
    /* A link that went silent is none. */
    probe_begin(&m);
    bytes = 0;
    feed(&m, 0, 10, 10, 100000, &bytes);
    feed(&m, 10, 400, 10, 0, &bytes);
    assert_false(probe_result(&m, &rate));
}

/* Samples may come as often as they like, and for as long. */
static void its_memory_is_bounded(void **state)
{
    struct probe_meter m;
    struct probe_rate rate;
    uint64_t bytes = 0;

    (void)state;
    probe_begin(&m);
    feed(&m, 0, 60000, 1, 1000, &bytes);
    assert_int_equal(m.count, PROBE_SAMPLES);
    assert_true(probe_is_enough(&m));
    assert_true(probe_result(&m, &rate));
    assert_near(rate.bytes_s, 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_steady_link_is_told_as_it_is),
        cmocka_unit_test(neither_the_beginning_nor_a_burst_counts),
        cmocka_unit_test(a_rate_that_grows_is_given_time),
        cmocka_unit_test(one_that_never_stops_growing_ends_all_the_same),
        cmocka_unit_test(too_little_says_nothing),
        cmocka_unit_test(its_memory_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
