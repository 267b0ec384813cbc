/* SPDX-License-Identifier: Apache-2.0
 *
 * The downtime contract as a table of rounds, the rate of rounds, and whole migrations over links
 * that are slow or hide what they hold.
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
                                  .round_pages = p->last_pages,
                                  .rate_bytes_s = RATE,
                                  .fixed_us = 3000};

    return precopy_decide(p, &round);
}

/* Begun, and round 0 is over: the next round is one that can be believed. */
static void tried(struct precopy *p, const struct hv_save_params *params, uint64_t pages)
{
    precopy_init(p, params, pages);
    assert_int_equal(feed(p, 0, pages).action, PRECOPY_GO_ON);
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
    struct precopy_decision d = feed(&p, 1230000, 300);
    assert_int_equal(d.action, PRECOPY_STOP);
    assert_in_range(d.predicted_us, 5900, 6100);
}

static void test_stops_when_rounds_do_not_help(void **state)
{
    struct hv_save_params params = params_of(300, 0, HV_SLOW_ABORT);
    struct precopy p;

    (void)state;
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 1000000, 20000).action, PRECOPY_GO_ON);
    assert_int_equal(feed(&p, 1200000, 19000).action, PRECOPY_GO_ON); /* once may be chance */
    assert_int_equal(feed(&p, 1400000, 18500).action, PRECOPY_STOP);
}

static void test_backlog_and_fixed_cost_count(void **state)
{
    struct hv_save_params params = params_of(8, 0, HV_SLOW_ABORT);
    struct precopy p;
    struct precopy_round round = {.dirty_pages = 100,
                                  .page_bytes = PAGE_BYTES,
                                  .round_pages = 400,
                                  .rate_bytes_s = RATE,
                                  .fixed_us = 3000};

    (void)state;
    tried(&p, &params, 131072);
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_STOP); /* 4 ms */
    tried(&p, &params, 131072);
    round.backlog_bytes = RATE / 100; /* 10 ms more */
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_GO_ON);
    tried(&p, &params, 131072);
    round.backlog_bytes = 0;
    round.fixed_us = 9000;
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_GO_ON);
    /* A rate that swings is counted on only as far as it is sure. */
    tried(&p, &params, 131072);
    round.fixed_us = 3000;
    round.dirty_pages = 350; /* 3.5 ms */
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_STOP);
    round.spread_bytes_s = RATE / 3; /* 10.5 ms */
    tried(&p, &params, 131072);
    assert_in_range(precopy_decide(&p, &round).predicted_us, 13400, 13600);
    round.spread_bytes_s = RATE * 5; /* never less than a quarter: 14 ms */
    assert_in_range(precopy_decide(&p, &round).predicted_us, 16900, 17100);
}

static void test_impossible_contracts_are_not_begun(void **state)
{
    struct hv_save_params params = params_of(10, 0, HV_SLOW_THROTTLE);
    struct precopy p;
    struct precopy_round none = {.fixed_us = 18000};
    char text[256];

    (void)state;
    precopy_init(&p, &params, 1000);
    assert_false(precopy_admits(&p, 18000));
    assert_true(precopy_admits(&p, 10000));
    precopy_explain(&p, &none, text, sizeof(text));
    assert_string_equal(text, "the switch alone takes 18 ms, 10 ms are allowed; "
                              "--max-downtime 20ms would do");
    params.on_slow = HV_SLOW_PAUSE;
    precopy_init(&p, &params, 1000);
    assert_true(precopy_admits(&p, 18000));
}

static void test_words_name_the_smallest_change(void **state)
{
    struct hv_save_params params = params_of(50, 0, HV_SLOW_ABORT);
    struct precopy p;
    struct precopy_round round = {.dirty_pages = 20000,
                                  .page_bytes = PAGE_BYTES,
                                  .rate_bytes_s = RATE,
                                  .dirty_bytes_s = 500000000,
                                  .fixed_us = 3000};
    char text[256];

    (void)state;
    precopy_init(&p, &params, 131072);
    precopy_decide(&p, &round);
    round.dirty_pages = 30000;
    precopy_explain(&p, &round, text, sizeof(text));
    /* 203 ms was the best of them. */
    assert_string_equal(text, "the pause would be 302 ms, 50 ms are allowed (writes 500 MB/s, "
                              "drains 410); --max-downtime 230ms would do");
}

