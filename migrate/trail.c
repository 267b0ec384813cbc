/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/trail.h"

static void add(struct trail_queue *q, uint64_t below, uint64_t bytes)
{
    struct trail_mark *last = &q->marks[(q->first + q->count - 1) % TRAIL_MARKS];

    if (q->count == 0 || (last->below != below && q->count < TRAIL_MARKS))
        last = &q->marks[(q->first + q->count++) % TRAIL_MARKS];
    *last = (struct trail_mark){below, bytes};
}

/* The most bytes that are through when everything below `below` is. False: no mark is reached. */
static bool take(struct trail_queue *q, uint64_t below, uint64_t *ret_bytes)
{
    bool is_any = false;

    while (q->count > 0 && q->marks[q->first].below <= below) {
        *ret_bytes = q->marks[q->first].bytes;
        q->first = (q->first + 1) % TRAIL_MARKS;
        q->count--;
        is_any = true;
    }
    return is_any;
}

void trail_read(struct trail *t, uint64_t unit, uint64_t bytes)
{
    add(&t->units, unit, bytes);
}

void trail_packed(struct trail *t, uint64_t unit, uint64_t parcel)
{
    uint64_t bytes;

    if (take(&t->units, unit, &bytes))
        add(&t->parcels, parcel, bytes);
}

bool trail_acked(struct trail *t, uint64_t parcel)
{
    uint64_t before = t->taken;

    return take(&t->parcels, parcel, &t->taken) && t->taken != before;
}
