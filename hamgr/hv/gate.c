/* SPDX-License-Identifier: Apache-2.0
 *
 * The lease watch: reads the keeper's page and the clocks, asks gate_fsm, pauses, looks, proves.
 * Everything a proof says was looked at after everything this process did before: one thread, one
 * order.
 */
#include "hamgr/hv/gate.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <qb/qblog.h>
#include <systemd/sd-daemon.h>

#include "hamgr/base/assert.h"
#include "hamgr/base/slept.h"
#include "hamgr/hv/gate_parts.h"

#define NS_PER_S UINT64_C(1000000000)
/* Listings within one round: the first finds what runs, the second sees it paused. A third for a
 * domain that appeared in between; who still runs then is looked at again in 50 ms. */
#define ROUND_LISTINGS 3u
/* The same sentence about a busy disk comes every 50 ms; people read one a second. */
#define TEXT_GAP_NS UINT64_C(1000000000)
/* Aborted saves and restores end within 5 s (worker.c), plain verbs in a second or two; only a
 * guest's own shutdown may take longer, and is done again by whoever wanted it. */
#define STOP_MS UINT64_C(8000)

/* ---- clocks and page ---------------------------------------------------------------------------
 */

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t gate_now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC_RAW);
}

/* A keeper that was restarted may have made a new page; an old mapping would show its last lease
 * for ever, which is harmless, but never the next one. */
static void follow_page(struct gate *gate)
{
    struct stat info;
    struct ha_err err = {0};

    bool exists = stat(gate->page_path, &info) == 0;
    if (gate->page && exists && info.st_dev == gate->page_dev && info.st_ino == gate->page_ino)
        return;
    keeper_page_unmap(gate->page);
    gate->page = exists ? keeper_page_map_at(gate->page_path, &err) : NULL;
    gate->page_dev = info.st_dev;
    gate->page_ino = info.st_ino;
}

/* The clock last: between it and what it is compared for lies nothing. */
static void look(struct gate *gate, struct gate_view *ret)
{
    *ret = (struct gate_view){.is_disarmed = gate->hello.is_disarmed,
                              .is_frozen = gate->hello.is_frozen};
    follow_page(gate);
    ret->has_page = gate->page != NULL;
    if (gate->page) {
        struct keeper_lease_copy copy = keeper_page_read(gate->page);
        ret->lease_end_ns = copy.lease_end_ns;
        ret->lease_ns = copy.lease_ms * UINT64_C(1000000);
        ret->is_quarantined = copy.is_quarantined;
        ret->is_armed = copy.is_armed;
    }
    ret->slept_ns = slept_ns(read_clock);
    ret->now_ns = gate_now_ns();
}

bool gate_may_run(struct gate *gate)
{
    struct gate_view view;

    look(gate, &view);
    return gate_fsm_may_run(&gate->fsm, &view);
}

/* ---- listings ----------------------------------------------------------------------------------
 */

int gate_list(struct gate *gate)
{
    gate->domain_count = 0;
    gate->is_incomplete = true;
    int count = gate->hv->ops->list(gate->hv, gate->domains, GATE_DOMAINS_MAX);
    if (count < 0)
        return count;
    if ((uint32_t)count >= GATE_DOMAINS_MAX)
        return -HA_E_LIMIT;
    gate->domain_count = (uint32_t)count;
    gate->is_incomplete = false;
    return count;
}

static struct hv_domain *find_labelled(struct gate *gate, struct ha_uuid guest, uint64_t epoch,
                                       bool is_any_generation)
{
    for (uint32_t i = 0; i < gate->domain_count; i++) {
        struct hv_domain *d = &gate->domains[i];
        if (d->is_labelled && d->label.epoch == epoch && ha_uuid_equal(d->label.guest, guest) &&
            (is_any_generation || d->label.generation == gate->hello.generation) &&
            ha_uuid_equal(d->label.cluster_id, gate->hello.cluster_id))
            return d;
    }
    return NULL;
}

