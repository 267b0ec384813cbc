/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection to hamgr-hv: sends verbs, keeps the inventory and the memory of what this node has
 * in flight. Outcomes become facts for the reconciler; HV_UNKNOWN becomes nothing but a new
 * listing.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>
#include <unistd.h>

#include "hamgr/base/assert.h"

/* A listing costs hamgr-hv a look at every guest (3.5 ms for 100): while many verbs end, as after a
 * failover, what they proved stands in for it and one listing follows. */
#define LIST_EVERY_MS          50u
#define RETRY_AFTER_FAILURE_MS 500u   /* a refused or unknown verb is tried again after this */
#define RETRY_MAX_MS           30000u /* a RUN that goes on failing, at the latest after this */

static void send_fds(struct hamgrd *d, uint16_t type, uint64_t id, struct ha_writer *w,
                     const int fds[2])
{
    unsigned count = fds[0] < 0 ? 0 : fds[1] < 0 ? 1 : 2;

    ha_assert(!w->failed);
    link_send(d->hv, type, id, w->data, w->position, fds, count);
}

static void send_body(struct hamgrd *d, uint16_t type, uint64_t id, struct ha_writer *w, int fd)
{
    const int fds[2] = {fd, -1};

    send_fds(d, type, id, w, fds);
}

/* ---- verbs: a sorted array, one per guest copy ------------------------------------------------
 */

static int compare_key(const struct local_verb *verb, struct ha_uuid guest, uint64_t epoch)
{
    int order = ha_uuid_cmp(verb->v.guest, guest);

    if (order != 0)
        return order;
    return verb->v.epoch == epoch ? 0 : verb->v.epoch < epoch ? -1 : 1;
}

