/* SPDX-License-Identifier: Apache-2.0
 *
 * See builders.h.
 */
#include "tests/lib/builders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/base/assert.h"

struct build *build_new(uint32_t guest_capacity)
{
    struct build *b = calloc(1, sizeof(*b));
    struct ha_guest *guests = calloc(guest_capacity, sizeof(*guests));

    ha_assert(b && guests);
    ha_state_init(&b->state, guests, guest_capacity);
    b->wall_ms = 1700000000000;
    b->mono_ms = 1000;
    b->actor = "test";
    for (uint32_t node = 1; node <= HA_NODES_MAX; node++) {
        b->self[node] = (struct log_member){
            .node = node,
            .nonce = node * 1000u,
            .store_id = build_uuid(100000 + node),
            .boot_id = build_uuid(200000 + node * 1000),
            .hw_id = build_uuid(300000 + node),
            .proto_min = 1,
            .proto_max = 1,
        };
    }
    return b;
}

void build_free(struct build *b)
{
    if (!b)
        return;
    free(b->state.guests);
    free(b);
}

struct ha_uuid build_uuid(uint32_t number)
{
    struct ha_uuid id = {{0x10}};

    for (unsigned i = 0; i < 4; i++)
        id.b[12 + i] = (uint8_t)(number >> (24 - 8 * i));
    return id;
}

int build_apply(struct build *b, uint8_t kind, const uint8_t *body, size_t size)
{
    ha_assert(size <= sizeof(b->body));
    if (body != b->body && size > 0)
        memcpy(b->body, body, size);
    b->wall_ms += 10;
    b->mono_ms += 10;
    b->entry = (struct log_entry){
        .index = b->state.applied + 1,
        .view = b->state.view,
        .kind = kind,
        .origin = 1,
        .nonce = 1,
        .seq = b->state.applied + 1,
        .mono_ms = b->mono_ms,
        .wall_ms = b->wall_ms,
        .body_size = (uint32_t)size,
        .body = b->body,
    };
    b->entry.digest = ha_digest_bytes(b->state.digest, b->body, size);
    return ha_state_apply(&b->state, &b->entry, &b->applied);
}

uint16_t build_cmd(struct build *b, const struct ha_cmd *cmd)
{
    static uint8_t body[HA_ENTRY_MAX];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    ha_cmd_encode(&w, cmd);
    ha_assert(!w.failed);
    uint8_t kind = cmd->type == HA_CMD_INIT ? LOG_KIND_INIT : LOG_KIND_STATE;
    uint16_t expected = ha_state_check(&b->state, cmd);
    int rc = build_apply(b, kind, body, w.position);
    ha_assert(rc == 0);
    /* The dry run and the log never disagree. */
    ha_assert(b->applied.refusal == expected);
    ha_assert(b->applied.is_noop == (b->applied.refusal != 0));
    return b->applied.refusal;
}

struct ha_cmd build_command(const struct build *b, uint8_t type)
{
    struct ha_cmd cmd;

    memset(&cmd, 0, sizeof(cmd));
    cmd.type = type;
    cmd.reason = b->reason;
    ha_assert(strlen(b->actor) < sizeof(cmd.actor));
    memcpy(cmd.actor, b->actor, strlen(b->actor));
    return cmd;
}

struct ha_cmd build_node_command(const struct build *b, uint8_t type, uint32_t node)
{
    struct ha_cmd cmd = build_command(b, type);
    const struct ha_node *known = ha_state_node(&b->state, node);

    cmd.node = node;
    cmd.incarnation = known ? known->incarnation : 0;
    return cmd;
}

struct ha_cmd build_guest_command(const struct build *b, uint8_t type, uint32_t guest)
{
    struct ha_cmd cmd = build_command(b, type);
    const struct ha_guest *known = ha_state_guest(&b->state, build_uuid(guest));

    cmd.guest = build_uuid(guest);
    if (known) {
        cmd.node = known->node;
        cmd.incarnation = known->incarnation;
        cmd.epoch = known->epoch;
        cmd.ticket = known->ticket.id;
    }
    return cmd;
}

static void build_init(struct build *b)
{
    struct ha_cmd cmd = build_command(b, HA_CMD_INIT);

    cmd.node = 1;
    cmd.u.init.cluster_id = build_uuid(1);
    cmd.u.init.generation = 1;
    snprintf(cmd.u.init.name, sizeof(cmd.u.init.name), "test");
    snprintf(cmd.u.init.node_name, sizeof(cmd.u.init.node_name), "n1");
    snprintf(cmd.u.init.addr, sizeof(cmd.u.init.addr), "10.0.0.1");
    cmd.u.init.store_id = b->self[1].store_id;
    uint16_t reason = build_cmd(b, &cmd);
    ha_assert(reason == 0);
}

