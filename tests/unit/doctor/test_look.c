/* SPDX-License-Identifier: Apache-2.0
 *
 * The look at a host, at a directory that stands for one: what is there is told, what is not stays
 * unknown, things are told from others of the same name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "hamgr/base/err.h"
#include "hamgr/doctor/look.h"

struct place {
    char root[64];
    struct look_ask ask;
    struct look_tell tell;
};

/* Every directory on the way to a file below the root. */
static void make_way(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
}

static void put(struct place *p, const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof(path), "%s%s", p->root, name);
    make_way(path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static struct place *place_new(void)
{
    struct place *p = calloc(1, sizeof(*p));

    assert_non_null(p);
    snprintf(p->root, sizeof(p->root), "/tmp/hamgr-look-XXXXXX");
    assert_non_null(mkdtemp(p->root));
    snprintf(p->ask.node, sizeof(p->ask.node), "n1");
    snprintf(p->ask.ca_path, sizeof(p->ask.ca_path), "/etc/hamgr/pki/ca.pem");
    snprintf(p->ask.cert_path, sizeof(p->ask.cert_path), "/etc/hamgr/pki/node.pem");
    snprintf(p->ask.key_path, sizeof(p->ask.key_path), "/etc/hamgr/pki/node.key");
    snprintf(p->ask.watchdog, sizeof(p->ask.watchdog), "/dev/watchdog1");
    p->ask.is_xen = true;
    return p;
}

static int drop(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static void place_free(struct place *p)
{
    nftw(p->root, drop, 16, FTW_DEPTH | FTW_PHYS);
    free(p);
}

static const struct ha_facts *look(struct place *p)
{
    memset(&p->tell, 0, sizeof(p->tell));
    look_host(p->root, &p->ask, &p->tell);
    return &p->tell.facts;
}

static const struct ha_fact_item *item_of(const struct ha_facts *f, uint16_t list,
                                          const char *subject)
{
    for (uint32_t i = 0; i < f->item_count; i++) {
        if (f->items[i].list == list && strcmp(f->items[i].subject, subject) == 0)
            return &f->items[i];
    }
    return NULL;
}

static void an_empty_host_is_no_xen_and_the_rest_unknown(void **state)
{
    struct place *p = place_new();
    const struct ha_facts *f = look(p);

    (void)state;
    assert_true(ha_facts_is(f, HA_FACT_IS_LOOKED));
    assert_true(ha_facts_is_not(f, HA_FACT_IS_XEN));
    assert_true(ha_facts_is_not(f, HA_FACT_HAS_TIME_SYNC));
    assert_true(ha_facts_is_not(f, HA_FACT_HAS_KERNEL_CONFIG));
    assert_false(f->is_known[HA_FACT_IS_DOM0]);
    assert_false(f->is_known[HA_FACT_HAS_SOFTDOG]);
    assert_false(f->is_known[HA_FACT_KEY_MODE]);
    assert_false(f->is_known[HA_FACT_LINK_COUNT]);
    assert_non_null(strstr(f->text[HA_TEXT_CERT_WHY], "node.pem is missing"));
    place_free(p);
}

static void a_dom0_is_seen(void **state)
{
    struct place *p = place_new();

    (void)state;
    put(p, "/sys/hypervisor/type", "xen\n");
    put(p, "/sys/hypervisor/version/major", "4\n");
    put(p, "/sys/hypervisor/version/minor", "17\n");
    put(p, "/proc/xen/capabilities", "control_d\n");
    put(p, "/etc/xen/xl.conf", "# autoballoon=\"on\"\n");
    const struct ha_facts *f = look(p);
    assert_true(ha_facts_is(f, HA_FACT_IS_XEN));
    assert_true(ha_facts_is(f, HA_FACT_IS_DOM0));
    assert_int_equal(f->number[HA_FACT_XEN_VERSION], (4 << 16) | 17);
    assert_true(ha_facts_is_not(f, HA_FACT_HAS_AUTOBALLOON));
    put(p, "/etc/xen/xl.conf", "# a comment\nautoballoon = \"on\"\n");
    put(p, "/proc/xen/capabilities", "\n");
    f = look(p);
    assert_true(ha_facts_is(f, HA_FACT_HAS_AUTOBALLOON));
    assert_true(ha_facts_is_not(f, HA_FACT_IS_DOM0));
    place_free(p);
}

static void options_of_the_kernel_are_read(void **state)
{
    struct place *p = place_new();
    struct utsname name;
    char path[256];

    (void)state;
    assert_int_equal(uname(&name), 0);
    snprintf(path, sizeof(path), "/boot/config-%s", name.release);
    put(p, path,
        "CONFIG_XEN=y\nCONFIG_XEN_DOM0=y\nCONFIG_XEN_DEV_EVTCHN=m\nCONFIG_XEN_BACKEND=y\n"
        "CONFIG_XENFS=m\nCONFIG_XEN_SYS_HYPERVISOR=y\n# CONFIG_XEN_GNTDEV is not set\n"
        "CONFIG_XEN_GRANT_DEV_ALLOC=m\nCONFIG_XEN_PRIVCMD=m\nCONFIG_XEN_BLKDEV_BACKEND=m\n"
        "CONFIG_XEN_NETDEV_BACKEND=m\nCONFIG_BRIDGE=m\n");
    const struct ha_facts *f = look(p);
    assert_true(ha_facts_is(f, HA_FACT_HAS_KERNEL_CONFIG));
    assert_int_equal(f->item_count, 2);
    assert_int_equal(item_of(f, HA_LIST_OPTION_MISSING, "CONFIG_XEN_GNTDEV")->value, 1);
    assert_int_equal(item_of(f, HA_LIST_OPTION_MISSING, "CONFIG_XEN_WDT")->value, 0);
    place_free(p);
}

static void watchdog_and_clock_are_read(void **state)
{
    struct place *p = place_new();
    char self[32];

    (void)state;
    snprintf(self, sizeof(self), "/proc/%d/stat", 4711);
    put(p, "/sys/class/watchdog/watchdog0/identity", "iTCO_wdt\n");
    put(p, "/sys/class/watchdog/watchdog1/identity", "Software Watchdog\n");
    put(p, "/run/chrony/chronyd.pid", "4711\n");
    const struct ha_facts *f = look(p);
    assert_true(ha_facts_is(f, HA_FACT_HAS_SOFTDOG));
    assert_true(ha_facts_is_not(f, HA_FACT_HAS_TIME_SYNC)); /* it died */
    put(p, self, "");
    assert_true(ha_facts_is_not(f, HA_FACT_IS_XEN_DOG));
    put(p, "/sys/class/watchdog/watchdog1/identity", "xen_wdt\n");
    assert_true(ha_facts_is(look(p), HA_FACT_IS_XEN_DOG));
    snprintf(p->ask.watchdog, sizeof(p->ask.watchdog), "/dev/watchdog");
    f = look(p);
    assert_true(ha_facts_is_not(f, HA_FACT_HAS_SOFTDOG));
    assert_true(ha_facts_is(f, HA_FACT_HAS_TIME_SYNC));
    assert_int_equal(f->number[HA_FACT_SLEW_PPM], 83333);
    put(p, "/etc/chrony/chrony.conf", "#maxslewrate 1\nmaxslewrate 500\n");
    f = look(p);
    assert_int_equal(f->number[HA_FACT_SLEW_PPM], 500);
    place_free(p);
}

static void put_link(struct place *p, const char *name, const char *target)
{
    char path[512];

    snprintf(path, sizeof(path), "%s%s", p->root, name);
    make_way(path);
    assert_int_equal(symlink(target, path), 0);
}

static void swap_is_told_by_where_it_lies(void **state)
{
    static const struct {
        const char *name, *place;
    } rows[] = {{"/dev/sda2", "local"},      {"/dev/sdb", "shared"},  {"/dev/nbd0", "shared"},
                {"/dev/zram0", "memory"},    {"/dev/dm-0", "shared"}, {"/dev/dm-1", "local"},
                {"/dev/nvme0n1p2", "local"}, {"/swapfile", "local"},  {"/dev/nvme1n1", "shared"},
                {"/srv/with\\040s", "local"}};
    char text[1024] = "Filename Type Size Used Priority\n";
    struct place *p = place_new();

    (void)state;
    assert_false(look(p)->is_known[HA_FACT_IS_SWAP_KNOWN]);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *type = strncmp(rows[i].name, "/dev/", 5) == 0 ? "partition" : "file\t";
        size_t used = strlen(text);
        snprintf(text + used, sizeof(text) - used, "%s   %s\t%zu\t0\t-2\n", rows[i].name, type,
                 1000 + i);
    }
    put(p, "/proc/swaps", text);
    put_link(p, "/sys/class/block/sda2", "../../devices/pci0/ata1/host0/block/sda/sda2");
    put_link(p, "/sys/class/block/sdb", "../../devices/platform/host3/session1/3:0:0:0/block/sdb");
    put(p, "/sys/class/block/dm-0/slaves/sdb/x", "");
    put(p, "/sys/class/block/dm-1/slaves/sda2/x", "");
    put(p, "/sys/class/block/nvme0n1p2/device/transport", "pcie\n");
    put(p, "/sys/class/block/nvme1n1/device/transport", "tcp\n");
    const struct ha_facts *f = look(p);
    assert_true(ha_facts_is(f, HA_FACT_IS_SWAP_KNOWN));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct ha_fact_item *item = item_of(f, HA_LIST_SWAP, rows[i].name);
        assert_non_null(item);
        assert_int_equal(item->value, 1000 + i);
        assert_string_equal(item->text, rows[i].place);
    }
    place_free(p);
}

