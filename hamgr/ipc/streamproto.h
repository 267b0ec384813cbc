/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd <-> hamgr-stream: a SEQPACKET pair inherited as fd 3. hamgrd spawns one process per
 * migration end and hands over everything it may touch; the process opens nothing itself.
 * First packet from hamgrd: STREAMP_START with fds {socket or listener, native stream, sealed memfd
 * with CA + certificate + key in PEM, -1 or ring memfd}. All peer bytes end in that process.
 */
#ifndef HAMGR_IPC_STREAMPROTO_H
#define HAMGR_IPC_STREAMPROTO_H

#include "hamgr/base/bytes.h"
#include "hamgr/ipc/sock.h"

#define STREAMP_FD         3
#define STREAMP_LEVEL_AUTO 255u
#define STREAMP_CACHE_MAX  1024u /* MiB */
#define STREAMP_PROBE_MAX  1024u /* MiB */
#define STREAMP_NOTES_MAX  200u  /* a process says no more: a peer can cause them */

enum streamp_type {
    STREAMP_START = 1, /* streamp_start */
    STREAMP_CANCEL,
    STREAMP_SOCKET, /* streamp_lane and one fd: answers CONNECT; no fd: it can't be had now */
    STREAMP_CONNECTED = 64, /* mutual TLS done and ticket checked; the key has been wiped */
    STREAMP_PROGRESS,       /* streamp_progress, at most 10 per second */
    STREAMP_END,            /* streamp_end; then the process exits */
    STREAMP_NOTE,    /* body: one ha_put_text (< HA_TEXT_MAX) to be logged, e.g. a refused stray */
    STREAMP_CONNECT, /* streamp_lane: a sender wants one more socket to the ticket's receiver */
};

struct streamp_start {
    bool is_sender;
    bool is_listener; /* fds[0] accepts (receiver); stray connections are refused there */
    struct ha_uuid cluster_id;
    uint64_t generation;
    uint64_t ticket;
    struct ha_uuid guest;
    uint64_t epoch;     /* of the arriving copy */
    uint8_t secret[32]; /* per-ticket, sent over corosync's encrypted group: both ends show it */
    char peer_name[HA_NAME_MAX]; /* must be in the peer certificate's SAN */
    uint8_t level;               /* zstd level, 0 = store, STREAMP_LEVEL_AUTO */
    uint32_t rate_mbit;          /* cap, 0 = none */
    uint32_t idle_timeout_ms;    /* no byte moved for this long = failed */
    uint8_t connections; /* data connections, 1..8; 0: all goes over the one socket, no resume */
    uint32_t grace_ms;   /* a lost connection may come back this long */
    uint32_t cache_mib;  /* sender: page hashes and cached pages; the receiver's follows */
    uint8_t workers;     /* threads of the codec, 0 = by the processors */
    bool is_identical;   /* sender: no page is left out, the stream arrives byte for byte */
    /* Not 0: no migration, but a probe of the way: so many MiB of random pages at most, made by the
     * sender and thrown away by the receiver. fds[1] is not used. */
    uint32_t probe_mib;
};

/* CONNECT and SOCKET: fds[0] of SOCKET is a non-blocking TCP socket, connected or connecting. */
struct streamp_lane {
    uint16_t lane;
};

struct streamp_progress {
    uint64_t raw_bytes;  /* native stream */
    uint64_t wire_bytes; /* TLS payload both ways */
    uint64_t pages;
    uint64_t zero_pages;
    uint64_t elapsed_ms;
    uint64_t same_pages;  /* sender: left out, unchanged since they were last sent */
    uint64_t delta_pages; /* sent as changes to a version both ends hold */
    uint32_t codec_mbit;  /* sender: what the workers could compress, all together; 0: not known */
    uint32_t link_mbit;   /* sender: what the link takes, as last seen; 0: not known */
    int8_t level;         /* sender: at present; 0 = store */
    bool is_patient; /* nothing moves because the destination's hypervisor takes nothing: allowed
                        for longer than idle_timeout_ms (STREAM.md, section 7) */
};

struct streamp_end {
    bool is_ok; /* sender: peer confirmed the complete stream; receiver: delivered */
    struct streamp_progress total;
    char text[HA_TEXT_MAX]; /* cause when not ok */
};

void streamp_start_encode(struct ha_writer *w, const struct streamp_start *m);
/* A START that ends before `connections` or before `probe_mib` comes from a hamgrd older than this
 * program: 0. */
int streamp_start_decode(const uint8_t *body, size_t size, struct streamp_start *ret);
void streamp_lane_encode(struct ha_writer *w, const struct streamp_lane *m);
int streamp_lane_decode(const uint8_t *body, size_t size, struct streamp_lane *ret);
void streamp_progress_encode(struct ha_writer *w, const struct streamp_progress *m);
int streamp_progress_decode(const uint8_t *body, size_t size, struct streamp_progress *ret);
void streamp_end_encode(struct ha_writer *w, const struct streamp_end *m);
int streamp_end_decode(const uint8_t *body, size_t size, struct streamp_end *ret);

#endif
