/* SPDX-License-Identifier: Apache-2.0
 *
 * The host itself: Xen as its kernel shows it, the kernel's options, watchdog, clock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "hamgr/doctor/look_internal.h"

#define CONFIG_BYTES (1024u * 1024u) /* Debian's has 270 KB */

/* ---- reading ---- */

bool look_path(const struct look *l, char ret_path[LOOK_FULL_MAX], const char *fmt, ...)
{
    size_t used = (size_t)snprintf(ret_path, LOOK_FULL_MAX, "%s", l->root);
    va_list args;

    if (used >= LOOK_FULL_MAX)
        return false;
    va_start(args, fmt);
    int more = vsnprintf(ret_path + used, LOOK_FULL_MAX - used, fmt, args);
    va_end(args);
    return more >= 0 && (size_t)more < LOOK_FULL_MAX - used;
}

bool look_text(const struct look *l, const char *path, char *ret_text, size_t capacity)
{
    char full[LOOK_FULL_MAX];
    size_t size = 0;
    ssize_t part = 1;

    ret_text[0] = '\0';
    int fd = look_path(l, full, "%s", path) ? open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (fd < 0)
        return false;
    while (size + 1 < capacity && part > 0) {
        part = read(fd, ret_text + size, capacity - 1 - size);
        if (part > 0)
            size += (size_t)part;
    }
    close(fd);
    ret_text[size] = '\0';
    return part >= 0;
}

bool look_stat(const struct look *l, const char *path, struct stat *ret)
{
    char full[LOOK_FULL_MAX];

    return look_path(l, full, "%s", path) && stat(full, ret) == 0;
}

static bool is_there(const struct look *l, const char *path)
{
    struct stat st;

    return look_stat(l, path, &st);
}

/* ---- Xen, as dom0's kernel shows it ---- */

static void look_at_xen(const struct look *l)
{
    char word[64], minor[64];

    if (!look_text(l, "/sys/hypervisor/type", word, sizeof(word))) {
        ha_facts_set(l->facts, HA_FACT_IS_XEN, 0);
        return;
    }
    bool is_xen = strncmp(word, "xen", 3) == 0;
    ha_facts_set(l->facts, HA_FACT_IS_XEN, is_xen);
    bool is_read = look_text(l, "/proc/xen/capabilities", word, sizeof(word));
    ha_facts_set(l->facts, HA_FACT_IS_DOM0, is_read && strstr(word, "control_d"));
    if (look_text(l, "/sys/hypervisor/version/major", word, sizeof(word)) &&
        look_text(l, "/sys/hypervisor/version/minor", minor, sizeof(minor)))
        ha_facts_set(l->facts, HA_FACT_XEN_VERSION,
                     strtoul(word, NULL, 10) << 16 | (strtoul(minor, NULL, 10) & 0xffff));
}

/* A line `key = value` or `key value` that is no comment; the last one wins. */
static bool find_setting(const char *text, const char *key, char *ret_value, size_t capacity)
{
    size_t length = strlen(key);
    bool is_found = false;

    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += strspn(line, "\n \t");
        if (strncmp(line, key, length) != 0 || !strchr(" \t=:\n", line[length]))
            continue;
        const char *value = line + length + strspn(line + length, " \t=:\"'");
        size_t size = strcspn(value, "\"'\n \t");
        snprintf(ret_value, capacity, "%.*s", (int)size, value);
        is_found = true;
    }
    return is_found;
}

static void look_at_toolstack(const struct look *l)
{
    char text[16384], value[32];

    if (!look_text(l, "/etc/xen/xl.conf", text, sizeof(text)))
        return;
    bool is_on = find_setting(text, "autoballoon", value, sizeof(value)) &&
                 (strcmp(value, "on") == 0 || strcmp(value, "1") == 0);
    ha_facts_set(l->facts, HA_FACT_HAS_AUTOBALLOON, is_on);
}

/* ---- the kernel ---- */

static const struct {
    const char *name;
    bool is_needed;
} options[] = {
    {"CONFIG_XEN", true},
    {"CONFIG_XEN_DOM0", true},
    {"CONFIG_XEN_DEV_EVTCHN", true},
    {"CONFIG_XEN_BACKEND", true},
    {"CONFIG_XENFS", true},
    {"CONFIG_XEN_SYS_HYPERVISOR", true},
    {"CONFIG_XEN_GNTDEV", true},
    {"CONFIG_XEN_GRANT_DEV_ALLOC", true},
    {"CONFIG_XEN_PRIVCMD", true},
    {"CONFIG_XEN_BLKDEV_BACKEND", true},
    {"CONFIG_XEN_NETDEV_BACKEND", true},
    {"CONFIG_BRIDGE", false},
    {"CONFIG_XEN_WDT", false},
};

