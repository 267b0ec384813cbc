/* SPDX-License-Identifier: Apache-2.0
 *
 * Views, entries, voters: one story per hole of the log that was ever found, and the latencies that
 * are promised. The small world's checkers watch each of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster_internal.h"

#define UNUSED      __attribute__((unused))
#define H_MS        100u
#define L_MS(w)     ((w)->timing.lease_ms)
#define HOP_US      1000u
#define DISK_US     2000u
#define GROUPS(...) ((const uint32_t[]){__VA_ARGS__})

/* A world without chance: every hop 1 ms, every write 2 ms, members told by the test. */
static struct world *calm_world(uint32_t count, uint32_t voters)
{
    struct world *w = world_new(count, voters, 1);

    w->detect_us = 0;
    w->disk_us = DISK_US;
    w->disk_jitter_us = 0;
    w->has_no_shell = true;
    w->is_verbose = getenv("WORLD_VERBOSE") != NULL;
    for (uint32_t a = 1; a <= count; a++) {
        for (uint32_t b = 1; b <= count; b++)
            w->links[a][b] = (struct world_link){.delay_us = HOP_US};
    }
    return w;
}

static void assert_fine(struct world *w)
{
    world_check_end(w);
    if (w->failure[0])
        fail_msg("%s", w->failure);
}

static void finish(struct world *w)
{
    assert_fine(w);
    world_free(w);
}

static void run_whole(struct world *w)
{
    bool is_whole = world_run_until(w, 5u * L_MS(w), world_is_whole, NULL);

    assert_fine(w);
    assert_true(is_whole);
}

static struct world *whole_world(uint32_t count)
{
    struct world *w = calm_world(count, count);

    world_start_all(w);
    run_whole(w);
    world_run_ms(w, 10);
    return w;
}

static uint64_t fate_of(struct world *w, uint32_t node, uint64_t seq)
{
    uint64_t index = 0;

    assert_true(world_fate(w, node, seq, &index));
    return index;
}

static bool is_open_at_all_up(struct world *w, void *newer_than)
{
    struct log_view than = *(struct log_view *)newer_than;

    for (uint32_t id = 1; id <= w->count; id++) {
        const struct world_node *n = &w->nodes[id];
        if (n->is_up && !n->is_hung && n->group == w->nodes[2].group &&
            (!n->is_open || log_view_cmp(n->open_view, than) <= 0))
            return false;
    }
    return true;
}

/* Runs until all living nodes are in a later view than node 2's; returns the microseconds it took.
 */
static uint64_t time_to_next_view(struct world *w, uint32_t limit_ms)
{
    struct log_view before = w->nodes[2].open_view;
    uint64_t start_us = w->now_us;
    bool is_done = world_run_until(w, limit_ms, is_open_at_all_up, &before);

    assert_fine(w);
    assert_true(is_done);
    return w->now_us - start_us;
}

/* ---- the ordinary life */

static void single_node_is_a_cluster(void **state UNUSED)
{
    struct world *w = whole_world(1);
    uint64_t seq = world_propose(w, 1, 20);

    world_run_ms(w, 3); /* one write */
    assert_true(fate_of(w, 1, seq) > 0);
    world_run_ms(w, 3u * L_MS(w));
    assert_true(w->nodes[1].is_open);
    assert_true(w->nodes[1].lease_end_us > w->now_us);
    finish(w);
}

static void two_voters_need_each_other(void **state UNUSED)
{
    struct world *w = whole_world(2);
    uint64_t seq = world_propose(w, 2, 20);

    world_run_ms(w, 10);
    assert_true(fate_of(w, 2, seq) > 0);
    world_crash(w, 2, 0);
    world_tell_members(w);
    seq = world_propose(w, 1, 20);
    world_run_ms(w, 2u * L_MS(w));
    assert_false(w->nodes[1].is_open);
    assert_int_equal(w->nodes[1].lease_end_us, 0);
    world_start(w, 2);
    run_whole(w);
    finish(w);
}

/* PREPARE, write, PROMISE; log with OPEN, write, ACK: two round trips and two writes, no timer. */
static void view_change_takes_two_round_trips(void **state UNUSED)
{
    struct world *w = whole_world(3);

    assert_int_equal(world_leader(w), 1);
    world_crash(w, 1, 0); /* the leader, which is the worst case */
    world_tell_members(w);
    assert_in_range(time_to_next_view(w, 100), 1, 4 * HOP_US + 2 * DISK_US + 100);
    assert_int_equal(world_leader(w), 2);
    finish(w);
}

