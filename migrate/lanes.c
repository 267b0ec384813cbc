/* SPDX-License-Identifier: Apache-2.0
 *
 * One lock guards the windows and the lanes' states. A lane's connection belongs to its thread from
 * lanes_connect on; the block it moves is touched by nobody else meanwhile (WRITING, or not yet in
 * the window). Threads wait in poll only, for their socket and for their eventfd.
 */
#include "migrate/lanes.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/base/assert.h"
#include "migrate/present.h"
#include "migrate/window.h"

#define STACK_SIZE    1048576u /* address space; a few pages of it are used */
#define RATE_CHUNK    65536u
#define RATE_BURST_MS 20                   /* a capped end may catch up this much */
#define RENEW_BYTES   (UINT64_C(32) << 30) /* half of the 64 GiB a GCM key may be used for */

struct lane {
    struct lanes *lanes;
    unsigned number; /* 1.. */
    pthread_t thread;
    int wake_fd;
    uint8_t *block; /* receiver: what is being read */
    /* under the lock */
    struct chan *next_chan; /* to be taken instead of the present one */
    bool is_up;             /* the thread has a connection, or is given one */
    bool is_idle;           /* the thread waits for work: wake it */
    bool has_loss;          /* not yet told */
    struct ha_err why;
};

struct lanes {
    bool is_sender;
    unsigned count;
    int main_fd;
    pthread_mutex_t lock;
    /* under the lock */
    struct window window;
    struct reorder reorder;
    uint8_t *blocks[FRAME_WINDOW_MAX];              /* of the slots in use, each malloc'ed */
    size_t starts[FRAME_WINDOW_MAX];                /* sender: where in its block a parcel begins */
    uint8_t *spare[FRAME_WINDOW + FRAME_LANES_MAX]; /* the others; the last one used is on top, */
    unsigned spare_count;                           /* as it is still in a cache; the lowest */
    unsigned untouched;                             /* so many were never used */
    uint32_t sizes[FRAME_WINDOW_MAX];               /* payload bytes */
    bool is_main_waiting;
    bool is_stopping; /* no connections any more */
    bool is_ending;   /* no threads any more */
    struct ha_err fatal;
    uint64_t bytes;
    uint32_t rate_mbit;
    uint64_t rate_us;
    int64_t rate_bytes;
    struct lane lane[FRAME_LANES_MAX];
};

static void lock(struct lanes *p)
{
    ha_assert(pthread_mutex_lock(&p->lock) == 0);
}

static void unlock(struct lanes *p)
{
    ha_assert(pthread_mutex_unlock(&p->lock) == 0);
}

static void ring(int fd)
{
    const uint64_t one = 1;

    (void)!write(fd, &one, sizeof(one)); /* full: it rings already */
}

static void calm(int fd)
{
    uint64_t count;

    (void)!read(fd, &count, sizeof(count));
}

/* Locked. The owner waits for just this. */
static void tell_main(struct lanes *p)
{
    if (p->is_main_waiting)
        ring(p->main_fd);
    p->is_main_waiting = false;
}

/* Locked. There are as many blocks as slots and lanes, so one is always left. */
static uint8_t *take_block(struct lanes *p)
{
    ha_assert(p->spare_count > 0);
    uint8_t *block = p->spare[--p->spare_count];
    if (p->spare_count < p->untouched) {
        p->untouched = p->spare_count;
        make_present(block, FRAME_BLOCK);
    }
    return block;
}

/* Locked. */
static void give_block(struct lanes *p, uint8_t *block)
{
    ha_assert(p->spare_count < sizeof(p->spare) / sizeof(p->spare[0]));
    p->spare[p->spare_count++] = block;
}

/* Locked, sender: slots that came free give their blocks back. */
static void reclaim(struct lanes *p)
{
    for (uint32_t i = 0; i < p->window.size; i++) {
        if (p->window.slots[i].state != WINDOW_FREE || !p->blocks[i])
            continue;
        give_block(p, p->blocks[i]);
        p->blocks[i] = NULL;
    }
}

