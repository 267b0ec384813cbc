/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/pipeline.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "migrate/present.h"

struct worker {
    pthread_t thread;
    struct pipeline *pipeline;
    void *context;
};

struct buffers {
    uint8_t *in;
    uint8_t *out;
};

struct pipeline {
    struct unit *units;
    struct buffers *spare; /* of units not in use; the last one used is on top: it may still be in
                              the processor's cache */
    unsigned spare_count;
    unsigned untouched; /* so many, the lowest, were never used */
    unsigned unit_count;
    uint64_t first; /* number of the oldest unit in use */
    uint64_t next;  /* number of the next to be opened */
    unit_work *work;
    void *owner_context;
    struct worker *workers;
    unsigned worker_count;
    int event;
    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t more;
    pthread_cond_t quiet; /* one more worker is idle */
    struct unit **queue;  /* a ring of unit_count */
    unsigned queue_start;
    unsigned queue_size;
    unsigned idle;
    uint64_t awaited; /* the owner sleeps until this unit is done; UINT64_MAX: it does not */
    bool is_stopping;
};

static struct unit *unit_of(const struct pipeline *p, uint64_t number)
{
    return &p->units[number % p->unit_count];
}

/* Takes the next unit off the queue; NULL: stop. */
static struct unit *take(struct pipeline *p)
{
    struct unit *unit = NULL;

    pthread_mutex_lock(&p->lock);
    while (p->queue_size == 0 && !p->is_stopping) {
        p->idle++;
        pthread_cond_signal(&p->quiet);
        pthread_cond_wait(&p->more, &p->lock);
        p->idle--;
    }
    if (!p->is_stopping) {
        unit = p->queue[p->queue_start];
        p->queue_start = (p->queue_start + 1) % p->unit_count;
        p->queue_size--;
    }
    pthread_mutex_unlock(&p->lock);
    return unit;
}

static void wake_owner(const struct pipeline *p)
{
    const uint64_t one = 1;

    /* It can only fail when it was rung already and often. */
    (void)!write(p->event, &one, sizeof(one));
}

static void *run_worker(void *user)
{
    struct worker *w = user;
    struct pipeline *p = w->pipeline;
    struct unit *unit;

    while ((unit = take(p)) != NULL) {
        p->work(w->context, unit);
        pthread_mutex_lock(&p->lock);
        unit->state = UNIT_DONE;
        bool is_awaited = p->awaited == unit->number;
        if (is_awaited)
            p->awaited = UINT64_MAX;
        pthread_mutex_unlock(&p->lock);
        if (is_awaited)
            wake_owner(p);
    }
    return NULL;
}

static bool allocate_units(struct pipeline *p)
{
    bool is_good = true;

    for (unsigned i = 0; i < p->unit_count; i++) {
        struct unit *unit = &p->units[i];
        struct buffers *b = &p->spare[p->spare_count++];
        uint8_t *block = malloc(FRAME_BLOCK);
        b->in = block ? block + FRAME_FRONT : NULL;
        b->out = malloc(UNIT_BUFFER);
        unit->hashes = malloc(FRAME_PAGES_MAX * sizeof(*unit->hashes));
        unit->content = malloc(FRAME_PAGES_MAX * sizeof(*unit->content));
        is_good = is_good && b->in && b->out && unit->hashes && unit->content;
    }
    p->untouched = p->spare_count;
    return is_good;
}

static void take_buffers(struct pipeline *p, struct unit *unit)
{
    const struct buffers *b = &p->spare[--p->spare_count];

    if (p->spare_count < p->untouched) {
        p->untouched = p->spare_count;
        make_present(b->in, UNIT_BUFFER);
        make_present(b->out, UNIT_BUFFER);
    }
    unit->in = b->in;
    unit->out = b->out;
}

static void give_buffers(struct pipeline *p, struct unit *unit)
{
    p->spare[p->spare_count++] = (struct buffers){.in = unit->in, .out = unit->out};
    unit->in = unit->out = NULL;
}

static void free_block(uint8_t *in)
{
    free(in ? in - FRAME_FRONT : NULL);
}

static void free_units(struct pipeline *p)
{
    for (unsigned i = 0; i < p->spare_count; i++) {
        free_block(p->spare[i].in);
        free(p->spare[i].out);
    }
    for (unsigned i = 0; p->units && i < p->unit_count; i++) {
        free_block(p->units[i].in);
        free(p->units[i].out);
        free(p->units[i].hashes);
        free(p->units[i].content);
    }
    free(p->units);
    free(p->spare);
}

