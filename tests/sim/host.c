/* SPDX-License-Identifier: Apache-2.0
 *
 * A node's hypervisor: domains, the gate's verbs on them, and the workers that take their time,
 * fail, hang, or leave it open what they did. In place of hamgr/hv/worker.c and of a driver.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/fds.h"
#include "tests/sim/sim.h"

#define QUEUE_MAX    256u
#define DRAIN_MAX_NS (10 * NS_S)
/* D: what a dead host has sent to its storage may be written that much later. */
#define IN_FLIGHT_MAX_NS (2 * NS_S)

struct worker_pool {
    struct sim_node *node;
    uint32_t limit, alive;
    const struct worker_callbacks *callbacks;
    void *user;
    struct worker_job *first;
};

/* How the one verb at hand goes. */
enum fate { FATE_WELL = 0, FATE_FAILS, FATE_HANGS, FATE_UNKNOWN };

/* ---- domains -----------------------------------------------------------------------------------
 */

bool sim_is_runnable(const struct sim_domain *domain)
{
    return domain->is_used && (domain->d.state == HV_RUNNING || domain->is_secret);
}

struct sim_domain *sim_domain_by(struct sim_node *node, uint32_t domid)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        if (node->domains[i].is_used && node->domains[i].d.domid == domid)
            return &node->domains[i];
    }
    return NULL;
}

static struct sim_domain *add_domain(struct sim_node *node, const struct worker_verb *verb)
{
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        struct sim_domain *domain = &node->domains[i];
        if (domain->is_used)
            continue;
        *domain = (struct sim_domain){.is_used = true};
        domain->d = (struct hv_domain){.domid = ++node->domid_high,
                                       .is_labelled = true,
                                       .label = verb->label,
                                       .state = HV_BUILDING,
                                       .mem_kib = verb->mem_kib};
        memcpy(domain->d.name, verb->name, sizeof(domain->d.name));
        return domain;
    }
    return NULL;
}

static uint64_t mem_used_kib(const struct sim_node *node)
{
    uint64_t used = 0;

    for (uint32_t i = 0; i < SIM_DOMAINS; i++)
        used += node->domains[i].is_used ? node->domains[i].d.mem_kib : 0;
    return used;
}

/* What it wrote before it stopped is on its way: usually some milliseconds, longer when the
 * storage hangs. */
static void stop_running(struct sim_node *node, struct sim_domain *domain, uint8_t state)
{
    if (domain->d.state == HV_RUNNING) {
        uint64_t until = sim.now + sim_below(60) * NS_MS;
        domain->io_until = until > node->storage_stuck_until ? until : node->storage_stuck_until;
    }
    domain->d.state = state;
}

void sim_guest_ends(struct sim_node *node, struct sim_domain *domain, uint8_t state)
{
    stop_running(node, domain, state);
    sim_gate_changed(node);
}

void sim_host_power_lost(struct sim_node *node)
{
    memset(node->in_flight, 0, sizeof(node->in_flight));
    for (uint32_t i = 0; i < SIM_DOMAINS; i++) {
        struct sim_domain *domain = &node->domains[i];
        if (!domain->is_used)
            continue;
        int guest = sim_guest_index(domain->d.label.guest);
        if (guest >= 0 && (domain->d.state == HV_RUNNING || domain->io_until > sim.now))
            node->in_flight[guest] = 1;
        domain->is_used = false;
    }
    node->died = sim.now;
    node->in_flight_ns = sim_below(IN_FLIGHT_MAX_NS);
}

/* ---- gate verbs --------------------------------------------------------------------------------
 */

static struct sim_node *node_of(struct hv *hv)
{
    return (struct sim_node *)(void *)((char *)hv - offsetof(struct sim_node, hv));
}

static int do_caps(struct hv *hv, struct hv_caps *ret_caps)
{
    *ret_caps = (struct hv_caps){.driver = "embedded",
                                 .version = "sim",
                                 .mem_kib = node_of(hv)->mem_kib,
                                 .has_live_migration = true};
    return 0;
}

