/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules of commands about guests, migrations excepted: definition, wish, start, stop, end. A guest
 * becomes free only by its owner's word (NOT_RUNNING) or by its owner's proven death.
 */
#include <string.h>

#include "hamgr/core/state_internal.h"

#define PRIORITY_MAX        1000u
#define RESTART_MAX         1000u
#define RESTART_WINDOW_S    2678400u  /* 31 days */
#define STOP_TIMEOUT_MAX_MS 86400000u /* a day */
#define DOWNTIME_MAX_MS     3600000u  /* an hour */

void state_guest_set_phase(struct ha_guest *guest, const struct log_entry *entry, uint8_t phase)
{
    guest->phase = phase;
    guest->phase_index = entry->index;
    guest->phase_wall_ms = entry->wall_ms;
}

void state_guest_free(struct ha_guest *guest, const struct log_entry *entry)
{
    guest->last_node = guest->node;
    guest->node = 0;
    guest->incarnation = 0;
    guest->stop_mode = 0;
    memset(&guest->ticket, 0, sizeof(guest->ticket));
    state_guest_set_phase(guest, entry, HA_PHASE_FREE);
}

uint16_t state_check_owner(const struct ha_guest *guest, const struct ha_cmd *cmd)
{
    if (guest->node != cmd->node)
        return HA_REASON_WRONG_OWNER;
    if (guest->incarnation != cmd->incarnation)
        return HA_REASON_STALE_INCARNATION;
    return guest->epoch == cmd->epoch ? HA_REASON_NONE : HA_REASON_STALE_EPOCH;
}

uint16_t state_phase_refusal(const struct ha_state *state, const struct ha_guest *guest)
{
    const struct ha_node *owner = ha_state_node(state, guest->node);

    if (owner && owner->status == HA_NODE_UNCLEAN)
        return HA_REASON_OWNER_UNCLEAN;
    return guest->ticket.id != 0 ? HA_REASON_TICKET_OPEN : HA_REASON_WRONG_PHASE;
}

/* --- GUEST_ADD, GUEST_SET, GUEST_REMOVE --- */

bool state_policy_is_valid(const struct ha_policy *policy)
{
    return policy->priority <= PRIORITY_MAX && policy->start_order <= PRIORITY_MAX &&
           policy->restart_max <= RESTART_MAX && policy->restart_window_s >= 1 &&
           policy->restart_window_s <= RESTART_WINDOW_S &&
           policy->stop_timeout_ms <= STOP_TIMEOUT_MAX_MS &&
           policy->max_downtime_ms <= DOWNTIME_MAX_MS;
}

static bool policy_is_equal(const struct ha_policy *a, const struct ha_policy *b)
{
    return a->priority == b->priority && a->start_order == b->start_order &&
           a->restart_max == b->restart_max && a->restart_window_s == b->restart_window_s &&
           a->stop_timeout_ms == b->stop_timeout_ms && a->max_downtime_ms == b->max_downtime_ms &&
           a->is_protected == b->is_protected;
}

static bool definition_is_valid(const struct ha_cmd *cmd)
{
    static const struct ha_digest none;
    uint32_t size = cmd->u.guest_add.definition_size;

    if (size > HA_DEFINITION_MAX || (size > 0 && !cmd->u.guest_add.definition_bytes))
        return false;
    /* Hashing wants a pointer even for no bytes. */
    const void *bytes = size > 0 ? (const void *)cmd->u.guest_add.definition_bytes : "";
    return ha_digest_equal(cmd->u.guest_add.definition, ha_digest_bytes(none, bytes, size));
}

