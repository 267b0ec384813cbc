/* SPDX-License-Identifier: Apache-2.0
 *
 * Stories of how clusters lose guests or run them twice, as far as the replicated state alone can
 * tell them: views that come and go, returns that race with fencing, ends of migrations that die.
 * The numbers are those of the attack on the design (H14 and so on).
 */
#include "tests/unit/core/story.h"

/* --- Views --- */

static void absentees_become_unclean_and_are_held_after_a_gap(void **unused)
{
    struct build *b = story(4, HA_PHASE_RUNNING);

    (void)unused;
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 4), 0);
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_node_of(b, 1)->status, HA_NODE_UNCLEAN);
    assert_int_equal(build_node_of(b, 1)->status_index, b->entry.index);
    assert_false(build_node_of(b, 1)->is_hold);
    assert_int_equal(build_node_of(b, 4)->status, HA_NODE_LEFT);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    /* Nobody had a quorum for a while: those gone before may come back as well. */
    BUILD_OPEN(b, false, 2);
    assert_true(build_node_of(b, 1)->is_hold);
    assert_int_equal(build_node_of(b, 3)->status, HA_NODE_UNCLEAN);
    assert_true(build_node_of(b, 3)->is_hold);
    assert_int_equal(build_node_of(b, 4)->status, HA_NODE_LEFT);
    BUILD_OPEN(b, true, 2);
    assert_true(build_node_of(b, 1)->is_hold);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_false(build_node_of(b, 1)->is_hold);
    end(b);
}

static void staying_keeps_the_incarnation_and_the_arming(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);
    uint64_t incarnation = build_node_of(b, 1)->incarnation;

    (void)unused;
    BUILD_OPEN(b, true, 1, 2);
    BUILD_OPEN(b, false, 1, 2, 3);
    assert_int_equal(build_node_of(b, 1)->incarnation, incarnation);
    assert_true(build_node_of(b, 1)->is_armed);
    assert_true(build_node_of(b, 3)->incarnation > incarnation);
    assert_false(build_node_of(b, 3)->is_armed);
    end(b);
}

static void a_restarted_hamgrd_keeps_its_guests_under_a_new_incarnation(void **unused)
{
    (void)unused;
    for (uint8_t phase = HA_PHASE_ASSIGNED; phase < HA_PHASE_COUNT; phase++) {
        struct build *b = story(3, phase);
        uint32_t owner = build_guest_of(b, 1)->node;
        uint64_t epoch = build_guest_of(b, 1)->epoch;
        uint64_t ticket = build_guest_of(b, 1)->ticket.id;
        uint64_t old = build_node_of(b, 1)->incarnation;

        build_restart(b, 1);
        assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0);
        assert_true(build_node_of(b, 1)->incarnation > old);
        assert_false(build_node_of(b, 1)->is_armed);
        assert_owner(b, phase, owner, epoch);
        assert_int_equal(build_guest_of(b, 1)->ticket.id, ticket);
        if (ticket != 0) {
            assert_int_equal(build_guest_of(b, 1)->ticket.src_incarnation,
                             build_node_of(b, 1)->incarnation);
            build_restart(b, 2);
            assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0);
            assert_int_equal(build_guest_of(b, 1)->ticket.dst_incarnation,
                             build_node_of(b, 2)->incarnation);
        }
        assert_int_equal(ha_state_violation(&b->state) ? 1 : 0, 0);
        end(b);
    }
}

static void a_rebooted_node_gives_its_guests_free(void **unused)
{
    (void)unused;
    /* Whether or not a view without it was open in between, armed or not, disarmed or not. */
    for (unsigned variant = 0; variant < 8; variant++) {
        struct build *b = story(3, HA_PHASE_RUNNING);
        uint64_t old = build_node_of(b, 1)->incarnation;

        if (variant & 1)
            BUILD_OPEN(b, true, 2, 3);
        if (variant & 2)
            build_node_cmd(b, HA_CMD_DISARM, 0);
        if (variant & 4)
            build_node_cmd(b, HA_CMD_FREEZE, 1);
        build_reboot(b, 1);
        assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0);
        assert_owner(b, HA_PHASE_FREE, 0, 1);
        assert_int_equal(build_guest_of(b, 1)->last_node, 1);
        assert_int_equal(build_node_of(b, 1)->evidence, HA_EVIDENCE_REBOOT);
        assert_int_equal(build_node_of(b, 1)->status, HA_NODE_MEMBER);
        assert_true(build_node_of(b, 1)->incarnation > old);
        end(b);
    }
}

