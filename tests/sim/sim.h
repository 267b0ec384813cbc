/* SPDX-License-Identifier: Apache-2.0
 *
 * The cluster simulator: the production shell, log, state, planner, gate and keeper rule of 2 to 9
 * nodes in one process, on virtual time. What touches the world is replaced at link time: libqb's
 * loop and log, the clocks, corosync, the store, the local sockets, hypervisor workers, streams,
 * fence devices, the watchdog. One seed decides everything, so a run can be repeated byte for byte.
 *
 *   sched.c   events, processes, memory, clocks        node.c    power, boot, daemons
 *   net.c     corosync: rings, order, recovery         disk.c    the store
 *   link.c    local sockets; keeper.c, fencer.c, gateway.c: who is behind them
 *   host.c    hypervisor and its workers               stream.c  hamgr-stream
 *   ops.c     operators     faults.c  what goes wrong  check.c   ground truth and invariants
 *
 * The world is one global: there is one of it in the program, and production code calls into it
 * without a handle.
 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "fence/keeper.h"
#include "hamgr/base/assert.h"
#include "hamgr/base/rng.h"
#include "hamgr/hv/gate_parts.h"
#include "hamgr/shell/shell.h"
#include "tests/sim/script.h"

#define SIM_DOMAINS 48u
#define SIM_FDS     16u
#define NS_MS       UINT64_C(1000000)
#define NS_S        UINT64_C(1000000000)
#define NEVER       UINT64_MAX

/* ---- processes ---------------------------------------------------------------------------------
 */

enum sim_kind { SIM_HAMGRD = 0, SIM_HV, SIM_KEEPER, SIM_FENCER, SIM_COROSYNC, SIM_KINDS };
enum sim_proc_state { SIM_DEAD = 0, SIM_RUNS, SIM_STOPPED };

struct sim_node;
struct sim_event;

/* A process of a node. Its qb_loop_t is the process itself. */
struct sim_proc {
    struct sim_node *node;
    uint8_t kind;  /* enum sim_kind */
    uint8_t state; /* enum sim_proc_state */
    uint32_t life; /* grows with each start and end: events of an earlier life are dropped */
    uint64_t continued_at; /* true time; what it reads then may be old */
    struct sim_arena *arena;
    struct sim_event *late_first, **late_end; /* what came while it was stopped */
    struct {
        int fd;
        void *data;
        int32_t (*fn)(int32_t fd, int32_t events, void *data);
    } polls[SIM_FDS];
};

/* ---- a node ------------------------------------------------------------------------------------
 */

struct sim_domain {
    bool is_used, has_run;
    bool is_secret;     /* planted: it runs while it says that it is paused */
    bool is_saved;      /* a save of it ended well: HANDOVER may have been said */
    uint64_t saved_for; /* the ticket of that */
    struct hv_domain d;
    uint64_t io_until; /* its disk may be written until then, runnable or not */
    bool is_unleased;  /* it was run while no lease was asked for: disarmed, or frozen */
    uint64_t ran_ns;   /* when it last began to run, by its node's clock */
};

/* Durable things of a node's store; disk.c knows what is in it. */
struct sim_disk;

struct sim_watchdog {
    bool is_armed;
    uint64_t due; /* true time of the reset */
    bool is_set;  /* its event is under way */
};

struct sim_clock {
    uint64_t from, raw_ns; /* at true time `from` the raw clock showed raw_ns */
    int64_t ppm;
    int64_t wall_offset_ns, slept_ns;
};

/* sleep.c */
struct sim_sleep {
    bool is_asleep;
    uint32_t kinds; /* bits of those that it stopped */
    uint64_t span_ns, hv_late_ns, keeper_late_ns;
    uint64_t lease_end_ns;         /* its keeper's, as it fell asleep */
    uint64_t fell_at;              /* true time of that */
    uint64_t woke_at, woke_raw_ns; /* true time and its own; 0: not in this boot */
};

