/* SPDX-License-Identifier: Apache-2.0
 *
 * When to stop a guest that is being copied while it runs: the downtime contract of a live save.
 * Pure. The caller measures a round (what is dirty now, what the stream drains per second and how
 * much that varies, how long everything else of the pause takes) and does as it is told.
 *
 *   copying         = (dirty bytes + bytes written, but not taken over at the other end)
 *                     / (rate - twice its spread)
 *   predicted pause = fixed cost + copying
 *
 *   rate: of whole rounds, from the first byte written until the receiver has the last one. So each
 *   round is a rehearsal of the last: the same kind of pages, the same buffers, the same way there
 *   and back. Round 0 is none: it may be zeros, which cost a link nothing.
 *
 *   predicted <= max_downtime, but more dirty pages
 *       than a rehearsal can speak for                -> GO_ON (rehearse)
 *   predicted <= max_downtime, and copying <= aim     -> STOP (more rounds can't make it better)
 *   predicted <= max_downtime, two rounds in a row
 *       did not shrink it, or the deadline is near    -> STOP (good enough)
 *   predicted >  max_downtime, and no progress, too
 *       many rounds or the deadline                   -> what on_slow says:
 *        THROTTLE  slow the guest down step by step (from half of the deadline on in each round);
 *                  past the lowest step, ABORT
 *        PAUSE     STOP, whatever it takes: the one that may break max_downtime; at once when the
 *                  fixed cost alone breaks it and copying is small beside that, or does not shrink
 *        ABORT     give up, the guest runs on
 *   otherwise                                         -> GO_ON with one more round
 *
 * It always ends: after PRECOPY_ROUNDS_MAX rounds each further one is a step down or the end.
 */
#ifndef HAMGR_HV_PRECOPY_H
#define HAMGR_HV_PRECOPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/hv/hv.h"

/* Copying for this long is as good as none: the larger part of a pause is the switch itself. */
#define PRECOPY_AIM_US 4000u
/* No progress: this many rounds without the dirty set getting smaller by a tenth. */
#define PRECOPY_STALE_ROUNDS 8u
/* A round speaks for as many pages as it had, and for twice as many: a shaper that lets a burst
 * through free of charge would make more than that look cheap. */
#define PRECOPY_REHEARSED_TIMES 2u
#define PRECOPY_FLAT_ROUNDS     2u /* rounds in a row that did not shrink it by a quarter */
/* Copying for this part of a fixed cost that breaks the contract alone is as good as none. */
#define PRECOPY_HOPELESS_PART   8u
#define PRECOPY_THROTTLE_ROUNDS 3u /* rounds without progress before another throttle step */
#define PRECOPY_ROUNDS_MAX      60u
#define PRECOPY_THROTTLE_STEPS  6u /* 80, 60, 40, 20, 10, 5 percent of what the guest used */
/* Used until a rate was measured: 100 MB/s, a gigabit link. */
#define PRECOPY_RATE_DEFAULT UINT64_C(100000000)
/* From a source that gives up behind the stop until its guest runs again: a failed verb, ABORT
 * committed, RUN. Measured 10 to 20 ms on two busy cores. */
#define PRECOPY_RESUME_US 20000u

enum precopy_action { PRECOPY_GO_ON = 1, PRECOPY_STOP, PRECOPY_THROTTLE, PRECOPY_ABORT };

struct precopy {
    uint64_t max_downtime_us;
    uint64_t deadline_us; /* 0 = none */
    uint8_t on_slow;      /* enum hv_on_slow */
    uint32_t rounds;
    uint32_t stale_rounds;
    uint32_t flat_rounds;
    uint32_t throttle_rounds; /* since the last throttle step */
    uint32_t throttle_step;   /* steps taken */
    uint64_t best_pages;
    uint64_t last_pages;
    uint64_t least_us; /* smallest predicted pause so far */
};

struct precopy_round {
    uint64_t elapsed_us;     /* since the save began */
    uint64_t dirty_pages;    /* to be sent in the next round, or stopped */
    uint64_t page_bytes;     /* stream bytes of one page */
    uint64_t round_pages;    /* sent in the round that is over */
    uint64_t backlog_bytes;  /* written, but not taken over yet */
    uint64_t rate_bytes_s;   /* of precopy_rate, 0 = not measured yet */
    uint64_t spread_bytes_s; /* its mean deviation */
    uint64_t dirty_bytes_s;  /* what the guest writes, for the words */
    uint64_t fixed_us;       /* stop, last scan, end of stream, hand-over */
};

struct precopy_decision {
    enum precopy_action action;
    uint64_t predicted_us;
    uint32_t throttle_percent; /* the cap in force; of PRECOPY_THROTTLE: the new one */
    const char *why;           /* static text */
};

