/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries and messages of the log: what is written is read back, and nothing else is accepted: each
 * truncation, each trailing byte, values that can't be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hamgr/base/err.h"
#include "hamgr/base/rng.h"
#include "quorum/log_internal.h"

#define UNUSED __attribute__((unused))

static uint8_t buffer[2 * LOG_MSG_MAX];

static struct ha_uuid uuid_of(uint8_t value)
{
    struct ha_uuid id;

    memset(id.b, value, sizeof(id.b));
    return id;
}

static struct log_member member_of(uint32_t node)
{
    return (struct log_member){.node = node,
                               .nonce = node * 1000 + 7,
                               .store_id = uuid_of(1),
                               .boot_id = uuid_of(2),
                               .hw_id = uuid_of(3),
                               .proto_min = 1,
                               .proto_max = 4};
}

/* ---- entries */

static struct log_entry entry_of(uint64_t index, const uint8_t *body, uint32_t size)
{
    struct log_entry e = {.index = index,
                          .view = {9, 2},
                          .kind = LOG_KIND_STATE,
                          .origin = 3,
                          .nonce = 0x1122334455667788u,
                          .seq = 12,
                          .mono_ms = 5000,
                          .wall_ms = 1700000000000u,
                          .body_size = size,
                          .body = body};

    e.digest = log_entry_digest((struct ha_digest){1, 2}, &e);
    return e;
}

static void entry_round_trip(void **state UNUSED)
{
    static const uint8_t body[] = "assign g1 to n2";
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));
    struct log_entry e = entry_of(7, body, sizeof(body));
    struct log_entry back;

    log_entry_encode(&w, &e);
    assert_int_equal(w.position, LOG_ENTRY_HEAD + 16 + sizeof(body));
    struct ha_reader r = ha_reader_of(buffer, w.position);
    assert_int_equal(log_entry_decode(&r, &back), 0);
    assert_true(ha_reader_is_done(&r));
    assert_int_equal(back.index, 7);
    assert_int_equal(log_view_cmp(back.view, e.view), 0);
    assert_int_equal(back.kind, LOG_KIND_STATE);
    assert_int_equal(back.origin, 3);
    assert_int_equal(back.nonce, e.nonce);
    assert_int_equal(back.seq, 12);
    assert_int_equal(back.mono_ms, 5000);
    assert_int_equal(back.wall_ms, e.wall_ms);
    assert_true(ha_digest_equal(back.digest, e.digest));
    assert_int_equal(back.body_size, sizeof(body));
    assert_memory_equal(back.body, body, sizeof(body));
}

static void entry_is_cut_nowhere(void **state UNUSED)
{
    static const uint8_t body[40] = {1};
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));
    struct log_entry e = entry_of(7, body, sizeof(body));
    struct log_entry back;

    log_entry_encode(&w, &e);
    for (size_t size = 0; size < w.position; size++) {
        struct ha_reader r = ha_reader_of(buffer, size);
        assert_int_equal(log_entry_decode(&r, &back), -HA_E_CORRUPT);
    }
}

static void entry_refuses_what_cannot_be(void **state UNUSED)
{
    static uint8_t body[HA_ENTRY_MAX + 1];
    struct log_entry e[] = {entry_of(0, body, 4), entry_of(1, body, 4), entry_of(1, body, 4),
                            entry_of(1, body, HA_ENTRY_MAX + 1)};
    struct log_entry back;

    e[1].kind = 9;
    e[2].kind = LOG_KIND_OPEN; /* a body that is none */
    for (size_t i = 0; i < 4; i++) {
        struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));
        log_entry_encode(&w, &e[i]);
        struct ha_reader r = ha_reader_of(buffer, w.position);
        assert_int_equal(log_entry_decode(&r, &back), -HA_E_CORRUPT);
    }
}

/* Every field and the whole past are in the digest, the digest itself is not. */
static void digest_covers_all_fields(void **state UNUSED)
{
    static const uint8_t body[] = "body", other[] = "bodx";
    struct ha_digest before = {1, 2};
    struct log_entry e = entry_of(7, body, 4);
    struct log_entry changed[11];

    for (int i = 0; i < 11; i++)
        changed[i] = e;
    changed[0].index++;
    changed[1].view.counter++;
    changed[2].view.leader++;
    changed[3].kind = LOG_KIND_INIT;
    changed[4].origin++;
    changed[5].nonce++;
    changed[6].seq++;
    changed[7].mono_ms++;
    changed[8].wall_ms++;
    changed[9].body_size--;
    changed[10].body = other;
    for (int i = 0; i < 11; i++)
        assert_false(ha_digest_equal(log_entry_digest(before, &changed[i]), e.digest));
    assert_false(ha_digest_equal(log_entry_digest((struct ha_digest){1, 3}, &e), e.digest));
    struct log_entry same = e;
    same.digest.low++;
    assert_true(ha_digest_equal(log_entry_digest(before, &same), e.digest));
}

