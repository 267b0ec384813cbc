/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounded little-endian reading and writing of messages. Both sides are sticky: after the first
 * overflow or short read everything else is a no-op (reads give 0), and `failed` stays set, so a
 * codec checks once at its end. Readers borrow the bytes; nothing is allocated.
 */
#ifndef HAMGR_BASE_BYTES_H
#define HAMGR_BASE_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "hamgr/base/digest.h"
#include "hamgr/base/id.h"

struct ha_writer {
    uint8_t *data;
    size_t size;     /* capacity in bytes */
    size_t position; /* bytes written */
    bool failed;
};

struct ha_reader {
    const uint8_t *data;
    size_t size;
    size_t position;
    bool failed;
};

static inline struct ha_writer ha_writer_of(void *data, size_t size)
{
    return (struct ha_writer){.data = data, .size = size};
}

static inline struct ha_reader ha_reader_of(const void *data, size_t size)
{
    return (struct ha_reader){.data = data, .size = size};
}

/* ---- writing -----------------------------------------------------------------------------------
 *
 * Inline: each field of each message goes through here, and the sizes are constants to the caller.
 */

static inline void ha_put_raw(struct ha_writer *w, const void *data, size_t size)
{
    if (w->failed || size > w->size - w->position) {
        w->failed = true;
        return;
    }
    if (size > 0)
        memcpy(w->data + w->position, data, size);
    w->position += size;
}

static inline void ha_put_u8(struct ha_writer *w, uint8_t value)
{
    ha_put_raw(w, &value, 1);
}

static inline void ha_put_u16(struct ha_writer *w, uint16_t value)
{
    uint16_t bytes = htole16(value);

    ha_put_raw(w, &bytes, sizeof(bytes));
}

static inline void ha_put_u32(struct ha_writer *w, uint32_t value)
{
    uint32_t bytes = htole32(value);

    ha_put_raw(w, &bytes, sizeof(bytes));
}

static inline void ha_put_u64(struct ha_writer *w, uint64_t value)
{
    uint64_t bytes = htole64(value);

    ha_put_raw(w, &bytes, sizeof(bytes));
}

static inline void ha_put_uuid(struct ha_writer *w, struct ha_uuid value)
{
    ha_put_raw(w, value.b, sizeof(value.b));
}

static inline void ha_put_digest(struct ha_writer *w, struct ha_digest value)
{
    ha_put_u64(w, value.low);
    ha_put_u64(w, value.high);
}

/* A u16 length and the characters without NUL; text longer than 65535 bytes fails the writer. */
void ha_put_text(struct ha_writer *w, const char *text);
/* A u32 length and the bytes. */
void ha_put_blob(struct ha_writer *w, const void *data, size_t size);

/* ---- reading -----------------------------------------------------------------------------------
 */

/* Borrows size bytes; NULL and failed if there are fewer. */
static inline const uint8_t *ha_get_raw(struct ha_reader *r, size_t size)
{
    if (r->failed || size > r->size - r->position) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *bytes = r->data + r->position;
    r->position += size;
    return bytes;
}

static inline uint8_t ha_get_u8(struct ha_reader *r)
{
    const uint8_t *bytes = ha_get_raw(r, 1);

    return bytes ? *bytes : 0;
}

static inline uint16_t ha_get_u16(struct ha_reader *r)
{
    const uint8_t *bytes = ha_get_raw(r, 2);
    uint16_t value = 0;

    if (bytes)
        memcpy(&value, bytes, sizeof(value));
    return le16toh(value);
}

static inline uint32_t ha_get_u32(struct ha_reader *r)
{
    const uint8_t *bytes = ha_get_raw(r, 4);
    uint32_t value = 0;

    if (bytes)
        memcpy(&value, bytes, sizeof(value));
    return le32toh(value);
}

static inline uint64_t ha_get_u64(struct ha_reader *r)
{
    const uint8_t *bytes = ha_get_raw(r, 8);
    uint64_t value = 0;

    if (bytes)
        memcpy(&value, bytes, sizeof(value));
    return le64toh(value);
}

static inline struct ha_uuid ha_get_uuid(struct ha_reader *r)
{
    struct ha_uuid id = {{0}};
    const uint8_t *bytes = ha_get_raw(r, sizeof(id.b));

    if (bytes)
        memcpy(id.b, bytes, sizeof(id.b));
    return id;
}

static inline struct ha_digest ha_get_digest(struct ha_reader *r)
{
    struct ha_digest digest;

    digest.low = ha_get_u64(r);
    digest.high = ha_get_u64(r);
    return digest;
}

/* Copies a text into ret_text[capacity] with a NUL. Fails if it does not fit or holds a NUL. */
void ha_get_text(struct ha_reader *r, char *ret_text, size_t capacity);
/* Borrows a blob of at most size_max bytes. */
const uint8_t *ha_get_blob(struct ha_reader *r, size_t size_max, size_t *ret_size);

/* True if nothing failed and every byte was read: the end of each decoder. */
static inline bool ha_reader_is_done(const struct ha_reader *r)
{
    return !r->failed && r->position == r->size;
}

#endif
