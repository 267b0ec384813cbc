/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules of migrations: a ticket is opened by MIGRATE and closed by exactly one of ABORT, ARRIVED,
 * REVERT, NOT_RUNNING of the owner, or the death of an end. SWITCH and ABORT race in the log; the
 * first one wins and the other finds the phase changed.
 */
#include <string.h>

#include "hamgr/core/state_internal.h"

/* --- MIGRATE --- */

static uint32_t ticket_count(const struct ha_state *state)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < state->guest_count; i++)
        count += state->guests[i].ticket.id != 0;
    return count;
}

static uint16_t check_migrate_source(const struct ha_state *state, const struct ha_guest *guest,
                                     const struct ha_cmd *cmd)
{
    const struct ha_node *source = ha_state_node(state, cmd->node);

    if (guest->phase != HA_PHASE_RUNNING)
        return state_phase_refusal(state, guest);
    if (!source)
        return HA_REASON_NO_SUCH_NODE;
    if (guest->node != cmd->node)
        return HA_REASON_WRONG_OWNER;
    if (guest->incarnation != cmd->incarnation)
        return HA_REASON_STALE_INCARNATION;
    return source->status == HA_NODE_MEMBER ? HA_REASON_NONE : HA_REASON_OWNER_UNCLEAN;
}

static uint16_t check_migrate_destination(const struct ha_state *state,
                                          const struct ha_guest *guest, const struct ha_cmd *cmd)
{
    const struct ha_node *destination = ha_state_node(state, cmd->u.migrate.dst);
    uint16_t reason;

    if (!destination)
        return HA_REASON_NO_SUCH_NODE;
    if (destination->id == guest->node)
        return HA_REASON_SAME_NODE;
    if (destination->incarnation != cmd->u.migrate.dst_incarnation)
        return HA_REASON_STALE_INCARNATION;
    if (!ha_state_node_is_eligible(state, destination, &reason))
        return reason;
    return state_check_memory(state, destination, guest->mem_kib);
}

static uint16_t check_migrate(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    uint16_t reason = check_migrate_source(state, guest, cmd);
    if (reason == HA_REASON_NONE)
        reason = check_migrate_destination(state, guest, cmd);
    if (reason != HA_REASON_NONE)
        return reason;
    if (cmd->epoch != guest->epoch_high + 1)
        return HA_REASON_STALE_EPOCH;
    return ticket_count(state) >= HA_TICKETS_MAX ? HA_REASON_LIMIT : HA_REASON_NONE;
}

static void effect_migrate(struct ha_state *state, const struct log_entry *entry,
                           const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);

    guest->ticket = (struct ha_ticket){
        .id = entry->index,
        .src = guest->node,
        .dst = cmd->u.migrate.dst,
        .src_incarnation = guest->incarnation,
        .dst_incarnation = cmd->u.migrate.dst_incarnation,
        .src_epoch = guest->epoch,
        .dst_epoch = cmd->epoch,
        .max_downtime_ms = cmd->u.migrate.max_downtime_ms,
        .deadline_ms = cmd->u.migrate.deadline_ms,
        .on_slow = cmd->u.migrate.on_slow,
        .mono_ms = entry->mono_ms,
        .wall_ms = entry->wall_ms,
    };
    guest->epoch_high = cmd->epoch;
    state_guest_set_phase(guest, entry, HA_PHASE_MIGRATING);
}

/* --- SWITCH, ABORT, ARRIVED, REVERT --- */

/* A command that names an end presumes that end's incarnation. */
static uint16_t check_end(const struct ha_ticket *ticket, const struct ha_cmd *cmd)
{
    uint64_t incarnation;

    if (cmd->node == 0)
        return HA_REASON_NONE;
    if (cmd->node == ticket->src)
        incarnation = ticket->src_incarnation;
    else if (cmd->node == ticket->dst)
        incarnation = ticket->dst_incarnation;
    else
        return HA_REASON_WRONG_OWNER;
    return cmd->incarnation == incarnation ? HA_REASON_NONE : HA_REASON_STALE_INCARNATION;
}

static uint16_t check_ticket(const struct ha_state *state, const struct ha_cmd *cmd, uint8_t phase)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (cmd->ticket == 0 || guest->ticket.id != cmd->ticket)
        return HA_REASON_STALE_TICKET;
    if (guest->phase != phase)
        return HA_REASON_WRONG_PHASE;
    return check_end(&guest->ticket, cmd);
}

static void own(struct ha_guest *guest, uint32_t node, uint64_t incarnation, uint64_t epoch)
{
    guest->node = node;
    guest->incarnation = incarnation;
    guest->epoch = epoch;
}

static void close_ticket(struct ha_guest *guest, const struct log_entry *entry)
{
    memset(&guest->ticket, 0, sizeof(guest->ticket));
    state_guest_set_phase(guest, entry, HA_PHASE_RUNNING);
}