struct hv_domain *gate_find(struct gate *gate, struct ha_uuid guest, uint64_t epoch)
{
    return find_labelled(gate, guest, epoch, false);
}

struct hv_domain *gate_find_any(struct gate *gate, struct ha_uuid guest, uint64_t epoch)
{
    struct hv_domain *ours = find_labelled(gate, guest, epoch, false);

    return ours ? ours : find_labelled(gate, guest, epoch, true);
}

struct hv_domain *gate_know(struct gate *gate, struct ha_uuid guest, uint64_t epoch,
                            bool *ret_is_listed)
{
    struct hv_domain *d = gate_find(gate, guest, epoch);

    *ret_is_listed = true;
    if (d)
        return d;
    *ret_is_listed = gate_list(gate) >= 0;
    return *ret_is_listed ? gate_find(gate, guest, epoch) : NULL;
}

void gate_note_built(struct gate *gate, const struct hv_label *label, const char *name,
                     const struct hvp_done *done)
{
    if (done->outcome != HV_OK || done->value == 0 || done->value > UINT32_MAX ||
        gate->is_incomplete || gate->domain_count + 1 >= GATE_DOMAINS_MAX) {
        gate->is_incomplete = true;
        return;
    }
    if (gate_find(gate, label->guest, label->epoch))
        return; /* a listing has seen it already */
    struct hv_domain *d = &gate->domains[gate->domain_count++];
    *d = (struct hv_domain){
        .domid = (uint32_t)done->value, .is_labelled = true, .label = *label, .state = HV_PAUSED};
    snprintf(d->name, sizeof(d->name), "%s", name);
}

/* ---- rounds ------------------------------------------------------------------------------------
 */

static bool is_runnable(const struct hv_domain *d)
{
    switch ((enum hv_domain_state)d->state) {
    case HV_BUILDING:
    case HV_PAUSED:
    case HV_SUSPENDED:
    case HV_POWEROFF:
    case HV_REBOOT:
    case HV_CRASHED:
        return false;
    case HV_RUNNING:
        break;
    }
    return true; /* running, or a state nobody taught us */
}

/* Pauses what the last listing shows runnable; returns how many that were. */
static uint32_t pause_runnable(struct gate *gate)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < gate->domain_count; i++) {
        struct hv_domain *d = &gate->domains[i];
        struct ha_err err = {0};
        if (!is_runnable(d))
            continue;
        count++;
        if (gate->hv->ops->pause(gate->hv, d->domid, &err) != HV_OK)
            snprintf(gate->text, sizeof(gate->text), "%s can't be paused: %.160s",
                     d->name[0] ? d->name : "a domain", err.text);
    }
    return count;
}

/* A domain being built has not run and has no I/O; all others are asked, ended ones too. */
static uint32_t count_unquiet(struct gate *gate)
{
    uint32_t count = 0;
    char why[HA_TEXT_MAX];

    gate->paused_count = 0;
    for (uint32_t i = 0; i < gate->domain_count; i++) {
        struct hv_domain *d = &gate->domains[i];
        gate->paused_count += d->state == HV_PAUSED || d->state == HV_SUSPENDED;
        why[0] = '\0';
        if (d->state == HV_BUILDING || gate->hv->ops->quiet(gate->hv, d->domid, why) == HV_QUIET)
            continue;
        if (count++ == 0)
            snprintf(gate->text, sizeof(gate->text), "%s: %.180s",
                     d->name[0] ? d->name : "a domain", why);
    }
    return count;
}

/* Pauses every domain, labelled or not, until a fresh listing shows none runnable; then asks each
 * for outstanding I/O. */
