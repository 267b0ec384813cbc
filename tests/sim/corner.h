/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of corners share: corner.c says in which seeds they act.
 */
#ifndef TESTS_SIM_CORNER_H
#define TESTS_SIM_CORNER_H

#include "tests/sim/sim.h"

#define T_WAIT_MS 15272u /* with the defaults */

/* Early enough before all is mended. */
bool sim_corner_has_time(uint64_t needed_ns);
/* False: another takes its time now. True: it is this one's for a span. */
bool sim_corner_take(uint64_t span);
/* The leader of an open view, not that one; NULL: none. */
struct sim_node *sim_corner_leader(const struct sim_node *other_than);
/* A member that is armed and owns a guest, from a drawn place on; NULL: none. */
struct sim_node *sim_corner_owner(uint64_t draw);
/* Its hamgrd dies at once and is back after a while. */
void sim_corner_on_restart(void *data, uint64_t back_ns);

/* corner_fence.c, corner_cut.c, corner_late.c: nothing in seeds without corners. */
void sim_corner_fence_begin(bool is_on);
void sim_corner_cut_begin(bool is_on);
void sim_corner_late_begin(bool is_on);
/* corner_alone.c: its own seeds. */
void sim_corner_alone_begin(void);
/* All fence devices are out of order for a span. */
void sim_corner_break_devices(uint64_t span);

#endif
