/* SPDX-License-Identifier: Apache-2.0
 *
 * What looks at pages: every form of the loops gives the same, deltas are exact and stand hostile
 * bytes, and the sender's table forgets rather than grows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/base/rng.h"
#include "migrate/arena.h"
#include "migrate/codec.h"
#include "migrate/delta.h"
#include "migrate/frame.h"
#include "migrate/pagetable.h"
#include "migrate/simd.h"

static uint8_t page[4096 + 64], other[4096 + 64];

static void fill(uint8_t *data, size_t size, uint64_t seed)
{
    struct ha_rng rng = {.state = seed};

    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)ha_rng_next(&rng);
}

static void forms_agree(void **state)
{
    uint8_t secret[FRAME_SECRET_SIZE];

    (void)state;
    fill(secret, sizeof(secret), 1);
    for (int form = SIMD_PLAIN; form <= (int)simd_best(); form++) {
        for (unsigned offset = 0; offset < 64; offset += 21) {
            uint8_t *at = page + offset;
            memset(at, 0, 4096);
            assert_true(simd_is_zero((enum simd_form)form, at));
            for (unsigned i = 0; i < 4096; i++) {
                at[i] = 1;
                assert_false(simd_is_zero((enum simd_form)form, at));
                at[i] = 0;
            }
        }
        fill(page, 4096, 2);
        memcpy(other, page, 4096);
        assert_int_equal(simd_changed_lines((enum simd_form)form, page, other), 0);
        for (unsigned i = 0; i < 4096; i += 7) {
            other[i] ^= 0x80;
            assert_int_equal(simd_changed_lines((enum simd_form)form, page, other),
                             UINT64_C(1) << (i / 64));
            other[i] ^= 0x80;
        }
        struct ha_digest plain = simd_page_hash(SIMD_PLAIN, page, secret);
        assert_true(ha_digest_equal(simd_page_hash((enum simd_form)form, page, secret), plain));
        secret[100] ^= 1; /* another secret, another hash */
        assert_false(ha_digest_equal(simd_page_hash((enum simd_form)form, page, secret), plain));
        secret[100] ^= 1;
    }
}

static void deltas_are_exact(void **state)
{
    static uint8_t base[4096], copy[4096], delta[FRAME_DELTA_MAX];
    struct ha_rng rng = {.state = 3};
    struct ha_err err = {0};

    (void)state;
    for (unsigned round = 0; round < 400; round++) {
        size_t used = 0;
        fill(base, sizeof(base), round);
        memcpy(page, base, sizeof(base));
        memcpy(copy, base, sizeof(base));
        for (unsigned i = 0; i < round; i++)
            page[ha_rng_below(&rng, 4096)] = (uint8_t)ha_rng_next(&rng);
        size_t size = delta_encode(simd_best(), base, page, delta, sizeof(delta));
        if (size == 0) {
            assert_memory_equal(base, copy, sizeof(base));
            assert_true(round > 100);
            continue;
        }
        assert_in_range(size, 8, FRAME_DELTA_MAX);
        assert_memory_equal(base, page, sizeof(base));
        assert_int_equal(delta_apply(copy, delta, size, &used, &err), 0);
        assert_int_equal(used, size);
        assert_memory_equal(copy, page, sizeof(copy));
        for (size_t cut = 0; cut < size; cut += 1 + size / 16) {
            uint8_t *exact = malloc(cut + 1); /* a sanitizer sees a byte too many */
            assert_non_null(exact);
            memcpy(exact, delta, cut);
            assert_int_equal(delta_apply(copy, exact, cut, &used, &err), -HA_E_PEER);
            free(exact);
        }
    }
    /* One byte: a line, a mask of words, a word. */
    memcpy(page, base, sizeof(base));
    page[4095] ^= 1;
    assert_int_equal(delta_encode(simd_best(), base, page, delta, sizeof(delta)), 8 + 1 + 8);
    /* A line said to be changed in no word. */
    memset(delta, 0, sizeof(delta));
    delta[0] = 1;
    size_t used = 0;
    assert_int_equal(delta_apply(base, delta, sizeof(delta), &used, &err), -HA_E_PEER);
}

