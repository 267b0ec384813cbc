/* SPDX-License-Identifier: Apache-2.0
 *
 * The native parser: a good stream passes whole in pieces of any size, every broken rule is found,
 * and found before the bytes behind it pass.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/base/rng.h"
#include "migrate/native.h"
#include "nativegen.h"

#define SIZE_MAX_STREAM 65536u

struct outcome {
    int rc;
    size_t passed; /* bytes handed out by tokens */
    unsigned batches, pages;
    int is_done;
    char text[HA_TEXT_MAX];
};

/* Feeds data in pieces: piece 0 = all there is, else at most that many more bytes each time. */
static struct outcome parse(const uint8_t *data, size_t size, size_t piece)
{
    struct outcome out = {0};
    struct native p;
    struct ha_err err = {0};
    size_t there = piece == 0 ? size : 0;

    native_init(&p, false);
    for (;;) {
        struct native_token token;
        uint8_t *window = malloc(there - out.passed + 1);
        assert_non_null(window);
        memcpy(window, data + out.passed, there - out.passed);
        out.rc = native_next(&p, window, there - out.passed, &token, &err);
        free(window);
        if (out.rc < 0)
            break;
        if (token.kind == NATIVE_MORE) {
            assert_true(token.size > there - out.passed || there == out.passed);
            if (there == size)
                break;
            there = size - there < piece ? size : there + piece;
            continue;
        }
        if (token.kind == NATIVE_END)
            break;
        assert_true(token.size > 0 && token.size <= there - out.passed);
        out.passed += token.size;
        out.batches += token.kind == NATIVE_BATCH ? 1 : 0;
        out.pages += token.kind == NATIVE_PAGES ? token.count : 0;
    }
    out.is_done = native_is_done(&p);
    memcpy(out.text, err.text, sizeof(out.text));
    return out;
}

static void passes_in_any_pieces(void **state)
{
    static uint8_t data[SIZE_MAX_STREAM];
    size_t size = gen_hvm_stream(data, sizeof(data));
    static const size_t pieces[] = {0, 1, 2, 3, 7, 8, 16, 100, 4095, 4096, 4097, 20000};

    (void)state;
    assert_in_range(size, 25000, sizeof(data));
    for (unsigned i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct outcome out = parse(data, size, pieces[i]);
        assert_int_equal(out.rc, 0);
        assert_int_equal(out.passed, size);
        assert_int_equal(out.batches, 3);
        assert_int_equal(out.pages, 6);
        assert_true(out.is_done);
    }
}

static void truncated_is_never_done(void **state)
{
    static uint8_t data[SIZE_MAX_STREAM];
    size_t size = gen_hvm_stream(data, sizeof(data));

    (void)state;
    for (size_t n = 0; n < size; n += n < 200 || n > size - 1200 ? 1 : 97) {
        struct outcome out = parse(data, n, 0);
        assert_int_equal(out.rc, 0);
        assert_false(out.is_done);
    }
    data[size] = 0;
    assert_int_equal(parse(data, size + 1, 0).rc, -HA_E_CORRUPT);
}

/* Streams of one image: `body` writes what comes between STATIC_DATA_END and the image's END. */
static struct outcome parse_image(void (*body)(struct ha_writer *w), uint32_t version,
                                  uint32_t guest_type)
{
    static uint8_t data[SIZE_MAX_STREAM];
    struct ha_writer w = ha_writer_of(data, sizeof(data));

    gen_libxl_header(&w);
    gen_record(&w, 1, 0, 0);
    gen_image_header(&w, version, guest_type);
    if (version == 3)
        gen_record(&w, 16, 0, 0);
    body(&w);
    gen_record(&w, 0, 0, 0);
    gen_record(&w, 0, 0, 0);
    assert_false(w.failed);
    return parse(data, w.position, 0);
}

static void put_nothing(struct ha_writer *w)
{
    (void)w;
}

static void put_table(struct ha_writer *w)
{
    static const uint64_t entries[] = {UINT64_C(1) << 60 | 5, UINT64_C(9) << 60 | 6};

    gen_pages(w, entries, 2, 4);
}

