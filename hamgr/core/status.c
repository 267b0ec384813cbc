/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/core/status.h"

#include <inttypes.h>
#include <stdio.h>

#include "hamgr/core/reason.h"

#define REPORT_LATE_MS 3000u /* three reports of one a second are missing */

static const char *const health_names[] = {"ok", "busy", "warning", "bad"};

const char *ha_health_name(uint8_t health)
{
    return health <= HA_HEALTH_BAD ? health_names[health] : "unknown";
}

static const char *name_of(const struct ha_state *state, uint32_t node)
{
    const struct ha_node *found = ha_state_node(state, node);

    return found ? found->name : "?";
}

static void warn(struct ha_status *status, const char *who, const char *text)
{
    if (status->warning_count == HA_WARNINGS_MAX)
        return;
    snprintf(status->warnings[status->warning_count++], HA_TEXT_MAX, "%.60s: %.190s", who, text);
}

/* ---- nodes -------------------------------------------------------------------------------------
 */

static void describe_wait(const struct ha_runtime *rt, struct ha_node_status_line *line)
{
    const struct ha_node *node = line->node;
    const struct log_timing *t = &rt->timing;

    if (!node->is_armed)
        return;
    line->wait_ms = log_wait_ms(t, node->lease_ms, node->watchdog_ms);
    snprintf(line->wait_text, sizeof(line->wait_text),
             "(L %u + P %u + W %u) x %u.%02u + B %u + D %u = %u ms", node->lease_ms, t->keeper_ms,
             node->watchdog_ms, 1 + 2 * t->rho_ppm / 1000000, 2 * t->rho_ppm / 10000 % 100,
             t->reset_ms, t->drain_ms, line->wait_ms);
}

static void describe_member(const struct ha_runtime *rt, struct ha_node_status_line *line,
                            uint32_t slot)
{
    const struct ha_report *report = &rt->reports[slot];
    const struct ha_node *node = line->node;
    const char *role = node->is_witness ? "witness" : node->is_voter ? "member" : "learner";
    const char *extra = node->is_frozen            ? ", frozen"
                        : node->is_maintenance     ? ", in maintenance"
                        : report->is_shutting_down ? ", shutting down"
                        : report->is_quarantined   ? ", quarantined: its guests are paused"
                        : !node->is_fence_wanted   ? ""
                        : rt->fences[slot].has_no_device
                            ? ", to be fenced, but no member has a fence device for it"
                            : ", to be fenced";

    line->health = extra[0] ? HA_HEALTH_WARNING : HA_HEALTH_OK;
    if (!line->is_reporting && rt->is_open) {
        line->health = HA_HEALTH_WARNING;
        extra = ", says nothing";
    }
    snprintf(line->text, sizeof(line->text), "%s%s%s%s", role,
             node->is_witness ? ""
             : node->is_armed ? ", armed"
                              : ", not armed",
             extra, line->is_leader ? ", leader" : "");
}

static void describe_gone(const struct ha_runtime *rt, struct ha_node_status_line *line,
                          const struct ha_fence_progress *fence)
{
    const struct ha_node *node = line->node;

    line->health = HA_HEALTH_BAD;
    if (fence->node != node->id)
        snprintf(line->text, sizeof(line->text), "UNCLEAN: it may still run its guests%s",
                 rt->is_open ? "" : "; nothing is decided here without a quorum");
    else if (fence->wait_ms)
        snprintf(line->text, sizeof(line->text),
                 "UNCLEAN: %.100s; by lease in %" PRIu64 " ms (%" PRIu64 " of %" PRIu64 ")",
                 fence->text,
                 fence->wait_ms > fence->evidence_ms ? fence->wait_ms - fence->evidence_ms : 0,
                 fence->evidence_ms, fence->wait_ms);
    else
        snprintf(line->text, sizeof(line->text),
                 "UNCLEAN: %.120s; no lease proves it dead: a fence device or confirm-fenced",
                 fence->text);
}

