/* SPDX-License-Identifier: Apache-2.0
 *
 * Migrations cut at each step in each way: --matrix. Three nodes, nothing else goes wrong. Rows are
 * the steps of a migration as an onlooker of the simulated hosts, disks and streams sees them, and
 * are looked for after every event; columns are what strikes at that moment. Afterwards everything
 * is mended, and the checks of every other run hold: one copy, no open ticket, all guests run.
 *
 * Streams have no rounds and no bytes here: P5 is the end of the pass, and what spoils a stream
 * (TLS, a damaged or short record) is the failure that the end which notices it tells.
 */
#include <string.h>

#include "tests/sim/sim.h"

#define REACH_NS  (90 * NS_S) /* the longest migration lasts 50 s */
#define MEND_NS   (10 * NS_S) /* longer than a lease */
#define POWER_NS  (25 * NS_S) /* longer than T_wait */
#define SETTLE_NS (90 * NS_S)
#define STALL_NS  (4 * NS_S) /* of disks that hold SWITCH back */
#define SEEDS     5u

static struct {
    bool is_on;
    uint32_t row, column;
    enum { ORDERING = 0, REACHING, STRUCK } state;
    struct sim_node *src, *dst;
    struct ha_uuid guest;
    uint64_t ticket, epoch; /* of the new copy */
    uint64_t struck_at, settle_until;
    bool is_reverted, is_removed, is_started_anew;
} cell;

bool sim_matrix_is_on(void)
{
    return cell.is_on;
}

static const struct ha_guest *guest(void)
{
    return ha_state_guest(sim_truth(), cell.guest);
}

static struct sim_domain *copy_at(struct sim_node *node, uint64_t epoch)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        struct sim_domain *d = &node->domains[i];
        if (d->is_used && d->d.label.epoch == epoch && ha_uuid_equal(d->d.label.guest, cell.guest))
            return d;
    }
    return NULL;
}

static struct sim_domain *source_copy(void)
{
    return copy_at(cell.src, cell.epoch - 1);
}

static struct sim_domain *new_copy(void)
{
    return copy_at(cell.dst, cell.epoch);
}

static bool is_open(uint8_t phase)
{
    return guest()->ticket.id == cell.ticket && guest()->phase == phase;
}

/* ---- rows: true once the step is reached -------------------------------------------------------
 */

static bool is_ordered(void)
{
    return is_open(HA_PHASE_MIGRATING);
}

static bool is_listening(void)
{
    return sim_stream_stage() >= SIM_STREAM_LISTENS;
}

static bool is_dialled(void)
{
    return sim_stream_stage() >= SIM_STREAM_DIALLED;
}

static bool is_connected(void)
{
    return sim_stream_stage() >= SIM_STREAM_CONNECTED;
}

static bool is_moving(void)
{
    return sim_stream_stage() >= SIM_STREAM_MOVES;
}

static bool is_late(void)
{
    return sim_stream_stage() >= SIM_STREAM_LATE;
}

static bool is_told_to_suspend(void)
{
    return sim_stream_stage() >= SIM_STREAM_ALL;
}

static bool is_suspended(void)
{
    return source_copy() && source_copy()->d.state == HV_SUSPENDED;
}

static bool is_complete(void)
{
    return is_open(HA_PHASE_MIGRATING) && new_copy() && new_copy()->d.state == HV_PAUSED;
}

static bool is_drained(void)
{
    return is_open(HA_PHASE_MIGRATING) && source_copy() && source_copy()->is_saved;
}

/* Reached with the help of disks that hang before SWITCH comes to them. */
static bool is_stored_by_one(void)
{
    uint32_t stores = 0;

    if (!is_drained())
        return false;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = sim_node(id);
        if (!node->d || !node->d->log || !log_is_leader(node->d->log))
            sim_disk_stall(node, sim.now + STALL_NS);
        stores += sim_disk_has_command(node, HA_CMD_SWITCH, sim_truth()->applied);
    }
    return stores == 1;
}

/* Its disk hangs meanwhile, so that it can't have it before the others. */
static bool is_committed(void)
{
    if (is_drained())
        sim_disk_stall(cell.dst, sim.now + STALL_NS);
    return is_open(HA_PHASE_SWITCHED) && cell.dst->d &&
           cell.dst->d->state.applied < sim_truth()->applied;
}

static bool is_resumed(void)
{
    return new_copy() && sim_is_runnable(new_copy());
}

static bool is_arrived(void)
{
    return guest()->phase == HA_PHASE_RUNNING && guest()->epoch == cell.epoch;
}

static bool is_cleaned_up(void)
{
    return is_arrived() && !source_copy();
}

/* The new copy vanishes before it ever ran: its node proves that and gives the guest back. */
static bool is_reverted(void)
{
    if (!cell.is_removed && is_committed() && new_copy()) {
        new_copy()->is_used = false;
        sim_gate_changed(cell.dst);
        cell.is_removed = true;
    }
    return cell.is_reverted;
}

