/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/precopy.h"

void precopy_init(struct precopy *p, const struct hv_save_params *params, uint64_t total_pages)
{
    *p = (struct precopy){
        .max_downtime_us = (uint64_t)params->max_downtime_ms * 1000,
        .deadline_us = (uint64_t)params->deadline_ms * 1000,
        .on_slow = params->on_slow,
        .throttle_percent = 100,
        .best_pages = total_pages,
        .last_pages = total_pages,
    };
    if (p->max_downtime_us == 0)
        p->max_downtime_us = PRECOPY_AIM_US;
}

static uint64_t predict_us(const struct precopy_round *round)
{
    uint64_t rate = round->rate_bytes_s != 0 ? round->rate_bytes_s : PRECOPY_RATE_DEFAULT;
    uint64_t bytes = round->dirty_pages * round->page_bytes + round->backlog_bytes;

    /* In two parts: bytes * 1e6 would overflow above 18 TB. */
    return round->fixed_us + bytes / rate * 1000000 + bytes % rate * 1000 / (rate / 1000 + 1);
}

static uint32_t next_throttle(uint32_t percent)
{
    return percent > 20 ? percent - 20 : PRECOPY_THROTTLE_FLOOR;
}

static struct precopy_decision slow(struct precopy *p, uint64_t predicted_us, bool is_late)
{
    struct precopy_decision d = {PRECOPY_GO_ON, predicted_us, p->throttle_percent,
                                 "one more round"};
    bool is_stuck = is_late || p->stale_rounds >= PRECOPY_STALE_ROUNDS;

    if (p->on_slow == HV_SLOW_THROTTLE && p->throttle_percent > PRECOPY_THROTTLE_FLOOR) {
        if (!is_late && p->throttle_rounds < PRECOPY_THROTTLE_ROUNDS)
            return d;
        p->throttle_percent = next_throttle(p->throttle_percent);
        p->throttle_rounds = 0;
        d.action = PRECOPY_THROTTLE;
        d.throttle_percent = p->throttle_percent;
        d.why =
            is_late ? "the deadline is past" : "the guest dirties faster than the stream drains";
        return d;
    }
    if (!is_stuck &&
        !(p->on_slow == HV_SLOW_THROTTLE && p->throttle_rounds >= PRECOPY_THROTTLE_ROUNDS))
        return d;
    d.action = p->on_slow == HV_SLOW_ABORT ? PRECOPY_ABORT : PRECOPY_STOP;
    d.why = is_late ? "the deadline is past" : "rounds do not shrink the dirty set";
    return d;
}

struct precopy_decision precopy_decide(struct precopy *p, const struct precopy_round *round)
{
    uint64_t predicted_us = predict_us(round);
    uint64_t aim_us = p->max_downtime_us < PRECOPY_AIM_US ? p->max_downtime_us : PRECOPY_AIM_US;
    bool is_late = p->deadline_us != 0 && round->elapsed_us >= p->deadline_us;
    bool is_shrinking = round->dirty_pages < p->last_pages - p->last_pages / 4;
    bool is_better = round->dirty_pages < p->best_pages - p->best_pages / 10;

    p->last_pages = round->dirty_pages;
    p->stale_rounds = is_better ? 0 : p->stale_rounds + 1;
    p->throttle_rounds = is_better ? 0 : p->throttle_rounds + 1;
    if (is_better)
        p->best_pages = round->dirty_pages;
    if (predicted_us <= aim_us)
        return (struct precopy_decision){PRECOPY_STOP, predicted_us, p->throttle_percent,
                                         "nothing to gain by more rounds"};
    if (predicted_us <= p->max_downtime_us && (!is_shrinking || is_late))
        return (struct precopy_decision){PRECOPY_STOP, predicted_us, p->throttle_percent,
                                         "the downtime target is met"};
    if (predicted_us <= p->max_downtime_us)
        return (struct precopy_decision){PRECOPY_GO_ON, predicted_us, p->throttle_percent,
                                         "the dirty set still shrinks"};
    return slow(p, predicted_us, is_late);
}

void precopy_rate_update(struct precopy_rate *r, uint64_t written, uint64_t backlog,
                         uint64_t now_us, bool is_idle)
{
    uint64_t drained = written > backlog ? written - backlog : 0;
    uint64_t bytes = drained > r->drained_mark ? drained - r->drained_mark : 0;
    uint64_t us = now_us > r->time_mark_us ? now_us - r->time_mark_us : 0;

    if (r->time_mark_us == 0 || is_idle || (r->rate_bytes_s == 0 && drained < PRECOPY_BUFFER)) {
        r->drained_mark = drained;
        r->time_mark_us = now_us;
        return;
    }
    if (bytes < PRECOPY_INTERVAL || us == 0)
        return;
    uint64_t rate = bytes / us * 1000000 + bytes % us * 1000000 / us;
    r->rate_bytes_s = r->rate_bytes_s == 0 ? rate : (r->rate_bytes_s + rate) / 2;
    r->drained_mark = drained;
    r->time_mark_us = now_us;
}
