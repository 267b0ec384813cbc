/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker verbs that move no memory. None makes a guest runnable: before anything that would let
 * a suspended guest go on, the controller pauses it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hamgr/hv/xen/work.h"

/* libxl gives a device 10 s to go, its script 40 s; the gate kills a plain verb after 100 s, and of
 * these GONE_MS are needed afterwards, and OTHERS_MS before. */
#define LX_PLAIN_MS 70000u
#define OTHERS_MS   5000u /* for who began a destruction to end it */
#define NAP_MS      10u

void xen_nap(void)
{
    const struct timespec nap = {.tv_nsec = NAP_MS * 1000000};

    nanosleep(&nap, NULL);
}

/* ---- destroy ---- */

static bool has_backends(uint32_t domid)
{
    DIR *dir = opendir("/sys/bus/xen-backend/devices");
    struct dirent *entry;
    char prefix[32];
    bool is_found = false;

    snprintf(prefix, sizeof(prefix), "vbd-%u-", domid);
    while (dir && !is_found && (entry = readdir(dir)) != NULL)
        is_found = strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    if (dir)
        closedir(dir);
    return is_found;
}

static bool await_gone(struct hv_xen *x, uint32_t domid, uint32_t timeout_ms)
{
    uint64_t end_ms = xen_now_ms() + timeout_ms;
    struct xen_look look;

    while (xen_look_at(x, domid, &look) != 0 || has_backends(domid)) {
        if (xen_now_ms() > end_ms)
            return false;
        xen_nap();
    }
    return true;
}

enum hv_outcome xen_remove(struct hv_xen *x, uint32_t domid, struct ha_err *err)
{
    struct lx_op op = {0};
    struct xen_look look;
    struct lx *lx = xen_lx(x, err);

    if (!lx)
        return HV_UNKNOWN;
    lx_begin(lx, &op);
    int rc = libxl_domain_destroy(lx_ctx(lx), domid, &op.how);
    (void)lx_wait(&op, rc, LX_PLAIN_MS, NULL, NULL);
    /* What libxl could not tidy up must not keep the guest alive. */
    if (xen_look_at(x, domid, &look) == 1 && !look.facts.is_dying)
        (void)xc_domain_destroy(x->xc, domid);
    if (!await_gone(x, domid, GONE_MS))
        return hv_unknown(err, HA_E_TIMEOUT, "domain %u does not go: %.180s", domid, lx_words(lx));
    xen_record_remove(x->dir_fd, domid);
    return HV_OK;
}

enum hv_outcome xen_destroy(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct xen_look look;
    int rc = xen_look_at(x, domid, &look);

    if (rc < 0)
        return hv_unknown(err, -rc, "the hypervisor does not tell of domain %u", domid);
    /* One that is dying is somebody's work (xl destroy): two at once would fight for its devices.
     * Whoever began it may be gone, too. */
    if (rc == 1 && !(look.facts.is_dying && await_gone(x, domid, OTHERS_MS)))
        return xen_remove(x, domid, err);
    if (domid >= XEN_DOMID_FIRST && domid <= XEN_DOMID_LAST)
        xen_record_remove(x->dir_fd, domid);
    return HV_OK;
}

/* ---- shutdown ---- */

static int ask_to_end(struct hv_xen *x, uint32_t domid, struct ha_err *err)
{
    struct lx_op op = {0};
    struct lx *lx = xen_lx(x, err);

    if (!lx)
        return -HA_E_UNREACHABLE;
    lx_begin(lx, &op);
    int rc =
        lx_wait(&op, libxl_domain_shutdown(lx_ctx(lx), domid, &op.how), LX_PLAIN_MS, NULL, NULL);
    if (rc == ERROR_NOPARAVIRT) { /* it has a power button instead */
        lx_begin(lx, &op);
        rc = libxl_send_trigger(lx_ctx(lx), domid, LIBXL_TRIGGER_POWER, 0, &op.how);
        rc = lx_wait(&op, rc, LX_PLAIN_MS, NULL, NULL);
    }
    return rc == 0 ? 0 : ha_err_set(err, HA_E_REFUSED, "domain %u: %.200s", domid, lx_words(lx));
}

static bool has_ended(const struct xen_look *look)
{
    return look->facts.is_shutdown && look->state != HV_SUSPENDED;
}

