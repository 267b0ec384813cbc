/* SPDX-License-Identifier: Apache-2.0
 *
 * A small world for the log: up to five logs, each with a store of its own, a clock of its own and
 * a shell that does what actions say; a network that delays, loses, repeats, reorders and splits.
 * All from one seed, in virtual time. Checkers look at the world from outside and know the truth:
 *
 *     - no index is committed with two contents; nothing is committed twice, or after being
 * reported lost; a reported fate is true
 *     - no view has two OPEN entries
 *     - an effective FENCE of a node is never committed while its lease + W could still be running
 *
 * The shell's own rules: a leader fences who is absent for T_wait, gives new stores a vote,
 * everybody makes snapshots and trims.
 */
#ifndef TESTS_UNIT_QUORUM_CLUSTER_H
#define TESTS_UNIT_QUORUM_CLUSTER_H

#include "hamgr/base/rng.h"
#include "quorum/log_internal.h"

#define WORLD_NODES  5u
#define WORLD_ACTORS (WORLD_NODES + 1) /* nodes are numbered from 1 */

struct world_entry {
    struct log_entry e; /* body malloc'd */
};

/* What survives a crash. */
struct world_store {
    struct ha_uuid id;
    struct log_view promised, log_view;
    uint64_t base;
    struct ha_digest base_digest;
    struct log_view base_view;
    struct log_voters voters;    /* at base */
    uint64_t base_open;          /* last OPEN at or below base */
    struct world_entry *entries; /* base + 1 ... */
    uint32_t count, capacity;
};

enum world_write_kind { WRITE_LOG, WRITE_SNAPSHOT, WRITE_INSTALL };

struct world_write {
    struct world_write *next;
    uint8_t kind;
    uint64_t token;
    bool has_promise, has_log_view;
    struct log_view promised, log_view;
    uint64_t truncate_from;
    struct world_entry *entries;
    uint32_t count;
    /* SNAPSHOT, INSTALL */
    uint64_t index;
    struct ha_digest digest;
    struct log_view view;
    struct log_voters voters;
    uint64_t open;
};

struct world_proposal {
    uint64_t seq;
    bool is_told;
    uint64_t index;
    bool is_certain; /* false: the log does not know its fate */
};

struct world_node {
    uint32_t id;
    bool is_up, is_hung, is_disk_stalled, is_disk_failing;
    uint32_t process; /* counts restarts: events of older ones are dropped */
    uint64_t nonce;
    void *memory;
    struct log *log;
    int64_t offset_us;
    int32_t drift_ppm;
    struct world_store store;
    struct world_write *writes;
    bool is_writing;
    uint32_t group, told; /* partition; member set last told (bit per node) */
    struct log_config config;
    /* The shell's state. */
    uint64_t applied, open_applied; /* last entry, last OPEN applied */
    struct log_voters voters;
    bool is_open, is_stopped;
    bool is_lease_void; /* its lease ended; no VIEW_OPEN since */
    struct log_view open_view;
    uint64_t open_index;     /* of the view it is open in, or was last */
    uint64_t lease_us;       /* true end of its lease + P + W */
    uint64_t lease_end_us;   /* true end of its lease */
    uint64_t snapshot_asked; /* index of the snapshot write under way */
    uint64_t seq;
    struct world_proposal *proposals;
    uint32_t proposal_count, proposal_capacity;
    uint32_t fenced; /* nodes for which FENCE was proposed in this view (bits) */
    uint64_t voter_seq;
    struct world_event *backlog_first, *backlog_last; /* while hung */
    uint32_t opens;                                   /* VIEW_OPEN actions seen */
};

enum world_event_type { EV_MESSAGE, EV_DISK, EV_MEMBERS, EV_SNAPSHOT_ARRIVES, EV_CALL };

struct world_event {
    uint64_t at_us, order;
    struct world_event *next; /* backlog */
    uint8_t type;
    uint32_t node, from, process;
    uint8_t *data;
    size_t size;
    struct world_write *snapshot;
};

