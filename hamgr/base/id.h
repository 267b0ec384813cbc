/* SPDX-License-Identifier: Apache-2.0
 *
 * Identities. A node is corosync's nodeid (never 0). Guests, clusters, stores, boots and machines
 * are 128-bit values, each in a type of its own so that none passes for another.
 */
#ifndef HAMGR_BASE_ID_H
#define HAMGR_BASE_ID_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define HA_UUID_TEXT 37u /* 36 characters and the NUL */

struct ha_uuid {
    uint8_t b[16];
};

/* In two words: compilers call memcmp for 16 bytes, and loops over lists ask this first. */
static inline bool ha_uuid_equal(struct ha_uuid a, struct ha_uuid b)
{
    uint64_t left[2], right[2];

    memcpy(left, a.b, sizeof(left));
    memcpy(right, b.b, sizeof(right));
    return ((left[0] ^ right[0]) | (left[1] ^ right[1])) == 0;
}

static inline int ha_uuid_cmp(struct ha_uuid a, struct ha_uuid b)
{
    uint64_t left[2], right[2];

    memcpy(left, a.b, sizeof(left));
    memcpy(right, b.b, sizeof(right));
    for (unsigned i = 0; i < 2; i++) { /* as memcmp has it, without a call */
        if (left[i] != right[i])
            return be64toh(left[i]) < be64toh(right[i]) ? -1 : 1;
    }
    return 0;
}

static inline bool ha_uuid_is_zero(struct ha_uuid a)
{
    static const struct ha_uuid zero;
    return ha_uuid_equal(a, zero);
}

/* Writes the 36-character form and a NUL into ret_text[HA_UUID_TEXT]. */
void ha_uuid_format(struct ha_uuid id, char *ret_text);
/* Parses the 36-character form (any case). Returns 0, or -HA_E_USAGE and leaves *ret_id alone. */
int ha_uuid_parse(const char *text, struct ha_uuid *ret_id);
/* True if name is 1 to 63 of [a-zA-Z0-9._-], starting with a letter or digit. */
bool ha_name_is_valid(const char *name);

#endif
