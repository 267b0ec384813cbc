/* SPDX-License-Identifier: Apache-2.0
 *
 * The sender's further connections: asks hamgrd for a socket per lane, does the handshake with the
 * lane's key, says JOIN, and hands the connection over; again whenever one is lost, until the grace
 * time is over. Works as an attendant of the session.
 */
#ifndef HAMGR_MIGRATE_DIAL_H
#define HAMGR_MIGRATE_DIAL_H

#include "migrate/chan_tls.h"
#include "migrate/hello.h"
#include "migrate/session.h"

#define DIAL_MS       5000u /* for a socket, its connection and the handshake */
#define DIAL_FIRST_MS 100u  /* pause after the first failure, doubled up to the last */
#define DIAL_LAST_MS  1000u

struct dial;

/* Attends the session from now on; psk has its key. Everything is borrowed until dial_free. NULL:
 * no memory. */
struct dial *dial_new(struct session *s, struct tls_context *psk, uint64_t ticket,
                      const struct terms *terms);
void dial_free(struct dial *d);

#endif
