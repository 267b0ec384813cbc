/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest's life: boot (first content into every page), one self-check over all pages, then steps
 * for ever. Boot and check run in small pieces between the steps, so that steps keep their rhythm
 * and a copy that just arrived makes its first step at once.
 */
#include "hamgr/hv/embedded/guestloop.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Pages between two looks at the clock: 32 pages of filling are about 25 us. */
#define PIECE_PAGES 32u
/* A full pass of the samples takes about this long... */
#define PASS_MS 30000u
/* ...but a step checks at least this many pages. */
#define SAMPLE_MIN 16u

static uint64_t clock_ns(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- console ---- */

static void say(struct guest *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct guest *g, const char *fmt, ...)
{
    char line[160];
    va_list args;

    if (!g->console)
        return;
    va_start(args, fmt);
    int size = vsnprintf(line, sizeof(line) - 1, fmt, args);
    va_end(args);
    if (size < 0)
        return;
    if (size > (int)sizeof(line) - 2)
        size = (int)sizeof(line) - 2;
    line[size++] = '\n';
    uint64_t at = atomic_load_explicit(&g->console->written, memory_order_relaxed);
    for (int n = 0; n < size; n++)
        g->console->data[(at + (uint64_t)n) % HV_CONSOLE_DATA] = line[n];
    atomic_store_explicit(&g->console->written, at + (uint64_t)size, memory_order_release);
}

/* ---- ends ---- */

static _Noreturn void end(struct guest *g, enum emb_end how, const char *why)
{
    say(g, "end: %s at step %llu", why, (unsigned long long)wl_now(&g->wl)->step);
    atomic_store_explicit(&g->status->end, (uint32_t)how, memory_order_release);
    _exit(how == EMB_END_CRASH ? 1 : 0);
}

static _Noreturn void corrupt(struct guest *g, const char *what, uint64_t pfn)
{
    say(g, "CORRUPT: pfn %llu: %s", (unsigned long long)pfn, what);
    if (g->slot)
        atomic_fetch_add(&g->slot->corrupt, 1);
    atomic_fetch_add(&g->status->corrupt, 1);
    end(g, EMB_END_CRASH, "memory is damaged");
}

static void check_ends(struct guest *g)
{
    const struct emb_definition *d = &g->label->definition;
    uint64_t run_s = wl_now(&g->wl)->run_ms / 1000;

    if (atomic_load_explicit(&g->label->is_shutdown_wanted, memory_order_relaxed) != 0)
        end(g, EMB_END_POWEROFF, "shutdown was asked for");
    if (d->poweroff_after_s != 0 && run_s >= d->poweroff_after_s)
        end(g, EMB_END_POWEROFF, "poweroff_after_s");
    if (d->reboot_after_s != 0 && run_s >= d->reboot_after_s)
        end(g, EMB_END_REBOOT, "reboot_after_s");
    if (d->crash_after_s != 0 && run_s >= d->crash_after_s) {
        say(g, "end: crash_after_s");
        __builtin_trap();
    }
}

/* ---- observer ---- */

/* What the first step of this copy may find in the slot; observer.h says why. */
static bool is_handoff(const struct guest *g, uint64_t old, uint64_t from)
{
    if (old == 0)
        return from == 0;
    if (hv_observer_epoch(old) >= (g->label->label.epoch & 0xffffffu))
        return false;
    if (from == 0)
        return true;
    uint64_t next = hv_observer_pack(hv_observer_node(from), hv_observer_epoch(from),
                                     (uint64_t)hv_observer_step(from) + 1);
    return old == from || old == next;
}

static void count_foreign(struct guest *g, uint64_t old, uint64_t own)
{
    atomic_store(&g->slot->foreign_word, old);
    atomic_store(&g->slot->foreign_own, own);
    atomic_store(&g->slot->foreign_ns, clock_ns(CLOCK_BOOTTIME));
    atomic_fetch_add(&g->slot->violations, 1);
    say(g, "FOREIGN: word %016llx, own %016llx", (unsigned long long)old, (unsigned long long)own);
}

static void note_gap(struct hv_observer_slot *slot, uint64_t gap_ns)
{
    uint64_t seen = atomic_load(&slot->max_gap_ns);

    while (gap_ns > seen && !atomic_compare_exchange_weak(&slot->max_gap_ns, &seen, gap_ns))
        ;
}

static void begin_history(struct guest *g, uint64_t word, uint64_t gap_ns)
{
    uint64_t number = atomic_fetch_add(&g->slot->history_count, 1);
    struct hv_observer_copy *entry = &g->slot->history[number % HV_OBSERVER_HISTORY];

    atomic_store(&entry->word, 0);
    atomic_store(&entry->first_step_ns, clock_ns(CLOCK_MONOTONIC));
    atomic_store(&entry->first_check_ns, 0);
    atomic_store(&entry->gap_ns, gap_ns);
    atomic_store(&entry->is_restored, g->label->is_restored);
    atomic_store(&entry->word, word);
    g->entry = entry;
}

/* The exchange of step next->step. Stopped behind it and copied, the copy finds own, one step on
 * from what its memory holds: is_handoff allows for that. */
static void observe(struct guest *g, struct wl_commit *next, uint64_t step)
{
    uint64_t own = hv_observer_pack(g->label->node_id, g->label->label.epoch, step);
    uint64_t last = next->last_word;
    uint64_t now_ns = clock_ns(CLOCK_BOOTTIME);
    uint64_t gap_ns =
        next->last_step_ns != 0 && now_ns > next->last_step_ns ? now_ns - next->last_step_ns : 0;

    next->last_step_ns = now_ns;
    if (!g->is_stepped && g->label->is_restored)
        atomic_store_explicit(&g->status->arrived_gap_ns, gap_ns, memory_order_relaxed);
    if (!g->slot) {
        next->last_word = 0;
        return;
    }
    uint64_t old = atomic_exchange(&g->slot->word, own);
    bool is_right = g->is_stepped ? old == last : is_handoff(g, old, last);
    if (!is_right)
        count_foreign(g, old, last);
    if (!g->is_stepped)
        begin_history(g, own, gap_ns);
    note_gap(g->slot, gap_ns);
    atomic_store_explicit(&g->slot->last_step_ns, now_ns, memory_order_relaxed);
    next->last_word = own;
}

/* ---- disk ---- */

static void ring_bell(void)
{
    /* Full: the backend is awake. Gone: so are the answers, and the disk shows it. */
    ssize_t n = write(EMB_FD_BELL, "", 1);

    (void)n;
}

static void connect_disk(struct guest *g)
{
    if (!g->ring)
        return;
    if (g->label->is_restored)
        emb_disk_front_reconnect(&g->wl.state->disk, g->ring);
    else
        emb_disk_front_boot(&g->wl.state->disk, g->ring);
    ring_bell();
}

static void step_disk(struct guest *g, struct wl_commit *next, uint64_t step)
{
    struct emb_disk_front *disk = &g->wl.state->disk;
    const struct emb_definition *d = &g->label->definition;
    bool was_ready = disk->is_ready != 0;
    uint64_t acked = disk->acked;
    bool is_written = false;

    if (!g->ring)
        return;
    emb_disk_front_poll(disk, g->ring);
    if (disk->failed_count != 0)
        corrupt(g, "the disk's contents are not this guest's", 0);
    if (was_ready && g->slot)
        atomic_fetch_add(&g->slot->disk_writes, disk->acked - acked);
    next->disk_carry += (uint64_t)d->writes_per_s * d->step_ms;
    while (next->disk_carry >= 1000) {
        uint64_t payload[3] = {g->wl.state->seed, step, disk->produced + 1};
        if (!emb_disk_front_write(disk, g->ring, payload, sizeof(payload))) {
            next->disk_carry = 1000; /* the disk is slower: owe one, not thousands */
            break;
        }
        next->disk_carry -= 1000;
        is_written = true;
    }
    if (is_written)
        ring_bell();
}

/* ---- steps ---- */

static void step_memory(struct guest *g, struct wl_commit *next)
{
    const struct emb_definition *d = &g->label->definition;
    uint64_t sample = g->wl.data_pages * d->step_ms / PASS_MS;

    next->dirty_carry += (uint64_t)d->dirty_kib_s * d->step_ms;
    for (; next->dirty_carry >= 4 * 1000; next->dirty_carry -= 4 * 1000)
        wl_write_page(&g->wl);
    if (sample < SAMPLE_MIN)
        sample = SAMPLE_MIN;
    for (uint64_t n = 0; n < sample; n++) {
        if (!wl_check_page(&g->wl, next->verify_next))
            corrupt(g, g->wl.found_what, g->wl.found_pfn);
        next->verify_next = (next->verify_next + 1) % g->wl.data_pages;
        if (next->verify_next == 0) {
            atomic_fetch_add(&g->status->full_checks, 1);
            if (g->slot)
                atomic_fetch_add(&g->slot->full_checks, 1);
        }
    }
}

static void make_step(struct guest *g)
{
    struct wl_commit next = *wl_now(&g->wl);
    uint64_t step = next.step + 1;

    if (!wl_check_state(&g->wl))
        corrupt(g, g->wl.found_what, g->wl.found_pfn);
    observe(g, &next, step);
    if (atomic_load(&g->wl.state->filled) >= g->wl.data_pages) {
        step_memory(g, &next);
        step_disk(g, &next, step);
    }
    next.run_ms += g->label->definition.step_ms;
    wl_commit(&g->wl, next);
    g->is_stepped = true;
    atomic_store_explicit(&g->status->steps, step, memory_order_relaxed);
    check_ends(g);
}

static void stamp_checked(struct guest *g)
{
    uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);

    g->is_checked = true;
    atomic_fetch_add(&g->status->full_checks, 1);
    atomic_store(&g->status->is_checked, 1);
    say(g, "self-check passed: %llu pages, step %llu", (unsigned long long)g->page_count,
        (unsigned long long)wl_now(&g->wl)->step);
    if (!g->slot)
        return;
    atomic_fetch_add(&g->slot->full_checks, 1);
    if (g->entry)
        atomic_store(&g->entry->first_check_ns, now_ns);
    atomic_store(&g->slot->first_check_ns, now_ns);
    atomic_store(&g->slot->first_check_word, wl_now(&g->wl)->last_word);
}

