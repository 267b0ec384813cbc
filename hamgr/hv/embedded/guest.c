/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-guest, the process that is an embedded guest. Its trusted stage makes the memory, maps the
 * pages it shares, proves its identity in the record, opens the dirty tracking, gives away what it
 * may not keep, locks itself in and stops itself. What runs after the gate's first `run` is the
 * workload alone, behind the seccomp filter.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hamgr/hv/embedded/guestloop.h"
#include "hamgr/hv/embedded/proc.h"
#include "hamgr/hv/embedded/record.h"
#include "hamgr/hv/embedded/sandbox.h"
#include "hamgr/hv/embedded/uffd.h"

static _Noreturn void fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static _Noreturn void fail(int code, const char *fmt, ...)
{
    struct emb_report report = {.code = code > 0 ? code : EIO};
    va_list args;

    va_start(args, fmt);
    vsnprintf(report.text, sizeof(report.text), fmt, args);
    va_end(args);
    ssize_t n = write(EMB_FD_REPORT, &report, sizeof(report));
    _exit(n == (ssize_t)sizeof(report) ? 1 : 2);
}

static void read_boot(struct emb_boot *ret)
{
    int fd = openat(EMB_FD_DOMAIN, EMB_FILE_BOOT, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0 || read(fd, ret, sizeof(*ret)) != (ssize_t)sizeof(*ret) ||
        ret->magic != EMB_BOOT_MAGIC || ret->version != EMB_VERSION)
        fail(errno ? errno : EPROTO, "read the boot file: not by this build of the driver");
    ret->observer_path[sizeof(ret->observer_path) - 1] = '\0';
    close(fd);
}

