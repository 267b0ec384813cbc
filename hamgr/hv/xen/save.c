/* SPDX-License-Identifier: Apache-2.0
 *
 * Save through a helper that libxl starts. With ours (usehelper.c) the contract is kept: it is told
 * the pause and the deadline, decides when to stop, and says how far it is and why it gave up;
 * slowing the guest down is done here. libxl's own makes at most five live rounds, then suspends,
 * whatever is still to be sent: a deadline that passes in its live phase aborts if the operator
 * said so. A guest that can't be saved live stands still from the beginning: it goes on where it
 * was when that has taken all its contract allows.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/hv/xen/helper/link.h"
#include "hamgr/hv/xen/work.h"
#include "hamgr/hv/xen/xs.h"

#define XENSTORE_MS 3000 /* for an answer of a busy xenstored */
#define AGAIN_MS    20

struct save {
    struct hv_xen *x;
    uint32_t domid;
    struct stream_mark mark;
    struct stand_in stand_in;
    uint64_t deadline_ms; /* abort then, when still live; UINT64_MAX = never */
    uint64_t still_ms;    /* so long may a save that is not live take; UINT64_MAX: no limit */
    bool is_aborted;
    const char *why;
    struct helper_link link; /* to our helper; fd -1: libxl's own */
    struct ha_err helper_why;
    uint8_t throttle_percent;
    uint64_t begin_ms, begin_cpu_ns;
    uint32_t used_percent; /* of a processor, before it was slowed down; 0 not known */
};

int stream_mark_take(struct stream_mark *mark, int fd, struct ha_err *err)
{
    struct stat info;

    if (fstat(fd, &info) != 0)
        return ha_err_set(err, errno, "stream: %s", strerror(errno));
    *mark = (struct stream_mark){.fd = fd, .device = info.st_dev, .inode = info.st_ino};
    return 0;
}

bool stream_is_taken_away(const struct stream_mark *mark)
{
    struct stat info;

    return fstat(mark->fd, &info) != 0 || info.st_dev != mark->device || info.st_ino != mark->inode;
}

/* ---- what our helper says ---- */

static uint64_t cpu_ns(struct hv_xen *x, uint32_t domid)
{
    xc_domaininfo_t info;

    if (xc_domain_getinfolist(x->xc, domid, 1, &info) != 1 || info.domain != domid)
        return 0;
    return info.cpu_time;
}

static void throttle(struct save *s, uint8_t percent)
{
    uint64_t ms = xen_now_ms() - s->begin_ms;
    struct xen_look look;

    if (percent == 0 || percent == s->throttle_percent ||
        !xen_look_ours(s->x, s->domid, &look, NULL))
        return;
    if (s->throttle_percent == 100 && ms > 0)
        s->used_percent = (uint32_t)((cpu_ns(s->x, s->domid) - s->begin_cpu_ns) / 10000 / ms);
    s->throttle_percent = percent;
    (void)xen_set_cap(
        s->x, s->domid,
        xen_cap_of_use(percent, s->used_percent, look.record.vcpus, look.record.cap_percent), NULL);
}

static void hear_helper(struct save *s, struct lx_op *op)
{
    struct hv_progress progress;

    if (!helper_link_read(&s->link, &progress, &s->helper_why))
        return;
    op->now = progress;
    throttle(s, progress.throttle_percent);
}

static void look_around(void *user, struct lx_op *op)
{
    struct save *s = user;
    struct xen_look look;

    hear_helper(s, op);
    if (!op->is_told_otherwise && op->now.phase == HV_LIVE &&
        xen_look_at(s->x, s->domid, &look) == 1 && look.state == HV_SUSPENDED)
        op->now.phase = HV_STOPPED;
    if (!s->why && stream_is_taken_away(&s->mark))
        s->why = "aborted";
    else if (!s->why && op->now.phase == HV_LIVE && xen_now_ms() > s->deadline_ms)
        s->why = "the deadline passed in the live phase";
    else if (!s->why && xen_now_ms() - s->begin_ms > s->still_ms)
        s->why = "it would stand still for longer than --max-downtime allows";
    else if (!s->why)
        s->why = s->stand_in.why;
    s->is_aborted = s->why != NULL;
    if (s->is_aborted)
        lx_stop(op, s->why);
}

/* What is left behind by a save that failed: as before, or paused where the gate lets it go on. */
static enum hv_outcome take_back(struct save *s, const char *words, struct ha_err *err)
{
    struct ha_err other = {0};
    struct xen_look look;
    bool is_explained = s->helper_why.code != 0;
    const char *why = s->why ? s->why : is_explained ? s->helper_why.text : words;
    int code = s->why ? HA_E_CANCELLED : is_explained ? s->helper_why.code : HA_E_UNKNOWN;

    if (!xen_look_ours(s->x, s->domid, &look, &other))
        return hv_unknown(err, HA_E_UNKNOWN, "save of domain %u: %.160s", s->domid, why);
    if (xen_tracking_off(s->x, &look, &other) != 0)
        return hv_unknown(err, HA_E_UNKNOWN, "save: %.80s; %.120s", why, other.text);
    if (look.state == HV_SUSPENDED && xen_resume_prepare(&s->x->hv, s->domid, &other) != HV_OK)
        return hv_unknown(err, HA_E_UNKNOWN, "save: %.80s; %.120s", why, other.text);
    return hv_failed(err, code, "save of domain %u: %.180s", s->domid, why);
}

static int check(struct hv_xen *x, const struct xen_look *look, const struct hv_save_params *params,
                 struct ha_err *err)
{
    const char *refusal =
        params->is_live ? xen_live_refusal(look->record.kind, x->has_shadow, x->has_hap) : NULL;
    int flags = fcntl(params->fd, F_GETFL);

