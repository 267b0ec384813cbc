/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs the reconciler on this node's facts and carries out what it says, in order.
 */
#include "hamgr/shell/shell.h"

/* What is known about a copy is kept while the owner record still speaks of its epoch. */
static bool is_relevant(const struct hamgrd *d, const struct ha_local_verb *verb)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, verb->guest);

    if (!guest)
        return false;
    if (guest->ticket.id &&
        (guest->ticket.src_epoch == verb->epoch || guest->ticket.dst_epoch == verb->epoch))
        return true;
    return guest->phase != HA_PHASE_FREE && guest->epoch == verb->epoch &&
           guest->node == d->identity.node;
}

static void drop_old_verbs(struct hamgrd *d)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < d->verb_count; i++) {
        struct local_verb *verb = &d->verbs[i];
        bool is_busy = verb->request || verb->proposal || verb->v.verb != HA_VERB_NONE ||
                       verb->v.retry_ms > d->rt.now_ms;
        if (is_busy || is_relevant(d, &verb->v))
            d->verbs[kept++] = *verb;
    }
    d->verb_count = kept;
}

/* Facts that end with a ticket: a source that goes on running must be movable again. */
static void settle_tickets(struct hamgrd *d)
{
    for (uint32_t i = 0; i < d->verb_count; i++) {
        struct local_verb *verb = &d->verbs[i];
        const struct ha_guest *guest = ha_state_guest(&d->state, verb->v.guest);
        if (!guest || guest->ticket.id == verb->ticket || verb->v.verb != HA_VERB_NONE)
            continue;
        verb->ticket = 0;
        verb->v.is_save_done = verb->v.is_save_failed = false;
        verb->v.is_restore_done = verb->v.is_restore_failed = verb->v.is_handover = false;
    }
}

static void propose_duty(struct hamgrd *d, const struct ha_duty *duty)
{
    struct ha_cmd cmd = duty->cmd;

    if (cmd.actor[0] == '\0')
        snprintf(cmd.actor, sizeof(cmd.actor), "%.31s", shell_node_name(d, d->identity.node));
    bool is_about_guest = !ha_uuid_is_zero(duty->guest);
    uint64_t seq = propose_cmd(d, &cmd, NULL, NULL);
    if (is_about_guest) {
        struct local_verb *verb = hvlink_get(d, duty->guest, duty->epoch);
        verb->proposal = seq;
        verb->v.is_proposed = true;
    }
}

static void carry_out(struct hamgrd *d, const struct ha_duty *duty)
{
    static const uint8_t verbs[] = {
        [HA_DUTY_CREATE] = HA_VERB_CREATE,         [HA_DUTY_RUN] = HA_VERB_RUN,
        [HA_DUTY_SHUTDOWN] = HA_VERB_SHUTDOWN,     [HA_DUTY_DESTROY] = HA_VERB_DESTROY,
        [HA_DUTY_RESUME_PREPARE] = HA_VERB_RESUME,
    };
    const struct ha_guest *guest = ha_state_guest(&d->state, duty->guest);

    if (duty->type == HA_DUTY_DESTROY && duty->end_cause)
        hvlink_get(d, duty->guest, duty->epoch)->v.end_cause = duty->end_cause;
    switch ((enum ha_duty_type)duty->type) {
    case HA_DUTY_CREATE:
    case HA_DUTY_RUN:
    case HA_DUTY_SHUTDOWN:
    case HA_DUTY_DESTROY:
    case HA_DUTY_RESUME_PREPARE:
        hvlink_verb(d, hvlink_get(d, duty->guest, duty->epoch), verbs[duty->type],
                    duty->timeout_ms);
        break;
    case HA_DUTY_MOVE_OUT:
        if (guest)
            moves_begin_out(d, guest);
        break;
    case HA_DUTY_MOVE_IN:
        if (guest)
            moves_begin_in(d, guest);
        break;
    case HA_DUTY_MOVE_CANCEL:
        moves_cancel(d, duty->guest, duty->epoch, ha_reason_text(duty->reason));
        break;
    case HA_DUTY_PROPOSE:
        propose_duty(d, duty);
        break;
    case HA_DUTY_REPORT_FOREIGN:
        d->foreign_count++;
        break;
    }
}

