/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/server/people.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STATUS_MAX 65536u

void people_load(struct people *ret_people, const char *path)
{
    FILE *file = fopen(path, "re");
    const struct passwd *user;

    *ret_people = (struct people){0};
    while (file && (user = fgetpwent(file)) != NULL) {
        size_t size = (ret_people->count + 1) * sizeof(ret_people->list[0]);
        struct person *list = realloc(ret_people->list, size);
        if (!list)
            break;
        ret_people->list = list;
        struct person *person = &list[ret_people->count++];
        person->uid = user->pw_uid;
        snprintf(person->name, sizeof(person->name), "%s", user->pw_name);
    }
    if (file)
        fclose(file);
}

void people_free(struct people *people)
{
    free(people->list);
    *people = (struct people){0};
}

const char *people_name(const struct people *people, uid_t uid)
{
    for (size_t i = 0; i < people->count; i++) {
        if (people->list[i].uid == uid)
            return people->list[i].name;
    }
    return NULL;
}

/* What follows "KEY:" at the beginning of a line; NULL if no line has it. */
static const char *field(const char *status, const char *key)
{
    size_t length = strlen(key);

    for (const char *line = status; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, length) == 0 && line[length] == ':')
            return line + length + 1;
        if (*line == '\0')
            return NULL;
    }
    return NULL;
}

/* Takes the next number of a line; false at its end. */
static bool next_number(const char **at, unsigned long *ret_number)
{
    char *end;

    *at += strspn(*at, " \t");
    if (**at < '0' || **at > '9')
        return false;
    *ret_number = strtoul(*at, &end, 10);
    *at = end;
    return true;
}

bool people_status_has_group(const char *status, uid_t uid, gid_t group)
{
    const char *uids = field(status, "Uid"), *gids = field(status, "Gid");
    const char *groups = field(status, "Groups");
    unsigned long real, effective, number;

    /* Another process under a number that was used again. */
    if (!uids || !next_number(&uids, &real) || !next_number(&uids, &effective) || effective != uid)
        return false;
    if (gids && next_number(&gids, &real) && next_number(&gids, &effective) && effective == group)
        return true;
    while (groups && next_number(&groups, &number)) {
        if (number == group)
            return true;
    }
    return false;
}

bool people_has_group(pid_t pid, uid_t uid, gid_t group)
{
    static char text[STATUS_MAX]; /* the loop's thread only */
    char path[32];
    size_t size = 0;
    ssize_t r = 0;

    snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
    int fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    while (size < sizeof(text) && (r = read(fd, text + size, sizeof(text) - size)) > 0)
        size += (size_t)r;
    close(fd);
    if (r < 0 || size == sizeof(text)) /* cut, a number's end could be missing */
        return false;
    text[size] = '\0';
    return people_status_has_group(text, uid, group);
}
