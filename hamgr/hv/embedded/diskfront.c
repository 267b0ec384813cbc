/* SPDX-License-Identifier: Apache-2.0
 *
 * The guest's side of its disk. The order of stores is what makes a stop at any instruction
 * harmless: a write exists once `produced` counts it, and only then does the ring learn of it; what
 * the ring never learned is made again by reconnect, and storage knows a repeated write by its
 * sequence and digest.
 */
#include <string.h>

#include "hamgr/hv/embedded/disk.h"

static void submit(struct emb_disk_ring *ring, const struct emb_disk_request *request)
{
    uint32_t prod = atomic_load_explicit(&ring->req_prod, memory_order_relaxed);

    ring->requests[prod % EMB_DISK_DEPTH] = *request;
    atomic_store_explicit(&ring->req_prod, prod + 1, memory_order_release);
}

void emb_disk_front_boot(struct emb_disk_front *front, struct emb_disk_ring *ring)
{
    struct emb_disk_request head = {.op = EMB_DISK_HEAD};

    memset(front, 0, sizeof(*front));
    submit(ring, &head);
}

void emb_disk_front_reconnect(struct emb_disk_front *front, struct emb_disk_ring *ring)
{
    front->rsp_cons = 0;
    if (!front->is_ready) {
        emb_disk_front_boot(front, ring);
        return;
    }
    for (uint64_t n = front->acked + 1; n <= front->produced; n++)
        submit(ring, &front->shadow[n % EMB_DISK_DEPTH]);
}

bool emb_disk_front_write(struct emb_disk_front *front, struct emb_disk_ring *ring,
                          const void *payload, uint32_t payload_size)
{
    uint64_t sequence = front->produced + 1;
    struct emb_disk_request *shadow = &front->shadow[sequence % EMB_DISK_DEPTH];

    /* DEPTH - 1: the slot of the newest write stays, its digest starts the next. */
    if (!front->is_ready || payload_size > EMB_DISK_PAYLOAD ||
        front->produced - front->acked >= EMB_DISK_DEPTH - 1)
        return false;
    struct ha_digest previous = front->shadow[front->produced % EMB_DISK_DEPTH].digest;
    memset(shadow, 0, sizeof(*shadow));
    shadow->op = EMB_DISK_WRITE;
    shadow->payload_size = payload_size;
    shadow->sequence = sequence;
    shadow->previous = previous;
    shadow->digest = ha_digest_bytes(previous, payload, payload_size);
    memcpy(shadow->payload, payload, payload_size);
    atomic_signal_fence(memory_order_seq_cst);
    front->produced = sequence;
    atomic_signal_fence(memory_order_seq_cst);
    submit(ring, shadow);
    return true;
}

static void take_head(struct emb_disk_front *front, const struct emb_disk_response *response)
{
    front->produced = front->acked = response->sequence;
    front->shadow[response->sequence % EMB_DISK_DEPTH].digest = response->digest;
    atomic_signal_fence(memory_order_seq_cst);
    front->is_ready = response->is_failed == 0;
    front->failed_count += response->is_failed != 0;
}

static void take_written(struct emb_disk_front *front, const struct emb_disk_response *response)
{
    const struct emb_disk_request *made = &front->shadow[response->sequence % EMB_DISK_DEPTH];

    if (response->is_failed != 0 || response->sequence != front->acked + 1 ||
        !ha_digest_equal(made->digest, response->digest)) {
        front->failed_count++;
        return;
    }
    front->acked = response->sequence;
}

uint32_t emb_disk_front_poll(struct emb_disk_front *front, struct emb_disk_ring *ring)
{
    uint32_t prod = atomic_load_explicit(&ring->rsp_prod, memory_order_acquire);
    uint32_t count = 0;

    for (; front->rsp_cons != prod && count < EMB_DISK_DEPTH; count++) {
        struct emb_disk_response response = ring->responses[front->rsp_cons % EMB_DISK_DEPTH];
        if (front->is_ready)
            take_written(front, &response);
        else
            take_head(front, &response);
        atomic_signal_fence(memory_order_seq_cst);
        front->rsp_cons++;
    }
    return count;
}
