/* SPDX-License-Identifier: Apache-2.0
 *
 * Migration ends of this node: sockets, stream processes, and hamgr-hv's save or restore tied
 * together. What a migration's end means is decided in the log (SWITCH, ABORT, REVERT); here it is
 * only carried out and reported. Which step follows which is migrate/move_fsm.h's table.
 *
 * Source: READY from the destination -> connect, stream -> CONNECTED -> save -> suspended and
 * drained -> HANDOVER (repeated until the ticket closes). Destination: listen, stream, restore ->
 * READY (repeated until connected) -> restored and HANDOVER -> the reconciler proposes SWITCH.
 */
#include "hamgr/shell/shell.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/streamtalk.h"
#include "migrate/move_fsm.h"
#include "migrate/stream_spawn.h"
#include "migrate/tune.h"

#define STREAM_END_MS 3000u /* hamgr-stream lingers up to 2 s for its last frame to arrive */
#define REASON_MS     400u  /* for a better reason of a failure than its echo */
/* A destination's RUN behind SWITCH: a verb, a signal, the guest's first step. */
#define RUN_US          5000u
#define SWITCH_LEAST_US 15000u

struct move {
    struct move *next;
    struct hamgrd *d;
    uint64_t ticket;
    struct ha_uuid guest;
    uint64_t epoch; /* of the copy at this end */
    uint32_t peer;
    bool is_source;
    struct move_fsm fsm;
    pid_t pid; /* stream process, 0 = none */
    struct link *control;
    int hv_fd;   /* native stream end for hamgr-hv until save begins, else -1 */
    int ring_fd; /* of the pages beside it, -1: they are in the stream */
    struct peer_move_ready ready;
    bool is_save_done;
    char late_why[HA_TEXT_MAX]; /* fails with it at late_ms, unless a better reason comes */
    uint64_t late_ms;           /* 0: no failure is held back */
    uint64_t begun_us;
    uint64_t connected_us;
    uint64_t stopped_us;  /* source: when the guest was stopped */
    uint64_t drained_us;  /* source: when hamgr-hv said suspended and drained */
    uint64_t handover_us; /* destination: when HANDOVER was heard */
    struct ha_moved record;
    struct ha_move_progress source; /* destination: what the source told last */
    bool is_over;                   /* the ticket is closed: only cleanup is left */
    uint64_t repeat_ms;
    uint64_t killed_ms;
    struct streamtalk talk;
    struct ha_move_progress progress;
};

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static struct move *find(struct hamgrd *d, uint64_t ticket)
{
    struct move *move = d->moves;

    while (move && move->ticket != ticket)
        move = move->next;
    return move;
}

static struct local_verb *verb_of(struct hamgrd *d, const struct move *move)
{
    return hvlink_get(d, move->guest, move->epoch);
}

/* The copy's record may belong to a later ticket already: a destination that becomes a source at
 * once. What is left of the old one must not touch it. */
static bool is_current(struct hamgrd *d, const struct move *move)
{
    return verb_of(d, move)->ticket == move->ticket;
}

/* Ends the save or restore of this move, begun or not. */
static void end_verb(struct hamgrd *d, const struct move *move)
{
    struct local_verb *verb = verb_of(d, move);

    if (!is_current(d, move) || (verb->v.verb != HA_VERB_SAVE && verb->v.verb != HA_VERB_RESTORE))
        return;
    if (verb->request)
        hvlink_abort(d, verb->request);
    else
        verb->v.verb = HA_VERB_NONE;
}

static void put_progress(struct ha_writer *w, const void *m)
{
    peer_progress_encode(w, m);
}

static void put_ready(struct ha_writer *w, const void *m)
{
    peer_move_ready_encode(w, m);
}

static void put_ticket(struct ha_writer *w, const void *m)
{
    ha_put_u64(w, *(const uint64_t *)m);
}

