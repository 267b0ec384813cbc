/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/store/db.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char schema[] =
    "CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id = 1), cluster BLOB NOT NULL,"
    " generation INTEGER NOT NULL, store BLOB NOT NULL, node INTEGER NOT NULL, sum BLOB NOT NULL);"
    "CREATE TABLE promise (id INTEGER PRIMARY KEY CHECK (id = 1), counter INTEGER NOT NULL,"
    " leader INTEGER NOT NULL, log_counter INTEGER NOT NULL, log_leader INTEGER NOT NULL,"
    " sum BLOB NOT NULL);"
    "CREATE TABLE entry (idx INTEGER PRIMARY KEY, data BLOB NOT NULL);"
    "CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), idx INTEGER NOT NULL,"
    " digest BLOB NOT NULL, counter INTEGER NOT NULL, leader INTEGER NOT NULL,"
    " voters BLOB NOT NULL, data BLOB NOT NULL, sum BLOB NOT NULL);"
    "CREATE TABLE definition (digest BLOB PRIMARY KEY, data BLOB NOT NULL, sum BLOB NOT NULL);"
    "CREATE TABLE history (seq INTEGER PRIMARY KEY AUTOINCREMENT, idx INTEGER NOT NULL,"
    " wall_ms INTEGER NOT NULL, json TEXT NOT NULL);";

static const char *const statement_text[DB_STATEMENT_COUNT] = {
    [DB_BEGIN] = "BEGIN IMMEDIATE",
    [DB_COMMIT] = "COMMIT",
    [DB_ROLLBACK] = "ROLLBACK",
    [DB_ENTRY_PUT] = "INSERT INTO entry (idx, data) VALUES (?1, ?2)",
    [DB_ENTRY_CUT_TAIL] = "DELETE FROM entry WHERE idx >= ?1",
    [DB_ENTRY_CUT_HEAD] = "DELETE FROM entry WHERE idx <= ?1",
    [DB_PROMISE_PUT] = "INSERT OR REPLACE INTO promise VALUES (1, ?1, ?2, ?3, ?4, ?5)",
    [DB_SNAPSHOT_PUT] = "INSERT OR REPLACE INTO snapshot VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [DB_DEFINITION_PUT] = "INSERT OR IGNORE INTO definition VALUES (?1, ?2, ?3)",
    [DB_DEFINITION_LIST] = "SELECT digest FROM definition",
    [DB_DEFINITION_DROP] = "DELETE FROM definition WHERE digest = ?1",
    [DB_HISTORY_PUT] = "INSERT INTO history (idx, wall_ms, json) VALUES (?1, ?2, ?3)",
    [DB_HISTORY_CUT] = ("DELETE FROM history WHERE seq <= (SELECT max(seq) FROM history) - ?1"
                        " OR wall_ms < ?2"),
};

/* What a result code says about: the contents, the disk, the medium's rights, or us. */
static int code_of(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_ERROR: /* our statements don't fit the tables */
    case SQLITE_SCHEMA:
        return HA_E_CORRUPT;
    case SQLITE_FULL:
        return ENOSPC;
    case SQLITE_IOERR:
        return rc == SQLITE_IOERR_NOMEM ? HA_E_NO_MEMORY : EIO;
    case SQLITE_NOMEM:
        return HA_E_NO_MEMORY;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return EBUSY;
    case SQLITE_READONLY:
        return EROFS;
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
        return EACCES;
    default:
        return EIO;
    }
}

/* What an operator can do about it; "" where a word would be a guess. */
static const char *fix_for(int code)
{
    switch (code) {
    case ENOSPC:
        return ": free space on the file system that holds it";
    case EROFS:
        return ": its file system is mounted read-only; see dmesg, then remount it";
    case EIO:
        return ": the disk beneath fails; see dmesg";
    case EBUSY:
        return ": another process has it open; only one hamgrd may";
    default:
        return "";
    }
}

int db_error(struct db *db, int rc, const char *what, struct ha_err *err)
{
    int system = sqlite3_system_errno(db->sql);
    int code = code_of(rc);

    /* The disk may be full though SQLite could only see that a read or a lock failed. */
    if ((code == EIO || code == EACCES) && (system == ENOSPC || system == EDQUOT))
        code = ENOSPC;
    return ha_err_set(err, code, "%s: %s%s%s (SQLite %d)%s", what, sqlite3_errmsg(db->sql),
                      system ? ", " : "", system ? strerror(system) : "", rc, fix_for(code));
}

