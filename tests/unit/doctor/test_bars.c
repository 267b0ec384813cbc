/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands against a guest on a node: things that are missing or others, processors, paging; and
 * that what is not known stands against nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/doctor/bars.h"

#define NODES 3u

static const struct look_thing kernel = {.kind = LOOK_FILE, .name = "/srv/vmlinuz"};
static const struct look_thing disk = {.kind = LOOK_DISK, .name = "/dev/san/web1"};
static const struct look_thing bridge = {.kind = LOOK_BRIDGE, .name = "xenbr0"};
static const struct look_thing *const things[] = {&kernel, &disk, &bridge};

struct rig {
    struct ha_found found[NODES][3];
    struct ha_bars_node nodes[NODES];
    struct ha_bars_guest guest;
    struct ha_bar bars[8];
};

static int compare(const void *left, const void *right)
{
    const struct ha_found *a = left, *b = right;

    return a->key < b->key ? -1 : a->key > b->key;
}

/* Every node has all of it, and guest 1 runs on node 1. */
static void fill(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    for (uint32_t i = 0; i < NODES; i++) {
        for (uint32_t n = 0; n < 3; n++)
            r->found[i][n] = (struct ha_found){
                .key = ha_thing_key(things[n]), .state = LOOK_THERE, .id = n < 2 ? 7 + n : 0};
        qsort(r->found[i], 3, sizeof(r->found[i][0]), compare);
        struct ha_bars_node *node = &r->nodes[i];
        node->node = i + 1;
        snprintf(node->name, sizeof(node->name), "n%u", i + 1);
        node->is_paging_known = node->has_shadow = node->has_hap = true;
        node->found = r->found[i];
        node->found_count = 3;
    }
    r->guest = (struct ha_bars_guest){.id = {{1}},
                                      .kind = HA_KIND_PV,
                                      .owner = 1,
                                      .home = 1,
                                      .pause_ms = 12340,
                                      .contract_ms = 300,
                                      .thing_count = 3,
                                      .things = things};
}

static struct ha_found *found_of(struct rig *r, uint32_t node, const struct look_thing *thing)
{
    for (uint32_t i = 0; i < 3; i++) {
        if (r->found[node - 1][i].key == ha_thing_key(thing))
            return &r->found[node - 1][i];
    }
    abort();
}

static uint32_t make(struct rig *r)
{
    return ha_bars_make(r->nodes, NODES, &r->guest, 1, r->bars, 8);
}

static void nothing_stands_against_equal_nodes(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    assert_int_equal(make(&r), 0);
    for (uint32_t i = 0; i < NODES; i++)
        r.nodes[i].found_count = 0; /* nothing was told */
    assert_int_equal(make(&r), 0);
}

static void what_is_missing_bars_the_node(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    found_of(&r, 2, &kernel)->state = LOOK_MISSING;
    assert_int_equal(make(&r), 1);
    assert_int_equal(r.bars[0].node, 2);
    assert_int_equal(r.bars[0].from, 0); /* neither start nor move */
    assert_int_equal(r.bars[0].pause_ms, 0);
    assert_string_equal(r.bars[0].text, "no /srv/vmlinuz there");
    assert_string_equal(r.bars[0].fix, "copy /srv/vmlinuz to n2");
    fill(&r);
    found_of(&r, 3, &bridge)->state = LOOK_MISSING;
    assert_int_equal(make(&r), 1);
    assert_string_equal(r.bars[0].text, "no bridge xenbr0 there");
    assert_string_equal(r.bars[0].fix, "make the bridge xenbr0 on n3");
    fill(&r);
    found_of(&r, 3, &disk)->state = LOOK_WRONG;
    assert_int_equal(make(&r), 1);
    assert_string_equal(r.bars[0].text, "/dev/san/web1 is no disk");
    found_of(&r, 3, &disk)->state = LOOK_UNKNOWN;
    assert_int_equal(make(&r), 0);
}

static void another_of_the_same_name_bars_the_node(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    found_of(&r, 3, &kernel)->id = 99;
    assert_int_equal(make(&r), 1);
    assert_int_equal(r.bars[0].node, 3);
    assert_string_equal(r.bars[0].text, "/srv/vmlinuz is not the same as on n1");
    assert_string_equal(r.bars[0].fix, "copy /srv/vmlinuz from n1 to n3");
    r.guest.owner = r.guest.home = 3; /* its own is the right one, wherever it runs */
    assert_int_equal(make(&r), 2);
    assert_int_equal(r.bars[0].node, 1);
    assert_int_equal(r.bars[1].node, 2);
    r.guest.owner = r.guest.home = 0; /* it never ran: the first node's */
    assert_int_equal(make(&r), 1);
    assert_int_equal(r.bars[0].node, 3);
    found_of(&r, 3, &kernel)->id = 0; /* it can't be told apart */
    assert_int_equal(make(&r), 0);
}

