/* SPDX-License-Identifier: Apache-2.0
 *
 * What logs say to each other: one header, then a body. Pure encoding; every decode checks
 * everything, so a handler sees only well-formed messages of its own cluster.
 *
 *     magic u32 | version u16 | type u8 | cluster id 16 | generation u64
 *     | view (counter u64, leader u32) | sender's process nonce u64 | body
 *
 * `view` is the view the message belongs to; in a heartbeat it is the last one its sender promised.
 */
#ifndef QUORUM_MSG_H
#define QUORUM_MSG_H

#include "quorum/entry.h"

#define LOG_MSG_MAGIC   0x31514d48u /* "HMQ1" */
#define LOG_MSG_VERSION 1u
#define LOG_MSG_MAX     (HA_ENTRY_MAX + 4096u) /* bytes of one message: the largest entry fits */
#define LOG_RUNS_MAX    16u
/* No view counter comes near: a damaged one can't exhaust the numbers. */
#define LOG_COUNTER_MAX (UINT64_C(1) << 62)

enum log_msg_type {
    LOG_MSG_HEARTBEAT = 1, /* every h: what the sender is, has and heard */
    LOG_MSG_PREPARE,       /* leader: a view with exactly these members */
    LOG_MSG_PROMISE,       /* member -> leader: promised, and what it has */
    LOG_MSG_ENTRIES,       /* entries in sequence, for one of several purposes */
    LOG_MSG_NEED,          /* please send entries after what I have */
    LOG_MSG_ACK,           /* stored durably up to here, in this view */
    LOG_MSG_PROPOSE,       /* member -> leader: please number these */
    LOG_MSG_REFUSE,        /* leader -> member: no, and why */
    LOG_MSG_TYPE_END,
};

struct log_msg_header {
    uint8_t type; /* enum log_msg_type */
    struct ha_uuid cluster_id;
    uint64_t generation;
    struct log_view view;
    uint64_t nonce;
};

/* A process of a node. */
struct log_name {
    uint32_t node;
    uint64_t nonce;
};

/* The members of a view, ascending by node. */
struct log_names {
    uint32_t count;
    struct log_name list[HA_NODES_MAX];
};

/* Entries numbered in `view` end at `last`. A log's end is told by its newest runs, newest first:
 * two logs with an entry of the same view and index are equal up to it. */
struct log_run {
    struct log_view view;
    uint64_t last;
};

struct log_runs {
    uint32_t count;
    struct log_run list[LOG_RUNS_MAX];
};

#define LOG_FLAG_CAN_LEAD     0x01u /* a voter that stores, and hears a quorum of voters */
#define LOG_FLAG_STORE_FAILED 0x02u /* has resigned its vote */
#define LOG_FLAG_STALLED      0x04u /* its oldest write waits for more than L/2 */
#define LOG_FLAG_SNAPSHOT     0x08u /* what it lacks does not fit its memory */
#define LOG_FLAG_URGENT       0x10u /* has no lease yet: please answer soon */
#define LOG_FLAGS_ALL         0x1fu

enum log_phase {
    LOG_PHASE_IDLE = 0, /* in no view */
    LOG_PHASE_PROMISED, /* promised; the adopted log is not there yet */
    LOG_PHASE_ADOPTED,  /* has the view's log up to its OPEN, which is not committed yet */
    LOG_PHASE_OPEN,
};

struct log_heartbeat {
    uint64_t n;               /* 1, 2, ... of this process */
    struct log_member member; /* its nonce is the header's */
    uint16_t flags;           /* LOG_FLAG_* */
    uint8_t phase;            /* enum log_phase */
    struct log_view log_view; /* durable */
    uint64_t first;           /* first index in memory */
    uint64_t last;            /* last durable index */
    uint64_t end;             /* last index in memory */
    uint64_t commit;
    struct ha_digest commit_digest; /* of entry `commit`: who has the same knows it committed */
    uint64_t acked;                 /* last index acknowledged in the header's view, 0 none */
    struct log_view open;           /* the view it is open in, or {0, 0} */
    struct log_view opened;  /* of the last OPEN in its log, {0, 0} while that is not durable */
    struct ha_digest voters; /* of the voters its log names now */
    uint32_t ack_count;      /* newest heartbeat heard of each member of the header's view */
    struct {
        uint32_t node;
        uint64_t nonce;
        uint64_t n;
        bool is_opened; /* `opened` names that process */
    } acks[HA_NODES_MAX];
};

