/* SPDX-License-Identifier: Apache-2.0
 *
 * The file's keys as one table: section, key, kind, where it goes and what it may be.
 */
#include "hamgr/config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <ini.h>

#include "hamgr/base/id.h"
#include "hamgr/base/lines.h"
#include "hamgr/hv/hv.h"
#include "hamgr/ipc/streamproto.h"

#define FILE_MAX (256u * 1024)

enum kind { TEXT, NAME, FLAG, TIME_MS, SIZE_KIB, NUMBER, PORTS, CHOICE };

struct choice {
    const char *word;
    uint32_t value;
};

struct key {
    const char *section;
    const char *key;
    uint8_t kind; /* enum kind */
    size_t offset;
    size_t size; /* of the member */
    uint64_t min;
    uint64_t max;
    const struct choice *choices; /* CHOICE, and words besides a number; ends with NULL */
    const char *expected;
};

#define AT(member) offsetof(struct ha_config, member), sizeof(((struct ha_config *)0)->member)

static const struct choice automatic[] = {{"auto", 0}, {NULL, 0}};
static const struct choice stream_levels[] = {{"auto", STREAMP_LEVEL_AUTO}, {NULL, 0}};
static const struct choice hypervisors[] = {{"embedded", 1}, {"xen", 2}, {NULL, 0}};
static const struct choice shutdowns[] = {
    {"migrate", HA_SHUTDOWN_MIGRATE}, {"stop", HA_SHUTDOWN_STOP}, {NULL, 0}};
static const struct choice on_slows[] = {
    {"throttle", HV_SLOW_THROTTLE}, {"pause", HV_SLOW_PAUSE}, {"abort", HV_SLOW_ABORT}, {NULL, 0}};
static const struct choice levels[] = {{"error", LOG_ERR},     {"warning", LOG_WARNING},
                                       {"notice", LOG_NOTICE}, {"info", LOG_INFO},
                                       {"debug", LOG_DEBUG},   {NULL, 0}};

