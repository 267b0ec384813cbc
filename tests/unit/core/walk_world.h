/* SPDX-License-Identifier: Apache-2.0
 *
 * The world of test_reconcile_walk: one log, three nodes with hypervisors, verbs that end as they
 * like, and the faults. Everything a node decides comes from ha_reconcile. Included after cmocka.
 */
#ifndef TESTS_UNIT_CORE_WALK_WORLD_H
#define TESTS_UNIT_CORE_WALK_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/core/plan.h"
#include "hamgr/core/reconcile.h"
#include "tests/lib/builders.h"

#define NODES       3u
#define GUESTS      2u
#define COPIES_MAX  24u
#define PENDING_MAX 64u
#define ENTRIES_MAX 8192u

/* How often each command took effect in all walks: a walk that never gets there proves nothing. */
static uint64_t effects[64];

struct entry {
    struct log_entry entry;
    uint8_t *body;
};

struct pending {
    struct ha_cmd cmd;
    struct ha_uuid guest;
    uint64_t epoch;
};

/* A verb that a former hamgrd has left behind in hamgr-hv. */
struct orphan {
    struct ha_uuid guest;
    uint64_t epoch;
    uint8_t verb;
};

struct node {
    uint32_t id;
    bool is_powered, is_up, is_connected;
    bool is_lease_valid, is_quarantined;
    struct ha_state state;
    struct ha_guest guests[GUESTS];
    struct log_view view; /* last opened here */
    bool is_open;
    uint32_t domain_count;
    struct hv_domain domains[COPIES_MAX];
    bool has_list;
    uint64_t list_applied;
    bool is_list_stale; /* a verb has ended since */
    uint32_t list_count;
    struct hv_domain list[COPIES_MAX];
    uint32_t verb_count;
    struct ha_local_verb verbs[COPIES_MAX];
    bool is_cancelled[COPIES_MAX]; /* parallel to verbs: the move was cancelled */
    bool had_run[COPIES_MAX];      /* likewise: an earlier RUN was not proven to have failed */
    uint32_t pending_count;
    struct pending pending[PENDING_MAX];
    uint32_t orphan_count;
    struct orphan orphans[COPIES_MAX];
};

struct world {
    struct build *b;
    struct ha_rng rng;
    uint64_t now_ms;
    bool is_calm; /* faults have ended */
    uint32_t entry_count;
    struct entry entries[ENTRIES_MAX];
    struct node nodes[NODES];
    uint64_t highest_run[GUESTS + 1];     /* highest epoch that ever ran */
    uint64_t streamed_ticket[GUESTS + 1]; /* ticket whose stream is complete */
    uint64_t handed_ticket[GUESTS + 1];   /* ticket whose HANDOVER was sent */
    struct ha_duties duties;
    struct ha_plan plan;
    struct ha_plan_scratch scratch;
    struct ha_runtime rt;
    char trace[4096];
};

static inline bool chance(struct world *w, uint64_t percent)
{
    return ha_rng_below(&w->rng, 100) < percent;
}

static inline uint32_t number_of(struct ha_uuid guest)
{
    for (uint32_t i = 1; i <= GUESTS; i++) {
        if (ha_uuid_equal(build_uuid(i), guest))
            return i;
    }
    return 0;
}

static inline void note(struct world *w, const char *what, uint32_t node, uint64_t number)
{
    size_t used = strlen(w->trace);

    if (used > sizeof(w->trace) - 64) {
        memmove(w->trace, w->trace + 1024, used - 1024 + 1);
        used -= 1024;
    }
    snprintf(w->trace + used, sizeof(w->trace) - used, "%s n%u %llu; ", what, (unsigned)node,
             (unsigned long long)number);
}

/* --- The log --- */

static inline void record(struct world *w)
{
    struct entry *e = &w->entries[w->entry_count];

    if (w->entry_count == ENTRIES_MAX)
        abort();
    e->entry = w->b->entry;
    e->body = malloc(e->entry.body_size + 1);
    if (!e->body)
        abort();
    memcpy(e->body, w->b->entry.body, e->entry.body_size);
    e->entry.body = e->body;
    w->entry_count++;
    const char *violation = ha_state_violation(&w->b->state);
    if (violation)
        fail_msg("%s\n%s", violation, w->trace);
}

