/* SPDX-License-Identifier: Apache-2.0
 *
 * What each request of hvproto.h does. Gate verbs are done on the spot; worker verbs become jobs.
 * Domains are found anew in a fresh listing for every verb: nothing is remembered about a guest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qb/qblog.h>

#include "hamgr/hv/gate_parts.h"

#define PERCENT_MAX 100u
#define WAITS_MAX   HA_GUESTS_MAX /* runs behind workers: one for each guest a node may have */

struct request {
    struct gate *gate;
    struct gate_peer *peer;
    uint16_t type;
    uint64_t id;
};

static void answer(const struct request *q, enum hv_outcome outcome, uint64_t value,
                   const char *text)
{
    gate_reply(q->peer, q->id, outcome, value, text);
}

static void drop_malformed(const struct request *q, int fd)
{
    if (fd >= 0)
        close(fd);
    gate_drop_peer(q->peer, "malformed request");
}

static struct hv_label label_of(const struct gate *gate, struct ha_uuid guest, uint64_t epoch)
{
    return (struct hv_label){.cluster_id = gate->hello.cluster_id,
                             .generation = gate->hello.generation,
                             .guest = guest,
                             .epoch = epoch};
}

/* ---- run: the one verb that makes a guest runnable ---------------------------------------------
 */

/* The lease was there before and may be gone after: then nobody may say that it never ran. */
static enum hv_outcome check_after_run(struct gate *gate, uint32_t domid, struct ha_err *err)
{
    struct ha_err pause_err = {0};

    if (gate_may_run(gate))
        return HV_OK;
    enum hv_outcome outcome = gate->hv->ops->pause(gate->hv, domid, &pause_err);
    ha_err_set(err, HA_E_STALE, "the lease ended as it was made runnable; %s",
               outcome == HV_OK ? "it is paused again" : "it is not paused yet");
    gate_tick(gate);
    return HV_UNKNOWN;
}

static enum hv_outcome run_paused(struct gate *gate, uint32_t domid, struct ha_err *err)
{
    if (!gate_may_run(gate)) {
        ha_err_set(err, HA_E_REFUSED, "gate closed: lease ended");
        return HV_FAILED;
    }
    enum hv_outcome outcome = gate->hv->ops->run(gate->hv, domid, err);
    return outcome == HV_OK ? check_after_run(gate, domid, err) : outcome;
}

/* Why the driver said no, from a fresh listing; the driver's own words if that tells nothing. What
 * begins with "busy" is about now, not about the copy. */
static void explain_refusal(const struct request *q, const struct hvp_domain *m, struct ha_err *err)
{
    const struct hv_domain *d =
        gate_list(q->gate) < 0 ? NULL : gate_find(q->gate, m->guest, m->epoch);

    if (q->gate->is_incomplete)
        ha_err_prefix(err, "busy: the domains can't be listed");
    else if (!d)
        ha_err_set(err, HA_E_NOT_FOUND, "there is no such domain");
    else if (d->state == HV_SUSPENDED)
        ha_err_set(err, HA_E_REFUSED, "busy: suspended for migration, to be prepared first");
    else if (d->state == HV_BUILDING)
        ha_err_set(err, HA_E_REFUSED, "busy: it is being built");
}

/* A domain suspended for migration is refused by the driver (H27), an ended one too. */
static void run_now(const struct request *q, const struct hvp_domain *m)
{
    struct ha_err err = {0};
    bool is_listed;
    const struct hv_domain *d = gate_know(q->gate, m->guest, m->epoch, &is_listed);

    if (!d) {
        answer(q, HV_FAILED, 0,
               is_listed ? "there is no such domain" : "busy: the domains can't be listed");
        return;
    }
    uint32_t domid = d->domid;
    bool is_closed = !gate_may_run(q->gate);
    enum hv_outcome outcome = run_paused(q->gate, domid, &err);
    if (outcome == HV_FAILED && !is_closed)
        explain_refusal(q, m, &err);
    answer(q, outcome, domid, err.text);
}

/* Behind the guest's worker: a verb of an earlier hamgrd may still be ending. */
static void run_later(const struct request *q, const struct hvp_domain *m)
{
    bool has_room = q->gate->wait_count < WAITS_MAX;
    struct gate_wait *wait = has_room ? calloc(1, sizeof(*wait)) : NULL;
    struct gate_wait **link = &q->gate->waits;

    if (!wait || !gate_may_run(q->gate)) {
        answer(q, HV_FAILED, 0,
               wait ? "gate closed: lease ended" : "busy: too many verbs are waiting");
        free(wait);
        return;
    }
    q->gate->wait_count++;
    *wait = (struct gate_wait){
        .peer = q->peer, .id = q->id, .request = *m, .close_count = q->gate->fsm.close_count};
    while (*link)
        link = &(*link)->next;
    *link = wait;
}

