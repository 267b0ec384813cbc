/* SPDX-License-Identifier: Apache-2.0
 *
 * A planted bug, for the harness alone: hamgr/core/state.c that admits guests beyond a node's
 * memory. It crashes nobody and agrees with itself; only the oath of state_oath.c can find it.
 */
#define state_check_memory state_check_memory_real
#include "hamgr/core/state.c"
#undef state_check_memory

uint16_t state_check_memory(const struct ha_state *state, const struct ha_node *node,
                            uint64_t mem_kib);

uint16_t state_check_memory(const struct ha_state *state, const struct ha_node *node,
                            uint64_t mem_kib)
{
    (void)state;
    (void)node;
    (void)mem_kib;
    return HA_REASON_NONE;
}
