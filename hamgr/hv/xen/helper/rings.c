/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/helper/rings.h"

#include <string.h>

#include "hamgr/base/bytes.h"

#define TYPE        0x80486d68u
#define PAGE_DATA   1u
#define TYPE_SHIFT  60
#define TYPE_BROKEN 0xdu /* from here on entries have no page */
#define PFN_MASK    ((UINT64_C(1) << 52) - 1)
#define HEAD        8u /* of a record; of PAGE_DATA's body */
#define PFN_LIMIT   (UINT64_C(1) << 32)

/* Of xs_wire.h and console.h. */
#define STORE_INDEXES   2048u /* behind both rings: four indexes, three words of xenstored's */
#define STORE_REST      2076u
#define CONSOLE_INDEXES 3072u /* behind both rings: two pairs */
#define CONSOLE_REST    3088u

void rings_write(uint8_t ret_bytes[RINGS_AHEAD], const uint64_t *pfns)
{
    struct ha_writer w = ha_writer_of(ret_bytes, RINGS_AHEAD);

    memset(ret_bytes, 0, RINGS_AHEAD);
    ha_put_u32(&w, TYPE);
    ha_put_u32(&w, RINGS_RECORD - HEAD);
    for (int n = 0; n < RINGS_COUNT; n++)
        ha_put_u64(&w, pfns[n]);
    ha_put_u32(&w, PAGE_DATA);
    ha_put_u32(&w, RINGS_BLANKS - HEAD);
    ha_put_u32(&w, RINGS_COUNT);
    ha_put_u32(&w, 0);
    for (int n = 0; n < RINGS_COUNT; n++)
        ha_put_u64(&w, pfns[n]); /* of type 0, as any page that is no page table's */
}

void rings_init(struct rings *r)
{
    memset(r, 0, sizeof(*r));
}

/* ---- what is read ---- */

static void lose(struct rings *r)
{
    r->is_lost = true;
}

/* The first word counts, and only before any page. */
static void learn(struct rings *r, const uint8_t *body, size_t size)
{
    struct ha_reader reader = ha_reader_of(body, size);
    uint64_t pfns[RINGS_COUNT];

    for (int n = 0; n < RINGS_COUNT; n++)
        pfns[n] = ha_get_u64(&reader);
    if (r->is_known || size != RINGS_RECORD - HEAD || pfns[0] == pfns[1] || pfns[0] >= PFN_LIMIT ||
        pfns[1] >= PFN_LIMIT)
        return;
    for (int n = 0; n < RINGS_COUNT; n++)
        r->pages[n].pfn = pfns[n];
    r->is_known = true;
}

static void hold(struct rings *r, uint64_t pfn, uint8_t *page)
{
    for (int n = 0; n < RINGS_COUNT; n++) {
        struct ring_page *p = &r->pages[n];
        if (p->pfn != pfn)
            continue;
        memcpy(p->held, page, RINGS_PAGE);
        memset(page, 0, RINGS_PAGE);
        p->is_held = true;
    }
}

/* libxenguest checks the record behind us, and fails; here nothing is touched that is not there. */
static void take_batch(struct rings *r, uint8_t *body, size_t size)
{
    struct ha_reader reader = ha_reader_of(body, size);
    uint64_t count = ha_get_u32(&reader), pages = 0;

    (void)ha_get_u32(&reader);
    if (count > (size - HEAD) / 8)
        return;
    uint8_t *data = body + HEAD + 8 * count;
    for (uint64_t n = 0; n < count; n++) {
        uint64_t entry = ha_get_u64(&reader);
        if (entry >> TYPE_SHIFT >= TYPE_BROKEN)
            continue;
        uint64_t at = RINGS_PAGE * pages++;
        if (HEAD + 8 * count + at + RINGS_PAGE > size)
            return;
        hold(r, entry & PFN_MASK, data + at);
    }
}

static void take_head(struct rings *r, const uint8_t *data)
{
    struct ha_reader reader = ha_reader_of(data, HEAD);

    r->type = ha_get_u32(&reader);
    r->length = ha_get_u32(&reader);
    r->is_in_body = r->length > 0;
}

static void take_body(struct rings *r, uint8_t *data, size_t size)
{
    r->is_in_body = false;
    if (r->type == TYPE)
        learn(r, data, size);
    else if (r->type == PAGE_DATA && r->is_known && size >= HEAD)
        take_batch(r, data, size);
}

void rings_read(struct rings *r, uint8_t *data, size_t size)
{
    static const size_t heads[] = {24, 16};
    uint64_t wanted = r->heads < 2    ? heads[r->heads]
                      : r->is_in_body ? ((uint64_t)r->length + 7) / 8 * 8
                                      : HEAD;

    if (size != wanted)
        lose(r);
    if (r->is_lost)
        return;
    if (r->heads < 2)
        r->heads++;
    else if (r->is_in_body)
        take_body(r, data, size);
    else
        take_head(r, data);
}

/* ---- where they come to be ---- */

void rings_find(const struct rings *r, const uint64_t *pfns, uint64_t count,
                uint64_t ret_at[RINGS_COUNT])
{
    for (int n = 0; n < RINGS_COUNT; n++) {
        ret_at[n] = UINT64_MAX;
        for (uint64_t i = 0; i < count && r->is_known; i++)
            if (pfns[i] == r->pages[n].pfn)
                ret_at[n] = i;
    }
}

void rings_populated(struct rings *r, const uint64_t *frames, const uint64_t *at)
{
    for (int n = 0; n < RINGS_COUNT; n++) {
        if (at[n] == UINT64_MAX)
            continue;
        r->pages[n].frame = frames[at[n]];
        r->pages[n].has_frame = true;
    }
}

bool rings_are_blank(const struct rings *r)
{
    bool is_blank = r->is_known && !r->is_lost && !r->is_in_body;

    for (int n = 0; n < RINGS_COUNT; n++)
        is_blank &= r->pages[n].has_frame && r->pages[n].is_held;
    return is_blank;
}

/* ---- the end ---- */

static void put_pair(uint8_t *page, const uint8_t *held)
{
    uint64_t pair;

    memcpy(&pair, held, sizeof(pair));
    __atomic_store_n((uint64_t *)(void *)page, pair, __ATOMIC_RELEASE);
}

void rings_put_store(uint8_t *page, const uint8_t *held, bool is_in_use)
{
    if (!is_in_use) {
        memcpy(page, held, RINGS_PAGE);
        return;
    }
    memcpy(page, held, STORE_INDEXES);
    memcpy(page + STORE_REST, held + STORE_REST, RINGS_PAGE - STORE_REST);
}

void rings_put_console(uint8_t *page, const uint8_t *held)
{
    memcpy(page, held, CONSOLE_INDEXES);
    memcpy(page + CONSOLE_REST, held + CONSOLE_REST, RINGS_PAGE - CONSOLE_REST);
    put_pair(page + CONSOLE_INDEXES, held + CONSOLE_INDEXES);
    put_pair(page + CONSOLE_INDEXES + 8, held + CONSOLE_INDEXES + 8);
}
