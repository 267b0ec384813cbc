/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler's rules for copies that the log does not give to this node, for labels, for order,
 * and for what a node says about itself.
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

/* hamgr-hv would answer "there is no such domain": asking it to destroy one never ends. */
static void domains_of_another_cluster_are_foreign(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_RUNNING);
    rig_domain(r, 9, 1, HV_PAUSED)->label.cluster_id.b[0] ^= 1;
    assert_int_equal(rig_type(r), HA_DUTY_REPORT_FOREIGN);
    /* One of an earlier life of this cluster is ours to remove. */
    r->domain_count = 1;
    rig_domain(r, 9, 1, HV_PAUSED)->label.generation--;
    assert_int_equal(rig_type(r), HA_DUTY_DESTROY);
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

/* What is known of another copy of the guest is not known of this one. */
static void records_of_other_epochs_do_not_count(void **state)
{
    struct rig *r = rig_in(HA_PHASE_RUNNING);

    (void)state;
    rig_domain(r, 1, epoch_of(r), HV_PAUSED);
    rig_verb(r, g1(), epoch_of(r) + 1)->is_proposed = true;
    rig_verb(r, g1(), epoch_of(r) - 1)->is_proposed = true;
    assert_int_equal(rig_type(r), HA_DUTY_RUN);
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
    assert_int_equal(rig_type(r), 0); /* seen before this incarnation began */
    r->keeper.seen_applied = r->b->state.applied;
    assert_int_equal(rig_proposal(r), HA_CMD_ARMED);
    const struct ha_cmd *cmd = &r->duties.list[0].cmd;
    assert_int_equal(cmd->incarnation, build_node_of(r->b, 1)->incarnation);
    assert_int_equal(cmd->u.armed.lease_ms, 6900);
    assert_int_equal(cmd->u.armed.watchdog_ms, 5000);
    assert_true(ha_uuid_is_zero(r->duties.list[0].guest));
    assert_int_equal(r->duties.list[0].reason, HA_REASON_OBSERVED);
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
        cmocka_unit_test(strays_are_destroyed_in_every_state),
        cmocka_unit_test(a_domain_of_another_life_of_the_cluster_never_runs),
        cmocka_unit_test(two_domains_under_one_label_never_run),
        cmocka_unit_test(foreign_domains_are_reported_never_destroyed),
        cmocka_unit_test(domains_of_another_cluster_are_foreign),
        cmocka_unit_test(strays_are_left_alone_outside_a_view),
        cmocka_unit_test(every_guest_is_found_among_many),
        cmocka_unit_test(records_of_other_epochs_do_not_count),
        cmocka_unit_test(creates_follow_the_order_of_assignment),
        cmocka_unit_test(armed_is_proposed_until_the_log_has_it),
        cmocka_unit_test(a_keeper_seen_before_disarm_does_not_count),
        cmocka_unit_test(a_frozen_node_does_not_claim_to_be_armed),
        cmocka_unit_test(a_keeper_that_stopped_is_reported),
        cmocka_unit_test(capacity_follows_the_hypervisor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
