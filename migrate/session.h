/* SPDX-License-Identifier: Apache-2.0
 *
 * One migration end's shell: every wait of the process happens here, so that cancel, progress,
 * PINGs and the limits of time are kept wherever it waits; and frames are sent and received here.
 * Blocking in form, never deaf: one thread, straight code, poll underneath.
 *
 * Time is *attended* time: no step between two looks at the clock counts for more than 500 ms, so a
 * host that was stopped as a whole does not find all its limits passed when it goes on.
 */
#ifndef HAMGR_MIGRATE_SESSION_H
#define HAMGR_MIGRATE_SESSION_H

#include <poll.h>
#include <stdbool.h>

#include "hamgr/ipc/streamproto.h"
#include "migrate/chan.h"
#include "migrate/frame.h"

#define SESSION_PING_MS      1000u
#define SESSION_PEER_GONE_MS 8000u /* 8 PINGs missed */
#define SESSION_PROGRESS_MS  100u
#define SESSION_ABORT_MS     300u
#define SESSION_IDLE_MS      30000u /* when hamgrd names none */
/* Over lanes: so many times as long a hypervisor at the destination may take no byte, while its
 * hamgr-stream lives and says so: it may have a large guest's memory to make. */
#define SESSION_PATIENCE  12u
#define SESSION_SILENT_MS 3000u /* over lanes: a control connection this silent is replaced */
#define SESSION_WAIT_FDS  20u   /* most fds one wait may watch */
#define SESSION_EXTRA_FDS 20u   /* most fds of an attendant */
#define SESSION_OUTBOX    262144u
/* So many frames without meaning for anybody are taken in one go; the others have to wait until
 * everything else was looked after. A peer that means well sends one a second. */
#define SESSION_SWALLOW 1024u

/* One direction's assembly of frames. The buffer is the owner's. */
struct inbox {
    uint8_t *buffer;
    size_t capacity; /* >= FRAME_HEADER_SIZE + FRAME_CONTROL_MAX */
    size_t have;
    uint64_t sequence; /* the next frame's */
    struct frame_header header;
    bool is_lost;  /* the channel failed or ended: not something the peer said */
    bool is_ended; /* it ended in good order */
};

/* Reads what is there. Returns 1 when inbox->header and its payload are complete (until the next
 * call), 0 when more must come (poll for read_wants), or a negative error. *moved (may be NULL) is
 * set when any byte came. */
int inbox_pump(struct inbox *inbox, struct chan *chan, bool *moved, struct ha_err *err);
/* The payload of a complete frame. borrowed */
const uint8_t *inbox_payload(const struct inbox *inbox);

/* Somebody with fds of his own who works in every wait of the session: whoever opens or accepts
 * further connections. Embedded by its owner. */
struct attendant {
    /* Fills fds[room]; returns how many. */
    unsigned (*watch)(struct attendant *a, struct pollfd *fds, unsigned room);
    /* After each poll; fds as watch left them, revents set. 0, 1 (whoever waits in the session is
     * to look again: its wait ends as at its timeout), or a negative error, which ends the
     * migration. */
    int (*turn)(struct attendant *a, const struct pollfd *fds, unsigned count, struct ha_err *err);
    /* hamgrd answered CONNECT: fd (moved) or -1. May be NULL. */
    void (*socket)(struct attendant *a, unsigned lane, int fd);
};

struct lanes;

struct session {
    struct streamp_progress progress; /* counted by whoever moves bytes */
    struct chan *chan;                /* owned; NULL until connected */
    struct inbox inbox;
    bool is_listening_peer; /* sender: frames of the peer are taken in every wait */
    bool is_ending;         /* END was sent: an END_ACK may come */
    bool is_acked;          /* an END_ACK came in such a wait */
    struct frame_end_ack ack;
    bool is_sink_waiting; /* receiver: the hypervisor takes nothing just now */
    uint64_t blocked_us;  /* sender: waited so long for the link to take more */
    /* private */
    int control_fd;
    uint32_t idle_timeout_ms;
    uint32_t rate_mbit;
    uint64_t clock_ms;      /* attended time */
    uint64_t real_ms;       /* CLOCK_MONOTONIC at the last look */
    uint64_t started_ms;    /* real: when connected */
    uint64_t reported_ms;   /* real: last PROGRESS */
    uint64_t polled_ms;     /* real: last look at the fds without waiting */
    uint64_t moved_ms;      /* attended: last byte of the native stream */
    uint64_t heard_ms;      /* attended: last byte from the peer */
    uint64_t spoke_ms;      /* attended: last byte to the peer */
    uint64_t rate_ms;       /* real: last filling of the bucket */
    int64_t rate_bytes;     /* what may be sent now */
    uint64_t renewed_bytes; /* written with this sending key */
    uint64_t send_sequence;
    uint8_t *outbox;
    size_t out_start;
    size_t out_end;
    bool is_writing;   /* inside a write: nothing else may be queued */
    bool is_cut;       /* a frame was left unfinished: nothing can follow it */
    bool is_peer_done; /* the peer sent ABORT or is gone */
    bool is_cancelled;
    bool is_connected; /* CONNECTED was sent */
    bool is_unheard;   /* more of the peer may be there than a poll can tell */
    uint32_t notes;    /* lines told to hamgrd */
    uint8_t *packet;   /* HA_IPC_MAX bytes for control messages */
    uint8_t *inbox_buffer;
    struct attendant *attendant; /* borrowed; may be NULL */
    /* Over several connections (STREAM.md, section 8): lanes is NULL otherwise. The frames of the
     * stream are in parcels then; chan is the control connection, NULL while it is lost. */
    struct lanes *lanes; /* borrowed */
    bool is_sender;
    bool is_over;      /* session_linger: the stream is complete, or given up */
    bool has_end_ack;  /* receiver: END_ACK was said; a new control connection hears it again */
    uint32_t grace_ms; /* nothing heard for this long: the peer is gone */
    uint32_t window;
    uint32_t controls; /* grows as one is taken or lost: what was queued is for one of them only */
    struct inbox control;
    uint8_t control_buffer[FRAME_HEADER_SIZE + FRAME_CONTROL_MAX];
    uint64_t stream_sequence; /* of the next frame in a parcel */
    uint8_t *parcel;          /* being filled or read; NULL: none */
    size_t parcel_used;
    size_t parcel_size;
    uint64_t asked_ms; /* sender, attended: the receiver last said that its hypervisor takes none */
    uint64_t taken;    /* receiver: parcels taken over; sender: acknowledged */
    uint64_t told;     /* receiver: the last ACK */
    uint64_t barriers; /* receiver: those that came */
    uint64_t sealed;   /* sender: parcels queued so far */
    uint64_t taken_raw;     /* sender: bytes of the native stream the receiver has taken over */
    void (*on_ack)(void *); /* sender: `taken` grew; called in any wait. May be NULL */
    void *on_ack_user;
};

