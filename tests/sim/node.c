/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes: power, boot, their daemons, and how a cluster of them begins.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/arena.h"
#include "tests/sim/fds.h"
#include "tests/sim/sim.h"

struct sim sim;

static struct sim_arena *arenas[SIM_NODES][SIM_KINDS];

struct ha_uuid sim_uuid(uint8_t kind, uint64_t number)
{
    struct ha_uuid id = {.b = {kind, 0xaa}};

    for (uint32_t i = 0; i < 8; i++)
        id.b[8 + i] = (uint8_t)(number >> (56 - 8 * i));
    return id;
}

struct sim_node *sim_node(uint32_t id)
{
    return &sim.nodes[id - 1];
}

const char *sim_kind_name(uint8_t kind)
{
    static const char *const names[SIM_KINDS] = {"hamgrd", "hamgr-hv", "hamgr-watchdog",
                                                 "hamgr-fence", "corosync"};
    return names[kind];
}

/* ---- daemons -----------------------------------------------------------------------------------
 */

/* In one of 16 worlds L is each node's own, and now and then another when its hamgrd starts: T_wait
 * is counted with what the node told, not with the leader's (H31). */
static bool has_own_lease(void)
{
    return sim.options.seed / 8 % 16 == 3 && !sim_script_is_on() && !sim_matrix_is_on();
}

static void draw_lease(struct sim_node *node)
{
    static const uint32_t leases_ms[] = {0, 6000, 9000, 11000};

    node->lease_ms = leases_ms[sim_below(sizeof(leases_ms) / sizeof(leases_ms[0]))];
}

static void start_hamgrd(struct sim_node *node)
{
    struct ha_err err = {0};
    struct hamgrd *d = calloc(1, sizeof(*d));

    ha_assert(d);
    ha_config_default(&d->config);
    snprintf(d->config.name, sizeof(d->config.name), "%s", node->name);
    d->config.is_witness = node->is_witness;
    if (has_own_lease() && sim_chance(200))
        draw_lease(node);
    d->config.lease_ms = node->lease_ms;
    if (sim_script_is_on())
        sim_script_config(&d->config);
    d->loop = (qb_loop_t *)&node->procs[SIM_HAMGRD];
    d->stream_binary = "hamgr-stream";
    d->snapshot_every = sim.snapshot_every;
    d->ring_entries = sim.ring_entries;
    if (store_open("", &d->store, &d->identity, &err) < 0)
        return; /* it ends with a message; an operator has to act */
    node->d = d;
    node->runs_next = node->version != SIM_VERSION_BUILT;
    sim_check_rejoin_started(node);
    int rc = sim_build_of(node)->start(d, &err);
    ha_assert(rc == 0);
}

static void run_daemon(struct sim_node *node, enum sim_kind kind)
{
    switch (kind) {
    case SIM_HAMGRD:
        start_hamgrd(node);
        break;
    case SIM_HV:
        sim_gate_start(node);
        break;
    case SIM_KEEPER:
        sim_keeper_start(node);
        break;
    case SIM_FENCER:
        sim_fencer_start(node);
        break;
    case SIM_COROSYNC:
    case SIM_KINDS:
        break;
    }
}

void sim_start_daemon(struct sim_node *node, enum sim_kind kind)
{
    struct sim_proc *proc = &node->procs[kind];

    if (!node->has_power || proc->state != SIM_DEAD || node->is_down_by_will[kind])
        return;
    if (kind == SIM_HAMGRD && !sim_disk_exists(node))
        return;
    sim_trace(node->id, "%s starts", sim_kind_name(kind));
    sim_proc_start(proc);
    struct sim_proc *before = sim_enter(proc);
    run_daemon(node, kind);
    sim_leave(before);
    if (kind == SIM_COROSYNC)
        sim_net_corosync(node);
}

static void end_daemon(struct sim_node *node, enum sim_kind kind)
{
    if (node->procs[kind].state == SIM_DEAD)
        return;
    switch (kind) {
    case SIM_HAMGRD:
        sim_disk_crash(node);
        sim_client_gone(node);
        node->d = NULL;
        break;
    case SIM_HV:
        sim_service_gone(node, SIM_TO_HV);
        sim_gate_end(node);
        break;
    case SIM_KEEPER:
        sim_service_gone(node, SIM_TO_KEEPER);
        sim_gate_keeper_gone(node);
        break;
    case SIM_FENCER:
        sim_service_gone(node, SIM_TO_FENCER);
        sim_fencer_gone(node);
        break;
    case SIM_COROSYNC:
    case SIM_KINDS:
        break;
    }
    sim_proc_end(&node->procs[kind]);
    if (kind == SIM_HAMGRD)
        sim_net_hamgrd_gone(node);
    if (kind == SIM_COROSYNC)
        sim_net_corosync(node);
}

