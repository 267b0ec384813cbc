/* SPDX-License-Identifier: Apache-2.0
 *
 * The diagnosis: nothing is found in a healthy cluster, and each thing that is wrong gives exactly
 * its own finding, with what was found in it. The last test asks whether every finding was met.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/doctor/doctor.h"
#include "tests/lib/builders.h"

#define NODES   3u
#define WALL_MS UINT64_C(1800000000000)
#define CPU     "178bfbff:f6f83203:2e500800:001001f7:0000000f:f1bf07ab"
#define CPU_OLD "178bfbff:f6f83203:2e500800:001001f7:0000000f:00000000"

static bool is_met[256];

struct rig {
    struct build *b;
    struct ha_runtime rt;
    struct ha_facts facts[NODES];
    struct ha_doctor_guest guests[2];
    struct ha_doctor_input in;
    struct ha_diagnosis out;
};

static void fill_xen(struct ha_facts *f)
{
    ha_facts_set(f, HA_FACT_IS_XEN_WANTED, 1);
    ha_facts_set(f, HA_FACT_IS_XEN, 1);
    ha_facts_set(f, HA_FACT_IS_DOM0, 1);
    ha_facts_set(f, HA_FACT_XEN_VERSION, (4u << 16) | 17u);
    ha_facts_set(f, HA_FACT_HAS_SHADOW, 1);
    ha_facts_set(f, HA_FACT_HAS_HAP, 1);
    ha_facts_set(f, HA_FACT_IS_DOM0_FIXED, 1);
    ha_facts_set(f, HA_FACT_HAS_AUTOBALLOON, 0);
    ha_facts_set(f, HA_FACT_HAS_KERNEL_CONFIG, 1);
    ha_facts_set(f, HA_FACT_IS_SWAP_KNOWN, 1);
    ha_facts_set(f, HA_FACT_HAS_XEN_WATCHDOG, 1);
    ha_facts_set(f, HA_FACT_IS_XEN_DOG, 0);
    ha_facts_add(f, HA_LIST_SWAP, "/dev/sda2", 1048572, "local");
    ha_facts_say(f, HA_TEXT_CPU_PV, CPU);
    ha_facts_say(f, HA_TEXT_CPU_HVM, CPU);
    ha_facts_say(f, HA_TEXT_KERNEL, "6.1.0");
}

static void fill_healthy(struct ha_facts *f)
{
    ha_facts_set(f, HA_FACT_WALL_MS, WALL_MS);
    ha_facts_set(f, HA_FACT_IS_WITNESS, 0);
    ha_facts_set(f, HA_FACT_IS_HV_READY, 1);
    ha_facts_set(f, HA_FACT_IS_LOOKED, 1);
    ha_facts_set(f, HA_FACT_IS_KEEPER_KNOWN, 1);
    ha_facts_set(f, HA_FACT_IS_ARMED, 1);
    ha_facts_set(f, HA_FACT_HAS_SOFTDOG, 0);
    ha_facts_set(f, HA_FACT_HAS_TIME_SYNC, 1);
    ha_facts_set(f, HA_FACT_CERT_END_S, WALL_MS / 1000 + 400 * 86400);
    ha_facts_set(f, HA_FACT_CA_END_S, WALL_MS / 1000 + 4000 * 86400);
    ha_facts_set(f, HA_FACT_IS_CERT_NAMED, 1);
    ha_facts_set(f, HA_FACT_IS_CERT_TRUSTED, 1);
    ha_facts_set(f, HA_FACT_IS_CERT_BOTH, 1);
    ha_facts_set(f, HA_FACT_KEY_MODE, 0640);
    ha_facts_set(f, HA_FACT_TOKEN_MS, 1000);
    ha_facts_set(f, HA_FACT_CONSENSUS_MS, 1200);
    ha_facts_set(f, HA_FACT_LINK_COUNT, 2);
    ha_facts_set(f, HA_FACT_AUTHKEY_MODE, 0400);
    ha_facts_say(f, HA_TEXT_VERSION, "0.1.0");
    ha_facts_add(f, HA_LIST_DEVICE, "ipmi", WALL_MS - 86400000, " n1 n2 n3 ");
    fill_xen(f);
}

static struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    r->b = build_new(8);
    build_ready(r->b, NODES);
    r->in.state = &r->b->state;
    r->in.rt = &r->rt;
    r->in.wall_ms = WALL_MS;
    r->in.node_count = NODES;
    r->in.guests = r->guests;
    for (uint32_t i = 0; i < NODES; i++) {
        struct ha_doctor_node *node = &r->in.nodes[i];
        fill_healthy(&r->facts[i]);
        node->id = i + 1;
        snprintf(node->name, sizeof(node->name), "n%u", i + 1);
        node->facts = &r->facts[i];
        node->asked_wall_ms = WALL_MS - 10;
        node->told_wall_ms = WALL_MS + 10;
    }
    return r;
}

static void rig_free(struct rig *r)
{
    build_free(r->b);
    free(r);
}

static void diagnose(struct rig *r)
{
    ha_doctor(&r->in, &r->out);
    for (uint32_t i = 0; i < r->out.count; i++) {
        const struct ha_finding *f = &r->out.list[i];
        is_met[f->code] = true;
        assert_true(f->what[0] != '\0');
        assert_true(ha_finding_why(f->code)[0] != '\0');
        if (f->severity > HA_SEVERITY_NOTE)
            assert_true(f->fix[0] != '\0');
    }
}

/* Exactly one finding, about that node, with these words in it. */
static void expect_one(struct rig *r, uint8_t code, uint8_t severity, uint32_t node,
                       const char *words)
{
    diagnose(r);
    if (r->out.count != 1)
        for (uint32_t i = 0; i < r->out.count; i++)
            print_message("found: %s: %s\n", ha_finding_name(r->out.list[i].code),
                          r->out.list[i].what);
    assert_int_equal(r->out.count, 1);
    assert_string_equal(ha_finding_name(r->out.list[0].code), ha_finding_name(code));
    assert_int_equal(r->out.list[0].severity, severity);
    assert_int_equal(r->out.list[0].node, node);
    if (!strstr(r->out.list[0].what, words))
        fail_msg("\"%s\" is not in \"%s\"", words, r->out.list[0].what);
}

