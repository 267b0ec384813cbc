/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/helper/pace.h"

#include <string.h>

#define PAGE_BYTES  4104u /* of the stream: content and entry */
#define PAGE_KIB    4u
#define TELL_GAP_US 100000u

void pace_init(struct pace *p, const struct pace_ops *ops, void *user,
               const struct hv_save_params *params, uint64_t pages)
{
    memset(p, 0, sizeof(*p));
    p->ops = ops;
    p->user = user;
    p->params = *params;
    p->begin_us = ops->now_us(user);
    p->now.pages_total = pages;
    p->now.throttle_percent = 100;
    p->now.phase = params->is_live ? HV_LIVE : HV_STOPPED;
    precopy_init(&p->precopy, params, pages);
}

static void tell(struct pace *p)
{
    uint64_t pages;

    p->ops->sent(p->user, &p->now.bytes, &pages);
    p->now.pages_sent = pages - p->round_pages;
    p->ops->tell(p->user, &p->now);
}

void pace_moved(struct pace *p)
{
    uint64_t now_us = p->ops->now_us(p->user);

    if (now_us < p->told_us + TELL_GAP_US)
        return;
    p->told_us = now_us;
    tell(p);
}

/* ---- a round ---- */

static uint64_t fixed_us(const struct pace *p)
{
    return PACE_SWITCH_US + p->take_cost_us + p->params.switch_us;
}

static struct precopy_round round_now(struct pace *p, uint64_t dirty)
{
    bool is_told;

    return (struct precopy_round){
        .elapsed_us = p->ops->now_us(p->user) - p->begin_us,
        .dirty_pages = dirty,
        .page_bytes = PAGE_BYTES,
        .round_pages = p->now.pages_sent,
        .backlog_bytes = p->ops->backlog(p->user, &is_told),
        .rate_bytes_s = p->rate.rate_bytes_s,
        .spread_bytes_s = p->rate.spread_bytes_s,
        .dirty_bytes_s = (uint64_t)p->now.dirty_kib_s * 1024,
        .fixed_us = fixed_us(p),
    };
}

static enum pace_answer give_up(struct pace *p, uint64_t dirty)
{
    struct precopy_round round = round_now(p, dirty);
    char text[HA_TEXT_MAX];

    precopy_explain(&p->precopy, &round, text, sizeof(text));
    ha_err_set(&p->err, HA_E_TIMEOUT, "%s", text);
    return PACE_ABORT;
}

static void begin_round(struct pace *p)
{
    p->round_us = p->ops->now_us(p->user);
    p->ops->sent(p->user, &p->round_bytes, &p->round_pages);
}

static uint64_t settled_by_us(const struct pace *p, bool is_told, uint64_t now_us)
{
    uint64_t deadline_us = (uint64_t)p->params.deadline_ms * 1000;

    if (!is_told)
        return now_us + PACE_SETTLE_US;
    return deadline_us != 0 ? p->begin_us + deadline_us : UINT64_MAX;
}

/* Lets the stream take what was written: what is under way when the guest stops is sent in its
 * pause. False: aborted. *ret_us: when it was taken, as far as is known. */
static bool settle(struct pace *p, uint64_t *ret_us)
{
    bool was_told, is_told;
    uint64_t left = p->ops->backlog(p->user, &was_told);
    uint64_t end_us = settled_by_us(p, was_told, p->ops->now_us(p->user));

    is_told = was_told;
    while (left > 0 && is_told == was_told && p->ops->now_us(p->user) < end_us) {
        if (!p->ops->rest(p->user, PACE_STEP_US))
            return false;
        pace_moved(p);
        left = p->ops->backlog(p->user, &is_told);
    }
    *ret_us = p->ops->now_us(p->user);
    /* Whose stream does not tell waits for what no pipe shows, too. */
    return is_told || p->ops->rest(p->user, precopy_settle_us(p->rate.rate_bytes_s,
                                                              p->now.bytes - p->round_bytes));
}

