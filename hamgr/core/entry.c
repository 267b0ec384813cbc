/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands as bytes: a fixed head that every type shares, then the type's own fields. A body begins
 * with its form; a later form only appends fields, so a newer build reads older bodies.
 */
#include "hamgr/core/entry.h"

#include <string.h>

#include "hamgr/base/err.h"

#define BODY_FORM 1u
/* MIGRATE with on_slow; without one it has the form of before. */
#define FORM_SLOW   2u
#define ON_SLOW_MAX 3u /* HV_SLOW_ABORT */

/* A text array without a NUL would be read past its end. */
static void put_field(struct ha_writer *w, const char *text, size_t capacity)
{
    if (strnlen(text, capacity) == capacity) {
        w->failed = true;
        return;
    }
    ha_put_text(w, text);
}

static bool get_bool(struct ha_reader *r)
{
    uint8_t value = ha_get_u8(r);

    if (value > 1)
        r->failed = true;
    return value == 1;
}

static void put_policy(struct ha_writer *w, const struct ha_policy *policy)
{
    ha_put_u16(w, policy->priority);
    ha_put_u16(w, policy->start_order);
    ha_put_u16(w, policy->restart_max);
    ha_put_u32(w, policy->restart_window_s);
    ha_put_u32(w, policy->stop_timeout_ms);
    ha_put_u32(w, policy->max_downtime_ms);
    ha_put_u8(w, policy->is_protected);
}

static void get_policy(struct ha_reader *r, struct ha_policy *ret_policy)
{
    ret_policy->priority = ha_get_u16(r);
    ret_policy->start_order = ha_get_u16(r);
    ret_policy->restart_max = ha_get_u16(r);
    ret_policy->restart_window_s = ha_get_u32(r);
    ret_policy->stop_timeout_ms = ha_get_u32(r);
    ret_policy->max_downtime_ms = ha_get_u32(r);
    ret_policy->is_protected = get_bool(r);
}

static void put_head(struct ha_writer *w, const struct ha_cmd *cmd)
{
    bool is_slow = cmd->type == HA_CMD_MIGRATE && cmd->u.migrate.on_slow != 0;

    ha_put_u8(w, is_slow ? FORM_SLOW : BODY_FORM);
    ha_put_u8(w, cmd->type);
    ha_put_u16(w, cmd->reason);
    ha_put_u64(w, cmd->cause);
    put_field(w, cmd->actor, sizeof(cmd->actor));
    ha_put_u32(w, cmd->node);
    ha_put_u64(w, cmd->incarnation);
    ha_put_uuid(w, cmd->guest);
    ha_put_u64(w, cmd->epoch);
    ha_put_u64(w, cmd->ticket);
}

static void get_head(struct ha_reader *r, struct ha_cmd *cmd)
{
    cmd->reason = ha_get_u16(r);
    cmd->cause = ha_get_u64(r);
    ha_get_text(r, cmd->actor, sizeof(cmd->actor));
    cmd->node = ha_get_u32(r);
    cmd->incarnation = ha_get_u64(r);
    cmd->guest = ha_get_uuid(r);
    cmd->epoch = ha_get_u64(r);
    cmd->ticket = ha_get_u64(r);
}

static void put_init(struct ha_writer *w, const struct ha_cmd *cmd)
{
    ha_put_uuid(w, cmd->u.init.cluster_id);
    ha_put_u64(w, cmd->u.init.generation);
    put_field(w, cmd->u.init.name, sizeof(cmd->u.init.name));
    put_field(w, cmd->u.init.node_name, sizeof(cmd->u.init.node_name));
    put_field(w, cmd->u.init.addr, sizeof(cmd->u.init.addr));
    ha_put_uuid(w, cmd->u.init.store_id);
    ha_put_u8(w, cmd->u.init.is_witness);
}

static void get_init(struct ha_reader *r, struct ha_cmd *cmd)
{
    cmd->u.init.cluster_id = ha_get_uuid(r);
    cmd->u.init.generation = ha_get_u64(r);
    ha_get_text(r, cmd->u.init.name, sizeof(cmd->u.init.name));
    ha_get_text(r, cmd->u.init.node_name, sizeof(cmd->u.init.node_name));
    ha_get_text(r, cmd->u.init.addr, sizeof(cmd->u.init.addr));
    cmd->u.init.store_id = ha_get_uuid(r);
    cmd->u.init.is_witness = get_bool(r);
}

