/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: every frame decoder; what decodes must encode to what was decoded.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
    if (!condition)
        abort();
}

static void try_pages(const uint8_t *data, size_t size)
{
    uint8_t out[FRAME_PAGES_HEAD + FRAME_PAGES_MAX + 8 + 4 * FRAME_GROUP_PAGES + 8];
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct frame_pages m;

    if (frame_pages_decode(data, size, &m, NULL) < 0)
        return;
    frame_pages_encode(&w, &m);
    require(!w.failed && w.position == frame_pages_head(m.count, m.slot_count));
    require(memcmp(out, data, w.position) == 0);
    require(m.raw_size <= FRAME_RAW_MAX && m.data + m.data_size == data + size);
}

static void try_blocks(const uint8_t *data, size_t size)
{
    uint8_t out[FRAME_BATCH_HEAD];
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct frame_raw raw;
    struct frame_batch batch;

    if (frame_raw_decode(data, size, &raw, NULL) == 0) {
        frame_raw_encode(&w, &raw);
        require(w.position == FRAME_RAW_HEAD && memcmp(out, data, w.position) == 0);
        require(raw.raw_size > 0 && raw.raw_size <= FRAME_RAW_MAX);
    }
    w = ha_writer_of(out, sizeof(out));
    if (frame_batch_decode(data, size, &batch, NULL) == 0) {
        frame_batch_encode(&w, &batch);
        require(w.position == FRAME_BATCH_HEAD && memcmp(out, data, w.position) == 0);
        require(batch.count <= FRAME_ENTRIES_MAX && batch.data_count <= batch.count);
    }
}

static void try_control(const uint8_t *data, size_t size)
{
    uint8_t out[512];
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct frame_hello hello;
    struct frame_welcome welcome;
    struct frame_abort stop;
    struct frame_end end;
    struct frame_end_ack ack;
    struct frame_join join;

    if (frame_hello_decode(data, size, &hello, NULL) == 0) {
        frame_hello_encode(&w, &hello);
        require(memcmp(out, data, w.position) == 0);
    }
    w = ha_writer_of(out, sizeof(out));
    if (frame_welcome_decode(data, size, &welcome, NULL) == 0) {
        frame_welcome_encode(&w, &welcome);
        require(memcmp(out, data, w.position) == 0);
    }
    if (frame_abort_decode(data, size, &stop, NULL) == 0)
        require(strlen(stop.text) <= FRAME_ABORT_TEXT);
    w = ha_writer_of(out, sizeof(out));
    if (frame_end_decode(data, size, &end, NULL) == 0) {
        frame_end_encode(&w, &end);
        require(w.position == size && memcmp(out, data, size) == 0);
    }
    (void)frame_end_ack_decode(data, size, &ack, NULL);
    w = ha_writer_of(out, sizeof(out));
    if (frame_join_decode(data, size, &join, NULL) == 0) {
        frame_join_encode(&w, &join);
        require(w.position == size && memcmp(out, data, size) == 0);
        require(join.lane <= FRAME_LANES_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame_header header;

    if (size >= FRAME_HEADER_SIZE && frame_header_decode(data, &header, NULL) == 0)
        require(header.size <=
                (header.type == FRAME_PARCEL ? FRAME_PARCEL_MAX : FRAME_PAYLOAD_MAX));
    try_pages(data, size);
    try_blocks(data, size);
    try_control(data, size);
    return 0;
}
