/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands that look: status, explain, events, wait.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/hactl.h"

#define FOLLOW_MS 200u
#define WAIT_MS   50u

/* ---- status ------------------------------------------------------------------------------------
 */

static void print_nodes(const json_t *nodes)
{
    static const char *const header[] = {"NODE", "GUESTS", "MEMORY FREE", "STATE"};
    size_t count = json_array_size(nodes);
    char(*numbers)[2][32] = calloc(count + 1, sizeof(*numbers));
    const char **cells = calloc(count * 4 + 1, sizeof(*cells));
    const json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        uint64_t all = number_of(node, "memory_kib"), used = number_of(node, "memory_used_kib");
        snprintf(numbers[i][0], sizeof(numbers[i][0]), "%" PRIu64, number_of(node, "guests"));
        size_text(all > used ? all - used : 0, numbers[i][1]);
        cells[i * 4] = text_of(node, "name");
        cells[i * 4 + 1] = numbers[i][0];
        cells[i * 4 + 2] = is_true(node, "witness") ? "-" : numbers[i][1];
        cells[i * 4 + 3] = text_of(node, "text");
    }
    print_table(header, 4, cells, (unsigned)count);
    free(cells);
    free(numbers);
}

static void print_guests(const json_t *guests)
{
    static const char *const header[] = {"GUEST", "MEMORY", "STATE"};
    size_t count = json_array_size(guests);
    char(*sizes)[32] = calloc(count + 1, sizeof(*sizes));
    const char **cells = calloc(count * 3 + 1, sizeof(*cells));
    const json_t *guest;
    size_t i;

    json_array_foreach(guests, i, guest)
    {
        cells[i * 3] = text_of(guest, "name");
        cells[i * 3 + 1] = size_text(number_of(guest, "memory_kib"), sizes[i]);
        cells[i * 3 + 2] = text_of(guest, "text");
    }
    print_table(header, 3, cells, (unsigned)count);
    free(cells);
    free(sizes);
}

static void print_moves(const json_t *moves)
{
    char packing[PACKING_TEXT];
    const json_t *move;
    size_t i;

    json_array_foreach(moves, i, move)
    {
        printf("operation %" PRIu64 ": %s from %s to %s, %s, %" PRIu64 " MiB sent",
               number_of(move, "id"), text_of(move, "guest"), text_of(move, "from"),
               text_of(move, "to"), text_of(move, "step"), number_of(move, "bytes") >> 20);
        fputs(packing_text(move, packing), stdout);
        if (number_of(move, "eta_ms"))
            printf(", about %" PRIu64 " s left", number_of(move, "eta_ms") / 1000 + 1);
        puts("");
    }
}

static void print_waits(const json_t *nodes)
{
    const json_t *node;
    size_t i;

    json_array_foreach(nodes, i, node)
    {
        if (text_of(node, "wait_text")[0])
            printf("T_wait of %s: %s\n", text_of(node, "name"), text_of(node, "wait_text"));
    }
}

