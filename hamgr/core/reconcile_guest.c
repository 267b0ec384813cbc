/* SPDX-License-Identifier: Apache-2.0
 *
 * The owner's rules for a guest without an open ticket: start it, keep it running, stop it, and say
 * when it has ended. Each phase is one function with one line per state of the domain.
 */
#include "hamgr/core/reconcile_internal.h"

/* I6: the first run of a guest waits until this incarnation's keeper is in the log. Guests that ran
 * before (RUNNING, paused by quarantine) do not: they are covered by agent and operator alone until
 * ARMED is applied, and leaving them paused would help nobody. */
bool rec_is_guarded(const struct rec *r)
{
    return r->self->is_armed || r->state->is_disarmed || r->self->is_frozen;
}

/* Why a start that left no domain behind has ended; 0 while it has not begun. A create of unknown
 * outcome counts as failed once a fresh listing shows that nothing is there: else it would be tried
 * for ever without counting. */
static uint8_t start_end_cause(const struct ha_local_verb *verb)
{
    if (!verb)
        return 0;
    if (verb->end_cause)
        return verb->end_cause;
    if (verb->has_run && !verb->is_run_failed)
        return HA_END_LOST;
    if (verb->is_create_failed || verb->is_create_unknown || verb->is_run_failed)
        return HA_END_START_FAILED;
    return 0;
}

static void start_missing(struct rec *r, const struct rec_copy *c)
{
    uint8_t cause = start_end_cause(c->verb);

    if (cause)
        rec_propose_not_running(r, c, cause);
    else if (rec_is_listed_since(r, c))
        rec_begin(r, c, HA_DUTY_CREATE);
}

static void start_paused(struct rec *r, const struct rec_copy *c)
{
    if (c->verb && c->verb->is_run_failed)
        rec_destroy(r, c, HA_END_START_FAILED);
    else if (rec_is_guarded(r))
        rec_begin(r, c, HA_DUTY_RUN);
}

void rec_role_start(struct rec *r, const struct rec_copy *c)
{
    if (c->is_busy)
        return;
    if (!c->domain) {
        start_missing(r, c);
        return;
    }
    switch ((enum hv_domain_state)c->domain->state) {
    case HV_BUILDING:  /* by a worker that is gone, or the verb would be in flight */
    case HV_SUSPENDED: /* not by us: nothing is moved before it has started */
        if (r->is_fresh)
            rec_destroy(r, c, 0);
        break;
    case HV_PAUSED:
        start_paused(r, c);
        break;
    case HV_RUNNING:
        rec_propose(r, c, HA_CMD_STARTED, HA_REASON_OBSERVED, "");
        break;
    case HV_POWEROFF:
    case HV_REBOOT:
    case HV_CRASHED:
        rec_destroy(r, c, rec_end_cause(c->domain));
        break;
    }
}

static void run_missing(struct rec *r, const struct rec_copy *c)
{
    uint8_t cause = c->verb ? c->verb->end_cause : 0;

    rec_propose_not_running(r, c, cause ? cause : HA_END_LOST);
}

/* RUNNING says that no ticket is open: a save in flight is of one that ABORT has closed. Only when
 * it has ended is the domain this role's again. */
static bool end_save(struct rec *r, const struct rec_copy *c)
{
    if (!rec_has_verb(c, HA_VERB_SAVE) && !rec_has_verb(c, HA_VERB_RESTORE))
        return false;
    rec_cancel_move(r, c->guest->id, c->epoch, 0, HA_REASON_STALE_TICKET);
    return true;
}

void rec_role_run(struct rec *r, const struct rec_copy *c)
{
    if (end_save(r, c) || c->is_busy)
        return;
    if (!c->domain) {
        run_missing(r, c);
        return;
    }
    switch ((enum hv_domain_state)c->domain->state) {
    case HV_BUILDING:
        if (r->is_fresh)
            rec_destroy(r, c, HA_END_LOST);
        break;
    case HV_PAUSED: /* by quarantine, or made ready after ABORT or REVERT */
        rec_begin(r, c, HA_DUTY_RUN);
        break;
    case HV_RUNNING:
        break;
    case HV_SUSPENDED: /* RUNNING at this epoch again: ABORT or REVERT was applied */
        rec_begin(r, c, HA_DUTY_RESUME_PREPARE);
        break;
    case HV_POWEROFF:
    case HV_REBOOT:
    case HV_CRASHED:
        rec_destroy(r, c, rec_end_cause(c->domain));
        break;
    }
}

void rec_role_stop(struct rec *r, const struct rec_copy *c)
{
    bool is_graceful = c->guest->stop_mode != HA_STOP_DESTROY;

    if (end_save(r, c))
        return;
    if (c->is_busy && (is_graceful || !rec_has_verb(c, HA_VERB_SHUTDOWN)))
        return;
    if (!c->domain) {
        rec_propose_not_running(r, c, HA_END_STOPPED);
        return;
    }
    /* Who does not run can't be asked. */
    if (c->domain->state == HV_RUNNING && is_graceful)
        rec_shutdown(r, c);
    else if (c->domain->state != HV_BUILDING || r->is_fresh)
        rec_destroy(r, c, 0);
}
