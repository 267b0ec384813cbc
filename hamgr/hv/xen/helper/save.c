/* SPDX-License-Identifier: Apache-2.0
 *
 * Save: libxenguest walks the memory and switches dirty tracking on and off; where its bytes go is
 * flow.h's, when to stop is pace.h's.
 *
 * Ends in one of three ways, all of them libxenguest's return, so that tracking is off and nothing
 * stays mapped: complete; failed, for the contract or the stream; aborted, by SIGTERM (libxl's own
 * way) or because libxl is gone.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hamgr/hv/xen/helper/flow.h"
#include "hamgr/hv/xen/helper/helper.h"
#include "hamgr/hv/xen/helper/link.h"
#include "hamgr/hv/xen/helper/pace.h"

/* Not in Xen's public headers. */
int xc_get_pfn_type_batch(xc_interface *xch, uint32_t domid, unsigned int count, xen_pfn_t *frames);

#define M2P_CHUNK (UINT64_C(2) << 20) /* xc_map_m2p maps whole ones */

struct save {
    struct helper *h;
    struct flow flow;
    struct pace pace;
    struct helper_link link;
    struct hv_save_params params;
    bool is_suspended;
};

static struct save save;
static int nowhere = -1; /* /dev/null, open for reading */

/* ---- the table of pace.h ---- */

