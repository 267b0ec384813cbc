/* SPDX-License-Identifier: Apache-2.0
 *
 * The storage of embedded guests: what hamgr-disk (one per node) and hamgr-storage (one process
 * outside all nodes) say to each other, and the rules by which storage is the witness of I2: at any
 * instant at most one node can write a guest's disk.
 *
 * hamgr-storage listens at DIR/storage.sock (SEQPACKET, ipc/sock.h) for nodes and at
 * DIR/control.sock (stream, root only) for tests: one JSON object a line, one answered for each.
 *
 *   {"cmd":"report"[,"guest":UUID]}   what was written by whom, and every violation seen
 *   {"cmd":"hold"[,"node":N|"guest":UUID]}     writes wait from now on (all of them without a
 * filter)
 *   {"cmd":"release"[,"node":N|"guest":UUID]}  ends holds and delays with the same filter
 *   {"cmd":"delay","ms":M[,"node":N|"guest":UUID]}  each write reaches the disk M ms later; 0 ends
 * it
 *   {"cmd":"disconnect","node":N}     the node's path to its storage is gone: its writes stay with
 * it
 *   {"cmd":"connect","node":N}        the path is back; the node sends what is outstanding
 *   {"cmd":"replay","guest":UUID[,"epoch":E]}  an old write (of epoch E, else of the oldest epoch
 *                                     remembered) arrives once more, late: must be a violation when
 *                                     a higher epoch was there since
 *   {"cmd":"forget","guest":UUID}     the disk is thrown away, with its violations
 *
 * Answers: {"ok":true,...} or {"ok":false,"error":TEXT}.
 *
 * A node that dies (its connection ends) has its waiting writes reach the disk or vanish within
 * --end-ms: the D of the lease arithmetic.
 */
#ifndef HAMGR_HV_EMBEDDED_STORAGE_H
#define HAMGR_HV_EMBEDDED_STORAGE_H

#include "hamgr/base/bytes.h"
#include "hamgr/base/err.h"
#include "hamgr/hv/embedded/disk.h"

#define STORAGE_DIR    "/run/hamgr-storage"
#define STORAGE_SOCKET STORAGE_DIR "/storage.sock"

/* ---- messages (storageproto.c; pure) */

enum storagep_type {
    STORAGEP_HELLO = 1, /* storagep_hello: the first on a connection. No reply */
    STORAGEP_REQUEST, /* storagep_request; exactly one STORAGEP_ACK with its id, in order a guest */
    STORAGEP_ACK = 64, /* storagep_ack */
};

struct storagep_hello {
    uint32_t node;
};

struct storagep_request {
    struct ha_uuid guest;
    uint64_t epoch;
    struct emb_disk_request request;
};

struct storagep_ack {
    uint64_t sequence; /* WRITE: its own; HEAD: of the last write on the disk */
    struct ha_digest digest;
};

void storagep_hello_encode(struct ha_writer *w, const struct storagep_hello *m);
int storagep_hello_decode(const uint8_t *body, size_t size, struct storagep_hello *ret);
void storagep_request_encode(struct ha_writer *w, const struct storagep_request *m);
int storagep_request_decode(const uint8_t *body, size_t size, struct storagep_request *ret);
void storagep_ack_encode(struct ha_writer *w, const struct storagep_ack *m);
int storagep_ack_decode(const uint8_t *body, size_t size, struct storagep_ack *ret);

/* ---- the witness (storagewitness.c; pure) */

#define STORAGE_HISTORY 64u /* writes remembered per guest: twice what can be outstanding */

enum storage_verdict {
    STORAGE_FINE = 0,
    STORAGE_REPEATED, /* the same write once more, in order: a path that came back. Harmless */
    /* Violations. The first two did not come from the one node that may write. */
    STORAGE_STALE_EPOCH,  /* of a lower epoch than one seen before */
    STORAGE_SECOND_NODE,  /* two nodes in one epoch */
    STORAGE_REWRITTEN,    /* an old sequence with other contents */
    STORAGE_GAP,          /* writes before it are missing */
    STORAGE_BROKEN_CHAIN, /* it does not follow what is on the disk */
    STORAGE_TORN,         /* contents and digest differ */
    STORAGE_VERDICT_COUNT,
};

struct storage_write {
    uint32_t node;
    uint64_t epoch;
    struct emb_disk_request request;
};

/* One guest's disk. Zero, then the guest's id set, is an empty one. */
struct storage_disk {
    struct ha_uuid guest;
    bool is_used;      /* an epoch was seen */
    uint64_t epoch;    /* highest seen */
    uint32_t node;     /* whose it is */
    uint64_t sequence; /* of the last write on the disk, 0 none */
    struct ha_digest digest;
    uint64_t write_count;
    uint64_t repeated_count;
    uint64_t violation_count;
    struct storage_write history[STORAGE_HISTORY]; /* write n in slot n % STORAGE_HISTORY */
};

/* Judges a request of node in epoch and, if it reaches the disk, applies it. Writes of stale epochs
 * and second nodes are judged but not applied: what the rightful node finds is then its own. */
enum storage_verdict storage_apply(struct storage_disk *disk, uint32_t node, uint64_t epoch,
                                   const struct emb_disk_request *request);
bool storage_is_violation(enum storage_verdict verdict);
/* "fine", "repeated", "stale epoch", ... static */
const char *storage_verdict_name(enum storage_verdict verdict);

#endif
