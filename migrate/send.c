/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "hamgr/base/assert.h"
#include "migrate/native.h"
#include "migrate/zero.h"

/* Inside a batch more pages are promised: wait this long for a full group before sending a part. A
 * writer that goes on needs microseconds; more would be seen in the pause of the guest. */
#define PATIENCE_MS 2

struct sender {
    struct session *session;
    struct codec *codec;
    XXH3_state_t *digest;
    uint64_t batches;    /* opened so far */
    uint32_t batch_done; /* pages of the open one already sent */
    uint64_t raw_bytes;
    uint64_t pages;
    uint8_t *dense; /* the DATA pages of a group, when ZERO ones lie between */
};

static int send_raw(struct sender *d, const struct page_item *item, struct ha_err *err)
{
    struct frame_raw m = {.raw_size = (uint32_t)item->size};
    uint8_t *at = session_begin(d->session, FRAME_RAW_HEAD + item->size, err);

    if (!at)
        return -err->code;
    size_t size =
        codec_encode(d->codec, item->data, item->size, at + FRAME_RAW_HEAD, item->size, false);
    m.codec = size > 0 ? FRAME_ZSTD : FRAME_STORE;
    struct ha_writer w = ha_writer_of(at, FRAME_RAW_HEAD);
    frame_raw_encode(&w, &m);
    if (size > 0)
        return session_commit(d->session, FRAME_RAW, FRAME_RAW_HEAD + size, NULL, 0, err);
    return session_commit(d->session, FRAME_RAW, FRAME_RAW_HEAD, item->data, item->size, err);
}

static int send_batch(struct sender *d, const struct page_item *item, struct ha_err *err)
{
    struct frame_batch m = {
        .batch = d->batches, .count = item->count, .data_count = item->data_count};
    size_t raw_size = 8 * (size_t)item->count;
    uint8_t *at = session_begin(d->session, FRAME_BATCH_HEAD + raw_size, err);

    if (!at)
        return -err->code;
    d->batches++;
    d->batch_done = 0;
    size_t size =
        codec_encode(d->codec, item->entries, raw_size, at + FRAME_BATCH_HEAD, raw_size, false);
    m.codec = size > 0 ? FRAME_ZSTD : FRAME_STORE;
    struct ha_writer w = ha_writer_of(at, FRAME_BATCH_HEAD);
    frame_batch_encode(&w, &m);
    if (size > 0)
        return session_commit(d->session, FRAME_BATCH, FRAME_BATCH_HEAD + size, NULL, 0, err);
    return session_commit(d->session, FRAME_BATCH, FRAME_BATCH_HEAD, item->entries, raw_size, err);
}

/* Finds the zero pages; returns the DATA pages in one piece (in place if none is zero). */
static const uint8_t *classify(struct sender *d, const struct page_item *item,
                               struct frame_pages *m)
{
    uint32_t data_count = 0;

    for (uint32_t i = 0; i < item->count; i++) {
        const uint8_t *page = item->data + (size_t)i * FRAME_PAGE_SIZE;
        m->kind[i] = page_is_zero(page) ? FRAME_ZERO : FRAME_DATA;
        data_count += m->kind[i] == FRAME_DATA ? 1u : 0u;
    }
    m->raw_size = data_count * FRAME_PAGE_SIZE;
    if (data_count == item->count)
        return item->data;
    size_t used = 0;
    for (uint32_t i = 0; i < item->count; i++) {
        if (m->kind[i] != FRAME_DATA)
            continue;
        memcpy(d->dense + used, item->data + (size_t)i * FRAME_PAGE_SIZE, FRAME_PAGE_SIZE);
        used += FRAME_PAGE_SIZE;
    }
    return d->dense;
}

static int send_pages(struct sender *d, const struct page_item *item, struct ha_err *err)
{
    struct frame_pages m = {
        .batch = d->batches - 1, .first = d->batch_done, .count = (uint16_t)item->count};
    uint32_t head = frame_pages_head(item->count);

    ha_assert(item->count > 0 && item->count <= FRAME_GROUP_PAGES && d->batches > 0);
    const uint8_t *data = classify(d, item, &m);
    uint8_t *at = session_begin(d->session, head + m.raw_size, err);
    if (!at)
        return -err->code;
    size_t size =
        m.raw_size > 0 ? codec_encode(d->codec, data, m.raw_size, at + head, m.raw_size, true) : 0;
    m.codec = size > 0 ? FRAME_ZSTD : FRAME_STORE;
    struct ha_writer w = ha_writer_of(at, head);
    frame_pages_encode(&w, &m);
    ha_assert(!w.failed && w.position == head);
    d->batch_done += item->count;
    d->pages += item->count;
    d->session->progress.pages += item->count;
    d->session->progress.zero_pages += item->count - m.raw_size / FRAME_PAGE_SIZE;
    if (size > 0)
        return session_commit(d->session, FRAME_PAGES, head + size, NULL, 0, err);
    return session_commit(d->session, FRAME_PAGES, head, data, m.raw_size, err);
}

