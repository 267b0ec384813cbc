/* SPDX-License-Identifier: Apache-2.0
 *
 * Contract: faults in the middle of a save. Readers that vanish or stall, workers that are killed,
 * guests that die or dirty faster than the stream drains.
 */
#include "contract.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct contract_guest BUSY = {
    .name = "busy", .number = 1, .epoch = 1, .memory_mib = 16, .dirty_mib_s = 20, .step_ms = 2};

static void test_reader_vanishes_live(void **state)
{
    uint32_t domid = start(&BUSY);
    struct ha_err err = {0};
    struct sink s;

    (void)state;
    sink_begin(&s, 1u << 20);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, &err), HV_FAILED);
    sink_end(&s);
    assert_true(strlen(err.text) > 0);
    assert_untouched(domid, BUSY.number);
    free(s.data);
}

/* Through a pipe: no MSG_NOSIGNAL there, and SIGPIPE must not end the worker. */
static void test_reader_of_a_pipe_vanishes(void **state)
{
    uint32_t domid = start(&BUSY);
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    close(fds[0]);
    struct hv_save_params params = save_to(fds[1]);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_FAILED);
    close(fds[1]);
    assert_untouched(domid, BUSY.number);
}

static void test_bad_descriptor(void **state)
{
    uint32_t domid = start(&BUSY);
    struct hv_save_params params = save_to(-1);

    (void)state;
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_FAILED);
    assert_untouched(domid, BUSY.number);
}

static int cut_fd; /* shut down when the guest has been stopped */

static void cut_when_stopped(void *user, const struct hv_progress *p)
{
    (void)user;
    if (p->phase == HV_STOPPED)
        shutdown(cut_fd, SHUT_RDWR);
}

/* The guest was stopped for the last round: no worker makes it runnable again, the gate does. */
static void test_reader_vanishes_stopped(void **state)
{
    uint32_t domid = start(&BUSY);
    struct sink s;

    (void)state;
    sink_begin(&s, SIZE_MAX);
    cut_fd = s.fd;
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, cut_when_stopped, NULL, NULL), HV_FAILED);
    sink_end(&s);
    assert_state(domid, HV_PAUSED);
    run(domid);
    assert_untouched(domid, BUSY.number);
    free(s.data);
}

/* ---- killed workers ---- */

enum when { KILLED_LIVE, KILLED_STOPPED };

static void die_when_stopped(void *user, const struct hv_progress *p)
{
    (void)user;
    if (p->phase == HV_STOPPED)
        raise(SIGKILL);
}

/* A worker of its own that saves and is killed: in the live phase from outside, because nobody
 * reads (and its log-dirty is on by then), or by itself when the guest has been stopped. */
static void kill_a_save(uint32_t domid, enum when when)
{
    struct sink s;
    int status = 0;

    sink_begin(&s, when == KILLED_LIVE ? 3u << 20 : SIZE_MAX);
    int keep = when == KILLED_LIVE ? dup(s.read_fd) : -1; /* stalls instead of vanishing */
    pid_t pid = fork();
    if (pid == 0) {
        struct hv *other = contract->open();
        struct hv_save_params params = save_to(s.fd);
        other->ops->save(other, domid, &params, when == KILLED_STOPPED ? die_when_stopped : NULL,
                         NULL, NULL);
        _exit(0);
    }
    if (when == KILLED_LIVE) {
        close(s.fd);
        s.fd = -1;
        pthread_join(s.thread, NULL); /* it has read its 3 MiB */
        await_steps(BUSY.number, 10);
        assert_int_equal(kill(pid, SIGKILL), 0);
        close(keep);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    if (when == KILLED_STOPPED)
        sink_end(&s);
    free(s.data);
}

static void test_worker_killed_live(void **state)
{
    uint32_t domid = start(&BUSY);

    (void)state;
    kill_a_save(domid, KILLED_LIVE);
    /* It runs, even before anybody cleans up. */
    assert_state(domid, HV_RUNNING);
    await_steps(BUSY.number, 200);
    assert_int_equal(hv->ops->log_dirty_off(hv, domid, NULL), HV_OK);
    assert_untouched(domid, BUSY.number);
}

static void test_worker_killed_stopped(void **state)
{
    uint32_t domid = start(&BUSY);

    (void)state;
    kill_a_save(domid, KILLED_STOPPED);
    /* Stopped from outside, or by itself for the save: it does not run in either case. */
    assert_state(domid, contract->suspends_paused ? HV_PAUSED : HV_SUSPENDED);
    assert_int_equal(hv->ops->log_dirty_off(hv, domid, NULL), HV_OK);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, NULL), HV_OK);
    assert_state(domid, HV_PAUSED);
    run(domid);
    assert_untouched(domid, BUSY.number);
}

