/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler's rules for guests that are not moving, for strays, and for what a node says about
 * itself. Each test names what would run twice, or never, if its rule were not there.
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

/* --- Strays, labels --- */

static void strays_are_destroyed_in_every_state(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(all_states); s++) {
        struct rig *r = rig_new(1);
        rig_domain(r, 1, 5, all_states[s]); /* the guest is FREE */
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        r->domain_count = 0;
        rig_domain(r, 9, 1, all_states[s]); /* there is no such guest */
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        rig_verb(r, build_uuid(9), 1)->verb = HA_VERB_DESTROY;
        assert_int_equal(rig_type(r), 0);
        rig_free(r);
    }
}

/* H29: the label is all four parts. */
static void a_domain_of_another_life_of_the_cluster_never_runs(void **state)
{
    (void)state;
    for (int part = 0; part < 2; part++) {
        struct rig *r = rig_in(HA_PHASE_RUNNING);
        struct hv_domain *domain = rig_domain(r, 1, epoch_of(r), HV_PAUSED);
        if (part == 0)
            domain->label.generation--;
        else
            domain->label.cluster_id.b[3] ^= 1;
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        /* Nor when the right one stands beside it: hamgr-hv could not tell them apart. */
        rig_domain(r, 1, epoch_of(r), HV_PAUSED);
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        rig_free(r);
    }
}

static void two_domains_under_one_label_never_run(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    rig_domain(r, 1, epoch_of(r), HV_RUNNING);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_verb(r, g1(), epoch_of(r))->verb = HA_VERB_DESTROY;
    assert_int_equal(rig_type(r), 0);
    r->verbs[0].verb = HA_VERB_NONE;
    r->verbs[0].retry_ms = r->rt.now_ms + 1;
    assert_int_equal(rig_type(r), 0);
    /* Strays of one label are named once. */
    r->domain_count = 0;
    rig_domain(r, 9, 1, HV_PAUSED);
    rig_domain(r, 9, 1, HV_PAUSED);
    r->verbs[0].verb = HA_VERB_RUN;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

static void foreign_domains_are_reported_never_destroyed(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_RUNNING);
    rig_foreign(r);
    assert_int_equal(rig_type(r), HA_DUTY_REPORT_FOREIGN);
    r->rt.is_open = false;
    assert_int_equal(rig_type(r), HA_DUTY_REPORT_FOREIGN);
    rig_free(r);
}

/* Outside a view the state may be old: destroying by it could take the only copy. */
static void strays_are_left_alone_outside_a_view(void **state)
{
    struct rig *r = rig_new(1);

    (void)state;
    rig_domain(r, 1, 5, HV_PAUSED);
    r->rt.is_open = false;
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

/* Many guests, copies and verbs at once: each is found among the others. */
static void every_guest_is_found_among_many(void **state)
{
    struct rig *r = rig_new(1);

    (void)state;
    for (uint32_t guest = 2; guest <= 8; guest++) {
        build_guest(r->b, guest, HA_WANT_STARTED);
        build_phase(r->b, guest, HA_PHASE_RUNNING, guest == 8 ? 2 : 1, 0);
        rig_domain(r, guest, 1, guest % 2 ? HV_PAUSED : HV_RUNNING);
        rig_domain(r, guest, 7, HV_BUILDING);
        rig_verb(r, build_uuid(guest), 1)->retry_ms = guest == 3 ? r->rt.now_ms + 5 : 0;
        rig_verb(r, build_uuid(guest), 7)->verb = guest == 5 ? HA_VERB_DESTROY : HA_VERB_NONE;
    }
    rig_look(r);
    uint32_t destroyed = 0;
    for (uint32_t i = 0; i < r->duties.count; i++) {
        const struct ha_duty *duty = &r->duties.list[i];
        /* Nothing begins beside a stray; the strays go, and with them the whole of guest 8. */
        assert_int_equal(duty->type, HA_DUTY_DESTROY);
        assert_int_equal(duty->reason, HA_REASON_NOT_OURS);
        assert_false(ha_uuid_equal(duty->guest, build_uuid(5)));
        assert_true(duty->epoch == 7 || ha_uuid_equal(duty->guest, build_uuid(8)));
        destroyed++;
    }
    assert_int_equal(destroyed, 7);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->domain_count; i++) {
        if (r->domains[i].label.epoch == 1)
            r->domains[kept++] = r->domains[i];
    }
    r->domain_count = kept - 1; /* guest 8's is gone as well */
    rig_look(r);
    assert_int_equal(r->duties.count, 1); /* 3 waits, 5 is busy, 7 is paused */
    assert_int_equal(r->duties.list[0].type, HA_DUTY_RUN);
    assert_true(ha_uuid_equal(r->duties.list[0].guest, build_uuid(7)));
    assert_int_equal(r->duties.next_ms, r->rt.now_ms + 5);
    rig_free(r);
}

/* --- Order and limits --- */

static void creates_follow_the_order_of_assignment(void **state)
{
    struct rig *r = rig_new(1);

    (void)state;
    for (uint32_t guest = 2; guest <= 6; guest++)
        build_guest(r->b, guest, HA_WANT_STARTED);
    for (uint32_t guest = 6; guest >= 2; guest--)
        assert_int_equal(build_assign(r->b, guest, 1), HA_REASON_NONE);
    rig_look(r);
    assert_int_equal(r->duties.count, 5);
    for (uint32_t i = 0; i < 5; i++)
        assert_true(ha_uuid_equal(r->duties.list[i].guest, build_uuid(6 - i)));
    rig_free(r);
}

