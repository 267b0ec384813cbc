/* SPDX-License-Identifier: Apache-2.0
 *
 * The transport without corosync: the send queue's order and bounds, refusals of configurations,
 * and the life of a transport that never connects.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quorum/corosync_queue.h"
#include "quorum/transport.h"

static void push(struct corosync_queue *queue, const char *text, bool is_heartbeat)
{
    assert_int_equal(corosync_queue_push(queue, (const uint8_t *)text, strlen(text), is_heartbeat),
                     0);
}

static void expect(struct corosync_queue *queue, const char *text)
{
    const struct corosync_message *head = corosync_queue_head(queue);

    assert_non_null(head);
    assert_int_equal(head->size, strlen(text));
    assert_memory_equal(head->data, text, head->size);
    corosync_queue_pop(queue);
}

static void heartbeat_goes_first_and_only_the_newest(void **state)
{
    struct corosync_queue *queue = calloc(1, sizeof(*queue));

    (void)state;
    push(queue, "a", false);
    push(queue, "hb1", true);
    push(queue, "b", false);
    push(queue, "hb2", true);
    expect(queue, "hb2");
    expect(queue, "a");
    push(queue, "hb3", true);
    corosync_queue_drop_heartbeat(queue);
    expect(queue, "b");
    assert_null(corosync_queue_head(queue));
    corosync_queue_pop(queue);
    free(queue);
}

static void queue_is_bounded_in_number(void **state)
{
    struct corosync_queue *queue = calloc(1, sizeof(*queue));
    const uint8_t byte = 1;

    (void)state;
    for (int round = 0; round < 3; round++) { /* the ring wraps */
        for (unsigned i = 0; i < COROSYNC_QUEUE_MESSAGES; i++)
            assert_int_equal(corosync_queue_push(queue, &byte, 1, false), 0);
        assert_int_equal(corosync_queue_push(queue, &byte, 1, false), -HA_E_LIMIT);
        push(queue, "hb", true); /* a heartbeat always fits */
        expect(queue, "hb");
        for (unsigned i = 0; i < COROSYNC_QUEUE_MESSAGES - 7; i++)
            corosync_queue_pop(queue);
        corosync_queue_clear(queue);
        assert_int_equal(queue->count, 0);
        assert_int_equal(queue->bytes, 0);
        push(queue, "shift", false);
        expect(queue, "shift");
    }
    free(queue);
}

static void queue_is_bounded_in_bytes(void **state)
{
    struct corosync_queue *queue = calloc(1, sizeof(*queue));
    uint8_t *block = calloc(1, TRANSPORT_MESSAGE_MAX);
    unsigned count = 0;

    (void)state;
    while (corosync_queue_push(queue, block, TRANSPORT_MESSAGE_MAX, false) == 0)
        count++;
    assert_int_equal(count, COROSYNC_QUEUE_BYTES / TRANSPORT_MESSAGE_MAX);
    corosync_queue_pop(queue);
    assert_int_equal(corosync_queue_push(queue, block, TRANSPORT_MESSAGE_MAX, false), 0);
    corosync_queue_clear(queue);
    free(block);
    free(queue);
}

static struct transport_config good_config(void)
{
    struct transport_config config = {
        .cluster_name = "c", .self = 2, .token_ms = 1000, .consensus_ms = 1200, .node_count = 3};

    for (uint32_t i = 0; i < 3; i++) {
        config.nodes[i].id = i + 1;
        config.nodes[i].name[0] = 'n';
        config.nodes[i].name[1] = (char)('1' + i);
    }
    return config;
}

static void assert_refused(struct transport_config config, const char *words)
{
    const char *refusal = transport_config_refusal(&config);

    assert_non_null(refusal);
    assert_non_null(strstr(refusal, words));
}

static void unsafe_options_are_refused_by_name(void **state)
{
    struct transport_config config = good_config();

    (void)state;
    assert_null(transport_config_refusal(&config));
    config.has_two_node = true;
    assert_refused(config, "two_node");
    config = good_config();
    config.has_last_man_standing = true;
    assert_refused(config, "last_man_standing");
    config = good_config();
    config.has_auto_tie_breaker = true;
    assert_refused(config, "auto_tie_breaker");
    config = good_config();
    config.has_no_crypto = true;
    assert_refused(config, "crypto_cipher");
    config = good_config();
    config.cluster_name[0] = '\0';
    assert_refused(config, "cluster_name");
    config = good_config();
    config.node_count = 0;
    assert_refused(config, "nodelist");
    config = good_config();
    config.self = 9;
    assert_refused(config, "this node");
    config = good_config();
    config.nodes[1].name[0] = '\0';
    assert_refused(config, "name");
    config = good_config();
    config.nodes[1].id = 1;
    assert_refused(config, "unique");
}

struct watch {
    qb_loop_t *loop;
    struct transport *transport;
    unsigned calls;
    bool closes;
};

static void on_members(void *user, const uint32_t *nodes, uint32_t count)
{
    (void)user;
    (void)nodes;
    (void)count;
    fail_msg("members without corosync");
}

static void on_message(void *user, uint32_t from, const uint8_t *data, size_t size)
{
    (void)user;
    (void)from;
    (void)data;
    (void)size;
    fail_msg("message without corosync");
}

static void stop_loop(void *data)
{
    qb_loop_stop(data);
}

/* Without corosync attempts fail and back off; sending is a no-op; closing does not wait. Runs only
 * where no corosync does (its abstract socket would answer). */
static void without_corosync_it_waits(void **state)
{
    struct watch watch = {.loop = qb_loop_create()};
    const struct transport_callbacks callbacks = {.members = on_members, .message = on_message};
    struct ha_err err = {0};
    qb_loop_timer_handle timer;
    bool is_quorate;
    uint32_t votes;

    (void)state;
    assert_int_equal(
        transport_open(watch.loop, "hamgr-unit-test", &callbacks, &watch, &watch.transport, &err),
        0);
    transport_send(watch.transport, (const uint8_t *)"x", 1, true);
    assert_false(transport_votequorum(watch.transport, &is_quorate, &votes));
    qb_loop_timer_add(watch.loop, QB_LOOP_MED, 200000000u, watch.loop, stop_loop, &timer);
    qb_loop_run(watch.loop);
    transport_close(watch.transport);
    transport_close(NULL);
    qb_loop_destroy(watch.loop);
}

static void a_bad_group_name_is_refused(void **state)
{
    const struct transport_callbacks callbacks = {.members = on_members, .message = on_message};
    char name[200];
    struct transport *transport = NULL;
    struct ha_err err = {0};
    qb_loop_t *loop = qb_loop_create();

    (void)state;
    memset(name, 'g', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(transport_open(loop, name, &callbacks, NULL, &transport, &err), -HA_E_USAGE);
    assert_int_equal(transport_open(loop, "", &callbacks, NULL, &transport, &err), -HA_E_USAGE);
    assert_null(transport);
    qb_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heartbeat_goes_first_and_only_the_newest),
        cmocka_unit_test(queue_is_bounded_in_number),
        cmocka_unit_test(queue_is_bounded_in_bytes),
        cmocka_unit_test(unsafe_options_are_refused_by_name),
        cmocka_unit_test(without_corosync_it_waits),
        cmocka_unit_test(a_bad_group_name_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
