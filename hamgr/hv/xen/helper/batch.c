/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/helper/batch.h"

#include <string.h>

#include "hamgr/base/bytes.h"

#define PAGE_DATA    1u
#define TYPE_SHIFT   60
#define TYPE_BROKEN  0xdu
#define TYPE_HOLE    0xfu
#define BODY_HEAD    8u /* count, zero */
#define RECORD_HEAD  8u /* type, length */
#define VECTOR_HEADS 4  /* type, length, body's head, entries */

static uint64_t entry_at(const struct batch *b, uint32_t n)
{
    uint64_t entry;

    memcpy(&entry, b->head + BATCH_HEAD + 8 * (size_t)n, sizeof(entry));
    return le64toh(entry);
}

/* Broken pages, pages that are only allocated, and holes have no content in the stream. */
static bool has_page(uint64_t entry)
{
    return entry >> TYPE_SHIFT < TYPE_BROKEN;
}

static void write_head(struct batch *b)
{
    struct ha_writer w = ha_writer_of(b->head, BATCH_HEAD);

    ha_put_u32(&w, PAGE_DATA);
    ha_put_u32(&w, BODY_HEAD + 8 * b->count + BATCH_PAGE * b->data_count);
    ha_put_u32(&w, b->count);
    ha_put_u32(&w, 0);
    b->pieces[0] = (struct iovec){b->head, BATCH_HEAD + 8 * (size_t)b->count};
}

static bool take_heads(const struct iovec *vector, struct batch *ret)
{
    static const size_t sizes[] = {4, 4, BODY_HEAD};
    uint8_t heads[RECORD_HEAD + BODY_HEAD];
    size_t at = 0;

    for (int n = 0; n < 3; at += sizes[n++]) {
        if (vector[n].iov_len != sizes[n])
            return false;
        memcpy(heads + at, vector[n].iov_base, sizes[n]);
    }
    struct ha_reader r = ha_reader_of(heads, sizeof(heads));
    uint32_t type = ha_get_u32(&r), length = ha_get_u32(&r), count = ha_get_u32(&r);
    if (type != PAGE_DATA || count == 0 || count > BATCH_PAGES_MAX ||
        vector[3].iov_len != 8 * (size_t)count)
        return false;
    memcpy(ret->head + BATCH_HEAD, vector[3].iov_base, 8 * (size_t)count);
    ret->count = count;
    ret->data_count = 0;
    for (uint32_t n = 0; n < count; n++)
        ret->data_count += has_page(entry_at(ret, n));
    return length == BODY_HEAD + 8 * count + BATCH_PAGE * ret->data_count;
}

bool batch_take(const struct iovec *vector, int count, struct batch *ret)
{
    uint64_t pages = 0;

    if (count < VECTOR_HEADS || !take_heads(vector, ret))
        return false;
    ret->piece_count = 1;
    for (int n = VECTOR_HEADS; n < count; n++) {
        struct iovec *last = &ret->pieces[ret->piece_count - 1];
        if (vector[n].iov_len == 0 || vector[n].iov_len % BATCH_PAGE != 0)
            return false;
        pages += vector[n].iov_len / BATCH_PAGE;
        if (pages > ret->data_count)
            return false;
        if (ret->piece_count > 1 && (uint8_t *)last->iov_base + last->iov_len == vector[n].iov_base)
            last->iov_len += vector[n].iov_len;
        else
            ret->pieces[ret->piece_count++] = vector[n];
    }
    write_head(ret);
    return pages == ret->data_count;
}

void batch_drop_holes(struct batch *b)
{
    uint8_t *entries = b->head + BATCH_HEAD;
    uint32_t kept = 0;

    for (uint32_t n = 0; n < b->count; n++)
        if (entry_at(b, n) >> TYPE_SHIFT != TYPE_HOLE)
            memmove(entries + 8 * (size_t)kept++, entries + 8 * (size_t)n, 8);
    b->count = kept;
    write_head(b);
}

uint64_t batch_bytes(const struct batch *b)
{
    return BATCH_HEAD + 8 * (uint64_t)b->count + BATCH_PAGE * (uint64_t)b->data_count;
}

/* ---- superpages ---- */

static bool is_super_at(const uint64_t *frames, uint64_t count, uint64_t start)
{
    if (frames[start] % SUPER_PAGES != 0 || count - start < SUPER_PAGES)
        return false;
    for (uint64_t n = 1; n < SUPER_PAGES; n++)
        if (frames[start + n] != frames[start] + n)
            return false;
    return true;
}

struct super_run super_next(const uint64_t *frames, uint64_t count, uint64_t start)
{
    struct super_run run = {.start = start};

    if (is_super_at(frames, count, start)) {
        run.is_super = true;
        run.count = SUPER_PAGES;
        return run;
    }
    do
        run.count++;
    while (start + run.count < count && !is_super_at(frames, count, start + run.count));
    return run;
}
