/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the log against a hostile group. Three logs talk to each other; the input is a
 * script that delivers, drops, repeats, damages and forges their messages, moves the clock,
 * completes or fails writes. A forged message can do harm, but it crashes nobody, and no log ever
 * takes back what it called committed. While nothing was forged or damaged, all three commit the
 * same.
 */
#include "tests/fuzz/fuzz.h"

#include "quorum/log.h"
#include "quorum/msg.h"

#define NODES     3u
#define QUEUE     64u
#define INDEX_MAX 512u
#define STEPS_MAX 400u
#define FIRST     (NODES + 1u) /* INIT and the voters */

struct letter {
    uint32_t from;
    size_t size;
    uint8_t *bytes;
};

struct member {
    struct log *log;
    bool is_stopped;
    uint64_t tokens[8]; /* writes under way */
    uint32_t token_count;
    uint64_t seq;
    uint64_t commit;
    struct ha_digest committed[INDEX_MAX];
};

struct world {
    struct member members[NODES + 1];
    struct letter queue[QUEUE];
    uint32_t queued;
    uint64_t now_ms;
    bool is_clean; /* nothing forged or damaged yet */
};

static struct world world;
static void *memories[NODES + 1];
static struct log_actions actions;

static struct ha_uuid id_of(uint8_t kind, uint32_t number)
{
    return (struct ha_uuid){{kind, (uint8_t)number}};
}

static struct log_config config_of(uint32_t node)
{
    return (struct log_config){
        .cluster_id = id_of(1, 0),
        .generation = 1,
        .self = {.node = node,
                 .nonce = 1000 + node,
                 .store_id = id_of(2, node),
                 .boot_id = id_of(3, node),
                 .hw_id = id_of(4, node),
                 .proto_min = LOG_PROTO_MIN,
                 .proto_max = LOG_PROTO_MAX},
        .timing = {.heartbeat_ms = 500,
                   .lease_ms = 6900,
                   .keeper_ms = 250,
                   .reset_ms = 1000,
                   .drain_ms = 2000,
                   .token_ms = 1000,
                   .consensus_ms = 1200,
                   .rho_ppm = 5000},
        .ring_entries = 64,
        .ring_bytes = 2 * HA_ENTRY_MAX,
        .rng_seed = node,
    };
}

static void load_first(struct log *log)
{
    struct ha_digest previous = {0};

    for (uint32_t index = 1; index <= FIRST; index++) {
        uint8_t body[64] = "init";
        struct ha_writer w = ha_writer_of(body, sizeof(body));
        struct log_entry entry = {.index = index, .body = body, .kind = LOG_KIND_INIT};
        if (index > 1) {
            struct log_voter_change change = {true, index - 1, id_of(2, index - 1)};
            log_voter_change_encode(&w, &change);
            entry.kind = LOG_KIND_VOTER;
        }
        entry.body_size = (uint32_t)(index > 1 ? w.position : 4);
        entry.digest = log_entry_digest(previous, &entry);
        previous = entry.digest;
        REQUIRE(log_load(log, &entry) == 0);
    }
}

static void begin(void)
{
    for (uint32_t i = 0; i < world.queued; i++)
        free(world.queue[i].bytes);
    memset(&world, 0, sizeof(world));
    world.now_ms = 100000;
    world.is_clean = true;
    for (uint32_t node = 1; node <= NODES; node++) {
        struct log_config config = config_of(node);
        struct log_loaded loaded = {.now_ms = world.now_ms};
        if (!memories[node])
            memories[node] = aligned_alloc(64, (log_memory_size(&config) + 63) / 64 * 64);
        REQUIRE(memories[node]);
        world.members[node].log = log_init(memories[node], &config, &loaded);
        load_first(world.members[node].log);
    }
}

static void post(uint32_t from, const uint8_t *data, size_t size)
{
    if (world.queued == QUEUE) { /* a slow network: the oldest is lost */
        free(world.queue[0].bytes);
        memmove(world.queue, world.queue + 1, (QUEUE - 1) * sizeof(world.queue[0]));
        world.queued--;
    }
    world.queue[world.queued++] = (struct letter){from, size, fuzz_copy(data, size)};
}

