/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine of a migration end: which step follows which, which timeout ends it and which may
 * not, and an ETA that never promises what the numbers do not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "migrate/move_fsm.h"

#define T0 UINT64_C(1000000)

static struct hv_progress pages(uint32_t round, uint64_t total, uint64_t sent, uint64_t dirty,
                                uint32_t dirty_kib_s, uint8_t phase)
{
    return (struct hv_progress){.round = round,
                                .pages_total = total,
                                .pages_sent = sent,
                                .pages_dirty = dirty,
                                .dirty_kib_s = dirty_kib_s,
                                .phase = phase};
}

static struct ha_move_progress report(const struct move_fsm *fsm, uint64_t now_ms)
{
    struct ha_move_progress progress = {.ticket = 7, .wire_bytes = 8};

    snprintf(progress.text, sizeof(progress.text), "kept");
    move_fsm_progress(fsm, now_ms, &progress);
    assert_int_equal(progress.ticket, 7);
    assert_int_equal(progress.wire_bytes, 8);
    assert_string_equal(progress.text, "kept");
    return progress;
}

static void source_goes_from_preparing_to_finishing(void **state)
{
    struct move_fsm fsm;
    struct hv_progress stopped = pages(3, 100, 5, 0, 0, HV_STOPPED);

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    assert_int_equal(fsm.step, HA_MOVE_PREPARING);
    assert_false(move_fsm_is_connected(&fsm));
    move_fsm_connected(&fsm, T0 + 10);
    assert_true(move_fsm_is_connected(&fsm));
    assert_int_equal(fsm.step, HA_MOVE_COPYING);
    move_fsm_hv(&fsm, T0 + 20, &stopped);
    assert_int_equal(fsm.step, HA_MOVE_STOPPED);
    move_fsm_stream_done(&fsm, T0 + 25);
    assert_true(move_fsm_is_stream_done(&fsm));
    assert_int_equal(fsm.step, HA_MOVE_STOPPED); /* written, but not drained */
    move_fsm_saved(&fsm, T0 + 30);
    assert_int_equal(fsm.step, HA_MOVE_DECIDING);
    move_fsm_switched(&fsm, T0 + 40);
    assert_int_equal(fsm.step, HA_MOVE_FINISHING);
    assert_int_equal(report(&fsm, T0 + 99999).elapsed_ms, 30); /* copying ended then */
}

/* H23: complete is not enough, nor is HANDOVER alone. */
static void destination_decides_only_with_both(void **state)
{
    struct move_fsm fsm;

    (void)state;
    for (int order = 0; order < 2; order++) {
        move_fsm_init(&fsm, false, 0, 0, T0);
        move_fsm_connected(&fsm, T0);
        if (order == 0)
            move_fsm_restored(&fsm, T0 + 1);
        else
            move_fsm_handover(&fsm, T0 + 1);
        assert_int_not_equal(fsm.step, HA_MOVE_DECIDING);
        if (order == 0)
            move_fsm_handover(&fsm, T0 + 2);
        else
            move_fsm_restored(&fsm, T0 + 2);
        assert_int_equal(fsm.step, HA_MOVE_DECIDING);
    }
}

static void missed_progress_does_not_stop_it(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_saved(&fsm, T0 + 1); /* nothing was heard before */
    assert_int_equal(fsm.step, HA_MOVE_DECIDING);
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_switched(&fsm, T0 + 1); /* the log is right */
    assert_int_equal(fsm.step, HA_MOVE_FINISHING);
}

