/* SPDX-License-Identifier: Apache-2.0
 *
 * `hactl doctor`: asks hamgrd, which asks every node, and shows the findings. Where no hamgrd
 * answers, this host alone is looked at, as far as the caller may: that is when a node is being set
 * up, and when it is broken.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl/hactl.h"
#include "hamgr/config/config.h"
#include "hamgr/doctor/doctor.h"
#include "hamgr/doctor/look.h"

/* ---- rendering ---------------------------------------------------------------------------------
 */

static void print_finding(const json_t *finding)
{
    static const char *const marks[][2] = {
        {"error", "ERROR  "}, {"warning", "WARNING"}, {"note", "note   "}};
    const char *severity = text_of(finding, "severity"), *mark = "";

    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        if (strcmp(severity, marks[i][0]) == 0)
            mark = marks[i][1];
    }
    printf("%s  %s  [%s]\n", mark, text_of(finding, "what"), text_of(finding, "code"));
    printf("         why: %s\n", text_of(finding, "why"));
    if (text_of(finding, "fix")[0])
        printf("         fix: %s\n", text_of(finding, "fix"));
}

static void print_nodes(const json_t *nodes)
{
    const json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        const json_t *facts = json_object_get(node, "facts");
        const char *hypervisor = text_of(facts, "hypervisor");
        if (is_true(node, "answered"))
            printf("%s: hamgr %s, %s\n", text_of(node, "name"), text_of(facts, "version"),
                   hypervisor[0] ? hypervisor : "hypervisor not known");
        else
            printf("%s: not asked: %s\n", text_of(node, "name"), text_of(node, "silence"));
    }
}

static int show(const json_t *data)
{
    const json_t *finding;
    size_t i;
    uint64_t errors = number_of(data, "errors"), warnings = number_of(data, "warnings");

    print_nodes(json_object_get(data, "nodes"));
    puts("");
    json_array_foreach(json_object_get(data, "findings"), i, finding)
    {
        print_finding(finding);
    }
    if (is_true(data, "cut"))
        puts("There is more: mend these first.");
    printf("%s%" PRIu64 " errors, %" PRIu64 " warnings, %" PRIu64 " notes\n", i > 0 ? "\n" : "",
           errors, warnings, number_of(data, "notes"));
    return errors ? EXIT_ERRORS : warnings ? EXIT_WARNINGS : EXIT_DONE;
}

static int severity_of(const json_t *data)
{
    if (number_of(data, "errors"))
        return EXIT_ERRORS;
    return number_of(data, "warnings") ? EXIT_WARNINGS : EXIT_DONE;
}

/* ---- without hamgrd ----------------------------------------------------------------------------
 */

static uint64_t wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* hamgr.conf of this host; false: said why. */
static bool fill_ask(struct look_ask *ask, bool *ret_is_witness)
{
    static struct ha_config config;
    struct ha_err err = {0};

    if (ha_config_load(HA_CONFIG_PATH, &config, &err) < 0) {
        fail_locally(EXIT_REFUSED, "usage", err.text, "mend it: hamgr.conf(5)");
        return false;
    }
    *ret_is_witness = config.is_witness;
    ask->is_xen = strcmp(config.hypervisor, "xen") == 0;
    snprintf(ask->node, sizeof(ask->node), "%s", config.name);
    snprintf(ask->ca_path, sizeof(ask->ca_path), "%s", config.ca_path);
    snprintf(ask->cert_path, sizeof(ask->cert_path), "%s", config.cert_path);
    snprintf(ask->key_path, sizeof(ask->key_path), "%s", config.key_path);
    snprintf(ask->watchdog, sizeof(ask->watchdog), "%s", config.watchdog_device);
    return true;
}

static json_t *local_findings(const struct ha_diagnosis *diagnosis, const char *node,
                              uint64_t *counts)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < diagnosis->count; i++) {
        const struct ha_finding *f = &diagnosis->list[i];
        counts[f->severity]++;
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "guest", "", "severity",
                            ha_severity_name(f->severity), "code", ha_finding_name(f->code), "node",
                            node, "what", f->what, "why", ha_finding_why(f->code), "fix", f->fix));
    }
    return list;
}

