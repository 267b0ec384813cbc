/* SPDX-License-Identifier: Apache-2.0
 *
 * Restore: libxenguest's own, with three differences. Memory of a translated domain is made of
 * superpages where the stream brings whole ones; and the buffers of records, 4 MiB each, are kept
 * between records instead of being given back and touched anew (0.1 ms a page in a PV dom0).
 *
 * And libxl may go on early: as soon as a PV guest's rings to xenstored and xenconsoled are there
 * (rings.h) it is told that all memory is, and makes the devices, some 380 requests to xenstored
 * and two scripts, while the guest still runs at the source. Behind its helper's end libxl 4.17
 * needs of a PV domain these two frames, their grants, its event channels and its processors'
 * scheduling parameters. Nothing of it makes the domain runnable or touches its memory, and nothing
 * that a restore does at its end (processors' state, pinned page tables, p2m, shared info) is
 * looked at. What xenstored tells the new domain's port at its introduction is lost with the old
 * shared info's pending bits: the guest binds the port anew when it resumes, and looks then.
 *
 * The worker takes none of it for done before the mover says so (early.c).
 */
#define XC_WANT_COMPAT_MAP_FOREIGN_API /* xc_map_foreign_range, which libxenguest uses as well */

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hamgr/hv/xen/helper/helper.h"
#include "hamgr/hv/xen/helper/rings.h"

#define KEEP_BYTES (256 << 20) /* above the longest record, 128 MiB */

struct restore {
    struct helper *h;
    struct rings rings;
    uint64_t at[RINGS_COUNT]; /* in the array being populated */
    bool is_early;
};

static struct restore restore;

static int on_static_done(unsigned int missing, void *user)
{
    struct restore *r = user;

    return helper_ask_static_done(r->h, missing);
}

static void on_results(xen_pfn_t store_gfn, xen_pfn_t console_gfn, void *user)
{
    (void)store_gfn;
    (void)console_gfn;
    (void)user; /* for checkpointed streams only; others are told at the end */
}

/* ---- early ---- */

static uint64_t frame_of(const struct restore *r, enum rings_which which)
{
    return r->rings.pages[which].frame;
}

/* The worker hears of it before libxl asks for the stream's rest. */
static int announce(struct restore *r)
{
    struct helper *h = r->h;

    if (helper_seed(h, frame_of(r, RINGS_CONSOLE), frame_of(r, RINGS_STORE)) != 0)
        return -1;
    r->is_early = true;
    helper_link_say(&h->link, LINK_EARLY, 0);
    helper_say_results(h, frame_of(r, RINGS_STORE), frame_of(r, RINGS_CONSOLE));
    helper_complete(h, 0, 0);
    helper_leave(h);
    helper_let_front_go(h);
    return 0;
}

/* The worker's end of the link says nothing: when it is readable, the worker gave up. */
static int await(const struct restore *r)
{
    struct pollfd fds[2] = {{.fd = r->h->args.fd, .events = POLLIN},
                            {.fd = r->h->link.fd, .events = POLLIN}};

    while (poll(fds, 2, -1) < 0)
        if (errno != EINTR)
            return -1;
    if (fds[1].revents == 0)
        return 0;
    errno = ECANCELED;
    return -1;
}

static int read_all(const struct restore *r, uint8_t *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        if (await(r) != 0)
            return -1;
        ssize_t n = read(r->h->args.fd, data + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = 0; /* libxenguest knows the end of a file by that */
        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

static int take_read(void *user, void *data, size_t size)
{
    struct restore *r = user;

    if (!r->is_early && rings_are_blank(&r->rings) && announce(r) != 0)
        return -1;
    if (read_all(r, data, size) != 0)
        return -1;
    rings_read(&r->rings, data, size);
    return 0;
}

static void before_frames(void *user, const xen_pfn_t *pfns, uint64_t count)
{
    struct restore *r = user;

    rings_find(&r->rings, pfns, count, r->at);
}

static void after_frames(void *user, const xen_pfn_t *frames)
{
    struct restore *r = user;

    rings_populated(&r->rings, frames, r->at);
}

/* ---- the end ---- */

static int fail(struct restore *r, const char *why)
{
    helper_error(r->h, why);
    errno = EPROTO;
    return -1;
}

static int put_page(struct restore *r, enum rings_which which)
{
    const struct ring_page *p = &r->rings.pages[which];
    uint8_t *page = xc_map_foreign_range(r->h->xc, r->h->args.domid, RINGS_PAGE,
                                         PROT_READ | PROT_WRITE, p->frame);

    if (!page)
        return fail(r, "the rings' pages can't be written");
    if (which == RINGS_STORE)
        rings_put_store(page, p->held, r->is_early);
    else
        rings_put_console(page, p->held);
    (void)munmap(page, RINGS_PAGE);
    return 0;
}

/* What was held back, behind all else. */
static int put_rings(struct restore *r, uint64_t store, uint64_t console)
{
    int rc = 0;

    if (r->is_early && (store != frame_of(r, RINGS_STORE) || console != frame_of(r, RINGS_CONSOLE)))
        return fail(r, "the guest has other rings than its source said");
    for (int n = 0; n < RINGS_COUNT && rc == 0; n++)
        if (r->rings.pages[n].is_held)
            rc = r->rings.is_lost || !r->rings.pages[n].has_frame
                     ? fail(r, "the image is not read as it should be")
                     : put_page(r, (enum rings_which)n);
    return rc;
}

static void tell_worker(const struct restore *r, int rc)
{
    struct ha_err why = {.code = HA_E_UNKNOWN};

    if (rc != 0)
        snprintf(why.text, sizeof(why.text), "restore: %.200s",
                 r->h->words[0] != '\0' ? r->h->words : "no reason was given");
    helper_link_done(&r->h->link, rc != 0 ? &why : NULL);
}

static void watch_rings(struct restore *r)
{
    const struct helper_frames frames = {.before = before_frames, .after = after_frames, .user = r};

    rings_init(&r->rings);
    helper_take_reads(r->h->args.fd, take_read, &frames);
}

int helper_restore(struct helper *h)
{
    const struct talk_args *a = &h->args;
    struct restore *r = &restore;
    struct restore_callbacks callbacks = {.restore_results = on_results, .data = r};
    unsigned long store = 0, console = 0;
    xc_dominfo_t info;

    r->h = h;
    if (xc_domain_getinfo(h->xc, a->domid, 1, &info) != 1 || info.domid != a->domid)
        return -1;
    if (a->callbacks & (1u << TALK_STATIC_DONE))
        callbacks.static_data_done = on_static_done;
    (void)mallopt(M_MMAP_THRESHOLD, KEEP_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
    /* What it made so far is libxl's to destroy: a signal just ends it. */
    (void)signal(SIGTERM, SIG_DFL);
    if (info.hvm)
        helper_use_superpages();
    else if (h->link.fd >= 0)
        watch_rings(r);
    int rc = xc_domain_restore(h->xc, a->fd, a->domid, a->store_evtchn, &store, a->store_domid,
                               a->console_evtchn, &console, a->console_domid, XC_STREAM_PLAIN,
                               &callbacks, -1);
    if (rc == 0)
        rc = put_rings(r, store, console);
    int code = errno;
    helper_say_results(h, store, console);
    if (r->is_early)
        tell_worker(r, rc);
    errno = code;
    return rc;
}