/* A guest that is suspended shows by whatever says so first. */
static void the_end_of_the_stream_means_stopped(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    move_fsm_stream_done(&fsm, T0 + 1);
    assert_int_equal(fsm.step, HA_MOVE_STOPPED);
    move_fsm_init(&fsm, false, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    move_fsm_restored(&fsm, T0 + 7000);
    assert_int_equal(fsm.step, HA_MOVE_STOPPED);
    assert_null(move_fsm_late(&fsm, T0 + 7000 + MOVE_IDLE_MS + MOVE_DRAIN_MS - 1));
    move_fsm_switched(&fsm, T0 + 7001);
    assert_int_equal(report(&fsm, T0 + 9000).elapsed_ms, 7001);
}

static void failure_is_final_until_the_log_decides(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    assert_true(move_fsm_fail(&fsm, T0 + 1));
    assert_true(move_fsm_is_failed(&fsm));
    move_fsm_connected(&fsm, T0 + 2);
    move_fsm_saved(&fsm, T0 + 3);
    move_fsm_stream_done(&fsm, T0 + 3);
    move_fsm_handover(&fsm, T0 + 3);
    move_fsm_switched(&fsm, T0 + 3);
    assert_int_equal(fsm.step, HA_MOVE_FAILED);
    assert_null(move_fsm_late(&fsm, T0 + 10000000));
    assert_null(move_fsm_waiting(&fsm, T0 + 10000000));
    assert_int_equal(move_fsm_deadline_ms(&fsm), UINT64_MAX);
    assert_true(move_fsm_fail(&fsm, T0 + 9));
    assert_int_equal(report(&fsm, T0 + 50).elapsed_ms, 1);
}

/* --- Timeouts (L3), and those that may not be --- */

static void preparing_ends_after_15_s(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, false, 0, 0, T0);
    assert_int_equal(move_fsm_deadline_ms(&fsm), T0 + 15000);
    assert_null(move_fsm_late(&fsm, T0 + 14999));
    assert_non_null(move_fsm_late(&fsm, T0 + 15000));
}

static void copying_ends_when_no_byte_moves(void **state)
{
    struct move_fsm fsm;
    struct hv_progress round = pages(1, 100, 0, 0, 0, HV_LIVE);

    (void)state;
    move_fsm_init(&fsm, true, 3000, 0, T0);
    move_fsm_connected(&fsm, T0 + 100);
    assert_int_equal(move_fsm_deadline_ms(&fsm), T0 + 3100);
    move_fsm_bytes(&fsm, T0 + 3000, 5000);
    assert_null(move_fsm_late(&fsm, T0 + 5999));
    move_fsm_bytes(&fsm, T0 + 5999, 5000); /* said again: nothing moved */
    assert_non_null(move_fsm_late(&fsm, T0 + 6000));
    move_fsm_hv(&fsm, T0 + 5999, &round); /* a new round is progress */
    assert_null(move_fsm_late(&fsm, T0 + 6000));
    assert_non_null(move_fsm_late(&fsm, T0 + 8999));
    move_fsm_init(&fsm, true, 0, 0, T0); /* the default */
    move_fsm_connected(&fsm, T0);
    assert_int_equal(move_fsm_deadline_ms(&fsm), T0 + MOVE_IDLE_MS);
}

/* A large guest's memory takes the destination longer to make than a byte may need to move; but
 * once the guest stands still, nobody waits that long. */
static void a_slow_destination_gets_more_time(void **state)
{
    struct move_fsm fsm;
    struct hv_progress last = pages(1, 100, 0, 0, 0, HV_STOPPED);

    (void)state;
    move_fsm_init(&fsm, true, 3000, 0, T0);
    move_fsm_connected(&fsm, T0);
    move_fsm_bytes(&fsm, T0 + 1000, 5000);
    move_fsm_patient(&fsm, true);
    assert_null(move_fsm_late(&fsm, T0 + 36999));
    assert_non_null(move_fsm_late(&fsm, T0 + 37000));
    move_fsm_patient(&fsm, false); /* it takes bytes again, and none moves */
    assert_non_null(move_fsm_late(&fsm, T0 + 4000));
    move_fsm_patient(&fsm, true);
    move_fsm_hv(&fsm, T0 + 5000, &last);
    assert_non_null(move_fsm_late(&fsm, T0 + 5000 + 3000 + MOVE_DRAIN_MS));
}

