/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "migrate/present.h"

#define CHUNK_SLOTS 512u /* 2 MiB at a time: one call, one huge page where the kernel likes */
#define AHEAD_SLOTS 128u
#define PAGE        4096u
/* Of processor time for a page. Half a microsecond to three are usual, also in a virtual machine;
 * in a paravirtual one, or where all is emulated, 40 were measured. */
#define DEAR_NS 20000u
/* So many in a row: a host that must find memory for its virtual machine is slow once. */
#define DEAR_TIMES 4u

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

/* What this thread used of a processor: who preempts it does not count. */
static uint64_t used_ns(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void populate(struct arena *a, uint32_t most)
{
    uint32_t left = a->slot_count - a->present;
    uint32_t count = left < most ? left : most;
    uint64_t begin_ns = used_ns();

    if (count > 0)
        make_present(arena_slot(a, a->present), (size_t)count * PAGE);
    a->present += count;
    arena_judge(a, count, used_ns() - begin_ns);
}

void arena_judge(struct arena *a, uint32_t count, uint64_t ns)
{
    bool is_dear = count > 0 && ns / count > DEAR_NS;

    a->dear_times = is_dear ? a->dear_times + 1 : 0;
    a->is_dear = a->dear_times >= DEAR_TIMES;
}

bool arena_is_settled(const struct arena *a)
{
    return a->is_dear || a->present == a->slot_count;
}

void arena_prepare(struct arena *a, uint32_t slot)
{
    while (a->present <= slot && a->present < a->slot_count)
        populate(a, CHUNK_SLOTS);
}

bool arena_ahead(struct arena *a)
{
    if (arena_is_settled(a))
        return false;
    populate(a, AHEAD_SLOTS);
    return true;
}
