/* SPDX-License-Identifier: Apache-2.0
 *
 * A small deterministic generator (SplitMix64, Steele/Lea/Flood 2014) for pure code, tests and
 * workloads. Its whole state is one word in the caller's struct. Never for secrets.
 */
#ifndef HAMGR_BASE_RNG_H
#define HAMGR_BASE_RNG_H

#include <stdint.h>

struct ha_rng {
    uint64_t state;
};

static inline uint64_t ha_rng_next(struct ha_rng *rng)
{
    uint64_t z = (rng->state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A number in [0, bound); 0 if bound is 0. The bias below 2^-32 does not matter here. */
static inline uint64_t ha_rng_below(struct ha_rng *rng, uint64_t bound)
{
    return bound == 0 ? 0 : ha_rng_next(rng) % bound;
}

#endif