static void put_pv_state(struct ha_writer *w)
{
    gen_record(w, 2, 8, 4);
    gen_record(w, 3, 24, 0);
    gen_record(w, 7, 4096, 1);
    gen_record(w, 4, 100, 1);
    gen_record(w, 12, 8, 0);
    gen_record(w, 13, 0, 0);
}

static void put_hvm_context(struct ha_writer *w)
{
    gen_record(w, 9, 100, 1);
}

static void put_type_5(struct ha_writer *w)
{
    static const uint64_t entries[] = {UINT64_C(5) << 60 | 5};

    gen_pages(w, entries, 1, 4);
}

static void put_far_pfn(struct ha_writer *w)
{
    static const uint64_t entries[] = {NATIVE_PFN_LIMIT};

    gen_pages(w, entries, 1, 4);
}

static void put_reserved_bit(struct ha_writer *w)
{
    static const uint64_t entries[] = {UINT64_C(1) << 55 | 1};

    gen_pages(w, entries, 1, 4);
}

static void put_no_entries(struct ha_writer *w)
{
    gen_record(w, 1, 8, 0);
}

static void put_too_few_pages(struct ha_writer *w)
{
    gen_record(w, 1, 8 + 8, 0); /* says count 0 */
}

static void put_long_pages(struct ha_writer *w)
{
    ha_put_u32(w, 1);
    ha_put_u32(w, 8 + 8 + 4096 + 8);
    ha_put_u32(w, 1);
    ha_put_u32(w, 0);
    ha_put_u64(w, 1);
}

static void put_short_pages(struct ha_writer *w)
{
    ha_put_u32(w, 1);
    ha_put_u32(w, 8 + 8);
    ha_put_u32(w, 1);
    ha_put_u32(w, 0);
    ha_put_u64(w, 1);
}

static void put_overflowing_count(struct ha_writer *w)
{
    ha_put_u32(w, 1);
    ha_put_u32(w, 16);
    ha_put_u32(w, 0x20000001);
    ha_put_u32(w, 0);
    ha_put_u64(w, 1);
}

static void put_huge_record(struct ha_writer *w)
{
    ha_put_u32(w, 9);
    ha_put_u32(w, NATIVE_RECORD_MAX + 1);
}

static void put_checkpoint(struct ha_writer *w)
{
    gen_record(w, 14, 0, 0);
}

static void put_dirty_list(struct ha_writer *w)
{
    gen_record(w, 15, 8, 0);
}

static void put_toolstack(struct ha_writer *w)
{
    gen_record(w, 11, 8, 0);
}

static void put_unknown(struct ha_writer *w)
{
    gen_record(w, 0x55, 8, 0);
}

static void put_marker(struct ha_writer *w)
{
    gen_record(w, NATIVE_MARKER_TYPE, 16, 0);
}

static void put_optional(struct ha_writer *w)
{
    gen_record(w, 0x80000055u, 77, 1);
}

static void put_second_static(struct ha_writer *w)
{
    gen_record(w, 16, 0, 0);
}

static void put_bad_padding(struct ha_writer *w)
{
    gen_record(w, 9, 5, 1);
    w->data[w->position - 1] = 1;
}

static void put_odd_tsc(struct ha_writer *w)
{
    gen_record(w, 8, 32, 1);
}

static void put_odd_cpuid(struct ha_writer *w)
{
    gen_record(w, 17, 25, 1);
}

static void put_odd_params(struct ha_writer *w)
{
    gen_record(w, 10, 16, 1);
}

struct rule_case {
    const char *name;
    void (*body)(struct ha_writer *w);
    uint32_t version, guest_type;
    int is_fine;
};

