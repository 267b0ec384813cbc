/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop's side of the log: events in, actions out, in array order; and the daemon's start.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>
#include <errno.h>
#include <poll.h>
#include <sys/random.h>
#include <time.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/identity.h"
#include "quorum/msg.h"

#define LEASE_SLACK_MS   1000u /* lease = auto: the smallest allowed L and a second more */
#define DAMAGED_EVERY_MS 60000u
#define TICK_MS          100u  /* while migrations or transfers go on: repeats, deadlines */
#define TICK_IDLE_MS     1000u /* reports; each turn of the loop costs several calls of epoll */

uint64_t shell_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t shell_wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void shell_turn_begin(struct hamgrd *d)
{
    if (d->turn_depth++ == 0)
        d->turn_began_ms = shell_now_ms();
}

void shell_turn_end(struct hamgrd *d)
{
    uint64_t now_ms = shell_now_ms();

    ha_assert(d->turn_depth > 0);
    if (--d->turn_depth == 0)
        gap_note(&d->gap, now_ms, now_ms - d->turn_began_ms);
}

bool shell_is_current(const struct hamgrd *d)
{
    return d->live_from != UINT64_MAX && d->state.applied >= d->live_from;
}

int shell_node_slot(const struct hamgrd *d, uint32_t node)
{
    for (uint32_t i = 0; i < d->state.node_count; i++) {
        if (d->state.nodes[i].id == node)
            return (int)i;
    }
    return -1;
}

const char *shell_node_name(const struct hamgrd *d, uint32_t node)
{
    int slot = shell_node_slot(d, node);

    if (slot >= 0)
        return d->state.nodes[slot].name;
    for (uint32_t i = 0; i < d->corosync.node_count; i++) {
        if (d->corosync.nodes[i].id == node)
            return d->corosync.nodes[i].name;
    }
    return "(unknown node)";
}

/* ---- log actions -------------------------------------------------------------------------------
 */

static void fail_write(struct hamgrd *d, uint64_t token)
{
    struct log_event event = {.type = LOG_EV_PERSISTED};

    event.u.persisted.token = token;
    event.u.persisted.is_ok = false;
    d->rt.is_store_failed = true;
    shell_log_event(d, &event);
}

static void persist(struct hamgrd *d, const struct log_action *action)
{
    static struct log_entry entries[SHELL_RING_ENTRIES];
    struct store_write write = {.token = action->u.persist.token,
                                .has_promise = action->u.persist.has_promise,
                                .promised = action->u.persist.promised,
                                .has_log_view = action->u.persist.has_log_view,
                                .log_view = action->u.persist.log_view,
                                .truncate_from = action->u.persist.truncate_from,
                                .entries = entries};

    for (uint64_t i = action->u.persist.first; i && i <= action->u.persist.last; i++) {
        const struct log_entry *entry = log_entry_at(d->log, i);
        ha_assert(entry && write.entry_count < SHELL_RING_ENTRIES);
        entries[write.entry_count++] = *entry;
    }
    if (store_write(d->store, &write) < 0)
        fail_write(d, write.token);
}

static void view_changed(struct hamgrd *d, bool is_open)
{
    if (is_open && d->live_from == UINT64_MAX)
        d->live_from = log_commit_index(d->log);
    qb_log(LOG_NOTICE,
           is_open ? "view %" PRIu64 " is open, leader %s"
                   : "view %" PRIu64 " is closed here (leader was %s)",
           log_view_now(d->log).counter, shell_node_name(d, log_view_now(d->log).leader));
    shell_wake(d);
}

_Static_assert(LOG_MSG_MAX <= SHELL_MESSAGE_MAX, "the log's longest message can be sent");

void shell_multicast(struct hamgrd *d, const uint8_t *data, size_t size, bool is_heartbeat)
{
    static uint8_t buffer[SHELL_MESSAGE_MAX + sizeof(struct ha_digest)];
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));

    ha_assert(size <= SHELL_MESSAGE_MAX);
    if (!d->transport)
        return;
    ha_put_raw(&w, data, size);
    ha_put_digest(&w, peer_digest(d->identity.node, buffer, size));
    transport_send(d->transport, buffer, w.position, is_heartbeat);
}