/* Behind the stop: 20 ms are left for giving up. */
static void test_may_finish(void **state)
{
    struct hv_save_params params = params_of(100, 0, HV_SLOW_THROTTLE);
    struct precopy p;
    struct precopy_round round = {
        .page_bytes = PAGE_BYTES, .rate_bytes_s = RATE, .fixed_us = 20000};

    (void)state;
    precopy_init(&p, &params, 1000);
    assert_true(precopy_may_finish(&p, 10000, RATE / 20, &round));   /* 10 + 20 + 50 */
    assert_false(precopy_may_finish(&p, 10000, RATE / 10, &round));  /* 10 + 20 + 100 */
    assert_false(precopy_may_finish(&p, 79000, RATE / 500, &round)); /* 79 + 20 + 2 */
    assert_true(precopy_may_finish(&p, 85000, RATE / 10, &round));   /* giving up is no better */
    params.on_slow = HV_SLOW_PAUSE;
    precopy_init(&p, &params, 1000);
    assert_true(precopy_may_finish(&p, 10000, RATE, &round));
    params = params_of(0, 0, HV_SLOW_ABORT); /* no contract */
    precopy_init(&p, &params, 1000);
    assert_true(precopy_may_finish(&p, 10000, RATE, &round));
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

/* The switch alone takes longer than is allowed, and the operator said PAUSE: rounds go on only as
 * long as they shorten that pause worth a word. */
static void test_hopeless_contracts_are_not_rehearsed_for_ever(void **state)
{
    struct hv_save_params params = params_of(300, 0, HV_SLOW_PAUSE);
    struct precopy p;
    struct precopy_round round = {.page_bytes = PAGE_BYTES,
                                  .rate_bytes_s = RATE / 100, /* 1000 pages a second */
                                  .fixed_us = 1200000};
    const struct {
        uint64_t sent, dirty;
        enum precopy_action action;
    } shrinking[] = {{32768, 100, PRECOPY_GO_ON}, /* round 0 is no rehearsal */
                     {100, 151, PRECOPY_GO_ON},   /* 151 ms of 1200: more than an eighth */
                     {151, 150, PRECOPY_STOP}},
      flat[] = {{32768, 4000, PRECOPY_GO_ON},
                {4000, 2900, PRECOPY_GO_ON}, /* still shrinks by a quarter */
                {2900, 2800, PRECOPY_GO_ON},
                {2800, 2700, PRECOPY_STOP}};

    (void)state;
    precopy_init(&p, &params, 32768);
    for (size_t n = 0; n < sizeof(shrinking) / sizeof(shrinking[0]); n++) {
        round.round_pages = shrinking[n].sent;
        round.dirty_pages = shrinking[n].dirty;
        assert_int_equal(precopy_decide(&p, &round).action, shrinking[n].action);
    }
    precopy_init(&p, &params, 32768);
    for (size_t n = 0; n < sizeof(flat) / sizeof(flat[0]); n++) {
        round.round_pages = flat[n].sent;
        round.dirty_pages = flat[n].dirty;
        assert_int_equal(precopy_decide(&p, &round).action, flat[n].action);
    }
}

/* Rounds can still do it: no reason to stop before they have had their try. */
static void test_contracts_within_reach_are_tried(void **state)
{
    struct hv_save_params params = params_of(300, 0, HV_SLOW_PAUSE);
    struct precopy p;
    struct precopy_round round = {.page_bytes = PAGE_BYTES,
                                  .round_pages = 4000,
                                  .dirty_pages = 4000,
                                  .rate_bytes_s = RATE / 100,
                                  .fixed_us = 290000};

    (void)state;
    precopy_init(&p, &params, 32768);
    for (unsigned n = 0; n < PRECOPY_STALE_ROUNDS; n++)
        assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_GO_ON);
    assert_int_equal(precopy_decide(&p, &round).action, PRECOPY_STOP);
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
    assert_int_equal(feed(&p, 3749999, 40000).action, PRECOPY_GO_ON);
    assert_int_equal(feed(&p, 3750000, 20000).action, PRECOPY_STOP);
    /* From half of it on, each round is a step down; past it, the end. */
    params = params_of(50, 5000, HV_SLOW_THROTTLE);
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 2400000, 50000).action, PRECOPY_GO_ON);
    assert_int_equal(feed(&p, 2500000, 40000).action, PRECOPY_THROTTLE);
    assert_int_equal(feed(&p, 2600000, 30000).action, PRECOPY_THROTTLE);
    assert_int_equal(feed(&p, 5000000, 29000).action, PRECOPY_ABORT);
}

