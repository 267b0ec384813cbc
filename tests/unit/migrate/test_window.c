/* SPDX-License-Identifier: Apache-2.0
 *
 * Parcels over lanes that break: whatever is cut, repeated or late, everything arrives once and in
 * order, within the window. Thousands of seeds; a failure names its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/base/rng.h"
#include "migrate/window.h"

#define SEEDS   4000u
#define STEPS   200000u
#define PARCELS 300u

/* A data connection: parcels written into it, in order, some of them arrived already. */
struct wire {
    bool is_up;
    bool is_writing; /* the sender's thread has a parcel half out */
    uint64_t current;
    uint64_t in_flight[FRAME_WINDOW_MAX];
    uint32_t count;
};

struct world {
    struct ha_rng rng;
    struct window window;
    struct reorder reorder;
    struct wire wires[FRAME_LANES_MAX];
    uint8_t lanes;
    uint64_t delivered; /* parcels the layer above has seen */
    uint64_t acks[64];  /* on their way over the control connection */
    uint32_t ack_count;
    uint32_t cuts;
};

static bool chance(struct world *x, unsigned percent)
{
    return ha_rng_below(&x->rng, 100) < percent;
}

static void write_step(struct world *x, uint8_t lane)
{
    struct wire *wire = &x->wires[lane];

    if (!wire->is_up)
        return;
    if (!wire->is_writing) {
        wire->is_writing = window_take(&x->window, lane, &wire->current);
        return;
    }
    if (wire->count == FRAME_WINDOW_MAX)
        return;
    /* The bytes are out before the sender's own thread gets to say so. */
    wire->in_flight[wire->count++] = wire->current;
    if (chance(x, 80)) {
        window_written(&x->window, wire->current);
        wire->is_writing = false;
    }
}

static void arrive_step(struct world *x, uint8_t lane)
{
    struct wire *wire = &x->wires[lane];

    if (wire->count == 0)
        return;
    enum reorder_verdict verdict = reorder_arrive(&x->reorder, wire->in_flight[0]);
    assert_true(verdict == REORDER_NEW || verdict == REORDER_REPEATED);
    memmove(wire->in_flight, wire->in_flight + 1, --wire->count * sizeof(wire->in_flight[0]));
}

/* What was on its way is lost, all or its end. The sender may learn of it before or after. */
static void cut(struct world *x, uint8_t lane)
{
    struct wire *wire = &x->wires[lane];

    wire->count = (uint32_t)ha_rng_below(&x->rng, wire->count + 1);
    while (wire->count > 0)
        arrive_step(x, lane);
    window_lost(&x->window, lane);
    wire->is_writing = false;
    wire->is_up = false;
    x->cuts++;
}

static void deliver_step(struct world *x)
{
    if (reorder_is_ready(&x->reorder)) {
        assert_int_equal(x->reorder.next, x->delivered);
        x->delivered++;
        reorder_release(&x->reorder);
    }
    if (chance(x, 40) && x->ack_count < 64)
        x->acks[x->ack_count++] = x->reorder.next;
}

static void control_step(struct world *x)
{
    struct ha_err err = {0};

    if (chance(x,
               3)) { /* control lost: what was on its way is gone, the new one starts with an ACK */
        x->ack_count = 1;
        x->acks[0] = x->reorder.next;
    }
    if (x->ack_count == 0)
        return;
    if (window_ack(&x->window, x->acks[0], &err) < 0)
        fail_msg("%s", err.text);
    memmove(x->acks, x->acks + 1, --x->ack_count * sizeof(x->acks[0]));
}

static void one_step(struct world *x, unsigned cut_percent)
{
    uint8_t lane = (uint8_t)ha_rng_below(&x->rng, x->lanes);

    switch (ha_rng_below(&x->rng, 6)) {
    case 0:
        if (x->window.next < PARCELS && window_open(&x->window))
            window_queue(&x->window);
        break;
    case 1:
        write_step(x, lane);
        break;
    case 2:
        arrive_step(x, lane);
        break;
    case 3:
        deliver_step(x);
        break;
    case 4:
        control_step(x);
        break;
    default:
        if (!x->wires[lane].is_up)
            x->wires[lane].is_up = chance(x, 30);
        else if (chance(x, cut_percent))
            cut(x, lane);
        break;
    }
    assert_true(x->window.next - x->window.acked <= x->window.size);
    assert_true(x->window.acked <= x->reorder.next);
    assert_true(x->reorder.next <= x->window.next);
}

