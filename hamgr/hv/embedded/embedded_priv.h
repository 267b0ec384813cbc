/* SPDX-License-Identifier: Apache-2.0
 *
 * What the driver's files share: the handle, and a domain while a verb works on it.
 */
#ifndef HAMGR_HV_EMBEDDED_EMBEDDED_PRIV_H
#define HAMGR_HV_EMBEDDED_EMBEDDED_PRIV_H

#include <sys/types.h>

#include "hamgr/hv/embedded/embedded.h"
#include "hamgr/hv/embedded/guestabi.h"
#include "hamgr/hv/embedded/track.h"

#define EMB_PATH_MAX 256u
/* Domids with this bit are unidentified processes: the rest is the pid. */
#define EMB_UNKNOWN_BIT 0x80000000u

/* A stopped guest that has a processor stops within microseconds; on a crowded node it first waits
 * for its turn, which the scheduler gives within a few of its periods (3 ms each per runnable task
 * and processor). The gate may not wait longer than this for one guest. */
#define EMB_PAUSE_MS 50u
/* A worker may wait for a crowded machine. */
#define EMB_STOP_MS 2000u
/* `run` meets a worker's lock: short verbs hold it for less than a millisecond, a save's stopped
 * phase longer, and then the answer is no. */
#define EMB_RUN_LOCK_MS  20u
#define EMB_WORK_LOCK_MS 2000u
/* Another save is no reason to wait; a killed one's keeper of the faults is: it lifts the
 * protection of 64 GiB in less than this and lets go. */
#define EMB_BUSY_MS 1000u
/* A killed process of n GiB frees its memory at some GiB/s: 64 GiB in less than this. */
#define EMB_GONE_MS 20000u
/* The backend answers a write when storage has it: as long as hamgrd waits for drains (10 s). */
#define EMB_DISK_MS 10000u

struct emb_watch {
    uint32_t domid;
    int pidfd;
    bool is_seen;
};

struct emb_promise {
    struct hv_label label;
    uint64_t mem_kib;
};

struct hv_embedded {
    struct hv hv;
    char run_dir[EMB_PATH_MAX];
    char guest_binary[EMB_PATH_MAX];
    char observer_path[EMB_PATH_MAX];
    char disk_dir[EMB_PATH_MAX];
    uint64_t mem_kib;
    uint32_t node_id;
    uid_t guest_uid;
    bool is_sync_wp;
    enum emb_tracking tracking;
    int run_fd;     /* directory run_dir */
    int domains_fd; /* directory run_dir/domains */
    dev_t domains_dev;
    ino_t domains_ino;
    int epoll_fd;              /* -1 until event_fd was asked for */
    struct emb_watch *watches; /* sorted by domid */
    uint32_t watch_count;
    struct emb_promise *promises;
    uint32_t promise_count;
    struct hv_domain *scratch; /* HA_GUESTS_MAX, for counting memory */
    uint32_t *pids;            /* HA_GUESTS_MAX: processes the last listing could name */
    uint32_t pid_count;
    /* Undoing the mapping of a large guest takes milliseconds its pause should not have: a save or
     * restore leaves it to the next worker verb or close. */
    void *kept_memory;
    uint64_t kept_size;
    pid_t kept_child; /* to be waited for, or 0 */
};

struct emb_domain {
    int dir_fd;
    int pidfd;       /* -1: the process is not there (any more) */
    char proc_state; /* of its main thread when the domain was opened */
    struct emb_record record;
};

static inline struct hv_embedded *emb_of(struct hv *hv)
{
    return (struct hv_embedded *)hv;
}

/* Opens a labelled domain; close with emb_domain_close. -HA_E_NOT_FOUND if there is none. */
int emb_domain_open(struct hv_embedded *e, uint32_t domid, struct emb_domain *ret,
                    struct ha_err *err);
void emb_domain_close(struct emb_domain *d);
/* The same for a worker verb that needs a living process in phase COMPLETE or SUSPENDED. */
int emb_domain_open_alive(struct hv_embedded *e, uint32_t domid, struct emb_domain *ret,
                          struct ha_err *err);
/* Takes the flock of a file in the domain's directory; the fd holds it. -HA_E_TIMEOUT if another
 * has it for longer than timeout_ms. */
int emb_domain_lock(const struct emb_domain *d, const char *file, uint32_t timeout_ms,
                    struct ha_err *err);
/* Reads the phase anew, under the lock. */
int emb_domain_reread(struct emb_domain *d, struct ha_err *err);
/* Under the lock: stops the process and proves it. 0, -HA_E_NOT_FOUND (it has ended) or
 * -HA_E_TIMEOUT. */
