/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-sim: runs seeds and says what it found. tests/sim/run is its front.
 */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/fds.h"
#include "tests/sim/sim.h"

void sim_say(uint32_t node, const char *fmt, ...)
{
    char line[600];
    va_list args;

    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    if (node)
        printf("[%10.6f] n%u  %s\n", (double)sim.now / 1e9, node, line);
    else
        printf("[%10.6f] --  %s\n", (double)sim.now / 1e9, line);
}

/* All that can be planted. `tests/sim/run --plants` compares them with plants.txt and the sources.
 */
static const char *const plants[] = {
    "device-lies",         "operator-lies",        "watchdog-never-fires",
    "pause-lies",          "keeper-always-pets",   "arm-forgets-device",
    "disk-lies",           "disk-never-asked",     "handover-undrained",
    "destroy-leaves-it",   "entry-differs",        "state-differs",
    "nothing-starts",      "guests-hop",           "gentle-cuts",
    "gentle-power",        "fence-storm",          "version-ignored",
    "acts-at-once",        "aims-anywhere",        "places-anywhere",
    "hamgrd-gives-up",     "wall-stands",          "older-memory",
    "next-entry-anywhere", "next-report-anywhere", "refused-silently"};

#define PLANTS (sizeof(plants) / sizeof(plants[0]))

bool sim_has_plant(const char *name)
{
    return sim.options.plant && strcmp(sim.options.plant, name) == 0;
}

/* A seed's ten minutes end with 100 to 300 entries: with the production's 2048 between snapshots
 * none would ever be taken, and no member would ever be fed one. Two of three clusters take them
 * often and keep little of the log in memory. */
static void choose_snapshots(uint64_t seed)
{
    static const struct {
        uint32_t every, ring;
    } choices[] = {{0, 0}, {48, 256}, {16, 128}};

    sim.snapshot_every = choices[seed % 3].every;
    sim.ring_entries = choices[seed % 3].ring;
}

void sim_run(const struct sim_options *options, struct sim_result *ret_result)
{
    memset(&sim, 0, sizeof(sim));
    memset(ret_result, 0, sizeof(*ret_result));
    sim.options = *options;
    sim.result = ret_result;
    sim.rng.state = options->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    sim.hash = options->seed;
    sim_sched_reset();
    sim_cover_begin();
    sim_fds_reset();
    sim_links_reset();
    sim_streams_reset();
    sim_net_reset();
    sim_memo_reset();
    sim_corners_reset();
    sim_machine_reset();
    sim_check_reset();
    sim_fencer_reset();
    if (!sim_script_is_on() && !sim_matrix_is_on())
        choose_snapshots(options->seed);
    sim_world_open();
    sim.heal_at = options->chaos_ns;
    sim.end_at = NEVER;
    if (sim_script_is_on()) {
        sim.heal_at = NEVER;
        sim.end_at = sim_script_end_ns();
        sim_script_begin();
    } else if (sim_matrix_is_on()) {
        sim.heal_at = NEVER;
        sim_matrix_begin();
    } else {
        sim_faults_begin();
        sim_corners_begin();
        sim_check_moves_begin();
    }
    sim_events_reset();
    while (sim.now < sim.end_at && sim_step(sim.end_at)) {
        if (options->is_told)
            sim_events_look();
        if (sim_matrix_is_on())
            sim_matrix_look();
        if (ret_result->violations > 0 && ret_result->hash == 0)
            ret_result->hash = sim.hash; /* also of a story that goes on behind it */
        if (ret_result->violations > 0 && !options->is_traced)
            break;
    }
    if (sim_script_is_on())
        sim_script_tell_end();
    else if (ret_result->violations == 0)
        sim_check_end();
    if (ret_result->hash == 0)
        ret_result->hash = sim.hash;
    ret_result->sim_ns = sim.now;
    ret_result->faults = sim.fault_count;
    sim_world_close();
}

/* ---- the command line --------------------------------------------------------------------------
 */

