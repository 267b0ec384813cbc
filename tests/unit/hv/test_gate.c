/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate with its workers over the fake driver: who may be runnable when, what a proof takes, and
 * what is said about verbs whose worker did not come to its end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/doctor/lookproto.h"
#include "tests/unit/hv/gate_world.h"

#define MS   UINT64_C(1000000)
#define P_MS 250

static int setup(void **state)
{
    *state = gate_world_new();
    return 0;
}

static int teardown(void **state)
{
    gate_world_free(*state);
    return 0;
}

/* Armed with a lease that ends in lease_ms; guests 1 and 2 run. Returns the lease's end. */
static uint64_t start_two(struct gate_world *w, uint64_t lease_ms)
{
    gate_world_start(w);
    gate_world_lease(w, gate_world_now_ns() + 60000 * MS, false, true);
    for (uint8_t guest = 1; guest <= 2; guest++) {
        assert_int_equal(gate_world_do(w, HVP_CREATE, guest, 5).outcome, HV_OK);
        assert_int_equal(gate_world_do(w, HVP_RUN, guest, 5).outcome, HV_OK);
    }
    uint64_t end_ns = gate_world_now_ns() + lease_ms * MS;
    gate_world_lease(w, end_ns, false, true);
    return end_ns;
}

static uint32_t domid_of(struct gate_world *w, uint8_t guest)
{
    return hv_fake_find(w->fake, gate_world_uuid(guest));
}

static uint8_t state_of(struct gate_world *w, uint8_t guest)
{
    return hv_fake_state(w->fake, domid_of(w, guest));
}

static bool is_closed(struct gate_world *w, void *data)
{
    (void)data;
    return !w->gate.is_open;
}

static bool is_open(struct gate_world *w, void *data)
{
    (void)data;
    return w->gate.is_open;
}

static bool is_quarantined(struct gate_world *w, void *data)
{
    (void)data;
    return w->gate.is_quarantined;
}

static bool has_text(struct gate_world *w, void *data)
{
    return strstr(w->gate.text, data) != NULL;
}

static void test_create_and_run(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 5000);
    const struct hvp_domains *list = gate_world_list(w);
    assert_int_equal(list->count, 2);
    assert_true(list->is_last);
    assert_int_equal(list->list[0].state, HV_RUNNING);
    assert_int_equal(list->list[0].label.epoch, 5);
    struct hvp_done done = gate_world_do(w, HVP_CREATE, 3, 1);
    assert_int_equal(done.outcome, HV_OK);
    assert_int_equal(done.value, domid_of(w, 3));
    assert_int_equal(state_of(w, 3), HV_PAUSED);
    assert_int_equal(gate_world_do(w, HVP_RUN, 3, 2).outcome, HV_FAILED); /* another epoch */
    assert_int_equal(gate_world_do(w, HVP_DESTROY, 3, 1).outcome, HV_OK);
    assert_int_equal(gate_world_do(w, HVP_DESTROY, 3, 1).outcome, HV_OK);
    assert_int_equal(domid_of(w, 3), 0);
    assert_int_equal(gate_world_do(w, HVP_SHUTDOWN, 1, 5).outcome, HV_OK);
    assert_int_equal(domid_of(w, 1), 0);
    assert_int_equal(gate_world_do(w, HVP_THROTTLE, 2, 5).outcome, HV_NOT_OFFERED);
    assert_int_equal(gate_world_do(w, HVP_DIRTY_SAMPLE, 2, 5).value, 1234);
}

