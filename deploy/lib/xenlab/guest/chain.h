/* SPDX-License-Identifier: Apache-2.0
 *
 * The two chains of the lab's guest: one through its memory, one through its disk. Each link is the
 * digest of the one before and of what is written, so that a page or block that is lost, torn, old
 * or somebody else's is found at the next look. Pure: no clock, no I/O, no allocation.
 *
 * A block on disk is 4096 bytes, little endian, eight sectors that all begin alike (a witness needs
 * no digest to see a torn or foreign write):
 *
 *     0 magic, 8 guest, 16 incarnation, 24 sequence (1, 2, ...), 32 and 40 digest of the block
 *     before (0 for the first), 48 CLOCK_BOOTTIME in ns, 56 index of the sector
 *
 * then filler that follows from these, and in the last 16 bytes of the block its digest. Block
 * `sequence` lies at slot sequence % slots.
 */
#ifndef XENLAB_GUEST_CHAIN_H
#define XENLAB_GUEST_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/digest.h"

#define CHAIN_PAGE      4096u
#define CHAIN_SECTOR    512u
#define CHAIN_MAGIC     0x314b4c42424c4748u /* "HGLBBLK1" */
#define CHAIN_DIGEST_AT (CHAIN_PAGE - sizeof(struct ha_digest))

/* --- memory --------------------------------------------------------------------------------- */

struct chain_memory {
    uint8_t *pages;           /* page_count * CHAIN_PAGE bytes, the caller's */
    struct ha_digest *digest; /* of each page as it was written, the caller's */
    size_t page_count;        /* 1 or more */
    uint64_t step;            /* steps made */
    struct ha_digest link;    /* of the newest step */
    uint64_t bad_count;       /* pages that were not as they had been written */
};

/* Fills all pages; everything but pages, digest and page_count is set. */
void chain_memory_begin(struct chain_memory *memory, uint64_t incarnation);
/* Checks one page, then writes it anew. false: it was not as it had been written (and counted). */
bool chain_memory_step(struct chain_memory *memory);
/* Checks page `index` (< page_count) only. */
bool chain_memory_check(struct chain_memory *memory, size_t index);

/* --- disk ----------------------------------------------------------------------------------- */

struct chain_block {
    uint64_t guest;
    uint64_t incarnation; /* another one each time the guest boots */
    uint64_t sequence;
    struct ha_digest previous;
    uint64_t boottime_ns;
};

/* Writes a block's CHAIN_PAGE bytes; returns its digest. */
struct ha_digest chain_block_write(const struct chain_block *block, uint8_t *ret_bytes);
/* Reads a block. false: never written, torn or damaged; ret_block is then not set. */
bool chain_block_read(const uint8_t *bytes, struct chain_block *ret_block,
                      struct ha_digest *ret_digest);

/* What a disk of `slots` blocks tells when it is read from slot 0 to the last. */
struct chain_scan {
    uint64_t guest;               /* whose it must be */
    struct chain_block newest;    /* sequence 0: there is none */
    struct ha_digest digest;      /* of the newest */
    uint64_t blank_count;         /* slots never written: all zero */
    uint64_t bad_count;           /* neither blank nor a whole block of this guest at its slot */
    uint64_t count;               /* whole blocks */
    uint64_t lowest;              /* sequence */
    struct ha_digest last_digest; /* of the slot before, and its sequence: links are checked */
    uint64_t last_sequence;
    uint64_t unlinked_count; /* neighbours in sequence whose digests do not fit */
};

/* Takes slot `slot` (0, 1, ... in order; the caller zeroes the scan and sets guest). */
void chain_scan_slot(struct chain_scan *scan, uint64_t slot, uint64_t slots, const uint8_t *bytes);
/* After the last slot: how many blocks between the lowest and the newest are not there. */
uint64_t chain_scan_lost(const struct chain_scan *scan);

#endif