/* Keeps the newest progress of each ticket for status. */
static void show_progress(struct hamgrd *d, const struct ha_move_progress *progress)
{
    uint32_t i = 0;

    while (i < d->rt.move_count && d->rt.moves[i].ticket != progress->ticket)
        i++;
    if (i == HA_TICKETS_MAX)
        return;
    if (i == d->rt.move_count)
        d->rt.move_count++;
    d->rt.moves[i] = *progress;
}

static void tell(struct hamgrd *d, struct move *move, bool is_step)
{
    move_fsm_progress(&move->fsm, shell_now_ms(), &move->progress);
    move->progress.ticket = move->ticket;
    /* The source knows rounds and rates; showing both in turn would be neither's truth. */
    if (move->is_source || move->source.ticket == 0 || move_fsm_is_failed(&move->fsm))
        show_progress(d, &move->progress);
    if (move->is_source && move_fsm_is_news(&move->fsm, shell_now_ms(), is_step))
        peers_send(d, PEER_MOVE_PROGRESS, 0, put_progress, &move->progress);
}

static void tell_progress(struct hamgrd *d, struct move *move)
{
    tell(d, move, true);
}

static void end_stream(struct move *move)
{
    if (move->control) {
        link_send(move->control, STREAMP_CANCEL, 0, NULL, 0, NULL, 0);
        link_close(move->control);
        move->control = NULL;
    }
    /* The closed socket is the order to end; who has not after a while is killed (moves_tick). */
    if (move->pid > 0 && !move->killed_ms)
        move->killed_ms = shell_now_ms();
    if (move->hv_fd >= 0)
        close(move->hv_fd);
    if (move->ring_fd >= 0)
        close(move->ring_fd);
    move->hv_fd = move->ring_fd = -1;
}

/* This end can't go on: the reconciler proposes ABORT while the ticket is open. */
static void fail(struct hamgrd *d, struct move *move, const char *why)
{
    struct local_verb *verb = verb_of(d, move);

    /* From DECIDING on only the log moves this end: a stream that ends late proves nothing. */
    if (move->is_over || move_fsm_is_failed(&move->fsm) || !is_current(d, move) ||
        !move_fsm_fail(&move->fsm, shell_now_ms()))
        return;
    qb_log(LOG_WARNING, "migration %" PRIu64 ": %s", move->ticket, why);
    snprintf(verb->v.text, sizeof(verb->v.text), "%.*s", (int)sizeof(verb->v.text) - 1, why);
    snprintf(move->progress.text, sizeof(move->progress.text), "%s", why);
    if (move->is_source)
        verb->v.is_save_failed = true;
    else
        verb->v.is_restore_failed = true;
    end_verb(d, move);
    end_stream(move);
    tell_progress(d, move);
    shell_wake(d);
}

/* One that follows from a failure elsewhere: whoever knows the cause says it within REASON_MS, and
 * the source's ABORT or the save's end makes this one superfluous. At the destination the
 * reconciler waits as well; at the source nothing may hold up the guest's way back. */
static void fail_soon(struct move *move, const char *why)
{
    if (move->late_ms)
        return;
    move->late_ms = shell_now_ms() + REASON_MS;
    if (!move->is_source && is_current(move->d, move))
        verb_of(move->d, move)->v.retry_ms = move->late_ms + REASON_MS;
    snprintf(move->late_why, sizeof(move->late_why), "%s", why);
}

/* ---- stream process ----------------------------------------------------------------------------
 */

static void on_stream_packet(void *user, const struct ha_packet *packet);
static void on_stream_down(void *user, const char *why);

static const struct link_callbacks stream_callbacks = {.packet = on_stream_packet,
                                                       .down = on_stream_down};

/* A ring for the pages, if the hypervisor's driver fills one, or here takes from one. Without it,
 * or if it can't be had, they come in the stream. */
