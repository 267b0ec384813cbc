/* SPDX-License-Identifier: Apache-2.0
 *
 * Fence devices run for a leader: only for that of the view promised last, and an order that has
 * not begun ends with its view.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"

#define SELF   1u
#define LEADER 2u

struct rig {
    struct hamgrd d;
    int peer; /* hamgr-fence's end */
    uint8_t buffer[HA_IPC_MAX];
};

static time_t slept_s; /* so long was the host suspended, beside what it really was */

int __real_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret);

int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
    int rc = __real_clock_gettime(id, ret);

    if (id == CLOCK_BOOTTIME)
        ret->tv_sec += slept_s;
    return rc;
}

/* A log of `node` with what was promised last. The other voter is n3; 1 voter: n1 alone. */
static struct log *make_log(uint32_t node, struct log_view promised, uint32_t voter_count,
                            void **ret_memory)
{
    struct log_config config = {.self = {.node = node, .nonce = node},
                                .timing = {.heartbeat_ms = 500, .lease_ms = 6900}};
    struct log_loaded loaded = {
        .promised = promised, .voter_count = voter_count, .voters = {{.node = SELF}, {.node = 3}}};
    size_t size = (log_memory_size(&config) + 63) / 64 * 64;

    *ret_memory = aligned_alloc(64, size);
    ha_assert(*ret_memory);
    return log_init(*ret_memory, &config, &loaded);
}

static void promise(struct hamgrd *d, uint64_t counter, uint32_t leader)
{
    free(d->log_memory);
    d->log = make_log(SELF, (struct log_view){counter, leader}, 1, &d->log_memory);
}

static int setup(void **state)
{
    static const struct link_callbacks callbacks = {0};
    struct rig *r = calloc(1, sizeof(*r));
    int fds[2];

    slept_s = 0;
    ha_assert(r && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds) == 0);
    r->d.loop = qb_loop_create();
    r->d.identity.node = SELF;
    leader_open(&r->d);
    link_close(r->d.fence_link);
    r->d.fence_link = link_adopt(r->d.loop, fds[0], &callbacks, NULL);
    r->peer = fds[1];
    promise(&r->d, 5, LEADER);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    link_close(r->d.fence_link);
    qb_loop_destroy(r->d.loop);
    close(r->peer);
    free(r->d.leader);
    free(r->d.fence);
    free(r->d.plan);
    free(r->d.plan_scratch);
    free(r->d.log_memory);
    free(r);
    return 0;
}

/* The type of the next packet at hamgr-fence, 0 for none; its id, or the one it cancels. */
static uint16_t heard(struct rig *r, uint64_t *ret_id)
{
    struct ha_packet packet;
    struct fencep_cancel cancel;

    *ret_id = 0;
    if (ha_sock_receive(r->peer, r->buffer, &packet) != 1)
        return 0;
    *ret_id = packet.id;
    if (packet.type == FENCEP_CANCEL) {
        assert_int_equal(fencep_cancel_decode(packet.body, packet.body_size, &cancel), 0);
        *ret_id = cancel.id;
    }
    return packet.type;
}

static void order(struct rig *r, uint32_t from, uint64_t id, const char *device)
{
    struct peer_fence request = {.id = id, .run = {.node = "n3", .action = FENCEP_OFF}};

    snprintf(request.run.device, sizeof(request.run.device), "%s", device);
    leader_fence_run(&r->d, from, &request);
}

static void only_the_leader_orders(void **state)
{
    struct rig *r = *state;
    uint64_t id;

    order(r, 3, 70, "bmc");
    assert_int_equal(heard(r, &id), 0);
    order(r, LEADER, 71, "bmc");
    assert_int_equal(heard(r, &id), FENCEP_RUN);
}

static void an_order_ends_with_its_view(void **state)
{
    struct rig *r = *state;
    uint64_t run_id, id;

    order(r, LEADER, 71, "bmc");
    assert_int_equal(heard(r, &run_id), FENCEP_RUN);
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), 0);
    promise(&r->d, 6, 3);
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), FENCEP_CANCEL);
    assert_int_equal(id, run_id);
    leader_run(&r->d); /* once: the answer is on its way */
    assert_int_equal(heard(r, &id), 0);
}

/* Cut off until its lease ended: no other view is promised here. One that opens only now is none.
 */
