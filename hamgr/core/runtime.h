/* SPDX-License-Identifier: Apache-2.0
 *
 * What one node knows beside the replicated state: liveness, timers, reports of peers, progress of
 * operations. Filled by the shell, read by the planner, the reconciler, status and explain. Plain
 * data: a snapshot of it and of the state is enough to replay any decision.
 */
#ifndef HAMGR_CORE_RUNTIME_H
#define HAMGR_CORE_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/limits.h"
#include "hamgr/core/state.h"
#include "hamgr/hv/hv.h"
#include "quorum/log.h"

/* Reported by each member about itself every second, and at once when it changes. */
struct ha_report {
    uint32_t node;        /* 0 = no report yet */
    uint64_t received_ms; /* here, monotonic */
    bool is_hv_ready;     /* hamgr-hv answers */
    bool is_quarantined;
    bool is_shutting_down; /* host shutdown: guests stop or move by policy */
    bool is_keeper_armed;
    uint32_t starting_count; /* starts in flight there */
    uint64_t applied;        /* its applied index */
    uint64_t mem_kib;        /* the hypervisor's memory for guests */
    uint32_t fence_devices;  /* devices its hamgr-fence knows */
    uint32_t store_stall_ms;
    char version[16];
    char alarm[HA_TEXT_MAX]; /* the most important thing wrong there, else empty */
};

/* A fence attempt in flight or done, as the leader knows it. */
struct ha_fence_progress {
    uint32_t node; /* 0 = slot unused */
    uint64_t incarnation;
    uint32_t attempts;
    uint64_t started_ms;
    uint64_t evidence_ms;   /* E so far */
    uint64_t wait_ms;       /* T_wait it must reach; 0 = not self-fenced by assumption */
    uint64_t hold_until_ms; /* H after a reunion; 0 = none */
    bool has_no_device;     /* no member has a fence device for it */
    char text[HA_TEXT_MAX]; /* last result */
};

/* What a migration's pages get at present, and why: level auto chooses anew all the time. */
struct ha_packing {
    bool is_known;       /* the source's stream has said it */
    int8_t level;        /* of zstd; 0 = stored as they are */
    uint32_t codec_mbit; /* what all its workers could compress at level 1; 0 = not known */
    uint32_t link_mbit;  /* what the link takes; 0 = not known */
};

/* A migration in flight, as reported by its source (and destination). */
struct ha_move_progress {
    uint64_t ticket; /* 0 = slot unused */
    uint8_t step;    /* enum ha_move_step */
    struct hv_progress hv;
    uint64_t wire_bytes;
    uint64_t rate_kib_s; /* native bytes, last second */
    uint64_t remaining_kib;
    uint32_t eta_ms;   /* 0 = not known */
    bool is_diverging; /* the guest writes faster than the stream drains */
    uint64_t elapsed_ms;
    uint32_t pause_us;    /* the source's, once SWITCH was applied there */
    uint32_t forecast_ms; /* of hactl migrate --forecast before it; 0 = none */
    uint32_t forecast_pause_ms;
    uint64_t forecast_bytes;
    struct ha_packing packing;
    char text[HA_TEXT_MAX];
};

enum ha_move_step {
    HA_MOVE_PREPARING = 1, /* destination builds, sockets connect, TLS */
    HA_MOVE_COPYING,       /* live rounds */
    HA_MOVE_STOPPED,       /* guest suspended, last pages, drain */
    HA_MOVE_DECIDING,      /* SWITCH proposed */
    HA_MOVE_FINISHING,     /* ARRIVED, cleanup */
    HA_MOVE_FAILED,
};

/* What stands against a guest on a node that is fit otherwise: the nodes' own checks found it (a
 * kernel is missing there, the processors differ). Its text names no limit of a pause: a move may
 * say another one. */
struct ha_bar {
    struct ha_uuid guest; /* zero: any guest */
    uint32_t node;        /* it can't run there */
    uint32_t from;        /* not 0: only a move from this node can't end there */
    uint32_t pause_ms;    /* not 0: it can, standing still for so long; no bar if that may be */
    uint32_t contract_ms; /* what may be, unless the move says otherwise; with pause_ms */
    char text[HA_TEXT_MAX];
    char fix[HA_TEXT_MAX];
};

struct ha_runtime {
    uint64_t now_ms; /* CLOCK_MONOTONIC_RAW */
    uint64_t wall_ms;
    uint32_t self;
    bool is_open; /* this node is in an open view */
    bool is_leader;
    struct log_view view;
    uint64_t view_age_ms;
    uint64_t commit_index;
    uint64_t lease_end_ms;
    uint64_t lease_ms; /* L in force here */
    uint32_t voter_count;
    uint32_t hold_ms; /* H */
    struct log_timing timing;
    uint8_t corosync_health; /* enum transport_health */
    char corosync_text[HA_TEXT_MAX];
    bool is_votequorum_quorate; /* shown, never counted */
    bool is_store_failed;
    uint64_t store_stall_ms;
    uint64_t loop_gap_ms;     /* the loop's longest absence in the last 10 to 20 s */
    uint64_t loop_gap_ms_max; /* ... since the start */
    uint32_t commit_us;       /* median of own proposals, made to applied; 0 = none yet */
    bool is_gate_open;
    bool is_quarantined;
    char gate_text[HA_TEXT_MAX];
    char alarm[HA_TEXT_MAX]; /* what this node reports as wrong about itself, else empty */
    struct ha_report reports[HA_NODES_MAX];        /* parallel to state->nodes */
    struct ha_fence_progress fences[HA_NODES_MAX]; /* parallel to state->nodes */
    uint32_t move_count;
    struct ha_move_progress moves[HA_TICKETS_MAX];
    uint32_t bar_count;
    const struct ha_bar *bars; /* ascending by guest; the caller's */
};

/* Fences may start only when this view followed the last one without a gap, or H has passed. */
static inline bool ha_runtime_is_held(const struct ha_runtime *rt, const struct ha_node *node)
{
    return node->is_hold && rt->view_age_ms < rt->hold_ms;
}

#endif
