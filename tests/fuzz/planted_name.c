/* SPDX-License-Identifier: Apache-2.0
 *
 * A planted bug, for the harness alone: migrate/chan_tls.c that knows a lane by the beginning of
 * its name. The key is still checked; only the property that names are exact can find it.
 */
#include <string.h>

static inline int lax_compare(const void *a, const void *b, size_t size)
{
    return memcmp(a, b, size < 16 ? size : 16);
}

#define memcmp lax_compare
#include "migrate/chan_tls.c"
