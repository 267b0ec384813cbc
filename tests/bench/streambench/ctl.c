/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/streambench/ctl.h"

#include <err.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "migrate/ring.h"

#define LINE_MAX_SIZE 1024

int ctl_open(const char *path, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(address.sun_path))
        errx(2, "%s: too long for a socket", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        err(2, "%s", path);
    ctl_say(fd, "hello %s %d", name, (int)getpid());
    return fd;
}

void ctl_say(int ctl, const char *fmt, ...)
{
    char line[LINE_MAX_SIZE];
    va_list list;

    va_start(list, fmt);
    int size = vsnprintf(line, sizeof(line) - 1, fmt, list);
    va_end(list);
    if (size < 0)
        errx(1, "unprintable");
    size_t used = (size_t)size < sizeof(line) - 1 ? (size_t)size : sizeof(line) - 2;
    line[used++] = '\n';
    if (send(ctl, line, used, MSG_NOSIGNAL) != (ssize_t)used)
        err(1, "the bench has gone");
}

void ctl_wait(int ctl, const char *word)
{
    char line[LINE_MAX_SIZE];
    size_t used = 0;

    while (used < sizeof(line) - 1) {
        ssize_t r = read(ctl, line + used, 1);
        if (r <= 0)
            exit(1);
        if (line[used] == '\n')
            break;
        used++;
    }
    line[used] = '\0';
    if (strcmp(line, word) != 0)
        errx(2, "\"%s\" instead of \"%s\"", line, word);
}

uint64_t ctl_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

const char *ctl_value(int argc, char **argv, int *at)
{
    if (*at + 1 >= argc)
        errx(2, "%s needs a value", argv[*at]);
    return argv[++*at];
}

unsigned ctl_number(int argc, char **argv, int *at, unsigned max)
{
    const char *word = argv[*at];
    const char *value = ctl_value(argc, argv, at);
    char *end = NULL;
    unsigned long number = strtoul(value, &end, 10);

    if (*value == '\0' || *end != '\0' || number > max)
        errx(2, "%s %s: a number up to %u", word, value, max);
    return (unsigned)number;
}

struct ring *ctl_ring(const char *path)
{
    struct ha_err failed = {0};
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        err(2, "%s", path);
    struct ring *ring = ring_map(fd, &failed);
    if (!ring)
        errx(2, "%s: %s", path, failed.text);
    close(fd);
    return ring;
}
