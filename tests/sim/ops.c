/* SPDX-License-Identifier: Apache-2.0
 *
 * Operators: commands as hactl's server makes them, typed on some node, at the worst moment, and
 * taken back after a while.
 */
#include <string.h>

#include "tests/sim/sim.h"

enum act {
    ACT_MIGRATE = 0,
    ACT_FAILOVER,
    ACT_STOP_GUEST,
    ACT_CANCEL,
    ACT_FENCE,
    ACT_CONFIRM,
    ACT_MAINTENANCE,
    ACT_FREEZE,
    ACT_DISARM,
    ACT_LEAVE,
    ACT_VOTER,
    ACT_SHUTDOWN,
    ACT_COUNT
};

struct sim_node *sim_operator_node(uint64_t draw)
{
    for (uint32_t i = 0; i < sim.node_count; i++) {
        struct sim_node *node = sim_node(1 + (uint32_t)((i + draw) % sim.node_count));
        if (node->d && node->d->log && node->procs[SIM_HAMGRD].state == SIM_RUNS &&
            log_is_open(node->d->log))
            return node;
    }
    return NULL;
}

bool sim_operator_type(struct sim_node *at, struct ha_cmd *cmd, char ret_why[HA_TEXT_MAX])
{
    struct sim_proc *before = sim_enter(&at->procs[SIM_HAMGRD]);
    const struct sim_build *build = sim_build_of(at);
    char text[HA_TEXT_MAX], fix[HA_TEXT_MAX];

    cmd->reason = HA_REASON_OPERATOR;
    snprintf(cmd->actor, sizeof(cmd->actor), "operator");
    build->refresh(at->d);
    uint16_t refusal = build->refusal(&at->d->state, &at->d->rt, cmd, text, fix);
    sim_trace(at->id, "an operator orders %s%s%s", ha_cmd_name(cmd->type),
              refusal ? ", refused: " : "", refusal ? ha_reason_text(refusal) : "");
    if (refusal == HA_REASON_NONE)
        build->propose_cmd(at->d, cmd, NULL, NULL);
    else if (ret_why)
        snprintf(ret_why, HA_TEXT_MAX, "%s", text);
    sim_leave(before);
    return refusal == HA_REASON_NONE;
}

static void type_in(struct sim_node *at, struct ha_cmd *cmd)
{
    (void)sim_operator_type(at, cmd, NULL);
}

/* ---- about guests ------------------------------------------------------------------------------
 */

static const struct ha_guest *some_guest(const struct sim_node *at, uint64_t draw)
{
    const struct ha_state *state = &at->d->state;

    return state->guest_count ? &state->guests[draw % state->guest_count] : NULL;
}

static void migrate(struct sim_node *at, const struct ha_guest *guest, uint64_t draw)
{
    const struct ha_state *state = &at->d->state;
    const struct ha_node *to = &state->nodes[(draw >> 16) % state->node_count];
    struct ha_cmd cmd = {.type = HA_CMD_MIGRATE,
                         .guest = guest->id,
                         .node = guest->node,
                         .incarnation = guest->incarnation,
                         .epoch = guest->epoch_high + 1};

    if (to->id == guest->node)
        to = &state->nodes[((draw >> 16) + 1) % state->node_count];
    cmd.u.migrate.dst = to->id;
    cmd.u.migrate.dst_incarnation = to->incarnation;
    type_in(at, &cmd);
}

void sim_operator_migrate(uint64_t draw)
{
    struct sim_node *at = sim_operator_node(draw);

    if (at && at->d->state.guest_count > 0)
        migrate(at, some_guest(at, draw >> 8), draw);
}

void sim_operator_gather(uint64_t draw)
{
    struct sim_node *at = sim_operator_node(draw);

    for (uint32_t i = 0; at && i < at->d->state.guest_count; i++)
        migrate(at, &at->d->state.guests[i], draw);
}

