/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/faultvfs.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sqlite3.h>

#include "hamgr/base/rng.h"

#define SECTOR 512

/* SQLite allocates szOsFile bytes; the real file follows ours. */
struct file {
    sqlite3_file base;
    struct file *next; /* open files */
    bool is_db;
    uint8_t *durable; /* contents as of the last sync */
    size_t durable_size;
    sqlite3_file *real;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
    struct file *files;
    enum fault fault;
    unsigned after;
    struct ha_rng rng;
    bool is_dead;
    bool stalls;
    unsigned stalled;
    unsigned writes;
    unsigned syncs;
} disk;
static sqlite3_vfs *real_vfs;

static struct file *file_of(sqlite3_file *base)
{
    return (struct file *)(void *)base;
}

static uint8_t *read_whole(struct file *file, size_t *ret_size)
{
    sqlite3_int64 size = 0;

    file->real->pMethods->xFileSize(file->real, &size);
    uint8_t *data = calloc(1, (size_t)size + SECTOR);
    if (data && size > 0)
        (void)file->real->pMethods->xRead(file->real, data, (int)size, 0);
    *ret_size = (size_t)size;
    return data;
}

static void remember_durable(struct file *file)
{
    free(file->durable);
    file->durable = read_whole(file, &file->durable_size);
}

/* The sector at `at` of the first, if that long. */
static bool has_sector(const uint8_t *data, size_t size, size_t at, uint8_t ret_sector[SECTOR])
{
    memset(ret_sector, 0, SECTOR);
    if (data && at < size)
        memcpy(ret_sector, data + at, size - at < SECTOR ? size - at : SECTOR);
    return data && at < size;
}

/* What a sector that was written to holds after the power came back. */
static void toss(const uint8_t *now, const uint8_t *before, uint8_t *ret_sector)
{
    uint64_t coin = ha_rng_below(&disk.rng, 8);

    if (coin > 0) {
        memcpy(ret_sector, coin % 2 ? now : before, SECTOR);
        return;
    }
    for (size_t i = 0; i < SECTOR; i++)
        ret_sector[i] = (uint8_t)ha_rng_next(&disk.rng);
}

static void tear(struct file *file)
{
    size_t size;
    uint8_t *data = read_whole(file, &size);
    size_t end = size > file->durable_size ? size : file->durable_size;
    uint8_t *result = calloc(1, end + SECTOR);

    for (size_t at = 0; data && result && at < end; at += SECTOR) {
        uint8_t now[SECTOR];
        uint8_t before[SECTOR];
        bool is_new = has_sector(data, size, at, now);
        bool is_old = has_sector(file->durable, file->durable_size, at, before);
        if (is_new && is_old && memcmp(now, before, SECTOR) == 0)
            memcpy(result + at, now, SECTOR);
        else
            toss(now, before, result + at);
    }
    size_t kept = ha_rng_below(&disk.rng, 2) == 0 ? size : file->durable_size;
    if (result && kept > 0)
        file->real->pMethods->xWrite(file->real, result, (int)kept, 0);
    file->real->pMethods->xTruncate(file->real, (sqlite3_int64)kept);
    free(data);
    free(result);
}

static void cut_power(void)
{
    for (struct file *file = disk.files; file; file = file->next)
        tear(file);
    disk.is_dead = true;
}

/* Is this operation (of the kinds a fault concerns) the one, or a later one? The mutex is held. */
static bool is_due(bool is_concerned)
{
    if (!is_concerned)
        return false;
    if (disk.after > 0) {
        disk.after--;
        return false;
    }
    return true;
}

static int xclose(sqlite3_file *base)
{
    struct file *file = file_of(base);

    pthread_mutex_lock(&mutex);
    for (struct file **at = &disk.files; *at; at = &(*at)->next) {
        if (*at == file) {
            *at = file->next;
            break;
        }
    }
    pthread_mutex_unlock(&mutex);
    free(file->durable);
    return file->real->pMethods->xClose(file->real);
}

static int xread(sqlite3_file *base, void *data, int size, sqlite3_int64 at)
{
    struct file *file = file_of(base);

    return file->real->pMethods->xRead(file->real, data, size, at);
}

static int write_result(void)
{
    if (disk.is_dead)
        return SQLITE_IOERR_WRITE;
    if (is_due(disk.fault == FAULT_WRITE_EIO))
        return SQLITE_IOERR_WRITE;
    if (is_due(disk.fault == FAULT_WRITE_FULL))
        return SQLITE_FULL;
    return SQLITE_OK;
}

