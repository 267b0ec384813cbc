/* SPDX-License-Identifier: Apache-2.0
 *
 * Plays hamgrd for one end of a measured migration: starts hamgr-stream the way hamgrd does, takes
 * its packets, reaps it and tells what it cost. A small process on purpose: what it has resident
 * when it forks is in the child's ru_maxrss.
 *
 *   end --control SOCKET --binary FILE --pem DIR --peer NAME --native N
 *       (--listen ADDRESS | --connect ADDRESS --port N) [--ring SLOTS:PAGES] [--level N]
 *       [--workers N] [--cache-mib N] [--connections N] [--rate-mbit N]
 *
 * Lines: "listening PORT"; "ring /proc/..." when asked for; "started PID"; "connected NS";
 * "note TEXT"; "cpu US" (its processor time so far) and "end OK RAW WIRE PAGES ZERO TEXT"; "exit
 * STATUS CPU_US PEAK_RSS_KIB".
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/ipc/sock.h"
#include "hamgr/ipc/streamproto.h"
#include "migrate/ring.h"
#include "migrate/stream_spawn.h"
#include "migrate/tune.h"
#include "tests/bench/streambench/ctl.h"

#define IDLE_MS  60000u
#define GRACE_MS 10000u /* a lost connection may come back this long */

struct end {
    int ctl;
    const char *binary;
    const char *pem;
    const char *address;
    unsigned port;
    unsigned ring_slots, ring_pages;
    int native;
    struct streamp_start start;
    pid_t pid;
    int control;
};

static struct sockaddr_in address_of(const struct end *e)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)e->port)};

    if (inet_pton(AF_INET, e->address, &in.sin_addr) != 1)
        errx(2, "%s: not an IPv4 address", e->address);
    return in;
}

static int make_net(const struct end *e)
{
    struct sockaddr_in in = address_of(e);
    socklen_t size = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        err(1, "socket");
    if (e->start.is_sender) {
        if (connect(fd, (struct sockaddr *)&in, sizeof(in)) < 0)
            err(1, "connect %s:%u", e->address, e->port);
        return fd;
    }
    if (bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0 || listen(fd, 16) < 0 ||
        getsockname(fd, (struct sockaddr *)&in, &size) < 0)
        err(1, "listen %s", e->address);
    ctl_say(e->ctl, "listening %u", (unsigned)ntohs(in.sin_port));
    return fd;
}

static int load_pem(const struct end *e)
{
    char paths[3][PATH_MAX];
    static const char *const names[3] = {"ca.pem", "node.pem", "node.key"};
    struct ha_err failed = {0};
    int fd = -1;

    for (unsigned i = 0; i < 3; i++)
        if (snprintf(paths[i], PATH_MAX, "%s/%s", e->pem, names[i]) >= PATH_MAX)
            errx(2, "%s: too long", e->pem);
    if (stream_load_pem(paths[0], paths[1], paths[2], &fd, &failed) < 0)
        errx(1, "%s", failed.text);
    return fd;
}

static void spawn(struct end *e)
{
    struct ha_err failed = {0};
    int ring = -1;

    if (e->ring_slots > 0) {
        if (!ring_create(e->ring_slots, e->ring_pages, &ring, &failed))
            errx(1, "%s", failed.text);
        ctl_say(e->ctl, "ring /proc/%d/fd/%d", (int)getpid(), ring);
    }
    /* The feeder opens the ring by that path: what is handed over is a copy. */
    const int fds[4] = {make_net(e), e->native, load_pem(e), ring >= 0 ? dup(ring) : -1};
    if (stream_spawn_ring(e->binary, &e->start, fds, &e->pid, &e->control, &failed) < 0)
        errx(1, "%s", failed.text);
    ctl_say(e->ctl, "started %d", (int)e->pid);
}

