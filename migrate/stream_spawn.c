/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/stream_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "hamgr/base/assert.h"
#include "hamgr/ipc/fork.h"
#include "hamgr/ipc/sock.h"
#include "migrate/pem.h"
#include "migrate/ring.h"

/* One batch is filled while the other is read; each costs 4 MiB, touched once by both sides. */
#define RING_SLOTS 2u

struct pem_file {
    const char *path;
    const char *what;
    char *data;
    size_t size;
};

static int read_part(struct pem_file *file, bool is_secret, struct ha_err *err)
{
    struct stat info;
    int rc = 0;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0)
        return ha_err_set(err, errno, "%s %s: %s", file->what, file->path, strerror(errno));
    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))
        rc = ha_err_set(err, HA_E_USAGE, "%s %s: not a file", file->what, file->path);
    else if (is_secret && (info.st_mode & (S_IROTH | S_IWOTH)) != 0)
        rc = ha_err_set(err, HA_E_AUTH, "%s %s: readable by everybody (mode %04o), refused",
                        file->what, file->path, (unsigned)(info.st_mode & 07777));
    while (rc == 0 && file->size <= PEM_PART_MAX) {
        ssize_t r = read(fd, file->data + file->size, PEM_PART_MAX + 1 - file->size);
        if (r < 0 && errno != EINTR)
            rc = ha_err_set(err, errno, "%s %s: %s", file->what, file->path, strerror(errno));
        if (r == 0)
            break;
        file->size += r > 0 ? (size_t)r : 0;
    }
    close(fd);
    if (rc == 0 && file->size > PEM_PART_MAX)
        rc = ha_err_set(err, HA_E_LIMIT, "%s %s: larger than %u bytes", file->what, file->path,
                        PEM_PART_MAX);
    return rc;
}

static void format_day(int64_t seconds, char ret_text[32])
{
    time_t t = (time_t)seconds;
    struct tm tm = {0};

    gmtime_r(&t, &tm);
    if (strftime(ret_text, 32, "%Y-%m-%d %H:%M UTC", &tm) == 0)
        ret_text[0] = '\0';
}

/* Judges what was sealed as hamgr-stream will: better a refusal here, before anything started. */
static int check_sealed(int memfd, const char *cert, struct ha_err *err)
{
    struct identity identity;
    char day[32];
    int rc = identity_load(memfd, &identity, err);

    if (rc < 0)
        return rc;
    rc = identity_check(&identity, err);
    if (rc < 0 && identity.expires_s <= (int64_t)time(NULL)) {
        format_day(identity.expires_s, day);
        ha_err_prefix(err, "expired on %s, no migrations until it is renewed", day);
    }
    if (rc < 0)
        ha_err_prefix(err, "%s", cert);
    identity_fini(&identity);
    return rc;
}

int stream_load_pem(const char *ca, const char *cert, const char *key, int *ret_memfd,
                    struct ha_err *err)
{
    struct pem_file files[3] = {{.path = ca, .what = "CA certificate"},
                                {.path = cert, .what = "certificate"},
                                {.path = key, .what = "private key"}};
    int rc = 0;

    for (unsigned i = 0; i < 3 && rc == 0; i++) {
        files[i].data = OPENSSL_zalloc(PEM_PART_MAX + 1);
        rc = files[i].data ? read_part(&files[i], i == 2, err)
                           : ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    }
    if (rc == 0)
        rc = pem_seal(files[0].data, files[0].size, files[1].data, files[1].size, files[2].data,
                      files[2].size, err);
    int memfd = rc;
    if (rc >= 0)
        rc = check_sealed(memfd, cert, err);
    for (unsigned i = 0; i < 3; i++)
        OPENSSL_clear_free(files[i].data, PEM_PART_MAX + 1);
    if (rc < 0 && memfd >= 0)
        close(memfd);
    if (rc < 0)
        return rc;
    *ret_memfd = memfd;
    return 0;
}

int stream_check_pem(int pem_memfd, const char *node_name, int64_t *ret_expires_s,
                     struct ha_err *err)
{
    struct identity identity;
    char name[HA_NAME_MAX];
    int rc = identity_load(pem_memfd, &identity, err);

