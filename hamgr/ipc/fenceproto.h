/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgrd <-> hamgr-fence, at /run/hamgr/fence.sock. hamgr-fence runs one device's agent for one
 * node and answers with evidence or with none; levels, retries and merging are decided in hamgrd by
 * the pure machine in fence/fence_fsm.h. Credentials never cross this socket.
 */
#ifndef HAMGR_IPC_FENCEPROTO_H
#define HAMGR_IPC_FENCEPROTO_H

#include "hamgr/base/bytes.h"
#include "hamgr/ipc/sock.h"

#define FENCEP_SOCKET HA_SOCK_DIR "/fence.sock"

enum fencep_type {
    FENCEP_LIST = 1,   /* reply FENCEP_DEVICES, also sent as event when fence.conf was reread */
    FENCEP_RUN_V1 = 2, /* an order without an end: never carried out, its result says so */
    FENCEP_CANCEL = 3, /* fencep_cancel: drops a run whose agent has not started `off` yet */
    FENCEP_RUN = 4,    /* fencep_run; exactly one FENCEP_RESULT */
    FENCEP_VOUCH = 5,  /* fencep_vouch: the order stands for longer. No reply */
    FENCEP_DEVICES = 64,
    FENCEP_RESULT, /* fencep_result */
};

enum fencep_action { FENCEP_OFF = 1, FENCEP_ON = 2, FENCEP_STATUS = 3, FENCEP_MONITOR = 4 };

enum fencep_outcome {
    FENCEP_VERIFIED_OFF = 1, /* `off` succeeded, then `status` said off: the only evidence */
    FENCEP_IS_ON,            /* status says on */
    FENCEP_OK,               /* on, monitor: succeeded */
    FENCEP_FAILED,           /* agent failed, timed out, or could not verify: nothing is known */
    FENCEP_CANCELLED,        /* taken back, or nobody vouched for it any more: nothing was begun */
};

struct fencep_run {
    char device[HA_NAME_MAX];
    char node[HA_NAME_MAX];
    uint8_t action;      /* enum fencep_action */
    uint32_t timeout_ms; /* 0 = the device's own */
    /* No agent begins behind it (fence/order.h): CLOCK_BOOTTIME of this node, so it is not sent to
     * another, whose hamgrd vouches itself. */
    uint64_t end_ms;
};

struct fencep_vouch {
    uint64_t id;
    uint64_t end_ms; /* as in fencep_run */
};

struct fencep_cancel {
    uint64_t id;
};

struct fencep_result {
    uint8_t outcome; /* enum fencep_outcome */
    uint32_t elapsed_ms;
    char text[HA_TEXT_MAX]; /* agent, device, exit code, its last line (secrets removed) */
};

struct fencep_device {
    char name[HA_NAME_MAX];
    char agent[HA_NAME_MAX];
    uint8_t level; /* 1..9: lower first; all of a level must succeed */
    uint32_t timeout_ms;
    bool is_for_all; /* any node; else only nodes[] */
    uint32_t node_count;
    char nodes[HA_NODES_MAX][HA_NAME_MAX];
    uint64_t proven_wall_ms; /* last successful monitor, 0 never */
};

/* All devices of a node go to its peers in one message: their bodies as encoded below may take
 * that much together. fence.conf is refused above it. */
#define FENCEP_DEVICES_BYTES_MAX 32768u

struct fencep_devices {
    bool is_last;
    struct fencep_device device; /* one per packet */
};

void fencep_run_encode(struct ha_writer *w, const struct fencep_run *m);
int fencep_run_decode(const uint8_t *body, size_t size, struct fencep_run *ret);
void fencep_vouch_encode(struct ha_writer *w, const struct fencep_vouch *m);
int fencep_vouch_decode(const uint8_t *body, size_t size, struct fencep_vouch *ret);
void fencep_cancel_encode(struct ha_writer *w, const struct fencep_cancel *m);
int fencep_cancel_decode(const uint8_t *body, size_t size, struct fencep_cancel *ret);
void fencep_result_encode(struct ha_writer *w, const struct fencep_result *m);
int fencep_result_decode(const uint8_t *body, size_t size, struct fencep_result *ret);
void fencep_devices_encode(struct ha_writer *w, const struct fencep_devices *m);
int fencep_devices_decode(const uint8_t *body, size_t size, struct fencep_devices *ret);

#endif