/* A disk of one host's own is another on each, even where the path is the same. */
static void a_local_disk_stays_where_it_is(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    for (uint32_t i = 1; i <= NODES; i++)
        *found_of(&r, i, &disk) =
            (struct ha_found){.key = ha_thing_key(&disk), .state = LOOK_LOCAL};
    assert_int_equal(make(&r), 2);
    assert_int_equal(r.bars[0].node, 2);
    assert_string_equal(r.bars[0].fix, "put it on storage that n1 and n2 share");
    r.guest.owner = 0; /* it is down: it starts where its disk is */
    assert_int_equal(make(&r), 2);
    r.guest.home = 0;
    assert_int_equal(make(&r), 0);
}

static void processors_bar_moves_only(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    snprintf(r.nodes[0].cpu.pv, HA_FACT_TEXT_MAX, "0:10000000");
    snprintf(r.nodes[1].cpu.pv, HA_FACT_TEXT_MAX, "0:0");
    snprintf(r.nodes[2].cpu.pv, HA_FACT_TEXT_MAX, "0:30000000");
    assert_int_equal(make(&r), 1);
    assert_int_equal(r.bars[0].node, 2);
    assert_int_equal(r.bars[0].from, 1);
    assert_non_null(strstr(r.bars[0].text, "lacks avx"));
    snprintf(r.nodes[1].cpu.pv_max, HA_FACT_TEXT_MAX, "0:10000000"); /* not its own guests' */
    assert_int_equal(make(&r), 0);
    snprintf(r.nodes[1].cpu.pv_max, HA_FACT_TEXT_MAX, "0:1");
    assert_int_equal(make(&r), 1);
    r.guest.kind = HA_KIND_HVM; /* it sees another set */
    assert_int_equal(make(&r), 0);
    r.guest.kind = HA_KIND_PV;
    r.guest.owner = 0;
    assert_int_equal(make(&r), 0);
}

static void a_move_that_is_not_live_is_told_with_its_pause(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    r.nodes[0].has_shadow = false;
    assert_int_equal(make(&r), 2);
    assert_int_equal(r.bars[0].node, 2);
    assert_int_equal(r.bars[0].from, 1);
    assert_int_equal(r.bars[0].pause_ms, 12340);
    assert_int_equal(r.bars[0].contract_ms, 300);
    assert_string_equal(r.bars[0].text, "it can't move live, Xen on n1 can't log what a PV guest "
                                        "writes: it would stand still for about 12.3 s");
    assert_string_equal(r.bars[0].fix,
                        "allow it: hactl migrate --max-downtime 13s; or make the guest PVH");
    r.guest.is_pause_guess = true;
    make(&r);
    assert_non_null(strstr(r.bars[0].text, "about 12.3 s (a guess, nothing moved yet)"));
    r.guest.pause_ms = 599999;
    make(&r);
    assert_non_null(strstr(r.bars[0].fix, "--max-downtime 600s"));
    r.guest.pause_ms = 600000; /* more than hactl migrate takes */
    make(&r);
    assert_string_equal(r.bars[0].fix, "make the guest PVH");
    r.guest.kind = HA_KIND_PVH; /* HAP is enough for it */
    assert_int_equal(make(&r), 0);
    r.guest.kind = HA_KIND_PV;
    r.nodes[0].is_paging_known = false;
    assert_int_equal(make(&r), 0);
}

static void what_would_not_be_handed_over_does_not_move(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    r.guest.never_quiet = "a disk is a file";
    assert_int_equal(make(&r), 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(r.bars[i].node, 2 + i);
        assert_int_equal(r.bars[i].from, 1);     /* it may be started there */
        assert_int_equal(r.bars[i].pause_ms, 0); /* whatever pause is allowed */
    }
    assert_string_equal(r.bars[0].text,
                        "n1 can't prove that its disks are quiet, so it would not be "
                        "handed over: a disk is a file");
    assert_string_equal(r.bars[0].fix, "give it raw block devices below /dev (phy:), or stop the "
                                       "guest and start it on n2");
    r.guest.owner = 0;
    assert_int_equal(make(&r), 0);
}

static void what_does_not_fit_is_left_out(void **state)
{
    struct rig r;

    (void)state;
    fill(&r);
    for (uint32_t i = 1; i <= NODES; i++)
        found_of(&r, i, &kernel)->state = LOOK_MISSING;
    assert_int_equal(ha_bars_make(r.nodes, NODES, &r.guest, 1, r.bars, 2), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_stands_against_equal_nodes),
        cmocka_unit_test(what_is_missing_bars_the_node),
        cmocka_unit_test(another_of_the_same_name_bars_the_node),
        cmocka_unit_test(a_local_disk_stays_where_it_is),
        cmocka_unit_test(processors_bar_moves_only),
        cmocka_unit_test(a_move_that_is_not_live_is_told_with_its_pause),
        cmocka_unit_test(what_would_not_be_handed_over_does_not_move),
        cmocka_unit_test(what_does_not_fit_is_left_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
