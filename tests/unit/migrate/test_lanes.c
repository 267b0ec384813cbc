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
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "hamgr/base/rng.h"
#include "lanesrig.h"
#include "migrate/chan_tls.h"

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

/* How many bytes wait at the other end of the socket, still as TLS has them. */
static int waiting_bytes(const struct chan *chan)
{
    int bytes = 0;

    assert_int_equal(ioctl(chan->fd, FIONREAD, &bytes), 0);
    return bytes;
}

static void write_all(struct chan *chan, const uint8_t *data, size_t size)
{
    struct ha_err err = {0};

    for (size_t done = 0; done < size;) {
        ssize_t n = chan->ops->write(chan, data + done, size - done, &err);
        assert_true(n > 0);
        done += (size_t)n;
    }
}

static size_t read_some(struct chan *chan, uint8_t *data, size_t size)
{
    struct ha_err err = {0};
    ssize_t n = chan->ops->read(chan, data, size, &err);

    assert_true(n > 0 || n == -EAGAIN);
    return n > 0 ? (size_t)n : 0;
}

/* What is gathered leaves in pieces as large as can be, all of it with the flush, and unharmed by a
 * socket that takes less. */
static void gathering(void **state)
{
    enum { FEW = 40000, MANY = 1 << 20 };
    static const uint8_t psk[32] = {5};
    struct tls_context *context = context_of(psk, 5, 1), *server = context_of(psk, 5, 1);
    uint8_t *sent = malloc(MANY), *got = calloc(1, MANY);
    struct chan *chans[2];
    struct ha_err err = {0};
    struct ha_rng rng = {5};
    size_t have = 0, done = 0;
    int rc;

    (void)state;
    for (size_t i = 0; i < MANY; i++)
        sent[i] = (uint8_t)ha_rng_next(&rng);
    assert_true(shake(context, server, 1, chans, &err));
    (void)read_some(chans[1], got, 1);
    assert_int_equal(chans[0]->ops->flush(chans[0], &err), 0); /* nothing is kept back */
    write_all(chans[0], sent, FEW);
    assert_true(waiting_bytes(chans[1]) > FEW);
    while (have < FEW)
        have += read_some(chans[1], got + have, FEW - have);
    assert_memory_equal(got, sent, FEW);

    chans[0]->ops->gather(chans[0]);
    write_all(chans[0], sent, FEW);
    assert_int_equal(waiting_bytes(chans[1]), 0);
    assert_int_equal(chans[0]->ops->flush(chans[0], &err), 0);
    assert_true(waiting_bytes(chans[1]) > FEW);
    for (have = 0; have < FEW;)
        have += read_some(chans[1], got + have, FEW - have);

    /* More than the socket takes: whoever reads lets it go on. */
    for (have = 0; done < MANY;) {
        ssize_t n = chans[0]->ops->write(chans[0], sent + done, MANY - done, &err);
        assert_true(n > 0 || n == -EAGAIN);
        if (n > 0)
            done += (size_t)n;
        else
            have += read_some(chans[1], got + have, MANY - have);
    }
    while ((rc = chans[0]->ops->flush(chans[0], &err)) == -EAGAIN)
        have += read_some(chans[1], got + have, MANY - have);
    assert_int_equal(rc, 0);
    while (have < MANY)
        have += read_some(chans[1], got + have, MANY - have);
    assert_memory_equal(got, sent, MANY);
    hang_up(chans);
    tls_context_free(context);
    tls_context_free(server);
    free(sent);
    free(got);
}

/* Key updates before data are read over; a connection with nothing but them is ended, for a read
 * would not end before them. */
static void key_updates(void **state)
{
    static const uint8_t psk[32] = {3};
    struct tls_context *contexts[2] = {context_of(psk, 5, 1), context_of(psk, 5, 1)};
    struct ha_err err = {0};
    struct chan *chans[2];
    uint8_t byte = 0;

    (void)state;
    assert_true(shake(contexts[0], contexts[1], 1, chans, &err));
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(chans[0]->ops->renew(chans[0], &err), 0);
        assert_int_equal(chan_tls_handshake(chans[0], &err), 1); /* sends it, and no data */
    }
    assert_int_equal(chans[0]->ops->write(chans[0], "x", 1, &err), 1);
    assert_int_equal(chans[1]->ops->read(chans[1], &byte, 1, &err), 1);
    assert_int_equal(byte, 'x');
    assert_int_equal(chans[1]->ops->read(chans[1], &byte, 1, &err), -EAGAIN);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(chans[0]->ops->renew(chans[0], &err), 0);
        assert_int_equal(chan_tls_handshake(chans[0], &err), 1);
    }
    assert_int_equal(chans[1]->ops->read(chans[1], &byte, 1, &err), -ECONNRESET);
    hang_up(chans);
    for (int i = 0; i < 2; i++)
        tls_context_free(contexts[i]);
}

/* ---- hostile parcels ---- */

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
        cmocka_unit_test(key_updates),
        cmocka_unit_test(hostile_parcels),
        cmocka_unit_test(hostile_frames),
        cmocka_unit_test(repeated_and_truncated),
        cmocka_unit_test(cut_over_tls),
        cmocka_unit_test(gathering),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
