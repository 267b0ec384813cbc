/* SPDX-License-Identifier: Apache-2.0
 *
 * Which parcel is where (STREAM.md, section 8): the sender's window of unacknowledged parcels and
 * the receiver's of parcels that wait for an earlier one. Numbers and states only; the bytes, the
 * threads and the locks are lanes.c's. Slot number % size belongs to a parcel in both. Pure.
 */
#ifndef HAMGR_MIGRATE_WINDOW_H
#define HAMGR_MIGRATE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "migrate/frame.h"

/* FREE -> OPEN (being filled) -> QUEUED -> WRITING -> SENT -> FREE; a lost lane leads back to
 * QUEUED.
 */
enum window_state { WINDOW_FREE = 0, WINDOW_OPEN, WINDOW_QUEUED, WINDOW_WRITING, WINDOW_SENT };

struct window_slot {
    uint8_t state; /* enum window_state */
    uint8_t lane;  /* WRITING, SENT: over which one */
    bool was_tried;
};

struct window {
    uint32_t size;  /* slots in use, 1..FRAME_WINDOW_MAX */
    uint64_t acked; /* all parcels below were taken over by the receiver */
    uint64_t next;  /* the parcel to be filled next, or the OPEN one */
    struct window_slot slots[FRAME_WINDOW_MAX];
};

void window_init(struct window *w, uint32_t size);
/* Could parcel w->next be opened now? */
bool window_has_room(struct window *w);
/* Opens parcel w->next; false: the window is full, or its slot is still being written. */
bool window_open(struct window *w);
/* The OPEN parcel is complete. */
void window_queue(struct window *w);
/* The lowest parcel that waits to be sent is now lane's business. False: there is none. */
bool window_take(struct window *w, uint8_t lane, uint64_t *ret_number);
/* lane has written all of it. */
void window_written(struct window *w, uint64_t number);
/* lane's connection is gone: what it carried and nobody acknowledged must go again. Returns how
 * many parcels. */
unsigned window_lost(struct window *w, uint8_t lane);
/* The receiver says: all below next were taken over. 0, or -HA_E_PEER if it can't be true. */
int window_ack(struct window *w, uint64_t next, struct ha_err *err);

enum reorder_verdict {
    REORDER_NEW = 1,
    REORDER_REPEATED, /* held or delivered already: drop it */
    REORDER_BEYOND,   /* outside of the window: the sender breaks the rules */
};

struct reorder {
    uint32_t size;
    uint64_t next; /* to be delivered */
    bool is_held[FRAME_WINDOW_MAX];
};

void reorder_init(struct reorder *r, uint32_t size);
/* A parcel came; held if NEW. */
enum reorder_verdict reorder_arrive(struct reorder *r, uint64_t number);
/* Is parcel r->next there? */
bool reorder_is_ready(const struct reorder *r);
/* Parcel r->next was taken over: its slot is free, and r->next is the number to acknowledge. */
void reorder_release(struct reorder *r);

#endif
