/* SPDX-License-Identifier: Apache-2.0
 *
 * When the source's save is asked for: behind the stream's connection, and, should this node have
 * left the cluster's view and come back meanwhile, not before it knows anew what is there. And why
 * it says that a move failed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"
#include "migrate/stream_spawn.h"

#define PEER   2
#define TICKET 77

/* The world: the clock, what is known of this host, the stream's messages, what was asked for. */
static uint64_t now;
static bool is_settled;
static unsigned saves;
static struct local_verb source;
static const struct link_callbacks *stream;
static void *stream_user;

uint64_t shell_now_ms(void)
{
    return now;
}

void shell_tick_soon(struct hamgrd *d)
{
    (void)d;
}

void shell_wake(struct hamgrd *d)
{
    (void)d;
}

const char *shell_node_name(const struct hamgrd *d, uint32_t node)
{
    (void)d;
    (void)node;
    return "n2";
}

bool duties_is_settled(struct hamgrd *d)
{
    (void)d;
    return is_settled;
}

struct local_verb *hvlink_get(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    (void)d;
    (void)guest;
    (void)epoch;
    return &source;
}

struct local_verb *hvlink_find(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    return hvlink_get(d, guest, epoch);
}

void hvlink_stream_verb(struct hamgrd *d, struct local_verb *verb, uint8_t which, int fd,
                        int ring_fd)
{
    (void)d;
    assert_ptr_equal(verb, &source);
    assert_int_equal(which, HA_VERB_SAVE);
    assert_int_equal(ring_fd, -1);
    close(fd);
    saves++;
}

void hvlink_abort(struct hamgrd *d, uint64_t request)
{
    (void)d;
    (void)request;
}

struct link *link_adopt(qb_loop_t *loop, int fd, const struct link_callbacks *callbacks, void *user)
{
    (void)loop;
    (void)fd;
    stream = callbacks;
    stream_user = user;
    return (struct link *)(void *)&stream;
}

int link_send(struct link *link, uint16_t type, uint64_t id, const void *body, size_t body_size,
              const int *fds, unsigned fd_count)
{
    (void)link;
    (void)type;
    (void)id;
    (void)body;
    (void)body_size;
    (void)fds;
    (void)fd_count;
    return 0;
}

void link_close(struct link *link)
{
    (void)link;
}

int movesock_listen(struct hamgrd *d, struct peer_move_ready *ready, struct ha_err *err)
{
    (void)d;
    (void)ready;
    return ha_err_set(err, HA_E_REFUSED, "not asked here");
}

int movesock_connect(const struct peer_move_ready *ready, struct ha_err *err)
{
    (void)ready;
    (void)err;
    return dup(STDIN_FILENO);
}

int movesock_pair(int ret_fds[2], struct ha_err *err)
{
    (void)err;
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret_fds);
}

int stream_load_pem(const char *ca, const char *cert, const char *key, int *ret_memfd,
                    struct ha_err *err)
{
    (void)ca;
    (void)cert;
    (void)key;
    (void)err;
    *ret_memfd = -1;
    return 0;
}

int stream_ring(int *ret_fd, struct ha_err *err)
{
    *ret_fd = -1;
    return ha_err_set(err, HA_E_REFUSED, "no rings here");
}

int stream_spawn_ring(const char *binary, const struct streamp_start *start, const int fds[4],
                      pid_t *ret_pid, int *ret_control_fd, struct ha_err *err)
{
    (void)binary;
    (void)err;
    assert_true(start->is_sender);
    close(fds[0]);
    close(fds[1]);
    *ret_pid = 0; /* there is none to be waited for */
    *ret_control_fd = -1;
    return 0;
}

void peers_send(struct hamgrd *d, uint8_t type, uint32_t to,
                void (*encode)(struct ha_writer *w, const void *m), const void *m)
{
    (void)d;
    (void)type;
    (void)to;
    (void)encode;
    (void)m;
}

void probe_stop(struct hamgrd *d, const char *why)
{
    (void)d;
    (void)why;
}

void forecast_learn(struct hamgrd *d, uint32_t node, uint64_t bytes, uint64_t us, uint64_t setup_us)
{
    (void)d;
    (void)node;
    (void)bytes;
    (void)us;
    (void)setup_us;
}

const struct kept_forecast *forecast_of(const struct hamgrd *d, struct ha_uuid guest, uint32_t dst)
{
    (void)d;
    (void)guest;
    (void)dst;
    return NULL;
}

uint32_t propose_median_us(const struct hamgrd *d)
{
    (void)d;
    return 0;
}

