/* SPDX-License-Identifier: Apache-2.0
 *
 * What hamgrds tell each other: what goes in comes out, every shorter or longer message is refused,
 * and so is every value outside its range. Round trips compare encodings: every field that travels.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/shell/message.h"

#define SIZE_MAX_USED 131072u

typedef void (*encode_fn)(struct ha_writer *w, const void *message);
typedef int (*decode_fn)(struct ha_reader *r, void *ret);

#define CODEC(name, type)                                                                          \
    static void name##_put(struct ha_writer *w, const void *message)                               \
    {                                                                                              \
        peer_##name##_encode(w, (const type *)message);                                            \
    }                                                                                              \
    static int name##_get(struct ha_reader *r, void *ret)                                          \
    {                                                                                              \
        return peer_##name##_decode(r, (type *)ret);                                               \
    }

CODEC(report, struct ha_report)
CODEC(devices, struct peer_devices)
CODEC(fence, struct peer_fence)
CODEC(move_ready, struct peer_move_ready)
CODEC(progress, struct ha_move_progress)
CODEC(forecast, struct peer_forecast)
CODEC(probe, struct peer_probe)
CODEC(chunk, struct peer_chunk)
CODEC(things, struct peer_things)
CODEC(facts_ask, struct peer_facts_ask)
CODEC(facts_tell, struct peer_facts_tell)

/* A copy of exactly `size` bytes on the heap, so that a sanitizer sees a read past its end. */
static int decode_exactly(decode_fn decode, const uint8_t *bytes, size_t size, void *ret)
{
    uint8_t *copy = malloc(size + 1);

    assert_non_null(copy);
    uint8_t *begin = copy + 1; /* ends where the block ends */
    memcpy(begin, bytes, size);
    struct ha_reader r = ha_reader_of(begin, size);
    int rc = decode(&r, ret);
    free(copy);
    return rc;
}

/* Encodes, decodes, encodes again: the same bytes; every truncation and one byte more: refused. */
static void check_codec(encode_fn encode, decode_fn decode, const void *message, size_t ret_size)
{
    uint8_t *first = malloc(SIZE_MAX_USED), *second = malloc(SIZE_MAX_USED);
    void *ret = calloc(1, ret_size);
    struct ha_writer w = ha_writer_of(first, SIZE_MAX_USED);

    assert_true(first && second && ret);
    encode(&w, message);
    assert_false(w.failed);
    size_t size = w.position;
    struct ha_reader r = ha_reader_of(first, size);
    assert_int_equal(decode(&r, ret), 0);
    w = ha_writer_of(second, SIZE_MAX_USED);
    encode(&w, ret);
    assert_int_equal(w.position, size);
    assert_memory_equal(first, second, size);
    size_t step = size > 4096 ? 97 : 1;
    for (size_t cut = 0; cut < size; cut += step)
        assert_true(decode_exactly(decode, first, cut, ret) < 0);
    assert_true(decode_exactly(decode, first, size - 1, ret) < 0);
    first[size] = 0;
    assert_true(decode_exactly(decode, first, size + 1, ret) < 0);
    free(ret);
    free(second);
    free(first);
}

static struct ha_report a_report(void)
{
    return (struct ha_report){.is_hv_ready = true,
                              .is_shutting_down = true,
                              .starting_count = 3,
                              .applied = UINT64_C(1) << 40,
                              .mem_kib = 123456,
                              .fence_devices = 2,
                              .store_stall_ms = 77,
                              .version = "0.1.0",
                              .alarm = "the watchdog is not armed"};
}

static struct peer_devices *some_devices(uint32_t count)
{
    struct peer_devices *devices = calloc(1, sizeof(*devices));

