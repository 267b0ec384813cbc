/* SPDX-License-Identifier: Apache-2.0
 *
 * Contract: life of a domain. Created paused, made runnable by the gate alone, stopped with proof,
 * seen alike by every process, ended by itself or by order.
 */
#include "contract.h"

#include <poll.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNKNOWN_DOMID 0x7ffffff0u

static const struct contract_guest SMALL = {.name = "small", .number = 1, .epoch = 5};

static void test_caps(void **state)
{
    struct hv_caps caps;

    (void)state;
    assert_int_equal(hv->ops->caps(hv, &caps), 0);
    assert_string_equal(caps.driver, contract->name);
    assert_true(caps.mem_kib >= 64 * 1024);
    assert_true(strnlen(caps.version, sizeof(caps.version)) < sizeof(caps.version));
    assert_string_equal(hv->ops->name, contract->name);
}

static void test_every_verb_is_there(void **state)
{
    const struct hv_ops *ops = hv->ops;

    (void)state;
    assert_true(ops->caps && ops->list && ops->run && ops->pause && ops->quiet && ops->throttle);
    assert_true(ops->event_fd && ops->event_clear && ops->reserve && ops->release);
    assert_true(ops->create && ops->shutdown && ops->destroy && ops->suspend && ops->drain);
    assert_true(ops->save && ops->restore && ops->resume_prepare && ops->dirty_sample);
    assert_true(ops->log_dirty_off && ops->checkpoint && ops->tell && ops->close);
}

static void test_created_paused(void **state)
{
    struct hv_domain d;
    struct hv_label label = label_of(&SMALL);

    (void)state;
    assert_int_equal(domain_count(), 0);
    uint32_t domid = create(&SMALL);
    assert_int_equal(domain_count(), 1);
    assert_true(find(domid, &d));
    assert_int_equal(d.state, HV_PAUSED);
    assert_true(d.is_labelled);
    assert_memory_equal(&d.label, &label, sizeof(label));
    assert_string_equal(d.name, "small");
    assert_int_equal(d.mem_kib, memory_kib_of(&SMALL));
    assert_still(SMALL.number);
    assert_int_equal(contract->steps(SMALL.number), 0);
}

static void test_run_then_pause(void **state)
{
    uint32_t domid = create(&SMALL);

    (void)state;
    run(domid);
    await_checked(SMALL.number, SMALL.epoch);
    await_state(domid, HV_RUNNING);
    run(domid); /* idempotent */
    for (int n = 0; n < 5; n++) {
        await_steps(SMALL.number, 3);
        pause_domain(domid);
        /* Proven: from this instant on not one step more. */
        uint64_t steps = contract->steps(SMALL.number);
        assert_state(domid, HV_PAUSED);
        pause_domain(domid);
        sleep_ms(20);
        assert_int_equal(contract->steps(SMALL.number), steps);
        run(domid);
    }
    await_steps(SMALL.number, 3);
    assert_int_equal(contract->damages(SMALL.number), 0);
}

