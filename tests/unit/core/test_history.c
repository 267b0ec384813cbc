/* SPDX-License-Identifier: Apache-2.0
 *
 * History lines: each kind of entry tells what happened in words, every line is one JSON object
 * whatever people and agents wrote into it, and no buffer is too small to be noticed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "hamgr/base/err.h"
#include "hamgr/core/history.h"
#include "tests/lib/builders.h"

static char line[HA_HISTORY_LINE_MAX];

/* A cluster, and its state as it was before the entry that is told. */
struct teller {
    struct build *b;
    struct ha_state before;
    struct ha_guest guests[16];
};

static void tell_begin(struct teller *t, uint32_t nodes)
{
    memset(t, 0, sizeof(*t));
    t->b = build_new(16);
    build_ready(t->b, nodes);
    t->b->reason = HA_REASON_OPERATOR;
    t->b->actor = "operator root";
}

static void keep(struct teller *t)
{
    t->before = t->b->state;
    memcpy(t->guests, t->b->state.guests, sizeof(t->guests));
    t->before.guests = t->guests;
}

static json_t *told(struct teller *t)
{
    struct ha_history_before before;
    json_error_t error;

    ha_history_before(&t->before, &t->b->entry, &before);
    int length =
        ha_history_line(&before, &t->b->state, &t->b->entry, &t->b->applied, line, sizeof(line));
    assert_true(length > 0);
    assert_int_equal(strlen(line), length);
    assert_null(strchr(line, '\n'));
    json_t *json = json_loads(line, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        fail_msg("not JSON (%s): %s", error.text, line);
    return json;
}

static const char *member(const json_t *json, const char *name)
{
    const json_t *value = json_object_get(json, name);

    assert_non_null(value);
    return json_is_null(value) ? NULL : json_string_value(value);
}

static void assert_text(struct teller *t, const char *expected)
{
    json_t *json = told(t);

    assert_string_equal(member(json, "text"), expected);
    json_decref(json);
}

/* KEEP(t, statement): the statement applies one entry, which can be told afterwards. */
#define KEEP(t, statement)                                                                         \
    do {                                                                                           \
        keep(t);                                                                                   \
        (void)(statement);                                                                         \
    } while (0)

static void a_failover_is_told(void **unused)
{
    struct teller t;

    (void)unused;
    tell_begin(&t, 3);
    KEEP(&t, build_guest(t.b, 1, HA_WANT_STARTED));
    assert_text(&t, "g1 was added: 1024 MiB, wanted started");
    t.b->actor = "planner";
    t.b->reason = HA_REASON_PLACEMENT;
    KEEP(&t, build_assign(t.b, 1, 1));
    assert_text(&t, "g1: n1 owns it at epoch 1: the planner placed it here");
    KEEP(&t, build_started(t.b, 1));
    assert_text(&t, "g1 runs on n1, epoch 1");
    KEEP(&t, BUILD_OPEN(t.b, true, 2, 3));
    assert_text(&t, "view 2.2 is open: n2, n3; gone without leaving: n1");
    KEEP(&t, build_fenced(t.b, 1, HA_EVIDENCE_AGENT));
    assert_text(&t, "n1 is fenced by agent (fence_ns n1: status off): nobody's now: g1");
    t.b->reason = HA_REASON_RECOVERY;
    KEEP(&t, build_assign(t.b, 1, 2));
    json_t *json = told(&t);
    assert_string_equal(member(json, "text"), "g1: n2 owns it again at epoch 2: its owner n1 was "
                                              "fenced (fence_ns n1: status off)");
    assert_int_equal(json_integer_value(json_object_get(json, "index")), t.b->entry.index);
    assert_int_equal(json_integer_value(json_object_get(json, "wall_ms")), t.b->entry.wall_ms);
    assert_string_equal(member(json, "view"), "2.2");
    assert_string_equal(member(json, "type"), "ASSIGN");
    assert_string_equal(member(json, "guest"), "g1");
    assert_string_equal(member(json, "node"), "n2");
    assert_int_equal(json_integer_value(json_object_get(json, "epoch")), 2);
    assert_string_equal(member(json, "reason"), "recovery");
    assert_string_equal(member(json, "actor"), "planner");
    assert_true(json_is_false(json_object_get(json, "is_noop")));
    json_decref(json);
    KEEP(&t, BUILD_OPEN(t.b, true, 1, 2, 3));
    assert_text(&t, "view 3.1 is open: n1, n2, n3; joined: n1 (incarnation 4)");
    build_free(t.b);
}

static void a_migration_is_told(void **unused)
{
    struct teller t;

    (void)unused;
    tell_begin(&t, 3);
    build_guest(t.b, 1, HA_WANT_STARTED);
    build_phase(t.b, 1, HA_PHASE_RUNNING, 1, 2);
    t.b->reason = HA_REASON_DRAIN;
    KEEP(&t, build_migrate(t.b, 1, 2));
    char expected[HA_TEXT_MAX];
    uint64_t ticket = build_guest_of(t.b, 1)->ticket.id;
    snprintf(expected, sizeof(expected),
             "g1: migration %d from n1 to n2 began, epoch 2 is reserved: its node is in "
             "maintenance",
             (int)ticket);
    assert_text(&t, expected);
    KEEP(&t, build_move(t.b, HA_CMD_SWITCH, 1));
    assert_text(&t, "g1: n2 owns it at epoch 2 now; n1 keeps its suspended copy until it runs "
                    "there");
    t.b->wall_ms += 1200;
    KEEP(&t, build_move(t.b, HA_CMD_ARRIVED, 1));
    snprintf(expected, sizeof(expected),
             "g1 runs on n2, epoch 2; migration %d is complete after 1220 ms", (int)ticket);
    assert_text(&t, expected);
    build_migrate(t.b, 1, 3);
    ticket = build_guest_of(t.b, 1)->ticket.id;
    t.b->reason = HA_REASON_STREAM_FAILED;
    KEEP(&t, build_move(t.b, HA_CMD_ABORT, 1));
    snprintf(expected, sizeof(expected),
             "g1: migration %d to n3 was given up, it goes on on n2: the migration stream failed",
             (int)ticket);
    assert_text(&t, expected);
    build_migrate(t.b, 1, 3);
    build_move(t.b, HA_CMD_SWITCH, 1);
    KEEP(&t, build_move(t.b, HA_CMD_REVERT, 1));
    assert_text(&t, "g1 goes back to n2 at epoch 2: it never ran on n3");
    build_free(t.b);
}

/* The record: a sentence with the guest's own pause, and the numbers beside it. */
static void records_of_migrations_are_told(void **unused)
{
    struct teller t;

    (void)unused;
    tell_begin(&t, 3);
    build_guest(t.b, 1, HA_WANT_STARTED);
    build_phase(t.b, 1, HA_PHASE_RUNNING, 1, 2);
    struct ha_cmd cmd = {.type = HA_CMD_MOVED, .guest = build_guest_of(t.b, 1)->id, .ticket = 9};
    cmd.u.moved = (struct ha_moved){.outcome = HA_MOVED_ARRIVED,
                                    .src = 1,
                                    .dst = 2,
                                    .began_wall_ms = 1000,
                                    .ended_wall_ms = 3500,
                                    .raw_bytes = 3 << 20,
                                    .wire_bytes = 1 << 20,
                                    .rounds = 4,
                                    .guest_us = 23456,
                                    .source_us = 30000};
    KEEP(&t, build_cmd(t.b, &cmd));
    assert_text(&t, "g1: migration 9 from n1 to n2 moved after 2500 ms, 4 rounds, 3 MiB (1 on the "
                    "wire), paused for 23.4 ms");
    assert_non_null(strstr(line, "\"move\":{\"op\":9,\"outcome\":\"moved\",\"reason\":\"\","
                                 "\"from\":\"n1\",\"to\":\"n2\",\"began_wall_ms\":1000"));
    assert_non_null(strstr(line, "\"forecast\":null}}"));
    cmd.u.moved.guest_us = 0;
    cmd.u.moved.forecast_ms = 2000;
    cmd.u.moved.forecast_pause_ms = 20;
    KEEP(&t, build_cmd(t.b, &cmd));
    json_decref(told(&t));
    assert_non_null(strstr(line, "paused for 30.0 ms as its source saw it"));
    assert_non_null(strstr(line, "\"forecast\":{\"time_ms\":2000,\"pause_ms\":20,\"bytes\":0}}}"));
    cmd.u.moved.outcome = HA_MOVED_ABORTED;
    snprintf(cmd.u.moved.detail, sizeof(cmd.u.moved.detail), "too slow");
    KEEP(&t, build_cmd(t.b, &cmd));
    json_decref(told(&t));
    assert_non_null(strstr(line, "aborted after 2500 ms"));
    assert_non_null(strstr(line, "too slow"));
    /* It changed nothing but the log's own place. */
    assert_int_equal(build_guest_of(t.b, 1)->phase, HA_PHASE_RUNNING);
    build_free(t.b);
}

static void ends_of_guests_are_told(void **unused)
{
    struct teller t;
    struct ha_policy policy = ha_policy_default();

    (void)unused;
    tell_begin(&t, 2);
    build_guest(t.b, 1, HA_WANT_STARTED);
    build_phase(t.b, 1, HA_PHASE_RUNNING, 1, 2);
    KEEP(&t, build_not_running(t.b, 1, HA_END_CRASHED));
    assert_text(&t, "g1 does not run on n1 any more: it crashed; failure 1 of 3");
    policy.restart_max = 2;
    KEEP(&t, build_policy(t.b, 1, &policy));
    assert_text(&t, "g1's policy was changed");
    build_phase(t.b, 1, HA_PHASE_RUNNING, 2, 1);
    KEEP(&t, build_not_running(t.b, 1, HA_END_LOST));
    assert_text(&t, "g1 does not run on n2 any more: it was not found there; failure 2 of 2; it is "
                    "left alone until an operator starts it");
    KEEP(&t, build_want(t.b, 1, HA_WANT_STARTED));
    assert_text(&t, "g1 is wanted started");
    build_phase(t.b, 1, HA_PHASE_RUNNING, 2, 1);
    KEEP(&t, build_stop(t.b, 1, HA_STOP_GRACEFUL, true));
    assert_text(&t, "g1: n2 is to shut it down, to run it elsewhere: an operator asked for it");
    KEEP(&t, build_not_running(t.b, 1, HA_END_STOPPED));
    assert_text(&t, "g1 does not run on n2 any more: it was stopped");
    build_want(t.b, 1, HA_WANT_STOPPED);
    struct ha_cmd cmd = build_guest_command(t.b, HA_CMD_GUEST_REMOVE, 1);
    KEEP(&t, build_cmd(t.b, &cmd));
    json_t *json = told(&t);
    assert_string_equal(member(json, "text"), "g1 was removed");
    assert_string_equal(member(json, "guest"), "g1");
    assert_null(member(json, "node"));
    json_decref(json);
    build_free(t.b);
}

static void nodes_are_told(void **unused)
{
    struct teller t;

    (void)unused;
    tell_begin(&t, 3);
    KEEP(&t, build_maintenance(t.b, 2, true));
    assert_text(&t, "n2 is in maintenance");
    KEEP(&t, build_capacity(t.b, 2, 4096));
    assert_text(&t, "n2 has 4 MiB for guests");
    KEEP(&t, build_node_cmd(t.b, HA_CMD_UNARMED, 2));
    assert_text(&t, "n2 is no longer armed");
    KEEP(&t, build_armed(t.b, 2));
    assert_text(&t, "n2 is armed: lease 6900 ms, watchdog 5000 ms");
    KEEP(&t, build_node_cmd(t.b, HA_CMD_FREEZE, 2));
    assert_text(&t, "n2 is frozen: its guests stay its own, its watchdog may stop");
    KEEP(&t, build_node_cmd(t.b, HA_CMD_DISARM, 0));
    assert_text(&t, "the cluster is disarmed: nobody is fenced, nobody pauses");
    KEEP(&t, build_node_cmd(t.b, HA_CMD_ARM, 0));
    assert_text(&t, "the cluster is armed again: each node counts once its watchdog is reported");
    KEEP(&t, build_node_cmd(t.b, HA_CMD_LEAVE, 2));
    assert_text(&t, "n2 left the cluster");
    KEEP(&t, build_voter(t.b, false, 2));
    json_t *json = told(&t);
    assert_string_equal(member(json, "text"), "n2 is no voter any more");
    assert_string_equal(member(json, "type"), "VOTER");
    assert_string_equal(member(json, "node"), "n2");
    assert_string_equal(member(json, "actor"), "log");
    assert_null(member(json, "guest"));
    json_decref(json);
    BUILD_OPEN(t.b, true, 1, 3);
    KEEP(&t, build_node_cmd(t.b, HA_CMD_NODE_REMOVE, 2));
    assert_text(&t, "n2 was removed from the cluster");
    build_free(t.b);
}

static void refusals_are_told(void **unused)
{
    struct teller t;

    (void)unused;
    tell_begin(&t, 2);
    build_guest(t.b, 1, HA_WANT_STARTED);
    KEEP(&t, build_migrate(t.b, 1, 2));
    json_t *json = told(&t);
    assert_string_equal(member(json, "text"),
                        "g1: MIGRATE had no effect: the guest is in a phase that does not allow "
                        "it");
    assert_string_equal(member(json, "reason"), "wrong-phase");
    assert_true(json_is_true(json_object_get(json, "is_noop")));
    json_decref(json);
    KEEP(&t, build_want(t.b, 9, HA_WANT_STARTED));
    json = told(&t);
    assert_string_equal(member(json, "text"), "10000000-0000-0000-0000-000000000009: WANT had no "
                                              "effect: there is no such guest");
    assert_null(member(json, "guest"));
    json_decref(json);
    KEEP(&t, build_node_cmd(t.b, HA_CMD_UNFREEZE, 7));
    assert_text(&t, "node 7: UNFREEZE had no effect: there is no such node");
    KEEP(&t, build_voter(t.b, true, 2));
    assert_text(&t, "n2: VOTER had no effect: it is so already");
    build_free(t.b);
}

static void views_name_who_was_refused_or_rebooted(void **unused)
{
    struct teller t;

    (void)unused;
    tell_begin(&t, 3);
    build_guest(t.b, 1, HA_WANT_STARTED);
    build_guest(t.b, 2, HA_WANT_STARTED);
    build_phase(t.b, 1, HA_PHASE_RUNNING, 1, 2);
    build_phase(t.b, 2, HA_PHASE_RUNNING, 2, 1);
    build_reboot(t.b, 1);
    build_reboot(t.b, 2);
    t.b->self[2].hw_id = build_uuid(99);
    KEEP(&t, BUILD_OPEN(t.b, false, 1, 2, 3));
    json_t *json = told(&t);
    assert_string_equal(member(json, "text"),
                        "view 2.1 is open: n1, n3; joined: n1 (incarnation 4); gone without "
                        "leaving: n2 (fencing waits for it to come back); not readmitted: n2 "
                        "(another machine or store comes under this node's id); rebooted, so "
                        "nobody's now: g1");
    assert_string_equal(member(json, "reason"), "bad-identity");
    assert_string_equal(member(json, "node"), "n1");
    json_decref(json);
    build_free(t.b);
}

static void long_lists_are_counted(void **unused)
{
    struct teller t;

    (void)unused;
    tell_begin(&t, 2);
    build_capacity(t.b, 1, 100 * BUILD_GUEST_KIB);
    for (uint32_t guest = 1; guest <= 11; guest++) {
        build_guest(t.b, guest, HA_WANT_STARTED);
        build_phase(t.b, guest, HA_PHASE_RUNNING, 1, 2);
    }
    BUILD_OPEN(t.b, true, 2);
    KEEP(&t, build_fenced(t.b, 1, HA_EVIDENCE_AGENT));
    assert_text(&t, "n1 is fenced by agent (fence_ns n1: status off): nobody's now: g1, g2, g3, "
                    "g4, g5, g6, g7, g8 and 3 more");
    build_free(t.b);
}

/* What an agent or an operator wrote: quotes, line ends, control bytes, broken and whole UTF-8. */
static void texts_are_escaped(void **unused)
{
    static const struct {
        const char *detail;
        const char *told;
    } table[] = {
        {"say \"off\" \\ please", "say \"off\" \\ please"},
        {"two\nlines\tand\x01 more\x7f", "two\nlines\tand\x01 more\x7f"},
        {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80", "gr\xc3\xbc\xc3\x9f \xe2\x82\xac "
                                                             "\xf0\x9f\x98\x80"},
        {"cut \xe2\x82", "cut \xef\xbf\xbd\xef\xbf\xbd"},
        {"long \xc0\xaf", "long \xef\xbf\xbd\xef\xbf\xbd"},
        {"half \xed\xa0\x80", "half \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"high \xf5", "high \xef\xbf\xbd"},
        {"</script>", "</script>"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct teller t;
        char expected[HA_HISTORY_TEXT_MAX];

        tell_begin(&t, 2);
        BUILD_OPEN(t.b, true, 2);
        struct ha_cmd cmd = build_node_command(t.b, HA_CMD_FENCED, 1);
        cmd.u.fenced.evidence = HA_EVIDENCE_OPERATOR;
        snprintf(cmd.u.fenced.detail, sizeof(cmd.u.fenced.detail), "%s", table[i].detail);
        KEEP(&t, build_cmd(t.b, &cmd));
        snprintf(expected, sizeof(expected), "n1 is fenced by operator (%s): it owned no guest",
                 table[i].told);
        assert_text(&t, expected);
        build_free(t.b);
    }
}

/* The worst line there is fits HA_HISTORY_LINE_MAX; every smaller buffer is reported, not overrun.
 */
static void every_buffer_is_respected(void **unused)
{
    struct teller t;
    struct ha_history_before before;

    (void)unused;
    tell_begin(&t, 2);
    BUILD_OPEN(t.b, true, 2);
    struct ha_cmd cmd = build_node_command(t.b, HA_CMD_FENCED, 1);
    cmd.u.fenced.evidence = HA_EVIDENCE_OPERATOR;
    memset(cmd.u.fenced.detail, 1, sizeof(cmd.u.fenced.detail) - 1);
    memset(cmd.actor, 0xff, sizeof(cmd.actor) - 1);
    KEEP(&t, build_cmd(t.b, &cmd));
    ha_history_before(&t.before, &t.b->entry, &before);
    int length =
        ha_history_line(&before, &t.b->state, &t.b->entry, &t.b->applied, line, sizeof(line));
    assert_true(length > 127 * 6);
    for (size_t size = 0; size <= (size_t)length; size++) {
        char *exact = malloc(size > 0 ? size : 1);
        assert_non_null(exact);
        assert_int_equal(
            ha_history_line(&before, &t.b->state, &t.b->entry, &t.b->applied, exact, size),
            -HA_E_LIMIT);
        free(exact);
    }
    build_free(t.b);
}

static void the_first_entry_is_told(void **unused)
{
    struct teller t;

    (void)unused;
    memset(&t, 0, sizeof(t));
    t.b = build_new(16);
    KEEP(&t, build_nodes(t.b, 1));
    assert_text(&t, "cluster test was created, generation 1; n1 is its first voter");
    build_free(t.b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failover_is_told),
        cmocka_unit_test(a_migration_is_told),
        cmocka_unit_test(records_of_migrations_are_told),
        cmocka_unit_test(ends_of_guests_are_told),
        cmocka_unit_test(nodes_are_told),
        cmocka_unit_test(refusals_are_told),
        cmocka_unit_test(views_name_who_was_refused_or_rebooted),
        cmocka_unit_test(long_lists_are_counted),
        cmocka_unit_test(texts_are_escaped),
        cmocka_unit_test(every_buffer_is_respected),
        cmocka_unit_test(the_first_entry_is_told),
    };

    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
