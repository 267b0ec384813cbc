/* SPDX-License-Identifier: Apache-2.0
 *
 * Definitions of Xen guests: what is taken, what is refused and with which words; and the list of a
 * node.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "hamgr/hv/xen/definition.h"

/* As `xl -N create` of 4.17 prints a PV guest with a disk and a network. */
static const char PV[] =
    "{\"c_info\":{\"type\":\"pv\",\"name\":\"web1\","
    "\"uuid\":\"6f3c8a52-93a0-4f0e-9d39-111111111111\",\"run_hotplug_scripts\":\"True\"},"
    "\"b_info\":{\"max_vcpus\":2,\"avail_vcpus\":[0,1],\"max_memkb\":131072,"
    "\"target_memkb\":131072,\"shadow_memkb\":3072,\"sched_params\":{\"cap\":150},"
    "\"claim_mode\":\"True\",\"kernel\":\"/srv/guests/vmlinuz\",\"cmdline\":\"root=/dev/xvda ro\","
    "\"ramdisk\":\"/srv/guests/initrd\",\"type\":\"pv\",\"type.pv\":{},\"arch_arm\":{},"
    "\"arch_x86\":{}},"
    "\"disks\":[{\"pdev_path\":\"/dev/vg/web1\",\"vdev\":\"xvda\",\"backend\":\"phy\","
    "\"format\":\"raw\",\"readwrite\":1}],"
    "\"nics\":[{\"devid\":0,\"bridge\":\"xenbr0\",\"script\":\"vif-bridge\"}],"
    "\"on_poweroff\":\"destroy\",\"on_reboot\":\"restart\",\"on_crash\":\"destroy\","
    "\"on_soft_reset\":\"soft_reset\"}";

static const struct xen_allow ALLOW = {
    .program = {"vif-bridge", "block-nbd"},
    .program_count = 2,
    .root = {"/srv/guests", "/dev/vg"},
    .root_count = 2,
};

static int parse(const char *text, const struct xen_allow *allow, struct xen_definition *ret,
                 struct ha_err *err)
{
    return xen_definition_parse((const uint8_t *)text, strlen(text), allow, ret, err);
}

static void test_of_xl(void **state)
{
    struct xen_definition d;
    struct ha_err err = {0};

    (void)state;
    if (parse(PV, &ALLOW, &d, &err) != 0)
        fail_msg("%s", err.text);
    assert_string_equal(d.name, "web1");
    assert_int_equal(d.uuid.b[0], 0x6f);
    assert_int_equal(d.kind, XEN_KIND_PV);
    assert_int_equal(d.mem_kib, 131072);
    assert_int_equal(d.vcpus, 2);
    assert_int_equal(d.cap_percent, 150);
    assert_int_equal(d.disks, XEN_DISKS_BLOCK);
    assert_int_equal(d.ends.on_poweroff, HV_POWEROFF);
    assert_int_equal(d.ends.on_reboot, HV_REBOOT);
}

/* The definition with `from` replaced by `to`. */
static char *changed(const char *from, const char *to)
{
    static char text[4096];
    const char *at = strstr(PV, from);

    assert_non_null(at);
    snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - PV), PV, to, at + strlen(from));
    return text;
}

static void expect_refusal(const char *from, const char *to, const char *words)
{
    struct xen_definition d = {.mem_kib = 7};
    struct ha_err err = {0};

    if (parse(changed(from, to), &ALLOW, &d, &err) != -HA_E_USAGE)
        fail_msg("taken: %s", to);
    if (!strstr(err.text, words))
        fail_msg("\"%s\" lacks \"%s\"", err.text, words);
    assert_int_equal(d.mem_kib, 7); /* left alone */
}

static void test_unknown_keys(void **state)
{
    (void)state;
    expect_refusal("\"max_vcpus\":2", "\"max_vcpu\":2", "b_info.max_vcpu:");
    expect_refusal("\"type.pv\":{}", "\"type.pv\":{\"kernel_\":\"x\"}", "b_info.type.pv.kernel_");
    expect_refusal("\"vdev\"", "\"vdev2\"", "disks.vdev2");
    expect_refusal("\"on_crash\"", "\"on_crush\"", "on_crush");
    expect_refusal("\"on_crash\":\"destroy\"", "\"on_crash\":\"destroy\",\"on_crash\":\"destroy\"",
                   "no JSON"); /* twice: whose counts? */
}

