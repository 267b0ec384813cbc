/* SPDX-License-Identifier: Apache-2.0
 *
 * hactl: the operator's command. Finds the command in the table and runs it.
 */
#include "ctl/hactl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool is_json;
const struct command *current_command;

static const struct command *const tables[] = {show_commands, guest_commands,   move_commands,
                                               node_commands, cluster_commands, doctor_commands};

#define TABLE_COUNT (sizeof(tables) / sizeof(tables[0]))

static void print_command(const struct command *command, FILE *out)
{
    fprintf(out, "Usage: hactl %s %s\n%s.\n", command->name, command->usage, command->summary);
    if (command->help[0])
        fprintf(out, "\n%s", command->help);
}

int usage_error(const struct command *command, const char *fmt, ...)
{
    char words[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(words, sizeof(words), fmt, args);
    va_end(args);
    if (is_json) {
        char fix[256];
        snprintf(fix, sizeof(fix), "hactl %s %s", command->name, command->usage);
        return fail_locally(EXIT_USAGE, "usage", words, fix);
    }
    fprintf(stderr, "hactl %s: %s\n", command->name, words);
    fprintf(stderr, "Usage: hactl %s %s\n", command->name, command->usage);
    return EXIT_USAGE;
}

bool parse_number(const char *text, uint64_t max, uint64_t *ret_value)
{
    char *end;

    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end != '\0' || text[0] == '-' || value > max)
        return false;
    *ret_value = value;
    return true;
}

static bool parse_unit(const char *text, const char *const *units, const uint64_t *factors,
                       uint64_t max, uint64_t *ret_value)
{
    char *end;

    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || text[0] == '-')
        return false;
    for (unsigned i = 0; units[i]; i++) {
        if (strcmp(end, units[i]) == 0 && value <= max / factors[i]) {
            *ret_value = value * factors[i];
            return true;
        }
    }
    return false;
}

bool parse_ms(const char *text, uint64_t max_ms, uint64_t *ret_ms)
{
    static const char *const units[] = {"ms", "s", "m", "", NULL};
    static const uint64_t factors[] = {1, 1000, 60000, 1};

    return parse_unit(text, units, factors, max_ms, ret_ms);
}

bool parse_kib(const char *text, uint64_t *ret_kib)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", NULL};
    static const uint64_t factors[] = {1, 1024, 1024 * 1024};

    return parse_unit(text, units, factors, UINT64_C(1) << 40, ret_kib);
}

bool typed_name(const char *what, const char *name)
{
    char line[128];

    if (is_json || !isatty(STDIN_FILENO)) {
        snprintf(line, sizeof(line), "hactl %s --help names the option that says so",
                 current_command ? current_command->name : "");
        fail_locally(EXIT_REFUSED, "refused", what, line);
        return false;
    }
    printf("%s\nType \"%s\" to go on: ", what, name);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        return false;
    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, name) == 0)
        return true;
    fprintf(stderr, "hactl: that is not \"%s\": nothing was done\n", name);
    return false;
}

static void print_all(FILE *out)
{
    fputs("Usage: hactl [--json] COMMAND ...\n\n", out);
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        for (const struct command *c = tables[t]; c->name; c++)
            fprintf(out, "  %-20s %s\n", c->name, c->summary);
        fputs("\n", out);
    }
    fputs("hactl COMMAND --help tells more. Exit: 0 done, 2 usage, 3 refused, 4 no quorum,\n"
          "5 hamgrd does not answer, 6 outcome unknown, doctor: 7 warnings, 8 errors. See "
          "hactl(8).\n",
          out);
}

/* Words of name that argv begins with: 1 or 2, or 0. */
static int matches(const struct command *command, int argc, char **argv)
{
    const char *space = strchr(command->name, ' ');

    if (!space)
        return argc >= 1 && strcmp(argv[0], command->name) == 0;
    size_t first = (size_t)(space - command->name);
    return argc >= 2 && strlen(argv[0]) == first && strncmp(argv[0], command->name, first) == 0 &&
                   strcmp(argv[1], space + 1) == 0
               ? 2
               : 0;
}

