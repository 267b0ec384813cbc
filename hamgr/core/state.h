/* SPDX-License-Identifier: Apache-2.0
 *
 * The replicated state: nodes with their incarnations, guests with their owner records. It changes
 * only in ha_state_apply, by committed entries, the same way on every member. Small and boring on
 * purpose: every safety rule of fencing and ownership that can be checked on replicated facts alone
 * is a precondition here, so a wrong plan can waste work but can't break an invariant.
 *
 * Transparent structs, memory owned by the caller. Pure: no clock (entries carry time), no I/O.
 */
#ifndef HAMGR_CORE_STATE_H
#define HAMGR_CORE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/id.h"
#include "hamgr/base/limits.h"
#include "hamgr/core/entry.h"
#include "quorum/entry.h"

enum ha_node_status {
    HA_NODE_NEW = 0, /* known, never been a member */
    HA_NODE_MEMBER,  /* in the open view */
    HA_NODE_UNCLEAN, /* gone without LEAVE: may still run its guests */
    HA_NODE_FENCED,  /* gone, proven to run nothing */
    HA_NODE_LEFT,    /* gone by LEAVE */
};

/* UNCLEAN -> FENCED by evidence; any -> MEMBER by an OPEN that names it; MEMBER -> UNCLEAN by an
 * OPEN that does not; MEMBER -> LEFT by LEAVE (it stays in the view until the next OPEN). */

struct ha_node {
    uint32_t id;
    char name[HA_NAME_MAX];
    char addr[HA_ADDR_MAX];
    uint8_t status; /* enum ha_node_status */
    bool is_voter;
    bool is_witness; /* runs no guests */
    bool is_maintenance;
    bool is_frozen;
    bool is_armed;                  /* for `incarnation` */
    bool is_fence_wanted;           /* operator asked; cleared by FENCED or a new incarnation */
    bool is_hold;                   /* UNCLEAN since a view that was not continuous: wait H first */
    uint64_t incarnation;           /* 0 = never joined; grows with each (re)join */
    uint64_t nonce;                 /* process that joined as this incarnation */
    struct ha_uuid store_id;        /* of its voter record, or the last one it joined with */
    struct ha_uuid joined_store_id; /* the one it joined with as `incarnation` */
    struct ha_uuid boot_id;
    struct ha_uuid hw_id;
    uint16_t proto_min;
    uint16_t proto_max;
    uint32_t lease_ms;      /* L and W of the last ARMED; valid while is_armed, and kept for the */
    uint32_t watchdog_ms;   /* UNCLEAN incarnation that was armed */
    uint64_t unarmed_index; /* entry that last took or voided its arming; ARMED presumes it */
    uint64_t mem_kib;       /* capacity for guests */
    bool is_mem_short;      /* capacity was lowered below what was promised already */
    uint8_t evidence;       /* enum ha_evidence of the last FENCED */
    char evidence_detail[128]; /* in its words: "fence_ipmilan ipmi-n1: status off" */
    uint64_t status_index;     /* entry that set status */
    uint64_t status_wall_ms;
};

enum ha_phase {
    HA_PHASE_FREE = 0,  /* nobody's: may be assigned (if wanted) */
    HA_PHASE_ASSIGNED,  /* node is to start it; from here it may be running there */
    HA_PHASE_RUNNING,   /* node reported it started */
    HA_PHASE_STOPPING,  /* node is to stop it; until NOT_RUNNING it may be running there */
    HA_PHASE_MIGRATING, /* ticket open; node (the source) owns it */
    HA_PHASE_SWITCHED,  /* ticket open; node (the destination) owns it, the source holds a copy */
    HA_PHASE_COUNT
};

/*  FREE -ASSIGN-> ASSIGNED -STARTED-> RUNNING -STOP-> STOPPING -NOT_RUNNING-> FREE
 *                    |`-NOT_RUNNING--> FREE  `-NOT_RUNNING-> FREE
 *                    `--STOP--> STOPPING (a start that hangs can be taken back by its owner)
 *  RUNNING -MIGRATE-> MIGRATING -SWITCH-> SWITCHED -ARRIVED-> RUNNING (destination)
 *                        `-ABORT-> RUNNING (source)  `-REVERT-> RUNNING (source)
 *  MIGRATING -NOT_RUNNING(source)-> FREE, SWITCHED -NOT_RUNNING(destination)-> FREE: closes the
 * ticket. FENCED(owner): any -> FREE.  FENCED(destination) while MIGRATING = ABORT; FENCED(source)
 * while SWITCHED = the source's copy is gone, the destination still must arrive. */

struct ha_ticket {
    uint64_t id; /* index of the MIGRATE entry; 0 = none open */
    uint32_t src;
    uint32_t dst;
    uint64_t src_incarnation; /* follow their nodes' incarnations through same-boot rejoins; */
                              /* source: 0 once its copy is gone (fenced while SWITCHED) */
    uint64_t dst_incarnation;
    uint64_t src_epoch; /* label of the source's copy */
    uint64_t dst_epoch; /* label of the arriving copy, reserved by MIGRATE */
    uint32_t max_downtime_ms;
    uint32_t deadline_ms;
    uint8_t on_slow;  /* enum hv_on_slow, 0 = the source's default */
    uint64_t mono_ms; /* leader's clock at MIGRATE */
    uint64_t wall_ms;
};

