/* SPDX-License-Identifier: Apache-2.0
 *
 * Compression of blocks of at most 256 KiB (STREAM.md, section 4): zstd, or not at all. Sizes are
 * bounded by the caller's buffers before anything is decoded. One thread per codec.
 */
#ifndef HAMGR_MIGRATE_CODEC_H
#define HAMGR_MIGRATE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"

struct codec;

/* level 0: never compresses; below 0: zstd's fast levels. NULL: no memory. */
struct codec *codec_new(int level);
void codec_free(struct codec *codec);
/* From the next block on. A codec made with level 0 stays there. */
void codec_set_level(struct codec *codec, int level);

/* Compresses src[size] into dst[capacity]. Returns the encoded size, or 0: store it (it does not
 * shrink by 1/32, or recent blocks did not and this one, which looks random as well, was not
 * tried). is_page_data: such blocks share that memory of failures. */
size_t codec_encode(struct codec *codec, const void *src, size_t size, void *dst, size_t capacity,
                    bool is_page_data);
/* Did the last codec_encode work on the block, or store it untried? */
bool codec_has_tried(const struct codec *codec);
/* Decodes src[size], encoded with `id` (enum frame_codec), into exactly dst[raw_size]. Returns 0 or
 * -HA_E_PEER: the block states or yields another size, or is damaged. dst never overflows. */
int codec_decode(struct codec *codec, uint8_t id, const void *src, size_t size, void *dst,
                 size_t raw_size, struct ha_err *err);

#endif