static void members_loss_takes_two_round_trips(void **state UNUSED)
{
    struct world *w = whole_world(3);

    world_crash(w, 3, 0);
    world_tell_members(w);
    assert_in_range(time_to_next_view(w, 100), 1, 4 * HOP_US + 2 * DISK_US + 100);
    assert_int_equal(world_leader(w), 1);
    finish(w);
}

static bool is_committed(struct world *w, void *user)
{
    uint64_t *want = user; /* node, seq */
    uint64_t index;

    return world_fate(w, (uint32_t)want[0], want[1], &index);
}

/* One message, one write, one acknowledgement; a member's proposal has one more way to go. */
static void commit_takes_one_round_trip(void **state UNUSED)
{
    struct world *w = whole_world(3);

    for (uint32_t node = 1; node <= 2; node++) {
        uint64_t start_us = w->now_us;
        uint64_t want[2] = {node, world_propose(w, node, 50)};
        assert_true(world_run_until(w, 100, is_committed, want));
        assert_in_range(w->now_us - start_us, 1, (node + 1) * HOP_US + DISK_US + 100);
        assert_true(fate_of(w, node, want[1]) > 0);
    }
    finish(w);
}

/* All ACKs are lost, and nothing follows the entry: the heartbeats say the same again. */
static void lost_acknowledgements_are_made_good(void **state UNUSED)
{
    struct world *w = whole_world(2);
    uint64_t index, seq = world_propose(w, 1, 20);

    world_run_ms(w, 1); /* the entry is there, not yet durable */
    w->links[1][2].is_cut = w->links[2][1].is_cut = true;
    world_run_ms(w, 10);
    w->links[1][2].is_cut = w->links[2][1].is_cut = false;
    assert_int_equal(log_last_index(w->nodes[2].log), log_last_index(w->nodes[1].log));
    assert_false(world_fate(w, 1, seq, &index));
    world_run_ms(w, 2u * H_MS);
    assert_true(fate_of(w, 1, seq) > 0);
    finish(w);
}

/* Proposals that come while a write is under way share the next write and message. */
static void proposals_are_batched(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint64_t start_us = w->now_us;
    uint64_t messages = w->messages;
    uint64_t want[2] = {1, 0};

    for (int i = 0; i < 100; i++)
        want[1] = world_propose(w, 1, 50);
    assert_true(world_run_until(w, 100, is_committed, want));
    assert_in_range(w->now_us - start_us, 1, 2 * HOP_US + 2 * DISK_US + 1000);
    assert_in_range(w->messages - messages, 1, 40);
    finish(w);
}

/* ---- holes of views */

/* H1: a later view that stored nothing of its own still outranks an older one's longer tail. */
static void older_tail_loses_against_later_view(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint64_t seqs[5];

    world_split(w, GROUPS(1, 2, 2)); /* n1 leads on, alone, and stores much */
    for (int i = 0; i < 5; i++)
        seqs[i] = world_propose(w, 1, 30);
    world_tell_members(w);
    time_to_next_view(w, 100 + L_MS(w)); /* n2 and n3 */
    assert_int_equal(world_leader(w), 2);
    world_crash(w, 2, 9);
    world_heal(w); /* n1 with the longer log, n3 with the later one */
    run_whole(w);
    for (int i = 0; i < 5; i++)
        assert_int_equal(fate_of(w, 1, seqs[i]), 0);
    world_start(w, 2);
    run_whole(w);
    finish(w);
}

/* H4: half of the voters is no quorum, whatever they believe. */
static void half_of_the_voters_is_no_quorum(void **state UNUSED)
{
    struct world *w = whole_world(4);
    uint64_t committed;

    world_split(w, GROUPS(1, 1, 2, 2));
    world_tell_members(w);
    committed = w->commit_count;
    for (uint32_t id = 1; id <= 4; id++)
        world_propose(w, id, 20);
    world_run_ms(w, 4u * L_MS(w));
    assert_int_equal(w->commit_count, committed);
    for (uint32_t id = 1; id <= 4; id++)
        assert_false(w->nodes[id].is_open);
    world_heal(w);
    run_whole(w);
    finish(w);
}