static int do_list(struct hv *hv, struct hv_domain *ret_domains, uint32_t capacity)
{
    const struct sim_node *node = node_of(hv);
    int count = 0;

    for (uint32_t i = 0; i < SIM_DOMAINS && (uint32_t)count < capacity; i++) {
        if (node->domains[i].is_used &&
            !(node->domains[i].is_secret && sim_has_plant("destroy-leaves-it")))
            ret_domains[count++] = node->domains[i].d;
    }
    return count;
}

static enum hv_outcome unknown_run(struct ha_err *err)
{
    ha_err_set(err, HA_E_UNKNOWN, "nobody knows whether it runs");
    return HV_UNKNOWN;
}

static enum hv_outcome do_run(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct sim_node *node = node_of(hv);
    struct sim_domain *domain = sim_domain_by(node, domid);

    if (!domain || (domain->d.state != HV_PAUSED && domain->d.state != HV_RUNNING)) {
        ha_err_set(err, HA_E_REFUSED, "the domain can't run");
        return HV_FAILED;
    }
    if (sim_has_plant("nothing-starts")) {
        ha_err_set(err, HA_E_REFUSED, "the domain can't run");
        return HV_FAILED;
    }
    bool is_corner = sim_corner_is_on() && domain->d.state == HV_PAUSED;
    if (is_corner && sim_chance(sim.verb_fail / 2)) {
        ha_err_set(err, HA_E_REFUSED, "it can't be run now");
        return HV_FAILED;
    }
    enum sim_run_fate fate =
        domain->d.state == HV_PAUSED ? sim_corner_run_fate(node, domain) : SIM_RUN_WELL;
    if (fate == SIM_RUN_FAILS) {
        ha_err_set(err, HA_E_REFUSED, "it can't be run now");
        return HV_FAILED;
    }
    bool is_unknown = is_corner && sim_chance(sim.verb_unknown / 2);
    if ((is_unknown && sim_chance(500)) || fate == SIM_RUN_UNKNOWN)
        return unknown_run(err);
    is_unknown = is_unknown || fate == SIM_RUN_UNKNOWN_DONE;
    if (domain->d.state == HV_PAUSED) {
        sim_check_run(node, domain);
        domain->d.state = HV_RUNNING;
        domain->is_saved = domain->is_secret = false;
        domain->has_run = true;
        domain->ran_ns = sim_raw_ns(node);
        domain->is_unleased = node->gate_hello.is_disarmed || node->gate_hello.is_frozen;
        sim_trace(node->id, "hypervisor: %s epoch %llu runs", domain->d.name,
                  (unsigned long long)domain->d.label.epoch);
    }
    return is_unknown ? unknown_run(err) : HV_OK;
}

static enum hv_outcome do_pause(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct sim_node *node = node_of(hv);
    struct sim_domain *domain = sim_domain_by(node, domid);

    if (domain && !sim_slept_lately(node) && sim_chance(sim.verb_fail / 2)) {
        ha_err_set(err, HA_E_UNKNOWN, "it can't be paused now");
        return HV_FAILED;
    }
    if (domain && domain->d.state == HV_RUNNING) {
        sim_check_pause(node, domain);
        stop_running(node, domain, HV_PAUSED);
        domain->is_secret = sim_has_plant("pause-lies");
        sim_trace(node->id, "hypervisor: %s is paused", domain->d.name);
    }
    return HV_OK;
}

static enum hv_quiet do_quiet(struct hv *hv, uint32_t domid, char ret_why[HA_TEXT_MAX])
{
    const struct sim_domain *domain = sim_domain_by(node_of(hv), domid);

    if (!domain || domain->io_until <= sim.now || sim_has_plant("disk-never-asked"))
        return HV_QUIET;
    snprintf(ret_why, HA_TEXT_MAX, "writes are outstanding");
    return HV_BUSY;
}

static enum hv_outcome do_throttle(struct hv *hv, uint32_t domid, uint32_t percent,
                                   struct ha_err *err)
{
    (void)hv;
    (void)domid;
    (void)percent;
    (void)err;
    return HV_OK;
}

static int do_event_fd(struct hv *hv)
{
    (void)hv;
    return FD_GATE_EVENT;
}

static void do_event_clear(struct hv *hv)
{
    (void)hv;
}

