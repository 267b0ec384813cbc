/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules about guests as a table: every command in every phase; what is refused, with which
 * reason, and that a refusal changes nothing. And what each command presumes.
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

#define ANY_PHASE 0xff

static void check_sound(const struct build *b)
{
    const char *violation = ha_state_violation(&b->state);

    if (violation)
        fail_msg("violation: %s", violation);
}

static uint16_t try_want_stopped(struct build *b)
{
    return build_want(b, 1, HA_WANT_STOPPED);
}

static uint16_t try_add_again(struct build *b)
{
    return build_guest(b, 1, HA_WANT_STARTED);
}

static uint16_t try_set(struct build *b)
{
    struct ha_policy policy = ha_policy_default();

    policy.priority = 500;
    return build_policy(b, 1, &policy);
}

static uint16_t try_remove_wanted(struct build *b)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_GUEST_REMOVE, 1);

    return build_cmd(b, &cmd);
}

static uint16_t try_remove(struct build *b)
{
    build_want(b, 1, HA_WANT_STOPPED);
    return try_remove_wanted(b);
}

static uint16_t try_assign(struct build *b)
{
    return build_assign(b, 1, 3);
}

static uint16_t try_started(struct build *b)
{
    return build_started(b, 1);
}

static uint16_t try_stop_graceful(struct build *b)
{
    return build_stop(b, 1, HA_STOP_GRACEFUL, false);
}

static uint16_t try_stop_destroy(struct build *b)
{
    return build_stop(b, 1, HA_STOP_DESTROY, false);
}

static uint16_t try_not_running(struct build *b)
{
    return build_not_running(b, 1, HA_END_CRASHED);
}

static uint16_t try_migrate(struct build *b)
{
    return build_migrate(b, 1, 3);
}

static uint16_t try_switch(struct build *b)
{
    return build_move(b, HA_CMD_SWITCH, 1);
}

static uint16_t try_abort(struct build *b)
{
    return build_move(b, HA_CMD_ABORT, 1);
}

static uint16_t try_arrived(struct build *b)
{
    return build_move(b, HA_CMD_ARRIVED, 1);
}

static uint16_t try_revert(struct build *b)
{
    return build_move(b, HA_CMD_REVERT, 1);
}

static uint16_t try_clear(struct build *b)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_CLEAR, 1);

    return build_cmd(b, &cmd);
}

#define OK     HA_REASON_NONE
#define PHASE  HA_REASON_WRONG_PHASE
#define TICKET HA_REASON_TICKET_OPEN
#define STALE  HA_REASON_STALE_TICKET
#define SAME   HA_REASON_ALREADY
#define WANTED HA_REASON_IS_WANTED
#define EXISTS HA_REASON_GUEST_EXISTS

