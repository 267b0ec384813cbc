/* SPDX-License-Identifier: Apache-2.0
 *
 * See server_rig.h.
 */
#include "tests/lib/server_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qb/qbipcs.h>
#include <qb/qbloop.h>
#include <qb/qbutil.h>

#include "hamgr/base/assert.h"

#define TIMERS_MAX 128u
#define HELD_MAX   128u

/* ---- libqb, as far as the server uses it -------------------------------------------------------
 */

static struct qb_ipcs_service_handlers handlers;
static int the_service;

struct rig_client {
    uid_t uid;
    gid_t gid;
    pid_t pid;
    void *context;
    char *answer;
    size_t size;
    bool has_more;
};

struct timer {
    uint64_t due_ns; /* 0: unused */
    void *data;
    void (*fn)(void *data);
};
static struct timer timers[TIMERS_MAX];
static uint64_t now_ns = 1;

qb_ipcs_service_t *qb_ipcs_create(const char *name, int32_t id, enum qb_ipc_type type,
                                  struct qb_ipcs_service_handlers *given)
{
    (void)name;
    (void)id;
    (void)type;
    handlers = *given;
    return (qb_ipcs_service_t *)&the_service;
}

void qb_ipcs_enforce_buffer_size(qb_ipcs_service_t *s, uint32_t max)
{
    (void)s;
    (void)max;
}

void qb_ipcs_poll_handlers_set(qb_ipcs_service_t *s, struct qb_ipcs_poll_handlers *given)
{
    (void)s;
    (void)given;
}

int32_t qb_ipcs_run(qb_ipcs_service_t *s)
{
    (void)s;
    return 0;
}

void qb_ipcs_destroy(qb_ipcs_service_t *s)
{
    (void)s;
}

ssize_t qb_ipcs_response_sendv(qb_ipcs_connection_t *c, const struct iovec *parts, size_t count)
{
    struct rig_client *client = (struct rig_client *)c;
    const struct qb_ipc_response_header *header = parts[0].iov_base;

    ha_assert(count == 2 && header->id == REQUEST_ID && parts[1].iov_len <= REQUEST_PART);
    ha_assert((size_t)header->size == sizeof(*header) + parts[1].iov_len);
    client->answer = realloc(client->answer, client->size + parts[1].iov_len + 1);
    ha_assert(client->answer);
    memcpy(client->answer + client->size, parts[1].iov_base, parts[1].iov_len);
    client->size += parts[1].iov_len;
    client->answer[client->size] = '\0';
    client->has_more = header->error != 0;
    return header->size;
}

void qb_ipcs_context_set(qb_ipcs_connection_t *c, void *context)
{
    ((struct rig_client *)c)->context = context;
}

void *qb_ipcs_context_get(qb_ipcs_connection_t *c)
{
    return ((struct rig_client *)c)->context;
}

void qb_ipcs_connection_auth_set(qb_ipcs_connection_t *c, uid_t uid, gid_t gid, mode_t mode)
{
    (void)c;
    (void)uid;
    (void)gid;
    ha_assert(mode == 0660);
}

int32_t qb_ipcs_connection_stats_get(qb_ipcs_connection_t *c,
                                     struct qb_ipcs_connection_stats *stats, int32_t clear)
{
    (void)clear;
    *stats = (struct qb_ipcs_connection_stats){.client_pid = ((struct rig_client *)c)->pid};
    return 0;
}

int32_t qb_loop_timer_add(qb_loop_t *loop, enum qb_loop_priority p, uint64_t delay_ns, void *data,
                          qb_loop_timer_dispatch_fn fn, qb_loop_timer_handle *ret_handle)
{
    (void)loop;
    (void)p;
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        if (timers[i].due_ns)
            continue;
        timers[i] = (struct timer){now_ns + delay_ns, data, fn};
        *ret_handle = i + 1;
        return 0;
    }
    ha_assert(false); /* more timers than requests may wait */
    return -ENOMEM;
}

int32_t qb_loop_timer_del(qb_loop_t *loop, qb_loop_timer_handle handle)
{
    (void)loop;
    ha_assert(handle >= 1 && handle <= TIMERS_MAX && timers[handle - 1].due_ns);
    timers[handle - 1].due_ns = 0;
    return 0;
}

