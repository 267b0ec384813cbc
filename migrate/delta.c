/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/delta.h"

#include <string.h>

#define WORD      8u
#define MASK_SIZE 8u

static unsigned lowest(uint64_t mask)
{
    return (unsigned)__builtin_ctzll(mask);
}

/* One changed line: its mask of words, then those. Returns the size. */
static size_t put_line(const uint8_t *old, const uint8_t *line, uint8_t *dst)
{
    uint8_t words = simd_changed_words(old, line);
    size_t used = 1;

    dst[0] = words;
    if (words == 0xff) {
        memcpy(dst + 1, line, SIMD_LINE);
        return 1 + SIMD_LINE;
    }
    for (unsigned left = words; left != 0; left &= left - 1) {
        memcpy(dst + used, line + (size_t)WORD * lowest(left), WORD);
        used += WORD;
    }
    return used;
}

size_t delta_encode(enum simd_form form, uint8_t *base, const uint8_t *page, uint8_t *dst,
                    size_t capacity)
{
    uint64_t lines = simd_changed_lines(form, base, page);
    size_t used = MASK_SIZE;

    /* Each changed line takes a mask and a word at least. */
    if (MASK_SIZE + (size_t)__builtin_popcountll(lines) * (1 + WORD) > capacity)
        return 0;
    for (unsigned i = 0; i < MASK_SIZE; i++)
        dst[i] = (uint8_t)(lines >> (8 * i));
    for (uint64_t left = lines; left != 0; left &= left - 1) {
        size_t at = (size_t)SIMD_LINE * lowest(left);
        if (used + 1 + SIMD_LINE > capacity)
            return 0;
        used += put_line(base + at, page + at, dst + used);
    }
    for (uint64_t left = lines; left != 0; left &= left - 1) {
        size_t at = (size_t)SIMD_LINE * lowest(left);
        memcpy(base + at, page + at, SIMD_LINE);
    }
    return used;
}

int delta_apply(uint8_t *base, const uint8_t *src, size_t size, size_t *ret_used,
                struct ha_err *err)
{
    size_t used = MASK_SIZE;
    uint64_t lines = 0;

    if (size < MASK_SIZE)
        return ha_err_set(err, HA_E_PEER, "a delta is cut");
    for (unsigned i = 0; i < MASK_SIZE; i++)
        lines |= (uint64_t)src[i] << (8 * i);
    for (; lines != 0; lines &= lines - 1) {
        uint8_t *line = base + (size_t)SIMD_LINE * lowest(lines);
        unsigned words = used < size ? src[used] : 0;
        if (words == 0 || size - used - 1 < (size_t)WORD * (unsigned)__builtin_popcount(words))
            return ha_err_set(err, HA_E_PEER, "a delta is cut, or changes nothing in a line");
        used++;
        for (; words != 0; words &= words - 1) {
            memcpy(line + (size_t)WORD * lowest(words), src + used, WORD);
            used += WORD;
        }
    }
    *ret_used = used;
    return 0;
}
