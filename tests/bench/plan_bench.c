/* SPDX-License-Identifier: Apache-2.0
 *
 * How long one planning call takes in the largest cluster: 32 nodes, 4096 guests, one node lost and
 * fenced; and one reconciliation of its fullest node. Usage: plan_bench [--limit-ms MS]; prints one
 * JSON line, exits 1 when the median planning call takes longer than the limit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hamgr/core/plan.h"
#include "hamgr/core/reconcile.h"
#include "tests/lib/builders.h"

#define RUNS 21

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *values)
{
    qsort(values, RUNS, sizeof(values[0]), compare);
    return values[RUNS / 2];
}

/* Every guest of its own priority class and size, spread over the nodes; the last node is gone. */
static struct build *make_cluster(void)
{
    struct build *b = build_new(HA_GUESTS_MAX);
    struct ha_rng rng = {1};

    build_ready(b, HA_NODES_MAX);
    for (uint32_t node = 1; node <= HA_NODES_MAX; node++)
        build_capacity(b, node, UINT64_C(1) << 30); /* 1 TiB */
    for (uint32_t guest = 1; guest <= HA_GUESTS_MAX; guest++) {
        struct ha_policy policy = ha_policy_default();
        policy.priority = (uint16_t)ha_rng_below(&rng, 1000);
        policy.start_order = (uint16_t)ha_rng_below(&rng, 10);
        build_guest_mem(b, guest, HA_WANT_STARTED, (1 + ha_rng_below(&rng, 8)) << 20);
        build_policy(b, guest, &policy);
        if (build_assign(b, guest, 1 + (guest - 1) % HA_NODES_MAX) || build_started(b, guest))
            abort();
    }
    uint32_t view[HA_NODES_MAX] = {0};
    for (uint32_t node = 1; node < HA_NODES_MAX; node++)
        view[node - 1] = node;
    build_open(b, true, view);
    build_fenced(b, HA_NODES_MAX, HA_EVIDENCE_AGENT);
    return b;
}

static void fill_runtime(const struct build *b, struct ha_runtime *rt, uint32_t self)
{
    memset(rt, 0, sizeof(*rt));
    rt->now_ms = 1000000;
    rt->lease_end_ms = rt->now_ms + 1000;
    rt->wall_ms = b->wall_ms;
    rt->self = self;
    rt->is_open = rt->is_leader = rt->is_gate_open = true;
    rt->view = b->state.view;
    rt->commit_index = b->state.applied;
}

static uint32_t bench_plan(struct build *b, double *ret_ms)
{
    static struct ha_plan plan;
    static struct ha_plan_scratch scratch;
    static struct ha_runtime rt;
    struct ha_plan_limits limits = {
        .start_parallel = 64, .move_parallel = 2, .proposals_max = HA_PROPOSALS_MAX};
    double times[RUNS];

    fill_runtime(b, &rt, 1);
    for (int i = 0; i < RUNS; i++) {
        double begin = now_ms();
        ha_plan(&b->state, &rt, &limits, &scratch, &plan);
        times[i] = now_ms() - begin;
    }
    *ret_ms = median(times);
    return plan.count;
}

/* All guests on one node, each with its domain and a record. */
static double bench_reconcile(struct build *b)
{
    static struct ha_runtime rt;
    static struct ha_duties duties;
    static struct hv_domain domains[HA_GUESTS_MAX];
    static struct ha_local_verb verbs[HA_GUESTS_MAX];
    struct ha_inventory inventory = {.is_fresh = true,
                                     .applied_at_list = b->state.applied,
                                     .domains = domains,
                                     .domain_count = b->state.guest_count,
                                     .verbs = verbs,
                                     .verb_count = b->state.guest_count};
    double times[RUNS];

    fill_runtime(b, &rt, 1);
    for (uint32_t i = 0; i < b->state.guest_count; i++) {
        struct ha_guest *guest = &b->state.guests[i];
        guest->node = 1;
        guest->incarnation = b->state.nodes[0].incarnation;
        guest->phase = HA_PHASE_RUNNING;
        domains[i] = (struct hv_domain){.is_labelled = true, .state = HV_RUNNING};
        domains[i].label = (struct hv_label){.cluster_id = b->state.cluster_id,
                                             .generation = b->state.generation,
                                             .guest = guest->id,
                                             .epoch = guest->epoch};
        verbs[i] = (struct ha_local_verb){.guest = guest->id, .epoch = guest->epoch};
    }
    for (int i = 0; i < RUNS; i++) {
        double begin = now_ms();
        ha_reconcile(&b->state, &rt, &inventory, NULL, &duties);
        times[i] = now_ms() - begin;
    }
    if (duties.count != 0)
        abort();
    return median(times);
}

int main(int argc, char **argv)
{
    double limit_ms = argc == 3 && strcmp(argv[1], "--limit-ms") == 0 ? atof(argv[2]) : 0;
    double plan_ms;

    if (argc != 1 && limit_ms <= 0) {
        fprintf(stderr, "usage: plan_bench [--limit-ms MS]\n");
        return 2;
    }
    struct build *b = make_cluster();
    uint32_t assigned = bench_plan(b, &plan_ms);
    double reconcile_ms = bench_reconcile(b);
    printf("{\"nodes\":%u,\"guests\":%u,\"assigned\":%u,\"plan_ms\":%.3f,\"reconcile_ms\":%.3f}\n",
           HA_NODES_MAX, HA_GUESTS_MAX, assigned, plan_ms, reconcile_ms);
    build_free(b);
    if (assigned != HA_GUESTS_MAX / HA_NODES_MAX) {
        fprintf(stderr, "plan_bench: %u guests were assigned, not all of the lost node\n",
                assigned);
        return 1;
    }
    if (limit_ms > 0 && plan_ms > limit_ms) {
        fprintf(stderr, "plan_bench: %.3f ms, the limit is %.3f ms\n", plan_ms, limit_ms);
        return 1;
    }
    return 0;
}
