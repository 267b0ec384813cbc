/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop's side of the store: opening, reading, queueing, completions. writer.c carries out.
 */
#include "hamgr/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/store/store_internal.h"

/* More than a stall of a minute at full load; then the store is as good as failed. */
#define QUEUE_OPS_MAX   8192u
#define QUEUE_BYTES_MAX (64u * 1024u * 1024u)
/* Bytes of an entry's stored form beside its body, rounded up. */
#define ENTRY_HEAD_MAX 256u

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void store_free_op(struct op *op)
{
    free(op->voters);
    free(op);
}

void store_free(struct store *store)
{
    while (store->first) {
        struct op *op = store->first;
        store->first = op->next;
        store_free_op(op);
    }
    while (store->done_first) {
        struct done *done = store->done_first;
        store->done_first = done->next;
        free(done);
    }
    db_close(&store->db);
    files_unlock(&store->files);
    cache_clear(&store->cache);
    if (store->fd >= 0)
        close(store->fd);
    pthread_cond_destroy(&store->wake);
    pthread_cond_destroy(&store->ended);
    pthread_mutex_destroy(&store->mutex);
    pthread_mutex_destroy(&store->db_mutex);
    free(store);
}

static void unref(struct store *store)
{
    pthread_mutex_lock(&store->mutex);
    bool is_last = --store->references == 0;
    pthread_mutex_unlock(&store->mutex);
    if (is_last)
        store_free(store);
}

void store_fail(struct store *store, const struct ha_err *err)
{
    if (!store->is_failed)
        store->failure = *err;
    store->is_failed = true;
}

/* --- opening and closing --- */

static struct store *make_store(void)
{
    struct store *store = calloc(1, sizeof(*store));
    pthread_condattr_t attributes;

    if (!store)
        return NULL;
    pthread_mutex_init(&store->mutex, NULL);
    pthread_mutex_init(&store->db_mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&store->wake, &attributes);
    pthread_cond_init(&store->ended, &attributes);
    pthread_condattr_destroy(&attributes);
    store->references = 1;
    store->fd = -1;
    store->files.lock_fd = -1;
    store->tail = &store->first;
    store->done_tail = &store->done_first;
    return store;
}

static int fill_definition(void *user, struct ha_digest digest, const uint8_t *data, size_t size)
{
    struct store *store = user;
    struct cache_definition *definition = cache_put(&store->cache, digest, data, size);

    if (!definition)
        return -HA_E_NO_MEMORY;
    definition->is_stored = true;
    return 0;
}

static int fill_history(void *user, uint64_t index, uint64_t wall_ms, const char *json)
{
    struct store *store = user;

    (void)wall_ms;
    cache_add_line(&store->cache, index, json);
    return 0;
}

/* All of it is read once, so that damage is found here and not in the middle of a failover. The
 * full checkpoint writes again, durably, what an earlier process may have left unsynced. */
static int read_all(struct store *store, struct store_identity *ret_identity, struct ha_err *err)
{
    struct db *db = &store->db;
    int rc = db_check(db, err);

    if (rc == 0)
        rc = db_identity(db, ret_identity, err);
    if (rc == 0)
        rc = db_each_entry(db, 0, NULL, NULL, err);
    if (rc == 0)
        rc = db_each_definition(db, fill_definition, store, err);
    if (rc == 0)
        rc = db_each_history(db, fill_history, store, err);
    if (rc == 0)
        rc = db_checkpoint(db, true, err);
    return rc;
}

static int open_db(struct store *store, struct store_identity *ret_identity, struct ha_err *err)
{
    struct ha_err local = {0};

    files_drop_cached(&store->files);
    int rc = db_open(store->files.db, &store->db, &local);
    if (rc == 0)
        rc = read_all(store, ret_identity, &local);
    if (rc == -HA_E_CORRUPT) {
        db_close(&store->db);
        files_set_aside(&store->files, &local);
    }
    if (rc < 0)
        ha_err_set(err, rc, "%s", local.text);
    return rc;
}

