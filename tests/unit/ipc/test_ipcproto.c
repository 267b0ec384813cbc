/* SPDX-License-Identifier: Apache-2.0
 *
 * Codecs of the four local protocols: what goes in comes out, every shorter or longer body is
 * refused, and so is every value outside its range. Round trips compare the encodings, which
 * compares every field that travels and no padding.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/ipc/fenceproto.h"
#include "hamgr/ipc/hvproto.h"
#include "hamgr/ipc/keeperproto.h"
#include "hamgr/ipc/streamproto.h"

typedef void (*encode_fn)(struct ha_writer *w, const void *message);
typedef int (*decode_fn)(const uint8_t *body, size_t size, void *ret);

#define CODEC(name, type)                                                                          \
    static void name##_put(struct ha_writer *w, const void *message)                               \
    {                                                                                              \
        name##_encode(w, (const type *)message);                                                   \
    }                                                                                              \
    static int name##_get(const uint8_t *body, size_t size, void *ret)                             \
    {                                                                                              \
        return name##_decode(body, size, (type *)ret);                                             \
    }

CODEC(hvp_hello, struct hvp_hello)
CODEC(hvp_welcome, struct hvp_welcome)
CODEC(hvp_domain, struct hvp_domain)
CODEC(hvp_create, struct hvp_create)
CODEC(hvp_save, struct hvp_save)
CODEC(hvp_abort, struct hvp_abort)
CODEC(hvp_done, struct hvp_done)
CODEC(hvp_gate, struct hvp_gate)
CODEC(hvp_progress, struct hv_progress)
CODEC(hvp_domains, struct hvp_domains)
CODEC(keeper_arm, struct keeper_arm)
CODEC(keeper_lease, struct keeper_lease)
CODEC(keeper_proof, struct keeper_proof)
CODEC(keeper_status, struct keeper_status)
CODEC(fencep_run, struct fencep_run)
CODEC(fencep_vouch, struct fencep_vouch)
CODEC(fencep_cancel, struct fencep_cancel)
CODEC(fencep_result, struct fencep_result)
CODEC(fencep_devices, struct fencep_devices)
CODEC(streamp_start, struct streamp_start)
CODEC(streamp_lane, struct streamp_lane)
CODEC(streamp_progress, struct streamp_progress)
CODEC(streamp_end, struct streamp_end)

/* A copy of exactly `size` bytes on the heap, so that a sanitizer sees a read past its end. */
static int decode_exactly(decode_fn decode, const uint8_t *bytes, size_t size, void *ret)
{
    uint8_t *copy = malloc(size + 1);

    assert_non_null(copy);
    memcpy(copy, bytes, size);
    int rc = decode(copy, size, ret);
    free(copy);
    return rc;
}

/* How many bytes fewer are a whole message too, an older version's; 0: none. */
struct older {
    size_t first, second;
};

static bool is_older(const struct older *older, size_t missing)
{
    return missing > 0 && (missing == older->first || missing == older->second);
}

static void check_codec(encode_fn encode, decode_fn decode, const void *message, size_t ret_size,
                        const struct older *older)
{
    uint8_t *first = calloc(1, HA_IPC_MAX), *second = calloc(1, HA_IPC_MAX);
    void *ret = calloc(1, ret_size);

    assert_non_null(first);
    assert_non_null(second);
    assert_non_null(ret);
    struct ha_writer w = ha_writer_of(first, HA_IPC_MAX);
    encode(&w, message);
    assert_false(w.failed);
    assert_int_equal(decode(first, w.position, ret), 0);
    struct ha_writer again = ha_writer_of(second, HA_IPC_MAX);
    encode(&again, ret);
    assert_int_equal(again.position, w.position);
    assert_memory_equal(first, second, w.position);
    for (size_t size = 0; size < w.position; size++)
        assert_int_equal(decode_exactly(decode, first, size, ret) == 0,
                         is_older(older, w.position - size));
    assert_true(decode_exactly(decode, first, w.position + 1, ret) < 0);
    struct ha_writer small = ha_writer_of(second, w.position - 1);
    encode(&small, message);
    assert_true(small.failed);
    free(first);
    free(second);
    free(ret);
}

