/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/precopy.h"

#include <inttypes.h>
#include <stdio.h>

static const uint8_t throttle_percents[] = {100, 80, 60, 40, 20, 10, 5};
_Static_assert(sizeof(throttle_percents) == PRECOPY_THROTTLE_STEPS + 1, "one for each step");

uint32_t precopy_throttle_percent(uint32_t step)
{
    return throttle_percents[step < PRECOPY_THROTTLE_STEPS ? step : PRECOPY_THROTTLE_STEPS];
}

void precopy_init(struct precopy *p, const struct hv_save_params *params, uint64_t total_pages)
{
    *p = (struct precopy){
        .max_downtime_us = (uint64_t)params->max_downtime_ms * 1000,
        .deadline_us = (uint64_t)params->deadline_ms * 1000,
        .on_slow = params->on_slow,
        .best_pages = total_pages,
        .last_pages = total_pages,
        .least_us = UINT64_MAX,
    };
}

/* --- The pause --- */

/* In two parts: bytes * 1e6 would overflow above 18 TB. */
static uint64_t time_us(uint64_t bytes, uint64_t rate)
{
    return bytes / rate * 1000000 + bytes % rate * 1000 / (rate / 1000 + 1);
}

/* The rate to be counted on: a spread that eats it up still leaves a quarter. */
static uint64_t sure_rate(const struct precopy_round *round)
{
    uint64_t rate = round->rate_bytes_s != 0 ? round->rate_bytes_s : PRECOPY_RATE_DEFAULT;
    uint64_t margin = round->spread_bytes_s < rate ? 2 * round->spread_bytes_s : rate;
    uint64_t least = rate / 4 != 0 ? rate / 4 : 1;

    return margin < rate && rate - margin > least ? rate - margin : least;
}

static uint64_t copying_us(const struct precopy_round *round)
{
    return time_us(round->dirty_pages * round->page_bytes + round->backlog_bytes, sure_rate(round));
}

static bool is_within(const struct precopy *p, uint64_t pause_us)
{
    return p->max_downtime_us == 0 || pause_us <= p->max_downtime_us;
}

bool precopy_admits(const struct precopy *p, uint64_t fixed_us)
{
    return p->on_slow == HV_SLOW_PAUSE || is_within(p, fixed_us);
}

bool precopy_may_finish(const struct precopy *p, uint64_t stopped_us, uint64_t left_bytes,
                        const struct precopy_round *round)
{
    uint64_t pause_us = stopped_us + round->fixed_us + time_us(left_bytes, sure_rate(round));

    return p->on_slow == HV_SLOW_PAUSE || is_within(p, pause_us) ||
           !is_within(p, stopped_us + PRECOPY_RESUME_US);
}

/* --- The decision --- */

static struct precopy_decision make(const struct precopy *p, enum precopy_action action,
                                    uint64_t predicted_us, const char *why)
{
    return (struct precopy_decision){action, predicted_us,
                                     precopy_throttle_percent(p->throttle_step), why};
}

static bool is_past(const struct precopy *p, const struct precopy_round *round, uint64_t parts,
                    uint64_t of)
{
    return p->deadline_us != 0 && round->elapsed_us >= p->deadline_us / of * parts;
}

/* The pause would be too long, and no more is to be hoped for. */
static struct precopy_decision throttle(struct precopy *p, uint64_t predicted_us, bool is_late)
{
    const char *why =
        is_late ? "the deadline comes near" : "the guest writes faster than the stream drains";

    if (p->throttle_step == PRECOPY_THROTTLE_STEPS)
        return make(p, PRECOPY_ABORT, predicted_us, "not even slowed down as far as it goes");
    p->throttle_step++;
    p->throttle_rounds = 0;
    return make(p, PRECOPY_THROTTLE, predicted_us, why);
}

/* Round 0 is no rehearsal. One that never has its like at all is believed in the end. */
static bool is_rehearsed(const struct precopy *p, const struct precopy_round *round)
{
    bool is_tried =
        p->rounds > 1 && round->dirty_pages <= round->round_pages * PRECOPY_REHEARSED_TIMES;

    return round->dirty_pages == 0 || is_tried || p->rounds >= PRECOPY_ROUNDS_MAX;
}

/* No number of rounds brings the pause within the contract, and the next one hardly shortens it. */
static bool is_hopeless(const struct precopy *p, const struct precopy_round *round)
{
    uint64_t small_us = round->fixed_us / PRECOPY_HOPELESS_PART;

    return !is_within(p, round->fixed_us) && is_rehearsed(p, round) &&
           (copying_us(round) <= small_us || p->flat_rounds >= PRECOPY_FLAT_ROUNDS);
}