int emb_domain_stop(const struct emb_domain *d, uint32_t timeout_ms, struct ha_err *err);
/* What the process and the phase make of a domain. */
enum hv_domain_state emb_domain_state(const struct emb_domain *d);
/* Overwrites one word of the label page (offset within struct emb_label_page). */
int emb_label_set(const struct emb_domain *d, size_t offset, uint32_t value, struct ha_err *err);
/* Is I/O of the stopped domain outstanding? */
enum hv_quiet emb_domain_quiet(struct hv_embedded *e, const struct emb_domain *d,
                               char ret_why[HA_TEXT_MAX]);
/* Maps the guest's memory into this process, populated. */
int emb_domain_map(const struct emb_domain *d, bool is_writable, void **ret_memory,
                   struct ha_err *err);
/* Lets go of what the last save or restore kept. */
void emb_release_kept(struct hv_embedded *e);

/* Builds a domain up to a stopped, not yet complete process (build.c). On failure nothing is left,
 * or HV_UNKNOWN. */
enum hv_outcome emb_build(struct hv_embedded *e, const struct hv_label *label, const char *name,
                          const uint8_t *definition, size_t size, bool is_restored,
                          struct emb_domain *ret, struct ha_err *err);
/* BUILDING -> COMPLETE. */
int emb_build_finish(struct emb_domain *d, struct ha_err *err);
/* Kills, waits, closes the disk, removes the directory; closes d. */
enum hv_outcome emb_remove(struct hv_embedded *e, struct emb_domain *d, struct ha_err *err);

/* The verbs of other files. */
enum hv_outcome emb_create(struct hv *hv, const struct hv_label *label, const char *name,
                           const uint8_t *definition, size_t size, struct ha_err *err);
enum hv_outcome emb_shutdown(struct hv *hv, uint32_t domid, uint32_t timeout_ms,
                             struct ha_err *err);
enum hv_outcome emb_destroy(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome emb_suspend(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome emb_drain(struct hv *hv, uint32_t domid, uint32_t timeout_ms, struct ha_err *err);
enum hv_outcome emb_save(struct hv *hv, uint32_t domid, const struct hv_save_params *params,
                         hv_progress_fn progress, void *user, struct ha_err *err);
enum hv_outcome emb_restore(struct hv *hv, const struct hv_label *label, const char *name,
                            const uint8_t *definition, size_t size, int fd, int ring_fd,
                            hv_progress_fn progress, void *user, uint32_t *ret_domid,
                            struct ha_err *err);
enum hv_outcome emb_resume_prepare(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome emb_dirty_sample(struct hv *hv, uint32_t domid, uint32_t sample_ms,
                                 uint64_t *ret_pages_s, struct ha_err *err);
enum hv_outcome emb_log_dirty_off(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome emb_checkpoint(struct hv *hv, uint32_t domid, int fd, struct ha_err *err);
/* Gate verbs (gateverbs.c, inventory.c). */
int emb_list(struct hv *hv, struct hv_domain *ret_domains, uint32_t capacity);
enum hv_outcome emb_run(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome emb_pause(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_quiet emb_quiet(struct hv *hv, uint32_t domid, char ret_why[HA_TEXT_MAX]);
enum hv_outcome emb_throttle(struct hv *hv, uint32_t domid, uint32_t percent, struct ha_err *err);
int emb_event_fd(struct hv *hv);
void emb_event_clear(struct hv *hv);
enum hv_outcome emb_reserve(struct hv *hv, const struct hv_label *label, uint64_t mem_kib,
                            struct ha_err *err);
void emb_release(struct hv *hv, const struct hv_label *label);
/* The labelled part of a listing. */
int emb_list_records(struct hv_embedded *e, struct hv_domain *ret, uint32_t capacity);
/* Memory for guests that neither a domain listed nor a promise of this handle holds, but for those
 * of label `except`. */
uint64_t emb_free_kib(const struct hv_embedded *e, const struct hv_domain *domains, int count,
                      const struct hv_label *except);
void emb_watches_close(struct hv_embedded *e);
/* Does the process carry the mark of this run_dir's guests? */
bool emb_is_marked(const struct hv_embedded *e, uint32_t pid);
static inline bool emb_label_equal(const struct hv_label *a, const struct hv_label *b)
{
    return ha_uuid_equal(a->cluster_id, b->cluster_id) && a->generation == b->generation &&
           ha_uuid_equal(a->guest, b->guest) && a->epoch == b->epoch;
}

#endif
