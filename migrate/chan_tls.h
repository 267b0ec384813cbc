/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS 1.3 as a channel (STREAM.md, section 2): mutual, one CA, the peer's node name in its SAN,
 * both usages demanded, no tickets, no resumption, no early data, ALPN. OpenSSL's peculiarities
 * stay here.
 */
#ifndef HAMGR_MIGRATE_CHAN_TLS_H
#define HAMGR_MIGRATE_CHAN_TLS_H

#include <stdbool.h>

#include "migrate/chan.h"
#include "migrate/frame.h"
#include "migrate/pem.h"

struct tls_context;

/* What all handshakes of this process share. Allocates everything OpenSSL opens or loads later, so
 * that no file is needed afterwards. peer_name is copied. NULL and err: no memory or a library
 * without TLS 1.3. */
struct tls_context *tls_context_new(const struct identity *identity, const char *peer_name,
                                    struct ha_err *err);
void tls_context_free(struct tls_context *context);

/* For the later connections of a migration: a PSK instead of certificates, no key before
 * tls_context_key. To be made as early as the other. */
struct tls_context *tls_context_psk_new(struct ha_err *err);
/* The key handed over in WELCOME (copied), for lanes 0..lanes of this ticket. */
void tls_context_key(struct tls_context *context, const uint8_t psk[FRAME_PSK_SIZE],
                     uint64_t ticket, unsigned lanes);

/* A channel over a connected socket (moved, made non-blocking). identity is borrowed: its key is
 * referenced until chan_tls_forget_key or close. NULL and err on failure, socket closed. */
struct chan *chan_tls_new(struct tls_context *context, const struct identity *identity, int fd,
                          bool is_server, struct ha_err *err);
/* The same with a PSK context; fd is non-blocking already. lane: the sender's choice; the receiver
 * learns it by the key the peer shows. */
struct chan *chan_tls_psk_new(struct tls_context *context, unsigned lane, int fd, bool is_server,
                              struct ha_err *err);
/* After the handshake: which lane's key was used. */
unsigned chan_tls_lane(struct chan *chan);
/* Goes on with the handshake. Returns 1 when it is done and the peer is who it should be, -EAGAIN
 * (poll fd for read_wants), or a negative error with the reason. */
int chan_tls_handshake(struct chan *chan, struct ha_err *err);
/* Drops this channel's reference to the private key: not needed after the handshake. */
void chan_tls_forget_key(struct chan *chan);
/* "TLS_AES_128_GCM_SHA256" after the handshake. static */
const char *chan_tls_cipher(struct chan *chan);

#endif