static void stopped_leaves_time_to_drain(void **state)
{
    struct move_fsm fsm;
    struct hv_progress stopped = pages(2, 100, 5, 0, 0, HV_STOPPED);

    (void)state;
    for (int is_source = 0; is_source < 2; is_source++) {
        move_fsm_init(&fsm, is_source, 3000, 0, T0);
        move_fsm_connected(&fsm, T0);
        move_fsm_hv(&fsm, T0 + 1000, &stopped);
        assert_null(move_fsm_late(&fsm, T0 + 1000 + 3000 + MOVE_DRAIN_MS - 1));
        assert_non_null(move_fsm_late(&fsm, T0 + 1000 + 3000 + MOVE_DRAIN_MS));
        move_fsm_bytes(&fsm, T0 + 2000, 77);
        assert_null(move_fsm_late(&fsm, T0 + 1000 + 3000 + MOVE_DRAIN_MS));
    }
}

/* A complete destination that never hears HANDOVER does not wait for ever. */
static void a_missing_handover_is_late(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, false, 3000, 0, T0);
    move_fsm_connected(&fsm, T0);
    move_fsm_restored(&fsm, T0 + 10);
    assert_non_null(move_fsm_late(&fsm, T0 + 10 + 3000 + MOVE_DRAIN_MS));
}

/* No timeout resumes anything: from the hand-over on they only tell. */
static void decisions_are_never_late(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, true, 3000, 100, T0);
    move_fsm_connected(&fsm, T0);
    move_fsm_saved(&fsm, T0 + 50);
    assert_int_equal(move_fsm_deadline_ms(&fsm), T0 + 50 + MOVE_REPORT_MS);
    assert_null(move_fsm_waiting(&fsm, T0 + 50 + MOVE_REPORT_MS - 1));
    const char *deciding = move_fsm_waiting(&fsm, T0 + 50 + MOVE_REPORT_MS);
    assert_non_null(deciding);
    assert_null(move_fsm_late(&fsm, T0 + 1000000000));
    assert_false(move_fsm_fail(&fsm, T0 + 60)); /* a broken stream is nothing any more */
    assert_int_equal(fsm.step, HA_MOVE_DECIDING);
    move_fsm_switched(&fsm, T0 + 70);
    assert_null(move_fsm_late(&fsm, T0 + 1000000000));
    assert_non_null(move_fsm_waiting(&fsm, T0 + 70 + MOVE_REPORT_MS));
    assert_string_not_equal(move_fsm_waiting(&fsm, T0 + 70 + MOVE_REPORT_MS), deciding);
    assert_false(move_fsm_fail(&fsm, T0 + 80));
}

static void the_deadline_counts_until_the_hand_over(void **state)
{
    struct move_fsm fsm;
    struct hv_progress stopped = pages(2, 100, 5, 0, 0, HV_STOPPED);

    (void)state;
    move_fsm_init(&fsm, true, 0, 9000, T0);
    assert_int_equal(move_fsm_deadline_ms(&fsm), T0 + 9000);
    move_fsm_connected(&fsm, T0 + 10);
    move_fsm_bytes(&fsm, T0 + 8999, 5);
    assert_null(move_fsm_late(&fsm, T0 + 8999));
    assert_string_equal(move_fsm_late(&fsm, T0 + 9000), "the migration passed its deadline");
    move_fsm_hv(&fsm, T0 + 8999, &stopped);
    assert_string_equal(move_fsm_late(&fsm, T0 + 9000), "the migration passed its deadline");
}

/* --- Rate, remaining, ETA --- */

/* 100 MiB/s, told ten times a second, until until_ms after T0. */
static void flow(struct move_fsm *fsm, uint64_t from_ms, uint64_t until_ms)
{
    for (uint64_t ms = from_ms; ms <= until_ms; ms += 100)
        move_fsm_bytes(fsm, T0 + ms, (ms + 100) * 104858); /* bytes per ms */
}