static void corosync_and_keys_are_read(void **state)
{
    struct place *p = place_new();
    char path[128];

    (void)state;
    put(p, "/etc/corosync/authkey", "secret");
    put(p, "/etc/hamgr/pki/node.key", "secret");
    put(p, "/etc/hamgr/pki/node.pem", "no certificate");
    put(p, "/etc/corosync/corosync.conf",
        "totem {\n version: 2\n}\nnodelist {\n node {\n  ring0_addr: 10.0.0.1\n  ring1_addr: "
        "10.1.0.1\n }\n node {\n  ring0_addr: 10.0.0.2\n }\n}\n");
    snprintf(path, sizeof(path), "%s/etc/corosync/authkey", p->root);
    chmod(path, 0440);
    snprintf(path, sizeof(path), "%s/etc/hamgr/pki/node.key", p->root);
    chmod(path, 0640);
    const struct ha_facts *f = look(p);
    assert_int_equal(f->number[HA_FACT_LINK_COUNT], 2);
    assert_int_equal(f->number[HA_FACT_AUTHKEY_MODE], 0440);
    assert_int_equal(f->number[HA_FACT_KEY_MODE], 0640);
    assert_non_null(strstr(f->text[HA_TEXT_CERT_WHY], "node.pem"));
    assert_false(f->is_known[HA_FACT_IS_CERT_NAMED]);
    place_free(p);
}