void moverecord_add(struct hamgrd *d, struct ha_uuid guest, uint64_t ticket, uint64_t epoch,
                    const struct ha_moved *moved)
{
    (void)d;
    (void)guest;
    (void)ticket;
    (void)epoch;
    (void)moved;
}

void moverecord_source(struct hamgrd *d, uint64_t ticket, uint32_t from, uint32_t source_us)
{
    (void)d;
    (void)ticket;
    (void)from;
    (void)source_us;
}

void moverecord_tick(struct hamgrd *d)
{
    (void)d;
}

/* ---- the tests */

/* A move whose stream has just connected. */
static struct hamgrd *connected(struct ha_guest *guest)
{
    struct hamgrd *d = calloc(1, sizeof(*d));
    struct peer_move_ready ready = {.ticket = TICKET};
    struct ha_packet packet = {.type = STREAMP_CONNECTED};

    ha_assert(d);
    now = 5000;
    saves = 0;
    source = (struct local_verb){0};
    *guest = (struct ha_guest){.id = {{9}}, .phase = HA_PHASE_MIGRATING, .node = 1, .epoch = 3};
    guest->ticket.id = TICKET;
    guest->ticket.src = 1;
    guest->ticket.dst = PEER;
    guest->ticket.src_epoch = 3;
    guest->ticket.dst_epoch = 4;
    ha_state_init(&d->state, guest, 1);
    d->state.guest_count = 1;
    d->config.idle_timeout_ms = 10000;
    d->config.deadline_ms = 9000;
    moves_begin_out(d, guest);
    moves_ready(d, PEER, &ready);
    stream->packet(stream_user, &packet);
    return d;
}

static void finish(struct hamgrd *d, struct ha_guest *guest)
{
    guest->ticket.id = 0;
    moves_tick(d);
    assert_null(d->moves);
    free(d);
}

static void a_save_is_asked_for_when_the_stream_is_connected(void **state)
{
    struct ha_guest guest;

    (void)state;
    is_settled = true;
    struct hamgrd *d = connected(&guest);
    assert_int_equal(saves, 1);
    moves_tick(d);
    assert_int_equal(saves, 1);
    finish(d, &guest);
}

/* I10: the stream connects just behind this node's return. */
static void a_save_waits_for_the_listing_behind_a_return(void **state)
{
    struct ha_guest guest;

    (void)state;
    is_settled = false;
    struct hamgrd *d = connected(&guest);
    moves_tick(d);
    assert_int_equal(saves, 0);
    is_settled = true;
    moves_tick(d);
    moves_tick(d);
    assert_int_equal(saves, 1);
    finish(d, &guest);
}

static void it_does_not_wait_for_ever(void **state)
{
    struct ha_guest guest;

    (void)state;
    is_settled = false;
    struct hamgrd *d = connected(&guest);
    now += 10000;
    moves_tick(d);
    assert_true(source.v.is_save_failed);
    is_settled = true;
    moves_tick(d);
    assert_int_equal(saves, 0);
    finish(d, &guest);
}

/* The stream of a move ends; what the source gives as its reason. */
static const char *reason_of(struct hamgrd *d, const char *text)
{
    uint8_t body[1024];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct streamp_end end = {.is_ok = false};

    snprintf(end.text, sizeof(end.text), "%s", text);
    streamp_end_encode(&w, &end);
    struct ha_packet packet = {
        .type = STREAMP_END, .body = body, .body_size = (uint32_t)w.position};
    stream->packet(stream_user, &packet);
    moves_tick(d);
    return source.v.is_save_failed ? source.v.text : "";
}

/* The destination's deadline ends with the source's, and it may be the quicker one to give up. */
static void a_stream_that_ends_with_the_deadline_says_so(void **state)
{
    struct ha_guest guest;

    (void)state;
    is_settled = true;
    struct hamgrd *d = connected(&guest);
    assert_string_equal(reason_of(d, "the peer says: closed"),
                        "the stream with n2 failed: the peer says: closed");
    finish(d, &guest);
    d = connected(&guest);
    now += 8500;
    assert_string_equal(reason_of(d, "the peer says: closed"),
                        "the stream with n2 failed: the peer says: closed");
    finish(d, &guest);
    d = connected(&guest);
    now += 8600;
    assert_string_equal(
        reason_of(d, "the peer says: closed"),
        "the migration passed its deadline: the stream with n2 failed: the peer says: closed");
    finish(d, &guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_save_is_asked_for_when_the_stream_is_connected),
        cmocka_unit_test(a_save_waits_for_the_listing_behind_a_return),
        cmocka_unit_test(it_does_not_wait_for_ever),
        cmocka_unit_test(a_stream_that_ends_with_the_deadline_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
