/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads xenstore without ever waiting longer than told: the gate may ask, but must not hang with
 * xenstored. libxenstore has no bounded read. After a failure the next question is answered at once
 * with the same, for a while.
 */
#ifndef HAMGR_HV_XEN_XS_H
#define HAMGR_HV_XEN_XS_H

#include <stddef.h>
#include <stdint.h>

#define XS_SOCKET "/run/xenstored/socket"

struct xs_client;

struct xs_client *xs_client_new(const char *socket_path);
void xs_client_close(struct xs_client *c);
/* The value at path with a final NUL; its length, -ENOENT if there is none, or a negative error
 * (-ETIMEDOUT: xenstored does not answer). */
int xs_client_read(struct xs_client *c, const char *path, char *ret_value, size_t capacity);

#endif
