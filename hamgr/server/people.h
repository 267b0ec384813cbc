/* SPDX-License-Identifier: Apache-2.0
 *
 * Who an operator is, without asking the name service: that may hang on a directory server, and it
 * would hang hamgrd's loop. Names come from the local passwd file, read once; groups from the
 * kernel, as the peer's process has them.
 */
#ifndef HAMGR_SERVER_PEOPLE_H
#define HAMGR_SERVER_PEOPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define PEOPLE_NAME_MAX 32u

struct people {
    size_t count;
    struct person {
        uid_t uid;
        char name[PEOPLE_NAME_MAX];
    } * list;
};

/* Reads a file like /etc/passwd; what can't be read is nobody. Before the loop runs. */
void people_load(struct people *ret_people, const char *path);
void people_free(struct people *people);
/* NULL for users the file does not name. borrowed */
const char *people_name(const struct people *people, uid_t uid);
/* True if the process pid, which must be uid's, has the group among its own (effective or
 * supplementary). */
bool people_has_group(pid_t pid, uid_t uid, gid_t group);
/* The same from the text of /proc/PID/status. */
bool people_status_has_group(const char *status, uid_t uid, gid_t group);

#endif
