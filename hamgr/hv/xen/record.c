/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hamgr/base/digest.h"

#define MAGIC     0x314e4558u /* "XEN1": the layout's version with it */
#define NAME_SIZE 24u
#define LOCK_NAME "lock"
#define LAST_NAME "last-domid"

static uint64_t digest_of(const struct xen_record *record)
{
    return ha_digest_bytes((struct ha_digest){0, 0}, record, offsetof(struct xen_record, digest))
        .low;
}

static int open_dir(const char *path, struct ha_err *err)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return ha_err_set(err, errno, "make %s: %s", path, strerror(errno));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : ha_err_set(err, errno, "open %s: %s", path, strerror(errno));
}

int xen_records_open(const char *run_dir, struct ha_err *err)
{
    char path[256];
    int size = snprintf(path, sizeof(path), "%s/domains", run_dir);

    if (run_dir[0] != '/' || size >= (int)sizeof(path))
        return ha_err_set(err, HA_E_USAGE, "%.80s: expected an absolute path", run_dir);
    int run_fd = open_dir(run_dir, err);
    if (run_fd < 0)
        return run_fd;
    close(run_fd);
    return open_dir(path, err);
}

static bool read_whole(int dir_fd, const char *name, void *to, size_t size)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : read(fd, to, size);

    if (fd >= 0)
        close(fd);
    return n == (ssize_t)size;
}

/* Beside it first, then in its place: a reader sees the old or the new one. */
static int write_whole(int dir_fd, const char *name, const void *from, size_t size,
                       struct ha_err *err)
{
    char other[NAME_SIZE + 16];

    snprintf(other, sizeof(other), "new.%.20s.%d", name, (int)getpid());
    int fd = openat(dir_fd, other, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ha_err_set(err, errno, "record %s: %s", name, strerror(errno));
    ssize_t n = write(fd, from, size);
    int code = n < 0 ? errno : EIO;
    close(fd);
    if (n == (ssize_t)size && renameat(dir_fd, other, dir_fd, name) == 0)
        return 0;
    if (n == (ssize_t)size)
        code = errno;
    unlinkat(dir_fd, other, 0);
    return ha_err_set(err, code, "record %s: %s", name, strerror(code));
}

int xen_record_write(int dir_fd, struct xen_record *record, struct ha_err *err)
{
    char name[NAME_SIZE];

    snprintf(name, sizeof(name), "%u", record->domid);
    record->magic = MAGIC;
    record->digest = digest_of(record);
    return write_whole(dir_fd, name, record, sizeof(*record), err);
}

bool xen_record_read(int dir_fd, uint32_t domid, struct xen_record *ret)
{
    struct xen_record record;
    char name[NAME_SIZE];

    snprintf(name, sizeof(name), "%u", domid);
    if (!read_whole(dir_fd, name, &record, sizeof(record)) || record.magic != MAGIC ||
        record.domid != domid || record.digest != digest_of(&record) ||
        memchr(record.name, '\0', sizeof(record.name)) == NULL)
        return false;
    *ret = record;
    return true;
}

/* ---- marks ---- */

static void mark_name(uint32_t domid, char ret_name[NAME_SIZE])
{
    snprintf(ret_name, NAME_SIZE, "free.%u", domid);
}

bool xen_record_is_let_go(int dir_fd, uint32_t domid)
{
    char name[NAME_SIZE];

    mark_name(domid, name);
    return faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

void xen_record_let_go(int dir_fd, uint32_t domid)
{
    char name[NAME_SIZE];

    mark_name(domid, name);
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0)
        close(fd);
}

bool xen_record_hold(int dir_fd, uint32_t domid)
{
    char name[NAME_SIZE];

    mark_name(domid, name);
    return unlinkat(dir_fd, name, 0) == 0;
}

/* ---- the records again ---- */

void xen_record_remove(int dir_fd, uint32_t domid)
{
    char name[NAME_SIZE];

    (void)xen_record_hold(dir_fd, domid);
    snprintf(name, sizeof(name), "%u", domid);
    (void)unlinkat(dir_fd, name, 0);
}

static bool exists(int dir_fd, uint32_t domid)
{
    char name[NAME_SIZE];

    snprintf(name, sizeof(name), "%u", domid);
    return faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Where to begin when nothing is known of earlier ones: libxl refuses a domid that was in use
 * within the last minute, whoever gave it. */
static uint32_t any_domid(void)
{
    uint32_t value = 0;

    if (getrandom(&value, sizeof(value), 0) != (ssize_t)sizeof(value))
        value = (uint32_t)getpid();
    return XEN_DOMID_FIRST + value % (XEN_DOMID_LAST - XEN_DOMID_FIRST + 1);
}

static int add_locked(int dir_fd, struct xen_record *record, struct ha_err *err)
{
    uint32_t domid = 0;

    if (!read_whole(dir_fd, LAST_NAME, &domid, sizeof(domid)))
        domid = any_domid();
    for (uint32_t n = XEN_DOMID_FIRST; n <= XEN_DOMID_LAST; n++) {
        domid = xen_domid_after(domid);
        if (exists(dir_fd, domid))
            continue;
        int rc = write_whole(dir_fd, LAST_NAME, &domid, sizeof(domid), err);
        record->domid = domid;
        (void)xen_record_hold(dir_fd, domid); /* of one whose record was lost */
        return rc != 0 ? rc : xen_record_write(dir_fd, record, err);
    }
    return ha_err_set(err, HA_E_LIMIT, "every domid has a record");
}

int xen_record_add(int dir_fd, struct xen_record *record, struct ha_err *err)
{
    int lock = openat(dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    /* Held for some system calls by whoever else has it. */
    if (lock < 0 || flock(lock, LOCK_EX) != 0) {
        int code = errno;
        if (lock >= 0)
            close(lock);
        return ha_err_set(err, code, "lock of the records: %s", strerror(code));
    }
    int rc = add_locked(dir_fd, record, err);
    close(lock);
    return rc;
}

static bool read_domid(const char *name, uint32_t *ret)
{
    char *end = NULL;

    if (name[0] < '1' || name[0] > '9')
        return false;
    unsigned long value = strtoul(name, &end, 10);
    *ret = (uint32_t)value;
    return *end == '\0' && value <= XEN_DOMID_LAST;
}

static bool is_orphan(int dir_fd, uint32_t domid)
{
    struct xen_record record;

    if (!xen_record_read(dir_fd, domid, &record) || record.phase != XEN_BUILDING)
        return true;
    return kill((pid_t)record.builder, 0) != 0 && errno == ESRCH;
}

void xen_records_sweep(int dir_fd, bool (*is_there)(void *user, uint32_t domid), void *user)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    uint32_t domid;

    if (!dir && fd >= 0)
        close(fd);
    while (dir && (entry = readdir(dir)) != NULL)
        if (read_domid(entry->d_name, &domid) && is_orphan(dir_fd, domid) && !is_there(user, domid))
            xen_record_remove(dir_fd, domid);
    if (dir)
        closedir(dir);
}
