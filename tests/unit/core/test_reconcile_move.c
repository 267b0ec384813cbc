/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler's rules at both ends of a migration. The question of every test: who could run the
 * guest twice, or nobody for ever, if this line were inverted?
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/core/reconcile_rig.h"

#define SRC 1u
#define DST 2u

static const uint8_t all_states[] = {HV_BUILDING, HV_PAUSED, HV_RUNNING, HV_SUSPENDED,
                                     HV_POWEROFF, HV_REBOOT, HV_CRASHED};

/* Guest 1 in phase on its way from SRC to DST, seen from self. */
static struct rig *rig_moving(uint8_t phase, uint32_t self)
{
    struct rig *r = rig_new(self);

    build_phase(r->b, 1, phase, SRC, DST);
    return r;
}

static const struct ha_ticket *ticket_of(const struct rig *r)
{
    return &build_guest_of(r->b, 1)->ticket;
}

static struct ha_local_verb *src_verb(struct rig *r)
{
    return rig_verb(r, build_uuid(1), ticket_of(r)->src_epoch);
}

static struct ha_local_verb *dst_verb(struct rig *r)
{
    return rig_verb(r, build_uuid(1), ticket_of(r)->dst_epoch);
}

static struct hv_domain *src_domain(struct rig *r, uint8_t state)
{
    return rig_domain(r, 1, ticket_of(r)->src_epoch, state);
}

static struct hv_domain *dst_domain(struct rig *r, uint8_t state)
{
    return rig_domain(r, 1, ticket_of(r)->dst_epoch, state);
}

static bool makes_runnable(const struct rig *r)
{
    for (uint32_t i = 0; i < r->duties.count; i++) {
        uint8_t type = r->duties.list[i].type;
        if (type == HA_DUTY_RUN || type == HA_DUTY_RESUME_PREPARE || type == HA_DUTY_CREATE)
            return true;
    }
    return false;
}

/* --- MIGRATING, source --- */

static void source_begins_once(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);

    (void)state;
    src_domain(r, HV_RUNNING);
    assert_int_equal(rig_type(r), HA_DUTY_MOVE_OUT);
    assert_int_equal(r->duties.list[0].ticket, ticket_of(r)->id);
    src_verb(r)->verb = HA_VERB_SAVE;
    assert_int_equal(rig_type(r), 0);
    r->domains[0].state = HV_SUSPENDED;
    assert_int_equal(rig_type(r), 0);
    src_verb(r)->verb = HA_VERB_NONE;
    src_verb(r)->is_save_done = true;
    assert_int_equal(rig_type(r), 0); /* handed over: the log decides */
    rig_free(r);
}

/* I8: whatever the listing and the memory say, a source is not resumed before ABORT or REVERT. */
static void source_is_never_resumed_while_the_ticket_is_open(void **state)
{
    static const uint8_t phases[] = {HA_PHASE_MIGRATING, HA_PHASE_SWITCHED};

    (void)state;
    for (unsigned i = 0; i < 2 * sizeof(all_states) * 8; i++) {
        struct rig *r = rig_moving(phases[i % 2], SRC);
        unsigned flags = i / 2 / sizeof(all_states);
        src_domain(r, all_states[i / 2 % sizeof(all_states)]);
        src_verb(r)->is_save_done = flags & 1;
        src_verb(r)->is_save_failed = flags & 2;
        src_verb(r)->has_run = flags & 4;
        rig_look(r);
        assert_false(makes_runnable(r));
        rig_free(r);
    }
}