/* Index of the first verb not before the key. */
static uint32_t lower_bound(const struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    uint32_t low = 0, high = d->verb_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (compare_key(&d->verbs[middle], guest, epoch) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct local_verb *hvlink_find(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    uint32_t i = lower_bound(d, guest, epoch);

    if (i < d->verb_count && compare_key(&d->verbs[i], guest, epoch) == 0)
        return &d->verbs[i];
    return NULL;
}

struct local_verb *hvlink_get(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    uint32_t i = lower_bound(d, guest, epoch);

    if (i < d->verb_count && compare_key(&d->verbs[i], guest, epoch) == 0)
        return &d->verbs[i];
    if (d->verb_count == d->verb_capacity) {
        uint32_t capacity = d->verb_capacity ? 2 * d->verb_capacity : 64;
        struct local_verb *verbs = realloc(d->verbs, capacity * sizeof(*verbs));
        struct ha_local_verb *view = realloc(d->verb_view, capacity * sizeof(*view));
        ha_assert(verbs && view);
        d->verbs = verbs;
        d->verb_view = view;
        d->verb_capacity = capacity;
    }
    memmove(&d->verbs[i + 1], &d->verbs[i], (d->verb_count - i) * sizeof(d->verbs[0]));
    d->verb_count++;
    d->verbs[i] = (struct local_verb){.v = {.guest = guest, .epoch = epoch}};
    return &d->verbs[i];
}

/* ---- inventory ---------------------------------------------------------------------------------
 */

static int compare_domains(const void *left, const void *right)
{
    const struct hv_domain *a = left, *b = right;

    if (a->is_labelled != b->is_labelled)
        return a->is_labelled ? 1 : -1;
    int order = ha_uuid_cmp(a->label.guest, b->label.guest);
    if (order != 0)
        return order;
    if (a->label.epoch != b->label.epoch)
        return a->label.epoch < b->label.epoch ? -1 : 1;
    return a->domid == b->domid ? 0 : a->domid < b->domid ? -1 : 1;
}

static struct hv_domain *find_domain(const struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    for (uint32_t i = 0; i < d->domain_count; i++) {
        struct hv_domain *domain = &d->domains[i];
        if (domain->is_labelled && domain->label.epoch == epoch &&
            ha_uuid_equal(domain->label.guest, guest))
            return domain;
    }
    return NULL;
}

const struct hv_domain *hvlink_domain(const struct hamgrd *d, struct ha_uuid guest, uint64_t epoch)
{
    return find_domain(d, guest, epoch);
}

static void on_list_time(void *data)
{
    struct hamgrd *d = data;

    d->list_timer = 0;
    hvlink_list(d);
}

void hvlink_list(struct hamgrd *d)
{
    uint64_t now_ms = shell_now_ms();

    d->is_list_stale = true;
    if (d->is_listing || !d->is_hv_welcomed || d->list_timer)
        return;
    if (now_ms < d->listed_ms + LIST_EVERY_MS) {
        qb_loop_timer_add(d->loop, QB_LOOP_LOW,
                          (d->listed_ms + LIST_EVERY_MS - now_ms) * QB_TIME_NS_IN_MSEC, d,
                          on_list_time, &d->list_timer);
        return;
    }
    d->listed_ms = now_ms;
    d->is_listing = true;
    d->is_list_stale = false;
    d->listing_count = 0;
    d->list_applied = d->state.applied;
    d->list_request = ++d->hv_request_high;
    link_send(d->hv, HVP_LIST, d->list_request, NULL, 0, NULL, 0);
}

/* It stays due: duties_run asks again with its next turn, not at the speed of the loop. */
static void list_failed(struct hamgrd *d, const char *why)
{
    qb_log(LOG_WARNING, "hamgr-hv: no listing: %s", why);
    d->is_listing = false;
    d->is_list_stale = true;
}

static void on_domains(struct hamgrd *d, const struct ha_packet *packet)
{
    static struct hvp_domains part;

    if (hvp_domains_decode(packet->body, packet->body_size, &part) < 0)
        return;
    if (!d->is_listing || packet->id != d->list_request)
        return;
    if (part.count > HA_GUESTS_MAX - d->listing_count) { /* cut, it would prove absences */
        list_failed(d, "more domains than a node may have");
        return;
    }
    for (uint32_t i = 0; i < part.count; i++)
        d->listing[d->listing_count++] = part.list[i];
    if (!part.is_last)
        return;
    d->is_listing = false;
    if (d->is_list_stale) { /* something happened since it was asked for */
        hvlink_list(d);
        return;
    }
    struct hv_domain *old = d->domains;
    d->domains = d->listing;
    d->domain_count = d->listing_count;
    d->listing = old;
    qsort(d->domains, d->domain_count, sizeof(d->domains[0]), compare_domains);
    d->has_inventory = true;
    d->inventory_applied = d->list_applied;
    shell_wake(d);
}

/* What a verb proved, put into the inventory at once; a fresh listing follows anyway. */
static void note_domain(struct hamgrd *d, const struct local_verb *verb, uint8_t state,
                        uint32_t domid)
{
    struct hv_domain *domain = find_domain(d, verb->v.guest, verb->v.epoch);

    if (!domain && d->domain_count < HA_GUESTS_MAX) {
        domain = &d->domains[d->domain_count++];
        *domain = (struct hv_domain){.domid = domid, .is_labelled = true};
        domain->label = (struct hv_label){.cluster_id = d->state.cluster_id,
                                          .generation = d->state.generation,
                                          .guest = verb->v.guest,
                                          .epoch = verb->v.epoch};
    }
    if (domain)
        domain->state = state;
    qsort(d->domains, d->domain_count, sizeof(d->domains[0]), compare_domains);
}

static void forget_domain(struct hamgrd *d, const struct local_verb *verb)
{
    struct hv_domain *domain = find_domain(d, verb->v.guest, verb->v.epoch);

    if (domain) {
        size_t after = (size_t)(&d->domains[d->domain_count] - (domain + 1));
        memmove(domain, domain + 1, after * sizeof(*domain));
        d->domain_count--;
    }
}

/* ---- requests ----------------------------------------------------------------------------------
 */

void hvlink_hello(struct hamgrd *d)
{
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));
    const struct ha_node *self = ha_state_node(&d->state, d->identity.node);

    d->hello_disarmed = d->state.is_disarmed;
    d->hello_frozen = self && self->is_frozen;
    d->hello_stale = !shell_is_current(d);
    hvp_hello_encode(&w, &(struct hvp_hello){.cluster_id = d->identity.cluster_id,
                                             .generation = d->identity.generation,
                                             .is_disarmed = d->hello_disarmed,
                                             .is_frozen = d->hello_frozen,
                                             .is_stale = d->hello_stale});
    send_body(d, HVP_HELLO, ++d->hv_request_high, &w, -1);
}

