/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker verbs that move no memory. None of them makes a guest runnable: no SIGCONT here.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/hv/embedded/cap.h"
#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/proc.h"
#include "hamgr/hv/embedded/record.h"

static enum hv_outcome ended(const struct emb_domain *d, struct ha_err *err)
{
    enum hv_domain_state state = emb_domain_state(d);

    if (state == HV_POWEROFF)
        return HV_OK;
    return hv_failed(err, HA_E_REFUSED, "domain %u %s instead", d->record.domid,
                     state == HV_REBOOT ? "rebooted" : "crashed");
}

enum hv_outcome emb_shutdown(struct hv *hv, uint32_t domid, uint32_t timeout_ms, struct ha_err *err)
{
    const size_t wish = offsetof(struct emb_label_page, is_shutdown_wanted);
    struct emb_domain d;

    if (emb_domain_open(emb_of(hv), domid, &d, err) != 0)
        return HV_FAILED;
    enum hv_outcome outcome;
    enum hv_domain_state state = emb_domain_state(&d);
    if (d.pidfd < 0)
        outcome = ended(&d, err);
    else if (state != HV_RUNNING)
        outcome = hv_failed(err, HA_E_REFUSED, "domain %u is not running, it can't hear", domid);
    else if (emb_label_set(&d, wish, 1, err) != 0)
        outcome = HV_FAILED;
    else if (emb_proc_wait_gone(d.pidfd, timeout_ms))
        outcome = ended(&d, err);
    else {
        /* Taken back; but the guest may have read it an instant before. */
        emb_label_set(&d, wish, 0, NULL);
        outcome = hv_unknown(err, HA_E_TIMEOUT, "domain %u did not shut down within %u ms", domid,
                             timeout_ms);
    }
    emb_domain_close(&d);
    return outcome;
}

/* Without a record nothing tells which disk it had. */
static enum hv_outcome destroy_unknown(struct hv_embedded *e, uint32_t domid, struct ha_err *err)
{
    pid_t pid = (pid_t)(domid & ~EMB_UNKNOWN_BIT);
    char path[64];
    struct emb_proc proc;
    int pidfd = emb_proc_read(pid, &proc) == 0 ? emb_proc_open(pid, proc.start_time, NULL) : -ESRCH;

    if (pidfd == -ESRCH || (pidfd >= 0 && !emb_is_marked(e, (uint32_t)pid))) {
        if (pidfd >= 0)
            close(pidfd);
        return HV_OK;
    }
    if (pidfd < 0)
        return hv_unknown(err, -pidfd, "open process %d: %s", (int)pid, strerror(-pidfd));
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, EMB_FD_BELL);
    bool has_disk = faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    emb_proc_signal(pidfd, SIGKILL);
    bool is_gone = emb_proc_wait_gone(pidfd, EMB_GONE_MS);
    close(pidfd);
    if (!is_gone)
        return hv_unknown(err, HA_E_TIMEOUT, "process %d did not end", (int)pid);
    if (has_disk)
        return hv_unknown(err, HA_E_UNKNOWN, "process %d is gone, its disk can't be named",
                          (int)pid);
    return HV_OK;
}

enum hv_outcome emb_destroy(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_embedded *e = emb_of(hv);
    struct emb_domain d;

    emb_release_kept(e);
    if ((domid & EMB_UNKNOWN_BIT) != 0)
        return destroy_unknown(e, domid, err);
    int rc = emb_domain_open(e, domid, &d, err);
    if (rc == -HA_E_NOT_FOUND)
        return HV_OK;
    return rc != 0 ? HV_UNKNOWN : emb_remove(e, &d, err);
}

/* Under the lock: SUSPENDED says more than PAUSED, so it is written when the proof is there. */
static enum hv_outcome suspend_locked(struct emb_domain *d, struct ha_err *err)
{
    int rc = emb_domain_reread(d, err);

    if (rc == 0 && d->record.phase == EMB_SUSPENDED)
        return HV_OK;
    if (rc == 0 && d->record.phase != EMB_COMPLETE)
        return hv_failed(err, HA_E_REFUSED, "domain %u is being destroyed", d->record.domid);
    if (rc == 0)
        rc = emb_domain_stop(d, EMB_STOP_MS, err);
    if (rc == -HA_E_TIMEOUT)
        return HV_UNKNOWN; /* the signal is on its way */
    if (rc == 0)
        rc = emb_record_set_phase(d->dir_fd, EMB_SUSPENDED, err);
    return rc == 0 ? HV_OK : HV_FAILED;
}

enum hv_outcome emb_suspend(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct emb_domain d;
    enum hv_outcome outcome = HV_FAILED;

    emb_release_kept(emb_of(hv));
    if (emb_domain_open_alive(emb_of(hv), domid, &d, err) != 0)
        return HV_FAILED;
    int lock = emb_domain_lock(&d, EMB_FILE_LOCK, EMB_WORK_LOCK_MS, err);
    if (lock >= 0) {
        outcome = suspend_locked(&d, err);
        close(lock);
    }
    emb_domain_close(&d);
    return outcome;
}

enum hv_outcome emb_drain(struct hv *hv, uint32_t domid, uint32_t timeout_ms, struct ha_err *err)
{
    const struct timespec nap = {.tv_nsec = 1000000};
    uint64_t end_ns = emb_now_ns() + (uint64_t)timeout_ms * 1000000u;
    struct emb_domain d;
    char why[HA_TEXT_MAX];