static int take_files(struct store *store, const char *dir, struct ha_err *err)
{
    int rc = files_name(dir, &store->files, err);

    if (rc < 0)
        return rc;
    if (access(store->files.dir, F_OK) == 0)
        rc = files_lock(&store->files, err);
    if (rc < 0)
        return rc;
    if (access(store->files.db, F_OK) < 0)
        return errno == ENOENT ? ha_err_set(err, HA_E_NOT_FOUND, "there is no store in %s", dir)
                               : ha_err_set(err, errno, "%s: %s", store->files.db, strerror(errno));
    return 0;
}

int store_open(const char *dir, struct store **ret_store, struct store_identity *ret_identity,
               struct ha_err *err)
{
    struct store *store = make_store();

    if (!store)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory for the store");
    int rc = take_files(store, dir, err);
    if (rc == 0)
        rc = open_db(store, ret_identity, err);
    if (rc == 0) {
        store->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (store->fd < 0)
            rc = ha_err_set(err, errno, "eventfd: %s", strerror(errno));
    }
    if (rc == 0) {
        int r = store_start_writer(store);
        if (r != 0)
            rc = ha_err_set(err, r, "start the store's thread: %s", strerror(r));
    }
    if (rc < 0)
        unref(store);
    else
        *ret_store = store;
    return rc;
}

static struct timespec deadline_after(uint32_t ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += (long)(ms % 1000) * 1000000L;
    at.tv_sec += at.tv_nsec / 1000000000L;
    at.tv_nsec %= 1000000000L;
    return at;
}

void store_close(struct store *store, uint32_t timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms);

    if (!store)
        return;
    pthread_mutex_lock(&store->mutex);
    store->is_closing = true;
    pthread_cond_signal(&store->wake);
    while (!store->has_ended) {
        if (pthread_cond_timedwait(&store->ended, &store->mutex, &deadline) != 0)
            break;
    }
    pthread_mutex_unlock(&store->mutex);
    unref(store);
}

static int make_dir(const char *dir, struct ha_err *err)
{
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return ha_err_set(err, errno, "make %s: %s", dir, strerror(errno));
    if (chmod(dir, 0700) < 0)
        return ha_err_set(err, errno, "make %s private: %s", dir, strerror(errno));
    return 0;
}

int store_create_log(const char *dir, const struct store_identity *identity,
                     const struct log_entry *entries, uint32_t count, struct ha_err *err)
{
    struct files files;
    int rc = files_name(dir, &files, err);

    if (rc == 0)
        rc = make_dir(dir, err);
    if (rc == 0)
        rc = files_lock(&files, err);
    if (rc < 0)
        return rc;
    if (access(files.db, F_OK) == 0)
        rc = ha_err_set(err, HA_E_EXISTS, "there is a store in %s already", dir);
    if (rc == 0)
        rc = files_clear_orphans(&files, err);
    if (rc == 0)
        rc = db_create(files.fresh, identity, entries, count, err);
    if (rc == 0 && rename(files.fresh, files.db) < 0)
        rc = ha_err_set(err, errno, "name %s: %s", files.db, strerror(errno));
    if (rc == 0)
        rc = files_sync_dir(&files, err);
    files_unlock(&files);
    return rc;
}

int store_create(const char *dir, const struct store_identity *identity, struct ha_err *err)
{
    return store_create_log(dir, identity, NULL, 0, err);
}

int store_create_first(const char *dir, const struct store_identity *identity,
                       const struct log_entry *first, struct ha_err *err)
{
    return store_create_log(dir, identity, first, 1, err);
}