static enum hv_outcome do_reserve(struct hv *hv, const struct hv_label *label, uint64_t mem_kib,
                                  struct ha_err *err)
{
    (void)hv;
    (void)label;
    (void)mem_kib;
    (void)err;
    return HV_OK;
}

static void do_release(struct hv *hv, const struct hv_label *label)
{
    (void)hv;
    (void)label;
}

void sim_host_open(struct sim_node *node)
{
    static const struct hv_ops ops = {.name = "sim",
                                      .caps = do_caps,
                                      .list = do_list,
                                      .run = do_run,
                                      .pause = do_pause,
                                      .quiet = do_quiet,
                                      .throttle = do_throttle,
                                      .event_fd = do_event_fd,
                                      .event_clear = do_event_clear,
                                      .reserve = do_reserve,
                                      .release = do_release};
    node->hv.ops = &ops;
}

/* ---- worker verbs: what they do to the host ----------------------------------------------------
 */

/* The effect of a verb that takes time, when that is over. */
static enum hv_outcome take_effect(struct sim_node *node, const struct worker_verb *verb,
                                   struct hvp_done *done)
{
    struct sim_domain *domain = sim_domain_by(node, (uint32_t)done->value);

    switch (verb->type) {
    case HVP_CREATE:
        if (!domain)
            return HV_FAILED;
        domain->d.state = HV_PAUSED;
        break;
    case HVP_SHUTDOWN:
    case HVP_DESTROY:
        if (domain && domain->io_until > sim.now) /* gone only when its I/O has ended */
            return HV_UNKNOWN;
        if (domain)
            sim_trace(node->id, "hypervisor: %s epoch %llu is gone", domain->d.name,
                      (unsigned long long)domain->d.label.epoch);
        if (domain && sim_has_plant("destroy-leaves-it") && domain->has_run)
            domain->is_secret = true;
        else if (domain)
            domain->is_used = false;
        break;
    case HVP_RESUME_PREPARE:
        if (domain && domain->d.state == HV_SUSPENDED)
            domain->d.state = HV_PAUSED;
        break;
    default:
        break;
    }
    return HV_OK;
}

static void remove_building(struct sim_node *node, uint64_t domid)
{
    struct sim_domain *domain = sim_domain_by(node, (uint32_t)domid);

    if (domain && domain->d.state == HV_BUILDING)
        domain->is_used = false;
}

/* ---- jobs --------------------------------------------------------------------------------------
 * Of the public struct, `moved` holds the domid at work and `timer` the event of the job's end. */

static void start_next(struct worker_pool *pool);

static void drop(struct worker_job *job)
{
    struct worker_job **place = &job->pool->first;

    while (*place != job)
        place = &(*place)->next;
    *place = job->next;
    sim_cancel(job->timer);
    free(job->verb.definition);
    free(job);
}

static void on_built(void *data, uint64_t arg)
{
    (void)arg;
    sim_faults_built(data);
}

static void end_job(struct worker_job *job, enum hv_outcome outcome, const char *text)
{
    struct worker_pool *pool = job->pool;
    struct hvp_done done = {.outcome = (uint8_t)outcome, .value = job->moved};

    snprintf(done.text, sizeof(done.text), "%s", outcome == HV_OK ? "" : text);
    if (job->stage == WORKER_RUNNING)
        pool->alive--;
    if (job->verb.fd >= 0)
        sim_stream_native_closed(pool->node, job->verb.fd);
    job->stage = WORKER_REPORTED;
    sim_mix(job->verb.type * 8u + outcome);
    pool->callbacks->done(pool->user, job, &done);
    if (job->verb.type == HVP_CREATE && outcome == HV_OK)
        sim_after(0, NULL, on_built, pool->node, 0);
    drop(job);
    start_next(pool);
    pool->callbacks->idle(pool->user);
}

static enum fate draw_fate(const struct worker_verb *verb)
{
    if (verb->type == WORKER_LOG_DIRTY_OFF)
        return FATE_WELL;
    if (sim_chance(sim.verb_fail) || (sim_script_is_on() && sim_script_fails(verb)))
        return FATE_FAILS;
    if (sim_chance(sim.verb_hang))
        return FATE_HANGS;
    return sim_chance(sim.verb_unknown) ? FATE_UNKNOWN : FATE_WELL;
}

