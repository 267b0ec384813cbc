/* SPDX-License-Identifier: Apache-2.0
 *
 * Data connections with their real threads: parcels arrive once and in order whatever is cut; what
 * a hostile sender puts on them is refused within fixed memory; and TLS by a key of one lane of one
 * migration, which nobody else gets through.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "hamgr/base/rng.h"
#include "hamgr/ipc/sock.h"
#include "migrate/carry.h"
#include "migrate/chan_tls.h"
#include "migrate/lanes.h"

#define WAIT_MS 20000

static void make_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

/* ---- TLS by key ---- */

static struct tls_context *context_of(const uint8_t *psk, uint64_t ticket, unsigned lanes)
{
    struct ha_err err = {0};
    struct tls_context *context = tls_context_psk_new(&err);

    assert_non_null(context);
    tls_context_key(context, psk, ticket, lanes);
    return context;
}

/* Both handshakes; true when both ends are content. The channels are ret[0] (client) and ret[1]. */
static bool shake(struct tls_context *client, struct tls_context *server, unsigned lane,
                  struct chan *ret[2], struct ha_err *server_err)
{
    int pair[2], done[2] = {-EAGAIN, -EAGAIN};
    struct ha_err err = {0};

    make_pair(pair);
    ret[0] = chan_tls_psk_new(client, lane, pair[0], false, &err);
    ret[1] = chan_tls_psk_new(server, 0, pair[1], true, &err);
    assert_true(ret[0] && ret[1]);
    for (unsigned turn = 0; turn < 100; turn++)
        for (int i = 0; i < 2; i++)
            if (done[i] == -EAGAIN)
                done[i] = chan_tls_handshake(ret[i], i == 1 ? server_err : &err);
    return done[0] == 1 && done[1] == 1;
}

static void hang_up(struct chan *chans[2])
{
    for (int i = 0; i < 2; i++)
        chans[i]->ops->close(chans[i]);
}

static void keys(void **state)
{
    static const uint8_t psk[32] = {1, 2, 3}, other[32] = {1, 2, 4};
    struct tls_context *good = context_of(psk, 77, 2), *server = context_of(psk, 77, 2);
    struct chan *chans[2];
    struct ha_err err = {0};

    (void)state;
    for (unsigned lane = 0; lane <= 2; lane++) {
        assert_true(shake(good, server, lane, chans, &err));
        assert_int_equal(chan_tls_lane(chans[1]), lane);
        assert_non_null(strstr(chan_tls_cipher(chans[0]), "SHA256"));
        hang_up(chans);
    }
    struct {
        struct tls_context *context;
        unsigned lane;
    } bad[] = {
        {context_of(other, 77, 2), 1}, /* another migration's key */
        {context_of(psk, 78, 2), 1},   /* another ticket */
        {good, 3},                     /* a lane that was not granted */
    };
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err = (struct ha_err){0};
        assert_false(shake(bad[i].context, server, bad[i].lane, chans, &err));
        if (!strstr(err.text, "no key of this migration"))
            fail_msg("case %u: \"%s\"", i, err.text);
        hang_up(chans);
        if (bad[i].context != good)
            tls_context_free(bad[i].context);
    }
    tls_context_free(good);
    tls_context_free(server);
}

/* ---- hostile parcels ---- */

static void put(uint8_t *at, uint16_t type, uint32_t size, uint32_t epoch, uint64_t sequence)
{
    struct frame_header h = {.type = type, .size = size, .epoch = epoch, .sequence = sequence};

    frame_header_encode(at, &h);
}

/* A receiver with one lane, whose other end is ours. */
struct victim {
    struct lanes *lanes;
    struct session session;
    int fd;
};

static void set_up(struct victim *v, unsigned window)
{
    struct ha_err err = {0};
    int pair[2], control[2];

    make_pair(pair);
    make_pair(control);
    v->fd = pair[1];
    v->lanes = lanes_new(false, 1, &err);
    assert_non_null(v->lanes);
    lanes_agree(v->lanes, 1, window);
    lanes_connect(v->lanes, 1, chan_fd_new(pair[0]));
    assert_int_equal(session_init(&v->session, -1, 5000, 0, &err), 0);
    v->session.chan = chan_fd_new(control[0]);
    close(control[1]); /* the control connection is lost at once: nobody minds for the grace time */
    session_use_lanes(&v->session, v->lanes, false, window, 5000);
}

static void tear_down(struct victim *v)
{
    session_fini(&v->session);
    lanes_free(v->lanes);
    close(v->fd);
}