static void ask_for(struct place *p, uint8_t kind, const char *name)
{
    struct look_thing *thing = &p->ask.things[p->ask.thing_count++];

    thing->kind = kind;
    snprintf(thing->name, sizeof(thing->name), "%s", name);
}

static void things_are_told_apart(void **state)
{
    struct place *p = place_new();
    const struct look_found *found = p->tell.found;

    (void)state;
    put(p, "/srv/a", "kernel");
    put(p, "/srv/b", "kernel");
    put(p, "/srv/c", "Kernel");
    put(p, "/srv/disk.img", "blocks");
    put(p, "/sys/class/net/xenbr0/bridge/x", "");
    put(p, "/sys/class/net/eth0/device/x", "");
    ask_for(p, LOOK_FILE, "/srv/a");
    ask_for(p, LOOK_FILE, "/srv/b");
    ask_for(p, LOOK_FILE, "/srv/c");
    ask_for(p, LOOK_FILE, "/srv/none");
    ask_for(p, LOOK_FILE, "/srv");
    ask_for(p, LOOK_DISK, "/srv/disk.img");
    ask_for(p, LOOK_DISK, "/srv/none");
    ask_for(p, LOOK_DISK, "/srv");
    ask_for(p, LOOK_BRIDGE, "xenbr0");
    ask_for(p, LOOK_BRIDGE, "xenbr1");
    ask_for(p, LOOK_BRIDGE, "eth0");
    ask_for(p, LOOK_MEDIUM, "/srv/disk.img");
    ask_for(p, LOOK_MEDIUM, "/srv/none");
    look(p);
    assert_int_equal(p->tell.found_count, 13);
    assert_int_equal(found[0].state, LOOK_THERE);
    assert_true(found[0].id != 0 && found[0].id == found[1].id && found[0].id != found[2].id);
    assert_int_equal(found[3].state, LOOK_MISSING);
    assert_int_equal(found[4].state, LOOK_WRONG);
    assert_int_equal(found[5].state, LOOK_LOCAL);
    assert_int_equal(found[6].state, LOOK_MISSING);
    assert_int_equal(found[7].state, LOOK_WRONG);
    assert_int_equal(found[8].state, LOOK_THERE);
    assert_int_equal(found[9].state, LOOK_MISSING);
    assert_int_equal(found[10].state, LOOK_WRONG);
    assert_int_equal(found[11].state, LOOK_THERE);
    assert_int_equal(found[12].state, LOOK_MISSING);
    place_free(p);
}

