/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules of both ends of an open ticket. What they share: nothing becomes runnable before the
 * log has decided. The source's guest is resumed only by the rules of RUNNING, after ABORT or
 * REVERT was applied; the arriving copy only in SWITCHED (I8). A REVERT is proposed only on proof
 * that the arriving copy never ran, and from then on that copy is not run any more.
 */
#include "hamgr/core/reconcile_internal.h"

static const char *text_of(const struct rec_copy *c, const char *otherwise)
{
    return c->verb && c->verb->text[0] ? c->verb->text : otherwise;
}

static void abort_move(struct rec *r, const struct rec_copy *c, const char *why)
{
    rec_propose(r, c, HA_CMD_ABORT, HA_REASON_STREAM_FAILED, why);
}

/* Nothing of the save is known: it has not begun, or hamgrd was restarted. Only a running guest can
 * be moved; any other state may be what a killed save left, so it waits, not runnable, for ABORT.
 */
static void source_unknown(struct rec *r, const struct rec_copy *c)
{
    if (!c->domain) {
        if (rec_is_gone(r, c))
            abort_move(r, c, "the guest is not on its node any more");
        return;
    }
    if (c->domain->state == HV_RUNNING)
        rec_begin(r, c, HA_DUTY_MOVE_OUT);
    else if (r->is_fresh)
        abort_move(r, c, "the guest was not running when its migration began");
}

void rec_role_source(struct rec *r, const struct rec_copy *c)
{
    const struct ha_local_verb *verb = c->verb;

    if (verb && verb->is_save_failed) {
        abort_move(r, c, text_of(c, "the save failed"));
        return;
    }
    if (c->is_busy)
        return;
    if (!verb || !verb->is_save_done) {
        source_unknown(r, c);
        return;
    }
    /* HANDOVER was sent: suspended until the log decides. Somebody else made it runnable? */
    if (c->domain && c->domain->state == HV_RUNNING && r->is_fresh)
        abort_move(r, c, "the suspended guest was resumed by hand");
}

/* Everything is here, paused, and the source has let go of it. */
static void dest_complete(struct rec *r, const struct rec_copy *c)
{
    bool is_paused = c->domain && c->domain->state == HV_PAUSED;

    if (r->is_fresh && !is_paused)
        abort_move(r, c, "the arrived copy is not there any more");
    else if (c->verb->is_handover)
        rec_propose(r, c, HA_CMD_SWITCH, HA_REASON_OBSERVED, "");
}

void rec_role_dest(struct rec *r, const struct rec_copy *c)
{
    const struct ha_local_verb *verb = c->verb;

    if (verb && verb->is_restore_failed) {
        abort_move(r, c, text_of(c, "the restore failed"));
        return;
    }
    if (c->is_busy)
        return;
    if (c->domain && c->domain->state == HV_RUNNING) {
        rec_destroy(r, c, 0); /* the source still owns it: never two */
        return;
    }
    if (verb && verb->is_restore_done)
        dest_complete(r, c);
    else if (!c->domain && rec_is_listed_since(r, c))
        rec_begin(r, c, HA_DUTY_MOVE_IN);
    else if (c->domain && rec_may_act(r, c)) /* else it ended, and the shell awaits the reason */
        abort_move(r, c, "hamgrd was restarted while the guest arrived");
}

/* The copy lived only under this process, which never let it run. After a restart of hamgrd nobody
 * can say so any more. */
static bool is_never_run(const struct rec_copy *c)
{
    return c->verb && c->verb->is_restore_done && !c->verb->has_run;
}

static bool can_revert(const struct rec_copy *c)
{
    return is_never_run(c) && c->guest->ticket.src_incarnation != 0;
}

static void arriving_missing(struct rec *r, const struct rec_copy *c)
{
    if (!rec_is_gone(r, c))
        return;
    if (can_revert(c))
        rec_propose(r, c, HA_CMD_REVERT, HA_REASON_OBSERVED,
                    "the arrived copy vanished, never run");
    else
        rec_propose_not_running(r, c,
                                c->verb && c->verb->end_cause ? c->verb->end_cause : HA_END_LOST);
}

static void arriving_paused(struct rec *r, const struct rec_copy *c)
{
    if (!c->verb || !c->verb->is_run_failed)
        rec_begin(r, c, HA_DUTY_RUN);
    else if (can_revert(c))
        rec_propose(r, c, HA_CMD_REVERT, HA_REASON_OBSERVED,
                    text_of(c, "the arrived copy could not be resumed"));
    else if (is_never_run(c))
        rec_destroy(r, c, HA_END_START_FAILED); /* no copy to go back to: a restart by policy */
    else
        /* It may have run, so the source's copy is worthless: this one is the guest. */
        rec_propose(r, c, HA_CMD_ARRIVED, HA_REASON_OBSERVED, "");
}

void rec_role_arriving(struct rec *r, const struct rec_copy *c)
{
    if (c->is_busy)
        return;
    if (!c->domain) {
        arriving_missing(r, c);
        return;
    }
    switch ((enum hv_domain_state)c->domain->state) {
    case HV_BUILDING:
        if (r->is_fresh)
            rec_destroy(r, c, 0);
        break;
    case HV_PAUSED: /* SWITCH may be of a disarmed cluster that has been armed since */
        if (rec_is_guarded(r))
            arriving_paused(r, c);
        break;
    case HV_RUNNING:
    case HV_SUSPENDED: /* it ran, whatever happened then: RUNNING's rules go on from here */
    case HV_POWEROFF:
    case HV_REBOOT:
    case HV_CRASHED:
        rec_propose(r, c, HA_CMD_ARRIVED, HA_REASON_OBSERVED, "");
        break;
    }
}

/* Suspended until ARRIVED or REVERT. One that was made runnable by hand is a second copy. */
void rec_role_kept(struct rec *r, const struct rec_copy *c)
{
    if (c->domain && c->domain->state == HV_RUNNING && r->is_fresh)
        rec_destroy(r, c, 0);
}
