/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine of one migration end: steps as a table, timeouts, and the arithmetic of rate and
 * remaining time. The diagram is in move_fsm.h.
 */
#include "migrate/move_fsm.h"

#include <string.h>

#include "hamgr/base/sm.h"

#define PAGE_KIB 4u

static const struct ha_sm_state steps[] = {
    [0] = {.name = "none"},
    [HA_MOVE_PREPARING] = {.name = "preparing",
                           .allowed = HA_SM_TO(HA_MOVE_COPYING) | HA_SM_TO(HA_MOVE_FINISHING) |
                                      HA_SM_TO(HA_MOVE_FAILED)},
    [HA_MOVE_COPYING] = {.name = "copying",
                         .allowed = HA_SM_TO(HA_MOVE_STOPPED) | HA_SM_TO(HA_MOVE_FINISHING) |
                                    HA_SM_TO(HA_MOVE_FAILED)},
    [HA_MOVE_STOPPED] = {.name = "stopped",
                         .allowed = HA_SM_TO(HA_MOVE_DECIDING) | HA_SM_TO(HA_MOVE_FINISHING) |
                                    HA_SM_TO(HA_MOVE_FAILED)},
    [HA_MOVE_DECIDING] = {.name = "deciding", .allowed = HA_SM_TO(HA_MOVE_FINISHING)},
    [HA_MOVE_FINISHING] = {.name = "finishing", .is_final = true},
    [HA_MOVE_FAILED] = {.name = "failed", .is_final = true},
};

const char *move_step_name(uint8_t step)
{
    return step < sizeof(steps) / sizeof(steps[0]) ? steps[step].name : "?";
}

static void enter(struct move_fsm *fsm, uint8_t step, uint64_t now_ms)
{
    ha_sm_move(steps, &fsm->step, step);
    fsm->step_ms = now_ms;
    /* Invariant: a guest is handed over only by an end that is complete. */
    ha_assert(step != HA_MOVE_DECIDING || (fsm->is_hv_done && fsm->is_handover));
}

static bool is_over(const struct move_fsm *fsm)
{
    return steps[fsm->step].is_final;
}

void move_fsm_init(struct move_fsm *fsm, bool is_source, uint32_t idle_ms, uint32_t deadline_ms,
                   uint64_t now_ms)
{
    memset(fsm, 0, sizeof(*fsm));
    fsm->is_source = is_source;
    fsm->step = HA_MOVE_PREPARING;
    fsm->idle_ms = idle_ms ? idle_ms : MOVE_IDLE_MS;
    fsm->deadline_ms = deadline_ms;
    fsm->start_ms = now_ms;
    fsm->step_ms = now_ms;
    fsm->moved_ms = now_ms;
}

/* --- Events --- */

static void take_eta(struct move_fsm *fsm, uint64_t now_ms);

void move_fsm_connected(struct move_fsm *fsm, uint64_t now_ms)
{
    fsm->is_connected = true;
    fsm->moved_ms = now_ms;
    if (fsm->step == HA_MOVE_PREPARING)
        enter(fsm, HA_MOVE_COPYING, now_ms);
}

/* Whatever says so first: the save's progress, its end, or the stream's end. */
static void stop(struct move_fsm *fsm, uint64_t now_ms)
{
    if (fsm->step == HA_MOVE_PREPARING)
        enter(fsm, HA_MOVE_COPYING, now_ms);
    if (fsm->step == HA_MOVE_COPYING)
        enter(fsm, HA_MOVE_STOPPED, now_ms);
}

static void decide_if_complete(struct move_fsm *fsm, uint64_t now_ms)
{
    if (!fsm->is_hv_done || !fsm->is_handover || is_over(fsm) || fsm->step == HA_MOVE_DECIDING)
        return;
    stop(fsm, now_ms);
    enter(fsm, HA_MOVE_DECIDING, now_ms);
    fsm->end_ms = now_ms;
}

static void add_sample(struct move_fsm *fsm, uint64_t now_ms)
{
    uint32_t count = fsm->sample_count;

    if (count > 0 && now_ms < fsm->samples[count - 1].at_ms + MOVE_SAMPLE_MS)
        return;
    if (count == MOVE_SAMPLES) {
        memmove(&fsm->samples[0], &fsm->samples[1], (MOVE_SAMPLES - 1) * sizeof(fsm->samples[0]));
        count--;
    }
    fsm->samples[count].at_ms = now_ms;
    fsm->samples[count].bytes = fsm->bytes;
    fsm->sample_count = count + 1;
}

