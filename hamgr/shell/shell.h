/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd's shell: translates between the pure parts (log, state, planner, reconciler, fence and
 * move machines) and the world (corosync, store, hamgr-hv, keeper, hamgr-fence, streams, hactl).
 * One loop thread, nothing here blocks. It holds no policy: what to do comes from the pure parts,
 * the shell does it and reports what happened.
 *
 * Flow of one event: a callback updates facts and calls shell_wake(); a job on the loop then runs
 * duties (this node's reconciler) and, on the leader, plan and fencing. Log events are fed at once.
 */
#ifndef HAMGR_SHELL_SHELL_H
#define HAMGR_SHELL_SHELL_H

#include <inttypes.h>
#include <stdio.h>
#include <syslog.h>

#include <qb/qblog.h>
#include <qb/qbloop.h>
#include <qb/qbutil.h>

#include "fence/fence_fsm.h"
#include "hamgr/config/config.h"
#include "hamgr/core/plan.h"
#include "hamgr/core/reason.h"
#include "hamgr/core/reconcile.h"
#include "hamgr/core/runtime.h"
#include "hamgr/doctor/doctor.h"
#include "hamgr/doctor/lookproto.h"
#include "hamgr/hv/precopy.h"
#include "hamgr/ipc/fenceproto.h"
#include "hamgr/ipc/hvproto.h"
#include "hamgr/ipc/keeperproto.h"
#include "hamgr/ipc/streamproto.h"
#include "hamgr/server/api.h"
#include "hamgr/shell/gap.h"
#include "hamgr/shell/link.h"
#include "hamgr/shell/message.h"
#include "hamgr/store/store.h"
#include "migrate/probe.h"
#include "quorum/log.h"
#include "quorum/transport.h"

#define SHELL_SNAPSHOT_EVERY 2048u /* applied entries between snapshots, if not told otherwise */
#define SHELL_RUN_FAILURES   3u    /* RUNs of a guest that fail in a row before it is an alarm */
#define SHELL_COMMITS        63u   /* their median is shown; odd */
#define SHELL_RING_ENTRIES   8192u
#define SHELL_RING_BYTES     (4u * 1024 * 1024)
#define SHELL_MESSAGE_MAX    (128u * 1024) /* bytes of a message between hamgrds */

/* One guest copy this node works on, beside what the reconciler needs to know about it. */
struct local_verb {
    struct ha_local_verb v;
    uint64_t request;      /* id at hamgr-hv, 0 = none */
    uint64_t asked_ms;     /* when */
    uint64_t proposal;     /* seq of the proposal under way, 0 = none */
    bool is_first_run;     /* RUN in flight is the first of this copy */
    uint32_t run_failures; /* RUNs in a row that failed, or after which it still did not run */
    uint64_t ticket;       /* migration that the save and restore flags are about */
};

typedef void (*propose_fn)(void *user, int outcome, uint16_t reason, uint64_t index);

struct proposal;      /* propose.c */
struct move;          /* moves.c */
struct move_note;     /* moverecord.c */
struct forecast_wait; /* forecast.c */
struct shell_probe;   /* probe.c */
struct shell_doctor;  /* doctor.c */
struct shell_things;  /* things.c */
struct transfer;      /* transfer.c */
struct waiting;       /* shell.c */
struct leader;        /* leader.c */

/* How fast migrations to a node were: the cost's numbers are KiB/s. */
struct move_rate {
    uint32_t node; /* 0 = unused */
    struct precopy_cost kib_s;
};

/* The newest forecasts, to be told beside what came true. */
#define SHELL_FORECASTS 16u
#define SHELL_STRANGERS 32u
struct kept_forecast {
    struct ha_uuid guest;
    uint32_t dst;
    uint64_t made_ms; /* 0 = unused */
    uint32_t time_ms;
    uint32_t pause_ms;
    uint64_t bytes;
};

/* Of a guest that stands still to move, beside its memory: suspending, making its devices, the
 * switch. An emulated processor of the lab takes a second for the two device scripts alone. */
#define SHELL_STILL_MS 3000u

/* What a guest's memory was on the wire the last time it moved. */
#define SHELL_RATIOS 64u
struct move_ratio {
    struct ha_uuid guest;
    uint32_t permille; /* bytes of the native stream per byte sent; 0 = unused */
};

struct hamgrd {
    qb_loop_t *loop;
    struct ha_config config;
    const char *stream_binary;
    uint64_t nonce;
    uint64_t
        strangers[SHELL_STRANGERS]; /* nonces of hamgrds of other versions: each is named once */
    uint32_t stranger_count;
    uint64_t started_ms;

    /* log */
    struct store *store;
    struct store_identity identity;
    struct log *log; /* NULL until corosync's timing is known */
    void *log_memory;
    struct log_actions actions;
    bool is_stepping;
    struct waiting *waiting; /* events that came up during a step */
    qb_loop_timer_handle log_timer;
    uint64_t log_timer_ms; /* the deadline it stands for */
    struct transport *transport;
    struct transport_config corosync;
    uint32_t members[HA_NODES_MAX]; /* of the group, as last told */
    uint32_t member_count;
    bool is_stopped;         /* off the committed chain: serves status, acts no more */
    uint32_t snapshot_every; /* 0 = SHELL_SNAPSHOT_EVERY */
    uint32_t ring_entries;   /* of the log in memory; 0 = SHELL_RING_ENTRIES, and never more */
    uint64_t snapshot_index;
    uint64_t snapshot_token; /* not 0: a snapshot write is under way */
    uint64_t snapshot_wait_index;
    uint64_t token_high; /* tokens of writes that are not the log's, counted down from the top */

    /* state */
    struct ha_state state;
    struct ha_runtime rt;
    uint64_t live_from; /* entries up to here were applied before this process was in a view */

    /* proposals */
    uint64_t proposal_seq;
    uint32_t commit_us[SHELL_COMMITS]; /* newest times from made to applied; ring */
    uint32_t commit_count;
    uint32_t commit_median_us;
    struct proposal *proposals;

    /* hypervisor */
    struct link *hv;
    bool is_hv_welcomed;
    struct hvp_welcome hv_welcome;
    bool hello_disarmed, hello_frozen, hello_stale; /* as last told */
    uint64_t hv_request_high;
    struct hv_domain *domains; /* HA_GUESTS_MAX */
    uint32_t domain_count;
    struct hv_domain *listing; /* being received */
    uint32_t listing_count;
    bool is_listing, is_list_stale;
    uint64_t listed_ms; /* when the last listing was asked for */
    qb_loop_timer_handle list_timer;
    uint64_t list_request; /* its id */
    uint64_t list_applied; /* state.applied when the listing under way was asked for */
    uint64_t inventory_applied;
    bool has_inventory;
    struct local_verb *verbs; /* sorted by (guest, epoch) */
    uint32_t verb_count, verb_capacity;
    struct ha_local_verb *verb_view; /* the reconciler's copy */

    /* keeper */
    struct link *keeper;
    struct keeper_status keeper_status;
    bool is_keeper_known;
    uint64_t arm_asked_ms;
    uint32_t keeper_lease_ms; /* L told to this keeper; 0 = not yet */
    uint64_t keeper_request;  /* newest question's id; 0 = none is open */
    uint64_t keeper_request_high;
    uint64_t keeper_asked_applied;              /* state.applied when it was asked */
    uint64_t keeper_seen_applied;               /* ... when the newest answer was asked for */
    uint64_t armed_proposal, capacity_proposal; /* not 0: under way */

    /* fencing */
    struct link *fence_link;
    struct peer_devices own_devices;
    bool is_fence_listed; /* own_devices is what hamgr-fence said, else it is gone */
    struct peer_devices incoming_devices;
    struct fence_fsm *fence;
    struct leader *leader;

    /* operations */
    struct move *moves;
    struct move_note *move_notes; /* moverecord.c */
    struct shell_doctor *doctor;
    struct shell_things *things; /* NULL: not on Xen */
    struct forecast_wait *forecast_waits;
    uint64_t forecast_high;
    uint32_t forecast_count;
    struct kept_forecast forecasts[SHELL_FORECASTS];
    struct move_rate move_rates[HA_NODES_MAX];
    struct move_ratio ratios[SHELL_RATIOS]; /* ring */
    uint32_t ratio_count;
    struct precopy_cost ratio; /* of all guests, thousandths in place of microseconds */
    struct shell_probe *probe; /* NULL: nothing was ever probed */
    /* Of guests that stood still to move: microseconds of pause a MiB, and the smallest of them. */
    struct precopy_cost still_cost;
    uint64_t still_least_mib;
    uint64_t codec_bytes_s; /* what this host compresses, measured at the start; 0: unknown */
    struct precopy_cost setup_cost;  /* MIGRATE applied to connected */
    struct precopy_cost switch_cost; /* from drained to SWITCH applied, as sources measured it */
    struct transfer *transfers;
    struct ha_duties *duties;
    uint32_t foreign_count; /* domains here that hamgr did not make, by the last listing */
    struct ha_plan *plan;
    struct ha_plan_scratch *plan_scratch;
    struct ha_plan_limits limits;

    /* operators */
    struct server *server;
    struct server_api api;
    bool is_shutting_down;
    char alarm[HA_TEXT_MAX];

    /* The loop's absences (shell_turn_*). */
    struct loop_gap gap;
    unsigned turn_depth;
    uint64_t turn_began_ms;
    uint64_t tick_due_ms;
    uint64_t damaged_ms, damaged_count; /* messages that were none: last told, all */

    bool is_woken;
    qb_loop_timer_handle look_timer;   /* next_ms of duties and plan */
    qb_loop_timer_handle second_timer; /* reports, deadlines */
    uint64_t report_sent_ms;
    struct ha_report report_sent;
    uint64_t devices_sent_ms; /* 0: nobody, or not everybody, was told of own_devices */
    bool has_told_devices;    /* the others may know of some */
};

/* shell.c */
uint64_t shell_now_ms(void);
uint64_t shell_wall_ms(void);
/* Around what the loop calls: how long it took counts as a gap of the loop. May be nested. */
void shell_turn_begin(struct hamgrd *d);
void shell_turn_end(struct hamgrd *d);
/* Multicasts to all hamgrds, with a digest behind the message: what was damaged, or is no message
 * of a hamgrd, is dropped before anything looks into it. At most SHELL_MESSAGE_MAX bytes. */
void shell_multicast(struct hamgrd *d, const uint8_t *data, size_t size, bool is_heartbeat);
/* Runs duties and plan soon, once however often it is called before that. */
void shell_wake(struct hamgrd *d);
/* Feeds an event (now_ms and wall_ms are filled in) and carries out the actions. */
void shell_log_event(struct hamgrd *d, struct log_event *event);
/* A migration or transfer began: its repeats and deadlines must be looked at often. */
void shell_tick_soon(struct hamgrd *d);
/* Drops entries up to index from memory, after a snapshot; may emit actions. */
void shell_log_trim(struct hamgrd *d, uint64_t index);
/* Refreshes d->rt from everything. */
void shell_refresh(struct hamgrd *d);
/* Opens everything but the store (already in d). Returns 0 or a negative error. */
int shell_start(struct hamgrd *d, struct ha_err *err);
void shell_stop(struct hamgrd *d);
/* The state holds everything that was committed before this process began. Before that it is what
 * the last snapshot says, and nothing may be taken back by it: the cluster may have been armed and
 * this node may have been counted on since. */
bool shell_is_current(const struct hamgrd *d);
/* Index of node in d->state.nodes, or -1. */
int shell_node_slot(const struct hamgrd *d, uint32_t node);
const char *shell_node_name(const struct hamgrd *d, uint32_t node);

/* apply.c */
void apply_committed(struct hamgrd *d, uint64_t index);
void apply_snapshot_done(struct hamgrd *d, const struct store_done *done);
int apply_load(struct hamgrd *d, struct ha_err *err);
/* The voters the state names, in the form the log and store take. */
void apply_voters(const struct ha_state *state, struct log_loaded *ret_voters);

/* propose.c */
/* Proposes cmd; done (may be NULL) is called exactly once, never from inside. Returns its seq. */
uint64_t propose_cmd(struct hamgrd *d, const struct ha_cmd *cmd, propose_fn done, void *user);
uint64_t propose_voter(struct hamgrd *d, const struct log_voter_change *change, propose_fn done,
                       void *user);
void propose_pump(struct hamgrd *d);
void propose_applied(struct hamgrd *d, const struct log_entry *entry,
                     const struct ha_applied *applied);
/* It is committed nowhere and never will be. */
void propose_lost(struct hamgrd *d, uint64_t seq);
/* Nobody here can know whether it was committed: told so, and never proposed again. */
void propose_unknown(struct hamgrd *d, uint64_t seq);
/* Median time of the newest own proposals from made to applied, in microseconds; 0 = none. */
uint32_t propose_median_us(const struct hamgrd *d);
/* It is committed at index. If it came here inside a snapshot, it will never be seen applied. */
void propose_committed(struct hamgrd *d, uint64_t seq, uint64_t index);

/* peers.c */
void peers_send(struct hamgrd *d, uint8_t type, uint32_t to,
                void (*encode)(struct ha_writer *w, const void *m), const void *m);
void peers_message(struct hamgrd *d, uint32_t from, const uint8_t *data, size_t size);
void peers_report(struct hamgrd *d);

/* transfer.c */
void transfer_begin(struct hamgrd *d, uint32_t node, uint64_t have);
void transfer_chunk(struct hamgrd *d, uint32_t from, const struct peer_chunk *chunk);
void transfer_ack(struct hamgrd *d, uint32_t from, const struct peer_chunk *chunk);
void transfer_tick(struct hamgrd *d);
/* A received snapshot is on its way into the store: one of the state from before it would take its
 * place. */
bool transfer_is_storing(const struct hamgrd *d);
/* True if the completion was a transfer's. */
bool transfer_stored(struct hamgrd *d, const struct store_done *done);

/* hvlink.c */
extern const struct link_callbacks hvlink_callbacks; /* the user is the hamgrd */
void hvlink_open(struct hamgrd *d);
void hvlink_list(struct hamgrd *d);
void hvlink_hello(struct hamgrd *d);
/* Sends a verb for a guest copy. */
void hvlink_verb(struct hamgrd *d, struct local_verb *verb, uint8_t which, uint32_t timeout_ms);
/* The same for a save or restore: its stream, and a ring or -1. Both moved. */
void hvlink_stream_verb(struct hamgrd *d, struct local_verb *verb, uint8_t which, int fd,
                        int ring_fd);
void hvlink_abort(struct hamgrd *d, uint64_t request);
struct local_verb *hvlink_find(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch);
struct local_verb *hvlink_get(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch);
/* Begins a dirty sample of a guest copy; forecast_hv_done follows. Its request, 0: not connected.
 */
uint64_t hvlink_sample(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch, uint32_t sample_ms);
/* Begins a look at the host; what it finds is in memfd (moved) when doctor_hv_done follows. Its
 * request, 0: not connected. */
uint64_t hvlink_look(struct hamgrd *d, const struct look_ask *ask, int memfd);
const struct hv_domain *hvlink_domain(const struct hamgrd *d, struct ha_uuid guest, uint64_t epoch);

/* keeperlink.c */
void keeperlink_open(struct hamgrd *d);
/* Tells the keeper of a lease (raw clock, 0 none), if the state has taken this process in. */
void keeperlink_lease(struct hamgrd *d, uint64_t end_ms);
void keeperlink_check(struct hamgrd *d);

/* duties.c */
void duties_run(struct hamgrd *d);
/* In an open view, and what is there was listed since the OPEN that took this process in (I10). */
bool duties_is_settled(struct hamgrd *d);

/* leader.c */
void leader_open(struct hamgrd *d);
void leader_run(struct hamgrd *d);
/* What a node announced. digest: of the list's bytes, so that the same is not read twice. */
void leader_devices(struct hamgrd *d, uint32_t node, struct ha_digest digest,
                    const struct peer_devices *devices);
bool leader_knows_devices(const struct hamgrd *d, uint32_t node, struct ha_digest digest);
void leader_fence_run(struct hamgrd *d, uint32_t from, const struct peer_fence *request);
void leader_fence_result(struct hamgrd *d, uint32_t from, const struct peer_fence *result);
uint64_t leader_next_ms(const struct hamgrd *d);

/* moves.c */
void moves_begin_out(struct hamgrd *d, const struct ha_guest *guest);
void moves_begin_in(struct hamgrd *d, const struct ha_guest *guest);
/* Ends what this node does for the move of that copy; while its ticket is open, as a failure. */
void moves_cancel(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch, const char *why);
void moves_ready(struct hamgrd *d, uint32_t from, const struct peer_move_ready *ready);
void moves_handover(struct hamgrd *d, uint32_t from, uint64_t ticket);
void moves_peer_progress(struct hamgrd *d, uint32_t from, const struct ha_move_progress *progress);
void moves_hv_progress(struct hamgrd *d, uint64_t request, const struct hv_progress *progress);
/* A save or restore ended at the hypervisor. */
void moves_hv_done(struct hamgrd *d, struct local_verb *verb, uint8_t which,
                   const struct hvp_done *done);
void moves_tick(struct hamgrd *d);
void moves_child(struct hamgrd *d); /* reaps streams */
/* Of the pause: what is to be expected behind a save's end, from what was seen before; until then
 * more for a guest that stands still, whose devices are still to be made. */
uint32_t moves_switch_us(const struct hamgrd *d, bool is_live);
/* An entry was applied: the ends of its ticket take note of the time. */
void moves_applied(struct hamgrd *d, const struct ha_applied *applied);

/* RUN of a copy was carried out. */
void moves_ran(struct hamgrd *d, const struct local_verb *verb);

/* movesock.c */
/* Listens on the first free port of the configured range; fills in port and address. */
int movesock_listen(struct hamgrd *d, struct peer_move_ready *ready, struct ha_err *err);
/* Begins to connect. */
int movesock_connect(const struct peer_move_ready *ready, struct ha_err *err);
/* The native stream's two ends. */
int movesock_pair(int ret_fds[2], struct ha_err *err);

/* moverecord.c */
/* A migration is over: its record is proposed when it is complete. epoch: the arrived copy's. */
void moverecord_add(struct hamgrd *d, struct ha_uuid guest, uint64_t ticket, uint64_t epoch,
                    const struct ha_moved *moved);
/* The source of a migration told its pause: it may be a moment behind the log's news of the end. */
void moverecord_source(struct hamgrd *d, uint64_t ticket, uint32_t from, uint32_t pause_us);
void moverecord_tick(struct hamgrd *d);

/* forecast.c */
/* Asks what a migration would take; done is called once, not from inside. */
void forecast_begin(struct hamgrd *d, const struct peer_forecast *question,
                    void (*done)(void *user, const struct peer_forecast *answer), void *user);
void forecast_asked(struct hamgrd *d, uint32_t from, const struct peer_forecast *ask);
void forecast_told(struct hamgrd *d, const struct peer_forecast *answer);
void forecast_hv_done(struct hamgrd *d, uint64_t request, const struct hvp_done *done);
void forecast_tick(struct hamgrd *d);
/* A source's migration to node moved so many bytes of native stream while the guest ran. */
void forecast_learn(struct hamgrd *d, uint32_t node, uint64_t bytes, uint64_t us,
                    uint64_t setup_us);
/* How long a guest of so much memory may stand still that can't move live: as those before did,
 * else by how fast live migrations from here were, else a guess. */
uint32_t forecast_still_ms(const struct hamgrd *d, uint64_t mem_kib, bool *ret_is_guess);
/* The newest one of the last minutes, or NULL. */
const struct kept_forecast *forecast_of(const struct hamgrd *d, struct ha_uuid guest, uint32_t dst);

/* An entry was applied: what it says of a guest's memory on the wire is kept, and of its pause if
 * it stood still for all of the move. */
void forecast_applied(struct hamgrd *d, const struct ha_applied *applied);

/* probe.c */
struct probe_found {
    uint32_t node;
    uint64_t made_ms;
    bool is_ok;
    struct probe_rate rate;
    uint32_t rtt_us;        /* 0 = not known */
    char text[HA_TEXT_MAX]; /* why it could not be measured */
};
/* The rate of the link to node is wanted: measured, unless it just was. Never blocks; what came of
 * it is in probe_found as soon as probe_is_open says false. */
void probe_want(struct hamgrd *d, uint32_t node);
bool probe_is_open(const struct hamgrd *d, uint32_t node);
/* Of the last few seconds, or NULL. */
const struct probe_found *probe_found(struct hamgrd *d, uint32_t node);
void probe_asked(struct hamgrd *d, uint32_t from, uint64_t id);
void probe_ready(struct hamgrd *d, uint32_t from, const struct peer_probe *probe);
/* Something that needs link and port begins: what is under way ends now. */
void probe_stop(struct hamgrd *d, const char *why);
void probe_tick(struct hamgrd *d);
/* Must be looked at often. */
bool probe_is_busy(const struct hamgrd *d);
/* At the end; may be called when there is nothing. */
void probe_free(struct hamgrd *d);

/* doctor.c */
/* found, parallel to the input's nodes: of the things asked for, in their order; count 0: that node
 * told nothing of them. Borrowed for the call. */
struct doctor_found {
    uint32_t count;
    const struct look_found *list;
};
typedef void (*doctor_fn)(void *user, const struct ha_doctor_input *input,
                          const struct doctor_found *found);
void doctor_open(struct hamgrd *d);
/* Asks every node of the cluster for its facts, and for count things (at most PEER_LOOK_MAX); done
 * is called once, not from inside. */
void doctor_begin(struct hamgrd *d, const struct look_thing *things, uint32_t count, doctor_fn done,
                  void *user);
void doctor_asked(struct hamgrd *d, uint32_t from, const struct peer_facts_ask *ask);
void doctor_told(struct hamgrd *d, uint32_t from, const struct peer_facts_tell *tell);
void doctor_hv_done(struct hamgrd *d, uint64_t request, const struct hvp_done *done);
void doctor_tick(struct hamgrd *d);
/* Something waits that must be looked at often. */
bool doctor_is_busy(const struct hamgrd *d);

/* check.c */
void check_begin(struct hamgrd *d, const struct server_check *question, server_checked_fn done,
                 void *user);

/* things.c */
void things_hv_done(struct hamgrd *d, uint64_t request, const struct hvp_done *done);
void things_told(struct hamgrd *d, uint32_t from, const struct peer_things *things);
void things_tick(struct hamgrd *d);
/* At the end; may be called when there is nothing. */
void things_free(struct hamgrd *d);
/* Somebody has joined the group who has not heard what was told. */
void things_newcomer(struct hamgrd *d);
/* Can the hypervisor here save the guest while it runs? */
bool things_can_move_live(const struct hamgrd *d, const struct ha_guest *guest);
/* Is it known that that node's can't? */
bool things_stands_still(const struct hamgrd *d, const struct ha_guest *guest, uint32_t node);
/* What doctor judges of each guest, parallel to the state's; borrowed until the next call. */
uint32_t things_guests(struct hamgrd *d, const struct ha_doctor_guest **ret_guests);
/* Adds the guests' disks to what a look looks at. */
void things_ask(const struct hamgrd *d, struct look_ask *ask);

/* ownfacts.c */
/* What this hamgrd knows itself, beside what a look at the host finds. */
void ownfacts_fill(const struct hamgrd *d, struct ha_facts *facts);
/* Where a look is to look. */
void ownfacts_ask(const struct hamgrd *d, struct look_ask *ret_ask);

/* serverapi.c */
extern const struct server_api shell_server_api;

#endif