static inline void commit(struct world *w, const struct ha_cmd *cmd)
{
    uint16_t refusal = build_cmd(w->b, cmd);

    effects[cmd->type % 64] += refusal == HA_REASON_NONE;
    note(w, refusal ? "(refused)" : ha_cmd_name(cmd->type), cmd->node, cmd->epoch);
    record(w);
}

static inline const struct node *other_end(const struct world *w, uint32_t id)
{
    return &w->nodes[id - 1];
}

/* --- Domains --- */

static inline struct hv_domain *find_domain(struct node *n, struct ha_uuid guest, uint64_t epoch)
{
    for (uint32_t i = 0; i < n->domain_count; i++) {
        if (ha_uuid_equal(n->domains[i].label.guest, guest) && n->domains[i].label.epoch == epoch)
            return &n->domains[i];
    }
    return NULL;
}

static inline void add_domain(struct world *w, struct node *n, struct ha_uuid guest, uint64_t epoch,
                              uint8_t state)
{
    uint32_t i = n->domain_count;

    if (find_domain(n, guest, epoch))
        return;
    if (n->domain_count == COPIES_MAX)
        abort();
    struct hv_domain domain = {.domid = 1, .is_labelled = true, .state = state};
    domain.label = (struct hv_label){.cluster_id = w->b->state.cluster_id,
                                     .generation = w->b->state.generation,
                                     .guest = guest,
                                     .epoch = epoch};
    for (; i > 0; i--) {
        const struct hv_label *before = &n->domains[i - 1].label;
        int order = ha_uuid_cmp(before->guest, guest);
        if (order < 0 || (order == 0 && before->epoch < epoch))
            break;
        n->domains[i] = n->domains[i - 1];
    }
    n->domains[i] = domain;
    n->domain_count++;
}

static inline void remove_domain(struct node *n, struct ha_uuid guest, uint64_t epoch)
{
    struct hv_domain *domain = find_domain(n, guest, epoch);

    if (!domain)
        return;
    memmove(domain, domain + 1,
            (size_t)(&n->domains[n->domain_count] - (domain + 1)) * sizeof(*domain));
    n->domain_count--;
}

static inline void set_running(struct world *w, struct node *n, struct hv_domain *domain)
{
    uint32_t guest = number_of(domain->label.guest);

    domain->state = HV_RUNNING;
    note(w, "RUNS", n->id, domain->label.epoch);
    if (domain->label.epoch < w->highest_run[guest])
        fail_msg("I8: g%u epoch %llu runs after epoch %llu\n%s", guest,
                 (unsigned long long)domain->label.epoch, (unsigned long long)w->highest_run[guest],
                 w->trace);
    w->highest_run[guest] = domain->label.epoch;
}

static inline void check_one_runnable(const struct world *w)
{
    for (uint32_t guest = 1; guest <= GUESTS; guest++) {
        uint32_t runnable = 0;
        for (uint32_t i = 0; i < NODES; i++) {
            const struct node *n = &w->nodes[i];
            for (uint32_t d = 0; d < n->domain_count; d++)
                runnable += n->domains[d].state == HV_RUNNING &&
                            number_of(n->domains[d].label.guest) == guest;
        }
        if (runnable > 1)
            fail_msg("I1: g%u runs %u times\n%s", guest, runnable, w->trace);
    }
}

/* --- hamgrd's memory --- */

