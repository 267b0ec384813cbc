/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs one program of the fence-agents API (ClusterLabs fence-agents, doc/FenceAgentAPI.md) on the
 * loop: options on standard input, nothing in argv or environment, output bounded, a process group
 * of its own that is killed when its time is up.
 */
#ifndef FENCE_AGENT_H
#define FENCE_AGENT_H

#include <qb/qbloop.h>

#include "hamgr/base/err.h"

#define AGENT_OUTPUT_MAX 4096u

/* Exit codes that mean something to us; every other is a failure that proves nothing. */
#define AGENT_EXIT_OK  0
#define AGENT_EXIT_OFF 2 /* of `status`: the plug is off */

struct agent_result {
    bool is_timeout;
    bool is_signalled;
    int code;                      /* exit code, or the signal's number */
    char output[AGENT_OUTPUT_MAX]; /* the first bytes of stdout and stderr, NUL-ended */
};

struct agent;
typedef void (*agent_done_fn)(void *user, const struct agent_result *result);

/* Starts directory/name with input (copied, wiped after use). done is called exactly once, from the
 * loop, unless agent_kill came first. name must be a base name starting with "fence_". Returns 0 or
 * a negative error (then done is not called). */
int agent_start(qb_loop_t *loop, const char *directory, const char *name, const char *input,
                size_t input_size, uint32_t timeout_ms, agent_done_fn done, void *user,
                struct agent **ret_agent, struct ha_err *err);
/* Kills the process group and frees; done is not called any more. */
void agent_kill(struct agent *agent);
/* To be called on SIGCHLD: reaps agents. */
void agent_reap(void);

#endif
