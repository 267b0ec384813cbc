/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the hamgrd <-> hamgr-hv messages. Fields in the order of their structs, little-endian;
 * decoders refuse short, long and out-of-range bodies alike.
 */
#include "hamgr/ipc/hvproto.h"

#include "hamgr/ipc/codec.h"

void hvp_hello_encode(struct ha_writer *w, const struct hvp_hello *m)
{
    ha_put_uuid(w, m->cluster_id);
    ha_put_u64(w, m->generation);
    ipc_put_bool(w, m->is_disarmed);
    ipc_put_bool(w, m->is_frozen);
    ipc_put_bool(w, m->is_stale);
    ha_put_u16(w, HVP_VERSION);
}

int hvp_hello_decode(const uint8_t *body, size_t size, struct hvp_hello *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->cluster_id = ha_get_uuid(&r);
    ret->generation = ha_get_u64(&r);
    ret->is_disarmed = ipc_get_bool(&r);
    ret->is_frozen = ipc_get_bool(&r);
    ret->is_stale = ipc_get_bool(&r);
    bool is_fine = !r.failed;
    bool is_ours = ha_get_u16(&r) == HVP_VERSION;
    return is_fine && !is_ours ? -HA_E_VERSION : ipc_done(&r);
}

void hvp_welcome_encode(struct ha_writer *w, const struct hvp_welcome *m)
{
    ha_put_text(w, m->caps.driver);
    ha_put_text(w, m->caps.version);
    ha_put_u64(w, m->caps.mem_kib);
    ipc_put_bool(w, m->caps.has_live_migration);
    ipc_put_bool(w, m->caps.has_throttle);
    ipc_put_bool(w, m->caps.has_checkpoint);
    ipc_put_bool(w, m->caps.has_ring_feed);
    ipc_put_bool(w, m->caps.has_ring_restore);
    ha_put_uuid(w, m->boot_id);
    ha_put_uuid(w, m->hw_id);
}

int hvp_welcome_decode(const uint8_t *body, size_t size, struct hvp_welcome *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ha_get_text(&r, ret->caps.driver, sizeof(ret->caps.driver));
    ha_get_text(&r, ret->caps.version, sizeof(ret->caps.version));
    ret->caps.mem_kib = ha_get_u64(&r);
    ret->caps.has_live_migration = ipc_get_bool(&r);
    ret->caps.has_throttle = ipc_get_bool(&r);
    ret->caps.has_checkpoint = ipc_get_bool(&r);
    ret->caps.has_ring_feed = ipc_get_bool(&r);
    ret->caps.has_ring_restore = ipc_get_bool(&r);
    ret->boot_id = ha_get_uuid(&r);
    ret->hw_id = ha_get_uuid(&r);
    return ipc_done(&r);
}

void hvp_domain_encode(struct ha_writer *w, const struct hvp_domain *m)
{
    ha_put_uuid(w, m->guest);
    ha_put_u64(w, m->epoch);
    ha_put_u32(w, m->timeout_ms);
}

int hvp_domain_decode(const uint8_t *body, size_t size, struct hvp_domain *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->guest = ha_get_uuid(&r);
    ret->epoch = ha_get_u64(&r);
    ret->timeout_ms = ha_get_u32(&r);
    return ipc_done(&r);
}

void hvp_create_encode(struct ha_writer *w, const struct hvp_create *m)
{
    ha_put_uuid(w, m->guest);
    ha_put_u64(w, m->epoch);
    ha_put_u64(w, m->mem_kib);
    ha_put_text(w, m->name);
    ha_put_blob(w, m->definition, m->definition_size);
}

int hvp_create_decode(const uint8_t *body, size_t size, struct hvp_create *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->guest = ha_get_uuid(&r);
    ret->epoch = ha_get_u64(&r);
    ret->mem_kib = ha_get_u64(&r);
    ha_get_text(&r, ret->name, sizeof(ret->name));
    ret->definition = ha_get_blob(&r, HA_DEFINITION_MAX, &ret->definition_size);
    return ipc_done(&r);
}

void hvp_save_encode(struct ha_writer *w, const struct hvp_save *m)
{
    ha_put_uuid(w, m->guest);
    ha_put_u64(w, m->epoch);
    ipc_put_bool(w, m->is_live);
    ha_put_u32(w, m->max_downtime_ms);
    ha_put_u32(w, m->deadline_ms);
    ha_put_u8(w, m->on_slow);
    ha_put_u32(w, m->switch_us);
}

/* on_slow 0 is allowed where it has no meaning: a save that is not live never looks at it. */
int hvp_save_decode(const uint8_t *body, size_t size, struct hvp_save *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->guest = ha_get_uuid(&r);
    ret->epoch = ha_get_u64(&r);
    ret->is_live = ipc_get_bool(&r);
    ret->max_downtime_ms = ha_get_u32(&r);
    ret->deadline_ms = ha_get_u32(&r);
    ret->on_slow = ipc_get_range(&r, ret->is_live ? HV_SLOW_THROTTLE : 0, HV_SLOW_ABORT);
    ret->switch_us = ha_get_u32(&r);
    return ipc_done(&r);
}