/* ---- what a lane's thread does ---- */

/* Locked. Must the thread leave its present connection? */
static bool is_called_off(const struct lane *lane)
{
    return lane->next_chan || lane->lanes->is_stopping || lane->lanes->is_ending;
}

static bool is_to_leave(struct lane *lane)
{
    lock(lane->lanes);
    bool result = is_called_off(lane);
    unlock(lane->lanes);
    return result;
}

/* Waits for the connection or a call. timeout_ms -1: no limit. Returns the connection's events. */
static short wait_for(struct lane *lane, const struct chan *chan, short events, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = lane->wake_fd, .events = POLLIN},
                            {.fd = chan ? chan->fd : -1, .events = events}};

    if (poll(fds, 2, timeout_ms) <= 0)
        return 0;
    if (fds[0].revents != 0)
        calm(lane->wake_fd);
    return fds[1].revents;
}

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* How many of `left` bytes the cap allows now; they count as sent. */
static size_t allowed(struct lanes *p, size_t left)
{
    size_t result = left < RATE_CHUNK ? left : RATE_CHUNK;

    lock(p);
    if (p->rate_mbit == 0) {
        unlock(p);
        return left;
    }
    uint64_t now = now_us();
    int64_t most = (int64_t)p->rate_mbit * 125 * RATE_BURST_MS;
    int64_t elapsed_us = now - p->rate_us > 1000000 ? 1000000 : (int64_t)(now - p->rate_us);
    p->rate_us = now;
    p->rate_bytes += (int64_t)p->rate_mbit * elapsed_us / 8;
    p->rate_bytes = p->rate_bytes < most ? p->rate_bytes : most;
    if (p->rate_bytes <= 0)
        result = 0;
    p->rate_bytes -= (int64_t)result;
    unlock(p);
    return result;
}

/* What the connection kept back. As write_block. */
static int flush_block(struct lane *lane, struct chan *chan, struct ha_err *err)
{
    int rc = chan->ops->flush ? chan->ops->flush(chan, err) : 0;

    while (rc == -EAGAIN) {
        (void)wait_for(lane, chan, chan->write_wants, -1);
        if (is_to_leave(lane))
            return -ECANCELED;
        rc = chan->ops->flush(chan, err);
    }
    return rc;
}

/* Writes one parcel. 0, or a negative error; -ECANCELED: called off. */
static int write_block(struct lane *lane, struct chan *chan, const uint8_t *block, size_t size,
                       struct ha_err *err)
{
    size_t done = 0, granted = 0;

    while (done < size) {
        if (granted == 0)
            granted = allowed(lane->lanes, size - done);
        if (granted == 0) {
            (void)wait_for(lane, NULL, 0, 1);
            if (is_to_leave(lane))
                return -ECANCELED;
            continue;
        }
        ssize_t r = chan->ops->write(chan, block + done, granted, err);
        if (r > 0) {
            done += (size_t)r;
            granted -= (size_t)r;
        } else if (r != -EAGAIN) {
            return r < 0 ? (int)r : -ECONNRESET;
        } else {
            (void)wait_for(lane, chan, chan->write_wants, -1);
            if (is_to_leave(lane))
                return -ECANCELED;
        }
    }
    return flush_block(lane, chan, err);
}

/* Nothing to send: the peer says nothing on a data connection, so whatever comes is its end. */
static int watch_idle(struct lane *lane, struct chan *chan, struct ha_err *err)
{
    uint8_t byte;

    if (wait_for(lane, chan, POLLIN, -1) == 0)
        return 0;
    ssize_t r = chan->ops->read(chan, &byte, 1, err);
    if (r == -EAGAIN)
        return 0;
    if (r > 0)
        return ha_err_set(err, HA_E_PEER, "the receiver speaks on a data connection");
    return r < 0 ? (int)r : ha_err_set(err, ECONNRESET, "the receiver closed it");
}

