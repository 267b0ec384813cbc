/* SPDX-License-Identifier: Apache-2.0
 *
 * What the driver and hamgr-guest agree on: files of a domain, descriptors a guest keeps, the pages
 * they share. Both are of the same build; nothing here crosses nodes. hamgr-guest's trusted stage
 * believes `boot` and writes `record`; the workload behind it sees the label page read-only and may
 * scribble over status and console as it likes.
 */
#ifndef HAMGR_HV_EMBEDDED_GUESTABI_H
#define HAMGR_HV_EMBEDDED_GUESTABI_H

#include <stdint.h>

#include "hamgr/base/limits.h"
#include "hamgr/hv/embedded/definition.h"
#include "hamgr/hv/hv.h"

/* Files in run_dir/domains/<domid>. */
#define EMB_FILE_RECORD  "record"
#define EMB_FILE_BOOT    "boot"
#define EMB_FILE_LABEL   "label"
#define EMB_FILE_STATUS  "status"
#define EMB_FILE_CONSOLE "console"
#define EMB_FILE_LOCK    "lock"
#define EMB_FILE_BUSY    "busy"

/* Descriptors hamgr-guest starts with. */
#define EMB_FD_REPORT 3 /* pipe: one struct emb_report */
#define EMB_FD_DOMAIN 4 /* directory of the domain */
#define EMB_FD_RING   5 /* disk ring, or closed */
#define EMB_FD_MARK   6 /* run_dir/domains, to become EMB_FD_DOMAINS once the record names us */
/* Descriptors it keeps. Their numbers are high so that nothing else has them by accident. */
#define EMB_FD_MEMORY  100
#define EMB_FD_UFFD    101
#define EMB_FD_DOMAINS 102 /* run_dir/domains: marks the process as ours even without a record */
#define EMB_FD_BELL    103 /* disk bell, or closed */

#define EMB_PAGE         4096u
#define EMB_PAGE_SHARED  4096u /* bytes of the label and the status file */
#define EMB_COMM         "hamgr-guest"
#define EMB_VERSION      1u
#define EMB_RECORD_MAGIC 0x43524d48u /* "HMRC" */
#define EMB_BOOT_MAGIC   0x54424d48u
#define EMB_LABEL_MAGIC  0x424c4d48u

enum emb_phase {
    EMB_BUILDING = 1, /* not runnable */
    EMB_COMPLETE,     /* running or paused, as the process is */
    EMB_SUSPENDED,
    EMB_DYING, /* being destroyed */
};

enum emb_tracking { EMB_TRACK_NONE = 0, EMB_TRACK_ASYNC = 1, EMB_TRACK_SYNC = 2 };

/* The record. `phase` is overwritten in place (4 bytes); the rest is written once as a whole file
 * and sealed by the checksum: XXH3 of every byte behind the field. */
struct emb_record {
    uint32_t magic;
    uint32_t version;
    uint32_t phase; /* enum emb_phase */
    uint32_t is_restored;
    uint64_t checksum;
    uint32_t domid;
    uint32_t pid;        /* 0: no process yet */
    uint64_t start_time; /* of the process, clock ticks since boot as in /proc/PID/stat */
    struct hv_label label;
    uint64_t memory_address; /* in the guest's process */
    uint64_t memory_size;    /* 0: no process yet */
    uint64_t mem_kib;        /* of the definition */
    uint32_t tracking;       /* enum emb_tracking */
    uint32_t disk;           /* enum emb_disk_kind */
    char name[HA_NAME_MAX];
};

/* Orders to the trusted stage. */
struct emb_boot {
    uint32_t magic;
    uint32_t version;
    struct emb_definition definition;
    uint32_t node_id;
    uint32_t guest_uid;
    uint32_t is_restored;
    uint32_t is_sync_wp;
    char observer_path[256]; /* empty: none */
};

/* How the trusted stage went. */
struct emb_report {
    int32_t code; /* 0: stopped itself behind this, ready; else a positive error code */
    char text[HA_TEXT_MAX - 4];
};

/* Read-only in the guest. */
struct emb_label_page {
    uint32_t magic;
    uint32_t version;
    struct hv_label label;
    uint32_t node_id;
    uint32_t is_restored;
    struct emb_definition definition;
    _Atomic uint32_t is_shutdown_wanted;
    uint32_t reserved[2];
};
_Static_assert(sizeof(struct emb_label_page) <= EMB_PAGE_SHARED, "one page");

enum emb_end { EMB_END_NONE = 0, EMB_END_POWEROFF = 1, EMB_END_REBOOT = 2, EMB_END_CRASH = 3 };

/* Written by the guest. */
struct emb_status_page {
    _Atomic uint32_t end;        /* enum emb_end; a process gone without one has crashed */
    _Atomic uint32_t is_checked; /* its first self-check passed in this process */
    _Atomic uint64_t steps;
    _Atomic uint64_t corrupt;
    _Atomic uint64_t full_checks;
    _Atomic uint64_t arrived_gap_ns; /* a restored copy: BOOTTIME between its last step there and
                                        its first one here */
};

/* The opaque HVM_CONTEXT of a stream: all workload state is in memory, so there is only what says
 * whether this build can continue it. Little-endian. */
#define EMB_CONTEXT_MAGIC UINT64_C(0x58544347524d4148) /* "HAMRGCTX" */
struct emb_context {
    uint64_t magic;
    uint32_t version;
    uint32_t workload_version;
    uint64_t page_count;
    uint64_t reserved[5];
};

#endif
