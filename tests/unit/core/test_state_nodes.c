/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules about nodes and the cluster as a table: every command in every status; what is refused,
 * with which reason, and that a refusal changes nothing. And how a cluster begins.
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

static void check_sound(const struct build *b)
{
    const char *violation = ha_state_violation(&b->state);

    if (violation)
        fail_msg("violation: %s", violation);
}

static uint16_t try_node_add(struct build *b)
{
    struct ha_cmd cmd = build_node_command(b, HA_CMD_NODE_ADD, 2);

    snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "other");
    return build_cmd(b, &cmd);
}

static uint16_t try_node_remove(struct build *b)
{
    return build_node_cmd(b, HA_CMD_NODE_REMOVE, 2);
}

static uint16_t try_armed(struct build *b)
{
    return build_armed(b, 2);
}

static uint16_t try_unarmed(struct build *b)
{
    return build_node_cmd(b, HA_CMD_UNARMED, 2);
}

static uint16_t try_fenced_agent(struct build *b)
{
    return build_fenced(b, 2, HA_EVIDENCE_AGENT);
}

static uint16_t try_fenced_lease(struct build *b)
{
    return build_fenced(b, 2, HA_EVIDENCE_LEASE);
}

static uint16_t try_fenced_operator(struct build *b)
{
    return build_fenced(b, 2, HA_EVIDENCE_OPERATOR);
}

static uint16_t try_fenced_reboot(struct build *b)
{
    return build_fenced(b, 2, HA_EVIDENCE_REBOOT);
}

static uint16_t try_leave(struct build *b)
{
    return build_node_cmd(b, HA_CMD_LEAVE, 2);
}

static uint16_t try_freeze(struct build *b)
{
    return build_node_cmd(b, HA_CMD_FREEZE, 2);
}

static uint16_t try_unfreeze(struct build *b)
{
    return build_node_cmd(b, HA_CMD_UNFREEZE, 2);
}

static uint16_t try_maintenance(struct build *b)
{
    return build_maintenance(b, 2, true);
}

static uint16_t try_capacity(struct build *b)
{
    return build_capacity(b, 2, 4096);
}

static uint16_t try_fence_want(struct build *b)
{
    return build_node_cmd(b, HA_CMD_FENCE_WANT, 2);
}

static uint16_t try_disarm(struct build *b)
{
    return build_node_cmd(b, HA_CMD_DISARM, 0);
}

static uint16_t try_arm(struct build *b)
{
    return build_node_cmd(b, HA_CMD_ARM, 0);
}

#define OK     HA_REASON_NONE
#define SAME   HA_REASON_ALREADY
#define NODE   HA_REASON_NODE_EXISTS
#define ABSENT HA_REASON_NOT_MEMBER
#define CLEAN  HA_REASON_NOT_UNCLEAN
#define MEMBER HA_REASON_IS_MEMBER
#define BAD    HA_REASON_BAD_VALUE

/* Columns: NEW, MEMBER (armed), UNCLEAN (armed), FENCED, LEFT; node 2 owns nothing, has no vote. */
static const struct {
    const char *name;
    uint16_t (*try)(struct build *b);
    uint16_t reason[5];
} node_table[] = {
    {"NODE_ADD", try_node_add, {NODE, NODE, NODE, NODE, NODE}},
    {"NODE_REMOVE", try_node_remove, {OK, MEMBER, OK, OK, OK}},
    {"ARMED", try_armed, {ABSENT, SAME, ABSENT, ABSENT, ABSENT}},
    {"UNARMED", try_unarmed, {ABSENT, OK, ABSENT, ABSENT, ABSENT}},
    {"FENCED agent", try_fenced_agent, {CLEAN, CLEAN, OK, CLEAN, CLEAN}},
    {"FENCED lease", try_fenced_lease, {CLEAN, CLEAN, OK, CLEAN, CLEAN}},
    {"FENCED operator", try_fenced_operator, {CLEAN, CLEAN, OK, CLEAN, CLEAN}},
    {"FENCED reboot", try_fenced_reboot, {CLEAN, CLEAN, BAD, CLEAN, CLEAN}},
    {"LEAVE", try_leave, {ABSENT, OK, ABSENT, ABSENT, ABSENT}},
    {"FREEZE", try_freeze, {ABSENT, OK, ABSENT, ABSENT, ABSENT}},
    {"UNFREEZE", try_unfreeze, {SAME, SAME, SAME, SAME, SAME}},
    {"MAINTENANCE", try_maintenance, {OK, OK, OK, OK, OK}},
    {"CAPACITY", try_capacity, {OK, OK, OK, OK, OK}},
    {"FENCE_WANT", try_fence_want, {ABSENT, OK, OK, ABSENT, ABSENT}},
    {"DISARM", try_disarm, {OK, OK, OK, OK, OK}},
    {"ARM", try_arm, {SAME, SAME, SAME, SAME, SAME}},
};

