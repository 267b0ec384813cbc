/* SPDX-License-Identifier: Apache-2.0
 *
 * 128-bit digests for the log's chain and for definitions (XXH3-128 of libxxhash, compiled in so
 * that the pure parts need no symbol). They find accidents and divergence, not forgery: peers are
 * authenticated by corosync's encryption and by TLS.
 */
#ifndef HAMGR_BASE_DIGEST_H
#define HAMGR_BASE_DIGEST_H

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

struct ha_digest {
    uint64_t low;
    uint64_t high;
};

static inline bool ha_digest_equal(struct ha_digest a, struct ha_digest b)
{
    return a.low == b.low && a.high == b.high;
}

/* Digest of size bytes, chained after previous (zero for the first of a chain). */
struct ha_digest ha_digest_bytes(struct ha_digest previous, const void *data, size_t size);

#endif
