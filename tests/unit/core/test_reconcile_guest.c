/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler's rules for guests that are not moving: start, run, stop. Each test names what
 * would run twice, or never, if its rule were not there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/core/reconcile_rig.h"

static const uint8_t all_states[] = {HV_BUILDING, HV_PAUSED, HV_RUNNING, HV_SUSPENDED,
                                     HV_POWEROFF, HV_REBOOT, HV_CRASHED};

static struct ha_uuid g1(void)
{
    return build_uuid(1);
}

static uint64_t epoch_of(const struct rig *r)
{
    return build_guest_of(r->b, 1)->epoch;
}

static struct rig *rig_in(uint8_t phase)
{
    struct rig *r = rig_new(1);

    build_phase(r->b, 1, phase, 1, 2);
    return r;
}

/* --- ASSIGNED --- */

static void start_goes_from_create_to_started(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    assert_int_equal(rig_type(r), HA_DUTY_CREATE);
    assert_int_equal(r->duties.list[0].epoch, epoch_of(r));
    rig_verb(r, g1(), epoch_of(r))->verb = HA_VERB_CREATE;
    assert_int_equal(rig_type(r), 0);
    r->verbs[0].verb = HA_VERB_NONE;
    struct hv_domain *domain = rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    r->verbs[0].verb = HA_VERB_RUN;
    r->verbs[0].has_run = true;
    assert_int_equal(rig_type(r), 0);
    r->verbs[0].verb = HA_VERB_NONE;
    domain->state = HV_RUNNING;
    assert_int_equal(rig_proposal(r), HA_CMD_STARTED);
    assert_string_equal(r->duties.list[0].cmd.actor, "n1");
    assert_int_equal(r->duties.list[0].cmd.reason, HA_REASON_OBSERVED);
    assert_int_equal(r->duties.list[0].reason, HA_REASON_OBSERVED);
    r->verbs[0].is_proposed = true;
    assert_int_equal(rig_type(r), 0);
    r->verbs[0].is_proposed = false;
    rig_apply(r);
    assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_RUNNING);
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

/* After a restart of hamgrd the domain may be there already: only a listing that is younger than
 * the record shows that it is not. */
static void create_waits_for_a_listing_after_the_assign(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    r->is_old_list = true;
    assert_int_equal(rig_type(r), 0);
    r->is_old_list = false;
    r->is_fresh = false; /* other entries were applied since: does not matter */
    assert_int_equal(rig_type(r), HA_DUTY_CREATE);
    rig_free(r);
}

