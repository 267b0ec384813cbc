/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands that move guests: migrate (live), failover (by force), cancel.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl/hactl.h"

#define POLL_MS     100u
#define POLL_MAX_MS 500u      /* of what takes long already: a look each 5 % of it */
#define PLAIN_MS    2000u     /* without a terminal: a line that often */
#define MOVE_MS     86400000u /* a migration ends by its own deadlines; this only bounds the wait */
#define FAILOVER_MS 300000u   /* T_wait at its largest sensible, and a start */

/* ---- migrate -----------------------------------------------------------------------------------
 */

static void print_progress(const json_t *move, uint64_t *last_ms)
{
    bool is_tty = isatty(STDOUT_FILENO);
    uint64_t now = now_ms();
    char packing[PACKING_TEXT];

    if (is_json || (!is_tty && now < *last_ms + PLAIN_MS))
        return;
    *last_ms = now;
    printf("%s%s: round %" PRIu64 ", %" PRIu64 " MiB sent, %" PRIu64 " MiB left, %" PRIu64 " MiB/s",
           is_tty ? "\r\033[K" : "", text_of(move, "step"), number_of(move, "round"),
           number_of(move, "bytes") >> 20, number_of(move, "remaining_kib") >> 10,
           number_of(move, "rate_kib_s") >> 10);
    if (number_of(move, "dirty_kib_s"))
        printf(", writes %" PRIu64 " MiB/s", number_of(move, "dirty_kib_s") >> 10);
    if (number_of(move, "throttle_percent") && number_of(move, "throttle_percent") < 100)
        printf(", slowed down to %" PRIu64 " %%", number_of(move, "throttle_percent"));
    fputs(packing_text(move, packing), stdout);
    if (!is_true(move, "converging"))
        fputs(", does not converge: it writes faster than it can be sent", stdout);
    else if (number_of(move, "eta_ms"))
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

/* Why a ticket ended as it did, from the history, into text[256]. */
static void find_reason(const char *name, uint64_t ticket, char *text)
{
    json_t *envelope, *data;
    const json_t *event;
    size_t i;

    /* Not ask_data: a failure here must not print a document of its own. */
    envelope = ask("events", json_pack("{s:I, s:i}", "since", (json_int_t)ticket, "count", 1000));
    data = json_object_get(envelope, "data");
    json_array_foreach(json_object_get(data, "events"), i, event)
    {
        const char *type = text_of(event, "type");
        if ((strcmp(type, "ABORT") == 0 || strcmp(type, "REVERT") == 0) &&
            strcmp(text_of(event, "guest"), name) == 0 && !is_true(event, "is_noop"))
            snprintf(text, 256, "%s", text_of(event, "text"));
    }
    json_decref(envelope);
}

/* ---- forecast ----------------------------------------------------------------------------------
 */

static void print_range(const char *name, const json_t *range, uint64_t unit, const char *unit_text)
{
    printf("  %-8s about %" PRIu64 " %s (%" PRIu64 " to %" PRIu64 ")\n", name,
           number_of(range, "expected") / unit, unit_text, number_of(range, "low") / unit,
           number_of(range, "high") / unit);
}

static const char *rate_words(const char *from)
{
    if (strcmp(from, "probe") == 0)
        return "what the link takes, and how far memory shrank before";
    if (strcmp(from, "link") == 0)
        return "as migrations there before";
    return strcmp(from, "others") == 0 ? "as migrations to other nodes before"
                                       : "a guess: nothing was moved from there yet";
}

static void print_link(const json_t *link)
{
    uint64_t kbit_s = number_of(link, "kbit_s");

    if (!is_true(link, "measured")) {
        printf("The link was not measured: %s.\n", text_of(link, "reason"));
        return;
    }
    if (kbit_s >= 1000000)
        printf("The link takes %.1f Gbit/s", (double)kbit_s / 1e6);
    else
        printf("The link takes %.1f Mbit/s", (double)kbit_s / 1e3);
    printf(" (measured just now, %.2f ms there and back).\n",
           (double)number_of(link, "rtt_us") / 1e3);
}

static void print_forecast(const json_t *data)
{
    uint64_t allowed = number_of(data, "max_downtime_ms");

    printf("%s from %s to %s, nothing moves yet:\n", text_of(data, "guest"), text_of(data, "from"),
           text_of(data, "to"));
    print_range("time", json_object_get(data, "time_ms"), 1, "ms");
    print_range("pause", json_object_get(data, "pause_ms"), 1, "ms");
    print_range("memory", json_object_get(data, "bytes"), 1 << 20, "MiB to send");
    printf("It writes %" PRIu64 " MiB/s; the stream moves %" PRIu64 " MiB/s (%s).\n",
           number_of(data, "dirty_kib_s") >> 10, number_of(data, "rate_kib_s") >> 10,
           rate_words(text_of(data, "rate_from")));
    print_link(json_object_get(data, "link"));
    if (!is_true(data, "converging"))
        printf("The pause would be longer than the %" PRIu64
               " ms allowed: it would be slowed down, or stay.\n",
               allowed);
}

static int run_forecast(json_t *args)
{
    json_t *envelope, *data;
    int code = ask_data("forecast", args, &envelope, &data);

    if (code != EXIT_DONE)
        return code;
    if (is_json)
        print_document(envelope, json_incref(data), NULL);
    else
        print_forecast(data);
    json_decref(envelope);
    return EXIT_DONE;
}

/* ---- one migration -----------------------------------------------------------------------------
 */

struct migration {
    char name[128];
    char from[128];
    char to[128];
    uint64_t ticket;
    uint64_t started_ms;
};

static json_t *migration_json(const struct migration *m, const char *node, bool is_moved)
{
    return json_pack("{s:I, s:s, s:s, s:s, s:s, s:b, s:I}", "op", (json_int_t)m->ticket, "guest",
                     m->name, "from", m->from, "to", m->to, "node", node, "moved", is_moved ? 1 : 0,
                     "elapsed_ms", (json_int_t)(now_ms() - m->started_ms));
}

/* After the ticket closed: whose copy won is where the guest is. */
static int tell_end(const json_t *envelope, const json_t *guest, const struct migration *m)
{
    const char *node = text_of(guest, "node");
    char message[512], reason[256] = "";

    if (strcmp(node, m->to) == 0) {
        if (is_json)
            print_document(envelope, migration_json(m, node, true), NULL);
        else
            printf("%s%s runs on %s after %" PRIu64 " ms\n",
                   isatty(STDOUT_FILENO) ? "\r\033[K" : "", m->name, m->to,
                   now_ms() - m->started_ms);
        return EXIT_DONE;
    }
    find_reason(m->name, m->ticket, reason);
    snprintf(message, sizeof(message), "%s did not move: %s", m->name,
             reason[0] ? reason : text_of(guest, "text"));
    if (!is_json)
        return fail_locally(EXIT_REFUSED, "refused", message, "");
    print_document(envelope, migration_json(m, node, false), make_error("refused", message, ""));
    return EXIT_REFUSED;
}

/* A look costs both hamgrd and us, and on a slow host that is time of the migration's. */
static unsigned next_look_ms(uint64_t elapsed_ms)
{
    uint64_t ms = elapsed_ms / 20;

    return ms < POLL_MS ? POLL_MS : ms < POLL_MAX_MS ? (unsigned)ms : POLL_MAX_MS;
}

static int follow(const struct migration *m)
{
    uint64_t last_ms = 0;

    while (now_ms() < m->started_ms + MOVE_MS) {
        json_t *envelope, *data;
        int code = ask_data("status", json_object(), &envelope, &data);
        if (code != EXIT_DONE)
            return code;
        const json_t *move = find_move(data, m->ticket);
        const json_t *guest = find_named(json_object_get(data, "guests"), m->name);
        if (move) {
            print_progress(move, &last_ms);
        } else {
            code = tell_end(envelope, guest, m);
            json_decref(envelope);
            return code;
        }
        json_decref(envelope);
        pause_ms(next_look_ms(now_ms() - m->started_ms));
    }
    return fail_locally(EXIT_OUTCOME_UNKNOWN, "outcome-unknown", "it still moves",
                        "it goes on: look with hactl status");
}

static bool is_on_slow(const char *word)
{
    return strcmp(word, "throttle") == 0 || strcmp(word, "pause") == 0 ||
           strcmp(word, "abort") == 0;
}

struct how {
    bool is_detached;
    bool is_forecast;
};

static int parse_migrate(const struct command *command, int argc, char **argv, json_t *args,
                         struct how *ret_how)
{
    static const struct option options[] = {{"to", required_argument, NULL, 't'},
                                            {"detach", no_argument, NULL, 'd'},
                                            {"max-downtime", required_argument, NULL, 'm'},
                                            {"deadline", required_argument, NULL, 'l'},
                                            {"on-slow", required_argument, NULL, 's'},
                                            {"forecast", no_argument, NULL, 'f'},
                                            {NULL, 0, NULL, 0}};
    uint64_t ms = 0;
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 't')
            json_object_set_new(args, "to", json_string(optarg));
        else if (option == 'd')
            ret_how->is_detached = true;
        else if (option == 'f')
            ret_how->is_forecast = true;
        else if (option == 'm' && parse_ms(optarg, 600000, &ms) && ms > 0)
            json_object_set_new(args, "max_downtime_ms", json_integer((json_int_t)ms));
        else if (option == 'l' && parse_ms(optarg, 86400000, &ms) && ms > 0)
            json_object_set_new(args, "deadline_ms", json_integer((json_int_t)ms));
        else if (option == 's' && is_on_slow(optarg))
            json_object_set_new(args, "on_slow", json_string(optarg));
        else
            return usage_error(command,
                               "\"%s\" is not an option, or its value is none of its values",
                               argv[optind - 1]);
    }
    if (optind + 1 != argc)
        return usage_error(command, "one guest is expected");
    json_object_set_new(args, "guest", json_string(argv[optind]));
    return EXIT_DONE;
}

