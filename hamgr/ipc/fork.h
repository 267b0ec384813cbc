/* SPDX-License-Identifier: Apache-2.0
 *
 * Forking from a daemon whose signal handlers write to a pipe (libqb's loop): a signal for the
 * child that comes before its exec must not run the parent's handler in the child, for the pipe is
 * shared and the parent would take the signal for its own.
 */
#ifndef HAMGR_IPC_FORK_H
#define HAMGR_IPC_FORK_H

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

/* As fork(2); the child has default dispositions and an empty mask. Async-signal-safe. */
static inline pid_t ha_fork(void)
{
    sigset_t all, before;

    sigfillset(&all);
    if (sigprocmask(SIG_SETMASK, &all, &before) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        for (int number = 1; number < NSIG; number++)
            (void)sigaction(number, &action, NULL); /* KILL, STOP and libc's own refuse */
        sigemptyset(&before);
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return pid;
}

#endif