static void test_throttle_goes_down_then_gives_up(void **state)
{
    struct hv_save_params params = params_of(50, 0, HV_SLOW_THROTTLE);
    const uint32_t steps[] = {80, 60, 40, 20, 10, 5};
    struct precopy p;
    struct precopy_decision d = {PRECOPY_GO_ON, 0, 100, ""};
    unsigned found = 0;

    (void)state;
    precopy_init(&p, &params, 131072);
    for (unsigned rounds = 0; rounds < 100 && d.action != PRECOPY_ABORT; rounds++) {
        d = feed(&p, 1000000u * rounds, 100000);
        if (d.action == PRECOPY_THROTTLE) {
            assert_in_range(found, 0, 5);
            assert_int_equal(d.throttle_percent, steps[found++]);
        }
    }
    assert_int_equal(found, 6);
    assert_int_equal(d.action, PRECOPY_ABORT);
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
        d = feed(&p, 1000000u * rounds, d.throttle_percent > 40 ? 100000 : 2000);
    assert_int_equal(d.throttle_percent, 40);
    assert_in_range(d.predicted_us, 1, 50000);
}

/* splitmix64 */
static uint64_t next_random(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static struct precopy_round random_round(uint64_t *seed, uint64_t elapsed_us)
{
    unsigned size = (unsigned)(next_random(seed) % 40);
    unsigned speed = (unsigned)(next_random(seed) % 40);

    return (struct precopy_round){.elapsed_us = elapsed_us,
                                  .dirty_pages = next_random(seed) >> (24 + size % 40),
                                  .page_bytes = PAGE_BYTES,
                                  .backlog_bytes = next_random(seed) >> (34 + size % 30),
                                  .rate_bytes_s = next_random(seed) >> (24 + speed),
                                  .spread_bytes_s = next_random(seed) >> (24 + speed),
                                  .fixed_us = next_random(seed) % 60000};
}

/* Whatever is fed: it ends, with a bound on rounds; it stops only within the contract unless told
 * to pause; and the throttle only goes down. */
static void test_any_input_ends_and_keeps_the_contract(void **state)
{
    uint64_t seed = 20;

    (void)state;
    for (unsigned n = 0; n < 20000; n++) {
        uint32_t downtime_ms = (uint32_t)(next_random(&seed) % 500);
        uint32_t deadline_ms = next_random(&seed) % 2 ? (uint32_t)(next_random(&seed) % 100000) : 0;
        uint8_t on_slow = (uint8_t)(1 + next_random(&seed) % 3);
        struct hv_save_params params = params_of(downtime_ms, deadline_ms, on_slow);
        struct precopy_decision d = {PRECOPY_GO_ON, 0, 100, ""};
        struct precopy p;
        uint64_t elapsed_us = 0;
        uint32_t percent = 100;
        unsigned rounds = 0;
        precopy_init(&p, &params, next_random(&seed) >> 30);
        while (d.action == PRECOPY_GO_ON || d.action == PRECOPY_THROTTLE) {
            struct precopy_round round = random_round(&seed, elapsed_us);
            elapsed_us += next_random(&seed) % 1000000;
            d = precopy_decide(&p, &round);
            assert_true(d.throttle_percent <= percent && d.throttle_percent >= 1);
            percent = d.throttle_percent;
            assert_true(++rounds <= PRECOPY_ROUNDS_MAX + PRECOPY_THROTTLE_STEPS + 1);
        }
        assert_true(d.action == PRECOPY_ABORT || on_slow == HV_SLOW_PAUSE || downtime_ms == 0 ||
                    d.predicted_us <= (uint64_t)downtime_ms * 1000);
        assert_true(d.action != PRECOPY_ABORT || on_slow != HV_SLOW_PAUSE);
        assert_true(percent == 100 || on_slow == HV_SLOW_THROTTLE);
    }
}

static void test_settling(void **state)
{
    (void)state;
    assert_in_range(precopy_settle_us(UINT64_C(100000000), 100000), 990, 1000);
    assert_in_range(precopy_settle_us(UINT64_C(100000000), UINT64_MAX), 5200, 5250);
    assert_int_equal(precopy_settle_us(1, UINT64_MAX), PRECOPY_SETTLE_MAX_US);
    assert_int_equal(precopy_settle_us(UINT64_C(100000000), 0), 0);
}

static void test_costs(void **state)
{
    struct precopy_cost c = {0};

    (void)state;
    assert_int_equal(precopy_cost_high(&c, 30000), 30000);
    precopy_cost_update(&c, 12000);
    assert_int_equal(precopy_cost_high(&c, 30000), 18000);
    for (int n = 0; n < 30; n++)
        precopy_cost_update(&c, 12000);
    assert_in_range(precopy_cost_high(&c, 30000), 12000, 12100);
    precopy_cost_update(&c, 40000); /* one that was slow makes the next careful */
    assert_in_range(precopy_cost_high(&c, 30000), 30000, 35000);
    precopy_cost_update(&c, 400000);
    assert_true(precopy_cost_high(&c, 30000) > 100000);
    for (int n = 0; n < 24; n++)
        precopy_cost_fade(&c, 30000);
    assert_in_range(precopy_cost_high(&c, 30000), 30000, 32000);
}

static void test_forecast(void **state)
{
    struct precopy_plan plan = {.memory_bytes = UINT64_C(1000000000),
                                .dirty_bytes_s = 50000000,
                                .rate_bytes_s = 500000000,
                                .rate_low_bytes_s = 250000000,
                                .rate_high_bytes_s = 1000000000,
                                .fixed_us = 30000,
                                .fixed_low_us = 10000,
                                .max_downtime_us = 100000,
                                .setup_us = 300000};
    struct precopy_forecast f;

    (void)state;
    precopy_foresee(&plan, &f);
    assert_true(f.is_converging);
    /* 1000 + 100 + 10 + 1 MB at 500 MB/s, and 0.3 s. */
    assert_in_range(f.time_ms, 2500, 2560);
    assert_in_range(f.bytes, 1110000000, 1115000000);
    assert_in_range(f.pause_ms, 20, 24);
    assert_true(f.time_low_ms < f.time_ms && f.time_ms < f.time_high_ms);
    assert_true(f.pause_low_ms < f.pause_ms && f.pause_ms < f.pause_high_ms);
    assert_true(f.bytes_low <= f.bytes && f.bytes <= f.bytes_high);
    /* Faster than the link: said so, and it ends. */
    plan.dirty_bytes_s = 900000000;
    precopy_foresee(&plan, &f);
    assert_false(f.is_converging);
    assert_in_range(f.pause_ms, 1800, 2100);
    /* Nonsense does no harm. */
    plan = (struct precopy_plan){
        .memory_bytes = UINT64_MAX, .dirty_bytes_s = UINT64_MAX, .rate_bytes_s = 1};
    precopy_foresee(&plan, &f);
}

static void test_rates_without_a_probe(void **state)
{
    struct precopy_way way = {0};
    struct precopy_plan plan = {0};

    (void)state;
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_GUESS);
    assert_int_equal(plan.rate_bytes_s, PRECOPY_RATE_DEFAULT);
    assert_true(plan.rate_low_bytes_s < plan.rate_bytes_s);
    assert_true(plan.rate_high_bytes_s > plan.rate_bytes_s);
    way.guess_bytes_s = 8000000; /* by a slow processor */
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_GUESS);
    assert_int_equal(plan.rate_bytes_s, 8000000);
    assert_true(plan.rate_low_bytes_s < 8000000 && plan.rate_high_bytes_s > 8000000);
    way.cap_bytes_s = 1000000;
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_GUESS);
    assert_int_equal(plan.rate_bytes_s, 1000000);
    way.seen_kib_s = (struct precopy_cost){.mean_us = 50000, .spread_us = 5000};
    way.seen_from = PRECOPY_FROM_OTHERS;
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_OTHERS);
    assert_int_equal(plan.rate_bytes_s, 50000 * 1024);
    assert_int_equal(plan.rate_low_bytes_s, 40000 * 1024);
    assert_int_equal(plan.rate_high_bytes_s, 60000 * 1024);
}