/* --- What the node says about itself --- */

static void armed_is_proposed_until_the_log_has_it(void **state)
{
    struct rig *r = rig_new(1);

    (void)state;
    build_restart(r->b, 1);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    assert_int_equal(rig_type(r), 0); /* nothing is known of the keeper */
    r->keeper = (struct ha_keeper_facts){
        .is_known = true, .is_armed = true, .lease_ms = 6900, .watchdog_ms = 5000};
    assert_int_equal(rig_proposal(r), HA_CMD_ARMED);
    const struct ha_cmd *cmd = &r->duties.list[0].cmd;
    assert_int_equal(cmd->incarnation, build_node_of(r->b, 1)->incarnation);
    assert_int_equal(cmd->u.armed.lease_ms, 6900);
    assert_int_equal(cmd->u.armed.watchdog_ms, 5000);
    assert_true(ha_uuid_is_zero(r->duties.list[0].guest));
    rig_verb(r, (struct ha_uuid){{0}}, HA_CMD_ARMED)->is_proposed = true;
    assert_int_equal(rig_type(r), 0);
    r->verb_count = 0;
    rig_apply(r);
    assert_true(build_node_of(r->b, 1)->is_armed);
    assert_int_equal(rig_type(r), 0);
    r->keeper.watchdog_ms = 60000; /* survivors must wait longer from now on */
    assert_int_equal(rig_proposal(r), HA_CMD_ARMED);
    rig_free(r);
}

/* H31: a keeper that was seen before DISARM may be off since: it must be looked at again. */
static void a_keeper_seen_before_disarm_does_not_count(void **state)
{
    struct rig *r = rig_new(1);
    struct ha_cmd disarm = build_command(r->b, HA_CMD_DISARM);
    struct ha_cmd arm = build_command(r->b, HA_CMD_ARM);

    (void)state;
    r->keeper = (struct ha_keeper_facts){.is_known = true,
                                         .is_armed = true,
                                         .lease_ms = 6900,
                                         .watchdog_ms = 5000,
                                         .seen_applied = r->b->state.applied};
    build_cmd(r->b, &disarm);
    assert_int_equal(rig_type(r), 0);
    r->keeper.seen_applied = r->b->state.applied; /* still winding down */
    build_cmd(r->b, &arm);
    assert_int_equal(rig_type(r), 0);
    r->keeper.seen_applied = r->b->state.applied;
    assert_int_equal(rig_proposal(r), HA_CMD_ARMED);
    rig_free(r);
}

static void a_frozen_node_does_not_claim_to_be_armed(void **state)
{
    struct rig *r = rig_new(1);

    (void)state;
    build_node_cmd(r->b, HA_CMD_FREEZE, 1);
    r->keeper = (struct ha_keeper_facts){.is_known = true,
                                         .is_armed = true,
                                         .lease_ms = 6900,
                                         .watchdog_ms = 5000,
                                         .seen_applied = r->b->state.applied};
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

/* Survivors must not wait for a self-fence that can't come. */
static void a_keeper_that_stopped_is_reported(void **state)
{
    struct rig *r = rig_new(1);

    (void)state;
    r->keeper.is_known = true;
    assert_int_equal(rig_proposal(r), HA_CMD_UNARMED);
    rig_apply(r);
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

static void capacity_follows_the_hypervisor(void **state)
{
    struct rig *r = rig_new(2);

    (void)state;
    r->rt.reports[1] = (struct ha_report){.node = 2, .is_hv_ready = false, .mem_kib = 0};
    assert_int_equal(rig_type(r), 0);
    r->rt.reports[1].is_hv_ready = true;
    r->rt.reports[1].mem_kib = BUILD_MEM_KIB / 2;
    assert_int_equal(rig_proposal(r), HA_CMD_CAPACITY);
    rig_apply(r);
    assert_int_equal(build_node_of(r->b, 2)->mem_kib, BUILD_MEM_KIB / 2);
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_goes_from_create_to_started),
        cmocka_unit_test(create_waits_for_a_listing_after_the_assign),
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
        cmocka_unit_test(strays_are_destroyed_in_every_state),
        cmocka_unit_test(a_domain_of_another_life_of_the_cluster_never_runs),
        cmocka_unit_test(two_domains_under_one_label_never_run),
        cmocka_unit_test(foreign_domains_are_reported_never_destroyed),
        cmocka_unit_test(strays_are_left_alone_outside_a_view),
        cmocka_unit_test(every_guest_is_found_among_many),
        cmocka_unit_test(creates_follow_the_order_of_assignment),
        cmocka_unit_test(armed_is_proposed_until_the_log_has_it),
        cmocka_unit_test(a_keeper_seen_before_disarm_does_not_count),
        cmocka_unit_test(a_frozen_node_does_not_claim_to_be_armed),
        cmocka_unit_test(a_keeper_that_stopped_is_reported),
        cmocka_unit_test(capacity_follows_the_hypervisor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