static void an_order_ends_when_its_view_closes(void **state)
{
    struct rig *r = *state;
    uint64_t run_id, id;

    order(r, LEADER, 71, "bmc");
    assert_int_equal(heard(r, &run_id), FENCEP_RUN);
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), 0);
    r->d.rt.is_open = true;
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), 0);
    r->d.rt.is_open = false;
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), FENCEP_CANCEL);
    assert_int_equal(id, run_id);
}

/* Its leader gave the order while this process stood still, and was left behind meanwhile: what
 * tells of that is in the same queue, behind the order. */
static void who_stood_still_takes_no_order(void **state)
{
    struct rig *r = *state;
    struct log_event event = {.type = LOG_EV_MEMBERS, .u.members = {.count = 1, .nodes = {SELF}}};
    static struct log_actions actions;
    uint64_t id;

    r->d.rt.timing = (struct log_timing){.heartbeat_ms = 500, .lease_ms = 6900};
    event.now_ms = shell_now_ms() - LOG_HUNG_HEARTBEATS * 500 - 1;
    log_step(r->d.log, &event, &actions);
    order(r, log_view_now(r->d.log).leader, 71, "bmc");
    assert_int_equal(heard(r, &id), 0);
    event = (struct log_event){.type = LOG_EV_TIMER, .now_ms = shell_now_ms()};
    log_step(r->d.log, &event, &actions); /* it goes on; nobody answered yet */
    order(r, log_view_now(r->d.log).leader, 72, "bmc");
    assert_int_equal(heard(r, &id), 0);
}

static void a_leader_takes_its_order_back(void **state)
{
    struct rig *r = *state;
    uint64_t run_id, id;

    order(r, LEADER, 71, "bmc");
    assert_int_equal(heard(r, &run_id), FENCEP_RUN);
    order(r, LEADER, 72, "");
    assert_int_equal(heard(r, &id), 0);
    order(r, LEADER, 71, "");
    assert_int_equal(heard(r, &id), FENCEP_CANCEL);
    assert_int_equal(id, run_id);
}

/* The only voter hears itself: a quorum. */
static void hear_quorum(struct hamgrd *d)
{
    struct log_event event = {.type = LOG_EV_MEMBERS,
                              .now_ms = shell_now_ms(),
                              .u.members = {.count = 1, .nodes = {SELF}}};
    static struct log_actions actions;

    log_step(d->log, &event, &actions);
    assert_true(log_hears_quorum(d->log));
}

/* The end that the next packet at hamgr-fence gives to order `id`; 0: none came. */
static uint64_t vouched(struct rig *r, uint64_t id)
{
    struct ha_packet packet;
    struct fencep_run run;
    struct fencep_vouch word;

    if (ha_sock_receive(r->peer, r->buffer, &packet) != 1)
        return 0;
    if (packet.type == FENCEP_RUN) {
        assert_int_equal(packet.id, id);
        assert_int_equal(fencep_run_decode(packet.body, packet.body_size, &run), 0);
        return run.end_ms;
    }
    assert_int_equal(packet.type, FENCEP_VOUCH);
    assert_int_equal(fencep_vouch_decode(packet.body, packet.body_size, &word), 0);
    assert_int_equal(word.id, id);
    return word.end_ms;
}

/* With each heartbeat, while its view is open here, a quorum is heard and nobody has taken it back.
 */
static void an_order_is_vouched_for_while_it_stands(void **state)
{
    struct rig *r = *state;
    uint64_t id;

    r->d.rt.timing.heartbeat_ms = 500;
    hear_quorum(&r->d); /* which prepares a view of its own */
    struct log_view view = log_view_now(r->d.log);
    order(r, view.leader, 71, "bmc");
    uint64_t first_ms = vouched(r, 1);
    assert_true(first_ms > 0);
    r->d.rt.now_ms = 0; /* the next word is not due */
    leader_run(&r->d);
    assert_int_equal(vouched(r, 1), 0);
    assert_true(leader_next_ms(&r->d) <= shell_now_ms() + 500);
    r->d.rt.now_ms = shell_now_ms() + 1000; /* due, but no view is open here: who would tell us? */
    leader_run(&r->d);
    assert_int_equal(vouched(r, 1), 0);
    r->d.rt.is_open = true;
    leader_run(&r->d);
    assert_true(vouched(r, 1) >= first_ms);
    promise(&r->d, view.counter, view.leader); /* the same view, but nobody is heard */
    leader_run(&r->d);
    assert_int_equal(vouched(r, 1), 0);
    order(r, view.leader, 71, "");
    assert_int_equal(heard(r, &id), FENCEP_CANCEL);
    leader_run(&r->d);
    assert_int_equal(vouched(r, 1), 0);
}

