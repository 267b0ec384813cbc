/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/streambench/gen.h"

#include <endian.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hamgr/base/rng.h"

#define XL_MAGIC      "Xen saved domain, xl format\n \0 \r" /* 32 bytes, no NUL behind */
#define XL_MAGIC_SIZE 32u
#define XL_HEAD_SIZE  48u
#define XC_HEAD       40u /* image and domain header */
#define SPARSE_ROUNDS 2u

enum { PAGE_DATA = 1, LIBXC_CONTEXT = 1, STATIC_DATA_END = 16, HVM_CONTEXT = 9 };

struct gen_image {
    const uint8_t *data;
    size_t size;
    const char *name;
    bool is_mapped;
};

struct gen {
    struct gen_options options;
    struct gen_image images[GEN_IMAGES_MAX];
    unsigned rounds;
    bool is_stream;
    /* made streams: what is next */
    unsigned phase; /* 0 head, 1 pages, 2 tail, 3 end */
    unsigned round;
    uint64_t pfn;
    uint64_t pfn_count;
    uint8_t *changed[GEN_IMAGES_MAX]; /* a byte a page: differs from the round before */
    /* streams from a file: where we are */
    size_t at;
    bool is_in_libxc;
    bool is_wrapped; /* a bare libxc stream: libxl's records around it are ours */
    uint64_t entries[GEN_BATCH_MAX * 32];
    const uint8_t *pages[GEN_BATCH_MAX * 32];
    uint8_t *made; /* sparse: the pages of a batch */
    uint8_t edge[16384];
};

/* ---- options and files ---- */

bool gen_option(struct gen_options *options, int argc, char **argv, int *at)
{
    const char *word = argv[*at];

    if (strcmp(word, "--resend") == 0) {
        options->is_resending = true;
        return true;
    }
    bool is_image = strcmp(word, "--image") == 0;
    if (!is_image && strcmp(word, "--sparse") != 0)
        return false;
    if (*at + 1 >= argc)
        errx(2, "%s needs a value", word);
    const char *value = argv[++*at];
    if (is_image) {
        if (options->path_count == GEN_IMAGES_MAX)
            errx(2, "at most %u images", GEN_IMAGES_MAX);
        options->paths[options->path_count++] = value;
        return true;
    }
    char *end = NULL;
    options->sparse_pages = (uint32_t)strtoul(value, &end, 10);
    options->sparse_gib = *end == ':' ? (uint32_t)strtoul(end + 1, &end, 10) : 0;
    if (*end != '\0' || options->sparse_pages == 0 || options->sparse_gib == 0 ||
        options->sparse_gib > 1024 ||
        ((uint64_t)options->sparse_gib << 18) / options->sparse_pages == 0)
        errx(2, "--sparse %s: PAGES:GIB, and no more pages than fit", value);
    return true;
}

static void map_image(struct gen_image *image, const char *path)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &info) < 0)
        err(2, "%s", path);
    if (info.st_size == 0)
        errx(2, "%s: empty", path);
    image->size = (size_t)info.st_size;
    image->name = path;
    image->data = mmap(NULL, image->size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (image->data == MAP_FAILED)
        err(2, "%s: mmap", path);
    image->is_mapped = true;
    close(fd);
}

static uint32_t le32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

/* Where a native stream starts in the file; SIZE_MAX: raw memory. */
static size_t find_stream(struct gen *gen, const struct gen_image *image)
{
    static const uint8_t xc_magic[12] = {255, 255, 255, 255, 255, 255,
                                         255, 255, 'X', 'E', 'N', 'F'};
    const uint8_t *data = image->data;

    if (image->size >= 16 && memcmp(data, "LibxlFmt", 8) == 0)
        return 0;
    if (image->size >= XC_HEAD && memcmp(data, xc_magic, sizeof(xc_magic)) == 0) {
        gen->is_wrapped = true;
        return 0;
    }
    if (image->size < XL_HEAD_SIZE || memcmp(data, XL_MAGIC, XL_MAGIC_SIZE) != 0)
        return SIZE_MAX;
    size_t start = XL_HEAD_SIZE + (size_t)le32(data + 44);
    if (start + 16 > image->size || memcmp(data + start, "LibxlFmt", 8) != 0)
        errx(2, "%s: an xl save file without a libxl stream of version 2 at offset %zu",
             image->name, start);
    return start;
}

