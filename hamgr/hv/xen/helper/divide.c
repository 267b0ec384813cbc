/* SPDX-License-Identifier: Apache-2.0
 *
 * A restore in two processes. libxl waits until the helper it started has ended, then makes the
 * domain's devices; memory is still on its way then. So the program that libxl started divides
 * before it does anything: the front is libxl's child, and does nothing but end when it is told;
 * the mover does the work and talks to libxl through the pipes that it has, too.
 *
 * It can't divide later: what libxenguest has mapped (M2P, the guest's pages) no process inherits.
 *
 * The mover is the front's brother, the worker's child (CLONE_PARENT): who outlives the front dies
 * with the worker all the same, and the worker can end and reap it.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hamgr/hv/xen/helper/helper.h"

/* libxl's own signals end it (SIGTERM of an abort, SIGKILL); the worker ends the mover then. */
_Noreturn static void be_front(const struct helper *h, int mover_fd)
{
    uint8_t word;
    ssize_t n;

    close(h->args.fd);
    close(h->link.fd);
    do
        n = read(mover_fd, &word, sizeof(word));
    while (n < 0 && errno == EINTR);
    _exit(n == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void be_mover(struct helper *h, pid_t worker)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != worker)
        _exit(EXIT_FAILURE);
    (void)prctl(PR_SET_NAME, "hamgr-xen-mover");
    helper_link_say(&h->link, LINK_MOVER, (uint32_t)getpid());
}

void helper_divide(struct helper *h)
{
    pid_t worker;
    int ends[2];

    if (!helper_link_accept(&h->link, &worker))
        return;
    /* Without a pipe or a process it goes on undivided, as without a link. */
    if (pipe(ends) != 0) {
        helper_link_close(&h->link);
        return;
    }
    /* One thread, no lock held: what fork does beside this is not needed. */
    long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    if (pid > 0) {
        close(ends[1]);
        be_front(h, ends[0]);
    }
    close(ends[0]);
    if (pid == 0) {
        h->front_fd = ends[1];
        be_mover(h, worker);
        return;
    }
    close(ends[1]);
    helper_link_close(&h->link);
}

void helper_let_front_go(struct helper *h)
{
    const uint8_t word = 1;

    if (h->front_fd < 0)
        return;
    (void)!write(h->front_fd, &word, sizeof(word));
    close(h->front_fd);
    h->front_fd = -1;
}
