/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases, ages and evidence, and what a single log does with messages that are wrong: stories of
 * the small world, then one log alone, spoken to message by message.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster.h"
#include "hamgr/base/err.h"

#define UNUSED __attribute__((unused))
#define H_MS   100u

static struct world *whole_world(uint32_t count)
{
    struct world *w = world_new(count, count, 3);

    w->detect_us = 0;
    w->has_no_shell = true;
    w->is_verbose = getenv("WORLD_VERBOSE") != NULL;
    world_start_all(w);
    assert_true(world_run_until(w, 5000, world_is_whole, NULL));
    world_run_ms(w, 3 * H_MS);
    return w;
}

static void finish(struct world *w)
{
    world_check_end(w);
    if (w->failure[0])
        fail_msg("%s", w->failure);
    world_free(w);
}

static uint64_t evidence(struct world *w, uint32_t leader, uint32_t node)
{
    return log_evidence_ms(w->nodes[leader].log, node,
                           world_local_ms(&w->nodes[leader], w->now_us));
}

/* ---- arithmetic */

static void times_are_computed(void **state UNUSED)
{
    struct log_timing t = {.heartbeat_ms = 500,
                           .lease_ms = 6900,
                           .keeper_ms = 250,
                           .reset_ms = 1000,
                           .drain_ms = 2000,
                           .token_ms = 1000,
                           .consensus_ms = 1200,
                           .rho_ppm = 5000};

    assert_int_equal(log_lease_min_ms(&t), 5900); /* 2 (1000 + 1200) + 3 x 500 */
    assert_int_equal(log_hold_ms(&t), 5900);
    /* (6900 + 250 + 5000) x 1.01 = 12271.5, rounded up, + 1000 + 2000 */
    assert_int_equal(log_wait_ms(&t, 6900, 5000), 15272);
    assert_int_equal(log_wait_ms(&t, UINT32_MAX, UINT32_MAX), UINT32_MAX);
}

/* ---- leases */

static void lease_is_renewed_every_heartbeat(void **state UNUSED)
{
    struct world *w = whole_world(3);

    for (int i = 0; i < 50; i++) {
        world_run_ms(w, H_MS);
        for (uint32_t id = 1; id <= 3; id++) /* never older than three heartbeats */
            assert_true(w->nodes[id].lease_end_us + 3u * H_MS * 1000 >
                        w->now_us + w->timing.lease_ms * 1000u);
    }
    finish(w);
}

/* H17, H21: left out, a lease runs out and stays void until an OPEN names the node again. */
static void isolated_node_loses_its_lease(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint32_t opens = w->nodes[3].opens;

    world_split(w, (const uint32_t[]){0, 0, 1});
    world_run_ms(w, w->timing.lease_ms + 20);
    assert_int_equal(w->nodes[3].lease_end_us, 0);
    assert_false(w->nodes[3].is_open);
    assert_true(w->nodes[1].lease_end_us > w->now_us);
    world_heal(w);
    assert_true(world_run_until(w, 3000, world_is_whole, NULL));
    assert_true(w->nodes[3].opens > opens);
    finish(w);
}

/* A lease goes on while views change, as long as they are quick. */
static void lease_survives_view_changes(void **state UNUSED)
{
    struct world *w = whole_world(5);

    for (int i = 0; i < 12; i++) {
        uint32_t id = 2 + (uint32_t)i % 4;
        world_crash(w, id, 9);
        world_run_ms(w, 2 * H_MS);
        world_start(w, id);
        world_run_ms(w, 2 * H_MS);
        assert_true(w->nodes[1].lease_end_us > w->now_us);
    }
    assert_int_equal(w->nodes[1].opens, w->nodes[1].opens);
    finish(w);
}

/* H8, H21: a node that hung for longer than L wakes up without a lease, whatever it finds in its
 * queue. */
static void hung_node_wakes_up_without_a_lease(void **state UNUSED)
{
    struct world *w = whole_world(3);

    world_hang(w, 3, true);
    world_run_ms(w, 2u * w->timing.lease_ms);
    world_hang(w, 3, false);
    world_run_ms(w, 1);
    assert_int_equal(log_lease_end_ms(w->nodes[3].log), 0);
    assert_false(w->nodes[3].is_open);
    assert_true(world_run_until(w, 3000, world_is_whole, NULL));
    finish(w);
}

/* ---- evidence */

