/* SPDX-License-Identifier: Apache-2.0
 *
 * Plays the destination hypervisor: takes a native stream into memory touched before, and only then
 * compares it with what the source had: byte for byte, else canonically (STREAM.md, section 1).
 *
 *   sink --control SOCKET --fd N [--ring PATH] [--plant corrupt]
 *        (--image FILE... [--resend] | --sparse P:G)
 *
 * With a ring its pages come through shared memory, markers in their places (STREAM.md, section 6).
 *
 * Lines: says "ready", then at the end of the stream "taken BYTES NS CPU_NS"; waits for "verify"
 * and says "identical", "canonical" or "differs ...". --plant corrupt flips one bit of what
 * arrived.
 */
#include <endian.h>
#include <err.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "migrate/native.h"
#include "migrate/ring.h"
#include "tests/bench/streambench/ctl.h"
#include "tests/bench/streambench/gen.h"

#define READ_SIZE (1u << 20)
#define PFN_COUNT (1u << 28) /* 1 TiB */

struct sink {
    const struct gen_options *options;
    uint8_t *buffer;
    size_t room;
    size_t size;
};

/* One side of the canonical comparison: raw bytes, or entries of a batch one by one. */
struct side {
    struct gen *gen;
    struct gen_item item;
    size_t raw_done;
    uint32_t entry;
    uint32_t page;
};

static size_t expected_size(const struct gen_options *options)
{
    struct gen *gen = gen_open(options);
    struct gen_item item;
    size_t size = 0;

    for (gen_next(gen, &item); item.kind != GEN_END; gen_next(gen, &item))
        size += item.kind == GEN_BATCH ? gen_batch_size(&item) : item.size;
    gen_close(gen);
    return size;
}

static void touch(struct sink *s)
{
    s->room = expected_size(s->options) + READ_SIZE;
    s->buffer = mmap(NULL, s->room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->buffer == MAP_FAILED)
        err(2, "sink: %zu bytes", s->room);
    for (size_t at = 0; at < s->room; at += GEN_PAGE)
        s->buffer[at] = 1;
}

static void drain(struct sink *s, int fd)
{
    while (s->size < s->room) {
        size_t room = s->room - s->size;
        ssize_t r = read(fd, s->buffer + s->size, room < READ_SIZE ? room : READ_SIZE);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            err(1, "sink: read");
        if (r == 0)
            return;
        s->size += (size_t)r;
    }
}

static void append(struct sink *s, const void *data, size_t size)
{
    if (s->room - s->size < size)
        errx(1, "sink: more comes than was fed");
    memcpy(s->buffer + s->size, data, size);
    s->size += size;
}

/* The batch a marker stands for becomes a record again. */
static void take_batch(struct sink *s, struct ring *ring, const struct native_token *token)
{
    struct ring_batch batch;
    struct ha_err failed = {0};
    uint8_t head[NATIVE_BATCH_HEAD];

    if (ring_take(ring, token->marker_batch, token->marker_slot, &batch, &failed) < 0)
        errx(1, "sink: %s", failed.text);
    native_batch_head(head, batch.count, batch.data_count);
    append(s, head, sizeof(head));
    append(s, batch.entries, 8 * (size_t)batch.count);
    append(s, batch.pages, (size_t)batch.data_count * GEN_PAGE);
    ring_release(ring);
}

/* Takes what is complete at data[size]; returns how much that was. */
static size_t take_tokens(struct sink *s, struct ring *ring, struct native *native,
                          const uint8_t *data, size_t size)
{
    struct native_token token;
    struct ha_err failed = {0};
    size_t done = 0;

    for (;;) {
        if (native_next(native, data + done, size - done, &token, &failed) < 0)
            errx(1, "sink: %s", failed.text);
        if (token.kind == NATIVE_MORE || token.kind == NATIVE_END)
            return done;
        if (token.kind == NATIVE_MARKER)
            take_batch(s, ring, &token);
        else
            append(s, data + done, token.size);
        done += token.size;
    }
}

static void drain_ring(struct sink *s, struct ring *ring, int fd)
{
    uint8_t *window = malloc(READ_SIZE);
    struct native native;
    size_t have = 0;

    if (!window)
        err(1, "sink");
    native_init(&native, true);
    for (;;) {
        ssize_t r = read(fd, window + have, READ_SIZE - have);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            err(1, "sink: read");
        if (r == 0)
            break;
        have += (size_t)r;
        size_t done = take_tokens(s, ring, &native, window, have);
        have -= done;
        memmove(window, window + done, have);
    }
    free(window);
}

/* ---- byte for byte ---- */

static bool is_next(const struct sink *s, size_t *at, const void *data, size_t size)
{
    bool is_same = s->size - *at >= size && memcmp(s->buffer + *at, data, size) == 0;

    *at += is_same ? size : 0;
    return is_same;
}

static bool is_item_next(const struct sink *s, size_t *at, const struct gen_item *item)
{
    if (item->kind != GEN_BATCH)
        return is_next(s, at, item->data, item->size);
    if (!is_next(s, at, item->head, sizeof(item->head)) ||
        !is_next(s, at, item->entries, 8 * (size_t)item->count))
        return false;
    for (uint32_t i = 0; i < item->data_count; i++)
        if (!is_next(s, at, item->pages[i], GEN_PAGE))
            return false;
    return true;
}

static bool is_identical(const struct sink *s, size_t *ret_at)
{
    struct gen *gen = gen_open(s->options);
    struct gen_item item;
    size_t at = 0;
    bool is_same = true;

    for (gen_next(gen, &item); is_same && item.kind != GEN_END; gen_next(gen, &item))
        is_same = item.kind == GEN_ROUND || is_item_next(s, &at, &item);
    gen_close(gen);
    *ret_at = at;
    return is_same && at == s->size;
}