static void failover(struct sim_node *at, const struct ha_guest *guest)
{
    struct ha_cmd cmd = {.type = HA_CMD_STOP,
                         .guest = guest->id,
                         .node = guest->node,
                         .incarnation = guest->incarnation,
                         .epoch = guest->epoch};

    cmd.u.stop.mode = HA_STOP_DESTROY;
    cmd.u.stop.is_relocation = true;
    type_in(at, &cmd);
}

static void want(struct sim_node *at, struct ha_uuid guest, uint8_t wanted)
{
    struct ha_cmd cmd = {.type = HA_CMD_WANT, .guest = guest};

    cmd.u.want.want = wanted;
    type_in(at, &cmd);
}

static void on_start_again(void *data, uint64_t arg)
{
    struct sim_node *at = sim_operator_node(arg);

    (void)data;
    if (at && !sim.is_healing)
        want(at, sim.guests[arg].id, HA_WANT_STARTED);
}

static void stop_guest(struct sim_node *at, const struct ha_guest *guest, uint64_t span)
{
    int index = sim_guest_index(guest->id);

    want(at, guest->id, HA_WANT_STOPPED);
    if (index >= 0)
        sim_after(span, NULL, on_start_again, NULL, (uint64_t)index);
}

static void cancel(struct sim_node *at, const struct ha_guest *guest)
{
    const struct ha_state *state = &at->d->state;
    struct ha_cmd cmd = {.type = HA_CMD_ABORT};

    for (uint32_t i = 0; i < state->guest_count && guest->ticket.id == 0; i++) {
        if (state->guests[i].ticket.id)
            guest = &state->guests[i];
    }
    if (guest->ticket.id == 0)
        return;
    cmd.guest = guest->id;
    cmd.ticket = guest->ticket.id;
    type_in(at, &cmd);
}

/* ---- about nodes -------------------------------------------------------------------------------
 */

static void about(struct sim_node *at, uint8_t type, const struct ha_node *node, bool is_on)
{
    struct ha_cmd cmd = {.type = type};

    if (node) {
        cmd.node = node->id;
        cmd.incarnation = node->incarnation;
    }
    if (type == HA_CMD_MAINTENANCE)
        cmd.u.maintenance.is_on = is_on;
    type_in(at, &cmd);
}

/* arg: the command that takes it back, and the node. */
static void on_take_back(void *data, uint64_t arg)
{
    uint32_t node = (uint32_t)(arg & 0xff);
    struct sim_node *at = sim_operator_node(arg);

    (void)data;
    if (at && !sim.is_healing)
        about(at, (uint8_t)(arg >> 8), node ? ha_state_node(&at->d->state, node) : NULL, false);
}

static void and_back(struct sim_node *at, uint8_t type, uint8_t back, const struct ha_node *node,
                     uint64_t span)
{
    about(at, type, node, true);
    sim_after(span, NULL, on_take_back, NULL, (uint64_t)back << 8 | (node ? node->id : 0));
}

void sim_operator_node_cmd(struct sim_node *at, const struct sim_node *node, uint8_t type,
                           bool is_on)
{
    bool is_there = at->d && at->d->log && at->procs[SIM_HAMGRD].state == SIM_RUNS;

    if (!is_there)
        return;
    const struct ha_node *known = node ? ha_state_node(&at->d->state, node->id) : NULL;
    if (!node || known)
        about(at, type, known, is_on);
}

void sim_operator_cancel(uint64_t draw)
{
    struct sim_node *at = sim_operator_node(draw);

    if (at && at->d->state.guest_count > 0)
        cancel(at, &at->d->state.guests[0]);
}

static void say_fenced(struct sim_node *at, const struct ha_node *node)
{
    struct ha_cmd cmd = {.type = HA_CMD_FENCED, .node = node->id, .incarnation = node->incarnation};

    cmd.u.fenced.evidence = HA_EVIDENCE_OPERATOR;
    snprintf(cmd.u.fenced.detail, sizeof(cmd.u.fenced.detail), "confirmed by operator");
    type_in(at, &cmd);
}