    assert_non_null(devices);
    devices->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct fencep_device *d = &devices->list[i];
        snprintf(d->name, sizeof(d->name), "device%u", i);
        snprintf(d->agent, sizeof(d->agent), "fence_x");
        d->level = (uint8_t)(1 + i % 9);
        d->timeout_ms = 1000 * i;
        d->is_for_all = i % 2;
        d->proven_wall_ms = 1700000000000u + i;
        d->node_count = i % (HA_NODES_MAX + 1);
        for (uint32_t n = 0; n < d->node_count; n++)
            snprintf(d->nodes[n], sizeof(d->nodes[n]), "node%u", n);
    }
    return devices;
}

static struct peer_fence a_fence(void)
{
    return (struct peer_fence){
        .id = 99,
        .run = {.device = "room", .node = "n2", .action = FENCEP_OFF, .timeout_ms = 15000},
        .result = {.outcome = FENCEP_VERIFIED_OFF, .elapsed_ms = 12, .text = "status off"}};
}

static struct ha_move_progress a_progress(void)
{
    return (struct ha_move_progress){
        .ticket = 41,
        .step = HA_MOVE_COPYING,
        .hv = {.round = 3, .pages_total = 9, .pages_sent = 8, .pages_dirty = 1, .bytes = 4096},
        .wire_bytes = 2048,
        .rate_kib_s = 5,
        .remaining_kib = 6,
        .eta_ms = 7,
        .elapsed_ms = 8,
        .is_diverging = true,
        .pause_us = 9,
        .forecast_ms = 10,
        .forecast_pause_ms = 11,
        .forecast_bytes = 12,
        .packing = {.is_known = true, .level = -3, .codec_mbit = 13, .link_mbit = 14},
        .text = "fine"};
}

