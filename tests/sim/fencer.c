/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-fence and the devices behind it: a switched power strip that every node reaches, and
 * management controllers, one per node. Which there are is drawn with the seed; each order may be
 * slow, fail, or be done without an answer.
 */
#include <stdlib.h>
#include <string.h>

#include "fence/order.h"
#include "tests/sim/sim.h"

#define ORDERS_MAX 64u

enum layout { NO_DEVICES = 0, STRIP, CONTROLLERS, BOTH_LEVELS, BOTH_ONE_LEVEL, LAYOUTS };

struct order {
    bool is_used, has_begun;
    uint8_t supply; /* which power supply its device switches, where there are two */
    struct sim_conn *conn;
    uint32_t number; /* of the connection */
    uint64_t serial; /* its own */
    uint64_t id;
    struct sim_node *target;
    struct fence_order stands;
};

static enum layout layout;
static struct order orders[ORDERS_MAX];
static uint64_t order_high;

void sim_fencer_reset(void)
{
    memset(orders, 0, sizeof(orders));
    order_high = 0;
    if (sim_script_is_on())
        layout = sim_script_has_strip() ? STRIP : NO_DEVICES;
    else
        layout = (enum layout)sim_below(LAYOUTS);
}

bool sim_has_fencing(void)
{
    return layout != NO_DEVICES;
}

void sim_fencer_start(struct sim_node *node)
{
    (void)node; /* clients connect and ask */
}

/* Some give up before T_wait is over. */
static uint32_t timeout_ms(void)
{
    return sim_corner_is_on() ? 2000 + (uint32_t)(sim.options.seed * 7919 % 8000) : 20000;
}

static void add(struct fencep_device *list, uint32_t *count, const char *name, uint8_t level,
                const struct sim_node *target)
{
    struct fencep_device *device = &list[(*count)++];

    memset(device, 0, sizeof(*device));
    snprintf(device->name, sizeof(device->name), "%s", name);
    snprintf(device->agent, sizeof(device->agent), "fence_sim");
    device->level = level;
    device->timeout_ms = timeout_ms();
    device->is_for_all = target == NULL;
    if (target) {
        device->node_count = 1;
        snprintf(device->nodes[0], HA_NAME_MAX, "%s", target->name);
    }
}

static void send_devices(struct sim_conn *conn)
{
    static struct fencep_device list[SIM_NODES + 1];
    uint32_t count = 0;
    char name[32];

    for (uint32_t i = 0; i < sim.node_count && layout >= CONTROLLERS; i++) {
        snprintf(name, sizeof(name), "bmc-%s", sim.nodes[i].name);
        add(list, &count, name, 1, &sim.nodes[i]);
    }
    if (layout != NO_DEVICES && layout != CONTROLLERS)
        add(list, &count, "strip", layout == BOTH_LEVELS ? 2 : 1, NULL);
    for (uint32_t i = 0; i < count || (count == 0 && i == 0); i++) {
        static struct fencep_devices part;
        uint8_t body[4096];
        struct ha_writer w = ha_writer_of(body, sizeof(body));
        memset(&part, 0, sizeof(part));
        part.is_last = i + 1 >= count;
        if (count > 0)
            part.device = list[i];
        fencep_devices_encode(&w, &part);
        ha_assert(!w.failed);
        sim_conn_reply(conn, FENCEP_DEVICES, 1, body, w.position);
    }
}

static void answer(struct order *order, uint8_t outcome, const char *text)
{
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct fencep_result result = {.outcome = outcome};

    snprintf(result.text, sizeof(result.text), "%s", text);
    fencep_result_encode(&w, &result);
    if (order->conn->is_used && order->conn->number == order->number)
        sim_conn_reply(order->conn, FENCEP_RESULT, order->id, body, w.position);
    order->is_used = false;
}

/* With both kinds of devices on one level each switches one of the host's two power supplies. */
static bool is_off(const struct order *order)
{
    const struct sim_node *target = order->target;

    return layout == BOTH_ONE_LEVEL ? (target->supplies_off & order->supply) != 0
                                    : !target->has_power;
}

static void on_verified(void *data, uint64_t number)
{
    struct order *order = data;

    if (!order->is_used || order->number != number)
        return;
    if (is_off(order))
        answer(order, FENCEP_VERIFIED_OFF, "off, and status says off");
    else
        answer(order, FENCEP_IS_ON, "status says on");
}

static void on_failed(void *data, uint64_t number)
{
    struct order *order = data;

    if (order->is_used && order->number == number)
        answer(order, FENCEP_FAILED, "timed out");
}

/* Whoever is slower is killed. */
static void on_killed(void *data, uint64_t serial)
{
    struct order *order = data;

    if (order->is_used && order->serial == serial)
        answer(order, FENCEP_FAILED, "timed out");
}

static void switch_off(const struct order *order)
{
    struct sim_node *target = order->target;

    if (layout == BOTH_ONE_LEVEL) {
        target->supplies_off |= order->supply;
        sim_trace(target->id, "power supply %u is off", order->supply);
        if (target->supplies_off != SIM_BOTH_SUPPLIES)
            return;
    }
    sim_machine_off(target);
    sim_power_off(target, "a fence device switched it off");
    target->in_flight_ns = 0; /* taken to be over when its status says off: see README.md */
}

