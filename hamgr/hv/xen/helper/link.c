/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/helper/link.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/ipc/hvproto.h"
#include "hamgr/ipc/sock.h"

/* ---- worker ---- */

static int send_contract(const struct helper_link *l, const struct hv_save_params *params,
                         int ring_fd)
{
    uint8_t body[128];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    const struct hvp_save save = {.is_live = params->is_live,
                                  .max_downtime_ms = params->max_downtime_ms,
                                  .deadline_ms = params->deadline_ms,
                                  .on_slow = params->on_slow,
                                  .switch_us = params->switch_us};

    hvp_save_encode(&w, &save);
    return ha_sock_send(l->fd, HVP_SAVE, 0, body, w.position, &ring_fd, ring_fd >= 0 ? 1 : 0);
}

static int open_pair(struct helper_link *l)
{
    int ends[2];
    char text[16];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return -errno;
    l->fd = ends[0];
    l->inherited = ends[1];
    snprintf(text, sizeof(text), "%d", l->inherited);
    if (fcntl(l->inherited, F_SETFD, 0) != 0 || setenv(LINK_ENV, text, 1) != 0)
        return -errno;
    l->buffer = malloc(HA_IPC_MAX);
    return l->buffer ? 0 : -ENOMEM;
}

static int send_frames(const struct helper_link *l, const uint64_t *frames)
{
    uint8_t body[2 * sizeof(uint64_t)];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    ha_put_u64(&w, frames[0]);
    ha_put_u64(&w, frames[1]);
    return ha_sock_send(l->fd, LINK_RINGS, 0, body, w.position, NULL, 0);
}

static int opened(struct helper_link *l, int rc, struct ha_err *err)
{
    if (rc == 0)
        return 0;
    helper_link_close(l);
    return ha_err_set(err, rc, "link to the helper: %s", strerror(-rc));
}

int helper_link_open(struct helper_link *l, const struct hv_save_params *params, int ring_fd,
                     const uint64_t *frames, struct ha_err *err)
{
    *l = (struct helper_link){.fd = -1, .inherited = -1};
    int rc = open_pair(l);

    if (rc == 0 && frames)
        rc = send_frames(l, frames);
    if (rc == 0)
        rc = send_contract(l, params, ring_fd);
    return opened(l, rc, err);
}

int helper_link_offer(struct helper_link *l, struct ha_err *err)
{
    *l = (struct helper_link){.fd = -1, .inherited = -1};
    int rc = open_pair(l);

    if (rc == 0)
        rc = ha_sock_send(l->fd, HVP_RESTORE, 0, NULL, 0, NULL, 0);
    return opened(l, rc, err);
}

bool helper_link_read(struct helper_link *l, struct hv_progress *ret, struct ha_err *ret_why)
{
    struct ha_packet packet;
    struct hvp_done done;
    bool is_new = false;

    while (l->fd >= 0 && ha_sock_receive(l->fd, l->buffer, &packet) == 1) {
        struct hv_progress progress;
        if (packet.type == HVP_PROGRESS &&
            hvp_progress_decode(packet.body, packet.body_size, &progress) == 0) {
            *ret = progress;
            is_new = true;
        } else if (packet.type == HVP_DONE &&
                   hvp_done_decode(packet.body, packet.body_size, &done) == 0) {
            ha_err_set(ret_why, (int)done.value, "%s", done.text);
        }
    }
    return is_new;
}

/* The helper has it: the worker would not see it end, and programs that libxl starts later are not
 * to have it. */
static void leave_to_helper(struct helper_link *l)
{
    if (l->inherited < 0)
        return;
    close(l->inherited);
    l->inherited = -1;
    unsetenv(LINK_ENV);
}

static void take_mover(struct link_mover *m, const struct ha_packet *packet)
{
    struct ha_reader r = ha_reader_of(packet->body, packet->body_size);
    struct hvp_done done;

    if (packet->type == LINK_MOVER && m->pid == 0) { /* said before a byte of the stream was read */
        m->pid = (pid_t)ha_get_u32(&r);
    } else if (packet->type == LINK_EARLY) {
        m->is_early = true;
    } else if (packet->type == HVP_DONE &&
               hvp_done_decode(packet->body, packet->body_size, &done) == 0) {
        m->is_done = true;
        if (done.outcome != HV_OK)
            ha_err_set(&m->why, done.value > 0 ? (int)done.value : HA_E_UNKNOWN, "%s", done.text);
    }
}

