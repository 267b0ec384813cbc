/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr.conf: defaults, every kind of value, and errors that name file, line, key and expectation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <stdio.h>

#include "hamgr/config/config.h"

static void test_an_empty_file_gives_the_defaults(void **unused)
{
    struct ha_config config, defaults;

    (void)unused;
    memset(&config, 0, sizeof(config));
    memset(&defaults, 0, sizeof(defaults));
    ha_config_default(&config);
    ha_config_default(&defaults);
    assert_int_equal(ha_config_parse("f", "", &config, NULL), 0);
    assert_memory_equal(&config, &defaults, sizeof(config));
    assert_int_equal(config.heartbeat_ms, 500);
    assert_int_equal(config.keeper_ms, 250);
    assert_int_equal(config.watchdog_ms, 5000);
    assert_int_equal(config.lease_ms, 0);
}

static void test_a_missing_file_gives_the_defaults(void **unused)
{
    struct ha_config config;

    (void)unused;
    assert_int_equal(ha_config_load("/nonexistent/hamgr.conf", &config, NULL), 0);
    assert_string_equal(config.state_dir, "/var/lib/hamgr");
}

static void test_every_kind_of_value(void **unused)
{
    static const char text[] = "# a comment\n"
                               "[node]\nname = n1\nwitness = yes\nmemory = 2GiB\n"
                               "hypervisor = embedded\n"
                               "[cluster]\nlease = 8s\nheartbeat = 250ms\n"
                               "[watchdog]\ndevice = unix:/run/x\nallow-softdog = yes\n"
                               "[migration]\nports = 100-200\nlevel = 3\ndeadline = 0\n"
                               "[guests]\non-shutdown = stop\n[log]\nlevel = debug\n";
    struct ha_config c;
    struct ha_err err = {0};

    (void)unused;
    ha_config_default(&c);
    assert_int_equal(ha_config_parse("f", text, &c, &err), 0);
    assert_string_equal(c.name, "n1");
    assert_true(c.is_witness);
    assert_int_equal(c.mem_kib, 2 * 1024 * 1024);
    assert_string_equal(c.hypervisor, "embedded");
    assert_int_equal(c.lease_ms, 8000);
    assert_int_equal(c.heartbeat_ms, 250);
    assert_string_equal(c.watchdog_device, "unix:/run/x");
    assert_true(c.allow_softdog);
    assert_int_equal(c.port_min, 100);
    assert_int_equal(c.port_max, 200);
    assert_int_equal(c.level, 3);
    assert_int_equal(c.shutdown, HA_SHUTDOWN_STOP);
    assert_int_equal(c.log_level, 7);
}

static void test_auto_is_a_lease(void **unused)
{
    struct ha_config c;

    (void)unused;
    ha_config_default(&c);
    c.lease_ms = 5;
    assert_int_equal(ha_config_parse("f", "[cluster]\nlease = auto\n", &c, NULL), 0);
    assert_int_equal(c.lease_ms, 0);
}

struct bad {
    const char *text;
    const char *expected;
};

static void test_errors_say_where_and_what(void **unused)
{
    static const struct bad cases[] = {
        {"[node]\nnaem = n1\n", "f:2: [node] naem: no such key"},
        {"[nodes]\nname = n1\n", "f:2: [nodes]: no such section, expected node"},
        {"\n[cluster]\nheartbeat = 5\n",
         "f:3: [cluster] heartbeat: got \"5\", expected a time from 50ms to 10s"},
        {"[cluster]\nheartbeat = 5ms\n", "got \"5ms\", expected a time from 50ms to 10s"},
        {"[cluster]\nlease = -1s\n", "got \"-1s\", expected auto or a time"},
        {"[node]\nwitness = maybe\n", "got \"maybe\", expected yes or no"},
        {"[node]\nname = a b\n", "got \"a b\", expected a node name"},
        {"[node]\nname = a\nname = b\n", "f:3: [node] name: given twice"},
        {"[migration]\nports = 9-5\n", "got \"9-5\", expected a range"},
        {"[migration]\nlevel = 20\n", "expected a zstd level from 0"},
        {"[node]\nmemory = 99999999999999999999GiB\n", "expected a size"},
        {"[node]\nmemory = 18446744073709551615TiB\n", "expected a size"},
        {"[migration]\nports = -18446744073709543836\n", "expected a range"},
        {"[migration]\nports = 7780-+7799\n", "expected a range"},
        {"garbage\n", "f:1: expected [section] or key = value"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ha_config c;
        struct ha_err err = {0};
        ha_config_default(&c);
        assert_int_equal(ha_config_parse("f", cases[i].text, &c, &err), -HA_E_USAGE);
        if (!strstr(err.text, cases[i].expected))
            fail_msg("\"%s\" does not contain \"%s\"", err.text, cases[i].expected);
    }
}

/* inih would read what lies behind its 200th byte as a line of its own: here, as a key. */
static void test_a_long_line_is_refused(void **unused)
{
    struct ha_config c;
    struct ha_err err = {0};
    char text[512];

    (void)unused;
    ha_config_default(&c);
    snprintf(text, sizeof(text), "[node]\n# %0197d\nwitness = yes\n", 7);
    memcpy(strstr(text, "7\n") - 12, "witness = no ", 13);
    assert_int_equal(ha_config_parse("f", text, &c, &err), -HA_E_USAGE);
    assert_non_null(strstr(err.text, "f:2: a line longer than 180 bytes"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_file_gives_the_defaults),
        cmocka_unit_test(test_a_missing_file_gives_the_defaults),
        cmocka_unit_test(test_every_kind_of_value),
        cmocka_unit_test(test_auto_is_a_lease),
        cmocka_unit_test(test_errors_say_where_and_what),
        cmocka_unit_test(test_a_long_line_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
