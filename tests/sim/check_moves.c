/* SPDX-License-Identifier: Apache-2.0
 *
 * L3 of migrations: one that gets nowhere ends, whatever was lost or hangs. Looked at once a
 * second: counted are the seconds in a row in which nothing but the migration itself could hold it
 * up, both ends are in an open view that can commit, run, and reach each other, and yet no byte of
 * it moved.
 */
#include <string.h>

#include "tests/sim/sim.h"

/* The longest wait of an end is that for a guest that is suspended: 22 s. */
#define STUCK_S 30u

static struct {
    uint64_t ticket;
    uint32_t calm_s;
} looked[SIM_GUESTS];

static bool is_sound(const struct sim_node *node)
{
    const struct ha_node *n = ha_state_node(sim_truth(), node->id);

    return n && n->status == HA_NODE_MEMBER && node->has_power && !sim_slept_lately(node) &&
           node->d && node->d->log && node->procs[SIM_HAMGRD].state == SIM_RUNS &&
           node->procs[SIM_HV].state == SIM_RUNS && log_is_open(node->d->log) &&
           node->d->state.applied + 16 > sim_truth()->applied;
}

/* It ends with an entry, which a majority of the voters must store. One whose disk failed or was
 * full has resigned its vote until its hamgrd begins anew, also if the disk is well again before:
 * as long as that lasts an ABORT that was proposed in time waits, and the 30 s are not its own. */
static bool can_commit(void)
{
    const struct ha_state *truth = sim_truth();
    uint32_t voters = 0, able = 0;

    for (uint32_t i = 0; i < truth->node_count; i++) {
        const struct sim_node *node = sim_node(truth->nodes[i].id);
        bool is_there = node->has_power && node->d && node->d->log && log_is_open(node->d->log) &&
                        node->procs[SIM_HAMGRD].state == SIM_RUNS;
        voters += truth->nodes[i].is_voter;
        able += truth->nodes[i].is_voter && is_there && sim_disk_takes_entries(node);
    }
    return 2 * able > voters;
}

static bool is_calm(const struct ha_ticket *ticket)
{
    return can_commit() && sim_net_reaches(ticket->src, ticket->dst) &&
           sim_net_reaches(ticket->dst, ticket->src) && is_sound(sim_node(ticket->src)) &&
           is_sound(sim_node(ticket->dst)) && sim.now > sim_stream_moved_at(ticket->id) + 2 * NS_S;
}

static void look_at(const struct ha_guest *guest, uint32_t i)
{
    bool is_same = looked[i].ticket == guest->ticket.id;

    looked[i].ticket = guest->ticket.id;
    if (guest->phase != HA_PHASE_MIGRATING || !is_same || !is_calm(&guest->ticket)) {
        looked[i].calm_s = 0;
        return;
    }
    if (++looked[i].calm_s == STUCK_S)
        sim_violation("L3", guest->ticket.dst, "the migration of %s gets nowhere, and goes on",
                      guest->name);
}

static void on_look(void *data, uint64_t arg)
{
    const struct ha_state *truth = sim_truth();

    (void)data;
    (void)arg;
    for (uint32_t i = 0; i < truth->guest_count && i < SIM_GUESTS; i++) {
        if (truth->guests[i].ticket.id != 0 || looked[i].ticket != 0)
            look_at(&truth->guests[i], i);
    }
    sim_after(NS_S, NULL, on_look, NULL, 0);
}

void sim_check_moves_begin(void)
{
    memset(looked, 0, sizeof(looked));
    sim_after(NS_S, NULL, on_look, NULL, 0);
}
