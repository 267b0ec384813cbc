/* SPDX-License-Identifier: Apache-2.0
 *
 * Three nodes, two guests, one log, and a world that does its worst: nodes lag, listings are old,
 * verbs fail or end unknown with or without effect, hamgrds restart in the middle of everything,
 * nodes are cut off, switched off, fenced and come back. The nodes do only what their reconcilers
 * say. After every step, from outside:
 *
 *   I1  no guest has two runnable copies;
 *   I8  no copy becomes runnable once a copy of a later epoch has run;
 *
 * and when the faults end, every wanted guest runs exactly once, where the log says.
 * The log itself is atomic here; its own proof is elsewhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/core/walk_world.h"

/* --- Who decides --- */

static void plan(struct world *w)
{
    struct ha_plan_limits limits = {.start_parallel = 64,
                                    .move_parallel = 2,
                                    .proposals_max = 8,
                                    .shutdown = 1,
                                    .max_downtime_ms = 300};
    const struct node *leader = NULL;

    for (uint32_t k = 0; k < NODES && !leader; k++) {
        if (w->nodes[k].is_connected)
            leader = &w->nodes[k];
    }
    if (!leader || connected_count(w) < 2)
        return;
    memset(&w->rt, 0, sizeof(w->rt));
    w->rt.now_ms = w->now_ms;
    w->rt.wall_ms = w->b->wall_ms + 100000;
    w->rt.self = leader->id;
    w->rt.is_open = w->rt.is_leader = true;
    w->rt.view = w->b->state.view;
    w->rt.view_age_ms = 10000;
    w->rt.commit_index = w->b->state.applied;
    ha_plan(&w->b->state, &w->rt, &limits, &w->scratch, &w->plan);
    for (uint32_t i = 0; i < w->plan.count; i++)
        commit(w, &w->plan.proposals[i]);
}

static void operate(struct world *w)
{
    uint32_t guest_number = 1 + (uint32_t)ha_rng_below(&w->rng, GUESTS);
    const struct ha_guest *guest = build_guest_of(w->b, guest_number);
    struct ha_cmd cmd = {0};

    if (connected_count(w) < 2)
        return;
    switch (ha_rng_below(&w->rng, 8)) {
    case 0:
        cmd = build_guest_command(w->b, HA_CMD_STOP, guest_number);
        cmd.u.stop.mode = (uint8_t)(1 + ha_rng_below(&w->rng, 2));
        cmd.u.stop.is_relocation = true;
        break;
    case 1:
        cmd = build_guest_command(w->b, HA_CMD_ABORT, guest_number);
        cmd.node = 0;
        break;
    case 2:
        cmd = build_guest_command(w->b, HA_CMD_WANT, guest_number);
        cmd.u.want.want = chance(w, 70) ? HA_WANT_STARTED : HA_WANT_STOPPED;
        break;
    default:
        cmd = build_guest_command(w->b, HA_CMD_MIGRATE, guest_number);
        cmd.epoch = guest->epoch_high + 1;
        cmd.u.migrate.dst = 1 + (uint32_t)ha_rng_below(&w->rng, NODES);
        cmd.u.migrate.dst_incarnation = build_node_of(w->b, cmd.u.migrate.dst)->incarnation;
        break;
    }
    commit(w, &cmd);
}

/* --- The walk --- */

static void do_work(struct world *w, struct node *n)
{
    switch (ha_rng_below(&w->rng, 7)) {
    case 0:
    case 1:
        apply_next(w, n);
        break;
    case 2:
        list(n);
        break;
    case 3:
        reconcile(w, n);
        break;
    case 4:
        end_some_verb(w, n);
        break;
    case 5:
        commit_proposal(w, n);
        break;
    default:
        end_some_orphan(w, n);
        deliver_handover(w, 1 + (uint32_t)ha_rng_below(&w->rng, GUESTS));
        break;
    }
}

static void do_harm(struct world *w, struct node *n)
{
    switch (ha_rng_below(&w->rng, 12)) {
    case 0:
        isolate(w, n);
        break;
    case 1:
    case 2:
        expire_lease(w, n);
        break;
    case 3:
        power_off(w, n);
        break;
    case 4:
    case 5:
        reconnect(w, n);
        break;
    case 6:
        restart_hamgrd(w, n);
        break;
    case 7:
    case 8:
        fence(w, n);
        break;
    case 9:
        hurt_guest(w, n);
        break;
    default:
        operate(w);
        break;
    }
}

