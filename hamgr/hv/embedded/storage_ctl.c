/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-storage's control socket: one JSON object a line in, one out. Root only, local only; still
 * parsed as if it were hostile.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <jansson.h>
#include <qb/qblog.h>

#include "hamgr/hv/embedded/storage_parts.h"

#define LINE_MAX_BYTES 4096u
#define CLIENTS_MAX    16u
/* A report of 8192 disks is 1.6 MiB; a client that leaves that unread is cut off. */
#define SEND_BYTES (8 * 1024 * 1024)

struct client {
    struct storage *storage;
    int fd;
    size_t size;
    char line[LINE_MAX_BYTES];
};

static uint32_t client_count;

/* ---- parameters --------------------------------------------------------------------------------
 */

static json_t *refuse(const char *text)
{
    return json_pack("{s:b,s:s}", "ok", 0, "error", text);
}

static json_t *accept_command(void)
{
    return json_pack("{s:b}", "ok", 1);
}

/* A number in [0, UINT32_MAX] under key; absent is 0. */
static bool get_u32(const json_t *command, const char *key, uint32_t *ret)
{
    const json_t *value = json_object_get(command, key);

    *ret = 0;
    if (!value)
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > UINT32_MAX)
        return false;
    *ret = (uint32_t)json_integer_value(value);
    return true;
}

/* A guest's id under key; absent is zero. */
static bool get_guest(const json_t *command, struct ha_uuid *ret)
{
    const json_t *value = json_object_get(command, "guest");

    *ret = (struct ha_uuid){{0}};
    if (!value)
        return true;
    return json_is_string(value) && ha_uuid_parse(json_string_value(value), ret) == 0;
}

static bool get_filter(const json_t *command, struct storage_rule *ret)
{
    return get_u32(command, "node", &ret->node) && get_guest(command, &ret->guest);
}

/* ---- rules -------------------------------------------------------------------------------------
 */

static bool is_same_filter(const struct storage_rule *a, const struct storage_rule *b)
{
    return a->node == b->node && ha_uuid_equal(a->guest, b->guest);
}

/* Removes rules with the filter: holds, delays or both. */
static void remove_rules(struct storage *s, const struct storage_rule *filter, bool is_hold,
                         bool is_delay)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < s->rule_count; i++) {
        bool is_meant =
            is_same_filter(&s->rules[i], filter) && (s->rules[i].is_hold ? is_hold : is_delay);
        if (!is_meant)
            s->rules[kept++] = s->rules[i];
    }
    s->rule_count = kept;
}

static json_t *do_hold(struct storage *s, const json_t *command)
{
    struct storage_rule rule = {.is_hold = true};

    if (!get_filter(command, &rule))
        return refuse("node is a number, guest a UUID");
    remove_rules(s, &rule, true, false);
    if (s->rule_count == STORAGE_RULES)
        return refuse("too many rules");
    s->rules[s->rule_count++] = rule;
    return accept_command();
}

static json_t *do_release(struct storage *s, const json_t *command)
{
    struct storage_rule filter = {0};

    if (!get_filter(command, &filter))
        return refuse("node is a number, guest a UUID");
    remove_rules(s, &filter, true, true);
    storage_pump(s);
    return accept_command();
}

static json_t *do_delay(struct storage *s, const json_t *command)
{
    struct storage_rule rule = {0};

    if (!get_filter(command, &rule) || !get_u32(command, "ms", &rule.delay_ms))
        return refuse("ms and node are numbers, guest a UUID");
    remove_rules(s, &rule, false, true);
    if (rule.delay_ms == 0)
        return accept_command();
    if (s->rule_count == STORAGE_RULES)
        return refuse("too many rules");
    s->rules[s->rule_count++] = rule;
    return accept_command();
}

/* ---- paths -------------------------------------------------------------------------------------
 */

static json_t *do_disconnect(struct storage *s, const json_t *command)
{
    uint32_t node;

    if (!get_u32(command, "node", &node) || node == 0)
        return refuse("node is missing");
    if (!storage_is_cut(s, node)) {
        if (s->cut_count == HA_NODES_MAX)
            return refuse("too many nodes");
        s->cut_nodes[s->cut_count++] = node;
    }
    storage_cut(s, node);
    return accept_command();
}

static json_t *do_connect(struct storage *s, const json_t *command)
{
    uint32_t node, kept = 0;

    if (!get_u32(command, "node", &node) || node == 0)
        return refuse("node is missing");
    for (uint32_t i = 0; i < s->cut_count; i++)
        if (s->cut_nodes[i] != node)
            s->cut_nodes[kept++] = s->cut_nodes[i];
    s->cut_count = kept;
    return accept_command();
}