/* E never says more than the time since the absent node's newest acknowledged heartbeat began, and
 * not much less. */
static void evidence_counts_from_the_last_acknowledgement(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint64_t cut_us = w->now_us;

    world_split(w, (const uint32_t[]){0, 0, 1});
    assert_int_equal(evidence(w, 1, 3), 0); /* still a member */
    for (int i = 0; i < 30; i++) {
        world_run_ms(w, 100);
        uint64_t since_ms = (w->now_us - cut_us) / 1000;
        if (w->nodes[1].log->current.names.count != 2)
            continue;
        assert_true(evidence(w, 1, 3) <= since_ms + H_MS + 20);
        assert_true(evidence(w, 1, 3) + 2 * H_MS + 20 >= since_ms);
        assert_int_equal(evidence(w, 1, 2), 0); /* a member */
        assert_int_equal(evidence(w, 2, 3), 0); /* only the leader counts */
    }
    assert_true(evidence(w, 1, 3) > 2000);
    finish(w);
}

/* A member that restarted forgot what it acknowledged: E starts again from its start. */
static void restarted_member_starts_evidence_again(void **state UNUSED)
{
    struct world *w = whole_world(3);

    world_split(w, (const uint32_t[]){0, 0, 1});
    world_run_ms(w, 1500);
    assert_true(evidence(w, 1, 3) > 1000);
    world_crash(w, 2, 9);
    uint64_t start_us = w->now_us;
    world_start(w, 2);
    world_run_ms(w, 800);
    assert_true(w->nodes[1].is_open);
    assert_in_range(evidence(w, 1, 3), 300, (w->now_us - start_us) / 1000 + 5);
    finish(w);
}

/* H6: a voter change starts E again. */
static void voter_change_starts_evidence_again(void **state UNUSED)
{
    struct world *w = whole_world(4);

    world_split(w, (const uint32_t[]){0, 0, 0, 1});
    world_run_ms(w, 2000);
    assert_true(evidence(w, 1, 4) > 1500);
    world_propose_voter(w, 1, 4, false);
    world_run_ms(w, 50);
    assert_true(evidence(w, 1, 4) <= 60);
    finish(w);
}

/* Cold start: nobody ever heard n3; E counts from the start of the youngest member. */
static void cold_start_counts_from_process_start(void **state UNUSED)
{
    struct world *w = world_new(3, 3, 4);

    w->has_no_shell = true;
    world_start(w, 1);
    world_run_ms(w, 700);
    world_start(w, 2);
    uint64_t start_us = w->now_us;
    world_run_ms(w, 1000);
    uint32_t leader = world_leader(w);
    assert_true(leader != 0);
    assert_in_range(evidence(w, leader, 3), 700, (w->now_us - start_us) / 1000 + 10);
    finish(w);
}

/* The whole story of a self-fence: cut off, left out, T_wait later fenced; the checker knows when
 * its lease and watchdog were over. */
static void absent_node_is_fenced_after_t_wait(void **state UNUSED)
{
    struct world *w = whole_world(3);
    uint32_t wait_ms = log_wait_ms(&w->timing, w->timing.lease_ms, w->watchdog_ms);

    w->has_no_shell = false;
    world_split(w, (const uint32_t[]){0, 0, 1});
    world_run_ms(w, wait_ms - 2 * H_MS);
    assert_int_equal(w->fences, 0);
    world_run_ms(w, 6 * H_MS);
    assert_int_equal(w->fences, 1);
    finish(w);
}

/* FENCED is numbered in view w by a leader cut off since, and adopted later. Meanwhile members of w
 * have promised a view that names the absent node and can't open: their acknowledgements must not
 * renew its lease, for the last OPEN in their logs leaves it out. */
static void evicted_node_gets_no_lease_from_views_that_never_open(void **state UNUSED)
{
    struct world *w = whole_world(5);

    w->has_no_shell = false;
    w->detect_us = 0;
    assert_int_equal(world_leader(w), 1);
    world_split(w, (const uint32_t[]){0, 0, 0, 0, 1});
    world_run_ms(w, 500);
    assert_int_equal(w->nodes[1].log->current.names.count, 4);
    for (uint32_t id = 2; id <= 5; id++)
        w->nodes[id].is_disk_stalled = true;
    world_split(w, (const uint32_t[]){0, 1, 1, 1, 1});
    world_run_ms(w, 600);
    assert_int_equal(w->nodes[5].lease_end_us, 0); /* it ran out, whatever n2 to n4 promised */
    world_run_ms(w, 240);
    assert_int_equal(w->fences, 0);
    assert_int_not_equal(w->nodes[1].fenced, 0); /* numbered, in a minority */
    for (uint32_t id = 2; id <= 5; id++)
        w->nodes[id].is_disk_stalled = false;
    world_heal(w);
    assert_true(world_run_until(w, 5000, world_is_whole, NULL));
    assert_int_equal(w->fences, 1); /* adopted, and true */
    finish(w);
}