static enum hv_outcome ended(const struct xen_look *look, struct ha_err *err)
{
    if (look->facts.reason == SHUTDOWN_poweroff)
        return HV_OK;
    return hv_failed(err, HA_E_REFUSED, "domain %u %s instead", look->domid,
                     look->facts.reason == SHUTDOWN_reboot ? "rebooted" : "crashed");
}

enum hv_outcome xen_shutdown(struct hv *hv, uint32_t domid, uint32_t timeout_ms, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    uint64_t end_ms = xen_now_ms() + timeout_ms;
    struct xen_look look;

    if (!xen_look_ours(x, domid, &look, err))
        return HV_FAILED;
    if (has_ended(&look))
        return ended(&look, err);
    if (look.state != HV_RUNNING || look.facts.is_paused)
        return hv_failed(err, HA_E_REFUSED, "domain %u is not running, it can't hear", domid);
    if (ask_to_end(x, domid, err) != 0)
        return HV_FAILED;
    do {
        if (!xen_look_ours(x, domid, &look, err))
            return HV_UNKNOWN;
        if (has_ended(&look))
            return ended(&look, err);
        xen_nap();
    } while (xen_now_ms() < end_ms);
    /* The request stays: a slow guest may still obey. */
    return hv_unknown(err, HA_E_TIMEOUT, "domain %u did not shut down within %u ms", domid,
                      timeout_ms);
}

/* ---- suspend, drain, resume ---- */

enum hv_outcome xen_suspend(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct lx_op op = {0};
    struct xen_look look;

    if (!xen_look_ours(x, domid, &look, err))
        return HV_FAILED;
    if (look.state == HV_SUSPENDED)
        return HV_OK;
    if (look.state != HV_RUNNING || look.facts.is_paused)
        return hv_failed(err, HA_E_REFUSED,
                         "domain %u does not run: a guest of Xen suspends itself, it must run for "
                         "that",
                         domid);
    struct lx *lx = xen_lx(x, err);
    if (!lx)
        return HV_FAILED;
    lx_begin(lx, &op);
    int rc = libxl_domain_suspend_only(lx_ctx(lx), domid, &op.how);
    (void)lx_wait(&op, rc, LX_PLAIN_MS, NULL, NULL);
    if (!xen_look_ours(x, domid, &look, err))
        return HV_UNKNOWN;
    if (look.state == HV_SUSPENDED)
        return HV_OK;
    return hv_failed(err, HA_E_REFUSED, "domain %u: %.200s", domid, lx_words(lx));
}

enum hv_outcome xen_drain(struct hv *hv, uint32_t domid, uint32_t timeout_ms, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    uint64_t end_ms = xen_now_ms() + timeout_ms;
    struct xen_look look;
    char why[HA_TEXT_MAX];
    enum hv_quiet quiet;

    if (!xen_look_ours(x, domid, &look, err))
        return HV_FAILED;
    if (look.state == HV_RUNNING || look.state == HV_BUILDING)
        return hv_failed(err, HA_E_REFUSED, "domain %u is not suspended", domid);
    while ((quiet = xen_quiet(hv, domid, why)) == HV_BUSY && xen_now_ms() < end_ms)
        xen_nap();
    if (quiet == HV_QUIET)
        return HV_OK;
    return hv_failed(err, quiet == HV_BUSY ? HA_E_TIMEOUT : HA_E_REFUSED, "domain %u: %.200s",
                     domid, why);
}

enum hv_outcome xen_resume_prepare(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct lx_op op = {0};
    struct xen_look look;

    if (!xen_look_ours(x, domid, &look, err))
        return HV_FAILED;
    if (look.state == HV_PAUSED || look.state == HV_RUNNING)
        return HV_OK;
    if (look.state != HV_SUSPENDED)
        return hv_failed(err, HA_E_REFUSED, "domain %u is being built, or has ended", domid);
    if (xen_tracking_off(x, &look, err) != 0)
        return HV_FAILED;
    /* Resuming makes it runnable unless the controller holds it. A guest that shut down by itself
     * counts as still, so this is asked of the hypervisor directly. */
    (void)xen_record_hold(x->dir_fd, domid);
    if (!look.facts.is_paused && xc_domain_pause(x->xc, domid) != 0)
        return hv_failed(err, errno, "pause domain %u: %s", domid, strerror(errno));
    struct lx *lx = xen_lx(x, err);
    if (!lx)
        return HV_FAILED;
    lx_begin(lx, &op);
    int rc = libxl_domain_resume(lx_ctx(lx), domid, 1, &op.how);
    (void)lx_wait(&op, rc, LX_PLAIN_MS, NULL, NULL);
    if (!xen_look_ours(x, domid, &look, err))
        return HV_UNKNOWN;
    if (look.state == HV_PAUSED)
        return HV_OK;
    return hv_failed(err, HA_E_REFUSED, "domain %u: %.200s", domid, lx_words(lx));
}

