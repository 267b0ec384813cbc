/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd, the cluster daemon: reads its options and config, opens the store, and runs the shell.
 */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <libgen.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "hamgr/codecrate.h"
#include "hamgr/base/assert.h"
#include "hamgr/shell/shell.h"

#define BLACKBOX_BYTES (256 * 1024)

struct options {
    const char *config_path;
    bool is_verbose;
};

static void usage(FILE *out)
{
    fputs("Usage: hamgrd [OPTIONS]\n"
          "The hamgr cluster daemon of this node. Runs in the foreground.\n\n"
          "  -c, --config FILE   configuration (default " HA_CONFIG_PATH ")\n"
          "  -v, --verbose       log decisions of the replicated log too\n"
          "  -V, --version       print the version\n"
          "  -h, --help          this text\n\n"
          "See hamgrd(8), hamgr.conf(5), hactl(8).\n",
          out);
}

static int parse_options(int argc, char **argv, struct options *options)
{
    static const struct option table[] = {{"config", required_argument, NULL, 'c'},
                                          {"verbose", no_argument, NULL, 'v'},
                                          {"version", no_argument, NULL, 'V'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int option;

    while ((option = getopt_long(argc, argv, "c:vVh", table, NULL)) != -1) {
        switch (option) {
        case 'c':
            options->config_path = optarg;
            break;
        case 'v':
            options->is_verbose = true;
            break;
        case 'V':
            puts("hamgrd " HA_VERSION);
            exit(EXIT_SUCCESS);
        case 'h':
            usage(stdout);
            exit(EXIT_SUCCESS);
        default:
            usage(stderr);
            return 2;
        }
    }
    return 0;
}

static void start_log(const struct ha_config *config, bool is_verbose)
{
    uint8_t level = is_verbose ? LOG_DEBUG : config->log_level;

    qb_log_init("hamgrd", LOG_DAEMON, LOG_INFO);
    qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_ENABLED, QB_FALSE);
    qb_log_filter_ctl(QB_LOG_STDERR, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", level);
    qb_log_format_set(QB_LOG_STDERR, "%T [%p] %b");
    qb_log_ctl(QB_LOG_STDERR, QB_LOG_CONF_ENABLED, QB_TRUE);
    qb_log_filter_ctl(QB_LOG_BLACKBOX, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", LOG_DEBUG);
    qb_log_ctl(QB_LOG_BLACKBOX, QB_LOG_CONF_SIZE, BLACKBOX_BYTES);
    qb_log_ctl(QB_LOG_BLACKBOX, QB_LOG_CONF_ENABLED, QB_TRUE);
}

/* A crash leaves the last decisions behind: qb-blackbox reads the file. */
static void on_crash(int number)
{
    char path[] = "/var/lib/hamgr/hamgrd.blackbox";

    signal(number, SIG_DFL);
    qb_log_blackbox_write_to_file(path);
    raise(number);
}

static int32_t on_terminate(int32_t number, void *data)
{
    struct hamgrd *d = data;

    qb_log(LOG_NOTICE, "signal %d: hamgrd ends, guests run on | lease_left_ms=%" PRId64, number,
           (int64_t)(d->rt.lease_end_ms - shell_now_ms()));
    sd_notify(0, "STOPPING=1");
    qb_loop_stop(d->loop);
    return 0;
}

static int32_t on_child(int32_t number, void *data)
{
    (void)number;
    moves_child(data);
    return 0;
}

static gid_t admin_gid(const struct ha_config *config)
{
    const struct group *group = config->admin_group[0] ? getgrnam(config->admin_group) : NULL;

    if (config->admin_group[0] && !group)
        qb_log(LOG_WARNING, "[ipc] admin-group: there is no group %s; root only",
               config->admin_group);
    return group ? group->gr_gid : (gid_t)-1;
}

/* hamgr-stream lies beside this program, wherever that is. */
static const char *sibling(const char *name)
{
    static char path[4096 + 64];
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (length <= 0)
        return name;
    self[length] = '\0';
    snprintf(path, sizeof(path), "%s/%s", dirname(self), name);
    return path;
}

static int open_store(struct hamgrd *d, struct ha_err *err)
{
    int rc = store_open(d->config.state_dir, &d->store, &d->identity, err);

    if (rc == -HA_E_NOT_FOUND)
        return ha_err_set(
            err, HA_E_NOT_FOUND,
            "no store in %s: create the cluster with 'hactl cluster init' or join one "
            "with 'hactl cluster join'",
            d->config.state_dir);
    return rc;
}

static int run(struct hamgrd *d, const struct options *options)
{
    struct ha_err err = {0};

    int rc = ha_config_load(options->config_path, &d->config, &err);
    if (rc < 0) {
        fprintf(stderr, "hamgrd: %s\n", err.text);
        return 2;
    }
    start_log(&d->config, options->is_verbose);
    qb_log(LOG_NOTICE, "hamgrd " HA_VERSION " starts");
    d->loop = qb_loop_create();
    ha_assert(d->loop);
    d->stream_binary = sibling("hamgr-stream");
    d->codec_bytes_s = codecrate_measure();
    qb_loop_signal_handle handle;
    qb_loop_signal_add(d->loop, QB_LOOP_HIGH, SIGTERM, d, on_terminate, &handle);
    qb_loop_signal_add(d->loop, QB_LOOP_HIGH, SIGINT, d, on_terminate, &handle);
    qb_loop_signal_add(d->loop, QB_LOOP_MED, SIGCHLD, d, on_child, &handle);
    rc = open_store(d, &err);
    if (rc == 0)
        rc = shell_start(d, &err);
    d->api = shell_server_api;
    d->api.user = d;
    if (rc == 0)
        rc = server_open(d->loop, "hamgr", admin_gid(&d->config), &d->api, &d->server, &err);
    if (rc < 0) {
        qb_log(LOG_CRIT, "hamgrd can't start: %s", err.text);
        return 1;
    }
    sd_notify(0, "READY=1");
    qb_loop_run(d->loop);
    shell_stop(d);
    return 0;
}

int main(int argc, char **argv)
{
    static struct hamgrd daemon;
    struct options options = {.config_path = HA_CONFIG_PATH};

    if (parse_options(argc, argv, &options) != 0)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGABRT, on_crash);
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    int rc = run(&daemon, &options);
    qb_log_fini();
    return rc;
}
