/* SPDX-License-Identifier: Apache-2.0
 *
 * Throws everything at small clusters of logs, one per seed, and lets the checkers of cluster.h
 * watch:
 *
 *     log_torture [--seeds A..B] [--ms MS] [--first] [--verbose]     --first: stop at a failure
 *
 * Each seed draws its own size, network, disks and faults. After --ms of chaos everything is
 * healed, and the cluster must become whole and commit again within a bounded time. A failing seed
 * is printed and replays exactly with --seeds N..N --verbose.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster.h"

/* Which faults a seed has at all: a world with fewer kinds of them gets deeper into each. */
struct plan {
    bool has_splits, has_crashes, has_hangs, has_disk_stalls, has_disk_failures, has_lost_stores,
        has_bad_network, has_one_way, has_large, has_voter_changes, has_power_cuts, has_slow_disks;
    uint32_t pace_ms; /* mean time between faults */
    uint32_t rate_ms; /* mean time between proposals */
};

static bool often(struct world *w, uint32_t percent)
{
    return ha_rng_below(&w->rng, 100) < percent;
}

static struct plan draw_plan(struct world *w)
{
    bool is_store_turn = often(w, 50); /* lost stores or voter changes, never both */

    return (struct plan){.has_splits = often(w, 70),
                         .has_crashes = often(w, 70),
                         .has_hangs = often(w, 50),
                         .has_disk_stalls = often(w, 30),
                         .has_disk_failures = often(w, 20),
                         .has_lost_stores = is_store_turn && often(w, 50),
                         .has_bad_network = often(w, 60),
                         .has_one_way = often(w, 20),
                         .has_large = often(w, 20),
                         .has_power_cuts = often(w, 40),
                         .has_slow_disks = often(w, 40),
                         .has_voter_changes = !is_store_turn && often(w, 50),
                         .pace_ms = 30 + (uint32_t)ha_rng_below(&w->rng, 700),
                         .rate_ms = 5 + (uint32_t)ha_rng_below(&w->rng, 100)};
}

static void set_links(struct world *w, bool is_bad)
{
    for (uint32_t a = 1; a <= w->count; a++) {
        for (uint32_t b = 1; b <= w->count; b++) {
            struct world_link *link = &w->links[a][b];
            link->is_cut = false;
            link->delay_us = 200;
            link->jitter_us = is_bad ? (uint32_t)ha_rng_below(&w->rng, 60000) : 300;
            link->loss_ppm = is_bad ? (uint32_t)ha_rng_below(&w->rng, 120000) : 0;
            link->repeat_ppm = is_bad ? (uint32_t)ha_rng_below(&w->rng, 50000) : 0;
        }
    }
}

static uint32_t any_node(struct world *w)
{
    return 1 + (uint32_t)ha_rng_below(&w->rng, w->count);
}

static void split(struct world *w)
{
    uint32_t groups[WORLD_NODES];

    for (uint32_t i = 0; i < w->count; i++)
        groups[i] = (uint32_t)ha_rng_below(&w->rng, 2 + ha_rng_below(&w->rng, 2));
    world_split(w, groups);
}

/* Stores may be lost one at a time: the rest must be a quorum of what the newest log names, all of
 * them holding it. Elsewhere no algorithm could help. */
static bool may_lose_store(struct world *w, uint32_t node)
{
    uint32_t leader = world_leader(w);

    if (leader == 0 || leader == node)
        return false;
    const struct world_node *n = &w->nodes[leader];
    if (n->voters.count < 3)
        return false;
    for (uint32_t id = 1; id <= w->count; id++) {
        /* No change of voters is under way anywhere. */
        const struct log *log = w->nodes[id].log;
        if (!log || !ha_digest_equal(log->survey.voters.digest, n->voters.digest))
            return false;
        int at = log_voters_find(&n->voters, id);
        if (at < 0)
            continue;
        if (!ha_uuid_equal(n->voters.list[at].store_id, w->nodes[id].store.id))
            return false;
    }
    return true;
}

static void crash(struct world *w, uint32_t node)
{
    world_crash(w, node, (uint32_t)ha_rng_below(&w->rng, 4));
}

static void lose_store(struct world *w)
{
    uint32_t node = any_node(w);

    if (!may_lose_store(w, node))
        return;
    crash(w, node);
    world_lose_store(w, node);
}

static void toggle_process(struct world *w, const struct plan *plan)
{
    uint32_t id = any_node(w);

    if (!w->nodes[id].is_up)
        world_start(w, id);
    else if (plan->has_crashes)
        crash(w, id);
}

/* Several at once, and back at once: what was not durable is gone everywhere. */
static void power_cut(struct world *w)
{
    bool is_back = often(w, 70);

    for (uint32_t id = 1; id <= w->count; id++) {
        if (!w->nodes[id].is_up || often(w, 30))
            continue;
        crash(w, id);
        if (is_back)
            world_start(w, id);
    }
}

