/* SPDX-License-Identifier: Apache-2.0 */
#include "fence/keeper.h"

#include "hamgr/base/assert.h"
#include "hamgr/base/slept.h"
#include "hamgr/base/sm.h"

#define NS_PER_MS      UINT64_C(1000000)
#define SECOND_NS      INT64_C(1000000000)
#define PROOFS_TO_LOSE 4u
/* A real-time clock may count the suspend in whole seconds. */
#define SLEEP_ROUNDED_NS SECOND_NS
#define HURRY_MIN_MS     1000u /* devices count seconds */
#define LONG_OVER_NS     (INT64_MIN / 4)

static const struct ha_sm_state states[] = {
    [KEEPER_DISARMED] = {"disarmed", HA_SM_TO(KEEPER_LEASED) | HA_SM_TO(KEEPER_EXPIRED), false},
    [KEEPER_LEASED] = {"leased", HA_SM_TO(KEEPER_EXPIRED) | HA_SM_TO(KEEPER_DISARMED), false},
    [KEEPER_EXPIRED] = {"expired",
                        HA_SM_TO(KEEPER_LEASED) | HA_SM_TO(KEEPER_QUARANTINED) |
                            HA_SM_TO(KEEPER_DISARMED),
                        false},
    [KEEPER_QUARANTINED] = {"quarantined",
                            HA_SM_TO(KEEPER_LEASED) | HA_SM_TO(KEEPER_EXPIRED) |
                                HA_SM_TO(KEEPER_DISARMED),
                            false},
};

static void move_to(struct keeper *keeper, enum keeper_state state)
{
    if (keeper->state != state)
        ha_sm_move(states, &keeper->state, state);
}

void keeper_init(struct keeper *keeper, uint32_t poll_ms)
{
    ha_assert(poll_ms >= 1 && poll_ms <= 10000);
    *keeper = (struct keeper){.state = KEEPER_DISARMED,
                              .proof_valid_ns = PROOFS_TO_LOSE * poll_ms * NS_PER_MS};
}

static bool is_believable(const struct keeper *keeper, uint64_t end_ns, uint64_t now_ns)
{
    return end_ns <= now_ns + keeper->lease_ns;
}

/* It runs from the sending of its heartbeat, and that was before the host woke. */
static bool is_slept_through(const struct keeper *keeper, uint64_t end_ns)
{
    return keeper->woke_ns != 0 && end_ns <= keeper->woke_ns + keeper->lease_ns;
}

void keeper_arm(struct keeper *keeper, uint32_t lease_ms, uint64_t now_ns)
{
    uint64_t lease_ns = lease_ms * NS_PER_MS;

    if (keeper->state == KEEPER_DISARMED || lease_ns > keeper->lease_ns)
        keeper->lease_ns = lease_ns;
    if (!is_believable(keeper, keeper->lease_end_ns, now_ns))
        keeper->lease_end_ns = 0;
    if (keeper->state == KEEPER_DISARMED && is_slept_through(keeper, keeper->lease_end_ns))
        keeper->lease_end_ns = 0;
    if (keeper->state == KEEPER_DISARMED)
        move_to(keeper, keeper->lease_end_ns > now_ns ? KEEPER_LEASED : KEEPER_EXPIRED);
}

void keeper_disarm(struct keeper *keeper)
{
    move_to(keeper, KEEPER_DISARMED);
    keeper->proof_ns = 0;
}

bool keeper_slept(struct keeper *keeper, int64_t slept_ns, uint64_t now_ns)
{
    int64_t step_ns = slept_ns - keeper->slept_ns;

    if (!keeper->has_slept)
        keeper->slept_ns = slept_ns;
    if (!keeper->has_slept || (step_ns <= SLEPT_MIN_NS && step_ns >= -SLEPT_MIN_NS)) {
        keeper->has_slept = true;
        return false;
    }
    int64_t end_ns = (int64_t)keeper->lease_end_ns;
    if (end_ns < keeper->waited_end_ns)
        end_ns = keeper->waited_end_ns;
    /* Backwards can't be; nothing is known of the time then. */
    keeper->waited_end_ns = step_ns > 0 ? end_ns - step_ns : LONG_OVER_NS;
    keeper->slept_ns = slept_ns;
    keeper->woke_ns = now_ns;
    keeper->lease_end_ns = 0;
    keeper_may_pet(keeper, now_ns);
    return true;
}

uint32_t keeper_hurry_ms(const struct keeper *keeper, uint32_t watchdog_ms, uint64_t now_ns)
{
    int64_t poll_ns = (int64_t)(keeper->proof_valid_ns / PROOFS_TO_LOSE);
    int64_t watchdog_ns = (int64_t)(watchdog_ms * NS_PER_MS);
    int64_t due_ns = keeper->waited_end_ns + poll_ns + watchdog_ns;
    int64_t left_ns = due_ns - (int64_t)now_ns - SLEEP_ROUNDED_NS;

    if (keeper->state != KEEPER_EXPIRED || left_ns >= watchdog_ns || watchdog_ms <= HURRY_MIN_MS)
        return 0;
    int64_t left_ms = left_ns / SECOND_NS * 1000;
    return left_ms > (int64_t)HURRY_MIN_MS ? (uint32_t)left_ms : HURRY_MIN_MS;
}

bool keeper_lease(struct keeper *keeper, uint64_t nonce, uint64_t end_ns, uint64_t now_ns)
{
    if (keeper->lease_ns != 0 && !is_believable(keeper, end_ns, now_ns))
        return false;
    if (is_slept_through(keeper, end_ns))
        return false;
    keeper->lease_nonce = nonce;
    if (end_ns > keeper->lease_end_ns)
        keeper->lease_end_ns = end_ns;
    if (keeper->state != KEEPER_DISARMED && keeper->lease_end_ns > now_ns) {
        move_to(keeper, KEEPER_LEASED);
        keeper->proof_ns = 0; /* guests may run again: the old proof says nothing any more */
    }
    return true;
}

bool keeper_proof(struct keeper *keeper, uint64_t taken_ns, uint64_t now_ns)
{
    keeper_may_pet(keeper, now_ns); /* the lease may have ended since the last look */
    if (keeper->state == KEEPER_DISARMED || keeper->state == KEEPER_LEASED)
        return false;
    if (taken_ns > now_ns || taken_ns < keeper->lease_end_ns || taken_ns < keeper->woke_ns ||
        now_ns - taken_ns > keeper->proof_valid_ns || taken_ns < keeper->proof_ns)
        return false;
    keeper->proof_ns = taken_ns;
    move_to(keeper, KEEPER_QUARANTINED);
    return true;
}

bool keeper_may_pet(struct keeper *keeper, uint64_t now_ns)
{
    switch ((enum keeper_state)keeper->state) {
    case KEEPER_DISARMED:
        return false;
    case KEEPER_LEASED:
        if (keeper->lease_end_ns > now_ns)
            return true;
        move_to(keeper, KEEPER_EXPIRED);
        return false;
    case KEEPER_EXPIRED:
        return false;
    case KEEPER_QUARANTINED:
        if (now_ns - keeper->proof_ns <= keeper->proof_valid_ns)
            return true;
        move_to(keeper, KEEPER_EXPIRED);
        return false;
    }
    return false;
}

const char *keeper_state_name(uint8_t state)
{
    return state <= KEEPER_QUARANTINED ? states[state].name : "unknown";
}