int store_give(const char *dir, uid_t uid, gid_t gid, struct ha_err *err)
{
    static const char *const names[] = {"hamgr.db", "hamgr.db-wal", "lock", "."};
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? ha_err_set(err, errno, "open %s: %s", dir, strerror(errno)) : 0;

    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        if (fchownat(fd, names[i], uid, gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT)
            rc = ha_err_set(err, errno, "give %s/%s away: %s", dir, names[i], strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

/* --- reading --- */

int store_load(struct store *store, struct log_loaded *ret_loaded, struct ha_err *err)
{
    struct timespec now;

    pthread_mutex_lock(&store->db_mutex);
    int rc = db_load(&store->db, ret_loaded, err);
    pthread_mutex_unlock(&store->db_mutex);
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    ret_loaded->now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    return rc;
}

int store_each_entry(struct store *store, int (*fn)(void *user, const struct log_entry *entry),
                     void *user, struct ha_err *err)
{
    pthread_mutex_lock(&store->db_mutex);
    int rc = db_each_entry(&store->db, store->db.snapshot_index, fn, user, err);
    pthread_mutex_unlock(&store->db_mutex);
    return rc;
}

int store_snapshot(struct store *store, uint8_t **ret_data, size_t *ret_size, struct ha_err *err)
{
    pthread_mutex_lock(&store->db_mutex);
    int rc = db_snapshot(&store->db, ret_data, ret_size, err);
    pthread_mutex_unlock(&store->db_mutex);
    return rc;
}

/* --- queueing --- */

static struct op *make_op(enum op_type type, size_t size)
{
    struct op *op = malloc(sizeof(*op) + size);

    if (!op)
        return NULL;
    memset(op, 0, sizeof(*op));
    op->type = type;
    op->size = size;
    op->queued_ms = now_ms();
    return op;
}

/* Takes op over, also on error. */
static int queue(struct store *store, struct op *op)
{
    if (!op)
        return -HA_E_NO_MEMORY;
    pthread_mutex_lock(&store->mutex);
    bool is_full = store->op_count >= QUEUE_OPS_MAX ||
                   store->op_bytes + op->size > QUEUE_BYTES_MAX || store->is_closing;
    if (!is_full) {
        op->next = NULL;
        *store->tail = op;
        store->tail = &op->next;
        store->op_count++;
        store->op_bytes += op->size;
        pthread_cond_signal(&store->wake);
    }
    pthread_mutex_unlock(&store->mutex);
    if (is_full)
        store_free_op(op);
    return is_full ? -HA_E_LIMIT : 0;
}

static void encode_entry(struct ha_writer *w, const struct log_entry *entry)
{
    ha_put_u64(w, entry->index);
    size_t size_at = w->position;
    ha_put_u32(w, 0);
    log_entry_encode(w, entry);
    if (w->failed)
        return;
    struct ha_writer size = ha_writer_of(w->data + size_at, 4);
    ha_put_u32(&size, (uint32_t)(w->position - size_at - 4));
}

int store_write(struct store *store, const struct store_write *write)
{
    size_t capacity = 0;

    for (uint32_t i = 0; i < write->entry_count; i++)
        capacity += ENTRY_HEAD_MAX + write->entries[i].body_size;
    struct op *op = make_op(OP_WRITE, capacity);
    if (!op)
        return -HA_E_NO_MEMORY;
    struct ha_writer w = ha_writer_of(op->bytes, capacity);
    for (uint32_t i = 0; i < write->entry_count; i++)
        encode_entry(&w, &write->entries[i]);
    ha_assert(!w.failed);
    op->size = w.position;
    op->has_token = true;
    op->token = write->token;
    op->has_promise = write->has_promise;
    op->promised = write->promised;
    op->has_log_view = write->has_log_view;
    op->log_view = write->log_view;
    op->truncate_from = write->truncate_from;
    return queue(store, op);
}

static struct op *make_snapshot_op(enum op_type type, uint64_t token, uint64_t index,
                                   struct ha_digest digest, struct log_view view,
                                   const uint8_t *data, size_t size,
                                   const struct log_loaded *voters)
{
    struct op *op = make_op(type, size);

    ha_assert(voters->voter_count <= HA_NODES_MAX);
    if (!op)
        return NULL;
    op->voters = malloc(sizeof(*op->voters));
    if (!op->voters) {
        store_free_op(op);
        return NULL;
    }
    *op->voters = *voters;
    if (size > 0)
        memcpy(op->bytes, data, size);
    op->has_token = true;
    op->token = token;
    op->index = index;
    op->digest = digest;
    op->view = view;
    return op;
}

int store_put_snapshot(struct store *store, uint64_t token, uint64_t index, struct ha_digest digest,
                       struct log_view view, const uint8_t *data, size_t size,
                       const struct log_loaded *voters, uint64_t keep_from)
{
    struct op *op = make_snapshot_op(OP_SNAPSHOT, token, index, digest, view, data, size, voters);

    if (op) /* what the snapshot does not hold is never cut */
        op->keep_from = keep_from < index ? keep_from : index;
    return queue(store, op);
}

int store_install(struct store *store, uint64_t token, uint64_t index, struct ha_digest digest,
                  struct log_view view, const uint8_t *data, size_t size,
                  const struct log_loaded *voters)
{
    return queue(store,
                 make_snapshot_op(OP_INSTALL, token, index, digest, view, data, size, voters));
}

/* A definition that could not be queued must not look stored: the store has failed then. */
void store_put_definition(struct store *store, struct ha_digest digest, const uint8_t *data,
                          size_t size)
{
    const struct ha_err err = {.code = HA_E_LIMIT, .text = "a definition could not be queued"};
    struct cache_definition *definition = cache_put(&store->cache, digest, data, size);

    if (definition && definition->is_stored)
        return;
    struct op *op = definition ? make_op(OP_DEFINITION, 0) : NULL;
    if (definition)
        definition->is_stored = true;
    if (op)
        op->definition = definition;
    if (queue(store, op) == 0)
        return;
    pthread_mutex_lock(&store->mutex);
    store_fail(store, &err);
    pthread_mutex_unlock(&store->mutex);
}

const uint8_t *store_definition(struct store *store, struct ha_digest digest, size_t *ret_size)
{
    const struct cache_definition *definition = cache_get(&store->cache, digest);

    *ret_size = definition ? definition->size : 0;
    return definition ? definition->data : NULL;
}

void store_keep_definitions(struct store *store, const struct ha_digest *digests, uint32_t count)
{
    size_t size = count * sizeof(digests[0]);
    struct op *op = make_op(OP_KEEP, size);

    if (!op) /* next time */
        return;
    if (size > 0)
        memcpy(op->bytes, digests, size);
    if (queue(store, op) == 0)
        cache_mark_stored(&store->cache, digests, count);
}

/* A line that finds no room is lost: history explains, it decides nothing. */
void store_history(struct store *store, uint64_t index, uint64_t wall_ms, const char *json)
{
    size_t size = strlen(json) + 1;
    struct op *op = make_op(OP_HISTORY, size);

    cache_add_line(&store->cache, index, json);
    if (!op)
        return;
    memcpy(op->bytes, json, size);
    op->index = index;
    op->wall_ms = wall_ms;
    (void)queue(store, op);
}

uint64_t store_history_newest(const struct store *store)
{
    return store->cache.newest;
}

int store_history_read(struct store *store, uint64_t after, uint32_t count,
                       void (*fn)(void *user, uint64_t index, const char *json), void *user)
{
    return cache_read_lines(&store->cache, after, count, fn, user);
}

/* --- completions --- */

int store_fd(const struct store *store)
{
    return store->fd;
}

bool store_take(struct store *store, struct store_done *ret_done)
{
    eventfd_t count;

    pthread_mutex_lock(&store->mutex);
    struct done *done = store->done_first;
    if (done) {
        store->done_first = done->next;
        *ret_done = done->value;
    }
    if (!store->done_first) {
        store->done_tail = &store->done_first;
        (void)eventfd_read(store->fd, &count);
    }
    pthread_mutex_unlock(&store->mutex);
    free(done);
    return done != NULL;
}

uint64_t store_stall_ms(struct store *store)
{
    pthread_mutex_lock(&store->mutex);
    uint64_t oldest = store->batch_ms;
    if (oldest == 0 && store->first)
        oldest = store->first->queued_ms;
    pthread_mutex_unlock(&store->mutex);
    uint64_t now = now_ms();
    return oldest == 0 || now <= oldest ? 0 : now - oldest;
}
