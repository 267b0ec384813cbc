/* SPDX-License-Identifier: Apache-2.0
 *
 * One node as its reconciler sees it: a replicated state made by real entries, a listing and the
 * memory of verbs made by hand. Shared by the tests of the reconciler's rules.
 */
#ifndef TESTS_UNIT_CORE_RECONCILE_RIG_H
#define TESTS_UNIT_CORE_RECONCILE_RIG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/core/reconcile.h"
#include "tests/lib/builders.h"

#define RIG_MAX 32u

struct rig {
    struct build *b;
    uint32_t self;
    struct ha_runtime rt;
    bool is_fresh;
    bool is_old_list; /* the listing was asked for before the last entry */
    uint32_t domain_count;
    struct hv_domain domains[RIG_MAX];
    uint32_t verb_count;
    struct ha_local_verb verbs[RIG_MAX];
    struct ha_keeper_facts keeper;
    struct ha_duties duties;
};

/* Three ready nodes, guest 1 wanted; seen from node self, everything allowed. */
static inline struct rig *rig_new(uint32_t self)
{
    struct rig *r = calloc(1, sizeof(*r));

    if (!r)
        abort();
    r->b = build_new(16);
    build_ready(r->b, 3);
    build_guest(r->b, 1, HA_WANT_STARTED);
    r->self = self;
    r->is_fresh = true;
    r->rt.now_ms = 1000000;
    r->rt.lease_end_ms = r->rt.now_ms + 1;
    r->rt.is_open = true;
    r->rt.is_gate_open = true;
    return r;
}

static inline void rig_free(struct rig *r)
{
    build_free(r->b);
    free(r);
}

/* Adds a domain in its sorted place. */
static inline struct hv_domain *rig_domain(struct rig *r, uint32_t guest, uint64_t epoch,
                                           uint8_t state)
{
    struct hv_domain domain = {.domid = 10 + r->domain_count, .is_labelled = true, .state = state};
    uint32_t i = r->domain_count++;

    domain.label = (struct hv_label){.cluster_id = r->b->state.cluster_id,
                                     .generation = r->b->state.generation,
                                     .guest = build_uuid(guest),
                                     .epoch = epoch};
    while (i > 0) {
        const struct hv_label *before = &r->domains[i - 1].label;
        int order = ha_uuid_cmp(before->guest, domain.label.guest);
        if (!r->domains[i - 1].is_labelled || order < 0 || (order == 0 && before->epoch <= epoch))
            break;
        r->domains[i] = r->domains[i - 1];
        i--;
    }
    r->domains[i] = domain;
    return &r->domains[i];
}

/* A domain without a label: sorted to the front. */
static inline void rig_foreign(struct rig *r)
{
    memmove(&r->domains[1], &r->domains[0], r->domain_count++ * sizeof(r->domains[0]));
    r->domains[0] = (struct hv_domain){.domid = 7, .state = HV_RUNNING};
}

/* The record of (guest, epoch), made if it is not there. */
static inline struct ha_local_verb *rig_verb(struct rig *r, struct ha_uuid guest, uint64_t epoch)
{
    uint32_t i = 0;

    while (i < r->verb_count) {
        int order = ha_uuid_cmp(r->verbs[i].guest, guest);
        if (order == 0 && r->verbs[i].epoch == epoch)
            return &r->verbs[i];
        if (order > 0 || (order == 0 && r->verbs[i].epoch > epoch))
            break;
        i++;
    }
    memmove(&r->verbs[i + 1], &r->verbs[i], (r->verb_count - i) * sizeof(r->verbs[0]));
    r->verb_count++;
    memset(&r->verbs[i], 0, sizeof(r->verbs[i]));
    r->verbs[i].guest = guest;
    r->verbs[i].epoch = epoch;
    return &r->verbs[i];
}

static inline struct ha_duties *rig_look(struct rig *r)
{
    uint64_t applied = r->b->state.applied;
    struct ha_inventory inventory = {.is_fresh = r->is_fresh,
                                     .applied_at_list = r->is_old_list ? applied - 1 : applied,
                                     .domain_count = r->domain_count,
                                     .domains = r->domains,
                                     .verb_count = r->verb_count,
                                     .verbs = r->verbs};

    /* Whatever an earlier call left in the duties must not shine through. */
    memset(&r->duties, 0x5a, sizeof(r->duties.list[0]) * 40 + 8);
    r->rt.self = r->self;
    r->rt.view = r->b->state.view;
    r->rt.commit_index = applied;
    ha_reconcile(&r->b->state, &r->rt, &inventory, &r->keeper, &r->duties);
    return &r->duties;
}

/* The only duty, or NULL if there is none; aborts the test if there are more. */
static inline const struct ha_duty *rig_duty(struct rig *r)
{
    rig_look(r);
    if (r->duties.count > 1)
        abort();
    return r->duties.count == 1 ? &r->duties.list[0] : NULL;
}

/* Type of the only duty, 0 for none. */
static inline int rig_type(struct rig *r)
{
    const struct ha_duty *duty = rig_duty(r);

    return duty ? duty->type : 0;
}

/* Type of the command of the only duty, which proposes; 0 for none. */
static inline int rig_proposal(struct rig *r)
{
    const struct ha_duty *duty = rig_duty(r);

    if (!duty)
        return 0;
    return duty->type == HA_DUTY_PROPOSE ? duty->cmd.type : -duty->type;
}

/* Applies what the only duty proposes; aborts if the log refuses it. */
static inline void rig_apply(struct rig *r)
{
    const struct ha_duty *duty = rig_duty(r);

    if (!duty || duty->type != HA_DUTY_PROPOSE || build_cmd(r->b, &duty->cmd) != HA_REASON_NONE)
        abort();
}

#endif