static void test_lease_end(void **state)
{
    struct gate_world *w = *state;
    uint32_t foreign = hv_fake_add(w->fake, NULL, HV_RUNNING);
    uint64_t end_ns = start_two(w, 400);

    gate_world_until(w, is_closed, NULL, "the gate closes");
    uint64_t taken_ns = gate_world_proof(w, 1000);
    uint64_t now_ns = gate_world_now_ns();
    assert_true(taken_ns >= end_ns);
    assert_true(now_ns < end_ns + P_MS * MS);
    assert_int_equal(state_of(w, 1), HV_PAUSED);
    assert_int_equal(state_of(w, 2), HV_PAUSED);
    assert_int_equal(hv_fake_state(w->fake, foreign), HV_PAUSED);
    struct hvp_done done = gate_world_do(w, HVP_RUN, 1, 5);
    assert_int_equal(done.outcome, HV_FAILED);
    assert_non_null(strstr(done.text, "gate closed"));
    assert_int_equal(state_of(w, 1), HV_PAUSED);
    gate_world_until(w, is_quarantined, NULL, "quarantined");
    assert_int_equal(w->gate.paused_count, 3);
    print_message("[ pause and proof: %.1f ms after lease end\n", (double)(now_ns - end_ns) / 1e6);
}

static void test_proof_each_p(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 100);
    uint64_t before_ns = gate_world_proof(w, 1000);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t taken_ns = gate_world_proof(w, 2 * P_MS);
        /* P, and what a busy machine adds */
        assert_in_range(taken_ns - before_ns, (P_MS - 30) * MS, (P_MS + 200) * MS);
        before_ns = taken_ns;
    }
}

static void test_started_by_hand_in_quarantine(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 100);
    gate_world_proof(w, 1000);
    uint32_t foreign = hv_fake_add(w->fake, NULL, HV_RUNNING);
    gate_world_proof(w, 2 * P_MS);
    assert_int_equal(hv_fake_state(w->fake, foreign), HV_PAUSED);
}

static void test_no_proof_with_io(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 300);
    hv_fake_set_io(w->fake, domid_of(w, 2), 1, false);
    gate_world_until(w, has_text, "guest2: I/O outstanding", "the reason is told");
    assert_false(w->gate.is_quarantined);
    assert_true(gate_world_no_proof(w, 2 * P_MS));
    assert_int_equal(state_of(w, 2), HV_PAUSED);
    hv_fake_set_io(w->fake, domid_of(w, 2), 0, false);
    uint64_t drained_ns = gate_world_now_ns();
    assert_true(gate_world_proof(w, 1000) >= drained_ns);
    assert_true(gate_world_now_ns() - drained_ns < P_MS * MS);
}

static void test_ended_guest_with_io(void **state)
{
    struct gate_world *w = *state;
    struct hv_label label = gate_world_label(9, 1);
    uint32_t domid = hv_fake_add(w->fake, &label, HV_CRASHED);

    hv_fake_set_io(w->fake, domid, 1, false);
    start_two(w, 200);
    gate_world_until(w, is_closed, NULL, "the gate closes");
    assert_true(gate_world_no_proof(w, 2 * P_MS));
    assert_int_equal(hv_fake_state(w->fake, domid), HV_CRASHED);
}

static void test_write_back_is_never_proven(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 200);
    hv_fake_set_io(w->fake, domid_of(w, 1), 0, true);
    gate_world_until(w, has_text, "guest1: write-back", "the reason is told");
    assert_true(gate_world_no_proof(w, 3 * P_MS));
}

static void test_no_proof_when_pause_fails(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 200);
    atomic_store(&w->fake->manner[HV_FAKE_PAUSE], HV_FAKE_FAIL);
    gate_world_until(w, has_text, "can't be paused", "the reason is told");
    assert_true(gate_world_no_proof(w, 2 * P_MS));
    atomic_store(&w->fake->manner[HV_FAKE_PAUSE], HV_FAKE_NORMAL);
    gate_world_proof(w, 1000);
}

static void test_no_proof_without_listing(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 200);
    atomic_store(&w->fake->manner[HV_FAKE_LIST], HV_FAKE_FAIL);
    gate_world_until(w, has_text, "can't be listed", "the reason is told");
    assert_true(gate_world_no_proof(w, 2 * P_MS));
    atomic_store(&w->fake->manner[HV_FAKE_LIST], HV_FAKE_NORMAL);
    gate_world_proof(w, 1000);
    assert_int_equal(state_of(w, 1), HV_PAUSED);
}

