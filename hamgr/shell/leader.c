/* SPDX-License-Identifier: Apache-2.0
 *
 * What only the leader of the open view does: planning, fencing, and bringing added nodes in as
 * voters. And what every member does for it: running a fence device it can reach.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#include "fence/order.h"
#include "hamgr/base/assert.h"
#include "hamgr/base/slept.h"

#define RUNS_MAX       FENCE_RUNS_MAX
#define VOTER_RETRY_MS 100u /* a learner copies what it lacks meanwhile */

/* A device run at our hamgr-fence: for ourselves or for another leader. */
struct fence_request {
    uint64_t id;  /* at hamgr-fence, 0 = free */
    uint64_t run; /* the leader's id */
    uint32_t leader;
    struct log_view view; /* it was ordered in */
    bool is_of_open_view; /* and that view has been open here since */
    bool is_cancelled;
    uint64_t vouch_ms; /* vouch for it again then */
    struct fencep_run order;
};

/* What a node said of its devices, in its words: a name may be known to the state only later. */
struct announced {
    uint32_t node;
    struct ha_digest digest; /* as leader_devices was told */
    bool is_mute;            /* hamgr-fence, which told us, is gone since */
    uint32_t count;
    struct fencep_device *list;
};

struct leader {
    struct fence_actions actions;
    struct fence_input input;
    struct fence_member members[HA_NODES_MAX];
    struct announced announced[HA_NODES_MAX];
    uint32_t announced_count;
    bool is_device_news;      /* something was announced since devices[] were made */
    uint64_t devices_applied; /* ... from the node names as of this entry */
    struct fence_device devices[HA_NODES_MAX][PEER_DEVICES_MAX]; /* parallel to announced */
    struct fence_request requests[RUNS_MAX];
    uint32_t request_count; /* slots in use */
    uint64_t request_high;
    uint64_t next_ms;
    uint32_t pending_count;  /* proposals of the last plan under way */
    uint64_t voter_proposal; /* not 0: a change of voters is under way */
    uint64_t voter_retry_ms; /* the log takes a new voter only when it has caught up */
    struct fence_sleep sleep;
};

/* ---- devices -----------------------------------------------------------------------------------
 */

/* What a node announced; NULL if it did not yet. */
static const struct announced *announced_by(const struct leader *l, uint32_t node)
{
    for (uint32_t i = 0; i < l->announced_count; i++) {
        if (l->announced[i].node == node)
            return &l->announced[i];
    }
    return NULL;
}

bool leader_knows_devices(const struct hamgrd *d, uint32_t node, struct ha_digest digest)
{
    const struct announced *a = announced_by(d->leader, node);

    return a && ha_digest_equal(a->digest, digest);
}

void leader_devices(struct hamgrd *d, uint32_t node, struct ha_digest digest,
                    const struct peer_devices *devices)
{
    struct leader *l = d->leader;
    uint32_t slot = 0;

    while (slot < l->announced_count && l->announced[slot].node != node)
        slot++;
    if (slot == HA_NODES_MAX)
        return;
    if (slot == l->announced_count)
        l->announced[l->announced_count++].node = node;
    struct announced *a = &l->announced[slot];
    size_t size = devices->count * sizeof(devices->list[0]);
    free(a->list);
    a->list = size > 0 ? malloc(size) : NULL;
    ha_assert(a->list || size == 0);
    if (size > 0)
        memcpy(a->list, devices->list, size);
    a->count = devices->count;
    a->digest = digest;
    a->is_mute = false;
    l->is_device_news = true;
}

static void convert_device(const struct hamgrd *d, const struct fencep_device *from,
                           struct fence_device *to)
{
    memset(to, 0, sizeof(*to));
    memcpy(to->name, from->name, sizeof(to->name));
    memcpy(to->agent, from->agent, sizeof(to->agent));
    to->level = from->level;
    to->timeout_ms = from->timeout_ms;
    to->is_for_all = from->is_for_all;
    for (uint32_t i = 0; i < from->node_count; i++) {
        const struct ha_node *node = ha_state_node_by_name(&d->state, from->nodes[i]);
        if (node)
            to->targets[to->target_count++] = node->id;
    }
}

