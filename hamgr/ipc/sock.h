/* SPDX-License-Identifier: Apache-2.0
 *
 * Local SEQPACKET sockets between the processes of a node: one message a packet, a versioned header
 * in front, peers checked by SO_PEERCRED when accepted. Non-blocking; the owner polls the fd.
 */
#ifndef HAMGR_IPC_SOCK_H
#define HAMGR_IPC_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hamgr/base/err.h"
#include "hamgr/base/limits.h"

#define HA_SOCK_DIR     "/run/hamgr"
#define HA_SOCK_MAGIC   0x31524d48u /* "HMR1" */
#define HA_SOCK_VERSION 1u
#define HA_SOCK_FDS_MAX 4

/* Every message: u32 magic, u16 version, u16 type, u64 id, u32 body size; little-endian, 20 bytes.
 * `id` pairs a reply with its request; 0 in events. */
struct ha_packet {
    uint16_t type;
    uint64_t id;
    const uint8_t *body; /* borrowed until the next receive on the same buffer */
    size_t body_size;
    int fds[HA_SOCK_FDS_MAX]; /* moved to the receiver, CLOEXEC; -1 = none */
};

/* Binds and listens at path (mode 0660, old socket removed). Returns the fd or a negative error. */
int ha_sock_listen(const char *path, gid_t group, struct ha_err *err);
/* Accepts one connection and checks that the peer's uid is 0, our own or `uid` (uid -1: no third).
 * Returns the fd, -EAGAIN when none waits, -HA_E_AUTH when refused (closed already). */
int ha_sock_accept(int listener, uid_t uid, struct ha_err *err);
/* Connects to path. Returns the fd or a negative error. Never blocks for long. */
int ha_sock_connect(const char *path, struct ha_err *err);
/* Sends one message; fds are borrowed. Returns 0, -EAGAIN when the peer's queue is full, or an
 * error that means the connection is dead. */
int ha_sock_send(int fd, uint16_t type, uint64_t id, const void *body, size_t body_size,
                 const int *fds, unsigned fd_count);
/* Receives one message into buffer[HA_IPC_MAX]. Returns 1, 0 at end of connection, -EAGAIN when
 * nothing waits, -HA_E_VERSION or -HA_E_PEER for a message that is not ours. */
int ha_sock_receive(int fd, uint8_t *buffer, struct ha_packet *ret_packet);

#endif