/* Columns: FREE, ASSIGNED, RUNNING, STOPPING, MIGRATING, SWITCHED; then the phase it leads to. */
static const struct {
    const char *name;
    uint16_t (*try)(struct build *b);
    uint16_t reason[HA_PHASE_COUNT];
    uint8_t phase_after; /* when it took effect; ANY_PHASE: as before */
} guest_table[] = {
    {"GUEST_ADD", try_add_again, {EXISTS, EXISTS, EXISTS, EXISTS, EXISTS, EXISTS}, ANY_PHASE},
    {"GUEST_SET", try_set, {OK, OK, OK, OK, OK, OK}, ANY_PHASE},
    {"REMOVE wanted",
     try_remove_wanted,
     {WANTED, WANTED, WANTED, WANTED, WANTED, WANTED},
     ANY_PHASE},
    {"REMOVE", try_remove, {OK, PHASE, PHASE, PHASE, TICKET, TICKET}, ANY_PHASE},
    {"WANT", try_want_stopped, {OK, OK, OK, OK, OK, OK}, ANY_PHASE},
    {"ASSIGN", try_assign, {OK, PHASE, PHASE, PHASE, TICKET, TICKET}, HA_PHASE_ASSIGNED},
    {"STARTED", try_started, {PHASE, OK, SAME, PHASE, PHASE, PHASE}, HA_PHASE_RUNNING},
    {"STOP", try_stop_graceful, {SAME, OK, OK, SAME, TICKET, TICKET}, HA_PHASE_STOPPING},
    {"STOP hard", try_stop_destroy, {SAME, OK, OK, OK, TICKET, TICKET}, HA_PHASE_STOPPING},
    {"NOT_RUNNING", try_not_running, {SAME, OK, OK, OK, OK, OK}, HA_PHASE_FREE},
    {"MIGRATE", try_migrate, {PHASE, PHASE, OK, PHASE, TICKET, TICKET}, HA_PHASE_MIGRATING},
    {"SWITCH", try_switch, {STALE, STALE, STALE, STALE, OK, PHASE}, HA_PHASE_SWITCHED},
    {"ABORT", try_abort, {STALE, STALE, STALE, STALE, OK, PHASE}, HA_PHASE_RUNNING},
    {"ARRIVED", try_arrived, {STALE, STALE, STALE, STALE, PHASE, OK}, HA_PHASE_RUNNING},
    {"REVERT", try_revert, {STALE, STALE, STALE, STALE, PHASE, OK}, HA_PHASE_RUNNING},
    {"CLEAR", try_clear, {SAME, SAME, SAME, SAME, SAME, SAME}, ANY_PHASE},
};

static void check_guest_cell(size_t row, uint8_t phase)
{
    struct build *b = build_new(4);
    struct build_picture before, after;

    build_ready(b, 3);
    assert_int_equal(build_guest(b, 1, HA_WANT_STARTED), 0);
    build_phase(b, 1, phase, 1, 2);
    build_picture(b, &before);
    uint16_t reason = guest_table[row].try(b);
    if (reason != guest_table[row].reason[phase])
        fail_msg("%s in %s: %s, expected %s", guest_table[row].name, ha_phase_name(phase),
                 ha_reason_name(reason), ha_reason_name(guest_table[row].reason[phase]));
    build_picture(b, &after);
    if (reason == OK)
        assert_memory_not_equal(before.bytes, after.bytes, sizeof(before.bytes));
    else if (guest_table[row].try != try_remove) /* which changes WANT first */
        assert_memory_equal(before.bytes, after.bytes, sizeof(before.bytes));
    uint8_t expected = guest_table[row].phase_after == ANY_PHASE || reason != OK
                           ? phase
                           : guest_table[row].phase_after;
    if (ha_state_guest(&b->state, build_uuid(1)))
        assert_int_equal(build_guest_of(b, 1)->phase, expected);
    check_sound(b);
    build_free(b);
}

static void every_guest_command_in_every_phase(void **unused)
{
    (void)unused;
    for (size_t row = 0; row < sizeof(guest_table) / sizeof(guest_table[0]); row++) {
        for (uint8_t phase = 0; phase < HA_PHASE_COUNT; phase++)
            check_guest_cell(row, phase);
    }
}

static void unknown_guests_are_named(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 1);
    for (uint8_t type = HA_CMD_GUEST_SET; type <= HA_CMD_CLEAR; type++) {
        struct ha_cmd cmd = build_guest_command(b, type, 9);
        if (type == HA_CMD_GUEST_SET)
            cmd.u.guest_set.policy = ha_policy_default();
        cmd.ticket = 1;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_NO_SUCH_GUEST);
    }
    build_free(b);
}

/* Who says it, under which incarnation, of which epoch: each must be the owner record's. */
static void owner_reports_presume_the_owner_record(void **unused)
{
    static const uint8_t types[] = {HA_CMD_STARTED, HA_CMD_NOT_RUNNING};
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 2);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_ASSIGNED, 1, 2);
    for (size_t i = 0; i < sizeof(types); i++) {
        struct ha_cmd good = build_guest_command(b, types[i], 1);
        good.u.not_running.cause = HA_END_STOPPED;
        struct ha_cmd cmd = good;
        cmd.node = 2;
        cmd.incarnation = build_node_of(b, 2)->incarnation;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
        cmd = good;
        cmd.incarnation--;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
        cmd = good;
        cmd.epoch++;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_EPOCH);
        assert_int_equal(build_cmd(b, &good), 0);
    }
    build_free(b);
}