static void test_opening_unpauses_nothing(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 200);
    gate_world_proof(w, 1000);
    uint64_t end_ns = gate_world_now_ns() + 5000 * MS;
    gate_world_lease(w, end_ns, true, true); /* a lease, but still quarantined */
    assert_int_equal(gate_world_do(w, HVP_RUN, 1, 5).outcome, HV_FAILED);
    gate_world_lease(w, end_ns, false, true);
    gate_world_until(w, is_open, NULL, "the gate opens");
    assert_int_equal(state_of(w, 1), HV_PAUSED);
    assert_int_equal(gate_world_do(w, HVP_RUN, 1, 5).outcome, HV_OK);
    assert_int_equal(state_of(w, 1), HV_RUNNING);
    assert_int_equal(state_of(w, 2), HV_PAUSED);
}

static void test_lease_ends_during_run(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 5000);
    assert_int_equal(gate_world_do(w, HVP_PAUSE, 1, 5).outcome, HV_OK);
    atomic_store(&w->fake->run_delay_ms, 100);
    uint64_t id = gate_world_ask(w, HVP_RUN, 1, 5, 0);
    gate_world_lease(w, gate_world_now_ns() + 50 * MS, false, true);
    assert_int_equal(gate_world_await(w, id).outcome, HV_UNKNOWN);
    assert_int_equal(state_of(w, 1), HV_PAUSED);
    assert_int_equal(state_of(w, 2), HV_PAUSED);
}

static void test_disarmed_and_frozen(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 5000);
    gate_world_hello(w, true, false);
    gate_world_lease(w, gate_world_now_ns() - 1, false, true);
    assert_true(gate_world_no_proof(w, 2 * P_MS));
    assert_int_equal(state_of(w, 1), HV_RUNNING);
    gate_world_hello(w, false, true);
    assert_true(w->gate.is_open);
    gate_world_hello(w, false, false);
    assert_int_equal(state_of(w, 1), HV_PAUSED);
    gate_world_proof(w, 1000);
}

/* A hamgrd that starts from an old snapshot neither takes pausing off nor puts it on. */
static void test_stale_hello_changes_nothing(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 5000);
    gate_world_hello(w, true, false);
    gate_world_stale_hello(w, false, false, 1);
    gate_world_lease(w, gate_world_now_ns() - 1, false, true);
    assert_true(gate_world_no_proof(w, 2 * P_MS));
    assert_int_equal(state_of(w, 1), HV_RUNNING);
    gate_world_hello(w, false, false);
    gate_world_proof(w, 1000);
    gate_world_stale_hello(w, true, true, 1);
    gate_world_until(w, is_closed, NULL, "the gate stays closed");
    assert_int_equal(state_of(w, 1), HV_PAUSED);
    /* What was said of another life of the cluster was not said of this one. */
    gate_world_hello(w, true, false);
    gate_world_until(w, is_open, NULL, "the gate opens");
    gate_world_stale_hello(w, true, false, 2);
    gate_world_until(w, is_closed, NULL, "the gate closes");
}

static void test_page_lost(void **state)
{
    struct gate_world *w = *state;
    char path[128];

    start_two(w, 60000);
    snprintf(path, sizeof(path), "%s/lease", w->dir);
    assert_int_equal(unlink(path), 0);
    gate_world_proof(w, 1000);
    assert_int_equal(state_of(w, 1), HV_PAUSED);
}

static void test_restart_adopts(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 5000);
    gate_world_kill(w, SIGKILL);
    assert_int_equal(state_of(w, 1), HV_RUNNING);
    gate_world_start(w);
    const struct hvp_domains *list = gate_world_list(w);
    assert_int_equal(list->count, 2);
    assert_int_equal(list->list[0].state, HV_RUNNING);
    assert_int_equal(list->list[0].label.epoch, 5);
    gate_world_kill(w, SIGTERM);
    assert_int_equal(state_of(w, 2), HV_RUNNING);
}