static void everything_arrives(void **state)
{
    uint64_t cuts = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct world x = {.rng = {seed}};
        uint32_t size = 1 + (uint32_t)ha_rng_below(&x.rng, FRAME_WINDOW_MAX);
        unsigned cut_percent = (unsigned)ha_rng_below(&x.rng, 30);
        unsigned step = 0;
        x.lanes = (uint8_t)(1 + ha_rng_below(&x.rng, FRAME_LANES_MAX));
        window_init(&x.window, size);
        reorder_init(&x.reorder, size);
        while (x.window.acked < PARCELS && step++ < STEPS)
            one_step(&x, cut_percent);
        if (x.window.acked != PARCELS || x.delivered != PARCELS)
            fail_msg("seed %llu: %llu of %u delivered", (unsigned long long)seed,
                     (unsigned long long)x.delivered, PARCELS);
        cuts += x.cuts;
    }
    assert_true(cuts > 10 * SEEDS); /* the test tests something */
}

static void impossible_acks(void **state)
{
    struct window w;
    struct ha_err err = {0};
    uint64_t number;

    (void)state;
    window_init(&w, 4);
    assert_int_equal(window_ack(&w, 1, &err), -HA_E_PEER);
    for (int i = 0; i < 3; i++) {
        assert_true(window_open(&w));
        window_queue(&w);
    }
    assert_true(window_take(&w, 1, &number));
    assert_int_equal(number, 0);
    assert_int_equal(window_ack(&w, 2, &err), -HA_E_PEER); /* 1 was never sent */
    assert_int_equal(window_ack(&w, 4, &err), -HA_E_PEER);
    assert_int_equal(window_ack(&w, UINT64_MAX, &err), -HA_E_PEER);
    assert_int_equal(w.acked, 0);
    assert_int_equal(window_ack(&w, 1, &err), 0);
    assert_int_equal(window_ack(&w, 0, &err), -HA_E_PEER); /* backwards */
    assert_int_equal(window_ack(&w, 1, &err), 0);
    window_written(&w, 0);
    assert_int_equal(w.slots[0].state, WINDOW_FREE);
}

/* A slot is not filled again while a lane still writes from it. */
static void acked_while_writing(void **state)
{
    struct window w;
    uint64_t number;

    (void)state;
    for (int how = 0; how < 2; how++) {
        window_init(&w, 1);
        assert_true(window_open(&w));
        window_queue(&w);
        assert_false(window_open(&w));
        assert_true(window_take(&w, 3, &number));
        assert_int_equal(window_ack(&w, 1, NULL), 0);
        assert_false(window_has_room(&w));
        assert_false(window_open(&w));
        if (how == 0)
            window_written(&w, 0);
        else
            assert_int_equal(window_lost(&w, 3), 0);
        assert_true(window_has_room(&w));
        assert_true(window_open(&w));
        assert_int_equal(window_lost(&w, 3), 0);
        assert_int_equal(w.slots[0].state, WINDOW_OPEN);
    }
}

static void lost_goes_again(void **state)
{
    struct window w;
    uint64_t number;

    (void)state;
    window_init(&w, 8);
    for (int i = 0; i < 6; i++) {
        assert_true(window_open(&w));
        window_queue(&w);
    }
    for (uint8_t i = 0; i < 6; i++) {
        assert_true(window_take(&w, i % 2, &number));
        assert_int_equal(number, i);
        if (i < 4)
            window_written(&w, i);
    }
    assert_false(window_take(&w, 0, &number));
    assert_int_equal(window_ack(&w, 1, NULL), 0);
    assert_int_equal(window_lost(&w, 0), 2); /* 2 and the half written 4; 0 is acknowledged */
    assert_true(window_take(&w, 1, &number));
    assert_int_equal(number, 2);
    assert_true(window_take(&w, 1, &number));
    assert_int_equal(number, 4);
    assert_false(window_take(&w, 1, &number));
}

static void hostile_numbers(void **state)
{
    struct reorder r;

    (void)state;
    reorder_init(&r, 4);
    assert_int_equal(reorder_arrive(&r, 4), REORDER_BEYOND);
    assert_int_equal(reorder_arrive(&r, UINT64_MAX), REORDER_BEYOND);
    assert_int_equal(reorder_arrive(&r, 3), REORDER_NEW);
    assert_int_equal(reorder_arrive(&r, 3), REORDER_REPEATED);
    assert_false(reorder_is_ready(&r));
    assert_int_equal(reorder_arrive(&r, 0), REORDER_NEW);
    reorder_release(&r);
    assert_int_equal(reorder_arrive(&r, 0), REORDER_REPEATED);
    assert_int_equal(reorder_arrive(&r, 4), REORDER_NEW);
    assert_int_equal(reorder_arrive(&r, 5), REORDER_BEYOND);
    r.next = UINT64_MAX - 1; /* far out: nothing wraps into the window */
    assert_int_equal(reorder_arrive(&r, 1), REORDER_REPEATED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_arrives),  cmocka_unit_test(impossible_acks),
        cmocka_unit_test(acked_while_writing), cmocka_unit_test(lost_goes_again),
        cmocka_unit_test(hostile_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
