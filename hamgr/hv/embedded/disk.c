/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver's side of embedded disks: makes a disk's files, proves it quiet, closes it.
 */
#include "hamgr/hv/embedded/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"

#define PATH_SIZE 512u
#define POLL_NS   1000000 /* 1 ms: a write takes storage some 0.1 ms when nothing is wrong */
/* A left-over of the same pair has no guest any more; the backend is at most looking at it. */
#define LEFTOVER_MS 100u
#define BELL_NAME   "bell"
#define SUFFIX_RING "ring"
#define SUFFIX_STAT "stat"

_Static_assert(sizeof(struct emb_disk_ring) <= EMB_DISK_RING_SIZE, "the ring fits its file");
_Static_assert(sizeof(struct emb_disk_stat) <= EMB_DISK_STAT_SIZE, "the stat page fits its file");

static int make_path(char *path, const char *dir, struct ha_uuid guest, uint64_t epoch,
                     const char *suffix, struct ha_err *err)
{
    char text[HA_UUID_TEXT];

    ha_uuid_format(guest, text);
    int length = snprintf(path, PATH_SIZE, "%s/%s.%" PRIu64 ".%s", dir, text, epoch, suffix);
    if (length < 0 || length >= (int)PATH_SIZE)
        return ha_err_set(err, ENAMETOOLONG, "disk path in %s is too long", dir);
    return 0;
}

/* A new file of `size` zero bytes at path; the fd, or a negative error. */
static int make_file(const char *path, off_t size, struct ha_err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd >= 0 && ftruncate(fd, size) == 0)
        return fd;
    int rc = ha_err_set(err, errno, "create %s: %s", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    return rc;
}

