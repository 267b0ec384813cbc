/* SPDX-License-Identifier: Apache-2.0
 *
 * The state as bytes: there and back, every truncation and every changed byte refused, bounds that
 * hold for the largest state, and nothing believed that does not hold together.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/base/err.h"
#include "tests/lib/builders.h"

#define SNAPSHOT_MAX 65536u

static uint8_t bytes[SNAPSHOT_MAX];

/* A bit of everything: each phase, each status but NEW, a removed guest, failures. */
static struct build *varied_state(void)
{
    struct build *b = build_new(16);

    build_ready(b, 5);
    for (uint32_t guest = 1; guest <= 8; guest++)
        build_guest(b, guest, HA_WANT_STARTED);
    for (uint8_t phase = 0; phase < HA_PHASE_COUNT; phase++)
        build_phase(b, phase + 1u, phase, 1, 2);
    build_phase(b, 7, HA_PHASE_RUNNING, 3, 2);
    build_not_running(b, 7, HA_END_CRASHED);
    build_want(b, 8, HA_WANT_STOPPED);
    build_node_cmd(b, HA_CMD_LEAVE, 4);
    build_maintenance(b, 3, true);
    build_capacity(b, 2, 1);
    build_node_cmd(b, HA_CMD_FREEZE, 2);
    BUILD_OPEN(b, false, 1, 2, 3);
    build_fenced(b, 5, HA_EVIDENCE_LEASE);
    build_voter(b, false, 5);
    BUILD_OPEN(b, false, 2, 3);
    build_node_cmd(b, HA_CMD_FENCE_WANT, 1);
    assert_null(ha_state_violation(&b->state));
    return b;
}

static size_t encode(const struct ha_state *state, uint8_t *data, size_t size)
{
    int64_t length = ha_state_encode(state, data, size);

    assert_true(length > 0);
    assert_true((size_t)length <= ha_state_encoded_max(state));
    return (size_t)length;
}

/* The entries that show which protocol was spoken are gone behind a snapshot; the fact is not
 * (I12). */
static void a_snapshot_keeps_the_protocol(void **unused)
{
    struct build *b = build_new(16);
    struct build *copy = build_new(16);

    (void)unused;
    build_ready(b, 3);
    for (uint32_t node = 1; node <= 3; node++)
        b->self[node].proto_max = 7;
    build_restart(b, 1);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_int_equal(b->state.proto, 7);
    b->self[2].proto_max = 6;
    BUILD_OPEN(b, true, 1, 2, 3); /* older ones may be named again; what was written was written */
    assert_int_equal(b->state.proto, 7);
    size_t size = encode(&b->state, bytes, sizeof(bytes));
    assert_int_equal(ha_state_decode(&copy->state, bytes, size), 0);
    assert_int_equal(copy->state.proto, 7);
    build_free(copy);
    build_free(b);
}

static void round_trip_gives_the_same_state(void **unused)
{
    struct build *b = varied_state();
    struct build *copy = build_new(16);
    static uint8_t again[SNAPSHOT_MAX];

    (void)unused;
    size_t size = encode(&b->state, bytes, sizeof(bytes));
    assert_int_equal(ha_state_decode(&copy->state, bytes, size), 0);
    assert_int_equal(encode(&copy->state, again, sizeof(again)), size);
    assert_memory_equal(again, bytes, size);
    assert_int_equal(copy->state.applied, b->state.applied);
    assert_true(ha_digest_equal(copy->state.digest, b->state.digest));
    assert_int_equal(copy->state.guest_count, 8);
    for (uint32_t i = 0; i < 8; i++)
        assert_memory_equal(&copy->state.guests[i], &b->state.guests[i],
                            offsetof(struct ha_guest, policy));
    /* It replaces whatever was there. */
    assert_int_equal(ha_state_decode(&copy->state, bytes, size), 0);
    assert_int_equal(copy->state.guest_count, 8);
    build_free(copy);
    build_free(b);
}