static void encode_create(struct hamgrd *d, struct ha_writer *w, const struct local_verb *verb)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, verb->v.guest);
    struct hvp_create create = {.guest = verb->v.guest, .epoch = verb->v.epoch};

    if (guest) {
        create.mem_kib = guest->mem_kib;
        memcpy(create.name, guest->name, sizeof(create.name));
        create.definition = store_definition(d->store, guest->definition, &create.definition_size);
    }
    hvp_create_encode(w, &create);
}

static uint16_t request_type(uint8_t which)
{
    switch ((enum ha_verb)which) {
    case HA_VERB_CREATE:
        return HVP_CREATE;
    case HA_VERB_RUN:
        return HVP_RUN;
    case HA_VERB_SHUTDOWN:
        return HVP_SHUTDOWN;
    case HA_VERB_DESTROY:
        return HVP_DESTROY;
    case HA_VERB_RESUME:
        return HVP_RESUME_PREPARE;
    case HA_VERB_SAVE:
        return HVP_SAVE;
    case HA_VERB_RESTORE:
        return HVP_RESTORE;
    case HA_VERB_NONE:
        break;
    }
    ha_assert(false); /* HA_VERB_NONE is never requested */
    return 0;
}

static void encode_save(struct hamgrd *d, struct ha_writer *w, const struct local_verb *verb)
{
    const struct ha_guest *guest = ha_state_guest(&d->state, verb->v.guest);
    bool is_live = !guest || things_can_move_live(d, guest);
    struct hvp_save save = {.guest = verb->v.guest,
                            .epoch = verb->v.epoch,
                            .is_live = is_live,
                            .max_downtime_ms = d->limits.max_downtime_ms,
                            .deadline_ms = d->limits.deadline_ms,
                            .on_slow = d->config.on_slow,
                            .switch_us = moves_switch_us(d, is_live)};

    if (guest && guest->policy.max_downtime_ms)
        save.max_downtime_ms = guest->policy.max_downtime_ms;
    if (guest && guest->ticket.max_downtime_ms)
        save.max_downtime_ms = guest->ticket.max_downtime_ms;
    if (guest && guest->ticket.deadline_ms)
        save.deadline_ms = guest->ticket.deadline_ms;
    if (guest && guest->ticket.on_slow)
        save.on_slow = guest->ticket.on_slow;
    /* The deadline is the whole migration's: the save must have its answer a little before. */
    save.deadline_ms -= save.deadline_ms / 8;
    hvp_save_encode(w, &save);
}