static int start_workers(struct pipeline *p, unsigned count, void *const *contexts,
                         struct ha_err *err)
{
    for (unsigned i = 0; i < count; i++) {
        struct worker *w = &p->workers[i];
        w->pipeline = p;
        w->context = contexts[i + 1];
        int rc = pthread_create(&w->thread, NULL, run_worker, w);
        if (rc != 0)
            return ha_err_set(err, rc, "worker thread: %s", strerror(rc));
        p->worker_count++;
    }
    /* A thread's first steps are system calls that a filter will forbid: let them pass first. */
    pthread_mutex_lock(&p->lock);
    while (p->idle < count)
        pthread_cond_wait(&p->quiet, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

struct pipeline *pipeline_new(unsigned unit_count, unsigned worker_count, unit_work *work,
                              void *const *contexts, struct ha_err *err)
{
    struct pipeline *p = calloc(1, sizeof(*p));

    ha_assert(unit_count > 0 && worker_count <= PIPELINE_WORKERS_MAX);
    if (!p) {
        ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        return NULL;
    }
    p->unit_count = unit_count;
    p->work = work;
    p->owner_context = contexts[0];
    p->awaited = UINT64_MAX;
    p->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->more, NULL);
    (void)pthread_cond_init(&p->quiet, NULL);
    p->units = calloc(unit_count, sizeof(*p->units));
    p->spare = calloc(unit_count, sizeof(*p->spare));
    p->queue = calloc(unit_count, sizeof(*p->queue));
    p->workers = calloc(worker_count + 1u, sizeof(*p->workers));
    int rc = 0;
    if (p->event < 0 || !p->units || !p->spare || !p->queue || !p->workers || !allocate_units(p))
        rc = ha_err_set(err, HA_E_NO_MEMORY, "no memory");
    if (rc == 0)
        rc = start_workers(p, worker_count, contexts, err);
    if (rc == 0)
        return p;
    pipeline_free(p);
    return NULL;
}

void pipeline_free(struct pipeline *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->is_stopping = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->worker_count; i++)
        (void)pthread_join(p->workers[i].thread, NULL);
    free_units(p);
    if (p->event >= 0)
        close(p->event);
    (void)pthread_mutex_destroy(&p->lock);
    (void)pthread_cond_destroy(&p->more);
    (void)pthread_cond_destroy(&p->quiet);
    free(p->queue);
    free(p->workers);
    free(p);
}

struct unit *pipeline_open(struct pipeline *p)
{
    if (p->next - p->first == p->unit_count)
        return NULL;
    struct unit *unit = unit_of(p, p->next);
    ha_assert(unit->number < p->next || p->next < p->unit_count);
    take_buffers(p, unit);
    unit->number = p->next++;
    unit->state = UNIT_OPEN;
    unit->type = 0;
    unit->level = 0;
    unit->is_settled = false;
    unit->pages.count = 0;
    unit->pages.full_count = unit->pages.delta_count = unit->pages.slot_count = 0;
    unit->pages.raw_size = unit->pages.delta_size = 0;
    unit->pages.codec = FRAME_STORE;
    unit->place_count = unit->count = unit->data_count = 0;
    unit->in_size = unit->out_size = 0;
    unit->codec = FRAME_STORE;
    unit->busy_ns = unit->tried = unit->packed = 0;
    unit->rc = 0;
    return unit;
}

void pipeline_queue(struct pipeline *p, struct unit *unit, bool is_worth_it)
{
    ha_assert(unit->state == UNIT_OPEN);
    if (p->worker_count == 0 || !is_worth_it) {
        p->work(p->owner_context, unit);
        unit->state = UNIT_DONE;
        return;
    }
    pthread_mutex_lock(&p->lock);
    unit->state = UNIT_QUEUED;
    p->queue[(p->queue_start + p->queue_size) % p->unit_count] = unit;
    p->queue_size++;
    if (p->idle > 0)
        pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}

void pipeline_done(struct pipeline *p, struct unit *unit)
{
    (void)p;
    ha_assert(unit->state == UNIT_OPEN);
    unit->state = UNIT_DONE;
}

static uint8_t state_of(struct pipeline *p, const struct unit *unit)
{
    pthread_mutex_lock(&p->lock);
    uint8_t state = unit->state;
    pthread_mutex_unlock(&p->lock);
    return state;
}

struct unit *pipeline_head(struct pipeline *p)
{
    if (p->first == p->next)
        return NULL;
    struct unit *unit = unit_of(p, p->first);
    return state_of(p, unit) == UNIT_DONE ? unit : NULL;
}

void pipeline_pop(struct pipeline *p)
{
    struct unit *unit = unit_of(p, p->first);

    ha_assert(p->first < p->next && unit->state == UNIT_DONE);
    give_buffers(p, unit);
    p->first++;
}

bool pipeline_is_empty(const struct pipeline *p)
{
    return p->first == p->next;
}

unsigned pipeline_workers(const struct pipeline *p)
{
    return p->worker_count;
}

uint64_t pipeline_oldest(const struct pipeline *p)
{
    return p->first;
}

uint64_t pipeline_opened(const struct pipeline *p)
{
    return p->next;
}

bool pipeline_is_busy(struct pipeline *p, uint64_t number)
{
    return number >= p->first && number < p->next && state_of(p, unit_of(p, number)) != UNIT_DONE;
}

int pipeline_wait(struct pipeline *p, uint64_t number, int fd, struct session *s,
                  struct ha_err *err)
{
    uint64_t rings;

    for (;;) {
        pthread_mutex_lock(&p->lock);
        bool is_done = unit_of(p, number)->state == UNIT_DONE;
        p->awaited = is_done ? UINT64_MAX : number;
        pthread_mutex_unlock(&p->lock);
        if (is_done)
            return 0;
        struct pollfd fds[] = {{.fd = p->event, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
        int rc = session_wait(s, fds, fd >= 0 ? 2 : 1, -1, err);
        if (rc < 0)
            return rc;
        if (fds[0].revents != 0)
            (void)!read(p->event, &rings, sizeof(rings));
        else
            return 1;
    }
}