static struct world *new_world(uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));

    if (!w)
        abort();
    w->rng.state = seed;
    w->now_ms = 1000000;
    w->b = build_new(GUESTS);
    build_ready(w->b, NODES);
    for (uint32_t guest = 1; guest <= GUESTS; guest++) {
        struct ha_policy policy = ha_policy_default();
        policy.restart_max = 1000;
        build_guest(w->b, guest, HA_WANT_STARTED);
        build_policy(w->b, guest, &policy);
    }
    for (uint32_t k = 0; k < NODES; k++) {
        struct node *n = &w->nodes[k];
        n->id = k + 1;
        n->is_powered = n->is_up = n->is_connected = n->is_open = n->is_lease_valid = true;
        n->state = w->b->state;
        n->state.guests = n->guests;
        memcpy(n->guests, w->b->state.guests, sizeof(n->guests));
        n->view = w->b->state.view;
    }
    return w;
}

static void free_world(struct world *w)
{
    for (uint32_t i = 0; i < w->entry_count; i++)
        free(w->entries[i].body);
    build_free(w->b);
    free(w);
}

static bool is_healed(struct world *w)
{
    for (uint32_t guest = 1; guest <= GUESTS; guest++) {
        const struct ha_guest *g = build_guest_of(w->b, guest);
        if (g->phase != HA_PHASE_RUNNING)
            return false;
        struct hv_domain *domain = find_domain(&w->nodes[g->node - 1], g->id, g->epoch);
        if (!domain || domain->state != HV_RUNNING)
            return false;
    }
    uint32_t copies = 0;
    for (uint32_t k = 0; k < NODES; k++)
        copies += w->nodes[k].domain_count;
    return copies == GUESTS;
}

/* Everybody is back, every verb works: in bounded time all is as it should be (L1, L3). */
static void heal(struct world *w, uint64_t seed)
{
    w->is_calm = true;
    for (uint32_t k = 0; k < NODES; k++)
        reconnect(w, &w->nodes[k]);
    for (int round = 0; round < 400; round++) {
        w->now_ms += 1000;
        plan(w);
        for (uint32_t guest = 1; guest <= GUESTS; guest++) {
            struct ha_cmd want = build_guest_command(w->b, HA_CMD_WANT, guest);
            want.u.want.want = HA_WANT_STARTED;
            if (build_guest_of(w->b, guest)->want != HA_WANT_STARTED)
                commit(w, &want);
            deliver_handover(w, guest);
        }
        for (uint32_t k = 0; k < NODES; k++) {
            struct node *n = &w->nodes[k];
            while (is_behind(w, n))
                apply_next(w, n);
            list(n);
            reconcile(w, n);
            while (n->pending_count > 0)
                commit_proposal(w, n);
            for (uint32_t i = 0; i < n->verb_count; i++) {
                if (n->verbs[i].verb != HA_VERB_NONE)
                    end_verb(w, n, &n->verbs[i]);
            }
            end_some_orphan(w, n);
            check_one_runnable(w);
        }
        if (is_healed(w))
            return;
    }
    for (uint32_t guest = 1; guest <= GUESTS; guest++) {
        const struct ha_guest *g = build_guest_of(w->b, guest);
        printf("g%u %s on n%u epoch %llu ticket %llu\n", guest, ha_phase_name(g->phase), g->node,
               (unsigned long long)g->epoch, (unsigned long long)g->ticket.id);
    }
    fail_msg("seed %llu: does not heal\n%s", (unsigned long long)seed, w->trace);
}

static void walk(uint64_t seed)
{
    struct world *w = new_world(seed);

    for (int step = 0; step < 1500; step++) {
        struct node *n = &w->nodes[ha_rng_below(&w->rng, NODES)];
        w->now_ms += ha_rng_below(&w->rng, 50);
        if (chance(w, 4))
            do_harm(w, n);
        else if (chance(w, 5))
            plan(w);
        else
            do_work(w, n);
        check_one_runnable(w);
    }
    heal(w, seed);
    free_world(w);
}

static void nothing_runs_twice_and_all_heals(void **state)
{
    const char *seeds = getenv("WALK_SEEDS"); /* more of them by hand: WALK_SEEDS=100000 */
    const char *first = getenv("WALK_FIRST");
    uint64_t count = seeds ? strtoull(seeds, NULL, 10) : 500;
    uint64_t from = first ? strtoull(first, NULL, 10) : 1;

    (void)state;
    for (uint64_t seed = from; seed < from + count; seed++)
        walk(seed);
    for (uint8_t type = HA_CMD_ASSIGN; type <= HA_CMD_REVERT; type++) {
        printf("%s %llu\n", ha_cmd_name(type), (unsigned long long)effects[type]);
        assert_true(effects[type] > 0 || count < 100);
    }
    assert_true(effects[HA_CMD_FENCED] > 0 || count < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_runs_twice_and_all_heals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
