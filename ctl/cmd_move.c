/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands that move guests: migrate (live), failover (by force), cancel.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/hactl.h"

#define POLL_MS     100u
#define PLAIN_MS    2000u     /* without a terminal: a line that often */
#define MOVE_MS     86400000u /* a migration ends by its own deadlines; this only bounds the wait */
#define FAILOVER_MS 300000u   /* T_wait at its largest sensible, and a start */

/* ---- migrate -----------------------------------------------------------------------------------
 */

static void print_progress(const json_t *move, uint64_t *last_ms)
{
    bool is_tty = isatty(STDOUT_FILENO);
    uint64_t now = now_ms();

    if (is_json || (!is_tty && now < *last_ms + PLAIN_MS))
        return;
    *last_ms = now;
    printf("%s%s: round %" PRIu64 ", %" PRIu64 " MiB sent, %" PRIu64 " MiB left, %" PRIu64 " MiB/s",
           is_tty ? "\r\033[K" : "", text_of(move, "step"), number_of(move, "round"),
           number_of(move, "bytes") >> 20, number_of(move, "remaining_kib") >> 10,
           number_of(move, "rate_kib_s") >> 10);
    if (number_of(move, "eta_ms"))
        printf(", %" PRIu64 " s to go", (number_of(move, "eta_ms") + 999) / 1000);
    fputs(is_tty ? "" : "\n", stdout);
    fflush(stdout);
}

static const json_t *find_move(const json_t *data, uint64_t ticket)
{
    const json_t *move;
    size_t i;

    json_array_foreach(json_object_get(data, "moves"), i, move)
    {
        if (number_of(move, "id") == ticket)
            return move;
    }
    return NULL;
}

/* Why a ticket ended as it did, from the history. */
static void say_reason(uint64_t ticket)
{
    json_t *envelope, *data;
    const json_t *event;
    size_t i;

    if (ask_data("events", json_pack("{s:I, s:i}", "since", (json_int_t)ticket - 1, "count", 200),
                 &envelope, &data) != EXIT_DONE)
        return;
    json_array_foreach(json_object_get(data, "events"), i, event)
    {
        const char *type = text_of(event, "type");
        if ((strcmp(type, "ABORT") == 0 || strcmp(type, "REVERT") == 0) &&
            (number_of(event, "ticket") == ticket || !json_object_get(event, "ticket")))
            fprintf(stderr, "  %s\n", text_of(event, "text"));
    }
    json_decref(envelope);
}

/* After the ticket closed: the epoch it reserved tells whether the destination's copy won. */
static int tell_end(const json_t *guest, const char *name, const char *to, uint64_t ticket,
                    uint64_t started_ms)
{
    char message[256];

    if (is_json) {
        json_t *all = json_pack("{s:s, s:n, s:n, s:{s:I, s:s, s:s, s:b, s:I}, s:[]}", "schema",
                                "hamgr.migrate/1", "generation", "view", "data", "op",
                                (json_int_t)ticket, "guest", name, "node", text_of(guest, "node"),
                                "moved", strcmp(text_of(guest, "node"), to) == 0, "elapsed_ms",
                                (json_int_t)(now_ms() - started_ms), "errors");
        print_envelope(all);
        json_decref(all);
    }
    if (strcmp(text_of(guest, "node"), to) == 0) {
        if (!is_json)
            printf("%s%s runs on %s after %" PRIu64 " ms\n",
                   isatty(STDOUT_FILENO) ? "\r\033[K" : "", name, to, now_ms() - started_ms);
        return EXIT_DONE;
    }
    if (!is_json) {
        snprintf(message, sizeof(message), "%s did not move: %s", name, text_of(guest, "text"));
        fprintf(stderr, "hactl: %s\n", message);
        say_reason(ticket);
    }
    return EXIT_REFUSED;
}

static int follow(const char *name, uint64_t ticket, uint64_t started_ms)
{
    uint64_t last_ms = 0;
    char to[128] = "";

    while (now_ms() < started_ms + MOVE_MS) {
        json_t *envelope, *data;
        int code = ask_data("status", json_object(), &envelope, &data);
        if (code != EXIT_DONE)
            return code;
        const json_t *move = find_move(data, ticket);
        const json_t *guest = find_named(json_object_get(data, "guests"), name);
        if (move) {
            snprintf(to, sizeof(to), "%s", text_of(move, "to"));
            print_progress(move, &last_ms);
        } else {
            code = tell_end(guest, name, to, ticket, started_ms);
            json_decref(envelope);
            return code;
        }
        json_decref(envelope);
        pause_ms(POLL_MS);
    }
    return EXIT_OUTCOME_UNKNOWN;
}

static int parse_migrate(const struct command *command, int argc, char **argv, json_t *args,
                         bool *ret_is_detached)
{
    static const struct option options[] = {{"to", required_argument, NULL, 't'},
                                            {"detach", no_argument, NULL, 'd'},
                                            {"max-downtime", required_argument, NULL, 'm'},
                                            {"deadline", required_argument, NULL, 'l'},
                                            {NULL, 0, NULL, 0}};
    uint64_t ms = 0;
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 't')
            json_object_set_new(args, "to", json_string(optarg));
        else if (option == 'd')
            *ret_is_detached = true;
        else if (option == 'm' && parse_ms(optarg, 600000, &ms) && ms > 0)
            json_object_set_new(args, "max_downtime_ms", json_integer((json_int_t)ms));
        else if (option == 'l' && parse_ms(optarg, 86400000, &ms) && ms > 0)
            json_object_set_new(args, "deadline_ms", json_integer((json_int_t)ms));
        else
            return usage_error(command, "\"%s\" is not an option, or its value is no time",
                               argv[optind - 1]);
    }
    if (optind + 1 != argc)
        return usage_error(command, "one guest is expected");
    json_object_set_new(args, "guest", json_string(argv[optind]));
    return EXIT_DONE;
}