static const struct key keys[] = {
    {"node", "name", NAME, AT(name), 0, 0, NULL, "a node name of letters, digits, . _ -"},
    {"node", "witness", FLAG, AT(is_witness), 0, 0, NULL, "yes or no"},
    {"node", "memory", SIZE_KIB, AT(mem_kib), 0, UINT64_C(1) << 40, NULL,
     "a size like 16GiB or 512MiB"},
    {"node", "hypervisor", CHOICE, AT(hypervisor), 0, 0, hypervisors, "embedded or xen"},
    {"cluster", "heartbeat", TIME_MS, AT(heartbeat_ms), 50, 10000, NULL, "a time from 50ms to 10s"},
    {"cluster", "lease", TIME_MS, AT(lease_ms), 500, 600000, automatic,
     "auto or a time from 500ms to 600s"},
    {"cluster", "keeper-poll", TIME_MS, AT(keeper_ms), 20, 5000, NULL, "a time from 20ms to 5s"},
    {"cluster", "reset", TIME_MS, AT(reset_ms), 0, 600000, NULL, "a time up to 600s"},
    {"cluster", "drain", TIME_MS, AT(drain_ms), 0, 600000, NULL, "a time up to 600s"},
    {"watchdog", "timeout", TIME_MS, AT(watchdog_ms), 1000, 600000, NULL, "a time from 1s to 600s"},
    {"watchdog", "device", TEXT, AT(watchdog_device), 0, 0, NULL, "a path, or unix:PATH"},
    {"watchdog", "allow-softdog", FLAG, AT(allow_softdog), 0, 0, NULL, "yes or no"},
    {"migration", "address", TEXT, AT(migration_addr), 0, 0, NULL, "a numeric IP address"},
    {"migration", "ports", PORTS, AT(port_min), 1, 65535, NULL, "a range like 7780-7799"},
    {"migration", "max-downtime", TIME_MS, AT(max_downtime_ms), 1, 600000, NULL,
     "a time from 1ms to 600s"},
    {"migration", "deadline", TIME_MS, AT(deadline_ms), 0, 86400000, NULL,
     "a time up to 24h, 0 = none"},
    {"migration", "on-slow", CHOICE, AT(on_slow), 0, 0, on_slows, "throttle, pause or abort"},
    {"migration", "idle-timeout", TIME_MS, AT(idle_timeout_ms), 1000, 600000, NULL,
     "a time from 1s to 600s"},
    {"migration", "level", NUMBER, AT(level), 0, 19, stream_levels,
     "a zstd level from 0 (store) to 19, or auto"},
    {"migration", "workers", NUMBER, AT(workers), 0, 64, NULL,
     "a number up to 64, 0 = by the processors"},
    {"migration", "cache", SIZE_KIB, AT(cache_kib), 0, STREAMP_CACHE_MAX * 1024u, NULL,
     "a size up to 1GiB, 0 = none"},
    {"migration", "identical", FLAG, AT(is_identical), 0, 0, NULL, "yes or no"},
    {"migration", "bandwidth", NUMBER, AT(rate_mbit), 0, 1000000, NULL,
     "Mbit/s up to 1000000, 0 = no cap"},
    {"migration", "connections", NUMBER, AT(connections), 0, 8, NULL,
     "a number from 1 to 8, 0 = one connection that is never resumed"},
    {"migration", "grace", TIME_MS, AT(grace_ms), 1000, 600000, NULL, "a time from 1s to 600s"},
    {"migration", "ca", TEXT, AT(ca_path), 0, 0, NULL, "a path"},
    {"migration", "certificate", TEXT, AT(cert_path), 0, 0, NULL, "a path"},
    {"migration", "key", TEXT, AT(key_path), 0, 0, NULL, "a path"},
    {"migration", "parallel", NUMBER, AT(parallel), 1, 64, NULL, "a number from 1 to 64"},
    {"guests", "on-shutdown", CHOICE, AT(shutdown), 0, 0, shutdowns, "migrate or stop"},
    {"guests", "start-parallel", NUMBER, AT(start_parallel), 1, 4096, NULL,
     "a number from 1 to 4096"},
    {"paths", "state", TEXT, AT(state_dir), 0, 0, NULL, "a directory"},
    {"ipc", "admin-group", TEXT, AT(admin_group), 0, 0, NULL, "a group name, or empty"},
    {"log", "level", CHOICE, AT(log_level), 0, 0, levels, "error, warning, notice, info or debug"},
};

#define MANY_CPUS 8 /* one TLS connection keeps one busy, and the guests want some too */
#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

void ha_config_default(struct ha_config *ret_config)
{
    struct ha_config c = {.heartbeat_ms = 500,
                          .keeper_ms = 250,
                          .reset_ms = 1000,
                          .drain_ms = 2000,
                          .watchdog_ms = 5000,
                          .port_min = 7780,
                          .port_max = 7799,
                          .max_downtime_ms = 300,
                          .idle_timeout_ms = 10000,
                          .on_slow = HV_SLOW_THROTTLE,
                          .level = STREAMP_LEVEL_AUTO,
                          .cache_kib = 256 * 1024,
                          .connections = sysconf(_SC_NPROCESSORS_ONLN) >= MANY_CPUS ? 4 : 2,
                          .grace_ms = 8000,
                          .parallel = 2,
                          .shutdown = HA_SHUTDOWN_MIGRATE,
                          .start_parallel = 64,
                          .log_level = LOG_INFO};

    if (gethostname(c.name, sizeof(c.name)) < 0)
        c.name[0] = '\0';
    c.name[sizeof(c.name) - 1] = '\0';
    c.name[strcspn(c.name, ".")] = '\0'; /* the short name, as corosync's nodelist uses it */
    snprintf(c.hypervisor, sizeof(c.hypervisor), "xen");
    snprintf(c.watchdog_device, sizeof(c.watchdog_device), "/dev/watchdog");
    snprintf(c.ca_path, sizeof(c.ca_path), "/etc/hamgr/pki/ca.pem");
    snprintf(c.cert_path, sizeof(c.cert_path), "/etc/hamgr/pki/node.pem");
    snprintf(c.key_path, sizeof(c.key_path), "/etc/hamgr/pki/node.key");
    snprintf(c.state_dir, sizeof(c.state_dir), "/var/lib/hamgr");
    *ret_config = c;
}

