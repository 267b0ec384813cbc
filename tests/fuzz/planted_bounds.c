/* SPDX-License-Identifier: Apache-2.0
 *
 * A planted bug, for the harness alone: hamgr/base/bytes.c whose reader does not check that the
 * bytes are there. A fuzz target linked with this instead must end with a report of the sanitizer.
 */
#define ha_get_raw ha_get_raw_checked
#include "hamgr/base/bytes.c"
#undef ha_get_raw

const uint8_t *ha_get_raw(struct ha_reader *r, size_t size);

/* What the file's own readers use stays checked; texts and blobs of the protocols do not. */
const uint8_t *ha_get_raw(struct ha_reader *r, size_t size)
{
    const uint8_t *bytes = r->data + r->position;

    r->position += size;
    return bytes;
}
