/* SPDX-License-Identifier: Apache-2.0
 *
 * What this tree's hamgr-stream can be asked for beside a level, and the part of hamgrd that goes
 * with it. CMake looks into streamproto.h for what there is.
 */
#ifndef HAMGR_BENCH_OFFER_H
#define HAMGR_BENCH_OFFER_H

#include <netinet/in.h>
#include <stdbool.h>

#include "hamgr/ipc/sock.h"
#include "hamgr/ipc/streamproto.h"

/* Words for what is offered: level-auto, workers, cache, connections. */
const char *offer_names(void);
/* Sets what `name` (level-auto, workers, cache-mib, connections) stands for; false: not offered. */
bool offer_set(struct streamp_start *start, const char *name, unsigned value);
/* A packet only a sender with several connections sends: answered as hamgrd does, with a socket to
 * the receiver. Returns false when it was something else. */
bool offer_packet(int control, const struct sockaddr_in *receiver, const struct ha_packet *packet);

#endif
