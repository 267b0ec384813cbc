/* SPDX-License-Identifier: Apache-2.0
 *
 * Plays the source hypervisor: writes a native stream to a descriptor, its pages in it or through
 * the shared-memory ring (STREAM.md, section 6).
 *
 *   feed --control SOCKET --fd N [--ring PATH] (--image FILE... [--resend] | --sparse PAGES:GIB)
 *
 * Lines: says "ready BYTES", waits for "go"; after each round but the last says "round BYTES NS"
 * and waits for "go"; at the end "fed BYTES NS CPU_NS". NS are of CLOCK_MONOTONIC.
 */
#include <endian.h>
#include <err.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "migrate/ring.h"
#include "tests/bench/streambench/ctl.h"
#include "tests/bench/streambench/gen.h"

#define MARKER  0x80486d67u
#define WAIT_MS 60000

struct feeder {
    int fd;
    struct ring *ring;
    uint64_t bytes; /* of the native stream, pages in the ring included */
};

static void write_all(int fd, struct iovec *iov, int count)
{
    while (count > 0) {
        ssize_t r = writev(fd, iov, count < IOV_MAX ? count : IOV_MAX);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            err(1, "feed: write");
        size_t done = (size_t)r;
        while (count > 0 && done >= iov->iov_len) {
            done -= iov->iov_len;
            iov++;
            count--;
        }
        if (count > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + done;
            iov->iov_len -= done;
        }
    }
}

/* Pages that lie side by side are one piece. */
static int gather(const struct gen_item *item, struct iovec *iov)
{
    int count = 2;

    iov[0] = (struct iovec){(void *)(uintptr_t)item->head, sizeof(item->head)};
    iov[1] = (struct iovec){(void *)(uintptr_t)item->entries, 8 * (size_t)item->count};
    for (uint32_t i = 0; i < item->data_count; i++) {
        struct iovec *last = &iov[count - 1];
        if (count > 2 && (const uint8_t *)last->iov_base + last->iov_len == item->pages[i])
            last->iov_len += GEN_PAGE;
        else
            iov[count++] = (struct iovec){(void *)(uintptr_t)item->pages[i], GEN_PAGE};
    }
    return count;
}

static void feed_ring(struct feeder *f, const struct gen_item *item)
{
    struct {
        uint32_t type, length;
        uint64_t batch;
        uint32_t slot, zero;
    } marker = {.type = htole32(MARKER), .length = htole32(16)};
    uint8_t *entries, *pages;
    uint64_t batch;
    uint32_t slot;

    if (ring_acquire(f->ring, WAIT_MS, &entries, &pages, &batch, &slot) < 0)
        errx(1, "feed: no free slot in the ring for %d ms", WAIT_MS);
    memcpy(entries, item->entries, 8 * (size_t)item->count);
    for (uint32_t i = 0; i < item->data_count; i++)
        memcpy(pages + (size_t)i * GEN_PAGE, item->pages[i], GEN_PAGE);
    ring_publish(f->ring, item->count, item->data_count);
    marker.batch = htole64(batch);
    marker.slot = htole32(slot);
    struct iovec iov = {&marker, sizeof(marker)};
    write_all(f->fd, &iov, 1);
}

static void feed_item(struct feeder *f, const struct gen_item *item)
{
    static struct iovec iov[GEN_BATCH_MAX * 32 + 2];

    if (item->kind == GEN_RAW) {
        iov[0] = (struct iovec){(void *)(uintptr_t)item->data, item->size};
        write_all(f->fd, iov, 1);
        f->bytes += item->size;
        return;
    }
    f->bytes += gen_batch_size(item);
    /* What does not fit a slot goes over the descriptor, as STREAM.md allows. */
    if (f->ring && item->count <= GEN_BATCH_MAX)
        feed_ring(f, item);
    else
        write_all(f->fd, iov, gather(item, iov));
}

static uint64_t stream_size(const struct gen_options *options)
{
    struct gen *gen = gen_open(options);
    struct gen_item item;
    uint64_t size = 0;

    for (gen_next(gen, &item); item.kind != GEN_END; gen_next(gen, &item))
        size += item.kind == GEN_BATCH ? gen_batch_size(&item) : item.size;
    gen_close(gen);
    return size;
}

static uint64_t own_cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void feed(struct feeder *f, const struct gen_options *options, int ctl)
{
    uint64_t size = stream_size(options);
    struct gen *gen = gen_open(options);
    struct gen_item item;

    ctl_say(ctl, "ready %llu", (unsigned long long)size);
    ctl_wait(ctl, "go");
    uint64_t cpu_ns = own_cpu_ns();
    ctl_say(ctl, "start %llu", (unsigned long long)ctl_now_ns());
    for (gen_next(gen, &item); item.kind != GEN_END; gen_next(gen, &item)) {
        if (item.kind != GEN_ROUND) {
            feed_item(f, &item);
            continue;
        }
        ctl_say(ctl, "round %llu %llu", (unsigned long long)f->bytes,
                (unsigned long long)ctl_now_ns());
        ctl_wait(ctl, "go");
        ctl_say(ctl, "start %llu", (unsigned long long)ctl_now_ns());
    }
    close(f->fd);
    ctl_say(ctl, "fed %llu %llu %llu", (unsigned long long)f->bytes,
            (unsigned long long)ctl_now_ns(), (unsigned long long)(own_cpu_ns() - cpu_ns));
    gen_close(gen);
}

int main(int argc, char **argv)
{
    struct gen_options options = {0};
    struct feeder f = {.fd = -1};
    const char *control = NULL;
    const char *ring = NULL;

    for (int i = 1; i < argc; i++) {
        if (gen_option(&options, argc, argv, &i))
            continue;
        if (strcmp(argv[i], "--control") == 0)
            control = ctl_value(argc, argv, &i);
        else if (strcmp(argv[i], "--fd") == 0)
            f.fd = (int)ctl_number(argc, argv, &i, INT_MAX);
        else if (strcmp(argv[i], "--ring") == 0)
            ring = ctl_value(argc, argv, &i);
        else
            errx(2, "feed: unknown option %s", argv[i]);
    }
    if (!control || f.fd < 0)
        errx(2, "feed: --control and --fd are needed");
    int ctl = ctl_open(control, "feed");
    f.ring = ring ? ctl_ring(ring) : NULL;
    feed(&f, &options, ctl);
    ring_free(f.ring);
    return 0;
}