static void do_run(const struct request *q, const struct hvp_domain *m)
{
    if (worker_find(q->gate->pool, m->guest))
        run_later(q, m);
    else
        run_now(q, m);
}

static void run_waiting(struct gate *gate)
{
    struct gate_wait **link = &gate->waits;

    while (*link) {
        struct gate_wait *wait = *link;
        if (worker_find(gate->pool, wait->request.guest)) {
            link = &wait->next;
            continue;
        }
        struct request q = {gate, wait->peer, HVP_RUN, wait->id};
        *link = wait->next;
        gate->wait_count--;
        /* Asked under another lease: the guest may have been given to another node since. */
        if (wait->close_count == gate->fsm.close_count)
            run_now(&q, &wait->request);
        else
            answer(&q, HV_FAILED, 0, "gate closed: the lease ended while it waited");
        free(wait);
    }
}

/* ---- the other gate verbs ----------------------------------------------------------------------
 */

static void do_pause(const struct request *q, const struct hvp_domain *m)
{
    struct ha_err err = {0};
    struct worker_job *job = worker_find(q->gate->pool, m->guest);

    if (job)
        job->ticket.was_running = false; /* whoever pauses now does not want it back after a save */
    bool is_listed;
    const struct hv_domain *d = gate_know(q->gate, m->guest, m->epoch, &is_listed);
    if (!d && is_listed)
        d = gate_find_any(q->gate, m->guest, m->epoch);
    if (!d) {
        answer(q, is_listed ? HV_FAILED : HV_UNKNOWN, 0,
               is_listed ? "there is no such domain" : "the domains can't be listed");
        return;
    }
    enum hv_outcome outcome = q->gate->hv->ops->pause(q->gate->hv, d->domid, &err);
    answer(q, outcome, d->domid, err.text);
}

static void do_throttle(const struct request *q, const struct hvp_domain *m)
{
    struct ha_err err = {0};

    if (m->timeout_ms == 0 || m->timeout_ms > PERCENT_MAX) {
        answer(q, HV_FAILED, 0, "a throttle is 1 to 100 percent");
        return;
    }
    bool is_listed;
    const struct hv_domain *d = gate_know(q->gate, m->guest, m->epoch, &is_listed);
    if (!d) {
        answer(q, HV_FAILED, 0, "there is no such domain");
        return;
    }
    enum hv_outcome outcome =
        q->gate->hv->ops->throttle(q->gate->hv, d->domid, m->timeout_ms, &err);
    answer(q, outcome, d->domid, err.text);
}

static void do_release(const struct request *q, const struct hvp_domain *m)
{
    struct hv_label label = label_of(q->gate, m->guest, m->epoch);

    q->gate->hv->ops->release(q->gate->hv, &label);
    answer(q, HV_OK, 0, "");
}

static void do_reserve(const struct request *q, const struct hvp_create *m)
{
    struct hv_label label = label_of(q->gate, m->guest, m->epoch);
    struct ha_err err = {0};
    enum hv_outcome outcome = q->gate->hv->ops->reserve(q->gate->hv, &label, m->mem_kib, &err);

    answer(q, outcome, 0, err.text);
}

/* ---- worker verbs ------------------------------------------------------------------------------
 */

/* The same verb for the same copy, asked by a peer that is gone: its job now answers this one. Not
 * for saves, restores and looks: their streams went with the peer. */
static bool adopt_job(struct worker_job *job, const struct request *q, uint64_t epoch)
{
    if (job->ticket.owner || job->verb.type != q->type || job->verb.label.epoch != epoch ||
        q->type == HVP_SAVE || q->type == HVP_RESTORE || q->type == HVP_LOOK)
        return false;
    job->ticket.owner = q->peer;
    job->ticket.id = q->id;
    return true;
}

/* True if the guest is free for a verb; answered otherwise. */
static bool is_guest_free(const struct request *q, struct ha_uuid guest, uint64_t epoch)
{
    struct worker_job *job = worker_find(q->gate->pool, guest);

    if (!job)
        return true;
    if (!adopt_job(job, q, epoch))
        answer(q, HV_FAILED, 0, "busy: another verb has this guest");
    return false;
}

