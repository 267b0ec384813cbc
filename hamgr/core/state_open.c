/* SPDX-License-Identifier: Apache-2.0
 *
 * What a new view does to the nodes: who is a member under which incarnation, whose guests are kept
 * or freed, who is UNCLEAN now. And voters, which the log itself counts; here for people and for
 * snapshots.
 */
#include <stdio.h>
#include <string.h>

#include "hamgr/base/err.h"
#include "hamgr/core/state_internal.h"

static const struct log_member *find_member(const struct log_open *open, uint32_t node)
{
    for (uint32_t i = 0; i < open->member_count; i++) {
        if (open->members[i].node == node)
            return &open->members[i];
    }
    return NULL;
}

enum identity {
    IDENTITY_OTHER,     /* not known to be the machine that joined last under this id */
    IDENTITY_SAME_BOOT, /* the same kernel is still up */
    IDENTITY_REBOOTED,  /* the same machine, under another kernel since */
};

/* A boot id says something only about one machine: a spare host with a cloned disk has a new one
 * too, while the old host runs on. An id that could not be read is zero and proves nothing. */
static enum identity identify(const struct ha_node *node, const struct log_member *member)
{
    if (node->incarnation == 0 || ha_uuid_is_zero(member->boot_id) ||
        !ha_uuid_equal(node->joined_store_id, member->store_id) ||
        !ha_uuid_equal(node->hw_id, member->hw_id))
        return IDENTITY_OTHER;
    if (ha_uuid_equal(node->boot_id, member->boot_id))
        return IDENTITY_SAME_BOOT;
    if (ha_uuid_is_zero(member->hw_id) || ha_uuid_is_zero(node->boot_id))
        return IDENTITY_OTHER;
    return IDENTITY_REBOOTED;
}

/* The guests and tickets of the node's present incarnation go on under the next one. */
static void follow(struct ha_state *state, uint32_t node, uint64_t incarnation)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        struct ha_guest *guest = &state->guests[i];
        if (guest->phase == HA_PHASE_FREE)
            continue;
        if (guest->node == node)
            guest->incarnation = incarnation;
        if (guest->ticket.id == 0)
            continue;
        if (guest->ticket.src == node && guest->ticket.src_incarnation != 0)
            guest->ticket.src_incarnation = incarnation;
        if (guest->ticket.dst == node)
            guest->ticket.dst_incarnation = incarnation;
    }
}

static void take_identity(struct ha_node *node, const struct log_member *member)
{
    node->nonce = member->nonce;
    node->joined_store_id = member->store_id;
    if (!node->is_voter)
        node->store_id = member->store_id;
    node->boot_id = member->boot_id;
    node->hw_id = member->hw_id;
    node->proto_min = member->proto_min;
    node->proto_max = member->proto_max;
}

/* The kernel that ran its guests is gone: as good as fenced. */
static void reboot(struct ha_state *state, const struct log_entry *entry, struct ha_node *node)
{
    static const char detail[] = "it came back with a new boot";

    state_release(state, entry, node->id);
    if (node->status != HA_NODE_MEMBER && node->status != HA_NODE_UNCLEAN)
        return;
    node->evidence = HA_EVIDENCE_REBOOT;
    memset(node->evidence_detail, 0, sizeof(node->evidence_detail));
    memcpy(node->evidence_detail, detail, sizeof(detail));
}

static void begin_incarnation(struct ha_state *state, const struct log_entry *entry,
                              struct ha_node *node, const struct log_member *member)
{
    node->incarnation = state->incarnation_high;
    take_identity(node, member);
    node->is_armed = false;
    /* A look at the keeper from before may rest on an arming that an order still under way ends. */
    node->unarmed_index = entry->index;
    node->is_fence_wanted = false;
    node->is_hold = false;
    state_node_set_status(node, entry, HA_NODE_MEMBER);
}