/* Sends parcels until the connection breaks (negative error) or is called off (-ECANCELED). */
static int send_parcels(struct lane *lane, struct chan *chan, struct ha_err *err)
{
    struct lanes *p = lane->lanes;
    uint64_t number = 0, renewed = 0;
    int rc = 0;

    lock(p);
    bool is_capped = p->rate_mbit > 0; /* then it shall not go in bursts */
    unlock(p);
    if (chan->ops->gather && !is_capped)
        chan->ops->gather(chan);
    while (rc == 0) {
        lock(p);
        bool is_leaving = is_called_off(lane);
        bool has_work = !is_leaving && window_take(&p->window, (uint8_t)lane->number, &number);
        size_t slot = has_work ? number % p->window.size : 0;
        size_t size = FRAME_HEADER_SIZE + p->sizes[slot];
        const uint8_t *block = p->blocks[slot] ? p->blocks[slot] + p->starts[slot] : NULL;
        lane->is_idle = !has_work;
        unlock(p);
        if (is_leaving)
            return -ECANCELED;
        if (!has_work) {
            rc = watch_idle(lane, chan, err);
            continue;
        }
        rc = write_block(lane, chan, block, size, err);
        if (rc < 0)
            break;
        lock(p);
        window_written(&p->window, number);
        reclaim(p);
        p->bytes += size;
        if (window_has_room(&p->window)) /* it was acknowledged meanwhile */
            tell_main(p);
        unlock(p);
        renewed += size;
        if (renewed >= RENEW_BYTES) {
            rc = chan->ops->renew(chan, err); /* what can't be renewed is replaced */
            renewed = 0;
        }
    }
    return rc;
}

/* The block of this lane holds a whole parcel. 0, or a broken rule. */
static int deliver(struct lane *lane, const struct frame_header *header, struct ha_err *err)
{
    struct lanes *p = lane->lanes;
    int rc = 0;

    lock(p);
    p->bytes += FRAME_HEADER_SIZE + header->size;
    switch (reorder_arrive(&p->reorder, header->sequence)) {
    case REORDER_NEW: {
        size_t slot = header->sequence % p->reorder.size;
        p->blocks[slot] = lane->block;
        p->sizes[slot] = header->size;
        lane->block = take_block(p);
        if (header->sequence == p->reorder.next)
            tell_main(p);
        break;
    }
    case REORDER_REPEATED:
        break;
    case REORDER_BEYOND:
        rc = ha_err_set(err, HA_E_PEER, "parcel %llu is outside of the window",
                        (unsigned long long)header->sequence);
        break;
    }
    unlock(p);
    return rc;
}

static int check_parcel(const uint8_t *bytes, struct frame_header *ret, struct ha_err *err)
{
    int rc = frame_header_decode(bytes, ret, err);

    if (rc == 0 && (ret->type != FRAME_PARCEL || ret->epoch != 0))
        rc = ha_err_set(err, HA_E_PEER, "frame %s on a data connection", frame_name(ret->type));
    return rc;
}

/* The connection may go, the migration not: only what the peer could say on purpose is fatal. */
static void condemn(struct lanes *p, const struct ha_err *why)
{
    lock(p);
    if (p->fatal.code == 0)
        p->fatal = *why;
    p->is_main_waiting = true;
    tell_main(p);
    unlock(p);
}

static int receive_parcels(struct lane *lane, struct chan *chan, struct ha_err *err)
{
    struct frame_header header = {0};
    size_t have = 0, whole = FRAME_HEADER_SIZE;

    for (;;) {
        ssize_t r = chan->ops->read(chan, lane->block + have, whole - have, err);
        if (r == -EAGAIN) {
            if (is_to_leave(lane))
                return -ECANCELED;
            (void)wait_for(lane, chan, chan->read_wants, -1);
            continue;
        }
        if (r <= 0)
            return r < 0 ? (int)r : ha_err_set(err, ECONNRESET, "the sender closed it");
        have += (size_t)r;
        if (have < whole)
            continue;
        int rc = whole == FRAME_HEADER_SIZE ? check_parcel(lane->block, &header, err)
                                            : deliver(lane, &header, err);
        if (rc < 0) {
            condemn(lane->lanes, err);
            return rc;
        }
        /* A parcel is never empty, so `whole` tells which half comes next. */
        have = whole == FRAME_HEADER_SIZE ? have : 0;
        whole = have == 0 ? FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + header.size;
        if (have == 0 && is_to_leave(lane))
            return -ECANCELED;
    }
}

