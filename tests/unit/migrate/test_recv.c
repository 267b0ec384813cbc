/* SPDX-License-Identifier: Apache-2.0
 *
 * The receiver against a hostile sender that passed TLS: every broken rule ends the stream, and
 * nothing but a prefix of the true native stream ever reached the sink. Codec and bombs too.
 */
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <xxhash.h>
#include <zstd.h>

#include "hamgr/base/rng.h"
#include "migrate/codec.h"
#include "migrate/native.h"
#include "migrate/recv.h"
#include "nativegen.h"

#define WIRE_MAX   (4u << 20)
#define NATIVE_MAX 65536u

/* ---- a sink in memory ---- */

struct sink_mem {
    struct page_sink sink;
    uint8_t data[1u << 20];
    size_t size;
};

static int mem_bytes(struct page_sink *sink, const uint8_t *data, size_t size, struct ha_err *err)
{
    struct sink_mem *m = (struct sink_mem *)sink;

    (void)err;
    assert_in_range(size, 0, sizeof(m->data) - m->size);
    if (size > 0)
        memcpy(m->data + m->size, data, size);
    m->size += size;
    return 0;
}

static int mem_pages(struct page_sink *sink, const uint8_t *const *content, uint32_t count,
                     struct ha_err *err)
{
    for (uint32_t i = 0; i < count; i++)
        mem_bytes(sink, content[i], 4096, err);
    return 0;
}

static void mem_close(struct page_sink *sink)
{
    (void)sink;
}

static const struct page_sink_ops mem_ops = {"memory", mem_bytes, mem_bytes, mem_pages, mem_close};

/* ---- a script of frames ---- */

struct script {
    uint8_t *wire;
    size_t size;
    uint64_t sequence; /* of the next frame put */
    uint64_t first;    /* of the first one */
};

static uint8_t native[NATIVE_MAX];
static size_t native_size;
static size_t first_batch; /* offset of the first PAGE_DATA record */
static struct sink_mem sink;
static uint8_t wire_buffer[WIRE_MAX];
static unsigned worker_count;

static void put_frame(struct script *s, uint16_t type, const void *payload, size_t size)
{
    struct frame_header h = {.type = type, .size = (uint32_t)size, .sequence = s->sequence++};

    assert_in_range(size, 0, WIRE_MAX - s->size - FRAME_HEADER_SIZE);
    frame_header_encode(s->wire + s->size, &h);
    if (size > 0)
        memcpy(s->wire + s->size + FRAME_HEADER_SIZE, payload, size);
    s->size += FRAME_HEADER_SIZE + size;
}

static void put_raw(struct script *s, size_t from, size_t to)
{
    static uint8_t payload[FRAME_RAW_HEAD + FRAME_RAW_MAX];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));
    struct frame_raw m = {.codec = FRAME_STORE, .raw_size = (uint32_t)(to - from)};

    frame_raw_encode(&w, &m);
    ha_put_raw(&w, native + from, to - from);
    put_frame(s, FRAME_RAW, payload, w.position);
}

static void put_batch(struct script *s, uint64_t batch, const uint64_t *entries, uint32_t count,
                      uint32_t data_count)
{
    uint8_t payload[1024];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));
    struct frame_batch m = {.batch = batch, .count = count, .data_count = data_count};

    frame_batch_encode(&w, &m);
    for (uint32_t i = 0; i < count; i++)
        ha_put_u64(&w, entries[i]);
    put_frame(s, FRAME_BATCH, payload, w.position);
}

/* Stored pages out of the native stream; from = NULL: zero ones. */
static void put_pages(struct script *s, uint64_t batch, uint32_t first, uint16_t count,
                      const uint8_t *from)
{
    static uint8_t payload[FRAME_PAGES_FRONT + FRAME_RAW_MAX];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));
    struct frame_pages m = {.batch = batch, .first = first, .count = count};

    for (uint16_t i = 0; i < count; i++)
        m.kind[i] = from ? FRAME_DATA : FRAME_ZERO;
    m.raw_size = from ? 4096u * count : 0;
    frame_pages_encode(&w, &m);
    if (from)
        ha_put_raw(&w, from, m.raw_size);
    put_frame(s, FRAME_PAGES, payload, w.position);
}

