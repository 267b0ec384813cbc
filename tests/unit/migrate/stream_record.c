/* SPDX-License-Identifier: Apache-2.0
 *
 * A tool of the tests: runs both halves of the page stream over an unprotected pair, in one
 * process, and records the frames in clear, for the independent decoder. It also is feeder 2's test
 * feeder: with --ring it plays the save helper that puts page batches into shared memory.
 *
 *   stream_record NATIVE REBUILT SENT ANSWERS [--ring SLOTS] [--level N] [--workers N]
 *       [--cache MIB] [--identical 0|1]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/link.h"
#include "migrate/native.h"
#include "migrate/recv.h"
#include "migrate/ring.h"
#include "migrate/send.h"

#define RING_WAIT_MS 10000

/* ---- a channel that writes down what it carries ---- */

struct chan_tap {
    struct chan chan;
    struct chan *inner;
    int log;
};

static void write_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        ssize_t r = write(fd, at, size);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0) {
            perror("stream_record: write");
            _exit(3);
        }
        at += r;
        size -= (size_t)r;
    }
}

static ssize_t tap_read(struct chan *chan, void *data, size_t size, struct ha_err *err)
{
    struct chan_tap *tap = (struct chan_tap *)chan;

    return tap->inner->ops->read(tap->inner, data, size, err);
}

static ssize_t tap_write(struct chan *chan, const void *data, size_t size, struct ha_err *err)
{
    struct chan_tap *tap = (struct chan_tap *)chan;
    ssize_t r = tap->inner->ops->write(tap->inner, data, size, err);

    if (r > 0)
        write_all(tap->log, data, (size_t)r);
    return r;
}

static void tap_finish(struct chan *chan)
{
    struct chan_tap *tap = (struct chan_tap *)chan;

    tap->inner->ops->finish(tap->inner);
}

static int tap_bind(struct chan *chan, uint8_t *ret_binding)
{
    (void)chan;
    memset(ret_binding, 0, CHAN_BINDING_SIZE);
    return 0;
}

static int tap_renew(struct chan *chan, struct ha_err *err)
{
    (void)chan;
    (void)err;
    return 0;
}

static void tap_close(struct chan *chan)
{
    struct chan_tap *tap = (struct chan_tap *)chan;

    tap->inner->ops->close(tap->inner);
    close(tap->log);
    free(tap);
}

static const struct chan_ops tap_ops = {"tap",    tap_read,  tap_write, tap_finish,
                                        tap_bind, tap_renew, tap_close};

static struct chan *tap_new(int fd, const char *log_path)
{
    struct chan_tap *tap = calloc(1, sizeof(*tap));
    int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (!tap || log < 0) {
        perror(log_path);
        exit(3);
    }
    tap->inner = chan_fd_new(fd);
    tap->log = log;
    tap->chan = *tap->inner;
    tap->chan.ops = &tap_ops;
    return &tap->chan;
}

/* ---- the hypervisors ---- */

struct feed {
    int fd;
    const uint8_t *data;
    size_t size;
    struct ring *ring;
};

/* One record as the helper sees it: PAGE_DATA that fits a slot goes there, with a marker instead.
 */
