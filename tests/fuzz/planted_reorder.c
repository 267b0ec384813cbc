/* SPDX-License-Identifier: Apache-2.0
 *
 * A planted bug, for the harness alone: migrate/window.c that takes a parcel's turn for come when
 * the one behind it is there. Parcels that overtake each other on two lanes must show it.
 */
#define reorder_is_ready reorder_is_ready_real
#include "migrate/window.c"
#undef reorder_is_ready

bool reorder_is_ready(const struct reorder *r);

bool reorder_is_ready(const struct reorder *r)
{
    return r->is_held[r->next % r->size] || r->is_held[(r->next + 1) % r->size];
}
