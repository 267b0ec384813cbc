/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the native parser. The same bytes in one window and in small pieces must come to the
 * same end, byte for byte.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/native.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct result {
    int rc;
    size_t passed;
    uint64_t batches, pages;
    int is_done;
};

static void require(int condition)
{
    if (!condition)
        abort();
}

static struct result parse(const uint8_t *data, size_t size, size_t piece, int is_ring)
{
    struct result out = {0};
    struct native p;
    size_t there = piece < size ? piece : size;

    native_init(&p, is_ring != 0);
    for (;;) {
        struct native_token token;
        out.rc = native_next(&p, data + out.passed, there - out.passed, &token, NULL);
        if (out.rc < 0 || token.kind == NATIVE_END)
            break;
        if (token.kind == NATIVE_MORE) {
            require(token.size > there - out.passed && token.size <= NATIVE_WINDOW_MIN);
            if (there == size)
                break;
            there = size - there < piece ? size : there + piece;
            continue;
        }
        require(token.size > 0 && token.size <= there - out.passed);
        require(token.kind != NATIVE_RAW || token.size <= NATIVE_RAW_MAX);
        require(token.kind != NATIVE_PAGES || token.count <= NATIVE_GROUP_MAX);
        out.passed += token.size;
        out.batches += token.kind == NATIVE_BATCH ? 1u : 0u;
        out.pages += token.kind == NATIVE_PAGES ? token.count : 0u;
    }
    out.is_done = native_is_done(&p);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int is_ring = 0; is_ring < 2; is_ring++) {
        struct result whole = parse(data, size, size, is_ring);
        struct result pieces = parse(data, size, 61, is_ring);
        require(whole.passed == pieces.passed && whole.batches == pieces.batches);
        require(whole.pages == pieces.pages && whole.is_done == pieces.is_done);
        /* A byte behind the end is seen only once it is there. */
        require(whole.rc == pieces.rc || whole.is_done);
    }
    return 0;
}
