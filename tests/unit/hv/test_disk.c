/* SPDX-License-Identifier: Apache-2.0
 *
 * The path of a write: guest's ring, hamgr-disk, hamgr-storage and back, with the real programs.
 * Above all, when a paused guest may be called quiet: held and cut off writes, a killed backend, a
 * write-back cache; and that late writes are seen by the witness.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "hamgr/hv/embedded/disk.h"

#define WAIT_MS 5000u

/* One node's end of one guest. */
struct guest {
    char dir[96];
    uint64_t epoch;
    struct emb_disk_files files;
    struct emb_disk_ring *ring;
};

struct world {
    char dir[64];
    char storage_dir[80];
    char disks[2][96];
    pid_t storage_pid;
    pid_t backend_pid[2];
    int control_fd;
    struct emb_disk_front front;
    struct guest a, b;
};

static const struct ha_uuid guest_id = {{0x11, 0x22}};
static const char guest_text[] = "11220000-0000-0000-0000-000000000000";

/* ---- processes ---------------------------------------------------------------------------------
 */

static pid_t spawn(const char *const *argv)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!getenv("DISK_LOG"))
            (void)!freopen("/dev/null", "w", stderr);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

static void end(pid_t *pid, int number)
{
    if (*pid <= 0)
        return;
    kill(*pid, number);
    waitpid(*pid, NULL, 0);
    *pid = 0;
}

static void start_backend(struct world *w, unsigned i)
{
    char node[16], socket_path[128];

    snprintf(node, sizeof(node), "%u", i + 1);
    snprintf(socket_path, sizeof(socket_path), "%s/storage.sock", w->storage_dir);
    const char *argv[] = {HAMGR_DISK,  "--node",    node,        "--dir",
                          w->disks[i], "--storage", socket_path, NULL};
    w->backend_pid[i] = spawn(argv);
}