static void make_ring(struct hamgrd *d, struct move *move)
{
    struct ha_err err = {0};

    const struct hv_caps *caps = &d->hv_welcome.caps;

    if (move->is_source ? !caps->has_ring_feed : !caps->has_ring_restore)
        return;
    if (stream_ring(&move->ring_fd, &err) != 0)
        qb_log(LOG_NOTICE, "migration %" PRIu64 ": %s; without it", move->ticket, err.text);
}

/* What holds every page of a guest, 8 MiB to spare. Of a limit 3/8, but at most 32 MiB, are hashes
 * (STREAM.md, section 4): either its 5/8, or all of it but 32 MiB, are pages. */
static uint64_t whole_cache_mib(uint64_t guest_mib)
{
    uint64_t pages_mib = guest_mib + 8;
    uint64_t small_mib = pages_mib * 8 / 5, large_mib = pages_mib + 32;

    return small_mib < large_mib ? small_mib : large_mib;
}

/* As configured, but no more than the guest can fill: all of it will be touched. */
static uint32_t cache_mib(const struct hamgrd *d, const struct ha_guest *guest)
{
    uint64_t most = d->config.cache_kib / 1024;
    uint64_t need = guest ? whole_cache_mib(guest->mem_kib / 1024) : most;

    return (uint32_t)(need < most ? need : most);
}

static void fill_start(struct hamgrd *d, const struct move *move, struct streamp_start *start)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, move->guest);

    memset(start, 0, sizeof(*start));
    start->is_sender = move->is_source;
    start->is_listener = !move->is_source;
    start->cluster_id = d->identity.cluster_id;
    start->generation = d->identity.generation;
    start->ticket = move->ticket;
    start->guest = move->guest;
    start->epoch = guest ? guest->ticket.dst_epoch : move->epoch;
    memcpy(start->secret, move->ready.secret, sizeof(start->secret));
    snprintf(start->peer_name, sizeof(start->peer_name), "%s", shell_node_name(d, move->peer));
    start->level = d->config.level;
    start->rate_mbit = d->config.rate_mbit;
    start->cache_mib = cache_mib(d, guest);
    start->workers = d->config.workers;
    start->is_identical = d->config.is_identical;
    start->idle_timeout_ms = d->config.idle_timeout_ms;
    start->connections = d->config.connections;
    start->grace_ms = d->config.grace_ms;
}

/* Spawns the stream with net_fd (moved); keeps hamgr-hv's end of the native stream. */
static int spawn(struct hamgrd *d, struct move *move, int net_fd, struct ha_err *err)
{
    struct streamp_start start;
    int native[2], pem = -1, control = -1;

    int rc = stream_load_pem(d->config.ca_path, d->config.cert_path, d->config.key_path, &pem, err);
    if (rc == 0)
        rc = movesock_pair(native, err);
    if (rc < 0) {
        close(net_fd);
        if (pem >= 0)
            close(pem);
        return rc;
    }
    fill_start(d, move, &start);
    make_ring(d, move);
    const int fds[4] = {net_fd, native[1], pem,
                        move->ring_fd >= 0 ? fcntl(move->ring_fd, F_DUPFD_CLOEXEC, 0) : -1};
    rc = stream_spawn_ring(d->stream_binary, &start, fds, &move->pid, &control, err);
    explicit_bzero(&start, sizeof(start));
    if (rc < 0) {
        close(native[0]);
        return rc;
    }
    move->hv_fd = native[0];
    move->control = link_adopt(d->loop, control, &stream_callbacks, move);
    return 0;
}

/* The order to move may be older than the OPEN that took this node (back) in: who comes back lists
 * what is there before it acts (I10). Until then the save waits; the idle time bounds that. */
static void begin_save(struct hamgrd *d, struct move *move)
{
    int fd = move->hv_fd, ring_fd = move->ring_fd;

    if (!move->is_source || fd < 0 || !move_fsm_is_connected(&move->fsm) || !duties_is_settled(d))
        return;
    move->hv_fd = move->ring_fd = -1;
    hvlink_stream_verb(d, verb_of(d, move), HA_VERB_SAVE, fd, ring_fd);
}

