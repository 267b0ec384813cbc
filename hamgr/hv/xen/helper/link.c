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

int helper_link_open(struct helper_link *l, const struct hv_save_params *params, int ring_fd,
                     struct ha_err *err)
{
    *l = (struct helper_link){.fd = -1, .inherited = -1};
    int rc = open_pair(l);

    if (rc == 0)
        rc = send_contract(l, params, ring_fd);
    if (rc == 0)
        return 0;
    helper_link_close(l);
    return ha_err_set(err, rc, "link to the save helper: %s", strerror(-rc));
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

void helper_link_close(struct helper_link *l)
{
    if (l->fd >= 0)
        close(l->fd);
    if (l->inherited >= 0) {
        close(l->inherited);
        unsetenv(LINK_ENV);
    }
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

bool helper_link_take(struct helper_link *l, struct hv_save_params *ret_params, int *ret_ring_fd)
{
    struct ha_packet packet;
    struct hvp_save save;

    *ret_ring_fd = -1;
    *l = (struct helper_link){.fd = fd_in_environment(), .inherited = -1};
    unsetenv(LINK_ENV);
    if (l->fd < 0)
        return false;
    (void)fcntl(l->fd, F_SETFD, FD_CLOEXEC);
    l->buffer = malloc(HA_IPC_MAX);
    /* It was sent before we were started. */
    if (!l->buffer || ha_sock_receive(l->fd, l->buffer, &packet) != 1 || packet.type != HVP_SAVE ||
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

void helper_link_fail(const struct helper_link *l, const struct ha_err *why)
{
    uint8_t body[HA_TEXT_MAX + 32];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct hvp_done done = {.outcome = HV_FAILED, .value = (uint64_t)why->code};

    if (l->fd < 0)
        return;
    snprintf(done.text, sizeof(done.text), "%s", why->text);
    hvp_done_encode(&w, &done);
    (void)ha_sock_send(l->fd, HVP_DONE, 0, body, w.position, NULL, 0);
}
