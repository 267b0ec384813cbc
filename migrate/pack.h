/* SPDX-License-Identifier: Apache-2.0
 *
 * What a worker of the sender does with a unit: deltas against the cache, then compression. And of
 * the receiver: the reverse. One packer per thread; units that share a cache slot are never in two
 * threads at once (sort.c and recv.c see to that).
 */
#ifndef HAMGR_MIGRATE_PACK_H
#define HAMGR_MIGRATE_PACK_H

#include "migrate/arena.h"
#include "migrate/codec.h"
#include "migrate/pipeline.h"
#include "migrate/simd.h"

struct packer {
    struct codec *codec; /* owned */
    const struct arena *arena;
    const uint8_t *secret; /* receiver: of the page hashes, NULL: none wanted */
    enum simd_form form;
    uint8_t *deltas; /* sender: FRAME_GROUP_PAGES * FRAME_DELTA_MAX bytes */
};

/* level: 0 = never compresses (a receiver's, for one). 0 or -HA_E_NO_MEMORY; fini is idempotent. */
int packer_init(struct packer *p, int level, bool is_sender, const struct arena *arena,
                struct ha_err *err);
void packer_fini(struct packer *p);

/* unit_work of the sender: `in` holds what is to be sent, `out` gets the encoded bytes if they are
 * fewer. For PAGES it settles which pages become deltas and counts anew. */
void pack_unit(void *packer, struct unit *unit);
/* Only the settling, of a PAGES unit nobody else works on: in_size is then what is left to encode.
 */
void pack_settle(struct packer *p, struct unit *unit);
/* unit_work of the receiver, PAGES only: pages.data and pages.data_size are the encoded bytes.
 * Fills content and hashes; rc and err say what was wrong with them. */
void unpack_unit(void *packer, struct unit *unit);

#endif
