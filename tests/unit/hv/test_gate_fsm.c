/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate's rule, under a clock of the test's own: when guests may run, when all must be paused,
 * and what makes a proof.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hamgr/hv/gate_fsm.h"

#define MS UINT64_C(1000000)

struct world {
    struct gate_fsm fsm;
    struct gate_view view;
    struct gate_order order;
};

/* Armed, at 1000 s, with a lease of 6.9 s. */
static struct world leased(void)
{
    struct world w = {0};

    w.view = (struct gate_view){.now_ns = 1000000 * MS,
                                .slept_ns = 5,
                                .has_page = true,
                                .is_armed = true,
                                .lease_end_ns = 1006900 * MS,
                                .lease_ns = 6900 * MS};
    gate_fsm_tick(&w.fsm, &w.view, &w.order);
    assert_int_equal(w.fsm.state, GATE_OPEN);
    return w;
}

static void tick_at(struct world *w, uint64_t now_ns)
{
    w->view.now_ns = now_ns;
    gate_fsm_tick(&w->fsm, &w->view, &w->order);
}

static bool finish_round(struct world *w, uint32_t not_paused, uint32_t not_quiet)
{
    struct gate_round round = {w->view.now_ns, true, not_paused, not_quiet};

    return gate_fsm_round(&w->fsm, &round, w->view.now_ns + 3 * MS, &w->order);
}

static void test_wakes(void **state)
{
    (void)state;
    struct world w = leased();

    assert_int_equal(w.order.wake_ns, w.view.now_ns + GATE_P_NS);
    tick_at(&w, w.view.lease_end_ns - 100 * MS);
    assert_int_equal(w.order.wake_ns, w.view.lease_end_ns);
    assert_false(w.order.is_changed);
}

static void test_lease_end(void **state)
{
    (void)state;
    struct world w = leased();

    tick_at(&w, w.view.lease_end_ns - 1);
    assert_true(gate_fsm_may_run(&w.fsm, &w.view));
    tick_at(&w, w.view.lease_end_ns);
    assert_false(gate_fsm_may_run(&w.fsm, &w.view));
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    assert_true(w.order.is_changed);
    assert_true(w.order.is_round_due);
    assert_int_equal(w.fsm.close_count, 1);
}

static void test_proof_needs_all(void **state)
{
    (void)state;
    struct world w = leased();
    uint64_t end_ns = w.view.lease_end_ns;
    struct gate_round unlisted = {end_ns, false, 0, 0};

    tick_at(&w, end_ns);
    assert_false(finish_round(&w, 1, 0));
    assert_int_equal(w.order.wake_ns, end_ns + 3 * MS + GATE_RETRY_NS);
    assert_false(finish_round(&w, 0, 1));
    assert_false(gate_fsm_round(&w.fsm, &unlisted, end_ns, &w.order));
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    assert_true(finish_round(&w, 0, 0));
    assert_int_equal(w.fsm.state, GATE_QUARANTINED);
    assert_true(w.order.is_changed);
}

static void test_proof_is_renewed(void **state)
{
    (void)state;
    struct world w = leased();
    uint64_t taken_ns = w.view.lease_end_ns;

    tick_at(&w, taken_ns);
    assert_true(finish_round(&w, 0, 0));
    /* P from the listing, not from its end: the proof's age is what the keeper counts. */
    assert_int_equal(w.order.wake_ns, taken_ns + GATE_P_NS);
    tick_at(&w, taken_ns + GATE_P_NS - 1);
    assert_false(w.order.is_round_due);
    tick_at(&w, taken_ns + GATE_P_NS);
    assert_true(w.order.is_round_due);
    assert_false(finish_round(&w, 0, 1));
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    assert_true(w.order.is_changed);
}

static void quarantine(struct world *w)
{
    tick_at(w, w->view.lease_end_ns);
    assert_true(finish_round(w, 0, 0));
    w->view.is_quarantined = true;
}

static void test_opens_after_the_keeper(void **state)
{
    (void)state;
    struct world w = leased();

    quarantine(&w);
    w.view.lease_end_ns = w.view.now_ns + 5000 * MS;
    tick_at(&w, w.view.now_ns + 10 * MS);
    assert_int_equal(w.fsm.state, GATE_QUARANTINED); /* H15: the keeper leaves quarantine first */
    assert_false(gate_fsm_may_run(&w.fsm, &w.view));
    w.view.is_quarantined = false;
    tick_at(&w, w.view.now_ns + 10 * MS);
    assert_int_equal(w.fsm.state, GATE_OPEN);
    assert_true(w.order.is_changed);
    assert_false(w.order.is_round_due);
}

