/* SPDX-License-Identifier: Apache-2.0
 *
 * A watchdog device as the keeper sees it. Drivers: a Linux watchdog device (/dev/watchdog...), and
 * a socket to the process that stands for the device of a node in a namespace ("unix:PATH",
 * fence/WATCHDOG-SOCKET.md). One contract for both: arm, read back W, pet, magic close.
 */
#ifndef FENCE_WATCHDOG_H
#define FENCE_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/err.h"

struct watchdog;

struct watchdog_ops {
    const char *name;
    /* Arms with wanted_ms (1000..3600000) or changes the timeout; *ret_ms is what the device says
     * it will use (the device may round or clamp). Starts the timer anew. */
    int (*arm)(struct watchdog *w, uint32_t wanted_ms, uint32_t *ret_ms, struct ha_err *err);
    /* Never blocks. A pet that can't be delivered is a missed pet: the device is the judge. */
    void (*pet)(struct watchdog *w);
    /* Stops the timer (magic close) and frees. Without this call the timer goes on. */
    int (*disarm)(struct watchdog *w, struct ha_err *err);
    /* Frees without stopping the timer (the process ends). */
    void (*abandon)(struct watchdog *w);
};

struct watchdog {
    const struct watchdog_ops *ops;
};

/* device: a path, or "unix:PATH". A software watchdog is refused unless allow_softdog: it dies with
 * the kernel it should guard. Returns 0 or a negative error that names device and cure. */
int watchdog_open(const char *device, bool allow_softdog, struct watchdog **ret_watchdog,
                  struct ha_err *err);

#endif
