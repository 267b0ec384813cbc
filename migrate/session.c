/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/ipc/sock.h"
#include "migrate/carry.h"
#include "migrate/lanes.h"

#define STEP_MAX_MS     500u /* what one step counts at most in attended time */
#define SLICE_MS        100  /* longest single poll: limits and PINGs are looked at between */
#define LOOK_MS         20u  /* a busy end looks at its fds this often */
#define RATE_BURST_MS   20 /* a capped end may catch up this much: shorter than a scheduler's nap */
#define RATE_CHUNK      65536u
#define DIRECT_MIN      65536u               /* a tail this large goes out without a copy */
#define RENEW_BYTES     (UINT64_C(32) << 30) /* half of the 64 GiB a GCM key may be used for */
#define OUTBOX_CAPACITY (SESSION_OUTBOX + FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX)
#define END_WAIT_MS     2000

static uint64_t real_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t session_clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t session_now(struct session *s)
{
    uint64_t now = real_now();
    uint64_t step = now - s->real_ms;

    s->real_ms = now;
    s->clock_ms += step < STEP_MAX_MS ? step : STEP_MAX_MS;
    return s->clock_ms;
}

int session_init(struct session *s, int control_fd, uint32_t idle_timeout_ms, uint32_t rate_mbit,
                 struct ha_err *err)
{
    memset(s, 0, sizeof(*s));
    s->control_fd = control_fd;
    s->idle_timeout_ms = idle_timeout_ms > 0 ? idle_timeout_ms : SESSION_IDLE_MS;
    s->rate_mbit = rate_mbit;
    s->outbox = malloc(OUTBOX_CAPACITY);
    s->packet = malloc(HA_IPC_MAX);
    s->inbox_buffer = malloc(FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX);
    if (!s->outbox || !s->packet || !s->inbox_buffer) {
        session_fini(s);
        return ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    }
    s->inbox.buffer = s->inbox_buffer;
    s->inbox.capacity = FRAME_HEADER_SIZE + FRAME_PAYLOAD_MAX;
    s->started_ms = s->real_ms = s->rate_ms = real_now();
    s->clock_ms = SESSION_PEER_GONE_MS; /* anything: only differences count */
    s->moved_ms = s->heard_ms = s->spoke_ms = s->clock_ms;
    return 0;
}

void session_fini(struct session *s)
{
    if (s->chan)
        s->chan->ops->close(s->chan);
    free(s->outbox);
    free(s->packet);
    free(s->inbox_buffer);
    memset(s, 0, sizeof(*s));
    s->control_fd = -1;
}

/* ---- packets to hamgrd ---- */

/* Nothing moves, and that is the hypervisor's doing at the destination. */
static bool is_patient(const struct session *s)
{
    if (!s->lanes)
        return false;
    if (!s->is_sender)
        return s->is_sink_waiting;
    return s->asked_ms > s->moved_ms && s->clock_ms - s->asked_ms < SESSION_SILENT_MS;
}

static struct streamp_progress total(struct session *s)
{
    struct streamp_progress result = s->progress;

    result.elapsed_ms = real_now() - s->started_ms;
    result.is_patient = is_patient(s);
    result.wire_bytes += s->lanes ? lanes_bytes(s->lanes) : 0;
    /* What only went into buffers is no progress. */
    if (s->lanes && s->is_sender)
        result.raw_bytes = s->taken_raw;
    return result;
}

static void report(struct session *s)
{
    uint8_t body[128];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (s->control_fd < 0 || !s->is_connected || s->real_ms - s->reported_ms < SESSION_PROGRESS_MS)
        return;
    s->reported_ms = s->real_ms;
    struct streamp_progress now = total(s);
    streamp_progress_encode(&w, &now);
    /* A full queue costs a report, never a wait: the next one says more. */
    (void)ha_sock_send(s->control_fd, STREAMP_PROGRESS, 0, body, w.position, NULL, 0);
}

