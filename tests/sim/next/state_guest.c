/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr/core/state_guest.c of the next version: TUNE sets one number of a guest's policy.
 */
#include "hamgr/core/state_internal.h"

static const struct state_rule *built_guest_rule(uint8_t type);

#define state_guest_rule built_guest_rule
#include "hamgr/core/state_guest.c"
#undef state_guest_rule

static uint16_t check_tune(const struct ha_state *state, const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);
    uint32_t window_s = cmd->u.guest_set.policy.restart_window_s;

    if (!guest)
        return HA_REASON_NO_SUCH_GUEST;
    if (window_s < 1 || window_s > RESTART_WINDOW_S)
        return HA_REASON_BAD_VALUE;
    return guest->policy.restart_window_s == window_s ? HA_REASON_ALREADY : HA_REASON_NONE;
}

static void effect_tune(struct ha_state *state, const struct log_entry *entry,
                        const struct ha_cmd *cmd)
{
    (void)entry;
    state_guest_find(state, cmd->guest)->policy.restart_window_s =
        cmd->u.guest_set.policy.restart_window_s;
}

const struct state_rule *state_guest_rule(uint8_t type)
{
    static const struct state_rule tune = {check_tune, effect_tune};

    return type == NEXT_CMD_TUNE ? &tune : built_guest_rule(type);
}
