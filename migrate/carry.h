/* SPDX-License-Identifier: Apache-2.0
 *
 * The session's other half, for several connections (STREAM.md, section 8): frames in and out of
 * parcels, what is said on the control connection, and its loss. Private to session.c and carry.c.
 */
#ifndef HAMGR_MIGRATE_CARRY_H
#define HAMGR_MIGRATE_CARRY_H

#include "migrate/session.h"

/* session_begin, session_commit, session_give and session_flush of the sender. */
uint8_t *carry_begin(struct session *s, size_t room, struct ha_err *err);
int carry_commit(struct session *s, uint16_t type, size_t size, const void *tail, size_t tail_size,
                 struct ha_err *err);
int carry_give(struct session *s, uint16_t type, size_t size, uint8_t **tail, size_t tail_size,
               struct ha_err *err);
int carry_flush(struct session *s, struct ha_err *err);
/* session_next_frame of the receiver. */
int carry_next_frame(struct session *s, int timeout_ms, struct ha_err *err);
/* Frames on the control connection. 0 or a negative error; a loss is none. */
int carry_hear(struct session *s, struct ha_err *err);
/* The control connection failed: it is closed, and the attendant may find a new one. */
void carry_lose(struct session *s, const struct ha_err *why);
/* Limits of time and rules broken on a lane. 0 or a negative error. */
int carry_check(struct session *s, struct ha_err *err);
/* Receiver: what was taken over is acknowledged, if it is worth it or must be. */
int carry_ack(struct session *s, bool is_due, struct ha_err *err);

/* Before the control connection is closed for good. Receiver: until the sender has what it needs.
 */
void carry_linger(struct session *s, unsigned timeout_ms);

/* What session.c lends. */
int session_write_out(struct session *s, bool is_waiting, struct ha_err *err);
/* CLOCK_MONOTONIC. */
uint64_t session_clock_us(void);
/* Appends a small frame to the control connection's outbox; false: no room. */
bool session_put(struct session *s, uint16_t type, const void *payload, size_t size);

#endif