static void test_another_process_sees_the_same(void **state)
{
    struct hv_domain mine, theirs;
    uint32_t domid = start(&SMALL);
    int pipe_fds[2];

    (void)state;
    assert_true(find(domid, &mine));
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        /* As a gate that was restarted: lists, adopts, pauses. */
        struct hv *other = contract->open();
        struct hv_domain list[64];
        int count = other->ops->list(other, list, 64);
        bool is_right = count == 1 && list[0].domid == domid &&
                        write(pipe_fds[1], &list[0], sizeof(list[0])) == sizeof(list[0]) &&
                        other->ops->pause(other, domid, NULL) == HV_OK;
        _exit(is_right ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(read(pipe_fds[0], &theirs, sizeof(theirs)), (ssize_t)sizeof(theirs));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    assert_memory_equal(&mine, &theirs, sizeof(mine));
    assert_state(domid, HV_PAUSED);
    run(domid);
    await_steps(SMALL.number, 3);
}

/* A guest outlives the process that made it, its group and its session. */
static void test_guest_outlives_its_maker(void **state)
{
    struct hv_domain d;
    struct hv_domain list[64];
    pid_t pid = fork();
    int status = -1;

    (void)state;
    if (pid == 0) {
        struct hv *other = contract->open();
        char text[DEFINITION_MAX];
        struct hv_label label = label_of(&SMALL);
        size_t size = contract->define(&SMALL, text, sizeof(text));
        setsid();
        enum hv_outcome outcome =
            other->ops->create(other, &label, "small", (const uint8_t *)text, size, NULL);
        if (outcome == HV_OK && other->ops->list(other, list, 64) == 1)
            outcome = other->ops->run(other, list[0].domid, NULL);
        if (outcome == HV_OK)
            kill(0, SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(hv->ops->list(hv, list, 64), 1);
    await_checked(SMALL.number, SMALL.epoch);
    await_steps(SMALL.number, 5);
    assert_true(find(list[0].domid, &d));
    assert_int_equal(d.state, HV_RUNNING);
    assert_true(d.is_labelled);
}

static void test_destroy(void **state)
{
    uint32_t paused = create(&SMALL);
    const struct contract_guest second = {.name = "second", .number = 2, .epoch = 1};
    uint32_t running = start(&second);

    (void)state;
    assert_int_not_equal(paused, running);
    destroy(running);
    assert_still(second.number);
    assert_int_equal(domain_count(), 1);
    destroy(paused);
    assert_int_equal(domain_count(), 0);
    destroy(paused); /* idempotent */
    destroy(running);
    /* A domid is never used again. */
    uint32_t again = create(&SMALL);
    assert_true(again != paused && again != running);
}

static void test_same_label_twice(void **state)
{
    char text[DEFINITION_MAX];
    size_t size = contract->define(&SMALL, text, sizeof(text));
    struct hv_label label = label_of(&SMALL);
    struct ha_err err = {0};
    uint32_t domid = start(&SMALL);

    (void)state;
    assert_int_equal(hv->ops->create(hv, &label, "small", (const uint8_t *)text, size, &err),
                     HV_FAILED);
    assert_true(strlen(err.text) > 0);
    assert_int_equal(domain_count(), 1);
    assert_state(domid, HV_RUNNING);
    await_steps(SMALL.number, 3);
}

static void test_bad_definition(void **state)
{
    static const uint8_t bad[] = "no such key = 1\n";
    struct hv_label label = label_of(&SMALL);
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(hv->ops->create(hv, &label, "small", bad, sizeof(bad) - 1, &err), HV_FAILED);
    assert_true(strlen(err.text) > 0);
    assert_int_equal(domain_count(), 0);
}

static void test_unknown_domains(void **state)
{
    const uint32_t domid = UNKNOWN_DOMID;
    struct hv_save_params params = save_to(STDOUT_FILENO);
    char why[HA_TEXT_MAX];
    uint64_t pages = 0;

    (void)state;
    assert_int_equal(hv->ops->run(hv, domid, NULL), HV_FAILED);
    assert_int_equal(hv->ops->pause(hv, domid, NULL), HV_FAILED);
    assert_int_equal(hv->ops->throttle(hv, domid, 50, NULL), HV_FAILED);
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_QUIET);
    assert_int_equal(hv->ops->shutdown(hv, domid, 10, NULL), HV_FAILED);
    assert_int_equal(hv->ops->destroy(hv, domid, NULL), HV_OK);
    assert_int_equal(hv->ops->suspend(hv, domid, NULL), HV_FAILED);
    assert_int_equal(hv->ops->drain(hv, domid, 10, NULL), HV_FAILED);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_FAILED);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, NULL), HV_FAILED);
    assert_int_equal(hv->ops->dirty_sample(hv, domid, 10, &pages, NULL), HV_FAILED);
    assert_int_equal(hv->ops->log_dirty_off(hv, domid, NULL), HV_FAILED);
}

static void test_checkpoint_is_an_answer(void **state)
{
    struct hv_caps caps;
    uint32_t domid = create(&SMALL);

    (void)state;
    hv->ops->caps(hv, &caps);
    if (caps.has_checkpoint)
        skip();
    assert_int_equal(hv->ops->checkpoint(hv, domid, STDOUT_FILENO, NULL), HV_NOT_OFFERED);
    assert_state(domid, HV_PAUSED);
}

/* Needs most of a processor, so that a tenth of one is felt. */
static const struct contract_guest BUSY = {
    .name = "busy", .number = 1, .epoch = 1, .memory_mib = 8, .dirty_mib_s = 4000, .step_ms = 5};

/* By the clock, for on a busy machine we sleep longer. */
static uint64_t steps_per_1000_s(uint32_t window_ms)
{
    uint64_t begin_ms = now_ms(), before = contract->steps(BUSY.number);

    sleep_ms(window_ms);
    return (contract->steps(BUSY.number) - before) * 1000000 / (now_ms() - begin_ms);
}

/* A tenth of a processor is felt as less than half of what it made before, whatever the machine's
 * speed. The neighbours of a busy machine may take that much in one round, hardly in each. */
