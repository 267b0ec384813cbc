/* SPDX-License-Identifier: Apache-2.0
 *
 * Fencing as the leader of the open view decides it: one small machine per node that is gone (or
 * that an operator wants off). Evidence is gathered in parallel: agents by levels, and T_wait for
 * an armed incarnation; whichever comes first is proposed as FENCED, and the log decides whether it
 * still holds. Level-triggered: everything is compared with state and runtime at each step, so a
 * lost message or a new leader needs no special case.
 *
 * Pure: no clock, no I/O, no memory of its own; credentials never come here. The shell carries out
 * the actions: a run goes to the hamgr-fence of member `by`, its result comes back by its id.
 *
 * What it never does: take a timeout, an unknown outcome, a lost connection, or a level of which a
 * device is out of reach for evidence; fence outside an open view, on a node that is not its
 * leader, or while the cluster is disarmed; use a result of an earlier view.
 */
#ifndef FENCE_FENCE_FSM_H
#define FENCE_FENCE_FSM_H

#include "hamgr/core/runtime.h"
#include "hamgr/ipc/fenceproto.h"

/*  IDLE -gone or wanted-> HELD  -hold over-> OFF or WATCH
 *  IDLE, HELD, BACKOFF   -nothing an agent could do-> WATCH -a device, or a wish-> OFF
 *  IDLE, HELD, WATCH     -tried not long ago, in an earlier view-> BACKOFF
 *  OFF  -a level verified off-> PROVEN     OFF -the last level failed-> BACKOFF -time-> OFF
 *  IDLE, HELD, WATCH, OFF, BACKOFF -E >= T_wait-> PROVEN
 *  every step -back, fenced, new view, not leading, disarmed-> IDLE (its runs are cancelled)
 *
 * PROVEN proposes FENCED, again each second while the node is still UNCLEAN (a proposal may get
 * lost). A live member that was switched off for an operator waits in BACKOFF until it leaves the
 * view; FENCED needs an UNCLEAN incarnation. */
enum fence_step {
    FENCE_IDLE = 0, /* nothing to do for this node */
    FENCE_HELD,     /* gone, but H after a reunion, or L for a restarting hamgrd, is not over */
    FENCE_WATCH,    /* only waiting for T_wait or the operator: nothing an agent could do */
    FENCE_OFF,      /* agents of one level are running */
    FENCE_BACKOFF,  /* every level failed: wait, then from the first level again */
    FENCE_PROVEN,   /* evidence is there, FENCED is proposed */
    FENCE_STEP_COUNT
};

/* Back-off between attempts: 2 s, doubled to at most 60 s (L4). */
#define FENCE_RETRY_MIN_MS 2000u
#define FENCE_RETRY_MAX_MS 60000u
/* FENCED is proposed again when it was not applied for this long: two commits of 500 ms at worst.
 */
#define FENCE_PROPOSE_MS 1000u
/* A device without a timeout of its own; and what a result may be late: twice 1 s for the messages
 * to the member and back, 3 s for its hamgr-fence to kill a hanging agent. */
#define FENCE_DEVICE_MS 60000u
#define FENCE_LATE_MS   5000u

#define FENCE_RUNS_MAX    128u
#define FENCE_ACTIONS_MAX 64u

/* A device as a member's hamgr-fence announces it; the name is the same on every member that can
 * reach the device. */
struct fence_device {
    char name[HA_NAME_MAX];
    char agent[HA_NAME_MAX];
    /* 1..9, lower first. All devices that anybody names for a level must verify off. */
    uint8_t level;
    uint32_t timeout_ms;            /* 0 = FENCE_DEVICE_MS */
    bool is_for_all;                /* any node; else only targets[] */
    uint32_t target_count;          /* <= HA_NODES_MAX */
    uint32_t targets[HA_NODES_MAX]; /* node ids */
};

/* What one node of the state said it can reach, ascending by node in fence_input. One that is no
 * member now is not asked, but what it knows of the levels counts. */
struct fence_member {
    uint32_t node;
    bool is_mute;                       /* its hamgr-fence is gone: it can't be asked, either */
    uint32_t device_count;              /* <= HA_DEVICES_MAX */
    const struct fence_device *devices; /* borrowed for the call */
};

