/* SPDX-License-Identifier: Apache-2.0 */
#include "fence/devices.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ini.h>

#include "hamgr/base/id.h"
#include "hamgr/base/lines.h"

#define SECTION_PREFIX  "device "
#define FILE_MAX        (256u * 1024)
#define TIMEOUT_DEFAULT 60000u   /* what pacemaker and the agents' own defaults expect of a BMC */
#define MONITOR_DEFAULT 3600000u /* a device is proven once an hour */

struct parse {
    struct devices *devices;
    char problem[HA_TEXT_MAX];
};

static int complain(struct parse *p, const char *section, const char *key, const char *value,
                    const char *expected)
{
    snprintf(p->problem, sizeof(p->problem), "[%.60s] %.40s: got \"%.40s\", expected %s", section,
             key, value, expected);
    return 0;
}

/* "500ms", "60s", "60" (seconds), "10m", "1h" in milliseconds; false if it is none of these. */
static bool parse_time(const char *text, uint32_t max_ms, uint32_t *ret_ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"", 1000}};
    char *end;

    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || end == text || text[0] == '-' || number > max_ms)
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].unit) == 0 && number * units[i].ms <= max_ms) {
            *ret_ms = (uint32_t)(number * units[i].ms);
            return true;
        }
    }
    return false;
}

static struct device *section_device(struct parse *p, const char *section)
{
    const char *name = section + strlen(SECTION_PREFIX);

    if (strncmp(section, SECTION_PREFIX, strlen(SECTION_PREFIX)) != 0 || !ha_name_is_valid(name))
        return NULL;
    for (uint32_t i = 0; i < p->devices->count; i++) {
        if (strcmp(p->devices->list[i].d.name, name) == 0)
            return &p->devices->list[i];
    }
    if (p->devices->count == HA_DEVICES_MAX)
        return NULL;
    struct device *device = &p->devices->list[p->devices->count++];
    memset(device, 0, sizeof(*device));
    snprintf(device->d.name, sizeof(device->d.name), "%s", name);
    device->d.level = 1;
    device->d.timeout_ms = TIMEOUT_DEFAULT;
    device->d.is_for_all = true;
    device->monitor_ms = MONITOR_DEFAULT;
    return device;
}

static int set_nodes(struct parse *p, struct device *device, const char *section, const char *value)
{
    char copy[2048];
    char *save = NULL;

    if (strlen(value) >= sizeof(copy))
        return complain(p, section, "nodes", value, "a shorter list");
    memcpy(copy, value, strlen(value) + 1);
    device->d.is_for_all = false; /* a longer list goes on in the next line */
    for (char *name = strtok_r(copy, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
        if (!ha_name_is_valid(name) || device->d.node_count == HA_NODES_MAX)
            return complain(p, section, "nodes", name, "at most 32 node names");
        snprintf(device->d.nodes[device->d.node_count++], HA_NAME_MAX, "%s", name);
    }
    return 1;
}

static int set_plug(struct parse *p, struct device *device, const char *section, const char *key,
                    const char *value)
{
    const char *node = key + strlen("plug.");

    if (!ha_name_is_valid(node) || device->plug_count == HA_NODES_MAX)
        return complain(p, section, key, value, "plug.NODE = NAME for at most 32 nodes");
    for (uint32_t i = 0; i < device->plug_count; i++) {
        if (strcmp(device->plugs[i].node, node) == 0)
            return complain(p, section, key, value, "it once, on one line");
    }
    snprintf(device->plugs[device->plug_count].node, HA_NAME_MAX, "%s", node);
    snprintf(device->plugs[device->plug_count].plug, FENCE_VALUE_MAX, "%s", value);
    device->plug_count++;
    return 1;
}

static int set_option(struct parse *p, struct device *device, const char *section, const char *key,
                      const char *value)
{
    static const char *const ours[] = {"action", "plug", "port", "nodename", "option"};

    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        if (strcmp(key, ours[i]) == 0)
            return complain(p, section, key, value, "no such key: hamgr sets it (see plug.NODE)");
    }
    if (device->option_count == FENCE_OPTIONS_MAX || strlen(key) >= HA_NAME_MAX ||
        strlen(value) >= FENCE_VALUE_MAX)
        return complain(p, section, key, "(hidden)", "at most 32 options of 255 bytes");
    for (uint32_t i = 0; i < device->option_count; i++) {
        if (strcmp(device->options[i].key, key) == 0)
            return complain(p, section, key, "(hidden)", "it once, on one line");
    }
    struct device_option *option = &device->options[device->option_count++];
    snprintf(option->key, sizeof(option->key), "%s", key);
    snprintf(option->value, sizeof(option->value), "%s", value);
    return 1;
}