    if (emb_domain_open(emb_of(hv), domid, &d, err) != 0)
        return HV_FAILED;
    enum hv_domain_state state = emb_domain_state(&d);
    if (state == HV_RUNNING || state == HV_BUILDING) {
        emb_domain_close(&d);
        return hv_failed(err, HA_E_REFUSED, "domain %u is not suspended", domid);
    }
    enum hv_quiet quiet;
    while ((quiet = emb_domain_quiet(emb_of(hv), &d, why)) == HV_BUSY && emb_now_ns() < end_ns)
        nanosleep(&nap, NULL);
    emb_domain_close(&d);
    if (quiet == HV_QUIET)
        return HV_OK;
    return hv_failed(err, quiet == HV_BUSY ? HA_E_TIMEOUT : HA_E_REFUSED, "domain %u: %.200s",
                     domid, why);
}

enum hv_outcome emb_resume_prepare(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct emb_domain d;
    int rc;

    emb_release_kept(emb_of(hv));
    if (emb_domain_open_alive(emb_of(hv), domid, &d, err) != 0)
        return HV_FAILED;
    int lock = emb_domain_lock(&d, EMB_FILE_LOCK, EMB_WORK_LOCK_MS, err);
    rc = lock < 0 ? lock : emb_domain_reread(&d, err);
    if (rc == 0 && d.record.phase == EMB_SUSPENDED) {
        rc = emb_track_off(d.pidfd, &d.record, err);
        if (rc == 0)
            rc = emb_cap_off(&d, err);
        if (rc == 0)
            rc = emb_record_set_phase(d.dir_fd, EMB_COMPLETE, err);
    } else if (rc == 0 && d.record.phase != EMB_COMPLETE)
        rc = ha_err_set(err, HA_E_REFUSED, "domain %u is being destroyed", domid);
    if (lock >= 0)
        close(lock);
    emb_domain_close(&d);
    return rc == 0 ? HV_OK : HV_FAILED;
}

static int sample(struct emb_domain *d, int busy_fd, uint32_t sample_ms, uint64_t *ret_pages_s,
                  struct ha_err *err)
{
    uint64_t *bitmap = calloc(emb_bitmap_words(d->record.memory_size / EMB_PAGE), 8);
    struct emb_tracker tracker = {0};
    uint64_t count = 0;

    if (!bitmap)
        return ha_err_set(err, HA_E_NO_MEMORY, "dirty bitmap");
    int rc = emb_track_open(&tracker, d->pidfd, &d->record, busy_fd, err);
    if (rc == 0)
        rc = emb_track_start(&tracker, err);
    uint64_t begin_ns = emb_now_ns();
    /* The guest's end cuts the sample short. */
    if (rc == 0 && emb_proc_wait_gone(d->pidfd, sample_ms))
        rc = ha_err_set(err, HA_E_NOT_FOUND, "domain %u has ended", d->record.domid);
    if (rc == 0)
        rc = emb_track_collect(&tracker, true, bitmap, &count, err);
    uint64_t ms = (emb_now_ns() - begin_ns) / 1000000u;
    emb_track_close(&tracker);
    free(bitmap);
    if (rc == 0)
        *ret_pages_s = count * 1000 / (ms != 0 ? ms : 1);
    return rc;
}

enum hv_outcome emb_dirty_sample(struct hv *hv, uint32_t domid, uint32_t sample_ms,
                                 uint64_t *ret_pages_s, struct ha_err *err)
{
    struct emb_domain d;
    int rc;

    emb_release_kept(emb_of(hv));
    if (emb_domain_open_alive(emb_of(hv), domid, &d, err) != 0)
        return HV_FAILED;
    int busy = emb_domain_lock(&d, EMB_FILE_BUSY, EMB_BUSY_MS, err);
    rc = busy < 0 ? busy : sample(&d, busy, sample_ms, ret_pages_s, err);
    if (busy >= 0)
        close(busy);
    emb_domain_close(&d);
    return rc == 0 ? HV_OK : HV_FAILED;
}

enum hv_outcome emb_log_dirty_off(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct emb_domain d;

    emb_release_kept(emb_of(hv));
    int rc = emb_domain_open(emb_of(hv), domid, &d, err);
    if (rc == -HA_E_NOT_FOUND)
        return HV_FAILED;
    if (rc != 0)
        return HV_UNKNOWN;
    /* A save that lives needs its tracking, and switches it off itself. */
    int busy = emb_domain_lock(&d, EMB_FILE_BUSY, EMB_WORK_LOCK_MS, err);
    rc = busy < 0 ? busy : 0;
    if (rc == 0 && d.pidfd >= 0)
        rc = emb_track_off(d.pidfd, &d.record, err);
    if (rc == 0)
        rc = emb_cap_off(&d, err);
    if (busy >= 0)
        close(busy);
    emb_domain_close(&d);
    return rc == 0 ? HV_OK : HV_UNKNOWN;
}

enum hv_outcome emb_checkpoint(struct hv *hv, uint32_t domid, int fd, struct ha_err *err)
{
    (void)hv;
    (void)domid;
    (void)fd;
    hv_failed(err, HA_E_REFUSED, "the embedded hypervisor has no continuous replication");
    return HV_NOT_OFFERED;
}
