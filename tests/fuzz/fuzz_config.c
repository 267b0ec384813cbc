/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: texts that people write: hamgr.conf, fence.conf and an embedded guest's definition
 * (which comes with a request). The first byte picks which. What is accepted is within what the
 * manual promises; what is refused says where and why; a comment in front changes nothing.
 */
#include "tests/fuzz/fuzz.h"

#include "fence/devices.h"
#include "hamgr/base/id.h"
#include "hamgr/config/config.h"
#include "hamgr/hv/embedded/definition.h"
#include "hamgr/ipc/streamproto.h"

/* Names the file and a line, and is a whole sentence. */
static void require_words(const struct ha_err *err, const char *file)
{
    REQUIRE(err->code != 0 && memchr(err->text, '\0', sizeof(err->text)) != NULL);
    REQUIRE(strncmp(err->text, file, strlen(file)) == 0 && strlen(err->text) > strlen(file) + 4);
}

static void require_text(const char *text, size_t size)
{
    REQUIRE(memchr(text, '\0', size) != NULL);
}

static void require_config(const struct ha_config *c)
{
    require_text(c->name, sizeof(c->name));
    require_text(c->watchdog_device, sizeof(c->watchdog_device));
    require_text(c->migration_addr, sizeof(c->migration_addr));
    require_text(c->ca_path, sizeof(c->ca_path));
    require_text(c->key_path, sizeof(c->key_path));
    require_text(c->state_dir, sizeof(c->state_dir));
    require_text(c->admin_group, sizeof(c->admin_group));
    REQUIRE(strcmp(c->hypervisor, "xen") == 0 || strcmp(c->hypervisor, "embedded") == 0);
    REQUIRE(c->heartbeat_ms >= 50 && c->heartbeat_ms <= 10000);
    REQUIRE(c->lease_ms == 0 || (c->lease_ms >= 500 && c->lease_ms <= 600000));
    REQUIRE(c->keeper_ms >= 20 && c->keeper_ms <= 5000);
    REQUIRE(c->watchdog_ms >= 1000 && c->watchdog_ms <= 600000);
    REQUIRE(c->port_min >= 1 && c->port_min <= c->port_max);
    REQUIRE(c->max_downtime_ms >= 1 && c->rate_mbit <= 1000000);
    REQUIRE(c->level <= 19 || c->level == STREAMP_LEVEL_AUTO);
    REQUIRE(c->parallel >= 1 && c->parallel <= 64 && c->mem_kib <= UINT64_C(1) << 40);
    REQUIRE(c->start_parallel >= 1 && c->start_parallel <= 4096);
    REQUIRE(c->shutdown == HA_SHUTDOWN_MIGRATE || c->shutdown == HA_SHUTDOWN_STOP);
}

/* A remark above: refused as a whole (a line that is too long), or without any effect. */
static void try_remark(const char *text, const struct ha_config *plain)
{
    size_t length = strcspn(text, "\n"), size = strlen(text);
    char *both = malloc(length + size + 4);
    struct ha_config config;

    REQUIRE(both);
    snprintf(both, length + size + 4, "# %.*s\n%s", (int)length, text, text);
    memset(&config, 0, sizeof(config));
    ha_config_default(&config);
    if (ha_config_parse("f", both, &config, NULL) == 0)
        REQUIRE(memcmp(&config, plain, sizeof(config)) == 0);
    else
        REQUIRE(length > 150);
    free(both);
}

static void try_config(const char *text)
{
    struct ha_config config;
    struct ha_err err = {0};

    memset(&config, 0, sizeof(config));
    ha_config_default(&config);
    if (ha_config_parse("hamgr.conf", text, &config, &err) < 0) {
        require_words(&err, "hamgr.conf:");
        return;
    }
    require_config(&config);
    try_remark(text, &config);
}

static void require_device(const struct device *device)
{
    char input[32768];
    const struct fencep_device *d = &device->d;

    REQUIRE(ha_name_is_valid(d->name) && strncmp(d->agent, "fence_", 6) == 0);
    REQUIRE(strchr(d->agent, '/') == NULL && ha_name_is_valid(d->agent));
    REQUIRE(d->level >= 1 && d->level <= 9 && d->timeout_ms >= 100 && d->timeout_ms <= 600000);
    REQUIRE(d->node_count <= HA_NODES_MAX && device->option_count <= FENCE_OPTIONS_MAX);
    for (uint32_t i = 0; i < d->node_count; i++)
        REQUIRE(ha_name_is_valid(d->nodes[i]));
    int size = devices_input(device, "off", "n1", input, sizeof(input));
    REQUIRE(size > 0 && (size_t)size == strlen(input) && input[size - 1] == '\n');
    /* Each option stays one line of the agent's input: none brings another action along. */
    unsigned lines = 0, actions = 0;
    for (const char *at = input; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        lines += *at != '\0';
        actions += strncmp(at, "action=", 7) == 0;
    }
    REQUIRE(lines == device->option_count + 4 && actions == 1);
}

static void try_devices(const char *text)
{
    static struct devices devices;
    struct ha_err err = {0};

    if (devices_parse("fence.conf", text, &devices, &err) < 0) {
        require_words(&err, "fence.conf:");
        return;
    }
    REQUIRE(devices.count <= HA_DEVICES_MAX);
    for (uint32_t i = 0; i < devices.count; i++) {
        require_device(&devices.list[i]);
        REQUIRE(devices_find(&devices, devices.list[i].d.name) == &devices.list[i]);
    }
}

static void try_definition(const uint8_t *text, size_t size)
{
    struct emb_definition d, again;
    struct ha_err err = {0};

    if (emb_definition_parse(text, size, &d, &err) < 0) {
        REQUIRE(err.code == HA_E_USAGE && strlen(err.text) > 5);
        return;
    }
    REQUIRE(d.memory_mib >= 1 && d.memory_mib <= 65536);
    REQUIRE(d.zero_percent + d.text_percent <= 100 && d.writes_per_s <= 1000);
    REQUIRE(d.step_ms >= 1 && d.step_ms <= 1000 && d.disk <= EMB_DISK_WRITEBACK);
    memset(&again, 0xa5, sizeof(again));
    REQUIRE(emb_definition_parse(text, size, &again, &err) == 0 && again.seed == d.seed);
    REQUIRE(again.memory_mib == d.memory_mib && again.crash_after_s == d.crash_after_s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t which = fuzz_u8(&in) % 3u;
    char *text = fuzz_text(in.data, in.size);
    uint8_t *bytes = fuzz_copy(in.data, in.size);

    if (which == 0)
        try_config(text);
    else if (which == 1)
        try_devices(text);
    else
        try_definition(bytes, in.size);
    free(text);
    free(bytes);
    return 0;
}
