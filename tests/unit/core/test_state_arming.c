/* SPDX-License-Identifier: Apache-2.0
 *
 * Stories of keepers that may be off: arming, disarming, freezing, leaving; and of what must never
 * come back, such as epochs, or get lost, such as votes. Numbers as in test_state_stories.c.
 */
#include "tests/unit/core/story.h"

/* --- Arming --- */

static void lease_evidence_needs_an_armed_incarnation(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    assert_int_equal(build_node_cmd(b, HA_CMD_UNARMED, 1), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_UNARMED, 1), HA_REASON_ALREADY);
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_LEASE), HA_REASON_NOT_ARMED);
    assert_int_equal(build_fenced(b, 1, 0), HA_REASON_BAD_VALUE);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_REBOOT), HA_REASON_BAD_VALUE);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_OPERATOR), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 1);
    end(b);
}

/* H35, cold start: every ARMED of the log counts, and nobody is in the view yet. */
static void a_cold_start_fences_by_the_arming_in_the_log(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    build_restart(b, 2);
    build_restart(b, 3);
    BUILD_OPEN(b, false, 2, 3);
    assert_true(build_node_of(b, 1)->is_hold);
    assert_true(build_node_of(b, 1)->is_armed);
    assert_int_equal(build_node_of(b, 1)->lease_ms, 6900);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_LEASE), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 1);
    end(b);
}

/* H31: readmission, DISARM and FREEZE clear it, and nothing older sets it again. */
static void stale_armed_reports_do_not_count(void **unused)
{
    struct build *b = story(2, HA_PHASE_RUNNING);

    (void)unused;
    struct ha_cmd early = build_node_command(b, HA_CMD_ARMED, 1);
    early.epoch = b->state.applied;
    early.u.armed.lease_ms = 6900;
    early.u.armed.watchdog_ms = 5000;
    assert_int_equal(build_cmd(b, &early), HA_REASON_ALREADY);
    assert_int_equal(build_node_cmd(b, HA_CMD_UNARMED, 1), 0);
    assert_int_equal(build_cmd(b, &early), HA_REASON_STALE_KEEPER);
    assert_int_equal(build_armed(b, 1), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_DISARM, 0), 0);
    assert_false(build_node_of(b, 1)->is_armed);
    assert_int_equal(build_armed(b, 1), HA_REASON_DISARMED);
    early.epoch = b->state.applied;
    assert_int_equal(build_node_cmd(b, HA_CMD_ARM, 0), 0);
    assert_int_equal(build_cmd(b, &early), HA_REASON_STALE_KEEPER);
    assert_int_equal(build_armed(b, 1), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_FREEZE, 1), 0);
    assert_false(build_node_of(b, 1)->is_armed);
    assert_int_equal(build_armed(b, 1), HA_REASON_FROZEN);
    early.epoch = b->state.applied;
    assert_int_equal(build_node_cmd(b, HA_CMD_UNFREEZE, 1), 0);
    assert_int_equal(build_cmd(b, &early), HA_REASON_STALE_KEEPER);
    assert_int_equal(build_armed(b, 1), 0);
    end(b);
}

/* DISARM is applied and the keeper told, but slow to read it; ARM; then the node rejoins with the
 * same boot: what was seen of the keeper before that OPEN proves nothing about it after the order.
 */
static void a_look_at_the_keeper_from_before_a_rejoin_does_not_count(void **unused)
{
    struct build *b = story(2, HA_PHASE_RUNNING);

    (void)unused;
    uint64_t seen = b->state.applied;
    assert_int_equal(build_node_cmd(b, HA_CMD_DISARM, 0), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_ARM, 0), 0);
    BUILD_OPEN(b, true, 2);
    BUILD_OPEN(b, true, 1, 2);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_ARMED, 1);
    cmd.u.armed.lease_ms = 6900;
    cmd.u.armed.watchdog_ms = 5000;
    cmd.epoch = seen;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_KEEPER);
    cmd.epoch = b->state.applied;
    assert_int_equal(build_cmd(b, &cmd), 0);
    end(b);
}

/* A lease begun under a longer L may still run when a restarted hamgrd reports a shorter one. */
static void lease_and_watchdog_only_grow_within_a_boot(void **unused)
{
    struct build *b = story(2, HA_PHASE_RUNNING);

    (void)unused;
    struct ha_cmd cmd = build_node_command(b, HA_CMD_ARMED, 1);
    cmd.epoch = b->state.applied;
    cmd.u.armed.lease_ms = 20000;
    cmd.u.armed.watchdog_ms = 1000;
    assert_int_equal(build_cmd(b, &cmd), 0);
    build_restart(b, 1);
    BUILD_OPEN(b, true, 1, 2);
    assert_int_equal(build_armed(b, 1), 0);
    assert_int_equal(build_node_of(b, 1)->lease_ms, 20000);
    assert_int_equal(build_node_of(b, 1)->watchdog_ms, 5000);
    build_reboot(b, 1);
    BUILD_OPEN(b, true, 1, 2);
    assert_int_equal(build_armed(b, 1), 0);
    assert_int_equal(build_node_of(b, 1)->lease_ms, 6900);
    end(b);
}

