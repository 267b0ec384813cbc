/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/tune.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

void tune_socket(int fd, uint32_t user_timeout_ms)
{
    int on = 1;
    int timeout_ms = user_timeout_ms < INT32_MAX ? (int)user_timeout_ms : INT32_MAX;
    int idle_s = 2, interval_s = 2, probes = 3; /* 2 + 3 * 2 = 8 s */

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}