/* The next save after a killed one moves the guest, whole. */
static void test_save_after_a_killed_one(void **state)
{
    uint32_t domid = start(&BUSY);
    struct contract_guest to = BUSY;
    struct arrival a;

    (void)state;
    kill_a_save(domid, KILLED_LIVE);
    to.epoch++;
    arrival_begin(&a, &to);
    struct hv_save_params params = save_to(a.fd);
    struct ha_err err = {0};
    if (hv->ops->save(hv, domid, &params, NULL, NULL, &err) != HV_OK)
        fail_msg("save: %s", err.text);
    arrival_end(&a);
    assert_int_equal(a.outcome, HV_OK);
    destroy(domid);
    run(a.domid);
    await_checked(to.number, to.epoch);
    await_steps(to.number, 20);
    assert_int_equal(contract->damages(to.number), 0);
}

static void test_restoring_worker_killed(void **state)
{
    struct contract_guest to = BUSY;
    struct hv_domain list[8];
    int pair[2], status;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct hv *other = contract->open();
        char text[DEFINITION_MAX];
        struct hv_label label = label_of(&to);
        size_t size = contract->define(&to, text, sizeof(text));
        uint32_t domid;
        close(pair[0]);
        other->ops->restore(other, &label, "busy", (const uint8_t *)text, size, pair[1], -1, NULL,
                            NULL, &domid, NULL);
        _exit(0);
    }
    close(pair[1]);
    uint64_t end_ms = now_ms() + WAIT_MS;
    while (hv->ops->list(hv, list, 8) == 0 && now_ms() < end_ms)
        sleep_ms(1);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(pair[0]);
    /* What is left is not runnable, and is removed like any other. */
    int count = hv->ops->list(hv, list, 8);
    assert_int_equal(count, 1);
    assert_true(list[0].state == HV_BUILDING || list[0].state == HV_CRASHED);
    assert_int_equal(hv->ops->run(hv, list[0].domid, NULL), HV_FAILED);
    assert_int_equal(contract->steps(to.number), 0);
    destroy(list[0].domid);
    assert_int_equal(domain_count(), 0);
}

/* ---- the gate in the middle of a save ---- */

struct gate {
    uint32_t domid;
    enum hv_outcome run_outcome;
};

static void run_when_stopped(void *user, const struct hv_progress *p)
{
    struct gate *g = user;

    if (p->phase != HV_STOPPED)
        return;
    struct hv *other = contract->open();
    g->run_outcome = other->ops->run(other, g->domid, NULL);
    other->ops->close(other);
}

/* A `run` between the last round and the end of the stream would make two guests of one. */
static void test_run_is_refused_while_the_last_pages_go(void **state)
{
    uint32_t domid = start(&BUSY);
    struct gate g = {.domid = domid, .run_outcome = HV_OK};
    struct sink s;

    (void)state;
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, run_when_stopped, &g, NULL), HV_OK);
    sink_end(&s);
    assert_int_equal(g.run_outcome, HV_FAILED);
    assert_state(domid, HV_SUSPENDED);
    free(s.data);
}