static void say(const struct victim *v, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        struct pollfd fd = {.fd = v->fd, .events = POLLOUT};
        ssize_t r = write(v->fd, at, size);
        if (r < 0 && errno == EPIPE)
            return;
        assert_true(r > 0 || errno == EAGAIN);
        if (r < 0)
            assert_int_equal(poll(&fd, 1, WAIT_MS), 1);
        at += r > 0 ? r : 0;
        size -= r > 0 ? (size_t)r : 0;
    }
}

/* A parcel that holds one RAW frame of 9 + 8 bytes. */
#define SMALL (2 * FRAME_HEADER_SIZE + FRAME_RAW_HEAD + 9)

static void small_parcel(uint8_t *at, uint64_t number, uint64_t frame)
{
    memset(at, 0, SMALL);
    put(at, FRAME_PARCEL, SMALL - FRAME_HEADER_SIZE, 0, number);
    put(at + FRAME_HEADER_SIZE, FRAME_RAW, FRAME_RAW_HEAD + 9, 0, frame);
}

static void expect_end(struct victim *v, const char *words)
{
    struct ha_err err = {0};
    int rc;

    while ((rc = session_next_frame(&v->session, WAIT_MS, &err)) == 1)
        continue;
    if (rc != -HA_E_PEER || !strstr(err.text, words))
        fail_msg("wanted \"%s\", got %d \"%s\"", words, rc, err.text);
    tear_down(v);
}

static void hostile_parcels(void **state)
{
    static uint8_t bytes[2 * FRAME_HEADER_SIZE + FRAME_PARCEL_MAX];
    struct victim v;

    (void)state;
    set_up(&v, 4);
    small_parcel(bytes, 4, 0);
    say(&v, bytes, SMALL);
    expect_end(&v, "outside of the window");

    set_up(&v, 4);
    small_parcel(bytes, UINT64_MAX, 0);
    say(&v, bytes, SMALL);
    expect_end(&v, "outside of the window");

    set_up(&v, 4);
    put(bytes, FRAME_PARCEL, FRAME_PARCEL_MAX + 1, 0, 0);
    say(&v, bytes, FRAME_HEADER_SIZE);
    expect_end(&v, "frame PARCEL of");

    set_up(&v, 4);
    put(bytes, FRAME_PING, 0, 0, 0);
    say(&v, bytes, FRAME_HEADER_SIZE);
    expect_end(&v, "frame PING on a data connection");

    set_up(&v, 4);
    put(bytes, FRAME_JOIN, 16, 0, 0); /* replayed inside of the connection */
    say(&v, bytes, FRAME_HEADER_SIZE);
    expect_end(&v, "frame JOIN on a data connection");

    set_up(&v, 4);
    small_parcel(bytes, 0, 0);
    put(bytes, FRAME_PARCEL, SMALL - FRAME_HEADER_SIZE, 7, 0);
    say(&v, bytes, SMALL);
    expect_end(&v, "on a data connection");

    set_up(&v, 4);
    memset(bytes, 0x5a, sizeof(bytes));
    say(&v, bytes, 1000);
    expect_end(&v, "no frame where one should start");
}

/* What a parcel may hold. */
static void hostile_frames(void **state)
{
    uint8_t bytes[4 * SMALL];
    struct victim v;

    (void)state;
    set_up(&v, 4);
    small_parcel(bytes, 0, 1); /* frame 1 where 0 is due */
    say(&v, bytes, SMALL);
    expect_end(&v, "where 0 of epoch 0 is due");

    set_up(&v, 4);
    small_parcel(bytes, 0, 0);
    small_parcel(bytes + SMALL, 1, 0); /* frame 0 again, in the next parcel */
    say(&v, bytes, 2 * SMALL);
    expect_end(&v, "where 1 of epoch 0 is due");

    set_up(&v, 4);
    small_parcel(bytes, 0, 0);
    put(bytes + FRAME_HEADER_SIZE, FRAME_RAW, FRAME_RAW_HEAD + 10, 0, 0); /* a byte too long */
    say(&v, bytes, SMALL);
    expect_end(&v, "a parcel ends inside a frame");

    set_up(&v, 4);
    small_parcel(bytes, 0, 0);
    put(bytes + FRAME_HEADER_SIZE, FRAME_RAW, FRAME_RAW_HEAD + 1, 0, 0); /* 8 bytes over */
    say(&v, bytes, SMALL);
    expect_end(&v, "a parcel ends inside a frame");

    static const uint16_t types[] = {FRAME_HELLO, FRAME_ABORT, FRAME_ACK, FRAME_END_ACK};
    for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        uint32_t size = types[i] == FRAME_HELLO     ? 96
                        : types[i] == FRAME_ABORT   ? 4
                        : types[i] == FRAME_END_ACK ? 24
                                                    : 8;
        uint8_t parcel[2 * FRAME_HEADER_SIZE + 96] = {0};
        set_up(&v, 4);
        put(parcel, FRAME_PARCEL, FRAME_HEADER_SIZE + size, 0, 0);
        put(parcel + FRAME_HEADER_SIZE, types[i], size, 0, 0);
        say(&v, parcel, 2 * FRAME_HEADER_SIZE + size);
        expect_end(&v, "in a parcel");
    }

    set_up(&v, 4);
    memset(bytes, 0, sizeof(bytes));
    put(bytes, FRAME_PARCEL, FRAME_HEADER_SIZE + 8, 0, 0);
    put(bytes + FRAME_HEADER_SIZE, FRAME_BARRIER, 8, 0, 0);
    bytes[2 * FRAME_HEADER_SIZE] = 1; /* barrier 1 where 0 is due */
    say(&v, bytes, 2 * FRAME_HEADER_SIZE + 8);
    expect_end(&v, "BARRIER out of order");
}

