/* SPDX-License-Identifier: Apache-2.0
 *
 * What hamgrd makes of the things that definitions name: it lets its hamgr-hv look for them, tells
 * all what was found, and what others found stands against their nodes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/doctor/lookproto.h"
#include "hamgr/shell/shell.h"
#include "tests/lib/builders.h"
#include "tests/unit/store/storetest.h"

#define PV_OF(disk, backend)                                                                       \
    "{\"c_info\":{\"type\":\"pv\",\"name\":\"g1\"},\"b_info\":{\"max_vcpus\":1,"                   \
    "\"max_memkb\":1048576,\"target_memkb\":1048576,\"kernel\":\"/srv/vmlinuz\",\"type\":\"pv\"}," \
    "\"disks\":[{\"pdev_path\":\"" disk "\",\"vdev\":\"xvda\",\"backend\":\"" backend              \
    "\",\"format\":\"raw\",\"readwrite\":1}],\"nics\":[{\"devid\":0,\"bridge\":\"xenbr0\"}]}"
#define PV      PV_OF("/dev/san/disk", "phy")
#define PV_FILE PV_OF("/srv/disk.img", "qdisk")

struct rig {
    struct hamgrd d;
    struct build *b;
    char *dir;
    int peer; /* hamgr-hv's end */
    struct look_ask ask;
    struct look_tell tell;
    uint8_t buffer[HA_IPC_MAX];
};

static struct ha_digest digest_of(const char *definition)
{
    return ha_digest_bytes((struct ha_digest){0}, definition, strlen(definition));
}

/* Three nodes of Xen; guest 1, by that definition, runs on node 1, which is this one. */
static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    int fds[2];

    ha_assert(r && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds) == 0);
    r->dir = dir_make();
    r->b = build_new(8);
    build_ready(r->b, 3);
    build_guest(r->b, 1, HA_WANT_STARTED);
    build_phase(r->b, 1, HA_PHASE_RUNNING, 1, 0);
    r->b->state.guests[0].definition = digest_of(PV);
    r->d.state = r->b->state;
    r->d.store = store_fresh(r->dir);
    store_put_definition(r->d.store, digest_of(PV), (const uint8_t *)PV, strlen(PV));
    r->d.loop = qb_loop_create();
    r->d.identity.node = 1;
    r->d.limits.max_downtime_ms = 300;
    r->d.is_woken = true; /* nothing of the shell's own turn is wanted here */
    snprintf(r->d.config.hypervisor, sizeof(r->d.config.hypervisor), "xen");
    snprintf(r->d.hv_welcome.caps.driver, sizeof(r->d.hv_welcome.caps.driver), "xen");
    r->d.hv = link_adopt(r->d.loop, fds[0], &hvlink_callbacks, &r->d);
    r->d.is_hv_welcomed = true;
    r->peer = fds[1];
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    things_free(&r->d);
    link_close(r->d.hv);
    close(r->peer);
    store_close(r->d.store, 2000);
    qb_loop_destroy(r->d.loop);
    build_free(r->b);
    dir_remove(r->dir);
    free(r);
    return 0;
}

/* Takes the look that is asked for into r->ask; its id, 0 if there is none; its file in *ret_fd. */
static uint64_t asked(struct rig *r, int *ret_fd)
{
    struct ha_packet packet;

    while (ha_sock_receive(r->peer, r->buffer, &packet) == 1) {
        if (packet.type != HVP_LOOK)
            continue;
        assert_int_equal(look_ask_decode(packet.body, packet.body_size, &r->ask), 0);
        *ret_fd = packet.fds[0];
        return packet.id;
    }
    return 0;
}

