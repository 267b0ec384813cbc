/* SPDX-License-Identifier: Apache-2.0
 *
 * Sentences shared by ha_explain and ha_refusal: a condition in words with its numbers, and the
 * smallest change that lifts it.
 */
#ifndef HAMGR_CORE_EXPLAIN_INTERNAL_H
#define HAMGR_CORE_EXPLAIN_INTERNAL_H

#include "hamgr/core/plan_internal.h"

/* MiB of memory that is there (rounded down) or needed (rounded up). */
uint64_t explain_mib_have(uint64_t kib);
uint64_t explain_mib_need(uint64_t kib);
/* The node's name, "node 7" for one that is not known. Writes into buffer, returns it. */
const char *explain_node(const struct ha_state *state, uint32_t node, char buffer[HA_NAME_MAX]);
/* Why the node in slot can't take `mem_kib` more (reason from plan_check_node or NO_MEMORY), or
 * that it can (HA_REASON_NONE). free_kib: what is free there. */
void explain_place(const struct ha_state *state, const struct ha_runtime *rt, uint32_t slot,
                   uint16_t reason, uint64_t free_kib, uint64_t mem_kib, char ret_text[HA_TEXT_MAX],
                   char ret_fix[HA_TEXT_MAX]);
/* What stands against the guest on another node than its own, NULL = nothing known; in words, with
 * the limit that a pause is beyond. pause_ms as in ha_bar_against. */
const struct ha_bar *explain_bar(const struct ha_runtime *rt, const struct ha_guest *guest,
                                 uint32_t node, uint32_t pause_ms);
void explain_say_bar(const struct ha_state *state, uint32_t node, const struct ha_bar *bar,
                     uint32_t pause_ms, char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX]);
/* The owner that is gone and not yet proven dead: what is waited for, how long still. */
void explain_unclean(const struct ha_state *state, const struct ha_runtime *rt, uint32_t node,
                     char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX]);
/* The restart limit, or that the guest is not protected. */
void explain_failed(const struct ha_state *state, const struct ha_guest *guest,
                    char ret_text[HA_TEXT_MAX], char ret_fix[HA_TEXT_MAX]);

#endif
