/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/shell/message.h"

struct ha_digest peer_digest(uint32_t node, const uint8_t *data, size_t size)
{
    return ha_digest_bytes((struct ha_digest){PEER_MAGIC, node}, data, size);
}

bool peer_is_whole(uint32_t from, const uint8_t *data, size_t *size)
{
    if (*size <= sizeof(struct ha_digest))
        return false;
    size_t length = *size - sizeof(struct ha_digest);
    struct ha_reader r = ha_reader_of(data + length, sizeof(struct ha_digest));
    if (!ha_digest_equal(ha_get_digest(&r), peer_digest(from, data, length)))
        return false;
    *size = length;
    return true;
}

void peer_header_encode(struct ha_writer *w, const struct peer_header *m)
{
    ha_put_u32(w, PEER_MAGIC);
    ha_put_u8(w, PEER_VERSION);
    ha_put_u8(w, m->type);
    ha_put_uuid(w, m->cluster_id);
    ha_put_u64(w, m->generation);
    ha_put_u64(w, m->nonce);
    ha_put_u32(w, m->to);
}

int peer_header_decode(struct ha_reader *r, struct peer_header *ret)
{
    uint32_t magic = ha_get_u32(r);
    uint8_t version = ha_get_u8(r);

    ret->type = ha_get_u8(r);
    ret->cluster_id = ha_get_uuid(r);
    ret->generation = ha_get_u64(r);
    ret->nonce = ha_get_u64(r);
    ret->to = ha_get_u32(r);
    if (r->failed || magic != PEER_MAGIC || ret->type < PEER_REPORT || ret->type > PEER_PROBE_READY)
        return -HA_E_CORRUPT;
    return version == PEER_VERSION ? 0 : -HA_E_VERSION;
}

bool peer_is_message(const uint8_t *data, size_t size)
{
    struct ha_reader r = ha_reader_of(data, size);

    return ha_get_u32(&r) == PEER_MAGIC && !r.failed;
}

static bool get_bool(struct ha_reader *r)
{
    uint8_t value = ha_get_u8(r);

    if (value > 1)
        r->failed = true;
    return value == 1;
}

static int done(const struct ha_reader *r)
{
    return ha_reader_is_done(r) ? 0 : -HA_E_CORRUPT;
}

void peer_report_encode(struct ha_writer *w, const struct ha_report *m)
{
    unsigned flags = (m->is_hv_ready ? 1u : 0) | (m->is_quarantined ? 2u : 0) |
                     (m->is_shutting_down ? 4u : 0) | (m->is_keeper_armed ? 8u : 0);

    ha_put_u8(w, (uint8_t)flags);
    ha_put_u32(w, m->starting_count);
    ha_put_u64(w, m->applied);
    ha_put_u64(w, m->mem_kib);
    ha_put_u32(w, m->fence_devices);
    ha_put_u32(w, m->store_stall_ms);
    ha_put_text(w, m->version);
    ha_put_text(w, m->alarm);
}

int peer_report_decode(struct ha_reader *r, struct ha_report *ret)
{
    uint8_t flags = ha_get_u8(r);

    if (flags > 15u)
        r->failed = true;
    ret->is_hv_ready = flags & 1u;
    ret->is_quarantined = flags & 2u;
    ret->is_shutting_down = flags & 4u;
    ret->is_keeper_armed = flags & 8u;
    ret->starting_count = ha_get_u32(r);
    ret->applied = ha_get_u64(r);
    ret->mem_kib = ha_get_u64(r);
    ret->fence_devices = ha_get_u32(r);
    ret->store_stall_ms = ha_get_u32(r);
    ha_get_text(r, ret->version, sizeof(ret->version));
    ha_get_text(r, ret->alarm, sizeof(ret->alarm));
    return done(r);
}

