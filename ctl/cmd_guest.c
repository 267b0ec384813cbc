/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands about guests: add, list, show, start, stop, remove, set.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "ctl/definition.h"
#include "ctl/hactl.h"
#include "hamgr/base/id.h"
#include "hamgr/base/limits.h"

#define START_MS 120000u
/* Beyond the guest's own stop timeout: it is destroyed then, and that is proven. */
#define STOP_MORE_MS 60000u

enum option_kind { POLICY_NUMBER, POLICY_MS, POLICY_YES, DEFINITION, OTHER };

struct guest_option {
    const char *name;
    uint8_t kind; /* enum option_kind */
    const char *key;
    uint64_t max;
};

/* One table for add and set: what each option becomes. */
static const struct guest_option guest_options[] = {
    {"priority", POLICY_NUMBER, "priority", 1000},
    {"start-order", POLICY_NUMBER, "start_order", 1000},
    {"restart-max", POLICY_NUMBER, "restart_max", 1000},
    {"restart-window", POLICY_NUMBER, "restart_window_s", 86400},
    {"stop-timeout", POLICY_MS, "stop_timeout_ms", 3600000},
    {"max-downtime", POLICY_MS, "max_downtime_ms", 600000},
    {"protected", POLICY_YES, "protected", 0},
    {"memory", DEFINITION, "memory_mib", 0},
    {"dirty", DEFINITION, "dirty_kib_s", 0},
    {"zero", DEFINITION, "zero_percent", 0},
    {"text", DEFINITION, "text_percent", 0},
    {"writes", DEFINITION, "writes_per_s", 0},
    {"step", DEFINITION, "step_ms", 0},
    {"slot", DEFINITION, "observer_slot", 0},
    {"seed", DEFINITION, "seed", 0},
    {"disk", DEFINITION, "disk", 0},
    {"config", OTHER, NULL, 0},
    {"uuid", OTHER, NULL, 0},
    {"affinity", OTHER, NULL, 0},
    {"anti-affinity", OTHER, NULL, 0},
    {"nodes", OTHER, NULL, 0},
};

#define OPTION_COUNT (sizeof(guest_options) / sizeof(guest_options[0]))
#define OPT_STOPPED  200
#define OPT_DRY_RUN  201

struct guest_words {
    const char *name;
    json_t *args;
    struct guest_definition definition;
    const char *uuid;
    bool has_policy;
    bool is_dry_run;
    bool is_stopped;
};

static int read_definition(const struct command *command, const char *path, struct guest_words *w)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");

    if (!file)
        return usage_error(command, "--config: %s can't be read", path);
    struct guest_definition *d = &w->definition;
    d->size = fread(d->text, 1, sizeof(d->text), file);
    if (file != stdin)
        fclose(file);
    if (d->size > HA_DEFINITION_MAX)
        return usage_error(command, "--config: %s is longer than 64 KiB", path);
    d->text[d->size] = '\0';
    d->is_file = true;
    return EXIT_DONE;
}

static int add_definition_key(const struct command *command, const struct guest_option *option,
                              const char *value, struct guest_words *w)
{
    uint64_t kib;
    char number[32];

    if (strcmp(option->name, "memory") == 0 || strcmp(option->name, "dirty") == 0) {
        if (!parse_kib(value, &kib))
            return usage_error(command, "--%s takes a size like 64MiB", option->name);
        if (strcmp(option->name, "memory") == 0)
            kib /= 1024;
        snprintf(number, sizeof(number), "%" PRIu64, kib);
        value = number;
    }
    struct guest_definition *d = &w->definition;
    int r = snprintf(d->text + d->size, sizeof(d->text) - d->size, "%s = %s\n", option->key, value);
    if (r < 0 || (size_t)r >= sizeof(d->text) - d->size)
        return usage_error(command, "the definition is too long");
    d->size += (size_t)r;
    return EXIT_DONE;
}

