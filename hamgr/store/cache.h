/* SPDX-License-Identifier: Apache-2.0
 *
 * What the loop reads without touching the disk: all definitions by digest, and the newest lines of
 * history. Owned by the loop's thread.
 */
#ifndef HAMGR_STORE_CACHE_H
#define HAMGR_STORE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/digest.h"

#define CACHE_HISTORY_LINES 20000u
#define CACHE_HISTORY_BYTES (16u * 1024u * 1024u)

struct cache_definition {
    struct cache_definition *next; /* in its bucket */
    struct ha_digest digest;
    bool is_stored; /* on disk, or queued to be */
    size_t size;
    uint8_t data[];
};

struct cache_line {
    uint64_t index;
    char json[];
};

/* Zero-initialised is empty. */
struct cache {
    struct cache_definition *buckets[4096];
    struct cache_line *lines[CACHE_HISTORY_LINES]; /* a ring */
    uint32_t first;
    uint32_t line_count;
    size_t line_bytes;
    uint64_t newest; /* highest index of a line ever added */
};

/* Finds or adds (a copy, not stored yet). Borrowed until cache_clear; NULL without memory. */
struct cache_definition *cache_put(struct cache *cache, struct ha_digest digest,
                                   const uint8_t *data, size_t size);
const struct cache_definition *cache_get(const struct cache *cache, struct ha_digest digest);
/* Only these are still on disk. */
void cache_mark_stored(struct cache *cache, const struct ha_digest *digests, uint32_t count);
/* Adds a line, dropping the oldest beyond the bounds. */
void cache_add_line(struct cache *cache, uint64_t index, const char *json);
/* See store_history_read. */
int cache_read_lines(const struct cache *cache, uint64_t after, uint32_t count,
                     void (*fn)(void *user, uint64_t index, const char *json), void *user);
void cache_clear(struct cache *cache);

#endif
