/* SPDX-License-Identifier: Apache-2.0
 *
 * Which pages did a guest write? Asked of the kernel, for a process that need not help and must not
 * notice more than page faults.
 *
 * Asynchronous kind: the kernel lifts the protection itself at the first write; collecting is one
 * PAGEMAP_SCAN, which protects again what it reports, in one go.
 *
 * Synchronous kind (before Linux 6.7): a fault waits until somebody lifts the protection. That is a
 * small process of its own, the keeper of the faults, forked here. It lifts 64 KiB at a time (a
 * fault costs 50 us) and notes them; when it sees the end of its socket, because the tracker was
 * closed or the worker was killed, it lifts all protection and exits: no guest stays behind a
 * fault.
 */
#ifndef HAMGR_HV_EMBEDDED_TRACK_H
#define HAMGR_HV_EMBEDDED_TRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hamgr/hv/embedded/guestabi.h"

#define EMB_PIECE_PAGES 16u /* of the synchronous kind */

struct emb_tracker {
    enum emb_tracking kind;
    int uffd;
    int pagemap_fd;
    uint64_t address;
    uint64_t size;
    /* synchronous kind */
    pid_t keeper;
    int busy_fd; /* borrowed: the domain's busy lock, which the keeper holds as long as it lives */
    int socket;
    uint64_t *shared; /* two bitmaps: what the keeper notes, what it handed over */
    size_t shared_size;
};

/* Words of a bitmap for page_count pages. */
static inline uint64_t emb_bitmap_words(uint64_t page_count)
{
    return (page_count + 63) / 64;
}

/* Takes hold of the tracking of the guest behind pidfd. Nothing is protected yet. busy_fd: the
 * flock of the domain's busy file. A keeper whose worker was killed still has it while it lifts the
 * protection, so that it can't lift the next one's. */
int emb_track_open(struct emb_tracker *t, int pidfd, const struct emb_record *record, int busy_fd,
                   struct ha_err *err);
/* Protects everything: from here on writes are noted. */
int emb_track_start(struct emb_tracker *t, struct ha_err *err);
/* Adds to bitmap[emb_bitmap_words] the pages written since start or the last collect, and counts
 * them. A page read after this call has every write not in a later bitmap. is_last: the guest is
 * stopped, nothing is protected again. */
int emb_track_collect(struct emb_tracker *t, bool is_last, uint64_t *bitmap, uint64_t *ret_count,
                      struct ha_err *err);
/* Lifts all protection and lets go. Safe on a tracker that is all zero or closed. */
void emb_track_close(struct emb_tracker *t);
/* After the guest was suspended: lets go in no time, the protection stays for emb_track_off to lift
 * before the guest runs again. Returns a child to be waited for when there is time, or -1. */
pid_t emb_track_leave(struct emb_tracker *t);
/* Lets go of what a killed worker may have left: lifts all protection. Idempotent. */
int emb_track_off(int pidfd, const struct emb_record *record, struct ha_err *err);

#endif