void build_nodes(struct build *b, uint32_t count)
{
    ha_assert(count >= 1 && count <= HA_NODES_MAX);
    build_init(b);
    for (uint32_t node = 2; node <= count; node++) {
        struct ha_cmd cmd = build_node_command(b, HA_CMD_NODE_ADD, node);
        snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "n%u", node);
        snprintf(cmd.u.node_add.addr, sizeof(cmd.u.node_add.addr), "10.0.0.%u", node);
        uint16_t reason = build_cmd(b, &cmd);
        ha_assert(reason == 0);
    }
}

uint16_t build_open(struct build *b, bool is_continuous, const uint32_t *nodes)
{
    uint8_t body[HA_NODES_MAX * 128];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct log_open open = {
        .view = {.counter = b->state.view.counter + 1, .leader = nodes[0]},
        .is_continuous = is_continuous,
    };

    while (nodes[open.member_count] != 0) {
        open.members[open.member_count] = b->self[nodes[open.member_count]];
        open.member_count++;
    }
    log_open_encode(&w, &open);
    ha_assert(!w.failed);
    int rc = build_apply(b, LOG_KIND_OPEN, body, w.position);
    ha_assert(rc == 0);
    return b->applied.refusal;
}

uint16_t build_voter(struct build *b, bool is_added, uint32_t node)
{
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct log_voter_change change = {
        .is_added = is_added,
        .node = node,
        .store_id = b->self[node].store_id,
    };

    log_voter_change_encode(&w, &change);
    ha_assert(!w.failed);
    int rc = build_apply(b, LOG_KIND_VOTER, body, w.position);
    ha_assert(rc == 0);
    return b->applied.refusal;
}

void build_restart(struct build *b, uint32_t node)
{
    b->self[node].nonce++;
}

void build_reboot(struct build *b, uint32_t node)
{
    build_restart(b, node);
    b->self[node].boot_id.b[15]++;
}

void build_ready(struct build *b, uint32_t count)
{
    uint32_t nodes[HA_NODES_MAX + 1] = {0};

    build_nodes(b, count);
    for (uint32_t node = 1; node <= count; node++) {
        nodes[node - 1] = node;
        if (node > 1)
            build_voter(b, true, node);
    }
    build_open(b, true, nodes);
    for (uint32_t node = 1; node <= count; node++) {
        uint16_t reason = build_armed(b, node);
        if (reason == 0)
            reason = build_capacity(b, node, BUILD_MEM_KIB);
        ha_assert(reason == 0);
    }
}

uint16_t build_armed(struct build *b, uint32_t node)
{
    struct ha_cmd cmd = build_node_command(b, HA_CMD_ARMED, node);

    cmd.epoch = b->state.applied;
    cmd.u.armed.lease_ms = 6900;
    cmd.u.armed.watchdog_ms = 5000;
    return build_cmd(b, &cmd);
}

uint16_t build_capacity(struct build *b, uint32_t node, uint64_t mem_kib)
{
    struct ha_cmd cmd = build_node_command(b, HA_CMD_CAPACITY, node);

    cmd.u.capacity.mem_kib = mem_kib;
    return build_cmd(b, &cmd);
}

uint16_t build_fenced(struct build *b, uint32_t node, uint8_t evidence)
{
    struct ha_cmd cmd = build_node_command(b, HA_CMD_FENCED, node);

    cmd.u.fenced.evidence = evidence;
    snprintf(cmd.u.fenced.detail, sizeof(cmd.u.fenced.detail), "fence_ns n%u: status off", node);
    return build_cmd(b, &cmd);
}

uint16_t build_node_cmd(struct build *b, uint8_t type, uint32_t node)
{
    struct ha_cmd cmd = build_node_command(b, type, node);

    return build_cmd(b, &cmd);
}

uint16_t build_maintenance(struct build *b, uint32_t node, bool is_on)
{
    struct ha_cmd cmd = build_node_command(b, HA_CMD_MAINTENANCE, node);

    cmd.u.maintenance.is_on = is_on;
    return build_cmd(b, &cmd);
}

uint16_t build_guest_mem(struct build *b, uint32_t guest, uint8_t want, uint64_t mem_kib)
{
    static const char definition[] = "memory=1024";
    static const struct ha_digest none;
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_GUEST_ADD, guest);

    snprintf(cmd.u.guest_add.name, sizeof(cmd.u.guest_add.name), "g%u", guest);
    cmd.u.guest_add.mem_kib = mem_kib;
    cmd.u.guest_add.want = want;
    cmd.u.guest_add.policy = ha_policy_default();
    cmd.u.guest_add.definition_bytes = (const uint8_t *)definition;
    cmd.u.guest_add.definition_size = sizeof(definition) - 1;
    cmd.u.guest_add.definition = ha_digest_bytes(none, definition, sizeof(definition) - 1);
    return build_cmd(b, &cmd);
}