#define CHAOS_NS (600 * NS_S)                  /* of a seed, if --seconds says nothing else */
#define SEED_MAX UINT64_C(1000000000000000000) /* a stride behind it wraps nothing */
#define NO_CELL  UINT64_MAX

struct run {
    struct sim_options options;
    uint64_t from, to, stride;
    const char *script;
    uint64_t matrix_cell; /* NO_CELL: all */
    bool is_matrix;
    bool is_shrinking, is_covered, is_hashed;
    const char *until; /* NULL: all seeds are run */
    bool is_found;
    uint32_t twice_every; /* each so-many-th seed runs twice; 0 none */
    uint64_t seeds, faults, violations;
    double hours;
};

static void usage(FILE *out)
{
    fputs("Usage: hamgr-sim [OPTIONS]\n"
          "Simulated clusters; tests/sim/run is its front, tests/sim/README.md tells more.\n\n"
          "  --seeds A..B     runs these seeds\n"
          "  --stride N       only each Nth of them\n"
          "  --seed N         runs one\n"
          "  --trace          tells its story\n"
          "  --events         tells each change for machines, see events.c\n"
          "  --shrink N       finds a smaller set of faults that still breaks seed N\n"
          "  --keep N,N-N     only the faults with these numbers; or none\n"
          "  --faults A,B     only these kinds\n"
          "  --no-corners     without what corner.c adds to a quarter of the seeds\n"
          "  --until I1,L1    stops at the first violation of one of these\n"
          "  --plant NAME     with a planted failure that a check must find\n"
          "  --list-plants    their names\n"
          "  --nodes N        2 to 9; else by the seed\n"
          "  --seconds N      of chaos, 30 to 86400 (600)\n"
          "  --script FILE    plays what the file says, see script.h\n"
          "  --coverage       what was reached, for tests/sim/run\n"
          "  --hash           each seed's trace hash\n"
          "  --matrix         migrations cut at each step in each way; with --trace --cell N one\n",
          out);
}

static void set_keep(struct sim_options *options, uint32_t first, uint32_t last, bool is_on)
{
    for (uint32_t i = first; i <= last && i < SIM_KEEP; i++) {
        uint64_t bit = UINT64_C(1) << (i % 64);
        options->keep[i / 64] = (options->keep[i / 64] & ~bit) | (is_on ? bit : 0);
    }
}

/* Digits and nothing else: no sign, no blank, no wrap. */
static bool parse_number(const char *text, char **ret_end, uint64_t low, uint64_t high,
                         uint64_t *ret)
{
    errno = 0;
    if (text[0] < '0' || text[0] > '9')
        return false;
    *ret = strtoull(text, ret_end, 10);
    return errno == 0 && *ret >= low && *ret <= high;
}

static bool parse_whole(const char *text, uint64_t low, uint64_t high, uint64_t *ret)
{
    char *end = NULL;

    return parse_number(text, &end, low, high, ret) && *end == '\0';
}

static bool parse_keep(struct sim_options *options, const char *text)
{
    char *end = NULL;

    options->has_keep = true;
    if (strcmp(text, "none") == 0)
        return true;
    while (*text) {
        uint64_t first, last;
        if (!parse_number(text, &end, 0, UINT32_MAX - 1, &first))
            return false;
        last = first;
        if (*end == '-' && !parse_number(end + 1, &end, first, UINT32_MAX - 1, &last))
            return false;
        set_keep(options, (uint32_t)first, (uint32_t)last, true);
        if (*end && (*end != ',' || !end[1]))
            return false;
        text = *end == ',' ? end + 1 : end;
    }
    return end != NULL;
}

/* "all", or names of kinds. */
static bool parse_faults(struct sim_options *options, const char *text)
{
    if (strcmp(text, "all") == 0)
        return true;
    for (size_t length; *text; text += length + (text[length] == ',')) {
        uint8_t fault = 0;
        length = strcspn(text, ",");
        while (fault < SIM_F_COUNT && (strlen(sim_fault_name(fault)) != length ||
                                       strncmp(sim_fault_name(fault), text, length) != 0))
            fault++;
        if (fault == SIM_F_COUNT)
            return false;
        options->fault_mask |= UINT64_C(1) << fault;
    }
    return options->fault_mask != 0;
}

