/* SPDX-License-Identifier: Apache-2.0
 *
 * A link on a real loop with a real peer: it connects when the peer comes, reconnects when it comes
 * back, queues what the peer does not take, ends loudly when that is too much, and survives that
 * its owner closes it from any callback.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <qb/qbloop.h>
#include <qb/qbutil.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/shell/link.h"

#define LIMIT_MS 10000u /* for whatever a test waits for: reconnecting takes 2 s at most */

enum closing { CLOSE_NEVER, CLOSE_IN_UP, CLOSE_IN_PACKET, CLOSE_IN_DOWN };

struct world {
    qb_loop_t *loop;
    struct link *link;
    char dir[32];
    char path[64];
    int listener, peer;
    enum closing closing;
    unsigned up, packets, down;
    uint64_t last_id;
    unsigned *awaited; /* the loop ends when it has reached wanted */
    unsigned wanted;
    bool is_late;
    qb_loop_timer_handle limit;
    uint8_t buffer[HA_IPC_MAX];
};

static void look(struct world *w)
{
    if (w->awaited && *w->awaited >= w->wanted)
        qb_loop_stop(w->loop);
}

static void close_here(struct world *w, enum closing where)
{
    if (w->closing != where)
        return;
    link_close(w->link);
    w->link = NULL;
}

static void on_up(void *user)
{
    struct world *w = user;

    w->up++;
    look(w);
    close_here(w, CLOSE_IN_UP);
}

static void on_packet(void *user, const struct ha_packet *packet)
{
    struct world *w = user;

    w->packets++;
    w->last_id = packet->id;
    look(w);
    close_here(w, CLOSE_IN_PACKET);
}

static void on_down(void *user, const char *why)
{
    struct world *w = user;

    assert_true(strlen(why) > 0);
    w->down++;
    look(w);
    close_here(w, CLOSE_IN_DOWN);
}

static const struct link_callbacks callbacks = {.up = on_up, .packet = on_packet, .down = on_down};

static void on_limit(void *data)
{
    struct world *w = data;

    w->limit = 0;
    w->is_late = true;
    qb_loop_stop(w->loop);
}

/* Runs the loop until *counter reached wanted; fails after LIMIT_MS. */
static void await(struct world *w, unsigned *counter, unsigned wanted)
{
    w->awaited = counter;
    w->wanted = wanted;
    w->is_late = false;
    if (*counter < wanted) {
        qb_loop_timer_add(w->loop, QB_LOOP_LOW, LIMIT_MS * QB_TIME_NS_IN_MSEC, w, on_limit,
                          &w->limit);
        qb_loop_run(w->loop);
        if (w->limit)
            qb_loop_timer_del(w->loop, w->limit);
        w->limit = 0;
    }
    w->awaited = NULL;
    assert_false(w->is_late);
    assert_true(*counter >= wanted);
}

/* Lets the loop turn for a while, in which nothing is expected. */
static void turn(struct world *w, uint32_t ms)
{
    qb_loop_timer_add(w->loop, QB_LOOP_LOW, ms * QB_TIME_NS_IN_MSEC, w, on_limit, &w->limit);
    qb_loop_run(w->loop);
}

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof(*w));

    if (!w)
        return -1;
    memcpy(w->dir, "/tmp/hamgr-link-XXXXXX", 23);
    if (!mkdtemp(w->dir))
        return -1;
    snprintf(w->path, sizeof(w->path), "%s/sock", w->dir);
    w->loop = qb_loop_create();
    w->listener = w->peer = -1;
    *state = w;
    return w->loop ? 0 : -1;
}

static int tear_down(void **state)
{
    struct world *w = *state;

    link_close(w->link);
    if (w->listener >= 0)
        close(w->listener);
    if (w->peer >= 0)
        close(w->peer);
    qb_loop_destroy(w->loop);
    unlink(w->path);
    rmdir(w->dir);
    free(w);
    return 0;
}

static void listen_at(struct world *w)
{
    w->listener = ha_sock_listen(w->path, (gid_t)-1, NULL);
    assert_true(w->listener >= 0);
}

static void take_peer(struct world *w)
{
    if (w->peer >= 0)
        close(w->peer);
    w->peer = ha_sock_accept(w->listener, getuid(), NULL);
    assert_true(w->peer >= 0);
}

static void connect_world(struct world *w)
{
    listen_at(w);
    w->link = link_open(w->loop, w->path, &callbacks, w);
    assert_int_equal(w->up, 0); /* never from inside link_open */
    await(w, &w->up, 1);
    take_peer(w);
}

static void test_peer_comes_later(void **state)
{
    struct world *w = *state;

    w->link = link_open(w->loop, w->path, &callbacks, w);
    turn(w, 150);
    assert_false(link_is_up(w->link));
    assert_int_equal(link_send(w->link, 1, 1, NULL, 0, NULL, 0), -ENOTCONN);
    listen_at(w);
    await(w, &w->up, 1);
    assert_true(link_is_up(w->link));
    assert_int_equal(w->down, 0);
}

