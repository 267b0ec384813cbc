/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate process: the only one on a node that makes guests runnable, and the one that pauses them
 * all when the lease ends, needing neither hamgrd nor the network for it. It serves hvproto.h, does
 * gate verbs itself and gives worker verbs to processes of their own.
 *
 * Files below `dir`, all root's: hv.sock (served), keeper.sock and lease (the keeper's), hv.state
 * (what a restarted gate must remember; the directory forgets at power-off, like the guests).
 *
 * One thread: the loop's.
 */
#ifndef HAMGR_HV_GATE_H
#define HAMGR_HV_GATE_H

#include <sys/types.h>

#include <qb/qbloop.h>

#include "hamgr/hv/hv.h"
#include "hamgr/hv/worker.h"

/* 16 guests made at once keep two cores busy; more would only make each slower. */
#define GATE_WORKERS 16u

struct gate_options {
    const char *dir;      /* "/run/hamgr" */
    uid_t peer_uid;       /* may connect beside root; (uid_t)-1: nobody */
    gid_t peer_gid;       /* group of the socket; (gid_t)-1: root's */
    uint32_t worker_max;  /* processes at once */
    uint32_t verb_max_ms; /* no worker verb may take longer; 0 = each has only its own time */
    const char
        *ident_dir; /* "/run/hamgr-node": boot_id, product_uuid that win over the machine's */
    void (*stopped)(void *user); /* after gate_stop: now gate_close */
    void *user;
};

struct gate;

/* Starts to watch and to serve. hv and the strings of options are borrowed until gate_close;
 * open_driver gives a worker process its own handle. NULL and err on failure. */
struct gate *gate_open(qb_loop_t *loop, struct hv *hv, worker_open_fn open_driver, void *open_user,
                       const struct gate_options *options, struct ha_err *err);
/* Stops serving, aborts saves and restores, waits some seconds for workers to end; the lease is
 * watched on. Then calls options.stopped, maybe during this call. */
void gate_stop(struct gate *gate);
/* Kills what workers are left. Guests stay as they are. */
void gate_close(struct gate *gate);

#endif
