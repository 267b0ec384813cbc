/* SPDX-License-Identifier: Apache-2.0
 *
 * Getting connected: from the socket hamgrd handed over to an authenticated channel bound to the
 * ticket, with the terms for further connections.
 */
#ifndef HAMGR_MIGRATE_LINK_H
#define HAMGR_MIGRATE_LINK_H

#include "hamgr/ipc/streamproto.h"
#include "migrate/chan_tls.h"
#include "migrate/door.h"
#include "migrate/hello.h"
#include "migrate/session.h"

#define LINK_HANDSHAKE_MS 10000u /* the sender's patience, step by step */

/* Sender: HELLO over the session's channel, then WELCOME checked (5 s). 0 or a negative error. */
int link_greet(struct session *s, const struct streamp_start *start, struct terms *ret_terms,
               struct ha_err *err);
/* Sender: TLS over fd (moved; may still be connecting), HELLO, WELCOME. 0 or a negative error. */
int link_connect(struct session *s, const struct streamp_start *start, struct tls_context *context,
                 const struct identity *identity, int fd, struct terms *ret_terms,
                 struct ha_err *err);
/* Receiver: waits until a connection has shown a valid HELLO at the door, and sends WELCOME.
 * Refused strangers are noted to hamgrd. 0 or a negative error. */
int link_accept(struct session *s, const struct streamp_start *start, struct door *door,
                struct terms *ret_terms, struct ha_err *err);

#endif
