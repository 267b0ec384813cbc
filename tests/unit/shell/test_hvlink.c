/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd's listings: what is not in one is proof of absence, so one that failed, was cut or belongs
 * to an earlier question is none; and one that failed is asked for again. What is remembered of
 * verbs that failed, or whose end nobody told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"

struct rig {
    struct hamgrd d;
    int peer; /* hamgr-hv's end */
    uint8_t buffer[HA_IPC_MAX];
    uint8_t body[HA_IPC_MAX];
    struct hvp_domains domains;
};

static int setup(void **state)
{
    struct log_config config = {.self = {.node = 1, .nonce = 1}};
    struct log_loaded loaded = {.base_index = 10};
    struct rig *r = calloc(1, sizeof(*r));
    int fds[2];

    ha_assert(r && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds) == 0);
    size_t size = (log_memory_size(&config) + 63) / 64 * 64;
    r->d.log_memory = aligned_alloc(64, size);
    r->d.domains = calloc(HA_GUESTS_MAX, sizeof(*r->d.domains));
    r->d.listing = calloc(HA_GUESTS_MAX, sizeof(*r->d.listing));
    r->d.duties = calloc(1, sizeof(*r->d.duties));
    ha_assert(r->d.log_memory && r->d.domains && r->d.listing && r->d.duties);
    r->d.log = log_init(r->d.log_memory, &config, &loaded);
    r->d.loop = qb_loop_create();
    r->d.identity.node = 1;
    r->d.live_from = UINT64_MAX;
    r->d.hello_stale = true;
    r->d.hv = link_adopt(r->d.loop, fds[0], &hvlink_callbacks, &r->d);
    r->d.is_hv_welcomed = true;
    r->d.hv_request_high = 5;
    r->peer = fds[1];
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    free(r->d.verbs);
    free(r->d.verb_view);
    link_close(r->d.hv);
    qb_loop_destroy(r->d.loop);
    close(r->peer);
    free(r->d.log_memory);
    free(r->d.domains);
    free(r->d.listing);
    free(r->d.duties);
    free(r);
    return 0;
}

/* The id of the listing that is asked for, 0 if none is. */
static uint64_t asked(struct rig *r)
{
    struct ha_packet packet;
    uint64_t id = 0;

    while (ha_sock_receive(r->peer, r->buffer, &packet) == 1) {
        if (packet.type == HVP_LIST)
            id = packet.id;
    }
    return id;
}

static void give(struct rig *r, uint16_t type, uint64_t id, const struct ha_writer *w)
{
    struct ha_packet packet = {
        .type = type, .id = id, .body = w->data, .body_size = w->position, .fds = {-1, -1}};

    ha_assert(!w->failed);
    hvlink_callbacks.packet(&r->d, &packet);
}

static void give_part(struct rig *r, uint64_t id, uint32_t count, bool is_last)
{
    struct ha_writer w = ha_writer_of(r->body, sizeof(r->body));

    r->domains.count = count;
    r->domains.is_last = is_last;
    for (uint32_t i = 0; i < count; i++)
        r->domains.list[i] = (struct hv_domain){.domid = i + 1, .state = HV_RUNNING};
    hvp_domains_encode(&w, &r->domains);
    give(r, HVP_DOMAINS, id, &w);
}

static void give_failure(struct rig *r, uint64_t id)
{
    struct ha_writer w = ha_writer_of(r->body, sizeof(r->body));

    hvp_done_encode(&w, &(struct hvp_done){.outcome = HV_UNKNOWN, .text = "no listing"});
    give(r, HVP_DONE, id, &w);
}

/* Listings are asked for at most each 50 ms: those pass, and what waited for them is done. */
static void time_passes(struct rig *r)
{
    r->d.listed_ms = 0;
    if (!r->d.list_timer)
        return;
    qb_loop_timer_del(r->d.loop, r->d.list_timer);
    r->d.list_timer = 0;
    hvlink_list(&r->d);
}

