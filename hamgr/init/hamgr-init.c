/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-init: PID 1 of a node in a namespace. It starts the node's services as siblings, each with
 * a log of its own, restarts what ends, reaps orphans, and stops everything in order on SIGTERM.
 * It reads one list of root's (hamgr/init/list.h) and nothing else; a small socket lets tests stop
 * and start services by name. On a host systemd does all this.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/init/list.h"
#include "hamgr/init/service.h"

/* The farewell may move every guest away: as long as systemd gives hamgrd.service to stop. */
#define FAREWELL_MAX_MS 180000u
#define CONTROL_MAX     4096u
/* What a client may take from connect to its command: generous, for nobody waits but other clients.
 */
#define CLIENT_MAX_MS 10000u

struct init {
    struct init_list list;
    struct service services[INIT_PROGRAMS_MAX];
    const char *log_dir;
    int signal_fd;
    int control_fd;
    int client_fd; /* who has connected and not yet spoken, or -1; one at a time */
    uint64_t client_end_ms;
    bool is_stopping;
    pid_t farewell_pid;
    uint64_t farewell_end_ms;
};

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* --- children ----------------------------------------------------------------------------- */

static void child_output(const char *log_dir, const char *name)
{
    char path[512];
    int n = snprintf(path, sizeof(path), "%s/%s.log", log_dir, name);
    int in = open("/dev/null", O_RDONLY);
    int out = -1;
    if (n > 0 && (size_t)n < sizeof(path)) {
        out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0640);
    }
    if (in >= 0) {
        dup2(in, STDIN_FILENO);
    }
    if (out >= 0) {
        dup2(out, STDOUT_FILENO);
        dup2(out, STDERR_FILENO);
    }
    closefrom(STDERR_FILENO + 1);
}

/* Becomes the program, as its user. Only returns by _exit. */
static void child_run(const struct init_program *program, const char *log_dir)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    child_output(log_dir, program->name);
    if (setgroups(program->gid == 0 ? 0 : 1, &program->gid) != 0 || setgid(program->gid) != 0 ||
        setuid(program->uid) != 0) {
        perror("hamgr-init: change user");
        _exit(126);
    }
    execv(program->argv[0], program->argv);
    fprintf(stderr, "hamgr-init: %s: %s\n", program->argv[0], strerror(errno));
    _exit(127);
}

static pid_t spawn(const struct init *init, const struct init_program *program)
{
    pid_t pid = fork();
    if (pid == 0) {
        child_run(program, init->log_dir);
    }
    if (pid < 0) {
        fprintf(stderr, "hamgr-init: fork for %s: %s\n", program->name, strerror(errno));
    }
    return pid;
}

static void note_exit(const char *name, pid_t pid, int status)
{
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "hamgr-init: %s (pid %d) ended by signal %d\n", name, (int)pid,
                WTERMSIG(status));
    } else {
        fprintf(stderr, "hamgr-init: %s (pid %d) ended with %d\n", name, (int)pid,
                WEXITSTATUS(status));
    }
}

static void reap(struct init *init)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == init->farewell_pid) {
            init->farewell_pid = 0;
            note_exit(init->list.farewell.name, pid, status);
        }
        for (size_t i = 0; i < init->list.count; i++) {
            if (init->services[i].pid == pid) {
                note_exit(init->list.programs[i].name, pid, status);
                service_exited(&init->services[i], now_ms());
            }
        }
    }
}

/* --- orderly stop ------------------------------------------------------------------------- */

static void stop_begin(struct init *init)
{
    if (init->is_stopping) {
        return;
    }
    init->is_stopping = true;
    if (init->list.has_farewell) {
        init->farewell_pid = spawn(init, &init->list.farewell);
        init->farewell_end_ms = now_ms() + FAREWELL_MAX_MS;
    }
}

static void unwant(struct init *init, size_t i)
{
    if (service_unwant(&init->services[i], now_ms()) == SERVICE_TERM) {
        kill(init->services[i].pid, SIGTERM);
    }
}

