/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-hv with the embedded hypervisor.
 */
#include <limits.h>
#include <stdio.h>

#include "hamgr/hv/drivers.h"
#include "hamgr/hv/embedded/embedded.h"

static struct hv *open_embedded(void *user, struct ha_err *err)
{
    const struct hv_config *config = user;
    struct hv_embedded_options options;
    char disk_dir[PATH_MAX];

    hv_embedded_options_from_env(&options);
    snprintf(disk_dir, sizeof(disk_dir), "%s/disks", config->run_dir);
    options.run_dir = config->run_dir;
    options.guest_binary = config->guest_binary;
    if (!options.disk_dir)
        options.disk_dir = disk_dir;
    return hv_embedded_open_with(&options, err);
}

const struct hv_driver hv_drivers[] = {
    {"embedded", open_embedded, "/run/hamgr/embedded"},
    {NULL, NULL, NULL},
};
