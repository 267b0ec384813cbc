/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the replicated state. The first byte picks what the rest is:
 *
 *   0  one command body: what decodes must encode to the same bytes
 *   1  a snapshot (the digest behind it is made here): what decodes must be a sound state, and
 *      encode to the same bytes
 *   2  a script of entries on a cluster that works, applied one after the other
 *
 * Each applied entry is judged by state_oath.c: nothing half-done when it fails, nothing done when
 * it is a no-op, and never a step that design.md forbids.
 */
#include "tests/fuzz/fuzz.h"

#include "tests/fuzz/state_oath.h"
#include "tests/lib/builders.h"

#define NODES       3u
#define SNAPSHOT    (1u << 16)
#define STEPS_MAX   200u
#define DIGEST_SIZE sizeof(struct ha_digest)

static void say(const char *broken)
{
    if (broken)
        fprintf(stderr, "the state's oath: %s\n", broken);
    REQUIRE(!broken);
}

static void try_command(const uint8_t *data, size_t size)
{
    static uint8_t out[HA_ENTRY_MAX + 1024];
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct ha_cmd cmd;

    if (ha_cmd_decode(data, size, &cmd) < 0)
        return;
    ha_cmd_encode(&w, &cmd);
    REQUIRE(!w.failed && w.position == size && memcmp(out, data, size) == 0);
}

/* What a snapshot of state gives back must be state, byte for byte. */
static void try_roundtrip(const struct ha_state *state)
{
    static uint8_t first[SNAPSHOT], second[SNAPSHOT];
    struct ha_guest guests[OATH_GUESTS];
    struct ha_state again;

    int64_t size = ha_state_encode(state, first, sizeof(first));
    REQUIRE(size > 0 && (uint64_t)size <= ha_state_encoded_max(state));
    ha_state_init(&again, guests, OATH_GUESTS);
    REQUIRE(ha_state_decode(&again, first, (size_t)size) == 0);
    REQUIRE(ha_state_encode(&again, second, sizeof(second)) == size);
    REQUIRE(memcmp(first, second, (size_t)size) == 0);
}

static void try_snapshot(const uint8_t *data, size_t size)
{
    static uint8_t bytes[SNAPSHOT], again[SNAPSHOT];
    struct ha_guest guests[OATH_GUESTS];
    struct ha_state state;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    if (size > SNAPSHOT / 2)
        return;
    ha_put_raw(&w, data, size);
    ha_put_digest(&w, ha_digest_bytes((struct ha_digest){0}, data, size));
    ha_state_init(&state, guests, OATH_GUESTS);
    uint8_t *copy = fuzz_copy(bytes, w.position);
    if (ha_state_decode(&state, copy, w.position) == 0) {
        REQUIRE(ha_state_violation(&state) == NULL);
        int64_t used = ha_state_encode(&state, again, sizeof(again));
        REQUIRE(used >= (int64_t)w.position); /* an older version says less */
        REQUIRE(bytes[4] != again[4] || used == (int64_t)w.position);
        REQUIRE(bytes[4] != again[4] || memcmp(again, bytes, w.position) == 0);
    } else {
        REQUIRE(state.node_count == 0 && state.guest_count == 0 && state.applied == 0);
    }
    free(copy);
}

/* One entry: what it does, judged against the state before. */
static void apply(struct build *b, uint8_t kind, const uint8_t *body, size_t size)
{
    static struct oath_copy before;

    oath_copy(&b->state, &before);
    if (build_apply(b, kind, body, size) < 0) {
        REQUIRE(b->state.applied == before.state.applied);
        REQUIRE(oath_is_same(&before.state, &b->state));
        return;
    }
    bool is_command = kind == LOG_KIND_STATE || kind == LOG_KIND_INIT;
    if (b->applied.is_noop)
        REQUIRE(b->applied.refusal != 0 && oath_is_same(&before.state, &b->state));
    say(oath_state(&b->state));
    say(oath_step(&before.state, &b->state, is_command ? b->applied.cmd.type : 0));
    REQUIRE(ha_state_violation(&b->state) == NULL);
}

