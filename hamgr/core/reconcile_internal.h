/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the reconciler share: the facts of one call, one copy of a guest on this node,
 * and the few ways to say what must be done. Every duty goes through these, so that the conditions
 * for making something runnable, for destroying and for proposing stand in one place each.
 */
#ifndef HAMGR_CORE_RECONCILE_INTERNAL_H
#define HAMGR_CORE_RECONCILE_INTERNAL_H

#include "hamgr/core/reason.h"
#include "hamgr/core/reconcile.h"

/* The facts of one call. */
struct rec {
    const struct ha_state *state;
    const struct ha_runtime *rt;
    const struct ha_inventory *inventory;
    const struct ha_node *self;
    bool can_run; /* view open, lease valid, gate open, not quarantined: guests may be made runnable
                   */
    bool is_fresh; /* the listing can prove that something is not there */
    struct ha_duties *duties;
};

/* What the owner record makes of this node for a guest. */
enum rec_role {
    REC_NONE = 0, /* nothing: a copy here is a stray */
    REC_HOLD,     /* it names another incarnation of this node: touch nothing */
    REC_START,    /* ASSIGNED */
    REC_RUN,      /* RUNNING */
    REC_STOP,     /* STOPPING */
    REC_SOURCE,   /* MIGRATING, the guest is here */
    REC_DEST,     /* MIGRATING, the guest comes here */
    REC_ARRIVING, /* SWITCHED, the guest is to run here */
    REC_KEPT,     /* SWITCHED, the copy here is kept in case of REVERT */
};

/* The one copy (guest, epoch) that the record gives to this node. */
struct rec_copy {
    const struct ha_guest *guest;
    uint8_t role; /* enum rec_role */
    uint64_t epoch;
    const struct hv_domain *domain;   /* NULL: not in the listing */
    const struct ha_local_verb *verb; /* NULL: nothing known */
    bool is_busy;                     /* some verb of this guest, whatever epoch, is in flight */
    bool has_others;                  /* other copies of this guest are on this node */
    bool
        is_ambiguous; /* several domains carry the label, or one of another cluster or generation */
};

/* True if nothing in flight, waiting or undecided forbids a verb on the copy now. A proposal under
 * way does: NOT_RUNNING, REVERT or ABORT may be applied any moment, and what they say must still be
 * true then. */
bool rec_may_act(struct rec *r, const struct rec_copy *c);
/* The listing was asked for after the record came into its phase. */
bool rec_is_listed_since(const struct rec *r, const struct rec_copy *c);
/* Proof that no copy of the guest is on this node: what NOT_RUNNING and REVERT rest on. */
bool rec_is_gone(const struct rec *r, const struct rec_copy *c);

/* Its keeper is in the log, or nobody counts on it: what has not run here yet may (I6). */
bool rec_is_guarded(const struct rec *r);
/* CREATE, RUN, RESUME_PREPARE, MOVE_OUT, MOVE_IN: only if rec_may_act and can_run. */
void rec_begin(struct rec *r, const struct rec_copy *c, uint8_t type);
/* DESTROY, SHUTDOWN: whenever no verb is in flight. end_cause: remembered for NOT_RUNNING. */
void rec_destroy(struct rec *r, const struct rec_copy *c, uint8_t end_cause);
void rec_shutdown(struct rec *r, const struct rec_copy *c);
void rec_cancel_move(struct rec *r, struct ha_uuid guest, uint64_t epoch, uint64_t ticket,
                     uint16_t reason);
/* Proposes a command of the ticket's or owner's end, if it would take effect now. */
void rec_propose(struct rec *r, const struct rec_copy *c, uint8_t type, uint16_t reason,
                 const char *detail);
void rec_propose_not_running(struct rec *r, const struct rec_copy *c, uint8_t cause);

/* enum ha_end_cause of a domain that ended by itself, 0 for other states. */
uint8_t rec_end_cause(const struct hv_domain *domain);
bool rec_has_verb(const struct rec_copy *c, uint8_t verb);

/* One per role. */
void rec_role_start(struct rec *r, const struct rec_copy *c);
void rec_role_run(struct rec *r, const struct rec_copy *c);
void rec_role_stop(struct rec *r, const struct rec_copy *c);
void rec_role_source(struct rec *r, const struct rec_copy *c);
void rec_role_dest(struct rec *r, const struct rec_copy *c);
void rec_role_arriving(struct rec *r, const struct rec_copy *c);
void rec_role_kept(struct rec *r, const struct rec_copy *c);

#endif
