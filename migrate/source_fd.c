/* SPDX-License-Identifier: Apache-2.0
 *
 * Both feeders: the native stream on a descriptor, its batches in it or in a ring beside it.
 */
#include "migrate/page_source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hamgr/ipc/takenproto.h"
#include "migrate/frame.h"
#include "migrate/native.h"
#include "migrate/ring.h"

#define WINDOW   (1u << 20) /* > NATIVE_WINDOW_MIN and > 2 page groups */
#define READ_MIN 65536u     /* less room than this at the window's end: move what is left forward */

struct source_fd {
    struct page_source source;
    struct native native;
    uint8_t *window;
    size_t start; /* of what the parser has not consumed */
    size_t end;
    bool is_mute;   /* the feeder can't be told anything: a pipe, or it is gone */
    bool has_stash; /* a token that ended a run of RAW ones: the next item */
    struct native_token stash;
    /* feeder 2 */
    struct ring *ring;
    struct ring_batch batch; /* the open one */
    uint32_t batch_left;     /* pages not yet handed out; 0 and is_open: to be released */
    bool is_open;
    uint8_t *copy; /* one batch's heads and entries */
};

/* Reads once. Returns 1 when bytes came, 0 when none are there, or a negative error. */
static int fill(struct source_fd *s, struct ha_err *err)
{
    ssize_t r;

    if (s->start == s->end)
        s->start = s->end = 0;
    if (WINDOW - s->end < READ_MIN) {
        memmove(s->window, s->window + s->start, s->end - s->start);
        s->end -= s->start;
        s->start = 0;
    }
    do
        r = read(s->source.fd, s->window + s->end, WINDOW - s->end);
    while (r < 0 && errno == EINTR);
    if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (r < 0 && errno != ECONNRESET)
        return ha_err_set(err, errno, "native stream: %s", strerror(errno));
    /* A socket whose other end was closed before it read all we told says so. */
    if (r <= 0)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: it ended before its end record");
    s->end += (size_t)r;
    return 1;
}

static void give(struct page_item *item, uint8_t kind, const uint8_t *data, size_t size)
{
    memset(item, 0, sizeof(*item));
    item->kind = kind;
    item->data = data;
    item->size = size;
}

/* Feeder 2: opens the batch a marker names, checked like one that came on the fd. */
static int open_batch(struct source_fd *s, const struct native_token *token, struct page_item *item,
                      struct ha_err *err)
{
    uint32_t data_count = 0;
    int rc = ring_take(s->ring, token->marker_batch, token->marker_slot, &s->batch, err);

    if (rc < 0)
        return rc;
    s->is_open = true;
    s->batch_left = s->batch.data_count;
    rc = native_check_entries(&s->native, s->batch.entries, s->batch.count, &data_count, err);
    if (rc < 0)
        return rc;
    if (data_count != s->batch.data_count)
        return ha_err_set(err, HA_E_CORRUPT, "ring: %u pages for %u entries with data",
                          (unsigned)s->batch.data_count, (unsigned)data_count);
    size_t size = NATIVE_BATCH_HEAD + 8 * (size_t)s->batch.count;
    native_batch_head(s->copy, s->batch.count, data_count);
    memcpy(s->copy + NATIVE_BATCH_HEAD, s->batch.entries, size - NATIVE_BATCH_HEAD);
    give(item, PAGE_ITEM_BATCH, s->copy, size);
    item->count = s->batch.count;
    item->data_count = data_count;
    item->entries = s->copy + NATIVE_BATCH_HEAD;
    item->is_hvm = native_is_hvm(&s->native);
    item->is_verifying = native_is_verifying(&s->native);
    return 1;
}

/* Feeder 2: the slot's next pages, where they are; it goes back when all were given. No more than a
 * group at a time: what they became is sent while it is still in the processor's cache. */
static int give_slot(struct source_fd *s, struct page_item *item)
{
    uint32_t given = s->batch.data_count - s->batch_left;
    uint32_t count = s->batch_left < FRAME_GROUP_PAGES ? s->batch_left : FRAME_GROUP_PAGES;

    give(item, PAGE_ITEM_PAGES, s->batch.pages + (size_t)given * FRAME_PAGE_SIZE,
         (size_t)count * FRAME_PAGE_SIZE);
    item->count = count;
    item->is_shared = true;
    s->batch_left -= count;
    return 1;
}