/* I10: a listing from before the OPEN that took it in says nothing any more. */
static void whoever_returns_lists_before_it_runs(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    build_restart(r->b, 1);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    r->is_old_list = true;
    assert_int_equal(rig_type(r), 0);
    r->is_old_list = false;
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

static void first_run_waits_for_armed(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    build_restart(r->b, 1);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    assert_false(build_node_of(r->b, 1)->is_armed);
    assert_int_equal(rig_type(r), 0);
    build_armed(r->b, 1);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

/* I6 speaks of a protecting cluster: a disarmed one starts without. */
static void disarmed_cluster_starts_unguarded(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);
    struct ha_cmd disarm = build_command(r->b, HA_CMD_DISARM);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(build_cmd(r->b, &disarm), HA_REASON_NONE);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

/* Nothing is created or made runnable unless everything holds (I5, H10, H14). */
static void nothing_begins_without_view_lease_and_gate(void **state)
{
    static const uint8_t phases[] = {HA_PHASE_ASSIGNED, HA_PHASE_RUNNING};
    static const int expected[] = {HA_DUTY_RUN, HA_DUTY_RUN};

    (void)state;
    for (size_t i = 0; i < sizeof(phases); i++) {
        struct rig *r = rig_in(phases[i]);
        rig_domain(r, 1, epoch_of(r), HV_PAUSED);
        assert_int_equal(rig_type(r), expected[i]);
        r->rt.is_open = false;
        assert_int_equal(rig_type(r), 0);
        r->rt.is_open = true;
        r->rt.lease_end_ms = r->rt.now_ms;
        assert_int_equal(rig_type(r), 0);
        r->rt.lease_end_ms = r->rt.now_ms + 1;
        r->rt.is_gate_open = false;
        assert_int_equal(rig_type(r), 0);
        r->rt.is_gate_open = true;
        r->rt.is_quarantined = true;
        assert_int_equal(rig_type(r), 0);
        r->rt.is_quarantined = false;
        r->rt.reports[0] = (struct ha_report){.node = 1, .mem_kib = BUILD_MEM_KIB};
        assert_int_equal(rig_type(r), 0); /* hamgr-hv does not answer */
        r->rt.reports[0].is_hv_ready = true;
        assert_int_equal(rig_type(r), expected[i]);
        rig_free(r);
    }
}

/* The OPEN that names this node must have been applied, and all that is committed with it. */
static void nothing_happens_on_an_old_state(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);
    struct ha_inventory inventory = {
        .is_fresh = true, .applied_at_list = r->b->state.applied, .domains = r->domains};

    (void)state;
    rig_look(r);
    assert_int_equal(r->duties.count, 1);
    r->rt.view.counter++;
    ha_reconcile(&r->b->state, &r->rt, &inventory, NULL, &r->duties);
    assert_int_equal(r->duties.count, 0);
    r->rt.view = r->b->state.view;
    r->rt.commit_index++;
    ha_reconcile(&r->b->state, &r->rt, &inventory, NULL, &r->duties);
    assert_int_equal(r->duties.count, 0);
    rig_free(r);
}

static void an_evicted_node_does_nothing(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    BUILD_OPEN(r->b, true, 2, 3);
    assert_int_equal(rig_type(r), 0);
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

static void failed_create_frees_the_guest_only_with_proof(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);
    struct ha_local_verb *verb = rig_verb(r, g1(), epoch_of(r));

    (void)state;
    verb->is_create_failed = true;
    snprintf(verb->text, sizeof(verb->text), "no such image");
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    assert_int_equal(r->duties.list[0].cmd.u.not_running.cause, HA_END_START_FAILED);
    assert_string_equal(r->duties.list[0].cmd.u.not_running.detail, "no such image");
    rig_apply(r);
    assert_int_equal(build_guest_of(r->b, 1)->failures, 1);
    rig_free(r);
}

/* I9: an unknown outcome is no proof; the domain it left is destroyed first. */
static void unknown_create_is_cleared_away_before_it_counts(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);
    struct ha_local_verb *verb = rig_verb(r, g1(), epoch_of(r));

    (void)state;
    verb->is_create_unknown = true;
    snprintf(verb->text, sizeof(verb->text), "worker killed");
    rig_domain(r, 1, epoch_of(r), HV_BUILDING);
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    r->domain_count = 0;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    assert_int_equal(r->duties.list[0].cmd.u.not_running.cause, HA_END_START_FAILED);
    rig_free(r);
}

/* hamgr-hv was busy, or its gate closed: no verdict, the text is only for people. */
static void a_create_refused_for_now_is_tried_again(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    snprintf(rig_verb(r, g1(), epoch_of(r))->text, 128, "busy: another verb");
    assert_int_equal(rig_type(r), HA_DUTY_CREATE);
    rig_free(r);
}

static void unrunnable_start_is_destroyed_then_failed(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    rig_verb(r, g1(), epoch_of(r))->is_run_failed = true;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    r->verbs[0].end_cause = r->duties.list[0].end_cause;
    r->domain_count = 0;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    assert_int_equal(r->duties.list[0].cmd.u.not_running.cause, HA_END_START_FAILED);
    rig_free(r);
}

/* The proposal may be applied any moment: a copy made runnable now would be a second one then. */
static void nothing_begins_while_a_proposal_is_open(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);
    struct ha_local_verb *verb = rig_verb(r, g1(), epoch_of(r));

    (void)state;
    verb->is_proposed = true;
    assert_int_equal(rig_type(r), 0); /* no CREATE */
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(rig_type(r), 0); /* no RUN */
    build_started(r->b, 1);
    assert_int_equal(rig_type(r), 0);
    r->domains[0].state = HV_SUSPENDED;
    assert_int_equal(rig_type(r), 0); /* no RESUME_PREPARE */
    verb->is_proposed = false;
    assert_int_equal(rig_type(r), HA_DUTY_RESUME_PREPARE);
    rig_free(r);
}

static void retries_wait_their_time(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);
    struct ha_local_verb *verb = rig_verb(r, g1(), epoch_of(r));

    (void)state;
    verb->retry_ms = r->rt.now_ms + 500;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(rig_type(r), 0);
    assert_int_equal(r->duties.next_ms, verb->retry_ms);
    r->rt.now_ms += 500;
    r->rt.lease_end_ms += 500;
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    assert_int_equal(r->duties.next_ms, UINT64_MAX);
    rig_free(r);
}

