/* SPDX-License-Identifier: Apache-2.0
 *
 * The chains of the lab's guest: what was lost, torn, changed, old or another's is found.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "deploy/lib/xenlab/guest/chain.h"

#define PAGES 5u
#define SLOTS 4u
#define GUEST 77u

/* --- memory --------------------------------------------------------------------------------- */

static uint8_t pages[PAGES * CHAIN_PAGE];
static struct ha_digest digests[PAGES];

static struct chain_memory begin(void)
{
    struct chain_memory memory = {.pages = pages, .digest = digests, .page_count = PAGES};
    chain_memory_begin(&memory, 9);
    return memory;
}

static void an_undisturbed_memory_stays_good(void **state)
{
    (void)state;
    struct chain_memory memory = begin();
    for (size_t i = 0; i < 3 * PAGES; i++) {
        assert_true(chain_memory_step(&memory));
        assert_true(chain_memory_check(&memory, i % PAGES));
    }
    assert_int_equal(memory.bad_count, 0);
    assert_int_equal(memory.step, 3 * PAGES);
}

static void one_bit_is_seen(void **state)
{
    (void)state;
    struct chain_memory memory = begin();
    pages[3 * CHAIN_PAGE + 100] ^= 1;
    assert_true(chain_memory_check(&memory, 2));
    assert_false(chain_memory_check(&memory, 3));
    assert_int_equal(memory.bad_count, 1);
}

/* A migration that forgets a dirtied page leaves what was there before: whole, but old. */
static void an_old_page_is_seen(void **state)
{
    uint8_t old[CHAIN_PAGE];
    (void)state;
    struct chain_memory memory = begin();
    memcpy(old, pages, sizeof(old));
    assert_true(chain_memory_step(&memory));
    memcpy(pages, old, sizeof(old));
    assert_false(chain_memory_check(&memory, 0));
}

/* --- disk ----------------------------------------------------------------------------------- */

static uint8_t disk[SLOTS * CHAIN_PAGE];

/* Blocks first..last as a guest writes them; returns the last digest. */
static struct ha_digest fill_disk(uint64_t first, uint64_t last)
{
    struct ha_digest digest = {0, 0};
    memset(disk, 0, sizeof(disk));
    for (uint64_t sequence = first; sequence <= last; sequence++) {
        struct chain_block block = {.guest = GUEST,
                                    .incarnation = 5,
                                    .sequence = sequence,
                                    .previous = digest,
                                    .boottime_ns = sequence * 10};
        digest = chain_block_write(&block, disk + sequence % SLOTS * CHAIN_PAGE);
    }
    return digest;
}

static struct chain_scan scan_disk(void)
{
    struct chain_scan scan = {.guest = GUEST};
    for (uint64_t slot = 0; slot < SLOTS; slot++) {
        chain_scan_slot(&scan, slot, SLOTS, disk + slot * CHAIN_PAGE);
    }
    return scan;
}

static void a_whole_disk_scans_clean(void **state)
{
    (void)state;
    struct ha_digest digest = fill_disk(1, 10);
    struct chain_scan scan = scan_disk();
    assert_int_equal(scan.count, SLOTS);
    assert_int_equal(scan.newest.sequence, 10);
    assert_int_equal(scan.newest.boottime_ns, 100);
    assert_true(ha_digest_equal(scan.digest, digest));
    assert_int_equal(scan.bad_count + scan.unlinked_count + chain_scan_lost(&scan), 0);
}

static void an_empty_disk_scans_clean(void **state)
{
    (void)state;
    memset(disk, 0, sizeof(disk));
    struct chain_scan scan = scan_disk();
    assert_int_equal(scan.blank_count, SLOTS);
    assert_int_equal(scan.newest.sequence, 0);
    assert_int_equal(scan.bad_count + chain_scan_lost(&scan), 0);
}

static void a_torn_block_is_bad(void **state)
{
    (void)state;
    fill_disk(1, 3);
    memset(disk + 2 * CHAIN_PAGE + 5 * CHAIN_SECTOR, 0, CHAIN_SECTOR);
    assert_int_equal(scan_disk().bad_count, 1);
}

static void a_lost_write_is_missed(void **state)
{
    (void)state;
    uint8_t old[CHAIN_PAGE];
    fill_disk(1, 5);
    memcpy(old, disk + 2 * CHAIN_PAGE, sizeof(old)); /* block 2 */
    fill_disk(1, 8);
    memcpy(disk + 2 * CHAIN_PAGE, old, sizeof(old)); /* as if block 6 had never come */
    struct chain_scan scan = scan_disk();
    assert_int_equal(scan.newest.sequence, 8);
    assert_true(chain_scan_lost(&scan) > 0);
}

static void anothers_write_is_bad(void **state)
{
    (void)state;
    fill_disk(1, 3);
    struct chain_block block = {.guest = GUEST + 1, .incarnation = 6, .sequence = 1};
    chain_block_write(&block, disk + CHAIN_PAGE);
    assert_int_equal(scan_disk().bad_count, 1);
}

/* Two copies of one guest: whole blocks of both, but they do not follow each other. */
static void a_second_copys_write_is_unlinked(void **state)
{
    (void)state;
    fill_disk(1, 3);
    struct chain_block block = {.guest = GUEST, .incarnation = 6, .sequence = 2};
    chain_block_write(&block, disk + 2 * CHAIN_PAGE);
    assert_int_equal(scan_disk().unlinked_count, 2);
}

static void a_block_in_a_wrong_slot_is_bad(void **state)
{
    (void)state;
    fill_disk(1, 2);
    struct chain_block block = {.guest = GUEST, .incarnation = 5, .sequence = 1};
    chain_block_write(&block, disk + 3 * CHAIN_PAGE);
    assert_int_equal(scan_disk().bad_count, 1);
}

static void all_sectors_tell_whose_they_are(void **state)
{
    (void)state;
    fill_disk(1, 1);
    for (size_t i = 1; i < CHAIN_PAGE / CHAIN_SECTOR; i++) {
        const uint8_t *sector = disk + CHAIN_PAGE + i * CHAIN_SECTOR;
        assert_memory_equal(sector, disk + CHAIN_PAGE, 56);
        assert_int_equal(sector[56], i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_undisturbed_memory_stays_good),
        cmocka_unit_test(one_bit_is_seen),
        cmocka_unit_test(an_old_page_is_seen),
        cmocka_unit_test(a_whole_disk_scans_clean),
        cmocka_unit_test(an_empty_disk_scans_clean),
        cmocka_unit_test(a_torn_block_is_bad),
        cmocka_unit_test(a_lost_write_is_missed),
        cmocka_unit_test(anothers_write_is_bad),
        cmocka_unit_test(a_second_copys_write_is_unlinked),
        cmocka_unit_test(a_block_in_a_wrong_slot_is_bad),
        cmocka_unit_test(all_sectors_tell_whose_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
