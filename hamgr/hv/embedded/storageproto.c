/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of the messages between hamgr-disk and hamgr-storage.
 */
#include <string.h>

#include "hamgr/hv/embedded/storage.h"

static int done(const struct ha_reader *r)
{
    return ha_reader_is_done(r) ? 0 : -HA_E_PEER;
}

void storagep_hello_encode(struct ha_writer *w, const struct storagep_hello *m)
{
    ha_put_u32(w, m->node);
}

int storagep_hello_decode(const uint8_t *body, size_t size, struct storagep_hello *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->node = ha_get_u32(&r);
    return done(&r);
}

void storagep_request_encode(struct ha_writer *w, const struct storagep_request *m)
{
    const struct emb_disk_request *q = &m->request;

    ha_put_uuid(w, m->guest);
    ha_put_u64(w, m->epoch);
    ha_put_u32(w, q->op);
    ha_put_u64(w, q->sequence);
    ha_put_digest(w, q->previous);
    ha_put_digest(w, q->digest);
    ha_put_blob(w, q->payload, q->payload_size);
}

int storagep_request_decode(const uint8_t *body, size_t size, struct storagep_request *ret)
{
    struct ha_reader r = ha_reader_of(body, size);
    struct emb_disk_request *q = &ret->request;
    size_t payload_size = 0;

    memset(ret, 0, sizeof(*ret));
    ret->guest = ha_get_uuid(&r);
    ret->epoch = ha_get_u64(&r);
    q->op = ha_get_u32(&r);
    q->sequence = ha_get_u64(&r);
    q->previous = ha_get_digest(&r);
    q->digest = ha_get_digest(&r);
    const uint8_t *payload = ha_get_blob(&r, EMB_DISK_PAYLOAD, &payload_size);
    if (payload)
        memcpy(q->payload, payload, payload_size);
    q->payload_size = (uint32_t)payload_size;
    if (q->op != EMB_DISK_WRITE && q->op != EMB_DISK_HEAD)
        r.failed = true;
    return done(&r);
}

void storagep_ack_encode(struct ha_writer *w, const struct storagep_ack *m)
{
    ha_put_u64(w, m->sequence);
    ha_put_digest(w, m->digest);
}

int storagep_ack_decode(const uint8_t *body, size_t size, struct storagep_ack *ret)
{
    struct ha_reader r = ha_reader_of(body, size);

    ret->sequence = ha_get_u64(&r);
    ret->digest = ha_get_digest(&r);
    return done(&r);
}