static void a_reboot_settles_tickets_like_fencing(void **unused)
{
    struct build *b = story(3, HA_PHASE_MIGRATING);

    (void)unused;
    build_reboot(b, 2);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    assert_int_equal(build_guest_of(b, 1)->ticket.id, 0);
    end(b);
    b = story(3, HA_PHASE_SWITCHED);
    build_reboot(b, 1);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_owner(b, HA_PHASE_SWITCHED, 2, 2);
    assert_int_equal(build_guest_of(b, 1)->ticket.src_incarnation, 0);
    end(b);
}

/* H28: spare hardware, or a cloned disk, under the id of a node that may still run. */
static void another_machine_does_not_free_guests(void **unused)
{
    (void)unused;
    for (unsigned variant = 0; variant < 4; variant++) {
        struct build *b = story(3, variant & 1 ? HA_PHASE_MIGRATING : HA_PHASE_RUNNING);
        uint32_t node = variant & 1 ? 2 : 1; /* a destination holds a copy too */
        uint64_t incarnation = build_node_of(b, node)->incarnation;

        build_reboot(b, node);
        if (variant & 2)
            b->self[node].hw_id = build_uuid(777);
        else
            b->self[node].store_id = build_uuid(778);
        assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), HA_REASON_BAD_IDENTITY);
        assert_false(b->applied.is_noop);
        assert_int_equal(build_node_of(b, node)->status, HA_NODE_UNCLEAN);
        assert_int_equal(build_node_of(b, node)->incarnation, incarnation);
        assert_owner(b, variant & 1 ? HA_PHASE_MIGRATING : HA_PHASE_RUNNING, 1, 1);
        /* Once it is fenced, the new machine may have the id. */
        assert_int_equal(build_fenced(b, node, HA_EVIDENCE_AGENT), 0);
        assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0);
        assert_int_equal(build_node_of(b, node)->status, HA_NODE_MEMBER);
        assert_true(build_node_of(b, node)->incarnation > incarnation);
        end(b);
    }
}

static void unreadable_identities_prove_nothing(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    memset(&b->self[1].hw_id, 0, sizeof(b->self[1].hw_id));
    build_ready(b, 3);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    build_restart(b, 1);
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0); /* the same boot is the same machine */
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    build_reboot(b, 1);
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), HA_REASON_BAD_IDENTITY);
    memset(&b->self[1].boot_id, 0, sizeof(b->self[1].boot_id));
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), HA_REASON_BAD_IDENTITY);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    end(b);
}

static void a_machine_without_guests_may_be_replaced(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    BUILD_OPEN(b, true, 1, 2);
    build_reboot(b, 3);
    b->self[3].hw_id = build_uuid(777);
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0);
    assert_int_equal(build_node_of(b, 3)->status, HA_NODE_MEMBER);
    assert_int_equal(build_node_of(b, 3)->evidence, 0);
    end(b);
}

static void members_the_state_does_not_know_are_ignored(void **unused)
{
    struct build *b = story(2, HA_PHASE_RUNNING);

    (void)unused;
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 9), 0);
    assert_null(ha_state_node(&b->state, 9));
    end(b);
}

/* --- Fencing --- */

/* H14: return and fence race in the log; the first one wins. */
static void a_late_fenced_does_not_hit_the_returned(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    BUILD_OPEN(b, true, 2, 3);
    struct ha_cmd late = build_node_command(b, HA_CMD_FENCED, 1);
    late.u.fenced.evidence = HA_EVIDENCE_LEASE;
    build_restart(b, 1);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_int_equal(build_cmd(b, &late), HA_REASON_STALE_INCARNATION);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    assert_int_equal(build_assign(b, 1, 2), HA_REASON_WRONG_PHASE);
    end(b);
}

static void a_late_fenced_does_not_hit_a_member_of_the_same_incarnation(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_FENCED, 1);

    (void)unused;
    cmd.u.fenced.evidence = HA_EVIDENCE_AGENT;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_NOT_UNCLEAN);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    end(b);
}

