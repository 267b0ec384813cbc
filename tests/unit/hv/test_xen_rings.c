/* SPDX-License-Identifier: Apache-2.0
 *
 * A PV guest's rings on their way into a new domain: named by the source, blank until the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/hv/xen/helper/rings.h"

#define RAW  UINT64_C(0)
#define HOLE (UINT64_C(0xf) << 60)

#define STORE_PFN   5u
#define CONSOLE_PFN 9u

static const uint64_t ring_pfns[RINGS_COUNT] = {STORE_PFN, CONSOLE_PFN};

/* As libxenguest reads: the image's heads, then a record's head and body. */
static void read_heads(struct rings *r)
{
    uint8_t heads[40] = {0};

    rings_init(r);
    rings_read(r, heads, 24);
    rings_read(r, heads + 24, 16);
}

static void read_record(struct rings *r, uint8_t *bytes, size_t size)
{
    rings_read(r, bytes, 8);
    if (size > 8)
        rings_read(r, bytes + 8, size - 8);
}

static void read_names(struct rings *r, const uint64_t *pfns)
{
    uint8_t bytes[RINGS_AHEAD];

    rings_write(bytes, pfns);
    read_record(r, bytes, RINGS_RECORD);
}

/* A record of pages, each filled with a byte; what comes of it in *ret, after its 16 bytes of heads
 * and its entries. */
static uint8_t *read_pages(struct rings *r, const uint64_t *entries, uint32_t count, uint8_t byte)
{
    static uint8_t bytes[16 + 8 * 4 + 4 * RINGS_PAGE];
    uint32_t pages = 0;

    for (uint32_t n = 0; n < count; n++)
        pages += entries[n] >> 60 < 0xd;
    uint32_t head[4] = {1, 8 + 8 * count + pages * RINGS_PAGE, count, 0};
    memcpy(bytes, head, sizeof(head));
    memcpy(bytes + 16, entries, 8 * (size_t)count);
    memset(bytes + 16 + 8 * count, byte, pages * (size_t)RINGS_PAGE);
    read_record(r, bytes, 8 + head[1]);
    return bytes + 16 + 8 * count;
}

static bool is_filled(const uint8_t *page, uint8_t byte)
{
    return page[0] == byte && memcmp(page, page + 1, RINGS_PAGE - 1) == 0;
}

static void populate(struct rings *r, uint64_t *pfns, uint64_t count)
{
    uint64_t at[RINGS_COUNT];

    rings_find(r, pfns, count, at);
    for (uint64_t n = 0; n < count; n++)
        pfns[n] += 1000;
    rings_populated(r, pfns, at);
}

static void test_rings_are_held_back(void **state)
{
    static struct rings r;
    const uint64_t entries[] = {RAW | 4, HOLE | 8, RAW | CONSOLE_PFN, RAW | STORE_PFN};
    uint64_t pfns[] = {4, CONSOLE_PFN, STORE_PFN};

    (void)state;
    read_heads(&r);
    read_names(&r, ring_pfns);
    assert_false(rings_are_blank(&r));
    uint8_t *pages = read_pages(&r, entries, 4, 7);
    assert_true(is_filled(pages, 7));
    assert_true(is_filled(pages + RINGS_PAGE, 0));
    assert_true(is_filled(pages + 2 * RINGS_PAGE, 0));
    assert_false(rings_are_blank(&r)); /* not populated yet: that is done with what was read */
    populate(&r, pfns, 3);
    assert_true(rings_are_blank(&r));
    assert_int_equal(r.pages[RINGS_STORE].frame, 1000 + STORE_PFN);
    assert_int_equal(r.pages[RINGS_CONSOLE].frame, 1000 + CONSOLE_PFN);
    pages = read_pages(&r, entries + 3, 1, 8); /* a later round: the newest is kept */
    assert_true(is_filled(pages, 0));
    assert_true(is_filled(r.pages[RINGS_STORE].held, 8));
    assert_true(is_filled(r.pages[RINGS_CONSOLE].held, 7));
}

