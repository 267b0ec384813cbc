/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads definitions. inih splits the lines; what a key means is one row of a table.
 */
#include "hamgr/hv/embedded/definition.h"

#include <ini.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/hv/embedded/observer.h"

/* inih cuts longer lines in two and would read the rest as a line of its own. */
#define LINE_MAX_BYTES 180u

enum kind { NUMBER, CHOICE, SEED };

struct key {
    const char *name;
    enum kind kind;
    uint32_t low, high;
    size_t offset;
    const char *choices; /* of CHOICE: words separated by '|', the value is the word's number */
};

#define FIELD(member) offsetof(struct emb_definition, member)
static const struct key KEYS[] = {
    {"memory_mib", NUMBER, 1, 65536, FIELD(memory_mib), NULL},
    {"dirty_kib_s", NUMBER, 0, 16u << 20, FIELD(dirty_kib_s), NULL},
    {"dirty_mib_s", NUMBER, 0, 16u << 10, FIELD(dirty_kib_s), NULL},
    {"zero_percent", NUMBER, 0, 100, FIELD(zero_percent), NULL},
    {"text_percent", NUMBER, 0, 100, FIELD(text_percent), NULL},
    {"random_percent", NUMBER, 0, 100, 0, NULL},
    {"writes_per_s", NUMBER, 0, 1000, FIELD(writes_per_s), NULL},
    {"step_ms", NUMBER, 1, 1000, FIELD(step_ms), NULL},
    {"crash_after_s", NUMBER, 0, 31536000, FIELD(crash_after_s), NULL},
    {"poweroff_after_s", NUMBER, 0, 31536000, FIELD(poweroff_after_s), NULL},
    {"reboot_after_s", NUMBER, 0, 31536000, FIELD(reboot_after_s), NULL},
    {"observer_slot", NUMBER, 0, HV_OBSERVER_SLOTS - 1, FIELD(observer_slot), NULL},
    {"disk", CHOICE, 0, 0, FIELD(disk), "none|direct|writeback"},
    {"console", CHOICE, 0, 0, FIELD(has_console), "no|yes"},
    {"seed", SEED, 0, 0, FIELD(seed), NULL},
};
#define KEY_COUNT (sizeof(KEYS) / sizeof(KEYS[0]))
enum { KEY_DIRTY_KIB = 1, KEY_DIRTY_MIB = 2, KEY_RANDOM = 5 };

struct parse {
    struct emb_definition definition;
    uint32_t random_percent;
    bool is_seen[KEY_COUNT];
    struct ha_err *err;
    int rc;
};

static int refuse(struct parse *p, const char *name, const char *value, const char *expected)
{
    p->rc = ha_err_set(p->err, HA_E_USAGE, "%.40s = %.40s: expected %s", name, value, expected);
    return 0;
}

static bool read_number(const char *text, uint64_t *ret)
{
    char *end = NULL;

    if (text[0] < '0' || text[0] > '9' || strlen(text) > 19)
        return false;
    *ret = strtoull(text, &end, 0);
    return *end == '\0';
}

static int take_number(struct parse *p, const struct key *key, const char *value)
{
    uint64_t number = 0;
    uint32_t *to = key == &KEYS[KEY_RANDOM] ? &p->random_percent
                                            : (uint32_t *)((char *)&p->definition + key->offset);

    if (!read_number(value, &number) || number < key->low || number > key->high) {
        p->rc = ha_err_set(p->err, HA_E_USAGE, "%s = %.40s: expected a number from %u to %u",
                           key->name, value, key->low, key->high);
        return 0;
    }
    *to = (uint32_t)number * (key == &KEYS[KEY_DIRTY_MIB] ? 1024u : 1u);
    return 1;
}

static int take_choice(struct parse *p, const struct key *key, const char *value)
{
    const char *word = key->choices;

    for (uint32_t n = 0; word; n++) {
        const char *end = strchr(word, '|');
        size_t size = end ? (size_t)(end - word) : strlen(word);
        if (strlen(value) == size && strncmp(word, value, size) == 0) {
            *(uint32_t *)((char *)&p->definition + key->offset) = n;
            return 1;
        }
        word = end ? end + 1 : NULL;
    }
    return refuse(p, key->name, value, key->choices);
}

