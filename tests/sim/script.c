/* SPDX-License-Identifier: Apache-2.0
 *
 * Scripted worlds: what happens is read from a file instead of drawn from a seed, and what became
 * of every guest is told at the end. Used for scenarios, which tests/sim/scenario.py translates.
 *
 *   nodes N                          2 to SIM_NODES; all are off at first
 *   shutdown stop|migrate            what hosts that shut down do with their guests
 *   guest NAME WANT FAILURES STARTS MIGRATIONS STOPS
 *                                    WANT: started, stopped, absent (until `add`); FAILURES: of its
 *                                    restart limit; then how many starts, migrations and stops fail
 *   at MS VERB [WORD [WORD]]         see VERBS below
 *   story MS                         before that no migration fails
 *   end MS
 *
 * Nodes are numbers. A line that is none of these ends the program with its number and the reason.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define LINES_MAX  512u
#define WORDS_MAX  7u
#define TIME_MAX_S 86400u

struct line {
    uint64_t at_ns;
    uint32_t number;
    char word[3][32]; /* verb and its words */
};

static struct {
    struct line lines[LINES_MAX];
    uint32_t line_count;
    uint32_t node_count, guest_count;
    bool is_migrating; /* shutdown migrate */
    struct {
        char name[HA_NAME_MAX];
        uint8_t want;
        bool is_absent;
        uint16_t restart_max;
    } guests[SIM_GUESTS];
    uint32_t fails[SIM_GUESTS][3]; /* still to fail: starts, migrations, stops */
    bool is_down[SIM_NODES + 1];   /* its network */
    uint64_t story_ns;             /* from then on migrations fail that are to */
    uint64_t end_ns;
} script;

/* ---- reading -----------------------------------------------------------------------------------
 */

static const char *bad(char *text, size_t size, uint32_t number, const char *what)
{
    snprintf(text, size, "line %u: %s", number, what);
    return text;
}

static bool number_of(const char *word, uint64_t low, uint64_t high, uint64_t *ret)
{
    char *end = NULL;

    *ret = strtoull(word, &end, 10);
    return end != word && *end == '\0' && *ret >= low && *ret <= high;
}

/* Of a word that was checked. */
static uint32_t node_number(const char *word)
{
    return (uint32_t)strtoul(word, NULL, 10);
}

