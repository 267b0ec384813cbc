/* SPDX-License-Identifier: Apache-2.0
 *
 * How long an order to fence stands: until its end, which later words move on and none moves back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fence/order.h"

#define HEARTBEAT_MS 500u

static void an_order_stands_until_its_end(void **state)
{
    struct fence_order order = {0};

    (void)state;
    fence_order_vouch(&order, 1000);
    assert_true(fence_order_stands(&order, 999));
    assert_false(fence_order_stands(&order, 1000));
    assert_false(fence_order_stands(&order, UINT64_MAX));
}

static void without_a_word_it_does_not_stand(void **state)
{
    const struct fence_order order = {0};

    (void)state;
    assert_false(fence_order_stands(&order, 0));
    assert_false(fence_order_stands(&order, 1));
}

/* What hamgrd said while hamgr-fence hung is read in one go, and an older word says nothing new. */
static void only_a_later_end_counts(void **state)
{
    struct fence_order order = {0};

    (void)state;
    fence_order_vouch(&order, 1000);
    fence_order_vouch(&order, 1500);
    fence_order_vouch(&order, 1200);
    assert_true(fence_order_stands(&order, 1499));
    assert_false(fence_order_stands(&order, 1500));
}

/* Words come with each heartbeat: three that are late end no order, a hang of four does. */
static void it_outlives_three_late_words(void **state)
{
    struct fence_order order = {0};

    (void)state;
    fence_order_vouch(&order, fence_order_end_ms(10000, HEARTBEAT_MS));
    assert_true(fence_order_stands(&order, 10000 + 4 * HEARTBEAT_MS - 1));
    assert_false(fence_order_stands(&order, 10000 + 4 * HEARTBEAT_MS));
}

#define MS INT64_C(1000000)

/* What was heard before a suspend says nothing of whom the others took back meanwhile. */
static void a_sleeper_asks_again(void **state)
{
    struct fence_sleep sleep = {0};

    (void)state;
    assert_true(fence_sleep_is_over(&sleep, 0, 6900));
    fence_sleep_note(&sleep, 10000, 63000 * MS); /* it slept before we began */
    fence_sleep_note(&sleep, 10500, 63100 * MS); /* two readings that lie apart */
    assert_true(fence_sleep_is_over(&sleep, 0, 6900));
    fence_sleep_note(&sleep, 11100, 73800 * MS);
    assert_false(fence_sleep_is_over(&sleep, 0, 6900));            /* no lease at all */
    assert_false(fence_sleep_is_over(&sleep, 11100 + 6900, 6900)); /* of a heartbeat from before */
    assert_true(fence_sleep_is_over(&sleep, 11101 + 6900, 6900));
    fence_sleep_note(&sleep, 11600, 73800 * MS);
    assert_true(fence_sleep_is_over(&sleep, 11101 + 6900, 6900));
    fence_sleep_note(&sleep, 12000, 1000 * MS); /* can't be; nothing is known of the time then */
    assert_false(fence_sleep_is_over(&sleep, 11101 + 6900, 6900));
}

/* A hang of this process alone is as long a silence as a suspend of its host. */
static void who_stood_still_asks_again(void **state)
{
    struct fence_sleep sleep = {0};

    (void)state;
    fence_sleep_went_on(&sleep, 0); /* it never did */
    assert_true(fence_sleep_is_over(&sleep, 0, 6900));
    fence_sleep_went_on(&sleep, 20000);
    assert_false(fence_sleep_is_over(&sleep, 20000 + 6900, 6900)); /* of a heartbeat from before */
    fence_sleep_went_on(&sleep, 15000);                            /* is known already */
    assert_true(fence_sleep_is_over(&sleep, 20001 + 6900, 6900));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_stands_until_its_end),
        cmocka_unit_test(without_a_word_it_does_not_stand),
        cmocka_unit_test(only_a_later_end_counts),
        cmocka_unit_test(it_outlives_three_late_words),
        cmocka_unit_test(a_sleeper_asks_again),
        cmocka_unit_test(who_stood_still_asks_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
