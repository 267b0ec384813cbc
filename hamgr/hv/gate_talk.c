/* SPDX-License-Identifier: Apache-2.0
 *
 * What the gate says to its peers, and to those that say hello or ask for the domains; how it comes
 * there is another file's (gate_serve.c; tests/sim/gateway.c).
 */
#include <stdio.h>
#include <string.h>

#include "hamgr/hv/gate_parts.h"

void gate_reply(struct gate_peer *peer, uint64_t id, enum hv_outcome outcome, uint64_t value,
                const char *text)
{
    uint8_t bytes[512];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_done done = {.outcome = (uint8_t)outcome, .value = value};

    snprintf(done.text, sizeof(done.text), "%s", text);
    hvp_done_encode(&w, &done);
    gate_send(peer, HVP_DONE, id, &w);
}

void gate_tell_gate(struct gate *gate)
{
    uint8_t bytes[512];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_gate body;

    gate_describe(gate, &body);
    hvp_gate_encode(&w, &body);
    gate_send_all(gate, HVP_GATE, &w);
}

/* A hamgrd that has just started knows only its last snapshot. Whether pausing is owed is then what
 * was said before, to this gate or the one before it; of another cluster or life, nothing was. */
static void take_hello(struct gate *gate, struct hvp_hello hello)
{
    const struct hvp_hello *before = &gate->hello;

    if (hello.is_stale) {
        bool is_known = gate->has_hello && before->generation == hello.generation &&
                        ha_uuid_equal(before->cluster_id, hello.cluster_id);
        hello.is_disarmed = is_known && before->is_disarmed;
        hello.is_frozen = is_known && before->is_frozen;
    }
    gate->hello = hello;
    gate->has_hello = true;
    gate_state_save(gate);
}

void gate_serve_hello(struct gate *gate, struct gate_peer *peer, const struct ha_packet *packet)
{
    uint8_t bytes[512];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_welcome welcome = {
        .caps = gate->caps, .boot_id = gate->boot_id, .hw_id = gate->hw_id};
    struct hvp_hello hello;
    struct hvp_gate state;

    int rc = hvp_hello_decode(packet->body, packet->body_size, &hello);
    if (rc < 0) {
        gate_drop_peer(peer, rc == -HA_E_VERSION ? "hamgrd is of another version of hamgr: restart "
                                                   "both when it is upgraded"
                                                 : "malformed hello");
        return;
    }
    take_hello(gate, hello);
    hvp_welcome_encode(&w, &welcome);
    gate_send(peer, HVP_WELCOME, packet->id, &w);
    gate_tick(gate); /* disarmed or frozen may have changed */
    w = ha_writer_of(bytes, sizeof(bytes));
    gate_describe(gate, &state);
    hvp_gate_encode(&w, &state);
    gate_send(peer, HVP_GATE, 0, &w);
}

void gate_serve_list(struct gate *gate, struct gate_peer *peer, uint64_t id)
{
    static uint8_t bytes[HA_IPC_MAX];
    static struct hvp_domains part;
    uint32_t sent = 0;
    int rc = gate_list(gate);

    if (rc < 0) {
        gate_reply(peer, id, HV_UNKNOWN, 0, "the domains can't be listed");
        return;
    }
    do {
        uint32_t left = gate->domain_count - sent;
        struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
        part.count = left < HVP_DOMAINS_PER_PACKET ? left : HVP_DOMAINS_PER_PACKET;
        part.is_last = part.count == left;
        memcpy(part.list, &gate->domains[sent], part.count * sizeof(part.list[0]));
        hvp_domains_encode(&w, &part);
        gate_send(peer, HVP_DOMAINS, id, &w);
        sent += part.count;
    } while (!part.is_last);
}