static void describe_node(const struct ha_runtime *rt, struct ha_node_status_line *line,
                          uint32_t slot)
{
    switch ((enum ha_node_status)line->node->status) {
    case HA_NODE_NEW:
        snprintf(line->text, sizeof(line->text), "added, has not joined yet");
        line->health = HA_HEALTH_WARNING;
        break;
    case HA_NODE_MEMBER:
        describe_member(rt, line, slot);
        break;
    case HA_NODE_UNCLEAN:
        describe_gone(rt, line, &rt->fences[slot]);
        break;
    case HA_NODE_FENCED:
        snprintf(line->text, sizeof(line->text), "fenced (%s)",
                 ha_evidence_name(line->node->evidence));
        line->health = HA_HEALTH_WARNING;
        break;
    case HA_NODE_LEFT:
        snprintf(line->text, sizeof(line->text), "left in order");
        break;
    }
}

static void count_guests(const struct ha_state *state, struct ha_status *status)
{
    for (uint32_t i = 0; i < state->guest_count; i++) {
        const struct ha_guest *guest = &state->guests[i];
        status->guest_count++;
        status->wanted_count += guest->want == HA_WANT_STARTED;
        status->running_count +=
            guest->phase == HA_PHASE_RUNNING || guest->phase == HA_PHASE_MIGRATING;
        for (uint32_t n = 0; n < status->node_count; n++)
            status->nodes[n].guest_count +=
                guest->phase != HA_PHASE_FREE && guest->node == status->nodes[n].node->id;
    }
}

static void fill_node(const struct ha_state *state, const struct ha_runtime *rt, uint32_t slot,
                      struct ha_status *status)
{
    struct ha_node_status_line *line = &status->nodes[slot];
    const struct ha_report *report = &rt->reports[slot];

    line->node = &state->nodes[slot];
    line->is_leader = rt->is_open && rt->view.leader == line->node->id;
    line->is_reporting =
        report->node == line->node->id && rt->now_ms < report->received_ms + REPORT_LATE_MS;
    line->mem_used_kib = ha_state_mem_used_kib(state, line->node->id);
    describe_wait(rt, line);
    describe_node(rt, line, slot);
    status->voters_here += line->node->is_voter && line->node->status == HA_NODE_MEMBER;
    if (line->health == HA_HEALTH_BAD)
        warn(status, line->node->name, line->text);
    if (line->is_reporting && report->alarm[0])
        warn(status, line->node->name, report->alarm);
}

static void describe_quorum(const struct ha_state *state, const struct ha_runtime *rt,
                            struct ha_status *status)
{
    for (uint32_t i = 0; i < state->node_count; i++)
        status->voter_count += state->nodes[i].is_voter;
    if (rt->is_open)
        snprintf(status->quorum_text, sizeof(status->quorum_text),
                 "%u of %u voters in view %" PRIu64 ", leader %s", status->voters_here,
                 status->voter_count, rt->view.counter, name_of(state, rt->view.leader));
    else
        snprintf(status->quorum_text, sizeof(status->quorum_text),
                 "no quorum here: %u of %u voters must hear each other; the lease ends in "
                 "%" PRIu64 " ms",
                 status->voter_count / 2 + 1, status->voter_count,
                 rt->lease_end_ms > rt->now_ms ? rt->lease_end_ms - rt->now_ms : 0);
}

/* A node that has joined no view yet, or never will, is not among the nodes it knows. */
static void warn_about_self(const struct ha_runtime *rt, struct ha_status *status)
{
    for (uint32_t i = 0; i < status->node_count; i++) {
        if (status->nodes[i].node->id == rt->self && status->nodes[i].is_reporting)
            return;
    }
    if (rt->alarm[0])
        warn(status, "this node", rt->alarm);
}

void ha_status_compute(const struct ha_state *state, const struct ha_runtime *rt,
                       struct ha_status *ret_status)
{
    struct ha_status *status = ret_status;