static int count(struct pace *p, uint64_t *ret_dirty)
{
    uint64_t counted = 0;
    int rc = p->ops->count_dirty(p->user, &counted);
    uint64_t now_us = p->ops->now_us(p->user);

    if (rc != 0)
        return ha_err_set(&p->err, rc, "the hypervisor does not count dirty pages: %s",
                          strerror(-rc));
    *ret_dirty = counted > p->counter_before ? counted - p->counter_before : 0;
    p->now.pages_dirty = *ret_dirty;
    if (now_us > p->taken_us)
        p->now.dirty_kib_s = (uint32_t)(*ret_dirty * PAGE_KIB * 1000000 / (now_us - p->taken_us));
    return 0;
}

/* ---- the answers ---- */

static enum pace_answer begin(struct pace *p)
{
    uint64_t counted = 0;

    if (!precopy_admits(&p->precopy, fixed_us(p)))
        return give_up(p, 0);
    if (p->ops->count_dirty(p->user, &counted) == 0)
        p->counter_before = counted;
    p->taken_us = p->ops->now_us(p->user);
    begin_round(p);
    tell(p);
    return PACE_GO_ON;
}

/* The bitmap was taken. */
static enum pace_answer next_round(struct pace *p)
{
    p->taken_us = p->ops->now_us(p->user);
    p->take_cost_us = p->taken_us - p->asked_us;
    p->counter_before = 0;
    p->now.round++;
    begin_round(p);
    tell(p);
    return PACE_GO_ON;
}

static enum pace_answer decide(struct pace *p, uint64_t dirty)
{
    struct precopy_round round = round_now(p, dirty);
    struct precopy_decision d = precopy_decide(&p->precopy, &round);

    p->now.predicted_us = d.predicted_us < UINT32_MAX ? (uint32_t)d.predicted_us : UINT32_MAX;
    p->now.throttle_percent = (uint8_t)d.throttle_percent;
    tell(p);
    p->asked_us = p->ops->now_us(p->user);
    if (d.action == PRECOPY_ABORT)
        return give_up(p, dirty);
    return d.action == PRECOPY_STOP ? PACE_STOP : PACE_GO_ON;
}

static enum pace_answer end_round(struct pace *p)
{
    uint64_t dirty = 0, taken_us = 0, bytes, pages, left;
    bool is_told;

    tell(p);
    if (!settle(p, &taken_us)) {
        ha_err_set(&p->err, HA_E_CANCELLED, "aborted");
        return PACE_ABORT;
    }
    p->ops->sent(p->user, &bytes, &pages);
    left = p->ops->backlog(p->user, &is_told);
    uint64_t sent = bytes - p->round_bytes;
    precopy_rate_round(&p->rate, sent > left ? sent - left : 0, taken_us - p->round_us);
    return count(p, &dirty) == 0 ? decide(p, dirty) : PACE_ABORT;
}

enum pace_answer pace_ask(struct pace *p, bool is_sent)
{
    if (is_sent)
        return end_round(p);
    return p->asked_us == 0 ? begin(p) : next_round(p);
}

/* ---- behind the stop ---- */

/* A guest that was slowed down needs its processors to stand still in order. */
void pace_stopping(struct pace *p)
{
    p->stopped_us = p->ops->now_us(p->user);
    p->now.throttle_percent = 100;
    tell(p);
}

void pace_stopped(struct pace *p)
{
    uint64_t dirty = 0, pages;

    if (p->params.is_live && count(p, &dirty) == 0)
        p->left_bytes = dirty * PAGE_BYTES;
    p->ops->sent(p->user, &p->last_bytes, &pages);
    begin_round(p);
    p->now.phase = HV_STOPPED;
    tell(p);
}

int pace_check(struct pace *p)
{
    uint64_t bytes, pages;

    if (p->stopped_us == 0 || !p->params.is_live)
        return 0;
    p->ops->sent(p->user, &bytes, &pages);
    struct precopy_round round = round_now(p, 0);
    uint64_t written = bytes - p->last_bytes;
    uint64_t left = (p->left_bytes > written ? p->left_bytes - written : 0) + round.backlog_bytes;
    uint64_t since_us = p->ops->now_us(p->user) - p->stopped_us;
    round.fixed_us = p->params.switch_us;
    if (precopy_may_finish(&p->precopy, since_us, left, &round))
        return 0;
    return ha_err_set(&p->err, HA_E_TIMEOUT,
                      "stopped for %llu ms, %llu KiB are left: longer than the %u ms allowed",
                      (unsigned long long)(since_us / 1000), (unsigned long long)(left >> 10),
                      p->params.max_downtime_ms);
}