/* Every page is there before the guest is called complete: nobody runs out of memory later. */
static void *make_memory(uint64_t size)
{
    int fd = memfd_create(EMB_COMM, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        fail(errno, "make memory: %s", strerror(errno));
    if (fallocate(fd, 0, 0, (off_t)size) != 0)
        fail(errno, "allocate %llu MiB: %s", (unsigned long long)(size >> 20), strerror(errno));
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        fail(errno, "seal memory: %s", strerror(errno));
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail(errno, "map memory: %s", strerror(errno));
    /* Tracking is by 4 KiB pages; a huge page would be split at the first fault anyway. */
    madvise(memory, size, MADV_NOHUGEPAGE);
    /* Mapped now, not at first use; by hand it takes two thirds of the time of MAP_POPULATE. */
    for (uint64_t at = 0; at < size; at += EMB_PAGE)
        *(volatile uint8_t *)(memory + at) = 0;
    if (dup3(fd, EMB_FD_MEMORY, 0) < 0)
        fail(errno, "keep memory: %s", strerror(errno));
    close(fd);
    return memory;
}

static uint32_t track_memory(const struct emb_boot *boot, void *memory, uint64_t size)
{
    enum emb_tracking tracking;
    int fd = emb_uffd_open(boot->is_sync_wp != 0, &tracking);
    struct uffdio_register range = {
        .range = {.start = (uintptr_t)memory, .len = size},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };

    if (fd < 0)
        return EMB_TRACK_NONE;
    if (ioctl(fd, UFFDIO_REGISTER, &range) != 0)
        tracking = EMB_TRACK_NONE;
    else if (dup3(fd, EMB_FD_UFFD, 0) < 0)
        fail(errno, "keep dirty tracking: %s", strerror(errno));
    close(fd);
    return tracking;
}

static void *map_file(const char *name, size_t size, bool is_writable)
{
    int flags = (is_writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW;
    int fd = openat(EMB_FD_DOMAIN, name, flags);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size < (off_t)size)
        fail(errno ? errno : EPROTO, "open %s: missing or too short", name);
    void *page =
        mmap(NULL, size, is_writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        fail(errno, "map %s: %s", name, strerror(errno));
    close(fd);
    return page;
}

/* Only the guest's own slot is mapped. The file is shared by nodes: fallocate only ever grows it,
 * whoever else does the same at the same time. */
static struct hv_observer_slot *map_slot(const struct emb_boot *boot)
{
    off_t at = (off_t)boot->definition.observer_slot * (off_t)HV_OBSERVER_SLOT;
    struct stat st;

    if (boot->definition.observer_slot == EMB_NO_SLOT || boot->observer_path[0] == '\0')
        return NULL;
    int fd = open(boot->observer_path, O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return NULL;
    if (fd < 0 || fstat(fd, &st) != 0)
        fail(errno, "open observer page: %s", strerror(errno));
    if (st.st_size < at + (off_t)HV_OBSERVER_SLOT && fallocate(fd, 0, at, HV_OBSERVER_SLOT) != 0)
        fail(errno, "grow observer page: %s", strerror(errno));
    void *slot = mmap(NULL, HV_OBSERVER_SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
    if (slot == MAP_FAILED)
        fail(errno, "map observer page: %s", strerror(errno));
    close(fd);
    return slot;
}

static struct emb_disk_ring *map_ring(const struct emb_boot *boot)
{
    if (boot->definition.disk == EMB_DISK_NONE)
        return NULL;
    void *ring = mmap(NULL, EMB_DISK_RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, EMB_FD_RING, 0);
    if (ring == MAP_FAILED)
        fail(errno, "map disk ring: %s", strerror(errno));
    return ring;
}

/* From here on the driver and everybody after it can find and name this process. */
static void prove_identity(const struct guest *g, uint64_t size, uint32_t tracking)
{
    struct emb_record record;
    struct emb_proc self;
    struct ha_err err = {0};

    if (emb_record_read(EMB_FD_DOMAIN, &record, &err) != 0)
        fail(err.code, "%s", err.text);
    if (record.phase != EMB_BUILDING || record.pid != 0)
        fail(EEXIST, "the domain has a process already");
    if (emb_proc_read(getpid(), &self) != 0)
        fail(EPROTO, "read /proc/self/stat");
    record.pid = (uint32_t)getpid();
    record.start_time = self.start_time;
    record.memory_address = (uintptr_t)g->memory;
    record.memory_size = size;
    record.tracking = tracking;
    if (emb_record_write(EMB_FD_DOMAIN, &record, &err) != 0)
        fail(err.code, "%s", err.text);
    if (dup3(EMB_FD_MARK, EMB_FD_DOMAINS, 0) < 0)
        fail(errno, "keep the mark: %s", strerror(errno));
}

/* hamgr-hv may be shielded from the kernel's out-of-memory killer; its guests are not. */
static void join_the_ordinary(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0 && write(fd, "0", 1) != 1)
        fail(errno, "oom_score_adj: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void keep_only(bool has_disk)
{
    close_range(EMB_FD_DOMAIN, EMB_FD_MEMORY - 1, 0);
    close_range(has_disk ? EMB_FD_BELL + 1 : EMB_FD_BELL, ~0u, 0);
    close_range(0, EMB_FD_REPORT - 1, 0);
}

static void give_up_privileges(const struct emb_boot *boot)
{
    const struct rlimit none = {0, 0};
    uid_t uid = (uid_t)boot->guest_uid;

    setrlimit(RLIMIT_CORE, &none);
    if (uid != 0 &&
        (setgroups(0, NULL) != 0 || setresgid((gid_t)uid, (gid_t)uid, (gid_t)uid) != 0 ||
         setresuid(uid, uid, uid) != 0))
        fail(errno, "become uid %u: %s", boot->guest_uid, strerror(errno));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        fail(errno, "no_new_privs: %s", strerror(errno));
    int rc = sandbox_enter(boot->definition.disk != EMB_DISK_NONE);
    if (rc != 0)
        fail(-rc, "seccomp: %s", strerror(-rc));
}

/* The last words to the driver. Without anybody listening this guest is nobody's: it goes. */
static void report_ready(pid_t self)
{
    const struct emb_report report = {.text = "ready"};

    if (write(EMB_FD_REPORT, &report, sizeof(report)) != (ssize_t)sizeof(report))
        _exit(2);
    close(EMB_FD_REPORT);
    kill(self, SIGSTOP);
}

int main(void)
{
    struct emb_boot boot;
    struct guest g = {0};

    prctl(PR_SET_NAME, EMB_COMM);
    /* A disk backend that is away must not end the guest. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    join_the_ordinary();
    read_boot(&boot);
    uint64_t size = (uint64_t)boot.definition.memory_mib << 20;
    g.label = map_file(EMB_FILE_LABEL, EMB_PAGE_SHARED, false);
    g.status = map_file(EMB_FILE_STATUS, EMB_PAGE_SHARED, true);
    if (boot.definition.has_console)
        g.console = map_file(EMB_FILE_CONSOLE, sizeof(*g.console), true);
    g.slot = map_slot(&boot);
    g.ring = map_ring(&boot);
    g.memory = make_memory(size);
    g.page_count = size / EMB_PAGE;
    uint32_t tracking = track_memory(&boot, g.memory, size);
    if (!boot.is_restored)
        wl_format(&g.wl, g.memory, g.page_count, &boot.definition);
    prove_identity(&g, size, tracking);
    keep_only(g.ring != NULL);
    pid_t self = getpid(); /* the filter forbids to ask later */
    give_up_privileges(&boot);
    report_ready(self);
    guest_loop(&g);
}