/* Committed once is committed for ever, and in order. */
static void note_commit(struct member *m, uint64_t index)
{
    REQUIRE(index >= m->commit && index <= log_last_index(m->log));
    for (uint64_t i = m->commit + 1; i <= index && i < INDEX_MAX; i++) {
        const struct log_entry *entry = log_entry_at(m->log, i);
        REQUIRE(entry != NULL && entry->index == i);
        m->committed[i] = entry->digest;
        for (uint32_t node = 1; world.is_clean && node <= NODES; node++) {
            const struct member *other = &world.members[node];
            REQUIRE(other->commit < i || ha_digest_equal(other->committed[i], entry->digest));
        }
    }
    m->commit = index;
}

static void note_send(uint32_t node, const struct log_action *action)
{
    static struct log_msg msg;

    REQUIRE(action->u.send.size <= LOG_MSG_MAX);
    REQUIRE(log_msg_decode(action->u.send.data, action->u.send.size, &msg) == 0);
    REQUIRE(msg.header.nonce == 1000 + node);
    post(node, action->u.send.data, action->u.send.size);
}

static void carry_out(uint32_t node)
{
    struct member *m = &world.members[node];

    REQUIRE(actions.count <= LOG_ACTIONS_MAX);
    for (uint32_t i = 0; i < actions.count; i++) {
        const struct log_action *action = &actions.list[i];
        if (action->type == LOG_ACT_SEND)
            note_send(node, action);
        else if (action->type == LOG_ACT_COMMIT)
            note_commit(m, action->u.commit.index);
        else if (action->type == LOG_ACT_PERSIST && m->token_count < 8)
            m->tokens[m->token_count++] = action->u.persist.token;
        else if (action->type == LOG_ACT_STOP)
            m->is_stopped = true;
    }
    REQUIRE(!world.is_clean || !m->is_stopped);
    for (uint64_t i = 1; i <= m->commit && i < INDEX_MAX; i++) {
        const struct log_entry *entry = log_entry_at(m->log, i);
        REQUIRE(!entry || ha_digest_equal(entry->digest, m->committed[i]));
    }
}

static void feed(uint32_t node, struct log_event *event)
{
    struct member *m = &world.members[node];

    if (m->is_stopped)
        return;
    event->now_ms = world.now_ms;
    event->wall_ms = 1700000000000 + world.now_ms;
    log_step(m->log, event, &actions);
    carry_out(node);
}

static void feed_message(uint32_t node, const struct letter *letter)
{
    struct log_event event = {.type = LOG_EV_MESSAGE};

    event.u.message.from = letter->from;
    event.u.message.data = letter->bytes;
    event.u.message.size = letter->size;
    feed(node, &event);
}

/* The oldest letter reaches the nodes of mask. */
static void deliver(uint8_t mask)
{
    if (world.queued == 0)
        return;
    struct letter letter = world.queue[0];
    memmove(world.queue, world.queue + 1, --world.queued * sizeof(world.queue[0]));
    for (uint32_t node = 1; node <= NODES; node++)
        if (mask & (1u << node))
            feed_message(node, &letter);
    free(letter.bytes);
}

static void finish_writes(uint32_t node, bool is_ok)
{
    struct member *m = &world.members[node];

    while (m->token_count > 0) {
        struct log_event event = {.type = LOG_EV_PERSISTED};
        event.u.persisted.token = m->tokens[0];
        event.u.persisted.is_ok = is_ok;
        memmove(m->tokens, m->tokens + 1, --m->token_count * sizeof(m->tokens[0]));
        feed(node, &event);
    }
}

static void tick(uint32_t ms)
{
    world.now_ms += ms;
    for (uint32_t node = 1; node <= NODES; node++) {
        struct log_event event = {.type = LOG_EV_TIMER};
        feed(node, &event);
    }
}

static void set_members(uint8_t mask)
{
    for (uint32_t node = 1; node <= NODES; node++) {
        struct log_event event = {.type = LOG_EV_MEMBERS};
        for (uint32_t other = 1; other <= NODES; other++)
            if (other == node || (mask & (1u << other)))
                event.u.members.nodes[event.u.members.count++] = other;
        feed(node, &event);
    }
}