/* Both counters, the hypervisor's and the stream's, name the same bytes: the larger is newer. */
static void take_bytes(struct move_fsm *fsm, uint64_t now_ms, uint64_t bytes)
{
    if (fsm->sample_count == 0)
        add_sample(fsm, now_ms);
    if (bytes <= fsm->bytes)
        return;
    fsm->bytes = bytes;
    fsm->moved_ms = now_ms;
    add_sample(fsm, now_ms);
}

void move_fsm_bytes(struct move_fsm *fsm, uint64_t now_ms, uint64_t raw_bytes)
{
    take_bytes(fsm, now_ms, raw_bytes);
    take_eta(fsm, now_ms);
}

void move_fsm_patient(struct move_fsm *fsm, bool is_patient)
{
    fsm->is_patient = is_patient;
}

void move_fsm_hv(struct move_fsm *fsm, uint64_t now_ms, const struct hv_progress *progress)
{
    bool is_new_round = progress->round != fsm->hv.round;

    /* What the last round found dirty is what this one has to send. */
    if (progress->round == 0)
        fsm->round_pages = progress->pages_total;
    else if (is_new_round)
        fsm->round_pages = fsm->hv.pages_dirty;
    if (is_new_round || progress->pages_sent > fsm->hv.pages_sent)
        fsm->moved_ms = now_ms;
    fsm->hv = *progress;
    take_bytes(fsm, now_ms, progress->bytes);
    if (progress->phase >= HV_STOPPED && fsm->step == HA_MOVE_COPYING)
        stop(fsm, now_ms);
    take_eta(fsm, now_ms);
}

void move_fsm_stream_done(struct move_fsm *fsm, uint64_t now_ms)
{
    fsm->is_stream_done = true;
    fsm->moved_ms = now_ms;
    if (fsm->step == HA_MOVE_COPYING)
        stop(fsm, now_ms);
}

void move_fsm_saved(struct move_fsm *fsm, uint64_t now_ms)
{
    ha_assert(fsm->is_source);
    fsm->is_hv_done = true;
    fsm->is_handover = true; /* HV_OK of a save means suspended and drained */
    decide_if_complete(fsm, now_ms);
}

void move_fsm_restored(struct move_fsm *fsm, uint64_t now_ms)
{
    ha_assert(!fsm->is_source);
    fsm->is_hv_done = true;
    fsm->moved_ms = now_ms;
    if (!is_over(fsm))
        stop(fsm, now_ms);
    decide_if_complete(fsm, now_ms);
}

void move_fsm_handover(struct move_fsm *fsm, uint64_t now_ms)
{
    fsm->is_handover = true;
    decide_if_complete(fsm, now_ms);
}

void move_fsm_switched(struct move_fsm *fsm, uint64_t now_ms)
{
    if (is_over(fsm))
        return;
    if (fsm->end_ms == 0)
        fsm->end_ms = now_ms;
    enter(fsm, HA_MOVE_FINISHING, now_ms);
}

bool move_fsm_fail(struct move_fsm *fsm, uint64_t now_ms)
{
    if (ha_sm_allows(steps, fsm->step, HA_MOVE_FAILED)) {
        enter(fsm, HA_MOVE_FAILED, now_ms);
        fsm->end_ms = now_ms;
    }
    return fsm->step == HA_MOVE_FAILED;
}

/* --- Queries --- */

bool move_fsm_is_connected(const struct move_fsm *fsm)
{
    return fsm->is_connected;
}

bool move_fsm_is_stream_done(const struct move_fsm *fsm)
{
    return fsm->is_stream_done;
}

bool move_fsm_is_failed(const struct move_fsm *fsm)
{
    return fsm->step == HA_MOVE_FAILED;
}

