/* SPDX-License-Identifier: Apache-2.0
 *
 * How long an order to run a fence device stands at hamgr-fence. Who gave it may hang, be cut off
 * and be left behind; the node it is about may be a member again by then, and the word that takes
 * the order back never comes. So hamgrd vouches for an order for a short time only, and goes on
 * doing so with each heartbeat while the order's view stands and a quorum is heard. No agent is
 * begun behind that; one that has begun is finished, for a half-done `off` must be verified.
 *
 * Much shorter than the lease L: in L a hung leader is left behind, and whom it fenced is back.
 *
 * All times: CLOCK_BOOTTIME of this node in milliseconds, which counts a suspend of the host, too.
 * Pure.
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

#endif
