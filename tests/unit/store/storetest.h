/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared by the store's tests: a directory of its own per test, a chain of entries, completions
 * awaited through the store's descriptor.
 */
#ifndef TESTS_UNIT_STORE_STORETEST_H
#define TESTS_UNIT_STORE_STORETEST_H

/* cmocka wants these four before itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hamgr/store/store.h"

#define CHAIN_MAX 400

struct chain {
    struct log_entry entries[CHAIN_MAX + 1]; /* by index, 0 unused */
    uint8_t body[HA_ENTRY_MAX];
};

/* Makes entries 1..count in view with bodies of body_size bytes (the same for all). */
struct chain *chain_make(uint32_t count, struct log_view view, uint32_t body_size, uint8_t filler);
/* Makes a temporary directory for a store; the store's own is DIR/s. Removed by dir_remove. */
char *dir_make(void);
const char *dir_store(const char *dir);
void dir_remove(char *dir);
struct store_identity identity_make(void);
/* Creates and opens a store; fails the test when that fails. */
struct store *store_fresh(const char *dir);
struct store *store_again(const char *dir);
/* Writes entries first..last and waits; returns is_ok. */
bool write_entries(struct store *store, uint64_t token, const struct chain *chain, uint64_t first,
                   uint64_t last);
int queue_entries(struct store *store, uint64_t token, const struct chain *chain, uint64_t first,
                  uint64_t last);
/* Waits up to 20 s for the next completion. */
struct store_done await_done(struct store *store);
/* Counts entries the store gives and compares them with chain. */
uint64_t check_entries(struct store *store, const struct chain *chain, uint64_t first);
uint64_t test_now_ms(void);
/* True if a name in the store's directory starts with prefix. */
bool dir_has(const char *dir, const char *prefix);

#endif