static void table_finds_and_forgets(void **state)
{
    struct pagetable t;
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(pagetable_init(&t, 24 * 4096, 16, &err), 0);
    for (uint32_t pfn = 0; pfn < 4096; pfn++) {
        assert_null(pagetable_find(&t, pfn));
        struct page_record *record = pagetable_add(&t, pfn);
        assert_non_null(record);
        record->hash.low = pfn;
        page_record_set_type(record, pfn % 13);
    }
    for (uint32_t pfn = 0; pfn < 4096; pfn++) { /* dense memory fits to the last record */
        const struct page_record *record = pagetable_find(&t, pfn);
        assert_non_null(record);
        assert_int_equal(record->hash.low, pfn);
        assert_int_equal(page_record_type(record), pfn % 13);
    }
    pagetable_forget(&t, 7);
    assert_null(pagetable_find(&t, 7));
    pagetable_forget(&t, 7);
    for (uint32_t pfn = 1u << 20; pfn < (1u << 20) + 4096; pfn++)
        assert_non_null(pagetable_add(&t, pfn));
    unsigned left = 0;
    for (uint32_t pfn = 0; pfn < 4096; pfn++)
        left += pagetable_find(&t, pfn) != NULL;
    assert_in_range(left, 0, 1);
    assert_non_null(pagetable_find(&t, 1u << 20));
    pagetable_fini(&t);
    /* No memory allowed: nothing is remembered, nothing fails. */
    assert_int_equal(pagetable_init(&t, 0, 16, &err), 0);
    assert_null(pagetable_find(&t, 1));
    assert_null(pagetable_add(&t, 1));
    pagetable_forget(&t, 1);
    pagetable_fini(&t);
}

/* Each slot has at most one owner, whatever happens. */
static void slots_have_one_owner(void **state)
{
    struct pagetable t;
    struct ha_err err = {0};
    struct ha_rng rng = {.state = 9};
    unsigned given = 0, hits = 0;

    (void)state;
    assert_int_equal(pagetable_init(&t, 24 * 1024, 16, &err), 0);
    for (unsigned i = 0; i < 20000; i++) {
        uint32_t pfn = (uint32_t)ha_rng_below(&rng, i < 10000 ? 64 : 4096);
        struct page_record *record = pagetable_find(&t, pfn);
        bool is_new = !record;
        if (is_new)
            record = pagetable_add(&t, pfn);
        uint32_t slot = pagetable_slot(&t, record);
        hits += slot != PAGETABLE_NO_SLOT;
        if (slot == PAGETABLE_NO_SLOT && is_new && i % 2 == 0)
            slot = pagetable_lend_slot(&t, record);
        else if (slot == PAGETABLE_NO_SLOT)
            slot = pagetable_give_slot(&t, record);
        if (ha_rng_below(&rng, 50) == 0)
            pagetable_forget(&t, pfn);
        if (slot == PAGETABLE_NO_SLOT)
            continue;
        given++;
        assert_in_range(slot, 0, 15);
        unsigned owners = 0;
        for (uint32_t other_pfn = 0; other_pfn < 4096; other_pfn++) {
            const struct page_record *r = pagetable_find(&t, other_pfn);
            owners += r && pagetable_slot(&t, r) == slot;
        }
        assert_in_range(owners, 0, 1);
        if (i > 300)
            i += 37; /* the check above is slow */
    }
    assert_true(given > 100 && hits > 50);
    pagetable_fini(&t);
}

/* A full cache: who is sent again gets the slot of a page that was sent once, at once; where all
 * were sent again, now and then. */
static void lent_slots_are_given_up(void **state)
{
    struct pagetable t;
    struct ha_err err = {0};
    unsigned given = 0;

    (void)state;
    assert_int_equal(pagetable_init(&t, 24 * 4096, 16, &err), 0);
    for (uint32_t pfn = 0; pfn < 16; pfn++)
        assert_int_equal(pagetable_lend_slot(&t, pagetable_add(&t, pfn)), pfn);
    assert_int_equal(pagetable_lend_slot(&t, pagetable_add(&t, 16)), PAGETABLE_NO_SLOT);
    for (uint32_t pfn = 0; pfn < 4; pfn++) /* sent again: not lent any more */
        assert_int_equal(pagetable_slot(&t, pagetable_find(&t, pfn)), pfn);
    for (uint32_t pfn = 100; pfn < 112; pfn++) {
        uint32_t slot = pagetable_give_slot(&t, pagetable_add(&t, pfn));
        assert_in_range(slot, 4, 15);
        assert_int_equal(pagetable_slot(&t, pagetable_find(&t, slot)), PAGETABLE_NO_SLOT);
        assert_int_equal(pagetable_slot(&t, pagetable_find(&t, pfn)), slot);
    }
    for (uint32_t pfn = 200; pfn < 216; pfn++)
        given += pagetable_give_slot(&t, pagetable_add(&t, pfn)) != PAGETABLE_NO_SLOT;
    assert_in_range(given, 1, 3);
    /* Whose page is gone: the slot is anybody's again. */
    pagetable_forget(&t, 100);
    assert_int_not_equal(pagetable_give_slot(&t, pagetable_add(&t, 300)), PAGETABLE_NO_SLOT);
    assert_int_equal(t.spare_count, 0);
    pagetable_fini(&t);
}