static void open_round_trip(void **state UNUSED)
{
    struct log_open open = {.view = {5, 1}, .is_continuous = true, .member_count = HA_NODES_MAX};
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));
    struct log_open back;

    for (uint32_t i = 0; i < HA_NODES_MAX; i++)
        open.members[i] = member_of(i + 1);
    log_open_encode(&w, &open);
    assert_int_equal(log_open_decode(buffer, w.position, &back), 0);
    assert_true(back.is_continuous);
    assert_int_equal(log_view_cmp(back.view, open.view), 0);
    assert_int_equal(back.member_count, HA_NODES_MAX);
    for (uint32_t i = 0; i < HA_NODES_MAX; i++) {
        assert_int_equal(back.members[i].node, i + 1);
        assert_int_equal(back.members[i].nonce, open.members[i].nonce);
        assert_true(ha_uuid_equal(back.members[i].hw_id, uuid_of(3)));
        assert_int_equal(back.members[i].proto_max, 4);
    }
    for (size_t size = 0; size < w.position; size++)
        assert_int_equal(log_open_decode(buffer, size, &back), -HA_E_CORRUPT);
    assert_int_equal(log_open_decode(buffer, w.position + 1, &back), -HA_E_CORRUPT);
}

static void open_refuses_disorder(void **state UNUSED)
{
    struct log_open open = {.view = {5, 1}, .member_count = 2};
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));
    struct log_open back;

    open.members[0] = member_of(2);
    open.members[1] = member_of(2);
    log_open_encode(&w, &open);
    assert_int_equal(log_open_decode(buffer, w.position, &back), -HA_E_CORRUPT);
    w = ha_writer_of(buffer, sizeof(buffer));
    open.member_count = 0;
    log_open_encode(&w, &open);
    assert_int_equal(log_open_decode(buffer, w.position, &back), -HA_E_CORRUPT);
    w = ha_writer_of(buffer, sizeof(buffer));
    open.member_count = 1;
    open.members[0].proto_min = 5; /* above its proto_max */
    log_open_encode(&w, &open);
    assert_int_equal(log_open_decode(buffer, w.position, &back), -HA_E_CORRUPT);
}

static void voter_change_round_trip(void **state UNUSED)
{
    struct log_voter_change change = {.is_added = true, .node = 4, .store_id = uuid_of(9)};
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));
    struct log_voter_change back;

    log_voter_change_encode(&w, &change);
    assert_int_equal(log_voter_change_decode(buffer, w.position, &back), 0);
    assert_true(back.is_added);
    assert_int_equal(back.node, 4);
    assert_true(ha_uuid_equal(back.store_id, uuid_of(9)));
    for (size_t size = 0; size < w.position; size++)
        assert_int_equal(log_voter_change_decode(buffer, size, &back), -HA_E_CORRUPT);
    buffer[0] = 2;
    assert_int_equal(log_voter_change_decode(buffer, w.position, &back), -HA_E_CORRUPT);
}

/* ---- messages */

static struct log_msg msg_of(uint8_t type)
{
    struct log_msg msg;

    memset(&msg, 0, sizeof(msg));
    msg.header = (struct log_msg_header){
        .type = type, .cluster_id = uuid_of(7), .generation = 3, .view = {11, 2}, .nonce = 2007};
    return msg;
}

static struct log_msg heartbeat(void)
{
    struct log_msg msg = msg_of(LOG_MSG_HEARTBEAT);
    struct log_heartbeat *hb = &msg.u.heartbeat;

    hb->n = 77;
    hb->member = member_of(2);
    hb->flags = LOG_FLAG_CAN_LEAD | LOG_FLAG_URGENT;
    hb->phase = LOG_PHASE_OPEN;
    hb->log_view = hb->open = hb->opened = (struct log_view){11, 2};
    hb->first = 3;
    hb->last = 40;
    hb->end = 41;
    hb->commit = 39;
    hb->commit_digest = (struct ha_digest){5, 6};
    hb->acked = 40;
    hb->voters = (struct ha_digest){7, 8};
    hb->ack_count = 2;
    hb->acks[0].node = 1;
    hb->acks[0].nonce = 1007;
    hb->acks[0].n = 5;
    hb->acks[1].node = 3;
    hb->acks[1].nonce = 3007;
    hb->acks[1].n = 6;
    return msg;
}

