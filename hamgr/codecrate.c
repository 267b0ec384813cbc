/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/codecrate.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#include "hamgr/base/rng.h"

#define BYTES 262144u
#define LINE  64u
#define TRIES 3u
#define MOST  4 /* processors: a stream has not much more to do at once */

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A half of the lines are others again, with some bytes changed: about 3 : 1. */
static void fill(uint8_t *memory)
{
    struct ha_rng rng = {.state = 1};

    for (uint32_t at = 0; at < BYTES; at += LINE) {
        bool is_copy = at > 0 && ha_rng_below(&rng, 2) == 0;
        if (is_copy)
            memcpy(memory + at, memory + ha_rng_below(&rng, at / LINE) * LINE, LINE);
        for (uint32_t i = is_copy ? LINE - 8 : 0; i < LINE; i++)
            memory[at + i] = (uint8_t)("hamgr lives here"[ha_rng_below(&rng, 16)]);
    }
}

uint64_t codecrate_measure(void)
{
    size_t capacity = ZSTD_compressBound(BYTES);
    uint8_t *memory = malloc(BYTES), *packed = malloc(capacity);
    ZSTD_CCtx *codec = ZSTD_createCCtx();
    uint64_t best_ns = 0;

    if (memory && packed && codec) {
        fill(memory);
        for (uint32_t i = 0; i < TRIES; i++) {
            uint64_t begun_ns = now_ns();
            size_t size = ZSTD_compressCCtx(codec, packed, capacity, memory, BYTES, 1);
            uint64_t ns = now_ns() - begun_ns;
            if (!ZSTD_isError(size) && ns > 0 && (best_ns == 0 || ns < best_ns))
                best_ns = ns;
        }
    }
    ZSTD_freeCCtx(codec);
    free(memory);
    free(packed);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t times = processors < 1 ? 1 : processors < MOST ? (uint64_t)processors : MOST;
    return best_ns ? times * BYTES * UINT64_C(1000000000) / best_ns : 0;
}
