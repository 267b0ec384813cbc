/* SPDX-License-Identifier: Apache-2.0
 *
 * Strict parser of a hypervisor's native stream (libxl v2 around libxc v2/v3, STREAM.md section 5).
 * It is fed windows of contiguous bytes and hands back tokens: what may pass as it is, where a
 * PAGE_DATA record starts, where its pages are. Both ends run it: the sender over what the
 * hypervisor wrote, the receiver over what it is about to hand to one. Pure.
 */
#ifndef HAMGR_MIGRATE_NATIVE_H
#define HAMGR_MIGRATE_NATIVE_H

#include "hamgr/base/bytes.h"
#include "hamgr/base/err.h"

#define NATIVE_PAGE_SIZE   4096u
#define NATIVE_ENTRIES_MAX 32768u
#define NATIVE_RECORD_MAX  (128u << 20)
#define NATIVE_BATCH_HEAD  16u /* record header and PAGE_DATA header */
#define NATIVE_MARKER_TYPE 0x80486d67u
#define NATIVE_MARKER_SIZE 24u
#define NATIVE_LAST_SIZE   8u /* a stream's last bytes, libxl's END record: all zero */
#define NATIVE_PFN_LIMIT   (UINT64_C(1) << 32)
/* The longest run of bytes the parser wants to see at once: a window must hold this much. */
#define NATIVE_WINDOW_MIN (NATIVE_BATCH_HEAD + 8u * NATIVE_ENTRIES_MAX)

/* The largest RAW and PAGES tokens: one frame's worth. */
#define NATIVE_RAW_MAX   262144u
#define NATIVE_GROUP_MAX 64u

enum native_token_kind {
    NATIVE_MORE = 0, /* nothing consumed: call again with at least `size` bytes from here */
    NATIVE_RAW,      /* `size` bytes that pass as they are */
    NATIVE_BATCH,    /* `size` bytes: heads and entries of a PAGE_DATA record */
    NATIVE_PAGES,  /* `size` = 4096 * count bytes: pages of the open batch, as many as are there */
    NATIVE_MARKER, /* `size` bytes: the next batch is in the ring */
    NATIVE_END,    /* the stream is complete; nothing consumed */
};

struct native_token {
    uint8_t kind; /* enum native_token_kind */
    size_t size;
    uint32_t count;         /* BATCH: entries. PAGES: pages */
    uint32_t data_count;    /* BATCH: entries that carry a page */
    const uint8_t *entries; /* BATCH: borrowed, count times u64 little-endian */
    uint64_t marker_batch;
    uint32_t marker_slot;
};

struct native {
    /* private */
    uint8_t state;
    bool is_ring;   /* markers are expected */
    bool has_image; /* LIBXC_CONTEXT was seen */
    bool is_static_done;
    bool is_verifying;  /* VERIFY was seen: the pages that follow are to be compared */
    uint8_t guest_type; /* 1 PV, 2 HVM */
    uint8_t version;    /* of the libxc image */
    uint8_t pad_size;   /* padding behind the record's body */
    uint32_t body_left;
    uint32_t pages_left;
};

/* Starts at the first byte of a stream. is_ring: a marker stands for a batch (section 6). */
void native_init(struct native *p, bool is_ring);
/* Looks at data[size], the bytes right behind what the last token consumed. Returns 0 and a token,
 * or -HA_E_CORRUPT with the broken rule; after an error the parser is not to be used again. */
int native_next(struct native *p, const uint8_t *data, size_t size, struct native_token *ret_token,
                struct ha_err *err);
/* Consumes count pages of the open batch that are not in a window. Returns 0 or -HA_E_CORRUPT. */
int native_skip_pages(struct native *p, uint32_t count, struct ha_err *err);
/* Checks count entries (after a marker: a batch that came through the ring) against the rules for
 * this guest; *ret_data_count = how many carry a page. Returns 0 or -HA_E_CORRUPT. */
int native_check_entries(const struct native *p, const uint8_t *entries, uint32_t count,
                         uint32_t *ret_data_count, struct ha_err *err);
/* True between records and before the end: nothing that was begun is missing bytes. */
bool native_is_between(const struct native *p);
/* True while pages of a batch are still to come; how many. */
bool native_is_in_batch(const struct native *p);
uint32_t native_pages_left(const struct native *p);
/* True behind a VERIFY record: every page counts, changed or not. */
bool native_is_verifying(const struct native *p);
/* True for HVM and PVH, whose entries without a page mean nothing to a restore (XALLOC apart). */
bool native_is_hvm(const struct native *p);
/* True once the libxl END record was consumed. */
bool native_is_done(const struct native *p);
/* Writes the 16 bytes in front of the entries of a PAGE_DATA record. */
void native_batch_head(uint8_t *ret_bytes, uint32_t count, uint32_t data_count);
/* Writes the NATIVE_MARKER_SIZE bytes that stand for a batch in the ring. */
void native_marker(uint8_t *ret_bytes, uint64_t batch, uint32_t slot);

#endif
