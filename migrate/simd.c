/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/simd.h"

#include <string.h>

/* Compiled in: the library's own build is for the oldest processor of the architecture. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "migrate/frame.h"

#if defined(__x86_64__)
#include <emmintrin.h>

static bool sse2_is_zero(const uint8_t *page)
{
    for (unsigned at = 0; at < SIMD_PAGE; at += 128) {
        const __m128i *in = (const __m128i *)(const void *)(page + at);
        __m128i any = _mm_loadu_si128(in);
        for (unsigned i = 1; i < 8; i++)
            any = _mm_or_si128(any, _mm_loadu_si128(in + i));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xffff)
            return false;
    }
    return true;
}

static uint64_t sse2_changed_lines(const uint8_t *a, const uint8_t *b)
{
    uint64_t mask = 0;

    for (unsigned line = 0; line < SIMD_LINES; line++) {
        const __m128i *x = (const __m128i *)(const void *)(a + (size_t)line * SIMD_LINE);
        const __m128i *y = (const __m128i *)(const void *)(b + (size_t)line * SIMD_LINE);
        __m128i any = _mm_xor_si128(_mm_loadu_si128(x), _mm_loadu_si128(y));
        for (unsigned i = 1; i < 4; i++)
            any = _mm_or_si128(any, _mm_xor_si128(_mm_loadu_si128(x + i), _mm_loadu_si128(y + i)));
        bool is_equal = _mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) == 0xffff;
        mask |= (uint64_t)!is_equal << line;
    }
    return mask;
}

static enum simd_form best(void)
{
    return __builtin_cpu_supports("avx2") ? SIMD_AVX2 : SIMD_SSE2;
}

#else /* every other processor: the plain forms stand in, and are never chosen by simd_best */
#define sse2_is_zero            plain_is_zero
#define sse2_changed_lines      plain_changed_lines
#define simd_avx2_is_zero       plain_is_zero
#define simd_avx2_changed_lines plain_changed_lines
#define simd_avx2_page_hash     plain_page_hash

static enum simd_form best(void)
{
    return SIMD_PLAIN;
}
#endif

static bool plain_is_zero(const uint8_t *page)
{
    for (unsigned at = 0; at < SIMD_PAGE; at += 128) {
        uint64_t words[16];
        uint64_t any = 0;
        memcpy(words, page + at, sizeof(words));
        for (unsigned i = 0; i < 16; i++)
            any |= words[i];
        if (any != 0)
            return false;
    }
    return true;
}

uint8_t simd_changed_words(const uint8_t *a, const uint8_t *b)
{
    uint64_t x[8], y[8];
    unsigned mask = 0;

    memcpy(x, a, sizeof(x));
    memcpy(y, b, sizeof(y));
    for (unsigned i = 0; i < 8; i++)
        mask |= (unsigned)(x[i] != y[i]) << i;
    return (uint8_t)mask;
}

static uint64_t plain_changed_lines(const uint8_t *a, const uint8_t *b)
{
    uint64_t mask = 0;

    for (unsigned line = 0; line < SIMD_LINES; line++) {
        size_t at = (size_t)line * SIMD_LINE;
        mask |= (uint64_t)(memcmp(a + at, b + at, SIMD_LINE) != 0) << line;
    }
    return mask;
}

static struct ha_digest plain_page_hash(const uint8_t *page, const uint8_t *secret)
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(page, SIMD_PAGE, secret, FRAME_SECRET_SIZE);

    return (struct ha_digest){.low = hash.low64, .high = hash.high64};
}

enum simd_form simd_best(void)
{
    return best();
}

const char *simd_name(enum simd_form form)
{
    static const char *const names[] = {"plain", "sse2", "avx2"};

    return (unsigned)form < SIMD_FORM_COUNT ? names[form] : "?";
}

bool simd_is_zero(enum simd_form form, const uint8_t *page)
{
    uint64_t first;

    /* Most pages that are not zero show it at once. */
    memcpy(&first, page, sizeof(first));
    if (first != 0)
        return false;
    return form == SIMD_AVX2   ? simd_avx2_is_zero(page)
           : form == SIMD_SSE2 ? sse2_is_zero(page)
                               : plain_is_zero(page);
}

uint64_t simd_changed_lines(enum simd_form form, const uint8_t *a, const uint8_t *b)
{
    return form == SIMD_AVX2   ? simd_avx2_changed_lines(a, b)
           : form == SIMD_SSE2 ? sse2_changed_lines(a, b)
                               : plain_changed_lines(a, b);
}

struct ha_digest simd_page_hash(enum simd_form form, const uint8_t *page, const uint8_t *secret)
{
    return form == SIMD_AVX2 ? simd_avx2_page_hash(page, secret) : plain_page_hash(page, secret);
}