static void on_plain_end(void *data, uint64_t fate)
{
    struct worker_job *job = data;
    struct hvp_done done = {.value = job->moved};
    enum hv_outcome outcome = HV_OK;

    job->timer = 0;
    if (fate == FATE_FAILS) {
        if (job->verb.type == HVP_CREATE)
            remove_building(job->pool->node, job->moved);
        end_job(job, HV_FAILED, "the hypervisor refuses");
        return;
    }
    if (fate == FATE_WELL || sim_chance(500))
        outcome = take_effect(job->pool->node, &job->verb, &done);
    if (fate != FATE_WELL)
        outcome = HV_UNKNOWN;
    end_job(job, outcome, fate == FATE_HANGS ? "hung and was killed" : "outcome unknown");
}

static uint64_t plain_time_ns(struct sim_node *node, const struct worker_verb *verb)
{
    const struct sim_domain *domain = sim_domain_by(node, verb->domid);
    uint64_t ns = sim_between(20, 150) * NS_MS;

    if (verb->type == HVP_CREATE)
        ns = sim_between(300, 1500) * NS_MS + sim_corner_build_ns(&verb->label);
    if (verb->type == HVP_SHUTDOWN && verb->timeout_ms > 0 && domain &&
        domain->d.state == HV_RUNNING)
        ns += sim_chance(100) ? verb->timeout_ms * NS_MS : sim_between(200, 3000) * NS_MS;
    return sim_chance(sim.verb_slow) ? ns * sim_between(5, 20) : ns;
}

/* A guest stops writing when it is told to end; its domain goes when the last write is down. */
static void begin_removal(struct sim_node *node, struct worker_job *job)
{
    struct sim_domain *domain = sim_domain_by(node, job->verb.domid);

    if (domain && job->verb.type == HVP_DESTROY)
        stop_running(node, domain, HV_POWEROFF);
}

static void on_shutdown_half(void *data, uint64_t arg)
{
    struct worker_job *job = data;
    struct sim_domain *domain = sim_domain_by(job->pool->node, job->verb.domid);

    if (domain)
        stop_running(job->pool->node, domain, HV_POWEROFF);
    job->timer = sim_after(100 * NS_MS, sim.running, on_plain_end, job, arg);
}

static void start_plain(struct worker_job *job)
{
    struct sim_node *node = job->pool->node;
    enum fate fate = draw_fate(&job->verb);
    uint64_t ns = plain_time_ns(node, &job->verb);

    job->moved = job->verb.domid;
    if (job->verb.type == HVP_CREATE) {
        bool has_room = mem_used_kib(node) + job->verb.mem_kib <= node->mem_kib;
        struct sim_domain *domain = has_room ? add_domain(node, &job->verb) : NULL;
        job->moved = domain ? domain->d.domid : 0;
        fate = domain ? fate : FATE_FAILS;
    }
    uint64_t limit_ns = worker_timeout_ms(&job->verb) * NS_MS;
    if (fate == FATE_HANGS || ns >= limit_ns) { /* whoever is that slow is killed */
        fate = FATE_HANGS;
        ns = limit_ns;
    }
    if (fate == FATE_WELL)
        begin_removal(node, job);
    bool is_shutdown = job->verb.type == HVP_SHUTDOWN && fate == FATE_WELL;
    job->timer =
        sim_after(ns, sim.running, is_shutdown ? on_shutdown_half : on_plain_end, job, fate);
}

/* ---- saves and restores ------------------------------------------------------------------------
 */

static void report(struct worker_job *job, uint8_t phase, uint64_t bytes)
{
    struct hv_progress progress = {.round = phase == HV_LIVE ? 0 : 1,
                                   .pages_total = job->verb.mem_kib / 4,
                                   .pages_sent = bytes / 4096,
                                   .bytes = bytes,
                                   .phase = phase};

    job->pool->callbacks->progress(job->pool->user, job, &progress);
}