void session_note(struct session *s, const char *fmt, ...)
{
    char text[HA_TEXT_MAX];
    uint8_t body[HA_TEXT_MAX + 2];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    va_list args;

    if (s->notes == STREAMP_NOTES_MAX)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    ha_put_text(&w, ++s->notes < STREAMP_NOTES_MAX ? text : "further lines are left out");
    if (s->control_fd >= 0)
        (void)ha_sock_send(s->control_fd, STREAMP_NOTE, 0, body, w.position, NULL, 0);
}

/* The two packets hamgrd counts on wait for room in its queue, bounded. */
static void send_surely(struct session *s, uint16_t type, const void *body, size_t size)
{
    struct pollfd fd = {.fd = s->control_fd, .events = POLLOUT};
    uint64_t until = real_now() + END_WAIT_MS;

    while (s->control_fd >= 0 &&
           ha_sock_send(s->control_fd, type, 0, body, size, NULL, 0) == -EAGAIN &&
           real_now() < until)
        (void)poll(&fd, 1, SLICE_MS);
}

void session_connected(struct session *s)
{
    s->is_connected = true;
    s->started_ms = real_now();
    send_surely(s, STREAMP_CONNECTED, NULL, 0);
}

void session_end(struct session *s, bool is_ok, const char *text)
{
    uint8_t body[HA_TEXT_MAX + 128];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct streamp_end end = {.is_ok = is_ok, .total = total(s)};

    snprintf(end.text, sizeof(end.text), "%s", text);
    streamp_end_encode(&w, &end);
    send_surely(s, STREAMP_END, body, w.position);
}

void session_ask_socket(struct session *s, unsigned lane)
{
    uint8_t body[8];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct streamp_lane m = {.lane = (uint16_t)lane};

    streamp_lane_encode(&w, &m);
    if (s->control_fd >= 0)
        (void)ha_sock_send(s->control_fd, STREAMP_CONNECT, 0, body, w.position, NULL, 0);
}

/* The socket hamgrd made for a lane goes to whoever asked for it. */
static void take_socket(struct session *s, struct ha_packet *packet)
{
    struct streamp_lane m;

    if (packet->type != STREAMP_SOCKET || !s->attendant || !s->attendant->socket ||
        streamp_lane_decode(packet->body, packet->body_size, &m) < 0)
        return;
    int fd = packet->fds[0];
    packet->fds[0] = -1;
    s->attendant->socket(s->attendant, m.lane, fd);
}

/* Takes what hamgrd said. */
static int take_control(struct session *s, struct ha_err *err)
{
    struct ha_packet packet;
    int rc = ha_sock_receive(s->control_fd, s->packet, &packet);

    if (rc == -EAGAIN)
        return 0;
    s->is_cancelled = s->is_cancelled || rc <= 0 || packet.type == STREAMP_CANCEL;
    if (rc == 1)
        take_socket(s, &packet);
    for (unsigned i = 0; rc == 1 && i < HA_SOCK_FDS_MAX; i++)
        if (packet.fds[i] >= 0)
            close(packet.fds[i]);
    if (rc == 1 && packet.type == STREAMP_CANCEL)
        return ha_err_set(err, HA_E_CANCELLED, "cancelled");
    if (rc == 1)
        return 0;
    return ha_err_set(err, HA_E_CANCELLED, "hamgrd is gone");
}

/* ---- frames from the peer ---- */

const uint8_t *inbox_payload(const struct inbox *inbox)
{
    return inbox->buffer + FRAME_HEADER_SIZE;
}

static int check_header(struct inbox *inbox, struct ha_err *err)
{
    int rc = frame_header_decode(inbox->buffer, &inbox->header, err);

    if (rc < 0)
        return rc;
    if (inbox->header.sequence != inbox->sequence)
        return ha_err_set(err, HA_E_PEER, "frame %llu where %llu is due",
                          (unsigned long long)inbox->header.sequence,
                          (unsigned long long)inbox->sequence);
    if (inbox->header.epoch != 0)
        return ha_err_set(err, HA_E_PEER, "frame of epoch %u", (unsigned)inbox->header.epoch);
    if (inbox->header.size > inbox->capacity - FRAME_HEADER_SIZE)
        return ha_err_set(err, HA_E_PEER, "frame %s of %u bytes here",
                          frame_name(inbox->header.type), (unsigned)inbox->header.size);
    return 0;
}