/* For the leader's machine, which knows nodes by id. */
static void convert_devices(struct hamgrd *d)
{
    struct leader *l = d->leader;

    if (!d->rt.is_leader || (!l->is_device_news && l->devices_applied == d->state.applied))
        return;
    l->is_device_news = false;
    l->devices_applied = d->state.applied;
    for (uint32_t slot = 0; slot < l->announced_count; slot++) {
        for (uint32_t i = 0; i < l->announced[slot].count; i++)
            convert_device(d, &l->announced[slot].list[i], &l->devices[slot][i]);
    }
}

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t boot_ms(void)
{
    return read_clock(CLOCK_BOOTTIME) / 1000000;
}

/* The others, who may have taken the target back without us, have heard of us since we woke or went
 * on. */
static bool is_awake(struct hamgrd *d)
{
    fence_sleep_note(&d->leader->sleep, shell_now_ms(), slept_ns(read_clock));
    fence_sleep_went_on(&d->leader->sleep, log_went_on_ms(d->log, shell_now_ms()));
    return fence_sleep_is_over(&d->leader->sleep, log_lease_end_ms(d->log), d->rt.timing.lease_ms);
}

static void fill_input(struct hamgrd *d)
{
    struct leader *l = d->leader;
    struct fence_input *in = &l->input;

    convert_devices(d);
    in->state = &d->state;
    in->rt = &d->rt;
    in->member_count = 0;
    in->members = l->members;
    in->is_quorate = log_is_backed(d->log) && is_awake(d);
    if (!d->rt.is_leader)
        return; /* there the machine looks at nothing else */
    for (uint32_t i = 0; i < d->state.node_count; i++) { /* ascending */
        uint32_t id = d->state.nodes[i].id;
        const struct announced *a = announced_by(l, id);
        if (a) /* also of who is gone: it may have known more of a level than who is left */
            l->members[in->member_count++] =
                (struct fence_member){.node = id,
                                      .is_mute = a->is_mute,
                                      .device_count = a->count,
                                      .devices = l->devices[a - l->announced]};
        in->evidence_ms[i] = log_evidence_ms(d->log, id, d->rt.now_ms);
        in->is_needed[i] = in->is_quorate && d->state.nodes[i].status == HA_NODE_UNCLEAN &&
                           !log_hears_quorum_without(d->log, id);
        in->is_host_up[i] = d->transport && transport_is_host_up(d->transport, id);
    }
}

/* ---- running devices ---------------------------------------------------------------------------
 */

static void put_fence(struct ha_writer *w, const void *m)
{
    peer_fence_encode(w, m);
}

static void tell_result(struct hamgrd *d, uint32_t leader, const struct peer_fence *result)
{
    if (leader == d->identity.node)
        leader_fence_result(d, leader, result);
    else
        peers_send(d, PEER_FENCE_RESULT, leader, put_fence, result);
}

/* Nothing was run, or nobody will say how it ended: nothing is known. */
static void tell_failure(struct hamgrd *d, uint32_t leader, uint64_t run_id,
                         const struct fencep_run *run, const char *why)
{
    struct peer_fence result = {.id = run_id, .run = *run, .result = {.outcome = FENCEP_FAILED}};

    snprintf(result.result.text, sizeof(result.result.text), "%s", why);
    tell_result(d, leader, &result);
}

static uint64_t next_vouch_ms(const struct hamgrd *d)
{
    return shell_now_ms() + d->rt.timing.heartbeat_ms;
}