/* ---- one log alone: node 1 of three voters, the test speaks for nodes 2 and 3 */

struct bench {
    struct log *log;
    void *memory;
    struct log_config config;
    uint64_t now_ms;
    struct log_actions actions;
    struct log_entry entries[8]; /* what it was loaded with, and what the test numbers */
    uint8_t bodies[8][64];
    uint8_t bytes[LOG_MSG_MAX];
    struct log_msg sent; /* the last message of the type asked for */
};

static struct ha_uuid store_of(uint32_t node)
{
    struct ha_uuid id = {{(uint8_t)node, 0x55}};

    return id;
}

static void add_entry(struct bench *b, uint32_t at, uint8_t kind, struct log_view view)
{
    struct log_entry *e = &b->entries[at];
    struct ha_digest before = at ? b->entries[at - 1].digest : (struct ha_digest){0, 0};

    e->index = at + 1;
    e->kind = kind;
    e->view = view;
    e->origin = 2;
    e->body = b->bodies[at];
    e->digest = log_entry_digest(before, e);
}

static struct bench *bench_new(void)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct log_loaded loaded = {.now_ms = 1000};

    assert_non_null(b);
    b->now_ms = 1000;
    b->config = (struct log_config){.generation = 1, .ring_entries = 128, .rng_seed = 1};
    b->config.self = (struct log_member){.node = 1, .nonce = 1001, .proto_min = 1, .proto_max = 1};
    b->config.self.store_id = store_of(1);
    b->config.timing = (struct log_timing){.heartbeat_ms = H_MS, .lease_ms = 1000};
    b->memory = aligned_alloc(64, (log_memory_size(&b->config) + 63) / 64 * 64);
    b->log = log_init(b->memory, &b->config, &loaded);
    add_entry(b, 0, LOG_KIND_INIT, (struct log_view){0, 0});
    for (uint32_t i = 1; i <= 3; i++) {
        struct ha_writer w = ha_writer_of(b->bodies[i], 64);
        struct log_voter_change change = {.is_added = true, .node = i, .store_id = store_of(i)};
        log_voter_change_encode(&w, &change);
        b->entries[i].body_size = (uint32_t)w.position;
        add_entry(b, i, LOG_KIND_VOTER, (struct log_view){0, 0});
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(log_load(b->log, &b->entries[i]), 0);
    return b;
}

static void bench_free(struct bench *b)
{
    free(b->memory);
    free(b);
}

static void step(struct bench *b, struct log_event *event)
{
    event->now_ms = b->now_ms;
    log_step(b->log, event, &b->actions);
}

static void tick(struct bench *b, uint64_t ms)
{
    struct log_event event = {.type = LOG_EV_TIMER};

    b->now_ms += ms;
    step(b, &event);
}

static void members(struct bench *b)
{
    struct log_event event = {.type = LOG_EV_MEMBERS};

    event.u.members.count = 3;
    for (uint32_t i = 0; i < 3; i++)
        event.u.members.nodes[i] = i + 1;
    step(b, &event);
}

static void say_as(struct bench *b, uint32_t node, uint64_t nonce, struct log_msg *msg)
{
    struct ha_writer w = ha_writer_of(b->bytes, sizeof(b->bytes));
    struct log_event event = {.type = LOG_EV_MESSAGE};

    msg->header.cluster_id = b->config.cluster_id;
    msg->header.generation = 1;
    msg->header.nonce = nonce;
    log_msg_encode(&w, msg);
    assert_false(w.failed);
    event.u.message.from = node;
    event.u.message.data = b->bytes;
    event.u.message.size = w.position;
    step(b, &event);
}

static void say(struct bench *b, uint32_t node, struct log_msg *msg)
{
    say_as(b, node, node * 1000 + 1, msg);
}

