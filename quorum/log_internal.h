/* SPDX-License-Identifier: Apache-2.0
 *
 * The log's own structures, shared by its files:
 *
 *     log.c          memory, loading, step dispatch, deadline, queries
 *     log_ring.c     entries in memory; the stage where an adopted log is gathered
 *     log_out.c      actions and messages going out
 *     log_peers.c    who is there, what each last said; heartbeats
 *     log_view.c     a member's side of a view: promise, adopt, open, close
 *     log_lead.c     the leader's side: promises, the log to adopt, OPEN
 *     log_elect.c    when a view is wanted, who starts it, whom it names
 *     log_entries.c  entries, gaps, acknowledgement, commit, persisting
 *     log_propose.c  proposals from their making to their fate
 *     lease.c        leases, ages, evidence, and the arithmetic of their times
 *
 * Rule of the house: what goes out is decided from memory that is durable or harmless when lost.
 */
#ifndef QUORUM_LOG_INTERNAL_H
#define QUORUM_LOG_INTERNAL_H

#include "hamgr/base/assert.h"
#include "hamgr/base/rng.h"
#include "quorum/log.h"
#include "quorum/msg.h"

#define LOG_BATCH               64u  /* a node at most this far behind is taken into a view */
#define LOG_PENDING_MAX         256u /* own proposals under way */
#define LOG_STARTS              128u /* own heartbeats remembered: more than L / h */
#define LOG_OLD_NONCES          4u
#define LOG_REFUSED_MAX         8u
#define LOG_CHUNK               32768u /* bytes of entries per message, one entry at least */
#define LOG_OUT_SIZE            (8u * LOG_MSG_MAX)
#define LOG_ENTRIES_PER_MESSAGE 512u
#define LOG_TRACE_MAX           96u /* actions of a step after which no more TRACE lines are made... */
#define LOG_SENDS_MAX           160u /* ...and no more messages */
#define LOG_DROPS               5u

/* The voters some prefix of the log names, ascending by node. */
struct log_voters {
    uint32_t count;
    struct {
        uint32_t node;
        struct ha_uuid store_id;
    } list[HA_NODES_MAX];
    struct ha_digest digest; /* of the set */
};

struct log_cell {
    struct log_entry entry;
    uint64_t offset; /* of its body in the endless row of bytes */
};

/* Entries first..last in memory, bodies in a ring of bytes. Entries up to `base` are covered by a
 * durable snapshot and make room when it is needed; later ones stay.
 *
 * The stage holds the part of a log to be adopted that this one lacks (from stage_first on), while
 * the own tail is still what counts; log_ring_merge puts it in the tail's place. */
struct log_ring {
    struct log_cell *cells, *stage;
    uint32_t capacity;
    uint8_t *bytes;
    uint64_t byte_capacity; /* twice byte_limit: a tail and what replaces it both find room */
    uint64_t byte_limit;    /* of entries above base */
    uint64_t head;          /* offset of the next body */
    uint64_t first, last;
    struct ha_digest before_digest; /* of entry first - 1 */
    struct log_view before_view;
    uint64_t base;
    bool may_drop_committed; /* the store failed: entries up to `dropable` make room too */
    uint64_t dropable;
    bool is_staging;
    uint64_t stage_first, stage_last, stage_head;
};

/* What a log says about itself when read from base to end (with the stage in place, if wished). */
struct log_survey {
    struct log_voters voters;
    uint64_t voter_index;        /* last VOTER entry, 0 none in memory */
    uint64_t open_index;         /* last OPEN entry, 0 none in memory */
    struct log_view open_view;   /* of the last OPEN, in memory or not */
    struct log_names open_names; /* whom it names; none when not known */
    uint16_t proto;              /* highest protocol any view used */
};

struct log_peer {
    uint32_t node;
    bool is_present;
    bool is_heard; /* a heartbeat since it appeared */
    uint64_t present_ms, heard_ms;
    uint64_t nonce, nonce_ms; /* and when it last spoke */
    uint64_t old_nonces[LOG_OLD_NONCES];
    uint32_t old_next;
    struct log_heartbeat hb; /* newest, without its acks; n = 0: none of this nonce */
    struct log_view promised;
    uint64_t hb_ms; /* when hb was delivered */
    /* Leases. */
    uint64_t ack_ms;  /* delivery of the newest heartbeat of it we ever acknowledged; 0 never */
    uint64_t acked_n; /* newest own heartbeat it acknowledged... */
    struct ha_digest acked_voters; /* ...while its log named these voters... */
    struct log_view acked_opened;  /* ...and the last OPEN in it was this view's and named us */
    /* The newest log position it acknowledged, and as whom. */
    uint64_t log_nonce;
    struct ha_uuid log_store;
    struct log_view log_view;
    uint64_t log_index;
    bool is_off_chain; /* its digest differed in the view of off_chain_view */
    struct log_view off_chain_view;
    bool is_rolled_back;
    struct ha_uuid rolled_back_store;
    uint64_t suspect_nonce, suspect_ms; /* this process may be one that lost entries */
    /* As leader. */
    uint64_t numbered_seq; /* its proposals up to here are numbered or refused in this view */
    uint64_t refused[LOG_REFUSED_MAX];
    uint32_t refused_next;
    uint64_t snapshot_ms, refuse_ms, adopt_ms;
};