static void failed_save_leads_to_abort_then_resume(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);
    uint64_t epoch = ticket_of(r)->src_epoch;
    struct ha_local_verb *verb = src_verb(r);

    (void)state;
    struct hv_domain *domain = src_domain(r, HV_SUSPENDED);
    verb->is_save_failed = true;
    snprintf(verb->text, sizeof(verb->text), "drain: still 3 requests after 10 s");
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    assert_string_equal(r->duties.list[0].cmd.u.text.detail, verb->text);
    verb->is_proposed = true;
    assert_int_equal(rig_type(r), 0);
    verb->is_proposed = false;
    rig_apply(r);
    assert_int_equal(rig_type(r), HA_DUTY_RESUME_PREPARE);
    assert_int_equal(r->duties.list[0].epoch, epoch);
    verb->verb = HA_VERB_RESUME;
    assert_int_equal(rig_type(r), 0);
    verb->verb = HA_VERB_NONE;
    domain->state = HV_PAUSED;
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

/* The save still runs when ABORT is applied: it may yet suspend the guest, so it ends first. */
static void after_abort_a_save_in_flight_ends_first(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);
    struct ha_local_verb *verb = src_verb(r);

    (void)state;
    src_domain(r, HV_SUSPENDED);
    verb->verb = HA_VERB_SAVE;
    assert_int_equal(build_move(r->b, HA_CMD_ABORT, 1), HA_REASON_NONE);
    assert_int_equal(rig_type(r), HA_DUTY_MOVE_CANCEL);
    assert_int_equal(r->duties.list[0].epoch, verb->epoch);
    verb->verb = HA_VERB_NONE;
    verb->is_save_done = true; /* it ended well, but too late */
    assert_int_equal(rig_type(r), HA_DUTY_RESUME_PREPARE);
    rig_free(r);
}

/* A failure is told to the log at once, even if the worker takes its time to end. */
static void failure_is_proposed_while_the_save_winds_down(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);

    (void)state;
    src_domain(r, HV_RUNNING);
    src_verb(r)->verb = HA_VERB_SAVE;
    src_verb(r)->is_save_failed = true;
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    rig_free(r);
}

/* After a restart of hamgrd nothing is known of the save; HANDOVER may have been sent. */
static void source_without_memory_asks_the_log(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(all_states); s++) {
        struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);
        src_domain(r, all_states[s]);
        if (all_states[s] == HV_RUNNING)
            assert_int_equal(rig_type(r), HA_DUTY_MOVE_OUT);
        else
            assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
        r->is_fresh = false;
        assert_int_equal(rig_type(r), all_states[s] == HV_RUNNING ? HA_DUTY_MOVE_OUT : 0);
        rig_free(r);
    }
}

static void source_that_lost_its_guest_aborts(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);

    (void)state;
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    rig_apply(r);
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    rig_free(r);
}

/* HANDOVER was sent, then somebody resumed the source by hand: SWITCH must not win. */
static void source_resumed_by_hand_aborts(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);

    (void)state;
    src_domain(r, HV_RUNNING);
    src_verb(r)->is_save_done = true;
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0); /* the listing may be from before the suspension */
    r->is_fresh = true;
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    rig_free(r);
}

static void quarantined_source_gives_up_its_save(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, SRC);

    (void)state;
    src_domain(r, HV_PAUSED);
    src_verb(r)->verb = HA_VERB_SAVE;
    assert_int_equal(rig_type(r), 0);
    r->rt.is_quarantined = true;
    r->rt.is_open = false;
    assert_int_equal(rig_type(r), HA_DUTY_MOVE_CANCEL);
    assert_int_equal(r->duties.list[0].ticket, ticket_of(r)->id);
    src_verb(r)->is_save_done = true; /* handed over: too late to cancel anything */
    assert_int_equal(rig_type(r), 0);
    src_verb(r)->is_save_done = false;
    src_verb(r)->verb = HA_VERB_NONE;
    r->rt.is_quarantined = false;
    r->rt.is_open = true;
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    rig_apply(r);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

/* --- MIGRATING, destination --- */

