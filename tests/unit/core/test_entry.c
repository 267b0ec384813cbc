/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands as bytes: every type there and back, every truncation and every unknown form refused,
 * nothing read past a text without its NUL.
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
#include "hamgr/base/rng.h"
#include "hamgr/core/entry.h"
#include "hamgr/core/reason.h"

static const uint8_t types[] = {
    HA_CMD_INIT,      HA_CMD_NODE_ADD,     HA_CMD_NODE_REMOVE, HA_CMD_ARMED,      HA_CMD_UNARMED,
    HA_CMD_FENCED,    HA_CMD_LEAVE,        HA_CMD_FREEZE,      HA_CMD_UNFREEZE,   HA_CMD_DISARM,
    HA_CMD_ARM,       HA_CMD_MAINTENANCE,  HA_CMD_CAPACITY,    HA_CMD_FENCE_WANT, HA_CMD_GUEST_ADD,
    HA_CMD_GUEST_SET, HA_CMD_GUEST_REMOVE, HA_CMD_WANT,        HA_CMD_ASSIGN,     HA_CMD_STARTED,
    HA_CMD_STOP,      HA_CMD_NOT_RUNNING,  HA_CMD_MIGRATE,     HA_CMD_SWITCH,     HA_CMD_ABORT,
    HA_CMD_ARRIVED,   HA_CMD_REVERT,       HA_CMD_CLEAR,
};

static void fill(char *text, size_t capacity, char c)
{
    memset(text, c, capacity - 1);
    text[capacity - 1] = '\0';
}

static void fill_nodes(struct ha_cmd *cmd)
{
    switch (cmd->type) {
    case HA_CMD_INIT:
        cmd->u.init.cluster_id.b[3] = 7;
        cmd->u.init.generation = 2;
        fill(cmd->u.init.name, sizeof(cmd->u.init.name), 'c');
        fill(cmd->u.init.node_name, sizeof(cmd->u.init.node_name), 'n');
        fill(cmd->u.init.addr, sizeof(cmd->u.init.addr), '1');
        cmd->u.init.store_id.b[15] = 9;
        cmd->u.init.is_witness = true;
        break;
    case HA_CMD_NODE_ADD:
        fill(cmd->u.node_add.name, sizeof(cmd->u.node_add.name), 'x');
        fill(cmd->u.node_add.addr, sizeof(cmd->u.node_add.addr), '2');
        cmd->u.node_add.is_witness = true;
        break;
    case HA_CMD_ARMED:
        cmd->u.armed.lease_ms = 6900;
        cmd->u.armed.watchdog_ms = 5000;
        break;
    case HA_CMD_FENCED:
        cmd->u.fenced.evidence = HA_EVIDENCE_LEASE;
        fill(cmd->u.fenced.detail, sizeof(cmd->u.fenced.detail), 'd');
        break;
    case HA_CMD_MAINTENANCE:
        cmd->u.maintenance.is_on = true;
        break;
    case HA_CMD_CAPACITY:
        cmd->u.capacity.mem_kib = UINT64_C(0x123456789a);
        break;
    default:
        break;
    }
}

