/* SPDX-License-Identifier: Apache-2.0
 *
 * Descriptors of the simulated world: numbers no real one reaches.
 */
#ifndef TESTS_SIM_FDS_H
#define TESTS_SIM_FDS_H

#define FD_FIRST       1000000
#define FD_STORE       999990
#define FD_GATE_TIMER  999991
#define FD_GATE_KEEPER 999992
#define FD_GATE_EVENT  999993

int sim_fd_new(void);
void sim_fds_reset(void);

#endif
