/* SPDX-License-Identifier: Apache-2.0
 *
 * Committed entries and what the store keeps of them: a snapshot takes the definitions of removed
 * guests along, and only those.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/store/storetest.h"

#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"

struct rig {
    struct hamgrd d;
    char *dir;
    struct ha_digest digest; /* of the chain so far */
    uint64_t index;
};

static void add_entry(struct rig *r, uint8_t kind, const uint8_t *body, size_t size)
{
    struct log_entry entry = {
        .index = ++r->index, .kind = kind, .body = body, .body_size = (uint32_t)size};

    r->digest = entry.digest = log_entry_digest(r->digest, &entry);
    assert_int_equal(log_load(r->d.log, &entry), 0);
}

static void add(struct rig *r, const struct ha_cmd *cmd)
{
    static uint8_t body[HA_ENTRY_MAX];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    ha_cmd_encode(&w, cmd);
    assert_false(w.failed);
    add_entry(r, cmd->type == HA_CMD_INIT ? LOG_KIND_INIT : LOG_KIND_STATE, body, w.position);
}

static void add_init(struct rig *r)
{
    struct ha_cmd cmd = {.type = HA_CMD_INIT, .node = 1};

    cmd.u.init.cluster_id.b[0] = cmd.u.init.store_id.b[0] = 1;
    cmd.u.init.generation = 1;
    snprintf(cmd.u.init.name, sizeof(cmd.u.init.name), "c");
    snprintf(cmd.u.init.node_name, sizeof(cmd.u.init.node_name), "n1");
    snprintf(cmd.u.init.addr, sizeof(cmd.u.init.addr), "10.0.0.1");
    add(r, &cmd);
}

static struct ha_digest digest_of(const char *definition)
{
    return ha_digest_bytes((struct ha_digest){0}, definition, strlen(definition));
}

static void add_guest(struct rig *r, uint8_t id, const char *name, const char *definition)
{
    struct ha_cmd cmd = {.type = HA_CMD_GUEST_ADD, .guest = {{id}}};

    snprintf(cmd.u.guest_add.name, sizeof(cmd.u.guest_add.name), "%s", name);
    cmd.u.guest_add.mem_kib = 1024;
    cmd.u.guest_add.policy = ha_policy_default();
    cmd.u.guest_add.definition = digest_of(definition);
    cmd.u.guest_add.definition_bytes = (const uint8_t *)definition;
    cmd.u.guest_add.definition_size = (uint32_t)strlen(definition);
    add(r, &cmd);
}

static void remove_guest(struct rig *r, uint8_t id)
{
    add(r, &(struct ha_cmd){.type = HA_CMD_GUEST_REMOVE, .guest = {{id}}});
}

static int setup(void **state)
{
    struct log_config config = {.self = {.node = 1, .nonce = 1},
                                .ring_entries = 2 * SHELL_SNAPSHOT_EVERY,
                                .ring_bytes = SHELL_RING_BYTES};
    struct log_loaded loaded = {0};
    struct rig *r = calloc(1, sizeof(*r));

    ha_assert(r);
    r->dir = dir_make();
    r->d.store = store_fresh(r->dir);
    r->d.log_memory = aligned_alloc(64, (log_memory_size(&config) + 63) / 64 * 64);
    r->d.loop = qb_loop_create();
    struct ha_guest *guests = calloc(8, sizeof(*guests));
    ha_assert(r->d.log_memory && r->d.loop && guests);
    r->d.log = log_init(r->d.log_memory, &config, &loaded);
    r->d.token_high = UINT64_MAX;
    ha_state_init(&r->d.state, guests, 8);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    store_close(r->d.store, 2000);
    dir_remove(r->dir);
    qb_loop_destroy(r->d.loop);
    free(r->d.state.guests);
    free(r->d.log_memory);
    free(r);
    return 0;
}

/* As the log's PERSIST does: everything it has is on disk before it is committed. */
static void commit(struct rig *r)
{
    static struct log_entry entries[2 * SHELL_SNAPSHOT_EVERY];
    struct store_write write = {.token = 1, .entries = entries};

    for (uint64_t i = r->d.state.applied + 1; i <= r->index; i++)
        entries[write.entry_count++] = *log_entry_at(r->d.log, i);
    assert_int_equal(store_write(r->d.store, &write), 0);
    assert_true(await_done(r->d.store).is_ok);
    apply_committed(&r->d, r->index);
    assert_false(r->d.is_stopped);
}

