/* SPDX-License-Identifier: Apache-2.0
 *
 * HELLO and WELCOME: what binds a connection to a ticket (STREAM.md, sections 2 and 3).
 */
#ifndef HAMGR_MIGRATE_HELLO_H
#define HAMGR_MIGRATE_HELLO_H

#include "hamgr/ipc/streamproto.h"
#include "migrate/chan.h"
#include "migrate/frame.h"

enum hello_role { HELLO_SENDER = 1, HELLO_RECEIVER = 2 };

/* HMAC-SHA256 over role, binding of chan and the payload without the proof_size bytes at proof_at.
 * Returns 0 or a negative error. */
int hello_proof(const struct streamp_start *start, struct chan *chan, enum hello_role role,
                const uint8_t *payload, size_t size, size_t proof_at,
                uint8_t ret_proof[FRAME_PROOF_SIZE]);
/* What both ends agreed about further connections (STREAM.md, section 8). */
struct terms {
    uint16_t connections; /* data connections; 0: none, everything goes over the first one */
    uint16_t window;      /* parcels unacknowledged at most */
    uint32_t grace_ms;
    uint8_t psk[FRAME_PSK_SIZE];
};

/* Writes a complete HELLO payload for start into ret_payload[FRAME_HELLO_LANES]. It offers lanes if
 * start names connections. Returns its size or a negative error. */
int hello_make(const struct streamp_start *start, struct chan *chan, uint8_t *ret_payload);
/* Checks a HELLO payload against start. Returns 0, or -HA_E_PEER / -HA_E_REFUSED with the reason in
 * err and the wire's code in *ret_code. */
int hello_check(const struct streamp_start *start, struct chan *chan, const uint8_t *payload,
                size_t size, uint16_t *ret_code, struct ha_err *err);
/* The receiver's answer to the offer in a checked HELLO: connections and window no more than either
 * end's, our grace time, a fresh key. connections 0 if one end does not want any. 0 or error. */
int hello_agree(const struct streamp_start *start, const uint8_t *payload, size_t size,
                struct terms *ret, struct ha_err *err);
/* The same for WELCOME: terms may be NULL, ret_payload[FRAME_WELCOME_LANES]; the size or an error.
 */
int welcome_make(const struct streamp_start *start, struct chan *chan, const struct terms *terms,
                 uint8_t *ret_payload);
int welcome_check(const struct streamp_start *start, struct chan *chan, const uint8_t *payload,
                  size_t size, struct terms *ret, struct ha_err *err);

#endif