static int xwrite(sqlite3_file *base, const void *data, int size, sqlite3_int64 at)
{
    struct file *file = file_of(base);

    pthread_mutex_lock(&mutex);
    disk.writes++;
    int rc = write_result();
    if (rc == SQLITE_OK)
        rc = file->real->pMethods->xWrite(file->real, data, size, at);
    if (rc == SQLITE_OK && is_due(disk.fault == FAULT_POWER_CUT)) { /* and it was the last one */
        cut_power();
        rc = SQLITE_IOERR_WRITE;
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xtruncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct file *file = file_of(base);

    pthread_mutex_lock(&mutex);
    int rc =
        disk.is_dead ? SQLITE_IOERR_TRUNCATE : file->real->pMethods->xTruncate(file->real, size);
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xsync(sqlite3_file *base, int flags)
{
    struct file *file = file_of(base);

    pthread_mutex_lock(&mutex);
    disk.syncs++;
    disk.stalled++;
    pthread_cond_broadcast(&changed);
    while (disk.stalls)
        pthread_cond_wait(&changed, &mutex);
    disk.stalled--;
    int rc = SQLITE_IOERR_FSYNC;
    if (!disk.is_dead && is_due(disk.fault == FAULT_POWER_CUT))
        cut_power();
    else if (!disk.is_dead && !is_due(disk.fault == FAULT_SYNC_EIO ||
                                      (disk.fault == FAULT_CHECKPOINT_EIO && file->is_db)))
        rc = file->real->pMethods->xSync(file->real, flags);
    if (rc == SQLITE_OK)
        remember_durable(file);
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int xsize(sqlite3_file *base, sqlite3_int64 *ret_size)
{
    struct file *file = file_of(base);

    return file->real->pMethods->xFileSize(file->real, ret_size);
}

static int xlock(sqlite3_file *base, int level)
{
    return file_of(base)->real->pMethods->xLock(file_of(base)->real, level);
}

static int xunlock(sqlite3_file *base, int level)
{
    return file_of(base)->real->pMethods->xUnlock(file_of(base)->real, level);
}

static int xcheck_lock(sqlite3_file *base, int *ret_result)
{
    return file_of(base)->real->pMethods->xCheckReservedLock(file_of(base)->real, ret_result);
}

static int xcontrol(sqlite3_file *base, int operation, void *argument)
{
    return file_of(base)->real->pMethods->xFileControl(file_of(base)->real, operation, argument);
}

static int xsector(sqlite3_file *base)
{
    return file_of(base)->real->pMethods->xSectorSize(file_of(base)->real);
}

static int xdevice(sqlite3_file *base)
{
    return file_of(base)->real->pMethods->xDeviceCharacteristics(file_of(base)->real);
}

/* Version 1: no shared memory, no mapping; an exclusive WAL needs neither. */
static const sqlite3_io_methods methods = {.iVersion = 1,
                                           .xClose = xclose,
                                           .xRead = xread,
                                           .xWrite = xwrite,
                                           .xTruncate = xtruncate,
                                           .xSync = xsync,
                                           .xFileSize = xsize,
                                           .xLock = xlock,
                                           .xUnlock = xunlock,
                                           .xCheckReservedLock = xcheck_lock,
                                           .xFileControl = xcontrol,
                                           .xSectorSize = xsector,
                                           .xDeviceCharacteristics = xdevice};

static int xopen(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *base, int flags,
                 int *ret_flags)
{
    struct file *file = file_of(base);

    (void)vfs;
    memset(file, 0, sizeof(*file));
    file->real = (sqlite3_file *)(void *)(file + 1);
    int rc = real_vfs->xOpen(real_vfs, name, file->real, flags, ret_flags);
    if (rc != SQLITE_OK)
        return rc;
    file->base.pMethods = &methods;
    file->is_db = (flags & SQLITE_OPEN_MAIN_DB) != 0;
    remember_durable(file);
    pthread_mutex_lock(&mutex);
    file->next = disk.files;
    disk.files = file;
    pthread_mutex_unlock(&mutex);
    return rc;
}

void faultvfs_install(void)
{
    static sqlite3_vfs vfs;

    real_vfs = sqlite3_vfs_find(NULL);
    vfs = *real_vfs;
    vfs.zName = "fault";
    vfs.szOsFile = (int)sizeof(struct file) + real_vfs->szOsFile;
    vfs.xOpen = xopen;
    sqlite3_vfs_register(&vfs, 1);
}

void faultvfs_reset(void)
{
    pthread_mutex_lock(&mutex);
    disk.fault = FAULT_NONE;
    disk.is_dead = false;
    disk.stalls = false;
    disk.writes = 0;
    disk.syncs = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

void faultvfs_fail(enum fault fault, unsigned after, uint64_t seed)
{
    pthread_mutex_lock(&mutex);
    disk.fault = fault;
    disk.after = after;
    disk.rng.state = seed;
    pthread_mutex_unlock(&mutex);
}

void faultvfs_stall(void)
{
    pthread_mutex_lock(&mutex);
    disk.stalls = true;
    pthread_mutex_unlock(&mutex);
}

void faultvfs_release(void)
{
    pthread_mutex_lock(&mutex);
    disk.stalls = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
}

bool faultvfs_wait_stalled(unsigned timeout_ms)
{
    struct timespec deadline;
    int r = 0;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += timeout_ms / 1000 + 1;
    pthread_mutex_lock(&mutex);
    while (!(disk.stalls && disk.stalled > 0) && r == 0)
        r = pthread_cond_timedwait(&changed, &mutex, &deadline);
    pthread_mutex_unlock(&mutex);
    return r == 0;
}

unsigned faultvfs_writes(void)
{
    pthread_mutex_lock(&mutex);
    unsigned count = disk.writes;
    pthread_mutex_unlock(&mutex);
    return count;
}

unsigned faultvfs_syncs(void)
{
    pthread_mutex_lock(&mutex);
    unsigned count = disk.syncs;
    pthread_mutex_unlock(&mutex);
    return count;
}

bool faultvfs_is_dead(void)
{
    pthread_mutex_lock(&mutex);
    bool is_dead = disk.is_dead;
    pthread_mutex_unlock(&mutex);
    return is_dead;
}
