/* SPDX-License-Identifier: Apache-2.0
 *
 * Probes of the link as hamgrd runs them: what is asked, answered and started, that nothing runs
 * twice or beside a migration, and that a peer or process that hangs costs only the figure.
 * Sockets, processes and messages are written down, not made.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"
#include "migrate/stream_spawn.h"

#define SELF  1
#define PEER  2
#define OTHER 3

/* What the shell did. */
static uint64_t now;
static struct {
    unsigned asks, answers, spawns, cancels, closed, listeners;
    uint64_t asked_id;
    struct peer_probe answer;
    struct streamp_start start;
} seen;
static const struct link_callbacks *callbacks; /* of the process started last */
static void *callbacks_user;
static bool has_no_port;

uint64_t shell_now_ms(void)
{
    return now;
}

void shell_tick_soon(struct hamgrd *d)
{
    (void)d;
}

const char *shell_node_name(const struct hamgrd *d, uint32_t node)
{
    static const char *const names[] = {"?", "n1", "n2", "n3"};

    (void)d;
    return names[node < 4 ? node : 0];
}

void peers_send(struct hamgrd *d, uint8_t type, uint32_t to,
                void (*encode)(struct ha_writer *w, const void *m), const void *m)
{
    uint8_t bytes[1024];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)d;
    encode(&w, m);
    assert_false(w.failed);
    struct ha_reader r = ha_reader_of(bytes, w.position);
    assert_int_not_equal(to, 0);
    if (type == PEER_PROBE_ASK) {
        seen.asks++;
        seen.asked_id = ha_get_u64(&r);
        assert_true(ha_reader_is_done(&r));
        return;
    }
    assert_int_equal(type, PEER_PROBE_READY);
    assert_int_equal(peer_probe_decode(&r, &seen.answer), 0);
    seen.answers++;
}

int movesock_listen(struct hamgrd *d, struct peer_move_ready *ready, struct ha_err *err)
{
    (void)d;
    if (has_no_port)
        return ha_err_set(err, HA_E_LIMIT, "no free port");
    ready->port = 7780;
    snprintf(ready->addr, sizeof(ready->addr), "10.0.0.1");
    seen.listeners++;
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

int movesock_connect(const struct peer_move_ready *ready, struct ha_err *err)
{
    (void)err;
    assert_int_equal(ready->port, 7781);
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

int stream_load_pem(const char *ca, const char *cert, const char *key, int *ret_memfd,
                    struct ha_err *err)
{
    (void)ca;
    (void)cert;
    (void)key;
    (void)err;
    *ret_memfd = open("/dev/null", O_RDONLY);
    return *ret_memfd < 0 ? -1 : 0;
}

int stream_spawn_ring(const char *binary, const struct streamp_start *start, const int fds[4],
                      pid_t *ret_pid, int *ret_control_fd, struct ha_err *err)
{
    (void)binary;
    (void)err;
    seen.spawns++;
    seen.start = *start;
    for (unsigned i = 0; i < 3; i++)
        close(fds[i]);
    assert_int_equal(fds[3], -1);
    *ret_pid = 0; /* gone as soon as it is told to: nothing of it is waited for here */
    *ret_control_fd = -1;
    return 0;
}

struct link *link_adopt(qb_loop_t *loop, int fd, const struct link_callbacks *given, void *user)
{
    static char one;

    (void)loop;
    (void)fd;
    callbacks = given;
    callbacks_user = user;
    return (struct link *)(void *)&one;
}

int link_send(struct link *link, uint16_t type, uint64_t id, const void *body, size_t body_size,
              const int *fds, unsigned fd_count)
{
    (void)link;
    (void)id;
    (void)body;
    (void)body_size;
    for (unsigned i = 0; i < fd_count; i++)
        close(fds[i]);
    seen.cancels += type == STREAMP_CANCEL;
    return 0;
}

void link_close(struct link *link)
{
    (void)link;
    seen.closed++;
}

int32_t qb_loop_timer_add(qb_loop_t *loop, enum qb_loop_priority priority, uint64_t nsec,
                          void *data, qb_loop_timer_dispatch_fn dispatch,
                          qb_loop_timer_handle *ret_handle)
{
    (void)loop;
    (void)priority;
    (void)nsec;
    (void)data;
    (void)dispatch;
    *ret_handle = 1;
    return 0;
}

int32_t qb_loop_timer_del(qb_loop_t *loop, qb_loop_timer_handle handle)
{
    (void)loop;
    (void)handle;
    return 0;
}

/* ---- the cases ---- */

static struct hamgrd *begin(void)
{
    struct hamgrd *d = calloc(1, sizeof(*d));

    ha_assert(d);
    memset(&seen, 0, sizeof(seen));
    now = 50000;
    has_no_port = false;
    d->identity.node = SELF;
    d->config.connections = 4;
    d->state.node_count = 3;
    for (uint32_t i = 0; i < 3; i++) {
        d->state.nodes[i].id = i + 1;
        d->state.nodes[i].status = HA_NODE_MEMBER;
    }
    return d;
}

static void end(struct hamgrd *d)
{
    probe_free(d);
    free(d);
}

static const char *reason(struct hamgrd *d, uint32_t node)
{
    const struct probe_found *found = probe_found(d, node);

    assert_false(probe_is_open(d, node));
    assert_non_null(found);
    assert_false(found->is_ok);
    return found->text;
}

static struct peer_probe a_place(uint64_t id)
{
    return (struct peer_probe){
        .id = id, .is_ok = true, .port = 7781, .addr = "10.0.0.2", .secret = {1, 2, 3}};
}

static void say(uint16_t type, const void *body, size_t size)
{
    struct ha_packet packet = {.type = type, .body = body, .body_size = size};

    callbacks->packet(callbacks_user, &packet);
}

static void say_end(bool is_ok, const char *text)
{
    uint8_t bytes[512];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));
    struct streamp_end m = {.is_ok = is_ok};

    snprintf(m.text, sizeof(m.text), "%s", text);
    streamp_end_encode(&w, &m);
    say(STREAMP_END, bytes, w.position);
}