/* It ran and is gone before STARTED was said: that counts as lost, not as a failed start. */
static void a_start_that_ran_and_vanished_is_lost(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    rig_verb(r, g1(), epoch_of(r))->has_run = true;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    assert_int_equal(r->duties.list[0].cmd.u.not_running.cause, HA_END_LOST);
    rig_free(r);
}

/* --- RUNNING --- */

static void running_guests_are_left_alone(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_RUNNING);
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

/* Without proof the guest would be started elsewhere beside a living one (I3, I9). */
static void lost_needs_a_fresh_listing_without_any_copy(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    r->is_old_list = true;
    assert_int_equal(rig_type(r), 0);
    r->is_old_list = false;
    rig_verb(r, g1(), epoch_of(r))->verb = HA_VERB_RUN;
    assert_int_equal(rig_type(r), 0);
    r->verbs[0].verb = HA_VERB_NONE;
    r->rt.reports[0] = (struct ha_report){.node = 1, .mem_kib = BUILD_MEM_KIB};
    assert_int_equal(rig_type(r), 0); /* hamgr-hv is away: its last listing proves nothing */
    r->rt.reports[0].is_hv_ready = true;
    struct hv_domain *old = rig_domain(r, 1, epoch_of(r) - 1, HV_RUNNING);
    rig_look(r); /* a stray is there: it goes, and nothing is said meanwhile */
    assert_int_equal(r->duties.count, 1);
    assert_int_equal(r->duties.list[0].type, HA_DUTY_DESTROY);
    assert_int_equal(r->duties.list[0].epoch, old->label.epoch);
    r->domain_count = 0;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    assert_int_equal(r->duties.list[0].cmd.u.not_running.cause, HA_END_LOST);
    rig_free(r);
}

static void ended_guests_are_destroyed_then_reported(void **state)
{
    static const struct {
        uint8_t state, cause;
    } cases[] = {
        {HV_POWEROFF, HA_END_POWEROFF}, {HV_REBOOT, HA_END_REBOOT}, {HV_CRASHED, HA_END_CRASHED}};
    static const uint8_t phases[] = {HA_PHASE_ASSIGNED, HA_PHASE_RUNNING};

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig *r = rig_in(phases[i % 2]);
        rig_domain(r, 1, epoch_of(r), cases[i / 2].state);
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        assert_int_equal(r->duties.list[0].end_cause, cases[i / 2].cause);
        rig_verb(r, g1(), epoch_of(r))->end_cause = r->duties.list[0].end_cause;
        r->verbs[0].verb = HA_VERB_DESTROY;
        r->domain_count = 0;
        assert_int_equal(rig_type(r), 0);
        r->verbs[0].verb = HA_VERB_NONE;
        assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
        assert_int_equal(r->duties.list[0].cmd.u.not_running.cause, cases[i / 2].cause);
        rig_apply(r);
        assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_FREE);
        rig_free(r);
    }
}

/* Destroying may take more than one round: the first cause is the true one. */
static void the_first_cause_stays(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_POWEROFF);
    rig_verb(r, g1(), epoch_of(r))->end_cause = HA_END_REBOOT;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    assert_int_equal(r->duties.list[0].end_cause, HA_END_REBOOT);
    rig_free(r);
}

/* A guest that the record says runs is not being built: what is there is no guest. */
static void a_half_built_running_guest_is_lost(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_BUILDING);
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    assert_int_equal(r->duties.list[0].end_cause, HA_END_LOST);
    rig_free(r);
}

static void destroy_and_shutdown_wait_their_time(void **state)
{
    static const uint8_t modes[] = {HA_STOP_GRACEFUL, HA_STOP_DESTROY};
    static const int expected[] = {HA_DUTY_SHUTDOWN, HA_DUTY_DESTROY};

    (void)state;
    for (size_t i = 0; i < sizeof(modes); i++) {
        struct rig *r = rig_in(HA_PHASE_RUNNING);
        build_stop(r->b, 1, modes[i], false);
        rig_domain(r, 1, epoch_of(r), HV_RUNNING);
        rig_verb(r, g1(), epoch_of(r))->retry_ms = r->rt.now_ms + 1;
        assert_int_equal(rig_type(r), 0);
        assert_int_equal(r->duties.next_ms, r->rt.now_ms + 1);
        r->rt.now_ms++;
        r->rt.lease_end_ms++;
        assert_int_equal(rig_type(r), expected[i]);
        rig_free(r);
    }
}

/* Quarantine paused it; nobody took it meanwhile: it goes on at the same epoch, even before ARMED
 * of the new incarnation. */