static void stop_presumes_the_epoch_and_what_it_names(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 2);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    struct ha_cmd good = build_guest_command(b, HA_CMD_STOP, 1);
    good.u.stop.mode = HA_STOP_GRACEFUL;
    struct ha_cmd cmd = good;
    cmd.epoch--;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_EPOCH);
    cmd = good;
    cmd.node = 2;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    cmd = good;
    cmd.incarnation += 5;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
    cmd = good;
    cmd.u.stop.mode = 3;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    cmd = good;
    cmd.node = 0;
    cmd.incarnation = 0;
    assert_int_equal(build_cmd(b, &cmd), 0);
    assert_int_equal(build_guest_of(b, 1)->stop_mode, HA_STOP_GRACEFUL);
    assert_int_equal(build_stop(b, 1, HA_STOP_DESTROY, false), 0);
    assert_int_equal(build_guest_of(b, 1)->stop_mode, HA_STOP_DESTROY);
    assert_int_equal(build_stop(b, 1, HA_STOP_GRACEFUL, false), HA_REASON_ALREADY);
    build_free(b);
}

static void reports_of_a_free_guest_tell_old_from_done(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 1);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 1);
    struct ha_cmd stop = build_guest_command(b, HA_CMD_STOP, 1);
    struct ha_cmd gone = build_guest_command(b, HA_CMD_NOT_RUNNING, 1);
    stop.u.stop.mode = HA_STOP_GRACEFUL;
    gone.u.not_running.cause = HA_END_STOPPED;
    assert_int_equal(build_cmd(b, &gone), 0);
    assert_int_equal(build_cmd(b, &gone), HA_REASON_ALREADY);
    assert_int_equal(build_cmd(b, &stop), HA_REASON_ALREADY);
    gone.epoch++;
    stop.epoch++;
    assert_int_equal(build_cmd(b, &gone), HA_REASON_STALE_EPOCH);
    assert_int_equal(build_cmd(b, &stop), HA_REASON_STALE_EPOCH);
    build_free(b);
}

static void assign_needs_a_wanted_guest_and_the_next_epoch(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 2);
    build_guest(b, 1, HA_WANT_STOPPED);
    assert_int_equal(build_assign(b, 1, 1), HA_REASON_NOT_WANTED);
    build_want(b, 1, HA_WANT_STARTED);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_ASSIGN, 1);
    cmd.guest = build_uuid(1);
    for (uint64_t epoch = 0; epoch < 4; epoch++) {
        cmd.epoch = epoch;
        if (epoch != 1)
            assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_EPOCH);
    }
    cmd.epoch = 1;
    cmd.incarnation++;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
    cmd.node = 7;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_NO_SUCH_NODE);
    assert_int_equal(build_assign(b, 1, 1), 0);
    assert_int_equal(build_guest_of(b, 1)->epoch, 1);
    assert_int_equal(build_guest_of(b, 1)->node, 1);
    build_free(b);
}

/* Each reason for which a node may not be given guests, for ASSIGN and for MIGRATE alike. */
static void check_ineligible(struct build *b, uint16_t reason)
{
    uint16_t found = 0;

    assert_false(ha_state_node_is_eligible(&b->state, build_node_of(b, 3), &found));
    assert_int_equal(found, reason);
    assert_int_equal(build_assign(b, 1, 3), reason);
    assert_int_equal(build_migrate(b, 2, 3), reason);
}