static void request_run(struct hamgrd *d, uint32_t leader, uint64_t run_id,
                        const struct fencep_run *run)
{
    struct leader *l = d->leader;
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    for (uint32_t i = 0; i < RUNS_MAX; i++) {
        if (l->requests[i].id)
            continue;
        struct fencep_run order = *run;
        order.end_ms = fence_order_end_ms(boot_ms(), d->rt.timing.heartbeat_ms);
        fencep_run_encode(&w, &order);
        if (link_send(d->fence_link, FENCEP_RUN, l->request_high + 1, body, w.position, NULL, 0) <
            0)
            break;
        l->requests[i] = (struct fence_request){.id = ++l->request_high,
                                                .run = run_id,
                                                .leader = leader,
                                                .vouch_ms = next_vouch_ms(d),
                                                .order = *run};
        l->request_count++;
        if (d->log)
            l->requests[i].view = log_view_now(d->log);
        return;
    }
    tell_failure(d, leader, run_id, run, "hamgr-fence can't be reached here");
}

/* Only what has not begun is cancelled: hamgr-fence answers either way. */
static void cancel_request(struct hamgrd *d, struct fence_request *r)
{
    uint8_t body[16];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (!r->id || r->is_cancelled)
        return;
    r->is_cancelled = true;
    fencep_cancel_encode(&w, &(struct fencep_cancel){.id = r->id});
    link_send(d->fence_link, FENCEP_CANCEL, 0, body, w.position, NULL, 0);
}

/* hamgr-fence begins no order behind our last word: we may hang, or be cut off and left behind. In
 * no open view we learn neither that the order's view is over nor that its leader took it back, a
 * quorum in reach or not: what was said with the order, four heartbeats, is all then. */
static void vouch(struct hamgrd *d, struct fence_request *r)
{
    uint8_t body[32];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (!r->id || r->is_cancelled)
        return;
    if (r->is_of_open_view && d->rt.now_ms >= r->vouch_ms && log_is_backed(d->log) && is_awake(d)) {
        r->vouch_ms = next_vouch_ms(d);
        fencep_vouch_encode(&w, &(struct fencep_vouch){.id = r->id,
                                                       .end_ms = fence_order_end_ms(
                                                           boot_ms(), d->rt.timing.heartbeat_ms)});
        link_send(d->fence_link, FENCEP_VOUCH, 0, body, w.position, NULL, 0);
    }
    if (r->vouch_ms > d->rt.now_ms && r->vouch_ms < d->leader->next_ms)
        d->leader->next_ms = r->vouch_ms;
}

/* A leader that died, or was left behind, takes nothing back: its orders end with its view. The
 * node they are about may have returned in the next one, which a node that is cut off promises
 * never: there they end with its lease. */
static void look_at_orders(struct hamgrd *d)
{
    for (uint32_t i = 0; d->leader->request_count > 0 && i < RUNS_MAX; i++) {
        struct fence_request *r = &d->leader->requests[i];
        r->is_of_open_view |= d->rt.is_open;
        bool is_closed = r->is_of_open_view && !d->rt.is_open;
        if (is_closed || log_view_cmp(r->view, log_view_now(d->log)) != 0)
            cancel_request(d, r);
        vouch(d, r);
    }
}

void leader_fence_run(struct hamgrd *d, uint32_t from, const struct peer_fence *request)
{
    struct fencep_run run = request->run;

    /* Of the view promised last: a leader that hung and wakes up behind its view fences nobody. */
    if (!d->log || log_view_now(d->log).leader != from)
        return;
    /* A cancel is a run without a device name: dropped at hamgr-fence if it has not begun. */
    if (run.device[0] != '\0') {
        if (is_awake(d))
            request_run(d, from, request->id, &run);
        else
            tell_failure(d, from, request->id, &run,
                         "this node slept or stood still, no quorum has heard it since");
        return;
    }
    for (uint32_t i = 0; i < RUNS_MAX; i++) {
        struct fence_request *r = &d->leader->requests[i];
        if (r->leader == from && r->run == request->id)
            cancel_request(d, r);
    }
}

