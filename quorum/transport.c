/* SPDX-License-Identifier: Apache-2.0 */
#include "quorum/transport.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/sockios.h>

#include "hamgr/base/assert.h"
#include "quorum/corosync_queue.h"
#include "quorum/corosync_worker.h"

/* Reconnecting: at once quick (corosync is restarting), then once a second: an attempt costs one
 * refused connect, and every second of it is a second without this node. */
#define BACKOFF_FIRST_MS 50u
#define BACKOFF_MAX_MS   1000u
/* A refused configuration changes only by an operator's hand. */
#define REFUSED_MS 2000u
#define PING_MS    500u
/* A healthy corosync answers in less than 1 ms, a starved one within its scheduling pauses, which
 * it reports itself from 0.8 x token. A second without an answer is worth a word. */
#define HANG_MS      1000u
#define CONGESTED_MS 500u
/* Back-pressure: corosync looks at its own flow control every millisecond. */
#define RETRY_FIRST_MS 1u
#define RETRY_MAX_MS   16u
/* One turn of dispatching: no other event of the loop waits longer for us. */
#define TURN_MESSAGES 256u
#define TURN_MS       10u

enum state {
    STATE_IDLE,       /* waits for the back-off to pass */
    STATE_CONNECTING, /* job CONNECT */
    STATE_JOINING,    /* job JOIN */
    STATE_UP,
    STATE_CLOSING, /* job DISCONNECT, as soon as the worker is free */
};

struct transport {
    qb_loop_t *loop;
    struct transport_callbacks callbacks;
    void *user;
    struct corosync_worker *worker;
    enum state state;
    unsigned depth;     /* calls from the loop in progress */
    bool is_closed;     /* freed when depth is 0 */
    bool has_overflown; /* the connection is dropped in the next turn */
    cpg_handle_t cpg;
    int cpg_fd;
    int unread_max;        /* bytes (as the socket counts) corosync may leave unread */
    bool is_ring_changing; /* a confchg of a ring change came, its totem change not yet */
    uint32_t member_count;
    uint32_t members[HA_NODES_MAX];
    uint32_t ring_count; /* nodes of corosync's ring, whether their hamgrd is in the group or not */
    uint32_t ring[HA_NODES_MAX];
    uint32_t backoff_ms;
    uint32_t retry_ms;
    uint64_t blocked_since_ms; /* 0: the queue is empty */
    struct corosync_queue queue;
    qb_loop_timer_handle connect_timer;
    qb_loop_timer_handle ping_timer;
    qb_loop_timer_handle hang_timer;
    qb_loop_timer_handle retry_timer;
    qb_loop_timer_handle drop_timer;
    bool is_hanging;
    enum transport_health health;
    char why[HA_TEXT_MAX];  /* the last reason for not being up */
    char told[HA_TEXT_MAX]; /* the one last given with TRANSPORT_DOWN */
    bool has_votes;
    bool is_quorate;
    uint32_t votes;
};

static int32_t on_readable(int32_t fd, int32_t revents, void *data);
static void on_connect_time(void *data);
static void on_ping_time(void *data);
static void on_hang_time(void *data);
static void on_retry_time(void *data);

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void timer_start(struct transport *t, qb_loop_timer_handle *timer, uint32_t after_ms,
                        qb_loop_timer_dispatch_fn fn)
{
    int32_t r =
        qb_loop_timer_add(t->loop, QB_LOOP_HIGH, (uint64_t)after_ms * 1000000u, t, fn, timer);

    ha_assert(r == 0); /* fails only without memory */
}

static void timer_stop(struct transport *t, qb_loop_timer_handle *timer)
{
    if (*timer != 0)
        qb_loop_timer_del(t->loop, *timer);
    *timer = 0;
}

/* --- life of the object: a callback may close it --- */

static void enter(struct transport *t)
{
    t->depth++;
}

static void leave(struct transport *t)
{
    if (--t->depth == 0 && t->is_closed)
        free(t);
}

/* --- health --- */

static const char *health_text(const struct transport *t, enum transport_health health)
{
    switch (health) {
    case TRANSPORT_OK:
        return "corosync carries messages";
    case TRANSPORT_DOWN:
        return t->why;
    case TRANSPORT_HANGS:
        return "corosync hangs: it has not answered for a second or more";
    case TRANSPORT_CONGESTED:
        return "corosync takes no messages: it is synchronising or overloaded";
    }
    return "";
}

