/* SPDX-License-Identifier: Apache-2.0
 *
 * What a migration would take, asked before anything moves: the guest's node samples its dirty rate
 * for a second, and probes the link to the other node meanwhile (probe.c). To that it adds what it
 * knows of migrations before: how far this guest's memory shrank on the wire (else what all did),
 * how fast that node took them over (else any node, else a guess: the answer says which), what
 * connecting and switching cost, and for guests that can't move live how long those stood still. A
 * link that can't be measured costs only its figure. Questions go from the node that was asked to
 * the guest's node and back; a lost one is given up after a while.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#include "hamgr/base/assert.h"

#define SAMPLE_MS 1000u
/* A sample and a worker's start on a busy node, or a probe (4000 at most), and two messages. */
#define ANSWER_MS  8000u
#define KEEP_MS    600000u
#define SETUP_US   300000u /* connect, build: until something was measured */
#define SWITCH_US  30000u
#define RATE_GUESS UINT64_C(100000000) /* a gigabit link, where the processors keep up with it */
/* A byte of a migration costs so many times what compressing it does. In the lab an emulated
 * processor compresses 50 to 60 MB/s, and moved a guest that stood still at 9 MB/s. */
#define CODEC_PART  8u
#define SWITCH_WAYS 4u /* ways there and back from the last page to SWITCH applied */
/* Questions of peers at once: each is a worker at hamgr-hv. Who is not answered asks again. */
#define ASKED_MAX 16u