static void enter_status(struct build *b, uint8_t status)
{
    build_nodes(b, 3);
    if (status == HA_NODE_NEW) {
        BUILD_OPEN(b, true, 1, 3);
        return;
    }
    BUILD_OPEN(b, true, 1, 2, 3);
    assert_int_equal(build_armed(b, 2), 0);
    if (status == HA_NODE_LEFT)
        assert_int_equal(build_node_cmd(b, HA_CMD_LEAVE, 2), 0);
    if (status == HA_NODE_UNCLEAN || status == HA_NODE_FENCED)
        BUILD_OPEN(b, true, 1, 3);
    if (status == HA_NODE_FENCED)
        assert_int_equal(build_fenced(b, 2, HA_EVIDENCE_AGENT), 0);
}

static void every_node_command_in_every_status(void **unused)
{
    (void)unused;
    for (size_t row = 0; row < sizeof(node_table) / sizeof(node_table[0]); row++) {
        for (uint8_t status = HA_NODE_NEW; status <= HA_NODE_LEFT; status++) {
            struct build *b = build_new(1);
            struct build_picture before, after;

            enter_status(b, status);
            assert_int_equal(build_node_of(b, 2)->status, status);
            build_picture(b, &before);
            uint16_t reason = node_table[row].try(b);
            if (reason != node_table[row].reason[status])
                fail_msg("%s of %s: %s, expected %s", node_table[row].name,
                         ha_node_status_name(status), ha_reason_name(reason),
                         ha_reason_name(node_table[row].reason[status]));
            build_picture(b, &after);
            assert_int_equal(memcmp(before.bytes, after.bytes, sizeof(before.bytes)) == 0,
                             reason != OK);
            check_sound(b);
            build_free(b);
        }
    }
}

static void node_commands_presume_the_incarnation(void **unused)
{
    static const uint8_t strict[] = {HA_CMD_ARMED, HA_CMD_UNARMED, HA_CMD_FENCED, HA_CMD_LEAVE,
                                     HA_CMD_FENCE_WANT};
    static const uint8_t loose[] = {HA_CMD_FREEZE, HA_CMD_MAINTENANCE, HA_CMD_CAPACITY};
    struct build *b = build_new(1);
    struct ha_cmd cmd;

    (void)unused;
    build_ready(b, 2);
    for (size_t i = 0; i < sizeof(strict); i++) {
        cmd = build_node_command(b, strict[i], 2);
        cmd.incarnation++;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
        cmd.incarnation = 0;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
        cmd.node = 9;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_NO_SUCH_NODE);
    }
    for (size_t i = 0; i < sizeof(loose); i++) {
        cmd = build_node_command(b, loose[i], 2);
        cmd.u.maintenance.is_on = true;
        cmd.incarnation++;
        assert_int_equal(build_cmd(b, &cmd), HA_REASON_STALE_INCARNATION);
        cmd.incarnation = 0;
        assert_int_equal(build_cmd(b, &cmd), 0);
    }
    build_free(b);
}

