/* SPDX-License-Identifier: Apache-2.0
 *
 * The reading side of db.h. Whatever comes out of the file is checked as if a stranger had written
 * it: sizes, counts, checksums, the chain.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/store/db.h"

static int damaged(struct ha_err *err, const char *what)
{
    return ha_err_set(err, HA_E_CORRUPT, "%s is damaged", what);
}

static int prepare(struct db *db, const char *text, sqlite3_stmt **ret_statement,
                   struct ha_err *err)
{
    int rc = sqlite3_prepare_v2(db->sql, text, -1, ret_statement, NULL);

    return rc == SQLITE_OK ? 0 : db_error(db, rc, "read the database", err);
}

static uint64_t number_at(sqlite3_stmt *row, int column)
{
    return (uint64_t)sqlite3_column_int64(row, column);
}

/* A column of exactly `size` bytes, or NULL. */
static const uint8_t *bytes_at(sqlite3_stmt *row, int column, int size)
{
    const uint8_t *bytes = sqlite3_column_blob(row, column);

    return sqlite3_column_bytes(row, column) == size ? bytes : NULL;
}

static bool digest_at(sqlite3_stmt *row, int column, struct ha_digest *ret_digest)
{
    const uint8_t *bytes = bytes_at(row, column, 16);
    struct ha_reader r = ha_reader_of(bytes, bytes ? 16 : 0);

    *ret_digest = ha_get_digest(&r);
    return !r.failed;
}

static bool uuid_at(sqlite3_stmt *row, int column, struct ha_uuid *ret_id)
{
    const uint8_t *bytes = bytes_at(row, column, 16);

    if (bytes)
        memcpy(ret_id->b, bytes, 16);
    return bytes != NULL;
}

int db_check(struct db *db, struct ha_err *err)
{
    sqlite3_stmt *row = NULL;
    int rc = prepare(db, "PRAGMA quick_check(1)", &row, err);

    if (rc < 0)
        return rc;
    int r = sqlite3_step(row);
    const char *words = r == SQLITE_ROW ? (const char *)sqlite3_column_text(row, 0) : NULL;
    if (r != SQLITE_ROW)
        rc = db_error(db, r, "check the database", err);
    else if (!words || strcmp(words, "ok") != 0)
        rc = ha_err_set(err, HA_E_CORRUPT, "SQLite finds: %s", words ? words : "nothing readable");
    sqlite3_finalize(row);
    return rc;
}

struct ha_digest db_identity_sum(const struct store_identity *identity)
{
    uint8_t bytes[64];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    ha_put_uuid(&w, identity->cluster_id);
    ha_put_u64(&w, identity->generation);
    ha_put_uuid(&w, identity->store_id);
    ha_put_u32(&w, identity->node);
    return ha_digest_bytes((struct ha_digest){0}, bytes, w.position);
}

int db_identity(struct db *db, struct store_identity *ret_identity, struct ha_err *err)
{
    struct store_identity identity = {0};
    struct ha_digest sum = {0};
    sqlite3_stmt *row = NULL;
    int rc = prepare(db, "SELECT cluster, generation, store, node, sum FROM identity", &row, err);

    if (rc < 0)
        return rc;
    int r = sqlite3_step(row);
    if (r != SQLITE_ROW && r != SQLITE_DONE) {
        rc = db_error(db, r, "read the identity", err);
    } else {
        bool is_whole = r == SQLITE_ROW && uuid_at(row, 0, &identity.cluster_id) &&
                        uuid_at(row, 2, &identity.store_id) && digest_at(row, 4, &sum);
        identity.generation = is_whole ? number_at(row, 1) : 0;
        identity.node = is_whole ? (uint32_t)number_at(row, 3) : 0;
        if (!is_whole || !ha_digest_equal(sum, db_identity_sum(&identity)))
            rc = damaged(err, "the identity");
    }
    sqlite3_finalize(row);
    if (rc == 0)
        *ret_identity = identity;
    return rc;
}

static int load_promise(struct db *db, struct log_loaded *loaded, struct ha_err *err)
{
    struct ha_digest sum = {0};
    sqlite3_stmt *row = NULL;
    int rc =
        prepare(db, "SELECT counter, leader, log_counter, log_leader, sum FROM promise", &row, err);

    if (rc < 0)
        return rc;
    int r = sqlite3_step(row);
    if (r != SQLITE_ROW && r != SQLITE_DONE) {
        rc = db_error(db, r, "read the promise", err);
    } else if (r == SQLITE_DONE || !digest_at(row, 4, &sum)) {
        rc = damaged(err, "the promise");
    } else {
        loaded->promised = (struct log_view){number_at(row, 0), (uint32_t)number_at(row, 1)};
        loaded->log_view = (struct log_view){number_at(row, 2), (uint32_t)number_at(row, 3)};
        if (!ha_digest_equal(sum, db_promise_sum(loaded->promised, loaded->log_view)))
            rc = damaged(err, "the promise");
    }
    sqlite3_finalize(row);
    return rc;
}