/* "CONFIG_X=y" or "=m" at the start of a line. */
static bool has_option(const char *config, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = strstr(config, name); at; at = strstr(at + 1, name)) {
        bool is_line = at == config || at[-1] == '\n';
        if (is_line && at[length] == '=' && (at[length + 1] == 'y' || at[length + 1] == 'm'))
            return true;
    }
    return false;
}

static void look_at_kernel(const struct look *l)
{
    struct utsname name;
    char path[LOOK_PATH_MAX];
    char *config = malloc(CONFIG_BYTES);

    if (!config || uname(&name) != 0) {
        free(config);
        return;
    }
    ha_facts_say(l->facts, HA_TEXT_KERNEL, name.release);
    snprintf(path, sizeof(path), "/boot/config-%s", name.release);
    bool is_read = look_text(l, path, config, CONFIG_BYTES) && config[0] != '\0';
    ha_facts_set(l->facts, HA_FACT_HAS_KERNEL_CONFIG, is_read);
    for (size_t i = 0; is_read && i < sizeof(options) / sizeof(options[0]); i++) {
        if (!has_option(config, options[i].name))
            ha_facts_add(l->facts, HA_LIST_OPTION_MISSING, options[i].name, options[i].is_needed,
                         "");
    }
    free(config);
}

/* ---- watchdog ---- */

static void look_at_watchdog(const struct look *l)
{
    const char *device = l->ask->watchdog;
    char path[LOOK_PATH_MAX], identity[64];
    unsigned number = 0;

    bool is_device = strncmp(device, "/dev/watchdog", 13) == 0;
    ha_facts_set(l->facts, HA_FACT_IS_DEVICE_DOG, is_device);
    if (!is_device)
        return;
    (void)sscanf(device, "/dev/watchdog%u", &number); /* /dev/watchdog is the first */
    snprintf(path, sizeof(path), "/sys/class/watchdog/watchdog%u/identity", number);
    if (look_text(l, path, identity, sizeof(identity))) {
        ha_facts_set(l->facts, HA_FACT_HAS_SOFTDOG, strncmp(identity, "Software", 8) == 0);
        ha_facts_set(l->facts, HA_FACT_IS_XEN_DOG, strncmp(identity, "xen_wdt", 7) == 0);
    }
}

/* ---- the clock ---- */

/* A daemon that wrote its number there and still lives. */
static bool is_running(const struct look *l, const char *pid_file)
{
    char text[32], path[48];
    long pid;

    if (!look_text(l, pid_file, text, sizeof(text)))
        return false;
    pid = strtol(text, NULL, 10);
    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    return pid > 0 && is_there(l, path);
}

static void look_at_clock(const struct look *l)
{
    char text[16384], value[32];

    bool is_chrony = is_running(l, "/run/chrony/chronyd.pid") || is_running(l, "/run/chronyd.pid");
    bool is_synced = is_chrony || is_running(l, "/run/ntpd.pid") ||
                     is_there(l, "/run/systemd/timesync/synchronized");
    ha_facts_set(l->facts, HA_FACT_HAS_TIME_SYNC, is_synced);
    if (!is_chrony)
        return;
    uint64_t ppm = 83333; /* chrony's own, when nothing is set */
    if (look_text(l, "/etc/chrony/chrony.conf", text, sizeof(text)) &&
        find_setting(text, "maxslewrate", value, sizeof(value)))
        ppm = strtoull(value, NULL, 10);
    ha_facts_set(l->facts, HA_FACT_SLEW_PPM, ppm);
}

void look_host(const char *root, const struct look_ask *ask, struct look_tell *ret_tell)
{
    struct look l = {.root = root, .ask = ask, .facts = &ret_tell->facts};

    look_at_xen(&l);
    if (ask->is_xen) {
        look_at_toolstack(&l);
        look_at_kernel(&l);
        look_swap(&l);
    }
    look_at_watchdog(&l);
    look_at_clock(&l);
    look_trust(&l);
    ret_tell->found_count = ask->thing_count;
    for (uint32_t i = 0; i < ask->thing_count; i++)
        look_thing(&l, &ask->things[i], &ret_tell->found[i]);
    ha_facts_set(l.facts, HA_FACT_IS_LOOKED, 1);
}
