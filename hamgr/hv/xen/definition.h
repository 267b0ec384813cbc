/* SPDX-License-Identifier: Apache-2.0
 *
 * Definitions of Xen guests: the JSON of a libxl_domain_config, as `xl -N create FILE` prints it.
 * libxl ignores keys it does not know and executes programs a definition names; so every key is
 * looked up in a table here first (definition_keys.c), on the node that is asked to add the guest
 * and again on each that builds it. Nothing of Xen is needed to check one.
 *
 *   programs  (scripts of disks and nics, bootloader): only base names, and only those the node's
 *             list names (allow.h); what has no directory of its own for base names is refused
 *   paths     (kernel, ramdisk, disks, firmware): absolute, without "..", below a root of that list
 *   refused   what hands host hardware, files or the emulator's command line to a guest, what
 *             can't be moved (passthrough, vNUMA), and memory that is not dedicated (ballooning)
 */
#ifndef HAMGR_HV_XEN_DEFINITION_H
#define HAMGR_HV_XEN_DEFINITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "hamgr/base/id.h"
#include "hamgr/hv/xen/allow.h"
#include "hamgr/hv/xen/rules.h"

#define XEN_ELEVATOR_MAX 16u

struct xen_definition {
    char name[HA_NAME_MAX]; /* "" = none given */
    struct ha_uuid uuid;    /* zero = none given */
    uint64_t mem_kib;
    uint32_t vcpus;
    uint32_t cap_percent; /* of one processor, as the scheduler counts; 0 = none */
    uint8_t kind;         /* enum xen_kind */
    uint8_t disks;        /* enum xen_disks */
    struct xen_ends ends;
    char elevator[XEN_ELEVATOR_MAX]; /* that its kernel is told to use; "" = none, or none at all */
};

/* Checks a definition and reads what hamgr itself needs of it. allow: the node's list; NULL checks
 * all but membership in it (for who only passes a definition on). 0 or -HA_E_USAGE. */
int xen_definition_parse(const uint8_t *text, size_t size, const struct xen_allow *allow,
                         struct xen_definition *ret, struct ha_err *err);
/* The same definition as one line of JSON, for libxl: what it parses is what was checked. malloc'd;
 * NULL without memory or if it is no JSON. */
char *xen_definition_text(const uint8_t *text, size_t size);
/* The same with this name and, if not NULL, uuid in it. malloc'd; NULL as above, or if it has no
 * c_info to put them in. */
char *xen_definition_identify(const uint8_t *text, size_t size, const char *name, const char *uuid);
/* What it names outside of itself: of files and disks absolute paths, of bridges names. Says each
 * as often as it stands there. */
enum xen_thing {
    XEN_THING_FILE = 1,
    XEN_THING_DISK, /* it is written to */
    XEN_THING_BRIDGE,
    XEN_THING_MEDIUM, /* it is only read: a CD */
};
typedef void (*xen_thing_fn)(void *user, enum xen_thing kind, const char *name);
void xen_definition_things(const uint8_t *text, size_t size, xen_thing_fn fn, void *user);
/* Looks like JSON, not like another notation (xl.cfg, key = value). */
bool xen_definition_is_json(const uint8_t *text, size_t size);

#endif