static void put_guest_add(struct ha_writer *w, const struct ha_cmd *cmd)
{
    if (cmd->u.guest_add.definition_size > HA_DEFINITION_MAX) {
        w->failed = true;
        return;
    }
    put_field(w, cmd->u.guest_add.name, sizeof(cmd->u.guest_add.name));
    ha_put_u64(w, cmd->u.guest_add.mem_kib);
    ha_put_u8(w, cmd->u.guest_add.want);
    put_policy(w, &cmd->u.guest_add.policy);
    ha_put_digest(w, cmd->u.guest_add.definition);
    ha_put_blob(w, cmd->u.guest_add.definition_bytes, cmd->u.guest_add.definition_size);
}

static void get_guest_add(struct ha_reader *r, struct ha_cmd *cmd)
{
    size_t size = 0;

    ha_get_text(r, cmd->u.guest_add.name, sizeof(cmd->u.guest_add.name));
    cmd->u.guest_add.mem_kib = ha_get_u64(r);
    cmd->u.guest_add.want = ha_get_u8(r);
    get_policy(r, &cmd->u.guest_add.policy);
    cmd->u.guest_add.definition = ha_get_digest(r);
    cmd->u.guest_add.definition_bytes = ha_get_blob(r, HA_DEFINITION_MAX, &size);
    cmd->u.guest_add.definition_size = (uint32_t)size;
}

static void put_migrate(struct ha_writer *w, const struct ha_cmd *cmd)
{
    ha_put_u32(w, cmd->u.migrate.dst);
    ha_put_u64(w, cmd->u.migrate.dst_incarnation);
    ha_put_u32(w, cmd->u.migrate.max_downtime_ms);
    ha_put_u32(w, cmd->u.migrate.deadline_ms);
    if (cmd->u.migrate.on_slow != 0)
        ha_put_u8(w, cmd->u.migrate.on_slow);
}

static void get_migrate(struct ha_reader *r, uint8_t form, struct ha_cmd *cmd)
{
    cmd->u.migrate.dst = ha_get_u32(r);
    cmd->u.migrate.dst_incarnation = ha_get_u64(r);
    cmd->u.migrate.max_downtime_ms = ha_get_u32(r);
    cmd->u.migrate.deadline_ms = ha_get_u32(r);
    if (form != FORM_SLOW)
        return;
    cmd->u.migrate.on_slow = ha_get_u8(r);
    if (cmd->u.migrate.on_slow < 1 || cmd->u.migrate.on_slow > ON_SLOW_MAX)
        r->failed = true;
}

static void put_node_add(struct ha_writer *w, const struct ha_cmd *cmd)
{
    put_field(w, cmd->u.node_add.name, sizeof(cmd->u.node_add.name));
    put_field(w, cmd->u.node_add.addr, sizeof(cmd->u.node_add.addr));
    ha_put_u8(w, cmd->u.node_add.is_witness);
}

static void get_node_add(struct ha_reader *r, struct ha_cmd *cmd)
{
    ha_get_text(r, cmd->u.node_add.name, sizeof(cmd->u.node_add.name));
    ha_get_text(r, cmd->u.node_add.addr, sizeof(cmd->u.node_add.addr));
    cmd->u.node_add.is_witness = get_bool(r);
}

static void put_moved(struct ha_writer *w, const struct ha_moved *m)
{
    ha_put_u8(w, m->outcome);
    ha_put_u32(w, m->src);
    ha_put_u32(w, m->dst);
    ha_put_u64(w, m->began_wall_ms);
    ha_put_u64(w, m->ended_wall_ms);
    ha_put_u64(w, m->raw_bytes);
    ha_put_u64(w, m->wire_bytes);
    ha_put_u32(w, m->rounds);
    ha_put_u32(w, m->throttle_percent);
    ha_put_u32(w, m->max_downtime_ms);
    ha_put_u32(w, m->predicted_us);
    ha_put_u32(w, m->source_us);
    ha_put_u32(w, m->destination_us);
    ha_put_u32(w, m->guest_us);
    ha_put_u32(w, m->forecast_ms);
    ha_put_u32(w, m->forecast_pause_ms);
    ha_put_u64(w, m->forecast_bytes);
    put_field(w, m->detail, sizeof(m->detail));
}

