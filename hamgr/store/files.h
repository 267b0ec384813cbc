/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's files: where they lie, who holds them, how a damaged one is set aside.
 */
#ifndef HAMGR_STORE_FILES_H
#define HAMGR_STORE_FILES_H

#include <limits.h>

#include "hamgr/base/err.h"

/* Names are DIR/NAME, and DIR/NAME.damaged-TIME: room for both by construction. */
#define FILES_DIR_MAX  (PATH_MAX - 128)
#define FILES_NAME_MAX (PATH_MAX - 64)

struct files {
    char dir[FILES_DIR_MAX];
    char db[FILES_NAME_MAX];
    char wal[FILES_NAME_MAX];
    char fresh[FILES_NAME_MAX]; /* a new database until it is complete */
    int lock_fd;
};

/* Names the files in dir. -ENAMETOOLONG. */
int files_name(const char *dir, struct files *ret_files, struct ha_err *err);
/* Takes the lock in the directory (which must exist) and holds it until files_unlock or the
 * process's end. -EBUSY with the holder's pid. */
int files_lock(struct files *files, struct ha_err *err);
void files_unlock(struct files *files);
/* Renames the database and its WAL to NAME.damaged-<UTC time> and says so in err, whose text tells
 * what is damaged. */
void files_set_aside(const struct files *files, struct ha_err *err);
/* Renames a WAL that has no database: SQLite would play it into a new one. */
int files_clear_orphans(const struct files *files, struct ha_err *err);
/* Makes what the directory holds durable. */
int files_sync_dir(const struct files *files, struct ha_err *err);
/* What the disk holds, not what the page cache believes: after a failed fsync they may differ. */
void files_drop_cached(const struct files *files);

#endif
