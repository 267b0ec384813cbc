/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the hamgrd <-> hamgr-fence messages.
 */
#include "hamgr/ipc/fenceproto.h"

#include "hamgr/ipc/codec.h"

#define LEVEL_LOWEST  1
#define LEVEL_HIGHEST 9

void fencep_run_encode(struct ha_writer *w, const struct fencep_run *m)
{
    ha_put_text(w, m->device);
    ha_put_text(w, m->node);
    ha_put_u8(w, m->action);
    ha_put_u32(w, m->timeout_ms);
    ha_put_u64(w, m->end_ms);
}

int fencep_run_decode(const uint8_t *body, size_t size, struct fencep_run *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ha_get_text(&r, ret->device, sizeof(ret->device));
    ha_get_text(&r, ret->node, sizeof(ret->node));
    ret->action = ipc_get_range(&r, FENCEP_OFF, FENCEP_MONITOR);
    ret->timeout_ms = ha_get_u32(&r);
    ret->end_ms = ha_get_u64(&r);
    return ipc_done(&r);
}

void fencep_vouch_encode(struct ha_writer *w, const struct fencep_vouch *m)
{
    ha_put_u64(w, m->id);
    ha_put_u64(w, m->end_ms);
}

int fencep_vouch_decode(const uint8_t *body, size_t size, struct fencep_vouch *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->id = ha_get_u64(&r);
    ret->end_ms = ha_get_u64(&r);
    return ipc_done(&r);
}

void fencep_cancel_encode(struct ha_writer *w, const struct fencep_cancel *m)
{
    ha_put_u64(w, m->id);
}

int fencep_cancel_decode(const uint8_t *body, size_t size, struct fencep_cancel *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->id = ha_get_u64(&r);
    return ipc_done(&r);
}

void fencep_result_encode(struct ha_writer *w, const struct fencep_result *m)
{
    ha_put_u8(w, m->outcome);
    ha_put_u32(w, m->elapsed_ms);
    ha_put_text(w, m->text);
}

int fencep_result_decode(const uint8_t *body, size_t size, struct fencep_result *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->outcome = ipc_get_range(&r, FENCEP_VERIFIED_OFF, FENCEP_CANCELLED);
    ret->elapsed_ms = ha_get_u32(&r);
    ha_get_text(&r, ret->text, sizeof(ret->text));
    return ipc_done(&r);
}

void fencep_devices_encode(struct ha_writer *w, const struct fencep_devices *m)
{
    const struct fencep_device *d = &m->device;

    ipc_put_bool(w, m->is_last);
    ha_put_text(w, d->name);
    ha_put_text(w, d->agent);
    ha_put_u8(w, d->level);
    ha_put_u32(w, d->timeout_ms);
    ipc_put_bool(w, d->is_for_all);
    if (d->node_count > HA_NODES_MAX) {
        w->failed = true;
        return;
    }
    ha_put_u32(w, d->node_count);
    for (uint32_t i = 0; i < d->node_count; i++)
        ha_put_text(w, d->nodes[i]);
    ha_put_u64(w, d->proven_wall_ms);
}

/* A node without devices says so by one packet with an empty name, whose level is 0. */
int fencep_devices_decode(const uint8_t *body, size_t size, struct fencep_devices *ret)
{
    struct ha_reader r = ha_reader_of(body, size);
    struct fencep_device *d = &ret->device;

    ret->is_last = ipc_get_bool(&r);
    ha_get_text(&r, d->name, sizeof(d->name));
    ha_get_text(&r, d->agent, sizeof(d->agent));
    d->level = ipc_get_range(&r, d->name[0] == '\0' ? 0 : LEVEL_LOWEST, LEVEL_HIGHEST);
    d->timeout_ms = ha_get_u32(&r);
    d->is_for_all = ipc_get_bool(&r);
    d->node_count = ha_get_u32(&r);
    if (r.failed || d->node_count > HA_NODES_MAX) {
        d->node_count = 0;
        return -HA_E_PEER;
    }
    for (uint32_t i = 0; i < d->node_count; i++)
        ha_get_text(&r, d->nodes[i], sizeof(d->nodes[i]));
    d->proven_wall_ms = ha_get_u64(&r);
    return ipc_done(&r);
}
