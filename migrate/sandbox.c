/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define USER_NAME "hamgr"
#define USER_ELSE 65534u /* nobody, where there is no user hamgr */
#define FDS_MAX   64 /* 4 handed over, a listener, 16 strangers, 9 connections, some of our own */

int sandbox_early(struct ha_err *err)
{
    const struct rlimit none = {0, 0};
    const struct rlimit few = {FDS_MAX, FDS_MAX};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_NOFILE, &few) < 0 ||
        signal(SIGPIPE, SIG_IGN) == SIG_ERR || signal(SIGTERM, SIG_IGN) == SIG_ERR)
        return ha_err_set(err, errno, "hardening: %s", strerror(errno));
    return 0;
}

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    ssize_t r = write(fd, text, strlen(text));
    int rc = r < 0 ? -errno : 0;
    close(fd);
    return rc;
}

/* Unprivileged: a user namespace gives the right to unmount our own view. */
static int enter_user_namespace(uid_t uid, gid_t gid)
{
    char map[64];

    if (unshare(CLONE_NEWUSER) < 0)
        return -errno;
    snprintf(map, sizeof(map), "%u %u 1\n", (unsigned)uid, (unsigned)uid);
    int rc = write_text("/proc/self/uid_map", map);
    if (rc == 0)
        rc = write_text("/proc/self/setgroups", "deny\n");
    snprintf(map, sizeof(map), "%u %u 1\n", (unsigned)gid, (unsigned)gid);
    return rc < 0 ? rc : write_text("/proc/self/gid_map", map);
}

/* A root directory with nothing in it, read-only, and nothing mounted below. */
static int empty_view(void)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

    if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
        return -errno;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/tmp", "tmpfs", flags, "size=4k,nr_inodes=2,mode=0555") < 0 ||
        chdir("/tmp") < 0)
        return -errno;
    /* pivot_root onto itself puts the old root over the new one; unmounting it leaves the new. */
    if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return -errno;
    if (mount(NULL, "/", NULL, flags | MS_REMOUNT | MS_RDONLY | MS_BIND, NULL) < 0)
        return -errno;
    return 0;
}

static int drop_capabilities(struct ha_err *err)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};

    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capset, &head, none) < 0)
        return ha_err_set(err, errno, "dropping capabilities: %s", strerror(errno));
    return 0;
}

static int drop_user(uid_t uid, gid_t gid, struct ha_err *err)
{
    if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
        return ha_err_set(err, errno, "dropping root: %s", strerror(errno));
    if (getuid() != uid || geteuid() != uid || setuid(0) == 0)
        return ha_err_set(err, EPERM, "dropping root had no effect");
    return 0;
}

int sandbox_enter(char *ret_missing, struct ha_err *err)
{
    bool is_root = geteuid() == 0;
    uid_t uid = is_root ? USER_ELSE : geteuid();
    gid_t gid = is_root ? USER_ELSE : getegid();
    const struct passwd *user = is_root ? getpwnam(USER_NAME) : NULL;
    pid_t parent = getppid();
    int rc = 0;

    ret_missing[0] = '\0';
    if (user && user->pw_uid != 0) {
        uid = user->pw_uid;
        gid = user->pw_gid;
    }
    if (!is_root) {
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* /proc/self is ours only while dumpable */
        rc = enter_user_namespace(uid, gid);
    }
    if (rc == 0)
        rc = empty_view();
    if (rc < 0)
        snprintf(ret_missing, HA_TEXT_MAX, "no empty mount view on this host: %s", strerror(-rc));
    rc = is_root ? drop_user(uid, gid, err) : 0;
    if (rc == 0)
        rc = drop_capabilities(err);
    if (rc < 0)
        return rc;
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        return ha_err_set(err, HA_E_CANCELLED, "hamgrd is gone");
    return 0;
}

/* Moving bytes, waiting, memory, the end. */
static const int stream_calls[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(shutdown),
    SCMP_SYS(close),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(getrandom),
    SCMP_SYS(getpid),
    SCMP_SYS(rt_sigprocmask), /* of a thread that ends */
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigreturn),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(restart_syscall),
};

/* A sanitizer's own calls, in its builds only (SANDBOX_SANITIZED comes from CMake). */
static const int sanitizer_calls[] = {
    SCMP_SYS(sigaltstack), SCMP_SYS(prctl),       SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),   SCMP_SYS(sched_yield), SCMP_SYS(gettid),
};

/* kTLS hands keys to the kernel; no other option of a socket can be set. */
#define SOL_TLS_LEVEL 282
#define TCP_ULP_NAME  31

/* What a handshake needs besides: nothing that opens or names anything. */
static const int handshake_calls[] = {
    SCMP_SYS(accept4),     SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(getpeername),
    SCMP_SYS(getsockname), SCMP_SYS(fcntl),      SCMP_SYS(seccomp),    SCMP_SYS(prctl),
};

static int allow(scmp_filter_ctx ctx, const int *calls, size_t count)
{
    int rc = 0;

    for (size_t i = 0; i < count && rc == 0; i++)
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
    return rc;
}

/* Memory may be had, but never executable. */
static int allow_memory(scmp_filter_ctx ctx)
{
    const struct scmp_arg_cmp not_exec = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, not_exec);

    return rc < 0 ? rc : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, not_exec);
}

static int allow_ktls(scmp_filter_ctx ctx)
{
    int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2,
                              SCMP_A1(SCMP_CMP_EQ, IPPROTO_TCP, 0),
                              SCMP_A2(SCMP_CMP_EQ, TCP_ULP_NAME, 0));

    return rc < 0 ? rc
                  : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 1,
                                     SCMP_A1(SCMP_CMP_EQ, SOL_TLS_LEVEL, 0));
}

int sandbox_filter(enum sandbox_stage stage, struct ha_err *err)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc = ctx ? 0 : -ENOMEM;

    /* For every thread, those already running too. */
    if (rc == 0)
        rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0)
        rc = allow(ctx, stream_calls, sizeof(stream_calls) / sizeof(stream_calls[0]));
    if (rc == 0)
        rc = allow_memory(ctx);
    if (rc == 0 && SANDBOX_SANITIZED)
        rc = allow(ctx, sanitizer_calls, sizeof(sanitizer_calls) / sizeof(sanitizer_calls[0]));
    if (rc == 0 && stage == SANDBOX_HANDSHAKE)
        rc = allow(ctx, handshake_calls, sizeof(handshake_calls) / sizeof(handshake_calls[0]));
    if (rc == 0 && stage != SANDBOX_HANDSHAKE)
        rc = allow_ktls(ctx);
    if (rc == 0 && stage == SANDBOX_DOOR)
        rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(accept4), 0);
    if (rc == 0)
        rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0)
        rc = seccomp_load(ctx);
    seccomp_release(ctx);
    return rc < 0 ? ha_err_set(err, rc, "seccomp: %s", strerror(-rc)) : 0;
}
