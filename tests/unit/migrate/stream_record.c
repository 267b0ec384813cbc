/* SPDX-License-Identifier: Apache-2.0
 *
 * A tool of the tests: runs both halves of the page stream over an unprotected pair, in one
 * process, and records the frames in clear, for the independent decoder. It also is feeder 2's test
 * feeder: with --ring it plays the save helper that puts page batches into shared memory.
 *
 *   stream_record NATIVE REBUILT SENT ANSWERS [--ring SLOTS] [--level N] [--workers N]
 *       [--cache MIB] [--identical 0|1] [--lanes N] [--cut KIB] [--cut-answers BYTES]
 *
 * With --lanes the data connections go to SENT.LANE.ATTEMPT, as do later control connections (lane
 * 0, and ANSWERS.0.ATTEMPT). --cut breaks the first connection of each lane after so much,
 * --cut-answers the first control connection.
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
#include "record_net.h"

#define RING_WAIT_MS 10000

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
        tap_write_all(f->fd, f->data + at, whole);
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
    tap_write_all(f->fd, marker, sizeof(marker));
    return whole;
}

static void *run_feed(void *user)
{
    struct feed *f = user;
    size_t at = 16 + 8 + 24 + 16; /* libxl header, LIBXC_CONTEXT, libxc headers */

    if (!f->ring || f->size < at) {
        tap_write_all(f->fd, f->data, f->size);
    } else {
        tap_write_all(f->fd, f->data, at);
        bool is_image = true;
        while (at < f->size && is_image) {
            is_image = f->size - at >= 8 && memcmp(f->data + at, "\0\0\0\0\0\0\0\0", 8) != 0;
            at += feed_record(f, at);
        }
        tap_write_all(f->fd, f->data + at, f->size - at);
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
        tap_write_all(d->to, buffer, (size_t)r);
    close(d->from);
    close(d->to);
    return NULL;
}

/* ---- the two ends ---- */

struct end {
    const struct streamp_start *start;
    struct record_net *net;
    int fd, native;
    const char *log;
    size_t cut_after;
    struct ring *ring;
    int rc;
    struct ha_err err;
};

/* HELLO, then WELCOME. 0 or a negative error. */
static int welcome(struct end *r, struct session *s, struct terms *terms)
{
    uint16_t code;
    int rc = session_next_frame(s, 5000, &r->err);

    if (rc <= 0)
        return rc < 0 ? rc : -HA_E_TIMEOUT;
    const uint8_t *hello = inbox_payload(&s->inbox);
    rc = hello_check(r->start, s->chan, hello, s->inbox.header.size, &code, &r->err);
    if (rc == 0)
        rc = hello_agree(r->start, hello, s->inbox.header.size, terms, &r->err);
    uint8_t *payload = rc == 0 ? session_begin(s, FRAME_WELCOME_LANES, &r->err) : NULL;
    int size = payload ? welcome_make(r->start, s->chan, terms, payload) : -HA_E_NO_MEMORY;
    if (rc < 0 || size < 0)
        return rc < 0 ? rc : size;
    rc = session_commit(s, FRAME_WELCOME, (size_t)size, NULL, 0, &r->err);
    return rc == 0 ? session_flush(s, &r->err) : rc;
}

static int receive(struct end *r, struct session *s, struct receiver *receiver)
{
    struct page_sink *sink = page_sink_fd_new(r->native, s);
    int rc = sink ? recv_stream(receiver, s, sink, &r->err) : -HA_E_NO_MEMORY;

    if (rc == 0)
        rc = session_flush(s, &r->err);
    if (sink)
        sink->ops->close(sink);
    return rc;
}

static void *run_receiver(void *user)
{
    struct end *r = user;
    struct session s;
    struct terms terms = {0};
    struct record_end *lanes = NULL;
    struct receiver *receiver = receiver_new(r->start->workers, &r->err);

    r->rc = session_init(&s, -1, 10000, 0, &r->err);
    if (r->rc < 0 || !receiver)
        exit(3);
    s.chan = tap_new(r->fd, r->log, r->cut_after);
    r->rc = welcome(r, &s, &terms);
    if (r->rc == 0 && terms.connections > 0)
        lanes = record_end_new(r->net, &s, r->start, &terms, false);
    if (r->rc == 0)
        r->rc = receive(r, &s, receiver);
    if (r->rc < 0)
        session_abort(&s, &r->err);
    session_linger(&s, 2000);
    record_end_free(lanes);
    session_fini(&s);
    receiver_free(receiver);
    return NULL;
}