/* fds are moved. */
static void send_verb(struct hamgrd *d, struct local_verb *verb, uint8_t which, uint32_t timeout_ms,
                      const int fds[2])
{
    static uint8_t body[HA_DEFINITION_MAX + 1024];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (!d->is_hv_welcomed) {
        for (unsigned n = 0; n < 2; n++)
            if (fds[n] >= 0)
                close(fds[n]);
        return;
    }
    if (which == HA_VERB_CREATE || which == HA_VERB_RESTORE)
        encode_create(d, &w, verb);
    else if (which == HA_VERB_SAVE)
        encode_save(d, &w, verb);
    else
        hvp_domain_encode(&w, &(struct hvp_domain){.guest = verb->v.guest,
                                                   .epoch = verb->v.epoch,
                                                   .timeout_ms = timeout_ms});
    verb->v.verb = which;
    verb->asked_ms = shell_now_ms();
    verb->request = ++d->hv_request_high;
    if (which == HA_VERB_RUN) { /* from here on it may have run, whatever the answer */
        verb->is_first_run = !verb->v.has_run;
        verb->v.has_run = true;
    }
    send_fds(d, request_type(which), verb->request, &w, fds);
}

void hvlink_verb(struct hamgrd *d, struct local_verb *verb, uint8_t which, uint32_t timeout_ms)
{
    const int none[2] = {-1, -1};

    send_verb(d, verb, which, timeout_ms, none);
}

void hvlink_stream_verb(struct hamgrd *d, struct local_verb *verb, uint8_t which, int fd,
                        int ring_fd)
{
    const int fds[2] = {fd, ring_fd};

    send_verb(d, verb, which, 0, fds);
}

uint64_t hvlink_sample(struct hamgrd *d, struct ha_uuid guest, uint64_t epoch, uint32_t sample_ms)
{
    uint8_t body[64];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (!d->is_hv_welcomed)
        return 0;
    hvp_domain_encode(
        &w, &(struct hvp_domain){.guest = guest, .epoch = epoch, .timeout_ms = sample_ms});
    send_body(d, HVP_DIRTY_SAMPLE, ++d->hv_request_high, &w, -1);
    return d->hv_request_high;
}

uint64_t hvlink_look(struct hamgrd *d, const struct look_ask *ask, int memfd)
{
    static uint8_t body[HA_IPC_MAX - 1024];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    if (!d->is_hv_welcomed) {
        close(memfd);
        return 0;
    }
    look_ask_encode(&w, ask);
    send_body(d, HVP_LOOK, ++d->hv_request_high, &w, memfd);
    return d->hv_request_high;
}

void hvlink_abort(struct hamgrd *d, uint64_t request)
{
    uint8_t body[16];
    struct ha_writer w = ha_writer_of(body, sizeof(body));

    hvp_abort_encode(&w, &(struct hvp_abort){.id = request});
    send_body(d, HVP_ABORT, ++d->hv_request_high, &w, -1);
}

/* ---- outcomes ----------------------------------------------------------------------------------
 */

static void on_ok(struct hamgrd *d, struct local_verb *verb, uint8_t which,
                  const struct hvp_done *done)
{
    switch ((enum ha_verb)which) {
    case HA_VERB_CREATE:
    case HA_VERB_RESTORE:
    case HA_VERB_RESUME:
        note_domain(d, verb, HV_PAUSED, (uint32_t)done->value);
        break;
    case HA_VERB_RUN:
        qb_log(LOG_DEBUG, "epoch %" PRIu64 " runs", verb->v.epoch);
        verb->run_failures = 0;
        note_domain(d, verb, HV_RUNNING, (uint32_t)done->value);
        moves_ran(d, verb);
        break;
    case HA_VERB_SAVE:
        note_domain(d, verb, HV_SUSPENDED, (uint32_t)done->value);
        break;
    case HA_VERB_SHUTDOWN:
    case HA_VERB_DESTROY:
        forget_domain(d, verb);
        /* Should the next listing show it again, it is not tried at the speed of the loop. */
        verb->v.retry_ms = shell_now_ms() + RETRY_AFTER_FAILURE_MS;
        break;
    case HA_VERB_NONE:
        break;
    }
}

/* A busy guest or a closed gate is no verdict about the copy: it is tried again. */
static bool is_refused_for_now(const char *text)
{
    return strncmp(text, "busy", 4) == 0 || strncmp(text, "gate closed", 11) == 0;
}

