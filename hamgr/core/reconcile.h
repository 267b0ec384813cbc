/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's own duties: compares the applied state with the hypervisor's inventory and says what
 * this node must do now. Level-triggered: it never replays entries, so a restarted hamgrd, a lost
 * message or a killed worker all end in the same comparison. Runs on every node, leader or not.
 *
 * Rules it embodies (tested one by one): nothing is made runnable unless the view is open here, the
 * lease is valid and the gate open; a domain whose label (cluster, generation, uuid, epoch) the
 * state does not give to this node is destroyed, except that a source's suspended copy is kept
 * until ARRIVED, REVERT or ABORT is applied and a destination's paused copy until SWITCH or ABORT;
 * a paused domain resumes only if the state gives it to this node at the same epoch, ASSIGNED,
 * RUNNING or SWITCHED to it (one that was paused while MIGRATING: after ABORT, for it may be what a
 * killed save left); a suspended source resumes only after ABORT or REVERT; no second copy of a
 * guest is made or run while another is listed here; nothing begins while a proposal about it is
 * open; foreign (unlabelled) domains are reported, never destroyed; nothing is done twice while a
 * verb for the same guest is in flight; a missing domain of an owner record is NOT_RUNNING only
 * from a fresh listing taken after the record was applied and with no verb in flight.
 */
#ifndef HAMGR_CORE_RECONCILE_H
#define HAMGR_CORE_RECONCILE_H

#include "hamgr/core/runtime.h"

/* A verb this node has in flight for a guest, or just finished without an entry yet. A record with
 * a zero guest stands for the node's own proposals: its epoch is the enum ha_cmd_type (ARMED,
 * UNARMED, CAPACITY), and only is_proposed and retry_ms count. */
enum ha_verb {
    HA_VERB_NONE = 0,
    HA_VERB_CREATE,
    HA_VERB_RUN,
    HA_VERB_SHUTDOWN,
    HA_VERB_DESTROY,
    HA_VERB_RESUME,  /* resume-prepare */
    HA_VERB_SAVE,    /* source side of a ticket, until its end */
    HA_VERB_RESTORE, /* destination side of a ticket, until its end */
};

struct ha_local_verb {
    struct ha_uuid guest;
    uint64_t epoch;
    uint8_t verb; /* enum ha_verb in flight; HA_VERB_NONE: finished, see below */
    /* Memory of finished verbs, kept until the state has moved on from that epoch: */
    bool is_create_failed; /* proven: the domain does not exist (outcome HV_FAILED) */
    bool is_save_done;     /* stream complete, suspended, drained: HANDOVER was sent */
    bool is_save_failed;   /* save ended without being done */
    bool is_restore_done;  /* restore complete, paused */
    bool is_restore_failed;
    bool is_handover;       /* the source's HANDOVER for this ticket was received */
    bool is_run_failed;     /* HV_FAILED of run: that run did not resume it. Proof that nothing ever
                               did only while has_run is false, too: an earlier run may have */
    bool has_run;           /* the gate made this copy runnable in this hamgrd's life; set it before
                               RUN is sent, and take it back only on HV_FAILED of the first RUN: a
                               REVERT rests on it */
    bool is_proposed;       /* a proposal about it is under way: do not repeat */
    uint64_t retry_ms;      /* no verb before this time */
    char text[HA_TEXT_MAX]; /* why it failed */
    uint8_t end_cause;      /* enum ha_end_cause: copied from the DESTROY duty that carried one */
    bool is_create_unknown; /* HV_UNKNOWN of create: a failed start once nothing is there */
};

struct ha_inventory {
    bool is_fresh;            /* listed after the last applied entry and with every event seen */
    uint64_t applied_at_list; /* state->applied when the listing was requested */
    uint32_t domain_count;
    const struct hv_domain *domains; /* borrowed */
    uint32_t verb_count;
    const struct ha_local_verb *verbs; /* borrowed */
};

/* I10: since the OPEN that took this incarnation of the node in, what is there has been listed.
 * applied_at_list: of the newest listing. */
static inline bool ha_is_listed_since_open(const struct ha_node *self, uint64_t applied_at_list)
{
    return applied_at_list >= self->status_index;
}

enum ha_duty_type {
    HA_DUTY_CREATE = 1,
    HA_DUTY_RUN,
    HA_DUTY_SHUTDOWN, /* graceful, timeout_ms, then destroyed by hamgr-hv */
    HA_DUTY_DESTROY,
    HA_DUTY_RESUME_PREPARE,
    HA_DUTY_MOVE_OUT,       /* begin the source end of a ticket */
    HA_DUTY_MOVE_IN,        /* begin the destination end */
    HA_DUTY_MOVE_CANCEL,    /* the ticket is over, or this node is quarantined: end stream, save and
                               restore of it. May be repeated; ticket 0 = known by guest and epoch */
    HA_DUTY_PROPOSE,        /* propose cmd */
    HA_DUTY_REPORT_FOREIGN, /* an unlabelled domain, for the alarm */
};

struct ha_duty {
    uint8_t type; /* enum ha_duty_type */
    struct ha_uuid guest;
    uint64_t epoch;
    uint64_t ticket;
    uint32_t timeout_ms;
    uint16_t reason;   /* enum ha_reason */
    uint8_t end_cause; /* DESTROY: enum ha_end_cause to remember in the verb, 0 = none */
    struct ha_cmd cmd; /* PROPOSE; its guest and epoch name the verb record to mark */
};

#define HA_DUTIES_MAX 1024u
struct ha_duties {
    uint32_t count;
    struct ha_duty list[HA_DUTIES_MAX];
    uint64_t next_ms; /* look again at the latest; UINT64_MAX */
};

/* ARMED, CAPACITY and UNARMED of this node come from here too (keeper and hypervisor as reported in
 * rt->reports of self and the arguments). */
struct ha_keeper_facts {
    bool is_known;
    bool is_armed;
    uint32_t lease_ms;
    uint32_t watchdog_ms;
    /* state->applied when this status was asked for, with no KEEPER_DISARM sent since: ARMED
     * carries it, so that a keeper which stopped after a DISARM or FREEZE never counts as armed. */
    uint64_t seen_applied;
};

void ha_reconcile(const struct ha_state *state, const struct ha_runtime *rt,
                  const struct ha_inventory *inventory, const struct ha_keeper_facts *keeper,
                  struct ha_duties *ret_duties);

#endif
