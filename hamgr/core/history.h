/* SPDX-License-Identifier: Apache-2.0
 *
 * History: one applied entry becomes one line of JSON with a plain sentence in it, from which
 * status, incident reports and metrics are told. It states what happened, never what is presumed:
 *
 *   {"index":41,"wall_ms":1700000000000,"view":"3.1","type":"ASSIGN","guest":"web1","node":"n2",
 *    "epoch":8,"reason":"recovery","actor":"planner","is_noop":false,
 *    "text":"web1: n2 owns it again at epoch 8: its owner n1 was fenced (fence_ns n1: status off)"}
 *
 * A MOVED line has "move" as well: the numbers of a migration that is over (struct ha_moved).
 *
 * guest and node are names, or null; epoch is 0 for entries about nodes. Pure: the caller owns all
 * memory; no allocation.
 */
#ifndef HAMGR_CORE_HISTORY_H
#define HAMGR_CORE_HISTORY_H

#include "hamgr/core/state.h"

/* The sentence, cut at its end if longer (with the NUL). */
#define HA_HISTORY_TEXT_MAX 768u
/* Enough for every line: each byte of the sentence, two names and the actor may need six when
 * escaped, (768 + 64 + 64 + 32) x 6 = 5568, and the rest is below 512; of MOVED
 * the numbers are below 700, and reason and two names (256 + 64 + 64) x 6. */
#define HA_HISTORY_LINE_MAX 9216u

/* What applying an entry may take away and its sentence needs. */
struct ha_history_before {
    bool has_guest;
    struct ha_guest guest; /* the command's subject */
    bool has_node;
    struct ha_node node; /* likewise */
    uint32_t node_count;
    struct {
        uint32_t id;
        uint8_t status;
        uint64_t incarnation;
    } nodes[HA_NODES_MAX];
};

/* Call right before ha_state_apply(state, entry). A body that can't be read gives no subject. */
void ha_history_before(const struct ha_state *state, const struct log_entry *entry,
                       struct ha_history_before *ret_before);
/* Call right after it. Writes the line and a NUL, without a newline, into buffer[size]. Returns its
 * length, or -HA_E_LIMIT if size is too small (HA_HISTORY_LINE_MAX never is). */
int ha_history_line(const struct ha_history_before *before, const struct ha_state *after,
                    const struct log_entry *entry, const struct ha_applied *applied, char *buffer,
                    size_t size);

#endif
