/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands of the replicated state: bodies of LOG_KIND_INIT and LOG_KIND_STATE entries. Each
 * names what it presumes (node incarnation, guest epoch, ticket); applying one whose presumption
 * no longer holds is a recorded no-op. Stable across versions: types and fields are only appended.
 */
#ifndef HAMGR_CORE_ENTRY_H
#define HAMGR_CORE_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/bytes.h"
#include "hamgr/base/digest.h"
#include "hamgr/base/id.h"
#include "hamgr/base/limits.h"

enum ha_cmd_type {
    HA_CMD_INIT = 1,        /* cluster id, generation, name, first node: entry 1 */
    HA_CMD_NODE_ADD = 2,    /* a node may join */
    HA_CMD_NODE_REMOVE = 3, /* refused while it is a voter, a member or owns a guest */
    HA_CMD_ARMED = 4,       /* its keeper works: L and W as read back */
    HA_CMD_UNARMED = 5,
    HA_CMD_FENCED = 6, /* evidence that an UNCLEAN incarnation runs nothing */
    HA_CMD_LEAVE = 7,
    HA_CMD_FREEZE = 8,
    HA_CMD_UNFREEZE = 9,
    HA_CMD_DISARM = 10,
    HA_CMD_ARM = 11,
    HA_CMD_MAINTENANCE = 12,
    HA_CMD_CAPACITY = 13,   /* memory for guests, as the node's hypervisor reports it */
    HA_CMD_FENCE_WANT = 14, /* operator: fence this incarnation although it is a member */
    HA_CMD_GUEST_ADD = 20,
    HA_CMD_GUEST_SET = 21,
    HA_CMD_GUEST_REMOVE = 22,
    HA_CMD_WANT = 23,        /* wanted state: started or stopped */
    HA_CMD_ASSIGN = 24,      /* FREE -> ASSIGNED */
    HA_CMD_STARTED = 25,     /* ASSIGNED -> RUNNING */
    HA_CMD_STOP = 26,        /* owner must stop it (graceful or destroy) -> STOPPING */
    HA_CMD_NOT_RUNNING = 27, /* from the owner, with proof -> FREE */
    HA_CMD_MIGRATE = 28,     /* RUNNING -> MIGRATING */
    HA_CMD_SWITCH = 29,      /* MIGRATING -> SWITCHED */
    HA_CMD_ABORT = 30,       /* MIGRATING -> RUNNING */
    HA_CMD_ARRIVED = 31,     /* SWITCHED -> RUNNING on the destination */
    HA_CMD_REVERT = 32,      /* SWITCHED -> RUNNING on the source */
    HA_CMD_CLEAR = 33,       /* operator: forget restart failures of a guest */
    HA_CMD_MOVED = 34,       /* how a migration went, in numbers: changes nothing, is history */
};

enum ha_evidence {
    HA_EVIDENCE_AGENT = 1,    /* a fence agent switched it off and status says off */
    HA_EVIDENCE_LEASE = 2,    /* T_wait passed for an ARMED incarnation */
    HA_EVIDENCE_REBOOT = 3,   /* it is back with a new boot id, same store and hardware */
    HA_EVIDENCE_OPERATOR = 4, /* typed confirmation */
};

enum ha_want { HA_WANT_STOPPED = 0, HA_WANT_STARTED = 1 };

enum ha_stop_mode {
    HA_STOP_GRACEFUL = 1, /* ask the guest, destroy it after its stop timeout */
    HA_STOP_DESTROY = 2,
};

/* Why a guest is not running any more; decides between restart, stop and "failed". */
enum ha_end_cause {
    HA_END_STOPPED = 1,      /* a STOP was carried out */
    HA_END_POWEROFF = 2,     /* the guest switched itself off: wanted becomes stopped */
    HA_END_REBOOT = 3,       /* the guest asked for a reboot: start again, not a failure */
    HA_END_CRASHED = 4,      /* counts against its restart limit */
    HA_END_START_FAILED = 5, /* likewise, and prefers another node next time */
    HA_END_LOST = 6,         /* found missing by inventory: likewise a crash */
};

struct ha_policy {
    uint16_t priority;         /* 0..1000, higher first; default 100 */
    uint16_t start_order;      /* 0..1000, lower first among equal priorities; default 0 */
    uint16_t restart_max;      /* failures within restart_window_s before it is left alone; 3 */
    uint32_t restart_window_s; /* default 3600 */
    uint32_t stop_timeout_ms;  /* graceful stop, then destroy; default 60000 */
    uint32_t max_downtime_ms;  /* migration: pause contract; 0 = the cluster's default */
    bool is_protected;         /* restarted after a failure of node or guest; default true */
};

enum ha_moved_outcome {
    HA_MOVED_ARRIVED = 1,
    HA_MOVED_ABORTED = 2,
    HA_MOVED_REVERTED = 3,
};

