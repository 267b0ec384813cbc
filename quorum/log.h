/* SPDX-License-Identifier: Apache-2.0
 *
 * The replicated log: views, numbering, acknowledgement, commit, voters, leases and their ages.
 * One pure step function: an event in, actions out. corosync (or the simulator) only carries the
 * messages; no proof leans on its order or its configuration changes. After Viewstamped
 * Replication (Liskov, Cowling 2012), with durable acknowledgements; design section 3 and 4.
 *
 * It does not know what state entries mean, keeps no file, reads no clock: times are the shell's
 * CLOCK_MONOTONIC_RAW in milliseconds. Memory is the caller's.
 */
#ifndef QUORUM_LOG_H
#define QUORUM_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quorum/entry.h"

/* What hamgrds of one view must have in common: entries are read and applied alike by all of them.
 * 2: MOVED, and on_slow in MIGRATE. Who speaks 1 only would stop at the first of them. */
#define LOG_PROTO_MIN 2u
#define LOG_PROTO_MAX 2u

/* Of a process that stood still so long nothing it reads is believed to be new (log_went_on_ms): as
 * long as an order to fence stands without another word (fence/order.c), 2 s with the default
 * heartbeat. */
#define LOG_HUNG_HEARTBEATS 4u

struct log_timing {
    uint32_t heartbeat_ms; /* h */
    uint32_t lease_ms;     /* L */
    uint32_t keeper_ms;    /* P */
    uint32_t reset_ms;     /* B */
    uint32_t drain_ms;     /* D */
    uint32_t token_ms;     /* corosync's token in effect */
    uint32_t consensus_ms; /* corosync's consensus in effect */
    uint32_t rho_ppm;      /* clock-rate error, 5000 */
};

/* L < 2 (token + consensus) + 3h is refused (design section 4). */
uint32_t log_lease_min_ms(const struct log_timing *t);
/* H = 2 (token + consensus) + 3h: how long fencing waits after a reunion. */
uint32_t log_hold_ms(const struct log_timing *t);
/* T_wait = (L + P + W)(1 + 2 rho) + B + D, rounded up, for a node armed with lease_ms, watchdog_ms.
 */
uint32_t log_wait_ms(const struct log_timing *t, uint32_t lease_ms, uint32_t watchdog_ms);

enum log_event_type {
    LOG_EV_TIMER = 1, /* log_deadline_ms has passed (early and late ones are harmless) */
    LOG_EV_MEMBERS,   /* the transport's present member list */
    LOG_EV_MESSAGE,   /* bytes from a member */
    LOG_EV_DOWN,      /* the transport is gone: the view is left at once */
    LOG_EV_PERSISTED, /* a PERSIST action completed, or failed */
    LOG_EV_PROPOSE,   /* a local proposal */
    LOG_EV_SNAPSHOT,  /* a received snapshot was stored and the state loaded from it */
};

struct log_event {
    uint64_t now_ms;
    uint64_t wall_ms; /* only stamped into entries */
    uint8_t type;     /* enum log_event_type */
    union {
        struct {
            uint32_t count;
            uint32_t nodes[HA_NODES_MAX]; /* ascending */
        } members;
        struct {
            uint32_t from;       /* as the transport names the sender */
            const uint8_t *data; /* borrowed */
            size_t size;
        } message;
        struct {
            uint64_t token; /* of the action */
            bool is_ok;     /* false: the store failed; this member resigns its vote */
        } persisted;
        struct {
            uint64_t seq;        /* unique and growing per process */
            uint8_t kind;        /* LOG_KIND_VOTER or LOG_KIND_STATE */
            const uint8_t *body; /* borrowed */
            size_t body_size;
        } propose;
        struct {
            uint64_t index;           /* 0: the transfer was given up, the store is as it was */
            struct ha_digest digest;  /* chain digest at index */
            struct log_view log_view; /* view of the entry at index (= the last OPEN before it) */
            uint16_t proto;           /* highest protocol any view up to index used */
            /* voters at index, from the state that was loaded */
            uint32_t voter_count;
            struct {
                uint32_t node;
                struct ha_uuid store_id;
            } voters[HA_NODES_MAX];
        } snapshot;
    } u;
};