static void nodes_are_unique_and_bounded(void **unused)
{
    struct build *b = build_new(1);

    (void)unused;
    build_nodes(b, HA_NODES_MAX);
    struct ha_cmd cmd = build_node_command(b, HA_CMD_NODE_ADD, 100);
    snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "n5");
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_NODE_EXISTS);
    snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "more");
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_LIMIT);
    snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "a b");
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    cmd.node = 0;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_BAD_VALUE);
    assert_int_equal(build_node_cmd(b, HA_CMD_NODE_REMOVE, 1), HA_REASON_IS_VOTER);
    assert_int_equal(build_node_cmd(b, HA_CMD_NODE_REMOVE, 7), 0);
    assert_null(ha_state_node(&b->state, 7));
    assert_null(ha_state_node_by_name(&b->state, "n7"));
    check_sound(b);
    build_free(b);
}

static void nodes_that_hold_something_are_not_removed(void **unused)
{
    struct build *b = build_new(2);

    (void)unused;
    build_ready(b, 3);
    build_voter(b, false, 1);
    build_voter(b, false, 2);
    build_guest(b, 1, HA_WANT_STARTED);
    build_phase(b, 1, HA_PHASE_MIGRATING, 1, 2);
    BUILD_OPEN(b, true, 3);
    assert_int_equal(build_node_cmd(b, HA_CMD_NODE_REMOVE, 1), HA_REASON_OWNS_GUESTS);
    assert_int_equal(build_node_cmd(b, HA_CMD_NODE_REMOVE, 2), HA_REASON_TICKET_OPEN);
    build_free(b);
}

static void the_first_entry_founds_the_cluster(void **unused)
{
    struct build *b = build_new(1);
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct ha_cmd cmd;

    (void)unused;
    memset(&cmd, 0, sizeof(cmd));
    cmd.type = HA_CMD_DISARM;
    ha_cmd_encode(&w, &cmd);
    assert_int_equal(build_apply(b, LOG_KIND_STATE, body, w.position), -HA_E_CORRUPT);
    assert_int_equal(build_apply(b, LOG_KIND_INIT, body, w.position), -HA_E_CORRUPT);
    assert_int_equal(b->state.applied, 0);
    build_nodes(b, 1);
    assert_int_equal(b->state.applied, 1);
    assert_true(build_node_of(b, 1)->is_voter);
    assert_int_equal(build_node_of(b, 1)->status, HA_NODE_NEW);
    assert_int_equal(b->state.generation, 1);
    cmd = b->applied.cmd;
    assert_int_equal(build_cmd(b, &cmd), HA_REASON_INIT_TWICE);
    assert_int_equal(b->state.applied, 2);
    assert_int_equal(b->state.node_count, 1);
    build_free(b);
}

static void unreadable_bodies_stop_and_change_nothing(void **unused)
{
    struct build *b = build_new(1);
    static const uint8_t junk[] = {1, 200, 0, 0};
    struct build_picture before, after;

    (void)unused;
    build_ready(b, 2);
    uint64_t applied = b->state.applied;
    build_picture(b, &before);
    assert_int_equal(build_apply(b, LOG_KIND_STATE, junk, sizeof(junk)), -HA_E_VERSION);
    assert_int_equal(build_apply(b, LOG_KIND_STATE, junk, 1), -HA_E_CORRUPT);
    assert_int_equal(build_apply(b, LOG_KIND_STATE, junk, 0), -HA_E_CORRUPT);
    assert_int_equal(build_apply(b, LOG_KIND_OPEN, junk, sizeof(junk)), -HA_E_CORRUPT);
    assert_int_equal(build_apply(b, LOG_KIND_VOTER, junk, sizeof(junk)), -HA_E_CORRUPT);
    assert_int_equal(build_apply(b, 77, junk, sizeof(junk)), -HA_E_VERSION);
    build_picture(b, &after);
    assert_memory_equal(before.bytes, after.bytes, sizeof(before.bytes));
    assert_int_equal(b->state.applied, applied);
    build_free(b);
}

static int apply_init(const struct ha_cmd *cmd)
{
    struct build *b = build_new(1);
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    ha_cmd_encode(&w, cmd);
    int rc = build_apply(b, LOG_KIND_INIT, body, w.position);
    assert_int_equal(b->state.applied, rc == 0 ? 1 : 0);
    assert_int_equal(b->state.node_count, rc == 0 ? 1 : 0);
    if (rc == 0)
        assert_int_equal(b->state.nodes[0].is_witness, cmd->u.init.is_witness);
    build_free(b);
    return rc;
}

