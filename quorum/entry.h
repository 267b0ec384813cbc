/* SPDX-License-Identifier: Apache-2.0
 *
 * A log entry as the log carries it: numbered, chained, its body opaque except for the two kinds
 * the log itself must understand (OPEN and VOTER). The state (hamgr/core) reads all kinds.
 */
#ifndef QUORUM_ENTRY_H
#define QUORUM_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/bytes.h"
#include "hamgr/base/digest.h"
#include "hamgr/base/id.h"
#include "hamgr/base/limits.h"

/* A view: unique, ordered by counter, then leader. {0, 0} is "none". */
struct log_view {
    uint64_t counter;
    uint32_t leader;
};

static inline int log_view_cmp(struct log_view a, struct log_view b)
{
    if (a.counter != b.counter)
        return a.counter < b.counter ? -1 : 1;
    return a.leader == b.leader ? 0 : a.leader < b.leader ? -1 : 1;
}

enum log_kind {
    LOG_KIND_INIT = 1,  /* entry 1 of every cluster, written by `hactl cluster init` */
    LOG_KIND_OPEN = 2,  /* first entry of a view; body struct log_open */
    LOG_KIND_VOTER = 3, /* one voter added or removed; body struct log_voter_change */
    LOG_KIND_STATE = 4, /* anything of hamgr/core; body opaque to the log */
};

struct log_entry {
    uint64_t index;          /* 1, 2, 3, ... */
    struct log_view view;    /* the view whose leader numbered it */
    struct ha_digest digest; /* chain digest over all entries up to and including this one */
    uint8_t kind;            /* enum log_kind */
    uint32_t origin;         /* proposing node */
    uint64_t nonce;          /* proposing process */
    uint64_t seq;            /* its proposal number: (nonce, seq) is applied once */
    uint64_t mono_ms;        /* leader's clock when numbered, for durations inside one view */
    uint64_t wall_ms;    /* leader's wall clock when numbered: for people, never for decisions */
    uint32_t body_size;  /* <= HA_ENTRY_MAX */
    const uint8_t *body; /* borrowed */
};

/* What one member says about itself when it joins a view. */
struct log_member {
    uint32_t node;
    uint64_t nonce;          /* process */
    struct ha_uuid store_id; /* its log's store */
    struct ha_uuid boot_id;  /* its kernel's boot */
    struct ha_uuid hw_id;    /* its machine */
    uint16_t proto_min;      /* protocol range it speaks */
    uint16_t proto_max;
};

struct log_open {
    struct log_view view;
    /* A quorum of the directly preceding open view opened this one and none of their leases had run
     * out: fencing of absentees may start at once. False: hold for H first (design section 5). */
    bool is_continuous;
    uint32_t member_count; /* 1..HA_NODES_MAX, ascending by node */
    struct log_member members[HA_NODES_MAX];
};

struct log_voter_change {
    bool is_added; /* false: removed */
    uint32_t node;
    struct ha_uuid store_id; /* of the added voter; ignored when removed */
};

/* A change that changes nothing (adding a voter, removing none) is never numbered, nor is the
 * removal of the last voter: log and state can't come to count different voters. A node is made a
 * voter only as a member of the open view that has acknowledged its newest entries; proposed too
 * early, the fate is "lost", to be proposed again. */

void log_member_encode(struct ha_writer *w, const struct log_member *member);
/* Fails the reader for a member that can't be. */
void log_member_decode(struct ha_reader *r, struct log_member *ret_member);
void log_open_encode(struct ha_writer *w, const struct log_open *open);
/* Returns 0 or -HA_E_CORRUPT (sizes, order and counts are checked). */
int log_open_decode(const uint8_t *body, size_t size, struct log_open *ret_open);
/* The protocol a view uses: the highest that all its members speak; 0 if it names none. */
uint16_t log_open_proto(const struct log_open *open);
void log_voter_change_encode(struct ha_writer *w, const struct log_voter_change *change);
int log_voter_change_decode(const uint8_t *body, size_t size, struct log_voter_change *ret_change);

/* Bytes of an entry in front of its body, digest not counted. */
#define LOG_ENTRY_HEAD 61u

/* The chain digest of entry (all its fields but `digest`) after previous. */
struct ha_digest log_entry_digest(struct ha_digest previous, const struct log_entry *entry);
/* Wire and store form: header fields, then the body. The decoder borrows the body. */
void log_entry_encode(struct ha_writer *w, const struct log_entry *entry);
/* Returns 0 or -HA_E_CORRUPT. Reads one entry from r, leaving r after it. */
int log_entry_decode(struct ha_reader *r, struct log_entry *ret_entry);

#endif
