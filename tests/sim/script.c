/* SPDX-License-Identifier: Apache-2.0
 *
 * Scripted worlds: what happens is read from a file (script.h) instead of drawn from a seed, and
 * what became of every guest is told at the end. Used for scenarios, which tests/sim/scenario.py
 * translates.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/script.h"
#include "tests/sim/sim.h"

static struct script script;
static bool has_no_net[SIM_NODES + 1]; /* whose network is down */

const char *sim_script_read(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");

    memset(has_no_net, 0, sizeof(has_no_net));
    if (!file)
        return "it can't be opened";
    const char *why = script_read(file, &script, text, size);
    fclose(file);
    return why;
}

/* Of a word that was checked. */
static uint32_t node_number(const char *word)
{
    return (uint32_t)strtoul(word, NULL, 10);
}

/* ---- the world it asks for ---------------------------------------------------------------------
 */

bool sim_script_is_on(void)
{
    return script.node_count > 0;
}

uint64_t sim_script_end_ns(void)
{
    return script.end_ns;
}

void sim_script_config(struct ha_config *config)
{
    config->shutdown = script.is_migrating ? HA_SHUTDOWN_MIGRATE : HA_SHUTDOWN_STOP;
}

bool sim_script_has_strip(void)
{
    return script.has_strip;
}

void sim_script_world(void)
{
    sim.node_count = script.node_count;
    sim.guest_count = script.guest_count;
}

bool sim_script_guest(uint32_t i, struct ha_cmd *add)
{
    snprintf(sim.guests[i].name, sizeof(sim.guests[i].name), "g%u", i + 1);
    snprintf(add->u.guest_add.name, sizeof(add->u.guest_add.name), "%s", script.guests[i].name);
    add->u.guest_add.want = script.guests[i].want;
    add->u.guest_add.policy.restart_max = script.guests[i].restart_max;
    return !script.guests[i].is_absent;
}

bool sim_script_fails(const struct worker_verb *verb)
{
    int guest = sim_guest_index(verb->label.guest);
    uint32_t kind = verb->type == HVP_CREATE                                  ? 0
                    : verb->type == HVP_SAVE                                  ? 1
                    : verb->type == HVP_SHUTDOWN || verb->type == HVP_DESTROY ? 2
                                                                              : 3;

    if (guest < 0 || kind == 3 || script.guests[guest].fails[kind] == 0 ||
        (kind == 1 && sim.now < script.story_ns))
        return false;
    script.guests[guest].fails[kind]--;
    return true;
}

/* ---- what it tells -----------------------------------------------------------------------------
 */

static void tell(const char *what, const char *guest, uint32_t node)
{
    printf("event %llu %s %s n%u\n", (unsigned long long)(sim.now / NS_MS), what,
           guest ? guest : "-", node);
}

void sim_script_note(const struct ha_cmd *cmd)
{
    const struct ha_guest *guest = ha_state_guest(sim_truth(), cmd->guest);
    const char *name = guest ? guest->name : NULL;

    if (!sim_script_is_on())
        return;
    if (cmd->type == HA_CMD_FENCED)
        tell("fenced", NULL, cmd->node);
    else if (cmd->type == HA_CMD_ASSIGN)
        tell("assigned", name, cmd->node);
    else if (cmd->type == HA_CMD_STARTED)
        tell("started", name, cmd->node);
    else if (cmd->type == HA_CMD_SWITCH && guest)
        tell("migrated", name, guest->node);
}

static const char *state_of(const struct ha_guest *guest)
{
    if (guest->want == HA_WANT_STOPPED)
        return "stopped";
    return guest->is_failed ? "error" : "started";
}

void sim_script_tell_end(void)
{
    const struct ha_state *truth = sim_truth();

    for (uint32_t i = 0; i < truth->guest_count; i++) {
        const struct ha_guest *guest = &truth->guests[i];
        uint32_t at = guest->node ? guest->node : guest->last_node;
        printf("final %s %s n%u", guest->name, state_of(guest), at);
        for (uint32_t n = 0; n < sim.node_count; n++) {
            for (uint32_t d = 0; d < SIM_DOMAINS; d++) {
                const struct sim_domain *domain = &sim.nodes[n].domains[d];
                if (sim_is_runnable(domain) && ha_uuid_equal(domain->d.label.guest, guest->id))
                    printf(" n%u", n + 1);
            }
        }
        printf("\n");
    }
}

