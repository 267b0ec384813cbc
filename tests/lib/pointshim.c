/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into hamgrd: holds its loop at a chosen line of its log, so that a test can strike at
 * exactly that step of a migration. HAMGR_POINTS names a small file, mapped: the test writes a
 * piece of the line and arms the point; the loop waits there until it is released.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <qb/qblog.h>

#define LINE_MAX_ 512u
/* ms: below half a lease of the tests' clusters, or the hold itself would cost the node its place.
 */
#define HELD_MAX 1700u

/* The file; little-endian, as its writer packs it. */
struct point {
    volatile uint32_t is_armed;
    volatile uint32_t is_held; /* set here, cleared by the test to let go on */
    volatile uint32_t hits;
    uint32_t reserved;
    char text[112];
};

static struct point none;
static struct point *point = &none;
static void (*real_log)(struct qb_log_callsite *, va_list);

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("HAMGR_POINTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    /* A data pointer can't be assigned to a function pointer. */
    *(void **)&real_log = dlsym(RTLD_NEXT, "qb_log_real_va_");
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof(*point), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        point = page;
    close(fd);
}

static void hold(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    point->is_armed = 0;
    point->is_held = 1;
    point->hits = point->hits + 1;
    for (unsigned ms = 0; ms < HELD_MAX && point->is_held; ms++)
        nanosleep(&pause, NULL);
}

void qb_log_real_(struct qb_log_callsite *site, ...)
{
    char line[LINE_MAX_];
    va_list args, copy;

    va_start(args, site);
    va_copy(copy, args);
    if (real_log)
        real_log(site, args);
    if (point->is_armed && point->text[0] != '\0') {
        vsnprintf(line, sizeof(line), site->format, copy);
        if (strstr(line, point->text))
            hold();
    }
    va_end(copy);
    va_end(args);
}