static void carry_out(struct hamgrd *d, const struct log_action *action)
{
    switch ((enum log_action_type)action->type) {
    case LOG_ACT_SEND:
        shell_multicast(d, action->u.send.data, action->u.send.size, action->u.send.is_heartbeat);
        break;
    case LOG_ACT_PERSIST:
        persist(d, action);
        break;
    case LOG_ACT_COMMIT:
        apply_committed(d, action->u.commit.index);
        break;
    case LOG_ACT_VIEW_OPEN:
    case LOG_ACT_VIEW_CLOSED:
        view_changed(d, action->type == LOG_ACT_VIEW_OPEN);
        break;
    case LOG_ACT_LEASE:
        keeperlink_lease(d, action->u.lease.end_ms);
        break;
    case LOG_ACT_PROPOSED:
        if (action->u.proposed.is_unknown)
            propose_unknown(d, action->u.proposed.seq);
        else if (action->u.proposed.index == 0)
            propose_lost(d, action->u.proposed.seq);
        else
            propose_committed(d, action->u.proposed.seq, action->u.proposed.index);
        break;
    case LOG_ACT_SNAPSHOT_SEND:
        transfer_begin(d, action->u.snapshot.node, action->u.snapshot.have);
        break;
    case LOG_ACT_STOP:
        d->is_stopped = true;
        snprintf(d->alarm, sizeof(d->alarm), "%s", action->u.text.line);
        qb_log(LOG_CRIT, "the log stops: %s", action->u.text.line);
        break;
    case LOG_ACT_TRACE:
        qb_log(LOG_DEBUG, "log: %s", action->u.text.line);
        break;
    }
}

static void on_log_timer(void *data)
{
    struct hamgrd *d = data;
    struct log_event event = {.type = LOG_EV_TIMER};

    d->log_timer = 0;
    shell_turn_begin(d);
    shell_log_event(d, &event);
    shell_turn_end(d);
}

static void set_log_timer(struct hamgrd *d)
{
    uint64_t deadline_ms = log_deadline_ms(d->log);

    if (d->log_timer && d->log_timer_ms == deadline_ms)
        return; /* most messages leave it where it is */
    if (d->log_timer)
        qb_loop_timer_del(d->loop, d->log_timer);
    d->log_timer = 0;
    d->log_timer_ms = deadline_ms;
    if (deadline_ms == UINT64_MAX)
        return;
    uint64_t now_ms = shell_now_ms();
    uint64_t delay_ms = deadline_ms > now_ms ? deadline_ms - now_ms : 0;
    qb_loop_timer_add(d->loop, QB_LOOP_HIGH, delay_ms * QB_TIME_NS_IN_MSEC, d, on_log_timer,
                      &d->log_timer);
}

/* Events that come up while actions are carried out wait their turn: bodies are copied. */
struct waiting {
    struct waiting *next;
    struct log_event event;
    uint8_t bytes[];
};

static void defer(struct hamgrd *d, const struct log_event *event)
{
    const uint8_t *bytes = NULL;
    size_t size = 0;

    if (event->type == LOG_EV_PROPOSE) {
        bytes = event->u.propose.body;
        size = event->u.propose.body_size;
    } else if (event->type == LOG_EV_MESSAGE) {
        bytes = event->u.message.data;
        size = event->u.message.size;
    }
    struct waiting *item = malloc(sizeof(*item) + size);
    struct waiting **tail = &d->waiting;
    ha_assert(item);
    item->next = NULL;
    item->event = *event;
    if (size > 0)
        memcpy(item->bytes, bytes, size);
    if (event->type == LOG_EV_PROPOSE)
        item->event.u.propose.body = item->bytes;
    if (event->type == LOG_EV_MESSAGE)
        item->event.u.message.data = item->bytes;
    while (*tail)
        tail = &(*tail)->next;
    *tail = item;
}

static void run_actions(struct hamgrd *d)
{
    for (uint32_t i = 0; i < d->actions.count; i++)
        carry_out(d, &d->actions.list[i]);
    d->actions.count = 0;
}