static int exec(struct db *db, const char *text, const char *what, struct ha_err *err)
{
    int rc = sqlite3_exec(db->sql, text, NULL, NULL, NULL);

    return rc == SQLITE_OK ? 0 : db_error(db, rc, what, err);
}

static int count_wal_pages(void *user, sqlite3 *sql, const char *name, int pages)
{
    struct db *db = user;

    (void)sql;
    (void)name;
    db->wal_pages = pages;
    return SQLITE_OK;
}

/* As a URI with psow=0: a commit is padded to whole sectors, so that a write torn by a power cut
 * never reaches into the sectors of the one before, which was acknowledged. */
static int open_file(struct db *db, const char *path, struct ha_err *err)
{
    char uri[3 * PATH_MAX + 16];
    size_t used = (size_t)snprintf(uri, sizeof(uri), "file:");

    for (const char *p = path; *p && used < sizeof(uri) - 16; p++) {
        bool is_plain = *p != '%' && *p != '?' && *p != '#';
        used += (size_t)snprintf(uri + used, sizeof(uri) - used, is_plain ? "%c" : "%%%02X",
                                 (unsigned char)*p);
    }
    snprintf(uri + used, sizeof(uri) - used, "?psow=0");
    int rc = sqlite3_open_v2(uri, &db->sql, SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI, NULL);
    return rc == SQLITE_OK ? 0 : db_error(db, rc, "open the database", err);
}

/* Every connection: exclusive, so that no shared-memory file is needed and nobody else writes; no
 * checkpoint behind our back (the thread says when, and never after a failure). */
static int set_up(struct db *db, struct ha_err *err)
{
    sqlite3_extended_result_codes(db->sql, 1);
    sqlite3_busy_timeout(db->sql, 0);
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    int rc = exec(db,
                  "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL;"
                  "PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;"
                  "PRAGMA journal_size_limit=67108864",
                  "set up the database", err);
    return rc;
}

/* The hook comes after any journal_mode: it replaces SQLite's automatic checkpoint. */
static void count_wal(struct db *db)
{
    sqlite3_wal_hook(db->sql, count_wal_pages, db);
}

static int read_pragma(struct db *db, const char *text, int64_t *ret_value, struct ha_err *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db->sql, text, -1, &statement, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW)
        *ret_value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return rc == SQLITE_ROW ? 0 : db_error(db, rc, text, err);
}

static int prepare_all(struct db *db, struct ha_err *err)
{
    for (unsigned i = 0; i < DB_STATEMENT_COUNT; i++) {
        int rc = sqlite3_prepare_v3(db->sql, statement_text[i], -1, SQLITE_PREPARE_PERSISTENT,
                                    &db->statements[i], NULL);
        if (rc != SQLITE_OK)
            return db_error(db, rc, "prepare statements", err);
    }
    return 0;
}

/* The schema is read here, so that a damaged one is found as damage. */
static int check_kind(struct db *db, struct ha_err *err)
{
    int64_t application = 0;
    int64_t version = 0;
    int rc = read_pragma(db, "PRAGMA application_id", &application, err);

    if (rc == 0)
        rc = read_pragma(db, "PRAGMA user_version", &version, err);
    if (rc < 0)
        return rc;
    if (application != DB_APPLICATION)
        return ha_err_set(err, HA_E_CORRUPT, "the file is not a store of hamgr");
    if (version > DB_VERSION)
        return ha_err_set(err, HA_E_VERSION,
                          "the store has format %" PRId64 ", this hamgr knows up to %d", version,
                          DB_VERSION);
    return 0;
}

/* What reading and writing start from: the last index, the promise. */
static int learn(struct db *db, struct ha_err *err)
{
    struct log_loaded loaded;
    int64_t last = 0;
    int rc = db_load(db, &loaded, err);

    if (rc == 0)
        rc = read_pragma(db, "SELECT coalesce(max(idx), 0) FROM entry", &last, err);
    if (rc < 0)
        return rc;
    db->promised = loaded.promised;
    db->log_view = loaded.log_view;
    db->snapshot_index = loaded.base_index;
    db->last_index = (uint64_t)last > loaded.base_index ? (uint64_t)last : loaded.base_index;
    return 0;
}

int db_open(const char *path, struct db *ret_db, struct ha_err *err)
{
    struct db *db = ret_db;

    memset(db, 0, sizeof(*db));
    int rc = open_file(db, path, err);
    if (rc == 0)
        rc = set_up(db, err);
    if (rc == 0)
        rc = check_kind(db, err);
    if (rc == 0)
        rc = prepare_all(db, err);
    if (rc == 0)
        rc = learn(db, err);
    if (rc < 0)
        db_close(db);
    else
        count_wal(db);
    return rc;
}

