/* SPDX-License-Identifier: Apache-2.0
 *
 * The lab's hotplug scripts, by the name it is called by: "block" and "vif-bridge" of
 * /etc/xen/scripts, for what the lab's guests have (a block device, a bridge). Debian's are shell
 * scripts that fork a hundred times; a fork takes up to 150 ms in an emulated dom0 on a busy
 * machine, and libxl gives up after 40 s.
 */
#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/sockios.h>
#include <xenstore.h>

#define PATH_BYTES 256

static struct xs_handle *store;
static const char *backend; /* its directory in xenstore */

static char *read_key(const char *key)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof(path), "%s/%s", backend, key);
    return xs_read(store, XBT_NULL, path, NULL);
}

static bool write_key(const char *key, const char *value)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof(path), "%s/%s", backend, key);
    return xs_write(store, XBT_NULL, path, value, (unsigned)strlen(value));
}

static int connected(void)
{
    return write_key("hotplug-status", "connected") ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int failed(const char *what)
{
    char text[PATH_BYTES];

    snprintf(text, sizeof(text), "%s: %s", what, strerror(errno));
    (void)write_key("hotplug-error", text);
    (void)write_key("hotplug-status", "error");
    fprintf(stderr, "%s: %s\n", backend, text);
    return EXIT_FAILURE;
}

static int add_disk(void)
{
    char *path = read_key("params");
    char numbers[32];
    struct stat info;

    if (!path || stat(path, &info) != 0)
        return failed(path ? path : "params");
    errno = ENOTBLK;
    if (!S_ISBLK(info.st_mode))
        return failed(path);
    snprintf(numbers, sizeof(numbers), "%x:%x", major(info.st_rdev), minor(info.st_rdev));
    if (!write_key("physical-device", numbers) || !write_key("physical-device-path", path))
        return failed(path);
    free(path);
    return connected();
}

/* As Debian's script: an address that no bridge takes for its own, in the bridge, up. The kernel
 * changes the address of a device that is down only, and QEMU may have put its own up. */
static int add_cable(const char *name, const char *bridge)
{
    struct ifreq port = {0}, to = {0};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return failed("socket");
    snprintf(port.ifr_name, sizeof(port.ifr_name), "%s", name);
    snprintf(to.ifr_name, sizeof(to.ifr_name), "%s", bridge);
    if (ioctl(fd, SIOCSIFFLAGS, &port) != 0)
        return failed(name);
    port.ifr_hwaddr = (struct sockaddr){.sa_family = ARPHRD_ETHER};
    memcpy(port.ifr_hwaddr.sa_data, "\xfe\xff\xff\xff\xff\xff", 6);
    if (ioctl(fd, SIOCSIFHWADDR, &port) != 0)
        return failed("its address");
    to.ifr_ifindex = (int)if_nametoindex(name);
    if (ioctl(fd, SIOCBRADDIF, &to) != 0 && errno != EBUSY)
        return failed(bridge);
    port.ifr_flags = IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &port) != 0)
        return failed(name);
    close(fd);
    return EXIT_SUCCESS;
}

/* "online" is about the guest's cable, "add" about the one of its emulated card, QEMU's (HVM). */
static int add_network(const char *verb)
{
    bool is_emulated = strcmp(verb, "add") == 0;
    const char *name = getenv(is_emulated ? "INTERFACE" : "vif");
    char *bridge = read_key("bridge");
    int rc = bridge && name ? add_cable(name, bridge) : failed("bridge");

    free(bridge);
    return rc != EXIT_SUCCESS || is_emulated ? rc : connected();
}

static int run(const char *program, const char *verb)
{
    bool is_disk = strcmp(program, "block") == 0;

    if (is_disk && strcmp(verb, "add") == 0)
        return add_disk();
    if (!is_disk && (strcmp(verb, "online") == 0 || strcmp(verb, "add") == 0))
        return add_network(verb);
    return EXIT_SUCCESS; /* what goes takes with it what was set up for it */
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');

    backend = getenv("XENBUS_PATH");
    store = xs_open(0);
    if (argc < 2 || !backend || !store) {
        fprintf(stderr, "%s: libxl's to call\n", argv[0]);
        return EXIT_FAILURE;
    }
    int rc = run(slash ? slash + 1 : argv[0], argv[1]);
    xs_close(store);
    return rc;
}
