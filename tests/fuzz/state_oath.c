/* SPDX-License-Identifier: Apache-2.0
 *
 * See state_oath.h.
 */
#include "tests/fuzz/state_oath.h"

#include <string.h>

void oath_copy(const struct ha_state *state, struct oath_copy *ret_copy)
{
    ret_copy->state = *state;
    memcpy(ret_copy->guests, state->guests, state->guest_count * sizeof(state->guests[0]));
    ret_copy->state.guests = ret_copy->guests;
}

bool oath_is_same(const struct ha_state *a, const struct ha_state *b)
{
    struct ha_state left = *a, right = *b;

    left.applied = right.applied = 0;
    left.digest = right.digest = (struct ha_digest){0};
    left.guests = right.guests = NULL;
    return memcmp(&left, &right, sizeof(left)) == 0 &&
           memcmp(a->guests, b->guests, a->guest_count * sizeof(a->guests[0])) == 0;
}

static const struct ha_node *node_of(const struct ha_state *state, uint32_t id)
{
    for (uint32_t i = 0; i < state->node_count; i++)
        if (state->nodes[i].id == id)
            return &state->nodes[i];
    return NULL;
}

static const struct ha_guest *guest_of(const struct ha_state *state, struct ha_uuid id)
{
    for (uint32_t i = 0; i < state->guest_count; i++)
        if (memcmp(&state->guests[i].id, &id, sizeof(id)) == 0)
            return &state->guests[i];
    return NULL;
}

static bool may_run_there(const struct ha_state *state, uint32_t id, uint64_t incarnation)
{
    const struct ha_node *node = node_of(state, id);

    return node && node->incarnation == incarnation && !node->is_witness &&
           (node->status == HA_NODE_MEMBER || node->status == HA_NODE_UNCLEAN);
}

static bool is_name(const char *text, size_t size)
{
    return text[0] != '\0' && memchr(text, '\0', size) != NULL;
}

static const char *oath_nodes(const struct ha_state *state)
{
    uint32_t voters = 0;

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *node = &state->nodes[i];
        voters += node->is_voter;
        if (node->id == 0 || (i > 0 && node->id <= state->nodes[i - 1].id))
            return "node ids are not ascending";
        if (!is_name(node->name, sizeof(node->name)))
            return "a node has no name";
        if (node->incarnation > state->incarnation_high)
            return "an incarnation is above the highest given";
        if (node->is_armed && (state->is_disarmed || node->is_frozen || node->lease_ms == 0 ||
                               node->watchdog_ms == 0))
            return "I6: armed without a keeper that works";
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(state->nodes[j].name, node->name) == 0)
                return "two nodes of one name";
            if (node->incarnation && node->incarnation == state->nodes[j].incarnation)
                return "two nodes of one incarnation";
        }
    }
    return state->applied > 0 && voters == 0 ? "nobody has a vote" : NULL;
}

static const char *oath_ticket(const struct ha_state *state, const struct ha_guest *g)
{
    const struct ha_ticket *t = &g->ticket;
    bool moves = g->phase == HA_PHASE_MIGRATING || g->phase == HA_PHASE_SWITCHED;

    if (!moves)
        return t->id != 0 ? "a ticket of a guest that does not move" : NULL;
    if (t->id == 0 || t->id > state->applied || t->src == t->dst)
        return "a move without a proper ticket";
    if (t->dst_epoch <= t->src_epoch || t->dst_epoch > g->epoch_high)
        return "I4: the arriving copy has no epoch of its own";
    if (g->node != (g->phase == HA_PHASE_MIGRATING ? t->src : t->dst))
        return "I8: the wrong end owns a guest that moves";
    if (!may_run_there(state, t->dst, t->dst_incarnation))
        return "a move to a node that may not run it";
    return NULL;
}

static const char *oath_guests(const struct ha_state *state)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        const struct ha_guest *g = &state->guests[i];
        if (i > 0 && memcmp(&state->guests[i - 1].id, &g->id, sizeof(g->id)) >= 0)
            return "guests are not ascending";
        if (!is_name(g->name, sizeof(g->name)) || g->mem_kib == 0)
            return "a guest without name or memory";
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(state->guests[j].name, g->name) == 0)
                return "two guests of one name";
        if (g->epoch > g->epoch_high)
            return "I4: an epoch nobody reserved";
        if (g->phase == HA_PHASE_FREE && g->node != 0)
            return "a free guest with an owner";
        if (g->phase != HA_PHASE_FREE && !may_run_there(state, g->node, g->incarnation))
            return "I3: an owner that may not run it";
        const char *broken = oath_ticket(state, g);
        if (broken)
            return broken;
    }
    return NULL;
}

/* Both ends of a move hold its memory; a source that is gone does not. */
static uint64_t held_kib(const struct ha_guest *g, uint32_t node)
{
    bool is_source = g->ticket.id && g->ticket.src == node && g->ticket.src_incarnation;
    bool is_destination = g->ticket.id && g->ticket.dst == node;

    return g->phase != HA_PHASE_FREE && (g->node == node || is_source || is_destination)
               ? g->mem_kib
               : 0;
}