static void a_failed_listing_is_asked_for_again(void **state)
{
    struct rig *r = *state;

    hvlink_list(&r->d);
    uint64_t id = asked(r);
    assert_int_not_equal(id, 0);
    give_failure(r, id);
    assert_false(r->d.has_inventory);
    assert_int_equal(asked(r), 0); /* not at once, or it would never stop */
    time_passes(r);
    duties_run(&r->d);
    id = asked(r);
    assert_int_not_equal(id, 0);
    give_part(r, id, 2, true);
    assert_true(r->d.has_inventory);
    assert_int_equal(r->d.domain_count, 2);
}

static void a_cut_listing_is_none(void **state)
{
    struct rig *r = *state;
    uint32_t given = 0;

    hvlink_list(&r->d);
    uint64_t id = asked(r);
    for (; given <= HA_GUESTS_MAX; given += HVP_DOMAINS_PER_PACKET)
        give_part(r, id, HVP_DOMAINS_PER_PACKET, false);
    give_part(r, id, 1, true);
    assert_false(r->d.has_inventory);
    assert_true(r->d.is_list_stale);
}

static void an_answer_to_an_earlier_question_is_none(void **state)
{
    struct rig *r = *state;

    hvlink_list(&r->d);
    uint64_t id = asked(r);
    give_part(r, id - 1, 1, true);
    assert_false(r->d.has_inventory);
    give_failure(r, id - 1);
    give_part(r, id, 1, true);
    /* Something may have happened meanwhile: the DONE asked for another one. */
    assert_false(r->d.has_inventory);
    time_passes(r);
    id = asked(r);
    give_part(r, id, 1, true);
    assert_true(r->d.has_inventory);
}

/* One guest of this node, which is the only thing that may be wrong here. */
static struct local_verb *own_guest(struct rig *r, struct ha_guest *guest)
{
    *guest = (struct ha_guest){.id = {{1}}, .name = "db01", .phase = HA_PHASE_RUNNING, .epoch = 3};
    r->d.state.guests = guest;
    r->d.state.guest_count = r->d.state.guest_capacity = 1;
    r->d.is_keeper_known = r->d.keeper_status.is_armed = true;
    return hvlink_get(&r->d, guest->id, 3);
}

/* What this node says is wrong with it. */
static const char *alarm_of(struct rig *r)
{
    peers_report(&r->d);
    return r->d.rt.alarm;
}

static void give_run(struct rig *r, struct local_verb *verb, uint8_t outcome, const char *text)
{
    struct ha_writer w = ha_writer_of(r->body, sizeof(r->body));
    struct hvp_done done = {.outcome = outcome};

    hvlink_verb(&r->d, verb, HA_VERB_RUN, 0);
    snprintf(done.text, sizeof(done.text), "%s", text);
    hvp_done_encode(&w, &done);
    give(r, HVP_DONE, verb->request, &w);
    (void)asked(r); /* empties the socket */
}

static void a_run_that_goes_on_failing_slows_down_and_is_told(void **state)
{
    struct rig *r = *state;
    struct ha_guest guest;
    struct local_verb *verb = own_guest(r, &guest);
    uint64_t delay_ms = 0;

    for (unsigned turn = 0; turn < 12; turn++) {
        uint64_t before_ms = shell_now_ms();
        give_run(r, verb, turn % 2 ? HV_UNKNOWN : HV_FAILED, "no such CPU");
        uint64_t next_ms = verb->v.retry_ms - before_ms;
        assert_true(next_ms >= 500 && next_ms <= 30000 + 1000);
        assert_true(next_ms + 1000 >= delay_ms); /* ever longer, but for what the clock adds */
        assert_true((strstr(alarm_of(r), "db01 does not run: no such CPU") != NULL) ==
                    (turn >= SHELL_RUN_FAILURES - 1));
        delay_ms = next_ms;
    }
    assert_true(delay_ms >= 30000);
    give_run(r, verb, HV_OK, "");
    assert_string_equal(alarm_of(r), "");
    uint64_t before_ms = shell_now_ms();
    give_run(r, verb, HV_FAILED, "no such CPU");
    assert_true(verb->v.retry_ms - before_ms < 2000); /* from the beginning again */
}