enum log_action_type {
    LOG_ACT_SEND = 1,    /* multicast bytes to the group (the sender hears it too) */
    LOG_ACT_PERSIST,     /* one durable transaction; a barrier only through its token */
    LOG_ACT_COMMIT,      /* entries up to index are committed: apply them in order */
    LOG_ACT_VIEW_OPEN,   /* the OPEN of view is committed and ordered before this action */
    LOG_ACT_VIEW_CLOSED, /* this node is in no open view; commits, starts, fences nothing */
    LOG_ACT_LEASE,       /* the lease now ends at end_ms (0: none); never moves back while valid */
    LOG_ACT_PROPOSED,    /* the fate of a local proposal */
    LOG_ACT_SNAPSHOT_SEND, /* member `node` needs a snapshot: start a transfer to it */
    LOG_ACT_STOP,          /* off the committed chain or a corrupt store: stop loudly */
    LOG_ACT_TRACE,         /* observation -> decision, one line for people */
};

struct log_action {
    uint8_t type; /* enum log_action_type */
    union {
        struct {
            const uint8_t *data; /* borrowed until the next log_step */
            size_t size;
            bool is_heartbeat; /* may be dropped when a newer one is queued */
        } send;
        struct {
            uint64_t token;
            bool has_promise; /* store `promised` */
            struct log_view promised;
            bool has_log_view; /* store `log_view` */
            struct log_view log_view;
            uint64_t truncate_from; /* not 0: delete entries >= this index first */
            uint64_t first; /* store entries first..last; 0 = none. log_entry_at gives them, */
            uint64_t last;  /* valid until the PERSISTED event of this token */
        } persist;
        struct {
            uint64_t index;
        } commit;
        struct {
            struct log_view view;
            bool is_leader;
        } view;
        struct {
            uint64_t end_ms;
        } lease;
        struct {
            uint64_t seq;
            uint64_t index;  /* committed there; 0: lost, may be proposed again by a new seq... */
            bool is_unknown; /* ...or, if so, perhaps committed, or going to be: index is 0 */
        } proposed;
        struct {
            uint32_t node;
            uint64_t have; /* its last index */
        } snapshot;
        struct {
            char line[200];
        } text; /* STOP, TRACE */
    } u;
};

#define LOG_ACTIONS_MAX 256u

struct log_actions {
    uint32_t count;
    struct log_action list[LOG_ACTIONS_MAX];
};

struct log_config {
    struct ha_uuid cluster_id;
    uint64_t generation;
    struct log_member self;
    struct log_timing timing;
    uint32_t ring_entries; /* entries kept in memory, e.g. 4096 on a host, 256 simulated */
    size_t ring_bytes;     /* bytes of bodies kept, >= 2 x HA_ENTRY_MAX */
    uint64_t rng_seed;
};

/* What the store held at start. */
struct log_loaded {
    struct log_view promised;
    struct log_view log_view;
    uint64_t base_index; /* entries up to here are in the snapshot; 0 = none */
    struct ha_digest base_digest;
    struct log_view base_view; /* view of the entry at base_index */
    uint16_t proto;            /* highest protocol any view up to base_index used; 0 not known */
    uint32_t voter_count;      /* voters at base_index */
    struct {
        uint32_t node;
        struct ha_uuid store_id;
    } voters[HA_NODES_MAX];
    uint64_t now_ms; /* ages count from here at the latest */
};

struct log;

/* Bytes of memory log_init needs for config; the caller keeps it until it drops the log. */
size_t log_memory_size(const struct log_config *config);
/* Builds a log in memory (aligned to 64). Entries after base_index are given by log_load next. */
struct log *log_init(void *memory, const struct log_config *config,
                     const struct log_loaded *loaded);
/* Feeds the stored entries base_index + 1, ... in order. Returns 0 or -HA_E_CORRUPT (gap, chain).
 */
int log_load(struct log *log, const struct log_entry *entry);

