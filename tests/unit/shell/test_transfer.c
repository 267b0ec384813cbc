/* SPDX-License-Identifier: Apache-2.0
 *
 * A received snapshot is taken whole or not at all: until the store has it, the state, the log and
 * the definitions are what they were, and stay so if it is damaged or can't be stored.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "hamgr/base/assert.h"
#include "hamgr/base/err.h"
#include "hamgr/shell/shell.h"

#define HAD_INDEX  10u
#define SENT_INDEX 20u
#define GUESTS     4u

struct rig {
    struct hamgrd d;
    struct ha_guest guests[GUESTS];
    struct peer_chunk chunk;
    uint8_t blob[4096];
};

/* The store: what it was asked, and what it says. */
static struct {
    int rc;
    unsigned installs, definitions, snapshots;
    uint64_t token, index;
} asked;

int __wrap_store_install(struct store *store, uint64_t token, uint64_t index,
                         struct ha_digest digest, struct log_view view, const uint8_t *data,
                         size_t size, const struct log_loaded *voters);
void __wrap_store_put_definition(struct store *store, struct ha_digest digest, const uint8_t *data,
                                 size_t size);
int __wrap_store_put_snapshot(struct store *store, uint64_t token, uint64_t index,
                              struct ha_digest digest, struct log_view view, const uint8_t *data,
                              size_t size, const struct log_loaded *voters, uint64_t keep_from);
int __wrap_store_write(struct store *store, const struct store_write *write);

int __wrap_store_install(struct store *store, uint64_t token, uint64_t index,
                         struct ha_digest digest, struct log_view view, const uint8_t *data,
                         size_t size, const struct log_loaded *voters)
{
    (void)store;
    (void)digest;
    (void)view;
    (void)data;
    (void)size;
    (void)voters;
    asked.installs++;
    asked.token = token;
    asked.index = index;
    return asked.rc;
}

void __wrap_store_put_definition(struct store *store, struct ha_digest digest, const uint8_t *data,
                                 size_t size)
{
    (void)store;
    (void)digest;
    (void)data;
    (void)size;
    assert_int_equal(asked.installs, 0); /* in front of the state that names it */
    asked.definitions++;
}

int __wrap_store_put_snapshot(struct store *store, uint64_t token, uint64_t index,
                              struct ha_digest digest, struct log_view view, const uint8_t *data,
                              size_t size, const struct log_loaded *voters, uint64_t keep_from)
{
    (void)store;
    (void)token;
    (void)index;
    (void)digest;
    (void)view;
    (void)data;
    (void)size;
    (void)voters;
    (void)keep_from;
    asked.snapshots++;
    return -HA_E_LIMIT;
}

int __wrap_store_write(struct store *store, const struct store_write *write)
{
    (void)store;
    (void)write;
    return 0;
}

/* What node 2 sends: a state with nothing in it but where it is, and one definition. */
static void make_blob(struct rig *r)
{
    static const uint8_t definition[] = "memory = 64";
    struct ha_guest guests[GUESTS];
    struct ha_state sent;
    struct ha_digest digest = ha_digest_bytes((struct ha_digest){0}, definition, 11);

    ha_state_init(&sent, guests, GUESTS);
    sent.cluster_id = r->d.identity.cluster_id;
    sent.generation = 1;
    snprintf(sent.name, sizeof(sent.name), "c");
    sent.applied = SENT_INDEX;
    sent.digest = digest;
    int64_t size = ha_state_encode(&sent, r->blob + 4, sizeof(r->blob) - 4);
    ha_assert(size > 0);
    struct ha_writer w = ha_writer_of(r->blob, sizeof(r->blob));
    ha_put_u32(&w, (uint32_t)size);
    w.position += (size_t)size;
    ha_put_u32(&w, 1);
    ha_put_digest(&w, digest);
    ha_put_blob(&w, definition, 11);
    ha_assert(!w.failed);
    r->chunk = (struct peer_chunk){.transfer = 1,
                                   .index = SENT_INDEX,
                                   .digest = digest,
                                   .view = {3, 2},
                                   .total = w.position,
                                   .data = r->blob,
                                   .size = w.position};
}