/* ---- replay and forget -------------------------------------------------------------------------
 */

static bool get_epoch(const json_t *command, uint64_t *ret)
{
    const json_t *value = json_object_get(command, "epoch");

    *ret = 0;
    if (!value)
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(value);
    return true;
}

/* The newest remembered write of `epoch`, or of the oldest epoch remembered when that is 0. */
static const struct storage_write *find_write(const struct storage_disk *disk, uint64_t epoch)
{
    const struct storage_write *best = NULL;

    for (unsigned i = 0; i < STORAGE_HISTORY; i++) {
        const struct storage_write *w = &disk->history[i];
        if (w->request.sequence == 0 || (epoch != 0 && w->epoch != epoch))
            continue;
        if (!best || w->epoch < best->epoch ||
            (w->epoch == best->epoch && w->request.sequence > best->request.sequence))
            best = w;
    }
    return best;
}

static json_t *do_replay(struct storage *s, const json_t *command)
{
    struct ha_uuid guest;
    struct storagep_ack ack;
    uint64_t epoch;

    if (!get_guest(command, &guest) || !get_epoch(command, &epoch))
        return refuse("guest is a UUID, epoch a number");
    const struct storage_disk *disk = storage_disk_of(s, guest, false);
    const struct storage_write *found = disk ? find_write(disk, epoch) : NULL;
    if (!found)
        return refuse("no such write is remembered");
    struct storage_write write = *found;
    struct storagep_request m = {.guest = guest, .epoch = write.epoch, .request = write.request};
    storage_do(s, write.node, &m, &ack);
    return json_pack("{s:b,s:I,s:I,s:I}", "ok", 1, "node", (json_int_t)write.node, "epoch",
                     (json_int_t)write.epoch, "sequence", (json_int_t)write.request.sequence);
}

static json_t *do_forget(struct storage *s, const json_t *command)
{
    struct ha_uuid guest;

    if (!get_guest(command, &guest) || ha_uuid_is_zero(guest))
        return refuse("guest is missing");
    storage_forget(s, guest);
    return accept_command();
}

/* ---- report ------------------------------------------------------------------------------------
 */

static json_t *describe_disk(const struct storage_disk *disk)
{
    char guest[HA_UUID_TEXT], digest[40];

    ha_uuid_format(disk->guest, guest);
    snprintf(digest, sizeof(digest), "%016llx%016llx", (unsigned long long)disk->digest.high,
             (unsigned long long)disk->digest.low);
    return json_pack("{s:s,s:I,s:I,s:I,s:s,s:I,s:I,s:I}", "guest", guest, "node",
                     (json_int_t)disk->node, "epoch", (json_int_t)disk->epoch, "sequence",
                     (json_int_t)disk->sequence, "digest", digest, "writes",
                     (json_int_t)disk->write_count, "repeated", (json_int_t)disk->repeated_count,
                     "violations", (json_int_t)disk->violation_count);
}

static json_t *describe_violation(const struct storage_violation *v)
{
    char guest[HA_UUID_TEXT];

    ha_uuid_format(v->guest, guest);
    return json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I}", "what",
                     storage_verdict_name((enum storage_verdict)v->verdict), "guest", guest, "node",
                     (json_int_t)v->node, "epoch", (json_int_t)v->epoch, "owner_node",
                     (json_int_t)v->owner_node, "owner_epoch", (json_int_t)v->owner_epoch,
                     "sequence", (json_int_t)v->sequence, "wall_ms", (json_int_t)v->wall_ms);
}

static json_t *describe_paths(const struct storage *s)
{
    json_t *list = json_array();

    for (const struct storage_path *path = s->paths; path; path = path->next) {
        json_int_t waiting = 0;
        if (path->node == 0 || path->is_ending)
            continue;
        for (const struct storage_wait *wait = s->first; wait; wait = wait->next)
            waiting += wait->path == path;
        json_array_append_new(
            list, json_pack("{s:I,s:I}", "node", (json_int_t)path->node, "waiting", waiting));
    }
    return list;
}

static bool is_wanted(struct ha_uuid wanted, struct ha_uuid guest)
{
    return ha_uuid_is_zero(wanted) || ha_uuid_equal(wanted, guest);
}