/* Allocates all buffers. control_fd is borrowed, -1: none (tests). idle_timeout_ms 0: the default.
 * Returns 0 or -HA_E_NO_MEMORY. fini is idempotent and closes the channel. */
int session_init(struct session *s, int control_fd, uint32_t idle_timeout_ms, uint32_t rate_mbit,
                 struct ha_err *err);
void session_fini(struct session *s);

/* Waits until one of fds[count] is ready (revents set), the timeout passes, or the migration must
 * end. timeout_ms -1: no own limit; 0: only look. Returns the number of ready fds, 0 at the
 * timeout, or a negative error: cancelled, idle too long, peer gone or aborting. */
int session_wait(struct session *s, struct pollfd *fds, unsigned count, int timeout_ms,
                 struct ha_err *err);
/* The same for one fd. fd -1: just time. Returns 1, 0 or a negative error. */
int session_wait_fd(struct session *s, int fd, short events, int timeout_ms, struct ha_err *err);
/* To be called now and then by whoever is busy without waiting: cheap. 0 or a negative error. */
int session_poll(struct session *s, struct ha_err *err);
/* Bytes of the native stream moved. */
void session_moved(struct session *s, uint64_t raw_bytes);
/* Attended milliseconds, for deadlines of the caller. */
uint64_t session_now(struct session *s);

/* Frames to the peer. `begin` gives room for a payload of at most `room` bytes in the outbox;
 * `commit` completes the frame with size bytes of it, followed by tail[tail_size] (borrowed until
 * it returns; large tails are not copied). Only `flush` promises that all is with the kernel. */
uint8_t *session_begin(struct session *s, size_t room, struct ha_err *err);
int session_commit(struct session *s, uint16_t type, size_t size, const void *tail,
                   size_t tail_size, struct ha_err *err);
/* Over lanes a large tail needs no copy if its memory is given up: *tail lies FRAME_FRONT bytes
 * behind the beginning of a malloc'ed block of FRAME_BLOCK bytes, the size bytes of the frame
 * before it are written already; *tail becomes the same place in another such block. Instead of
 * begin and commit, where session_takes_blocks. */
bool session_takes_blocks(const struct session *s);
int session_give(struct session *s, uint16_t type, size_t size, uint8_t **tail, size_t tail_size,
                 struct ha_err *err);
int session_flush(struct session *s, struct ha_err *err);
/* Over lanes: all frames committed so far are in parcels below this number. */
uint64_t session_parcels(const struct session *s);
/* Takes the next frame of the peer, PINGs excepted; ABORT becomes an error. Waits for it, at most
 * timeout_ms (-1: as long as the limits of time allow, 0: not at all). 1, 0 at the timeout, or a
 * negative error.
 */
int session_next_frame(struct session *s, int timeout_ms, struct ha_err *err);
/* Sender, after END was flushed: waits for END_ACK (s->ack). 0 or a negative error. */
int session_await_ack(struct session *s, struct ha_err *err);
/* From here on the frames of the stream go over lanes (borrowed), and session's channel is the
 * control connection: to be called once, after WELCOME is through. */
void session_use_lanes(struct session *s, struct lanes *lanes, bool is_sender, uint32_t window,
                       uint32_t grace_ms);
/* A new control connection (moved) takes the place of the old one. sent: frames this end has sent
 * on it, received: frames it took from it. */
void session_set_control(struct session *s, struct chan *chan, uint64_t sent, uint64_t received);
/* Asks hamgrd for a socket; the attendant gets it. */
void session_ask_socket(struct session *s, unsigned lane);
/* A failure: tells the peer with an ABORT if that is still possible, within SESSION_ABORT_MS. */
void session_abort(struct session *s, const struct ha_err *why);
/* Ends the channel so that what was sent arrives: waits for the peer's end, at most timeout_ms. */
void session_linger(struct session *s, unsigned timeout_ms);

/* Packets to hamgrd. note: a line for the log, the first STREAMP_NOTES_MAX of them. end: the last
 * one, waits up to 2 s for room. */
void session_note(struct session *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void session_connected(struct session *s);
void session_end(struct session *s, bool is_ok, const char *text);

#endif
