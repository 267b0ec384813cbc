/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/shell/link.h"

#include <errno.h>
#include <poll.h>
#include <qb/qbutil.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"

#define RETRY_FIRST_MS 100u
#define RETRY_LAST_MS  2000u
#define QUEUE_MAX      4096u /* packets; a peer that far behind is treated as dead */

struct queued {
    struct queued *next;
    uint16_t type;
    uint64_t id;
    int fds[HA_SOCK_FDS_MAX];
    unsigned fd_count;
    size_t body_size;
    uint8_t body[];
};

struct link {
    qb_loop_t *loop;
    const struct link_callbacks *callbacks;
    void *user;
    char path[108];
    int fd;
    bool is_adopted;
    bool is_closing;
    unsigned dispatch_depth;
    uint32_t retry_ms;
    qb_loop_timer_handle timer;
    struct queued *head;
    struct queued **tail;
    unsigned queue_count;
    uint8_t buffer[HA_IPC_MAX];
};

static int32_t on_ready(int32_t fd, int32_t events, void *data);
static void on_timer(void *data);

static void close_fds(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

static void drop_queue(struct link *link)
{
    while (link->head) {
        struct queued *item = link->head;
        link->head = item->next;
        close_fds(item->fds, item->fd_count);
        free(item);
    }
    link->tail = &link->head;
    link->queue_count = 0;
}

static void set_timer(struct link *link, uint32_t delay_ms)
{
    qb_loop_timer_add(link->loop, QB_LOOP_MED, (uint64_t)delay_ms * QB_TIME_NS_IN_MSEC, link,
                      on_timer, &link->timer);
}

static void disconnect(struct link *link, const char *why)
{
    if (link->fd < 0)
        return;
    qb_loop_poll_del(link->loop, link->fd);
    close(link->fd);
    link->fd = -1;
    drop_queue(link);
    if (!link->is_adopted)
        set_timer(link, link->retry_ms);
    link->callbacks->down(link->user, why);
}

static void watch(struct link *link)
{
    int events = POLLIN | (link->head ? POLLOUT : 0);

    qb_loop_poll_mod(link->loop, QB_LOOP_MED, link->fd, events, link, on_ready);
}

static void on_timer(void *data)
{
    struct link *link = data;

    link->timer = 0;
    if (link->fd >= 0) { /* adopted or just connected: tell the owner from the loop */
        if (link->callbacks->up)
            link->callbacks->up(link->user);
        return;
    }
    if (link->is_adopted)
        return; /* ended before its owner heard of it: down has been called */
    link->fd = ha_sock_connect(link->path, NULL);
    if (link->fd < 0) {
        link->fd = -1;
        link->retry_ms = link->retry_ms * 2 > RETRY_LAST_MS ? RETRY_LAST_MS : link->retry_ms * 2;
        set_timer(link, link->retry_ms);
        return;
    }
    link->retry_ms = RETRY_FIRST_MS;
    qb_loop_poll_add(link->loop, QB_LOOP_MED, link->fd, POLLIN, link, on_ready);
    if (link->callbacks->up)
        link->callbacks->up(link->user);
}

static struct link *link_new(qb_loop_t *loop, const struct link_callbacks *callbacks, void *user)
{
    struct link *link = calloc(1, sizeof(*link));

    ha_assert(link); /* start-up or per-migration: nothing sensible goes on without it */
    link->loop = loop;
    link->callbacks = callbacks;
    link->user = user;
    link->fd = -1;
    link->tail = &link->head;
    link->retry_ms = RETRY_FIRST_MS;
    return link;
}

struct link *link_open(qb_loop_t *loop, const char *path, const struct link_callbacks *callbacks,
                       void *user)
{
    struct link *link = link_new(loop, callbacks, user);

    ha_assert(strlen(path) < sizeof(link->path));
    memcpy(link->path, path, strlen(path) + 1);
    set_timer(link, 0);
    return link;
}

struct link *link_adopt(qb_loop_t *loop, int fd, const struct link_callbacks *callbacks, void *user)
{
    struct link *link = link_new(loop, callbacks, user);

    link->fd = fd;
    link->is_adopted = true;
    qb_loop_poll_add(loop, QB_LOOP_MED, fd, POLLIN, link, on_ready);
    set_timer(link, 0);
    return link;
}

bool link_is_up(const struct link *link)
{
    return link && link->fd >= 0;
}

static int enqueue(struct link *link, uint16_t type, uint64_t id, const void *body,
                   size_t body_size, const int *fds, unsigned fd_count)
{
    struct queued *item = NULL;

    if (link->queue_count < QUEUE_MAX)
        item = malloc(sizeof(*item) + body_size);
    if (!item) { /* the next poll finds the end, the owner hears it: nothing gets lost unheard */
        shutdown(link->fd, SHUT_RDWR);
        close_fds(fds, fd_count);
        return -HA_E_LIMIT;
    }
    *item = (struct queued){.type = type, .id = id, .fd_count = fd_count, .body_size = body_size};
    if (fd_count > 0)
        memcpy(item->fds, fds, sizeof(int) * fd_count);
    if (body_size > 0)
        memcpy(item->body, body, body_size);
    *link->tail = item;
    link->tail = &item->next;
    link->queue_count++;
    watch(link);
    return 0;
}

int link_send(struct link *link, uint16_t type, uint64_t id, const void *body, size_t body_size,
              const int *fds, unsigned fd_count)
{
    if (!link_is_up(link)) {
        close_fds(fds, fd_count);
        return -ENOTCONN;
    }
    if (!link->head) {
        int rc = ha_sock_send(link->fd, type, id, body, body_size, fds, fd_count);
        if (rc != -EAGAIN) {
            close_fds(fds, fd_count);
            return rc; /* a dead connection shows as end of file at the next poll */
        }
    }
    return enqueue(link, type, id, body, body_size, fds, fd_count);
}

static void flush_queue(struct link *link)
{
    while (link->head) {
        struct queued *item = link->head;
        int rc = ha_sock_send(link->fd, item->type, item->id, item->body, item->body_size,
                              item->fds, item->fd_count);
        if (rc == -EAGAIN)
            return;
        link->head = item->next;
        link->queue_count--;
        close_fds(item->fds, item->fd_count);
        free(item);
    }
    link->tail = &link->head;
}

/* Reads what has come, a bounded number of packets so that one peer can't starve the loop. */
static void drain_input(struct link *link)
{
    for (unsigned i = 0; i < 64 && link->fd >= 0 && !link->is_closing; i++) {
        struct ha_packet packet;
        int rc = ha_sock_receive(link->fd, link->buffer, &packet);
        if (rc == -EAGAIN)
            return;
        if (rc <= 0) {
            disconnect(link, rc == 0 ? "the peer closed the connection" : ha_err_text(rc));
            return;
        }
        link->callbacks->packet(link->user, &packet);
        close_fds(packet.fds, HA_SOCK_FDS_MAX);
    }
}

static int32_t on_ready(int32_t fd, int32_t events, void *data)
{
    struct link *link = data;

    (void)fd;
    link->dispatch_depth++;
    if ((events & POLLOUT) && link->fd >= 0) {
        flush_queue(link);
        watch(link);
    }
    if (events & (POLLIN | POLLHUP | POLLERR))
        drain_input(link);
    link->dispatch_depth--;
    if (link->is_closing && link->dispatch_depth == 0)
        free(link);
    return 0;
}

void link_close(struct link *link)
{
    if (!link)
        return;
    if (link->timer)
        qb_loop_timer_del(link->loop, link->timer);
    if (link->fd >= 0) {
        qb_loop_poll_del(link->loop, link->fd);
        close(link->fd);
        link->fd = -1;
    }
    drop_queue(link);
    link->is_closing = true;
    if (link->dispatch_depth == 0)
        free(link);
}
