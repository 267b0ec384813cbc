/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages between hamgrds beside the log: sending, checking and handing each to its part.
 */
#include "hamgr/shell/shell.h"

#include "hamgr/base/assert.h"

#define REPORT_EVERY_MS 1000u
/* Device lists are long and seldom change: they are told when they do, when somebody comes who has
 * not heard them, and again at times, should one have been dropped for want of room. */
#define DEVICES_EVERY_MS 30000u

#define SEND_MAX (HA_CHUNK_MAX + 4096u)
/* A list of devices that hamgr-fence accepts always fits; so does a chunk. */
_Static_assert(HA_FACTS_BYTES_MAX + 1024u <= SEND_MAX, "all facts fit one message");
_Static_assert(PEER_THINGS_MAX * 17u + 2048u <= SEND_MAX, "all things fit one message");
_Static_assert(FENCEP_DEVICES_BYTES_MAX + 1024u <= SEND_MAX, "all devices fit one message");

void peers_send(struct hamgrd *d, uint8_t type, uint32_t to,
                void (*encode)(struct ha_writer *w, const void *m), const void *m)
{
    static uint8_t buffer[SEND_MAX];
    struct ha_writer w = ha_writer_of(buffer, sizeof(buffer));

    peer_header_encode(&w, &(struct peer_header){.type = type,
                                                 .cluster_id = d->identity.cluster_id,
                                                 .generation = d->identity.generation,
                                                 .nonce = d->nonce,
                                                 .to = to});
    encode(&w, m);
    if (!w.failed)
        shell_multicast(d, buffer, w.position, false);
}

static void put_report(struct ha_writer *w, const void *m)
{
    peer_report_encode(w, m);
}

static void put_devices(struct ha_writer *w, const void *m)
{
    peer_devices_encode(w, m);
}

/* The first guest that this node owns and can't make run: it stays down until somebody acts. */
static const struct local_verb *stuck_verb(const struct hamgrd *d)
{
    for (uint32_t i = 0; i < d->verb_count; i++) {
        if (d->verbs[i].run_failures >= SHELL_RUN_FAILURES)
            return &d->verbs[i];
    }
    return NULL;
}

static void fill_guest_alarm(const struct hamgrd *d, char *ret_alarm)
{
    const struct local_verb *verb = stuck_verb(d);
    const struct ha_guest *guest = verb ? ha_state_guest(&d->state, verb->v.guest) : NULL;

    if (guest)
        snprintf(ret_alarm, HA_TEXT_MAX,
                 "guest %.63s does not run: %.80s (tried %u times): hactl failover starts it "
                 "elsewhere",
                 guest->name, verb->v.text, verb->run_failures);
    else if (d->foreign_count > 0)
        snprintf(ret_alarm, HA_TEXT_MAX,
                 "%u domains run here that hamgr did not make: look at the hypervisor's list",
                 d->foreign_count);
}

/* At the node that is left out, and at the leader, whose report every member shows. */
static bool fill_version_alarm(const struct hamgrd *d, char *ret_alarm)
{
    struct log_outdated who;

    if (!d->log || !log_is_outdated(d->log, &who) ||
        (d->rt.is_open && (who.node == d->identity.node || !d->rt.is_leader)))
        return false;
    const char *name = who.node == d->identity.node ? "this node" : shell_node_name(d, who.node);
    snprintf(ret_alarm, HA_TEXT_MAX, "%.63s speaks log protocol %u, this cluster %u: %s %.63s",
             name, who.speaks, who.cluster,
             who.speaks < who.cluster ? "upgrade hamgr on" : "install the cluster's hamgr on",
             name);
    return true;
}

/* What the operator should hear first about this node: causes before what follows from them. Where
 * the protocol keeps a view from this node, its keeper can't be armed either. */
static void fill_alarm(const struct hamgrd *d, char *ret_alarm)
{
    bool is_kept_out = !d->is_stopped && !d->rt.is_store_failed && !d->rt.is_open &&
                       fill_version_alarm(d, ret_alarm);

    if (is_kept_out)
        return;
    if (d->is_stopped)
        snprintf(ret_alarm, HA_TEXT_MAX, "stopped deciding: %.200s", d->alarm);
    else if (d->rt.is_store_failed)
        snprintf(ret_alarm, HA_TEXT_MAX, "the store failed: this node's vote is resigned");
    else if (!d->is_hv_welcomed && !d->config.is_witness)
        snprintf(ret_alarm, HA_TEXT_MAX, "hamgr-hv does not answer");
    else if (!d->is_keeper_known && !d->config.is_witness)
        snprintf(ret_alarm, HA_TEXT_MAX, "hamgr-watchdog does not answer");
    else if (!d->keeper_status.is_armed && !d->config.is_witness && !d->state.is_disarmed)
        snprintf(ret_alarm, HA_TEXT_MAX, "the watchdog is not armed: %.200s",
                 d->keeper_status.text[0] ? d->keeper_status.text
                                          : "it will be once this node is in an open view");
    else if (d->alarm[0])
        snprintf(ret_alarm, HA_TEXT_MAX, "%s", d->alarm);
    else if (!fill_version_alarm(d, ret_alarm))
        fill_guest_alarm(d, ret_alarm);
}