static int run_migrate(const struct command *command, int argc, char **argv)
{
    json_t *args = json_object(), *envelope, *data;
    uint64_t started_ms = now_ms();
    bool is_detached = false;
    char name[128];

    int code = parse_migrate(command, argc, argv, args, &is_detached);
    if (code != EXIT_DONE) {
        json_decref(args);
        return code;
    }
    snprintf(name, sizeof(name), "%s", text_of(args, "guest"));
    code = ask_data("migrate", args, &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    uint64_t ticket = number_of(data, "index");
    if (is_detached && is_json)
        print_envelope(envelope);
    else if (is_detached)
        printf("operation %" PRIu64 " has begun: hactl status follows it, hactl cancel %" PRIu64
               " ends it\n",
               ticket, ticket);
    json_decref(envelope);
    return is_detached ? EXIT_DONE : follow(name, ticket, started_ms);
}

static int run_cancel(const struct command *command, int argc, char **argv)
{
    uint64_t op = 0;

    if (argc != 2 || !parse_number(argv[1], INT64_MAX, &op))
        return usage_error(command, "the number of an operation is expected");
    return ask_and_tell("cancel", json_pack("{s:I}", "op", (json_int_t)op),
                        "cancelled: the guest goes on where it was");
}

/* ---- failover ----------------------------------------------------------------------------------
 */

static int failover_guest(const char *name, bool is_sure)
{
    json_t *envelope, *data;
    char what[256], from[128];

    int code = ask_data("guest-show", json_pack("{s:s}", "guest", name), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    snprintf(from, sizeof(from), "%s", text_of(data, "node"));
    snprintf(what, sizeof(what), "%s: %s. Its memory will be lost.", name, text_of(data, "text"));
    bool is_free = strcmp(text_of(data, "phase"), "free") == 0;
    json_decref(envelope);
    if (is_free)
        return fail_locally(EXIT_REFUSED, "refused",
                            "it runs nowhere: there is nothing to fail over",
                            "hactl explain GUEST");
    if (!is_sure && !typed_name(what, name))
        return EXIT_REFUSED;
    code = ask_data("failover", json_pack("{s:s}", "guest", name), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    if (text_of(data, "text")[0] && !is_json)
        puts(text_of(data, "text"));
    json_decref(envelope);
    uint64_t end_ms = now_ms() + FAILOVER_MS;
    do { /* the old copy must be seen gone before "running" means the new one */
        code = wait_guest(name, "running", NULL, FAILOVER_MS);
        if (code != EXIT_DONE)
            return code;
        code = ask_data("guest-show", json_pack("{s:s}", "guest", name), &envelope, &data);
        if (code != EXIT_DONE)
            return code;
        bool is_elsewhere = strcmp(text_of(data, "node"), from) != 0;
        if (is_elsewhere && !is_json)
            printf("%s runs on %s\n", name, text_of(data, "node"));
        json_decref(envelope);
        if (is_elsewhere)
            return EXIT_DONE;
        pause_ms(POLL_MS);
    } while (now_ms() < end_ms);
    return EXIT_OUTCOME_UNKNOWN;
}

static int failover_node(const char *node, const json_t *guests, bool is_sure)
{
    char what[256];
    const json_t *guest;
    size_t i;
    int code = EXIT_DONE;

    snprintf(what, sizeof(what),
             "All guests of %s are destroyed there and started elsewhere; "
             "their memory is lost.",
             node);
    if (!is_sure && !typed_name(what, node))
        return EXIT_REFUSED;
    json_array_foreach(guests, i, guest)
    {
        if (strcmp(text_of(guest, "node"), node) == 0 && code == EXIT_DONE)
            code = failover_guest(text_of(guest, "name"), true);
    }
    return code;
}

static int run_failover(const struct command *command, int argc, char **argv)
{
    bool is_sure = argc == 3 && strcmp(argv[2], "--yes") == 0;
    json_t *envelope, *data;

    if (argc != 2 && !is_sure)
        return usage_error(command, "one guest or node is expected");
    int code = ask_data("status", json_object(), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    bool is_node = find_named(json_object_get(data, "nodes"), argv[1]) != NULL &&
                   find_named(json_object_get(data, "guests"), argv[1]) == NULL;
    code = is_node ? failover_node(argv[1], json_object_get(data, "guests"), is_sure)
                   : failover_guest(argv[1], is_sure);
    json_decref(envelope);
    return code;
}

const struct command move_commands[] = {
    {"migrate", "Move a running guest live, encrypted and compressed",
     "GUEST [--to NODE] [--detach] [--max-downtime TIME] [--deadline TIME]",
     "  --to NODE            default: the eligible node with most free memory\n"
     "  --detach             begin and return; hactl status shows it, hactl cancel ends it\n"
     "  --max-downtime TIME  the pause it may cost\n"
     "  --deadline TIME      given up after that; the guest then goes on where it was\n\n"
     "Example: hactl migrate web1 --to n2\n",
     run_migrate},
    {"failover", "Move by force: destroy with proof, start elsewhere; memory is lost",
     "GUEST|NODE [--yes]",
     "Asks for the name to be typed unless --yes. If the owner is gone, waits for the proof that\n"
     "it is dead: nothing starts without it.\n",
     run_failover},
    {"cancel", "End an operation; the guest goes on where it was", "OPERATION",
     "Example: hactl cancel 1042\n", run_cancel},
    {NULL, NULL, NULL, NULL, NULL},
};