static inline struct ha_local_verb *get_verb(struct node *n, struct ha_uuid guest, uint64_t epoch)
{
    uint32_t i = 0;

    for (; i < n->verb_count; i++) {
        int order = ha_uuid_cmp(n->verbs[i].guest, guest);
        if (order == 0 && n->verbs[i].epoch == epoch)
            return &n->verbs[i];
        if (order > 0 || (order == 0 && n->verbs[i].epoch > epoch))
            break;
    }
    if (n->verb_count == COPIES_MAX)
        abort();
    memmove(&n->verbs[i + 1], &n->verbs[i], (n->verb_count - i) * sizeof(n->verbs[0]));
    memmove(&n->is_cancelled[i + 1], &n->is_cancelled[i], n->verb_count - i);
    memmove(&n->had_run[i + 1], &n->had_run[i], n->verb_count - i);
    n->verb_count++;
    memset(&n->verbs[i], 0, sizeof(n->verbs[i]));
    n->is_cancelled[i] = n->had_run[i] = false;
    n->verbs[i].guest = guest;
    n->verbs[i].epoch = epoch;
    return &n->verbs[i];
}

static inline bool is_spoken_of(const struct node *n, const struct ha_local_verb *v)
{
    const struct ha_guest *guest = ha_state_guest(&n->state, v->guest);

    if (!guest || guest->phase == HA_PHASE_FREE)
        return false;
    if (guest->ticket.id)
        return v->epoch == guest->ticket.src_epoch || v->epoch == guest->ticket.dst_epoch;
    return v->epoch == guest->epoch && guest->node == n->id;
}

/* As hamgrd forgets: what the record does not speak of, and what ended with a ticket. */
static inline void forget(struct node *n)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n->verb_count; i++) {
        struct ha_local_verb *v = &n->verbs[i];
        const struct ha_guest *guest = ha_state_guest(&n->state, v->guest);
        if (v->verb == HA_VERB_NONE && !v->is_proposed && !is_spoken_of(n, v))
            continue;
        if (v->verb == HA_VERB_NONE && guest && guest->ticket.id == 0) {
            v->is_save_done = v->is_save_failed = v->is_restore_done = false;
            v->is_restore_failed = v->is_handover = false;
        }
        n->verbs[kept] = *v;
        n->had_run[kept] = n->had_run[i];
        n->is_cancelled[kept++] = n->is_cancelled[i];
    }
    n->verb_count = kept;
}

/* --- What a node does --- */

static inline void cancel_move(struct node *n, struct ha_uuid guest, uint64_t epoch)
{
    for (uint32_t i = 0; i < n->verb_count; i++) {
        if (ha_uuid_equal(n->verbs[i].guest, guest) && n->verbs[i].epoch == epoch)
            n->is_cancelled[i] = true;
    }
}

static inline void queue_proposal(struct world *w, struct node *n, const struct ha_duty *duty)
{
    if (n->pending_count == PENDING_MAX)
        return;
    n->pending[n->pending_count++] =
        (struct pending){.cmd = duty->cmd, .guest = duty->guest, .epoch = duty->epoch};
    get_verb(n, duty->guest, duty->epoch)->is_proposed = true;
    note(w, "proposes", n->id, duty->cmd.type);
}

static inline void carry_out(struct world *w, struct node *n, const struct ha_duty *duty)
{
    static const uint8_t verbs[] = {
        [HA_DUTY_CREATE] = HA_VERB_CREATE,         [HA_DUTY_RUN] = HA_VERB_RUN,
        [HA_DUTY_SHUTDOWN] = HA_VERB_SHUTDOWN,     [HA_DUTY_DESTROY] = HA_VERB_DESTROY,
        [HA_DUTY_RESUME_PREPARE] = HA_VERB_RESUME, [HA_DUTY_MOVE_OUT] = HA_VERB_SAVE,
        [HA_DUTY_MOVE_IN] = HA_VERB_RESTORE,
    };

    if (duty->type == HA_DUTY_PROPOSE) {
        queue_proposal(w, n, duty);
        return;
    }
    if (duty->type == HA_DUTY_MOVE_CANCEL) {
        cancel_move(n, duty->guest, duty->epoch);
        return;
    }
    if (duty->type == HA_DUTY_REPORT_FOREIGN)
        return;
    struct ha_local_verb *v = get_verb(n, duty->guest, duty->epoch);
    v->verb = verbs[duty->type];
    if (duty->type == HA_DUTY_RUN) {
        n->had_run[v - n->verbs] = v->has_run;
        v->has_run = true;
    }
    if (duty->end_cause)
        v->end_cause = duty->end_cause;
    n->is_cancelled[v - n->verbs] = false;
    note(w, "verb", n->id, v->verb * 1000u + v->epoch);
}