static void test_programs(void **state)
{
    (void)state;
    expect_refusal("\"vif-bridge\"", "\"/tmp/evil\"", "base name");
    expect_refusal("\"vif-bridge\"", "\"../vif-bridge\"", "base name");
    expect_refusal("\"vif-bridge\"", "\"-x\"", "base name");
    expect_refusal("\"vif-bridge\"", "\"vif-route\"", "not in this node's");
    expect_refusal("\"type.pv\":{}", "\"type.pv\":{\"bootloader\":\"pygrub\"}", "pygrub");
    expect_refusal("\"arch_arm\":{}", "\"device_model\":\"/tmp/qemu\"", "b_info.device_model");
    expect_refusal("\"arch_arm\":{}", "\"extra\":[\"-drive\",\"file=/etc/shadow\"]",
                   "b_info.extra");
}

static void test_paths(void **state)
{
    (void)state;
    expect_refusal("/srv/guests/vmlinuz", "/etc/shadow", "below no root");
    expect_refusal("/srv/guests/vmlinuz", "/srv/guests/../../etc/shadow", "absolute path");
    expect_refusal("/srv/guests/vmlinuz", "/srv/guests-of-others/k", "below no root");
    expect_refusal("/srv/guests/vmlinuz", "vmlinuz", "absolute path");
    expect_refusal("/srv/guests/vmlinuz", "/srv/guests", "below no root");
    expect_refusal("/dev/vg/web1", "/dev/sda", "below no root");
    expect_refusal("/dev/vg/web1", "/dev/vg//web1", "absolute path");
}

static void test_hardware(void **state)
{
    (void)state;
    expect_refusal("\"on_crash\"", "\"pcidevs\":[{}],\"on_crash\"", "can't be moved");
    expect_refusal("\"arch_arm\":{}", "\"irqs\":[5]", "can't be moved");
    expect_refusal("\"arch_arm\":{}", "\"vnuma_nodes\":[{}]", "NUMA");
    expect_refusal("\"vdev\"", "\"backend_domid\":3,\"vdev\"", "dom0");
    expect_refusal("\"arch_arm\":{}", "\"arch_arm\":5", "expected an object");
}

static void test_memory_is_dedicated(void **state)
{
    (void)state;
    expect_refusal("\"target_memkb\":131072", "\"target_memkb\":65536", "ballooning");
    expect_refusal("\"max_memkb\":131072", "\"max_memkb\":12", "max_memkb");
    expect_refusal("\"max_memkb\":131072", "\"max_memkb\":-1", "max_memkb");
    expect_refusal("\"max_vcpus\":2", "\"max_vcpus\":5000", "max_vcpus");
}

static void test_names_and_kinds(void **state)
{
    struct xen_definition d;

    (void)state;
    expect_refusal("\"web1\"", "\"we b1\"", "c_info.name");
    expect_refusal("6f3c8a52-", "6f3c8a52", "c_info.uuid");
    expect_refusal("{\"type\":\"pv\"", "{\"type\":\"pvh\"", "in both");
    expect_refusal("{\"type\":\"pv\"", "{\"type\":\"lxc\"", "in both");
    expect_refusal("root=/dev/xvda", "root=\\u0001", "printable");
    expect_refusal("\"on_crash\":\"destroy\"", "\"on_crash\":\"preserve\"", "destroy or restart");
    assert_int_equal(parse(changed("\"on_poweroff\":\"destroy\"", "\"on_poweroff\":\"restart\""),
                           &ALLOW, &d, NULL),
                     0);
    assert_int_equal(d.ends.on_poweroff, HV_REBOOT);
}

static uint8_t disks_of(const char *from, const char *to)
{
    struct xen_definition d;
    struct ha_err err = {0};

    if (parse(changed(from, to), &ALLOW, &d, &err) != 0)
        fail_msg("%s", err.text);
    return d.disks;
}