static void put_end(struct script *s, uint64_t raw_bytes, uint64_t batches, uint64_t pages,
                    uint8_t damage)
{
    uint8_t payload[64];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));
    XXH128_hash_t hash = XXH3_128bits(native, native_size);
    struct frame_end m = {.raw_bytes = raw_bytes,
                          .batches = batches,
                          .pages = pages,
                          .digest_kind = FRAME_XXH3_128,
                          .digest = {.low = hash.low64 ^ damage, .high = hash.high64}};

    frame_end_encode(&w, &m);
    put_frame(s, FRAME_END, payload, w.position);
}

#define BATCH_HEAD_0 (16u + 8u * 6u)
#define PAGES_0      (native + first_batch + BATCH_HEAD_0)
#define AFTER_0      (first_batch + BATCH_HEAD_0 + 5u * 4096u)
#define AFTER_1      (AFTER_0 + 16u + 8u + 4096u)
#define AFTER_2      (AFTER_1 + 16u + 16u)

static const uint64_t one_entry[] = {77};
static const uint64_t hole_entries[] = {UINT64_C(0xe) << 60 | 9, UINT64_C(0xd) << 60 | 10};

/* The whole stream in good frames, up to (not including) step `stop`. */
static struct script good_until(unsigned stop)
{
    struct script s = {.wire = wire_buffer};

    for (unsigned step = 0; step < stop; step++)
        switch (step) {
        case 0:
            put_raw(&s, 0, first_batch - 3); /* a record's head in two frames */
            break;
        case 1:
            put_raw(&s, first_batch - 3, first_batch);
            break;
        case 2:
            put_batch(&s, 0, gen_entries, 6, 5);
            break;
        case 3:
            put_pages(&s, 0, 0, 2, PAGES_0);
            break;
        case 4:
            put_pages(&s, 0, 2, 3, PAGES_0 + 2 * 4096);
            break;
        case 5:
            put_batch(&s, 1, one_entry, 1, 1);
            break;
        case 6:
            put_pages(&s, 1, 0, 1, NULL);
            break;
        case 7:
            put_batch(&s, 2, hole_entries, 2, 0);
            break;
        case 8:
            put_raw(&s, AFTER_2, native_size);
            break;
        default:
            put_end(&s, native_size, 3, 6, 0);
            break;
        }
    return s;
}
#define STEPS 10u

static int run(const struct script *s, struct ha_err *err)
{
    struct session session;
    struct receiver *receiver = receiver_new(worker_count, err);

    memset(err, 0, sizeof(*err));
    sink.sink.ops = &mem_ops;
    sink.size = 0;
    assert_non_null(receiver);
    assert_int_equal(session_init(&session, -1, 1000, 0, err), 0);
    /* An own copy of exactly that size: a sanitizer sees a byte read too many. */
    uint8_t *wire = malloc(s->size + 1);
    assert_non_null(wire);
    memcpy(wire, s->wire, s->size);
    session.chan = chan_mem_new(wire, s->size);
    assert_non_null(session.chan);
    session.inbox.sequence = s->first;
    int rc = recv_stream(receiver, &session, &sink.sink, err);
    assert_int_equal(session.progress.raw_bytes, 0); /* the fd sink counts, this one does not */
    session_fini(&session);
    receiver_free(receiver);
    free(wire);
    return rc;
}

/* Must fail, with those words, and the sink holds a prefix of the true stream: never its end, for a
 * restore that saw it may be done. */