static const struct rule_case cases[] = {
    {"empty image", put_nothing, 3, 2, 1},
    {"version 2", put_nothing, 2, 1, 1},
    {"version 1", put_nothing, 1, 2, 0},
    {"version 4", put_nothing, 4, 2, 0},
    {"guest type 3", put_nothing, 3, 3, 0},
    {"guest type 0", put_nothing, 3, 0, 0},
    {"page tables in PV", put_table, 3, 1, 1},
    {"page tables in HVM", put_table, 3, 2, 0},
    {"PV state in PV", put_pv_state, 3, 1, 1},
    {"PV state in HVM", put_pv_state, 3, 2, 0},
    {"HVM state in HVM", put_hvm_context, 3, 2, 1},
    {"HVM state in PV", put_hvm_context, 3, 1, 0},
    {"page type 5", put_type_5, 3, 1, 0},
    {"page number out of range", put_far_pfn, 3, 2, 0},
    {"reserved bit of an entry", put_reserved_bit, 3, 2, 0},
    {"PAGE_DATA without entries", put_no_entries, 3, 2, 0},
    {"PAGE_DATA of count 0", put_too_few_pages, 3, 2, 0},
    {"PAGE_DATA too long", put_long_pages, 3, 2, 0},
    {"PAGE_DATA too short", put_short_pages, 3, 2, 0},
    {"count that overflows", put_overflowing_count, 3, 2, 0},
    {"record too long", put_huge_record, 3, 2, 0},
    {"CHECKPOINT", put_checkpoint, 3, 2, 0},
    {"CHECKPOINT_DIRTY_PFN_LIST", put_dirty_list, 3, 2, 0},
    {"TOOLSTACK", put_toolstack, 3, 2, 0},
    {"unknown mandatory", put_unknown, 3, 2, 0},
    {"marker without ring", put_marker, 3, 2, 0},
    {"unknown optional", put_optional, 3, 2, 1},
    {"second STATIC_DATA_END", put_second_static, 3, 2, 0},
    {"padding", put_bad_padding, 3, 2, 0},
    {"TSC_INFO size", put_odd_tsc, 3, 2, 0},
    {"CPUID_POLICY size", put_odd_cpuid, 3, 2, 0},
    {"HVM_PARAMS size", put_odd_params, 3, 2, 0},
};

static void every_rule(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct outcome out = parse_image(cases[i].body, cases[i].version, cases[i].guest_type);
        if (cases[i].is_fine ? out.rc != 0 || !out.is_done : out.rc != -HA_E_CORRUPT)
            fail_msg("%s: %d, done %d, %s", cases[i].name, out.rc, out.is_done, out.text);
        if (!cases[i].is_fine)
            assert_int_equal(strncmp(out.text, "native stream: ", 15), 0);
    }
}

static void image_without_static_end(void **state)
{
    static uint8_t data[SIZE_MAX_STREAM];
    struct ha_writer w = ha_writer_of(data, sizeof(data));

    (void)state;
    gen_libxl_header(&w);
    gen_record(&w, 1, 0, 0);
    gen_image_header(&w, 3, 2);
    size_t base = w.position;
    gen_record(&w, 0, 0, 0);
    assert_int_equal(parse(data, w.position, 0).rc, -HA_E_CORRUPT);
    w.position = base;
    gen_pages(&w, gen_entries, 6, 1);
    assert_int_equal(parse(data, w.position, 0).rc, -HA_E_CORRUPT);
}

static void libxl_rules(void **state)
{
    static uint8_t data[SIZE_MAX_STREAM];
    static const struct {
        uint32_t type, size;
        int is_fine;
    } records[] = {{2, 8, 1}, {2, 7, 0}, {3, 0, 0}, {4, 0, 0},          {5, 4, 0},
                   {1, 8, 0}, {0, 0, 0}, {6, 8, 0}, {0x80000006u, 8, 1}};

    (void)state;
    for (unsigned i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
        struct ha_writer w = ha_writer_of(data, sizeof(data));
        gen_libxl_header(&w);
        gen_record(&w, records[i].type, records[i].size, 0);
        struct outcome out = parse(data, w.position, 0);
        assert_int_equal(out.rc, records[i].is_fine ? 0 : -HA_E_CORRUPT);
    }
    /* A second image. */
    struct ha_writer w = ha_writer_of(data, sizeof(data));
    gen_libxl_header(&w);
    gen_record(&w, 1, 0, 0);
    gen_image_header(&w, 2, 2);
    gen_record(&w, 0, 0, 0);
    assert_int_equal(parse(data, w.position, 0).rc, 0);
    gen_record(&w, 1, 0, 0);
    assert_int_equal(parse(data, w.position, 0).rc, -HA_E_CORRUPT);
}