    *status = (struct ha_status){.is_open = rt->is_open, .node_count = state->node_count};
    if (!rt->is_open)
        warn(status, "cluster", "no view is open at this node: what is shown may be old");
    if (state->is_disarmed)
        warn(status, "cluster", "disarmed: nobody is fenced, nothing is recovered (hactl arm)");
    for (uint32_t i = 0; i < state->node_count; i++)
        fill_node(state, rt, i, status);
    warn_about_self(rt, status);
    if (rt->corosync_health != 0)
        warn(status, "corosync", rt->corosync_text);
    describe_quorum(state, rt, status);
    count_guests(state, status);
}

/* ---- guests ------------------------------------------------------------------------------------
 */

static void describe_free(const struct ha_guest *guest, struct ha_guest_status_line *line)
{
    if (guest->want == HA_WANT_STOPPED) {
        snprintf(line->text, sizeof(line->text), "stopped");
    } else if (guest->is_failed) {
        line->health = HA_HEALTH_BAD;
        snprintf(line->text, sizeof(line->text),
                 "failed %u times, left alone until hactl guest start (last: %s)", guest->failures,
                 ha_end_cause_name(guest->end_cause));
    } else {
        line->health = HA_HEALTH_WARNING;
        snprintf(line->text, sizeof(line->text), "waiting for a node");
    }
}

static const struct ha_move_progress *find_move(const struct ha_runtime *rt, uint64_t ticket)
{
    for (uint32_t i = 0; i < rt->move_count; i++) {
        if (rt->moves[i].ticket == ticket)
            return &rt->moves[i];
    }
    return NULL;
}

static void describe_move(const struct ha_state *state, const struct ha_runtime *rt,
                          const struct ha_guest *guest, struct ha_guest_status_line *line)
{
    const struct ha_move_progress *move = find_move(rt, guest->ticket.id);

    line->health = HA_HEALTH_BUSY;
    snprintf(line->text, sizeof(line->text), "moving from %.63s to %.63s, %" PRIu64 " MiB sent",
             name_of(state, guest->ticket.src), name_of(state, guest->ticket.dst),
             move ? move->hv.bytes >> 20 : 0);
}

static void describe_owned(const struct ha_state *state, const struct ha_runtime *rt,
                           const struct ha_guest *guest, struct ha_guest_status_line *line)
{
    const char *owner = name_of(state, guest->node);

    switch ((enum ha_phase)guest->phase) {
    case HA_PHASE_ASSIGNED:
        line->health = HA_HEALTH_BUSY;
        snprintf(line->text, sizeof(line->text), "starting on %s", owner);
        break;
    case HA_PHASE_RUNNING:
        snprintf(line->text, sizeof(line->text), "running on %s", owner);
        break;
    case HA_PHASE_STOPPING:
        line->health = HA_HEALTH_BUSY;
        snprintf(line->text, sizeof(line->text), "stopping on %s", owner);
        break;
    case HA_PHASE_MIGRATING:
    case HA_PHASE_SWITCHED:
        describe_move(state, rt, guest, line);
        break;
    case HA_PHASE_FREE:
    case HA_PHASE_COUNT:
        break;
    }
}

void ha_status_guest(const struct ha_state *state, const struct ha_runtime *rt,
                     const struct ha_guest *guest, struct ha_guest_status_line *ret_line)
{
    const struct ha_node *owner = ha_state_node(state, guest->node);

    *ret_line = (struct ha_guest_status_line){.guest = guest};
    if (guest->phase == HA_PHASE_FREE) {
        describe_free(guest, ret_line);
    } else if (owner && owner->status == HA_NODE_UNCLEAN) {
        ret_line->health = HA_HEALTH_BAD;
        snprintf(ret_line->text, sizeof(ret_line->text),
                 "waiting: its owner %s is gone and not yet proven dead", owner->name);
    } else {
        describe_owned(state, rt, guest, ret_line);
    }
}