/* H5: e is committed by n1 and n2. n1's disk is new, n2 is down: n1 and n3 are not two of three. */
static void new_disk_counts_nowhere(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint64_t seq;

    world_crash(w, 3, 0);
    world_tell_members(w);
    time_to_next_view(w, 100);
    seq = world_propose(w, 1, 20);
    world_run_ms(w, 20);
    assert_true(fate_of(w, 1, seq) > 0);
    uint64_t committed = w->commit_count;
    world_crash(w, 2, 9);
    world_crash(w, 1, 9);
    world_lose_store(w, 1);
    world_start(w, 1);
    world_start(w, 3);
    world_run_ms(w, 4u * L_MS(w));
    assert_int_equal(w->commit_count, committed);
    assert_false(w->nodes[1].is_open);
    assert_false(w->nodes[3].is_open);
    world_start(w, 2); /* now n2 and n3 are a quorum, and e is there */
    run_whole(w);
    assert_true(w->nodes[3].applied > committed);
    assert_false(log_is_voter(w->nodes[1].log));
    finish(w);
}

/* H5: a store that came back older than what a peer heard it acknowledge stops, loudly. */
static void rolled_back_store_stops(void **state UNUSED)
{
    struct world *w = whole_world(3);
    struct world_store *s = &w->nodes[3].store;

    w->may_stop = true;
    for (int i = 0; i < 5; i++)
        world_propose(w, 1, 20);
    world_run_ms(w, 50);
    world_crash(w, 3, 9);
    world_tell_members(w);
    time_to_next_view(w, 100);
    world_store_cut(s, s->base + s->count - 2); /* its disk forgets what it acknowledged */
    world_start(w, 3);
    world_run_ms(w, 3u * L_MS(w));
    assert_true(w->nodes[1].is_open);
    assert_true(w->nodes[2].is_open);
    assert_int_equal(w->nodes[1].log->current.names.count, 2);
    assert_false(w->nodes[3].is_open);
    assert_true(w->nodes[3].is_stopped); /* it was told, so its operator is */
    finish(w);
}

static bool has_two_open_changes(struct world *w, void *unused UNUSED)
{
    for (uint32_t id = 1; id <= w->count; id++) {
        const struct log *log = w->nodes[id].log;
        uint32_t count = 0;
        for (uint64_t i = log->commit + 1; log_is_leader(log) && i <= log->ring.last; i++)
            count += log_ring_at(&log->ring, i)->kind == LOG_KIND_VOTER;
        if (count > 1)
            return true;
    }
    return false;
}

/* H6: a second change of voters waits until the first is committed. */
static void voters_change_one_at_a_time(void **state UNUSED)
{
    struct world *w = whole_world(5);
    uint64_t a = world_propose_voter(w, 1, 4, false);
    uint64_t b = world_propose_voter(w, 1, 5, false);
    uint64_t c = world_propose_voter(w, 2, 3, false);

    assert_false(world_run_until(w, 300, has_two_open_changes, NULL));
    assert_true(fate_of(w, 1, a) > 0);
    assert_true(fate_of(w, 1, b) > fate_of(w, 1, a));
    assert_true(fate_of(w, 2, c) > 0);
    assert_int_equal(log_voter_count(w->nodes[2].log), 2);
    finish(w);
}

/* Changes that change nothing are never numbered; nor is a vote for a store that never
 * acknowledged. */
static void empty_voter_changes_are_refused(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint64_t add = world_propose_voter(w, 1, 2, true);
    uint64_t other = world_propose_voter(w, 2, 3, true);

    world_crash(w, 3, 0);
    world_tell_members(w);
    world_run_ms(w, 100);
    uint64_t removed = world_propose_voter(w, 1, 3, false);
    world_run_ms(w, 20);
    uint64_t absent = world_propose_voter(w, 1, 3, true);
    world_run_ms(w, 100);
    assert_int_equal(fate_of(w, 1, add), 0);
    assert_int_equal(fate_of(w, 2, other), 0);
    assert_true(fate_of(w, 1, removed) > 0);
    assert_int_equal(fate_of(w, 1, absent), 0);
    assert_int_equal(log_voter_count(w->nodes[1].log), 2);
    finish(w);
}

/* A vote whose loss leaves the present members without a quorum is not taken: the removal would
 * wait for a voter that may never come back. The vote of the absent one may be. */