/* The last listed goes first, each only after its successor is gone. True when all are down. */
static bool stop_step(struct init *init)
{
    if (init->farewell_pid > 0) {
        if (now_ms() < init->farewell_end_ms) {
            return false;
        }
        kill(init->farewell_pid, SIGKILL);
    }
    for (size_t i = init->list.count; i > 0; i--) {
        unwant(init, i - 1);
        if (init->services[i - 1].state != SERVICE_DOWN) {
            return false;
        }
    }
    return true;
}

/* --- control socket ----------------------------------------------------------------------- */

static size_t control_status(const struct init *init, char *reply)
{
    size_t used = 0;
    for (size_t i = 0; i < init->list.count; i++) {
        const struct service *s = &init->services[i];
        int n =
            snprintf(reply + used, CONTROL_MAX - used, "%s %s %d %u\n", init->list.programs[i].name,
                     service_state_name(s->state), (int)s->pid, s->starts);
        if (n < 0 || (size_t)n >= CONTROL_MAX - used) {
            break;
        }
        used += (size_t)n;
    }
    return used;
}

static const char *control_change(struct init *init, const char *verb, const char *name)
{
    for (size_t i = 0; i < init->list.count; i++) {
        if (strcmp(init->list.programs[i].name, name) != 0) {
            continue;
        }
        if (init->is_stopping) {
            return "error: stopping";
        }
        if (strcmp(verb, "stop") == 0) {
            unwant(init, i);
            return "ok";
        }
        if (strcmp(verb, "start") == 0) {
            service_want(&init->services[i]);
            return "ok";
        }
        return "error: expected status, stop NAME, start NAME or shutdown";
    }
    return "error: no such service";
}

static void client_close(struct init *init)
{
    close(init->client_fd);
    init->client_fd = -1;
}

static void client_accept(struct init *init)
{
    init->client_fd = accept4(init->control_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    init->client_end_ms = now_ms() + CLIENT_MAX_MS;
}

static size_t control_answer(struct init *init, char *text, char *reply)
{
    char *rest = text;
    char *verb = strsep(&rest, " \n");
    char *name = rest ? strsep(&rest, " \n") : NULL;
    if (strcmp(verb, "status") == 0) {
        return control_status(init, reply);
    }
    const char *answer = "ok";
    if (strcmp(verb, "shutdown") == 0) {
        stop_begin(init);
    } else {
        answer = control_change(init, verb, name ? name : "");
    }
    size_t size = strlen(answer);
    memcpy(reply, answer, size);
    return size;
}

/* One command, one answer, then the connection is closed. */
static void client_serve(struct init *init)
{
    char text[128];
    char reply[CONTROL_MAX];
    ssize_t n = read(init->client_fd, text, sizeof(text) - 1);
    if (n > 0) {
        text[n] = '\0';
        size_t size = control_answer(init, text, reply);
        if (send(init->client_fd, reply, size, MSG_NOSIGNAL) < 0) {
            perror("hamgr-init: control");
        }
    }
    client_close(init);
}

static int control_open(const char *path, struct ha_err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr.sun_path)) {
        return ha_err_set(err, ENAMETOOLONG, "%s: too long for a socket", path);
    }
    memcpy(addr.sun_path, path, strlen(path));
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177);
    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(fd, 8) != 0) {
        int rc = ha_err_set(err, errno, "%s: %s", path, strerror(errno));
        umask(mask);
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    umask(mask);
    return fd;
}

/* --- loop --------------------------------------------------------------------------------- */

static void services_step(struct init *init)
{
    for (size_t i = 0; i < init->list.count; i++) {
        struct service *s = &init->services[i];
        switch (service_due(s, now_ms())) {
        case SERVICE_START:
            service_started(s, spawn(init, &init->list.programs[i]), now_ms());
            break;
        case SERVICE_KILL:
            kill(s->pid, SIGKILL);
            break;
        case SERVICE_TERM:
        case SERVICE_NOTHING:
            break;
        }
    }
}

