/* SPDX-License-Identifier: Apache-2.0
 *
 * Verbs that change something: each makes one command of hamgr/core/entry.h, refused early with the
 * planner's words or proposed.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/base/assert.h"
#include "hamgr/core/reason.h"
#include "hamgr/hv/xen/definition.h"
#include "hamgr/server/request.h"

static bool get_number(const struct request *r, const char *key, uint64_t max, uint64_t *ret_value)
{
    const json_t *value = json_object_get(request_args(r), key);

    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > max)
        return false;
    *ret_value = (uint64_t)json_integer_value(value);
    return true;
}

static bool get_flag(const struct request *r, const char *key)
{
    return json_is_true(json_object_get(request_args(r), key));
}

/* False, refused: the argument is there and neither true nor false. */
static bool check_flag(struct request *r, const char *key)
{
    const json_t *value = json_object_get(request_args(r), key);
    char message[HA_TEXT_MAX];

    if (!value || json_is_boolean(value))
        return true;
    snprintf(message, sizeof(message), "%s must be true or false", key);
    request_refuse(r, HA_E_USAGE, message, NULL);
    return false;
}

static bool has(const struct request *r, const char *key)
{
    return json_object_get(request_args(r), key) != NULL;
}

/* ---- guests ------------------------------------------------------------------------------------
 */

static bool merge_number(struct request *r, const char *key, uint64_t max, uint64_t *value)
{
    char message[HA_TEXT_MAX];

    if (!has(r, key) || get_number(r, key, max, value))
        return true;
    snprintf(message, sizeof(message), "%s must be a number from 0 to %llu", key,
             (unsigned long long)max);
    request_refuse(r, HA_E_USAGE, message, NULL);
    return false;
}

/* Arguments over *policy. False: refused already. */
static bool merge_policy(struct request *r, struct ha_policy *policy)
{
    uint64_t priority = policy->priority, order = policy->start_order;
    uint64_t restarts = policy->restart_max, window_s = policy->restart_window_s;
    uint64_t stop_ms = policy->stop_timeout_ms, downtime_ms = policy->max_downtime_ms;

    if (!merge_number(r, "priority", 1000, &priority) ||
        !merge_number(r, "start_order", 1000, &order) ||
        !merge_number(r, "restart_max", 1000, &restarts) ||
        !merge_number(r, "restart_window_s", 86400, &window_s) ||
        !merge_number(r, "stop_timeout_ms", 3600000, &stop_ms) ||
        !merge_number(r, "max_downtime_ms", 600000, &downtime_ms) || !check_flag(r, "protected"))
        return false;
    policy->priority = (uint16_t)priority;
    policy->start_order = (uint16_t)order;
    policy->restart_max = (uint16_t)restarts;
    policy->restart_window_s = (uint32_t)window_s;
    policy->stop_timeout_ms = (uint32_t)stop_ms;
    policy->max_downtime_ms = (uint32_t)downtime_ms;
    if (has(r, "protected"))
        policy->is_protected = get_flag(r, "protected");
    return true;
}

static bool fill_guest(struct request *r, struct ha_cmd *cmd)
{
    const char *name = request_text(r, "guest"), *uuid = request_text(r, "uuid");
    const char *definition = request_text(r, "definition");
    uint64_t mem_kib = 0;

    if (!name || !ha_name_is_valid(name)) {
        request_refuse(r, HA_E_USAGE, "a guest's name is 1 to 63 of letters, digits, . _ -", NULL);
        return false;
    }
    if (!uuid || ha_uuid_parse(uuid, &cmd->guest) < 0 || ha_uuid_is_zero(cmd->guest)) {
        request_refuse(r, HA_E_USAGE, "the uuid is not one", NULL);
        return false;
    }
    if (!definition || strlen(definition) > HA_DEFINITION_MAX || definition[0] == '\0') {
        request_refuse(r, HA_E_USAGE, "the definition is empty or longer than 64 KiB", NULL);
        return false;
    }
    if (!get_number(r, "memory_kib", UINT64_C(1) << 40, &mem_kib) || mem_kib == 0) {
        request_refuse(r, HA_E_USAGE, "the guest's memory is missing", NULL);
        return false;
    }
    snprintf(cmd->u.guest_add.name, sizeof(cmd->u.guest_add.name), "%s", name);
    cmd->u.guest_add.mem_kib = mem_kib;
    cmd->u.guest_add.definition_bytes = (const uint8_t *)definition;
    cmd->u.guest_add.definition_size = (uint32_t)strlen(definition);
    cmd->u.guest_add.definition =
        ha_digest_bytes((struct ha_digest){0}, definition, strlen(definition));
    return true;
}