static void a_returned_node_resumes_its_paused_guests(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    BUILD_OPEN(r->b, true, 2, 3);
    assert_int_equal(rig_type(r), 0);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    assert_int_equal(build_guest_of(r->b, 1)->incarnation, build_node_of(r->b, 1)->incarnation);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

/* H14: fenced while it was away, the guest is (or will be) somebody else's. */
static void a_fenced_node_destroys_what_it_brings_back(void **state)
{
    static const uint8_t next_phase[] = {HA_PHASE_FREE, HA_PHASE_ASSIGNED, HA_PHASE_RUNNING};

    (void)state;
    for (size_t i = 0; i < sizeof(next_phase); i++) {
        struct rig *r = rig_in(HA_PHASE_RUNNING);
        uint64_t epoch = epoch_of(r);
        BUILD_OPEN(r->b, true, 2, 3);
        assert_int_equal(build_fenced(r->b, 1, HA_EVIDENCE_LEASE), HA_REASON_NONE);
        if (next_phase[i] >= HA_PHASE_ASSIGNED)
            assert_int_equal(build_assign(r->b, 1, 2), HA_REASON_NONE);
        if (next_phase[i] >= HA_PHASE_RUNNING)
            build_started(r->b, 1);
        BUILD_OPEN(r->b, true, 1, 2, 3);
        for (size_t s = 0; s < sizeof(all_states); s++) {
            r->domain_count = 0;
            rig_domain(r, 1, epoch, all_states[s]);
            assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
            assert_int_equal(r->duties.list[0].epoch, epoch);
        }
        rig_free(r);
    }
}

/* Assigned anew to the very node that still has the old copy: old I/O could hit the new guest's
 * disk (I2). First one goes, then the other comes. */
static void a_new_copy_waits_for_the_old_one_to_go(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);
    uint64_t old = epoch_of(r);

    (void)state;
    BUILD_OPEN(r->b, true, 2, 3);
    build_fenced(r->b, 1, HA_EVIDENCE_LEASE);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    build_armed(r->b, 1);
    assert_int_equal(build_assign(r->b, 1, 1), HA_REASON_NONE);
    rig_domain(r, 1, old, HV_PAUSED);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    assert_int_equal(r->duties.list[0].epoch, old);
    rig_verb(r, g1(), old)->verb = HA_VERB_DESTROY;
    assert_int_equal(rig_type(r), 0);
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(rig_type(r), 0); /* nor is a new one run */
    r->domain_count = 0;
    assert_int_equal(rig_type(r), 0); /* the destroy has not ended */
    r->verb_count = 0;
    assert_int_equal(rig_type(r), HA_DUTY_CREATE);
    rig_free(r);
}

/* The record speaks of another incarnation of this node: neither run nor destroyed. */
static void a_record_of_another_incarnation_is_not_touched(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(all_states); s++) {
        struct rig *r = rig_in(HA_PHASE_RUNNING);
        r->b->state.guests[0].incarnation--;
        rig_domain(r, 1, epoch_of(r), all_states[s]);
        assert_int_equal(rig_type(r), 0);
        r->domain_count = 0;
        assert_int_equal(rig_type(r), 0);
        rig_free(r);
    }
}

/* --- STOPPING --- */

static void graceful_stop_asks_then_reports(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    build_stop(r->b, 1, HA_STOP_GRACEFUL, false);
    rig_domain(r, 1, epoch_of(r), HV_RUNNING);
    assert_int_equal(rig_type(r), HA_DUTY_SHUTDOWN);
    assert_int_equal(r->duties.list[0].timeout_ms, build_guest_of(r->b, 1)->policy.stop_timeout_ms);
    rig_verb(r, g1(), epoch_of(r))->verb = HA_VERB_SHUTDOWN;
    assert_int_equal(rig_type(r), 0);
    r->verbs[0].verb = HA_VERB_NONE;
    r->domains[0].state = HV_POWEROFF;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    r->domain_count = 0;
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    assert_int_equal(r->duties.list[0].cmd.u.not_running.cause, HA_END_STOPPED);
    rig_free(r);
}

static void forced_stop_destroys_in_every_state(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(all_states); s++) {
        struct rig *r = rig_in(HA_PHASE_RUNNING);
        build_stop(r->b, 1, HA_STOP_DESTROY, false);
        rig_domain(r, 1, epoch_of(r), all_states[s]);
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        rig_free(r);
    }
}

static void a_half_built_copy_is_stopped_on_a_fresh_listing(void **state)
{
    struct rig *r = rig_in(HA_PHASE_STOPPING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_BUILDING);
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0); /* a worker may be at it */
    r->domains[0].state = HV_PAUSED;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