static void a_vote_that_is_needed_is_not_taken(void **state UNUSED)
{
    struct world *w = whole_world(3);

    world_crash(w, 3, 0);
    world_tell_members(w);
    world_run_ms(w, 100);
    uint64_t needed = world_propose_voter(w, 1, 2, false);
    uint64_t own = world_propose_voter(w, 1, 1, false);
    world_run_ms(w, 100);
    assert_int_equal(fate_of(w, 1, needed), 0);
    assert_int_equal(fate_of(w, 1, own), 0);
    assert_int_equal(log_voter_count(w->nodes[1].log), 3);
    uint64_t entry = world_propose(w, 1, 20);
    uint64_t absent = world_propose_voter(w, 1, 3, false);
    world_run_ms(w, 100);
    assert_true(fate_of(w, 1, entry) > 0);
    assert_true(fate_of(w, 1, absent) > 0);
    finish(w);
}

/* Nor by a leader whose members have just gone: its view is open until its lease ends, but nobody
 * is left to commit the removal. */
static void a_vote_is_not_taken_by_one_alone(void **state UNUSED)
{
    struct world *w = whole_world(3);

    world_crash(w, 2, 0);
    world_crash(w, 3, 0);
    world_tell_members(w);
    world_run_ms(w, 100);
    assert_true(w->nodes[1].is_open);
    uint64_t alone = world_propose_voter(w, 1, 2, false);
    world_run_ms(w, 100);
    assert_int_equal(fate_of(w, 1, alone), 0);
    assert_int_equal(log_voter_count(w->nodes[1].log), 3);
    finish(w);
}

/* A node joins as a learner, becomes a voter, and counts from then on. */
static void learner_becomes_a_voter(void **state UNUSED)
{
    struct world *w = calm_world(3, 2);
    uint64_t seq;

    world_start_all(w);
    run_whole(w);
    assert_false(log_is_voter(w->nodes[3].log));
    seq = world_propose_voter(w, 1, 3, true);
    world_run_ms(w, 50);
    assert_true(fate_of(w, 1, seq) > 0);
    assert_true(log_is_voter(w->nodes[3].log));
    world_crash(w, 1, 9);
    world_tell_members(w);
    time_to_next_view(w, 100); /* n2 and n3 are two of three now */
    finish(w);
}

/* H7: a member that hangs delays a view by h, it never blocks one. */
static void hung_member_delays_by_h(void **state UNUSED)
{
    struct world *w = whole_world(5);

    world_hang(w, 4, true);
    world_crash(w, 1, 0);
    world_tell_members(w);
    uint64_t took_us = time_to_next_view(w, 1000);
    assert_in_range(took_us, H_MS * 1000, H_MS * 1000 + 4 * HOP_US + 2 * DISK_US + 20000);
    assert_int_equal(world_leader(w), 2);
    world_hang(w, 4, false);
    run_whole(w); /* without n1 */
    finish(w);
}

/* H8: who hangs while its corosync lives is left out after L/2, the leader too. */
static void hung_leader_is_evicted(void **state UNUSED)
{
    struct world *w = whole_world(3);

    world_hang(w, 1, true);
    uint64_t took_us = time_to_next_view(w, L_MS(w));
    assert_in_range(took_us, L_MS(w) / 2 * 1000 - H_MS * 1000,
                    L_MS(w) / 2 * 1000 + H_MS * 1000 + 50000);
    assert_int_equal(world_leader(w), 2);
    assert_true(w->nodes[2].lease_end_us > w->now_us); /* leases went on */
    world_hang(w, 1, false);
    run_whole(w);
    finish(w);
}

static bool last_open_of(const struct world *w, uint32_t node, struct log_open *ret_open)
{
    const struct log_entry *e = log_entry_at(w->nodes[node].log, w->nodes[node].open_index);

    return e && log_open_decode(e->body, e->body_size, ret_open) == 0;
}

/* Whom the state does not take in votes on, but gives the lead away, once: another then plans. */
static void who_stands_back_gives_the_lead_away(void **state UNUSED)
{
    struct world *w = whole_world(3);
    struct log_open open;

    log_stand_back(w->nodes[1].log, true);
    (void)time_to_next_view(w, 4 * H_MS);
    assert_int_equal(world_leader(w), 2);
    assert_true(last_open_of(w, 2, &open));
    assert_true(open.is_continuous); /* nobody's lease ran out meanwhile */
    run_whole(w);                    /* with its vote */
    uint32_t opens = w->nodes[2].opens;
    world_crash(w, 3, 0);
    world_tell_members(w);
    (void)time_to_next_view(w, L_MS(w)); /* of it and n2: n2 leads it, too */
    assert_int_equal(world_leader(w), 2);
    world_run_ms(w, 20 * L_MS(w));
    assert_int_equal(w->nodes[2].opens, opens + 1);
    finish(w);
}

