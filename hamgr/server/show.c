/* SPDX-License-Identifier: Apache-2.0
 *
 * Verbs that only look. They answer without a quorum too, and say so.
 */
#include <stdlib.h>
#include <string.h>

#include "hamgr/base/assert.h"
#include "hamgr/core/status.h"
#include "hamgr/server/request.h"

#define EVENTS_DEFAULT     50
#define EVENTS_MAX         1000
#define MIGRATIONS_DEFAULT 20

static const struct ha_runtime *runtime_of(const struct request *r)
{
    const struct server_api *api = request_api(r);

    return api->runtime(api->user);
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *uuid_text(struct ha_uuid id)
{
    char text[HA_UUID_TEXT];

    ha_uuid_format(id, text);
    return json_string(text);
}

static const char *node_name(const struct ha_state *state, uint32_t id)
{
    const struct ha_node *node = ha_state_node(state, id);

    return node ? node->name : "";
}

/* ---- nodes -------------------------------------------------------------------------------------
 */

static json_t *node_json(const struct ha_node_status_line *line, const struct ha_runtime *rt,
                         uint32_t slot)
{
    const struct ha_node *n = line->node;
    const struct ha_report *report = &rt->reports[slot];
    const struct ha_fence_progress *fence = &rt->fences[slot];
    json_t *json = json_object();

    json_object_set_new(json, "name", json_string(n->name));
    json_object_set_new(json, "id", number(n->id));
    json_object_set_new(json, "address", json_string(n->addr));
    json_object_set_new(json, "status", json_string(ha_node_status_name(n->status)));
    json_object_set_new(json, "health", json_string(ha_health_name(line->health)));
    json_object_set_new(json, "text", request_string(line->text));
    json_object_set_new(json, "incarnation", number(n->incarnation));
    json_object_set_new(json, "leader", json_boolean(line->is_leader));
    json_object_set_new(json, "voter", json_boolean(n->is_voter));
    json_object_set_new(json, "witness", json_boolean(n->is_witness));
    json_object_set_new(json, "armed", json_boolean(n->is_armed));
    json_object_set_new(json, "maintenance", json_boolean(n->is_maintenance));
    json_object_set_new(json, "frozen", json_boolean(n->is_frozen));
    json_object_set_new(json, "quarantined",
                        json_boolean(line->is_reporting && report->is_quarantined));
    json_object_set_new(json, "shutting_down",
                        json_boolean(line->is_reporting && report->is_shutting_down));
    json_object_set_new(json, "version", request_string(line->is_reporting ? report->version : ""));
    json_object_set_new(json, "guests", number(line->guest_count));
    json_object_set_new(json, "memory_kib", number(n->mem_kib));
    json_object_set_new(json, "memory_used_kib", number(line->mem_used_kib));
    json_object_set_new(json, "wait_ms", number(line->wait_ms));
    json_object_set_new(json, "wait_text", request_string(line->wait_text));
    json_object_set_new(json, "fence_devices", number(report->fence_devices));
    json_object_set_new(json, "evidence_ms", number(fence->node == n->id ? fence->evidence_ms : 0));
    json_object_set_new(json, "fence_attempts", number(fence->node == n->id ? fence->attempts : 0));
    json_object_set_new(json, "alarm", request_string(line->is_reporting ? report->alarm : ""));
    return json;
}

/* ---- guests ------------------------------------------------------------------------------------
 */

static json_t *guest_json(const struct ha_state *state, const struct ha_runtime *rt,
                          const struct ha_guest *guest)
{
    struct ha_guest_status_line line;
    json_t *json = json_object();

    ha_status_guest(state, rt, guest, &line);
    json_object_set_new(json, "name", json_string(guest->name));
    json_object_set_new(json, "uuid", uuid_text(guest->id));
    json_object_set_new(json, "phase", json_string(ha_phase_name(guest->phase)));
    json_object_set_new(json, "node", json_string(node_name(state, guest->node)));
    json_object_set_new(json, "want",
                        json_string(guest->want == HA_WANT_STARTED ? "started" : "stopped"));
    json_object_set_new(json, "health", json_string(ha_health_name(line.health)));
    json_object_set_new(json, "text", request_string(line.text));
    json_object_set_new(json, "epoch", number(guest->epoch));
    json_object_set_new(json, "memory_kib", number(guest->mem_kib));
    json_object_set_new(json, "priority", number(guest->policy.priority));
    json_object_set_new(json, "failed", json_boolean(guest->is_failed));
    json_object_set_new(json, "ticket", number(guest->ticket.id));
    return json;
}

static json_t *policy_json(const struct ha_policy *p)
{
    return json_pack("{s:i, s:i, s:i, s:I, s:I, s:I, s:b}", "priority", p->priority, "start_order",
                     p->start_order, "restart_max", p->restart_max, "restart_window_s",
                     (json_int_t)p->restart_window_s, "stop_timeout_ms",
                     (json_int_t)p->stop_timeout_ms, "max_downtime_ms",
                     (json_int_t)p->max_downtime_ms, "protected", p->is_protected);
}

static const char *const move_steps[] = {"",         "preparing", "copying", "stopped",
                                         "deciding", "finishing", "failed"};

static json_t *move_json(const struct ha_state *state, const struct ha_runtime *rt,
                         const struct ha_guest *guest)
{
    static const struct ha_move_progress unknown = {.step = HA_MOVE_PREPARING};
    const struct ha_move_progress *move = &unknown;

    for (uint32_t i = 0; i < rt->move_count; i++) {
        if (rt->moves[i].ticket == guest->ticket.id)
            move = &rt->moves[i];
    }
    json_t *json = json_object();
    json_object_set_new(json, "id", number(guest->ticket.id));
    json_object_set_new(json, "guest", json_string(guest->name));
    json_object_set_new(json, "from", json_string(node_name(state, guest->ticket.src)));
    json_object_set_new(json, "to", json_string(node_name(state, guest->ticket.dst)));
    json_object_set_new(json, "step",
                        json_string(move->step <= HA_MOVE_FAILED ? move_steps[move->step] : ""));
    json_object_set_new(json, "round", number(move->hv.round));
    json_object_set_new(json, "bytes", number(move->hv.bytes));
    json_object_set_new(json, "wire_bytes", number(move->wire_bytes));
    json_object_set_new(json, "level",
                        move->packing.is_known ? json_integer(move->packing.level) : json_null());
    json_object_set_new(json, "codec_mbit", number(move->packing.codec_mbit));
    json_object_set_new(json, "link_mbit", number(move->packing.link_mbit));
    json_object_set_new(json, "rate_kib_s", number(move->rate_kib_s));
    json_object_set_new(json, "dirty_kib_s", number(move->hv.dirty_kib_s));
    json_object_set_new(json, "remaining_kib", number(move->remaining_kib));
    json_object_set_new(json, "eta_ms", number(move->eta_ms));
    json_object_set_new(json, "elapsed_ms", number(move->elapsed_ms));
    json_object_set_new(json, "converging", json_boolean(!move->is_diverging));
    json_object_set_new(json, "predicted_us", number(move->hv.predicted_us));
    json_object_set_new(json, "throttle_percent", number(move->hv.throttle_percent));
    json_object_set_new(json, "text", request_string(move->text));
    return json;
}

/* ---- verbs -------------------------------------------------------------------------------------
 */

static json_t *local_json(const struct ha_state *state, const struct ha_runtime *rt)
{
    json_t *json = json_object();

    json_object_set_new(json, "node", json_string(node_name(state, rt->self)));
    json_object_set_new(json, "open", json_boolean(rt->is_open));
    json_object_set_new(json, "leader", json_boolean(rt->is_leader));
    json_object_set_new(json, "applied", number(state->applied));
    json_object_set_new(json, "lease_ms", number(rt->lease_ms));
    json_object_set_new(json, "lease_left_ms",
                        number(rt->lease_end_ms > rt->now_ms ? rt->lease_end_ms - rt->now_ms : 0));
    json_object_set_new(json, "gate_open", json_boolean(rt->is_gate_open));
    json_object_set_new(json, "quarantined", json_boolean(rt->is_quarantined));
    json_object_set_new(json, "gate_text", request_string(rt->gate_text));
    json_object_set_new(json, "store_failed", json_boolean(rt->is_store_failed));
    json_object_set_new(json, "store_stall_ms", number(rt->store_stall_ms));
    json_object_set_new(json, "loop_gap_ms", number(rt->loop_gap_ms));
    json_object_set_new(json, "loop_gap_ms_max", number(rt->loop_gap_ms_max));
    json_object_set_new(json, "commit_us", number(rt->commit_us));
    json_object_set_new(json, "corosync", request_string(rt->corosync_text));
    json_object_set_new(json, "votequorum_quorate", json_boolean(rt->is_votequorum_quorate));
    return json;
}

static void run_status(struct request *r)
{
    static struct ha_status status; /* 40 KiB: the loop's thread only */
    const struct ha_state *state = request_state(r);
    const struct ha_runtime *rt = runtime_of(r);
    json_t *nodes = json_array(), *guests = json_array(), *moves = json_array();
    json_t *warnings = json_array();

    ha_status_compute(state, rt, &status);
    for (uint32_t i = 0; i < status.node_count; i++)
        json_array_append_new(nodes, node_json(&status.nodes[i], rt, i));
    for (uint32_t i = 0; i < state->guest_count; i++) {
        json_array_append_new(guests, guest_json(state, rt, &state->guests[i]));
        if (state->guests[i].ticket.id)
            json_array_append_new(moves, move_json(state, rt, &state->guests[i]));
    }
    for (uint32_t i = 0; i < status.warning_count; i++)
        json_array_append_new(warnings, request_string(status.warnings[i]));
    json_t *json = json_object();
    json_object_set_new(json, "cluster", json_string(state->name));
    json_object_set_new(json, "cluster_id", uuid_text(state->cluster_id));
    json_object_set_new(json, "disarmed", json_boolean(state->is_disarmed));
    json_object_set_new(json, "quorum", request_string(status.quorum_text));
    json_object_set_new(json, "open", json_boolean(status.is_open));
    json_object_set_new(json, "voters", number(status.voter_count));
    json_object_set_new(json, "voters_here", number(status.voters_here));
    json_object_set_new(json, "running", number(status.running_count));
    json_object_set_new(json, "wanted", number(status.wanted_count));
    json_object_set_new(json, "here", local_json(state, rt));
    json_object_set_new(json, "nodes", nodes);
    json_object_set_new(json, "guests", guests);
    json_object_set_new(json, "moves", moves);
    json_object_set_new(json, "warnings", warnings);
    request_reply(r, json);
}

/* Null when it is not stored here, or is no text. */
static json_t *definition_json(const uint8_t *definition, size_t size)
{
    json_t *json = definition ? json_stringn((const char *)definition, size) : NULL;

    return json ? json : json_null();
}

/* What the nodes' own checks say: can it be started there? */
static json_t *runs_on_json(const struct ha_state *state, const struct ha_runtime *rt,
                            const struct ha_guest *guest)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *node = &state->nodes[i];
        if (node->is_witness)
            continue;
        const struct ha_bar *bar = ha_bar_against(rt, guest->id, 0, node->id, 0);
        json_array_append_new(list,
                              json_pack("{s:s, s:b, s:o, s:o}", "node", node->name, "ok",
                                        bar == NULL, "text", request_string(bar ? bar->text : ""),
                                        "fix", request_string(bar ? bar->fix : "")));
    }
    return list;
}