static void on_connected(struct hamgrd *d, struct move *move)
{
    move_fsm_connected(&move->fsm, shell_now_ms());
    move->connected_us = now_us();
    begin_save(d, move);
    tell_progress(d, move);
}

static void on_stream_end(struct hamgrd *d, struct move *move, const struct streamp_end *end)
{
    /* Both ends count the deadline: the other one may have been the quicker to give up. */
    bool is_overdue = move_fsm_is_overdue(&move->fsm, shell_now_ms() + REASON_MS);
    char why[HA_TEXT_MAX];

    move->progress.wire_bytes = end->total.wire_bytes;
    if (!end->is_ok) {
        snprintf(why, sizeof(why), "%sthe stream with %.60s failed: %.*s",
                 is_overdue ? "the migration passed its deadline: " : "",
                 shell_node_name(d, move->peer), is_overdue ? 130 : 160, end->text);
        /* At the source: the hypervisor's end was closed, and its save says why. */
        if (!move->is_source || strncmp(end->text, "native stream", 13) == 0)
            fail_soon(move, why);
        else
            fail(d, move, why);
        return;
    }
    if (move->is_source)
        move->progress.packing = streamtalk_packing(&end->total);
    move_fsm_stream_done(&move->fsm, shell_now_ms());
    tell_progress(d, move);
}

/* The source's stream wants one more connection: to the receiver of this ticket, and nobody else.
 */
static void give_socket(struct move *move, const struct ha_packet *packet)
{
    struct ha_err err = {0};
    struct streamp_lane lane;
    uint8_t body[8];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    int fd = -1;

    if (!move->is_source || streamp_lane_decode(packet->body, packet->body_size, &lane) < 0)
        return;
    if (streamtalk_may_dial(&move->talk, move->ready.addr, move->ready.port, shell_now_ms()))
        fd = movesock_connect(&move->ready, &err);
    if (fd >= 0)
        tune_socket(fd, TUNE_LANE_MS);
    else if (err.code != 0)
        qb_log(LOG_DEBUG, "migration %" PRIu64 ": %s", move->ticket, err.text);
    streamp_lane_encode(&w, &lane);
    link_send(move->control, STREAMP_SOCKET, 0, body, w.position, &fd, fd >= 0 ? 1 : 0);
}

static void on_stream_packet(void *user, const struct ha_packet *packet)
{
    struct move *move = user; /* freed only after its link is closed */
    struct hamgrd *d = move->d;
    struct streamp_progress progress;
    struct streamp_end end;
    char text[HA_TEXT_MAX];

    if (!streamtalk_is_news(&move->talk, packet->type))
        return;
    if (packet->type == STREAMP_NOTE) { /* refused stray connections, parts of a sandbox missed */
        if (streamtalk_note(&move->talk, packet->body, packet->body_size, text))
            qb_log(LOG_NOTICE, "migration %" PRIu64 ": stream: %s", move->ticket, text);
    } else if (packet->type == STREAMP_CONNECT) {
        give_socket(move, packet);
    } else if (packet->type == STREAMP_CONNECTED) {
        on_connected(d, move);
    } else if (packet->type == STREAMP_PROGRESS &&
               streamp_progress_decode(packet->body, packet->body_size, &progress) == 0) {
        move->progress.wire_bytes = progress.wire_bytes;
        if (move->is_source)
            move->progress.packing = streamtalk_packing(&progress);
        move_fsm_bytes(&move->fsm, shell_now_ms(), progress.raw_bytes);
        move_fsm_patient(&move->fsm, progress.is_patient);
    } else if (packet->type == STREAMP_END &&
               streamp_end_decode(packet->body, packet->body_size, &end) == 0) {
        on_stream_end(d, move, &end);
    }
}

