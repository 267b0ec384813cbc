/* SPDX-License-Identifier: Apache-2.0
 *
 * The store in health: what is written is there after reopening, in order, once.
 */
#include "tests/unit/store/storetest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void creation_is_once_and_private(void **state)
{
    char *dir = dir_make();
    struct store_identity identity = identity_make();
    struct store_identity found = {0};
    struct store *store = NULL;
    struct ha_err err = {0};
    struct stat status;
    char path[4096];

    (void)state;
    assert_int_equal(store_open(dir_store(dir), &store, &found, &err), -HA_E_NOT_FOUND);
    assert_int_equal(store_create(dir_store(dir), &identity, &err), 0);
    assert_int_equal(store_create(dir_store(dir), &identity, &err), -HA_E_EXISTS);
    assert_int_equal(store_open(dir_store(dir), &store, &found, &err), 0);
    assert_memory_equal(found.cluster_id.b, identity.cluster_id.b, 16);
    assert_memory_equal(found.store_id.b, identity.store_id.b, 16);
    assert_int_equal(found.generation, 3);
    assert_int_equal(found.node, 2);
    assert_int_equal(stat(dir_store(dir), &status), 0);
    assert_int_equal(status.st_mode & 07777, 0700);
    struct chain *chain = chain_make(1, (struct log_view){1, 1}, 10, 1);
    assert_true(write_entries(store, 1, chain, 1, 1)); /* makes the WAL */
    const char *const names[] = {"hamgr.db", "hamgr.db-wal", "lock"};
    for (unsigned i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir_store(dir), names[i]);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_mode & 07777, 0600);
    }
    store_close(store, 1000);
    free(chain);
    dir_remove(dir);
}

static void a_second_daemon_is_told_who_holds_it(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct store *second = NULL;
    struct store_identity identity;
    struct ha_err err = {0};
    char pid[32];

    (void)state;
    assert_int_equal(store_open(dir_store(dir), &second, &identity, &err), -EBUSY);
    snprintf(pid, sizeof(pid), "process %ld ", (long)getpid());
    assert_non_null(strstr(err.text, pid));
    store_close(store, 1000);
    store_close(store_again(dir), 1000);
    dir_remove(dir);
}

static void promise_and_entries_survive(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(10, (struct log_view){4, 1}, 100, 7);
    struct chain *other = chain_make(10, (struct log_view){5, 2}, 50, 9);
    struct log_loaded loaded;
    struct ha_err err = {0};

    (void)state;
    struct store_write write = {.token = 1, .has_promise = true, .promised = {7, 3}};
    assert_int_equal(store_write(store, &write), 0);
    assert_true(await_done(store).is_ok);
    assert_true(write_entries(store, 2, chain, 1, 6));
    assert_true(write_entries(store, 3, chain, 7, 10));
    store_close(store, 1000);

    store = store_again(dir);
    assert_int_equal(store_load(store, &loaded, &err), 0);
    assert_int_equal(loaded.promised.counter, 7);
    assert_int_equal(loaded.promised.leader, 3);
    assert_int_equal(loaded.log_view.counter, 0);
    assert_int_equal(loaded.base_index, 0);
    assert_int_equal(check_entries(store, chain, 1), 10);
    /* The whole log is replaced by another, together with the log view. */
    write = (struct store_write){.token = 4,
                                 .has_log_view = true,
                                 .log_view = {8, 3},
                                 .truncate_from = 1,
                                 .entries = &other->entries[1],
                                 .entry_count = 8};
    assert_int_equal(store_write(store, &write), 0);
    assert_true(await_done(store).is_ok);
    store_close(store, 1000);

    store = store_again(dir);
    assert_int_equal(store_load(store, &loaded, &err), 0);
    assert_int_equal(loaded.promised.counter, 7);
    assert_int_equal(loaded.log_view.counter, 8);
    assert_int_equal(loaded.log_view.leader, 3);
    assert_int_equal(check_entries(store, other, 1), 8);
    store_close(store, 1000);
    free(chain);
    free(other);
    dir_remove(dir);
}

static void a_gap_fails_and_stops_the_store(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(10, (struct log_view){4, 1}, 100, 7);

    (void)state;
    assert_true(write_entries(store, 1, chain, 1, 3));
    assert_false(write_entries(store, 2, chain, 5, 6));
    assert_false(write_entries(store, 3, chain, 4, 4)); /* would fit, but the store has failed */
    store_close(store, 1000);
    store = store_again(dir);
    assert_int_equal(check_entries(store, chain, 1), 3);
    assert_true(write_entries(store, 4, chain, 4, 4));
    store_close(store, 1000);
    free(chain);
    dir_remove(dir);
}