/* False: refused already. */
static bool fill_add(struct request *r, struct ha_cmd *cmd)
{
    if (!fill_guest(r, cmd) || !check_flag(r, "stopped"))
        return false;
    cmd->u.guest_add.want = get_flag(r, "stopped") ? HA_WANT_STOPPED : HA_WANT_STARTED;
    cmd->u.guest_add.policy = ha_policy_default();
    return merge_policy(r, &cmd->u.guest_add.policy);
}

static void on_add_checked(void *user, const struct server_checked *checked)
{
    struct request *r = request_find((uint64_t)(uintptr_t)user);
    struct ha_cmd cmd = {.type = HA_CMD_GUEST_ADD};

    if (!r)
        return;
    if (check_is_nowhere(checked))
        check_refuse(r, checked, "--stopped adds it without a start");
    else if (fill_add(r, &cmd))
        request_propose(r, &cmd, NULL);
}

static void run_guest_add(struct request *r)
{
    const struct server_api *api = request_api(r);
    struct ha_cmd cmd = {.type = HA_CMD_GUEST_ADD};
    char text[HA_TEXT_MAX], fix[HA_TEXT_MAX];

    if (!fill_add(r, &cmd))
        return;
    const struct server_check question = {.definition = cmd.u.guest_add.definition_bytes,
                                          .size = cmd.u.guest_add.definition_size};
    if (cmd.u.guest_add.want == HA_WANT_STOPPED ||
        !xen_definition_is_json(question.definition, question.size) || /* names no things */
        ha_refusal(request_state(r), api->runtime(api->user), &cmd, text, fix) != 0) {
        request_propose(r, &cmd, NULL); /* or refused with those words */
        return;
    }
    uint64_t number = request_wait(r);
    api->check(api->user, &question, on_add_checked, (void *)(uintptr_t)number);
}

static void run_guest_set(struct request *r)
{
    const struct ha_guest *guest = request_guest(r, "guest");
    struct ha_cmd cmd = {.type = HA_CMD_GUEST_SET};

    if (!guest)
        return;
    cmd.guest = guest->id;
    cmd.u.guest_set.policy = guest->policy;
    if (merge_policy(r, &cmd.u.guest_set.policy))
        request_propose(r, &cmd, NULL);
}

static void run_guest_remove(struct request *r)
{
    const struct ha_guest *guest = request_guest(r, "guest");
    struct ha_cmd cmd = {.type = HA_CMD_GUEST_REMOVE};

    if (!guest)
        return;
    cmd.guest = guest->id;
    request_propose(r, &cmd, NULL);
}

static void reply_changed(struct request *r, uint64_t index)
{
    request_reply(r, json_pack("{s:I, s:b}", "index", (json_int_t)index, "already", 0));
}

/* Asking for what is wanted already is no error. Without an open view that can't be known. */
static void want(struct request *r, const struct ha_guest *guest, uint8_t wanted)
{
    const struct server_api *api = request_api(r);
    struct ha_cmd cmd = {.type = HA_CMD_WANT};

    if (guest->want == wanted && api->runtime(api->user)->is_open) {
        request_reply(r, json_pack("{s:n, s:b}", "index", "already", 1));
        return;
    }
    cmd.guest = guest->id;
    cmd.u.want.want = wanted;
    request_propose(r, &cmd, reply_changed);
}

static void start(struct request *r, const struct ha_guest *guest)
{
    struct ha_cmd cmd = {.type = HA_CMD_CLEAR};

    if (guest->want == HA_WANT_STARTED && guest->is_failed) { /* wanted already: forgive it */
        cmd.guest = guest->id;
        request_propose(r, &cmd, reply_changed);
        return;
    }
    want(r, guest, HA_WANT_STARTED);
}