static void refused(const struct script *s, const char *words)
{
    struct ha_err err;
    int rc = run(s, &err);

    if (rc >= 0 || !strstr(err.text, words))
        fail_msg("wanted \"%s\", got %d \"%s\"", words, rc, err.text);
    assert_true(sink.size <= native_size - NATIVE_LAST_SIZE);
    assert_memory_equal(sink.data, native, sink.size);
}

static int setup(void **state)
{
    (void)state;
    native_size = gen_hvm_stream(native, sizeof(native));
    /* headers 16+8+24+16, CPUID 8+24, MSR 8+16, STATIC_DATA_END 8 */
    first_batch = 16 + 8 + 40 + 32 + 24 + 8;
    return memcmp(native + first_batch, "\1\0\0\0", 4) != 0;
}

static void good_stream(void **state)
{
    struct script s = good_until(STEPS);
    struct ha_err err;

    (void)state;
    int rc = run(&s, &err);
    if (rc != 0)
        fail_msg("%s", err.text);
    assert_int_equal(sink.size, native_size);
    assert_memory_equal(sink.data, native, native_size);
}

static void cut_anywhere(void **state)
{
    struct script s = good_until(STEPS);
    size_t whole = s.size;

    (void)state;
    for (size_t n = 0; n < whole; n += n % 4096 < 100 || n + 2000 > whole ? 1 : 61) {
        s.size = n;
        refused(&s, "closed the connection");
    }
}

static void wrong_order(void **state)
{
    struct script s;

    (void)state;
    s = good_until(1); /* inside a record's head */
    put_batch(&s, 0, gen_entries, 6, 5);
    refused(&s, "BATCH out of order");
    s = good_until(2);
    put_batch(&s, 1, gen_entries, 6, 5);
    refused(&s, "BATCH out of order");
    s = good_until(2);
    put_pages(&s, 0, 0, 1, PAGES_0);
    refused(&s, "PAGES out of order");
    s = good_until(2);
    put_pages(&s, UINT64_MAX, 0, 1, PAGES_0);
    refused(&s, "PAGES out of order");
    s = good_until(3);
    put_raw(&s, AFTER_2, native_size);
    refused(&s, "RAW inside a batch");
    s = good_until(3);
    put_batch(&s, 1, one_entry, 1, 1);
    refused(&s, "BATCH out of order");
    s = good_until(3);
    put_pages(&s, 0, 1, 1, PAGES_0);
    refused(&s, "PAGES out of order");
    s = good_until(4);
    put_pages(&s, 0, 0, 2, PAGES_0); /* again */
    refused(&s, "PAGES out of order");
    s = good_until(4);
    put_pages(&s, 0, 2, 4, PAGES_0); /* one too many */
    refused(&s, "4 pages where 3 are due");
    s = good_until(5);
    put_pages(&s, 0, 5, 1, PAGES_0);
    refused(&s, "PAGES out of order");
    s = good_until(0);
    put_batch(&s, 0, gen_entries, 6, 5); /* before any header */
    refused(&s, "BATCH out of order");
}

static void wrong_frames(void **state)
{
    static const uint16_t types[] = {FRAME_HELLO, FRAME_WELCOME, FRAME_END_ACK};
    static const uint8_t zeros[128] = {1, 0, 1, 0};
    struct script s;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        s = good_until(3);
        put_frame(&s, types[i], zeros, types[i] == FRAME_END_ACK ? 24 : 96);
        refused(&s, "unexpected frame");
    }
    s = good_until(3);
    put_frame(&s, 200, zeros, 8);
    refused(&s, "unknown type 200");
    s = good_until(3);
    s.sequence++; /* a gap */
    put_pages(&s, 0, 0, 2, PAGES_0);
    refused(&s, "frame 4 where 3 is due");
    s = good_until(3);
    s.sequence--; /* a repetition */
    put_pages(&s, 0, 0, 2, PAGES_0);
    refused(&s, "frame 2 where 3 is due");
    s = good_until(3);
    size_t at = s.size;
    put_pages(&s, 0, 0, 2, PAGES_0);
    s.wire[at + 12] = 1;
    refused(&s, "epoch 1");
    s = good_until(3);
    put_frame(&s, FRAME_ABORT, "\x08\0\x04\0stop", 8);
    refused(&s, "the peer says: stop");
}