/* arg: kind, and the boot it is for. */
static void on_start_daemon(void *data, uint64_t arg)
{
    struct sim_node *node = data;

    if (node->boots != arg >> 8)
        return;
    if (node->sleep.is_asleep)
        sim_after(100 * NS_MS, NULL, on_start_daemon, node, arg);
    else
        sim_start_daemon(node, (enum sim_kind)(arg & 0xff));
}

void sim_start_later(struct sim_node *node, enum sim_kind kind, uint64_t ns)
{
    sim_after(ns, NULL, on_start_daemon, node, (uint64_t)node->boots << 8 | kind);
}

void sim_crash(struct sim_node *node, enum sim_kind kind, uint64_t back_ns)
{
    ha_assert(!sim.running);
    if (node->procs[kind].state == SIM_DEAD || node->sleep.is_asleep)
        return;
    sim_trace(node->id, "%s is killed", sim_kind_name(kind));
    end_daemon(node, kind);
    sim_start_later(node, kind, back_ns);
}

/* ---- power -------------------------------------------------------------------------------------
 */

void sim_power_off(struct sim_node *node, const char *why)
{
    ha_assert(!sim.running);
    if (!node->has_power)
        return;
    sim_trace(node->id, "the power goes: %s", why);
    node->has_power = false;
    node->sleep = (struct sim_sleep){0};
    sim_keeper_power_lost(node);
    sim_host_power_lost(node);
    sim_streams_power_lost(node);
    for (uint32_t kind = 0; kind < SIM_KINDS; kind++)
        end_daemon(node, (enum sim_kind)kind);
    sim_disk_power_lost(node);
    node->has_page = node->has_gate_state = false;
    memset(&node->page, 0, sizeof(node->page));
    sim_net_changed();
    if (!sim_script_is_on() && !sim_matrix_is_on())
        sim_faults_power_lost(node);
}

void sim_power_on(struct sim_node *node)
{
    ha_assert(!sim.running);
    if (node->has_power)
        return;
    node->has_power = true;
    if (node->supplies_off == SIM_BOTH_SUPPLIES)
        node->supplies_off = 0; /* who brings it back looks after both */
    node->boots++;
    node->boot_id = sim_uuid(4, (uint64_t)node->id << 32 | node->boots);
    node->clock = (struct sim_clock){.from = sim.now,
                                     .raw_ns = sim_between(1, 100) * NS_S,
                                     .ppm = node->clock.ppm,
                                     .wall_offset_ns = (int64_t)(UINT64_C(1700000000) * NS_S)};
    sim_trace(node->id, "boots");
    sim_start_later(node, SIM_COROSYNC, sim_between(10, 500) * NS_MS);
    sim_start_later(node, SIM_KEEPER, sim_between(10, 500) * NS_MS + sim_corner_keeper_late_ns());
    sim_start_later(node, SIM_HV, sim_between(10, 800) * NS_MS);
    sim_start_later(node, SIM_FENCER, sim_between(10, 800) * NS_MS);
    sim_start_later(node, SIM_HAMGRD, sim_between(10, 1000) * NS_MS);
}

/* ---- a cluster that was set up in good times ---------------------------------------------------
 */

#define FIRST_MAX (SIM_NODES * 2 + SIM_GUESTS)

struct first_log {
    uint32_t count;
    struct log_entry entries[FIRST_MAX];
    uint8_t bodies[FIRST_MAX][1024];
};

static void add_entry(struct first_log *log, uint8_t kind, const struct ha_writer *w)
{
    struct log_entry *e = &log->entries[log->count];

    ha_assert(!w->failed);
    *e = (struct log_entry){.index = log->count + 1,
                            .kind = kind,
                            .origin = 1,
                            .wall_ms = UINT64_C(1700000000000),
                            .body = log->bodies[log->count],
                            .body_size = (uint32_t)w->position};
    e->digest = log_entry_digest(
        log->count ? log->entries[log->count - 1].digest : (struct ha_digest){0}, e);
    log->count++;
}

static void add_cmd(struct first_log *log, uint8_t kind, const struct ha_cmd *cmd)
{
    struct ha_writer w = ha_writer_of(log->bodies[log->count], sizeof(log->bodies[0]));

    ha_cmd_encode(&w, cmd);
    add_entry(log, kind, &w);
}

static void add_voter(struct first_log *log, uint32_t id)
{
    struct ha_writer w = ha_writer_of(log->bodies[log->count], sizeof(log->bodies[0]));

    log_voter_change_encode(
        &w, &(struct log_voter_change){.is_added = true, .node = id, .store_id = sim_uuid(3, id)});
    add_entry(log, LOG_KIND_VOTER, &w);
}