/* False if the member may not come under this node's id now. */
static bool join(struct ha_state *state, const struct log_entry *entry, struct ha_node *node,
                 const struct log_member *member)
{
    enum identity identity = identify(node, member);

    if (identity == IDENTITY_OTHER &&
        (state_node_is_owner(state, node->id) || state_node_is_ticket_end(state, node->id)))
        return false;
    state->incarnation_high++;
    if (identity == IDENTITY_SAME_BOOT) {
        follow(state, node->id, state->incarnation_high);
    } else {
        /* Another boot begins without a lease; within one, the longest L and W stay (ARMED). */
        node->lease_ms = 0;
        node->watchdog_ms = 0;
    }
    if (identity == IDENTITY_REBOOTED)
        reboot(state, entry, node);
    begin_incarnation(state, entry, node, member);
    return true;
}

/* An incarnation that was in the directly preceding view may be fenced at once if this view
 * follows it without a gap. After a gap all absentees, old and new, get the time H to come back. */
static void absent(const struct log_entry *entry, const struct log_open *open, struct ha_node *node)
{
    if (node->status == HA_NODE_MEMBER) {
        state_node_set_status(node, entry, HA_NODE_UNCLEAN);
        node->is_hold = !open->is_continuous;
    } else if (node->status == HA_NODE_UNCLEAN && !open->is_continuous) {
        node->is_hold = true;
    }
}

int state_apply_open(struct ha_state *state, const struct log_entry *entry, uint16_t *ret_refusal)
{
    struct log_open open;
    int rc = log_open_decode(entry->body, entry->body_size, &open);

    if (rc < 0)
        return rc;
    *ret_refusal = HA_REASON_NONE;
    state->view = open.view;
    if (log_open_proto(&open) > state->proto)
        state->proto = log_open_proto(&open);
    for (uint32_t i = 0; i < state->node_count; i++) {
        struct ha_node *node = &state->nodes[i];
        const struct log_member *member = find_member(&open, node->id);
        if (member && node->status == HA_NODE_MEMBER && node->nonce == member->nonce)
            continue;
        if (member && join(state, entry, node, member))
            continue;
        if (member)
            *ret_refusal = HA_REASON_BAD_IDENTITY;
        absent(entry, &open, node);
    }
    return 0;
}

/* The log counts a voter whether or not the state knew the node, so it must be kept here too, or a
 * snapshot would lose a vote. The name is free: at most HA_NODES_MAX - 1 others exist. */
static struct ha_node *insert_bare(struct ha_state *state, const struct log_entry *entry,
                                   uint32_t id)
{
    char name[HA_NAME_MAX];

    for (unsigned suffix = 0; suffix < HA_NODES_MAX; suffix++) {
        snprintf(name, sizeof(name), "node-%u-%u", id, suffix);
        if (ha_state_node_by_name(state, name))
            continue;
        struct ha_node *node = state_node_insert(state, id);
        if (!node)
            return NULL;
        memcpy(node->name, name, strlen(name) + 1);
        state_node_set_status(node, entry, HA_NODE_NEW);
        return node;
    }
    return NULL;
}

static uint16_t add_voter(struct ha_state *state, const struct log_entry *entry,
                          const struct log_voter_change *change)
{
    struct ha_node *node = state_node_find(state, change->node);

    if (!node)
        node = insert_bare(state, entry, change->node);
    if (!node)
        return HA_REASON_LIMIT;
    if (node->is_voter && ha_uuid_equal(node->store_id, change->store_id))
        return HA_REASON_ALREADY;
    node->is_voter = true;
    node->store_id = change->store_id;
    return HA_REASON_NONE;
}

static uint16_t remove_voter(struct ha_state *state, const struct log_voter_change *change)
{
    struct ha_node *node = state_node_find(state, change->node);

    if (!node)
        return HA_REASON_NO_SUCH_NODE;
    if (!node->is_voter)
        return HA_REASON_ALREADY;
    node->is_voter = false;
    if (node->incarnation != 0)
        node->store_id = node->joined_store_id;
    return HA_REASON_NONE;
}

int state_apply_voter(struct ha_state *state, const struct log_entry *entry, uint16_t *ret_refusal)
{
    struct log_voter_change change;
    int rc = log_voter_change_decode(entry->body, entry->body_size, &change);

    if (rc < 0)
        return rc;
    if (change.node == 0)
        return -HA_E_CORRUPT;
    *ret_refusal =
        change.is_added ? add_voter(state, entry, &change) : remove_voter(state, &change);
    return 0;
}