static int take(void *user, const char *section, const char *name, const char *value)
{
    struct parse *p = user;

    if (p->rc != 0)
        return 0;
    if (section[0] != '\0')
        return refuse(p, section, "", "no sections");
    for (size_t n = 0; n < KEY_COUNT; n++) {
        if (strcmp(KEYS[n].name, name) != 0)
            continue;
        if (p->is_seen[n])
            return refuse(p, name, value, "each key at most once");
        p->is_seen[n] = true;
        if (KEYS[n].kind == NUMBER)
            return take_number(p, &KEYS[n], value);
        if (KEYS[n].kind == CHOICE)
            return take_choice(p, &KEYS[n], value);
        return read_number(value, &p->definition.seed) ? 1 : refuse(p, name, value, "a number");
    }
    return refuse(p, name, value, "a known key");
}

static int check_whole(struct parse *p)
{
    struct emb_definition *d = &p->definition;

    if (p->is_seen[KEY_DIRTY_KIB] && p->is_seen[KEY_DIRTY_MIB])
        return ha_err_set(p->err, HA_E_USAGE, "dirty_kib_s and dirty_mib_s: expected only one");
    if (d->zero_percent + d->text_percent > 100)
        return ha_err_set(p->err, HA_E_USAGE,
                          "zero_percent + text_percent = %u: expected at most 100",
                          d->zero_percent + d->text_percent);
    if (p->is_seen[KEY_RANDOM] && d->zero_percent + d->text_percent + p->random_percent != 100)
        return ha_err_set(p->err, HA_E_USAGE,
                          "zero_percent + text_percent + random_percent = %u: expected 100",
                          d->zero_percent + d->text_percent + p->random_percent);
    if (d->writes_per_s > 0 && d->disk == EMB_DISK_NONE)
        return ha_err_set(p->err, HA_E_USAGE, "writes_per_s without disk = direct or writeback");
    return 0;
}

/* inih must see every byte as it is: no NUL inside, no line it would cut. */
static int check_text(const uint8_t *text, size_t size, struct ha_err *err)
{
    size_t line_size = 0;

    if (size > HA_DEFINITION_MAX)
        return ha_err_set(err, HA_E_USAGE, "definition of %zu bytes: expected at most %u", size,
                          HA_DEFINITION_MAX);
    for (size_t n = 0; n < size; n++) {
        if (text[n] == '\0' || (text[n] < ' ' && !strchr("\t\r\n", text[n])) || text[n] > '~')
            return ha_err_set(err, HA_E_USAGE, "definition: byte %zu is not printable ASCII", n);
        line_size = text[n] == '\n' ? 0 : line_size + 1;
        if (line_size > LINE_MAX_BYTES)
            return ha_err_set(err, HA_E_USAGE, "definition: a line is longer than %u characters",
                              LINE_MAX_BYTES);
    }
    return 0;
}

int emb_definition_parse(const uint8_t *text, size_t size, struct emb_definition *ret,
                         struct ha_err *err)
{
    struct parse p = {
        .definition = {.memory_mib = 8,
                       .dirty_kib_s = 256,
                       .zero_percent = 40,
                       .text_percent = 40,
                       .step_ms = 100,
                       .observer_slot = EMB_NO_SLOT,
                       .has_console = 1,
                       .seed = 1},
        .err = err,
    };
    int rc = check_text(text, size, err);

    if (rc != 0)
        return rc;
    char *copy = malloc(size + 1);
    if (!copy)
        return ha_err_set(err, HA_E_NO_MEMORY, "definition of %zu bytes", size);
    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    int line = ini_parse_string(copy, take, &p);
    free(copy);
    if (p.rc == 0 && line != 0)
        p.rc = ha_err_set(err, HA_E_USAGE, "expected key = value");
    if (p.rc == 0)
        p.rc = check_whole(&p);
    else if (line > 0)
        ha_err_prefix(err, "line %d", line);
    if (p.rc != 0) {
        ha_err_prefix(err, "definition");
        return p.rc;
    }
    *ret = p.definition;
    return 0;
}