static void test_reconnects(void **state)
{
    struct world *w = *state;

    connect_world(w);
    for (unsigned round = 1; round <= 3; round++) {
        close(w->peer);
        w->peer = -1;
        await(w, &w->down, round);
        assert_false(link_is_up(w->link));
        await(w, &w->up, round + 1);
        take_peer(w);
    }
    assert_int_equal(ha_sock_send(w->peer, 9, 77, "x", 1, NULL, 0), 0);
    await(w, &w->packets, 1);
    assert_int_equal(w->last_id, 77);
}

/* What the peer has not taken is sent in order when it does, across a full socket. */
static void test_queues(void **state)
{
    static uint8_t body[60000];
    struct world *w = *state;
    unsigned count = 40, got = 0;
    struct ha_packet packet;

    connect_world(w);
    for (uint64_t id = 1; id <= count; id++)
        assert_int_equal(link_send(w->link, 5, id, body, sizeof(body), NULL, 0), 0);
    while (got < count) {
        int rc = ha_sock_receive(w->peer, w->buffer, &packet);
        if (rc == -EAGAIN) {
            turn(w, 10);
            continue;
        }
        assert_int_equal(rc, 1);
        assert_int_equal(packet.id, ++got);
        assert_int_equal(packet.body_size, sizeof(body));
    }
    assert_int_equal(w->down, 0);
}

/* A peer that takes nothing at all: the link ends, its owner hears it, nothing is lost unheard. */
static void test_overflow(void **state)
{
    static uint8_t body[1000];
    struct world *w = *state;
    int rc = 0;

    connect_world(w);
    for (uint64_t id = 1; id < 20000 && rc == 0; id++)
        rc = link_send(w->link, 5, id, body, sizeof(body), NULL, 0);
    assert_int_equal(rc, -HA_E_LIMIT);
    assert_int_equal(w->down, 0); /* never from inside link_send */
    await(w, &w->down, 1);
    await(w, &w->up, 2);
}

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* Descriptors that a peer sends unasked are closed: it can't use up ours. */
static void test_unwanted_fds(void **state)
{
    struct world *w = *state;

    connect_world(w);
    unsigned before = count_fds();
    for (unsigned i = 1; i <= 20; i++) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(ha_sock_send(w->peer, 9, i, NULL, 0, &fd, 1), 0);
        close(fd);
        await(w, &w->packets, i);
    }
    assert_int_equal(count_fds(), before);
}

static void test_garbage(void **state)
{
    static const char junk[] = "this is no message of ours, whatever it is";
    struct world *w = *state;

    connect_world(w);
    assert_int_equal(send(w->peer, junk, sizeof(junk), MSG_NOSIGNAL), sizeof(junk));
    await(w, &w->down, 1);
    assert_int_equal(w->packets, 0);
    await(w, &w->up, 2);
}

static void test_closed_in_callbacks(void **state)
{
    struct world *w = *state;

    listen_at(w);
    w->closing = CLOSE_IN_UP;
    w->link = link_open(w->loop, w->path, &callbacks, w);
    await(w, &w->up, 1);
    assert_null(w->link);

    w->closing = CLOSE_IN_PACKET;
    w->link = link_open(w->loop, w->path, &callbacks, w);
    await(w, &w->up, 2);
    take_peer(w); /* the first link's, already closed */
    take_peer(w);
    for (uint64_t id = 1; id <= 3; id++)
        ha_sock_send(w->peer, 9, id, NULL, 0, NULL, 0);
    await(w, &w->packets, 1);
    turn(w, 50);
    assert_int_equal(w->packets, 1); /* the others were not delivered to a closed link's owner */

    w->closing = CLOSE_IN_DOWN;
    w->link = link_open(w->loop, w->path, &callbacks, w);
    await(w, &w->up, 3);
    take_peer(w);
    close(w->peer);
    w->peer = -1;
    await(w, &w->down, 1);
    assert_null(w->link);
    turn(w, 50);
}

/* An adopted socket: up once, down once, no reconnecting, also when it ends before the first turn.
 */
static void test_adopted(void **state)
{
    struct world *w = *state;

    for (unsigned round = 1; round <= 2; round++) {
        int pair[2];
        assert_int_equal(
            socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        w->link = link_adopt(w->loop, pair[0], &callbacks, w);
        if (round == 1) {
            await(w, &w->up, 1);
            assert_int_equal(ha_sock_send(pair[1], 9, 5, NULL, 0, NULL, 0), 0);
            await(w, &w->packets, 1);
        }
        close(pair[1]);
        await(w, &w->down, round);
        turn(w, 300);
        assert_int_equal(w->down, round);
        assert_false(link_is_up(w->link));
        link_close(w->link);
        w->link = NULL;
    }
    assert_true(w->up <= 2);
}

int main(void)
{
#define LINK_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        LINK_TEST(test_peer_comes_later),
        LINK_TEST(test_reconnects),
        LINK_TEST(test_queues),
        LINK_TEST(test_overflow),
        LINK_TEST(test_unwanted_fds),
        LINK_TEST(test_garbage),
        LINK_TEST(test_closed_in_callbacks),
        LINK_TEST(test_adopted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
