/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-hv: the root daemon beside the hypervisor. Composition root: options, the choice of the
 * driver (of those in drivers.h), the loop, and what makes the gate dependable: locked memory,
 * real-time priority, a blackbox.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qb/qblog.h>
#include <qb/qbloop.h>
#include <systemd/sd-daemon.h>

#include "hamgr/hv/drivers.h"
#include "hamgr/hv/gate.h"

#define DEFAULT_DIR    "/run/hamgr"
#define DEFAULT_IDENT  "/run/hamgr-node"
#define GUEST_NAME     "hamgr-guest"
#define XEN_PROGRAM    "hamgr-hv-xen"
#define BLACKBOX_BYTES (256 * 1024)
/* Above every ordinary process, below the kernel's own threads and corosync (RR 99). */
#define GATE_PRIORITY 50

struct daemon {
    qb_loop_t *loop;
    struct gate *gate;
    int signal_fd;
};

/* ---- drivers -----------------------------------------------------------------------------------
 */

static const struct hv_driver *find_driver(const char *name)
{
    for (const struct hv_driver *driver = hv_drivers; driver->name; driver++)
        if (strcmp(driver->name, name) == 0)
            return driver;
    return NULL;
}

/* A program beside our own: they are built and installed together. False: our place is unknown. */
static bool find_beside(const char *name, char *ret_path, size_t capacity)
{
    ssize_t length = readlink("/proc/self/exe", ret_path, capacity - 1);
    char *slash = length > 0 ? memrchr(ret_path, '/', (size_t)length) : NULL;

    if (!slash || (size_t)(slash - ret_path) + strlen(name) + 2 > capacity)
        return false;
    memcpy(slash + 1, name, strlen(name) + 1);
    return true;
}

/* Xen's libraries belong to one release of Xen and are only on its hosts: they have a program of
 * their own, which this one becomes when asked for that driver. Returns only if it can't. */
static void become_other(const char *name, char **argv)
{
    char path[PATH_MAX];

    if (strcmp(name, "xen") != 0 || !find_beside(XEN_PROGRAM, path, sizeof(path)))
        return;
    execv(path, argv);
    fprintf(stderr, "hamgr-hv: --driver xen: %s: %s (built without libxen-dev?)\n", path,
            strerror(errno));
}

/* ---- options -----------------------------------------------------------------------------------
 */

static void print_help(void)
{
    printf("Usage: hamgr-hv [OPTION...]\n"
           "Runs the guests of this node: makes them runnable while the lease is valid, pauses\n"
           "them when it ends. Stays in the foreground; guests go on when it stops.\n\n"
           "  --driver NAME        hypervisor driver: embedded or xen (default: %s)\n"
           "  --peer-user NAME     user whose processes may connect, beside root (hamgrd's)\n"
           "  --dir DIR            sockets, lease page and state (default " DEFAULT_DIR ")\n"
           "  --run-dir DIR        the driver's own directory (default: by driver)\n"
           "  --guest-binary PATH  embedded: the guest program (default: " GUEST_NAME
           " beside this)\n"
           "  --ident-dir DIR      boot_id and product_uuid here win over the machine's\n"
           "                       (default " DEFAULT_IDENT ")\n"
           "  --xen-allow FILE     xen: what definitions may name\n"
           "  --xen-helper HELPER  xen: who moves memory: stock (libxl's own, default), auto\n"
           "                       (hamgr-xen-helper beside this, if it will do) or its path\n"
           "  --verbose            log more\n"
           "  --version, --help\n",
           hv_drivers[0].name);
}

enum {
    OPT_DRIVER = 256,
    OPT_PEER,
    OPT_DIR,
    OPT_RUN_DIR,
    OPT_GUEST,
    OPT_IDENT,
    OPT_ALLOW,
    OPT_HELPER
};

