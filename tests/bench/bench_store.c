/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a durable write takes: one small entry at a time, many at once, beside a bare write and
 * fdatasync on the same file system.
 *
 *   bench_store DIR [COUNT]      DIR must not hold a store; it is left behind
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/store/store.h"

#define PILED 2000u

static double times_us[100000];

static double now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int compare(const void *left, const void *right)
{
    const double *a = left;
    const double *b = right;

    return *a < *b ? -1 : *a > *b;
}

static void report(const char *what, unsigned count)
{
    qsort(times_us, count, sizeof(times_us[0]), compare);
    printf("%-40s %6u times: min %.0f median %.0f p99 %.0f max %.0f us\n", what, count, times_us[0],
           times_us[count / 2], times_us[count * 99 / 100], times_us[count - 1]);
}

static void await_done(struct store *store)
{
    struct pollfd fd = {.fd = store_fd(store), .events = POLLIN};
    struct store_done done;

    while (!store_take(store, &done)) {
        if (poll(&fd, 1, 60000) != 1)
            exit(1);
    }
    if (!done.is_ok) {
        fprintf(stderr, "%s\n", done.err.text);
        exit(1);
    }
}

static struct log_entry next_entry(const struct log_entry *previous, const uint8_t *body,
                                   uint32_t size)
{
    struct log_entry entry = {.index = previous->index + 1,
                              .view = {1, 1},
                              .kind = LOG_KIND_STATE,
                              .origin = 1,
                              .seq = previous->index + 1,
                              .body = body,
                              .body_size = size};

    entry.digest = log_entry_digest(previous->digest, &entry);
    return entry;
}

static void one_at_a_time(struct store *store, struct log_entry *last, uint32_t size,
                          unsigned count)
{
    static const uint8_t body[65536];
    char what[64];

    for (unsigned i = 0; i < count; i++) {
        struct log_entry entry = next_entry(last, body, size);
        struct store_write write = {.token = i, .entries = &entry, .entry_count = 1};
        double start = now_us();
        if (store_write(store, &write) < 0)
            exit(1);
        await_done(store);
        times_us[i] = now_us() - start;
        *last = entry;
    }
    snprintf(what, sizeof(what), "an entry of %u bytes", size);
    report(what, count);
}

static void many_at_once(struct store *store, struct log_entry *last)
{
    static const uint8_t body[200];
    double start = now_us();

    for (unsigned i = 0; i < PILED; i++) {
        struct log_entry entry = next_entry(last, body, sizeof(body));
        struct store_write write = {.token = i, .entries = &entry, .entry_count = 1};
        if (store_write(store, &write) < 0)
            exit(1);
        *last = entry;
    }
    for (unsigned i = 0; i < PILED; i++)
        await_done(store);
    double took = now_us() - start;
    printf("%-40s %6u entries in %.0f ms, %.0f a second\n", "piled up", PILED, took / 1e3,
           PILED * 1e6 / took);
}

static void bare(const char *dir, unsigned count)
{
    char path[4096];
    char block[4096] = "";

    snprintf(path, sizeof(path), "%s/bare", dir);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        exit(1);
    for (unsigned i = 0; i < count; i++) {
        double start = now_us();
        if (pwrite(fd, block, sizeof(block), (off_t)i * 4096) != 4096 || fdatasync(fd) < 0)
            exit(1);
        times_us[i] = now_us() - start;
    }
    close(fd);
    unlink(path);
    report("bare: write of 4 KiB and fdatasync", count);
}

int main(int argc, char **argv)
{
    struct store_identity identity = {.generation = 1, .node = 1, .store_id = {{1}}};
    struct log_entry last = {0};
    struct store *store = NULL;
    struct ha_err err = {0};

    if (argc < 2)
        return 2;
    long wanted = argc > 2 ? strtol(argv[2], NULL, 10) : 1000;
    unsigned count = wanted > 0 && wanted < 100000 ? (unsigned)wanted : 1000;
    if (store_create(argv[1], &identity, &err) < 0 ||
        store_open(argv[1], &store, &identity, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    bare(argv[1], count);
    one_at_a_time(store, &last, 200, count);
    one_at_a_time(store, &last, 4096, count);
    one_at_a_time(store, &last, 65536, count / 10 + 1);
    many_at_once(store, &last);
    store_close(store, 5000);
    double start = now_us();
    if (store_open(argv[1], &store, &identity, &err) < 0)
        return 1;
    printf("%-40s %.1f ms with %llu entries\n", "open and check", (now_us() - start) / 1e3,
           (unsigned long long)last.index);
    store_close(store, 5000);
    return 0;
}
