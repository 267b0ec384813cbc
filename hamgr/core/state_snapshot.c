/* SPDX-License-Identifier: Apache-2.0
 *
 * The state as bytes, for snapshots: a head, the nodes, the guests, a digest over all of it. The
 * same state always gives the same bytes. What is read back is believed only field by field, and
 * then only if it holds together as a state.
 */
#include <string.h>

#include "hamgr/base/err.h"
#include "hamgr/core/state_internal.h"
#include "hamgr/hv/hv.h"

#define SNAPSHOT_MAGIC    0x54534148u /* "HAST" */
#define SNAPSHOT_VERSION  3u
#define SNAPSHOT_NO_PROTO 2u /* up to here without proto */
#define SNAPSHOT_OLDEST   1u /* without on_slow in tickets */
#define DIGEST_SIZE       16u

/* Upper bounds in bytes; texts with their u16 length, without NUL.
 * Head: magic 4, version 2, cluster 16, generation 8, name 65, disarmed 1, applied 8, digest 16,
 * view 12, incarnation 8, floor 8, proto 2, two counts 8, digest 16 = 174. */
#define HEAD_MAX 174u
/* Node: id 4, name 65, addr 65, status 1, seven flags 7, incarnation 8, nonce 8, four ids 64,
 * proto 4, lease 4, watchdog 4, unarmed 8, memory 8, short 1, evidence 1, detail 129, index 8,
 * wall 8 = 397. */
#define NODE_MAX 397u
/* Guest: id 16, name 65, memory 8, want 1, policy 19, digest 16, size 4, phase 1, stop 1,
 * relocating 1, node 4, incarnation 8, epochs 16, ticket 73, failures 2, failed 1, window 8,
 * last node 4, cause 1, index 8, wall 8 = 265. */
#define GUEST_MAX 265u

size_t ha_state_encoded_max(const struct ha_state *state)
{
    return HEAD_MAX + (size_t)state->node_count * NODE_MAX + (size_t)state->guest_count * GUEST_MAX;
}

/* --- Writing --- */

static void put_node(struct ha_writer *w, const struct ha_node *node)
{
    ha_put_u32(w, node->id);
    ha_put_text(w, node->name);
    ha_put_text(w, node->addr);
    ha_put_u8(w, node->status);
    ha_put_u8(w, node->is_voter);
    ha_put_u8(w, node->is_witness);
    ha_put_u8(w, node->is_maintenance);
    ha_put_u8(w, node->is_frozen);
    ha_put_u8(w, node->is_armed);
    ha_put_u8(w, node->is_fence_wanted);
    ha_put_u8(w, node->is_hold);
    ha_put_u64(w, node->incarnation);
    ha_put_u64(w, node->nonce);
    ha_put_uuid(w, node->store_id);
    ha_put_uuid(w, node->joined_store_id);
    ha_put_uuid(w, node->boot_id);
    ha_put_uuid(w, node->hw_id);
    ha_put_u16(w, node->proto_min);
    ha_put_u16(w, node->proto_max);
    ha_put_u32(w, node->lease_ms);
    ha_put_u32(w, node->watchdog_ms);
    ha_put_u64(w, node->unarmed_index);
    ha_put_u64(w, node->mem_kib);
    ha_put_u8(w, node->is_mem_short);
    ha_put_u8(w, node->evidence);
    ha_put_text(w, node->evidence_detail);
    ha_put_u64(w, node->status_index);
    ha_put_u64(w, node->status_wall_ms);
}

static void put_policy(struct ha_writer *w, const struct ha_policy *policy)
{
    ha_put_u16(w, policy->priority);
    ha_put_u16(w, policy->start_order);
    ha_put_u16(w, policy->restart_max);
    ha_put_u32(w, policy->restart_window_s);
    ha_put_u32(w, policy->stop_timeout_ms);
    ha_put_u32(w, policy->max_downtime_ms);
    ha_put_u8(w, policy->is_protected);
}

static void put_ticket(struct ha_writer *w, const struct ha_ticket *ticket)
{
    ha_put_u64(w, ticket->id);
    ha_put_u32(w, ticket->src);
    ha_put_u32(w, ticket->dst);
    ha_put_u64(w, ticket->src_incarnation);
    ha_put_u64(w, ticket->dst_incarnation);
    ha_put_u64(w, ticket->src_epoch);
    ha_put_u64(w, ticket->dst_epoch);
    ha_put_u32(w, ticket->max_downtime_ms);
    ha_put_u32(w, ticket->deadline_ms);
    ha_put_u64(w, ticket->mono_ms);
    ha_put_u64(w, ticket->wall_ms);
    ha_put_u8(w, ticket->on_slow);
}