static void run_guest_show(struct request *r)
{
    const struct server_api *api = request_api(r);
    const struct ha_state *state = request_state(r);
    const struct ha_guest *guest = request_guest(r, "guest");

    if (!guest)
        return;
    json_t *json = guest_json(state, runtime_of(r), guest);
    size_t size = 0;
    const uint8_t *definition = api->definition(api->user, guest->definition, &size);
    json_object_set_new(json, "policy", policy_json(&guest->policy));
    json_object_set_new(json, "failures", number(guest->failures));
    json_object_set_new(json, "last_end", json_string(ha_end_cause_name(guest->end_cause)));
    json_object_set_new(json, "since_wall_ms", number(guest->phase_wall_ms));
    json_object_set_new(json, "definition", definition_json(definition, size));
    json_object_set_new(json, "runs_on", runs_on_json(state, runtime_of(r), guest));
    request_reply(r, json);
}

static void run_explain(struct request *r)
{
    static struct ha_explanation explanation;
    const struct server_api *api = request_api(r);
    const struct ha_state *state = request_state(r);
    const struct ha_guest *guest = request_guest(r, "guest");

    if (!guest)
        return;
    ha_explain(state, runtime_of(r), api->limits(api->user), guest->id, &explanation);
    json_t *conditions = json_array();
    for (uint32_t i = 0; i < explanation.count; i++) {
        const struct ha_condition *c = &explanation.conditions[i];
        json_array_append_new(conditions,
                              json_pack("{s:b, s:s, s:o, s:o}", "ok", c->is_ok, "node",
                                        node_name(state, c->node), "text", request_string(c->text),
                                        "fix", request_string(c->fix)));
    }
    request_reply(r, json_pack("{s:s, s:o, s:o}", "guest", guest->name, "summary",
                               request_string(explanation.summary), "conditions", conditions));
}