/* This node leads; n3 is in the log, gone, and an operator wants it off. */
static void lead(struct rig *r)
{
    static struct ha_guest guests[1];
    struct ha_state *s = &r->d.state;

    promise(&r->d, 6, SELF);
    hear_quorum(&r->d);
    ha_state_init(s, guests, 1);
    s->node_count = 1;
    s->nodes[0] = (struct ha_node){
        .id = SELF, .name = "n1", .status = HA_NODE_MEMBER, .incarnation = 1, .is_voter = true};
    s->view = log_view_now(r->d.log);
    r->d.rt.is_open = r->d.rt.is_leader = true;
    r->d.rt.self = SELF;
    r->d.rt.view = s->view;
    r->d.limits.proposals_max = HA_PROPOSALS_MAX;
    r->d.plan = calloc(1, sizeof(*r->d.plan));
    r->d.plan_scratch = calloc(1, sizeof(*r->d.plan_scratch));
    assert_true(r->d.plan && r->d.plan_scratch);
}

static void add_victim(struct rig *r)
{
    struct ha_state *s = &r->d.state;

    s->nodes[s->node_count++] = (struct ha_node){.id = 3,
                                                 .name = "n3",
                                                 .status = HA_NODE_UNCLEAN,
                                                 .incarnation = 1,
                                                 .is_fence_wanted = true};
    s->applied++;
}

/* A list is told once, maybe before the log has come to who n3 is. */
static void a_device_may_name_a_node_not_known_yet(void **state)
{
    struct rig *r = *state;
    static struct peer_devices devices = {
        .count = 1,
        .list = {
            {.name = "bmc", .level = 1, .timeout_ms = 1000, .node_count = 1, .nodes = {"n3"}}}};
    struct ha_digest digest = {1, 2};
    uint64_t id;

    lead(r);
    assert_false(leader_knows_devices(&r->d, SELF, digest));
    leader_devices(&r->d, SELF, digest, &devices);
    assert_true(leader_knows_devices(&r->d, SELF, digest));
    assert_false(leader_knows_devices(&r->d, 3, digest));
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), 0);
    add_victim(r);
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), FENCEP_RUN);
    leader_devices(&r->d, SELF, (struct ha_digest){0}, &(struct peer_devices){0});
    assert_false(leader_knows_devices(&r->d, SELF, digest));
}

/* One device for n3, which somebody wants off; no order was given yet. */
static void lead_against_n3(struct rig *r)
{
    static struct peer_devices devices = {
        .count = 1,
        .list = {
            {.name = "bmc", .level = 1, .timeout_ms = 1000, .node_count = 1, .nodes = {"n3"}}}};

    lead(r);
    leader_devices(&r->d, SELF, (struct ha_digest){1, 2}, &devices);
    add_victim(r);
}

/* While the host slept the others may have taken n3 back, and nothing that came since says so. */
static void who_woke_orders_nothing_unheard(void **state)
{
    struct rig *r = *state;
    uint64_t id;

    lead_against_n3(r);
    r->d.state.nodes[1].is_fence_wanted = false;
    leader_run(&r->d); /* awake, with nothing to do */
    r->d.state.nodes[1].is_fence_wanted = true;
    slept_s = 10;
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), 0);
    assert_non_null(strstr(r->d.rt.fences[1].text, "no quorum is heard"));
    leader_devices(&r->d, SELF, (struct ha_digest){0}, &(struct peer_devices){0});
}

