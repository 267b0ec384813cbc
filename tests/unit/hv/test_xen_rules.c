/* SPDX-License-Identifier: Apache-2.0
 *
 * What the xen driver decides: states from flags, domids, memory, caps, live or not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/hv/xen/rules.h"

static const struct xen_ends USUAL = {.on_poweroff = HV_POWEROFF, .on_reboot = HV_REBOOT};

static enum hv_domain_state state(struct xen_facts facts, bool is_building)
{
    return xen_state_of(&facts, is_building, &USUAL);
}

static void test_what_runs_is_running(void **state_)
{
    (void)state_;
    assert_int_equal(state((struct xen_facts){0}, false), HV_RUNNING);
    /* A record that says otherwise does not make it harmless. */
    assert_int_equal(state((struct xen_facts){0}, true), HV_RUNNING);
    assert_int_equal(state((struct xen_facts){.reason = 2}, false), HV_RUNNING);
}

static void test_paused(void **state_)
{
    (void)state_;
    assert_int_equal(state((struct xen_facts){.is_paused = true}, false), HV_PAUSED);
    assert_int_equal(state((struct xen_facts){.is_paused = true}, true), HV_BUILDING);
    /* A half-made domain that "shut down" is half-made. */
    assert_int_equal(state((struct xen_facts){.is_shutdown = true, .reason = 2}, true),
                     HV_BUILDING);
}

/* In the middle of `xl destroy` a guest is paused and its disks go: it is not to be run again, and
 * counts as one that may run. */
static void test_paused_by_another(void **state_)
{
    (void)state_;
    assert_int_equal(state((struct xen_facts){.is_paused = true, .is_let_go = true}, false),
                     HV_RUNNING);
    assert_int_equal(state((struct xen_facts){.is_let_go = true}, false), HV_RUNNING);
    assert_int_equal(
        state((struct xen_facts){.is_paused = true, .is_let_go = true, .is_dying = true}, false),
        HV_CRASHED);
    assert_int_equal(state((struct xen_facts){.is_paused = true,
                                              .is_let_go = true,
                                              .is_shutdown = true,
                                              .reason = 2},
                           false),
                     HV_SUSPENDED);
}

static void test_ended(void **state_)
{
    static const struct {
        uint8_t reason;
        enum hv_domain_state state;
    } rows[] = {{0, HV_POWEROFF}, {1, HV_REBOOT},  {2, HV_SUSPENDED}, {3, HV_CRASHED},
                {4, HV_CRASHED},  {5, HV_CRASHED}, {255, HV_CRASHED}};

    (void)state_;
    for (size_t n = 0; n < sizeof(rows) / sizeof(rows[0]); n++) {
        struct xen_facts facts = {.is_shutdown = true, .reason = rows[n].reason};
        assert_int_equal(state(facts, false), rows[n].state);
        facts.is_paused = true; /* held by the controller beside: the same */
        assert_int_equal(state(facts, false), rows[n].state);
        facts.is_dying = true;
        assert_int_equal(state(facts, false), HV_CRASHED);
    }
}

static void test_ends_of_a_definition(void **state_)
{
    const struct xen_ends ends = {.on_poweroff = HV_REBOOT, .on_reboot = HV_POWEROFF};
    struct xen_facts facts = {.is_shutdown = true, .reason = 0};

    (void)state_;
    assert_int_equal(xen_state_of(&facts, false, &ends), HV_REBOOT);
    facts.reason = 1;
    assert_int_equal(xen_state_of(&facts, false, &ends), HV_POWEROFF);
    facts.reason = 2; /* a migration is nobody's wish to change */
    assert_int_equal(xen_state_of(&facts, false, &ends), HV_SUSPENDED);
}