static void ineligible_nodes_get_no_guests(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 3);
    build_guest(b, 1, HA_WANT_STARTED);
    build_guest(b, 2, HA_WANT_STARTED);
    build_phase(b, 2, HA_PHASE_RUNNING, 1, 2);
    build_maintenance(b, 3, true);
    check_ineligible(b, HA_REASON_MAINTENANCE);
    build_maintenance(b, 3, false);
    assert_int_equal(build_node_cmd(b, HA_CMD_UNARMED, 3), 0);
    check_ineligible(b, HA_REASON_NOT_ARMED);
    assert_int_equal(build_node_cmd(b, HA_CMD_FREEZE, 3), 0);
    check_ineligible(b, HA_REASON_FROZEN);
    BUILD_OPEN(b, true, 1, 2);
    check_ineligible(b, HA_REASON_NOT_MEMBER);
    check_sound(b);
    build_free(b);
}

static void witnesses_get_no_guests(void **unused)
{
    struct build *b = build_new(4);
    struct ha_cmd cmd;

    (void)unused;
    build_nodes(b, 1);
    cmd = build_node_command(b, HA_CMD_NODE_ADD, 3);
    snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "n3");
    cmd.u.node_add.is_witness = true;
    assert_int_equal(build_cmd(b, &cmd), 0);
    BUILD_OPEN(b, true, 1, 3);
    build_armed(b, 1);
    build_armed(b, 3);
    build_capacity(b, 1, BUILD_MEM_KIB);
    build_capacity(b, 3, BUILD_MEM_KIB);
    build_guest(b, 1, HA_WANT_STARTED);
    build_guest(b, 2, HA_WANT_STARTED);
    build_phase(b, 2, HA_PHASE_RUNNING, 1, 3);
    check_ineligible(b, HA_REASON_WITNESS);
    build_free(b);
}

static void migrate_presumes_both_ends(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 3);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    struct ha_cmd good = build_guest_command(b, HA_CMD_MIGRATE, 1);
    good.epoch = 2;
    good.u.migrate.dst = 2;
    good.u.migrate.dst_incarnation = build_node_of(b, 2)->incarnation;
    struct ha_cmd cmd = good;
    cmd.node = 3;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    cmd = good;
    cmd.incarnation++;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
    cmd = good;
    cmd.u.migrate.dst_incarnation++;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
    cmd = good;
    cmd.u.migrate.dst = 1;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_SAME_NODE);
    cmd = good;
    cmd.u.migrate.dst = 8;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_NO_SUCH_NODE);
    cmd = good;
    cmd.epoch = 1;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_EPOCH);
    assert_int_equal(build_cmd(b, &good), 0);
    const struct ha_ticket *ticket = &build_guest_of(b, 1)->ticket;
    assert_int_equal(ticket->id, b->entry.index);
    assert_int_equal(ticket->src, 1);
    assert_int_equal(ticket->dst, 2);
    assert_int_equal(ticket->src_epoch, 1);
    assert_int_equal(ticket->dst_epoch, 2);
    assert_int_equal(ticket->mono_ms, b->entry.mono_ms);
    build_free(b);
}

static void ticket_commands_presume_the_end_they_name(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 3);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_MIGRATING, 1, 2);
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_SWITCH, 1);
    cmd.node = 3;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    cmd.node = 2;
    cmd.incarnation = 99;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
    cmd.ticket++;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_TICKET);
    cmd.ticket--;
    cmd.node = 0;
    assert_int_equal(build_cmd(b, &cmd), 0);
    /* Only the destination can say that its copy never ran. */
    cmd = build_guest_command(b, HA_CMD_REVERT, 1);
    cmd.node = 1;
    cmd.incarnation = build_node_of(b, 1)->incarnation;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    cmd.node = 0;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    assert_int_equal(build_move(b, HA_CMD_REVERT, 1), 0);
    build_free(b);
}