/* The device acts: an event of the world, for the node that asked may be the one that dies. */
static void on_off(void *data, uint64_t number)
{
    struct order *order = data;
    bool is_lost = sim_chance(sim.fence_ack_lost);

    if (!order->is_used || order->number != number)
        return;
    if (sim_chance(sim.fence_fail)) {
        if (sim_corner_is_on() && sim_chance(300)) {
            order->is_used = false; /* and nobody ever answers */
            return;
        }
        /* Nobody there, or a connection refused at once: only back-off keeps that from a storm. */
        bool is_refused = sim_chance(400);
        sim_after(is_refused ? 5 * NS_MS : sim_between(1, 20) * NS_S, NULL, on_failed, order,
                  number);
        return;
    }
    if (sim_has_plant("device-lies")) {
        answer(order, FENCEP_VERIFIED_OFF, "off, and status says off");
        return;
    }
    sim_check_fence_off(order->target);
    switch_off(order);
    if (is_lost)
        sim_after(timeout_ms() * NS_MS, NULL, on_failed, order, number);
    else
        sim_after(sim_between(100, 800) * NS_MS, NULL, on_verified, order, number);
}

static uint64_t boot_ms(const struct sim_node *node)
{
    return (sim_raw_ns(node) + (uint64_t)node->clock.slept_ns) / NS_MS;
}

static void on_agent_begins(void *data, uint64_t number)
{
    struct order *order = data;

    if (!order->is_used || order->number != number || order->has_begun)
        return;
    if (!fence_order_stands(&order->stands, boot_ms(order->conn->node))) {
        sim_trace(order->target->id, "an order to switch it off has ended on n%u",
                  order->conn->node->id);
        answer(order, FENCEP_CANCELLED, "not begun: hamgrd vouches for the order no longer");
        return;
    }
    order->has_begun = true;
    sim_check_fence_target(sim_has_plant("aims-anywhere") ? sim_node(1) : order->target);
    if (sim_corner_devices() == SIM_DEVICES_SILENT) {
        order->is_used = false; /* and nobody ever answers */
        return;
    }
    if (sim_corner_devices() == SIM_DEVICES_REFUSE) {
        sim_after(5 * NS_MS, NULL, on_killed, order, order->serial);
        return;
    }
    if (sim_corner_is_on())
        sim_after(timeout_ms() * NS_MS, NULL, on_killed, order, order->serial);
    sim_after(sim_between(100, sim_chance(sim.fence_slow) ? 15000 : 1500) * NS_MS, NULL, on_off,
              order, number);
}

static struct sim_node *by_name(const char *name)
{
    for (uint32_t i = 0; i < sim.node_count; i++) {
        if (strcmp(sim.nodes[i].name, name) == 0)
            return &sim.nodes[i];
    }
    return NULL;
}

/* A controller switches the machine it is in, whomever it was asked about; the strip has a plug for
 * each. */
static bool is_controller(const struct fencep_run *run)
{
    return strncmp(run->device, "bmc-", 4) == 0;
}

static struct sim_node *wired_to(const struct fencep_run *run)
{
    return by_name(is_controller(run) ? run->device + 4 : run->node);
}

static void take_order(struct sim_conn *conn, uint64_t id, const struct fencep_run *run)
{
    struct sim_node *target = wired_to(run);

    for (uint32_t i = 0; i < ORDERS_MAX; i++) {
        struct order *order = &orders[i];
        if (order->is_used || !target)
            continue;
        *order = (struct order){.is_used = true,
                                .conn = conn,
                                .number = conn->number,
                                .serial = ++order_high,
                                .id = id,
                                .target = target,
                                .supply = is_controller(run) ? 1 : 2};
        fence_order_vouch(&order->stands, run->end_ms);
        sim_check_fence_order(target);
        sim_after(sim_between(10, 300) * NS_MS, NULL, on_agent_begins, order, order->number);
        return;
    }
}

static void cancel(struct sim_conn *conn, uint64_t id)
{
    for (uint32_t i = 0; i < ORDERS_MAX; i++) {
        struct order *order = &orders[i];
        if (order->is_used && !order->has_begun && order->conn == conn &&
            order->number == conn->number && order->id == id)
            answer(order, FENCEP_CANCELLED, "cancelled before it began");
    }
}

static void vouch(const struct sim_conn *conn, const struct fencep_vouch *word)
{
    for (uint32_t i = 0; i < ORDERS_MAX; i++) {
        struct order *order = &orders[i];
        if (order->is_used && order->conn == conn && order->number == conn->number &&
            order->id == word->id)
            fence_order_vouch(&order->stands, word->end_ms);
    }
}

void sim_fencer_packet(struct sim_conn *conn, const struct ha_packet *packet)
{
    struct fencep_run run;
    struct fencep_cancel order;
    struct fencep_vouch word;

    if (packet->type == FENCEP_LIST)
        send_devices(conn);
    else if (packet->type == FENCEP_RUN &&
             fencep_run_decode(packet->body, packet->body_size, &run) == 0)
        take_order(conn, packet->id, &run);
    else if (packet->type == FENCEP_VOUCH &&
             fencep_vouch_decode(packet->body, packet->body_size, &word) == 0)
        vouch(conn, &word);
    else if (packet->type == FENCEP_CANCEL &&
             fencep_cancel_decode(packet->body, packet->body_size, &order) == 0)
        cancel(conn, order.id);
}

/* hamgr-fence dies with its agents; an `off` that a device has begun is done. */
void sim_fencer_gone(struct sim_node *node)
{
    for (uint32_t i = 0; i < ORDERS_MAX; i++) {
        if (orders[i].is_used && orders[i].conn->node == node && !orders[i].has_begun)
            orders[i].is_used = false;
    }
}