static void mark_changed(struct gen *gen, unsigned round)
{
    gen->changed[round] = calloc(gen->pfn_count, 1);
    if (!gen->changed[round])
        err(2, "memory");
    for (uint64_t pfn = 0; pfn < gen->pfn_count; pfn++)
        gen->changed[round][pfn] =
            round == 0 || gen->options.is_resending ||
            memcmp(gen->images[round].data + pfn * GEN_PAGE,
                   gen->images[round - 1].data + pfn * GEN_PAGE, GEN_PAGE) != 0;
}

static void open_raw(struct gen *gen)
{
    size_t size = gen->images[0].size;

    for (unsigned i = 0; i < gen->options.path_count; i++)
        if (gen->images[i].size != size || size % GEN_PAGE != 0)
            errx(2, "%s: %zu bytes; raw images are whole pages and of one size",
                 gen->images[i].name, gen->images[i].size);
    gen->rounds = gen->options.path_count;
    gen->pfn_count = size / GEN_PAGE;
    for (unsigned round = 0; round < gen->rounds; round++)
        mark_changed(gen, round);
}

struct gen *gen_open(const struct gen_options *options)
{
    struct gen *gen = calloc(1, sizeof(*gen));

    if (!gen)
        err(2, "memory");
    gen->options = *options;
    if ((options->path_count == 0) == (options->sparse_pages == 0))
        errx(2, "an --image FILE or --sparse PAGES:GIB is needed, not both");
    for (unsigned i = 0; i < options->path_count; i++)
        map_image(&gen->images[i], options->paths[i]);
    if (options->path_count == 0) {
        gen->rounds = SPARSE_ROUNDS;
        gen->pfn_count = (uint64_t)options->sparse_gib << 18;
        gen->made = malloc((size_t)GEN_BATCH_MAX * GEN_PAGE);
        if (!gen->made)
            err(2, "memory");
        return gen;
    }
    size_t start = find_stream(gen, &gen->images[0]);
    gen->is_stream = start != SIZE_MAX;
    if (!gen->is_stream)
        open_raw(gen);
    else if (options->path_count > 1)
        errx(2, "%s: a native stream comes alone; rounds are raw images", gen->images[0].name);
    gen->at = gen->is_stream ? start : 0;
    return gen;
}

struct gen *gen_over(const uint8_t *data, size_t size, const char *name)
{
    struct gen *gen = calloc(1, sizeof(*gen));

    if (!gen)
        err(2, "memory");
    gen->images[0] = (struct gen_image){.data = data, .size = size, .name = name};
    gen->options.path_count = 1;
    gen->is_stream = true;
    return gen;
}

void gen_close(struct gen *gen)
{
    for (unsigned i = 0; i < gen->options.path_count; i++) {
        if (gen->images[i].is_mapped)
            munmap((void *)(uintptr_t)gen->images[i].data, gen->images[i].size);
        free(gen->changed[i]);
    }
    free(gen->made);
    free(gen);
}

/* ---- pieces ---- */

size_t gen_batch_size(const struct gen_item *item)
{
    return sizeof(item->head) + 8 * (size_t)item->count + GEN_PAGE * (size_t)item->data_count;
}

static void put32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof(value));
}

static void give_raw(struct gen_item *item, const uint8_t *data, size_t size)
{
    memset(item, 0, sizeof(*item));
    item->kind = GEN_RAW;
    item->data = data;
    item->size = size;
}

static void give_batch(struct gen *gen, struct gen_item *item, uint32_t count, uint32_t data_count)
{
    memset(item, 0, sizeof(*item));
    item->kind = GEN_BATCH;
    item->count = count;
    item->data_count = data_count;
    item->entries = gen->entries;
    item->pages = gen->pages;
    put32(item->head, PAGE_DATA);
    put32(item->head + 4, (uint32_t)(gen_batch_size(item) - 8));
    put32(item->head + 8, count);
}