/* ARMED and CAPACITY are about the node: one such proposal of each kind at a time. */
static void node_proposal_done(void *user, int outcome, uint16_t reason, uint64_t index)
{
    (void)outcome;
    (void)reason;
    (void)index;
    *(uint64_t *)user = 0;
}

static void propose_about_node(struct hamgrd *d, const struct ha_duty *duty)
{
    uint64_t *seq = duty->cmd.type == HA_CMD_CAPACITY ? &d->capacity_proposal : &d->armed_proposal;
    struct ha_cmd cmd = duty->cmd;

    if (*seq)
        return;
    snprintf(cmd.actor, sizeof(cmd.actor), "%.31s", shell_node_name(d, d->identity.node));
    *seq = 1; /* set before: the callback clears it */
    propose_cmd(d, &cmd, node_proposal_done, seq);
}

/* hamgr-hv hears what it must know about pausing when that changes, and once it is certain. */
static void repeat_hello(struct hamgrd *d)
{
    const struct ha_node *self = ha_state_node(&d->state, d->identity.node);
    bool is_frozen = self && self->is_frozen;

    if (d->is_hv_welcomed &&
        (d->hello_disarmed != d->state.is_disarmed || d->hello_frozen != is_frozen ||
         d->hello_stale != !shell_is_current(d)))
        hvlink_hello(d);
}

bool duties_is_settled(struct hamgrd *d)
{
    const struct ha_node *self = ha_state_node(&d->state, d->identity.node);

    shell_refresh(d);
    return d->rt.is_open && self && d->has_inventory &&
           ha_is_listed_since_open(self, d->inventory_applied);
}

void duties_run(struct hamgrd *d)
{
    struct ha_keeper_facts keeper = {.is_known = d->is_keeper_known,
                                     .is_armed = d->keeper_status.is_armed,
                                     .lease_ms = d->rt.timing.lease_ms,
                                     .watchdog_ms = d->keeper_status.watchdog_ms,
                                     .seen_applied = d->keeper_seen_applied};

    if (d->is_stopped || !d->log)
        return;
    keeperlink_check(d);
    repeat_hello(d);
    if (d->is_list_stale && !d->is_listing)
        hvlink_list(d); /* the last one failed */
    settle_tickets(d);
    drop_old_verbs(d);
    for (uint32_t i = 0; i < d->verb_count; i++)
        d->verb_view[i] = d->verbs[i].v;
    struct ha_inventory inventory = {.is_fresh = d->has_inventory && !d->is_list_stale &&
                                                 !d->is_listing &&
                                                 d->inventory_applied == d->state.applied,
                                     .applied_at_list = d->inventory_applied,
                                     .domain_count = d->domain_count,
                                     .domains = d->domains,
                                     .verb_count = d->verb_count,
                                     .verbs = d->verb_view};
    if (!d->has_inventory && !d->config.is_witness)
        return; /* nothing is decided about guests without a listing */
    ha_reconcile(&d->state, &d->rt, &inventory, &keeper, d->duties);
    d->foreign_count = 0;
    for (uint32_t i = 0; i < d->duties->count; i++) {
        const struct ha_duty *duty = &d->duties->list[i];
        if (duty->type == HA_DUTY_PROPOSE && ha_uuid_is_zero(duty->guest))
            propose_about_node(d, duty);
        else
            carry_out(d, duty);
    }
    /* A duty that needs a fresh listing gets one once; hvlink_list merges repeated calls. */
    if (d->is_hv_welcomed && d->inventory_applied != d->state.applied && !d->is_listing)
        hvlink_list(d);
}