static void test_restart_remembers(void **state)
{
    struct gate_world *w = *state;
    char path[128];

    start_two(w, 60000);
    gate_world_hello(w, true, false);
    gate_world_kill(w, SIGKILL);
    snprintf(path, sizeof(path), "%s/lease", w->dir);
    assert_int_equal(unlink(path), 0);
    /* Disarmed, by the file: nothing happens before hamgrd speaks. Armed before, and told that it
     * is not disarmed any more: without a page that is the lease's end. */
    gate_world_start(w);
    gate_world_proof(w, 1000);
    assert_int_equal(state_of(w, 1), HV_PAUSED);
}

static void test_restart_after_lease_end(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 60000);
    gate_world_kill(w, SIGKILL);
    gate_world_lease(w, gate_world_now_ns() - 1, false, true);
    gate_world_start(w);
    gate_world_proof(w, 1000);
    assert_int_equal(state_of(w, 1), HV_PAUSED);
}

static void test_damaged_state_file(void **state)
{
    struct gate_world *w = *state;
    char path[128];

    start_two(w, 60000);
    gate_world_kill(w, SIGKILL);
    snprintf(path, sizeof(path), "%s/hv.state", w->dir);
    assert_int_equal(truncate(path, 7), 0);
    snprintf(path, sizeof(path), "%s/lease", w->dir);
    assert_int_equal(unlink(path), 0);
    gate_world_start(w);
    gate_world_proof(w, 1000);
}

/* ---- workers -----------------------------------------------------------------------------------
 */

static bool has_begun(struct gate_world *w, enum hv_fake_verb verb, uint32_t count)
{
    for (unsigned i = 0; i < GATE_WORLD_WAIT_MS; i++) {
        if (atomic_load(&w->fake->begun[verb]) >= count)
            return true;
        usleep(1000); /* another process's memory: no event */
    }
    return false;
}

static void test_killed_worker(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 60000);
    atomic_store(&w->fake->manner[HV_FAKE_DESTROY], HV_FAKE_HANG);
    uint64_t id = gate_world_ask(w, HVP_DESTROY, 1, 5, 0);
    assert_true(has_begun(w, HV_FAKE_DESTROY, 1));
    assert_int_equal(kill(atomic_load(&w->fake->worker_pid), SIGKILL), 0);
    struct hvp_done done = gate_world_await(w, id);
    assert_int_equal(done.outcome, HV_UNKNOWN);
    assert_non_null(strstr(done.text, "signal 9"));
    atomic_store(&w->fake->manner[HV_FAKE_DESTROY], HV_FAKE_NORMAL);
    assert_int_equal(gate_world_do(w, HVP_DESTROY, 1, 5).outcome, HV_OK);
}

static void test_dying_worker(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 60000);
    atomic_store(&w->fake->manner[HV_FAKE_CREATE], HV_FAKE_DIE);
    assert_int_equal(gate_world_do(w, HVP_CREATE, 3, 1).outcome, HV_UNKNOWN);
    atomic_store(&w->fake->manner[HV_FAKE_CREATE], HV_FAKE_FAIL);
    assert_int_equal(gate_world_do(w, HVP_CREATE, 3, 1).outcome, HV_FAILED);
}

static void test_hanging_worker(void **state)
{
    struct gate_world *w = *state;

    w->verb_max_ms = 100;
    start_two(w, 60000);
    atomic_store(&w->fake->manner[HV_FAKE_SAMPLE], HV_FAKE_HANG);
    struct hvp_done done = gate_world_do(w, HVP_DIRTY_SAMPLE, 1, 5);
    assert_int_equal(done.outcome, HV_UNKNOWN);
    assert_non_null(strstr(done.text, "hung"));
    assert_int_equal(state_of(w, 1), HV_RUNNING);
}

static bool has_progress(struct gate_world *w, void *data)
{
    (void)data;
    return w->progress_count > 0;
}

/* A save of guest 1 in progress; the stream's reading end. */
static int begin_save(struct gate_world *w, uint64_t *ret_id)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    *ret_id = gate_world_ask_save(w, 1, 5, pair[0]);
    close(pair[0]);
    gate_world_until(w, has_progress, NULL, "progress");
    return pair[1];
}