/* Maps the file at path; NULL and *ret_errno if it can't be (ENOENT: there is none). */
static void *map_path(const char *path, size_t size, int protection, int *ret_errno)
{
    int fd = open(path, (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
    struct stat info;

    if (fd < 0) {
        *ret_errno = errno;
        return NULL;
    }
    void *memory = MAP_FAILED;
    *ret_errno = EIO;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size >= (off_t)size) {
        memory = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
        *ret_errno = errno;
    }
    close(fd);
    return memory == MAP_FAILED ? NULL : memory;
}

static int open_bell(const char *dir, struct ha_err *err)
{
    char path[PATH_SIZE];
    int length = snprintf(path, sizeof(path), "%s/" BELL_NAME, dir);

    if (length < 0 || length >= (int)sizeof(path))
        return ha_err_set(err, ENAMETOOLONG, "disk path in %s is too long", dir);
    if (mkfifo(path, 0600) < 0 && errno != EEXIST)
        return ha_err_set(err, errno, "make %s: %s", path, strerror(errno));
    /* Read-write: opening works while no backend runs, and its death is no SIGPIPE for guests. */
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? ha_err_set(err, errno, "open %s: %s", path, strerror(errno)) : fd;
}

static int make_ring(const char *path, struct ha_err *err)
{
    int fd = make_file(path, EMB_DISK_RING_SIZE, err);
    const uint32_t head[2] = {EMB_DISK_MAGIC, EMB_DISK_VERSION};

    if (fd >= 0 && pwrite(fd, head, sizeof(head), 0) != (ssize_t)sizeof(head)) {
        int rc = ha_err_set(err, EIO, "write %s: %s", path, strerror(errno));
        close(fd);
        unlink(path);
        return rc;
    }
    return fd;
}

/* The stat page appears under its name complete: the backend takes its sight as the order to
 * attach, and finds the ring there already. */
static int publish_stat(const char *path, const struct emb_disk_stat *stat, struct ha_err *err)
{
    char temporary[PATH_SIZE + 8];

    snprintf(temporary, sizeof(temporary), "%s.new", path);
    unlink(temporary);
    int fd = make_file(temporary, EMB_DISK_STAT_SIZE, err);
    if (fd < 0)
        return fd;
    bool is_written = write(fd, stat, sizeof(*stat)) == (ssize_t)sizeof(*stat);
    close(fd);
    if (is_written && rename(temporary, path) == 0)
        return 0;
    int rc = ha_err_set(err, errno ? errno : EIO, "publish %s: %s", path, strerror(errno));
    unlink(temporary);
    return rc;
}

int emb_disk_create(const char *dir, struct ha_uuid guest, uint64_t epoch, enum emb_disk_mode mode,
                    struct emb_disk_files *ret_files, struct ha_err *err)
{
    char ring_path[PATH_SIZE], stat_path[PATH_SIZE];
    struct emb_disk_stat stat = {.magic = EMB_DISK_MAGIC,
                                 .version = EMB_DISK_VERSION,
                                 .guest = guest,
                                 .epoch = epoch,
                                 .mode = mode};

    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return ha_err_set(err, errno, "make %s: %s", dir, strerror(errno));
    int rc = make_path(ring_path, dir, guest, epoch, SUFFIX_RING, err);
    if (rc == 0)
        rc = make_path(stat_path, dir, guest, epoch, SUFFIX_STAT, err);
    if (rc == 0)
        rc = emb_disk_close(dir, guest, epoch, LEFTOVER_MS, err);
    if (rc < 0)
        return rc;
    int bell_fd = open_bell(dir, err);
    if (bell_fd < 0)
        return bell_fd;
    int ring_fd = make_ring(ring_path, err);
    rc = ring_fd < 0 ? ring_fd : publish_stat(stat_path, &stat, err);
    if (rc < 0) {
        if (ring_fd >= 0) {
            close(ring_fd);
            unlink(ring_path);
        }
        close(bell_fd);
        return rc;
    }
    ret_files->ring_fd = ring_fd;
    ret_files->bell_fd = bell_fd;
    return 0;
}

static enum hv_quiet judge(const struct emb_disk_stat *stat, const struct emb_disk_ring *ring,
                           char *why)
{
    if (stat->magic != EMB_DISK_MAGIC || stat->version != EMB_DISK_VERSION ||
        stat->mode != EMB_DISK_THROUGH) {
        snprintf(why, HA_TEXT_MAX, "its disk has a write-back cache");
        return HV_NEVER_QUIET;
    }
    uint32_t before = atomic_load(&stat->in_flight);
    uint32_t waiting = atomic_load(&ring->req_prod) - atomic_load(&stat->rsp_prod);
    uint32_t after = atomic_load(&stat->in_flight);
    /* A broken ring is never looked at again: only what was taken from it counts. */
    if (atomic_load(&stat->is_broken) != 0)
        waiting = 0;
    if (before == 0 && waiting == 0 && after == 0)
        return HV_QUIET;
    snprintf(why, HA_TEXT_MAX, "its disk has %u requests waiting, %u in flight", waiting, after);
    return HV_BUSY;
}

enum hv_quiet emb_disk_quiet(const char *dir, struct ha_uuid guest, uint64_t epoch,
                             char ret_why[HA_TEXT_MAX])
{
    char ring_path[PATH_SIZE], stat_path[PATH_SIZE];
    int error = 0;

    ret_why[0] = '\0';
    if (make_path(ring_path, dir, guest, epoch, SUFFIX_RING, NULL) < 0 ||
        make_path(stat_path, dir, guest, epoch, SUFFIX_STAT, NULL) < 0) {
        snprintf(ret_why, HA_TEXT_MAX, "the path of its disk is too long");
        return HV_BUSY;
    }
    const struct emb_disk_stat *stat = map_path(stat_path, EMB_DISK_STAT_SIZE, PROT_READ, &error);
    if (!stat && error == ENOENT)
        return HV_QUIET; /* files go away only after the last request ended */
    const struct emb_disk_ring *ring =
        stat ? map_path(ring_path, EMB_DISK_RING_SIZE, PROT_READ, &error) : NULL;
    enum hv_quiet quiet = HV_BUSY;
    if (ring)
        quiet = judge(stat, ring, ret_why);
    else
        snprintf(ret_why, HA_TEXT_MAX, "its disk can't be examined: %s", strerror(error));
    if (ring)
        munmap((void *)(uintptr_t)ring, EMB_DISK_RING_SIZE);
    if (stat)
        munmap((void *)(uintptr_t)stat, EMB_DISK_STAT_SIZE);
    return quiet;
}

/* is_closing is stored before in_flight is read; the backend raises in_flight before it reads
 * is_closing (both sequentially consistent): one of the two sees the other. */
static bool wait_until_idle(struct emb_disk_stat *stat, uint32_t timeout_ms)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};

    atomic_store(&stat->is_closing, 1);
    for (uint32_t waited_ms = 0; atomic_load(&stat->in_flight) != 0; waited_ms++) {
        if (waited_ms >= timeout_ms)
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

int emb_disk_close(const char *dir, struct ha_uuid guest, uint64_t epoch, uint32_t timeout_ms,
                   struct ha_err *err)
{
    char ring_path[PATH_SIZE], stat_path[PATH_SIZE];
    int error = 0;
    int rc = make_path(ring_path, dir, guest, epoch, SUFFIX_RING, err);

    if (rc == 0)
        rc = make_path(stat_path, dir, guest, epoch, SUFFIX_STAT, err);
    if (rc < 0)
        return rc;
    struct emb_disk_stat *stat =
        map_path(stat_path, EMB_DISK_STAT_SIZE, PROT_READ | PROT_WRITE, &error);
    if (!stat && error != ENOENT)
        return ha_err_set(err, error, "map %s: %s", stat_path, strerror(error));
    if (stat) {
        uint32_t left = wait_until_idle(stat, timeout_ms) ? 0 : atomic_load(&stat->in_flight);
        munmap(stat, EMB_DISK_STAT_SIZE);
        if (left > 0)
            return ha_err_set(err, HA_E_TIMEOUT, "%u disk requests are still in flight", left);
        unlink(stat_path);
    }
    unlink(ring_path);
    return 0;
}