static bool parse_plant(struct sim_options *options, const char *name)
{
    options->plant = name;
    for (size_t i = 0; i < PLANTS; i++) {
        if (strcmp(plants[i], name) == 0)
            return true;
    }
    return false;
}

static void print_keep(const struct sim_options *options)
{
    const char *comma = "";

    for (uint32_t i = 0; i < SIM_KEEP; i++) {
        uint32_t last = i;
        if (!(options->keep[i / 64] >> (i % 64) & 1))
            continue;
        while (last + 1 < SIM_KEEP && (options->keep[(last + 1) / 64] >> ((last + 1) % 64) & 1))
            last++;
        printf(last > i ? "%s%u-%u" : "%s%u", comma, i, last);
        comma = ",";
        i = last;
    }
    if (*comma == '\0')
        printf("none");
}

static void print_faults(const struct sim_options *options)
{
    const char *comma = " --faults ";

    for (uint8_t fault = 0; fault < SIM_F_COUNT; fault++) {
        if (!(options->fault_mask >> fault & 1))
            continue;
        printf("%s%s", comma, sim_fault_name(fault));
        comma = ",";
    }
}

static void print_hash(uint64_t seed, const struct sim_result *result)
{
    printf("seed %llu hash %016llx\n", (unsigned long long)seed, (unsigned long long)result->hash);
}

/* All that was given and changes what happens: the line must give the same run, byte for byte. */
static void print_replay(const struct sim_options *options)
{
    printf("replay: tests/sim/run --seed %llu --trace", (unsigned long long)options->seed);
    if (options->plant)
        printf(" --plant %s", options->plant);
    if (options->nodes)
        printf(" --nodes %u", options->nodes);
    if (options->chaos_ns != CHAOS_NS)
        printf(" --seconds %llu", (unsigned long long)(options->chaos_ns / NS_S));
    print_faults(options);
    if (!options->has_corners)
        printf(" --no-corners");
    if (options->has_keep) {
        printf(" --keep ");
        print_keep(options);
    }
    printf("\n");
}

/* ---- shrinking ---------------------------------------------------------------------------------
 */

/* "I1: ..." of I3,I1, but not of I10. */
static bool is_named(const char *list, const char *violation)
{
    size_t length = strcspn(violation, ":");

    for (; *list; list += strcspn(list, ","), list += *list == ',') {
        if (strcspn(list, ",") == length && strncmp(list, violation, length) == 0)
            return true;
    }
    return false;
}

static bool is_still_broken(const struct sim_options *options, const char *rule)
{
    struct sim_result result;

    sim_run(options, &result);
    return result.violations > 0 && is_named(rule, result.first);
}

/* Leaves out ever smaller pieces, as long as the same invariant breaks without them. */
static int shrink(struct run *run)
{
    struct sim_options best = run->options;
    struct sim_result first;
    char rule[16];

    best.seed = run->from;
    sim_run(&best, &first);
    snprintf(rule, sizeof(rule), "%.*s", (int)strcspn(first.first, ":"), first.first);
    if (first.violations == 0) {
        printf("seed %llu breaks nothing\n", (unsigned long long)best.seed);
        return 0;
    }
    if (!best.has_keep) {
        best.has_keep = true;
        set_keep(&best, 0, SIM_KEEP - 1, true);
    }
    for (uint32_t size = SIM_KEEP / 2; size > 0; size /= 2) {
        for (uint32_t at = 0; at < SIM_KEEP; at += size) {
            struct sim_options less = best;
            set_keep(&less, at, at + size - 1, false);
            if (is_still_broken(&less, rule))
                best = less;
        }
    }
    sim_run(&best, &first);
    if (run->is_hashed)
        print_hash(best.seed, &first);
    printf("seed %llu with %u faults: %s\n", (unsigned long long)best.seed, first.faults,
           first.first);
    print_replay(&best);
    return 1;
}

/* ---- running -----------------------------------------------------------------------------------
 */

