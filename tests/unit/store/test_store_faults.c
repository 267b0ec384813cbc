/* SPDX-License-Identifier: Apache-2.0
 *
 * The store on a disk that stalls, fails, fills up, tears and rots. What was acknowledged is there
 * afterwards; what failed was never acknowledged; damage is set aside and named, never emptied.
 */
#include "tests/unit/store/storetest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "tests/lib/faultvfs.h"

/* --- stalls --- */

static void callers_never_wait_for_the_disk(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(300, (struct log_view){4, 1}, 1000, 7);
    uint64_t slowest_ms = 0;

    (void)state;
    faultvfs_stall();
    assert_int_equal(queue_entries(store, 1, chain, 1, 1), 0);
    assert_true(faultvfs_wait_stalled(5000));
    uint64_t start = test_now_ms();
    for (uint64_t i = 2; i <= 300; i++) {
        uint64_t before = test_now_ms();
        assert_int_equal(queue_entries(store, i, chain, i, i), 0);
        store_history(store, i, 1, "{}");
        uint64_t took = test_now_ms() - before;
        slowest_ms = took > slowest_ms ? took : slowest_ms;
    }
    struct store_done done;
    assert_false(store_take(store, &done));
    while (test_now_ms() - start < 1000) /* a second of stall; the alarm counts it */
        usleep(20000);
    assert_true(store_stall_ms(store) >= 900);
    unsigned syncs = faultvfs_syncs();
    faultvfs_release();
    for (uint64_t i = 1; i <= 300; i++) {
        done = await_done(store);
        assert_true(done.is_ok);
        assert_int_equal(done.token, i); /* in order */
    }
    assert_int_equal(store_stall_ms(store), 0);
    assert_true(slowest_ms < 200);              /* a busy machine; the disk took a second */
    assert_true(faultvfs_syncs() - syncs < 20); /* 299 writes went in few transactions */
    store_close(store, 5000);
    store = store_again(dir);
    assert_int_equal(check_entries(store, chain, 1), 300);
    store_close(store, 5000);
    faultvfs_reset();
    free(chain);
    dir_remove(dir);
}

static void a_long_stall_fills_the_queue(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct store_write write = {.has_promise = true, .promised = {1, 1}};
    unsigned accepted = 0;

    (void)state;
    faultvfs_stall();
    for (write.token = 1; store_write(store, &write) == 0; write.token++)
        accepted++;
    assert_true(accepted >= 8192 && accepted < 20000);
    faultvfs_release();
    for (unsigned i = 1; i <= accepted; i++)
        assert_int_equal(await_done(store).token, i);
    assert_int_equal(store_write(store, &write), 0); /* room again */
    assert_true(await_done(store).is_ok);
    store_close(store, 5000);
    faultvfs_reset();
    dir_remove(dir);
}

static void closing_does_not_wait_for_a_hung_disk(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct store *second = NULL;
    struct store_identity identity;
    struct chain *chain = chain_make(1, (struct log_view){4, 1}, 1000, 7);
    struct ha_err err = {0};

    (void)state;
    faultvfs_stall();
    assert_int_equal(queue_entries(store, 1, chain, 1, 1), 0);
    assert_true(faultvfs_wait_stalled(5000));
    uint64_t start = test_now_ms();
    store_close(store, 100);
    assert_true(test_now_ms() - start < 1000);
    /* The thread still holds the files: nobody else may take them. */
    assert_int_equal(store_open(dir_store(dir), &second, &identity, &err), -EBUSY);
    faultvfs_release();
    start = test_now_ms();
    while (store_open(dir_store(dir), &second, &identity, &err) == -EBUSY) {
        assert_true(test_now_ms() - start < 20000);
        usleep(1000);
    }
    assert_int_equal(check_entries(second, chain, 1), 1); /* it finished what it had begun */
    store_close(second, 5000);
    faultvfs_reset();
    free(chain);
    dir_remove(dir);
}

/* --- errors --- */