static void a_late_return_finds_its_guests_gone(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_assign(b, 1, 2), HA_REASON_OWNER_UNCLEAN);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_LEASE), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 1);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_LEASE), HA_REASON_NOT_UNCLEAN);
    assert_int_equal(build_assign(b, 1, 2), 0);
    BUILD_OPEN(b, true, 1, 2, 3); /* the same process: it was only cut off */
    assert_owner(b, HA_PHASE_ASSIGNED, 2, 2);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_STARTED, 1);
    cmd.guest = build_uuid(1);
    cmd.epoch = 1;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    end(b);
}

/* H24, and the table in state.h: what becomes of a guest when an end dies. */
static void the_death_of_an_end_settles_its_tickets(void **unused)
{
    static const struct {
        uint8_t phase;
        uint32_t dead;
        uint8_t phase_after;
        uint32_t node_after;
        uint64_t epoch_after;
    } table[] = {
        {HA_PHASE_FREE, 1, HA_PHASE_FREE, 0, 0},
        {HA_PHASE_ASSIGNED, 1, HA_PHASE_FREE, 0, 1},
        {HA_PHASE_ASSIGNED, 2, HA_PHASE_ASSIGNED, 1, 1},
        {HA_PHASE_RUNNING, 1, HA_PHASE_FREE, 0, 1},
        {HA_PHASE_RUNNING, 2, HA_PHASE_RUNNING, 1, 1},
        {HA_PHASE_STOPPING, 1, HA_PHASE_FREE, 0, 1},
        {HA_PHASE_MIGRATING, 1, HA_PHASE_FREE, 0, 1},
        {HA_PHASE_MIGRATING, 2, HA_PHASE_RUNNING, 1, 1},
        {HA_PHASE_MIGRATING, 3, HA_PHASE_MIGRATING, 1, 1},
        {HA_PHASE_SWITCHED, 1, HA_PHASE_SWITCHED, 2, 2},
        {HA_PHASE_SWITCHED, 2, HA_PHASE_FREE, 0, 2},
        {HA_PHASE_SWITCHED, 3, HA_PHASE_SWITCHED, 2, 2},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct build *b = story(4, table[i].phase);
        uint32_t view[4] = {0};
        unsigned count = 0;

        for (uint32_t node = 1; node <= 4; node++) {
            if (node != table[i].dead)
                view[count++] = node;
        }
        struct ha_cmd switch_cmd = build_guest_command(b, HA_CMD_SWITCH, 1);
        switch_cmd.node = 0;
        BUILD_OPEN(b, true, view[0], view[1], view[2]);
        assert_int_equal(build_fenced(b, table[i].dead, HA_EVIDENCE_AGENT), 0);
        assert_owner(b, table[i].phase_after, table[i].node_after, table[i].epoch_after);
        /* The source's copy is given up only with the source. */
        if (table[i].phase_after == HA_PHASE_SWITCHED)
            assert_int_equal(build_guest_of(b, 1)->ticket.src_incarnation == 0, table[i].dead == 1);
        /* A closed ticket stays closed for the end that has not heard of it. */
        if (table[i].phase == HA_PHASE_MIGRATING && table[i].phase_after != HA_PHASE_MIGRATING)
            assert_int_equal(build_cmd(b, &switch_cmd), HA_REASON_STALE_TICKET);
        end(b);
    }
}

/* H26: the source's copy is gone, so nothing can be given back to it. */
static void revert_needs_the_source_copy(void **unused)
{
    struct build *b = story(3, HA_PHASE_SWITCHED);

    (void)unused;
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_AGENT), 0);
    assert_int_equal(build_move(b, HA_CMD_REVERT, 1), HA_REASON_STALE_INCARNATION);
    BUILD_OPEN(b, true, 1, 2, 3); /* back with the same boot: still gone */
    assert_int_equal(build_move(b, HA_CMD_REVERT, 1), HA_REASON_STALE_INCARNATION);
    assert_int_equal(ha_state_mem_used_kib(&b->state, 1), 0);
    assert_int_equal(build_move(b, HA_CMD_ARRIVED, 1), 0);
    assert_owner(b, HA_PHASE_RUNNING, 2, 2);
    end(b);
}