/* ---- tests ---- */

static void nothing_is_found_in_a_healthy_cluster(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    diagnose(r);
    for (uint32_t i = 0; i < r->out.count; i++)
        print_message("found: %s\n", r->out.list[i].what);
    assert_int_equal(r->out.count, 0);
    assert_false(r->out.is_cut);
    rig_free(r);
}

/* One fact that differs from the healthy ones gives one finding. */
static void each_fact_has_its_finding(void **state)
{
    static const struct {
        uint16_t fact;
        uint64_t value;
        uint8_t code, severity;
        const char *words;
    } rows[] = {
        {HA_FACT_IS_HV_READY, 0, HA_FINDING_HV_SILENT, HA_SEVERITY_ERROR, "n2: hamgr-hv"},
        {HA_FACT_IS_XEN_WANTED, 0, HA_FINDING_EMBEDDED, HA_SEVERITY_NOTE, "embedded"},
        {HA_FACT_IS_XEN, 0, HA_FINDING_NOT_XEN, HA_SEVERITY_ERROR, "n2 does not run on Xen"},
        {HA_FACT_IS_DOM0, 0, HA_FINDING_NOT_DOM0, HA_SEVERITY_ERROR, "guest of Xen"},
        {HA_FACT_HAS_SHADOW, 0, HA_FINDING_NO_PV_LIVE, HA_SEVERITY_NOTE, "shadow paging"},
        {HA_FACT_HAS_HAP, 0, HA_FINDING_NO_HAP, HA_SEVERITY_NOTE, "no hardware assisted"},
        {HA_FACT_HAS_KERNEL_CONFIG, 0, HA_FINDING_KERNEL_UNKNOWN, HA_SEVERITY_NOTE, "config-6.1.0"},
        {HA_FACT_IS_DOM0_FIXED, 0, HA_FINDING_DOM0_MEMORY, HA_SEVERITY_WARNING, "dom0_mem"},
        {HA_FACT_HAS_AUTOBALLOON, 1, HA_FINDING_AUTOBALLOON, HA_SEVERITY_WARNING, "autoballoon"},
        {HA_FACT_IS_KEEPER_KNOWN, 0, HA_FINDING_KEEPER_SILENT, HA_SEVERITY_ERROR, "watchdog"},
        {HA_FACT_IS_ARMED, 0, HA_FINDING_NOT_ARMED, HA_SEVERITY_ERROR, "not armed"},
        {HA_FACT_HAS_SOFTDOG, 1, HA_FINDING_SOFTDOG, HA_SEVERITY_WARNING, "software"},
        {HA_FACT_HAS_XEN_WATCHDOG, 0, HA_FINDING_XEN_WATCHDOG, HA_SEVERITY_NOTE,
         "Xen's command line has no watchdog"},
        {HA_FACT_HAS_TIME_SYNC, 0, HA_FINDING_NO_TIME_SYNC, HA_SEVERITY_WARNING, "clock"},
        {HA_FACT_WALL_MS, WALL_MS + 2510, HA_FINDING_CLOCKS_DIFFER, HA_SEVERITY_WARNING, "2.5 s"},
        {HA_FACT_WALL_MS, WALL_MS - 3010, HA_FINDING_CLOCKS_DIFFER, HA_SEVERITY_WARNING, "3.0 s"},
        {HA_FACT_SLEW_PPM, 83333, HA_FINDING_SLEW, HA_SEVERITY_NOTE, "83333 ppm"},
        {HA_FACT_CERT_END_S, WALL_MS / 1000 - 86401, HA_FINDING_CERT_ENDED, HA_SEVERITY_ERROR,
         "ended 1 days ago"},
        {HA_FACT_CERT_END_S, WALL_MS / 1000 + 10 * 86400, HA_FINDING_CERT_ENDS, HA_SEVERITY_WARNING,
         "ends in 10 days"},
        {HA_FACT_CA_END_S, WALL_MS / 1000 + 10 * 86400, HA_FINDING_CERT_ENDS, HA_SEVERITY_WARNING,
         "the CA ends"},
        {HA_FACT_IS_CERT_NAMED, 0, HA_FINDING_CERT_NAME, HA_SEVERITY_ERROR, "another node"},
        {HA_FACT_IS_CERT_TRUSTED, 0, HA_FINDING_CERT_TRUST, HA_SEVERITY_ERROR, "not signed"},
        {HA_FACT_IS_CERT_BOTH, 0, HA_FINDING_CERT_USE, HA_SEVERITY_ERROR, "not for both"},
        {HA_FACT_KEY_MODE, 0644, HA_FINDING_KEY_MODE, HA_SEVERITY_ERROR, "0644"},
        {HA_FACT_LINK_COUNT, 1, HA_FINDING_ONE_LINK, HA_SEVERITY_NOTE, "one link"},
        {HA_FACT_AUTHKEY_MODE, 0440, HA_FINDING_AUTHKEY_MODE, HA_SEVERITY_ERROR, "0440"},
        {HA_FACT_TOKEN_MS, 3000, HA_FINDING_TOKENS_DIFFER, HA_SEVERITY_ERROR, "token 3000 ms"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rig *r = rig_new();
        ha_facts_set(&r->facts[1], (enum ha_fact_number)rows[i].fact, rows[i].value);
        expect_one(r, rows[i].code, rows[i].severity, 2, rows[i].words);
        rig_free(r);
    }
}

static void each_text_has_its_finding(void **state)
{
    static const struct {
        uint16_t fact;
        uint8_t code, severity;
        const char *text;
    } rows[] = {
        {HA_TEXT_CERT_WHY, HA_FINDING_CERT_NONE, HA_SEVERITY_ERROR, "no /etc/hamgr/pki/node.pem"},
        {HA_TEXT_COROSYNC_WHY, HA_FINDING_COROSYNC, HA_SEVERITY_ERROR, "two_node"},
        {HA_TEXT_ALARM, HA_FINDING_ALARM, HA_SEVERITY_ERROR, "the store failed"},
        {HA_TEXT_VERSION, HA_FINDING_VERSIONS_DIFFER, HA_SEVERITY_ERROR, "0.9.9"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rig *r = rig_new();
        ha_facts_say(&r->facts[1], (enum ha_fact_text)rows[i].fact, rows[i].text);
        expect_one(r, rows[i].code, rows[i].severity, 2, rows[i].text);
        rig_free(r);
    }
}

static void what_a_node_lists_is_found(void **state)
{
    static const struct {
        uint16_t list;
        const char *subject;
        uint64_t value;
        const char *text;
        uint8_t code, severity;
        const char *words;
    } rows[] = {
        {HA_LIST_OPTION_MISSING, "CONFIG_XEN_GNTDEV", 1, "", HA_FINDING_KERNEL_OPTION,
         HA_SEVERITY_ERROR, "6.1.0 has no CONFIG_XEN_GNTDEV"},
        {HA_LIST_OPTION_MISSING, "CONFIG_XEN_WDT", 0, "", HA_FINDING_KERNEL_OPTION,
         HA_SEVERITY_WARNING, "CONFIG_XEN_WDT"},
        {HA_LIST_SCHEDULER, "sdb", 0, "bfq", HA_FINDING_SCHEDULER, HA_SEVERITY_WARNING,
         "scheduled by bfq"},
        {HA_LIST_VOLATILE, "/run/disk.img", 0, "", HA_FINDING_VOLATILE, HA_SEVERITY_ERROR,
         "/run/disk.img"},
        {HA_LIST_SWAP, "/dev/nbd7", 1024, "shared", HA_FINDING_SWAP_SHARED, HA_SEVERITY_WARNING,
         "/dev/nbd7, on shared storage"},
        {HA_LIST_DEVICE, "apc", 0, " n1 ", HA_FINDING_FENCE_UNPROVEN, HA_SEVERITY_WARNING,
         "apc has never answered"},
        {HA_LIST_DEVICE, "apc", WALL_MS - UINT64_C(100) * 86400000, " n1 ",
         HA_FINDING_FENCE_UNPROVEN, HA_SEVERITY_WARNING, "100 days ago"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rig *r = rig_new();
        ha_facts_add(&r->facts[2], (enum ha_fact_list)rows[i].list, rows[i].subject, rows[i].value,
                     rows[i].text);
        expect_one(r, rows[i].code, rows[i].severity, 3, rows[i].words);
        rig_free(r);
    }
}

/* The list of a healthy node ends with its swap. */
static void swap_that_is_none_is_told(void **state)
{
    struct rig *r = rig_new();
    struct ha_facts *f = &r->facts[1];
    struct ha_fact_item *swap = &f->items[f->item_count - 1];

    (void)state;
    assert_int_equal(swap->list, HA_LIST_SWAP);
    snprintf(swap->text, sizeof(swap->text), "memory");
    expect_one(r, HA_FINDING_NO_SWAP, HA_SEVERITY_NOTE, 2, "no swap but in its memory");
    f->item_count--;
    expect_one(r, HA_FINDING_NO_SWAP, HA_SEVERITY_NOTE, 2, "dom0 has no swap");
    f->is_known[HA_FACT_IS_SWAP_KNOWN] = false;
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    rig_free(r);
}

/* Xen's timer of dom0 is a watchdog only as long as the hypervisor runs. */
static void xens_watchdogs_need_each_other(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    ha_facts_set(&r->facts[0], HA_FACT_IS_XEN_DOG, 1);
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    ha_facts_set(&r->facts[0], HA_FACT_HAS_XEN_WATCHDOG, 0);
    expect_one(r, HA_FINDING_XEN_WATCHDOG, HA_SEVERITY_WARNING, 1, "whose hypervisor hangs");
    rig_free(r);
}

static void a_silent_node_is_named(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    r->in.nodes[2].facts = NULL;
    snprintf(r->in.nodes[2].silence, HA_TEXT_MAX, "it is not in the view");
    expect_one(r, HA_FINDING_NODE_SILENT, HA_SEVERITY_ERROR, 3, "it is not in the view");
    rig_free(r);
}

/* Facts that are missing are one finding, not the healthy case and not one of each check. */
static void a_host_that_could_not_be_looked_at_is_told(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    memset(&r->facts[1], 0, sizeof(r->facts[1]));
    ha_facts_set(&r->facts[1], HA_FACT_IS_HV_READY, 1);
    ha_facts_say(&r->facts[1], HA_TEXT_LOOK_WHY, "hung and was killed");
    expect_one(r, HA_FINDING_NOT_LOOKED, HA_SEVERITY_WARNING, 2, "hung and was killed");
    r->facts[1].is_cut = true;
    diagnose(r);
    assert_int_equal(r->out.count, 2);
    assert_int_equal(r->out.list[1].code, HA_FINDING_CUT); /* the lesser one comes last */
    rig_free(r);
}

static void versions_of_xen_are_compared(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    ha_facts_set(&r->facts[2], HA_FACT_XEN_VERSION, (4u << 16) | 18u);
    expect_one(r, HA_FINDING_XENS_DIFFER, HA_SEVERITY_WARNING, 3, "n3 runs Xen 4.18, n1 runs 4.17");
    for (uint32_t i = 0; i < NODES; i++)
        ha_facts_set(&r->facts[i], HA_FACT_XEN_VERSION, (4u << 16) | 14u);
    diagnose(r);
    assert_int_equal(r->out.count, NODES);
    assert_int_equal(r->out.list[0].code, HA_FINDING_XEN_OLD);
    rig_free(r);
}

/* The one that has more is told, with what is to be hidden there. */
static void processors_are_compared(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    ha_facts_say(&r->facts[0], HA_TEXT_CPU_PV, CPU_OLD);
    ha_facts_say(&r->facts[0], HA_TEXT_CPU_HVM, CPU_OLD);
    diagnose(r);
    assert_int_equal(r->out.count, 2);
    assert_int_equal(r->out.list[0].code, HA_FINDING_CPU_DIFFERS);
    assert_int_equal(r->out.list[0].node, 2);
    assert_non_null(strstr(r->out.list[0].what, "can't move to n1"));
    assert_non_null(strstr(r->out.list[0].what, "avx2"));
    assert_int_equal(r->out.list[1].node, 3);
    ha_facts_say(&r->facts[0], HA_TEXT_CPU_PV_MAX, CPU); /* others' guests may have more there */
    ha_facts_say(&r->facts[0], HA_TEXT_CPU_HVM_MAX, CPU);
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    ha_facts_say(&r->facts[0], HA_TEXT_CPU_PV, "");
    ha_facts_say(&r->facts[0], HA_TEXT_CPU_HVM, "");
    expect_one(r, HA_FINDING_CPU_UNKNOWN, HA_SEVERITY_NOTE, 1, "not known");
    rig_free(r);
}

static void feature_sets_are_compared_bit_by_bit(void **state)
{
    char missing[64];

    (void)state;
    assert_true(ha_cpu_may_move("00000001", "00000003", missing, sizeof(missing)));
    assert_string_equal(missing, "");
    assert_false(ha_cpu_may_move("0:10000000", "1:0", missing, sizeof(missing)));
    assert_string_equal(missing, "avx");
    assert_false(ha_cpu_may_move("0:0:0:0:0:20", "0", missing, sizeof(missing)));
    assert_string_equal(missing, "avx2");
    assert_false(ha_cpu_may_move("8", "0", missing, sizeof(missing)));
    assert_string_equal(missing, "0.3");
    assert_true(ha_cpu_may_move("", "0", missing, sizeof(missing)));
    assert_true(ha_cpu_may_move("no such words", "0", missing, sizeof(missing)));
    char tight[12];
    assert_false(ha_cpu_may_move("ffffffff:ffffffff", "0:0", tight, sizeof(tight)));
    assert_true(strlen(tight) < sizeof(tight));
}

/* What a hypervisor lacks is a warning only where a guest needs it. */
static void kinds_of_guests_count(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    r->guests[0] = (struct ha_doctor_guest){.name = "g1", .kind = HA_KIND_PV};
    r->in.guest_count = 1;
    ha_facts_set(&r->facts[0], HA_FACT_HAS_SHADOW, 0);
    expect_one(r, HA_FINDING_NO_PV_LIVE, HA_SEVERITY_WARNING, 1, "with a pause only");
    ha_facts_set(&r->facts[0], HA_FACT_HAS_SHADOW, 1);
    r->guests[0].kind = HA_KIND_PVH;
    ha_facts_set(&r->facts[0], HA_FACT_HAS_HAP, 0);
    expect_one(r, HA_FINDING_NO_HAP, HA_SEVERITY_WARNING, 1, "no hardware");
    rig_free(r);
}

static void isolation_is_told_per_guest(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    r->guests[0] = (struct ha_doctor_guest){.name = "g1", .kind = HA_KIND_PV};
    r->guests[1] = (struct ha_doctor_guest){
        .name = "g2", .kind = HA_KIND_PV, .never_quiet = "its disks are files"};
    r->in.guest_count = 2;
    expect_one(r, HA_FINDING_ISOLATION, HA_SEVERITY_NOTE, 0, "g2: isolation resets the host");
    assert_string_equal(r->out.list[0].guest, "g2");
    rig_free(r);
}

static void a_guest_that_cannot_run_somewhere_is_told(void **state)
{
    struct rig *r = rig_new();
    const struct ha_bar bars[] = {
        {.guest = build_uuid(1), .node = 2, .from = 1, .text = "of moves: told otherwise"},
        {.guest = build_uuid(1), .node = 3, .text = "no /srv/k", .fix = "copy it"}};

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    r->rt.bars = bars;
    r->rt.bar_count = 2;
    expect_one(r, HA_FINDING_CANT_RUN, HA_SEVERITY_WARNING, 3, "g1 can't run on n3: no /srv/k");
    assert_string_equal(r->out.list[0].fix, "copy it");
    rig_free(r);
}

/* One node that has all is enough; a witness has nothing and does not count. */
static void a_guest_that_no_node_admits_is_told(void **state)
{
    struct rig *r = rig_new();
    const struct ha_bar bars[] = {
        {.guest = build_uuid(1), .node = 1, .text = "no /srv/k there", .fix = "copy /srv/k to n1"},
        {.guest = build_uuid(1), .node = 2, .text = "no /srv/k there", .fix = "copy /srv/k to n2"},
        {.guest = build_uuid(1), .node = 3, .text = "no /srv/k there", .fix = "copy /srv/k to n3"}};

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    r->rt.bars = bars;
    r->rt.bar_count = 2;
    diagnose(r);
    assert_int_equal(r->out.count, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(r->out.list[i].code, HA_FINDING_CANT_RUN);
    r->rt.bar_count = 3;
    diagnose(r);
    assert_int_equal(r->out.count, 4);
    assert_int_equal(r->out.list[0].code, HA_FINDING_RUNS_NOWHERE);
    assert_int_equal(r->out.list[0].severity, HA_SEVERITY_ERROR);
    assert_string_equal(r->out.list[0].guest, "g1");
    assert_string_equal(r->out.list[0].what, "g1 is refused by every node; n1: no /srv/k there");
    assert_string_equal(r->out.list[0].fix, "copy /srv/k to n1");
    r->b->state.nodes[2].is_witness = true;
    r->rt.bar_count = 2;
    diagnose(r);
    assert_int_equal(r->out.count, 3);
    assert_int_equal(r->out.list[0].code, HA_FINDING_RUNS_NOWHERE);
    rig_free(r);
}

static void a_guests_elevator_is_told(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    r->guests[0] = (struct ha_doctor_guest){.name = "g1", .elevator = "cfq"};
    r->guests[1] = (struct ha_doctor_guest){.name = "g2"};
    r->in.guest_count = 2;
    expect_one(r, HA_FINDING_GUEST_ELEVATOR, HA_SEVERITY_NOTE, 0, "g1: its kernel is told");
    assert_non_null(strstr(r->out.list[0].fix, "udev"));
    rig_free(r);
}

static void who_can_be_fenced_is_asked_of_the_others(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    for (uint32_t i = 0; i < NODES; i++) {
        r->facts[i].item_count = 0;
        ha_facts_add(&r->facts[i], HA_LIST_SWAP, "/dev/sda2", 1048572, "local");
    }
    ha_facts_add(&r->facts[0], HA_LIST_DEVICE, "pdu", WALL_MS, " n1 n2 n30 "); /* n1 by itself */
    ha_facts_add(&r->facts[1], HA_LIST_DEVICE, "own", WALL_MS, " n1 ");
    expect_one(r, HA_FINDING_NO_FENCE, HA_SEVERITY_WARNING, 3, "n3: no other node");
    ha_facts_add(&r->facts[1], HA_LIST_DEVICE, "any", WALL_MS, "*");
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    rig_free(r);
}

/* Two power supplies, and a file that knows of one. */
static void files_that_halve_a_level_are_found(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    ha_facts_add(&r->facts[0], HA_LIST_FENCE_LEVEL, "feed-a", 1, " n2 n3 ");
    ha_facts_add(&r->facts[0], HA_LIST_FENCE_LEVEL, "feed-b", 2, "*");
    ha_facts_add(&r->facts[1], HA_LIST_FENCE_LEVEL, "feed-a", 1, " n1 n3 ");
    ha_facts_add(&r->facts[1], HA_LIST_FENCE_LEVEL, "feed-b", 1, " n2 "); /* n2 by itself, too */
    expect_one(r, HA_FINDING_FENCES_DIFFER, HA_SEVERITY_WARNING, 1,
               "n1: its fence.conf names a part of level 1 for n2 only: n2's names feed-b, too");
    ha_facts_add(&r->facts[0], HA_LIST_FENCE_LEVEL, "feed-b", 1, " n2 ");
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    ha_facts_add(&r->facts[1], HA_LIST_FENCE_LEVEL, "feed-c", 1, " n3 ");
    expect_one(r, HA_FINDING_FENCES_DIFFER, HA_SEVERITY_WARNING, 1, "for n3 only: n2's names");
    rig_free(r);
}

/* Who names none of a level is asked for none; a list that may be cut says nothing. */
static void files_for_other_nodes_do_not_differ(void **state)
{
    struct rig *r = rig_new();
    char nodes[HA_FACT_TEXT_MAX] = " ";

    (void)state;
    memset(nodes + 1, 'n', 70);
    ha_facts_add(&r->facts[0], HA_LIST_FENCE_LEVEL, "feed-a", 1, " n3 ");
    ha_facts_add(&r->facts[0], HA_LIST_FENCE_LEVEL, "feed-b", 1, nodes);
    ha_facts_add(&r->facts[1], HA_LIST_FENCE_LEVEL, "feed-a", 1, " n1 n3 ");
    ha_facts_add(&r->facts[1], HA_LIST_FENCE_LEVEL, "feed-b", 1, " n1 n3 ");
    ha_facts_add(&r->facts[2], HA_LIST_FENCE_LEVEL, "feed-c", 1, " n2 ");
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    rig_free(r);
}

static void voters_are_counted(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    build_voter(r->b, false, 3);
    expect_one(r, HA_FINDING_FEW_VOTERS, HA_SEVERITY_WARNING, 0, "2 voters");
    rig_free(r);
    r = rig_new();
    r->in.state = NULL;
    r->b->state.nodes[2].is_voter = false;
    diagnose(r); /* nobody was asked: nothing is said of the cluster */
    assert_int_equal(r->out.count, 0);
    rig_free(r);
    struct build *four = build_new(1);
    r = rig_new();
    build_ready(four, 4);
    r->in.state = &four->state;
    ha_facts_add(&r->facts[0], HA_LIST_DEVICE, "four", WALL_MS, " n4 ");
    expect_one(r, HA_FINDING_EVEN_VOTERS, HA_SEVERITY_NOTE, 0, "4 voters");
    build_free(four);
    rig_free(r);
}

static void promises_are_compared_with_memory(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_phase(r->b, 1, HA_PHASE_RUNNING, 2, 0);
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    build_capacity(r->b, 2, BUILD_GUEST_KIB / 2);
    expect_one(r, HA_FINDING_OVERCOMMIT, HA_SEVERITY_ERROR, 2, "1024 MiB are promised");
    rig_free(r);
}

/* A disarmed cluster, a frozen node: nobody expects a watchdog there. */
static void arming_is_expected_of_guarded_nodes_only(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    ha_facts_set(&r->facts[1], HA_FACT_IS_ARMED, 0);
    build_node_cmd(r->b, HA_CMD_FREEZE, 2);
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    build_node_cmd(r->b, HA_CMD_UNFREEZE, 2);
    expect_one(r, HA_FINDING_NOT_ARMED, HA_SEVERITY_ERROR, 2, "not armed");
    rig_free(r);
}

static void a_witness_needs_no_hypervisor(void **state)
{
    struct rig *r = rig_new();
    struct ha_facts *f = &r->facts[2];

    (void)state;
    memset(f, 0, sizeof(*f));
    ha_facts_set(f, HA_FACT_IS_WITNESS, 1);
    ha_facts_set(f, HA_FACT_IS_LOOKED, 1);
    ha_facts_set(f, HA_FACT_IS_XEN_WANTED, 1);
    ha_facts_set(f, HA_FACT_IS_XEN, 0);
    ha_facts_set(f, HA_FACT_IS_KEEPER_KNOWN, 0);
    ha_facts_say(f, HA_TEXT_CERT_WHY, "none");
    diagnose(r);
    assert_int_equal(r->out.count, 0);
    rig_free(r);
}

/* More findings than there is room for: the rest is said to be missing, nothing is overwritten. */
static void too_much_is_cut(void **state)
{
    struct rig *r = rig_new();
    struct ha_doctor_guest *guests = calloc(HA_FINDINGS_MAX + 1, sizeof(*guests));

    (void)state;
    assert_non_null(guests);
    for (uint32_t i = 0; i <= HA_FINDINGS_MAX; i++)
        guests[i] = (struct ha_doctor_guest){.name = "g", .never_quiet = "files"};
    r->in.guests = guests;
    r->in.guest_count = HA_FINDINGS_MAX + 1;
    diagnose(r);
    assert_int_equal(r->out.count, HA_FINDINGS_MAX);
    assert_true(r->out.is_cut);
    free(guests);
    rig_free(r);
}

/* ---- facts on the wire ---- */

static void facts_come_back_as_they_were(void **state)
{
    static uint8_t bytes[HA_FACTS_BYTES_MAX];
    static struct ha_facts from, to;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)state;
    fill_healthy(&from);
    for (uint32_t i = 0; i < HA_FACT_ITEMS_MAX + 5; i++)
        ha_facts_add(&from, HA_LIST_SCHEDULER, "sda", i, "a text");
    assert_true(from.is_cut);
    ha_facts_encode(&w, &from);
    assert_false(w.failed);
    struct ha_reader reader = ha_reader_of(bytes, w.position);
    ha_facts_decode(&reader, &to);
    assert_true(ha_reader_is_done(&reader));
    assert_memory_equal(&from, &to, sizeof(from));
    for (size_t size = 0; size < w.position; size++) { /* cut anywhere, it is refused */
        reader = ha_reader_of(bytes, size);
        ha_facts_decode(&reader, &to);
        assert_true(reader.failed);
    }
}

/* The largest facts fit what is said to hold them. */
static void the_largest_facts_fit(void **state)
{
    static uint8_t bytes[HA_FACTS_BYTES_MAX];
    static struct ha_facts facts;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    char text[2 * HA_FACT_TEXT_MAX];

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (uint32_t i = 0; i < HA_FACT_NUMBERS_MAX; i++)
        ha_facts_set(&facts, (enum ha_fact_number)i, UINT64_MAX);
    for (uint32_t i = 0; i < HA_FACT_TEXTS_MAX; i++)
        ha_facts_say(&facts, (enum ha_fact_text)i, text);
    for (uint32_t i = 0; i < HA_FACT_ITEMS_MAX; i++)
        ha_facts_add(&facts, HA_LIST_SCHEDULER, text, i, text);
    ha_facts_encode(&w, &facts);
    assert_false(w.failed);
}

/* A newer build's facts are skipped, what both know is read. */
static void unknown_facts_are_skipped(void **state)
{
    static struct ha_facts to;
    uint8_t bytes[256];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)state;
    ha_put_u16(&w, 2);
    ha_put_u16(&w, 30000);
    ha_put_u64(&w, 5);
    ha_put_u16(&w, HA_FACT_IS_XEN);
    ha_put_u64(&w, 1);
    ha_put_u16(&w, 1);
    ha_put_u16(&w, 30000);
    ha_put_text(&w, "new");
    ha_put_u8(&w, 0);
    ha_put_u16(&w, 1);
    ha_put_u16(&w, 30000);
    ha_put_u64(&w, 5);
    ha_put_text(&w, "new");
    ha_put_text(&w, "list");
    struct ha_reader reader = ha_reader_of(bytes, w.position);
    ha_facts_decode(&reader, &to);
    assert_true(ha_reader_is_done(&reader));
    assert_true(ha_facts_is(&to, HA_FACT_IS_XEN));
    assert_int_equal(to.item_count, 0);
}

static void every_finding_was_met(void **state)
{
    (void)state;
#define X(symbol, name, why)                                                                       \
    if (!is_met[symbol])                                                                           \
        fail_msg("no test has met " name);
    HA_FINDINGS(X)
#undef X
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_found_in_a_healthy_cluster),
        cmocka_unit_test(each_fact_has_its_finding),
        cmocka_unit_test(each_text_has_its_finding),
        cmocka_unit_test(what_a_node_lists_is_found),
        cmocka_unit_test(swap_that_is_none_is_told),
        cmocka_unit_test(xens_watchdogs_need_each_other),
        cmocka_unit_test(a_silent_node_is_named),
        cmocka_unit_test(a_host_that_could_not_be_looked_at_is_told),
        cmocka_unit_test(versions_of_xen_are_compared),
        cmocka_unit_test(processors_are_compared),
        cmocka_unit_test(feature_sets_are_compared_bit_by_bit),
        cmocka_unit_test(kinds_of_guests_count),
        cmocka_unit_test(isolation_is_told_per_guest),
        cmocka_unit_test(a_guest_that_cannot_run_somewhere_is_told),
        cmocka_unit_test(a_guest_that_no_node_admits_is_told),
        cmocka_unit_test(a_guests_elevator_is_told),
        cmocka_unit_test(who_can_be_fenced_is_asked_of_the_others),
        cmocka_unit_test(files_that_halve_a_level_are_found),
        cmocka_unit_test(files_for_other_nodes_do_not_differ),
        cmocka_unit_test(voters_are_counted),
        cmocka_unit_test(promises_are_compared_with_memory),
        cmocka_unit_test(arming_is_expected_of_guarded_nodes_only),
        cmocka_unit_test(a_witness_needs_no_hypervisor),
        cmocka_unit_test(too_much_is_cut),
        cmocka_unit_test(facts_come_back_as_they_were),
        cmocka_unit_test(the_largest_facts_fit),
        cmocka_unit_test(unknown_facts_are_skipped),
        cmocka_unit_test(every_finding_was_met),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
