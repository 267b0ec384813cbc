/* SPDX-License-Identifier: Apache-2.0
 *
 * Start, back-off and stop of one service, as decisions.
 */
#include "hamgr/init/service.h"

#include <limits.h>

void service_init(struct service *s)
{
    *s = (struct service){.state = SERVICE_DOWN, .wait_ms = SERVICE_WAIT_MIN_MS};
}

void service_want(struct service *s)
{
    if (s->state == SERVICE_DOWN || s->state == SERVICE_WAIT) {
        s->state = SERVICE_DUE;
        s->wait_ms = SERVICE_WAIT_MIN_MS;
    }
}

enum service_act service_unwant(struct service *s, uint64_t now_ms)
{
    switch (s->state) {
    case SERVICE_UP:
        s->state = SERVICE_ENDING;
        s->deadline_ms = now_ms + SERVICE_GRACE_MS;
        return SERVICE_TERM;
    case SERVICE_DUE:
    case SERVICE_WAIT:
        s->state = SERVICE_DOWN;
        return SERVICE_NOTHING;
    case SERVICE_DOWN:
    case SERVICE_ENDING:
        break;
    }
    return SERVICE_NOTHING;
}

static void wait_longer(struct service *s, uint64_t now_ms)
{
    s->state = SERVICE_WAIT;
    s->deadline_ms = now_ms + s->wait_ms;
    s->wait_ms = s->wait_ms * 2 > SERVICE_WAIT_MAX_MS ? SERVICE_WAIT_MAX_MS : s->wait_ms * 2;
}

void service_started(struct service *s, pid_t pid, uint64_t now_ms)
{
    s->starts++;
    if (pid <= 0) {
        wait_longer(s, now_ms);
        return;
    }
    s->state = SERVICE_UP;
    s->pid = pid;
    s->since_ms = now_ms;
}

void service_exited(struct service *s, uint64_t now_ms)
{
    s->pid = 0;
    if (s->state == SERVICE_ENDING) {
        s->state = SERVICE_DOWN;
        return;
    }
    if (now_ms - s->since_ms >= SERVICE_STEADY_MS) {
        s->wait_ms = SERVICE_WAIT_MIN_MS;
    }
    wait_longer(s, now_ms);
}

enum service_act service_due(struct service *s, uint64_t now_ms)
{
    if (s->state == SERVICE_WAIT && now_ms >= s->deadline_ms) {
        s->state = SERVICE_DUE;
    }
    if (s->state == SERVICE_DUE) {
        return SERVICE_START;
    }
    if (s->state == SERVICE_ENDING && now_ms >= s->deadline_ms) {
        s->deadline_ms = UINT64_MAX;
        return SERVICE_KILL;
    }
    return SERVICE_NOTHING;
}

int service_timeout_ms(const struct service *s, uint64_t now_ms)
{
    switch (s->state) {
    case SERVICE_DUE:
        return 0;
    case SERVICE_WAIT:
    case SERVICE_ENDING:
        if (s->deadline_ms == UINT64_MAX) {
            return -1;
        }
        if (s->deadline_ms <= now_ms) {
            return 0;
        }
        return s->deadline_ms - now_ms > INT_MAX ? INT_MAX : (int)(s->deadline_ms - now_ms);
    case SERVICE_DOWN:
    case SERVICE_UP:
        break;
    }
    return -1;
}

const char *service_state_name(enum service_state state)
{
    switch (state) {
    case SERVICE_DOWN:
        return "down";
    case SERVICE_DUE:
        return "due";
    case SERVICE_UP:
        return "up";
    case SERVICE_ENDING:
        return "ending";
    case SERVICE_WAIT:
        return "waiting";
    }
    return "?";
}