static void fill_report(const struct hamgrd *d, struct ha_report *report)
{
    memset(report, 0, sizeof(*report));
    report->node = d->identity.node;
    report->is_hv_ready = d->is_hv_welcomed;
    report->is_quarantined = d->rt.is_quarantined;
    report->is_shutting_down = d->is_shutting_down;
    report->is_keeper_armed = d->is_keeper_known && d->keeper_status.is_armed;
    for (uint32_t i = 0; i < d->verb_count; i++)
        report->starting_count += d->verbs[i].v.verb == HA_VERB_CREATE;
    report->applied = d->state.applied;
    if (d->is_hv_welcomed && !d->config.is_witness)
        report->mem_kib = d->config.mem_kib && d->config.mem_kib < d->hv_welcome.caps.mem_kib
                              ? d->config.mem_kib
                              : d->hv_welcome.caps.mem_kib;
    report->fence_devices = d->own_devices.count;
    report->store_stall_ms = (uint32_t)d->rt.store_stall_ms;
    _Static_assert(sizeof(HA_VERSION) <= sizeof(report->version), "the version fits a report");
    memcpy(report->version, HA_VERSION, sizeof(HA_VERSION));
    fill_alarm(d, report->alarm);
}

/* Changes that others decide by are told at once; the rest each second. */
static bool is_urgent(const struct ha_report *old, const struct ha_report *now)
{
    return old->is_hv_ready != now->is_hv_ready || old->is_quarantined != now->is_quarantined ||
           old->is_shutting_down != now->is_shutting_down ||
           old->is_keeper_armed != now->is_keeper_armed || old->mem_kib != now->mem_kib ||
           strcmp(old->alarm, now->alarm) != 0;
}

static void take_report(struct hamgrd *d, uint32_t from, const struct ha_report *report)
{
    int slot = shell_node_slot(d, from);

    if (slot < 0)
        return;
    bool changed = is_urgent(&d->rt.reports[slot], report);
    d->rt.reports[slot] = *report;
    d->rt.reports[slot].node = from;
    d->rt.reports[slot].received_ms = shell_now_ms();
    if (changed)
        shell_wake(d);
}

/* That fence.conf names none any more is told as well, or the others go on asking for what it named
 * and count it in. A hamgr-fence that is gone has not forgotten its file. */
static void tell_devices(struct hamgrd *d, uint64_t now_ms)
{
    bool is_emptied = d->own_devices.count == 0 && d->is_fence_listed && d->has_told_devices;

    if ((d->own_devices.count == 0 && !is_emptied) ||
        (d->devices_sent_ms && now_ms < d->devices_sent_ms + DEVICES_EVERY_MS))
        return;
    d->devices_sent_ms = now_ms;
    d->has_told_devices = true;
    peers_send(d, PEER_DEVICES, 0, put_devices, &d->own_devices);
}

void peers_report(struct hamgrd *d)
{
    struct ha_report report;
    uint64_t now_ms = shell_now_ms();

    fill_report(d, &report);
    memcpy(d->rt.alarm, report.alarm, sizeof(d->rt.alarm));
    take_report(d, d->identity.node, &report);
    tell_devices(d, now_ms);
    if (!is_urgent(&d->report_sent, &report) && now_ms < d->report_sent_ms + REPORT_EVERY_MS)
        return;
    d->report_sent = report;
    d->report_sent_ms = now_ms;
    peers_send(d, PEER_REPORT, 0, put_report, &report);
}

static void on_report(struct hamgrd *d, uint32_t from, struct ha_reader *r)
{
    struct ha_report report = {0};

    if (peer_report_decode(r, &report) == 0)
        take_report(d, from, &report);
}

static void on_devices(struct hamgrd *d, uint32_t from, struct ha_reader *r)
{
    static struct peer_devices devices;
    struct ha_digest none = {0};
    struct ha_digest digest = ha_digest_bytes(none, r->data + r->position, r->size - r->position);

    if (!leader_knows_devices(d, from, digest) && peer_devices_decode(r, &devices) == 0)
        leader_devices(d, from, digest, &devices);
}

static void on_fence(struct hamgrd *d, uint32_t from, uint8_t type, struct ha_reader *r)
{
    struct peer_fence fence;

    if (peer_fence_decode(r, &fence) < 0)
        return;
    if (type == PEER_FENCE_RUN)
        leader_fence_run(d, from, &fence);
    else
        leader_fence_result(d, from, &fence);
}

