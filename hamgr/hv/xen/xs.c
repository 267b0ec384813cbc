/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/xs.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* xenstored answers in well below a millisecond when it gets a processor. Within this the gate's
 * round stays within P even if each of its three listings met one slow answer. */
#define ANSWER_MS 50
#define AGAIN_MS  500u
#define BODY_MAX  4096u /* XENSTORE_PAYLOAD_MAX */

/* Types of xs_wire.h, which describes the protocol. */
enum { TYPE_READ = 2, TYPE_ERROR = 16 };

struct header {
    uint32_t type;
    uint32_t request;
    uint32_t transaction;
    uint32_t size;
};

struct xs_client {
    struct sockaddr_un address;
    int fd;
    uint32_t request;
    uint64_t failed_ms; /* when it did not answer; 0 = it did */
    char body[BODY_MAX + 1];
};

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct xs_client *xs_client_new(const char *socket_path)
{
    struct xs_client *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->fd = -1;
    c->address.sun_family = AF_UNIX;
    snprintf(c->address.sun_path, sizeof(c->address.sun_path), "%s", socket_path);
    return c;
}

static void hang_up(struct xs_client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

void xs_client_close(struct xs_client *c)
{
    if (!c)
        return;
    hang_up(c);
    free(c);
}

static int call(struct xs_client *c)
{
    if (c->fd >= 0)
        return 0;
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Not accepted yet is no matter; a full backlog answers EAGAIN at once. */
    if (c->fd >= 0 && connect(c->fd, (const struct sockaddr *)&c->address, sizeof(c->address)) == 0)
        return 0;
    int code = errno;
    hang_up(c);
    return -code;
}

static int await(const struct xs_client *c, short events, uint64_t end_ms)
{
    struct pollfd p = {.fd = c->fd, .events = events};
    uint64_t now = now_ms();
    int rc = now < end_ms ? poll(&p, 1, (int)(end_ms - now)) : 0;

    if (rc < 0 && errno == EINTR)
        return 0;
    if (rc < 0)
        return -errno;
    return rc == 0 ? -ETIMEDOUT : 0;
}

static int transfer(struct xs_client *c, bool is_sent, void *bytes, size_t size, uint64_t end_ms)
{
    uint8_t *at = bytes;

    while (size > 0) {
        ssize_t n = is_sent ? send(c->fd, at, size, MSG_NOSIGNAL) : recv(c->fd, at, size, 0);
        if (n > 0) {
            at += n;
            size -= (size_t)n;
            continue;
        }
        if (n == 0)
            return -EPIPE;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        int rc = await(c, is_sent ? POLLOUT : POLLIN, end_ms);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int ask(struct xs_client *c, const char *path, uint64_t end_ms)
{
    struct header h = {.type = TYPE_READ, .request = ++c->request};
    size_t size = strlen(path) + 1;

    if (size > BODY_MAX)
        return -ENAMETOOLONG;
    h.size = (uint32_t)size;
    memcpy(c->body, path, size);
    int rc = transfer(c, true, &h, sizeof(h), end_ms);
    return rc != 0 ? rc : transfer(c, true, c->body, size, end_ms);
}

/* The answer to the newest question into c->body; its size. */
static int hear(struct xs_client *c, uint64_t end_ms)
{
    struct header h;

    do {
        int rc = transfer(c, false, &h, sizeof(h), end_ms);
        if (rc == 0 && h.size > BODY_MAX)
            rc = -EPROTO;
        if (rc == 0)
            rc = transfer(c, false, c->body, h.size, end_ms);
        if (rc != 0)
            return rc;
    } while (h.request != c->request);
    c->body[h.size] = '\0';
    if (h.type == TYPE_READ)
        return (int)h.size;
    return h.type == TYPE_ERROR && strcmp(c->body, "ENOENT") == 0 ? -ENOENT : -EPROTO;
}

int xs_client_read(struct xs_client *c, const char *path, char *ret_value, size_t capacity)
{
    uint64_t begin_ms = now_ms();

    if (c->failed_ms != 0 && begin_ms < c->failed_ms + AGAIN_MS)
        return -ETIMEDOUT;
    int rc = call(c);
    if (rc == 0)
        rc = ask(c, path, begin_ms + ANSWER_MS);
    if (rc == 0)
        rc = hear(c, begin_ms + ANSWER_MS);
    if (rc < 0 && rc != -ENOENT) {
        hang_up(c);
        c->failed_ms = now_ms();
        return rc;
    }
    c->failed_ms = 0;
    if (rc >= 0 && (size_t)rc >= capacity)
        return -E2BIG;
    if (rc >= 0)
        memcpy(ret_value, c->body, (size_t)rc + 1);
    return rc;
}
