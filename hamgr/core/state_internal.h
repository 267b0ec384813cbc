/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the state share and nobody else sees. Each command is a rule: a check that only
 * reads and names the refusal, and an effect that runs only after the check passed. ha_state_check
 * and ha_state_apply use the same check, so a dry run and the log never disagree.
 */
#ifndef HAMGR_CORE_STATE_INTERNAL_H
#define HAMGR_CORE_STATE_INTERNAL_H

#include "hamgr/core/reason.h"
#include "hamgr/core/state.h"

/* The largest guest or node: 1 PiB. Keeps sums over HA_GUESTS_MAX guests far from overflow. */
#define STATE_MEM_MAX_KIB (UINT64_C(1) << 40)

typedef uint16_t (*state_check_fn)(const struct ha_state *state, const struct ha_cmd *cmd);
typedef void (*state_effect_fn)(struct ha_state *state, const struct log_entry *entry,
                                const struct ha_cmd *cmd);

struct state_rule {
    state_check_fn check;
    state_effect_fn effect;
};

/* The rules by family; NULL for a type that is not theirs. static */
const struct state_rule *state_node_rule(uint8_t type);
const struct state_rule *state_guest_rule(uint8_t type);
const struct state_rule *state_move_rule(uint8_t type);

/* Finders for effects. NULL when not found. */
struct ha_node *state_node_find(struct ha_state *state, uint32_t id);
struct ha_guest *state_guest_find(struct ha_state *state, struct ha_uuid id);
/* Inserts a zeroed node in its place; NULL when the table is full or the id taken. */
struct ha_node *state_node_insert(struct ha_state *state, uint32_t id);

void state_node_set_status(struct ha_node *node, const struct log_entry *entry, uint8_t status);
/* True if the node owns a guest / may hold a copy as an end of an open ticket. */
bool state_node_is_owner(const struct ha_state *state, uint32_t node);
bool state_node_is_ticket_end(const struct ha_state *state, uint32_t node);
/* The node exists and, unless both it may be left out and it was, the incarnation is the present
 * one. */
uint16_t state_check_incarnation(const struct ha_state *state, const struct ha_cmd *cmd,
                                 bool may_omit);

bool state_policy_is_valid(const struct ha_policy *policy);
void state_guest_set_phase(struct ha_guest *guest, const struct log_entry *entry, uint8_t phase);
/* Makes it nobody's and closes its ticket; the epoch stays that of the last copy. */
void state_guest_free(struct ha_guest *guest, const struct log_entry *entry);
/* The owner as named by cmd: node, then incarnation, then epoch. */
uint16_t state_check_owner(const struct ha_guest *guest, const struct ha_cmd *cmd);
/* The best words for "not in this phase": the owner is unclean, a ticket is open, or just that. */
uint16_t state_phase_refusal(const struct ha_state *state, const struct ha_guest *guest);
uint16_t state_check_memory(const struct ha_state *state, const struct ha_node *node,
                            uint64_t mem_kib);

/* MIGRATING -> RUNNING on the source. */
void state_move_abort(struct ha_guest *guest, const struct log_entry *entry);
/* The node's present incarnation is proven to run nothing: frees its guests and settles the
 * tickets it was an end of (table in state.h). */
void state_release(struct ha_state *state, const struct log_entry *entry, uint32_t node);

/* OPEN and VOTER. Return 0 with *ret_refusal, or -HA_E_CORRUPT and nothing changed. */
int state_apply_open(struct ha_state *state, const struct log_entry *entry, uint16_t *ret_refusal);
int state_apply_voter(struct ha_state *state, const struct log_entry *entry, uint16_t *ret_refusal);

#endif