static void start_run(struct hamgrd *d, const struct fence_action *action)
{
    struct peer_fence request = {.id = action->run};

    memcpy(request.run.device, action->device, sizeof(request.run.device));
    snprintf(request.run.node, sizeof(request.run.node), "%s", shell_node_name(d, action->node));
    request.run.action = action->action;
    request.run.timeout_ms = action->timeout_ms;
    qb_log(LOG_NOTICE, "fencing %s: device %s through %s", request.run.node, action->device,
           shell_node_name(d, action->by));
    if (action->by == d->identity.node)
        request_run(d, d->identity.node, action->run, &request.run);
    else
        peers_send(d, PEER_FENCE_RUN, action->by, put_fence, &request);
}

static void cancel_run(struct hamgrd *d, const struct fence_action *action)
{
    struct peer_fence request = {.id = action->run, .run = {.action = FENCEP_OFF}};

    if (action->by == d->identity.node)
        leader_fence_run(d, d->identity.node, &request);
    else
        peers_send(d, PEER_FENCE_RUN, action->by, put_fence, &request);
}

void leader_fence_result(struct hamgrd *d, uint32_t from, const struct peer_fence *result)
{
    qb_log(LOG_NOTICE, "fencing %s: device %s through %s: %s", result->run.node, result->run.device,
           shell_node_name(d, from), result->result.text);
    fence_fsm_result(d->fence, result->id, result->result.outcome, result->result.text);
    shell_wake(d);
}

static void on_result(struct hamgrd *d, const struct ha_packet *packet)
{
    struct peer_fence reply = {.run = {.action = FENCEP_OFF}};

    if (fencep_result_decode(packet->body, packet->body_size, &reply.result) < 0)
        return;
    for (uint32_t i = 0; i < RUNS_MAX; i++) {
        struct fence_request *r = &d->leader->requests[i];
        if (!r->id || r->id != packet->id)
            continue;
        reply.id = r->run;
        reply.run = r->order;
        r->id = 0;
        d->leader->request_count--;
        tell_result(d, r->leader, &reply);
    }
}

static void on_devices(struct hamgrd *d, const struct ha_packet *packet)
{
    static struct fencep_devices part;

    if (fencep_devices_decode(packet->body, packet->body_size, &part) < 0)
        return;
    if (part.device.name[0] != '\0' && d->incoming_devices.count < PEER_DEVICES_MAX)
        d->incoming_devices.list[d->incoming_devices.count++] = part.device;
    if (!part.is_last)
        return;
    d->own_devices.count = d->incoming_devices.count;
    memcpy(d->own_devices.list, d->incoming_devices.list,
           d->incoming_devices.count * sizeof(d->incoming_devices.list[0]));
    d->incoming_devices.count = 0;
    d->is_fence_listed = true;
    leader_devices(d, d->identity.node, (struct ha_digest){0}, &d->own_devices);
    d->devices_sent_ms = 0; /* tell the others at once */
    shell_wake(d);
}

static void on_packet(void *user, const struct ha_packet *packet)
{
    if (packet->type == FENCEP_RESULT)
        on_result(user, packet);
    else if (packet->type == FENCEP_DEVICES)
        on_devices(user, packet);
}

static void on_up(void *user)
{
    struct hamgrd *d = user;

    d->incoming_devices.count = 0;
    link_send(d->fence_link, FENCEP_LIST, 1, NULL, 0, NULL, 0);
}

static void on_down(void *user, const char *why)
{
    struct hamgrd *d = user;

    qb_log(LOG_WARNING, "hamgr-fence: connection lost: %s", why);
    d->own_devices.count = 0;
    d->is_fence_listed = false;
    for (uint32_t i = 0; i < d->leader->announced_count; i++)
        d->leader->announced[i].is_mute |= d->leader->announced[i].node == d->identity.node;
    for (uint32_t i = 0; i < RUNS_MAX; i++) {
        struct fence_request r = d->leader->requests[i];
        if (!r.id)
            continue;
        d->leader->requests[i].id = 0;
        d->leader->request_count--;
        tell_failure(d, r.leader, r.run, &r.order, "the connection to hamgr-fence was lost");
    }
    shell_wake(d);
}