static void after_one_failure_nothing_is_written(enum fault fault, int code, const char *fix)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(10, (struct log_view){4, 1}, 5000, 7);

    assert_true(write_entries(store, 1, chain, 1, 3));
    faultvfs_fail(fault, 0, 1);
    assert_int_equal(queue_entries(store, 2, chain, 4, 4), 0);
    struct store_done done = await_done(store);
    assert_false(done.is_ok);
    assert_int_equal(done.token, 2);
    assert_int_equal(done.err.code, code);
    assert_non_null(strstr(done.err.text, fix));
    faultvfs_reset(); /* the disk works again: the store must not */
    assert_false(write_entries(store, 3, chain, 4, 4));
    assert_int_equal(queue_entries(store, 4, chain, 4, 4), 0);
    done = await_done(store);
    assert_false(done.is_ok);
    assert_int_equal(done.err.code, code); /* the first cause, not a later one */
    assert_int_equal(faultvfs_writes(), 0);
    assert_int_equal(faultvfs_syncs(), 0);
    store_close(store, 5000);
    assert_int_equal(faultvfs_writes(), 0); /* nor when closing */

    store = store_again(dir);
    /* The failed one may or may not be there; the acknowledged ones are. */
    uint64_t count = check_entries(store, chain, 1);
    assert_true(count == 3 || count == 4);
    assert_true(write_entries(store, 5, chain, count + 1, 10));
    store_close(store, 5000);
    store = store_again(dir);
    assert_int_equal(check_entries(store, chain, 1), 10);
    store_close(store, 5000);
    faultvfs_reset();
    free(chain);
    dir_remove(dir);
}

static void a_failed_sync_is_never_retried(void **state)
{
    (void)state;
    after_one_failure_nothing_is_written(FAULT_SYNC_EIO, EIO, "see dmesg");
}

static void a_failed_write_stops_it(void **state)
{
    (void)state;
    after_one_failure_nothing_is_written(FAULT_WRITE_EIO, EIO, "see dmesg");
}

static void a_full_disk_stops_it(void **state)
{
    (void)state;
    after_one_failure_nothing_is_written(FAULT_WRITE_FULL, ENOSPC, "free space");
}

/* A definition or history line has no completion: its failure shows at the next write. */
static void a_silent_failure_shows(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(1, (struct log_view){4, 1}, 10, 7);

    (void)state;
    faultvfs_fail(FAULT_SYNC_EIO, 0, 1);
    store_put_definition(store, (struct ha_digest){1, 2}, (const uint8_t *)"x", 1);
    assert_false(write_entries(store, 1, chain, 1, 1));
    store_close(store, 5000);
    faultvfs_reset();
    free(chain);
    dir_remove(dir);
}

/* Enough pages for a checkpoint, whose sync of the database file fails; the WAL is well. */
static void a_failed_checkpoint_stops_it(void **state)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(200, (struct log_view){4, 1}, 60000, 7);
    uint64_t good = 0;

    (void)state;
    faultvfs_fail(FAULT_CHECKPOINT_EIO, 0, 1);
    while (good < 199 && write_entries(store, good + 1, chain, good + 1, good + 1))
        good++;
    assert_true(good > 20 && good < 199);
    faultvfs_reset();
    assert_false(write_entries(store, 200, chain, good + 1, good + 1));
    store_close(store, 5000);
    assert_int_equal(faultvfs_writes(), 0);
    store = store_again(dir);
    assert_int_equal(check_entries(store, chain, 1), good);
    store_close(store, 5000);
    faultvfs_reset();
    free(chain);
    dir_remove(dir);
}

/* --- power cuts --- */

struct acknowledged {
    uint64_t promise;
    uint64_t first;
    uint64_t last;
};

/* A life of a store: promises, entries, a cut tail, snapshots. Ends at the first failure. */
static struct acknowledged live(struct store *store, struct chain *chain)
{
    struct acknowledged acked = {0};
    const struct log_loaded voters = {.voter_count = 1};