static struct log_msg msg_of(uint8_t type, struct log_view view)
{
    struct log_msg msg;

    memset(&msg, 0, sizeof(msg));
    msg.header.type = type;
    msg.header.view = view;
    return msg;
}

static const struct log_action *act(const struct bench *b, uint8_t type)
{
    for (uint32_t i = 0; i < b->actions.count; i++) {
        if (b->actions.list[i].type == type)
            return &b->actions.list[i];
    }
    return NULL;
}

static const struct log_msg *sent(struct bench *b, uint8_t type)
{
    for (uint32_t i = 0; i < b->actions.count; i++) {
        const struct log_action *a = &b->actions.list[i];
        if (a->type == LOG_ACT_SEND &&
            log_msg_decode(a->u.send.data, a->u.send.size, &b->sent) == 0 &&
            b->sent.header.type == type)
            return &b->sent;
    }
    return NULL;
}

static void heartbeat_of(struct bench *b, uint32_t node, uint64_t n, struct log_view view,
                         uint64_t acked_n, uint64_t acked_nonce)
{
    struct log_msg msg = msg_of(LOG_MSG_HEARTBEAT, view);
    struct log_heartbeat *hb = &msg.u.heartbeat;

    hb->n = n;
    hb->member = b->config.self;
    hb->member.node = node;
    hb->member.nonce = node * 1000 + 1;
    hb->member.store_id = store_of(node);
    hb->phase = view.counter ? LOG_PHASE_ADOPTED : LOG_PHASE_IDLE;
    hb->opened = view;
    hb->voters = b->log->survey.voters.digest;
    hb->first = 1;
    hb->last = hb->end = 4;
    if (acked_n) {
        hb->ack_count = 1;
        hb->acks[0].node = 1;
        hb->acks[0].nonce = acked_nonce;
        hb->acks[0].n = acked_n;
        hb->acks[0].is_opened = true;
    }
    say(b, node, &msg);
}

static void prepare(struct bench *b, struct log_view view, uint64_t leader_nonce)
{
    struct log_msg msg = msg_of(LOG_MSG_PREPARE, view);

    msg.u.prepare.count = 3;
    for (uint32_t i = 0; i < 3; i++)
        msg.u.prepare.list[i] = (struct log_name){.node = i + 1, .nonce = (i + 1) * 1000 + 1};
    msg.u.prepare.list[view.leader - 1].nonce = leader_nonce;
    say_as(b, view.leader, leader_nonce, &msg);
}

static uint64_t persisted(struct bench *b, uint64_t token)
{
    struct log_event event = {.type = LOG_EV_PERSISTED};

    event.u.persisted.token = token;
    event.u.persisted.is_ok = true;
    step(b, &event);
    return token;
}

/* Takes part in view 5.2, its OPEN being entry 5. Returns when it is stored and acknowledged. */
static void adopt_view(struct bench *b, struct log_view view)
{
    static uint8_t body[512];
    uint8_t list[1024];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct log_open open = {.view = view, .member_count = 3};
    struct log_msg msg = msg_of(LOG_MSG_ENTRIES, view);
    const struct log_action *a;

    for (uint32_t i = 0; i < 3; i++) {
        open.members[i] = b->config.self;
        open.members[i].node = i + 1;
        open.members[i].nonce = (i + 1) * 1000 + 1;
        open.members[i].store_id = store_of(i + 1);
    }
    log_open_encode(&w, &open);
    b->entries[4] = (struct log_entry){.body_size = (uint32_t)w.position, .origin = 2};
    add_entry(b, 4, LOG_KIND_OPEN, view);
    b->entries[4].body = body;
    b->entries[4].digest = log_entry_digest(b->entries[3].digest, &b->entries[4]);
    prepare(b, view, 2001);
    if (!act(b, LOG_ACT_PERSIST)) /* it had begun a view of its own */
        persisted(b, b->log->writing.token);
    a = act(b, LOG_ACT_PERSIST);
    assert_non_null(a);
    persisted(b, a->u.persist.token);
    assert_non_null(sent(b, LOG_MSG_PROMISE));
    struct ha_writer lw = ha_writer_of(list, sizeof(list));
    log_entry_encode(&lw, &b->entries[4]);
    msg.u.entries = (struct log_entries){.mode = LOG_ENTRIES_ADOPT,
                                         .prev_index = 4,
                                         .prev_digest = b->entries[3].digest,
                                         .final_index = 5,
                                         .final_digest = b->entries[4].digest,
                                         .count = 1,
                                         .list = list,
                                         .list_size = lw.position};
    say(b, 2, &msg);
    a = act(b, LOG_ACT_PERSIST);
    assert_non_null(a);
    assert_true(a->u.persist.has_log_view);
    assert_int_equal(a->u.persist.first, 5);
    assert_int_equal(a->u.persist.last, 5);
    persisted(b, a->u.persist.token);
    assert_non_null(sent(b, LOG_MSG_ACK));
}