void db_close(struct db *db)
{
    for (unsigned i = 0; i < DB_STATEMENT_COUNT; i++)
        sqlite3_finalize(db->statements[i]);
    sqlite3_close(db->sql);
    memset(db, 0, sizeof(*db));
}

/* --- writing --- */

int db_run(struct db *db, enum db_statement which, const char *what, struct ha_err *err)
{
    sqlite3_stmt *statement = db->statements[which];
    int rc = sqlite3_step(statement);

    /* The step's code says more than the reset's. */
    int result = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : db_error(db, rc, what, err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return result;
}

static void bind_number(struct db *db, enum db_statement which, int at, uint64_t value)
{
    sqlite3_bind_int64(db->statements[which], at, (sqlite3_int64)value);
}

static void bind_bytes(struct db *db, enum db_statement which, int at, const void *data,
                       size_t size)
{
    sqlite3_bind_blob64(db->statements[which], at, size > 0 ? data : "", size, SQLITE_STATIC);
}

/* A digest as stored: little-endian, low first. */
static void put_digest(struct ha_digest digest, uint8_t ret_bytes[16])
{
    struct ha_writer w = ha_writer_of(ret_bytes, 16);

    ha_put_digest(&w, digest);
}

int db_begin(struct db *db, struct ha_err *err)
{
    return db_run(db, DB_BEGIN, "begin a transaction", err);
}

int db_commit(struct db *db, struct ha_err *err)
{
    return db_run(db, DB_COMMIT, "commit", err);
}

void db_rollback(struct db *db)
{
    if (!sqlite3_get_autocommit(db->sql)) /* SQLite may have rolled back by itself */
        (void)db_run(db, DB_ROLLBACK, "roll back", NULL);
}

struct ha_digest db_promise_sum(struct log_view promised, struct log_view log_view)
{
    uint8_t bytes[24];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    ha_put_u64(&w, promised.counter);
    ha_put_u32(&w, promised.leader);
    ha_put_u64(&w, log_view.counter);
    ha_put_u32(&w, log_view.leader);
    return ha_digest_bytes((struct ha_digest){0}, bytes, w.position);
}

int db_put_promise(struct db *db, struct ha_err *err)
{
    uint8_t sum[16];

    put_digest(db_promise_sum(db->promised, db->log_view), sum);
    bind_number(db, DB_PROMISE_PUT, 1, db->promised.counter);
    bind_number(db, DB_PROMISE_PUT, 2, db->promised.leader);
    bind_number(db, DB_PROMISE_PUT, 3, db->log_view.counter);
    bind_number(db, DB_PROMISE_PUT, 4, db->log_view.leader);
    bind_bytes(db, DB_PROMISE_PUT, 5, sum, sizeof(sum));
    return db_run(db, DB_PROMISE_PUT, "store the promise", err);
}

int db_cut_tail(struct db *db, uint64_t from, struct ha_err *err)
{
    if (from > db->last_index)
        return 0;
    if (from <= db->snapshot_index)
        return ha_err_set(err, HA_E_CORRUPT,
                          "entries from %" PRIu64
                          " on are to be cut, but the snapshot holds %" PRIu64,
                          from, db->snapshot_index);
    bind_number(db, DB_ENTRY_CUT_TAIL, 1, from);
    int rc = db_run(db, DB_ENTRY_CUT_TAIL, "cut the log's tail", err);
    if (rc == 0)
        db->last_index = from - 1;
    return rc;
}

int db_put_entry(struct db *db, uint64_t index, const uint8_t *data, size_t size,
                 struct ha_err *err)
{
    if (index != db->last_index + 1)
        return ha_err_set(err, HA_E_CORRUPT, "entry %" PRIu64 " does not follow entry %" PRIu64,
                          index, db->last_index);
    bind_number(db, DB_ENTRY_PUT, 1, index);
    bind_bytes(db, DB_ENTRY_PUT, 2, data, size);
    int rc = db_run(db, DB_ENTRY_PUT, "store an entry", err);
    if (rc == 0)
        db->last_index = index;
    return rc;
}

void db_encode_voters(struct ha_writer *w, const struct log_loaded *voters)
{
    ha_put_u32(w, voters->voter_count);
    for (uint32_t i = 0; i < voters->voter_count; i++) {
        ha_put_u32(w, voters->voters[i].node);
        ha_put_uuid(w, voters->voters[i].store_id);
    }
}

struct ha_digest db_snapshot_sum(const struct db_snapshot *snapshot)
{
    uint8_t bytes[40 + DB_VOTERS_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    ha_put_u64(&w, snapshot->index);
    ha_put_digest(&w, snapshot->digest);
    ha_put_u64(&w, snapshot->view.counter);
    ha_put_u32(&w, snapshot->view.leader);
    db_encode_voters(&w, snapshot->voters);
    struct ha_digest head = ha_digest_bytes((struct ha_digest){0}, bytes, w.position);
    return ha_digest_bytes(head, snapshot->data, snapshot->size);
}

int db_put_snapshot(struct db *db, const struct db_snapshot *snapshot, struct ha_err *err)
{
    uint8_t digest[16];
    uint8_t sum[16];
    uint8_t voters[DB_VOTERS_MAX];
    struct ha_writer w = ha_writer_of(voters, sizeof(voters));

    put_digest(snapshot->digest, digest);
    put_digest(db_snapshot_sum(snapshot), sum);
    db_encode_voters(&w, snapshot->voters);
    bind_number(db, DB_SNAPSHOT_PUT, 1, snapshot->index);
    bind_bytes(db, DB_SNAPSHOT_PUT, 2, digest, sizeof(digest));
    bind_number(db, DB_SNAPSHOT_PUT, 3, snapshot->view.counter);
    bind_number(db, DB_SNAPSHOT_PUT, 4, snapshot->view.leader);
    bind_bytes(db, DB_SNAPSHOT_PUT, 5, voters, w.position);
    bind_bytes(db, DB_SNAPSHOT_PUT, 6, snapshot->data, snapshot->size);
    bind_bytes(db, DB_SNAPSHOT_PUT, 7, sum, sizeof(sum));
    int rc = db_run(db, DB_SNAPSHOT_PUT, "store the snapshot", err);
    if (rc == 0)
        db->snapshot_index = snapshot->index;
    return rc;
}

int db_cut_head(struct db *db, uint64_t through, struct ha_err *err)
{
    bind_number(db, DB_ENTRY_CUT_HEAD, 1, through);
    return db_run(db, DB_ENTRY_CUT_HEAD, "cut the log's head", err);
}

int db_forget_entries(struct db *db, uint64_t index, struct ha_err *err)
{
    bind_number(db, DB_ENTRY_CUT_TAIL, 1, 0);
    int rc = db_run(db, DB_ENTRY_CUT_TAIL, "empty the log", err);
    if (rc == 0)
        db->last_index = index;
    return rc;
}

struct ha_digest db_definition_sum(struct ha_digest digest, const uint8_t *data, size_t size)
{
    return ha_digest_bytes(digest, data, size);
}

int db_put_definition(struct db *db, struct ha_digest digest, const uint8_t *data, size_t size,
                      struct ha_err *err)
{
    uint8_t key[16];
    uint8_t sum[16];

    put_digest(digest, key);
    put_digest(db_definition_sum(digest, data, size), sum);
    bind_bytes(db, DB_DEFINITION_PUT, 1, key, sizeof(key));
    bind_bytes(db, DB_DEFINITION_PUT, 2, data, size);
    bind_bytes(db, DB_DEFINITION_PUT, 3, sum, sizeof(sum));
    return db_run(db, DB_DEFINITION_PUT, "store a definition", err);
}

static bool is_listed(const struct ha_digest *digests, size_t count, const void *key, int size)
{
    struct ha_reader r = ha_reader_of(key, (size_t)size);
    struct ha_digest digest = ha_get_digest(&r);

    for (size_t i = 0; i < count; i++) {
        if (ha_digest_equal(digests[i], digest))
            return true;
    }
    return false;
}

/* Few definitions, rarely called (with snapshots): the lists are walked plainly. */
int db_keep_definitions(struct db *db, const struct ha_digest *digests, size_t count,
                        struct ha_err *err)
{
    sqlite3_stmt *list = db->statements[DB_DEFINITION_LIST];
    int rc = 0;
    int r;

    while (rc == 0 && (r = sqlite3_step(list)) == SQLITE_ROW) {
        const void *key = sqlite3_column_blob(list, 0);
        int size = sqlite3_column_bytes(list, 0);
        if (is_listed(digests, count, key, size))
            continue;
        sqlite3_bind_blob(db->statements[DB_DEFINITION_DROP], 1, key, size, SQLITE_TRANSIENT);
        rc = db_run(db, DB_DEFINITION_DROP, "drop a definition", err);
    }
    if (rc == 0 && r != SQLITE_DONE)
        rc = db_error(db, r, "list the definitions", err);
    sqlite3_reset(list);
    return rc;
}

int db_put_history(struct db *db, uint64_t index, uint64_t wall_ms, const char *json,
                   struct ha_err *err)
{
    bind_number(db, DB_HISTORY_PUT, 1, index);
    bind_number(db, DB_HISTORY_PUT, 2, wall_ms);
    sqlite3_bind_text(db->statements[DB_HISTORY_PUT], 3, json, -1, SQLITE_STATIC);
    return db_run(db, DB_HISTORY_PUT, "store a line of history", err);
}

int db_cut_history(struct db *db, uint64_t count_max, uint64_t from_wall_ms, struct ha_err *err)
{
    bind_number(db, DB_HISTORY_CUT, 1, count_max);
    bind_number(db, DB_HISTORY_CUT, 2, from_wall_ms);
    return db_run(db, DB_HISTORY_CUT, "prune the history", err);
}

int db_checkpoint(struct db *db, bool is_full, struct ha_err *err)
{
    int pages = 0;
    int moved = 0;
    int rc = sqlite3_wal_checkpoint_v2(
        db->sql, NULL, is_full ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE, &pages,
        &moved);

    if (rc != SQLITE_OK)
        return db_error(db, rc, "checkpoint", err);
    if (moved == pages)
        db->wal_pages = 0;
    return 0;
}

/* --- creation --- */

static int put_identity(struct db *db, const struct store_identity *identity, struct ha_err *err)
{
    sqlite3_stmt *statement = NULL;
    uint8_t sum[16];
    int rc = sqlite3_prepare_v2(db->sql, "INSERT INTO identity VALUES (1, ?1, ?2, ?3, ?4, ?5)", -1,
                                &statement, NULL);

    put_digest(db_identity_sum(identity), sum);
    if (rc == SQLITE_OK) {
        sqlite3_bind_blob(statement, 1, identity->cluster_id.b, 16, SQLITE_STATIC);
        sqlite3_bind_int64(statement, 2, (sqlite3_int64)identity->generation);
        sqlite3_bind_blob(statement, 3, identity->store_id.b, 16, SQLITE_STATIC);
        sqlite3_bind_int64(statement, 4, identity->node);
        sqlite3_bind_blob(statement, 5, sum, sizeof(sum), SQLITE_STATIC);
        rc = sqlite3_step(statement);
    }
    sqlite3_finalize(statement);
    return rc == SQLITE_DONE ? 0 : db_error(db, rc, "store the identity", err);
}

static int put_first(struct db *db, const struct log_entry *entry, struct ha_err *err)
{
    uint8_t bytes[HA_ENTRY_MAX + 256u];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    log_entry_encode(&w, entry);
    if (w.failed)
        return ha_err_set(err, HA_E_LIMIT, "a first entry is too long");
    return db_put_entry(db, entry->index, bytes, w.position, err);
}

static int fill(struct db *db, const struct store_identity *identity,
                const struct log_entry *entries, uint32_t count, struct ha_err *err)
{
    int rc = exec(db, "PRAGMA application_id=1751215463; PRAGMA journal_mode=WAL; BEGIN IMMEDIATE",
                  "make the database", err);

    if (rc == 0)
        rc = exec(db, schema, "make the tables", err);
    if (rc == 0)
        rc = exec(db, "PRAGMA user_version=1", "mark the database", err);
    if (rc == 0)
        rc = put_identity(db, identity, err);
    if (rc == 0)
        rc = prepare_all(db, err);
    if (rc == 0)
        rc = db_put_promise(db, err);
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = put_first(db, &entries[i], err);
    if (rc == 0)
        rc = exec(db, "COMMIT", "commit", err);
    if (rc == 0)
        rc = db_checkpoint(db, true, err);
    return rc;
}

static int sync_file(const char *path, struct ha_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? -1 : fsync(fd);
    int code = errno;

    if (fd >= 0)
        close(fd);
    return r == 0 ? 0 : ha_err_set(err, code, "sync %s: %s", path, strerror(code));
}

int db_create(const char *path, const struct store_identity *identity,
              const struct log_entry *entries, uint32_t count, struct ha_err *err)
{
    struct db db = {0};
    /* SQLite gives its own files the mode of the one that is there. */
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return ha_err_set(err, errno, "create %s: %s", path, strerror(errno));
    close(fd);
    int rc = open_file(&db, path, err);
    if (rc == 0)
        rc = set_up(&db, err);
    if (rc == 0)
        rc = fill(&db, identity, entries, count, err);
    if (rc == 0) /* the WAL is empty: closing takes it away */
        sqlite3_db_config(db.sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    db_close(&db);
    return rc == 0 ? sync_file(path, err) : rc;
}
