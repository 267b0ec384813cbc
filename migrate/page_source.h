/* SPDX-License-Identifier: Apache-2.0
 *
 * The seam between what feeds a guest's native stream and the sender. Two feeders (STREAM.md,
 * section 6): the proxy on a file descriptor, and the shared-memory ring beside it. The sender
 * above knows only items.
 */
#ifndef HAMGR_MIGRATE_PAGE_SOURCE_H
#define HAMGR_MIGRATE_PAGE_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"

enum page_item_kind {
    PAGE_ITEM_RAW = 1, /* data[size]: bytes that are no PAGE_DATA, at most FRAME_RAW_MAX */
    PAGE_ITEM_BATCH,   /* data[size]: heads and entries of a PAGE_DATA record */
    PAGE_ITEM_PAGES,   /* data[size]: the next count pages of the open batch */
    PAGE_ITEM_END,     /* the native stream is complete */
};

struct page_item {
    uint8_t kind;
    const uint8_t *data; /* borrowed until the next call of next */
    bool is_shared;      /* somebody may write to data meanwhile: copy each page once, then look */
    bool is_hvm;         /* BATCH: the guest is HVM or PVH */
    bool is_verifying;   /* BATCH: its pages are to be compared, none may be left out */
    size_t size;
    uint32_t count;         /* BATCH: entries, PAGES: pages */
    uint32_t data_count;    /* BATCH: pages that will follow */
    const uint8_t *entries; /* BATCH: count times u64 little-endian, inside data */
};

struct page_source;

struct page_source_ops {
    const char *name;
    /* Gives the next item. Returns 1, 0 when nothing can be given now (wait for fd to become
     * readable), or a negative error (the stream is malformed, or ended too early); after END or an
     * error it is not called again. Never blocks. */
    int (*next)(struct page_source *source, struct page_item *ret_item, struct ha_err *err);
    /* Tells whoever feeds it how many bytes of the stream the receiver has taken over
     * (takenproto.h). Never blocks; false: it can't be said just now, and should be again. */
    bool (*tell)(struct page_source *source, uint64_t taken);
    /* Closes its descriptors and frees. */
    void (*close)(struct page_source *source);
};

/* A feeder embeds this first. */
struct page_source {
    const struct page_source_ops *ops;
    int fd; /* to poll for reading */
};

struct ring;

/* Feeder 1: the native stream comes on fd (moved, made non-blocking). Feeder 2: ring (moved) is not
 * NULL, and markers on fd say where its batches belong. NULL: no memory; both closed. */
struct page_source *page_source_fd_new(int fd, struct ring *ring);

/* No feeder: a complete stream with mib MiB of random pages, for a probe. NULL: no memory, or no
 * random bytes. */
struct page_source *page_source_probe_new(uint32_t mib);

#endif
