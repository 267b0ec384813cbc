/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "hamgr/base/assert.h"
#include "migrate/adapt.h"
#include "migrate/native.h"
#include "migrate/pack.h"
#include "migrate/pipeline.h"
#include "migrate/sort.h"
#include "migrate/trail.h"
#include "migrate/workers.h"

/* A record of 1024 entries makes at most 17 groups, and its BATCH comes before them but is known
 * after them: so many units must fit; then some for each worker. */
#define UNITS_MIN        20u
#define UNITS_PER_WORKER 2u
/* While nothing is compressed, one group of so many shows what compression would do. */
#define PROBE_EACH 48u
/* Content of at least so many bytes as it is: its memory is given away, not copied. It would be a
 * parcel of its own anyhow. */
#define GIVE_MIN 196608u
/* A feeder that did not listen may wait for just this word: said again after so long, also when the
 * acknowledgement came within the wait. */
#define UNTOLD_MS 100

struct sender {
    struct session *session; /* this and source: set by send_stream */
    struct page_source *source;
    struct pipeline *pipeline;
    bool is_untold;     /* the source could not be told of the last step */
    struct trail trail; /* over lanes: what the receiver has of the source's bytes */
    struct sorter sorter;
    struct packer *packers; /* the owner's, then the workers' */
    unsigned packer_count;
    XXH3_state_t *digest;
    uint64_t batches; /* sent so far, as what follows */
    uint64_t raw_bytes;
    uint64_t pages;
    /* level auto */
    bool is_auto;
    struct adapt adapt;
    struct adapt_sample sample; /* of the window that began then */
    uint64_t window_ns;
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- committing units, in order ---- */

static void add_to_digest(struct sender *d, const void *data, size_t size)
{
    XXH3_128bits_update(d->digest, data, size);
}

/* The frame of a unit whose head was written at `at`: the head, then out or in. */
static int commit_unit(struct sender *d, const struct unit *unit, size_t head, struct ha_err *err)
{
    bool is_packed = unit->out_size > 0;

    return session_commit(d->session, unit->type, head, is_packed ? unit->out : unit->in,
                          is_packed ? unit->out_size : unit->in_size, err);
}

static int commit_raw(struct sender *d, const struct unit *unit, struct ha_err *err)
{
    struct frame_raw m = {.codec = unit->codec, .raw_size = (uint32_t)unit->in_size};
    uint8_t *at = session_begin(d->session, FRAME_RAW_HEAD + unit->in_size, err);

    if (!at)
        return -err->code;
    struct ha_writer w = ha_writer_of(at, FRAME_RAW_HEAD);
    frame_raw_encode(&w, &m);
    add_to_digest(d, unit->in, unit->in_size);
    d->raw_bytes += unit->in_size;
    return commit_unit(d, unit, FRAME_RAW_HEAD, err);
}

static int commit_batch(struct sender *d, const struct unit *unit, struct ha_err *err)
{
    struct frame_batch m = {.batch = d->batches++,
                            .count = unit->count,
                            .data_count = unit->data_count,
                            .codec = unit->codec};
    uint8_t *at = session_begin(d->session, FRAME_BATCH_HEAD + unit->in_size, err);

    if (!at)
        return -err->code;
    struct ha_writer w = ha_writer_of(at, FRAME_BATCH_HEAD);
    frame_batch_encode(&w, &m);
    add_to_digest(d, unit->in, unit->in_size);
    d->raw_bytes += NATIVE_BATCH_HEAD + unit->in_size;
    return commit_unit(d, unit, FRAME_BATCH_HEAD, err);
}

static int commit_pages(struct sender *d, struct unit *unit, struct ha_err *err)
{
    struct frame_pages *m = &unit->pages;
    struct streamp_progress *progress = &d->session->progress;
    uint32_t head = frame_pages_head(m->count, m->slot_count);
    bool is_given =
        session_takes_blocks(d->session) && unit->out_size == 0 && unit->in_size >= GIVE_MIN;
    uint8_t *at = is_given ? unit->in - head : session_begin(d->session, head + unit->in_size, err);

    if (!at)
        return -err->code;
    m->batch = d->batches - 1;
    m->codec = unit->codec;
    struct ha_writer w = ha_writer_of(at, head);
    frame_pages_encode(&w, m);
    ha_assert(!w.failed && w.position == head);
    add_to_digest(d, unit->hashes, m->count * sizeof(*unit->hashes));
    d->pages += m->count;
    d->raw_bytes += (uint64_t)m->count * FRAME_PAGE_SIZE;
    progress->pages += m->count;
    progress->zero_pages += m->count - m->full_count - m->delta_count;
    progress->delta_pages += m->delta_count;
    progress->same_pages = d->sorter.same_pages;
    if (is_given)
        return session_give(d->session, unit->type, head, &unit->in, unit->in_size, err);
    return commit_unit(d, unit, head, err);
}

static int commit_any(struct sender *d, struct unit *unit, struct ha_err *err)
{
    int rc = 0;

    if (unit->type == FRAME_RAW)
        rc = commit_raw(d, unit, err);
    else if (unit->type == FRAME_BATCH)
        rc = commit_batch(d, unit, err);
    else if (unit->type == FRAME_PAGES)
        rc = commit_pages(d, unit, err);
    return rc;
}

/* Closes the window when it is wide enough: the level of what follows. */
static void adapt_level(struct sender *d, uint64_t now)
{
    struct streamp_progress *progress = &d->session->progress;

    d->sample.wall_us = (now - d->window_ns) / 1000;
    if (d->sample.wall_us < ADAPT_WINDOW_US)
        return;
    adapt_step(&d->adapt, &d->sample);
    memset(&d->sample, 0, sizeof(d->sample));
    d->window_ns = now;
    d->sorter.level = d->adapt.level;
    progress->level = (int8_t)d->adapt.level;
    progress->codec_mbit = (uint32_t)(adapt_codec_rate(&d->adapt) / 125000u);
    progress->link_mbit = (uint32_t)(adapt_link_rate(&d->adapt) / 125000u);
}

/* The same, watched. */
static int commit_watched(struct sender *d, struct unit *unit, struct ha_err *err)
{
    uint64_t blocked_us = d->session->blocked_us;
    int rc = commit_any(d, unit, err);

    d->sample.blocked_us += d->session->blocked_us - blocked_us;
    d->sample.wire_bytes += unit->out_size > 0 ? unit->out_size : unit->in_size;
    adapt_codec(&d->adapt, unit->level, unit->tried, unit->packed, unit->busy_ns);
    adapt_level(d, now_ns());
    return rc;
}

/* The source hears how much of it the receiver has. */
static void tell(struct sender *d)
{
    d->is_untold = !d->source->ops->tell(d->source, d->session->taken_raw);
}

/* Units became parcels, or parcels were acknowledged. */
static void follow(void *user)
{
    struct sender *d = user;
    struct session *s = d->session;

    if (!s->lanes)
        return;
    trail_packed(&d->trail, pipeline_oldest(d->pipeline), session_parcels(s));
    if (!trail_acked(&d->trail, s->taken))
        return;
    s->taken_raw = d->trail.taken;
    tell(d);
}

/* The oldest unit is done: out with it. */
static int commit_head(struct sender *d, struct unit *unit, struct ha_err *err)
{
    bool is_watched = d->is_auto && unit->type == FRAME_PAGES;
    int rc = is_watched ? commit_watched(d, unit, err) : commit_any(d, unit, err);

    pipeline_pop(d->pipeline);
    follow(d);
    return rc;
}

static int commit_done(struct sender *d, struct ha_err *err)
{
    struct unit *unit;
    int rc = 0;

    while (rc == 0 && (unit = pipeline_head(d->pipeline)) != NULL)
        rc = commit_head(d, unit, err);
    return rc;
}

/* The sorter found no free unit. */
static int make_room(void *user, struct ha_err *err)
{
    struct sender *d = user;
    uint64_t start = now_ns();
    int rc = pipeline_wait(d->pipeline, pipeline_oldest(d->pipeline), -1, d->session, err);

    d->sample.codec_us += (now_ns() - start) / 1000;
    return rc < 0 ? rc : commit_done(d, err);
}

static int drain(struct sender *d, struct ha_err *err)
{
    int rc = 0;

    while (rc == 0 && !pipeline_is_empty(d->pipeline))
        rc = make_room(d, err);
    return rc;
}

/* ---- the stream ---- */

static int send_setup(struct sender *d, struct ha_err *err)
{
    struct frame_setup m = {.cache_pages = d->sorter.arena.slot_count};
    uint8_t *at = session_begin(d->session, FRAME_SETUP_SIZE, err);

    if (!at)
        return -err->code;
    memcpy(m.secret, d->sorter.secret, sizeof(m.secret));
    struct ha_writer w = ha_writer_of(at, FRAME_SETUP_SIZE);
    frame_setup_encode(&w, &m);
    return session_commit(d->session, FRAME_SETUP, FRAME_SETUP_SIZE, NULL, 0, err);
}

static int send_end(struct sender *d, struct ha_err *err)
{
    struct session *s = d->session;
    XXH128_hash_t hash = XXH3_128bits_digest(d->digest);
    struct frame_end m = {.raw_bytes = d->raw_bytes,
                          .batches = d->batches,
                          .pages = d->pages,
                          .digest_kind = FRAME_PAGE_HASHES,
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
    s->taken_raw = s->progress.raw_bytes;
    if (s->lanes)
        tell(d);
    return 0;
}

/* Idle until the source has more. First of all that goes into the cache: what is made present now,
 * before the first page comes above all, no page has to wait for. */
static int wait_idle(struct sender *d, const struct page_source *source, struct ha_err *err)
{
    int rc = 0;

    while (rc == 0 && !d->is_untold && d->sorter.level != 0 && arena_ahead(&d->sorter.arena))
        rc = session_wait_fd(d->session, source->fd, POLLIN, 0, err);
    return rc == 0 ? session_wait_fd(d->session, source->fd, POLLIN, UNTOLD_MS, err) : rc;
}

/* Nothing to read just now. What is being worked on may become done meanwhile; when nothing is,
 * everything is flushed. Returns 1 to ask again, or an error. */
static int wait_for_source(struct sender *d, const struct page_source *source, struct ha_err *err)
{
    int rc;

    if (!sorter_is_waiting(&d->sorter) && !pipeline_is_empty(d->pipeline)) {
        rc = pipeline_wait(d->pipeline, pipeline_oldest(d->pipeline), source->fd, d->session, err);
        return rc < 0 ? rc : 1;
    }
    rc = session_flush(d->session, err);
    if (rc == 0)
        rc = wait_idle(d, source, err);
    if (d->is_untold)
        tell(d);
    return rc < 0 ? rc : 1;
}

static int wait_for_more(struct sender *d, const struct page_source *source, struct ha_err *err)
{
    int rc = commit_done(d, err);

    if (rc < 0)
        return rc;
    uint64_t start = now_ns();
    bool is_working = !sorter_is_waiting(&d->sorter) && !pipeline_is_empty(d->pipeline);
    rc = wait_for_source(d, source, err);
    uint64_t waited_us = (now_ns() - start) / 1000;
    if (is_working)
        d->sample.codec_us += waited_us;
    else
        d->sample.starved_us += waited_us;
    return rc;
}

static int send_loop(struct sender *d, struct page_source *source, struct ha_err *err)
{
    struct page_item item = {0};
    int rc = 1;

    while (rc > 0) {
        rc = source->ops->next(source, &item, err);
        if (rc == 0) {
            rc = wait_for_more(d, source, err);
            continue;
        }
        if (rc < 0)
            return rc;
        session_moved(d->session, item.size);
        if (item.kind == PAGE_ITEM_END)
            break;
        rc = sorter_take(&d->sorter, &item, err);
        trail_read(&d->trail, pipeline_opened(d->pipeline), d->session->progress.raw_bytes);
        if (rc == 0)
            rc = commit_done(d, err);
        if (rc == 0)
            rc = session_poll(d->session, err);
        rc = rc == 0 ? 1 : rc;
    }
    if (rc > 0)
        rc = drain(d, err);
    return rc < 0 ? rc : send_end(d, err);
}

static int start_pipeline(struct sender *d, const struct streamp_start *start, struct ha_err *err)
{
    unsigned workers = start->level == 0 ? 0 : workers_for(start->workers);
    void *contexts[PIPELINE_WORKERS_MAX + 1];
    int rc = 0;

    d->packers = calloc(workers + 1u, sizeof(*d->packers));
    if (!d->packers)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    for (; d->packer_count <= workers && rc == 0; d->packer_count++) {
        struct packer *packer = &d->packers[d->packer_count];
        rc = packer_init(packer, start->level == 0 ? 0 : 1, true, &d->sorter.arena, err);
        contexts[d->packer_count] = packer;
    }
    if (rc < 0)
        return rc;
    d->pipeline =
        pipeline_new(UNITS_MIN + UNITS_PER_WORKER * workers, workers, pack_unit, contexts, err);
    return d->pipeline ? 0 : -err->code;
}

struct sender *sender_new(const struct streamp_start *start, struct ha_err *err)
{
    struct sender *d = calloc(1, sizeof(*d));
    int rc;

    if (d)
        d->digest = XXH3_createState();
    if (!d || !d->digest || XXH3_128bits_reset(d->digest) != XXH_OK) {
        ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        sender_free(d);
        return NULL;
    }
    rc = sorter_init(&d->sorter, (size_t)start->cache_mib << 20, err);
    if (rc == 0)
        rc = start_pipeline(d, start, err);
    if (rc < 0) {
        sender_free(d);
        return NULL;
    }
    d->sorter.pipeline = d->pipeline;
    d->sorter.packer = &d->packers[0];
    d->sorter.make_room = make_room;
    d->sorter.user = d;
    d->sorter.is_identical = start->is_identical;
    d->is_auto = start->level == STREAMP_LEVEL_AUTO;
    adapt_init(&d->adapt, pipeline_workers(d->pipeline));
    d->sorter.level = d->is_auto ? d->adapt.level : start->level;
    d->sorter.probe_each = d->is_auto ? PROBE_EACH : 0;
    return d;
}

void sender_free(struct sender *d)
{
    if (!d)
        return;
    pipeline_free(d->pipeline);
    for (unsigned i = 0; i < d->packer_count; i++)
        packer_fini(&d->packers[i]);
    free(d->packers);
    sorter_fini(&d->sorter);
    XXH3_freeState(d->digest);
    free(d);
}

int send_stream(struct sender *d, struct session *s, struct page_source *source, struct ha_err *err)
{
    d->session = d->sorter.session = s;
    d->source = source;
    s->on_ack = follow;
    s->on_ack_user = d;
    if (s->lanes)
        tell(d);
    d->window_ns = now_ns();
    s->progress.level = (int8_t)d->sorter.level;
    s->is_listening_peer = true;
    int rc = send_setup(d, err);
    if (rc == 0)
        rc = send_loop(d, source, err);
    s->is_listening_peer = false;
    s->on_ack = NULL;
    return rc;
}
