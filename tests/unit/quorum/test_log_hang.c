/* SPDX-License-Identifier: Apache-2.0
 *
 * A process that stood still: what it knows of that, before it reads what waited for it meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster.h"

#define UNUSED  __attribute__((unused))
#define H_MS    100u
#define MOST_MS (LOG_HUNG_HEARTBEATS * (uint64_t)H_MS)

static struct world *whole_world(void)
{
    struct world *w = world_new(3, 3, 3);

    w->has_no_shell = true;
    world_start_all(w);
    assert_true(world_run_until(w, 5000, world_is_whole, NULL));
    world_run_ms(w, 3 * H_MS);
    return w;
}

static uint64_t local_ms(struct world *w)
{
    return world_local_ms(&w->nodes[2], w->now_us);
}

/* Each event tells it the time: it is known before the first one behind the hang, and from then on.
 */
static void who_stood_still_knows_since_when(void **state UNUSED)
{
    struct world *w = whole_world();
    struct log *log = w->nodes[2].log;
    static struct log_actions actions;
    uint64_t late_ms = local_ms(w) + MOST_MS + H_MS;

    assert_int_equal(log_went_on_ms(log, local_ms(w)), 0);
    assert_int_equal(log_went_on_ms(log, late_ms), late_ms);
    assert_int_equal(log_went_on_ms(log, local_ms(w)), 0); /* asking changes nothing */
    struct log_event event = {.type = LOG_EV_TIMER, .now_ms = late_ms};
    log_step(log, &event, &actions);
    assert_int_equal(log_went_on_ms(log, late_ms + 1), late_ms);
    event.now_ms += MOST_MS; /* late, but not so late */
    log_step(log, &event, &actions);
    assert_int_equal(log_went_on_ms(log, event.now_ms), late_ms);
    world_free(w);
}

/* Whoever runs, idle or not, with or without a quorum, has an event often enough. */
static void who_runs_never_stood_still(void **state UNUSED)
{
    struct world *w = whole_world();

    world_run_ms(w, 20 * H_MS);
    world_split(w, (const uint32_t[]){0, 1, 0});
    world_tell_members(w);
    world_run_ms(w, w->timing.lease_ms * 2);
    assert_int_equal(log_went_on_ms(w->nodes[2].log, local_ms(w)), 0);
    world_heal(w);
    assert_true(world_run_until(w, 5000, world_is_whole, NULL));
    for (uint32_t id = 1; id <= 3; id++)
        assert_int_equal(log_went_on_ms(w->nodes[id].log, world_local_ms(&w->nodes[id], w->now_us)),
                         0);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_stood_still_knows_since_when),
        cmocka_unit_test(who_runs_never_stood_still),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
