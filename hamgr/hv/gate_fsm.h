/* SPDX-License-Identifier: Apache-2.0
 *
 * What the gate decides, and nothing else: may a guest be made runnable now, must every guest be
 * paused now, when to look again. Pure; gate.c reads clocks and the keeper's page and does what is
 * ordered here. All times are CLOCK_MONOTONIC_RAW in nanoseconds unless named otherwise.
 *
 *            lease ended, void, page lost                round proved all paused and quiet
 *     OPEN ------------------------------> PAUSING -----------------------------> QUARANTINED
 *      ^                                    |  ^                                     |   |
 *      |    valid lease, no quarantine      |  +--- a round found less than that ----+   |
 *      +------------------------------------+--------------------------------------------+
 *
 * Opening unpauses nothing: whoever knows the log asks for each guest again.
 */
#ifndef HAMGR_HV_GATE_FSM_H
#define HAMGR_HV_GATE_FSM_H

#include <stdbool.h>
#include <stdint.h>

/* P of the lease arithmetic: the page is looked at, and a proof renewed, at least this often. */
#define GATE_P_NS UINT64_C(250000000)
/* While something is not paused or not quiet: five looks within P, so that the proof comes at most
 * 50 ms after the last write ended, and a guest's disk is not asked a thousand times a second. */
#define GATE_RETRY_NS UINT64_C(50000000)

enum gate_state { GATE_OPEN = 0, GATE_PAUSING = 1, GATE_QUARANTINED = 2 };

/* The world at one moment. */
struct gate_view {
    uint64_t now_ns;
    int64_t slept_ns; /* CLOCK_BOOTTIME - CLOCK_MONOTONIC: grows only while the machine sleeps */
    bool has_page;    /* the rest is from the keeper's page; false: it can't be read */
    bool is_armed;
    bool is_quarantined;
    uint64_t lease_end_ns;
    uint64_t lease_ns; /* L */
    bool is_disarmed;  /* from hamgrd's hello */
    bool is_frozen;
};

/* Caller-owned; private but for reading. Start from zero, then set what a state file remembered. */
struct gate_fsm {
    uint8_t state;  /* enum gate_state */
    bool was_armed; /* by the last page seen: kept over restarts */
    bool has_slept; /* slept_ns is known: kept over restarts */
    int64_t slept_ns;
    uint64_t void_end_ns; /* leases that end here or earlier were slept through: kept, too... */
    uint64_t woke_ns;     /* ...and so were those of heartbeats sent before this; 0 never slept */
    uint64_t round_ns;    /* when the next round of pausing and looking is due */
    uint64_t close_count; /* how often the gate closed */
};

struct gate_order {
    bool is_changed;   /* the gate opened or closed: tell everybody */
    bool is_round_due; /* pause all, look at all, then gate_fsm_round */
    uint64_t wake_ns;  /* call gate_fsm_tick at this time at the latest */
};

/* What a round found. */
struct gate_round {
    uint64_t taken_ns;   /* before its (last) listing was begun */
    bool is_listed;      /* the listing was complete */
    uint32_t not_paused; /* domains that may still be runnable */
    uint32_t not_quiet;  /* domains with I/O outstanding, or that can't prove it */
};

/* The last question before a domain is made runnable; also the first of each tick. */
bool gate_fsm_may_run(struct gate_fsm *fsm, const struct gate_view *view);
/* To be called at wake_ns, and whenever something in the view may have changed. */
void gate_fsm_tick(struct gate_fsm *fsm, const struct gate_view *view,
                   struct gate_order *ret_order);
/* After a due round. True: the keeper is owed the proof {taken_ns}. */
bool gate_fsm_round(struct gate_fsm *fsm, const struct gate_round *round, uint64_t now_ns,
                    struct gate_order *ret_order);

#endif