/* ---- what happens ------------------------------------------------------------------------------
 */

#define TRIES_MAX   20u
#define RETRY_NS    (2 * NS_S)
#define SHUTDOWN_NS (120 * NS_S) /* after that the power goes, whoever is still there */
#define BOOT_NS     (20 * NS_S)

/* Types cmd in somewhere. False: nobody takes it now, or it is refused for now. */
static bool order(struct ha_cmd *cmd, char why[HA_TEXT_MAX])
{
    struct sim_node *at = sim_operator_node(0);

    snprintf(why, HA_TEXT_MAX, "no open view");
    return at && sim_operator_type(at, cmd, why);
}

static bool do_guest(const struct script_line *line, char why[HA_TEXT_MAX])
{
    const char *verb = line->word[0];
    int index = line->guest;
    const struct ha_guest *guest = ha_state_guest(sim_truth(), sim.guests[index].id);
    struct ha_cmd cmd = {.type = HA_CMD_WANT};

    if (strcmp(verb, "add") == 0) {
        script.guests[index].want =
            strcmp(line->word[2], "stopped") == 0 ? HA_WANT_STOPPED : HA_WANT_STARTED;
        sim_guest_add_cmd((uint32_t)index, &cmd);
        (void)sim_script_guest((uint32_t)index, &cmd);
        return order(&cmd, why);
    }
    snprintf(why, HA_TEXT_MAX, "there is no such guest now");
    if (!guest)
        return false;
    cmd.guest = guest->id;
    cmd.node = guest->node;
    cmd.incarnation = guest->incarnation;
    cmd.epoch = guest->epoch;
    if (strcmp(verb, "want") == 0) {
        cmd = (struct ha_cmd){.type = HA_CMD_WANT, .guest = guest->id};
        cmd.u.want.want = strcmp(line->word[2], "stopped") == 0 ? HA_WANT_STOPPED : HA_WANT_STARTED;
    } else if (strcmp(verb, "remove") == 0) {
        cmd = (struct ha_cmd){.type = HA_CMD_GUEST_REMOVE, .guest = guest->id};
    } else if (strcmp(verb, "unprotect") == 0) {
        cmd = (struct ha_cmd){.type = HA_CMD_GUEST_SET, .guest = guest->id};
        cmd.u.guest_set.policy = guest->policy;
        cmd.u.guest_set.policy.is_protected = false;
    } else if (strcmp(verb, "failover") == 0) {
        cmd.type = HA_CMD_STOP;
        cmd.u.stop.mode = HA_STOP_DESTROY;
        cmd.u.stop.is_relocation = true;
    } else { /* migrate */
        const struct ha_node *to = ha_state_node(sim_truth(), node_number(line->word[2]));
        if (guest->node == to->id && guest->phase == HA_PHASE_RUNNING)
            return true; /* there already */
        cmd.type = HA_CMD_MIGRATE;
        cmd.epoch = guest->epoch_high + 1;
        cmd.u.migrate.dst = to->id;
        cmd.u.migrate.dst_incarnation = to->incarnation;
    }
    return order(&cmd, why);
}

static bool do_order(const struct script_line *line, char why[HA_TEXT_MAX])
{
    static const struct {
        const char *name;
        uint8_t type;
    } orders[] = {{"maintenance", HA_CMD_MAINTENANCE},
                  {"disarm", HA_CMD_DISARM},
                  {"arm", HA_CMD_ARM},
                  {"freeze", HA_CMD_FREEZE},
                  {"unfreeze", HA_CMD_UNFREEZE},
                  {"fence", HA_CMD_FENCE_WANT},
                  {"confirm-fenced", HA_CMD_FENCED}};
    struct ha_cmd cmd = {0};

    for (uint32_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        if (strcmp(orders[i].name, line->word[0]) == 0)
            cmd.type = orders[i].type;
    }
    const struct ha_node *node =
        line->word[1][0] ? ha_state_node(sim_truth(), node_number(line->word[1])) : NULL;
    if (node) {
        cmd.node = node->id;
        cmd.incarnation = node->incarnation;
    }
    cmd.u.maintenance.is_on |= cmd.type == HA_CMD_MAINTENANCE && strcmp(line->word[2], "on") == 0;
    if (cmd.type == HA_CMD_FENCED) {
        cmd.u.fenced.evidence = HA_EVIDENCE_OPERATOR;
        snprintf(cmd.u.fenced.detail, sizeof(cmd.u.fenced.detail), "confirmed by operator");
    }
    return order(&cmd, why);
}

