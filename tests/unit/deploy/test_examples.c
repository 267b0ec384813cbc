/* SPDX-License-Identifier: Apache-2.0
 *
 * The examples an operator copies must be good: each is read by the parser it is for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fence/devices.h"
#include "hamgr/config/config.h"
#include "hamgr/hv/embedded/definition.h"

static char text[65536];

static size_t read_example(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", EXAMPLES, name);
    FILE *file = fopen(path, "re");
    if (!file) {
        fail_msg("%s can't be read", path);
        return 0;
    }
    size_t size = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[size] = '\0';
    return size;
}

static void test_hamgr_conf(void **state)
{
    struct ha_config config;
    struct ha_err err = {0};
    (void)state;
    read_example("hamgr.conf");
    ha_config_default(&config);
    if (ha_config_parse("hamgr.conf", text, &config, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_string_equal(config.hypervisor, "xen");
    assert_int_equal(config.watchdog_ms, 5000);
}

/* What is commented out is an offer, so it must be good as well. */
static void test_hamgr_conf_offers(void **state)
{
    static const char *const offers[] = {"# name", "# witness", "# memory", "# address",
                                         "# admin-group"};
    struct ha_config config;
    struct ha_err err = {0};
    (void)state;
    read_example("hamgr.conf");
    for (size_t i = 0; i < sizeof(offers) / sizeof(offers[0]); i++) {
        char *at = strstr(text, offers[i]);
        assert_non_null(at);
        memset(at, ' ', 2);
        memmove(at, at + 2, strlen(at + 2) + 1);
    }
    ha_config_default(&config);
    if (ha_config_parse("hamgr.conf", text, &config, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_true(config.is_witness);
    assert_int_equal(config.mem_kib, UINT64_C(48) << 20);
}

static void test_fence_conf(void **state)
{
    static struct devices devices;
    struct ha_err err = {0};
    (void)state;
    read_example("fence.conf");
    if (devices_parse("fence.conf", text, &devices, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(devices.count, 3);
    assert_string_equal(devices.list[2].d.agent, "fence_apc_snmp");
    assert_int_equal(devices.list[2].d.level, 2);
}

static void test_guest_embedded(void **state)
{
    struct emb_definition definition;
    struct ha_err err = {0};
    (void)state;
    size_t size = read_example("guest-embedded.conf");
    if (emb_definition_parse((const uint8_t *)text, size, &definition, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(definition.memory_mib, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hamgr_conf),
        cmocka_unit_test(test_hamgr_conf_offers),
        cmocka_unit_test(test_fence_conf),
        cmocka_unit_test(test_guest_embedded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