/* The connection is gone: what it carried goes again over whoever has one. */
static void lose(struct lane *lane, int rc, const struct ha_err *why)
{
    struct lanes *p = lane->lanes;

    lock(p);
    if (p->is_sender && window_lost(&p->window, (uint8_t)lane->number) > 0)
        for (unsigned i = 0; i < p->count; i++)
            if (p->lane[i].is_idle)
                ring(p->lane[i].wake_fd);
    if (p->is_sender)
        reclaim(p);
    lane->is_idle = false;
    lane->is_up = lane->next_chan != NULL;
    lane->has_loss = rc != -ECANCELED && !lane->is_up;
    lane->why = *why;
    p->is_main_waiting = true;
    tell_main(p);
    unlock(p);
}

static void *run_lane(void *user)
{
    struct lane *lane = user;
    struct lanes *p = lane->lanes;

    ring(p->main_fd); /* lanes_new counts who is here */
    for (;;) {
        lock(p);
        struct chan *chan = lane->next_chan;
        bool is_ending = p->is_ending;
        lane->next_chan = NULL;
        unlock(p);
        if (is_ending && !chan)
            return NULL;
        if (!chan) {
            (void)wait_for(lane, NULL, 0, -1);
            continue;
        }
        struct ha_err why = {0};
        int rc = p->is_sender ? send_parcels(lane, chan, &why) : receive_parcels(lane, chan, &why);
        chan->ops->close(chan);
        lose(lane, rc, &why);
    }
}

/* ---- the owner's side ---- */

static int make_lane(struct lanes *p, unsigned index, const pthread_attr_t *attr)
{
    struct lane *lane = &p->lane[index];

    lane->lanes = p;
    lane->number = index + 1;
    lane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lane->wake_fd < 0)
        return -errno;
    lane->block = p->is_sender ? NULL : malloc(FRAME_BLOCK);
    int rc = lane->block || p->is_sender ? -pthread_create(&lane->thread, attr, run_lane, lane)
                                         : -ENOMEM;
    if (rc < 0) {
        close(lane->wake_fd);
        free(lane->block);
    }
    p->count += rc == 0 ? 1u : 0u;
    return rc;
}