static struct log_loaded two_voters(void)
{
    struct log_loaded voters = {.voter_count = 2};

    voters.voters[0].node = 1;
    memset(voters.voters[0].store_id.b, 1, 16);
    voters.voters[1].node = 5;
    memset(voters.voters[1].store_id.b, 5, 16);
    return voters;
}

static void check_snapshot(struct store *store, const char *text, uint64_t index)
{
    struct log_loaded loaded;
    struct ha_err err = {0};
    uint8_t *data = NULL;
    size_t size = 0;

    assert_int_equal(store_load(store, &loaded, &err), 0);
    assert_int_equal(loaded.base_index, index);
    assert_int_equal(loaded.voter_count, 2);
    assert_int_equal(loaded.voters[1].node, 5);
    assert_int_equal(loaded.voters[1].store_id.b[7], 5);
    assert_int_equal(store_snapshot(store, &data, &size, &err), 0);
    assert_int_equal(size, strlen(text));
    assert_memory_equal(data, text, size);
    free(data);
}

static void snapshot_cuts_the_head(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(20, (struct log_view){4, 1}, 100, 7);
    const struct log_loaded voters = two_voters();
    uint8_t *data = NULL;
    size_t size = 1;
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(store_snapshot(store, &data, &size, &err), 0);
    assert_null(data);
    assert_int_equal(size, 0);
    assert_true(write_entries(store, 1, chain, 1, 15));
    assert_int_equal(store_put_snapshot(store, 2, 10, chain->entries[10].digest,
                                        (struct log_view){4, 1}, (const uint8_t *)"state", 5,
                                        &voters, 6),
                     0);
    assert_true(await_done(store).is_ok);
    assert_true(write_entries(store, 3, chain, 16, 16));
    store_close(store, 1000);

    store = store_again(dir);
    check_snapshot(store, "state", 10);
    assert_int_equal(check_entries(store, chain, 11), 6);
    /* Cutting into the snapshot is refused: it would leave a hole. */
    struct store_write write = {.token = 4, .truncate_from = 9};
    assert_int_equal(store_write(store, &write), 0);
    assert_false(await_done(store).is_ok);
    store_close(store, 1000);
    free(chain);
    dir_remove(dir);
}

static void install_replaces_the_log(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(20, (struct log_view){4, 1}, 100, 7);
    struct chain *other = chain_make(60, (struct log_view){9, 1}, 100, 8);
    const struct log_loaded voters = two_voters();

    (void)state;
    assert_true(write_entries(store, 1, chain, 1, 15));
    assert_int_equal(store_install(store, 2, 50, other->entries[50].digest, (struct log_view){9, 1},
                                   (const uint8_t *)"theirs", 6, &voters),
                     0);
    assert_true(await_done(store).is_ok);
    assert_true(write_entries(store, 3, other, 51, 53));
    store_close(store, 1000);
    store = store_again(dir);
    check_snapshot(store, "theirs", 50);
    assert_int_equal(check_entries(store, other, 51), 3);
    store_close(store, 1000);
    free(chain);
    free(other);
    dir_remove(dir);
}

static void definitions_are_kept_by_digest(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct ha_digest a = ha_digest_bytes((struct ha_digest){0}, "aaa", 3);
    struct ha_digest b = ha_digest_bytes((struct ha_digest){0}, "bb", 2);
    size_t size = 0;

    (void)state;
    assert_null(store_definition(store, a, &size));
    store_put_definition(store, a, (const uint8_t *)"aaa", 3);
    store_put_definition(store, a, (const uint8_t *)"aaa", 3);
    store_put_definition(store, b, (const uint8_t *)"bb", 2);
    assert_memory_equal(store_definition(store, a, &size), "aaa", 3); /* at once */
    assert_int_equal(size, 3);
    store_close(store, 5000);

    store = store_again(dir);
    assert_memory_equal(store_definition(store, a, &size), "aaa", 3);
    assert_memory_equal(store_definition(store, b, &size), "bb", 2);
    store_keep_definitions(store, &b, 1);
    assert_non_null(store_definition(store, a, &size)); /* until closed */
    store_close(store, 5000);
    store = store_again(dir);
    assert_null(store_definition(store, a, &size));
    assert_non_null(store_definition(store, b, &size));
    /* Dropped and put again: on disk again. */
    store_put_definition(store, a, (const uint8_t *)"aaa", 3);
    store_keep_definitions(store, &b, 1);
    store_put_definition(store, a, (const uint8_t *)"aaa", 3);
    store_close(store, 5000);
    store = store_again(dir);
    assert_non_null(store_definition(store, a, &size));
    store_close(store, 5000);
    dir_remove(dir);
}