static void on_chunk(struct hamgrd *d, uint32_t from, uint8_t type, struct ha_reader *r)
{
    struct peer_chunk chunk;

    if (peer_chunk_decode(r, &chunk) < 0)
        return;
    if (type == PEER_SNAPSHOT)
        transfer_chunk(d, from, &chunk);
    else
        transfer_ack(d, from, &chunk);
}

static void on_move(struct hamgrd *d, uint32_t from, uint8_t type, struct ha_reader *r)
{
    struct peer_move_ready ready;
    struct ha_move_progress progress = {0};

    if (type == PEER_MOVE_READY) {
        if (peer_move_ready_decode(r, &ready) == 0)
            moves_ready(d, from, &ready);
    } else if (type == PEER_HANDOVER) {
        uint64_t ticket = ha_get_u64(r);
        if (ha_reader_is_done(r))
            moves_handover(d, from, ticket);
    } else if (peer_progress_decode(r, &progress) == 0) {
        moves_peer_progress(d, from, &progress);
    }
}

static void on_forecast(struct hamgrd *d, uint32_t from, uint8_t type, struct ha_reader *r)
{
    struct peer_forecast forecast;

    if (peer_forecast_decode(r, &forecast) < 0)
        return;
    if (type == PEER_FORECAST_ASK)
        forecast_asked(d, from, &forecast);
    else
        forecast_told(d, &forecast);
}

static void on_probe(struct hamgrd *d, uint32_t from, uint8_t type, struct ha_reader *r)
{
    struct peer_probe probe;

    if (type == PEER_PROBE_ASK) {
        uint64_t id = ha_get_u64(r);
        if (ha_reader_is_done(r))
            probe_asked(d, from, id);
    } else if (peer_probe_decode(r, &probe) == 0) {
        probe_ready(d, from, &probe);
    }
}

static void on_facts(struct hamgrd *d, uint32_t from, uint8_t type, struct ha_reader *r)
{
    static struct peer_facts_ask ask;
    static struct peer_facts_tell tell;

    if (type == PEER_FACTS_ASK && peer_facts_ask_decode(r, &ask) == 0)
        doctor_asked(d, from, &ask);
    else if (type == PEER_FACTS_TELL && peer_facts_tell_decode(r, &tell) == 0)
        doctor_told(d, from, &tell);
}

static void on_things(struct hamgrd *d, uint32_t from, struct ha_reader *r)
{
    static struct peer_things things;

    if (peer_things_decode(r, &things) == 0)
        things_told(d, from, &things);
}

/* Said once of each process that speaks another version of these messages. */
static void complain(struct hamgrd *d, uint32_t from, uint64_t nonce)
{
    for (uint32_t i = 0; i < SHELL_STRANGERS; i++)
        if (d->strangers[i] == nonce)
            return;
    d->strangers[d->stranger_count++ % SHELL_STRANGERS] = nonce;
    qb_log(LOG_ERR,
           "%s runs another version of hamgr: what it says is not understood here. All nodes need "
           "the same one",
           shell_node_name(d, from));
}

void peers_message(struct hamgrd *d, uint32_t from, const uint8_t *data, size_t size)
{
    struct ha_reader r = ha_reader_of(data, size);
    struct peer_header header;

    int rc = peer_header_decode(&r, &header);
    if (rc == -HA_E_VERSION && from != d->identity.node)
        complain(d, from, header.nonce);
    if (rc < 0 || !ha_uuid_equal(header.cluster_id, d->identity.cluster_id) ||
        header.generation != d->identity.generation)
        return;
    if (from == d->identity.node && header.nonce == d->nonce)
        return; /* our own */
    if (header.to != 0 && header.to != d->identity.node)
        return;
    switch ((enum peer_type)header.type) {
    case PEER_REPORT:
        on_report(d, from, &r);
        break;
    case PEER_DEVICES:
        on_devices(d, from, &r);
        break;
    case PEER_FENCE_RUN:
    case PEER_FENCE_RESULT:
        on_fence(d, from, header.type, &r);
        break;
    case PEER_MOVE_READY:
    case PEER_HANDOVER:
    case PEER_MOVE_PROGRESS:
        on_move(d, from, header.type, &r);
        break;
    case PEER_SNAPSHOT:
    case PEER_SNAPSHOT_ACK:
        on_chunk(d, from, header.type, &r);
        break;
    case PEER_FORECAST_ASK:
    case PEER_FORECAST_TELL:
        on_forecast(d, from, header.type, &r);
        break;
    case PEER_FACTS_ASK:
    case PEER_FACTS_TELL:
        on_facts(d, from, header.type, &r);
        break;
    case PEER_THINGS:
        on_things(d, from, &r);
        break;
    case PEER_PROBE_ASK:
    case PEER_PROBE_READY:
        on_probe(d, from, header.type, &r);
        break;
    }
}
