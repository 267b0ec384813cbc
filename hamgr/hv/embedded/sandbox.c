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

/* Allows call when two of its arguments have these values. */
static int allow_with(scmp_filter_ctx filter, int call, unsigned first, scmp_datum_t first_value,
                      unsigned second, scmp_datum_t second_value)
{
    const struct scmp_arg_cmp wanted[2] = {
        {.arg = first, .op = SCMP_CMP_EQ, .datum_a = first_value, .datum_b = 0},
        {.arg = second, .op = SCMP_CMP_EQ, .datum_a = second_value, .datum_b = 0},
    };

    return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, first == second ? 1 : 2, wanted);
}

int sandbox_enter(bool has_disk)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc;

    if (!filter)
        return -ENOMEM;
    rc = allow_plain(filter);
    if (rc == 0)
        rc = allow_with(filter, SCMP_SYS(write), 0, EMB_FD_REPORT, 2, sizeof(struct emb_report));
    if (rc == 0 && has_disk)
        rc = allow_with(filter, SCMP_SYS(write), 0, EMB_FD_BELL, 2, 1);
    if (rc == 0)
        rc = allow_with(filter, SCMP_SYS(close), 0, EMB_FD_REPORT, 0, EMB_FD_REPORT);
    if (rc == 0)
        rc = allow_with(filter, SCMP_SYS(kill), 0, (scmp_datum_t)getpid(), 1, SIGSTOP);
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    return rc;
}