static bool decode_voters(const uint8_t *data, size_t size, struct log_loaded *loaded)
{
    struct ha_reader r = ha_reader_of(data, size);

    loaded->voter_count = ha_get_u32(&r);
    if (r.failed || loaded->voter_count > HA_NODES_MAX)
        return false;
    for (uint32_t i = 0; i < loaded->voter_count; i++) {
        loaded->voters[i].node = ha_get_u32(&r);
        loaded->voters[i].store_id = ha_get_uuid(&r);
    }
    return ha_reader_is_done(&r);
}

/* Reads the snapshot's row: 1, 0 when there is none, or an error. snapshot->data is borrowed from
 * the row and voters from loaded. */
static int read_snapshot(struct db *db, sqlite3_stmt *row, struct db_snapshot *snapshot,
                         struct log_loaded *loaded, struct ha_err *err)
{
    struct ha_digest sum = {0};
    int r = sqlite3_step(row);

    if (r == SQLITE_DONE)
        return 0;
    if (r != SQLITE_ROW)
        return db_error(db, r, "read the snapshot", err);
    snapshot->index = number_at(row, 0);
    snapshot->view = (struct log_view){number_at(row, 2), (uint32_t)number_at(row, 3)};
    snapshot->voters = loaded;
    snapshot->data = sqlite3_column_blob(row, 5);
    snapshot->size = (size_t)sqlite3_column_bytes(row, 5);
    const uint8_t *voters = sqlite3_column_blob(row, 4);
    if (!digest_at(row, 1, &snapshot->digest) || !digest_at(row, 6, &sum) ||
        !decode_voters(voters, (size_t)sqlite3_column_bytes(row, 4), loaded) ||
        !ha_digest_equal(sum, db_snapshot_sum(snapshot)))
        return damaged(err, "the snapshot");
    return 1;
}

static const char select_snapshot[] =
    "SELECT idx, digest, counter, leader, voters, data, sum FROM snapshot";

int db_load(struct db *db, struct log_loaded *ret_loaded, struct ha_err *err)
{
    struct db_snapshot snapshot = {0};
    sqlite3_stmt *row = NULL;

    memset(ret_loaded, 0, sizeof(*ret_loaded));
    int rc = load_promise(db, ret_loaded, err);
    if (rc == 0)
        rc = prepare(db, select_snapshot, &row, err);
    if (rc < 0)
        return rc;
    rc = read_snapshot(db, row, &snapshot, ret_loaded, err);
    if (rc == 1) {
        ret_loaded->base_index = snapshot.index;
        ret_loaded->base_digest = snapshot.digest;
        ret_loaded->base_view = snapshot.view;
    }
    sqlite3_finalize(row);
    return rc < 0 ? rc : 0;
}

int db_snapshot(struct db *db, uint8_t **ret_data, size_t *ret_size, struct ha_err *err)
{
    struct db_snapshot snapshot = {0};
    struct log_loaded loaded;
    sqlite3_stmt *row = NULL;
    int rc = prepare(db, select_snapshot, &row, err);

    *ret_data = NULL;
    *ret_size = 0;
    if (rc < 0)
        return rc;
    rc = read_snapshot(db, row, &snapshot, &loaded, err);
    if (rc == 1) {
        *ret_data = malloc(snapshot.size + 1); /* never NULL for an empty one */
        if (*ret_data && snapshot.size > 0)
            memcpy(*ret_data, snapshot.data, snapshot.size);
        *ret_size = *ret_data ? snapshot.size : 0;
        rc = *ret_data ? 0 : ha_err_set(err, HA_E_NO_MEMORY, "no memory for the snapshot");
    }
    sqlite3_finalize(row);
    return rc;
}

/* The chain walked so far; `is_known` from the first digest on. */
struct chain {
    uint64_t index;
    struct ha_digest digest;
    bool is_known;
    uint64_t base_index; /* the snapshot's word on one of the digests */
    struct ha_digest base_digest;
};

static bool is_next(struct chain *chain, const struct log_entry *entry)
{
    if (chain->is_known) {
        if (entry->index != chain->index + 1 ||
            !ha_digest_equal(entry->digest, log_entry_digest(chain->digest, entry)))
            return false;
    }
    if (entry->index == chain->base_index && !ha_digest_equal(entry->digest, chain->base_digest))
        return false;
    chain->index = entry->index;
    chain->digest = entry->digest;
    chain->is_known = true;
    return true;
}

static int take_entry(sqlite3_stmt *row, struct chain *chain, struct log_entry *ret_entry,
                      struct ha_err *err)
{
    uint64_t index = number_at(row, 0);
    const void *data = sqlite3_column_blob(row, 1);
    struct ha_reader r = ha_reader_of(data, (size_t)sqlite3_column_bytes(row, 1));

