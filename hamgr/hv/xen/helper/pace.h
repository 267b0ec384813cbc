/* SPDX-License-Identifier: Apache-2.0
 *
 * The downtime contract of a live save on Xen: libxenguest asks between its steps what to do next,
 * and the rule of precopy.h answers. What is measured comes through a table, so that it can be
 * tried without Xen. Pure apart from that table.
 *
 *   ask(0)    round 0 ─ ask(sent) ─ bitmap taken ─ ask(known) round 1 ─ ask(sent) ...
 *             at "sent": let the other end take all of it, count what is dirty, decide
 *
 * Counting does not take the bitmap, so that to stop costs no further round. Two traps: the counter
 * of dirty pages lives on from earlier attempts until the bitmap is taken first, and what
 * libxenguest counts as written holds millions of pages that do not exist.
 */
#ifndef HAMGR_HV_XEN_HELPER_PACE_H
#define HAMGR_HV_XEN_HELPER_PACE_H

#include "hamgr/hv/precopy.h"

/* From libxl's request until the guest stands still and its memory can be counted, and libxl's own
 * work behind the last page: measured 60 to 80 ms and 40 ms on nested Xen. */
#define PACE_SWITCH_US 110000u
/* A pipe that tells nothing and does not run empty within this is looked at no longer. */
#define PACE_SETTLE_US UINT64_C(5000000)
#define PACE_STEP_US   2000u

struct pace_ops {
    uint64_t (*now_us)(void *user);
    /* Pages written since the bitmap was taken last (or ever). 0 or a negative error. */
    int (*count_dirty)(void *user, uint64_t *ret_pages);
    /* Bytes of the native stream and pages with content written so far. */
    void (*sent)(void *user, uint64_t *ret_bytes, uint64_t *ret_pages);
    /* Bytes written, not taken over yet, as far as is known. *ret_is_told: the other end tells. */
    uint64_t (*backlog)(void *user, bool *ret_is_told);
    /* Waits until the other end tells something, at most us. False: aborted. */
    bool (*rest)(void *user, uint64_t us);
    void (*tell)(void *user, const struct hv_progress *progress);
};

enum pace_answer { PACE_ABORT = -1, PACE_GO_ON = 0, PACE_STOP = 1 };

struct pace {
    const struct pace_ops *ops;
    void *user;
    struct hv_save_params params;
    struct precopy precopy;
    struct precopy_rate rate;
    struct hv_progress now;
    uint64_t begin_us;
    uint64_t round_us;    /* when this round began */
    uint64_t round_bytes; /* sent before it */
    uint64_t round_pages;
    uint64_t counter_before; /* what the counter held when this attempt began */
    uint64_t taken_us;       /* when the bitmap was taken last */
    uint64_t asked_us;       /* when it was ordered to be taken */
    uint64_t take_cost_us;
    uint64_t stopped_us; /* when the guest was asked to stand still; 0 not yet */
    uint64_t left_bytes; /* of the last round, when it began */
    uint64_t last_bytes; /* sent before that */
    uint64_t told_us;
    struct ha_err err; /* why it was given up */
};

/* pages: of the guest, for round 0. */
void pace_init(struct pace *p, const struct pace_ops *ops, void *user,
               const struct hv_save_params *params, uint64_t pages);
/* libxenguest asks: the round is sent (is_sent), or the next one is known, which round 0 is at the
 * beginning. */
enum pace_answer pace_ask(struct pace *p, bool is_sent);
/* The guest is about to be asked to stand still; and it does. */
void pace_stopping(struct pace *p);
void pace_stopped(struct pace *p);
/* Behind the stop, before more is written or while writing waits: may it go on? 0 or an error that
 * says why not. */
int pace_check(struct pace *p);
/* Pages or bytes moved: tells how far it is, at most ten times a second. */
void pace_moved(struct pace *p);

#endif