static void fill_guests(struct ha_cmd *cmd, const uint8_t *definition)
{
    static const struct ha_policy policy = {900, 10, 5, 60, 1000, 250, true};

    switch (cmd->type) {
    case HA_CMD_GUEST_ADD:
        fill(cmd->u.guest_add.name, sizeof(cmd->u.guest_add.name), 'g');
        cmd->u.guest_add.mem_kib = 1 << 20;
        cmd->u.guest_add.want = HA_WANT_STARTED;
        cmd->u.guest_add.policy = policy;
        cmd->u.guest_add.definition = (struct ha_digest){1, 2};
        cmd->u.guest_add.definition_bytes = definition;
        cmd->u.guest_add.definition_size = HA_DEFINITION_MAX;
        break;
    case HA_CMD_GUEST_SET:
        cmd->u.guest_set.policy = policy;
        break;
    case HA_CMD_WANT:
        cmd->u.want.want = HA_WANT_STARTED;
        break;
    case HA_CMD_STOP:
        cmd->u.stop.mode = HA_STOP_DESTROY;
        cmd->u.stop.is_relocation = true;
        break;
    case HA_CMD_NOT_RUNNING:
        cmd->u.not_running.cause = HA_END_LOST;
        fill(cmd->u.not_running.detail, sizeof(cmd->u.not_running.detail), 'e');
        break;
    case HA_CMD_MIGRATE:
        cmd->u.migrate.dst = 3;
        cmd->u.migrate.dst_incarnation = 17;
        cmd->u.migrate.max_downtime_ms = 300;
        cmd->u.migrate.deadline_ms = 60000;
        cmd->u.migrate.on_slow = 3;
        break;
    case HA_CMD_MOVED:
        cmd->u.moved = (struct ha_moved){.outcome = HA_MOVED_REVERTED,
                                         .src = 1,
                                         .dst = 2,
                                         .began_wall_ms = 3,
                                         .ended_wall_ms = 4,
                                         .raw_bytes = 5,
                                         .wire_bytes = 6,
                                         .rounds = 7,
                                         .throttle_percent = 8,
                                         .max_downtime_ms = 9,
                                         .predicted_us = 10,
                                         .source_us = 11,
                                         .destination_us = 12,
                                         .guest_us = 13,
                                         .forecast_ms = 14,
                                         .forecast_pause_ms = 15,
                                         .forecast_bytes = 16};
        fill(cmd->u.moved.detail, sizeof(cmd->u.moved.detail), 'm');
        break;
    case HA_CMD_ABORT:
    case HA_CMD_REVERT:
        fill(cmd->u.text.detail, sizeof(cmd->u.text.detail), 'f');
        break;
    default:
        break;
    }
}

/* Every field at its largest, so that sizes are at their bounds too. */
static struct ha_cmd full_command(uint8_t type, const uint8_t *definition)
{
    struct ha_cmd cmd;

    memset(&cmd, 0, sizeof(cmd));
    cmd.type = type;
    cmd.reason = HA_REASON_RECOVERY;
    cmd.cause = 77;
    fill(cmd.actor, sizeof(cmd.actor), 'a');
    cmd.node = 5;
    cmd.incarnation = 99;
    memset(cmd.guest.b, 0xab, sizeof(cmd.guest.b));
    cmd.epoch = 1234;
    cmd.ticket = 4321;
    fill_nodes(&cmd);
    fill_guests(&cmd, definition);
    return cmd;
}

static uint8_t definition_bytes[HA_DEFINITION_MAX];
static uint8_t body[HA_ENTRY_MAX];

static size_t encode(const struct ha_cmd *cmd)
{
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    ha_cmd_encode(&w, cmd);
    assert_false(w.failed);
    return w.position;
}

static void round_trip_gives_every_field_back(void **unused)
{
    (void)unused;
    memset(definition_bytes, 0x5a, sizeof(definition_bytes));
    for (size_t i = 0; i < sizeof(types); i++) {
        struct ha_cmd cmd = full_command(types[i], definition_bytes);
        struct ha_cmd back;
        size_t size = encode(&cmd);

        memset(&back, 0xff, sizeof(back));
        assert_int_equal(ha_cmd_decode(body, size, &back), 0);
        if (types[i] == HA_CMD_GUEST_ADD) {
            assert_ptr_not_equal(back.u.guest_add.definition_bytes, definition_bytes);
            assert_memory_equal(back.u.guest_add.definition_bytes, definition_bytes,
                                HA_DEFINITION_MAX);
            back.u.guest_add.definition_bytes = definition_bytes;
        }
        assert_memory_equal(&back, &cmd, sizeof(cmd));
    }
}

static void every_truncation_is_corrupt(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof(types); i++) {
        struct ha_cmd cmd = full_command(types[i], definition_bytes);
        struct ha_cmd back = {.type = 0};

        cmd.u.guest_add.definition_size =
            types[i] == HA_CMD_GUEST_ADD ? 100 : cmd.u.guest_add.definition_size;
        size_t size = encode(&cmd);
        for (size_t cut = 0; cut < size; cut++) {
            uint8_t *exact = malloc(cut > 0 ? cut : 1);
            assert_non_null(exact);
            memcpy(exact, body, cut);
            assert_int_equal(ha_cmd_decode(exact, cut, &back), -HA_E_CORRUPT);
            free(exact);
        }
        assert_int_equal(ha_cmd_decode(body, size + 1, &back), -HA_E_CORRUPT);
        assert_int_equal(back.type, 0);
    }
}