/* A guest that can't be made to run is tried less and less often: 0.5, 1, 2, ... 30 s. */
static uint32_t run_failed_ms(struct local_verb *verb)
{
    uint32_t delay_ms = RETRY_AFTER_FAILURE_MS;

    for (uint32_t i = 0; i < verb->run_failures && delay_ms < RETRY_MAX_MS; i++)
        delay_ms *= 2;
    verb->run_failures++;
    return delay_ms < RETRY_MAX_MS ? delay_ms : RETRY_MAX_MS;
}

static void on_not_ok(struct local_verb *verb, uint8_t which, const struct hvp_done *done)
{
    bool is_proven = done->outcome == HV_FAILED;

    qb_log(LOG_WARNING, "hamgr-hv: verb %u of epoch %" PRIu64 " %s: %s", which, verb->v.epoch,
           is_proven ? "failed" : "has an unknown outcome", done->text);
    snprintf(verb->v.text, sizeof(verb->v.text), "%.*s", (int)sizeof(verb->v.text) - 1, done->text);
    verb->v.retry_ms = shell_now_ms() + RETRY_AFTER_FAILURE_MS;
    if (which == HA_VERB_RUN && is_proven && verb->is_first_run)
        verb->v.has_run = false;
    if (!is_proven && which == HA_VERB_CREATE)
        verb->v.is_create_unknown = true;
    bool is_for_now = is_refused_for_now(done->text);
    if (which == HA_VERB_RUN && !is_for_now)
        verb->v.retry_ms = shell_now_ms() + run_failed_ms(verb);
    if (!is_proven || is_for_now)
        return;
    if (which == HA_VERB_CREATE)
        verb->v.is_create_failed = true;
    if (which == HA_VERB_RUN)
        verb->v.is_run_failed = true;
}

/* What a failover is made of: how long ago it was asked for stands in the line of its end. */
static void log_ok(const struct hamgrd *d, const struct local_verb *verb, uint8_t which)
{
    static const char *const names[] = {
        [HA_VERB_CREATE] = "create",   [HA_VERB_RUN] = "run",       [HA_VERB_SHUTDOWN] = "shutdown",
        [HA_VERB_DESTROY] = "destroy", [HA_VERB_RESUME] = "resume", [HA_VERB_SAVE] = "save",
        [HA_VERB_RESTORE] = "restore"};
    const struct ha_guest *guest = ha_state_guest(&d->state, verb->v.guest);

    if (which < sizeof(names) / sizeof(names[0]) && names[which])
        qb_log(LOG_INFO, "hamgr-hv: %s of %s epoch %" PRIu64 " took %" PRIu64 " ms", names[which],
               guest ? guest->name : "a guest", verb->v.epoch, shell_now_ms() - verb->asked_ms);
}

/* A verb in flight has ended; what that proves is for the inventory and the verb's memory. */
static void verb_ended(struct hamgrd *d, struct local_verb *verb, const struct hvp_done *done)
{
    uint8_t which = verb->v.verb;

    verb->request = 0;
    verb->v.verb = HA_VERB_NONE;
    if (done->outcome == HV_OK) {
        log_ok(d, verb, which);
        on_ok(d, verb, which, done);
    } else {
        on_not_ok(verb, which, done);
    }
    if (which == HA_VERB_SAVE || which == HA_VERB_RESTORE)
        moves_hv_done(d, verb, which, done);
}

static void on_done(struct hamgrd *d, const struct ha_packet *packet)
{
    struct hvp_done done;

    if (hvp_done_decode(packet->body, packet->body_size, &done) < 0 || packet->id == 0)
        return;
    if (d->is_listing && packet->id == d->list_request) {
        list_failed(d, done.text);
        return;
    }
    forecast_hv_done(d, packet->id, &done);
    doctor_hv_done(d, packet->id, &done);
    things_hv_done(d, packet->id, &done);
    for (uint32_t i = 0; i < d->verb_count; i++) {
        if (d->verbs[i].request != packet->id)
            continue;
        verb_ended(d, &d->verbs[i], &done);
        break;
    }
    hvlink_list(d);
    shell_wake(d);
}

