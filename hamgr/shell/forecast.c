/* SPDX-License-Identifier: Apache-2.0
 *
 * What a migration would take, asked before anything moves: the guest's node samples its dirty rate
 * for a second and adds what it knows of the way there: the rate at which that node took migrations
 * over before (else any node, else a guess; the answer says which), what connecting and switching
 * cost then. Nothing is sent to find out: a probe that fills a link for long enough to see more
 * than its buffers would be felt by everybody on it. Questions go from the node that was asked to
 * the guest's node and back; a lost one is given up after a while.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#include "hamgr/base/assert.h"

#define SAMPLE_MS  1000u
#define ANSWER_MS  8000u /* a sample, a worker's start on a busy node, two messages */
#define KEEP_MS    600000u
#define SETUP_US   300000u /* connect, build: until something was measured */
#define SWITCH_US  30000u
#define RATE_GUESS UINT64_C(100000000) /* a gigabit link */
/* Questions of peers at once: each is a worker at hamgr-hv. Who is not answered asks again. */
#define ASKED_MAX 16u

struct forecast_wait {
    struct forecast_wait *next;
    uint64_t id; /* of the question */
    uint64_t due_ms;
    uint64_t request; /* here: the sample at hamgr-hv; 0: asked of another node */
    bool is_still;    /* it would not move live: what it writes does not matter */
    uint32_t asker;   /* node to be answered; own: done */
    struct peer_forecast ask;
    void (*done)(void *user, const struct peer_forecast *answer);
    void *user;
};

/* ---- what was seen before ---- */

static struct move_rate *rate_to(struct hamgrd *d, uint32_t node)
{
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        if (d->move_rates[i].node == node || d->move_rates[i].node == 0) {
            d->move_rates[i].node = node;
            return &d->move_rates[i];
        }
    }
    return &d->move_rates[node % HA_NODES_MAX];
}

void forecast_learn(struct hamgrd *d, uint32_t node, uint64_t bytes, uint64_t us, uint64_t setup_us)
{
    if (us < 1000 || bytes < 1000000)
        return; /* too short to say anything */
    precopy_cost_update(&rate_to(d, node)->kib_s, bytes * 1000 / 1024 / (us / 1000));
    precopy_cost_update(&d->setup_cost, setup_us);
}

static const struct precopy_cost *known_rate(const struct hamgrd *d, uint32_t node,
                                             uint8_t *ret_from)
{
    const struct precopy_cost *any = NULL;

    *ret_from = PRECOPY_FROM_GUESS;
    for (uint32_t i = 0; i < HA_NODES_MAX && *ret_from != PRECOPY_FROM_LINK; i++) {
        if (d->move_rates[i].kib_s.mean_us == 0)
            continue;
        any = &d->move_rates[i].kib_s;
        *ret_from = d->move_rates[i].node == node ? PRECOPY_FROM_LINK : PRECOPY_FROM_OTHERS;
    }
    return any;
}

uint64_t forecast_rate(const struct hamgrd *d)
{
    uint8_t from;
    const struct precopy_cost *rate = known_rate(d, 0, &from);

    return rate ? rate->mean_us * 1024 : RATE_GUESS;
}

static void fill_rates(const struct hamgrd *d, struct peer_forecast *f, struct precopy_plan *plan)
{
    const struct precopy_cost *rate = known_rate(d, f->dst, &f->rate_from);
    uint64_t cap = (uint64_t)d->config.rate_mbit * 125000;

    /* A guess spans from a poor link to a good one. */
    plan->rate_bytes_s = rate ? rate->mean_us * 1024 : RATE_GUESS;
    uint64_t margin = rate ? 2 * rate->spread_us * 1024 : 0;
    plan->rate_low_bytes_s =
        rate ? (margin < plan->rate_bytes_s / 4 * 3 ? plan->rate_bytes_s - margin
                                                    : plan->rate_bytes_s / 4)
             : RATE_GUESS / 10;
    plan->rate_high_bytes_s = rate ? plan->rate_bytes_s + margin : RATE_GUESS * 10;
    if (cap && !rate) /* compression may make it more */
        plan->rate_bytes_s = cap;
}

static void answer(struct hamgrd *d, struct peer_forecast *f, uint64_t dirty_bytes_s)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, f->guest);
    struct precopy_plan plan = {.memory_bytes = guest ? guest->mem_kib * 1024 : 0,
                                .dirty_bytes_s = dirty_bytes_s,
                                .fixed_us = precopy_cost_high(&d->switch_cost, SWITCH_US),
                                .fixed_low_us =
                                    d->switch_cost.mean_us ? d->switch_cost.mean_us : SWITCH_US / 2,
                                .max_downtime_us = (uint64_t)f->max_downtime_ms * 1000,
                                .setup_us = precopy_cost_high(&d->setup_cost, SETUP_US)};

    fill_rates(d, f, &plan);
    bool is_live = !guest || things_can_move_live(d, guest);
    if (!is_live)
        plan.dirty_bytes_s = 0; /* it stands still: one pass, all of it pause */
    precopy_foresee(&plan, &f->forecast);
    if (!is_live) {
        f->forecast.pause_ms = f->forecast.time_ms;
        f->forecast.pause_low_ms = f->forecast.time_low_ms;
        f->forecast.pause_high_ms = f->forecast.time_high_ms;
    }
    f->is_ok = true;
    f->dirty_bytes_s = dirty_bytes_s;
    f->rate_bytes_s = plan.rate_bytes_s;
    struct kept_forecast *kept = &d->forecasts[d->forecast_count++ % SHELL_FORECASTS];
    *kept = (struct kept_forecast){.guest = f->guest,
                                   .dst = f->dst,
                                   .made_ms = shell_now_ms(),
                                   .time_ms = (uint32_t)f->forecast.time_ms,
                                   .pause_ms = (uint32_t)f->forecast.pause_ms,
                                   .bytes = f->forecast.bytes};
}