static void graceful_stop_destroys_what_can_not_answer(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(all_states); s++) {
        struct rig *r = rig_in(HA_PHASE_RUNNING);
        build_stop(r->b, 1, HA_STOP_GRACEFUL, false);
        rig_domain(r, 1, epoch_of(r), all_states[s]);
        assert_int_equal(rig_type(r),
                         all_states[s] == HV_RUNNING ? HA_DUTY_SHUTDOWN : HA_DUTY_DESTROY);
        rig_free(r);
    }
}

static void force_overtakes_a_shutdown_in_flight(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    build_stop(r->b, 1, HA_STOP_GRACEFUL, false);
    rig_domain(r, 1, epoch_of(r), HV_RUNNING);
    rig_verb(r, g1(), epoch_of(r))->verb = HA_VERB_SHUTDOWN;
    build_stop(r->b, 1, HA_STOP_DESTROY, false);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    r->verbs[0].verb = HA_VERB_DESTROY;
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

static void a_start_taken_back_is_stopped_with_proof(void **state)
{
    struct rig *r = rig_in(HA_PHASE_ASSIGNED);

    (void)state;
    build_stop(r->b, 1, HA_STOP_GRACEFUL, false);
    rig_verb(r, g1(), epoch_of(r))->verb = HA_VERB_CREATE;
    assert_int_equal(rig_type(r), 0);
    r->verbs[0].verb = HA_VERB_NONE;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    r->domain_count = 0;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    rig_free(r);
}

/* Nothing is resumed in STOPPING, ever. */
static void a_stopping_guest_is_never_made_runnable(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(all_states); s++) {
        struct rig *r = rig_in(HA_PHASE_STOPPING);
        rig_domain(r, 1, epoch_of(r), all_states[s]);
        rig_look(r);
        for (uint32_t i = 0; i < r->duties.count; i++) {
            assert_int_not_equal(r->duties.list[i].type, HA_DUTY_RUN);
            assert_int_not_equal(r->duties.list[i].type, HA_DUTY_RESUME_PREPARE);
            assert_int_not_equal(r->duties.list[i].type, HA_DUTY_CREATE);
        }
        rig_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_goes_from_create_to_started),
        cmocka_unit_test(create_waits_for_a_listing_after_the_assign),
        cmocka_unit_test(whoever_returns_lists_before_it_runs),
        cmocka_unit_test(first_run_waits_for_armed),
        cmocka_unit_test(disarmed_cluster_starts_unguarded),
        cmocka_unit_test(nothing_begins_without_view_lease_and_gate),
        cmocka_unit_test(nothing_happens_on_an_old_state),
        cmocka_unit_test(an_evicted_node_does_nothing),
        cmocka_unit_test(failed_create_frees_the_guest_only_with_proof),
        cmocka_unit_test(unknown_create_is_cleared_away_before_it_counts),
        cmocka_unit_test(a_create_refused_for_now_is_tried_again),
        cmocka_unit_test(unrunnable_start_is_destroyed_then_failed),
        cmocka_unit_test(nothing_begins_while_a_proposal_is_open),
        cmocka_unit_test(retries_wait_their_time),
        cmocka_unit_test(a_start_that_ran_and_vanished_is_lost),
        cmocka_unit_test(running_guests_are_left_alone),
        cmocka_unit_test(lost_needs_a_fresh_listing_without_any_copy),
        cmocka_unit_test(ended_guests_are_destroyed_then_reported),
        cmocka_unit_test(the_first_cause_stays),
        cmocka_unit_test(a_half_built_running_guest_is_lost),
        cmocka_unit_test(destroy_and_shutdown_wait_their_time),
        cmocka_unit_test(a_returned_node_resumes_its_paused_guests),
        cmocka_unit_test(a_fenced_node_destroys_what_it_brings_back),
        cmocka_unit_test(a_new_copy_waits_for_the_old_one_to_go),
        cmocka_unit_test(a_record_of_another_incarnation_is_not_touched),
        cmocka_unit_test(graceful_stop_asks_then_reports),
        cmocka_unit_test(forced_stop_destroys_in_every_state),
        cmocka_unit_test(a_half_built_copy_is_stopped_on_a_fresh_listing),
        cmocka_unit_test(graceful_stop_destroys_what_can_not_answer),
        cmocka_unit_test(force_overtakes_a_shutdown_in_flight),
        cmocka_unit_test(a_start_taken_back_is_stopped_with_proof),
        cmocka_unit_test(a_stopping_guest_is_never_made_runnable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