static void ack_of(struct bench *b, uint32_t node, struct log_view view, uint64_t index,
                   struct ha_digest digest)
{
    struct log_msg msg = msg_of(LOG_MSG_ACK, view);

    msg.u.ack = (struct log_ack){.index = index, .digest = digest};
    say(b, node, &msg);
}

static struct bench *open_bench(void)
{
    struct bench *b = bench_new();
    struct log_view view = {5, 2};

    members(b);
    heartbeat_of(b, 2, 1, (struct log_view){0, 0}, 0, 0);
    heartbeat_of(b, 3, 1, (struct log_view){0, 0}, 0, 0);
    adopt_view(b, view);
    assert_false(log_is_open(b->log));
    ack_of(b, 2, view, 5, b->entries[4].digest);
    assert_true(log_is_open(b->log));
    return b;
}

/* H2: the promise is told when it is durable, and binds from before that. */
static void promise_is_durable_before_it_is_told(void **state UNUSED)
{
    struct bench *b = bench_new();
    const struct log_action *a;

    members(b);
    heartbeat_of(b, 2, 1, (struct log_view){0, 0}, 0, 0);
    prepare(b, (struct log_view){7, 2}, 2001);
    assert_null(sent(b, LOG_MSG_PROMISE));
    a = act(b, LOG_ACT_PERSIST);
    assert_non_null(a);
    assert_true(a->u.persist.has_promise);
    assert_int_equal(a->u.persist.promised.counter, 7);
    uint64_t token = a->u.persist.token;
    prepare(b, (struct log_view){6, 3}, 3001); /* lower: nothing */
    assert_null(sent(b, LOG_MSG_PROMISE));
    persisted(b, token);
    assert_non_null(sent(b, LOG_MSG_PROMISE));
    assert_int_equal(b->sent.header.view.counter, 7);
    assert_true(b->sent.u.promise.is_durable);
    prepare(b, (struct log_view){7, 2}, 2001); /* the answer was lost: again */
    assert_non_null(sent(b, LOG_MSG_PROMISE));
    prepare(b, (struct log_view){7, 2}, 2999); /* the same view of another process: never */
    assert_null(sent(b, LOG_MSG_PROMISE));
    bench_free(b);
}

/* Without the store's answer within h/2 the promise is told as what it is: in memory only. */
static void late_store_promises_in_memory(void **state UNUSED)
{
    struct bench *b = bench_new();

    members(b);
    heartbeat_of(b, 2, 1, (struct log_view){0, 0}, 0, 0);
    prepare(b, (struct log_view){7, 2}, 2001);
    tick(b, H_MS / 2);
    assert_non_null(sent(b, LOG_MSG_PROMISE));
    assert_false(b->sent.u.promise.is_durable);
    bench_free(b);
}

