/* SPDX-License-Identifier: Apache-2.0
 *
 * The server of hactl's requests: connections, who may do what, parts of long replies, and requests
 * that wait for a proposal. What the verbs do is in show.c and change.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qb/qbipcs.h>
#include <qb/qblog.h>
#include <qb/qbutil.h>

#include "hamgr/base/assert.h"
#include "hamgr/core/reason.h"
#include "hamgr/server/people.h"
#include "hamgr/server/request.h"

#define WAIT_MS 30000u /* a proposal's fate: two view changes with their hold, and some */
/* A view change takes two commits; with a member that hangs, h more, twice: 3 s is ample. */
#define VIEW_TRY_MS  50u
#define VIEW_TRIES   60u
#define REQUESTS_MAX 64u /* waiting at once; more is somebody's runaway script */

struct client {
    qb_ipcs_connection_t *connection;
    uid_t uid;
    bool is_admin;
    char *reply; /* parts still to be fetched */
    size_t reply_size, reply_sent;
};

struct request {
    struct request *next;
    struct server *server;
    qb_ipcs_connection_t *connection; /* NULL: the client has gone */
    uint64_t number;                  /* what a proposal's callback knows it by */
    const struct verb *verb;
    json_t *args;
    char actor[32];
    request_then then;
    void *kept;
    qb_loop_timer_handle timer;
    /* A proposal held back while the view changes: */
    struct ha_cmd cmd;
    uint8_t *definition; /* copy of what cmd borrows */
    uint32_t tries;
};

struct server {
    qb_loop_t *loop;
    qb_ipcs_service_t *service;
    const struct server_api *api;
    gid_t admin_gid;
    struct people people;
    struct request *requests;
    uint32_t request_count;
    uint64_t request_high;
};

/* libqb's handlers for accepting carry no user pointer: there is one server in a hamgrd. */
static struct server *the_server;

/* ---- libqb's loop ------------------------------------------------------------------------------
 */

static int32_t job_add(enum qb_loop_priority p, void *data, qb_loop_job_dispatch_fn fn)
{
    return qb_loop_job_add(the_server->loop, p, data, fn);
}

static int32_t dispatch_add(enum qb_loop_priority p, int32_t fd, int32_t events, void *data,
                            qb_ipcs_dispatch_fn_t fn)
{
    return qb_loop_poll_add(the_server->loop, p, fd, events, data, fn);
}

static int32_t dispatch_mod(enum qb_loop_priority p, int32_t fd, int32_t events, void *data,
                            qb_ipcs_dispatch_fn_t fn)
{
    return qb_loop_poll_mod(the_server->loop, p, fd, events, data, fn);
}

static int32_t dispatch_del(int32_t fd)
{
    return qb_loop_poll_del(the_server->loop, fd);
}

/* ---- replies -----------------------------------------------------------------------------------
 */

static void send_part(struct client *client)
{
    struct qb_ipc_response_header header = {.id = REQUEST_ID};
    size_t size = client->reply_size - client->reply_sent;

    if (size > REQUEST_PART)
        size = REQUEST_PART;
    header.size = (int32_t)(sizeof(header) + size);
    header.error = client->reply_sent + size < client->reply_size;
    struct iovec parts[2] = {{&header, sizeof(header)}, {client->reply + client->reply_sent, size}};
    if (qb_ipcs_response_sendv(client->connection, parts, 2) < 0)
        qb_log(LOG_INFO, "a reply to uid %u could not be sent", (unsigned)client->uid);
    client->reply_sent += size;
    if (client->reply_sent == client->reply_size) {
        free(client->reply);
        client->reply = NULL;
    }
}

static void remove_request(struct request *r)
{
    struct request **place = &r->server->requests;

    while (*place != r)
        place = &(*place)->next;
    *place = r->next;
    r->server->request_count--;
    if (r->timer)
        qb_loop_timer_del(r->server->loop, r->timer);
    json_decref(r->args);
    free(r->kept);
    free(r->definition);
    free(r);
}