static inline void reconcile(struct world *w, struct node *n)
{
    struct ha_inventory inventory = {.is_fresh = n->has_list && !n->is_list_stale &&
                                                 n->list_applied == n->state.applied,
                                     .applied_at_list = n->list_applied,
                                     .domain_count = n->list_count,
                                     .domains = n->list,
                                     .verb_count = n->verb_count,
                                     .verbs = n->verbs};
    struct ha_keeper_facts keeper = {.is_known = true,
                                     .is_armed = true,
                                     .lease_ms = 6900,
                                     .watchdog_ms = 5000,
                                     .seen_applied = n->state.applied};

    if (!n->is_up || !n->has_list)
        return;
    forget(n);
    memset(&w->rt, 0, sizeof(w->rt));
    w->rt.now_ms = w->now_ms;
    w->rt.self = n->id;
    w->rt.is_open = n->is_open;
    w->rt.view = n->view;
    w->rt.commit_index = n->state.applied;
    w->rt.lease_end_ms = n->is_lease_valid ? w->now_ms + 1 : 0;
    w->rt.is_gate_open = n->is_lease_valid;
    w->rt.is_quarantined = n->is_quarantined;
    ha_reconcile(&n->state, &w->rt, &inventory, &keeper, &w->duties);
    for (uint32_t i = 0; i < w->duties.count; i++)
        carry_out(w, n, &w->duties.list[i]);
}

static inline void apply_next(struct world *w, struct node *n)
{
    struct ha_applied applied;

    if (!n->is_up || !n->is_connected)
        return;
    for (uint32_t i = 0; i < w->entry_count; i++) {
        if (w->entries[i].entry.index != n->state.applied + 1)
            continue;
        assert_int_equal(ha_state_apply(&n->state, &w->entries[i].entry, &applied), 0);
        return;
    }
}

static inline bool is_behind(const struct world *w, const struct node *n)
{
    return n->state.applied < w->b->state.applied;
}

static inline void list(struct node *n)
{
    if (!n->is_up || !n->is_powered)
        return;
    memcpy(n->list, n->domains, sizeof(n->list));
    n->list_count = n->domain_count;
    n->list_applied = n->state.applied;
    n->is_list_stale = false;
    n->has_list = true;
}

/* --- Verbs end --- */

/* The verb's effect, if it can happen. Returns false if it can't. */
static inline bool effect(struct world *w, struct node *n, struct ha_uuid guest, uint64_t epoch,
                          uint8_t verb)
{
    struct hv_domain *domain = find_domain(n, guest, epoch);

    switch ((enum ha_verb)verb) {
    case HA_VERB_CREATE:
        if (domain)
            return false;
        add_domain(w, n, guest, epoch, HV_PAUSED);
        return true;
    case HA_VERB_RUN: /* the gate looks at the lease last */
        if (!domain || domain->state != HV_PAUSED || !n->is_lease_valid)
            return false;
        set_running(w, n, domain);
        return true;
    case HA_VERB_RESUME:
        if (!domain || domain->state != HV_SUSPENDED)
            return false;
        domain->state = HV_PAUSED;
        return true;
    case HA_VERB_SHUTDOWN:
    case HA_VERB_DESTROY:
        remove_domain(n, guest, epoch);
        return true;
    case HA_VERB_NONE:
    case HA_VERB_SAVE:
    case HA_VERB_RESTORE:
        break;
    }
    return false;
}