static void optional_frames_are_skipped(void **state)
{
    struct script s = good_until(3);
    struct ha_err err;

    (void)state;
    size_t at = s.size;
    put_frame(&s, 200, native, 5000);
    s.wire[at + 6] = 1; /* OPTIONAL */
    put_frame(&s, FRAME_PING, NULL, 0);
    struct script rest = {.wire = s.wire + s.size, .sequence = s.sequence};
    put_pages(&rest, 0, 0, 5, PAGES_0);
    put_batch(&rest, 1, one_entry, 1, 1);
    put_pages(&rest, 1, 0, 1, NULL);
    put_batch(&rest, 2, hole_entries, 2, 0);
    put_raw(&rest, AFTER_2, native_size);
    put_end(&rest, native_size, 3, 6, 0);
    s.size += rest.size;
    assert_int_equal(run(&s, &err), 0);
    assert_memory_equal(sink.data, native, native_size);
}

static void pages_hidden_in_raw(void **state)
{
    struct script s = good_until(2);

    (void)state;
    put_raw(&s, first_batch, AFTER_0);
    refused(&s, "pages in a RAW frame");
    s = good_until(2);
    put_raw(&s, first_batch, first_batch + 10); /* only its head: waits for more */
    put_raw(&s, first_batch + 10, AFTER_0);
    refused(&s, "pages in a RAW frame");
    assert_int_equal(sink.size, first_batch);
    s = good_until(2);
    put_raw(&s, first_batch, first_batch + 10);
    put_end(&s, native_size, 3, 6, 0);
    refused(&s, "END before");
}

static void wrong_entries(void **state)
{
    static const uint64_t far[] = {UINT64_C(1) << 40};
    static const uint64_t table[] = {UINT64_C(2) << 60 | 1};
    static const uint64_t type5[] = {UINT64_C(5) << 60 | 1};
    struct script s = good_until(2);

    (void)state;
    put_batch(&s, 0, far, 1, 1);
    refused(&s, "out of range");
    s = good_until(2);
    put_batch(&s, 0, table, 1, 1);
    refused(&s, "page table in an HVM guest");
    s = good_until(2);
    put_batch(&s, 0, type5, 1, 1);
    refused(&s, "page type 5");
    s = good_until(2);
    put_batch(&s, 0, gen_entries, 6, 6); /* five of them carry data */
    refused(&s, "PAGE_DATA");
    s = good_until(2);
    put_batch(&s, 0, gen_entries, 6, 4);
    refused(&s, "PAGE_DATA");
    assert_int_equal(sink.size, first_batch);
}

static void wrong_ends(void **state)
{
    struct script s = good_until(8);

    (void)state;
    put_end(&s, native_size, 3, 6, 0);
    refused(&s, "END before");
    s = good_until(9);
    put_end(&s, native_size + 1, 3, 6, 0);
    refused(&s, "END states");
    s = good_until(9);
    put_end(&s, native_size, 2, 6, 0);
    refused(&s, "END states");
    s = good_until(9);
    put_end(&s, native_size, 3, 7, 0);
    refused(&s, "END states");
    s = good_until(9);
    put_end(&s, native_size, 3, 6, 1);
    refused(&s, "digest differs");
    /* More of the native stream behind its end. */
    s = good_until(9);
    put_raw(&s, 0, 16);
    refused(&s, "bytes behind its end");
}