static struct precopy_decision slow(struct precopy *p, const struct precopy_round *round,
                                    uint64_t predicted_us)
{
    bool is_late = is_past(p, round, 1, 1);
    bool is_stuck =
        is_late || p->stale_rounds >= PRECOPY_STALE_ROUNDS || p->rounds >= PRECOPY_ROUNDS_MAX;
    const char *why = is_late ? "the deadline is past" : "rounds do not shrink the dirty set";

    if (p->on_slow == HV_SLOW_PAUSE && is_hopeless(p, round))
        return make(p, PRECOPY_STOP, predicted_us, "the switch alone takes longer than allowed");
    if (p->on_slow == HV_SLOW_THROTTLE) {
        if (is_late)
            return make(p, PRECOPY_ABORT, predicted_us, why);
        bool is_half_past = is_past(p, round, 1, 2);
        if (is_stuck || is_half_past || p->throttle_rounds >= PRECOPY_THROTTLE_ROUNDS)
            return throttle(p, predicted_us, is_half_past);
    } else if (is_stuck) {
        enum precopy_action end = p->on_slow == HV_SLOW_PAUSE ? PRECOPY_STOP : PRECOPY_ABORT;
        return make(p, end, predicted_us, why);
    }
    return make(p, PRECOPY_GO_ON, predicted_us, "one more round");
}

static void take_round(struct precopy *p, const struct precopy_round *round, uint64_t predicted_us)
{
    bool is_better = round->dirty_pages < p->best_pages - p->best_pages / 10;
    bool is_flat = round->dirty_pages >= p->last_pages - p->last_pages / 4;

    if (p->rounds < UINT32_MAX)
        p->rounds++;
    p->stale_rounds = is_better ? 0 : p->stale_rounds + 1;
    p->throttle_rounds = is_better ? 0 : p->throttle_rounds + 1;
    p->flat_rounds = is_flat ? p->flat_rounds + 1 : 0;
    p->last_pages = round->dirty_pages;
    if (is_better)
        p->best_pages = round->dirty_pages;
    if (predicted_us < p->least_us)
        p->least_us = predicted_us;
}

struct precopy_decision precopy_decide(struct precopy *p, const struct precopy_round *round)
{
    uint64_t copy_us = copying_us(round);
    uint64_t predicted_us = round->fixed_us + copy_us;

    take_round(p, round, predicted_us);
    bool is_enough = p->flat_rounds >= PRECOPY_FLAT_ROUNDS || p->rounds >= PRECOPY_ROUNDS_MAX ||
                     is_past(p, round, 3, 4);
    if (!is_within(p, predicted_us))
        return slow(p, round, predicted_us);
    if (!is_rehearsed(p, round))
        return make(p, PRECOPY_GO_ON, predicted_us, "more pages than were tried");
    if (copy_us <= PRECOPY_AIM_US)
        return make(p, PRECOPY_STOP, predicted_us, "nothing to gain by more rounds");
    if (is_enough)
        return make(p, PRECOPY_STOP, predicted_us, "the downtime target is met");
    return make(p, PRECOPY_GO_ON, predicted_us, "the dirty set still shrinks");
}

/* --- Words --- */

/* What to ask for instead: a tenth more than the best that was predicted, in steps of 10 ms. */
static uint64_t enough_ms(const struct precopy *p, uint64_t predicted_us)
{
    uint64_t us = p->least_us < predicted_us ? p->least_us : predicted_us;

    return (us / 1000 + us / 10000 + 10) / 10 * 10;
}

void precopy_explain(const struct precopy *p, const struct precopy_round *round, char *ret_text,
                     size_t size)
{
    uint64_t pause_us = round->fixed_us + copying_us(round);
    uint64_t rate = round->rate_bytes_s != 0 ? round->rate_bytes_s : PRECOPY_RATE_DEFAULT;

    if (round->dirty_pages == 0 && !is_within(p, round->fixed_us)) {
        snprintf(ret_text, size,
                 "the switch alone takes %" PRIu64 " ms, %" PRIu64
                 " ms are allowed; --max-downtime %" PRIu64 "ms would do",
                 round->fixed_us / 1000, p->max_downtime_us / 1000, enough_ms(p, pause_us));
        return;
    }
    snprintf(ret_text, size,
             "the pause would be %" PRIu64 " ms, %" PRIu64 " ms are allowed (writes %" PRIu64
             " MB/s, drains %" PRIu64 "); --max-downtime %" PRIu64 "ms would do",
             pause_us / 1000, p->max_downtime_us / 1000, round->dirty_bytes_s / 1000000,
             rate / 1000000, enough_ms(p, pause_us));
}