/* A command of the fuzzer's own fields behind a head that mostly fits the present state. */
static void apply_command(struct build *b, struct fuzz_input *in)
{
    static uint8_t body[HA_ENTRY_MAX + 1024];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    uint8_t type = fuzz_u8(in) % (HA_CMD_CLEAR + 2), flags = fuzz_u8(in);
    uint8_t guest = (uint8_t)(fuzz_u8(in) % OATH_GUESTS), node = fuzz_u8(in) % (NODES + 2);
    size_t size = fuzz_u8(in);
    struct ha_cmd cmd = build_guest_command(b, type, guest + 1u);

    if (flags & 1u) { /* about the node that is named, not the owner */
        const struct ha_node *named = ha_state_node(&b->state, node);
        cmd.node = node;
        cmd.incarnation = named ? named->incarnation : 0;
    }
    if (flags & 2u) {
        const struct ha_guest *known = ha_state_guest(&b->state, cmd.guest);
        cmd.epoch = known ? known->epoch_high + 1 : 1;
    }
    if (flags & 4u) /* ARMED: the index its keeper was seen at */
        cmd.epoch = b->state.applied;
    if (flags & 8u) { /* off by little */
        cmd.epoch += (uint64_t)(int64_t)(int8_t)fuzz_u8(in);
        cmd.incarnation += (uint64_t)(int64_t)(int8_t)fuzz_u8(in);
        cmd.ticket += (uint64_t)(int64_t)(int8_t)fuzz_u8(in);
    }
    const uint8_t *rest = fuzz_bytes(in, &size);
    ha_put_u8(&w, 1); /* the form; then the head as in hamgr/core/entry.c */
    ha_put_u8(&w, cmd.type);
    ha_put_u16(&w, cmd.reason);
    ha_put_u64(&w, cmd.cause);
    ha_put_text(&w, cmd.actor);
    ha_put_u32(&w, cmd.node);
    ha_put_u64(&w, cmd.incarnation);
    ha_put_uuid(&w, cmd.guest);
    ha_put_u64(&w, cmd.epoch);
    ha_put_u64(&w, cmd.ticket);
    ha_put_raw(&w, rest, size);
    apply(b, LOG_KIND_STATE, body, w.position);
}

/* MIGRATE's own fields are numbers nobody guesses: destination and its incarnation. */
static void apply_migrate(struct build *b, struct fuzz_input *in)
{
    static uint8_t body[HA_ENTRY_MAX];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_MIGRATE, fuzz_u8(in) % OATH_GUESTS + 1u);
    const struct ha_node *to = ha_state_node(&b->state, fuzz_u8(in) % (NODES + 2));
    const struct ha_guest *known = ha_state_guest(&b->state, cmd.guest);

    cmd.epoch = (known ? known->epoch_high : 0) + fuzz_u8(in) % 3u;
    cmd.u.migrate.dst = to ? to->id : 9;
    cmd.u.migrate.dst_incarnation = to ? to->incarnation : 9;
    ha_cmd_encode(&w, &cmd);
    apply(b, LOG_KIND_STATE, body, w.position);
}

/* REVERT names the destination, which owns the guest: the builder's head fits it. GUEST_ADD in
 * full.
 */
static void apply_guest_add(struct build *b, struct fuzz_input *in)
{
    static uint8_t body[HA_ENTRY_MAX];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    uint32_t number = fuzz_u8(in) % (OATH_GUESTS + 2u) + 1u;
    struct ha_cmd cmd = build_command(b, HA_CMD_GUEST_ADD);
    const uint8_t bytes[1] = {'x'};

    cmd.guest = build_uuid(number);
    snprintf(cmd.u.guest_add.name, sizeof(cmd.u.guest_add.name), "g%u", fuzz_u8(in) % 10u);
    cmd.u.guest_add.mem_kib = (uint64_t)fuzz_u16(in) << (fuzz_u8(in) % 40);
    cmd.u.guest_add.want = fuzz_u8(in) % 3u;
    cmd.u.guest_add.policy = ha_policy_default();
    cmd.u.guest_add.policy.restart_max = fuzz_u8(in) % 4u;
    cmd.u.guest_add.policy.is_protected = (fuzz_u8(in) & 1u) != 0;
    cmd.u.guest_add.definition = ha_digest_bytes((struct ha_digest){0}, bytes, sizeof(bytes));
    cmd.u.guest_add.definition_bytes = bytes;
    cmd.u.guest_add.definition_size = sizeof(bytes);
    ha_cmd_encode(&w, &cmd);
    apply(b, LOG_KIND_STATE, body, w.position);
}

