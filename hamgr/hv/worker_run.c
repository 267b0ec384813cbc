/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside a worker process: opens the driver, does one verb, reports, exits. Nothing here makes a
 * guest runnable.
 */
#include "hamgr/hv/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/doctor/look.h"
#include "hamgr/ipc/sock.h"

#define RESULT_FD 3
#define STREAM_FD 4
#define NULL_FD   5
#define RING_FD   6
/* The gate is never away for long: when its queue stays full for 10 s it is about to be killed. */
#define REPORT_WAIT_MS  10000
#define PROGRESS_GAP_MS 100u /* progress for people and ETA: ten a second */
/* Suspended I/O ends in milliseconds unless storage is gone; then the migration can't happen. */
#define DRAIN_MS 10000u

static volatile sig_atomic_t is_aborted;

/* Whoever aborts wants the stream to end. Its fd becomes /dev/null opened for reading: a save's
 * next write fails, a restore's next read is the end of the file; a blocked call returns EINTR. */
static void on_abort(int number)
{
    int saved = errno;

    (void)number;
    is_aborted = 1;
    (void)dup2(NULL_FD, STREAM_FD);
    errno = saved;
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct report_state {
    uint64_t last_ms;
    uint8_t last_phase;
};

static void report_progress(void *user, const struct hv_progress *progress)
{
    struct report_state *state = user;
    uint8_t body[128];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    uint64_t now = now_ms();

    if (progress->phase == state->last_phase && now < state->last_ms + PROGRESS_GAP_MS)
        return;
    state->last_ms = now;
    state->last_phase = progress->phase;
    hvp_progress_encode(&w, progress);
    (void)ha_sock_send(RESULT_FD, HVP_PROGRESS, 0, body, w.position, NULL, 0);
}

static void report_done(const struct hvp_done *done)
{
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct pollfd room = {.fd = RESULT_FD, .events = POLLOUT};

    hvp_done_encode(&w, done);
    while (ha_sock_send(RESULT_FD, HVP_DONE, 0, body, w.position, NULL, 0) == -EAGAIN)
        if (poll(&room, 1, REPORT_WAIT_MS) == 0)
            break;
}

/* HANDOVER rests on this: the source can't write any more once HV_OK is out. */
static enum hv_outcome do_save(struct hv *hv, const struct worker_verb *verb, struct ha_err *err)
{
    struct report_state state = {0};
    struct hv_save_params params = {.fd = STREAM_FD,
                                    .ring_fd = verb->ring_fd > 0 ? RING_FD : -1,
                                    .is_live = verb->save.is_live,
                                    .max_downtime_ms = verb->save.max_downtime_ms,
                                    .deadline_ms = verb->save.deadline_ms,
                                    .on_slow = verb->save.on_slow,
                                    .switch_us = verb->save.switch_us};
    enum hv_outcome outcome = hv->ops->save(hv, verb->domid, &params, report_progress, &state, err);

    if (outcome != HV_OK)
        return outcome;
    if (is_aborted) {
        ha_err_set(err, HA_E_CANCELLED, "aborted when it was suspended already");
        return HV_UNKNOWN;
    }
    outcome = hv->ops->drain(hv, verb->domid, DRAIN_MS, err);
    if (outcome == HV_OK)
        return HV_OK;
    ha_err_prefix(err, "suspended, but its I/O does not end");
    return HV_UNKNOWN;
}

/* Finds one domain in a fresh listing: by domid, or by label when that is 0. False: not there. */
static bool find_domain(struct hv *hv, uint32_t domid, const struct hv_label *label,
                        struct hv_domain *ret)
{
    struct hv_domain *list = calloc(HA_GUESTS_MAX, sizeof(*list));
    int count = list ? hv->ops->list(hv, list, HA_GUESTS_MAX) : 0;
    bool is_found = false;

    for (int i = 0; i < count && !is_found; i++) {
        const struct hv_label *l = &list[i].label;
        is_found = domid != 0 ? list[i].domid == domid
                              : list[i].is_labelled && l->epoch == label->epoch &&
                                    l->generation == label->generation &&
                                    ha_uuid_equal(l->guest, label->guest) &&
                                    ha_uuid_equal(l->cluster_id, label->cluster_id);
        if (is_found)
            *ret = list[i];
    }
    free(list);
    return is_found;
}

/* Create does not return its domid; the gate wants to know it without a listing of its own. */
static enum hv_outcome do_create(struct hv *hv, const struct worker_verb *verb, uint64_t *ret_value,
                                 struct ha_err *err)
{
    struct hv_domain d;
    enum hv_outcome outcome =
        hv->ops->create(hv, &verb->label, verb->name, verb->definition, verb->definition_size, err);

    if (outcome == HV_OK && find_domain(hv, 0, &verb->label, &d))
        *ret_value = d.domid;
    return outcome;
}

/* A paused guest can't listen: it is only destroyed. */
static enum hv_outcome do_shutdown(struct hv *hv, const struct worker_verb *verb,
                                   struct ha_err *err)
{
    struct ha_err ignored = {0};
    struct hv_domain d;

    if (verb->timeout_ms > 0 && find_domain(hv, verb->domid, NULL, &d) && d.state == HV_RUNNING)
        (void)hv->ops->shutdown(hv, verb->domid, verb->timeout_ms, &ignored);
    return hv->ops->destroy(hv, verb->domid, err);
}

/* What the host shows, and what the hypervisor tells of itself. */
static enum hv_outcome do_look(struct hv *hv, const struct worker_verb *verb, struct ha_err *err)
{
    static uint8_t bytes[LOOK_TELL_BYTES_MAX];
    static struct look_ask ask;
    static struct look_tell tell;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    if (look_ask_decode(verb->definition, verb->definition_size, &ask) < 0) {
        ha_err_set(err, HA_E_USAGE, "a look that is none");
        return HV_FAILED;
    }
    look_host("", &ask, &tell);
    hv->ops->tell(hv, &tell.facts);
    look_tell_encode(&w, &tell);
    ha_assert(!w.failed);
    if (write(STREAM_FD, bytes, w.position) == (ssize_t)w.position)
        return HV_OK;
    ha_err_set(err, errno, "write what was found: %s", strerror(errno));
    return HV_FAILED;
}

static enum hv_outcome do_verb(struct hv *hv, const struct worker_verb *verb, uint64_t *ret_value,
                               struct ha_err *err)
{
    const struct hv_ops *ops = hv->ops;
    struct report_state state = {0};
    enum hv_outcome outcome;
    uint32_t domid = 0;

    *ret_value = verb->domid;
    switch (verb->type) {
    case HVP_CREATE:
        return do_create(hv, verb, ret_value, err);
    case HVP_RESTORE:
        outcome = ops->restore(hv, &verb->label, verb->name, verb->definition,
                               verb->definition_size, STREAM_FD, verb->ring_fd > 0 ? RING_FD : -1,
                               report_progress, &state, &domid, err);
        *ret_value = domid;
        return outcome;
    case HVP_SHUTDOWN:
        return do_shutdown(hv, verb, err);
    case HVP_DESTROY:
        return ops->destroy(hv, verb->domid, err);
    case HVP_SAVE:
        return do_save(hv, verb, err);
    case HVP_RESUME_PREPARE:
        return ops->resume_prepare(hv, verb->domid, err);
    case HVP_DIRTY_SAMPLE:
        return ops->dirty_sample(hv, verb->domid, verb->timeout_ms, ret_value, err);
    case HVP_LOOK:
        return do_look(hv, verb, err);
    case WORKER_LOG_DIRTY_OFF:
        return ops->log_dirty_off(hv, verb->domid, err);
    default:
        ha_err_set(err, HA_E_USAGE, "no such verb");
        return HV_FAILED;
    }
}

/* Leaves the child with stdio, its result socket, its stream, /dev/null and a ring; everything else
 * is the gate's: connections held open here would never be seen to end by their peers. */
static bool arrange_fds(int result_fd, int stream_fd, int ring_fd)
{
    /* Out of the way first: one's target may be the other's place. */
    int result = fcntl(result_fd, F_DUPFD_CLOEXEC, RING_FD + 1);
    int stream = stream_fd >= 0 ? fcntl(stream_fd, F_DUPFD_CLOEXEC, RING_FD + 1) : -1;
    int ring = ring_fd > 0 ? fcntl(ring_fd, F_DUPFD_CLOEXEC, RING_FD + 1) : -1;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (result < 0 || (stream_fd >= 0 && stream < 0) || (ring_fd > 0 && ring < 0) || null < 0)
        return false;
    if (stream >= 0) {
        int flags = fcntl(stream, F_GETFL);
        (void)fcntl(stream, F_SETFL, flags & ~O_NONBLOCK);
    }
    bool is_done = dup3(result, RESULT_FD, O_CLOEXEC) >= 0 &&
                   (null == NULL_FD || dup3(null, NULL_FD, O_CLOEXEC) >= 0) &&
                   dup3(stream >= 0 ? stream : NULL_FD, STREAM_FD, O_CLOEXEC) >= 0 &&
                   dup3(ring >= 0 ? ring : NULL_FD, RING_FD, O_CLOEXEC) >= 0;
    return close_range(RING_FD + 1, ~0U, 0) == 0 && is_done;
}

/* The gate blocks its signals around the fork, so none is taken for the gate's here. */
static void arrange_signals(void)
{
    const struct sigaction on_term = {.sa_handler = on_abort};
    sigset_t none;

    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &on_term, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn void worker_run(struct worker_verb *verb, worker_open_fn open_driver, void *open_user,
                          int result_fd, pid_t parent)
{
    struct hvp_done done = {.outcome = HV_FAILED};
    struct ha_err err = {0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || !arrange_fds(result_fd, verb->fd, verb->ring_fd))
        _exit(EXIT_FAILURE);
    arrange_signals();
    prctl(PR_SET_NAME, "hamgr-hv-worker");
    struct hv *hv = open_driver(open_user, &err);
    if (hv)
        done.outcome = (uint8_t)do_verb(hv, verb, &done.value, &err);
    if (done.outcome != HV_OK)
        snprintf(done.text, sizeof(done.text), "%s", err.text);
    report_done(&done);
    _exit(EXIT_SUCCESS);
}