struct log_promise {
    bool is_durable; /* false: in memory only (the store stalls or failed), counts nowhere */
    bool is_lease_valid;
    struct log_member member;
    struct log_view log_view;
    uint64_t last;           /* durable, as log_view is */
    struct ha_digest digest; /* of entry `last` */
    uint64_t commit;
    struct log_runs runs;
    /* Age in ms of the newest heartbeat it ever acknowledged, per node not named; the others are at
     * least rest_age_ms old (its process is no older, or it forgot them then). */
    uint64_t rest_age_ms;
    uint32_t age_count;
    struct {
        uint32_t node;
        uint64_t age_ms;
    } ages[HA_NODES_MAX];
    /* What it remembers named members to have acknowledged as earlier processes. */
    uint32_t memory_count;
    struct log_memory {
        uint32_t node;
        struct ha_uuid store_id;
        struct log_view view;
        uint64_t index;
    } memory[HA_NODES_MAX];
};

enum log_entries_mode {
    LOG_ENTRIES_VIEW = 1, /* numbered in this view, by its leader */
    LOG_ENTRIES_ADOPT,    /* the log this view adopts, up to its OPEN */
    LOG_ENTRIES_FETCH,    /* to the view's leader: the log it chose to adopt */
    LOG_ENTRIES_CATCH_UP, /* to a node outside the view: committed entries */
    LOG_ENTRIES_MODE_END,
};

struct log_entries {
    uint8_t mode;        /* enum log_entries_mode */
    uint32_t to;         /* 0 = all */
    uint64_t prev_index; /* of the entry before the first one, 0 = none */
    struct ha_digest prev_digest;
    uint64_t commit;      /* sender's */
    uint64_t final_index; /* ADOPT, FETCH: the whole log ends here, else 0 */
    struct ha_digest final_digest;
    uint16_t count;
    const uint8_t *list; /* count encoded entries, borrowed; log_entry_decode reads them */
    size_t list_size;
};

struct log_need {
    uint32_t to;
    uint8_t mode; /* enum log_entries_mode of the answer */
    uint64_t commit;
    struct log_runs runs;
};

struct log_ack {
    uint64_t index;
    struct ha_digest digest;
};

struct log_propose {
    uint64_t prev_seq; /* the sender's proposal before the first one here, 0 = none pending */
    uint16_t count;
    const uint8_t *list; /* borrowed; log_proposal_decode reads them */
    size_t list_size;
};

struct log_proposal {
    uint64_t seq;
    uint8_t kind;
    uint32_t body_size;
    const uint8_t *body; /* borrowed */
};

enum log_refusal {
    LOG_REFUSE_PROPOSAL = 1, /* value = seq */
    LOG_REFUSE_VERSION,      /* value = the lowest proto_max that is allowed */
    LOG_REFUSE_ROLLED_BACK,  /* view, value: what it acknowledged and has no more */
    LOG_REFUSAL_END,
};

struct log_refuse {
    uint32_t to;
    uint64_t to_nonce;
    uint8_t why; /* enum log_refusal */
    uint64_t value;
    struct log_view view;
};

struct log_msg {
    struct log_msg_header header;
    union {
        struct log_heartbeat heartbeat;
        struct log_names prepare;
        struct log_promise promise;
        struct log_entries entries;
        struct log_need need;
        struct log_ack ack;
        struct log_propose propose;
        struct log_refuse refuse;
    } u;
};

/* Writes header and body. For ENTRIES and PROPOSE `list` is copied as it is when it is not NULL;
 * otherwise the caller appends the elements and then sets their number by log_msg_set_count. */
void log_msg_encode(struct ha_writer *w, const struct log_msg *msg);
/* Sets the element count of the ENTRIES or PROPOSE message that starts at w->data + start. */
void log_msg_set_count(struct ha_writer *w, size_t start, uint8_t type, uint16_t count);
/* Returns 0, -HA_E_CORRUPT, or -HA_E_VERSION (another version of this format). Borrows from data.
 */
int log_msg_decode(const uint8_t *data, size_t size, struct log_msg *ret_msg);

void log_proposal_encode(struct ha_writer *w, const struct log_proposal *proposal);
/* Reads one proposal, leaving r after it. Returns 0 or -HA_E_CORRUPT. */
int log_proposal_decode(struct ha_reader *r, struct log_proposal *ret_proposal);

/* Index of node in names, or -1. */
int log_names_find(const struct log_names *names, uint32_t node);

#endif
