/* SPDX-License-Identifier: Apache-2.0
 *
 * Definitions of embedded guests: what is taken, what is refused, and with which words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "hamgr/hv/embedded/definition.h"

static int parse(const char *text, struct emb_definition *ret, struct ha_err *err)
{
    return emb_definition_parse((const uint8_t *)text, strlen(text), ret, err);
}

static void test_empty_is_a_small_guest(void **state)
{
    struct emb_definition d;

    (void)state;
    assert_int_equal(emb_definition_parse(NULL, 0, &d, NULL), 0);
    assert_int_equal(d.memory_mib, 8);
    assert_int_equal(d.step_ms, 100);
    assert_int_equal(d.zero_percent, 40);
    assert_int_equal(d.text_percent, 40);
    assert_int_equal(d.observer_slot, EMB_NO_SLOT);
    assert_int_equal(d.disk, EMB_DISK_NONE);
    assert_int_equal(d.has_console, 1);
    assert_int_equal(d.seed, 1);
}

static void test_every_key(void **state)
{
    struct emb_definition d;
    struct ha_err err = {0};

    (void)state;
    assert_int_equal(parse("; a comment\n# another\nmemory_mib = 512\ndirty_mib_s=50\r\n"
                           "zero_percent = 10\ntext_percent = 20\nrandom_percent = 70\n"
                           "writes_per_s = 100\nstep_ms = 5\ncrash_after_s = 1\n"
                           "poweroff_after_s = 2\nreboot_after_s = 3\nobserver_slot = 65535\n"
                           "disk = writeback\nconsole = no\nseed = 18446744073709551\n",
                           &d, &err),
                     0);
    assert_int_equal(d.memory_mib, 512);
    assert_int_equal(d.dirty_kib_s, 50 * 1024);
    assert_int_equal(d.zero_percent, 10);
    assert_int_equal(d.text_percent, 20);
    assert_int_equal(d.writes_per_s, 100);
    assert_int_equal(d.step_ms, 5);
    assert_int_equal(d.crash_after_s, 1);
    assert_int_equal(d.poweroff_after_s, 2);
    assert_int_equal(d.reboot_after_s, 3);
    assert_int_equal(d.observer_slot, 65535);
    assert_int_equal(d.disk, EMB_DISK_WRITEBACK);
    assert_int_equal(d.has_console, 0);
    assert_true(d.seed == UINT64_C(18446744073709551));
}

static void test_refusals(void **state)
{
    static const struct {
        const char *text;
        const char *says;
    } cases[] = {
        {"memory_mib = 0\n", "line 1: memory_mib = 0: expected a number from 1 to 65536"},
        {"memory_mib = 65537\n", "expected a number from 1 to 65536"},
        {"memory_mib = -1\n", "expected a number"},
        {"memory_mib = 8x\n", "expected a number"},
        {"memory_mib =\n", "expected a number"},
        {"memory_mib = 99999999999999999999999\n", "expected a number"},
        {"\nmemory = 8\n", "line 2: memory = 8: expected a known key"},
        {"memory_mib = 8\nmemory_mib = 9\n",
         "line 2: memory_mib = 9: expected each key at most once"},
        {"[guest]\nmemory_mib = 8\n", "expected no sections"},
        {"memory_mib\n", "expected key = value"},
        {"disk = buffered\n", "expected none|direct|writeback"},
        {"disk = no\n", "expected none|direct|writeback"},
        {"console = y\n", "expected no|yes"},
        {"seed = abc\n", "expected a number"},
        {"zero_percent = 60\ntext_percent = 41\n", "expected at most 100"},
        {"zero_percent = 40\ntext_percent = 40\nrandom_percent = 10\n", "= 90: expected 100"},
        {"dirty_mib_s = 1\ndirty_kib_s = 1\n", "expected only one"},
        {"writes_per_s = 10\n", "writes_per_s without disk"},
        {"memory_mib = 8\n  9\n", "at most once"},
        {"seed = 1 ; \x01\n", "not printable"},
        {"seed = \xc3\xa4\n", "not printable"},
    };

    (void)state;
    for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        struct emb_definition d = {.memory_mib = 77};
        struct ha_err err = {0};
        assert_int_equal(parse(cases[n].text, &d, &err), -HA_E_USAGE);
        if (!strstr(err.text, cases[n].says))
            fail_msg("case %zu says '%s', not '%s'", n, err.text, cases[n].says);
        assert_int_equal(d.memory_mib, 77);
    }
}

static void test_odd_bytes(void **state)
{
    static uint8_t big[HA_DEFINITION_MAX + 1];
    char line[300];
    struct emb_definition d;
    struct ha_err err;

    (void)state;
    assert_int_equal(emb_definition_parse((const uint8_t *)"seed = 1\0x", 10, &d, &err),
                     -HA_E_USAGE);
    memset(big, '\n', sizeof(big));
    assert_int_equal(emb_definition_parse(big, sizeof(big), &d, &err), -HA_E_USAGE);
    assert_int_equal(emb_definition_parse(big, sizeof(big) - 1, &d, &err), 0);
    /* inih would cut such a line and read "memory_mib = 9" as a line of its own. */
    memset(line, ' ', sizeof(line));
    line[0] = ';';
    memcpy(line + 199, "memory_mib = 9\n", 16);
    assert_int_equal(parse(line, &d, &err), -HA_E_USAGE);
    assert_non_null(strstr(err.text, "longer than"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_is_a_small_guest),
        cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_odd_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
