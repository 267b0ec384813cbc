/* SPDX-License-Identifier: Apache-2.0
 *
 * Table-driven state machines: the allowed transitions are data, so that the diagram, the code and
 * the documentation are one thing. A move the table does not allow is a programming error.
 */
#ifndef HAMGR_BASE_SM_H
#define HAMGR_BASE_SM_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/assert.h"

struct ha_sm_state {
    const char *name;
    uint32_t allowed; /* bit n: a move to state n is allowed */
    bool is_final;
};

#define HA_SM_TO(state) (UINT32_C(1) << (state))

static inline bool ha_sm_allows(const struct ha_sm_state *table, unsigned from, unsigned to)
{
    return (table[from].allowed & HA_SM_TO(to)) != 0;
}

/* Moves *state to `to`. Asserts that the table allows it. */
static inline void ha_sm_move(const struct ha_sm_state *table, uint8_t *state, unsigned to)
{
    ha_assert(ha_sm_allows(table, *state, to));
    *state = (uint8_t)to;
}

#endif