static enum transport_health health_now(const struct transport *t)
{
    if (t->is_hanging)
        return TRANSPORT_HANGS;
    if (t->state != STATE_UP)
        return TRANSPORT_DOWN;
    if (t->blocked_since_ms != 0 && now_ms() - t->blocked_since_ms >= CONGESTED_MS)
        return TRANSPORT_CONGESTED;
    return TRANSPORT_OK;
}

/* On a change; while down also when the reason is another one. */
static void tell_health(struct transport *t)
{
    enum transport_health health = health_now(t);
    bool is_news =
        health != t->health || (health == TRANSPORT_DOWN && strcmp(t->why, t->told) != 0);

    if (!is_news || t->is_closed)
        return;
    t->health = health;
    if (health == TRANSPORT_DOWN)
        memcpy(t->told, t->why, sizeof(t->told));
    if (t->callbacks.health)
        t->callbacks.health(t->user, health, health_text(t, health));
}

/* --- the worker --- */

static void submit(struct transport *t, enum corosync_job job)
{
    corosync_worker_submit(t->worker, job);
    timer_start(t, &t->hang_timer, HANG_MS, on_hang_time);
}

static void on_hang_time(void *data)
{
    struct transport *t = data;

    enter(t);
    t->hang_timer = 0;
    t->is_hanging = true;
    tell_health(t);
    leave(t);
}

static void wait_and_connect(struct transport *t, uint32_t after_ms)
{
    t->state = STATE_IDLE;
    timer_start(t, &t->connect_timer, after_ms, on_connect_time);
}

static void back_off(struct transport *t)
{
    wait_and_connect(t, t->backoff_ms);
    t->backoff_ms = t->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : t->backoff_ms * 2;
}

static void on_connect_time(void *data)
{
    struct transport *t = data;

    t->connect_timer = 0;
    t->state = STATE_CONNECTING;
    submit(t, COROSYNC_CONNECT);
}

static void on_ping_time(void *data)
{
    struct transport *t = data;

    t->ping_timer = 0;
    if (t->state == STATE_UP && !corosync_worker_is_busy(t->worker))
        submit(t, COROSYNC_PING);
}

static void remember_why(struct transport *t, const char *why)
{
    snprintf(t->why, sizeof(t->why), "%s", why);
}

/* Gives the handle back to the worker; it may be busy with a ping that hangs. */
static void close_connection(struct transport *t)
{
    t->state = STATE_CLOSING;
    if (!corosync_worker_is_busy(t->worker))
        submit(t, COROSYNC_DISCONNECT);
}

/* The connection is of no use any more. down is called only if the group was joined. */
static void lose(struct transport *t, const char *why)
{
    bool was_up = t->state == STATE_UP;

    remember_why(t, why);
    if (was_up)
        qb_loop_poll_del(t->loop, t->cpg_fd);
    timer_stop(t, &t->ping_timer);
    timer_stop(t, &t->retry_timer);
    corosync_queue_clear(&t->queue);
    t->blocked_since_ms = 0;
    t->has_overflown = false;
    t->has_votes = false;
    t->member_count = 0;
    close_connection(t);
    if (was_up && t->callbacks.down)
        t->callbacks.down(t->user, t->why);
    tell_health(t);
}

/* --- sending --- */

enum sent { SENT_OK, SENT_LATER, SENT_NEVER };

/* libqb tells corosync of each message by one byte on a socket and spins when the socket is full:
 * with a stopped corosync, after a few hundred messages, for ever. What corosync has left unread
 * says whether that can happen. */
static bool is_taking(const struct transport *t)
{
    int unread = 0;

    return ioctl(t->cpg_fd, SIOCOUTQ, &unread) == 0 && unread <= t->unread_max;
}

static enum sent try_send(struct transport *t, const uint8_t *data, size_t size)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};

    if (!is_taking(t))
        return SENT_LATER;
    cs_error_t cs = cpg_mcast_joined(t->cpg, CPG_TYPE_AGREED, &iov, 1);
    if (cs == CS_OK)
        return SENT_OK;
    return cs == CS_ERR_TRY_AGAIN ? SENT_LATER : SENT_NEVER;
}