    for (uint64_t round = 1; round <= 12; round++) {
        struct store_write write = {.token = round,
                                    .has_promise = true,
                                    .promised = {round, 1},
                                    .entries = &chain->entries[acked.last + 1],
                                    .entry_count = 3};
        assert_int_equal(store_write(store, &write), 0);
        if (!await_done(store).is_ok)
            return acked;
        acked.promise = round;
        acked.last += 3;
        if (round % 4 != 0)
            continue;
        uint64_t index = acked.last - 1;
        assert_int_equal(store_put_snapshot(store, 100 + round, index, chain->entries[index].digest,
                                            chain->entries[index].view, chain->body, 9000, &voters,
                                            index - 2),
                         0);
        if (!await_done(store).is_ok)
            return acked;
        acked.first = index;
    }
    return acked;
}

static unsigned survive_cut(unsigned at, uint64_t seed)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(40, (struct log_view){4, 1}, 3000, 7);
    struct log_loaded loaded;
    struct ha_err err = {0};

    faultvfs_reset();
    faultvfs_fail(FAULT_POWER_CUT, at, seed);
    struct acknowledged acked = live(store, chain);
    unsigned was_cut = faultvfs_is_dead();
    store_close(store, 5000);
    faultvfs_reset();

    store = store_again(dir); /* a power cut never looks like damage */
    assert_int_equal(store_load(store, &loaded, &err), 0);
    assert_true(loaded.promised.counter >= acked.promise);
    assert_true(loaded.base_index >= acked.first);
    uint64_t last = loaded.base_index + check_entries(store, chain, loaded.base_index + 1);
    assert_true(last >= acked.last);
    assert_true(write_entries(store, 1, chain, last + 1, last + 1));
    store_close(store, 5000);
    free(chain);
    dir_remove(dir);
    return was_cut;
}

static void power_cuts_lose_nothing_acknowledged(void **state)
{
    unsigned cuts = 0;

    (void)state;
    /* Every third operation (all of them take a minute), to the end of the life and beyond. */
    for (unsigned at = 0; at < 450; at += 3)
        cuts += survive_cut(at, 1000 + at);
    print_message("%u of 150 lives were cut\n", cuts);
    assert_true(cuts > 80 && cuts < 150);
}

/* --- rot --- */

static void expect_damaged(const char *dir, const char *words)
{
    struct store_identity identity;
    struct store *store = NULL;
    struct ha_err err = {0};

    assert_int_equal(store_open(dir_store(dir), &store, &identity, &err), -HA_E_CORRUPT);
    assert_null(store);
    assert_non_null(strstr(err.text, words));
    assert_non_null(strstr(err.text, "set aside as"));
    assert_true(dir_has(dir, "hamgr.db.damaged-"));
    /* Never silently emptied: now there is none, and a new one is made by command only. */
    assert_int_equal(store_open(dir_store(dir), &store, &identity, &err), -HA_E_NOT_FOUND);
}

