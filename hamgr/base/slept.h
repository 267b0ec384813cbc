/* SPDX-License-Identifier: Apache-2.0
 *
 * How long the host was suspended since it booted: CLOCK_BOOTTIME - CLOCK_MONOTONIC, which are
 * slewed alike. They can't be read at one moment; to be preempted in between must not look like a
 * suspend, for which the gate would pause every guest.
 */
#ifndef HAMGR_BASE_SLEPT_H
#define HAMGR_BASE_SLEPT_H

#include <stdint.h>
#include <time.h>

#define SLEPT_READ_MAX_NS UINT64_C(20000000) /* the two lie no further apart... */
#define SLEPT_TRIES       10                 /* ...or are read again, so often */
/* A suspend is a change by more than this: above what lies between the two readings, and L, which
 * has a second to spare, bears one that is shorter. */
#define SLEPT_MIN_NS INT64_C(100000000)

/* read_clock returns ns. Where each try takes too long, the last one counts. */
int64_t slept_ns(uint64_t (*read_clock)(clockid_t id));

#endif