void hvp_abort_encode(struct ha_writer *w, const struct hvp_abort *m)
{
    ha_put_u64(w, m->id);
}

int hvp_abort_decode(const uint8_t *body, size_t size, struct hvp_abort *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->id = ha_get_u64(&r);
    return ipc_done(&r);
}

void hvp_done_encode(struct ha_writer *w, const struct hvp_done *m)
{
    ha_put_u8(w, m->outcome);
    ha_put_u64(w, m->value);
    ha_put_text(w, m->text);
}

int hvp_done_decode(const uint8_t *body, size_t size, struct hvp_done *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->outcome = ipc_get_range(&r, HV_OK, HV_NOT_OFFERED);
    ret->value = ha_get_u64(&r);
    ha_get_text(&r, ret->text, sizeof(ret->text));
    return ipc_done(&r);
}

void hvp_gate_encode(struct ha_writer *w, const struct hvp_gate *m)
{
    ipc_put_bool(w, m->is_open);
    ipc_put_bool(w, m->is_quarantined);
    ha_put_u32(w, m->paused_count);
    ha_put_text(w, m->text);
}

int hvp_gate_decode(const uint8_t *body, size_t size, struct hvp_gate *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->is_open = ipc_get_bool(&r);
    ret->is_quarantined = ipc_get_bool(&r);
    ret->paused_count = ha_get_u32(&r);
    ha_get_text(&r, ret->text, sizeof(ret->text));
    return ipc_done(&r);
}

void hvp_progress_encode(struct ha_writer *w, const struct hv_progress *m)
{
    ha_put_u32(w, m->round);
    ha_put_u64(w, m->pages_total);
    ha_put_u64(w, m->pages_sent);
    ha_put_u64(w, m->pages_dirty);
    ha_put_u64(w, m->bytes);
    ha_put_u32(w, m->dirty_kib_s);
    ha_put_u8(w, m->phase);
    ha_put_u32(w, m->predicted_us);
    ha_put_u8(w, m->throttle_percent);
}

int hvp_progress_decode(const uint8_t *body, size_t size, struct hv_progress *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->round = ha_get_u32(&r);
    ret->pages_total = ha_get_u64(&r);
    ret->pages_sent = ha_get_u64(&r);
    ret->pages_dirty = ha_get_u64(&r);
    ret->bytes = ha_get_u64(&r);
    ret->dirty_kib_s = ha_get_u32(&r);
    ret->phase = ipc_get_range(&r, HV_LIVE, HV_COMPLETE);
    ret->predicted_us = ha_get_u32(&r);
    ret->throttle_percent = ipc_get_range(&r, 0, 100);
    return ipc_done(&r);
}

static void put_listed(struct ha_writer *w, const struct hv_domain *d)
{
    ha_put_u32(w, d->domid);
    ipc_put_bool(w, d->is_labelled);
    ha_put_uuid(w, d->label.cluster_id);
    ha_put_u64(w, d->label.generation);
    ha_put_uuid(w, d->label.guest);
    ha_put_u64(w, d->label.epoch);
    ha_put_u8(w, d->state);
    ha_put_u64(w, d->mem_kib);
    ha_put_u32(w, d->pause_us);
    ha_put_text(w, d->name);
}

static void get_listed(struct ha_reader *r, struct hv_domain *d)
{
    d->domid = ha_get_u32(r);
    d->is_labelled = ipc_get_bool(r);
    d->label.cluster_id = ha_get_uuid(r);
    d->label.generation = ha_get_u64(r);
    d->label.guest = ha_get_uuid(r);
    d->label.epoch = ha_get_u64(r);
    d->state = ipc_get_range(r, HV_BUILDING, HV_CRASHED);
    d->mem_kib = ha_get_u64(r);
    d->pause_us = ha_get_u32(r);
    ha_get_text(r, d->name, sizeof(d->name));
}

/* 512 domains of at most 131 bytes are 67077 bytes: below HA_IPC_MAX. */
void hvp_domains_encode(struct ha_writer *w, const struct hvp_domains *m)
{
    ipc_put_bool(w, m->is_last);
    if (m->count > HVP_DOMAINS_PER_PACKET) {
        w->failed = true;
        return;
    }
    ha_put_u32(w, m->count);
    for (uint32_t i = 0; i < m->count; i++)
        put_listed(w, &m->list[i]);
}

int hvp_domains_decode(const uint8_t *body, size_t size, struct hvp_domains *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->is_last = ipc_get_bool(&r);
    ret->count = ha_get_u32(&r);
    if (r.failed || ret->count > HVP_DOMAINS_PER_PACKET) {
        ret->count = 0;
        return -HA_E_PEER;
    }
    for (uint32_t i = 0; i < ret->count && !r.failed; i++)
        get_listed(&r, &ret->list[i]);
    return ipc_done(&r);
}
