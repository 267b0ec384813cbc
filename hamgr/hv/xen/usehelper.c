/* SPDX-License-Identifier: Apache-2.0
 *
 * Which helper libxl starts to move memory: ours (hamgr-xen-helper) when it is wanted, there, of
 * the hypervisor's release, and Xen's libraries let it in; libxl's own in every other case. Decided
 * before a byte of the stream is written: later there is no way back.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/xen/helper/bound.h"
#include "hamgr/hv/xen/work.h"

#define PROGRAM  "hamgr-xen-helper"
#define VARIABLE "LIBXL_SAVE_HELPER"

static bool find_program(const struct hv_xen *x, char *ret_path, size_t capacity)
{
    if (strcmp(x->helper, "auto") != 0)
        return snprintf(ret_path, capacity, "%s", x->helper) < (int)capacity;
    ssize_t length = readlink("/proc/self/exe", ret_path, capacity - 1);
    char *slash = length > 0 ? memrchr(ret_path, '/', (size_t)length) : NULL;
    if (!slash || (size_t)(slash - ret_path) + sizeof(PROGRAM) + 1 > capacity)
        return false;
    memcpy(slash + 1, PROGRAM, sizeof(PROGRAM));
    return true;
}

/* NULL: ours will do. */
static const char *refusal(struct hv_xen *x, const char *path)
{
    int version = xc_version(x->xc, XENVER_version, NULL);
    char here[32] = "unknown";

    if (version >= 0)
        snprintf(here, sizeof(here), "%d.%d", version >> 16, version & 0xffff);
    return xen_helper_refusal(access(path, X_OK) == 0, here, XEN_RELEASE, helper_can_bind());
}

bool xen_use_helper(struct hv_xen *x)
{
    char path[PATH_MAX];

    if (!x->is_helper_tried && x->helper[0] != '\0') {
        x->is_helper_tried = true;
        const char *why =
            find_program(x, path, sizeof(path)) ? refusal(x, path) : "its place is unknown";
        x->has_helper = why == NULL && setenv(VARIABLE, path, 1) == 0;
        if (why)
            fprintf(stderr,
                    "xen: libxl's own helper moves memory, not " PROGRAM " (of Xen " XEN_RELEASE
                    "): %s\n",
                    why);
    }
    if (!x->has_helper)
        unsetenv(VARIABLE);
    return x->has_helper;
}