static void an_empty_cluster_round_trips(void **unused)
{
    struct build *b = build_new(1);
    struct build *copy = build_new(1);

    (void)unused;
    build_nodes(b, 1);
    size_t size = encode(&b->state, bytes, sizeof(bytes));
    assert_int_equal(ha_state_decode(&copy->state, bytes, size), 0);
    assert_string_equal(copy->state.name, "test");
    build_free(copy);
    build_free(b);
}

/* Exactly as many bytes as claimed, so that a sanitizer sees a read behind them. */
static int decode_exact(struct ha_state *state, const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);

    assert_non_null(exact);
    memcpy(exact, data, size);
    int rc = ha_state_decode(state, exact, size);
    free(exact);
    return rc;
}

static void every_truncation_is_corrupt(void **unused)
{
    struct build *b = varied_state();
    struct build *copy = build_new(16);
    size_t size = encode(&b->state, bytes, sizeof(bytes));

    (void)unused;
    for (size_t cut = 0; cut < size; cut++) {
        assert_int_equal(decode_exact(&copy->state, bytes, cut), -HA_E_CORRUPT);
        assert_int_equal(copy->state.applied, 0);
        assert_int_equal(copy->state.node_count, 0);
        assert_int_equal(copy->state.guest_count, 0);
    }
    bytes[size] = 0;
    assert_int_equal(decode_exact(&copy->state, bytes, size + 1), -HA_E_CORRUPT);
    build_free(copy);
    build_free(b);
}

static void every_changed_byte_is_noticed(void **unused)
{
    struct build *b = varied_state();
    struct build *copy = build_new(16);
    size_t size = encode(&b->state, bytes, sizeof(bytes));

    (void)unused;
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 0x41;
        int rc = decode_exact(&copy->state, bytes, size);
        assert_int_equal(rc, i == 4 || i == 5 ? -HA_E_VERSION : -HA_E_CORRUPT);
        bytes[i] ^= 0x41;
    }
    assert_int_equal(decode_exact(&copy->state, bytes, size), 0);
    build_free(copy);
    build_free(b);
}

static void seal(uint8_t *data, size_t size)
{
    static const struct ha_digest none;
    struct ha_writer w = ha_writer_of(data + size - 16, 16);

    ha_put_digest(&w, ha_digest_bytes(none, data, size - 16));
}

/* Under a right digest the fields themselves must hold: what is accepted is a sound state, and it
 * encodes to the same bytes. */
static void forged_fields_are_refused_or_sound(void **unused)
{
    struct build *b = varied_state();
    struct build *copy = build_new(16);
    static uint8_t forged[SNAPSHOT_MAX], again[SNAPSHOT_MAX];
    size_t size = encode(&b->state, bytes, sizeof(bytes));
    struct ha_rng rng = {.state = 2};
    unsigned accepted = 0;

    (void)unused;
    for (unsigned round = 0; round < 60000; round++) {
        memcpy(forged, bytes, size);
        for (uint64_t flips = 1 + ha_rng_below(&rng, 3); flips > 0; flips--)
            forged[6 + ha_rng_below(&rng, size - 22)] = (uint8_t)ha_rng_next(&rng);
        seal(forged, size);
        if (ha_state_decode(&copy->state, forged, size) < 0)
            continue;
        accepted++;
        assert_null(ha_state_violation(&copy->state));
        assert_int_equal(encode(&copy->state, again, sizeof(again)), size);
        assert_memory_equal(again, forged, size);
    }
    assert_true(accepted > 0);
    build_free(copy);
    build_free(b);
}

static void too_small_a_buffer_is_a_limit(void **unused)
{
    struct build *b = varied_state();
    size_t size = encode(&b->state, bytes, sizeof(bytes));

    (void)unused;
    for (size_t room = 0; room < size; room++)
        assert_int_equal(ha_state_encode(&b->state, bytes, room), -HA_E_LIMIT);
    assert_int_equal(ha_state_encode(&b->state, bytes, size), size);
    build_free(b);
}

static void more_guests_than_room_is_refused(void **unused)
{
    struct build *b = varied_state();
    struct build *copy = build_new(7);
    size_t size = encode(&b->state, bytes, sizeof(bytes));

    (void)unused;
    assert_int_equal(ha_state_decode(&copy->state, bytes, size), -HA_E_CORRUPT);
    build_free(copy);
    build_free(b);
}

