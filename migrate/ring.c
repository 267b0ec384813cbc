/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "migrate/present.h"

#define PAGE      4096u
#define SEALS     (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define WAIT_MS   100 /* one futex sleep: a consumer that died must not hold us longer */
#define ROUND(x)  (((x) + PAGE - 1) & ~(size_t)(PAGE - 1))
#define SLOT_HEAD PAGE

/* The layout of STREAM.md, section 6. */
struct ring_page {
    uint32_t magic;
    uint32_t version;
    uint32_t slot_count;
    uint32_t slot_pages;
    uint64_t slot_size;
    uint8_t reserved[40];
    _Atomic uint32_t head; /* offset 64 */
    uint8_t line1[60];
    _Atomic uint32_t tail; /* offset 128 */
};

struct ring_slot {
    uint64_t batch;
    uint32_t count;
    uint32_t data_count;
};

_Static_assert(offsetof(struct ring_page, head) == 64, "layout of STREAM.md");
_Static_assert(offsetof(struct ring_page, tail) == 128, "layout of STREAM.md");

struct ring {
    uint8_t *base;
    size_t size;
    uint32_t slot_count; /* read once, from here on ours */
    uint32_t slot_pages;
    uint64_t next; /* batch to be taken or filled next */
    uint8_t entries[8 * RING_PAGES_MAX];
};

static struct ring_page *page_of(const struct ring *ring)
{
    return (struct ring_page *)(void *)ring->base;
}

static size_t slot_size(uint32_t pages)
{
    return SLOT_HEAD + ROUND(8 * (size_t)pages) + PAGE * (size_t)pages;
}

static uint8_t *slot_at(const struct ring *ring, uint64_t batch)
{
    return ring->base + PAGE + (batch % ring->slot_count) * slot_size(ring->slot_pages);
}

static uint8_t *pages_of(const struct ring *ring, uint8_t *slot)
{
    return slot + SLOT_HEAD + ROUND(8 * (size_t)ring->slot_pages);
}

static bool is_geometry(uint32_t slots, uint32_t pages)
{
    return slots > 0 && slots <= RING_SLOTS_MAX && (slots & (slots - 1)) == 0 && pages > 0 &&
           pages <= RING_PAGES_MAX;
}

static struct ring *map(int fd, uint32_t slots, uint32_t pages, struct ha_err *err)
{
    struct ring *ring = calloc(1, sizeof(*ring));

    if (!ring) {
        ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        return NULL;
    }
    ring->slot_count = slots;
    ring->slot_pages = pages;
    ring->size = PAGE + slots * slot_size(pages);
    ring->base = mmap(NULL, ring->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ring->base == MAP_FAILED) {
        ha_err_set(err, errno, "ring: %s", strerror(errno));
        free(ring);
        return NULL;
    }
    return ring;
}

struct ring *ring_create(uint32_t slots, uint32_t pages, int *ret_fd, struct ha_err *err)
{
    if (!is_geometry(slots, pages)) {
        ha_err_set(err, HA_E_USAGE, "ring: %u slots of %u pages", (unsigned)slots, (unsigned)pages);
        return NULL;
    }
    int fd = memfd_create("hamgr-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)(PAGE + slots * slot_size(pages))) < 0 ||
        fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        ha_err_set(err, errno, "ring: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct ring *ring = map(fd, slots, pages, err);
    if (!ring) {
        close(fd);
        return NULL;
    }
    struct ring_page *page = page_of(ring);
    page->magic = RING_MAGIC;
    page->version = RING_VERSION;
    page->slot_count = slots;
    page->slot_pages = pages;
    page->slot_size = slot_size(pages);
    *ret_fd = fd;
    return ring;
}

struct ring *ring_map(int fd, struct ha_err *err)
{
    struct ring_page head;
    struct stat info;

    if ((fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) ||
        fstat(fd, &info) < 0 || pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head)) {
        ha_err_set(err, HA_E_CORRUPT, "ring: not a sealed memfd");
        return NULL;
    }
    if (head.magic != RING_MAGIC || head.version != RING_VERSION ||
        !is_geometry(head.slot_count, head.slot_pages) ||
        head.slot_size != slot_size(head.slot_pages) ||
        (uint64_t)info.st_size != PAGE + head.slot_count * head.slot_size) {
        ha_err_set(err, HA_E_CORRUPT, "ring: unknown version or impossible geometry");
        return NULL;
    }
    return map(fd, head.slot_count, head.slot_pages, err);
}

void ring_free(struct ring *ring)
{
    if (!ring)
        return;
    munmap(ring->base, ring->size);
    free(ring);
}

int ring_take(struct ring *ring, uint64_t batch, uint32_t slot, struct ring_batch *ret_batch,
              struct ha_err *err)
{
    struct ring_page *page = page_of(ring);
    uint32_t tail = atomic_load_explicit(&page->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&page->head, memory_order_acquire);
    struct ring_slot copy;

