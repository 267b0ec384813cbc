/* SPDX-License-Identifier: Apache-2.0
 *
 * When the record of a migration is proposed: with what the guest and the source have told, in
 * whatever order that comes, and without it after a second.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"

/* The world: the clock, the guest as the hypervisor lists it, what was proposed. */
static uint64_t now;
static struct hv_domain domain;
static bool is_listed;
static unsigned proposals;
static struct ha_moved proposed;

uint64_t shell_now_ms(void)
{
    return now;
}

uint64_t shell_wall_ms(void)
{
    return now;
}

void shell_tick_soon(struct hamgrd *d)
{
    (void)d;
}

const char *shell_node_name(const struct hamgrd *d, uint32_t node)
{
    (void)d;
    (void)node;
    return "n2";
}

const struct hv_domain *hvlink_domain(const struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    (void)d;
    (void)guest;
    (void)epoch;
    return is_listed ? &domain : NULL;
}

void hvlink_list(struct hamgrd *d)
{
    (void)d;
}

uint64_t propose_cmd(struct hamgrd *d, const struct ha_cmd *cmd, propose_fn done, void *user)
{
    (void)d;
    (void)done;
    (void)user;
    assert_int_equal(cmd->type, HA_CMD_MOVED);
    proposed = cmd->u.moved;
    return ++proposals;
}

#define SOURCE 1
#define TICKET 77

static struct hamgrd *begin(uint8_t outcome, uint32_t source_us)
{
    static const struct ha_uuid guest = {{9}};
    struct ha_moved moved = {.src = SOURCE, .outcome = outcome, .source_us = source_us};
    struct hamgrd *d = calloc(1, sizeof(*d));

    ha_assert(d);
    now = 5000;
    proposals = 0;
    is_listed = true;
    domain.pause_us = 0;
    moverecord_add(d, guest, TICKET, 3, &moved);
    return d;
}

static void expect(struct hamgrd *d, unsigned count)
{
    moverecord_tick(d);
    assert_int_equal(proposals, count);
}

static void both_numbers(void **state)
{
    (void)state;
    for (int order = 0; order < 2; order++) {
        struct hamgrd *d = begin(HA_MOVED_ARRIVED, 0);
        expect(d, 0);
        if (order == 0)
            domain.pause_us = 40;
        else
            moverecord_source(d, TICKET, SOURCE, 30);
        expect(d, 0);
        domain.pause_us = 40;
        moverecord_source(d, TICKET, SOURCE, 30);
        expect(d, 1);
        assert_int_equal(proposed.guest_us, 40);
        assert_int_equal(proposed.source_us, 30);
        expect(d, 1);
        free(d);
    }
}

static void told_before(void **state)
{
    struct hamgrd *d = begin(HA_MOVED_ARRIVED, 30);

    (void)state;
    domain.pause_us = 40;
    moverecord_source(d, TICKET, SOURCE, 31); /* said again: the first word counts */
    expect(d, 1);
    assert_int_equal(proposed.source_us, 30);
    free(d);
}

static void not_for_ever(void **state)
{
    struct hamgrd *d = begin(HA_MOVED_ARRIVED, 0);

    (void)state;
    domain.pause_us = 40;
    moverecord_source(d, TICKET + 1, SOURCE, 30); /* another migration's */
    moverecord_source(d, TICKET, SOURCE + 1, 30); /* not from its source */
    now += 999;
    expect(d, 0);
    now += 1;
    expect(d, 1);
    assert_int_equal(proposed.source_us, 0);
    free(d);
}

static void who_did_not_arrive_waits_for_nothing(void **state)
{
    struct hamgrd *d = begin(HA_MOVED_ABORTED, 0);

    (void)state;
    expect(d, 1);
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_numbers),
        cmocka_unit_test(told_before),
        cmocka_unit_test(not_for_ever),
        cmocka_unit_test(who_did_not_arrive_waits_for_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
