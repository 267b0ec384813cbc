/* SPDX-License-Identifier: Apache-2.0
 *
 * A planted bug, for the harness alone: hamgr/base/bytes.c whose texts are taken without a look at
 * whether their bytes are there. A fuzz target linked with this instead must end with a report of
 * the sanitizer.
 */
#define ha_get_text ha_get_text_checked
#include "hamgr/base/bytes.c"
#undef ha_get_text

void ha_get_text(struct ha_reader *r, char *ret_text, size_t capacity);

void ha_get_text(struct ha_reader *r, char *ret_text, size_t capacity)
{
    uint16_t length = ha_get_u16(r);
    const uint8_t *bytes = r->data + r->position;

    ret_text[0] = '\0';
    if (r->failed || length >= capacity) {
        r->failed = true;
        return;
    }
    memcpy(ret_text, bytes, length);
    ret_text[length] = '\0';
    r->position += length;
}
