/* SPDX-License-Identifier: Apache-2.0
 *
 * The self-checking workload: sound memory passes, any single damage to it is found, and a copy
 * made at any store continues.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/base/rng.h"
#include "hamgr/hv/embedded/workload.h"

#define PAGES 256u /* 1 MiB */

struct machine {
    uint8_t *memory;
    struct wl wl;
};

static struct machine *make(uint64_t pages, uint64_t seed)
{
    struct emb_definition d = {.seed = seed, .zero_percent = 30, .text_percent = 40};
    struct machine *m = calloc(1, sizeof(*m));

    m->memory = aligned_alloc(WL_PAGE, pages * WL_PAGE);
    memset(m->memory, 0, pages * WL_PAGE);
    wl_format(&m->wl, m->memory, pages, &d);
    return m;
}

static void drop(struct machine *m)
{
    free(m->memory);
    free(m);
}

static void step(struct machine *m, unsigned writes)
{
    for (unsigned n = 0; n < writes; n++)
        wl_write_page(&m->wl);
    wl_commit(&m->wl, *wl_now(&m->wl));
}

static bool is_sound(struct machine *m)
{
    for (uint64_t n = 0; n < m->wl.data_pages; n++)
        if (!wl_check_page(&m->wl, n))
            return false;
    return wl_check_state(&m->wl);
}

static struct machine *make_grown(uint64_t pages, uint64_t seed)
{
    struct machine *m = make(pages, seed);

    while (!wl_fill(&m->wl, 7))
        ;
    for (unsigned n = 0; n < 20; n++)
        step(m, 37);
    return m;
}

static void test_sound_memory_passes(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct machine *m = make_grown(PAGES + 16 * seed, seed);
        assert_true(is_sound(m));
        assert_int_equal(wl_now(&m->wl)->step, 20);
        struct wl again;
        assert_true(wl_open(&again, m->memory, PAGES + 16 * seed));
        drop(m);
    }
}

/* Every page is written once a round: after n full rounds every generation is n. */
static void test_order_is_a_permutation(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct machine *m = make(32 + 16 * seed, seed);
        while (!wl_fill(&m->wl, 1000))
            ;
        for (uint64_t n = 0; n < 2 * m->wl.data_pages; n++) {
            wl_write_page(&m->wl);
            assert_true(n % 50 != 0 || is_sound(m));
        }
        assert_true(is_sound(m));
        drop(m);
    }
}

static bool is_zero_page(const uint8_t *page)
{
    for (unsigned n = 0; n < WL_PAGE; n++)
        if (page[n] != 0)
            return false;
    return true;
}

static void test_damage_is_found(void **state)
{
    struct machine *m = make_grown(PAGES, 5);
    uint8_t saved[WL_PAGE];
    struct ha_rng rng = {1};

    (void)state;
    for (uint64_t pfn = WL_STATE_PAGES; pfn < PAGES; pfn++) {
        uint8_t *page = m->memory + pfn * WL_PAGE;
        bool was_zero = is_zero_page(page);
        memcpy(saved, page, WL_PAGE);
        /* one bit */
        page[ha_rng_below(&rng, WL_PAGE)] ^= (uint8_t)(1u << ha_rng_below(&rng, 8));
        assert_false(is_sound(m));
        assert_int_equal(m->wl.found_pfn, pfn);
        /* lost */
        memset(page, 0, WL_PAGE);
        assert_int_equal(is_sound(m), was_zero);
        /* another page's content */
        uint64_t other = pfn == WL_STATE_PAGES ? PAGES - 1 : pfn - 1;
        memcpy(page, m->memory + other * WL_PAGE, WL_PAGE);
        assert_int_equal(is_sound(m), was_zero && is_zero_page(m->memory + other * WL_PAGE));
        memcpy(page, saved, WL_PAGE);
    }
    assert_true(is_sound(m));
    drop(m);
}

/* Stale: the page as it was one write ago; torn: half old, half new. */
static void test_old_content_is_found(void **state)
{
    struct machine *m = make_grown(PAGES, 6);
    uint8_t *old = malloc(PAGES * WL_PAGE), *new = malloc(PAGES * WL_PAGE);
    unsigned found = 0;

    (void)state;
    memcpy(old, m->memory, PAGES * WL_PAGE);
    step(m, 100);
    memcpy(new, m->memory, PAGES * WL_PAGE);
    for (uint64_t pfn = WL_STATE_PAGES; pfn < PAGES; pfn++) {
        size_t at = pfn * WL_PAGE;
        if (memcmp(old + at, new + at, WL_PAGE) == 0)
            continue;
        memcpy(m->memory + at, old + at, WL_PAGE);
        assert_false(is_sound(m));
        memcpy(m->memory + at, new + at, WL_PAGE / 2);
        assert_false(is_sound(m));
        memcpy(m->memory + at, new + at, WL_PAGE);
        found++;
    }
    assert_in_range(found, 50, 101);
    assert_true(is_sound(m));
    /* The other way round: everything is old but for one page of the future. */
    memcpy(m->memory, old, PAGES * WL_PAGE);
    for (uint64_t pfn = WL_STATE_PAGES; pfn < PAGES; pfn++) {
        size_t at = pfn * WL_PAGE;
        if (memcmp(old + at, new + at, WL_PAGE) == 0)
            continue;
        memcpy(m->memory + at, new + at, WL_PAGE);
        assert_false(is_sound(m));
        memcpy(m->memory + at, old + at, WL_PAGE);
    }
    free(old);
    free(new);
    drop(m);
}

