/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/embedded/sandbox.h"

#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "hamgr/hv/embedded/guestabi.h"

/* What the sanitizers' runtimes do between the workload's own calls; test builds only. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EXIT_CALLS                                                                                 \
    SCMP_SYS(exit), SCMP_SYS(sigaltstack), SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(futex)
#else
#define EXIT_CALLS SCMP_SYS(exit)
#endif

static int allow_plain(scmp_filter_ctx filter)
{
    /* rt_sigreturn, restart_syscall: what the kernel makes of a sleep that a stop interrupted. */
    const int calls[] = {SCMP_SYS(clock_nanosleep), SCMP_SYS(clock_gettime), SCMP_SYS(rt_sigreturn),
                         SCMP_SYS(restart_syscall), SCMP_SYS(exit_group),    EXIT_CALLS};
    int rc = 0;

    for (size_t n = 0; n < sizeof(calls) / sizeof(calls[0]) && rc == 0; n++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[n], 0);
    return rc;
}

static int allow_write(scmp_filter_ctx filter, unsigned fd, unsigned size)
{
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(write), 2, SCMP_A0(SCMP_CMP_EQ, fd),
                            SCMP_A2(SCMP_CMP_EQ, size));
}

int sandbox_enter(bool has_disk)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc;

    if (!filter)
        return -ENOMEM;
    rc = allow_plain(filter);
    if (rc == 0)
        rc = allow_write(filter, EMB_FD_REPORT, sizeof(struct emb_report));
    if (rc == 0 && has_disk)
        rc = allow_write(filter, EMB_FD_BELL, 1);
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(close), 1,
                              SCMP_A0(SCMP_CMP_EQ, EMB_FD_REPORT));
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(kill), 2,
                              SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()),
                              SCMP_A1(SCMP_CMP_EQ, SIGSTOP));
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    return rc;
}