static void propose(struct fuzz_input *in)
{
    uint32_t node = 1 + fuzz_u8(in) % NODES;
    struct log_event event = {.type = LOG_EV_PROPOSE};
    size_t size = fuzz_u8(in);

    event.u.propose.seq = ++world.members[node].seq;
    event.u.propose.kind = LOG_KIND_STATE;
    event.u.propose.body = fuzz_bytes(in, &size);
    event.u.propose.body_size = size;
    feed(node, &event);
}

/* All goes well for a while: a view opens, entries are committed. */
static void calm(uint32_t rounds)
{
    set_members(0xfe);
    for (uint32_t round = 0; round < rounds; round++) {
        tick(100);
        for (uint32_t i = 0; i < QUEUE && world.queued > 0; i++) {
            deliver(0xfe);
            for (uint32_t node = 1; node <= NODES; node++)
                finish_writes(node, true);
        }
    }
}

static void damage(struct fuzz_input *in)
{
    uint16_t at = fuzz_u16(in);
    uint8_t bits = fuzz_u8(in);

    if (world.queued == 0 || bits == 0)
        return;
    struct letter *letter = &world.queue[fuzz_u8(in) % world.queued];
    letter->bytes[at % letter->size] ^= bits;
    world.is_clean = false;
}

/* A message of the fuzzer's own under a head that fits: the nonce within the body, too. */
static void forge(struct fuzz_input *in)
{
    uint8_t bytes[1024];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    uint8_t type = (uint8_t)(1 + fuzz_u8(in) % (LOG_MSG_TYPE_END - 1)), flags = fuzz_u8(in);
    uint32_t from = 1 + (flags & 3u), victim = 1 + fuzz_u8(in) % NODES;
    struct log_view view = log_view_now(world.members[victim].log);
    size_t size = fuzz_u8(in), nonce_at = type == LOG_MSG_HEARTBEAT ? 12 : 6;

    view.counter += flags >> 5;
    view.leader = flags & 16u ? from : view.leader;
    ha_put_u32(&w, LOG_MSG_MAGIC);
    ha_put_u16(&w, LOG_MSG_VERSION);
    ha_put_u8(&w, type);
    ha_put_uuid(&w, id_of(1, 0));
    ha_put_u64(&w, 1);
    ha_put_u64(&w, view.counter);
    ha_put_u32(&w, view.leader);
    ha_put_u64(&w, 1000 + from);
    size_t head = w.position;
    const uint8_t *body = fuzz_bytes(in, &size);
    ha_put_raw(&w, body, size);
    if ((type == LOG_MSG_HEARTBEAT || type == LOG_MSG_PROMISE) && size >= nonce_at + 8) {
        struct ha_writer inner = ha_writer_of(bytes + head + nonce_at, 8);
        ha_put_u64(&inner, 1000 + from);
    }
    post(from, bytes, w.position);
    world.is_clean = false;
}

static void run(struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in), node = (uint8_t)(1 + (what >> 4) % NODES);
    struct log_event down = {.type = LOG_EV_DOWN};

    switch (what % 14u) {
    case 0:
    case 1:
    case 2:
        deliver(fuzz_u8(in));
        break;
    case 3:
        finish_writes(node, true);
        break;
    case 4:
        finish_writes(node, (fuzz_u8(in) & 15u) != 0);
        break;
    case 5:
        tick(fuzz_u16(in) % 8000u);
        break;
    case 6:
        set_members(fuzz_u8(in));
        break;
    case 7:
        propose(in);
        break;
    case 8:
        feed(node, &down);
        break;
    case 9:
        if (world.queued > 0) /* once more */
            post(world.queue[0].from, world.queue[0].bytes, world.queue[0].size);
        break;
    case 10:
    case 11:
        damage(in);
        break;
    case 12:
        forge(in);
        break;
    default:
        calm(1 + (what >> 4));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    begin();
    if (fuzz_u8(&in) & 1u) {
        calm(12);
        REQUIRE(log_is_open(world.members[NODES].log) && world.members[NODES].commit > FIRST);
    }
    for (unsigned step = 0; step < STEPS_MAX && in.size > 0; step++)
        run(&in);
    for (uint32_t node = 1; node <= NODES; node++)
        REQUIRE(log_commit_index(world.members[node].log) >= world.members[node].commit ||
                world.members[node].is_stopped);
    return 0;
}