static void submit(const struct request *q, const struct worker_verb *verb, bool was_running)
{
    struct worker_ticket ticket = {.owner = q->peer,
                                   .id = q->id,
                                   .close_count = q->gate->fsm.close_count,
                                   .was_running = was_running};
    struct worker_verb limited = *verb;

    limited.plain_ms = q->gate->caps.plain_ms;
    if (!worker_submit(q->gate->pool, &limited, &ticket))
        answer(q, HV_FAILED, 0, "busy: too many verbs are waiting");
}

/* A domain for a verb on it; NULL when answered. What is not there needs no destroying: that is the
 * proof the caller wants, and it comes from a fresh listing. */
static const struct hv_domain *find_for_verb(const struct request *q, struct ha_uuid guest,
                                             uint64_t epoch)
{
    bool is_removal = q->type == HVP_DESTROY || q->type == HVP_SHUTDOWN;
    bool is_listed;
    const struct hv_domain *d = gate_know(q->gate, guest, epoch, &is_listed);

    if (!d && is_listed && is_removal)
        d = gate_find_any(q->gate, guest, epoch);
    if (!d && !is_listed)
        answer(q, is_removal ? HV_UNKNOWN : HV_FAILED, 0, "busy: the domains can't be listed");
    else if (!d)
        answer(q, is_removal ? HV_OK : HV_FAILED, 0, "there is no such domain");
    return d;
}

static void do_domain_job(const struct request *q, const struct hvp_domain *m)
{
    if (!is_guest_free(q, m->guest, m->epoch))
        return;
    const struct hv_domain *d = find_for_verb(q, m->guest, m->epoch);
    if (!d)
        return;
    struct worker_verb verb = {.type = q->type,
                               .label = d->label,
                               .domid = d->domid,
                               .timeout_ms = m->timeout_ms,
                               .fd = -1};
    submit(q, &verb, false);
}

static bool set_definition(struct worker_verb *verb, const struct hvp_create *m)
{
    verb->definition = malloc(m->definition_size + 1);
    if (!verb->definition)
        return false;
    if (m->definition_size > 0)
        memcpy(verb->definition, m->definition, m->definition_size);
    verb->definition_size = m->definition_size;
    return true;
}

static const char *refuse_build(const struct request *q, const struct hvp_create *m, int fd)
{
    if (!ha_name_is_valid(m->name))
        return "the name is not one";
    if (q->type == HVP_RESTORE && fd < 0)
        return "a restore needs a stream";
    /* Known to exist may be long ago; known not to exist is true unless a build's end is unknown.
     */
    if ((q->gate->is_incomplete || gate_find(q->gate, m->guest, m->epoch)) &&
        gate_list(q->gate) < 0)
        return "busy: the domains can't be listed";
    return gate_find(q->gate, m->guest, m->epoch) ? "busy: this copy exists already" : NULL;
}

static void close_all(int fd, int ring_fd)
{
    if (fd >= 0)
        close(fd);
    if (ring_fd >= 0)
        close(ring_fd);
}

/* CREATE and RESTORE. fd and ring_fd are moved. */
static void do_build(const struct request *q, const struct hvp_create *m, int fd, int ring_fd)
{
    bool is_restore = q->type == HVP_RESTORE;
    struct worker_verb verb = {.type = q->type,
                               .label = label_of(q->gate, m->guest, m->epoch),
                               .mem_kib = m->mem_kib,
                               .fd = is_restore ? fd : -1,
                               .ring_fd = is_restore ? ring_fd : -1};
    bool is_free = is_guest_free(q, m->guest, m->epoch);
    const char *refusal = is_free ? refuse_build(q, m, fd) : NULL;

    if (is_free && !refusal && !set_definition(&verb, m))
        refusal = "busy: no memory";
    if (refusal)
        answer(q, HV_FAILED, 0, refusal);
    if (!is_restore || !is_free || refusal)
        close_all(fd, ring_fd);
    if (!is_free || refusal)
        return;
    memcpy(verb.name, m->name, sizeof(verb.name));
    submit(q, &verb, false);
}

