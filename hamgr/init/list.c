/* SPDX-License-Identifier: Apache-2.0
 *
 * Parser of hamgr-init's program list.
 */
#include "hamgr/init/list.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hamgr/base/id.h"

/* Reads a decimal number below 2^31 that ends at `end`. */
static bool parse_id(const char *text, char end, uint32_t *ret_id, const char **ret_rest)
{
    uint32_t value = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (value > (INT32_MAX - 9) / 10) {
            return false;
        }
        value = value * 10 + (uint32_t)(*p - '0');
    }
    if (p == text || *p != end) {
        return false;
    }
    *ret_id = value;
    *ret_rest = p + 1;
    return true;
}

/* Splits a line in place into words; returns their number, or max + 1 if there are more. */
static size_t split(char *line, char **ret_words, size_t max)
{
    size_t count = 0;
    char *save = NULL;
    for (char *word = strtok_r(line, " \t", &save); word; word = strtok_r(NULL, " \t", &save)) {
        if (count == max) {
            return max + 1;
        }
        ret_words[count++] = word;
    }
    return count;
}

static int parse_program(char **words, size_t count, struct init_program *ret_program,
                         struct ha_err *err)
{
    if (count < 3) {
        return ha_err_set(err, HA_E_USAGE, "expected NAME UID:GID /PROGRAM [ARGUMENT...]");
    }
    if (count > INIT_ARGS_MAX + 2) {
        return ha_err_set(err, HA_E_LIMIT, "more than %u words", INIT_ARGS_MAX + 2);
    }
    if (!ha_name_is_valid(words[0])) {
        return ha_err_set(err, HA_E_USAGE, "\"%s\" is not a name", words[0]);
    }
    uint32_t uid, gid;
    const char *rest;
    if (!parse_id(words[1], ':', &uid, &rest) || !parse_id(rest, '\0', &gid, &rest)) {
        return ha_err_set(err, HA_E_USAGE, "\"%s\": expected numbers as UID:GID", words[1]);
    }
    if (words[2][0] != '/') {
        return ha_err_set(err, HA_E_USAGE, "\"%s\": expected an absolute path", words[2]);
    }
    *ret_program = (struct init_program){.uid = uid, .gid = gid};
    memcpy(ret_program->name, words[0], strlen(words[0]) + 1); /* valid names fit */
    memcpy(ret_program->argv, words + 2, (count - 2) * sizeof(words[0]));
    return 0;
}

static bool is_known(const struct init_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->programs[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static int parse_line(char *line, struct init_list *list, struct ha_err *err)
{
    char *words[INIT_ARGS_MAX + 3];
    size_t count = split(line, words, INIT_ARGS_MAX + 2);
    if (count == 0 || words[0][0] == '#') {
        return 0;
    }
    if (words[0][0] == '!') {
        if (list->has_farewell) {
            return ha_err_set(err, HA_E_EXISTS, "a second line with '!'");
        }
        words[0]++;
        list->has_farewell = true;
        return parse_program(words, count, &list->farewell, err);
    }
    if (list->count == INIT_PROGRAMS_MAX) {
        return ha_err_set(err, HA_E_LIMIT, "more than %u programs", INIT_PROGRAMS_MAX);
    }
    if (is_known(list, words[0])) {
        return ha_err_set(err, HA_E_EXISTS, "\"%s\" is listed twice", words[0]);
    }
    int rc = parse_program(words, count, &list->programs[list->count], err);
    if (rc == 0) {
        list->count++;
    }
    return rc;
}

int init_list_parse(const char *name, const char *text, struct init_list *ret_list,
                    struct ha_err *err)
{
    size_t size = strlen(text) + 1;
    memset(ret_list, 0, sizeof(*ret_list));
    if (size > sizeof(ret_list->text)) {
        return ha_err_set(err, HA_E_LIMIT, "%s: longer than %u bytes", name, INIT_LIST_MAX - 1);
    }
    memcpy(ret_list->text, text, size);
    char *next = ret_list->text;
    for (unsigned number = 1; next; number++) {
        char *line = strsep(&next, "\n");
        int rc = parse_line(line, ret_list, err);
        if (rc != 0) {
            ha_err_prefix(err, "%s:%u", name, number);
            return rc;
        }
    }
    if (ret_list->count == 0) {
        return ha_err_set(err, HA_E_USAGE, "%s: lists no program", name);
    }
    return 0;
}

/* Reads all of fd into text[INIT_LIST_MAX]. */
static int read_text(int fd, char *text, struct ha_err *err)
{
    size_t used = 0;
    while (used < INIT_LIST_MAX) {
        ssize_t n = read(fd, text + used, INIT_LIST_MAX - used);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return ha_err_set(err, errno, "%s", strerror(errno));
        }
        if (n == 0) {
            break;
        }
        used += (size_t)n;
    }
    if (used == INIT_LIST_MAX) {
        return ha_err_set(err, HA_E_LIMIT, "longer than %u bytes", INIT_LIST_MAX - 1);
    }
    text[used] = '\0';
    if (memchr(text, '\0', used)) {
        return ha_err_set(err, HA_E_USAGE, "contains a NUL byte");
    }
    return 0;
}

int init_list_load(const char *path, struct init_list *ret_list, struct ha_err *err)
{
    char text[INIT_LIST_MAX];
    struct stat st;
    int rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return ha_err_set(err, errno, "%s: %s", path, strerror(errno));
    }
    if (fstat(fd, &st) != 0) {
        rc = ha_err_set(err, errno, "%s", strerror(errno));
    } else if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        rc = ha_err_set(err, HA_E_AUTH, "must be a file of root that only root can write");
    } else {
        rc = read_text(fd, text, err);
    }
    close(fd);
    if (rc != 0) {
        ha_err_prefix(err, "%s", path);
        return rc;
    }
    return init_list_parse(path, text, ret_list, err);
}
