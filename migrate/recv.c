/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/recv.h"

#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "hamgr/base/assert.h"
#include "migrate/native.h"
#include "migrate/pack.h"
#include "migrate/pipeline.h"

/* Bytes of a record's head may lie in two RAW frames: at most this many wait for the rest. */
#define CARRY_MAX        64u
#define BUFFER           (CARRY_MAX + NATIVE_WINDOW_MIN)
#define UNITS_MIN        2u
#define UNITS_PER_WORKER 3u
#define AHEAD_MS         1 /* between two pieces of the cache */

_Static_assert(BUFFER <= UNIT_BUFFER, "what was checked fits a unit");

struct receiver {
    struct session *session; /* these two set by recv_stream */
    struct page_sink *sink;
    struct codec *codec; /* of RAW and BATCH */
    XXH3_state_t *digest;
    struct native native;
    struct pipeline *pipeline;
    struct packer *packers; /* the owner's, then the workers' */
    unsigned packer_count;
    struct arena arena;
    uint64_t *slot_unit; /* by slot: 1 + the unit that used it last; 0: it holds nothing */
    uint8_t secret[FRAME_SECRET_SIZE];
    bool is_hashed;  /* SETUP came: the digest is over the pages' hashes */
    uint8_t *buffer; /* RAW bytes or a batch being checked */
    size_t carry;    /* bytes at its front the native parser could not judge yet */
    bool is_begun;   /* SETUP, or a first RAW, came */
    bool is_ended;
    uint64_t batches;
    uint32_t batch_total; /* pages of the open batch */
    uint64_t raw_bytes;   /* these two of what was committed */
    uint64_t pages;
};

/* ---- committing, in order ---- */

static void count(struct receiver *d, const void *data, size_t size, size_t plain)
{
    XXH3_128bits_update(d->digest, (const uint8_t *)data + plain, size - plain);
    d->raw_bytes += size;
}

static int commit_pages(struct receiver *d, const struct unit *unit, struct ha_err *err)
{
    const struct frame_pages *m = &unit->pages;
    struct streamp_progress *progress = &d->session->progress;

    if (unit->rc < 0) {
        *err = unit->err;
        return unit->rc;
    }
    if (d->is_hashed) {
        XXH3_128bits_update(d->digest, unit->hashes, m->count * sizeof(*unit->hashes));
        d->raw_bytes += (uint64_t)m->count * FRAME_PAGE_SIZE;
    } else {
        for (uint32_t i = 0; i < m->count; i++)
            count(d, unit->content[i], FRAME_PAGE_SIZE, 0);
    }
    d->pages += m->count;
    progress->pages += m->count;
    progress->zero_pages += m->count - m->full_count - m->delta_count;
    progress->delta_pages += m->delta_count;
    return d->sink->ops->pages(d->sink, unit->content, m->count, err);
}

static int commit_head(struct receiver *d, struct unit *unit, struct ha_err *err)
{
    int rc = 0;

    if (unit->type == FRAME_PAGES) {
        rc = commit_pages(d, unit, err);
    } else if (unit->type == FRAME_RAW) {
        count(d, unit->out, unit->out_size, 0);
        rc = d->sink->ops->raw(d->sink, unit->out, unit->out_size, err);
    } else if (unit->type == FRAME_BATCH) {
        count(d, unit->out, unit->out_size, d->is_hashed ? NATIVE_BATCH_HEAD : 0);
        rc = d->sink->ops->batch(d->sink, unit->out, unit->out_size, err);
    }
    pipeline_pop(d->pipeline);
    return rc;
}

static int commit_done(struct receiver *d, struct ha_err *err)
{
    struct unit *unit;
    int rc = 0;

    while (rc == 0 && (unit = pipeline_head(d->pipeline)) != NULL)
        rc = commit_head(d, unit, err);
    return rc;
}