/* fd and ring_fd are moved. */
static void do_save(const struct request *q, const struct hvp_save *m, int fd, int ring_fd)
{
    const struct hv_domain *d = NULL;

    if (fd < 0)
        answer(q, HV_FAILED, 0, "a save needs a stream");
    else if (is_guest_free(q, m->guest, m->epoch)) {
        (void)gate_list(q->gate); /* whether it runs now, not when it was listed last */
        d = find_for_verb(q, m->guest, m->epoch);
    }
    if (!d) {
        close_all(fd, ring_fd);
        return;
    }
    struct worker_verb verb = {.type = HVP_SAVE,
                               .label = d->label,
                               .domid = d->domid,
                               .mem_kib = d->mem_kib,
                               .save = *m,
                               .fd = fd,
                               .ring_fd = ring_fd};
    submit(q, &verb, d->state == HV_RUNNING);
}

/* A look at the host, for doctor: body is copied, not read; fd is moved. One at a time. */
static void do_look(const struct request *q, const struct ha_packet *packet, int fd)
{
    static const struct ha_uuid nobody;
    const struct hvp_create body = {.definition = packet->body,
                                    .definition_size = packet->body_size};
    struct worker_verb verb = {.type = HVP_LOOK, .fd = fd};
    bool is_free = is_guest_free(q, nobody, 0);

    if (is_free && (fd < 0 || !set_definition(&verb, &body))) {
        answer(q, HV_FAILED, 0, fd < 0 ? "a look needs a file" : "busy: no memory");
        is_free = false;
    }
    if (!is_free && fd >= 0)
        close(fd);
    if (is_free)
        submit(q, &verb, false);
}

/* ---- abort -------------------------------------------------------------------------------------
 */

struct abort_search {
    struct gate_peer *peer;
    uint64_t id;
    bool is_found;
};

static void abort_if_meant(void *user, struct worker_job *job)
{
    struct abort_search *search = user;

    if (job->ticket.owner != search->peer || job->ticket.id != search->id ||
        (job->verb.type != HVP_SAVE && job->verb.type != HVP_RESTORE))
        return;
    search->is_found = true;
    worker_abort(job);
}

static void do_abort(const struct request *q, uint64_t id)
{
    struct abort_search search = {.peer = q->peer, .id = id};

    worker_each(q->gate->pool, abort_if_meant, &search);
    answer(q, search.is_found ? HV_OK : HV_FAILED, 0,
           search.is_found ? "" : "there is no such save or restore");
}

static void orphan_job(void *user, struct worker_job *job)
{
    if (job->ticket.owner != user)
        return;
    job->ticket.owner = NULL;
    worker_abort(job); /* saves and restores only */
}

void gate_forget_peer(struct gate *gate, struct gate_peer *peer)
{
    struct gate_wait **link = &gate->waits;

    worker_each(gate->pool, orphan_job, peer);
    while (*link) {
        struct gate_wait *wait = *link;
        if (wait->peer != peer) {
            link = &wait->next;
            continue;
        }
        *link = wait->next;
        gate->wait_count--;
        free(wait);
    }
}

/* ---- the ends of jobs --------------------------------------------------------------------------
 */

void gate_job_progress(void *user, struct worker_job *job, const struct hv_progress *progress)
{
    uint8_t bytes[128];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)user;
    if (!job->ticket.owner)
        return;
    hvp_progress_encode(&w, progress);
    gate_send(job->ticket.owner, HVP_PROGRESS, job->ticket.id, &w);
}

/* A save that failed leaves the guest as it was; a worker may not make it runnable, so the gate
 * does: unless it was paused for another reason meanwhile. */
static void continue_after_save(struct gate *gate, const struct worker_job *job,
                                struct hvp_done *done)
{
    struct ha_err err = {0};
    const struct hv_label *label = &job->verb.label;

    if (job->verb.type != HVP_SAVE || done->outcome != HV_FAILED || !job->ticket.was_running ||
        job->ticket.close_count != gate->fsm.close_count || gate_list(gate) < 0)
        return;
    const struct hv_domain *d = gate_find(gate, label->guest, label->epoch);
    if (!d || d->state != HV_PAUSED)
        return;
    enum hv_outcome outcome = run_paused(gate, d->domid, &err);
    if (outcome != HV_OK)
        qb_log(LOG_WARNING, "gate: %s stays paused after a failed save: %s", d->name, err.text);
}

