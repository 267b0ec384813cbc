/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's thread: carries out what has piled up as one transaction and completes it in order.
 *
 *   WORKING --failed transaction or checkpoint--> FAILED: nothing is written any more, everything
 *   queued completes with is_ok = false, until the store is closed and opened again (which reads
 *   what the disk really holds). A failed fsync is never retried: the kernel forgets the pages.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "hamgr/base/assert.h"
#include "hamgr/store/store_internal.h"

/* One transaction: what piles up during one fsync, bounded so that completions keep coming. */
#define BATCH_OPS_MAX   512u
#define BATCH_BYTES_MAX (8u * 1024u * 1024u)
/* Pages of 4 KiB in the WAL: moved into the file when idle, or at once when it is too long. */
#define WAL_PAGES_IDLE 1000
#define WAL_PAGES_MAX  8000
/* History on disk: pruned every so many lines to the ring's length and 400 days. */
#define HISTORY_CUT_EVERY 256u
#define HISTORY_AGE_MS    (400ull * 24 * 3600 * 1000)

static int carry_out_write(struct db *db, const struct op *op, struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(op->bytes, op->size);
    int rc = op->truncate_from != 0 ? db_cut_tail(db, op->truncate_from, err) : 0;

    while (rc == 0 && r.position < r.size) {
        size_t size = 0;
        uint64_t index = ha_get_u64(&r);
        const uint8_t *data = ha_get_blob(&r, r.size, &size);
        ha_assert(data && !r.failed);
        rc = db_put_entry(db, index, data, size, err);
    }
    if (op->has_promise)
        db->promised = op->promised;
    if (op->has_log_view)
        db->log_view = op->log_view;
    if (rc == 0 && (op->has_promise || op->has_log_view))
        rc = db_put_promise(db, err);
    return rc;
}

static int carry_out_snapshot(struct db *db, const struct op *op, struct ha_err *err)
{
    const struct db_snapshot snapshot = {.index = op->index,
                                         .digest = op->digest,
                                         .view = op->view,
                                         .voters = op->voters,
                                         .data = op->bytes,
                                         .size = op->size};

    if (op->type == OP_SNAPSHOT && op->index > db->last_index)
        return ha_err_set(err, HA_E_CORRUPT, "a snapshot ahead of the log's last entry");
    int rc = db_put_snapshot(db, &snapshot, err);
    if (rc < 0)
        return rc;
    return op->type == OP_INSTALL ? db_forget_entries(db, op->index, err)
                                  : db_cut_head(db, op->keep_from, err);
}

static int carry_out_history(struct store *store, const struct op *op, struct ha_err *err)
{
    uint64_t from = op->wall_ms > HISTORY_AGE_MS ? op->wall_ms - HISTORY_AGE_MS : 0;
    int rc = db_put_history(&store->db, op->index, op->wall_ms, (const char *)op->bytes, err);

    if (rc == 0 && ++store->pending_history >= HISTORY_CUT_EVERY) {
        store->pending_history = 0;
        rc = db_cut_history(&store->db, CACHE_HISTORY_LINES, from, err);
    }
    return rc;
}

static int carry_out(struct store *store, const struct op *op, struct ha_err *err)
{
    switch (op->type) {
    case OP_WRITE:
        return carry_out_write(&store->db, op, err);
    case OP_SNAPSHOT:
    case OP_INSTALL:
        return carry_out_snapshot(&store->db, op, err);
    case OP_DEFINITION:
        return db_put_definition(&store->db, op->definition->digest, op->definition->data,
                                 op->definition->size, err);
    case OP_KEEP:
        return db_keep_definitions(&store->db, (const struct ha_digest *)(const void *)op->bytes,
                                   op->size / sizeof(struct ha_digest), err);
    case OP_HISTORY:
        return carry_out_history(store, op, err);
    }
    return 0;
}

static int transact(struct store *store, const struct op *batch, struct ha_err *err)
{
    int rc = db_begin(&store->db, err);

    for (const struct op *op = batch; rc == 0 && op; op = op->next)
        rc = carry_out(store, op, err);
    if (rc == 0)
        rc = db_commit(&store->db, err);
    if (rc < 0)
        db_rollback(&store->db);
    return rc;
}

