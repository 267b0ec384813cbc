/* SPDX-License-Identifier: Apache-2.0
 *
 * What an observer outside all nodes sees of the embedded guests: a file shared by every node, one
 * page of 4096 bytes per guest, mapped by the guest's process and by whoever looks. Slot n (the
 * definition's observer_slot) is at offset n * 4096. Whoever wants to observe makes an empty file;
 * it grows by itself. Without the file guests run unobserved.
 * Only its own slot is mapped into a guest. All fields are little-endian machine words, each read
 * and written atomically; times are CLOCK_BOOTTIME or CLOCK_MONOTONIC as said, in nanoseconds.
 *
 * The exchange. Every step s of a guest, running as copy (node, epoch), does
 *     old = atomic_exchange(&slot->word, pack(node, epoch, s))
 * so the slot holds a total order of all steps of all copies anywhere. `old` must be
 *   - the value this very copy stored last, or
 *   - on the first step of a started copy: 0 or any value of a lower epoch;
 *   - on the first step of a restored copy: the last value the copy it came from is known to have
 *     stored (the one its memory holds, or that plus one step when it was stopped between exchange
 *     and commit), of a lower epoch.
 * Anything else is a foreign value without a hand-off: two copies ran. It is counted by the copy
 * that sees it, and the copy goes on. Because each foreign step changes the word and each own step
 * checks it, two copies that both make a step after the later one started always produce a count;
 * no step can hide between check and store.
 */
#ifndef HAMGR_HV_EMBEDDED_OBSERVER_H
#define HAMGR_HV_EMBEDDED_OBSERVER_H

#include <stdint.h>

#define HV_OBSERVER_PATH    "/run/hamgr-observer/page"
#define HV_OBSERVER_SLOT    4096u /* bytes */
#define HV_OBSERVER_SLOTS   65536u
#define HV_OBSERVER_HISTORY 62u

/* One per copy that made a step: entry number (history_count - 1) is the newest, kept in
 * history[number % HV_OBSERVER_HISTORY]. 64 bytes. */
struct hv_observer_copy {
    _Atomic uint64_t word;          /* (node, epoch, step) of its first step; written last */
    _Atomic uint64_t first_step_ns; /* MONOTONIC */
    _Atomic uint64_t
        first_check_ns; /* MONOTONIC: first self-check over all pages passed; 0 not yet */
    _Atomic uint64_t
        gap_ns; /* BOOTTIME since the last step of the copy it was restored from, or 0 */
    _Atomic uint64_t is_restored;
    uint64_t reserved[3];
};

struct hv_observer_slot {
    _Atomic uint64_t word;         /*   0: (node, epoch, step); 0 = no step ever */
    _Atomic uint64_t violations;   /*   8: foreign values seen: double runs */
    _Atomic uint64_t foreign_word; /*  16: the newest of them */
    _Atomic uint64_t foreign_own;  /*  24: the word its finder had stored before, 0 = none */
    _Atomic uint64_t foreign_ns;   /*  32: BOOTTIME when */
    _Atomic uint64_t corrupt;      /*  40: pages or chain found damaged, by any copy */
    _Atomic uint64_t max_gap_ns;   /*  48: longest BOOTTIME between steps; reset: exchange with 0 */
    _Atomic uint64_t last_step_ns; /*  56: BOOTTIME of the newest step */
    _Atomic uint64_t first_check_ns;   /*  64: MONOTONIC, of the newest copy that passed: it runs */
    _Atomic uint64_t first_check_word; /*  72: (node, epoch, step) of that copy; written after it */
    _Atomic uint64_t full_checks;      /*  80: self-checks over all pages passed, by any copy */
    _Atomic uint64_t disk_writes;      /*  88: disk writes completed, by any copy */
    _Atomic uint64_t history_count;    /*  96 */
    uint64_t reserved[3];              /* 104 */
    struct hv_observer_copy history[HV_OBSERVER_HISTORY]; /* 128 */
};
_Static_assert(sizeof(struct hv_observer_slot) == HV_OBSERVER_SLOT, "a slot is one page");

/* Word: node in bits 56..63, epoch (its low 24 bits) in 32..55, step (its low 32 bits) in 0..31. */
static inline uint64_t hv_observer_pack(uint32_t node, uint64_t epoch, uint64_t step)
{
    return ((uint64_t)(node & 0xffu) << 56) | ((epoch & 0xffffffu) << 32) | (step & 0xffffffffu);
}

static inline uint32_t hv_observer_node(uint64_t word)
{
    return (uint32_t)(word >> 56);
}

static inline uint32_t hv_observer_epoch(uint64_t word)
{
    return (uint32_t)(word >> 32) & 0xffffffu;
}

static inline uint32_t hv_observer_step(uint64_t word)
{
    return (uint32_t)word;
}

#endif