static int on_key(void *user, const char *section, const char *key, const char *value)
{
    struct parse *p = user;
    struct device *device = section_device(p, section);
    uint32_t number = 0;

    if (!device && p->devices->count == HA_DEVICES_MAX)
        return complain(p, section, key, "", "at most 32 devices a node");
    if (!device)
        return complain(p, section, key, "", "a section [device NAME]");
    if (strchr(value, '\n') || strchr(value, '\r'))
        return complain(p, section, key, "(hidden)", "a value on one line");
    if (strcmp(key, "agent") == 0) {
        if (!ha_name_is_valid(value) || strncmp(value, "fence_", 6) != 0)
            return complain(p, section, key, value, "the base name of an agent, fence_...");
        snprintf(device->d.agent, sizeof(device->d.agent), "%s", value);
        return 1;
    }
    if (strcmp(key, "level") == 0) {
        if (value[0] < '1' || value[0] > '9' || value[1] != '\0')
            return complain(p, section, key, value, "1 to 9");
        device->d.level = (uint8_t)(value[0] - '0');
        return 1;
    }
    if (strcmp(key, "timeout") == 0) {
        if (!parse_time(value, 600000, &number) || number < 100)
            return complain(p, section, key, value, "a time from 100ms to 10m");
        device->d.timeout_ms = number;
        return 1;
    }
    if (strcmp(key, "monitor") == 0) {
        if (!parse_time(value, 86400000, &device->monitor_ms))
            return complain(p, section, key, value, "a time up to 24h, 0 = never");
        return 1;
    }
    if (strcmp(key, "nodes") == 0)
        return set_nodes(p, device, section, value);
    if (strncmp(key, "plug.", 5) == 0)
        return set_plug(p, device, section, key, value);
    return set_option(p, device, section, key, value);
}

/* Peers are told of all devices in one message. */
static int check_size(const char *name, const struct devices *devices, struct ha_err *err)
{
    static uint8_t scrap[8192]; /* one device with 32 names of 63 bytes takes 2300 */
    size_t size = 0;

    for (uint32_t i = 0; i < devices->count; i++) {
        struct ha_writer w = ha_writer_of(scrap, sizeof(scrap));
        fencep_devices_encode(&w, &(struct fencep_devices){.device = devices->list[i].d});
        size += w.failed ? sizeof(scrap) : w.position;
    }
    if (size <= FENCEP_DEVICES_BYTES_MAX)
        return 0;
    return ha_err_set(
        err, HA_E_LIMIT,
        "%.80s: the devices with their names and nodes take %zu bytes, at most %u can "
        "be told to peers: leave out `nodes` of devices for all, or shorten names",
        name, size, FENCEP_DEVICES_BYTES_MAX);
}

int devices_parse(const char *name, const char *text, struct devices *ret_devices,
                  struct ha_err *err)
{
    struct parse p = {.devices = ret_devices};

    ret_devices->count = 0;
    int line = ha_long_line(text);
    if (line != 0)
        return ha_err_set(err, HA_E_USAGE, "%.80s:%d: a line longer than %u bytes", name, line,
                          HA_LINE_MAX);
    line = ini_parse_string(text, on_key, &p);
    if (line != 0)
        return ha_err_set(err, HA_E_USAGE, "%.80s:%d: %.150s", name, line,
                          p.problem[0] ? p.problem : "neither [device NAME] nor key = value");
    for (uint32_t i = 0; i < ret_devices->count; i++) {
        if (ret_devices->list[i].d.agent[0] == '\0')
            return ha_err_set(err, HA_E_USAGE, "%.80s: [device %s] has no agent = fence_...", name,
                              ret_devices->list[i].d.name);
    }
    return check_size(name, ret_devices, err);
}