static void revert_gives_the_guest_back_even_to_an_absent_source(void **unused)
{
    struct build *b = story(3, HA_PHASE_SWITCHED);

    (void)unused;
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_move(b, HA_CMD_REVERT, 1), 0);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_AGENT), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 1);
    assert_int_equal(build_assign(b, 1, 2), 0);
    assert_owner(b, HA_PHASE_ASSIGNED, 2, 3); /* epoch 2 was burned by the migration */
    end(b);
}

/* A REVERT of a process that is gone: its successor may have run the copy. */
static void a_late_revert_of_an_old_process_is_stale(void **unused)
{
    struct build *b = story(3, HA_PHASE_SWITCHED);
    struct ha_cmd late = build_guest_command(b, HA_CMD_REVERT, 1);

    (void)unused;
    build_restart(b, 2);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_int_equal(build_cmd(b, &late), HA_REASON_STALE_INCARNATION);
    assert_owner(b, HA_PHASE_SWITCHED, 2, 2);
    end(b);
}

/* H25: the epoch of a given-up migration is never used again. */
static void abort_burns_the_epoch(void **unused)
{
    struct build *b = story(3, HA_PHASE_MIGRATING);

    (void)unused;
    struct ha_cmd late = build_guest_command(b, HA_CMD_SWITCH, 1);
    late.node = 0;
    assert_int_equal(build_move(b, HA_CMD_ABORT, 1), 0);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    assert_int_equal(build_cmd(b, &late), HA_REASON_STALE_TICKET);
    assert_int_equal(build_migrate(b, 1, 3), 0);
    assert_int_equal(build_guest_of(b, 1)->ticket.dst_epoch, 3);
    assert_int_equal(build_cmd(b, &late), HA_REASON_STALE_TICKET);
    assert_int_equal(build_move(b, HA_CMD_SWITCH, 1), 0);
    assert_int_equal(build_move(b, HA_CMD_ABORT, 1), HA_REASON_WRONG_PHASE);
    assert_owner(b, HA_PHASE_SWITCHED, 3, 3);
    end(b);
}

/* A destination that is gone or without a keeper must not get the guest: the source has it. */
static void switch_needs_a_working_destination(void **unused)
{
    struct build *b = story(3, HA_PHASE_MIGRATING);

    (void)unused;
    build_restart(b, 2);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_int_equal(build_move(b, HA_CMD_SWITCH, 1), HA_REASON_NOT_ARMED);
    BUILD_OPEN(b, true, 1, 3);
    assert_int_equal(build_move(b, HA_CMD_SWITCH, 1), HA_REASON_NOT_MEMBER);
    assert_int_equal(build_move(b, HA_CMD_ABORT, 1), 0);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    end(b);
}

static void a_guest_that_ends_on_its_way_closes_the_ticket(void **unused)
{
    struct build *b = story(3, HA_PHASE_MIGRATING);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_NOT_RUNNING, 2);

    (void)unused;
    cmd.guest = build_uuid(1);
    cmd.epoch = 2;
    cmd.u.not_running.cause = HA_END_LOST;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER); /* not the destination's to say */
    assert_int_equal(build_not_running(b, 1, HA_END_CRASHED), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 1);
    end(b);
    b = story(3, HA_PHASE_SWITCHED);
    cmd = build_node_command(b, HA_CMD_NOT_RUNNING, 1);
    cmd.guest = build_uuid(1);
    cmd.epoch = 1;
    cmd.u.not_running.cause = HA_END_LOST;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    assert_int_equal(build_not_running(b, 1, HA_END_LOST), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 2);
    assert_int_equal(build_assign(b, 1, 3), 0);
    assert_owner(b, HA_PHASE_ASSIGNED, 3, 3);
    end(b);
}

