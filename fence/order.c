/* SPDX-License-Identifier: Apache-2.0
 *
 * How long an order to fence stands.
 */
#include "fence/order.h"

#include "hamgr/base/slept.h"

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

void fence_sleep_note(struct fence_sleep *sleep, uint64_t now_ms, int64_t slept_ns)
{
    int64_t step_ns = slept_ns - sleep->slept_ns;

    if (sleep->is_known && step_ns <= SLEPT_MIN_NS && step_ns >= -SLEPT_MIN_NS)
        return;
    if (sleep->is_known)
        sleep->woke_ms = now_ms;
    sleep->is_known = true;
    sleep->slept_ns = slept_ns;
}

void fence_sleep_went_on(struct fence_sleep *sleep, uint64_t went_on_ms)
{
    if (went_on_ms > sleep->woke_ms)
        sleep->woke_ms = went_on_ms;
}

bool fence_sleep_is_over(const struct fence_sleep *sleep, uint64_t lease_end_ms, uint32_t lease_ms)
{
    return sleep->woke_ms == 0 || lease_end_ms > sleep->woke_ms + lease_ms;
}
