/* SPDX-License-Identifier: Apache-2.0
 *
 * ha_assert states what only a programming error can break. It stays on in release builds: a
 * crash is the safe side, the keeper and systemd see to the rest. Never for what a peer, guest,
 * operator or file can cause.
 */
#ifndef HAMGR_BASE_ASSERT_H
#define HAMGR_BASE_ASSERT_H

#include <assert.h>

#ifdef NDEBUG
#error "hamgr is not built with NDEBUG: its asserts are part of its safety"
#endif
#define ha_assert(condition) assert(condition)

#endif