    if (batch != ring->next || slot != batch % ring->slot_count || tail != (uint32_t)batch)
        return ha_err_set(err, HA_E_CORRUPT, "ring: marker for batch %llu, %llu is due",
                          (unsigned long long)batch, (unsigned long long)ring->next);
    if (head - tail == 0 || head - tail > ring->slot_count)
        return ha_err_set(err, HA_E_CORRUPT, "ring: batch %llu is not published",
                          (unsigned long long)batch);
    uint8_t *at = slot_at(ring, batch);
    memcpy(&copy, at, sizeof(copy));
    if (copy.batch != batch || copy.count == 0 || copy.count > ring->slot_pages ||
        copy.data_count > copy.count)
        return ha_err_set(err, HA_E_CORRUPT, "ring: malformed slot of batch %llu",
                          (unsigned long long)batch);
    memcpy(ring->entries, at + SLOT_HEAD, 8 * (size_t)copy.count);
    ret_batch->count = copy.count;
    ret_batch->data_count = copy.data_count;
    ret_batch->entries = ring->entries;
    ret_batch->pages = pages_of(ring, at);
    return 0;
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
    (void)syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

uint32_t ring_slot_pages(const struct ring *ring)
{
    return ring->slot_pages;
}

void ring_release(struct ring *ring)
{
    struct ring_page *page = page_of(ring);

    ring->next++;
    atomic_store_explicit(&page->tail, (uint32_t)ring->next, memory_order_release);
    futex(&page->tail, FUTEX_WAKE, INT32_MAX, NULL);
}

int ring_acquire(struct ring *ring, int timeout_ms, uint8_t **ret_entries, uint8_t **ret_pages,
                 uint64_t *ret_batch, uint32_t *ret_slot)
{
    struct ring_page *page = page_of(ring);
    int step_ms = timeout_ms < WAIT_MS ? timeout_ms : WAIT_MS;
    struct timespec nap = {.tv_nsec = step_ms * 1000000L};

    for (int waited = 0;; waited += step_ms) {
        uint32_t tail = atomic_load_explicit(&page->tail, memory_order_acquire);
        if ((uint32_t)ring->next - tail < ring->slot_count)
            break;
        if (waited >= timeout_ms)
            return -HA_E_TIMEOUT;
        futex(&page->tail, FUTEX_WAIT, tail, &nap);
    }
    uint8_t *at = slot_at(ring, ring->next);
    if (ring->next < ring->slot_count) /* its first use */
        make_present(at, slot_size(ring->slot_pages));
    *ret_entries = at + SLOT_HEAD;
    *ret_pages = pages_of(ring, at);
    *ret_batch = ring->next;
    *ret_slot = (uint32_t)(ring->next % ring->slot_count);
    return 0;
}

void ring_publish(struct ring *ring, uint32_t count, uint32_t data_count)
{
    struct ring_slot head = {.batch = ring->next, .count = count, .data_count = data_count};

    memcpy(slot_at(ring, ring->next), &head, sizeof(head));
    ring->next++;
    atomic_store_explicit(&page_of(ring)->head, (uint32_t)ring->next, memory_order_release);
}
