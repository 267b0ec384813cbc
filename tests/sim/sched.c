/* SPDX-License-Identifier: Apache-2.0
 *
 * Virtual time: events in order, processes that can be stopped, continued and killed, and the
 * clocks of nodes. An event of a stopped process waits until it goes on, as timers and sockets do
 * for a process under SIGSTOP.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/arena.h"
#include "tests/sim/sim.h"

#define EVENTS_MAX 65536u
/* Most are due within two seconds: a wheel of short lists takes them, a heap those beyond. */
#define LISTS      512u
#define LIST_SHIFT 22u /* each of some 4 ms */
#define ON_WHEEL   EVENTS_MAX
#define NOWHERE    (EVENTS_MAX + 1u)

struct sim_event {
    uint64_t at, seq;
    struct sim_proc *proc;
    uint32_t life;
    uint32_t place; /* in the heap, ON_WHEEL or NOWHERE */
    uint32_t use;   /* grows with each use of this slot: stale handles are harmless */
    uint32_t index;
    sim_fn fn;
    void (*plain)(void *data); /* libqb's kind, instead of fn */
    void *data;
    uint64_t arg;
    struct sim_event *next; /* free, late, or on the wheel */
    struct sim_event *previous;
};

static struct sim_event events[EVENTS_MAX];
static struct sim_event *free_events;
static uint32_t event_count; /* slots ever used */
static struct sim_event *heap[EVENTS_MAX];
static uint32_t heap_count;
static struct {
    struct sim_event *first, *last;
} wheel[LISTS];
static uint64_t wheel_used[LISTS / 64]; /* a bit each */
static uint64_t seq_high;
static struct sim_arena *world; /* memory of what belongs to no process; gone with the run */

/* ---- the heap ----------------------------------------------------------------------------------
 */

static bool is_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void put(uint32_t place, struct sim_event *e)
{
    heap[place] = e;
    e->place = place;
}

static void sift_up(uint32_t place, struct sim_event *e)
{
    while (place > 0) {
        uint32_t parent = (place - 1) / 4;
        if (!is_before(e, heap[parent]))
            break;
        put(place, heap[parent]);
        place = parent;
    }
    put(place, e);
}

static void sift_down(uint32_t place, struct sim_event *e)
{
    for (;;) {
        uint32_t first = place * 4 + 1, best = first;
        if (first >= heap_count)
            break;
        for (uint32_t child = first + 1; child < first + 4 && child < heap_count; child++)
            best = is_before(heap[child], heap[best]) ? child : best;
        if (!is_before(heap[best], e))
            break;
        put(place, heap[best]);
        place = best;
    }
    put(place, e);
}

static void take_from_heap(struct sim_event *e)
{
    uint32_t place = e->place;
    struct sim_event *last = heap[--heap_count];

    if (last == e)
        return;
    if (place > 0 && is_before(last, heap[(place - 1) / 4]))
        sift_up(place, last);
    else
        sift_down(place, last);
}

/* ---- the wheel ---------------------------------------------------------------------------------
 */

static uint32_t list_of(uint64_t at)
{
    return (uint32_t)(at >> LIST_SHIFT) % LISTS;
}

/* In order; nearly always behind all others. */
static void put_on_wheel(struct sim_event *e)
{
    uint32_t list = list_of(e->at);
    struct sim_event *previous = wheel[list].last;

    while (previous && is_before(e, previous))
        previous = previous->previous;
    e->previous = previous;
    e->next = previous ? previous->next : wheel[list].first;
    *(previous ? &previous->next : &wheel[list].first) = e;
    *(e->next ? &e->next->previous : &wheel[list].last) = e;
    e->place = ON_WHEEL;
    wheel_used[list / 64] |= UINT64_C(1) << list % 64;
}

static void take_from_wheel(struct sim_event *e)
{
    uint32_t list = list_of(e->at);

    *(e->previous ? &e->previous->next : &wheel[list].first) = e->next;
    *(e->next ? &e->next->previous : &wheel[list].last) = e->previous;
    if (!wheel[list].first)
        wheel_used[list / 64] &= ~(UINT64_C(1) << list % 64);
}

/* All of them are due between now and one turn later, so the lists are in order from now's on. */
static struct sim_event *first_on_wheel(void)
{
    uint32_t from = list_of(sim.now), word = from / 64;
    uint64_t used = wheel_used[word] & UINT64_MAX << from % 64;

    for (uint32_t i = 0; i < LISTS / 64 && !used; i++) {
        word = (word + 1) % (LISTS / 64);
        used = wheel_used[word];
    }
    return used ? wheel[word * 64 + (uint32_t)__builtin_ctzll(used)].first : NULL;
}