/* Where a page costs as much as compressing it, only slots that are used are touched. */
static void dear_slots_are_not_made_present_ahead(void **state)
{
    enum { SLOTS = 1000 };
    struct arena a;
    struct ha_err err;

    (void)state;
    assert_int_equal(arena_init(&a, SLOTS, &err), 0);
    assert_false(arena_is_settled(&a));
    for (int n = 0; n < 3; n++) { /* slow now and then: that is nothing */
        arena_judge(&a, 128, 128 * 40000);
        assert_false(a.is_dear);
    }
    arena_judge(&a, 128, 128 * 1000);
    for (int n = 0; n < 4; n++) {
        assert_false(a.is_dear);
        arena_judge(&a, 128, 128 * 40000);
    }
    assert_true(a.is_dear);
    assert_true(arena_is_settled(&a));
    assert_false(arena_ahead(&a));
    assert_int_equal(a.present, 0);
    arena_prepare(&a, 600); /* used: there, all the same */
    assert_in_range(a.present, 601, SLOTS);
    memset(arena_slot(&a, 600), 1, 4096);
    arena_judge(&a, 0, 1000000);
    assert_false(a.is_dear);
    arena_fini(&a);
}

/* Idle time fills the cache from its beginning, in bounded steps, and comes to an end. */
static void slots_are_made_present_ahead(void **state)
{
    enum { SLOTS = 1000 };
    struct arena none = {0}, a;
    struct ha_err err;
    unsigned turns = 0;

    (void)state;
    assert_false(arena_ahead(&none));
    assert_int_equal(arena_init(&a, SLOTS, &err), 0);
    arena_prepare(&a, 0);
    arena_judge(&a, 512, 512 * 1000); /* whatever this machine takes */
    uint32_t before = a.present;
    assert_in_range(before, 1, SLOTS - 1);
    while (arena_ahead(&a)) {
        assert_in_range(a.present, before + 1, before + 128); /* nobody waits for long */
        before = a.present;
        arena_judge(&a, 128, 128 * 1000);
        turns++;
    }
    assert_in_range(turns, 1, SLOTS);
    assert_int_equal(a.present, SLOTS);
    arena_prepare(&a, SLOTS - 1);
    memset(arena_slot(&a, SLOTS - 1), 1, 4096);
    arena_fini(&a);
}

/* Random memory beside others': hardly any of it is tried, all of the others are. */
static void random_blocks_cost_only_themselves(void **state)
{
    enum { SIZE = 65536, ROUNDS = 64 };
    struct codec *codec = codec_new(1);
    uint8_t *random = malloc(SIZE), *text = malloc(SIZE), *packed = malloc(SIZE);
    unsigned tried = 0;

    (void)state;
    assert_non_null(codec);
    fill(random, SIZE, 5);
    for (size_t i = 0; i < SIZE; i++) /* of few values, in no order: letters, say */
        text[i] = (uint8_t)('a' + random[i] % 24);
    for (unsigned i = 0; i < ROUNDS; i++) {
        assert_int_equal(codec_encode(codec, random, SIZE, packed, SIZE, true), 0);
        tried += codec_has_tried(codec);
    }
    assert_in_range(tried, 2, 8);
    for (unsigned i = 0; i < ROUNDS; i++) {
        size_t size = codec_encode(codec, text, SIZE, packed, SIZE, true);
        assert_in_range(size, 1, SIZE * 7 / 10);
        assert_int_equal(codec_encode(codec, random, SIZE, packed, SIZE, true), 0);
    }
    /* A block too short to be judged is tried. */
    assert_int_equal(codec_encode(codec, random, 1000, packed, SIZE, true), 0);
    assert_true(codec_has_tried(codec));
    codec_free(codec);
    free(random);
    free(text);
    free(packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_agree),
        cmocka_unit_test(deltas_are_exact),
        cmocka_unit_test(table_finds_and_forgets),
        cmocka_unit_test(slots_have_one_owner),
        cmocka_unit_test(lent_slots_are_given_up),
        cmocka_unit_test(slots_are_made_present_ahead),
        cmocka_unit_test(dear_slots_are_not_made_present_ahead),
        cmocka_unit_test(random_blocks_cost_only_themselves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