struct sim_node {
    uint32_t id;
    char name[8];
    bool has_power, is_removed, is_witness;
    uint8_t supplies_off; /* of two power supplies, where each hangs on a device of its own */
    uint8_t version;      /* enum sim_version of its hamgrd, from its next start on */
    bool runs_next;       /* its hamgrd is of the second build, version.c */
    uint32_t lease_ms;    /* L in its hamgr.conf; 0: auto */
    uint32_t boots;
    uint64_t died; /* true time its guests last lost power */
    struct ha_uuid boot_id, hw_id;
    struct sim_clock clock;
    struct sim_sleep sleep;
    struct sim_proc procs[SIM_KINDS];
    bool is_down_by_will[SIM_KINDS]; /* an operator or a fault keeps it down */

    struct hamgrd *d;
    struct sim_disk *disk;
    struct transport *transport;
    struct gate *gate;
    struct worker_pool *workers;
    struct hv hv;
    uint64_t gate_timer;  /* event of its timerfd */
    uint64_t gate_news;   /* packets of the keeper it has not read */
    bool is_gate_cut_off; /* its connection to the keeper has ended */

    /* host.c */
    struct sim_domain domains[SIM_DOMAINS];
    uint32_t domid_high;
    uint64_t mem_kib;
    uint64_t storage_stuck_until;  /* I/O of this node ends no earlier */
    uint8_t in_flight[SIM_GUESTS]; /* had writes under way when it died: these guests */
    uint64_t in_flight_ns;         /* so long */

    /* keeper.c: the process, and the page in /run that outlives it */
    struct keeper keeper;
    struct keeper_page page;
    bool has_page, is_keeper_lost;
    uint8_t keeper_told_state;
    bool keeper_told_lost;
    uint32_t keeper_lease_ms, keeper_watchdog_ms;
    uint64_t told_lease_ns; /* the latest end that hamgrd told the keeper in this boot */
    struct sim_watchdog watchdog;

    /* gateway.c: hv.state in /run */
    bool has_gate_state;
    struct hvp_hello gate_hello;
    bool gate_was_armed, gate_has_slept;
    int64_t gate_slept_ns;
    uint64_t gate_void_end_ns, gate_woke_ns;

    /* check.c */
    uint64_t fence_since; /* a minute of orders to switch it off is counted from here */
    uint32_t fence_orders;
};

/* Which protocols a hamgrd speaks: as built; also the next one; the next one only. Those two are
 * of the second build. */
enum sim_version { SIM_VERSION_BUILT = 0, SIM_VERSION_NEXT, SIM_VERSION_LATER };

/* ---- what a seed may do ------------------------------------------------------------------------
 */

enum sim_fault {
    SIM_F_POWER = 0,
    SIM_F_HAMGRD_CRASH,
    SIM_F_HAMGRD_STOP,
    SIM_F_HV_CRASH,
    SIM_F_HV_STOP,
    SIM_F_KEEPER_CRASH,
    SIM_F_KEEPER_STOP,
    SIM_F_FENCER_CRASH,
    SIM_F_COROSYNC_CRASH,
    SIM_F_COROSYNC_STOP,
    SIM_F_ISOLATE,
    SIM_F_PARTITION,
    SIM_F_ONE_WAY,
    SIM_F_BRIDGE,
    SIM_F_LOSS,
    SIM_F_DELAY,
    SIM_F_DISK_STALL,
    SIM_F_DISK_FAIL,
    SIM_F_DISK_FULL,
    SIM_F_STORE_LOST,
    SIM_F_STORAGE_STUCK,
    SIM_F_VERB_SLOW,
    SIM_F_VERB_FAIL,
    SIM_F_VERB_HANG,
    SIM_F_VERB_UNKNOWN,
    SIM_F_GUEST_CRASH,
    SIM_F_GUEST_REBOOT,
    SIM_F_FENCE_SLOW,
    SIM_F_FENCE_FAIL,
    SIM_F_FENCE_ACK_LOST,
    SIM_F_CLOCK_DRIFT,
    SIM_F_CLOCK_JUMP,
    SIM_F_VERSION,
    SIM_F_OPERATOR,
    SIM_F_DRAWN,               /* those above are drawn by every seed, */
    SIM_F_SLEEP = SIM_F_DRAWN, /* these by some, with generators of their own */
    SIM_F_CORNER,
    SIM_F_COUNT
};