int inbox_pump(struct inbox *inbox, struct chan *chan, bool *moved, struct ha_err *err)
{
    size_t whole = FRAME_HEADER_SIZE;

    if (inbox->have >= FRAME_HEADER_SIZE) {
        whole += inbox->header.size;
        if (inbox->have == whole) { /* the last frame was taken */
            inbox->have = 0;
            whole = FRAME_HEADER_SIZE;
        }
    }
    while (inbox->have < whole) {
        ssize_t r = chan->ops->read(chan, inbox->buffer + inbox->have, whole - inbox->have, err);
        if (r == -EAGAIN)
            return 0;
        inbox->is_lost = r <= 0;
        inbox->is_ended = r == 0;
        if (r == 0)
            return ha_err_set(err, ECONNRESET, "the peer closed the connection");
        if (r < 0)
            return (int)r;
        if (moved)
            *moved = true;
        inbox->have += (size_t)r;
        if (inbox->have != FRAME_HEADER_SIZE || whole != FRAME_HEADER_SIZE)
            continue;
        int rc = check_header(inbox, err);
        if (rc < 0)
            return rc;
        whole += inbox->header.size;
    }
    inbox->sequence++;
    return 1;
}

static int peer_aborted(struct session *s, struct ha_err *err)
{
    struct frame_abort m;

    s->is_peer_done = true;
    int rc = frame_abort_decode(inbox_payload(&s->inbox), s->inbox.header.size, &m, err);
    if (rc < 0)
        return rc;
    return ha_err_set(err, m.code == FRAME_ABORT_CANCELLED ? HA_E_CANCELLED : HA_E_REFUSED,
                      "the peer says: %s", m.text);
}

/* One complete frame, or 0. PING and unknown optional frames are swallowed. */
static int take_frame(struct session *s, struct ha_err *err)
{
    s->is_unheard = false;
    for (unsigned i = 0; i < SESSION_SWALLOW; i++) {
        bool moved = false;
        int rc = inbox_pump(&s->inbox, s->chan, &moved, err);
        if (moved)
            s->heard_ms = session_now(s);
        if (rc < 0)
            s->is_peer_done = true;
        if (rc <= 0)
            return rc;
        s->progress.wire_bytes += s->inbox.have;
        uint16_t type = s->inbox.header.type;
        if (type == FRAME_ABORT)
            return peer_aborted(s, err);
        if (type != FRAME_PING && strcmp(frame_name(type), "unknown") != 0)
            return 1;
    }
    s->is_unheard = true;
    return 0;
}

/* Sender: between its own frames the peer may send END_ACK, and nothing else. What comes behind it
 * (the peer's end) is not looked at: the stream is complete then. */
static int hear_peer(struct session *s, struct ha_err *err)
{
    int rc = 0;

    while (!s->is_acked && (rc = take_frame(s, err)) == 1) {
        if (s->inbox.header.type != FRAME_END_ACK || !s->is_ending)
            return ha_err_set(err, HA_E_PEER, "unexpected frame %s from the receiver",
                              frame_name(s->inbox.header.type));
        rc = frame_end_ack_decode(inbox_payload(&s->inbox), s->inbox.header.size, &s->ack, err);
        if (rc < 0)
            return rc;
        s->is_acked = true;
        return 0;
    }
    return rc;
}

/* ---- writing ---- */