static void test_round_trips(void **state)
{
    struct ha_report report = a_report();
    struct peer_devices *devices = some_devices(PEER_DEVICES_MAX);
    struct peer_fence fence = a_fence();
    struct peer_move_ready ready = {.ticket = 7, .port = 49200, .addr = "fd00::1"};
    struct ha_move_progress progress = a_progress();
    struct peer_forecast forecast = {.id = 1,
                                     .dst = 2,
                                     .max_downtime_ms = 3,
                                     .is_ok = true,
                                     .dirty_bytes_s = 4,
                                     .rate_bytes_s = 5,
                                     .link_bytes_s = 6,
                                     .link_rtt_us = 7,
                                     .link_text = "a migration runs",
                                     .forecast = {true, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
                                     .text = "fine"};
    struct peer_probe probe = {
        .id = 9, .is_ok = true, .port = 49201, .addr = "10.0.0.1", .text = "busy"};
    uint8_t data[300];

    (void)state;
    memset(probe.secret, 0x5a, sizeof(probe.secret));
    memset(data, 0x5a, sizeof(data));
    memset(ready.secret, 0xa5, sizeof(ready.secret));
    struct peer_chunk chunk = {.transfer = 1,
                               .index = 2,
                               .view = {3, 4},
                               .total = 1000,
                               .offset = 700,
                               .data = data,
                               .size = sizeof(data)};
    check_codec(report_put, report_get, &report, sizeof(report));
    check_codec(devices_put, devices_get, devices, sizeof(*devices));
    check_codec(fence_put, fence_get, &fence, sizeof(fence));
    check_codec(move_ready_put, move_ready_get, &ready, sizeof(ready));
    check_codec(progress_put, progress_get, &progress, sizeof(progress));
    check_codec(forecast_put, forecast_get, &forecast, sizeof(forecast));
    check_codec(probe_put, probe_get, &probe, sizeof(probe));
    check_codec(chunk_put, chunk_get, &chunk, sizeof(chunk));
    free(devices);
}

static void test_header(void **state)
{
    uint8_t bytes[128];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct peer_header in = {.type = PEER_REPORT, .generation = 2, .nonce = 3, .to = 4};
    struct peer_header out;

    (void)state;
    memset(&in.cluster_id, 7, sizeof(in.cluster_id));
    peer_header_encode(&w, &in);
    struct ha_reader r = ha_reader_of(bytes, w.position);
    assert_int_equal(peer_header_decode(&r, &out), 0);
    assert_true(ha_uuid_equal(in.cluster_id, out.cluster_id));
    assert_int_equal(out.type, PEER_REPORT);
    assert_int_equal(out.generation, 2);
    assert_int_equal(out.nonce, 3);
    assert_int_equal(out.to, 4);
    assert_true(peer_is_message(bytes, w.position));
    for (size_t cut = 0; cut < w.position; cut++) {
        r = ha_reader_of(bytes, cut);
        assert_int_equal(peer_header_decode(&r, &out), -HA_E_CORRUPT);
        assert_int_equal(peer_is_message(bytes, cut), cut >= 4);
    }
    bytes[4] = PEER_VERSION + 1;
    r = ha_reader_of(bytes, w.position);
    assert_int_equal(peer_header_decode(&r, &out), -HA_E_VERSION);
    bytes[4] = PEER_VERSION;
    bytes[5] = 0;
    r = ha_reader_of(bytes, w.position);
    assert_int_equal(peer_header_decode(&r, &out), -HA_E_CORRUPT);
    bytes[5] = PEER_PROBE_READY + 1;
    r = ha_reader_of(bytes, w.position);
    assert_int_equal(peer_header_decode(&r, &out), -HA_E_CORRUPT);
    bytes[0] ^= 1;
    assert_false(peer_is_message(bytes, w.position));
}

static int recode_fence(const struct peer_fence *fence)
{
    uint8_t bytes[1024];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct peer_fence out;

    peer_fence_encode(&w, fence);
    struct ha_reader r = ha_reader_of(bytes, w.position);
    return peer_fence_decode(&r, &out);
}

static int recode_devices(const struct peer_devices *devices)
{
    static uint8_t bytes[SIZE_MAX_USED];
    static struct peer_devices out;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    peer_devices_encode(&w, devices);
    struct ha_reader r = ha_reader_of(bytes, w.position);
    return peer_devices_decode(&r, &out);
}

static int recode_progress(const struct ha_move_progress *progress)
{
    uint8_t bytes[1024];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct ha_move_progress out;

    peer_progress_encode(&w, progress);
    struct ha_reader r = ha_reader_of(bytes, w.position);
    return peer_progress_decode(&r, &out);
}

static void test_bad_values(void **state)
{
    struct peer_fence fence = a_fence();
    struct ha_move_progress progress = a_progress();
    struct peer_devices *devices = some_devices(2);
    uint8_t bytes[1024];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct ha_report report = a_report();

    (void)state;
    fence.run.action = 0;
    assert_true(recode_fence(&fence) < 0);
    fence.run.action = FENCEP_MONITOR + 1;
    assert_true(recode_fence(&fence) < 0);
    fence = a_fence();
    fence.result.outcome = FENCEP_CANCELLED + 1;
    assert_true(recode_fence(&fence) < 0);
    progress.step = 0;
    assert_true(recode_progress(&progress) < 0);
    progress.step = HA_MOVE_FAILED + 1;
    assert_true(recode_progress(&progress) < 0);
    assert_int_equal(recode_devices(devices), 0);
    devices->list[1].level = 0;
    assert_true(recode_devices(devices) < 0);
    devices->list[1].level = 10;
    assert_true(recode_devices(devices) < 0);
    free(devices);
    peer_report_encode(&w, &report);
    bytes[0] = 16; /* a flag nobody knows */
    struct ha_reader r = ha_reader_of(bytes, w.position);
    assert_true(peer_report_decode(&r, &report) < 0);
}

/* Counts come from the wire: too many is refused before anything is read into the arrays. */
static void test_counts(void **state)
{
    uint8_t bytes[256] = {0};
    static struct peer_devices devices;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)state;
    ha_put_u32(&w, PEER_DEVICES_MAX + 1);
    struct ha_reader r = ha_reader_of(bytes, sizeof(bytes));
    assert_int_equal(peer_devices_decode(&r, &devices), -HA_E_CORRUPT);
    w = ha_writer_of(bytes, sizeof(bytes));
    ha_put_u32(&w, 1);
    ha_put_text(&w, "d");
    ha_put_text(&w, "a");
    ha_put_u8(&w, 1);
    ha_put_u32(&w, 0);
    ha_put_u8(&w, 1);
    ha_put_u64(&w, 0);
    ha_put_u32(&w, HA_NODES_MAX + 1);
    r = ha_reader_of(bytes, sizeof(bytes));
    assert_int_equal(peer_devices_decode(&r, &devices), -HA_E_CORRUPT);
}

