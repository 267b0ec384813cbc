/* SPDX-License-Identifier: Apache-2.0
 *
 * What the driver's files share: the handle, domains as the hypervisor shows them, libxl behind a
 * few functions (lx.c is the only file that knows how libxl's operations are waited for).
 */
#ifndef HAMGR_HV_XEN_XEN_PRIV_H
#define HAMGR_HV_XEN_XEN_PRIV_H

#include <xenctrl.h> /* first: it says that tools' parts of Xen's headers are wanted */

#include <libxl.h>
#include <libxl_event.h>
#include <xengnttab.h>

#include "hamgr/hv/xen/record.h"
#include "hamgr/hv/xen/standin.h"
#include "hamgr/hv/xen/xen.h"

#define XEN_PATH_MAX 128u
#define PAGE_KIB     4u
/* A domain in destruction is gone when its pages are: freeing takes some 100 ms per GiB, and the
 * backends must have ended their I/O. 64 GiB in less than this. */
#define GONE_MS 20000u

struct lx; /* libxl, opened by the first worker verb */

struct xen_promise {
    struct hv_label label;
    uint64_t mem_kib;
};

struct hv_xen {
    struct hv hv;
    char allow_path[XEN_PATH_MAX];
    char helper[XEN_PATH_MAX]; /* as hv_xen_options.helper; empty: libxl's own */
    bool is_helper_tried, has_helper;
    bool is_verifying; /* as hv_xen_options.is_verifying */
    int dir_fd;        /* the records */
    xc_interface *xc;
    char version[64];
    uint64_t mem_kib; /* for guests */
    bool has_shadow;
    bool has_hap;
    struct xen_promise *promises; /* HA_GUESTS_MAX */
    uint32_t promise_count;
    struct xs_client *xs;
    xengnttab_handle *gnttab; /* for rings, opened when first needed */
    struct lx *lx;
};

static inline struct hv_xen *xen_of(struct hv *hv)
{
    return (struct hv_xen *)hv;
}

/* ---- look.c: what is there ---- */

struct xen_look {
    uint32_t domid;
    struct xen_facts facts;
    bool is_ours; /* the record is the domain's */
    struct xen_record record;
    struct ha_uuid handle;
    uint64_t tot_kib, max_kib, outstanding_kib;
    enum hv_domain_state state;
};

/* 1: there it is; 0: there is no such domain; negative: the hypervisor did not say. */
int xen_look_at(struct hv_xen *x, uint32_t domid, struct xen_look *ret);
/* The same for a verb: one of ours, or err says why not. */
bool xen_look_ours(struct hv_xen *x, uint32_t domid, struct xen_look *ret, struct ha_err *err);
/* All domains but dom0 and xenstore's, each given to visit; a negative error or 0. */
int xen_look_all(struct hv_xen *x, void (*visit)(void *user, const struct xen_look *look),
                 void *user);
uint64_t xen_now_ms(void);

/* ---- verbs of the gate ---- */
int xen_caps(struct hv *hv, struct hv_caps *ret_caps);
/* told.c: for doctor */
void xen_tell(struct hv *hv, struct ha_facts *facts);
int xen_list(struct hv *hv, struct hv_domain *ret_domains, uint32_t capacity);
enum hv_outcome xen_run(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome xen_pause(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_quiet xen_quiet(struct hv *hv, uint32_t domid, char ret_why[HA_TEXT_MAX]);
enum hv_outcome xen_throttle(struct hv *hv, uint32_t domid, uint32_t percent, struct ha_err *err);
enum hv_outcome xen_reserve(struct hv *hv, const struct hv_label *label, uint64_t mem_kib,
                            struct ha_err *err);
void xen_release(struct hv *hv, const struct hv_label *label);
/* Pauses one that is there; as the verb. */
enum hv_outcome xen_pause_now(struct hv_xen *x, uint32_t domid, struct ha_err *err);
/* Sets the scheduler's cap, percent of one processor, 0 = none. 0 or a negative error. */
int xen_set_cap(struct hv_xen *x, uint32_t domid, uint16_t cap, struct ha_err *err);

/* ---- verbs of workers ---- */
enum hv_outcome xen_create(struct hv *hv, const struct hv_label *label, const char *name,
                           const uint8_t *definition, size_t size, struct ha_err *err);
enum hv_outcome xen_restore(struct hv *hv, const struct hv_label *label, const char *name,
                            const uint8_t *definition, size_t size, int fd, int ring_fd,
                            hv_progress_fn progress, void *user, uint32_t *ret_domid,
                            struct ha_err *err);
enum hv_outcome xen_shutdown(struct hv *hv, uint32_t domid, uint32_t timeout_ms,
                             struct ha_err *err);
enum hv_outcome xen_destroy(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome xen_suspend(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome xen_drain(struct hv *hv, uint32_t domid, uint32_t timeout_ms, struct ha_err *err);
enum hv_outcome xen_save(struct hv *hv, uint32_t domid, const struct hv_save_params *params,
                         hv_progress_fn progress, void *user, struct ha_err *err);
enum hv_outcome xen_resume_prepare(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome xen_dirty_sample(struct hv *hv, uint32_t domid, uint32_t sample_ms,
                                 uint64_t *ret_pages_s, struct ha_err *err);
enum hv_outcome xen_log_dirty_off(struct hv *hv, uint32_t domid, struct ha_err *err);
enum hv_outcome xen_checkpoint(struct hv *hv, uint32_t domid, int fd, struct ha_err *err);

/* ---- lx.c ---- */

/* Opens libxl once per handle. May hang with xenstored: only in workers. */
struct lx *xen_lx(struct hv_xen *x, struct ha_err *err);
void xen_lx_close(struct lx *lx);
libxl_ctx *lx_ctx(struct lx *lx);

/* An operation of libxl while it goes on. */
struct lx_op {
    struct lx *lx;
    libxl_asyncop_how how;
    bool is_done;
    int rc;
    hv_progress_fn progress; /* of a save or restore; may be NULL */
    void *user;
    struct stand_in *stand_in; /* of a save or restore: what libxl has for its stream */
    struct hv_progress now;
    bool is_told_otherwise; /* `now` is filled by tick, not by what libxl logs; then wake_fd, when
                               readable (-1: never), calls for a tick at once */
    int wake_fd;
    bool is_calm;          /* ticks may be rare */
    uint64_t pages_before; /* sent in earlier rounds */
    uint64_t told_ms;
    uint8_t told_phase;
};

/* Prepares; &op->how is given to the libxl call. */
void lx_begin(struct lx *lx, struct lx_op *op);
/* Waits until the operation ends, at most timeout_ms (0: for ever). call_rc: what the initiating
 * call returned. tick is called each TICK_MS, or CALM_MS, and may call lx_stop. libxl's rc; its
 * words go to lx_words. */
int lx_wait(struct lx_op *op, int call_rc, uint32_t timeout_ms,
            void (*tick)(void *user, struct lx_op *op), void *tick_user);
/* Tells progress, not too often; lx_wait does. */
void lx_tell(struct lx_op *op);
/* Ends a save or restore: its helper is told to give up, and a restore's libxl gets no more of the
 * stream. Not libxl_ao_abort, which in 4.17 calls through a null pointer while the helper does not
 * run yet (standin.h). May be called at every tick. */
void lx_stop(struct lx_op *op, const char *why);
/* The first error libxl logged since lx_begin: for people. */
const char *lx_words(const struct lx *lx);
/* What libxc said since lx_begin of a page that arrived twice, and not alike; NULL: nothing. */
const char *lx_unlike(const struct lx *lx);

#endif
