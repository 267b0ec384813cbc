/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two files of the history share: the case at hand and the sentence being made.
 */
#ifndef HAMGR_CORE_HISTORY_INTERNAL_H
#define HAMGR_CORE_HISTORY_INTERNAL_H

#include "hamgr/core/history.h"

struct history_case {
    const struct ha_history_before *before;
    const struct ha_state *after;
    const struct log_entry *entry;
    const struct ha_applied *applied;
};

struct history_text {
    size_t length;
    char data[HA_HISTORY_TEXT_MAX];
};

/* Makes the sentence; it is cut at its end when too long. */
void history_say(struct history_text *t, const struct history_case *c);
/* Names now, or before the entry. NULL if there is none. Borrowed. */
const char *history_node_name(const struct history_case *c, uint32_t id);
const char *history_guest_name(const struct history_case *c);
/* True for commands whose subject is a guest. */
bool history_is_of_guest(uint8_t type);

#endif
