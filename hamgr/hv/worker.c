/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate's side of worker processes: queue, fork, results, timeouts.
 */
#include "hamgr/hv/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qb/qblog.h>

#include "hamgr/base/assert.h"
#include "hamgr/ipc/sock.h"

#define QUEUE_MAX 4096u /* a verb for every guest a node may have */
/* An aborted worker needs one failed write to see it, then resumes or removes what it was at: a
 * second of work. Five times that, because being killed instead leaves an unknown outcome. */
#define ABORT_GRACE_MS 5000u
/* After its report a worker does nothing but exit. */
#define LEAVE_MS 1000u
/* A verb without guest memory or guest cooperation is some hypercalls and, on Xen, some xenstore
 * transactions: 1 s when the node is busy. 30 s is when a hung service won't come back; a driver
 * whose own parts wait longer says so in its capabilities. */
#define PLAIN_MS 30000u
/* Touching new memory takes 0.3 s/GiB idle, 2 s/GiB with the node at its limit. */
#define CREATE_MS_PER_GIB 2000u
/* A stream that does not move is given up by hamgr-stream after its idle timeout (a minute at
 * most); five times that, since the worker then sees the end of its stream by itself. */
#define STREAM_IDLE_MS 300000u

struct worker_pool {
    qb_loop_t *loop;
    uint32_t limit;
    uint32_t timeout_max_ms;
    uint32_t alive_count; /* processes */
    uint32_t count;       /* jobs */
    worker_open_fn open;
    void *open_user;
    const struct worker_callbacks *callbacks;
    void *user;
    struct worker_job *first; /* in order of submission */
    bool is_starting;
};

static void start_next(struct worker_pool *pool);

uint32_t worker_timeout_ms(const struct worker_verb *verb)
{
    uint64_t gib = verb->mem_kib / (1024 * 1024) + 1;
    uint32_t plain_ms = verb->plain_ms > 0 ? verb->plain_ms : PLAIN_MS;

    switch (verb->type) {
    case HVP_CREATE:
        return plain_ms + CREATE_MS_PER_GIB * (uint32_t)(gib < 65536 ? gib : 65536);
    case HVP_SAVE:
    case HVP_RESTORE:
        return STREAM_IDLE_MS;
    case HVP_SHUTDOWN:
        return verb->timeout_ms < UINT32_MAX - plain_ms ? verb->timeout_ms + plain_ms : UINT32_MAX;
    case HVP_DIRTY_SAMPLE:
        return verb->timeout_ms < UINT32_MAX - plain_ms ? verb->timeout_ms + plain_ms : UINT32_MAX;
    default:
        return plain_ms;
    }
}

struct worker_pool *worker_pool_new(qb_loop_t *loop, uint32_t limit, uint32_t timeout_max_ms,
                                    worker_open_fn open_driver, void *open_user,
                                    const struct worker_callbacks *callbacks, void *user)
{
    struct worker_pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return NULL;
    *pool = (struct worker_pool){.loop = loop,
                                 .limit = limit,
                                 .timeout_max_ms = timeout_max_ms,
                                 .open = open_driver,
                                 .open_user = open_user,
                                 .callbacks = callbacks,
                                 .user = user};
    return pool;
}

static void release_verb(struct worker_verb *verb)
{
    free(verb->definition);
    verb->definition = NULL;
    if (verb->fd >= 0)
        close(verb->fd);
    verb->fd = -1;
    if (verb->ring_fd > 0)
        close(verb->ring_fd);
    verb->ring_fd = -1;
}

static void close_watched(struct worker_pool *pool, int *fd)
{
    if (*fd < 0)
        return;
    qb_loop_poll_del(pool->loop, *fd);
    close(*fd);
    *fd = -1;
}

static void stop_timer(struct worker_job *job)
{
    if (job->timer)
        qb_loop_timer_del(job->pool->loop, job->timer);
    job->timer = 0;
}

/* Takes the job out of the list and frees it. Its process has been reaped, or never was. */
static void drop(struct worker_job *job)
{
    struct worker_job **link = &job->pool->first;

    while (*link != job)
        link = &(*link)->next;
    *link = job->next;
    job->pool->count--;
    stop_timer(job);
    close_watched(job->pool, &job->result_fd);
    close_watched(job->pool, &job->pid_fd);
    release_verb(&job->verb);
    free(job);
}

static void report(struct worker_job *job, const struct hvp_done *done)
{
    if (job->stage == WORKER_REPORTED)
        return;
    job->stage = WORKER_REPORTED;
    job->pool->callbacks->done(job->pool->user, job, done);
}

static void kill_worker(struct worker_job *job, int number)
{
    if (job->pid_fd >= 0)
        (void)pidfd_send_signal(job->pid_fd, number, NULL, 0);
}

static void on_timeout(void *data)
{
    struct worker_job *job = data;

    job->timer = 0;
    job->is_timed_out = true;
    qb_log(LOG_WARNING, "worker: domain %u does not end verb %u, killed", job->verb.domid,
           job->verb.type);
    kill_worker(job, SIGKILL);
}

