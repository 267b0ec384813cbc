/* SPDX-License-Identifier: Apache-2.0
 *
 * Units of work in stream order, done by worker threads, taken back in that order. One thread (the
 * owner) opens units, fills them, hands them on and commits them; each worker turns the handed-on
 * ones into done ones with a context of its own. The number of units bounds memory, and having none
 * free is the back-pressure. Without workers the owner does the work itself.
 */
#ifndef HAMGR_MIGRATE_PIPELINE_H
#define HAMGR_MIGRATE_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/digest.h"
#include "hamgr/base/err.h"
#include "migrate/frame.h"
#include "migrate/session.h"

#define PIPELINE_WORKERS_MAX 64u
#define UNIT_NO_SLOT         UINT32_MAX

enum unit_state {
    UNIT_OPEN = 0, /* the owner's */
    UNIT_QUEUED,   /* a worker's */
    UNIT_DONE,     /* the owner's again */
};

/* One frame in the making, or one that was taken apart. Buffers are the pipeline's. */
struct unit {
    uint64_t number;
    uint8_t state;   /* enum unit_state; under the lock once handed on */
    uint16_t type;   /* FRAME_RAW, FRAME_BATCH, FRAME_PAGES; 0: nothing came of it */
    int level;       /* sender: zstd level to try, 0 = store */
    bool is_settled; /* sender: its deltas are made */
    struct frame_pages pages;
    /* Sender: by page with content, in order, before the deltas are made: its slot, its index. */
    uint32_t place_count;
    uint32_t place_slot[FRAME_GROUP_PAGES];
    uint16_t place_index[FRAME_GROUP_PAGES];
    uint32_t count;      /* BATCH: entries */
    uint32_t data_count; /* BATCH: of them with a page */
    size_t in_size;
    size_t out_size;  /* sender: encoded bytes in out; 0: send `in` as it is */
    uint8_t codec;    /* enum frame_codec of out */
    uint64_t busy_ns; /* what the worker needed for the codec */
    uint64_t tried;   /* bytes given to the codec */
    uint64_t packed;  /* what they became */
    uint8_t *in;      /* UNIT_BUFFER bytes, as the next; FRAME_FRONT bytes inside a FRAME_BLOCK
                         that may be exchanged for another (session_give) */
    uint8_t *out;
    struct ha_digest *hashes; /* FRAME_PAGES_MAX, by page; zero for a zero page */
    const uint8_t **content;  /* receiver: FRAME_PAGES_MAX, where each page is */
    int rc;                   /* receiver: why it can't be */
    struct ha_err err;
};

#define UNIT_BUFFER FRAME_PAYLOAD_MAX
_Static_assert(FRAME_FRONT + UNIT_BUFFER <= FRAME_BLOCK, "a unit's content fits a block");

/* What a worker does with a unit; context is the worker's own. */
typedef void unit_work(void *context, struct unit *unit);

struct pipeline;

/* unit_count units; worker_count threads are started at once (0: none). contexts[0] is for work the
 * owner does itself, the next worker_count are the workers' (borrowed). NULL with err. */
struct pipeline *pipeline_new(unsigned unit_count, unsigned worker_count, unit_work *work,
                              void *const *contexts, struct ha_err *err);
/* Stops the workers where they are and waits for them; then frees. */
void pipeline_free(struct pipeline *p);

/* The next unit, cleared and OPEN, or NULL: all are in use. */
struct unit *pipeline_open(struct pipeline *p);
/* Hands the unit to the workers; without them, or when it is not worth it, does the work now. */
void pipeline_queue(struct pipeline *p, struct unit *unit, bool is_worth_it);
/* Nothing to be worked on, or done by the owner: it only keeps its place. */
void pipeline_done(struct pipeline *p, struct unit *unit);
/* The oldest unit if it is done, else NULL. */
struct unit *pipeline_head(struct pipeline *p);
/* Gives the oldest back. */
void pipeline_pop(struct pipeline *p);
bool pipeline_is_empty(const struct pipeline *p);
unsigned pipeline_workers(const struct pipeline *p);
/* Is this unit (by number) still being worked on, or not even handed on? */
bool pipeline_is_busy(struct pipeline *p, uint64_t number);
/* Waits in the session until the unit with that number is done, or fd (-1: none) is readable.
 * Returns 0 when it is done, 1 when fd came first, or a negative error. */
int pipeline_wait(struct pipeline *p, uint64_t number, int fd, struct session *s,
                  struct ha_err *err);
/* The number of the oldest unit in use; how many were ever opened. */
uint64_t pipeline_oldest(const struct pipeline *p);
uint64_t pipeline_opened(const struct pipeline *p);

#endif
