/* SPDX-License-Identifier: Apache-2.0
 *
 * One service of hamgr-init: when to start it, when to try again, when to stop asking nicely.
 * Decisions only: the caller owns clock, fork and kill, so tests drive it with numbers.
 *
 *   DOWN --want--> DUE --started--> UP --exited--> WAIT --time--> DUE
 *    ^                              | unwant         | unwant
 *    |                              v                v
 *    +----------exited---------- ENDING            DOWN
 */
#ifndef HAMGR_INIT_SERVICE_H
#define HAMGR_INIT_SERVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Restart back-off: 100 ms doubled at each failure to 5 s (100, 200, ... 3200, 5000: a program that
 * can't start costs 12 forks a minute), forgotten after 10 s up, twice the longest wait. */
#define SERVICE_WAIT_MIN_MS 100u
#define SERVICE_WAIT_MAX_MS 5000u
#define SERVICE_STEADY_MS   10000u
/* SIGTERM to SIGKILL: what a store's longest expected fsync stall (10 s) needs. */
#define SERVICE_GRACE_MS 10000u

enum service_state { SERVICE_DOWN, SERVICE_DUE, SERVICE_UP, SERVICE_ENDING, SERVICE_WAIT };

struct service {
    enum service_state state;
    pid_t pid;            /* UP, ENDING */
    uint32_t wait_ms;     /* next back-off */
    uint64_t since_ms;    /* when UP began */
    uint64_t deadline_ms; /* WAIT: start again; ENDING: SIGKILL (UINT64_MAX once sent) */
    uint32_t starts;
};

/* What the caller has to do now. */
enum service_act { SERVICE_NOTHING, SERVICE_START, SERVICE_TERM, SERVICE_KILL };

void service_init(struct service *s);
/* Wanted: DOWN becomes DUE. A service that waits is due at once. */
void service_want(struct service *s);
/* No longer wanted. Returns SERVICE_TERM if its process must be told. */
enum service_act service_unwant(struct service *s, uint64_t now_ms);
/* The fork was done (pid > 0) or failed (pid <= 0: tried again after the back-off). */
void service_started(struct service *s, pid_t pid, uint64_t now_ms);
/* Its process was reaped. */
void service_exited(struct service *s, uint64_t now_ms);
/* What is due now: SERVICE_START, SERVICE_KILL or nothing. */
enum service_act service_due(struct service *s, uint64_t now_ms);
/* Milliseconds until something may be due; -1 = nothing planned. */
int service_timeout_ms(const struct service *s, uint64_t now_ms);
const char *service_state_name(enum service_state state);

#endif
