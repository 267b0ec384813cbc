/* SPDX-License-Identifier: Apache-2.0
 *
 * /etc/hamgr/fence.conf: the fence devices this node can drive, with their credentials. INI, one
 * section per device: [device NAME]. Keys `agent` (base name of a fence agent), `level` (1..9),
 * `timeout`, `nodes` (names, comma separated; more in indented lines below; absent = all),
 * `plug.NODE` (the device's name for a node; default the node's name), `monitor` (interval of the
 * proof, 0 = off); every other key goes to the agent's standard input as it stands. Lines of at
 * most 180 bytes. The file must belong to root and be closed to others.
 */
#ifndef FENCE_DEVICES_H
#define FENCE_DEVICES_H

#include "hamgr/base/err.h"
#include "hamgr/base/limits.h"
#include "hamgr/ipc/fenceproto.h"

#define FENCE_CONF_PATH   "/etc/hamgr/fence.conf"
#define FENCE_OPTIONS_MAX 32u
#define FENCE_VALUE_MAX   256u

struct device_option {
    char key[HA_NAME_MAX];
    char value[FENCE_VALUE_MAX];
};

struct device {
    struct fencep_device d; /* what hamgrd may know */
    uint32_t monitor_ms;    /* 0 = never */
    uint32_t option_count;
    struct device_option options[FENCE_OPTIONS_MAX];
    uint32_t plug_count; /* per-node names */
    struct {
        char node[HA_NAME_MAX];
        char plug[FENCE_VALUE_MAX];
    } plugs[HA_NODES_MAX];
};

struct devices {
    uint32_t count;
    struct device list[HA_DEVICES_MAX];
};

/* Parses text (tests, fuzzing). Errors name file, line, section and key. */
int devices_parse(const char *name, const char *text, struct devices *ret_devices,
                  struct ha_err *err);
/* Reads the file after checking owner and mode; a missing file is an empty list. */
int devices_load(const char *path, struct devices *ret_devices, struct ha_err *err);
const struct device *devices_find(const struct devices *devices, const char *name);
/* Writes the agent's standard input for action against node into buffer. Returns its size or
 * -HA_E_LIMIT. Holds secrets: the caller wipes it. */
int devices_input(const struct device *device, const char *action, const char *node, char *buffer,
                  size_t size);
/* Replaces every option value that looks like a secret (password, passwd, key, token...) in text by
 * "***", in place. */
void devices_redact(const struct device *device, char *text);

#endif