static void step(struct hamgrd *d, struct log_event *event)
{
    event->now_ms = shell_now_ms();
    event->wall_ms = shell_wall_ms();
    log_step(d->log, event, &d->actions);
    run_actions(d);
}

void shell_log_event(struct hamgrd *d, struct log_event *event)
{
    if (!d->log)
        return;
    if (d->is_stepping) {
        defer(d, event);
        return;
    }
    d->is_stepping = true;
    step(d, event);
    while (d->waiting) {
        struct waiting *item = d->waiting;
        d->waiting = item->next;
        step(d, &item->event);
        free(item);
    }
    d->is_stepping = false;
    set_log_timer(d);
}

void shell_log_trim(struct hamgrd *d, uint64_t index)
{
    if (!d->log || d->is_stepping)
        return; /* the next snapshot trims */
    d->is_stepping = true;
    log_trim(d->log, index, &d->actions);
    run_actions(d);
    d->is_stepping = false;
    set_log_timer(d);
}

/* ---- store completions -------------------------------------------------------------------------
 */

static int32_t on_store(int32_t fd, int32_t events, void *data)
{
    struct hamgrd *d = data;
    struct store_done done;

    (void)fd;
    (void)events;
    shell_turn_begin(d);
    while (store_take(d->store, &done)) {
        if (!done.is_ok && !d->rt.is_store_failed) {
            d->rt.is_store_failed = true;
            qb_log(LOG_CRIT, "the store failed, this node's vote is resigned: %s", done.err.text);
        }
        if (done.token == d->snapshot_token && d->snapshot_token) {
            apply_snapshot_done(d, &done);
        } else if (!transfer_stored(d, &done)) {
            struct log_event event = {.type = LOG_EV_PERSISTED};
            event.u.persisted.token = done.token;
            event.u.persisted.is_ok = done.is_ok;
            shell_log_event(d, &event);
        }
    }
    shell_turn_end(d);
    return 0;
}

/* ---- transport ---------------------------------------------------------------------------------
 */

static int load_entry(void *user, const struct log_entry *entry)
{
    struct hamgrd *d = user;

    return log_load(d->log, entry);
}

static int make_log(struct hamgrd *d, struct ha_err *err)
{
    struct log_loaded loaded;
    uint32_t ring_entries = d->ring_entries > 0 ? d->ring_entries : SHELL_RING_ENTRIES;
    struct log_config config = {.cluster_id = d->identity.cluster_id,
                                .generation = d->identity.generation,
                                .timing = d->rt.timing,
                                .ring_entries = ring_entries,
                                .ring_bytes = SHELL_RING_BYTES};

    config.self = (struct log_member){.node = d->identity.node,
                                      .nonce = d->nonce,
                                      .store_id = d->identity.store_id,
                                      .proto_min = LOG_PROTO_MIN,
                                      .proto_max = LOG_PROTO_MAX};
    int rc = identity_read(&config.self.boot_id, &config.self.hw_id, err);
    if (rc == 0)
        rc = store_load(d->store, &loaded, err);
    if (rc < 0)
        return rc;
    if (getrandom(&config.rng_seed, sizeof(config.rng_seed), 0) < 0)
        config.rng_seed = d->nonce;
    loaded.now_ms = shell_now_ms();
    loaded.proto = d->state.proto; /* of the snapshot that apply_load has read */
    size_t size = (log_memory_size(&config) + 63) / 64 * 64;
    d->log_memory = aligned_alloc(64, size);
    ha_assert(d->log_memory);
    d->log = log_init(d->log_memory, &config, &loaded);
    rc = store_each_entry(d->store, load_entry, d, err);
    if (rc <
        0) { /* half a log must not be taken for one when corosync's configuration comes again */
        free(d->log_memory);
        d->log_memory = NULL;
        d->log = NULL;
    }
    return rc;
}

