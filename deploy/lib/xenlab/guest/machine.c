/* SPDX-License-Identifier: Apache-2.0
 *
 * See machine.h.
 */
#include "deploy/lib/xenlab/guest/machine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DISK_TRIES   300 /* every 100 ms */
#define COMMAND_LINE 4096
#define NANOS        1000000000u

static void load_module(const char *name)
{
    char path[160];
    snprintf(path, sizeof(path), "/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) {
        printf("guest: module %s: %s\n", name, strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void load_modules(void)
{
    char name[128];
    FILE *order = fopen("/modules/order", "re");
    if (!order) {
        return;
    }
    while (fgets(name, sizeof(name), order)) {
        name[strcspn(name, "\n")] = '\0';
        load_module(name);
    }
    fclose(order);
}

void machine_begin(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0 ||
        mount("dev", "/dev", "devtmpfs", 0, NULL) != 0) {
        printf("guest: mount: %s\n", strerror(errno));
    }
    load_modules();
}

void machine_text(const char *key, char *ret_text, size_t size)
{
    char line[COMMAND_LINE];
    size_t length = strlen(key);
    ret_text[0] = '\0';
    FILE *file = fopen("/proc/cmdline", "re");
    if (!file) {
        return;
    }
    size_t n = fread(line, 1, sizeof(line) - 1, file);
    fclose(file);
    line[n] = '\0';
    char *rest = line;
    for (char *word; (word = strsep(&rest, " \n")) != NULL;) {
        if (strncmp(word, "lab.", 4) == 0 && strncmp(word + 4, key, length) == 0 &&
            word[4 + length] == '=') {
            snprintf(ret_text, size, "%s", word + 5 + length);
        }
    }
}

uint64_t machine_number(const char *key, uint64_t fallback)
{
    char text[32];
    char *end;
    machine_text(key, text, sizeof(text));
    errno = 0;
    uint64_t value = strtoull(text, &end, 0);
    return text[0] == '\0' || *end != '\0' || errno != 0 ? fallback : value;
}

uint64_t machine_random(void)
{
    uint64_t value = 0;
    if (getrandom(&value, sizeof(value), GRND_NONBLOCK) != (ssize_t)sizeof(value)) {
        value = machine_realtime_ns() ^ (machine_boottime_ns() << 32);
    }
    return value | 1;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * NANOS + (uint64_t)ts.tv_nsec;
}

uint64_t machine_boottime_ns(void)
{
    return clock_ns(CLOCK_BOOTTIME);
}

uint64_t machine_realtime_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

int machine_open_disk(const char *device, uint64_t *ret_bytes)
{
    int fd = -1;
    for (int i = 0; i < DISK_TRIES && fd < 0; i++) {
        fd = open(device, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
        if (fd < 0) {
            usleep(100000);
        }
    }
    if (fd < 0) {
        return -errno;
    }
    return ioctl(fd, BLKGETSIZE64, ret_bytes) == 0 ? fd : -errno;
}

static int set_up(int fd, const char *address)
{
    struct ifreq request = {.ifr_name = "eth0"};
    struct sockaddr_in in = {.sin_family = AF_INET};
    if (inet_pton(AF_INET, address, &in.sin_addr) != 1) {
        return -EINVAL;
    }
    memcpy(&request.ifr_addr, &in, sizeof(in));
    if (ioctl(fd, SIOCSIFADDR, &request) != 0) {
        return -errno;
    }
    in.sin_addr.s_addr = htonl(0xffffff00);
    memcpy(&request.ifr_netmask, &in, sizeof(in));
    if (ioctl(fd, SIOCSIFNETMASK, &request) != 0) {
        return -errno;
    }
    request.ifr_flags = IFF_UP | IFF_RUNNING | IFF_BROADCAST;
    return ioctl(fd, SIOCSIFFLAGS, &request) == 0 ? 0 : -errno;
}

int machine_open_network(const char *address, uint16_t port)
{
    int yes = 1;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    int rc = set_up(fd, address);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    to.sin_addr.s_addr |= htonl(0xff); /* the /24's broadcast */
    if (rc == 0 && (setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &yes, sizeof(yes)) != 0 ||
                    connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)) {
        rc = -errno;
    }
    if (rc != 0) {
        close(fd);
        return rc;
    }
    return fd;
}