static uint64_t begin_look(struct gate_world *w, const struct look_ask *ask, int fd)
{
    static uint8_t bytes[HA_IPC_MAX];
    struct ha_writer body = ha_writer_of(bytes, sizeof(bytes));

    look_ask_encode(&body, ask);
    return gate_world_send(w, HVP_LOOK, &body, fd);
}

/* It answers through the file it was given; one that hangs is killed while the rest goes on. */
static void test_look(void **state)
{
    static uint8_t bytes[LOOK_TELL_BYTES_MAX];
    static struct look_ask ask;
    static struct look_tell tell;
    struct gate_world *w = *state;
    int fd = memfd_create("look", MFD_CLOEXEC);

    w->verb_max_ms = 500;
    start_two(w, 60000);
    ask.thing_count = 2;
    ask.things[0] = (struct look_thing){.kind = LOOK_DISK, .name = "/nowhere"};
    ask.things[1] = (struct look_thing){.kind = LOOK_FILE, .name = "/proc/self/exe"};
    assert_int_equal(gate_world_await(w, begin_look(w, &ask, fd)).outcome, HV_OK);
    ssize_t size = pread(fd, bytes, sizeof(bytes), 0);
    assert_int_equal(look_tell_decode(bytes, size > 0 ? (size_t)size : 0, &tell), 0);
    assert_true(ha_facts_is(&tell.facts, HA_FACT_IS_LOOKED));
    assert_true(ha_facts_is(&tell.facts, HA_FACT_HAS_HAP)); /* the driver's word */
    assert_int_equal(tell.found[0].state, LOOK_MISSING);
    assert_int_equal(tell.found[1].state, LOOK_THERE);
    assert_int_equal(gate_world_await(w, begin_look(w, &ask, -1)).outcome, HV_FAILED);
    atomic_store(&w->fake->manner[HV_FAKE_TELL], HV_FAKE_HANG);
    uint64_t hangs = begin_look(w, &ask, fd);
    struct hvp_done done = gate_world_await(w, begin_look(w, &ask, fd));
    assert_int_equal(done.outcome, HV_FAILED);
    assert_non_null(strstr(done.text, "busy"));
    assert_int_equal(gate_world_do(w, HVP_SHUTDOWN, 1, 5).outcome, HV_OK);
    assert_int_equal(gate_world_await(w, hangs).outcome, HV_UNKNOWN);
    close(fd);
}

static void test_killed_save(void **state)
{
    struct gate_world *w = *state;
    uint64_t id;

    start_two(w, 60000);
    int fd = begin_save(w, &id);
    assert_int_equal(kill(atomic_load(&w->fake->worker_pid), SIGKILL), 0);
    assert_int_equal(gate_world_await(w, id).outcome, HV_UNKNOWN);
    /* What it left on, a fresh worker switches off, before the guest's next verb. */
    assert_int_equal(gate_world_do(w, HVP_DIRTY_SAMPLE, 1, 5).outcome, HV_OK);
    assert_int_equal(atomic_load(&w->fake->tracking_off_count), 1);
    close(fd);
}

static void test_aborted_save(void **state)
{
    struct gate_world *w = *state;
    uint8_t bytes[16];
    struct ha_writer body = ha_writer_of(bytes, sizeof(bytes));
    uint64_t id;

    start_two(w, 60000);
    int fd = begin_save(w, &id);
    hvp_abort_encode(&body, &(struct hvp_abort){id});
    assert_int_equal(gate_world_await(w, gate_world_send(w, HVP_ABORT, &body, -1)).outcome, HV_OK);
    /* The stream is full and nobody reads: the worker was blocked in its write. */
    assert_int_equal(gate_world_await(w, id).outcome, HV_FAILED);
    assert_int_equal(state_of(w, 1), HV_RUNNING); /* as it was */
    assert_int_equal(gate_world_await(w, gate_world_send(w, HVP_ABORT, &body, -1)).outcome,
                     HV_FAILED);
    close(fd);
}

