/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounded little-endian reading and writing of messages. Both sides are sticky: after the first
 * overflow or short read everything else is a no-op (reads give 0), and `failed` stays set, so a
 * codec checks once at its end. Readers borrow the bytes; nothing is allocated.
 */
#ifndef HAMGR_BASE_BYTES_H
#define HAMGR_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

void ha_put_u8(struct ha_writer *w, uint8_t value);
void ha_put_u16(struct ha_writer *w, uint16_t value);
void ha_put_u32(struct ha_writer *w, uint32_t value);
void ha_put_u64(struct ha_writer *w, uint64_t value);
void ha_put_uuid(struct ha_writer *w, struct ha_uuid value);
void ha_put_digest(struct ha_writer *w, struct ha_digest value);
void ha_put_raw(struct ha_writer *w, const void *data, size_t size);
/* A u16 length and the characters without NUL; text longer than 65535 bytes fails the writer. */
void ha_put_text(struct ha_writer *w, const char *text);
/* A u32 length and the bytes. */
void ha_put_blob(struct ha_writer *w, const void *data, size_t size);

uint8_t ha_get_u8(struct ha_reader *r);
uint16_t ha_get_u16(struct ha_reader *r);
uint32_t ha_get_u32(struct ha_reader *r);
uint64_t ha_get_u64(struct ha_reader *r);
struct ha_uuid ha_get_uuid(struct ha_reader *r);
struct ha_digest ha_get_digest(struct ha_reader *r);
/* Borrows size bytes; NULL and failed if there are fewer. */
const uint8_t *ha_get_raw(struct ha_reader *r, size_t size);
/* Copies a text into ret_text[capacity] with a NUL. Fails if it does not fit or holds a NUL. */
void ha_get_text(struct ha_reader *r, char *ret_text, size_t capacity);
/* Borrows a blob of at most size_max bytes. */
const uint8_t *ha_get_blob(struct ha_reader *r, size_t size_max, size_t *ret_size);
/* True if nothing failed and every byte was read: the end of each decoder. */
bool ha_reader_is_done(const struct ha_reader *r);

#endif