/* How many of `left` bytes the cap allows now. */
static size_t allowed(struct session *s, size_t left)
{
    if (s->rate_mbit == 0)
        return left;
    uint64_t now = real_now();
    int64_t per_ms = (int64_t)s->rate_mbit * 125;
    int64_t most = per_ms * RATE_BURST_MS;
    int64_t elapsed = now - s->rate_ms > 1000 ? 1000 : (int64_t)(now - s->rate_ms);
    s->rate_ms = now;
    s->rate_bytes += per_ms * elapsed;
    s->rate_bytes = s->rate_bytes < most ? s->rate_bytes : most;
    if (s->rate_bytes <= 0)
        return 0;
    return left < RATE_CHUNK ? left : RATE_CHUNK;
}

/* A key is renewed between two writes: whoever calls has no record half out. */
static int renew_key(struct session *s, struct ha_err *err)
{
    if (s->renewed_bytes < RENEW_BYTES)
        return 0;
    s->renewed_bytes = 0;
    return s->chan->ops->renew(s->chan, err);
}

static int write_failed(struct session *s, struct ha_err *err)
{
    struct ha_err why = {0};

    if (s->lanes) { /* the control connection: there will be another one */
        carry_lose(s, err ? err : &why);
        return 0;
    }
    s->is_cut = true;
    /* The peer's last words may have arrived before its end: they say more than EPIPE. */
    if (take_frame(s, &why) < 0 && why.code == HA_E_REFUSED && err)
        *err = why;
    return err && err->code != 0 ? -err->code : -ECONNRESET;
}

/* Writes all, or as much as goes without waiting (then the count is in *ret_written). A control
 * connection that is lost or replaced meanwhile takes no more of it. */
static int write_some(struct session *s, const uint8_t *data, size_t size, bool is_waiting,
                      size_t *ret_written, struct ha_err *err)
{
    uint32_t control = s->controls;
    size_t done = 0;
    int rc = 0;

    s->is_writing = true;
    while (done < size && rc >= 0 && s->chan && s->controls == control) {
        size_t now = allowed(s, size - done);
        ssize_t r = now > 0 ? s->chan->ops->write(s->chan, data + done, now, err) : -EAGAIN;
        if (r > 0) {
            done += (size_t)r;
            s->rate_bytes -= r;
            s->renewed_bytes += (uint64_t)r;
            s->progress.wire_bytes += (uint64_t)r;
            s->spoke_ms = session_now(s);
            s->moved_ms = is_waiting ? s->clock_ms : s->moved_ms; /* PINGs alone do not count */
        } else if (r != -EAGAIN) {
            rc = write_failed(s, err);
        } else if (!is_waiting) {
            break;
        } else {
            int fd = now > 0 ? s->chan->fd : -1;
            uint64_t since = session_clock_us();
            rc = session_wait_fd(s, fd, s->chan->write_wants, now > 0 && !s->lanes ? -1 : 1, err);
            s->blocked_us += session_clock_us() - since;
        }
    }
    s->is_writing = false;
    *ret_written = done;
    return rc < 0 ? rc : 0;
}

int session_write_out(struct session *s, bool is_waiting, struct ha_err *err)
{
    uint32_t control = s->controls;
    size_t written = 0;
    int rc = write_some(s, s->outbox + s->out_start, s->out_end - s->out_start, is_waiting,
                        &written, err);

    if (s->controls != control) /* gone on the way: the outbox is empty, or the next one's */
        return rc;
    if (!s->chan) { /* what was to be said is said again on the next one */
        s->out_start = s->out_end = 0;
        return rc;
    }
    s->out_start += written;
    if (s->out_start == s->out_end) {
        s->out_start = s->out_end = 0;
        if (rc == 0)
            rc = renew_key(s, err);
    }
    return rc;
}

int session_flush(struct session *s, struct ha_err *err)
{
    if (s->lanes && s->is_sender)
        return carry_flush(s, err);
    int rc = session_write_out(s, true, err);

    return rc < 0 ? rc : session_poll(s, err);
}

bool session_put(struct session *s, uint16_t type, const void *payload, size_t size)
{
    struct frame_header header = {.type = type, .size = (uint32_t)size};

    if (OUTBOX_CAPACITY - s->out_end < FRAME_HEADER_SIZE + size)
        return false;
    header.sequence = s->send_sequence++;
    frame_header_encode(s->outbox + s->out_end, &header);
    memcpy(s->outbox + s->out_end + FRAME_HEADER_SIZE, payload, size);
    s->out_end += FRAME_HEADER_SIZE + size;
    return true;
}

