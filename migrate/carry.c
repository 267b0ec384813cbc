/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/carry.h"

#include <errno.h>
#include <string.h>

#include "hamgr/base/assert.h"
#include "migrate/lanes.h"

#define SEAL_AT   196608u /* a parcel with this much goes; a frame of 64 stored pages has more */
#define TURN_MS   100
#define ACK_EVERY 4u /* parcels, 1 MiB: one small record back per that much costs nothing */

/* ---- sender: frames into parcels ---- */

static void seal(struct session *s)
{
    if (s->parcel && s->parcel_used > 0) {
        lanes_queue(s->lanes, s->parcel_used);
        s->parcel = NULL;
        s->sealed++;
    }
}

uint64_t session_parcels(const struct session *s)
{
    return s->sealed + (s->parcel && s->parcel_used > 0 ? 1 : 0);
}

/* Something may have changed: a parcel arrived or was written, an ACK came, a lane was lost. */
static int wait_for_lanes(struct session *s, int timeout_ms, struct ha_err *err)
{
    struct pollfd fds[2] = {{.fd = lanes_fd(s->lanes), .events = POLLIN},
                            {.fd = s->chan ? s->chan->fd : -1, .events = POLLIN}};
    int rc = session_wait(s, fds, 2, timeout_ms, err);

    if (rc > 0 && fds[0].revents != 0)
        lanes_calm(s->lanes);
    return rc < 0 ? rc : 0;
}

/* For room in the window: the link, or the peer, is slower than we are. */
static int wait_for_room(struct session *s, struct ha_err *err)
{
    uint64_t since = session_clock_us();
    int rc = wait_for_lanes(s, TURN_MS, err);

    s->blocked_us += session_clock_us() - since;
    return rc;
}

uint8_t *carry_begin(struct session *s, size_t room, struct ha_err *err)
{
    ha_assert(FRAME_HEADER_SIZE + room <= FRAME_PARCEL_MAX);
    if (s->parcel && FRAME_PARCEL_MAX - s->parcel_used < FRAME_HEADER_SIZE + room)
        seal(s);
    while (!s->parcel) {
        s->parcel = lanes_open(s->lanes);
        s->parcel_used = 0;
        if (!s->parcel && wait_for_room(s, err) < 0)
            return NULL;
    }
    return s->parcel + s->parcel_used + FRAME_HEADER_SIZE;
}

/* The sooner an acknowledgement is heard, the fewer blocks go round: they stay in a cache. */
static int seal_and_hear(struct session *s, struct ha_err *err)
{
    seal(s);
    int rc = carry_hear(s, err);
    return rc < 0 ? rc : session_poll(s, err);
}

int carry_give(struct session *s, uint16_t type, size_t size, uint8_t **tail, size_t tail_size,
               struct ha_err *err)
{
    size_t heads = 2 * (size_t)FRAME_HEADER_SIZE + size;

    ha_assert(heads <= FRAME_FRONT && FRAME_HEADER_SIZE + size + tail_size <= FRAME_PARCEL_MAX);
    seal(s); /* it is a parcel of its own */
    if (!carry_begin(s, size, err))
        return -err->code;
    struct frame_header header = {
        .type = type, .size = (uint32_t)(size + tail_size), .sequence = s->stream_sequence++};
    frame_header_encode(*tail - size - FRAME_HEADER_SIZE, &header);
    *tail = lanes_exchange(s->lanes, *tail - FRAME_FRONT, FRAME_FRONT - heads) + FRAME_FRONT;
    s->parcel_used = FRAME_HEADER_SIZE + size + tail_size;
    return seal_and_hear(s, err);
}

int carry_commit(struct session *s, uint16_t type, size_t size, const void *tail, size_t tail_size,
                 struct ha_err *err)
{
    struct frame_header header = {
        .type = type, .size = (uint32_t)(size + tail_size), .sequence = s->stream_sequence++};
    uint8_t *at = s->parcel + s->parcel_used;

