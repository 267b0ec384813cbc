/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls of the production code, wrapped at link time, and its log lines. Descriptors of the
 * simulated world are numbers from FD_FIRST on; what comes from outside of a simulated process goes
 * to the real call.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "hamgr/shell/identity.h"
#include "migrate/tune.h"
#include "tests/sim/fds.h"
#include "tests/sim/sim.h"

int __real_clock_gettime(clockid_t id, struct timespec *ret);
ssize_t __real_getrandom(void *data, size_t size, unsigned flags);
ssize_t __real_read(int fd, void *data, size_t size);
int __real_close(int fd);
int __wrap_clock_gettime(clockid_t id, struct timespec *ret);
ssize_t __wrap_getrandom(void *data, size_t size, unsigned flags);
ssize_t __wrap_read(int fd, void *data, size_t size);
int __wrap_close(int fd);
int __wrap_stat(const char *path, struct stat *ret);
int __wrap_timerfd_create(int clock, int flags);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when, void *old);
int __wrap_socket(int family, int type, int protocol);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_listen(int fd, int backlog);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size);
int __wrap_socketpair(int family, int type, int protocol, int fds[2]);
int __wrap_kill(pid_t pid, int number);
pid_t __wrap_waitpid(pid_t pid, int *ret_status, int options);
void __real_log_trace(struct log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void __wrap_log_trace(struct log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int fd_high;

int sim_fd_new(void)
{
    return ++fd_high;
}

void sim_fds_reset(void)
{
    fd_high = FD_FIRST;
}

/* ---- clocks and random numbers ----------------------------------------------------------------
 */

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_S), .tv_nsec = (long)(ns % NS_S)};
}

/* Clocks are asked several times in each event, and stand still meanwhile. What is remembered is
 * read as it was written, in two pieces: as one it would have to wait for both. */
static uint64_t raw_ns(const struct sim_node *node, struct timespec *ret)
{
    static const struct sim_node *asked;
    static time_t seconds;
    static uint64_t at, boot_ns, ns;
    static long rest_ns;

    if (node != asked || sim.now != at || node->clock.raw_ns != boot_ns) {
        asked = node;
        at = sim.now;
        boot_ns = node->clock.raw_ns;
        ns = sim_raw_ns(node);
        seconds = (time_t)(ns / NS_S);
        rest_ns = (long)(ns % NS_S);
    }
    ret->tv_sec = seconds;
    ret->tv_nsec = rest_ns;
    return ns;
}

int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
    if (!sim.running)
        return __real_clock_gettime(id, ret);
    const struct sim_node *node = sim.running->node;
    uint64_t ns = raw_ns(node, ret);
    if (id == CLOCK_BOOTTIME)
        *ret = timespec_of(ns + (uint64_t)node->clock.slept_ns);
    else if (id == CLOCK_REALTIME)
        *ret = timespec_of((sim_has_plant("wall-stands") ? 0 : ns) +
                           (uint64_t)node->clock.wall_offset_ns);
    return 0;
}

ssize_t __wrap_getrandom(void *data, size_t size, unsigned flags)
{
    uint8_t *bytes = data;

    if (!sim.running)
        return __real_getrandom(data, size, flags);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)ha_rng_next(&sim.rng);
    return (ssize_t)size;
}

int identity_read(struct ha_uuid *ret_boot_id, struct ha_uuid *ret_hw_id, struct ha_err *err)
{
    (void)err;
    *ret_boot_id = sim.running->node->boot_id;
    *ret_hw_id = sim.running->node->hw_id;
    return 0;
}

struct ha_uuid gate_boot_id(const char *ident_dir)
{
    (void)ident_dir;
    return sim.running->node->boot_id;
}

struct ha_uuid gate_hw_id(const char *ident_dir)
{
    (void)ident_dir;
    return sim.running->node->hw_id;
}

/* ---- the gate's timer and page -----------------------------------------------------------------
 */

int __wrap_stat(const char *path, struct stat *ret)
{
    (void)path; /* only the keeper's page is asked for */
    memset(ret, 0, sizeof(*ret));
    ret->st_ino = 1;
    if (sim.running->node->has_page)
        return 0;
    errno = ENOENT;
    return -1;
}

const struct keeper_page *keeper_page_map_at(const char *path, struct ha_err *err)
{
    (void)path;
    (void)err;
    return &sim.running->node->page;
}

void keeper_page_unmap(const struct keeper_page *page)
{
    (void)page;
}

struct keeper_lease_copy keeper_page_read(const struct keeper_page *page)
{
    return (struct keeper_lease_copy){.lease_end_ns = page->lease_end_ns,
                                      .lease_ms = page->lease_ms,
                                      .is_quarantined = page->is_quarantined != 0,
                                      .is_armed = page->is_armed != 0};
}