/* When the present step is late; UINT64_MAX for steps that only the log ends. */
static uint64_t step_end_ms(const struct move_fsm *fsm)
{
    switch (fsm->step) {
    case HA_MOVE_PREPARING:
        return fsm->step_ms + MOVE_PREPARE_MS;
    case HA_MOVE_COPYING:
        return fsm->moved_ms + (uint64_t)fsm->idle_ms * (fsm->is_patient ? MOVE_PATIENCE : 1);
    case HA_MOVE_STOPPED:
        return (fsm->moved_ms > fsm->step_ms ? fsm->moved_ms : fsm->step_ms) + fsm->idle_ms +
               MOVE_DRAIN_MS;
    default:
        return UINT64_MAX;
    }
}

static uint64_t deadline_end_ms(const struct move_fsm *fsm)
{
    bool is_counting = fsm->step >= HA_MOVE_PREPARING && fsm->step <= HA_MOVE_STOPPED;

    return fsm->deadline_ms && is_counting ? fsm->start_ms + fsm->deadline_ms : UINT64_MAX;
}

const char *move_fsm_late(const struct move_fsm *fsm, uint64_t now_ms)
{
    if (now_ms >= deadline_end_ms(fsm))
        return "the migration passed its deadline";
    if (now_ms < step_end_ms(fsm))
        return NULL;
    switch (fsm->step) {
    case HA_MOVE_PREPARING:
        return "the other end was not reached within 15 s";
    case HA_MOVE_COPYING:
        return "no byte moved for the idle timeout";
    case HA_MOVE_STOPPED:
        return fsm->is_source ? "the suspended guest's last pages or I/O did not end in time"
                              : "the source did not hand the guest over in time";
    default:
        return NULL;
    }
}

bool move_fsm_is_overdue(const struct move_fsm *fsm, uint64_t now_ms)
{
    return now_ms >= deadline_end_ms(fsm);
}

static bool is_log_turn(const struct move_fsm *fsm)
{
    return fsm->step == HA_MOVE_DECIDING || fsm->step == HA_MOVE_FINISHING;
}

const char *move_fsm_waiting(const struct move_fsm *fsm, uint64_t now_ms)
{
    if (!is_log_turn(fsm) || now_ms < fsm->step_ms + MOVE_REPORT_MS)
        return NULL;
    return fsm->step == HA_MOVE_DECIDING
               ? "suspended on both ends until the log has SWITCH or ABORT"
               : "waiting for the destination to say that the guest has arrived";
}

uint64_t move_fsm_deadline_ms(const struct move_fsm *fsm)
{
    uint64_t step_ms = step_end_ms(fsm);
    uint64_t whole_ms = deadline_end_ms(fsm);

    if (is_log_turn(fsm))
        return fsm->step_ms + MOVE_REPORT_MS;
    return step_ms < whole_ms ? step_ms : whole_ms;
}

/* --- Rate and remaining time --- */

/* KiB/s over the window that ends now: what stalled counts as time without bytes. */
static uint64_t rate_kib_s(const struct move_fsm *fsm, uint64_t now_ms)
{
    uint64_t from_ms = now_ms > MOVE_WINDOW_MS ? now_ms - MOVE_WINDOW_MS : 0;
    uint32_t i = 0;

    if (fsm->sample_count == 0)
        return 0;
    /* The last sample at or before the window's begin, else the oldest. */
    while (i + 1 < fsm->sample_count && fsm->samples[i + 1].at_ms <= from_ms)
        i++;
    uint64_t begin_ms = fsm->samples[i].at_ms;
    if (now_ms <= begin_ms)
        return 0;
    return (fsm->bytes - fsm->samples[i].bytes) / 1024 * 1000 / (now_ms - begin_ms);
}

static uint64_t remaining_kib(const struct move_fsm *fsm)
{
    uint64_t left =
        fsm->round_pages > fsm->hv.pages_sent ? fsm->round_pages - fsm->hv.pages_sent : 0;

    if (fsm->hv.phase == HV_COMPLETE || fsm->is_stream_done || fsm->is_hv_done)
        return 0;
    return (left + fsm->hv.pages_dirty) * PAGE_KIB;
}