static void test_rates_of_a_probe(void **state)
{
    struct precopy_way way = {
        .link_bytes_s = 12500000, .link_low_bytes_s = 12000000, .link_high_bytes_s = 13000000};
    struct precopy_plan plan = {0};

    (void)state;
    /* Nothing was ever moved: pages may be anything, and count as incompressible. */
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_PROBE);
    assert_int_equal(plan.rate_bytes_s, 12500000);
    assert_int_equal(plan.rate_low_bytes_s, 12000000);
    assert_int_equal(plan.rate_high_bytes_s, 4 * 13000000);
    /* This guest's memory was a third on the wire. */
    way.ratio_permille = 3000;
    way.is_own_ratio = true;
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_PROBE);
    assert_int_equal(plan.rate_bytes_s, 37500000);
    assert_int_equal(plan.rate_low_bytes_s, 27000000);
    assert_int_equal(plan.rate_high_bytes_s, 58500000);
    /* Others' was: this one's may not shrink at all. */
    way.is_own_ratio = false;
    precopy_rates(&way, &plan);
    assert_int_equal(plan.rate_low_bytes_s, 12000000);
    /* The link has become slower than migrations there were: it is what counts. */
    way.seen_from = PRECOPY_FROM_LINK;
    way.seen_kib_s.mean_us = 100000;
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_PROBE);
    assert_int_equal(plan.rate_bytes_s, 37500000);
    /* It takes more than was ever moved there: something else is the limit. */
    way.seen_kib_s.mean_us = 10000;
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_LINK);
    assert_int_equal(plan.rate_bytes_s, 10000 * 1024);
    assert_true(plan.rate_low_bytes_s <= plan.rate_bytes_s);
    assert_int_equal(plan.rate_high_bytes_s, 58500000);
    /* ... which says nothing when it was another node. */
    way.seen_from = PRECOPY_FROM_OTHERS;
    assert_int_equal(precopy_rates(&way, &plan), PRECOPY_FROM_PROBE);
    assert_int_equal(plan.rate_bytes_s, 37500000);
    /* Nonsense is bounded. */
    way.ratio_permille = UINT32_MAX;
    precopy_rates(&way, &plan);
    assert_int_equal(plan.rate_bytes_s, UINT64_C(12500000000));
    way.ratio_permille = 1;
    precopy_rates(&way, &plan);
    assert_int_equal(plan.rate_bytes_s, 11250000);
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

    (void)state;
    precopy_rate_round(&r, 0, 1000); /* nothing was sent: that says nothing */
    precopy_rate_round(&r, 1000, 0);
    assert_int_equal(r.rate_bytes_s, 0);
    precopy_rate_round(&r, UINT64_C(5000000000), 1000000); /* round 0: mostly zeros */
    assert_int_equal(r.rate_bytes_s, UINT64_C(5000000000));
    precopy_rate_round(&r, 12500000, 1000000); /* the first that counts */
    assert_int_equal(r.rate_bytes_s, 12500000);
    assert_int_equal(r.spread_bytes_s, 0);
    /* A link that got slower shows: half of it at once, and as something to be careful about. */
    precopy_rate_round(&r, 2500000, 1000000);
    assert_int_equal(r.rate_bytes_s, 7500000);
    assert_int_equal(r.spread_bytes_s, 2500000);
    for (int n = 0; n < 30; n++)
        precopy_rate_round(&r, 2500000, 1000000);
    assert_in_range(r.rate_bytes_s, 2490000, 2510000);
    assert_in_range(r.spread_bytes_s, 0, 10000);
}

