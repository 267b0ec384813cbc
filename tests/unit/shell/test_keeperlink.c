/* SPDX-License-Identifier: Apache-2.0
 *
 * When hamgrd lets the keeper stop, and when it tells it a longer L: by the present state only. A
 * hamgrd that has just started knows its last snapshot, which may say "disarmed" of a node that the
 * others count on by now.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"

#define NODE 3u

struct rig {
    struct hamgrd d;
    struct ha_node *self;
    int peer; /* the keeper's end */
    uint8_t buffer[HA_IPC_MAX];
};

/* An armed keeper; a hamgrd that has loaded its snapshot of entry 10. */
static int setup(void **state)
{
    static const struct link_callbacks callbacks = {0};
    struct rig *r = calloc(1, sizeof(*r));
    struct log_config config = {
        .self = {.node = NODE, .nonce = 1},
        .timing = {.heartbeat_ms = 500, .lease_ms = 6900, .keeper_ms = 250}};
    struct log_loaded loaded = {.base_index = 10};
    int fds[2];

    ha_assert(r && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds) == 0);
    size_t size = (log_memory_size(&config) + 63) / 64 * 64;
    r->d.log_memory = aligned_alloc(64, size);
    ha_assert(r->d.log_memory);
    r->d.log = log_init(r->d.log_memory, &config, &loaded);
    r->d.loop = qb_loop_create();
    r->d.keeper = link_adopt(r->d.loop, fds[0], &callbacks, NULL);
    r->peer = fds[1];
    r->d.rt.timing = config.timing;
    r->d.identity.node = NODE;
    r->d.live_from = UINT64_MAX;
    r->d.is_keeper_known = true;
    r->d.keeper_status.is_armed = true;
    r->d.keeper_lease_ms = config.timing.lease_ms;
    r->d.state.applied = 10;
    r->d.state.node_count = 1;
    r->self = &r->d.state.nodes[0];
    r->self->id = NODE;
    r->self->status = HA_NODE_MEMBER;
    r->self->lease_ms = config.timing.lease_ms;
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    link_close(r->d.keeper);
    qb_loop_destroy(r->d.loop);
    close(r->peer);
    free(r->d.log_memory);
    free(r);
    return 0;
}

/* The type of what the keeper is told now, 0 for nothing. L goes to ret_lease_ms. */
static uint16_t told(struct rig *r, uint32_t *ret_lease_ms)
{
    struct ha_packet packet;
    struct keeper_arm arm = {0};

    keeperlink_check(&r->d);
    if (ha_sock_receive(r->peer, r->buffer, &packet) != 1)
        return 0;
    if (packet.type == KEEPER_ARM)
        assert_int_equal(keeper_arm_decode(packet.body, packet.body_size, &arm), 0);
    *ret_lease_ms = arm.lease_ms;
    return packet.type;
}

/* The cluster was disarmed when the snapshot was taken, and has been armed since. */
static void an_old_state_never_disarms(void **state)
{
    struct rig *r = *state;
    uint32_t lease_ms;

    for (int reason = 0; reason < 3; reason++) {
        r->d.live_from = UINT64_MAX;
        r->d.state.is_disarmed = reason == 0;
        r->self->is_frozen = reason == 1;
        r->self->status = reason == 2 ? HA_NODE_LEFT : HA_NODE_MEMBER;
        assert_int_not_equal(told(r, &lease_ms), KEEPER_DISARM);
        r->d.live_from = 12; /* a view is open; what it adopted is not all applied */
        assert_int_not_equal(told(r, &lease_ms), KEEPER_DISARM);
        r->d.live_from = 10;
        assert_int_equal(told(r, &lease_ms), KEEPER_DISARM);
    }
}

/* Whose store is another one may be in the log's view, while its old incarnation is still UNCLEAN.
 */
static void a_refused_process_passes_no_lease_on(void **state)
{
    struct rig *r = *state;
    struct ha_packet packet;

    r->d.nonce = 7;
    for (int i = 0; i < 4; i++) {
        r->self->nonce = i % 2 ? 7 : 6;
        r->self->status = i < 2 ? HA_NODE_UNCLEAN : HA_NODE_MEMBER;
        keeperlink_lease(&r->d, 5000);
        assert_int_equal(ha_sock_receive(r->peer, r->buffer, &packet), i == 3 ? 1 : -EAGAIN);
    }
    assert_int_equal(packet.type, KEEPER_LEASE);
}

/* T_wait must cover a longer L before the keeper believes it. */
static void a_longer_lease_is_told_after_it_is_in_the_log(void **state)
{
    struct rig *r = *state;
    uint32_t lease_ms;

    r->d.live_from = 10;
    r->self->is_armed = true;
    assert_int_equal(told(r, &lease_ms), 0);
    r->d.rt.timing.lease_ms = 9000;
    assert_int_equal(told(r, &lease_ms), 0);
    r->self->lease_ms = 9000;
    assert_int_equal(told(r, &lease_ms), KEEPER_ARM);
    assert_int_equal(lease_ms, 9000);
    assert_int_equal(told(r, &lease_ms), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_old_state_never_disarms, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_process_passes_no_lease_on, setup, teardown),
        cmocka_unit_test_setup_teardown(a_longer_lease_is_told_after_it_is_in_the_log, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
