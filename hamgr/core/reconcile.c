/* SPDX-License-Identifier: Apache-2.0
 *
 * The comparison of applied state and inventory: which role this node has for each guest, which
 * copies are strays, and what the node proposes about itself. The roles' rules are in
 * reconcile_guest.c and reconcile_move.c.
 */
#include "hamgr/core/reconcile.h"

#include <stdio.h>
#include <string.h>

#include "hamgr/core/plan_internal.h"
#include "hamgr/core/reconcile_internal.h"

/* Foreign domains named in one round; the alarm is the same for more. */
#define FOREIGN_MAX 16u

/* --- Duties --- */

static struct ha_duty *add_duty(struct rec *r, uint8_t type, struct ha_uuid guest, uint64_t epoch)
{
    struct ha_duties *duties = r->duties;

    if (duties->count == HA_DUTIES_MAX) {
        duties->next_ms = r->rt->now_ms; /* the rest follows when these are under way */
        return NULL;
    }
    struct ha_duty *duty = &duties->list[duties->count++];
    memset(duty, 0, sizeof(*duty));
    duty->type = type;
    duty->guest = guest;
    duty->epoch = epoch;
    return duty;
}

static bool is_waiting(struct rec *r, const struct ha_local_verb *verb)
{
    if (!verb || verb->retry_ms <= r->rt->now_ms)
        return false;
    if (verb->retry_ms < r->duties->next_ms)
        r->duties->next_ms = verb->retry_ms;
    return true;
}

bool rec_may_act(struct rec *r, const struct rec_copy *c)
{
    if (c->is_busy || (c->verb && c->verb->is_proposed))
        return false;
    return !is_waiting(r, c->verb);
}

bool rec_is_listed_since(const struct rec *r, const struct rec_copy *c)
{
    return r->inventory->applied_at_list >= c->guest->phase_index;
}

bool rec_is_gone(const struct rec *r, const struct rec_copy *c)
{
    return !c->domain && !c->has_others && !c->is_busy && r->is_fresh && rec_is_listed_since(r, c);
}

void rec_begin(struct rec *r, const struct rec_copy *c, uint8_t type)
{
    /* Another copy on this node may still have I/O outstanding, even paused (I2): it goes first. */
    if (!r->can_run || c->has_others || !rec_may_act(r, c))
        return;
    struct ha_duty *duty = add_duty(r, type, c->guest->id, c->epoch);
    if (duty)
        duty->ticket = c->guest->ticket.id;
}

static void destroy(struct rec *r, struct ha_uuid guest, uint64_t epoch, uint8_t end_cause,
                    uint16_t reason)
{
    struct ha_duty *duty = add_duty(r, HA_DUTY_DESTROY, guest, epoch);

    if (!duty)
        return;
    duty->end_cause = end_cause;
    duty->reason = reason;
}

void rec_destroy(struct rec *r, const struct rec_copy *c, uint8_t end_cause)
{
    /* A request to the guest that was turned into force need not end first. */
    bool is_escalation = c->role == REC_STOP && rec_has_verb(c, HA_VERB_SHUTDOWN);

    if ((c->is_busy && !is_escalation) || is_waiting(r, c->verb))
        return;
    /* The first cause stays: destroying may take several rounds. */
    if (c->verb && c->verb->end_cause)
        end_cause = c->verb->end_cause;
    destroy(r, c->guest->id, c->epoch, end_cause, HA_REASON_OBSERVED);
}

void rec_shutdown(struct rec *r, const struct rec_copy *c)
{
    if (c->is_busy || is_waiting(r, c->verb))
        return;
    struct ha_duty *duty = add_duty(r, HA_DUTY_SHUTDOWN, c->guest->id, c->epoch);
    if (duty)
        duty->timeout_ms = c->guest->policy.stop_timeout_ms;
}

void rec_cancel_move(struct rec *r, struct ha_uuid guest, uint64_t epoch, uint64_t ticket,
                     uint16_t reason)
{
    struct ha_duty *duty = add_duty(r, HA_DUTY_MOVE_CANCEL, guest, epoch);

    if (!duty)
        return;
    duty->ticket = ticket;
    duty->reason = reason;
}