static void on_stream_down(void *user, const char *why)
{
    struct move *move = user;

    (void)why;
    if (!move_fsm_is_stream_done(&move->fsm) && !move->late_ms)
        fail(move->d, move, "the stream process ended without a result");
}

/* ---- begin -------------------------------------------------------------------------------------
 */

static void begin_record(const struct hamgrd *d, struct move *move, const struct ha_ticket *ticket)
{
    const struct kept_forecast *f = forecast_of(d, move->guest, ticket->dst);

    move->begun_us = now_us();
    if (f && move->is_source) {
        move->progress.forecast_ms = f->time_ms;
        move->progress.forecast_pause_ms = f->pause_ms;
        move->progress.forecast_bytes = f->bytes;
    }
    move->record =
        (struct ha_moved){.src = ticket->src,
                          .dst = ticket->dst,
                          .began_wall_ms = ticket->wall_ms,
                          .throttle_percent = 100,
                          .max_downtime_ms = ticket->max_downtime_ms ? ticket->max_downtime_ms
                                                                     : d->config.max_downtime_ms};
}

static struct move *new_move(struct hamgrd *d, const struct ha_guest *guest, bool is_source)
{
    struct move *move = calloc(1, sizeof(*move));

    ha_assert(move);
    probe_stop(d, "a migration began");
    move->d = d;
    move->ticket = guest->ticket.id;
    move->guest = guest->id;
    move->is_source = is_source;
    move->epoch = is_source ? guest->ticket.src_epoch : guest->ticket.dst_epoch;
    move->peer = is_source ? guest->ticket.dst : guest->ticket.src;
    move->hv_fd = move->ring_fd = -1;
    move_fsm_init(&move->fsm, is_source, d->config.idle_timeout_ms,
                  guest->ticket.deadline_ms ? guest->ticket.deadline_ms : d->config.deadline_ms,
                  shell_now_ms());
    verb_of(d, move)->ticket = move->ticket;
    begin_record(d, move, &guest->ticket);
    move->next = d->moves;
    d->moves = move;
    shell_tick_soon(d);
    return move;
}

/* A ticket from before this process joined: its stream is gone with the process before it. */
static bool is_inherited(const struct hamgrd *d, const struct ha_guest *guest)
{
    return guest->ticket.id <= d->live_from;
}

void moves_begin_out(struct hamgrd *d, const struct ha_guest *guest)
{
    if (find(d, guest->ticket.id))
        return;
    struct move *move = new_move(d, guest, true);
    /* The verb stands for the whole source end, from here to its last word. */
    verb_of(d, move)->v.verb = HA_VERB_SAVE;
    if (is_inherited(d, guest)) {
        fail(d, move, "hamgrd was restarted on the source during the migration");
    }
}

void moves_begin_in(struct hamgrd *d, const struct ha_guest *guest)
{
    struct ha_err err = {0};

    if (find(d, guest->ticket.id))
        return;
    struct move *move = new_move(d, guest, false);
    struct local_verb *verb = verb_of(d, move);
    if (is_inherited(d, guest)) {
        fail(d, move, "hamgrd was restarted on the destination during the migration");
        return;
    }
    move->ready.ticket = move->ticket;
    if (getrandom(move->ready.secret, sizeof(move->ready.secret), 0) !=
        (ssize_t)sizeof(move->ready.secret)) {
        fail(d, move, "no random bytes for the ticket's secret");
        return;
    }
    int listener = movesock_listen(d, &move->ready, &err);
    if (listener < 0 || spawn(d, move, listener, &err) < 0) {
        fail(d, move, err.text);
        return;
    }
    int fd = move->hv_fd, ring_fd = move->ring_fd;
    move->hv_fd = move->ring_fd = -1;
    hvlink_stream_verb(d, verb, HA_VERB_RESTORE, fd, ring_fd);
    peers_send(d, PEER_MOVE_READY, move->peer, put_ready, &move->ready);
    move->repeat_ms = shell_now_ms() + move_fsm_repeat_ms(&move->fsm);
    tell_progress(d, move);
}

