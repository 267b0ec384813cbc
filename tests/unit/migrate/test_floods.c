/* SPDX-License-Identifier: Apache-2.0
 *
 * Peers that keep to the letter of the format and mean no good by it: a control connection replaced
 * at a bad moment, floods, one key for ever. No end may write what is not its own, go deaf or fill
 * logs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>

#include "hamgr/ipc/sock.h"
#include "lanesrig.h"

/* ---- the control connection, replaced at a bad moment ---- */

/* Takes nothing and says nothing: a peer that keeps its window shut. */
static ssize_t stuck_read(struct chan *chan, void *data, size_t size, struct ha_err *err)
{
    (void)chan;
    (void)data;
    (void)size;
    (void)err;
    return -EAGAIN;
}

static ssize_t stuck_write(struct chan *chan, const void *data, size_t size, struct ha_err *err)
{
    (void)chan;
    (void)data;
    (void)size;
    (void)err;
    return -EAGAIN;
}

static void stuck_close(struct chan *chan)
{
    close(chan->fd);
}

static const struct chan_ops stuck_ops = {
    .name = "stuck", .read = stuck_read, .write = stuck_write, .close = stuck_close};

/* Somebody who brings another control connection, once, in whatever wait comes. */
struct bringer {
    struct attendant attendant;
    struct session *session;
    struct chan *chan;
};

static unsigned bring_watch(struct attendant *a, struct pollfd *fds, unsigned room)
{
    (void)a;
    (void)fds;
    (void)room;
    return 0;
}

static int bring(struct attendant *a, const struct pollfd *fds, unsigned count, struct ha_err *err)
{
    struct bringer *b = (struct bringer *)a;

    (void)fds;
    (void)count;
    (void)err;
    if (b->chan)
        session_set_control(b->session, b->chan, 0, 1);
    b->chan = NULL;
    return 0;
}

/* A sender may join anew whenever it likes, also while END_ACK waits for room on a connection it
 * does not read: what is left of that goes nowhere, and the new one hears it once, from its start.
 */
static void replaced_while_writing(void **state)
{
    uint8_t bytes[512] = {0};
    struct frame_header header;
    struct ha_err err = {0};
    struct victim v;
    int old[2], new[2];

    (void)state;
    set_up(&v, 4);
    make_pair(old);
    make_pair(new);
    struct chan stuck = {
        .ops = &stuck_ops, .fd = old[0], .read_wants = POLLIN, .write_wants = POLLOUT};
    session_set_control(&v.session, &stuck, 0, 1);
    struct bringer b = {{.watch = bring_watch, .turn = bring}, &v.session, chan_fd_new(new[0])};
    v.session.attendant = &b.attendant;
    assert_non_null(session_begin(&v.session, 24, &err));
    memset(session_begin(&v.session, 24, &err), 7, 24);
    assert_int_equal(session_commit(&v.session, FRAME_END_ACK, 24, NULL, 0, &err), 0);
    assert_int_equal(session_flush(&v.session, &err), 0);
    assert_null(b.chan);
    assert_int_equal(session_flush(&v.session, &err), 0);
    assert_int_equal(read(new[1], bytes, sizeof(bytes)), 2 * FRAME_HEADER_SIZE + 8 + 24);
    assert_int_equal(frame_header_decode(bytes, &header, &err), 0);
    assert_int_equal(header.type, FRAME_ACK);
    assert_int_equal(frame_header_decode(bytes + FRAME_HEADER_SIZE + 8, &header, &err), 0);
    assert_int_equal(header.type, FRAME_END_ACK);
    assert_int_equal(header.sequence, 1);
    /* Nothing is left that a later write could begin with. */
    assert_int_equal(v.session.out_start, v.session.out_end);
    v.session.attendant = NULL;
    close(old[1]);
    close(new[1]);
    tear_down(&v);
}

/* ---- keys ---- */

#define KEY_BYTES (UINT64_C(64) << 30) /* what a key of AES-GCM may be used for */

/* Takes everything at once, counts what each key was used for, and can't renew its last one. */
struct counted {
    struct chan chan; /* first */
    _Atomic uint64_t total;
    _Atomic uint64_t most; /* with one key */
    _Atomic unsigned renewals;
    uint64_t since; /* the lane's */
};

static ssize_t counted_write(struct chan *chan, const void *data, size_t size, struct ha_err *err)
{
    struct counted *c = (struct counted *)chan;

    (void)data;
    (void)err;
    c->since += size;
    c->most = c->since > c->most ? c->since : c->most;
    c->total += size;
    return (ssize_t)size;
}

static int counted_renew(struct chan *chan, struct ha_err *err)
{
    struct counted *c = (struct counted *)chan;

    if (++c->renewals == 2) /* as with kTLS */
        return ha_err_set(err, ECONNRESET, "time for a new key");
    c->since = 0;
    return 0;
}

static const struct chan_ops counted_ops = {.name = "counted",
                                            .read = stuck_read,
                                            .write = counted_write,
                                            .renew = counted_renew,
                                            .close = stuck_close};

/* A lane renews its key before 64 GiB, again and again; one that can't is lost, and what comes then
 * waits for another connection. */