/* H33: a start cannot be taken back but by the node that was told to start. */
static void only_the_owner_or_its_death_frees_a_start(void **unused)
{
    struct build *b = story(3, HA_PHASE_ASSIGNED);

    (void)unused;
    struct ha_cmd cmd = build_node_command(b, HA_CMD_NOT_RUNNING, 2);
    cmd.guest = build_uuid(1);
    cmd.epoch = 1; /* the right epoch alone is not enough */
    cmd.u.not_running.cause = HA_END_START_FAILED;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_WRONG_OWNER);
    assert_int_equal(build_assign(b, 1, 3), HA_REASON_WRONG_PHASE);
    struct ha_cmd old = build_guest_command(b, HA_CMD_NOT_RUNNING, 1);
    old.u.not_running.cause = HA_END_START_FAILED;
    build_restart(b, 1);
    BUILD_OPEN(b, true, 1, 2, 3);
    /* The old process's proof: its successor may have started the guest since. */
    assert_int_equal(build_cmd(b, &old), HA_REASON_STALE_INCARNATION);
    assert_owner(b, HA_PHASE_ASSIGNED, 1, 1);
    assert_int_equal(build_not_running(b, 1, HA_END_START_FAILED), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 1);
    end(b);
}

static void a_gapless_view_does_not_hold_those_gone_before(void **unused)
{
    struct build *b = story(4, HA_PHASE_RUNNING);

    (void)unused;
    BUILD_OPEN(b, true, 2, 3, 4);
    BUILD_OPEN(b, true, 2, 3);
    assert_false(build_node_of(b, 1)->is_hold);
    assert_false(build_node_of(b, 4)->is_hold);
    end(b);
}

static void boots_that_could_not_be_read_are_never_equal(void **unused)
{
    struct build *b = build_new(4);

    (void)unused;
    struct ha_uuid boot = b->self[1].boot_id;
    memset(&b->self[1].boot_id, 0, sizeof(boot));
    build_ready(b, 3);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_RUNNING, 1, 2);
    build_restart(b, 1);
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), HA_REASON_BAD_IDENTITY);
    b->self[1].boot_id = boot; /* read at last: not another boot, just known now */
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), HA_REASON_BAD_IDENTITY);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    end(b);
}

static void a_reboot_after_leaving_is_no_evidence(void **unused)
{
    struct build *b = story(3, HA_PHASE_FREE);

    (void)unused;
    build_node_cmd(b, HA_CMD_LEAVE, 1);
    BUILD_OPEN(b, true, 2, 3);
    build_reboot(b, 1);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_int_equal(build_node_of(b, 1)->evidence, 0);
    assert_int_equal(build_node_of(b, 1)->watchdog_ms, 0);
    build_reboot(b, 1);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_int_equal(build_node_of(b, 1)->evidence, HA_EVIDENCE_REBOOT);
    assert_string_equal(build_node_of(b, 1)->evidence_detail, "it came back with a new boot");
    end(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absentees_become_unclean_and_are_held_after_a_gap),
        cmocka_unit_test(staying_keeps_the_incarnation_and_the_arming),
        cmocka_unit_test(a_restarted_hamgrd_keeps_its_guests_under_a_new_incarnation),
        cmocka_unit_test(a_rebooted_node_gives_its_guests_free),
        cmocka_unit_test(a_reboot_settles_tickets_like_fencing),
        cmocka_unit_test(another_machine_does_not_free_guests),
        cmocka_unit_test(unreadable_identities_prove_nothing),
        cmocka_unit_test(a_machine_without_guests_may_be_replaced),
        cmocka_unit_test(members_the_state_does_not_know_are_ignored),
        cmocka_unit_test(a_late_fenced_does_not_hit_the_returned),
        cmocka_unit_test(a_late_fenced_does_not_hit_a_member_of_the_same_incarnation),
        cmocka_unit_test(a_late_return_finds_its_guests_gone),
        cmocka_unit_test(the_death_of_an_end_settles_its_tickets),
        cmocka_unit_test(revert_needs_the_source_copy),
        cmocka_unit_test(revert_gives_the_guest_back_even_to_an_absent_source),
        cmocka_unit_test(a_late_revert_of_an_old_process_is_stale),
        cmocka_unit_test(abort_burns_the_epoch),
        cmocka_unit_test(switch_needs_a_working_destination),
        cmocka_unit_test(a_guest_that_ends_on_its_way_closes_the_ticket),
        cmocka_unit_test(only_the_owner_or_its_death_frees_a_start),
        cmocka_unit_test(a_gapless_view_does_not_hold_those_gone_before),
        cmocka_unit_test(boots_that_could_not_be_read_are_never_equal),
        cmocka_unit_test(a_reboot_after_leaving_is_no_evidence),
    };

    return cmocka_run_group_tests_name("state: stories of views, fencing and migrations", tests,
                                       NULL, NULL);
}