static void rate_is_the_last_two_seconds(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    assert_int_equal(report(&fsm, T0).rate_kib_s, 0);
    flow(&fsm, 0, 5000);
    uint64_t rate = report(&fsm, T0 + 5000).rate_kib_s;
    assert_in_range(rate, 99 * 1024, 101 * 1024);
    /* A stall shows while it lasts: half after one second, nothing after some. */
    rate = report(&fsm, T0 + 6000).rate_kib_s;
    assert_in_range(rate, 45 * 1024, 56 * 1024);
    rate = report(&fsm, T0 + 9000).rate_kib_s;
    assert_in_range(rate, 0, 3 * 1024);
    assert_true(report(&fsm, T0 + 60000).rate_kib_s < 300);
}

static void counters_that_go_back_do_not_fool_it(void **state)
{
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    flow(&fsm, 0, 3000);
    move_fsm_bytes(&fsm, T0 + 3010, 1);
    move_fsm_bytes(&fsm, T0 + 2000, 2); /* out of order */
    uint64_t rate = report(&fsm, T0 + 3100).rate_kib_s;
    assert_in_range(rate, 90 * 1024, 105 * 1024);
    assert_int_equal(report(&fsm, T0 - 1).rate_kib_s, 0);
}

/* The hypervisor's own count of bytes serves as well as the stream's. */
static void bytes_of_the_hypervisor_count(void **state)
{
    struct move_fsm fsm;
    struct hv_progress progress = pages(0, 1000000, 0, 0, 0, HV_LIVE);

    (void)state;
    move_fsm_init(&fsm, true, 3000, 0, T0);
    move_fsm_connected(&fsm, T0);
    for (uint64_t ms = 0; ms <= 2000; ms += 100) {
        progress.bytes = ms * 104858;
        move_fsm_hv(&fsm, T0 + ms, &progress);
    }
    uint64_t rate = report(&fsm, T0 + 2000).rate_kib_s;
    assert_in_range(rate, 95 * 1024, 105 * 1024);
    assert_null(move_fsm_late(&fsm, T0 + 4999));
    progress.pages_sent = 5; /* pages elided on the way are progress, too */
    move_fsm_hv(&fsm, T0 + 4999, &progress);
    assert_null(move_fsm_late(&fsm, T0 + 7998));
}

static void eta_is_remaining_over_what_is_gained(void **state)
{
    struct move_fsm fsm;
    /* 1 GiB, half sent, 50 MiB/s dirty: 512 MiB at (100 - 50) MiB/s is about 10 s. */
    struct hv_progress half = pages(0, 262144, 131072, 0, 50 * 1024, HV_LIVE);

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    flow(&fsm, 0, 5000);
    move_fsm_hv(&fsm, T0 + 5000, &half);
    struct ha_move_progress progress = report(&fsm, T0 + 5000);
    assert_int_equal(progress.remaining_kib, 512 * 1024);
    assert_in_range(progress.eta_ms, 9500, 10700);
    assert_int_equal(progress.step, HA_MOVE_COPYING);
    assert_int_equal(progress.hv.pages_sent, 131072);
}

static void eta_is_silent_when_it_does_not_converge(void **state)
{
    struct move_fsm fsm;
    struct hv_progress fast = pages(0, 262144, 131072, 0, 150 * 1024, HV_LIVE);

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    flow(&fsm, 0, 5000);
    move_fsm_hv(&fsm, T0 + 5000, &fast);
    assert_int_equal(report(&fsm, T0 + 5000).eta_ms, 0);
    /* Suspended, it dirties nothing: the same numbers have an end. */
    fast.phase = HV_STOPPED;
    move_fsm_hv(&fsm, T0 + 5000, &fast);
    assert_in_range(report(&fsm, T0 + 5000).eta_ms, 4800, 5400);
}

