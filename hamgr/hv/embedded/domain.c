/* SPDX-License-Identifier: Apache-2.0
 *
 * One domain in the hands of a verb: its directory, its record, its process.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/hv/embedded/cap.h"
#include "hamgr/hv/embedded/disk.h"
#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/proc.h"
#include "hamgr/hv/embedded/record.h"

int emb_domain_open(struct hv_embedded *e, uint32_t domid, struct emb_domain *ret,
                    struct ha_err *err)
{
    char name[16];

    *ret = (struct emb_domain){.dir_fd = -1, .pidfd = -1};
    snprintf(name, sizeof(name), "%u", domid);
    if ((domid & EMB_UNKNOWN_BIT) == 0)
        ret->dir_fd = openat(e->domains_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (ret->dir_fd < 0)
        return ha_err_set(err, HA_E_NOT_FOUND, "no domain %u", domid);
    int rc = emb_record_read(ret->dir_fd, &ret->record, err);
    if (rc == 0 && ret->record.domid != domid)
        rc = ha_err_set(err, HA_E_CORRUPT, "the record is another domain's");
    if (rc != 0) {
        close(ret->dir_fd);
        ret->dir_fd = -1;
        return rc == -ENOENT ? ha_err_set(err, HA_E_NOT_FOUND, "no domain %u", domid) : rc;
    }
    int pidfd = emb_proc_open((pid_t)ret->record.pid, ret->record.start_time, &ret->proc_state);
    if (pidfd >= 0)
        ret->pidfd = pidfd;
    else if (pidfd != -ESRCH && ret->record.pid != 0) {
        emb_domain_close(ret);
        return ha_err_set(err, -pidfd, "domain %u: open its process: %s", domid, strerror(-pidfd));
    }
    return 0;
}

void emb_domain_close(struct emb_domain *d)
{
    if (d->pidfd >= 0)
        close(d->pidfd);
    if (d->dir_fd >= 0)
        close(d->dir_fd);
    d->pidfd = d->dir_fd = -1;
}

int emb_domain_open_alive(struct hv_embedded *e, uint32_t domid, struct emb_domain *ret,
                          struct ha_err *err)
{
    int rc = emb_domain_open(e, domid, ret, err);

    if (rc != 0)
        return rc;
    if (ret->pidfd < 0)
        rc = ha_err_set(err, HA_E_REFUSED, "domain %u has ended", domid);
    else if (ret->record.phase != EMB_COMPLETE && ret->record.phase != EMB_SUSPENDED)
        rc = ha_err_set(err, HA_E_REFUSED, "domain %u is being %s", domid,
                        ret->record.phase == EMB_BUILDING ? "built" : "destroyed");
    if (rc != 0)
        emb_domain_close(ret);
    return rc;
}

int emb_domain_lock(const struct emb_domain *d, const char *file, uint32_t timeout_ms,
                    struct ha_err *err)
{
    const struct timespec nap = {.tv_nsec = 500000};
    uint64_t end_ns = emb_now_ns() + (uint64_t)timeout_ms * 1000000u;
    int fd = openat(d->dir_fd, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return ha_err_set(err, errno, "open %s of domain %u: %s", file, d->record.domid,
                          strerror(errno));
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (emb_now_ns() >= end_ns) {
            close(fd);
            return ha_err_set(err, HA_E_TIMEOUT, "domain %u is busy", d->record.domid);
        }
        nanosleep(&nap, NULL);
    }
    return fd;
}

int emb_domain_reread(struct emb_domain *d, struct ha_err *err)
{
    return emb_record_read(d->dir_fd, &d->record, err);
}

int emb_domain_stop(const struct emb_domain *d, uint32_t timeout_ms, struct ha_err *err)
{
    int rc = d->pidfd < 0 ? -ESRCH : emb_proc_signal(d->pidfd, SIGSTOP);

    emb_cap_lift(d); /* behind the signal: it stops before it does anything else */
    if (rc == 0)
        rc = emb_proc_wait_stopped((pid_t)d->record.pid, d->record.start_time, timeout_ms);
    if (rc == -ESRCH)
        return ha_err_set(err, HA_E_NOT_FOUND, "domain %u has ended", d->record.domid);
    if (rc == -ETIMEDOUT)
        return ha_err_set(err, HA_E_TIMEOUT, "domain %u was not seen stopped within %u ms",
                          d->record.domid, timeout_ms);
    return rc == 0 ? 0 : ha_err_set(err, -rc, "stop domain %u: %s", d->record.domid, strerror(-rc));
}