/* ---- dirty tracking ---- */

int xen_tracking_off(struct hv_xen *x, const struct xen_look *look, struct ha_err *err)
{
    uint16_t cap = xen_cap_of(100, look->record.vcpus, look->record.cap_percent);

    /* Off when it was off is no error; a hypervisor that can't track says that it is not supported.
     */
    if (xc_shadow_control(x->xc, look->domid, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0) < 0 &&
        errno != EOPNOTSUPP && errno != EINVAL)
        return ha_err_set(err, errno, "dirty tracking of domain %u: %s", look->domid,
                          strerror(errno));
    return xen_set_cap(x, look->domid, cap, err);
}

enum hv_outcome xen_log_dirty_off(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct xen_look look;

    if (!xen_look_ours(x, domid, &look, err))
        return HV_FAILED;
    return xen_tracking_off(x, &look, err) == 0 ? HV_OK : HV_UNKNOWN;
}

static int peek(struct hv_xen *x, uint32_t domid, uint64_t *ret_count, struct ha_err *err)
{
    xc_shadow_op_stats_t stats = {0};

    if (xc_logdirty_control(x->xc, domid, XEN_DOMCTL_SHADOW_OP_PEEK, NULL, 0, 0, &stats) < 0)
        return ha_err_set(err, errno, "dirty pages of domain %u: %s", domid, strerror(errno));
    *ret_count = stats.dirty_count;
    return 0;
}

/* The hypervisor's counter lives on from earlier attempts: a difference tells, not the number. */
static int sample(struct hv_xen *x, uint32_t domid, uint32_t sample_ms, uint64_t *ret_pages_s,
                  struct ha_err *err)
{
    uint64_t begin_ms = xen_now_ms(), before = 0, after = 0;
    int rc = peek(x, domid, &before, err);

    while (rc == 0 && xen_now_ms() < begin_ms + sample_ms)
        xen_nap();
    uint64_t took_ms = xen_now_ms() - begin_ms;
    if (rc == 0)
        rc = peek(x, domid, &after, err);
    if (rc == 0)
        *ret_pages_s = (after > before ? after - before : 0) * 1000 / (took_ms > 0 ? took_ms : 1);
    return rc;
}

enum hv_outcome xen_dirty_sample(struct hv *hv, uint32_t domid, uint32_t sample_ms,
                                 uint64_t *ret_pages_s, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct xen_look look;

    if (!xen_look_ours(x, domid, &look, err))
        return HV_FAILED;
    const char *refusal = xen_live_refusal(look.record.kind, x->has_shadow, x->has_hap);
    if (refusal)
        return hv_failed(err, HA_E_REFUSED, "%s", refusal);
    if (look.state != HV_RUNNING && look.state != HV_PAUSED)
        return hv_failed(err, HA_E_REFUSED, "domain %u does not live", domid);
    /* Refused by the hypervisor while a save tracks it. */
    if (xc_shadow_control(x->xc, domid, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, NULL, 0) < 0)
        return hv_failed(err, errno, "dirty tracking of domain %u: %s", domid, strerror(errno));
    int rc = sample(x, domid, sample_ms, ret_pages_s, err);
    if (xen_tracking_off(x, &look, rc == 0 ? err : NULL) != 0)
        rc = -HA_E_UNKNOWN;
    return rc == 0 ? HV_OK : HV_FAILED;
}

enum hv_outcome xen_checkpoint(struct hv *hv, uint32_t domid, int fd, struct ha_err *err)
{
    (void)hv;
    (void)domid;
    (void)fd;
    hv_failed(err, HA_E_REFUSED, "the xen driver has no continuous replication");
    return HV_NOT_OFFERED;
}
