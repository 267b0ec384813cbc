/* SPDX-License-Identifier: Apache-2.0
 *
 * History lines: the facts of an entry as JSON. Texts may hold what an operator or a fence agent
 * wrote, so everything is escaped and broken UTF-8 is replaced.
 */
#include "hamgr/core/history.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "hamgr/base/err.h"
#include "hamgr/core/history_internal.h"
#include "hamgr/core/reason.h"

bool history_is_of_guest(uint8_t type)
{
    return type >= HA_CMD_GUEST_ADD;
}

static void remember_nodes(const struct ha_state *state, struct ha_history_before *before)
{
    before->node_count = state->node_count;
    for (uint32_t i = 0; i < state->node_count; i++) {
        before->nodes[i].id = state->nodes[i].id;
        before->nodes[i].status = state->nodes[i].status;
        before->nodes[i].incarnation = state->nodes[i].incarnation;
    }
}

static void remember_subject(const struct ha_state *state, const struct ha_cmd *cmd,
                             struct ha_history_before *before)
{
    const struct ha_guest *guest = ha_state_guest(state, cmd->guest);
    const struct ha_node *node = ha_state_node(state, cmd->node);

    if (guest) {
        before->has_guest = true;
        before->guest = *guest;
    }
    if (node) {
        before->has_node = true;
        before->node = *node;
    }
}

void ha_history_before(const struct ha_state *state, const struct log_entry *entry,
                       struct ha_history_before *ret_before)
{
    struct ha_cmd cmd;

    memset(ret_before, 0, sizeof(*ret_before));
    remember_nodes(state, ret_before);
    if (entry->kind != LOG_KIND_INIT && entry->kind != LOG_KIND_STATE)
        return;
    if (ha_cmd_decode(entry->body, entry->body_size, &cmd) == 0)
        remember_subject(state, &cmd, ret_before);
}

const char *history_node_name(const struct history_case *c, uint32_t id)
{
    const struct ha_node *node = ha_state_node(c->after, id);

    if (node)
        return node->name;
    return c->before->has_node && c->before->node.id == id ? c->before->node.name : NULL;
}

const char *history_guest_name(const struct history_case *c)
{
    const struct ha_guest *guest = ha_state_guest(c->after, c->applied->cmd.guest);

    if (guest)
        return guest->name;
    return c->before->has_guest ? c->before->guest.name : NULL;
}

/* --- JSON --- */

struct json {
    char *data;
    size_t size;
    size_t length;
    bool failed;
};

static void put(struct json *j, const char *text, size_t length)
{
    if (j->failed || length >= j->size - j->length) {
        j->failed = true;
        return;
    }
    memcpy(j->data + j->length, text, length);
    j->length += length;
    j->data[j->length] = '\0';
}

static void put_fmt(struct json *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void put_fmt(struct json *j, const char *fmt, ...)
{
    char text[64];
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof(text))
        j->failed = true;
    else
        put(j, text, (size_t)length);
}

/* Length of the UTF-8 character at s (1 to 4), 0 if it is none: overlong forms, surrogates and
 * numbers above U+10FFFF are none. */