/* ---- on the wire ---- */

static void questions_and_answers_come_back(void **state)
{
    static uint8_t bytes[131072];
    static struct look_ask ask;
    static struct look_tell tell;
    struct place *p = place_new();
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)state;
    for (uint32_t i = 0; i < LOOK_THINGS_MAX; i++) { /* the largest question fits a packet */
        ask_for(p, LOOK_DISK, "/");
        memset(p->ask.things[i].name + 1, 'x', LOOK_PATH_MAX - 2);
    }
    look_ask_encode(&w, &p->ask);
    assert_false(w.failed);
    assert_int_equal(look_ask_decode(bytes, w.position, &ask), 0);
    assert_memory_equal(&ask, &p->ask, sizeof(ask));
    assert_int_equal(look_ask_decode(bytes, w.position - 1, &ask), -HA_E_CORRUPT);
    p->ask.things[3].kind = LOOK_MEDIUM + 1;
    w = ha_writer_of(bytes, sizeof(bytes));
    look_ask_encode(&w, &p->ask);
    assert_int_equal(look_ask_decode(bytes, w.position, &ask), -HA_E_CORRUPT);
    p->tell.found_count = LOOK_THINGS_MAX;
    p->tell.found[7] = (struct look_found){.state = LOOK_LOCAL, .id = 42};
    w = ha_writer_of(bytes, LOOK_TELL_BYTES_MAX);
    look_tell_encode(&w, &p->tell);
    assert_false(w.failed);
    assert_int_equal(look_tell_decode(bytes, w.position, &tell), 0);
    assert_memory_equal(&tell, &p->tell, sizeof(tell));
    assert_int_equal(look_tell_decode(bytes, w.position - 1, &tell), -HA_E_CORRUPT);
    place_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_host_is_no_xen_and_the_rest_unknown),
        cmocka_unit_test(a_dom0_is_seen),
        cmocka_unit_test(options_of_the_kernel_are_read),
        cmocka_unit_test(watchdog_and_clock_are_read),
        cmocka_unit_test(swap_is_told_by_where_it_lies),
        cmocka_unit_test(corosync_and_keys_are_read),
        cmocka_unit_test(things_are_told_apart),
        cmocka_unit_test(questions_and_answers_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
