/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_SLOTS 512u /* 2 MiB at a time: one call, one huge page where the kernel likes */
#define AHEAD_SLOTS 128u
#define PAGE        4096u

int arena_init(struct arena *a, uint32_t slot_count, struct ha_err *err)
{
    memset(a, 0, sizeof(*a));
    if (slot_count == 0)
        return 0;
    a->base = mmap(NULL, (size_t)slot_count * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->base == MAP_FAILED) {
        a->base = NULL;
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory for a cache of %u pages: %s",
                          (unsigned)slot_count, strerror(errno));
    }
    a->slot_count = slot_count;
    return 0;
}

void arena_fini(struct arena *a)
{
    if (a->base)
        (void)munmap(a->base, (size_t)a->slot_count * PAGE);
    memset(a, 0, sizeof(*a));
}

static void populate(struct arena *a, uint32_t most)
{
    uint32_t left = a->slot_count - a->present;
    uint32_t count = left < most ? left : most;

    /* A kernel before 5.14 does not know it: then the first write of each page does the same. */
    (void)madvise(arena_slot(a, a->present), (size_t)count * PAGE, MADV_POPULATE_WRITE);
    a->present += count;
}

void arena_prepare(struct arena *a, uint32_t slot)
{
    while (a->present <= slot && a->present < a->slot_count)
        populate(a, CHUNK_SLOTS);
}

bool arena_ahead(struct arena *a)
{
    if (a->present == a->slot_count)
        return false;
    populate(a, AHEAD_SLOTS);
    return true;
}
