/* SPDX-License-Identifier: Apache-2.0
 *
 * What hamgrd measures of its host at its start: a rate that a processor can have, in little time.
 */
#include "hamgr/codecrate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <time.h>

static uint64_t cpu_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void a_rate_is_measured(void **state)
{
    uint64_t before_ms = cpu_ms();
    uint64_t rate = codecrate_measure();

    (void)state;
    /* From emulated with sanitizers, on a busy machine, up to four of the fastest. */
    assert_true(rate > 100000 && rate < UINT64_C(20000000000));
    assert_true(cpu_ms() - before_ms < 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_rate_is_measured)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