void peer_devices_encode(struct ha_writer *w, const struct peer_devices *m)
{
    ha_put_u32(w, m->count);
    for (uint32_t i = 0; i < m->count; i++) {
        const struct fencep_device *d = &m->list[i];
        ha_put_text(w, d->name);
        ha_put_text(w, d->agent);
        ha_put_u8(w, d->level);
        ha_put_u32(w, d->timeout_ms);
        ha_put_u8(w, d->is_for_all);
        ha_put_u64(w, d->proven_wall_ms);
        ha_put_u32(w, d->node_count);
        for (uint32_t n = 0; n < d->node_count; n++)
            ha_put_text(w, d->nodes[n]);
    }
}

static void get_device(struct ha_reader *r, struct fencep_device *d)
{
    ha_get_text(r, d->name, sizeof(d->name));
    ha_get_text(r, d->agent, sizeof(d->agent));
    d->level = ha_get_u8(r);
    d->timeout_ms = ha_get_u32(r);
    d->is_for_all = get_bool(r);
    d->proven_wall_ms = ha_get_u64(r);
    d->node_count = ha_get_u32(r);
    if (d->node_count > HA_NODES_MAX || d->level < 1 || d->level > 9) {
        r->failed = true;
        return;
    }
    for (uint32_t n = 0; n < d->node_count && !r->failed; n++)
        ha_get_text(r, d->nodes[n], sizeof(d->nodes[n]));
}

int peer_devices_decode(struct ha_reader *r, struct peer_devices *ret)
{
    ret->count = ha_get_u32(r);
    if (ret->count > PEER_DEVICES_MAX)
        return -HA_E_CORRUPT;
    for (uint32_t i = 0; i < ret->count && !r->failed; i++)
        get_device(r, &ret->list[i]);
    return done(r);
}

void peer_fence_encode(struct ha_writer *w, const struct peer_fence *m)
{
    ha_put_u64(w, m->id);
    ha_put_text(w, m->run.device);
    ha_put_text(w, m->run.node);
    ha_put_u8(w, m->run.action);
    ha_put_u32(w, m->run.timeout_ms);
    ha_put_u8(w, m->result.outcome);
    ha_put_u32(w, m->result.elapsed_ms);
    ha_put_text(w, m->result.text);
}

int peer_fence_decode(struct ha_reader *r, struct peer_fence *ret)
{
    ret->id = ha_get_u64(r);
    ha_get_text(r, ret->run.device, sizeof(ret->run.device));
    ha_get_text(r, ret->run.node, sizeof(ret->run.node));
    ret->run.action = ha_get_u8(r);
    ret->run.timeout_ms = ha_get_u32(r);
    ret->result.outcome = ha_get_u8(r);
    ret->result.elapsed_ms = ha_get_u32(r);
    ha_get_text(r, ret->result.text, sizeof(ret->result.text));
    if (ret->run.action < FENCEP_OFF || ret->run.action > FENCEP_MONITOR ||
        ret->result.outcome > FENCEP_CANCELLED)
        return -HA_E_CORRUPT;
    return done(r);
}

void peer_move_ready_encode(struct ha_writer *w, const struct peer_move_ready *m)
{
    ha_put_u64(w, m->ticket);
    ha_put_u16(w, m->port);
    ha_put_text(w, m->addr);
    ha_put_raw(w, m->secret, sizeof(m->secret));
}

int peer_move_ready_decode(struct ha_reader *r, struct peer_move_ready *ret)
{
    ret->ticket = ha_get_u64(r);
    ret->port = ha_get_u16(r);
    ha_get_text(r, ret->addr, sizeof(ret->addr));
    const uint8_t *secret = ha_get_raw(r, sizeof(ret->secret));
    if (secret)
        memcpy(ret->secret, secret, sizeof(ret->secret));
    return done(r);
}

