/* SPDX-License-Identifier: Apache-2.0
 *
 * Worker processes: one per verb, forked from the gate, each with a driver handle of its own. A
 * worker may hang, crash or be killed at any moment; then its verb has the outcome HV_UNKNOWN. It
 * never makes a guest runnable, and it dies with the gate.
 *
 * One thread: the loop's. At most `limit` workers live at once, others wait in order; never two for
 * one guest.
 */
#ifndef HAMGR_HV_WORKER_H
#define HAMGR_HV_WORKER_H

#include <qb/qbloop.h>

#include "hamgr/hv/hv.h"
#include "hamgr/ipc/hvproto.h"

/* The gate's own verb beside those of hvproto.h: switches off what a killed worker left on. */
#define WORKER_LOG_DIRTY_OFF 1000u

/* What a worker does. */
struct worker_verb {
    uint16_t type; /* enum hvp_type of a worker verb, or WORKER_LOG_DIRTY_OFF */
    struct hv_label label;
    uint32_t domid; /* all but CREATE and RESTORE */
    char name[HA_NAME_MAX];
    uint8_t *definition; /* moved to the job */
    size_t definition_size;
    uint64_t mem_kib;
    uint32_t timeout_ms; /* SHUTDOWN: for the guest; DIRTY_SAMPLE: the sample */
    uint32_t plain_ms;   /* hv_caps.plain_ms: the driver's share of the limit; 0 = 30 s */
    struct hvp_save save;
    int fd;      /* stream end of SAVE and RESTORE, moved; -1 = none */
    int ring_fd; /* of a SAVE's or RESTORE's pages, moved; 0 or less = none */
};

enum worker_stage {
    WORKER_QUEUED = 0,
    WORKER_RUNNING,
    WORKER_REPORTED, /* its outcome is out; the process is only leaving */
};

/* The caller's own notes on a job. */
struct worker_ticket {
    void *owner; /* NULL = nobody waits for it */
    uint64_t id;
    uint64_t close_count; /* of the gate, when the verb began */
    bool was_running;     /* the guest was runnable then */
};

struct worker_job {
    struct worker_verb verb;
    struct worker_ticket ticket;
    /* Private below. */
    uint8_t stage; /* enum worker_stage */
    bool is_aborted;
    bool is_timed_out;
    int pid_fd;
    int result_fd;
    qb_loop_timer_handle timer;
    uint64_t moved; /* of the last progress: to see that it still moves */
    struct worker_pool *pool;
    struct worker_job *next;
};

struct worker_callbacks {
    void (*progress)(void *user, struct worker_job *job, const struct hv_progress *progress);
    /* Exactly once per job, maybe during worker_submit. The job is readable during the call and is
     * gone some time after it. */
    void (*done)(void *user, struct worker_job *job, const struct hvp_done *done);
    /* The process of a reported job has ended, or a job was over: a next one may have started. */
    void (*idle)(void *user);
};

/* Opens the driver in a worker process, whose only thread it then belongs to. */
typedef struct hv *(*worker_open_fn)(void *user, struct ha_err *err);

struct worker_pool;

/* NULL without memory. Callbacks are borrowed. Ends by worker_pool_free, which kills every worker.
 * timeout_max_ms: no verb may take longer, whatever worker_timeout_ms says; 0 = no such bound. */
struct worker_pool *worker_pool_new(qb_loop_t *loop, uint32_t limit, uint32_t timeout_max_ms,
                                    worker_open_fn open_driver, void *open_user,
                                    const struct worker_callbacks *callbacks, void *user);
void worker_pool_free(struct worker_pool *pool);
/* Starts the verb, or queues it until its turn comes. verb's definition and fd are moved, also on
 * error. False, without a call of done, when the queue is full or memory is short. */
bool worker_submit(struct worker_pool *pool, const struct worker_verb *verb,
                   const struct worker_ticket *ticket);
/* The oldest job of the guest that has not reported, or NULL; the gate's own are not counted. */
struct worker_job *worker_find(struct worker_pool *pool, struct ha_uuid guest);
/* Ends a SAVE or RESTORE soon, by closing its stream, and by force after a while. Done follows, not
 * during this call. */
void worker_abort(struct worker_job *job);
/* Calls visit for every job that has not reported. */
void worker_each(struct worker_pool *pool, void (*visit)(void *user, struct worker_job *job),
                 void *user);
/* Is any job left, reported or not? */
bool worker_is_busy(const struct worker_pool *pool);
/* Time a verb may take before its worker is killed; for SAVE and RESTORE the time without a moved
 * byte. 0 never. */
uint32_t worker_timeout_ms(const struct worker_verb *verb);

/* The child's side (worker_run.c): does the verb, reports on result_fd. Never returns. */
_Noreturn void worker_run(struct worker_verb *verb, worker_open_fn open, void *open_user,
                          int result_fd, pid_t parent);

#endif