static void say_cpu(const struct end *e)
{
    struct timespec ts;
    clockid_t clock;

    if (clock_getcpuclockid(e->pid, &clock) != 0 || clock_gettime(clock, &ts) < 0)
        errx(1, "no processor time of %d", (int)e->pid);
    ctl_say(e->ctl, "cpu %lld", (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
}

static void say_end(const struct end *e, const struct ha_packet *packet)
{
    struct streamp_end m;

    if (streamp_end_decode(packet->body, packet->body_size, &m) < 0)
        errx(1, "malformed END");
    say_cpu(e);
    ctl_say(e->ctl, "end %d %llu %llu %llu %llu %s", m.is_ok, (unsigned long long)m.total.raw_bytes,
            (unsigned long long)m.total.wire_bytes, (unsigned long long)m.total.pages,
            (unsigned long long)m.total.zero_pages, m.text);
}

static void say_note(const struct end *e, const struct ha_packet *packet)
{
    char text[HA_TEXT_MAX];
    struct ha_reader r = ha_reader_of(packet->body, packet->body_size);

    ha_get_text(&r, text, sizeof(text));
    ctl_say(e->ctl, "note %s", r.failed ? "?" : text);
}

/* A sender wants one more connection: as hamgrd does it. */
static void give_socket(const struct end *e, const struct ha_packet *packet)
{
    const struct sockaddr_in receiver = address_of(e);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    tune_socket(fd, TUNE_LANE_MS);
    (void)connect(fd, (const struct sockaddr *)&receiver, sizeof(receiver));
    (void)ha_sock_send(e->control, STREAMP_SOCKET, 0, packet->body, packet->body_size, &fd, 1);
    close(fd);
}

/* Returns false at the end of the connection. */
static bool take_packet(const struct end *e)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct ha_packet packet;
    int rc = ha_sock_receive(e->control, buffer, &packet);

    if (rc <= 0)
        return rc == -EAGAIN;
    if (packet.type == STREAMP_CONNECT)
        give_socket(e, &packet);
    else if (packet.type == STREAMP_CONNECTED)
        ctl_say(e->ctl, "connected %llu", (unsigned long long)ctl_now_ns());
    else if (packet.type == STREAMP_END)
        say_end(e, &packet);
    else if (packet.type == STREAMP_NOTE)
        say_note(e, &packet);
    return true;
}

/* Until the process has closed its control socket. The bench's going ends us, and so the child. */
static void attend(const struct end *e)
{
    struct pollfd fds[2] = {{.fd = e->control, .events = POLLIN}, {.fd = e->ctl, .events = POLLIN}};

    while (poll(fds, 2, -1) > 0) {
        if (fds[1].revents != 0)
            exit(1);
        if (fds[0].revents != 0 && !take_packet(e))
            break;
    }
    struct rusage usage;
    int status;
    if (wait4(e->pid, &status, 0, &usage) != e->pid)
        err(1, "wait4");
    long long cpu_us = (long long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
                       usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    ctl_say(e->ctl, "exit %d %lld %ld",
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), cpu_us,
            usage.ru_maxrss);
}

static void parse_ring(struct end *e, const char *value)
{
    char *rest = NULL;

    e->ring_slots = (unsigned)strtoul(value, &rest, 10);
    e->ring_pages = *rest == ':' ? (unsigned)strtoul(rest + 1, &rest, 10) : 0;
    if (*rest != '\0' || e->ring_slots == 0 || e->ring_pages == 0)
        errx(2, "--ring %s: SLOTS:PAGES", value);
}

static void parse_level(struct end *e, int argc, char **argv, int *at)
{
    if (*at + 1 < argc && strcmp(argv[*at + 1], "auto") == 0) {
        (*at)++;
        e->start.level = STREAMP_LEVEL_AUTO;
        return;
    }
    e->start.level = (uint8_t)ctl_number(argc, argv, at, 22);
}

static const char *parse(struct end *e, int argc, char **argv)
{
    const char *control = NULL;

    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--control") == 0)
            control = ctl_value(argc, argv, &i);
        else if (strcmp(word, "--binary") == 0)
            e->binary = ctl_value(argc, argv, &i);
        else if (strcmp(word, "--pem") == 0)
            e->pem = ctl_value(argc, argv, &i);
        else if (strcmp(word, "--peer") == 0)
            (void)snprintf(e->start.peer_name, HA_NAME_MAX, "%s", ctl_value(argc, argv, &i));
        else if (strcmp(word, "--native") == 0)
            e->native = (int)ctl_number(argc, argv, &i, INT_MAX);
        else if (strcmp(word, "--listen") == 0 || strcmp(word, "--connect") == 0) {
            e->start.is_sender = word[2] == 'c';
            e->address = ctl_value(argc, argv, &i);
        } else if (strcmp(word, "--port") == 0)
            e->port = ctl_number(argc, argv, &i, 65535);
        else if (strcmp(word, "--ring") == 0)
            parse_ring(e, ctl_value(argc, argv, &i));
        else if (strcmp(word, "--level") == 0)
            parse_level(e, argc, argv, &i);
        else if (strcmp(word, "--workers") == 0)
            e->start.workers = (uint8_t)ctl_number(argc, argv, &i, 64);
        else if (strcmp(word, "--cache-mib") == 0)
            e->start.cache_mib = ctl_number(argc, argv, &i, STREAMP_CACHE_MAX);
        else if (strcmp(word, "--connections") == 0)
            e->start.connections = (uint8_t)ctl_number(argc, argv, &i, 8);
        else if (strcmp(word, "--rate-mbit") == 0)
            e->start.rate_mbit = ctl_number(argc, argv, &i, 1000000);
        else
            errx(2, "end: unknown option %s", word);
    }
    if (!control || !e->binary || !e->pem || !e->address || e->native < 0)
        errx(2, "end: --control, --binary, --pem, --native and --listen or --connect are needed");
    return control;
}

int main(int argc, char **argv)
{
    struct end e = {.native = -1, .start = {.generation = 1, .ticket = 77, .epoch = 9}};

    memset(e.start.cluster_id.b, 0x12, sizeof(e.start.cluster_id.b));
    memset(e.start.guest.b, 0x34, sizeof(e.start.guest.b));
    memset(e.start.secret, 0x56, sizeof(e.start.secret));
    e.start.idle_timeout_ms = IDLE_MS;
    e.start.grace_ms = GRACE_MS;
    const char *control = parse(&e, argc, argv);
    e.start.is_listener = !e.start.is_sender;
    (void)fcntl(e.native, F_SETFD, FD_CLOEXEC);
    e.ctl = ctl_open(control, e.start.is_sender ? "sender" : "receiver");
    spawn(&e);
    attend(&e);
    return 0;
}
