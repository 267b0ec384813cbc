/* SPDX-License-Identifier: Apache-2.0
 *
 * Options of a migration's TCP sockets, for hamgrd and for hamgr-stream.
 */
#ifndef HAMGR_MIGRATE_TUNE_H
#define HAMGR_MIGRATE_TUNE_H

#include <stdint.h>

/* Over lanes everything is read at once, so bytes unacknowledged this long mean a dead path. */
#define TUNE_LANE_MS 5000u

/* Small frames leave at once; the kernel takes the peer for gone after 8 s without an answer to its
 * probes, or user_timeout_ms after bytes that nobody acknowledged. A listener hands all this on to
 * what it accepts. Harmless where the socket is no TCP one. */
void tune_socket(int fd, uint32_t user_timeout_ms);

#endif
