/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes images of guest memory for tests/bench/stream, the same from the same files and seed.
 *
 *   image KIND MIB OUT [--seed N] [--text LIST] [--programs LIST]
 *       zero | random
 *       text   documentation and libraries, the files named in LIST
 *       mix    40 % zero, 25 % text, 15 % heap-like (pointers and small numbers), 10 % random,
 *              10 % programs, in runs of 16 to 512 pages as memory has them
 *   image delta PERCENT OUT --from IN [--seed N]
 *       in every page PERCENT of its 64-byte lines (at random places) get other bytes
 *   image pair PERCENT OUT --from IN [--seed N]
 *       PERCENT of the pages are written, in runs of 1 to 64; of them
 *         60 %  1 to 16 words of 8 bytes at random places (counters, pointers, lists)
 *         25 %  one record of 64 to 1024 bytes, its bytes taken from elsewhere in the image
 *          8 %  become a copy of another page (a page reused)
 *          7 %  become zero (a page freed)
 */
#include <err.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hamgr/base/rng.h"

#define PAGE     4096u
#define FILE_MAX (4u << 20) /* of one file: many files, not one large one */

struct image {
    uint8_t *data;
    size_t size;
};

struct options {
    const char *kind;
    unsigned number;
    const char *out;
    const char *text;
    const char *programs;
    const char *from;
    struct ha_rng rng;
};

static struct image image_new(const char *path, size_t size)
{
    struct image image = {.size = size};
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        err(1, "%s", path);
    image.data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (image.data == MAP_FAILED)
        err(1, "%s: mmap", path);
    close(fd);
    return image;
}

/* A copy to be changed. */
static struct image image_copy(const char *from, const char *to)
{
    struct stat info;
    int fd = open(from, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &info) < 0)
        err(1, "%s", from);
    if (info.st_size == 0 || info.st_size % PAGE != 0)
        errx(1, "%s: not whole pages", from);
    struct image image = image_new(to, (size_t)info.st_size);
    size_t done = 0;
    while (done < image.size) {
        ssize_t r = read(fd, image.data + done, image.size - done);
        if (r <= 0)
            err(1, "%s", from);
        done += (size_t)r;
    }
    close(fd);
    return image;
}

static void fill_random(struct ha_rng *rng, uint8_t *at, size_t size)
{
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word = ha_rng_next(rng);
        memcpy(at + i, &word, sizeof(word));
    }
}

static void fill_heap(struct ha_rng *rng, uint8_t *at, size_t size)
{
    for (size_t i = 0; i + 8 <= size; i += 8) {
        bool is_pointer = ha_rng_below(rng, 10) < 4;
        uint64_t word = is_pointer ? 0x7f0000000000u + 16 * ha_rng_below(rng, 1u << 24)
                                   : ha_rng_below(rng, 1u << 12);
        memcpy(at + i, &word, sizeof(word));
    }
}

static size_t read_file(const char *path, uint8_t *at, size_t room)
{
    size_t done = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    room = room < FILE_MAX ? room : FILE_MAX;
    while (fd >= 0 && done < room) {
        ssize_t r = read(fd, at + done, room - done);
        if (r <= 0)
            break;
        done += (size_t)r;
    }
    if (fd >= 0)
        close(fd);
    return done;
}

/* The contents of the files named in the list, again from the first when they do not suffice. */
static void fill_files(const char *list, uint8_t *at, size_t size)
{
    FILE *file = list ? fopen(list, "re") : NULL;
    char line[4096];
    size_t done = 0;

    if (!file)
        err(1, "list of files %s", list ? list : "(none given)");
    while (done < size) {
        size_t before = done;
        while (done < size && fgets(line, sizeof(line), file)) {
            line[strcspn(line, "\n")] = '\0';
            done += read_file(line, at + done, size - done);
        }
        if (done == before)
            errx(1, "%s: none of its files could be read", list);
        rewind(file);
    }
    fclose(file);
}

/* Copies the pages of plain in runs of a kind, the runs in random order. */
static void shuffle(struct ha_rng *rng, const uint8_t *plain, const struct image *out)
{
    static const uint32_t lengths[] = {16, 32, 64, 128, 512};
    size_t pages = out->size / PAGE;
    size_t *starts = calloc(pages / 16 + 2, sizeof(*starts));
    size_t *sizes = calloc(pages / 16 + 2, sizeof(*sizes));
    size_t count = 0, to = 0;

    if (!starts || !sizes)
        err(1, "memory");
    for (size_t at = 0; at < pages; at += sizes[count++]) {
        size_t length = lengths[ha_rng_below(rng, 5)];
        starts[count] = at;
        sizes[count] = length < pages - at ? length : pages - at;
    }
    for (size_t left = count; left > 0; left--) {
        size_t pick = ha_rng_below(rng, left);
        memcpy(out->data + to, plain + starts[pick] * PAGE, sizes[pick] * PAGE);
        to += sizes[pick] * PAGE;
        starts[pick] = starts[left - 1];
        sizes[pick] = sizes[left - 1];
    }
    free(starts);
    free(sizes);
}