static bool check_lease(struct hamgrd *d)
{
    struct log_timing *t = &d->rt.timing;

    t->token_ms = d->corosync.token_ms;
    t->consensus_ms = d->corosync.consensus_ms;
    uint32_t least_ms = log_lease_min_ms(t);
    t->lease_ms = d->config.lease_ms ? d->config.lease_ms : least_ms + LEASE_SLACK_MS;
    d->rt.lease_ms = t->lease_ms;
    d->rt.hold_ms = log_hold_ms(t);
    if (t->lease_ms >= least_ms)
        return true;
    snprintf(d->alarm, sizeof(d->alarm),
             "[cluster] lease: %u ms is less than 2 (token %u + consensus %u) + 3 x %u = %u ms: "
             "a ring change would outlast it",
             t->lease_ms, t->token_ms, t->consensus_ms, t->heartbeat_ms, least_ms);
    qb_log(LOG_ERR, "%s", d->alarm);
    return false;
}

static bool take_config(struct hamgrd *d, const struct transport_config *config)
{
    struct ha_err err = {0};
    const char *refusal = transport_config_refusal(config);

    d->corosync = *config;
    if (refusal) {
        snprintf(d->alarm, sizeof(d->alarm), "%s", refusal);
        qb_log(LOG_ERR, "corosync's configuration is refused: %s", refusal);
        return false;
    }
    if (config->self != d->identity.node) {
        snprintf(d->alarm, sizeof(d->alarm),
                 "corosync's nodeid is %u, but this node's store is of "
                 "node %u",
                 config->self, d->identity.node);
        qb_log(LOG_ERR, "%s", d->alarm);
        return false;
    }
    if (!check_lease(d))
        return false;
    if (!d->log && make_log(d, &err) < 0) {
        snprintf(d->alarm, sizeof(d->alarm), "the log can't be loaded: %.200s", err.text);
        qb_log(LOG_CRIT, "%s", d->alarm);
        return false;
    }
    if (!d->is_stopped) /* why it stopped stays true */
        d->alarm[0] = '\0';
    return true;
}

static bool on_config(void *user, const struct transport_config *config)
{
    shell_turn_begin(user);
    bool is_accepted = take_config(user, config);
    shell_turn_end(user);
    return is_accepted;
}

/* Who comes, also as a new process (it leaves before), has not heard of our devices. */
static void note_members(struct hamgrd *d, const uint32_t *nodes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t known = 0;
        while (known < d->member_count && d->members[known] != nodes[i])
            known++;
        if (known < d->member_count)
            continue;
        d->devices_sent_ms = 0;
        things_newcomer(d);
    }
    d->member_count = count;
    memcpy(d->members, nodes, count * sizeof(nodes[0]));
}

static void on_members(void *user, const uint32_t *nodes, uint32_t count)
{
    struct hamgrd *d = user;
    struct log_event event = {.type = LOG_EV_MEMBERS};

    event.u.members.count = count;
    memcpy(event.u.members.nodes, nodes, count * sizeof(nodes[0]));
    qb_log(LOG_INFO, "corosync: %u members of the group", count);
    note_members(d, nodes, count);
    shell_turn_begin(user);
    shell_log_event(user, &event);
    shell_turn_end(user);
}

/* Foreign processes in our group, or memory that fails: said once a minute. */
static void note_damaged(struct hamgrd *d, uint32_t from)
{
    uint64_t now_ms = shell_now_ms();

    d->damaged_count++;
    if (d->damaged_ms && now_ms < d->damaged_ms + DAMAGED_EVERY_MS)
        return;
    d->damaged_ms = now_ms;
    qb_log(LOG_WARNING,
           "a message from %s is no hamgrd's, or was damaged: dropped | dropped so far=%" PRIu64,
           shell_node_name(d, from), d->damaged_count);
}

static void on_message(void *user, uint32_t from, const uint8_t *data, size_t size)
{
    struct log_event event; /* large, and most of it another kind's: not cleared for each message */

    shell_turn_begin(user);
    if (!peer_is_whole(from, data, &size)) {
        note_damaged(user, from);
    } else if (peer_is_message(data, size)) {
        peers_message(user, from, data, size);
    } else {
        event.type = LOG_EV_MESSAGE;
        event.u.message.from = from;
        event.u.message.data = data;
        event.u.message.size = size;
        shell_log_event(user, &event);
    }
    shell_turn_end(user);
}

