/* SPDX-License-Identifier: Apache-2.0
 *
 * How long an order to run a fence device stands at hamgr-fence. Who gave it may hang, be cut off
 * and be left behind; the node it is about may be a member again by then, and the word that takes
 * the order back never comes. So hamgrd vouches for an order for a short time only, and goes on
 * doing so with each heartbeat while the order's view stands and a quorum backs it. No agent is
 * begun behind that; one that has begun is finished, for a half-done `off` must be verified.
 *
 * Much shorter than the lease L: in L a hung leader is left behind, and whom it fenced is back.
 *
 * And who was suspended with his host, or stood still alone, gives and takes no order before a
 * quorum has heard of him since: his view and his peers look as fresh to him as when he fell
 * asleep, and an order that has waited for him all the while looks like one that was just given.
 *
 * All times: CLOCK_BOOTTIME of this node in milliseconds, which counts a suspend of the host, too,
 * where nothing else is said. Pure.
 */
#ifndef FENCE_ORDER_H
#define FENCE_ORDER_H

#include <stdbool.h>
#include <stdint.h>

struct fence_order {
    uint64_t end_ms; /* vouched for until then; 0 = never was */
};

/* Until when hamgrd vouches for an order now. */
uint64_t fence_order_end_ms(uint64_t now_ms, uint32_t heartbeat_ms);
/* hamgrd's word came: only a later end counts, words may come late together. */
void fence_order_vouch(struct fence_order *order, uint64_t end_ms);
/* The next agent of this order may begin. Ask right before it does. */
bool fence_order_stands(const struct fence_order *order, uint64_t now_ms);

/* All zero: nothing is known, and no suspend was seen. */
struct fence_sleep {
    bool is_known;
    int64_t slept_ns; /* when last asked */
    uint64_t woke_ms; /* the last suspend was noticed then, or a later hang was over; 0 = none */
};

/* now_ms: by the clock that the lease is counted by, which stands in a suspend; slept_ns: of
 * hamgr/base/slept.h. Call it before fence_sleep_is_over is asked. */
void fence_sleep_note(struct fence_sleep *sleep, uint64_t now_ms, int64_t slept_ns);
/* This process went on then, on the clock of now_ms; 0: it never stood still. Only what is later
 * counts. */
void fence_sleep_went_on(struct fence_sleep *sleep, uint64_t went_on_ms);
/* A heartbeat sent since the host woke was acknowledged by a quorum: the lease, which ends lease_ms
 * behind the last such one, says so. Always true where no suspend and no hang was seen. */
bool fence_sleep_is_over(const struct fence_sleep *sleep, uint64_t lease_end_ms, uint32_t lease_ms);

#endif
