/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/base/bytes.h"

#include <string.h>

void ha_put_raw(struct ha_writer *w, const void *data, size_t size)
{
    if (w->failed || size > w->size - w->position) {
        w->failed = true;
        return;
    }
    if (size > 0)
        memcpy(w->data + w->position, data, size);
    w->position += size;
}

static void put_le(struct ha_writer *w, uint64_t value, unsigned size)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    ha_put_raw(w, bytes, size);
}

void ha_put_u8(struct ha_writer *w, uint8_t value)
{
    put_le(w, value, 1);
}

void ha_put_u16(struct ha_writer *w, uint16_t value)
{
    put_le(w, value, 2);
}

void ha_put_u32(struct ha_writer *w, uint32_t value)
{
    put_le(w, value, 4);
}

void ha_put_u64(struct ha_writer *w, uint64_t value)
{
    put_le(w, value, 8);
}

void ha_put_uuid(struct ha_writer *w, struct ha_uuid value)
{
    ha_put_raw(w, value.b, sizeof(value.b));
}

void ha_put_digest(struct ha_writer *w, struct ha_digest value)
{
    ha_put_u64(w, value.low);
    ha_put_u64(w, value.high);
}

void ha_put_text(struct ha_writer *w, const char *text)
{
    size_t length = strlen(text);

    if (length > UINT16_MAX) {
        w->failed = true;
        return;
    }
    ha_put_u16(w, (uint16_t)length);
    ha_put_raw(w, text, length);
}

void ha_put_blob(struct ha_writer *w, const void *data, size_t size)
{
    if (size > UINT32_MAX) {
        w->failed = true;
        return;
    }
    ha_put_u32(w, (uint32_t)size);
    ha_put_raw(w, data, size);
}

const uint8_t *ha_get_raw(struct ha_reader *r, size_t size)
{
    if (r->failed || size > r->size - r->position) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *bytes = r->data + r->position;
    r->position += size;
    return bytes;
}

static uint64_t get_le(struct ha_reader *r, unsigned size)
{
    const uint8_t *bytes = ha_get_raw(r, size);
    uint64_t value = 0;

    for (unsigned i = 0; bytes && i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

uint8_t ha_get_u8(struct ha_reader *r)
{
    return (uint8_t)get_le(r, 1);
}

uint16_t ha_get_u16(struct ha_reader *r)
{
    return (uint16_t)get_le(r, 2);
}

uint32_t ha_get_u32(struct ha_reader *r)
{
    return (uint32_t)get_le(r, 4);
}

uint64_t ha_get_u64(struct ha_reader *r)
{
    return get_le(r, 8);
}

struct ha_uuid ha_get_uuid(struct ha_reader *r)
{
    struct ha_uuid id = {{0}};
    const uint8_t *bytes = ha_get_raw(r, sizeof(id.b));

    if (bytes)
        memcpy(id.b, bytes, sizeof(id.b));
    return id;
}

struct ha_digest ha_get_digest(struct ha_reader *r)
{
    struct ha_digest digest;

    digest.low = ha_get_u64(r);
    digest.high = ha_get_u64(r);
    return digest;
}

void ha_get_text(struct ha_reader *r, char *ret_text, size_t capacity)
{
    uint16_t length = ha_get_u16(r);
    const uint8_t *bytes = ha_get_raw(r, length);

    ret_text[0] = '\0';
    if (!bytes || length >= capacity || memchr(bytes, 0, length)) {
        r->failed = true;
        return;
    }
    memcpy(ret_text, bytes, length);
    ret_text[length] = '\0';
}

const uint8_t *ha_get_blob(struct ha_reader *r, size_t size_max, size_t *ret_size)
{
    uint32_t size = ha_get_u32(r);

    *ret_size = 0;
    if (size > size_max) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *bytes = ha_get_raw(r, size);
    if (bytes)
        *ret_size = size;
    return bytes;
}

bool ha_reader_is_done(const struct ha_reader *r)
{
    return !r->failed && r->position == r->size;
}