void rig_pass(uint64_t ms)
{
    uint64_t end_ns = now_ns + ms * QB_TIME_NS_IN_MSEC;

    for (;;) {
        struct timer *next = NULL;
        for (unsigned i = 0; i < TIMERS_MAX; i++) {
            if (timers[i].due_ns && timers[i].due_ns <= end_ns &&
                (!next || timers[i].due_ns < next->due_ns))
                next = &timers[i];
        }
        if (!next)
            break;
        struct timer fired = *next;
        now_ns = fired.due_ns;
        next->due_ns = 0;
        fired.fn(fired.data);
    }
    now_ns = end_ns;
}

/* ---- clients -----------------------------------------------------------------------------------
 */

struct rig_client *rig_connect(uid_t uid, gid_t gid, pid_t pid)
{
    struct rig_client *client = calloc(1, sizeof(*client));

    ha_assert(client);
    *client = (struct rig_client){.uid = uid, .gid = gid, .pid = pid};
    ha_assert(handlers.connection_accept((qb_ipcs_connection_t *)client, uid, gid) == 0);
    return client;
}

void rig_disconnect(struct rig_client *client)
{
    handlers.connection_closed((qb_ipcs_connection_t *)client);
    handlers.connection_destroyed((qb_ipcs_connection_t *)client);
    free(client->answer);
    free(client);
}

void rig_send_raw(struct rig_client *client, const void *data, size_t size)
{
    void *copy = malloc(size ? size : 1); /* so that the sanitizer sees its end */

    ha_assert(copy);
    memcpy(copy, data, size);
    handlers.msg_process((qb_ipcs_connection_t *)client, copy, size);
    free(copy);
}

void rig_send(struct rig_client *client, const void *json, size_t size)
{
    struct qb_ipc_request_header header = {.id = REQUEST_ID};
    uint8_t *message = malloc(sizeof(header) + size);

    ha_assert(message);
    header.size = (int32_t)(sizeof(header) + size);
    memcpy(message, &header, sizeof(header));
    memcpy(message + sizeof(header), json, size);
    free(client->answer);
    client->answer = NULL;
    client->size = 0;
    client->has_more = false;
    rig_send_raw(client, message, sizeof(header) + size);
    free(message);
}

const char *rig_answer(struct rig_client *client)
{
    const struct qb_ipc_request_header next = {.id = REQUEST_ID_NEXT, .size = sizeof(next)};

    while (client->answer && client->has_more)
        rig_send_raw(client, &next, sizeof(next));
    return client->answer;
}

json_t *rig_ask(struct rig_client *client, const char *json)
{
    rig_send(client, json, strlen(json));
    const char *text = rig_answer(client);
    json_t *answer = text ? json_loads(text, 0, NULL) : NULL;
    ha_assert(answer);
    return answer;
}

const char *rig_error(const json_t *answer, const char *what)
{
    const json_t *error = json_array_get(json_object_get(answer, "errors"), 0);
    const char *text = json_string_value(json_object_get(error, what));

    return text ? text : "";
}

/* ---- what the shell offers ---------------------------------------------------------------------
 */

typedef void (*done_fn)(void *user, int outcome, uint16_t reason, uint64_t index);
struct held {
    done_fn done;
    void *user;
};
static struct held held[HELD_MAX];
static unsigned held_count;

static const struct ha_state *api_state(void *user)
{
    return &((struct server_rig *)user)->b->state;
}

static const struct ha_runtime *api_runtime(void *user)
{
    struct server_rig *r = user;

    r->rt.now_ms = now_ns / QB_TIME_NS_IN_MSEC;
    r->rt.view = r->b->state.view;
    return &r->rt;
}

static const struct ha_config *api_config(void *user)
{
    return &((struct server_rig *)user)->config;
}

static const struct ha_plan_limits *api_limits(void *user)
{
    return &((struct server_rig *)user)->limits;
}

static void end(struct server_rig *r, done_fn done, void *done_user)
{
    if (!r->is_held) {
        done(done_user, r->outcome, 0, 0);
        return;
    }
    ha_assert(held_count < HELD_MAX);
    held[held_count++] = (struct held){done, done_user};
}

static void api_propose(void *user, const struct ha_cmd *cmd, done_fn done, void *done_user)
{
    struct server_rig *r = user;

    r->proposed_count++;
    r->last = *cmd;
    if (cmd->type == HA_CMD_GUEST_ADD)
        r->last.u.guest_add.definition_bytes = NULL;
    if (r->outcome != 0 || r->is_held) {
        end(r, done, done_user);
        return;
    }
    uint16_t refusal = build_cmd(r->b, cmd); /* aborts if it can't be encoded and applied */
    done(done_user, refusal ? HA_E_REFUSED : 0, refusal, r->b->state.applied);
}

