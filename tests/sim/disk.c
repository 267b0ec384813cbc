/* SPDX-License-Identifier: Apache-2.0
 *
 * The store on a simulated disk, in place of hamgr/store. Transactions are done in order, each some
 * milliseconds after it was queued; the disk may stall or fail, and a crash loses those under way,
 * from some point on. What is durable outlives process and boot.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/arena.h"
#include "tests/sim/fds.h"
#include "tests/sim/sim.h"

#define ENTRIES_MAX     4096u
#define DEFINITIONS_MAX 64u
#define DONE_MAX        512u

struct definition {
    struct ha_digest digest;
    size_t size;
    uint8_t *bytes;
};

/* Planted, disk-lies: before a transaction that it only says to be durable. */
#define LIES_MAX 64u
#define LIE_NS   (3 * NS_S) /* so long something stays in its cache */
struct lie {
    uint64_t at, last;
    struct log_view promised, log_view;
};

struct sim_disk {
    bool exists, is_failing, is_full;
    uint64_t stall_until;
    struct store_identity identity;
    struct log_loaded loaded; /* promise, log view, base */
    uint32_t entry_count;
    struct log_entry *entries; /* after the base; ENTRIES_MAX, bodies of their own */
    uint8_t *snapshot;
    size_t snapshot_size;
    uint64_t history_newest; /* lines themselves are not kept: nobody asks for them here */
    uint32_t definition_count;
    struct definition definitions[DEFINITIONS_MAX];
    struct sim_arena *arena;
    struct lie lies[LIES_MAX]; /* a ring */
    uint32_t lie_count;
};

/* One transaction. */
struct op {
    struct op *next;
    uint64_t token;
    bool has_promise, has_log_view, is_snapshot, is_install;
    struct log_view promised, log_view;
    uint64_t truncate_from;
    uint32_t entry_count;
    struct log_entry *entries;
    uint64_t index, keep_from;
    struct ha_digest digest;
    struct log_view view;
    struct log_loaded voters;
    uint8_t *data;
    size_t size;
};

struct store {
    struct sim_node *node;
    struct sim_disk *disk;
    struct op *first, **end;
    uint64_t first_at; /* when the first was begun, raw ms */
    bool is_failed;
    struct store_done done[DONE_MAX];
    uint32_t done_first, done_count;
    struct definition cache[DEFINITIONS_MAX]; /* of this process */
    uint32_t cache_count;
};

/* ---- the disk ----------------------------------------------------------------------------------
 */

/* Allocations belong to the disk until from_disk. */
static struct sim_proc *to_disk(struct sim_disk *disk)
{
    sim_arena_use(disk->arena);
    return sim.running;
}

static void *copy(const void *data, size_t size)
{
    uint8_t *bytes = malloc(size + 1);

    ha_assert(bytes);
    if (size > 0)
        memcpy(bytes, data, size);
    return bytes;
}

static void from_disk(struct sim_proc *before)
{
    sim_leave(before);
}

static struct sim_disk *disk_of(struct sim_node *node)
{
    static struct sim_disk disks[SIM_NODES];
    struct sim_disk *disk = &disks[node->id - 1];

    if (!disk->arena)
        disk->arena = sim_arena_new();
    node->disk = disk;
    return disk;
}

static void wipe(struct sim_disk *disk)
{
    struct sim_arena *arena = disk->arena;

    sim_arena_clear(arena);
    *disk = (struct sim_disk){.arena = arena};
}

static void append(struct sim_disk *disk, const struct log_entry *entry)
{
    ha_assert(disk->entry_count < ENTRIES_MAX);
    struct log_entry *e = &disk->entries[disk->entry_count++];
    *e = *entry;
    e->body = copy(entry->body, entry->body_size);
}