static const struct option long_options[] = {
    {"driver", required_argument, NULL, OPT_DRIVER},
    {"peer-user", required_argument, NULL, OPT_PEER},
    {"dir", required_argument, NULL, OPT_DIR},
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"guest-binary", required_argument, NULL, OPT_GUEST},
    {"ident-dir", required_argument, NULL, OPT_IDENT},
    {"xen-allow", required_argument, NULL, OPT_ALLOW},
    {"xen-helper", required_argument, NULL, OPT_HELPER},
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* Returns -1 to go on, else the exit code. */
static int take_option(int option, struct hv_config *config)
{
    switch (option) {
    case OPT_DRIVER:
        config->driver = optarg;
        return -1;
    case OPT_PEER:
        config->peer_user = optarg;
        return -1;
    case OPT_DIR:
        config->dir = optarg;
        return -1;
    case OPT_RUN_DIR:
        config->run_dir = optarg;
        return -1;
    case OPT_GUEST:
        config->guest_binary = optarg;
        return -1;
    case OPT_IDENT:
        config->ident_dir = optarg;
        return -1;
    case OPT_ALLOW:
        config->xen_allow = optarg;
        return -1;
    case OPT_HELPER:
        config->xen_helper = strcmp(optarg, "stock") == 0 ? NULL : optarg;
        return -1;
    case 'v':
        config->is_verbose = true;
        return -1;
    case 'V':
        printf("hamgr-hv %s\n", HA_VERSION);
        return 0;
    case 'h':
        print_help();
        return 0;
    default:
        return 2;
    }
}

static int parse_options(int argc, char **argv, struct hv_config *config)
{
    int option, code;

    while ((option = getopt_long(argc, argv, "vVh", long_options, NULL)) != -1)
        if ((code = take_option(option, config)) >= 0)
            return code;
    if (optind < argc) {
        fprintf(stderr, "hamgr-hv: unexpected argument \"%s\"\n", argv[optind]);
        return 2;
    }
    return -1;
}

static const char *find_guest_binary(void)
{
    static char path[PATH_MAX];

    return find_beside(GUEST_NAME, path, sizeof(path)) ? path : "/usr/sbin/" GUEST_NAME;
}

static int find_peer(const char *user, struct gate_options *options)
{
    options->peer_uid = (uid_t)-1;
    options->peer_gid = (gid_t)-1;
    if (!user)
        return 0;
    const struct passwd *entry = getpwnam(user);
    if (!entry) {
        fprintf(stderr, "hamgr-hv: --peer-user: there is no user \"%s\"\n", user);
        return -1;
    }
    options->peer_uid = entry->pw_uid;
    options->peer_gid = entry->pw_gid;
    return 0;
}

/* ---- log ---------------------------------------------------------------------------------------
 */

static void open_log(const struct hv_config *config)
{
    uint8_t level = config->is_verbose ? LOG_DEBUG : LOG_INFO;

    qb_log_init("hamgr-hv", LOG_DAEMON, level);
    qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_ENABLED, QB_FALSE);
    qb_log_filter_ctl(QB_LOG_STDERR, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", level);
    qb_log_format_set(QB_LOG_STDERR, "%t %p: %b");
    qb_log_ctl(QB_LOG_STDERR, QB_LOG_CONF_ENABLED, QB_TRUE);
    qb_log_filter_ctl(QB_LOG_BLACKBOX, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", LOG_DEBUG);
    qb_log_ctl(QB_LOG_BLACKBOX, QB_LOG_CONF_SIZE, BLACKBOX_BYTES);
    qb_log_ctl(QB_LOG_BLACKBOX, QB_LOG_CONF_THREADED, QB_FALSE);
    qb_log_ctl(QB_LOG_BLACKBOX, QB_LOG_CONF_ENABLED, QB_TRUE);
}

static char blackbox_path[PATH_MAX];

static void write_blackbox(void)
{
    (void)qb_log_blackbox_write_to_file(blackbox_path);
}

/* A crash is the safe side; its last words are worth having. */
static void on_crash(int number)
{
    write_blackbox();
    raise(number); /* SA_RESETHAND: now for real */
}

static void catch_crashes(const struct hv_config *config)
{
    const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    struct sigaction action = {.sa_handler = on_crash,
                               .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};

    snprintf(blackbox_path, sizeof(blackbox_path), "%s/hv.blackbox", config->dir);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaction(numbers[i], &action, NULL);
}

/* ---- being on time -----------------------------------------------------------------------------
 */

/* The gate must act at lease end on a machine that swaps or is overloaded. Workers are ordinary
 * processes: neither locks nor priority pass through fork. */
static void become_dependable(void)
{
    const struct sched_param param = {.sched_priority = GATE_PRIORITY};

    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        qb_log(LOG_WARNING, "memory can't be locked: %s", strerror(errno));
    if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) < 0)
        qb_log(LOG_WARNING, "no real-time priority: %s", strerror(errno));
}