static void run_sender(struct end *e)
{
    struct session s;
    struct terms terms = {0};
    struct record_end *lanes = NULL;
    struct sender *sender = sender_new(e->start, &e->err);

    if (session_init(&s, -1, 10000, 0, &e->err) < 0 || !sender)
        exit(3);
    s.chan = tap_new(e->fd, e->log, 0);
    struct page_source *source = page_source_fd_new(e->native, e->ring);
    e->rc = source ? link_greet(&s, e->start, &terms, &e->err) : -HA_E_NO_MEMORY;
    if (e->rc == 0 && terms.connections > 0)
        lanes = record_end_new(e->net, &s, e->start, &terms, true);
    if (e->rc == 0)
        e->rc = send_stream(sender, &s, source, &e->err);
    if (e->rc < 0)
        session_abort(&s, &e->err);
    if (source)
        source->ops->close(source);
    session_linger(&s, 2000);
    record_end_free(lanes);
    session_fini(&s);
    sender_free(sender);
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

struct options {
    struct streamp_start start;
    unsigned slots;
    unsigned cut_kib;
    size_t cut_answers;
};

static void take_option(const char *name, unsigned value, struct options *o)
{
    if (strcmp(name, "--ring") == 0)
        o->slots = value;
    else if (strcmp(name, "--level") == 0)
        o->start.level = (uint8_t)value;
    else if (strcmp(name, "--workers") == 0)
        o->start.workers = (uint8_t)value;
    else if (strcmp(name, "--cache") == 0)
        o->start.cache_mib = value;
    else if (strcmp(name, "--identical") == 0)
        o->start.is_identical = value != 0;
    else if (strcmp(name, "--lanes") == 0)
        o->start.connections = (uint8_t)value;
    else if (strcmp(name, "--cut") == 0)
        o->cut_kib = value;
    else if (strcmp(name, "--cut-answers") == 0)
        o->cut_answers = value;
}

/* Both ends of the ring, if one is wanted. */
static struct ring *make_ring(unsigned slots, struct ring **ret_helper)
{
    struct ha_err err = {0};
    int fd = -1;

    if (slots == 0)
        return NULL;
    *ret_helper = ring_create(slots, RING_PAGES_MAX, &fd, &err);
    struct ring *ring = *ret_helper ? ring_map(fd, &err) : NULL;
    if (!ring) {
        fprintf(stderr, "stream_record: %s\n", err.text);
        exit(2);
    }
    return ring;
}

static void socket_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) {
        perror("stream_record: socketpair");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct options o = {.start = {.ticket = 77,
                                  .epoch = 9,
                                  .generation = 1,
                                  .level = 1,
                                  .workers = 2,
                                  .cache_mib = 4,
                                  .grace_ms = 10000,
                                  .is_listener = true}};
    int pair[2], in[2], out[2];
    struct ring *helper = NULL;
    pthread_t threads[3];

    for (unsigned i = 0; i < sizeof(o.start.secret); i++)
        o.start.secret[i] = (uint8_t)i;
    for (int i = 5; i + 1 < argc; i += 2)
        take_option(argv[i], (unsigned)strtoul(argv[i + 1], NULL, 10), &o);
    if (argc < 5)
        return 2;
    struct record_net net = {.sent = argv[3], .answers = argv[4], .cut_kib = o.cut_kib};
    socket_pair(pair);
    socket_pair(in);
    socket_pair(out);
    socket_pair(net.door);
    struct end sender = {.start = &o.start, .net = &net, .fd = pair[0], .native = in[0]};
    sender.log = argv[3];
    sender.ring = make_ring(o.slots, &helper);
    struct end receiver = {.start = &o.start, .net = &net, .fd = pair[1], .native = out[1]};
    receiver.log = argv[4];
    receiver.cut_after = o.cut_answers;
    struct feed feed = {.fd = in[1], .ring = helper};
    feed.data = map_file(argv[1], &feed.size);
    struct drain drain = {.from = out[0],
                          .to = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (drain.to < 0 || pthread_create(&threads[0], NULL, run_feed, &feed) != 0 ||
        pthread_create(&threads[1], NULL, run_drain, &drain) != 0 ||
        pthread_create(&threads[2], NULL, run_receiver, &receiver) != 0)
        return 2;
    run_sender(&sender);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    printf("sender: %d %s\nreceiver: %d %s\n", sender.rc, sender.err.text, receiver.rc,
           receiver.err.text);
    ring_free(helper);
    return sender.rc == 0 && receiver.rc == 0 ? 0 : 1;
}
