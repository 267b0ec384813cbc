/* SPDX-License-Identifier: Apache-2.0
 *
 * The keeper's rule: when the watchdog may be petted, and when not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fence/keeper.h"

#define MS UINT64_C(1000000)

enum { P_MS = 250, L_MS = 6900 };

static struct keeper armed_at(uint64_t now_ns, uint64_t lease_end_ns)
{
    struct keeper k;

    keeper_init(&k, P_MS);
    keeper_arm(&k, L_MS, now_ns);
    assert_true(keeper_lease(&k, 1, lease_end_ns, now_ns));
    return k;
}

static void test_never_petted_before_it_is_armed(void **unused)
{
    struct keeper k;

    (void)unused;
    keeper_init(&k, P_MS);
    assert_true(keeper_lease(&k, 1, 5000 * MS, 0));
    assert_false(keeper_may_pet(&k, 1));
}

static void test_petted_while_the_lease_is_valid_and_not_a_moment_longer(void **unused)
{
    struct keeper k = armed_at(0, 1000 * MS);

    (void)unused;
    assert_true(keeper_may_pet(&k, 1000 * MS - 1));
    assert_false(keeper_may_pet(&k, 1000 * MS));
    assert_int_equal(k.state, KEEPER_EXPIRED);
}

static void test_a_lease_end_beyond_now_plus_l_is_refused(void **unused)
{
    struct keeper k = armed_at(0, 1000 * MS);

    (void)unused;
    assert_false(keeper_lease(&k, 1, (L_MS + 1) * MS, 0));
    assert_true(keeper_lease(&k, 1, L_MS * MS, 0));
    assert_true(k.lease_end_ns == L_MS * MS);
}

static void test_a_new_hamgrd_inherits_what_is_left(void **unused)
{
    struct keeper k = armed_at(0, 3000 * MS);

    (void)unused;
    assert_true(keeper_lease(&k, 2, 1000 * MS, 0));
    assert_true(k.lease_end_ns == 3000 * MS);
}

static void test_a_proof_quarantines_only_after_the_lease_ended(void **unused)
{
    struct keeper k = armed_at(0, 1000 * MS);

    (void)unused;
    assert_false(keeper_proof(&k, 900 * MS, 950 * MS));
    /* Its listing began before the lease ended: a guest may have been started after it. */
    assert_false(keeper_proof(&k, 999 * MS, 1001 * MS));
    assert_false(keeper_proof(&k, 1100 * MS, 1050 * MS)); /* from the future */
    assert_true(keeper_proof(&k, 1010 * MS, 1020 * MS));
    assert_int_equal(k.state, KEEPER_QUARANTINED);
    assert_true(keeper_may_pet(&k, 1030 * MS));
}

static void test_a_proof_is_a_lease_of_its_own(void **unused)
{
    struct keeper k = armed_at(0, 1000 * MS);

    (void)unused;
    assert_true(keeper_proof(&k, 1010 * MS, 1020 * MS));
    assert_true(keeper_may_pet(&k, (1010 + 4 * P_MS) * MS));
    assert_false(keeper_may_pet(&k, (1010 + 4 * P_MS) * MS + 1));
    assert_int_equal(k.state, KEEPER_EXPIRED);
    /* A stale one does not bring it back, a fresh one does. */
    assert_false(keeper_proof(&k, 1011 * MS, 2100 * MS));
    assert_true(keeper_proof(&k, 2095 * MS, 2100 * MS));
}

static void test_a_lease_ends_the_quarantine_and_voids_the_proof(void **unused)
{
    struct keeper k = armed_at(0, 1000 * MS);

    (void)unused;
    assert_true(keeper_proof(&k, 1010 * MS, 1020 * MS));
    assert_true(keeper_lease(&k, 1, 1200 * MS, 1100 * MS));
    assert_int_equal(k.state, KEEPER_LEASED);
    /* The lease ends again: what was proven before guests resumed is worth nothing. */
    assert_false(keeper_may_pet(&k, 1200 * MS));
    assert_int_equal(k.state, KEEPER_EXPIRED);
}

static void test_a_lease_that_is_over_does_not_end_the_quarantine(void **unused)
{
    struct keeper k = armed_at(0, 1000 * MS);

    (void)unused;
    assert_true(keeper_proof(&k, 1010 * MS, 1020 * MS));
    assert_true(keeper_lease(&k, 1, 1050 * MS, 1060 * MS));
    assert_int_equal(k.state, KEEPER_QUARANTINED);
}