static void destination_begins_once_and_switches(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);

    (void)state;
    r->is_old_list = true;
    assert_int_equal(rig_type(r), 0);
    r->is_old_list = false;
    assert_int_equal(rig_type(r), HA_DUTY_MOVE_IN);
    assert_int_equal(r->duties.list[0].epoch, ticket_of(r)->dst_epoch);
    dst_verb(r)->verb = HA_VERB_RESTORE;
    dst_domain(r, HV_BUILDING);
    assert_int_equal(rig_type(r), 0);
    dst_verb(r)->is_handover = true;
    assert_int_equal(rig_type(r), 0); /* not complete yet */
    dst_verb(r)->verb = HA_VERB_NONE;
    dst_verb(r)->is_restore_done = true;
    r->domains[0].state = HV_PAUSED;
    dst_verb(r)->is_handover = false;
    assert_int_equal(rig_type(r), 0); /* H23: the source has not let go of it */
    dst_verb(r)->is_handover = true;
    assert_int_equal(rig_proposal(r), HA_CMD_SWITCH);
    assert_int_equal(r->duties.list[0].ticket, ticket_of(r)->id);
    r->is_fresh = false;
    assert_int_equal(rig_proposal(r),
                     HA_CMD_SWITCH); /* the pause is now: no listing is waited for */
    rig_apply(r);
    assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_SWITCHED);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

/* I8: an arriving copy is never runnable before SWITCH; one that is goes at once. */
static void arriving_copy_is_never_run_before_switch(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(all_states) * 16; i++) {
        struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);
        unsigned flags = i / sizeof(all_states);
        uint8_t domain = all_states[i % sizeof(all_states)];
        dst_domain(r, domain);
        dst_verb(r)->is_restore_done = flags & 1;
        dst_verb(r)->is_handover = flags & 2;
        dst_verb(r)->is_restore_failed = flags & 4;
        dst_verb(r)->has_run = flags & 8;
        rig_look(r);
        assert_false(makes_runnable(r));
        if (domain == HV_RUNNING && !(flags & 4))
            assert_int_equal(r->duties.list[0].type, HA_DUTY_DESTROY);
        rig_free(r);
    }
}

static void switch_needs_the_copy_itself(void **state)
{
    (void)state;
    for (size_t s = 0; s <= sizeof(all_states); s++) {
        struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);
        dst_verb(r)->is_restore_done = true;
        dst_verb(r)->is_handover = true;
        uint8_t domain = s < sizeof(all_states) ? all_states[s] : 0;
        if (domain != 0)
            dst_domain(r, domain);
        if (domain == HV_PAUSED)
            assert_int_equal(rig_proposal(r), HA_CMD_SWITCH);
        else if (domain == HV_RUNNING)
            assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        else
            assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
        rig_free(r);
    }
}

/* The log refuses SWITCH to a node whose keeper is not in it; it is proposed when that changes. */
static void switch_waits_for_armed(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);

    (void)state;
    build_node_cmd(r->b, HA_CMD_UNARMED, DST);
    dst_domain(r, HV_PAUSED);
    dst_verb(r)->is_restore_done = true;
    dst_verb(r)->is_handover = true;
    assert_int_equal(rig_type(r), 0);
    build_armed(r->b, DST);
    assert_int_equal(rig_proposal(r), HA_CMD_SWITCH);
    rig_free(r);
}