/* Save: 1 live, 2 suspended, 3 fed. Restore: 1 receiving. Kept in pid_fd. */
#define HUNG 9
static void start_stream(struct worker_job *job)
{
    struct sim_node *node = job->pool->node;

    job->pid_fd = 1;
    job->moved = job->verb.domid;
    if (job->verb.type == HVP_RESTORE) {
        bool has_room = mem_used_kib(node) + job->verb.mem_kib <= node->mem_kib;
        struct sim_domain *domain = has_room ? add_domain(node, &job->verb) : NULL;
        job->moved = domain ? domain->d.domid : 0;
        if (!domain) {
            job->timer = sim_after(NS_MS, sim.running, on_plain_end, job, FATE_FAILS);
            return;
        }
    }
    if ((sim_script_is_on() && sim_script_fails(&job->verb)) ||
        !sim_stream_feed(node, job->verb.fd, job->verb.mem_kib * 1024))
        job->timer = sim_after(NS_MS, sim.running, on_plain_end, job, FATE_FAILS);
}

static void fail_stream(struct worker_job *job, const char *why)
{
    struct sim_domain *domain = sim_domain_by(job->pool->node, (uint32_t)job->moved);

    if (job->verb.type == HVP_RESTORE) {
        if (sim_chance(sim.verb_unknown)) {
            end_job(job, HV_UNKNOWN, why);
            return;
        }
        remove_building(job->pool->node, job->moved);
    } else if (job->pid_fd == 3 || sim_chance(sim.verb_unknown)) {
        end_job(job, HV_UNKNOWN, why);
        return;
    } else if (domain && domain->d.state == HV_SUSPENDED) {
        domain->d.state = HV_PAUSED; /* as before, but for the gate to run */
        if (sim.options.is_told)
            sim_events_look(); /* which the gate may do at once */
    }
    end_job(job, HV_FAILED, why);
}

static void on_drained(void *data, uint64_t since)
{
    struct worker_job *job = data;
    struct sim_domain *domain = sim_domain_by(job->pool->node, (uint32_t)job->moved);

    job->timer = 0;
    if (!domain || domain->d.state != HV_SUSPENDED) {
        end_job(job, HV_UNKNOWN, "the domain changed under its save");
    } else if (domain->io_until <= sim.now || sim_has_plant("handover-undrained")) {
        const struct ha_guest *guest = ha_state_guest(sim_truth(), domain->d.label.guest);
        domain->is_saved = true;
        domain->saved_for = guest ? guest->ticket.id : 0;
        sim_corner_drained(job->pool->node, domain->d.label.guest);
        end_job(job, HV_OK, "");
    } else if (sim.now - since > DRAIN_MAX_NS) {
        end_job(job, HV_UNKNOWN, "suspended, but its I/O does not end");
    } else {
        job->timer = sim_after(20 * NS_MS, sim.running, on_drained, job, since);
    }
}

static void on_last_bytes(void *data, uint64_t arg)
{
    struct worker_job *job = data;

    (void)arg;
    job->pid_fd = 3;
    sim_stream_fed(job->pool->node, job->verb.fd);
    job->timer = sim_after(0, sim.running, on_drained, job, sim.now);
}

static void suspend(struct worker_job *job, uint64_t bytes)
{
    struct sim_domain *domain = sim_domain_by(job->pool->node, (uint32_t)job->moved);

    if (!domain || (domain->d.state != HV_RUNNING && domain->d.state != HV_PAUSED)) {
        fail_stream(job, "the guest has ended");
        return;
    }
    stop_running(job->pool->node, domain, HV_SUSPENDED);
    job->pid_fd = 2;
    report(job, HV_STOPPED, bytes);
    job->timer = sim_after(sim_between(20, 250) * NS_MS, sim.running, on_last_bytes, job, 0);
}

static void on_restored(void *data, uint64_t arg)
{
    struct worker_job *job = data;
    struct sim_domain *domain = sim_domain_by(job->pool->node, (uint32_t)job->moved);

    (void)arg;
    job->timer = 0;
    if (!domain || domain->d.state != HV_BUILDING) {
        end_job(job, HV_UNKNOWN, "the domain is not there any more");
        return;
    }
    domain->d.state = HV_PAUSED;
    if (sim_chance(sim.verb_unknown))
        end_job(job, HV_UNKNOWN, "outcome unknown");
    else
        end_job(job, HV_OK, "");
}