static enum hv_domain_state ended_as(const struct emb_domain *d)
{
    uint32_t end = EMB_END_NONE;
    int fd = openat(d->dir_fd, EMB_FILE_STATUS, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd >= 0) {
        if (pread(fd, &end, sizeof(end), offsetof(struct emb_status_page, end)) != sizeof(end))
            end = EMB_END_NONE;
        close(fd);
    }
    if (end == EMB_END_POWEROFF)
        return HV_POWEROFF;
    return end == EMB_END_REBOOT ? HV_REBOOT : HV_CRASHED;
}

enum hv_domain_state emb_domain_state(const struct emb_domain *d)
{
    if (d->record.pid == 0)
        return HV_BUILDING;
    if (d->pidfd < 0)
        return ended_as(d);
    if (d->record.phase == EMB_BUILDING)
        return HV_BUILDING;
    /* A process that is seen running is running, whatever the record says. */
    if (d->proc_state != 'T' || !emb_proc_is_stopped((pid_t)d->record.pid))
        return emb_proc_wait_gone(d->pidfd, 0) ? ended_as(d) : HV_RUNNING;
    return d->record.phase == EMB_SUSPENDED ? HV_SUSPENDED : HV_PAUSED;
}

int emb_label_set(const struct emb_domain *d, size_t offset, uint32_t value, struct ha_err *err)
{
    int fd = openat(d->dir_fd, EMB_FILE_LABEL, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return ha_err_set(err, errno, "open label: %s", strerror(errno));
    ssize_t n = pwrite(fd, &value, sizeof(value), (off_t)offset);
    int code = n < 0 ? errno : EIO;
    close(fd);
    return n == (ssize_t)sizeof(value) ? 0
                                       : ha_err_set(err, code, "write label: %s", strerror(code));
}

enum hv_quiet emb_domain_quiet(struct hv_embedded *e, const struct emb_domain *d,
                               char ret_why[HA_TEXT_MAX])
{
    ret_why[0] = '\0';
    if (d->pidfd >= 0 && d->record.phase != EMB_BUILDING &&
        !emb_proc_is_stopped((pid_t)d->record.pid)) {
        snprintf(ret_why, HA_TEXT_MAX, "it is not stopped");
        return HV_BUSY;
    }
    if (d->record.disk == EMB_DISK_NONE)
        return HV_QUIET;
    if (d->record.disk == EMB_DISK_WRITEBACK) {
        snprintf(ret_why, HA_TEXT_MAX, "its disk has a write-back cache");
        return HV_NEVER_QUIET;
    }
    return emb_disk_quiet(e->disk_dir, d->record.label.guest, d->record.label.epoch, ret_why);
}

int emb_domain_map(const struct emb_domain *d, bool is_writable, void **ret_memory,
                   struct ha_err *err)
{
    int fd = emb_proc_get_fd(d->pidfd, EMB_FD_MEMORY);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);

    if (fd < 0)
        return ha_err_set(err, -fd, "reach the guest's memory: %s", strerror(-fd));
    if (size != (off_t)d->record.memory_size) {
        close(fd);
        return ha_err_set(err, HA_E_CORRUPT, "the guest's memory has %lld bytes, not %llu",
                          (long long)size, (unsigned long long)d->record.memory_size);
    }
    *ret_memory = mmap(NULL, (size_t)size, is_writable ? PROT_READ | PROT_WRITE : PROT_READ,
                       MAP_SHARED | MAP_POPULATE, fd, 0);
    int code = errno;
    close(fd);
    if (*ret_memory == MAP_FAILED)
        return ha_err_set(err, code, "map the guest's memory: %s", strerror(code));
    return 0;
}