static void add_nodes(struct first_log *log)
{
    struct ha_cmd init = {.type = HA_CMD_INIT, .node = 1};

    init.u.init.cluster_id = sim.cluster_id;
    init.u.init.generation = 1;
    init.u.init.store_id = sim_uuid(3, 1);
    snprintf(init.u.init.name, sizeof(init.u.init.name), "sim");
    snprintf(init.u.init.node_name, sizeof(init.u.init.node_name), "n1");
    snprintf(init.u.init.addr, sizeof(init.u.init.addr), "10.0.0.1");
    add_cmd(log, LOG_KIND_INIT, &init);
    add_voter(log, 1);
    for (uint32_t id = 2; id <= sim.node_count; id++) {
        struct ha_cmd add = {.type = HA_CMD_NODE_ADD, .node = id};
        snprintf(add.u.node_add.name, sizeof(add.u.node_add.name), "n%u", id);
        snprintf(add.u.node_add.addr, sizeof(add.u.node_add.addr), "10.0.0.%u", id);
        add.u.node_add.is_witness = sim_node(id)->is_witness;
        add_cmd(log, LOG_KIND_STATE, &add);
        add_voter(log, id);
    }
}

void sim_guest_add_cmd(uint32_t i, struct ha_cmd *ret_cmd)
{
    static const uint8_t definition[] = "guest";
    const struct sim_guest *guest = &sim.guests[i];
    struct ha_cmd add = {.type = HA_CMD_GUEST_ADD, .guest = guest->id};

    snprintf(add.u.guest_add.name, sizeof(add.u.guest_add.name), "%s", guest->name);
    add.u.guest_add.mem_kib = guest->mem_kib;
    add.u.guest_add.want = HA_WANT_STARTED;
    add.u.guest_add.policy = ha_policy_default();
    add.u.guest_add.policy.priority = guest->priority;
    add.u.guest_add.policy.restart_max = 1000; /* chaos must not make hamgr give a guest up */
    add.u.guest_add.policy.stop_timeout_ms = 20000;
    add.u.guest_add.definition_bytes = definition;
    add.u.guest_add.definition_size = sizeof(definition);
    add.u.guest_add.definition =
        ha_digest_bytes((struct ha_digest){0}, definition, sizeof(definition));
    *ret_cmd = add;
}

static void add_guests(struct first_log *log)
{
    for (uint32_t i = 0; i < sim.guest_count; i++) {
        struct sim_guest *guest = &sim.guests[i];
        struct ha_cmd add;
        guest->id = sim_uuid(5, i + 1);
        guest->mem_kib = sim_between(1, 4) * 512 * 1024;
        guest->priority = (uint16_t)sim_below(1000);
        snprintf(guest->name, sizeof(guest->name), "g%u", i + 1);
        sim_guest_add_cmd(i, &add);
        if (!sim_script_is_on() || sim_script_guest(i, &add))
            add_cmd(log, LOG_KIND_STATE, &add);
    }
}

static void open_node(struct sim_node *node, uint32_t id)
{
    node->id = id;
    snprintf(node->name, sizeof(node->name), "n%u", id);
    node->hw_id = sim_uuid(6, id);
    /* In some worlds not every guest finds room when a node is missing: who goes first counts. */
    bool is_tight = sim.options.seed / 8 % 8 == 2 && !sim_script_is_on();
    node->mem_kib = sim_between(8, 24) * (is_tight ? 192 : 1024) * 1024;
    for (uint32_t kind = 0; kind < SIM_KINDS; kind++) {
        if (!arenas[id - 1][kind])
            arenas[id - 1][kind] = sim_arena_new();
        node->procs[kind] =
            (struct sim_proc){.node = node, .kind = (uint8_t)kind, .arena = arenas[id - 1][kind]};
    }
    sim_host_open(node);
    if (has_own_lease())
        draw_lease(node);
}

void sim_world_open(void)
{
    static struct first_log log;

    sim.cluster_id = sim_uuid(1, 1);
    sim.token_ms = 1000;
    sim.consensus_ms = 1200;
    sim.node_count = sim.options.nodes ? sim.options.nodes : 2 + (uint32_t)(sim.options.seed % 8);
    sim.guest_count = (uint32_t)sim_between(2, 2 * sim.node_count);
    if (sim_script_is_on())
        sim_script_world();
    for (uint32_t id = 1; id <= sim.node_count; id++)
        open_node(sim_node(id), id);
    /* Two nodes with a third as witness are a common small cluster. */
    sim_node(sim.node_count)->is_witness =
        sim.node_count == 3 && !sim_script_is_on() && !sim_matrix_is_on() && sim_chance(300);
    log.count = 0;
    add_nodes(&log);
    add_guests(&log);
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        sim_disk_make(sim_node(id), log.entries, log.count);
        if (!sim_script_is_on())
            sim_power_on(sim_node(id));
    }
}

void sim_world_close(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        for (uint32_t kind = 0; kind < SIM_KINDS; kind++)
            sim_proc_end(&sim_node(id)->procs[kind]);
    }
}