/* Repetitions and any order are fine; a truncated parcel is just a lost connection. */
static void repeated_and_truncated(void **state)
{
    static const uint64_t order[] = {2, 0, 0, 3, 2, 1, 0, 3};
    uint8_t bytes[SMALL];
    struct ha_err err = {0};
    struct victim v;
    int pair[2];

    (void)state;
    set_up(&v, 4);
    for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        small_parcel(bytes, order[i], order[i]);
        say(&v, bytes, SMALL);
    }
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(session_next_frame(&v.session, WAIT_MS, &err), 1);
        assert_int_equal(v.session.inbox.header.sequence, i);
    }
    assert_int_equal(session_next_frame(&v.session, 50, &err), 0);
    small_parcel(bytes, 4, 4);
    say(&v, bytes, SMALL - 1);
    shutdown(v.fd, SHUT_WR);
    assert_int_equal(session_next_frame(&v.session, 50, &err), 0);
    make_pair(pair);
    lanes_connect(v.lanes, 1, chan_fd_new(pair[0])); /* the lane is back, and sends it again */
    close(v.fd);
    v.fd = pair[1];
    say(&v, bytes, SMALL);
    assert_int_equal(session_next_frame(&v.session, WAIT_MS, &err), 1);
    assert_int_equal(v.session.inbox.header.sequence, 4);
    tear_down(&v);
}

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
    for (unsigned i = 0; i < 3 * SESSION_NOTES; i++) {
        session_note(&s, "lane %u is back", i);
        if (ha_sock_receive(control[1], buffer, &packet) != 1)
            continue;
        struct ha_reader r = ha_reader_of(packet.body, packet.body_size);
        ha_get_text(&r, text, sizeof(text));
        assert_true(r.failed || ++heard == SESSION_NOTES || strstr(text, "is back"));
    }
    assert_int_equal(heard, SESSION_NOTES);
    assert_string_equal(text, "further lines are left out");
    session_fini(&s);
    close(control[0]);
    close(control[1]);
}

/* ---- both ends, real threads, real TLS, cut again and again ---- */

#define COUNT 1500u

struct both {
    struct lanes *ends[2]; /* sender, receiver */
    struct tls_context *contexts[2];
    int cut_fds[FRAME_LANES_MAX + 1]; /* duplicates, to cut a connection under its owners */
    struct ha_rng rng;
    unsigned cuts;
};

static void join(struct both *b, unsigned lane)
{
    struct ha_err err = {0};
    struct chan *chans[2];

    assert_true(shake(b->contexts[0], b->contexts[1], lane, chans, &err));
    if (b->cut_fds[lane] >= 0)
        close(b->cut_fds[lane]);
    b->cut_fds[lane] = fcntl(chans[0]->fd, F_DUPFD_CLOEXEC, 0);
    for (int i = 0; i < 2; i++)
        lanes_connect(b->ends[i], lane, chans[i]);
}

static void look_after(struct both *b)
{
    struct ha_err err = {0};
    unsigned lane;

    for (int i = 0; i < 2; i++) {
        lanes_calm(b->ends[i]);
        assert_int_equal(lanes_check(b->ends[i], &err), 0);
        while ((lane = lanes_take_loss(b->ends[i], &err)) > 0)
            if (i == 0)
                join(b, lane);
    }
}