static uint32_t eta_ms(const struct move_fsm *fsm, uint64_t rate, uint64_t remaining)
{
    /* A suspended guest dirties nothing. */
    uint64_t dirty = fsm->step == HA_MOVE_COPYING ? fsm->hv.dirty_kib_s : 0;

    if (fsm->step != HA_MOVE_COPYING && fsm->step != HA_MOVE_STOPPED)
        return 0;
    if (remaining == 0 || rate <= dirty)
        return 0;
    uint64_t eta = remaining * 1000 / (rate - dirty);
    if (eta == 0)
        return 1;
    return eta > UINT32_MAX ? 0 : (uint32_t)eta;
}

/* The estimate that is shown: eased towards a better one, lifted only when it stays worse. */
static void take_eta(struct move_fsm *fsm, uint64_t now_ms)
{
    uint64_t rate = rate_kib_s(fsm, now_ms);
    uint64_t raw_ms = eta_ms(fsm, rate, remaining_kib(fsm));
    uint64_t end_ms = now_ms + raw_ms;
    bool is_behind = fsm->step == HA_MOVE_COPYING && fsm->hv.round > 0 && rate > 0 &&
                     fsm->hv.dirty_kib_s >= rate;

    if (!is_behind)
        fsm->diverged_ms = 0;
    else if (fsm->diverged_ms == 0)
        fsm->diverged_ms = now_ms;
    if (raw_ms == 0)
        return;
    bool is_worse = fsm->eta_end_ms > now_ms && end_ms > fsm->eta_end_ms + raw_ms / 10;
    if (is_worse && now_ms < fsm->eta_agreed_ms + MOVE_ETA_PATIENCE_MS)
        return;
    if (fsm->eta_end_ms <= now_ms || is_worse)
        fsm->eta_end_ms = end_ms;
    else if (end_ms < fsm->eta_end_ms)
        fsm->eta_end_ms -= (fsm->eta_end_ms - end_ms) / 4;
    fsm->eta_agreed_ms = now_ms;
}

static bool is_diverging(const struct move_fsm *fsm, uint64_t now_ms)
{
    return fsm->diverged_ms != 0 && now_ms >= fsm->diverged_ms + MOVE_ETA_PATIENCE_MS &&
           fsm->step == HA_MOVE_COPYING;
}

static uint32_t shown_eta_ms(const struct move_fsm *fsm, uint64_t now_ms, uint64_t rate,
                             uint64_t remaining)
{
    bool is_moving = fsm->step == HA_MOVE_COPYING || fsm->step == HA_MOVE_STOPPED;

    if (!is_moving || remaining == 0 || rate == 0 || is_diverging(fsm, now_ms))
        return 0;
    if (fsm->eta_end_ms <= now_ms)
        return eta_ms(fsm, rate, remaining);
    return (uint32_t)(fsm->eta_end_ms - now_ms);
}

void move_fsm_progress(const struct move_fsm *fsm, uint64_t now_ms,
                       struct ha_move_progress *ret_progress)
{
    uint64_t until_ms = fsm->end_ms ? fsm->end_ms : now_ms;

    ret_progress->step = fsm->step;
    ret_progress->hv = fsm->hv;
    ret_progress->rate_kib_s = fsm->end_ms ? 0 : rate_kib_s(fsm, now_ms);
    ret_progress->remaining_kib = remaining_kib(fsm);
    ret_progress->eta_ms =
        shown_eta_ms(fsm, now_ms, ret_progress->rate_kib_s, ret_progress->remaining_kib);
    ret_progress->is_diverging = is_diverging(fsm, now_ms);
    ret_progress->elapsed_ms = until_ms > fsm->start_ms ? until_ms - fsm->start_ms : 0;
}

bool move_fsm_is_news(struct move_fsm *fsm, uint64_t now_ms, bool is_step)
{
    bool is_new = is_step || fsm->hv.phase != fsm->news_phase;

    if (!is_new && now_ms < fsm->news_ms + MOVE_NEWS_MS)
        return false;
    fsm->news_ms = now_ms;
    fsm->news_phase = fsm->hv.phase;
    return true;
}

uint32_t move_fsm_repeat_ms(struct move_fsm *fsm)
{
    uint32_t ms = fsm->repeat_ms == 0 ? MOVE_REPEAT_MS : fsm->repeat_ms * 2;

    fsm->repeat_ms = ms < MOVE_REPEAT_MAX_MS ? ms : MOVE_REPEAT_MAX_MS;
    return fsm->repeat_ms;
}