/* One byte of a page changed on the way (TLS would not let it through; a mistake of ours might). */
static void damaged_page(void **state)
{
    struct script s = good_until(STEPS);
    struct ha_err err;

    (void)state;
    struct script before = good_until(4);
    size_t at = before.size - 100;
    s = good_until(STEPS);
    s.wire[at] ^= 1;
    assert_int_equal(run(&s, &err), -HA_E_PEER);
    assert_non_null(strstr(err.text, "digest differs"));
    assert_int_equal(sink.size, native_size - NATIVE_LAST_SIZE); /* no restore is done with it */
}

/* ---- SETUP, slots, deltas ---- */

/* As good_until(3), with SETUP in front: the batch of five pages is open. */
static struct script with_cache(uint32_t cache_pages)
{
    uint8_t payload[FRAME_SETUP_SIZE];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));
    struct frame_setup m = {.cache_pages = cache_pages, .secret = {1, 2, 3}};
    struct script s = {.wire = wire_buffer};

    frame_setup_encode(&w, &m);
    put_frame(&s, FRAME_SETUP, payload, w.position);
    put_raw(&s, 0, first_batch);
    put_batch(&s, 0, gen_entries, 6, 5);
    return s;
}

/* count pages of one kind, stored; data holds their content or deltas. */
static void put_kinds(struct script *s, uint32_t first, uint8_t kind, uint16_t count,
                      const uint32_t *slots, const uint8_t *data, uint32_t size)
{
    static uint8_t payload[FRAME_PAGES_FRONT + FRAME_RAW_MAX];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));
    struct frame_pages m = {.first = first, .count = count, .raw_size = size};

    memset(m.kind, kind, count);
    m.delta_size = kind == FRAME_DELTA ? size : 0;
    m.slot_count = count;
    memcpy(m.slot, slots, count * sizeof(*slots));
    frame_pages_encode(&w, &m);
    ha_put_raw(&w, data, size);
    put_frame(s, FRAME_PAGES, payload, w.position);
}

static void cache_rules(void **state)
{
    static const uint8_t nothing[16];                          /* two deltas: no line changed */
    static const uint8_t cut[9] = {1, 0, 0, 0, 0, 0, 0, 0, 1}; /* a line, a word, and no word */
    static const uint32_t zero[] = {0}, four[] = {4}, twice[] = {2, 2}, both[] = {0, 1};
    struct script s;
    struct ha_err err;

    (void)state;
    for (worker_count = 0; worker_count < 3; worker_count += 2) {
        s = with_cache(4);
        put_kinds(&s, 0, FRAME_KEEP, 1, four, PAGES_0, 4096);
        refused(&s, "cache slot 4 of 4");
        s = with_cache(0);
        put_kinds(&s, 0, FRAME_KEEP, 1, zero, PAGES_0, 4096);
        refused(&s, "cache slot 0 of 0");
        s = with_cache(4);
        put_kinds(&s, 0, FRAME_DELTA, 1, zero, nothing, 8);
        refused(&s, "which is empty");
        s = with_cache(4);
        put_kinds(&s, 0, FRAME_KEEP, 2, twice, PAGES_0, 8192);
        refused(&s, "twice in a frame");
        s = with_cache(4);
        put_kinds(&s, 0, FRAME_KEEP, 2, both, PAGES_0, 8192);
        put_kinds(&s, 2, FRAME_DELTA, 1, zero, cut, 9);
        put_end(&s, 0, 0, 0, 0); /* a worker's verdict comes at the latest with the end */
        assert_true(run(&s, &err) < 0);
        s = with_cache(4);
        put_kinds(&s, 0, FRAME_KEEP, 2, both, PAGES_0, 8192);
        put_kinds(&s, 2, FRAME_DELTA, 1, zero, nothing, 16);
        put_end(&s, 0, 0, 0, 0);
        assert_true(run(&s, &err) < 0);
        s = with_cache(FRAME_CACHE_MAX + 1);
        refused(&s, "the cache is too large");
        s = with_cache(4); /* a second one */
        s.size = FRAME_HEADER_SIZE + FRAME_SETUP_SIZE;
        memcpy(s.wire + s.size, s.wire, s.size);
        s.wire[s.size + 16] = 1; /* sequence */
        s.size *= 2;
        refused(&s, "SETUP out of order");
    }
    worker_count = 0;
}