void moves_ready(struct hamgrd *d, uint32_t from, const struct peer_move_ready *ready)
{
    struct ha_err err = {0};
    struct move *move = find(d, ready->ticket);

    if (!move || !move->is_source || move->peer != from || move->pid || move->is_over ||
        move_fsm_is_failed(&move->fsm))
        return; /* unknown yet: the destination says it again */
    move->ready = *ready;
    int fd = movesock_connect(ready, &err);
    if (fd < 0 || spawn(d, move, fd, &err) < 0) {
        fail(d, move, err.text);
    }
}

/* ---- outcomes ----------------------------------------------------------------------------------
 */

static void say_handover(struct hamgrd *d, struct move *move)
{
    peers_send(d, PEER_HANDOVER, move->peer, put_ticket, &move->ticket);
    move->repeat_ms = shell_now_ms() + move_fsm_repeat_ms(&move->fsm);
}

void moves_handover(struct hamgrd *d, uint32_t from, uint64_t ticket)
{
    struct move *move = find(d, ticket);

    if (!move || move->is_source || move->peer != from || move->is_over || !is_current(d, move))
        return;
    struct local_verb *verb = verb_of(d, move);
    if (!verb->v.is_handover) {
        qb_log(LOG_INFO, "migration %" PRIu64 ": HANDOVER heard", move->ticket);
        verb->v.is_handover = true;
        move->handover_us = now_us();
        move_fsm_handover(&move->fsm, shell_now_ms());
        shell_wake(d);
    }
}

static void on_stopped(struct hamgrd *d, struct move *move, const struct hv_progress *progress)
{
    move->stopped_us = now_us();
    if (move->connected_us)
        forecast_learn(d, move->peer, progress->bytes, move->stopped_us - move->connected_us,
                       move->connected_us - move->begun_us);
}

void moves_hv_progress(struct hamgrd *d, uint64_t request, const struct hv_progress *progress)
{
    for (struct move *move = d->moves; move; move = move->next) {
        struct local_verb *verb = hvlink_find(d, move->guest, move->epoch);
        if (!verb || verb->request != request || verb->ticket != move->ticket)
            continue;
        if (progress->phase == HV_STOPPED && move->progress.hv.phase != HV_STOPPED)
            qb_log(LOG_INFO,
                   "migration %" PRIu64 ": the guest is stopped, round %u, %" PRIu64 " pages left",
                   move->ticket, progress->round, progress->pages_dirty);
        if (progress->phase == HV_STOPPED && !move->stopped_us)
            on_stopped(d, move, progress);
        move->progress.hv = *progress;
        move_fsm_hv(&move->fsm, shell_now_ms(), progress);
        tell(d, move, false);
    }
}

void moves_hv_done(struct hamgrd *d, struct local_verb *verb, uint8_t which,
                   const struct hvp_done *done)
{
    struct move *move = d->moves;
    char why[HA_TEXT_MAX];

    while (move && !(move->ticket == verb->ticket && ha_uuid_equal(move->guest, verb->v.guest)))
        move = move->next;
    if (!move || move->is_over)
        return;
    if (done->outcome != HV_OK) {
        snprintf(why, sizeof(why), "%s failed: %.200s", which == HA_VERB_SAVE ? "save" : "restore",
                 done->text);
        if (move->is_source)
            fail(d, move, why);
        else
            fail_soon(move, why);
    } else if (which == HA_VERB_SAVE) {
        qb_log(LOG_INFO, "migration %" PRIu64 ": the source is suspended and drained",
               move->ticket);
        verb->v.is_save_done = true;
        move->is_save_done = true;
        move->drained_us = now_us();
        move_fsm_saved(&move->fsm, shell_now_ms());
        say_handover(d, move);
    } else {
        qb_log(LOG_INFO, "migration %" PRIu64 ": the destination is complete", move->ticket);
        verb->v.is_restore_done = true;
        move_fsm_restored(&move->fsm, shell_now_ms());
    }
    tell_progress(d, move);
}

