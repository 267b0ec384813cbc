/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/chan.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static ssize_t fd_read(struct chan *chan, void *data, size_t size, struct ha_err *err)
{
    ssize_t r;

    do
        r = read(chan->fd, data, size);
    while (r < 0 && errno == EINTR);
    if (r >= 0)
        return r;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return -EAGAIN;
    return ha_err_set(err, errno, "connection: %s", strerror(errno));
}

static ssize_t fd_write(struct chan *chan, const void *data, size_t size, struct ha_err *err)
{
    ssize_t r;

    do
        r = send(chan->fd, data, size, MSG_NOSIGNAL);
    while (r < 0 && errno == EINTR);
    if (r >= 0)
        return r;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return -EAGAIN;
    return ha_err_set(err, errno, "connection: %s", strerror(errno));
}

static void fd_finish(struct chan *chan)
{
    (void)shutdown(chan->fd, SHUT_WR);
}

static int no_binding(struct chan *chan, uint8_t *ret_binding)
{
    (void)chan;
    memset(ret_binding, 0, CHAN_BINDING_SIZE);
    return 0;
}

static int no_renewal(struct chan *chan, struct ha_err *err)
{
    (void)chan;
    (void)err;
    return 0;
}

static void fd_close(struct chan *chan)
{
    close(chan->fd);
    free(chan);
}

static const struct chan_ops fd_ops = {
    .name = "fd",
    .read = fd_read,
    .write = fd_write,
    .finish = fd_finish,
    .bind = no_binding,
    .renew = no_renewal,
    .close = fd_close,
};

struct chan *chan_fd_new(int fd)
{
    struct chan *chan = calloc(1, sizeof(*chan));

    if (!chan) {
        close(fd);
        return NULL;
    }
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    chan->ops = &fd_ops;
    chan->fd = fd;
    chan->read_wants = POLLIN;
    chan->write_wants = POLLOUT;
    return chan;
}

struct chan_mem {
    struct chan chan;
    const uint8_t *input;
    size_t size;
};

static ssize_t mem_read(struct chan *chan, void *data, size_t size, struct ha_err *err)
{
    struct chan_mem *mem = (struct chan_mem *)chan;
    size_t taken = size < mem->size ? size : mem->size;

    (void)err;
    if (taken > 0)
        memcpy(data, mem->input, taken);
    mem->input += taken;
    mem->size -= taken;
    return (ssize_t)taken;
}

static ssize_t mem_write(struct chan *chan, const void *data, size_t size, struct ha_err *err)
{
    (void)chan;
    (void)data;
    (void)err;
    return (ssize_t)size;
}

static void mem_finish(struct chan *chan)
{
    (void)chan;
}

static void mem_close(struct chan *chan)
{
    free(chan);
}

static const struct chan_ops mem_ops = {
    .name = "memory",
    .read = mem_read,
    .write = mem_write,
    .finish = mem_finish,
    .bind = no_binding,
    .renew = no_renewal,
    .close = mem_close,
};

struct chan *chan_mem_new(const uint8_t *input, size_t size)
{
    struct chan_mem *mem = calloc(1, sizeof(*mem));

    if (!mem)
        return NULL;
    mem->chan = (struct chan){.ops = &mem_ops, .fd = -1};
    mem->input = input;
    mem->size = size;
    return &mem->chan;
}