static void test_failed_save_in_quarantine(void **state)
{
    struct gate_world *w = *state;
    uint64_t id;

    start_two(w, 60000);
    int fd = begin_save(w, &id);
    gate_world_lease(w, gate_world_now_ns() - 1, false, true);
    gate_world_proof(w, 1000);
    gate_world_lease(w, gate_world_now_ns() + 60000 * MS, false, true);
    gate_world_until(w, is_open, NULL, "the gate opens");
    close(fd); /* the save fails now, with the gate open again */
    assert_int_equal(gate_world_await(w, id).outcome, HV_FAILED);
    assert_int_equal(state_of(w, 1), HV_PAUSED); /* only hamgrd may end a quarantine's pause */
}

static void test_complete_save(void **state)
{
    struct gate_world *w = *state;
    uint64_t id;

    start_two(w, 60000);
    atomic_store(&w->fake->save_bytes_max, 8 * 4096);
    int fd = begin_save(w, &id);
    assert_int_equal(gate_world_await(w, id).outcome, HV_OK);
    assert_int_equal(atomic_load(&w->fake->begun[HV_FAKE_DRAIN]), 1);
    assert_int_equal(atomic_load(&w->fake->ring_size), GATE_WORLD_RING_BYTES);
    assert_int_equal(state_of(w, 1), HV_SUSPENDED);
    assert_int_equal(gate_world_do(w, HVP_RUN, 1, 5).outcome, HV_FAILED); /* H27 */
    assert_int_equal(gate_world_do(w, HVP_RESUME_PREPARE, 1, 5).outcome, HV_OK);
    assert_int_equal(gate_world_do(w, HVP_RUN, 1, 5).outcome, HV_OK);
    close(fd);
}

static void test_save_that_does_not_drain(void **state)
{
    struct gate_world *w = *state;
    uint64_t id;

    start_two(w, 60000);
    atomic_store(&w->fake->save_bytes_max, 8 * 4096);
    atomic_store(&w->fake->manner[HV_FAKE_DRAIN], HV_FAKE_FAIL);
    int fd = begin_save(w, &id);
    struct hvp_done done = gate_world_await(w, id);
    assert_int_equal(done.outcome, HV_UNKNOWN);
    assert_non_null(strstr(done.text, "I/O does not end"));
    close(fd);
}

static void test_restore(void **state)
{
    struct gate_world *w = *state;
    int pair[2];

    start_two(w, 60000);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    uint64_t id = gate_world_ask_create(w, HVP_RESTORE, 7, 3, pair[0]);
    close(pair[0]);
    assert_int_equal(write(pair[1], "stream.", 7), 7);
    struct hvp_done done = gate_world_await(w, id);
    assert_true(done.outcome == HV_OK && done.value == domid_of(w, 7));
    assert_int_equal(state_of(w, 7), HV_PAUSED);
    assert_int_equal(atomic_load(&w->fake->ring_size), GATE_WORLD_RING_BYTES);
    close(pair[1]);
    assert_int_equal(gate_world_await(w, gate_world_ask_create(w, HVP_RESTORE, 8, 3, -1)).outcome,
                     HV_FAILED);
}

static void test_connection_ends_in_save(void **state)
{
    struct gate_world *w = *state;
    uint64_t id;

    start_two(w, 60000);
    int fd = begin_save(w, &id);
    gate_world_connect(w); /* the old connection is closed */
    gate_world_hello(w, false, false);
    /* Waits behind the dying save, and is not refused. */
    assert_int_equal(gate_world_do(w, HVP_RUN, 1, 5).outcome, HV_OK);
    assert_int_equal(state_of(w, 1), HV_RUNNING);
    close(fd);
}

static void test_busy(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 60000);
    atomic_store(&w->fake->create_delay_ms, 200);
    uint64_t create = gate_world_ask_create(w, HVP_CREATE, 3, 1, -1);
    struct hvp_done done = gate_world_do(w, HVP_DESTROY, 3, 1);
    assert_int_equal(done.outcome, HV_FAILED);
    assert_non_null(strstr(done.text, "busy"));
    assert_int_equal(gate_world_do(w, HVP_DESTROY, 2, 5).outcome, HV_OK); /* another guest */
    uint64_t run = gate_world_ask(w, HVP_RUN, 3, 1, 0);
    assert_int_equal(gate_world_await(w, create).outcome, HV_OK);
    assert_int_equal(gate_world_await(w, run).outcome, HV_OK);
}