static struct worker_job *job_of_fd(struct sim_node *node, int fd)
{
    struct worker_job *job = node->workers && sim_is_up(node, SIM_HV) ? node->workers->first : NULL;

    while (job && (job->verb.fd != fd || job->stage != WORKER_RUNNING))
        job = job->next;
    return job;
}

struct news {
    int fd;
    uint8_t what; /* 1 moved, 2 all there, 3 failed */
    uint64_t bytes, total;
};

static void on_news(void *data, uint64_t arg)
{
    struct news *news = data;
    struct worker_job *job = job_of_fd(sim.running->node, news->fd);

    (void)arg;
    if (!job || job->pid_fd == HUNG || job->is_aborted)
        return; /* what was aborted ends by that alone */
    if (news->what == 3) {
        if (job->timer && job->verb.type == HVP_RESTORE)
            return; /* it has everything already */
        sim_cancel(job->timer);
        job->timer = 0;
        fail_stream(job, "the stream ended early");
    } else if (news->what == 2) {
        if (job->verb.type == HVP_RESTORE && !job->timer)
            job->timer = sim_after(sim_between(20, 200) * NS_MS, sim.running, on_restored, job, 0);
    } else {
        report(job, HV_LIVE, news->bytes);
        if (job->verb.type == HVP_SAVE && job->pid_fd == 1 && news->bytes >= news->total)
            suspend(job, news->bytes);
    }
}

static void on_hung(void *data, uint64_t arg)
{
    struct worker_job *job = data;

    (void)arg;
    job->timer = 0;
    end_job(job, HV_UNKNOWN, "hung and was killed");
}

void sim_host_hang(struct sim_node *node)
{
    struct worker_job *job = node->workers && sim_is_up(node, SIM_HV) ? node->workers->first : NULL;

    for (; job; job = job->next) {
        if (job->stage != WORKER_RUNNING)
            continue;
        sim_cancel(job->timer);
        job->timer =
            sim_after(worker_timeout_ms(&job->verb) * NS_MS, &node->procs[SIM_HV], on_hung, job, 0);
        job->pid_fd = HUNG;
    }
}

void sim_host_stick(struct sim_node *node, uint64_t span)
{
    struct worker_job *job = node->workers && sim_is_up(node, SIM_HV) ? node->workers->first : NULL;

    for (; job; job = job->next) {
        if (job->stage != WORKER_RUNNING || job->verb.type != HVP_SAVE || job->is_aborted)
            continue;
        sim_cancel(job->timer);
        job->timer = sim_after(span, &node->procs[SIM_HV], on_hung, job, 0);
        job->pid_fd = HUNG;
        job->is_aborted = true; /* a second time it would not be */
    }
}

void sim_host_hang_moves(struct sim_node *node)
{
    struct worker_job *job = node->workers && sim_is_up(node, SIM_HV) ? node->workers->first : NULL;

    for (; job; job = job->next) {
        if (job->stage != WORKER_RUNNING || job->is_aborted ||
            (job->verb.type != HVP_SAVE && job->verb.type != HVP_RESTORE))
            continue;
        sim_cancel(job->timer);
        job->timer = sim_after(300 * NS_S, &node->procs[SIM_HV], on_hung, job, 0); /* as hamgr-hv */
        job->pid_fd = HUNG;
        sim_stream_hang(node, job->verb.fd);
    }
}

void sim_host_news(struct sim_node *node, int fd, uint8_t what, uint64_t bytes, uint64_t total)
{
    if (!job_of_fd(node, fd))
        return;
    struct sim_proc *before = sim_enter(NULL);
    struct news *news = malloc(sizeof(*news));
    sim_leave(before);
    ha_assert(news);
    *news = (struct news){.fd = fd, .what = what, .bytes = bytes, .total = total};
    sim_after(0, &node->procs[SIM_HV], on_news, news, 0);
}

/* ---- the pool's face to the gate ---------------------------------------------------------------
 */

uint32_t worker_timeout_ms(const struct worker_verb *verb)
{
    return 30000u + (verb->type == HVP_SHUTDOWN ? verb->timeout_ms : 0);
}

