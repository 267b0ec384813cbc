/* SPDX-License-Identifier: Apache-2.0
 *
 * Restore: libxenguest's own, with two differences. Memory of a translated domain is made of
 * superpages where the stream brings whole ones; and the buffers of records, 4 MiB each, are kept
 * between records instead of being given back and touched anew (0.1 ms a page in a PV dom0).
 */
#include <errno.h>
#include <malloc.h>
#include <signal.h>

#include "hamgr/hv/xen/helper/helper.h"

#define KEEP_BYTES (256 << 20) /* above the longest record, 128 MiB */

static int on_static_done(unsigned int missing, void *user)
{
    return helper_ask_static_done(user, missing);
}

static void on_results(xen_pfn_t store_gfn, xen_pfn_t console_gfn, void *user)
{
    (void)store_gfn;
    (void)console_gfn;
    (void)user; /* for checkpointed streams only; others are told at the end */
}

int helper_restore(struct helper *h)
{
    const struct talk_args *a = &h->args;
    struct restore_callbacks callbacks = {.restore_results = on_results, .data = h};
    unsigned long store = 0, console = 0;
    xc_dominfo_t info;

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
    int rc = xc_domain_restore(h->xc, a->fd, a->domid, a->store_evtchn, &store, a->store_domid,
                               a->console_evtchn, &console, a->console_domid, XC_STREAM_PLAIN,
                               &callbacks, -1);
    int code = errno;
    helper_say_results(h, store, console);
    errno = code;
    return rc;
}
