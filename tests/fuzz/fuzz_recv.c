/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: the whole receiver, frames to native stream. Input: records of u8 type, u24 size,
 * payload; the target puts good headers in front, so that the fuzzer works on what lies behind.
 * Whatever reached the sink must parse as the beginning of a native stream.
 */
#include "migrate/recv.h"
#include "tests/fuzz/sink_check.h"

/* Puts headers in front of the records; returns the wire's size. */
static size_t frame(uint8_t *wire, const uint8_t *data, size_t size)
{
    uint64_t sequence = 0;
    size_t out = 0;

    while (size >= 4) {
        size_t length = data[1] | (size_t)data[2] << 8 | (size_t)data[3] << 16;
        length = length < size - 4 ? length : size - 4;
        struct frame_header h = {.type = data[0] & 63u,
                                 .is_optional = (data[0] & 64u) != 0,
                                 .size = (uint32_t)length,
                                 .sequence = sequence++};
        frame_header_encode(wire + out, &h);
        memcpy(wire + out + FRAME_HEADER_SIZE, data + 4, length);
        out += FRAME_HEADER_SIZE + length;
        data += 4 + length;
        size -= 4 + length;
    }
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sink_check sink;
    struct ha_err err = {0};
    struct session session;
    uint8_t *wire = malloc(size * (FRAME_HEADER_SIZE / 4 + 1) + 1);
    struct receiver *receiver = receiver_new(0, &err);

    REQUIRE(wire && receiver && session_init(&session, -1, 1000, 0, &err) == 0);
    (void)sink_check_init(&sink);
    session.chan = chan_mem_new(wire, frame(wire, data, size));
    REQUIRE(session.chan != NULL);
    int rc = recv_stream(receiver, &session, &sink.sink, &err);
    REQUIRE(rc < 0 || (native_is_done(&sink.native) && sink.carry_size == 0));
    REQUIRE(rc == 0 || err.text[0] != '\0');
    session_fini(&session);
    receiver_free(receiver);
    free(wire);
    return 0;
}