static void pause_when_live(void *user, const struct hv_progress *p)
{
    struct gate *g = user;

    if (p->phase == HV_LIVE && p->round == 0)
        g->run_outcome = hv->ops->pause(hv, g->domid, NULL);
}

/* The lease ends in the middle of a save: paused at once, and the save takes no notice. */
static void test_pause_in_the_middle(void **state)
{
    uint32_t domid = start(&BUSY);
    struct gate g = {.domid = domid, .run_outcome = HV_FAILED};
    struct sink s;

    (void)state;
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, pause_when_live, &g, NULL), HV_OK);
    sink_end(&s);
    assert_int_equal(g.run_outcome, HV_OK);
    assert_state(domid, HV_SUSPENDED);
    free(s.data);
}

static void save_again(void *user, const struct hv_progress *p)
{
    struct gate *g = user;
    struct hv_save_params params = save_to(STDOUT_FILENO);

    if (p->phase != HV_LIVE || g->run_outcome != HV_UNKNOWN)
        return; /* once: each try takes its time, and the guest writes meanwhile */
    struct hv *other = contract->open();
    g->run_outcome = other->ops->save(other, g->domid, &params, NULL, NULL, NULL);
    other->ops->close(other);
}

static void test_one_save_at_a_time(void **state)
{
    uint32_t domid = start(&BUSY);
    struct gate g = {.domid = domid, .run_outcome = HV_UNKNOWN};
    struct sink s;

    (void)state;
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, save_again, &g, NULL), HV_OK);
    sink_end(&s);
    assert_int_equal(g.run_outcome, HV_FAILED);
    free(s.data);
}

/* ---- guests that die, guests that are too fast ---- */

static void destroy_when_live(void *user, const struct hv_progress *p)
{
    struct gate *g = user;

    if (p->phase == HV_LIVE && g->run_outcome == HV_UNKNOWN) {
        struct hv *other = contract->open();
        g->run_outcome = other->ops->destroy(other, g->domid, NULL);
        other->ops->close(other);
    }
}

static void test_guest_destroyed_in_the_middle(void **state)
{
    uint32_t domid = start(&BUSY);
    struct gate g = {.domid = domid, .run_outcome = HV_UNKNOWN};
    struct sink s;

    (void)state;
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = save_to(s.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, destroy_when_live, &g, NULL), HV_FAILED);
    sink_end(&s);
    assert_int_equal(g.run_outcome, HV_OK);
    assert_int_equal(domain_count(), 0);
    free(s.data);
}

/* A reader of 8 or 100 MB/s, a guest that dirties all of its memory much faster. */
#define SLOW_BYTES   80000u
#define MEDIUM_BYTES 1000000u

struct slow {
    int fd;
    size_t bytes; /* in 10 ms, on average: a reader that slept too long catches up a little */
    pthread_t thread;
};

static void *read_slowly(void *argument)
{
    struct slow *s = argument;
    static uint8_t bytes[MEDIUM_BYTES];
    uint64_t last_ms = now_ms(), most = 5 * s->bytes, allowed = s->bytes;
    ssize_t r = 1;

    while (r > 0) {
        uint64_t now = now_ms();
        allowed += (now - last_ms) * s->bytes / 10;
        allowed = allowed < most ? allowed : most;
        last_ms = now;
        if (allowed < s->bytes) {
            sleep_ms(10);
            continue;
        }
        r = read(s->fd, bytes, s->bytes);
        allowed -= r > 0 ? (uint64_t)r : 0;
    }
    close(s->fd);
    return NULL;
}