static void run_one(struct run *run)
{
    struct sim_result result, again;

    sim_run(&run->options, &result);
    run->seeds++;
    run->hours += (double)result.sim_ns / 3.6e12;
    run->faults += result.faults;
    run->violations += result.violations;
    if (run->is_hashed)
        print_hash(run->options.seed, &result);
    if (result.violations > 0) {
        printf("seed %llu: %s\n", (unsigned long long)run->options.seed, result.first);
        printf("  ");
        print_replay(&run->options);
        run->is_found = run->until && is_named(run->until, result.first);
    }
    if (run->twice_every && run->options.seed % run->twice_every == 0) {
        sim_run(&run->options, &again);
        if (again.hash != result.hash) {
            printf("seed %llu: two runs differ: the simulator is not deterministic\n",
                   (unsigned long long)run->options.seed);
            run->violations++;
        }
    }
    fflush(stdout);
}

static bool parse_range(struct run *run, const char *text)
{
    char *end = NULL;

    return parse_number(text, &end, 1, SEED_MAX, &run->from) && strncmp(end, "..", 2) == 0 &&
           parse_whole(end + 2, run->from, SEED_MAX, &run->to);
}

static bool parse_seed(struct run *run, const char *text)
{
    bool is_fine = parse_whole(text, 1, SEED_MAX, &run->from);

    run->to = run->from;
    return is_fine;
}

/* I1,L1 and so on; compared with what findings begin with. */
static bool is_list_of_rules(const char *text)
{
    size_t length = strspn(text, "IL0123456789,");

    return length > 0 && text[length] == '\0' && strncmp(text, ",", 1) != 0;
}

static bool parse_nodes(struct sim_options *options, const char *text)
{
    uint64_t nodes = 0;
    bool is_fine = parse_whole(text, 2, SIM_NODES, &nodes);

    options->nodes = (uint32_t)nodes;
    return is_fine;
}

static bool parse_seconds(struct sim_options *options, const char *text)
{
    uint64_t seconds = 0;
    bool is_fine = parse_whole(text, 30, 86400, &seconds);

    options->chaos_ns = seconds * NS_S;
    return is_fine;
}

static int run_script(struct run *run)
{
    char text[200];
    struct sim_result result;
    const char *why = sim_script_read(run->script, text, sizeof(text));

    if (why) {
        fprintf(stderr, "%s: %s\n", run->script, why);
        return 2;
    }
    run->options.seed = 1;
    sim_run(&run->options, &result);
    if (result.violations > 0)
        printf("violation %s\n", result.first);
    return result.violations > 0;
}

static bool parse_option(struct run *run, int option, const char *value)
{
    switch (option) {
    case 'r':
        return parse_range(run, value);
    case 'x':
        run->is_shrinking = true;
        return parse_seed(run, value);
    case 's':
        return parse_seed(run, value);
    case 'd':
        return parse_whole(value, 1, SEED_MAX, &run->stride);
    case 't':
        run->options.is_traced = true;
        return true;
    case 'e':
        run->options.is_told = true;
        return true;
    case 'k':
        return parse_keep(&run->options, value);
    case 'p':
        return parse_plant(&run->options, value);
    case 'l':
        for (size_t i = 0; i < PLANTS; i++)
            puts(plants[i]);
        exit(0);
    case 'h':
        usage(stdout);
        exit(0);
    case 'n':
        return parse_nodes(&run->options, value);
    case 'S':
        return parse_seconds(&run->options, value);
    case 'f':
        return parse_faults(&run->options, value);
    case 'u':
        run->until = value;
        return is_list_of_rules(value);
    case 'c':
        run->is_covered = true;
        return true;
    case 'o':
        run->options.has_corners = false;
        return true;
    case 'M':
        run->is_matrix = true;
        return true;
    case 'C':
        return parse_whole(value, 0, sim_matrix_cells() - 1, &run->matrix_cell);
    case 'F':
        run->script = value;
        return true;
    case 'H':
        run->is_hashed = true;
        return true;
    default:
        return false;
    }
}

