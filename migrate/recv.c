/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/recv.h"

#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "migrate/native.h"

/* Bytes of a record's head may lie in two RAW frames: at most this many wait for the rest. */
#define CARRY_MAX 64u
#define BUFFER    (CARRY_MAX + NATIVE_WINDOW_MIN)

struct receiver {
    struct session *session;
    struct page_sink *sink;
    struct codec *codec;
    XXH3_state_t *digest;
    struct native native;
    uint8_t *buffer; /* what is being rebuilt: RAW bytes, a batch, or a group of pages */
    size_t carry;    /* bytes at its front the native parser could not judge yet */
    uint64_t batches;
    uint32_t batch_total; /* pages of the open batch */
    uint64_t raw_bytes;
    uint64_t pages;
};

static const uint8_t zero_page[FRAME_PAGE_SIZE];

static void count(struct receiver *d, const uint8_t *data, size_t size)
{
    XXH3_128bits_update(d->digest, data, size);
    d->raw_bytes += size;
}

/* The native parser over buffer[size]: what it passes is taken; the rest stays as carry. */
static int take_raw(struct receiver *d, size_t size, struct ha_err *err)
{
    size_t passed = 0;

    while (passed < size) {
        struct native_token token;
        int rc = native_next(&d->native, d->buffer + passed, size - passed, &token, err);
        if (rc < 0)
            return rc;
        if (token.kind == NATIVE_MORE && token.size <= CARRY_MAX)
            break;
        /* A PAGE_DATA record's head, whole or begun: it has no business in a RAW frame. */
        if (token.kind != NATIVE_RAW)
            return ha_err_set(err, HA_E_PEER, "pages in a RAW frame");
        passed += token.size;
    }
    count(d, d->buffer, passed);
    int rc = d->sink->ops->raw(d->sink, d->buffer, passed, err);
    d->carry = size - passed;
    memmove(d->buffer, d->buffer + passed, d->carry);
    return rc;
}

static int recv_raw(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    struct frame_raw m;
    int rc = frame_raw_decode(payload, size, &m, err);

    if (rc == 0 && native_is_in_batch(&d->native))
        rc = ha_err_set(err, HA_E_PEER, "frame RAW inside a batch");
    if (rc == 0)
        rc = codec_decode(d->codec, m.codec, m.data, m.data_size, d->buffer + d->carry, m.raw_size,
                          err);
    return rc < 0 ? rc : take_raw(d, d->carry + m.raw_size, err);
}

static int recv_batch(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    struct frame_batch m;
    struct native_token token;
    int rc = frame_batch_decode(payload, size, &m, err);

    if (rc < 0)
        return rc;
    if (m.batch != d->batches || d->carry > 0 || !native_is_between(&d->native))
        return ha_err_set(err, HA_E_PEER, "frame BATCH out of order");
    rc = codec_decode(d->codec, m.codec, m.data, m.data_size, d->buffer + NATIVE_BATCH_HEAD,
                      8 * (size_t)m.count, err);
    if (rc < 0)
        return rc;
    size_t whole = NATIVE_BATCH_HEAD + 8 * (size_t)m.count;
    native_batch_head(d->buffer, m.count, m.data_count);
    rc = native_next(&d->native, d->buffer, whole, &token, err);
    if (rc < 0)
        return rc;
    if (token.kind != NATIVE_BATCH || token.size != whole || token.data_count != m.data_count)
        return ha_err_set(err, HA_E_PEER, "frame BATCH where the native stream has no pages");
    d->batches++;
    d->batch_total = m.data_count;
    count(d, d->buffer, whole);
    return d->sink->ops->batch(d->sink, d->buffer, whole, err);
}

static void count_pages(struct receiver *d, const struct frame_pages *m)
{
    const uint8_t *data = d->buffer;

    for (uint16_t i = 0; i < m->count; i++) {
        count(d, m->kind[i] == FRAME_DATA ? data : zero_page, FRAME_PAGE_SIZE);
        data += m->kind[i] == FRAME_DATA ? FRAME_PAGE_SIZE : 0;
    }
    d->pages += m->count;
    d->session->progress.pages += m->count;
    d->session->progress.zero_pages += m->count - m->raw_size / FRAME_PAGE_SIZE;
}