static int guest_by_name(const char *name)
{
    for (uint32_t i = 0; i < script.guest_count; i++) {
        if (strcmp(script.guests[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

static const char *read_guest(char **word)
{
    static const char *const wants[] = {"absent", "started", "stopped"};
    uint32_t i = script.guest_count;
    uint64_t value = 0;

    if (i == SIM_GUESTS || strlen(word[1]) >= sizeof(script.guests[0].name))
        return "too many guests, or too long a name";
    if (guest_by_name(word[1]) >= 0)
        return "this guest was named before";
    snprintf(script.guests[i].name, sizeof(script.guests[i].name), "%s", word[1]);
    while (value < 3 && strcmp(wants[value], word[2]) != 0)
        value++;
    if (value == 3)
        return "expected absent, started or stopped";
    script.guests[i].is_absent = value == 0;
    script.guests[i].want = value == 1 ? HA_WANT_STARTED : HA_WANT_STOPPED;
    if (!number_of(word[3], 0, 1000, &value))
        return "expected a restart limit, 0 to 1000";
    script.guests[i].restart_max = (uint16_t)value;
    for (uint32_t kind = 0; kind < 3; kind++) {
        if (!number_of(word[4 + kind], 0, 1000000, &value))
            return "expected how many fail, 0 to 1000000";
        script.fails[i][kind] = (uint32_t)value;
    }
    script.guest_count++;
    return NULL;
}

static const char *read_event(char **word, uint32_t count, uint32_t number)
{
    struct line *line = &script.lines[script.line_count];
    uint64_t ms;

    if (script.line_count == LINES_MAX)
        return "too many lines";
    if (!number_of(word[1], 0, TIME_MAX_S * 1000u, &ms))
        return "expected a time in ms within a day";
    *line = (struct line){.at_ns = ms * NS_MS, .number = number};
    for (uint32_t i = 2; i < count && i < 5; i++) {
        if (strlen(word[i]) >= sizeof(line->word[0]))
            return "too long a word";
        snprintf(line->word[i - 2], sizeof(line->word[0]), "%s", word[i]);
    }
    script.line_count++;
    return NULL;
}

static const char *read_line(char **word, uint32_t count, uint32_t number)
{
    uint64_t value = 0;

    if (strcmp(word[0], "nodes") == 0 && count == 2) {
        if (!number_of(word[1], 2, SIM_NODES, &value))
            return "expected 2 to 9 nodes";
        script.node_count = (uint32_t)value;
    } else if (strcmp(word[0], "shutdown") == 0 && count == 2) {
        script.is_migrating = strcmp(word[1], "migrate") == 0;
    } else if (strcmp(word[0], "guest") == 0 && count == 7) {
        return read_guest(word);
    } else if (strcmp(word[0], "at") == 0 && count >= 3 && count <= 5) {
        return read_event(word, count, number);
    } else if (strcmp(word[0], "end") == 0 && count == 2) {
        if (!number_of(word[1], 1, TIME_MAX_S * 1000u, &value))
            return "expected a time in ms within a day";
        script.end_ns = value * NS_MS;
    } else if (strcmp(word[0], "story") == 0 && count == 2) {
        if (!number_of(word[1], 0, TIME_MAX_S * 1000u, &value))
            return "expected a time in ms within a day";
        script.story_ns = value * NS_MS;
    } else {
        return "expected nodes, shutdown, guest, at, story or end, with its words";
    }
    return NULL;
}

/* name, what its first word is (n node, g guest, - none), what its second may be. */
static const struct verb {
    const char *name;
    char first;
    const char *second; /* words, "n" a node, "#" a time in ms; NULL: none */
} VERBS[] = {
    {"power", 'n', "on off"},
    {"shutdown", 'n', NULL},
    {"reboot", 'n', NULL},
    {"board", 'n', NULL},
    {"net", 'n', "up down"},
    {"kill", 'n', NULL},
    {"disk", 'n', "#"},
    {"want", 'g', "started stopped"},
    {"add", 'g', "started stopped"},
    {"remove", 'g', NULL},
    {"migrate", 'g', "n"},
    {"failover", 'g', NULL},
    {"unprotect", 'g', NULL},
    {"maintenance", 'n', "on off"},
    {"disarm", '-', NULL},
    {"arm", '-', NULL},
    {"freeze", 'n', NULL},
    {"unfreeze", 'n', NULL},
    {"fence", 'n', NULL},
    {"confirm-fenced", 'n', NULL},
};

static bool is_node(const char *word)
{
    uint64_t value;

    return number_of(word, 1, script.node_count, &value);
}

static bool is_word_of(const char *words, const char *word)
{
    const char *at = strstr(words, word);
    size_t length = strlen(word);

    return at && length > 0 && (at == words || at[-1] == ' ') &&
           (at[length] == ' ' || at[length] == '\0');
}

static bool is_second_fine(const struct verb *verb, const char *word)
{
    if (!verb->second)
        return word[0] == '\0';
    uint64_t value;
    if (strcmp(verb->second, "#") == 0)
        return number_of(word, 0, TIME_MAX_S * 1000u, &value);
    return strcmp(verb->second, "n") == 0 ? is_node(word) : is_word_of(verb->second, word);
}

static bool is_fine(const struct line *line)
{
    for (uint32_t i = 0; i < sizeof(VERBS) / sizeof(VERBS[0]); i++) {
        const struct verb *verb = &VERBS[i];
        if (strcmp(verb->name, line->word[0]) != 0)
            continue;
        bool is_first_fine = verb->first == 'n'   ? is_node(line->word[1])
                             : verb->first == 'g' ? guest_by_name(line->word[1]) >= 0
                                                  : line->word[1][0] == '\0';
        return is_first_fine && is_second_fine(verb, line->word[2]);
    }
    return false;
}

static const char *check(char *text, size_t size)
{
    for (uint32_t i = 0; i < script.line_count; i++) {
        if (!is_fine(&script.lines[i]))
            return bad(text, size, script.lines[i].number, "no such verb, or not with these words");
    }
    return NULL;
}

const char *sim_script_read(const char *path, char *text, size_t size)
{
    char line[256];
    uint32_t number = 0;
    const char *why = NULL;
    FILE *file = fopen(path, "re");

    memset(&script, 0, sizeof(script));
    if (!file)
        return "it can't be opened";
    while (!why && fgets(line, sizeof(line), file)) {
        char *word[WORDS_MAX] = {0}, *rest = NULL;
        uint32_t count = 0;
        number++;
        for (char *w = strtok_r(line, " \n", &rest); w && !why; w = strtok_r(NULL, " \n", &rest)) {
            if (count == WORDS_MAX)
                why = bad(text, size, number, "too many words");
            else
                word[count++] = w;
        }
        const char *what = !why && count > 0 ? read_line(word, count, number) : NULL;
        if (what)
            why = bad(text, size, number, what);
    }
    fclose(file);
    if (!why && (script.node_count == 0 || script.end_ns == 0))
        why = bad(text, size, number, "`nodes` or `end` is missing");
    return why ? why : check(text, size);
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

    if (guest < 0 || kind == 3 || script.fails[guest][kind] == 0 ||
        (kind == 1 && sim.now < script.story_ns))
        return false;
    script.fails[guest][kind]--;
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

static bool do_guest(const struct line *line, char why[HA_TEXT_MAX])
{
    const char *verb = line->word[0];
    int index = guest_by_name(line->word[1]);
    const struct ha_guest *guest =
        index < 0 ? NULL : ha_state_guest(sim_truth(), sim.guests[index].id);
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

static bool do_order(const struct line *line, char why[HA_TEXT_MAX])
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
        shell_server_api.shutdown_begin(node->d);
        sim_leave(before);
    }
    sim_after(5 * NS_S, NULL, on_going, going, node->boots);
}

static void set_network(uint32_t node, bool is_down)
{
    script.is_down[node] = is_down;
    for (uint32_t a = 1; a <= sim.node_count; a++) {
        for (uint32_t b = 1; b <= sim.node_count; b++)
            sim_net_cut(a, b, a != b && (script.is_down[a] || script.is_down[b]));
    }
    sim_net_changed();
}

/* What happens to machines; false if the verb is an order to hamgr. */
static bool do_machine(const struct line *line)
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
    const struct line *line = data;
    char why[HA_TEXT_MAX] = "";

    if (do_machine(line))
        return;
    bool is_done = guest_by_name(line->word[1]) >= 0 ? do_guest(line, why) : do_order(line, why);
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