static int run_migrate(const struct command *command, int argc, char **argv)
{
    struct migration m = {.started_ms = now_ms()};
    json_t *args = json_object(), *envelope, *data;
    struct how how = {0};

    int code = parse_migrate(command, argc, argv, args, &how);
    if (code != EXIT_DONE) {
        json_decref(args);
        return code;
    }
    if (how.is_forecast)
        return run_forecast(args);
    code = ask_data("migrate", args, &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    m.ticket = number_of(data, "op");
    snprintf(m.name, sizeof(m.name), "%s", text_of(data, "guest"));
    snprintf(m.from, sizeof(m.from), "%s", text_of(data, "from"));
    snprintf(m.to, sizeof(m.to), "%s", text_of(data, "to"));
    if (how.is_detached && is_json)
        print_envelope(envelope);
    else if (how.is_detached)
        printf("operation %" PRIu64 ": %s moves from %s to %s; hactl status follows it, hactl "
               "cancel %" PRIu64 " ends it\n",
               m.ticket, m.name, m.from, m.to, m.ticket);
    json_decref(envelope);
    return how.is_detached ? EXIT_DONE : follow(&m);
}

/* ---- migrations --------------------------------------------------------------------------------
 */

/* The guest's own number, else its source's. */
static void pause_text(const json_t *move, char *text, size_t size)
{
    const json_t *pause = json_object_get(move, "pause_us");
    uint64_t us =
        number_of(pause, "guest") ? number_of(pause, "guest") : number_of(pause, "source");

    if (us == 0 || strcmp(text_of(move, "outcome"), "moved") != 0)
        snprintf(text, size, "-");
    else
        snprintf(text, size, "%" PRIu64 ".%" PRIu64 " ms", us / 1000, us / 100 % 10);
}

static void forecast_text(const json_t *move, char *text, size_t size)
{
    const json_t *forecast = json_object_get(move, "forecast");

    if (!json_is_object(forecast))
        snprintf(text, size, "-");
    else
        snprintf(text, size, "%.1f s, %" PRIu64 " ms", (double)number_of(forecast, "time_ms") / 1e3,
                 number_of(forecast, "pause_ms"));
}

#define COLUMNS 9u
#define CELL    64u

static void fill_row(const json_t *move, char (*cells)[CELL])
{
    time_t seconds = (time_t)(number_of(move, "began_wall_ms") / 1000);
    uint64_t took_ms = number_of(move, "ended_wall_ms") - number_of(move, "began_wall_ms");
    struct tm local;

    localtime_r(&seconds, &local);
    strftime(cells[0], CELL, "%Y-%m-%d %H:%M:%S", &local);
    snprintf(cells[1], CELL, "%.63s", text_of(move, "guest"));
    snprintf(cells[2], CELL, "%.28s > %.28s", text_of(move, "from"), text_of(move, "to"));
    snprintf(cells[3], CELL, "%s", text_of(move, "outcome"));
    snprintf(cells[4], CELL, "%.1f s", (double)took_ms / 1e3);
    snprintf(cells[5], CELL, "%" PRIu64, number_of(move, "rounds"));
    snprintf(cells[6], CELL, "%" PRIu64 " / %" PRIu64, number_of(move, "raw_bytes") >> 20,
             number_of(move, "wire_bytes") >> 20);
    pause_text(move, cells[7], CELL);
    forecast_text(move, cells[8], CELL);
}

static void print_migrations(const json_t *list)
{
    static const char *const header[COLUMNS] = {"BEGAN",  "GUEST",      "WAY",   "OUTCOME", "TIME",
                                                "ROUNDS", "MIB / WIRE", "PAUSE", "FORECAST"};
    size_t count = json_array_size(list), i;
    char(*texts)[CELL] = calloc(count * COLUMNS + 1, sizeof(*texts));
    const char **cells = calloc(count * COLUMNS + 1, sizeof(*cells));
    const json_t *move;

    json_array_foreach(list, i, move) fill_row(move, &texts[i * COLUMNS]);
    for (i = 0; i < count * COLUMNS; i++)
        cells[i] = texts[i];
    print_table(header, COLUMNS, cells, (unsigned)count);
    json_array_foreach(list, i, move)
    {
        if (text_of(move, "reason")[0])
            printf("%s did not move: %s\n", text_of(move, "guest"), text_of(move, "reason"));
    }
    free(cells);
    free(texts);
}

static int run_migrations(const struct command *command, int argc, char **argv)
{
    json_t *envelope, *data;
    uint64_t count = 20;

    if (argc != 1 && !(argc == 3 && strcmp(argv[1], "--count") == 0 &&
                       parse_number(argv[2], 1000, &count) && count > 0))
        return usage_error(command, "--count takes a number up to 1000");
    int code =
        ask_data("migrations", json_pack("{s:I}", "count", (json_int_t)count), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    if (is_json)
        print_envelope(envelope);
    else
        print_migrations(json_object_get(data, "migrations"));
    json_decref(envelope);
    return EXIT_DONE;
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

struct failover {
    const char *name;
    char from[128];
    uint64_t epoch;
};

/* Is the guest still the copy that f began with, and its owner not proven dead? */
static bool is_owner_unclean(const json_t *data, const struct failover *f)
{
    const json_t *guest = find_named(json_object_get(data, "guests"), f->name);
    const json_t *node = find_named(json_object_get(data, "nodes"), f->from);

    return guest && number_of(guest, "epoch") == f->epoch &&
           strcmp(text_of(node, "status"), "unclean") == 0;
}

static bool is_still_there(const json_t *data, const struct failover *f)
{
    const json_t *guest = find_named(json_object_get(data, "guests"), f->name);

    return guest && number_of(guest, "epoch") == f->epoch &&
           strcmp(text_of(guest, "phase"), "free") != 0;
}

/* While the owner is gone and not proven dead, nothing may start. It may come back alive: then its
 * copy is there as before, and is to be asked for again (*ret_is_there). */
static int wait_for_owner(const struct failover *f, bool *ret_is_there)
{
    uint64_t end_ms = now_ms() + FAILOVER_MS;

    while (now_ms() < end_ms) {
        json_t *envelope, *data;
        int code = ask_data("status", json_object(), &envelope, &data);
        if (code != EXIT_DONE)
            return code;
        bool is_unclean = is_owner_unclean(data, f);
        *ret_is_there = is_still_there(data, f);
        json_decref(envelope);
        if (!is_unclean)
            return EXIT_DONE;
        pause_ms(POLL_MS);
    }
    return fail_locally(EXIT_OUTCOME_UNKNOWN, "outcome-unknown",
                        "its owner is gone and not yet proven dead",
                        "hactl explain names what is waited for");
}

/* Destroys the copy of one guest, or waits for the proof that its owner is dead. */
static int destroy_copy(const struct failover *f)
{
    json_t *envelope, *data;
    bool is_there = true;

    while (is_there) {
        int code = ask_data("failover", json_pack("{s:s}", "guest", f->name), &envelope, &data);
        if (code != EXIT_DONE)
            return code;
        bool is_waiting = text_of(data, "waiting_for")[0] != '\0';
        if (is_waiting && !is_json)
            printf("%s: %s\n", f->name, text_of(data, "text"));
        json_decref(envelope);
        if (!is_waiting)
            return EXIT_DONE;
        code = wait_for_owner(f, &is_there);
        if (code != EXIT_DONE)
            return code;
    }
    return EXIT_DONE;
}

static int begin_failover(struct failover *f)
{
    json_t *envelope, *data;
    char fix[160];

    int code = ask_data("guest-show", json_pack("{s:s}", "guest", f->name), &envelope, &data);
    if (code != EXIT_DONE)
        return code;
    bool is_free = strcmp(text_of(data, "phase"), "free") == 0;
    snprintf(f->from, sizeof(f->from), "%s", text_of(data, "node"));
    f->epoch = number_of(data, "epoch");
    json_decref(envelope);
    snprintf(fix, sizeof(fix), "hactl explain %.100s", f->name);
    if (is_free)
        return fail_locally(EXIT_REFUSED, "refused",
                            "it runs nowhere: there is nothing to fail over", fix);
    return destroy_copy(f);
}

/* Waits for each guest's next copy and says where it runs. */
static int end_failover(const struct failover *list, size_t count)
{
    json_t *done = json_array(), *envelope = NULL, *last = NULL;
    int code = EXIT_DONE;

    for (size_t i = 0; i < count && code == EXIT_DONE; i++) {
        struct guest_wait wanted = {.guest = list[i].name,
                                    .phase = "running",
                                    .epoch_min = list[i].epoch + 1,
                                    .timeout_ms = FAILOVER_MS};
        const json_t *guest;
        code = wait_guest(&wanted, &envelope, &guest);
        if (code != EXIT_DONE)
            break;
        json_array_append_new(done, json_pack("{s:s, s:s, s:s}", "guest", list[i].name, "from",
                                              list[i].from, "node", text_of(guest, "node")));
        if (!is_json)
            printf("%s runs on %s\n", list[i].name, text_of(guest, "node"));
        json_decref(last);
        last = envelope;
    }
    if (code == EXIT_DONE && is_json)
        print_document(last, json_pack("{s:O}", "guests", done), NULL);
    json_decref(last);
    json_decref(done);
    return code;
}

static int failover_guest(const char *name, const json_t *guest, bool is_sure)
{
    struct failover f = {.name = name};
    char what[512];

    snprintf(what, sizeof(what), "%s: %s. Its memory will be lost.", name, text_of(guest, "text"));
    if (guest && !is_sure && !typed_name(what, name))
        return EXIT_REFUSED;
    int code = begin_failover(&f);
    return code == EXIT_DONE ? end_failover(&f, 1) : code;
}

/* All of them are destroyed before the first is waited for. */
static int failover_node(const char *node, const json_t *guests, bool is_sure)
{
    struct failover *list = calloc(json_array_size(guests) + 1, sizeof(*list));
    char what[256];
    const json_t *guest;
    size_t i, count = 0;
    int code = list ? EXIT_DONE : EXIT_OUTCOME_UNKNOWN;

    snprintf(what, sizeof(what),
             "All guests of %.100s are destroyed there and started elsewhere; "
             "their memory is lost.",
             node);
    if (code == EXIT_DONE && !is_sure && !typed_name(what, node))
        code = EXIT_REFUSED;
    json_array_foreach(guests, i, guest)
    {
        if (code != EXIT_DONE || strcmp(text_of(guest, "node"), node) != 0 ||
            strcmp(text_of(guest, "phase"), "free") == 0)
            continue;
        list[count].name = text_of(guest, "name");
        code = begin_failover(&list[count++]);
    }
    if (code == EXIT_DONE)
        code = end_failover(list, count);
    free(list);
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
    const json_t *guest = find_named(json_object_get(data, "guests"), argv[1]);
    bool is_node = !guest && find_named(json_object_get(data, "nodes"), argv[1]);
    code = is_node ? failover_node(argv[1], json_object_get(data, "guests"), is_sure)
                   : failover_guest(argv[1], guest, is_sure);
    json_decref(envelope);
    return code;
}

const struct command move_commands[] = {
    {"migrate", "Move a running guest live, encrypted and compressed",
     "GUEST [--to NODE] [--detach] [--max-downtime TIME] [--deadline TIME] "
     "[--on-slow HOW] [--forecast]",
     "  --to NODE            default: the eligible node with most free memory\n"
     "  --detach             begin and return; hactl status shows it, hactl cancel ends it\n"
     "  --max-downtime TIME  the pause it may cost: kept, or the guest stays where it is\n"
     "  --deadline TIME      given up after that; the guest then goes on where it was\n"
     "  --on-slow throttle   a guest that writes too fast is slowed down (default)\n"
     "  --on-slow pause      it is paused for as long as it takes, longer than allowed\n"
     "  --on-slow abort      the migration is given up\n"
     "  --forecast           say what it would take, move nothing\n\n"
     "Example: hactl migrate web1 --to n2\n",
     run_migrate},
    {"migrations", "Show how migrations went: time, pause, bytes, what was foreseen", "[--count N]",
     "  --count N   the newest N (default 20)\n\n"
     "The pause is the guest's own where it tells one, else what its source saw. A forecast is "
     "shown\n"
     "when one was asked for in the ten minutes before.\n",
     run_migrations},
    {"failover", "Move by force: destroy with proof, start elsewhere; memory is lost",
     "GUEST|NODE [--yes]",
     "Asks for the name to be typed unless --yes. If the owner is gone, waits for the proof that\n"
     "it is dead: nothing starts without it.\n",
     run_failover},
    {"cancel", "End an operation; the guest goes on where it was", "OPERATION",
     "Example: hactl cancel 1042\n", run_cancel},
    {NULL, NULL, NULL, NULL, NULL},
};