/* H3: entries only from the leader of the view promised, in sequence, fitting the chain. */
static void entries_must_fit(void **state UNUSED)
{
    struct bench *b = open_bench();
    struct log_view view = {5, 2};
    struct log_msg msg = msg_of(LOG_MSG_ENTRIES, view);
    uint8_t list[1024];

    for (uint32_t i = 5; i < 7; i++) {
        b->entries[i] = (struct log_entry){.body_size = 3, .origin = 2};
        add_entry(b, i, LOG_KIND_STATE, view);
    }
    struct ha_writer w = ha_writer_of(list, sizeof(list));
    log_entry_encode(&w, &b->entries[5]);
    msg.u.entries = (struct log_entries){.mode = LOG_ENTRIES_VIEW,
                                         .prev_index = 5,
                                         .prev_digest = b->entries[4].digest,
                                         .count = 1,
                                         .list = list,
                                         .list_size = w.position};
    say(b, 3, &msg); /* no leader */
    assert_int_equal(log_last_index(b->log), 5);
    msg.header.view = (struct log_view){4, 2};
    say(b, 2, &msg); /* another view */
    assert_int_equal(log_last_index(b->log), 5);
    msg.header.view = view;
    struct log_entry wrong = b->entries[5];
    wrong.seq++; /* its digest is not the chain's any more */
    w = ha_writer_of(list, sizeof(list));
    log_entry_encode(&w, &wrong);
    say(b, 2, &msg);
    assert_int_equal(log_last_index(b->log), 5);
    w = ha_writer_of(list, sizeof(list));
    log_entry_encode(&w, &b->entries[6]);
    msg.u.entries.prev_index = 6;
    say(b, 2, &msg); /* a gap: asked for */
    assert_int_equal(log_last_index(b->log), 5);
    assert_non_null(sent(b, LOG_MSG_NEED));
    assert_int_equal(b->sent.u.need.to, 2);
    w = ha_writer_of(list, sizeof(list));
    log_entry_encode(&w, &b->entries[5]);
    msg.u.entries.prev_index = 5;
    say(b, 2, &msg);
    assert_int_equal(log_last_index(b->log), 6);
    assert_non_null(act(b, LOG_ACT_PERSIST));
    bench_free(b);
}

/* Acknowledgements of other views and of processes not named count nothing (H10). */
static void foreign_acknowledgements_do_not_count(void **state UNUSED)
{
    struct bench *b = bench_new();
    struct log_view view = {5, 2};
    struct log_msg msg = msg_of(LOG_MSG_ACK, view);

    members(b);
    heartbeat_of(b, 2, 1, (struct log_view){0, 0}, 0, 0);
    heartbeat_of(b, 3, 1, (struct log_view){0, 0}, 0, 0);
    adopt_view(b, view);
    ack_of(b, 2, (struct log_view){4, 3}, 5, b->entries[4].digest);
    assert_false(log_is_open(b->log));
    msg.u.ack = (struct log_ack){.index = 5, .digest = b->entries[4].digest};
    say_as(b, 3, 3999, &msg); /* a process the view does not name */
    assert_false(log_is_open(b->log));
    ack_of(b, 2, view, 5, (struct ha_digest){1, 1}); /* another chain */
    assert_false(log_is_open(b->log));
    bench_free(b);
}

/* A quorum with another entry where ours is: this log is the damaged one. */
static void off_the_chain_it_stops(void **state UNUSED)
{
    struct bench *b = bench_new();
    struct log_view view = {5, 2};

    members(b);
    heartbeat_of(b, 2, 1, (struct log_view){0, 0}, 0, 0);
    heartbeat_of(b, 3, 1, (struct log_view){0, 0}, 0, 0);
    adopt_view(b, view);
    ack_of(b, 2, view, 5, (struct ha_digest){1, 1});
    assert_null(act(b, LOG_ACT_STOP));
    ack_of(b, 3, view, 5, (struct ha_digest){1, 1});
    assert_non_null(act(b, LOG_ACT_STOP));
    tick(b, 500);
    assert_int_equal(b->actions.count, 0);
    bench_free(b);
}

/* H18, H21: acknowledgements of another process' heartbeats, or of heartbeats older than the OPEN,
 * give no lease. */
static void only_own_heartbeats_give_a_lease(void **state UNUSED)
{
    struct bench *b = open_bench();
    struct log_view view = {5, 2};
    uint64_t n = b->log->lease.n;

    assert_non_null(sent(b, LOG_MSG_HEARTBEAT)); /* at once, and urgent */
    assert_true(b->sent.u.heartbeat.flags & LOG_FLAG_URGENT);
    assert_int_equal(b->sent.u.heartbeat.n, n);
    assert_true(n > 1);
    heartbeat_of(b, 2, 2, view, n, 1999);
    assert_int_equal(log_lease_end_ms(b->log), 0);
    heartbeat_of(b, 2, 3, view, n - 1, 1001);
    assert_int_equal(log_lease_end_ms(b->log), 0);
    heartbeat_of(b, 2, 4, view, n + 1, 1001); /* never sent */
    assert_int_equal(log_lease_end_ms(b->log), 0);
    b->now_ms += 30;
    heartbeat_of(b, 2, 5, view, n, 1001);
    assert_int_equal(log_lease_end_ms(b->log), b->now_ms - 30 + 1000); /* from its sending */
    bench_free(b);
}