/* Begins; total_pages is what round 0 sends. max_downtime_ms 0: no contract, only the aim. */
void precopy_init(struct precopy *p, const struct hv_save_params *params, uint64_t total_pages);
/* Before anything is sent: false if the fixed cost alone breaks the contract. */
bool precopy_admits(const struct precopy *p, uint64_t fixed_us);
/* After a round was sent and the dirty set collected. */
struct precopy_decision precopy_decide(struct precopy *p, const struct precopy_round *round);
/* The guest is stopped since stopped_us and left_bytes are to be sent: may it go on? False only
 * when the contract would be broken and giving up now keeps it. */
bool precopy_may_finish(const struct precopy *p, uint64_t stopped_us, uint64_t left_bytes,
                        const struct precopy_round *round);
/* Why it was given up, with the numbers and the smallest change that would do. */
void precopy_explain(const struct precopy *p, const struct precopy_round *round, char *ret_text,
                     size_t size);
/* The percent of a throttle step, 1 .. PRECOPY_THROTTLE_STEPS; 0: 100. */
uint32_t precopy_throttle_percent(uint32_t step);

/* A writer waits at the end of a round until everything was taken over: what is under way when the
 * guest stops is waited for within its pause. Whose stream does not tell (takenproto.h) sees its
 * pipe run empty, and waits for so long besides. */
#define PRECOPY_HIDDEN        UINT64_C(524288)
#define PRECOPY_SETTLE_MAX_US 100000u
uint64_t precopy_settle_us(uint64_t rate_bytes_s, uint64_t round_bytes);

/* The rate of rounds. */
struct precopy_rate {
    uint64_t rate_bytes_s;   /* 0 until known; newer rounds weigh a half */
    uint64_t spread_bytes_s; /* mean deviation; newer ones weigh a quarter */
    uint32_t rounds;
};
/* A round is over: so many bytes in so long a time, from the first one written until the last was
 * taken over. The first two replace what was known: round 0, and the first that is a rehearsal. */
void precopy_rate_round(struct precopy_rate *r, uint64_t bytes, uint64_t us);

/* A cost that is measured now and then, and what it may be next time: mean plus twice the mean
 * deviation. Newer ones weigh a quarter. */
struct precopy_cost {
    uint64_t mean_us; /* 0 = never measured */
    uint64_t spread_us;
};
void precopy_cost_update(struct precopy_cost *c, uint64_t us);
/* Somebody relied on it and nothing new was measured: a quarter of what is above default_us is
 * forgotten, so that one bad time does not forbid everything that could correct it. */
void precopy_cost_fade(struct precopy_cost *c, uint64_t default_us);
uint64_t precopy_cost_high(const struct precopy_cost *c, uint64_t default_us);

/* Where a forecast's rate is from. */
enum precopy_rate_from {
    PRECOPY_FROM_GUESS = 0,
    PRECOPY_FROM_OTHERS, /* migrations to other nodes */
    PRECOPY_FROM_LINK,   /* migrations to that node, as it acknowledged them */
    PRECOPY_FROM_PROBE,  /* what the way there took a moment ago, of random pages */
};

/* What a migration will take, before it begins. Rates in bytes/s. */
struct precopy_plan {
    uint64_t memory_bytes;
    uint64_t dirty_bytes_s;
    uint64_t rate_bytes_s;
    uint64_t rate_low_bytes_s; /* what it may be at worst */
    uint64_t rate_high_bytes_s;
    uint64_t fixed_us;
    uint64_t fixed_low_us;
    uint64_t max_downtime_us;
    uint64_t setup_us; /* connect, build the destination */
};
struct precopy_forecast {
    bool is_converging; /* at the rate given */
    uint64_t time_ms, time_low_ms, time_high_ms;
    uint64_t pause_ms, pause_low_ms, pause_high_ms;
    uint64_t bytes, bytes_low, bytes_high; /* of the native stream */
    uint32_t rounds;
};
void precopy_foresee(const struct precopy_plan *plan, struct precopy_forecast *ret_forecast);

/* What is known of the way before a migration. */
struct precopy_way {
    /* A probe's, of pages that do not compress; 0: there was none. */
    uint64_t link_bytes_s, link_low_bytes_s, link_high_bytes_s;
    /* Of migrations before: what of the native stream a byte on the wire stood for, in thousandths;
     * 0: not known. is_own: of this guest's. */
    uint32_t ratio_permille;
    bool is_own_ratio;
    /* ... and how fast they were, KiB/s; mean 0: there were none. seen_from says which. */
    struct precopy_cost seen_kib_s;
    uint8_t seen_from;      /* enum precopy_rate_from, of the first three */
    uint64_t guess_bytes_s; /* believed before the first; 0: PRECOPY_RATE_DEFAULT */
    uint64_t cap_bytes_s;   /* own limit of the wire, 0 = none */
};
/* Fills the plan's three rates. A probe says what the wire takes; what it does not see (how well
 * these pages compress, how fast the hypervisors are) is from migrations before, and where the
 * wire would take more than migrations there ever moved, they are believed. Returns where the
 * middle one is from, enum precopy_rate_from. */
uint8_t precopy_rates(const struct precopy_way *way, struct precopy_plan *plan);

#endif