    if (look->state != HV_RUNNING || look->facts.is_paused)
        return ha_err_set(err, HA_E_REFUSED,
                          "domain %u does not run: a guest of Xen suspends itself, it must run for "
                          "that",
                          look->domid);
    if (refusal)
        return ha_err_set(err, HA_E_REFUSED, "%s", refusal);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return ha_err_set(err, EBADF, "the stream can't be written to");
    return xen_tracking_off(x, look, err);
}

static int suspend(struct save *s, struct lx *lx, int flags, struct lx_op *op)
{
    lx_begin(lx, op);
    op->stand_in = &s->stand_in;
    int rc = libxl_domain_suspend(lx_ctx(lx), s->domid, s->stand_in.libxl_fd, flags, &op->how);
    stand_in_begun(&s->stand_in);
    rc = lx_wait(op, rc, 0, look_around, s);
    /* The end of the stream, which libxl has written by now. */
    stand_in_move(&s->stand_in, false);
    hear_helper(s, op);
    if (!s->why && s->stand_in.why)
        s->why = stream_is_taken_away(&s->mark) ? "aborted" : s->stand_in.why;
    s->is_aborted = s->why != NULL;
    return rc;
}

static enum hv_outcome run_save(struct save *s, struct lx *lx, const struct hv_save_params *params,
                                struct lx_op *op, struct ha_err *err)
{
    char words[HA_TEXT_MAX];
    struct xen_look look;

    if (stand_in_open(&s->stand_in, params->fd, true, err) != 0)
        return HV_FAILED;
    int rc = suspend(s, lx,
                     (params->is_live ? LIBXL_SUSPEND_LIVE : 0) |
                         (s->x->is_verifying ? LIBXL_SUSPEND_DEBUG : 0),
                     op);
    stand_in_close(&s->stand_in);
    /* Destroyed meanwhile, with the stream cut short: nothing is left to be unsure of. */
    if (rc != 0 && xen_look_at(s->x, s->domid, &look) == 0)
        return hv_failed(err, HA_E_NOT_FOUND, "save: domain %u is gone", s->domid);
    /* Complete only if libxl says that it sent all, and the hypervisor that it stands still. */
    if (rc != 0 || s->is_aborted || !xen_look_ours(s->x, s->domid, &look, err) ||
        look.state != HV_SUSPENDED) {
        xen_helper_words(s->x->has_helper, lx_words(lx), words);
        return take_back(s, words, err);
    }
    /* Its pages count while it waits for its destruction: nothing tracks them any more. */
    (void)xen_tracking_off(s->x, &look, NULL);
    op->now.phase = HV_COMPLETE;
    if (op->progress)
        op->progress(op->user, &op->now);
    return HV_OK;
}

/* The client is made for a gate that waits for nobody; a guest that is still running can. */
static bool read_frame(struct save *s, const char *what, uint64_t *ret)
{
    char path[64], text[24], *end;
    uint64_t limit_ms = xen_now_ms() + XENSTORE_MS;
    int rc = -ENOENT;

    snprintf(path, sizeof(path), "/local/domain/%u/%s/ring-ref", s->domid, what);
    while (s->x->xs && (rc = xs_client_read(s->x->xs, path, text, sizeof(text))) == -ETIMEDOUT &&
           xen_now_ms() < limit_ms)
        (void)poll(NULL, 0, AGAIN_MS);
    if (rc <= 0)
        return false;
    *ret = strtoull(text, &end, 10);
    return *end == '\0' && *ret > 0;
}

/* A PV guest's rings, which its helper names to who restores it. Not to one that will compare:
 * xenstored and xenconsoled write into them as soon as they know them. */
static int open_link(struct save *s, const struct hv_save_params *params, int ring_fd,
                     const struct xen_look *look, struct ha_err *err)
{
    uint64_t frames[2];
    bool is_known = look->record.kind == XEN_KIND_PV && !s->x->is_verifying &&
                    read_frame(s, "store", &frames[0]) && read_frame(s, "console", &frames[1]);

    return helper_link_open(&s->link, params, ring_fd, is_known ? frames : NULL, err);
}

enum hv_outcome xen_save(struct hv *hv, uint32_t domid, const struct hv_save_params *params,
                         hv_progress_fn progress, void *user, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct save s = {.x = x,
                     .domid = domid,
                     .deadline_ms = UINT64_MAX,
                     .still_ms = xen_still_ms(params),
                     .link = {.fd = -1, .inherited = -1},
                     .throttle_percent = 100};
    struct lx_op op = {.progress = progress, .user = user};
    struct xen_look look;

    if (!xen_look_ours(x, domid, &look, err) || check(x, &look, params, err) != 0 ||
        stream_mark_take(&s.mark, params->fd, err) != 0)
        return HV_FAILED;
    if (params->deadline_ms > 0 && params->on_slow == HV_SLOW_ABORT)
        s.deadline_ms = xen_now_ms() + params->deadline_ms;
    op.now.phase = params->is_live ? HV_LIVE : HV_STOPPED;
    op.now.pages_total = look.record.mem_kib / PAGE_KIB;
    int ring_fd = params->ring_fd > 0 ? params->ring_fd : -1;
    s.begin_ms = xen_now_ms();
    s.begin_cpu_ns = cpu_ns(x, domid);
    op.is_told_otherwise = xen_use_helper(x) && open_link(&s, params, ring_fd, &look, err) == 0;
    op.wake_fd = s.link.fd;
    op.is_calm = op.is_told_otherwise;
    struct lx *lx = xen_lx(x, err);
    enum hv_outcome outcome = lx ? run_save(&s, lx, params, &op, err) : HV_FAILED;
    helper_link_close(&s.link);
    return outcome;
}
