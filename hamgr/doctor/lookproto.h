/* SPDX-License-Identifier: Apache-2.0
 *
 * A look at the host, as hamgrd orders it of hamgr-hv (HVP_LOOK): where to look, and things that
 * guests' definitions name. The answer comes through a memfd of hamgrd's: facts, and for each thing
 * whether it is there and what tells it from another of the same name.
 *
 * Pure: the two bodies and their encoding.
 */
#ifndef HAMGR_DOCTOR_LOOKPROTO_H
#define HAMGR_DOCTOR_LOOKPROTO_H

#include "hamgr/doctor/facts.h"

#define LOOK_PATH_MAX   256u
#define LOOK_THINGS_MAX 256u /* of one look; who has more looks again */

enum look_kind {
    LOOK_FILE = 1, /* kernel, ramdisk: read as a whole, must be the same everywhere */
    LOOK_DISK,     /* block device or image */
    LOOK_BRIDGE,
    LOOK_MEDIUM, /* only has to be there: it may be as large as a CD, and is not written to */
};

enum look_state {
    LOOK_UNKNOWN = 0, /* it could not be told */
    LOOK_THERE,
    LOOK_MISSING,
    LOOK_WRONG, /* there, but not what it should be */
    LOOK_LOCAL, /* a disk on a file system of this host alone */
};

struct look_thing {
    uint8_t kind; /* enum look_kind */
    char name[LOOK_PATH_MAX];
};

struct look_ask {
    char node[HA_NAME_MAX];
    bool is_xen; /* hamgr.conf's hypervisor */
    char ca_path[LOOK_PATH_MAX];
    char cert_path[LOOK_PATH_MAX];
    char key_path[LOOK_PATH_MAX];
    char watchdog[LOOK_PATH_MAX];
    uint32_t thing_count;
    struct look_thing things[LOOK_THINGS_MAX];
};

struct look_found {
    uint8_t state; /* enum look_state */
    uint64_t id;   /* the same on two nodes: the same thing; 0 = not known */
};

struct look_tell {
    struct ha_facts facts;
    uint32_t found_count; /* as many things as were asked, in their order */
    struct look_found found[LOOK_THINGS_MAX];
};

#define LOOK_TELL_BYTES_MAX (HA_FACTS_BYTES_MAX + 4u + LOOK_THINGS_MAX * 9u)

void look_ask_encode(struct ha_writer *w, const struct look_ask *m);
int look_ask_decode(const uint8_t *body, size_t size, struct look_ask *ret);
void look_tell_encode(struct ha_writer *w, const struct look_tell *m);
int look_tell_decode(const uint8_t *body, size_t size, struct look_tell *ret);

#endif
