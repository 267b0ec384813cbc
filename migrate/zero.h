/* SPDX-License-Identifier: Apache-2.0
 *
 * Is a page all zero? Most pages that are not show it in their first line; the rest is read in
 * blocks the compiler turns into vector instructions.
 */
#ifndef HAMGR_MIGRATE_ZERO_H
#define HAMGR_MIGRATE_ZERO_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline bool page_is_zero(const uint8_t *page)
{
    for (unsigned at = 0; at < 4096; at += 128) {
        uint64_t words[16];
        uint64_t any = 0;
        memcpy(words, page + at, sizeof(words));
        for (unsigned i = 0; i < 16; i++)
            any |= words[i];
        if (any != 0)
            return false;
    }
    return true;
}

#endif
