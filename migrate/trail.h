/* SPDX-License-Identifier: Apache-2.0
 *
 * How much of the native stream the receiver has taken over, from what the sender knows: bytes go
 * into units of work, units into parcels, and parcels are acknowledged. Two short queues of marks;
 * when one is full its last mark moves on, so that less is claimed, never more. Pure.
 */
#ifndef HAMGR_MIGRATE_TRAIL_H
#define HAMGR_MIGRATE_TRAIL_H

#include <stdbool.h>
#include <stdint.h>

/* One for each parcel of a window (48) and the open one; units come in bursts. */
#define TRAIL_MARKS 64u

struct trail_mark {
    uint64_t below; /* once all units, or parcels, below this number are through ... */
    uint64_t bytes; /* ... so many bytes are */
};

struct trail_queue {
    struct trail_mark marks[TRAIL_MARKS];
    uint32_t first;
    uint32_t count;
};

/* All zero at the start. */
struct trail {
    struct trail_queue units;
    struct trail_queue parcels;
    uint64_t taken; /* bytes the receiver has taken over */
};

/* The first `bytes` of the stream are in units below unit. Both only grow. */
void trail_read(struct trail *t, uint64_t unit, uint64_t bytes);
/* All units below unit are in parcels below parcel. */
void trail_packed(struct trail *t, uint64_t unit, uint64_t parcel);
/* All parcels below parcel were taken over. True if t->taken grew. */
bool trail_acked(struct trail *t, uint64_t parcel);

#endif
