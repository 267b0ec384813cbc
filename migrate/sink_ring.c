/* SPDX-License-Identifier: Apache-2.0
 *
 * The restore side of the ring (STREAM.md, section 6): PAGE_DATA records go into slots of shared
 * memory, markers in their places and everything else to the descriptor. What does not fit a slot
 * goes over the descriptor as it is.
 */
#include "migrate/page_sink.h"

#include <endian.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "migrate/native.h"
#include "migrate/ring.h"
#include "migrate/session.h"

#define TURN_MS 10 /* one sleep for a free slot: as long the session is not looked after */

struct sink_ring {
    struct page_sink sink;
    struct page_sink *plain; /* owned */
    struct ring *ring;       /* owned */
    struct session *session;
    bool is_open;   /* a slot is being filled */
    uint32_t count; /* of the slot: entries */
    uint32_t total; /* of the slot: pages, and of them given */
    uint32_t given;
    uint8_t *pages; /* shared memory: written once, never read */
    uint64_t batch;
    uint32_t slot;
};

static int ring_raw(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err)
{
    struct page_sink *plain = ((struct sink_ring *)sink)->plain;

    return plain->ops->raw(plain, data, size, err);
}

/* A consumer that holds all slots is slow, as one that does not read is: the session waits. */
static int acquire(struct sink_ring *s, uint8_t **ret_entries, struct ha_err *err)
{
    int rc = 0;

    while (rc == 0 && ring_acquire(s->ring, s->session->is_sink_waiting ? TURN_MS : 0, ret_entries,
                                   &s->pages, &s->batch, &s->slot) < 0) {
        s->session->is_sink_waiting = true;
        rc = session_wait(s->session, NULL, 0, 0, err);
    }
    s->session->is_sink_waiting = false;
    return rc < 0 ? rc : 0;
}

/* The slot is complete: its marker stands for it in the stream. */
static int publish(struct sink_ring *s, struct ha_err *err)
{
    uint8_t marker[NATIVE_MARKER_SIZE];

    s->is_open = false;
    ring_publish(s->ring, s->count, s->total);
    native_marker(marker, s->batch, s->slot);
    return ring_raw(&s->sink, marker, sizeof(marker), err);
}

static uint32_t pages_in(const uint8_t *entries, uint32_t count)
{
    uint32_t pages = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t entry;
        memcpy(&entry, entries + 8 * (size_t)i, sizeof(entry));
        pages += le64toh(entry) >> 60 < 13 ? 1u : 0u;
    }
    return pages;
}

static int ring_batch(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err)
{
    struct sink_ring *s = (struct sink_ring *)sink;
    size_t entry_bytes = size - NATIVE_BATCH_HEAD;
    uint8_t *entries = NULL;

    ha_assert(size > NATIVE_BATCH_HEAD && !s->is_open);
    if (entry_bytes / 8 > ring_slot_pages(s->ring))
        return s->plain->ops->batch(s->plain, data, size, err);
    int rc = acquire(s, &entries, err);
    if (rc < 0)
        return rc;
    s->is_open = true;
    s->count = (uint32_t)(entry_bytes / 8);
    s->total = pages_in(data + NATIVE_BATCH_HEAD, s->count);
    s->given = 0;
    memcpy(entries, data + NATIVE_BATCH_HEAD, entry_bytes);
    session_moved(s->session, size - NATIVE_MARKER_SIZE); /* its marker counts, too */
    return s->total == 0 ? publish(s, err) : 0;
}

static int ring_pages(struct page_sink *sink, const uint8_t *const *content, uint32_t count,
                      struct ha_err *err)
{
    struct sink_ring *s = (struct sink_ring *)sink;

    if (!s->is_open)
        return s->plain->ops->pages(s->plain, content, count, err);
    ha_assert(count <= s->total - s->given);
    for (uint32_t i = 0; i < count; i++)
        memcpy(s->pages + (size_t)s->given++ * NATIVE_PAGE_SIZE, content[i], NATIVE_PAGE_SIZE);
    session_moved(s->session, (uint64_t)count * NATIVE_PAGE_SIZE);
    return s->given == s->total ? publish(s, err) : 0;
}

static void ring_close(struct page_sink *sink)
{
    struct sink_ring *s = (struct sink_ring *)sink;

    s->plain->ops->close(s->plain);
    ring_free(s->ring);
    free(s);
}

static const struct page_sink_ops ring_ops = {
    .name = "ring",
    .raw = ring_raw,
    .batch = ring_batch,
    .pages = ring_pages,
    .close = ring_close,
};

struct page_sink *page_sink_ring_new(int fd, struct ring *ring, struct session *session)
{
    struct sink_ring *s = calloc(1, sizeof(*s));

    if (!s) {
        close(fd);
        ring_free(ring);
        return NULL;
    }
    s->sink.ops = &ring_ops;
    s->session = session;
    s->ring = ring;
    s->plain = page_sink_fd_new(fd, session);
    if (s->plain)
        return &s->sink;
    ring_free(ring);
    free(s);
    return NULL;
}