static void add_event(void *user, uint64_t index, const char *line)
{
    json_t *json = json_loads(line, 0, NULL);

    (void)index;
    if (json)
        json_array_append_new(user, json);
}

static void run_events(struct request *r)
{
    const struct server_api *api = request_api(r);
    json_t *since = json_object_get(request_args(r), "since");
    json_t *limit = json_object_get(request_args(r), "count");
    json_int_t count = json_is_integer(limit) ? json_integer_value(limit) : EVENTS_DEFAULT;
    json_int_t after = json_is_integer(since) ? json_integer_value(since) : 0;
    json_t *events = json_array();

    bool is_malformed = (limit && !json_is_integer(limit)) || (since && !json_is_integer(since));
    if (is_malformed || count < 1 || count > EVENTS_MAX || after < 0) {
        json_decref(events);
        request_refuse(r, HA_E_USAGE, "count must be a number from 1 to 1000, since one from 0",
                       NULL);
        return;
    }
    api->history(api->user, (uint64_t)after, (uint32_t)count, add_event, events);
    request_reply(r, json_pack("{s:o, s:I}", "events", events, "applied",
                               (json_int_t)request_state(r)->applied));
}

/* ---- migrations --------------------------------------------------------------------------------
 */

static void add_migration(void *user, uint64_t index, const char *line)
{
    json_t *list = user;

    (void)index;
    /* Most lines are of something else: not worth parsing. */
    if (!strstr(line, "\"type\":\"MOVED\""))
        return;
    json_t *event = json_loads(line, 0, NULL);
    json_t *move = json_object_get(event, "move");
    if (json_is_object(move) && json_is_false(json_object_get(event, "is_noop"))) {
        json_object_set(move, "index", json_object_get(event, "index"));
        json_object_set(move, "guest", json_object_get(event, "guest"));
        json_array_append(list, move);
    }
    json_decref(event);
}

/* The newest of those the history in memory still has, oldest first. */
static void run_migrations(struct request *r)
{
    const struct server_api *api = request_api(r);
    const json_t *limit = json_object_get(request_args(r), "count");
    json_int_t count = json_is_integer(limit) ? json_integer_value(limit) : MIGRATIONS_DEFAULT;
    json_t *list = json_array();

    if (count < 1 || count > EVENTS_MAX) {
        json_decref(list);
        request_refuse(r, HA_E_USAGE, "count must be 1 to 1000", NULL);
        return;
    }
    api->history(api->user, 0, UINT32_MAX, add_migration, list);
    while (json_array_size(list) > (size_t)count)
        json_array_remove(list, 0);
    request_reply(r, json_pack("{s:o}", "migrations", list));
}

static const char *const count_keys[] = {"count", NULL};
static const char *const guest_keys[] = {"guest", NULL};
static const char *const events_keys[] = {"since", "count", NULL};

const struct verb show_verbs[] = {
    {"status", false, run_status, NULL},
    {"guest-show", false, run_guest_show, guest_keys},
    {"explain", false, run_explain, guest_keys},
    {"events", false, run_events, events_keys},
    {"migrations", false, run_migrations, count_keys},
    {NULL, false, NULL, NULL},
};
