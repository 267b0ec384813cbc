/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/simd.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <immintrin.h>

#include "migrate/frame.h"

static inline __m256i load(const uint8_t *at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)at);
}

bool simd_avx2_is_zero(const uint8_t *page)
{
    for (unsigned at = 0; at < SIMD_PAGE; at += 256) {
        __m256i even = load(page + at);
        __m256i odd = load(page + at + 32);
        for (unsigned i = 64; i < 256; i += 64) {
            even = _mm256_or_si256(even, load(page + at + i));
            odd = _mm256_or_si256(odd, load(page + at + i + 32));
        }
        even = _mm256_or_si256(even, odd);
        if (!_mm256_testz_si256(even, even))
            return false;
    }
    return true;
}

uint64_t simd_avx2_changed_lines(const uint8_t *a, const uint8_t *b)
{
    uint64_t mask = 0;

    for (unsigned line = 0; line < SIMD_LINES; line++) {
        const uint8_t *x = a + (size_t)line * SIMD_LINE;
        const uint8_t *y = b + (size_t)line * SIMD_LINE;
        __m256i any = _mm256_or_si256(_mm256_xor_si256(load(x), load(y)),
                                      _mm256_xor_si256(load(x + 32), load(y + 32)));
        mask |= (uint64_t)!_mm256_testz_si256(any, any) << line;
    }
    return mask;
}

struct ha_digest simd_avx2_page_hash(const uint8_t *page, const uint8_t *secret)
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(page, SIMD_PAGE, secret, FRAME_SECRET_SIZE);

    return (struct ha_digest){.low = hash.low64, .high = hash.high64};
}
