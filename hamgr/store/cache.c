/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/store/cache.h"

#include <stdlib.h>
#include <string.h>

static size_t bucket_of(const struct cache *cache, struct ha_digest digest)
{
    return digest.low % (sizeof(cache->buckets) / sizeof(cache->buckets[0]));
}

static struct cache_definition *find(const struct cache *cache, struct ha_digest digest)
{
    struct cache_definition *d = cache->buckets[bucket_of(cache, digest)];

    while (d && !ha_digest_equal(d->digest, digest))
        d = d->next;
    return d;
}

const struct cache_definition *cache_get(const struct cache *cache, struct ha_digest digest)
{
    return find(cache, digest);
}

struct cache_definition *cache_put(struct cache *cache, struct ha_digest digest,
                                   const uint8_t *data, size_t size)
{
    struct cache_definition *d = find(cache, digest);

    if (d)
        return d;
    d = malloc(sizeof(*d) + size);
    if (!d)
        return NULL;
    size_t bucket = bucket_of(cache, digest);
    d->next = cache->buckets[bucket];
    d->digest = digest;
    d->is_stored = false;
    d->size = size;
    if (size > 0)
        memcpy(d->data, data, size);
    cache->buckets[bucket] = d;
    return d;
}

void cache_mark_stored(struct cache *cache, const struct ha_digest *digests, uint32_t count)
{
    for (size_t i = 0; i < sizeof(cache->buckets) / sizeof(cache->buckets[0]); i++) {
        for (struct cache_definition *d = cache->buckets[i]; d; d = d->next)
            d->is_stored = false;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct cache_definition *d = find(cache, digests[i]);
        if (d)
            d->is_stored = true;
    }
}

static void drop_oldest(struct cache *cache)
{
    struct cache_line *line = cache->lines[cache->first];

    cache->line_bytes -= strlen(line->json);
    free(line);
    cache->lines[cache->first] = NULL;
    cache->first = (cache->first + 1) % CACHE_HISTORY_LINES;
    cache->line_count--;
}

void cache_add_line(struct cache *cache, uint64_t index, const char *json)
{
    size_t length = strlen(json);
    struct cache_line *line = malloc(sizeof(*line) + length + 1);

    if (!line)
        return;
    line->index = index;
    memcpy(line->json, json, length + 1);
    while (cache->line_count > 0 && (cache->line_count == CACHE_HISTORY_LINES ||
                                     cache->line_bytes + length > CACHE_HISTORY_BYTES))
        drop_oldest(cache);
    cache->lines[(cache->first + cache->line_count) % CACHE_HISTORY_LINES] = line;
    cache->line_count++;
    cache->line_bytes += length;
    if (index > cache->newest)
        cache->newest = index;
}

static const struct cache_line *line_at(const struct cache *cache, uint32_t position)
{
    return cache->lines[(cache->first + position) % CACHE_HISTORY_LINES];
}

int cache_read_lines(const struct cache *cache, uint64_t after, uint32_t count,
                     void (*fn)(void *user, uint64_t index, const char *json), void *user)
{
    uint32_t wanted = 0;
    uint32_t start = cache->line_count;
    int given = 0;

    while (start > 0 && wanted < count)
        wanted += line_at(cache, --start)->index > after ? 1 : 0;
    for (uint32_t i = start; i < cache->line_count; i++) {
        const struct cache_line *line = line_at(cache, i);
        if (line->index <= after)
            continue;
        fn(user, line->index, line->json);
        given++;
    }
    return given;
}

void cache_clear(struct cache *cache)
{
    for (size_t i = 0; i < sizeof(cache->buckets) / sizeof(cache->buckets[0]); i++) {
        while (cache->buckets[i]) {
            struct cache_definition *d = cache->buckets[i];
            cache->buckets[i] = d->next;
            free(d);
        }
    }
    while (cache->line_count > 0)
        drop_oldest(cache);
}
