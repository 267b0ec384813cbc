/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of stores is the point of this file: each function says what a copy of the memory made
 * between any two of its instructions looks like. Signal fences keep the compiler to that order;
 * the processor's is not seen, because the copy is made of a stopped process.
 */
#include "hamgr/hv/embedded/workload.h"

#include <stdatomic.h>
#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wswitch-enum"
#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>
#pragma GCC diagnostic pop

#include "hamgr/base/assert.h"
#include "hamgr/base/rng.h"

#define BODY_WORDS ((WL_PAGE - sizeof(struct page_head)) / 8u)

enum page_class { CLASS_ZERO, CLASS_TEXT, CLASS_RANDOM };

struct page_head {
    uint64_t pfn;
    uint64_t generation;
    uint64_t checksum;
    uint64_t seed;
};

struct page {
    struct page_head head;
    uint64_t body[(WL_PAGE - sizeof(struct page_head)) / 8u];
};
_Static_assert(sizeof(struct page) == WL_PAGE, "a page");

static void order_here(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    struct ha_rng rng = {.state = a ^ (b * UINT64_C(0xd1342543de82ef95))};

    return ha_rng_next(&rng);
}

/* ---- the order of writes: chunk i of a round is chunk (i * mul + add) mod chunk_count ---- */

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* mul^-1 mod n by Euclid's extended algorithm. n < 2^32, gcd(mul, n) = 1. */
static uint64_t inverse(uint64_t mul, uint64_t n)
{
    int64_t t = 0, next_t = 1;
    int64_t r = (int64_t)n, next_r = (int64_t)(mul % n);

    while (next_r != 0) {
        int64_t q = r / next_r;
        int64_t swap = t - q * next_t;
        t = next_t;
        next_t = swap;
        swap = r - q * next_r;
        r = next_r;
        next_r = swap;
    }
    return (uint64_t)(t < 0 ? t + (int64_t)n : t);
}

static void set_order(struct wl *wl, uint64_t seed)
{
    uint64_t n = wl->chunk_count;
    uint64_t mul = n > 2 ? mix(seed, 1) % n : 1;

    while (mul == 0 || gcd(mul, n) != 1)
        mul = (mul + 1) % n;
    wl->order_mul = mul;
    wl->order_add = mix(seed, 2) % n;
    wl->order_inverse = n > 1 ? inverse(mul, n) : 0;
}

static uint64_t page_at(const struct wl *wl, uint64_t turn)
{
    uint64_t chunk = (turn / WL_CHUNK * wl->order_mul + wl->order_add) % wl->chunk_count;

    return chunk * WL_CHUNK + turn % WL_CHUNK;
}

static uint64_t turn_of(const struct wl *wl, uint64_t page)
{
    uint64_t chunk = page / WL_CHUNK + wl->chunk_count - wl->order_add;

    return chunk % wl->chunk_count * wl->order_inverse % wl->chunk_count * WL_CHUNK +
           page % WL_CHUNK;
}

static uint64_t generation_of(const struct wl *wl, uint64_t page, uint64_t written)
{
    uint64_t turn = turn_of(wl, page);

    return written > turn ? (written - 1 - turn) / wl->data_pages + 1 : 0;
}

/* ---- content ---- */

static enum page_class class_of(const struct wl *wl, uint64_t pfn)
{
    uint64_t lot = mix(wl->state->seed ^ UINT64_C(0x636c617373), pfn) % 100;

    if (lot < wl->state->zero_percent)
        return CLASS_ZERO;
    return lot < wl->state->zero_percent + wl->state->text_percent ? CLASS_TEXT : CLASS_RANDOM;
}

/* One of WL_WORDS words of eight characters: zstd makes about a quarter of it, as of a program's
 * memory. */
