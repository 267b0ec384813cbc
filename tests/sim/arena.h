/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory of simulated processes: what one allocates is gone when it dies, at the cost of the pages
 * it touched. malloc and its family are wrapped at link time; outside of processes they are libc's.
 */
#ifndef TESTS_SIM_ARENA_H
#define TESTS_SIM_ARENA_H

struct sim_arena;

struct sim_arena *sim_arena_new(void);
/* Allocations come from here from now on; NULL: from libc. */
void sim_arena_use(struct sim_arena *arena);
void sim_arena_clear(struct sim_arena *arena);

#endif
