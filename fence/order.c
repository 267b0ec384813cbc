/* SPDX-License-Identifier: Apache-2.0
 *
 * How long an order to fence stands.
 */
#include "fence/order.h"

/* Three words in a row may be late: a daemon of a busy host is no reason to fence later. */
#define VOUCH_HEARTBEATS 4u
/* Clocks that are slewed part by 0.5 ms a second; what is shorter than this nobody is left behind
 * in. */
#define SLEPT_MIN_MS 100u

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

void fence_sleep_note(struct fence_sleep *sleep, uint64_t now_ms, uint64_t boot_ms)
{
    uint64_t ahead_ms = boot_ms - now_ms; /* modulo 2^64: only its changes count */

    if (sleep->is_known && (int64_t)(ahead_ms - sleep->ahead_ms) >= (int64_t)SLEPT_MIN_MS)
        sleep->woke_ms = now_ms > 0 ? now_ms : 1;
    sleep->is_known = true;
    sleep->ahead_ms = ahead_ms;
}

bool fence_sleep_is_over(const struct fence_sleep *sleep, uint64_t lease_end_ms, uint32_t lease_ms)
{
    return sleep->woke_ms == 0 || lease_end_ms >= sleep->woke_ms + lease_ms;
}