/* A careful operator looks before confirming that a node is off. */
static void confirm(struct sim_node *at, const struct ha_node *node)
{
    if (sim_node(node->id)->has_power && !sim_has_plant("operator-lies"))
        return;
    if (sim_machine_runs(node->id, (struct ha_uuid){{0}}))
        return;
    if (sim.now < sim_node(node->id)->died + 2 * NS_S)
        return; /* nobody walks to a rack and back that fast */
    say_fenced(at, node);
}

/* Of the votes that are left, most have their stores: one of three that is lost, and another that
 * is taken, are more than a log survives. */
static bool may_take_vote(const struct ha_state *state, const struct ha_node *node, uint32_t voters)
{
    uint32_t stores = 0;

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *n = &state->nodes[i];
        stores += n->is_voter && n->id != node->id && sim_disk_exists(sim_node(n->id)) &&
                  sim_disk_is(sim_node(n->id), n->store_id);
    }
    return voters >= 3 && 2 * stores > voters - 1;
}

/* A vote is taken; the leader gives it back by itself while the node is a member. */
static void take_vote(struct sim_node *at, const struct ha_node *node)
{
    struct log_voter_change change = {
        .is_added = false, .node = node->id, .store_id = node->store_id};
    uint32_t voters = 0;

    for (uint32_t i = 0; i < at->d->state.node_count; i++)
        voters += at->d->state.nodes[i].is_voter;
    if (!may_take_vote(&at->d->state, node, voters))
        return;
    struct sim_proc *before = sim_enter(&at->procs[SIM_HAMGRD]);
    sim_trace(at->id, "an operator takes the vote of %s", node->name);
    sim_build_of(at)->propose_voter(at->d, &change, NULL, NULL);
    sim_leave(before);
}

void sim_operator_take_vote(struct sim_node *at, const struct sim_node *about)
{
    bool is_there = at->d && at->d->log && at->procs[SIM_HAMGRD].state == SIM_RUNS;
    const struct ha_node *node = is_there ? ha_state_node(&at->d->state, about->id) : NULL;

    if (node && node->is_voter)
        take_vote(at, node);
}

static void on_shutdown_end(void *data, uint64_t boots)
{
    struct sim_node *node = data;

    if (node->boots == boots)
        sim_power_off(node, "it was shut down");
}

/* The host shuts down: its unit tells hamgrd, waits a while, and the power goes. */
static void shut_down(struct sim_node *node, uint64_t span)
{
    if (!node->d || node->procs[SIM_HAMGRD].state != SIM_RUNS)
        return;
    sim_trace(node->id, "the host shuts down");
    struct sim_proc *before = sim_enter(&node->procs[SIM_HAMGRD]);
    sim_build_of(node)->api->shutdown_begin(node->d);
    sim_leave(before);
    sim_after(span, NULL, on_shutdown_end, node, node->boots);
}

void sim_operator_act(uint64_t draw, uint64_t span)
{
    struct sim_node *at = sim_operator_node(draw);

    if (!at)
        return;
    const struct ha_guest *guest = some_guest(at, draw >> 8);
    const struct ha_node *node = &at->d->state.nodes[(draw >> 24) % at->d->state.node_count];
    enum act act = (draw >> 32) % 3 == 0 ? ACT_MIGRATE : (enum act)((draw >> 40) % ACT_COUNT);

    for (uint32_t i = 0; i < at->d->state.node_count && sim_has_plant("operator-lies"); i++) {
        act = ACT_CONFIRM;
        if (at->d->state.nodes[i].status == HA_NODE_UNCLEAN)
            node = &at->d->state.nodes[i];
    }
    if (act <= ACT_CANCEL && !guest)
        return;
    sim_cover_act((uint8_t)act);
    switch (act) {
    case ACT_MIGRATE:
        migrate(at, guest, draw);
        break;
    case ACT_FAILOVER:
        failover(at, guest);
        break;
    case ACT_STOP_GUEST:
        stop_guest(at, guest, span);
        break;
    case ACT_CANCEL:
        cancel(at, guest);
        break;
    case ACT_FENCE:
        about(at, HA_CMD_FENCE_WANT, node, true);
        break;
    case ACT_CONFIRM:
        confirm(at, node);
        break;
    case ACT_MAINTENANCE:
        and_back(at, HA_CMD_MAINTENANCE, HA_CMD_MAINTENANCE, node, span * 3);
        break;
    case ACT_FREEZE:
        and_back(at, HA_CMD_FREEZE, HA_CMD_UNFREEZE, node, span);
        break;
    case ACT_DISARM:
        and_back(at, HA_CMD_DISARM, HA_CMD_ARM, NULL, span);
        break;
    case ACT_LEAVE:
        about(at, HA_CMD_LEAVE, node, true);
        break;
    case ACT_VOTER:
        take_vote(at, node);
        break;
    case ACT_SHUTDOWN:
        shut_down(sim_node(node->id), span);
        break;
    case ACT_COUNT:
        break;
    }
}