/* A view without a plan is more than none: nobody else may lead here. */
static void who_stands_back_leads_where_nobody_else_can(void **state UNUSED)
{
    struct world *w = calm_world(2, 1);

    world_start(w, 1);
    world_start(w, 2);
    run_whole(w);
    log_stand_back(w->nodes[1].log, true);
    uint32_t opens = w->nodes[1].opens;
    world_run_ms(w, 20 * L_MS(w));
    assert_int_equal(w->nodes[1].opens, opens);
    world_crash(w, 2, 0);
    world_tell_members(w);
    (void)time_to_next_view(w, L_MS(w));
    assert_int_equal(world_leader(w), 1);
    finish(w);
}

static void hung_member_is_evicted(void **state UNUSED)
{
    struct world *w = whole_world(3);

    world_hang(w, 3, true);
    uint64_t took_us = time_to_next_view(w, L_MS(w));
    assert_in_range(took_us, L_MS(w) / 2 * 1000 - H_MS * 1000, L_MS(w) / 2 * 1000 + 50000);
    assert_int_equal(world_leader(w), 1);
    finish(w);
}

static void count_closings(struct world *w, uint32_t *ret_opens)
{
    *ret_opens = w->nodes[1].opens;
}

/* H9: a node far behind copies what it lacks beside the open view, and is taken in when it is near.
 */
static void joiner_copies_outside_the_view(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint32_t before, after;

    world_crash(w, 3, 9);
    world_tell_members(w);
    time_to_next_view(w, 100);
    for (int round = 0; round < 40; round++) { /* far more than memory holds */
        for (int i = 0; i < 20; i++)
            world_propose(w, 1, 400);
        world_run_ms(w, 60);
    }
    count_closings(w, &before);
    assert_true(w->commit_count > 700);
    world_start(w, 3);
    run_whole(w);
    count_closings(w, &after);
    assert_true(w->snapshots > 0);
    assert_int_equal(after - before, 1); /* one view change, to take it in */
    assert_true(w->nodes[3].applied + LOG_BATCH >= w->commit_count);
    finish(w);
}

/* A follower that is still in its view is fed a snapshot. What it proposed is in there, seen by it
 * or not: neither may be told as lost, or it is proposed again and applied twice. */
static void what_a_snapshot_may_hold_is_not_lost(void **state UNUSED)
{
    struct world *w = whole_world(3);
    struct world_node *n = &w->nodes[3];
    uint64_t last = log_last_index(n->log);

    uint64_t seen = world_propose(w, 3, 20);
    while (log_last_index(n->log) == last && w->now_us < 60000000)
        world_run_ms(w, 1);
    w->links[1][3].is_cut = w->links[2][3].is_cut = true; /* it is heard, and hears nobody */
    uint64_t unseen = world_propose(w, 3, 20);
    world_run_ms(w, 20);
    assert_int_equal(log_last_index(n->log), last + 1);
    assert_int_equal(w->commit_count, last + 2);
    struct world_event *arrival = world_new_event(w, EV_SNAPSHOT_ARRIVES, 3, 0);
    arrival->snapshot = world_new_snapshot(&w->nodes[1], WRITE_INSTALL);
    assert_non_null(arrival->snapshot);
    world_push(w, arrival);
    assert_true(n->is_open);
    world_run_ms(w, 20);
    assert_true(n->is_open);
    assert_int_equal(n->applied, last + 2);
    assert_int_equal(fate_of(w, 3, seen), last + 1);
    assert_true(n->proposals[seen - 1].is_certain);
    assert_int_equal(fate_of(w, 3, unseen), 0);
    assert_false(n->proposals[unseen - 1].is_certain);
    world_heal(w);
    run_whole(w);
    finish(w);
}