static void on_gate(struct hamgrd *d, const struct ha_packet *packet)
{
    struct hvp_gate gate;

    if (hvp_gate_decode(packet->body, packet->body_size, &gate) < 0)
        return;
    if (gate.is_open != d->rt.is_gate_open || gate.is_quarantined != d->rt.is_quarantined)
        qb_log(LOG_NOTICE, "gate: %s%s | paused=%u %s", gate.is_open ? "open" : "closed",
               gate.is_quarantined ? ", quarantined" : "", gate.paused_count, gate.text);
    d->rt.is_gate_open = gate.is_open;
    d->rt.is_quarantined = gate.is_quarantined;
    snprintf(d->rt.gate_text, sizeof(d->rt.gate_text), "%s", gate.text);
    hvlink_list(d);
}

static void on_packet(void *user, const struct ha_packet *packet)
{
    struct hamgrd *d = user;
    struct hv_progress progress;

    switch ((enum hvp_type)packet->type) {
    case HVP_WELCOME:
        if (hvp_welcome_decode(packet->body, packet->body_size, &d->hv_welcome) == 0 &&
            !d->is_hv_welcomed) {
            d->is_hv_welcomed = true;
            hvlink_list(d);
        }
        break;
    case HVP_DOMAINS:
        on_domains(d, packet);
        break;
    case HVP_DONE:
        on_done(d, packet);
        break;
    case HVP_PROGRESS:
        if (hvp_progress_decode(packet->body, packet->body_size, &progress) == 0)
            moves_hv_progress(d, packet->id, &progress);
        break;
    case HVP_CHANGED:
        hvlink_list(d);
        break;
    case HVP_GATE:
        on_gate(d, packet);
        break;
    case HVP_HELLO:
    case HVP_LIST:
    case HVP_CREATE:
    case HVP_RUN:
    case HVP_PAUSE:
    case HVP_SHUTDOWN:
    case HVP_DESTROY:
    case HVP_SAVE:
    case HVP_RESTORE:
    case HVP_ABORT:
    case HVP_RESUME_PREPARE:
    case HVP_DIRTY_SAMPLE:
    case HVP_THROTTLE:
    case HVP_RESERVE:
    case HVP_RELEASE:
    case HVP_LOOK:
        break; /* requests: never from this side */
    }
}

static void on_up(void *user)
{
    struct hamgrd *d = user;

    d->is_listing = false;
    hvlink_hello(d);
}

/* Everything in flight has an unknown outcome now; hamgr-hv ends our saves and restores by itself.
 */
static void on_down(void *user, const char *why)
{
    struct hamgrd *d = user;
    struct hvp_done lost = {.outcome = HV_UNKNOWN};

    qb_log(LOG_WARNING, "hamgr-hv: connection lost: %s", why);
    snprintf(lost.text, sizeof(lost.text), "the connection to hamgr-hv was lost");
    d->is_hv_welcomed = false;
    d->has_inventory = false;
    d->rt.is_gate_open = false;
    for (uint32_t i = 0; i < d->verb_count; i++) {
        if (d->verbs[i].v.verb != HA_VERB_NONE)
            verb_ended(d, &d->verbs[i], &lost);
    }
    shell_wake(d);
}

const struct link_callbacks hvlink_callbacks = {.up = on_up, .packet = on_packet, .down = on_down};

void hvlink_open(struct hamgrd *d)
{
    d->domains = calloc(HA_GUESTS_MAX, sizeof(*d->domains));
    d->listing = calloc(HA_GUESTS_MAX, sizeof(*d->listing));
    ha_assert(d->domains && d->listing);
    d->hv = link_open(d->loop, HVP_SOCKET, &hvlink_callbacks, d);
}