    ha_assert(s->parcel &&
              FRAME_PARCEL_MAX - s->parcel_used >= FRAME_HEADER_SIZE + size + tail_size);
    frame_header_encode(at, &header);
    if (tail_size > 0)
        memcpy(at + FRAME_HEADER_SIZE + size, tail, tail_size);
    s->parcel_used += FRAME_HEADER_SIZE + size + tail_size;
    return s->parcel_used < SEAL_AT ? 0 : seal_and_hear(s, err);
}

int carry_flush(struct session *s, struct ha_err *err)
{
    seal(s);
    return session_poll(s, err);
}

int session_await_ack(struct session *s, struct ha_err *err)
{
    int rc = 0;

    /* The wait itself takes the peer's frames; it returns because some came. */
    while (rc >= 0 && !s->is_acked)
        rc = s->lanes ? wait_for_lanes(s, TURN_MS, err)
                      : session_wait_fd(s, s->chan->fd, POLLIN, -1, err);
    return rc < 0 ? rc : 0;
}

/* ---- receiver: frames out of parcels ---- */

int carry_ack(struct session *s, bool is_due, struct ha_err *err)
{
    uint8_t payload[8];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));

    if (!s->chan || (!is_due && s->taken - s->told < ACK_EVERY))
        return 0;
    if (s->out_end > 0 && (session_write_out(s, false, err) < 0 || s->out_end > 0))
        return 0; /* with a full socket the next one says more */
    ha_put_u64(&w, s->taken);
    if (session_put(s, FRAME_ACK, payload, sizeof(payload)))
        s->told = s->taken;
    return session_write_out(s, false, err);
}

/* The next parcel, or what is left of the present one. 1, or 0: none is there. */
static int turn_parcel(struct session *s, struct ha_err *err)
{
    if (s->parcel && s->parcel_used < s->parcel_size)
        return 1;
    if (s->parcel) {
        s->taken = lanes_release(s->lanes);
        s->parcel = NULL;
        int rc = carry_ack(s, false, err);
        if (rc < 0)
            return rc;
    }
    s->parcel = lanes_head(s->lanes, &s->parcel_size);
    s->parcel_used = 0;
    return s->parcel ? 1 : 0;
}

static bool is_of_stream(const struct frame_header *header)
{
    return header->type == FRAME_SETUP || header->type == FRAME_RAW ||
           header->type == FRAME_BATCH || header->type == FRAME_PAGES ||
           header->type == FRAME_END || header->type == FRAME_BARRIER ||
           strcmp(frame_name(header->type), "unknown") == 0;
}

static int check_barrier(struct session *s, struct ha_err *err)
{
    uint64_t number;
    int rc = frame_number_decode(FRAME_BARRIER, inbox_payload(&s->inbox), s->inbox.header.size,
                                 &number, err);

    if (rc == 0 && number != s->barriers)
        rc = ha_err_set(err, HA_E_PEER, "frame BARRIER out of order");
    s->barriers++;
    return rc;
}

/* Points the inbox at the next frame of the parcel. 0 or a negative error. */
static int read_frame(struct session *s, struct ha_err *err)
{
    struct inbox *inbox = &s->inbox;
    size_t left = s->parcel_size - s->parcel_used;

    inbox->buffer = s->parcel + s->parcel_used;
    if (left < FRAME_HEADER_SIZE)
        return ha_err_set(err, HA_E_PEER, "a parcel ends inside a frame");
    int rc = frame_header_decode(inbox->buffer, &inbox->header, err);
    if (rc < 0)
        return rc;
    if (inbox->header.size > left - FRAME_HEADER_SIZE)
        return ha_err_set(err, HA_E_PEER, "a parcel ends inside a frame");
    if (inbox->header.sequence != s->stream_sequence || inbox->header.epoch != 0)
        return ha_err_set(err, HA_E_PEER, "frame %llu of epoch %u where %llu of epoch 0 is due",
                          (unsigned long long)inbox->header.sequence, (unsigned)inbox->header.epoch,
                          (unsigned long long)s->stream_sequence);
    if (!is_of_stream(&inbox->header))
        return ha_err_set(err, HA_E_PEER, "unexpected frame %s in a parcel",
                          frame_name(inbox->header.type));
    s->stream_sequence++;
    s->parcel_used += FRAME_HEADER_SIZE + inbox->header.size;
    return inbox->header.type == FRAME_BARRIER ? check_barrier(s, err) : 0;
}

