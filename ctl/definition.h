/* SPDX-License-Identifier: Apache-2.0
 *
 * From what an operator gives to the definition that goes into the log: key = value for the
 * embedded hypervisor as it is; libxl's JSON with the guest's name and uuid put in; xl.cfg through
 * xl's own dry run, here in the caller's process and with the caller's rights, once: nodes get its
 * JSON.
 */
#ifndef HAMGR_CTL_DEFINITION_H
#define HAMGR_CTL_DEFINITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "hamgr/base/err.h"
#include "hamgr/base/id.h"

struct guest_definition {
    char text[HA_DEFINITION_MAX + 1]; /* in and out, with a final NUL */
    size_t size;
    uint64_t mem_kib;        /* out */
    char uuid[HA_UUID_TEXT]; /* in: wanted, or empty; out: the guest's, if the definition says */
    bool is_file;            /* in: from --config, not made of options */
};

/* 0 or a negative error that says what to change. */
int definition_resolve(struct guest_definition *d, const char *name, struct ha_err *err);
/* What a definition of Xen names that this host does not have: [{"name", "text"}]; the caller's. */
json_t *definition_lacks(const struct guest_definition *d);

#endif