void leader_open(struct hamgrd *d)
{
    static const struct link_callbacks callbacks = {
        .up = on_up, .packet = on_packet, .down = on_down};

    d->leader = calloc(1, sizeof(*d->leader));
    d->fence = calloc(1, sizeof(*d->fence));
    ha_assert(d->leader && d->fence);
    d->leader->next_ms = UINT64_MAX;
    fence_fsm_init(d->fence);
    d->fence_link = link_open(d->loop, FENCEP_SOCKET, &callbacks, d);
}

/* ---- deciding ----------------------------------------------------------------------------------
 */

static void run_fencing(struct hamgrd *d)
{
    struct leader *l = d->leader;

    fill_input(d);
    fence_fsm_step(d->fence, &l->input, &l->actions);
    for (uint32_t i = 0; i < l->actions.count; i++) {
        const struct fence_action *action = &l->actions.list[i];
        switch ((enum fence_action_type)action->type) {
        case FENCE_ACT_START:
            start_run(d, action);
            break;
        case FENCE_ACT_CANCEL:
            cancel_run(d, action);
            break;
        case FENCE_ACT_PROPOSE:
            propose_cmd(d, &action->cmd, NULL, NULL);
            break;
        }
    }
    if (l->actions.next_ms < l->next_ms)
        l->next_ms = l->actions.next_ms;
    fence_fsm_progress(d->fence, &l->input, d->rt.fences);
}

static void planned_done(void *user, int outcome, uint16_t reason, uint64_t index)
{
    struct hamgrd *d = user;

    (void)outcome;
    (void)reason;
    (void)index;
    d->leader->pending_count--;
    shell_wake(d);
}

/* Plans once per applied state: never twice on the same facts while its proposals are under way. */
static void run_plan(struct hamgrd *d)
{
    struct leader *l = d->leader;

    if (l->pending_count > 0)
        return;
    ha_plan(&d->state, &d->rt, &d->limits, d->plan_scratch, d->plan);
    for (uint32_t i = 0; i < d->plan->count; i++) {
        struct ha_cmd *cmd = &d->plan->proposals[i];
        if (cmd->actor[0] == '\0')
            snprintf(cmd->actor, sizeof(cmd->actor), "planner");
        l->pending_count++;
        propose_cmd(d, cmd, planned_done, d);
    }
    if (d->plan->next_ms < l->next_ms)
        l->next_ms = d->plan->next_ms;
}

static void voter_done(void *user, int outcome, uint16_t reason, uint64_t index)
{
    struct hamgrd *d = user;

    (void)reason;
    (void)index;
    d->leader->voter_proposal = 0;
    d->leader->voter_retry_ms = outcome == 0 ? 0 : shell_now_ms() + VOTER_RETRY_MS;
    shell_wake(d);
}

/* An added node that has joined the view becomes a voter; a node that came back with another store
 * loses its old vote first (one change per entry, H6). */
static void run_voters(struct hamgrd *d)
{
    struct leader *l = d->leader;

    if (d->rt.now_ms < l->voter_retry_ms) {
        l->next_ms = l->voter_retry_ms < l->next_ms ? l->voter_retry_ms : l->next_ms;
        return;
    }
    for (uint32_t i = 0; i < d->state.node_count && !l->voter_proposal; i++) {
        const struct ha_node *node = &d->state.nodes[i];
        if (node->status != HA_NODE_MEMBER)
            continue;
        bool is_other_store =
            node->is_voter && !ha_uuid_equal(node->store_id, node->joined_store_id);
        if (node->is_voter && !is_other_store)
            continue;
        struct log_voter_change change = {
            .is_added = !is_other_store, .node = node->id, .store_id = node->joined_store_id};
        l->voter_proposal = 1;
        propose_voter(d, &change, voter_done, d);
    }
}

void leader_run(struct hamgrd *d)
{
    struct leader *l = d->leader;

    l->next_ms = UINT64_MAX;
    if (!d->log)
        return;
    look_at_orders(d);
    run_fencing(d);
    if (!d->rt.is_leader)
        return;
    run_voters(d);
    run_plan(d);
}

uint64_t leader_next_ms(const struct hamgrd *d)
{
    return d->leader->next_ms;
}