static inline void end_save(struct world *w, struct node *n, struct ha_local_verb *v,
                            bool is_cancelled)
{
    const struct ha_guest *guest = ha_state_guest(&w->b->state, v->guest);
    struct hv_domain *domain = find_domain(n, v->guest, v->epoch);
    uint32_t number = number_of(v->guest);
    bool can_suspend = domain && (domain->state == HV_RUNNING || domain->state == HV_PAUSED);
    bool is_ours = guest && guest->ticket.id && guest->ticket.src_epoch == v->epoch;

    v->verb = HA_VERB_NONE;
    if (!is_cancelled && can_suspend && is_ours && (w->is_calm || chance(w, 60))) {
        const struct node *dst = other_end(w, guest->ticket.dst);
        if (dst->is_up && dst->is_powered) {
            domain->state = HV_SUSPENDED;
            v->is_save_done = true;
            w->streamed_ticket[number] = guest->ticket.id;
            w->handed_ticket[number] = guest->ticket.id;
            note(w, "HANDOVER", n->id, guest->ticket.id);
            return;
        }
    }
    v->is_save_failed = true;
    /* As it was, or suspended after all (a drain that failed), or paused by a killed worker. */
    if (can_suspend && !w->is_calm && chance(w, 50))
        domain->state = chance(w, 50) ? HV_SUSPENDED : HV_PAUSED;
}

static inline void end_restore(struct world *w, struct node *n, struct ha_local_verb *v,
                               bool is_cancelled)
{
    const struct ha_guest *guest = ha_state_guest(&w->b->state, v->guest);
    uint32_t number = number_of(v->guest);
    bool is_ours = guest && guest->ticket.id && guest->ticket.dst_epoch == v->epoch;

    if (!is_cancelled && is_ours && w->streamed_ticket[number] == guest->ticket.id &&
        (w->is_calm || chance(w, 80))) {
        v->verb = HA_VERB_NONE;
        v->is_restore_done = true;
        add_domain(w, n, v->guest, v->epoch, HV_PAUSED);
        return;
    }
    bool is_hopeless = is_cancelled || !is_ours || guest->phase != HA_PHASE_MIGRATING;
    if (!is_hopeless && (w->is_calm ? chance(w, 95) : chance(w, 80)))
        return; /* still waiting for bytes */
    v->verb = HA_VERB_NONE;
    v->is_restore_failed = true;
    if (chance(w, 30))
        add_domain(w, n, v->guest, v->epoch, HV_BUILDING);
}

static inline void end_verb(struct world *w, struct node *n, struct ha_local_verb *v)
{
    bool is_cancelled = n->is_cancelled[v - n->verbs];
    uint8_t verb = v->verb;

    n->is_list_stale = true;
    if (verb == HA_VERB_SAVE) {
        end_save(w, n, v, is_cancelled);
        return;
    }
    if (verb == HA_VERB_RESTORE) {
        end_restore(w, n, v, is_cancelled);
        return;
    }
    uint64_t dice = w->is_calm ? 0 : ha_rng_below(&w->rng, 100);
    v->verb = HA_VERB_NONE;
    if (dice < 70) { /* OK if it can be */
        bool is_done = effect(w, n, v->guest, v->epoch, verb);
        if (is_done)
            return;
    } else if (dice < 85) { /* unknown, with or without effect */
        if (chance(w, 50))
            effect(w, n, v->guest, v->epoch, verb);
        snprintf(v->text, sizeof(v->text), "unknown");
        v->is_create_unknown = verb == HA_VERB_CREATE;
        return;
    }
    /* Proven not to have happened. */
    snprintf(v->text, sizeof(v->text), "failed");
    if (verb == HA_VERB_CREATE && !find_domain(n, v->guest, v->epoch))
        v->is_create_failed = true;
    if (verb == HA_VERB_RUN) {
        v->is_run_failed = n->is_lease_valid;
        v->has_run = n->had_run[v - n->verbs];
    }
}

static inline void end_some_verb(struct world *w, struct node *n)
{
    if (!n->is_up || !n->is_powered || n->verb_count == 0)
        return;
    struct ha_local_verb *v = &n->verbs[ha_rng_below(&w->rng, n->verb_count)];
    if (v->verb != HA_VERB_NONE)
        end_verb(w, n, v);
}