static uint64_t text_word(uint64_t lot)
{
    static const char SYLLABLES[32][2] = {
        {'a', 'n'}, {'e', 'r'}, {'i', 's'}, {'o', 'r'}, {'t', 'e'}, {'s', 't'}, {'n', 'e'},
        {'r', 'a'}, {'l', 'i'}, {'d', 'o'}, {'m', 'a'}, {'k', 'u'}, {'p', 'o'}, {'g', 'e'},
        {'v', 'i'}, {'b', 'a'}, {'f', 'u'}, {'h', 'o'}, {'w', 'e'}, {'j', 'u'}, {'c', 'h'},
        {'s', 's'}, {'t', 'h'}, {'q', 'u'}, {'x', 'y'}, {'z', 'o'}, {'l', 'l'}, {'e', 'n'},
        {'i', 'n'}, {'o', 'n'}, {'u', 'm'}, {'a', 's'}};
    char text[8];
    uint64_t word;

    memcpy(text, SYLLABLES[lot & 31], 2);
    memcpy(text + 2, SYLLABLES[(lot >> 5) & 31], 2);
    memcpy(text + 4, SYLLABLES[(lot * 7 >> 3) & 31], 2);
    text[6] = 'e';
    text[7] = ' ';
    memcpy(&word, text, sizeof(word));
    return word;
}

static uint64_t checksum_of(const struct page *page)
{
    uint64_t seed = page->head.seed ^ mix(page->head.pfn, page->head.generation);

    return XXH3_64bits_withSeed(page->body, sizeof(page->body), seed);
}

static void fill_page(const struct wl *wl, uint64_t pfn, uint64_t generation)
{
    struct page *page = (struct page *)(void *)(wl->memory + pfn * WL_PAGE);
    enum page_class class = class_of(wl, pfn);
    struct ha_rng rng = {.state = mix(wl->state->seed, pfn * 4 + 1) + generation};

    if (class == CLASS_ZERO) {
        *(volatile uint64_t *)&page->body[generation % BODY_WORDS] = 0;
        return;
    }
    for (unsigned n = 0; n < BODY_WORDS; n++) {
        uint64_t lot = ha_rng_next(&rng);
        page->body[n] = class == CLASS_TEXT ? wl->words[lot % WL_WORDS] : lot;
    }
    page->head.pfn = pfn;
    page->head.generation = generation;
    page->head.seed = wl->state->seed;
    page->head.checksum = checksum_of(page);
}

/* ---- the machine ---- */

static bool found(struct wl *wl, uint64_t pfn, const char *what)
{
    wl->found_pfn = pfn;
    wl->found_what = what;
    return false;
}

static void attach(struct wl *wl, void *memory, uint64_t page_count)
{
    memset(wl, 0, sizeof(*wl));
    wl->memory = memory;
    wl->state = memory;
    wl->data_pages = page_count - WL_STATE_PAGES;
    wl->chunk_count = wl->data_pages / WL_CHUNK;
    for (uint64_t lot = 0; lot < WL_WORDS; lot++)
        wl->words[lot] = text_word(lot);
}

static uint64_t commit_checksum(const struct wl_commit *commit)
{
    return XXH3_64bits_withSeed(commit, offsetof(struct wl_commit, checksum), WL_MAGIC);
}

static struct ha_digest chain_after(const struct wl_commit *last, const struct wl_commit *next)
{
    return ha_digest_bytes(last->chain, next, offsetof(struct wl_commit, chain));
}

void wl_format(struct wl *wl, void *memory, uint64_t page_count, const struct emb_definition *d)
{
    struct wl_state *state = memory;

    ha_assert(page_count >= 2 * WL_CHUNK && page_count % WL_CHUNK == 0);
    attach(wl, memory, page_count);
    state->version = WL_VERSION;
    state->page_count = page_count;
    state->seed = d->seed;
    state->zero_percent = d->zero_percent;
    state->text_percent = d->text_percent;
    state->commits[0].checksum = commit_checksum(&state->commits[0]);
    state->commits[1].checksum = commit_checksum(&state->commits[1]);
    order_here();
    state->magic = WL_MAGIC;
    set_order(wl, state->seed);
}

