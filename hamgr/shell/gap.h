/* SPDX-License-Identifier: Apache-2.0
 *
 * How long the loop was away from its descriptors: the longest ever, and the longest lately. What
 * counts is a callback's duration and a timer's lateness. Pure.
 */
#ifndef HAMGR_SHELL_GAP_H
#define HAMGR_SHELL_GAP_H

#include <stdint.h>

#define GAP_WINDOW_MS 10000u

struct loop_gap {
    uint64_t window;      /* number of the present window of GAP_WINDOW_MS, by the clock */
    uint64_t max_ms;      /* since the start */
    uint64_t now_ms;      /* in the present window */
    uint64_t previous_ms; /* in the window before */
};

/* One gap of that length ended at now_ms (monotonic). */
void gap_note(struct loop_gap *gap, uint64_t now_ms, uint64_t length_ms);
/* The longest that ended in the last GAP_WINDOW_MS; it is forgotten after at most twice that. */
uint64_t gap_recent_ms(struct loop_gap *gap, uint64_t now_ms);

#endif