static void on_down(void *user, const char *why)
{
    struct hamgrd *d = user;
    struct log_event event = {.type = LOG_EV_DOWN};

    qb_log(LOG_WARNING, "corosync: connection lost: %s", why);
    d->member_count = 0;
    shell_turn_begin(user);
    shell_log_event(user, &event);
    shell_turn_end(user);
}

static void on_health(void *user, enum transport_health health, const char *why)
{
    struct hamgrd *d = user;

    if (health != d->rt.corosync_health)
        qb_log(health == TRANSPORT_OK ? LOG_NOTICE : LOG_WARNING, "corosync: %s", why);
    d->rt.corosync_health = (uint8_t)health;
    snprintf(d->rt.corosync_text, sizeof(d->rt.corosync_text), "%s", why);
}

/* ---- the loop's own work -----------------------------------------------------------------------
 */

void shell_refresh(struct hamgrd *d)
{
    struct ha_runtime *rt = &d->rt;
    uint32_t votes;

    rt->now_ms = shell_now_ms();
    rt->wall_ms = shell_wall_ms();
    rt->self = d->identity.node;
    rt->store_stall_ms = store_stall_ms(d->store);
    rt->loop_gap_ms = gap_recent_ms(&d->gap, rt->now_ms);
    rt->loop_gap_ms_max = d->gap.max_ms;
    rt->commit_us = propose_median_us(d);
    if (d->transport)
        rt->is_votequorum_quorate =
            transport_votequorum(d->transport, &rt->is_votequorum_quorate, &votes) &&
            rt->is_votequorum_quorate;
    if (!d->log)
        return;
    const struct ha_node *self = ha_state_node(&d->state, d->identity.node);
    /* The log may have us in its view while the state refuses our identity: then we do nothing. */
    bool is_taken_in = self && self->nonce == d->nonce && self->status == HA_NODE_MEMBER;
    rt->is_open = log_is_open(d->log) && !d->is_stopped && is_taken_in;
    /* As leader it would do nothing, either. The state knows as soon as it has the view's OPEN. */
    if (log_is_open(d->log) && log_view_cmp(d->state.view, log_view_now(d->log)) == 0)
        log_stand_back(d->log, !is_taken_in);
    rt->is_leader = rt->is_open && log_is_leader(d->log);
    rt->view = log_view_now(d->log);
    rt->view_age_ms = log_view_age_ms(d->log, rt->now_ms);
    rt->commit_index = log_commit_index(d->log);
    rt->lease_end_ms = log_lease_end_ms(d->log);
    rt->voter_count = log_voter_count(d->log);
}

static void on_look(void *data)
{
    struct hamgrd *d = data;

    d->look_timer = 0;
    shell_wake(d);
}

static void set_look_timer(struct hamgrd *d)
{
    uint64_t next_ms = d->duties->next_ms;
    uint64_t now_ms = shell_now_ms();

    if (leader_next_ms(d) < next_ms)
        next_ms = leader_next_ms(d);
    if (d->look_timer)
        qb_loop_timer_del(d->loop, d->look_timer);
    d->look_timer = 0;
    if (next_ms == UINT64_MAX)
        return;
    /* At least a millisecond on: a deadline that stays in the past must not spin the loop. */
    uint64_t delay_ms = next_ms > now_ms ? next_ms - now_ms : 1;
    qb_loop_timer_add(d->loop, QB_LOOP_MED, delay_ms * QB_TIME_NS_IN_MSEC, d, on_look,
                      &d->look_timer);
}

static void work(void *data)
{
    struct hamgrd *d = data;

    d->is_woken = false;
    shell_turn_begin(d);
    shell_refresh(d);
    duties_run(d);
    leader_run(d);
    propose_pump(d);
    peers_report(d);
    set_look_timer(d);
    if (d->server)
        server_poke(d->server);
    shell_turn_end(d);
}

void shell_wake(struct hamgrd *d)
{
    if (d->is_woken)
        return;
    d->is_woken = true;
    /* A timer, not a job: libqb lets jobs wait for up to 50 ms when nothing else goes on. */
    qb_loop_timer_handle now;
    qb_loop_timer_add(d->loop, QB_LOOP_HIGH, 0, d, work, &now);
}

static void set_tick(struct hamgrd *d, uint32_t after_ms);

