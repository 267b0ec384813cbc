/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-fence: runs fence devices for hamgrd. It holds the credentials; hamgrd decides. A run of
 * `off` counts as evidence only when the agent's `off` succeeded and its `status` then said off.
 * One run per device at a time; equal requests wait in line. Devices are proven on a schedule.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <qb/qblog.h>
#include <qb/qbloop.h>
#include <qb/qbutil.h>
#include <systemd/sd-daemon.h>

#include "fence/agent.h"
#include "fence/devices.h"
#include "fence/order.h"
#include "hamgr/base/assert.h"

#define CLIENTS_MAX     8
#define RUNS_MAX        256
#define PACKETS_MAX     2048 /* of one client in a turn: RUNS_MAX orders, each with words about it */
#define STATUS_RETRY_MS 100u  /* between `status` calls while a machine is going down */
#define CHECK_EVERY_MS  5000u /* looks whether a monitor is due */
#define MONITOR_ID      0     /* runs of our own have no client */

enum run_step { RUN_WAITING = 0, RUN_ACTING, RUN_VERIFYING, RUN_PAUSING };

struct run {
    struct run *next;
    struct fence_daemon *d;
    uint64_t id;
    int client; /* fd, -1 = our own monitor */
    struct fencep_run order;
    struct fence_order stands; /* of a client's; our own need nobody's word */
    uint8_t step;              /* enum run_step */
    uint64_t started_ms;       /* when its agent first started */
    uint64_t deadline_ms;
    struct agent *agent;
    qb_loop_timer_handle timer;
};

struct fence_daemon {
    qb_loop_t *loop;
    const char *agents_dir;
    const char *conf_path;
    struct devices devices;
    uint64_t monitor_due_ms[HA_DEVICES_MAX];
    struct run *runs; /* in order of arrival */
    int listener;
    uid_t peer_uid;
    int clients[CLIENTS_MAX];
    qb_loop_timer_handle check_timer;
    bool is_starting; /* start_waiting is at work, and goes on until none is left */
    uint8_t buffer[HA_IPC_MAX];
};

static void start_waiting(struct fence_daemon *d);
static void take_packets(struct fence_daemon *d, int slot);
static void act(struct run *run);

