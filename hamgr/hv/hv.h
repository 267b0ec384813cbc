/* SPDX-License-Identifier: Apache-2.0
 *
 * The hypervisor seam. hamgr-hv drives exactly one driver through this table; the contract suite
 * (tests/contract) runs against every driver. All members are mandatory; what a hypervisor can't do
 * answers HV_NOT_OFFERED, and the suite checks that too.
 *
 * Two kinds of verbs. Gate verbs run in the gate process, by direct calls, must return within
 * milliseconds and can't hang on another service. Worker verbs run in a process of their own, may
 * take minutes, may be killed at any moment, and leave every domain paused by the controller: only
 * the gate's `run` makes a guest runnable.
 *
 * Outcome: HV_OK = it happened. HV_FAILED = proven not to have happened. HV_UNKNOWN = neither can
 * be said; the caller treats the guest as still running (I9).
 */
#ifndef HAMGR_HV_HV_H
#define HAMGR_HV_HV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "hamgr/base/id.h"
#include "hamgr/base/limits.h"

enum hv_outcome { HV_OK = 0, HV_FAILED = 1, HV_UNKNOWN = 2, HV_NOT_OFFERED = 3 };

/* Carried by a domain from its creation, never changed. */
struct hv_label {
    struct ha_uuid cluster_id;
    uint64_t generation;
    struct ha_uuid guest;
    uint64_t epoch;
};

enum hv_domain_state {
    HV_BUILDING = 1, /* a worker is making or restoring it; not runnable */
    HV_PAUSED,       /* complete, paused by the controller */
    HV_RUNNING,      /* runnable */
    HV_SUSPENDED,    /* suspended for migration: resumed only by resume_prepare + run */
    HV_POWEROFF,     /* ended by itself; still listed until destroyed */
    HV_REBOOT,
    HV_CRASHED,
};

struct hv_domain {
    uint32_t domid;   /* driver's handle, unique on this node until reboot */
    bool is_labelled; /* false: not ours or not identifiable; paused with the rest at expiry */
    struct hv_label label;
    uint8_t state; /* enum hv_domain_state */
    uint64_t mem_kib;
    uint32_t pause_us; /* RUNNING, came by a restore: the pause its own clock saw; 0 = not known */
    char name[HA_NAME_MAX];
};

/* Capabilities, fixed for a boot. */
struct hv_caps {
    char driver[16]; /* "embedded", "xen" */
    char version[64];
    uint64_t mem_kib; /* memory for guests */
    bool has_live_migration;
    bool has_throttle;
    bool has_checkpoint;
    bool has_ring_feed;    /* saves through the shared-memory ring (T1) */
    bool has_ring_restore; /* restores through it */
    uint32_t plain_ms; /* when a verb without guest memory hangs for good; 0 = 30 s. Of this node:
                        * not told to others */
};

enum hv_quiet { HV_QUIET = 1, HV_BUSY = 2, HV_NEVER_QUIET = 3 };

/* Progress of a save or restore, cumulative. */
struct hv_progress {
    uint32_t round; /* 0 = full pass */
    uint64_t pages_total;
    uint64_t pages_sent;      /* in this round */
    uint64_t pages_dirty;     /* found for the next round */
    uint64_t bytes;           /* native stream bytes so far */
    uint32_t dirty_kib_s;     /* measured dirty rate */
    uint8_t phase;            /* enum hv_progress_phase */
    uint32_t predicted_us;    /* pause if it were stopped now; 0 = not known */
    uint8_t throttle_percent; /* 100 = not slowed down; 0 = not told */
};

enum hv_progress_phase { HV_LIVE = 1, HV_STOPPED = 2, HV_COMPLETE = 3 };

struct hv_save_params {
    int fd; /* borrowed: blocking stream end the native stream goes to */
    /* Borrowed: memfd of a ring (STREAM.md, section 6) that may be used for pages by a driver that
     * has_ring_feed; 0 or less: none. */
    int ring_fd;
    bool is_live;
    uint32_t max_downtime_ms;
    uint32_t deadline_ms; /* 0 = none */
    uint8_t on_slow;      /* enum hv_on_slow, when max_downtime can't be met by the deadline */
    uint32_t switch_us; /* of the pause: what comes behind the stream's end, until it runs again */
};

enum hv_on_slow { HV_SLOW_THROTTLE = 1, HV_SLOW_PAUSE = 2, HV_SLOW_ABORT = 3 };

typedef void (*hv_progress_fn)(void *user, const struct hv_progress *progress);

struct hv;
struct ha_facts; /* hamgr/doctor/facts.h */

struct hv_ops {
    const char *name;