static void unknown_types_and_forms_are_another_version(void **unused)
{
    struct ha_cmd cmd = full_command(HA_CMD_LEAVE, NULL);
    struct ha_cmd back;
    size_t size = encode(&cmd);

    (void)unused;
    body[0] = 2;
    assert_int_equal(ha_cmd_decode(body, size, &back), -HA_E_VERSION);
    for (unsigned type = 0; type < 256; type++) {
        body[0] = 1;
        body[1] = (uint8_t)type;
        int rc = ha_cmd_decode(body, size, &back);
        assert_true((rc == -HA_E_VERSION) == (ha_cmd_name((uint8_t)type)[0] == '?'));
    }
}

static void what_does_not_fit_is_not_written(void **unused)
{
    struct ha_cmd cmd = full_command(HA_CMD_FENCED, NULL);
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    (void)unused;
    memset(cmd.u.fenced.detail, 'x', sizeof(cmd.u.fenced.detail));
    ha_cmd_encode(&w, &cmd);
    assert_true(w.failed);

    cmd = full_command(HA_CMD_LEAVE, NULL);
    memset(cmd.actor, 'x', sizeof(cmd.actor));
    w = ha_writer_of(body, sizeof(body));
    ha_cmd_encode(&w, &cmd);
    assert_true(w.failed);

    cmd = full_command(HA_CMD_GUEST_ADD, definition_bytes);
    cmd.u.guest_add.definition_size++;
    w = ha_writer_of(body, sizeof(body));
    ha_cmd_encode(&w, &cmd);
    assert_true(w.failed);

    cmd = full_command(HA_CMD_LEAVE, NULL);
    cmd.type = 200;
    w = ha_writer_of(body, sizeof(body));
    ha_cmd_encode(&w, &cmd);
    assert_true(w.failed);
}

/* Any bytes: decoding ends, stays inside, and what it accepts encodes to the same bytes. */
static void noise_is_refused_or_canonical(void **unused)
{
    struct ha_rng rng = {.state = 1};
    uint8_t again[4096];

    (void)unused;
    for (unsigned round = 0; round < 200000; round++) {
        struct ha_cmd cmd =
            full_command(types[ha_rng_below(&rng, sizeof(types))], definition_bytes);
        struct ha_cmd back;

        if (cmd.type == HA_CMD_GUEST_ADD)
            cmd.u.guest_add.definition_size = 50;
        size_t size = encode(&cmd);
        for (uint64_t flips = 1 + ha_rng_below(&rng, 4); flips > 0; flips--)
            body[ha_rng_below(&rng, size)] = (uint8_t)ha_rng_next(&rng);
        if (ha_cmd_decode(body, size, &back) < 0)
            continue;
        struct ha_writer w = ha_writer_of(again, sizeof(again));
        ha_cmd_encode(&w, &back);
        assert_false(w.failed);
        assert_int_equal(w.position, size);
        assert_memory_equal(again, body, size);
    }
}

static void reasons_have_words(void **unused)
{
    (void)unused;
    assert_string_equal(ha_reason_name(HA_REASON_RECOVERY), "recovery");
    assert_string_equal(ha_reason_name(9999), "unknown");
    assert_string_equal(ha_reason_text(9999), "");
    assert_string_equal(ha_reason_fix(9999), "");
#define X(symbol, number, name, text, fix)                                                         \
    assert_string_equal(ha_reason_name(symbol), name);                                             \
    assert_string_equal(ha_reason_text(symbol), text);                                             \
    assert_string_equal(ha_reason_fix(symbol), fix);
    HA_REASONS(X)
#undef X
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_gives_every_field_back),
        cmocka_unit_test(every_truncation_is_corrupt),
        cmocka_unit_test(unknown_types_and_forms_are_another_version),
        cmocka_unit_test(what_does_not_fit_is_not_written),
        cmocka_unit_test(noise_is_refused_or_canonical),
        cmocka_unit_test(reasons_have_words),
    };

    return cmocka_run_group_tests_name("entry", tests, NULL, NULL);
}