static void fill(char *text, size_t capacity, uint32_t number)
{
    memset(text, 'x', capacity - 1);
    text[capacity - 1] = '\0';
    snprintf(text, capacity, "%08u", number);
    text[8] = 'x';
}

/* Every text at its longest, every table full: the stated bound must hold, exactly. */
static void the_largest_state_fits_its_bound(void **unused)
{
    struct build *b = build_new(HA_GUESTS_MAX);
    struct build *copy = build_new(HA_GUESTS_MAX);

    (void)unused;
    build_nodes(b, HA_NODES_MAX);
    memset(b->state.name, 'c', sizeof(b->state.name) - 1);
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        struct ha_node *node = &b->state.nodes[i];
        fill(node->name, sizeof(node->name), i);
        memset(node->addr, '1', sizeof(node->addr) - 1);
        memset(node->evidence_detail, 'd', sizeof(node->evidence_detail) - 1);
    }
    for (uint32_t i = 0; i < HA_GUESTS_MAX; i++) {
        struct ha_guest *guest = &b->state.guests[i];
        memset(guest, 0, sizeof(*guest));
        guest->id = build_uuid(i + 1);
        fill(guest->name, sizeof(guest->name), i);
        guest->mem_kib = 1;
        guest->policy = ha_policy_default();
    }
    b->state.guest_count = HA_GUESTS_MAX;
    assert_null(ha_state_violation(&b->state));
    size_t bound = ha_state_encoded_max(&b->state);
    uint8_t *data = malloc(bound);
    assert_non_null(data);
    assert_int_equal(ha_state_encode(&b->state, data, bound), bound);
    assert_int_equal(ha_state_decode(&copy->state, data, bound), 0);
    assert_int_equal(copy->state.guest_count, HA_GUESTS_MAX);
    assert_string_equal(copy->state.guests[4095].name, b->state.guests[4095].name);
    free(data);
    build_free(copy);
    build_free(b);
}

static void two_guests_of_one_name_are_refused(void **unused)
{
    struct build *b = varied_state();
    struct build *copy = build_new(16);

    (void)unused;
    memcpy(b->state.guests[3].name, b->state.guests[5].name, HA_NAME_MAX);
    size_t size = encode(&b->state, bytes, sizeof(bytes));
    assert_int_equal(ha_state_decode(&copy->state, bytes, size), -HA_E_CORRUPT);
    build_free(copy);
    build_free(b);
}

/* --- What ha_state_violation must notice: each line breaks one thing of a sound state. --- */

struct damage {
    const char *what;
    void (*inflict)(struct ha_state *state);
};

static struct ha_guest *in_phase(struct ha_state *state, uint8_t phase)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        if (state->guests[i].phase == phase)
            return &state->guests[i];
    }
    return NULL;
}

#define DAMAGE(name, statement)                                                                    \
    static void name(struct ha_state *state)                                                       \
    {                                                                                              \
        statement;                                                                                 \
    }
