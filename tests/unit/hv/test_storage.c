/* SPDX-License-Identifier: Apache-2.0
 *
 * The witness: what it lets pass, and that every way in which a second or late writer can show is
 * called a violation. Also the front end's half of the chain, and the messages in between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "hamgr/hv/embedded/storage.h"

static struct emb_disk_ring ring;
static struct emb_disk_front front;
static struct storage_disk disk;

/* The backend's part, reduced to this: the newest request goes to the witness and is answered. */
static enum storage_verdict pass(uint32_t node, uint64_t epoch)
{
    uint32_t n = ring.rsp_prod;
    struct emb_disk_request request = ring.requests[n % EMB_DISK_DEPTH];
    enum storage_verdict verdict = storage_apply(&disk, node, epoch, &request);

    ring.responses[n % EMB_DISK_DEPTH] =
        request.op == EMB_DISK_HEAD
            ? (struct emb_disk_response){.sequence = disk.sequence, .digest = disk.digest}
            : (struct emb_disk_response){.sequence = request.sequence, .digest = request.digest};
    ring.rsp_prod = n + 1;
    emb_disk_front_poll(&front, &ring);
    return verdict;
}

static enum storage_verdict write_one(uint32_t node, uint64_t epoch)
{
    assert_true(emb_disk_front_write(&front, &ring, "payload", 7));
    return pass(node, epoch);
}

static void fresh_ring(void)
{
    memset(&ring, 0, sizeof(ring));
}

/* Guest booted on node 1 in epoch 5, with three writes. */
static int setup(void **state)
{
    (void)state;
    memset(&disk, 0, sizeof(disk));
    fresh_ring();
    emb_disk_front_boot(&front, &ring);
    assert_false(emb_disk_front_write(&front, &ring, "early", 5));
    assert_int_equal(pass(1, 5), STORAGE_FINE);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(write_one(1, 5), STORAGE_FINE);
    assert_int_equal(disk.sequence, 3);
    assert_int_equal(front.acked, 3);
    return 0;
}

static void test_restart_elsewhere(void **state)
{
    (void)state;
    fresh_ring();
    emb_disk_front_boot(&front, &ring);
    assert_int_equal(pass(2, 6), STORAGE_FINE);
    assert_int_equal(write_one(2, 6), STORAGE_FINE);
    assert_int_equal(disk.sequence, 4);
    assert_int_equal(disk.node, 2);
    assert_int_equal(front.failed_count, 0);
    assert_int_equal(disk.violation_count, 0);
}

static void test_migration_repeats_unanswered(void **state)
{
    (void)state;
    struct emb_disk_request unanswered;

    /* Stored, but the answer did not reach the guest before it was suspended. */
    assert_true(emb_disk_front_write(&front, &ring, "a", 1));
    unanswered = ring.requests[ring.rsp_prod % EMB_DISK_DEPTH];
    assert_int_equal(storage_apply(&disk, 1, 5, &unanswered), STORAGE_FINE);
    assert_true(emb_disk_front_write(&front, &ring, "b", 1)); /* never taken from the old ring */
    fresh_ring();
    emb_disk_front_reconnect(&front, &ring);
    assert_int_equal(ring.req_prod, 2);
    assert_int_equal(pass(2, 6), STORAGE_REPEATED);
    assert_int_equal(pass(2, 6), STORAGE_FINE);
    assert_int_equal(front.acked, 5);
    assert_int_equal(front.failed_count, 0);
    assert_int_equal(disk.violation_count, 0);
    assert_int_equal(write_one(2, 6), STORAGE_FINE);
}

static void test_late_write_after_takeover(void **state)
{
    (void)state;
    assert_true(emb_disk_front_write(&front, &ring, "late", 4));
    struct emb_disk_request late = ring.requests[ring.rsp_prod % EMB_DISK_DEPTH];
    struct emb_disk_request head = {.op = EMB_DISK_HEAD};

    /* The new copy only looked: the old one's write is a violation already. */
    assert_int_equal(storage_apply(&disk, 2, 6, &head), STORAGE_FINE);
    assert_int_equal(storage_apply(&disk, 1, 5, &late), STORAGE_STALE_EPOCH);
    assert_int_equal(disk.sequence, 3);
    assert_int_equal(disk.violation_count, 1);
    assert_int_equal(storage_apply(&disk, 1, 5, &head), STORAGE_STALE_EPOCH);
}

static void test_two_nodes_in_one_epoch(void **state)
{
    (void)state;
    assert_int_equal(write_one(2, 5), STORAGE_SECOND_NODE);
    assert_int_equal(disk.node, 1);
    assert_int_equal(disk.sequence, 3);
}

static void test_lost_write(void **state)
{
    (void)state;
    assert_true(emb_disk_front_write(&front, &ring, "lost", 4));
    ring.rsp_prod++;
    assert_true(emb_disk_front_write(&front, &ring, "next", 4));
    assert_int_equal(pass(1, 5), STORAGE_GAP);
    assert_int_equal(pass(1, 5) == STORAGE_FINE, false); /* slot without a request */
    assert_int_equal(disk.violation_count, 2);
}