/* ---- good times --------------------------------------------------------------------------------
 */

/* Its store or its machine is not the one that joined: it is switched off once, what it had is
 * declared dead, and its hamgrd started again, for only an OPEN takes it in. */
static void settle_stranger(struct sim_node *at, const struct ha_node *node)
{
    struct sim_node *host = sim_node(node->id);
    bool is_known = sim_disk_exists(host) && sim_disk_is(host, node->joined_store_id) &&
                    ha_uuid_equal(host->hw_id, node->hw_id);

    if (is_known || host == at)
        return;
    if (node->status == HA_NODE_UNCLEAN && host->died < sim.heal_at)
        sim_power_off(host, "it is another one: an operator switches it off");
    if (node->status == HA_NODE_UNCLEAN && sim.now >= host->died + 2 * NS_S)
        say_fenced(at, node);
    if (node->status == HA_NODE_FENCED && host->d && host->d->log && log_is_open(host->d->log))
        sim_crash(host, SIM_HAMGRD, 100 * NS_MS);
}

/* Until everything is as it was set up: asked again each second, for views come and go. */
static void settle_nodes(struct sim_node *at)
{
    const struct ha_state *state = &at->d->state;

    if (state->is_disarmed)
        about(at, HA_CMD_ARM, NULL, true);
    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *node = &state->nodes[i];
        if (node->is_frozen)
            about(at, HA_CMD_UNFREEZE, node, true);
        if (node->is_maintenance)
            about(at, HA_CMD_MAINTENANCE, node, false);
        settle_stranger(at, node);
        if (node->status == HA_NODE_LEFT && sim_node(node->id)->d)
            sim_crash(sim_node(node->id), SIM_HAMGRD, 100 * NS_MS); /* its unit is started again */
    }
    for (uint32_t i = 0; i < state->guest_count; i++) {
        if (state->guests[i].want == HA_WANT_STOPPED)
            want(at, state->guests[i].id, HA_WANT_STARTED);
    }
}

static void on_settle(void *data, uint64_t round)
{
    struct sim_node *at = NULL;

    (void)data;
    /* One that is told "no view is open here" turns to another. */
    for (uint32_t i = 0; i < sim.node_count && !at; i++) {
        at = sim_operator_node(round + i);
        if (at && !at->d->rt.is_open)
            at = NULL;
    }
    if (at)
        settle_nodes(at);
    /* While there is no view at all he waits, for a while. */
    bool is_waiting = !at && sim.now < sim.heal_at + 40 * NS_S;
    if (is_waiting || round < 20)
        sim_after(NS_S, NULL, on_settle, NULL, is_waiting ? round : round + 1);
}

void sim_operator_settle(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = sim_node(id);
        if (node->d && node->d->is_shutting_down)
            sim_crash(node, SIM_HAMGRD, 100 * NS_MS);
    }
    on_settle(NULL, 0);
}

void sim_operator_begin(void)
{
}