static void test_command_line_of_xen(void **state_)
{
    (void)state_;
    assert_true(xen_is_dom0_fixed("dom0_mem=2G,max:2G watchdog"));
    assert_true(xen_is_dom0_fixed("dom0_mem=2G dom0_mem=max:2G"));
    assert_false(xen_is_dom0_fixed("dom0_mem=2G x=max:2G"));
    assert_false(xen_is_dom0_fixed(""));
    assert_true(xen_has_watchdog("dom0_mem=2G,max:2G watchdog"));
    assert_true(xen_has_watchdog("watchdog=force console=com1"));
    assert_true(xen_has_watchdog("no-watchdog watchdog=1"));
    assert_false(xen_has_watchdog("watchdog no-watchdog"));
    assert_false(xen_has_watchdog("watchdog=off"));
    assert_false(xen_has_watchdog("watchdog_timeout=10"));
    assert_false(xen_has_watchdog("x-watchdog"));
    assert_false(xen_has_watchdog(""));
}

/* libxl's own moves memory in each of these cases. */
static void test_when_the_helper_will_do(void **state_)
{
    (void)state_;
    assert_null(xen_helper_refusal(true, "4.17", "4.17", true));
    assert_non_null(strstr(xen_helper_refusal(false, "4.17", "4.17", true), "not there"));
    assert_non_null(strstr(xen_helper_refusal(true, "4.18", "4.17", true), "another release"));
    assert_non_null(strstr(xen_helper_refusal(true, "4.1", "4.17", true), "another release"));
    assert_non_null(strstr(xen_helper_refusal(true, "unknown", "4.17", true), "another release"));
    assert_non_null(strstr(xen_helper_refusal(true, "4.17", "4.17", false), "would not call"));
}

static void test_words_of_a_dead_helper(void **state_)
{
    static const char died[] =
        "domain 4097 save/restore helper [1234] died due to fatal signal Killed";
    char text[HA_TEXT_MAX], longest[2 * HA_TEXT_MAX];

    (void)state_;
    xen_helper_words(true, died, text);
    assert_non_null(strstr(text, died));
    assert_non_null(strstr(text, "hamgr-hv's log"));
    assert_non_null(strstr(text, "--xen-helper stock"));
    assert_true(strlen(text) <= 180); /* what a save's refusal has room for */
    xen_helper_words(false, died, text);
    assert_string_equal(text, died);
    xen_helper_words(true, "xc: no memory", text);
    assert_string_equal(text, "xc: no memory");
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    xen_helper_words(true, longest, text);
    assert_int_equal(strlen(text), HA_TEXT_MAX - 1);
}

static void test_domids_come_round(void **state_)
{
    uint32_t domid = xen_domid_after(0);

    (void)state_;
    assert_int_equal(domid, XEN_DOMID_FIRST);
    assert_int_equal(xen_domid_after(domid), XEN_DOMID_FIRST + 1);
    assert_int_equal(xen_domid_after(XEN_DOMID_LAST - 1), XEN_DOMID_LAST);
    assert_int_equal(xen_domid_after(XEN_DOMID_LAST), XEN_DOMID_FIRST);
    assert_int_equal(xen_domid_after(UINT32_MAX), XEN_DOMID_FIRST);
    assert_int_equal(xen_domid_after(17), XEN_DOMID_FIRST); /* a damaged file */
}

static void test_memory(void **state_)
{
    struct xen_memory m = {.total = 1000, .free_real = 1000};

    (void)state_;
    assert_int_equal(xen_memory_free(&m), 1000);
    m.held = 300;
    m.promised = 200;
    assert_int_equal(xen_memory_free(&m), 500);
    /* Somebody else took memory: the books alone would over-commit. */
    m.free_real = 450;
    assert_int_equal(xen_memory_free(&m), 250);
    m.missing = 100;
    assert_int_equal(xen_memory_free(&m), 150);
    m.missing = 1000;
    assert_int_equal(xen_memory_free(&m), 0);
    m = (struct xen_memory){.total = 10, .held = 20, .free_real = 1000};
    assert_int_equal(xen_memory_free(&m), 0);
}

