/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes as /proc shows them: who is it (pid and start time), is it stopped, is it gone.
 */
#ifndef HAMGR_HV_EMBEDDED_PROC_H
#define HAMGR_HV_EMBEDDED_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* One line of /proc/PID/stat. */
struct emb_proc {
    char state; /* 'R' 'S' 'D' 'T' 'Z' ... */
    uint64_t start_time;
};

/* Reads /proc/pid/stat. Returns 0, -ESRCH when there is no such process, or another error. */
int emb_proc_read(pid_t pid, struct emb_proc *ret);
/* True if the process is there and neither dead nor a zombie. */
bool emb_proc_is_alive(const struct emb_proc *proc);
/* A pidfd (CLOEXEC) of the process with that pid and start time; -ESRCH if it is not there (any
 * more). The check comes after the open, so the fd can't be another process's. ret_state (may be
 * NULL): its main thread's state. */
int emb_proc_open(pid_t pid, uint64_t start_time, char *ret_state);
/* True if every thread is stopped by a signal (state T). False also when unreadable. */
bool emb_proc_is_stopped(pid_t pid);
/* Waits until every thread is stopped, at most timeout_ms. Returns 0, -ESRCH, or -ETIMEDOUT. */
int emb_proc_wait_stopped(pid_t pid, uint64_t start_time, uint32_t timeout_ms);
/* Waits for the process behind pidfd to end, at most timeout_ms. True if it has. */
bool emb_proc_wait_gone(int pidfd, uint32_t timeout_ms);
/* pidfd_send_signal, pidfd_getfd: 0 or the fd, or -errno. */
int emb_proc_signal(int pidfd, int signal);
int emb_proc_get_fd(int pidfd, int fd);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t emb_now_ns(void);

#endif
