/* SPDX-License-Identifier: Apache-2.0
 *
 * What the sender says of the receiver: never more than is there, and all of it in the end. And
 * what a feeder believes of what it is told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/base/rng.h"
#include "hamgr/ipc/takenproto.h"
#include "migrate/trail.h"

static void test_one_by_one(void **state)
{
    struct trail t = {0};

    (void)state;
    trail_read(&t, 1, 100); /* in unit 0, which is still open */
    trail_read(&t, 1, 200);
    trail_read(&t, 2, 300);
    trail_packed(&t, 0, 1);
    assert_false(trail_acked(&t, 1));
    trail_packed(&t, 1, 1); /* unit 0 is in parcel 0 */
    assert_false(trail_acked(&t, 0));
    assert_true(trail_acked(&t, 1));
    assert_int_equal(t.taken, 200);
    assert_false(trail_acked(&t, 1));
    trail_packed(&t, 2, 1); /* unit 1 took no room: its pages were left out */
    assert_true(trail_acked(&t, 1));
    assert_int_equal(t.taken, 300);
}

/* A stream, with each unit's parcel: whatever the order of events, nothing is claimed before its
 * parcel was acknowledged, and all is once everything was. */
static void run_stream(uint64_t seed)
{
    enum { ITEMS = 400 };
    struct ha_rng rng = {seed};
    struct trail t = {0};
    uint64_t bytes_of_unit[ITEMS + 1], parcel_of_unit[ITEMS + 1];
    uint64_t bytes = 0, opened = 0, packed = 0, parcels = 0, acked = 0;

    while (acked < parcels || packed < ITEMS) {
        switch (ha_rng_next(&rng) % 3) {
        case 0: /* an item is read: into the open unit, or a few new ones */
            if (opened == ITEMS)
                break;
            opened += opened == 0 ? 1 : ha_rng_next(&rng) % 3;
            opened = opened < ITEMS ? opened : ITEMS;
            bytes += 1 + ha_rng_next(&rng) % 5000;
            bytes_of_unit[opened - 1] = bytes;
            trail_read(&t, opened, bytes);
            break;
        case 1: /* units are packed; some take no room */
            while (packed < opened && ha_rng_next(&rng) % 8 != 0 &&
                   (opened == ITEMS || packed + 1 < opened)) {
                parcels += ha_rng_next(&rng) % 3 == 0 ? 1 : 0;
                parcel_of_unit[packed++] = parcels;
                trail_packed(&t, packed, parcels);
            }
            break;
        default:
            acked += parcels > acked ? ha_rng_next(&rng) % (parcels - acked + 1) : 0;
            (void)trail_acked(&t, acked);
            uint64_t most = 0;
            for (uint64_t i = 0; i < packed && parcel_of_unit[i] <= acked; i++)
                most = bytes_of_unit[i] > most ? bytes_of_unit[i] : most;
            assert_true(t.taken <= most);
        }
        for (uint64_t i = opened; i <= ITEMS; i++)
            bytes_of_unit[i] = 0;
    }
    (void)trail_acked(&t, parcels);
    assert_int_equal(t.taken, bytes);
}

static void test_any_order(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++)
        run_stream(seed);
}

static void test_a_feeder_hears(void **state)
{
    struct taken_reader r = {0};
    uint8_t records[3 * TAKEN_SIZE];

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        taken_encode(records + i * (size_t)TAKEN_SIZE, i * 1000u);
    taken_read(&r, records, 5, 5000); /* in pieces */
    assert_false(r.is_known);
    taken_read(&r, records + 5, 15, 5000);
    assert_true(r.is_known);
    assert_int_equal(r.taken, 0);
    taken_read(&r, records + 20, sizeof(records) - 20, 5000);
    assert_int_equal(r.taken, 2000);
    assert_true(r.is_known && !r.is_broken);
}

/* Who feeds is root and who tells is not: nonsense is not believed, and nothing after it. */
static void test_lies(void **state)
{
    static const struct {
        uint64_t first, second, written;
    } lies[] = {{0, 5001, 5000}, {3000, 2999, 5000}, {5001, 5001, 5000}, {0, UINT64_MAX, 5000}};
    uint8_t records[2 * TAKEN_SIZE];

    (void)state;
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct taken_reader r = {0};
        taken_encode(records, lies[i].first);
        taken_encode(records + TAKEN_SIZE, lies[i].second);
        taken_read(&r, records, sizeof(records), lies[i].written);
        assert_true(r.is_broken && !r.is_known);
        taken_encode(records, 4000);
        taken_read(&r, records, TAKEN_SIZE, lies[i].written);
        assert_false(r.is_known);
    }
    for (unsigned at = 0; at < 8; at++) {
        struct taken_reader r = {0};
        taken_encode(records, 1000);
        records[at] ^= 1;
        taken_read(&r, records, TAKEN_SIZE, 5000);
        assert_true(r.is_broken && !r.is_known);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_by_one),
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_a_feeder_hears),
        cmocka_unit_test(test_lies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
