/* SPDX-License-Identifier: Apache-2.0
 *
 * What the codecs of the local protocols share: strict readers of booleans and enumerations. A
 * value outside its range fails the reader, so that a decoder's one check at its end finds it.
 * Private to hamgr/ipc.
 */
#ifndef HAMGR_IPC_CODEC_H
#define HAMGR_IPC_CODEC_H

#include "hamgr/base/bytes.h"
#include "hamgr/base/err.h"

static inline void ipc_put_bool(struct ha_writer *w, bool value)
{
    ha_put_u8(w, value ? 1 : 0);
}

/* A u8 in [low, high]; anything else fails the reader and gives low. */
static inline uint8_t ipc_get_range(struct ha_reader *r, uint8_t low, uint8_t high)
{
    uint8_t value = ha_get_u8(r);

    if (value < low || value > high) {
        r->failed = true;
        return low;
    }
    return value;
}

static inline bool ipc_get_bool(struct ha_reader *r)
{
    return ipc_get_range(r, 0, 1) == 1;
}

/* The return value of every decoder: 0, or -HA_E_PEER when a byte was missing, left or wrong. */
static inline int ipc_done(const struct ha_reader *r)
{
    return ha_reader_is_done(r) ? 0 : -HA_E_PEER;
}

#endif
