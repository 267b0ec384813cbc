/* SPDX-License-Identifier: Apache-2.0
 *
 * A restore whose pages come through the shared-memory ring: whole, also when some batches come in
 * the stream; and what a producer that lies gets.
 */
#include "contract_embedded.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/native.h"
#include "migrate/ring.h"

#define PAGE 4096u
#define HEAD                                                                                       \
    72u /* of the embedded driver's stream, up to its first record behind STATIC_DATA_END */
#define SLOTS   2u
#define RING_MS 30000

static const struct contract_guest GUEST = {.name = "ring", .number = 1, .epoch = 1, .step_ms = 2};

enum lie {
    TRUTH = 0,
    MIXED,       /* every second batch in the stream: a reader takes both */
    WRONG_SLOT,  /* a marker for another slot than is due */
    UNPUBLISHED, /* a marker for a slot that was not filled */
    FAR_PAGE,    /* an entry outside the guest */
    MORE_PAGES,  /* more pages with data than entries say */
    BEFORE_HEAD, /* a marker before the image's head is complete */
};

/* hamgr-stream's part: the records of data go to fd, PAGE_DATA as markers. */
struct producer {
    const uint8_t *data;
    size_t size;
    enum lie lie;
    struct ring *ring;
    int fd;
    unsigned batches;
};

static uint32_t get_u32(const uint8_t *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* What nobody reads any more does not matter: the restore's outcome is looked at. */
static void put(struct producer *p, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t n = send(p->fd, data, size, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        data += n;
        size -= (size_t)n;
    }
}

static void put_marker(struct producer *p, uint64_t batch, uint32_t slot)
{
    uint8_t marker[NATIVE_MARKER_SIZE];

    native_marker(marker, batch, slot);
    put(p, marker, sizeof(marker));
}

/* False: the restore holds the slots and takes no more. */
static bool put_batch(struct producer *p, const uint8_t *body)
{
    uint32_t count = get_u32(body), slot = 0;
    uint8_t *entries, *pages;
    uint64_t batch = 0;

    if (ring_acquire(p->ring, RING_MS, &entries, &pages, &batch, &slot) < 0)
        return false;
    memcpy(entries, body + 8, 8 * (size_t)count);
    memcpy(pages, body + 8 + 8 * (size_t)count, PAGE * (size_t)count);
    if (p->lie == FAR_PAGE)
        entries[2] = 0xff; /* pfn + 0xff0000 */
    if (p->lie != UNPUBLISHED)
        ring_publish(p->ring, count, p->lie == MORE_PAGES ? count - 1 : count);
    put_marker(p, batch, p->lie == WRONG_SLOT ? slot ^ 1 : slot);
    return p->lie <= MIXED;
}

static void *produce(void *argument)
{
    struct producer *p = argument;
    size_t at = HEAD;

    put(p, p->data, p->lie == BEFORE_HEAD ? HEAD - 8 : HEAD);
    if (p->lie == BEFORE_HEAD)
        put_marker(p, 0, 0);
    while (p->lie != BEFORE_HEAD && at + 8 <= p->size) {
        uint32_t type = get_u32(p->data + at), size = get_u32(p->data + at + 4);
        size_t whole = 8 + ((size + 7u) & ~(size_t)7);
        bool is_in_ring = type == 1 && !(p->lie == MIXED && p->batches++ % 2 == 1);
        if (is_in_ring && !put_batch(p, p->data + at + 8))
            break;
        if (!is_in_ring)
            put(p, p->data + at, whole);
        at += whole;
    }
    close(p->fd);
    return NULL;
}

static enum hv_outcome restore(const struct contract_guest *guest, const struct sink *s,
                               enum lie lie, uint32_t *ret_domid, struct ha_err *err)
{
    struct producer p = {.data = s->data, .size = s->size, .lie = lie};
    struct hv_label label = label_of(guest);
    char text[DEFINITION_MAX];
    size_t size = contract->define(guest, text, sizeof(text));
    int ring_fd = -1, pair[2];
    pthread_t thread;

    p.ring = ring_create(SLOTS, RING_PAGES_MAX, &ring_fd, err);
    assert_non_null(p.ring);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    p.fd = pair[0];
    assert_int_equal(pthread_create(&thread, NULL, produce, &p), 0);
    enum hv_outcome outcome = hv->ops->restore(hv, &label, guest->name, (const uint8_t *)text, size,
                                               pair[1], ring_fd, NULL, NULL, ret_domid, err);
    close(pair[1]);
    pthread_join(thread, NULL);
    ring_free(p.ring);
    close(ring_fd);
    return outcome;
}

/* The guest's stream; then it is gone. */
static void save_away(uint32_t domid, struct sink *s)
{
    await_steps(GUEST.number, contract->steps(GUEST.number) + 20);
    sink_begin(s, SIZE_MAX);
    struct hv_save_params params = save_to(s->fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    sink_end(s);
    destroy(domid);
}

void test_pages_through_the_ring(void **state)
{
    static const enum lie ways[] = {TRUTH, MIXED};
    struct contract_guest next = GUEST;
    struct hv_caps caps = {0};
    uint32_t domid = start(&GUEST);

    (void)state;
    assert_int_equal(hv->ops->caps(hv, &caps), 0);
    assert_true(caps.has_ring_restore);
    for (unsigned i = 0; i < 2; i++) {
        struct ha_err err = {0};
        struct sink s;
        save_away(domid, &s);
        next.epoch++;
        if (restore(&next, &s, ways[i], &domid, &err) != HV_OK)
            fail_msg("restore, way %u: %s", i, err.text);
        run(domid);
        await_checked(next.number, next.epoch);
        assert_int_equal(contract->damages(next.number), 0);
        free(s.data);
    }
}

void test_a_ring_that_lies(void **state)
{
    struct contract_guest next = GUEST;
    struct sink s;

    (void)state;
    save_away(start(&GUEST), &s);
    for (enum lie lie = WRONG_SLOT; lie <= BEFORE_HEAD; lie++) {
        struct ha_err err = {0};
        uint32_t domid = 0;
        next.epoch++;
        if (restore(&next, &s, lie, &domid, &err) != HV_FAILED)
            fail_msg("lie %u was believed", (unsigned)lie);
        assert_true(err.text[0] != '\0');
        assert_int_equal(domain_count(), 0);
    }
    free(s.data);
}
