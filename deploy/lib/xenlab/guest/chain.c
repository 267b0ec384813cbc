/* SPDX-License-Identifier: Apache-2.0
 *
 * See chain.h.
 */
#include "deploy/lib/xenlab/guest/chain.h"

#include <string.h>

#define HEADER 64u /* of a sector; offsets as chain.h has them */

static const struct ha_digest none;

static uint64_t get64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static void put64(uint8_t *to, uint64_t value)
{
    memcpy(to, &value, sizeof(value));
}

/* Numbers that look like nothing else, different for each seed (splitmix64's finaliser). */
static void fill(uint8_t *to, size_t size, uint64_t seed)
{
    for (size_t i = 0; i + sizeof(uint64_t) <= size; i += sizeof(uint64_t)) {
        uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        put64(to + i, z ^ (z >> 31));
    }
}

/* --- memory --------------------------------------------------------------------------------- */

static void page_write(struct chain_memory *memory, size_t index)
{
    uint8_t *page = memory->pages + index * CHAIN_PAGE;
    fill(page, CHAIN_PAGE, memory->link.low ^ memory->step);
    /* The page itself tells what it follows: kept in its first bytes, checked with the rest. */
    memcpy(page, &memory->link, sizeof(memory->link));
    memory->digest[index] = ha_digest_bytes(memory->link, page, CHAIN_PAGE);
    memory->link = memory->digest[index];
}

void chain_memory_begin(struct chain_memory *memory, uint64_t incarnation)
{
    memory->step = 0;
    memory->bad_count = 0;
    memory->link = ha_digest_bytes(none, &incarnation, sizeof(incarnation));
    for (size_t i = 0; i < memory->page_count; i++) {
        page_write(memory, i);
    }
}

bool chain_memory_check(struct chain_memory *memory, size_t index)
{
    const uint8_t *page = memory->pages + index * CHAIN_PAGE;
    struct ha_digest before;
    memcpy(&before, page, sizeof(before));
    if (ha_digest_equal(ha_digest_bytes(before, page, CHAIN_PAGE), memory->digest[index])) {
        return true;
    }
    memory->bad_count++;
    return false;
}

bool chain_memory_step(struct chain_memory *memory)
{
    size_t index = (size_t)(memory->step % memory->page_count);
    bool is_good = chain_memory_check(memory, index);
    memory->step++;
    page_write(memory, index);
    return is_good;
}

/* --- disk ----------------------------------------------------------------------------------- */

static void sector_header(uint8_t *sector, const struct chain_block *block, uint64_t index)
{
    put64(sector, CHAIN_MAGIC);
    put64(sector + 8, block->guest);
    put64(sector + 16, block->incarnation);
    put64(sector + 24, block->sequence);
    put64(sector + 32, block->previous.low);
    put64(sector + 40, block->previous.high);
    put64(sector + 48, block->boottime_ns);
    put64(sector + 56, index);
}

struct ha_digest chain_block_write(const struct chain_block *block, uint8_t *ret_bytes)
{
    fill(ret_bytes, CHAIN_PAGE, block->incarnation ^ block->sequence);
    for (uint64_t i = 0; i < CHAIN_PAGE / CHAIN_SECTOR; i++) {
        sector_header(ret_bytes + i * CHAIN_SECTOR, block, i);
    }
    struct ha_digest digest = ha_digest_bytes(block->previous, ret_bytes, CHAIN_DIGEST_AT);
    memcpy(ret_bytes + CHAIN_DIGEST_AT, &digest, sizeof(digest));
    return digest;
}

bool chain_block_read(const uint8_t *bytes, struct chain_block *ret_block,
                      struct ha_digest *ret_digest)
{
    struct chain_block block = {.guest = get64(bytes + 8),
                                .incarnation = get64(bytes + 16),
                                .sequence = get64(bytes + 24),
                                .previous = {get64(bytes + 32), get64(bytes + 40)},
                                .boottime_ns = get64(bytes + 48)};
    struct ha_digest digest;
    memcpy(&digest, bytes + CHAIN_DIGEST_AT, sizeof(digest));
    if (get64(bytes) != CHAIN_MAGIC || block.sequence == 0 ||
        !ha_digest_equal(ha_digest_bytes(block.previous, bytes, CHAIN_DIGEST_AT), digest)) {
        return false;
    }
    *ret_block = block;
    *ret_digest = digest;
    return true;
}

static bool is_blank(const uint8_t *bytes)
{
    for (size_t i = 0; i < CHAIN_PAGE; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

void chain_scan_slot(struct chain_scan *scan, uint64_t slot, uint64_t slots, const uint8_t *bytes)
{
    struct chain_block block;
    struct ha_digest digest;
    uint64_t last = scan->last_sequence;
    scan->last_sequence = 0;
    if (is_blank(bytes)) {
        scan->blank_count++;
        return;
    }
    if (!chain_block_read(bytes, &block, &digest) || block.guest != scan->guest ||
        block.sequence % slots != slot) {
        scan->bad_count++;
        return;
    }
    if (last != 0 && block.sequence == last + 1 &&
        !ha_digest_equal(block.previous, scan->last_digest)) {
        scan->unlinked_count++;
    }
    scan->count++;
    scan->last_sequence = block.sequence;
    scan->last_digest = digest;
    if (scan->lowest == 0 || block.sequence < scan->lowest) {
        scan->lowest = block.sequence;
    }
    if (block.sequence > scan->newest.sequence) {
        scan->newest = block;
        scan->digest = digest;
    }
}

uint64_t chain_scan_lost(const struct chain_scan *scan)
{
    return scan->count == 0 ? 0 : scan->newest.sequence - scan->lowest + 1 - scan->count;
}
