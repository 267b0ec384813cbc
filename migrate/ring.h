/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared-memory ring of page batches (STREAM.md, section 6), both roles. The layout is fixed
 * there. The other side is another process: nothing it can write is read twice or believed.
 */
#ifndef HAMGR_MIGRATE_RING_H
#define HAMGR_MIGRATE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"

#define RING_MAGIC     0x47524d48u /* "HMRG" */
#define RING_VERSION   1u
#define RING_SLOTS_MAX 64u
#define RING_PAGES_MAX 1024u

struct ring;

/* A batch as the consumer sees it: counts and entries are its own copies, pages are shared. */
struct ring_batch {
    uint32_t count;
    uint32_t data_count;    /* as the producer says: to be checked against the entries */
    const uint8_t *entries; /* count times u64; owned by the ring until the next take */
    const uint8_t *pages;   /* data_count pages in shared memory: copy before looking */
};

/* Makes a sealed memfd of that geometry (slots: a power of two) and maps it. *ret_fd is the
 * caller's. Returns the ring or NULL with err. */
struct ring *ring_create(uint32_t slots, uint32_t pages, int *ret_fd, struct ha_err *err);
/* Maps a memfd (borrowed) made by the other side, checking seals, size and geometry. */
struct ring *ring_map(int fd, struct ha_err *err);
void ring_free(struct ring *ring);
/* The most entries of a batch that a slot holds. */
uint32_t ring_slot_pages(const struct ring *ring);

/* Consumer: opens the batch a marker named. Returns 0, or -HA_E_CORRUPT when it is not the next
 * one, not published, or its counts exceed a slot. */
int ring_take(struct ring *ring, uint64_t batch, uint32_t slot, struct ring_batch *ret_batch,
              struct ha_err *err);
/* Consumer: gives the taken slot back and wakes the producer. */
void ring_release(struct ring *ring);

/* Producer: waits until the next slot is free, at most timeout_ms (-HA_E_TIMEOUT). Returns its
 * entries and pages to be filled, and what the marker must say. */
int ring_acquire(struct ring *ring, int timeout_ms, uint8_t **ret_entries, uint8_t **ret_pages,
                 uint64_t *ret_batch, uint32_t *ret_slot);
/* Producer: publishes it. Write the marker after this. */
void ring_publish(struct ring *ring, uint32_t count, uint32_t data_count);

#endif