/* A migration that is over, as its ends saw it. 0 where nothing is known. */
struct ha_moved {
    uint8_t outcome; /* enum ha_moved_outcome */
    uint32_t src;
    uint32_t dst;
    uint64_t began_wall_ms;
    uint64_t ended_wall_ms;
    uint64_t raw_bytes;  /* native stream */
    uint64_t wire_bytes; /* TLS payload */
    uint32_t rounds;
    uint32_t throttle_percent; /* how far it was slowed down; 100 = not at all */
    uint32_t max_downtime_ms;  /* the contract */
    uint32_t predicted_us;     /* pause foreseen when the guest was stopped */
    uint32_t source_us;        /* from the stop until SWITCH was applied at the source */
    uint32_t destination_us;   /* from the hand-over until it was made runnable */
    uint32_t guest_us;         /* its own clock: last step there to first step here */
    uint32_t forecast_ms;      /* of hactl migrate --forecast before it: time, pause, bytes */
    uint32_t forecast_pause_ms;
    uint64_t forecast_bytes;
    char detail[HA_TEXT_MAX]; /* why it did not move */
};

/* Who caused a command, for history and explain: an operator's login or a part of hamgr. */
struct ha_cmd {
    uint8_t type;    /* enum ha_cmd_type */
    uint16_t reason; /* enum ha_reason (core/reason.h) */
    uint64_t cause;  /* index of the entry that led to this one, 0 = none */
    char actor[32];  /* "planner", "n2", "operator root" */
    /* Used by several types: */
    uint32_t node;        /* subject node, owner, or migration source */
    uint64_t incarnation; /* of node; operators' FREEZE, CAPACITY, STOP may leave it 0 = any */
    struct ha_uuid guest;
    uint64_t epoch;  /* ASSIGN, MIGRATE: the new one. STARTED, STOP, NOT_RUNNING: the current.
                      * ARMED: the index applied when the keeper was seen armed */
    uint64_t ticket; /* SWITCH, ABORT, ARRIVED, REVERT, MOVED: index of the MIGRATE entry. REVERT
                      * names node and incarnation of the destination; the others may name the end
                      * that proposes, or no node */
    union {
        struct {
            struct ha_uuid cluster_id;
            uint64_t generation;
            char name[HA_NAME_MAX];      /* cluster */
            char node_name[HA_NAME_MAX]; /* first node */
            char addr[HA_ADDR_MAX];
            struct ha_uuid store_id; /* first voter's */
            bool is_witness;
        } init;
        struct {
            char name[HA_NAME_MAX];
            char addr[HA_ADDR_MAX]; /* where its migration port listens */
            bool is_witness;        /* may run no guests */
        } node_add;
        struct {
            uint32_t lease_ms;    /* L */
            uint32_t watchdog_ms; /* W, read back from the largest watchdog armed */
        } armed;
        struct {
            uint8_t evidence; /* enum ha_evidence */
            char detail[128]; /* "fence_ipmilan ipmi-n1: status off", "confirmed by root" */
        } fenced;
        struct {
            bool is_on;
        } maintenance;
        struct {
            uint64_t mem_kib;
        } capacity;
        struct {
            char name[HA_NAME_MAX];
            uint64_t mem_kib;
            uint8_t want; /* enum ha_want */
            struct ha_policy policy;
            struct ha_digest definition;     /* of the definition's bytes */
            const uint8_t *definition_bytes; /* borrowed; <= HA_DEFINITION_MAX */
            uint32_t definition_size;
        } guest_add;
        struct {
            struct ha_policy policy; /* all fields, already merged by the proposer */
        } guest_set;
        struct {
            uint8_t want; /* enum ha_want */
        } want;
        struct {
            uint8_t mode; /* enum ha_stop_mode */
            /* Not 0: stop in order to run it elsewhere (failover of a living guest). */
            bool is_relocation;
        } stop;
        struct {
            uint8_t cause; /* enum ha_end_cause */
            char detail[128];
        } not_running;
        struct {
            uint32_t dst;
            uint64_t dst_incarnation;
            uint32_t max_downtime_ms; /* 0 = default */
            uint32_t deadline_ms;     /* whole migration; 0 = default */
            uint8_t on_slow;          /* enum hv_on_slow; 0 = default */
        } migrate;
        struct {
            char detail[HA_TEXT_MAX]; /* ABORT, REVERT: what went wrong, for people */
        } text;
        struct ha_moved moved;
    } u;
};

/* Encodes cmd as an entry body. Fails the writer when a text or definition is too long. */
void ha_cmd_encode(struct ha_writer *w, const struct ha_cmd *cmd);
/* Decodes a body; borrowed pointers point into it. Returns 0, -HA_E_CORRUPT, or -HA_E_VERSION for
 * a type this build does not know. */
int ha_cmd_decode(const uint8_t *body, size_t size, struct ha_cmd *ret_cmd);
/* Name of a command type for logs and events: "ASSIGN". static */
const char *ha_cmd_name(uint8_t type);
const char *ha_evidence_name(uint8_t evidence);
const char *ha_moved_name(uint8_t outcome);
const char *ha_end_cause_name(uint8_t cause);

/* Defaults of a guest's policy. */
struct ha_policy ha_policy_default(void);

#endif
