/* SPDX-License-Identifier: Apache-2.0 */
#include "quorum/corosync_worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <corosync/cmap.h>
#include <corosync/votequorum.h>

#include "hamgr/base/assert.h"
#include "quorum/corosync_config.h"

/* The configuration changes when an operator reloads it: every 10th ping sees to it (5 s). */
#define PINGS_PER_CONFIG 10u
#define STOP_WAIT_MS     200
#define JOIN_PAUSE_MS    10
#define JOIN_TRIES       500 /* 5 s, then connect anew */

struct corosync_worker {
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* a job waits, or the worker is to end */
    pthread_cond_t ended;
    int references; /* the loop's and the thread's: the last one frees */
    int fd;         /* eventfd: a report waits */
    bool is_stopping;
    bool has_ended;
    bool has_job;
    bool has_report;
    bool is_busy; /* the loop's own */
    enum corosync_job job;
    struct corosync_report report;
    /* Below: the thread's own. */
    struct cpg_name group;
    cpg_model_v1_data_t callbacks;
    void *context;
    uint32_t message_max;
    bool has_cpg;
    bool has_cmap;
    bool has_votequorum;
    cpg_handle_t cpg;
    cmap_handle_t cmap;
    votequorum_handle_t votequorum;
    uint32_t self;
    unsigned pings;
    struct transport_config config; /* as last reported */
};

static void unref(struct corosync_worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    bool is_last = --worker->references == 0;
    pthread_mutex_unlock(&worker->mutex);
    if (!is_last)
        return;
    close(worker->fd);
    pthread_cond_destroy(&worker->wake);
    pthread_cond_destroy(&worker->ended);
    pthread_mutex_destroy(&worker->mutex);
    free(worker);
}

static int say(struct ha_err *err, const char *what, cs_error_t cs)
{
    if (cs == CS_ERR_ACCESS || cs == CS_ERR_SECURITY)
        return ha_err_set(err, HA_E_AUTH,
                          "%s: corosync refuses uid %u; name it in /etc/corosync/uidgid.d and "
                          "reload corosync",
                          what, (unsigned)geteuid());
    return ha_err_set(err, HA_E_UNREACHABLE, "%s: %s", what, cs_strerror(cs));
}

/* corosync's library has one code for "no socket", "stopping" and "starting". */
static int say_unreachable(struct ha_err *err, const char *what, cs_error_t cs)
{
    if (cs == CS_ERR_LIBRARY || cs == CS_ERR_TRY_AGAIN)
        return ha_err_set(err, HA_E_UNREACHABLE, "corosync is not running or not ready (%s)",
                          cs_strerror(cs));
    return say(err, what, cs);
}

static void drop_handles(struct corosync_worker *worker)
{
    if (worker->has_cpg)
        cpg_finalize(worker->cpg);
    if (worker->has_votequorum)
        votequorum_finalize(worker->votequorum);
    if (worker->has_cmap)
        cmap_finalize(worker->cmap);
    worker->has_cpg = worker->has_votequorum = worker->has_cmap = false;
}

static int open_cpg(struct corosync_worker *worker, struct ha_err *err)
{
    uint32_t size = 0;
    unsigned self = 0;
    cs_error_t cs = cpg_model_initialize(&worker->cpg, CPG_MODEL_V1,
                                         (cpg_model_data_t *)&worker->callbacks, worker->context);

    if (cs != CS_OK)
        return say_unreachable(err, "connect to corosync's cpg", cs);
    worker->has_cpg = true;
    cs = cpg_local_get(worker->cpg, &self);
    if (cs != CS_OK)
        return say(err, "ask corosync for this node's id", cs);
    worker->self = self;
    cs = cpg_max_atomic_msgsize_get(worker->cpg, &size);
    if (cs != CS_OK || size < worker->message_max)
        return ha_err_set(err, HA_E_REFUSED, "corosync carries messages of %u bytes, %u are needed",
                          size, worker->message_max);
    return 0;
}

static int read_config(struct corosync_worker *worker, struct corosync_report *report)
{
    int rc = corosync_config_read(worker->cmap, &report->config, &report->err);

    report->config.self = worker->self;
    return rc;
}