static void make(struct sim_node *node, uint64_t number)
{
    struct sim_disk *disk = disk_of(node);

    wipe(disk);
    struct sim_proc *before = to_disk(disk);
    disk->entries = malloc(ENTRIES_MAX * sizeof(disk->entries[0]));
    from_disk(before);
    disk->exists = true;
    disk->identity = (struct store_identity){.cluster_id = sim.cluster_id,
                                             .generation = 1,
                                             .store_id = sim_uuid(3, number),
                                             .node = node->id};
}

void sim_disk_make(struct sim_node *node, const struct log_entry *entries, uint32_t count)
{
    make(node, node->id);
    struct sim_proc *before = to_disk(node->disk);
    for (uint32_t i = 0; i < count; i++)
        append(node->disk, &entries[i]);
    from_disk(before);
}

void sim_disk_empty(struct sim_node *node, uint64_t number)
{
    make(node, number);
}

void sim_disk_lose(struct sim_node *node)
{
    node->disk->exists = false;
}

bool sim_disk_exists(const struct sim_node *node)
{
    return node->disk->exists;
}

/* A store that failed once writes nothing more, whatever becomes of its disk. */
bool sim_disk_takes_entries(const struct sim_node *node)
{
    const struct sim_disk *disk = node->disk;
    const struct store *store = node->d ? node->d->store : NULL;

    return store && !store->is_failed && disk->exists && disk->stall_until <= sim.now &&
           !disk->is_failing && !disk->is_full;
}

bool sim_disk_is(const struct sim_node *node, struct ha_uuid store_id)
{
    return ha_uuid_equal(node->disk->identity.store_id, store_id);
}

bool sim_disk_has_command(const struct sim_node *node, uint8_t cmd_type, uint64_t committed)
{
    const struct sim_disk *disk = node->disk;
    struct ha_cmd cmd;

    for (uint32_t i = 0; i < disk->entry_count; i++) {
        const struct log_entry *e = &disk->entries[i];
        if (e->index > committed && e->kind == LOG_KIND_STATE &&
            ha_cmd_decode(e->body, e->body_size, &cmd) == 0 && cmd.type == cmd_type)
            return true;
    }
    return false;
}

bool sim_disk_has_vote_pending(const struct sim_node *node, uint64_t committed)
{
    const struct sim_disk *disk = node->disk;

    for (uint32_t i = 0; i < disk->entry_count; i++) {
        if (disk->entries[i].index > committed && disk->entries[i].kind == LOG_KIND_VOTER)
            return true;
    }
    return false;
}

bool sim_disk_holds(const struct sim_node *node, uint64_t index, struct ha_digest digest)
{
    const struct sim_disk *disk = node->disk;

    if (disk->loaded.base_index >= index)
        return true; /* in a snapshot */
    for (uint32_t i = disk->entry_count; i > 0; i--) {
        if (disk->entries[i - 1].index == index)
            return ha_digest_equal(disk->entries[i - 1].digest, digest);
    }
    return false;
}

void sim_disk_stall(struct sim_node *node, uint64_t until)
{
    node->disk->stall_until = until;
}

void sim_disk_fail(struct sim_node *node, bool is_failing)
{
    node->disk->is_failing = is_failing;
}

void sim_disk_fill(struct sim_node *node, bool is_full)
{
    node->disk->is_full = is_full;
}

/* ---- transactions ------------------------------------------------------------------------------
 */

static void drop_up_to(struct sim_disk *disk, uint64_t index)
{
    uint32_t drop = 0;

    while (drop < disk->entry_count && disk->entries[drop].index <= index)
        drop++;
    for (uint32_t i = 0; i < drop; i++)
        free((void *)(uintptr_t)disk->entries[i].body);
    memmove(disk->entries, disk->entries + drop,
            (disk->entry_count - drop) * sizeof(disk->entries[0]));
    disk->entry_count -= drop;
}

static void set_snapshot(struct sim_disk *disk, const struct op *op)
{
    free(disk->snapshot);
    disk->snapshot = copy(op->data, op->size);
    disk->snapshot_size = op->size;
    disk->loaded.base_index = op->index;
    disk->loaded.base_digest = op->digest;
    disk->loaded.base_view = op->view;
    disk->loaded.voter_count = op->voters.voter_count;
    memcpy(disk->loaded.voters, op->voters.voters, sizeof(disk->loaded.voters));
}

