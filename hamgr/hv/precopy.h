/* SPDX-License-Identifier: Apache-2.0
 *
 * When to stop a guest that is being copied while it runs: the downtime contract of a live save.
 * Pure. The caller measures a round (what is dirty now, what the stream drains per second, how long
 * the stop itself takes) and does as it is told.
 *
 *   predicted pause = fixed cost + (dirty bytes + bytes still in the pipe) / drain rate
 *   <= aim                                            -> STOP (more rounds can't make it better)
 *   <= max_downtime, and rounds no longer shrink it   -> STOP (good enough)
 *   >  max_downtime, and no progress or deadline      -> what on_slow says:
 *        THROTTLE  slow the guest down step by step; at the lowest step STOP after all
 *        PAUSE     STOP, whatever it takes
 *        ABORT     give up, the guest runs on
 *   otherwise                                         -> GO_ON with one more round
 */
#ifndef HAMGR_HV_PRECOPY_H
#define HAMGR_HV_PRECOPY_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/hv/hv.h"

/* A pause of this length is as good as none: its larger half is not the copying any more. */
#define PRECOPY_AIM_US 10000u
/* No progress: this many rounds without the dirty set getting smaller by a tenth. */
#define PRECOPY_STALE_ROUNDS    30u
#define PRECOPY_THROTTLE_ROUNDS 3u  /* rounds without progress before another throttle step */
#define PRECOPY_THROTTLE_FLOOR  10u /* percent: the last step before STOP */
/* Used until a rate was measured: 100 MB/s, a gigabit link. */
#define PRECOPY_RATE_DEFAULT UINT64_C(100000000)

enum precopy_action { PRECOPY_GO_ON = 1, PRECOPY_STOP, PRECOPY_THROTTLE, PRECOPY_ABORT };

struct precopy {
    uint64_t max_downtime_us;
    uint64_t deadline_us; /* 0 = none */
    uint8_t on_slow;      /* enum hv_on_slow */
    uint32_t stale_rounds;
    uint32_t throttle_rounds; /* since the last throttle step */
    uint32_t throttle_percent;
    uint64_t best_pages;
    uint64_t last_pages;
};

struct precopy_round {
    uint64_t elapsed_us;    /* since the save began */
    uint64_t dirty_pages;   /* to be sent in the next round, or stopped */
    uint64_t page_bytes;    /* stream bytes of one page */
    uint64_t backlog_bytes; /* written, but not drained yet */
    uint64_t rate_bytes_s;  /* measured drain rate, 0 = not measured yet */
    uint64_t fixed_us;      /* stop, last scan, end of stream */
};

struct precopy_decision {
    enum precopy_action action;
    uint64_t predicted_us;
    uint32_t throttle_percent; /* of PRECOPY_THROTTLE: the new cap */
    const char *why;           /* static text */
};

/* Begins; total_pages is what round 0 sends. max_downtime_ms 0 counts as the aim. */
void precopy_init(struct precopy *p, const struct hv_save_params *params, uint64_t total_pages);
/* After a round was sent and the dirty set collected. */
struct precopy_decision precopy_decide(struct precopy *p, const struct precopy_round *round);

/* Drain rate. Bytes that only went into buffers are no progress: intervals count from the moment
 * the pipe was full for the first time or PRECOPY_BUFFER bytes were written. */
#define PRECOPY_BUFFER   UINT64_C(1048576)
#define PRECOPY_INTERVAL UINT64_C(4194304) /* bytes drained before a rate is believed */
struct precopy_rate {
    uint64_t drained_mark;
    uint64_t time_mark_us;
    uint64_t rate_bytes_s; /* 0 until known; newer intervals weigh a half */
};
/* Tells the meter the state of the stream: bytes written so far and still in the pipe, at now_us.
 * is_idle: nothing was being written (the interval is dropped, not averaged). */
void precopy_rate_update(struct precopy_rate *r, uint64_t written, uint64_t backlog,
                         uint64_t now_us, bool is_idle);

#endif