static const char *oath_memory(const struct ha_state *state)
{
    for (uint32_t i = 0; i < state->node_count; i++) {
        uint64_t left_kib = state->nodes[i].mem_kib;
        for (uint32_t j = 0; j < state->guest_count; j++) {
            uint64_t kib = held_kib(&state->guests[j], state->nodes[i].id);
            if (kib > left_kib && !state->nodes[i].is_mem_short)
                return "I14: memory promised twice";
            left_kib -= kib < left_kib ? kib : left_kib;
        }
    }
    return NULL;
}

const char *oath_state(const struct ha_state *state)
{
    const char *broken = oath_nodes(state);

    if (!broken)
        broken = oath_guests(state);
    return broken ? broken : oath_memory(state);
}

/* The arrows of state.h between two different phases. */
static bool is_arrow(uint8_t from, uint8_t to, uint8_t type)
{
    if (to == HA_PHASE_FREE) /* proof from the owner, evidence, or a return with another boot */
        return type == HA_CMD_NOT_RUNNING || type == HA_CMD_FENCED || type == 0;
    switch (from) {
    case HA_PHASE_FREE:
        return to == HA_PHASE_ASSIGNED && type == HA_CMD_ASSIGN;
    case HA_PHASE_ASSIGNED:
        return (to == HA_PHASE_RUNNING && type == HA_CMD_STARTED) ||
               (to == HA_PHASE_STOPPING && type == HA_CMD_STOP);
    case HA_PHASE_RUNNING:
        return (to == HA_PHASE_STOPPING && type == HA_CMD_STOP) ||
               (to == HA_PHASE_MIGRATING && type == HA_CMD_MIGRATE);
    case HA_PHASE_MIGRATING: /* a destination that is fenced, or back without the copy, aborts */
        return (to == HA_PHASE_SWITCHED && type == HA_CMD_SWITCH) ||
               (to == HA_PHASE_RUNNING &&
                (type == HA_CMD_ABORT || type == HA_CMD_FENCED || type == 0));
    case HA_PHASE_SWITCHED:
        return to == HA_PHASE_RUNNING && (type == HA_CMD_ARRIVED || type == HA_CMD_REVERT);
    default:
        return false;
    }
}

static const char *oath_owner(const struct ha_guest *a, const struct ha_guest *b, uint8_t type)
{
    bool was_owned = a->phase != HA_PHASE_FREE, is_owned = b->phase != HA_PHASE_FREE;

    if (a->phase != b->phase && !is_arrow(a->phase, b->phase, type))
        return "a phase changed where no arrow is";
    if (was_owned && is_owned && a->node != b->node && type != HA_CMD_SWITCH &&
        type != HA_CMD_REVERT)
        return "I1: owned by another node without a hand-off";
    if (was_owned && is_owned && a->node == b->node && a->epoch != b->epoch)
        return "I4: the running copy's label changed";
    if (was_owned && is_owned && a->node == b->node && a->incarnation != b->incarnation &&
        type != 0)
        return "I4: the owner's incarnation changed without an OPEN";
    if (!was_owned && is_owned && b->epoch <= a->epoch_high)
        return "I4: a new copy with an old epoch";
    if (b->epoch_high < a->epoch_high)
        return "I4: epochs go back";
    return NULL;
}

/* A guest of a node that is gone is freed by evidence about that very node only. */
static const char *oath_freed(const struct ha_state *before, const struct ha_state *after,
                              const struct ha_guest *a, const struct ha_guest *b, uint8_t type)
{
    const struct ha_node *owner = node_of(before, a->node), *now = node_of(after, a->node);

    if (a->phase == HA_PHASE_FREE || b->phase != HA_PHASE_FREE || !owner)
        return NULL;
    if (owner->status == HA_NODE_UNCLEAN && type == HA_CMD_FENCED &&
        (!now || now->status != HA_NODE_FENCED || now->incarnation != a->incarnation))
        return "I3: freed by the fencing of somebody else";
    if (type == HA_CMD_FENCED && (before->is_disarmed || owner->status != HA_NODE_UNCLEAN))
        return "I11: fenced while disarmed, or while it was a member";
    if (type == 0 && now && now->incarnation == a->incarnation)
        return "I3: freed by a view although its incarnation goes on";
    return NULL;
}

const char *oath_step(const struct ha_state *before, const struct ha_state *after, uint8_t type)
{
    if (after->incarnation_high < before->incarnation_high ||
        after->epoch_floor < before->epoch_floor)
        return "I4: numbers go back";
    for (uint32_t i = 0; i < after->guest_count; i++) {
        const struct ha_guest *b = &after->guests[i], *a = guest_of(before, b->id);
        if (!a && (b->phase != HA_PHASE_FREE || b->epoch_high < before->epoch_floor))
            return "I4: a new guest runs, or may reuse an epoch";
        const char *broken = a ? oath_owner(a, b, type) : NULL;
        if (a && !broken)
            broken = oath_freed(before, after, a, b, type);
        if (broken)
            return broken;
    }
    for (uint32_t i = 0; i < before->guest_count; i++) {
        const struct ha_guest *a = &before->guests[i];
        if (!guest_of(after, a->id) &&
            (a->phase != HA_PHASE_FREE || after->epoch_floor < a->epoch_high))
            return "I9: forgotten while it may run, or with its epochs";
    }
    return NULL;
}