    if (rc < 0)
        return rc;
    if (!pem_has_name(identity.cert, node_name)) {
        pem_first_name(identity.cert, name);
        rc = ha_err_set(err, HA_E_AUTH,
                        "the certificate is for \"%s\" (first DNS name), this node is \"%s\"", name,
                        node_name);
    } else if (ret_expires_s) {
        *ret_expires_s = identity.expires_s;
    }
    identity_fini(&identity);
    return rc;
}

/* Between fork and exec: system calls only. The parent may have other threads. */
static void __attribute__((noreturn)) become_stream(const char *binary, int control, pid_t parent)
{
    static char *const environment[] = {NULL};
    char *arguments[] = {(char *)"hamgr-stream", NULL};

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(126); /* the parent died before the line above: nobody wants us */
    control = fcntl(control, F_DUPFD, 10); /* out of the way of 0 to 3 */
    int null = open("/dev/null", O_RDWR);
    if (control < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
        _exit(126);
    if (dup2(control, STREAMP_FD) < 0)
        _exit(126);
    if (syscall(SYS_close_range, STREAMP_FD + 1, ~0U, 0) < 0)
        for (int fd = STREAMP_FD + 1; fd < 65536; fd++)
            close(fd);
    execve(binary, arguments, environment);
    _exit(127);
}

static int send_start(int control, const struct streamp_start *start, const int fds[4],
                      struct ha_err *err)
{
    uint8_t body[512];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    streamp_start_encode(&w, start);
    ha_assert(!w.failed);
    int rc = ha_sock_send(control, STREAMP_START, 0, body, w.position, fds, fds[3] >= 0 ? 4 : 3);
    OPENSSL_cleanse(body, sizeof(body));
    if (rc < 0)
        return ha_err_set(err, rc, "hand-over to hamgr-stream: %s", strerror(-rc));
    return 0;
}

static int start_process(const char *binary, int ends[2], const struct streamp_start *start,
                         const int fds[4], pid_t *ret_pid, struct ha_err *err)
{
    pid_t parent = getpid();

    if (access(binary, X_OK) < 0)
        return ha_err_set(err, errno, "%s: %s", binary, strerror(errno));
    /* START waits in the socket's queue: no answer is needed before the child runs. */
    int rc = send_start(ends[0], start, fds, err);
    if (rc < 0)
        return rc;
    pid_t pid = ha_fork();
    if (pid == 0)
        become_stream(binary, ends[1], parent);
    if (pid < 0)
        return ha_err_set(err, errno, "fork for hamgr-stream: %s", strerror(errno));
    *ret_pid = pid;
    return 0;
}

int stream_ring(int *ret_fd, struct ha_err *err)
{
    struct ring *ring = ring_create(RING_SLOTS, RING_PAGES_MAX, ret_fd, err);

    ring_free(ring);
    return ring ? 0 : -HA_E_NO_MEMORY;
}

int stream_spawn_ring(const char *binary, const struct streamp_start *start, const int fds[4],
                      pid_t *ret_pid, int *ret_control_fd, struct ha_err *err)
{
    int ends[2] = {-1, -1};
    int rc;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        rc = ha_err_set(err, errno, "socketpair: %s", strerror(errno));
    else
        rc = start_process(binary, ends, start, fds, ret_pid, err);
    for (unsigned i = 0; i < 4; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (ends[1] >= 0)
        close(ends[1]);
    if (rc < 0) {
        if (ends[0] >= 0)
            close(ends[0]);
        return rc;
    }
    *ret_control_fd = ends[0];
    return 0;
}

int stream_spawn(const char *binary, const struct streamp_start *start, int net_fd, int native_fd,
                 int pem_memfd, pid_t *ret_pid, int *ret_control_fd, struct ha_err *err)
{
    const int fds[4] = {net_fd, native_fd, pem_memfd, -1};

    return stream_spawn_ring(binary, start, fds, ret_pid, ret_control_fd, err);
}
