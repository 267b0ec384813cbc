/* SPDX-License-Identifier: Apache-2.0
 *
 * What every step of the replicated state must keep, written from design.md and the pictures in
 * state.h alone: it shares no code with hamgr/core, so a rule that is wrong there is not wrong here
 * for the same reason.
 */
#ifndef TESTS_FUZZ_STATE_OATH_H
#define TESTS_FUZZ_STATE_OATH_H

#include "hamgr/core/state.h"

#define OATH_GUESTS 8u

/* A copy of a state, its guests too. */
struct oath_copy {
    struct ha_state state;
    struct ha_guest guests[OATH_GUESTS];
};

/* state must have room for at most OATH_GUESTS guests. */
void oath_copy(const struct ha_state *state, struct oath_copy *ret_copy);
/* NULL, or what is broken in this one state. */
const char *oath_state(const struct ha_state *state);
/* NULL, or what no applied entry of type (enum ha_cmd_type; 0 = OPEN or VOTER) may have done. */
const char *oath_step(const struct ha_state *before, const struct ha_state *after, uint8_t type);
/* True if nothing but index and digest differs. */
bool oath_is_same(const struct ha_state *a, const struct ha_state *b);

#endif