static size_t share(size_t size, unsigned percent)
{
    return size / 100 * percent / PAGE * PAGE;
}

static void make_mix(struct options *o, const struct image *out)
{
    uint8_t *plain =
        mmap(NULL, out->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t at = 0;

    if (plain == MAP_FAILED)
        err(1, "memory");
    fill_files(o->text, plain, share(out->size, 25));
    at += share(out->size, 25);
    fill_heap(&o->rng, plain + at, share(out->size, 15));
    at += share(out->size, 15);
    fill_random(&o->rng, plain + at, share(out->size, 10));
    at += share(out->size, 10);
    fill_files(o->programs, plain + at, share(out->size, 10));
    /* The rest, 40 %, is zero. */
    shuffle(&o->rng, plain, out);
    munmap(plain, out->size);
}

static void make_delta(struct options *o, const struct image *out)
{
    unsigned lines = (PAGE / 64 * o->number + 50) / 100;

    for (size_t at = 0; at < out->size; at += PAGE)
        for (unsigned i = 0; i < lines; i++)
            fill_random(&o->rng, out->data + at + 64 * ha_rng_below(&o->rng, PAGE / 64), 64);
}

static void write_page(struct ha_rng *rng, const struct image *out, size_t at)
{
    uint64_t pick = ha_rng_below(rng, 100);
    uint8_t *page = out->data + at;

    if (pick < 60) {
        for (uint64_t i = 1 + ha_rng_below(rng, 16); i > 0; i--)
            fill_random(rng, page + 8 * ha_rng_below(rng, PAGE / 8), 8);
    } else if (pick < 85) {
        size_t size = 64 + ha_rng_below(rng, 961);
        size_t from = ha_rng_below(rng, out->size - size);
        memmove(page + ha_rng_below(rng, PAGE - size), out->data + from, size);
    } else if (pick < 93) {
        memmove(page, out->data + ha_rng_below(rng, out->size / PAGE) * PAGE, PAGE);
    } else {
        memset(page, 0, PAGE);
    }
}

static void make_pair(struct options *o, const struct image *out)
{
    size_t pages = out->size / PAGE;
    size_t left = pages * o->number / 100;

    while (left > 0) {
        size_t run = 1 + ha_rng_below(&o->rng, 64);
        size_t first = ha_rng_below(&o->rng, pages);
        for (size_t i = 0; i < run && first + i < pages && left > 0; i++, left--)
            write_page(&o->rng, out, (first + i) * PAGE);
    }
}

static void make(struct options *o)
{
    if (strcmp(o->kind, "delta") == 0 || strcmp(o->kind, "pair") == 0) {
        if (!o->from || o->number > 100)
            errx(2, "image %s PERCENT OUT --from IN", o->kind);
        struct image out = image_copy(o->from, o->out);
        if (o->kind[0] == 'd')
            make_delta(o, &out);
        else
            make_pair(o, &out);
        return;
    }
    if (o->number == 0 || o->number > 65536)
        errx(2, "image: 1 to 65536 MiB");
    struct image out = image_new(o->out, (size_t)o->number << 20);
    if (strcmp(o->kind, "zero") == 0)
        memset(out.data, 0, out.size);
    else if (strcmp(o->kind, "random") == 0)
        fill_random(&o->rng, out.data, out.size);
    else if (strcmp(o->kind, "text") == 0)
        fill_files(o->text, out.data, out.size);
    else if (strcmp(o->kind, "mix") == 0)
        make_mix(o, &out);
    else
        errx(2, "image: unknown kind %s", o->kind);
}

int main(int argc, char **argv)
{
    struct options o = {.rng = {.state = 4}};

    if (argc < 4 || argc % 2 != 0)
        errx(2, "image KIND NUMBER OUT [--seed N] [--text LIST] [--programs LIST] [--from IN]");
    o.kind = argv[1];
    o.number = (unsigned)strtoul(argv[2], NULL, 10);
    o.out = argv[3];
    for (int i = 4; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            o.rng.state = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--text") == 0)
            o.text = argv[i + 1];
        else if (strcmp(argv[i], "--programs") == 0)
            o.programs = argv[i + 1];
        else if (strcmp(argv[i], "--from") == 0)
            o.from = argv[i + 1];
        else
            errx(2, "image: unknown option %s", argv[i]);
    }
    make(&o);
    return 0;
}