static void get_moved(struct ha_reader *r, struct ha_moved *m)
{
    m->outcome = ha_get_u8(r);
    m->src = ha_get_u32(r);
    m->dst = ha_get_u32(r);
    m->began_wall_ms = ha_get_u64(r);
    m->ended_wall_ms = ha_get_u64(r);
    m->raw_bytes = ha_get_u64(r);
    m->wire_bytes = ha_get_u64(r);
    m->rounds = ha_get_u32(r);
    m->throttle_percent = ha_get_u32(r);
    m->max_downtime_ms = ha_get_u32(r);
    m->predicted_us = ha_get_u32(r);
    m->source_us = ha_get_u32(r);
    m->destination_us = ha_get_u32(r);
    m->guest_us = ha_get_u32(r);
    m->forecast_ms = ha_get_u32(r);
    m->forecast_pause_ms = ha_get_u32(r);
    m->forecast_bytes = ha_get_u64(r);
    ha_get_text(r, m->detail, sizeof(m->detail));
    if (m->outcome < HA_MOVED_ARRIVED || m->outcome > HA_MOVED_REVERTED)
        r->failed = true;
}

/* The fields of one type; false for a type that does not exist. */
static bool put_rest(struct ha_writer *w, const struct ha_cmd *cmd)
{
    switch (cmd->type) {
    case HA_CMD_INIT:
        put_init(w, cmd);
        return true;
    case HA_CMD_NODE_ADD:
        put_node_add(w, cmd);
        return true;
    case HA_CMD_ARMED:
        ha_put_u32(w, cmd->u.armed.lease_ms);
        ha_put_u32(w, cmd->u.armed.watchdog_ms);
        return true;
    case HA_CMD_FENCED:
        ha_put_u8(w, cmd->u.fenced.evidence);
        put_field(w, cmd->u.fenced.detail, sizeof(cmd->u.fenced.detail));
        return true;
    case HA_CMD_MAINTENANCE:
        ha_put_u8(w, cmd->u.maintenance.is_on);
        return true;
    case HA_CMD_CAPACITY:
        ha_put_u64(w, cmd->u.capacity.mem_kib);
        return true;
    case HA_CMD_GUEST_ADD:
        put_guest_add(w, cmd);
        return true;
    case HA_CMD_GUEST_SET:
        put_policy(w, &cmd->u.guest_set.policy);
        return true;
    case HA_CMD_WANT:
        ha_put_u8(w, cmd->u.want.want);
        return true;
    case HA_CMD_STOP:
        ha_put_u8(w, cmd->u.stop.mode);
        ha_put_u8(w, cmd->u.stop.is_relocation);
        return true;
    case HA_CMD_NOT_RUNNING:
        ha_put_u8(w, cmd->u.not_running.cause);
        put_field(w, cmd->u.not_running.detail, sizeof(cmd->u.not_running.detail));
        return true;
    case HA_CMD_MIGRATE:
        put_migrate(w, cmd);
        return true;
    case HA_CMD_ABORT:
    case HA_CMD_REVERT:
        put_field(w, cmd->u.text.detail, sizeof(cmd->u.text.detail));
        return true;
    case HA_CMD_MOVED:
        put_moved(w, &cmd->u.moved);
        return true;
    default:
        return ha_cmd_name(cmd->type)[0] != '?';
    }
}

static void get_rest(struct ha_reader *r, uint8_t form, struct ha_cmd *cmd)
{
    switch (cmd->type) {
    case HA_CMD_INIT:
        get_init(r, cmd);
        break;
    case HA_CMD_NODE_ADD:
        get_node_add(r, cmd);
        break;
    case HA_CMD_ARMED:
        cmd->u.armed.lease_ms = ha_get_u32(r);
        cmd->u.armed.watchdog_ms = ha_get_u32(r);
        break;
    case HA_CMD_FENCED:
        cmd->u.fenced.evidence = ha_get_u8(r);
        ha_get_text(r, cmd->u.fenced.detail, sizeof(cmd->u.fenced.detail));
        break;
    case HA_CMD_MAINTENANCE:
        cmd->u.maintenance.is_on = get_bool(r);
        break;
    case HA_CMD_CAPACITY:
        cmd->u.capacity.mem_kib = ha_get_u64(r);
        break;
    case HA_CMD_GUEST_ADD:
        get_guest_add(r, cmd);
        break;
    case HA_CMD_GUEST_SET:
        get_policy(r, &cmd->u.guest_set.policy);
        break;
    case HA_CMD_WANT:
        cmd->u.want.want = ha_get_u8(r);
        break;
    case HA_CMD_STOP:
        cmd->u.stop.mode = ha_get_u8(r);
        cmd->u.stop.is_relocation = get_bool(r);
        break;
    case HA_CMD_NOT_RUNNING:
        cmd->u.not_running.cause = ha_get_u8(r);
        ha_get_text(r, cmd->u.not_running.detail, sizeof(cmd->u.not_running.detail));
        break;
    case HA_CMD_MIGRATE:
        get_migrate(r, form, cmd);
        break;
    case HA_CMD_ABORT:
    case HA_CMD_REVERT:
        ha_get_text(r, cmd->u.text.detail, sizeof(cmd->u.text.detail));
        break;
    case HA_CMD_MOVED:
        get_moved(r, &cmd->u.moved);
        break;
    default:
        break;
    }
}