static void test_a_restarted_keeper_forgets_an_unbelievable_lease(void **unused)
{
    struct keeper k;

    (void)unused;
    keeper_init(&k, P_MS);
    k.lease_end_ns = UINT64_MAX; /* a damaged page */
    keeper_arm(&k, L_MS, 1000 * MS);
    assert_int_equal(k.state, KEEPER_EXPIRED);
    assert_false(keeper_may_pet(&k, 1001 * MS));
}

/* A hamgrd with a longer L arms again; one with a shorter L must not void the lease that runs. */
static void test_armed_again_the_lease_only_grows(void **unused)
{
    struct keeper k = armed_at(0, L_MS * MS);

    (void)unused;
    keeper_arm(&k, L_MS / 2, 1);
    assert_true(k.lease_end_ns == L_MS * MS);
    assert_true(keeper_may_pet(&k, L_MS * MS - 1));
    assert_false(keeper_lease(&k, 1, 2 * L_MS * MS, 2));
    keeper_arm(&k, 2 * L_MS, 2);
    assert_true(keeper_lease(&k, 1, 2 * L_MS * MS, 2));
    keeper_disarm(&k);
    keeper_arm(&k, L_MS, 2 * L_MS * MS);
    assert_false(keeper_lease(&k, 1, (3 * L_MS + 1) * MS, 2 * L_MS * MS));
}

static void test_disarmed_means_no_pet_whatever_comes(void **unused)
{
    struct keeper k = armed_at(0, 1000 * MS);

    (void)unused;
    keeper_disarm(&k);
    assert_false(keeper_proof(&k, 1010 * MS, 1020 * MS));
    assert_true(keeper_lease(&k, 1, 2000 * MS, 1000 * MS));
    assert_false(keeper_may_pet(&k, 1100 * MS));
}

/* ---- a host that is suspended ------------------------------------------------------------------
 */

enum { W_MS = 5000 };

/* Leased until 6 s at 0 s; slept_ms behind 1 s of its own time. */
static struct keeper woken_at_1_s(int64_t slept_ms)
{
    struct keeper k = armed_at(0, 6000 * MS);

    assert_false(keeper_slept(&k, 7, 0));
    assert_true(keeper_slept(&k, 7 + slept_ms * (int64_t)MS, 1000 * MS));
    return k;
}

static void test_a_lease_from_before_a_suspend_is_void(void **unused)
{
    struct keeper k = woken_at_1_s(200);

    (void)unused;
    assert_int_equal(k.state, KEEPER_EXPIRED);
    assert_int_equal(k.lease_end_ns, 0); /* the gate reads it in the page */
    assert_false(keeper_may_pet(&k, 1000 * MS));
    /* Of a heartbeat that was sent before it woke, and acknowledged only now. */
    assert_false(keeper_lease(&k, 1, (1000 + L_MS) * MS, 1100 * MS));
    assert_int_equal(k.state, KEEPER_EXPIRED);
    assert_true(keeper_lease(&k, 1, (1000 + L_MS) * MS + 1, 1100 * MS));
    assert_true(keeper_may_pet(&k, 1200 * MS));
    assert_false(keeper_slept(&k, k.slept_ns, 1300 * MS)); /* told of once */
}

static void test_two_clocks_read_one_after_the_other_are_no_suspend(void **unused)
{
    struct keeper k = armed_at(0, 6000 * MS);

    (void)unused;
    assert_false(keeper_slept(&k, 0, 0));
    assert_false(keeper_slept(&k, 100 * (int64_t)MS, 1000 * MS));
    assert_true(keeper_may_pet(&k, 1000 * MS));
    assert_true(keeper_slept(&k, 101 * (int64_t)MS, 1100 * MS));
    assert_false(keeper_may_pet(&k, 1100 * MS));
}

static void test_a_proof_brings_a_healthy_host_through_its_suspend(void **unused)
{
    struct keeper k = woken_at_1_s(60000);

    (void)unused;
    assert_false(keeper_proof(&k, 999 * MS, 1300 * MS)); /* it ran behind that */
    assert_true(keeper_proof(&k, 1250 * MS, 1300 * MS));
    assert_true(keeper_may_pet(&k, 1400 * MS));
    /* What is paused does not run in its sleep. */
    assert_true(keeper_slept(&k, k.slept_ns + 60000 * (int64_t)MS, 1500 * MS));
    assert_int_equal(k.state, KEEPER_QUARANTINED);
    assert_true(keeper_may_pet(&k, 1500 * MS));
    assert_int_equal(keeper_hurry_ms(&k, W_MS, 1500 * MS), 0);
}