static size_t feed_record(struct feed *f, size_t at)
{
    uint32_t head[4] = {0};
    uint8_t *entries, *pages;
    uint64_t batch;
    uint32_t slot;

    memcpy(head, f->data + at, f->size - at < 16 ? f->size - at : 16);
    size_t whole = 8 + (((size_t)head[1] + 7) & ~(size_t)7);
    if (whole > f->size - at)
        whole = f->size - at;
    if (head[0] != 1 || head[2] == 0 || head[2] > RING_PAGES_MAX || whole < 16 + 8 * head[2]) {
        write_all(f->fd, f->data + at, whole);
        return whole;
    }
    if (ring_acquire(f->ring, RING_WAIT_MS, &entries, &pages, &batch, &slot) < 0) {
        fprintf(stderr, "stream_record: nobody takes from the ring\n");
        _exit(3);
    }
    size_t heads = 16 + 8 * (size_t)head[2];
    memcpy(entries, f->data + at + 16, heads - 16);
    memcpy(pages, f->data + at + heads, whole - heads);
    ring_publish(f->ring, head[2], (uint32_t)((whole - heads) / NATIVE_PAGE_SIZE));
    uint8_t marker[NATIVE_MARKER_SIZE];
    struct ha_writer w = ha_writer_of(marker, sizeof(marker));
    ha_put_u32(&w, NATIVE_MARKER_TYPE);
    ha_put_u32(&w, NATIVE_MARKER_SIZE - 8);
    ha_put_u64(&w, batch);
    ha_put_u32(&w, slot);
    ha_put_u32(&w, 0);
    write_all(f->fd, marker, sizeof(marker));
    return whole;
}

static void *run_feed(void *user)
{
    struct feed *f = user;
    size_t at = 16 + 8 + 24 + 16; /* libxl header, LIBXC_CONTEXT, libxc headers */

    if (!f->ring || f->size < at) {
        write_all(f->fd, f->data, f->size);
    } else {
        write_all(f->fd, f->data, at);
        bool is_image = true;
        while (at < f->size && is_image) {
            is_image = f->size - at >= 8 && memcmp(f->data + at, "\0\0\0\0\0\0\0\0", 8) != 0;
            at += feed_record(f, at);
        }
        write_all(f->fd, f->data + at, f->size - at);
    }
    close(f->fd);
    return NULL;
}

struct drain {
    int from, to;
};

static void *run_drain(void *user)
{
    static uint8_t buffer[1 << 18];
    struct drain *d = user;
    ssize_t r;

    while ((r = read(d->from, buffer, sizeof(buffer))) > 0)
        write_all(d->to, buffer, (size_t)r);
    close(d->from);
    close(d->to);
    return NULL;
}

/* ---- the two ends ---- */

struct far_end {
    const struct streamp_start *start;
    int net, native;
    const char *log;
    int rc;
    struct ha_err err;
};

static int receive(struct far_end *r, struct session *s, struct receiver *receiver)
{
    uint16_t code;
    int rc = session_next_frame(s, 5000, &r->err);

    if (rc <= 0)
        return rc < 0 ? rc : -HA_E_TIMEOUT;
    rc = hello_check(r->start, s->chan, inbox_payload(&s->inbox), s->inbox.header.size, &code,
                     &r->err);
    uint8_t *payload = rc == 0 ? session_begin(s, FRAME_WELCOME_SIZE, &r->err) : NULL;
    if (!payload || welcome_make(r->start, s->chan, NULL, payload) < 0)
        return rc < 0 ? rc : -HA_E_NO_MEMORY;
    rc = session_commit(s, FRAME_WELCOME, FRAME_WELCOME_SIZE, NULL, 0, &r->err);
    if (rc == 0)
        rc = session_flush(s, &r->err);
    struct page_sink *sink = page_sink_fd_new(r->native, s);
    r->native = -1;
    if (rc == 0 && sink)
        rc = recv_stream(receiver, s, sink, &r->err);
    if (rc == 0)
        rc = session_flush(s, &r->err);
    if (sink)
        sink->ops->close(sink);
    return sink ? rc : -HA_E_NO_MEMORY;
}

static void *run_receiver(void *user)
{
    struct far_end *r = user;
    struct session s;
    struct receiver *receiver = receiver_new(r->start->workers, &r->err);

    r->rc = session_init(&s, -1, 10000, 0, &r->err);
    if (r->rc < 0 || !receiver)
        exit(3);
    s.chan = tap_new(r->net, r->log);
    r->rc = receive(r, &s, receiver);
    if (r->rc < 0)
        session_abort(&s, &r->err);
    session_linger(&s, 2000);
    session_fini(&s);
    receiver_free(receiver);
    return NULL;
}

