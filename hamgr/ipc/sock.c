/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/ipc/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hamgr/base/bytes.h"

#define HEADER_SIZE 20u

static int make_address(const char *path, struct sockaddr_un *ret_address, struct ha_err *err)
{
    memset(ret_address, 0, sizeof(*ret_address));
    ret_address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(ret_address->sun_path))
        return ha_err_set(err, ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(ret_address->sun_path, path, strlen(path) + 1);
    return 0;
}

/* Messages of HA_IPC_MAX bytes must fit the queue, or a large one could never be sent. */
static void widen_queue(int fd)
{
    int size = 4 * (int)HA_IPC_MAX;

    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

int ha_sock_listen(const char *path, gid_t group, struct ha_err *err)
{
    struct sockaddr_un address;
    int rc = make_address(path, &address, err);

    if (rc < 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ha_err_set(err, errno, "socket: %s", strerror(errno));
    unlink(path);
    mode_t mask = umask(0117);
    int r = bind(fd, (struct sockaddr *)&address, sizeof(address));
    umask(mask);
    if (r == 0 && group != (gid_t)-1)
        r = chown(path, (uid_t)-1, group);
    if (r == 0)
        r = listen(fd, 16);
    if (r < 0) {
        rc = ha_err_set(err, errno, "listen at %s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    return fd;
}

int ha_sock_accept(int listener, uid_t uid, struct ha_err *err)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return -errno;
    struct ucred peer = {0};
    socklen_t size = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
        (peer.uid != 0 && peer.uid != geteuid() && (uid == (uid_t)-1 || peer.uid != uid))) {
        close(fd);
        return ha_err_set(err, HA_E_AUTH, "uid %u may not connect", (unsigned)peer.uid);
    }
    widen_queue(fd);
    return fd;
}

int ha_sock_connect(const char *path, struct ha_err *err)
{
    struct sockaddr_un address;
    int rc = make_address(path, &address, err);

    if (rc < 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ha_err_set(err, errno, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        rc = ha_err_set(err, errno, "connect to %s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    widen_queue(fd);
    return fd;
}

int ha_sock_send(int fd, uint16_t type, uint64_t id, const void *body, size_t body_size,
                 const int *fds, unsigned fd_count)
{
    uint8_t header[HEADER_SIZE];
    struct ha_writer w = ha_writer_of(header, sizeof(header));
    char control[CMSG_SPACE(sizeof(int) * HA_SOCK_FDS_MAX)] = {0};

    if (body_size > HA_IPC_MAX - HEADER_SIZE || fd_count > HA_SOCK_FDS_MAX)
        return -EMSGSIZE;
    ha_put_u32(&w, HA_SOCK_MAGIC);
    ha_put_u16(&w, HA_SOCK_VERSION);
    ha_put_u16(&w, type);
    ha_put_u64(&w, id);
    ha_put_u32(&w, (uint32_t)body_size);
    struct iovec parts[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)body, body_size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = body_size > 0 ? 2 : 1};
    if (fd_count > 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(rights), fds, sizeof(int) * fd_count);
    }
    ssize_t r;
    do
        r = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* Takes the descriptors out of a received message; what we have no room for is closed. */
static void take_fds(struct msghdr *message, struct ha_packet *packet)
{
    unsigned taken = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (taken < HA_SOCK_FDS_MAX)
                packet->fds[taken++] = fd;
            else
                close(fd);
        }
    }
}

static int parse_header(const uint8_t *buffer, size_t size, struct ha_packet *packet)
{
    struct ha_reader r = ha_reader_of(buffer, size);
    uint32_t magic = ha_get_u32(&r);
    uint16_t version = ha_get_u16(&r);

    packet->type = ha_get_u16(&r);
    packet->id = ha_get_u64(&r);
    uint32_t body_size = ha_get_u32(&r);
    if (r.failed || magic != HA_SOCK_MAGIC)
        return -HA_E_PEER;
    if (version != HA_SOCK_VERSION)
        return -HA_E_VERSION;
    if (body_size != size - HEADER_SIZE)
        return -HA_E_PEER;
    packet->body = buffer + HEADER_SIZE;
    packet->body_size = body_size;
    return 1;
}

static ssize_t receive(int fd, struct msghdr *message)
{
    ssize_t r;

    do
        r = recvmsg(fd, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

int ha_sock_receive(int fd, uint8_t *buffer, struct ha_packet *ret_packet)
{
    char control[CMSG_SPACE(sizeof(int) * 2 * HA_SOCK_FDS_MAX)];
    struct iovec part = {buffer, HA_IPC_MAX};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof(control)};
    ssize_t r = receive(fd, &message);

    /* Who closes with words unread resets the connection, and the kernel says that first, once:
     * what was sent before, the reason of an end for instance, still waits behind it. */
    if (r == -ECONNRESET)
        r = receive(fd, &message);
    if (r <= 0)
        return (int)r;
    memset(ret_packet, 0, sizeof(*ret_packet));
    for (unsigned i = 0; i < HA_SOCK_FDS_MAX; i++)
        ret_packet->fds[i] = -1;
    take_fds(&message, ret_packet);
    int rc =
        (message.msg_flags & MSG_TRUNC) ? -HA_E_PEER : parse_header(buffer, (size_t)r, ret_packet);
    for (unsigned i = 0; rc < 0 && i < HA_SOCK_FDS_MAX; i++) {
        if (ret_packet->fds[i] >= 0)
            close(ret_packet->fds[i]);
        ret_packet->fds[i] = -1;
    }
    return rc;
}
