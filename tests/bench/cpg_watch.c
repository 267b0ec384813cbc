/* SPDX-License-Identifier: Apache-2.0
 *
 * A bare CPG client: joins a group, prints each membership it is told with the moment it learned of
 * it, and does nothing else. What corosync alone needs to notice a loss, beside what hamgr makes of
 * it. One JSON object a line: {"mono_ns":N,"real_ns":N,"members":[ids]}. Ends with corosync.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <corosync/cpg.h>

static uint64_t now_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void on_message(cpg_handle_t handle, const struct cpg_name *group, uint32_t node,
                       uint32_t pid, void *message, size_t size)
{
    (void)handle, (void)group, (void)node, (void)pid, (void)message, (void)size;
}

static void on_members(cpg_handle_t handle, const struct cpg_name *group,
                       const struct cpg_address *members, size_t count,
                       const struct cpg_address *left, size_t left_count,
                       const struct cpg_address *joined, size_t joined_count)
{
    (void)handle, (void)group, (void)left, (void)left_count, (void)joined, (void)joined_count;
    printf("{\"mono_ns\":%" PRIu64 ",\"real_ns\":%" PRIu64 ",\"members\":[",
           now_ns(CLOCK_MONOTONIC), now_ns(CLOCK_REALTIME));
    for (size_t i = 0; i < count; i++) {
        printf("%s%" PRIu32, i == 0 ? "" : ",", members[i].nodeid);
    }
    printf("]}\n");
    fflush(stdout);
}

static bool join(cpg_handle_t *ret_handle)
{
    static cpg_model_v1_data_t model = {
        .model = CPG_MODEL_V1, .cpg_deliver_fn = on_message, .cpg_confchg_fn = on_members};
    struct cpg_name group = {.length = sizeof("hamgr-watch") - 1, .value = "hamgr-watch"};
    if (cpg_model_initialize(ret_handle, CPG_MODEL_V1, (cpg_model_data_t *)&model, NULL) != CS_OK) {
        return false;
    }
    /* TRY_AGAIN lasts as long as a membership forms; 10 s are longer than any token here. */
    for (int attempt = 0; attempt < 1000; attempt++) {
        const struct timespec pause = {.tv_nsec = 10000000};
        cs_error_t error = cpg_join(*ret_handle, &group);
        if (error != CS_ERR_TRY_AGAIN) {
            return error == CS_OK;
        }
        nanosleep(&pause, NULL);
    }
    return false;
}

int main(void)
{
    cpg_handle_t handle;
    struct pollfd ready = {.fd = -1, .events = POLLIN};
    if (!join(&handle) || cpg_fd_get(handle, &ready.fd) != CS_OK) {
        fprintf(stderr, "cpg_watch: can't join\n");
        return 1;
    }
    while (poll(&ready, 1, -1) > 0 || errno == EINTR) {
        if (cpg_dispatch(handle, CS_DISPATCH_ALL) != CS_OK) {
            break;
        }
    }
    return 1;
}