static bool has_definition(struct rig *r, const char *definition)
{
    size_t size = 0;
    const uint8_t *bytes = store_definition(r->d.store, digest_of(definition), &size);

    return bytes && size == strlen(definition) && memcmp(bytes, definition, size) == 0;
}

static void a_snapshot_drops_definitions_of_removed_guests(void **state)
{
    struct rig *r = *state;

    add_init(r);
    add_guest(r, 1, "gone", "definition of one that goes");
    add_guest(r, 2, "stays", "definition of one that stays");
    add_guest(r, 3, "twin", "definition of one that goes and comes");
    remove_guest(r, 1);
    remove_guest(r, 3);
    add_guest(r, 4, "heir", "definition of one that goes and comes");
    commit(r);
    assert_int_equal(r->d.snapshot_token, 0); /* not due yet: everything is still there */
    while (r->index < SHELL_SNAPSHOT_EVERY) {
        struct ha_cmd cmd = {.type = HA_CMD_WANT, .guest = {{2}}};
        cmd.u.want.want = r->index % 2;
        add(r, &cmd);
    }
    commit(r);
    assert_int_not_equal(r->d.snapshot_token, 0);
    struct store_done done = await_done(r->d.store);
    if (!done.is_ok)
        fail_msg("snapshot: %s", done.err.text);
    assert_true(done.token == r->d.snapshot_token);
    store_close(r->d.store, 2000);
    r->d.store = store_again(r->dir);
    assert_false(has_definition(r, "definition of one that goes"));
    assert_true(has_definition(r, "definition of one that stays"));
    assert_true(has_definition(r, "definition of one that goes and comes"));
}

static void count_line(void *user, uint64_t index, const char *json)
{
    uint32_t *lines = user;

    (void)json;
    lines[index]++;
}

/* A new process applies again what is behind the last snapshot: history has those lines. */
static void a_restart_tells_nothing_twice(void **state)
{
    struct rig *r = *state;
    uint32_t lines[8] = {0};

    add_init(r);
    add_guest(r, 1, "one", "definition of one");
    commit(r);
    store_close(r->d.store, 2000);
    r->d.store = store_again(r->dir);
    ha_state_init(&r->d.state, r->d.state.guests, 8);
    apply_committed(&r->d, r->index);
    remove_guest(r, 1);
    commit(r);
    assert_int_equal(store_history_read(r->d.store, 0, 100, count_line, lines), 3);
    for (uint64_t i = 1; i <= r->index; i++)
        assert_int_equal(lines[i], 1);
}

static void add_open(struct rig *r, uint64_t counter, uint16_t proto)
{
    uint8_t body[256];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct log_open open = {.view = {counter, 1}, .member_count = 1};

    open.members[0] = (struct log_member){.node = 1, .nonce = 1, .proto_max = proto};
    log_open_encode(&w, &open);
    assert_false(w.failed);
    add_entry(r, LOG_KIND_OPEN, body, w.position);
}

/* An older hamgrd is fed what a later one committed: up to the OPEN it can read everything. */
static void behind_a_later_protocol_it_stops_and_says_so(void **state)
{
    struct rig *r = *state;

    add_init(r);
    add_open(r, 1, LOG_PROTO_MAX);
    add_open(r, 2, LOG_PROTO_MAX + 1);
    commit(r);
    add_entry(r, LOG_KIND_STATE, (const uint8_t *)"\1\377", 2); /* of a type to come */
    apply_committed(&r->d, r->index);
    assert_true(r->d.is_stopped);
    assert_int_equal(r->d.state.applied, 3);
    assert_non_null(strstr(r->d.alarm, "the log needs protocol"));
    assert_non_null(strstr(r->d.alarm, "upgrade hamgr on this node"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_snapshot_drops_definitions_of_removed_guests, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_restart_tells_nothing_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(behind_a_later_protocol_it_stops_and_says_so, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