/* ---- a guest behind a slow link whose stream holds back megabytes ---- */

#define HIDDEN UINT64_C(18874368) /* parcels and units of a stream: what a pipe does not show */

struct link {
    uint64_t rate_bytes_s;
    uint64_t burst_bytes; /* a shaper's bucket: free of charge when it is full */
    uint64_t tail_us;     /* there and back, flush and restore */
    uint64_t bucket_bytes;
};

static uint64_t transfer_us(struct link *link, uint64_t bytes)
{
    uint64_t paid = bytes > link->bucket_bytes ? bytes - link->bucket_bytes : 0;

    link->bucket_bytes -= bytes - paid;
    return paid * 1000000 / link->rate_bytes_s + link->tail_us;
}

static void refill(struct link *link, uint64_t idle_us)
{
    uint64_t bytes = link->bucket_bytes + link->rate_bytes_s * idle_us / 1000000;

    link->bucket_bytes = bytes < link->burst_bytes ? bytes : link->burst_bytes;
}

struct trip {
    enum precopy_action end;
    uint64_t predicted_us;
    uint64_t pause_us; /* that the guest would see */
    uint64_t took_us;
};

/* Memory that is zero but for a tenth; then what the guest writes, none of which shrinks. */
static struct trip travel(struct link link, uint64_t pages, uint64_t dirty_pages_s,
                          const struct hv_save_params *params)
{
    uint64_t sent = pages, wire = pages / 10 * PAGE_BYTES, fixed_us = 30000;
    struct precopy_rate rate = {0};
    struct precopy_decision d;
    struct precopy p;
    struct trip trip = {0};

    link.bucket_bytes = link.burst_bytes;
    precopy_init(&p, params, pages);
    do {
        uint64_t us = transfer_us(&link, wire);
        trip.took_us += us;
        refill(&link, link.tail_us);
        precopy_rate_round(&rate, sent * PAGE_BYTES, us);
        uint64_t dirty = dirty_pages_s * us / 1000000 + 1;
        dirty = dirty < pages ? dirty : pages;
        struct precopy_round round = {.elapsed_us = trip.took_us,
                                      .dirty_pages = dirty,
                                      .page_bytes = PAGE_BYTES,
                                      .round_pages = sent,
                                      .rate_bytes_s = rate.rate_bytes_s,
                                      .spread_bytes_s = rate.spread_bytes_s,
                                      .fixed_us = fixed_us};
        d = precopy_decide(&p, &round);
        sent = dirty;
        wire = dirty * PAGE_BYTES;
    } while (d.action == PRECOPY_GO_ON || d.action == PRECOPY_THROTTLE);
    trip.end = d.action;
    trip.predicted_us = d.predicted_us;
    trip.pause_us = fixed_us + transfer_us(&link, wire);
    return trip;
}

