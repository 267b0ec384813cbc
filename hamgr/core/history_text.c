/* SPDX-License-Identifier: Apache-2.0
 *
 * The sentence of a history line: one function per family of entries, names instead of numbers
 * where there are names.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "hamgr/core/history_internal.h"
#include "hamgr/core/reason.h"

/* Names listed one by one; more are counted. */
#define LIST_MAX 8u

static void say(struct history_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct history_text *t, const char *fmt, ...)
{
    size_t room = sizeof(t->data) - t->length;
    va_list args;

    va_start(args, fmt);
    int length = vsnprintf(t->data + t->length, room, fmt, args);
    va_end(args);
    if (length > 0)
        t->length += (size_t)length < room ? (size_t)length : room - 1;
}

static void say_node(struct history_text *t, const struct history_case *c, uint32_t id)
{
    const char *name = history_node_name(c, id);

    if (name)
        say(t, "%s", name);
    else
        say(t, "node %" PRIu32, id);
}

static void say_guest(struct history_text *t, const struct history_case *c)
{
    const char *name = history_guest_name(c);
    char uuid[HA_UUID_TEXT];

    ha_uuid_format(c->applied->cmd.guest, uuid);
    say(t, "%s", name ? name : uuid);
}

static void say_reason(struct history_text *t, const struct history_case *c)
{
    const char *text = ha_reason_text(c->applied->cmd.reason);

    if (text[0])
        say(t, ": %s", text);
}

static void say_detail(struct history_text *t, const char *detail)
{
    if (detail[0])
        say(t, " (%s)", detail);
}

/* ", "-separated list under a heading; counts on after LIST_MAX. */
struct list {
    struct history_text *text;
    const char *heading;
    uint32_t count;
};

/* True if the next name is to be said. */
static bool list_next(struct list *list)
{
    list->count++;
    if (list->count > LIST_MAX)
        return false;
    say(list->text, "%s", list->count == 1 ? list->heading : ", ");
    return true;
}

static void list_end(const struct list *list)
{
    if (list->count > LIST_MAX)
        say(list->text, " and %" PRIu32 " more", list->count - LIST_MAX);
}

/* Guests that this entry freed, found by their phase's index. */
static uint32_t say_freed(struct history_text *t, const struct history_case *c, const char *heading)
{
    struct list list = {t, heading, 0};

    for (uint32_t i = 0; i < c->after->guest_count; i++) {
        const struct ha_guest *guest = &c->after->guests[i];
        if (guest->phase != HA_PHASE_FREE || guest->phase_index != c->entry->index)
            continue;
        if (list_next(&list))
            say(t, "%s", guest->name);
    }
    list_end(&list);
    return list.count;
}

/* --- Nodes and cluster --- */

static void say_fenced(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;

    say_node(t, c, cmd->node);
    say(t, " is fenced by %s", ha_evidence_name(cmd->u.fenced.evidence));
    say_detail(t, cmd->u.fenced.detail);
    if (say_freed(t, c, ": nobody's now: ") == 0)
        say(t, ": it owned no guest");
}

static void say_init(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;

    say(t, "cluster %s was created, generation %" PRIu64 "; %s is its first voter",
        cmd->u.init.name, cmd->u.init.generation, cmd->u.init.node_name);
}

static void say_cluster(struct history_text *t, const struct history_case *c)
{
    if (c->applied->cmd.type == HA_CMD_DISARM)
        say(t, "the cluster is disarmed: nobody is fenced, nobody pauses");
    else
        say(t, "the cluster is armed again: each node counts once its watchdog is reported");
}