static bool is_throttle_felt(uint32_t domid)
{
    for (int round = 0; round < 5; round++) {
        assert_int_equal(hv->ops->throttle(hv, domid, 100, NULL), HV_OK);
        await_steps(BUSY.number, 1);
        uint64_t whole = steps_per_1000_s(300);

        assert_int_equal(hv->ops->throttle(hv, domid, 10, NULL), HV_OK);
        await_steps(BUSY.number, 1); /* slow, not stopped */
        if (steps_per_1000_s(500) * 2 < whole)
            return true;
    }
    return false;
}

static void test_throttle(void **state)
{
    struct hv_caps caps;
    uint32_t domid = start(&BUSY);

    (void)state;
    hv->ops->caps(hv, &caps);
    if (!caps.has_throttle) {
        assert_int_equal(hv->ops->throttle(hv, domid, 50, NULL), HV_NOT_OFFERED);
        return;
    }
    assert_int_equal(hv->ops->throttle(hv, domid, 0, NULL), HV_FAILED);
    assert_int_equal(hv->ops->throttle(hv, domid, 101, NULL), HV_FAILED);
    assert_true(is_throttle_felt(domid));
    assert_int_equal(hv->ops->throttle(hv, domid, 100, NULL), HV_OK);
    await_steps(BUSY.number, 10);
}

static void await_event(void)
{
    struct pollfd p = {.fd = hv->ops->event_fd(hv), .events = POLLIN};

    assert_int_equal(poll(&p, 1, (int)WAIT_MS), 1);
}

static void check_end(enum contract_end end, enum hv_domain_state expected)
{
    struct contract_guest guest = SMALL;
    bool has_events = hv->ops->event_fd(hv) >= 0;

    guest.end = end;
    guest.number = 10 + (uint32_t)end;
    uint32_t domid = start(&guest);
    (void)domain_count(); /* what was listed is watched */
    if (has_events)
        await_event();
    await_state(domid, expected);
    hv->ops->event_clear(hv);
    if (has_events) {
        struct pollfd p = {.fd = hv->ops->event_fd(hv), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 0), 0);
    }
    /* Ended: it stays in the list, can't be run, and goes when destroyed. */
    assert_int_equal(hv->ops->run(hv, domid, NULL), HV_FAILED);
    pause_domain(domid);
    assert_state(domid, expected);
    destroy(domid);
    assert_int_equal(domain_count(), 0);
}

static void test_ends(void **state)
{
    (void)state;
    check_end(ENDS_POWEROFF, HV_POWEROFF);
    check_end(ENDS_REBOOT, HV_REBOOT);
    check_end(ENDS_CRASH, HV_CRASHED);
}

/* A gate that starts anew watches the guests it finds. */
static void test_events_after_adoption(void **state)
{
    struct contract_guest guest = SMALL;

    (void)state;
    guest.end = ENDS_POWEROFF;
    uint32_t domid = start(&guest);
    hv->ops->close(hv);
    hv = contract->open();
    if (hv->ops->event_fd(hv) < 0)
        return;
    assert_true(domain_count() == 1);
    await_event();
    await_state(domid, HV_POWEROFF);
}

static void test_shutdown(void **state)
{
    struct ha_err err = {0};
    uint32_t domid = start(&SMALL);

    (void)state;
    assert_int_equal(hv->ops->shutdown(hv, domid, WAIT_MS, &err), HV_OK);
    assert_state(domid, HV_POWEROFF);
    assert_int_equal(hv->ops->shutdown(hv, domid, WAIT_MS, &err), HV_OK); /* it has */
    destroy(domid);
    /* A paused guest can't hear; that must not be taken for done. */
    domid = create(&SMALL);
    assert_int_not_equal(hv->ops->shutdown(hv, domid, 50, &err), HV_OK);
    assert_state(domid, HV_PAUSED);
}

static void test_reserve(void **state)
{
    struct hv_caps caps;
    struct hv_label a = label_of(&SMALL);
    struct contract_guest other = {.name = "b", .number = 2, .epoch = 1};
    struct hv_label b = label_of(&other);
    struct ha_err err = {0};

    (void)state;
    uint64_t one = memory_kib_of(&other);
    hv->ops->caps(hv, &caps);
    assert_int_equal(hv->ops->reserve(hv, &a, caps.mem_kib + 1, &err), HV_FAILED);
    assert_int_equal(hv->ops->reserve(hv, &a, caps.mem_kib - one, &err), HV_OK);
    assert_int_equal(hv->ops->reserve(hv, &a, caps.mem_kib - one, &err), HV_OK); /* the same */
    assert_int_equal(hv->ops->reserve(hv, &b, 2 * one, &err), HV_FAILED);
    assert_int_equal(hv->ops->reserve(hv, &b, one, &err), HV_OK);
    hv->ops->release(hv, &a);
    hv->ops->release(hv, &a);
    assert_int_equal(hv->ops->reserve(hv, &b, 2 * one, &err), HV_OK);
    /* What a domain holds is not free, and a promise it was built from counts once. */
    uint32_t domid = create(&other);
    assert_int_equal(hv->ops->reserve(hv, &a, caps.mem_kib - one, &err), HV_OK);
    assert_int_equal(hv->ops->reserve(hv, &a, caps.mem_kib, &err), HV_FAILED);
    destroy(domid);
    hv->ops->release(hv, &b);
    assert_int_equal(hv->ops->reserve(hv, &a, caps.mem_kib, &err), HV_OK);
    hv->ops->release(hv, &a);
}