static uint16_t check_guest_add(const struct ha_state *state, const struct ha_cmd *cmd)
{
    if (ha_uuid_is_zero(cmd->guest) || !ha_name_is_valid(cmd->u.guest_add.name))
        return HA_REASON_BAD_VALUE;
    if (cmd->u.guest_add.mem_kib == 0 || cmd->u.guest_add.mem_kib > STATE_MEM_MAX_KIB ||
        cmd->u.guest_add.want > HA_WANT_STARTED || !state_policy_is_valid(&cmd->u.guest_add.policy))
        return HA_REASON_BAD_VALUE;
    if (!definition_is_valid(cmd))
        return HA_REASON_BAD_VALUE;
    if (ha_state_guest(state, cmd->guest) || ha_state_guest_by_name(state, cmd->u.guest_add.name))
        return HA_REASON_GUEST_EXISTS;
    return state->guest_count >= state->guest_capacity ? HA_REASON_LIMIT : HA_REASON_NONE;
}

static struct ha_guest *guest_insert(struct ha_state *state, struct ha_uuid id)
{
    uint32_t position = state->guest_count;

    while (position > 0 && ha_uuid_cmp(state->guests[position - 1].id, id) > 0)
        position--;
    memmove(&state->guests[position + 1], &state->guests[position],
            (state->guest_count - position) * sizeof(state->guests[0]));
    memset(&state->guests[position], 0, sizeof(state->guests[0]));
    state->guests[position].id = id;
    state->guest_count++;
    return &state->guests[position];
}

/* A stale copy of a removed guest of the same uuid may still lie somewhere: its epoch must never
 * be given out again, so a new guest starts above every epoch that was ever removed. */
static void effect_guest_add(struct ha_state *state, const struct log_entry *entry,
                             const struct ha_cmd *cmd)
{
    struct ha_guest *guest = guest_insert(state, cmd->guest);

    memcpy(guest->name, cmd->u.guest_add.name, sizeof(guest->name));
    guest->mem_kib = cmd->u.guest_add.mem_kib;
    guest->want = cmd->u.guest_add.want;
    guest->policy = cmd->u.guest_add.policy;
    guest->definition = cmd->u.guest_add.definition;
    guest->definition_size = cmd->u.guest_add.definition_size;
    guest->epoch = state->epoch_floor;
    guest->epoch_high = state->epoch_floor;
    state_guest_set_phase(guest, entry, HA_PHASE_FREE);
}

static uint16_t check_guest_set(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (!state_policy_is_valid(&cmd->u.guest_set.policy))
        return HA_REASON_BAD_VALUE;
    if (policy_is_equal(&guest->policy, &cmd->u.guest_set.policy))
        return HA_REASON_ALREADY;
    return HA_REASON_NONE;
}

static void effect_guest_set(struct ha_state *state, const struct log_entry *entry,
                             const struct ha_cmd *cmd)
{
    (void)entry;
    state_guest_find(state, cmd->guest)->policy = cmd->u.guest_set.policy;
}

static uint16_t check_guest_remove(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (guest->want != HA_WANT_STOPPED)
        return HA_REASON_IS_WANTED;
    return guest->phase == HA_PHASE_FREE ? HA_REASON_NONE : state_phase_refusal(state, guest);
}

static void effect_guest_remove(struct ha_state *state, const struct log_entry *entry,
                                const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);
    size_t behind = (size_t)(&state->guests[state->guest_count] - (guest + 1));

    (void)entry;
    if (guest->epoch_high > state->epoch_floor)
        state->epoch_floor = guest->epoch_high;
    memmove(guest, guest + 1, behind * sizeof(*guest));
    state->guest_count--;
}

/* --- WANT, CLEAR --- */

static uint16_t check_want(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (cmd->u.want.want > HA_WANT_STARTED)
        return HA_REASON_BAD_VALUE;
    if (guest->want != cmd->u.want.want)
        return HA_REASON_NONE;
    return cmd->u.want.want == HA_WANT_STARTED && guest->is_failed ? HA_REASON_NONE
                                                                   : HA_REASON_ALREADY;
}

static void clear_failures(struct ha_guest *guest)
{
    guest->failures = 0;
    guest->is_failed = false;
    guest->window_wall_ms = 0;
}

