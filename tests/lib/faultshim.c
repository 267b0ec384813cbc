/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a program under test: on order its disk stalls or fails when asked to make things
 * durable, and its wall clock is wrong, or tells of a suspend. Orders come through a small file,
 * mapped (HAMGR_FAULTS names it), so that a call costs nothing while there are none.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
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
    volatile uint32_t failed;       /* calls that failed on order */
    volatile uint32_t wrong_wall;   /* answers with a wrong wall clock */
    volatile uint32_t wrong_slept;  /* answers that tell of a suspend */
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

static void count(volatile uint32_t *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

/* Waits out a stall; true when the call shall fail. */
static bool heed(void)
{
    const struct timespec pause = {.tv_nsec = 5000000};

    if (orders->sync == SYNC_STALL) {
        count(&orders->stalled);
        while (orders->sync == SYNC_STALL)
            nanosleep(&pause, NULL);
    }
    if (orders->sync != SYNC_FAIL)
        return false;
    count(&orders->failed);
    return true;
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
    bool is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;

    if (rc == 0 && is_wall && orders->wall_offset_s != 0) {
        ret->tv_sec += orders->wall_offset_s;
        count(&orders->wrong_wall);
    }
    if (rc == 0 && clock == CLOCK_BOOTTIME && orders->slept_s != 0) {
        ret->tv_sec += orders->slept_s;
        count(&orders->wrong_slept);
    }
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
