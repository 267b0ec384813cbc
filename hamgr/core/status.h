/* SPDX-License-Identifier: Apache-2.0
 *
 * What an operator sees, computed by one pure function from the state and this node's knowledge:
 * one sentence per node and guest, the quorum, and what is wrong, worst first. Rendering is the
 * server's and hactl's.
 */
#ifndef HAMGR_CORE_STATUS_H
#define HAMGR_CORE_STATUS_H

#include "hamgr/core/runtime.h"

#define HA_WARNINGS_MAX 64u

enum ha_health { HA_HEALTH_OK = 0, HA_HEALTH_BUSY = 1, HA_HEALTH_WARNING = 2, HA_HEALTH_BAD = 3 };

struct ha_node_status_line {
    const struct ha_node *node; /* borrowed from the state */
    uint8_t health;             /* enum ha_health */
    bool is_leader;
    bool is_reporting;    /* said something in the last 3 s */
    uint32_t guest_count; /* it owns */
    uint64_t mem_used_kib;
    uint32_t wait_ms;            /* T_wait; 0 = it is not self-fenced by assumption */
    char wait_text[HA_TEXT_MAX]; /* T_wait's arithmetic */
    char text[HA_TEXT_MAX];      /* "member, armed", "UNCLEAN: fencing, attempt 2 ..." */
};

struct ha_guest_status_line {
    const struct ha_guest *guest;
    uint8_t health;
    char text[HA_TEXT_MAX]; /* "running on n2", "waiting: its owner n1 is not yet proven dead" */
};

struct ha_status {
    bool is_open;
    uint32_t voter_count;
    uint32_t voters_here; /* voters that are members of the open view */
    char quorum_text[HA_TEXT_MAX];
    uint32_t node_count;
    struct ha_node_status_line nodes[HA_NODES_MAX];
    uint32_t guest_count;
    uint32_t running_count;
    uint32_t wanted_count;
    uint32_t warning_count;
    char warnings[HA_WARNINGS_MAX][HA_TEXT_MAX];
};

/* Everything but guests' lines. */
void ha_status_compute(const struct ha_state *state, const struct ha_runtime *rt,
                       struct ha_status *ret_status);
/* One guest's line: guests are many, the caller goes through them one by one. */
void ha_status_guest(const struct ha_state *state, const struct ha_runtime *rt,
                     const struct ha_guest *guest, struct ha_guest_status_line *ret_line);
const char *ha_health_name(uint8_t health);

#endif