static void test_quiet(void **state)
{
    char why[HA_TEXT_MAX] = "";
    uint32_t domid = start(&SMALL);

    (void)state;
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_BUSY);
    assert_true(strlen(why) > 0);
    pause_domain(domid);
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_QUIET);
}

static void test_suspend_is_not_pause(void **state)
{
    struct ha_err err = {0};
    char why[HA_TEXT_MAX];
    uint32_t domid = start(&SMALL);

    (void)state;
    assert_int_not_equal(hv->ops->drain(hv, domid, 10, &err), HV_OK); /* it runs */
    assert_int_equal(hv->ops->suspend(hv, domid, &err), HV_OK);
    assert_state(domid, HV_SUSPENDED);
    assert_still(SMALL.number);
    assert_int_equal(hv->ops->suspend(hv, domid, &err), HV_OK);
    assert_int_equal(hv->ops->drain(hv, domid, 1000, &err), HV_OK);
    assert_int_equal(hv->ops->quiet(hv, domid, why), HV_QUIET);
    /* Neither run nor pause makes it anything else. */
    assert_int_equal(hv->ops->run(hv, domid, &err), HV_FAILED);
    pause_domain(domid);
    assert_state(domid, HV_SUSPENDED);
    assert_still(SMALL.number);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, &err), HV_OK);
    assert_state(domid, HV_PAUSED);
    assert_still(SMALL.number);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, &err), HV_OK);
    run(domid);
    await_steps(SMALL.number, 5);
    /* PAUSED -> SUSPENDED too, unless the guest would have to help: then it is as it was. */
    pause_domain(domid);
    assert_int_equal(hv->ops->suspend(hv, domid, &err),
                     contract->suspends_paused ? HV_OK : HV_FAILED);
    assert_state(domid, contract->suspends_paused ? HV_SUSPENDED : HV_PAUSED);
    destroy(domid);
}

static void test_dirty_sample(void **state)
{
    struct contract_guest guest = {
        .name = "busy", .number = 3, .epoch = 1, .memory_mib = 32, .dirty_mib_s = 16};
    uint32_t domid = start(&guest);
    uint64_t pages_s = 0;
    struct ha_err err = {0};

    (void)state;
    await_steps(guest.number, 5);
    assert_int_equal(hv->ops->dirty_sample(hv, domid, 500, &pages_s, &err), HV_OK);
    /* 4096 pages a second wanted; a crowded machine makes fewer, coarse tracking finds more. */
    assert_in_range(pages_s, 200, 6000);
    assert_untouched(domid, guest.number);
    assert_int_equal(hv->ops->log_dirty_off(hv, domid, &err), HV_OK);
    assert_int_equal(hv->ops->log_dirty_off(hv, domid, &err), HV_OK);
    pause_domain(domid);
    await_state(domid, HV_PAUSED);
    assert_int_equal(hv->ops->dirty_sample(hv, domid, 50, &pages_s, &err), HV_OK);
    assert_int_equal(pages_s, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up_test, tear_down_test)
const struct CMUnitTest life_tests[] = {
    TEST(test_caps),
    TEST(test_every_verb_is_there),
    TEST(test_created_paused),
    TEST(test_run_then_pause),
    TEST(test_another_process_sees_the_same),
    TEST(test_guest_outlives_its_maker),
    TEST(test_destroy),
    TEST(test_same_label_twice),
    TEST(test_bad_definition),
    TEST(test_unknown_domains),
    TEST(test_checkpoint_is_an_answer),
    TEST(test_throttle),
    TEST(test_ends),
    TEST(test_events_after_adoption),
    TEST(test_shutdown),
    TEST(test_reserve),
    TEST(test_quiet),
    TEST(test_suspend_is_not_pause),
    TEST(test_dirty_sample),
};
const size_t life_test_count = sizeof(life_tests) / sizeof(life_tests[0]);