/* H12: a store that fails resigns its vote; the node stays, keeps its lease and follows. */
static void failed_store_resigns(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint64_t seq;

    w->nodes[3].is_disk_failing = true;
    seq = world_propose(w, 1, 20);
    world_run_ms(w, 3u * L_MS(w));
    assert_true(fate_of(w, 1, seq) > 0);
    assert_true(log_is_store_failed(w->nodes[3].log));
    assert_true(w->nodes[3].is_open);
    assert_true(w->nodes[3].lease_end_us > w->now_us);
    world_crash(w, 2, 9); /* n1 alone is no quorum: n3's promise does not count */
    world_tell_members(w);
    uint64_t committed = w->commit_count;
    world_run_ms(w, 3u * L_MS(w));
    assert_int_equal(w->commit_count, committed);
    finish(w);
}

static void failed_store_of_the_leader_moves_the_lead(void **state UNUSED)
{
    struct world *w = whole_world(3);

    w->nodes[1].is_disk_failing = true;
    world_propose(w, 1, 20);
    time_to_next_view(w, 2 * H_MS + 50);
    assert_int_equal(world_leader(w), 2);
    assert_true(w->nodes[1].is_open); /* a member without a vote, its guests live */
    finish(w);
}

/* H12: a stalled store: heartbeats and leases go on; a leader's gives up leading after L/2. */
static void stalled_store_of_the_leader_moves_the_lead(void **state UNUSED)
{
    struct world *w = whole_world(3);

    w->nodes[1].is_disk_stalled = true;
    world_propose(w, 1, 20);
    world_run_ms(w, L_MS(w) / 2 - 20);
    assert_int_equal(world_leader(w), 1);
    world_run_ms(w, 3 * H_MS);
    assert_int_equal(world_leader(w), 2);
    world_run_ms(w, 3u * L_MS(w));
    assert_true(w->nodes[1].lease_end_us > w->now_us); /* named, and acknowledged */
    w->nodes[1].is_disk_stalled = false;
    run_whole(w);
    finish(w);
}

/* The transport is gone: the view is left at once. */
static void lost_transport_leaves_the_view(void **state UNUSED)
{
    struct world *w = whole_world(3);
    struct log_event down = {.type = LOG_EV_DOWN};

    world_step(w, 2, &down);
    assert_false(w->nodes[2].is_open);
    assert_true(log_lease_end_ms(w->nodes[2].log) > 0); /* what is left of it is left */
    finish(w);
}

/* A proposal without an open view is answered at once; a closed view's when the next one opens. */
static void fates_of_a_closed_view(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint64_t index, stored, lost;

    stored = world_propose(w, 1, 20);
    world_run_ms(w, 2); /* sent and stored by all, acknowledged by none */
    world_crash(w, 2, 9);
    world_crash(w, 3, 9);
    world_tell_members(w);
    world_run_ms(w, 2u * L_MS(w));
    assert_false(w->nodes[1].is_open);
    assert_false(world_fate(w, 1, stored, &index));
    lost = world_propose(w, 1, 20);
    assert_int_equal(fate_of(w, 1, lost), 0);
    world_start(w, 2);
    world_start(w, 3);
    run_whole(w);
    assert_true(fate_of(w, 1, stored) > 0); /* adopted, and committed by the next OPEN */
    finish(w);
}

/* At rest a node acts on heartbeats alone: a tick more each h/8 costs an idle host a percent of a
 * core (followers had it, waiting for a leader's work to be sent). */
static void rest_is_quiet(void **state UNUSED)
{
    const uint32_t beats = 100;
    struct world *w = whole_world(3);

    world_propose(w, world_leader(w), 100);
    world_run_ms(w, 10u * H_MS);
    uint64_t steps = w->steps;
    world_run_ms(w, beats * H_MS);
    /* Per beat each of three nodes hears three heartbeats and sends one; one more is slack. */
    assert_in_range(w->steps - steps, 1, (uint64_t)beats * 3 * (3 + 2));
    finish(w);
}

/* Versions: a node that speaks less than the log already used is not taken in. */
static void older_protocol_is_refused(void **state UNUSED)
{
    struct world *w = calm_world(3, 2);

    w->nodes[1].config.self.proto_min = w->nodes[2].config.self.proto_min = 1;
    w->nodes[1].config.self.proto_max = w->nodes[2].config.self.proto_max = 2;
    world_start(w, 1);
    world_start(w, 2);
    run_whole(w);
    world_start(w, 3); /* speaks 1 only */
    world_run_ms(w, 3u * L_MS(w));
    assert_false(w->nodes[3].is_open);
    assert_non_null(strstr(w->last_trace[3], "refuses this node"));
    assert_int_equal(w->nodes[1].log->current.names.count, 2);
    for (uint32_t n = 1; n <= 3; n += 2) { /* the leader and the node itself can say so */
        struct log_outdated who;
        assert_true(log_is_outdated(w->nodes[n].log, &who));
        assert_int_equal(who.node, 3);
        assert_int_equal(who.speaks, 1);
        assert_int_equal(who.cluster, 2);
    }
    world_crash(w, 3, 0);
    w->nodes[3].config.self.proto_max = 3;
    world_start(w, 3);
    run_whole(w);
    world_run_ms(w, 3u * L_MS(w));
    assert_false(log_is_outdated(w->nodes[1].log, &(struct log_outdated){0}));
    finish(w);
}

