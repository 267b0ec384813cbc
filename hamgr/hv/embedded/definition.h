/* SPDX-License-Identifier: Apache-2.0
 *
 * The definition of an embedded guest: a small INI text without sections, `key = value` a line,
 * `;` or `#` starts a comment line. Every key is optional; an unknown or repeated key, a value out
 * of range or a contradiction is refused with line, key and what was expected. GUEST.md lists them.
 */
#ifndef HAMGR_HV_EMBEDDED_DEFINITION_H
#define HAMGR_HV_EMBEDDED_DEFINITION_H

#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"

#define EMB_NO_SLOT UINT32_MAX

enum emb_disk_kind { EMB_DISK_NONE = 0, EMB_DISK_DIRECT = 1, EMB_DISK_WRITEBACK = 2 };

struct emb_definition {
    uint32_t memory_mib;    /* 1..65536, default 8 */
    uint32_t dirty_kib_s;   /* memory written per second, KiB; default 256 */
    uint32_t zero_percent;  /* share of pages that are zero, default 40 */
    uint32_t text_percent;  /* share that compresses like text, default 40; the rest is random */
    uint32_t writes_per_s;  /* disk writes, 0..1000, default 0 */
    uint32_t step_ms;       /* 1..1000, default 100 */
    uint32_t crash_after_s; /* 0 never; run time of the guest, pauses not counted */
    uint32_t poweroff_after_s;
    uint32_t reboot_after_s;
    uint32_t observer_slot; /* EMB_NO_SLOT: unobserved */
    uint32_t disk;          /* enum emb_disk_kind */
    uint32_t has_console;
    uint64_t seed; /* default 1 */
};

/* Parses text[size] (no NUL needed). Returns 0, or -HA_E_USAGE and the reason in err. */
int emb_definition_parse(const uint8_t *text, size_t size, struct emb_definition *ret,
                         struct ha_err *err);

#endif
