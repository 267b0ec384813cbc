/* SPDX-License-Identifier: Apache-2.0
 *
 * A planted bug, for the harness alone: hamgr/ipc/fenceproto.c that takes any byte for a boolean.
 * Nothing crashes; only the property that bytes come back as they were can find it.
 */
#include "hamgr/ipc/codec.h"

static inline bool lax_bool(struct ha_reader *r)
{
    return ha_get_u8(r) != 0;
}

#define ipc_get_bool lax_bool
#include "hamgr/ipc/fenceproto.c"