/* Changes rows behind the store's back, as a flipped bit would. */
static void alter(const char *dir, const char *text)
{
    char path[4200];
    sqlite3 *sql = NULL;

    snprintf(path, sizeof(path), "%s/hamgr.db", dir_store(dir));
    assert_int_equal(sqlite3_open_v2(path, &sql, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
    assert_int_equal(sqlite3_exec(sql, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(sql);
}

static char *dir_with_log(void)
{
    char *dir = dir_make();
    struct store *store = store_fresh(dir);
    struct chain *chain = chain_make(20, (struct log_view){4, 1}, 100, 7);
    const struct log_loaded voters = {.voter_count = 1};

    assert_true(write_entries(store, 1, chain, 1, 20));
    assert_int_equal(store_put_snapshot(store, 2, 10, chain->entries[10].digest,
                                        (struct log_view){4, 1}, (const uint8_t *)"state", 5,
                                        &voters, 5),
                     0);
    assert_true(await_done(store).is_ok);
    store_put_definition(store, (struct ha_digest){1, 2}, (const uint8_t *)"definition", 10);
    store_close(store, 5000);
    free(chain);
    return dir;
}

static void flipped_bits_are_found(void **state)
{
    static const char *const cases[][2] = {
        {"UPDATE entry SET data = CAST(replace(data, x'0707070707', x'0707070807') AS BLOB)"
         " WHERE idx = 15",
         "entry 15"},
        {"UPDATE entry SET data = CAST(replace(data, x'0707070707', x'0707070807') AS BLOB)"
         " WHERE idx = 7", /* behind the snapshot */
         "entry 7"},
        {"DELETE FROM entry WHERE idx = 13", "entry 14"},
        {"DELETE FROM entry WHERE idx > 8", "the log"},
        {"UPDATE snapshot SET data = 'stare'", "the snapshot"},
        {"UPDATE snapshot SET idx = 11", "the snapshot"},
        {"UPDATE snapshot SET voters = x'ffffffff'", "the snapshot"},
        {"UPDATE promise SET counter = 99", "the promise"},
        {"DELETE FROM promise", "the promise"},
        {"UPDATE identity SET node = 3", "the identity"},
        {"DELETE FROM identity", "the identity"},
        {"UPDATE definition SET data = 'definitiom'", "definition"},
        {"DROP TABLE entry", "entry"},
        {"PRAGMA application_id = 5", "not a store"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *dir = dir_with_log();
        alter(dir, cases[i][0]);
        expect_damaged(dir, cases[i][1]);
        dir_remove(dir);
    }
}

static void overwrite(const char *dir, off_t at, size_t size, uint8_t value)
{
    char path[4200];
    uint8_t bytes[4096];

    snprintf(path, sizeof(path), "%s/hamgr.db", dir_store(dir));
    memset(bytes, value, sizeof(bytes));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && size <= sizeof(bytes));
    assert_int_equal(pwrite(fd, bytes, size, at), (ssize_t)size);
    close(fd);
}

static void broken_files_are_found(void **state)
{
    char path[4200];
    char *dir = dir_with_log();

    (void)state;
    alter(dir, "PRAGMA wal_checkpoint(TRUNCATE)");
    overwrite(dir, 0, 100, 0x55); /* the header */
    expect_damaged(dir, "");
    dir_remove(dir);

    dir = dir_with_log();
    assert_true(dir_has(dir, "hamgr.db-wal"));
    overwrite(dir, 0, 100, 0x55); /* with a WAL: it goes along */
    expect_damaged(dir, "");
    assert_true(dir_has(dir, "hamgr.db-wal.damaged-"));
    dir_remove(dir);

    dir = dir_with_log();
    alter(dir, "PRAGMA wal_checkpoint(TRUNCATE)");
    overwrite(dir, 4096, 4096, 0xff); /* a page */
    expect_damaged(dir, "");
    dir_remove(dir);

    dir = dir_with_log();
    alter(dir, "PRAGMA wal_checkpoint(TRUNCATE)");
    snprintf(path, sizeof(path), "%s/hamgr.db", dir_store(dir));
    assert_int_equal(truncate(path, 9000), 0);
    expect_damaged(dir, "");
    dir_remove(dir);

    dir = dir_with_log();
    snprintf(path, sizeof(path), "%s/hamgr.db-wal", dir_store(dir));
    (void)unlink(path);
    snprintf(path, sizeof(path), "%s/hamgr.db", dir_store(dir));
    assert_int_equal(truncate(path, 0), 0);
    expect_damaged(dir, "not a store");
    /* After setting it aside a new one can be made in its place. */
    store_close(store_fresh(dir), 1000);
    dir_remove(dir);
}

static void a_stray_wal_is_not_played_into_a_new_store(void **state)
{
    char path[4200];
    char *dir = dir_with_log();
    struct store_identity identity = identity_make();
    struct ha_err err = {0};

    (void)state;
    snprintf(path, sizeof(path), "%s/hamgr.db", dir_store(dir));
    assert_int_equal(unlink(path), 0);
    assert_true(dir_has(dir, "hamgr.db-wal"));
    assert_int_equal(store_create(dir_store(dir), &identity, &err), 0);
    assert_true(dir_has(dir, "hamgr.db-wal.damaged-"));
    struct store *store = store_again(dir);
    struct chain *chain = chain_make(1, (struct log_view){4, 1}, 100, 7);
    assert_int_equal(check_entries(store, chain, 1), 0);
    store_close(store, 1000);
    free(chain);
    dir_remove(dir);
}

/* A store of a newer hamgr is no damage: it stays where it is. */
static void a_newer_store_is_left_alone(void **state)
{
    char *dir = dir_with_log();
    struct store_identity identity;
    struct store *store = NULL;
    struct ha_err err = {0};

    (void)state;
    alter(dir, "PRAGMA user_version = 2");
    assert_int_equal(store_open(dir_store(dir), &store, &identity, &err), -HA_E_VERSION);
    assert_false(dir_has(dir, "hamgr.db.damaged-"));
    dir_remove(dir);
}

/* An unreadable disk is no damage either. */
static void a_failing_disk_is_not_called_damage(void **state)
{
    char *dir = dir_with_log();
    struct store_identity identity;
    struct store *store = NULL;
    struct ha_err err = {0};

    (void)state;
    faultvfs_fail(FAULT_SYNC_EIO, 0, 1); /* the checkpoint when opening */
    assert_int_equal(store_open(dir_store(dir), &store, &identity, &err), -EIO);
    assert_false(dir_has(dir, "hamgr.db.damaged-"));
    faultvfs_reset();
    store_close(store_again(dir), 1000);
    dir_remove(dir);
}

static void an_interrupted_creation_leaves_no_store(void **state)
{
    struct store_identity identity = identity_make();
    struct store_identity found;
    struct ha_err err = {0};
    unsigned failed = 0;

    (void)state;
    for (unsigned at = 0; at < 40; at++) {
        char *dir = dir_make();
        struct store *store = NULL;
        faultvfs_fail(FAULT_POWER_CUT, at, at);
        int rc = store_create(dir_store(dir), &identity, &err);
        bool was_cut = faultvfs_is_dead();
        faultvfs_reset();
        if (rc < 0) {
            assert_int_equal(store_open(dir_store(dir), &store, &found, &err), -HA_E_NOT_FOUND);
            assert_int_equal(store_create(dir_store(dir), &identity, &err), 0);
            failed++;
        }
        assert_true(rc < 0 || !was_cut);
        store_close(store_again(dir), 1000);
        dir_remove(dir);
    }
    assert_true(failed > 3);
}

static int install(void **state)
{
    (void)state;
    faultvfs_install();
    faultvfs_reset();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callers_never_wait_for_the_disk),
        cmocka_unit_test(a_long_stall_fills_the_queue),
        cmocka_unit_test(closing_does_not_wait_for_a_hung_disk),
        cmocka_unit_test(a_failed_sync_is_never_retried),
        cmocka_unit_test(a_failed_write_stops_it),
        cmocka_unit_test(a_full_disk_stops_it),
        cmocka_unit_test(a_silent_failure_shows),
        cmocka_unit_test(a_failed_checkpoint_stops_it),
        cmocka_unit_test(power_cuts_lose_nothing_acknowledged),
        cmocka_unit_test(flipped_bits_are_found),
        cmocka_unit_test(broken_files_are_found),
        cmocka_unit_test(a_stray_wal_is_not_played_into_a_new_store),
        cmocka_unit_test(a_newer_store_is_left_alone),
        cmocka_unit_test(a_failing_disk_is_not_called_damage),
        cmocka_unit_test(an_interrupted_creation_leaves_no_store),
    };

    return cmocka_run_group_tests(tests, install, NULL);
}