void gate_job_done(void *user, struct worker_job *job, const struct hvp_done *done)
{
    struct gate *gate = user;
    struct hvp_done told = *done;

    if (done->outcome != HV_OK)
        qb_log(LOG_WARNING, "gate: verb %u of domain %u epoch %llu: outcome %u: %s", job->verb.type,
               job->verb.domid, (unsigned long long)job->verb.label.epoch, done->outcome,
               done->text);
    continue_after_save(gate, job, &told);
    if (job->verb.type == HVP_CREATE || job->verb.type == HVP_RESTORE)
        gate_note_built(gate, &job->verb.label, job->verb.name, done);
    if (job->ticket.owner)
        gate_reply(job->ticket.owner, job->ticket.id, (enum hv_outcome)told.outcome, told.value,
                   told.text);
    if (gate->event_fd < 0 || done->outcome == HV_UNKNOWN)
        gate_tell_changed(gate);
    run_waiting(gate);
}

void gate_job_idle(void *user)
{
    struct gate *gate = user;

    run_waiting(gate);
    if (gate->is_stopping && !worker_is_busy(gate->pool))
        gate->options.stopped(gate->options.user);
}

void gate_clean_up(struct gate *gate)
{
    if (gate_list(gate) < 0)
        return;
    for (uint32_t i = 0; i < gate->domain_count; i++) {
        const struct hv_domain *d = &gate->domains[i];
        struct worker_verb clean = {
            .type = WORKER_LOG_DIRTY_OFF, .label = d->label, .domid = d->domid, .fd = -1};
        if (d->is_labelled && d->state != HV_BUILDING)
            (void)worker_submit(gate->pool, &clean, &(struct worker_ticket){0});
    }
}

/* ---- dispatch ----------------------------------------------------------------------------------
 */

static void serve_domain(const struct request *q, const struct ha_packet *packet)
{
    struct hvp_domain m;

    if (hvp_domain_decode(packet->body, packet->body_size, &m) < 0)
        drop_malformed(q, -1);
    else if (q->type == HVP_RUN)
        do_run(q, &m);
    else if (q->type == HVP_PAUSE)
        do_pause(q, &m);
    else if (q->type == HVP_THROTTLE)
        do_throttle(q, &m);
    else if (q->type == HVP_RELEASE)
        do_release(q, &m);
    else
        do_domain_job(q, &m);
}

/* fd and ring_fd are moved. */
static void serve_build(const struct request *q, const struct ha_packet *packet, int fd,
                        int ring_fd)
{
    struct hvp_create m;

    if (hvp_create_decode(packet->body, packet->body_size, &m) < 0) {
        close_all(-1, ring_fd);
        drop_malformed(q, fd);
    } else if (q->type == HVP_RESERVE) {
        close_all(fd, ring_fd);
        do_reserve(q, &m);
    } else {
        do_build(q, &m, fd, ring_fd);
    }
}

static void serve_save(const struct request *q, const struct ha_packet *packet, int fd, int ring_fd)
{
    struct hvp_save m;

    if (hvp_save_decode(packet->body, packet->body_size, &m) == 0) {
        do_save(q, &m, fd, ring_fd);
        return;
    }
    close_all(-1, ring_fd);
    drop_malformed(q, fd);
}

static void serve_abort(const struct request *q, const struct ha_packet *packet)
{
    struct hvp_abort m;

    if (hvp_abort_decode(packet->body, packet->body_size, &m) < 0)
        drop_malformed(q, -1);
    else
        do_abort(q, m.id);
}

void gate_verb(struct gate *gate, struct gate_peer *peer, const struct ha_packet *packet, int fd,
               int ring_fd)
{
    struct request q = {gate, peer, packet->type, packet->id};
    bool has_stream =
        packet->type == HVP_SAVE || packet->type == HVP_RESTORE || packet->type == HVP_LOOK;

    if (!has_stream || !gate->has_hello) {
        close_all(fd, ring_fd);
        fd = ring_fd = -1;
    }
    if (!gate->has_hello) {
        answer(&q, HV_FAILED, 0, "a hello comes first");
        return;
    }
    switch (packet->type) {
    case HVP_CREATE:
    case HVP_RESTORE:
    case HVP_RESERVE:
        serve_build(&q, packet, fd, ring_fd);
        break;
    case HVP_SAVE:
        serve_save(&q, packet, fd, ring_fd);
        break;
    case HVP_ABORT:
        serve_abort(&q, packet);
        break;
    case HVP_LOOK:
        do_look(&q, packet, fd);
        break;
    case HVP_RUN:
    case HVP_PAUSE:
    case HVP_SHUTDOWN:
    case HVP_DESTROY:
    case HVP_RESUME_PREPARE:
    case HVP_DIRTY_SAMPLE:
    case HVP_THROTTLE:
    case HVP_RELEASE:
        serve_domain(&q, packet);
        break;
    default:
        drop_malformed(&q, fd);
        break;
    }
}