void peer_progress_encode(struct ha_writer *w, const struct ha_move_progress *m)
{
    ha_put_u64(w, m->ticket);
    ha_put_u8(w, m->step);
    ha_put_u32(w, m->hv.round);
    ha_put_u64(w, m->hv.pages_total);
    ha_put_u64(w, m->hv.pages_sent);
    ha_put_u64(w, m->hv.pages_dirty);
    ha_put_u64(w, m->hv.bytes);
    ha_put_u32(w, m->hv.dirty_kib_s);
    ha_put_u8(w, m->hv.phase);
    ha_put_u32(w, m->hv.predicted_us);
    ha_put_u8(w, m->hv.throttle_percent);
    ha_put_u64(w, m->wire_bytes);
    ha_put_u64(w, m->rate_kib_s);
    ha_put_u64(w, m->remaining_kib);
    ha_put_u32(w, m->eta_ms);
    ha_put_u64(w, m->elapsed_ms);
    ha_put_u8(w, m->is_diverging);
    ha_put_u32(w, m->pause_us);
    ha_put_u32(w, m->forecast_ms);
    ha_put_u32(w, m->forecast_pause_ms);
    ha_put_u64(w, m->forecast_bytes);
    ha_put_u8(w, m->packing.is_known);
    ha_put_u8(w, (uint8_t)m->packing.level);
    ha_put_u32(w, m->packing.codec_mbit);
    ha_put_u32(w, m->packing.link_mbit);
    ha_put_text(w, m->text);
}

int peer_progress_decode(struct ha_reader *r, struct ha_move_progress *ret)
{
    ret->ticket = ha_get_u64(r);
    ret->step = ha_get_u8(r);
    ret->hv.round = ha_get_u32(r);
    ret->hv.pages_total = ha_get_u64(r);
    ret->hv.pages_sent = ha_get_u64(r);
    ret->hv.pages_dirty = ha_get_u64(r);
    ret->hv.bytes = ha_get_u64(r);
    ret->hv.dirty_kib_s = ha_get_u32(r);
    ret->hv.phase = ha_get_u8(r);
    ret->hv.predicted_us = ha_get_u32(r);
    ret->hv.throttle_percent = ha_get_u8(r);
    ret->wire_bytes = ha_get_u64(r);
    ret->rate_kib_s = ha_get_u64(r);
    ret->remaining_kib = ha_get_u64(r);
    ret->eta_ms = ha_get_u32(r);
    ret->elapsed_ms = ha_get_u64(r);
    ret->is_diverging = get_bool(r);
    ret->pause_us = ha_get_u32(r);
    ret->forecast_ms = ha_get_u32(r);
    ret->forecast_pause_ms = ha_get_u32(r);
    ret->forecast_bytes = ha_get_u64(r);
    ret->packing.is_known = get_bool(r);
    ret->packing.level = (int8_t)ha_get_u8(r);
    ret->packing.codec_mbit = ha_get_u32(r);
    ret->packing.link_mbit = ha_get_u32(r);
    ha_get_text(r, ret->text, sizeof(ret->text));
    if (ret->step < HA_MOVE_PREPARING || ret->step > HA_MOVE_FAILED)
        return -HA_E_CORRUPT;
    return done(r);
}

void peer_forecast_encode(struct ha_writer *w, const struct peer_forecast *m)
{
    const struct precopy_forecast *f = &m->forecast;

    ha_put_u64(w, m->id);
    ha_put_uuid(w, m->guest);
    ha_put_u32(w, m->dst);
    ha_put_u32(w, m->max_downtime_ms);
    ha_put_u8(w, m->is_ok);
    ha_put_u8(w, m->rate_from);
    ha_put_u64(w, m->dirty_bytes_s);
    ha_put_u64(w, m->rate_bytes_s);
    ha_put_u64(w, m->link_bytes_s);
    ha_put_u32(w, m->link_rtt_us);
    ha_put_u8(w, f->is_converging);
    ha_put_u64(w, f->time_ms);
    ha_put_u64(w, f->time_low_ms);
    ha_put_u64(w, f->time_high_ms);
    ha_put_u64(w, f->pause_ms);
    ha_put_u64(w, f->pause_low_ms);
    ha_put_u64(w, f->pause_high_ms);
    ha_put_u64(w, f->bytes);
    ha_put_u64(w, f->bytes_low);
    ha_put_u64(w, f->bytes_high);
    ha_put_u32(w, f->rounds);
    ha_put_text(w, m->link_text);
    ha_put_text(w, m->text);
}