    if (log_entry_decode(&r, ret_entry) < 0 || !ha_reader_is_done(&r) ||
        ret_entry->index != index || !is_next(chain, ret_entry))
        return ha_err_set(err, HA_E_CORRUPT, "the log's chain is broken at entry %" PRIu64, index);
    return 0;
}

/* Entries kept behind the snapshot start anywhere; without them the chain starts at the snapshot.
 */
static int start_chain(struct db *db, struct chain *ret_chain, struct ha_err *err)
{
    struct log_loaded loaded;
    sqlite3_stmt *row = NULL;
    int rc = db_load(db, &loaded, err);

    if (rc == 0)
        rc = prepare(db, "SELECT coalesce(min(idx), 0) FROM entry", &row, err);
    if (rc < 0)
        return rc;
    int r = sqlite3_step(row);
    uint64_t first = r == SQLITE_ROW ? number_at(row, 0) : 0;
    sqlite3_finalize(row);
    if (r != SQLITE_ROW)
        return db_error(db, r, "read the log", err);
    *ret_chain = (struct chain){.index = loaded.base_index,
                                .digest = loaded.base_digest,
                                .base_index = loaded.base_index,
                                .base_digest = loaded.base_digest,
                                .is_known = first == 0 || first > loaded.base_index};
    return 0;
}

static int walk(struct db *db, sqlite3_stmt *row, struct chain *chain, uint64_t after,
                int (*fn)(void *user, const struct log_entry *entry), void *user,
                struct ha_err *err)
{
    struct log_entry entry;
    int rc = 0;
    int r;

    while ((r = sqlite3_step(row)) == SQLITE_ROW) {
        rc = take_entry(row, chain, &entry, err);
        if (rc == 0 && fn && entry.index > after) {
            rc = fn(user, &entry);
            if (rc < 0)
                ha_err_set(err, rc, "entry %" PRIu64 ": %s", entry.index, ha_err_text(rc));
        }
        if (rc < 0)
            return rc;
    }
    if (r != SQLITE_DONE)
        return db_error(db, r, "read the log", err);
    /* Entries older than the snapshot only: what lay between is gone. */
    if (chain->index < chain->base_index)
        return damaged(err, "the log");
    return 0;
}

int db_each_entry(struct db *db, uint64_t after,
                  int (*fn)(void *user, const struct log_entry *entry), void *user,
                  struct ha_err *err)
{
    struct chain chain;
    sqlite3_stmt *row = NULL;
    int rc = start_chain(db, &chain, err);

    if (rc == 0)
        rc = prepare(db, "SELECT idx, data FROM entry ORDER BY idx", &row, err);
    if (rc == 0)
        rc = walk(db, row, &chain, after, fn, user, err);
    sqlite3_finalize(row);
    return rc;
}

int db_each_definition(struct db *db,
                       int (*fn)(void *user, struct ha_digest digest, const uint8_t *data,
                                 size_t size),
                       void *user, struct ha_err *err)
{
    sqlite3_stmt *row = NULL;
    int rc = prepare(db, "SELECT digest, data, sum FROM definition", &row, err);
    int r = SQLITE_DONE;

    while (rc == 0 && (r = sqlite3_step(row)) == SQLITE_ROW) {
        struct ha_digest digest;
        struct ha_digest sum;
        const uint8_t *data = sqlite3_column_blob(row, 1);
        size_t size = (size_t)sqlite3_column_bytes(row, 1);
        if (!digest_at(row, 0, &digest) || !digest_at(row, 2, &sum) ||
            !ha_digest_equal(sum, db_definition_sum(digest, data, size)))
            rc = damaged(err, "a guest's definition");
        else
            rc = fn(user, digest, data, size);
    }
    if (rc == 0 && r != SQLITE_DONE)
        rc = db_error(db, r, "read the definitions", err);
    sqlite3_finalize(row);
    return rc;
}

int db_each_history(struct db *db,
                    int (*fn)(void *user, uint64_t index, uint64_t wall_ms, const char *json),
                    void *user, struct ha_err *err)
{
    sqlite3_stmt *row = NULL;
    int rc = prepare(db, "SELECT idx, wall_ms, json FROM history ORDER BY seq", &row, err);
    int r = SQLITE_DONE;

    while (rc == 0 && (r = sqlite3_step(row)) == SQLITE_ROW) {
        const char *json = (const char *)sqlite3_column_text(row, 2);
        rc = fn(user, number_at(row, 0), number_at(row, 1), json ? json : "{}");
    }
    if (rc == 0 && r != SQLITE_DONE)
        rc = db_error(db, r, "read the history", err);
    sqlite3_finalize(row);
    return rc;
}