static struct log_msg promise(void)
{
    struct log_msg msg = msg_of(LOG_MSG_PROMISE);
    struct log_promise *p = &msg.u.promise;

    p->is_durable = true;
    p->member = member_of(2);
    p->log_view = (struct log_view){10, 1};
    p->last = 40;
    p->digest = (struct ha_digest){5, 6};
    p->commit = 39;
    p->runs.count = 2;
    p->runs.list[0] = (struct log_run){.view = {10, 1}, .last = 40};
    p->runs.list[1] = (struct log_run){.view = {8, 3}, .last = 12};
    p->rest_age_ms = 100000;
    p->age_count = 1;
    p->ages[0].node = 3;
    p->ages[0].age_ms = 250;
    p->memory_count = 1;
    p->memory[0] =
        (struct log_memory){.node = 1, .store_id = uuid_of(1), .view = {9, 9}, .index = 33};
    return msg;
}

static struct log_msg entries(void)
{
    static uint8_t list[1000];
    static const uint8_t body[] = "abc";
    struct log_msg msg = msg_of(LOG_MSG_ENTRIES);
    struct ha_writer w = ha_writer_of(list, sizeof(list));

    for (uint64_t i = 8; i <= 10; i++) {
        struct log_entry e = entry_of(i, body, sizeof(body));
        log_entry_encode(&w, &e);
    }
    msg.u.entries = (struct log_entries){.mode = LOG_ENTRIES_ADOPT,
                                         .to = 3,
                                         .prev_index = 7,
                                         .prev_digest = {1, 2},
                                         .commit = 6,
                                         .final_index = 10,
                                         .final_digest = {3, 4},
                                         .count = 3,
                                         .list = list,
                                         .list_size = w.position};
    return msg;
}

static struct log_msg propose(void)
{
    static uint8_t list[200];
    struct log_msg msg = msg_of(LOG_MSG_PROPOSE);
    struct ha_writer w = ha_writer_of(list, sizeof(list));
    struct log_proposal a = {
        .seq = 5, .kind = LOG_KIND_STATE, .body_size = 3, .body = (const uint8_t *)"abc"};
    struct log_proposal b = {.seq = 9, .kind = LOG_KIND_STATE, .body_size = 0};

    log_proposal_encode(&w, &a);
    log_proposal_encode(&w, &b);
    msg.u.propose =
        (struct log_propose){.prev_seq = 4, .count = 2, .list = list, .list_size = w.position};
    return msg;
}

static struct log_msg sample(uint8_t type)
{
    struct log_msg msg = msg_of(type);

    switch ((enum log_msg_type)type) {
    case LOG_MSG_HEARTBEAT:
        return heartbeat();
    case LOG_MSG_PREPARE:
        msg.u.prepare.count = 2;
        msg.u.prepare.list[0] = (struct log_name){1, 1007};
        msg.u.prepare.list[1] = (struct log_name){2, 2007};
        return msg;
    case LOG_MSG_PROMISE:
        return promise();
    case LOG_MSG_ENTRIES:
        return entries();
    case LOG_MSG_NEED:
        msg.u.need = (struct log_need){.to = 1, .mode = LOG_ENTRIES_FETCH, .commit = 8};
        msg.u.need.runs.count = 1;
        msg.u.need.runs.list[0] = (struct log_run){.view = {4, 1}, .last = 9};
        return msg;
    case LOG_MSG_ACK:
        msg.u.ack = (struct log_ack){.index = 12, .digest = {1, 2}};
        return msg;
    case LOG_MSG_PROPOSE:
        return propose();
    case LOG_MSG_REFUSE:
        msg.u.refuse = (struct log_refuse){
            .to = 2, .to_nonce = 2007, .why = LOG_REFUSE_PROPOSAL, .value = 6, .view = {1, 1}};
        return msg;
    case LOG_MSG_TYPE_END:
        break;
    }
    return msg;
}

static size_t encode(const struct log_msg *msg)
{
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));

    log_msg_encode(&w, msg);
    assert_false(w.failed);
    return w.position;
}

