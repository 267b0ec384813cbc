/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/probe.h"

#include <string.h>

#define PARTS 4u
/* Each quarter of what counts needs two samples at least, or it says nothing of its own. */
#define SAMPLES_MIN (2 * PARTS)

void probe_begin(struct probe_meter *m)
{
    memset(m, 0, sizeof(*m));
}

void probe_sample(struct probe_meter *m, uint64_t at_us, uint64_t bytes)
{
    if (!m->has_first) {
        m->has_first = true;
        m->first = bytes;
    }
    if (bytes - m->first < PROBE_BEGIN_BYTES || m->count == PROBE_SAMPLES)
        return;
    if (m->count > 0 && at_us < m->samples[m->count - 1].at_us + PROBE_SAMPLE_MS * 1000)
        return;
    m->samples[m->count].at_us = at_us;
    m->samples[m->count].bytes = bytes;
    m->count++;
}

static uint64_t lasted_us(const struct probe_meter *m)
{
    return m->count > 0 ? m->samples[m->count - 1].at_us - m->samples[0].at_us : 0;
}

/* The first sample that is not before at_us. */
static uint32_t index_at(const struct probe_meter *m, uint64_t at_us)
{
    uint32_t i = 0;

    while (i + 1 < m->count && m->samples[i].at_us < at_us)
        i++;
    return i;
}

/* 0: both are the same. */
static uint64_t rate_between(const struct probe_meter *m, uint32_t from, uint32_t to)
{
    uint64_t us = m->samples[to].at_us - m->samples[from].at_us;

    return us > 0 ? (m->samples[to].bytes - m->samples[from].bytes) * 1000000 / us : 0;
}

/* The samples at the ends of the quarters of what counts; false: there are too few. */
static bool divide(const struct probe_meter *m, uint32_t ret_ends[PARTS + 1])
{
    uint64_t us = lasted_us(m);

    if (m->count == 0)
        return false;
    uint64_t begin_us = m->samples[0].at_us + us / 3;
    for (uint32_t i = 0; i <= PARTS; i++)
        ret_ends[i] = index_at(m, begin_us + (us - us / 3) * i / PARTS);
    return ret_ends[PARTS] - ret_ends[0] >= SAMPLES_MIN;
}

static bool is_growing(const struct probe_meter *m)
{
    uint32_t ends[PARTS + 1];

    if (!divide(m, ends))
        return true;
    uint64_t before = rate_between(m, ends[PARTS - 2], ends[PARTS - 1]);
    uint64_t last = rate_between(m, ends[PARTS - 1], ends[PARTS]);
    return last > before + before / 4;
}

bool probe_is_enough(const struct probe_meter *m)
{
    uint64_t us = lasted_us(m);

    if (us >= PROBE_MAX_MS * 1000 || m->count == PROBE_SAMPLES)
        return true;
    return us >= PROBE_MS * 1000 && !is_growing(m);
}

bool probe_result(const struct probe_meter *m, struct probe_rate *ret_rate)
{
    uint32_t ends[PARTS + 1];

    if (!divide(m, ends))
        return false;
    ret_rate->bytes_s = rate_between(m, ends[0], ends[PARTS]);
    ret_rate->low_bytes_s = ret_rate->high_bytes_s = ret_rate->bytes_s;
    for (uint32_t i = 0; i < PARTS; i++) {
        uint64_t part = rate_between(m, ends[i], ends[i + 1]);
        if (ends[i] == ends[i + 1])
            continue;
        if (part < ret_rate->low_bytes_s)
            ret_rate->low_bytes_s = part;
        if (part > ret_rate->high_bytes_s)
            ret_rate->high_bytes_s = part;
    }
    return ret_rate->bytes_s > 0;
}
