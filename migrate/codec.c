/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/codec.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "migrate/frame.h"

#define SKIP_MAX 32u /* blocks stored untried after a run of failures: 8 MiB, then one is tried */
/* A block is judged by so many runs of so many bytes, evenly spread. */
#define SAMPLES     16u
#define SAMPLE_SIZE 64u
/* Sum of the squared counts of byte values: 5116 +- 90 for random bytes, hardly ever less than 7000
 * for what zstd can shrink by 1/32 (measured on binaries, texts and heaps). */
#define RANDOM_MAX 6000u

/* Level 1 with a hash table of 64 KiB and matches of 6 bytes or more: for the 1 GiB of a booted
 * Linux in groups of 256 KiB 3 to 5 % less processor time than 13 and 5, for 0.4 % fewer bytes; 14
 * and 5 yield 0.8 % fewer still, but cost what 13 and 5 do. */
#define ONE_HASH_LOG  14
#define ONE_MIN_MATCH 6

struct codec {
    ZSTD_CCtx *encoder;
    ZSTD_DCtx *decoder;
    int level;
    uint32_t failures; /* page blocks in a row that did not shrink */
    uint32_t skip;     /* page blocks still to be stored untried */
    bool has_tried;    /* the last block */
};

struct codec *codec_new(int level)
{
    struct codec *codec = calloc(1, sizeof(*codec));

    if (!codec)
        return NULL;
    codec->decoder = ZSTD_createDCtx();
    codec->encoder = level != 0 ? ZSTD_createCCtx() : NULL;
    if (!codec->decoder || (level != 0 && !codec->encoder)) {
        codec_free(codec);
        return NULL;
    }
    if (codec->encoder) {
        (void)ZSTD_CCtx_setParameter(codec->encoder, ZSTD_c_contentSizeFlag, 1);
        (void)ZSTD_CCtx_setParameter(codec->encoder, ZSTD_c_checksumFlag, 0);
    }
    codec_set_level(codec, level);
    return codec;
}

void codec_free(struct codec *codec)
{
    if (!codec)
        return;
    ZSTD_freeCCtx(codec->encoder);
    ZSTD_freeDCtx(codec->decoder);
    free(codec);
}

void codec_set_level(struct codec *codec, int level)
{
    if (!codec->encoder || codec->level == level)
        return;
    if (level != 0) {
        (void)ZSTD_CCtx_setParameter(codec->encoder, ZSTD_c_compressionLevel, level);
        (void)ZSTD_CCtx_setParameter(codec->encoder, ZSTD_c_hashLog, level == 1 ? ONE_HASH_LOG : 0);
        (void)ZSTD_CCtx_setParameter(codec->encoder, ZSTD_c_minMatch,
                                     level == 1 ? ONE_MIN_MATCH : 0);
    }
    codec->level = level;
}

/* After n failures in a row the next 2^n blocks are not tried as long as they look random: such
 * memory (encrypted or packed) comes in long runs, and trying it costs more than sending it. */
static void note_failure(struct codec *codec)
{
    codec->failures += codec->failures < 5 ? 1u : 0u;
    codec->skip = 1u << codec->failures;
    codec->skip = codec->skip < SKIP_MAX ? codec->skip : SKIP_MAX;
}

static bool looks_random(const uint8_t *data, size_t size)
{
    uint32_t counts[256] = {0}, sum = 0;

    if (size < SAMPLES * SAMPLE_SIZE)
        return false;
    for (size_t i = 0; i < SAMPLES; i++)
        for (size_t j = 0; j < SAMPLE_SIZE; j++)
            counts[data[size / SAMPLES * i + j]]++;
    for (size_t i = 0; i < 256; i++)
        sum += counts[i] * counts[i];
    return sum < RANDOM_MAX;
}

size_t codec_encode(struct codec *codec, const void *src, size_t size, void *dst, size_t capacity,
                    bool is_page_data)
{
    size_t room = size - size / 32;

    codec->has_tried = false;
    if (codec->level == 0 || size < 64)
        return 0;
    if (is_page_data && codec->skip > 0) {
        codec->skip--;
        if (looks_random(src, size))
            return 0;
    }
    codec->has_tried = true;
    size_t r = ZSTD_compress2(codec->encoder, dst, room < capacity ? room : capacity, src, size);
    if (!ZSTD_isError(r)) {
        codec->failures = is_page_data ? 0 : codec->failures;
        return r;
    }
    if (is_page_data)
        note_failure(codec);
    return 0;
}

bool codec_has_tried(const struct codec *codec)
{
    return codec->has_tried;
}

int codec_decode(struct codec *codec, uint8_t id, const void *src, size_t size, void *dst,
                 size_t raw_size, struct ha_err *err)
{
    static const uint8_t magic[] = {0x28, 0xb5, 0x2f, 0xfd};

    if (id == FRAME_STORE) {
        if (size != raw_size)
            return ha_err_set(err, HA_E_PEER, "stored block of %zu bytes, stated %zu", size,
                              raw_size);
        if (size > 0)
            memcpy(dst, src, size);
        return 0;
    }
    if (id != FRAME_ZSTD)
        return ha_err_set(err, HA_E_PEER, "unknown codec %u", (unsigned)id);
    /* The library may know formats of years before the present one, too: nobody needs those. */
    if (size < sizeof(magic) || memcmp(src, magic, sizeof(magic)) != 0)
        return ha_err_set(err, HA_E_PEER, "compressed block is not a zstd frame");
    if (ZSTD_getFrameContentSize(src, size) != raw_size)
        return ha_err_set(err, HA_E_PEER, "compressed block does not state %zu bytes", raw_size);
    if (ZSTD_findFrameCompressedSize(src, size) != size)
        return ha_err_set(err, HA_E_PEER, "compressed block is not one zstd frame");
    size_t r = ZSTD_decompressDCtx(codec->decoder, dst, raw_size, src, size);
    if (ZSTD_isError(r))
        return ha_err_set(err, HA_E_PEER, "compressed block: %s", ZSTD_getErrorName(r));
    if (r != raw_size)
        return ha_err_set(err, HA_E_PEER, "compressed block of %zu bytes, stated %zu", r, raw_size);
    return 0;
}
