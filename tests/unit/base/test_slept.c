/* SPDX-License-Identifier: Apache-2.0
 *
 * The two clocks that tell a suspend, read by a process that is preempted in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hamgr/base/slept.h"

#define MS 1000000u

static uint64_t mono_ns, asleep_ns;
static unsigned reads;
static unsigned preempted[4]; /* reads behind which 300 ms pass; 0: none */
static unsigned suspended;    /* the read behind which the host sleeps for 5 s */

static uint64_t read_clock(clockid_t id)
{
    uint64_t value = id == CLOCK_BOOTTIME ? mono_ns + asleep_ns : mono_ns;

    reads++;
    mono_ns += 1000;
    for (unsigned i = 0; i < 4; i++)
        mono_ns += preempted[i] == reads ? UINT64_C(300) * MS : 0;
    asleep_ns += suspended == reads ? UINT64_C(5000) * MS : 0;
    return value;
}

static int setup(void **state)
{
    (void)state;
    mono_ns = UINT64_C(1000000) * MS;
    asleep_ns = UINT64_C(7000) * MS;
    reads = suspended = 0;
    for (unsigned i = 0; i < 4; i++)
        preempted[i] = 0;
    return 0;
}

static void expect(int64_t slept_ms)
{
    int64_t found_ns = slept_ns(read_clock);

    assert_in_range(found_ns + MS, slept_ms * MS, (slept_ms + 2) * MS);
}

static void at_once(void **state)
{
    (void)state;
    expect(7000);
    assert_int_equal(reads, 3);
}

/* 300 ms between the clocks are read again: no suspend, neither by this look nor by the next. */
static void a_preemption_is_no_suspend(void **state)
{
    (void)state;
    preempted[0] = 1; /* behind the first clock */
    preempted[1] = 5; /* and behind the second, in the second try */
    expect(7000);
    assert_int_equal(reads, 9);
    expect(7000);
}

static void a_suspend_in_between_is_seen(void **state)
{
    (void)state;
    suspended = 1;
    expect(12000);
}

/* A host that never lets it read both in time: it ends, and says what it has. */
static void it_ends(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++)
        preempted[i] = 3 * i + 1;
    expect(7000);
    assert_true(reads <= 3 * SLEPT_TRIES);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, setup)
    const struct CMUnitTest tests[] = {
        TEST(at_once),
        TEST(a_preemption_is_no_suspend),
        TEST(a_suspend_in_between_is_seen),
        TEST(it_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