void ha_cmd_encode(struct ha_writer *w, const struct ha_cmd *cmd)
{
    put_head(w, cmd);
    if (!put_rest(w, cmd))
        w->failed = true;
}

int ha_cmd_decode(const uint8_t *body, size_t size, struct ha_cmd *ret_cmd)
{
    struct ha_reader r = ha_reader_of(body, size);
    struct ha_cmd cmd;

    memset(&cmd, 0, sizeof(cmd));
    uint8_t form = ha_get_u8(&r);
    cmd.type = ha_get_u8(&r);
    if (r.failed)
        return -HA_E_CORRUPT;
    bool is_slow = form == FORM_SLOW && cmd.type == HA_CMD_MIGRATE;
    if ((form != BODY_FORM && !is_slow) || ha_cmd_name(cmd.type)[0] == '?')
        return -HA_E_VERSION;
    get_head(&r, &cmd);
    get_rest(&r, form, &cmd);
    if (!ha_reader_is_done(&r))
        return -HA_E_CORRUPT;
    *ret_cmd = cmd;
    return 0;
}

const char *ha_cmd_name(uint8_t type)
{
    static const char *const names[] = {
        [HA_CMD_INIT] = "INIT",
        [HA_CMD_NODE_ADD] = "NODE_ADD",
        [HA_CMD_NODE_REMOVE] = "NODE_REMOVE",
        [HA_CMD_ARMED] = "ARMED",
        [HA_CMD_UNARMED] = "UNARMED",
        [HA_CMD_FENCED] = "FENCED",
        [HA_CMD_LEAVE] = "LEAVE",
        [HA_CMD_FREEZE] = "FREEZE",
        [HA_CMD_UNFREEZE] = "UNFREEZE",
        [HA_CMD_DISARM] = "DISARM",
        [HA_CMD_ARM] = "ARM",
        [HA_CMD_MAINTENANCE] = "MAINTENANCE",
        [HA_CMD_CAPACITY] = "CAPACITY",
        [HA_CMD_FENCE_WANT] = "FENCE_WANT",
        [HA_CMD_GUEST_ADD] = "GUEST_ADD",
        [HA_CMD_GUEST_SET] = "GUEST_SET",
        [HA_CMD_GUEST_REMOVE] = "GUEST_REMOVE",
        [HA_CMD_WANT] = "WANT",
        [HA_CMD_ASSIGN] = "ASSIGN",
        [HA_CMD_STARTED] = "STARTED",
        [HA_CMD_STOP] = "STOP",
        [HA_CMD_NOT_RUNNING] = "NOT_RUNNING",
        [HA_CMD_MIGRATE] = "MIGRATE",
        [HA_CMD_SWITCH] = "SWITCH",
        [HA_CMD_ABORT] = "ABORT",
        [HA_CMD_ARRIVED] = "ARRIVED",
        [HA_CMD_REVERT] = "REVERT",
        [HA_CMD_CLEAR] = "CLEAR",
        [HA_CMD_MOVED] = "MOVED",
    };

    if (type >= sizeof(names) / sizeof(names[0]) || !names[type])
        return "?";
    return names[type];
}

const char *ha_moved_name(uint8_t outcome)
{
    static const char *const names[] = {"none", "moved", "aborted", "reverted"};

    return outcome < sizeof(names) / sizeof(names[0]) ? names[outcome] : "?";
}

const char *ha_evidence_name(uint8_t evidence)
{
    static const char *const names[] = {"none", "agent", "lease", "reboot", "operator"};

    return evidence < sizeof(names) / sizeof(names[0]) ? names[evidence] : "?";
}

const char *ha_end_cause_name(uint8_t cause)
{
    static const char *const names[] = {"none",    "stopped",      "poweroff", "reboot",
                                        "crashed", "start-failed", "lost"};

    return cause < sizeof(names) / sizeof(names[0]) ? names[cause] : "?";
}

struct ha_policy ha_policy_default(void)
{
    return (struct ha_policy){
        .priority = 100,
        .restart_max = 3,
        .restart_window_s = 3600,
        .stop_timeout_ms = 60000,
        .is_protected = true,
    };
}
