/* SPDX-License-Identifier: Apache-2.0
 *
 * The data connections of a migration (STREAM.md, section 8): a thread each, which writes parcels
 * to the peer or reads them, encrypting in parallel; and the parcels' memory, fixed at the start.
 * Who connects, and what the parcels hold, is not known here. All functions are for the one thread
 * that owns the lanes; only `lanes_fd` tells it that there is something to ask for.
 */
#ifndef HAMGR_MIGRATE_LANES_H
#define HAMGR_MIGRATE_LANES_H

#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "migrate/chan.h"
#include "migrate/frame.h"

struct lanes;

/* Makes the threads and all memory: to be called before a system call filter is set, after
 * privileges were dropped. count: 1..FRAME_LANES_MAX data connections, of which lanes_agree may use
 * fewer. NULL and err: no memory, no thread. */
struct lanes *lanes_new(bool is_sender, unsigned count, struct ha_err *err);
/* What the two ends agreed about; once, before anything else. window <= FRAME_WINDOW. */
void lanes_agree(struct lanes *lanes, unsigned connections, unsigned window);
unsigned lanes_count(const struct lanes *lanes);
/* The cap over all connections, 0: none. What others sent beside the lanes is told here. */
void lanes_cap(struct lanes *lanes, uint32_t rate_mbit);
/* Ends all connections; threads stay, without work. Waits until none is in use. */
void lanes_stop(struct lanes *lanes);
/* lanes_stop, and the threads too: not possible under the filter, where only the end of the process
 * ends them. NULL is allowed. */
void lanes_free(struct lanes *lanes);

/* Readable when something changed since the last lanes_calm: a parcel, room, a loss. */
int lanes_fd(const struct lanes *lanes);
void lanes_calm(struct lanes *lanes);
/* Gives lane 1..count a connection (moved), instead of the one it has. */
void lanes_connect(struct lanes *lanes, unsigned lane, struct chan *chan);
/* Has the lane a connection (as far as is known)? */
bool lanes_is_up(struct lanes *lanes, unsigned lane);
/* A lane that lost its connection since the last call, and why; 0: none. */
unsigned lanes_take_loss(struct lanes *lanes, struct ha_err *ret_why);
/* The peer broke a rule on a lane: a negative error, which stays. Else 0. */
int lanes_check(struct lanes *lanes, struct ha_err *err);
/* Bytes moved over all lanes. */
uint64_t lanes_bytes(struct lanes *lanes);

/* Sender. Room for the next parcel, FRAME_PARCEL_MAX bytes, the same until it is queued; NULL: the
 * window is full (wait for lanes_fd, or an ACK). */
uint8_t *lanes_open(struct lanes *lanes);
/* Instead of writing into that room: block (FRAME_BLOCK bytes, moved; from malloc) holds the parcel
 * from start <= FRAME_FRONT on, its header's place first. Returns the one it replaces (moved). Then
 * lanes_queue. */
uint8_t *lanes_exchange(struct lanes *lanes, uint8_t *block, size_t start);
/* The open parcel holds size > 0 bytes: off it goes. */
void lanes_queue(struct lanes *lanes, size_t size);
/* The receiver's ACK. 0, or -HA_E_PEER. */
int lanes_ack(struct lanes *lanes, uint64_t next, struct ha_err *err);
/* Is everything that was queued acknowledged? */
bool lanes_is_empty(struct lanes *lanes);

/* Receiver. The next parcel in order, its bytes borrowed until lanes_release; NULL: not there yet.
 */
uint8_t *lanes_head(struct lanes *lanes, size_t *ret_size);
/* The head was taken over. Returns the number to acknowledge. */
uint64_t lanes_release(struct lanes *lanes);

#endif
