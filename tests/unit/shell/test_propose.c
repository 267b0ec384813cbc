/* SPDX-License-Identifier: Apache-2.0
 *
 * The fate of local proposals: each is told exactly once, also when its entry came inside a
 * snapshot and is never seen applied.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "hamgr/base/assert.h"
#include "hamgr/base/err.h"
#include "hamgr/shell/shell.h"

struct fate {
    unsigned count;
    int outcome;
    uint64_t index;
};

static void on_fate(void *user, int outcome, uint16_t reason, uint64_t index)
{
    struct fate *fate = user;

    (void)reason;
    fate->count++;
    fate->outcome = outcome;
    fate->index = index;
}

static int setup(void **state)
{
    struct hamgrd *d = calloc(1, sizeof(*d));

    ha_assert(d);
    d->loop = qb_loop_create();
    d->identity.node = 1;
    d->nonce = 7;
    d->verbs = calloc(1, sizeof(*d->verbs));
    ha_assert(d->loop && d->verbs);
    d->verb_count = d->verb_capacity = 1;
    *state = d;
    return 0;
}

static int teardown(void **state)
{
    struct hamgrd *d = *state;

    propose_pump(d); /* no log: what is left is given up */
    qb_loop_destroy(d->loop);
    free(d->verbs);
    free(d);
    return 0;
}

static uint64_t propose(struct hamgrd *d, struct fate *fate)
{
    struct ha_cmd cmd = {.type = HA_CMD_ARM, .actor = "test"};

    return propose_cmd(d, &cmd, on_fate, fate);
}

static void one_inside_a_snapshot_is_told_as_unknown(void **state)
{
    struct hamgrd *d = *state;
    struct fate fate = {0};
    uint64_t seq = propose(d, &fate);

    d->verbs[0].proposal = seq;
    d->verbs[0].v.is_proposed = true;
    d->state.applied = 20;
    propose_committed(d, seq, 15);
    assert_int_equal(fate.count, 1);
    assert_int_equal(fate.outcome, HA_E_UNKNOWN);
    assert_false(d->verbs[0].v.is_proposed); /* or nothing would ever be said of that guest again */
    propose_committed(d, seq, 15);
    propose_lost(d, seq);
    assert_int_equal(fate.count, 1);
}

static void one_that_is_applied_is_told_by_its_entry(void **state)
{
    struct hamgrd *d = *state;
    struct fate fate = {0};
    uint64_t seq = propose(d, &fate);
    struct log_entry entry = {.index = 15, .origin = 1, .nonce = 7, .seq = seq};
    struct ha_applied applied = {0};

    d->state.applied = 14;
    propose_committed(d, seq, 15); /* apply stopped before it */
    assert_int_equal(fate.count, 0);
    entry.nonce = 8; /* an earlier process of this node */
    propose_applied(d, &entry, &applied);
    assert_int_equal(fate.count, 0);
    entry.nonce = 7;
    propose_applied(d, &entry, &applied);
    d->state.applied = 15;
    propose_committed(d, seq, 15);
    assert_int_equal(fate.count, 1);
    assert_int_equal(fate.outcome, 0);
    assert_int_equal(fate.index, 15);
}

static void one_that_is_lost_again_and_again_is_given_up(void **state)
{
    struct hamgrd *d = *state;
    struct fate fate = {0};
    uint64_t seq = propose(d, &fate);

    for (unsigned i = 0; i < 100 && fate.count == 0; i++) {
        propose_lost(d, seq);
        seq = d->proposal_seq;
    }
    assert_int_equal(fate.count, 1);
    assert_int_equal(fate.outcome, HA_E_UNKNOWN);
}

/* It may be committed already: proposed again it would be applied twice. */
static void one_whose_fate_is_unknown_is_not_proposed_again(void **state)
{
    struct hamgrd *d = *state;
    struct fate fate = {0};
    uint64_t seq = propose(d, &fate);

    d->verbs[0].proposal = seq;
    d->verbs[0].v.is_proposed = true;
    propose_unknown(d, seq);
    assert_int_equal(fate.count, 1);
    assert_int_equal(fate.outcome, HA_E_UNKNOWN);
    assert_null(d->proposals);
    assert_false(d->verbs[0].v.is_proposed); /* what is still to be said of that guest is said */
    propose_unknown(d, seq);
    propose_lost(d, seq);
    assert_int_equal(fate.count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_inside_a_snapshot_is_told_as_unknown, setup, teardown),
        cmocka_unit_test_setup_teardown(one_that_is_applied_is_told_by_its_entry, setup, teardown),
        cmocka_unit_test_setup_teardown(one_whose_fate_is_unknown_is_not_proposed_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(one_that_is_lost_again_and_again_is_given_up, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