/* Whatever the link and the guest: it stops only when the pause the guest then sees is within the
 * contract, though round 0 made the link look ten times as fast and a bucket lies in the way. */
static void test_slow_links_keep_the_contract(void **state)
{
    static const uint64_t mbit[] = {1, 5, 20, 100, 300, 1000, 10000};
    static const uint64_t bursts[] = {0, 32768, 262144, 4194304};
    unsigned stops = 0, aborts = 0;

    (void)state;
    for (unsigned m = 0; m < 7; m++)
        for (unsigned b = 0; b < 4; b++)
            for (uint64_t dirty_s = 1; dirty_s < 100000; dirty_s *= 3) {
                struct link link = {
                    .rate_bytes_s = mbit[m] * 125000, .burst_bytes = bursts[b], .tail_us = 3000};
                struct hv_save_params params = params_of(100, 0, HV_SLOW_ABORT);
                struct trip trip = travel(link, 65536, dirty_s, &params);
                stops += trip.end == PRECOPY_STOP;
                aborts += trip.end == PRECOPY_ABORT;
                if (trip.end == PRECOPY_STOP && trip.pause_us > 100000)
                    fail_msg("%u Mbit/s, burst %u, %u pages/s: %u ms", (unsigned)mbit[m],
                             (unsigned)bursts[b], (unsigned)dirty_s,
                             (unsigned)(trip.pause_us / 1000));
            }
    /* Most do converge: a policy that refuses everything keeps every contract, too. */
    assert_true(stops > 150 && aborts > 30);
}

