/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of the mirrored cache: page slots, the same on both ends (STREAM.md, section 4). Only
 * reserved at first; chunks are made present shortly before their first use, so that no page of a
 * guest waits for the kernel to clear one of ours.
 */
#ifndef HAMGR_MIGRATE_ARENA_H
#define HAMGR_MIGRATE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"

struct arena {
    uint8_t *base; /* NULL: no slots */
    uint32_t slot_count;
    uint32_t present;    /* slots that were made present */
    uint32_t dear_times; /* in a row; */
    bool is_dear; /* the kernel takes so long for a page that only what is needed is touched */
};

/* 0 or -HA_E_NO_MEMORY. fini is idempotent. */
int arena_init(struct arena *a, uint32_t slot_count, struct ha_err *err);
void arena_fini(struct arena *a);
/* Makes slots up to and including this one present, in order and some ahead. */
void arena_prepare(struct arena *a, uint32_t slot);
/* For whoever has nothing else to do: makes a few more present, in less than a millisecond where
 * the kernel has memory. False: all are, or it is dear. */
bool arena_ahead(struct arena *a);
bool arena_is_settled(const struct arena *a);
/* What so many pages took of a processor, the latest count: is it dear? */
void arena_judge(struct arena *a, uint32_t count, uint64_t ns);

static inline uint8_t *arena_slot(const struct arena *a, uint32_t slot)
{
    return a->base + (size_t)slot * 4096u;
}

#endif