/* With sockets instead of shared memory the transport could not tell whether a send blocks. */
static int check_ipc_type(struct corosync_worker *worker, struct ha_err *err)
{
    char *type = NULL;
    int rc = 0;

    if (cmap_get_string(worker->cmap, "system.qb_ipc_type", &type) == CS_OK &&
        strcmp(type, "socket") == 0)
        rc = ha_err_set(err, HA_E_REFUSED,
                        "corosync.conf sets system.qb_ipc_type: socket; hamgr needs shm (the "
                        "default), remove it");
    free(type);
    return rc;
}

static void connect_all(struct corosync_worker *worker, struct corosync_report *report)
{
    cs_error_t cs = cmap_initialize(&worker->cmap);

    if (cs != CS_OK) {
        say_unreachable(&report->err, "connect to corosync", cs);
        return;
    }
    worker->has_cmap = true;
    /* Another quorum provider is no error: votequorum is only shown. */
    worker->has_votequorum = votequorum_initialize(&worker->votequorum, NULL) == CS_OK;
    if (check_ipc_type(worker, &report->err) < 0 || open_cpg(worker, &report->err) < 0 ||
        read_config(worker, report) < 0)
        return;
    report->cpg = worker->cpg;
    report->has_config = true;
    memcpy(&worker->config, &report->config, sizeof(worker->config));
}

/* While corosync synchronises it takes no join; a sync lasts as long as a ring change. */
static void join(struct corosync_worker *worker, struct corosync_report *report)
{
    const struct timespec pause = {.tv_nsec = JOIN_PAUSE_MS * 1000000L};
    cs_error_t cs = cpg_join(worker->cpg, &worker->group);

    for (int i = 0; cs == CS_ERR_TRY_AGAIN && i < JOIN_TRIES; i++) {
        nanosleep(&pause, NULL);
        cs = cpg_join(worker->cpg, &worker->group);
    }
    if (cs != CS_OK)
        say(&report->err, "join the group", cs);
}

static bool is_gone(cs_error_t cs)
{
    return cs != CS_OK && cs != CS_ERR_TRY_AGAIN && cs != CS_ERR_NOT_EXIST;
}

static void ask_votequorum(struct corosync_worker *worker, struct corosync_report *report)
{
    struct votequorum_info info = {0};

    if (!worker->has_votequorum)
        return;
    cs_error_t cs = votequorum_getinfo(worker->votequorum, worker->self, &info);
    if (is_gone(cs))
        say(&report->err, "ask votequorum", cs);
    report->has_votes = cs == CS_OK;
    report->is_quorate = (info.flags & VOTEQUORUM_INFO_QUORATE) != 0;
    report->votes = info.total_votes;
}

/* A failing ping says that corosync went away; the cpg connection tells the same by its fd. */
static void ping(struct corosync_worker *worker, struct corosync_report *report)
{
    ask_votequorum(worker, report);
    if (report->err.code != 0 || ++worker->pings % PINGS_PER_CONFIG != 0)
        return;
    int rc = read_config(worker, report);
    if (rc == -EAGAIN)
        memset(&report->err, 0, sizeof(report->err)); /* busy is alive: next time */
    if (rc < 0 || memcmp(&worker->config, &report->config, sizeof(worker->config)) == 0)
        return;
    report->has_config = true;
    memcpy(&worker->config, &report->config, sizeof(worker->config));
}

static void run(struct corosync_worker *worker, enum corosync_job job,
                struct corosync_report *report)
{
    memset(report, 0, sizeof(*report));
    report->job = job;
    switch (job) {
    case COROSYNC_CONNECT:
        connect_all(worker, report);
        break;
    case COROSYNC_JOIN:
        join(worker, report);
        break;
    case COROSYNC_PING:
        ping(worker, report);
        break;
    case COROSYNC_DISCONNECT:
        drop_handles(worker);
        break;
    }
    /* A failed connect leaves nothing behind; otherwise the loop may still use the handle. */
    if (job == COROSYNC_CONNECT && report->err.code != 0)
        drop_handles(worker);
}