static void put_guest(struct ha_writer *w, const struct ha_guest *guest)
{
    ha_put_uuid(w, guest->id);
    ha_put_text(w, guest->name);
    ha_put_u64(w, guest->mem_kib);
    ha_put_u8(w, guest->want);
    put_policy(w, &guest->policy);
    ha_put_digest(w, guest->definition);
    ha_put_u32(w, guest->definition_size);
    ha_put_u8(w, guest->phase);
    ha_put_u8(w, guest->stop_mode);
    ha_put_u8(w, guest->is_relocating);
    ha_put_u32(w, guest->node);
    ha_put_u64(w, guest->incarnation);
    ha_put_u64(w, guest->epoch);
    ha_put_u64(w, guest->epoch_high);
    put_ticket(w, &guest->ticket);
    ha_put_u16(w, guest->failures);
    ha_put_u8(w, guest->is_failed);
    ha_put_u64(w, guest->window_wall_ms);
    ha_put_u32(w, guest->last_node);
    ha_put_u8(w, guest->end_cause);
    ha_put_u64(w, guest->phase_index);
    ha_put_u64(w, guest->phase_wall_ms);
}

static void put_head(struct ha_writer *w, const struct ha_state *state)
{
    ha_put_u32(w, SNAPSHOT_MAGIC);
    ha_put_u16(w, SNAPSHOT_VERSION);
    ha_put_uuid(w, state->cluster_id);
    ha_put_u64(w, state->generation);
    ha_put_text(w, state->name);
    ha_put_u8(w, state->is_disarmed);
    ha_put_u64(w, state->applied);
    ha_put_digest(w, state->digest);
    ha_put_u64(w, state->view.counter);
    ha_put_u32(w, state->view.leader);
    ha_put_u64(w, state->incarnation_high);
    ha_put_u64(w, state->epoch_floor);
    ha_put_u16(w, state->proto);
}

int64_t ha_state_encode(const struct ha_state *state, uint8_t *buffer, size_t size)
{
    static const struct ha_digest none;
    struct ha_writer w = ha_writer_of(buffer, size);

    put_head(&w, state);
    ha_put_u32(&w, state->node_count);
    for (uint32_t i = 0; i < state->node_count; i++)
        put_node(&w, &state->nodes[i]);
    ha_put_u32(&w, state->guest_count);
    for (uint32_t i = 0; i < state->guest_count; i++)
        put_guest(&w, &state->guests[i]);
    if (w.failed)
        return -HA_E_LIMIT;
    ha_put_digest(&w, ha_digest_bytes(none, buffer, w.position));
    return w.failed ? -HA_E_LIMIT : (int64_t)w.position;
}

/* --- Reading --- */

static bool get_bool(struct ha_reader *r)
{
    uint8_t value = ha_get_u8(r);

    if (value > 1)
        r->failed = true;
    return value == 1;
}

static uint8_t get_enum(struct ha_reader *r, uint8_t last)
{
    uint8_t value = ha_get_u8(r);

    if (value > last)
        r->failed = true;
    return r->failed ? 0 : value;
}

static void get_name(struct ha_reader *r, char *ret_name)
{
    ha_get_text(r, ret_name, HA_NAME_MAX);
    if (!ha_name_is_valid(ret_name))
        r->failed = true;
}

static void get_node(struct ha_reader *r, struct ha_node *node)
{
    memset(node, 0, sizeof(*node));
    node->id = ha_get_u32(r);
    get_name(r, node->name);
    ha_get_text(r, node->addr, sizeof(node->addr));
    node->status = get_enum(r, HA_NODE_LEFT);
    node->is_voter = get_bool(r);
    node->is_witness = get_bool(r);
    node->is_maintenance = get_bool(r);
    node->is_frozen = get_bool(r);
    node->is_armed = get_bool(r);
    node->is_fence_wanted = get_bool(r);
    node->is_hold = get_bool(r);
    node->incarnation = ha_get_u64(r);
    node->nonce = ha_get_u64(r);
    node->store_id = ha_get_uuid(r);
    node->joined_store_id = ha_get_uuid(r);
    node->boot_id = ha_get_uuid(r);
    node->hw_id = ha_get_uuid(r);
    node->proto_min = ha_get_u16(r);
    node->proto_max = ha_get_u16(r);
    node->lease_ms = ha_get_u32(r);
    node->watchdog_ms = ha_get_u32(r);
    node->unarmed_index = ha_get_u64(r);
    node->mem_kib = ha_get_u64(r);
    node->is_mem_short = get_bool(r);
    node->evidence = get_enum(r, HA_EVIDENCE_OPERATOR);
    ha_get_text(r, node->evidence_detail, sizeof(node->evidence_detail));
    node->status_index = ha_get_u64(r);
    node->status_wall_ms = ha_get_u64(r);
}

static void get_policy(struct ha_reader *r, struct ha_policy *policy)
{
    policy->priority = ha_get_u16(r);
    policy->start_order = ha_get_u16(r);
    policy->restart_max = ha_get_u16(r);
    policy->restart_window_s = ha_get_u32(r);
    policy->stop_timeout_ms = ha_get_u32(r);
    policy->max_downtime_ms = ha_get_u32(r);
    policy->is_protected = get_bool(r);
    if (!state_policy_is_valid(policy))
        r->failed = true;
}