/* What is said after the node's name. */
static void say_of_node(struct history_text *t, const struct ha_cmd *cmd)
{
    switch (cmd->type) {
    case HA_CMD_NODE_ADD:
        say(t, " may join the cluster%s", cmd->u.node_add.is_witness ? " as a witness" : "");
        break;
    case HA_CMD_NODE_REMOVE:
        say(t, " was removed from the cluster");
        break;
    case HA_CMD_ARMED:
        say(t, " is armed: lease %" PRIu32 " ms, watchdog %" PRIu32 " ms", cmd->u.armed.lease_ms,
            cmd->u.armed.watchdog_ms);
        break;
    case HA_CMD_UNARMED:
        say(t, " is no longer armed");
        break;
    case HA_CMD_LEAVE:
        say(t, " left the cluster");
        break;
    case HA_CMD_FREEZE:
        say(t, " is frozen: its guests stay its own, its watchdog may stop");
        break;
    case HA_CMD_UNFREEZE:
        say(t, " is no longer frozen");
        break;
    case HA_CMD_MAINTENANCE:
        say(t, cmd->u.maintenance.is_on ? " is in maintenance" : " is back from maintenance");
        break;
    case HA_CMD_CAPACITY:
        say(t, " has %" PRIu64 " MiB for guests", cmd->u.capacity.mem_kib / 1024);
        break;
    case HA_CMD_FENCE_WANT:
        say(t, " is to be fenced, as an operator asked");
        break;
    default:
        say(t, ": %s", ha_cmd_name(cmd->type));
        break;
    }
}

/* --- Guests --- */

/* "web1: n2 owns it again at epoch 8: its owner n1 was fenced (fence_ns n1: status off)" */
static void say_assign(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;
    const struct ha_guest *was = &c->before->guest;
    const struct ha_node *last = ha_state_node(c->after, was->last_node);

    say(t, ": ");
    say_node(t, c, cmd->node);
    say(t, " owns it%s at epoch %" PRIu64, was->last_node ? " again" : "", cmd->epoch);
    if (cmd->reason != HA_REASON_RECOVERY || !last) {
        say_reason(t, c);
        return;
    }
    say(t, ": its owner %s was fenced", last->name);
    if (last->evidence_detail[0])
        say_detail(t, last->evidence_detail);
    else
        say_detail(t, ha_evidence_name(last->evidence));
}

static const char *end_words(uint8_t cause)
{
    static const char *const words[] = {
        [HA_END_STOPPED] = "it was stopped",        [HA_END_POWEROFF] = "it switched itself off",
        [HA_END_REBOOT] = "it asked for a reboot",  [HA_END_CRASHED] = "it crashed",
        [HA_END_START_FAILED] = "its start failed", [HA_END_LOST] = "it was not found there",
    };

    return cause < sizeof(words) / sizeof(words[0]) && words[cause] ? words[cause] : "it ended";
}

static void say_not_running(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;
    const struct ha_guest *now = ha_state_guest(c->after, cmd->guest);

    say(t, " does not run on ");
    say_node(t, c, cmd->node);
    say(t, " any more: %s", end_words(cmd->u.not_running.cause));
    say_detail(t, cmd->u.not_running.detail);
    if (!now)
        return;
    if (c->before->guest.ticket.id != 0)
        say(t, "; migration %" PRIu64 " is over", c->before->guest.ticket.id);
    if (now->failures > c->before->guest.failures)
        say(t, "; failure %u of %u", now->failures, now->policy.restart_max);
    if (now->is_failed)
        say(t, "; it is left alone until an operator starts it");
}

static void say_stop(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;

    say(t, ": ");
    say_node(t, c, c->before->guest.node);
    say(t, cmd->u.stop.mode == HA_STOP_DESTROY ? " is to destroy it" : " is to shut it down");
    if (cmd->u.stop.is_relocation)
        say(t, ", to run it elsewhere");
    say_reason(t, c);
}

static void say_of_move(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;
    const struct ha_guest *now = ha_state_guest(c->after, cmd->guest);
    const struct ha_ticket *ticket =
        cmd->type == HA_CMD_MIGRATE && now ? &now->ticket : &c->before->guest.ticket;

    switch (cmd->type) {
    case HA_CMD_MIGRATE:
        say(t, ": migration %" PRIu64 " from ", ticket->id);
        say_node(t, c, ticket->src);
        say(t, " to ");
        say_node(t, c, ticket->dst);
        say(t, " began, epoch %" PRIu64 " is reserved", ticket->dst_epoch);
        say_reason(t, c);
        break;
    case HA_CMD_SWITCH:
        say(t, ": ");
        say_node(t, c, ticket->dst);
        say(t, " owns it at epoch %" PRIu64 " now; ", ticket->dst_epoch);
        say_node(t, c, ticket->src);
        say(t, " keeps its suspended copy until it runs there");
        break;
    case HA_CMD_ABORT:
        say(t, ": migration %" PRIu64 " to ", ticket->id);
        say_node(t, c, ticket->dst);
        say(t, " was given up, it goes on on ");
        say_node(t, c, ticket->src);
        say_reason(t, c);
        say_detail(t, cmd->u.text.detail);
        break;
    case HA_CMD_ARRIVED:
        say(t, " runs on ");
        say_node(t, c, ticket->dst);
        say(t, ", epoch %" PRIu64 "; migration %" PRIu64 " is complete", ticket->dst_epoch,
            ticket->id);
        if (c->entry->wall_ms >= ticket->wall_ms)
            say(t, " after %" PRIu64 " ms", c->entry->wall_ms - ticket->wall_ms);
        break;
    default:
        say(t, " goes back to ");
        say_node(t, c, ticket->src);
        say(t, " at epoch %" PRIu64 ": it never ran on ", ticket->src_epoch);
        say_node(t, c, ticket->dst);
        say_detail(t, cmd->u.text.detail);
        break;
    }
}

