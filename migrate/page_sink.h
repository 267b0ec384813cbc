/* SPDX-License-Identifier: Apache-2.0
 *
 * The seam between the receiver and what takes the rebuilt native stream. Everything handed to a
 * sink has been checked (STREAM.md, section 5).
 */
#ifndef HAMGR_MIGRATE_PAGE_SINK_H
#define HAMGR_MIGRATE_PAGE_SINK_H

#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"

struct page_sink;
struct session;

struct page_sink_ops {
    const char *name;
    /* All return 0 when the bytes were taken, or a negative error. They may wait (back-pressure),
     * through the session they were made with. */
    int (*raw)(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err);
    /* Heads and entries of a PAGE_DATA record. */
    int (*batch)(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err);
    /* The next count <= FRAME_PAGES_MAX pages of it, each wherever content[i] points. */
    int (*pages)(struct page_sink *sink, const uint8_t *const *content, uint32_t count,
                 struct ha_err *err);
    /* Closes its descriptors and frees. */
    void (*close)(struct page_sink *sink);
};

/* A driver embeds this first. */
struct page_sink {
    const struct page_sink_ops *ops;
};

/* Writes the native stream to fd (moved, made non-blocking); waits through session (borrowed).
 * NULL: no memory, fd closed. */
struct page_sink *page_sink_fd_new(int fd, struct session *session);

struct ring;

/* The same with batches in ring (moved; this is its producer) and markers in their places. NULL: no
 * memory; both closed. */
struct page_sink *page_sink_ring_new(int fd, struct ring *ring, struct session *session);

/* Keeps nothing, of at most mib MiB of pages and what belongs to them: a probe's. NULL: no memory.
 */
struct page_sink *page_sink_null_new(uint32_t mib, struct session *session);

#endif