static void later_rounds_send_what_was_dirty(void **state)
{
    struct move_fsm fsm;
    struct hv_progress first = pages(0, 1000, 1000, 300, 0, HV_LIVE);
    struct hv_progress second = pages(1, 1000, 100, 40, 0, HV_LIVE);
    struct hv_progress third = pages(2, 1000, 10, 0, 0, HV_LIVE);

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    move_fsm_hv(&fsm, T0 + 1, &first);
    assert_int_equal(report(&fsm, T0 + 1).remaining_kib, 300 * 4);
    move_fsm_hv(&fsm, T0 + 2, &second);
    assert_int_equal(report(&fsm, T0 + 2).remaining_kib, (200 + 40) * 4);
    move_fsm_hv(&fsm, T0 + 3, &third);
    assert_int_equal(report(&fsm, T0 + 3).remaining_kib, 30 * 4);
    third.phase = HV_COMPLETE;
    move_fsm_hv(&fsm, T0 + 4, &third);
    assert_int_equal(report(&fsm, T0 + 4).remaining_kib, 0);
}

static void nothing_overflows(void **state)
{
    struct move_fsm fsm;
    struct hv_progress huge = pages(0, UINT64_MAX / 8, 1, 0, 0, HV_LIVE);

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, T0);
    move_fsm_connected(&fsm, T0);
    flow(&fsm, 0, 5000);
    move_fsm_hv(&fsm, T0 + 5000, &huge);
    assert_int_equal(report(&fsm, T0 + 5000).eta_ms, 0); /* weeks are no ETA */
    for (uint64_t i = 0; i < 10000; i++)
        move_fsm_bytes(&fsm, T0 + 5000 + i * 1000, 1000000000 + i);
    assert_true(fsm.sample_count <= MOVE_SAMPLES);
}

static void steps_have_names(void **state)
{
    (void)state;
    assert_string_equal(move_step_name(HA_MOVE_PREPARING), "preparing");
    assert_string_equal(move_step_name(HA_MOVE_FAILED), "failed");
    assert_string_equal(move_step_name(99), "?");
}

/* One worse estimate does not move the end that is shown; two seconds of them do. */
static void test_eta_counts_down(void **state)
{
    struct move_fsm fsm;
    struct ha_move_progress p;
    uint64_t now_ms = 1000, bytes = 0, last_ms = UINT64_MAX;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, now_ms);
    move_fsm_connected(&fsm, now_ms);
    struct hv_progress hv = pages(0, 262144, 0, 0, 0, HV_LIVE); /* 1 GiB */
    move_fsm_hv(&fsm, now_ms, &hv);
    for (int n = 0; n < 16; n++) { /* 100 MiB/s */
        now_ms += 250;
        bytes += 25 << 20;
        hv.pages_sent = bytes / 4096;
        hv.bytes = bytes;
        move_fsm_hv(&fsm, now_ms, &hv);
        move_fsm_progress(&fsm, now_ms, &p);
        if (n >= 2) {
            assert_true(p.eta_ms > 0 && p.eta_ms <= last_ms);
            last_ms = p.eta_ms;
        }
    }
    assert_in_range(last_ms, 5500, 6600);
    for (int n = 0; n < 40; n++) { /* a tenth of that from here on */
        now_ms += 250;
        bytes += 5 << 19;
        hv.pages_sent = bytes / 4096;
        hv.bytes = bytes;
        move_fsm_hv(&fsm, now_ms, &hv);
        move_fsm_progress(&fsm, now_ms, &p);
        if (n == 3)
            assert_true(p.eta_ms <= last_ms);
    }
    assert_in_range(p.eta_ms, 30000, 60000);
    assert_false(p.is_diverging);
}