static void test_memory_has_a_cushion(void **state_)
{
    const uint64_t gib = 1024 * 1024;

    (void)state_;
    assert_int_equal(xen_memory_total(0, 0), 0);
    assert_int_equal(xen_memory_total(16 * 1024, 0), 0);
    assert_int_equal(xen_memory_total(64 * gib, 0), 63 * gib - 32 * 1024);
    /* What guests hold already is part of it: the same before and after a restart. */
    assert_int_equal(xen_memory_total(24 * gib, 40 * gib), xen_memory_total(64 * gib, 0));
    assert_int_equal(xen_memory_total(64 * gib + 1, 0) % 4, 0);
}

static void test_caps(void **state_)
{
    (void)state_;
    assert_int_equal(xen_cap_of(50, 4, 0), 200);
    assert_int_equal(xen_cap_of(100, 4, 0), 0);   /* off */
    assert_int_equal(xen_cap_of(100, 4, 80), 80); /* off: the guest's own again */
    assert_int_equal(xen_cap_of(50, 4, 80), 40);
    assert_int_equal(xen_cap_of(1, 1, 0), 1);
    assert_int_equal(xen_cap_of(1, 1, 10), 1); /* never 0: that would be none */
    assert_int_equal(xen_cap_of(99, 100000, 0), UINT16_MAX);
}

/* Of what it used, not of what it might use. */
static void test_caps_of_use(void **state_)
{
    (void)state_;
    assert_int_equal(xen_cap_of_use(50, 20, 1, 0), 10);
    assert_int_equal(xen_cap_of_use(5, 10, 1, 0), 1);
    assert_int_equal(xen_cap_of_use(50, 0, 2, 0), 100);   /* not known: of all */
    assert_int_equal(xen_cap_of_use(50, 300, 2, 0), 100); /* more than there is: measured badly */
    assert_int_equal(xen_cap_of_use(50, 20, 1, 30), 10);
    assert_int_equal(xen_cap_of_use(50, 80, 1, 30), 15);
    assert_int_equal(xen_cap_of_use(100, 20, 1, 0), 0); /* off */
    assert_int_equal(xen_cap_of_use(100, 20, 1, 30), 30);
}

static void test_live(void **state_)
{
    (void)state_;
    assert_null(xen_live_refusal(XEN_KIND_PV, true, false));
    assert_non_null(xen_live_refusal(XEN_KIND_PV, false, true)); /* Debian's own build */
    assert_null(xen_live_refusal(XEN_KIND_PVH, false, true));
    assert_null(xen_live_refusal(XEN_KIND_HVM, true, false));
    assert_non_null(xen_live_refusal(XEN_KIND_HVM, false, false));
}

static void test_standing_still(void **state_)
{
    struct hv_save_params params = {
        .max_downtime_ms = 5000, .on_slow = HV_SLOW_THROTTLE, .switch_us = 1200000};

    (void)state_;
    assert_int_equal(xen_still_ms(&params), 3800);
    params.switch_us = 6000000;
    assert_int_equal(xen_still_ms(&params), 0);
    params.on_slow = HV_SLOW_PAUSE; /* the one that may break it */
    assert_true(xen_still_ms(&params) == UINT64_MAX);
    params = (struct hv_save_params){.max_downtime_ms = 5000, .is_live = true};
    assert_true(xen_still_ms(&params) == UINT64_MAX);
    params = (struct hv_save_params){.max_downtime_ms = 0};
    assert_true(xen_still_ms(&params) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_runs_is_running),
        cmocka_unit_test(test_paused),
        cmocka_unit_test(test_paused_by_another),
        cmocka_unit_test(test_ended),
        cmocka_unit_test(test_ends_of_a_definition),
        cmocka_unit_test(test_command_line_of_xen),
        cmocka_unit_test(test_when_the_helper_will_do),
        cmocka_unit_test(test_words_of_a_dead_helper),
        cmocka_unit_test(test_domids_come_round),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_has_a_cushion),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_caps_of_use),
        cmocka_unit_test(test_live),
        cmocka_unit_test(test_standing_still),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