/* A guest that writes half of what a link moves gets across in time at any speed. */
static void test_slow_links_converge(void **state)
{
    static const uint64_t mbit[] = {20, 100, 1000};

    (void)state;
    for (unsigned m = 0; m < 3; m++) {
        struct link link = {.rate_bytes_s = mbit[m] * 125000, .tail_us = 2000};
        struct hv_save_params params = params_of(100, 0, HV_SLOW_ABORT);
        struct trip trip = travel(link, 65536, link.rate_bytes_s / PAGE_BYTES / 2, &params);
        assert_int_equal(trip.end, PRECOPY_STOP);
        assert_true(trip.pause_us <= 100000);
    }
}

/* What is written and not taken over counts, as bytes of the pause: 18 MiB at 100 Mbit/s are 1.5 s,
 * and a stop with them under way would break any contract. */
static void test_hidden_bytes_count(void **state)
{
    struct hv_save_params params = params_of(500, 0, HV_SLOW_ABORT);
    struct precopy_round round = {.dirty_pages = 100,
                                  .page_bytes = PAGE_BYTES,
                                  .round_pages = 100,
                                  .backlog_bytes = HIDDEN,
                                  .rate_bytes_s = 12500000,
                                  .fixed_us = 30000};
    struct precopy p;

    (void)state;
    tried(&p, &params, 131072);
    struct precopy_decision d = precopy_decide(&p, &round);
    assert_int_equal(d.action, PRECOPY_GO_ON);
    assert_in_range(d.predicted_us, 1560000, 1580000);
    round.backlog_bytes = 0;
    tried(&p, &params, 131072);
    d = precopy_decide(&p, &round);
    assert_in_range(d.predicted_us, 62000, 64000);
    /* Behind the stop, too: giving up while there is time. */
    assert_false(precopy_may_finish(&p, 10000, HIDDEN, &round));
    assert_true(precopy_may_finish(&p, 10000, 400000, &round));
}

static void test_only_what_was_tried_is_believed(void **state)
{
    struct hv_save_params params = params_of(300, 0, HV_SLOW_ABORT);
    struct precopy p;

    (void)state;
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 1000000, 100).action, PRECOPY_GO_ON); /* round 0 is no rehearsal */
    assert_int_equal(feed(&p, 1001000, 201).action, PRECOPY_GO_ON); /* 100 were tried */
    assert_int_equal(feed(&p, 1002000, 300).action, PRECOPY_STOP);
    precopy_init(&p, &params, 131072);
    assert_int_equal(feed(&p, 1000000, 0).action, PRECOPY_STOP); /* nothing is left */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stops_at_the_aim),
        cmocka_unit_test(test_stops_when_rounds_do_not_help),
        cmocka_unit_test(test_backlog_and_fixed_cost_count),
        cmocka_unit_test(test_impossible_contracts_are_not_begun),
        cmocka_unit_test(test_words_name_the_smallest_change),
        cmocka_unit_test(test_may_finish),
        cmocka_unit_test(test_unknown_rate_is_a_slow_link),
        cmocka_unit_test(test_no_progress),
        cmocka_unit_test(test_hopeless_contracts_are_not_rehearsed_for_ever),
        cmocka_unit_test(test_contracts_within_reach_are_tried),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_throttle_goes_down_then_gives_up),
        cmocka_unit_test(test_throttle_that_helps),
        cmocka_unit_test(test_any_input_ends_and_keeps_the_contract),
        cmocka_unit_test(test_settling),
        cmocka_unit_test(test_costs),
        cmocka_unit_test(test_forecast),
        cmocka_unit_test(test_rates_without_a_probe),
        cmocka_unit_test(test_rates_of_a_probe),
        cmocka_unit_test(test_huge_numbers_do_not_overflow),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_slow_links_keep_the_contract),
        cmocka_unit_test(test_slow_links_converge),
        cmocka_unit_test(test_hidden_bytes_count),
        cmocka_unit_test(test_only_what_was_tried_is_believed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