/* That hamgrd does not answer is the first finding. */
static void add_silence(json_t *list, const char *node)
{
    json_array_insert_new(list, 0,
                          json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "severity", "error",
                                    "guest", "", "code", "hamgrd-silent", "node", node, "what",
                                    "hamgrd does not answer here: only this host was looked at",
                                    "why",
                                    "no other node can be asked, and this one is in no cluster",
                                    "fix", "systemctl start hamgrd, then journalctl -u hamgrd"));
}

/* The name is borrowed. */
static json_t *look_here(void)
{
    static struct look_ask ask;
    static struct look_tell tell;
    static struct ha_doctor_input in;
    static struct ha_diagnosis diagnosis;
    uint64_t counts[HA_SEVERITY_ERROR + 1] = {0};
    bool is_witness;

    if (!fill_ask(&ask, &is_witness))
        return NULL;
    look_host("", &ask, &tell);
    ha_facts_set(&tell.facts, HA_FACT_IS_XEN_WANTED, ask.is_xen);
    ha_facts_set(&tell.facts, HA_FACT_IS_WITNESS, is_witness);
    in.wall_ms = wall_ms();
    in.node_count = 1;
    in.nodes[0] = (struct ha_doctor_node){.id = 1, .facts = &tell.facts};
    memcpy(in.nodes[0].name, ask.node, sizeof(in.nodes[0].name));
    ha_doctor(&in, &diagnosis);
    json_t *findings = local_findings(&diagnosis, ask.node, counts);
    add_silence(findings, ask.node);
    return json_pack("{s:I, s:I, s:I, s:b, s:o, s:[{s:s, s:b, s:s}]}", "errors",
                     (json_int_t)counts[HA_SEVERITY_ERROR] + 1, "warnings",
                     (json_int_t)counts[HA_SEVERITY_WARNING], "notes",
                     (json_int_t)counts[HA_SEVERITY_NOTE], "cut", 0, "findings", findings, "nodes",
                     "name", ask.node, "answered", 0, "silence", "looked at without hamgrd");
}

static int run_here(void)
{
    json_t *data = look_here();

    if (!data)
        return EXIT_REFUSED;
    int code = severity_of(data);
    if (is_json) {
        print_document(NULL, data, NULL);
        return code;
    }
    show(data);
    json_decref(data);
    return code;
}

/* ---- the command -------------------------------------------------------------------------------
 */

static int run_doctor(const struct command *command, int argc, char **argv)
{
    json_t *envelope, *data;

    bool is_here = argc == 2 && strcmp(argv[1], "--here") == 0;
    if (argc > 2 || (argc == 2 && argv[1][0] == '-' && !is_here))
        return usage_error(command, "at most one node is expected");
    if (is_here)
        return run_here();
    json_t *request = argc == 2 ? json_pack("{s:s}", "node", argv[1]) : json_object();
    int code = ask_data("doctor", request, &envelope, &data);
    if (code == EXIT_NOT_REACHABLE && !is_json)
        fputs("hactl: hactl doctor --here looks at this host without hamgrd\n", stderr);
    if (code != EXIT_DONE)
        return code;
    code = severity_of(data);
    if (is_json)
        print_envelope(envelope);
    else
        show(data);
    json_decref(envelope);
    return code;
}

const struct command doctor_commands[] = {
    {"doctor",
     "Look for what is wrong, or will be: hosts, watchdogs, fencing, certificates, guests",
     "[NODE | --here]",
     "Every finding says what, why it matters and how to mend it. Exit: 0 nothing but notes, 7\n"
     "warnings, 8 errors. --here looks at this host alone, without hamgrd (as root).\n"
     "Example: hactl doctor n2\n",
     run_doctor},
    {NULL, NULL, NULL, NULL, NULL},
};
