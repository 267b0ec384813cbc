/* SPDX-License-Identifier: Apache-2.0
 *
 * Contract: save and restore. The guest arrives whole, by its own check; the source is suspended;
 * what a stream lacks or has too much is refused and leaves nothing behind.
 */
#include "contract.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct contract_guest BUSY = {
    .name = "busy", .number = 1, .epoch = 1, .memory_mib = 16, .dirty_mib_s = 20, .step_ms = 2};

static struct contract_guest later(const struct contract_guest *guest, uint64_t epochs)
{
    struct contract_guest next = *guest;

    next.epoch += epochs;
    return next;
}

struct seen {
    bool is_live, is_stopped, is_complete;
    uint32_t rounds;
    uint64_t bytes, pages_total;
    uint64_t last_bytes;
};

static void watch(void *user, const struct hv_progress *p)
{
    struct seen *seen = user;

    seen->is_live |= p->phase == HV_LIVE;
    seen->is_stopped |= p->phase == HV_STOPPED;
    seen->is_complete |= p->phase == HV_COMPLETE;
    seen->rounds = p->round;
    seen->pages_total = p->pages_total;
    assert_true(p->bytes >= seen->bytes); /* cumulative */
    seen->bytes = p->bytes;
}

/* Moves a running guest to a new domain; the source is destroyed. */
static uint32_t migrate(uint32_t domid, const struct contract_guest *to, struct seen *seen)
{
    struct arrival a;
    struct ha_err err = {0};

    arrival_begin(&a, to);
    struct hv_save_params params = save_to(a.fd);
    enum hv_outcome outcome = hv->ops->save(hv, domid, &params, seen ? watch : NULL, seen, &err);
    if (outcome != HV_OK)
        fail_msg("save: %s", err.text);
    assert_state(domid, HV_SUSPENDED);
    arrival_end(&a);
    if (a.outcome != HV_OK)
        fail_msg("restore: %s", a.err.text);
    assert_state(a.domid, HV_PAUSED);
    assert_still(to->number);
    assert_int_equal(hv->ops->run(hv, domid, NULL), HV_FAILED); /* the source stays suspended */
    run(a.domid);
    await_checked(to->number, to->epoch);
    destroy(domid);
    return a.domid;
}

static void test_live_round_trip(void **state)
{
    uint32_t domid = start(&BUSY);
    struct seen seen = {0};

    (void)state;
    for (uint64_t n = 1; n <= 10; n++) {
        struct contract_guest to = later(&BUSY, n);
        struct hv_domain d;
        uint64_t steps = contract->steps(BUSY.number);
        memset(&seen, 0, sizeof(seen));
        domid = migrate(domid, &to, &seen);
        assert_true(find(domid, &d));
        assert_int_equal(d.label.epoch, to.epoch);
        assert_int_equal(d.mem_kib, memory_kib_of(&BUSY));
        await_steps(BUSY.number, 20);
        assert_true(contract->steps(BUSY.number) > steps); /* it went on, it did not begin anew */
        assert_int_equal(contract->damages(BUSY.number), 0);
        assert_true(seen.is_live && seen.is_stopped && seen.is_complete);
        assert_true(seen.pages_total >= memory_kib_of(&BUSY) / 4);
        assert_true(seen.bytes >= (uint64_t)BUSY.memory_mib << 20);
    }
}

static void test_cold_save_of_a_paused_guest(void **state)
{
    struct contract_guest to = later(&BUSY, 1);
    uint32_t domid = start(&BUSY), arrived = 0;
    struct ha_err err = {0};
    struct sink s;

    (void)state;
    pause_domain(domid);
    sink_begin(&s, SIZE_MAX);
    struct hv_save_params params = {.fd = s.fd, .is_live = false};
    if (!contract->suspends_paused) {
        assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, &err), HV_FAILED);
        assert_state(domid, HV_PAUSED);
        run(domid);
    }
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, &err), HV_OK);
    sink_end(&s);
    assert_state(domid, HV_SUSPENDED);
    destroy(domid);
    assert_int_equal(restore_bytes(&to, s.data, s.size, &arrived, &err), HV_OK);
    assert_state(arrived, HV_PAUSED);
    run(arrived);
    await_checked(to.number, to.epoch);
    await_steps(to.number, 20);
    assert_int_equal(contract->damages(to.number), 0);
    free(s.data);
}