bool wl_open(struct wl *wl, void *memory, uint64_t page_count)
{
    const struct wl_state *state = memory;

    attach(wl, memory, page_count);
    if (state->magic != WL_MAGIC)
        return found(wl, 0, "the state page is lost");
    if (state->version != WL_VERSION || state->page_count != page_count ||
        state->zero_percent + state->text_percent > 100)
        return found(wl, 0, "the state is of another machine");
    set_order(wl, state->seed);
    return wl_check_state(wl);
}

bool wl_fill(struct wl *wl, uint64_t count)
{
    uint64_t n = atomic_load_explicit(&wl->state->filled, memory_order_relaxed);

    for (; count > 0 && n < wl->data_pages; count--) {
        fill_page(wl, WL_STATE_PAGES + n, 0);
        order_here();
        atomic_store_explicit(&wl->state->filled, ++n, memory_order_release);
    }
    return n >= wl->data_pages;
}

void wl_write_page(struct wl *wl)
{
    uint64_t written = atomic_load_explicit(&wl->state->written, memory_order_relaxed);
    uint64_t page = page_at(wl, written % wl->data_pages);

    /* Stopped before the store of `written`: the page is old, torn or new; it is written again. */
    fill_page(wl, WL_STATE_PAGES + page, written / wl->data_pages + 1);
    order_here();
    atomic_store_explicit(&wl->state->written, written + 1, memory_order_release);
}

static bool is_zero(const struct page *page)
{
    const uint64_t *words = (const uint64_t *)(const void *)page;
    uint64_t all = 0;

    for (unsigned n = 0; n < WL_PAGE / 8; n++)
        all |= words[n];
    return all == 0;
}

bool wl_check_page(struct wl *wl, uint64_t n)
{
    uint64_t pfn = WL_STATE_PAGES + n;
    const struct page *page = (const struct page *)(const void *)(wl->memory + pfn * WL_PAGE);
    uint64_t written = atomic_load_explicit(&wl->state->written, memory_order_relaxed);
    uint64_t generation = generation_of(wl, n, written);

    if (class_of(wl, pfn) == CLASS_ZERO)
        return is_zero(page) ? true : found(wl, pfn, "a zero page is not zero");
    if (page->head.pfn != pfn || page->head.seed != wl->state->seed)
        return found(wl, pfn, is_zero(page) ? "lost" : "another page's content");
    if (page->head.generation != generation)
        return found(wl, pfn, page->head.generation < generation ? "stale" : "from the future");
    if (page->head.checksum != checksum_of(page))
        return found(wl, pfn, "torn");
    return true;
}

bool wl_check_state(struct wl *wl)
{
    const struct wl_state *state = wl->state;
    uint64_t current = atomic_load_explicit(&state->current, memory_order_relaxed);
    const struct wl_commit *now = &state->commits[current & 1];
    const struct wl_commit *last = &state->commits[~current & 1];

    if (current > 1 || now->checksum != commit_checksum(now))
        return found(wl, 0, "the commit is torn");
    uint64_t written = atomic_load_explicit(&state->written, memory_order_relaxed);
    if (written < now->written || atomic_load(&state->filled) > wl->data_pages)
        return found(wl, 0, "a counter went back");
    /* Stopped while the other slot was being filled: it is torn, or already the next step's. */
    if (now->step == 0 || last->checksum != commit_checksum(last) || last->step != now->step - 1)
        return true;
    if (!ha_digest_equal(now->chain, chain_after(last, now)))
        return found(wl, 0, "the chain of steps is broken");
    return true;
}

const struct wl_commit *wl_now(const struct wl *wl)
{
    return &wl->state->commits[atomic_load_explicit(&wl->state->current, memory_order_relaxed) & 1];
}

void wl_commit(struct wl *wl, struct wl_commit next)
{
    uint64_t other = ~atomic_load_explicit(&wl->state->current, memory_order_relaxed) & 1;
    const struct wl_commit *last = wl_now(wl);

    next.step = last->step + 1;
    next.written = atomic_load_explicit(&wl->state->written, memory_order_relaxed);
    next.chain = chain_after(last, &next);
    next.checksum = commit_checksum(&next);
    order_here();
    wl->state->commits[other] = next;
    order_here();
    atomic_store_explicit(&wl->state->current, other, memory_order_release);
}
