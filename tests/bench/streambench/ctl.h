/* SPDX-License-Identifier: Apache-2.0
 *
 * How the programs of tests/bench/stream talk with it: lines over a unix socket, so that they can
 * also be started by somebody else (sshd). Everything here exits with a sentence on failure.
 */
#ifndef HAMGR_BENCH_CTL_H
#define HAMGR_BENCH_CTL_H

#include <stdint.h>

struct ring;

/* Connects to the socket at path and says "hello NAME PID". The bench's end ends us. */
int ctl_open(const char *path, const char *name);
void ctl_say(int ctl, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Waits for the line `word`; exits quietly when the bench has gone, loudly on another line. */
void ctl_wait(int ctl, const char *word);
/* CLOCK_MONOTONIC, comparable between processes. */
uint64_t ctl_now_ns(void);
/* The value of the option at argv[*at]. */
const char *ctl_value(int argc, char **argv, int *at);
/* Maps the ring another process holds at path (/proc/PID/fd/N). */
struct ring *ctl_ring(const char *path);
unsigned ctl_number(int argc, char **argv, int *at, unsigned max);

#endif