static int run_status(const struct command *command, int argc, char **argv)
{
    json_t *envelope, *data;
    const json_t *warning;
    bool is_verbose = argc == 2 && strcmp(argv[1], "--verbose") == 0;
    size_t i;

    if (argc > 1 && !is_verbose)
        return usage_error(command, "\"%s\" is not expected", argv[1]);
    int code = ask_data("status", json_object(), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    if (is_json) {
        print_envelope(envelope);
    } else {
        const char *name = text_of(data, "cluster");
        printf("Cluster %s%s: %s\n", name[0] ? name : "(name not known yet)",
               is_true(data, "disarmed") ? " (disarmed)" : "", text_of(data, "quorum"));
        json_array_foreach(json_object_get(data, "warnings"), i, warning)
            printf("! %s\n", json_string_value(warning));
        puts("");
        print_nodes(json_object_get(data, "nodes"));
        printf("\n%" PRIu64 " of %" PRIu64 " wanted guests run\n", number_of(data, "running"),
               number_of(data, "wanted"));
        print_guests(json_object_get(data, "guests"));
        print_moves(json_object_get(data, "moves"));
        if (is_verbose)
            print_waits(json_object_get(data, "nodes"));
    }
    code = is_true(data, "open") ? EXIT_DONE : EXIT_NO_QUORUM;
    json_decref(envelope);
    return code;
}

/* ---- explain -----------------------------------------------------------------------------------
 */

static int run_explain(const struct command *command, int argc, char **argv)
{
    json_t *envelope, *data;
    const json_t *condition;
    size_t i;

    if (argc != 2)
        return usage_error(command, "one guest is expected");
    int code = ask_data("explain", json_pack("{s:s}", "guest", argv[1]), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    if (is_json) {
        print_envelope(envelope);
    } else {
        puts(text_of(data, "summary"));
        json_array_foreach(json_object_get(data, "conditions"), i, condition)
        {
            printf("  %s %s\n", is_true(condition, "ok") ? "+" : "-", text_of(condition, "text"));
            if (text_of(condition, "fix")[0])
                printf("      try: %s\n", text_of(condition, "fix"));
        }
    }
    json_decref(envelope);
    return EXIT_DONE;
}

/* ---- events ------------------------------------------------------------------------------------
 */

static void print_event(const json_t *event)
{
    time_t seconds = (time_t)(number_of(event, "wall_ms") / 1000);
    struct tm parts;
    char when[32];

    if (is_json) {
        char *line = json_dumps(event, JSON_COMPACT);
        puts(line ? line : "");
        free(line);
        return;
    }
    localtime_r(&seconds, &parts);
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &parts);
    printf("%s.%03u  %s\n", when, (unsigned)(number_of(event, "wall_ms") % 1000),
           text_of(event, "text"));
}

static int print_events(uint64_t *since, uint64_t count, bool is_following)
{
    json_t *envelope, *data;
    const json_t *event;
    size_t i;

    int code = ask_data(
        "events", json_pack("{s:I, s:I}", "since", (json_int_t)*since, "count", (json_int_t)count),
        &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    if (is_json && !is_following) {
        print_envelope(envelope);
    } else {
        json_array_foreach(json_object_get(data, "events"), i, event) print_event(event);
        fflush(stdout);
    }
    json_array_foreach(json_object_get(data, "events"), i, event)
    {
        if (number_of(event, "index") > *since)
            *since = number_of(event, "index");
    }
    json_decref(envelope);
    return EXIT_DONE;
}

static int run_events(const struct command *command, int argc, char **argv)
{
    static const struct option options[] = {{"follow", no_argument, NULL, 'f'},
                                            {"since", required_argument, NULL, 's'},
                                            {"count", required_argument, NULL, 'n'},
                                            {NULL, 0, NULL, 0}};
    uint64_t since = 0, count = 50;
    bool is_following = false;
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "fs:n:", options, NULL)) != -1) {
        if (option == 'f')
            is_following = true;
        else if (option == 's' && parse_number(optarg, INT64_MAX, &since))
            continue;
        else if (option == 'n' && parse_number(optarg, 1000, &count) && count > 0)
            continue;
        else
            return usage_error(command, "--since takes an index, --count a number up to 1000");
    }
    if (optind < argc)
        return usage_error(command, "\"%s\" is not expected", argv[optind]);
    int code = print_events(&since, count, is_following);
    while (is_following && code == EXIT_DONE) {
        pause_ms(FOLLOW_MS);
        code = print_events(&since, 1000, true);
    }
    return code;
}

/* ---- wait --------------------------------------------------------------------------------------
 */