static void test_divergence_is_said(void **state)
{
    struct move_fsm fsm;
    struct ha_move_progress p;
    uint64_t now_ms = 1000, bytes = 0;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, now_ms);
    move_fsm_connected(&fsm, now_ms);
    struct hv_progress hv = pages(1, 262144, 0, 200000, 0, HV_LIVE);
    hv.dirty_kib_s = 200 * 1024;
    for (int n = 0; n < 20; n++) { /* 100 MiB/s against 200 */
        now_ms += 250;
        bytes += 25 << 20;
        hv.pages_sent += 100;
        hv.bytes = bytes;
        move_fsm_hv(&fsm, now_ms, &hv);
        move_fsm_progress(&fsm, now_ms, &p);
        assert_true(n > 3 || !p.is_diverging);
    }
    assert_true(p.is_diverging);
    assert_int_equal(p.eta_ms, 0);
    hv.dirty_kib_s = 10 * 1024; /* it was slowed down */
    now_ms += 250;
    hv.bytes = bytes + (25 << 20);
    move_fsm_hv(&fsm, now_ms, &hv);
    move_fsm_progress(&fsm, now_ms, &p);
    assert_false(p.is_diverging);
}

/* Every member pays for a multicast: steps and phases are told at once, figures once a second. */
static void others_are_told_now_and_then(void **state)
{
    struct move_fsm fsm;
    struct hv_progress hv = {.phase = HV_LIVE};
    unsigned told = 0;

    (void)state;
    move_fsm_init(&fsm, true, 0, 0, 5000);
    assert_true(move_fsm_is_news(&fsm, 5000, true));
    move_fsm_hv(&fsm, 5010, &hv);
    assert_true(move_fsm_is_news(&fsm, 5010, false)); /* a phase */
    for (uint64_t ms = 5100; ms < 15010; ms += 100) {
        move_fsm_hv(&fsm, ms, &hv);
        told += move_fsm_is_news(&fsm, ms, false);
    }
    assert_int_equal(told, 9);
    hv.phase = HV_STOPPED;
    move_fsm_hv(&fsm, 15011, &hv);
    assert_true(move_fsm_is_news(&fsm, 15011, false));
    assert_true(move_fsm_is_news(&fsm, 15012, true));
    assert_false(move_fsm_is_news(&fsm, 15013, false));
}

static void repeats_come_ever_later(void **state)
{
    static const uint32_t gaps[] = {200, 400, 800, 1600, 1600, 1600};
    struct move_fsm fsm;

    (void)state;
    move_fsm_init(&fsm, false, 0, 0, 0);
    for (size_t n = 0; n < sizeof(gaps) / sizeof(gaps[0]); n++)
        assert_int_equal(move_fsm_repeat_ms(&fsm), gaps[n]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eta_counts_down),
        cmocka_unit_test(test_divergence_is_said),
        cmocka_unit_test(source_goes_from_preparing_to_finishing),
        cmocka_unit_test(destination_decides_only_with_both),
        cmocka_unit_test(missed_progress_does_not_stop_it),
        cmocka_unit_test(the_end_of_the_stream_means_stopped),
        cmocka_unit_test(failure_is_final_until_the_log_decides),
        cmocka_unit_test(preparing_ends_after_15_s),
        cmocka_unit_test(copying_ends_when_no_byte_moves),
        cmocka_unit_test(a_slow_destination_gets_more_time),
        cmocka_unit_test(stopped_leaves_time_to_drain),
        cmocka_unit_test(a_missing_handover_is_late),
        cmocka_unit_test(decisions_are_never_late),
        cmocka_unit_test(the_deadline_counts_until_the_hand_over),
        cmocka_unit_test(rate_is_the_last_two_seconds),
        cmocka_unit_test(counters_that_go_back_do_not_fool_it),
        cmocka_unit_test(bytes_of_the_hypervisor_count),
        cmocka_unit_test(eta_is_remaining_over_what_is_gained),
        cmocka_unit_test(eta_is_silent_when_it_does_not_converge),
        cmocka_unit_test(later_rounds_send_what_was_dirty),
        cmocka_unit_test(nothing_overflows),
        cmocka_unit_test(steps_have_names),
        cmocka_unit_test(others_are_told_now_and_then),
        cmocka_unit_test(repeats_come_ever_later),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