static int send_end(struct sender *d, struct ha_err *err)
{
    struct session *s = d->session;
    XXH128_hash_t hash = XXH3_128bits_digest(d->digest);
    struct frame_end m = {.raw_bytes = d->raw_bytes,
                          .batches = d->batches,
                          .pages = d->pages,
                          .digest_kind = FRAME_XXH3_128,
                          .digest = {.low = hash.low64, .high = hash.high64}};
    /* What the receiver said so far it said too early. */
    int rc = session_wait(s, NULL, 0, 0, err);
    if (rc < 0)
        return rc;
    uint8_t *at = session_begin(s, FRAME_CONTROL_MAX, err);
    if (!at)
        return -err->code;
    struct ha_writer w = ha_writer_of(at, FRAME_CONTROL_MAX);
    frame_end_encode(&w, &m);
    s->is_ending = true;
    rc = session_commit(s, FRAME_END, w.position, NULL, 0, err);
    if (rc == 0)
        rc = session_flush(s, err);
    if (rc == 0)
        rc = session_await_ack(s, err);
    if (rc < 0)
        return rc;
    if (s->ack.raw_bytes != m.raw_bytes || !ha_digest_equal(s->ack.digest, m.digest))
        return ha_err_set(err, HA_E_PEER, "the receiver confirmed something else than was sent");
    return 0;
}

static int send_item(struct sender *d, const struct page_item *item, struct ha_err *err)
{
    XXH3_128bits_update(d->digest, item->data, item->size);
    d->raw_bytes += item->size;
    session_moved(d->session, item->size);
    switch ((enum page_item_kind)item->kind) {
    case PAGE_ITEM_RAW:
        return send_raw(d, item, err);
    case PAGE_ITEM_BATCH:
        return send_batch(d, item, err);
    case PAGE_ITEM_PAGES:
        return send_pages(d, item, err);
    case PAGE_ITEM_END:
        break;
    }
    return send_end(d, err);
}

/* Nothing to read just now. Between records everything is flushed at once; inside a batch the rest
 * gets PATIENCE_MS. Returns 1 to ask again, patiently or not as *is_patient says, or an error. */
static int wait_for_more(struct sender *d, struct page_source *source, bool *is_patient,
                         struct ha_err *err)
{
    int rc;

    if (*is_patient && source->ops->is_in_batch(source)) {
        rc = session_wait_fd(d->session, source->fd, POLLIN, PATIENCE_MS, err);
        *is_patient = rc > 0;
        return rc < 0 ? rc : 1;
    }
    rc = session_flush(d->session, err);
    if (rc == 0)
        rc = session_wait_fd(d->session, source->fd, POLLIN, -1, err);
    *is_patient = true;
    return rc < 0 ? rc : 1;
}

static int send_loop(struct sender *d, struct page_source *source, struct ha_err *err)
{
    struct page_item item = {0};
    bool is_patient = true;
    int rc = 1;

    while (rc > 0) {
        rc = source->ops->next(source, is_patient, &item, err);
        if (rc == 0) {
            rc = wait_for_more(d, source, &is_patient, err);
            continue;
        }
        if (rc < 0)
            return rc;
        rc = send_item(d, &item, err);
        if (item.kind == PAGE_ITEM_END)
            return rc;
        rc = rc == 0 ? 1 : rc;
    }
    return rc;
}

int send_stream(struct session *s, struct page_source *source, struct codec *codec,
                struct ha_err *err)
{
    struct sender d = {.session = s, .codec = codec};
    int rc;

    d.dense = malloc(FRAME_RAW_MAX);
    d.digest = XXH3_createState();
    s->is_listening_peer = true;
    if (!d.dense || !d.digest || XXH3_128bits_reset(d.digest) != XXH_OK)
        rc = ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    else
        rc = send_loop(&d, source, err);
    s->is_listening_peer = false;
    free(d.dense);
    XXH3_freeState(d.digest);
    return rc;
}