/* Until every unit before this number is committed. */
static int commit_before(struct receiver *d, uint64_t number, struct ha_err *err)
{
    int rc = 0;

    while (rc == 0 && !pipeline_is_empty(d->pipeline) && pipeline_oldest(d->pipeline) < number) {
        rc = pipeline_wait(d->pipeline, pipeline_oldest(d->pipeline), -1, d->session, err);
        if (rc == 0)
            rc = commit_head(d, pipeline_head(d->pipeline), err);
    }
    return rc;
}

static int open_unit(struct receiver *d, uint16_t type, struct unit **ret_unit, struct ha_err *err)
{
    int rc = 0;

    while (rc == 0 && (*ret_unit = pipeline_open(d->pipeline)) == NULL)
        rc = commit_before(d, pipeline_oldest(d->pipeline) + 1, err);
    if (rc == 0)
        (*ret_unit)->type = type;
    return rc;
}

/* Checked native bytes, to be delivered when their turn comes. */
static int deliver(struct receiver *d, uint16_t type, size_t size, struct ha_err *err)
{
    struct unit *unit;
    int rc = open_unit(d, type, &unit, err);

    if (rc < 0)
        return rc;
    memcpy(unit->out, d->buffer, size);
    unit->out_size = size;
    pipeline_done(d->pipeline, unit);
    return 0;
}

/* ---- frames ---- */

static int recv_setup(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    struct frame_setup m;
    int rc = frame_setup_decode(payload, size, &m, err);

    if (rc < 0)
        return rc;
    if (d->is_begun)
        return ha_err_set(err, HA_E_PEER, "frame SETUP out of order");
    d->is_begun = true;
    rc = arena_init(&d->arena, m.cache_pages, err);
    if (rc < 0)
        return rc;
    d->slot_unit = calloc(m.cache_pages + 1u, sizeof(*d->slot_unit));
    if (!d->slot_unit)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    memcpy(d->secret, m.secret, sizeof(d->secret));
    d->is_hashed = true;
    for (unsigned i = 0; i < d->packer_count; i++)
        d->packers[i].secret = d->secret;
    return 0;
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
    /* What comes last waits for END's verdict: whoever restores is done with it. */
    size_t held = native_is_done(&d->native) ? NATIVE_LAST_SIZE : 0;
    ha_assert(passed >= held); /* a frame is never empty, and behind the end none parses */
    int rc = deliver(d, FRAME_RAW, passed - held, err);
    d->carry = size - passed;
    memmove(d->buffer, d->buffer + passed, d->carry);
    return rc;
}

static int recv_raw(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    struct frame_raw m;
    int rc = frame_raw_decode(payload, size, &m, err);

    d->is_begun = true;
    if (rc == 0 && native_is_in_batch(&d->native))
        rc = ha_err_set(err, HA_E_PEER, "frame RAW inside a batch");
    if (rc == 0)
        rc = codec_decode(d->codec, m.codec, m.data, m.data_size, d->buffer + d->carry, m.raw_size,
                          err);
    return rc < 0 ? rc : take_raw(d, d->carry + m.raw_size, err);
}

static int decode_entries(struct receiver *d, const struct frame_batch *m, struct ha_err *err)
{
    uint8_t *entries = d->buffer + NATIVE_BATCH_HEAD;

    if (m->codec == FRAME_RUNS)
        return frame_runs_decode(m->data, m->data_size, entries, m->count, err);
    return codec_decode(d->codec, m->codec, m->data, m->data_size, entries, 8 * (size_t)m->count,
                        err);
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
    rc = decode_entries(d, &m, err);
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
    return deliver(d, FRAME_BATCH, whole, err);
}

/* Every slot the group names exists, holds what a delta needs, is named once, and nobody works on
 * it or still has to deliver from it. */
