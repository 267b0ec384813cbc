/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/streambench/offer.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/tune.h"

#define GRACE_MS 10000u /* a lost connection may come back this long */

#if OFFERS_PAGES
static bool set_pages(struct streamp_start *start, const char *name, unsigned value)
{
    if (strcmp(name, "level-auto") == 0)
        start->level = STREAMP_LEVEL_AUTO;
    else if (strcmp(name, "workers") == 0)
        start->workers = (uint8_t)value;
    else if (strcmp(name, "cache-mib") == 0)
        start->cache_mib = value;
    else
        return false;
    return true;
}
#else
static bool set_pages(struct streamp_start *start, const char *name, unsigned value)
{
    (void)start;
    (void)name;
    (void)value;
    return false;
}
#endif

bool offer_packet(int control, const struct sockaddr_in *receiver, const struct ha_packet *packet)
{
    if (packet->type != STREAMP_CONNECT)
        return false;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    tune_socket(fd, TUNE_LANE_MS);
    (void)connect(fd, (const struct sockaddr *)receiver, sizeof(*receiver));
    (void)ha_sock_send(control, STREAMP_SOCKET, 0, packet->body, packet->body_size, &fd, 1);
    close(fd);
    return true;
}

const char *offer_names(void)
{
    return OFFERS;
}

bool offer_set(struct streamp_start *start, const char *name, unsigned value)
{
    if (strcmp(name, "connections") != 0)
        return set_pages(start, name, value);
    start->connections = (uint8_t)value;
    start->grace_ms = GRACE_MS;
    return true;
}