static size_t put_record(uint8_t *at, uint32_t type, uint32_t size)
{
    put32(at, type);
    put32(at + 4, size);
    memset(at + 8, 0x5a, size);
    return 8 + size;
}

static size_t put_libxl_head(uint8_t *at)
{
    static const uint8_t head[16] = {'L', 'i', 'b', 'x', 'l', 'F', 'm', 't',
                                     0,   0,   0,   2,   0,   0,   0,   0};

    memcpy(at, head, sizeof(head));
    return sizeof(head) + put_record(at + sizeof(head), LIBXC_CONTEXT, 0);
}

/* An HVM guest of Xen 4.17, as far as a stream tells. */
static void give_head(struct gen *gen, struct gen_item *item)
{
    static const uint8_t image[XC_HEAD] = {
        255, 255, 255, 255, 255, 255, 255, 255, 'X', 'E', 'N', 'F', 0, 0, 0, 3, 0,  0, 0, 0,
        0,   0,   0,   0,   2,   0,   0,   0,   12,  0,   0,   0,   4, 0, 0, 0, 17, 0, 0, 0};
    size_t size = put_libxl_head(gen->edge);

    memcpy(gen->edge + size, image, sizeof(image));
    size += sizeof(image);
    size += put_record(gen->edge + size, STATIC_DATA_END, 0);
    give_raw(item, gen->edge, size);
}

static void give_tail(struct gen *gen, struct gen_item *item)
{
    size_t size = put_record(gen->edge, HVM_CONTEXT, 8000);

    size += put_record(gen->edge + size, 0, 0);
    size += put_record(gen->edge + size, 0, 0);
    give_raw(item, gen->edge, size);
}

/* A quarter of the pages is zero; the others are half noise, half repetition. In the second round
 * each tenth one has another line; the others come again as they were. */
static void make_sparse(uint8_t *page, uint64_t pfn, uint64_t index, unsigned round)
{
    struct ha_rng rng = {.state = pfn * 0x9e3779b97f4a7c15u + 1};

    memset(page, 0, GEN_PAGE);
    if (index % 4 == 0)
        return;
    for (unsigned i = 0; i < GEN_PAGE / 8; i++) {
        uint64_t word = i < GEN_PAGE / 16 ? ha_rng_next(&rng) : pfn;
        memcpy(page + (size_t)8 * i, &word, sizeof(word));
    }
    if (round > 0 && index % 10 == 0)
        memset(page + 64 * (index % 64), (int)round, 64);
}

static bool next_sparse(struct gen *gen, uint32_t count)
{
    uint64_t stride = gen->pfn_count / gen->options.sparse_pages;
    uint64_t index = gen->pfn / stride;

    if (index >= gen->options.sparse_pages)
        return false;
    uint8_t *page = gen->made + (size_t)count * GEN_PAGE;
    make_sparse(page, gen->pfn, index, gen->round);
    gen->entries[count] = htole64(gen->pfn);
    gen->pages[count] = page;
    gen->pfn += stride;
    return true;
}

static bool next_raw(struct gen *gen, uint32_t count)
{
    while (gen->pfn < gen->pfn_count && !gen->changed[gen->round][gen->pfn])
        gen->pfn++;
    if (gen->pfn == gen->pfn_count)
        return false;
    gen->entries[count] = htole64(gen->pfn);
    gen->pages[count] = gen->images[gen->round].data + gen->pfn * GEN_PAGE;
    gen->pfn++;
    return true;
}

static void next_made(struct gen *gen, struct gen_item *item)
{
    uint32_t count = 0;

    if (gen->phase == 0) {
        gen->phase = 1;
        give_head(gen, item);
        return;
    }
    if (gen->phase == 2) {
        gen->phase = 3;
        give_tail(gen, item);
        return;
    }
    memset(item, 0, sizeof(*item));
    if (gen->phase == 3)
        return;
    while (count < GEN_BATCH_MAX && (gen->made ? next_sparse(gen, count) : next_raw(gen, count)))
        count++;
    if (count > 0) {
        give_batch(gen, item, count, count);
        return;
    }
    gen->pfn = 0;
    gen->round++;
    gen->phase = gen->round < gen->rounds ? 1 : 2;
    item->kind = GEN_ROUND;
}