/* What a save writes ahead is enough, and what the first round brings is what the guest gets. */
static void test_rings_are_made_ahead(void **state)
{
    static struct rings r;
    const uint64_t entries[] = {RAW | CONSOLE_PFN, RAW | STORE_PFN};
    uint64_t pfns[] = {STORE_PFN, CONSOLE_PFN};
    static uint8_t bytes[RINGS_AHEAD];

    (void)state;
    read_heads(&r);
    rings_write(bytes, ring_pfns);
    read_record(&r, bytes, RINGS_RECORD);
    read_record(&r, bytes + RINGS_RECORD, RINGS_BLANKS);
    populate(&r, pfns, 2);
    assert_true(rings_are_blank(&r));
    assert_true(is_filled(r.pages[RINGS_STORE].held, 0));
    (void)read_pages(&r, entries, 2, 9);
    assert_true(is_filled(r.pages[RINGS_STORE].held, 9));
    assert_true(is_filled(r.pages[RINGS_CONSOLE].held, 9));
    assert_false(r.is_lost);
}

static void test_one_ring_is_not_enough(void **state)
{
    static struct rings r;
    const uint64_t entries[] = {RAW | STORE_PFN};
    uint64_t pfns[] = {STORE_PFN, CONSOLE_PFN};

    (void)state;
    read_heads(&r);
    read_names(&r, ring_pfns);
    (void)read_pages(&r, entries, 1, 7);
    populate(&r, pfns, 2); /* the console's without content, for a page table that names it */
    assert_false(rings_are_blank(&r));
}

static void test_rings_nobody_named(void **state)
{
    static const uint64_t wrong[][2] = {{STORE_PFN, STORE_PFN}, {UINT64_MAX, CONSOLE_PFN}};
    static struct rings r;
    const uint64_t entries[] = {RAW | CONSOLE_PFN, RAW | STORE_PFN, RAW | 0};

    (void)state;
    for (size_t n = 0; n < 3; n++) {
        read_heads(&r);
        if (n > 0)
            read_names(&r, wrong[n - 1]);
        assert_false(r.is_known);
        uint8_t *pages = read_pages(&r, entries, 3, 7);
        for (size_t page = 0; page < 3; page++)
            assert_true(is_filled(pages + page * RINGS_PAGE, 7));
    }
    read_names(&r, ring_pfns); /* the page went by already: as if it had not been named */
    assert_false(rings_are_blank(&r));
}

static void test_batches_that_lie(void **state)
{
    static struct rings r;
    static const uint32_t counts[] = {0, 2, 3, 1000, UINT32_MAX};
    uint8_t *bytes = malloc(8 + 8 + 16 + RINGS_PAGE); /* its own, for the sanitizer's sake */

    (void)state;
    for (size_t n = 0; n < sizeof(counts) / sizeof(counts[0]); n++) {
        uint32_t head[4] = {1, 8 + 16 + RINGS_PAGE, counts[n], 0};
        const uint64_t entries[] = {RAW | 1, RAW | STORE_PFN};
        read_heads(&r);
        read_names(&r, ring_pfns);
        memset(bytes, 7, 16 + 16 + RINGS_PAGE);
        memcpy(bytes, head, sizeof(head));
        memcpy(bytes + 16, entries, sizeof(entries));
        read_record(&r, bytes, 16 + 16 + RINGS_PAGE);
        assert_true(is_filled(bytes + 32, 7));
        assert_false(r.pages[RINGS_STORE].is_held);
    }
    free(bytes);
}

static void test_reads_of_another_kind(void **state)
{
    static struct rings r;
    uint8_t bytes[64] = {0};

    (void)state;
    read_heads(&r);
    read_names(&r, ring_pfns);
    rings_read(&r, bytes, 16);
    assert_true(r.is_lost);
    assert_false(rings_are_blank(&r));
}

static void test_rings_in_use(void **state)
{
    static uint8_t page[RINGS_PAGE], held[RINGS_PAGE];

    (void)state;
    memset(held, 7, sizeof(held));
    rings_put_store(page, held, false);
    assert_memory_equal(page, held, sizeof(held));
    memset(page, 0, sizeof(page));
    rings_put_store(page, held, true);
    for (size_t n = 0; n < sizeof(page); n++) /* indexes and flags are xenstored's */
        assert_int_equal(page[n], n >= 2048 && n < 2076 ? 0 : 7);
    rings_put_console(page, held);
    assert_memory_equal(page, held, sizeof(held));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rings_are_held_back),    cmocka_unit_test(test_rings_are_made_ahead),
        cmocka_unit_test(test_one_ring_is_not_enough), cmocka_unit_test(test_rings_nobody_named),
        cmocka_unit_test(test_batches_that_lie),       cmocka_unit_test(test_reads_of_another_kind),
        cmocka_unit_test(test_rings_in_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
