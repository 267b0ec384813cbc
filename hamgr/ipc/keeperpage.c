/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading the page the keeper publishes. Readers never write to it and never wait for long: a
 * keeper killed between the two halves of an update leaves the sequence odd for ever, and then the
 * only safe answer is "there is no lease".
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hamgr/base/err.h"
#include "hamgr/ipc/keeperproto.h"

#define PAGE_SIZE_BYTES 4096u
#define PAGE_VERSION    1u
/* An update is four stores, some tens of ns. A writer that was preempted in between gets its turn
 * by sched_yield within the first tries; 1000 yields are at least 0.2 ms and far below P (250 ms).
 */
#define READ_TRIES 1000u

static const struct keeper_page *map_file(int fd, const char *path, struct ha_err *err)
{
    struct stat info;

    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode) || info.st_size < (off_t)PAGE_SIZE_BYTES) {
        ha_err_set(err, HA_E_CORRUPT, "%s is not a page of the keeper", path);
        return NULL;
    }
    void *memory = mmap(NULL, PAGE_SIZE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        ha_err_set(err, errno, "map %s: %s", path, strerror(errno));
        return NULL;
    }
    const struct keeper_page *page = memory;
    if (page->version != PAGE_VERSION) {
        ha_err_set(err, HA_E_VERSION, "%s has version %u, expected %u", path, page->version,
                   PAGE_VERSION);
        munmap(memory, PAGE_SIZE_BYTES);
        return NULL;
    }
    return page;
}

const struct keeper_page *keeper_page_map(struct ha_err *err)
{
    return keeper_page_map_at(KEEPER_PAGE, err);
}

const struct keeper_page *keeper_page_map_at(const char *path, struct ha_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0) {
        ha_err_set(err, errno, "open %s: %s", path, strerror(errno));
        return NULL;
    }
    const struct keeper_page *page = map_file(fd, path, err);
    close(fd);
    return page;
}

void keeper_page_unmap(const struct keeper_page *page)
{
    if (page)
        munmap((void *)(uintptr_t)page, PAGE_SIZE_BYTES);
}

struct keeper_lease_copy keeper_page_read(const struct keeper_page *page)
{
    for (unsigned i = 0; i < READ_TRIES; i++) {
        uint32_t before = atomic_load_explicit(&page->sequence, memory_order_acquire);
        struct keeper_lease_copy copy = {
            .lease_end_ns = atomic_load_explicit(&page->lease_end_ns, memory_order_relaxed),
            .lease_ms = atomic_load_explicit(&page->lease_ms, memory_order_relaxed),
            .is_quarantined =
                atomic_load_explicit(&page->is_quarantined, memory_order_relaxed) != 0,
            .is_armed = atomic_load_explicit(&page->is_armed, memory_order_relaxed) != 0};

        atomic_thread_fence(memory_order_acquire);
        if ((before & 1) == 0 &&
            before == atomic_load_explicit(&page->sequence, memory_order_relaxed))
            return copy;
        sched_yield();
    }
    return (struct keeper_lease_copy){.is_quarantined = true, .is_armed = true};
}