static int claim_slots(struct receiver *d, const struct unit *unit, struct ha_err *err)
{
    const struct frame_pages *m = &unit->pages;
    uint32_t next = 0;

    for (uint32_t i = 0; i < m->count; i++) {
        if (m->kind[i] < FRAME_KEEP)
            continue;
        uint32_t slot = m->slot[next++];
        if (slot >= d->arena.slot_count)
            return ha_err_set(err, HA_E_PEER, "cache slot %u of %u", (unsigned)slot,
                              (unsigned)d->arena.slot_count);
        uint64_t last = d->slot_unit[slot];
        if (last == 0 && m->kind[i] == FRAME_DELTA)
            return ha_err_set(err, HA_E_PEER, "a delta against cache slot %u, which is empty",
                              (unsigned)slot);
        if (last == unit->number + 1)
            return ha_err_set(err, HA_E_PEER, "cache slot %u twice in a frame", (unsigned)slot);
        int rc = last > 0 ? commit_before(d, last, err) : 0;
        if (rc < 0)
            return rc;
        d->slot_unit[slot] = unit->number + 1;
        arena_prepare(&d->arena, slot);
    }
    return 0;
}

static int recv_pages(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    struct unit *unit;
    int rc = open_unit(d, FRAME_PAGES, &unit, err);

    if (rc < 0)
        return rc;
    struct frame_pages *m = &unit->pages;
    rc = frame_pages_decode(payload, size, m, err);
    if (rc < 0)
        return rc;
    if (m->batch + 1 != d->batches || m->first != d->batch_total - native_pages_left(&d->native) ||
        !native_is_in_batch(&d->native))
        return ha_err_set(err, HA_E_PEER, "frame PAGES out of order");
    rc = native_skip_pages(&d->native, m->count, err);
    if (rc == 0)
        rc = claim_slots(d, unit, err);
    if (rc < 0)
        return rc;
    bool is_worth_it = m->codec != FRAME_STORE && pipeline_workers(d->pipeline) > 0;
    if (is_worth_it) { /* the frame's own buffer is needed for the next */
        memcpy(unit->in, m->data, m->data_size);
        m->data = unit->in;
    }
    pipeline_queue(d->pipeline, unit, is_worth_it);
    /* Its bytes are borrowed from the frame: out with it now, and with all before it. */
    return is_worth_it ? 0 : commit_before(d, unit->number + 1, err);
}

static int check_end(struct receiver *d, const struct frame_end *m, struct frame_end_ack *ack,
                     struct ha_err *err)
{
    uint8_t kind = d->is_hashed ? FRAME_PAGE_HASHES : FRAME_XXH3_128;
    XXH128_hash_t hash = XXH3_128bits_digest(d->digest);

    ack->raw_bytes = d->raw_bytes;
    ack->digest = (struct ha_digest){.low = hash.low64, .high = hash.high64};
    if (m->raw_bytes != d->raw_bytes || m->batches != d->batches || m->pages != d->pages)
        return ha_err_set(err, HA_E_PEER, "END states %llu bytes, %llu arrived",
                          (unsigned long long)m->raw_bytes, (unsigned long long)d->raw_bytes);
    if (m->digest_kind != FRAME_NO_DIGEST && m->digest_kind != kind)
        return ha_err_set(err, HA_E_PEER, "END has a digest of kind %u", (unsigned)m->digest_kind);
    if (m->digest_kind == kind && !ha_digest_equal(m->digest, ack->digest))
        return ha_err_set(err, HA_E_PEER, "the stream's digest differs: what arrived is damaged");
    return 0;
}

static int recv_end(struct receiver *d, const uint8_t *payload, size_t size, struct ha_err *err)
{
    static const uint8_t last[NATIVE_LAST_SIZE];
    struct frame_end m;
    struct frame_end_ack ack;
    int rc = frame_end_decode(payload, size, &m, err);

    if (rc < 0)
        return rc;
    if (!native_is_done(&d->native) || d->carry > 0)
        return ha_err_set(err, HA_E_PEER, "frame END before the native stream's end");
    rc = commit_before(d, UINT64_MAX, err);
    if (rc < 0)
        return rc;
    count(d, last, sizeof(last), 0);
    rc = check_end(d, &m, &ack, err);
    if (rc == 0)
        rc = d->sink->ops->raw(d->sink, last, sizeof(last), err);
    if (rc < 0)
        return rc;
    uint8_t *at = session_begin(d->session, FRAME_CONTROL_MAX, err);
    if (!at)
        return -err->code;
    struct ha_writer w = ha_writer_of(at, FRAME_CONTROL_MAX);
    frame_end_ack_encode(&w, &ack);
    d->is_ended = true;
    return session_commit(d->session, FRAME_END_ACK, w.position, NULL, 0, err);
}