static inline void end_some_orphan(struct world *w, struct node *n)
{
    if (!n->is_powered || n->orphan_count == 0)
        return;
    struct orphan orphan = n->orphans[--n->orphan_count];
    if (chance(w, 50))
        effect(w, n, orphan.guest, orphan.epoch, orphan.verb);
    n->is_list_stale = true;
}

/* HANDOVER reaches the destination's hamgrd, if it has a record of the ticket's restore. */
static inline void deliver_handover(struct world *w, uint32_t guest_number)
{
    const struct ha_guest *guest = build_guest_of(w->b, guest_number);
    uint64_t ticket = w->handed_ticket[guest_number];

    if (guest->ticket.id == 0 || guest->ticket.id != ticket)
        return;
    struct node *dst = &w->nodes[guest->ticket.dst - 1];
    if (!dst->is_up || !dst->is_connected)
        return;
    for (uint32_t i = 0; i < dst->verb_count; i++) {
        struct ha_local_verb *v = &dst->verbs[i];
        if (ha_uuid_equal(v->guest, guest->id) && v->epoch == guest->ticket.dst_epoch)
            v->is_handover = true;
    }
}

/* --- Proposals --- */

static inline void resolve(struct node *n, uint32_t i)
{
    struct pending p = n->pending[i];

    n->pending[i] = n->pending[--n->pending_count];
    get_verb(n, p.guest, p.epoch)->is_proposed = false;
}

/* Committed, and its fate known here only when the entry is applied: the node catches up first. */
static inline void commit_proposal(struct world *w, struct node *n)
{
    if (!n->is_up || !n->is_connected || !n->is_open || n->pending_count == 0 ||
        log_view_cmp(n->view, w->b->state.view) != 0)
        return;
    uint32_t i = (uint32_t)ha_rng_below(&w->rng, n->pending_count);
    struct ha_cmd cmd = n->pending[i].cmd;
    commit(w, &cmd);
    while (is_behind(w, n))
        apply_next(w, n);
    resolve(n, i);
}

/* A view ends: what was under way is adopted by the next one, or lost; nobody else can tell. */
static inline void settle_pending(struct world *w)
{
    for (uint32_t k = 0; k < NODES; k++) {
        struct node *n = &w->nodes[k];
        while (n->pending_count > 0) {
            bool may_be_adopted = log_view_cmp(n->view, w->b->state.view) == 0;
            if (may_be_adopted && chance(w, 40)) {
                struct ha_cmd cmd = n->pending[n->pending_count - 1].cmd;
                commit(w, &cmd);
            }
            /* In a cut-off node is_proposed stays: it can't know the fate. */
            if (!n->is_connected)
                break;
            resolve(n, n->pending_count - 1);
        }
    }
}

static inline void open_view(struct world *w)
{
    uint32_t members[NODES + 1] = {0};
    uint32_t count = 0;

    settle_pending(w);
    for (uint32_t k = 0; k < NODES; k++) {
        if (w->nodes[k].is_connected)
            members[count++] = w->nodes[k].id;
    }
    if (count < 2)
        return; /* no quorum: nothing opens */
    build_open(w->b, true, members);
    record(w);
    note(w, "OPEN", count == 3 ? 123 : members[0] * 10 + members[1], w->b->state.view.counter);
    for (uint32_t k = 0; k < NODES; k++) {
        struct node *n = &w->nodes[k];
        if (!n->is_connected)
            continue;
        n->view = w->b->state.view;
        n->is_open = true;
        n->is_lease_valid = true;
        n->is_quarantined = false;
        while (n->pending_count > 0) /* of a time before it was cut off: applied or lost by now */
            resolve(n, n->pending_count - 1);
    }
}

static inline uint32_t connected_count(const struct world *w)
{
    uint32_t count = 0;

    for (uint32_t k = 0; k < NODES; k++)
        count += w->nodes[k].is_connected;
    return count;
}

/* --- Faults --- */

