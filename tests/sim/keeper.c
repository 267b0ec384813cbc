/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-watchdog around the production rule (fence/keeper.c), and the watchdog itself. The page in
 * /run outlives the process, not the boot. The device resets the host W after its last pet.
 */
#include <stdatomic.h>
#include <string.h>

#include "tests/sim/sim.h"

#define PET_MS          250u
#define PET_NS          (PET_MS * NS_MS)
#define WATCHDOG_MIN_MS 1000u
/* Each third node's device counts in such steps, and rounds up. */
#define WATCHDOG_STEP_MS 4000u

static void set_watchdog(struct sim_node *node);

/* Of an earlier boot, perhaps: then the device was armed anew meanwhile, or is not armed. */
static void on_watchdog(void *data, uint64_t arg)
{
    struct sim_node *node = data;

    (void)arg;
    node->watchdog.is_set = false;
    if (!node->watchdog.is_armed || !node->has_power)
        return;
    if (sim.now < node->watchdog.due)
        set_watchdog(node);
    else if (!sim_has_plant("watchdog-never-fires"))
        sim_power_off(node, "the watchdog was not petted");
}

static void set_watchdog(struct sim_node *node)
{
    if (node->watchdog.is_set)
        return;
    node->watchdog.is_set = true;
    sim_at(node->watchdog.due, NULL, on_watchdog, node, 0);
}

/* The device counts W on its own clock, up to B late by its reset. */
static void pet_device(struct sim_node *node)
{
    node->watchdog.due = sim.now + sim_span(node, node->keeper_watchdog_ms * NS_MS);
    set_watchdog(node);
}

static void on_hurried(void *data, uint64_t boots)
{
    struct sim_node *node = data;

    if (node->boots == boots && node->has_power && node->watchdog.is_armed &&
        sim.now >= node->watchdog.due)
        sim_power_off(node, "the watchdog was not petted behind a suspend");
}

/* Less than its next look is away. */
static void hurry_device(struct sim_node *node, uint32_t ms)
{
    node->watchdog.due = sim.now + sim_span(node, ms * NS_MS);
    sim_at(node->watchdog.due, NULL, on_hurried, node, node->boots);
}

/* The next boot's keeper may be late: until it is there, none is armed. */
void sim_keeper_power_lost(struct sim_node *node)
{
    node->watchdog.is_armed = false;
    keeper_init(&node->keeper, PET_MS);
}

/* ---- the daemon --------------------------------------------------------------------------------
 */

/* Nobody else runs meanwhile, so none of these has to wait for the one before. */
#define PUBLISH(page, field, value)                                                                \
    atomic_store_explicit(&(page)->field, (value), memory_order_relaxed)

static void publish(struct sim_node *node)
{
    struct keeper_page *page = &node->page;

    PUBLISH(page, lease_end_ns, node->keeper.lease_end_ns);
    PUBLISH(page, is_quarantined, node->keeper.state == KEEPER_QUARANTINED);
    PUBLISH(page, is_armed, node->keeper.state != KEEPER_DISARMED);
    PUBLISH(page, lease_ms, node->keeper_lease_ms);
    PUBLISH(page, watchdog_ms, node->keeper_watchdog_ms);
    PUBLISH(page, has_slept, node->keeper.has_slept);
    PUBLISH(page, slept_ns, node->keeper.slept_ns);
    PUBLISH(page, woke_ns, node->keeper.woke_ns);
    PUBLISH(page, waited_end_ns, node->keeper.waited_end_ns);
}

static void send_status(struct sim_conn *conn, uint64_t id)
{
    struct sim_node *node = conn->node;
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct keeper_status status = {.is_armed = node->keeper.state != KEEPER_DISARMED &&
                                               !node->is_keeper_lost,
                                   .watchdog_ms = node->keeper_watchdog_ms,
                                   .is_quarantined = node->keeper.state == KEEPER_QUARANTINED,
                                   .lease_end_ns = node->keeper.lease_end_ns,
                                   .text = "simulated"};

    keeper_status_encode(&w, &status);
    sim_conn_reply(conn, KEEPER_STATUS, id, body, w.position);
}

static void send_event(struct sim_conn *conn, void *user)
{
    (void)user;
    send_status(conn, 0);
}

static void tell(struct sim_node *node)
{
    publish(node);
    if (node->keeper_told_state == node->keeper.state &&
        node->keeper_told_lost == node->is_keeper_lost)
        return;
    sim_trace(node->id, "keeper: %s -> %s", keeper_state_name(node->keeper_told_state),
              keeper_state_name(node->keeper.state));
    sim_transition(SIM_SM_KEEPER, node->keeper_told_state, node->keeper.state);
    node->keeper_told_state = node->keeper.state;
    node->keeper_told_lost = node->is_keeper_lost;
    sim_each_conn(node, SIM_TO_KEEPER, send_event, NULL);
    sim_gate_keeper_changed(node);
}