static void test_rewritten_and_broken_chain(void **state)
{
    (void)state;
    assert_true(emb_disk_front_write(&front, &ring, "x", 1));
    struct emb_disk_request right = ring.requests[ring.rsp_prod % EMB_DISK_DEPTH];
    struct emb_disk_request wrong = right;

    wrong.previous.low ^= 1;
    wrong.digest = ha_digest_bytes(wrong.previous, wrong.payload, wrong.payload_size);
    assert_int_equal(storage_apply(&disk, 1, 5, &wrong), STORAGE_BROKEN_CHAIN);
    assert_int_equal(storage_apply(&disk, 1, 5, &right), STORAGE_REWRITTEN);
    assert_int_equal(storage_apply(&disk, 1, 5, &wrong), STORAGE_REPEATED);
}

static void test_torn(void **state)
{
    (void)state;
    assert_true(emb_disk_front_write(&front, &ring, "xy", 2));
    struct emb_disk_request *request = &ring.requests[ring.rsp_prod % EMB_DISK_DEPTH];

    request->payload[1] = 'z';
    assert_int_equal(pass(1, 5), STORAGE_TORN);
    assert_int_equal(disk.sequence, 3);
}

static void test_long_life(void **state)
{
    (void)state;
    uint64_t epoch = 5;

    for (uint32_t i = 0; i < 1000; i++) {
        if (i % 100 == 99) {
            epoch++;
            fresh_ring();
            emb_disk_front_reconnect(&front, &ring);
        }
        assert_int_equal(write_one((uint32_t)(epoch - 4), epoch), STORAGE_FINE);
    }
    assert_int_equal(disk.write_count, 1003);
    assert_int_equal(front.failed_count, 0);
}

static void test_front_is_bounded(void **state)
{
    (void)state;
    uint8_t payload[EMB_DISK_PAYLOAD + 1] = {0};
    unsigned count = 0;

    assert_false(emb_disk_front_write(&front, &ring, payload, sizeof(payload)));
    while (emb_disk_front_write(&front, &ring, payload, EMB_DISK_PAYLOAD))
        count++;
    assert_int_equal(count, EMB_DISK_DEPTH - 1);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pass(1, 5), STORAGE_FINE);
    assert_int_equal(front.acked, 3 + count);
}

/* A disk that answers something else than what was written is seen by the guest. */
static void test_front_checks_answers(void **state)
{
    (void)state;
    assert_true(emb_disk_front_write(&front, &ring, "x", 1));
    ring.responses[ring.rsp_prod % EMB_DISK_DEPTH] =
        (struct emb_disk_response){.sequence = 4, .digest = {1, 2}};
    ring.rsp_prod++;
    assert_int_equal(emb_disk_front_poll(&front, &ring), 1);
    assert_int_equal(front.failed_count, 1);
    assert_int_equal(front.acked, 3);
}

static void test_messages(void **state)
{
    (void)state;
    uint8_t bytes[256];
    struct storagep_request m = {.epoch = 7, .request = {.op = EMB_DISK_WRITE, .sequence = 9}};
    struct storagep_request back;
    struct storagep_ack ack = {3, {4, 5}}, ack_back;
    struct storagep_hello hello = {77}, hello_back;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    m.guest.b[3] = 1;
    m.request.payload_size = 5;
    memcpy(m.request.payload, "abcde", 5);
    storagep_request_encode(&w, &m);
    assert_int_equal(storagep_request_decode(bytes, w.position, &back), 0);
    assert_memory_equal(&m, &back, sizeof(m));
    for (size_t size = 0; size < w.position; size++)
        assert_true(storagep_request_decode(bytes, size, &back) < 0);
    bytes[16 + 8] = 3; /* no such op */
    assert_true(storagep_request_decode(bytes, w.position, &back) < 0);
    w = ha_writer_of(bytes, sizeof(bytes));
    m.request.payload_size = EMB_DISK_PAYLOAD;
    storagep_request_encode(&w, &m);
    assert_int_equal(storagep_request_decode(bytes, w.position, &back), 0);
    bytes[w.position - EMB_DISK_PAYLOAD - 4]++; /* one byte more than may be */
    assert_true(storagep_request_decode(bytes, w.position + 1, &back) < 0);
    w = ha_writer_of(bytes, sizeof(bytes));
    storagep_ack_encode(&w, &ack);
    assert_int_equal(storagep_ack_decode(bytes, w.position, &ack_back), 0);
    assert_memory_equal(&ack, &ack_back, sizeof(ack));
    assert_true(storagep_ack_decode(bytes, w.position - 1, &ack_back) < 0);
    w = ha_writer_of(bytes, sizeof(bytes));
    storagep_hello_encode(&w, &hello);
    assert_int_equal(storagep_hello_decode(bytes, w.position, &hello_back), 0);
    assert_int_equal(hello_back.node, 77);
    assert_true(storagep_hello_decode(bytes, w.position + 1, &hello_back) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_restart_elsewhere, setup),
        cmocka_unit_test_setup(test_migration_repeats_unanswered, setup),
        cmocka_unit_test_setup(test_late_write_after_takeover, setup),
        cmocka_unit_test_setup(test_two_nodes_in_one_epoch, setup),
        cmocka_unit_test_setup(test_lost_write, setup),
        cmocka_unit_test_setup(test_rewritten_and_broken_chain, setup),
        cmocka_unit_test_setup(test_torn, setup),
        cmocka_unit_test_setup(test_long_life, setup),
        cmocka_unit_test_setup(test_front_is_bounded, setup),
        cmocka_unit_test_setup(test_front_checks_answers, setup),
        cmocka_unit_test(test_messages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