/* What KEEP put into a slot is what a delta changes; the slot follows. */
static void deltas_build_on_slots(void **state)
{
    static const uint8_t change[17] = {1,   0,   0,   0,   0,   0,   0,   0,  1,
                                       'c', 'h', 'a', 'n', 'g', 'e', 'd', '!'};
    static const uint8_t nothing[8];
    static const uint32_t slot[] = {3};
    struct script s;
    struct ha_err err;

    (void)state;
    for (worker_count = 0; worker_count < 3; worker_count += 2) {
        s = with_cache(4);
        put_kinds(&s, 0, FRAME_KEEP, 1, slot, PAGES_0, 4096);
        put_kinds(&s, 1, FRAME_DELTA, 1, slot, change, sizeof(change));
        put_kinds(&s, 2, FRAME_DELTA, 1, slot, nothing, sizeof(nothing));
        assert_true(run(&s, &err) < 0); /* the stream ends there */
        if (worker_count == 0) {
            const uint8_t *pages = sink.data + first_batch + BATCH_HEAD_0;
            assert_int_equal(sink.size, first_batch + BATCH_HEAD_0 + 3 * 4096);
            assert_memory_equal(pages, PAGES_0, 4096);
            assert_memory_equal(pages + 4096, "changed!", 8);
            assert_memory_equal(pages + 4096 + 8, PAGES_0 + 8, 4088);
            assert_memory_equal(pages + 8192, pages + 4096, 4096);
        }
    }
    worker_count = 0;
}

/* ---- codec ---- */

static void put_zstd_pages(struct script *s, const uint8_t *data, size_t size, uint16_t count)
{
    static uint8_t payload[FRAME_PAGES_FRONT + FRAME_RAW_MAX];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));
    struct frame_pages m = {.count = count, .codec = FRAME_ZSTD, .raw_size = 4096u * count};

    memset(m.kind, FRAME_DATA, count);
    frame_pages_encode(&w, &m);
    ha_put_raw(&w, data, size);
    put_frame(s, FRAME_PAGES, payload, w.position);
}

static size_t compress(uint8_t *dst, size_t capacity, const uint8_t *src, size_t size, int has_size)
{
    ZSTD_CCtx *ctx = ZSTD_createCCtx();

    assert_non_null(ctx);
    (void)ZSTD_CCtx_setParameter(ctx, ZSTD_c_contentSizeFlag, has_size);
    size_t r = ZSTD_compress2(ctx, dst, capacity, src, size);
    assert_false(ZSTD_isError(r));
    ZSTD_freeCCtx(ctx);
    return r;
}

/* A frame as zstd 0.7 wrote them: magic, 2 bytes of size (less 256), stored blocks, an end block.
 */
static size_t put_old_frame(uint8_t *dst, const uint8_t *src, uint32_t size)
{
    const uint8_t head[] = {
        0x27, 0xb5, 0x2f, 0xfd, 0x60, (uint8_t)(size - 256), (uint8_t)((size - 256) >> 8)};
    const uint8_t block[] = {(uint8_t)(0x40 | size >> 16), (uint8_t)(size >> 8), (uint8_t)size};
    size_t used = sizeof(head) + sizeof(block);

    memcpy(dst, head, sizeof(head));
    memcpy(dst + sizeof(head), block, sizeof(block));
    memcpy(dst + used, src, size);
    memcpy(dst + used + size, "\xc0\0\0", 3);
    return used + size + 3;
}