static inline void isolate(struct world *w, struct node *n)
{
    if (!n->is_connected || connected_count(w) < 3)
        return;
    note(w, "isolate", n->id, 0);
    n->is_connected = false; /* it still believes in its view and its lease */
    open_view(w);
}

/* hamgr-hv pauses everything at the end of the lease, whether hamgrd lives or not. */
static inline void expire_lease(struct world *w, struct node *n)
{
    if (n->is_connected || !n->is_powered || !n->is_lease_valid)
        return;
    note(w, "lease ends", n->id, 0);
    n->is_lease_valid = false;
    n->is_open = false;
    n->is_quarantined = true;
    for (uint32_t d = 0; d < n->domain_count; d++) {
        if (n->domains[d].state == HV_RUNNING)
            n->domains[d].state = HV_PAUSED;
    }
}

static inline void power_off(struct world *w, struct node *n)
{
    bool was_connected = n->is_connected;

    if (!n->is_powered || (was_connected && connected_count(w) < 3))
        return;
    note(w, "power off", n->id, 0);
    n->is_powered = n->is_up = n->is_connected = n->is_open = n->is_lease_valid = false;
    n->domain_count = n->list_count = n->verb_count = n->orphan_count = 0;
    n->has_list = false;
    if (was_connected)
        open_view(w);
    n->pending_count = 0;
}

static inline void reconnect(struct world *w, struct node *n)
{
    if (n->is_connected)
        return;
    if (!n->is_powered) {
        n->is_powered = true;
        build_reboot(w->b, n->id);
    }
    n->is_quarantined = n->is_quarantined || n->domain_count > 0;
    n->is_up = true;
    n->is_connected = true;
    note(w, "reconnect", n->id, 0);
    open_view(w);
}

/* Its memory is gone, and so are its saves and restores; other verbs go on without it. */
static inline void restart_hamgrd(struct world *w, struct node *n)
{
    if (!n->is_up || !n->is_connected || connected_count(w) < 3)
        return;
    note(w, "hamgrd restarts", n->id, 0);
    for (uint32_t i = 0; i < n->verb_count; i++) {
        const struct ha_local_verb *v = &n->verbs[i];
        if (v->verb == HA_VERB_RUN && chance(w, 50))
            effect(w, n, v->guest, v->epoch, HA_VERB_RUN);
        if (v->verb == HA_VERB_CREATE || v->verb == HA_VERB_DESTROY || v->verb == HA_VERB_SHUTDOWN)
            n->orphans[n->orphan_count++] =
                (struct orphan){.guest = v->guest, .epoch = v->epoch, .verb = v->verb};
    }
    settle_pending(w); /* numbered before it died, or not */
    n->verb_count = 0;
    n->has_list = false;
    n->pending_count = 0;
    build_restart(w->b, n->id);
    open_view(w);
}

static inline void fence(struct world *w, struct node *n)
{
    const struct ha_node *node = build_node_of(w->b, n->id);

    if (node->status != HA_NODE_UNCLEAN || n->is_connected || connected_count(w) < 2)
        return;
    struct ha_cmd cmd = build_node_command(w->b, HA_CMD_FENCED, n->id);
    if (n->is_powered && !n->is_lease_valid && node->is_armed) {
        cmd.u.fenced.evidence = HA_EVIDENCE_LEASE; /* T_wait: by now it has paused */
    } else {
        power_off(w, n); /* an agent */
        cmd.u.fenced.evidence = HA_EVIDENCE_AGENT;
    }
    commit(w, &cmd);
}

static inline void hurt_guest(struct world *w, struct node *n)
{
    static const uint8_t ends[] = {HV_REBOOT, HV_CRASHED, HV_POWEROFF};

    if (n->domain_count == 0)
        return;
    struct hv_domain *domain = &n->domains[ha_rng_below(&w->rng, n->domain_count)];
    if (domain->state == HV_RUNNING) {
        domain->state = ends[ha_rng_below(&w->rng, 3)];
        note(w, "guest ends", n->id, domain->state);
    }
}

#endif
