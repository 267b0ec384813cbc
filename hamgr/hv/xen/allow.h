/* SPDX-License-Identifier: Apache-2.0
 *
 * What definitions may name on this node: a file of root's with one word and one value a line,
 *   program = block-nbd         a base name, found by libxl in Xen's own directories only
 *   root = /srv/guests          paths in definitions must lie below one of these
 * A missing file allows neither. One that others than root may write to is refused.
 */
#ifndef HAMGR_HV_XEN_ALLOW_H
#define HAMGR_HV_XEN_ALLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/err.h"

#define XEN_ALLOW_PATH  "/etc/hamgr/xen-allow.conf"
#define XEN_ALLOW_MAX   64u
#define XEN_ALLOW_BYTES 256u

struct xen_allow {
    char program[XEN_ALLOW_MAX][XEN_ALLOW_BYTES];
    char root[XEN_ALLOW_MAX][XEN_ALLOW_BYTES];
    uint32_t program_count;
    uint32_t root_count;
};

/* 0 or a negative error that names file and line. */
int xen_allow_load(const char *path, struct xen_allow *ret, struct ha_err *err);

/* Syntax alone: a base name; an absolute path without empty, "." and ".." parts. */
bool xen_is_base_name(const char *text);
bool xen_is_plain_path(const char *text);

bool xen_allow_has_program(const struct xen_allow *allow, const char *name);
bool xen_allow_has_path(const struct xen_allow *allow, const char *path);

#endif
