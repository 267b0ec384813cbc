/* SPDX-License-Identifier: Apache-2.0
 *
 * Native streams for tests: a small builder, one complete example, nothing checked.
 */
#ifndef HAMGR_TESTS_NATIVEGEN_H
#define HAMGR_TESTS_NATIVEGEN_H

#include <stdint.h>
#include <string.h>

#include "hamgr/base/bytes.h"

static inline void gen_be(struct ha_writer *w, uint64_t value, unsigned size)
{
    for (unsigned i = size; i > 0; i--)
        ha_put_u8(w, (uint8_t)(value >> (8 * (i - 1))));
}

static inline void gen_libxl_header(struct ha_writer *w)
{
    gen_be(w, UINT64_C(0x4c6962786c466d74), 8);
    gen_be(w, 2, 4);
    gen_be(w, 0, 4);
}

static inline void gen_image_header(struct ha_writer *w, uint32_t version, uint32_t guest_type)
{
    gen_be(w, UINT64_MAX, 8);
    gen_be(w, 0x58454e46, 4);
    gen_be(w, version, 4);
    gen_be(w, 0, 8);
    ha_put_u32(w, guest_type);
    ha_put_u16(w, 12);
    ha_put_u16(w, 0);
    ha_put_u32(w, 4);
    ha_put_u32(w, 17);
}

/* A record whose body is size times `fill`. */
static inline void gen_record(struct ha_writer *w, uint32_t type, uint32_t size, uint8_t fill)
{
    ha_put_u32(w, type);
    ha_put_u32(w, size);
    for (uint32_t i = 0; i < (size + 7u) / 8u * 8u; i++)
        ha_put_u8(w, i < size ? fill : 0);
}

/* PAGE_DATA: entries type << 60 | pfn; page i is filled with (uint8_t)(fill + i), zero if fill is
 * 0. */
static inline void gen_pages(struct ha_writer *w, const uint64_t *entries, uint32_t count,
                             uint8_t fill)
{
    uint32_t data_count = 0;

    for (uint32_t i = 0; i < count; i++)
        data_count += entries[i] >> 60 < 13 ? 1u : 0u;
    ha_put_u32(w, 1);
    ha_put_u32(w, 8 + 8 * count + 4096 * data_count);
    ha_put_u32(w, count);
    ha_put_u32(w, 0);
    for (uint32_t i = 0; i < count; i++)
        ha_put_u64(w, entries[i]);
    for (uint32_t i = 0; i < data_count; i++)
        for (uint32_t k = 0; k < 4096; k++)
            ha_put_u8(w, fill == 0 ? 0 : (uint8_t)(fill + i + k / 512));
}

static const uint64_t gen_entries[] = {0, 1, 2, UINT64_C(0xf) << 60 | 3, 4, 0xfeff};

/* A complete HVM stream: 5 pages with data in the first batch, 1 zero page, a batch of holes. */
static inline size_t gen_hvm_stream(uint8_t *data, size_t capacity)
{
    static const uint64_t hole[] = {UINT64_C(0xe) << 60 | 9, UINT64_C(0xd) << 60 | 10};
    static const uint64_t one[] = {77};
    struct ha_writer w = ha_writer_of(data, capacity);

    gen_libxl_header(&w);
    gen_record(&w, 1, 0, 0);
    gen_image_header(&w, 3, 2);
    gen_record(&w, 17, 24, 1);
    gen_record(&w, 18, 16, 1);
    gen_record(&w, 16, 0, 0);
    gen_pages(&w, gen_entries, 6, 3);
    gen_pages(&w, one, 1, 0);
    gen_pages(&w, hole, 2, 0);
    gen_record(&w, 8, 24, 2);
    gen_record(&w, 0x80000042u, 13, 5);
    gen_record(&w, 9, 1001, 7);
    gen_record(&w, 10, 24, 0);
    gen_record(&w, 0, 0, 0);
    gen_record(&w, 3, 21, 9);
    gen_record(&w, 0x80000099u, 3, 9);
    gen_record(&w, 0, 0, 0);
    return w.failed ? 0 : w.position;
}

#endif
