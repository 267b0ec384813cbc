/* SPDX-License-Identifier: Apache-2.0
 *
 * The source of a probe (STREAM.md, section 10): the stream of a guest that never was, with pages
 * of random bytes, as many as are allowed and as fast as they are taken. Nothing reads a
 * descriptor.
 */
#include "migrate/page_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "hamgr/base/bytes.h"
#include "migrate/frame.h"
#include "migrate/native.h"

#define BATCH_PAGES 1024u
#define GROUP_BYTES ((size_t)FRAME_GROUP_PAGES * FRAME_PAGE_SIZE)
#define HEAD_BYTES  72u
#define TAIL_BYTES  16u
#define PAGES_MIB   256u

struct source_probe {
    struct page_source source;
    bool has_head, has_tail;
    uint64_t page;       /* the next one */
    uint64_t end;        /* of all */
    uint32_t batch_left; /* of the open batch */
    uint8_t head[HEAD_BYTES];
    uint8_t tail[TAIL_BYTES]; /* both END records */
    uint8_t batch[NATIVE_BATCH_HEAD + 8 * BATCH_PAGES];
    uint8_t *group; /* the same random bytes again and again: nothing here looks for what repeats */
};

/* Both headers of an HVM guest's stream, up to its first page. */
static void make_head(uint8_t *ret_bytes)
{
    static const uint8_t head[HEAD_BYTES] = {
        'L',  'i',  'b',  'x',  'l',  'F',  'm',  't',
        0,    0,    0,    2,    0,    0,    0,    0, /* libxl */
        1,    0,    0,    0,    0,    0,    0,    0, /* LIBXC_CONTEXT */
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        'X',  'E',  'N',  'F',  0,    0,    0,    3, /* libxc */
        0,    0,    0,    0,    0,    0,    0,    0, /* options */
        2,    0,    0,    0,    12,   0,    0,    0,
        4,    0,    0,    0,    17,   0,    0,    0, /* domain */
        16,   0,    0,    0,    0,    0,    0,    0, /* STATIC_DATA_END */
    };

    memcpy(ret_bytes, head, sizeof(head));
}

static int give(struct page_item *item, uint8_t kind, const uint8_t *data, size_t size)
{
    memset(item, 0, sizeof(*item));
    item->kind = kind;
    item->data = data;
    item->size = size;
    return 1;
}

static int give_batch(struct source_probe *s, struct page_item *item)
{
    uint64_t left = s->end - s->page;
    uint32_t count = left < BATCH_PAGES ? (uint32_t)left : BATCH_PAGES;
    struct ha_writer w = ha_writer_of(s->batch + NATIVE_BATCH_HEAD, 8 * BATCH_PAGES);

    native_batch_head(s->batch, count, count);
    for (uint32_t i = 0; i < count; i++)
        ha_put_u64(&w, s->page + i);
    s->batch_left = count;
    give(item, PAGE_ITEM_BATCH, s->batch, NATIVE_BATCH_HEAD + w.position);
    item->count = item->data_count = count;
    item->entries = s->batch + NATIVE_BATCH_HEAD;
    item->is_hvm = true;
    return 1;
}

static int give_pages(struct source_probe *s, struct page_item *item)
{
    uint32_t count = s->batch_left < FRAME_GROUP_PAGES ? s->batch_left : FRAME_GROUP_PAGES;

    s->batch_left -= count;
    s->page += count;
    give(item, PAGE_ITEM_PAGES, s->group, (size_t)count * FRAME_PAGE_SIZE);
    item->count = count;
    return 1;
}

static int probe_next(struct page_source *source, struct page_item *ret_item, struct ha_err *err)
{
    struct source_probe *s = (struct source_probe *)source;

    (void)err;
    if (!s->has_head) {
        s->has_head = true;
        return give(ret_item, PAGE_ITEM_RAW, s->head, sizeof(s->head));
    }
    if (s->batch_left > 0)
        return give_pages(s, ret_item);
    if (s->page < s->end)
        return give_batch(s, ret_item);
    if (!s->has_tail) {
        s->has_tail = true;
        return give(ret_item, PAGE_ITEM_RAW, s->tail, sizeof(s->tail));
    }
    return give(ret_item, PAGE_ITEM_END, NULL, 0);
}

static bool probe_tell(struct page_source *source, uint64_t taken)
{
    (void)source;
    (void)taken;
    return true; /* there is nobody who wants to know */
}

static void probe_close(struct page_source *source)
{
    struct source_probe *s = (struct source_probe *)source;

    free(s->group);
    free(s);
}

static const struct page_source_ops probe_ops = {
    .name = "probe",
    .next = probe_next,
    .tell = probe_tell,
    .close = probe_close,
};

static bool fill_random(uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t r = getrandom(bytes, size, 0);
        if (r < 0 && errno != EINTR)
            return false;
        bytes += r > 0 ? r : 0;
        size -= r > 0 ? (size_t)r : 0;
    }
    return true;
}

struct page_source *page_source_probe_new(uint32_t mib)
{
    struct source_probe *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->source.ops = &probe_ops;
    s->source.fd = -1;
    s->end = (uint64_t)mib * PAGES_MIB;
    s->group = malloc(GROUP_BYTES);
    make_head(s->head);
    if (s->group && fill_random(s->group, GROUP_BYTES))
        return &s->source;
    probe_close(&s->source);
    return NULL;
}
