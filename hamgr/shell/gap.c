/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/shell/gap.h"

static void turn_window(struct loop_gap *gap, uint64_t now_ms)
{
    uint64_t window = now_ms / GAP_WINDOW_MS;

    if (window == gap->window)
        return;
    gap->previous_ms = window == gap->window + 1 ? gap->now_ms : 0;
    gap->now_ms = 0;
    gap->window = window;
}

void gap_note(struct loop_gap *gap, uint64_t now_ms, uint64_t length_ms)
{
    turn_window(gap, now_ms);
    if (length_ms > gap->now_ms)
        gap->now_ms = length_ms;
    if (length_ms > gap->max_ms)
        gap->max_ms = length_ms;
}

uint64_t gap_recent_ms(struct loop_gap *gap, uint64_t now_ms)
{
    turn_window(gap, now_ms);
    return gap->now_ms > gap->previous_ms ? gap->now_ms : gap->previous_ms;
}
