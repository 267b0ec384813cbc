/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice of a level on modelled links: what it settles at, how soon, and that it comes back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "migrate/adapt.h"

/* A machine: bytes/s of one worker at level 1, what the link takes, raw per packed at level 1. */
struct model {
    uint32_t workers;
    uint64_t codec, link;
    double ratio;
};

static double speed_of(int level)
{
    return level == -3 ? 1.3 : level == 1 ? 1.0 : 0.6;
}

static double saving_of(int level)
{
    return level == -3 ? 0.82 : level == 1 ? 1.0 : 1.05;
}

/* Raw bytes/s at a level. */
static double rate_at(const struct model *m, int level)
{
    double ratio = 1 + (m->ratio - 1) * saving_of(level);
    double by_codec = (double)m->codec * speed_of(level) * m->workers;

    if (level == 0)
        return (double)m->link;
    return by_codec < (double)m->link * ratio ? by_codec : (double)m->link * ratio;
}

/* One window of 20 ms. */
static void run_window(struct adapt *a, const struct model *m)
{
    int level = a->level;
    int probe = level == 0 ? 1 : level; /* while storing, some groups are tried */
    double ratio = level == 0 ? 1 : 1 + (m->ratio - 1) * saving_of(level);
    double tried = 1 + (m->ratio - 1) * saving_of(probe);
    double raw = rate_at(m, level) * 0.02;
    double wire = raw / ratio;
    struct adapt_sample sample = {.wall_us = 20000, .wire_bytes = (uint64_t)wire};

    adapt_codec(a, probe, 262144, (uint64_t)(262144 / tried),
                (uint64_t)(262144e9 / ((double)m->codec * speed_of(probe))));
    sample.blocked_us = wire >= (double)m->link * 0.02 * 0.99 ? 15000 : 0;
    adapt_step(a, &sample);
}

/* The level it is at for most of 200 windows after 50. */
static int settled(const struct model *m)
{
    struct adapt a;
    unsigned count[16] = {0};

    adapt_init(&a, m->workers);
    for (unsigned i = 0; i < 250; i++) {
        run_window(&a, m);
        count[a.level + 4] += i >= 50 ? 1u : 0u;
    }
    int best = 0;
    for (int i = 1; i < 16; i++)
        best = count[i] > count[best] ? i : best;
    assert_in_range(count[best], 140, 200); /* what it looks for besides costs little */
    return best - 4;
}

static void settles(void **state)
{
    static const struct {
        struct model model;
        int level;
    } cases[] = {
        {{2, 450000000, 2000000000, 3.0}, 0}, /* loopback: the link outruns the workers */
        {{2, 450000000, 125000000, 3.0}, 3},  /* 1 Gbit/s: level 3 still keeps up */
        {{2, 450000000, 12500000, 3.0}, 3},   /* 100 Mbit/s */
        {{8, 450000000, 1250000000, 2.8}, 1}, /* 10 Gbit/s, eight workers */
        {{2, 450000000, 1250000000, 2.8}, 0}, /* 10 Gbit/s, two */
        {{2, 450000000, 125000000, 1.0}, 0},  /* noise */
        {{2, 300000000, 350000000, 3.0}, -3}, /* the workers are just short of the link */
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(settled(&cases[i].model), cases[i].level);
}

static void follows_the_link(void **state)
{
    struct model m = {2, 450000000, 125000000, 3.0};
    struct adapt a;

    (void)state;
    adapt_init(&a, m.workers);
    for (unsigned i = 0; i < 50; i++)
        run_window(&a, &m);
    assert_int_not_equal(a.level, 0);
    m.link = 3000000000; /* a route got free: found within a second */
    unsigned windows = 0;
    while (a.level != 0 && windows < 100) {
        run_window(&a, &m);
        windows++;
    }
    assert_in_range(windows, 1, 50);
    m.link = 20000000;
    for (unsigned i = 0; i < 10; i++)
        run_window(&a, &m);
    assert_int_not_equal(a.level, 0);
}

static void says_nothing_of_a_slow_guest(void **state)
{
    struct adapt a;
    struct adapt_sample starved = {.wall_us = 20000, .starved_us = 19000, .wire_bytes = 100};

    (void)state;
    adapt_init(&a, 2);
    struct model m = {2, 450000000, 2000000000, 3.0};
    for (unsigned i = 0; i < 50; i++)
        run_window(&a, &m);
    assert_int_equal(a.level, 0);
    uint64_t link = adapt_link_rate(&a);
    for (unsigned i = 0; i < 100; i++)
        adapt_step(&a, &starved);
    assert_int_equal(adapt_link_rate(&a), link);
    assert_int_equal(a.level, 0);
}

/* Writing waits for a processor, the workers are the limit: no reason to work them harder. */
static void crowded_machine(void **state)
{
    struct adapt a;

    (void)state;
    adapt_init(&a, 2);
    for (unsigned i = 0; i < 200; i++) {
        struct adapt_sample sample = {
            .wall_us = 20000, .blocked_us = 6000, .codec_us = 12000, .wire_bytes = 300000};
        adapt_codec(&a, a.level == 0 ? 1 : a.level, 262144, 90000, 5000000);
        if (a.level == 0)
            sample =
                (struct adapt_sample){.wall_us = 20000, .blocked_us = 10000, .wire_bytes = 5000000};
        adapt_step(&a, &sample);
    }
    assert_int_equal(a.level, 0);
}

/* Half of the groups are next to nothing, as in a guest just booted: what counts is how long all
 * take, and what becomes of all; a mean of their ratios would promise wonders of the fastest level.
 */
static void empty_blocks_are_no_wonder(void **state)
{
    struct adapt a;
    struct adapt_sample full = {.wall_us = 20000, .blocked_us = 15000, .wire_bytes = 2500000};

    (void)state;
    adapt_init(&a, 2);
    for (unsigned i = 0; i < 200; i++) {
        adapt_codec(&a, 1, 262144, 40, 100000);
        adapt_codec(&a, 1, 262144, 131072, 600000);
        if (i % 10 == 0)
            adapt_step(&a, &full);
    }
    assert_in_range(adapt_codec_rate(&a), 1400000000, 1600000000);
    assert_int_equal(a.level, 3);
}

static void survives_any_sample(void **state)
{
    static const uint64_t values[] = {0, 1, 20000, UINT32_MAX, UINT64_MAX / 1000000 / 4};
    struct adapt a;

    (void)state;
    adapt_init(&a, 0);
    struct adapt_sample none = {0};
    adapt_step(&a, &none);
    assert_int_equal(a.level, 0);
    adapt_init(&a, 64);
    for (unsigned i = 0; i < 5 * 5 * 5 * 5; i++) {
        struct adapt_sample sample = {.wall_us = values[i % 5],
                                      .starved_us = values[i / 5 % 5],
                                      .blocked_us = values[i / 25 % 5],
                                      .wire_bytes = values[i / 125]};
        adapt_codec(&a, (int)(i % 9) - 4, values[i % 4], values[i / 5 % 4], values[i / 25 % 4]);
        adapt_step(&a, &sample);
        assert_true(a.level >= -3 && a.level <= 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settles),
        cmocka_unit_test(follows_the_link),
        cmocka_unit_test(says_nothing_of_a_slow_guest),
        cmocka_unit_test(crowded_machine),
        cmocka_unit_test(empty_blocks_are_no_wonder),
        cmocka_unit_test(survives_any_sample),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