void helper_link_hear(struct helper_link *l, struct link_mover *m)
{
    struct ha_packet packet;
    int rc = 0;

    while (l->fd >= 0 && !m->is_gone && (rc = ha_sock_receive(l->fd, l->buffer, &packet)) == 1) {
        take_mover(m, &packet);
        leave_to_helper(l);
    }
    m->is_gone |= l->fd >= 0 && rc != -EAGAIN;
}

void helper_link_close(struct helper_link *l)
{
    leave_to_helper(l);
    if (l->fd >= 0)
        close(l->fd);
    free(l->buffer);
    *l = (struct helper_link){.fd = -1, .inherited = -1};
}

/* ---- helper ---- */

static int fd_in_environment(void)
{
    const char *text = getenv(LINK_ENV);
    char *end = NULL;
    long value = text ? strtol(text, &end, 10) : -1;
    int type = 0;
    socklen_t size = sizeof(type);

    if (value < 0 || value > INT_MAX || *end != '\0' ||
        getsockopt((int)value, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET)
        return -1;
    return (int)value;
}

/* The next message, which was sent before we were started. False: there is none. */
static bool next(struct helper_link *l, struct ha_packet *ret)
{
    return l->buffer && ha_sock_receive(l->fd, l->buffer, ret) == 1;
}

/* False: nobody gave one. */
static bool inherit(struct helper_link *l)
{
    *l = (struct helper_link){.fd = fd_in_environment(), .inherited = -1};
    unsetenv(LINK_ENV);
    if (l->fd < 0)
        return false;
    (void)fcntl(l->fd, F_SETFD, FD_CLOEXEC);
    l->buffer = malloc(HA_IPC_MAX);
    return true;
}

bool helper_link_take(struct helper_link *l, struct hv_save_params *ret_params, int *ret_ring_fd,
                      uint64_t *ret_frames)
{
    struct ha_packet packet;
    struct hvp_save save;

    *ret_ring_fd = -1;
    ret_frames[0] = ret_frames[1] = 0;
    if (!inherit(l))
        return false;
    bool has_next = next(l, &packet);
    if (has_next && packet.type == LINK_RINGS) {
        struct ha_reader r = ha_reader_of(packet.body, packet.body_size);
        ret_frames[0] = ha_get_u64(&r);
        ret_frames[1] = ha_get_u64(&r);
        has_next = next(l, &packet);
    }
    if (!has_next || packet.type != HVP_SAVE ||
        hvp_save_decode(packet.body, packet.body_size, &save) != 0) {
        helper_link_close(l);
        return false;
    }
    *ret_ring_fd = packet.fds[0];
    *ret_params = (struct hv_save_params){.is_live = save.is_live,
                                          .max_downtime_ms = save.max_downtime_ms,
                                          .deadline_ms = save.deadline_ms,
                                          .on_slow = save.on_slow,
                                          .switch_us = save.switch_us};
    return true;
}

void helper_link_tell(const struct helper_link *l, const struct hv_progress *progress)
{
    uint8_t body[128];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (l->fd < 0)
        return;
    hvp_progress_encode(&w, progress);
    (void)ha_sock_send(l->fd, HVP_PROGRESS, 0, body, w.position, NULL, 0);
}

void helper_link_done(const struct helper_link *l, const struct ha_err *why)
{
    uint8_t body[HA_TEXT_MAX + 32];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct hvp_done done = {.outcome = why ? HV_FAILED : HV_OK,
                            .value = why ? (uint64_t)why->code : 0};

    if (l->fd < 0)
        return;
    if (why)
        snprintf(done.text, sizeof(done.text), "%s", why->text);
    hvp_done_encode(&w, &done);
    (void)ha_sock_send(l->fd, HVP_DONE, 0, body, w.position, NULL, 0);
}

bool helper_link_accept(struct helper_link *l, pid_t *ret_worker)
{
    struct ha_packet packet;
    struct ucred worker = {0};
    socklen_t size = sizeof(worker);

    if (!inherit(l))
        return false;
    if (!next(l, &packet) || packet.type != HVP_RESTORE ||
        getsockopt(l->fd, SOL_SOCKET, SO_PEERCRED, &worker, &size) != 0) {
        helper_link_close(l);
        return false;
    }
    *ret_worker = worker.pid;
    return true;
}

void helper_link_say(const struct helper_link *l, enum link_type type, uint32_t value)
{
    uint8_t body[sizeof(value)];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    ha_put_u32(&w, value);
    (void)ha_sock_send(l->fd, (uint16_t)type, 0, body, w.position, NULL, 0);
}
