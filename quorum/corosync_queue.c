/* SPDX-License-Identifier: Apache-2.0 */
#include "quorum/corosync_queue.h"

#include <stdlib.h>
#include <string.h>

#include "hamgr/base/err.h"

static struct corosync_message *copy_message(const uint8_t *data, size_t size)
{
    struct corosync_message *message = malloc(sizeof(*message) + size);

    if (message) {
        message->size = size;
        memcpy(message->data, data, size);
    }
    return message;
}

int corosync_queue_push(struct corosync_queue *queue, const uint8_t *data, size_t size,
                        bool is_heartbeat)
{
    bool fits =
        queue->count < COROSYNC_QUEUE_MESSAGES && size <= COROSYNC_QUEUE_BYTES - queue->bytes;

    if (!is_heartbeat && !fits)
        return -HA_E_LIMIT;
    struct corosync_message *message = copy_message(data, size);
    if (!message)
        return -HA_E_NO_MEMORY;
    if (is_heartbeat) {
        free(queue->heartbeat);
        queue->heartbeat = message;
        return 0;
    }
    queue->ring[(queue->first + queue->count) % COROSYNC_QUEUE_MESSAGES] = message;
    queue->count++;
    queue->bytes += size;
    return 0;
}

const struct corosync_message *corosync_queue_head(const struct corosync_queue *queue)
{
    if (queue->heartbeat)
        return queue->heartbeat;
    return queue->count > 0 ? queue->ring[queue->first] : NULL;
}

void corosync_queue_drop_heartbeat(struct corosync_queue *queue)
{
    free(queue->heartbeat);
    queue->heartbeat = NULL;
}

void corosync_queue_pop(struct corosync_queue *queue)
{
    if (queue->heartbeat) {
        corosync_queue_drop_heartbeat(queue);
    } else if (queue->count > 0) {
        queue->bytes -= queue->ring[queue->first]->size;
        free(queue->ring[queue->first]);
        queue->ring[queue->first] = NULL;
        queue->first = (queue->first + 1) % COROSYNC_QUEUE_MESSAGES;
        queue->count--;
    }
}

void corosync_queue_clear(struct corosync_queue *queue)
{
    while (corosync_queue_head(queue))
        corosync_queue_pop(queue);
}
