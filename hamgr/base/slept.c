/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/base/slept.h"

int64_t slept_ns(uint64_t (*read_clock)(clockid_t id))
{
    uint64_t before_ns, boot_ns, after_ns;
    int tries = 0;

    do {
        before_ns = read_clock(CLOCK_MONOTONIC);
        boot_ns = read_clock(CLOCK_BOOTTIME);
        after_ns = read_clock(CLOCK_MONOTONIC);
    } while (after_ns - before_ns > SLEPT_READ_MAX_NS && ++tries < SLEPT_TRIES);
    return (int64_t)(boot_ns - after_ns);
}
