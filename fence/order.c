/* SPDX-License-Identifier: Apache-2.0
 *
 * How long an order to fence stands.
 */
#include "fence/order.h"

/* Three words in a row may be late: a daemon of a busy host is no reason to fence later. */
#define VOUCH_HEARTBEATS 4u

uint64_t fence_order_end_ms(uint64_t now_ms, uint32_t heartbeat_ms)
{
    return now_ms + VOUCH_HEARTBEATS * (uint64_t)heartbeat_ms;
}

void fence_order_vouch(struct fence_order *order, uint64_t end_ms)
{
    if (end_ms > order->end_ms)
        order->end_ms = end_ms;
}

bool fence_order_stands(const struct fence_order *order, uint64_t now_ms)
{
    return now_ms < order->end_ms;
}