uint16_t build_guest(struct build *b, uint32_t guest, uint8_t want)
{
    return build_guest_mem(b, guest, want, BUILD_GUEST_KIB);
}

uint16_t build_want(struct build *b, uint32_t guest, uint8_t want)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_WANT, guest);

    cmd.u.want.want = want;
    return build_cmd(b, &cmd);
}

uint16_t build_policy(struct build *b, uint32_t guest, const struct ha_policy *policy)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_GUEST_SET, guest);

    cmd.u.guest_set.policy = *policy;
    return build_cmd(b, &cmd);
}

uint16_t build_assign(struct build *b, uint32_t guest, uint32_t node)
{
    struct ha_cmd cmd = build_node_command(b, HA_CMD_ASSIGN, node);

    cmd.guest = build_uuid(guest);
    cmd.epoch = build_guest_of(b, guest)->epoch_high + 1;
    return build_cmd(b, &cmd);
}

uint16_t build_started(struct build *b, uint32_t guest)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_STARTED, guest);

    return build_cmd(b, &cmd);
}

uint16_t build_stop(struct build *b, uint32_t guest, uint8_t mode, bool is_relocation)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_STOP, guest);

    cmd.u.stop.mode = mode;
    cmd.u.stop.is_relocation = is_relocation;
    return build_cmd(b, &cmd);
}

uint16_t build_not_running(struct build *b, uint32_t guest, uint8_t cause)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_NOT_RUNNING, guest);

    cmd.u.not_running.cause = cause;
    return build_cmd(b, &cmd);
}

uint16_t build_migrate(struct build *b, uint32_t guest, uint32_t dst)
{
    struct ha_cmd cmd = build_guest_command(b, HA_CMD_MIGRATE, guest);
    const struct ha_node *node = ha_state_node(&b->state, dst);

    cmd.epoch = build_guest_of(b, guest)->epoch_high + 1;
    cmd.ticket = 0;
    cmd.u.migrate.dst = dst;
    cmd.u.migrate.dst_incarnation = node ? node->incarnation : 0;
    cmd.u.migrate.max_downtime_ms = 300;
    return build_cmd(b, &cmd);
}

uint16_t build_move(struct build *b, uint8_t type, uint32_t guest)
{
    struct ha_cmd cmd = build_guest_command(b, type, guest);
    const struct ha_guest *known = build_guest_of(b, guest);

    if (known->ticket.id != 0) {
        cmd.node = known->ticket.dst;
        cmd.incarnation = known->ticket.dst_incarnation;
    }
    return build_cmd(b, &cmd);
}

static uint16_t enter_phase(struct build *b, uint32_t guest, uint8_t phase, uint32_t src,
                            uint32_t dst)
{
    if (phase == HA_PHASE_FREE)
        return 0;
    uint16_t reason = build_assign(b, guest, src);
    if (reason == 0 && phase != HA_PHASE_ASSIGNED)
        reason = build_started(b, guest);
    if (reason == 0 && phase == HA_PHASE_STOPPING)
        reason = build_stop(b, guest, HA_STOP_GRACEFUL, false);
    if (reason == 0 && (phase == HA_PHASE_MIGRATING || phase == HA_PHASE_SWITCHED))
        reason = build_migrate(b, guest, dst);
    if (reason == 0 && phase == HA_PHASE_SWITCHED)
        reason = build_move(b, HA_CMD_SWITCH, guest);
    return reason;
}

void build_phase(struct build *b, uint32_t guest, uint8_t phase, uint32_t src, uint32_t dst)
{
    uint16_t reason = enter_phase(b, guest, phase, src, dst);

    if (reason != 0)
        fprintf(stderr, "build_phase: %s\n", ha_reason_name(reason));
    ha_assert(reason == 0);
    ha_assert(build_guest_of(b, guest)->phase == phase);
}

void build_picture(const struct build *b, struct build_picture *ret_picture)
{
    struct ha_state copy = b->state;

    copy.applied = UINT64_MAX;
    memset(&copy.digest, 0, sizeof(copy.digest));
    memset(ret_picture, 0, sizeof(*ret_picture));
    ret_picture->size = ha_state_encode(&copy, ret_picture->bytes, sizeof(ret_picture->bytes));
    ha_assert(ret_picture->size > 0);
}

const struct ha_guest *build_guest_of(const struct build *b, uint32_t guest)
{
    const struct ha_guest *known = ha_state_guest(&b->state, build_uuid(guest));

    ha_assert(known);
    return known;
}

const struct ha_node *build_node_of(const struct build *b, uint32_t node)
{
    const struct ha_node *known = ha_state_node(&b->state, node);

    ha_assert(known);
    return known;
}