static void nobody_answers(void **state)
{
    struct hamgrd *d = begin();

    (void)state;
    probe_want(d, PEER);
    assert_int_equal(seen.asks, 1);
    uint64_t id = seen.asked_id;
    probe_want(d, PEER); /* the same question: one probe */
    assert_int_equal(seen.asks, 1);
    now += 250;
    probe_tick(d);
    assert_int_equal(seen.asks, 2);
    assert_int_equal(seen.asked_id, id);
    assert_true(probe_is_open(d, PEER));
    for (unsigned i = 0; i < 100 && probe_is_open(d, PEER); i++) {
        now += 100;
        probe_tick(d);
    }
    assert_string_equal(reason(d, PEER), "the node there did not answer in time");
    assert_in_range(now, 50000, 54100);
    assert_int_equal(seen.spawns, 0);
    assert_false(probe_is_busy(d));
    end(d);
}

static void an_answer_starts_a_sender(void **state)
{
    struct hamgrd *d = begin();

    (void)state;
    probe_want(d, PEER);
    struct peer_probe place = a_place(seen.asked_id ^ 1);
    probe_ready(d, PEER, &place); /* of another question */
    place.id = seen.asked_id;
    probe_ready(d, OTHER, &place); /* not who was asked */
    assert_int_equal(seen.spawns, 0);
    probe_ready(d, PEER, &place);
    probe_ready(d, PEER, &place); /* said again */
    assert_int_equal(seen.spawns, 1);
    assert_true(seen.start.is_sender);
    assert_int_equal(seen.start.probe_mib, PROBE_MIB);
    assert_true(seen.start.ticket >> 63 == 1);
    assert_string_equal(seen.start.peer_name, "n2");
    assert_memory_equal(seen.start.secret, place.secret, sizeof(place.secret));
    /* It hangs: that costs the figure, and it is told to end. */
    now += 4000;
    probe_tick(d);
    assert_string_equal(reason(d, PEER), "it took too long, or next to nothing came through");
    assert_int_equal(seen.cancels, 1);
    assert_int_equal(seen.closed, 1);
    end(d);
}