/* --- Measuring --- */

uint64_t precopy_settle_us(uint64_t rate_bytes_s, uint64_t round_bytes)
{
    uint64_t rate = rate_bytes_s != 0 ? rate_bytes_s : PRECOPY_RATE_DEFAULT;
    uint64_t us = time_us(round_bytes < PRECOPY_HIDDEN ? round_bytes : PRECOPY_HIDDEN, rate);

    return us < PRECOPY_SETTLE_MAX_US ? us : PRECOPY_SETTLE_MAX_US;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

void precopy_rate_round(struct precopy_rate *r, uint64_t bytes, uint64_t us)
{
    if (bytes == 0 || us == 0)
        return;
    uint64_t rate = bytes / us * 1000000 + bytes % us * 1000000 / us;
    uint64_t off = distance(r->rate_bytes_s, rate);

    if (r->rounds < 2) {
        r->rounds++;
        r->rate_bytes_s = rate;
        return;
    }
    r->spread_bytes_s = r->spread_bytes_s - r->spread_bytes_s / 4 + off / 4;
    r->rate_bytes_s = r->rate_bytes_s / 2 + rate / 2;
}

void precopy_cost_update(struct precopy_cost *c, uint64_t us)
{
    if (c->mean_us == 0) {
        c->mean_us = us != 0 ? us : 1;
        c->spread_us = us / 4;
        return;
    }
    uint64_t off = distance(c->mean_us, us);
    c->spread_us = c->spread_us - c->spread_us / 4 + off / 4;
    c->mean_us = c->mean_us - c->mean_us / 4 + us / 4;
}

void precopy_cost_fade(struct precopy_cost *c, uint64_t default_us)
{
    c->spread_us -= (c->spread_us + 3) / 4;
    if (c->mean_us > default_us)
        c->mean_us -= (c->mean_us - default_us + 3) / 4;
}

uint64_t precopy_cost_high(const struct precopy_cost *c, uint64_t default_us)
{
    return c->mean_us != 0 ? c->mean_us + 2 * c->spread_us : default_us;
}

/* --- Before it begins --- */

struct course {
    bool is_converging;
    uint64_t us;
    uint64_t pause_us;
    uint64_t bytes;
    uint32_t rounds;
};

#define LONG_US UINT64_C(1000000000000) /* eleven days: every page was written meanwhile */

static uint64_t written_in(const struct precopy_plan *plan, uint64_t us)
{
    uint64_t bytes = us < LONG_US ? plan->dirty_bytes_s / 1000 * (us / 1000 + 1) : UINT64_MAX;

    return bytes < plan->memory_bytes ? bytes : plan->memory_bytes;
}

/* Round after round at one rate: each sends what the guest wrote during the one before. */
static struct course run_through(const struct precopy_plan *plan, uint64_t rate, uint64_t fixed_us)
{
    struct course c = {.us = plan->setup_us};
    uint64_t left = plan->memory_bytes, copy_us;

    for (;;) {
        copy_us = time_us(left, rate);
        c.us += copy_us;
        c.bytes += left;
        uint64_t next = written_in(plan, copy_us);
        bool is_flat = next >= left - left / 4;
        left = next;
        c.rounds++;
        if (time_us(left, rate) <= PRECOPY_AIM_US || is_flat || c.rounds >= PRECOPY_ROUNDS_MAX)
            break;
    }
    copy_us = time_us(left, rate);
    c.pause_us = fixed_us + copy_us;
    c.us += c.pause_us;
    c.bytes += left;
    c.is_converging = plan->max_downtime_us == 0 || c.pause_us <= plan->max_downtime_us;
    return c;
}

void precopy_foresee(const struct precopy_plan *plan, struct precopy_forecast *ret_forecast)
{
    struct precopy_plan p = *plan;

    if (p.rate_bytes_s == 0)
        p.rate_bytes_s = PRECOPY_RATE_DEFAULT;
    if (p.rate_low_bytes_s == 0 || p.rate_low_bytes_s > p.rate_bytes_s)
        p.rate_low_bytes_s = p.rate_bytes_s;
    if (p.rate_high_bytes_s < p.rate_bytes_s)
        p.rate_high_bytes_s = p.rate_bytes_s;
    struct course c = run_through(&p, p.rate_bytes_s, (p.fixed_us + p.fixed_low_us) / 2);
    struct course slow = run_through(&p, p.rate_low_bytes_s, p.fixed_us);
    struct course fast = run_through(&p, p.rate_high_bytes_s, p.fixed_low_us);
    *ret_forecast = (struct precopy_forecast){
        .is_converging = c.is_converging,
        .time_ms = c.us / 1000,
        .time_low_ms = fast.us / 1000,
        .time_high_ms = slow.us / 1000,
        .pause_ms = c.pause_us / 1000,
        .pause_low_ms = fast.pause_us / 1000,
        .pause_high_ms = slow.pause_us / 1000,
        .bytes = c.bytes,
        .bytes_low = fast.bytes < c.bytes ? fast.bytes : c.bytes,
        .bytes_high = slow.bytes > c.bytes ? slow.bytes : c.bytes,
        .rounds = c.rounds,
    };
}

/* --- The rate before a migration --- */

/* Of memory nobody knows: some of it is zeros, and most of it shrinks. */
#define RATIO_UNKNOWN_HIGH 4000u
#define RATIO_LEAST        900u
#define RATIO_MOST         1000000u
/* Other guests' memory, or this one's by now, in percent of the ratio that was. */
#define RATIO_LOW_PERCENT  75u
#define RATIO_HIGH_PERCENT 150u

static uint64_t times_permille(uint64_t bytes_s, uint64_t permille)
{
    return bytes_s / 1000 * permille + bytes_s % 1000 * permille / 1000;
}

/* From migrations before; nothing at all spans from a poor link to a good one. */
static uint8_t seen_rates(const struct precopy_way *way, struct precopy_plan *plan)
{
    uint64_t rate = way->seen_kib_s.mean_us * 1024;
    uint64_t margin = 2 * way->seen_kib_s.spread_us * 1024;

    if (rate == 0) {
        uint64_t guess = way->guess_bytes_s ? way->guess_bytes_s : PRECOPY_RATE_DEFAULT;
        plan->rate_bytes_s = way->cap_bytes_s ? way->cap_bytes_s : guess;
        plan->rate_low_bytes_s = guess / 10;
        plan->rate_high_bytes_s = guess * 10;
        return PRECOPY_FROM_GUESS;
    }
    plan->rate_bytes_s = rate;
    plan->rate_low_bytes_s = margin < rate / 4 * 3 ? rate - margin : rate / 4;
    plan->rate_high_bytes_s = rate + margin;
    return way->seen_from;
}

static uint32_t bounded_ratio(uint32_t permille)
{
    if (permille == 0)
        return 1000;
    if (permille < RATIO_LEAST)
        return RATIO_LEAST;
    return permille < RATIO_MOST ? permille : RATIO_MOST;
}

/* What the wire takes, times what a byte on it stands for. */
static void link_rates(const struct precopy_way *way, struct precopy_plan *plan)
{
    uint32_t ratio = bounded_ratio(way->ratio_permille);
    uint64_t low = (uint64_t)ratio * RATIO_LOW_PERCENT / 100;
    uint64_t high = (uint64_t)ratio * RATIO_HIGH_PERCENT / 100;

    if (!way->is_own_ratio || low < RATIO_LEAST)
        low = ratio < 1000 ? ratio : 1000;
    if (!way->is_own_ratio && high < RATIO_UNKNOWN_HIGH)
        high = RATIO_UNKNOWN_HIGH;
    plan->rate_bytes_s = times_permille(way->link_bytes_s, ratio);
    plan->rate_low_bytes_s = times_permille(way->link_low_bytes_s, low);
    plan->rate_high_bytes_s = times_permille(way->link_high_bytes_s, high);
}

uint8_t precopy_rates(const struct precopy_way *way, struct precopy_plan *plan)
{
    struct precopy_plan seen = {0};
    uint8_t from = seen_rates(way, &seen);

    if (way->link_bytes_s == 0) {
        plan->rate_bytes_s = seen.rate_bytes_s;
        plan->rate_low_bytes_s = seen.rate_low_bytes_s;
        plan->rate_high_bytes_s = seen.rate_high_bytes_s;
        return from;
    }
    link_rates(way, plan);
    if (from != PRECOPY_FROM_LINK || seen.rate_bytes_s >= plan->rate_bytes_s)
        return PRECOPY_FROM_PROBE;
    plan->rate_bytes_s = seen.rate_bytes_s;
    if (seen.rate_low_bytes_s < plan->rate_low_bytes_s)
        plan->rate_low_bytes_s = seen.rate_low_bytes_s;
    return PRECOPY_FROM_LINK;
}