static size_t utf8_length(const unsigned char *s)
{
    static const struct {
        unsigned char first_min, first_max, second_min, second_max;
        size_t length;
    } forms[] = {
        {0x00, 0x7f, 0x00, 0xff, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };

    for (size_t f = 0; f < sizeof(forms) / sizeof(forms[0]); f++) {
        if (s[0] < forms[f].first_min || s[0] > forms[f].first_max)
            continue;
        if (forms[f].length > 1 && (s[1] < forms[f].second_min || s[1] > forms[f].second_max))
            return 0;
        /* A NUL in the middle is below 0x80: nothing behind it is read. */
        for (size_t i = 2; i < forms[f].length; i++) {
            if (s[i] < 0x80 || s[i] > 0xbf)
                return 0;
        }
        return forms[f].length;
    }
    return 0;
}

static void put_char(struct json *j, const char *s, size_t length)
{
    unsigned char c = (unsigned char)*s;

    if (length == 0)
        put(j, "\\ufffd", 6);
    else if (c == '"' || c == '\\')
        put_fmt(j, "\\%c", c);
    else if (c < 0x20 || c == 0x7f)
        put_fmt(j, "\\u%04x", c);
    else
        put(j, s, length);
}

static void put_string(struct json *j, const char *text)
{
    if (!text) {
        put(j, "null", 4);
        return;
    }
    put(j, "\"", 1);
    while (*text) {
        size_t length = utf8_length((const unsigned char *)text);
        put_char(j, text, length);
        text += length > 0 ? length : 1;
    }
    put(j, "\"", 1);
}

static void put_member(struct json *j, const char *name, const char *text)
{
    put_fmt(j, ",\"%s\":", name);
    put_string(j, text);
}

/* --- The line --- */

static const char *type_name(const struct ha_applied *applied)
{
    if (applied->kind == LOG_KIND_OPEN)
        return "OPEN";
    if (applied->kind == LOG_KIND_VOTER)
        return "VOTER";
    return ha_cmd_name(applied->cmd.type);
}

/* The node the entry is about: of a guest, its owner, the new one first. */
static uint32_t subject_node(const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;
    struct log_voter_change change;

    if (c->applied->kind == LOG_KIND_VOTER)
        return log_voter_change_decode(c->entry->body, c->entry->body_size, &change) < 0
                   ? 0
                   : change.node;
    if (c->applied->kind == LOG_KIND_OPEN)
        return c->after->view.leader;
    if (!history_is_of_guest(cmd->type) || c->applied->is_noop)
        return cmd->node;
    const struct ha_guest *guest = ha_state_guest(c->after, cmd->guest);
    if (guest && guest->node != 0)
        return guest->node;
    return c->before->guest.node;
}

static uint64_t subject_epoch(const struct history_case *c)
{
    const struct ha_guest *guest = ha_state_guest(c->after, c->applied->cmd.guest);

    if (c->applied->kind == LOG_KIND_OPEN || c->applied->kind == LOG_KIND_VOTER ||
        !history_is_of_guest(c->applied->cmd.type))
        return 0;
    return guest ? guest->epoch : c->applied->cmd.epoch;
}

static bool is_command(const struct ha_applied *applied)
{
    return applied->kind == LOG_KIND_INIT || applied->kind == LOG_KIND_STATE;
}

static void put_number(struct json *j, const char *name, uint64_t value)
{
    put_fmt(j, ",\"%s\":%" PRIu64, name, value);
}

/* Members in the order of struct ha_moved; forecast is null when none was made. */
static void put_move(struct json *j, const struct history_case *c)
{
    const struct ha_moved *m = &c->applied->cmd.u.moved;

    put_fmt(j, ",\"move\":{\"op\":%" PRIu64, c->applied->cmd.ticket);
    put_member(j, "outcome", ha_moved_name(m->outcome));
    put_member(j, "reason", m->detail);
    put_member(j, "from", history_node_name(c, m->src));
    put_member(j, "to", history_node_name(c, m->dst));
    put_number(j, "began_wall_ms", m->began_wall_ms);
    put_number(j, "ended_wall_ms", m->ended_wall_ms);
    put_number(j, "raw_bytes", m->raw_bytes);
    put_number(j, "wire_bytes", m->wire_bytes);
    put_number(j, "rounds", m->rounds);
    put_number(j, "throttle_percent", m->throttle_percent);
    put_number(j, "max_downtime_ms", m->max_downtime_ms);
    put_number(j, "predicted_us", m->predicted_us);
    put_fmt(j, ",\"pause_us\":{\"source\":%" PRIu32, m->source_us);
    put_number(j, "destination", m->destination_us);
    put_number(j, "guest", m->guest_us);
    put(j, "}", 1);
    if (m->forecast_ms == 0) {
        put_fmt(j, ",\"forecast\":null}");
        return;
    }
    put_fmt(j, ",\"forecast\":{\"time_ms\":%" PRIu32, m->forecast_ms);
    put_number(j, "pause_ms", m->forecast_pause_ms);
    put_number(j, "bytes", m->forecast_bytes);
    put(j, "}}", 2);
}

int ha_history_line(const struct ha_history_before *before, const struct ha_state *after,
                    const struct log_entry *entry, const struct ha_applied *applied, char *buffer,
                    size_t size)
{
    struct history_case c = {before, after, entry, applied};
    struct json j = {.data = buffer, .size = size};
    struct history_text text;
    const char *guest = NULL;

    if (size == 0)
        return -HA_E_LIMIT;
    history_say(&text, &c);
    if (is_command(applied) && history_is_of_guest(applied->cmd.type))
        guest = history_guest_name(&c);
    uint16_t reason = applied->refusal != 0 ? applied->refusal : applied->cmd.reason;
    put_fmt(&j, "{\"index\":%" PRIu64 ",\"wall_ms\":%" PRIu64, entry->index, entry->wall_ms);
    put_fmt(&j, ",\"view\":\"%" PRIu64 ".%" PRIu32 "\"", entry->view.counter, entry->view.leader);
    put_member(&j, "type", type_name(applied));
    put_member(&j, "guest", guest);
    put_member(&j, "node", history_node_name(&c, subject_node(&c)));
    put_fmt(&j, ",\"epoch\":%" PRIu64, subject_epoch(&c));
    put_member(&j, "reason", ha_reason_name(reason));
    put_member(&j, "actor", is_command(applied) ? applied->cmd.actor : "log");
    put_fmt(&j, ",\"is_noop\":%s", applied->is_noop ? "true" : "false");
    put_member(&j, "text", text.data);
    if (is_command(applied) && applied->cmd.type == HA_CMD_MOVED)
        put_move(&j, &c);
    put(&j, "}", 1);
    return j.failed ? -HA_E_LIMIT : (int)j.length;
}