static void apply_open(struct build *b, struct fuzz_input *in)
{
    uint8_t members = fuzz_u8(in), restarted = fuzz_u8(in), flags = fuzz_u8(in);
    struct log_open open = {.view = b->state.view, .is_continuous = (flags & 1u) != 0};
    static uint8_t body[4096];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    open.view.counter += flags >> 6;
    for (uint32_t node = 1; node <= NODES; node++) {
        if (restarted & (1u << node))
            build_restart(b, node);
        if (restarted & (16u << node))
            build_reboot(b, node);
        if (members & (1u << node))
            open.members[open.member_count++] = b->self[node];
    }
    if (open.member_count == 0)
        open.members[open.member_count++] = b->self[1];
    open.view.leader = open.members[0].node;
    if (flags & 2u) /* another machine or store under the same number */
        open.members[0].hw_id.b[3] = flags;
    if (flags & 4u)
        open.members[0].store_id.b[3] = flags;
    log_open_encode(&w, &open);
    apply(b, LOG_KIND_OPEN, body, w.position);
}

static void apply_voter(struct build *b, struct fuzz_input *in)
{
    uint8_t node = fuzz_u8(in) % (NODES + 2), flags = fuzz_u8(in);
    struct log_voter_change change = {.is_added = (flags & 1u) != 0, .node = node};
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    uint32_t voters = 0;

    for (uint32_t i = 0; i < b->state.node_count; i++)
        voters += b->state.nodes[i].is_voter;
    const struct ha_node *known = ha_state_node(&b->state, node);
    if (!change.is_added && voters <= 1 && known && known->is_voter)
        return; /* the log never numbers that one (quorum/entry.h) */
    change.store_id = b->self[node ? node : 1].store_id;
    change.store_id.b[5] = flags & 2u;
    log_voter_change_encode(&w, &change);
    apply(b, LOG_KIND_VOTER, body, w.position);
}

static void apply_raw(struct build *b, struct fuzz_input *in)
{
    uint8_t kind = fuzz_u8(in) % 6u;
    size_t size = fuzz_u8(in);
    const uint8_t *body = fuzz_bytes(in, &size);
    uint8_t *copy = fuzz_copy(body, size);

    if (kind != LOG_KIND_VOTER)
        apply(b, kind, copy, size);
    free(copy);
}

/* A cluster that works: made once, then copied for each script. */
static struct build *begin(void)
{
    static struct build *first;
    static struct oath_copy guests;
    struct build *b = build_new(OATH_GUESTS);
    struct ha_guest *own = b->state.guests;

    if (!first) {
        first = build_new(OATH_GUESTS);
        build_ready(first, NODES);
        for (uint32_t guest = 1; guest <= 3; guest++)
            REQUIRE(build_guest(first, guest, HA_WANT_STARTED) == 0);
        REQUIRE(build_assign(first, 1, 1) == 0 && build_started(first, 1) == 0);
        REQUIRE(build_assign(first, 2, 2) == 0);
        oath_copy(&first->state, &guests);
    }
    *b = *first;
    b->state.guests = own;
    memcpy(own, guests.guests, sizeof(guests.guests));
    return b;
}

static void try_script(struct fuzz_input *in)
{
    struct build *b = begin();

    for (unsigned step = 0; step < STEPS_MAX && in->size > 0; step++) {
        uint8_t what = fuzz_u8(in) % 16u;
        if (what < 9)
            apply_command(b, in);
        else if (what < 11)
            apply_migrate(b, in);
        else if (what < 12)
            apply_guest_add(b, in);
        else if (what < 14)
            apply_open(b, in);
        else if (what < 15)
            apply_voter(b, in);
        else
            apply_raw(b, in);
    }
    try_roundtrip(&b->state);
    build_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    switch (fuzz_u8(&in) % 3u) {
    case 0:
        try_command(in.data, in.size);
        break;
    case 1:
        try_snapshot(in.data, in.size);
        break;
    default:
        try_script(&in);
    }
    return 0;
}