static int setup(void **state)
{
    struct log_config config = {.self = {.node = 1, .nonce = 1}};
    struct log_loaded loaded = {.base_index = HAD_INDEX};
    struct rig *r = calloc(1, sizeof(*r));

    ha_assert(r);
    r->d.log_memory = aligned_alloc(64, (log_memory_size(&config) + 63) / 64 * 64);
    r->d.loop = qb_loop_create();
    ha_assert(r->d.log_memory && r->d.loop);
    r->d.log = log_init(r->d.log_memory, &config, &loaded);
    r->d.identity.node = 1;
    r->d.identity.cluster_id.b[0] = 7;
    r->d.token_high = UINT64_MAX;
    ha_state_init(&r->d.state, r->guests, GUESTS);
    r->d.state.applied = r->d.snapshot_index = HAD_INDEX;
    memset(&asked, 0, sizeof(asked));
    make_blob(r);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    if (asked.token) /* one that is being stored ends first */
        transfer_stored(&r->d, &(struct store_done){.token = asked.token});
    assert_null(r->d.transfers);
    qb_loop_destroy(r->d.loop);
    free(r->d.log_memory);
    free(r);
    return 0;
}

/* Nothing was replaced, and another snapshot may come. */
static void assert_as_before(struct rig *r)
{
    assert_int_equal(r->d.state.applied, HAD_INDEX);
    assert_int_equal(r->d.snapshot_index, HAD_INDEX);
    assert_int_equal(log_last_index(r->d.log), HAD_INDEX);
    assert_false(transfer_is_storing(&r->d));
    assert_true(log_snapshot_begin_at(r->d.log, SENT_INDEX, r->chunk.view));
}

static void the_state_is_replaced_when_the_store_has_it(void **state)
{
    struct rig *r = *state;

    transfer_chunk(&r->d, 2, &r->chunk);
    assert_int_equal(asked.definitions, 1);
    assert_int_equal(asked.installs, 1);
    assert_int_equal(asked.index, SENT_INDEX);
    assert_int_equal(r->d.state.applied, HAD_INDEX);
    assert_true(transfer_is_storing(&r->d));
    assert_true(transfer_stored(&r->d, &(struct store_done){.token = asked.token, .is_ok = true}));
    assert_int_equal(r->d.state.applied, SENT_INDEX);
    assert_int_equal(r->d.snapshot_index, SENT_INDEX);
    assert_int_equal(log_last_index(r->d.log), SENT_INDEX);
    assert_false(transfer_is_storing(&r->d));
    asked.token = 0;
}

static void a_full_queue_leaves_all_as_it_was(void **state)
{
    struct rig *r = *state;

    asked.rc = -HA_E_LIMIT;
    transfer_chunk(&r->d, 2, &r->chunk);
    assert_int_equal(asked.installs, 1);
    assert_as_before(r);
    asked.token = 0;
}

static void a_store_that_fails_leaves_all_as_it_was(void **state)
{
    struct rig *r = *state;

    transfer_chunk(&r->d, 2, &r->chunk);
    assert_true(transfer_stored(&r->d, &(struct store_done){.token = asked.token}));
    assert_as_before(r);
    asked.token = 0;
}

/* The definitions are behind the state in the blob: they are read before it is taken. */
static void damaged_definitions_leave_all_as_it_was(void **state)
{
    struct rig *r = *state;

    r->chunk.total = --r->chunk.size;
    transfer_chunk(&r->d, 2, &r->chunk);
    assert_int_equal(asked.definitions, 0);
    assert_int_equal(asked.installs, 0);
    assert_as_before(r);
}

/* Queued behind the received one, a snapshot of the older state would take its place. */
static void no_own_snapshot_is_made_meanwhile(void **state)
{
    struct rig *r = *state;

    r->d.snapshot_every = 1;
    r->d.snapshot_index = HAD_INDEX - 1;
    transfer_chunk(&r->d, 2, &r->chunk);
    apply_committed(&r->d, HAD_INDEX);
    assert_int_equal(asked.snapshots, 0);
    transfer_stored(&r->d, &(struct store_done){.token = asked.token});
    apply_committed(&r->d, HAD_INDEX);
    assert_int_equal(asked.snapshots, 1);
    asked.token = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_state_is_replaced_when_the_store_has_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_full_queue_leaves_all_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(a_store_that_fails_leaves_all_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_definitions_leave_all_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(no_own_snapshot_is_made_meanwhile, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