uint8_t *session_begin(struct session *s, size_t room, struct ha_err *err)
{
    ha_assert(room <= FRAME_PAYLOAD_MAX && !s->is_writing);
    if (s->lanes && s->is_sender)
        return carry_begin(s, room, err);
    if (OUTBOX_CAPACITY - s->out_end < FRAME_HEADER_SIZE + room && session_flush(s, err) < 0)
        return NULL;
    return s->outbox + s->out_end + FRAME_HEADER_SIZE;
}

int session_commit(struct session *s, uint16_t type, size_t size, const void *tail,
                   size_t tail_size, struct ha_err *err)
{
    if (s->lanes && s->is_sender)
        return carry_commit(s, type, size, tail, tail_size, err);
    if (type == FRAME_END_ACK) /* as it may have to be said again */
        s->has_end_ack = frame_end_ack_decode(s->outbox + s->out_end + FRAME_HEADER_SIZE, size,
                                              &s->ack, err) == 0;
    struct frame_header header = {
        .type = type, .size = (uint32_t)(size + tail_size), .sequence = s->send_sequence++};

    frame_header_encode(s->outbox + s->out_end, &header);
    s->out_end += FRAME_HEADER_SIZE + size;
    if (tail_size >= DIRECT_MIN) {
        size_t written = 0;
        int rc = session_write_out(s, true, err);
        if (rc == 0)
            rc = write_some(s, tail, tail_size, true, &written, err);
        s->is_cut = s->is_cut || written < tail_size;
        return rc < 0 ? rc : session_poll(s, err);
    }
    ha_assert(OUTBOX_CAPACITY - s->out_end >= tail_size);
    if (tail_size > 0)
        memcpy(s->outbox + s->out_end, tail, tail_size);
    s->out_end += tail_size;
    return s->out_end >= SESSION_OUTBOX ? session_flush(s, err) : 0;
}

bool session_takes_blocks(const struct session *s)
{
    return s->lanes && s->is_sender;
}

int session_give(struct session *s, uint16_t type, size_t size, uint8_t **tail, size_t tail_size,
                 struct ha_err *err)
{
    ha_assert(session_takes_blocks(s) && !s->is_writing);
    return carry_give(s, type, size, tail, tail_size, err);
}

/* A sign of life, only when nothing else is on its way. Never waits. */
static int ping(struct session *s, struct ha_err *err)
{
    bool is_asking = is_patient(s) && !s->is_sender; /* to be heard before the sender gives up */
    uint32_t each_ms = is_asking ? s->idle_timeout_ms / 4 : SESSION_PING_MS;
    uint64_t silent_ms = s->clock_ms - s->spoke_ms;
    bool is_idle = s->chan && s->send_sequence > 0 && !s->is_writing && !s->is_cut &&
                   !s->is_peer_done && (silent_ms >= each_ms || silent_ms >= SESSION_PING_MS);

    if (!is_idle)
        return 0;
    s->spoke_ms = s->clock_ms;
    if (s->out_end == 0 && is_asking)
        return carry_ack(s, true, err);
    if (s->out_end == 0) {
        struct frame_header header = {.type = FRAME_PING, .sequence = s->send_sequence++};
        frame_header_encode(s->outbox, &header);
        s->out_end = FRAME_HEADER_SIZE;
    }
    return session_write_out(s, false, err);
}

/* ---- waiting ---- */

