/* SPDX-License-Identifier: Apache-2.0
 *
 * The sending half: items of a page source become frames; and its closing exchange.
 */
#ifndef HAMGR_MIGRATE_SEND_H
#define HAMGR_MIGRATE_SEND_H

#include "hamgr/ipc/streamproto.h"
#include "migrate/page_source.h"
#include "migrate/session.h"

struct sender;

/* Allocates what a sender needs and starts its workers: from here on the process has threads. Of
 * start it looks at level, workers, cache_mib and is_identical. NULL with err. */
struct sender *sender_new(const struct streamp_start *start, struct ha_err *err);
void sender_free(struct sender *d);
/* Sends the whole stream, once, and waits for END_ACK. Returns 0 only when the peer confirmed
 * exactly what was sent. */
int send_stream(struct sender *d, struct session *s, struct page_source *source,
                struct ha_err *err);

#endif
