/* SPDX-License-Identifier: Apache-2.0
 *
 * What a probe of the way to a node found: samples of how many bytes the other end's kernel has
 * acknowledged become a rate, its spread, and the word that it is time to stop. Pure.
 *
 * A probe's stream is a real one (STREAM.md, section 10) that nobody needs: random pages, as fast
 * as they go. What goes at first says little: windows grow, and a shaper lets a burst through free
 * of charge. So the first third does not count. A rate that still grows is given more time.
 */
#ifndef HAMGR_MIGRATE_PROBE_H
#define HAMGR_MIGRATE_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#define PROBE_MS        300u  /* of flowing data, the part that does not count included */
#define PROBE_MAX_MS    1000u /* while the rate grows: a long way's windows open slowly */
#define PROBE_SAMPLE_MS 10u   /* samples closer than that to the last one are ignored */
/* Nothing is more than this: what 7 Gbit/s take in PROBE_MS. Faster ways are known well enough by
 * then. */
#define PROBE_MIB 256u
/* Data flows: more than all connections' handshakes make, less than one parcel. */
#define PROBE_BEGIN_BYTES 65536u
#define PROBE_SAMPLES     128u /* > PROBE_MAX_MS / PROBE_SAMPLE_MS */

struct probe_meter {
    bool has_first;
    uint64_t first; /* acknowledged when it was first looked */
    uint32_t count; /* of samples, oldest first; the first one is where data began to flow */
    struct {
        uint64_t at_us;
        uint64_t bytes;
    } samples[PROBE_SAMPLES];
};

struct probe_rate {
    uint64_t bytes_s;
    uint64_t low_bytes_s; /* of its slowest and fastest quarter */
    uint64_t high_bytes_s;
};

void probe_begin(struct probe_meter *m);
/* bytes: acknowledged so far on all connections together; never decreases. */
void probe_sample(struct probe_meter *m, uint64_t at_us, uint64_t bytes);
/* Has it gone on for long enough? */
bool probe_is_enough(const struct probe_meter *m);
/* False: too little was seen to say anything. */
bool probe_result(const struct probe_meter *m, struct probe_rate *ret_rate);

#endif