static const struct command *find_command(int argc, char **argv, int *ret_words)
{
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        for (const struct command *c = tables[t]; c->name; c++) {
            *ret_words = matches(c, argc, argv);
            if (*ret_words)
                return c;
        }
    }
    return NULL;
}

/* Is this the first of a command's two words, as "guest" is? */
static bool is_first_word(const struct command *command, const char *word)
{
    size_t length = strlen(word);

    return strncmp(command->name, word, length) == 0 && command->name[length] == ' ';
}

static bool is_group_word(const char *word)
{
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        for (const struct command *c = tables[t]; c->name; c++) {
            if (is_first_word(c, word))
                return true;
        }
    }
    return false;
}

/* The commands that begin with that word. */
static void print_group(const char *word, FILE *out)
{
    fprintf(out, "Usage: hactl %s COMMAND ...\n\n", word);
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        for (const struct command *c = tables[t]; c->name; c++) {
            if (is_first_word(c, word))
                fprintf(out, "  %-20s %s\n", c->name, c->summary);
        }
    }
}

/* Edit distance of two short words (Levenshtein), for "did you mean". */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t width = strnlen(b, 62);

    for (size_t j = 0; j <= width; j++)
        row[j] = (unsigned)j;
    for (size_t i = 0; a[i] && i < 62; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < width; j++) {
            unsigned best = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            if (diagonal + 1 < best)
                best = diagonal + 1;
            if (row[j] + 1 < best)
                best = row[j] + 1;
            row[j + 1] = best;
        }
    }
    return row[width];
}

static int unknown_command(int argc, char **argv)
{
    char given[64], message[256], fix[64];
    const char *nearest = NULL;

    snprintf(given, sizeof(given), "%.30s%s%.30s", argv[0],
             argc > 1 && argv[1][0] != '-' ? " " : "",
             argc > 1 && argv[1][0] != '-' ? argv[1] : "");
    /* Further away is no typing error: 4 letters, or half of a short word. */
    unsigned half = (unsigned)strlen(given) / 2 + 1, least = half < 4 ? half : 4;
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        for (const struct command *c = tables[t]; c->name; c++) {
            unsigned d = distance(strchr(c->name, ' ') ? given : argv[0], c->name);
            if (d < least) {
                least = d;
                nearest = c->name;
            }
        }
    }
    snprintf(message, sizeof(message), "there is no command \"%s\"%s%s%s", given,
             nearest ? ": did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    bool is_group = is_group_word(argv[0]);
    snprintf(fix, sizeof(fix), "hactl %.30s%s--help", is_group ? argv[0] : "", is_group ? " " : "");
    return fail_locally(EXIT_USAGE, "usage", message, fix);
}

/* --json may stand anywhere; it is taken out. */
static int take_json(int argc, char **argv)
{
    int kept = 0;

    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            is_json = true;
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    return kept;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    int words = 0;

    argc = take_json(argc - 1, argv + 1);
    argv++;
    if (argc == 0 || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "help") == 0) {
        print_all(argc == 0 ? stderr : stdout);
        return argc == 0 ? EXIT_USAGE : EXIT_DONE;
    }
    if (strcmp(argv[0], "--version") == 0) {
        puts("hactl " HA_VERSION);
        return EXIT_DONE;
    }
    const struct command *command = find_command(argc, argv, &words);
    if (!command && !is_json && is_group_word(argv[0]) && (argc == 1 || wants_help(argc, argv))) {
        print_group(argv[0], argc == 1 ? stderr : stdout);
        return argc == 1 ? EXIT_USAGE : EXIT_DONE;
    }
    if (!command)
        return unknown_command(argc, argv);
    current_command = command;
    if (wants_help(argc, argv)) {
        print_command(command, stdout);
        return EXIT_DONE;
    }
    return command->run(command, argc - words + 1, argv + words - 1);
}