static void test_not_armed(void **state)
{
    (void)state;
    struct world w = leased();

    w.view.is_armed = false;
    tick_at(&w, w.view.lease_end_ns + 1000 * MS);
    assert_int_equal(w.fsm.state, GATE_OPEN);
    w.view.is_armed = true;
    tick_at(&w, w.view.now_ns);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
}

static void test_disarmed_and_frozen(void **state)
{
    (void)state;
    struct world w = leased();

    w.view.is_disarmed = true;
    tick_at(&w, w.view.lease_end_ns + 1);
    assert_int_equal(w.fsm.state, GATE_OPEN);
    w.view.is_disarmed = false;
    w.view.is_frozen = true;
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_OPEN);
    w.view.is_frozen = false;
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    w.view.is_disarmed = true; /* an operator's way out of a quarantine */
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_OPEN);
}

static void test_page_lost(void **state)
{
    (void)state;
    struct world w = leased();

    w.view = (struct gate_view){.now_ns = w.view.now_ns, .slept_ns = 5};
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    assert_false(gate_fsm_may_run(&w.fsm, &w.view));
}

static void test_never_armed_no_page(void **state)
{
    (void)state;
    struct world w = {.view = {.now_ns = 1000 * MS}};

    tick_at(&w, 2000 * MS);
    assert_int_equal(w.fsm.state, GATE_OPEN);
    assert_true(gate_fsm_may_run(&w.fsm, &w.view));
}

static void test_restarted_without_page(void **state)
{
    (void)state;
    struct world w = {.fsm = {.was_armed = true}, .view = {.now_ns = 1000 * MS}};

    tick_at(&w, 2000 * MS);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    assert_true(w.order.is_round_due);
}

static void test_sleep_voids(void **state)
{
    (void)state;
    struct world w = leased();
    uint64_t slept_through_ns = w.view.lease_end_ns;

    w.view.slept_ns += INT64_C(3600000000000);
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    assert_true(w.order.is_round_due);
    tick_at(&w, w.view.now_ns + 1); /* the same lease again: still void */
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    assert_false(gate_fsm_may_run(&w.fsm, &w.view));
    w.view.lease_end_ns = slept_through_ns + 1;
    tick_at(&w, w.view.now_ns + 1); /* of a heartbeat from before, acknowledged only now */
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    w.view.lease_end_ns = w.fsm.woke_ns + w.view.lease_ns;
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
    w.view.lease_end_ns++;
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_OPEN);
}

/* What a state file keeps: hamgr-hv died between the sleep and the end of the lease from before. */
static void test_restart_after_sleep(void **state)
{
    (void)state;
    struct world w = leased();

    w.view.slept_ns += INT64_C(3600000000000);
    tick_at(&w, w.view.now_ns + 1);
    w.fsm = (struct gate_fsm){.was_armed = true,
                              .has_slept = true,
                              .slept_ns = w.fsm.slept_ns,
                              .void_end_ns = w.fsm.void_end_ns,
                              .woke_ns = w.fsm.woke_ns};
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
}

static void test_sleep_while_away(void **state)
{
    (void)state;
    struct world w = leased();

    w.fsm = (struct gate_fsm){.was_armed = true, .has_slept = true, .slept_ns = 5};
    w.view.slept_ns = INT64_C(60000000000);
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
}

static void test_clock_noise_is_no_sleep(void **state)
{
    (void)state;
    struct world w = leased();

    w.view.slept_ns += INT64_C(20000000);
    tick_at(&w, w.view.now_ns + 1);
    assert_int_equal(w.fsm.state, GATE_OPEN);
}

static void test_run_sees_the_end_before_a_tick(void **state)
{
    (void)state;
    struct world w = leased();

    w.view.now_ns = w.view.lease_end_ns;
    assert_false(gate_fsm_may_run(&w.fsm, &w.view));
    assert_int_equal(w.fsm.state, GATE_OPEN); /* the next tick closes it */
    tick_at(&w, w.view.now_ns);
    assert_int_equal(w.fsm.state, GATE_PAUSING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wakes),
        cmocka_unit_test(test_lease_end),
        cmocka_unit_test(test_proof_needs_all),
        cmocka_unit_test(test_proof_is_renewed),
        cmocka_unit_test(test_opens_after_the_keeper),
        cmocka_unit_test(test_not_armed),
        cmocka_unit_test(test_disarmed_and_frozen),
        cmocka_unit_test(test_page_lost),
        cmocka_unit_test(test_never_armed_no_page),
        cmocka_unit_test(test_restarted_without_page),
        cmocka_unit_test(test_sleep_voids),
        cmocka_unit_test(test_restart_after_sleep),
        cmocka_unit_test(test_sleep_while_away),
        cmocka_unit_test(test_clock_noise_is_no_sleep),
        cmocka_unit_test(test_run_sees_the_end_before_a_tick),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
