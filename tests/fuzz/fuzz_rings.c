/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: a guest's image as libxenguest reads it, read for read, on its way past rings.h.
 * What it changes are zeros over whole pages, and what it took out of them it holds; what it can't
 * follow it leaves alone.
 */
#include "tests/fuzz/fuzz.h"

#include "hamgr/hv/xen/helper/rings.h"

/* Of its own, so that a byte too far is seen. */
static void read_one(struct rings *r, const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size > 0 ? size : 1);
    bool was_lost = r->is_lost, is_held = false;
    size_t changed = 0;

    REQUIRE(bytes);
    memcpy(bytes, data, size);
    rings_read(r, bytes, size);
    for (size_t n = 0; n < size; n++) {
        REQUIRE(bytes[n] == data[n] || bytes[n] == 0);
        changed += bytes[n] != data[n];
    }
    for (int n = 0; n < RINGS_COUNT; n++)
        is_held |= r->pages[n].is_held;
    REQUIRE(changed == 0 || (r->is_known && is_held && !was_lost));
    REQUIRE(!was_lost || r->is_lost);
    REQUIRE(!r->is_known || r->pages[0].pfn != r->pages[1].pfn);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t heads[] = {24, 16};
    static struct rings r;
    size_t step = 0;

    rings_init(&r);
    for (size_t n = 0; size > 0; n++, data += step, size -= step) {
        uint64_t wanted = n < 2 ? heads[n] : r.is_in_body ? ((uint64_t)r.length + 7) / 8 * 8 : 8;
        step = wanted < size ? (size_t)wanted : size;
        read_one(&r, data, step);
    }
    REQUIRE(!rings_are_blank(&r)); /* nothing was populated */
    return 0;
}
