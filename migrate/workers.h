/* SPDX-License-Identifier: Apache-2.0
 *
 * How many worker threads an end of the stream starts.
 */
#ifndef HAMGR_MIGRATE_WORKERS_H
#define HAMGR_MIGRATE_WORKERS_H

#define WORKERS_DEFAULT_MAX 8u /* what an unasked end takes of a large machine at most */

/* wanted 0: as many as there are processors this process may run on, up to the default's limit. */
unsigned workers_for(unsigned wanted);

#endif