static int take_other(const struct command *command, const struct guest_option *option,
                      const char *value, struct guest_words *w)
{
    if (strcmp(option->name, "config") == 0)
        return read_definition(command, value, w);
    if (strcmp(option->name, "uuid") == 0) {
        w->uuid = value;
        return EXIT_DONE;
    }
    return usage_error(command,
                       "--%s: placement rules are reserved for a later version: nothing "
                       "would obey them, so they are refused",
                       option->name);
}

static int take_option(const struct command *command, const struct guest_option *option,
                       const char *value, struct guest_words *w)
{
    uint64_t number;

    switch ((enum option_kind)option->kind) {
    case POLICY_NUMBER:
        if (!parse_number(value, option->max, &number))
            return usage_error(command, "--%s takes a number from 0 to %" PRIu64, option->name,
                               option->max);
        break;
    case POLICY_MS:
        if (!parse_ms(value, option->max, &number))
            return usage_error(command, "--%s takes a time like 500ms or 30s", option->name);
        break;
    case POLICY_YES:
        if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
            return usage_error(command, "--%s takes yes or no", option->name);
        json_object_set_new(w->args, option->key, json_boolean(strcmp(value, "yes") == 0));
        w->has_policy = true;
        return EXIT_DONE;
    case DEFINITION:
        return add_definition_key(command, option, value, w);
    case OTHER:
        return take_other(command, option, value, w);
    }
    json_object_set_new(w->args, option->key, json_integer((json_int_t)number));
    w->has_policy = true;
    return EXIT_DONE;
}

static void fill_long_options(struct option *ret_options)
{
    size_t n = 0;

    for (; n < OPTION_COUNT; n++)
        ret_options[n] =
            (struct option){guest_options[n].name, required_argument, NULL, (int)n + 1};
    ret_options[n++] = (struct option){"stopped", no_argument, NULL, OPT_STOPPED};
    ret_options[n++] = (struct option){"dry-run", no_argument, NULL, OPT_DRY_RUN};
    ret_options[n] = (struct option){NULL, 0, NULL, 0};
}

static int parse_words(const struct command *command, int argc, char **argv, struct guest_words *w)
{
    struct option options[OPTION_COUNT + 3];
    int option, code = EXIT_DONE;

    fill_long_options(options);
    opterr = 0;
    while (code == EXIT_DONE && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == OPT_STOPPED)
            w->is_stopped = true;
        else if (option == OPT_DRY_RUN)
            w->is_dry_run = true;
        else if (option >= 1 && option <= (int)OPTION_COUNT)
            code = take_option(command, &guest_options[option - 1], optarg, w);
        else
            code = usage_error(command, "\"%s\" is not an option, or lacks its value",
                               argv[optind - 1]);
    }
    if (code == EXIT_DONE && optind + 1 != argc)
        code = usage_error(command, "one guest name is expected");
    if (code == EXIT_DONE)
        w->name = argv[optind];
    return code;
}

/* ---- add ---------------------------------------------------------------------------------------
 */

static void random_uuid(char *ret_text)
{
    struct ha_uuid id;

    if (getrandom(id.b, sizeof(id.b), 0) != (ssize_t)sizeof(id.b))
        abort();
    id.b[6] = (uint8_t)((id.b[6] & 0x0f) | 0x40); /* RFC 9562: version 4, */
    id.b[8] = (uint8_t)((id.b[8] & 0x3f) | 0x80); /* variant 1 */
    ha_uuid_format(id, ret_text);
}

/* Each node's word: can it run there? */
static void print_checked(const json_t *nodes)
{
    const json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        const char *state = text_of(node, "state");
        if (strcmp(state, "able") == 0) {
            printf("  %s: can run it\n", text_of(node, "node"));
            continue;
        }
        printf("  %s: %s: %s\n", text_of(node, "node"),
               strcmp(state, "barred") == 0 ? "can't run it" : "not known", text_of(node, "text"));
        printf("    try: %s\n", text_of(node, "fix"));
    }
}

