/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd, hamgr-hv <-> hamgr-watchdog (the keeper), at /run/hamgr/keeper.sock, and the page the
 * keeper publishes. The keeper is the only process that pets the watchdog, and only while the lease
 * is valid or hamgr-hv's proof of quiet is fresh.
 *
 * All times: CLOCK_MONOTONIC_RAW of this node in nanoseconds.
 */
#ifndef HAMGR_IPC_KEEPERPROTO_H
#define HAMGR_IPC_KEEPERPROTO_H

#include <stdatomic.h>

#include "hamgr/base/bytes.h"
#include "hamgr/ipc/sock.h"

#define KEEPER_SOCKET HA_SOCK_DIR "/keeper.sock"
#define KEEPER_PAGE   HA_SOCK_DIR "/lease" /* 4096 bytes, mode 0444, written by the keeper only */

enum keeper_type {
    KEEPER_ARM = 1, /* hamgrd, keeper_arm: arm all watchdogs. Reply KEEPER_STATUS */
    KEEPER_DISARM,  /* hamgrd: magic close; only after UNARMED/LEAVE/FREEZE/DISARM was applied */
    KEEPER_LEASE,   /* hamgrd, keeper_lease. No reply */
    KEEPER_PROOF,   /* hamgr-hv, keeper_proof. No reply */
    KEEPER_QUERY,   /* anyone: reply KEEPER_STATUS */
    KEEPER_STATUS = 64, /* keeper_status; also an event when it changes */
};

struct keeper_arm {
    uint32_t lease_ms;    /* L: a lease end later than now + L is refused */
    uint32_t watchdog_ms; /* wanted W */
};

struct keeper_lease {
    uint64_t nonce; /* hamgrd process; a new one inherits what is left, never more */
    uint64_t end_ns;
};

struct keeper_proof {
    uint64_t taken_ns; /* when the listing it rests on was begun */
};

struct keeper_status {
    bool is_armed;
    uint32_t watchdog_ms; /* W read back, the largest of the armed ones */
    bool is_quarantined;
    uint64_t lease_end_ns;
    char text[HA_TEXT_MAX]; /* why not armed, else the device names */
};

/* The shared page. Single writer; readers retry while `sequence` is odd or changes (seqlock). */
struct keeper_page {
    _Atomic uint32_t sequence;
    uint32_t version;              /* 1 */
    _Atomic uint64_t lease_end_ns; /* 0 = none yet */
    _Atomic uint32_t is_quarantined;
    _Atomic uint32_t is_armed; /* 0: no pausing at lease end is owed to anyone */
    /* For the keeper itself after a restart: what it was armed with. */
    _Atomic uint32_t lease_ms;
    _Atomic uint32_t watchdog_ms;
    _Atomic uint32_t has_slept; /* 0 in the page of a keeper that did not know of suspends */
    _Atomic int64_t slept_ns, waited_end_ns;
    _Atomic uint64_t woke_ns;
};

void keeper_arm_encode(struct ha_writer *w, const struct keeper_arm *m);
int keeper_arm_decode(const uint8_t *body, size_t size, struct keeper_arm *ret);
void keeper_lease_encode(struct ha_writer *w, const struct keeper_lease *m);
int keeper_lease_decode(const uint8_t *body, size_t size, struct keeper_lease *ret);
void keeper_proof_encode(struct ha_writer *w, const struct keeper_proof *m);
int keeper_proof_decode(const uint8_t *body, size_t size, struct keeper_proof *ret);
void keeper_status_encode(struct ha_writer *w, const struct keeper_status *m);
int keeper_status_decode(const uint8_t *body, size_t size, struct keeper_status *ret);
/* Maps the page read-only; NULL and err if the keeper has not made it. */
const struct keeper_page *keeper_page_map(struct ha_err *err);
/* The same for a page at another path; keeper_page_unmap ends either. */
const struct keeper_page *keeper_page_map_at(const char *path, struct ha_err *err);
void keeper_page_unmap(const struct keeper_page *page);
/* What the gate needs of the page. */
struct keeper_lease_copy {
    uint64_t lease_end_ns;
    uint32_t lease_ms; /* L: the heartbeat that the lease is of was sent so long before its end */
    bool is_quarantined, is_armed;
};

/* A consistent copy; of a page whose writer died in the middle of an update, one without a lease.
 */
struct keeper_lease_copy keeper_page_read(const struct keeper_page *page);

#endif