/* A thread's own beginning makes system calls a filter may not know: it must be over. */
static void wait_for_threads(struct lanes *p)
{
    struct pollfd fd = {.fd = p->main_fd, .events = POLLIN};
    uint64_t here = 0, count = 0;

    while (here < p->count) {
        (void)poll(&fd, 1, 100);
        if (read(p->main_fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
            here += count;
    }
}

static bool make_blocks(struct lanes *p)
{
    for (unsigned i = 0; i < FRAME_WINDOW; i++) {
        uint8_t *block = malloc(FRAME_BLOCK);
        if (!block)
            return false;
        give_block(p, block);
    }
    p->untouched = p->spare_count;
    return true;
}

static void free_blocks(struct lanes *p)
{
    for (unsigned i = 0; i < p->count; i++)
        free(p->lane[i].block);
    for (unsigned i = 0; i < FRAME_WINDOW_MAX; i++)
        free(p->blocks[i]);
    for (unsigned i = 0; i < p->spare_count; i++)
        free(p->spare[i]);
}

struct lanes *lanes_new(bool is_sender, unsigned count, struct ha_err *err)
{
    struct lanes *p = calloc(1, sizeof(*p));
    pthread_attr_t attr;
    int rc = 0;

    ha_assert(count >= 1 && count <= FRAME_LANES_MAX);
    if (!p) {
        ha_err_set(err, HA_E_NO_MEMORY, "no memory");
        return NULL;
    }
    p->is_sender = is_sender;
    p->main_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ha_assert(pthread_mutex_init(&p->lock, NULL) == 0);
    if (!make_blocks(p) || p->main_fd < 0 || pthread_attr_init(&attr) != 0) {
        lanes_free(p);
        ha_err_set(err, HA_E_NO_MEMORY, "no memory for data connections");
        return NULL;
    }
    (void)pthread_attr_setstacksize(&attr, STACK_SIZE);
    for (unsigned i = 0; i < count && rc == 0; i++)
        rc = make_lane(p, i, &attr);
    (void)pthread_attr_destroy(&attr);
    wait_for_threads(p);
    lanes_agree(p, p->count, FRAME_WINDOW);
    if (rc == 0)
        return p;
    lanes_free(p);
    ha_err_set(err, rc, "threads for data connections: %s", strerror(-rc));
    return NULL;
}

void lanes_agree(struct lanes *lanes, unsigned connections, unsigned window)
{
    ha_assert(connections <= lanes->count && window <= FRAME_WINDOW);
    lock(lanes);
    window_init(&lanes->window, window > 0 ? window : 1);
    reorder_init(&lanes->reorder, window > 0 ? window : 1);
    unlock(lanes);
}

unsigned lanes_count(const struct lanes *lanes)
{
    return lanes->count;
}

void lanes_cap(struct lanes *lanes, uint32_t rate_mbit)
{
    lock(lanes);
    lanes->rate_mbit = rate_mbit;
    lanes->rate_us = now_us();
    lanes->rate_bytes = 0;
    unlock(lanes);
}

void lanes_stop(struct lanes *lanes)
{
    struct pollfd fd = {.fd = lanes->main_fd, .events = POLLIN};
    bool is_busy = true;

    while (is_busy) {
        is_busy = false;
        lock(lanes);
        lanes->is_stopping = true;
        lanes->is_main_waiting = true;
        for (unsigned i = 0; i < lanes->count; i++) {
            is_busy = is_busy || lanes->lane[i].is_up;
            ring(lanes->lane[i].wake_fd);
        }
        unlock(lanes);
        if (is_busy && poll(&fd, 1, 100) > 0)
            calm(lanes->main_fd);
    }
}

void lanes_free(struct lanes *lanes)
{
    if (!lanes)
        return;
    lanes_stop(lanes);
    lock(lanes);
    lanes->is_ending = true;
    for (unsigned i = 0; i < lanes->count; i++)
        ring(lanes->lane[i].wake_fd);
    unlock(lanes);
    for (unsigned i = 0; i < lanes->count; i++) {
        (void)pthread_join(lanes->lane[i].thread, NULL);
        close(lanes->lane[i].wake_fd);
    }
    if (lanes->main_fd >= 0)
        close(lanes->main_fd);
    pthread_mutex_destroy(&lanes->lock);
    free_blocks(lanes);
    free(lanes);
}

int lanes_fd(const struct lanes *lanes)
{
    return lanes->main_fd;
}

void lanes_calm(struct lanes *lanes)
{
    calm(lanes->main_fd);
}

void lanes_connect(struct lanes *lanes, unsigned lane, struct chan *chan)
{
    struct lane *l = &lanes->lane[lane - 1];
    struct chan *unused;

    ha_assert(lane >= 1 && lane <= lanes->count);
    lock(lanes);
    unused = l->next_chan; /* one that the thread has not even looked at */
    l->next_chan = chan;
    l->is_up = true;
    l->has_loss = false;
    ring(l->wake_fd);
    unlock(lanes);
    if (unused)
        unused->ops->close(unused);
}

bool lanes_is_up(struct lanes *lanes, unsigned lane)
{
    lock(lanes);
    bool result = lanes->lane[lane - 1].is_up;
    unlock(lanes);
    return result;
}

unsigned lanes_take_loss(struct lanes *lanes, struct ha_err *ret_why)
{
    unsigned result = 0;

    lock(lanes);
    for (unsigned i = 0; i < lanes->count && result == 0; i++) {
        if (!lanes->lane[i].has_loss)
            continue;
        lanes->lane[i].has_loss = false;
        *ret_why = lanes->lane[i].why;
        result = i + 1;
    }
    unlock(lanes);
    return result;
}

int lanes_check(struct lanes *lanes, struct ha_err *err)
{
    lock(lanes);
    if (lanes->fatal.code != 0 && err)
        *err = lanes->fatal;
    int rc = -lanes->fatal.code;
    unlock(lanes);
    return rc;
}

uint64_t lanes_bytes(struct lanes *lanes)
{
    lock(lanes);
    uint64_t result = lanes->bytes;
    unlock(lanes);
    return result;
}

uint8_t *lanes_open(struct lanes *lanes)
{
    uint8_t *result = NULL;

    lock(lanes);
    if (window_open(&lanes->window)) {
        size_t slot = lanes->window.next % lanes->window.size;
        if (!lanes->blocks[slot])
            lanes->blocks[slot] = take_block(lanes);
        lanes->starts[slot] = 0;
        result = lanes->blocks[slot] + FRAME_HEADER_SIZE;
    }
    lanes->is_main_waiting = result == NULL;
    unlock(lanes);
    return result;
}

uint8_t *lanes_exchange(struct lanes *lanes, uint8_t *block, size_t start)
{
    lock(lanes);
    size_t slot = lanes->window.next % lanes->window.size;
    uint8_t *result = lanes->blocks[slot];
    ha_assert(result && start <= FRAME_FRONT);
    lanes->blocks[slot] = block;
    lanes->starts[slot] = start;
    unlock(lanes);
    return result;
}

void lanes_queue(struct lanes *lanes, size_t size)
{
    ha_assert(size > 0 && size <= FRAME_PARCEL_MAX);
    lock(lanes);
    size_t slot = lanes->window.next % lanes->window.size;
    struct frame_header header = {
        .type = FRAME_PARCEL, .size = (uint32_t)size, .sequence = lanes->window.next};
    frame_header_encode(lanes->blocks[slot] + lanes->starts[slot], &header);
    lanes->sizes[slot] = (uint32_t)size;
    window_queue(&lanes->window);
    for (unsigned i = 0; i < lanes->count; i++)
        if (lanes->lane[i].is_idle) {
            lanes->lane[i].is_idle = false;
            ring(lanes->lane[i].wake_fd);
            break;
        }
    unlock(lanes);
}

int lanes_ack(struct lanes *lanes, uint64_t next, struct ha_err *err)
{
    lock(lanes);
    int rc = window_ack(&lanes->window, next, err);
    reclaim(lanes);
    unlock(lanes);
    return rc;
}

bool lanes_is_empty(struct lanes *lanes)
{
    lock(lanes);
    bool result = lanes->window.acked == lanes->window.next;
    unlock(lanes);
    return result;
}

uint8_t *lanes_head(struct lanes *lanes, size_t *ret_size)
{
    uint8_t *result = NULL;

    lock(lanes);
    if (reorder_is_ready(&lanes->reorder)) {
        size_t slot = lanes->reorder.next % lanes->reorder.size;
        result = lanes->blocks[slot] + FRAME_HEADER_SIZE;
        *ret_size = lanes->sizes[slot];
    }
    lanes->is_main_waiting = result == NULL;
    unlock(lanes);
    return result;
}

uint64_t lanes_release(struct lanes *lanes)
{
    lock(lanes);
    uint8_t **block = &lanes->blocks[lanes->reorder.next % lanes->reorder.size];
    give_block(lanes, *block);
    *block = NULL;
    reorder_release(&lanes->reorder);
    uint64_t result = lanes->reorder.next;
    unlock(lanes);
    return result;
}
