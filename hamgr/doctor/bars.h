/* SPDX-License-Identifier: Apache-2.0
 *
 * From what nodes found of the things that guests' definitions name, and of their processors and
 * paging, to what stands against a guest on a node (ha_bar): the planner's input.
 *
 * A thing that is missing, or is another than where the guest runs, bars the node. What a node did
 * not tell bars nothing: it has the last word when it is asked to build the guest.
 *
 * Pure; memory is the caller's.
 */
#ifndef HAMGR_DOCTOR_BARS_H
#define HAMGR_DOCTOR_BARS_H

#include "hamgr/core/runtime.h"
#include "hamgr/doctor/doctor.h"
#include "hamgr/doctor/lookproto.h"

/* What a node found of one thing. */
struct ha_found {
    uint64_t key;  /* of kind and name: ha_thing_key */
    uint8_t state; /* enum look_state */
    uint64_t id;
};

/* What guests are given there, and what those may have that come; "" = not known. */
struct ha_bars_cpu {
    char pv[HA_FACT_TEXT_MAX], pv_max[HA_FACT_TEXT_MAX];
    char hvm[HA_FACT_TEXT_MAX], hvm_max[HA_FACT_TEXT_MAX];
};

struct ha_bars_node {
    uint32_t node;
    char name[HA_NAME_MAX];
    bool is_paging_known;
    bool has_shadow;
    bool has_hap;
    struct ha_bars_cpu cpu;
    uint32_t found_count;
    const struct ha_found *found; /* ascending by key */
};

struct ha_bars_guest {
    struct ha_uuid id;
    uint8_t kind;            /* enum ha_guest_kind */
    uint32_t owner;          /* 0 = none */
    uint32_t home;           /* owner, or where it ran last; 0 = it never ran */
    uint32_t pause_ms;       /* of a move that is not live */
    bool is_pause_guess;     /* nothing moved yet */
    uint32_t contract_ms;    /* what it may stand still */
    const char *never_quiet; /* why its disks can't be proven quiet; NULL: they can */
    uint32_t thing_count;
    const struct look_thing *const *things;
};

/* The same on every node; never 0. */
uint64_t ha_thing_key(const struct look_thing *thing);
/* Fills ret_bars, ascending by guest if guests are; returns how many (what is beyond is left out).
 */
uint32_t ha_bars_make(const struct ha_bars_node *nodes, uint32_t node_count,
                      const struct ha_bars_guest *guests, uint32_t guest_count,
                      struct ha_bar *ret_bars, uint32_t capacity);

#endif