static bool are_nodes_ready(const json_t *data, uint64_t wanted)
{
    const json_t *node;
    uint64_t ready = 0;
    size_t i;

    json_array_foreach(json_object_get(data, "nodes"), i, node)
    {
        bool is_member = strcmp(text_of(node, "status"), "member") == 0;
        bool is_useful = is_true(node, "witness") || is_true(node, "armed") ||
                         is_true(node, "frozen") || is_true(data, "disarmed");
        ready += is_member && is_useful && is_true(node, "voter");
    }
    return is_true(data, "open") && ready >= wanted;
}

static int wait_nodes(uint64_t wanted, uint64_t timeout_ms)
{
    uint64_t end_ms = now_ms() + timeout_ms;

    for (;;) {
        json_t *envelope, *data;
        int code = ask_data("status", json_object(), &envelope, &data);
        if (code != EXIT_DONE)
            return code;
        bool is_ready = are_nodes_ready(data, wanted);
        if (is_ready && is_json)
            print_document(envelope, json_pack("{s:I}", "nodes", (json_int_t)wanted), NULL);
        json_decref(envelope);
        if (is_ready)
            return EXIT_DONE;
        if (now_ms() >= end_ms)
            return fail_locally(EXIT_OUTCOME_UNKNOWN, "timeout", "not that many nodes are ready",
                                "hactl status names what each lacks");
        pause_ms(WAIT_MS);
    }
}

static int wait_for_guest(const struct guest_wait *wanted)
{
    json_t *envelope;
    const json_t *guest;
    int code = wait_guest(wanted, &envelope, &guest);

    if (code != EXIT_DONE)
        return code;
    if (is_json)
        print_document(envelope,
                       json_pack("{s:s, s:s, s:s}", "guest", text_of(guest, "name"), "phase",
                                 text_of(guest, "phase"), "node", text_of(guest, "node")),
                       NULL);
    json_decref(envelope);
    return EXIT_DONE;
}

static int run_wait(const struct command *command, int argc, char **argv)
{
    uint64_t timeout_ms = 60000, count = 0;

    if (argc >= 2 && strcmp(argv[argc - 2], "--timeout") == 0) {
        if (!parse_ms(argv[argc - 1], 86400000, &timeout_ms))
            return usage_error(command, "--timeout takes a time like 30s");
        argc -= 2;
    }
    if (argc == 3 && strcmp(argv[1], "nodes") == 0 && parse_number(argv[2], 32, &count))
        return wait_nodes(count, timeout_ms);
    bool is_running = argc == 4 && strcmp(argv[3], "running") == 0;
    if (argc == 4 && strcmp(argv[1], "guest") == 0 &&
        (is_running || strcmp(argv[3], "stopped") == 0)) {
        struct guest_wait wanted = {
            .guest = argv[2], .phase = is_running ? "running" : "free", .timeout_ms = timeout_ms};
        return wait_for_guest(&wanted);
    }
    return usage_error(command, "what to wait for is not clear");
}

const struct command show_commands[] = {
    {"status", "Show nodes, guests, operations and what is wrong", "[--verbose]",
     "  --verbose   also T_wait of each node with its arithmetic\n\n"
     "Exit 4 if this node is in no open view: what is shown may be old then.\n",
     run_status},
    {"explain", "Say why a guest is where it is, or why it does not run", "GUEST",
     "Example: hactl explain web1\n", run_explain},
    {"events", "Show what was decided, with reasons", "[--follow] [--since INDEX] [--count N]",
     "  --follow        go on as things happen\n"
     "  --since INDEX   only after that entry of the log\n"
     "  --count N       the newest N (default 50)\n\n"
     "With --json --follow: one event a line, without an envelope.\n\n"
     "Example: hactl events --follow\n",
     run_events},
    {"wait", "Wait for a guest or for nodes",
     "(guest NAME running|stopped | nodes COUNT) [--timeout TIME]",
     "Example: hactl wait guest web1 running --timeout 30s\n", run_wait},
    {NULL, NULL, NULL, NULL, NULL},
};
