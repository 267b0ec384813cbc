/* SPDX-License-Identifier: Apache-2.0
 *
 * Which zstd level the next groups of pages get, 0 for none: the one that moves most of the guest
 * per second by what was measured of the workers and of the link. Compression pays only while
 * workers x codec rate exceeds the link's. Pure.
 */
#ifndef HAMGR_MIGRATE_ADAPT_H
#define HAMGR_MIGRATE_ADAPT_H

#include <stdbool.h>
#include <stdint.h>

#define ADAPT_WINDOW_US 20000u /* what a sample should cover at least */

struct adapt {
    int level; /* the decision */
    /* private */
    uint32_t workers;
    /* Of the latest blocks, as at level 1, older ones counting ever less: sums, so that a block of
     * zeros, which packs a thousandfold in no time, counts for no more than it is. */
    uint64_t raw_bytes;
    uint64_t packed_bytes;
    uint64_t busy_ns;
    uint64_t link_rate; /* bytes/s; 0: not known */
    bool is_known;      /* it was seen full: new hopes grow slower */
};

/* What happened since the last one. */
struct adapt_sample {
    uint64_t wall_us;
    uint64_t starved_us; /* of them waiting for the source */
    uint64_t blocked_us; /* of them waiting for the link */
    uint64_t codec_us;   /* of them waiting for the workers */
    uint64_t wire_bytes;
};

void adapt_init(struct adapt *a, uint32_t workers);
/* A group went through the codec at that level. */
void adapt_codec(struct adapt *a, int level, uint64_t raw_bytes, uint64_t packed_bytes,
                 uint64_t busy_ns);
/* Takes a sample; the decision is in a->level. */
void adapt_step(struct adapt *a, const struct adapt_sample *sample);
/* Bytes/s all workers together compress at level 1, and what the link takes; 0: not known. */
uint64_t adapt_codec_rate(const struct adapt *a);
uint64_t adapt_link_rate(const struct adapt *a);

#endif