/* The first lease after an OPEN: only from those who have that very OPEN last. */
static void first_lease_needs_its_own_open(void **state UNUSED)
{
    struct bench *b = open_bench();
    uint64_t n = b->log->lease.n;

    heartbeat_of(b, 2, 2, (struct log_view){6, 3}, n, 1001);
    heartbeat_of(b, 3, 2, (struct log_view){6, 3}, n, 1001);
    assert_int_equal(log_lease_end_ms(b->log), 0);
    bench_free(b);
}

/* Only members of the view last promised are acknowledged, each by the process that was named. */
static void only_named_processes_are_acknowledged(void **state UNUSED)
{
    struct bench *b = open_bench();
    struct log_msg msg = msg_of(LOG_MSG_HEARTBEAT, (struct log_view){0, 0});

    heartbeat_of(b, 2, 2, (struct log_view){5, 2}, 0, 0);
    msg.u.heartbeat.n = 1;
    msg.u.heartbeat.member = b->config.self;
    msg.u.heartbeat.member.node = 3;
    msg.u.heartbeat.member.nonce = 3999; /* node 3 restarted */
    say_as(b, 3, 3999, &msg);
    tick(b, H_MS);
    assert_non_null(sent(b, LOG_MSG_HEARTBEAT));
    assert_int_equal(b->sent.u.heartbeat.ack_count, 1);
    assert_int_equal(b->sent.u.heartbeat.acks[0].node, 2);
    assert_int_equal(b->sent.u.heartbeat.acks[0].n, 2);
    bench_free(b);
}

/* Messages of other clusters and generations are dropped with a line, own ones in silence. */
static void foreign_messages_are_dropped(void **state UNUSED)
{
    struct bench *b = bench_new();
    struct log_event event = {.type = LOG_EV_MESSAGE};
    struct log_msg msg = msg_of(LOG_MSG_ACK, (struct log_view){50, 2});
    struct ha_writer w = ha_writer_of(b->bytes, sizeof(b->bytes));

    members(b);
    msg.header.generation = 2;
    log_msg_encode(&w, &msg);
    event.u.message.from = 2;
    event.u.message.data = b->bytes;
    event.u.message.size = w.position;
    step(b, &event);
    assert_non_null(act(b, LOG_ACT_TRACE));
    assert_int_equal(b->log->counter_high, 0);
    event.u.message.size = 5;
    step(b, &event);
    assert_non_null(act(b, LOG_ACT_TRACE));
    event.u.message.from = 1;
    step(b, &event);
    assert_null(act(b, LOG_ACT_TRACE));
    bench_free(b);
}

static void damaged_store_is_not_loaded(void **state UNUSED)
{
    struct bench *b = bench_new();
    struct log_entry e = b->entries[3];

    e.index = 6; /* a gap */
    assert_int_equal(log_load(b->log, &e), -HA_E_CORRUPT);
    e = b->entries[3];
    e.index = 5;
    assert_int_equal(log_load(b->log, &e), -HA_E_CORRUPT); /* off the chain */
    bench_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_computed),
        cmocka_unit_test(lease_is_renewed_every_heartbeat),
        cmocka_unit_test(isolated_node_loses_its_lease),
        cmocka_unit_test(lease_survives_view_changes),
        cmocka_unit_test(hung_node_wakes_up_without_a_lease),
        cmocka_unit_test(evidence_counts_from_the_last_acknowledgement),
        cmocka_unit_test(restarted_member_starts_evidence_again),
        cmocka_unit_test(voter_change_starts_evidence_again),
        cmocka_unit_test(cold_start_counts_from_process_start),
        cmocka_unit_test(absent_node_is_fenced_after_t_wait),
        cmocka_unit_test(evicted_node_gets_no_lease_from_views_that_never_open),
        cmocka_unit_test(first_lease_needs_its_own_open),
        cmocka_unit_test(promise_is_durable_before_it_is_told),
        cmocka_unit_test(late_store_promises_in_memory),
        cmocka_unit_test(entries_must_fit),
        cmocka_unit_test(foreign_acknowledgements_do_not_count),
        cmocka_unit_test(off_the_chain_it_stops),
        cmocka_unit_test(only_own_heartbeats_give_a_lease),
        cmocka_unit_test(only_named_processes_are_acknowledged),
        cmocka_unit_test(foreign_messages_are_dropped),
        cmocka_unit_test(damaged_store_is_not_loaded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