static void a_cluster_does_not_begin_with_nonsense(void **unused)
{
    struct build *b = build_new(1);

    (void)unused;
    build_nodes(b, 1);
    const struct ha_cmd good = b->applied.cmd;
    assert_int_equal(apply_init(&good), 0);
    assert_memory_equal(&b->state.cluster_id, &good.u.init.cluster_id, 16);
    struct ha_cmd cmd = good;
    cmd.u.init.is_witness = true;
    assert_int_equal(apply_init(&cmd), 0);
    cmd.node = 0;
    assert_int_equal(apply_init(&cmd), -HA_E_CORRUPT);
    cmd = good;
    memset(&cmd.u.init.cluster_id, 0, sizeof(cmd.u.init.cluster_id));
    assert_int_equal(apply_init(&cmd), -HA_E_CORRUPT);
    cmd = good;
    memset(&cmd.u.init.store_id, 0, sizeof(cmd.u.init.store_id));
    assert_int_equal(apply_init(&cmd), -HA_E_CORRUPT);
    cmd = good;
    cmd.u.init.generation = 0;
    assert_int_equal(apply_init(&cmd), -HA_E_CORRUPT);
    cmd = good;
    cmd.u.init.name[0] = '\0';
    assert_int_equal(apply_init(&cmd), -HA_E_CORRUPT);
    cmd = good;
    cmd.u.init.node_name[0] = '-';
    assert_int_equal(apply_init(&cmd), -HA_E_CORRUPT);
    build_free(b);
}

static void entries_leave_their_traces(void **unused)
{
    struct build *b = build_new(1);

    (void)unused;
    build_nodes(b, 2);
    const struct ha_node *first = build_node_of(b, 1);
    const struct ha_node *second = build_node_of(b, 2);
    assert_string_equal(first->addr, "10.0.0.1");
    assert_memory_equal(&first->store_id, &b->self[1].store_id, 16);
    assert_int_equal(first->status_index, 1);
    assert_string_equal(second->addr, "10.0.0.2");
    assert_int_equal(second->status_index, 2);
    assert_int_equal(second->status_wall_ms, b->entry.wall_ms);
    assert_true(ha_digest_equal(b->state.digest, b->entry.digest));
    BUILD_OPEN(b, true, 1, 2);
    assert_int_equal(b->state.view.counter, 1);
    assert_int_equal(b->state.view.leader, 1);
    assert_int_equal(second->proto_min, 1);
    assert_int_equal(second->proto_max, 1);
    assert_int_equal(second->status_index, b->entry.index);
    BUILD_OPEN(b, true, 1);
    assert_int_equal(build_fenced(b, 2, HA_EVIDENCE_AGENT), 0);
    assert_int_equal(second->evidence, HA_EVIDENCE_AGENT);
    assert_string_equal(second->evidence_detail, "fence_ns n2: status off");
    assert_int_equal(second->status_index, b->entry.index);
    check_sound(b);
    build_free(b);
}

static void repeated_and_senseless_settings_are_refused(void **unused)
{
    struct build *b = build_new(1);

    (void)unused;
    build_ready(b, 1);
    assert_int_equal(build_maintenance(b, 1, false), HA_REASON_ALREADY);
    assert_int_equal(build_maintenance(b, 1, true), 0);
    assert_int_equal(build_maintenance(b, 1, true), HA_REASON_ALREADY);
    assert_int_equal(build_capacity(b, 1, BUILD_MEM_KIB), HA_REASON_ALREADY);
    assert_int_equal(build_capacity(b, 1, UINT64_MAX), HA_REASON_BAD_VALUE);
    assert_int_equal(build_node_cmd(b, HA_CMD_DISARM, 0), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_DISARM, 0), HA_REASON_ALREADY);
    struct ha_cmd cmd = build_command(b, 99);
    assert_int_equal(ha_state_check(&b->state, &cmd), HA_REASON_BAD_VALUE);
    build_free(b);
}