/* ---- both --------------------------------------------------------------------------------------
 */

static void insert(struct sim_event *e)
{
    if ((e->at >> LIST_SHIFT) - (sim.now >> LIST_SHIFT) < LISTS) {
        put_on_wheel(e);
        return;
    }
    ha_assert(heap_count < EVENTS_MAX);
    sift_up(heap_count++, e);
}

static void take(struct sim_event *e)
{
    if (e->place == ON_WHEEL)
        take_from_wheel(e);
    else
        take_from_heap(e);
    e->place = NOWHERE;
}

static struct sim_event *first_of_all(void)
{
    struct sim_event *e = first_on_wheel();

    if (heap_count > 0 && (!e || is_before(heap[0], e)))
        e = heap[0];
    return e;
}

static void give_back(struct sim_event *e)
{
    e->use++;
    e->next = free_events;
    free_events = e;
}

static struct sim_event *new_event(uint64_t at, struct sim_proc *proc)
{
    struct sim_event *e = free_events;

    if (e) {
        free_events = e->next;
    } else {
        ha_assert(event_count < EVENTS_MAX);
        e = &events[event_count];
        e->index = event_count++;
    }
    *e = (struct sim_event){.at = at < sim.now ? sim.now : at,
                            .seq = ++seq_high,
                            .proc = proc,
                            .life = proc ? proc->life : 0,
                            .use = e->use,
                            .index = e->index};
    insert(e);
    return e;
}

static uint64_t handle_of(const struct sim_event *e)
{
    return (uint64_t)(e->index + 1) << 32 | e->use;
}

uint64_t sim_at(uint64_t at, struct sim_proc *proc, sim_fn fn, void *data, uint64_t arg)
{
    struct sim_event *e = new_event(at, proc);

    e->fn = fn;
    e->data = data;
    e->arg = arg;
    return handle_of(e);
}

void sim_cancel(uint64_t handle)
{
    uint32_t index = (uint32_t)(handle >> 32) - 1;

    if (handle == 0 || index >= event_count || events[index].use != (uint32_t)handle)
        return;
    if (events[index].place == NOWHERE) { /* late, or running */
        events[index].fn = NULL;
        events[index].plain = NULL;
        return;
    }
    take(&events[index]);
    give_back(&events[index]);
}

void sim_sched_reset(void)
{
    for (uint32_t i = 0; i < event_count; i++)
        events[i].use = 0;
    heap_count = event_count = 0;
    memset(wheel, 0, sizeof(wheel));
    memset(wheel_used, 0, sizeof(wheel_used));
    free_events = NULL;
    seq_high = 0;
    if (!world)
        world = sim_arena_new();
    sim_arena_clear(world);
    sim_arena_use(world);
}

static void run_event(struct sim_event *e)
{
    struct sim_event copy = *e;

    give_back(e);
    if (!copy.fn && !copy.plain)
        return;
    if (copy.proc && (copy.proc->state == SIM_DEAD || copy.proc->life != copy.life))
        return;
    sim_mix(copy.at ^ copy.seq << 8 ^ (copy.proc ? copy.proc->kind + 1u : 0u));
    struct sim_proc *before = sim_enter(copy.proc);
    if (copy.plain)
        copy.plain(copy.data);
    else
        copy.fn(copy.data, copy.arg);
    sim_leave(before);
}

bool sim_step(uint64_t until)
{
    struct sim_event *e = first_of_all();

    if (!e || e->at > until)
        return false;
    sim.now = e->at;
    take(e);
    struct sim_proc *proc = e->proc;
    if (proc && proc->state == SIM_STOPPED && proc->life == e->life) {
        e->next = NULL;
        *proc->late_end = e;
        proc->late_end = &e->next;
        return true;
    }
    run_event(e);
    return true;
}

/* ---- processes ---------------------------------------------------------------------------------
 */

struct sim_proc *sim_enter(struct sim_proc *proc)
{
    struct sim_proc *before = sim.running;

    sim.running = proc;
    sim_arena_use(proc && proc->arena ? proc->arena : world);
    return before;
}

void sim_leave(struct sim_proc *before)
{
    sim.running = before;
    sim_arena_use(before && before->arena ? before->arena : world);
}

static void drop_late(struct sim_proc *proc)
{
    while (proc->late_first) {
        struct sim_event *e = proc->late_first;
        proc->late_first = e->next;
        give_back(e);
    }
    proc->late_end = &proc->late_first;
}

