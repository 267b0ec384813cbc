/* SPDX-License-Identifier: Apache-2.0
 *
 * The embedded hypervisor: a guest is a process (hamgr-guest) whose whole state lives in a memfd.
 * The driver pauses it with SIGSTOP and reads the proof in /proc, tracks its dirty pages through
 * the kernel (userfaultfd write-protect), and reads and fills its memory from outside. It never
 * asks the workload for anything but to shut down and to respect a throttle. GUEST.md describes
 * definitions and workload, observer.h what an outside observer sees, disk.h the disk ring.
 *
 * Any number of processes of a node (the gate, its workers) open the same run_dir at the same time.
 * All they share is below run_dir/domains/<domid>/, on a file system that forgets at power-off:
 *   record   who the domain is (label, pid + start time, phase); only these bytes prove identity
 *   label    page the guest reads: node, epoch, shutdown request, throttle
 *   status   page the guest writes: how it ended. It can lie only about its own end
 *   console  ring of text the guest writes (struct hv_console)
 *   lock, busy  flock files: run against suspend, and one save or sample at a time
 *
 * Threads: one struct hv belongs to one thread. Different handles and processes may run in
 * parallel.
 */
#ifndef HAMGR_HV_EMBEDDED_EMBEDDED_H
#define HAMGR_HV_EMBEDDED_EMBEDDED_H

#include <sys/types.h>

#include "hamgr/hv/hv.h"

/* Read by hv_embedded_options_from_env, all optional. */
#define HV_EMBEDDED_ENV_NODE     "HAMGR_NODE_ID"       /* 1..255: this node in the observer page */
#define HV_EMBEDDED_ENV_OBSERVER "HAMGR_OBSERVER"      /* path; default HV_OBSERVER_PATH */
#define HV_EMBEDDED_ENV_MEM_MIB  "HAMGR_GUEST_MEM_MIB" /* memory for guests; default half of all */
#define HV_EMBEDDED_ENV_UID      "HAMGR_GUEST_UID"     /* guests run as this uid and gid */
#define HV_EMBEDDED_ENV_SYNC     "HAMGR_HV_SYNC_WP" /* 1: dirty tracking as on kernels before 6.7 */
#define HV_EMBEDDED_ENV_DISKS    "HAMGR_DISK_DIR"   /* path; default EMB_DISK_DIR of disk.h */

struct hv_embedded_options {
    const char *run_dir;       /* absolute; made if absent (its parent must exist) */
    const char *guest_binary;  /* absolute path of hamgr-guest */
    const char *observer_path; /* NULL: HV_OBSERVER_PATH. A file that does not exist: no observer */
    const char *disk_dir;      /* NULL: EMB_DISK_DIR */
    uint64_t mem_kib;          /* memory for guests; 0: half of the machine's */
    uint32_t node_id;          /* 0..255, only for the observer */
    uid_t guest_uid; /* 0: guests stay root (without any capability that matters: seccomp) */
    bool is_sync_wp; /* never use the kernel's asynchronous write-protect */
};

/* Fills what the environment says, the rest with defaults; strings are borrowed from it. */
void hv_embedded_options_from_env(struct hv_embedded_options *ret_options);

/* Opens the driver. Copies the options. NULL and err if run_dir or the guest binary is unusable. */
struct hv *hv_embedded_open_with(const struct hv_embedded_options *options, struct ha_err *err);
/* The same with options from the environment. Close with hv->ops->close. */
struct hv *hv_embedded_open(const char *run_dir, const char *guest_binary, struct ha_err *err);

/* What a worker must know about save: the worker never makes a guest runnable, not even again. When
 * save fails in the live phase the guest was never stopped. When it fails in the stopped phase (or
 * the worker is killed there) the domain is left PAUSED, complete and not SUSPENDED: the gate's
 * `run` continues it, after asking the lease. Killed while the very end of the stream goes out, it
 * is SUSPENDED: resume_prepare (harmless on a PAUSED domain), then `run`. While a save is in its
 * stopped phase `run` answers HV_FAILED, so that nothing changes under the last pages. A save that
 * was killed leaves dirty tracking on until log_dirty_off; the guest runs meanwhile, only slower.
 */

/* The ring a guest writes its console lines to: file run_dir/domains/<domid>/console. */
#define HV_CONSOLE_MAGIC UINT64_C(0x314e4f43524d4148) /* "HAMRCON1" */
#define HV_CONSOLE_DATA  (16384u - 64u)
struct hv_console {
    uint64_t magic;
    _Atomic uint64_t written; /* bytes ever written; byte n is at data[n % HV_CONSOLE_DATA] */
    uint8_t reserved[48];
    char data[HV_CONSOLE_DATA];
};

/* Copies the newest console text of domid into ret_text[capacity] with a NUL, whole lines where
 * possible; unprintable bytes become '?'. Returns the length or a negative error. */
int hv_embedded_console(struct hv *hv, uint32_t domid, char *ret_text, size_t capacity);

/* How dirty pages are tracked on this kernel with these options: static text for logs. */
const char *hv_embedded_tracking(struct hv *hv);

#endif
