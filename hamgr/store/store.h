/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's durable store: the log's promise, log view and entries, the snapshot, definitions and
 * history, in SQLite (WAL, synchronous=FULL) on a thread of its own. Nothing here blocks the loop:
 * requests are queued, completions are read from an eventfd in request order.
 *
 * A store is made once, by `hactl cluster init` or `add-node`; opening never makes one. Damage
 * (failed integrity check, broken chain, torn file) is reported and the store set aside by name,
 * never silently emptied: the node then counts nowhere until it is added again.
 */
#ifndef HAMGR_STORE_STORE_H
#define HAMGR_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hamgr/base/err.h"
#include "hamgr/base/id.h"
#include "quorum/entry.h"
#include "quorum/log.h"

struct store;

struct store_identity {
    struct ha_uuid cluster_id;
    uint64_t generation;
    struct ha_uuid store_id; /* random, made with the store */
    uint32_t node;
};

/* Makes a new store in dir holding identity and nothing else; -HA_E_EXISTS if one is there. */
int store_create(const char *dir, const struct store_identity *identity, struct ha_err *err);
/* The same with the log's first entries (1, 2, ... of view {0, 0}): how a cluster begins, with INIT
 * and the first VOTER. The dir is made private; it and the files belong to the caller's user. */
int store_create_log(const char *dir, const struct store_identity *identity,
                     const struct log_entry *entries, uint32_t count, struct ha_err *err);
/* store_create_log with one entry. */
int store_create_first(const char *dir, const struct store_identity *identity,
                       const struct log_entry *first, struct ha_err *err);
/* Gives dir and the store's files to the user that hamgrd runs as (for root, after creation). */
int store_give(const char *dir, uid_t uid, gid_t gid, struct ha_err *err);
/* Opens and checks it, starts the thread. -HA_E_NOT_FOUND, -HA_E_CORRUPT, -EBUSY (another hamgrd
 * holds it) or another negative error. */
int store_open(const char *dir, struct store **ret_store, struct store_identity *ret_identity,
               struct ha_err *err);
/* Finishes queued writes (bounded by timeout_ms) and closes. NULL is allowed. */
void store_close(struct store *store, uint32_t timeout_ms);

/* Reading, before the loop runs (synchronous). now_ms is the present CLOCK_MONOTONIC_RAW. */
int store_load(struct store *store, struct log_loaded *ret_loaded, struct ha_err *err);
/* Calls fn for each stored entry after the snapshot, in order; stops at its first error. */
int store_each_entry(struct store *store, int (*fn)(void *user, const struct log_entry *entry),
                     void *user, struct ha_err *err);
/* The snapshot's bytes (malloc'd, caller frees; NULL and 0 when there is none). */
int store_snapshot(struct store *store, uint8_t **ret_data, size_t *ret_size, struct ha_err *err);

/* A queued write completes as {token, ok}. */
struct store_done {
    uint64_t token;
    bool is_ok;
    struct ha_err err;
};

struct store_write {
    uint64_t token;
    bool has_promise;
    struct log_view promised;
    bool has_log_view;
    struct log_view log_view;
    uint64_t truncate_from;          /* 0 = none */
    const struct log_entry *entries; /* copied by the call */
    uint32_t entry_count;
};

/* Queues one transaction. Returns 0 or -HA_E_LIMIT when the queue is full (the store stalls); what
 * was accepted completes exactly once. After one failed transaction nothing is written any more:
 * all later ones complete with is_ok = false until the store is opened anew. Entries must follow
 * what is stored (or truncate_from); a gap fails. */
int store_write(struct store *store, const struct store_write *write);
/* Queues: snapshot (copied) at index replaces the older one; entries <= keep_from are deleted. */
int store_put_snapshot(struct store *store, uint64_t token, uint64_t index, struct ha_digest digest,
                       struct log_view view, const uint8_t *data, size_t size,
                       const struct log_loaded *voters, uint64_t keep_from);
/* Queues: a received snapshot replaces the whole log. The promise and the log view stay. */
int store_install(struct store *store, uint64_t token, uint64_t index, struct ha_digest digest,
                  struct log_view view, const uint8_t *data, size_t size,
                  const struct log_loaded *voters);
/* Definitions by digest. Put is queued without completion (entries hold them until snapshotted);
 * get is synchronous from a memory cache filled at open. Borrowed until store_close. */
void store_put_definition(struct store *store, struct ha_digest digest, const uint8_t *data,
                          size_t size);
const uint8_t *store_definition(struct store *store, struct ha_digest digest, size_t *ret_size);
/* Queues: the disk forgets definitions not listed (those of no guest and no entry after the
 * snapshot); the memory keeps them until store_close. */
void store_keep_definitions(struct store *store, const struct ha_digest *digests, uint32_t count);
/* One line of history as JSON text, kept by count and age. Queued without completion. */
void store_history(struct store *store, uint64_t index, uint64_t wall_ms, const char *json);
/* The highest index with a line; 0 none. Lines of entries up to it are not to be made again when a
 * new process applies them anew. */
uint64_t store_history_newest(const struct store *store);
/* The newest history lines with index > after, oldest first, at most count; calls fn with each.
 * From a memory ring: does not touch the disk. Returns how many were given. */
int store_history_read(struct store *store, uint64_t after, uint32_t count,
                       void (*fn)(void *user, uint64_t index, const char *json), void *user);

/* Readable when completions wait. */
int store_fd(const struct store *store);
/* Takes one completion; false when none waits. */
bool store_take(struct store *store, struct store_done *ret_done);
/* Age in ms of the oldest write not yet durable; 0 = idle. For stall alarms. */
uint64_t store_stall_ms(struct store *store);

#endif