/* A closed gate is no failure of the guest: it is asked again as soon as before. */
static void a_closed_gate_is_no_failure_of_a_run(void **state)
{
    struct rig *r = *state;
    struct ha_guest guest;
    struct local_verb *verb = own_guest(r, &guest);

    for (unsigned turn = 0; turn < 6; turn++) {
        uint64_t before_ms = shell_now_ms();
        give_run(r, verb, HV_FAILED, "gate closed: the lease has ended");
        assert_true(verb->v.retry_ms - before_ms < 2000);
    }
    assert_string_equal(alarm_of(r), "");
}

/* hamgr-hv dies of a guest's creation: unknown, as if it had said so itself, or the guest would be
 * created for ever without its restart limit counting. */
static void a_create_that_brings_hamgr_hv_down_counts(void **state)
{
    struct rig *r = *state;
    struct local_verb *verb = hvlink_get(&r->d, (struct ha_uuid){{1}}, 3);

    hvlink_verb(&r->d, verb, HA_VERB_CREATE, 0);
    uint64_t before_ms = shell_now_ms();
    hvlink_callbacks.down(&r->d, "end of file");
    assert_int_equal(verb->v.verb, HA_VERB_NONE);
    assert_int_equal(verb->request, 0);
    assert_true(verb->v.is_create_unknown);
    assert_false(verb->v.is_create_failed);
    assert_true(verb->v.retry_ms >= before_ms + 500);
    assert_non_null(strstr(verb->v.text, "connection to hamgr-hv was lost"));
    assert_false(r->d.has_inventory); /* what is there only a new listing says */
}

static void a_run_in_flight_when_hamgr_hv_dies_may_have_run(void **state)
{
    struct rig *r = *state;
    struct local_verb *verb = hvlink_get(&r->d, (struct ha_uuid){{1}}, 3);
    struct local_verb *idle = hvlink_get(&r->d, (struct ha_uuid){{2}}, 4);

    hvlink_verb(&r->d, verb, HA_VERB_RUN, 0);
    uint64_t before_ms = shell_now_ms();
    hvlink_callbacks.down(&r->d, "end of file");
    assert_true(verb->v.has_run);
    assert_false(verb->v.is_run_failed);
    assert_true(verb->v.retry_ms >= before_ms + 500);
    assert_int_equal(idle->v.retry_ms, 0); /* nothing of it was in flight */
    assert_string_equal(idle->v.text, "");
}

static void the_alarm_about_foreign_domains_ends_with_them(void **state)
{
    struct rig *r = *state;
    struct ha_guest guest;

    own_guest(r, &guest);
    r->d.has_inventory = true;
    r->d.domains[0] = (struct hv_domain){.domid = 7, .state = HV_RUNNING};
    r->d.domain_count = 1;
    duties_run(&r->d);
    assert_non_null(strstr(alarm_of(r), "1 domains run here that hamgr did not make"));
    r->d.domain_count = 0;
    duties_run(&r->d);
    assert_string_equal(alarm_of(r), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_failed_listing_is_asked_for_again, setup, teardown),
        cmocka_unit_test_setup_teardown(a_cut_listing_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_to_an_earlier_question_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(a_run_that_goes_on_failing_slows_down_and_is_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_closed_gate_is_no_failure_of_a_run, setup, teardown),
        cmocka_unit_test_setup_teardown(a_create_that_brings_hamgr_hv_down_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_run_in_flight_when_hamgr_hv_dies_may_have_run, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_alarm_about_foreign_domains_ends_with_them, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
