/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the whole receiver, frames to native stream. Input: records of u8 type, u24 size,
 * payload; the target puts good headers in front, so that the fuzzer works on what lies behind.
 * Whatever reached the sink must parse as the beginning of a native stream.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/native.h"
#include "migrate/recv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SINK_MAX (64u << 20)

struct sink_check {
    struct page_sink sink;
    struct native native;
    uint8_t carry[NATIVE_WINDOW_MIN + FRAME_RAW_MAX];
    size_t carry_size;
    uint64_t total;
};

static void require(int condition)
{
    if (!condition)
        abort();
}

static void swallow(struct sink_check *s, const uint8_t *data, size_t size)
{
    size_t at = 0;

    require(size <= sizeof(s->carry) - s->carry_size);
    if (size > 0)
        memcpy(s->carry + s->carry_size, data, size);
    s->carry_size += size;
    s->total += size;
    while (at < s->carry_size) {
        struct native_token token;
        require(native_next(&s->native, s->carry + at, s->carry_size - at, &token, NULL) == 0);
        if (token.kind == NATIVE_MORE)
            break;
        require(token.kind != NATIVE_END && token.kind != NATIVE_MARKER);
        at += token.size;
    }
    memmove(s->carry, s->carry + at, s->carry_size - at);
    s->carry_size -= at;
}

static int take_bytes(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err)
{
    struct sink_check *s = (struct sink_check *)sink;

    swallow(s, data, size);
    return s->total > SINK_MAX ? ha_err_set(err, HA_E_LIMIT, "enough") : 0;
}

static int take_pages(struct page_sink *sink, const uint8_t *const *content, uint32_t count,
                      struct ha_err *err)
{
    for (uint32_t i = 0; i < count; i++) {
        int rc = take_bytes(sink, content[i], FRAME_PAGE_SIZE, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void no_close(struct page_sink *sink)
{
    (void)sink;
}

static const struct page_sink_ops ops = {"check", take_bytes, take_bytes, take_pages, no_close};

/* Puts headers in front of the records; returns the wire's size. */
static size_t frame(uint8_t *wire, const uint8_t *data, size_t size)
{
    uint64_t sequence = 0;
    size_t out = 0;

    while (size >= 4) {
        size_t length = data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16;
        length = length < size - 4 ? length : size - 4;
        struct frame_header h = {.type = data[0] & 63u,
                                 .is_optional = (data[0] & 64u) != 0,
                                 .size = (uint32_t)length,
                                 .sequence = sequence++};
        frame_header_encode(wire + out, &h);
        memcpy(wire + out + FRAME_HEADER_SIZE, data + 4, length);
        out += FRAME_HEADER_SIZE + length;
        data += 4 + length;
        size -= 4 + length;
    }
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sink_check sink;
    struct ha_err err = {0};
    struct session session;
    uint8_t *wire = malloc(size * (FRAME_HEADER_SIZE / 4 + 1) + 1);
    struct receiver *receiver = receiver_new(0, &err);

    require(wire && receiver && session_init(&session, -1, 1000, 0, &err) == 0);
    sink.sink.ops = &ops;
    sink.carry_size = 0;
    sink.total = 0;
    native_init(&sink.native, false);
    session.chan = chan_mem_new(wire, frame(wire, data, size));
    require(session.chan != NULL);
    int rc = recv_stream(receiver, &session, &sink.sink, &err);
    require(rc < 0 || (native_is_done(&sink.native) && sink.carry_size == 0));
    require(rc == 0 || err.text[0] != '\0');
    session_fini(&session);
    receiver_free(receiver);
    free(wire);
    return 0;
}