static void on_start_checked(void *user, const struct server_checked *checked)
{
    struct request *r = request_find((uint64_t)(uintptr_t)user);
    const struct ha_guest *guest = r ? request_guest(r, "guest") : NULL;

    if (!guest)
        return;
    if (check_is_nowhere(checked))
        check_refuse(r, checked, "hactl guest check shows it again");
    else
        start(r, guest);
}

static void run_guest_start(struct request *r)
{
    const struct server_api *api = request_api(r);
    const struct ha_guest *guest = request_guest(r, "guest");
    size_t size = 0;

    if (!guest)
        return;
    const uint8_t *definition = api->definition(api->user, guest->definition, &size);
    if (guest->phase != HA_PHASE_FREE || !definition || !xen_definition_is_json(definition, size) ||
        !api->runtime(api->user)->is_open) {
        start(r, guest);
        return;
    }
    const struct server_check question = {.guest = guest->id};
    uint64_t number = request_wait(r);
    api->check(api->user, &question, on_start_checked, (void *)(uintptr_t)number);
}

static void run_guest_stop(struct request *r)
{
    const struct ha_guest *guest = request_guest(r, "guest");

    if (guest)
        want(r, guest, HA_WANT_STOPPED);
}

/* ---- moves -------------------------------------------------------------------------------------
 */

/* The eligible node with the most free memory, other than the owner; NULL if there is none. */
static const struct ha_node *choose_node(const struct ha_state *state, const struct ha_runtime *rt,
                                         const struct ha_guest *guest, uint32_t pause_ms)
{
    const struct ha_node *best = NULL;
    uint64_t best_kib = 0;

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *node = &state->nodes[i];
        uint64_t used_kib = ha_state_mem_used_kib(state, node->id);
        if (node->id == guest->node || !ha_state_node_is_eligible(state, node, NULL) ||
            used_kib + guest->mem_kib > node->mem_kib ||
            ha_bar_against(rt, guest->id, guest->node, node->id, pause_ms))
            continue;
        if (!best || node->mem_kib - used_kib > best_kib) {
            best = node;
            best_kib = node->mem_kib - used_kib;
        }
    }
    return best;
}

struct ends {
    char guest[HA_NAME_MAX];
    char from[HA_NAME_MAX];
    char to[HA_NAME_MAX];
    uint32_t max_downtime_ms; /* of a forecast */
};

static void reply_migrating(struct request *r, uint64_t index)
{
    const struct ends *ends = request_kept(r);

    request_reply(r, json_pack("{s:I, s:s, s:s, s:s}", "op", (json_int_t)index, "guest",
                               ends->guest, "from", ends->from, "to", ends->to));
}

/* Names, as guest and nodes may be gone when the answer is made. */
static void keep_ends(struct request *r, const struct ha_guest *guest, const struct ha_node *to)
{
    const struct ha_node *from = ha_state_node(request_state(r), guest->node);
    struct ends *ends = request_keep(r, sizeof(*ends));

    memcpy(ends->guest, guest->name, sizeof(ends->guest));
    memcpy(ends->to, to->name, sizeof(ends->to));
    if (from)
        memcpy(ends->from, from->name, sizeof(ends->from));
}

/* False, refused: the argument is there and no known word. */
static bool get_on_slow(struct request *r, uint8_t *ret_value)
{
    static const char *const words[] = {
        [HV_SLOW_THROTTLE] = "throttle", [HV_SLOW_PAUSE] = "pause", [HV_SLOW_ABORT] = "abort"};
    const char *text = request_text(r, "on_slow");

    *ret_value = 0;
    if (!has(r, "on_slow"))
        return true;
    for (uint8_t i = HV_SLOW_THROTTLE; text && i <= HV_SLOW_ABORT; i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret_value = i;
            return true;
        }
    }
    request_refuse(r, HA_E_USAGE, "on_slow must be throttle, pause or abort", NULL);
    return false;
}

