/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/hv/gate_world.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <qb/qblog.h>

#include "hamgr/hv/gate.h"

#define NS_PER_MS UINT64_C(1000000)

uint64_t gate_world_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now_ms(void)
{
    return gate_world_now_ns() / NS_PER_MS;
}

struct ha_uuid gate_world_uuid(uint8_t seed)
{
    struct ha_uuid id;

    memset(id.b, seed, sizeof(id.b));
    return id;
}

struct hv_label gate_world_label(uint8_t guest, uint64_t epoch)
{
    return (struct hv_label){gate_world_uuid(0xcc), 1, gate_world_uuid(guest), epoch};
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void make_page(struct gate_world *w)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/lease", w->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0444);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 4096), 0);
    w->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(w->page != MAP_FAILED);
    close(fd);
    w->page->version = 1;
}

struct gate_world *gate_world_new(void)
{
    struct gate_world *w = calloc(1, sizeof(*w));
    char path[128];
    struct ha_err err = {0};

    assert_non_null(w);
    snprintf(w->dir, sizeof(w->dir), "/tmp/test-gate-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    w->fake = hv_fake_new();
    assert_non_null(w->fake);
    make_page(w);
    snprintf(path, sizeof(path), "%s/keeper.sock", w->dir);
    w->keeper_listen_fd = ha_sock_listen(path, (gid_t)-1, &err);
    assert_true(w->keeper_listen_fd >= 0);
    w->keeper_fd = w->fd = -1;
    w->worker_max = 16;
    return w;
}

static void remove_dir(const char *dir)
{
    static const char *const names[] = {"lease", "keeper.sock", "hv.sock", "hv.state"};
    char path[128];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

void gate_world_free(struct gate_world *w)
{
    if (w->gate_pid > 0)
        gate_world_kill(w, SIGKILL);
    close(w->keeper_listen_fd);
    munmap(w->page, 4096);
    hv_fake_free(w->fake);
    remove_dir(w->dir);
    free(w);
}

static void stop_loop(void *user)
{
    qb_loop_stop(user);
}

static int32_t on_term(int32_t number, void *data)
{
    (void)number;
    gate_stop(data);
    return 0;
}

/* Becomes the gate. SIGTERM by libqb's handler is good enough here: no worker is forked in the
 * instant the test sends it. */
static _Noreturn void be_gate(struct gate_world *w)
{
    struct ha_err err = {0};
    qb_loop_signal_handle handle;
    qb_loop_t *loop = qb_loop_create();
    struct gate_options options = {.dir = w->dir,
                                   .peer_uid = (uid_t)-1,
                                   .peer_gid = (gid_t)-1,
                                   .worker_max = w->worker_max,
                                   .verb_max_ms = w->verb_max_ms,
                                   .ident_dir = w->dir,
                                   .stopped = stop_loop,
                                   .user = loop};
    struct hv *hv = hv_fake_open(w->fake, &err);

    qb_log_init("test-gate", LOG_USER, LOG_INFO);
    qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_ENABLED, QB_FALSE);
    if (getenv("GATE_LOG")) {
        qb_log_filter_ctl(QB_LOG_STDERR, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", LOG_DEBUG);
        qb_log_ctl(QB_LOG_STDERR, QB_LOG_CONF_ENABLED, QB_TRUE);
    }
    struct gate *gate = gate_open(loop, hv, hv_fake_open, w->fake, &options, &err);
    if (!gate) {
        fprintf(stderr, "gate: %s\n", err.text);
        _exit(3);
    }
    qb_loop_signal_add(loop, QB_LOOP_HIGH, SIGTERM, gate, on_term, &handle);
    qb_loop_run(loop);
    gate_close(gate);
    hv->ops->close(hv);
    _exit(0);
}

void gate_world_connect(struct gate_world *w)
{
    char path[128];
    uint64_t end_ms = now_ms() + GATE_WORLD_WAIT_MS;

    snprintf(path, sizeof(path), "%s/hv.sock", w->dir);
    if (w->fd >= 0)
        close(w->fd);
    do {
        w->fd = ha_sock_connect(path, NULL);
        if (w->fd < 0)
            usleep(1000); /* the socket's birth gives no event */
    } while (w->fd < 0 && now_ms() < end_ms);
    assert_true(w->fd >= 0);
}

void gate_world_start_silently(struct gate_world *w)
{
    w->gate_pid = fork();
    assert_true(w->gate_pid >= 0);
    if (w->gate_pid == 0) {
        close(w->keeper_listen_fd);
        be_gate(w);
    }
    gate_world_connect(w);
}

void gate_world_start(struct gate_world *w)
{
    gate_world_start_silently(w);
    gate_world_hello(w, false, false);
}

void gate_world_kill(struct gate_world *w, int number)
{
    kill(w->gate_pid, number);
    assert_int_equal(waitpid(w->gate_pid, NULL, 0), w->gate_pid);
    w->gate_pid = 0;
    close(w->fd);
    w->fd = -1;
    if (w->keeper_fd >= 0)
        close(w->keeper_fd);
    w->keeper_fd = -1;
}

/* ---- keeper ------------------------------------------------------------------------------------
 */

void gate_world_lease(struct gate_world *w, uint64_t end_ns, bool is_quarantined, bool is_armed)
{
    atomic_fetch_add(&w->page->sequence, 1);
    atomic_store(&w->page->lease_end_ns, end_ns);
    atomic_store(&w->page->is_quarantined, is_quarantined);
    atomic_store(&w->page->is_armed, is_armed);
    atomic_fetch_add(&w->page->sequence, 1);
}

static bool wait_readable(int fd, uint64_t end_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t now = now_ms();

    return poll(&p, 1, end_ms > now ? (int)(end_ms - now) : 0) == 1;
}

/* 0 if no proof came in time. */
static uint64_t next_proof(struct gate_world *w, int timeout_ms)
{
    static uint8_t buffer[HA_IPC_MAX];
    uint64_t end_ms = now_ms() + (uint64_t)timeout_ms;
    struct ha_packet packet;
    struct keeper_proof proof;

    if (w->keeper_fd < 0 && wait_readable(w->keeper_listen_fd, end_ms))
        w->keeper_fd = ha_sock_accept(w->keeper_listen_fd, (uid_t)-1, NULL);
    if (w->keeper_fd < 0 || !wait_readable(w->keeper_fd, end_ms))
        return 0;
    assert_int_equal(ha_sock_receive(w->keeper_fd, buffer, &packet), 1);
    assert_int_equal(packet.type, KEEPER_PROOF);
    assert_int_equal(keeper_proof_decode(packet.body, packet.body_size, &proof), 0);
    return proof.taken_ns;
}

uint64_t gate_world_proof(struct gate_world *w, int timeout_ms)
{
    uint64_t taken_ns = next_proof(w, timeout_ms);

    assert_int_not_equal(taken_ns, 0);
    return taken_ns;
}

bool gate_world_no_proof(struct gate_world *w, int timeout_ms)
{
    return next_proof(w, timeout_ms) == 0;
}

/* ---- hamgrd ------------------------------------------------------------------------------------
 */

static void take(struct gate_world *w, const struct ha_packet *packet)
{
    const uint8_t *body = packet->body;
    size_t size = packet->body_size;
    struct hv_progress progress;

    switch (packet->type) {
    case HVP_DONE:
        assert_true(w->done_count < GATE_WORLD_EVENTS);
        assert_int_equal(hvp_done_decode(body, size, &w->done[w->done_count]), 0);
        w->done_id[w->done_count++] = packet->id;
        break;
    case HVP_DOMAINS:
        assert_int_equal(hvp_domains_decode(body, size, &w->domains), 0);
        w->domains_count++;
        break;
    case HVP_GATE:
        assert_int_equal(hvp_gate_decode(body, size, &w->gate), 0);
        w->gate_count++;
        break;
    case HVP_WELCOME:
        assert_int_equal(hvp_welcome_decode(body, size, &w->welcome), 0);
        break;
    case HVP_PROGRESS:
        assert_int_equal(hvp_progress_decode(body, size, &progress), 0);
        w->progress_count++;
        break;
    case HVP_CHANGED:
        w->changed_count++;
        break;
    default:
        fail_msg("unexpected packet type %u", packet->type);
    }
}

/* Takes one packet. False if none came in time. */
static bool pump(struct gate_world *w, uint64_t end_ms)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct ha_packet packet;

    if (!wait_readable(w->fd, end_ms))
        return false;
    assert_int_equal(ha_sock_receive(w->fd, buffer, &packet), 1);
    take(w, &packet);
    return true;
}

void gate_world_until(struct gate_world *w, bool (*holds)(struct gate_world *w, void *data),
                      void *data, const char *what)
{
    uint64_t end_ms = now_ms() + GATE_WORLD_WAIT_MS;

    while (!holds(w, data))
        if (!pump(w, end_ms))
            fail_msg("not within %d ms: %s", GATE_WORLD_WAIT_MS, what);
}

uint64_t gate_world_send(struct gate_world *w, uint16_t type, const struct ha_writer *body, int fd)
{
    int fds[1] = {fd};

    assert_int_equal(ha_sock_send(w->fd, type, ++w->last_id, body ? body->data : NULL,
                                  body ? body->position : 0, fds, fd >= 0 ? 1 : 0),
                     0);
    return w->last_id;
}

static bool is_welcomed(struct gate_world *w, void *data)
{
    return w->welcome.caps.driver[0] != '\0' && w->gate_count > *(unsigned *)data;
}

static void say_hello(struct gate_world *w, const struct hvp_hello *hello)
{
    uint8_t bytes[64];
    struct ha_writer body = ha_writer_of(bytes, sizeof(bytes));
    unsigned before = w->gate_count;

    hvp_hello_encode(&body, hello);
    memset(&w->welcome, 0, sizeof(w->welcome));
    gate_world_send(w, HVP_HELLO, &body, -1);
    gate_world_until(w, is_welcomed, &before, "welcome and gate");
}

void gate_world_hello(struct gate_world *w, bool is_disarmed, bool is_frozen)
{
    say_hello(w, &(struct hvp_hello){.cluster_id = gate_world_uuid(0xcc),
                                     .generation = 1,
                                     .is_disarmed = is_disarmed,
                                     .is_frozen = is_frozen});
}

void gate_world_stale_hello(struct gate_world *w, bool is_disarmed, bool is_frozen,
                            uint64_t generation)
{
    say_hello(w, &(struct hvp_hello){.cluster_id = gate_world_uuid(0xcc),
                                     .generation = generation,
                                     .is_disarmed = is_disarmed,
                                     .is_frozen = is_frozen,
                                     .is_stale = true});
}

uint64_t gate_world_ask(struct gate_world *w, uint16_t type, uint8_t guest, uint64_t epoch,
                        uint32_t timeout_ms)
{
    uint8_t bytes[64];
    struct ha_writer body = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_domain m = {gate_world_uuid(guest), epoch, timeout_ms};

    hvp_domain_encode(&body, &m);
    return gate_world_send(w, type, &body, -1);
}

static uint64_t send_with_ring(struct gate_world *w, uint16_t type, const struct ha_writer *body,
                               int fd)
{
    const int fds[2] = {fd, memfd_create("ring", MFD_CLOEXEC)};

    assert_int_equal(ftruncate(fds[1], GATE_WORLD_RING_BYTES), 0);
    assert_int_equal(ha_sock_send(w->fd, type, ++w->last_id, body->data, body->position, fds, 2),
                     0);
    close(fds[1]);
    return w->last_id;
}

uint64_t gate_world_ask_create(struct gate_world *w, uint16_t type, uint8_t guest, uint64_t epoch,
                               int fd)
{
    uint8_t bytes[256];
    struct ha_writer body = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_create m = {gate_world_uuid(guest), epoch, 8192, "", (const uint8_t *)"x", 1};

    snprintf(m.name, sizeof(m.name), "guest%u", guest);
    hvp_create_encode(&body, &m);
    return type == HVP_RESTORE && fd >= 0 ? send_with_ring(w, type, &body, fd)
                                          : gate_world_send(w, type, &body, fd);
}

uint64_t gate_world_ask_save(struct gate_world *w, uint8_t guest, uint64_t epoch, int fd)
{
    uint8_t bytes[64];
    struct ha_writer body = ha_writer_of(bytes, sizeof(bytes));
    struct hvp_save m = {gate_world_uuid(guest), epoch, true, 300, 0, HV_SLOW_PAUSE, 0};

    hvp_save_encode(&body, &m);
    return send_with_ring(w, HVP_SAVE, &body, fd);
}

static int find_done(const struct gate_world *w, uint64_t id)
{
    for (unsigned i = 0; i < w->done_count; i++)
        if (w->done_id[i] == id)
            return (int)i;
    return -1;
}

bool gate_world_has_reply(struct gate_world *w, uint64_t id, int timeout_ms)
{
    uint64_t end_ms = now_ms() + (uint64_t)timeout_ms;

    while (find_done(w, id) < 0)
        if (!pump(w, end_ms))
            return false;
    return true;
}

struct hvp_done gate_world_await(struct gate_world *w, uint64_t id)
{
    assert_true(gate_world_has_reply(w, id, GATE_WORLD_WAIT_MS));
    int i = find_done(w, id);
    struct hvp_done done = w->done[i];
    w->done_count--;
    w->done[i] = w->done[w->done_count];
    w->done_id[i] = w->done_id[w->done_count];
    assert_int_equal(find_done(w, id), -1); /* exactly one reply */
    return done;
}

struct hvp_done gate_world_do(struct gate_world *w, uint16_t type, uint8_t guest, uint64_t epoch)
{
    if (type == HVP_CREATE)
        return gate_world_await(w, gate_world_ask_create(w, type, guest, epoch, -1));
    return gate_world_await(w, gate_world_ask(w, type, guest, epoch, 100));
}

static bool is_listed(struct gate_world *w, void *data)
{
    return w->domains_count > *(unsigned *)data;
}

const struct hvp_domains *gate_world_list(struct gate_world *w)
{
    unsigned before = w->domains_count;

    gate_world_send(w, HVP_LIST, NULL, -1);
    gate_world_until(w, is_listed, &before, "listing");
    return &w->domains;
}
