/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/pack.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "migrate/delta.h"

/* Never written: what zero pages point to. A group's worth, so that neighbours are neighbours. */
static uint8_t zeros[FRAME_RAW_MAX];

int packer_init(struct packer *p, int level, bool is_sender, const struct arena *arena,
                struct ha_err *err)
{
    memset(p, 0, sizeof(*p));
    p->arena = arena;
    p->form = simd_best();
    p->codec = codec_new(level);
    p->deltas = is_sender ? malloc(FRAME_GROUP_PAGES * FRAME_DELTA_MAX) : NULL;
    if (p->codec && (p->deltas || !is_sender))
        return 0;
    packer_fini(p);
    return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
}

void packer_fini(struct packer *p)
{
    codec_free(p->codec);
    free(p->deltas);
    memset(p, 0, sizeof(*p));
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the sender's ---- */

static void encode(struct packer *p, struct unit *unit, bool is_page_data)
{
    codec_set_level(p->codec, unit->level);
    if (unit->level == 0 || unit->in_size == 0)
        return;
    uint64_t start = now_ns();
    unit->out_size =
        codec_encode(p->codec, unit->in, unit->in_size, unit->out, UNIT_BUFFER, is_page_data);
    unit->codec = unit->out_size > 0 ? FRAME_ZSTD : FRAME_STORE;
    if (!codec_has_tried(p->codec))
        return;
    unit->busy_ns = now_ns() - start;
    unit->tried = unit->in_size;
    unit->packed = unit->out_size > 0 ? unit->out_size : unit->in_size;
}

/* One page that has a slot: a delta if that is short, else content that the slot keeps. Returns the
 * size of the delta, or 0. */
static size_t settle(struct packer *p, uint8_t *kind, uint32_t slot, const uint8_t *page,
                     uint8_t *dst)
{
    uint8_t *base = arena_slot(p->arena, slot);
    size_t size = 0;

    if (*kind == FRAME_DELTA)
        size = delta_encode(p->form, base, page, dst, FRAME_DELTA_MAX);
    if (size == 0) {
        *kind = FRAME_KEEP;
        memcpy(base, page, FRAME_PAGE_SIZE);
    }
    return size;
}

void pack_settle(struct packer *p, struct unit *unit)
{
    struct frame_pages *m = &unit->pages;
    size_t used = 0;

    for (uint32_t i = 0; i < unit->place_count; i++) {
        uint8_t *page = unit->in + (size_t)i * FRAME_PAGE_SIZE;
        uint8_t *kind = &m->kind[unit->place_index[i]];
        uint32_t slot = unit->place_slot[i];
        size_t size = 0;
        if (slot != UNIT_NO_SLOT) {
            size = settle(p, kind, slot, page, p->deltas + used);
            m->slot[m->slot_count++] = slot;
        }
        used += size;
        m->delta_count += size > 0 ? 1u : 0u;
        if (size == 0 && m->full_count++ != i)
            memcpy(unit->in + (size_t)(m->full_count - 1) * FRAME_PAGE_SIZE, page, FRAME_PAGE_SIZE);
    }
    unit->in_size = (size_t)m->full_count * FRAME_PAGE_SIZE;
    memcpy(unit->in + unit->in_size, p->deltas, used);
    unit->in_size += used;
    m->raw_size = (uint32_t)unit->in_size;
    m->delta_size = (uint32_t)used;
    unit->is_settled = true;
}

static void pack_entries(struct packer *p, struct unit *unit)
{
    unit->out_size = frame_runs_encode(unit->in, unit->count, unit->out, unit->in_size / 4);
    if (unit->out_size > 0)
        unit->codec = FRAME_RUNS;
    else
        encode(p, unit, false);
}

void pack_unit(void *packer, struct unit *unit)
{
    struct packer *p = packer;

    switch (unit->type) {
    case FRAME_PAGES:
        if (!unit->is_settled)
            pack_settle(p, unit);
        encode(p, unit, true);
        break;
    case FRAME_BATCH:
        pack_entries(p, unit);
        break;
    default:
        encode(p, unit, false);
        break;
    }
}

/* ---- the receiver's ---- */

static int unpack_delta(struct packer *p, uint32_t slot, const uint8_t **at, const uint8_t *end,
                        struct ha_err *err)
{
    size_t used = 0;
    int rc = delta_apply(arena_slot(p->arena, slot), *at, (size_t)(end - *at), &used, err);

    *at += used;
    return rc;
}

/* Where each page of the group is, once its bytes are there; the cache follows. */
static int place_pages(struct packer *p, struct unit *unit, const uint8_t *data, struct ha_err *err)
{
    const struct frame_pages *m = &unit->pages;
    const uint8_t *delta = data + (size_t)m->full_count * FRAME_PAGE_SIZE;
    const uint8_t *end = data + m->raw_size;
    uint32_t slots = 0, zero_count = 0;
    int rc = 0;

    for (uint32_t i = 0; i < m->count && rc == 0; i++) {
        uint32_t slot = m->kind[i] >= FRAME_KEEP ? m->slot[slots++] : 0;
        if (m->kind[i] == FRAME_ZERO) {
            unit->content[i] = zeros + (size_t)(zero_count++ % FRAME_GROUP_PAGES) * FRAME_PAGE_SIZE;
            continue;
        }
        if (m->kind[i] == FRAME_DELTA) {
            rc = unpack_delta(p, slot, &delta, end, err);
            unit->content[i] = arena_slot(p->arena, slot);
            continue;
        }
        unit->content[i] = data;
        if (m->kind[i] == FRAME_KEEP)
            memcpy(arena_slot(p->arena, slot), data, FRAME_PAGE_SIZE);
        data += FRAME_PAGE_SIZE;
    }
    if (rc == 0 && delta != end)
        rc = ha_err_set(err, HA_E_PEER, "bytes behind the last delta");
    return rc;
}

void unpack_unit(void *packer, struct unit *unit)
{
    struct packer *p = packer;
    const struct frame_pages *m = &unit->pages;
    const uint8_t *data = m->data;

    if (m->codec != FRAME_STORE) {
        data = unit->out;
        unit->rc = codec_decode(p->codec, m->codec, m->data, m->data_size, unit->out, m->raw_size,
                                &unit->err);
    }
    if (unit->rc == 0)
        unit->rc = place_pages(p, unit, data, &unit->err);
    for (uint32_t i = 0; unit->rc == 0 && p->secret && i < m->count; i++)
        unit->hashes[i] = m->kind[i] == FRAME_ZERO
                              ? (struct ha_digest){0, 0}
                              : simd_page_hash(p->form, unit->content[i], p->secret);
}