static int severity_of(const json_t *nodes)
{
    const json_t *node;
    size_t i;
    unsigned able = 0, count = 0;

    json_array_foreach(nodes, i, node)
    {
        able += strcmp(text_of(node, "state"), "able") == 0;
        count++;
    }
    if (able == 0)
        return EXIT_ERRORS;
    return able < count ? EXIT_WARNINGS : EXIT_DONE;
}

/* The nodes' words; null where no hamgrd is to ask: a definition may be tried on any host. */
static int ask_nodes(const struct guest_words *w, json_t **ret_nodes)
{
    json_t *envelope, *data, *text = json_object_get(w->args, "definition");

    *ret_nodes = json_null();
    if (!can_ask())
        return EXIT_DONE;
    int code = ask_data("guest-check", json_pack("{s:O}", "definition", text), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    *ret_nodes = json_incref(json_object_get(data, "nodes"));
    json_decref(envelope);
    return EXIT_DONE;
}

static int tell_dry_run(const struct guest_words *w)
{
    const struct guest_definition *d = &w->definition;
    json_t *lacks, *nodes;
    const json_t *thing;
    size_t i;

    int code = ask_nodes(w, &nodes);
    if (code != EXIT_DONE)
        return code;
    lacks = definition_lacks(d);
    if (is_json) {
        json_object_set_new(w->args, "dry_run", json_true());
        json_object_set_new(w->args, "lacks_here", lacks);
        json_object_set_new(w->args, "nodes", nodes);
        print_document(NULL, json_incref(w->args), NULL);
        return EXIT_DONE;
    }
    printf("%s would be added: %" PRIu64 " MiB, uuid %s\n%s%s", w->name, d->mem_kib / 1024, d->uuid,
           d->text, d->size > 0 && d->text[d->size - 1] != '\n' ? "\n" : "");
    if (json_is_null(nodes))
        puts("No hamgrd answers here: only this host was looked at.");
    print_checked(nodes);
    json_array_foreach(lacks, i, thing)
    {
        printf("On this host %s %s.\n", text_of(thing, "name"), text_of(thing, "text"));
    }
    json_decref(lacks);
    json_decref(nodes);
    return EXIT_DONE;
}

static int resolve(const struct command *command, struct guest_words *w)
{
    struct guest_definition *d = &w->definition;
    struct ha_err err = {0};
    struct ha_uuid id;

    if (d->size == 0)
        return usage_error(command, "--config FILE or --memory SIZE is missing");
    if (!ha_name_is_valid(w->name))
        return usage_error(command, "a guest's name is 1 to 63 of letters, digits, . _ -");
    if (w->uuid && ha_uuid_parse(w->uuid, &id) < 0)
        return usage_error(command, "--uuid takes a uuid");
    if (w->uuid)
        snprintf(d->uuid, sizeof(d->uuid), "%s", w->uuid);
    if (definition_resolve(d, w->name, &err) < 0)
        return usage_error(command, "the definition: %s", err.text);
    if (d->uuid[0] == '\0')
        random_uuid(d->uuid);
    return EXIT_DONE;
}

static int send_add(const struct command *command, struct guest_words *w)
{
    const struct guest_definition *d = &w->definition;
    char done[256];
    int code = resolve(command, w);

    if (code != EXIT_DONE)
        return code;
    json_t *text = json_stringn(d->text, d->size);
    if (!text)
        return usage_error(command, "the definition is no UTF-8 text");
    json_object_set_new(w->args, "definition", text);
    json_object_set_new(w->args, "guest", json_string(w->name));
    json_object_set_new(w->args, "uuid", json_string(d->uuid));
    json_object_set_new(w->args, "memory_kib", json_integer((json_int_t)d->mem_kib));
    json_object_set_new(w->args, "stopped", json_boolean(w->is_stopped));
    if (w->is_dry_run)
        return tell_dry_run(w);
    snprintf(done, sizeof(done), "%s is added%s", w->name,
             w->is_stopped ? "" : ", it starts where there is room");
    return ask_and_tell("guest-add", json_incref(w->args), done);
}

static int run_add(const struct command *command, int argc, char **argv)
{
    struct guest_words *w = calloc(1, sizeof(*w));

    if (!w)
        return EXIT_OUTCOME_UNKNOWN;
    w->args = json_object();
    int code = parse_words(command, argc, argv, w);
    if (code == EXIT_DONE)
        code = send_add(command, w);
    json_decref(w->args);
    free(w);
    return code;
}

static int run_set(const struct command *command, int argc, char **argv)
{
    struct guest_words *w = calloc(1, sizeof(*w));

    if (!w)
        return EXIT_OUTCOME_UNKNOWN;
    w->args = json_object();
    int code = parse_words(command, argc, argv, w);
    if (code == EXIT_DONE && (w->definition.size > 0 || w->uuid || w->is_stopped || w->is_dry_run))
        code =
            usage_error(command, "only policy can be set: remove and add the guest for the rest");
    if (code == EXIT_DONE && !w->has_policy)
        code = usage_error(command, "nothing to set is given");
    if (code == EXIT_DONE) {
        json_object_set_new(w->args, "guest", json_string(w->name));
        code = ask_and_tell("guest-set", json_incref(w->args), "set");
    }
    json_decref(w->args);
    free(w);
    return code;
}

/* ---- the rest ----------------------------------------------------------------------------------
 */

/* The one guest named, and whether --detach stands beside it. */
static const char *one_guest(const struct command *command, int argc, char **argv,
                             bool *ret_is_detached, int *ret_code)
{
    const char *name = NULL;

    *ret_is_detached = false;
    *ret_code = EXIT_DONE;
    for (int i = 1; i < argc && *ret_code == EXIT_DONE; i++) {
        if (strcmp(argv[i], "--detach") == 0)
            *ret_is_detached = true;
        else if (argv[i][0] == '-' || name)
            *ret_code = usage_error(command, "\"%s\" is not expected", argv[i]);
        else
            name = argv[i];
    }
    if (*ret_code == EXIT_DONE && !name)
        *ret_code = usage_error(command, "a guest is expected");
    return name;
}

static void tell_change(const json_t *envelope, const json_t *guest, bool is_already,
                        bool is_detached)
{
    bool is_running = strcmp(text_of(guest, "phase"), "running") == 0;

    if (is_json)
        print_document(envelope,
                       json_pack("{s:s, s:s, s:s, s:s, s:b, s:b}", "guest", text_of(guest, "name"),
                                 "phase", text_of(guest, "phase"), "node", text_of(guest, "node"),
                                 "want", text_of(guest, "want"), "already", is_already ? 1 : 0,
                                 "detached", is_detached ? 1 : 0),
                       NULL);
    else if (is_detached)
        printf("%s is wanted %s\n", text_of(guest, "name"), text_of(guest, "want"));
    else if (is_running)
        printf("%s %s on %s\n", text_of(guest, "name"), is_already ? "runs already" : "runs",
               text_of(guest, "node"));
    else
        printf("%s is stopped%s\n", text_of(guest, "name"), is_already ? " already" : "");
}

/* Asks for a change that guest-start and guest-stop make; whether it was so already. */
static int ask_change(const char *verb, const char *name, bool *ret_is_already)
{
    json_t *envelope, *data;
    int code = ask_data(verb, json_pack("{s:s}", "guest", name), &envelope, &data);

    if (code != EXIT_DONE)
        return code;
    *ret_is_already = is_true(data, "already");
    json_decref(envelope);
    return EXIT_DONE;
}

static int tell_detached(const char *name, bool is_already)
{
    json_t *envelope, *data;
    int code = ask_data("guest-show", json_pack("{s:s}", "guest", name), &envelope, &data);

    if (code != EXIT_DONE)
        return code;
    tell_change(envelope, data, is_already, true);
    json_decref(envelope);
    return EXIT_DONE;
}

static int change_and_wait(const char *verb, const struct guest_wait *wanted, bool is_detached)
{
    json_t *envelope;
    const json_t *guest;
    bool is_already = false;

    int code = ask_change(verb, wanted->guest, &is_already);
    if (code != EXIT_DONE)
        return code;
    if (is_detached)
        return tell_detached(wanted->guest, is_already);
    uint64_t began_ms = now_ms();
    code = wait_guest(wanted, &envelope, &guest);
    if (code != EXIT_DONE)
        return code;
    /* "Already" means that nothing had to be waited for, not that it was wanted already. */
    tell_change(envelope, guest, is_already && now_ms() - began_ms < 100, false);
    json_decref(envelope);
    return EXIT_DONE;
}

static int run_start(const struct command *command, int argc, char **argv)
{
    bool is_detached;
    int code;
    struct guest_wait wanted = {.phase = "running", .timeout_ms = START_MS};

    wanted.guest = one_guest(command, argc, argv, &is_detached, &code);
    return code == EXIT_DONE ? change_and_wait("guest-start", &wanted, is_detached) : code;
}

static int run_stop(const struct command *command, int argc, char **argv)
{
    json_t *envelope, *data;
    bool is_detached;
    int code;
    struct guest_wait wanted = {.phase = "free"};

    wanted.guest = one_guest(command, argc, argv, &is_detached, &code);
    if (code == EXIT_DONE)
        code = ask_data("guest-show", json_pack("{s:s}", "guest", wanted.guest), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    wanted.timeout_ms =
        number_of(json_object_get(data, "policy"), "stop_timeout_ms") + STOP_MORE_MS;
    json_decref(envelope);
    return change_and_wait("guest-stop", &wanted, is_detached);
}

static int run_remove(const struct command *command, int argc, char **argv)
{
    bool is_detached;
    int code;
    const char *name = one_guest(command, argc, argv, &is_detached, &code);

    if (code == EXIT_DONE && is_detached)
        code = usage_error(command, "--detach is not expected");
    return code != EXIT_DONE
               ? code
               : ask_and_tell("guest-remove", json_pack("{s:s}", "guest", name), "removed");
}

static int run_list(const struct command *command, int argc, char **argv)
{
    json_t *envelope, *data;
    const json_t *guest;
    size_t i;

    if (argc != 1)
        return usage_error(command, "\"%s\" is not expected", argv[1]);
    int code = ask_data("status", json_object(), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    if (is_json) {
        print_document(envelope, json_pack("{s:O}", "guests", json_object_get(data, "guests")),
                       NULL);
    } else {
        json_array_foreach(json_object_get(data, "guests"), i, guest)
            printf("%-20s %-10s %-12s %s\n", text_of(guest, "name"), text_of(guest, "phase"),
                   text_of(guest, "node"), text_of(guest, "uuid"));
    }
    json_decref(envelope);
    return EXIT_DONE;
}

/* Nodes that lack something it needs. */
static void print_bars(const json_t *runs_on)
{
    const json_t *node;
    size_t i;

    json_array_foreach(runs_on, i, node)
    {
        if (is_true(node, "ok"))
            continue;
        printf("  can't run on %s: %s\n", text_of(node, "node"), text_of(node, "text"));
        printf("    try: %s\n", text_of(node, "fix"));
    }
}

/* Asks about the one guest that the words name; as ask_data. */
static int ask_about_one(const struct command *command, int argc, char **argv, const char *verb,
                         const char **ret_name, json_t **ret_envelope, json_t **ret_data)
{
    bool is_detached;
    int code;

    *ret_name = one_guest(command, argc, argv, &is_detached, &code);
    if (code == EXIT_DONE && is_detached)
        code = usage_error(command, "--detach is not expected");
    if (code == EXIT_DONE)
        code = ask_data(verb, json_pack("{s:s}", "guest", *ret_name), ret_envelope, ret_data);
    return code;
}

static int run_show(const struct command *command, int argc, char **argv)
{
    const char *name;
    json_t *envelope, *data;
    int code = ask_about_one(command, argc, argv, "guest-show", &name, &envelope, &data);

    if (code != EXIT_DONE)
        return code;
    if (is_json) {
        print_envelope(envelope);
    } else {
        const json_t *policy = json_object_get(data, "policy");
        printf("%s (%s)\n  %s, wanted %s, epoch %" PRIu64 ", %" PRIu64 " MiB\n",
               text_of(data, "name"), text_of(data, "uuid"), text_of(data, "text"),
               text_of(data, "want"), number_of(data, "epoch"),
               number_of(data, "memory_kib") / 1024);
        printf("  priority %" PRIu64 ", start order %" PRIu64 ", at most %" PRIu64
               " failures in %" PRIu64 " s, stop timeout %" PRIu64 " ms, %s\n",
               number_of(policy, "priority"), number_of(policy, "start_order"),
               number_of(policy, "restart_max"), number_of(policy, "restart_window_s"),
               number_of(policy, "stop_timeout_ms"),
               is_true(policy, "protected") ? "protected" : "not protected");
        print_bars(json_object_get(data, "runs_on"));
        printf("%s", text_of(data, "definition"));
    }
    json_decref(envelope);
    return EXIT_DONE;
}

static int run_check(const struct command *command, int argc, char **argv)
{
    const char *name;
    json_t *envelope, *data;
    int code = ask_about_one(command, argc, argv, "guest-check", &name, &envelope, &data);

    if (code != EXIT_DONE)
        return code;
    const json_t *nodes = json_object_get(data, "nodes");
    code = severity_of(nodes);
    if (is_json) {
        print_envelope(envelope);
    } else {
        printf("%s\n", name);
        print_checked(nodes);
    }
    json_decref(envelope);
    return code;
}

#define POLICY_HELP                                                                                \
    "  --priority N         0 to 1000, higher is placed first (default 100)\n"                     \
    "  --start-order N      0 to 1000, lower starts first among equal priorities (0)\n"            \
    "  --restart-max N      failures in the window before it is left alone (3)\n"                  \
    "  --restart-window S   the window in seconds (3600)\n"                                        \
    "  --stop-timeout TIME  graceful stop, then it is destroyed (60s)\n"                           \
    "  --max-downtime TIME  pause a migration may cost (the cluster's)\n"                          \
    "  --protected yes|no   start again after a failure of node or guest (yes)\n"

const struct command guest_commands[] = {
    {"guest add", "Add a guest; it starts where there is room",
     "NAME (--config FILE | --memory SIZE ...) [OPTIONS]",
     "  --config FILE        its definition (- = standard input); on Xen: xl.cfg, or the JSON\n"
     "                       that xl -N create FILE prints\n"
     "  --memory SIZE        or a definition for the embedded hypervisor made from these:\n"
     "  --dirty SIZE --zero % --text % --writes N --step MS --slot N --seed N --disk KIND\n"
     "  --uuid UUID          default: a new one\n"
     "  --stopped            do not start it\n"
     "  --dry-run            say what would be added, and which nodes could run it\n" POLICY_HELP
     "\nExample: hactl guest add web1 --memory 64MiB --dirty 1MiB --priority 200\n",
     run_add},
    {"guest list", "List the guests", "", "", run_list},
    {"guest show", "Show one guest with its policy and definition", "NAME", "", run_show},
    {"guest check", "Let every node look whether it could run a guest", "NAME",
     "Kernel, ramdisk, disks and bridges that its definition names: are they there, and the same\n"
     "everywhere? Exit: 0 every node could run it, 7 some, 8 none. The same refuses guest add and\n"
     "guest start where no node could.\n",
     run_check},
    {"guest start", "Start a guest, or forgive its failures", "NAME [--detach]",
     "Waits until it runs.\n", run_start},
    {"guest stop", "Stop a guest", "NAME [--detach]",
     "Asks the guest first, destroys it after its stop timeout. Waits until it is stopped.\n",
     run_stop},
    {"guest remove", "Forget a stopped guest", "NAME", "", run_remove},
    {"guest set", "Change a guest's policy", "NAME OPTIONS",
     POLICY_HELP "\nExample: hactl guest set web1 --priority 500\n", run_set},
    {NULL, NULL, NULL, NULL, NULL},
};