static bool connect_control(struct world *w)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/control.sock", w->storage_dir);
    w->control_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(w->control_fd >= 0);
    if (connect(w->control_fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return true;
    close(w->control_fd);
    w->control_fd = -1;
    return false;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    snprintf(w->dir, sizeof(w->dir), "/tmp/test-disk-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->storage_dir, sizeof(w->storage_dir), "%s/storage", w->dir);
    const char *argv[] = {HAMGR_STORAGE, "--dir", w->storage_dir, "--end-ms", "300", NULL};
    w->storage_pid = spawn(argv);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(w->disks[i], sizeof(w->disks[i]), "%s/node%u", w->dir, i + 1);
        start_backend(w, i);
    }
    for (unsigned ms = 0; ms < WAIT_MS && !connect_control(w); ms++)
        usleep(1000); /* a socket's birth gives no event */
    assert_true(w->control_fd >= 0);
    *state = w;
    return 0;
}

static void remove_tree(const char *dir)
{
    pid_t pid = fork();

    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", dir, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
}

static void unmap(struct guest *g)
{
    if (!g->ring)
        return;
    munmap(g->ring, EMB_DISK_RING_SIZE);
    close(g->files.ring_fd);
    close(g->files.bell_fd);
    g->ring = NULL;
}

static int teardown(void **state)
{
    struct world *w = *state;

    end(&w->backend_pid[0], SIGKILL);
    end(&w->backend_pid[1], SIGKILL);
    end(&w->storage_pid, SIGKILL);
    close(w->control_fd);
    unmap(&w->a);
    unmap(&w->b);
    remove_tree(w->dir);
    free(w);
    return 0;
}

/* ---- control -----------------------------------------------------------------------------------
 */

static json_t *command(struct world *w, const char *line)
{
    static char reply[65536];
    size_t size = 0;

    assert_int_equal(send(w->control_fd, line, strlen(line), 0), (int)strlen(line));
    assert_int_equal(send(w->control_fd, "\n", 1, 0), 1);
    while (size == 0 || reply[size - 1] != '\n') {
        ssize_t r = recv(w->control_fd, reply + size, sizeof(reply) - size, 0);
        assert_true(r > 0);
        size += (size_t)r;
    }
    json_t *answer = json_loadb(reply, size, 0, NULL);
    assert_non_null(answer);
    return answer;
}

static void order(struct world *w, const char *line)
{
    json_t *answer = command(w, line);

    assert_true(json_is_true(json_object_get(answer, "ok")));
    json_decref(answer);
}

static json_int_t reported(struct world *w, const char *key)
{
    json_t *answer = command(w, "{\"cmd\":\"report\"}");
    const json_t *value = json_object_get(answer, key);
    json_int_t number = 0;

    assert_true(json_is_integer(value));
    number = json_integer_value(value);
    json_decref(answer);
    return number;
}

static void first_violation(struct world *w, char *ret, size_t size)
{
    json_t *answer = command(w, "{\"cmd\":\"report\"}");
    const json_t *v = json_array_get(json_object_get(answer, "violations"), 0);

    assert_non_null(v);
    snprintf(ret, size, "%s", json_string_value(json_object_get(v, "what")));
    json_decref(answer);
}

/* ---- guest -------------------------------------------------------------------------------------
 */

static void attach(struct world *w, struct guest *g, unsigned node, uint64_t epoch,
                   enum emb_disk_mode mode)
{
    struct ha_err err = {0};

    memcpy(g->dir, w->disks[node - 1], sizeof(g->dir));
    g->epoch = epoch;
    if (emb_disk_create(g->dir, guest_id, epoch, mode, &g->files, &err) < 0)
        fail_msg("%s", err.text);
    g->ring =
        mmap(NULL, EMB_DISK_RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, g->files.ring_fd, 0);
    assert_true(g->ring != MAP_FAILED);
}

static void ring_bell(struct guest *g)
{
    assert_true(write(g->files.bell_fd, "", 1) == 1 || errno == EAGAIN);
}

static bool wait_acked(struct world *w, struct guest *g, uint64_t sequence, unsigned wait_ms)
{
    for (unsigned ms = 0; ms < wait_ms; ms++) {
        emb_disk_front_poll(&w->front, g->ring);
        if (w->front.is_ready && w->front.acked >= sequence)
            return true;
        usleep(1000); /* the guest's futex is tested by the guest */
    }
    return false;
}

static void boot(struct world *w, struct guest *g, unsigned node, uint64_t epoch,
                 enum emb_disk_mode mode)
{
    attach(w, g, node, epoch, mode);
    emb_disk_front_boot(&w->front, g->ring);
    ring_bell(g);
    assert_true(wait_acked(w, g, 0, WAIT_MS));
}

static void write_some(struct world *w, struct guest *g, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        assert_true(emb_disk_front_write(&w->front, g->ring, &i, sizeof(i)));
    ring_bell(g);
}

static enum hv_quiet quiet(const struct guest *g, char *why)
{
    return emb_disk_quiet(g->dir, guest_id, g->epoch, why);
}

/* BUSY for a moment is the backend looking at the ring. */
static bool becomes(const struct guest *g, enum hv_quiet wanted)
{
    char why[HA_TEXT_MAX];

    for (unsigned ms = 0; ms < WAIT_MS; ms++) {
        if (quiet(g, why) == wanted)
            return true;
        usleep(1000);
    }
    return false;
}

static bool stays(const struct guest *g, enum hv_quiet wanted, unsigned for_ms)
{
    char why[HA_TEXT_MAX];

    for (unsigned ms = 0; ms < for_ms; ms++) {
        if (quiet(g, why) != wanted)
            return false;
        usleep(1000);
    }
    return true;
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void test_writes_reach_storage(void **state)
{
    struct world *w = *state;

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    for (unsigned i = 0; i < 10; i++) {
        write_some(w, &w->a, 30);
        assert_true(wait_acked(w, &w->a, (i + 1) * 30, WAIT_MS));
    }
    assert_true(becomes(&w->a, HV_QUIET));
    assert_int_equal(reported(w, "writes"), 300);
    assert_int_equal(reported(w, "violation_count"), 0);
    assert_int_equal(w->front.failed_count, 0);
    assert_int_equal(emb_disk_close(w->a.dir, guest_id, 1, WAIT_MS, NULL), 0);
    assert_int_equal(emb_disk_close(w->a.dir, guest_id, 1, WAIT_MS, NULL), 0);
    char why[HA_TEXT_MAX];
    assert_int_equal(quiet(&w->a, why), HV_QUIET);
}

static void test_held_write_is_not_quiet(void **state)
{
    struct world *w = *state;
    struct ha_err err = {0};
    char why[HA_TEXT_MAX];

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    order(w, "{\"cmd\":\"hold\",\"node\":1}");
    write_some(w, &w->a, 2);
    assert_true(stays(&w->a, HV_BUSY, 300));
    assert_int_equal(quiet(&w->a, why), HV_BUSY);
    assert_non_null(strstr(why, "in flight"));
    assert_int_equal(emb_disk_close(w->a.dir, guest_id, 1, 50, &err), -HA_E_TIMEOUT);
    order(w, "{\"cmd\":\"release\",\"node\":1}");
    assert_true(becomes(&w->a, HV_QUIET));
    assert_int_equal(emb_disk_close(w->a.dir, guest_id, 1, 50, &err), 0);
    assert_int_equal(reported(w, "violation_count"), 0);
}

static void test_unseen_request_is_not_quiet(void **state)
{
    struct world *w = *state;

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    kill(w->backend_pid[0], SIGSTOP);
    write_some(w, &w->a, 1);
    assert_true(stays(&w->a, HV_BUSY, 50));
    kill(w->backend_pid[0], SIGCONT);
    assert_true(becomes(&w->a, HV_QUIET));
}

static void test_lost_path_keeps_writes(void **state)
{
    struct world *w = *state;

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    order(w, "{\"cmd\":\"disconnect\",\"node\":1}");
    write_some(w, &w->a, 3);
    assert_true(stays(&w->a, HV_BUSY, 300));
    assert_false(wait_acked(w, &w->a, 1, 1));
    order(w, "{\"cmd\":\"connect\",\"node\":1}");
    assert_true(wait_acked(w, &w->a, 3, WAIT_MS));
    assert_true(becomes(&w->a, HV_QUIET));
    assert_int_equal(reported(w, "violation_count"), 0);
}

/* H13: the path that cut the node off keeps its write; the guest starts elsewhere; the path comes
 * back and the node writes the old block. */
static void test_late_write_is_seen(void **state)
{
    struct world *w = *state;
    char what[32];

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    write_some(w, &w->a, 1);
    assert_true(wait_acked(w, &w->a, 1, WAIT_MS));
    order(w, "{\"cmd\":\"disconnect\",\"node\":1}");
    write_some(w, &w->a, 1);
    boot(w, &w->b, 2, 2, EMB_DISK_THROUGH);
    assert_int_equal(w->front.acked, 1);
    write_some(w, &w->b, 1);
    assert_true(wait_acked(w, &w->b, 2, WAIT_MS));
    assert_int_equal(reported(w, "violation_count"), 0);
    order(w, "{\"cmd\":\"connect\",\"node\":1}");
    assert_true(becomes(&w->a, HV_QUIET));
    assert_int_equal(reported(w, "violation_count"), 1);
    first_violation(w, what, sizeof(what));
    assert_string_equal(what, "stale epoch");
}

static void test_dead_node_ends_within_d(void **state)
{
    struct world *w = *state;

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    order(w, "{\"cmd\":\"hold\",\"node\":1}");
    write_some(w, &w->a, 2);
    for (unsigned ms = 0; ms < WAIT_MS && reported(w, "waiting") < 2; ms++)
        usleep(1000);
    end(&w->backend_pid[0], SIGKILL);
    for (unsigned ms = 0; ms < WAIT_MS && reported(w, "waiting") > 0; ms++)
        usleep(1000);
    assert_int_equal(reported(w, "waiting"), 0);
    assert_int_equal(reported(w, "vanished"), 2);
    order(w, "{\"cmd\":\"release\",\"node\":1}");
    assert_int_equal(reported(w, "writes"), 0);
}

static void test_killed_backend_goes_on(void **state)
{
    struct world *w = *state;

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    order(w, "{\"cmd\":\"hold\"}");
    write_some(w, &w->a, 5);
    for (unsigned ms = 0; ms < WAIT_MS && reported(w, "waiting") < 5; ms++)
        usleep(1000);
    end(&w->backend_pid[0], SIGKILL);
    assert_true(stays(&w->a, HV_BUSY, 50)); /* nobody can say where they are */
    start_backend(w, 0);
    order(w, "{\"cmd\":\"release\"}");
    assert_true(wait_acked(w, &w->a, 5, WAIT_MS));
    assert_true(becomes(&w->a, HV_QUIET));
    assert_int_equal(w->front.failed_count, 0);
    assert_int_equal(reported(w, "violation_count"), 0);
    write_some(w, &w->a, 5);
    assert_true(wait_acked(w, &w->a, 10, WAIT_MS));
}

static void test_write_back(void **state)
{
    struct world *w = *state;
    char why[HA_TEXT_MAX];

    boot(w, &w->a, 1, 1, EMB_DISK_BACK);
    assert_int_equal(quiet(&w->a, why), HV_NEVER_QUIET);
    order(w, "{\"cmd\":\"hold\"}");
    write_some(w, &w->a, 5);
    assert_true(wait_acked(w, &w->a, 5, WAIT_MS)); /* answered, though storage has none */
    assert_int_equal(reported(w, "writes"), 0);
    assert_int_equal(quiet(&w->a, why), HV_NEVER_QUIET);
    assert_non_null(strstr(why, "write-back"));
    struct ha_err err = {0};
    assert_int_equal(emb_disk_close(w->a.dir, guest_id, 1, 20, &err), -HA_E_TIMEOUT);
    order(w, "{\"cmd\":\"release\"}");
    assert_int_equal(emb_disk_close(w->a.dir, guest_id, 1, WAIT_MS, &err), 0);
    assert_int_equal(reported(w, "writes"), 5);
}

static void test_write_back_is_lost_with_its_cache(void **state)
{
    struct world *w = *state;

    boot(w, &w->a, 1, 1, EMB_DISK_BACK);
    order(w, "{\"cmd\":\"disconnect\",\"node\":1}");
    write_some(w, &w->a, 5);
    assert_true(wait_acked(w, &w->a, 5, WAIT_MS));
    end(&w->backend_pid[0], SIGKILL);
    order(w, "{\"cmd\":\"connect\",\"node\":1}");
    start_backend(w, 0);
    write_some(w, &w->a, 1);
    for (unsigned ms = 0; ms < WAIT_MS && reported(w, "writes") < 1; ms++)
        usleep(1000);
    assert_int_equal(reported(w, "violation_count"), 1); /* the gap */
}

static void test_migration(void **state)
{
    struct world *w = *state;

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    write_some(w, &w->a, 7);
    assert_true(wait_acked(w, &w->a, 7, WAIT_MS));
    assert_true(emb_disk_front_write(&w->front, w->a.ring, "unanswered", 10));
    ring_bell(&w->a);
    assert_true(becomes(&w->a, HV_QUIET)); /* drained; the guest has not looked at its answer */
    attach(w, &w->b, 2, 2, EMB_DISK_THROUGH);
    emb_disk_front_reconnect(&w->front, w->b.ring);
    ring_bell(&w->b);
    assert_true(wait_acked(w, &w->b, 8, WAIT_MS));
    write_some(w, &w->b, 7);
    assert_true(wait_acked(w, &w->b, 15, WAIT_MS));
    assert_int_equal(w->front.failed_count, 0);
    assert_int_equal(reported(w, "violation_count"), 0);
    assert_int_equal(reported(w, "writes"), 16);
}

static void test_replay(void **state)
{
    struct world *w = *state;
    char line[128];

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    write_some(w, &w->a, 3);
    assert_true(wait_acked(w, &w->a, 3, WAIT_MS));
    boot(w, &w->b, 2, 2, EMB_DISK_THROUGH);
    write_some(w, &w->b, 3);
    assert_true(wait_acked(w, &w->b, 6, WAIT_MS));
    snprintf(line, sizeof(line), "{\"cmd\":\"replay\",\"guest\":\"%s\"}", guest_text);
    order(w, line);
    assert_int_equal(reported(w, "violation_count"), 1);
    snprintf(line, sizeof(line), "{\"cmd\":\"forget\",\"guest\":\"%s\"}", guest_text);
    order(w, line);
    assert_int_equal(reported(w, "violation_count"), 0);
}

static void test_delay(void **state)
{
    struct world *w = *state;
    char line[128];
    struct timespec begin, after;

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    snprintf(line, sizeof(line), "{\"cmd\":\"delay\",\"ms\":200,\"guest\":\"%s\"}", guest_text);
    order(w, line);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    write_some(w, &w->a, 3);
    assert_true(wait_acked(w, &w->a, 3, WAIT_MS));
    clock_gettime(CLOCK_MONOTONIC, &after);
    double ms =
        (double)(after.tv_sec - begin.tv_sec) * 1e3 + (double)(after.tv_nsec - begin.tv_nsec) / 1e6;
    assert_true(ms >= 200);
    assert_int_equal(reported(w, "violation_count"), 0);
}

/* What a guest may write into its ring must not hurt anybody, nor fake a quiet disk. */
static void test_hostile_ring(void **state)
{
    struct world *w = *state;
    char why[HA_TEXT_MAX];

    boot(w, &w->a, 1, 1, EMB_DISK_THROUGH);
    order(w, "{\"cmd\":\"hold\"}");
    write_some(w, &w->a, 2);
    for (unsigned ms = 0; ms < WAIT_MS && reported(w, "waiting") < 2; ms++)
        usleep(1000);
    atomic_store(&w->a.ring->rsp_prod, 3); /* "all answered" */
    assert_int_equal(quiet(&w->a, why), HV_BUSY);
    atomic_store(&w->a.ring->req_prod, 1); /* "nothing asked" */
    assert_int_equal(quiet(&w->a, why), HV_BUSY);
    ring_bell(&w->a);
    order(w, "{\"cmd\":\"release\"}");
    assert_true(becomes(&w->a, HV_QUIET));  /* broken, and what was taken has ended */
    boot(w, &w->b, 1, 2, EMB_DISK_THROUGH); /* others go on */
    w->b.ring->requests[1].op = 99;
    atomic_store(&w->b.ring->req_prod, 2);
    ring_bell(&w->b);
    assert_true(becomes(&w->b, HV_QUIET));
    assert_int_equal(emb_disk_close(w->b.dir, guest_id, 2, WAIT_MS, NULL), 0);
    boot(w, &w->b, 1, 3, EMB_DISK_THROUGH);
}

static void test_bad_commands(void **state)
{
    struct world *w = *state;
    static const char *const lines[] = {
        "",
        "{",
        "[]",
        "{\"cmd\":7}",
        "{\"cmd\":\"reboot\"}",
        "{\"cmd\":\"hold\",\"node\":-1}",
        "{\"cmd\":\"hold\",\"guest\":\"x\"}",
        "{\"cmd\":\"disconnect\"}",
        "{\"cmd\":\"delay\",\"ms\":\"1\"}",
        "{\"cmd\":\"replay\",\"guest\":\"11220000-0000-0000-0000-000000000000\"}",
        "{\"cmd\":\"forget\"}",
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        json_t *answer = command(w, lines[i]);
        assert_true(json_is_false(json_object_get(answer, "ok")));
        assert_true(json_is_string(json_object_get(answer, "error")));
        json_decref(answer);
    }
    char *large = malloc(100000);
    assert_non_null(large);
    memset(large, 'x', 100000);
    (void)!send(w->control_fd, large, 100000, MSG_NOSIGNAL | MSG_DONTWAIT);
    free(large);
    close(w->control_fd);
    assert_true(connect_control(w));
    assert_int_equal(reported(w, "writes"), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_writes_reach_storage),
        TEST(test_held_write_is_not_quiet),
        TEST(test_unseen_request_is_not_quiet),
        TEST(test_lost_path_keeps_writes),
        TEST(test_late_write_is_seen),
        TEST(test_dead_node_ends_within_d),
        TEST(test_killed_backend_goes_on),
        TEST(test_write_back),
        TEST(test_write_back_is_lost_with_its_cache),
        TEST(test_migration),
        TEST(test_replay),
        TEST(test_delay),
        TEST(test_hostile_ring),
        TEST(test_bad_commands),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
