/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the store's two halves: store.c, the loop's side that queues and takes completions, and
 * writer.c, the thread that carries out.
 */
#ifndef HAMGR_STORE_STORE_INTERNAL_H
#define HAMGR_STORE_STORE_INTERNAL_H

#include <pthread.h>

#include "hamgr/store/cache.h"
#include "hamgr/store/db.h"
#include "hamgr/store/files.h"

enum op_type { OP_WRITE, OP_SNAPSHOT, OP_INSTALL, OP_DEFINITION, OP_KEEP, OP_HISTORY };

struct op {
    struct op *next;
    enum op_type type;
    bool has_token;
    uint64_t token;
    uint64_t queued_ms;
    size_t size; /* of bytes */
    /* WRITE: entries as [u64 index, blob]; SNAPSHOT, INSTALL: data; HISTORY: text with NUL;
     * KEEP: digests. */
    bool has_promise;
    bool has_log_view;
    struct log_view promised;
    struct log_view log_view;
    uint64_t truncate_from;
    uint64_t index;
    uint64_t keep_from;
    uint64_t wall_ms;
    struct ha_digest digest;
    struct log_view view;
    struct log_loaded *voters;                 /* owned */
    const struct cache_definition *definition; /* DEFINITION: borrowed from the cache */
    _Alignas(8) uint8_t bytes[];
};

struct done {
    struct done *next;
    struct store_done value;
};

struct store {
    pthread_mutex_t mutex;
    pthread_cond_t wake;  /* operations wait, or the store is being closed */
    pthread_cond_t ended; /* the thread has ended */
    int references;       /* the owner's and the thread's: the last one frees */
    int fd;
    bool is_closing;
    bool has_ended;
    bool is_failed;
    struct ha_err failure;
    struct op *first;
    struct op **tail;
    uint32_t op_count; /* queued, not those in the batch under way */
    size_t op_bytes;
    uint64_t batch_ms; /* queued_ms of the first of the batch under way; 0: none */
    struct done *done_first;
    struct done **done_tail;
    uint32_t pending_history;
    pthread_mutex_t db_mutex; /* the thread's, and the opener's before the loop runs */
    struct db db;
    struct files files;
    struct cache cache; /* the loop's thread only, until the store is freed */
};

/* The mutex is held. The first failure stays. */
void store_fail(struct store *store, const struct ha_err *err);
/* Frees everything; for whoever dropped the last reference. */
void store_free(struct store *store);
void store_free_op(struct op *op);
/* Starts the thread; 0 or a positive errno. */
int store_start_writer(struct store *store);

#endif