int sd_notify(int unset, const char *state)
{
    (void)unset;
    (void)state;
    return 0;
}

int __wrap_timerfd_create(int clock, int flags)
{
    (void)clock;
    (void)flags;
    return FD_GATE_TIMER;
}

static void on_gate_timer(void *data, uint64_t arg)
{
    struct sim_node *node = data;

    (void)arg;
    node->gate_timer = 0;
    sim_ready(&node->procs[SIM_HV], FD_GATE_TIMER);
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *when, void *old)
{
    struct sim_node *node = sim.running->node;
    uint64_t ns = (uint64_t)when->it_value.tv_sec * NS_S + (uint64_t)when->it_value.tv_nsec;

    (void)fd;
    (void)flags;
    (void)old;
    sim_cancel(node->gate_timer);
    node->gate_timer = sim_after(sim_span(node, ns), &node->procs[SIM_HV], on_gate_timer, node, 0);
    return 0;
}

ssize_t __wrap_read(int fd, void *data, size_t size)
{
    if (fd < FD_STORE)
        return __real_read(fd, data, size);
    memset(data, 0, size);
    return (ssize_t)size;
}

/* ---- sockets of migrations: their data does not pass here, only who holds which end ------------
 */

int __wrap_close(int fd)
{
    if (fd < FD_STORE)
        return __real_close(fd);
    if (sim.running && fd > FD_FIRST)
        sim_stream_native_closed(sim.running->node, fd);
    return 0;
}

int __wrap_socket(int family, int type, int protocol)
{
    (void)family;
    (void)type;
    (void)protocol;
    return sim_fd_new();
}

int __wrap_bind(int fd, const struct sockaddr *address, socklen_t size)
{
    (void)fd;
    (void)address;
    (void)size;
    return 0;
}

int __wrap_listen(int fd, int backlog)
{
    (void)fd;
    (void)backlog;
    return 0;
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    (void)fd;
    (void)address;
    (void)size;
    return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    (void)fd;
    (void)level;
    (void)name;
    (void)value;
    (void)size;
    return 0;
}

int __wrap_socketpair(int family, int type, int protocol, int fds[2])
{
    (void)family;
    (void)type;
    (void)protocol;
    fds[0] = sim_fd_new();
    fds[1] = sim_fd_new(); /* the pair of n is n + 1 */
    return 0;
}

int __wrap_kill(pid_t pid, int number)
{
    (void)number;
    sim_stream_kill(sim.running->node, (uint32_t)pid);
    return 0;
}

pid_t __wrap_waitpid(pid_t pid, int *ret_status, int options)
{
    (void)options;
    *ret_status = 0;
    return sim_stream_is_alive(sim.running->node, (uint32_t)pid) ? 0 : pid;
}

/* ---- log lines ---------------------------------------------------------------------------------
 */

struct qb_log_callsite *qb_log_callsite_get2(const char *message_id, const char *function,
                                             const char *filename, const char *format,
                                             uint8_t priority, uint32_t lineno, uint32_t tags)
{
    static struct qb_log_callsite site;

    (void)message_id;
    (void)filename;
    (void)tags;
    site.function = function;
    site.format = format;
    site.priority = priority;
    site.lineno = lineno;
    return &site;
}

/* Nobody reads the log's lines but in a trace; that there is one counts. */
void __wrap_log_trace(struct log *log, const char *fmt, ...)
{
    char line[sizeof((struct log_action){0}.u.text.line)] = "";
    va_list args;

    if (strstr(fmt, " refuses this node: the log needs protocol "))
        sim_version_cover(SIM_COVER_REFUSED);
    va_start(args, fmt);
    if (sim.options.is_traced)
        vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    __real_log_trace(log, "%s", line);
}

void qb_log_real_(struct qb_log_callsite *cs, ...)
{
    char line[512];
    va_list args;

    if (!sim.options.is_traced || !sim.running)
        return;
    va_start(args, cs);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vsnprintf(line, sizeof(line), cs->format, args);
#pragma GCC diagnostic pop
    va_end(args);
    sim_say(sim.running->node->id, "%s: %s", sim_kind_name(sim.running->kind), line);
}

/* ---- hactl's server: operators type into ops.c -------------------------------------------------
 */

void server_poke(struct server *server)
{
    (void)server;
}

void server_close(struct server *server)
{
    (void)server;
}

/* ---- sockets of streams ------------------------------------------------------------------------
 */

void tune_socket(int fd, uint32_t user_timeout_ms)
{
    (void)fd;
    (void)user_timeout_ms;
}