void moves_peer_progress(struct hamgrd *d, uint32_t from, const struct ha_move_progress *progress)
{
    struct move *move = find(d, progress->ticket);

    if (move && !move->is_source && move->peer == from)
        move->source = *progress;
    moverecord_source(d, progress->ticket, from, progress->pause_us);
    /* Shown, never acted on; only of tickets that are open, so that nobody fills the table. */
    for (uint32_t i = 0; i < d->state.guest_count; i++) {
        const struct ha_ticket *ticket = &d->state.guests[i].ticket;
        if (ticket->id && ticket->id == progress->ticket && ticket->src == from)
            show_progress(d, progress);
    }
}

/* Ends this end of a closed ticket. */
static void end_move(struct hamgrd *d, struct move *move, const char *why)
{
    if (move->is_over)
        return;
    qb_log(LOG_INFO, "migration %" PRIu64 " is over here: %s", move->ticket, why);
    end_verb(d, move);
    move->is_over = true;
    end_stream(move);
}

/* The ticket closed in the log: nothing of it may go on, and what is done is forgotten. */
static bool is_ticket_open(const struct hamgrd *d, struct move *move)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, move->guest);

    if (!guest || guest->ticket.id != move->ticket)
        return false;
    if (guest->phase == HA_PHASE_SWITCHED)
        move_fsm_switched(&move->fsm, shell_now_ms());
    return true;
}

void moves_cancel(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch, const char *why)
{
    for (struct move *move = d->moves; move; move = move->next) {
        if (move->epoch != epoch || !ha_uuid_equal(move->guest, guest))
            continue;
        if (is_ticket_open(d, move))
            fail(d, move, why);
        else
            end_move(d, move, why);
    }
}

/* A commit there and the way back here, as fast as commits are now, and a worker's last steps. */
static uint64_t switch_least_us(const struct hamgrd *d)
{
    return SWITCH_LEAST_US + 2 * (uint64_t)propose_median_us(d);
}