static void propose(struct rec *r, struct ha_uuid guest, uint64_t epoch, const struct ha_cmd *cmd)
{
    /* One that would be a no-op now only fills the log. */
    if (ha_state_check(r->state, cmd) != HA_REASON_NONE)
        return;
    struct ha_duty *duty = add_duty(r, HA_DUTY_PROPOSE, guest, epoch);
    if (!duty)
        return;
    duty->ticket = cmd->ticket;
    duty->reason = cmd->reason;
    duty->cmd = *cmd;
    snprintf(duty->cmd.actor, sizeof(duty->cmd.actor), "%.31s", r->self->name);
}

static struct ha_cmd own_command(const struct rec *r, const struct rec_copy *c, uint8_t type,
                                 uint16_t reason)
{
    return (struct ha_cmd){.type = type,
                           .reason = reason,
                           .cause = c->guest->phase_index,
                           .node = r->self->id,
                           .incarnation = r->self->incarnation,
                           .guest = c->guest->id,
                           .epoch = c->epoch};
}

void rec_propose(struct rec *r, const struct rec_copy *c, uint8_t type, uint16_t reason,
                 const char *detail)
{
    struct ha_cmd cmd = own_command(r, c, type, reason);

    if (c->verb && c->verb->is_proposed)
        return;
    cmd.ticket = c->guest->ticket.id;
    if (type == HA_CMD_ABORT || type == HA_CMD_REVERT)
        snprintf(cmd.u.text.detail, sizeof(cmd.u.text.detail), "%s", detail);
    propose(r, c->guest->id, c->epoch, &cmd);
}

void rec_propose_not_running(struct rec *r, const struct rec_copy *c, uint8_t cause)
{
    struct ha_cmd cmd = own_command(r, c, HA_CMD_NOT_RUNNING, HA_REASON_OBSERVED);

    if ((c->verb && c->verb->is_proposed) || !rec_is_gone(r, c))
        return;
    cmd.u.not_running.cause = cause;
    snprintf(cmd.u.not_running.detail, sizeof(cmd.u.not_running.detail), "%.127s",
             c->verb ? c->verb->text : "");
    propose(r, c->guest->id, c->epoch, &cmd);
}

uint8_t rec_end_cause(const struct hv_domain *domain)
{
    switch (domain->state) {
    case HV_POWEROFF:
        return HA_END_POWEROFF;
    case HV_REBOOT:
        return HA_END_REBOOT;
    case HV_CRASHED:
        return HA_END_CRASHED;
    default:
        return 0;
    }
}

bool rec_has_verb(const struct rec_copy *c, uint8_t verb)
{
    return c->verb && c->verb->verb == verb;
}

/* --- Lookups in the sorted inventory --- */

