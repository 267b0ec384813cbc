/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames: what is encoded comes back, every truncation and every limit is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/base/rng.h"
#include "migrate/frame.h"

typedef int (*decode_fn)(const uint8_t *payload, size_t size);

static int decode_hello(const uint8_t *p, size_t n)
{
    struct frame_hello m;
    return frame_hello_decode(p, n, &m, NULL);
}

static int decode_welcome(const uint8_t *p, size_t n)
{
    struct frame_welcome m;
    return frame_welcome_decode(p, n, &m, NULL);
}

static int decode_abort(const uint8_t *p, size_t n)
{
    struct frame_abort m;
    return frame_abort_decode(p, n, &m, NULL);
}

static int decode_raw(const uint8_t *p, size_t n)
{
    struct frame_raw m;
    return frame_raw_decode(p, n, &m, NULL);
}

static int decode_batch(const uint8_t *p, size_t n)
{
    struct frame_batch m;
    return frame_batch_decode(p, n, &m, NULL);
}

static int decode_pages(const uint8_t *p, size_t n)
{
    struct frame_pages m;
    return frame_pages_decode(p, n, &m, NULL);
}

static int decode_end(const uint8_t *p, size_t n)
{
    struct frame_end m;
    return frame_end_decode(p, n, &m, NULL);
}

static int decode_end_ack(const uint8_t *p, size_t n)
{
    struct frame_end_ack m;
    return frame_end_ack_decode(p, n, &m, NULL);
}

/* Decodes whole, and refuses every shorter and the one byte longer one (copied, so that a sanitizer
 * sees any byte too many). is_open: bytes behind are allowed (HELLO and WELCOME of later versions).
 */
static void check_lengths(decode_fn decode, const uint8_t *payload, size_t size, int is_open)
{
    static uint8_t copy[1024];

    assert_in_range(size, 1, sizeof(copy) - 1);
    for (size_t n = 0; n < size; n++) {
        uint8_t *at = copy + sizeof(copy) - n;
        memcpy(at, payload, n);
        assert_int_equal(decode(at, n), -HA_E_PEER);
    }
    assert_int_equal(decode(payload, size), 0);
    memcpy(copy, payload, size);
    copy[size] = 0;
    assert_int_equal(decode(copy, size + 1), is_open ? 0 : -HA_E_PEER);
}

static void header_round_trip(void **state)
{
    uint8_t bytes[FRAME_HEADER_SIZE];
    struct frame_header in = {
        .type = FRAME_RAW, .size = 4242, .epoch = 0, .sequence = UINT64_C(0x1122334455667788)};
    struct frame_header out;

    (void)state;
    frame_header_encode(bytes, &in);
    assert_memory_equal(bytes, "HMS1", 4);
    assert_int_equal(frame_header_decode(bytes, &out, NULL), 0);
    assert_int_equal(out.type, in.type);
    assert_int_equal(out.size, in.size);
    assert_int_equal(out.sequence, in.sequence);
    assert_false(out.is_optional);
}