/* ---- canonically ---- */

/* Steps over what is used up; the item is then RAW with bytes left, BATCH with entries left, END.
 */
static void settle(struct side *side)
{
    while (side->item.kind == GEN_ROUND ||
           (side->item.kind == GEN_RAW && side->raw_done == side->item.size) ||
           (side->item.kind == GEN_BATCH && side->entry == side->item.count)) {
        gen_next(side->gen, &side->item);
        side->raw_done = 0;
        side->entry = side->page = 0;
    }
}

static struct side side_of(struct gen *gen)
{
    struct side side = {.gen = gen};

    gen_next(gen, &side.item);
    settle(&side);
    return side;
}

/* Compares what both have as raw bytes. */
static bool match_raw(struct side *want, struct side *got)
{
    size_t left = want->item.size - want->raw_done;
    size_t have = got->item.size - got->raw_done;
    size_t size = left < have ? left : have;

    if (memcmp(want->item.data + want->raw_done, got->item.data + got->raw_done, size) != 0)
        return false;
    want->raw_done += size;
    got->raw_done += size;
    return true;
}

static const uint8_t *page_of(const struct side *side, uint64_t *ret_entry)
{
    *ret_entry = le64toh(side->item.entries[side->entry]);
    return GEN_HAS_DATA(*ret_entry) ? side->item.pages[side->page] : NULL;
}

static void step(struct side *side, bool has_data)
{
    side->entry++;
    side->page += has_data;
}

/* The wanted entry against the one that came: the same, or one that may be left out because the
 * page was last sent with that content (or is a hole). last: hash of the content by pfn, 0 none. */
static bool match_entry(struct side *want, struct side *got, uint64_t *last)
{
    uint64_t entry, other = 0;
    const uint8_t *page = page_of(want, &entry);
    uint64_t pfn = entry & 0xfffffffffffffu;

    if (pfn >= PFN_COUNT)
        return false;
    uint64_t hash = page ? XXH3_64bits(page, GEN_PAGE) | 1 : 0;
    const uint8_t *theirs = got->item.kind == GEN_BATCH ? page_of(got, &other) : NULL;
    if (got->item.kind == GEN_BATCH && other == entry &&
        (!page || memcmp(page, theirs, GEN_PAGE) == 0)) {
        step(got, page != NULL);
    } else if (page && last[pfn] != hash) {
        return false;
    }
    last[pfn] = page ? hash : last[pfn];
    step(want, page != NULL);
    return true;
}

static bool is_canonical(const struct sink *s)
{
    struct side want = side_of(gen_open(s->options));
    struct side got = side_of(gen_over(s->buffer, s->size, "what arrived"));
    size_t size = sizeof(uint64_t) * PFN_COUNT;
    uint64_t *last = mmap(NULL, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool is_same = last != MAP_FAILED;

    while (is_same && want.item.kind != GEN_END) {
        if (want.item.kind == GEN_BATCH)
            is_same = match_entry(&want, &got, last);
        else
            is_same = got.item.kind == GEN_RAW && match_raw(&want, &got);
        settle(&want);
        settle(&got);
    }
    is_same = is_same && got.item.kind == GEN_END;
    munmap(last, size);
    gen_close(want.gen);
    gen_close(got.gen);
    return is_same;
}

static uint64_t own_cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void verify(const struct sink *s, int ctl)
{
    size_t at = 0;

    ctl_wait(ctl, "verify");
    if (is_identical(s, &at))
        ctl_say(ctl, "identical");
    else if (s->size > 0 && is_canonical(s))
        ctl_say(ctl, "canonical");
    else
        ctl_say(ctl, "differs from byte %zu on, of %zu taken", at, s->size);
}

int main(int argc, char **argv)
{
    struct gen_options options = {0};
    struct sink s = {.options = &options};
    const char *control = NULL, *path = NULL;
    bool is_corrupt = false;
    int fd = -1;

    for (int i = 1; i < argc; i++) {
        if (gen_option(&options, argc, argv, &i))
            continue;
        if (strcmp(argv[i], "--control") == 0)
            control = ctl_value(argc, argv, &i);
        else if (strcmp(argv[i], "--fd") == 0)
            fd = (int)ctl_number(argc, argv, &i, INT_MAX);
        else if (strcmp(argv[i], "--ring") == 0)
            path = ctl_value(argc, argv, &i);
        else if (strcmp(argv[i], "--plant") == 0)
            is_corrupt = strcmp(ctl_value(argc, argv, &i), "corrupt") == 0;
        else
            errx(2, "sink: unknown option %s", argv[i]);
    }
    if (!control || fd < 0)
        errx(2, "sink: --control and --fd are needed");
    int ctl = ctl_open(control, "sink");
    struct ring *ring = path ? ctl_ring(path) : NULL;
    touch(&s);
    ctl_say(ctl, "ready");
    if (ring)
        drain_ring(&s, ring, fd);
    else
        drain(&s, fd);
    uint64_t now_ns = ctl_now_ns();
    close(fd);
    ctl_say(ctl, "taken %zu %llu", s.size, (unsigned long long)now_ns);
    if (is_corrupt && s.size > 0)
        s.buffer[s.size / 2] ^= 1;
    verify(&s, ctl);
    ring_free(ring);
    munmap(s.buffer, s.room); /* costs time, too, that a parent would count */
    ctl_say(ctl, "done %llu", (unsigned long long)own_cpu_ns());
    return 0;
}
