/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-hv-xen: hamgr-hv on a dom0 of Xen.
 */
#include "hamgr/hv/drivers.h"
#include "hamgr/hv/xen/allow.h"
#include "hamgr/hv/xen/xen.h"

static struct hv *open_xen(void *user, struct ha_err *err)
{
    const struct hv_config *config = user;
    struct hv_xen_options options = {.run_dir = config->run_dir,
                                     .allow_path =
                                         config->xen_allow ? config->xen_allow : XEN_ALLOW_PATH,
                                     .helper = config->xen_helper};

    return hv_xen_open(&options, err);
}

const struct hv_driver hv_drivers[] = {
    {"xen", open_xen, HV_XEN_RUN_DIR},
    {NULL, NULL, NULL},
};
