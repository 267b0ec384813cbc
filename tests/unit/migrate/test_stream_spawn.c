/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd's side of hamgr-stream: certificate files judged before anything starts, and a child that
 * inherits nothing. Started as "hamgr-stream" this program is that child and tells what it sees.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/ipc/sock.h"
#include "migrate/stream_spawn.h"

extern char **environ;

static char dir[] = "/tmp/hamgr-spawn-XXXXXX";
static char self[4096];

/* ---- the child ---- */

static void look(char *text, size_t size)
{
    DIR *fds = opendir("/proc/self/fd");
    size_t used = 0;
    int death = 0;

    (void)prctl(PR_GET_PDEATHSIG, &death);
    used += (size_t)snprintf(text + used, size - used, "env %d death %d null %d fds",
                             environ[0] != NULL, death, lseek(0, 0, SEEK_CUR) == 0);
    for (struct dirent *e = readdir(fds); e; e = readdir(fds))
        if (e->d_name[0] != '.' && strtol(e->d_name, NULL, 10) != dirfd(fds) && used < size)
            used += (size_t)snprintf(text + used, size - used, " %s", e->d_name);
    closedir(fds);
}

static int be_stream(void)
{
    char text[HA_TEXT_MAX];
    uint8_t body[HA_TEXT_MAX + 2];
    static uint8_t buffer[HA_IPC_MAX];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    struct streamp_start start;
    struct ha_packet packet;
    struct pollfd fd = {.fd = STREAMP_FD, .events = POLLIN};

    look(text, sizeof(text));
    if (ha_sock_receive(STREAMP_FD, buffer, &packet) != 1 || packet.type != STREAMP_START ||
        streamp_start_decode(packet.body, packet.body_size, &start) < 0)
        return 9;
    size_t used = strlen(text);
    snprintf(text + used, sizeof(text) - used, "; peer %s ticket %llu handed %d%d%d%d",
             start.peer_name, (unsigned long long)start.ticket, packet.fds[0] >= 0,
             packet.fds[1] >= 0, packet.fds[2] >= 0, packet.fds[3] >= 0);
    ha_put_text(&w, text);
    (void)ha_sock_send(STREAMP_FD, STREAMP_NOTE, 0, body, w.position, NULL, 0);
    (void)poll(&fd, 1, 20000); /* until hamgrd closes, or kills us by its death */
    return 0;
}

/* ---- certificates ---- */