struct ha_guest {
    struct ha_uuid id;
    char name[HA_NAME_MAX];
    uint64_t mem_kib;
    uint8_t want; /* enum ha_want */
    struct ha_policy policy;
    struct ha_digest definition;
    uint32_t definition_size;
    /* Owner record: changes only by entries. */
    uint8_t phase;        /* enum ha_phase */
    uint8_t stop_mode;    /* in STOPPING: enum ha_stop_mode */
    bool is_relocating;   /* in STOPPING and after: the next start prefers another node */
    uint32_t node;        /* owner, 0 when FREE */
    uint64_t incarnation; /* of node; follows a same-boot rejoin */
    uint64_t epoch;       /* label of the owning copy (when FREE: of the last one) */
    uint64_t epoch_high;  /* highest epoch ever reserved: every new copy gets a higher one */
    struct ha_ticket ticket;
    /* Failures, for the restart limit. */
    uint16_t failures;       /* within the current window */
    bool is_failed;          /* limit reached, or not protected and failed: left alone until */
                             /* CLEAR or WANT started */
    uint64_t window_wall_ms; /* start of the window */
    uint32_t last_node;      /* where it ran or failed last; placement tie-break */
    uint8_t end_cause;       /* enum ha_end_cause of the last NOT_RUNNING, 0 none */
    uint64_t phase_index;    /* entry that set phase */
    uint64_t phase_wall_ms;
};

struct ha_state {
    struct ha_uuid cluster_id;
    uint64_t generation; /* raised by forced recovery of a log */
    char name[HA_NAME_MAX];
    bool is_disarmed;
    uint64_t applied;        /* index of the last applied entry */
    struct ha_digest digest; /* of the log's chain at applied */
    struct log_view view;    /* of the last applied OPEN */
    uint16_t proto; /* highest protocol any view used: the log forgets it with its entries (I12) */
    uint64_t incarnation_high;
    uint64_t epoch_floor; /* highest epoch of any removed guest: a new one starts above it */
    uint32_t node_count;  /* ascending by id */
    struct ha_node nodes[HA_NODES_MAX];
    uint32_t guest_count; /* ascending by uuid */
    uint32_t guest_capacity;
    struct ha_guest *guests; /* caller-owned memory for guest_capacity guests */
};

/* What applying an entry did: for history, status and the reconciler's callers. */
struct ha_applied {
    bool is_noop;      /* a precondition did not hold */
    uint16_t refusal;  /* enum ha_reason when is_noop: which one */
    struct ha_cmd cmd; /* decoded (LOG_KIND_STATE, INIT); borrowed definition bytes */
    uint8_t kind;      /* enum log_kind */
};

/* Prepares an empty state using memory for guest_capacity (1..HA_GUESTS_MAX) guests. */
void ha_state_init(struct ha_state *state, struct ha_guest *memory, uint32_t guest_capacity);
/* Applies the next committed entry (index == applied + 1, else asserts). Fills *ret_applied.
 * Returns 0, or -HA_E_CORRUPT / -HA_E_VERSION for a body this build can't read: the caller must
 * stop, loudly, for members would diverge. A no-op by precondition is 0. */
int ha_state_apply(struct ha_state *state, const struct log_entry *entry,
                   struct ha_applied *ret_applied);
/* Dry run of a command's preconditions on the present state: 0 (enum ha_reason none) or the reason
 * for which ha_state_apply would record a no-op. Used to refuse early with the same words. */
uint16_t ha_state_check(const struct ha_state *state, const struct ha_cmd *cmd);

/* Queries. NULL when not found. Borrowed. */
const struct ha_node *ha_state_node(const struct ha_state *state, uint32_t id);
const struct ha_node *ha_state_node_by_name(const struct ha_state *state, const char *name);
const struct ha_guest *ha_state_guest(const struct ha_state *state, struct ha_uuid id);
const struct ha_guest *ha_state_guest_by_name(const struct ha_state *state, const char *name);
/* Memory promised on a node in KiB: owners in any phase but FREE, plus both ends of open tickets.
 */
uint64_t ha_state_mem_used_kib(const struct ha_state *state, uint32_t node);
/* True if the node may be given guests: member, armed (or cluster disarmed), not witness, not
 * frozen, not in maintenance. ret_reason (may be NULL) says which one failed. */
bool ha_state_node_is_eligible(const struct ha_state *state, const struct ha_node *node,
                               uint16_t *ret_reason);

/* Snapshot form; definitions travel beside it, by digest. Encode returns the bytes written or
 * -HA_E_LIMIT; decode fills a state made by ha_state_init, or returns -HA_E_CORRUPT / _VERSION. */
int64_t ha_state_encode(const struct ha_state *state, uint8_t *buffer, size_t size);
int ha_state_decode(struct ha_state *state, const uint8_t *data, size_t size);
/* Upper bound of ha_state_encode's output in bytes. */
size_t ha_state_encoded_max(const struct ha_state *state);
/* Checks the invariants that hold on replicated facts (I4, I6, I14, table consistency). Returns
 * NULL or the sentence that is violated. */
const char *ha_state_violation(const struct ha_state *state);

const char *ha_phase_name(uint8_t phase);
const char *ha_node_status_name(uint8_t status);

#endif
