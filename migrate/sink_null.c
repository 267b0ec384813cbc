/* SPDX-License-Identifier: Apache-2.0
 *
 * The sink of a probe (STREAM.md, section 10): counts what it is given, keeps none of it, and takes
 * no more than a probe may be.
 */
#include "migrate/page_sink.h"

#include <stdlib.h>

#include "migrate/frame.h"
#include "migrate/session.h"

/* Of a page: its entry, and its part of the heads of its batch. Besides, the stream's own head and
 * end. */
#define PAGE_MOST  (FRAME_PAGE_SIZE + 16u)
#define FRAME_MOST 4096u

struct sink_null {
    struct page_sink sink;
    struct session *session;
    uint64_t left;
};

static int take(struct sink_null *s, uint64_t size, struct ha_err *err)
{
    if (size > s->left)
        return ha_err_set(err, HA_E_LIMIT, "a probe of more than was agreed on");
    s->left -= size;
    session_moved(s->session, size);
    return 0;
}

static int null_bytes(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err)
{
    (void)data;
    return take((struct sink_null *)sink, size, err);
}

static int null_pages(struct page_sink *sink, const uint8_t *const *content, uint32_t count,
                      struct ha_err *err)
{
    (void)content;
    return take((struct sink_null *)sink, (uint64_t)count * FRAME_PAGE_SIZE, err);
}

static void null_close(struct page_sink *sink)
{
    free(sink);
}

static const struct page_sink_ops null_ops = {
    .name = "null",
    .raw = null_bytes,
    .batch = null_bytes,
    .pages = null_pages,
    .close = null_close,
};

struct page_sink *page_sink_null_new(uint32_t mib, struct session *session)
{
    struct sink_null *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->sink.ops = &null_ops;
    s->session = session;
    s->left = (uint64_t)mib * (1048576u / FRAME_PAGE_SIZE) * PAGE_MOST + FRAME_MOST;
    return &s->sink;
}