static void on_drop_time(void *data)
{
    struct transport *t = data;

    enter(t);
    t->drop_timer = 0;
    if (t->state == STATE_UP && t->has_overflown)
        lose(t, "corosync has taken no messages for too long: the queue is full");
    leave(t);
}

/* From inside transport_send no callback may run: the loop's next turn drops the connection. (A
 * timer, not a qb_loop job: with a job to do libqb waits up to 50 ms for descriptors first.) */
static void drop_soon(struct transport *t)
{
    t->has_overflown = true;
    if (t->drop_timer == 0)
        timer_start(t, &t->drop_timer, 0, on_drop_time);
}

static void hold_back(struct transport *t, const uint8_t *data, size_t size, bool is_heartbeat)
{
    if (corosync_queue_push(&t->queue, data, size, is_heartbeat) < 0) {
        drop_soon(t);
        return;
    }
    if (t->blocked_since_ms == 0)
        t->blocked_since_ms = now_ms();
    if (t->retry_timer == 0)
        timer_start(t, &t->retry_timer, t->retry_ms, on_retry_time);
}

void transport_send(struct transport *t, const uint8_t *data, size_t size, bool is_heartbeat)
{
    ha_assert(size > 0 && size <= TRANSPORT_MESSAGE_MAX);
    if (t->state != STATE_UP || t->has_overflown || t->is_closed)
        return;
    /* Order: what waits goes first, except that a heartbeat never waits behind the others. */
    enum sent sent = SENT_LATER;
    if (is_heartbeat || !corosync_queue_head(&t->queue))
        sent = try_send(t, data, size);
    if (sent == SENT_LATER)
        hold_back(t, data, size, is_heartbeat);
    else if (is_heartbeat)
        corosync_queue_drop_heartbeat(&t->queue);
    /* SENT_NEVER: the connection is dead; its fd tells the loop, which calls down. */
}

/* Sends what waits, as far as corosync takes it, for one turn: a corosync that wakes up would take
 * thousands in a row. */
static void flush(struct transport *t)
{
    const struct corosync_message *message;
    uint64_t end_ms = now_ms() + TURN_MS;

    while ((message = corosync_queue_head(&t->queue)) != NULL) {
        if (now_ms() >= end_ms || try_send(t, message->data, message->size) == SENT_LATER)
            break;
        corosync_queue_pop(&t->queue);
        t->blocked_since_ms = now_ms();
        t->retry_ms = RETRY_FIRST_MS;
    }
    if (!message) {
        t->blocked_since_ms = 0;
        timer_stop(t, &t->retry_timer);
    }
    tell_health(t);
}

static void on_retry_time(void *data)
{
    struct transport *t = data;

    enter(t);
    t->retry_timer = 0;
    if (t->state == STATE_UP) {
        t->retry_ms = t->retry_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : t->retry_ms * 2;
        flush(t);
    }
    if (t->state == STATE_UP && !t->is_closed && corosync_queue_head(&t->queue))
        timer_start(t, &t->retry_timer, t->retry_ms, on_retry_time);
    leave(t);
}

/* --- receiving --- */

static struct transport *transport_of(cpg_handle_t cpg)
{
    void *context = NULL;
    cs_error_t cs = cpg_context_get(cpg, &context);

    ha_assert(cs == CS_OK && context);
    return context;
}

static void on_message(cpg_handle_t cpg, const struct cpg_name *group, uint32_t node, uint32_t pid,
                       void *data, size_t size)
{
    struct transport *t = transport_of(cpg);

    (void)group;
    (void)pid; /* processes tell themselves apart by the nonce in each message */
    if (t->state == STATE_UP && !t->is_closed)
        t->callbacks.message(t->user, node, data, size);
}

/* Nodes of the group's processes, ascending, each once: corosync lists them by node, then pid. */
static void note_members(struct transport *t, const struct cpg_address *list, size_t count)
{
    t->member_count = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t at = t->member_count;
        while (at > 0 && t->members[at - 1] > list[i].nodeid)
            at--;
        if ((at > 0 && t->members[at - 1] == list[i].nodeid) || t->member_count == HA_NODES_MAX)
            continue;
        memmove(&t->members[at + 1], &t->members[at],
                (t->member_count - at) * sizeof(t->members[0]));
        t->members[at] = list[i].nodeid;
        t->member_count++;
    }
}

