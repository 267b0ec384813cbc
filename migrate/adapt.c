/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/adapt.h"

#include <stddef.h>
#include <string.h>

#define THOUSAND 1000u
/* A dearer level must promise this much more than a cheaper one. */
#define GAIN_MIN 30u /* per thousand */
/* Smaller blocks (a few deltas) say more of the cost of a call than of the codec's rate. */
#define BLOCK_MIN 16384u
#define BLOCK_MAX 16777216u
/* A block that took longer tells of a machine that stood still. */
#define BUSY_MAX_NS 1000000000u

/* In order of cost, relative to level 1, per thousand: speed, and how much of the saving. Measured
 * on binaries, sources and heaps in groups of 256 KiB; the guest's own ratio scales them. What
 * lies above 3 saves a few per cent for twice the work. */
static const struct {
    int level;
    uint32_t speed;
    uint32_t saving;
} levels[] = {{0, 0, 0}, {-3, 1300, 820}, {1, 1000, 1000}, {3, 600, 1050}};

#define LEVEL_COUNT (sizeof(levels) / sizeof(levels[0]))

void adapt_init(struct adapt *a, uint32_t workers)
{
    memset(a, 0, sizeof(*a));
    a->workers = workers;
    a->level = workers > 0 ? 1 : 0; /* until the link shows what it takes */
}

static size_t find(int level)
{
    for (size_t i = 0; i < LEVEL_COUNT; i++)
        if (levels[i].level == level)
            return i;
    return 2; /* level 1 */
}

/* A sum in which what is old counts ever less. */
static void fade(uint64_t *sum, uint64_t value)
{
    *sum += value - *sum / 16;
}

void adapt_codec(struct adapt *a, int level, uint64_t raw_bytes, uint64_t packed_bytes,
                 uint64_t busy_ns)
{
    size_t at = find(level);

    if (level == 0 || busy_ns == 0 || busy_ns > BUSY_MAX_NS || packed_bytes == 0 ||
        raw_bytes < packed_bytes || raw_bytes < BLOCK_MIN || raw_bytes > BLOCK_MAX)
        return;
    uint64_t saving = (raw_bytes * THOUSAND / packed_bytes - THOUSAND) * THOUSAND;
    fade(&a->raw_bytes, raw_bytes);
    fade(&a->packed_bytes, raw_bytes * THOUSAND / (THOUSAND + saving / levels[at].saving));
    fade(&a->busy_ns, busy_ns * levels[at].speed / THOUSAND);
}

/* Bytes/s of one worker at level 1; 0: not known. */
static uint64_t codec_rate(const struct adapt *a)
{
    return a->busy_ns > 0 ? a->raw_bytes * 1000000000u / a->busy_ns : 0;
}

/* Raw bytes for 1000 packed ones at level 1. */
static uint64_t ratio_of(const struct adapt *a)
{
    uint64_t packed = a->packed_bytes > 0 ? a->packed_bytes : 1;
    uint64_t ratio = a->raw_bytes * THOUSAND / packed;

    return ratio > THOUSAND ? ratio : THOUSAND;
}

static void see_link(struct adapt *a, const struct adapt_sample *sample)
{
    uint64_t lost = sample->starved_us < sample->wall_us ? sample->starved_us : sample->wall_us;
    uint64_t busy_us = sample->wall_us - lost;

    /* Mostly waiting for the guest's pages: that says nothing about the link. */
    if (busy_us == 0 || busy_us < sample->wall_us / 2)
        return;
    uint64_t rate = sample->wire_bytes * 1000000u / busy_us;
    /* It took what it could. On a crowded machine writing is slow, too, where the workers are the
     * limit: believing that would make them ever slower. */
    bool is_full = sample->blocked_us >= busy_us / 4 && sample->blocked_us > sample->codec_us;
    bool was_known = a->is_known;
    a->is_known = a->is_known || is_full;
    if (is_full)
        a->link_rate = was_known ? a->link_rate / 2 + rate / 2 : rate;
    else if (rate > a->link_rate)
        a->link_rate = rate;
    else if (a->level != 0) /* the workers are the limit: let us find out what the link's is */
        a->link_rate += a->link_rate / (a->is_known ? 16 : 2);
}

/* Raw bytes/s that a level promises. */
static uint64_t promise(const struct adapt *a, size_t at)
{
    uint64_t ratio = THOUSAND + (ratio_of(a) - THOUSAND) * levels[at].saving / THOUSAND;
    uint64_t by_link = a->link_rate * ratio / THOUSAND;

    if (levels[at].level == 0)
        return a->link_rate;
    uint64_t by_codec = codec_rate(a) * levels[at].speed / THOUSAND * a->workers;
    return by_codec < by_link ? by_codec : by_link;
}

void adapt_step(struct adapt *a, const struct adapt_sample *sample)
{
    size_t best = 0;

    see_link(a, sample);
    if (a->workers == 0 || a->busy_ns == 0 || a->link_rate == 0)
        return;
    for (size_t i = 1; i < LEVEL_COUNT; i++)
        if (promise(a, i) > promise(a, best) + promise(a, best) * GAIN_MIN / THOUSAND)
            best = i;
    a->level = levels[best].level;
}

uint64_t adapt_codec_rate(const struct adapt *a)
{
    return codec_rate(a) * a->workers;
}

uint64_t adapt_link_rate(const struct adapt *a)
{
    return a->link_rate;
}
