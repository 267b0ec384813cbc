/* SPDX-License-Identifier: Apache-2.0
 *
 * The fuzz targets' sink: whatever reaches it must parse as the beginning of a native stream, and
 * its digest says whether two runs delivered the same.
 */
#ifndef TESTS_FUZZ_SINK_CHECK_H
#define TESTS_FUZZ_SINK_CHECK_H

#include "migrate/native.h"
#include "migrate/page_sink.h"
#include "tests/fuzz/fuzz.h"

#define SINK_MAX (64u << 20)

struct sink_check {
    struct page_sink sink; /* first */
    struct native native;
    uint8_t carry[NATIVE_WINDOW_MIN + FRAME_RAW_MAX];
    size_t carry_size;
    uint64_t total;
    uint64_t sum; /* FNV-1a */
};

static inline void sink_check_swallow(struct sink_check *s, const uint8_t *data, size_t size)
{
    size_t at = 0;

    REQUIRE(size <= sizeof(s->carry) - s->carry_size);
    for (size_t i = 0; i < size; i++)
        s->sum = (s->sum ^ data[i]) * UINT64_C(0x100000001b3);
    if (size > 0)
        memcpy(s->carry + s->carry_size, data, size);
    s->carry_size += size;
    s->total += size;
    while (at < s->carry_size) {
        struct native_token token;
        REQUIRE(native_next(&s->native, s->carry + at, s->carry_size - at, &token, NULL) == 0);
        if (token.kind == NATIVE_MORE)
            break;
        REQUIRE(token.kind != NATIVE_END && token.kind != NATIVE_MARKER);
        at += token.size;
    }
    memmove(s->carry, s->carry + at, s->carry_size - at);
    s->carry_size -= at;
}

static inline int sink_check_bytes(struct page_sink *sink, const uint8_t *data, size_t size,
                                   struct ha_err *err)
{
    struct sink_check *s = (struct sink_check *)sink;

    sink_check_swallow(s, data, size);
    return s->total > SINK_MAX ? ha_err_set(err, HA_E_LIMIT, "enough") : 0;
}

static inline int sink_check_pages(struct page_sink *sink, const uint8_t *const *content,
                                   uint32_t count, struct ha_err *err)
{
    int rc = 0;

    for (uint32_t i = 0; i < count && rc == 0; i++)
        rc = sink_check_bytes(sink, content[i], FRAME_PAGE_SIZE, err);
    return rc;
}

static inline void sink_check_close(struct page_sink *sink)
{
    (void)sink;
}

static inline struct page_sink *sink_check_init(struct sink_check *s)
{
    static const struct page_sink_ops ops = {"check", sink_check_bytes, sink_check_bytes,
                                             sink_check_pages, sink_check_close};

    s->sink.ops = &ops;
    s->carry_size = 0;
    s->total = 0;
    s->sum = UINT64_C(0xcbf29ce484222325);
    native_init(&s->native, false);
    return &s->sink;
}

#endif