static void get_ticket(struct ha_reader *r, uint16_t version, struct ha_ticket *ticket)
{
    ticket->id = ha_get_u64(r);
    ticket->src = ha_get_u32(r);
    ticket->dst = ha_get_u32(r);
    ticket->src_incarnation = ha_get_u64(r);
    ticket->dst_incarnation = ha_get_u64(r);
    ticket->src_epoch = ha_get_u64(r);
    ticket->dst_epoch = ha_get_u64(r);
    ticket->max_downtime_ms = ha_get_u32(r);
    ticket->deadline_ms = ha_get_u32(r);
    ticket->mono_ms = ha_get_u64(r);
    ticket->wall_ms = ha_get_u64(r);
    ticket->on_slow = version == SNAPSHOT_OLDEST ? 0 : get_enum(r, HV_SLOW_ABORT);
}

static void get_guest(struct ha_reader *r, uint16_t version, struct ha_guest *guest)
{
    memset(guest, 0, sizeof(*guest));
    guest->id = ha_get_uuid(r);
    get_name(r, guest->name);
    guest->mem_kib = ha_get_u64(r);
    guest->want = get_enum(r, HA_WANT_STARTED);
    get_policy(r, &guest->policy);
    guest->definition = ha_get_digest(r);
    guest->definition_size = ha_get_u32(r);
    guest->phase = get_enum(r, HA_PHASE_COUNT - 1);
    guest->stop_mode = get_enum(r, HA_STOP_DESTROY);
    guest->is_relocating = get_bool(r);
    guest->node = ha_get_u32(r);
    guest->incarnation = ha_get_u64(r);
    guest->epoch = ha_get_u64(r);
    guest->epoch_high = ha_get_u64(r);
    get_ticket(r, version, &guest->ticket);
    guest->failures = ha_get_u16(r);
    guest->is_failed = get_bool(r);
    guest->window_wall_ms = ha_get_u64(r);
    guest->last_node = ha_get_u32(r);
    guest->end_cause = get_enum(r, HA_END_LOST);
    guest->phase_index = ha_get_u64(r);
    guest->phase_wall_ms = ha_get_u64(r);
    if (guest->definition_size > HA_DEFINITION_MAX)
        r->failed = true;
}

static void get_head(struct ha_reader *r, uint16_t version, struct ha_state *state)
{
    state->cluster_id = ha_get_uuid(r);
    state->generation = ha_get_u64(r);
    get_name(r, state->name);
    state->is_disarmed = get_bool(r);
    state->applied = ha_get_u64(r);
    state->digest = ha_get_digest(r);
    state->view.counter = ha_get_u64(r);
    state->view.leader = ha_get_u32(r);
    state->incarnation_high = ha_get_u64(r);
    state->epoch_floor = ha_get_u64(r);
    state->proto = version <= SNAPSHOT_NO_PROTO ? 0 : ha_get_u16(r);
}

static void get_tables(struct ha_reader *r, uint16_t version, struct ha_state *state)
{
    uint32_t node_count = ha_get_u32(r);

    if (node_count > HA_NODES_MAX)
        r->failed = true;
    for (uint32_t i = 0; !r->failed && i < node_count; i++)
        get_node(r, &state->nodes[state->node_count++]);
    uint32_t guest_count = ha_get_u32(r);
    if (guest_count > state->guest_capacity)
        r->failed = true;
    for (uint32_t i = 0; !r->failed && i < guest_count; i++)
        get_guest(r, version, &state->guests[state->guest_count++]);
}

/* Names are compared pair by pair: up to 8 million short compares, once per received snapshot. */
static bool names_are_unique(const struct ha_state *state)
{
    for (uint32_t i = 1; i < state->guest_count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(state->guests[i].name, state->guests[j].name) == 0)
                return false;
        }
    }
    return true;
}

static int decode(struct ha_state *state, const uint8_t *data, size_t size)
{
    static const struct ha_digest none;

    if (size < HEAD_MAX - HA_NAME_MAX - sizeof(uint16_t))
        return -HA_E_CORRUPT;
    struct ha_reader tail = ha_reader_of(data + size - DIGEST_SIZE, DIGEST_SIZE);
    struct ha_reader r = ha_reader_of(data, size - DIGEST_SIZE);
    if (ha_get_u32(&r) != SNAPSHOT_MAGIC)
        return -HA_E_CORRUPT;
    uint16_t version = ha_get_u16(&r);
    if (version < SNAPSHOT_OLDEST || version > SNAPSHOT_VERSION)
        return -HA_E_VERSION;
    if (!ha_digest_equal(ha_get_digest(&tail), ha_digest_bytes(none, data, size - DIGEST_SIZE)))
        return -HA_E_CORRUPT;
    get_head(&r, version, state);
    get_tables(&r, version, state);
    if (!ha_reader_is_done(&r) || ha_state_violation(state) || !names_are_unique(state))
        return -HA_E_CORRUPT;
    return 0;
}

int ha_state_decode(struct ha_state *state, const uint8_t *data, size_t size)
{
    ha_state_init(state, state->guests, state->guest_capacity);
    int rc = decode(state, data, size);
    /* Half a state is worse than none. */
    if (rc < 0)
        ha_state_init(state, state->guests, state->guest_capacity);
    return rc;
}