static const struct {
    const char *name;
    bool (*is_reached)(void);
} rows[] = {
    {"P0 ordered", is_ordered},
    {"P1 destination listens", is_listening},
    {"P2 source dials", is_dialled},
    {"P3 connected", is_connected},
    {"P4 pages move", is_moving},
    {"P5 last pages", is_late},
    {"P6 suspend requested", is_told_to_suspend},
    {"P7 suspended", is_suspended},
    {"P8 complete and paused", is_complete},
    {"P9 HANDOVER sent", is_drained},
    {"P10a SWITCH in one store", is_stored_by_one},
    {"P10b SWITCH not applied at the destination", is_committed},
    {"P11 resumed", is_resumed},
    {"P12 ARRIVED", is_arrived},
    {"P13 cleanup", is_cleaned_up},
    {"REVERT", is_reverted},
};

/* ---- columns -----------------------------------------------------------------------------------
 */

static void kill_source(void)
{
    sim_crash(cell.src, SIM_HAMGRD, 500 * NS_MS);
}

static void kill_destination(void)
{
    sim_crash(cell.dst, SIM_HAMGRD, 500 * NS_MS);
}

static void source_dies(void)
{
    sim_power_off(cell.src, "somebody pulled the plug");
}

static void destination_dies(void)
{
    sim_power_off(cell.dst, "somebody pulled the plug");
}

static void cut_stream(void)
{
    sim_streams_fail(cell.src, "connection reset");
    sim_streams_fail(cell.dst, "connection reset");
}

static void stall_stream(void)
{
    sim_streams_stall(sim.now + 20 * NS_S);
}

static void isolate_source(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        sim_net_cut(cell.src->id, id, id != cell.src->id);
        sim_net_cut(id, cell.src->id, id != cell.src->id);
    }
    sim_net_changed();
}

static void refuse_tls(void)
{
    sim_streams_fail(cell.dst, "TLS: certificate has expired");
}

static void fill_disks(void)
{
    sim_disk_fill(cell.src, true);
    sim_disk_fill(cell.dst, true);
}

static void hang_helpers(void)
{
    sim_host_hang(cell.src);
    sim_host_hang(cell.dst);
    sim.verb_hang = 1000;
}

static void corrupt_stream(void)
{
    sim_streams_fail(cell.dst, "a record is damaged");
}

static void shorten_stream(void)
{
    sim_streams_fail(cell.src, "the native stream ended early");
}

/* READY and HANDOVER once more; only a source that has drained says HANDOVER. */
static void say_again(void)
{
    struct peer_move_ready ready = {.ticket = cell.ticket, .port = 1, .addr = "10.0.0.1"};

    if (cell.src->d) {
        struct sim_proc *before = sim_enter(&cell.src->procs[SIM_HAMGRD]);
        moves_ready(cell.src->d, cell.dst->id, &ready);
        sim_leave(before);
    }
    if (cell.dst->d && source_copy() && source_copy()->is_saved) {
        struct sim_proc *before = sim_enter(&cell.dst->procs[SIM_HAMGRD]);
        moves_handover(cell.dst->d, cell.src->id, cell.ticket);
        sim_leave(before);
    }
}

static const struct {
    const char *name;
    void (*strike)(void);
} columns[] = {
    {"hamgrd killed at the source", kill_source},
    {"hamgrd killed at the destination", kill_destination},
    {"source without power", source_dies},
    {"destination without power", destination_dies},
    {"stream cut", cut_stream},
    {"stream stalls", stall_stream},
    {"source cut off", isolate_source},
    {"TLS refused", refuse_tls},
    {"disks full at both ends", fill_disks},
    {"helpers hang", hang_helpers},
    {"damaged record", corrupt_stream},
    {"short record", shorten_stream},
    {"READY and HANDOVER twice", say_again},
};

#define ROWS    (sizeof(rows) / sizeof(rows[0]))
#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* ---- one cell ----------------------------------------------------------------------------------
 */

static void on_settling(void *data, uint64_t arg)
{
    char why[160];

    (void)data;
    (void)arg;
    if (sim_is_settled(why, sizeof(why)) || sim.now >= cell.settle_until)
        sim.end_at = sim.now;
    else
        sim_after(500 * NS_MS, NULL, on_settling, NULL, 0);
}

static void on_mended(void *data, uint64_t arg)
{
    (void)data;
    (void)arg;
    sim.verb_hang = 0;
    sim_net_heal();
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = sim_node(id);
        sim_disk_fill(node, false);
        if (node->d && node->d->rt.is_store_failed)
            sim_crash(node, SIM_HAMGRD, 500 * NS_MS);
    }
}

static void on_power_back(void *data, uint64_t arg)
{
    (void)data;
    (void)arg;
    for (uint32_t id = 1; id <= sim.node_count; id++)
        sim_power_on(sim_node(id));
    cell.settle_until = sim.now + SETTLE_NS;
    sim_after(5 * NS_S, NULL, on_settling, NULL, 0);
}