static json_t *envelope(const struct request *r, json_t *data, json_t *errors)
{
    const struct ha_state *state = r->server->api->state(r->server->api->user);
    char schema[64];

    snprintf(schema, sizeof(schema), "hamgr.%s/1", r->verb ? r->verb->name : "error");
    return json_pack("{s:s, s:I, s:{s:I, s:I}, s:o, s:o}", "schema", schema, "generation",
                     (json_int_t)state->generation, "view", "counter",
                     (json_int_t)state->view.counter, "leader", (json_int_t)state->view.leader,
                     "data", data ? data : json_null(), "errors", errors);
}

static void finish(struct request *r, json_t *data, json_t *errors)
{
    struct client *client = r->connection ? qb_ipcs_context_get(r->connection) : NULL;
    json_t *all = envelope(r, data, errors);
    char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;

    json_decref(all);
    if (client && text) {
        free(client->reply);
        client->reply = text;
        client->reply_size = strlen(text);
        client->reply_sent = 0;
        send_part(client);
    } else {
        free(text);
    }
    remove_request(r);
}

void request_reply(struct request *r, json_t *data)
{
    finish(r, data, json_array());
}

json_t *request_string(const char *text)
{
    json_t *json = json_string(text);
    char copy[1024];
    size_t size = 0;

    if (json)
        return json;
    for (; text[size] && size + 1 < sizeof(copy); size++)
        copy[size] = (unsigned char)text[size] < 0x80 ? text[size] : '?';
    return json_stringn(copy, size);
}

/* Where no smaller change is known. */
static const char *general_fix(int code)
{
    if (code == HA_E_USAGE)
        return "man hactl names the arguments of each command and their limits";
    if (code == HA_E_REFUSED)
        return "look again: hactl status, hactl explain GUEST";
    return "look with hactl status, then repeat";
}

void request_refuse(struct request *r, int code, const char *message, const char *fix)
{
    if (!fix || fix[0] == '\0')
        fix = general_fix(code);
    finish(r, NULL,
           json_pack("[{s:s, s:o, s:o}]", "code", ha_err_name(code), "message",
                     request_string(message), "fix", request_string(fix)));
}

/* ---- arguments ---------------------------------------------------------------------------------
 */

const struct server_api *request_api(const struct request *r)
{
    return r->server->api;
}

const struct ha_state *request_state(const struct request *r)
{
    return r->server->api->state(r->server->api->user);
}

const char *request_actor(const struct request *r)
{
    return r->actor;
}

const json_t *request_args(const struct request *r)
{
    return r->args;
}

const char *request_text(const struct request *r, const char *key)
{
    return json_string_value(json_object_get(r->args, key));
}

void *request_keep(struct request *r, size_t size)
{
    free(r->kept);
    r->kept = calloc(1, size);
    ha_assert(r->kept);
    return r->kept;
}

void *request_kept(struct request *r)
{
    return r->kept;
}

/* Outside an open view this node may not have applied all that is committed: it does not say that
 * something does not exist. */
static void *refuse_unknown(struct request *r, const char *kind, const char *name, uint16_t reason)
{
    const struct server_api *api = r->server->api;
    bool is_sure = !name || api->runtime(api->user)->is_open;
    char message[HA_TEXT_MAX];

    snprintf(message, sizeof(message),
             is_sure ? "there is no %s %.100s"
                     : "no %s %.100s is known here, "
                       "and this node is in no open view: it may not know all yet",
             kind, name ? name : "(none given)");
    request_refuse(r, is_sure ? HA_E_NOT_FOUND : HA_E_NO_QUORUM, message,
                   ha_reason_fix(is_sure ? reason : HA_REASON_NO_QUORUM));
    return NULL;
}

const struct ha_guest *request_guest(struct request *r, const char *key)
{
    const char *name = request_text(r, key);
    const struct ha_guest *guest = name ? ha_state_guest_by_name(request_state(r), name) : NULL;
    struct ha_uuid id;

    if (!guest && name && ha_uuid_parse(name, &id) == 0)
        guest = ha_state_guest(request_state(r), id);
    if (guest)
        return guest;
    return refuse_unknown(r, "guest", name, HA_REASON_NO_SUCH_GUEST);
}

