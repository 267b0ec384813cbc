/* SPDX-License-Identifier: Apache-2.0
 *
 * The receiving half: frames become the native stream again, every rule of STREAM.md checked before
 * a byte reaches the sink.
 */
#ifndef HAMGR_MIGRATE_RECV_H
#define HAMGR_MIGRATE_RECV_H

#include "hamgr/ipc/streamproto.h"
#include "migrate/page_sink.h"
#include "migrate/session.h"

struct receiver;

/* Allocates what a receiver needs and starts its workers (0: none): from here on the process has
 * threads. NULL with err. */
struct receiver *receiver_new(unsigned workers, struct ha_err *err);
void receiver_free(struct receiver *d);
/* Receives the whole stream, once. Returns 0 once everything was delivered, the counts and the
 * digest matched and END_ACK was queued (session_flush sends it). */
int recv_stream(struct receiver *d, struct session *s, struct page_sink *sink, struct ha_err *err);

#endif
