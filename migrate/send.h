/* SPDX-License-Identifier: Apache-2.0
 *
 * The sending half: items of a page source become frames; and its closing exchange.
 */
#ifndef HAMGR_MIGRATE_SEND_H
#define HAMGR_MIGRATE_SEND_H

#include "hamgr/ipc/streamproto.h"
#include "migrate/codec.h"
#include "migrate/page_source.h"
#include "migrate/session.h"

/* Sends the whole stream and waits for END_ACK. Returns 0 only when the peer confirmed exactly what
 * was read from the source. */
int send_stream(struct session *s, struct page_source *source, struct codec *codec,
                struct ha_err *err);

#endif