static void memory_counts_owners_and_both_ends(void **unused)
{
    struct build *b = build_new(8);

    (void)unused;
    build_ready(b, 2);
    build_capacity(b, 2, 2 * BUILD_GUEST_KIB);
    for (uint32_t guest = 1; guest <= 4; guest++)
        build_guest(b, guest, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 2, 1);
    build_phase(b, 2, HA_PHASE_RUNNING, 1, 2);
    build_phase(b, 3, HA_PHASE_MIGRATING, 1, 2);
    assert_int_equal(ha_state_mem_used_kib(&b->state, 1), 2 * BUILD_GUEST_KIB);
    assert_int_equal(ha_state_mem_used_kib(&b->state, 2), 2 * BUILD_GUEST_KIB);
    assert_int_equal(build_assign(b, 4, 2), HA_REASON_NO_MEMORY);
    assert_int_equal(build_migrate(b, 2, 2), HA_REASON_NO_MEMORY);
    /* Switched: the source still holds its copy. */
    assert_int_equal(build_move(b, HA_CMD_SWITCH, 3), 0);
    assert_int_equal(ha_state_mem_used_kib(&b->state, 1), 2 * BUILD_GUEST_KIB);
    assert_int_equal(build_move(b, HA_CMD_ARRIVED, 3), 0);
    assert_int_equal(ha_state_mem_used_kib(&b->state, 1), BUILD_GUEST_KIB);
    assert_int_equal(build_assign(b, 4, 2), HA_REASON_NO_MEMORY);
    assert_int_equal(build_not_running(b, 1, HA_END_CRASHED), 0);
    assert_int_equal(build_assign(b, 4, 2), 0);
    check_sound(b);
    build_free(b);
}

static void lowered_capacity_admits_nothing_more(void **unused)
{
    struct build *b = build_new(8);

    (void)unused;
    build_ready(b, 1);
    for (uint32_t guest = 1; guest <= 3; guest++)
        build_guest(b, guest, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 1);
    build_phase(b, 2, HA_PHASE_RUNNING, 1, 1);
    assert_int_equal(build_capacity(b, 1, BUILD_GUEST_KIB), 0);
    check_sound(b);
    assert_int_equal(build_assign(b, 3, 1), HA_REASON_NO_MEMORY);
    build_not_running(b, 1, HA_END_STOPPED);
    assert_int_equal(build_assign(b, 3, 1), HA_REASON_NO_MEMORY);
    build_not_running(b, 2, HA_END_STOPPED);
    assert_int_equal(build_assign(b, 3, 1), 0);
    check_sound(b);
    build_free(b);
}

static void guests_are_unique_bounded_and_true_to_their_digest(void **unused)
{
    struct build *b = build_new(2);

    (void)unused;
    build_ready(b, 1);
    assert_int_equal(build_guest_mem(b, 1, HA_WANT_STARTED, 0), HA_REASON_BAD_VALUE);
    assert_int_equal(build_guest_mem(b, 1, HA_WANT_STARTED, UINT64_MAX), HA_REASON_BAD_VALUE);
    assert_int_equal(build_guest_mem(b, 1, 2, 1024), HA_REASON_BAD_VALUE);
    assert_int_equal(build_guest(b, 1, HA_WANT_STARTED), 0);
    static const uint8_t bytes[] = "abc";
    static const struct ha_digest none;
    struct ha_cmd good = build_guest_command(b, HA_CMD_GUEST_ADD, 2);
    snprintf(good.u.guest_add.name, sizeof(good.u.guest_add.name), "g2");
    good.u.guest_add.mem_kib = 1024;
    good.u.guest_add.policy = ha_policy_default();
    good.u.guest_add.definition_bytes = bytes;
    good.u.guest_add.definition_size = 3;
    good.u.guest_add.definition = ha_digest_bytes(none, bytes, 3);
    struct ha_cmd cmd = good;
    cmd.u.guest_add.definition.low ^= 1;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    cmd = good;
    snprintf(cmd.u.guest_add.name, sizeof(cmd.u.guest_add.name), "g1");
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_GUEST_EXISTS);
    cmd = good;
    snprintf(cmd.u.guest_add.name, sizeof(cmd.u.guest_add.name), "../g2");
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    cmd = good;
    memset(&cmd.guest, 0, sizeof(cmd.guest));
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    cmd = good;
    cmd.u.guest_add.policy.priority = 1001;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    cmd = good;
    cmd.u.guest_add.definition_size = HA_DEFINITION_MAX + 1;
    assert_int_equal(ha_state_check(&b->state, &cmd), HA_REASON_BAD_VALUE);
    cmd.u.guest_add.definition_size = 3;
    cmd.u.guest_add.definition_bytes = NULL;
    assert_int_equal(ha_state_check(&b->state, &cmd), HA_REASON_BAD_VALUE);
    assert_int_equal(build_cmd(b, &good), 0);
    assert_int_equal(build_guest(b, 3, HA_WANT_STARTED), HA_REASON_LIMIT);
    build_free(b);
}

