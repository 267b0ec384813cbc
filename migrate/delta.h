/* SPDX-License-Identifier: Apache-2.0
 *
 * What changed in a page since its last version, as changed 8-byte words (STREAM.md, section 4):
 *
 *   u64 lines: bit i = 64-byte line i changed; then for each, in order:
 *   u8 words, not 0: bit i = 8-byte word i of it changed; then the new words
 */
#ifndef HAMGR_MIGRATE_DELTA_H
#define HAMGR_MIGRATE_DELTA_H

#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "migrate/simd.h"

/* Encodes how `page` differs from `base`, and makes base equal to it. Returns the size of what was
 * written to dst; 0: it would exceed capacity, base is as it was. */
size_t delta_encode(enum simd_form form, uint8_t *base, const uint8_t *page, uint8_t *dst,
                    size_t capacity);
/* Changes base by the delta at src, which takes at most size bytes. *ret_used = how many it took.
 * Returns 0 or -HA_E_PEER; base is undefined then. */
int delta_apply(uint8_t *base, const uint8_t *src, size_t size, size_t *ret_used,
                struct ha_err *err);

#endif