DAMAGE(owner_of_free, in_phase(state, HA_PHASE_FREE)->node = 1)
DAMAGE(no_owner, in_phase(state, HA_PHASE_RUNNING)->node = 0)
DAMAGE(unknown_owner, in_phase(state, HA_PHASE_RUNNING)->node = 99)
DAMAGE(old_owner, in_phase(state, HA_PHASE_RUNNING)->incarnation--)
DAMAGE(dead_owner, state->nodes[0].status = HA_NODE_FENCED)
DAMAGE(left_owner, state->nodes[0].status = HA_NODE_LEFT)
DAMAGE(witness_owner, state->nodes[0].is_witness = true)
DAMAGE(epoch_above, in_phase(state, HA_PHASE_RUNNING)->epoch = 100)
DAMAGE(strange_phase, in_phase(state, HA_PHASE_RUNNING)->phase = HA_PHASE_COUNT)
DAMAGE(stop_mode_running, in_phase(state, HA_PHASE_RUNNING)->stop_mode = HA_STOP_GRACEFUL)
DAMAGE(no_stop_mode, in_phase(state, HA_PHASE_STOPPING)->stop_mode = 0)
DAMAGE(ticket_running, in_phase(state, HA_PHASE_RUNNING)->ticket.id = 3)
DAMAGE(no_ticket, in_phase(state, HA_PHASE_MIGRATING)->ticket.id = 0)
DAMAGE(future_ticket, in_phase(state, HA_PHASE_MIGRATING)->ticket.id = 100000)
DAMAGE(ticket_to_itself, in_phase(state, HA_PHASE_MIGRATING)->ticket.dst = 1)
DAMAGE(switched_to_source, in_phase(state, HA_PHASE_SWITCHED)->node = 1)
DAMAGE(old_destination, in_phase(state, HA_PHASE_MIGRATING)->ticket.dst_incarnation--)
DAMAGE(source_gone_early, in_phase(state, HA_PHASE_MIGRATING)->ticket.src_incarnation = 0)
DAMAGE(epoch_of_ticket, in_phase(state, HA_PHASE_SWITCHED)->ticket.dst_epoch = 1)
DAMAGE(two_promises, state->nodes[0].mem_kib = 1)
DAMAGE(no_memory, state->guests[0].mem_kib = 0)
DAMAGE(guests_swapped, state->guests[0].id.b[0] = 0xff)
DAMAGE(nodes_swapped, state->nodes[0].id = 50)
DAMAGE(node_zero, state->nodes[0].id = 0)
DAMAGE(twin_names, memcpy(state->nodes[1].name, state->nodes[0].name, HA_NAME_MAX))
DAMAGE(twin_incarnations, state->nodes[3].incarnation = state->nodes[4].incarnation)
DAMAGE(incarnation_above, state->incarnation_high = 0)
DAMAGE(joined_never, state->nodes[3].status = HA_NODE_NEW)
DAMAGE(strange_status, state->nodes[3].status = 9)
DAMAGE(frozen_armed, state->nodes[1].is_armed = true)
DAMAGE(fenced_armed, state->nodes[4].is_armed = true)
DAMAGE(armed_disarmed, state->is_disarmed = true)
DAMAGE(armed_without_lease, state->nodes[0].lease_ms = 0)
DAMAGE(member_held, state->nodes[2].is_hold = true)
DAMAGE(left_wanted, state->nodes[3].is_fence_wanted = true)
DAMAGE(future_status, state->nodes[3].status_index = 100000)
DAMAGE(future_phase, state->guests[0].phase_index = 100000)
DAMAGE(future_unarmed, state->nodes[0].unarmed_index = 100000)
DAMAGE(migrating_at_destination, in_phase(state, HA_PHASE_MIGRATING)->node = 2;
       in_phase(state, HA_PHASE_MIGRATING)->incarnation = state->nodes[1].incarnation)
DAMAGE(migrating_other_epoch, in_phase(state, HA_PHASE_MIGRATING)->epoch = 0)
DAMAGE(switched_other_epoch, in_phase(state, HA_PHASE_SWITCHED)->epoch = 1)
DAMAGE(switched_no_ticket, in_phase(state, HA_PHASE_SWITCHED)->ticket.id = 0)
DAMAGE(switched_at_source, in_phase(state, HA_PHASE_SWITCHED)->node = 1;
       in_phase(state, HA_PHASE_SWITCHED)->incarnation = state->nodes[0].incarnation)
DAMAGE(shrinking_epochs, in_phase(state, HA_PHASE_MIGRATING)->ticket.dst_epoch = 1)
DAMAGE(unreserved_epoch, in_phase(state, HA_PHASE_MIGRATING)->ticket.dst_epoch = 50)
DAMAGE(huge_guest, in_phase(state, HA_PHASE_FREE)->mem_kib = UINT64_MAX)
DAMAGE(incarnation_of_free, in_phase(state, HA_PHASE_FREE)->incarnation = 1)
/* Node 3 owns nothing: only as an end of the ticket does it hold memory. */
DAMAGE(promise_to_end, struct ha_guest *guest = in_phase(state, HA_PHASE_MIGRATING);
       guest->ticket.dst = 3; guest->ticket.dst_incarnation = state->nodes[2].incarnation;
       state->nodes[2].mem_kib = 1)