static uint64_t last_index(const struct sim_disk *disk)
{
    return disk->entry_count ? disk->entries[disk->entry_count - 1].index : disk->loaded.base_index;
}

static bool commit(struct sim_disk *disk, const struct op *op)
{
    if (op->is_install)
        drop_up_to(disk, UINT64_MAX);
    if (op->is_snapshot || op->is_install)
        set_snapshot(disk, op);
    if (op->is_snapshot)
        drop_up_to(disk, op->keep_from < op->index ? op->keep_from : op->index);
    if (op->has_promise)
        disk->loaded.promised = op->promised;
    if (op->has_log_view)
        disk->loaded.log_view = op->log_view;
    while (op->truncate_from && disk->entry_count > 0 &&
           disk->entries[disk->entry_count - 1].index >= op->truncate_from) {
        disk->entry_count--;
        free((void *)(uintptr_t)disk->entries[disk->entry_count].body);
    }
    for (uint32_t i = 0; i < op->entry_count; i++) {
        if (op->entries[i].index != last_index(disk) + 1) {
            /* The store refuses it, and a node with a sound disk resigns its vote. */
            sim_violation("L1", 0, "the log leaves a gap in a store at %llu",
                          (unsigned long long)op->entries[i].index);
            return false;
        }
        append(disk, &op->entries[i]);
    }
    return true;
}

static void free_op(struct op *op)
{
    for (uint32_t i = 0; i < op->entry_count; i++)
        free((void *)(uintptr_t)op->entries[i].body);
    free(op->entries);
    free(op->data);
    free(op);
}

/* A full disk still takes what overwrites something: a promise goes where the last one was. */
static bool needs_space(const struct op *op)
{
    return op->entry_count > 0 || op->is_snapshot || op->is_install;
}

static void lie(struct sim_disk *disk)
{
    disk->lies[disk->lie_count++ % LIES_MAX] = (struct lie){.at = sim.now,
                                                            .last = last_index(disk),
                                                            .promised = disk->loaded.promised,
                                                            .log_view = disk->loaded.log_view};
}

void sim_disk_power_lost(struct sim_node *node)
{
    struct sim_disk *disk = node->disk;
    const struct lie *oldest = NULL;

    for (uint32_t i = 0; i < disk->lie_count && i < LIES_MAX; i++) {
        const struct lie *l = &disk->lies[(disk->lie_count - 1 - i) % LIES_MAX];
        if (l->at + LIE_NS >= sim.now && l->last >= disk->loaded.base_index)
            oldest = l;
    }
    disk->lie_count = 0;
    if (!oldest)
        return;
    sim_trace(node->id, "the disk had lied: its log ends at %llu, not %llu",
              (unsigned long long)oldest->last, (unsigned long long)last_index(disk));
    while (disk->entry_count > 0 && last_index(disk) > oldest->last)
        free((void *)(uintptr_t)disk->entries[--disk->entry_count].body);
    disk->loaded.promised = oldest->promised;
    disk->loaded.log_view = oldest->log_view;
}

static bool do_first(struct store *store)
{
    struct op *op = store->first;
    struct sim_proc *before = to_disk(store->disk);
    if (sim_has_plant("disk-lies"))
        lie(store->disk);
    bool is_ok = !store->is_failed && !store->disk->is_failing &&
                 !(store->disk->is_full && needs_space(op)) && commit(store->disk, op);

    store->first = op->next;
    if (!store->first)
        store->end = &store->first;
    free_op(op);
    from_disk(before);
    return is_ok;
}

static void begin(struct store *store);