static void disk_fault(struct world *w, const struct plan *plan)
{
    struct world_node *n = &w->nodes[any_node(w)];

    if (plan->has_disk_stalls && often(w, 70))
        n->is_disk_stalled = !n->is_disk_stalled;
    else if (plan->has_disk_failures && n->is_up)
        n->is_disk_failing = true; /* until the process starts again */
}

static void change_voters(struct world *w)
{
    uint32_t leader = world_leader(w);
    uint32_t subject = any_node(w);

    if (leader == 0 || w->nodes[leader].is_hung)
        return;
    struct world_node *n = &w->nodes[leader];
    if (log_voters_find(&n->voters, subject) < 0 || n->voters.count < 3)
        return;
    world_propose_voter(w, leader, subject, false); /* the shell gives it back */
}

static void fault(struct world *w, const struct plan *plan)
{
    if (plan->has_slow_disks && often(w, 20)) {
        w->disk_us = 500 + (uint32_t)ha_rng_below(&w->rng, 60000);
        w->disk_jitter_us = (uint32_t)ha_rng_below(&w->rng, 200000);
    }
    switch (ha_rng_below(&w->rng, 10)) {
    case 0:
        if (plan->has_splits)
            split(w);
        break;
    case 1:
        if (plan->has_splits)
            world_heal(w);
        break;
    case 2:
    case 3:
        toggle_process(w, plan);
        break;
    case 4:
        if (plan->has_hangs)
            world_hang(w, any_node(w), often(w, 50));
        break;
    case 5:
        disk_fault(w, plan);
        break;
    case 6:
        if (plan->has_lost_stores)
            lose_store(w);
        break;
    case 7:
        set_links(w, plan->has_bad_network && often(w, 60));
        break;
    case 8:
        if (plan->has_one_way)
            w->links[any_node(w)][any_node(w)].is_cut = often(w, 50);
        else if (plan->has_voter_changes)
            change_voters(w);
        break;
    case 9:
        if (plan->has_power_cuts)
            power_cut(w);
        break;
    }
}

static void propose_some(struct world *w, const struct plan *plan)
{
    struct world_node *n = &w->nodes[any_node(w)];
    uint32_t count = often(w, 10) ? 1 + (uint32_t)ha_rng_below(&w->rng, 30) : 1;

    for (uint32_t i = 0; i < count && n->is_up && !n->is_hung && n->is_open; i++) {
        uint32_t size = (uint32_t)ha_rng_below(&w->rng, 60) + 3;
        if (plan->has_large && often(w, 10))
            size = (uint32_t)ha_rng_below(&w->rng, HA_ENTRY_MAX);
        world_propose(w, n->id, size);
    }
}

static void chaos(struct world *w, const struct plan *plan, uint64_t ms)
{
    uint64_t end_us = w->now_us + ms * 1000;
    uint64_t fault_us = w->now_us;
    uint64_t propose_us = w->now_us;

    while (w->now_us < end_us && !w->failure[0]) {
        uint64_t next_us = fault_us < propose_us ? fault_us : propose_us;
        if (next_us > w->now_us)
            world_run_ms(w, (next_us - w->now_us + 999) / 1000);
        if (w->now_us >= fault_us) {
            fault(w, plan);
            fault_us = w->now_us + 1000 * ha_rng_below(&w->rng, 2 * plan->pace_ms + 1);
        }
        if (w->now_us >= propose_us) {
            propose_some(w, plan);
            propose_us = w->now_us + 1000 * (1 + ha_rng_below(&w->rng, 2 * plan->rate_ms));
        }
    }
}

static void mend(struct world *w)
{
    set_links(w, false);
    w->disk_us = w->disk_jitter_us = 1000;
    for (uint32_t id = 1; id <= w->count; id++) {
        struct world_node *n = &w->nodes[id];
        n->is_disk_stalled = false;
        if (n->is_disk_failing || (n->is_up && n->log->writing.is_failed))
            crash(w, id);
        world_hang(w, id, false);
        world_start(w, id);
    }
    world_heal(w);
}

static bool is_told(struct world *w, void *user)
{
    uint64_t *seqs = user;
    uint64_t index;

    for (uint32_t id = 1; id <= w->count; id++) {
        if (!world_fate(w, id, seqs[id], &index))
            return false;
    }
    return true;
}

/* Everybody's proposal is committed; false if one was lost (a view changed). */
static bool try_proposals(struct world *w)
{
    uint64_t seqs[WORLD_ACTORS] = {0};
    bool is_ok = true;
    uint64_t index;

    for (uint32_t id = 1; id <= w->count; id++)
        seqs[id] = world_propose(w, id, 10);
    if (!world_run_until(w, 3u * w->timing.lease_ms, is_told, seqs)) {
        world_fail(w, "proposals have no fate after everything was mended");
        return false;
    }
    for (uint32_t id = 1; id <= w->count; id++) {
        if (world_fate(w, id, seqs[id], &index) && index == 0)
            is_ok = false;
    }
    return is_ok;
}

