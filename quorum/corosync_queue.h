/* SPDX-License-Identifier: Apache-2.0
 *
 * What waits while corosync says "try again": messages in order, bounded in number and bytes, and
 * at most one heartbeat, which goes first and is replaced by a newer one (a late heartbeat proves
 * nothing). Owned by one thread.
 */
#ifndef QUORUM_COROSYNC_QUEUE_H
#define QUORUM_COROSYNC_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A view change, a full batch of entries and a transfer's credit together stay far below; more
 * means that corosync has stopped taking messages. */
#define COROSYNC_QUEUE_MESSAGES 4096u
#define COROSYNC_QUEUE_BYTES    (8u * 1024u * 1024u)

struct corosync_message {
    size_t size;
    uint8_t data[];
};

/* Zero-initialised is empty. */
struct corosync_queue {
    struct corosync_message *heartbeat; /* NULL: none waits */
    struct corosync_message *ring[COROSYNC_QUEUE_MESSAGES];
    uint32_t first;
    uint32_t count;
    size_t bytes;
};

/* Copies a message in. Returns 0, -HA_E_LIMIT when it does not fit, -HA_E_NO_MEMORY. */
int corosync_queue_push(struct corosync_queue *queue, const uint8_t *data, size_t size,
                        bool is_heartbeat);
/* The message to send next (borrowed until popped); NULL when nothing waits. */
const struct corosync_message *corosync_queue_head(const struct corosync_queue *queue);
/* Drops what corosync_queue_head gave. */
void corosync_queue_pop(struct corosync_queue *queue);
/* A newer heartbeat went out directly. */
void corosync_queue_drop_heartbeat(struct corosync_queue *queue);
/* Drops everything. */
void corosync_queue_clear(struct corosync_queue *queue);

#endif