/* One frame for the layer above, or 0. */
static int take_frame(struct session *s, struct ha_err *err)
{
    int rc;

    while ((rc = turn_parcel(s, err)) == 1) {
        rc = read_frame(s, err);
        if (rc < 0)
            return rc;
        if (s->inbox.header.type != FRAME_BARRIER &&
            strcmp(frame_name(s->inbox.header.type), "unknown") != 0)
            return 1;
        rc = session_poll(s, err); /* what is skipped may go on as long as the sender likes */
        if (rc < 0)
            return rc;
    }
    return rc;
}

int carry_next_frame(struct session *s, int timeout_ms, struct ha_err *err)
{
    uint64_t until = session_now(s) + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);

    for (;;) {
        int rc = take_frame(s, err);
        if (rc != 0)
            return rc;
        if (timeout_ms >= 0 && session_now(s) >= until)
            return 0;
        /* Nothing more to take: what was taken so far is worth telling. */
        if (s->taken != s->told)
            rc = carry_ack(s, true, err);
        if (rc == 0)
            rc = wait_for_lanes(s, timeout_ms >= 0 && timeout_ms < TURN_MS ? timeout_ms : TURN_MS,
                                err);
        if (rc < 0)
            return rc;
    }
}

/* ---- the control connection ---- */

void session_use_lanes(struct session *s, struct lanes *lanes, bool is_sender, uint32_t window,
                       uint32_t grace_ms)
{
    s->lanes = lanes;
    s->is_sender = is_sender;
    s->window = window;
    s->grace_ms = grace_ms;
    s->is_listening_peer = true;
    s->control = (struct inbox){.buffer = s->control_buffer,
                                .capacity = sizeof(s->control_buffer),
                                .sequence = s->inbox.sequence};
    lanes_cap(lanes, s->rate_mbit);
    s->heard_ms = session_now(s);
}

void session_set_control(struct session *s, struct chan *chan, uint64_t sent, uint64_t received)
{
    uint8_t payload[24];
    struct ha_writer w = ha_writer_of(payload, sizeof(payload));

    if (s->chan)
        s->chan->ops->close(s->chan);
    s->chan = chan;
    s->controls++;
    s->control = (struct inbox){
        .buffer = s->control_buffer, .capacity = sizeof(s->control_buffer), .sequence = received};
    s->send_sequence = sent;
    s->out_start = s->out_end = 0;
    s->is_cut = s->is_peer_done = false;
    s->renewed_bytes = 0;
    s->heard_ms = s->spoke_ms = session_now(s);
    if (s->is_sender)
        return;
    (void)carry_ack(s, true, NULL); /* how far we are; a failure shows when the peer is heard */
    if (!s->has_end_ack)
        return;
    frame_end_ack_encode(&w, &s->ack);
    (void)session_put(s, FRAME_END_ACK, payload, w.position);
    (void)session_write_out(s, false, NULL);
}

void carry_lose(struct session *s, const struct ha_err *why)
{
    if (!s->chan)
        return;
    if (!s->is_over)
        session_note(s, "control connection lost: %s", why->text);
    s->chan->ops->close(s->chan);
    s->chan = NULL;
    s->controls++;
    s->out_start = s->out_end = 0;
}