/* Whole again within a few leases, and everybody's proposal committed. */
static void check_progress(struct world *w)
{
    uint64_t until_us = w->now_us + 12000u * w->timing.lease_ms;

    while (w->now_us < until_us && !w->failure[0]) {
        if (world_run_until(w, (until_us - w->now_us) / 1000, world_is_whole, NULL) &&
            try_proposals(w))
            return;
        world_run_ms(w, 10);
    }
    world_fail(w, "not whole %u ms after everything was mended", 12u * w->timing.lease_ms);
}

struct sums {
    uint64_t messages, steps, committed, views, fences, snapshots, tells, unknown;
};

static void describe(const struct world *w, const struct world_node *n)
{
    const struct log *log = n->log;

    if (!log)
        return;
    printf("    n%u %s phase %u log %llu.%u/%llu of %llu..%llu (base %llu) commit %llu voters",
           n->id, n->is_up ? "up" : "down", log->phase, (unsigned long long)log->log_view.counter,
           log->log_view.leader, (unsigned long long)log->durable_last,
           (unsigned long long)log->ring.first, (unsigned long long)log->ring.last,
           (unsigned long long)log->ring.base, (unsigned long long)log->commit);
    for (uint32_t i = 0; i < log->survey.voters.count; i++) {
        uint32_t id = log->survey.voters.list[i].node;
        bool is_same = ha_uuid_equal(log->survey.voters.list[i].store_id, w->nodes[id].store.id);
        printf(" n%u%s", id, is_same ? "" : "(lost)");
    }
    printf(": %s\n", w->last_trace[n->id]);
}

static bool run_seed(uint64_t seed, uint64_t ms, bool is_verbose, struct sums *sums)
{
    struct ha_rng rng = {.state = seed * 77 + 1};
    uint32_t count = 3 + (uint32_t)ha_rng_below(&rng, 3);
    uint32_t voters = ha_rng_below(&rng, 4) == 0 ? 1 + (uint32_t)ha_rng_below(&rng, count) : count;
    struct world *w = world_new(count, voters, seed);
    struct plan plan = draw_plan(w);
    bool is_ok;

    w->is_verbose = is_verbose;
    world_start_all(w);
    chaos(w, &plan, ms);
    if (is_verbose)
        printf("[%8.3f] ---- mend everything\n", (double)w->now_us / 1e6);
    if (!w->failure[0])
        mend(w);
    if (!w->failure[0])
        check_progress(w);
    if (!w->failure[0])
        world_check_end(w);
    is_ok = !w->failure[0];
    if (!is_ok) {
        printf("seed %llu: %s\n", (unsigned long long)seed, w->failure);
        for (uint32_t id = 1; id <= w->count; id++)
            describe(w, &w->nodes[id]);
    }
    sums->messages += w->messages;
    sums->steps += w->steps;
    sums->committed += w->committed;
    sums->views += w->views;
    sums->fences += w->fences;
    sums->snapshots += w->snapshots;
    sums->tells += w->tells;
    sums->unknown += w->unknown;
    world_free(w);
    return is_ok;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seeds", required_argument, NULL, 's'},
                                            {"ms", required_argument, NULL, 'm'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"first", no_argument, NULL, 'f'},
                                            {NULL, 0, NULL, 0}};
    unsigned long long from = 1, to = 200;
    uint64_t ms = 8000;
    bool is_verbose = false;
    struct sums sums = {0};
    uint32_t failed = 0, failed_max = 5;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 's' && sscanf(optarg, "%llu..%llu", &from, &to) == 2 && from <= to)
            continue;
        if (c == 'm') {
            ms = strtoull(optarg, NULL, 10);
            continue;
        }
        if (c == 'f') {
            failed_max = 1;
            continue;
        }
        if (c == 'v') {
            is_verbose = true;
            continue;
        }
        fprintf(stderr, "usage: log_torture [--seeds A..B] [--ms MS] [--first] [--verbose]\n");
        return 2;
    }
    for (uint64_t seed = from; seed <= to && failed < failed_max; seed++) {
        if (!run_seed(seed, ms, is_verbose, &sums))
            failed++;
    }
    printf("%llu seeds, %u failed: %llu messages, %llu steps, %llu committed, %llu views, %llu "
           "fences, %llu snapshots, %llu fates, %llu of them unknown\n",
           to - from + 1, failed, (unsigned long long)sums.messages, (unsigned long long)sums.steps,
           (unsigned long long)sums.committed, (unsigned long long)sums.views,
           (unsigned long long)sums.fences, (unsigned long long)sums.snapshots,
           (unsigned long long)sums.tells, (unsigned long long)sums.unknown);
    return failed ? 1 : 0;
}
