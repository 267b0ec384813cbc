/* SPDX-License-Identifier: Apache-2.0
 *
 * The native stream of a measurement, piece by piece and without copying: from `xl save` files,
 * libxl or libxc streams, from raw memory (in one round, or several: the guest that wrote between),
 * or from nothing (a sparse address space). The feeder writes the pieces, the sink compares what
 * arrived with the same pieces made again.
 */
#ifndef HAMGR_BENCH_GEN_H
#define HAMGR_BENCH_GEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GEN_PAGE            4096u
#define GEN_BATCH_MAX       1024u /* as libxc writes them */
#define GEN_IMAGES_MAX      8u
#define GEN_HAS_DATA(entry) ((entry) >> 60 < 13)

enum gen_kind {
    GEN_END = 0,
    GEN_RAW,   /* data[size] */
    GEN_BATCH, /* one PAGE_DATA record: entries[count], data_count pages */
    GEN_ROUND, /* the round ended; nothing to write */
};

struct gen_item {
    enum gen_kind kind;
    const uint8_t *data; /* all borrowed until the next call */
    size_t size;
    uint32_t count;
    uint32_t data_count;
    const uint64_t *entries;
    const uint8_t *const *pages;
    uint8_t head[16]; /* BATCH: record and PAGE_DATA headers */
};

struct gen;

/* How a stream is made. */
struct gen_options {
    const char *paths[GEN_IMAGES_MAX]; /* raw images of one size: a round each; or one stream */
    unsigned path_count;
    bool is_resending; /* a later round sends all pages, changed or not; else the changed ones */
    /* paths empty: sparse_pages pages spread over sparse_gib of address space, in two rounds */
    uint32_t sparse_pages;
    uint32_t sparse_gib;
};

/* Takes --image FILE (repeatable), --resend, --sparse PAGES:GIB out of argv[*at]; returns false
 * when the word is none of them. Exits with a sentence on a bad value. */
bool gen_option(struct gen_options *options, int argc, char **argv, int *at);
/* Maps the files. Exits with a sentence naming file and cause. */
struct gen *gen_open(const struct gen_options *options);
/* The same over a stream in memory (borrowed). name is for messages. */
struct gen *gen_over(const uint8_t *data, size_t size, const char *name);
/* The next piece; after GEN_END not to be called again. Exits when a file is malformed. */
void gen_next(struct gen *gen, struct gen_item *ret_item);
void gen_close(struct gen *gen);
/* Bytes of a BATCH's record. */
size_t gen_batch_size(const struct gen_item *item);

#endif