struct fence_input {
    const struct ha_state *state;
    const struct ha_runtime *rt;
    uint32_t member_count;
    const struct fence_member *members; /* at most HA_NODES_MAX, borrowed for the call */
    bool is_quorate; /* a quorum backs this view now: whom it lacks is in no other (I11) */
    /* All parallel to state->nodes. */
    bool is_needed[HA_NODES_MAX]; /* UNCLEAN, but a process under its id is heard, and no quorum is
                                   * without it */
    uint64_t evidence_ms[HA_NODES_MAX]; /* E: log_evidence_ms, 0 while unknown */
    /* corosync still sees the host although its hamgrd has left the group: a restart. Agents wait
     * until E >= L, for its guests run on the lease meanwhile (L5, L6). False when not known. */
    bool is_host_up[HA_NODES_MAX];
};

/* One run of one device, from its start until its fate is known. */
struct fence_run {
    uint64_t id; /* 0 = slot free */
    struct log_view view;
    uint32_t node;
    uint64_t incarnation;
    uint32_t by;
    uint8_t outcome;      /* enum fencep_outcome, 0 = running */
    bool is_stale;        /* cancelled or of an earlier view: its result is only recorded */
    uint64_t deadline_ms; /* then it failed, whatever comes later */
    char device[HA_NAME_MAX];
    char text[96]; /* of the result */
};

struct fence_target {
    uint32_t node; /* 0 = slot free */
    uint64_t incarnation;
    uint8_t step;     /* enum fence_step */
    uint8_t level;    /* being tried in OFF */
    bool is_seen;     /* scratch of one step */
    bool is_hastened; /* an operator's wish has cut its back-off short, once */
    bool has_no_device;
    uint32_t attempts;
    uint64_t started_ms;
    uint64_t begun_ms; /* when the last attempt began */
    uint64_t retry_ms; /* BACKOFF: until; PROVEN: propose again */
    uint8_t evidence;  /* PROVEN: enum ha_evidence */
    char detail[128];  /* PROVEN: for the FENCED entry */
    char text[HA_TEXT_MAX];
};

/* Transparent; private below. */
struct fence_fsm {
    uint64_t run_high;
    bool is_empty; /* no target and no run: most steps of most nodes have nothing to look at */
    struct log_view view; /* of the last step, {0, 0} while closed or not leading */
    struct fence_target targets[HA_NODES_MAX];
    struct fence_run runs[FENCE_RUNS_MAX];
};

enum fence_action_type {
    FENCE_ACT_START = 1, /* run `device` against `node` on member `by` */
    FENCE_ACT_CANCEL,    /* drop the run if its agent has not started `off` yet */
    FENCE_ACT_PROPOSE,   /* propose cmd (FENCED) */
};

struct fence_action {
    uint8_t type;        /* enum fence_action_type */
    uint64_t run;        /* START, CANCEL: id, unique over all runs of this node's leaderships */
    uint32_t by;         /* member whose hamgr-fence is asked; may be this node */
    uint32_t node;       /* target */
    uint8_t action;      /* enum fencep_action: FENCEP_OFF */
    uint32_t timeout_ms; /* of the device */
    char device[HA_NAME_MAX];
    struct ha_cmd cmd; /* PROPOSE */
};

struct fence_actions {
    uint32_t count;
    struct fence_action list[FENCE_ACTIONS_MAX];
    uint64_t next_ms; /* step again at this time at the latest; UINT64_MAX */
};

void fence_fsm_init(struct fence_fsm *fsm);
/* Compares everything and says what to do now. Call after each applied entry, view change, result,
 * change of device lists or is_host_up, and at next_ms. */
void fence_fsm_step(struct fence_fsm *fsm, const struct fence_input *in,
                    struct fence_actions *ret_actions);
/* The result of run `id` arrived (enum fencep_outcome). Unknown, late and repeated ones are
 * ignored. A member that can't be reached any more needs no call: the run's deadline ends it. Step
 * next. */
void fence_fsm_result(struct fence_fsm *fsm, uint64_t id, uint8_t outcome, const char *text);
/* Fills rt->fences (parallel to state->nodes; node 0 where nothing is going on); what is there must
 * be from the last call, or zero. */
void fence_fsm_progress(const struct fence_fsm *fsm, const struct fence_input *in,
                        struct ha_fence_progress ret_progress[HA_NODES_MAX]);
const char *fence_step_name(uint8_t step);

#endif