static void arm_timer(struct worker_job *job, uint32_t timeout_ms)
{
    stop_timer(job);
    int rc =
        qb_loop_timer_add(job->pool->loop, QB_LOOP_LOW, (uint64_t)timeout_ms * QB_TIME_NS_IN_MSEC,
                          job, on_timeout, &job->timer);
    /* Without a timer the verb could hang for ever; it is safer not to do it. */
    if (rc < 0)
        kill_worker(job, SIGKILL);
}

static uint32_t time_for(const struct worker_job *job)
{
    uint32_t timeout_ms = worker_timeout_ms(&job->verb);
    uint32_t most_ms = job->pool->timeout_max_ms;

    return most_ms > 0 && timeout_ms > most_ms ? most_ms : timeout_ms;
}

static void take_progress(struct worker_job *job, const struct ha_packet *packet)
{
    struct hv_progress progress;

    if (hvp_progress_decode(packet->body, packet->body_size, &progress) < 0)
        return;
    uint64_t moved = progress.bytes + progress.pages_sent + progress.round + progress.phase;
    if (moved != job->moved && !job->is_aborted)
        arm_timer(job, time_for(job));
    job->moved = moved;
    if (job->stage == WORKER_RUNNING)
        job->pool->callbacks->progress(job->pool->user, job, &progress);
}

static void take_done(struct worker_job *job, const struct ha_packet *packet)
{
    struct hvp_done done;

    if (hvp_done_decode(packet->body, packet->body_size, &done) < 0)
        return;
    arm_timer(job, LEAVE_MS);
    report(job, &done);
}

/* Reads what the worker has sent. False at the end of its socket. */
static bool read_results(struct worker_job *job)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct ha_packet packet;
    int rc;

    if (job->result_fd < 0)
        return false;
    while ((rc = ha_sock_receive(job->result_fd, buffer, &packet)) == 1) {
        if (packet.type == HVP_PROGRESS)
            take_progress(job, &packet);
        else if (packet.type == HVP_DONE)
            take_done(job, &packet);
    }
    return rc == -EAGAIN;
}

static int32_t on_result(int32_t fd, int32_t events, void *data)
{
    struct worker_job *job = data;

    (void)fd;
    (void)events;
    if (!read_results(job))
        close_watched(job->pool, &job->result_fd);
    return 0;
}

static void describe_end(const struct worker_job *job, const siginfo_t *info,
                         struct hvp_done *ret_done)
{
    *ret_done = (struct hvp_done){.outcome = HV_UNKNOWN, .value = job->verb.domid};
    if (job->is_timed_out)
        snprintf(ret_done->text, sizeof(ret_done->text), "hung and was killed");
    else if (info->si_code == CLD_EXITED)
        snprintf(ret_done->text, sizeof(ret_done->text),
                 "its worker exited with %d, outcome unknown", info->si_status);
    else
        snprintf(ret_done->text, sizeof(ret_done->text),
                 "its worker was killed by signal %d, outcome unknown", info->si_status);
}

/* What a worker that did not come to its end may have left behind, a fresh one switches off. */
static void clean_after(struct worker_pool *pool, const struct worker_verb *verb)
{
    struct worker_verb clean = {
        .type = WORKER_LOG_DIRTY_OFF, .label = verb->label, .domid = verb->domid, .fd = -1};

    if (verb->type == HVP_SAVE || verb->type == HVP_DIRTY_SAMPLE)
        (void)worker_submit(pool, &clean, &(struct worker_ticket){0});
}

static int32_t on_exit_of_worker(int32_t fd, int32_t events, void *data)
{
    struct worker_job *job = data;
    struct worker_pool *pool = job->pool;
    struct worker_verb verb = job->verb;
    siginfo_t info = {0};
    struct hvp_done done;

    (void)events;
    if (waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
        return 0;
    read_results(job); /* the outcome may still be in the socket */
    bool is_lost = job->stage != WORKER_REPORTED;
    describe_end(job, &info, &done);
    report(job, &done);
    drop(job);
    pool->alive_count--;
    if (is_lost)
        clean_after(pool, &verb);
    start_next(pool);
    pool->callbacks->idle(pool->user);
    return 0;
}

static void fail_job(struct worker_job *job, const char *text)
{
    struct hvp_done done = {.outcome = HV_FAILED};

    snprintf(done.text, sizeof(done.text), "%s", text);
    report(job, &done);
    drop(job);
}

/* Forks with every signal blocked, so that the child takes none before its own handlers stand. */
static pid_t fork_worker(struct worker_job *job, int result_fd)
{
    struct worker_pool *pool = job->pool;
    sigset_t all, before;
    pid_t parent = getpid();

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0)
        worker_run(&job->verb, pool->open, pool->open_user, result_fd, parent);
    int saved = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = saved;
    return pid;
}