static json_t *do_report(struct storage *s, const json_t *command)
{
    struct ha_uuid wanted;

    if (!get_guest(command, &wanted))
        return refuse("guest is a UUID");
    json_t *guests = json_array(), *violations = json_array();
    for (uint32_t i = 0; i < s->disk_count; i++)
        if (is_wanted(wanted, s->disks[i]->guest))
            json_array_append_new(guests, describe_disk(s->disks[i]));
    for (uint32_t i = 0; i < s->violation_count; i++)
        if (is_wanted(wanted, s->violations[i].guest))
            json_array_append_new(violations, describe_violation(&s->violations[i]));
    return json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o}", "ok", 1, "writes",
                     (json_int_t)s->write_count, "heads", (json_int_t)s->head_count, "waiting",
                     (json_int_t)s->wait_count, "vanished", (json_int_t)s->vanished_count,
                     "violation_count", (json_int_t)s->violation_total, "paths", describe_paths(s),
                     "violations", violations, "guests", guests);
}

/* ---- lines -------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    json_t *(*run)(struct storage *s, const json_t *command);
} commands[] = {
    {"report", do_report}, {"hold", do_hold},       {"release", do_release},
    {"delay", do_delay},   {"connect", do_connect}, {"disconnect", do_disconnect},
    {"replay", do_replay}, {"forget", do_forget},
};

static json_t *run_line(struct storage *s, const char *line, size_t size)
{
    json_t *command = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    const char *name = json_string_value(json_object_get(command, "cmd"));
    json_t *reply = NULL;

    for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(commands[i].name, name) == 0)
            reply = commands[i].run(s, command);
    json_decref(command);
    return reply ? reply
                 : refuse("expected {\"cmd\": report, hold, release, delay, connect, "
                          "disconnect, replay or forget}");
}

/* False if the client does not take it: all or nothing, the queue holds the largest report. */
static bool send_reply(struct client *client, json_t *reply)
{
    char *text = json_dumps(reply, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0;
    bool is_sent = false;

    json_decref(reply);
    if (text) {
        text[length] = '\n'; /* instead of the NUL: one send for all */
        is_sent = send(client->fd, text, length + 1, MSG_NOSIGNAL | MSG_DONTWAIT) ==
                  (ssize_t)(length + 1);
    }
    free(text);
    return is_sent;
}

static void close_client(struct client *client)
{
    qb_loop_poll_del(client->storage->loop, client->fd);
    close(client->fd);
    free(client);
    client_count--;
}

/* Runs the complete lines; false if the client must go. */
static bool run_lines(struct client *client)
{
    char *newline;

    while ((newline = memchr(client->line, '\n', client->size)) != NULL) {
        size_t length = (size_t)(newline - client->line);
        if (!send_reply(client, run_line(client->storage, client->line, length)))
            return false;
        client->size -= length + 1;
        memmove(client->line, newline + 1, client->size);
    }
    return client->size < sizeof(client->line);
}

static int32_t on_client(int32_t fd, int32_t events, void *data)
{
    struct client *client = data;
    ssize_t r =
        recv(fd, client->line + client->size, sizeof(client->line) - client->size, MSG_DONTWAIT);

    (void)events;
    if (r < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (r > 0)
        client->size += (size_t)r;
    if (r <= 0 || !run_lines(client))
        close_client(client);
    return 0;
}

static int32_t on_listener(int32_t listener, int32_t events, void *data)
{
    struct storage *s = data;
    int size = SEND_BYTES;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct client *client = NULL;

    (void)events;
    if (fd < 0)
        return 0;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (client_count < CLIENTS_MAX)
        client = calloc(1, sizeof(*client));
    if (!client || qb_loop_poll_add(s->loop, QB_LOOP_LOW, fd, POLLIN, client, on_client) < 0) {
        free(client);
        close(fd);
        return 0;
    }
    client->storage = s;
    client->fd = fd;
    client_count++;
    return 0;
}

int storage_control_open(struct storage *s, struct ha_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s/control.sock", s->dir);

    if (length < 0 || length >= (int)sizeof(address.sun_path))
        return ha_err_set(err, ENAMETOOLONG, "%s is too long", s->dir);
    s->control_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(address.sun_path);
    mode_t mask = umask(0177);
    bool is_bound = s->control_fd >= 0 &&
                    bind(s->control_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
                    listen(s->control_fd, 8) == 0;
    umask(mask);
    if (!is_bound ||
        qb_loop_poll_add(s->loop, QB_LOOP_LOW, s->control_fd, POLLIN, s, on_listener) < 0)
        return ha_err_set(err, errno, "listen at %s: %s", address.sun_path, strerror(errno));
    return 0;
}
