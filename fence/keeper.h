/* SPDX-License-Identifier: Apache-2.0
 *
 * When may the watchdog be petted? The rule of the keeper, pure: no clock, no device. Times are
 * CLOCK_MONOTONIC_RAW in nanoseconds of this node.
 *
 *   DISARMED --arm--> LEASED --lease ends--> EXPIRED --fresh proof--> QUARANTINED
 *      ^                ^                       |  ^--proof too old-------'  |
 *      |                `---- a valid lease ----+----------------------------'
 *      `---- disarm (only after UNARMED, LEAVE, FREEZE or DISARM was applied; hamgrd's duty)
 *
 * Petted in LEASED and QUARANTINED only. EXPIRED ends in a reset W after the last pet, unless the
 * proof or a lease comes first. Leaving QUARANTINED comes before any guest is resumed (H15).
 *
 * While the host is suspended these times stand still, and for those who wait for its reset they do
 * not. Leases of heartbeats sent before it woke are void then: LEASED becomes EXPIRED until a new
 * lease or a proof comes. A proof stays: what is paused does not run in its sleep. Of the device it
 * is assumed that it resets the host at most W after waking if nobody pets it: Linux's drivers stop
 * it for a suspend and start it anew. Where that is later than others wait, it is given less.
 */
#ifndef FENCE_KEEPER_H
#define FENCE_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

enum keeper_state { KEEPER_DISARMED = 0, KEEPER_LEASED, KEEPER_EXPIRED, KEEPER_QUARANTINED };

struct keeper {
    uint8_t state;     /* enum keeper_state */
    uint64_t lease_ns; /* L: no lease end beyond now + L is believed */
    uint64_t lease_end_ns;
    uint64_t lease_nonce;    /* process that told it last; for the log only */
    uint64_t proof_ns;       /* when the newest proof's listing began; 0 = none */
    uint64_t proof_valid_ns; /* a proof counts for that long: 4 P, three may be lost in a row */
    bool has_slept;          /* slept_ns is known: kept over restarts... */
    int64_t slept_ns;        /* ...as this is: CLOCK_BOOTTIME - CLOCK_MONOTONIC... */
    uint64_t woke_ns;        /* ...and when a suspend was last noticed; 0 never */
    int64_t waited_end_ns;   /* the end of the lease that it voided, as those see it who wait */
};

/* poll_ms = P (1..10000). */
void keeper_init(struct keeper *keeper, uint32_t poll_ms);
/* lease_ms = L. Keeps a lease end that is still believable (a restarted keeper). While armed L only
 * grows: a lease that runs must stay believable. */
void keeper_arm(struct keeper *keeper, uint32_t lease_ms, uint64_t now_ns);
void keeper_disarm(struct keeper *keeper);
/* Call it before each of the others at the same time. slept_ns = CLOCK_BOOTTIME - CLOCK_MONOTONIC.
 * True: the host was suspended, and what lease there was is void. */
bool keeper_slept(struct keeper *keeper, int64_t slept_ns, uint64_t now_ns);
/* After a suspend: the timeout (whole seconds, in ms) that the device should get instead of
 * watchdog_ms, so that its reset comes while others still wait; 0: what it has will do. */
uint32_t keeper_hurry_ms(const struct keeper *keeper, uint32_t watchdog_ms, uint64_t now_ns);
/* A lease end from hamgrd. Returns false if it is refused: later than now + L, or of a heartbeat
 * from before a suspend. Ends only move forward: a new hamgrd inherits what is left of the old
 * one's. */
bool keeper_lease(struct keeper *keeper, uint64_t nonce, uint64_t end_ns, uint64_t now_ns);
/* hamgr-hv's proof that nothing runs and no I/O is outstanding. Returns false if it is too old,
 * from the future, or from before the lease ended or the host woke: it says nothing then. */
bool keeper_proof(struct keeper *keeper, uint64_t taken_ns, uint64_t now_ns);
/* Brings the state up to now; call right before each pet. True if the watchdog may be petted. */
bool keeper_may_pet(struct keeper *keeper, uint64_t now_ns);
/* "disarmed", "leased", "expired", "quarantined". static */
const char *keeper_state_name(uint8_t state);

#endif