static bool is_of_ring(const struct cpg_address *list, size_t count)
{
    return count > 0 &&
           (list[0].reason == CPG_REASON_NODEDOWN || list[0].reason == CPG_REASON_NODEUP);
}

static void tell_members(struct transport *t)
{
    if (t->state == STATE_UP && t->member_count > 0 && !t->is_closed)
        t->callbacks.members(t->user, t->members, t->member_count);
}

/* A ring change gives one confchg for those that left, one for those that came, then the totem
 * change: only that one is told. A process that comes or goes on an unchanged ring is told at once.
 */
static void on_confchg(cpg_handle_t cpg, const struct cpg_name *group,
                       const struct cpg_address *members, size_t member_count,
                       const struct cpg_address *left, size_t left_count,
                       const struct cpg_address *joined, size_t joined_count)
{
    struct transport *t = transport_of(cpg);

    (void)group;
    note_members(t, members, member_count);
    if (is_of_ring(left, left_count) || is_of_ring(joined, joined_count))
        t->is_ring_changing = true;
    else if (!t->is_ring_changing)
        tell_members(t);
}

/* Also called when the list did not change: a node was away so shortly that nobody else noticed. */
static void on_totem_confchg(cpg_handle_t cpg, struct cpg_ring_id ring, uint32_t count,
                             const uint32_t *nodes)
{
    struct transport *t = transport_of(cpg);

    (void)ring; /* not unique over corosync's restarts: never used as a view */
    t->ring_count = count < HA_NODES_MAX ? count : HA_NODES_MAX;
    memcpy(t->ring, nodes, t->ring_count * sizeof(t->ring[0]));
    t->is_ring_changing = false;
    tell_members(t);
}

static int32_t on_readable(int32_t fd, int32_t revents, void *data)
{
    struct transport *t = data;
    uint64_t end_ms = now_ms() + TURN_MS;
    cs_error_t cs = CS_OK;

    (void)fd;
    (void)revents;
    enter(t);
    for (unsigned i = 0; i < TURN_MESSAGES && cs == CS_OK && now_ms() < end_ms; i++) {
        cs = cpg_dispatch(t->cpg, CS_DISPATCH_ONE_NONBLOCKING);
        if (t->state != STATE_UP || t->is_closed)
            break;
    }
    if (t->state == STATE_UP && !t->is_closed) {
        if (cs != CS_OK && cs != CS_ERR_TRY_AGAIN)
            lose(t, "the connection to corosync broke: it stopped, crashed or was restarted");
        else if (corosync_queue_head(&t->queue))
            flush(t);
    }
    leave(t);
    return 0;
}

/* --- reports --- */

/* Asks the owner; false: the connection (or the transport) is being closed. */
static bool accept_config(struct transport *t, const struct transport_config *config)
{
    if (!t->callbacks.config || t->callbacks.config(t->user, config))
        return !t->is_closed;
    if (!t->is_closed) {
        const char *refusal = transport_config_refusal(config);
        t->backoff_ms = REFUSED_MS;
        lose(t, refusal ? refusal : "corosync's configuration is refused");
    }
    return false;
}

static void on_connected(struct transport *t, const struct corosync_report *report)
{
    if (report->err.code != 0) {
        remember_why(t, report->err.text);
        back_off(t);
        return;
    }
    t->cpg = report->cpg;
    if (!accept_config(t, &report->config))
        return;
    t->state = STATE_JOINING;
    submit(t, COROSYNC_JOIN);
}

/* A quarter of the send buffer: far from full, and enough for every burst a live corosync leaves
 * unread between two turns of its loop. */
static int unread_max(int fd)
{
    int size = 0;
    socklen_t length = sizeof(size);

    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) != 0)
        return 0;
    return size / 4;
}

static void on_joined(struct transport *t, const struct corosync_report *report)
{
    if (report->err.code != 0) {
        lose(t, report->err.text);
        return;
    }
    cs_error_t cs = cpg_fd_get(t->cpg, &t->cpg_fd);
    if (cs != CS_OK ||
        qb_loop_poll_add(t->loop, QB_LOOP_HIGH, t->cpg_fd, POLLIN, t, on_readable) != 0) {
        lose(t, "corosync's descriptor can't be polled");
        return;
    }
    t->unread_max = unread_max(t->cpg_fd);
    t->state = STATE_UP;
    t->is_ring_changing = false;
    t->member_count = 0;
    t->backoff_ms = BACKOFF_FIRST_MS;
    t->retry_ms = RETRY_FIRST_MS;
    timer_start(t, &t->ping_timer, PING_MS, on_ping_time);
}