static int send_all(const struct streamp_start *start, int net, int native, struct ring *ring,
                    const char *log, struct ha_err *err)
{
    struct session s;
    struct sender *sender = sender_new(start, err);

    if (session_init(&s, -1, 10000, 0, err) < 0 || !sender)
        exit(3);
    s.chan = tap_new(net, log);
    struct page_source *source = page_source_fd_new(native, ring);
    struct terms terms;
    int rc = source ? link_greet(&s, start, &terms, err) : -HA_E_NO_MEMORY;
    if (rc == 0)
        rc = send_stream(sender, &s, source, err);
    if (rc < 0)
        session_abort(&s, err);
    if (source)
        source->ops->close(source);
    session_linger(&s, 2000);
    session_fini(&s);
    sender_free(sender);
    return rc;
}

static const uint8_t *map_file(const char *path, size_t *ret_size)
{
    static const uint8_t nothing[1];
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &info) < 0) {
        perror(path);
        exit(3);
    }
    *ret_size = (size_t)info.st_size;
    if (info.st_size == 0)
        return nothing;
    const uint8_t *data = mmap(NULL, *ret_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        perror(path);
        exit(3);
    }
    close(fd);
    return data;
}

static void take_option(const char *name, unsigned value, struct streamp_start *start,
                        unsigned *slots)
{
    if (strcmp(name, "--ring") == 0)
        *slots = value;
    else if (strcmp(name, "--level") == 0)
        start->level = (uint8_t)value;
    else if (strcmp(name, "--workers") == 0)
        start->workers = (uint8_t)value;
    else if (strcmp(name, "--cache") == 0)
        start->cache_mib = value;
    else if (strcmp(name, "--identical") == 0)
        start->is_identical = value != 0;
}

int main(int argc, char **argv)
{
    struct streamp_start start = {
        .ticket = 77, .epoch = 9, .generation = 1, .level = 1, .workers = 2, .cache_mib = 4};
    int net[2], in[2], out[2], ring_fd = -1;
    unsigned slots = 0;
    struct ring *helper = NULL, *ring = NULL;
    struct ha_err err = {0};
    pthread_t threads[3];

    for (unsigned i = 0; i < sizeof(start.secret); i++)
        start.secret[i] = (uint8_t)i;
    for (int i = 5; i + 1 < argc; i += 2)
        take_option(argv[i], (unsigned)strtoul(argv[i + 1], NULL, 10), &start, &slots);
    if (argc < 5 || socketpair(AF_UNIX, SOCK_STREAM, 0, net) < 0 ||
        socketpair(AF_UNIX, SOCK_STREAM, 0, in) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, out) < 0)
        return 2;
    if (slots > 0) {
        helper = ring_create(slots, RING_PAGES_MAX, &ring_fd, &err);
        ring = helper ? ring_map(ring_fd, &err) : NULL;
        if (!ring) {
            fprintf(stderr, "stream_record: %s\n", err.text);
            return 2;
        }
    }
    struct feed feed = {.fd = in[1], .ring = helper};
    feed.data = map_file(argv[1], &feed.size);
    struct drain drain = {.from = out[0],
                          .to = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    struct far_end receiver = {.start = &start, .net = net[1], .native = out[1], .log = argv[4]};
    if (drain.to < 0 || pthread_create(&threads[0], NULL, run_feed, &feed) != 0 ||
        pthread_create(&threads[1], NULL, run_drain, &drain) != 0 ||
        pthread_create(&threads[2], NULL, run_receiver, &receiver) != 0)
        return 2;
    int rc = send_all(&start, net[0], in[0], ring, argv[3], &err);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("sender: %d %s\nreceiver: %d %s\n", rc, err.text, receiver.rc, receiver.err.text);
    ring_free(helper);
    return rc == 0 && receiver.rc == 0 ? 0 : 1;
}