/* Every bit of the fixed fields in front matters. */
static void headers_bit_by_bit(void **state)
{
    static uint8_t data[SIZE_MAX_STREAM];
    size_t size = gen_hvm_stream(data, sizeof(data));

    (void)state;
    for (unsigned bit = 0; bit < 8 * (16 + 8 + 24 + 8); bit++) {
        unsigned at = bit / 8;
        data[at] ^= (uint8_t)(1u << bit % 8);
        struct outcome out = parse(data, size, 0);
        /* Byte 39 is the image's version: 3 becomes 2, which is allowed. LIBXC_CONTEXT made
         * optional is an unknown optional record: it passes, then nothing fits. */
        if (out.rc == 0 && bit != 8 * 39)
            assert_false(out.is_done);
        data[at] ^= (uint8_t)(1u << bit % 8);
    }
}

static void random_damage(void **state)
{
    static uint8_t data[SIZE_MAX_STREAM];
    static uint8_t good[SIZE_MAX_STREAM];
    size_t size = gen_hvm_stream(good, sizeof(good));
    struct ha_rng rng = {.state = 3};

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        memcpy(data, good, size);
        for (unsigned i = 0; i <= round % 4; i++)
            data[ha_rng_below(&rng, size)] = (uint8_t)ha_rng_next(&rng);
        struct outcome out = parse(data, size, round % 2 ? 0 : 5000);
        assert_true(out.passed <= size);
    }
}

static void marker_with_ring(void **state)
{
    uint8_t data[256];
    struct ha_writer w = ha_writer_of(data, sizeof(data));
    struct native p;
    struct native_token token;
    size_t at = 0;

    (void)state;
    gen_libxl_header(&w);
    gen_record(&w, 1, 0, 0);
    gen_image_header(&w, 3, 2);
    gen_record(&w, 16, 0, 0);
    ha_put_u32(&w, NATIVE_MARKER_TYPE);
    ha_put_u32(&w, 16);
    ha_put_u64(&w, 41);
    ha_put_u32(&w, 3);
    ha_put_u32(&w, 0);
    native_init(&p, true);
    do {
        assert_int_equal(native_next(&p, data + at, w.position - at, &token, NULL), 0);
        at += token.size;
    } while (token.kind == NATIVE_RAW);
    assert_int_equal(token.kind, NATIVE_MARKER);
    assert_int_equal(token.marker_batch, 41);
    assert_int_equal(token.marker_slot, 3);
    assert_true(native_is_between(&p));
}

static void skipping_pages(void **state)
{
    static uint8_t data[SIZE_MAX_STREAM];
    struct ha_writer w = ha_writer_of(data, sizeof(data));
    struct native p;
    struct native_token token = {0};
    size_t at = 0;

    (void)state;
    gen_libxl_header(&w);
    gen_record(&w, 1, 0, 0);
    gen_image_header(&w, 2, 2);
    gen_pages(&w, gen_entries, 6, 1);
    native_init(&p, false);
    assert_int_equal(native_skip_pages(&p, 1, NULL), -HA_E_CORRUPT);
    while (token.kind != NATIVE_BATCH) {
        assert_int_equal(native_next(&p, data + at, w.position - at, &token, NULL), 0);
        at += token.size;
    }
    assert_int_equal(native_pages_left(&p), 5);
    assert_int_equal(native_skip_pages(&p, 6, NULL), -HA_E_CORRUPT);
    assert_int_equal(native_skip_pages(&p, 4, NULL), 0);
    assert_true(native_is_in_batch(&p));
    assert_int_equal(native_skip_pages(&p, 1, NULL), 0);
    assert_false(native_is_in_batch(&p));
    assert_true(native_is_between(&p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_in_any_pieces), cmocka_unit_test(truncated_is_never_done),
        cmocka_unit_test(every_rule),           cmocka_unit_test(image_without_static_end),
        cmocka_unit_test(libxl_rules),          cmocka_unit_test(headers_bit_by_bit),
        cmocka_unit_test(random_damage),        cmocka_unit_test(marker_with_ring),
        cmocka_unit_test(skipping_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