struct lines {
    int count;
    uint64_t first;
    uint64_t last;
    char json[64];
};

static void take_line(void *user, uint64_t index, const char *json)
{
    struct lines *lines = user;

    if (lines->count++ == 0)
        lines->first = index;
    assert_true(index >= lines->last);
    lines->last = index;
    snprintf(lines->json, sizeof(lines->json), "%s", json);
}

static void history_is_a_ring(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct lines lines = {0};
    char json[64];

    (void)state;
    for (unsigned i = 1; i <= 700; i++) {
        snprintf(json, sizeof(json), "{\"n\": %u}", i);
        store_history(store, i, 1000000 + i, json);
    }
    assert_int_equal(store_history_read(store, 690, 100, take_line, &lines), 10);
    assert_int_equal(lines.first, 691);
    assert_int_equal(lines.last, 700);
    assert_string_equal(lines.json, "{\"n\": 700}");
    store_close(store, 5000);

    store = store_again(dir);
    lines = (struct lines){0};
    assert_int_equal(store_history_read(store, 0, 20, take_line, &lines), 20);
    assert_int_equal(lines.first, 681); /* the newest 20, oldest first */
    lines = (struct lines){0};
    assert_int_equal(store_history_read(store, 0, 100000, take_line, &lines), 700);
    assert_int_equal(store_history_read(store, 700, 10, take_line, &lines), 0);
    store_close(store, 5000);
    dir_remove(dir);
}

static void aged_history_is_pruned(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    const uint64_t day_ms = 24ull * 3600 * 1000;
    struct lines lines = {0};

    (void)state;
    store_history(store, 1, 1000, "{\"old\": true}");
    for (unsigned i = 2; i <= 400; i++)
        store_history(store, i, 500 * day_ms, "{}");
    store_close(store, 5000);
    store = store_again(dir);
    assert_int_equal(store_history_read(store, 0, 1000, take_line, &lines), 399);
    assert_int_equal(lines.first, 2);
    store_close(store, 5000);
    dir_remove(dir);
}

/* In bursts, so that the queue has room: a stall may lose lines, a healthy disk does not. */
static void old_history_is_pruned(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(10, (struct log_view){1, 1}, 10, 1);
    const uint64_t day_ms = 24ull * 3600 * 1000;
    struct lines lines = {0};

    (void)state;
    store_history(store, 1, 1000, "{\"old\": true}");
    for (unsigned burst = 0; burst < 6; burst++) {
        for (unsigned i = 0; i < 4000; i++)
            store_history(store, 2 + burst * 4000 + i, 500 * day_ms, "{}");
        assert_true(write_entries(store, burst, chain, burst + 1, burst + 1));
    }
    store_close(store, 5000);
    store = store_again(dir);
    assert_int_equal(store_history_read(store, 0, 100000, take_line, &lines), 20000);
    assert_int_equal(lines.last, 24001);
    store_close(store, 5000);
    free(chain);
    dir_remove(dir);
}

static void a_cluster_begins_with_its_first_entries(void **state)
{
    char *dir = dir_make();
    struct chain *chain = chain_make(2, (struct log_view){0, 0}, 300, 3);
    struct store_identity identity = identity_make();
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(store_create_log(dir_store(dir), &identity, &chain->entries[1], 2, &err), 0);
    assert_int_equal(store_give(dir_store(dir), geteuid(), getegid(), &err), 0);
    struct store *store = store_again(dir);
    assert_int_equal(check_entries(store, chain, 1), 2);
    store_close(store, 1000);
    free(chain);
    dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creation_is_once_and_private),
        cmocka_unit_test(a_second_daemon_is_told_who_holds_it),
        cmocka_unit_test(promise_and_entries_survive),
        cmocka_unit_test(a_gap_fails_and_stops_the_store),
        cmocka_unit_test(snapshot_cuts_the_head),
        cmocka_unit_test(install_replaces_the_log),
        cmocka_unit_test(definitions_are_kept_by_digest),
        cmocka_unit_test(history_is_a_ring),
        cmocka_unit_test(aged_history_is_pruned),
        cmocka_unit_test(old_history_is_pruned),
        cmocka_unit_test(a_cluster_begins_with_its_first_entries),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