/* A destination that fell out of the view, or whose keeper does not work, must not get the guest:
 * the source has it still, and ABORT gives it back. */
static uint16_t check_switch(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = check_ticket(state, cmd, HA_PHASE_MIGRATING);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_ticket *ticket = &ha_state_guest(state, cmd->guest)->ticket;
    const struct ha_node *destination = ha_state_node(state, ticket->dst);
    if (destination->status != HA_NODE_MEMBER)
        return HA_REASON_NOT_MEMBER;
    return destination->is_armed || state->is_disarmed ? HA_REASON_NONE : HA_REASON_NOT_ARMED;
}

static void effect_switch(struct ha_state *state, const struct log_entry *entry,
                          const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);
    const struct ha_ticket *ticket = &guest->ticket;

    own(guest, ticket->dst, ticket->dst_incarnation, ticket->dst_epoch);
    state_guest_set_phase(guest, entry, HA_PHASE_SWITCHED);
}

static uint16_t check_abort(const struct ha_state *state, const struct ha_cmd *cmd)
{
    return check_ticket(state, cmd, HA_PHASE_MIGRATING);
}

void state_move_abort(struct ha_guest *guest, const struct log_entry *entry)
{
    close_ticket(guest, entry);
}

static void effect_abort(struct ha_state *state, const struct log_entry *entry,
                         const struct ha_cmd *cmd)
{
    state_move_abort(state_guest_find(state, cmd->guest), entry);
}

static uint16_t check_arrived(const struct ha_state *state, const struct ha_cmd *cmd)
{
    return check_ticket(state, cmd, HA_PHASE_SWITCHED);
}

static void effect_arrived(struct ha_state *state, const struct log_entry *entry,
                           const struct ha_cmd *cmd)
{
    close_ticket(state_guest_find(state, cmd->guest), entry);
}

/* Only the destination's present process can know that its copy never ran; and there must still be
 * a source copy to give the guest back to. */
static uint16_t check_revert(const struct ha_state *state, const struct ha_cmd *cmd)
{
    uint16_t reason = check_ticket(state, cmd, HA_PHASE_SWITCHED);

    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_ticket *ticket = &ha_state_guest(state, cmd->guest)->ticket;
    if (cmd->node != ticket->dst)
        return HA_REASON_WRONG_OWNER;
    return ticket->src_incarnation != 0 ? HA_REASON_NONE : HA_REASON_STALE_INCARNATION;
}

static void effect_revert(struct ha_state *state, const struct log_entry *entry,
                          const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);
    const struct ha_ticket *ticket = &guest->ticket;

    own(guest, ticket->src, ticket->src_incarnation, ticket->src_epoch);
    close_ticket(guest, entry);
}

/* A record of what is over. It presumes nothing but a guest to be about, and changes nothing. */
static uint16_t check_moved(const struct ha_state *state, const struct ha_cmd *cmd)
{
    return ha_state_guest(state, cmd->guest) ? HA_REASON_NONE : HA_REASON_NO_SUCH_GUEST;
}

static void effect_moved(struct ha_state *state, const struct log_entry *entry,
                         const struct ha_cmd *cmd)
{
    (void)state;
    (void)entry;
    (void)cmd;
}

/* --- The death of an end --- */

static void release_owned(struct ha_guest *guest, const struct log_entry *entry)
{
    guest->end_cause = 0;
    if (guest->want == HA_WANT_STARTED && !guest->policy.is_protected)
        guest->is_failed = true;
    state_guest_free(guest, entry);
}

void state_release(struct ha_state *state, const struct log_entry *entry, uint32_t node)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        struct ha_guest *guest = &state->guests[i];
        if (guest->phase != HA_PHASE_FREE && guest->node == node)
            release_owned(guest, entry);
        else if (guest->phase == HA_PHASE_MIGRATING && guest->ticket.dst == node)
            state_move_abort(guest, entry);
        else if (guest->phase == HA_PHASE_SWITCHED && guest->ticket.src == node)
            guest->ticket.src_incarnation = 0;
    }
}

const struct state_rule *state_move_rule(uint8_t type)
{
    static const struct state_rule rules[] = {
        [HA_CMD_MIGRATE] = {check_migrate, effect_migrate},
        [HA_CMD_SWITCH] = {check_switch, effect_switch},
        [HA_CMD_ABORT] = {check_abort, effect_abort},
        [HA_CMD_ARRIVED] = {check_arrived, effect_arrived},
        [HA_CMD_REVERT] = {check_revert, effect_revert},
        [HA_CMD_MOVED] = {check_moved, effect_moved},
    };

    if (type >= sizeof(rules) / sizeof(rules[0]) || !rules[type].check)
        return NULL;
    return &rules[type];
}
