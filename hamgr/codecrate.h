/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast this host is at what a migration costs most of, measured once at hamgrd's start: a
 * forecast's guess before anything moved. Two to three milliseconds, thirty of an emulated one.
 */
#ifndef HAMGR_CODECRATE_H
#define HAMGR_CODECRATE_H

#include <stdint.h>

/* Bytes/s that this host's processors, but no more than four of them, compress at level 1 of
 * content like memory's; the best of a few tries, as others may have run meanwhile. 0: not known.
 * Any thread. */
uint64_t codecrate_measure(void);

#endif