/* Decoding and encoding again gives the same bytes; no cut and no appendix is accepted. */
static void messages_round_trip(void **state UNUSED)
{
    static uint8_t first[2 * LOG_MSG_MAX];
    struct log_msg back;

    for (uint8_t type = LOG_MSG_HEARTBEAT; type < LOG_MSG_TYPE_END; type++) {
        struct log_msg msg = sample(type);
        size_t size = encode(&msg);
        memcpy(first, buffer, size);
        assert_int_equal(log_msg_decode(first, size, &back), 0);
        assert_int_equal(back.header.type, type);
        assert_int_equal(back.header.generation, 3);
        assert_int_equal(back.header.nonce, 2007);
        assert_int_equal(encode(&back), size);
        assert_memory_equal(first, buffer, size);
        for (size_t cut = 0; cut < size; cut++)
            assert_int_equal(log_msg_decode(first, cut, &back), -HA_E_CORRUPT);
        first[size] = 0;
        assert_int_equal(log_msg_decode(first, size + 1, &back), -HA_E_CORRUPT);
    }
}

/* Whatever bytes come: an answer, no crash (run under sanitizers), and what is accepted is stable.
 */
static void damaged_messages_are_survived(void **state UNUSED)
{
    static uint8_t bytes[2 * LOG_MSG_MAX];
    struct ha_rng rng = {.state = 5};
    struct log_msg back;
    uint32_t accepted = 0;

    for (uint32_t i = 0; i < 40000; i++) {
        struct log_msg msg = sample((uint8_t)(1 + i % (LOG_MSG_TYPE_END - 1)));
        size_t size = encode(&msg);
        memcpy(bytes, buffer, size);
        for (uint64_t n = 1 + ha_rng_below(&rng, 3); n > 0; n--)
            bytes[ha_rng_below(&rng, size)] = (uint8_t)ha_rng_next(&rng);
        if (log_msg_decode(bytes, size, &back) != 0)
            continue;
        accepted++;
        assert_int_equal(encode(&back), size);
        assert_memory_equal(bytes, buffer, size);
    }
    assert_true(accepted > 1000);
}

static void other_formats_are_told_apart(void **state UNUSED)
{
    struct log_msg msg = sample(LOG_MSG_ACK);
    struct log_msg back;
    size_t size = encode(&msg);

    buffer[4] = 2;
    assert_int_equal(log_msg_decode(buffer, size, &back), -HA_E_VERSION);
    buffer[0] ^= 1;
    assert_int_equal(log_msg_decode(buffer, size, &back), -HA_E_CORRUPT);
}

static void refuses(const struct log_msg *msg)
{
    struct log_msg back;
    size_t size = encode(msg);

    assert_int_equal(log_msg_decode(buffer, size, &back), -HA_E_CORRUPT);
}

static void messages_refuse_what_cannot_be(void **state UNUSED)
{
    struct log_msg msg = heartbeat();
    msg.u.heartbeat.n = 0;
    refuses(&msg);
    msg = heartbeat();
    msg.u.heartbeat.phase = 4;
    refuses(&msg);
    msg = heartbeat();
    msg.u.heartbeat.flags = 0x20;
    refuses(&msg);
    msg = heartbeat();
    msg.u.heartbeat.member.nonce = 1; /* not the header's */
    refuses(&msg);
    msg = sample(LOG_MSG_PREPARE);
    msg.u.prepare.list[1].node = 1; /* not ascending */
    refuses(&msg);
    msg = sample(LOG_MSG_PREPARE);
    msg.u.prepare.count = 0;
    refuses(&msg);
    msg = promise();
    msg.u.promise.runs.list[1].last = 40; /* runs go back */
    refuses(&msg);
    msg = entries();
    msg.u.entries.prev_index = 8; /* the first entry is not the next one */
    refuses(&msg);
    msg = entries();
    msg.u.entries.mode = LOG_ENTRIES_MODE_END;
    refuses(&msg);
    msg = propose();
    msg.u.propose.prev_seq = 5; /* not before the first one */
    refuses(&msg);
    msg = sample(LOG_MSG_ACK);
    msg.header.view.counter = LOG_COUNTER_MAX + 1;
    refuses(&msg);
    msg = sample(LOG_MSG_REFUSE);
    msg.u.refuse.why = LOG_REFUSAL_END;
    refuses(&msg);
    msg = sample(LOG_MSG_NEED);
    msg.u.need.to = 0;
    refuses(&msg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entry_round_trip),
        cmocka_unit_test(entry_is_cut_nowhere),
        cmocka_unit_test(entry_refuses_what_cannot_be),
        cmocka_unit_test(digest_covers_all_fields),
        cmocka_unit_test(open_round_trip),
        cmocka_unit_test(open_refuses_disorder),
        cmocka_unit_test(voter_change_round_trip),
        cmocka_unit_test(messages_round_trip),
        cmocka_unit_test(damaged_messages_are_survived),
        cmocka_unit_test(other_formats_are_told_apart),
        cmocka_unit_test(messages_refuse_what_cannot_be),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