struct forecast_wait {
    struct forecast_wait *next;
    uint64_t id; /* of the question */
    uint64_t due_ms;
    uint64_t request; /* here: the sample at hamgr-hv; 0: asked of another node */
    bool is_still;    /* it would not move live: what it writes does not matter */
    bool is_sampled;  /* what it writes is known: then only the probe is waited for */
    uint64_t dirty_bytes_s;
    uint32_t asker; /* node to be answered; own: done */
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

/* Before anything moved. */
static uint64_t guess_rate(const struct hamgrd *d)
{
    uint64_t codec_bytes_s = d->codec_bytes_s / CODEC_PART;

    return codec_bytes_s && codec_bytes_s < RATE_GUESS ? codec_bytes_s : RATE_GUESS;
}

/* One that is smaller than all before still has their fixed part. */
static uint64_t still_mib(const struct hamgrd *d, uint64_t mem_kib)
{
    uint64_t mib = mem_kib / 1024 + 1;

    return mib > d->still_least_mib ? mib : d->still_least_mib;
}

uint32_t forecast_still_ms(const struct hamgrd *d, uint64_t mem_kib, bool *ret_is_guess)
{
    struct precopy_way way = {.guess_bytes_s = guess_rate(d)};
    struct precopy_plan plan;
    const struct precopy_cost *seen = known_rate(d, 0, &way.seen_from);
    uint64_t ms = precopy_cost_high(&d->still_cost, 0) * still_mib(d, mem_kib) / 1000;

    *ret_is_guess = ms == 0 && !seen;
    if (seen)
        way.seen_kib_s = *seen;
    precopy_rates(&way, &plan);
    uint64_t rate_bytes_s = seen ? plan.rate_low_bytes_s : plan.rate_bytes_s;
    if (ms == 0)
        ms = mem_kib * 1024 / (rate_bytes_s / 1000 + 1) + SHELL_STILL_MS;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* The longer of what the source and the guest's own clock saw. */
static void learn_still(struct hamgrd *d, uint64_t mem_kib, const struct ha_moved *moved)
{
    uint64_t us = moved->source_us > moved->guest_us ? moved->source_us : moved->guest_us;
    uint64_t mib = mem_kib / 1024;

    if (us == 0 || mib == 0)
        return;
    precopy_cost_update(&d->still_cost, us / mib);
    if (d->still_least_mib == 0 || mib < d->still_least_mib)
        d->still_least_mib = mib;
}

/* What this guest's memory was on the wire, else what all was; 0: nothing ever moved. */
static uint32_t known_ratio(const struct hamgrd *d, struct ha_uuid guest, bool *ret_is_own)
{
    for (uint32_t i = 0; i < SHELL_RATIOS; i++) {
        *ret_is_own = d->ratios[i].permille && ha_uuid_equal(d->ratios[i].guest, guest);
        if (*ret_is_own)
            return d->ratios[i].permille;
    }
    return (uint32_t)d->ratio.mean_us;
}

void forecast_applied(struct hamgrd *d, const struct ha_applied *applied)
{
    const struct ha_moved *moved = &applied->cmd.u.moved;
    uint32_t i = 0;

    if (applied->is_noop || applied->kind != LOG_KIND_STATE || applied->cmd.type != HA_CMD_MOVED ||
        moved->outcome != HA_MOVED_ARRIVED || moved->raw_bytes == 0 ||
        moved->raw_bytes > UINT64_MAX / 1000)
        return;
    uint64_t permille = moved->raw_bytes * 1000 / (moved->wire_bytes ? moved->wire_bytes : 1);
    permille = permille < 1000000 ? permille : 1000000;
    while (i < SHELL_RATIOS && !ha_uuid_equal(d->ratios[i].guest, applied->cmd.guest))
        i++;
    if (i == SHELL_RATIOS)
        i = d->ratio_count++ % SHELL_RATIOS;
    d->ratios[i] = (struct move_ratio){applied->cmd.guest, (uint32_t)permille};
    precopy_cost_update(&d->ratio, permille);
    const struct ha_guest *guest = ha_state_guest(&d->state, applied->cmd.guest);
    if (guest && things_stands_still(d, guest, moved->src))
        learn_still(d, guest->mem_kib, moved);
}

static void fill_rates(struct hamgrd *d, struct peer_forecast *f, struct precopy_plan *plan)
{
    const struct probe_found *found = probe_found(d, f->dst);
    struct precopy_way way = {.guess_bytes_s = guess_rate(d),
                              .cap_bytes_s = (uint64_t)d->config.rate_mbit * 125000};
    const struct precopy_cost *seen = known_rate(d, f->dst, &way.seen_from);

    if (seen)
        way.seen_kib_s = *seen;
    way.ratio_permille = known_ratio(d, f->guest, &way.is_own_ratio);
    if (found && found->is_ok) {
        way.link_bytes_s = found->rate.bytes_s;
        way.link_low_bytes_s = found->rate.low_bytes_s;
        way.link_high_bytes_s = found->rate.high_bytes_s;
        f->link_bytes_s = found->rate.bytes_s;
        f->link_rtt_us = found->rtt_us;
        plan->fixed_us += SWITCH_WAYS * (d->switch_cost.mean_us ? 0 : found->rtt_us);
    } else {
        snprintf(f->link_text, sizeof(f->link_text), "%s",
                 found ? found->text : "there was no time for it");
    }
    f->rate_from = precopy_rates(&way, plan);
}

/* All of the move is pause, and it may be what forecast_still_ms makes of it. */
static void stand_still(const struct hamgrd *d, uint64_t mem_kib, struct peer_forecast *f)
{
    struct precopy_forecast *p = &f->forecast;
    uint64_t seen_ms = d->still_cost.mean_us * still_mib(d, mem_kib) / 1000;
    bool is_guess;
    uint64_t still_ms = forecast_still_ms(d, mem_kib, &is_guess);

    if (seen_ms > 0) {
        p->time_ms = seen_ms;
        f->rate_from = PRECOPY_FROM_OTHERS;
    } else if (is_guess) {
        f->rate_from = PRECOPY_FROM_GUESS;
    }
    p->time_low_ms = p->time_low_ms < p->time_ms ? p->time_low_ms : p->time_ms;
    p->time_high_ms = p->time_high_ms > p->time_ms ? p->time_high_ms : p->time_ms;
    p->time_high_ms = p->time_high_ms > still_ms ? p->time_high_ms : still_ms;
    p->pause_ms = p->time_ms;
    p->pause_low_ms = p->time_low_ms;
    p->pause_high_ms = p->time_high_ms;
    p->is_converging = f->max_downtime_ms == 0 || p->pause_ms <= f->max_downtime_ms;
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
    if (!is_live)
        stand_still(d, guest->mem_kib, f);
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

/* Where the guest runs: begins the sample, and the probe of the link beside it. */
static void sample(struct hamgrd *d, struct forecast_wait *wait)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, wait->ask.guest);

    bool is_here = guest && guest->node == d->identity.node && guest->phase == HA_PHASE_RUNNING;
    wait->is_still = is_here && !things_can_move_live(d, guest);
    wait->is_sampled = wait->is_still;
    if (is_here && !wait->is_still)
        wait->request = hvlink_sample(d, guest->id, guest->epoch, SAMPLE_MS);
    if (wait->request || wait->is_still)
        probe_want(d, wait->ask.dst);
    else
        wait->due_ms = 0; /* refused with the next tick */
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

static void tell(struct hamgrd *d, struct forecast_wait **place)
{
    struct peer_forecast f = (*place)->ask;

    answer(d, &f, (*place)->dirty_bytes_s);
    finish(d, place, &f);
}

static bool is_complete(const struct hamgrd *d, const struct forecast_wait *wait)
{
    return wait->is_sampled && !probe_is_open(d, wait->ask.dst);
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
    (*place)->request = 0;
    (*place)->is_sampled = true;
    (*place)->dirty_bytes_s = done->value * 4096;
    if (is_complete(d, *place))
        tell(d, place);
}

void forecast_tick(struct hamgrd *d)
{
    uint64_t now_ms = shell_now_ms();
    struct forecast_wait **place = &d->forecast_waits;

    while (*place) {
        struct forecast_wait *wait = *place;
        if (is_complete(d, wait) || (wait->is_sampled && now_ms >= wait->due_ms))
            tell(d, place);
        else if (now_ms < wait->due_ms)
            place = &wait->next;
        else if (wait->due_ms == 0)
            refuse(d, place, "its node can't sample it: the guest does not run there now");
        else
            refuse(d, place, "its node did not answer in time");
    }
}