static int next_timeout(const struct init *init)
{
    /* While stopping, 1 s bounds the wait for a farewell that ran out of time. */
    int least = init->is_stopping ? 1000 : -1;
    for (size_t i = 0; i < init->list.count; i++) {
        int t = service_timeout_ms(&init->services[i], now_ms());
        if (t >= 0 && (least < 0 || t < least)) {
            least = t;
        }
    }
    if (init->client_fd >= 0) {
        uint64_t now = now_ms();
        int t = init->client_end_ms > now ? (int)(init->client_end_ms - now) : 0;
        least = least < 0 || t < least ? t : least;
    }
    return least;
}

static void signals_read(struct init *init)
{
    struct signalfd_siginfo info;
    while (read(init->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || info.ssi_signo == SIGPWR) {
            stop_begin(init);
        }
    }
    reap(init);
}

/* PID 1 waits for no client: one that is slow to speak keeps only the next one waiting. */
static void clients_step(struct init *init, short listening, short speaking)
{
    if (init->client_fd < 0) {
        if ((listening & POLLIN) != 0) {
            client_accept(init);
        }
    } else if (speaking != 0) {
        client_serve(init);
    } else if (now_ms() >= init->client_end_ms) {
        client_close(init);
    }
}

static void loop(struct init *init)
{
    for (;;) {
        services_step(init);
        if (init->is_stopping && stop_step(init)) {
            return;
        }
        struct pollfd fds[3] = {
            {.fd = init->signal_fd, .events = POLLIN},
            {.fd = init->client_fd < 0 ? init->control_fd : -1, .events = POLLIN},
            {.fd = init->client_fd, .events = POLLIN}};
        if (poll(fds, 3, next_timeout(init)) < 0 && errno != EINTR) {
            perror("hamgr-init: poll");
        }
        signals_read(init);
        clients_step(init, fds[1].revents, fds[2].revents);
    }
}

/* Everything that is left, orphans too. As PID 1 our end would kill them; elsewhere we must. */
static void last_reap(void)
{
    if (getpid() == 1) {
        kill(-1, SIGKILL);
    }
    while (waitpid(-1, NULL, 0) > 0) {
    }
}

static int signals_open(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGPWR);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static int usage(int code)
{
    fprintf(code == 0 ? stdout : stderr,
            "Usage: hamgr-init [--log-dir DIR] [--control SOCKET] LIST\n"
            "Starts the programs of LIST (lines: NAME UID:GID /PROGRAM [ARGUMENT...]), restarts\n"
            "what ends, reaps orphans. SIGTERM: orderly stop, the last listed first.\n"
            "SOCKET takes: status, stop NAME, start NAME, shutdown.\n");
    return code;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"log-dir", required_argument, NULL, 'l'},
                                            {"control", required_argument, NULL, 'c'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    static struct init init;
    struct ha_err err = {0};
    const char *control = "/run/hamgr-init.sock";
    int opt;

    init.log_dir = "/var/log";
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 'l') {
            init.log_dir = optarg;
        } else if (opt == 'c') {
            control = optarg;
        } else {
            return usage(opt == 'h' ? 0 : 2);
        }
    }
    if (optind + 1 != argc) {
        return usage(2);
    }
    init.signal_fd = signals_open();
    init.control_fd = -1;
    init.client_fd = -1;
    int rc = init_list_load(argv[optind], &init.list, &err);
    if (rc == 0) {
        init.control_fd = control_open(control, &err);
    }
    if (init.signal_fd < 0 || init.control_fd < 0) {
        fprintf(stderr, "hamgr-init: %s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < init.list.count; i++) {
        service_init(&init.services[i]);
        service_want(&init.services[i]);
    }
    loop(&init);
    last_reap();
    return 0;
}
