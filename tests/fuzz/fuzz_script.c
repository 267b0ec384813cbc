/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: scripts of simulated worlds (tests/sim/script.h). What is accepted names only nodes
 * and guests that there are, within a day, and says the same when it is written down and read
 * again; what is refused has a reason.
 */
#include "tests/fuzz/fuzz.h"

#include "hamgr/core/entry.h"
#include "tests/sim/script.h"

#define DAY_MS    UINT64_C(86400000)
#define NS_MS     UINT64_C(1000000)
#define TEXT_SIZE 128u

static struct script script, again;

/* NULL, or why not. */
static const char *read_text(const char *bytes, size_t size, struct script *ret)
{
    static char text[TEXT_SIZE];
    FILE *file = fmemopen((void *)(uintptr_t)bytes, size, "r");

    REQUIRE(file);
    const char *why = script_read(file, ret, text, sizeof(text));
    fclose(file);
    REQUIRE(!why || (strlen(why) > 5 && strlen(why) < TEXT_SIZE));
    return why;
}

static bool is_node(const char *word)
{
    unsigned long number = strtoul(word, NULL, 10);

    return word[0] != '\0' && strspn(word, "0123456789") == strlen(word) && number >= 1 &&
           number <= script.node_count;
}

static bool has_end(const char *word, size_t size)
{
    return memchr(word, '\0', size) != NULL;
}

/* The line of that number in the text has the verb: none was split, none is counted twice. */
static bool is_where_it_says(const char *bytes, size_t size, const struct script_line *line)
{
    const char *at = bytes, *end = bytes + size;

    for (uint32_t n = 1; at && n < line->number; n++) {
        at = memchr(at, '\n', (size_t)(end - at));
        at = at ? at + 1 : NULL;
    }
    if (!at)
        return false;
    const char *next = memchr(at, '\n', (size_t)(end - at));
    size_t verb = strlen(line->word[0]), length = (size_t)((next ? next : end) - at);
    return memmem(at, length, line->word[0], verb) != NULL;
}

static void check_line(const struct script_line *line)
{
    static const char *const of_nodes[] = {"power",    "shutdown", "reboot",      "board",
                                           "net",      "kill",     "disk",        "freeze",
                                           "unfreeze", "fence",    "maintenance", "confirm-fenced"};
    bool is_of_node = false;

    for (uint32_t i = 0; i < 3; i++)
        REQUIRE(has_end(line->word[i], sizeof(line->word[i])));
    for (uint32_t i = 0; i < sizeof(of_nodes) / sizeof(of_nodes[0]); i++)
        is_of_node |= strcmp(of_nodes[i], line->word[0]) == 0;
    REQUIRE(line->guest < (int)script.guest_count);
    if (is_of_node)
        REQUIRE(is_node(line->word[1]) && line->guest < 0);
    else if (strcmp(line->word[0], "arm") == 0 || strcmp(line->word[0], "disarm") == 0)
        REQUIRE(line->word[1][0] == '\0' && line->word[2][0] == '\0');
    else
        REQUIRE(line->guest >= 0 && strcmp(script.guests[line->guest].name, line->word[1]) == 0);
    REQUIRE(strcmp(line->word[0], "migrate") != 0 || is_node(line->word[2]));
    REQUIRE(line->at_ns <= DAY_MS * NS_MS);
}

static void check_all(void)
{
    REQUIRE(script.node_count >= 2 && script.node_count <= SIM_NODES);
    REQUIRE(script.guest_count <= SIM_GUESTS && script.line_count <= SCRIPT_LINES);
    REQUIRE(script.end_ns > 0 && script.end_ns <= DAY_MS * NS_MS);
    REQUIRE(script.story_ns <= DAY_MS * NS_MS);
    for (uint32_t i = 0; i < script.guest_count; i++) {
        REQUIRE(has_end(script.guests[i].name, sizeof(script.guests[i].name)));
        REQUIRE(script_guest(&script, script.guests[i].name) == (int)i);
        REQUIRE(script.guests[i].restart_max <= 1000);
    }
    for (uint32_t i = 0; i < script.line_count; i++)
        check_line(&script.lines[i]);
}

static void write_down(FILE *file)
{
    fprintf(file, "nodes %u\nshutdown %s\nfencing %s\nstory %llu\nend %llu\n", script.node_count,
            script.is_migrating ? "migrate" : "stop", script.has_strip ? "strip" : "none",
            (unsigned long long)(script.story_ns / NS_MS),
            (unsigned long long)(script.end_ns / NS_MS));
    for (uint32_t i = 0; i < script.guest_count; i++) {
        const struct script_guest *guest = &script.guests[i];
        fprintf(file, "guest %s %s %u %u %u %u\n", guest->name,
                guest->is_absent                 ? "absent"
                : guest->want == HA_WANT_STARTED ? "started"
                                                 : "stopped",
                guest->restart_max, guest->fails[0], guest->fails[1], guest->fails[2]);
    }
    for (uint32_t i = 0; i < script.line_count; i++) {
        const struct script_line *line = &script.lines[i];
        fprintf(file, "at %llu %s %s %s\n", (unsigned long long)(line->at_ns / NS_MS),
                line->word[0], line->word[1], line->word[2]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = NULL;
    size_t text_size = 0;

    if (size == 0 || read_text((const char *)data, size, &script))
        return 0;
    check_all();
    REQUIRE(!memchr(data, '\0', size)); /* behind one a line would have ended */
    for (uint32_t i = 0; i < script.line_count; i++)
        REQUIRE(is_where_it_says((const char *)data, size, &script.lines[i]));
    FILE *file = open_memstream(&text, &text_size);
    REQUIRE(file);
    write_down(file);
    fclose(file);
    REQUIRE(!read_text(text, text_size, &again));
    for (uint32_t i = 0; i < script.line_count; i++) /* lines stand elsewhere now */
        again.lines[i].number = script.lines[i].number;
    REQUIRE(memcmp(&script, &again, sizeof(script)) == 0);
    free(text);
    return 0;
}