static void test_state_damage_is_found(void **state)
{
    struct machine *m = make_grown(PAGES, 7);
    struct wl wl;
    struct wl_state *s = m->wl.state;

    (void)state;
    struct wl_commit *now = &s->commits[s->current & 1];
    now->run_ms++;
    assert_false(wl_open(&wl, m->memory, PAGES));
    now->run_ms--;
    now->chain.low ^= 1;
    assert_false(wl_open(&wl, m->memory, PAGES));
    now->chain.low ^= 1;
    assert_true(wl_open(&wl, m->memory, PAGES));
    s->current = 7;
    assert_false(wl_open(&wl, m->memory, PAGES));
    s->current = (uint64_t)(now == &s->commits[1]);
    s->written = 3;
    assert_false(wl_open(&wl, m->memory, PAGES));
    assert_false(wl_open(&wl, m->memory, PAGES - 16));
    memset(m->memory, 0, WL_PAGE);
    assert_false(wl_open(&wl, m->memory, PAGES));
    assert_string_equal(wl.found_what, "the state page is lost");
    drop(m);
}

/* Copies made between any two stores of a step: here, at each page write and with the page half
 * written, the copy wakes up (writes the unfinished page again) and is sound. */
static void test_a_copy_at_any_instant_continues(void **state)
{
    struct machine *m = make_grown(PAGES, 8);
    uint8_t *before = malloc(PAGES * WL_PAGE), *copy = malloc(PAGES * WL_PAGE);
    struct ha_rng rng = {9};

    (void)state;
    for (unsigned n = 0; n < 60; n++) {
        memcpy(before, m->memory, PAGES * WL_PAGE);
        wl_write_page(&m->wl);
        memcpy(copy, m->memory, PAGES * WL_PAGE);
        /* Stopped before `written` was stored, the page written up to somewhere. */
        memcpy(copy, before, WL_PAGE);
        size_t cut = ha_rng_below(&rng, WL_PAGE);
        for (uint64_t pfn = WL_STATE_PAGES; pfn < PAGES; pfn++)
            if (memcmp(before + pfn * WL_PAGE, m->memory + pfn * WL_PAGE, WL_PAGE) != 0)
                memcpy(copy + pfn * WL_PAGE + cut, before + pfn * WL_PAGE + cut, WL_PAGE - cut);
        struct machine other = {.memory = copy};
        assert_true(wl_open(&other.wl, copy, PAGES));
        wl_write_page(&other.wl);
        assert_true(is_sound(&other));
        step(&other, 10);
        assert_true(is_sound(&other));
    }
    free(before);
    free(copy);
    drop(m);
}

static void test_a_copy_while_filling_continues(void **state)
{
    struct machine *m = make(PAGES, 10);
    struct machine other = {0};

    (void)state;
    assert_false(wl_fill(&m->wl, 100));
    step(m, 0);
    other.memory = aligned_alloc(WL_PAGE, PAGES * WL_PAGE);
    memcpy(other.memory, m->memory, PAGES * WL_PAGE);
    assert_true(wl_open(&other.wl, other.memory, PAGES));
    assert_true(wl_fill(&other.wl, PAGES));
    assert_true(is_sound(&other));
    free(other.memory);
    drop(m);
}

static void test_classes_are_as_wished(void **state)
{
    struct machine *m = make_grown(4096, 11);
    unsigned zeros = 0, texts = 0;

    (void)state;
    for (uint64_t pfn = WL_STATE_PAGES; pfn < 4096; pfn++) {
        const uint8_t *page = m->memory + pfn * WL_PAGE;
        if (is_zero_page(page))
            zeros++;
        else if (page[WL_PAGE - 1] == ' ' && page[WL_PAGE - 9] == ' ' && page[WL_PAGE - 17] == ' ')
            texts++;
    }
    assert_in_range(zeros, 4080 * 27 / 100, 4080 * 33 / 100);
    assert_in_range(texts, 4080 * 37 / 100, 4080 * 43 / 100);
    drop(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound_memory_passes),
        cmocka_unit_test(test_order_is_a_permutation),
        cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_old_content_is_found),
        cmocka_unit_test(test_state_damage_is_found),
        cmocka_unit_test(test_a_copy_at_any_instant_continues),
        cmocka_unit_test(test_a_copy_while_filling_continues),
        cmocka_unit_test(test_classes_are_as_wished),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
