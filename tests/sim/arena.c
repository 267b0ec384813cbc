/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hamgr/base/assert.h"

#define ZONE_BYTES  ((size_t)32 << 20)
#define ARENA_BYTES (ZONES * ZONE_BYTES)
#define ARENAS_MAX  64u
#define CLASSES     24u /* sizes 32, 64, ... */
#define LARGE       ((size_t)32 << 10)
#define PAGE        ((size_t)4096)
#define WIPE_MAX    ((size_t)256 << 10) /* so much is wiped without asking what was touched */
#define KEEP_MAX    ((size_t)2 << 20)   /* above that it is cheaper to give the pages back */

/* A process dies and starts again some dozen times in a seed, and page faults are dear. So what
 * must be zeros is wiped and keeps its pages. Of large blocks nobody ever touches the most: there
 * only the pages that exist are wiped. What was asked for as it comes stays as it is. */
enum zone_kind { ZONE_SMALL = 0, ZONE_ZERO, ZONE_RAW, ZONES };

struct block {
    size_t size; /* usable bytes */
    struct block *next;
};

struct zone {
    size_t used; /* of memory */
    struct block *free[CLASSES];
    uint8_t *memory;
};

struct sim_arena {
    struct zone zones[ZONES];
};

static struct sim_arena arenas[ARENAS_MAX];
static uint32_t arena_count;
static uint8_t *all;
static struct sim_arena *current;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *block);

struct sim_arena *sim_arena_new(void)
{
    if (!all) {
        all = mmap(NULL, ARENA_BYTES * ARENAS_MAX, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        ha_assert(all != MAP_FAILED);
    }
    ha_assert(arena_count < ARENAS_MAX);
    struct sim_arena *arena = &arenas[arena_count];
    for (unsigned i = 0; i < ZONES; i++)
        arena->zones[i].memory = all + ARENA_BYTES * arena_count + ZONE_BYTES * i;
    arena_count++;
    return arena;
}

void sim_arena_use(struct sim_arena *arena)
{
    current = arena;
}

/* False if there are too many of them, or the kernel does not say. */
static bool wipe_touched(const struct zone *zone)
{
    static unsigned char is_there[ZONE_BYTES / PAGE];
    size_t pages = (zone->used + PAGE - 1) / PAGE, count = 0;

    if (mincore(zone->memory, pages * PAGE, is_there) < 0)
        return false;
    for (size_t i = 0; i < pages; i++)
        count += is_there[i] & 1u;
    if (count > KEEP_MAX / PAGE)
        return false;
    for (size_t i = 0, end; i < pages; i = end + 1) { /* nearly all lie together */
        for (end = i; end < pages && (is_there[end] & 1u); end++)
            ;
        if (end > i)
            memset(zone->memory + i * PAGE, 0, (end - i) * PAGE);
    }
    return true;
}

static void make_zero(const struct zone *zone)
{
    if (zone->used <= WIPE_MAX)
        memset(zone->memory, 0, zone->used);
    else if (!wipe_touched(zone))
        madvise(zone->memory, zone->used, MADV_DONTNEED);
}

void sim_arena_clear(struct sim_arena *arena)
{
    for (unsigned i = 0; i < ZONES; i++) {
        struct zone *zone = &arena->zones[i];
        if (i != ZONE_RAW)
            make_zero(zone);
        zone->used = 0;
        memset(zone->free, 0, sizeof(zone->free));
    }
}

static unsigned class_of(size_t size)
{
    return size <= 32 ? 0 : 59 - (unsigned)__builtin_clzl(size - 1);
}

/* large: the zone of a large block. *ret_is_zero: its memory was never touched before. */
static void *take(struct sim_arena *arena, size_t size, enum zone_kind large, bool *ret_is_zero)
{
    unsigned class = class_of(size);
    struct zone *zone = &arena->zones[size >= LARGE ? large : ZONE_SMALL];
    struct block *b = zone->free[class];

    *ret_is_zero = b == NULL;
    if (b) {
        zone->free[class] = b->next;
        return (uint8_t *)b + 64;
    }
    size_t whole = ((size_t)32 << class) + 64; /* the head, kept apart so that blocks align to 64 */
    whole = (whole + 63) / 64 * 64;
    ha_assert(zone->used + whole <= ZONE_BYTES);
    b = (struct block *)(void *)(zone->memory + zone->used);
    zone->used += whole;
    b->size = (size_t)32 << class;
    return (uint8_t *)b + 64;
}

static struct block *head_of(void *data)
{
    return (struct block *)(void *)((uint8_t *)data - 64);
}

static bool is_ours(const void *data)
{
    return all && (const uint8_t *)data >= all &&
           (const uint8_t *)data < all + ARENA_BYTES * ARENAS_MAX;
}

void *__wrap_malloc(size_t size)
{
    bool is_zero;

    return current ? take(current, size, ZONE_RAW, &is_zero) : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    bool is_zero;

    if (!current)
        return __real_calloc(count, size);
    void *data = take(current, count * size, ZONE_ZERO, &is_zero);
    if (!is_zero)
        memset(data, 0, count * size);
    return data;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    bool is_zero;

    ha_assert(!current || alignment <= 64);
    return current ? take(current, size, ZONE_RAW, &is_zero)
                   : __real_aligned_alloc(alignment, size);
}

void __wrap_free(void *data)
{
    if (!is_ours(data)) {
        __real_free(data);
        return;
    }
    size_t at = (size_t)((uint8_t *)data - all);
    struct zone *zone = &arenas[at / ARENA_BYTES].zones[at % ARENA_BYTES / ZONE_BYTES];
    struct block *b = head_of(data);
    unsigned class = class_of(b->size);
    b->next = zone->free[class];
    zone->free[class] = b;
}

void *__wrap_realloc(void *old, size_t size)
{
    bool is_zero;

    if (!current && !is_ours(old))
        return __real_realloc(old, size);
    if (old && head_of(old)->size >= size)
        return old;
    void *data = take(current, size, ZONE_RAW, &is_zero);
    if (old) {
        memcpy(data, old, head_of(old)->size);
        __wrap_free(old);
    }
    return data;
}