/* The view last promised: its list never changes. */
struct log_current {
    struct log_view view;
    uint64_t leader_nonce;
    struct log_names names;
    uint64_t since_ms;
    uint64_t open_index; /* of its OPEN, 0 unknown yet */
    uint64_t opened_ms;
    bool is_promise_sent; /* durable one */
    bool is_promise_told; /* at least the one in memory only */
};

struct log_promised {
    bool has;
    uint64_t received_ms;
    struct log_promise p;
};

enum log_lead {
    LOG_LEAD_NONE = 0,
    LOG_LEAD_PREPARING,
    LOG_LEAD_FETCHING,
    LOG_LEAD_ADOPTING,
    LOG_LEAD_OPEN
};

struct log_leading {
    uint8_t state;                              /* enum log_lead */
    uint64_t since_ms;                          /* of the state */
    uint64_t resend_ms;                         /* next time to say PREPARE or NEED again */
    uint32_t winner;                            /* FETCHING: node whose log is adopted */
    uint64_t fetched_ms;                        /* last progress of FETCHING */
    struct log_promised promises[HA_NODES_MAX]; /* parallel to current.names */
    uint64_t sent;                              /* entries up to here were sent */
};

/* One write under way at a time; what came up meanwhile goes into the next one. */
struct log_writing {
    uint64_t token; /* 0 = none under way */
    uint64_t token_high;
    uint64_t started_ms;
    struct log_view promised, log_view; /* durable when it is done */
    uint64_t last;
    uint64_t truncate_from; /* of the next write */
    bool is_failed;
};

struct log_lease {
    uint64_t n;      /* newest own heartbeat */
    uint64_t newest; /* the one the lease runs from; 0 none */
    uint64_t starts[LOG_STARTS];
    uint64_t n_min;  /* heartbeats below do not count */
    uint64_t end_ms; /* 0 none */
    bool is_void;    /* none until an OPEN names us */
};

struct log_pending {
    uint64_t seq;
    uint8_t kind;
    bool is_done, is_sent, is_told;
    bool is_unknown; /* done: nobody here can know whether it is committed */
    uint64_t index;  /* in the log, 0 not yet */
    uint64_t offset; /* of its body */
    uint32_t body_size;
    struct log_view view;
};

/* Own proposals, oldest first: a ring of slots, bodies in a ring of bytes. */
struct log_pendings {
    uint64_t low, high; /* slots low..high-1, modulo LOG_PENDING_MAX */
    struct log_pending list[LOG_PENDING_MAX];
    uint8_t *bytes;
    uint64_t byte_capacity, head;
    uint64_t sent_ms, seq_high;
};

struct log {
    struct log_config config;
    struct log_ring ring;
    struct log_survey survey;      /* of the log as it is in memory */
    struct log_survey base_survey; /* of the log up to ring.base */
    uint64_t voters_ms;            /* since when these voters are known here */

    struct log_view promised, log_view;                 /* in memory */
    struct log_view durable_promised, durable_log_view; /* in the store */
    uint64_t durable_last;         /* the store holds our entries up to here... */
    uint64_t stored_last;          /* ...and up to here, if what is to be replaced counts */
    uint64_t commit, commit_known; /* told; known to be committed */
    struct log_writing writing;

    bool is_connected, is_stopped, is_installing, is_stage_ready, needs_snapshot;
    bool is_standing_back; /* another is to lead, where one can */
    uint8_t phase;         /* enum log_phase */
    struct log_current current;
    struct log_leading lead;
    struct log_outdated outdated; /* who was last left out for its protocol... */
    uint64_t outdated_ms;         /* ...and when; 0 nobody yet */
    struct log_lease lease;
    struct log_pendings pending;
    uint32_t peer_count; /* slots ever used */
    struct log_peer peers[HA_NODES_MAX];
    struct log_peer *self;
    uint64_t counter_high; /* highest view counter heard of */

