/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a quorum that is heard backs a view: could it still commit what is decided there?
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster.h"

#define UNUSED __attribute__((unused))
#define H_MS   100u

static struct world *whole_world(uint32_t count)
{
    struct world *w = world_new(count, count, 3);

    w->detect_us = 0;
    w->has_no_shell = true;
    world_start_all(w);
    assert_true(world_run_until(w, 5000, world_is_whole, NULL));
    world_run_ms(w, 3 * H_MS);
    return w;
}

static void finish(struct world *w)
{
    world_check_end(w);
    if (w->failure[0])
        fail_msg("%s", w->failure);
    world_free(w);
}

static bool hears_again(struct world *w, void *user)
{
    const struct log *log = ((const struct world_node *)user)->log;
    return w && log_is_open(log) && log_hears_quorum(log);
}

/* The others have a view of their own; one begins anew and is in reach again. The old leader's
 * lease runs on, but nobody in reach can commit anything of its view: it may fence nobody. */
static void who_was_left_behind_is_not_backed(void **state UNUSED)
{
    struct world *w = whole_world(3);
    struct world_node *old = &w->nodes[1];

    assert_true(world_leader(w) == 1 && log_is_backed(old->log));
    world_split(w, (const uint32_t[]){2, 1, 1});
    world_tell_members(w);
    world_run_ms(w, 50);
    assert_true(log_is_backed(w->nodes[2].log));
    assert_true(log_is_open(old->log) && !log_hears_quorum(old->log));
    old->is_disk_stalled = true; /* or it would prepare a view in the same step */
    world_propose(w, 1, 10);
    world_run_ms(w, 2u * H_MS);
    world_crash(w, 2, 0);
    world_split(w, (const uint32_t[]){2, 2, 1});
    world_start(w, 2);
    world_tell_members(w);
    assert_true(world_run_until(w, w->timing.lease_ms, hears_again, old));
    assert_false(log_is_backed(old->log));
    old->is_disk_stalled = false;
    world_heal(w);
    assert_true(world_run_until(w, 3000, world_is_whole, NULL));
    finish(w);
}

static bool is_backed(struct world *w, void *user)
{
    const struct log *log = ((const struct world_node *)user)->log;
    return w && log_is_backed(log);
}

/* Half of four voters back nobody. That the vote of one is taken makes the other two a quorum as
 * soon as they have stored it: who is cut off as that is done has heard the other a moment ago. */
static void a_vote_taken_backs_nobody_before_it_is_stored(void **state UNUSED)
{
    struct world *w = whole_world(4);
    struct world_node *leader = &w->nodes[1];

    world_crash(w, 3, 0);
    world_crash(w, 4, 0);
    world_tell_members(w);
    world_run_ms(w, w->timing.lease_ms / 2 + H_MS);
    assert_true(log_is_open(leader->log) && !log_is_backed(leader->log));
    leader->is_disk_stalled = true; /* or it would prepare a view in the same step */
    world_split(w, (const uint32_t[]){1, 2, 2, 2});
    world_propose_voter(w, 1, 3, false);
    assert_int_equal(log_voter_count(leader->log), 3);
    assert_true(log_hears_quorum(leader->log) && !log_is_backed(leader->log));
    leader->is_disk_stalled = false;
    world_heal(w);
    assert_true(world_run_until(w, 3000, is_backed, leader));
    assert_int_equal(log_voter_count(w->nodes[2].log), 3);
    finish(w);
}

/* The same where the vote is of a node that came back with another store: the process that is heard
 * under its id never had it. */
static void a_lost_stores_vote_backs_nobody(void **state UNUSED)
{
    struct world *w = whole_world(4);
    struct world_node *leader = &w->nodes[1];

    world_crash(w, 4, 0);
    world_lose_store(w, 4);
    world_start(w, 4);
    world_tell_members(w);
    assert_true(world_run_until(w, 5000, world_is_whole, NULL));
    assert_false(log_is_voter(w->nodes[4].log));
    world_crash(w, 3, 0);
    world_tell_members(w);
    world_run_ms(w, w->timing.lease_ms / 2 + H_MS);
    assert_true(log_is_open(leader->log) && !log_is_backed(leader->log));
    leader->is_disk_stalled = true;
    world_propose_voter(w, 1, 4, false);
    assert_int_equal(log_voter_count(leader->log), 3);
    assert_true(log_hears_quorum(leader->log) && !log_is_backed(leader->log));
    leader->is_disk_stalled = false;
    assert_true(world_run_until(w, 3000, is_backed, leader));
    finish(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_was_left_behind_is_not_backed),
        cmocka_unit_test(a_vote_taken_backs_nobody_before_it_is_stored),
        cmocka_unit_test(a_lost_stores_vote_backs_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