/* What the values are that may be wrong. */
static const char *expected(int option)
{
    switch (option) {
    case 'r':
        return "A..B with 1 <= A <= B <= 10^18";
    case 'x':
    case 's':
    case 'd':
        return "a number from 1 to 10^18";
    case 'k':
        return "numbers and spans of them like 3,8-12, or none";
    case 'p':
        return "a name that --list-plants tells";
    case 'n':
        return "a number from 2 to 9";
    case 'S':
        return "seconds from 30 to 86400";
    case 'f':
        return "all, or names of faults like isolate,power (see faults.c)";
    case 'u':
        return "names of rules like I1,L1";
    default:
        return "the number of a cell, which --matrix tells with each finding";
    }
}

static int refuse(const char *what)
{
    fprintf(stderr, "hamgr-sim: %s; --help tells more\n", what);
    return 2;
}

/* NULL if it is clear what to do. */
static const char *unclear(const struct run *run, unsigned modes)
{
    if (modes != 1)
        return "expected one of --seeds, --seed, --shrink, --matrix, --script";
    if (run->matrix_cell != NO_CELL && !run->is_matrix)
        return "--cell goes with --matrix";
    return NULL;
}

/* Reads the command line; 0, or 2 with a line of why. */
static int parse(struct run *run, int argc, char **argv)
{
    static const struct option table[] = {{"seeds", required_argument, NULL, 'r'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"stride", required_argument, NULL, 'd'},
                                          {"trace", no_argument, NULL, 't'},
                                          {"events", no_argument, NULL, 'e'},
                                          {"shrink", required_argument, NULL, 'x'},
                                          {"keep", required_argument, NULL, 'k'},
                                          {"plant", required_argument, NULL, 'p'},
                                          {"list-plants", no_argument, NULL, 'l'},
                                          {"nodes", required_argument, NULL, 'n'},
                                          {"faults", required_argument, NULL, 'f'},
                                          {"until", required_argument, NULL, 'u'},
                                          {"seconds", required_argument, NULL, 'S'},
                                          {"matrix", no_argument, NULL, 'M'},
                                          {"cell", required_argument, NULL, 'C'},
                                          {"script", required_argument, NULL, 'F'},
                                          {"coverage", no_argument, NULL, 'c'},
                                          {"hash", no_argument, NULL, 'H'},
                                          {"no-corners", no_argument, NULL, 'o'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int option, at = 0;
    unsigned modes = 0;

    while ((option = getopt_long(argc, argv, "", table, &at)) != -1) {
        if (option == '?')
            return 2;
        if (!parse_option(run, option, optarg)) {
            fprintf(stderr, "hamgr-sim: --%s: expected %s, not \"%s\"\n", table[at].name,
                    expected(option), optarg);
            return 2;
        }
        modes += strchr("rsxMF", option) != NULL;
    }
    if (optind < argc) {
        fprintf(stderr, "hamgr-sim: unexpected \"%s\"\n", argv[optind]);
        return 2;
    }
    const char *why = unclear(run, modes);
    return why ? refuse(why) : 0;
}

int main(int argc, char **argv)
{
    static struct run run = {.options = {.chaos_ns = CHAOS_NS, .has_corners = true},
                             .stride = 1,
                             .twice_every = 100,
                             .matrix_cell = NO_CELL};
    int code = parse(&run, argc, argv);

    if (code != 0)
        return code;
    if (run.script)
        return run_script(&run);
    if (run.is_matrix)
        return sim_matrix(&run.options, run.matrix_cell);
    if (run.is_shrinking)
        return shrink(&run);
    for (uint64_t seed = run.from; seed <= run.to && !run.is_found; seed += run.stride) {
        run.options.seed = seed;
        run_one(&run);
    }
    if (run.is_covered)
        sim_cover_print();
    printf("%llu seeds, %.1f simulated hours, %llu faults, %llu violations\n",
           (unsigned long long)run.seeds, run.hours, (unsigned long long)run.faults,
           (unsigned long long)run.violations);
    return run.violations > 0;
}
