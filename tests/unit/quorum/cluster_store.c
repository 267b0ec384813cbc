/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores of the small world: what is durable, what is queued, what a crash leaves.
 */
#include "cluster_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void world_free_write(struct world_write *write)
{
    for (uint32_t i = 0; write && i < write->count; i++)
        free((void *)(uintptr_t)write->entries[i].e.body);
    if (write)
        free(write->entries);
    free(write);
}

struct world_entry world_copy_entry(const struct log_entry *entry)
{
    struct world_entry copy = {.e = *entry};
    uint8_t *body = world_calloc(1, entry->body_size + 1);

    if (entry->body_size > 0)
        memcpy(body, entry->body, entry->body_size);
    copy.e.body = body;
    return copy;
}

void world_store_cut(struct world_store *s, uint64_t index)
{
    while (s->count > 0 && s->base + s->count >= index) {
        s->count--;
        free((void *)(uintptr_t)s->entries[s->count].e.body);
    }
}

static void drop_entries_to(struct world_store *s, uint64_t index)
{
    uint32_t n = 0;

    while (n < s->count && s->entries[n].e.index <= index) {
        free((void *)(uintptr_t)s->entries[n].e.body);
        n++;
    }
    s->count -= n;
    if (s->count > 0)
        memmove(s->entries, s->entries + n, s->count * sizeof(s->entries[0]));
}

void world_store_add(struct world *w, struct world_store *s, const struct log_entry *entry)
{
    if (entry->index != s->base + s->count + 1)
        world_fail(w, "store %p: entry %llu written after %llu", (void *)s,
                   (unsigned long long)entry->index, (unsigned long long)(s->base + s->count));
    s->entries = world_grow(s->entries, s->count, &s->capacity, sizeof(s->entries[0]));
    s->entries[s->count++] = world_copy_entry(entry);
}

/* No view may have two OPEN entries, wherever they are stored. */
static void check_open(struct world *w, const struct log_entry *entry)
{
    for (uint32_t i = 0; i < w->open_count; i++) {
        if (log_view_cmp(w->opens[i].view, entry->view) != 0)
            continue;
        if (!ha_digest_equal(w->opens[i].digest, entry->digest))
            world_fail(w, "view %llu.%u has two OPEN entries",
                       (unsigned long long)entry->view.counter, entry->view.leader);
        return;
    }
    w->opens = world_grow(w->opens, w->open_count, &w->open_capacity, sizeof(*w->opens));
    w->opens[w->open_count].view = entry->view;
    w->opens[w->open_count++].digest = entry->digest;
}

void world_apply_write(struct world *w, struct world_node *n, const struct world_write *write)
{
    struct world_store *s = &n->store;

    if (w->is_verbose)
        printf(
            "[%8.3f] n%u stores kind %u token %llu truncate %llu entries %u from %llu base %llu\n",
            (double)w->now_us / 1e6, n->id, write->kind, (unsigned long long)write->token,
            (unsigned long long)write->truncate_from, write->count,
            write->count ? (unsigned long long)write->entries[0].e.index : 0,
            (unsigned long long)write->index);
    if (write->kind == WRITE_LOG) {
        if (write->has_promise) {
            if (log_view_cmp(write->promised, s->promised) < 0)
                world_fail(w, "n%u: a promise goes back", n->id);
            s->promised = write->promised;
        }
        if (write->has_log_view)
            s->log_view = write->log_view;
        if (write->truncate_from)
            world_store_cut(s, write->truncate_from);
        for (uint32_t i = 0; i < write->count; i++) {
            world_store_add(w, s, &write->entries[i].e);
            if (write->entries[i].e.kind == LOG_KIND_OPEN)
                check_open(w, &write->entries[i].e);
        }
        return;
    }
    if (write->kind == WRITE_INSTALL)
        world_store_cut(s, 0);
    else
        drop_entries_to(s, write->index);
    s->base = write->index;
    s->base_digest = write->digest;
    s->base_view = write->view;
    s->voters = write->voters;
    s->base_open = write->open;
    if (write->kind == WRITE_INSTALL && log_view_cmp(write->view, s->log_view) > 0)
        s->log_view = write->view;
}

void world_queue_write(struct world *w, struct world_node *n, struct world_write *write)
{
    struct world_write **tail = &n->writes;

    while (*tail)
        tail = &(*tail)->next;
    *tail = write;
    if (n->is_writing)
        return;
    n->is_writing = true;
    world_push(w, world_new_event(w, EV_DISK, n->id,
                                  w->disk_us + ha_rng_below(&w->rng, w->disk_jitter_us + 1)));
}

/* The voter set and the last OPEN as the shell's state has them at its applied index. */
struct world_write *world_new_snapshot(struct world_node *n, uint8_t kind)
{
    struct world_write *write = world_calloc(1, sizeof(*write));

    write->kind = kind;
    write->index = n->applied;
    write->voters = n->voters;
    write->open = n->open_applied;
    if (!log_ring_digest(&n->log->ring, n->applied, &write->digest) ||
        !log_ring_view(&n->log->ring, n->applied, &write->view)) {
        free(write);
        return NULL;
    }
    return write;
}