static void armed_needs_lease_and_watchdog(void **unused)
{
    struct build *b = story(2, HA_PHASE_FREE);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_ARMED, 1);

    (void)unused;
    cmd.epoch = b->state.applied;
    cmd.u.armed.watchdog_ms = 5000;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    cmd.u.armed.watchdog_ms = 0;
    cmd.u.armed.lease_ms = 5000;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    end(b);
}

/* H32: while disarmed nobody is fenced, and after ARM only a new ARMED counts. */
static void a_disarmed_cluster_fences_nobody(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_node_cmd(b, HA_CMD_FENCE_WANT, 1), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_DISARM, 0), 0);
    assert_false(build_node_of(b, 1)->is_fence_wanted);
    for (uint8_t evidence = HA_EVIDENCE_AGENT; evidence <= HA_EVIDENCE_OPERATOR; evidence++)
        assert_int_equal(build_fenced(b, 1, evidence), HA_REASON_DISARMED);
    assert_int_equal(build_node_cmd(b, HA_CMD_FENCE_WANT, 1), HA_REASON_DISARMED);
    /* Guests may be started meanwhile, on nodes without a working keeper too. */
    build_guest(b, 2, HA_WANT_STARTED);
    assert_int_equal(build_assign(b, 2, 2), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_ARM, 0), 0);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_LEASE), HA_REASON_NOT_ARMED);
    build_guest(b, 3, HA_WANT_STARTED);
    assert_int_equal(build_assign(b, 3, 2), HA_REASON_NOT_ARMED);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_AGENT), 0);
    end(b);
}

/* H30: stopping hamgrd with guests is a FREEZE at most, never a LEAVE. */
static void leave_needs_empty_hands(void **unused)
{
    struct build *b = story(3, HA_PHASE_MIGRATING);

    (void)unused;
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 1), HA_REASON_TICKET_OPEN);
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 2), HA_REASON_TICKET_OPEN);
    build_move(b, HA_CMD_SWITCH, 1);
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 1), HA_REASON_TICKET_OPEN);
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 2), HA_REASON_TICKET_OPEN);
    build_move(b, HA_CMD_ARRIVED, 1);
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 2), HA_REASON_OWNS_GUESTS);
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 1), 0);
    assert_int_equal(build_node_of(b, 1)->status, HA_NODE_LEFT);
    assert_false(build_node_of(b, 1)->is_armed);
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_node_of(b, 1)->status, HA_NODE_LEFT);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_AGENT), HA_REASON_NOT_UNCLEAN);
    end(b);
}

static void a_node_that_left_joins_anew(void **unused)
{
    struct build *b = story(3, HA_PHASE_FREE);

    (void)unused;
    assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 1), 0);
    uint64_t left = build_node_of(b, 1)->incarnation;
    BUILD_OPEN(b, true, 1, 2, 3); /* the same process, still in the view */
    assert_int_equal(build_node_of(b, 1)->status, HA_NODE_MEMBER);
    assert_true(build_node_of(b, 1)->incarnation > left);
    assert_int_equal(build_assign(b, 1, 1), HA_REASON_NOT_ARMED);
    end(b);
}

static void a_frozen_node_is_fenced_by_power_only(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    assert_int_equal(build_node_cmd(b, HA_CMD_FREEZE, 1), 0);
    BUILD_OPEN(b, true, 2, 3);
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_LEASE), HA_REASON_FROZEN);
    build_restart(b, 1);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_true(build_node_of(b, 1)->is_frozen); /* until somebody says otherwise */
    assert_owner(b, HA_PHASE_RUNNING, 1, 1);
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_AGENT), 0);
    assert_owner(b, HA_PHASE_FREE, 0, 1);
    assert_int_equal(build_node_cmd(b, HA_CMD_UNFREEZE, 1), 0);
    end(b);
}

static void a_wish_to_fence_lasts_for_one_incarnation(void **unused)
{
    struct build *b = story(3, HA_PHASE_RUNNING);

    (void)unused;
    assert_int_equal(build_node_cmd(b, HA_CMD_FENCE_WANT, 1), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_FENCE_WANT, 1), HA_REASON_ALREADY);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_AGENT), HA_REASON_NOT_UNCLEAN);
    BUILD_OPEN(b, true, 2, 3);
    assert_true(build_node_of(b, 1)->is_fence_wanted);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_false(build_node_of(b, 1)->is_fence_wanted);
    end(b);
}

/* --- Labels, voters --- */

/* H29 within one log: a copy of a removed guest may lie on a node that comes back years later. */
static void epochs_of_removed_guests_do_not_come_back(void **unused)
{
    struct build *b = story(3, HA_PHASE_MIGRATING);

    (void)unused;
    BUILD_OPEN(b, true, 2, 3);
    assert_int_equal(build_fenced(b, 1, HA_EVIDENCE_LEASE), 0);
    build_want(b, 1, HA_WANT_STOPPED);
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_GUEST_REMOVE, 1);
    assert_int_equal(build_cmd(b, &cmd), 0);
    assert_int_equal(build_guest(b, 1, HA_WANT_STARTED), 0);
    assert_int_equal(build_guest_of(b, 1)->epoch, 2);
    assert_int_equal(build_assign(b, 1, 2), 0);
    assert_owner(b, HA_PHASE_ASSIGNED, 2, 3); /* 1 and 2 lived before */
    end(b);
}