/* n1 has heard n3's first heartbeat; both are voters. */
static void hear_n3(struct hamgrd *d)
{
    struct log_event members = {.type = LOG_EV_MEMBERS,
                                .now_ms = shell_now_ms(),
                                .u.members = {.count = 2, .nodes = {SELF, 3}}};
    static struct log_actions said, actions;
    void *memory;
    struct log *other = make_log(3, (struct log_view){6, SELF}, 2, &memory);

    free(d->log_memory);
    d->log = make_log(SELF, (struct log_view){6, SELF}, 2, &d->log_memory);
    log_step(d->log, &members, &actions);
    assert_false(log_hears_quorum(d->log));
    log_step(other, &members, &said);
    for (uint32_t i = 0; i < said.count; i++) {
        struct log_event message = {.type = LOG_EV_MESSAGE,
                                    .now_ms = shell_now_ms(),
                                    .u.message = {.from = 3,
                                                  .data = said.list[i].u.send.data,
                                                  .size = said.list[i].u.send.size}};
        if (said.list[i].type == LOG_ACT_SEND)
            log_step(d->log, &message, &actions);
    }
    assert_true(log_hears_quorum(d->log));
    free(memory);
}

/* Under a new incarnation it is the second of two voters: off, nobody could write down that it is.
 */
static void who_makes_the_quorum_is_not_switched_off(void **state)
{
    struct rig *r = *state;
    uint64_t id;

    lead_against_n3(r);
    hear_n3(&r->d);
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), 0);
    assert_non_null(strstr(r->d.rt.fences[1].text, "no quorum without"));
    promise(&r->d, 6, SELF); /* it votes no more */
    hear_quorum(&r->d);
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), FENCEP_RUN);
    leader_devices(&r->d, SELF, (struct ha_digest){0}, &(struct peer_devices){0});
}

/* What a node that is gone said of a level is known on: without its device the rest is left alone.
 */
static void a_lost_node_s_devices_are_not_forgotten(void **state)
{
    struct rig *r = *state;
    static struct peer_devices devices = {
        .count = 1, .list = {{.name = "feed-a", .level = 1, .node_count = 1, .nodes = {"n3"}}}};
    struct ha_state *s = &r->d.state;
    uint64_t id;

    lead(r);
    s->nodes[s->node_count++] =
        (struct ha_node){.id = 2, .name = "n2", .status = HA_NODE_LEFT, .incarnation = 1};
    leader_devices(&r->d, SELF, (struct ha_digest){1, 2}, &devices);
    snprintf(devices.list[0].name, sizeof(devices.list[0].name), "feed-b");
    leader_devices(&r->d, 2, (struct ha_digest){3, 4}, &devices);
    add_victim(r);
    leader_run(&r->d);
    assert_int_equal(heard(r, &id), 0);
    assert_non_null(strstr(r->d.rt.fences[2].text, "feed-b"));
    for (uint32_t node = SELF; node <= 2; node++) /* gives back what the list took */
        leader_devices(&r->d, node, (struct ha_digest){0}, &(struct peer_devices){0});
}

static bool tells_devices(struct rig *r, uint32_t count, bool is_listed)
{
    r->d.own_devices.count = count;
    r->d.is_fence_listed = is_listed;
    r->d.devices_sent_ms = 0;
    peers_report(&r->d);
    return r->d.devices_sent_ms != 0;
}

/* fence.conf was emptied: the others hear of it. But hamgr-fence that is gone says nothing. */
static void an_emptied_list_is_told(void **state)
{
    struct rig *r = *state;

    lead(r);
    snprintf(r->d.own_devices.list[0].name, HA_NAME_MAX, "feed-a");
    r->d.own_devices.list[0].level = 1;
    assert_false(tells_devices(r, 0, false));
    assert_false(tells_devices(r, 0, true)); /* who never named one */
    assert_true(tells_devices(r, 1, true));
    assert_false(tells_devices(r, 0, false));
    assert_true(tells_devices(r, 0, true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_the_leader_orders, setup, teardown),
        cmocka_unit_test_setup_teardown(an_order_ends_with_its_view, setup, teardown),
        cmocka_unit_test_setup_teardown(an_order_ends_when_its_view_closes, setup, teardown),
        cmocka_unit_test_setup_teardown(who_stood_still_takes_no_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_leader_takes_its_order_back, setup, teardown),
        cmocka_unit_test_setup_teardown(an_order_is_vouched_for_while_it_stands, setup, teardown),
        cmocka_unit_test_setup_teardown(a_device_may_name_a_node_not_known_yet, setup, teardown),
        cmocka_unit_test_setup_teardown(who_woke_orders_nothing_unheard, setup, teardown),
        cmocka_unit_test_setup_teardown(who_makes_the_quorum_is_not_switched_off, setup, teardown),
        cmocka_unit_test_setup_teardown(a_lost_node_s_devices_are_not_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(an_emptied_list_is_told, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