static void arm_device(struct sim_node *node, uint32_t wanted_ms)
{
    uint32_t step_ms = node->id % 3 == 0 ? WATCHDOG_STEP_MS : 1;

    node->keeper_watchdog_ms = wanted_ms < WATCHDOG_MIN_MS ? WATCHDOG_MIN_MS : wanted_ms;
    node->keeper_watchdog_ms = (node->keeper_watchdog_ms + step_ms - 1) / step_ms * step_ms;
    node->watchdog.is_armed = !sim_has_plant("arm-forgets-device");
    node->is_keeper_lost = false;
    pet_device(node);
}

static uint64_t look(struct sim_node *node)
{
    uint64_t now_ns = sim_raw_ns(node);

    if (keeper_slept(&node->keeper, node->clock.slept_ns, now_ns)) {
        uint32_t hurry_ms = keeper_hurry_ms(&node->keeper, node->keeper_watchdog_ms, now_ns);
        sim_trace(node->id, "keeper: the host was suspended, the watchdog gets %u ms", hurry_ms);
        if (hurry_ms > 0 && node->watchdog.is_armed)
            hurry_device(node, hurry_ms);
    }
    return now_ns;
}

static void arm(struct sim_node *node, uint32_t lease_ms, uint32_t wanted_ms)
{
    bool is_armed = node->keeper.state != KEEPER_DISARMED;

    if (!is_armed)
        arm_device(node, wanted_ms);
    if (!is_armed || lease_ms > node->keeper_lease_ms)
        node->keeper_lease_ms = lease_ms;
    keeper_arm(&node->keeper, lease_ms, look(node));
}

static void disarm(struct sim_node *node)
{
    sim_check_disarm(node);
    node->watchdog.is_armed = false;
    node->keeper_watchdog_ms = 0;
    node->is_keeper_lost = false;
    keeper_disarm(&node->keeper);
}

static void pet(struct sim_node *node)
{
    if (keeper_may_pet(&node->keeper, look(node)) || sim_has_plant("keeper-always-pets")) {
        sim_check_pet(node);
        if (node->watchdog.is_armed)
            pet_device(node);
        else if (node->keeper.state != KEEPER_DISARMED)
            arm_device(node, node->keeper_watchdog_ms);
    }
    tell(node);
}

static void on_poll(void *data, uint64_t arg)
{
    struct sim_node *node = data;

    (void)arg;
    pet(node);
    sim_after(sim_span(node, PET_NS), sim.running, on_poll, node, 0);
}

void sim_keeper_packet(struct sim_conn *conn, const struct ha_packet *packet)
{
    struct sim_node *node = conn->node;
    struct keeper_arm order;
    struct keeper_lease lease;
    uint64_t now_ns = look(node);

    if (packet->type == KEEPER_ARM &&
        keeper_arm_decode(packet->body, packet->body_size, &order) == 0)
        arm(node, order.lease_ms, order.watchdog_ms);
    else if (packet->type == KEEPER_DISARM)
        disarm(node);
    else if (packet->type == KEEPER_LEASE &&
             keeper_lease_decode(packet->body, packet->body_size, &lease) == 0) {
        if (lease.end_ns > node->told_lease_ns)
            node->told_lease_ns = lease.end_ns;
        (void)keeper_lease(&node->keeper, lease.nonce, lease.end_ns, now_ns);
    }
    tell(node);
    if (packet->type == KEEPER_ARM || packet->type == KEEPER_DISARM || packet->type == KEEPER_QUERY)
        send_status(conn, packet->id);
}

void sim_keeper_proof(struct sim_node *node, const uint8_t *body, size_t size)
{
    struct keeper_proof proof;

    if (keeper_proof_decode(body, size, &proof) == 0)
        (void)keeper_proof(&node->keeper, proof.taken_ns, look(node));
    tell(node);
}

/* A restarted keeper takes up from the page; the device's timer has not stopped meanwhile. */
void sim_keeper_start(struct sim_node *node)
{
    keeper_init(&node->keeper, PET_MS);
    node->keeper_told_state = KEEPER_DISARMED;
    node->is_keeper_lost = node->keeper_told_lost = false;
    if (!node->has_page) {
        memset(&node->page, 0, sizeof(node->page));
        node->told_lease_ns = 0;
    }
    node->has_page = true;
    node->page.version = 1;
    node->keeper.has_slept = node->page.has_slept != 0;
    node->keeper.slept_ns = node->page.slept_ns;
    node->keeper.woke_ns = node->page.woke_ns;
    node->keeper.waited_end_ns = node->page.waited_end_ns;
    if (node->page.is_armed) {
        node->keeper.lease_end_ns = node->page.lease_end_ns;
        node->keeper_lease_ms = node->page.lease_ms;
        node->keeper_watchdog_ms = node->page.watchdog_ms;
        keeper_arm(&node->keeper, node->keeper_lease_ms, look(node));
    } else {
        node->keeper_lease_ms = node->keeper_watchdog_ms = 0;
    }
    sim_after(0, sim.running, on_poll, node, 0);
    tell(node);
}