static void how_a_sender_fails_is_told(void **state)
{
    struct hamgrd *d = begin();

    (void)state;
    probe_want(d, PEER);
    struct peer_probe place = a_place(seen.asked_id);
    probe_ready(d, PEER, &place);
    say(STREAMP_CONNECTED, NULL, 0);
    assert_true(probe_is_open(d, PEER));
    say_end(false, "n2: TLS: certificate has expired");
    assert_string_equal(reason(d, PEER), "n2: TLS: certificate has expired");
    now += 2000;
    probe_want(d, PEER); /* a failure is no figure: it is tried again */
    place.id = seen.asked_id;
    probe_ready(d, PEER, &place);
    callbacks->down(callbacks_user, "gone");
    assert_string_equal(reason(d, PEER), "the stream process ended without a result");
    place = (struct peer_probe){.text = "a migration of n2 runs, and would feel it"};
    probe_want(d, PEER);
    place.id = seen.asked_id;
    probe_ready(d, PEER, &place);
    assert_string_equal(reason(d, PEER), "a migration of n2 runs, and would feel it");
    now += 6000;
    assert_null(probe_found(d, PEER)); /* not for ever */
    end(d);
}

static void not_beside_a_migration_nor_twice(void **state)
{
    struct hamgrd *d = begin();
    struct move *move = (struct move *)(void *)&now; /* only looked whether there is one */

    (void)state;
    d->moves = move;
    probe_want(d, PEER);
    assert_string_equal(reason(d, PEER), "a migration of n1 runs, and would feel it");
    probe_asked(d, PEER, 9);
    assert_false(seen.answer.is_ok);
    assert_string_equal(seen.answer.text, "a migration of n1 runs, and would feel it");
    d->moves = NULL;
    probe_want(d, 9);
    assert_string_equal(reason(d, 9), "there is no such member of the cluster");
    probe_want(d, PEER);
    probe_want(d, OTHER);
    assert_string_equal(reason(d, OTHER), "n1 measures another link");
    probe_asked(d, OTHER, 10);
    assert_string_equal(seen.answer.text, "n1 measures another link");
    /* A migration begins: what was seen so far is of two things at once. */
    struct peer_probe place = a_place(seen.asked_id);
    probe_ready(d, PEER, &place);
    say(STREAMP_CONNECTED, NULL, 0);
    probe_stop(d, "a migration began");
    assert_string_equal(reason(d, PEER), "a migration began");
    assert_int_equal(seen.cancels, 1);
    assert_int_equal(seen.listeners, 0);
    end(d);
}

static void the_other_end_is_bounded(void **state)
{
    struct hamgrd *d = begin();

    (void)state;
    probe_asked(d, PEER, 9);
    probe_asked(d, PEER, 9); /* the first answer was lost */
    assert_int_equal(seen.answers, 2);
    assert_true(seen.answer.is_ok && seen.answer.port == 7780);
    assert_int_equal(seen.spawns, 1);
    assert_false(seen.start.is_sender);
    assert_true(seen.start.is_listener);
    assert_int_equal(seen.start.probe_mib, PROBE_MIB);
    assert_memory_equal(seen.start.secret, seen.answer.secret, sizeof(seen.start.secret));
    probe_asked(d, PEER, 10);
    assert_false(seen.answer.is_ok);
    assert_string_equal(seen.answer.text, "another node measures its link to n1");
    probe_asked(d, OTHER, 9);
    assert_false(seen.answer.is_ok);
    assert_int_equal(seen.spawns, 1);
    /* It never ends by itself. */
    now += 4000;
    probe_tick(d);
    assert_int_equal(seen.cancels, 1);
    assert_false(probe_is_busy(d));
    probe_asked(d, PEER, 11); /* again at once: no */
    assert_false(seen.answer.is_ok);
    now += 1000;
    probe_asked(d, PEER, 12);
    assert_true(seen.answer.is_ok);
    /* A migration begins: who measures hears it. */
    probe_stop(d, "a migration began");
    assert_false(seen.answer.is_ok);
    assert_int_equal(seen.answer.id, 12);
    assert_string_equal(seen.answer.text, "a migration began");
    assert_int_equal(seen.cancels, 2);
    now += 2000;
    has_no_port = true;
    probe_asked(d, PEER, 13);
    assert_string_equal(seen.answer.text, "no free port");
    assert_false(probe_is_busy(d));
    end(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_answers),
        cmocka_unit_test(an_answer_starts_a_sender),
        cmocka_unit_test(how_a_sender_fails_is_told),
        cmocka_unit_test(not_beside_a_migration_nor_twice),
        cmocka_unit_test(the_other_end_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
