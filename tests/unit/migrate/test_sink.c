/* SPDX-License-Identifier: Apache-2.0
 *
 * The restore side of the ring: what goes through slots and markers comes out, at a consumer that
 * believes nothing (the sender's own reader of rings), as it went in; also when it takes its time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/native.h"
#include "migrate/page_sink.h"
#include "migrate/page_source.h"
#include "migrate/ring.h"
#include "migrate/session.h"
#include "nativegen.h"

#define CAPACITY (8u << 20)
#define BATCHES  40u

/* The hypervisor's side. */
struct consumer {
    struct page_source *source;
    int slow_ms; /* before each item */
    uint8_t *bytes;
    size_t size;
    struct ha_err err;
    bool is_complete;
};

static void *consume(void *user)
{
    struct consumer *c = user;
    struct page_item item;
    int rc;

    while ((rc = c->source->ops->next(c->source, &item, &c->err)) >= 0 &&
           !(rc > 0 && item.kind == PAGE_ITEM_END)) {
        struct pollfd fd = {.fd = c->source->fd, .events = POLLIN};
        (void)poll(rc == 0 ? &fd : NULL, rc == 0 ? 1 : 0, rc == 0 ? 30000 : c->slow_ms);
        if (rc == 0)
            continue;
        if (c->size + item.size > CAPACITY)
            break;
        memcpy(c->bytes + c->size, item.data, item.size);
        c->size += item.size;
    }
    c->is_complete = rc > 0;
    return NULL;
}

/* A stream whose batches are of one to forty entries, some of them holes. */
static size_t stream(uint8_t *data)
{
    struct ha_writer w = ha_writer_of(data, CAPACITY);
    uint64_t entries[BATCHES];

    gen_libxl_header(&w);
    gen_record(&w, 1, 0, 0);
    gen_image_header(&w, 3, 2);
    gen_record(&w, 16, 0, 0);
    for (uint32_t count = 1; count <= BATCHES; count++) {
        for (uint32_t i = 0; i < count; i++)
            entries[i] = (i % 7 == 3 || count == 5 ? UINT64_C(0xe) << 60 : 0) | (count * 64u + i);
        gen_pages(&w, entries, count, (uint8_t)count);
        gen_record(&w, 0x80000042u, count, 5);
    }
    gen_record(&w, 0, 0, 0);
    gen_record(&w, 0, 0, 0);
    assert_false(w.failed);
    return w.position;
}

static void give_pages(struct page_sink *sink, const uint8_t *data, uint32_t count)
{
    const uint8_t *content[NATIVE_GROUP_MAX];
    struct ha_err err = {0};

    for (uint32_t i = 0; i < count; i++)
        content[i] = data + (size_t)i * NATIVE_PAGE_SIZE;
    assert_int_equal(sink->ops->pages(sink, content, count, &err), 0);
}

/* What the receiver does with a stream it has checked. */
static void give(struct page_sink *sink, const uint8_t *data, size_t size)
{
    struct native native;
    struct native_token token;
    struct ha_err err = {0};

    native_init(&native, false);
    for (size_t at = 0; at < size; at += token.size) {
        assert_int_equal(native_next(&native, data + at, size - at, &token, &err), 0);
        if (token.kind == NATIVE_PAGES)
            give_pages(sink, data + at, token.count);
        else if (token.kind == NATIVE_BATCH)
            assert_int_equal(sink->ops->batch(sink, data + at, token.size, &err), 0);
        else
            assert_int_equal(sink->ops->raw(sink, data + at, token.size, &err), 0);
    }
}

static void through(uint32_t slots, uint32_t pages, int slow_ms)
{
    uint8_t *data = malloc(CAPACITY), *back = malloc(CAPACITY);
    struct consumer c = {.slow_ms = slow_ms, .bytes = back};
    struct session session;
    struct ha_err err = {0};
    pthread_t thread;
    int pair[2], fd = -1;

    assert_non_null(data);
    assert_non_null(back);
    size_t size = stream(data);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct ring *helper = ring_create(slots, pages, &fd, &err);
    assert_non_null(helper);
    struct ring *ours = ring_map(fd, &err);
    assert_non_null(ours);
    close(fd);
    assert_int_equal(session_init(&session, -1, 30000, 0, &err), 0);
    struct page_sink *sink = page_sink_ring_new(pair[0], ours, &session);
    c.source = page_source_fd_new(pair[1], helper);
    assert_non_null(sink);
    assert_non_null(c.source);
    assert_int_equal(pthread_create(&thread, NULL, consume, &c), 0);
    give(sink, data, size);
    assert_int_equal(session.progress.raw_bytes, size); /* markers are none of the stream's */
    sink->ops->close(sink);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(c.err.text, "");
    assert_true(c.is_complete);
    assert_int_equal(c.size, size);
    assert_memory_equal(back, data, size);
    c.source->ops->close(c.source);
    session_fini(&session);
    free(data);
    free(back);
}

static void through_slots(void **state)
{
    (void)state;
    through(4, 64, 0);
    through(1, RING_PAGES_MAX, 0);
}

static void too_large_for_a_slot(void **state)
{
    (void)state;
    through(2, 16, 0);
    through(1, 1, 0);
}

static void a_slow_consumer(void **state)
{
    (void)state;
    through(2, 64, 3);
}

/* One that takes nothing: the receiver waits, and can be ended all the same. */
static void no_consumer(void **state)
{
    const uint64_t entry = 7;
    uint8_t batch[NATIVE_BATCH_HEAD + 8], page[NATIVE_PAGE_SIZE] = {1};
    const uint8_t *content[] = {page};
    struct session session;
    struct ha_err err = {0};
    int pair[2], fd = -1, rc = 0;

    (void)state;
    native_batch_head(batch, 1, 1);
    memcpy(batch + NATIVE_BATCH_HEAD, &entry, sizeof(entry));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    struct ring *ours = ring_create(2, 8, &fd, &err);
    assert_non_null(ours);
    close(fd);
    assert_int_equal(session_init(&session, -1, 200, 0, &err), 0);
    struct page_sink *sink = page_sink_ring_new(pair[0], ours, &session);
    assert_non_null(sink);
    unsigned taken = 0;
    for (; taken < 8 && rc == 0; taken += rc == 0 ? 1u : 0u) {
        rc = sink->ops->batch(sink, batch, sizeof(batch), &err);
        if (rc == 0)
            assert_int_equal(sink->ops->pages(sink, content, 1, &err), 0);
    }
    assert_int_equal(rc, -HA_E_TIMEOUT);
    assert_int_equal(taken, 2);
    assert_false(session.is_sink_waiting);
    sink->ops->close(sink);
    close(pair[1]);
    session_fini(&session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(through_slots),
        cmocka_unit_test(too_large_for_a_slot),
        cmocka_unit_test(a_slow_consumer),
        cmocka_unit_test(no_consumer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
