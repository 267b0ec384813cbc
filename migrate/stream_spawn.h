/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd's side of hamgr-stream: loading the node's certificate files, and starting one process per
 * migration end. It owns no policy and keeps nothing; what the process then says arrives on the
 * control fd (hamgr/ipc/streamproto.h).
 */
#ifndef HAMGR_MIGRATE_STREAM_SPAWN_H
#define HAMGR_MIGRATE_STREAM_SPAWN_H

#include <stdint.h>
#include <sys/types.h>

#include "hamgr/base/err.h"
#include "hamgr/ipc/streamproto.h"

/* Starts `binary` (absolute path) as one migration end and sends it STREAMP_START. net_fd (socket
 * or listener), native_fd and pem_memfd are moved: closed here on success and on error. The child
 * gets nothing but its control socket as fd 3, /dev/null as fds 0 and 1, and our stderr (for the
 * last words of a crash); its environment is empty. *ret_control_fd is a non-blocking SEQPACKET
 * socket: it delivers STREAMP_* packets and ends when the child has gone; closing it makes the
 * child give up within milliseconds. *ret_pid is ours to reap. The child also ends when the calling
 * *thread* ends (PR_SET_PDEATHSIG): call from one that lives as long as the daemon. Does not block
 * beyond the exec. Returns 0 or a negative error. */
int stream_spawn(const char *binary, const struct streamp_start *start, int net_fd, int native_fd,
                 int pem_memfd, pid_t *ret_pid, int *ret_control_fd, struct ha_err *err);

/* Makes a ring for the pages of one save; its memfd is for stream_spawn_ring (a dup of it) and for
 * whoever fills it. 0 or a negative error. */
int stream_ring(int *ret_fd, struct ha_err *err);

/* The same for a sender whose pages come through shared memory: fds are net, native, PEM, and the
 * ring's memfd (ring.h, STREAM.md section 6), all moved. Whoever fills the ring keeps a descriptor
 * of its own; the native stream with its markers still comes over fds[1]. fds[3] -1: no ring. */
int stream_spawn_ring(const char *binary, const struct streamp_start *start, const int fds[4],
                      pid_t *ret_pid, int *ret_control_fd, struct ha_err *err);

/* Reads CA, certificate chain and private key (PEM files, <= 64 KiB each) into a sealed, CLOEXEC
 * memfd for stream_spawn; the caller may dup it, one per migration. Refuses with a sentence naming
 * the file: missing or unreadable, not PEM, certificate not yet valid or expired (also the CA's),
 * not signed by the CA, without both TLS usages, key not fitting the certificate, key readable by
 * everybody. Blocking file reads. Returns 0 or a negative error. */
int stream_load_pem(const char *ca, const char *cert, const char *key, int *ret_memfd,
                    struct ha_err *err);

/* Checks that the certificate in a memfd of stream_load_pem names node_name (SAN DNS, exactly) and
 * tells when it ends (the earlier of certificate and CA) as seconds since 1970, for warnings.
 * ret_expires_s may be NULL. Borrows the memfd. Returns 0 or a negative error. */
int stream_check_pem(int pem_memfd, const char *node_name, int64_t *ret_expires_s,
                     struct ha_err *err);

#endif