/* SWITCH was of a disarmed cluster, and ARM came before the guest ran (I6). */
static void an_arrived_copy_waits_for_armed(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    build_node_cmd(r->b, HA_CMD_UNARMED, DST);
    dst_domain(r, HV_PAUSED);
    assert_int_equal(rig_type(r), 0);
    build_armed(r->b, DST);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

static void failed_restore_leads_to_abort_then_destroy(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);
    uint64_t epoch = ticket_of(r)->dst_epoch;
    struct ha_local_verb *verb = dst_verb(r);

    (void)state;
    dst_domain(r, HV_BUILDING);
    verb->verb = HA_VERB_RESTORE;
    verb->is_restore_failed = true;
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    rig_apply(r);
    assert_int_equal(rig_type(r), HA_DUTY_MOVE_CANCEL); /* the worker first, then its domain */
    assert_int_equal(r->duties.list[0].epoch, epoch);
    verb->verb = HA_VERB_NONE;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    assert_int_equal(r->duties.list[0].epoch, epoch);
    r->domain_count = 0;
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

/* "hamgrd was restarted" was told of migrations whose worker had died a moment ago. */
static void a_restore_that_ended_is_not_blamed_on_a_restart(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);
    struct ha_local_verb *verb = dst_verb(r);

    (void)state;
    dst_domain(r, HV_BUILDING);
    verb->verb = HA_VERB_NONE;
    verb->retry_ms = r->rt.now_ms + 800;
    assert_int_equal(rig_proposal(r), 0);
    assert_true(r->duties.next_ms <= verb->retry_ms);
    verb->is_restore_failed = true; /* the reason is known */
    snprintf(verb->text, sizeof(verb->text), "the worker died");
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    assert_string_equal(r->duties.list[0].cmd.u.text.detail, "the worker died");
    verb->is_restore_failed = false;
    r->rt.now_ms = verb->retry_ms; /* nobody knows it */
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    rig_free(r);
}

static void destination_without_memory_aborts(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);

    (void)state;
    dst_domain(r, HV_PAUSED);
    assert_int_equal(rig_proposal(r), HA_CMD_ABORT);
    rig_free(r);
}

/* Its own old SWITCH was committed before the restart: then the copy is the guest. */
static void destination_without_memory_runs_after_switch(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    dst_domain(r, HV_PAUSED);
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

static void a_stray_of_the_guest_goes_before_it_moves_in(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);

    (void)state;
    rig_domain(r, 1, ticket_of(r)->src_epoch, HV_PAUSED);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

/* --- SWITCHED, destination --- */

static void arrived_is_proposed_when_it_runs(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    dst_domain(r, HV_PAUSED);
    dst_verb(r)->is_restore_done = true;
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    dst_verb(r)->verb = HA_VERB_RUN;
    dst_verb(r)->has_run = true;
    assert_int_equal(rig_type(r), 0);
    dst_verb(r)->verb = HA_VERB_NONE;
    r->domains[0].state = HV_RUNNING;
    assert_int_equal(rig_proposal(r), HA_CMD_ARRIVED);
    rig_apply(r);
    assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_RUNNING);
    assert_int_equal(build_guest_of(r->b, 1)->node, DST);
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

static void switched_copy_needs_lease_and_gate(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    dst_domain(r, HV_PAUSED);
    r->rt.is_gate_open = false;
    assert_int_equal(rig_type(r), 0);
    r->rt.is_gate_open = true;
    r->rt.lease_end_ms = r->rt.now_ms;
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

/* REVERT gives the guest back to the source: only if this copy never ran, and that is known. */
static void revert_needs_proof(void **state)
{
    (void)state;
    for (unsigned flags = 0; flags < 16; flags++) {
        struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);
        bool is_present = flags & 1, is_done = flags & 2, has_run = flags & 4,
             is_failed = flags & 8;
        if (is_present)
            dst_domain(r, HV_PAUSED);
        dst_verb(r)->is_restore_done = is_done;
        dst_verb(r)->has_run = has_run;
        dst_verb(r)->is_run_failed = is_failed;
        bool is_proven = is_done && !has_run;
        int expected;
        if (is_present && !is_failed)
            expected = -HA_DUTY_RUN;
        else if (is_proven)
            expected = HA_CMD_REVERT;
        else
            expected = is_present ? HA_CMD_ARRIVED : HA_CMD_NOT_RUNNING;
        assert_int_equal(rig_proposal(r), expected);
        rig_free(r);
    }
}

static void revert_of_a_missing_copy_needs_a_fresh_listing(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    dst_verb(r)->is_restore_done = true;
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    dst_verb(r)->verb = HA_VERB_RUN;
    assert_int_equal(rig_type(r), 0);
    dst_verb(r)->verb = HA_VERB_NONE;
    r->is_old_list = true;
    assert_int_equal(rig_type(r), 0);
    rig_free(r);
}

/* Between the proposal and its fate the copy must not run: the source may be about to. */
static void a_copy_whose_revert_is_proposed_is_never_run(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    dst_domain(r, HV_PAUSED);
    dst_verb(r)->is_restore_done = true;
    dst_verb(r)->is_run_failed = true;
    assert_int_equal(rig_proposal(r), HA_CMD_REVERT);
    dst_verb(r)->is_proposed = true;
    assert_int_equal(rig_type(r), 0);
    dst_verb(r)->is_proposed = false; /* it was lost: proposed again, not run */
    assert_int_equal(rig_proposal(r), HA_CMD_REVERT);
    rig_apply(r);
    assert_int_equal(build_guest_of(r->b, 1)->node, SRC);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

/* The source was fenced: there is nothing to revert to. */
static void without_a_source_the_copy_is_given_up_with_proof(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    dst_domain(r, HV_PAUSED);
    dst_verb(r)->is_restore_done = true;
    dst_verb(r)->is_run_failed = true;
    BUILD_OPEN(r->b, true, 2, 3);
    build_fenced(r->b, SRC, HA_EVIDENCE_AGENT);
    assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_SWITCHED);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    dst_verb(r)->end_cause = r->duties.list[0].end_cause;
    r->domain_count = 0;
    assert_int_equal(rig_proposal(r), HA_CMD_NOT_RUNNING);
    rig_apply(r);
    assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_FREE);
    rig_free(r);
}

