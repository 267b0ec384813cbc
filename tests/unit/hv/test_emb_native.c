/* SPDX-License-Identifier: Apache-2.0
 *
 * The native stream's bytes against Xen's published formats, and what its checks refuse. The
 * expected bytes are written out by hand from the specifications.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/hv/embedded/native.h"

static const uint8_t HEAD[EMB_NATIVE_HEAD] = {
    'L',  'i',  'b',  'x',  'l',  'F',  'm',  't',  0,   0,   0,   2,   0,  0, 0, 0, /* libxl header
                                                                                      */
    1,    0,    0,    0,    0,    0,    0,    0, /* LIBXC_CONTEXT */
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 'X', 'E', 'N', 'F', 0,  0, 0, 3, /* image */
    0,    0,    0,    0,    0,    0,    0,    0,    2,   0,   0,   0,   12, 0, 0, 0, 4,
    0,    0,    0,    17,   0,    0,    0,       /* domain: HVM, 4 KiB pages, Xen 4.17 */
    0x10, 0,    0,    0,    0,    0,    0,    0, /* STATIC_DATA_END */
};

static void test_head_and_tail(void **state)
{
    uint8_t head[EMB_NATIVE_HEAD], tail[EMB_NATIVE_TAIL];
    struct ha_err err;

    (void)state;
    emb_native_head(head);
    assert_memory_equal(head, HEAD, sizeof(HEAD));
    assert_int_equal(emb_native_check_libxl_head(head, &err), 0);
    assert_int_equal(emb_native_check_image_head(head + 24, &err), 0);
    emb_native_tail(tail, 2048);
    struct emb_record_head r = emb_native_record_head(tail);
    assert_int_equal(r.type, EMB_REC_HVM_CONTEXT);
    assert_int_equal(r.size, 64);
    assert_int_equal(emb_native_check_context(tail + 8, r.size, 2048, &err), 0);
    assert_int_equal(emb_native_check_context(tail + 8, r.size, 2049, &err), -HA_E_PEER);
    assert_int_equal(emb_native_check_context(tail + 8, r.size - 1, 2048, &err), -HA_E_PEER);
    static const uint8_t ends[16] = {0};
    assert_memory_equal(tail + 72, ends, 16);
}

static void test_batch(void **state)
{
    const uint64_t pfns[] = {3, 0x123456789abc};
    static const uint8_t expected[] = {
        1, 0, 0, 0, 0x18, 0x20, 0, 0, 2,    0,    0,    0,    0,    0,    0, 0,
        3, 0, 0, 0, 0,    0,    0, 0, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0, 0,
    };
    uint8_t bytes[64];

    (void)state;
    assert_int_equal(emb_native_batch(bytes, pfns, 2), sizeof(expected));
    assert_memory_equal(bytes, expected, sizeof(expected));
}

/* Every single-byte change of the headers is refused, but for the Xen version, which says nothing.
 */
static void test_any_other_head_is_refused(void **state)
{
    (void)state;
    for (unsigned at = 0; at < 64; at++) {
        uint8_t head[EMB_NATIVE_HEAD];
        struct ha_err err;
        bool is_shown_only = at >= 24 + 32;
        memcpy(head, HEAD, sizeof(head));
        head[at] ^= 0x5a;
        if (at < 16)
            assert_int_equal(emb_native_check_libxl_head(head, &err), -HA_E_PEER);
        else if (at >= 24)
            assert_int_equal(emb_native_check_image_head(head + 24, &err),
                             is_shown_only ? 0 : -HA_E_PEER);
    }
}

static void test_page_data_checks(void **state)
{
    uint8_t fixed[8] = {2, 0, 0, 0, 0, 0, 0, 0};
    uint64_t entries[2] = {0, 7};
    uint32_t count = 0, data = 0;
    struct ha_err err;

    (void)state;
    assert_int_equal(emb_native_check_count(8 + 16 + 8192, fixed, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(emb_native_check_count(23, fixed, &count, &err), -HA_E_PEER);
    fixed[4] = 1;
    assert_int_equal(emb_native_check_count(8 + 16 + 8192, fixed, &count, &err), -HA_E_PEER);
    fixed[4] = 0;
    fixed[0] = 0;
    assert_int_equal(emb_native_check_count(8, fixed, &count, &err), -HA_E_PEER);
    fixed[3] = 0xff;
    assert_int_equal(emb_native_check_count(0xffffffff, fixed, &count, &err), -HA_E_PEER);

    assert_int_equal(emb_native_check_pfns(8 + 16 + 8192, entries, 2, 8, &data, &err), 0);
    assert_int_equal(data, 2);
    assert_int_equal(emb_native_check_pfns(8 + 16 + 8192, entries, 2, 7, &data, &err), -HA_E_PEER);
    assert_int_equal(emb_native_check_pfns(8 + 16 + 8191, entries, 2, 8, &data, &err), -HA_E_PEER);
    entries[1] |= EMB_TYPE_XALLOC << 60;
    assert_int_equal(emb_native_check_pfns(8 + 16 + 4096, entries, 2, 8, &data, &err), 0);
    assert_int_equal(data, 1);
    for (uint64_t type = 1; type < 16; type++) {
        entries[1] = type << 60 | 1;
        int rc = emb_native_check_pfns(8 + 16 + 4096, entries, 2, 8, &data, &err);
        assert_int_equal(rc, type == EMB_TYPE_XALLOC ? 0 : -HA_E_PEER);
    }
    for (unsigned bit = 3; bit < 60; bit++) {
        entries[1] = UINT64_C(1) << bit;
        assert_int_equal(emb_native_check_pfns(8 + 16 + 8192, entries, 2, 8, &data, &err),
                         -HA_E_PEER);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_and_tail),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_any_other_head_is_refused),
        cmocka_unit_test(test_page_data_checks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