static void on_written(void *data, uint64_t arg)
{
    struct store *store = data;

    (void)arg;
    if (store->disk->stall_until > sim.now) {
        sim_at(store->disk->stall_until, sim.running, on_written, store, 0);
        return;
    }
    uint64_t token = store->first->token;
    bool is_ok = do_first(store);
    if (!is_ok)
        store->is_failed = true;
    ha_assert(store->done_count < DONE_MAX);
    struct store_done *done = &store->done[(store->done_first + store->done_count++) % DONE_MAX];
    *done = (struct store_done){.token = token, .is_ok = is_ok};
    if (!is_ok)
        ha_err_set(&done->err, HA_E_UNKNOWN,
                   store->disk->is_full ? "no space left" : "input/output error");
    if (store->first)
        begin(store);
    sim_ready(sim.running, FD_STORE);
}

static void begin(struct store *store)
{
    store->first_at = shell_now_ms();
    sim_after(sim_between(500, 6000) * 1000, sim.running, on_written, store, 0);
}

static struct op *new_op(struct store *store, uint64_t token)
{
    struct op *op = calloc(1, sizeof(*op));
    bool is_idle = !store->first;

    ha_assert(op);
    op->token = token;
    *store->end = op;
    store->end = &op->next;
    if (is_idle)
        begin(store);
    return op;
}

int store_write(struct store *store, const struct store_write *write)
{
    struct sim_proc *self = sim.running;

    to_disk(store->disk);
    struct op *op = new_op(store, write->token);
    op->has_promise = write->has_promise;
    op->promised = write->promised;
    op->has_log_view = write->has_log_view;
    op->log_view = write->log_view;
    op->truncate_from = write->truncate_from;
    op->entry_count = write->entry_count;
    op->entries = malloc((write->entry_count + 1) * sizeof(op->entries[0]));
    for (uint32_t i = 0; i < write->entry_count; i++) {
        op->entries[i] = write->entries[i];
        op->entries[i].body = copy(write->entries[i].body, write->entries[i].body_size);
    }
    from_disk(self);
    return 0;
}

static void put_blob(struct store *store, struct op *op, uint64_t index, struct ha_digest digest,
                     struct log_view view, const uint8_t *data, size_t size,
                     const struct log_loaded *voters)
{
    (void)store;
    op->index = index;
    op->digest = digest;
    op->view = view;
    op->voters = *voters;
    op->data = copy(data, size);
    op->size = size;
}

int store_put_snapshot(struct store *store, uint64_t token, uint64_t index, struct ha_digest digest,
                       struct log_view view, const uint8_t *data, size_t size,
                       const struct log_loaded *voters, uint64_t keep_from)
{
    struct sim_proc *self = sim.running;

    to_disk(store->disk);
    struct op *op = new_op(store, token);
    put_blob(store, op, index, digest, view, data, size, voters);
    op->is_snapshot = true;
    op->keep_from = keep_from;
    from_disk(self);
    return 0;
}

int store_install(struct store *store, uint64_t token, uint64_t index, struct ha_digest digest,
                  struct log_view view, const uint8_t *data, size_t size,
                  const struct log_loaded *voters)
{
    struct sim_proc *self = sim.running;

    to_disk(store->disk);
    struct op *op = new_op(store, token);
    put_blob(store, op, index, digest, view, data, size, voters);
    op->is_install = true;
    from_disk(self);
    return 0;
}

/* The process has gone: of what was queued some first part was done. */
void sim_disk_crash(struct sim_node *node)
{
    struct store *store = node->d ? node->d->store : NULL;
    uint64_t done = sim_below(4);

    while (store && store->first) {
        if (done == 0 || node->disk->stall_until > sim.now || node->disk->is_failing)
            store->is_failed = true; /* taken off the queue, not written */
        done -= done > 0;
        if (!do_first(store))
            store->is_failed = true;
    }
}

/* ---- opening and reading -----------------------------------------------------------------------
 */

static void cache_definition(struct store *store, const struct definition *d)
{
    if (store->cache_count < DEFINITIONS_MAX)
        store->cache[store->cache_count++] = *d;
}

int store_open(const char *dir, struct store **ret_store, struct store_identity *ret_identity,
               struct ha_err *err)
{
    struct sim_node *node = sim.running->node;

