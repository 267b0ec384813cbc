/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the look share.
 */
#ifndef HAMGR_DOCTOR_LOOK_INTERNAL_H
#define HAMGR_DOCTOR_LOOK_INTERNAL_H

#include <sys/stat.h>

#include "hamgr/doctor/look.h"

#define LOOK_FULL_MAX 512u /* a path with its root */

struct look {
    const char *root;
    const struct look_ask *ask;
    struct ha_facts *facts;
};

/* root + path (printf); false when it does not fit. */
bool look_path(const struct look *l, char ret_path[LOOK_FULL_MAX], const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The first capacity - 1 bytes of a file; false when it can't be read. */
bool look_text(const struct look *l, const char *path, char *ret_text, size_t capacity);
bool look_stat(const struct look *l, const char *path, struct stat *ret);

/* look_trust.c: certificates, corosync's files. */
void look_trust(const struct look *l);
/* look_swap.c */
void look_swap(const struct look *l);
/* look_thing.c */
bool look_is_shared(const char *path); /* does it lie on a file system that nodes share? */
void look_thing(const struct look *l, const struct look_thing *thing, struct look_found *ret);

#endif
