/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/window.h"

#include <string.h>

#include "hamgr/base/assert.h"

static struct window_slot *slot_of(struct window *w, uint64_t number)
{
    return &w->slots[number % w->size];
}

void window_init(struct window *w, uint32_t size)
{
    ha_assert(size >= 1 && size <= FRAME_WINDOW_MAX);
    memset(w, 0, sizeof(*w));
    w->size = size;
}

bool window_has_room(struct window *w)
{
    return w->next - w->acked < w->size && slot_of(w, w->next)->state == WINDOW_FREE;
}

bool window_open(struct window *w)
{
    struct window_slot *slot = slot_of(w, w->next);

    if (slot->state == WINDOW_OPEN)
        return true;
    if (!window_has_room(w))
        return false;
    *slot = (struct window_slot){.state = WINDOW_OPEN};
    return true;
}

void window_queue(struct window *w)
{
    struct window_slot *slot = slot_of(w, w->next);

    ha_assert(slot->state == WINDOW_OPEN);
    slot->state = WINDOW_QUEUED;
    w->next++;
}

bool window_take(struct window *w, uint8_t lane, uint64_t *ret_number)
{
    for (uint64_t number = w->acked; number < w->next; number++) {
        struct window_slot *slot = slot_of(w, number);
        if (slot->state != WINDOW_QUEUED)
            continue;
        *slot = (struct window_slot){.state = WINDOW_WRITING, .lane = lane, .was_tried = true};
        *ret_number = number;
        return true;
    }
    return false;
}

/* An acknowledgement may overtake the writer: of a repetition, or of bytes it has just handed to
 * the kernel. The slot is free only when both have happened. */
void window_written(struct window *w, uint64_t number)
{
    struct window_slot *slot = slot_of(w, number);

    ha_assert(slot->state == WINDOW_WRITING);
    slot->state = number < w->acked ? WINDOW_FREE : WINDOW_SENT;
}

unsigned window_lost(struct window *w, uint8_t lane)
{
    unsigned again = 0;

    /* Slots below acked may still be WRITING: look at all, not at the numbers. */
    for (uint32_t i = 0; i < w->size; i++) {
        struct window_slot *slot = &w->slots[i];
        if ((slot->state != WINDOW_WRITING && slot->state != WINDOW_SENT) || slot->lane != lane)
            continue;
        /* The one number of this slot that can still be unacknowledged. */
        uint64_t number = w->acked + (i + w->size - w->acked % w->size) % w->size;
        bool is_open = number < w->next;
        slot->state = is_open ? WINDOW_QUEUED : WINDOW_FREE;
        again += is_open ? 1u : 0u;
    }
    return again;
}

int window_ack(struct window *w, uint64_t next, struct ha_err *err)
{
    if (next < w->acked || next > w->next)
        return ha_err_set(err, HA_E_PEER, "ACK of %llu, possible are %llu to %llu",
                          (unsigned long long)next, (unsigned long long)w->acked,
                          (unsigned long long)w->next);
    for (uint64_t number = w->acked; number < next; number++)
        if (!slot_of(w, number)->was_tried)
            return ha_err_set(err, HA_E_PEER, "ACK of %llu, which was never sent",
                              (unsigned long long)number);
    for (; w->acked < next; w->acked++) {
        struct window_slot *slot = slot_of(w, w->acked);
        if (slot->state != WINDOW_WRITING)
            slot->state = WINDOW_FREE;
    }
    return 0;
}

void reorder_init(struct reorder *r, uint32_t size)
{
    ha_assert(size >= 1 && size <= FRAME_WINDOW_MAX);
    memset(r, 0, sizeof(*r));
    r->size = size;
}

enum reorder_verdict reorder_arrive(struct reorder *r, uint64_t number)
{
    if (number < r->next)
        return REORDER_REPEATED;
    if (number - r->next >= r->size)
        return REORDER_BEYOND;
    if (r->is_held[number % r->size])
        return REORDER_REPEATED;
    r->is_held[number % r->size] = true;
    return REORDER_NEW;
}

bool reorder_is_ready(const struct reorder *r)
{
    return r->is_held[r->next % r->size];
}

void reorder_release(struct reorder *r)
{
    ha_assert(reorder_is_ready(r));
    r->is_held[r->next % r->size] = false;
    r->next++;
}