void sim_proc_start(struct sim_proc *proc)
{
    ha_assert(proc->state == SIM_DEAD);
    proc->life++;
    proc->state = SIM_RUNS;
    proc->late_first = NULL;
    proc->late_end = &proc->late_first;
    for (uint32_t i = 0; i < SIM_FDS; i++)
        proc->polls[i].fd = -1;
}

void sim_proc_end(struct sim_proc *proc)
{
    if (proc->state == SIM_DEAD)
        return;
    drop_late(proc);
    proc->life++;
    proc->state = SIM_DEAD;
    if (proc->arena)
        sim_arena_clear(proc->arena);
}

void sim_proc_stop(struct sim_proc *proc)
{
    if (proc->state == SIM_RUNS)
        proc->state = SIM_STOPPED;
}

/* In the order they were due; what they lead to comes behind them. */
void sim_proc_continue(struct sim_proc *proc)
{
    if (proc->state != SIM_STOPPED)
        return;
    proc->state = SIM_RUNS;
    proc->continued_at = sim.now;
    while (proc->late_first) {
        struct sim_event *e = proc->late_first;
        proc->late_first = e->next;
        e->at = sim.now;
        e->seq = ++seq_high;
        insert(e);
    }
    proc->late_end = &proc->late_first;
}

/* ---- clocks ------------------------------------------------------------------------------------
 */

uint64_t sim_raw_ns(const struct sim_node *node)
{
    if (node->sleep.is_asleep)
        return node->clock.raw_ns;
    uint64_t span = sim.now - node->clock.from;
    int64_t drift = (int64_t)span / 1000000 * node->clock.ppm;

    return (uint64_t)((int64_t)(node->clock.raw_ns + span) + drift);
}

void sim_clock_rate(struct sim_node *node, int64_t ppm)
{
    node->clock.raw_ns = sim_raw_ns(node);
    node->clock.from = sim.now;
    node->clock.ppm = ppm;
}

uint64_t sim_span(const struct sim_node *node, uint64_t ns)
{
    return (uint64_t)((int64_t)ns - (int64_t)(ns / 1000000) * node->clock.ppm);
}

/* ---- libqb's loop ------------------------------------------------------------------------------
 */

int32_t qb_loop_timer_add(qb_loop_t *loop, enum qb_loop_priority p, uint64_t nsec, void *data,
                          qb_loop_timer_dispatch_fn fn, qb_loop_timer_handle *ret_handle)
{
    struct sim_proc *proc = (struct sim_proc *)loop;
    struct sim_event *e = new_event(sim.now + sim_span(proc->node, nsec), proc);

    (void)p;
    e->plain = fn;
    e->data = data;
    if (ret_handle)
        *ret_handle = handle_of(e);
    return 0;
}

int32_t qb_loop_timer_del(qb_loop_t *loop, qb_loop_timer_handle handle)
{
    (void)loop;
    sim_cancel(handle);
    return 0;
}

int32_t qb_loop_poll_add(qb_loop_t *loop, enum qb_loop_priority p, int32_t fd, int32_t events_,
                         void *data, qb_loop_poll_dispatch_fn fn)
{
    struct sim_proc *proc = (struct sim_proc *)loop;

    (void)p;
    (void)events_;
    for (uint32_t i = 0; i < SIM_FDS; i++) {
        if (proc->polls[i].fd >= 0)
            continue;
        proc->polls[i].fd = fd;
        proc->polls[i].data = data;
        proc->polls[i].fn = fn;
        return 0;
    }
    ha_assert(!"a process with more descriptors than SIM_FDS");
    return -1;
}

int32_t qb_loop_poll_mod(qb_loop_t *loop, enum qb_loop_priority p, int32_t fd, int32_t events_,
                         void *data, qb_loop_poll_dispatch_fn fn)
{
    (void)loop;
    (void)p;
    (void)fd;
    (void)events_;
    (void)data;
    (void)fn;
    return 0;
}

int32_t qb_loop_poll_del(qb_loop_t *loop, int32_t fd)
{
    struct sim_proc *proc = (struct sim_proc *)loop;

    for (uint32_t i = 0; i < SIM_FDS; i++) {
        if (proc->polls[i].fd == fd)
            proc->polls[i].fd = -1;
    }
    return 0;
}

void sim_ready(struct sim_proc *proc, int fd)
{
    for (uint32_t i = 0; i < SIM_FDS; i++) {
        if (proc->polls[i].fd != fd)
            continue;
        struct sim_proc *before = sim_enter(proc);
        proc->polls[i].fn(fd, 1 /* POLLIN */, proc->polls[i].data);
        sim_leave(before);
        return;
    }
}
