/* SPDX-License-Identifier: Apache-2.0
 *
 * What the fuzz targets share: a check that ends the run with its own words, so that a broken
 * property is found like a crash, and a reader of the fuzzer's bytes that never runs out.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "property broken: %s (%s:%d)\n", #condition, __FILE__, __LINE__);      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* The input as a script: numbers are 0 once it has ended. */
struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

static inline uint8_t fuzz_u8(struct fuzz_input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static inline uint16_t fuzz_u16(struct fuzz_input *in)
{
    uint8_t low = fuzz_u8(in);

    return (uint16_t)(low | fuzz_u8(in) << 8);
}

/* Borrows at most size bytes. */
static inline const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t *size)
{
    const uint8_t *bytes = in->data;

    if (*size > in->size)
        *size = in->size;
    in->data += *size;
    in->size -= *size;
    return bytes;
}

/* A copy that ends where the sanitizer watches: reading one byte too many is found. */
static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    REQUIRE(copy);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

/* The same with a NUL behind it. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1);

    REQUIRE(copy);
    if (size > 0)
        memcpy(copy, data, size);
    copy[size] = '\0';
    return copy;
}

#endif