static void renewed_in_time(void **state)
{
    struct counted c = {
        .chan = {.ops = &counted_ops, .read_wants = POLLIN, .write_wants = POLLOUT}};
    struct ha_err err = {0};
    struct lanes *lanes = lanes_new(true, 1, &err);
    uint64_t bound = 3 * KEY_BYTES;
    int pair[2];

    (void)state;
    assert_non_null(lanes);
    make_pair(pair);
    c.chan.fd = pair[0];
    lanes_connect(lanes, 1, &c.chan);
    while (c.total < bound && lanes_is_up(lanes, 1)) {
        while (lanes_open(lanes))
            lanes_queue(lanes, FRAME_PARCEL_MAX);
        struct pollfd fd = {.fd = lanes_fd(lanes), .events = POLLIN};
        assert_int_equal(lanes_ack(lanes, c.total / (FRAME_HEADER_SIZE + FRAME_PARCEL_MAX), &err),
                         0);
        (void)poll(&fd, 1, 1);
        lanes_calm(lanes);
    }
    assert_int_equal(c.renewals, 2);
    assert_in_range(c.most, 1, KEY_BYTES - 1);
    assert_int_equal(lanes_take_loss(lanes, &err), 1);
    assert_string_equal(err.text, "time for a new key");
    lanes_free(lanes);
    close(pair[1]);
}

/* ---- floods: whoever has nothing to say says it without end ---- */

#define FLOOD_MAX 200000u /* frames, not to hang when nobody stops reading */

struct flood {
    struct chan chan; /* first */
    uint64_t sequence;
    uint32_t frames;
};

static ssize_t flood_read(struct chan *chan, void *data, size_t size, struct ha_err *err)
{
    struct flood *f = (struct flood *)chan;

    (void)err;
    if (f->frames == FLOOD_MAX)
        return -EAGAIN;
    assert_int_equal(size, FRAME_HEADER_SIZE);
    put(data, FRAME_PING, 0, 0, f->sequence++);
    f->frames++;
    return FRAME_HEADER_SIZE;
}

static const struct chan_ops flood_ops = {
    .name = "flood", .read = flood_read, .write = stuck_write, .close = stuck_close};

/* A socket that is always readable. */
static int readable(int *ret_other)
{
    int pair[2];

    make_pair(pair);
    assert_int_equal(write(pair[1], "x", 1), 1);
    *ret_other = pair[1];
    return pair[0];
}

/* PINGs faster than they can be read: limits and cancel are looked at all the same. */
static void flooded(void **state)
{
    struct flood f = {.chan = {.ops = &flood_ops, .read_wants = POLLIN, .write_wants = POLLOUT},
                      .sequence = 1};
    struct ha_err err = {0};
    struct session single;
    struct victim v;
    int other;

    (void)state;
    set_up(&v, 4);
    f.chan.fd = readable(&other);
    session_set_control(&v.session, &f.chan, 0, 1);
    assert_int_equal(session_wait(&v.session, NULL, 0, 0, &err), 0);
    assert_in_range(f.frames, 1, FLOOD_MAX / 10);
    tear_down(&v);
    close(other);

    f.sequence = f.frames = 0;
    assert_int_equal(session_init(&single, -1, 5000, 0, &err), 0);
    f.chan.fd = readable(&other);
    single.chan = &f.chan;
    assert_int_equal(session_next_frame(&single, 0, &err), 0);
    assert_in_range(f.frames, 1, FLOOD_MAX / 10);
    session_fini(&single);
    close(other);
}

/* Frames that are to be skipped come as fast as parcels do: hamgrd is heard between them. */
static void flooded_lanes(void **state)
{
    uint8_t bytes[FRAME_HEADER_SIZE + SMALL];
    struct ha_err err = {0};
    struct victim v;
    int control[2];

    (void)state;
    set_up(&v, 4);
    make_pair(control);
    memset(bytes, 0, sizeof(bytes));
    put(bytes, FRAME_PARCEL, SMALL, 0, 0);
    put(bytes + FRAME_HEADER_SIZE, 200, 0, 0, 0);
    bytes[FRAME_HEADER_SIZE + 6] = 1; /* OPTIONAL */
    put(bytes + 2 * (size_t)FRAME_HEADER_SIZE, FRAME_RAW, FRAME_RAW_HEAD + 9, 0, 1);
    say(&v, bytes, sizeof(bytes));
    struct pollfd there = {.fd = lanes_fd(v.lanes), .events = POLLIN};
    size_t size;
    while (!lanes_head(v.lanes, &size))
        assert_int_equal(poll(&there, 1, WAIT_MS), 1);
    v.session.control_fd = control[0];
    close(control[1]); /* hamgrd is gone */
    assert_int_equal(session_next_frame(&v.session, 0, &err), -HA_E_CANCELLED);
    tear_down(&v);
    close(control[0]);
}

/* A peer that comes back again and again fills no log. */
static void few_notes(void **state)
{
    static uint8_t buffer[HA_IPC_MAX];
    char text[HA_TEXT_MAX] = "";
    struct ha_err err = {0};
    struct ha_packet packet;
    struct session s;
    unsigned heard = 0;
    int control[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, control),
                     0);
    assert_int_equal(session_init(&s, control[0], 5000, 0, &err), 0);
    for (unsigned i = 0; i < 3 * STREAMP_NOTES_MAX; i++) {
        session_note(&s, "lane %u is back", i);
        if (ha_sock_receive(control[1], buffer, &packet) != 1)
            continue;
        struct ha_reader r = ha_reader_of(packet.body, packet.body_size);
        ha_get_text(&r, text, sizeof(text));
        assert_true(r.failed || ++heard == STREAMP_NOTES_MAX || strstr(text, "is back"));
    }
    assert_int_equal(heard, STREAMP_NOTES_MAX);
    assert_string_equal(text, "further lines are left out");
    session_fini(&s);
    close(control[0]);
    close(control[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replaced_while_writing),
        cmocka_unit_test(renewed_in_time),
        cmocka_unit_test(flooded),
        cmocka_unit_test(flooded_lanes),
        cmocka_unit_test(few_notes),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
