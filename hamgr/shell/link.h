/* SPDX-License-Identifier: Apache-2.0
 *
 * A client's end of a local service socket on the loop: connects, reconnects with back-off, queues
 * what the peer can't take yet. Used for hamgr-hv, hamgr-watchdog and hamgr-fence, and (without
 * reconnecting) for the control socket of a stream process.
 */
#ifndef HAMGR_SHELL_LINK_H
#define HAMGR_SHELL_LINK_H

#include <qb/qbloop.h>

#include "hamgr/ipc/sock.h"

struct link;

struct link_callbacks {
    void (*up)(void *user);
    /* The packet's body and its fds are borrowed: no service sends us any, all are closed. */
    void (*packet)(void *user, const struct ha_packet *packet);
    void (*down)(void *user, const char *why);
};

/* Connects to path now and for ever after (100 ms back-off doubling to 2 s). Callbacks never run
 * from inside link_open or link_send. */
struct link *link_open(qb_loop_t *loop, const char *path, const struct link_callbacks *callbacks,
                       void *user);
/* Takes a connected socket (moved); does not reconnect. */
struct link *link_adopt(qb_loop_t *loop, int fd, const struct link_callbacks *callbacks,
                        void *user);
bool link_is_up(const struct link *link);
/* Sends or queues. fds are moved (closed also on error). Returns 0, -ENOTCONN, -HA_E_LIMIT. */
int link_send(struct link *link, uint16_t type, uint64_t id, const void *body, size_t body_size,
              const int *fds, unsigned fd_count);
/* Closes and frees; no callback runs any more. NULL is allowed. */
void link_close(struct link *link);

#endif