int peer_forecast_decode(struct ha_reader *r, struct peer_forecast *ret)
{
    struct precopy_forecast *f = &ret->forecast;

    ret->id = ha_get_u64(r);
    ret->guest = ha_get_uuid(r);
    ret->dst = ha_get_u32(r);
    ret->max_downtime_ms = ha_get_u32(r);
    ret->is_ok = get_bool(r);
    ret->rate_from = ha_get_u8(r);
    if (ret->rate_from > PRECOPY_FROM_PROBE)
        r->failed = true;
    ret->dirty_bytes_s = ha_get_u64(r);
    ret->rate_bytes_s = ha_get_u64(r);
    ret->link_bytes_s = ha_get_u64(r);
    ret->link_rtt_us = ha_get_u32(r);
    f->is_converging = get_bool(r);
    f->time_ms = ha_get_u64(r);
    f->time_low_ms = ha_get_u64(r);
    f->time_high_ms = ha_get_u64(r);
    f->pause_ms = ha_get_u64(r);
    f->pause_low_ms = ha_get_u64(r);
    f->pause_high_ms = ha_get_u64(r);
    f->bytes = ha_get_u64(r);
    f->bytes_low = ha_get_u64(r);
    f->bytes_high = ha_get_u64(r);
    f->rounds = ha_get_u32(r);
    ha_get_text(r, ret->link_text, sizeof(ret->link_text));
    ha_get_text(r, ret->text, sizeof(ret->text));
    return done(r);
}

void peer_probe_encode(struct ha_writer *w, const struct peer_probe *m)
{
    ha_put_u64(w, m->id);
    ha_put_u8(w, m->is_ok);
    ha_put_u16(w, m->port);
    ha_put_text(w, m->addr);
    ha_put_raw(w, m->secret, sizeof(m->secret));
    ha_put_text(w, m->text);
}

int peer_probe_decode(struct ha_reader *r, struct peer_probe *ret)
{
    ret->id = ha_get_u64(r);
    ret->is_ok = get_bool(r);
    ret->port = ha_get_u16(r);
    ha_get_text(r, ret->addr, sizeof(ret->addr));
    const uint8_t *secret = ha_get_raw(r, sizeof(ret->secret));
    if (secret)
        memcpy(ret->secret, secret, sizeof(ret->secret));
    ha_get_text(r, ret->text, sizeof(ret->text));
    return done(r);
}

void peer_facts_ask_encode(struct ha_writer *w, const struct peer_facts_ask *m)
{
    ha_put_u64(w, m->id);
    ha_put_u32(w, m->thing_count);
    for (uint32_t i = 0; i < m->thing_count; i++) {
        ha_put_u8(w, m->things[i].kind);
        ha_put_text(w, m->things[i].name);
    }
}

int peer_facts_ask_decode(struct ha_reader *r, struct peer_facts_ask *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->id = ha_get_u64(r);
    ret->thing_count = ha_get_u32(r);
    if (ret->thing_count > PEER_LOOK_MAX)
        return -HA_E_CORRUPT;
    for (uint32_t i = 0; i < ret->thing_count && !r->failed; i++) {
        struct look_thing *thing = &ret->things[i];
        thing->kind = ha_get_u8(r);
        ha_get_text(r, thing->name, sizeof(thing->name));
        r->failed = r->failed || thing->kind < LOOK_FILE || thing->kind > LOOK_MEDIUM;
    }
    return done(r);
}

