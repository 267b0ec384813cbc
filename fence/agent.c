/* SPDX-License-Identifier: Apache-2.0 */
#include "fence/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qb/qbutil.h>

#include "hamgr/base/assert.h"
#include "hamgr/base/limits.h"
#include "hamgr/ipc/fork.h"

#define INPUT_MAX 16384u
/* Reads in one turn of the loop: whoever writes faster than we read must not keep us from the
 * clock that ends it. */
#define READS_MAX 64
#define KILL_AFTER_MS                                                                              \
    3000u /* between SIGTERM and SIGKILL: what hamgrd allows a result to be late */

struct agent {
    struct agent *next;
    qb_loop_t *loop;
    pid_t pid;
    bool is_reaped;
    int status;
    int output_fd; /* -1 when at end of file */
    size_t output_size;
    bool is_term_sent;
    qb_loop_timer_handle timer;
    agent_done_fn done;
    void *user;
    struct agent_result result;
};

/* The list is what SIGCHLD has to go by: a signal names no object. */
static struct agent *running;

static void finish(struct agent *agent);

static void forget(struct agent *agent)
{
    struct agent **place = &running;

    while (*place && *place != agent)
        place = &(*place)->next;
    if (*place)
        *place = agent->next;
    if (agent->timer)
        qb_loop_timer_del(agent->loop, agent->timer);
    if (agent->output_fd >= 0) {
        qb_loop_poll_del(agent->loop, agent->output_fd);
        close(agent->output_fd);
    }
}

static void on_time(void *data)
{
    struct agent *agent = data;

    agent->timer = 0;
    agent->result.is_timeout = true;
    kill(-agent->pid, agent->is_term_sent ? SIGKILL : SIGTERM);
    if (!agent->is_term_sent) {
        agent->is_term_sent = true;
        qb_loop_timer_add(agent->loop, QB_LOOP_MED, KILL_AFTER_MS * QB_TIME_NS_IN_MSEC, agent,
                          on_time, &agent->timer);
    }
}

static void read_output(struct agent *agent)
{
    char scrap[1024];

    for (int i = 0; i < READS_MAX; i++) {
        size_t room = AGENT_OUTPUT_MAX - 1 - agent->output_size;
        ssize_t r = room > 0
                        ? read(agent->output_fd, agent->result.output + agent->output_size, room)
                        : read(agent->output_fd, scrap, sizeof(scrap)); /* flood: thrown away */
        if (r > 0) {
            if (room > 0)
                agent->output_size += (size_t)r;
            continue;
        }
        if (r < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        qb_loop_poll_del(agent->loop, agent->output_fd);
        close(agent->output_fd);
        agent->output_fd = -1;
        return;
    }
}

static int32_t on_output(int32_t fd, int32_t events, void *data)
{
    struct agent *agent = data;

    (void)fd;
    (void)events;
    read_output(agent);
    if (agent->output_fd < 0 && agent->is_reaped)
        finish(agent);
    return 0;
}

static void finish(struct agent *agent)
{
    agent->result.is_signalled = WIFSIGNALED(agent->status);
    agent->result.code =
        WIFSIGNALED(agent->status) ? WTERMSIG(agent->status) : WEXITSTATUS(agent->status);
    agent->result.output[agent->output_size] = '\0';
    kill(-agent->pid, SIGKILL); /* what it may have left behind in its group */
    forget(agent);
    agent->done(agent->user, &agent->result);
    free(agent);
}

void agent_reap(void)
{
    struct agent *agent = running;

    while (agent) {
        struct agent *next = agent->next;
        if (!agent->is_reaped && waitpid(agent->pid, &agent->status, WNOHANG) == agent->pid) {
            agent->is_reaped = true;
            /* Its output may still be in the pipe; a grandchild may hold the pipe open for ever. */
            if (agent->output_fd >= 0)
                read_output(agent);
            finish(agent);
        }
        agent = next;
    }
}

static void exec_child(const char *path, const char *name, int input_fd, int output_fd)
{
    char *const argv[] = {(char *)(uintptr_t)name, NULL};
    char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};

    setpgid(0, 0);
    if (dup2(input_fd, 0) < 0 || dup2(output_fd, 1) < 0 || dup2(output_fd, 2) < 0)
        _exit(126);
    close_range(3, ~0U, 0);
    execve(path, argv, environment);
    _exit(127);
}

static int open_pipes(int ret_input[2], int ret_output[2], struct ha_err *err)
{
    if (pipe2(ret_input, O_CLOEXEC) < 0)
        return ha_err_set(err, errno, "pipe: %s", strerror(errno));
    if (pipe2(ret_output, O_CLOEXEC) < 0) {
        close(ret_input[0]);
        close(ret_input[1]);
        return ha_err_set(err, errno, "pipe: %s", strerror(errno));
    }
    return 0;
}

int agent_start(qb_loop_t *loop, const char *directory, const char *name, const char *input,
                size_t input_size, uint32_t timeout_ms, agent_done_fn done, void *user,
                struct agent **ret_agent, struct ha_err *err)
{
    char path[512];
    int in[2], out[2];

    if (strncmp(name, "fence_", 6) != 0 || strchr(name, '/') || input_size > INPUT_MAX)
        return ha_err_set(err, HA_E_USAGE, "%.60s is not a fence agent's base name", name);
    snprintf(path, sizeof(path), "%.400s/%.60s", directory, name);
    if (access(path, X_OK) < 0)
        return ha_err_set(err, errno, "agent %.200s: %s", path, strerror(errno));
    int rc = open_pipes(in, out, err);
    if (rc < 0)
        return rc;
    struct agent *agent = calloc(1, sizeof(*agent));
    ha_assert(agent);
    agent->pid = ha_fork();
    if (agent->pid == 0)
        exec_child(path, name, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    if (agent->pid < 0) {
        rc = ha_err_set(err, errno, "fork: %s", strerror(errno));
        close(in[1]);
        close(out[0]);
        free(agent);
        return rc;
    }
    setpgid(agent->pid, agent->pid);
    /* At most INPUT_MAX bytes: they fit an empty pipe (64 KiB), so this can't block. */
    (void)!write(in[1], input, input_size);
    close(in[1]);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    agent->loop = loop;
    agent->output_fd = out[0];
    agent->done = done;
    agent->user = user;
    agent->next = running;
    running = agent;
    qb_loop_poll_add(loop, QB_LOOP_MED, out[0], POLLIN, agent, on_output);
    qb_loop_timer_add(loop, QB_LOOP_MED, (uint64_t)timeout_ms * QB_TIME_NS_IN_MSEC, agent, on_time,
                      &agent->timer);
    *ret_agent = agent;
    return 0;
}

void agent_kill(struct agent *agent)
{
    if (!agent->is_reaped) {
        kill(-agent->pid, SIGKILL);
        kill(agent->pid, SIGKILL);
        while (waitpid(agent->pid, &agent->status, 0) < 0 && errno == EINTR)
            ;
    }
    forget(agent);
    free(agent);
}
