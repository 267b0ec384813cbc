/* SPDX-License-Identifier: Apache-2.0
 *
 * What a step gives back: actions, trace lines, messages. Messages of one step share one buffer.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "quorum/log_internal.h"

struct log_action *log_act(struct log *log, uint8_t type)
{
    /* Messages and lines may be lost; what is left over for the rest is far more than one step
     * makes (one write, one lease, a view closed and opened, the fates of proposals). */
    if (log->out->count >= LOG_ACTIONS_MAX) {
        ha_assert(type == LOG_ACT_TRACE || type == LOG_ACT_SEND);
        return NULL;
    }
    struct log_action *action = &log->out->list[log->out->count++];
    action->type = type;
    return action;
}

__attribute__((format(printf, 3, 0))) static void text_action(struct log *log, uint8_t type,
                                                              const char *fmt, va_list args)
{
    struct log_action *action = log_act(log, type);

    if (action)
        vsnprintf(action->u.text.line, sizeof(action->u.text.line), fmt, args);
}

void log_trace(struct log *log, const char *fmt, ...)
{
    va_list args;

    if (log->out->count >= LOG_TRACE_MAX)
        return;
    va_start(args, fmt);
    text_action(log, LOG_ACT_TRACE, fmt, args);
    va_end(args);
}

void log_stop(struct log *log, const char *fmt, ...)
{
    va_list args;

    log_view_leave(log, "this log stops");
    log->is_stopped = true;
    va_start(args, fmt);
    text_action(log, LOG_ACT_STOP, fmt, args);
    va_end(args);
}

bool log_may_trace_drop(struct log *log, unsigned reason)
{
    ha_assert(reason < LOG_DROPS);
    if (log->drop_ms[reason] != 0 &&
        log->now_ms - log->drop_ms[reason] < log->config.timing.heartbeat_ms)
        return false;
    log->drop_ms[reason] = log->now_ms;
    return true;
}

struct log_msg log_msg_of(const struct log *log, uint8_t type, struct log_view view)
{
    struct log_msg msg;

    msg.header = (struct log_msg_header){
        .type = type,
        .cluster_id = log->config.cluster_id,
        .generation = log->config.generation,
        .view = view,
        .nonce = log->config.self.nonce,
    };
    return msg;
}

/* Makes the bytes from start on an action. */
static void send_bytes(struct log *log, size_t start, bool is_heartbeat)
{
    if (log->writer.failed || log->out->count >= LOG_SENDS_MAX) {
        log->writer.failed = false;
        log->writer.position = start;
        return;
    }
    struct log_action *action = log_act(log, LOG_ACT_SEND);
    action->u.send.data = log->writer.data + start;
    action->u.send.size = log->writer.position - start;
    action->u.send.is_heartbeat = is_heartbeat;
}

void log_send(struct log *log, const struct log_msg *msg)
{
    size_t start = log->writer.position;

    if (!log->is_connected)
        return;
    log_msg_encode(&log->writer, msg);
    send_bytes(log, start, msg->header.type == LOG_MSG_HEARTBEAT);
}

uint64_t log_send_entries(struct log *log, const struct log_msg *msg, uint64_t from, uint64_t to)
{
    size_t start = log->writer.position;
    uint16_t count = 0;
    uint64_t index = from;

    if (!log->is_connected)
        return from - 1;
    log_msg_encode(&log->writer, msg);
    for (; index <= to && count < LOG_ENTRIES_PER_MESSAGE; index++) {
        const struct log_entry *entry = log_ring_at(&log->ring, index);
        if (!entry)
            break;
        size_t size = LOG_ENTRY_HEAD + sizeof(entry->digest) + entry->body_size;
        if (count > 0 && log->writer.position - start + size > LOG_CHUNK)
            break;
        log_entry_encode(&log->writer, entry);
        count++;
    }
    if (log->writer.failed)
        index = from;
    log_msg_set_count(&log->writer, start, LOG_MSG_ENTRIES, count);
    send_bytes(log, start, false);
    return index - 1;
}
