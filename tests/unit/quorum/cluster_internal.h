/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the small world share.
 */
#ifndef TESTS_UNIT_QUORUM_CLUSTER_INTERNAL_H
#define TESTS_UNIT_QUORUM_CLUSTER_INTERNAL_H

#include "cluster.h"

/* ---- cluster.c */
void *world_grow(void *list, uint32_t count, uint32_t *capacity, size_t size);
void *world_calloc(size_t count, size_t size);
/* First instant at which the node's clock shows local_ms. */
uint64_t world_true_us(const struct world_node *n, uint64_t local_ms);
void world_push(struct world *w, struct world_event *ev);
struct world_event *world_new_event(struct world *w, uint8_t type, uint32_t node, uint64_t in_us);

/* ---- cluster_store.c */
void world_free_write(struct world_write *write);
struct world_entry world_copy_entry(const struct log_entry *entry);
/* Deletes entries from index on. */
void world_store_cut(struct world_store *s, uint64_t index);
void world_store_add(struct world *w, struct world_store *s, const struct log_entry *entry);
void world_apply_write(struct world *w, struct world_node *n, const struct world_write *write);
void world_queue_write(struct world *w, struct world_node *n, struct world_write *write);
/* The shell's state at its applied index; NULL if the log no longer knows that index. */
struct world_write *world_new_snapshot(struct world_node *n, uint8_t kind);

/* ---- cluster_shell.c */
void world_make_snapshot(struct world *w, struct world_node *n);
void world_lead(struct world *w, struct world_node *n);

#endif
