/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/embedded/proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint64_t emb_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The name in parentheses may hold anything, so the fields count from the last ')': state is the
 * 3rd field of the line, start time the 22nd. */
static int parse_stat(const char *line, struct emb_proc *ret)
{
    const char *p = strrchr(line, ')');

    if (!p || p[1] != ' ' || p[2] == '\0')
        return -EPROTO;
    ret->state = p[2];
    p += 2;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p)
            return -EPROTO;
        p++;
    }
    ret->start_time = strtoull(p, NULL, 10);
    return 0;
}

static int read_stat(const char *path, struct emb_proc *ret)
{
    char line[1024];
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    ssize_t n = read(fd, line, sizeof(line) - 1);
    int code = errno;
    close(fd);
    if (n <= 0)
        return n < 0 ? -code : -ESRCH;
    line[n] = '\0';
    return parse_stat(line, ret);
}

int emb_proc_read(pid_t pid, struct emb_proc *ret)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    return read_stat(path, ret);
}

bool emb_proc_is_alive(const struct emb_proc *proc)
{
    return proc->state != 'Z' && proc->state != 'X' && proc->state != 'x';
}

int emb_proc_open(pid_t pid, uint64_t start_time, char *ret_state)
{
    struct emb_proc proc;

    if (pid <= 0)
        return -ESRCH;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0u);
    if (fd < 0)
        return -errno;
    int rc = emb_proc_read(pid, &proc);
    if (rc == 0 && (proc.start_time != start_time || !emb_proc_is_alive(&proc)))
        rc = -ESRCH;
    if (rc != 0) {
        close(fd);
        return rc;
    }
    if (ret_state)
        *ret_state = proc.state;
    return fd;
}

bool emb_proc_is_stopped(pid_t pid)
{
    char path[64];
    unsigned count = 0;
    struct dirent *entry;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    while ((entry = readdir(dir)) != NULL) {
        char task[128];
        struct emb_proc proc;
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        snprintf(task, sizeof(task), "/proc/%d/task/%.16s/stat", (int)pid, entry->d_name);
        if (read_stat(task, &proc) != 0 || proc.state != 'T') {
            closedir(dir);
            return false;
        }
        count++;
    }
    closedir(dir);
    return count > 0;
}

int emb_proc_wait_stopped(pid_t pid, uint64_t start_time, uint32_t timeout_ms)
{
    /* A signalled thread stops within microseconds of getting a processor: look often at first,
     * then every millisecond. */
    const struct timespec short_nap = {.tv_nsec = 30000}, nap = {.tv_nsec = 1000000};
    uint64_t end_ns = emb_now_ns() + (uint64_t)timeout_ms * 1000000u;

    for (unsigned round = 0;; round++) {
        struct emb_proc proc;
        int rc = emb_proc_read(pid, &proc);
        if (rc == -ESRCH ||
            (rc == 0 && (proc.start_time != start_time || !emb_proc_is_alive(&proc))))
            return -ESRCH;
        if (rc == 0 && proc.state == 'T' && emb_proc_is_stopped(pid))
            return 0;
        if (emb_now_ns() >= end_ns)
            return -ETIMEDOUT;
        nanosleep(round < 50 ? &short_nap : &nap, NULL);
    }
}

bool emb_proc_wait_gone(int pidfd, uint32_t timeout_ms)
{
    uint64_t end_ns = emb_now_ns() + (uint64_t)timeout_ms * 1000000u;

    for (;;) {
        struct pollfd p = {.fd = pidfd, .events = POLLIN};
        uint64_t now_ns = emb_now_ns();
        int left_ms = now_ns >= end_ns ? 0 : (int)((end_ns - now_ns) / 1000000u) + 1;
        int n = poll(&p, 1, left_ms);
        if (n > 0)
            return true;
        if (n == 0 && left_ms == 0)
            return false;
    }
}

int emb_proc_signal(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0u) == 0 ? 0 : -errno;
}

int emb_proc_get_fd(int pidfd, int fd)
{
    int got = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0u);

    return got >= 0 ? got : -errno;
}