/* Boot, then the first self-check, piece by piece until deadline_ns. */
static void work_until(struct guest *g, uint64_t deadline_ns)
{
    while (!g->is_checked) {
        if (wl_fill(&g->wl, PIECE_PAGES)) {
            for (unsigned n = 0; n < PIECE_PAGES && g->check_next < g->wl.data_pages; n++)
                if (!wl_check_page(&g->wl, g->check_next++))
                    corrupt(g, g->wl.found_what, g->wl.found_pfn);
            if (g->check_next >= g->wl.data_pages)
                stamp_checked(g);
        }
        if (clock_ns(CLOCK_MONOTONIC) >= deadline_ns)
            return;
    }
}

static void sleep_until(uint64_t deadline_ns)
{
    struct timespec t = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                         .tv_nsec = (long)(deadline_ns % 1000000000u)};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* A memory the trusted stage formatted, or one that came through a stream. A page write that was
 * under way when the copy was made is made again before anything is believed. */
static void wake_up(struct guest *g)
{
    if (!wl_open(&g->wl, g->memory, g->page_count))
        corrupt(g, g->wl.found_what, g->wl.found_pfn);
    if (g->label->is_restored && atomic_load(&g->wl.state->filled) >= g->wl.data_pages)
        wl_write_page(&g->wl);
    say(g, "%s: node %u, epoch %llu, %llu MiB, step %llu",
        g->label->is_restored ? "continued" : "started", g->label->node_id,
        (unsigned long long)g->label->label.epoch,
        (unsigned long long)(g->page_count * WL_PAGE >> 20),
        (unsigned long long)wl_now(&g->wl)->step);
    connect_disk(g);
}

void guest_loop(struct guest *g)
{
    wake_up(g);
    uint64_t deadline_ns = clock_ns(CLOCK_MONOTONIC);
    for (;;) {
        make_step(g);
        deadline_ns += (uint64_t)g->label->definition.step_ms * 1000000u;
        work_until(g, deadline_ns);
        uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
        /* Late (stopped, or out-run): no steps are made up for, the rhythm starts anew. */
        if (now_ns > deadline_ns)
            deadline_ns = now_ns;
        else
            sleep_until(deadline_ns);
    }
}