static void look_at_all(struct gate *gate, struct gate_round *ret)
{
    *ret = (struct gate_round){.not_paused = 1};
    gate->text[0] = '\0';
    for (unsigned i = 0; i < ROUND_LISTINGS && ret->not_paused > 0; i++) {
        ret->taken_ns = gate_now_ns();
        int rc = gate_list(gate);
        ret->is_listed = rc >= 0;
        if (!ret->is_listed) {
            snprintf(gate->text, sizeof(gate->text), "the domains can't be listed: %s",
                     ha_err_text(rc));
            return;
        }
        ret->not_paused = pause_runnable(gate);
    }
    if (ret->not_paused == 0)
        ret->not_quiet = count_unquiet(gate);
    else if (gate->text[0] == '\0')
        snprintf(gate->text, sizeof(gate->text), "%u domains still run", ret->not_paused);
}

static void connect_keeper(struct gate *gate);

static void disconnect_keeper(struct gate *gate)
{
    if (gate->keeper_fd < 0)
        return;
    qb_loop_poll_del(gate->loop, gate->keeper_fd);
    close(gate->keeper_fd);
    gate->keeper_fd = -1;
}

static void send_proof(struct gate *gate, uint64_t taken_ns)
{
    uint8_t body[16];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    keeper_proof_encode(&w, &(struct keeper_proof){.taken_ns = taken_ns});
    connect_keeper(gate);
    if (gate->keeper_fd < 0)
        return;
    int rc = ha_sock_send(gate->keeper_fd, KEEPER_PROOF, 0, body, w.position, NULL, 0);
    if (rc < 0 && rc != -EAGAIN)
        disconnect_keeper(gate);
}

/* Which sentence is told is for people: on every change of the gate, else once a second. */
static void tell(struct gate *gate, bool is_changed)
{
    uint64_t now_ns = gate_now_ns();
    bool is_new_text = strcmp(gate->text, gate->text_told) != 0;

    if (!is_changed && (!is_new_text || now_ns < gate->text_told_ns + TEXT_GAP_NS))
        return;
    gate->text_told_ns = now_ns;
    memcpy(gate->text_told, gate->text, sizeof(gate->text_told));
    gate_tell_gate(gate);
}

static const char *state_name(const struct gate *gate)
{
    static const char *const names[] = {"open", "closed, pausing", "closed, quarantined"};

    return names[gate->fsm.state];
}

static void do_round(struct gate *gate, struct gate_order *order)
{
    struct gate_round round;

    look_at_all(gate, &round);
    bool was_closed_now = order->is_changed;
    bool is_proven = gate_fsm_round(&gate->fsm, &round, gate_now_ns(), order);
    if (is_proven)
        send_proof(gate, round.taken_ns);
    order->is_changed |= was_closed_now;
    if (order->is_changed)
        qb_log(LOG_NOTICE, "gate: %s | domains=%u paused=%u not_quiet=%u %s", state_name(gate),
               gate->domain_count, gate->paused_count, round.not_quiet, gate->text);
}

/* ---- the timer ---------------------------------------------------------------------------------
 */

static void set_timer(struct gate *gate, uint64_t wake_ns)
{
    uint64_t now_ns = gate_now_ns();
    uint64_t delay_ns = wake_ns > now_ns ? wake_ns - now_ns : 1;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(delay_ns / NS_PER_S),
                                           .tv_nsec = (long)(delay_ns % NS_PER_S)}};

    /* timerfd knows no RAW clock. MONOTONIC may run up to 8 % off; waking early costs one more
     * turn, and late is at most 20 ms of the P this may take. */
    timerfd_settime(gate->timer_fd, 0, &when, NULL);
}

/* Drivers without events are polled: a guest's end is seen within P. */
static void poll_listing(struct gate *gate)
{
    struct ha_digest digest = {0, 0};

    if (gate->event_fd >= 0 || gate_list(gate) < 0)
        return;
    for (uint32_t i = 0; i < gate->domain_count; i++) {
        uint32_t pair[2] = {gate->domains[i].domid, gate->domains[i].state};
        digest = ha_digest_bytes(digest, pair, sizeof(pair));
    }
    if (digest.low != gate->listing_digest)
        gate_tell_changed(gate);
    gate->listing_digest = digest.low;
}

