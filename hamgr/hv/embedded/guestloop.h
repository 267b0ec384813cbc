/* SPDX-License-Identifier: Apache-2.0
 *
 * The guest's own time: steps, boot, self-checks, console, disk and observer around the pure
 * workload. It runs behind the seccomp filter and uses no system call but clock_nanosleep,
 * clock_gettime, one-byte writes to the disk's bell, and exit.
 */
#ifndef HAMGR_HV_EMBEDDED_GUESTLOOP_H
#define HAMGR_HV_EMBEDDED_GUESTLOOP_H

#include <stdbool.h>

#include "hamgr/hv/embedded/embedded.h"
#include "hamgr/hv/embedded/guestabi.h"
#include "hamgr/hv/embedded/observer.h"
#include "hamgr/hv/embedded/workload.h"

struct guest {
    const struct emb_label_page *label;
    struct emb_status_page *status;
    struct hv_console *console;    /* NULL: none */
    struct hv_observer_slot *slot; /* NULL: unobserved */
    struct emb_disk_ring *ring;    /* NULL: no disk */
    void *memory;
    uint64_t page_count;
    struct wl wl;

    /* Of this process, not of the guest: a new process starts with zeros. */
    bool is_stepped;
    bool is_checked;
    uint64_t check_next;            /* data page the first self-check goes on with */
    struct hv_observer_copy *entry; /* this copy's line of history */
};

/* Lets the guest run until it ends; the process ends with it. */
_Noreturn void guest_loop(struct guest *g);

#endif