uint32_t moves_switch_us(const struct hamgrd *d, bool is_live)
{
    uint64_t least_us = switch_least_us(d);
    /* Moves that stood still, here or elsewhere, told of whole pauses: what follows is in them. */
    bool is_known = is_live || d->still_cost.mean_us != 0;
    uint64_t us = precopy_cost_high(&d->switch_cost, is_known ? least_us : SHELL_STILL_MS * 1000);

    us = us > least_us ? us : least_us;
    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

void moves_ran(struct hamgrd *d, const struct local_verb *verb)
{
    struct move *move = find(d, verb->ticket);

    if (move && !move->is_source && move->handover_us && !move->record.destination_us)
        move->record.destination_us = (uint32_t)(now_us() - move->handover_us);
}

/* What the source told, or this node as the source knows. */
static void end_record(struct hamgrd *d, struct move *move, uint8_t outcome, const char *detail)
{
    const struct ha_move_progress *p = move->is_source ? &move->progress : &move->source;
    struct ha_moved *m = &move->record;

    m->outcome = outcome;
    m->raw_bytes = p->hv.bytes;
    m->wire_bytes = p->wire_bytes ? p->wire_bytes : move->progress.wire_bytes;
    m->rounds = p->hv.bytes ? p->hv.round + 1 : 0;
    m->predicted_us = p->hv.predicted_us;
    if (p->hv.throttle_percent)
        m->throttle_percent = p->hv.throttle_percent;
    m->source_us = p->pause_us;
    m->forecast_ms = p->forecast_ms;
    m->forecast_pause_ms = p->forecast_pause_ms;
    m->forecast_bytes = p->forecast_bytes;
    snprintf(m->detail, sizeof(m->detail), "%s", detail);
    moverecord_add(d, move->guest, move->ticket, outcome == HA_MOVED_ARRIVED ? move->epoch : 0, m);
}

/* One that did not arrive is its source's to tell, or the destination's when there is no source. */
static bool is_teller(const struct hamgrd *d, const struct move *move)
{
    const struct ha_node *source = ha_state_node(&d->state, move->record.src);

    return move->is_source || !source || source->status != HA_NODE_MEMBER;
}

static void on_switch(struct hamgrd *d, struct move *move)
{
    if (!move->is_source || !move->drained_us)
        return;
    precopy_cost_update(&d->switch_cost, now_us() - move->drained_us + RUN_US);
    move->progress.pause_us = (uint32_t)(now_us() - move->stopped_us);
    tell_progress(d, move);
}

void moves_applied(struct hamgrd *d, const struct ha_applied *applied)
{
    const struct ha_cmd *cmd = &applied->cmd;
    struct move *move = cmd->ticket ? find(d, cmd->ticket) : NULL;

    if (applied->is_noop || applied->kind != LOG_KIND_STATE || !move)
        return;
    if (cmd->type == HA_CMD_SWITCH)
        on_switch(d, move);
    else if (cmd->type == HA_CMD_ARRIVED && !move->is_source)
        end_record(d, move, HA_MOVED_ARRIVED, "");
    else if (cmd->type == HA_CMD_ABORT && is_teller(d, move)) {
        if (!move->drained_us)
            precopy_cost_fade(&d->switch_cost, switch_least_us(d));
        end_record(d, move, HA_MOVED_ABORTED, cmd->u.text.detail);
    } else if (cmd->type == HA_CMD_REVERT && is_teller(d, move))
        end_record(d, move, HA_MOVED_REVERTED, cmd->u.text.detail);
}

static void forget_progress(struct hamgrd *d)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < d->rt.move_count; i++) {
        bool is_open = false;
        for (uint32_t g = 0; g < d->state.guest_count && !is_open; g++)
            is_open = d->state.guests[g].ticket.id == d->rt.moves[i].ticket;
        if (is_open)
            d->rt.moves[kept++] = d->rt.moves[i];
    }
    d->rt.move_count = kept;
}

static void repeat(struct hamgrd *d, struct move *move, uint64_t now_ms)
{
    if (move->is_over || now_ms < move->repeat_ms || move_fsm_is_failed(&move->fsm))
        return;
    if (move->is_source && move->is_save_done) {
        say_handover(d, move);
    } else if (!move->is_source && move->pid && !move_fsm_is_connected(&move->fsm)) {
        peers_send(d, PEER_MOVE_READY, move->peer, put_ready, &move->ready);
        move->repeat_ms = now_ms + move_fsm_repeat_ms(&move->fsm);
    }
}

void moves_tick(struct hamgrd *d)
{
    uint64_t now_ms = shell_now_ms();
    struct move **place = &d->moves;

    moves_child(d);
    while (*place) {
        struct move *move = *place;
        const char *late =
            move->is_over ? NULL : streamtalk_late(&move->talk, move_fsm_late(&move->fsm, now_ms));
        if (!late && move->late_ms && now_ms >= move->late_ms && !move->is_over)
            late = move->late_why;
        if (late)
            fail(d, move, late);
        if (!is_ticket_open(d, move) && !move->is_over)
            end_move(d, move, "the ticket is closed");
        begin_save(d, move);
        repeat(d, move, now_ms);
        if (move->killed_ms && move->pid > 0 && now_ms > move->killed_ms + STREAM_END_MS)
            kill(move->pid, SIGKILL);
        if (move->is_over && move->pid == 0) {
            *place = move->next;
            free(move);
        } else {
            place = &move->next;
        }
    }
    forget_progress(d);
    moverecord_tick(d);
}

void moves_child(struct hamgrd *d)
{
    for (struct move *move = d->moves; move; move = move->next) {
        int status;
        if (move->pid > 0 && waitpid(move->pid, &status, WNOHANG) == move->pid)
            move->pid = 0;
    }
}