static void test_the_watchdog_gets_what_others_still_wait(void **unused)
{
    struct keeper k = woken_at_1_s(4000);

    (void)unused;
    /* They wait until 6 - 4 + P + W = 7.25 s: W behind 1 s is early enough, also if a real-time
     * clock rounded the suspend. */
    assert_int_equal(keeper_hurry_ms(&k, W_MS, 1000 * MS), 0);
    k = woken_at_1_s(4500);
    assert_int_equal(keeper_hurry_ms(&k, W_MS, 1000 * MS), 4000);
    k = woken_at_1_s(9000);
    assert_int_equal(keeper_hurry_ms(&k, W_MS, 1000 * MS), 1000);
    k = woken_at_1_s(3600000);
    assert_int_equal(keeper_hurry_ms(&k, W_MS, 1000 * MS), 1000);
    assert_int_equal(keeper_hurry_ms(&k, 1000, 1000 * MS), 0); /* no device can less */
    /* Twice asleep is as long as both. */
    k = woken_at_1_s(3000);
    assert_true(keeper_slept(&k, k.slept_ns + 1500 * (int64_t)MS, 1000 * MS));
    assert_int_equal(keeper_hurry_ms(&k, W_MS, 1000 * MS), 4000);
    assert_true(keeper_lease(&k, 1, 8000 * MS, 1500 * MS));
    assert_int_equal(keeper_hurry_ms(&k, W_MS, 1500 * MS), 0);
}

/* It died before the suspend, or in it; the page knows. */
static void test_a_restarted_keeper_sees_the_suspend_too(void **unused)
{
    struct keeper k;

    (void)unused;
    keeper_init(&k, P_MS);
    k.has_slept = true;
    k.slept_ns = 7;
    k.lease_end_ns = 6000 * MS;
    assert_true(keeper_slept(&k, 7 + 1000 * (int64_t)MS, 1000 * MS));
    keeper_arm(&k, L_MS, 1000 * MS);
    assert_int_equal(k.state, KEEPER_EXPIRED);
}

static void test_armed_behind_a_suspend_a_lease_from_before_counts_no_more(void **unused)
{
    struct keeper k;

    (void)unused;
    keeper_init(&k, P_MS);
    assert_false(keeper_slept(&k, 0, 0));
    assert_true(keeper_slept(&k, 1000 * (int64_t)MS, 1000 * MS));
    assert_true(keeper_lease(&k, 1, 6000 * MS, 1000 * MS)); /* of which L is not known yet */
    keeper_arm(&k, L_MS, 1000 * MS);
    assert_int_equal(k.state, KEEPER_EXPIRED);
    assert_int_equal(k.lease_end_ns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_petted_before_it_is_armed),
        cmocka_unit_test(test_petted_while_the_lease_is_valid_and_not_a_moment_longer),
        cmocka_unit_test(test_a_lease_end_beyond_now_plus_l_is_refused),
        cmocka_unit_test(test_a_new_hamgrd_inherits_what_is_left),
        cmocka_unit_test(test_a_proof_quarantines_only_after_the_lease_ended),
        cmocka_unit_test(test_a_proof_is_a_lease_of_its_own),
        cmocka_unit_test(test_a_lease_ends_the_quarantine_and_voids_the_proof),
        cmocka_unit_test(test_a_lease_that_is_over_does_not_end_the_quarantine),
        cmocka_unit_test(test_a_restarted_keeper_forgets_an_unbelievable_lease),
        cmocka_unit_test(test_armed_again_the_lease_only_grows),
        cmocka_unit_test(test_disarmed_means_no_pet_whatever_comes),
        cmocka_unit_test(test_a_lease_from_before_a_suspend_is_void),
        cmocka_unit_test(test_two_clocks_read_one_after_the_other_are_no_suspend),
        cmocka_unit_test(test_a_proof_brings_a_healthy_host_through_its_suspend),
        cmocka_unit_test(test_the_watchdog_gets_what_others_still_wait),
        cmocka_unit_test(test_a_restarted_keeper_sees_the_suspend_too),
        cmocka_unit_test(test_armed_behind_a_suspend_a_lease_from_before_counts_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