static void guests_stay_ascending_whatever_the_order(void **unused)
{
    static const uint32_t order[] = {5, 1, 9, 3, 7, 2, 8};
    struct build *b = build_new(16);

    (void)unused;
    build_ready(b, 1);
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        assert_int_equal(build_guest(b, order[i], HA_WANT_STOPPED), 0);
        check_sound(b);
    }
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_GUEST_REMOVE, 3);
    assert_int_equal(build_cmd(b, &cmd), 0);
    check_sound(b);
    assert_null(ha_state_guest(&b->state, build_uuid(3)));
    assert_null(ha_state_guest_by_name(&b->state, "g3"));
    assert_string_equal(ha_state_guest_by_name(&b->state, "g7")->name, "g7");
    assert_string_equal(ha_state_guest(&b->state, build_uuid(9))->name, "g9");
    build_free(b);
}

static void entries_leave_their_traces(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 2);
    build_guest(b, 1, HA_WANT_STARTED);
    const struct ha_guest *guest = build_guest_of(b, 1);
    assert_true(ha_digest_equal(guest->definition, b->applied.cmd.u.guest_add.definition));
    assert_int_equal(guest->definition_size, b->applied.cmd.u.guest_add.definition_size);
    assert_int_equal(guest->phase_index, b->entry.index);
    build_assign(b, 1, 1);
    assert_int_equal(guest->phase_index, b->entry.index);
    assert_int_equal(guest->phase_wall_ms, b->entry.wall_ms);
    build_started(b, 1);
    build_stop(b, 1, HA_STOP_GRACEFUL, true);
    uint64_t stopped = b->entry.index;
    build_stop(b, 1, HA_STOP_DESTROY, false); /* more force, the same purpose */
    assert_true(guest->is_relocating);
    assert_int_equal(guest->phase_index, stopped);
    build_not_running(b, 1, HA_END_CRASHED);
    assert_int_equal(guest->end_cause, HA_END_CRASHED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    BUILD_OPEN(b, true, 2);
    build_fenced(b, 1, HA_EVIDENCE_AGENT);
    assert_int_equal(guest->end_cause, 0); /* nobody reported an end */
    assert_int_equal(guest->last_node, 1);
    build_free(b);
}

static void repeated_and_senseless_settings_are_refused(void **unused)
{
    struct build *b = build_new(4);
    struct ha_policy policy = ha_policy_default();

    (void)unused;
    build_ready(b, 1);
    build_guest(b, 1, HA_WANT_STOPPED);
    assert_int_equal(build_policy(b, 1, &policy), HA_REASON_ALREADY);
    policy.stop_timeout_ms++;
    assert_int_equal(build_policy(b, 1, &policy), 0);
    policy.restart_window_s = 0;
    assert_int_equal(build_policy(b, 1, &policy), HA_REASON_BAD_VALUE);
    assert_int_equal(build_want(b, 1, 2), HA_REASON_BAD_VALUE);
    assert_int_equal(build_want(b, 1, HA_WANT_STOPPED), HA_REASON_ALREADY);
    build_free(b);
}

static void ends_of_unwanted_guests_are_no_failures(void **unused)
{
    struct build *b = build_new(4);
    struct ha_policy policy = ha_policy_default();

    (void)unused;
    policy.is_protected = false;
    build_ready(b, 2);
    for (uint32_t guest = 1; guest <= 2; guest++) {
        build_guest(b, guest, HA_WANT_STARTED);
        build_policy(b, guest, &policy);
        build_phase(b, guest, HA_PHASE_RUNNING, 1, 2);
        build_want(b, guest, HA_WANT_STOPPED);
    }
    build_not_running(b, 1, HA_END_CRASHED);
    assert_int_equal(build_guest_of(b, 1)->failures, 0);
    assert_false(build_guest_of(b, 1)->is_failed);
    BUILD_OPEN(b, true, 2);
    build_fenced(b, 1, HA_EVIDENCE_AGENT);
    assert_false(build_guest_of(b, 2)->is_failed);
    build_free(b);
}