/* The destination does not lead: then COMMIT comes later to it than to others. */
static bool order(void)
{
    struct sim_node *at = sim_operator_node(0);
    const struct ha_state *truth = sim_truth();

    for (uint32_t i = 0; at && i < truth->guest_count; i++) {
        const struct ha_guest *g = &truth->guests[i];
        uint32_t leader = log_view_now(at->d->log).leader;
        if (g->phase != HA_PHASE_RUNNING)
            continue;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            struct ha_cmd cmd = {.type = HA_CMD_MIGRATE,
                                 .guest = g->id,
                                 .node = g->node,
                                 .incarnation = g->incarnation,
                                 .epoch = g->epoch_high + 1};
            const struct ha_node *to = ha_state_node(truth, id);
            if (id == g->node || id == leader || !to)
                continue;
            cmd.u.migrate.dst = id;
            cmd.u.migrate.dst_incarnation = to->incarnation;
            cell.guest = g->id;
            cell.src = sim_node(g->node);
            cell.dst = sim_node(id);
            cell.epoch = cmd.epoch;
            if (sim_operator_type(at, &cmd, NULL))
                return true;
        }
    }
    return false;
}

static void on_order(void *data, uint64_t arg)
{
    (void)data;
    if (order())
        cell.state = REACHING;
    else
        sim_after(500 * NS_MS, NULL, on_order, NULL, arg);
}

/* What is committed for the guest, as the checks see it. */
void sim_matrix_note(const struct ha_cmd *cmd)
{
    if (!cell.is_on || !ha_uuid_equal(cmd->guest, cell.guest))
        return;
    if (cmd->type == HA_CMD_MIGRATE && cmd->epoch == cell.epoch)
        cell.ticket = guest()->ticket.id;
    cell.is_reverted |= cmd->type == HA_CMD_REVERT;
    cell.is_started_anew |= cell.state == STRUCK && cmd->type == HA_CMD_ASSIGN;
}

void sim_matrix_look(void)
{
    if (cell.state != REACHING || cell.ticket == 0 || !rows[cell.row].is_reached())
        return;
    cell.state = STRUCK;
    cell.struck_at = sim.now;
    sim_trace(cell.src->id, "STRIKE at %s: %s", rows[cell.row].name, columns[cell.column].name);
    columns[cell.column].strike();
    sim_after(MEND_NS, NULL, on_mended, NULL, 0);
    sim_after(POWER_NS, NULL, on_power_back, NULL, 0);
}

void sim_matrix_begin(void)
{
    sim_at(8 * NS_S, NULL, on_order, NULL, 0);
    sim.end_at = 8 * NS_S + REACH_NS + POWER_NS + SETTLE_NS;
}

/* ---- all of them -------------------------------------------------------------------------------
 */

static const char *outcome(void)
{
    const struct ha_guest *g = guest();

    if (cell.state != STRUCK)
        return "NOT REACHED";
    if (!g || g->phase != HA_PHASE_RUNNING)
        return "down";
    if (cell.is_started_anew)
        return "anew";
    return g->node == cell.dst->id ? "moved" : "stayed";
}

struct tally {
    uint64_t violations, not_struck;
};

static struct tally run_cell(const struct sim_options *base, uint32_t row, uint32_t column)
{
    struct tally bad = {0};

    printf("%s x %s:", rows[row].name, columns[column].name);
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        struct sim_options options = *base;
        struct sim_result result;
        options.seed = seed;
        options.nodes = 3;
        memset(&cell, 0, sizeof(cell));
        cell.is_on = true;
        cell.row = row;
        cell.column = column;
        sim_run(&options, &result);
        printf(" %s at %.3f s%s", outcome(), (double)cell.struck_at / 1e9, seed < SEEDS ? "," : "");
        if (result.violations > 0)
            printf(" VIOLATION (seed %u) %s;", seed, result.first);
        bad.violations += result.violations > 0;
        bad.not_struck += cell.state != STRUCK;
    }
    printf("; %llu violations, %llu not struck\n", (unsigned long long)bad.violations,
           (unsigned long long)bad.not_struck);
    if (bad.violations + bad.not_struck > 0)
        printf("  replay: tests/sim/run --matrix --cell %u --trace%s%s\n",
               (unsigned)(row * COLUMNS + column), base->plant ? " --plant " : "",
               base->plant ? base->plant : "");
    return bad;
}

uint64_t sim_matrix_cells(void)
{
    return ROWS * COLUMNS;
}

/* A cell that was not struck shows nothing, which is a failure of its own kind. */
int sim_matrix(const struct sim_options *options, uint64_t only)
{
    uint32_t first = 0, last = ROWS * COLUMNS - 1;
    struct tally bad = {0};

    if (only < ROWS * COLUMNS)
        first = last = (uint32_t)only;
    for (uint32_t i = first; i <= last; i++) {
        struct tally one = run_cell(options, i / COLUMNS, i % COLUMNS);
        bad.violations += one.violations;
        bad.not_struck += one.not_struck;
    }
    printf("%u cells of %u steps x %u strikes, %u seeds each: %llu violations, %llu not struck\n",
           last - first + 1, (unsigned)ROWS, (unsigned)COLUMNS, SEEDS,
           (unsigned long long)bad.violations, (unsigned long long)bad.not_struck);
    return bad.violations + bad.not_struck > 0;
}