const struct ha_node *request_node(struct request *r, const char *key)
{
    const char *name = request_text(r, key);
    const struct ha_node *node = name ? ha_state_node_by_name(request_state(r), name) : NULL;

    if (node)
        return node;
    return refuse_unknown(r, "node", name, HA_REASON_NO_SUCH_NODE);
}

/* ---- proposals ---------------------------------------------------------------------------------
 */

static struct request *find_request(struct server *server, uint64_t number)
{
    struct request *r = server->requests;

    while (r && r->number != number)
        r = r->next;
    return r;
}

static void on_proposed(void *user, int outcome, uint16_t reason, uint64_t index)
{
    /* The request may be gone (timed out, client left): it is known by its number only. */
    struct request *r = find_request(the_server, (uint64_t)(uintptr_t)user);

    if (!r)
        return;
    if (outcome == HA_E_REFUSED)
        request_refuse(r, outcome, ha_reason_text(reason), ha_reason_fix(reason));
    else if (outcome != 0)
        request_refuse(r, outcome, ha_err_text(outcome),
                       outcome == HA_E_UNKNOWN ? "look with hactl status, then repeat"
                                               : ha_reason_fix(HA_REASON_NO_QUORUM));
    else if (r->then)
        r->then(r, index);
    else
        request_reply(r, json_pack("{s:I}", "index", (json_int_t)index));
}

static void on_wait_over(void *data)
{
    struct request *r = data;

    r->timer = 0;
    request_refuse(r, HA_E_UNKNOWN, "no answer from the cluster within 30 s: it may still happen",
                   "look with hactl status");
}

static void begin_wait(struct request *r, request_then then)
{
    r->then = then;
    if (!r->timer)
        qb_loop_timer_add(r->server->loop, QB_LOOP_MED, WAIT_MS * QB_TIME_NS_IN_MSEC, r,
                          on_wait_over, &r->timer);
}

uint64_t request_wait(struct request *r)
{
    begin_wait(r, NULL);
    return r->number;
}

struct request *request_find(uint64_t number)
{
    return find_request(the_server, number);
}

static void on_view_wait(void *data);

/* Refuses, or proposes, or waits a little for a view that is just changing. */
static void try_propose(struct request *r)
{
    const struct server_api *api = r->server->api;
    char text[HA_TEXT_MAX], fix[HA_TEXT_MAX];
    uint16_t reason =
        ha_refusal(api->state(api->user), api->runtime(api->user), &r->cmd, text, fix);

    if (reason == HA_REASON_NO_QUORUM && r->tries++ < VIEW_TRIES) {
        if (r->timer)
            qb_loop_timer_del(r->server->loop, r->timer);
        qb_loop_timer_add(r->server->loop, QB_LOOP_MED, VIEW_TRY_MS * QB_TIME_NS_IN_MSEC, r,
                          on_view_wait, &r->timer);
    } else if (reason != 0) {
        request_refuse(r, reason == HA_REASON_NO_QUORUM ? HA_E_NO_QUORUM : HA_E_REFUSED, text, fix);
    } else {
        begin_wait(r, r->then);
        api->propose(api->user, &r->cmd, on_proposed, (void *)(uintptr_t)r->number);
    }
}

static void on_view_wait(void *data)
{
    struct request *r = data;

    r->timer = 0;
    try_propose(r);
}

void request_propose(struct request *r, struct ha_cmd *cmd, request_then then)
{
    snprintf(cmd->actor, sizeof(cmd->actor), "%s", r->actor);
    if (cmd->reason == 0)
        cmd->reason = HA_REASON_OPERATOR;
    r->cmd = *cmd;
    r->then = then;
    r->tries = 0;
    if (cmd->type == HA_CMD_GUEST_ADD) {
        free(r->definition);
        r->definition = malloc(cmd->u.guest_add.definition_size);
        ha_assert(r->definition);
        memcpy(r->definition, cmd->u.guest_add.definition_bytes, cmd->u.guest_add.definition_size);
        r->cmd.u.guest_add.definition_bytes = r->definition;
    }
    try_propose(r);
}