    /* Gate verbs. */
    int (*caps)(struct hv *hv, struct hv_caps *ret_caps);
    /* Fresh listing; fills at most capacity, returns the count or a negative error. */
    int (*list)(struct hv *hv, struct hv_domain *ret_domains, uint32_t capacity);
    /* Makes a PAUSED (or resume-prepared) domain runnable. The caller has checked the gate. */
    enum hv_outcome (*run)(struct hv *hv, uint32_t domid, struct ha_err *err);
    /* Stops all vCPUs; HV_OK only after they are seen stopped. Idempotent. */
    enum hv_outcome (*pause)(struct hv *hv, uint32_t domid, struct ha_err *err);
    /* Is any I/O of this paused or suspended domain outstanding in this node? */
    enum hv_quiet (*quiet)(struct hv *hv, uint32_t domid, char ret_why[HA_TEXT_MAX]);
    /* Caps the vCPU share in percent (100 = off). */
    enum hv_outcome (*throttle)(struct hv *hv, uint32_t domid, uint32_t percent,
                                struct ha_err *err);
    /* Becomes readable when a domain may have changed state by itself; -1 = poll list. */
    int (*event_fd)(struct hv *hv);
    /* Drains event_fd. */
    void (*event_clear)(struct hv *hv);

    /* Memory promises, checked against what is really free. Called by the gate. */
    enum hv_outcome (*reserve)(struct hv *hv, const struct hv_label *label, uint64_t mem_kib,
                               struct ha_err *err);
    void (*release)(struct hv *hv, const struct hv_label *label);

    /* Worker verbs. */
    /* Creates a domain from its definition, complete and paused. */
    enum hv_outcome (*create)(struct hv *hv, const struct hv_label *label, const char *name,
                              const uint8_t *definition, size_t size, struct ha_err *err);
    /* Asks the guest to shut down; HV_OK when it has ended (state POWEROFF), within timeout_ms. */
    enum hv_outcome (*shutdown)(struct hv *hv, uint32_t domid, uint32_t timeout_ms,
                                struct ha_err *err);
    /* Removes the domain; HV_OK only when it is gone and its I/O ended. Idempotent. */
    enum hv_outcome (*destroy)(struct hv *hv, uint32_t domid, struct ha_err *err);
    /* RUNNING or PAUSED -> SUSPENDED (guest state complete in memory). */
    enum hv_outcome (*suspend)(struct hv *hv, uint32_t domid, struct ha_err *err);
    /* Waits until a SUSPENDED domain has no I/O outstanding, at most timeout_ms. */
    enum hv_outcome (*drain)(struct hv *hv, uint32_t domid, uint32_t timeout_ms,
                             struct ha_err *err);
    /* Streams the domain; live: pre-copy, then suspends it. HV_OK = stream complete and domain
     * SUSPENDED. HV_FAILED = the domain is as before (running if it ran), log-dirty is off. */
    enum hv_outcome (*save)(struct hv *hv, uint32_t domid, const struct hv_save_params *params,
                            hv_progress_fn progress, void *user, struct ha_err *err);
    /* Builds a domain from a native stream on fd, complete and paused; domid in *ret_domid. ring_fd
     * (borrowed): memfd of a ring (STREAM.md, section 6) that pages and their markers come through,
     * only for a driver that has_ring_restore; 0 or less: none. */
    enum hv_outcome (*restore)(struct hv *hv, const struct hv_label *label, const char *name,
                               const uint8_t *definition, size_t size, int fd, int ring_fd,
                               hv_progress_fn progress, void *user, uint32_t *ret_domid,
                               struct ha_err *err);
    /* SUSPENDED -> PAUSED on the source after ABORT or REVERT; `run` then continues it. */
    enum hv_outcome (*resume_prepare)(struct hv *hv, uint32_t domid, struct ha_err *err);
    /* Dirty pages per second over sample_ms, without moving anything. */
    enum hv_outcome (*dirty_sample)(struct hv *hv, uint32_t domid, uint32_t sample_ms,
                                    uint64_t *ret_pages_s, struct ha_err *err);
    /* Switches dirty tracking off (also what a killed worker left behind). Idempotent. */
    enum hv_outcome (*log_dirty_off)(struct hv *hv, uint32_t domid, struct ha_err *err);
    /* Adds what the hypervisor tells about itself, for doctor. What it does not is left unknown. */
    void (*tell)(struct hv *hv, struct ha_facts *facts);
    /* Continuous replication; HV_NOT_OFFERED until a driver has it. */
    enum hv_outcome (*checkpoint)(struct hv *hv, uint32_t domid, int fd, struct ha_err *err);

    void (*close)(struct hv *hv);
};

/* A driver embeds this first. */
struct hv {
    const struct hv_ops *ops;
};

/* outcome.c, for drivers: sets err (which may be NULL) and returns HV_FAILED or HV_UNKNOWN. */
enum hv_outcome hv_failed(struct ha_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
enum hv_outcome hv_unknown(struct ha_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