struct worker_pool *worker_pool_new(qb_loop_t *loop, uint32_t limit, uint32_t timeout_max_ms,
                                    worker_open_fn open_driver, void *open_user,
                                    const struct worker_callbacks *callbacks, void *user)
{
    struct worker_pool *pool = calloc(1, sizeof(*pool));

    (void)timeout_max_ms;
    (void)open_driver;
    (void)open_user;
    *pool = (struct worker_pool){.node = ((struct sim_proc *)loop)->node,
                                 .limit = limit,
                                 .callbacks = callbacks,
                                 .user = user};
    pool->node->workers = pool;
    return pool;
}

void worker_pool_free(struct worker_pool *pool)
{
    (void)pool; /* it goes with the process */
}

static bool is_guest_taken(const struct worker_pool *pool, const struct worker_job *job)
{
    for (const struct worker_job *other = pool->first; other; other = other->next)
        if (other != job && other->stage != WORKER_QUEUED &&
            ha_uuid_equal(other->verb.label.guest, job->verb.label.guest))
            return true;
    return false;
}

static void start_next(struct worker_pool *pool)
{
    struct worker_job *job = pool->first;

    while (job && pool->alive < pool->limit) {
        if (job->stage != WORKER_QUEUED || job->is_aborted || is_guest_taken(pool, job)) {
            job = job->next;
            continue;
        }
        job->stage = WORKER_RUNNING;
        pool->alive++;
        if (job->verb.type == HVP_SAVE || job->verb.type == HVP_RESTORE)
            start_stream(job);
        else
            start_plain(job);
        job = pool->first;
    }
}

bool worker_submit(struct worker_pool *pool, const struct worker_verb *verb,
                   const struct worker_ticket *ticket)
{
    struct worker_job *job = calloc(1, sizeof(*job));
    struct worker_job **place = &pool->first;

    *job = (struct worker_job){.verb = *verb, .ticket = *ticket, .pool = pool};
    while (*place)
        place = &(*place)->next;
    *place = job;
    start_next(pool);
    return true;
}

struct worker_job *worker_find(struct worker_pool *pool, struct ha_uuid guest)
{
    for (struct worker_job *job = pool->first; job; job = job->next)
        if (job->stage != WORKER_REPORTED && job->verb.type != WORKER_LOG_DIRTY_OFF &&
            ha_uuid_equal(job->verb.label.guest, guest))
            return job;
    return NULL;
}

static void on_abort(void *data, uint64_t arg)
{
    struct worker_job *job = data;

    (void)arg;
    job->timer = 0;
    if (job->stage == WORKER_QUEUED)
        end_job(job, HV_FAILED, "cancelled before it began");
    else
        fail_stream(job, "aborted");
}

void worker_abort(struct worker_job *job)
{
    if (job->is_aborted || job->stage == WORKER_REPORTED ||
        (job->verb.type != HVP_SAVE && job->verb.type != HVP_RESTORE))
        return;
    job->is_aborted = true;
    sim_cancel(job->timer);
    job->timer = sim_after(sim_between(1, 300) * NS_MS, sim.running, on_abort, job, 0);
}

void worker_each(struct worker_pool *pool, void (*visit)(void *user, struct worker_job *job),
                 void *user)
{
    for (struct worker_job *job = pool->first, *next; job; job = next) {
        next = job->next;
        if (job->stage != WORKER_REPORTED)
            visit(user, job);
    }
}

bool worker_is_busy(const struct worker_pool *pool)
{
    return pool->first != NULL;
}

/* Workers die with the gate, each in the middle of what it did. */
void sim_host_gate_gone(struct sim_node *node)
{
    struct worker_job *job = node->workers ? node->workers->first : NULL;

    node->workers = NULL;
    for (; job; job = job->next) {
        struct hvp_done done = {.value = job->moved};
        if (job->stage != WORKER_RUNNING)
            continue;
        if (job->verb.fd >= 0)
            sim_stream_native_closed(node, job->verb.fd);
        else if (sim_chance(500))
            (void)take_effect(node, &job->verb, &done);
    }
}