static void effect_want(struct ha_state *state, const struct log_entry *entry,
                        const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);

    (void)entry;
    guest->want = cmd->u.want.want;
    if (guest->want == HA_WANT_STARTED)
        clear_failures(guest);
}

static uint16_t check_clear(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    return guest->failures > 0 || guest->is_failed ? HA_REASON_NONE : HA_REASON_ALREADY;
}

static void effect_clear(struct ha_state *state, const struct log_entry *entry,
                         const struct ha_cmd *cmd)
{
    (void)entry;
    clear_failures(state_guest_find(state, cmd->guest));
}

/* --- ASSIGN, STARTED --- */

static uint16_t check_startable(const struct ha_state *state, const struct ha_guest *guest,
                                uint64_t epoch)
{
    if (guest->phase != HA_PHASE_FREE)
        return state_phase_refusal(state, guest);
    if (epoch != guest->epoch_high + 1)
        return HA_REASON_STALE_EPOCH;
    if (guest->want != HA_WANT_STARTED)
        return HA_REASON_NOT_WANTED;
    if (!guest->is_failed)
        return HA_REASON_NONE;
    return guest->policy.is_protected ? HA_REASON_FAILED_LIMIT : HA_REASON_NOT_PROTECTED;
}

static uint16_t check_assign(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    uint16_t reason = check_startable(state, guest, cmd->epoch);
    if (reason == HA_REASON_NONE)
        reason = state_check_incarnation(state, cmd, false);
    if (reason != HA_REASON_NONE)
        return reason;
    const struct ha_node *node = ha_state_node(state, cmd->node);
    if (!ha_state_node_is_eligible(state, node, &reason))
        return reason;
    return state_check_memory(state, node, guest->mem_kib);
}

static void effect_assign(struct ha_state *state, const struct log_entry *entry,
                          const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);

    guest->node = cmd->node;
    guest->incarnation = cmd->incarnation;
    guest->epoch = cmd->epoch;
    guest->epoch_high = cmd->epoch;
    guest->is_relocating = false;
    state_guest_set_phase(guest, entry, HA_PHASE_ASSIGNED);
}

static uint16_t check_started(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (guest->phase == HA_PHASE_FREE)
        return HA_REASON_WRONG_PHASE;
    uint16_t reason = state_check_owner(guest, cmd);
    if (reason != HA_REASON_NONE)
        return reason;
    if (guest->phase == HA_PHASE_RUNNING)
        return HA_REASON_ALREADY;
    return guest->phase == HA_PHASE_ASSIGNED ? HA_REASON_NONE : HA_REASON_WRONG_PHASE;
}

static void effect_started(struct ha_state *state, const struct log_entry *entry,
                           const struct ha_cmd *cmd)
{
    state_guest_set_phase(state_guest_find(state, cmd->guest), entry, HA_PHASE_RUNNING);
}

/* --- STOP, NOT_RUNNING --- */

static uint16_t check_stop_target(const struct ha_guest *guest, const struct ha_cmd *cmd)
{
    if (guest->epoch != cmd->epoch)
        return HA_REASON_STALE_EPOCH;
    if (cmd->node != 0 && cmd->node != guest->node)
        return HA_REASON_WRONG_OWNER;
    if (cmd->incarnation != 0 && cmd->incarnation != guest->incarnation)
        return HA_REASON_STALE_INCARNATION;
    return HA_REASON_NONE;
}

static uint16_t check_stop(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (cmd->u.stop.mode != HA_STOP_GRACEFUL && cmd->u.stop.mode != HA_STOP_DESTROY)
        return HA_REASON_BAD_VALUE;
    if (guest->phase == HA_PHASE_FREE)
        return guest->epoch == cmd->epoch ? HA_REASON_ALREADY : HA_REASON_STALE_EPOCH;
    uint16_t reason = check_stop_target(guest, cmd);
    if (reason != HA_REASON_NONE)
        return reason;
    if (guest->ticket.id != 0)
        return HA_REASON_TICKET_OPEN;
    /* Once more only to turn a request into force. */
    if (guest->phase == HA_PHASE_STOPPING && guest->stop_mode >= cmd->u.stop.mode)
        return HA_REASON_ALREADY;
    return HA_REASON_NONE;
}

