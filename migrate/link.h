/* SPDX-License-Identifier: Apache-2.0
 *
 * Getting connected: from the socket hamgrd handed over to an authenticated channel bound to the
 * ticket. Here live the limits on strangers.
 */
#ifndef HAMGR_MIGRATE_LINK_H
#define HAMGR_MIGRATE_LINK_H

#include "hamgr/ipc/streamproto.h"
#include "migrate/chan_tls.h"
#include "migrate/hello.h"
#include "migrate/session.h"

#define LINK_HANDSHAKE_MS 5000u /* per connection, from accept to a valid HELLO */
#define LINK_PENDING_MAX  16u   /* connections in their handshake at once */

/* Sender: HELLO over the session's channel, then WELCOME checked (5 s). 0 or a negative error. */
int link_greet(struct session *s, const struct streamp_start *start, struct terms *ret_terms,
               struct ha_err *err);
/* Sender: TLS over fd (moved; may still be connecting), HELLO, WELCOME. 0 or a negative error. */
int link_connect(struct session *s, const struct streamp_start *start, struct tls_context *context,
                 const struct identity *identity, int fd, struct ha_err *err);
/* Receiver: accepts on fd (moved) until a connection has shown a valid HELLO, then closes the
 * listener and sends WELCOME. fd may also be one accepted socket (start->is_listener false): then
 * its failure is ours. Refused strangers are noted to hamgrd. 0 or a negative error. */
int link_accept(struct session *s, const struct streamp_start *start, struct tls_context *context,
                const struct identity *identity, int fd, struct ha_err *err);

#endif