static void api_voter(void *user, bool is_added, uint32_t node, struct ha_uuid store_id,
                      done_fn done, void *done_user)
{
    struct server_rig *r = user;

    (void)store_id;
    r->proposed_count++;
    if (r->outcome != 0 || r->is_held) {
        end(r, done, done_user);
        return;
    }
    uint16_t refusal = build_voter(r->b, is_added, node);
    done(done_user, refusal ? HA_E_REFUSED : 0, refusal, r->b->state.applied);
}

void rig_release(struct server_rig *r)
{
    for (unsigned i = 0; i < held_count; i++)
        held[i].done(held[i].user, r->outcome, HA_REASON_WRONG_PHASE, 7);
    held_count = 0;
}

static int api_history(void *user, uint64_t after, uint32_t count,
                       void (*fn)(void *fn_user, uint64_t index, const char *json), void *fn_user)
{
    (void)user;
    for (uint32_t i = 0; i < count && i < 2000; i++)
        fn(fn_user, after + i + 1,
           "{\"index\":1,\"text\":\"a line of history, long enough to need parts of an answer\"}");
    return (int)count;
}

static const uint8_t *api_definition(void *user, struct ha_digest digest, size_t *ret_size)
{
    struct server_rig *r = user;

    (void)digest;
    if (r->definition) {
        *ret_size = strlen(r->definition);
        return (const uint8_t *)r->definition;
    }
    *ret_size = 3;
    return (const uint8_t *)"\xff\xfe\xfd"; /* no UTF-8: shown as null */
}

static void api_shutdown(void *user)
{
    (void)user;
}

/* Nobody answers. */
static void api_doctor(void *user, void (*done)(void *done_user, const struct ha_doctor_input *in),
                       void *done_user)
{
    static struct ha_doctor_input in;
    struct server_rig *r = user;

    in = (struct ha_doctor_input){
        .state = &r->b->state, .rt = &r->rt, .node_count = r->b->state.node_count};
    for (uint32_t i = 0; i < in.node_count; i++) {
        in.nodes[i].id = r->b->state.nodes[i].id;
        memcpy(in.nodes[i].name, r->b->state.nodes[i].name, sizeof(in.nodes[i].name));
        snprintf(in.nodes[i].silence, sizeof(in.nodes[i].silence), "it is away");
    }
    done(done_user, &in);
}

static void api_check(void *user, const struct server_check *question, server_checked_fn done,
                      void *done_user)
{
    struct server_rig *r = user;

    r->check_count++;
    r->checked_guest = question->guest;
    done(done_user, &r->checked);
}

static void api_forecast(void *user, struct ha_uuid guest, uint32_t node, uint32_t max_downtime_ms,
                         void (*done)(void *done_user, const struct server_forecast *forecast),
                         void *done_user)
{
    struct server_rig *r = user;

    (void)guest;
    (void)node;
    (void)max_downtime_ms;
    done(done_user, &r->forecast);
}

static struct server_api api = {.state = api_state,
                                .runtime = api_runtime,
                                .config = api_config,
                                .limits = api_limits,
                                .propose = api_propose,
                                .propose_voter = api_voter,
                                .forecast = api_forecast,
                                .doctor = api_doctor,
                                .check = api_check,
                                .history = api_history,
                                .definition = api_definition,
                                .shutdown_begin = api_shutdown};

void rig_open(struct server_rig *r, gid_t admin_gid)
{
    memset(r, 0, sizeof(*r));
    r->b = build_new(16);
    build_ready(r->b, 3);
    for (uint32_t guest = 1; guest <= 3; guest++)
        ha_assert(build_guest(r->b, guest, HA_WANT_STARTED) == 0);
    ha_assert(build_assign(r->b, 1, 1) == 0 && build_started(r->b, 1) == 0);
    ha_assert(build_assign(r->b, 2, 2) == 0);
    r->rt.self = 1;
    r->rt.is_open = r->rt.is_leader = true;
    r->rt.voter_count = 3;
    ha_config_default(&r->config);
    r->forecast.text = "nothing is known of it";
    r->forecast.link_text = "";
    r->limits = (struct ha_plan_limits){
        .start_parallel = 64, .move_parallel = 2, .proposals_max = HA_PROPOSALS_MAX};
    api.user = r;
    ha_assert(server_open(NULL, "test", admin_gid, &api, &r->server, NULL) == 0);
}

void rig_close(struct server_rig *r)
{
    server_close(r->server);
    build_free(r->b);
    held_count = 0;
    for (unsigned i = 0; i < TIMERS_MAX; i++)
        ha_assert(timers[i].due_ns == 0); /* each request took its own along */
}