void gate_tick(struct gate *gate)
{
    struct gate_view view;
    struct gate_order order;
    bool was_armed = gate->fsm.was_armed;
    int64_t known_ns = gate->fsm.slept_ns;

    look(gate, &view);
    gate_fsm_tick(&gate->fsm, &view, &order);
    if (order.is_changed && gate->fsm.state == GATE_OPEN) {
        gate->text[0] = '\0';
        gate->paused_count = 0;
        qb_log(LOG_NOTICE, "gate: %s", state_name(gate));
    }
    if (order.is_round_due)
        do_round(gate, &order);
    if (order.is_changed || gate->fsm.state != GATE_OPEN)
        tell(gate, order.is_changed);
    set_timer(gate, order.wake_ns);
    if (was_armed != gate->fsm.was_armed || known_ns != gate->fsm.slept_ns)
        gate_state_save(gate);
}

static int32_t on_timer(int32_t fd, int32_t events, void *data)
{
    struct gate *gate = data;
    uint64_t count;

    (void)events;
    if (read(fd, &count, sizeof(count)) < 0 && errno == EAGAIN)
        return 0;
    gate_tick(gate);
    connect_keeper(gate);
    poll_listing(gate);
    (void)sd_notify(0, "WATCHDOG=1");
    return 0;
}

void gate_describe(const struct gate *gate, struct hvp_gate *ret)
{
    *ret = (struct hvp_gate){.is_open = gate->fsm.state == GATE_OPEN,
                             .is_quarantined = gate->fsm.state == GATE_QUARANTINED,
                             .paused_count = gate->paused_count};
    memcpy(ret->text, gate->text, sizeof(ret->text));
}

/* ---- the keeper --------------------------------------------------------------------------------
 */

/* The keeper says when its state changes: the gate opens at once then, not P later. */
static int32_t on_keeper(int32_t fd, int32_t events, void *data)
{
    static uint8_t buffer[HA_IPC_MAX];
    struct gate *gate = data;
    struct ha_packet packet;
    int rc;

    (void)events;
    for (unsigned i = 0; i < 16 && (rc = ha_sock_receive(fd, buffer, &packet)) == 1; i++)
        for (unsigned n = 0; n < HA_SOCK_FDS_MAX; n++)
            if (packet.fds[n] >= 0)
                close(packet.fds[n]);
    if (rc <= 0 && rc != -EAGAIN)
        disconnect_keeper(gate);
    gate_tick(gate);
    return 0;
}

static void connect_keeper(struct gate *gate)
{
    char path[GATE_PATH_MAX];

    if (gate->keeper_fd >= 0)
        return;
    snprintf(path, sizeof(path), "%s/keeper.sock", gate->options.dir);
    gate->keeper_fd = ha_sock_connect(path, NULL);
    if (gate->keeper_fd < 0)
        return;
    if (qb_loop_poll_add(gate->loop, QB_LOOP_HIGH, gate->keeper_fd, POLLIN, gate, on_keeper) < 0) {
        close(gate->keeper_fd);
        gate->keeper_fd = -1;
    }
}

/* ---- life --------------------------------------------------------------------------------------
 */

static int32_t on_driver_event(int32_t fd, int32_t events, void *data)
{
    struct gate *gate = data;

    (void)fd;
    (void)events;
    gate->hv->ops->event_clear(gate->hv);
    gate_tell_changed(gate);
    return 0;
}

