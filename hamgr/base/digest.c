/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/base/digest.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wswitch-enum"
#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>
#pragma GCC diagnostic pop

struct ha_digest ha_digest_bytes(struct ha_digest previous, const void *data, size_t size)
{
    XXH128_hash_t body = XXH3_128bits_withSeed(data, size, previous.low);
    uint64_t chain[4] = {previous.low, previous.high, body.low64, body.high64};
    XXH128_hash_t all = XXH3_128bits(chain, sizeof(chain));

    return (struct ha_digest){.low = all.low64, .high = all.high64};
}