static enum hv_outcome save_slowly(uint32_t domid, uint8_t on_slow, uint32_t max_downtime_ms,
                                   uint32_t deadline_ms, size_t bytes, struct ha_err *err)
{
    struct slow slow = {.bytes = bytes};
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    slow.fd = pair[1];
    assert_int_equal(pthread_create(&slow.thread, NULL, read_slowly, &slow), 0);
    struct hv_save_params params = save_to(pair[0]);
    params.max_downtime_ms = max_downtime_ms;
    params.deadline_ms = deadline_ms;
    params.on_slow = on_slow;
    enum hv_outcome outcome = hv->ops->save(hv, domid, &params, NULL, NULL, err);
    close(pair[0]);
    pthread_join(slow.thread, NULL);
    return outcome;
}

static const struct contract_guest FAST = {
    .name = "fast", .number = 1, .epoch = 1, .memory_mib = 4, .dirty_mib_s = 100, .step_ms = 2};

static void test_too_fast_aborts(void **state)
{
    uint32_t domid = start(&FAST);
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(save_slowly(domid, HV_SLOW_ABORT, 20, 500, SLOW_BYTES, &err), HV_FAILED);
    assert_true(strlen(err.text) > 0);
    assert_untouched(domid, FAST.number);
}

static void test_too_fast_pauses(void **state)
{
    uint32_t domid = start(&FAST);

    (void)state;
    assert_int_equal(save_slowly(domid, HV_SLOW_PAUSE, 20, 500, SLOW_BYTES, NULL), HV_OK);
    assert_state(domid, HV_SUSPENDED);
}

/* The least that a guest can be left is 1 ms of a processor in 100: what it writes in that, 26 MB/s
 * on a machine that fills 2.6 MB in a millisecond, is well below what the reader takes. */
static const struct contract_guest FASTER = {
    .name = "fast", .number = 1, .epoch = 1, .memory_mib = 16, .dirty_mib_s = 400, .step_ms = 2};

/* Slowed down, then moved; and at full speed again when it turns out to stay. */
static void test_too_fast_is_throttled(void **state)
{
    struct hv_caps caps;
    uint32_t domid = start(&FASTER);
    struct ha_err err = {0};

    (void)state;
    hv->ops->caps(hv, &caps);
    if (!caps.has_throttle)
        skip();
    /* 16 MiB take this reader 160 ms, twice what is allowed: a guest that is not slowed down never
     * fits by chance. */
    enum hv_outcome outcome = save_slowly(domid, HV_SLOW_THROTTLE, 80, 20000, MEDIUM_BYTES, &err);
    if (outcome != HV_OK)
        print_message("save: %s\n", err.text);
    assert_int_equal(outcome, HV_OK);
    assert_state(domid, HV_SUSPENDED);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, NULL), HV_OK);
    run(domid);
    /* 2 ms steps: at 10 percent there are 10 in 200 ms, never 15. */
    uint64_t end_ms = now_ms() + WAIT_MS, made = 0;
    while (made < 15 && now_ms() < end_ms) {
        uint64_t steps = contract->steps(FASTER.number), begin_ms = now_ms();
        sleep_ms(200);
        made = (contract->steps(FASTER.number) - steps) * 200 / (now_ms() - begin_ms);
    }
    assert_true(made >= 15);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up_test, tear_down_test)
const struct CMUnitTest fault_tests[] = {
    TEST(test_reader_vanishes_live),
    TEST(test_reader_of_a_pipe_vanishes),
    TEST(test_bad_descriptor),
    TEST(test_reader_vanishes_stopped),
    TEST(test_worker_killed_live),
    TEST(test_worker_killed_stopped),
    TEST(test_save_after_a_killed_one),
    TEST(test_restoring_worker_killed),
    TEST(test_run_is_refused_while_the_last_pages_go),
    TEST(test_pause_in_the_middle),
    TEST(test_one_save_at_a_time),
    TEST(test_guest_destroyed_in_the_middle),
    TEST(test_too_fast_aborts),
    TEST(test_too_fast_pauses),
    TEST(test_too_fast_is_throttled),
};
const size_t fault_test_count = sizeof(fault_tests) / sizeof(fault_tests[0]);