static void unfreezing_is_for_frozen_nodes_in_any_status(void **unused)
{
    struct build *b = build_new(1);

    (void)unused;
    build_ready(b, 2);
    assert_int_equal(build_node_cmd(b, HA_CMD_FREEZE, 2), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_FREEZE, 2), HA_REASON_ALREADY);
    BUILD_OPEN(b, true, 1);
    assert_int_equal(build_node_cmd(b, HA_CMD_UNFREEZE, 2), 0);
    assert_int_equal(build_node_cmd(b, HA_CMD_UNFREEZE, 2), HA_REASON_ALREADY);
    build_free(b);
}

static void a_full_table_takes_no_bare_voter(void **unused)
{
    struct build *b = build_new(1);
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct log_voter_change change = {.is_added = true, .node = 1000};

    (void)unused;
    build_nodes(b, HA_NODES_MAX);
    assert_null(ha_state_node(&b->state, 1000));
    log_voter_change_encode(&w, &change);
    assert_int_equal(build_apply(b, LOG_KIND_VOTER, body, w.position), 0);
    assert_int_equal(b->applied.refusal, HA_REASON_LIMIT);
    assert_int_equal(b->state.node_count, HA_NODES_MAX);
    change.node = 0;
    w = ha_writer_of(body, sizeof(body));
    log_voter_change_encode(&w, &change);
    assert_int_equal(build_apply(b, LOG_KIND_VOTER, body, w.position), -HA_E_CORRUPT);
    build_free(b);
}

static void a_bare_voter_gets_a_name_nobody_has(void **unused)
{
    struct build *b = build_new(1);
    struct ha_cmd cmd;

    (void)unused;
    build_nodes(b, 1);
    cmd = build_node_command(b, HA_CMD_NODE_ADD, 3);
    snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "node-7-0");
    assert_int_equal(build_cmd(b, &cmd), 0);
    assert_int_equal(build_voter(b, true, 7), 0);
    assert_string_equal(build_node_of(b, 7)->name, "node-7-1");
    assert_int_equal(build_node_of(b, 7)->status_index, b->entry.index);
    check_sound(b);
    /* A vote of another store replaces it, as the log would count it. */
    b->self[7].store_id = build_uuid(5);
    assert_int_equal(build_voter(b, true, 7), 0);
    assert_memory_equal(&build_node_of(b, 7)->store_id, &b->self[7].store_id, 16);
    build_free(b);
}

static void names_of_phases_and_statuses_are_bounded(void **unused)
{
    (void)unused;
    assert_string_equal(ha_phase_name(HA_PHASE_FREE), "free");
    assert_string_equal(ha_phase_name(HA_PHASE_SWITCHED), "switched");
    assert_string_equal(ha_phase_name(HA_PHASE_COUNT), "?");
    assert_string_equal(ha_node_status_name(HA_NODE_LEFT), "left");
    assert_string_equal(ha_node_status_name(HA_NODE_LEFT + 1), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_node_command_in_every_status),
        cmocka_unit_test(node_commands_presume_the_incarnation),
        cmocka_unit_test(nodes_are_unique_and_bounded),
        cmocka_unit_test(nodes_that_hold_something_are_not_removed),
        cmocka_unit_test(the_first_entry_founds_the_cluster),
        cmocka_unit_test(unreadable_bodies_stop_and_change_nothing),
        cmocka_unit_test(a_cluster_does_not_begin_with_nonsense),
        cmocka_unit_test(entries_leave_their_traces),
        cmocka_unit_test(repeated_and_senseless_settings_are_refused),
        cmocka_unit_test(unfreezing_is_for_frozen_nodes_in_any_status),
        cmocka_unit_test(a_full_table_takes_no_bare_voter),
        cmocka_unit_test(a_bare_voter_gets_a_name_nobody_has),
        cmocka_unit_test(names_of_phases_and_statuses_are_bounded),
    };

    return cmocka_run_group_tests_name("state: nodes", tests, NULL, NULL);
}