/* Pauses in ms with one digit behind the point; the guest's own before the ends'. */
static void say_pause(struct history_text *t, const struct ha_moved *m)
{
    uint32_t us = m->guest_us != 0 ? m->guest_us : m->source_us;

    if (us != 0)
        say(t, ", paused for %" PRIu32 ".%" PRIu32 " ms%s", us / 1000, us / 100 % 10,
            m->guest_us != 0 ? "" : " as its source saw it");
}

static void say_moved(struct history_text *t, const struct history_case *c)
{
    const struct ha_moved *m = &c->applied->cmd.u.moved;
    uint64_t took_ms =
        m->ended_wall_ms > m->began_wall_ms ? m->ended_wall_ms - m->began_wall_ms : 0;

    say(t, ": migration %" PRIu64 " from ", c->applied->cmd.ticket);
    say_node(t, c, m->src);
    say(t, " to ");
    say_node(t, c, m->dst);
    say(t,
        " %s after %" PRIu64 " ms, %" PRIu32 " rounds, %" PRIu64 " MiB (%" PRIu64 " on the wire)",
        ha_moved_name(m->outcome), took_ms, m->rounds, m->raw_bytes >> 20, m->wire_bytes >> 20);
    if (m->outcome == HA_MOVED_ARRIVED)
        say_pause(t, m);
    say_detail(t, m->detail);
}

/* What is said after the guest's name. */
static void say_of_guest(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;

    switch (cmd->type) {
    case HA_CMD_GUEST_ADD:
        say(t, " was added: %" PRIu64 " MiB, wanted %s", cmd->u.guest_add.mem_kib / 1024,
            cmd->u.guest_add.want == HA_WANT_STARTED ? "started" : "stopped");
        break;
    case HA_CMD_GUEST_SET:
        say(t, "'s policy was changed");
        break;
    case HA_CMD_GUEST_REMOVE:
        say(t, " was removed");
        break;
    case HA_CMD_WANT:
        say(t, " is wanted %s", cmd->u.want.want == HA_WANT_STARTED ? "started" : "stopped");
        break;
    case HA_CMD_CLEAR:
        say(t, "'s failures were forgotten");
        break;
    case HA_CMD_ASSIGN:
        say_assign(t, c);
        break;
    case HA_CMD_STARTED:
        say(t, " runs on ");
        say_node(t, c, cmd->node);
        say(t, ", epoch %" PRIu64, cmd->epoch);
        break;
    case HA_CMD_STOP:
        say_stop(t, c);
        break;
    case HA_CMD_NOT_RUNNING:
        say_not_running(t, c);
        break;
    case HA_CMD_MOVED:
        say_moved(t, c);
        break;
    default:
        say_of_move(t, c);
        break;
    }
}

/* --- Views and voters --- */

static bool was_member(const struct history_case *c, uint32_t i)
{
    for (uint32_t j = 0; j < c->before->node_count; j++) {
        if (c->before->nodes[j].id == c->after->nodes[i].id)
            return c->before->nodes[j].status == HA_NODE_MEMBER;
    }
    return false;
}

static bool is_new_incarnation(const struct history_case *c, uint32_t i)
{
    for (uint32_t j = 0; j < c->before->node_count; j++) {
        if (c->before->nodes[j].id == c->after->nodes[i].id)
            return c->before->nodes[j].incarnation != c->after->nodes[i].incarnation;
    }
    return true;
}