/* Takes what waits, up to the bounds of a batch. The mutex is held. */
static struct op *take_batch(struct store *store)
{
    struct op *batch = store->first;
    struct op *last = batch;
    size_t bytes = batch->size;

    for (uint32_t count = 1;
         last->next && count < BATCH_OPS_MAX && bytes + last->next->size <= BATCH_BYTES_MAX;
         count++) {
        last = last->next;
        bytes += last->size;
        store->op_count--;
    }
    store->op_count--;
    store->op_bytes -= bytes;
    store->first = last->next;
    if (!store->first)
        store->tail = &store->first;
    last->next = NULL;
    store->batch_ms = batch->queued_ms;
    return batch;
}

/* Completes a batch in order and frees it. The mutex is held. */
static void complete(struct store *store, struct op *batch)
{
    bool has_done = false;

    while (batch) {
        struct op *op = batch;
        batch = op->next;
        if (op->has_token) {
            struct done *done = calloc(1, sizeof(*done));
            ha_assert(done); /* a completion can't be lost; 300 bytes */
            done->value.token = op->token;
            done->value.is_ok = !store->is_failed;
            if (store->is_failed)
                done->value.err = store->failure;
            *store->done_tail = done;
            store->done_tail = &done->next;
            has_done = true;
        }
        store_free_op(op);
    }
    store->batch_ms = 0;
    if (has_done)
        (void)eventfd_write(store->fd, 1);
}

static bool has_failed(struct store *store)
{
    pthread_mutex_lock(&store->mutex);
    bool is_failed = store->is_failed;
    pthread_mutex_unlock(&store->mutex);
    return is_failed;
}

static void work(struct store *store, struct op *batch)
{
    struct ha_err err = {0};
    int rc = 0;

    pthread_mutex_lock(&store->db_mutex);
    if (!has_failed(store))
        rc = transact(store, batch, &err);
    pthread_mutex_unlock(&store->db_mutex);
    pthread_mutex_lock(&store->mutex);
    if (rc < 0)
        store_fail(store, &err);
    complete(store, batch);
    pthread_mutex_unlock(&store->mutex);
}

static void maybe_checkpoint(struct store *store, bool is_idle)
{
    struct ha_err err = {0};

    if (store->db.wal_pages < (is_idle ? WAL_PAGES_IDLE : WAL_PAGES_MAX) || has_failed(store))
        return;
    pthread_mutex_lock(&store->db_mutex);
    int rc = db_checkpoint(&store->db, false, &err);
    pthread_mutex_unlock(&store->db_mutex);
    pthread_mutex_lock(&store->mutex);
    if (rc < 0)
        store_fail(store, &err);
    pthread_mutex_unlock(&store->mutex);
}

static void *thread_main(void *data)
{
    struct store *store = data;

    pthread_mutex_lock(&store->mutex);
    while (store->first || !store->is_closing) {
        if (!store->first) {
            pthread_cond_wait(&store->wake, &store->mutex);
            continue;
        }
        struct op *batch = take_batch(store);
        pthread_mutex_unlock(&store->mutex);
        work(store, batch);
        pthread_mutex_lock(&store->mutex);
        bool is_idle = !store->first;
        pthread_mutex_unlock(&store->mutex);
        maybe_checkpoint(store, is_idle);
        pthread_mutex_lock(&store->mutex);
    }
    /* Its reference goes in one step with the word that it ended: who waited for that word frees.
     */
    store->has_ended = true;
    bool is_last = --store->references == 0;
    pthread_cond_signal(&store->ended);
    pthread_mutex_unlock(&store->mutex);
    if (is_last)
        store_free(store);
    return NULL;
}

/* Detached, with every signal blocked: they are the loop's. */
int store_start_writer(struct store *store)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all;
    sigset_t old;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    store->references = 2;
    int r = pthread_create(&thread, &attributes, thread_main, store);
    if (r != 0)
        store->references = 1;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return r;
}
