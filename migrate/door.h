/* SPDX-License-Identifier: Apache-2.0
 *
 * The receiver's listener. First it looks for the one peer with the right certificate and ticket;
 * from then on for that peer's further connections, which show a key of this migration. Here live
 * the limits on strangers. It works as an attendant of the session: whoever comes, and however
 * slowly, nothing else waits.
 */
#ifndef HAMGR_MIGRATE_DOOR_H
#define HAMGR_MIGRATE_DOOR_H

#include "hamgr/ipc/streamproto.h"
#include "migrate/chan_tls.h"
#include "migrate/hello.h"
#include "migrate/session.h"

#define DOOR_HANDSHAKE_MS 10000u /* per connection, from accept to a valid HELLO or JOIN */
#define DOOR_PENDING_MAX  16u    /* connections in their handshake at once */

struct door;

/* A door over fd (moved), which may also be one accepted socket (start->is_listener false). The
 * rest is borrowed until door_free; identity until door_knows. NULL: no memory, fd closed. */
struct door *door_new(struct session *s, const struct streamp_start *start,
                      struct tls_context *context, const struct identity *identity, int fd);
/* Attends the session from now on. */
void door_open(struct door *d);
/* The session has its channel: a valid HELLO came, whose offer is in *ret_terms. */
bool door_has_peer(const struct door *d, struct terms *ret_terms);
/* Why nobody came, for a session that waited in vain: puts the last refusal into err. */
void door_explain(const struct door *d, struct ha_err *err);
/* From here on only this migration's further connections are welcome, by the keys of psk. */
void door_join(struct door *d, struct tls_context *psk, const struct terms *terms);
void door_free(struct door *d);

#endif