static void bombs(void **state)
{
    static uint8_t zeros[64u << 20];
    static uint8_t packed[FRAME_RAW_MAX];
    struct script s;

    (void)state;
    /* 64 MiB of zeros in a few KiB, stated as 5 pages. */
    size_t size = compress(packed, sizeof(packed), zeros, sizeof(zeros), 1);
    assert_in_range(size, 1, 10000);
    s = good_until(3);
    put_zstd_pages(&s, packed, size, 5);
    refused(&s, "does not state 20480 bytes");
    /* The same without a stated size. */
    size = compress(packed, sizeof(packed), zeros, sizeof(zeros), 0);
    s = good_until(3);
    put_zstd_pages(&s, packed, size, 5);
    refused(&s, "does not state 20480 bytes");
    /* Five pages and one byte, five pages less one. */
    for (int off = -1; off <= 1; off += 2) {
        size = compress(packed, sizeof(packed), zeros, (size_t)(20480 + off), 1);
        s = good_until(3);
        put_zstd_pages(&s, packed, size, 5);
        refused(&s, "does not state 20480 bytes");
    }
    /* Right, with something behind it; two frames; a skippable frame. */
    size = compress(packed, sizeof(packed), PAGES_0, 20480, 1);
    packed[size] = 0;
    s = good_until(3);
    put_zstd_pages(&s, packed, size + 1, 5);
    refused(&s, "not one zstd frame");
    memmove(packed + size, packed, size);
    s = good_until(3);
    put_zstd_pages(&s, packed, 2 * size, 5);
    refused(&s, "not one zstd frame");
    s = good_until(3);
    put_zstd_pages(&s, (const uint8_t *)"\x50\x2a\x4d\x18\x04\0\0\0abcd", 12, 5);
    refused(&s, "not a zstd frame");
    /* zstd 0.7's format, which the library may still take: 20480 stored bytes, well-formed. */
    size = put_old_frame(packed, PAGES_0, 20480);
    s = good_until(3);
    put_zstd_pages(&s, packed, size, 5);
    refused(&s, "not a zstd frame");
    /* A stated size that lies: the header's field changed, the content as before. */
    size = compress(packed, sizeof(packed), zeros, 30000, 1);
    struct codec *codec = codec_new(0);
    assert_non_null(codec);
    uint8_t *out = malloc(20480);
    assert_non_null(out);
    for (size_t at = 4; at < 9 && at < size; at++)
        for (unsigned value = 0; value < 256; value++) {
            uint8_t old = packed[at];
            packed[at] = (uint8_t)value;
            (void)codec_decode(codec, FRAME_ZSTD, packed, size, out, 20480, NULL);
            packed[at] = old;
        }
    free(out);
    codec_free(codec);
}

static void codec_round_trip(void **state)
{
    static uint8_t src[FRAME_RAW_MAX], dst[FRAME_RAW_MAX], back[FRAME_RAW_MAX];
    struct codec *codec = codec_new(1);
    struct ha_rng rng = {.state = 5};
    struct ha_err err = {0};

    (void)state;
    assert_non_null(codec);
    for (size_t i = 0; i < sizeof(src); i++)
        src[i] = (uint8_t)(i / 7);
    size_t size = codec_encode(codec, src, sizeof(src), dst, sizeof(dst), true);
    assert_in_range(size, 1, sizeof(src) / 4);
    assert_int_equal(codec_decode(codec, FRAME_ZSTD, dst, size, back, sizeof(back), &err), 0);
    assert_memory_equal(src, back, sizeof(src));
    for (size_t n = 0; n < size; n += 5) /* truncated */
        assert_int_equal(codec_decode(codec, FRAME_ZSTD, dst, n, back, sizeof(back), &err),
                         -HA_E_PEER);
    assert_int_equal(codec_decode(codec, 7, dst, size, back, sizeof(back), &err), -HA_E_PEER);
    /* Noise is stored; after a few failures it is not even tried for a while; then it is again. */
    for (size_t i = 0; i < sizeof(src); i++)
        src[i] = (uint8_t)ha_rng_next(&rng);
    unsigned tried = 0;
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(codec_encode(codec, src, sizeof(src), dst, sizeof(dst), true), 0);
        tried += codec_has_tried(codec);
    }
    assert_in_range(tried, 2, 8);
    memset(src, 7, sizeof(src));
    unsigned tries = 0;
    while (codec_encode(codec, src, sizeof(src), dst, sizeof(dst), true) == 0)
        assert_in_range(++tries, 1, 40);
    assert_true(codec_encode(codec, src, sizeof(src), dst, sizeof(dst), true) > 0);
    codec_free(codec);
    /* Level 0 never compresses. */
    codec = codec_new(0);
    assert_non_null(codec);
    assert_int_equal(codec_encode(codec, src, sizeof(src), dst, sizeof(dst), true), 0);
    codec_free(codec);
}

