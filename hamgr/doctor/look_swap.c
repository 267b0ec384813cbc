/* SPDX-License-Identifier: Apache-2.0
 *
 * Where dom0 swaps to: a disk in the host, storage that other hosts share, or its own memory.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/doctor/look_internal.h"

#define SLAVES_DEPTH 4u /* of devices upon devices */
#define NAME_SIZE    96u

enum place { PLACE_LOCAL, PLACE_SHARED, PLACE_MEMORY };

static const char *const words[] = {
    [PLACE_LOCAL] = "local", [PLACE_SHARED] = "shared", [PLACE_MEMORY] = "memory"};

static bool begins_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* A disk whose host is elsewhere: by its driver, its way through sysfs (iSCSI's sessions, remote
 * ports of Fibre Channel), or the transport of its NVMe controller. */
static bool is_remote(const struct look *l, const char *name)
{
    char path[LOOK_FULL_MAX], link[LOOK_FULL_MAX] = "", transport[32];

    if (begins_with(name, "nbd") || begins_with(name, "rbd"))
        return true;
    if (look_path(l, path, "/sys/class/block/%s", name)) {
        ssize_t size = readlink(path, link, sizeof(link) - 1);
        link[size > 0 ? size : 0] = '\0';
    }
    if (strstr(link, "/session") || strstr(link, "/rport-"))
        return true;
    snprintf(path, sizeof(path), "/sys/class/block/%s/device/transport", name);
    return begins_with(name, "nvme") && look_text(l, path, transport, sizeof(transport)) &&
           !begins_with(transport, "pcie");
}

/* The device itself, or one of those below it (device mapper, MD). */
static enum place place_of_device(const struct look *l, const char *name, unsigned depth)
{
    enum place place = begins_with(name, "zram") || begins_with(name, "ram") ? PLACE_MEMORY
                       : is_remote(l, name)                                  ? PLACE_SHARED
                                                                             : PLACE_LOCAL;
    char path[LOOK_FULL_MAX], below[NAME_SIZE];
    struct dirent *entry;

    DIR *list =
        depth > 0 && look_path(l, path, "/sys/class/block/%s/slaves", name) ? opendir(path) : NULL;
    while (list && place == PLACE_LOCAL && (entry = readdir(list)) != NULL) {
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof(below))
            continue;
        snprintf(below, sizeof(below), "%.95s", entry->d_name);
        place = place_of_device(l, below, depth - 1);
    }
    if (list)
        closedir(list);
    return place;
}

static enum place place_of_file(const struct look *l, const char *name)
{
    char path[LOOK_FULL_MAX];

    return look_path(l, path, "%s", name) && look_is_shared(path) ? PLACE_SHARED : PLACE_LOCAL;
}

/* "/dev/sda2 partition 1048572 0 -2": name, type, KiB, used, priority. */
static void take_line(const struct look *l, const char *line)
{
    char name[NAME_SIZE], type[16];
    uint64_t size_kib;

    if (sscanf(line, "%95s %15s %" SCNu64, name, type, &size_kib) != 3)
        return;
    const char *base = strrchr(name, '/');
    enum place place = strcmp(type, "partition") == 0 && base
                           ? place_of_device(l, base + 1, SLAVES_DEPTH)
                           : place_of_file(l, name);
    ha_facts_add(l->facts, HA_LIST_SWAP, name, size_kib, words[place]);
}

void look_swap(const struct look *l)
{
    char text[8192];

    if (!look_text(l, "/proc/swaps", text, sizeof(text)))
        return;
    ha_facts_set(l->facts, HA_FACT_IS_SWAP_KNOWN, 1);
    /* The first line names the columns. */
    for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
        take_line(l, line + 1);
}