/* The destination named, or the best one; NULL: refused. */
static const struct ha_node *destination(struct request *r, const struct ha_guest *guest,
                                         uint32_t pause_ms)
{
    const struct server_api *api = request_api(r);

    if (has(r, "to"))
        return request_node(r, "to");
    const struct ha_node *to =
        choose_node(request_state(r), api->runtime(api->user), guest, pause_ms);
    if (!to) {
        bool is_open = api->runtime(api->user)->is_open;
        uint16_t reason = is_open ? HA_REASON_NO_NODE : HA_REASON_NO_QUORUM;
        request_refuse(r, is_open ? HA_E_REFUSED : HA_E_NO_QUORUM, ha_reason_text(reason),
                       ha_reason_fix(reason));
    }
    return to;
}

/* The command a migration would be. False: refused. */
static bool make_migrate(struct request *r, struct ha_cmd *cmd, const struct ha_guest **ret_guest,
                         const struct ha_node **ret_to)
{
    const struct ha_guest *guest = request_guest(r, "guest");
    uint64_t downtime_ms = 0, deadline_ms = 0;

    if (!guest)
        return false;
    if (!merge_number(r, "max_downtime_ms", 600000, &downtime_ms))
        return false;
    const struct ha_node *to = destination(r, guest, (uint32_t)downtime_ms);
    if (!to || !merge_number(r, "deadline_ms", 86400000, &deadline_ms) ||
        !get_on_slow(r, &cmd->u.migrate.on_slow))
        return false;
    cmd->guest = guest->id;
    cmd->node = guest->node;
    cmd->incarnation = guest->incarnation;
    cmd->epoch = guest->epoch_high + 1;
    cmd->u.migrate.dst = to->id;
    cmd->u.migrate.dst_incarnation = to->incarnation;
    cmd->u.migrate.max_downtime_ms = (uint32_t)downtime_ms;
    cmd->u.migrate.deadline_ms = (uint32_t)deadline_ms;
    *ret_guest = guest;
    *ret_to = to;
    return true;
}

static void run_migrate(struct request *r)
{
    struct ha_cmd cmd = {.type = HA_CMD_MIGRATE};
    const struct ha_guest *guest;
    const struct ha_node *to;

    if (!make_migrate(r, &cmd, &guest, &to))
        return;
    keep_ends(r, guest, to);
    request_propose(r, &cmd, reply_migrating);
}

static json_t *range_json(uint64_t value, uint64_t low, uint64_t high)
{
    return json_pack("{s:I, s:I, s:I}", "expected", (json_int_t)value, "low", (json_int_t)low,
                     "high", (json_int_t)high);
}

static const char *rate_from_name(uint8_t from)
{
    if (from == PRECOPY_FROM_PROBE)
        return "probe";
    if (from == PRECOPY_FROM_LINK)
        return "link";
    return from == PRECOPY_FROM_OTHERS ? "others" : "guess";
}

/* What the way there was found to take, or why it was not measured. */
static json_t *link_json(const struct server_forecast *forecast)
{
    if (forecast->link_bytes_s == 0)
        return json_pack("{s:b, s:o}", "measured", 0, "reason",
                         request_string(forecast->link_text[0] ? forecast->link_text : "?"));
    return json_pack("{s:b, s:I, s:I}", "measured", 1, "kbit_s",
                     (json_int_t)(forecast->link_bytes_s / 125), "rtt_us",
                     (json_int_t)forecast->link_rtt_us);
}