    uint64_t now_ms, wall_ms, started_ms;
    uint64_t went_on_ms;     /* log_went_on_ms */
    uint64_t forgotten_ms;   /* newest ack_ms of peers whose slot was reused */
    uint64_t heartbeat_ms;   /* next one */
    uint64_t heard_floor_ms; /* no named peer that is heard, and not for L/2 silent already, was
                                last heard before this; looked up anew with each heartbeat */
    uint64_t need_ms;        /* last NEED sent */
    uint64_t wanted_ms;      /* since when a view is wanted that another should start; 0 = none */
    uint64_t attempt_ms;     /* no new view before this */
    uint32_t attempts;       /* views started in vain */
    uint64_t yield_ms;       /* the lead is not given away before this */
    uint64_t drop_ms[LOG_DROPS];
    struct ha_rng rng;

    struct log_actions *out;
    struct ha_writer writer; /* of this step's messages */
};

/* ---- log_out.c */
struct log_action *log_act(struct log *log, uint8_t type);
void log_trace(struct log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_stop(struct log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Starts a message of type in view; body fields are the caller's. */
struct log_msg log_msg_of(const struct log *log, uint8_t type, struct log_view view);
/* Sends msg; with no room left in this step it is lost, as on any network. */
void log_send(struct log *log, const struct log_msg *msg);
/* Sends entries from..(at most)to that fit one message; returns the last one sent, from - 1 if
 * none. */
uint64_t log_send_entries(struct log *log, const struct log_msg *msg, uint64_t from, uint64_t to);
/* True once per h and reason: a flood of bad messages is not a flood of lines. */
bool log_may_trace_drop(struct log *log, unsigned reason);

/* ---- log_ring.c */
void log_ring_init(struct log_ring *r, uint64_t base, struct ha_digest digest,
                   struct log_view view);
const struct log_entry *log_ring_at(const struct log_ring *r, uint64_t index);
/* The log as it would be with the stage merged. */
const struct log_entry *log_ring_staged(const struct log_ring *r, uint64_t index);
/* Digest and view of entry index; false when not known. Index 0 is the empty log. */
bool log_ring_digest(const struct log_ring *r, uint64_t index, struct ha_digest *ret);
bool log_ring_view(const struct log_ring *r, uint64_t index, struct log_view *ret);
/* Room for a proposal of size bytes, with some left for the OPENs of views that follow: a log that
 * is full of uncommitted entries could not open the view that commits them. */
bool log_ring_has_room(const struct log_ring *r, uint32_t size);
/* Appends a copy. False when there is no room. */
bool log_ring_append(struct log_ring *r, const struct log_entry *entry);
void log_ring_stage(struct log_ring *r, uint64_t first);
bool log_ring_stage_append(struct log_ring *r, const struct log_entry *entry);
void log_ring_unstage(struct log_ring *r);
void log_ring_merge(struct log_ring *r);
/* The newest runs of the log, or of the stage's log. */
void log_ring_runs(const struct log_ring *r, bool is_staged, struct log_runs *ret);
/* Last index at which a log with these runs and this commit index surely equals ours. */
uint64_t log_ring_common(const struct log_ring *r, const struct log_runs *runs, uint64_t commit);
void log_voters_set_digest(struct log_voters *voters);
void log_voters_add(struct log_voters *v, uint32_t node, struct ha_uuid store_id);
bool log_voters_has(const struct log_voters *v, uint32_t node, struct ha_uuid store_id);
int log_voters_find(const struct log_voters *v, uint32_t node);
/* True if change changes the set in an allowed way. */
bool log_voters_accept(const struct log_voters *v, const struct log_voter_change *change);
/* The voters before the newest VOTER entry, which must be in memory: one that is not committed is.
 * Walks the log up to it. */
void log_voters_before(const struct log *log, struct log_voters *ret);
void log_survey_entry(struct log_survey *s, const struct log_entry *entry);
/* Surveys base + 1 .. last (of the staged log if is_staged). Walks what is new in the stage; the
 * whole log where the stage replaces entries: once per view only. */
void log_survey_all(const struct log *log, bool is_staged, struct log_survey *ret);

static inline uint32_t log_quorum(const struct log_voters *v)
{
    return v->count / 2 + 1;
}

/* ---- log_peers.c */
struct log_peer *log_peer_find(struct log *log, uint32_t node);
struct log_peer *log_peer_get(struct log *log, uint32_t node);
void log_peers_members(struct log *log, const struct log_event *event);
void log_peers_heartbeat(struct log *log, struct log_peer *peer, const struct log_msg *msg);
/* Notes the sender's process; false when the message is of an older one. */
bool log_peer_is_fresh(struct log *log, struct log_peer *peer, uint64_t nonce);
/* Heard within L/2 (self: connected). */
bool log_peer_is_alive(const struct log *log, const struct log_peer *peer);
/* Nothing says that its store lost entries. */
bool log_peer_is_trusted(const struct log_peer *peer);
/* It is in the list of the view last promised, as this process. */
bool log_peer_is_named(const struct log *log, const struct log_peer *peer);
bool log_peer_is_voter(const struct log *log, const struct log_voters *voters,
                       const struct log_peer *peer);
void log_heartbeat_send(struct log *log);
/* When that named peer was last heard that will be silent for L/2 first; `now` if there is none. */
uint64_t log_heard_oldest_ms(const struct log *log);
void log_peers_after_hang(struct log *log, uint64_t gap_ms);

/* ---- log_view.c */
void log_view_prepare(struct log *log, struct log_peer *peer, const struct log_msg *msg);
/* Enters the view: in memory at once, durable by the next write. */
void log_view_promise(struct log *log, struct log_view view, uint64_t leader_nonce,
                      const struct log_names *names);
/* Leaves whatever view this node is in or on the way to. */
void log_view_leave(struct log *log, const char *why);
/* Sends the promise when it is due. */
void log_view_tell_promise(struct log *log);
/* A chunk of a log to adopt (or fetch). */
void log_view_adopt(struct log *log, const struct log_msg *msg);
/* The stage holds the view's whole log: puts it in place when no write is in the way. */
void log_view_take_stage(struct log *log);
void log_view_opened(struct log *log);
void log_view_fill_promise(struct log *log, struct log_promise *p);
void log_view_timer(struct log *log);
bool log_is_stalled(const struct log *log, uint64_t limit_ms);

/* ---- log_lead.c */
/* Prepares a view of names (self among them). */
void log_lead_start(struct log *log, const struct log_names *names);
void log_lead_on_promise(struct log *log, struct log_peer *peer, const struct log_msg *msg);
void log_lead_own_promise(struct log *log);
/* The log chosen is in the stage. */
void log_lead_fetched(struct log *log);
void log_lead_timer(struct log *log);
void log_lead_refused(struct log *log, const struct log_peer *peer, const struct log_msg *msg);
/* Sends the view's log after `common` to a member (0 = all). */
void log_lead_send_adopt(struct log *log, uint32_t to, uint64_t common);

/* ---- log_elect.c */
/* Starts a view if one is wanted and it is this node's turn. */
void log_lead_decide(struct log *log);
/* A voter that stores, and hears a quorum of voters. */
bool log_can_lead(const struct log *log);
/* Tells the shell, at most once per L, that the peer needs a snapshot. */
void log_lead_want_snapshot(struct log *log, struct log_peer *peer, uint64_t have);

/* ---- log_entries.c */
void log_entries_receive(struct log *log, struct log_peer *peer, const struct log_msg *msg);
void log_entries_need(struct log *log, struct log_peer *peer, const struct log_msg *msg);
void log_entries_ack(struct log *log, struct log_peer *peer, const struct log_msg *msg);
void log_entries_ask(struct log *log, uint32_t to, uint8_t mode);
void log_note_ack(struct log *log, struct log_peer *peer, struct log_view view, uint64_t index);
void log_commit_to(struct log *log, uint64_t index);
/* Tells the shell what is committed by now; true if that was anything. */
bool log_commit_advance(struct log *log);
void log_commit_count(struct log *log);
void log_entries_flush(struct log *log);
void log_persist_pump(struct log *log);
void log_persisted(struct log *log, uint64_t token, bool is_ok);
/* ---- log.c */
bool log_snapshot_is_newer(const struct log *log, uint64_t index, struct log_view view);

/* ---- log_entries.c, further */
void log_snapshot_installed(struct log *log, const struct log_event *event);
/* Takes a new last entry into the survey. */
void log_appended(struct log *log, const struct log_entry *entry);
void log_set_survey(struct log *log, const struct log_survey *survey);

/* ---- log_propose.c */
void log_propose_local(struct log *log, const struct log_event *event);
void log_propose_receive(struct log *log, struct log_peer *peer, const struct log_msg *msg);
void log_propose_refused(struct log *log, uint64_t seq);
void log_propose_pump(struct log *log);
void log_propose_seen(struct log *log, const struct log_entry *entry);
void log_propose_committed(struct log *log, uint64_t first, uint64_t last);
/* The view opened: what is not committed by now was lost with an older view. */
void log_propose_settle(struct log *log);
/* A snapshot at index, whose last OPEN is of view, took the place of the log. */
void log_propose_snapshot(struct log *log, uint64_t index, struct log_view view);

/* ---- lease.c */
/* View of the last OPEN in this log; {0, 0} while it is not durable. */
struct log_view log_lease_opened_view(const struct log *log);
/* That OPEN names this process. */
bool log_lease_is_opened(const struct log *log, uint32_t node, uint64_t nonce);
void log_lease_heard(struct log *log, struct log_peer *peer, const struct log_heartbeat *hb);
void log_lease_count(struct log *log);
void log_lease_expire(struct log *log);
void log_lease_opened(struct log *log);
void log_lease_ages(const struct log *log, struct log_promise *p);

#endif
