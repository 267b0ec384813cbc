/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a program under test: on order its disk stalls or fails when asked to make things
 * durable, and its wall clock is wrong, or tells of a suspend. Orders come through a small file,
 * mapped (HAMGR_FAULTS names it), so that a call costs nothing while there are none.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum sync_order { SYNC_OK = 0, SYNC_STALL = 1, SYNC_FAIL = 2 };

/* The file; little-endian, as its writer packs it. */
struct orders {
    volatile uint32_t sync;         /* enum sync_order */
    volatile uint32_t stalled;      /* calls that waited, or wait */
    volatile int64_t wall_offset_s; /* added to CLOCK_REALTIME */
    volatile int64_t slept_s;       /* added to CLOCK_BOOTTIME: the host was suspended so long */
};

static struct orders none;
static struct orders *orders = &none;
static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

/* Copies a symbol's address: a data pointer can't be assigned to a function pointer. */
static void find(const char *name, void *ret_function)
{
    *(void **)ret_function = dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("HAMGR_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    find("clock_gettime", &real_clock);
    find("fsync", &real_fsync);
    find("fdatasync", &real_fdatasync);
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof(*orders), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        orders = page;
    close(fd);
}

/* Waits out a stall; true when the call shall fail. */
static int heed(void)
{
    const struct timespec pause = {.tv_nsec = 5000000};

    if (orders->sync == SYNC_STALL) {
        __atomic_add_fetch(&orders->stalled, 1, __ATOMIC_SEQ_CST);
        while (orders->sync == SYNC_STALL)
            nanosleep(&pause, NULL);
    }
    return orders->sync == SYNC_FAIL;
}

int fsync(int fd)
{
    if (heed()) {
        errno = EIO;
        return -1;
    }
    return real_fsync(fd);
}

int fdatasync(int fd)
{
    if (heed()) {
        errno = EIO;
        return -1;
    }
    return real_fdatasync(fd);
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
    int rc = real_clock(clock, ret);

    if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        ret->tv_sec += orders->wall_offset_s;
    if (rc == 0 && clock == CLOCK_BOOTTIME)
        ret->tv_sec += orders->slept_s;
    return rc;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec now;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    ret->tv_sec = now.tv_sec;
    ret->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (ret)
        *ret = now.tv_sec;
    return now.tv_sec;
}