static int recv_pages(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    struct frame_pages m;
    int rc = frame_pages_decode(payload, size, &m, err);

    if (rc < 0)
        return rc;
    if (m.batch + 1 != d->batches || m.first != d->batch_total - native_pages_left(&d->native) ||
        !native_is_in_batch(&d->native))
        return ha_err_set(err, HA_E_PEER, "frame PAGES out of order");
    rc = native_skip_pages(&d->native, m.count, err);
    if (rc == 0)
        rc = codec_decode(d->codec, m.codec, m.data, m.data_size, d->buffer, m.raw_size, err);
    if (rc < 0)
        return rc;
    count_pages(d, &m);
    return d->sink->ops->pages(d->sink, m.kind, m.count, d->buffer, err);
}

static int recv_end(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    struct frame_end m;
    struct frame_end_ack ack;
    int rc = frame_end_decode(payload, size, &m, err);

    if (rc < 0)
        return rc;
    if (!native_is_done(&d->native) || d->carry > 0)
        return ha_err_set(err, HA_E_PEER, "frame END before the native stream's end");
    XXH128_hash_t hash = XXH3_128bits_digest(d->digest);
    ack.raw_bytes = d->raw_bytes;
    ack.digest = (struct ha_digest){.low = hash.low64, .high = hash.high64};
    if (m.raw_bytes != d->raw_bytes || m.batches != d->batches || m.pages != d->pages)
        return ha_err_set(err, HA_E_PEER, "END states %llu bytes, %llu arrived",
                          (unsigned long long)m.raw_bytes, (unsigned long long)d->raw_bytes);
    if (m.digest_kind == FRAME_XXH3_128 && !ha_digest_equal(m.digest, ack.digest))
        return ha_err_set(err, HA_E_PEER, "the stream's digest differs: what arrived is damaged");
    uint8_t *at = session_begin(d->session, FRAME_CONTROL_MAX, err);
    if (!at)
        return -err->code;
    struct ha_writer w = ha_writer_of(at, FRAME_CONTROL_MAX);
    frame_end_ack_encode(&w, &ack);
    return session_commit(d->session, FRAME_END_ACK, w.position, NULL, 0, err);
}

static int recv_frame(struct receiver *d, struct ha_err *err)
{
    const struct frame_header *header = &d->session->inbox.header;
    const uint8_t *payload = inbox_payload(&d->session->inbox);

    switch (header->type) {
    case FRAME_RAW:
        return recv_raw(d, payload, header->size, err);
    case FRAME_BATCH:
        return recv_batch(d, payload, header->size, err);
    case FRAME_PAGES:
        return recv_pages(d, payload, header->size, err);
    case FRAME_END:
        return recv_end(d, payload, header->size, err);
    default:
        return ha_err_set(err, HA_E_PEER, "unexpected frame %s from the sender",
                          frame_name(header->type));
    }
}

static int recv_loop(struct receiver *d, struct ha_err *err)
{
    for (;;) {
        int rc = session_next_frame(d->session, -1, err);
        if (rc < 0)
            return rc;
        rc = recv_frame(d, err);
        if (rc < 0 || d->session->inbox.header.type == FRAME_END)
            return rc;
        rc = session_poll(d->session, err);
        if (rc < 0)
            return rc;
    }
}

int recv_stream(struct session *s, struct page_sink *sink, struct codec *codec, struct ha_err *err)
{
    struct receiver d = {.session = s, .sink = sink, .codec = codec};
    int rc;

    native_init(&d.native, false);
    d.buffer = malloc(BUFFER);
    d.digest = XXH3_createState();
    if (!d.buffer || !d.digest || XXH3_128bits_reset(d.digest) != XXH_OK)
        rc = ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    else
        rc = recv_loop(&d, err);
    free(d.buffer);
    XXH3_freeState(d.digest);
    return rc;
}
