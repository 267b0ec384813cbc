/* SPDX-License-Identifier: Apache-2.0
 *
 * Every copy of the state is the truth's: entries are compared as they are applied (check.c), but a
 * field that a snapshot loses or misreads, or one that an entry changes by what the node held
 * before, shows only here. What no snapshot carries at all is the unit tests' to find.
 */
#include <string.h>

#include "hamgr/base/digest.h"
#include "tests/sim/sim.h"

/* Each 16th entry: a copy that went astray stays astray, and encoding is not free. */
#define EVERY 16u
#define TOLD  512u /* that many of them are remembered: who is further behind takes a snapshot */
#define ROOM  (256u << 10)

static struct {
    struct {
        uint64_t index;
        struct ha_digest digest;
    } told[TOLD];
} seen;

void sim_check_state_reset(void)
{
    memset(&seen, 0, sizeof(seen));
}

static struct ha_digest digest_of(const struct ha_state *state)
{
    static uint8_t buffer[ROOM];
    int64_t size = ha_state_encode(state, buffer, sizeof(buffer));

    ha_assert(size > 0);
    return ha_digest_bytes((struct ha_digest){0}, buffer, (size_t)size);
}

void sim_check_state_truth(void)
{
    uint64_t index = sim_truth()->applied;

    if (index % EVERY != 0)
        return;
    seen.told[index / EVERY % TOLD].index = index;
    seen.told[index / EVERY % TOLD].digest = digest_of(sim_truth());
}

void sim_check_state_copy(uint32_t node, struct ha_state *copy)
{
    uint64_t index = copy->applied;
    bool is_planted = index == 2 * EVERY && sim_has_plant("state-differs");

    if (index % EVERY != 0 || seen.told[index / EVERY % TOLD].index != index)
        return;
    if (is_planted && copy->node_count > 0)
        copy->nodes[0].is_maintenance = !copy->nodes[0].is_maintenance;
    if (!ha_digest_equal(digest_of(copy), seen.told[index / EVERY % TOLD].digest))
        sim_violation("I4", node, "its state at entry %llu is not what the others hold",
                      (unsigned long long)index);
}
