/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the order for a look at a host and its answer. The first byte picks the body. What
 * decodes must fit its bounds, come back the same from its own encoding, and be something that the
 * diagnosis and the bars take.
 */
#include "tests/fuzz/fuzz.h"

#include "hamgr/doctor/bars.h"
#include "hamgr/doctor/doctor.h"
#include "hamgr/doctor/lookproto.h"

/* The largest order, all texts full. */
#define ASK_BYTES_MAX (8192u + LOOK_THINGS_MAX * (LOOK_PATH_MAX + 8u))

static bool is_text(const char *text, size_t capacity)
{
    return memchr(text, '\0', capacity) != NULL;
}

static void try_ask(const uint8_t *body, size_t size)
{
    static struct look_ask ask, again;
    static uint8_t bytes[ASK_BYTES_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    if (look_ask_decode(body, size, &ask) < 0)
        return;
    REQUIRE(ask.thing_count <= LOOK_THINGS_MAX && is_text(ask.node, sizeof(ask.node)));
    REQUIRE(is_text(ask.watchdog, sizeof(ask.watchdog)));
    for (uint32_t i = 0; i < ask.thing_count; i++) {
        REQUIRE(ask.things[i].kind >= LOOK_FILE && ask.things[i].kind <= LOOK_MEDIUM);
        REQUIRE(is_text(ask.things[i].name, LOOK_PATH_MAX) && ha_thing_key(&ask.things[i]) != 0);
    }
    look_ask_encode(&w, &ask);
    REQUIRE(!w.failed && w.position == size);
    REQUIRE(look_ask_decode(bytes, w.position, &again) == 0);
    REQUIRE(memcmp(&ask, &again, sizeof(ask)) == 0);
}

/* One node of no cluster, as hactl doctor --here judges it. */
static void judge(const struct ha_facts *facts)
{
    static struct ha_doctor_input in;
    static struct ha_diagnosis out;

    in.wall_ms = UINT64_C(1800000000000);
    in.node_count = 1;
    in.nodes[0] = (struct ha_doctor_node){.id = 1, .name = "n1", .facts = facts};
    ha_doctor(&in, &out);
    REQUIRE(out.count <= HA_FINDINGS_MAX);
    for (uint32_t i = 0; i < out.count; i++) {
        const struct ha_finding *f = &out.list[i];
        REQUIRE(is_text(f->what, sizeof(f->what)) && is_text(f->fix, sizeof(f->fix)));
        REQUIRE(f->what[0] != '\0' && ha_finding_why(f->code)[0] != '\0');
        REQUIRE(f->severity == HA_SEVERITY_NOTE || f->fix[0] != '\0');
        REQUIRE(i == 0 || f->severity <= out.list[i - 1].severity);
    }
}

static void try_tell(const uint8_t *body, size_t size)
{
    static struct look_tell tell, again;
    static uint8_t bytes[LOOK_TELL_BYTES_MAX], more[LOOK_TELL_BYTES_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct ha_writer second = ha_writer_of(more, sizeof(more));

    if (look_tell_decode(body, size, &tell) < 0)
        return;
    REQUIRE(tell.found_count <= LOOK_THINGS_MAX && tell.facts.item_count <= HA_FACT_ITEMS_MAX);
    for (uint32_t i = 0; i < tell.found_count; i++)
        REQUIRE(tell.found[i].state <= LOOK_LOCAL);
    /* Facts of newer builds are left out, so not the bytes but what was understood comes back. */
    look_tell_encode(&w, &tell);
    REQUIRE(!w.failed);
    REQUIRE(look_tell_decode(bytes, w.position, &again) == 0);
    look_tell_encode(&second, &again);
    REQUIRE(second.position == w.position && memcmp(bytes, more, w.position) == 0);
    judge(&tell.facts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t which = fuzz_u8(&in);
    uint8_t *body = fuzz_copy(in.data, in.size);

    if (which % 2 == 0)
        try_ask(body, in.size);
    else
        try_tell(body, in.size);
    free(body);
    return 0;
}