static void a_copy_that_ended_after_switch_has_arrived(void **state)
{
    static const uint8_t ended[] = {HV_POWEROFF, HV_REBOOT, HV_CRASHED, HV_SUSPENDED};

    (void)state;
    for (size_t i = 0; i < sizeof(ended); i++) {
        struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);
        dst_domain(r, ended[i]);
        dst_verb(r)->is_restore_done = true;
        assert_int_equal(rig_proposal(r), HA_CMD_ARRIVED);
        rig_free(r);
    }
}

static void a_half_built_arrived_copy_is_cleared_away(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, DST);

    (void)state;
    dst_domain(r, HV_BUILDING);
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

/* --- SWITCHED, source --- */

static void source_copy_is_kept_until_arrived_then_destroyed(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, SRC);
    uint64_t epoch = ticket_of(r)->src_epoch;

    (void)state;
    src_domain(r, HV_SUSPENDED);
    assert_int_equal(rig_type(r), 0);
    src_verb(r)->is_save_done = true;
    assert_int_equal(rig_type(r), 0);
    build_move(r->b, HA_CMD_ARRIVED, 1);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    assert_int_equal(r->duties.list[0].epoch, epoch);
    rig_free(r);
}

static void source_copy_resumes_after_revert(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, SRC);

    (void)state;
    struct hv_domain *domain = src_domain(r, HV_SUSPENDED);
    src_verb(r)->is_save_done = true;
    build_move(r->b, HA_CMD_REVERT, 1);
    assert_int_equal(rig_type(r), HA_DUTY_RESUME_PREPARE);
    domain->state = HV_PAUSED;
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
    rig_free(r);
}

static void source_copy_made_runnable_by_hand_is_destroyed(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, SRC);

    (void)state;
    src_domain(r, HV_RUNNING);
    r->is_fresh = false;
    assert_int_equal(rig_type(r), 0);
    r->is_fresh = true;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

/* Fenced while its copy was suspended: back with the same boot, the copy is nobody's (REVERT is
 * refused from then on). */
static void source_copy_of_a_fenced_incarnation_is_destroyed(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_SWITCHED, SRC);
    uint64_t epoch = ticket_of(r)->src_epoch;

    (void)state;
    BUILD_OPEN(r->b, true, 2, 3);
    assert_int_equal(build_fenced(r->b, SRC, HA_EVIDENCE_LEASE), HA_REASON_NONE);
    BUILD_OPEN(r->b, true, 1, 2, 3);
    assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_SWITCHED);
    rig_domain(r, 1, epoch, HV_SUSPENDED);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