static uint64_t now_us(void *user)
{
    struct timespec t;

    (void)user;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int count_dirty(void *user, uint64_t *ret_pages)
{
    struct save *s = user;
    xc_shadow_op_stats_t stats = {0};

    if (xc_logdirty_control(s->h->xc, s->h->args.domid, XEN_DOMCTL_SHADOW_OP_PEEK, NULL, 0, 0,
                            &stats) < 0)
        return -errno;
    *ret_pages = stats.dirty_count;
    return 0;
}

static void sent(void *user, uint64_t *ret_bytes, uint64_t *ret_pages)
{
    struct save *s = user;

    *ret_bytes = s->flow.bytes;
    *ret_pages = s->flow.pages;
}

static uint64_t backlog(void *user, bool *ret_is_told)
{
    struct save *s = user;

    return flow_backlog(&s->flow, ret_is_told);
}

static bool rest(void *user, uint64_t us)
{
    struct save *s = user;

    return flow_rest(&s->flow, us);
}

static void tell(void *user, const struct hv_progress *progress)
{
    struct save *s = user;

    helper_link_tell(&s->link, progress);
}

static const struct pace_ops OPS = {
    .now_us = now_us,
    .count_dirty = count_dirty,
    .sent = sent,
    .backlog = backlog,
    .rest = rest,
    .tell = tell,
};

/* ---- what libxenguest calls ---- */

static int take_write(void *user, const struct iovec *vector, int count)
{
    struct save *s = user;
    int rc = flow_write(&s->flow, vector, count);

    if (rc == 0)
        return 0;
    errno = -rc < HA_E_USAGE ? -rc : ECANCELED;
    return -1;
}

static int check(void *user)
{
    struct save *s = user;

    return pace_check(&s->pace);
}

static void moved(void *user)
{
    struct save *s = user;

    pace_moved(&s->pace);
}

static int on_policy(struct precopy_stats stats, void *user)
{
    struct save *s = user;

    if (s->h->is_deserted || flow_is_aborted(&s->flow))
        return XGS_POLICY_ABORT;
    return (int)pace_ask(&s->pace, stats.dirty_count < 0);
}

static int on_suspend(void *user)
{
    struct save *s = user;

    if (flow_is_aborted(&s->flow))
        return 0;
    pace_stopping(&s->pace);
    s->is_suspended = helper_ask(s->h, TALK_SUSPEND) == 1;
    if (s->is_suspended)
        pace_stopped(&s->pace);
    return s->is_suspended;
}

static int on_qemu(uint32_t domid, unsigned enable, void *user)
{
    struct save *s = user;

    return helper_ask_qemu(s->h, domid, enable);
}

/* ---- around it ---- */

/* A blocked or coming write to a pipe fails; everything else looks at the eventfd. */
static void on_term(int number)
{
    int saved = errno;

    (void)number;
    helper_abort(save.h);
    if (!save.flow.is_socket)
        (void)dup2(nowhere, save.flow.fd);
    errno = saved;
}

static int take_signals(void)
{
    const struct sigaction on = {.sa_handler = on_term};
    sigset_t set;

    nowhere = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (nowhere < 0 || sigaction(SIGTERM, &on, NULL) != 0)
        return -errno;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    return sigprocmask(SIG_UNBLOCK, &set, NULL) == 0 ? 0 : -errno;
}

/* A ring whose slots can't hold our batches, or that can't be mapped, is not used: who reads takes
 * pages from the stream as well. */
static void take_ring(struct save *s, int ring_fd)
{
    struct ha_err err = {0};
    struct ring *ring = ring_fd >= 0 ? ring_map(ring_fd, &err) : NULL;

    if (ring_fd >= 0)
        close(ring_fd);
    if (ring && ring_slot_pages(ring) >= BATCH_PAGES_MAX)
        s->flow.ring = ring;
    else
        ring_free(ring);
}

/* Are they the guest's, and plain pages? */
static bool are_plain(const struct save *s, const uint64_t *frames)
{
    xen_pfn_t types[RINGS_COUNT] = {frames[RINGS_STORE], frames[RINGS_CONSOLE]};

    if (xc_get_pfn_type_batch(s->h->xc, s->h->args.domid, RINGS_COUNT, types) != 0)
        return false;
    for (int n = 0; n < RINGS_COUNT; n++)
        if ((types[n] & XEN_DOMCTL_PFINFO_LTAB_MASK) != XEN_DOMCTL_PFINFO_NOTAB)
            return false;
    return frames[RINGS_STORE] != frames[RINGS_CONSOLE];
}

/* The guest's own numbers of these frames, for who restores it, in front of the first page. Where
 * one can't be had neither is named, and nothing is early there. */
static void name_rings(struct save *s, const uint64_t *frames)
{
    unsigned long last;
    uint64_t pfns[RINGS_COUNT];

    if (!are_plain(s, frames) || xc_maximum_ram_page(s->h->xc, &last) != 0 ||
        frames[RINGS_STORE] > last || frames[RINGS_CONSOLE] > last)
        return;
    xen_pfn_t *table = xc_map_m2p(s->h->xc, last, PROT_READ, NULL);
    for (int n = 0; table && n < RINGS_COUNT; n++)
        pfns[n] = table[frames[n]];
    if (!table)
        return;
    (void)munmap(table, (last * sizeof(*table) / M2P_CHUNK + 1) * M2P_CHUNK);
    rings_write(s->flow.before_pages, pfns);
    s->flow.before_size = RINGS_AHEAD;
}

/* Without a link (started by xl): no contract, only short pauses. */
static void prepare(struct save *s, const xc_dominfo_t *info)
{
    const struct talk_args *a = &s->h->args;
    uint64_t frames[RINGS_COUNT];
    int ring_fd = -1;

    s->params = (struct hv_save_params){.on_slow = HV_SLOW_PAUSE};
    (void)helper_link_take(&s->link, &s->params, &ring_fd, frames);
    s->params.is_live = (a->flags & XCFLAGS_LIVE) != 0;
    flow_init(&s->flow, a->fd, s->h->abort_fd, info->hvm);
    s->flow.check = check;
    s->flow.moved = moved;
    s->flow.user = s;
    take_ring(s, ring_fd);
    if (frames[RINGS_STORE] > 0 && !info->hvm)
        name_rings(s, frames);
    pace_init(&s->pace, &OPS, s, &s->params, info->nr_pages);
}

static const struct ha_err *reason(const struct save *s)
{
    if (s->pace.err.code != 0)
        return &s->pace.err;
    return s->flow.err.code != 0 ? &s->flow.err : NULL;
}

int helper_save(struct helper *h)
{
    struct save *s = &save;
    struct save_callbacks callbacks = {
        .suspend = on_suspend, .precopy_policy = on_policy, .data = s};
    xc_dominfo_t info;

    s->h = h;
    if (xc_domain_getinfo(h->xc, h->args.domid, 1, &info) != 1 || info.domid != h->args.domid)
        return -1;
    if (h->args.callbacks & (1u << TALK_QEMU_LOGDIRTY))
        callbacks.switch_qemu_logdirty = on_qemu;
    prepare(s, &info);
    if (take_signals() != 0)
        return -1;
    helper_take_writes(h->args.fd, take_write, s);
    int rc = xc_domain_save(h->xc, h->args.fd, h->args.domid, h->args.flags, &callbacks,
                            XC_STREAM_PLAIN, -1);
    int code = errno;
    if (rc != 0 && reason(s)) {
        helper_error(h, reason(s)->text);
        helper_link_done(&s->link, reason(s));
    }
    ring_free(s->flow.ring);
    helper_link_close(&s->link);
    errno = code;
    return rc;
}