struct parse {
    struct ha_config *config;
    bool is_seen[KEY_COUNT];
    char problem[HA_TEXT_MAX];
};

static bool store_number(void *place, size_t size, uint64_t value)
{
    switch (size) {
    case 1:
        *(uint8_t *)place = (uint8_t)value;
        return value <= UINT8_MAX;
    case 2:
        *(uint16_t *)place = (uint16_t)value;
        return value <= UINT16_MAX;
    case 4:
        *(uint32_t *)place = (uint32_t)value;
        return value <= UINT32_MAX;
    case 8:
        *(uint64_t *)place = value;
        return true;
    default:
        return false;
    }
}

/* A number and one of the units; false if malformed or too large for 64 bits. */
static bool parse_scaled(const char *text, const struct choice *units, uint64_t *ret_value)
{
    char *end;

    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno || end == text || text[0] < '0' || text[0] > '9')
        return false;
    while (*end == ' ')
        end++;
    for (; units->word; units++) {
        if (strcmp(end, units->word) == 0) {
            *ret_value = number * units->value;
            return number <= UINT64_MAX / units->value;
        }
    }
    return false;
}

static bool parse_ports(const char *text, const struct key *key, struct ha_config *config)
{
    char *end;
    unsigned long low = strtoul(text, &end, 10);
    unsigned long high = low;

    if (text[0] < '0' || text[0] > '9') /* strtoul takes signs and blanks */
        return false;
    if (*end == '-') {
        const char *second = end + 1;
        high = strtoul(second, &end, 10);
        if (second[0] < '0' || second[0] > '9')
            return false;
    }
    if (*end != '\0' || low < key->min || high > key->max || low > high)
        return false;
    config->port_min = (uint16_t)low;
    config->port_max = (uint16_t)high;
    return true;
}

static const struct choice *find_choice(const struct choice *choices, const char *word)
{
    for (; choices && choices->word; choices++) {
        if (strcmp(choices->word, word) == 0)
            return choices;
    }
    return NULL;
}

static bool set_scaled(const struct key *key, const struct choice *units, const char *text,
                       void *place)
{
    uint64_t value;

    return parse_scaled(text, units, &value) && value >= key->min && value <= key->max &&
           store_number(place, key->size, value);
}

static bool set_choice(const struct key *key, const char *text, void *place)
{
    const struct choice *choice = find_choice(key->choices, text);

    if (!choice)
        return false;
    if (key->choices != hypervisors)
        return store_number(place, key->size, choice->value);
    snprintf(place, key->size, "%s", text);
    return true;
}

static bool set_text(const struct key *key, const char *text, void *place)
{
    if (strlen(text) >= key->size)
        return false;
    memcpy(place, text, strlen(text) + 1);
    return true;
}

static bool set_flag(const char *text, void *place)
{
    bool is_yes = strcmp(text, "yes") == 0;

    if (!is_yes && strcmp(text, "no") != 0)
        return false;
    *(bool *)place = is_yes;
    return true;
}