static void on_pinged(struct transport *t, const struct corosync_report *report)
{
    if (t->state != STATE_UP) { /* lost meanwhile */
        close_connection(t);
        return;
    }
    if (report->err.code != 0) {
        lose(t, report->err.text);
        return;
    }
    t->has_votes = report->has_votes;
    t->is_quorate = report->is_quorate;
    t->votes = report->votes;
    if (report->has_config && !accept_config(t, &report->config))
        return;
    if (t->state == STATE_UP && !t->is_closed)
        timer_start(t, &t->ping_timer, PING_MS, on_ping_time);
}

static void on_report(struct transport *t, const struct corosync_report *report)
{
    switch (report->job) {
    case COROSYNC_CONNECT:
        on_connected(t, report);
        break;
    case COROSYNC_JOIN:
        on_joined(t, report);
        break;
    case COROSYNC_PING:
        on_pinged(t, report);
        break;
    case COROSYNC_DISCONNECT:
        back_off(t);
        break;
    }
}

static int32_t on_worker(int32_t fd, int32_t revents, void *data)
{
    struct transport *t = data;
    struct corosync_report report;

    (void)fd;
    (void)revents;
    enter(t);
    if (corosync_worker_take(t->worker, &report)) {
        timer_stop(t, &t->hang_timer);
        t->is_hanging = false;
        on_report(t, &report);
        tell_health(t);
    }
    leave(t);
    return 0;
}

/* --- public --- */

int transport_open(qb_loop_t *loop, const char *group, const struct transport_callbacks *callbacks,
                   void *user, struct transport **ret_transport, struct ha_err *err)
{
    const cpg_model_v1_data_t cpg_callbacks = {
        .model = CPG_MODEL_V1,
        .cpg_deliver_fn = on_message,
        .cpg_confchg_fn = on_confchg,
        .cpg_totem_confchg_fn = on_totem_confchg,
        .flags = CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF,
    };
    struct transport *t = calloc(1, sizeof(*t));

    ha_assert(callbacks->members && callbacks->message);
    if (!t)
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory for the transport");
    t->loop = loop;
    t->callbacks = *callbacks;
    t->user = user;
    t->backoff_ms = BACKOFF_FIRST_MS;
    t->health = TRANSPORT_DOWN;
    remember_why(t, "corosync was not reached yet");
    int rc =
        corosync_worker_start(group, &cpg_callbacks, t, TRANSPORT_MESSAGE_MAX, &t->worker, err);
    if (rc < 0) {
        free(t);
        return rc;
    }
    if (qb_loop_poll_add(loop, QB_LOOP_HIGH, corosync_worker_fd(t->worker), POLLIN, t, on_worker) !=
        0) {
        corosync_worker_stop(t->worker);
        free(t);
        return ha_err_set(err, EIO, "the loop takes no more descriptors");
    }
    on_connect_time(t);
    *ret_transport = t;
    return 0;
}

bool transport_votequorum(struct transport *t, bool *ret_is_quorate, uint32_t *ret_votes)
{
    if (!t->has_votes || t->state != STATE_UP || t->is_hanging)
        return false;
    *ret_is_quorate = t->is_quorate;
    *ret_votes = t->votes;
    return true;
}

void transport_close(struct transport *t)
{
    if (!t)
        return;
    enter(t);
    t->is_closed = true;
    if (t->state == STATE_UP)
        qb_loop_poll_del(t->loop, t->cpg_fd);
    t->state = STATE_CLOSING;
    timer_stop(t, &t->connect_timer);
    timer_stop(t, &t->ping_timer);
    timer_stop(t, &t->hang_timer);
    timer_stop(t, &t->retry_timer);
    timer_stop(t, &t->drop_timer);
    qb_loop_poll_del(t->loop, corosync_worker_fd(t->worker));
    corosync_worker_stop(t->worker);
    t->worker = NULL;
    corosync_queue_clear(&t->queue);
    leave(t);
}

bool transport_is_host_up(const struct transport *t, uint32_t node)
{
    for (uint32_t i = 0; t->state == STATE_UP && i < t->ring_count; i++) {
        if (t->ring[i] == node)
            return true;
    }
    return false;
}
