/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the hamgrd <-> hamgr-stream messages.
 */
#include "hamgr/ipc/streamproto.h"

#include <string.h>

#include "hamgr/ipc/codec.h"

#define ZSTD_LEVEL_MAX  22
#define CONNECTIONS_MAX 8

void streamp_start_encode(struct ha_writer *w, const struct streamp_start *m)
{
    ipc_put_bool(w, m->is_sender);
    ipc_put_bool(w, m->is_listener);
    ha_put_uuid(w, m->cluster_id);
    ha_put_u64(w, m->generation);
    ha_put_u64(w, m->ticket);
    ha_put_uuid(w, m->guest);
    ha_put_u64(w, m->epoch);
    ha_put_raw(w, m->secret, sizeof(m->secret));
    ha_put_text(w, m->peer_name);
    ha_put_u8(w, m->level);
    ha_put_u32(w, m->rate_mbit);
    ha_put_u32(w, m->idle_timeout_ms);
    ha_put_u8(w, m->connections);
    ha_put_u32(w, m->grace_ms);
    ha_put_u32(w, m->cache_mib);
    ha_put_u8(w, m->workers);
    ipc_put_bool(w, m->is_identical);
    ha_put_u32(w, m->probe_mib);
}

int streamp_start_decode(const uint8_t *body, size_t size, struct streamp_start *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->is_sender = ipc_get_bool(&r);
    ret->is_listener = ipc_get_bool(&r);
    ret->cluster_id = ha_get_uuid(&r);
    ret->generation = ha_get_u64(&r);
    ret->ticket = ha_get_u64(&r);
    ret->guest = ha_get_uuid(&r);
    ret->epoch = ha_get_u64(&r);
    const uint8_t *secret = ha_get_raw(&r, sizeof(ret->secret));
    if (secret)
        memcpy(ret->secret, secret, sizeof(ret->secret));
    ha_get_text(&r, ret->peer_name, sizeof(ret->peer_name));
    ret->level = ha_get_u8(&r);
    ret->rate_mbit = ha_get_u32(&r);
    ret->idle_timeout_ms = ha_get_u32(&r);
    ret->connections = 0;
    ret->grace_ms = ret->cache_mib = 0;
    ret->workers = 0;
    ret->is_identical = false;
    ret->probe_mib = 0;
    if (ret->level > ZSTD_LEVEL_MAX && ret->level != STREAMP_LEVEL_AUTO)
        r.failed = true;
    if (ha_reader_is_done(&r))
        return 0;
    ret->connections = ipc_get_range(&r, 0, CONNECTIONS_MAX);
    ret->grace_ms = ha_get_u32(&r);
    ret->cache_mib = ha_get_u32(&r);
    ret->workers = ha_get_u8(&r);
    ret->is_identical = ipc_get_bool(&r);
    if (ret->cache_mib > STREAMP_CACHE_MAX)
        r.failed = true;
    if (ha_reader_is_done(&r))
        return 0;
    ret->probe_mib = ha_get_u32(&r);
    if (ret->probe_mib > STREAMP_PROBE_MAX)
        r.failed = true;
    return ipc_done(&r);
}

void streamp_lane_encode(struct ha_writer *w, const struct streamp_lane *m)
{
    ha_put_u16(w, m->lane);
}

int streamp_lane_decode(const uint8_t *body, size_t size, struct streamp_lane *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->lane = ha_get_u16(&r);
    if (ret->lane > CONNECTIONS_MAX)
        r.failed = true;
    return ipc_done(&r);
}

static void put_progress(struct ha_writer *w, const struct streamp_progress *m)
{
    ha_put_u64(w, m->raw_bytes);
    ha_put_u64(w, m->wire_bytes);
    ha_put_u64(w, m->pages);
    ha_put_u64(w, m->zero_pages);
    ha_put_u64(w, m->elapsed_ms);
    ha_put_u64(w, m->same_pages);
    ha_put_u64(w, m->delta_pages);
    ha_put_u32(w, m->codec_mbit);
    ha_put_u32(w, m->link_mbit);
    ha_put_u8(w, (uint8_t)m->level);
    ipc_put_bool(w, m->is_patient);
}

static void get_progress(struct ha_reader *r, struct streamp_progress *m)
{
    m->raw_bytes = ha_get_u64(r);
    m->wire_bytes = ha_get_u64(r);
    m->pages = ha_get_u64(r);
    m->zero_pages = ha_get_u64(r);
    m->elapsed_ms = ha_get_u64(r);
    m->same_pages = ha_get_u64(r);
    m->delta_pages = ha_get_u64(r);
    m->codec_mbit = ha_get_u32(r);
    m->link_mbit = ha_get_u32(r);
    m->level = (int8_t)ha_get_u8(r);
    m->is_patient = ipc_get_bool(r);
}

void streamp_progress_encode(struct ha_writer *w, const struct streamp_progress *m)
{
    put_progress(w, m);
}

int streamp_progress_decode(const uint8_t *body, size_t size, struct streamp_progress *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    get_progress(&r, ret);
    return ipc_done(&r);
}

void streamp_end_encode(struct ha_writer *w, const struct streamp_end *m)
{
    ipc_put_bool(w, m->is_ok);
    put_progress(w, &m->total);
    ha_put_text(w, m->text);
}

int streamp_end_decode(const uint8_t *body, size_t size, struct streamp_end *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->is_ok = ipc_get_bool(&r);
    get_progress(&r, &ret->total);
    ha_get_text(&r, ret->text, sizeof(ret->text));
    return ipc_done(&r);
}