/* ---- pieces of a file ---- */

static void __attribute__((noreturn)) malformed(const struct gen *gen, const char *what)
{
    errx(1, "%s: offset %zu: %s", gen->images[0].name, gen->at, what);
}

static const uint8_t *take(struct gen *gen, size_t size, const char *what)
{
    const uint8_t *at = gen->images[0].data + gen->at;

    if (gen->images[0].size - gen->at < size)
        malformed(gen, what);
    gen->at += size;
    return at;
}

static void give_page_data(struct gen *gen, const uint8_t *body, size_t size, struct gen_item *item)
{
    uint32_t count = size >= 8 ? le32(body) : 0;
    uint32_t data_count = 0;

    if (count == 0 || count > GEN_BATCH_MAX * 32 || size < 8 + 8 * (size_t)count)
        malformed(gen, "PAGE_DATA: count");
    memcpy(gen->entries, body + 8, 8 * (size_t)count);
    for (uint32_t i = 0; i < count; i++) {
        if (!GEN_HAS_DATA(le64toh(gen->entries[i])))
            continue;
        gen->pages[data_count] = body + 8 + 8 * (size_t)count + (size_t)data_count * GEN_PAGE;
        data_count++;
    }
    if (size != 8 + 8 * (size_t)count + (size_t)data_count * GEN_PAGE)
        malformed(gen, "PAGE_DATA: length");
    give_batch(gen, item, count, data_count);
}

/* Headers in front of records; true when *item is one. */
static bool give_headers(struct gen *gen, struct gen_item *item)
{
    if (gen->phase == 0 && gen->is_wrapped) {
        gen->phase = 1;
        gen->is_in_libxc = true;
        size_t size = put_libxl_head(gen->edge);
        memcpy(gen->edge + size, take(gen, XC_HEAD, "libxc header"), XC_HEAD);
        give_raw(item, gen->edge, size + XC_HEAD);
        return true;
    }
    if (gen->phase == 0) {
        gen->phase = 1;
        give_raw(item, take(gen, 16, "libxl header"), 16);
        return true;
    }
    return false;
}

static void next_record(struct gen *gen, struct gen_item *item)
{
    const uint8_t *head = take(gen, 8, "the file ends before the stream does");
    uint32_t type = le32(head);
    size_t size = le32(head + 4);
    size_t padded = (size + 7) & ~(size_t)7;
    bool is_libxc = gen->is_in_libxc;

    const uint8_t *body = take(gen, padded, "the file ends inside a record");
    if (is_libxc && type == PAGE_DATA) {
        give_page_data(gen, body, size, item);
        return;
    }
    if (!is_libxc && type == LIBXC_CONTEXT) {
        gen->is_in_libxc = true;
        (void)take(gen, XC_HEAD, "libxc header");
        padded += XC_HEAD;
    }
    give_raw(item, head, 8 + padded);
    if (type != 0)
        return;
    gen->is_in_libxc = false;
    gen->phase = is_libxc ? (gen->is_wrapped ? 2 : 1) : 3;
}

static void next_of_file(struct gen *gen, struct gen_item *item)
{
    if (give_headers(gen, item))
        return;
    if (gen->phase == 2) {
        give_raw(item, gen->edge, put_record(gen->edge, 0, 0));
        gen->phase = 3;
        return;
    }
    if (gen->phase == 1) {
        next_record(gen, item);
        return;
    }
    if (gen->at != gen->images[0].size)
        malformed(gen, "something behind the stream's end");
    memset(item, 0, sizeof(*item));
}

void gen_next(struct gen *gen, struct gen_item *ret_item)
{
    if (gen->is_stream)
        next_of_file(gen, ret_item);
    else
        next_made(gen, ret_item);
}
