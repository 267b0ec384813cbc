/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/store/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void put_name(const struct files *files, const char *name, char ret_path[FILES_NAME_MAX])
{
    snprintf(ret_path, FILES_NAME_MAX, "%s/%s", files->dir, name);
}

int files_name(const char *dir, struct files *ret_files, struct ha_err *err)
{
    struct files *files = ret_files;

    memset(files, 0, sizeof(*files));
    files->lock_fd = -1;
    if (snprintf(files->dir, sizeof(files->dir), "%s", dir) >= (int)sizeof(files->dir))
        return ha_err_set(err, ENAMETOOLONG, "the store's directory name is too long");
    put_name(files, "hamgr.db", files->db);
    put_name(files, "hamgr.db-wal", files->wal);
    put_name(files, "new.db", files->fresh);
    return 0;
}

static int held_by(const char *path, int fd, struct ha_err *err)
{
    char text[32] = "";
    ssize_t size = pread(fd, text, sizeof(text) - 1, 0);
    long pid = size > 0 ? strtol(text, NULL, 10) : 0;

    if (pid > 0)
        return ha_err_set(err, EBUSY, "process %ld holds the store (%s)", pid, path);
    return ha_err_set(err, EBUSY, "another process holds the store (%s)", path);
}

int files_lock(struct files *files, struct ha_err *err)
{
    char path[FILES_NAME_MAX];
    char text[32];

    put_name(files, "lock", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ha_err_set(err, errno, "open %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int rc = errno == EWOULDBLOCK
                     ? held_by(path, fd, err)
                     : ha_err_set(err, errno, "lock %s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    /* Only for the message above; the lock is the flock. */
    int length = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)length, 0) < 0)
        text[0] = '\0';
    files->lock_fd = fd;
    return 0;
}

void files_unlock(struct files *files)
{
    if (files->lock_fd >= 0)
        close(files->lock_fd);
    files->lock_fd = -1;
}

int files_sync_dir(const struct files *files, struct ha_err *err)
{
    int fd = open(files->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 ? -1 : fsync(fd);
    int code = errno;

    if (fd >= 0)
        close(fd);
    return r == 0 ? 0 : ha_err_set(err, code, "sync %s: %s", files->dir, strerror(code));
}

/* A name that is free: NAME.damaged-20260102T030405Z, with -2, -3, ... when seconds repeat. */
static void damaged_name(const char path[FILES_NAME_MAX], char ret_name[PATH_MAX])
{
    char stamp[32];
    struct tm utc;
    time_t now = time(NULL);

    gmtime_r(&now, &utc);
    strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &utc);
    snprintf(ret_name, PATH_MAX, "%s.damaged-%s", path, stamp);
    for (int i = 2; i < 100 && access(ret_name, F_OK) == 0; i++)
        snprintf(ret_name, PATH_MAX, "%s.damaged-%s-%d", path, stamp, i);
}

/* The database first: one without its WAL would open as an older one, a WAL alone never opens. */
void files_set_aside(const struct files *files, struct ha_err *err)
{
    char db[PATH_MAX];
    char wal[PATH_MAX];
    char what[HA_TEXT_MAX];

    snprintf(what, sizeof(what), "%s", err->text);
    damaged_name(files->db, db);
    damaged_name(files->wal, wal);
    if (rename(files->db, db) < 0) {
        ha_err_set(err, HA_E_CORRUPT, "%s; setting %s aside failed too: %s", what, files->db,
                   strerror(errno));
        return;
    }
    (void)rename(files->wal, wal); /* often there is none */
    (void)files_sync_dir(files, NULL);
    /* What comes first matters most: the sentence may be cut at its end. */
    ha_err_set(err, HA_E_CORRUPT, "%.100s; set aside as %.140s", what, db);
}

int files_clear_orphans(const struct files *files, struct ha_err *err)
{
    char name[PATH_MAX];
    char wal[FILES_NAME_MAX];

    unlink(files->fresh); /* an attempt that was cut short: never opened */
    put_name(files, "new.db-wal", wal);
    unlink(wal);
    if (access(files->wal, F_OK) < 0)
        return 0;
    damaged_name(files->wal, name);
    if (rename(files->wal, name) < 0)
        return ha_err_set(err, errno, "set %s aside: %s", files->wal, strerror(errno));
    return 0;
}

void files_drop_cached(const struct files *files)
{
    const char *const paths[] = {files->db, files->wal};

    for (unsigned i = 0; i < 2; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            close(fd);
        }
    }
}