/* Random bytes and single flips: an error or a value, never more; sanitizers watch. */
static void test_noise(void **state)
{
    static const decode_fn decoders[] = {report_get,   devices_get, fence_get, move_ready_get,
                                         progress_get, chunk_get,   probe_get};
    static uint8_t bytes[4096];
    static union {
        struct ha_report report;
        struct peer_devices devices;
        struct peer_fence fence;
        struct peer_move_ready ready;
        struct ha_move_progress progress;
        struct peer_chunk chunk;
        struct peer_probe probe;
    } ret;
    uint64_t seed = 42;
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct peer_fence fence = a_fence();

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        size_t size = (seed >> 33) % 600;
        for (size_t i = 0; i < size; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
            bytes[i] = (seed >> 40) % 4 ? (uint8_t)((seed >> 33) % 3) : (uint8_t)(seed >> 50);
        }
        decode_exactly(decoders[round % 7], bytes, size, &ret);
    }
    w = ha_writer_of(bytes, sizeof(bytes));
    peer_fence_encode(&w, &fence);
    for (size_t bit = 0; bit < 8 * w.position; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (decode_exactly(fence_get, bytes, w.position, &ret) == 0)
            assert_in_range(ret.fence.run.action, FENCEP_OFF, FENCEP_MONITOR);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void test_things(void **state)
{
    static struct peer_things m;
    static uint8_t bytes[65536];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct ha_reader r;

    (void)state;
    m.has_hap = true;
    snprintf(m.cpu.pv, sizeof(m.cpu.pv), "178bfbff");
    m.count = PEER_THINGS_MAX;
    for (uint32_t i = 0; i < m.count; i++)
        m.found[i] = (struct ha_found){.key = i + 1, .state = LOOK_THERE, .id = i};
    check_codec(things_put, things_get, &m, sizeof(m));
    m.found[3].key = m.found[2].key; /* not ascending: a search would miss what is there */
    things_put(&w, &m);
    r = ha_reader_of(bytes, w.position);
    assert_int_equal(things_get(&r, &m), -HA_E_CORRUPT);
}

static void test_facts(void **state)
{
    static struct peer_facts_ask ask;
    static struct peer_facts_tell tell;
    static uint8_t bytes[65536];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct ha_reader r;

    (void)state;
    ask.id = 77;
    ask.thing_count = PEER_LOOK_MAX;
    for (uint32_t i = 0; i < PEER_LOOK_MAX; i++) {
        ask.things[i].kind = (uint8_t)(LOOK_FILE + i % LOOK_MEDIUM);
        snprintf(ask.things[i].name, sizeof(ask.things[i].name), "/srv/%u", i);
    }
    check_codec(facts_ask_put, facts_ask_get, &ask, sizeof(ask));
    tell.id = 78;
    ha_facts_set(&tell.facts, HA_FACT_HAS_HAP, 1);
    tell.found_count = PEER_LOOK_MAX;
    for (uint32_t i = 0; i < PEER_LOOK_MAX; i++)
        tell.found[i] = (struct look_found){.state = LOOK_LOCAL, .id = i};
    check_codec(facts_tell_put, facts_tell_get, &tell, sizeof(tell));
    tell.found[0].state = LOOK_LOCAL + 1;
    facts_tell_put(&w, &tell);
    r = ha_reader_of(bytes, w.position);
    assert_int_equal(facts_tell_get(&r, &tell), -HA_E_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_things),
        cmocka_unit_test(test_header),      cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_counts),      cmocka_unit_test(test_noise),
        cmocka_unit_test(test_facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
