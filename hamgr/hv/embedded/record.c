/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/embedded/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/base/digest.h"

#define SEALED_FROM offsetof(struct emb_record, domid)

static uint64_t seal_of(const struct emb_record *record)
{
    const struct ha_digest none = {0};
    const uint8_t *bytes = (const uint8_t *)record;

    return ha_digest_bytes(none, bytes + SEALED_FROM, sizeof(*record) - SEALED_FROM).low;
}

int emb_record_write(int dir_fd, struct emb_record *record, struct ha_err *err)
{
    char temp[32];

    record->magic = EMB_RECORD_MAGIC;
    record->version = EMB_VERSION;
    record->checksum = seal_of(record);
    snprintf(temp, sizeof(temp), EMB_FILE_RECORD ".%d", (int)getpid());
    int fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ha_err_set(err, errno, "create record: %s", strerror(errno));
    ssize_t n = write(fd, record, sizeof(*record));
    int code = n < 0 ? errno : ENOSPC;
    close(fd);
    if (n == (ssize_t)sizeof(*record)) {
        if (renameat(dir_fd, temp, dir_fd, EMB_FILE_RECORD) == 0)
            return 0;
        code = errno;
    }
    unlinkat(dir_fd, temp, 0);
    return ha_err_set(err, code, "write record: %s", strerror(code));
}

int emb_record_read(int dir_fd, struct emb_record *ret, struct ha_err *err)
{
    struct emb_record record;
    int fd = openat(dir_fd, EMB_FILE_RECORD, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return ha_err_set(err, errno, "open record: %s", strerror(errno));
    ssize_t n = pread(fd, &record, sizeof(record), 0);
    close(fd);
    if (n != (ssize_t)sizeof(record) || record.magic != EMB_RECORD_MAGIC ||
        record.version != EMB_VERSION || record.checksum != seal_of(&record) ||
        record.phase < EMB_BUILDING || record.phase > EMB_DYING ||
        memchr(record.name, '\0', sizeof(record.name)) == NULL)
        return ha_err_set(err, HA_E_CORRUPT, "the record is damaged");
    *ret = record;
    return 0;
}

int emb_record_set_phase(int dir_fd, enum emb_phase phase, struct ha_err *err)
{
    uint32_t value = (uint32_t)phase;
    int fd = openat(dir_fd, EMB_FILE_RECORD, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return ha_err_set(err, errno, "open record: %s", strerror(errno));
    ssize_t n = pwrite(fd, &value, sizeof(value), offsetof(struct emb_record, phase));
    int code = n < 0 ? errno : EIO;
    close(fd);
    if (n == (ssize_t)sizeof(value))
        return 0;
    return ha_err_set(err, code, "write phase: %s", strerror(code));
}