static void on_forecast(void *user, const struct server_forecast *forecast)
{
    const struct precopy_forecast *f = &forecast->f;
    struct request *r = request_find((uint64_t)(uintptr_t)user);

    if (!r)
        return;
    if (!forecast->is_ok) {
        request_refuse(r, HA_E_REFUSED, forecast->text, "look with hactl status, then repeat");
        return;
    }
    const struct ends *ends = request_kept(r);
    json_t *json =
        json_pack("{s:s, s:s, s:s}", "guest", ends->guest, "from", ends->from, "to", ends->to);
    json_object_set_new(json, "converging", json_boolean(f->is_converging));
    json_object_set_new(json, "max_downtime_ms", json_integer((json_int_t)ends->max_downtime_ms));
    json_object_set_new(json, "dirty_kib_s",
                        json_integer((json_int_t)(forecast->dirty_bytes_s >> 10)));
    json_object_set_new(json, "rate_kib_s",
                        json_integer((json_int_t)(forecast->rate_bytes_s >> 10)));
    json_object_set_new(json, "rate_from", json_string(rate_from_name(forecast->rate_from)));
    json_object_set_new(json, "link", link_json(forecast));
    json_object_set_new(json, "rounds", json_integer(f->rounds));
    json_object_set_new(json, "time_ms", range_json(f->time_ms, f->time_low_ms, f->time_high_ms));
    json_object_set_new(json, "pause_ms",
                        range_json(f->pause_ms, f->pause_low_ms, f->pause_high_ms));
    json_object_set_new(json, "bytes", range_json(f->bytes, f->bytes_low, f->bytes_high));
    request_reply(r, json);
}

/* Refused with the words a migration would be refused with; else nothing moves all the same. */
static void run_forecast(struct request *r)
{
    const struct server_api *api = request_api(r);
    struct ha_cmd cmd = {.type = HA_CMD_MIGRATE};
    const struct ha_guest *guest;
    const struct ha_node *to;
    char text[HA_TEXT_MAX], fix[HA_TEXT_MAX];

    if (!make_migrate(r, &cmd, &guest, &to))
        return;
    snprintf(cmd.actor, sizeof(cmd.actor), "%s", request_actor(r));
    uint16_t reason = ha_refusal(request_state(r), api->runtime(api->user), &cmd, text, fix);
    if (reason != 0) {
        request_refuse(r, reason == HA_REASON_NO_QUORUM ? HA_E_NO_QUORUM : HA_E_REFUSED, text, fix);
        return;
    }
    keep_ends(r, guest, to);
    struct ends *ends = request_kept(r);
    ends->max_downtime_ms = cmd.u.migrate.max_downtime_ms ? cmd.u.migrate.max_downtime_ms
                            : guest->policy.max_downtime_ms
                                ? guest->policy.max_downtime_ms
                                : api->limits(api->user)->max_downtime_ms;
    uint64_t number = request_wait(r);
    api->forecast(api->user, guest->id, to->id, ends->max_downtime_ms, on_forecast,
                  (void *)(uintptr_t)number);
}

static void run_cancel(struct request *r)
{
    const struct ha_state *state = request_state(r);
    struct ha_cmd cmd = {.type = HA_CMD_ABORT};
    uint64_t ticket = 0;

    get_number(r, "op", INT64_MAX, &ticket);
    for (uint32_t i = 0; i < state->guest_count && ticket; i++) {
        const struct ha_guest *guest = &state->guests[i];
        if (guest->ticket.id != ticket)
            continue;
        cmd.guest = guest->id;
        cmd.ticket = ticket;
        snprintf(cmd.u.text.detail, sizeof(cmd.u.text.detail), "cancelled by %s", request_actor(r));
        request_propose(r, &cmd, NULL);
        return;
    }
    request_refuse(r, HA_E_NOT_FOUND, "there is no such operation in flight",
                   "hactl status lists them with their numbers");
}

/* What stands against a start on every other node that could take guests; NULL: one can have it, or
 * none could take any. */
static const struct ha_bar *barred_everywhere(struct request *r, const struct ha_guest *guest)
{
    const struct server_api *api = request_api(r);
    const struct ha_state *state = request_state(r);
    const struct ha_runtime *rt = api->runtime(api->user);
    const struct ha_bar *first = NULL;

    for (uint32_t i = 0; i < state->node_count; i++) {
        const struct ha_node *node = &state->nodes[i];
        if (node->id == guest->node || !ha_state_node_is_eligible(state, node, NULL))
            continue;
        const struct ha_bar *bar = ha_bar_against(rt, guest->id, 0, node->id, 0);
        if (!bar)
            return NULL;
        first = first ? first : bar;
    }
    return first;
}