static int hear_ack(struct session *s, const uint8_t *payload, struct ha_err *err)
{
    uint64_t next;
    int rc = frame_number_decode(FRAME_ACK, payload, s->control.header.size, &next, err);

    if (rc == 0)
        rc = lanes_ack(s->lanes, next, err);
    if (rc == 0 && next == s->taken)
        s->asked_ms = s->clock_ms;
    if (rc == 0 && next > s->taken) {
        s->taken = next;
        s->moved_ms = s->clock_ms;
        if (s->on_ack)
            s->on_ack(s->on_ack_user);
    }
    return rc;
}

static int hear_frame(struct session *s, struct ha_err *err)
{
    const struct frame_header *header = &s->control.header;
    const uint8_t *payload = inbox_payload(&s->control);
    struct frame_abort stop;
    int rc;

    if (header->type == FRAME_PING || strcmp(frame_name(header->type), "unknown") == 0)
        return 0;
    if (header->type == FRAME_ABORT) {
        s->is_peer_done = true;
        rc = frame_abort_decode(payload, header->size, &stop, err);
        return rc < 0
                   ? rc
                   : ha_err_set(err,
                                stop.code == FRAME_ABORT_CANCELLED ? HA_E_CANCELLED : HA_E_REFUSED,
                                "the peer says: %s", stop.text);
    }
    if (s->is_sender && header->type == FRAME_ACK)
        return hear_ack(s, payload, err);
    if (!s->is_sender || header->type != FRAME_END_ACK || !s->is_ending)
        return ha_err_set(err, HA_E_PEER, "unexpected frame %s from the %s",
                          frame_name(header->type), s->is_sender ? "receiver" : "sender");
    rc = frame_end_ack_decode(payload, header->size, &s->ack, err);
    s->is_acked = rc == 0;
    return rc;
}

int carry_hear(struct session *s, struct ha_err *err)
{
    struct ha_err why = {0};

    s->is_unheard = false;
    for (unsigned i = 0; s->chan && !s->is_acked; i++) {
        s->is_unheard = i == SESSION_SWALLOW;
        if (s->is_unheard)
            return 0;
        bool moved = false;
        int rc = inbox_pump(&s->control, s->chan, &moved, &why);
        if (moved)
            s->heard_ms = session_now(s);
        if (rc == 0)
            return 0;
        if (rc < 0 && s->control.is_lost) {
            s->is_peer_done = s->has_end_ack && s->control.is_ended;
            carry_lose(s, &why);
            return 0;
        }
        if (rc < 0 && err)
            *err = why;
        if (rc > 0) {
            s->progress.wire_bytes += s->control.have;
            rc = hear_frame(s, err);
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

int carry_check(struct session *s, struct ha_err *err)
{
    struct ha_err why = {0};
    uint64_t silent_ms = s->clock_ms - s->heard_ms;

    int rc = lanes_check(s->lanes, err);
    if (rc < 0)
        return rc;
    if (silent_ms > s->grace_ms)
        return ha_err_set(err, HA_E_TIMEOUT, "the peer is silent for %u ms", (unsigned)s->grace_ms);
    if (silent_ms > SESSION_SILENT_MS && s->chan) {
        ha_err_set(&why, HA_E_TIMEOUT, "silent for %u ms", SESSION_SILENT_MS);
        carry_lose(s, &why);
    }
    return 0;
}

/* A sender that got END_ACK ends its control connection in good order. One that lost it comes back
 * and asks: within the grace time, unless hamgrd has us end before. */
void carry_linger(struct session *s, unsigned timeout_ms)
{
    uint64_t since = session_now(s);
    struct ha_err ignored = {0};

    s->is_over = true;
    s->is_connected = false; /* no reports any more */
    while (s->has_end_ack && !s->is_peer_done) {
        if (session_wait(s, NULL, 0, TURN_MS / 5, &ignored) < 0)
            break;
        since = s->chan ? since : s->clock_ms;
        if (s->clock_ms - since > timeout_ms)
            break;
    }
    lanes_stop(s->lanes);
}