void request_propose_voter(struct request *r, bool is_added, uint32_t node, struct ha_uuid store_id,
                           request_then then)
{
    const struct server_api *api = r->server->api;

    begin_wait(r, then);
    api->propose_voter(api->user, is_added, node, store_id, on_proposed,
                       (void *)(uintptr_t)r->number);
}

/* ---- connections -------------------------------------------------------------------------------
 */

/* By the kernel's word about the peer, not the name service's: that may hang. */
static bool is_admin_peer(qb_ipcs_connection_t *connection, uid_t uid, gid_t gid)
{
    gid_t wanted = the_server->admin_gid;
    struct qb_ipcs_connection_stats stats = {0};

    if (uid == 0)
        return true;
    if (wanted == (gid_t)-1)
        return false;
    if (gid == wanted)
        return true;
    return qb_ipcs_connection_stats_get(connection, &stats, QB_FALSE) == 0 &&
           people_has_group(stats.client_pid, uid, wanted);
}

static int32_t on_accept(qb_ipcs_connection_t *connection, uid_t uid, gid_t gid)
{
    bool is_admin = is_admin_peer(connection, uid, gid);
    gid_t group = the_server->admin_gid != (gid_t)-1 ? the_server->admin_gid : getegid();
    struct client *client = calloc(1, sizeof(*client));

    if (!client)
        return -ENOMEM;
    client->connection = connection;
    client->uid = uid;
    client->is_admin = is_admin;
    qb_ipcs_connection_auth_set(connection, uid, group, 0660);
    qb_ipcs_context_set(connection, client);
    return 0;
}

static int32_t on_closed(qb_ipcs_connection_t *connection)
{
    for (struct request *r = the_server->requests; r; r = r->next) {
        if (r->connection == connection)
            r->connection = NULL;
    }
    return 0;
}

static void on_destroyed(qb_ipcs_connection_t *connection)
{
    struct client *client = qb_ipcs_context_get(connection);

    if (client) {
        free(client->reply);
        free(client);
        qb_ipcs_context_set(connection, NULL);
    }
}

static const struct verb *find_verb(const char *name)
{
    const struct verb *const tables[] = {show_verbs, change_verbs, check_verbs, doctor_verbs};

    for (size_t i = 0; name && i < sizeof(tables) / sizeof(tables[0]); i++) {
        for (const struct verb *verb = tables[i]; verb->name; verb++) {
            if (strcmp(verb->name, name) == 0)
                return verb;
        }
    }
    return NULL;
}

static void name_actor(struct request *r, uid_t uid)
{
    const char *name = people_name(&r->server->people, uid);

    if (name)
        snprintf(r->actor, sizeof(r->actor), "operator %.20s", name);
    else
        snprintf(r->actor, sizeof(r->actor), "operator uid %u", (unsigned)uid);
}

/* NULL, or the first argument the verb does not know. */
static const char *unknown_key(const struct verb *verb, json_t *args)
{
    const char *key;
    json_t *value;

    json_object_foreach(args, key, value)
    {
        const char *const *known = verb->keys;
        while (known && *known && strcmp(*known, key) != 0)
            known++;
        if ((!known || !*known) && strcmp(key, "cmd") != 0)
            return key;
    }
    return NULL;
}

static void refuse_key(struct request *r, const char *key)
{
    static const char *const placement[] = {"affinity", "anti_affinity", "nodes", "placement"};
    char message[HA_TEXT_MAX];

    snprintf(message, sizeof(message), "\"%.60s\" is no argument of %s", key, r->verb->name);
    for (size_t i = 0; i < sizeof(placement) / sizeof(placement[0]); i++) {
        if (strcmp(key, placement[i]) == 0)
            snprintf(message, sizeof(message),
                     "%s: placement rules are reserved for a later version: nothing would obey "
                     "them, so they are refused",
                     key);
    }
    request_refuse(r, HA_E_USAGE, message, NULL);
}