/* Ground truth of one committed index. */
struct world_commit {
    bool is_known;
    struct ha_digest digest;
    uint8_t kind;
    uint32_t origin;
    uint64_t nonce, seq;
    uint32_t members; /* OPEN: bits */
    uint32_t fenced;  /* effective FENCE of this node */
};

struct world_link {
    uint32_t delay_us, jitter_us;
    uint32_t loss_ppm, repeat_ppm;
    bool is_cut;
};

struct world {
    uint32_t count;
    struct ha_rng rng;
    uint64_t now_us;
    struct world_node nodes[WORLD_ACTORS];
    struct world_link links[WORLD_ACTORS][WORLD_ACTORS];
    struct world_event **heap;
    uint32_t heap_count, heap_capacity;
    uint64_t order;
    struct log_timing timing;
    uint32_t watchdog_ms;
    uint32_t disk_us, disk_jitter_us;
    uint32_t detect_us; /* until members learn of a change, at most */
    struct world_commit *commits;
    uint64_t commit_count, commit_capacity;
    struct {
        struct log_view view;
        struct ha_digest digest;
    } * opens;
    uint32_t open_count, open_capacity;
    uint64_t nonce_high;
    bool is_verbose;
    bool may_stop;     /* a STOP is not a failure */
    bool has_no_shell; /* no fencing and voter rules: scripted tests do it themselves */
    uint32_t ring_entries;
    uint32_t stops;
    uint64_t messages, steps, fences, views, snapshots, committed, tells,
        unknown; /* of the whole run */
    char failure[400];
    char last_trace[WORLD_ACTORS][200];
    struct log_actions actions;
};

/* A world of `count` nodes, none up yet; nodes 1..voters are voters of the log's first entries. */
struct world *world_new(uint32_t count, uint32_t voters, uint64_t seed);
void world_free(struct world *w);

void world_start(struct world *w, uint32_t node);
void world_start_all(struct world *w);
/* Ends the process; queued writes are kept from the oldest on, `kept` of them. */
void world_crash(struct world *w, uint32_t node, uint32_t kept);
void world_hang(struct world *w, uint32_t node, bool is_hung);
/* Puts each node into a group; nodes of different groups do not hear each other. */
void world_split(struct world *w, const uint32_t *groups);
void world_heal(struct world *w);
/* A new empty store with a new id (the node must be down). */
void world_lose_store(struct world *w, uint32_t node);
/* Tells all members now whom they see, without delay. */
void world_tell_members(struct world *w);

/* Runs until virtual time has passed or a checker failed. */
void world_run_ms(struct world *w, uint64_t ms);
/* Runs until done(w, user) or `ms` have passed; true if done. */
bool world_run_until(struct world *w, uint64_t ms, bool (*done)(struct world *w, void *user),
                     void *user);
/* Feeds one event to a node's log now and carries out its actions. */
void world_step(struct world *w, uint32_t node, struct log_event *event);
/* Proposes a body of `size` bytes; returns its seq. */
uint64_t world_propose(struct world *w, uint32_t node, uint32_t size);
uint64_t world_propose_voter(struct world *w, uint32_t node, uint32_t subject, bool is_added);
uint64_t world_propose_fence(struct world *w, uint32_t node, uint32_t subject);
/* The fate of a proposal: false while unknown. */
bool world_fate(const struct world *w, uint32_t node, uint64_t seq, uint64_t *ret_index);

uint64_t world_local_ms(const struct world_node *n, uint64_t now_us);
void world_fail(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* All nodes that are up are open in one view that names exactly them, all with a lease. */
bool world_is_whole(struct world *w, void *unused);
/* The leader all open nodes of the newest view have, 0 if there is none. */
uint32_t world_leader(const struct world *w);
/* Checks everything that can only be checked at the end. */
void world_check_end(struct world *w);

#endif
