/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/page_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "migrate/frame.h"
#include "migrate/session.h"

#define PARTS_MAX   256u      /* of one writev; neighbours count as one */
#define QUEUE_BYTES (4 << 20) /* asked for; the kernel gives what it allows */

struct sink_fd {
    struct page_sink sink;
    int fd;
    struct session *session;
};

/* Drops `done` bytes from the front of the list; returns how many parts are left. */
static unsigned advance(struct iovec **parts, unsigned count, size_t done)
{
    while (count > 0 && done >= (*parts)->iov_len) {
        done -= (*parts)->iov_len;
        (*parts)++;
        count--;
    }
    if (count > 0) {
        (*parts)->iov_base = (uint8_t *)(*parts)->iov_base + done;
        (*parts)->iov_len -= done;
    }
    return count;
}

static int write_parts(struct sink_fd *s, struct iovec *parts, unsigned count, struct ha_err *err)
{
    while (count > 0) {
        ssize_t r = writev(s->fd, parts, (int)count);
        if (r >= 0) {
            count = advance(&parts, count, (size_t)r);
            session_moved(s->session, (uint64_t)r);
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == EPIPE || errno == ECONNRESET)
            return ha_err_set(err, errno, "native stream: the hypervisor's end was closed");
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return ha_err_set(err, errno, "native stream: %s", strerror(errno));
        s->session->is_sink_waiting = true;
        int rc = session_wait_fd(s->session, s->fd, POLLOUT, -1, err);
        s->session->is_sink_waiting = false;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int sink_bytes(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err)
{
    struct iovec part = {(void *)(uintptr_t)data, size};

    return size > 0 ? write_parts((struct sink_fd *)sink, &part, 1, err) : 0;
}

static int sink_pages(struct page_sink *sink, const uint8_t *const *content, uint32_t count,
                      struct ha_err *err)
{
    struct iovec parts[PARTS_MAX];
    unsigned used = 0;
    int rc = 0;

    for (uint32_t i = 0; i < count && rc == 0; i++) {
        if (i > 0 && used > 0 && content[i] == content[i - 1] + FRAME_PAGE_SIZE) {
            parts[used - 1].iov_len += FRAME_PAGE_SIZE;
            continue;
        }
        if (used == PARTS_MAX) {
            rc = write_parts((struct sink_fd *)sink, parts, used, err);
            used = 0;
        }
        parts[used++] = (struct iovec){(void *)(uintptr_t)content[i], FRAME_PAGE_SIZE};
    }
    return rc < 0 ? rc : write_parts((struct sink_fd *)sink, parts, used, err);
}

static void sink_close(struct page_sink *sink)
{
    close(((struct sink_fd *)sink)->fd);
    free(sink);
}

static const struct page_sink_ops fd_ops = {
    .name = "fd",
    .raw = sink_bytes,
    .batch = sink_bytes,
    .pages = sink_pages,
    .close = sink_close,
};

struct page_sink *page_sink_fd_new(int fd, struct session *session)
{
    struct sink_fd *s = calloc(1, sizeof(*s));
    int size = QUEUE_BYTES;

    if (!s) {
        close(fd);
        return NULL;
    }
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    s->sink.ops = &fd_ops;
    s->fd = fd;
    s->session = session;
    return &s->sink;
}