static void say_joined(struct history_text *t, const struct history_case *c)
{
    struct list list = {t, "; joined: ", 0};

    for (uint32_t i = 0; i < c->after->node_count; i++) {
        const struct ha_node *node = &c->after->nodes[i];
        if (node->status != HA_NODE_MEMBER || !is_new_incarnation(c, i) || !list_next(&list))
            continue;
        say(t, "%s (incarnation %" PRIu64 ")", node->name, node->incarnation);
    }
    list_end(&list);
}

static void say_gone(struct history_text *t, const struct history_case *c)
{
    struct list list = {t, "; gone without leaving: ", 0};

    for (uint32_t i = 0; i < c->after->node_count; i++) {
        const struct ha_node *node = &c->after->nodes[i];
        if (node->status != HA_NODE_UNCLEAN || !was_member(c, i) || !list_next(&list))
            continue;
        say(t, "%s%s", node->name, node->is_hold ? " (fencing waits for it to come back)" : "");
    }
    list_end(&list);
}

static void say_refused(struct history_text *t, const struct history_case *c)
{
    struct list list = {t, "; not readmitted: ", 0};
    struct log_open open;

    if (c->applied->refusal != HA_REASON_BAD_IDENTITY ||
        log_open_decode(c->entry->body, c->entry->body_size, &open) < 0)
        return;
    for (uint32_t i = 0; i < open.member_count; i++) {
        const struct ha_node *node = ha_state_node(c->after, open.members[i].node);
        if (!node || node->status == HA_NODE_MEMBER || !list_next(&list))
            continue;
        say(t, "%s", node->name);
    }
    list_end(&list);
    say(t, " (%s)", ha_reason_text(HA_REASON_BAD_IDENTITY));
}

static void say_open(struct history_text *t, const struct history_case *c)
{
    struct list list = {t, ": ", 0};

    say(t, "view %" PRIu64 ".%" PRIu32 " is open", c->after->view.counter, c->after->view.leader);
    for (uint32_t i = 0; i < c->after->node_count; i++) {
        if (c->after->nodes[i].status == HA_NODE_MEMBER && list_next(&list))
            say(t, "%s", c->after->nodes[i].name);
    }
    list_end(&list);
    say_joined(t, c);
    say_gone(t, c);
    say_refused(t, c);
    say_freed(t, c, "; rebooted, so nobody's now: ");
}

static void say_voter(struct history_text *t, const struct history_case *c)
{
    struct log_voter_change change;

    if (log_voter_change_decode(c->entry->body, c->entry->body_size, &change) < 0)
        return;
    say_node(t, c, change.node);
    if (c->applied->is_noop)
        say(t, ": VOTER had no effect: %s", ha_reason_text(c->applied->refusal));
    else
        say(t, change.is_added ? " is a voter now" : " is no voter any more");
}

static void say_command(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;

    if (cmd->type == HA_CMD_DISARM || cmd->type == HA_CMD_ARM)
        say_cluster(t, c);
    else if (cmd->type == HA_CMD_INIT)
        say_init(t, c);
    else if (cmd->type == HA_CMD_FENCED)
        say_fenced(t, c);
    else if (history_is_of_guest(cmd->type)) {
        say_guest(t, c);
        say_of_guest(t, c);
    } else {
        say_node(t, c, cmd->node);
        say_of_node(t, cmd);
    }
}

static void say_noop(struct history_text *t, const struct history_case *c)
{
    const struct ha_cmd *cmd = &c->applied->cmd;

    if (history_is_of_guest(cmd->type))
        say_guest(t, c);
    else if (cmd->node != 0)
        say_node(t, c, cmd->node);
    else
        say(t, "the cluster");
    say(t, ": %s had no effect: %s", ha_cmd_name(cmd->type), ha_reason_text(c->applied->refusal));
}

void history_say(struct history_text *t, const struct history_case *c)
{
    t->length = 0;
    t->data[0] = '\0';
    if (c->applied->kind == LOG_KIND_OPEN)
        say_open(t, c);
    else if (c->applied->kind == LOG_KIND_VOTER)
        say_voter(t, c);
    else if (c->applied->is_noop)
        say_noop(t, c);
    else
        say_command(t, c);
}
