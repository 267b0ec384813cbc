/* SPDX-License-Identifier: Apache-2.0
 *
 * In front of every source of the simulator's second build: a hamgrd that speaks one protocol more
 * than the product. What such a version would do otherwise is in the sources beside this one, each
 * in place of the product's of the same name:
 *
 *   entry.c        TUNE, a command that the product does not know
 *   state_guest.c  what it changes: a guest's restart window
 *   peers.c        who writes it, and when; a field behind PEER_REPORT
 *
 * Structures are the product's own, byte for byte: the simulator reads both builds' with one eye.
 */
#ifndef TESTS_SIM_NEXT_H
#define TESTS_SIM_NEXT_H

#include "quorum/log.h"

enum { BUILT_PROTO_MAX = LOG_PROTO_MAX };
#undef LOG_PROTO_MAX
#define LOG_PROTO_MAX (BUILT_PROTO_MAX + 1u)

/* Far from the product's own, which will have more some day. cmd->guest gets the restart window of
 * cmd->u.guest_set.policy. */
#define NEXT_CMD_TUNE 60u

#endif