static int recv_frame(struct receiver *d, struct ha_err *err)
{
    const struct frame_header *header = &d->session->inbox.header;
    const uint8_t *payload = inbox_payload(&d->session->inbox);

    switch (header->type) {
    case FRAME_SETUP:
        return recv_setup(d, payload, header->size, err);
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

/* While there is something to read, workers go on; else what they have is delivered. Who has
 * nothing to do at all makes the cache present, with an ear on the link. */
static int recv_turn(struct receiver *d, struct ha_err *err)
{
    bool is_idle = pipeline_is_empty(d->pipeline);
    bool is_whole = arena_is_settled(&d->arena);
    int rc = session_next_frame(d->session, !is_idle ? 0 : is_whole ? -1 : AHEAD_MS, err);

    if (rc > 0)
        return recv_frame(d, err);
    if (rc == 0 && is_idle)
        (void)arena_ahead(&d->arena);
    return rc == 0 ? commit_before(d, UINT64_MAX, err) : rc;
}

int recv_stream(struct receiver *d, struct session *s, struct page_sink *sink, struct ha_err *err)
{
    d->session = s;
    d->sink = sink;
    for (;;) {
        int rc = recv_turn(d, err);
        if (rc == 0)
            rc = commit_done(d, err);
        if (rc == 0)
            rc = session_poll(s, err);
        if (rc < 0 || d->is_ended)
            return rc;
    }
}

/* ---- life ---- */

static int start_pipeline(struct receiver *d, unsigned workers, struct ha_err *err)
{
    void *contexts[PIPELINE_WORKERS_MAX + 1];
    int rc = 0;

    d->packers = calloc(workers + 1u, sizeof(*d->packers));
    if (!d->packers)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    for (; d->packer_count <= workers && rc == 0; d->packer_count++) {
        struct packer *packer = &d->packers[d->packer_count];
        rc = packer_init(packer, 0, false, &d->arena, err);
        contexts[d->packer_count] = packer;
    }
    if (rc < 0)
        return rc;
    d->pipeline =
        pipeline_new(UNITS_MIN + UNITS_PER_WORKER * workers, workers, unpack_unit, contexts, err);
    return d->pipeline ? 0 : -err->code;
}

struct receiver *receiver_new(unsigned workers, struct ha_err *err)
{
    struct receiver *d = calloc(1, sizeof(*d));
    int rc = d ? 0 : ha_err_set(err, HA_E_NO_MEMORY, "no memory");

    if (!d)
        return NULL;
    native_init(&d->native, false);
    d->codec = codec_new(0);
    d->buffer = malloc(BUFFER);
    d->digest = XXH3_createState();
    if (!d->codec || !d->buffer || !d->digest || XXH3_128bits_reset(d->digest) != XXH_OK)
        rc = ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    if (rc == 0)
        rc = start_pipeline(d, workers, err);
    if (rc == 0)
        return d;
    receiver_free(d);
    return NULL;
}

void receiver_free(struct receiver *d)
{
    if (!d)
        return;
    pipeline_free(d->pipeline);
    for (unsigned i = 0; i < d->packer_count; i++)
        packer_fini(&d->packers[i]);
    free(d->packers);
    arena_fini(&d->arena);
    free(d->slot_unit);
    free(d->buffer);
    codec_free(d->codec);
    XXH3_freeState(d->digest);
    free(d);
}
