/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-stream -> whoever feeds its sender, back over the socket of the native stream: how many of
 * its bytes the other end has taken over. What was written and is not taken yet lies in buffers,
 * threads and on the link, and would be waited for while a guest is stopped.
 *
 *   0 magic u32 "HMTK" 0x4b544d48 | 4 zero u32 | 8 taken u64
 *
 * taken only grows. The first one (0) comes before anything of the stream is read, or none comes:
 * a connection without acknowledgements. Who does not read for long misses some, never the last. A
 * feeder that never reads loses nothing but knowledge. Pure.
 */
#ifndef HAMGR_IPC_TAKENPROTO_H
#define HAMGR_IPC_TAKENPROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAKEN_SIZE 16u

void taken_encode(uint8_t ret_record[TAKEN_SIZE], uint64_t taken);

/* The feeder's side. All zero at the start. */
struct taken_reader {
    uint8_t part[TAKEN_SIZE]; /* of a record that has come in part */
    size_t have;
    uint64_t taken;
    bool is_known;  /* at least one record came */
    bool is_broken; /* something else came: nothing more is believed, and is_known is false */
};

/* Takes bytes as they came. written: bytes fed so far; who claims more is not believed. */
void taken_read(struct taken_reader *r, const uint8_t *bytes, size_t size, uint64_t written);

#endif