static uint64_t now_ms(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct device *device_of(struct run *run)
{
    return (struct device *)(uintptr_t)devices_find(&run->d->devices, run->order.device);
}

/* ---- results -----------------------------------------------------------------------------------
 */

static void unlink_run(struct run *run)
{
    struct run **place = &run->d->runs;

    while (*place != run)
        place = &(*place)->next;
    *place = run->next;
    if (run->timer)
        qb_loop_timer_del(run->d->loop, run->timer);
}

static void note_proof(struct run *run, uint8_t outcome)
{
    struct device *device = device_of(run);

    if (!device || run->order.action != FENCEP_MONITOR)
        return;
    if (outcome == FENCEP_OK)
        device->d.proven_wall_ms = now_ms(CLOCK_REALTIME);
    size_t slot = (size_t)(device - run->d->devices.list);
    run->d->monitor_due_ms[slot] = now_ms(CLOCK_MONOTONIC) + device->monitor_ms;
}

static void send_result(int client, uint64_t id, const struct fencep_result *result)
{
    uint8_t body[1024];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    fencep_result_encode(&w, result);
    (void)ha_sock_send(client, FENCEP_RESULT, id, body, w.position, NULL, 0);
}

/* Ends run with its one result; frees it. */
static void end_run(struct run *run, uint8_t outcome, const char *text)
{
    struct fence_daemon *d = run->d;
    struct fencep_result result = {.outcome = outcome};

    if (run->started_ms)
        result.elapsed_ms = (uint32_t)(now_ms(CLOCK_MONOTONIC) - run->started_ms);
    snprintf(result.text, sizeof(result.text), "%s", text);
    note_proof(run, outcome);
    qb_log(outcome == FENCEP_FAILED ? LOG_WARNING : LOG_NOTICE,
           "device %s node %s: outcome %u | elapsed_ms=%u %s", run->order.device, run->order.node,
           outcome, result.elapsed_ms, text);
    if (run->client >= 0)
        send_result(run->client, run->id, &result);
    unlink_run(run);
    free(run);
    start_waiting(d);
}

/* The agent's last line without its secrets, for people. */
static void describe(struct run *run, const char *what, const struct agent_result *result,
                     char *ret_text)
{
    char output[AGENT_OUTPUT_MAX];
    const struct device *device = device_of(run);

    memcpy(output, result->output, sizeof(output));
    for (size_t length = strlen(output); length > 0 && output[length - 1] <= ' '; length--)
        output[length - 1] = '\0';
    if (device)
        devices_redact(device, output);
    const char *line = strrchr(output, '\n');
    line = line ? line + 1 : output;
    snprintf(ret_text, HA_TEXT_MAX, "%.40s %.40s: %s %s %d%s%.120s", device ? device->d.agent : "?",
             run->order.device, what,
             result->is_timeout     ? "timed out, killed by signal"
             : result->is_signalled ? "was killed by signal"
                                    : "exited with",
             result->code, *line ? ": " : "", line);
}

/* ---- running -----------------------------------------------------------------------------------
 */

static const char *action_name(const struct run *run)
{
    if (run->step == RUN_VERIFYING)
        return "status";
    switch ((enum fencep_action)run->order.action) {
    case FENCEP_OFF:
        return "off";
    case FENCEP_ON:
        return "on";
    case FENCEP_STATUS:
        return "status";
    case FENCEP_MONITOR:
        return "monitor";
    }
    return "monitor";
}

static void on_pause_over(void *data)
{
    struct run *run = data;

    run->timer = 0;
    run->step = RUN_VERIFYING;
    act(run);
}

static bool is_success(const struct agent_result *result, int code)
{
    return !result->is_timeout && !result->is_signalled && result->code == code;
}

/* `status` after `off`: off is the evidence; on means: not yet, ask again until the time is up. */
static void on_verified(struct run *run, const struct agent_result *result)
{
    char text[HA_TEXT_MAX];

    describe(run, "status after off", result, text);
    if (is_success(result, AGENT_EXIT_OFF)) {
        snprintf(text, sizeof(text), "%.60s %.60s: status off",
                 device_of(run) ? device_of(run)->d.agent : "?", run->order.device);
        end_run(run, FENCEP_VERIFIED_OFF, text);
        return;
    }
    if (is_success(result, AGENT_EXIT_OK) &&
        now_ms(CLOCK_MONOTONIC) + STATUS_RETRY_MS < run->deadline_ms) {
        run->step = RUN_PAUSING;
        qb_loop_timer_add(run->d->loop, QB_LOOP_MED, STATUS_RETRY_MS * QB_TIME_NS_IN_MSEC, run,
                          on_pause_over, &run->timer);
        return;
    }
    end_run(run, FENCEP_FAILED, text);
}

static void on_agent_done(void *user, const struct agent_result *result)
{
    struct run *run = user;
    char text[HA_TEXT_MAX];

    run->agent = NULL;
    if (run->step == RUN_VERIFYING) {
        on_verified(run, result);
        return;
    }
    describe(run, action_name(run), result, text);
    if (run->order.action == FENCEP_STATUS && is_success(result, AGENT_EXIT_OFF)) {
        end_run(run, FENCEP_VERIFIED_OFF, text);
    } else if (!is_success(result, AGENT_EXIT_OK)) {
        end_run(run, FENCEP_FAILED, text);
    } else if (run->order.action == FENCEP_OFF) {
        run->step = RUN_VERIFYING;
        act(run);
    } else {
        end_run(run, run->order.action == FENCEP_STATUS ? FENCEP_IS_ON : FENCEP_OK, text);
    }
}

static void act(struct run *run)
{
    struct fence_daemon *d = run->d;
    const struct device *device = device_of(run);
    uint64_t now = now_ms(CLOCK_MONOTONIC);
    struct ha_err err = {0};
    char input[16384];

    if (!device) {
        end_run(run, FENCEP_FAILED, "there is no such device in fence.conf any more");
        return;
    }
    if (now >= run->deadline_ms) {
        end_run(run, FENCEP_FAILED, "no time left");
        return;
    }
    int size = devices_input(device, action_name(run), run->order.node, input, sizeof(input));
    int rc = size < 0 ? ha_err_set(&err, HA_E_LIMIT, "the device has too many options")
                      : agent_start(d->loop, d->agents_dir, device->d.agent, input, (size_t)size,
                                    (uint32_t)(run->deadline_ms - now), on_agent_done, run,
                                    &run->agent, &err);
    explicit_bzero(input, sizeof(input));
    if (rc < 0)
        end_run(run, FENCEP_FAILED, err.text);
}

static bool is_device_busy(const struct fence_daemon *d, const char *device)
{
    for (const struct run *run = d->runs; run; run = run->next) {
        if (run->step != RUN_WAITING && strcmp(run->order.device, device) == 0)
            return true;
    }
    return false;
}

static struct run *next_to_start(const struct fence_daemon *d)
{
    for (struct run *run = d->runs; run; run = run->next) {
        if (run->step == RUN_WAITING && !is_device_busy(d, run->order.device))
            return run;
    }
    return NULL;
}

static void start_run(struct run *run)
{
    const struct device *device = device_of(run);
    uint32_t timeout_ms = run->order.timeout_ms ? run->order.timeout_ms
                          : device              ? device->d.timeout_ms
                                                : 1;

    run->started_ms = now_ms(CLOCK_MONOTONIC);
    run->deadline_ms = run->started_ms + timeout_ms;
    run->step = RUN_ACTING;
    act(run);
}

/* First whatever clients have said by now: after a hang of ours an order may lie there with the
 * word that takes it back behind it, and the node it is about be a member again. If hamgrd hangs as
 * well there is no such word, but its last one is old. act may end a run, which calls back here, so
 * each start begins a new walk. */
static void start_waiting(struct fence_daemon *d)
{
    struct run *run;

    if (d->is_starting)
        return;
    d->is_starting = true;
    for (int slot = 0; slot < CLIENTS_MAX; slot++) {
        if (d->clients[slot] >= 0)
            take_packets(d, slot);
    }
    while ((run = next_to_start(d))) {
        if (run->client < 0 || fence_order_stands(&run->stands, now_ms(CLOCK_BOOTTIME)))
            start_run(run);
        else
            end_run(run, FENCEP_CANCELLED, "not begun: hamgrd vouches for the order no longer");
    }
    d->is_starting = false;
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static void add_run(struct fence_daemon *d, int client, uint64_t id, const struct fencep_run *order)
{
    unsigned count = 0;
    struct run **tail = &d->runs;

    for (; *tail; tail = &(*tail)->next)
        count++;
    struct run *run = calloc(1, sizeof(*run));
    ha_assert(run);
    *run = (struct run){.d = d, .id = id, .client = client, .order = *order};
    fence_order_vouch(&run->stands, order->end_ms);
    *tail = run;
    if (count >= RUNS_MAX) {
        end_run(run, FENCEP_FAILED, "too many runs are waiting");
        return;
    }
    start_waiting(d);
}

static void cancel(struct fence_daemon *d, int client, uint64_t id)
{
    for (struct run *run = d->runs; run; run = run->next) {
        if (run->client == client && run->id == id && run->step == RUN_WAITING) {
            end_run(run, FENCEP_CANCELLED, "cancelled before it began");
            return;
        }
    }
}

static void vouch(struct fence_daemon *d, int client, const struct fencep_vouch *word)
{
    for (struct run *run = d->runs; run; run = run->next) {
        if (run->client == client && run->id == word->id)
            fence_order_vouch(&run->stands, word->end_ms);
    }
}

/* Of a hamgrd that does not say for how long it wants it: nobody knows whether it still does. */
static void refuse_old(int client, uint64_t id)
{
    struct fencep_result result = {.outcome = FENCEP_FAILED};

    snprintf(result.text, sizeof(result.text),
             "hamgrd is of an older build than hamgr-fence: restart it");
    qb_log(LOG_ERR, "an order is refused: %s", result.text);
    send_result(client, id, &result);
}

static void send_devices(const struct fence_daemon *d, int client, uint64_t id)
{
    static uint8_t body[8192];

    for (uint32_t i = 0; i < d->devices.count || i == 0; i++) {
        struct ha_writer w = ha_writer_of(body, sizeof(body));
        struct fencep_devices part = {.is_last = i + 1 >= d->devices.count};
        if (i < d->devices.count)
            part.device = d->devices.list[i].d;
        fencep_devices_encode(&w, &part);
        (void)ha_sock_send(client, FENCEP_DEVICES, id, body, w.position, NULL, 0);
    }
}

static void on_packet(struct fence_daemon *d, int client, const struct ha_packet *packet)
{
    struct fencep_run order;
    struct fencep_cancel order_cancel;
    struct fencep_vouch word;

    if (packet->type == FENCEP_LIST)
        send_devices(d, client, packet->id);
    else if (packet->type == FENCEP_RUN &&
             fencep_run_decode(packet->body, packet->body_size, &order) == 0)
        add_run(d, client, packet->id, &order);
    else if (packet->type == FENCEP_VOUCH &&
             fencep_vouch_decode(packet->body, packet->body_size, &word) == 0)
        vouch(d, client, &word);
    else if (packet->type == FENCEP_RUN_V1)
        refuse_old(client, packet->id);
    else if (packet->type == FENCEP_CANCEL &&
             fencep_cancel_decode(packet->body, packet->body_size, &order_cancel) == 0)
        cancel(d, client, order_cancel.id);
}

static void drop_client(struct fence_daemon *d, int slot)
{
    int fd = d->clients[slot];

    qb_loop_poll_del(d->loop, fd);
    close(fd);
    d->clients[slot] = -1;
    /* A half-done `off` is finished and verified, though nobody hears its result. One that has not
     * begun never does: who wanted it can't take it back any more when its node returns. */
    for (struct run **place = &d->runs; *place;) {
        struct run *run = *place;
        if (run->client == fd && run->step == RUN_WAITING) {
            *place = run->next;
            free(run);
            continue;
        }
        if (run->client == fd)
            run->client = -1;
        place = &run->next;
    }
}

/* All that this client has said, or as much as may wait; a client that ended is dropped. */
static void take_packets(struct fence_daemon *d, int slot)
{
    struct ha_packet packet;
    int fd = d->clients[slot];

    for (int i = 0; i < PACKETS_MAX; i++) {
        int rc = ha_sock_receive(fd, d->buffer, &packet);
        if (rc == -EAGAIN)
            return;
        if (rc <= 0) {
            drop_client(d, slot);
            return;
        }
        for (int f = 0; f < HA_SOCK_FDS_MAX; f++) {
            if (packet.fds[f] >= 0)
                close(packet.fds[f]);
        }
        on_packet(d, fd, &packet);
    }
}

static int32_t on_client(int32_t fd, int32_t events, void *data)
{
    (void)fd;
    (void)events;
    start_waiting(data);
    return 0;
}

static int32_t on_listener(int32_t fd, int32_t events, void *data)
{
    struct fence_daemon *d = data;
    struct ha_err err = {0};
    int client = ha_sock_accept(fd, d->peer_uid, &err);

    (void)events;
    if (client < 0)
        return 0;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        if (d->clients[i] < 0) {
            d->clients[i] = client;
            qb_loop_poll_add(d->loop, QB_LOOP_MED, client, POLLIN, d, on_client);
            return 0;
        }
    }
    close(client);
    return 0;
}

/* ---- schedule, reload, life
 * ---------------------------------------------------------------------- */

static void on_check(void *data)
{
    struct fence_daemon *d = data;
    uint64_t now = now_ms(CLOCK_MONOTONIC);

    for (uint32_t i = 0; i < d->devices.count; i++) {
        const struct device *device = &d->devices.list[i];
        if (device->monitor_ms == 0 || now < d->monitor_due_ms[i])
            continue;
        struct fencep_run order = {.action = FENCEP_MONITOR};
        snprintf(order.device, sizeof(order.device), "%s", device->d.name);
        d->monitor_due_ms[i] = now + device->monitor_ms;
        add_run(d, -1, MONITOR_ID, &order);
    }
    qb_loop_timer_add(d->loop, QB_LOOP_LOW, CHECK_EVERY_MS * QB_TIME_NS_IN_MSEC, d, on_check,
                      &d->check_timer);
}

static int32_t on_hangup(int32_t number, void *data)
{
    static struct devices fresh;
    struct fence_daemon *d = data;
    struct ha_err err = {0};

    (void)number;
    if (devices_load(d->conf_path, &fresh, &err) < 0) {
        qb_log(LOG_ERR, "fence.conf is not reread, the old devices stay: %s", err.text);
        return 0;
    }
    d->devices = fresh;
    memset(d->monitor_due_ms, 0, sizeof(d->monitor_due_ms));
    for (int i = 0; i < CLIENTS_MAX; i++) {
        if (d->clients[i] >= 0)
            send_devices(d, d->clients[i], 0);
    }
    qb_log(LOG_NOTICE, "fence.conf reread: %u devices", d->devices.count);
    return 0;
}

static int32_t on_child(int32_t number, void *data)
{
    (void)number;
    (void)data;
    agent_reap();
    return 0;
}

static int32_t on_terminate(int32_t number, void *data)
{
    struct fence_daemon *d = data;

    (void)number;
    qb_loop_stop(d->loop);
    return 0;
}

static int start(struct fence_daemon *d, const char *user, struct ha_err *err)
{
    const struct passwd *peer = getpwnam(user);
    qb_loop_signal_handle handle;

    d->peer_uid = peer ? peer->pw_uid : (uid_t)-1;
    for (int i = 0; i < CLIENTS_MAX; i++)
        d->clients[i] = -1;
    int rc = devices_load(d->conf_path, &d->devices, err);
    if (rc < 0)
        return rc;
    if (mkdir(HA_SOCK_DIR, 0755) < 0 && errno != EEXIST)
        return ha_err_set(err, errno, "mkdir %s: %s", HA_SOCK_DIR, strerror(errno));
    d->listener = ha_sock_listen(FENCEP_SOCKET, peer ? peer->pw_gid : (gid_t)-1, err);
    if (d->listener < 0)
        return d->listener;
    d->loop = qb_loop_create();
    ha_assert(d->loop);
    qb_loop_poll_add(d->loop, QB_LOOP_MED, d->listener, POLLIN, d, on_listener);
    qb_loop_signal_add(d->loop, QB_LOOP_HIGH, SIGCHLD, d, on_child, &handle);
    qb_loop_signal_add(d->loop, QB_LOOP_HIGH, SIGTERM, d, on_terminate, &handle);
    qb_loop_signal_add(d->loop, QB_LOOP_MED, SIGHUP, d, on_hangup, &handle);
    on_check(d);
    return 0;
}

static void start_log(void)
{
    qb_log_init("hamgr-fence", LOG_DAEMON, LOG_INFO);
    qb_log_ctl(QB_LOG_SYSLOG, QB_LOG_CONF_ENABLED, QB_FALSE);
    qb_log_filter_ctl(QB_LOG_STDERR, QB_LOG_FILTER_ADD, QB_LOG_FILTER_FILE, "*", LOG_INFO);
    qb_log_format_set(QB_LOG_STDERR, "%T [%p] %b");
    qb_log_ctl(QB_LOG_STDERR, QB_LOG_CONF_ENABLED, QB_TRUE);
}

int main(int argc, char **argv)
{
    static const struct option table[] = {{"config", required_argument, NULL, 'c'},
                                          {"agents", required_argument, NULL, 'a'},
                                          {"peer-user", required_argument, NULL, 'u'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    static struct fence_daemon daemon = {.agents_dir = "/usr/sbin", .conf_path = FENCE_CONF_PATH};
    struct ha_err err = {0};
    const char *user = "hamgr";
    int option;

    while ((option = getopt_long(argc, argv, "c:a:u:h", table, NULL)) != -1) {
        if (option == 'c')
            daemon.conf_path = optarg;
        else if (option == 'a')
            daemon.agents_dir = optarg;
        else if (option == 'u')
            user = optarg;
        else {
            fputs("Usage: hamgr-fence [--config FILE] [--agents DIR] [--peer-user NAME]\n"
                  "Runs this node's fence devices for hamgrd. See hamgrd(8).\n",
                  option == 'h' ? stdout : stderr);
            return option == 'h' ? 0 : 2;
        }
    }
    start_log();
    signal(SIGPIPE, SIG_IGN);
    if (start(&daemon, user, &err) < 0) {
        qb_log(LOG_CRIT, "hamgr-fence can't start: %s", err.text);
        return 1;
    }
    sd_notify(0, "READY=1");
    qb_loop_run(daemon.loop);
    return 0;
}
