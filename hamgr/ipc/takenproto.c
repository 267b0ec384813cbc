/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/ipc/takenproto.h"

#include "hamgr/base/bytes.h"

#define MAGIC 0x4b544d48u

void taken_encode(uint8_t ret_record[TAKEN_SIZE], uint64_t taken)
{
    struct ha_writer w = ha_writer_of(ret_record, TAKEN_SIZE);

    ha_put_u32(&w, MAGIC);
    ha_put_u32(&w, 0);
    ha_put_u64(&w, taken);
}

static void take_record(struct taken_reader *r, uint64_t written)
{
    struct ha_reader record = ha_reader_of(r->part, TAKEN_SIZE);
    bool is_ours = ha_get_u32(&record) == MAGIC;

    is_ours = ha_get_u32(&record) == 0 && is_ours;
    uint64_t taken = ha_get_u64(&record);
    r->is_broken = !is_ours || taken < r->taken || taken > written;
    r->is_known = !r->is_broken;
    if (r->is_known)
        r->taken = taken;
}

void taken_read(struct taken_reader *r, const uint8_t *bytes, size_t size, uint64_t written)
{
    for (size_t i = 0; i < size && !r->is_broken; i++) {
        r->part[r->have++] = bytes[i];
        if (r->have < TAKEN_SIZE)
            continue;
        r->have = 0;
        take_record(r, written);
    }
}