static void effect_stop(struct ha_state *state, const struct log_entry *entry,
                        const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);

    guest->stop_mode = cmd->u.stop.mode;
    if (guest->phase == HA_PHASE_STOPPING)
        return;
    guest->is_relocating = cmd->u.stop.is_relocation;
    state_guest_set_phase(guest, entry, HA_PHASE_STOPPING);
}

static uint16_t check_not_running(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (cmd->u.not_running.cause < HA_END_STOPPED || cmd->u.not_running.cause > HA_END_LOST)
        return HA_REASON_BAD_VALUE;
    if (guest->phase == HA_PHASE_FREE)
        return guest->epoch == cmd->epoch ? HA_REASON_ALREADY : HA_REASON_STALE_EPOCH;
    return state_check_owner(guest, cmd);
}

/* The window begins with the first failure in it. A wall clock that was set back keeps the guest in
 * the window it is in: fewer restarts, never more. */
static void count_failure(struct ha_guest *guest, const struct log_entry *entry)
{
    uint64_t window_ms = (uint64_t)guest->policy.restart_window_s * 1000;
    bool is_over = entry->wall_ms > guest->window_wall_ms &&
                   entry->wall_ms - guest->window_wall_ms > window_ms;

    if (guest->failures == 0 || is_over) {
        guest->failures = 0;
        guest->window_wall_ms = entry->wall_ms;
    }
    if (guest->failures < UINT16_MAX)
        guest->failures++;
    if (guest->failures >= guest->policy.restart_max || !guest->policy.is_protected)
        guest->is_failed = true;
}

/* A guest that was told to stop has stopped, however it ended. */
static void judge_end(struct ha_guest *guest, const struct log_entry *entry, uint8_t cause)
{
    if (guest->phase == HA_PHASE_STOPPING || guest->want != HA_WANT_STARTED)
        return;
    if (cause == HA_END_POWEROFF)
        guest->want = HA_WANT_STOPPED;
    if (cause == HA_END_CRASHED || cause == HA_END_START_FAILED || cause == HA_END_LOST)
        count_failure(guest, entry);
}

/* Open tickets close with it: while MIGRATING only the source can say this and the arriving copy
 * is destroyed; while SWITCHED only the destination can, and the source's suspended copy, which no
 * entry ever gave back, is destroyed. Neither was runnable. */
static void effect_not_running(struct ha_state *state, const struct log_entry *entry,
                               const struct ha_cmd *cmd)
{
    struct ha_guest *guest = state_guest_find(state, cmd->guest);

    judge_end(guest, entry, cmd->u.not_running.cause);
    guest->end_cause = cmd->u.not_running.cause;
    state_guest_free(guest, entry);
}

const struct state_rule *state_guest_rule(uint8_t type)
{
    static const struct state_rule rules[] = {
        [HA_CMD_GUEST_ADD] = {check_guest_add, effect_guest_add},
        [HA_CMD_GUEST_SET] = {check_guest_set, effect_guest_set},
        [HA_CMD_GUEST_REMOVE] = {check_guest_remove, effect_guest_remove},
        [HA_CMD_WANT] = {check_want, effect_want},
        [HA_CMD_ASSIGN] = {check_assign, effect_assign},
        [HA_CMD_STARTED] = {check_started, effect_started},
        [HA_CMD_STOP] = {check_stop, effect_stop},
        [HA_CMD_NOT_RUNNING] = {check_not_running, effect_not_running},
        [HA_CMD_CLEAR] = {check_clear, effect_clear},
    };

    if (type >= sizeof(rules) / sizeof(rules[0]) || !rules[type].check)
        return NULL;
    return &rules[type];
}