/* A child that can't be watched must not live: the verb has not been told to anybody yet. */
static bool adopt_child(struct worker_job *job, pid_t pid, int result_fd)
{
    job->pid_fd = pidfd_open(pid, 0);
    job->result_fd = result_fd;
    if (job->pid_fd < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return false;
    }
    return qb_loop_poll_add(job->pool->loop, QB_LOOP_MED, result_fd, POLLIN, job, on_result) == 0 &&
           qb_loop_poll_add(job->pool->loop, QB_LOOP_MED, job->pid_fd, POLLIN, job,
                            on_exit_of_worker) == 0;
}

static void start(struct worker_job *job)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        fail_job(job, "no socket for a worker");
        return;
    }
    pid_t pid = fork_worker(job, pair[1]);
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        fail_job(job, "no process for a worker");
        return;
    }
    job->stage = WORKER_RUNNING;
    if (!adopt_child(job, pid, pair[0])) {
        struct hvp_done done = {.outcome = HV_UNKNOWN, .text = "its worker can't be watched"};
        kill_worker(job, SIGKILL);
        if (job->pid_fd >= 0)
            waitpid(pid, NULL, 0);
        report(job, &done);
        drop(job);
        return;
    }
    job->pool->alive_count++;
    release_verb(&job->verb); /* the child has its own */
    arm_timer(job, time_for(job));
}

static bool is_guest_taken(const struct worker_pool *pool, const struct worker_job *job)
{
    for (const struct worker_job *other = pool->first; other; other = other->next)
        if (other != job && other->stage != WORKER_QUEUED &&
            ha_uuid_equal(other->verb.label.guest, job->verb.label.guest))
            return true;
    return false;
}

static struct worker_job *next_startable(struct worker_pool *pool)
{
    for (struct worker_job *job = pool->first; job; job = job->next)
        if (job->stage == WORKER_QUEUED && !job->is_aborted && !is_guest_taken(pool, job))
            return job;
    return NULL;
}

/* Reports made on the way (fork fails) may submit or abort: not into this loop again. */
static void start_next(struct worker_pool *pool)
{
    struct worker_job *job;

    if (pool->is_starting)
        return;
    pool->is_starting = true;
    while (pool->alive_count < pool->limit && (job = next_startable(pool)) != NULL)
        start(job);
    pool->is_starting = false;
}

bool worker_submit(struct worker_pool *pool, const struct worker_verb *verb,
                   const struct worker_ticket *ticket)
{
    struct worker_job *job = pool->count < QUEUE_MAX ? calloc(1, sizeof(*job)) : NULL;
    struct worker_verb moved = *verb;

    if (!job) {
        release_verb(&moved);
        return false;
    }
    *job = (struct worker_job){
        .verb = moved, .ticket = *ticket, .pid_fd = -1, .result_fd = -1, .pool = pool};
    struct worker_job **link = &pool->first;
    while (*link)
        link = &(*link)->next;
    *link = job;
    pool->count++;
    start_next(pool);
    return true;
}

struct worker_job *worker_find(struct worker_pool *pool, struct ha_uuid guest)
{
    for (struct worker_job *job = pool->first; job; job = job->next)
        if (job->stage != WORKER_REPORTED && job->verb.type != WORKER_LOG_DIRTY_OFF &&
            ha_uuid_equal(job->verb.label.guest, guest))
            return job;
    return NULL;
}

static void on_cancel_due(void *data)
{
    struct worker_job *job = data;

    job->timer = 0;
    if (job->stage == WORKER_QUEUED)
        fail_job(job, "cancelled before it began");
}

void worker_abort(struct worker_job *job)
{
    if (job->is_aborted || job->stage == WORKER_REPORTED)
        return;
    if (job->verb.type != HVP_SAVE && job->verb.type != HVP_RESTORE)
        return;
    job->is_aborted = true;
    if (job->stage == WORKER_RUNNING) {
        kill_worker(job, SIGTERM);
        arm_timer(job, ABORT_GRACE_MS);
        return;
    }
    stop_timer(job);
    (void)qb_loop_timer_add(job->pool->loop, QB_LOOP_HIGH, 0, job, on_cancel_due, &job->timer);
}

void worker_each(struct worker_pool *pool, void (*visit)(void *user, struct worker_job *job),
                 void *user)
{
    for (struct worker_job *job = pool->first, *next; job; job = next) {
        next = job->next;
        if (job->stage != WORKER_REPORTED)
            visit(user, job);
    }
}

bool worker_is_busy(const struct worker_pool *pool)
{
    return pool->first != NULL;
}

void worker_pool_free(struct worker_pool *pool)
{
    if (!pool)
        return;
    while (pool->first) {
        struct worker_job *job = pool->first;
        if (job->pid_fd >= 0) {
            siginfo_t info;
            kill_worker(job, SIGKILL);
            (void)waitid(P_PIDFD, (id_t)job->pid_fd, &info, WEXITED);
        }
        drop(job);
    }
    free(pool);
}