static void on_tick(void *data)
{
    struct hamgrd *d = data;
    uint64_t now_ms = shell_now_ms();

    /* A late tick: something kept the loop away, inside a callback or outside of all. */
    if (d->tick_due_ms && now_ms > d->tick_due_ms)
        gap_note(&d->gap, now_ms, now_ms - d->tick_due_ms);
    shell_turn_begin(d);
    shell_refresh(d);
    moves_tick(d);
    probe_tick(d);
    forecast_tick(d);
    doctor_tick(d);
    things_tick(d);
    transfer_tick(d);
    if (d->rt.now_ms >= d->report_sent_ms + 1000)
        shell_wake(d);
    shell_turn_end(d);
    bool is_busy = d->moves || d->transfers || d->move_notes || d->forecast_waits ||
                   probe_is_busy(d) || doctor_is_busy(d);
    set_tick(d, is_busy ? TICK_MS : TICK_IDLE_MS);
}

static void set_tick(struct hamgrd *d, uint32_t after_ms)
{
    d->tick_due_ms = shell_now_ms() + after_ms;
    qb_loop_timer_add(d->loop, QB_LOOP_LOW, after_ms * QB_TIME_NS_IN_MSEC, d, on_tick,
                      &d->second_timer);
}

void shell_tick_soon(struct hamgrd *d)
{
    if (d->tick_due_ms <= shell_now_ms() + TICK_MS)
        return;
    qb_loop_timer_del(d->loop, d->second_timer);
    set_tick(d, TICK_MS);
}

static void prepare(struct hamgrd *d)
{
    struct ha_guest *guests = calloc(HA_GUESTS_MAX, sizeof(*guests));

    d->duties = calloc(1, sizeof(*d->duties));
    d->plan = calloc(1, sizeof(*d->plan));
    d->plan_scratch = calloc(1, sizeof(*d->plan_scratch));
    ha_assert(guests && d->duties && d->plan && d->plan_scratch);
    ha_state_init(&d->state, guests, HA_GUESTS_MAX);
    d->duties->next_ms = UINT64_MAX;
    d->live_from = UINT64_MAX;
    d->token_high = UINT64_MAX;
    d->started_ms = shell_now_ms();
    d->rt.timing = (struct log_timing){.heartbeat_ms = d->config.heartbeat_ms,
                                       .keeper_ms = d->config.keeper_ms,
                                       .reset_ms = d->config.reset_ms,
                                       .drain_ms = d->config.drain_ms,
                                       .rho_ppm = 5000};
    d->limits = (struct ha_plan_limits){.start_parallel = d->config.start_parallel,
                                        .move_parallel = d->config.parallel,
                                        .proposals_max = HA_PROPOSALS_MAX,
                                        .shutdown = d->config.shutdown,
                                        .max_downtime_ms = d->config.max_downtime_ms,
                                        .deadline_ms = d->config.deadline_ms};
}

int shell_start(struct hamgrd *d, struct ha_err *err)
{
    static const struct transport_callbacks callbacks = {.members = on_members,
                                                         .message = on_message,
                                                         .down = on_down,
                                                         .config = on_config,
                                                         .health = on_health};
    char group[64];

    if (getrandom(&d->nonce, sizeof(d->nonce), 0) != (ssize_t)sizeof(d->nonce))
        return ha_err_set(err, EIO, "no random bytes for the process nonce");
    prepare(d);
    int rc = apply_load(d, err);
    if (rc < 0)
        return rc;
    qb_loop_poll_add(d->loop, QB_LOOP_HIGH, store_fd(d->store), POLLIN, d, on_store);
    leader_open(d);
    doctor_open(d);
    hvlink_open(d);
    keeperlink_open(d);
    snprintf(group, sizeof(group), "hamgr");
    rc = transport_open(d->loop, group, &callbacks, d, &d->transport, err);
    on_tick(d);
    return rc;
}

void shell_stop(struct hamgrd *d)
{
    probe_free(d);
    server_close(d->server);
    transport_close(d->transport);
    link_close(d->hv);
    link_close(d->keeper);
    link_close(d->fence_link);
    store_close(d->store, 2000);
    things_free(d);
}