DAMAGE(promise_to_owner, struct ha_guest *guest = in_phase(state, HA_PHASE_RUNNING);
       guest->node = 3; guest->incarnation = state->nodes[2].incarnation;
       state->nodes[2].mem_kib = 1)
DAMAGE(too_many, state->guest_count = state->guest_capacity + 1)

static const struct damage damages[] = {
    {"a free guest has an owner", owner_of_free},
    {"a running guest has none", no_owner},
    {"an owner that is not known", unknown_owner},
    {"an owner's old incarnation", old_owner},
    {"a fenced owner", dead_owner},
    {"an owner that left", left_owner},
    {"a witness as owner", witness_owner},
    {"an epoch never reserved", epoch_above},
    {"a phase that is none", strange_phase},
    {"a stop mode while running", stop_mode_running},
    {"no stop mode while stopping", no_stop_mode},
    {"a ticket while running", ticket_running},
    {"no ticket while migrating", no_ticket},
    {"a ticket of the future", future_ticket},
    {"a ticket to its own source", ticket_to_itself},
    {"switched, but owned by the source", switched_to_source},
    {"an old incarnation of the destination", old_destination},
    {"a source gone while it owns", source_gone_early},
    {"a ticket's epoch not above the old", epoch_of_ticket},
    {"memory promised twice", two_promises},
    {"a guest without memory", no_memory},
    {"guests out of order", guests_swapped},
    {"nodes out of order", nodes_swapped},
    {"a node 0", node_zero},
    {"two nodes of one name", twin_names},
    {"two nodes of one incarnation", twin_incarnations},
    {"an incarnation never given", incarnation_above},
    {"a new node with an incarnation", joined_never},
    {"a status that is none", strange_status},
    {"a frozen node armed", frozen_armed},
    {"a fenced node armed", fenced_armed},
    {"a node armed in a disarmed cluster", armed_disarmed},
    {"a node armed without lease", armed_without_lease},
    {"a member held", member_held},
    {"a node that left is to be fenced", left_wanted},
    {"a status set by the future", future_status},
    {"a phase set by the future", future_phase},
    {"unarmed by the future", future_unarmed},
    {"migrating, but owned by the destination", migrating_at_destination},
    {"migrating at another epoch", migrating_other_epoch},
    {"switched at another epoch", switched_other_epoch},
    {"switched without a ticket", switched_no_ticket},
    {"switched, but owned by the source in full", switched_at_source},
    {"a ticket whose epochs do not grow", shrinking_epochs},
    {"a ticket's epoch never reserved", unreserved_epoch},
    {"a guest larger than any machine", huge_guest},
    {"a free guest with an incarnation", incarnation_of_free},
    {"memory promised twice to a destination", promise_to_end},
    {"memory promised twice to an owner", promise_to_owner},
    {"more guests than room", too_many},
};

static void every_damage_is_a_violation(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct build *b = varied_state();

        damages[i].inflict(&b->state);
        if (!ha_state_violation(&b->state))
            fail_msg("not noticed: %s", damages[i].what);
        build_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_keeps_the_protocol),
        cmocka_unit_test(round_trip_gives_the_same_state),
        cmocka_unit_test(an_empty_cluster_round_trips),
        cmocka_unit_test(every_truncation_is_corrupt),
        cmocka_unit_test(every_changed_byte_is_noticed),
        cmocka_unit_test(forged_fields_are_refused_or_sound),
        cmocka_unit_test(too_small_a_buffer_is_a_limit),
        cmocka_unit_test(more_guests_than_room_is_refused),
        cmocka_unit_test(the_largest_state_fits_its_bound),
        cmocka_unit_test(two_guests_of_one_name_are_refused),
        cmocka_unit_test(every_damage_is_a_violation),
    };

    return cmocka_run_group_tests_name("state: snapshots", tests, NULL, NULL);
}
