/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hamgr/base/assert.h"

#define ARENA_BYTES ((size_t)96 << 20)
#define ARENAS_MAX  64u
#define CLASSES     24u /* sizes 32, 64, ... */

struct block {
    size_t size; /* usable bytes */
    struct block *next;
};

struct sim_arena {
    size_t used; /* of memory */
    struct block *free[CLASSES];
    uint8_t *memory;
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
    arena->memory = all + ARENA_BYTES * arena_count++;
    return arena;
}

void sim_arena_use(struct sim_arena *arena)
{
    current = arena;
}

void sim_arena_clear(struct sim_arena *arena)
{
    if (arena->used > 0)
        madvise(arena->memory, arena->used, MADV_DONTNEED);
    arena->used = 0;
    memset(arena->free, 0, sizeof(arena->free));
}

static unsigned class_of(size_t size)
{
    unsigned class = 0;

    while (((size_t)32 << class) < size)
        class ++;
    return class;
}

/* *ret_is_zero: its memory was never touched before. */
static void *take(struct sim_arena *arena, size_t size, bool *ret_is_zero)
{
    unsigned class = class_of(size);
    struct block *b = arena->free[class];

    *ret_is_zero = b == NULL;
    if (b) {
        arena->free[class] = b->next;
        return (uint8_t *)b + 64;
    }
    size_t whole = ((size_t)32 << class) + 64; /* the head, kept apart so that blocks align to 64 */
    whole = (whole + 63) / 64 * 64;
    ha_assert(arena->used + whole <= ARENA_BYTES);
    b = (struct block *)(void *)(arena->memory + arena->used);
    arena->used += whole;
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

    return current ? take(current, size, &is_zero) : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    bool is_zero;

    if (!current)
        return __real_calloc(count, size);
    void *data = take(current, count * size, &is_zero);
    if (!is_zero)
        memset(data, 0, count * size);
    return data;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    bool is_zero;

    ha_assert(!current || alignment <= 64);
    return current ? take(current, size, &is_zero) : __real_aligned_alloc(alignment, size);
}

void __wrap_free(void *data)
{
    if (!is_ours(data)) {
        __real_free(data);
        return;
    }
    struct sim_arena *arena = &arenas[(size_t)((uint8_t *)data - all) / ARENA_BYTES];
    struct block *b = head_of(data);
    unsigned class = class_of(b->size);
    b->next = arena->free[class];
    arena->free[class] = b;
}

void *__wrap_realloc(void *old, size_t size)
{
    bool is_zero;

    if (!current && !is_ours(old))
        return __real_realloc(old, size);
    if (old && head_of(old)->size >= size)
        return old;
    void *data = take(current, size, &is_zero);
    if (old) {
        memcpy(data, old, head_of(old)->size);
        __wrap_free(old);
    }
    return data;
}