/* Copied before it ever ran: it begins its life where it arrives. */
static void test_save_of_a_newborn(void **state)
{
    struct contract_guest to = later(&BUSY, 1);
    uint32_t domid = create(&BUSY);
    struct arrival a;

    (void)state;
    if (!contract->suspends_paused)
        skip(); /* it never ran, so it can't suspend itself */
    arrival_begin(&a, &to);
    struct hv_save_params params = save_to(a.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    arrival_end(&a);
    assert_int_equal(a.outcome, HV_OK);
    destroy(domid);
    run(a.domid);
    await_checked(to.number, to.epoch);
    assert_int_equal(contract->damages(to.number), 0);
}

/* ABORT: the source goes on where it stood, the copy is destroyed, and moving it works again. */
static void test_source_resumes_after_abort(void **state)
{
    struct contract_guest first = later(&BUSY, 1), second = later(&BUSY, 2);
    uint32_t domid = start(&BUSY);
    struct arrival a;

    (void)state;
    arrival_begin(&a, &first);
    struct hv_save_params params = save_to(a.fd);
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    arrival_end(&a);
    assert_int_equal(a.outcome, HV_OK);
    destroy(a.domid);
    assert_int_equal(hv->ops->resume_prepare(hv, domid, NULL), HV_OK);
    assert_state(domid, HV_PAUSED);
    run(domid);
    await_steps(BUSY.number, 20);
    assert_untouched(domid, BUSY.number);
    domid = migrate(domid, &second, NULL);
    await_steps(BUSY.number, 20);
    assert_int_equal(contract->damages(BUSY.number), 0);
}

static void expect_refusal(const struct contract_guest *to, const uint8_t *data, size_t size)
{
    uint32_t domid = 0;
    struct ha_err err = {0};
    int before = domain_count();

    enum hv_outcome outcome = restore_bytes(to, data, size, &domid, &err);
    if (outcome != HV_FAILED)
        fail_msg("a bad stream of %zu bytes: outcome %d", size, (int)outcome);
    assert_true(strlen(err.text) > 0);
    assert_int_equal(domain_count(), before);
}

static void capture(struct sink *s)
{
    uint32_t domid = start(&BUSY);
    struct hv_save_params params;

    await_steps(BUSY.number, 20);
    sink_begin(s, SIZE_MAX);
    params = (struct hv_save_params){.fd = s->fd, .is_live = false};
    assert_int_equal(hv->ops->save(hv, domid, &params, NULL, NULL, NULL), HV_OK);
    sink_end(s);
    destroy(domid);
}

static void test_truncated_streams(void **state)
{
    struct contract_guest to = later(&BUSY, 1);
    uint32_t domid = 0;
    struct sink s;

    (void)state;
    capture(&s);
    const size_t cuts[] = {0,           1,           15,         16,         24,
                           40,          71,          72,         80,         88,
                           4096,        s.size / 2,  s.size - 1, s.size - 8, s.size - 9,
                           s.size - 16, s.size - 40, s.size - 88};
    for (size_t n = 0; n < sizeof(cuts) / sizeof(cuts[0]); n++)
        expect_refusal(&to, s.data, cuts[n]);
    assert_int_equal(restore_bytes(&to, s.data, s.size, &domid, NULL), HV_OK);
    run(domid);
    await_checked(to.number, to.epoch);
    free(s.data);
}

/* Headers and records of the stream are flipped bit by bit at their beginning and end: refused, or
 * (a byte without meaning) the guest is whole. Never a crash, a hang or a left-over. */
static void test_corrupt_streams(void **state)
{
    struct contract_guest to = later(&BUSY, 1);
    unsigned refused = 0;
    struct sink s;

    (void)state;
    capture(&s);
    for (size_t n = 0; n < 100; n++) {
        size_t at = n < 80 ? n : s.size - 88 + (n - 80) * 4;
        uint32_t domid = 0;
        s.data[at] ^= 0x21;
        enum hv_outcome outcome = restore_bytes(&to, s.data, s.size, &domid, NULL);
        s.data[at] ^= 0x21;
        assert_true(outcome == HV_OK || outcome == HV_FAILED);
        refused += outcome == HV_FAILED;
        if (outcome == HV_OK)
            destroy(domid);
        assert_int_equal(domain_count(), 0);
    }
    assert_in_range(refused, contract->refused_min, 100);
    free(s.data);
}

/* A damaged page is not the stream's to find: the guest finds it itself. */
static void test_damaged_page_is_found_by_the_guest(void **state)
{
    struct contract_guest to = later(&BUSY, 1);
    uint32_t domid = 0;
    struct sink s;

    (void)state;
    capture(&s);
    s.data[contract->page_byte(s.data, s.size)] ^= 1;
    assert_int_equal(restore_bytes(&to, s.data, s.size, &domid, NULL), HV_OK);
    run(domid);
    await_state(domid, HV_CRASHED);
    assert_int_equal(contract->damages(to.number), 1);
    assert_false(contract->is_checked(to.number, to.epoch));
    free(s.data);
}

static void test_stream_of_another_size(void **state)
{
    struct contract_guest to = later(&BUSY, 1);
    struct sink s;

    (void)state;
    capture(&s);
    to.memory_mib = BUSY.memory_mib * 2;
    expect_refusal(&to, s.data, s.size);
    to.memory_mib = BUSY.memory_mib / 2;
    expect_refusal(&to, s.data, s.size);
    free(s.data);
}

static void test_garbage(void **state)
{
    struct contract_guest to = later(&BUSY, 1);
    uint8_t bytes[4096];

    (void)state;
    memset(bytes, 0, sizeof(bytes));
    expect_refusal(&to, bytes, sizeof(bytes));
    memset(bytes, 0xff, sizeof(bytes));
    expect_refusal(&to, bytes, sizeof(bytes));
    memcpy(bytes, "LibxlFmt", 8);
    expect_refusal(&to, bytes, sizeof(bytes));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up_test, tear_down_test)
const struct CMUnitTest save_tests[] = {
    TEST(test_live_round_trip),
    TEST(test_cold_save_of_a_paused_guest),
    TEST(test_save_of_a_newborn),
    TEST(test_source_resumes_after_abort),
    TEST(test_truncated_streams),
    TEST(test_corrupt_streams),
    TEST(test_damaged_page_is_found_by_the_guest),
    TEST(test_stream_of_another_size),
    TEST(test_garbage),
};
const size_t save_test_count = sizeof(save_tests) / sizeof(save_tests[0]);