static void voters_are_kept_as_the_log_counts_them(void **unused)
{
    struct build *b = story(2, HA_PHASE_RUNNING);

    (void)unused;
    assert_int_equal(build_voter(b, true, 2), HA_REASON_ALREADY);
    assert_true(b->applied.is_noop);
    assert_int_equal(build_voter(b, false, 2), 0);
    assert_false(build_node_of(b, 2)->is_voter);
    assert_int_equal(build_voter(b, false, 2), HA_REASON_ALREADY);
    assert_int_equal(build_voter(b, true, 2), 0); /* the same store again is a vote again */
    assert_true(build_node_of(b, 2)->is_voter);
    assert_int_equal(build_voter(b, false, 9), HA_REASON_NO_SUCH_NODE);
    /* The log counts it, so the state keeps it, though nobody added the node. */
    assert_int_equal(build_voter(b, true, 9), 0);
    assert_true(build_node_of(b, 9)->is_voter);
    assert_true(ha_name_is_valid(build_node_of(b, 9)->name));
    assert_memory_equal(&build_node_of(b, 9)->store_id, &b->self[9].store_id, 16);
    end(b);
}

/* A voter's store in the record is the voted one, whatever store the node joins with. */
static void joining_does_not_change_a_voters_store(void **unused)
{
    struct build *b = story(3, HA_PHASE_FREE);
    struct ha_uuid voted = b->self[3].store_id;

    (void)unused;
    build_restart(b, 3);
    b->self[3].store_id = build_uuid(4711);
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0);
    assert_memory_equal(&build_node_of(b, 3)->store_id, &voted, 16);
    assert_memory_equal(&build_node_of(b, 3)->joined_store_id, &b->self[3].store_id, 16);
    /* And its guests follow the store it joined with, not the vote. */
    assert_int_equal(build_armed(b, 3), 0);
    build_phase(b, 1, HA_PHASE_RUNNING, 3, 1);
    build_restart(b, 3);
    assert_int_equal(BUILD_OPEN(b, true, 1, 2, 3), 0);
    assert_owner(b, HA_PHASE_RUNNING, 3, 1);
    assert_int_equal(build_voter(b, false, 3), 0);
    assert_memory_equal(&build_node_of(b, 3)->store_id, &b->self[3].store_id, 16);
    end(b);
}

static void a_node_without_a_vote_is_known_by_the_store_it_joins_with(void **unused)
{
    struct build *b = story(3, HA_PHASE_FREE);

    (void)unused;
    build_voter(b, false, 3);
    build_restart(b, 3);
    b->self[3].store_id = build_uuid(4712);
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_memory_equal(&build_node_of(b, 3)->store_id, &b->self[3].store_id, 16);
    end(b);
}

static void a_longer_watchdog_counts_too(void **unused)
{
    struct build *b = story(2, HA_PHASE_FREE);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_ARMED, 1);

    (void)unused;
    cmd.epoch = b->state.applied;
    cmd.u.armed.lease_ms = 1;
    cmd.u.armed.watchdog_ms = 60000;
    assert_int_equal(build_cmd(b, &cmd), 0);
    assert_int_equal(build_node_of(b, 1)->watchdog_ms, 60000);
    assert_int_equal(build_node_of(b, 1)->lease_ms, 6900);
    end(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lease_evidence_needs_an_armed_incarnation),
        cmocka_unit_test(a_cold_start_fences_by_the_arming_in_the_log),
        cmocka_unit_test(stale_armed_reports_do_not_count),
        cmocka_unit_test(a_look_at_the_keeper_from_before_a_rejoin_does_not_count),
        cmocka_unit_test(lease_and_watchdog_only_grow_within_a_boot),
        cmocka_unit_test(armed_needs_lease_and_watchdog),
        cmocka_unit_test(a_disarmed_cluster_fences_nobody),
        cmocka_unit_test(leave_needs_empty_hands),
        cmocka_unit_test(a_node_that_left_joins_anew),
        cmocka_unit_test(a_frozen_node_is_fenced_by_power_only),
        cmocka_unit_test(a_wish_to_fence_lasts_for_one_incarnation),
        cmocka_unit_test(epochs_of_removed_guests_do_not_come_back),
        cmocka_unit_test(voters_are_kept_as_the_log_counts_them),
        cmocka_unit_test(joining_does_not_change_a_voters_store),
        cmocka_unit_test(a_node_without_a_vote_is_known_by_the_store_it_joins_with),
        cmocka_unit_test(a_longer_watchdog_counts_too),
    };

    return cmocka_run_group_tests_name("state: stories of arming, labels and votes", tests, NULL,
                                       NULL);
}
