/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the keeper's messages. The shared page is in keeperpage.c, which is not pure.
 */
#include "hamgr/ipc/keeperproto.h"

#include "hamgr/ipc/codec.h"

void keeper_arm_encode(struct ha_writer *w, const struct keeper_arm *m)
{
    ha_put_u32(w, m->lease_ms);
    ha_put_u32(w, m->watchdog_ms);
}

int keeper_arm_decode(const uint8_t *body, size_t size, struct keeper_arm *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->lease_ms = ha_get_u32(&r);
    ret->watchdog_ms = ha_get_u32(&r);
    return ipc_done(&r);
}

void keeper_lease_encode(struct ha_writer *w, const struct keeper_lease *m)
{
    ha_put_u64(w, m->nonce);
    ha_put_u64(w, m->end_ns);
}

int keeper_lease_decode(const uint8_t *body, size_t size, struct keeper_lease *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->nonce = ha_get_u64(&r);
    ret->end_ns = ha_get_u64(&r);
    return ipc_done(&r);
}

void keeper_proof_encode(struct ha_writer *w, const struct keeper_proof *m)
{
    ha_put_u64(w, m->taken_ns);
}

int keeper_proof_decode(const uint8_t *body, size_t size, struct keeper_proof *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->taken_ns = ha_get_u64(&r);
    return ipc_done(&r);
}

void keeper_status_encode(struct ha_writer *w, const struct keeper_status *m)
{
    ipc_put_bool(w, m->is_armed);
    ha_put_u32(w, m->watchdog_ms);
    ipc_put_bool(w, m->is_quarantined);
    ha_put_u64(w, m->lease_end_ns);
    ha_put_text(w, m->text);
}

int keeper_status_decode(const uint8_t *body, size_t size, struct keeper_status *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->is_armed = ipc_get_bool(&r);
    ret->watchdog_ms = ha_get_u32(&r);
    ret->is_quarantined = ipc_get_bool(&r);
    ret->lease_end_ns = ha_get_u64(&r);
    ha_get_text(&r, ret->text, sizeof(ret->text));
    return ipc_done(&r);
}