static int give_token(struct source_fd *s, const struct native_token *token, struct page_item *item,
                      struct ha_err *err)
{
    const uint8_t *data = s->window + s->start;

    s->start += token->size;
    switch ((enum native_token_kind)token->kind) {
    case NATIVE_BATCH:
        give(item, PAGE_ITEM_BATCH, data, token->size);
        item->count = token->count;
        item->data_count = token->data_count;
        item->entries = token->entries;
        item->is_hvm = native_is_hvm(&s->native);
        item->is_verifying = native_is_verifying(&s->native);
        return 1;
    case NATIVE_PAGES:
        give(item, PAGE_ITEM_PAGES, data, token->size);
        item->count = token->count;
        return 1;
    case NATIVE_MARKER:
        return open_batch(s, token, item, err);
    case NATIVE_END:
        give(item, PAGE_ITEM_END, NULL, 0);
        return 1;
    case NATIVE_MORE:
    case NATIVE_RAW:
        break;
    }
    return ha_err_set(err, HA_E_CORRUPT, "native stream: parser in disorder");
}

/* Joins neighbouring RAW tokens of the window into one item; what ends the run is kept for the next
 * call. Returns 1, 0 when more bytes are needed first, or an error. */
static int collect(struct source_fd *s, struct page_item *item, struct ha_err *err)
{
    struct native_token token = s->stash;
    int rc = 0;

    if (!s->has_stash)
        rc = native_next(&s->native, s->window + s->start, s->end - s->start, &token, err);
    s->has_stash = false;
    if (rc < 0 || token.kind == NATIVE_MORE)
        return rc;
    if (token.kind != NATIVE_RAW)
        return give_token(s, &token, item, err);
    size_t taken = token.size;
    while (taken < FRAME_RAW_MAX) {
        size_t at = s->start + taken;
        rc = native_next(&s->native, s->window + at, s->end - at, &token, err);
        if (rc < 0)
            return rc;
        if (token.kind == NATIVE_MORE)
            break;
        if (token.kind != NATIVE_RAW || taken + token.size > FRAME_RAW_MAX) {
            s->stash = token;
            s->has_stash = true;
            break;
        }
        taken += token.size;
    }
    give(item, PAGE_ITEM_RAW, s->window + s->start, taken);
    s->start += taken;
    return 1;
}

static int source_next(struct page_source *source, struct page_item *ret_item, struct ha_err *err)
{
    struct source_fd *s = (struct source_fd *)source;

    for (;;) {
        if (s->is_open && s->batch_left > 0)
            return give_slot(s, ret_item);
        if (s->is_open)
            ring_release(s->ring);
        s->is_open = false;
        int rc = collect(s, ret_item, err);
        if (rc != 0)
            return rc;
        rc = fill(s, err);
        if (rc <= 0)
            return rc;
    }
}

static bool source_tell(struct page_source *source, uint64_t taken)
{
    struct source_fd *s = (struct source_fd *)source;
    uint8_t record[TAKEN_SIZE];
    struct iovec piece = {.iov_base = record, .iov_len = sizeof(record)};
    const struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};

    if (s->is_mute)
        return true;
    taken_encode(record, taken);
    ssize_t r = sendmsg(source->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (r < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    s->is_mute = r != (ssize_t)sizeof(record);
    return true;
}

static void source_close(struct page_source *source)
{
    struct source_fd *s = (struct source_fd *)source;

    ring_free(s->ring);
    close(source->fd);
    free(s->window);
    free(s->copy);
    free(s);
}

static const struct page_source_ops fd_ops = {
    .name = "fd",
    .next = source_next,
    .tell = source_tell,
    .close = source_close,
};

static const struct page_source_ops ring_ops = {
    .name = "ring",
    .next = source_next,
    .tell = source_tell,
    .close = source_close,
};

struct page_source *page_source_fd_new(int fd, struct ring *ring)
{
    struct source_fd *s = calloc(1, sizeof(*s));

    if (!s) {
        close(fd);
        ring_free(ring);
        return NULL;
    }
    s->source.ops = ring ? &ring_ops : &fd_ops;
    s->source.fd = fd;
    s->ring = ring;
    s->window = malloc(WINDOW);
    s->copy = ring ? malloc(NATIVE_BATCH_HEAD + 8 * RING_PAGES_MAX) : NULL;
    if (!s->window || (ring && !s->copy)) {
        source_close(&s->source);
        return NULL;
    }
    native_init(&s->native, ring != NULL);
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return &s->source;
}