static void fill(uint8_t *data, size_t size, uint64_t number)
{
    struct ha_rng rng = {number};

    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word = ha_rng_next(&rng);
        memcpy(data + i, &word, 8);
    }
}

static size_t size_of(uint64_t number)
{
    struct ha_rng rng = {number + 1000000};

    return 8 * (3 + ha_rng_below(&rng, 2000));
}

static void check(const uint8_t *data, size_t size, uint64_t number)
{
    static uint8_t want[8 * 2003];

    assert_int_equal(size, size_of(number));
    fill(want, size, number);
    assert_memory_equal(data, want, size);
}

static void cut_one(struct both *b)
{
    unsigned lane = 1 + (unsigned)ha_rng_below(&b->rng, lanes_count(b->ends[0]));

    shutdown(b->cut_fds[lane], ha_rng_below(&b->rng, 2) ? SHUT_RDWR : SHUT_WR);
    b->cuts++;
}

/* Into the room that is there, or in a block of our own instead. */
static void put_parcel(struct both *b, uint8_t *room, uint64_t number)
{
    size_t start = (size_t)ha_rng_below(&b->rng, FRAME_FRONT / 8) * 8;

    if (ha_rng_below(&b->rng, 2) == 0) {
        fill(room, size_of(number), number);
        return;
    }
    uint8_t *block = malloc(FRAME_BLOCK);
    assert_non_null(block);
    fill(block + start + FRAME_HEADER_SIZE, size_of(number), number);
    fill(room, size_of(number), number + 1); /* what it replaces must not be sent */
    uint8_t *old = lanes_exchange(b->ends[0], block, start);
    assert_ptr_equal(old + FRAME_HEADER_SIZE, room);
    free(old);
}

static void cut_over_tls(void **state)
{
    static const uint8_t psk[32] = {9};
    struct both b = {.rng = {5}};
    uint64_t sent = 0, taken = 0;
    struct ha_err err = {0};

    (void)state;
    for (int i = 0; i < 2; i++) {
        b.contexts[i] = context_of(psk, 1, 3);
        b.ends[i] = lanes_new(i == 0, 3, &err);
        assert_non_null(b.ends[i]);
        lanes_agree(b.ends[i], 3, 8);
    }
    for (unsigned lane = 0; lane <= FRAME_LANES_MAX; lane++)
        b.cut_fds[lane] = -1;
    for (unsigned lane = 1; lane <= 3; lane++)
        join(&b, lane);
    while (taken < COUNT) {
        uint8_t *room = sent < COUNT ? lanes_open(b.ends[0]) : NULL;
        size_t size = 0;
        if (room) {
            put_parcel(&b, room, sent);
            lanes_queue(b.ends[0], size_of(sent++));
        }
        uint8_t *head = lanes_head(b.ends[1], &size);
        if (head) {
            check(head, size, taken++);
            uint64_t next = lanes_release(b.ends[1]);
            assert_int_equal(next, taken);
            if (ha_rng_below(&b.rng, 3) == 0)
                assert_int_equal(lanes_ack(b.ends[0], next, &err), 0);
        }
        if (!room && !head) {
            struct pollfd fds[2] = {{.fd = lanes_fd(b.ends[0]), .events = POLLIN},
                                    {.fd = lanes_fd(b.ends[1]), .events = POLLIN}};
            assert_int_equal(lanes_ack(b.ends[0], taken, &err), 0);
            (void)poll(fds, 2, 20);
        }
        if (ha_rng_below(&b.rng, 40) == 0)
            cut_one(&b);
        look_after(&b);
    }
    assert_int_equal(lanes_ack(b.ends[0], taken, &err), 0);
    assert_true(lanes_is_empty(b.ends[0]));
    assert_true(b.cuts > 20);
    for (int i = 0; i < 2; i++) {
        lanes_free(b.ends[i]);
        tls_context_free(b.contexts[i]);
    }
    for (unsigned lane = 1; lane <= 3; lane++)
        close(b.cut_fds[lane]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys),
        cmocka_unit_test(hostile_parcels),
        cmocka_unit_test(hostile_frames),
        cmocka_unit_test(repeated_and_truncated),
        cmocka_unit_test(replaced_while_writing),
        cmocka_unit_test(cut_over_tls),
        cmocka_unit_test(flooded),
        cmocka_unit_test(flooded_lanes),
        cmocka_unit_test(few_notes),
        cmocka_unit_test(renewed_in_time),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