static int open_watch(struct gate *gate, struct ha_err *err)
{
    gate->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (gate->timer_fd < 0 ||
        qb_loop_poll_add(gate->loop, QB_LOOP_HIGH, gate->timer_fd, POLLIN, gate, on_timer) < 0)
        return ha_err_set(err, errno, "timer: %s", strerror(errno));
    gate->event_fd = gate->hv->ops->event_fd(gate->hv);
    if (gate->event_fd >= 0 && qb_loop_poll_add(gate->loop, QB_LOOP_LOW, gate->event_fd, POLLIN,
                                                gate, on_driver_event) < 0)
        return ha_err_set(err, errno, "driver events: %s", strerror(errno));
    return 0;
}

static int open_parts(struct gate *gate, worker_open_fn open_driver, void *open_user,
                      struct ha_err *err)
{
    static const struct worker_callbacks callbacks = {
        .progress = gate_job_progress, .done = gate_job_done, .idle = gate_job_idle};

    if (strlen(gate->options.dir) > GATE_PATH_MAX / 2)
        return ha_err_set(err, ENAMETOOLONG, "%s is too long", gate->options.dir);
    snprintf(gate->page_path, sizeof(gate->page_path), "%s/lease", gate->options.dir);
    if (gate->hv->ops->caps(gate->hv, &gate->caps) < 0)
        return ha_err_set(err, HA_E_UNKNOWN, "the driver does not tell its capabilities");
    gate->domains = calloc(GATE_DOMAINS_MAX, sizeof(*gate->domains));
    gate->pool = worker_pool_new(gate->loop, gate->options.worker_max, gate->options.verb_max_ms,
                                 open_driver, open_user, &callbacks, gate);
    if (!gate->domains || !gate->pool)
        return ha_err_set(err, ENOMEM, "no memory");
    int rc = open_watch(gate, err);
    return rc < 0 ? rc : gate_serve_open(gate, err);
}

struct gate *gate_open(qb_loop_t *loop, struct hv *hv, worker_open_fn open_driver, void *open_user,
                       const struct gate_options *options, struct ha_err *err)
{
    struct gate *gate = calloc(1, sizeof(*gate));

    if (!gate) {
        ha_err_set(err, ENOMEM, "no memory");
        return NULL;
    }
    *gate = (struct gate){.loop = loop,
                          .hv = hv,
                          .options = *options,
                          .timer_fd = -1,
                          .keeper_fd = -1,
                          .event_fd = -1,
                          .changed_fd = -1,
                          .listen_fd = -1};
    gate->boot_id = gate_boot_id(options->ident_dir);
    gate->hw_id = gate_hw_id(options->ident_dir);
    if (open_parts(gate, open_driver, open_user, err) < 0) {
        gate_close(gate);
        return NULL;
    }
    gate_state_load(gate);
    gate_tick(
        gate); /* a lease that ended while nobody watched is acted upon before anything else */
    gate_clean_up(gate);
    return gate;
}

static void close_watched(struct gate *gate, int fd)
{
    if (fd < 0)
        return;
    qb_loop_poll_del(gate->loop, fd);
    close(fd);
}

static void on_stop_timeout(void *data)
{
    struct gate *gate = data;

    qb_log(LOG_WARNING, "gate: workers did not end in time, killed");
    gate->options.stopped(gate->options.user);
}

void gate_stop(struct gate *gate)
{
    qb_loop_timer_handle timer;

    if (gate->is_stopping)
        return;
    gate->is_stopping = true;
    gate_serve_close(gate);
    if (!worker_is_busy(gate->pool) ||
        qb_loop_timer_add(gate->loop, QB_LOOP_LOW, STOP_MS * QB_TIME_NS_IN_MSEC, gate,
                          on_stop_timeout, &timer) < 0)
        gate->options.stopped(gate->options.user);
}

void gate_close(struct gate *gate)
{
    gate_serve_close(gate);
    worker_pool_free(gate->pool);
    disconnect_keeper(gate);
    close_watched(gate, gate->timer_fd);
    if (gate->event_fd >= 0)
        qb_loop_poll_del(gate->loop, gate->event_fd);
    keeper_page_unmap(gate->page);
    free(gate->domains);
    free(gate);
}
