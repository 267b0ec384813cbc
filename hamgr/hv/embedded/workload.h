/* SPDX-License-Identifier: Apache-2.0
 *
 * The workload of an embedded guest: a machine that checks itself. All its state is in one span of
 * memory, so that a copy of that memory, taken at any instruction, continues elsewhere; and every
 * page of it says what it must contain, so that a copy with a page lost, torn, stale or swapped is
 * found out by the copy itself.
 *
 * Pure: memory and numbers only. guest.c gives it time, console, disk and observer.
 *
 * Memory. The first 16 pages hold the state (struct wl_state, the disk's front end). All others are
 * data pages in chunks of 16. Chunks are written round robin in an order permuted by the seed:
 * write number w (from 0) goes to data page order(w mod data pages). So how often each page was
 * written, its generation, follows from the one counter `written`; no table could be stale together
 * with what it describes. A page's whole content follows from (seed, pfn, generation).
 *   zero page    4096 zero bytes in every generation (a write stores zeros)
 *   text, random u64 pfn, u64 generation, u64 checksum, u64 seed, 4064 bytes of content
 *
 * Steps. A step writes its pages (`written` counts each when it is complete: a copy made in between
 * writes that page again, with the same bytes), checks some, and commits: it fills the other of two
 * commit slots and flips `current`. Each commit is chained to the one before it.
 */
#ifndef HAMGR_HV_EMBEDDED_WORKLOAD_H
#define HAMGR_HV_EMBEDDED_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/digest.h"
#include "hamgr/hv/embedded/definition.h"
#include "hamgr/hv/embedded/disk.h"

#define WL_MAGIC       UINT64_C(0x314c574d48) /* "HMWL1" */
#define WL_VERSION     1u
#define WL_PAGE        4096u
#define WL_CHUNK       16u /* pages: 64 KiB */
#define WL_STATE_PAGES WL_CHUNK

struct wl_commit {
    uint64_t step;
    uint64_t written;      /* page writes before the next step */
    uint64_t last_word;    /* what this copy put into the observer's word, 0 = unobserved */
    uint64_t last_step_ns; /* BOOTTIME */
    uint64_t run_ms;       /* run time: step lengths summed up, pauses not counted */
    uint64_t verify_next;  /* data page the next sample starts at */
    uint64_t dirty_carry;  /* 1/1000 KiB owed to the dirty rate */
    uint64_t disk_carry;   /* 1/1000 writes owed to the disk */
    struct ha_digest chain;
    uint64_t checksum; /* of all above */
};

struct wl_state {
    uint64_t magic;
    uint32_t version;
    uint32_t zero_percent;
    uint32_t text_percent;
    uint32_t reserved;
    uint64_t page_count;
    uint64_t seed;
    _Atomic uint64_t filled;  /* data pages that have their first content */
    _Atomic uint64_t written; /* page writes done ever, the unfinished step's included */
    _Atomic uint64_t current; /* index of the valid commit */
    struct wl_commit commits[2];
    struct emb_disk_front disk;
};
_Static_assert(sizeof(struct wl_state) <= WL_STATE_PAGES * WL_PAGE, "the state area");

#define WL_WORDS 1024u

/* A view of the memory in this process; holds nothing that must survive it. */
struct wl {
    struct wl_state *state;
    uint8_t *memory;
    uint64_t data_pages;
    uint64_t chunk_count;
    uint64_t order_mul, order_add, order_inverse;
    uint64_t found_pfn;       /* of the newest failed check */
    const char *found_what;   /* static text */
    uint64_t words[WL_WORDS]; /* what text pages are made of */
};

/* Lays an empty (all zero) memory of page_count pages out for definition. */
void wl_format(struct wl *wl, void *memory, uint64_t page_count, const struct emb_definition *d);
/* Takes over a memory that was formatted before. False, and found_what: it is none, or damaged. */
bool wl_open(struct wl *wl, void *memory, uint64_t page_count);

/* Gives up to count more data pages their first content. True when all have it. */
bool wl_fill(struct wl *wl, uint64_t count);
/* Makes one page write. */
void wl_write_page(struct wl *wl);
/* Checks data page n (0 .. data_pages - 1). False, found_pfn and found_what if it is damaged. */
bool wl_check_page(struct wl *wl, uint64_t n);
/* Checks the state: both commits, their chain, counters. */
bool wl_check_state(struct wl *wl);

/* The valid commit. */
const struct wl_commit *wl_now(const struct wl *wl);
/* Commits next (step, written, chain and checksum are set here). */
void wl_commit(struct wl *wl, struct wl_commit next);

#endif