#define SIM_KEEP 512u /* faults of a seed that can be told apart */

struct sim_options {
    uint64_t seed;
    uint32_t nodes;      /* 0: by the seed */
    uint64_t chaos_ns;   /* how long things go wrong */
    uint64_t fault_mask; /* kinds allowed, bits of enum sim_fault; 0 all */
    bool has_keep;       /* only the faults whose bits are set in keep, by number */
    uint64_t keep[SIM_KEEP / 64];
    const char *plant; /* NULL, or the name of a planted failure */
    bool is_traced;
    bool has_corners; /* see corner.c */
    bool is_told;     /* for machines, see events.c */
    bool is_gentle;   /* by the seed: restarts of daemons, some loss and delay, nothing worse */
};

struct sim_result {
    uint64_t hash;
    uint64_t sim_ns;
    uint32_t faults;
    uint32_t violations;
    char first[256]; /* the first violation */
};

/* ---- the world ---------------------------------------------------------------------------------
 */

struct sim_guest {
    struct ha_uuid id;
    uint64_t mem_kib;
    uint16_t priority;
    char name[16];
};

struct sim {
    struct sim_options options;
    struct ha_rng rng;
    uint64_t now; /* true time, ns */
    uint64_t hash;
    struct sim_proc *running; /* who the production code at work belongs to; NULL: nobody */
    uint32_t node_count;
    struct sim_node nodes[SIM_NODES];
    uint32_t guest_count;
    struct sim_guest guests[SIM_GUESTS];
    struct ha_uuid cluster_id;
    uint32_t token_ms, consensus_ms;
    uint32_t snapshot_every, ring_entries; /* as in struct hamgrd */
    bool is_healing;                       /* nothing goes wrong any more */
    uint64_t heal_at, end_at;
    uint32_t fault_count;
    uint64_t fault_kinds; /* bits of those that happened */
    struct sim_result *result;

    /* knobs that faults turn; healing turns them back */
    uint32_t verb_slow, verb_fail, verb_hang, verb_unknown;     /* per mille */
    uint32_t fence_slow, fence_fail, fence_ack_lost, fence_lie; /* per mille */
};

extern struct sim sim;

/* sched.c */
typedef void (*sim_fn)(void *data, uint64_t arg);
void sim_sched_reset(void);
/* Calls fn in proc (NULL: the world) at true time `at`; dropped if proc's life ends before. */
uint64_t sim_at(uint64_t at, struct sim_proc *proc, sim_fn fn, void *data, uint64_t arg);
static inline uint64_t sim_after(uint64_t ns, struct sim_proc *proc, sim_fn fn, void *data,
                                 uint64_t arg)
{
    return sim_at(sim.now + ns, proc, fn, data, arg);
}
void sim_cancel(uint64_t handle);
/* Runs the next event; false when none is left before `until`. */
bool sim_step(uint64_t until);
/* Production code of proc is about to run; returns who ran before, for sim_leave. */
struct sim_proc *sim_enter(struct sim_proc *proc);
void sim_leave(struct sim_proc *before);
void sim_proc_start(struct sim_proc *proc);
void sim_proc_end(struct sim_proc *proc); /* its events and memory are gone */
void sim_proc_stop(struct sim_proc *proc);
void sim_proc_continue(struct sim_proc *proc);
uint64_t sim_raw_ns(const struct sim_node *node);
void sim_clock_rate(struct sim_node *node, int64_t ppm);
/* A node-clock span in true time. */
uint64_t sim_span(const struct sim_node *node, uint64_t ns);
/* Calls the callback that proc registered for fd, as the loop would; nothing if there is none. */
void sim_ready(struct sim_proc *proc, int fd);