#define CHECK(name, message)                                                                       \
    check_codec(name##_put, name##_get, &(message), sizeof(message), &(struct older){0, 0})

/* Every value of the byte at `offset` is accepted exactly if it is in [low, high]. */
static void check_range(encode_fn encode, decode_fn decode, const void *message, size_t ret_size,
                        size_t offset, unsigned low, unsigned high)
{
    uint8_t *bytes = calloc(1, HA_IPC_MAX);
    void *ret = calloc(1, ret_size);

    assert_non_null(bytes);
    assert_non_null(ret);
    struct ha_writer w = ha_writer_of(bytes, HA_IPC_MAX);
    encode(&w, message);
    assert_false(w.failed);
    assert_true(offset < w.position);
    for (unsigned value = 0; value < 256; value++) {
        bytes[offset] = (uint8_t)value;
        int rc = decode(bytes, w.position, ret);
        assert_int_equal(rc == 0, value >= low && value <= high);
    }
    free(bytes);
    free(ret);
}

#define CHECK_RANGE(name, message, offset, low, high)                                              \
    check_range(name##_put, name##_get, &(message), sizeof(message), offset, low, high)

static struct ha_uuid uuid_of(uint8_t seed)
{
    struct ha_uuid id;

    for (unsigned i = 0; i < sizeof(id.b); i++)
        id.b[i] = (uint8_t)(seed + i);
    return id;
}

/* One of before there was a version ends behind its flags; a later one may be longer. */
static void test_hello_of_another_version(const struct hvp_hello *hello)
{
    uint8_t bytes[64] = {0};
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_hello back;

    hvp_hello_encode(&w, hello);
    assert_int_equal(hvp_hello_decode(bytes, w.position, &back), 0);
    assert_int_equal(hvp_hello_decode(bytes, w.position - 2, &back), -HA_E_VERSION);
    bytes[w.position - 2]++;
    assert_int_equal(hvp_hello_decode(bytes, w.position, &back), -HA_E_VERSION);
    assert_int_equal(hvp_hello_decode(bytes, w.position + 8, &back), -HA_E_VERSION);
}

static void test_hv_requests(void **state)
{
    (void)state;
    uint8_t definition[] = "memory = 8";
    struct hvp_hello hello = {uuid_of(1), 7, true, false, true};
    struct hvp_domain domain = {uuid_of(2), UINT64_MAX, 30000};
    struct hvp_create create = {uuid_of(3), 9, 8192, "db01", definition, sizeof(definition)};
    struct hvp_save save = {uuid_of(4), 10, true, 300, 60000, HV_SLOW_PAUSE, 15000};
    struct hvp_abort abort_request = {UINT64_MAX - 1};

    CHECK(hvp_hello, hello);
    CHECK(hvp_domain, domain);
    CHECK(hvp_create, create);
    CHECK(hvp_save, save);
    CHECK(hvp_abort, abort_request);
    CHECK_RANGE(hvp_hello, hello, 24, 0, 1);
    CHECK_RANGE(hvp_hello, hello, 25, 0, 1);
    CHECK_RANGE(hvp_hello, hello, 26, 0, 1);
    test_hello_of_another_version(&hello);
    CHECK_RANGE(hvp_save, save, 33, HV_SLOW_THROTTLE, HV_SLOW_ABORT);
    save.is_live = false;
    save.on_slow = 0;
    CHECK(hvp_save, save);
    CHECK_RANGE(hvp_save, save, 33, 0, HV_SLOW_ABORT);
}

static void test_hv_create_limits(void **state)
{
    (void)state;
    static uint8_t large[HA_DEFINITION_MAX + 1];
    static uint8_t bytes[HA_IPC_MAX];
    struct hvp_create create = {uuid_of(3), 9, 8192, "", large, HA_DEFINITION_MAX};
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_create back;

    hvp_create_encode(&w, &create);
    assert_int_equal(hvp_create_decode(bytes, w.position, &back), 0);
    assert_int_equal(back.definition_size, HA_DEFINITION_MAX);
    create.definition_size++;
    w = ha_writer_of(bytes, sizeof(bytes));
    hvp_create_encode(&w, &create);
    assert_true(hvp_create_decode(bytes, w.position, &back) < 0);
}

static void test_hv_replies(void **state)
{
    (void)state;
    struct hvp_welcome welcome = {
        {"embedded", "1.0", 262144, true, false, true, false, true, 0}, uuid_of(5), uuid_of(6)};
    struct hvp_done done = {HV_UNKNOWN, 12345, "worker killed"};
    struct hvp_gate gate = {false, true, 7, "db01: 3 writes outstanding"};
    struct hv_progress progress = {3, 100, 50, 20, 409600, 51200, HV_STOPPED, 12000, 80};

    CHECK(hvp_welcome, welcome);
    CHECK(hvp_done, done);
    CHECK(hvp_gate, gate);
    CHECK(hvp_progress, progress);
    CHECK_RANGE(hvp_done, done, 0, HV_OK, HV_NOT_OFFERED);
    CHECK_RANGE(hvp_gate, gate, 0, 0, 1);
    CHECK_RANGE(hvp_progress, progress, 40, HV_LIVE, HV_COMPLETE);
    CHECK_RANGE(hvp_progress, progress, 45, 0, 100);
}

static void fill_domain(struct hv_domain *d, uint32_t i)
{
    d->domid = i;
    d->is_labelled = i % 2 == 0;
    d->label = (struct hv_label){uuid_of(1), 2, uuid_of((uint8_t)i), i};
    d->state = (uint8_t)(HV_BUILDING + i % HV_CRASHED);
    d->mem_kib = 8192;
    memset(d->name, 'n', HA_NAME_MAX - 1);
}

static void test_hv_domains(void **state)
{
    (void)state;
    static struct hvp_domains domains, back;
    static uint8_t bytes[HA_IPC_MAX];

    domains.is_last = true;
    CHECK(hvp_domains, domains);
    domains.count = 3;
    for (uint32_t i = 0; i < HVP_DOMAINS_PER_PACKET; i++)
        fill_domain(&domains.list[i], i);
    CHECK(hvp_domains, domains);
    CHECK_RANGE(hvp_domains, domains, 5 + 4, 0, 1);
    CHECK_RANGE(hvp_domains, domains, 5 + 4 + 1 + 48, HV_BUILDING, HV_CRASHED);
    domains.count = HVP_DOMAINS_PER_PACKET;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes) - 20);
    hvp_domains_encode(&w, &domains);
    assert_false(w.failed);
    assert_int_equal(hvp_domains_decode(bytes, w.position, &back), 0);
    bytes[1] = 1;
    bytes[2] = 2; /* 513 */
    assert_true(hvp_domains_decode(bytes, w.position, &back) < 0);
    domains.count = HVP_DOMAINS_PER_PACKET + 1;
    hvp_domains_encode(&w, &domains);
    assert_true(w.failed);
}

