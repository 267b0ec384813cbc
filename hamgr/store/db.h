/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's database: its schema and every statement. Synchronous; used by one thread at a time
 * (the opener first, then the store's own thread). Errors are our codes: -HA_E_CORRUPT is said only
 * of contents, -EIO, -ENOSPC, ... of the disk beneath.
 *
 * Rows that decide something carry a checksum of their own: SQLite finds torn pages, not flipped
 * bits inside one.
 */
#ifndef HAMGR_STORE_DB_H
#define HAMGR_STORE_DB_H

#include <sqlite3.h>

#include "hamgr/store/store.h"

/* "hamg" in the file's header; the schema's version. */
#define DB_APPLICATION 0x68616d67
#define DB_VERSION     1

enum db_statement {
    DB_BEGIN,
    DB_COMMIT,
    DB_ROLLBACK,
    DB_ENTRY_PUT,
    DB_ENTRY_CUT_TAIL,
    DB_ENTRY_CUT_HEAD,
    DB_PROMISE_PUT,
    DB_SNAPSHOT_PUT,
    DB_DEFINITION_PUT,
    DB_DEFINITION_LIST,
    DB_DEFINITION_DROP,
    DB_HISTORY_PUT,
    DB_HISTORY_CUT,
    DB_STATEMENT_COUNT
};

struct db {
    sqlite3 *sql;
    sqlite3_stmt *statements[DB_STATEMENT_COUNT];
    uint64_t snapshot_index; /* 0: none */
    uint64_t last_index;     /* of the newest entry, else the snapshot's */
    struct log_view promised;
    struct log_view log_view;
    int wal_pages; /* as of the last commit */
};

/* Creates the file at path (which must not exist) with its schema, identity and first entries;
 * complete and durable when it returns 0. */
int db_create(const char *path, const struct store_identity *identity,
              const struct log_entry *entries, uint32_t count, struct ha_err *err);
/* Opens the file at path and checks that it is one of ours. -HA_E_CORRUPT, -HA_E_VERSION (made by a
 * newer hamgr), or another error. */
int db_open(const char *path, struct db *ret_db, struct ha_err *err);
void db_close(struct db *db);

/* Runs a statement whose parameters are bound; resets it. 0 or an error. */
int db_run(struct db *db, enum db_statement which, const char *what, struct ha_err *err);

/* Inside a transaction. */
int db_begin(struct db *db, struct ha_err *err);
int db_commit(struct db *db, struct ha_err *err);
void db_rollback(struct db *db);
int db_put_promise(struct db *db, struct ha_err *err); /* db->promised, db->log_view */
int db_cut_tail(struct db *db, uint64_t from, struct ha_err *err);
/* data: the entry's stored form. Refuses gaps. */
int db_put_entry(struct db *db, uint64_t index, const uint8_t *data, size_t size,
                 struct ha_err *err);

struct db_snapshot {
    uint64_t index;
    struct ha_digest digest;
    struct log_view view;
    const struct log_loaded *voters;
    const uint8_t *data;
    size_t size;
};
int db_put_snapshot(struct db *db, const struct db_snapshot *snapshot, struct ha_err *err);
int db_cut_head(struct db *db, uint64_t through, struct ha_err *err);
/* Empties the log; the next entry is index + 1. */
int db_forget_entries(struct db *db, uint64_t index, struct ha_err *err);
int db_put_definition(struct db *db, struct ha_digest digest, const uint8_t *data, size_t size,
                      struct ha_err *err);
/* Drops all definitions but these. */
int db_keep_definitions(struct db *db, const struct ha_digest *digests, size_t count,
                        struct ha_err *err);
int db_put_history(struct db *db, uint64_t index, uint64_t wall_ms, const char *json,
                   struct ha_err *err);
/* Keeps the newest count_max lines, and of those the ones from wall_ms on. */
int db_cut_history(struct db *db, uint64_t count_max, uint64_t from_wall_ms, struct ha_err *err);

/* Moves the WAL's pages into the database file. is_full: all, and empties the WAL. */
int db_checkpoint(struct db *db, bool is_full, struct ha_err *err);

/* Reading; each finds damage of what it reads. */
int db_check(struct db *db, struct ha_err *err); /* SQLite's own check of the pages */
int db_identity(struct db *db, struct store_identity *ret_identity, struct ha_err *err);
int db_load(struct db *db, struct log_loaded *ret_loaded, struct ha_err *err);
/* malloc'd; NULL and 0 when there is none. */
int db_snapshot(struct db *db, uint8_t **ret_data, size_t *ret_size, struct ha_err *err);
/* Entries above `after` in order, their chain checked from the first one found on. */
int db_each_entry(struct db *db, uint64_t after,
                  int (*fn)(void *user, const struct log_entry *entry), void *user,
                  struct ha_err *err);
int db_each_definition(struct db *db,
                       int (*fn)(void *user, struct ha_digest digest, const uint8_t *data,
                                 size_t size),
                       void *user, struct ha_err *err);
int db_each_history(struct db *db,
                    int (*fn)(void *user, uint64_t index, uint64_t wall_ms, const char *json),
                    void *user, struct ha_err *err);

/* Shared by db.c and dbread.c. */
int db_error(struct db *db, int rc, const char *what, struct ha_err *err);
struct ha_digest db_promise_sum(struct log_view promised, struct log_view log_view);
struct ha_digest db_identity_sum(const struct store_identity *identity);
struct ha_digest db_snapshot_sum(const struct db_snapshot *snapshot);
struct ha_digest db_definition_sum(struct ha_digest digest, const uint8_t *data, size_t size);
#define DB_VOTERS_MAX (4u + HA_NODES_MAX * 20u) /* bytes of the stored voters */
void db_encode_voters(struct ha_writer *w, const struct log_loaded *voters);

#endif
