/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/gate_fsm.h"

#include "hamgr/base/assert.h"
#include "hamgr/base/slept.h"
#include "hamgr/base/sm.h"

static const struct ha_sm_state states[] = {
    [GATE_OPEN] = {"open", HA_SM_TO(GATE_PAUSING), false},
    [GATE_PAUSING] = {"pausing", HA_SM_TO(GATE_OPEN) | HA_SM_TO(GATE_QUARANTINED), false},
    [GATE_QUARANTINED] = {"quarantined", HA_SM_TO(GATE_OPEN) | HA_SM_TO(GATE_PAUSING), false},
};

/* A machine that slept does not know how long its lease has been over: RAW stood still meanwhile.
 * Every lease granted before it woke is void, whatever its end says. So is one of a heartbeat that
 * was sent before and is acknowledged only now: it, too, runs from its sending. */
static void note_sleep(struct gate_fsm *fsm, const struct gate_view *view)
{
    int64_t step_ns = view->slept_ns - fsm->slept_ns;

    if (fsm->has_slept && (step_ns > SLEPT_MIN_NS || step_ns < -SLEPT_MIN_NS)) {
        uint64_t end_ns = view->has_page ? view->lease_end_ns : 0;
        uint64_t last_ns = end_ns > view->now_ns ? end_ns : view->now_ns;
        fsm->void_end_ns = last_ns > fsm->void_end_ns ? last_ns : fsm->void_end_ns;
        fsm->woke_ns = view->now_ns;
        fsm->slept_ns = view->slept_ns;
    }
    if (!fsm->has_slept) {
        fsm->has_slept = true;
        fsm->slept_ns = view->slept_ns;
    }
}

/* Does anybody count on our guests being paused at lease end? */
static bool is_pausing_owed(const struct gate_fsm *fsm, const struct gate_view *view)
{
    if (view->is_disarmed || view->is_frozen)
        return false;
    return view->has_page ? view->is_armed : fsm->was_armed;
}

bool gate_fsm_may_run(struct gate_fsm *fsm, const struct gate_view *view)
{
    note_sleep(fsm, view);
    if (view->has_page)
        fsm->was_armed = view->is_armed;
    if (!is_pausing_owed(fsm, view))
        return true;
    return view->has_page && !view->is_quarantined && view->lease_end_ns > view->now_ns &&
           view->lease_end_ns > fsm->void_end_ns &&
           (fsm->woke_ns == 0 || view->lease_end_ns > fsm->woke_ns + view->lease_ns);
}

static uint64_t open_wake_ns(const struct gate_fsm *fsm, const struct gate_view *view)
{
    uint64_t poll_ns = view->now_ns + GATE_P_NS;

    if (!is_pausing_owed(fsm, view) || view->lease_end_ns > poll_ns)
        return poll_ns;
    return view->lease_end_ns;
}

void gate_fsm_tick(struct gate_fsm *fsm, const struct gate_view *view, struct gate_order *ret_order)
{
    bool may_run = gate_fsm_may_run(fsm, view);

    *ret_order = (struct gate_order){0};
    if (may_run && fsm->state != GATE_OPEN) {
        ha_sm_move(states, &fsm->state, GATE_OPEN);
        ret_order->is_changed = true;
    } else if (!may_run && fsm->state == GATE_OPEN) {
        ha_sm_move(states, &fsm->state, GATE_PAUSING);
        ret_order->is_changed = true;
        fsm->round_ns = view->now_ns;
        fsm->close_count++;
    }
    ret_order->is_round_due = fsm->state != GATE_OPEN && view->now_ns >= fsm->round_ns;
    ret_order->wake_ns = fsm->state == GATE_OPEN ? open_wake_ns(fsm, view) : fsm->round_ns;
}

bool gate_fsm_round(struct gate_fsm *fsm, const struct gate_round *round, uint64_t now_ns,
                    struct gate_order *ret_order)
{
    bool is_proven = round->is_listed && round->not_paused == 0 && round->not_quiet == 0;

    ha_assert(fsm->state != GATE_OPEN);
    ha_assert(round->taken_ns <= now_ns);
    *ret_order = (struct gate_order){0};
    ret_order->is_changed = is_proven != (fsm->state == GATE_QUARANTINED);
    if (ret_order->is_changed)
        ha_sm_move(states, &fsm->state, is_proven ? GATE_QUARANTINED : GATE_PAUSING);
    /* The proof is as old as its listing: the next one is due P after that, not after this. */
    fsm->round_ns = is_proven ? round->taken_ns + GATE_P_NS : now_ns + GATE_RETRY_NS;
    ret_order->wake_ns = fsm->round_ns;
    return is_proven;
}