static int run(char *const arguments[])
{
    pid_t pid;
    int status = -1;
    posix_spawn_file_actions_t quiet;

    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
    int rc = posix_spawnp(&pid, arguments[0], &quiet, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&quiet);
    if (rc != 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const char *path_of(const char *place, const char *file)
{
    static char paths[16][256];
    static unsigned next;
    char *path = paths[next++ % 16];

    snprintf(path, sizeof(paths[0]), "%s/%s%s%s", dir, place, place[0] ? "/" : "", file);
    return path;
}

#define PKI(...)                                                                                   \
    do {                                                                                           \
        char *arguments[] = {(char *)PKI_TOOL, __VA_ARGS__, NULL};                                 \
        if (run(arguments) != 0)                                                                   \
            return -1;                                                                             \
    } while (0)
#define OPENSSL(...)                                                                               \
    do {                                                                                           \
        char *arguments[] = {(char *)"openssl", __VA_ARGS__, NULL};                                \
        if (run(arguments) != 0)                                                                   \
            return -1;                                                                             \
    } while (0)

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    PKI("all", dir, "n1", "n2");
    PKI("node", dir, "old", "--not-before", "2020-01-01", "--not-after", "2021-01-01");
    PKI("node", dir, "new", "--not-before", "2090-01-01", "--not-after", "2091-01-01");
    PKI("init", (char *)path_of("", "other"));
    PKI("node", (char *)path_of("", "other"), "n1");
    /* Signed by the right CA, but for nothing in particular. */
    char *request = (char *)path_of("", "plain.csr");
    char *plain = (char *)path_of("", "plain.pem");
    OPENSSL("req", "-new", "-key", (char *)path_of("n1", "node.key"), "-subj", "/CN=n1", "-out",
            request);
    OPENSSL("x509", "-req", "-in", request, "-CA", (char *)path_of("", "ca.pem"), "-CAkey",
            (char *)path_of("", "ca.key"), "-CAcreateserial", "-days", "2", "-out", plain);
    return 0;
}

static int teardown(void **state)
{
    char *arguments[] = {(char *)"rm", (char *)"-rf", dir, NULL};

    (void)state;
    return run(arguments);
}

static void fine(void **state)
{
    struct ha_err err = {0};
    int64_t expires = 0;
    int memfd = -1;

    (void)state;
    int rc = stream_load_pem(path_of("", "ca.pem"), path_of("n1", "node.pem"),
                             path_of("n1", "node.key"), &memfd, &err);
    if (rc != 0)
        fail_msg("%s", err.text);
    assert_int_equal(pwrite(memfd, "x", 1, 0), -1); /* sealed */
    assert_int_equal(ftruncate(memfd, 0), -1);
    assert_true((fcntl(memfd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(stream_check_pem(memfd, "n1", &expires, &err), 0);
    assert_in_range(expires, time(NULL) + 800 * 86400, time(NULL) + 830 * 86400);
    assert_int_equal(stream_check_pem(memfd, "n2", NULL, &err), -HA_E_AUTH);
    assert_string_equal(err.text,
                        "the certificate is for \"n1\" (first DNS name), this node is \"n2\"");
    assert_int_equal(stream_check_pem(memfd, "N1", NULL, &err), -HA_E_AUTH);
    close(memfd);
    /* Something else is no such memfd. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_true(stream_check_pem(null, "n1", NULL, &err) < 0);
    close(null);
}

static void refuses(const char *ca, const char *cert, const char *key, const char *words)
{
    struct ha_err err = {0};
    int memfd = -77;

    int rc = stream_load_pem(ca, cert, key, &memfd, &err);
    if (rc >= 0 || !strstr(err.text, words))
        fail_msg("wanted \"%s\", got %d \"%s\"", words, rc, err.text);
    assert_int_equal(memfd, -77); /* only written on success */
}

static void bad_files(void **state)
{
    const char *ca = path_of("", "ca.pem");
    char cert[256], key[256];

    (void)state;
    snprintf(cert, sizeof(cert), "%s", path_of("n1", "node.pem"));
    snprintf(key, sizeof(key), "%s", path_of("n1", "node.key"));
    refuses("/nowhere/ca.pem", cert, key, "CA certificate /nowhere/ca.pem: No such file");
    refuses(ca, "/nowhere/x", key, "certificate /nowhere/x: No such file");
    refuses(ca, cert, dir, "not a file");
    refuses(ca, key, key, "no certificate in PEM form");
    refuses(ca, cert, cert, "readable by everybody");
    chmod(cert, 0600);
    refuses(ca, cert, cert, "no private key in PEM form");
    refuses(key, cert, key, "no certificate in PEM form");
    refuses(ca, cert, path_of("n2", "node.key"), "key does not belong");
    chmod(key, 0644);
    refuses(ca, cert, key, "readable by everybody (mode 0644)");
    chmod(key, 0640);
    int memfd = -1;
    assert_int_equal(stream_load_pem(ca, cert, key, &memfd, NULL), 0);
    close(memfd);
    chmod(key, 0600);
    int big = open(path_of("", "big"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(big, 70000), 0);
    close(big);
    refuses(ca, path_of("", "big"), key, "larger than 65536 bytes");
}

static void bad_certificates(void **state)
{
    char ca[256];

    (void)state;
    snprintf(ca, sizeof(ca), "%s", path_of("", "ca.pem"));
    refuses(ca, path_of("old", "node.pem"), path_of("old", "node.key"),
            "expired on 2021-01-01 00:00 UTC, no migrations until it is renewed");
    refuses(ca, path_of("new", "node.pem"), path_of("new", "node.key"), "not yet valid");
    refuses(ca, path_of("other/n1", "node.pem"), path_of("other/n1", "node.key"), "issuer");
    refuses(ca, path_of("", "plain.pem"), path_of("n1", "node.key"),
            "lacks serverAuth or clientAuth");
}

/* ---- spawning ---- */

static void make_fds(int fds[3])
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    fds[0] = pair[0];
    fds[1] = pair[1];
    assert_int_equal(stream_load_pem(path_of("", "ca.pem"), path_of("n1", "node.pem"),
                                     path_of("n1", "node.key"), &fds[2], NULL),
                     0);
}

static void assert_closed(const int fds[3])
{
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(fcntl(fds[i], F_GETFD), -1);
        assert_int_equal(errno, EBADF);
    }
}

/* Waits for one packet of the child; its text in ret_text. Returns ha_sock_receive's result. */
static int listen_to(int control, char *ret_text)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct pollfd fd = {.fd = control, .events = POLLIN};
    struct ha_packet packet;

    assert_int_equal(poll(&fd, 1, 10000), 1);
    int rc = ha_sock_receive(control, buffer, &packet);
    if (rc == 1) {
        struct ha_reader r = ha_reader_of(packet.body, packet.body_size);
        ha_get_text(&r, ret_text, HA_TEXT_MAX);
    }
    return rc;
}

static void inherits_nothing(void **state)
{
    struct streamp_start start = {.ticket = 4711, .peer_name = "n2"};
    int fds[3], control = -1, status;
    char text[HA_TEXT_MAX] = "";
    struct ha_err err = {0};
    pid_t pid = -1;

    (void)state;
    /* Things a careless parent leaves open: not CLOEXEC, high and low numbers. */
    int stray = open("/dev/zero", O_RDONLY);
    int high = fcntl(stray, F_DUPFD, 200);
    make_fds(fds);
    assert_int_equal(stream_spawn(self, &start, fds[0], fds[1], fds[2], &pid, &control, &err), 0);
    assert_closed(fds);
    assert_int_equal(listen_to(control, text), 1);
    assert_string_equal(text, "env 0 death 9 null 1 fds 0 1 2 3; peer n2 ticket 4711 handed 1110");
    assert_true((fcntl(control, F_GETFD) & FD_CLOEXEC) != 0);
    assert_true((fcntl(control, F_GETFL) & O_NONBLOCK) != 0);
    close(control); /* the child sees the end and goes */
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(stray);
    close(high);
}

/* A fourth descriptor for who feeds pages through shared memory. */
static void hands_over_a_ring(void **state)
{
    struct streamp_start start = {.ticket = 4712, .peer_name = "n2", .is_sender = true};
    int fds[4], control = -1;
    char text[HA_TEXT_MAX] = "";
    struct ha_err err = {0};
    pid_t pid = -1;

    (void)state;
    for (unsigned has_ring = 0; has_ring < 2; has_ring++) {
        make_fds(fds);
        fds[3] = has_ring ? memfd_create("ring", MFD_CLOEXEC) : -1;
        assert_int_equal(stream_spawn_ring(self, &start, fds, &pid, &control, &err), 0);
        assert_closed(fds);
        assert_int_equal(fcntl(fds[3], F_GETFD), -1);
        assert_int_equal(listen_to(control, text), 1);
        assert_non_null(strstr(text, has_ring ? "handed 1111" : "handed 1110"));
        close(control);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    }
}

static void bad_binary(void **state)
{
    static const char *const binaries[] = {"/nowhere/hamgr-stream", "/etc/passwd"};
    struct streamp_start start = {.peer_name = "n2"};
    int fds[3], control = -77;
    struct ha_err err = {0};
    pid_t pid = -77;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        make_fds(fds);
        assert_true(
            stream_spawn(binaries[i], &start, fds[0], fds[1], fds[2], &pid, &control, &err) < 0);
        assert_non_null(strstr(err.text, binaries[i]));
        assert_closed(fds);
        assert_int_equal(control, -77);
        assert_int_equal(pid, -77);
    }
    /* Executable, but no program: the end of the control socket says so. */
    int file = open(path_of("", "noprogram"), O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    assert_int_equal(write(file, "\177ELFxxxxxxxx", 12), 12);
    close(file);
    make_fds(fds);
    assert_int_equal(stream_spawn(path_of("", "noprogram"), &start, fds[0], fds[1], fds[2], &pid,
                                  &control, &err),
                     0);
    char text[HA_TEXT_MAX];
    assert_true(listen_to(control, text) <= 0); /* START lies unread: reset rather than end */
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 127);
    close(control);
}

/* hamgrd dies without closing anything in an orderly way: the kernel ends the child. */
static void dies_with_parent(void **state)
{
    struct streamp_start start = {.peer_name = "n2"};
    int pipe_fds[2], status;
    pid_t child = -1;

    (void)state;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t middle = fork();
    if (middle == 0) {
        int fds[3], control, kept;
        char text[HA_TEXT_MAX];
        make_fds(fds);
        if (stream_spawn(self, &start, fds[0], fds[1], fds[2], &child, &control, NULL) < 0 ||
            listen_to(control, text) != 1)
            _exit(1);
        (void)!write(pipe_fds[1], &child, sizeof(child));
        /* A third process keeps the control socket open: only PDEATHSIG can tell. */
        kept = fork();
        if (kept == 0) {
            (void)poll(NULL, 0, 1500);
            _exit(0);
        }
        raise(SIGKILL);
    }
    assert_int_equal(read(pipe_fds[0], &child, sizeof(child)), sizeof(child));
    assert_int_equal(waitpid(middle, &status, 0), middle);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    while (waitpid(-1, &status, 0) > 0)
        continue;
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fine),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(bad_certificates),
        cmocka_unit_test(inherits_nothing),
        cmocka_unit_test(hands_over_a_ring),
        cmocka_unit_test(bad_binary),
        cmocka_unit_test(dies_with_parent),
    };

    if (argc == 1 && strcmp(argv[0], "hamgr-stream") == 0)
        return be_stream();
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (length <= 0)
        return 1;
    self[length] = '\0';
    return cmocka_run_group_tests(tests, setup, teardown);
}