/* ---- main --------------------------------------------------------------------------------------
 */

static void on_stopped(void *user)
{
    struct daemon *daemon = user;

    qb_loop_stop(daemon->loop);
}

static int32_t on_signal(int32_t fd, int32_t events, void *data)
{
    struct daemon *daemon = data;
    struct signalfd_siginfo info;

    (void)events;
    if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return 0;
    if (info.ssi_signo == SIGUSR2) {
        write_blackbox();
        return 0;
    }
    qb_log(LOG_NOTICE, "stopping; guests go on");
    (void)sd_notify(0, "STOPPING=1");
    gate_stop(daemon->gate);
    return 0;
}

/* By signalfd, not by handlers: a handler that ran in a freshly forked worker would speak for the
 * gate. */
static int open_signals(struct daemon *daemon)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR2);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -1;
    daemon->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (daemon->signal_fd < 0)
        return -1;
    return qb_loop_poll_add(daemon->loop, QB_LOOP_MED, daemon->signal_fd, POLLIN, daemon,
                            on_signal);
}

static int run(struct hv_config *config, const struct hv_driver *driver,
               struct gate_options *options)
{
    struct daemon daemon = {.loop = qb_loop_create()};
    struct ha_err err = {0};

    options->stopped = on_stopped;
    options->user = &daemon;
    struct hv *hv = driver->open(config, &err);
    if (!hv) {
        qb_log(LOG_CRIT, "driver %s: %s", driver->name, err.text);
        return EXIT_FAILURE;
    }
    become_dependable();
    if (open_signals(&daemon) == 0)
        daemon.gate = gate_open(daemon.loop, hv, driver->open, config, options, &err);
    if (!daemon.gate) {
        qb_log(LOG_CRIT, "can't start: %s", err.text);
        hv->ops->close(hv);
        return EXIT_FAILURE;
    }
    qb_log(LOG_NOTICE, "ready | driver=%s dir=%s", driver->name, config->dir);
    (void)sd_notify(0, "READY=1");
    qb_loop_run(daemon.loop);
    gate_close(daemon.gate);
    hv->ops->close(hv);
    qb_loop_destroy(daemon.loop);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct hv_config config = {.driver = hv_drivers[0].name,
                               .dir = DEFAULT_DIR,
                               .guest_binary = find_guest_binary(),
                               .ident_dir = DEFAULT_IDENT};
    int code = parse_options(argc, argv, &config);

    if (code >= 0)
        return code;
    const struct hv_driver *driver = find_driver(config.driver);
    struct gate_options options = {
        .dir = config.dir, .worker_max = GATE_WORKERS, .ident_dir = config.ident_dir};
    if (!driver) {
        become_other(config.driver, argv);
        fprintf(stderr, "hamgr-hv: --driver: there is no driver \"%s\"\n", config.driver);
        return 2;
    }
    if (find_peer(config.peer_user, &options) < 0)
        return 2;
    if (!config.run_dir)
        config.run_dir = driver->run_dir;
    if (mkdir(config.dir, 0755) < 0 && errno != EEXIST) {
        fprintf(stderr, "hamgr-hv: %s: %s\n", config.dir, strerror(errno));
        return EXIT_FAILURE;
    }
    open_log(&config);
    catch_crashes(&config);
    code = run(&config, driver, &options);
    qb_log_fini();
    return code;
}