/* First labelled domain of the guest, or where it would be. */
static uint32_t domain_position(const struct ha_inventory *inventory, struct ha_uuid guest)
{
    uint32_t low = 0;
    uint32_t high = inventory->domain_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct hv_domain *domain = &inventory->domains[middle];
        if (!domain->is_labelled || ha_uuid_cmp(domain->label.guest, guest) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* First verb not below (guest, epoch). */
static uint32_t verb_position(const struct ha_inventory *inventory, struct ha_uuid guest,
                              uint64_t epoch)
{
    uint32_t low = 0;
    uint32_t high = inventory->verb_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ha_local_verb *verb = &inventory->verbs[middle];
        int order = ha_uuid_cmp(verb->guest, guest);
        if (order < 0 || (order == 0 && verb->epoch < epoch))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const struct ha_local_verb *find_verb(const struct ha_inventory *inventory,
                                             struct ha_uuid guest, uint64_t epoch)
{
    uint32_t position = verb_position(inventory, guest, epoch);

    if (position == inventory->verb_count)
        return NULL;
    const struct ha_local_verb *verb = &inventory->verbs[position];
    return ha_uuid_equal(verb->guest, guest) && verb->epoch == epoch ? verb : NULL;
}

static bool is_guest_busy(const struct ha_inventory *inventory, struct ha_uuid guest)
{
    uint32_t i = verb_position(inventory, guest, 0);

    for (; i < inventory->verb_count && ha_uuid_equal(inventory->verbs[i].guest, guest); i++) {
        if (inventory->verbs[i].verb != HA_VERB_NONE)
            return true;
    }
    return false;
}

/* --- Roles --- */

static uint8_t owner_role(const struct ha_guest *guest)
{
    switch ((enum ha_phase)guest->phase) {
    case HA_PHASE_ASSIGNED:
        return REC_START;
    case HA_PHASE_RUNNING:
        return REC_RUN;
    case HA_PHASE_STOPPING:
        return REC_STOP;
    case HA_PHASE_MIGRATING:
        return REC_SOURCE;
    case HA_PHASE_SWITCHED:
        return REC_ARRIVING;
    case HA_PHASE_FREE:
    case HA_PHASE_COUNT:
        break;
    }
    return REC_NONE;
}

/* The role of self for guest, and the epoch of the copy it is about. */
static uint8_t role_of(const struct ha_guest *guest, const struct ha_node *self,
                       uint64_t *ret_epoch)
{
    const struct ha_ticket *ticket = &guest->ticket;

    *ret_epoch = guest->epoch;
    if (guest->phase == HA_PHASE_FREE)
        return REC_NONE;
    if (guest->node == self->id)
        return guest->incarnation == self->incarnation ? owner_role(guest) : REC_HOLD;
    if (ticket->id == 0)
        return REC_NONE;
    if (guest->phase == HA_PHASE_MIGRATING && ticket->dst == self->id) {
        *ret_epoch = ticket->dst_epoch;
        return ticket->dst_incarnation == self->incarnation ? REC_DEST : REC_HOLD;
    }
    if (guest->phase == HA_PHASE_SWITCHED && ticket->src == self->id) {
        /* Another incarnation: this one's copy was given up when the old one was fenced. */
        *ret_epoch = ticket->src_epoch;
        return ticket->src_incarnation == self->incarnation ? REC_KEPT : REC_NONE;
    }
    return REC_NONE;
}

static bool is_label_ours(const struct rec *r, const struct hv_label *label)
{
    return ha_uuid_equal(label->cluster_id, r->state->cluster_id) &&
           label->generation == r->state->generation;
}

static void look_at_domains(const struct rec *r, struct rec_copy *c)
{
    const struct ha_inventory *inventory = r->inventory;
    uint32_t i = domain_position(inventory, c->guest->id);

    for (; i < inventory->domain_count; i++) {
        const struct hv_domain *domain = &inventory->domains[i];
        if (!ha_uuid_equal(domain->label.guest, c->guest->id))
            break;
        if (domain->label.epoch != c->epoch) {
            c->has_others = true;
            continue;
        }
        if (c->domain || !is_label_ours(r, &domain->label))
            c->is_ambiguous = true;
        c->domain = domain;
    }
}

static struct rec_copy look_at(const struct rec *r, const struct ha_guest *guest)
{
    struct rec_copy c = {.guest = guest};

    c.role = role_of(guest, r->self, &c.epoch);
    if (c.role == REC_NONE)
        return c;
    c.verb = find_verb(r->inventory, guest->id, c.epoch);
    c.is_busy = is_guest_busy(r->inventory, guest->id);
    look_at_domains(r, &c);
    return c;
}

static void play(struct rec *r, const struct rec_copy *c)
{
    if (c->role == REC_HOLD)
        return;
    /* hamgr-hv takes (guest, epoch) as a name: where two domains answer to it, or one of another
     * life of the cluster does, neither may run. */
    if (c->is_ambiguous) {
        if (!c->is_busy && !is_waiting(r, c->verb))
            destroy(r, c->guest->id, c->epoch, 0, HA_REASON_NOT_OURS);
        return;
    }
    switch ((enum rec_role)c->role) {
    case REC_START:
        rec_role_start(r, c);
        break;
    case REC_RUN:
        rec_role_run(r, c);
        break;
    case REC_STOP:
        rec_role_stop(r, c);
        break;
    case REC_SOURCE:
        rec_role_source(r, c);
        break;
    case REC_DEST:
        rec_role_dest(r, c);
        break;
    case REC_ARRIVING:
        rec_role_arriving(r, c);
        break;
    case REC_KEPT:
        rec_role_kept(r, c);
        break;
    case REC_NONE:
    case REC_HOLD:
        break;
    }
}

/* Earlier assigned first: the planner assigned in order of priority. */
static bool is_assigned_before(const void *arg, uint32_t a, uint32_t b)
{
    const struct ha_guest *guests = arg;

    return guests[a].phase_index < guests[b].phase_index;
}

static void settle_guests(struct rec *r)
{
    uint32_t starting[HA_GUESTS_MAX];
    uint32_t starting_count = 0;

    for (uint32_t i = 0; i < r->state->guest_count; i++) {
        struct rec_copy c = look_at(r, &r->state->guests[i]);
        if (c.role == REC_START)
            starting[starting_count++] = i;
        else if (c.role != REC_NONE)
            play(r, &c);
    }
    plan_sort(starting, starting_count, is_assigned_before, r->state->guests);
    for (uint32_t i = 0; i < starting_count; i++) {
        struct rec_copy c = look_at(r, &r->state->guests[starting[i]]);
        play(r, &c);
    }
}

/* --- Strays: copies that the state does not give to this node --- */

static bool is_given(const struct rec *r, struct ha_uuid guest_id, uint64_t epoch)
{
    const struct ha_guest *guest = ha_state_guest(r->state, guest_id);
    uint64_t given;

    if (!guest)
        return false;
    return role_of(guest, r->self, &given) != REC_NONE && given == epoch;
}

/* hamgr-hv lays no hand on what another cluster has made. */
static bool is_of_cluster(const struct rec *r, const struct hv_domain *domain)
{
    return domain->is_labelled && ha_uuid_equal(domain->label.cluster_id, r->state->cluster_id);
}

/* A copy under a label that nobody gives to this node can never be given again: epochs only grow.
 * (One of an ambiguous pair is dealt with by its guest's role.) */
static void settle_strays(struct rec *r)
{
    const struct ha_inventory *inventory = r->inventory;
    const struct hv_label *last = NULL;

    for (uint32_t i = 0; i < inventory->domain_count; i++) {
        const struct hv_domain *domain = &inventory->domains[i];
        const struct hv_label *label = &domain->label;
        if (!is_of_cluster(r, domain) || is_given(r, label->guest, label->epoch))
            continue;
        if (last && ha_uuid_equal(last->guest, label->guest) && last->epoch == label->epoch)
            continue;
        last = label;
        const struct ha_local_verb *verb = find_verb(inventory, label->guest, label->epoch);
        if ((verb && verb->verb != HA_VERB_NONE) || is_waiting(r, verb))
            continue;
        destroy(r, label->guest, label->epoch, 0, HA_REASON_NOT_OURS);
    }
}

/* Saves and restores of tickets that are over. */
static void settle_moves(struct rec *r)
{
    const struct ha_inventory *inventory = r->inventory;

    for (uint32_t i = 0; i < inventory->verb_count; i++) {
        const struct ha_local_verb *verb = &inventory->verbs[i];
        if (verb->verb != HA_VERB_SAVE && verb->verb != HA_VERB_RESTORE)
            continue;
        if (!is_given(r, verb->guest, verb->epoch))
            rec_cancel_move(r, verb->guest, verb->epoch, 0, HA_REASON_STALE_TICKET);
    }
}

/* A guest paused by quarantine must not wait, paused, until gigabytes are copied: its migration
 * ends, ABORT follows in the next view, and the guest goes on here. Local and harmless, so it needs
 * no view. */
static void end_quarantined_saves(struct rec *r)
{
    const struct ha_inventory *inventory = r->inventory;

    for (uint32_t i = 0; r->rt->is_quarantined && i < inventory->verb_count; i++) {
        const struct ha_local_verb *verb = &inventory->verbs[i];
        if (verb->verb != HA_VERB_SAVE || verb->is_save_done)
            continue;
        const struct ha_guest *guest = ha_state_guest(r->state, verb->guest);
        uint64_t ticket = guest ? guest->ticket.id : 0;
        rec_cancel_move(r, verb->guest, verb->epoch, ticket, HA_REASON_ABSENT);
    }
}

/* Without a label, or under another cluster's for a copy that is none of ours. */
static bool is_foreign(const struct rec *r, const struct hv_domain *domain)
{
    if (!domain->is_labelled)
        return true;
    return r->self && !is_of_cluster(r, domain) &&
           !is_given(r, domain->label.guest, domain->label.epoch);
}

static void report_foreign(struct rec *r)
{
    const struct ha_inventory *inventory = r->inventory;
    uint32_t count = 0;

    for (uint32_t i = 0; i < inventory->domain_count && count < FOREIGN_MAX; i++) {
        if (!is_foreign(r, &inventory->domains[i]))
            continue;
        struct ha_duty *duty = add_duty(r, HA_DUTY_REPORT_FOREIGN, (struct ha_uuid){{0}}, 0);
        if (duty)
            duty->reason = HA_REASON_NOT_OURS;
        count++;
    }
}

/* --- What the node says about itself --- */

static void propose_about_self(struct rec *r, struct ha_cmd *cmd)
{
    const struct ha_uuid none = {{0}};
    const struct ha_local_verb *verb = find_verb(r->inventory, none, cmd->type);

    cmd->reason = HA_REASON_OBSERVED;
    cmd->node = r->self->id;
    cmd->incarnation = r->self->incarnation;
    if ((verb && verb->is_proposed) || is_waiting(r, verb))
        return;
    propose(r, none, cmd->type, cmd);
}

static void tell_keeper(struct rec *r, const struct ha_keeper_facts *keeper)
{
    if (!keeper || !keeper->is_known)
        return;
    if (keeper->is_armed) {
        struct ha_cmd cmd = {.type = HA_CMD_ARMED, .epoch = keeper->seen_applied};
        cmd.u.armed.lease_ms = keeper->lease_ms;
        cmd.u.armed.watchdog_ms = keeper->watchdog_ms;
        propose_about_self(r, &cmd); /* refused by its check while disarmed, frozen or known */
    } else if (r->self->is_armed) {
        struct ha_cmd cmd = {.type = HA_CMD_UNARMED};
        propose_about_self(r, &cmd);
    }
}

static const struct ha_report *own_report(const struct rec *r)
{
    const struct ha_report *report = &r->rt->reports[r->self - r->state->nodes];

    return report->node == r->self->id ? report : NULL;
}

static void tell_capacity(struct rec *r)
{
    const struct ha_report *report = own_report(r);

    if (!report || !report->is_hv_ready || report->mem_kib == r->self->mem_kib)
        return;
    struct ha_cmd cmd = {.type = HA_CMD_CAPACITY};
    cmd.u.capacity.mem_kib = report->mem_kib;
    propose_about_self(r, &cmd);
}

/* --- The whole --- */

/* This node acts only inside an open view, after applying the OPEN that names it and everything
 * committed since (H10, H14, I10). */
static bool can_act(const struct rec *r)
{
    return r->rt->is_open && r->self && r->self->status == HA_NODE_MEMBER &&
           log_view_cmp(r->rt->view, r->state->view) == 0 &&
           r->state->applied >= r->rt->commit_index;
}

void ha_reconcile(const struct ha_state *state, const struct ha_runtime *rt,
                  const struct ha_inventory *inventory, const struct ha_keeper_facts *keeper,
                  struct ha_duties *ret_duties)
{
    struct rec r = {.state = state,
                    .rt = rt,
                    .inventory = inventory,
                    .self = ha_state_node(state, rt->self),
                    .duties = ret_duties};

    ret_duties->count = 0;
    ret_duties->next_ms = UINT64_MAX;
    end_quarantined_saves(&r);
    if (can_act(&r)) {
        const struct ha_report *report = own_report(&r);
        bool is_hv_ready = !report || report->is_hv_ready;
        r.is_fresh = inventory->is_fresh && is_hv_ready;
        bool is_settled = ha_is_listed_since_open(r.self, inventory->applied_at_list);
        r.can_run = is_settled && is_hv_ready && rt->is_gate_open && !rt->is_quarantined &&
                    rt->now_ms < rt->lease_end_ms;
        tell_capacity(&r);
        tell_keeper(&r, keeper);
        settle_moves(&r);
        settle_strays(&r);
        settle_guests(&r);
    }
    report_foreign(&r);
}