/* H24: the source died before SWITCH; the destination's complete copy must go. */
static void destination_destroys_when_the_source_is_fenced(void **state)
{
    struct rig *r = rig_moving(HA_PHASE_MIGRATING, DST);

    (void)state;
    dst_domain(r, HV_PAUSED);
    dst_verb(r)->is_restore_done = true;
    dst_verb(r)->is_handover = true;
    BUILD_OPEN(r->b, true, 2, 3);
    build_fenced(r->b, SRC, HA_EVIDENCE_AGENT);
    assert_int_equal(build_guest_of(r->b, 1)->phase, HA_PHASE_FREE);
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
    rig_free(r);
}

static void third_nodes_have_no_part_in_it(void **state)
{
    static const uint8_t phases[] = {HA_PHASE_MIGRATING, HA_PHASE_SWITCHED};

    (void)state;
    for (size_t i = 0; i < sizeof(phases); i++) {
        struct rig *r = rig_moving(phases[i], 3);
        assert_int_equal(rig_type(r), 0);
        src_domain(r, HV_SUSPENDED);
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        r->domain_count = 0;
        dst_domain(r, HV_PAUSED);
        assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
        rig_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(source_begins_once),
        cmocka_unit_test(source_is_never_resumed_while_the_ticket_is_open),
        cmocka_unit_test(failed_save_leads_to_abort_then_resume),
        cmocka_unit_test(after_abort_a_save_in_flight_ends_first),
        cmocka_unit_test(failure_is_proposed_while_the_save_winds_down),
        cmocka_unit_test(source_without_memory_asks_the_log),
        cmocka_unit_test(source_that_lost_its_guest_aborts),
        cmocka_unit_test(source_resumed_by_hand_aborts),
        cmocka_unit_test(quarantined_source_gives_up_its_save),
        cmocka_unit_test(destination_begins_once_and_switches),
        cmocka_unit_test(arriving_copy_is_never_run_before_switch),
        cmocka_unit_test(switch_needs_the_copy_itself),
        cmocka_unit_test(switch_waits_for_armed),
        cmocka_unit_test(an_arrived_copy_waits_for_armed),
        cmocka_unit_test(failed_restore_leads_to_abort_then_destroy),
        cmocka_unit_test(a_restore_that_ended_is_not_blamed_on_a_restart),
        cmocka_unit_test(destination_without_memory_aborts),
        cmocka_unit_test(destination_without_memory_runs_after_switch),
        cmocka_unit_test(a_stray_of_the_guest_goes_before_it_moves_in),
        cmocka_unit_test(arrived_is_proposed_when_it_runs),
        cmocka_unit_test(switched_copy_needs_lease_and_gate),
        cmocka_unit_test(revert_needs_proof),
        cmocka_unit_test(revert_of_a_missing_copy_needs_a_fresh_listing),
        cmocka_unit_test(a_copy_whose_revert_is_proposed_is_never_run),
        cmocka_unit_test(without_a_source_the_copy_is_given_up_with_proof),
        cmocka_unit_test(a_copy_that_ended_after_switch_has_arrived),
        cmocka_unit_test(a_half_built_arrived_copy_is_cleared_away),
        cmocka_unit_test(source_copy_is_kept_until_arrived_then_destroyed),
        cmocka_unit_test(source_copy_resumes_after_revert),
        cmocka_unit_test(source_copy_made_runnable_by_hand_is_destroyed),
        cmocka_unit_test(source_copy_of_a_fenced_incarnation_is_destroyed),
        cmocka_unit_test(destination_destroys_when_the_source_is_fenced),
        cmocka_unit_test(third_nodes_have_no_part_in_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
