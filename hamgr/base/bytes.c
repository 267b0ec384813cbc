/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/base/bytes.h"

#include <string.h>

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
