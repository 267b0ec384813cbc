/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads scripts of simulated worlds (script.h) and checks that they can be played.
 */
#include <stdlib.h>
#include <string.h>

#include "hamgr/core/entry.h"
#include "tests/sim/script.h"

#define NS_MS      UINT64_C(1000000)
#define WORDS_MAX  7u
#define TIME_MAX_S 86400u

static const char *bad(char *text, size_t size, uint32_t number, const char *what)
{
    snprintf(text, size, "line %u: %s", number, what);
    return text;
}

/* Digits and nothing else: strtoull() takes blanks and signs, too, and more digits than fit. */
static bool number_of(const char *word, uint64_t low, uint64_t high, uint64_t *ret)
{
    *ret = strtoull(word, NULL, 10);
    return word[0] != '\0' && strspn(word, "0123456789") == strlen(word) && *ret >= low &&
           *ret <= high;
}

int script_guest(const struct script *script, const char *name)
{
    for (uint32_t i = 0; i < script->guest_count; i++) {
        if (strcmp(script->guests[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

static const char *read_guest(struct script *script, char **word)
{
    static const char *const wants[] = {"absent", "started", "stopped"};
    uint32_t i = script->guest_count;
    uint64_t value = 0;

    if (i == SIM_GUESTS || strlen(word[1]) >= sizeof(script->guests[0].name))
        return "too many guests, or too long a name";
    if (script_guest(script, word[1]) >= 0)
        return "this guest was named before";
    snprintf(script->guests[i].name, sizeof(script->guests[i].name), "%s", word[1]);
    while (value < 3 && strcmp(wants[value], word[2]) != 0)
        value++;
    if (value == 3)
        return "expected absent, started or stopped";
    script->guests[i].is_absent = value == 0;
    script->guests[i].want = value == 1 ? HA_WANT_STARTED : HA_WANT_STOPPED;
    if (!number_of(word[3], 0, 1000, &value))
        return "expected a restart limit, 0 to 1000";
    script->guests[i].restart_max = (uint16_t)value;
    for (uint32_t kind = 0; kind < 3; kind++) {
        if (!number_of(word[4 + kind], 0, 1000000, &value))
            return "expected how many fail, 0 to 1000000";
        script->guests[i].fails[kind] = (uint32_t)value;
    }
    script->guest_count++;
    return NULL;
}

static const char *read_event(struct script *script, char **word, uint32_t count, uint32_t number)
{
    struct script_line *line = &script->lines[script->line_count];
    uint64_t ms;

    if (script->line_count == SCRIPT_LINES)
        return "too many lines";
    if (!number_of(word[1], 0, TIME_MAX_S * 1000u, &ms))
        return "expected a time in ms within a day";
    *line = (struct script_line){.at_ns = ms * NS_MS, .number = number};
    for (uint32_t i = 2; i < count && i < 5; i++) {
        if (strlen(word[i]) >= sizeof(line->word[0]))
            return "too long a word";
        snprintf(line->word[i - 2], sizeof(line->word[0]), "%s", word[i]);
    }
    script->line_count++;
    return NULL;
}

static const char *read_line(struct script *script, char **word, uint32_t count, uint32_t number)
{
    uint64_t value = 0;

    if (strcmp(word[0], "nodes") == 0 && count == 2) {
        if (!number_of(word[1], 2, SIM_NODES, &value))
            return "expected 2 to 9 nodes";
        script->node_count = (uint32_t)value;
    } else if (strcmp(word[0], "shutdown") == 0 && count == 2) {
        script->is_migrating = strcmp(word[1], "migrate") == 0;
        if (!script->is_migrating && strcmp(word[1], "stop") != 0)
            return "expected stop or migrate";
    } else if (strcmp(word[0], "fencing") == 0 && count == 2) {
        script->has_strip = strcmp(word[1], "strip") == 0;
        if (!script->has_strip && strcmp(word[1], "none") != 0)
            return "expected none or strip";
    } else if (strcmp(word[0], "guest") == 0 && count == 7) {
        return read_guest(script, word);
    } else if (strcmp(word[0], "at") == 0 && count >= 3 && count <= 5) {
        return read_event(script, word, count, number);
    } else if (strcmp(word[0], "end") == 0 && count == 2) {
        if (!number_of(word[1], 1, TIME_MAX_S * 1000u, &value))
            return "expected a time in ms within a day";
        script->end_ns = value * NS_MS;
    } else if (strcmp(word[0], "story") == 0 && count == 2) {
        if (!number_of(word[1], 0, TIME_MAX_S * 1000u, &value))
            return "expected a time in ms within a day";
        script->story_ns = value * NS_MS;
    } else {
        return "expected nodes, shutdown, fencing, guest, at, story or end, with its words";
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

static bool is_node(const struct script *script, const char *word)
{
    uint64_t value;

    return number_of(word, 1, script->node_count, &value);
}

static bool is_word_of(const char *words, const char *word)
{
    const char *at = strstr(words, word);
    size_t length = strlen(word);

    return at && length > 0 && (at == words || at[-1] == ' ') &&
           (at[length] == ' ' || at[length] == '\0');
}

static bool is_second_fine(const struct script *script, const struct verb *verb, const char *word)
{
    if (!verb->second)
        return word[0] == '\0';
    uint64_t value;
    if (strcmp(verb->second, "#") == 0)
        return number_of(word, 0, TIME_MAX_S * 1000u, &value);
    return strcmp(verb->second, "n") == 0 ? is_node(script, word) : is_word_of(verb->second, word);
}

/* Also finds the guest: only the verb tells whether a name is one's, for a guest may be called 1.
 */
static bool is_fine(const struct script *script, struct script_line *line)
{
    for (uint32_t i = 0; i < sizeof(VERBS) / sizeof(VERBS[0]); i++) {
        const struct verb *verb = &VERBS[i];
        if (strcmp(verb->name, line->word[0]) != 0)
            continue;
        line->guest = verb->first == 'g' ? script_guest(script, line->word[1]) : -1;
        bool is_first_fine = verb->first == 'n'   ? is_node(script, line->word[1])
                             : verb->first == 'g' ? line->guest >= 0
                                                  : line->word[1][0] == '\0';
        return is_first_fine && is_second_fine(script, verb, line->word[2]);
    }
    return false;
}

static const char *check(struct script *script, char *text, size_t size)
{
    for (uint32_t i = 0; i < script->line_count; i++) {
        if (!is_fine(script, &script->lines[i]))
            return bad(text, size, script->lines[i].number,
                       "no such verb, or not with these words");
    }
    return NULL;
}

/* Reads a line without its end; false behind the last one. *ret_why: why it can't be one, or NULL.
 */
static bool next_line(FILE *file, char *line, size_t size, const char **ret_why)
{
    size_t length = 0;
    int c = getc(file);

    *ret_why = NULL;
    if (c == EOF)
        return false;
    for (; c != EOF && c != '\n'; c = getc(file)) {
        if (c == '\0' || length + 1 == size) {
            *ret_why = c == '\0' ? "a NUL in it" : "too long";
            return true;
        }
        line[length++] = (char)c;
    }
    line[length] = '\0';
    return true;
}

static const char *read_words(struct script *script, char *line, uint32_t number)
{
    char *word[WORDS_MAX] = {0}, *rest = NULL;
    uint32_t count = 0;

    for (char *w = strtok_r(line, " ", &rest); w; w = strtok_r(NULL, " ", &rest)) {
        if (count == WORDS_MAX)
            return "too many words";
        word[count++] = w;
    }
    return count > 0 ? read_line(script, word, count, number) : NULL;
}

const char *script_read(FILE *file, struct script *script, char *text, size_t size)
{
    char line[256];
    uint32_t number = 0;
    const char *why = NULL;

    memset(script, 0, sizeof(*script));
    while (!why && next_line(file, line, sizeof(line), &why)) {
        number++;
        if (!why)
            why = read_words(script, line, number);
    }
    if (!why && (script->node_count == 0 || script->end_ns == 0))
        why = "`nodes` or `end` is missing";
    return why ? bad(text, size, number, why) : check(script, text, size);
}