static void test_keeper(void **state)
{
    (void)state;
    struct keeper_arm arm = {6900, 5000};
    struct keeper_lease lease = {0x1122334455667788u, 99};
    struct keeper_proof proof = {1234567890123u};
    struct keeper_status status = {true, 5000, false, 77, "/dev/watchdog"};

    CHECK(keeper_arm, arm);
    CHECK(keeper_lease, lease);
    CHECK(keeper_proof, proof);
    CHECK(keeper_status, status);
    CHECK_RANGE(keeper_status, status, 0, 0, 1);
    CHECK_RANGE(keeper_status, status, 5, 0, 1);
}

static void test_fence(void **state)
{
    (void)state;
    struct fencep_run run = {"ipmi-n1", "n1", FENCEP_OFF, 20000, 98765};
    struct fencep_vouch vouch = {42, 98765};
    struct fencep_cancel cancel = {42};
    struct fencep_result result = {FENCEP_FAILED, 512, "fence_ipmilan ipmi-n1: exit code 1"};
    struct fencep_devices devices = {false,
                                     {"d", "fence_x", 1, 20000, false, 2, {"n1", "n2"}, 1234}};
    struct fencep_devices none = {.is_last = true};

    CHECK(fencep_run, run);
    CHECK(fencep_vouch, vouch);
    CHECK(fencep_cancel, cancel);
    CHECK(fencep_result, result);
    CHECK(fencep_devices, devices);
    CHECK(fencep_devices, none);
    CHECK_RANGE(fencep_run, run, 2 + 7 + 2 + 2, FENCEP_OFF, FENCEP_MONITOR);
    CHECK_RANGE(fencep_result, result, 0, FENCEP_VERIFIED_OFF, FENCEP_CANCELLED);
    CHECK_RANGE(fencep_devices, devices, 1 + 3 + 9, 1, 9);
}