static bool set_value(const struct key *key, const char *text, struct ha_config *config)
{
    static const struct choice times[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {NULL, 0}};
    static const struct choice sizes[] = {
        {"KiB", 1}, {"MiB", 1024}, {"GiB", 1024 * 1024}, {"TiB", 1024 * 1024 * 1024}, {NULL, 0}};
    static const struct choice plain[] = {{"", 1}, {NULL, 0}};
    void *place = (char *)config + key->offset;
    bool is_zero = strcmp(text, "0") == 0 && key->min == 0;
    const struct choice *word =
        key->kind == TIME_MS || key->kind == NUMBER ? find_choice(key->choices, text) : NULL;

    switch ((enum kind)key->kind) {
    case TEXT:
        return set_text(key, text, place);
    case NAME:
        return ha_name_is_valid(text) && set_text(key, text, place);
    case FLAG:
        return set_flag(text, place);
    case TIME_MS:
        return word ? store_number(place, key->size, word->value)
                    : set_scaled(key, is_zero ? plain : times, text, place);
    case SIZE_KIB:
        return set_scaled(key, is_zero ? plain : sizes, text, place);
    case NUMBER:
        return word ? store_number(place, key->size, word->value)
                    : set_scaled(key, plain, text, place);
    case PORTS:
        return parse_ports(text, key, config);
    case CHOICE:
        return set_choice(key, text, place);
    }
    return false;
}

static int on_key(void *user, const char *section, const char *name, const char *value)
{
    struct parse *p = user;
    bool is_section = false;

    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (strcmp(keys[i].section, section) != 0)
            continue;
        is_section = true;
        if (strcmp(keys[i].key, name) != 0)
            continue;
        if (p->is_seen[i]) {
            snprintf(p->problem, sizeof(p->problem), "[%.20s] %.30s: given twice", section, name);
            return 0;
        }
        p->is_seen[i] = true;
        if (set_value(&keys[i], value, p->config))
            return 1;
        snprintf(p->problem, sizeof(p->problem), "[%.20s] %.30s: got \"%.50s\", expected %s",
                 section, name, value, keys[i].expected);
        return 0;
    }
    if (is_section)
        snprintf(p->problem, sizeof(p->problem),
                 "[%.20s] %.50s: no such key in this section (hamgr.conf(5) lists them)", section,
                 name);
    else
        snprintf(p->problem, sizeof(p->problem),
                 "[%.40s]: no such section, expected node, cluster, watchdog, migration, guests, "
                 "paths, ipc or log",
                 section);
    return 0;
}

int ha_config_parse(const char *name, const char *text, struct ha_config *config,
                    struct ha_err *err)
{
    struct parse p = {.config = config};

    int line = ha_long_line(text);
    if (line != 0)
        return ha_err_set(err, HA_E_USAGE,
                          "%.60s:%d: a line longer than %u bytes: expected a "
                          "shorter one",
                          name, line, HA_LINE_MAX);
    line = ini_parse_string(text, on_key, &p);
    if (line == 0)
        return 0;
    return ha_err_set(err, HA_E_USAGE, "%.60s:%d: %.170s", name, line < 0 ? 0 : line,
                      p.problem[0] ? p.problem : "expected [section] or key = value");
}

/* The number of the line a text ends in. */
static int count_lines(const char *text)
{
    int count = 1;

    for (const char *end = strchr(text, '\n'); end; end = strchr(end + 1, '\n'))
        count++;
    return count;
}

int ha_config_load(const char *path, struct ha_config *ret_config, struct ha_err *err)
{
    struct ha_config config;

    ha_config_default(&config);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno != ENOENT)
            return ha_err_set(err, errno, "%s: %s", path, strerror(errno));
        *ret_config = config;
        return 0;
    }
    char *text = calloc(1, FILE_MAX + 1);
    ssize_t size = text ? read(fd, text, FILE_MAX) : -1;
    int rc = size < 0 ? ha_err_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
    if (rc == 0 && strlen(text) != (size_t)size) /* what is behind a NUL would be overlooked */
        rc = ha_err_set(err, HA_E_USAGE, "%.60s:%d: a NUL byte: expected text", path,
                        count_lines(text));
    if (rc == 0)
        rc = ha_config_parse(path, text, &config, err);
    if (rc == 0 && size == (ssize_t)FILE_MAX)
        rc = ha_err_set(err, HA_E_LIMIT, "%s is longer than 256 KiB", path);
    close(fd);
    free(text);
    if (rc == 0)
        *ret_config = config;
    return rc;
}