static void header_refusals(void **state)
{
    uint8_t bytes[FRAME_HEADER_SIZE];
    struct frame_header header = {.type = FRAME_PING};
    struct frame_header out;
    struct ha_err err = {0};

    (void)state;
    frame_header_encode(bytes, &header);
    assert_int_equal(frame_header_decode(bytes, &out, NULL), 0);
    for (unsigned i = 0; i < 4; i++) { /* the magic */
        bytes[i] ^= 1;
        assert_int_equal(frame_header_decode(bytes, &out, &err), -HA_E_PEER);
        bytes[i] ^= 1;
    }
    for (unsigned bit = 1; bit < 16; bit++) { /* reserved flags */
        bytes[6 + bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(frame_header_decode(bytes, &out, &err), -HA_E_PEER);
        bytes[6 + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* For every type: which sizes pass. */
static void header_sizes(void **state)
{
    static const struct {
        uint16_t type;
        uint32_t min, max;
    } rules[] = {{FRAME_HELLO, 96, 1024},    {FRAME_WELCOME, 40, 1024}, {FRAME_ABORT, 4, 204},
                 {FRAME_PING, 0, 0},         {FRAME_RAW, 9, 262152},    {FRAME_BATCH, 25, 262168},
                 {FRAME_PAGES, 32, 263448},  {FRAME_END, 48, 48},       {FRAME_END_ACK, 24, 24},
                 {FRAME_JOIN, 16, 16},       {FRAME_BARRIER, 8, 8},     {FRAME_ACK, 8, 8},
                 {FRAME_PARCEL, 24, 270336}, {FRAME_SETUP, 200, 200}};
    uint8_t bytes[FRAME_HEADER_SIZE];
    struct frame_header out;

    (void)state;
    for (unsigned i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        struct frame_header h = {.type = rules[i].type, .size = rules[i].min};
        frame_header_encode(bytes, &h);
        assert_int_equal(frame_header_decode(bytes, &out, NULL), 0);
        h.size = rules[i].max;
        frame_header_encode(bytes, &h);
        assert_int_equal(frame_header_decode(bytes, &out, NULL), 0);
        h.size = rules[i].max + 1;
        frame_header_encode(bytes, &h);
        assert_int_equal(frame_header_decode(bytes, &out, NULL), -HA_E_PEER);
        h.size = rules[i].min - 1; /* for 0: 4 GiB */
        frame_header_encode(bytes, &h);
        assert_int_equal(frame_header_decode(bytes, &out, NULL), -HA_E_PEER);
    }
    static const uint16_t unknown[] = {0, 5, 6, 13, 31, 36, 65535};
    for (unsigned i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        struct frame_header h = {.type = unknown[i], .size = 8};
        frame_header_encode(bytes, &h);
        assert_int_equal(frame_header_decode(bytes, &out, NULL), -HA_E_PEER);
        h.is_optional = true;
        frame_header_encode(bytes, &h);
        assert_int_equal(frame_header_decode(bytes, &out, NULL), 0);
        h.size = FRAME_PAYLOAD_MAX + 1;
        frame_header_encode(bytes, &h);
        assert_int_equal(frame_header_decode(bytes, &out, NULL), -HA_E_PEER);
    }
}

static void hello_and_welcome(void **state)
{
    uint8_t bytes[256];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct frame_hello hello = {.version_min = 1,
                                .version_max = 7,
                                .features = 4,
                                .cluster_id = {{1, 2, 3}},
                                .generation = 4,
                                .ticket = 99,
                                .guest = {{9, 8}},
                                .epoch = 17,
                                .proof = {0xaa, 0xbb}};
    struct frame_hello back;

    (void)state;
    frame_hello_encode(&w, &hello);
    assert_int_equal(w.position, FRAME_HELLO_SIZE);
    assert_int_equal(frame_hello_decode(bytes, w.position, &back, NULL), 0);
    assert_int_equal(back.version_max, 7);
    assert_int_equal(back.ticket, 99);
    assert_int_equal(back.epoch, 17);
    assert_memory_equal(back.proof, hello.proof, sizeof(back.proof));
    check_lengths(decode_hello, bytes, w.position, 1);
    bytes[0] = 8; /* version_min above version_max */
    assert_int_equal(decode_hello(bytes, w.position), -HA_E_PEER);
    bytes[0] = 0;
    assert_int_equal(decode_hello(bytes, w.position), -HA_E_PEER);

    struct frame_welcome welcome = {.version = 1, .proof = {1}};
    w = ha_writer_of(bytes, sizeof(bytes));
    frame_welcome_encode(&w, &welcome);
    assert_int_equal(w.position, FRAME_WELCOME_SIZE);
    check_lengths(decode_welcome, bytes, w.position, 1);
    bytes[2] = 1; /* reserved */
    assert_int_equal(decode_welcome(bytes, w.position), -HA_E_PEER);
}

/* HELLO and WELCOME with the offer of several connections, and what opens the others. */
static void lanes(void **state)
{
    uint8_t bytes[256];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct frame_hello hello = {.version_min = 1,
                                .version_max = 1,
                                .features = FRAME_LANES,
                                .connections = 3,
                                .window = 48};
    struct frame_welcome welcome = {.version = 1,
                                    .features = FRAME_LANES,
                                    .connections = 2,
                                    .window = 9,
                                    .grace_ms = 10000,
                                    .psk = {7, 8}};
    struct frame_join join = {.ticket = 99, .lane = 8, .attempt = 4}, back;

    (void)state;
    frame_hello_encode(&w, &hello);
    assert_int_equal(w.position, FRAME_HELLO_LANES);
    check_lengths(decode_hello, bytes, w.position, 1);
    bytes[98] = FRAME_WINDOW_MIN - 1;
    assert_int_equal(decode_hello(bytes, w.position), -HA_E_PEER);
    bytes[98] = 48;
    bytes[96] = 0; /* no connection at all */
    assert_int_equal(decode_hello(bytes, w.position), -HA_E_PEER);

    w = ha_writer_of(bytes, sizeof(bytes));
    frame_welcome_encode(&w, &welcome);
    assert_int_equal(w.position, FRAME_WELCOME_LANES);
    check_lengths(decode_welcome, bytes, w.position, 1);
    for (unsigned n = 0; n < 256; n++) {
        bytes[40] = (uint8_t)n;
        bytes[42] = 9;
        assert_int_equal(decode_welcome(bytes, w.position),
                         n >= 1 && n <= FRAME_LANES_MAX ? 0 : -HA_E_PEER);
        bytes[40] = 2;
        bytes[42] = (uint8_t)n;
        assert_int_equal(decode_welcome(bytes, w.position),
                         n >= FRAME_WINDOW_MIN && n <= FRAME_WINDOW_MAX ? 0 : -HA_E_PEER);
    }

    w = ha_writer_of(bytes, sizeof(bytes));
    frame_join_encode(&w, &join);
    assert_int_equal(frame_join_decode(bytes, w.position, &back, NULL), 0);
    assert_true(back.ticket == 99 && back.lane == 8 && back.attempt == 4);
    assert_int_equal(frame_join_decode(bytes, w.position - 1, &back, NULL), -HA_E_PEER);
    bytes[8] = FRAME_LANES_MAX + 1;
    assert_int_equal(frame_join_decode(bytes, w.position, &back, NULL), -HA_E_PEER);
}

static void abort_text(void **state)
{
    uint8_t bytes[512];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct frame_abort m = {.code = FRAME_ABORT_TICKET};
    struct frame_abort back;

    (void)state;
    snprintf(m.text, sizeof(m.text), "%s", "red \x1b[31m\x7f\n end");
    frame_abort_encode(&w, &m);
    assert_int_equal(frame_abort_decode(bytes, w.position, &back, NULL), 0);
    assert_int_equal(back.code, FRAME_ABORT_TICKET);
    assert_string_equal(back.text, "red ?[31m?? end");
    check_lengths(decode_abort, bytes, w.position, 0);
    /* A length that promises more than is there, or more than allowed. */
    bytes[2] = 201;
    bytes[3] = 0;
    assert_int_equal(decode_abort(bytes, 205), -HA_E_PEER);
    memset(m.text, 'x', FRAME_ABORT_TEXT);
    m.text[FRAME_ABORT_TEXT] = '\0';
    w = ha_writer_of(bytes, sizeof(bytes));
    frame_abort_encode(&w, &m);
    assert_int_equal(w.position, 4 + FRAME_ABORT_TEXT);
    assert_int_equal(decode_abort(bytes, w.position), 0);
}

static void raw_sizes(void **state)
{
    uint8_t bytes[64] = {0};
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct frame_raw m = {.codec = FRAME_STORE, .raw_size = 20};
    struct frame_raw back;

    (void)state;
    frame_raw_encode(&w, &m);
    assert_int_equal(w.position, FRAME_RAW_HEAD);
    assert_int_equal(frame_raw_decode(bytes, 28, &back, NULL), 0);
    assert_int_equal(back.data_size, 20);
    assert_ptr_equal(back.data, bytes + 8);
    check_lengths(decode_raw, bytes, 28, 0);
    bytes[0] = FRAME_ZSTD; /* any encoded size but 0 */
    assert_int_equal(decode_raw(bytes, 9), 0);
    assert_int_equal(decode_raw(bytes, 8), -HA_E_PEER);
    bytes[0] = 2;
    assert_int_equal(decode_raw(bytes, 28), -HA_E_PEER);
    bytes[0] = FRAME_ZSTD;
    bytes[1] = 1; /* reserved */
    assert_int_equal(decode_raw(bytes, 28), -HA_E_PEER);
    bytes[1] = 0;
    memcpy(bytes + 4, "\x01\x00\x04\x00", 4); /* 262145 */
    assert_int_equal(decode_raw(bytes, 28), -HA_E_PEER);
    memset(bytes + 4, 0, 4);
    assert_int_equal(decode_raw(bytes, 28), -HA_E_PEER);
}

static void batch_sizes(void **state)
{
    uint8_t bytes[128] = {0};
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct frame_batch m = {.batch = 3, .count = 5, .data_count = 4};
    struct frame_batch back;

    (void)state;
    frame_batch_encode(&w, &m);
    assert_int_equal(w.position, FRAME_BATCH_HEAD);
    assert_int_equal(frame_batch_decode(bytes, 64, &back, NULL), 0);
    assert_int_equal(back.batch, 3);
    assert_int_equal(back.count, 5);
    assert_int_equal(back.data_count, 4);
    check_lengths(decode_batch, bytes, 64, 0);
    bytes[12] = 6; /* more pages than entries */
    assert_int_equal(decode_batch(bytes, 64), -HA_E_PEER);
    bytes[12] = 0; /* none is fine */
    assert_int_equal(decode_batch(bytes, 64), 0);
    bytes[20] = 41; /* raw size is not 8 * count */
    assert_int_equal(decode_batch(bytes, 64), -HA_E_PEER);
    bytes[16] = FRAME_ZSTD; /* nor may it be when no other size contradicts it */
    assert_int_equal(decode_batch(bytes, 64), -HA_E_PEER);
    bytes[20] = 40;
    assert_int_equal(decode_batch(bytes, 64), 0);
    m.count = FRAME_ENTRIES_MAX + 1;
    m.codec = FRAME_ZSTD;
    w = ha_writer_of(bytes, sizeof(bytes));
    frame_batch_encode(&w, &m);
    assert_int_equal(decode_batch(bytes, 64), -HA_E_PEER);
    m.count = 0;
    w = ha_writer_of(bytes, sizeof(bytes));
    frame_batch_encode(&w, &m);
    assert_int_equal(decode_batch(bytes, 64), -HA_E_PEER);
    /* 8 * count overflows to a small number */
    m.count = 0x20000001;
    w = ha_writer_of(bytes, sizeof(bytes));
    frame_batch_encode(&w, &m);
    assert_int_equal(decode_batch(bytes, 64), -HA_E_PEER);
}

static void pages_kinds(void **state)
{
    uint8_t bytes[256] = {0};
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct frame_pages m = {.batch = 1, .first = 64, .count = 9, .codec = FRAME_ZSTD};
    struct frame_pages back;

    (void)state;
    m.kind[2] = m.kind[8] = FRAME_DATA;
    m.raw_size = 2 * FRAME_PAGE_SIZE;
    frame_pages_encode(&w, &m);
    assert_int_equal(w.position, FRAME_PAGES_HEAD + 16);
    assert_int_equal(w.position, frame_pages_head(9, 0));
    assert_int_equal(frame_pages_decode(bytes, w.position + 7, &back, NULL), 0);
    assert_int_equal(back.count, 9);
    assert_int_equal(back.kind[8], FRAME_DATA);
    assert_int_equal(back.data_size, 7);
    for (size_t n = 0; n <= w.position; n++) /* without any encoded byte */
        assert_int_equal(decode_pages(bytes, n), -HA_E_PEER);
    bytes[FRAME_PAGES_HEAD + 3] = 4; /* reserved kind */
    assert_int_equal(decode_pages(bytes, w.position + 7), -HA_E_PEER);
    bytes[FRAME_PAGES_HEAD + 3] = 1; /* three pages, raw size of two */
    assert_int_equal(decode_pages(bytes, w.position + 7), -HA_E_PEER);
    bytes[FRAME_PAGES_HEAD + 3] = 0;
    bytes[FRAME_PAGES_HEAD + 10] = 1; /* padding */
    assert_int_equal(decode_pages(bytes, w.position + 7), -HA_E_PEER);

    struct frame_pages zero = {.count = FRAME_GROUP_PAGES};
    w = ha_writer_of(bytes, sizeof(bytes));
    frame_pages_encode(&w, &zero);
    check_lengths(decode_pages, bytes, w.position, 0);
    bytes[14] = FRAME_ZSTD; /* nothing to decode must be stored */
    assert_int_equal(decode_pages(bytes, w.position), -HA_E_PEER);
    bytes[14] = FRAME_STORE;
    bytes[13] = 4; /* 1088 pages */
    assert_int_equal(decode_pages(bytes, w.position), -HA_E_PEER);
    bytes[12] = bytes[13] = 0;
    assert_int_equal(decode_pages(bytes, w.position), -HA_E_PEER);
}

static void ends(void **state)
{
    uint8_t bytes[64];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct frame_end m = {.raw_bytes = 1,
                          .batches = 2,
                          .pages = 3,
                          .digest_kind = FRAME_XXH3_128,
                          .digest = {.low = 4, .high = 5}};
    struct frame_end back;

    (void)state;
    frame_end_encode(&w, &m);
    assert_int_equal(frame_end_decode(bytes, w.position, &back, NULL), 0);
    assert_int_equal(back.pages, 3);
    assert_true(ha_digest_equal(back.digest, m.digest));
    check_lengths(decode_end, bytes, w.position, 0);
    bytes[24] = 3;
    assert_int_equal(decode_end(bytes, w.position), -HA_E_PEER);

    struct frame_end_ack ack = {.raw_bytes = 9, .digest = {.low = 1, .high = 2}};
    w = ha_writer_of(bytes, sizeof(bytes));
    frame_end_ack_encode(&w, &ack);
    check_lengths(decode_end_ack, bytes, w.position, 0);
}

/* Random bytes never read outside themselves (a sanitizer watches) nor decode into nonsense sizes.
 */
static void random_payloads(void **state)
{
    static const decode_fn all[] = {decode_hello, decode_welcome, decode_abort, decode_raw,
                                    decode_batch, decode_pages,   decode_end,   decode_end_ack};
    struct ha_rng rng = {.state = 7};
    uint8_t bytes[300];

    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        size_t size = (size_t)ha_rng_below(&rng, sizeof(bytes));
        for (size_t i = 0; i < size; i++)
            bytes[i] = ha_rng_below(&rng, 3) == 0 ? (uint8_t)ha_rng_next(&rng) : 0;
        for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
            (void)all[i](bytes, size);
        struct frame_pages m;
        if (frame_pages_decode(bytes, size, &m, NULL) == 0) {
            assert_in_range(m.count, 1, FRAME_PAGES_MAX);
            assert_in_range(m.raw_size, 0, FRAME_RAW_MAX);
            assert_true(m.data + m.data_size == bytes + size);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_round_trip),
        cmocka_unit_test(header_refusals),
        cmocka_unit_test(header_sizes),
        cmocka_unit_test(hello_and_welcome),
        cmocka_unit_test(lanes),
        cmocka_unit_test(abort_text),
        cmocka_unit_test(raw_sizes),
        cmocka_unit_test(batch_sizes),
        cmocka_unit_test(pages_kinds),
        cmocka_unit_test(ends),
        cmocka_unit_test(random_payloads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
