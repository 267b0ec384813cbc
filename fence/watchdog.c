/* SPDX-License-Identifier: Apache-2.0 */
#include "fence/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/watchdog.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define UNIX_PREFIX    "unix:"
#define UNIX_ANSWER_MS 500 /* the device is a process on this machine: more means it is dead */

struct fd_watchdog {
    struct watchdog base;
    int fd;
};

static void abandon(struct watchdog *w)
{
    struct fd_watchdog *self = (struct fd_watchdog *)w;

    close(self->fd);
    free(self);
}

/* ---- Linux device ------------------------------------------------------------------------------
 */

static int linux_arm(struct watchdog *w, uint32_t wanted_ms, uint32_t *ret_ms, struct ha_err *err)
{
    struct fd_watchdog *self = (struct fd_watchdog *)w;
    int seconds = (int)((wanted_ms + 999) / 1000);

    /* Drivers without SETTIMEOUT have a fixed one: what counts is what is read back. */
    (void)ioctl(self->fd, WDIOC_SETTIMEOUT, &seconds);
    if (ioctl(self->fd, WDIOC_GETTIMEOUT, &seconds) < 0 || seconds <= 0)
        return ha_err_set(err, errno, "the watchdog does not tell its timeout: %s",
                          strerror(errno));
    if (ioctl(self->fd, WDIOC_KEEPALIVE, 0) < 0)
        return ha_err_set(err, errno, "the watchdog can't be petted: %s", strerror(errno));
    *ret_ms = (uint32_t)seconds * 1000;
    return 0;
}

static void linux_pet(struct watchdog *w)
{
    (void)ioctl(((struct fd_watchdog *)w)->fd, WDIOC_KEEPALIVE, 0);
}

static int linux_disarm(struct watchdog *w, struct ha_err *err)
{
    struct fd_watchdog *self = (struct fd_watchdog *)w;

    if (write(self->fd, "V", 1) != 1)
        return ha_err_set(err, errno, "magic close: %s", strerror(errno));
    abandon(w);
    return 0;
}

static const struct watchdog_ops linux_ops = {.name = "linux",
                                              .arm = linux_arm,
                                              .pet = linux_pet,
                                              .disarm = linux_disarm,
                                              .abandon = abandon};

static int check_softdog(int fd, const char *device, struct ha_err *err)
{
    struct watchdog_info info = {0};

    if (ioctl(fd, WDIOC_GETSUPPORT, &info) == 0 &&
        strcmp((const char *)info.identity, "Software Watchdog") == 0)
        return ha_err_set(err, HA_E_REFUSED,
                          "%s is softdog, which hangs with the kernel it guards: use a hardware "
                          "watchdog, or set [watchdog] allow-softdog = yes",
                          device);
    return 0;
}

static int open_linux(const char *device, bool allow_softdog, int *ret_fd, struct ha_err *err)
{
    int fd = open(device, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return ha_err_set(err, errno, "watchdog %s: %s%s", device, strerror(errno),
                          errno == EBUSY ? " (another program holds it: stop it)" : "");
    int rc = allow_softdog ? 0 : check_softdog(fd, device, err);
    if (rc < 0) {
        (void)!write(fd, "V", 1); /* opening armed it: this refusal must not reset the host */
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

/* ---- socket ------------------------------------------------------------------------------------
 */

static int ask(int fd, const char *question, char *ret_answer, size_t size, struct ha_err *err)
{
    struct pollfd wait = {.fd = fd, .events = POLLIN};

    if (send(fd, question, strlen(question), MSG_NOSIGNAL) < 0)
        return ha_err_set(err, errno, "watchdog socket: %s", strerror(errno));
    if (poll(&wait, 1, UNIX_ANSWER_MS) != 1)
        return ha_err_set(err, HA_E_TIMEOUT, "the watchdog process does not answer");
    ssize_t length = recv(fd, ret_answer, size - 1, 0);
    if (length <= 0)
        return ha_err_set(err, EPIPE, "the watchdog process closed the connection");
    ret_answer[length] = '\0';
    if (strncmp(ret_answer, "OK", 2) != 0)
        return ha_err_set(err, HA_E_REFUSED, "the watchdog process says: %.100s", ret_answer);
    return 0;
}

static int unix_arm(struct watchdog *w, uint32_t wanted_ms, uint32_t *ret_ms, struct ha_err *err)
{
    char line[129];
    unsigned in_effect_ms = 0;

    snprintf(line, sizeof(line), "ARM %u", wanted_ms);
    int rc = ask(((struct fd_watchdog *)w)->fd, line, line, sizeof(line), err);
    if (rc < 0)
        return rc;
    if (sscanf(line, "OK %u", &in_effect_ms) != 1 || in_effect_ms == 0)
        return ha_err_set(err, HA_E_PEER, "the watchdog process answered ARM with: %.100s", line);
    *ret_ms = in_effect_ms;
    return 0;
}

static void unix_pet(struct watchdog *w)
{
    (void)send(((struct fd_watchdog *)w)->fd, "PET", 3, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int unix_disarm(struct watchdog *w, struct ha_err *err)
{
    char line[129];
    int rc = ask(((struct fd_watchdog *)w)->fd, "CLOSE", line, sizeof(line), err);

    if (rc == 0)
        abandon(w);
    return rc;
}

static const struct watchdog_ops unix_ops = {
    .name = "unix", .arm = unix_arm, .pet = unix_pet, .disarm = unix_disarm, .abandon = abandon};

static int open_unix(const char *path, int *ret_fd, struct ha_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(address.sun_path))
        return ha_err_set(err, ENAMETOOLONG, "watchdog socket path %s is too long", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ha_err_set(err, errno, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int rc = ha_err_set(err, errno, "watchdog %s: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

int watchdog_open(const char *device, bool allow_softdog, struct watchdog **ret_watchdog,
                  struct ha_err *err)
{
    bool is_unix = strncmp(device, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0;
    int fd = -1;

    int rc = is_unix ? open_unix(device + strlen(UNIX_PREFIX), &fd, err)
                     : open_linux(device, allow_softdog, &fd, err);
    if (rc < 0)
        return rc;
    struct fd_watchdog *w = calloc(1, sizeof(*w));
    if (!w) {
        close(fd);
        return ha_err_set(err, ENOMEM, "no memory for a watchdog");
    }
    w->base.ops = is_unix ? &unix_ops : &linux_ops;
    w->fd = fd;
    *ret_watchdog = &w->base;
    return 0;
}
