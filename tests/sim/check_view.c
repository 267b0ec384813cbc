/* SPDX-License-Identifier: Apache-2.0
 *
 * What leases and leaders owe to views: a node whose lease ended has no other before an OPEN names
 * it again (section 4), and nobody sends agents who does not even hear a quorum (I11).
 */
#include <string.h>

#include "quorum/log_internal.h"
#include "tests/sim/sim.h"

/* Who is silent for L/2 is not heard any more; messages are under way for up to 0.7 s. */
#define DEAF_NS (3450 * NS_MS + 1000 * NS_MS)
/* A daemon that hung takes what it reads then for new. */
#define AWAKE_NS (10 * NS_S)

static struct {
    uint64_t deaf_since[SIM_NODES + 1][SIM_NODES + 1]; /* [who][to whom]; 0: hears it */
    uint64_t votes_changed_at;
    struct {
        uint32_t conn; /* another one begins anew */
        uint64_t end_ns;
        struct log_view open;
    } told[SIM_NODES + 1];
} seen;

void sim_check_view_reset(void)
{
    memset(&seen, 0, sizeof(seen));
}

/* ---- leaders -----------------------------------------------------------------------------------
 */

void sim_check_network(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        for (uint32_t from = 1; from <= sim.node_count; from++) {
            if (id == from || sim_net_reaches(from, id))
                seen.deaf_since[id][from] = 0;
            else if (seen.deaf_since[id][from] == 0)
                seen.deaf_since[id][from] = sim.now;
        }
    }
}

/* Who was cut off just before counts by the votes of before. */
void sim_check_votes_changed(void)
{
    seen.votes_changed_at = sim.now;
}

/* Each voter by itself, for whose vote counts may change while the network stays as it is. */
static bool may_count_quorum(uint32_t id)
{
    const struct ha_state *truth = sim_truth();
    uint32_t voters = 0, heard = 0;

    for (uint32_t i = 0; i < truth->node_count; i++) {
        if (!truth->nodes[i].is_voter)
            continue;
        ha_assert(truth->nodes[i].id <= SIM_NODES);
        uint64_t since = seen.deaf_since[id][truth->nodes[i].id];
        voters++;
        heard += since == 0 || sim.now <= since + DEAF_NS;
    }
    return voters == 0 || 2 * heard > voters;
}

static bool is_long_awake(const struct sim_node *node)
{
    uint64_t last = node->procs[SIM_COROSYNC].continued_at;

    if (node->procs[SIM_HAMGRD].continued_at > last)
        last = node->procs[SIM_HAMGRD].continued_at;
    return (last == 0 || sim.now > last + AWAKE_NS) && !sim_slept_lately(node);
}

void sim_check_leader_hears(const struct sim_node *leader, uint32_t target)
{
    bool is_settled = seen.votes_changed_at == 0 || sim.now > seen.votes_changed_at + DEAF_NS;

    if (is_settled && is_long_awake(leader) && !may_count_quorum(leader->id))
        sim_violation("I11", target, "n%u sends agents against it, but hears no quorum",
                      leader->id);
}

/* ---- leases ------------------------------------------------------------------------------------
 */

void sim_check_lease_told(const struct sim_node *node, uint32_t conn, uint64_t end_ns)
{
    uint64_t now_ns = sim_raw_ns(node), old_ns = seen.told[node->id].end_ns;
    struct log_view open = node->d->state.view; /* applied: one in the log may be nobody's yet */
    bool has_ended = seen.told[node->id].conn == conn && old_ns + NS_MS < now_ns;

    if (has_ended && end_ns > now_ns && log_view_cmp(open, seen.told[node->id].open) == 0)
        sim_violation("I5", node->id, "its lease had ended, and goes on without an OPEN");
    seen.told[node->id].conn = conn;
    seen.told[node->id].end_ns = end_ns;
    seen.told[node->id].open = open;
}