/* Two versions that have nothing in common, on one bus: the larger part works, the other says why
 * it does not, and nothing of one is read by the other. */
static void versions_without_a_common_one(void **state UNUSED)
{
    for (uint16_t old = 1; old <= 3; old += 2) { /* the newcomer is older, then newer */
        struct world *w = calm_world(3, 2);
        for (uint32_t n = 1; n <= 3; n++)
            w->nodes[n].config.self.proto_min = w->nodes[n].config.self.proto_max =
                n == 3 ? old : 2;
        world_start(w, 1);
        world_start(w, 2);
        run_whole(w);
        world_start(w, 3);
        world_run_ms(w, 3u * L_MS(w));
        assert_false(w->nodes[3].is_open);
        assert_int_equal(w->nodes[1].log->current.names.count, 2);
        assert_non_null(strstr(w->last_trace[3], "refuses this node: the log needs protocol 2"));
        finish(w);
    }
}

/* is_continuous: true while a quorum keeps its leases, false after an outage of all. */
static void outage_of_all_is_told_from_a_loss_of_one(void **state UNUSED)
{
    struct world *w = whole_world(3);
    struct log_open open;

    world_crash(w, 3, 0);
    world_tell_members(w);
    time_to_next_view(w, 100);
    assert_true(last_open_of(w, 1, &open));
    assert_true(open.is_continuous);
    assert_int_equal(open.member_count, 2);
    world_split(w, GROUPS(1, 2, 3));
    world_tell_members(w);
    world_run_ms(w, 2u * L_MS(w));
    world_heal(w);
    run_whole(w);
    assert_true(last_open_of(w, 1, &open));
    assert_false(open.is_continuous);
    finish(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_node_is_a_cluster),
        cmocka_unit_test(two_voters_need_each_other),
        cmocka_unit_test(view_change_takes_two_round_trips),
        cmocka_unit_test(members_loss_takes_two_round_trips),
        cmocka_unit_test(commit_takes_one_round_trip),
        cmocka_unit_test(lost_acknowledgements_are_made_good),
        cmocka_unit_test(proposals_are_batched),
        cmocka_unit_test(older_tail_loses_against_later_view),
        cmocka_unit_test(half_of_the_voters_is_no_quorum),
        cmocka_unit_test(new_disk_counts_nowhere),
        cmocka_unit_test(rolled_back_store_stops),
        cmocka_unit_test(voters_change_one_at_a_time),
        cmocka_unit_test(empty_voter_changes_are_refused),
        cmocka_unit_test(a_vote_that_is_needed_is_not_taken),
        cmocka_unit_test(a_vote_is_not_taken_by_one_alone),
        cmocka_unit_test(learner_becomes_a_voter),
        cmocka_unit_test(hung_member_delays_by_h),
        cmocka_unit_test(hung_leader_is_evicted),
        cmocka_unit_test(who_stands_back_gives_the_lead_away),
        cmocka_unit_test(who_stands_back_leads_where_nobody_else_can),
        cmocka_unit_test(hung_member_is_evicted),
        cmocka_unit_test(joiner_copies_outside_the_view),
        cmocka_unit_test(what_a_snapshot_may_hold_is_not_lost),
        cmocka_unit_test(failed_store_resigns),
        cmocka_unit_test(failed_store_of_the_leader_moves_the_lead),
        cmocka_unit_test(stalled_store_of_the_leader_moves_the_lead),
        cmocka_unit_test(lost_transport_leaves_the_view),
        cmocka_unit_test(fates_of_a_closed_view),
        cmocka_unit_test(rest_is_quiet),
        cmocka_unit_test(older_protocol_is_refused),
        cmocka_unit_test(versions_without_a_common_one),
        cmocka_unit_test(outage_of_all_is_told_from_a_loss_of_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