static int check_limits(struct session *s, struct ha_err *err)
{
    uint64_t limit_ms = (uint64_t)s->idle_timeout_ms * (is_patient(s) ? SESSION_PATIENCE : 1);

    if (s->clock_ms - s->moved_ms > limit_ms)
        return ha_err_set(err, HA_E_TIMEOUT, "%s for %llu ms",
                          s->is_connected ? "nothing moved" : "no valid connection",
                          (unsigned long long)limit_ms);
    if (s->lanes)
        return carry_check(s, err);
    if (s->is_listening_peer && s->clock_ms - s->heard_ms > SESSION_PEER_GONE_MS)
        return ha_err_set(err, HA_E_TIMEOUT, "the peer is silent for %u ms", SESSION_PEER_GONE_MS);
    return 0;
}

/* What every turn of a wait looks at, besides the caller's fds. */
static int attend(struct session *s, const struct pollfd *control, const struct pollfd *peer,
                  const struct pollfd *extra, unsigned extra_count, struct ha_err *err)
{
    int rc = 0;

    (void)session_now(s);
    if (control->revents != 0)
        rc = take_control(s, err);
    if (rc == 0 && (peer->revents != 0 || (peer->fd >= 0 && s->is_unheard)))
        rc = s->lanes ? carry_hear(s, err) : hear_peer(s, err);
    if (rc == 0 && s->attendant)
        rc = s->attendant->turn(s->attendant, extra, extra_count, err);
    int is_news = rc > 0 ? 1 : 0;
    if (rc >= 0)
        rc = ping(s, err);
    report(s);
    if (rc >= 0)
        rc = check_limits(s, err);
    return rc < 0 ? rc : is_news;
}

int session_wait(struct session *s, struct pollfd *fds, unsigned count, int timeout_ms,
                 struct ha_err *err)
{
    struct pollfd all[SESSION_WAIT_FDS + 2 + SESSION_EXTRA_FDS];
    uint64_t until = session_now(s) + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);

    ha_assert(count <= SESSION_WAIT_FDS);
    if (s->is_cancelled)
        return ha_err_set(err, HA_E_CANCELLED, "cancelled");
    for (;;) {
        uint64_t now = s->clock_ms;
        int slice = timeout_ms < 0 || until > now + SLICE_MS ? SLICE_MS
                    : until > now                            ? (int)(until - now)
                                                             : 0;
        all[0] = (struct pollfd){.fd = s->control_fd, .events = POLLIN};
        all[1] =
            (struct pollfd){.fd = s->chan && (s->is_listening_peer || s->lanes) ? s->chan->fd : -1,
                            .events = POLLIN};
        if (count > 0)
            memcpy(all + 2, fds, count * sizeof(*fds));
        struct pollfd *extra = all + 2 + count;
        unsigned extra_count =
            s->attendant ? s->attendant->watch(s->attendant, extra, SESSION_EXTRA_FDS) : 0;
        unsigned total_count = count + 2 + extra_count;
        bool is_more = all[1].fd >= 0 && s->is_unheard;
        int ready = poll(all, total_count, timeout_ms == 0 || is_more ? 0 : slice);
        if (ready < 0 && errno != EINTR)
            return ha_err_set(err, errno, "poll: %s", strerror(errno));
        if (ready <= 0)
            for (unsigned i = 0; i < total_count; i++)
                all[i].revents = 0;
        int rc = attend(s, &all[0], &all[1], extra, extra_count, err);
        if (rc < 0)
            return rc;
        int found = 0;
        for (unsigned i = 0; i < count; i++) {
            fds[i].revents = all[i + 2].revents;
            found += fds[i].revents != 0 ? 1 : 0;
        }
        if (found > 0 || rc > 0 || (timeout_ms >= 0 && s->clock_ms >= until))
            return found;
    }
}

int session_wait_fd(struct session *s, int fd, short events, int timeout_ms, struct ha_err *err)
{
    struct pollfd one = {.fd = fd, .events = events};

    return session_wait(s, &one, fd >= 0 ? 1 : 0, timeout_ms, err);
}

int session_poll(struct session *s, struct ha_err *err)
{
    (void)session_now(s);
    if (s->real_ms - s->polled_ms < LOOK_MS)
        return 0;
    s->polled_ms = s->real_ms;
    int rc = session_wait(s, NULL, 0, 0, err);
    return rc < 0 ? rc : 0;
}

