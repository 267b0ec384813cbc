/* SPDX-License-Identifier: Apache-2.0
 *
 * Where migrations arrive and how they get there: TCP sockets, bound, listening or connecting. The
 * stream process gets them and speaks. And the pair between it and hamgr-hv.
 */
#include "hamgr/shell/shell.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define NATIVE_BUFFER (512 << 10)

static int parse_address(const char *addr, uint16_t port, struct sockaddr_storage *ret_address,
                         socklen_t *ret_size)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret_address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret_address;

    memset(ret_address, 0, sizeof(*ret_address));
    if (inet_pton(AF_INET, addr, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *ret_size = sizeof(*v4);
        return 0;
    }
    if (inet_pton(AF_INET6, addr, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        *ret_size = sizeof(*v6);
        return 0;
    }
    return -HA_E_USAGE;
}

int movesock_listen(struct hamgrd *d, struct peer_move_ready *ready, struct ha_err *err)
{
    const struct ha_node *self = ha_state_node(&d->state, d->identity.node);
    const char *addr = d->config.migration_addr[0] ? d->config.migration_addr
                       : self                      ? self->addr
                                                   : "";

    for (uint32_t port = d->config.port_min; port <= d->config.port_max; port++) {
        struct sockaddr_storage address;
        socklen_t size;
        if (parse_address(addr, (uint16_t)port, &address, &size) < 0)
            return ha_err_set(err, HA_E_USAGE, "[migration] address: %s is not a numeric address",
                              addr);
        int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            return ha_err_set(err, errno, "socket: %s", strerror(errno));
        int yes = 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
        if (bind(fd, (struct sockaddr *)&address, size) == 0 && listen(fd, 8) == 0) {
            ready->port = (uint16_t)port;
            snprintf(ready->addr, sizeof(ready->addr), "%s", addr);
            return fd;
        }
        close(fd);
    }
    return ha_err_set(err, HA_E_LIMIT, "no free port in [migration] ports %u-%u on %s",
                      d->config.port_min, d->config.port_max, addr);
}

int movesock_connect(const struct peer_move_ready *ready, struct ha_err *err)
{
    struct sockaddr_storage address;
    socklen_t size;

    if (parse_address(ready->addr, ready->port, &address, &size) < 0)
        return ha_err_set(err, HA_E_PEER, "%s is not a numeric address", ready->addr);
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ha_err_set(err, errno, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, size) < 0 && errno != EINPROGRESS) {
        int rc = ha_err_set(err, errno, "connect to %s port %u: %s", ready->addr, ready->port,
                            strerror(errno));
        close(fd);
        return rc;
    }
    return fd; /* the stream process waits until it is connected */
}

int movesock_pair(int ret_fds[2], struct ha_err *err)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret_fds) < 0)
        return ha_err_set(err, errno, "socketpair: %s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        int size = NATIVE_BUFFER;
        setsockopt(ret_fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    }
    return 0;
}