static inline uint64_t sim_below(uint64_t bound)
{
    return ha_rng_below(&sim.rng, bound);
}
/* In [low, high]. */
static inline uint64_t sim_between(uint64_t low, uint64_t high)
{
    return low + sim_below(high - low + 1);
}
static inline bool sim_chance(uint32_t per_mille)
{
    return per_mille > 0 && sim_below(1000) < per_mille;
}
static inline void sim_mix(uint64_t value)
{
    sim.hash = (sim.hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    sim.hash ^= sim.hash >> 29;
}
struct ha_uuid sim_uuid(uint8_t kind, uint64_t number);

/* main.c: one line of the story; node 0 is nobody. */
void sim_say(uint32_t node, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define sim_trace(...)                                                                             \
    do {                                                                                           \
        if (sim.options.is_traced)                                                                 \
            sim_say(__VA_ARGS__);                                                                  \
    } while (0)

/* node.c */
void sim_world_open(void);
void sim_world_close(void);
/* The command that adds guest i. */
void sim_guest_add_cmd(uint32_t i, struct ha_cmd *ret_cmd);
struct sim_node *sim_node(uint32_t id);
void sim_power_off(struct sim_node *node, const char *why);
void sim_power_on(struct sim_node *node);
/* A process dies; init starts it again after a while. */
void sim_crash(struct sim_node *node, enum sim_kind kind, uint64_t back_ns);
void sim_start_daemon(struct sim_node *node, enum sim_kind kind);
/* Unless it runs by then, or the host has booted anew. */
void sim_start_later(struct sim_node *node, enum sim_kind kind, uint64_t ns);
static inline bool sim_is_up(const struct sim_node *node, enum sim_kind kind)
{
    return node->has_power && node->procs[kind].state != SIM_DEAD;
}
const char *sim_kind_name(uint8_t kind);

/* net.c */
void sim_net_reset(void);
/* Power, corosync or a cable changed. */
void sim_net_changed(void);
void sim_net_cut(uint32_t from, uint32_t to, bool is_cut);
bool sim_net_reaches(uint32_t from, uint32_t to);
void sim_net_loss(uint32_t per_mille);
void sim_net_delay(uint64_t ns);
void sim_net_heal(void);
void sim_net_hamgrd_gone(struct sim_node *node);
void sim_net_corosync(struct sim_node *node); /* it started or ended */

/* version.c: a build of hamgrd, by where the simulator calls into it. */
struct server_api;
struct sim_build {
    int (*start)(struct hamgrd *d, struct ha_err *err);
    void (*refresh)(struct hamgrd *d);
    uint64_t (*propose_cmd)(struct hamgrd *d, const struct ha_cmd *cmd, propose_fn done,
                            void *user);
    uint64_t (*propose_voter)(struct hamgrd *d, const struct log_voter_change *change,
                              propose_fn done, void *user);
    void (*child)(struct hamgrd *d);
    const struct server_api *api;
    uint16_t (*refusal)(const struct ha_state *state, const struct ha_runtime *rt,
                        const struct ha_cmd *cmd, char ret_text[HA_TEXT_MAX],
                        char ret_fix[HA_TEXT_MAX]);
};
/* Of the hamgrd that runs there. */
const struct sim_build *sim_build_of(const struct sim_node *node);
/* The running process, of this version, can't read what came. Violation of I12 where it has to. */
void sim_version_unreadable(const char *what, enum sim_version version);
/* Applies a committed entry to the truth; proto: the highest that a view used. */
int sim_version_apply_truth(struct ha_state *truth, const struct log_entry *entry,
                            struct ha_applied *ret_applied, uint16_t proto);
/* As the running process does. */
int sim_version_apply(struct ha_state *state, const struct log_entry *entry,
                      struct ha_applied *ret_applied);
/* Its hamgrd is of a version that the log has left behind: it may stop, saying so. */
bool sim_version_is_refused(const struct sim_node *node);
/* Where nothing but versions went wrong: who is too old for the log says so. */
void sim_version_check_named(void);
enum sim_cover_version {
    SIM_COVER_ENTRY = 0, /* an entry of the next version was committed */
    SIM_COVER_REPORT,    /* a message of its own was sent */
    SIM_COVER_DROPPED,   /* one came to a process that is in no view and can't read it */
    SIM_COVER_REFUSED,   /* a process was told that it speaks too old a protocol */
    SIM_COVERS
};
void sim_version_cover(enum sim_cover_version what);
uint64_t sim_version_covered(enum sim_cover_version what);

/* memo.c: what every node computes of the same bytes is computed once. */
struct sim_memo {
    const void *data;
    size_t size;
    struct ha_digest previous, digest;
    bool is_known;
    bool is_decoded; /* it was a heartbeat, kept if none came since */
};
void sim_memo_reset(void);
/* Its data was copied from `from`. If the newest digest is of the first `size` bytes there, it is
 * the first to be remembered. */
void sim_memo_sent(struct sim_memo *memo, const uint8_t *from, size_t size);
/* What is computed of its data is remembered from now on; NULL: nothing. */
void sim_memo_open(struct sim_memo *memo);

/* corner.c */
void sim_corners_reset(void);
void sim_corners_begin(void); /* behind sim_faults_begin */
bool sim_corner_is_on(void);
uint64_t sim_corner_keeper_late_ns(void); /* so much later a keeper starts behind a boot */
void sim_corner_committed(uint8_t cmd_type);
enum sim_devices { SIM_DEVICES_WORK = 0, SIM_DEVICES_REFUSE, SIM_DEVICES_SILENT };
enum sim_devices sim_corner_devices(void); /* what fence devices do now */
uint64_t sim_corner_hv_latency_ns(void);   /* more than usual between hamgrd and hamgr-hv */

/* corner_moves.c */
enum sim_run_fate {
    SIM_RUN_WELL = 0,
    SIM_RUN_FAILS,
    SIM_RUN_UNKNOWN,
    SIM_RUN_UNKNOWN_DONE,
    SIM_RUN_UNHEARD, /* well, and hamgrd dies before it hears of it */
    SIM_RUN_CUT_OFF  /* well, its node is cut off at once, and the next tries fail */
};
void sim_corner_moves_begin(bool is_on);
enum sim_run_fate sim_corner_run_fate(struct sim_node *node, const struct sim_domain *domain);
uint64_t
sim_corner_build_ns(const struct hv_label *label); /* so long this start takes; 0: as ever */
void sim_corner_moves_committed(const struct ha_state *before, const struct ha_cmd *cmd);
bool sim_corner_is_quick(void); /* this migration moves little memory */
void sim_corner_drained(struct sim_node *source, struct ha_uuid guest_id);

/* corner_log.c */
void sim_corner_log_begin(bool is_on);

/* corner_alone.c: this seed has nothing but its stories. */
bool sim_corner_is_alone(void);

/* machine.c */
void sim_machine_reset(void);
/* Its disk goes into another machine, which boots so much later. */
void sim_machine_swap(struct sim_node *node, uint64_t boots_in_ns);
/* Its outlet is switched off. */
void sim_machine_off(const struct sim_node *node);
/* A machine that has been replaced still runs the guest; id 0: whichever node it was, a zero
 * guest: any. */
bool sim_machine_runs(uint32_t id, struct ha_uuid guest);

/* sleep.c */
/* Suspends the host for a span by the draw; nothing if more than that is wrong with it. */
void sim_sleep(struct sim_node *node, uint64_t draw);
/* Asleep, or awake for less than 20 s. */
bool sim_slept_lately(const struct sim_node *node);
bool sim_is_slept_through(const struct sim_node *node);

/* disk.c */
void sim_disk_make(struct sim_node *node, const struct log_entry *entries, uint32_t count);
void sim_disk_empty(struct sim_node *node, uint64_t number); /* a new store, of another id */
void sim_disk_lose(struct sim_node *node);
void sim_disk_free(struct sim_node *node);
bool sim_disk_exists(const struct sim_node *node);
/* It is there, neither stalled, failing nor full, and did not fail its hamgrd since that began. */
bool sim_disk_takes_entries(const struct sim_node *node);
/* It holds a command of this type behind the first `committed` entries. */
bool sim_disk_has_command(const struct sim_node *node, uint8_t cmd_type, uint64_t committed);
bool sim_disk_is(const struct sim_node *node, struct ha_uuid store_id);
/* It holds a change of voters behind the first `committed` entries. */
bool sim_disk_has_vote_pending(const struct sim_node *node, uint64_t committed);
void sim_disk_crash(struct sim_node *node); /* hamgrd has gone: writes under way may be lost */
/* Durable there: the entry, or a snapshot that covers it. */
bool sim_disk_holds(const struct sim_node *node, uint64_t index, struct ha_digest digest);
void sim_disk_stall(struct sim_node *node, uint64_t until);
void sim_disk_fail(struct sim_node *node, bool is_failing);
void sim_disk_fill(struct sim_node *node, bool is_full);
void sim_disk_power_lost(struct sim_node *node); /* what it had is there, unless it lies */

/* link.c */
enum sim_service { SIM_TO_HV = 0, SIM_TO_KEEPER, SIM_TO_FENCER, SIM_TO_STREAM, SIM_SERVICES };
/* What a service does with a connection. */
struct sim_conn {
    bool is_used;
    uint32_t number; /* of this connection, never again */
    uint8_t service;
    struct sim_node *node;
    struct link *client;
    void *user; /* the service's own */
};
void sim_links_reset(void);
void sim_conn_reply(struct sim_conn *conn, uint16_t type, uint64_t id, const void *body,
                    size_t size);
/* The service ends one connection. */
void sim_conn_end(struct sim_conn *conn);
/* A service has died: its clients hear of it. */
void sim_service_gone(struct sim_node *node, enum sim_service service);
/* hamgrd has died: services hear of it. */
void sim_client_gone(struct sim_node *node);
void sim_each_conn(struct sim_node *node, enum sim_service service,
                   void (*fn)(struct sim_conn *conn, void *user), void *user);

/* keeper.c */
void sim_keeper_start(struct sim_node *node);
void sim_keeper_packet(struct sim_conn *conn, const struct ha_packet *packet);
void sim_keeper_proof(struct sim_node *node, const uint8_t *body, size_t size);
void sim_keeper_power_lost(struct sim_node *node);

/* fencer.c */
#define SIM_BOTH_SUPPLIES 3u
void sim_fencer_reset(void);
void sim_fencer_start(struct sim_node *node);
void sim_fencer_packet(struct sim_conn *conn, const struct ha_packet *packet);
void sim_fencer_gone(struct sim_node *node);
bool sim_has_fencing(void);

/* gateway.c */
void sim_gate_start(struct sim_node *node);
void sim_gate_end(struct sim_node *node);
void sim_gate_packet(struct sim_conn *conn, const struct ha_packet *packet, int fd);
void sim_gate_joined(struct sim_conn *conn);
void sim_gate_left(struct sim_conn *conn);
void sim_gate_keeper_changed(struct sim_node *node);
void sim_gate_keeper_gone(struct sim_node *node);
void sim_gate_changed(struct sim_node *node); /* a domain changed by itself */

/* host.c */
void sim_host_open(struct sim_node *node);
void sim_host_power_lost(struct sim_node *node);
void sim_host_gate_gone(struct sim_node *node); /* workers die with it */
struct sim_domain *sim_domain_by(struct sim_node *node, uint32_t domid);
/* What its workers do takes no effect any more; they are killed when their time is over. */
void sim_host_hang(struct sim_node *node);
/* Its saves are stuck where no signal reaches them, and end so much later. */
void sim_host_stick(struct sim_node *node, uint64_t span);
/* Its saves and restores stand still, and their workers are killed only after their long time. */
void sim_host_hang_moves(struct sim_node *node);
void sim_guest_ends(struct sim_node *node, struct sim_domain *domain, uint8_t state);
bool sim_is_runnable(const struct sim_domain *domain);
/* From stream.c to the save or restore at fd: 1 bytes moved, 2 all is there, 3 it failed. */
void sim_host_news(struct sim_node *node, int fd, uint8_t what, uint64_t bytes, uint64_t total);

/* stream.c */
void sim_streams_reset(void);
void sim_streams_power_lost(struct sim_node *node);
/* The control link of fd was connected or is closed. */
bool sim_stream_adopt(int fd, struct sim_conn *conn);
void sim_stream_closed(struct sim_conn *conn);
/* The hypervisor's ends. */
uint64_t sim_stream_moved_at(uint64_t ticket);       /* a byte of it; 0: none now */
void sim_stream_hang(struct sim_node *node, int fd); /* nothing comes from it any more */
bool sim_stream_feed(struct sim_node *node, int fd, uint64_t total_bytes);
void sim_stream_native_closed(struct sim_node *node, int fd);
void sim_stream_fed(struct sim_node *node, int fd); /* the last byte went in */
void sim_stream_kill(struct sim_node *node, uint32_t pid);
/* Of the newest migration: how far its streams are. */
enum sim_stream_stage {
    SIM_STREAM_NONE = 0,
    SIM_STREAM_LISTENS,
    SIM_STREAM_DIALLED,
    SIM_STREAM_CONNECTED,
    SIM_STREAM_MOVES,
    SIM_STREAM_LATE, /* three quarters are there */
    SIM_STREAM_ALL
};
enum sim_stream_stage sim_stream_stage(void);
void sim_streams_fail(struct sim_node *node, const char *why);
void sim_streams_stall(uint64_t until); /* no byte moves */
bool sim_stream_is_alive(struct sim_node *node, uint32_t pid);

/* ops.c */
/* A hamgrd to type on; NULL if there is none that would take it. */
struct sim_node *sim_operator_node(uint64_t draw);
/* Types cmd in at `at`. False if it was refused; ret_why (may be NULL) says why. */
bool sim_operator_type(struct sim_node *at, struct ha_cmd *cmd, char ret_why[HA_TEXT_MAX]);
/* A command about a node (NULL: the cluster), on or off. */
void sim_operator_node_cmd(struct sim_node *at, const struct sim_node *about, uint8_t type,
                           bool is_on);
void sim_operator_take_vote(struct sim_node *at, const struct sim_node *about);
void sim_operator_migrate(uint64_t draw);
/* All guests to one node, at once. */
void sim_operator_gather(uint64_t draw);
/* ABORT of some migration that the node drawn knows of. */
void sim_operator_cancel(uint64_t draw);
void sim_operator_begin(void);
void sim_operator_act(uint64_t draw, uint64_t span);
/* During healing: undo what operators left half done. */
void sim_operator_settle(void);

/* faults.c */
void sim_faults_begin(void);
void sim_faults_moving(struct sim_node *source);
/* Counts a fault that another file does; false: it is left out (--keep). */
bool sim_faults_extra(enum sim_fault fault);
void sim_faults_isolate(struct sim_node *node, uint64_t span);
void sim_faults_split(uint32_t side, uint64_t span); /* bits of node ids, against the others */
/* Loses its store, if the others can bear that: made anew by the manual, or at once. */
bool sim_faults_lose_store(struct sim_node *node, uint64_t span);
bool sim_faults_renew_store(struct sim_node *node);
void sim_faults_stop(struct sim_node *node, enum sim_kind kind, uint64_t span);
void sim_faults_built(struct sim_node *node);
bool sim_is_left_hung(const struct sim_node *node);
/* A node lost its power: it is given back some time later. */
void sim_faults_power_lost(struct sim_node *node);
const char *sim_fault_name(uint8_t fault);
/* Something notable happened (an entry of this type was committed): a fault may follow at once. */
void sim_faults_hook(uint8_t cmd_type);

/* check.c */
void sim_check_reset(void);
void sim_violation(const char *invariant, uint32_t node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void sim_check_run(struct sim_node *node, const struct sim_domain *domain);
/* Nobody counts on the node's lease now, or a new one is only about to be armed. */
bool sim_may_run_unleased(const struct sim_node *node, const struct sim_domain *domain);
bool sim_is_handed_over(const struct sim_domain *domain);
void sim_check_pause(const struct sim_node *node, const struct sim_domain *domain);
void sim_check_pet(struct sim_node *node);
void sim_check_disarm(struct sim_node *node);
void sim_check_fence_order(struct sim_node *target);
void sim_check_fence_off(struct sim_node *target);
void sim_check_end(void);
/* check_policy.c: each entry, when it is first applied; an order at a fence device. */
void sim_check_policy_reset(void);
void sim_check_policy(const struct ha_state *before, const struct log_entry *entry,
                      const struct ha_applied *applied);
void sim_check_policy_run(const struct sim_node *node, const struct sim_domain *domain);
void sim_check_fence_target(const struct sim_node *target);
/* check_rejoin.c: a new hamgrd; an OPEN in the truth; what hamgrd and hamgr-hv say to each other.
 */
void sim_check_rejoin_reset(void);
void sim_check_rejoin_started(const struct sim_node *node);
void sim_check_rejoin_opened(void);
void sim_check_rejoin_asks(const struct sim_node *node, uint16_t type, uint64_t id);
void sim_check_rejoin_hears(const struct sim_node *node, uint16_t type, uint64_t id);
/* What a leader's fencing does now. */
struct fence_actions;
void sim_check_fence_actions(const struct ha_state *seen_by_leader,
                             const struct fence_actions *actions);
/* check_state.c: an entry was added to the truth; a node has applied one that was there. */
void sim_check_state_reset(void);
void sim_check_state_truth(void);
void sim_check_state_copy(uint32_t node, struct ha_state *copy);
/* check_view.c */
void sim_check_view_reset(void);
void sim_check_network(void); /* power or a cable changed */
void sim_check_votes_changed(void);
void sim_check_leader_hears(const struct sim_node *leader, uint32_t target);
/* By hamgrd to the keeper, over this connection. */
void sim_check_lease_told(const struct sim_node *node, uint32_t conn, uint64_t end_ns);
/* check_moves.c */
void sim_check_moves_begin(void);
/* events.c: what changed, for machines (--events). */
void sim_events_reset(void);
void sim_events_look(void);
void sim_events_applied(const struct ha_state *before, const struct log_entry *entry,
                        const struct ha_applied *applied);
const struct ha_state *sim_truth(void);
int sim_guest_index(struct ha_uuid id);
bool sim_is_settled(char *ret_why, size_t size);
/* Nothing is missing but guests that wait out a back-off, for no longer than it may take. None that
 * failed behind `latest` is excused. */
bool sim_is_only_backing_off(uint64_t latest);

/* cover.c: state machines whose moves are counted. */
enum sim_sm {
    SIM_SM_KEEPER = 0,
    SIM_SM_GATE,
    SIM_SM_FENCE,
    SIM_SM_SOURCE,
    SIM_SM_DESTINATION,
    SIM_SM_GUEST,
    SIM_SM_NODE,
    SIM_SMS
};
void sim_transition(enum sim_sm machine, uint8_t from, uint8_t to);
void sim_cover_fault(enum sim_fault fault);
void sim_cover_act(uint8_t act);
/* A new world begins: faults of the last one are no neighbours of its own. */
void sim_cover_begin(void);
void sim_cover_print(void);

/* script.c: worlds that are told what happens, by a file. */
/* Reads and checks a file; NULL, or what is wrong with it (borrowed, or text[size]). */
const char *sim_script_read(const char *path, char *text, size_t size);
bool sim_script_is_on(void);
uint64_t sim_script_end_ns(void);
void sim_script_config(struct ha_config *config);
bool sim_script_has_strip(void);
void sim_script_world(void);
/* Fills in what the script says of guest i; false: it is not there from the beginning. */
bool sim_script_guest(uint32_t i, struct ha_cmd *add);
void sim_script_begin(void);
/* True if this verb is one of those that are to fail. */
bool sim_script_fails(const struct worker_verb *verb);
void sim_script_note(const struct ha_cmd *cmd);
void sim_script_tell_end(void);

/* matrix.c: migrations cut at each step, one world a cell. */
bool sim_matrix_is_on(void);
void sim_matrix_begin(void);
void sim_matrix_look(void); /* after each event */
void sim_matrix_note(const struct ha_cmd *cmd);
/* Runs all cells, or the one with that number. 1 if anything broke, or was not reached. */
uint64_t sim_matrix_cells(void);
int sim_matrix(const struct sim_options *options, uint64_t only); /* a cell; or more: all */

/* main.c */
void sim_run(const struct sim_options *options, struct sim_result *ret_result);
bool sim_has_plant(const char *name);

#endif
