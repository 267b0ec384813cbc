/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread for corosync calls that may hang: connect, join, finalize, cmap, votequorum. One job
 * at a time; its report is read on the loop through an eventfd. A job that does not come back keeps
 * the thread, never the loop: the loop asks how long it is busy and says "corosync hangs".
 */
#ifndef QUORUM_COROSYNC_WORKER_H
#define QUORUM_COROSYNC_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include <corosync/cpg.h>

#include "quorum/transport.h"

enum corosync_job {
    COROSYNC_CONNECT = 1, /* open cmap, votequorum and cpg, read the configuration */
    COROSYNC_JOIN,        /* join the group */
    COROSYNC_PING,        /* ask votequorum; now and then read the configuration again */
    COROSYNC_DISCONNECT,  /* close everything */
};

struct corosync_report {
    enum corosync_job job;
    struct ha_err err; /* code 0: it went well */
    cpg_handle_t cpg;  /* CONNECT: the loop's until it submits DISCONNECT */
    bool has_config;   /* CONNECT; PING when it has changed */
    struct transport_config config;
    bool has_votes; /* votequorum answered */
    bool is_quorate;
    uint32_t votes;
};

struct corosync_worker;

/* Starts the thread. callbacks and context go into the cpg handle; they run only in cpg_dispatch,
 * which is the loop's. message_max: connections that carry less in one piece are refused. */
int corosync_worker_start(const char *group, const cpg_model_v1_data_t *callbacks, void *context,
                          uint32_t message_max, struct corosync_worker **ret_worker,
                          struct ha_err *err);
/* Readable when a report waits. */
int corosync_worker_fd(const struct corosync_worker *worker);
/* Hands over a job; the worker must be idle: no job submitted whose report was not taken. */
void corosync_worker_submit(struct corosync_worker *worker, enum corosync_job job);
/* Takes the report of the job submitted last; false when it is not done. */
bool corosync_worker_take(struct corosync_worker *worker, struct corosync_report *ret_report);
/* True while a job is submitted and its report not taken. */
bool corosync_worker_is_busy(const struct corosync_worker *worker);
/* Ends the thread. Waits 200 ms at most (a healthy corosync answers in a few); a thread that hangs
 * ends by itself when corosync answers or dies. */
void corosync_worker_stop(struct corosync_worker *worker);

#endif
