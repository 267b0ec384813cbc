/* SPDX-License-Identifier: Apache-2.0
 *
 * A disk that fails on demand: a SQLite VFS over the system's own that makes writes and syncs fail,
 * stalls syncs until released, and cuts the power: of everything written since a file's last sync
 * each 512-byte sector survives, does not, or becomes garbage as a whole (seeded), and nothing
 * works afterwards until faultvfs_reset. For one database at a time.
 */
#ifndef TESTS_LIB_FAULTVFS_H
#define TESTS_LIB_FAULTVFS_H

#include <stdbool.h>
#include <stdint.h>

enum fault {
    FAULT_NONE,
    FAULT_WRITE_EIO,
    FAULT_WRITE_FULL,
    FAULT_SYNC_EIO,
    FAULT_CHECKPOINT_EIO,
    FAULT_POWER_CUT
};

/* Registers it as SQLite's default; once per process. */
void faultvfs_install(void);
/* Heals everything. Files must be closed. */
void faultvfs_reset(void);
/* The operation number `after` from now (0: the next one; writes for WRITE_*, syncs for SYNC_*,
 * syncs of the database file for CHECKPOINT_*, any for POWER_CUT) fails, and all later ones of its
 * kind. */
void faultvfs_fail(enum fault fault, unsigned after, uint64_t seed);
/* From now on syncs wait until faultvfs_release. */
void faultvfs_stall(void);
void faultvfs_release(void);
/* Waits until a sync is stalled; false after timeout_ms. */
bool faultvfs_wait_stalled(unsigned timeout_ms);
/* Operations since the reset. */
unsigned faultvfs_writes(void);
unsigned faultvfs_syncs(void);
/* True once the power is cut. */
bool faultvfs_is_dead(void);

#endif