static int check_owner(int fd, const char *path, struct ha_err *err)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return ha_err_set(err, errno, "%s: %s", path, strerror(errno));
    if (status.st_uid != 0 && status.st_uid != geteuid())
        return ha_err_set(err, HA_E_AUTH, "%s belongs to uid %u: chown root %s", path,
                          (unsigned)status.st_uid, path);
    if (status.st_mode & 077)
        return ha_err_set(err, HA_E_AUTH,
                          "%s holds credentials and is open to others: chmod 600 %s", path, path);
    return 0;
}

int devices_load(const char *path, struct devices *ret_devices, struct ha_err *err)
{
    ret_devices->count = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : ha_err_set(err, errno, "%s: %s", path, strerror(errno));
    int rc = check_owner(fd, path, err);
    char *text = rc == 0 ? calloc(1, FILE_MAX + 1) : NULL;
    ssize_t size = text ? read(fd, text, FILE_MAX) : -1;
    close(fd);
    if (rc == 0 && size < 0)
        rc = ha_err_set(err, errno, "%s: can't be read", path);
    if (rc == 0 && (size_t)size == FILE_MAX)
        rc = ha_err_set(err, HA_E_LIMIT, "%s is longer than 256 KiB", path);
    else if (rc == 0 && strlen(text) != (size_t)size) /* what follows would be overlooked */
        rc = ha_err_set(err, HA_E_USAGE, "%s: a NUL byte: expected text", path);
    if (rc == 0)
        rc = devices_parse(path, text, ret_devices, err);
    if (text)
        explicit_bzero(text, FILE_MAX);
    free(text);
    return rc;
}

const struct device *devices_find(const struct devices *devices, const char *name)
{
    for (uint32_t i = 0; i < devices->count; i++) {
        if (strcmp(devices->list[i].d.name, name) == 0)
            return &devices->list[i];
    }
    return NULL;
}

static const char *plug_of(const struct device *device, const char *node)
{
    for (uint32_t i = 0; i < device->plug_count; i++) {
        if (strcmp(device->plugs[i].node, node) == 0)
            return device->plugs[i].plug;
    }
    return node;
}

int devices_input(const struct device *device, const char *action, const char *node, char *buffer,
                  size_t size)
{
    size_t used = 0;
    int r = snprintf(buffer, size, "action=%s\n", action);

    for (uint32_t i = 0; r >= 0 && i < device->option_count; i++) {
        used += (size_t)r;
        if (used >= size)
            return -HA_E_LIMIT;
        r = snprintf(buffer + used, size - used, "%s=%s\n", device->options[i].key,
                     device->options[i].value);
    }
    used += (size_t)r;
    if (used >= size)
        return -HA_E_LIMIT;
    if (node[0] != '\0') {
        const char *plug = plug_of(device, node);
        r = snprintf(buffer + used, size - used, "plug=%s\nport=%s\nnodename=%s\n", plug, plug,
                     node);
        used += (size_t)r;
    }
    return used < size ? (int)used : -HA_E_LIMIT;
}

static bool is_secret(const char *key)
{
    static const char *const words[] = {"pass", "secret", "token", "key", "community"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strstr(key, words[i]))
            return true;
    }
    return false;
}

void devices_redact(const struct device *device, char *text)
{
    for (uint32_t i = 0; i < device->option_count; i++) {
        const char *value = device->options[i].value;
        size_t length = strlen(value);
        if (!is_secret(device->options[i].key) || length == 0)
            continue;
        for (char *at = strstr(text, value); at; at = strstr(at, value)) {
            memset(at, '*', length < 3 ? length : 3);
            if (length > 3)
                memmove(at + 3, at + length, strlen(at + length) + 1);
            at += length < 3 ? length : 3;
        }
    }
}