const struct kept_forecast *forecast_of(const struct hamgrd *d, struct ha_uuid guest, uint32_t dst)
{
    const struct kept_forecast *newest = NULL;

    for (uint32_t i = 0; i < SHELL_FORECASTS; i++) {
        const struct kept_forecast *f = &d->forecasts[i];
        if (f->made_ms && f->dst == dst && ha_uuid_equal(f->guest, guest) &&
            shell_now_ms() < f->made_ms + KEEP_MS && (!newest || f->made_ms > newest->made_ms))
            newest = f;
    }
    return newest;
}

/* ---- questions ---- */

static void put_forecast(struct ha_writer *w, const void *m)
{
    peer_forecast_encode(w, m);
}

static void finish(struct hamgrd *d, struct forecast_wait **place, const struct peer_forecast *f)
{
    struct forecast_wait *wait = *place;

    *place = wait->next;
    if (wait->done)
        wait->done(wait->user, f);
    else
        peers_send(d, PEER_FORECAST_TELL, wait->asker, put_forecast, f);
    free(wait);
}

static void refuse(struct hamgrd *d, struct forecast_wait **place, const char *why)
{
    struct peer_forecast f = (*place)->ask;

    f.is_ok = false;
    snprintf(f.text, sizeof(f.text), "%s", why);
    finish(d, place, &f);
}

static struct forecast_wait *add(struct hamgrd *d, const struct peer_forecast *ask)
{
    struct forecast_wait *wait = calloc(1, sizeof(*wait));

    ha_assert(wait);
    wait->ask = *ask;
    wait->id = ask->id;
    wait->due_ms = shell_now_ms() + ANSWER_MS;
    wait->next = d->forecast_waits;
    d->forecast_waits = wait;
    shell_tick_soon(d);
    return wait;
}

/* Where the guest runs: begins the sample. */
static void sample(struct hamgrd *d, struct forecast_wait *wait)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, wait->ask.guest);

    bool is_here = guest && guest->node == d->identity.node && guest->phase == HA_PHASE_RUNNING;
    wait->is_still = is_here && !things_can_move_live(d, guest);
    if (is_here && !wait->is_still)
        wait->request = hvlink_sample(d, guest->id, guest->epoch, SAMPLE_MS);
    if (wait->request == 0)
        wait->due_ms = 0; /* refused, or told without a sample, with the next tick */
}

void forecast_begin(struct hamgrd *d, const struct peer_forecast *question,
                    void (*done)(void *user, const struct peer_forecast *answer), void *user)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, question->guest);
    struct peer_forecast ask = *question;

    ask.id = d->nonce ^ ++d->forecast_high;
    struct forecast_wait *wait = add(d, &ask);
    wait->done = done;
    wait->user = user;
    if (guest && guest->node != d->identity.node)
        peers_send(d, PEER_FORECAST_ASK, guest->node, put_forecast, &ask);
    else
        sample(d, wait);
}

void forecast_asked(struct hamgrd *d, uint32_t from, const struct peer_forecast *ask)
{
    uint32_t asked = 0;

    for (const struct forecast_wait *other = d->forecast_waits; other; other = other->next)
        asked += other->done == NULL;
    if (asked >= ASKED_MAX)
        return;
    struct forecast_wait *wait = add(d, ask);

    wait->asker = from;
    sample(d, wait);
}

void forecast_told(struct hamgrd *d, const struct peer_forecast *answer)
{
    struct forecast_wait **place = &d->forecast_waits;

    while (*place && ((*place)->id != answer->id || !(*place)->done))
        place = &(*place)->next;
    if (*place)
        finish(d, place, answer);
}

void forecast_hv_done(struct hamgrd *d, uint64_t request, const struct hvp_done *done)
{
    struct forecast_wait **place = &d->forecast_waits;

    while (*place && (*place)->request != request)
        place = &(*place)->next;
    if (!*place)
        return;
    if (done->outcome != HV_OK) {
        refuse(d, place, done->text);
        return;
    }
    struct peer_forecast f = (*place)->ask;
    answer(d, &f, done->value * 4096);
    finish(d, place, &f);
}

static void tell_still(struct hamgrd *d, struct forecast_wait **place)
{
    struct peer_forecast f = (*place)->ask;

    answer(d, &f, 0);
    finish(d, place, &f);
}

void forecast_tick(struct hamgrd *d)
{
    uint64_t now_ms = shell_now_ms();
    struct forecast_wait **place = &d->forecast_waits;

    while (*place) {
        if (now_ms < (*place)->due_ms)
            place = &(*place)->next;
        else if ((*place)->is_still)
            tell_still(d, place);
        else if ((*place)->due_ms == 0)
            refuse(d, place, "its node can't sample it: the guest does not run there now");
        else
            refuse(d, place, "its node did not answer in time");
    }
}