static void refuse_barred(struct request *r, const struct ha_bar *bar)
{
    const struct ha_node *node = ha_state_node(request_state(r), bar->node);
    char message[HA_TEXT_MAX];

    snprintf(message, sizeof(message), "no other node can run it: %.60s: %.150s",
             node ? node->name : "", bar->text);
    request_refuse(r, HA_E_REFUSED, message, bar->fix);
}

/* Force: the owner destroys its copy with proof, then the planner starts it elsewhere. */
static void run_failover(struct request *r)
{
    const struct ha_guest *guest = request_guest(r, "guest");
    struct ha_cmd cmd = {.type = HA_CMD_STOP};

    if (!guest)
        return;
    const struct ha_node *owner = ha_state_node(request_state(r), guest->node);
    if (owner && owner->status == HA_NODE_UNCLEAN) {
        /* Nothing may start it before its owner is proven dead: fencing is under way already. */
        request_reply(r, json_pack("{s:s, s:s}", "waiting_for", owner->name, "text",
                                   "its owner is gone and not yet proven dead: fencing goes on"));
        return;
    }
    const struct ha_bar *bar = barred_everywhere(r, guest);
    if (bar) { /* it would be stopped for nothing */
        refuse_barred(r, bar);
        return;
    }
    cmd.guest = guest->id;
    cmd.node = guest->node;
    cmd.incarnation = guest->incarnation;
    cmd.epoch = guest->epoch;
    cmd.u.stop.mode = HA_STOP_DESTROY;
    cmd.u.stop.is_relocation = true;
    request_propose(r, &cmd, NULL);
}

/* ---- nodes -------------------------------------------------------------------------------------
 */

static void about_node(struct request *r, uint8_t type)
{
    const struct ha_node *node = request_node(r, "node");
    struct ha_cmd cmd = {.type = type};

    if (!node)
        return;
    cmd.node = node->id;
    cmd.incarnation = node->incarnation;
    if (type == HA_CMD_MAINTENANCE)
        cmd.u.maintenance.is_on = get_flag(r, "on");
    if (type == HA_CMD_FENCED) {
        cmd.u.fenced.evidence = HA_EVIDENCE_OPERATOR;
        snprintf(cmd.u.fenced.detail, sizeof(cmd.u.fenced.detail), "confirmed by %s",
                 request_actor(r));
    }
    request_propose(r, &cmd, NULL);
}

static void run_fence(struct request *r)
{
    about_node(r, HA_CMD_FENCE_WANT);
}

static void run_confirm_fenced(struct request *r)
{
    const char *typed = request_text(r, "typed"), *name = request_text(r, "node");

    if (!typed || !name || strcmp(typed, name) != 0) {
        request_refuse(r, HA_E_USAGE, "the name typed is not the node's",
                       "type the node's name after you have seen that it is off");
        return;
    }
    about_node(r, HA_CMD_FENCED);
}

static void run_maintenance(struct request *r)
{
    if (!json_is_boolean(json_object_get(request_args(r), "on")))
        request_refuse(r, HA_E_USAGE, "on must be true or false", NULL);
    else
        about_node(r, HA_CMD_MAINTENANCE);
}

static void run_freeze(struct request *r)
{
    about_node(r, HA_CMD_FREEZE);
}

static void run_unfreeze(struct request *r)
{
    about_node(r, HA_CMD_UNFREEZE);
}

static void run_leave(struct request *r)
{
    about_node(r, HA_CMD_LEAVE);
}

static void run_arm(struct request *r)
{
    struct ha_cmd cmd = {.type = HA_CMD_ARM};

    request_propose(r, &cmd, NULL);
}

static void run_disarm(struct request *r)
{
    struct ha_cmd cmd = {.type = HA_CMD_DISARM};

    request_propose(r, &cmd, NULL);
}

static void run_shutdown(struct request *r)
{
    const struct server_api *api = request_api(r);

    api->shutdown_begin(api->user);
    request_reply(r, json_object());
}

/* ---- cluster -----------------------------------------------------------------------------------
 */

/* Numeric: a name would have to be looked up when the network is down. */
static bool is_address(const char *text)
{
    uint8_t scrap[16];

    return text && strlen(text) < HA_ADDR_MAX &&
           (inet_pton(AF_INET, text, scrap) == 1 || inet_pton(AF_INET6, text, scrap) == 1);
}