    (void)dir;
    if (!node->disk->exists)
        return ha_err_set(err, HA_E_NOT_FOUND, "there is no store");
    struct store *store = calloc(1, sizeof(*store));
    ha_assert(store);
    store->node = node;
    store->disk = node->disk;
    store->end = &store->first;
    for (uint32_t i = 0; i < node->disk->definition_count; i++)
        cache_definition(store, &node->disk->definitions[i]);
    *ret_store = store;
    *ret_identity = node->disk->identity;
    return 0;
}

void store_close(struct store *store, uint32_t timeout_ms)
{
    (void)store;
    (void)timeout_ms;
}

int store_load(struct store *store, struct log_loaded *ret_loaded, struct ha_err *err)
{
    (void)err;
    *ret_loaded = store->disk->loaded;
    return 0;
}

int store_each_entry(struct store *store, int (*fn)(void *user, const struct log_entry *entry),
                     void *user, struct ha_err *err)
{
    for (uint32_t i = 0; i < store->disk->entry_count; i++) {
        if (store->disk->entries[i].index <= store->disk->loaded.base_index)
            continue;
        int rc = fn(user, &store->disk->entries[i]);
        if (rc < 0)
            return ha_err_set(err, rc, "entry %llu",
                              (unsigned long long)store->disk->entries[i].index);
    }
    return 0;
}

int store_snapshot(struct store *store, uint8_t **ret_data, size_t *ret_size, struct ha_err *err)
{
    (void)err;
    *ret_data =
        store->disk->snapshot ? copy(store->disk->snapshot, store->disk->snapshot_size) : NULL;
    *ret_size = store->disk->snapshot_size;
    return 0;
}

const uint8_t *store_definition(struct store *store, struct ha_digest digest, size_t *ret_size)
{
    *ret_size = 0;
    for (uint32_t i = 0; i < store->cache_count; i++) {
        if (!ha_digest_equal(store->cache[i].digest, digest))
            continue;
        *ret_size = store->cache[i].size;
        return store->cache[i].bytes;
    }
    return NULL;
}

/* Its durability is not in question here: the log holds what a snapshot does not. */
void store_put_definition(struct store *store, struct ha_digest digest, const uint8_t *data,
                          size_t size)
{
    struct sim_disk *disk = store->disk;
    struct definition d = {.digest = digest, .size = size};
    size_t known;

    if (store_definition(store, digest, &known) || disk->definition_count == DEFINITIONS_MAX)
        return;
    struct sim_proc *self = sim.running;
    to_disk(disk);
    d.bytes = copy(data, size);
    from_disk(self);
    disk->definitions[disk->definition_count++] = d;
    cache_definition(store, &d);
}

void store_history(struct store *store, uint64_t index, uint64_t wall_ms, const char *json)
{
    (void)wall_ms;
    (void)json;
    store->disk->history_newest = index;
}

uint64_t store_history_newest(const struct store *store)
{
    return store->disk->history_newest;
}

int store_history_read(struct store *store, uint64_t after, uint32_t count,
                       void (*fn)(void *user, uint64_t index, const char *json), void *user)
{
    (void)store;
    (void)after;
    (void)count;
    (void)fn;
    (void)user;
    return 0;
}

int store_fd(const struct store *store)
{
    (void)store;
    return FD_STORE;
}

bool store_take(struct store *store, struct store_done *ret_done)
{
    if (store->done_count == 0)
        return false;
    *ret_done = store->done[store->done_first];
    store->done_first = (store->done_first + 1) % DONE_MAX;
    store->done_count--;
    return true;
}

uint64_t store_stall_ms(struct store *store)
{
    return store->first ? shell_now_ms() - store->first_at : 0;
}

/* What no guest has is not forgotten here: there are few. */
void store_keep_definitions(struct store *store, const struct ha_digest *digests, uint32_t count)
{
    (void)store;
    (void)digests;
    (void)count;
}