/* args: moved; NULL if what came was no JSON object, for the reason why. */
static void begin(struct server *server, struct client *client, json_t *args, const char *why)
{
    const char *key;

    struct request *r = calloc(1, sizeof(*r));

    ha_assert(r);
    r->server = server;
    r->connection = client->connection;
    r->number = ++server->request_high;
    r->args = args;
    r->verb = find_verb(request_text(r, "cmd"));
    name_actor(r, client->uid);
    r->next = server->requests;
    server->requests = r;
    if (++server->request_count > REQUESTS_MAX)
        request_refuse(r, HA_E_LIMIT, "too many requests are waiting", "wait for some to end");
    else if (!args)
        request_refuse(r, HA_E_USAGE, why, "use the hactl of its version");
    else if (!r->verb)
        request_refuse(r, HA_E_USAGE, "this hamgrd does not know that command",
                       "use the hactl of its version");
    else if (r->verb->is_admin && !client->is_admin)
        request_refuse(r, HA_E_AUTH, "only root and the admin group may change things",
                       "set [ipc] admin-group in hamgr.conf, or use sudo");
    else if ((key = unknown_key(r->verb, args)) != NULL)
        refuse_key(r, key);
    else
        r->verb->run(r);
}

static int32_t on_message(qb_ipcs_connection_t *connection, void *data, size_t size)
{
    const struct qb_ipc_request_header *header = data;
    struct client *client = qb_ipcs_context_get(connection);
    char why[HA_TEXT_MAX] = "the request is no JSON object";
    json_error_t error;

    if (!client || size < sizeof(*header))
        return 0;
    if (header->id == REQUEST_ID_NEXT) {
        if (client->reply)
            send_part(client);
        return 0;
    }
    json_t *args = json_loadb((const char *)data + sizeof(*header), size - sizeof(*header),
                              JSON_REJECT_DUPLICATES, &error);
    if (!args)
        snprintf(why, sizeof(why), "the request is no JSON: %.160s (byte %d)", error.text,
                 error.position);
    if (!json_is_object(args)) {
        json_decref(args);
        args = NULL;
    }
    begin(the_server, client, args, why);
    return 0;
}

/* A request must not be the first to find out that something is not offered. */
static bool is_api_whole(const struct server_api *api)
{
    return api->state && api->runtime && api->config && api->limits && api->propose &&
           api->propose_voter && api->forecast && api->doctor && api->check && api->history &&
           api->definition && api->shutdown_begin;
}

int server_open(qb_loop_t *loop, const char *name, gid_t admin_gid, const struct server_api *api,
                struct server **ret_server, struct ha_err *err)
{
    static struct qb_ipcs_service_handlers handlers = {.connection_accept = on_accept,
                                                       .msg_process = on_message,
                                                       .connection_closed = on_closed,
                                                       .connection_destroyed = on_destroyed};
    static struct qb_ipcs_poll_handlers poll = {.job_add = job_add,
                                                .dispatch_add = dispatch_add,
                                                .dispatch_mod = dispatch_mod,
                                                .dispatch_del = dispatch_del};
    struct server *server = calloc(1, sizeof(*server));

    ha_assert(server && !the_server && is_api_whole(api));
    server->loop = loop;
    server->api = api;
    server->admin_gid = admin_gid;
    people_load(&server->people, "/etc/passwd");
    the_server = server;
    server->service = qb_ipcs_create(name, 0, QB_IPC_SOCKET, &handlers);
    if (!server->service)
        return ha_err_set(err, errno, "IPC service %s: %s", name, strerror(errno));
    qb_ipcs_enforce_buffer_size(server->service, REQUEST_MAX);
    qb_ipcs_poll_handlers_set(server->service, &poll);
    int32_t rc = qb_ipcs_run(server->service);
    if (rc < 0)
        return ha_err_set(err, rc, "IPC service %s: %s%s", name, strerror(-rc),
                          rc == -EADDRINUSE ? " (another hamgrd runs here)" : "");
    *ret_server = server;
    return 0;
}

void server_poke(struct server *server)
{
    (void)server; /* followers ask again with the index they have seen */
}

void server_close(struct server *server)
{
    if (!server)
        return;
    while (server->requests)
        request_refuse(server->requests, HA_E_UNKNOWN, "hamgrd is ending", "ask again");
    qb_ipcs_destroy(server->service);
    people_free(&server->people);
    the_server = NULL;
    free(server);
}
