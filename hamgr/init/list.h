/* SPDX-License-Identifier: Apache-2.0
 *
 * The list of programs hamgr-init starts: one a line, words separated by blanks,
 *
 *     NAME UID:GID /absolute/program [ARGUMENT...]
 *
 * '#' starts a comment line. A NAME with '!' in front is not a service: it is run once, when an
 * orderly stop begins (at most one such line). Nothing is quoted, expanded or looked up.
 */
#ifndef HAMGR_INIT_LIST_H
#define HAMGR_INIT_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "hamgr/base/err.h"

#define INIT_PROGRAMS_MAX 16u
#define INIT_ARGS_MAX     24u /* with the program itself */
#define INIT_LIST_MAX     8192u

struct init_program {
    char name[HA_NAME_MAX];
    uid_t uid;
    gid_t gid;
    char *argv[INIT_ARGS_MAX + 1]; /* NULL-terminated, into init_list.text */
};

struct init_list {
    char text[INIT_LIST_MAX];
    size_t count;
    struct init_program programs[INIT_PROGRAMS_MAX];
    bool has_farewell;
    struct init_program farewell; /* the '!' line */
};

/* Parses text (copied into *ret_list); `name` is what errors call it. 0, or a negative error that
 * names the line and what was expected. */
int init_list_parse(const char *name, const char *text, struct init_list *ret_list,
                    struct ha_err *err);
/* Reads a file that belongs to root and that nobody else can write. */
int init_list_load(const char *path, struct init_list *ret_list, struct ha_err *err);

#endif