/* Bytes of good scripts changed at random: a false success would need the very same stream. */
static void random_damage(void **state)
{
    struct ha_rng rng = {.state = 11};
    struct ha_err err;

    (void)state;
    for (unsigned round = 0; round < 1500; round++) {
        struct script s = good_until(STEPS);
        for (unsigned i = 0; i <= round % 3; i++)
            s.wire[ha_rng_below(&rng, round % 2 ? s.size : 400)] ^=
                (uint8_t)(1u << ha_rng_below(&rng, 8));
        if (run(&s, &err) == 0) {
            assert_int_equal(sink.size, native_size);
            assert_memory_equal(sink.data, native, native_size);
        }
    }
}

/* Has the sink a whole native stream? */
static bool sink_is_done(void)
{
    struct native_token token = {0};
    struct native p;
    size_t at = 0;

    native_init(&p, false);
    while (at < sink.size && !native_is_done(&p)) {
        assert_int_equal(native_next(&p, sink.data + at, sink.size - at, &token, NULL), 0);
        if (token.kind == NATIVE_MORE)
            break;
        at += token.size;
    }
    return native_is_done(&p);
}

/* The streams kept in the tree: what the independent decoder takes is taken, and the same is
 * refused (tests/fuzz/make_streams.py; test_stream_verify.py judges the same files). */
static void kept_streams(void **state)
{
    unsigned good = 0, bad = 0;
    glob_t files;

    (void)state;
    assert_int_equal(glob(STREAMS "/*.wire", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        const char *path = files.gl_pathv[i];
        bool is_good = strstr(path, "/good-") != NULL;
        struct ha_err err;
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        size_t size = fread(wire_buffer, 1, sizeof(wire_buffer), file);
        fclose(file);
        const size_t hello = FRAME_HEADER_SIZE + FRAME_HELLO_SIZE;
        assert_true(size > hello && size < sizeof(wire_buffer));
        struct script s = {.wire = wire_buffer + hello, .size = size - hello, .first = 1};
        for (worker_count = 0; worker_count <= 2; worker_count += 2) {
            if ((run(&s, &err) == 0) != is_good)
                fail_msg("%s: \"%s\"", path, err.text);
            if (sink_is_done() != is_good)
                fail_msg("%s: its end reached the sink: %d", path, !is_good);
        }
        worker_count = 0;
        good += is_good;
        bad += !is_good;
    }
    globfree(&files);
    assert_true(good >= 7 && bad >= 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_stream),
        cmocka_unit_test(cut_anywhere),
        cmocka_unit_test(wrong_order),
        cmocka_unit_test(wrong_frames),
        cmocka_unit_test(optional_frames_are_skipped),
        cmocka_unit_test(pages_hidden_in_raw),
        cmocka_unit_test(wrong_entries),
        cmocka_unit_test(wrong_ends),
        cmocka_unit_test(damaged_page),
        cmocka_unit_test(cache_rules),
        cmocka_unit_test(deltas_build_on_slots),
        cmocka_unit_test(bombs),
        cmocka_unit_test(codec_round_trip),
        cmocka_unit_test(random_damage),
        cmocka_unit_test(kept_streams),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