static void run_node_add(struct request *r)
{
    const char *name = request_text(r, "node"), *addr = request_text(r, "address");
    struct ha_cmd cmd = {.type = HA_CMD_NODE_ADD};
    uint64_t id = 0;

    if (!name || !ha_name_is_valid(name) || !is_address(addr) ||
        !get_number(r, "id", UINT32_MAX, &id) || id == 0) {
        request_refuse(r, HA_E_USAGE, "a node needs a name, a numeric address and an id above 0",
                       NULL);
        return;
    }
    if (!check_flag(r, "witness"))
        return;
    cmd.node = (uint32_t)id;
    snprintf(cmd.u.node_add.name, sizeof(cmd.u.node_add.name), "%s", name);
    snprintf(cmd.u.node_add.addr, sizeof(cmd.u.node_add.addr), "%s", addr);
    cmd.u.node_add.is_witness = get_flag(r, "witness");
    request_propose(r, &cmd, NULL);
}

static void remove_record(struct request *r, uint64_t index)
{
    (void)index;
    about_node(r, HA_CMD_NODE_REMOVE);
}

static void run_node_remove(struct request *r)
{
    const struct ha_node *node = request_node(r, "node");
    struct ha_cmd cmd = {.type = HA_CMD_NODE_REMOVE};

    if (!node)
        return;
    if (!node->is_voter) {
        about_node(r, HA_CMD_NODE_REMOVE);
        return;
    }
    /* Its vote first: only if nothing else stands against removing it. */
    cmd.node = node->id;
    uint16_t reason = ha_state_check(request_state(r), &cmd);
    if (reason != 0 && reason != HA_REASON_IS_VOTER)
        request_refuse(r, HA_E_REFUSED, ha_reason_text(reason), ha_reason_fix(reason));
    else
        request_propose_voter(r, false, node->id, node->store_id, remove_record);
}

#define POLICY_KEYS                                                                                \
    "priority", "start_order", "restart_max", "restart_window_s", "stop_timeout_ms",               \
        "max_downtime_ms", "protected"

static const char *const add_keys[] = {"guest",   "uuid",      "definition", "memory_kib",
                                       "stopped", POLICY_KEYS, NULL};
static const char *const set_keys[] = {"guest", POLICY_KEYS, NULL};
static const char *const guest_keys[] = {"guest", NULL};
static const char *const migrate_keys[] = {"guest",       "to",      "max_downtime_ms",
                                           "deadline_ms", "on_slow", NULL};
static const char *const cancel_keys[] = {"op", NULL};
static const char *const node_keys[] = {"node", NULL};
static const char *const confirm_keys[] = {"node", "typed", NULL};
static const char *const maintenance_keys[] = {"node", "on", NULL};
static const char *const node_add_keys[] = {"node", "address", "id", "witness", NULL};

const struct verb change_verbs[] = {
    {"guest-add", true, run_guest_add, add_keys},
    {"guest-set", true, run_guest_set, set_keys},
    {"guest-remove", true, run_guest_remove, guest_keys},
    {"guest-start", true, run_guest_start, guest_keys},
    {"guest-stop", true, run_guest_stop, guest_keys},
    {"migrate", true, run_migrate, migrate_keys},
    {"forecast", true, run_forecast, migrate_keys},
    {"cancel", true, run_cancel, cancel_keys},
    {"failover", true, run_failover, guest_keys},
    {"fence", true, run_fence, node_keys},
    {"confirm-fenced", true, run_confirm_fenced, confirm_keys},
    {"maintenance", true, run_maintenance, maintenance_keys},
    {"freeze", true, run_freeze, node_keys},
    {"unfreeze", true, run_unfreeze, node_keys},
    {"leave", true, run_leave, node_keys},
    {"arm", true, run_arm, NULL},
    {"disarm", true, run_disarm, NULL},
    {"node-shutdown", true, run_shutdown, NULL},
    {"cluster-add-node", true, run_node_add, node_add_keys},
    {"cluster-remove-node", true, run_node_remove, node_keys},
    {NULL, false, NULL, NULL},
};