/* While it waited its guest may have been freed, given to another node, and this node taken back:
 * a lease of another time does not make it right. */
static void test_waiting_run_ends_with_its_lease(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 60000);
    atomic_store(&w->fake->create_delay_ms, 400);
    (void)gate_world_ask_create(w, HVP_CREATE, 3, 1, -1);
    assert_true(has_begun(w, HV_FAKE_CREATE, 3));
    uint64_t run = gate_world_ask(w, HVP_RUN, 3, 1, 0);
    gate_world_list(w); /* so it waits by now */
    gate_world_lease(w, gate_world_now_ns() - 1, false, true);
    gate_world_until(w, is_closed, NULL, "the gate closes");
    struct hvp_done done = gate_world_do(w, HVP_RUN, 3, 1);
    assert_int_equal(done.outcome, HV_FAILED); /* at once: not even in line */
    assert_non_null(strstr(done.text, "gate closed"));
    gate_world_lease(w, gate_world_now_ns() + 60000 * MS, false, true);
    gate_world_until(w, is_open, NULL, "the gate opens");
    done = gate_world_await(w, run);
    assert_int_equal(done.outcome, HV_FAILED);
    assert_non_null(strstr(done.text, "gate closed"));
    assert_int_equal(state_of(w, 3), HV_PAUSED);
    assert_int_equal(gate_world_do(w, HVP_RUN, 3, 1).outcome, HV_OK);
}

static void test_verb_of_a_lost_connection_is_adopted(void **state)
{
    struct gate_world *w = *state;

    start_two(w, 60000);
    atomic_store(&w->fake->create_delay_ms, 200);
    (void)gate_world_ask_create(w, HVP_CREATE, 3, 1, -1);
    assert_true(has_begun(w, HV_FAKE_CREATE, 3));
    gate_world_connect(w);
    gate_world_hello(w, false, false);
    struct hvp_done done = gate_world_do(w, HVP_CREATE, 3, 1);
    assert_int_equal(done.outcome, HV_OK);
    assert_int_equal(atomic_load(&w->fake->begun[HV_FAKE_CREATE]), 3);
}

static void test_many_at_once(void **state)
{
    struct gate_world *w = *state;
    uint64_t ids[40];

    w->worker_max = 8;
    start_two(w, 60000);
    atomic_store(&w->fake->create_delay_ms, 20);
    for (uint8_t i = 0; i < 40; i++)
        ids[i] = gate_world_ask_create(w, HVP_CREATE, (uint8_t)(10 + i), 1, -1);
    for (uint8_t i = 0; i < 40; i++)
        assert_int_equal(gate_world_await(w, ids[i]).outcome, HV_OK);
    assert_in_range(atomic_load(&w->fake->building_most), 2, 8);
    assert_int_equal(gate_world_list(w)->count, 42);
}

static void test_start_33_guests_fast(void **state)
{
    struct gate_world *w = *state;
    uint64_t create[33], run[33];

    start_two(w, 60000);
    uint64_t begin_ns = gate_world_now_ns();
    for (uint8_t i = 0; i < 33; i++)
        create[i] = gate_world_ask_create(w, HVP_CREATE, (uint8_t)(10 + i), 1, -1);
    for (uint8_t i = 0; i < 33; i++) {
        assert_int_equal(gate_world_await(w, create[i]).outcome, HV_OK);
        run[i] = gate_world_ask(w, HVP_RUN, (uint8_t)(10 + i), 1, 0);
    }
    for (uint8_t i = 0; i < 33; i++)
        assert_int_equal(gate_world_await(w, run[i]).outcome, HV_OK);
    double ms = (double)(gate_world_now_ns() - begin_ns) / 1e6;
    print_message("[ 33 creates and runs, without the driver's work: %.1f ms\n", ms);
    assert_true(ms < 1000);
}