/* Answers it as hamgr-hv would: everything is there. */
static void answer(struct rig *r, uint64_t id, int fd, bool has_shadow)
{
    static uint8_t bytes[LOOK_TELL_BYTES_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    const struct hvp_done done = {.outcome = HV_OK};

    memset(&r->tell, 0, sizeof(r->tell));
    ha_facts_set(&r->tell.facts, HA_FACT_HAS_SHADOW, has_shadow);
    ha_facts_set(&r->tell.facts, HA_FACT_HAS_HAP, 1);
    r->tell.found_count = r->ask.thing_count;
    for (uint32_t i = 0; i < r->ask.thing_count; i++)
        r->tell.found[i] = (struct look_found){.state = LOOK_THERE, .id = 7};
    look_tell_encode(&w, &r->tell);
    assert_int_equal(write(fd, bytes, w.position), w.position);
    close(fd);
    things_hv_done(&r->d, id, &done);
}

static void look(struct rig *r, bool has_shadow)
{
    int fd;

    things_tick(&r->d);
    uint64_t id = asked(r, &fd);
    assert_int_not_equal(id, 0);
    answer(r, id, fd, has_shadow);
    things_tick(&r->d);
}

/* Node 2 found one thing, in that state. */
static void tell(struct rig *r, uint8_t kind, const char *name, uint8_t found, uint64_t id)
{
    static struct peer_things things;
    struct look_thing thing = {.kind = kind};

    snprintf(thing.name, sizeof(thing.name), "%s", name);
    memset(&things, 0, sizeof(things));
    things.is_paging_known = things.has_shadow = things.has_hap = true;
    things.count = 1;
    things.found[0] = (struct ha_found){.key = ha_thing_key(&thing), .state = found, .id = id};
    things_told(&r->d, 2, &things);
    things_tick(&r->d);
}

static void what_a_definition_names_is_looked_for(void **state)
{
    struct rig *r = *state;
    int fd;

    look(r, true);
    assert_int_equal(r->ask.thing_count, 3);
    assert_string_equal(r->ask.things[0].name, "/srv/vmlinuz");
    assert_string_equal(r->ask.things[1].name, "/dev/san/disk");
    assert_string_equal(r->ask.things[2].name, "xenbr0");
    assert_true(r->ask.is_xen);
    assert_int_equal(r->d.rt.bar_count, 0);
    things_tick(&r->d);
    assert_int_equal(asked(r, &fd), 0); /* not again before a minute has passed */
}

static void what_another_node_lacks_stands_against_it(void **state)
{
    struct rig *r = *state;
    const struct ha_uuid guest = build_uuid(1);

    look(r, true);
    tell(r, LOOK_BRIDGE, "xenbr0", LOOK_MISSING, 0);
    assert_int_equal(r->d.rt.bar_count, 1);
    assert_non_null(ha_bar_against(&r->d.rt, guest, 1, 2, 0));
    assert_null(ha_bar_against(&r->d.rt, guest, 1, 3, 0)); /* it told nothing */
    tell(r, LOOK_FILE, "/srv/vmlinuz", LOOK_THERE, 8);
    assert_string_equal(ha_bar_against(&r->d.rt, guest, 0, 2, 0)->text,
                        "/srv/vmlinuz is not the same as on n1");
    tell(r, LOOK_FILE, "/srv/vmlinuz", LOOK_THERE, 7);
    assert_int_equal(r->d.rt.bar_count, 0);
}

/* Nodes come and go for years; their words do not fill the table for those that are there. */
static void the_word_of_removed_nodes_makes_room(void **state)
{
    struct rig *r = *state;
    static const struct peer_things nothing;

    look(r, true);
    for (uint32_t gone = 1000; gone < 1000 + 2 * HA_NODES_MAX; gone++)
        things_told(&r->d, gone, &nothing);
    tell(r, LOOK_BRIDGE, "xenbr0", LOOK_MISSING, 0);
    assert_int_equal(r->d.rt.bar_count, 1);
    assert_string_equal(ha_bar_against(&r->d.rt, build_uuid(1), 1, 2, 0)->text,
                        "no bridge xenbr0 there");
}

static void a_pv_guest_without_shadow_paging_does_not_move_live(void **state)
{
    struct rig *r = *state;
    const struct ha_uuid guest = build_uuid(1);

    assert_true(things_can_move_live(&r->d, &r->d.state.guests[0])); /* nothing is known yet */
    look(r, false);
    assert_false(things_can_move_live(&r->d, &r->d.state.guests[0]));
    tell(r, LOOK_BRIDGE, "xenbr0", LOOK_THERE, 0);
    const struct ha_bar *bar = ha_bar_against(&r->d.rt, guest, 1, 2, 0);
    assert_non_null(bar);
    assert_true(bar->pause_ms > 1000); /* 1 GiB over a link */
    assert_null(ha_bar_against(&r->d.rt, guest, 1, 2, 600000));
    assert_null(ha_bar_against(&r->d.rt, guest, 0, 2, 0));
}

/* What its pause is foreseen to be on node 2. */
static const struct ha_bar *still_bar(struct rig *r)
{
    r->d.state.applied++; /* bars are made anew */
    things_tick(&r->d);
    const struct ha_bar *bar = ha_bar_against(&r->d.rt, build_uuid(1), 1, 2, 0);
    assert_non_null(bar);
    return bar;
}

static void arrive(struct rig *r, uint32_t src, uint32_t source_us, uint32_t guest_us)
{
    struct ha_applied applied = {.kind = LOG_KIND_STATE, .cmd = {.type = HA_CMD_MOVED}};

    applied.cmd.guest = build_uuid(1);
    applied.cmd.u.moved = (struct ha_moved){.outcome = HA_MOVED_ARRIVED,
                                            .src = src,
                                            .raw_bytes = 1 << 30,
                                            .wire_bytes = 1 << 28,
                                            .source_us = source_us,
                                            .guest_us = guest_us};
    forecast_applied(&r->d, &applied);
}

/* It has 1 GiB. First a guess: a gigabit link, or less by a slow processor; then what moves were.
 */
static void a_pause_is_foreseen_by_what_moved_before(void **state)
{
    struct rig *r = *state;

    r->d.state.guests[0].mem_kib = 1048576;
    look(r, false);
    tell(r, LOOK_BRIDGE, "xenbr0", LOOK_THERE, 0);
    assert_in_range(still_bar(r)->pause_ms, 13000, 14500);
    assert_non_null(strstr(still_bar(r)->text, "(a guess, nothing moved yet)"));
    r->d.codec_bytes_s = 80000000; /* an emulated one */
    assert_in_range(still_bar(r)->pause_ms, 100000, 120000);
    forecast_learn(&r->d, 3, 200000000, 10000000, 1000); /* live, 20 MB/s, half of it is sure */
    assert_in_range(still_bar(r)->pause_ms, 100000, 120000);
    assert_null(strstr(still_bar(r)->text, "guess"));
    arrive(r, 2, 1000, 2000); /* node 2 can do it live */
    assert_in_range(still_bar(r)->pause_ms, 100000, 120000);
    assert_in_range(moves_switch_us(&r->d, false), 3000000, 3100000);
    arrive(r, 1, 30000000, 40000000);
    assert_in_range(moves_switch_us(&r->d, false), 1, 500000); /* it is in those 40 s */
    assert_in_range(still_bar(r)->pause_ms, 59000, 61000);     /* 40 s, and half of it to spare */
    r->d.state.guests[0].mem_kib = 2 * 1048576;
    assert_in_range(still_bar(r)->pause_ms, 118000, 122000);
    r->d.state.guests[0].mem_kib = 16384; /* its devices cost the same */
    assert_in_range(still_bar(r)->pause_ms, 59000, 61000);
}

/* hamgr-hv goes and comes back: the look is asked for again, its late answer is nobody's. */
static void a_look_that_is_lost_is_asked_for_again(void **state)
{
    struct rig *r = *state;
    int fd, again;

    things_tick(&r->d);
    uint64_t id = asked(r, &fd);
    r->d.is_hv_welcomed = false;
    things_tick(&r->d);
    answer(r, id, fd, true);
    r->d.is_hv_welcomed = true;
    assert_int_equal(r->d.rt.bar_count, 0);
    for (int i = 0; i < 300 && (id = asked(r, &again)) == 0; i++) {
        usleep(20000); /* it waits some seconds before it asks again */
        things_tick(&r->d);
    }
    assert_int_not_equal(id, 0);
    close(again);
}

static void doctor_is_told_of_the_guests(void **state)
{
    struct rig *r = *state;
    const struct ha_doctor_guest *guests;
    struct look_ask ask = {0};

    look(r, true);
    assert_int_equal(things_guests(&r->d, &guests), 1);
    assert_int_equal(guests[0].kind, HA_KIND_PV);
    assert_null(guests[0].never_quiet);
    things_ask(&r->d, &ask);
    assert_int_equal(ask.thing_count, 1);
    assert_string_equal(ask.things[0].name, "/dev/san/disk");
}

/* Its memory would be copied, and its hand-over refused. */
static void a_guest_on_a_file_does_not_move(void **state)
{
    struct rig *r = *state;
    const struct ha_doctor_guest *guests;

    r->d.state.guests[0].definition = digest_of(PV_FILE);
    store_put_definition(r->d.store, digest_of(PV_FILE), (const uint8_t *)PV_FILE, strlen(PV_FILE));
    look(r, true);
    assert_int_equal(things_guests(&r->d, &guests), 1);
    assert_non_null(guests[0].never_quiet);
    tell(r, LOOK_BRIDGE, "xenbr0", LOOK_THERE, 7);
    const struct ha_bar *bar = ha_bar_against(&r->d.rt, r->d.state.guests[0].id, 1, 2, UINT32_MAX);
    assert_non_null(bar);
    assert_int_equal(bar->from, 1);
    assert_non_null(strstr(bar->text, "quiet"));
}

/* A node of another hypervisor looks for nothing; but as a witness it may lead, and plan. */
static void other_hypervisors_only_listen(void **state)
{
    struct rig *r = *state;
    int fd;

    snprintf(r->d.config.hypervisor, sizeof(r->d.config.hypervisor), "embedded");
    snprintf(r->d.hv_welcome.caps.driver, sizeof(r->d.hv_welcome.caps.driver), "embedded");
    things_tick(&r->d);
    assert_null(r->d.things);
    assert_true(things_can_move_live(&r->d, &r->d.state.guests[0]));
    tell(r, LOOK_BRIDGE, "xenbr0", LOOK_MISSING, 0);
    assert_int_equal(r->d.rt.bar_count, 1);
    assert_int_equal(asked(r, &fd), 0);
}

/* ---- on request: hactl guest check */

static void keep_checked(void *user, const struct server_checked *checked)
{
    *(struct server_checked *)user = *checked;
}

/* Begins a check of the definition, with node 2 in the group; its answer lands in *ret. The look
 * that is asked for is answered: all is there. */
static void check_here(struct rig *r, const char *definition, struct server_checked *ret)
{
    const struct server_check question = {.definition = (const uint8_t *)definition,
                                          .size = strlen(definition)};
    const struct hvp_done done = {.outcome = HV_OK};
    static uint8_t bytes[LOOK_TELL_BYTES_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    int fd;

    r->d.member_count = 2;
    r->d.members[0] = 1;
    r->d.members[1] = 2;
    doctor_open(&r->d);
    check_begin(&r->d, &question, keep_checked, ret);
    uint64_t id = asked(r, &fd);
    assert_int_not_equal(id, 0);
    memset(&r->tell, 0, sizeof(r->tell));
    r->tell.found_count = r->ask.thing_count;
    for (uint32_t i = 0; i < r->ask.thing_count; i++)
        r->tell.found[i] = (struct look_found){.state = LOOK_THERE, .id = 7};
    look_tell_encode(&w, &r->tell);
    assert_int_equal(write(fd, bytes, w.position), w.position);
    close(fd);
    doctor_hv_done(&r->d, id, &done);
}

static void each_node_is_asked_what_it_lacks(void **state)
{
    static struct server_checked checked;
    static struct peer_facts_tell tell;
    struct rig *r = *state;

    checked.count = 0;
    check_here(r, PV, &checked);
    assert_int_equal(r->ask.thing_count, 3);
    assert_string_equal(r->ask.things[0].name, "/srv/vmlinuz");
    doctor_tick(&r->d);
    assert_int_equal(checked.count, 0); /* node 2 is waited for */
    tell.id = r->d.nonce ^ 1;
    tell.found_count = 3;
    tell.found[0] = (struct look_found){.state = LOOK_THERE, .id = 8}; /* another kernel */
    tell.found[1] = tell.found[2] = (struct look_found){.state = LOOK_THERE, .id = 7};
    ha_facts_say(&tell.facts, HA_TEXT_HYPERVISOR, "xen: 4.17");
    doctor_told(&r->d, 2, &tell);
    doctor_tick(&r->d);
    assert_int_equal(checked.count, 3);
    assert_int_equal(checked.nodes[0].state, SERVER_CHECK_ABLE);
    assert_int_equal(checked.nodes[1].state, SERVER_CHECK_BARRED);
    assert_string_equal(checked.nodes[1].text, "/srv/vmlinuz is not the same as on n1");
    assert_string_equal(checked.nodes[1].fix, "copy /srv/vmlinuz from n1 to n2");
    assert_int_equal(checked.nodes[2].state, SERVER_CHECK_SILENT);
    assert_false(doctor_is_busy(&r->d));
    free(r->d.doctor);
}

static void a_definition_of_another_hypervisor_is_told(void **state)
{
    static struct server_checked checked;
    static struct peer_facts_tell tell;
    struct rig *r = *state;

    check_here(r, "memory_mib = 8\n", &checked);
    assert_int_equal(r->ask.thing_count, 0);
    tell.id = r->d.nonce ^ 1;
    tell.found_count = 0;
    ha_facts_say(&tell.facts, HA_TEXT_HYPERVISOR, "embedded: 1");
    ha_facts_say(&tell.facts, HA_TEXT_LOOK_WHY, "hamgr-hv does not answer");
    doctor_told(&r->d, 2, &tell);
    doctor_tick(&r->d);
    assert_int_equal(checked.nodes[0].state, SERVER_CHECK_BARRED);
    assert_non_null(strstr(checked.nodes[0].text, "the definition is none of Xen"));
    assert_int_equal(checked.nodes[1].state, SERVER_CHECK_ABLE); /* it names nothing */
    free(r->d.doctor);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_a_definition_names_is_looked_for),
        TEST(what_another_node_lacks_stands_against_it),
        TEST(the_word_of_removed_nodes_makes_room),
        TEST(a_pv_guest_without_shadow_paging_does_not_move_live),
        TEST(a_pause_is_foreseen_by_what_moved_before),
        TEST(a_look_that_is_lost_is_asked_for_again),
        TEST(doctor_is_told_of_the_guests),
        TEST(a_guest_on_a_file_does_not_move),
        TEST(other_hypervisors_only_listen),
        TEST(each_node_is_asked_what_it_lacks),
        TEST(a_definition_of_another_hypervisor_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