void peer_facts_tell_encode(struct ha_writer *w, const struct peer_facts_tell *m)
{
    ha_put_u64(w, m->id);
    ha_facts_encode(w, &m->facts);
    ha_put_u32(w, m->found_count);
    for (uint32_t i = 0; i < m->found_count; i++) {
        ha_put_u8(w, m->found[i].state);
        ha_put_u64(w, m->found[i].id);
    }
}

int peer_facts_tell_decode(struct ha_reader *r, struct peer_facts_tell *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->id = ha_get_u64(r);
    ha_facts_decode(r, &ret->facts);
    ret->found_count = ha_get_u32(r);
    if (ret->found_count > PEER_LOOK_MAX)
        return -HA_E_CORRUPT;
    for (uint32_t i = 0; i < ret->found_count && !r->failed; i++) {
        ret->found[i].state = ha_get_u8(r);
        ret->found[i].id = ha_get_u64(r);
        r->failed = r->failed || ret->found[i].state > LOOK_LOCAL;
    }
    return done(r);
}

void peer_things_encode(struct ha_writer *w, const struct peer_things *m)
{
    ha_put_u8(w, m->is_paging_known);
    ha_put_u8(w, m->has_shadow);
    ha_put_u8(w, m->has_hap);
    ha_put_text(w, m->cpu.pv);
    ha_put_text(w, m->cpu.pv_max);
    ha_put_text(w, m->cpu.hvm);
    ha_put_text(w, m->cpu.hvm_max);
    ha_put_u32(w, m->count);
    for (uint32_t i = 0; i < m->count; i++) {
        ha_put_u64(w, m->found[i].key);
        ha_put_u8(w, m->found[i].state);
        ha_put_u64(w, m->found[i].id);
    }
}

int peer_things_decode(struct ha_reader *r, struct peer_things *ret)
{
    ret->is_paging_known = get_bool(r);
    ret->has_shadow = get_bool(r);
    ret->has_hap = get_bool(r);
    ha_get_text(r, ret->cpu.pv, sizeof(ret->cpu.pv));
    ha_get_text(r, ret->cpu.pv_max, sizeof(ret->cpu.pv_max));
    ha_get_text(r, ret->cpu.hvm, sizeof(ret->cpu.hvm));
    ha_get_text(r, ret->cpu.hvm_max, sizeof(ret->cpu.hvm_max));
    ret->count = ha_get_u32(r);
    if (ret->count > PEER_THINGS_MAX)
        return -HA_E_CORRUPT;
    for (uint32_t i = 0; i < ret->count && !r->failed; i++) {
        struct ha_found *found = &ret->found[i];
        found->key = ha_get_u64(r);
        found->state = ha_get_u8(r);
        found->id = ha_get_u64(r);
        bool is_sorted = i == 0 || ret->found[i - 1].key < found->key;
        r->failed = r->failed || found->state > LOOK_LOCAL || !is_sorted;
    }
    return done(r);
}

void peer_chunk_encode(struct ha_writer *w, const struct peer_chunk *m)
{
    ha_put_u64(w, m->transfer);
    ha_put_u64(w, m->index);
    ha_put_digest(w, m->digest);
    ha_put_u64(w, m->view.counter);
    ha_put_u32(w, m->view.leader);
    ha_put_u64(w, m->total);
    ha_put_u64(w, m->offset);
    ha_put_blob(w, m->data, m->size);
}

int peer_chunk_decode(struct ha_reader *r, struct peer_chunk *ret)
{
    ret->transfer = ha_get_u64(r);
    ret->index = ha_get_u64(r);
    ret->digest = ha_get_digest(r);
    ret->view.counter = ha_get_u64(r);
    ret->view.leader = ha_get_u32(r);
    ret->total = ha_get_u64(r);
    ret->offset = ha_get_u64(r);
    ret->data = ha_get_blob(r, HA_CHUNK_MAX, &ret->size);
    return done(r);
}
