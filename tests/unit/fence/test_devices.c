/* SPDX-License-Identifier: Apache-2.0
 *
 * fence.conf: what is read, what is refused and in which words, who may own it, what an agent is
 * given, and that no secret comes out again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "fence/devices.h"

static struct devices devices;
static struct ha_err err;

static int parse(const char *text)
{
    err = (struct ha_err){0};
    return devices_parse("fence.conf", text, &devices, &err);
}

static void assert_says(const char *words)
{
    if (!strstr(err.text, words))
        fail_msg("\"%s\" does not say \"%s\"", err.text, words);
}

/* --- What is read --- */

static void a_device_has_its_keys(void **state)
{
    (void)state;
    assert_int_equal(parse("# two nodes' BMCs\n"
                           "[device ipmi]\n"
                           "agent = fence_ipmilan\n"
                           "level = 2\n"
                           "timeout = 20s\n"
                           "monitor = 10m\n"
                           "nodes = n1, n2\n"
                           "plug.n1 = 10.0.0.1\n"
                           "username = admin\n"
                           "[device pdu]\n"
                           "agent = fence_apc\n"
                           "monitor = 0\n"),
                     0);
    assert_int_equal(devices.count, 2);
    const struct device *ipmi = devices_find(&devices, "ipmi");
    assert_non_null(ipmi);
    assert_string_equal(ipmi->d.agent, "fence_ipmilan");
    assert_int_equal(ipmi->d.level, 2);
    assert_int_equal(ipmi->d.timeout_ms, 20000);
    assert_int_equal(ipmi->monitor_ms, 600000);
    assert_false(ipmi->d.is_for_all);
    assert_int_equal(ipmi->d.node_count, 2);
    assert_string_equal(ipmi->d.nodes[1], "n2");
    const struct device *pdu = devices_find(&devices, "pdu");
    assert_non_null(pdu);
    assert_true(pdu->d.is_for_all);
    assert_int_equal(pdu->d.level, 1);
    assert_int_equal(pdu->d.timeout_ms, 60000);
    assert_int_equal(pdu->monitor_ms, 0);
    assert_null(devices_find(&devices, "ipm"));
}

static void an_empty_file_has_no_devices(void **state)
{
    (void)state;
    assert_int_equal(parse(""), 0);
    assert_int_equal(devices.count, 0);
    assert_int_equal(devices_load("/nonexistent/fence.conf", &devices, &err), 0);
    assert_int_equal(devices.count, 0);
}

/* --- What is refused: with file, line, section, key, and what was expected --- */

static void errors_name_the_place(void **state)
{
    static const struct {
        const char *text;
        const char *words[3];
    } cases[] = {
        {"[device a]\nagent = ipmilan\n", {"fence.conf:2:", "agent", "expected the base name"}},
        {"[device a]\nagent = fence_a/../b\n", {"fence.conf:2:", "agent", "base name"}},
        {"[device a]\nagent = fence_x\nlevel = 0\n", {"fence.conf:3:", "level", "1 to 9"}},
        {"[device a]\nagent = fence_x\nlevel = 10\n", {"fence.conf:3:", "[device a]", "\"10\""}},
        {"[device a]\nagent = fence_x\ntimeout = 20y\n", {"fence.conf:3:", "timeout", "100ms"}},
        {"[device a]\nagent = fence_x\ntimeout = 0\n", {"fence.conf:3:", "timeout", "10m"}},
        {"[device a]\nagent = fence_x\ntimeout = -5s\n", {"fence.conf:3:", "timeout", "-5s"}},
        {"[device a]\nagent = fence_x\ntimeout = 11m\n", {"fence.conf:3:", "timeout", "11m"}},
        {"[device a]\nagent = fence_x\nmonitor = 25h\n", {"fence.conf:3:", "monitor", "24h"}},
        {"[device a]\nagent = fence_x\nnodes = n1,n 2/\n",
         {"fence.conf:3:", "nodes", "node names"}},
        {"[device a]\nagent = fence_x\nplug./ = x\n", {"fence.conf:3:", "plug./", "plug.NODE"}},
        {"[device a]\nagent = fence_x\naction = off\n",
         {"fence.conf:3:", "action", "hamgr sets it"}},
        {"[device a]\nagent = fence_x\nport = 1\n", {"fence.conf:3:", "port", "plug.NODE"}},
        {"[ipmi]\nagent = fence_x\n", {"fence.conf:2:", "[ipmi]", "[device NAME]"}},
        {"[device a b]\nagent = fence_x\n", {"fence.conf:2:", "device a b", "[device NAME]"}},
        {"agent = fence_x\n", {"fence.conf:1:", "agent", "[device NAME]"}},
        {"[device a]\nagent = fence_x\nwhat is this\n", {"fence.conf:3:", "key = value", ""}},
        {"[device a]\nlevel = 1\n", {"fence.conf", "[device a]", "has no agent"}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(parse(cases[i].text), -HA_E_USAGE);
        for (size_t w = 0; w < 3; w++)
            assert_says(cases[i].words[w]);
    }
}

/* Peers hear of all devices in one message: what does not fit it is refused here, not lost there.
 */
static void what_peers_could_not_be_told_is_refused(void **state)
{
    static char text[1 << 20];
    size_t used = 0;

    (void)state;
    for (unsigned i = 0; i < HA_DEVICES_MAX; i++) {
        used += (size_t)snprintf(text + used, sizeof(text) - used,
                                 "[device d%u]\nagent = fence_x\nnodes =", i);
        for (unsigned n = 0; n < HA_NODES_MAX; n++)
            used += (size_t)snprintf(text + used, sizeof(text) - used, "  node%059u\n", n);
    }
    assert_int_equal(parse(text), -HA_E_LIMIT);
    assert_says("at most 32768 can be told to peers");
    text[used / 3] = '\0';
    *(strrchr(text, '\n') + 1) = '\0';
    assert_int_equal(parse(text), 0);
    assert_int_equal(devices.list[0].d.node_count, HA_NODES_MAX); /* from many lines */
}

static void what_is_given_twice_is_refused(void **state)
{
    (void)state;
    assert_int_not_equal(parse("[device a]\nagent = fence_x\npassword = a\n  b\n"), 0);
    assert_says("once");
    assert_int_not_equal(parse("[device a]\nagent = fence_x\nplug.n1 = 1\nplug.n1 = 2\n"), 0);
    assert_says("once");
}

static void limits_hold(void **state)
{
    char text[32768], value[300];
    size_t used = 0;

    (void)state;
    for (unsigned i = 0; i <= HA_DEVICES_MAX; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used,
                                 "[device d%u]\nagent = fence_x\n", i);
    assert_int_equal(parse(text), -HA_E_USAGE);
    assert_says("at most 32 devices");
    used = (size_t)snprintf(text, sizeof(text), "[device a]\nagent = fence_x\n");
    for (unsigned i = 0; i <= FENCE_OPTIONS_MAX; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "o%u = 1\n", i);
    assert_int_equal(parse(text), -HA_E_USAGE);
    assert_says("32 options");
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    snprintf(text, sizeof(text), "[device a]\nagent = fence_x\npassword = %s\n", value);
    assert_int_not_equal(parse(text), 0);
    assert_null(strstr(err.text, "vvvv")); /* may be a password */
}

/* --- The file --- */

static char *write_conf(const char *text, mode_t mode)
{
    static char path[] = "/tmp/hamgr-fence-XXXXXX";

    memcpy(path + sizeof(path) - 7, "XXXXXX", 6);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
    return path;
}

static void others_may_not_read_it(void **state)
{
    static const mode_t open_modes[] = {0644, 0640, 0604, 0601, 0620, 0660};
    const char *text = "[device a]\nagent = fence_x\npassword = secret\n";

    (void)state;
    for (size_t i = 0; i < sizeof(open_modes) / sizeof(open_modes[0]); i++) {
        char *path = write_conf(text, open_modes[i]);
        assert_int_equal(devices_load(path, &devices, &err), -HA_E_AUTH);
        assert_says("chmod 600");
        assert_int_equal(devices.count, 0);
        unlink(path);
    }
    char *path = write_conf(text, 0600);
    assert_int_equal(devices_load(path, &devices, &err), 0);
    assert_int_equal(devices.count, 1);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 65534, 65534), 0);
        assert_int_equal(devices_load(path, &devices, &err), -HA_E_AUTH);
        assert_says("chown root");
    }
    unlink(path);
}