static void test_fence_too_many_nodes(void **state)
{
    (void)state;
    uint8_t bytes[512];
    struct fencep_devices devices = {true, {"d", "a", 1, 1, false, HA_NODES_MAX + 1, {""}, 0}};
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    fencep_devices_encode(&w, &devices);
    assert_true(w.failed);
    devices.device.node_count = 0;
    w = ha_writer_of(bytes, sizeof(bytes));
    fencep_devices_encode(&w, &devices);
    bytes[1 + 3 + 3 + 1 + 4 + 1] = HA_NODES_MAX + 1;
    assert_true(fencep_devices_decode(bytes, w.position, &devices) < 0);
    assert_int_equal(devices.device.node_count, 0);
}

static void test_stream(void **state)
{
    (void)state;
    uint8_t bytes[256];
    struct streamp_start start = {true, false, uuid_of(1), 2, 3,    uuid_of(4), 5, {1, 2, 3}, "n2",
                                  22,   1000,  10000,      8, 9000, 256,        9, true,      7};
    struct streamp_lane lane = {8};
    struct streamp_progress progress = {1, 2, 3, 4, UINT64_MAX, 6, 7, 8, 9, -5, true};
    struct streamp_end end = {false, progress, "TLS: certificate has expired"};

    check_codec(streamp_start_put, streamp_start_get, &start, sizeof(start),
                &(struct older){15, 4});
    CHECK(streamp_lane, lane);
    CHECK(streamp_progress, progress);
    CHECK(streamp_end, end);
    CHECK_RANGE(streamp_start, start, 0, 0, 1);
    CHECK_RANGE(streamp_start, start, 1, 0, 1);
    const unsigned level_at = 2 + 16 + 8 + 8 + 16 + 8 + 32 + 4;
    CHECK_RANGE(streamp_start, start, level_at + 1 + 4 + 4, 0, 8);
    CHECK_RANGE(streamp_start, start, level_at + 1 + 4 + 4 + 1 + 4 + 4 + 1, 0, 1);
    CHECK_RANGE(streamp_lane, lane, 0, 0, 8);
    for (unsigned level = 0; level < 256; level++) {
        struct streamp_start back;
        start.level = (uint8_t)level;
        struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
        streamp_start_encode(&w, &start);
        int rc = streamp_start_decode(bytes, w.position, &back);
        assert_int_equal(rc == 0, level <= 22 || level == STREAMP_LEVEL_AUTO);
    }
    start.cache_mib = STREAMP_CACHE_MAX + 1;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    streamp_start_encode(&w, &start);
    assert_true(streamp_start_decode(bytes, w.position, &start) < 0);
    start.cache_mib = 0;
    start.probe_mib = STREAMP_PROBE_MAX + 1;
    w = ha_writer_of(bytes, sizeof(bytes));
    streamp_start_encode(&w, &start);
    assert_true(streamp_start_decode(bytes, w.position, &start) < 0);
    CHECK_RANGE(streamp_end, end, 0, 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hv_requests), cmocka_unit_test(test_hv_create_limits),
        cmocka_unit_test(test_hv_replies),  cmocka_unit_test(test_hv_domains),
        cmocka_unit_test(test_keeper),      cmocka_unit_test(test_fence),
        cmocka_unit_test(test_stream),      cmocka_unit_test(test_fence_too_many_nodes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
