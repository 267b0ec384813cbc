/* SPDX-License-Identifier: Apache-2.0
 *
 * The embedded guests' disk: a ring of requests per guest in shared memory, like a vbd's, between
 * the guest (front end) and the node's one backend process, hamgr-disk. The backend sends each
 * write to hamgr-storage, a process outside all nodes, and answers the guest when storage has it
 * (mode THROUGH) or at once (mode BACK, a write-back cache: never proven quiet).
 *
 * Three files per guest in one directory of the node (root only):
 *   GUEST.EPOCH.ring  struct emb_disk_ring, shared with the guest by an inherited fd; the guest can
 *                     write anything there at any time, so nobody believes it
 *   GUEST.EPOCH.stat  struct emb_disk_stat, written by the backend, never seen by the guest
 * and one FIFO `bell`: a byte written there makes the backend look at every ring.
 *
 * What is on the disk is a log of writes in which each names its sequence (1, 2, 3, ... for the
 * whole life of the guest, through all epochs), and the digest of the log so far: a lost, torn,
 * late or foreign write breaks the chain, in the storage process as well as for the guest.
 *
 * Quiet, for a guest whose process is stopped: in_flight is 0, req_prod of the ring equals rsp_prod
 * of the stat page, in_flight is 0 again. The backend raises in_flight before it looks at a ring
 * and lowers it after the answer is out, so this order can't miss a write.
 */
#ifndef HAMGR_HV_EMBEDDED_DISK_H
#define HAMGR_HV_EMBEDDED_DISK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/digest.h"
#include "hamgr/base/err.h"
#include "hamgr/base/id.h"
#include "hamgr/hv/hv.h"

#define EMB_DISK_DIR     "/run/hamgr/embedded/disks" /* the default directory of a node */
#define EMB_DISK_MAGIC   0x4b444d48u                 /* "HMDK" */
#define EMB_DISK_VERSION 1u
#define EMB_DISK_DEPTH   32u /* requests outstanding per guest; a power of two */
#define EMB_DISK_PAYLOAD 48u /* bytes of one write at most */

enum emb_disk_mode { EMB_DISK_THROUGH = 1, EMB_DISK_BACK = 2 };
enum emb_disk_op { EMB_DISK_WRITE = 1, EMB_DISK_HEAD = 2 };

struct emb_disk_request {
    uint32_t op;               /* enum emb_disk_op */
    uint32_t payload_size;     /* <= EMB_DISK_PAYLOAD; 0 for HEAD */
    uint64_t sequence;         /* WRITE only */
    struct ha_digest previous; /* digest of the log before this write, zero for the first */
    struct ha_digest digest;   /* ha_digest_bytes(previous, payload, payload_size) */
    uint8_t payload[EMB_DISK_PAYLOAD];
};

/* Answer n is to request n. */
struct emb_disk_response {
    uint32_t is_failed; /* the request was malformed */
    uint32_t reserved;
    uint64_t sequence;       /* WRITE: its own; HEAD: of the last write stored, 0 = none */
    struct ha_digest digest; /* of the log up to that write */
};

struct emb_disk_ring {
    uint32_t magic;
    uint32_t version;
    _Alignas(64) _Atomic uint32_t req_prod; /* requests made, by the guest; wraps */
    _Alignas(64) _Atomic uint32_t rsp_prod; /* answers given, by the backend; a futex word */
    _Alignas(64) struct emb_disk_request requests[EMB_DISK_DEPTH];
    struct emb_disk_response responses[EMB_DISK_DEPTH];
};

struct emb_disk_stat {
    uint32_t magic;
    uint32_t version;
    struct ha_uuid guest;
    uint64_t epoch;
    uint32_t mode;                /* enum emb_disk_mode */
    _Atomic uint32_t is_closing;  /* by the driver: take no more requests from the ring */
    _Atomic uint32_t is_broken;   /* by the backend: the guest wrote nonsense into the ring */
    _Atomic uint32_t in_flight;   /* requests taken and not finished, + 1 while looking */
    _Atomic uint32_t req_cons;    /* requests taken */
    _Atomic uint32_t rsp_prod;    /* answers given: the backend's own count, not the ring's */
    _Atomic uint64_t write_count; /* acknowledged by storage */
};

/* ---- Guest side (diskfront.c; pure: memory only). `front` lives in the guest's memory and moves
 * with it, whatever instruction the guest was stopped at. */

struct emb_disk_front {
    uint64_t produced;     /* sequence of the newest write made */
    uint64_t acked;        /* sequence of the newest write answered */
    uint32_t rsp_cons;     /* answers seen on the present ring */
    uint32_t is_ready;     /* the head is known: writes may be made */
    uint64_t failed_count; /* answers that were wrong: the disk's contents are not this guest's */
    struct emb_disk_request shadow[EMB_DISK_DEPTH]; /* write n in slot n % DEPTH */
};

/* A guest that boots (new memory): asks the disk for its head; poll until is_ready. */
void emb_disk_front_boot(struct emb_disk_front *front, struct emb_disk_ring *ring);
/* A guest that continues in a new process on a fresh ring (restore): makes the requests that were
 * not answered once more. Not for a guest resumed where it was suspended: its ring goes on. */
void emb_disk_front_reconnect(struct emb_disk_front *front, struct emb_disk_ring *ring);
/* Makes the next write. False if the disk is not ready or DEPTH writes are outstanding. */
bool emb_disk_front_write(struct emb_disk_front *front, struct emb_disk_ring *ring,
                          const void *payload, uint32_t payload_size);
/* Takes the answers that have come; returns how many. To wait for more: poll again later, or
 * FUTEX_WAIT (shared) on ring->rsp_prod while it equals front->rsp_cons. */
uint32_t emb_disk_front_poll(struct emb_disk_front *front, struct emb_disk_ring *ring);
/* After boot, reconnect or write: one byte into bell_fd wakes the backend. A full FIFO (EAGAIN) is
 * fine: it is awake already. */

/* ---- Driver side (disk.c), called by hamgr-hv's processes. */

struct emb_disk_files {
    int ring_fd; /* read-write, of EMB_DISK_RING_SIZE bytes, to be inherited by the guest */
    int bell_fd; /* write end, non-blocking, to be inherited by the guest */
};

#define EMB_DISK_RING_SIZE 8192u
#define EMB_DISK_STAT_SIZE 4096u

/* Makes the disk's files for (guest, epoch), the directory too if it is missing; left-overs of the
 * same pair are closed first. The fds are moved to the caller, CLOEXEC. */
int emb_disk_create(const char *dir, struct ha_uuid guest, uint64_t epoch, enum emb_disk_mode mode,
                    struct emb_disk_files *ret_files, struct ha_err *err);
/* Is I/O outstanding? The guest's process must be stopped. A pair without files has no disk and is
 * quiet. Microseconds; opens and maps the two files. */
enum hv_quiet emb_disk_quiet(const char *dir, struct ha_uuid guest, uint64_t epoch,
                             char ret_why[HA_TEXT_MAX]);
/* After the guest's process is gone (or before another takes the pair): no more requests are taken,
 * waits until none is in flight, at most timeout_ms, then removes the files. Idempotent.
 * -HA_E_TIMEOUT: I/O is still outstanding, the files stay. */
int emb_disk_close(const char *dir, struct ha_uuid guest, uint64_t epoch, uint32_t timeout_ms,
                   struct ha_err *err);

#endif