static void a_guest_of_an_absent_owner_is_not_moved(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 3);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_migrate(b, 1, 2), HA_REASON_OWNER_UNCLEAN);
    build_free(b);
}

static void an_end_that_is_named_is_checked(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    build_ready(b, 3);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_MIGRATING, 1, 2);
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_ABORT, 1); /* names the source */
    cmd.incarnation++;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
    cmd.incarnation--;
    assert_int_equal(build_cmd(b, &cmd), 0);
    build_free(b);
}

static void tickets_are_bounded(void **unused)
{
    struct build *b = build_new(HA_TICKETS_MAX + 1);

    (void)unused;
    build_ready(b, 2);
    build_capacity(b, 1, (HA_TICKETS_MAX + 1) * (uint64_t)BUILD_GUEST_KIB);
    build_capacity(b, 2, (HA_TICKETS_MAX + 1) * (uint64_t)BUILD_GUEST_KIB);
    for (uint32_t guest = 1; guest <= HA_TICKETS_MAX; guest++) {
        build_guest(b, guest, HA_WANT_STARTED);
        build_phase(b, guest, HA_PHASE_MIGRATING, 1, 2);
    }
    build_guest(b, HA_TICKETS_MAX + 1, HA_WANT_STARTED);
    build_phase(b, HA_TICKETS_MAX + 1, HA_PHASE_RUNNING, 1, 2);
    assert_int_equal(build_migrate(b, HA_TICKETS_MAX + 1, 2), HA_REASON_LIMIT);
    check_sound(b);
    assert_int_equal(build_move(b, HA_CMD_ABORT, 3), 0);
    assert_int_equal(build_migrate(b, HA_TICKETS_MAX + 1, 2), 0);
    check_sound(b);
    b->state.guests[2].ticket = b->state.guests[1].ticket;
    b->state.guests[2].phase = HA_PHASE_MIGRATING;
    b->state.guests[2].epoch_high = b->state.guests[1].epoch_high;
    assert_string_equal(ha_state_violation(&b->state), "there are too many tickets");
    build_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_guest_command_in_every_phase),
        cmocka_unit_test(unknown_guests_are_named),
        cmocka_unit_test(owner_reports_presume_the_owner_record),
        cmocka_unit_test(stop_presumes_the_epoch_and_what_it_names),
        cmocka_unit_test(reports_of_a_free_guest_tell_old_from_done),
        cmocka_unit_test(assign_needs_a_wanted_guest_and_the_next_epoch),
        cmocka_unit_test(ineligible_nodes_get_no_guests),
        cmocka_unit_test(witnesses_get_no_guests),
        cmocka_unit_test(migrate_presumes_both_ends),
        cmocka_unit_test(ticket_commands_presume_the_end_they_name),
        cmocka_unit_test(memory_counts_owners_and_both_ends),
        cmocka_unit_test(lowered_capacity_admits_nothing_more),
        cmocka_unit_test(guests_are_unique_bounded_and_true_to_their_digest),
        cmocka_unit_test(guests_stay_ascending_whatever_the_order),
        cmocka_unit_test(entries_leave_their_traces),
        cmocka_unit_test(repeated_and_senseless_settings_are_refused),
        cmocka_unit_test(ends_of_unwanted_guests_are_no_failures),
        cmocka_unit_test(a_guest_of_an_absent_owner_is_not_moved),
        cmocka_unit_test(an_end_that_is_named_is_checked),
        cmocka_unit_test(tickets_are_bounded),
    };

    return cmocka_run_group_tests_name("state: guests", tests, NULL, NULL);
}
