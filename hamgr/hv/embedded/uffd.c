/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/embedded/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The system call needs CAP_SYS_PTRACE (unless vm.unprivileged_userfaultfd), the device node only
 * its permissions: try both. Faults taken inside the kernel must be caught too, so never
 * UFFD_USER_MODE_ONLY. */
static int open_raw(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0)
        return fd;
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -1;
    fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    close(device);
    return fd;
}

static int open_with(uint64_t features)
{
    int fd = open_raw();
    struct uffdio_api api = {.api = UFFD_API, .features = features};

    if (fd < 0)
        return -1;
    if (ioctl(fd, UFFDIO_API, &api) == 0 && (api.features & features) == features)
        return fd;
    close(fd);
    return -1;
}

/* A kernel without PAGEMAP_SCAN answers ENOTTY; one with it accepts the empty range. */
static bool has_scan(void)
{
    struct emb_scan_arg arg = {.size = sizeof(arg), .category_mask = EMB_PAGE_IS_WRITTEN};
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    bool is_there = ioctl(fd, EMB_PAGEMAP_SCAN, &arg) >= 0 || errno != ENOTTY;
    close(fd);
    return is_there;
}

int emb_uffd_open(bool is_sync, enum emb_tracking *ret_tracking)
{
    const uint64_t base = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
    int fd = -1;

    *ret_tracking = EMB_TRACK_ASYNC;
    if (!is_sync && has_scan())
        fd = open_with(base | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC);
    if (fd >= 0)
        return fd;
    *ret_tracking = EMB_TRACK_SYNC;
    fd = open_with(base);
    if (fd < 0)
        *ret_tracking = EMB_TRACK_NONE;
    return fd;
}

int emb_uffd_protect(int uffd, uint64_t start, uint64_t size, bool is_protected)
{
    struct uffdio_writeprotect arg = {
        .range = {.start = start, .len = size},
        .mode = is_protected ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
    };

    /* EAGAIN: the address space is changing; the guest's never changes for long. */
    for (int n = 0; n < 100; n++) {
        if (ioctl(uffd, UFFDIO_WRITEPROTECT, &arg) == 0)
            return 0;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    return -EAGAIN;
}