/* --- What an agent gets --- */

static void an_agent_gets_options_action_and_plug(void **state)
{
    char input[512];

    (void)state;
    assert_int_equal(parse("[device a]\nagent = fence_x\nip = 10.0.0.9\npassword = s3cret=x\n"
                           "plug.n1 = outlet 4\n"),
                     0);
    const struct device *a = devices_find(&devices, "a");
    assert_non_null(a);
    int size = devices_input(a, "off", "n1", input, sizeof(input));
    assert_int_equal(size, strlen(input));
    assert_string_equal(input, "action=off\nip=10.0.0.9\npassword=s3cret=x\nplug=outlet 4\n"
                               "port=outlet 4\nnodename=n1\n");
    size = devices_input(a, "status", "n2", input, sizeof(input));
    assert_true(size > 0);
    assert_non_null(strstr(input, "plug=n2\n"));
    size = devices_input(a, "monitor", "", input, sizeof(input));
    assert_true(size > 0);
    assert_null(strstr(input, "plug="));
    int all = devices_input(a, "off", "n1", input, sizeof(input));
    for (size_t room = 1; room <= (size_t)all; room++) {
        char *small = malloc(room);
        assert_non_null(small);
        assert_int_equal(devices_input(a, "off", "n1", small, room), -HA_E_LIMIT);
        free(small);
    }
}

/* --- Secrets --- */

static void secrets_are_redacted(void **state)
{
    char text[256];

    (void)state;
    assert_int_equal(parse("[device a]\nagent = fence_x\nip = 10.0.0.9\npassword = hunter2\n"
                           "snmp_community = ab\napi_token = hunter2hunter2\n"),
                     0);
    const struct device *a = devices_find(&devices, "a");
    assert_non_null(a);
    snprintf(text, sizeof(text), "10.0.0.9: hunter2 refused: -p hunter2 -c ab, hunter2hunter2");
    devices_redact(a, text);
    assert_null(strstr(text, "hunter2"));
    assert_null(strstr(text, "ab,"));
    assert_non_null(strstr(text, "10.0.0.9: *** refused: -p *** -c **"));
    snprintf(text, sizeof(text), "nothing secret");
    devices_redact(a, text);
    assert_string_equal(text, "nothing secret");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_has_its_keys),
        cmocka_unit_test(an_empty_file_has_no_devices),
        cmocka_unit_test(errors_name_the_place),
        cmocka_unit_test(what_peers_could_not_be_told_is_refused),
        cmocka_unit_test(what_is_given_twice_is_refused),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(others_may_not_read_it),
        cmocka_unit_test(an_agent_gets_options_action_and_plug),
        cmocka_unit_test(secrets_are_redacted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
