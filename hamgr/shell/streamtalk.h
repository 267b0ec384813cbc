/* SPDX-License-Identifier: Apache-2.0
 *
 * How much of what a migration's hamgr-stream says is listened to. All bytes of the peer end in
 * that process: should one of them take it over, it must not fill hamgrd's log, have it dial
 * without end, or make it tell the others again and again. Pure.
 */
#ifndef HAMGR_SHELL_STREAMTALK_H
#define HAMGR_SHELL_STREAMTALK_H

#include "hamgr/core/runtime.h"
#include "hamgr/ipc/streamproto.h"

#define STREAMTALK_DIALS 32u /* sockets a second: 9 connections, tried again and again */

/* All 0: nothing was said yet. Private. */
struct streamtalk {
    unsigned notes;
    unsigned dials;
    uint64_t dials_ms; /* since when `dials` counts */
    bool is_connected;
    bool is_ended;
    char peer[HA_TEXT_MAX]; /* who is dialled; "" nobody yet */
    char last[HA_TEXT_MAX]; /* what it said last */
    char late[HA_TEXT_MAX];
};

/* Is a packet of this type news? CONNECTED and END are said once. */
bool streamtalk_is_news(struct streamtalk *talk, uint16_t type);
/* The line for the log out of a NOTE's body, without control characters. False: there is none to be
 * logged, for it is malformed, or there were STREAMP_NOTES_MAX before and the sentence about it. */
bool streamtalk_note(struct streamtalk *talk, const uint8_t *body, size_t size,
                     char ret_text[HA_TEXT_MAX]);
/* What the source's stream says of how it packs; the destination's knows nothing of it. */
struct ha_packing streamtalk_packing(const struct streamp_progress *progress);
/* CONNECT: may one more socket to that address be opened for it now? */
bool streamtalk_may_dial(struct streamtalk *talk, const char *address, uint16_t port,
                         uint64_t now_ms);
/* late, why a migration is given up that took too long (NULL: it did not), with who was dialled in
 * vain, and what was said last of that. Valid until the next call. */
const char *streamtalk_late(struct streamtalk *talk, const char *late);

#endif