/* Handles one event. Actions are to be carried out in array order. Never fails or blocks. */
void log_step(struct log *log, const struct log_event *event, struct log_actions *ret_actions);
/* When LOG_EV_TIMER is due next (absolute; UINT64_MAX = never). */
uint64_t log_deadline_ms(const struct log *log);

/* Queries. */
bool log_is_open(const struct log *log);
/* A failed PERSIST was reported: this member has resigned its vote until its process restarts. */
bool log_is_store_failed(const struct log *log);
bool log_is_leader(const struct log *log); /* of the open view */
/* A quorum of voters is heard now. A leader that is cut off stays open until its lease ends. */
bool log_hears_quorum(const struct log *log);
/* The same if `node`, which is not this one, fell silent now. */
bool log_hears_quorum_without(const struct log *log, uint32_t node);
/* A quorum is heard of voters that have promised no later view than this node: who could still
 * commit what is decided in it. A leader that was left behind is open until its lease ends and may
 * hear a quorum again, of processes that began anew, too; backed it is not. While a vote that was
 * taken or given is not committed, by the voters with it and by those without. */
bool log_is_backed(const struct log *log);
/* When this process last went on after it had stood still for LOG_HUNG_HEARTBEATS heartbeats or
 * longer, on the clock of events; now_ms if it stood still until now, 0 if it never did. What it
 * reads from then on may be as old as that, until the others have answered something that it sent
 * later: messages wait in one queue. */
uint64_t log_went_on_ms(const struct log *log, uint64_t now_ms);
/* The state does not take this member in (another machine under its node's id, a node that left):
 * it votes, but lets another lead where one can, for it would neither plan nor fence. */
void log_stand_back(struct log *log, bool is_back);
/* Who is left out of views for the protocol it speaks. */
struct log_outdated {
    uint32_t node;    /* this one, or one that its leader hears */
    uint16_t speaks;  /* at most */
    uint16_t cluster; /* the lowest that it would have to */
};
/* False: nobody was within the last 3 L. */
bool log_is_outdated(const struct log *log, struct log_outdated *ret);
/* The open view; while closed, the last one promised. */
struct log_view log_view_now(const struct log *log);
uint64_t log_commit_index(const struct log *log);
uint64_t log_last_index(const struct log *log);
/* First index in memory. Whoever lacks an older one is sent a snapshot at or above this index - 1.
 */
uint64_t log_first_index(const struct log *log);
uint64_t log_lease_end_ms(const struct log *log);
bool log_is_voter(const struct log *log);
uint32_t log_voter_count(const struct log *log);
/* Borrowed until the entry leaves the ring; NULL when not in memory. */
const struct log_entry *log_entry_at(const struct log *log, uint64_t index);
/* Leader of an open view: E of an absent node in ms, a lower bound of the time since its last lease
 * could have begun (0 while unknown). Grows with now_ms. */
uint64_t log_evidence_ms(const struct log *log, uint32_t node, uint64_t now_ms);
/* Time since the present view opened here, ms; 0 when closed. */
uint64_t log_view_age_ms(const struct log *log, uint64_t now_ms);
/* Entries up to index may leave memory (when space is needed) and store: a snapshot of the state at
 * index is durable. Entries above it never leave memory, so a restart finds room for all of them.
 */
void log_trim(struct log *log, uint64_t index, struct log_actions *ret_actions);
/* True when entries not yet covered by a snapshot fill half of the memory: make one now, whatever
 * their number, or the log has to stop taking entries. Ask after each COMMIT and each finished
 * snapshot. */
bool log_snapshot_is_due(const struct log *log);
/* Asks before a received snapshot at index, whose last OPEN is of view, replaces the store. True:
 * do it, then feed LOG_EV_SNAPSHOT (index 0 if nothing was replaced); until then the log takes no
 * entries and promises nothing. False: it has more than that already (or leads), drop the snapshot.
 * Actions (a view may be left for it) come with the next step. */
bool log_snapshot_begin_at(struct log *log, uint64_t index, struct log_view view);
/* The same without knowing the view: false also where own leftovers reach beyond index. */
bool log_snapshot_begin(struct log *log, uint64_t index);

#endif