/* ---- bad input ---------------------------------------------------------------------------------
 */

static bool is_hung_up(int fd)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct ha_packet packet;

    for (unsigned i = 0; i < GATE_WORLD_WAIT_MS; i++) {
        int rc = ha_sock_receive(fd, buffer, &packet);
        if (rc == 0)
            return true;
        if (rc != 1)
            usleep(1000);
    }
    return false;
}

static void test_malformed_requests(void **state)
{
    struct gate_world *w = *state;
    uint8_t bytes[300];
    uint16_t types[] = {HVP_HELLO, HVP_CREATE, HVP_RUN, HVP_SAVE, HVP_ABORT, 77, 999};

    start_two(w, 60000);
    memset(bytes, 0xff, sizeof(bytes));
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct ha_writer body = {.data = bytes, .position = sizeof(bytes)};
        gate_world_connect(w);
        (void)gate_world_send(w, types[i], &body, STDIN_FILENO);
        assert_true(is_hung_up(w->fd));
    }
    gate_world_connect(w);
    assert_int_equal(send(w->fd, "no header", 9, 0), 9);
    assert_true(is_hung_up(w->fd));
    gate_world_connect(w);
    gate_world_hello(w, false, false);
    assert_int_equal(gate_world_list(w)->count, 2);
}

static void test_no_verb_before_hello(void **state)
{
    struct gate_world *w = *state;

    gate_world_start_silently(w);
    struct hvp_done done = gate_world_do(w, HVP_CREATE, 1, 1);
    assert_int_equal(done.outcome, HV_FAILED);
    assert_non_null(strstr(done.text, "hello"));
    gate_world_hello(w, false, false);
    assert_int_equal(gate_world_do(w, HVP_CREATE, 1, 1).outcome, HV_OK);
}

static void test_identity_files_win(void **state)
{
    struct gate_world *w = *state;
    char path[128];
    struct ha_uuid expected;

    snprintf(path, sizeof(path), "%s/boot_id", w->dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("01234567-89ab-cdef-0123-456789abcdef\n", file);
    fclose(file);
    gate_world_start(w);
    unlink(path);
    assert_int_equal(ha_uuid_parse("01234567-89ab-cdef-0123-456789abcdef", &expected), 0);
    assert_true(ha_uuid_equal(w->welcome.boot_id, expected));
    assert_string_equal(w->welcome.caps.driver, "fake");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create_and_run),
        TEST(test_lease_end),
        TEST(test_proof_each_p),
        TEST(test_started_by_hand_in_quarantine),
        TEST(test_no_proof_with_io),
        TEST(test_ended_guest_with_io),
        TEST(test_write_back_is_never_proven),
        TEST(test_no_proof_when_pause_fails),
        TEST(test_no_proof_without_listing),
        TEST(test_opening_unpauses_nothing),
        TEST(test_lease_ends_during_run),
        TEST(test_disarmed_and_frozen),
        TEST(test_stale_hello_changes_nothing),
        TEST(test_page_lost),
        TEST(test_restart_adopts),
        TEST(test_restart_remembers),
        TEST(test_restart_after_lease_end),
        TEST(test_damaged_state_file),
        TEST(test_killed_worker),
        TEST(test_dying_worker),
        TEST(test_hanging_worker),
        TEST(test_look),
        TEST(test_killed_save),
        TEST(test_aborted_save),
        TEST(test_failed_save_in_quarantine),
        TEST(test_complete_save),
        TEST(test_save_that_does_not_drain),
        TEST(test_restore),
        TEST(test_connection_ends_in_save),
        TEST(test_busy),
        TEST(test_waiting_run_ends_with_its_lease),
        TEST(test_verb_of_a_lost_connection_is_adopted),
        TEST(test_many_at_once),
        TEST(test_start_33_guests_fast),
        TEST(test_malformed_requests),
        TEST(test_no_verb_before_hello),
        TEST(test_identity_files_win),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