static bool is_empty(const struct sim_node *node)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        if (node->domains[i].is_used)
            return false;
    }
    return true;
}

static void on_boot(void *data, uint64_t arg)
{
    (void)arg;
    sim_power_on(data);
}

struct going {
    struct sim_node *node;
    uint64_t since;
    bool is_back; /* it reboots */
};

static void on_going(void *data, uint64_t boots)
{
    struct going *going = data;
    struct sim_node *node = going->node;

    if (node->boots != boots || !node->has_power)
        return;
    if (!is_empty(node) && sim.now < going->since + SHUTDOWN_NS) {
        sim_after(NS_S, NULL, on_going, going, boots);
        return;
    }
    sim_power_off(node, "it was shut down");
    if (going->is_back)
        sim_after(BOOT_NS, NULL, on_boot, node, 0);
}

static void shut_down(struct sim_node *node, bool is_back)
{
    static struct going goings[SIM_NODES];
    struct going *going = &goings[node->id - 1];

    *going = (struct going){.node = node, .since = sim.now, .is_back = is_back};
    if (node->d && node->procs[SIM_HAMGRD].state == SIM_RUNS) {
        struct sim_proc *before = sim_enter(&node->procs[SIM_HAMGRD]);
        sim_build_of(node)->api->shutdown_begin(node->d);
        sim_leave(before);
    }
    sim_after(5 * NS_S, NULL, on_going, going, node->boots);
}

static void set_network(uint32_t node, bool is_down)
{
    has_no_net[node] = is_down;
    for (uint32_t a = 1; a <= sim.node_count; a++) {
        for (uint32_t b = 1; b <= sim.node_count; b++)
            sim_net_cut(a, b, a != b && (has_no_net[a] || has_no_net[b]));
    }
    sim_net_changed();
}

/* What happens to machines; false if the verb is an order to hamgr. */
static bool do_machine(const struct script_line *line)
{
    const char *verb = line->word[0], *word = line->word[2];
    uint32_t id = node_number(line->word[1]);
    struct sim_node *node = id >= 1 && id <= sim.node_count ? sim_node(id) : NULL;

    if (strcmp(verb, "power") == 0 && strcmp(word, "on") == 0)
        sim_power_on(node);
    else if (strcmp(verb, "power") == 0)
        sim_power_off(node, "somebody pulled the plug");
    else if (strcmp(verb, "shutdown") == 0 || strcmp(verb, "reboot") == 0)
        shut_down(node, strcmp(verb, "reboot") == 0);
    else if (strcmp(verb, "board") == 0) /* a new one: seen at the next boot */
        node->hw_id = sim_uuid(6, 1000u * line->number + id);
    else if (strcmp(verb, "net") == 0)
        set_network(id, strcmp(word, "down") == 0);
    else if (strcmp(verb, "kill") == 0)
        sim_crash(node, SIM_HAMGRD, NS_S);
    else if (strcmp(verb, "disk") == 0)
        sim_disk_stall(node, strtoull(word, NULL, 10) * NS_MS);
    else
        return false;
    return true;
}

/* arg: line, and how often it was tried. */
static void on_line(void *data, uint64_t tries)
{
    const struct script_line *line = data;
    char why[HA_TEXT_MAX] = "";

    if (do_machine(line))
        return;
    bool is_done = line->guest >= 0 ? do_guest(line, why) : do_order(line, why);
    if (is_done)
        return;
    if (tries < TRIES_MAX)
        sim_after(RETRY_NS, NULL, on_line, data, tries + 1);
    else
        printf("event %llu refused:%s %s n0 %s\n", (unsigned long long)(sim.now / NS_MS),
               line->word[0], line->word[1][0] ? line->word[1] : "-", why);
}

void sim_script_begin(void)
{
    for (uint32_t i = 0; i < script.line_count; i++)
        sim_at(script.lines[i].at_ns, NULL, on_line, &script.lines[i], 0);
}