void session_moved(struct session *s, uint64_t raw_bytes)
{
    s->progress.raw_bytes += raw_bytes;
    s->moved_ms = s->clock_ms;
}

int session_next_frame(struct session *s, int timeout_ms, struct ha_err *err)
{
    if (s->lanes && !s->is_sender)
        return carry_next_frame(s, timeout_ms, err);
    int rc = take_frame(s, err);

    if (rc != 0 || timeout_ms == 0)
        return rc;
    s->heard_ms = session_now(s); /* silence counts from here: until now we did not listen */
    uint64_t until = s->clock_ms + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);
    for (;;) {
        int slice = timeout_ms >= 0 && timeout_ms < SLICE_MS ? timeout_ms : SLICE_MS;
        rc = session_wait_fd(s, s->chan->fd, s->chan->read_wants, s->is_unheard ? 0 : slice, err);
        if (rc < 0)
            return rc;
        rc = take_frame(s, err);
        if (rc != 0)
            return rc;
        if (timeout_ms >= 0 && s->clock_ms >= until)
            return 0;
        if (s->clock_ms - s->heard_ms > SESSION_PEER_GONE_MS)
            return ha_err_set(err, HA_E_TIMEOUT, "the peer is silent for %u ms",
                              SESSION_PEER_GONE_MS);
    }
}

/* ---- the end ---- */

static uint16_t abort_code(const struct ha_err *why)
{
    switch (why->code) {
    case HA_E_CANCELLED:
        return FRAME_ABORT_CANCELLED;
    case HA_E_PEER:
        return FRAME_ABORT_PROTOCOL;
    case HA_E_TIMEOUT:
        return FRAME_ABORT_TIMEOUT;
    case HA_E_NO_MEMORY:
        return FRAME_ABORT_INTERNAL;
    default:
        return FRAME_ABORT_ENDPOINT;
    }
}

void session_abort(struct session *s, const struct ha_err *why)
{
    struct frame_abort m = {.code = abort_code(why)};
    struct pollfd fd = {.events = POLLOUT};
    uint64_t until = real_now() + SESSION_ABORT_MS;
    struct ha_err ignored = {0};

    if (!s->chan || s->is_cut || s->is_peer_done)
        return;
    s->is_over = true;
    snprintf(m.text, sizeof(m.text), "%.*s", (int)FRAME_ABORT_TEXT, why->text);
    if (OUTBOX_CAPACITY - s->out_end < FRAME_HEADER_SIZE + FRAME_CONTROL_MAX)
        return;
    struct ha_writer w =
        ha_writer_of(s->outbox + s->out_end + FRAME_HEADER_SIZE, FRAME_CONTROL_MAX);
    frame_abort_encode(&w, &m);
    struct frame_header header = {
        .type = FRAME_ABORT, .size = (uint32_t)w.position, .sequence = s->send_sequence++};
    frame_header_encode(s->outbox + s->out_end, &header);
    s->out_end += FRAME_HEADER_SIZE + w.position;
    fd.fd = s->chan->fd;
    while (s->out_end > 0 && session_write_out(s, false, &ignored) == 0 && s->out_end > 0 &&
           real_now() < until)
        (void)poll(&fd, 1, 20);
}

void session_linger(struct session *s, unsigned timeout_ms)
{
    uint64_t until = real_now() + timeout_ms;
    struct ha_err ignored = {0};

    if (s->lanes)
        carry_linger(s, timeout_ms);
    if (!s->chan)
        return;
    s->chan->ops->finish(s->chan);
    while (real_now() < until) {
        struct pollfd fd = {.fd = s->chan->fd, .events = s->chan->read_wants};
        ssize_t r = s->chan->ops->read(s->chan, s->inbox_buffer, FRAME_PAYLOAD_MAX, &ignored);
        if (r == 0 || (r < 0 && r != -EAGAIN))
            return;
        if (r == -EAGAIN)
            (void)poll(&fd, 1, 20);
    }
}
