/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops that look at every byte of a guest's memory, each in the widest form this processor
 * runs: AVX2, SSE2, or plain C that a compiler vectorizes (which is NEON on arm64). Chosen at run
 * time; every form gives the same results.
 */
#ifndef HAMGR_MIGRATE_SIMD_H
#define HAMGR_MIGRATE_SIMD_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/digest.h"

#define SIMD_PAGE  4096u
#define SIMD_LINE  64u
#define SIMD_LINES 64u /* of a page */

enum simd_form { SIMD_PLAIN = 0, SIMD_SSE2, SIMD_AVX2, SIMD_FORM_COUNT };

/* The best form here. For tests: a form this processor lacks must not be asked for. */
enum simd_form simd_best(void);
const char *simd_name(enum simd_form form);

/* Is the page all zero? True only if every byte was when it was read: no copy is needed of a page
 * that somebody else writes to. */
bool simd_is_zero(enum simd_form form, const uint8_t *page);
/* Bit i: line i (64 bytes) of the two pages differs. */
uint64_t simd_changed_lines(enum simd_form form, const uint8_t *a, const uint8_t *b);
/* Bit i: word i (8 bytes) of the two lines differs. */
uint8_t simd_changed_words(const uint8_t *a, const uint8_t *b);
/* XXH3-128 of a page with the migration's secret (FRAME_SECRET_SIZE bytes). */
struct ha_digest simd_page_hash(enum simd_form form, const uint8_t *page, const uint8_t *secret);

/* The AVX2 forms, in a file of their own because it is compiled for that processor. */
bool simd_avx2_is_zero(const uint8_t *page);
uint64_t simd_avx2_changed_lines(const uint8_t *a, const uint8_t *b);
struct ha_digest simd_avx2_page_hash(const uint8_t *page, const uint8_t *secret);

#endif