static void *thread_main(void *data)
{
    struct corosync_worker *worker = data;
    struct corosync_report report;

    pthread_mutex_lock(&worker->mutex);
    while (!worker->is_stopping) {
        if (!worker->has_job) {
            pthread_cond_wait(&worker->wake, &worker->mutex);
            continue;
        }
        enum corosync_job job = worker->job;
        worker->has_job = false;
        pthread_mutex_unlock(&worker->mutex);
        run(worker, job, &report);
        pthread_mutex_lock(&worker->mutex);
        worker->report = report;
        worker->has_report = true;
        (void)eventfd_write(worker->fd, 1);
    }
    pthread_mutex_unlock(&worker->mutex);
    drop_handles(worker);
    pthread_mutex_lock(&worker->mutex);
    worker->has_ended = true;
    pthread_cond_signal(&worker->ended);
    pthread_mutex_unlock(&worker->mutex);
    unref(worker);
    return NULL;
}

/* Detached, with every signal blocked: they are the loop's. */
static int start_thread(struct corosync_worker *worker)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all;
    sigset_t old;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&thread, &attributes, thread_main, worker);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return r;
}

static void init_conditions(struct corosync_worker *worker)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&worker->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->wake, &attributes);
    pthread_cond_init(&worker->ended, &attributes);
    pthread_condattr_destroy(&attributes);
}

int corosync_worker_start(const char *group, const cpg_model_v1_data_t *callbacks, void *context,
                          uint32_t message_max, struct corosync_worker **ret_worker,
                          struct ha_err *err)
{
    size_t length = strlen(group);

    if (length == 0 || length >= CPG_MAX_NAME_LENGTH)
        return ha_err_set(err, HA_E_USAGE, "group name \"%s\": 1 to %d bytes are needed", group,
                          CPG_MAX_NAME_LENGTH - 1);
    struct corosync_worker *worker = calloc(1, sizeof(*worker));
    if (!worker)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory for the corosync thread");
    worker->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->fd < 0) {
        free(worker);
        return ha_err_set(err, errno, "eventfd: %s", strerror(errno));
    }
    init_conditions(worker);
    memcpy(worker->group.value, group, length);
    worker->group.length = (uint32_t)length;
    worker->callbacks = *callbacks;
    worker->context = context;
    worker->message_max = message_max;
    worker->references = 2;
    int r = start_thread(worker);
    if (r != 0) {
        worker->references = 1;
        unref(worker);
        return ha_err_set(err, r, "start the corosync thread: %s", strerror(r));
    }
    *ret_worker = worker;
    return 0;
}

int corosync_worker_fd(const struct corosync_worker *worker)
{
    return worker->fd;
}

void corosync_worker_submit(struct corosync_worker *worker, enum corosync_job job)
{
    ha_assert(!worker->is_busy);
    worker->is_busy = true;
    pthread_mutex_lock(&worker->mutex);
    worker->job = job;
    worker->has_job = true;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->mutex);
}

bool corosync_worker_take(struct corosync_worker *worker, struct corosync_report *ret_report)
{
    eventfd_t count;

    pthread_mutex_lock(&worker->mutex);
    bool has_report = worker->has_report;
    if (has_report) {
        *ret_report = worker->report;
        worker->has_report = false;
        worker->is_busy = false;
        (void)eventfd_read(worker->fd, &count);
    }
    pthread_mutex_unlock(&worker->mutex);
    return has_report;
}

bool corosync_worker_is_busy(const struct corosync_worker *worker)
{
    return worker->is_busy;
}

static struct timespec deadline_after_ms(long ms)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += ms * 1000000L;
    at.tv_sec += at.tv_nsec / 1000000000L;
    at.tv_nsec %= 1000000000L;
    return at;
}

void corosync_worker_stop(struct corosync_worker *worker)
{
    struct timespec deadline = deadline_after_ms(STOP_WAIT_MS);

    pthread_mutex_lock(&worker->mutex);
    worker->is_stopping = true;
    pthread_cond_signal(&worker->wake);
    while (!worker->has_ended) {
        if (pthread_cond_timedwait(&worker->ended, &worker->mutex, &deadline) != 0)
            break;
    }
    pthread_mutex_unlock(&worker->mutex);
    unref(worker);
}