static void test_elevator(void **state)
{
    static const struct {
        const char *words, *elevator;
    } rows[] = {
        {"root=/dev/xvda ro", ""},
        {"elevator=cfq ro", "cfq"},
        {"ro elevator=noop", ""},
        {"elevator=cfq elevator=deadline", "deadline"},
        {"elevator=none", ""},
        {"x.elevator=cfq elevator=", ""},
        {"elevator=averylongnamethatdoesnotfit", "averylongnameth"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct xen_definition d;
        struct ha_err err = {0};
        assert_int_equal(parse(changed("root=/dev/xvda ro", rows[i].words), &ALLOW, &d, &err), 0);
        assert_string_equal(d.elevator, rows[i].elevator);
    }
}

static void test_disks(void **state)
{
    (void)state;
    assert_int_equal(disks_of("\"backend\":\"phy\"", "\"backend\":\"qdisk\""), XEN_DISKS_OTHER);
    assert_int_equal(disks_of("\"format\":\"raw\"", "\"format\":\"qcow2\""), XEN_DISKS_OTHER);
    assert_int_equal(disks_of("/dev/vg/web1", "/srv/guests/web1.img"), XEN_DISKS_OTHER);
    assert_int_equal(disks_of("\"readwrite\":1", "\"readwrite\":0"), XEN_DISKS_NONE);
    assert_int_equal(disks_of("\"vdev\"", "\"script\":\"block-nbd\",\"vdev\""), XEN_DISKS_OTHER);
    /* What a script takes is no path of this node. */
    assert_int_equal(disks_of("\"pdev_path\":\"/dev/vg/web1\"",
                              "\"script\":\"block-nbd\",\"pdev_path\":\"10.0.0.1:web1\""),
                     XEN_DISKS_OTHER);
}

/* QEMU has a hand in the first four disks of an HVM guest, whatever their backend. */
static void test_disks_of_hvm(void **state)
{
    static const struct {
        const char *vdev;
        uint8_t disks;
    } rows[] = {
        {"xvda", XEN_DISKS_OTHER},  {"xvdd", XEN_DISKS_OTHER}, {"hda", XEN_DISKS_OTHER},
        {"sde", XEN_DISKS_OTHER},   {"", XEN_DISKS_OTHER},     {"xvde", XEN_DISKS_BLOCK},
        {"xvde1", XEN_DISKS_BLOCK},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct xen_definition d;
        struct ha_err err = {0};
        char text[512];
        snprintf(text, sizeof(text),
                 "{\"c_info\":{\"type\":\"hvm\",\"name\":\"web1\"},\"b_info\":{"
                 "\"max_vcpus\":1,\"avail_vcpus\":[0],\"max_memkb\":131072,"
                 "\"target_memkb\":131072,\"type.hvm\":{}},\"disks\":[{\"pdev_path\":"
                 "\"/dev/vg/web1\",\"vdev\":\"%s\",\"backend\":\"phy\",\"readwrite\":1}]}",
                 rows[i].vdev);
        if (parse(text, &ALLOW, &d, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(d.kind, XEN_KIND_HVM);
        assert_int_equal(d.disks, rows[i].disks);
    }
}

static void test_without_a_list(void **state)
{
    struct xen_definition d;
    static const struct xen_allow nothing;

    (void)state;
    assert_int_equal(parse(PV, NULL, &d, NULL), 0);
    assert_int_equal(parse(PV, &nothing, &d, NULL), -HA_E_USAGE);
    assert_int_equal(parse(changed("\"vif-bridge\"", "\"/bin/sh\""), NULL, &d, NULL), -HA_E_USAGE);
}

static void test_not_json(void **state)
{
    struct xen_definition d;
    static const char *const texts[] = {"",     "{",        "[]",          "5",
                                        "null", "name = 1", "{\"a\":1} x", "{\"c_info\":[]}"};

    (void)state;
    for (size_t n = 0; n < sizeof(texts) / sizeof(texts[0]); n++)
        assert_int_equal(parse(texts[n], &ALLOW, &d, NULL), -HA_E_USAGE);
    assert_true(xen_definition_is_json((const uint8_t *)" \n{", 3));
    assert_false(xen_definition_is_json((const uint8_t *)"name = 'x'", 10));
    assert_false(xen_definition_is_json((const uint8_t *)"", 0));
    assert_null(xen_definition_text((const uint8_t *)"{", 1));
}

static void test_identity_is_put_in(void **state)
{
    const char *uuid = "29226796-6e59-4708-81ea-18e1eb078380";
    struct xen_definition d;
    char *text = xen_definition_identify((const uint8_t *)PV, strlen(PV), "db", uuid);

    (void)state;
    assert_non_null(text);
    assert_int_equal(parse(text, &ALLOW, &d, NULL), 0);
    free(text);
    assert_string_equal(d.name, "db");
    assert_int_equal(d.uuid.b[0], 0x29);
    text = xen_definition_identify((const uint8_t *)PV, strlen(PV), "db", NULL);
    assert_int_equal(parse(text, &ALLOW, &d, NULL), 0);
    free(text);
    assert_int_equal(d.uuid.b[0], 0x6f); /* its own stays */
    assert_null(xen_definition_identify((const uint8_t *)"{\"c_info\":5}", 12, "db", uuid));
    assert_null(xen_definition_identify((const uint8_t *)"memory = 5", 10, "db", uuid));
}

/* ---- the list ---- */

static int load(const char *text, mode_t mode, struct xen_allow *ret, struct ha_err *err)
{
    char path[] = "/tmp/hamgr-allow-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
    int rc = xen_allow_load(path, ret, err);
    unlink(path);
    return rc;
}

static void test_list(void **state)
{
    struct xen_allow a;
    struct ha_err err = {0};

    (void)state;
    if (geteuid() != 0)
        skip(); /* the file must be root's */
    assert_int_equal(
        load("; a comment\nprogram = vif-bridge\nroot = /srv\nroot = /dev/vg\n", 0644, &a, &err),
        0);
    assert_int_equal(a.program_count, 1);
    assert_int_equal(a.root_count, 2);
    assert_true(xen_allow_has_program(&a, "vif-bridge"));
    assert_false(xen_allow_has_program(&a, "vif"));
    assert_true(xen_allow_has_path(&a, "/srv/x"));
    assert_int_equal(load("root = /srv\n", 0666, &a, &err), -HA_E_REFUSED);
    assert_int_equal(load("root = srv\n", 0644, &a, &err), -HA_E_USAGE);
    assert_non_null(strstr(err.text, "line 1"));
    assert_int_equal(load("\nprogram = /bin/sh\n", 0644, &a, &err), -HA_E_USAGE);
    assert_non_null(strstr(err.text, "line 2"));
    assert_int_equal(load("programs = x\n", 0644, &a, &err), -HA_E_USAGE);
    assert_int_equal(xen_allow_load("/nonexistent/allow", &a, &err), 0);
    assert_int_equal(a.root_count + a.program_count, 0);
}

static void note_thing(void *user, enum xen_thing kind, const char *name)
{
    char *list = user;
    size_t used = strlen(list);

    snprintf(list + used, 512 - used, "%d%s ", (int)kind, name);
}

/* A script's target is no path of this host; a word is no file. */
static void test_things(void **state)
{
    char list[512] = "";
    const char *text = PV;

    (void)state;
    xen_definition_things((const uint8_t *)text, strlen(text), note_thing, list);
    assert_string_equal(list, "1/srv/guests/vmlinuz 1/srv/guests/initrd 2/dev/vg/web1 3xenbr0 ");
    list[0] = '\0';
    text = changed("\"format\":\"raw\"", "\"format\":\"raw\",\"script\":\"block-nbd\"");
    xen_definition_things((const uint8_t *)text, strlen(text), note_thing, list);
    assert_string_equal(list, "1/srv/guests/vmlinuz 1/srv/guests/initrd 3xenbr0 ");
    list[0] = '\0';
    text = changed("\"readwrite\":1", "\"readwrite\":0");
    xen_definition_things((const uint8_t *)text, strlen(text), note_thing, list);
    assert_string_equal(list, "1/srv/guests/vmlinuz 1/srv/guests/initrd 4/dev/vg/web1 3xenbr0 ");
    list[0] = '\0';
    text = "{\"b_info\":{\"kernel\":\"word\",\"type.hvm\":{\"firmware\":\"ovmf\"}},\"disks\":7}";
    xen_definition_things((const uint8_t *)text, strlen(text), note_thing, list);
    assert_string_equal(list, "");
    xen_definition_things((const uint8_t *)"{", 1, note_thing, list);
    assert_string_equal(list, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_xl),
        cmocka_unit_test(test_unknown_keys),
        cmocka_unit_test(test_programs),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_hardware),
        cmocka_unit_test(test_memory_is_dedicated),
        cmocka_unit_test(test_names_and_kinds),
        cmocka_unit_test(test_elevator),
        cmocka_unit_test(test_disks),
        cmocka_unit_test(test_disks_of_hvm),
        cmocka_unit_test(test_without_a_list),
        cmocka_unit_test(test_not_json),
        cmocka_unit_test(test_things),
        cmocka_unit_test(test_identity_is_put_in),
        cmocka_unit_test(test_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
