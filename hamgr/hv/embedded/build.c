/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a domain: directory, record, shared pages, disk, process; and unmaking one.
 *
 * The order makes every crash of the worker harmless. The record comes first, in phase BUILDING;
 * then the process, which writes its own identity into the record before it can run anything of the
 * workload and stops itself when it is ready; a process whose worker died before that ends by
 * itself.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hamgr/hv/embedded/disk.h"
#include "hamgr/hv/embedded/cap.h"
#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/proc.h"
#include "hamgr/hv/embedded/record.h"

/* Touching memory for the first time takes up to 2 s per GiB on bad days; twice that, and 10 s for
 * a crowded machine. */
#define READY_MS(mib) (10000u + (mib)*4u)

struct building {
    struct hv_embedded *e;
    const struct hv_label *label;
    struct emb_definition definition;
    bool is_restored;
    struct emb_domain d;
    struct emb_disk_files disk; /* fds, -1 none */
};

/* ---- directory and files ---- */

/* Under the run directory's lock: the next number that was never used on this node. */
static int next_domid(const struct hv_embedded *e, uint32_t *ret, struct ha_err *err)
{
    int fd = openat(e->run_fd, "next-domid", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    uint32_t next = 0;

    if (fd < 0)
        return ha_err_set(err, errno, "open next-domid: %s", strerror(errno));
    if (pread(fd, &next, sizeof(next), 0) != (ssize_t)sizeof(next) || next == 0)
        next = 1;
    *ret = next++;
    ssize_t n = pwrite(fd, &next, sizeof(next), 0);
    int code = n < 0 ? errno : EIO;
    close(fd);
    if (n != (ssize_t)sizeof(next) || *ret >= EMB_UNKNOWN_BIT)
        return ha_err_set(err, code, "write next-domid: %s", strerror(code));
    return 0;
}

static int make_dir(struct building *b, uint32_t *ret_domid, struct ha_err *err)
{
    char name[16];

    for (int tries = 0; tries < 1000; tries++) {
        int rc = next_domid(b->e, ret_domid, err);
        if (rc != 0)
            return rc;
        snprintf(name, sizeof(name), "%u", *ret_domid);
        if (mkdirat(b->e->domains_fd, name, 0700) == 0) {
            b->d.dir_fd = openat(b->e->domains_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            return b->d.dir_fd >= 0 ? 0
                                    : ha_err_set(err, errno, "open %s: %s", name, strerror(errno));
        }
        if (errno != EEXIST)
            return ha_err_set(err, errno, "make directory: %s", strerror(errno));
    }
    return ha_err_set(err, HA_E_LIMIT, "no free domain number");
}

/* Refuses a second domain of the same label and memory that is not there. Holding the lock until
 * the record exists makes the check hold. */
static int admit(const struct building *b, struct ha_err *err)
{
    uint64_t need_kib = (uint64_t)b->definition.memory_mib << 10;
    int count = emb_list_records(b->e, b->e->scratch, HA_GUESTS_MAX);

    if (count < 0 || count == HA_GUESTS_MAX)
        return ha_err_set(err, HA_E_LIMIT, "%d domains, or they can't be listed", count);
    for (int n = 0; n < count; n++)
        if (b->e->scratch[n].is_labelled && emb_label_equal(&b->e->scratch[n].label, b->label))
            return ha_err_set(err, HA_E_EXISTS, "domain %u is that guest at that epoch",
                              b->e->scratch[n].domid);
    uint64_t free_kib = emb_free_kib(b->e, b->e->scratch, count, b->label);
    if (need_kib > free_kib)
        return ha_err_set(err, HA_E_NO_MEMORY, "%llu MiB wanted, %llu MiB free",
                          (unsigned long long)(need_kib >> 10),
                          (unsigned long long)(free_kib >> 10));
    return 0;
}

static int make_record(struct building *b, const char *name, struct ha_err *err)
{
    struct emb_record *record = &b->d.record;
    int lock = openat(b->e->run_fd, EMB_FILE_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    uint32_t domid = 0;

    if (lock < 0 || flock(lock, LOCK_EX) != 0) {
        int rc = ha_err_set(err, errno, "lock run directory: %s", strerror(errno));
        if (lock >= 0)
            close(lock);
        return rc;
    }
    int rc = admit(b, err);
    if (rc == 0)
        rc = make_dir(b, &domid, err);
    if (rc == 0) {
        memset(record, 0, sizeof(*record));
        record->phase = EMB_BUILDING;
        record->domid = domid;
        record->label = *b->label;
        record->mem_kib = (uint64_t)b->definition.memory_mib << 10;
        record->disk = b->definition.disk;
        record->is_restored = b->is_restored;
        snprintf(record->name, sizeof(record->name), "%s", name);
        rc = emb_record_write(b->d.dir_fd, record, err);
    }
    close(lock);
    return rc;
}

static int make_file(int dir_fd, const char *name, const void *data, size_t size, size_t file_size,
                     struct ha_err *err)
{
    int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return ha_err_set(err, errno, "create %s: %s", name, strerror(errno));
    int rc = 0;
    /* Space now: a page that can't be had later would kill the guest with SIGBUS. */
    if (fallocate(fd, 0, 0, (off_t)file_size) != 0 || write(fd, data, size) != (ssize_t)size)
        rc = ha_err_set(err, errno ? errno : ENOSPC, "fill %s: %s", name, strerror(errno));
    close(fd);
    return rc;
}

static int make_files(struct building *b, struct ha_err *err)
{
    const struct hv_console console = {.magic = HV_CONSOLE_MAGIC};
    const struct emb_status_page status = {.end = EMB_END_NONE};
    struct emb_boot boot = {
        .magic = EMB_BOOT_MAGIC,
        .version = EMB_VERSION,
        .definition = b->definition,
        .node_id = b->e->node_id,
        .guest_uid = (uint32_t)b->e->guest_uid,
        .is_restored = b->is_restored,
        .is_sync_wp = b->e->is_sync_wp,
    };
    struct emb_label_page label = {
        .magic = EMB_LABEL_MAGIC,
        .version = EMB_VERSION,
        .label = *b->label,
        .node_id = b->e->node_id,
        .is_restored = b->is_restored,
        .definition = b->definition,
    };
    int dir = b->d.dir_fd;

    memcpy(boot.observer_path, b->e->observer_path, sizeof(boot.observer_path));
    int rc = make_file(dir, EMB_FILE_BOOT, &boot, sizeof(boot), sizeof(boot), err);
    if (rc == 0)
        rc = make_file(dir, EMB_FILE_LABEL, &label, sizeof(label), EMB_PAGE_SHARED, err);
    if (rc == 0)
        rc = make_file(dir, EMB_FILE_STATUS, &status, sizeof(status), EMB_PAGE_SHARED, err);
    if (rc == 0 && b->definition.has_console)
        rc = make_file(dir, EMB_FILE_CONSOLE, &console, sizeof(console), sizeof(console), err);
    return rc;
}

static int make_disk(struct building *b, struct ha_err *err)
{
    enum emb_disk_mode mode =
        b->definition.disk == EMB_DISK_WRITEBACK ? EMB_DISK_BACK : EMB_DISK_THROUGH;

    if (b->definition.disk == EMB_DISK_NONE)
        return 0;
    return emb_disk_create(b->e->disk_dir, b->label->guest, b->label->epoch, mode, &b->disk, err);
}

/* ---- process ---- */

/* In the grandchild, between fork and exec: system calls only. */
static _Noreturn void become_guest(const struct building *b, int report_fd)
{
    const int from[] = {report_fd, b->d.dir_fd, b->disk.ring_fd, b->e->domains_fd, b->disk.bell_fd};
    const int to[] = {EMB_FD_REPORT, EMB_FD_DOMAIN, EMB_FD_RING, EMB_FD_MARK, EMB_FD_BELL};
    int high[5];
    char name[] = EMB_COMM;
    char *argv[] = {name, NULL};
    char *envp[] = {NULL};
    const struct sched_param ordinary = {.sched_priority = 0};
    sigset_t none;
    int is_bad = 0;

    /* A session of its own: a stopped process in a group that loses its last parent would be sent
     * SIGHUP and SIGCONT by the kernel. And nothing that happens to hamgr-hv's group meets it. */
    setsid();
    for (int n = 0; n < 5; n++) {
        high[n] = from[n] < 0 ? -1 : fcntl(from[n], F_DUPFD, 200);
        is_bad |= from[n] >= 0 && high[n] < 0;
    }
    for (int n = 0; n < 5; n++)
        is_bad |= high[n] >= 0 ? dup2(high[n], to[n]) < 0
                               : close_range((unsigned)to[n], (unsigned)to[n], 0) != 0;
    int null_fd = open("/dev/null", O_RDWR);
    for (int n = 0; n < 3 && null_fd >= 0; n++)
        is_bad |= dup2(null_fd, n) < 0;
    close_range(EMB_FD_MARK + 1, EMB_FD_BELL - 1, 0);
    close_range(EMB_FD_BELL + (b->disk.bell_fd >= 0), ~0u, 0);
    for (int n = 1; n < NSIG; n++)
        signal(n, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* hamgr-hv is real-time and locked in memory; its guests are ordinary. */
    sched_setscheduler(0, SCHED_OTHER, &ordinary);
    setpriority(PRIO_PROCESS, 0, 0);
    if (!is_bad && null_fd >= 0 && chdir("/") == 0)
        execve(b->e->guest_binary, argv, envp);
    struct emb_report report = {.code = errno ? errno : EBADF, .text = "start the guest program"};
    ssize_t n = write(EMB_FD_REPORT, &report, sizeof(report));
    _exit(n > 0 ? 1 : 2);
}

/* Twice forked, so that it is PID 1's child and nobody here has to wait for it. Sends its pid. */
static int fork_guest(const struct building *b, int report_fd, pid_t *ret_pid, struct ha_err *err)
{
    int pids[2];

    if (pipe2(pids, O_CLOEXEC) != 0)
        return ha_err_set(err, errno, "pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        pid_t pid = fork();
        if (pid == 0)
            become_guest(b, report_fd);
        _exit(write(pids[1], &pid, sizeof(pid)) == (ssize_t)sizeof(pid) ? 0 : 1);
    }
    int code = errno;
    close(pids[1]);
    ssize_t n = child > 0 ? read(pids[0], ret_pid, sizeof(*ret_pid)) : -1;
    close(pids[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    if (child < 0 || n != (ssize_t)sizeof(*ret_pid) || *ret_pid <= 0)
        return ha_err_set(err, child < 0 ? code : EAGAIN, "fork the guest");
    return 0;
}

static int read_report(int fd, uint32_t timeout_ms, struct emb_report *ret, struct ha_err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n;

    do
        n = poll(&p, 1, (int)timeout_ms);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return ha_err_set(err, HA_E_TIMEOUT, "the guest was not ready within %u ms", timeout_ms);
    if (read(fd, ret, sizeof(*ret)) != (ssize_t)sizeof(*ret))
        return ha_err_set(err, EPIPE, "the guest died before it was ready");
    ret->text[sizeof(ret->text) - 1] = '\0';
    if (ret->code != 0)
        return ha_err_set(err, ret->code, "%s", ret->text);
    return 0;
}

static int start_guest(struct building *b, struct ha_err *err)
{
    struct emb_report report;
    int ends[2];
    pid_t pid = -1;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return ha_err_set(err, errno, "pipe: %s", strerror(errno));
    int rc = fork_guest(b, ends[1], &pid, err);
    close(ends[1]);
    if (rc == 0)
        rc = read_report(ends[0], READY_MS(b->definition.memory_mib), &report, err);
    close(ends[0]);
    /* Ready or not, the record may name it by now, and cleaning up needs that. */
    if (emb_record_read(b->d.dir_fd, &b->d.record, NULL) == 0 && b->d.record.pid != 0)
        b->d.pidfd = emb_proc_open((pid_t)b->d.record.pid, b->d.record.start_time, NULL);
    if (rc == 0 && (b->d.pidfd < 0 || b->d.record.pid != (uint32_t)pid))
        rc = ha_err_set(err, EPIPE, "the guest died when it was ready");
    if (rc == 0 && emb_proc_wait_stopped(pid, b->d.record.start_time, EMB_STOP_MS) != 0)
        rc = ha_err_set(err, HA_E_TIMEOUT, "the guest did not stop itself");
    return rc;
}

static void close_disk_fds(struct building *b)
{
    if (b->disk.ring_fd >= 0)
        close(b->disk.ring_fd);
    if (b->disk.bell_fd >= 0)
        close(b->disk.bell_fd);
    b->disk.ring_fd = b->disk.bell_fd = -1;
}

enum hv_outcome emb_build(struct hv_embedded *e, const struct hv_label *label, const char *name,
                          const uint8_t *definition, size_t size, bool is_restored,
                          struct emb_domain *ret, struct ha_err *err)
{
    struct building b = {
        .e = e,
        .label = label,
        .is_restored = is_restored,
        .d = {.dir_fd = -1, .pidfd = -1},
        .disk = {.ring_fd = -1, .bell_fd = -1},
    };
    struct ha_err remove_err = {0};

    if (strnlen(name, HA_NAME_MAX) >= HA_NAME_MAX)
        return hv_failed(err, HA_E_USAGE, "the name is longer than %u bytes", HA_NAME_MAX - 1);
    if (emb_definition_parse(definition, size, &b.definition, err) != 0 ||
        make_record(&b, name, err) != 0)
        goto failed;
    if (make_files(&b, err) == 0 && make_disk(&b, err) == 0 && start_guest(&b, err) == 0) {
        close_disk_fds(&b);
        *ret = b.d;
        return HV_OK;
    }
failed:
    close_disk_fds(&b);
    ha_err_prefix(err, "build %.64s", name);
    if (b.d.dir_fd < 0)
        return HV_FAILED;
    if (emb_remove(e, &b.d, &remove_err) == HV_OK)
        return HV_FAILED;
    return hv_unknown(err, remove_err.code, "build %.64s failed, and so did removing it: %.120s",
                      name, remove_err.text);
}

int emb_build_finish(struct emb_domain *d, struct ha_err *err)
{
    int lock = emb_domain_lock(d, EMB_FILE_LOCK, EMB_WORK_LOCK_MS, err);
    int rc = lock < 0 ? lock : emb_domain_reread(d, err);

    if (rc == 0 && d->record.phase != EMB_BUILDING)
        rc = ha_err_set(err, HA_E_STALE, "the domain was destroyed while it was built");
    if (rc == 0)
        rc = emb_record_set_phase(d->dir_fd, EMB_COMPLETE, err);
    if (lock >= 0)
        close(lock);
    return rc;
}

enum hv_outcome emb_create(struct hv *hv, const struct hv_label *label, const char *name,
                           const uint8_t *definition, size_t size, struct ha_err *err)
{
    struct hv_embedded *e = emb_of(hv);
    struct emb_domain d;

    emb_release_kept(e);
    enum hv_outcome outcome = emb_build(e, label, name, definition, size, false, &d, err);
    if (outcome != HV_OK)
        return outcome;
    if (emb_build_finish(&d, err) != 0)
        return emb_remove(e, &d, NULL) == HV_OK ? HV_FAILED : HV_UNKNOWN;
    emb_domain_close(&d);
    return HV_OK;
}

/* ---- unmaking ---- */

static int kill_process(const struct emb_domain *d, struct ha_err *err)
{
    if (d->pidfd < 0)
        return 0;
    int rc = emb_proc_signal(d->pidfd, SIGKILL);
    if (rc != 0 && rc != -ESRCH)
        return ha_err_set(err, -rc, "kill domain %u: %s", d->record.domid, strerror(-rc));
    if (!emb_proc_wait_gone(d->pidfd, EMB_GONE_MS))
        return ha_err_set(err, HA_E_TIMEOUT, "domain %u did not end within %u ms", d->record.domid,
                          EMB_GONE_MS);
    return 0;
}

/* The record goes last: until then the domain is listed. */
static int remove_dir(struct hv_embedded *e, const struct emb_domain *d, struct ha_err *err)
{
    int fd = openat(d->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    char name[16];

    while (dir && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, EMB_FILE_RECORD) != 0)
            unlinkat(d->dir_fd, entry->d_name, 0);
    if (dir)
        closedir(dir);
    if (unlinkat(d->dir_fd, EMB_FILE_RECORD, 0) != 0 && errno != ENOENT)
        return ha_err_set(err, errno, "remove record: %s", strerror(errno));
    snprintf(name, sizeof(name), "%u", d->record.domid);
    unlinkat(e->domains_fd, name, AT_REMOVEDIR);
    return 0;
}

enum hv_outcome emb_remove(struct hv_embedded *e, struct emb_domain *d, struct ha_err *err)
{
    int lock = emb_domain_lock(d, EMB_FILE_LOCK, EMB_WORK_LOCK_MS, NULL);
    int rc = 0;

    /* No lock (somebody hangs with it): the phase is written all the same, the process dies. */
    if (d->record.magic == EMB_RECORD_MAGIC)
        rc = emb_record_set_phase(d->dir_fd, EMB_DYING, err);
    if (lock >= 0)
        close(lock);
    /* The process may have named itself since the record was read. */
    if (rc == 0 && d->pidfd < 0 && emb_domain_reread(d, NULL) == 0 && d->record.pid != 0)
        d->pidfd = emb_proc_open((pid_t)d->record.pid, d->record.start_time, NULL);
    if (rc == 0)
        rc = kill_process(d, err);
    if (rc == 0)
        rc = emb_cap_off(d, err);
    if (rc == 0 && d->record.disk != EMB_DISK_NONE)
        rc = emb_disk_close(e->disk_dir, d->record.label.guest, d->record.label.epoch, EMB_DISK_MS,
                            err);
    if (rc == 0)
        rc = remove_dir(e, d, err);
    emb_domain_close(d);
    return rc == 0 ? HV_OK : HV_UNKNOWN;
}
