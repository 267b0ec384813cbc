/* SPDX-License-Identifier: Apache-2.0
 *
 * Functions that libxenguest calls by name and that this program has, too: the dynamic linker binds
 * the library's calls to ours. What is not for us goes on to the library's own.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#include "hamgr/hv/xen/helper/batch.h"
#include "hamgr/hv/xen/helper/bound.h"
#include "hamgr/hv/xen/helper/helper.h"

/* Not in Xen's public headers. */
int writev_exact(int fd, const struct iovec *vector, int count);
int write_exact(int fd, const void *data, size_t size);
int read_exact(int fd, void *data, size_t size);

typedef int (*writev_fn)(int fd, const struct iovec *vector, int count);
typedef int (*write_fn)(int fd, const void *data, size_t size);
typedef int (*read_fn)(int fd, void *data, size_t size);
typedef int (*seed_fn)(xc_interface *xch, uint32_t domid, bool is_hvm, xen_pfn_t console,
                       xen_pfn_t store, uint32_t console_domid, uint32_t store_domid);
typedef int (*populate_fn)(xc_interface *xch, uint32_t domid, unsigned long count,
                           unsigned int order, unsigned int flags, xen_pfn_t *frames);

static struct {
    int fd; /* whose writes are taken; -1 none */
    helper_write_fn write;
    void *user;
    bool has_superpages;
    int read_fd; /* whose reads are taken; -1 none */
    helper_read_fn read;
    struct helper_frames frames;
    bool is_seeded;
} taken = {.fd = -1, .read_fd = -1};

void helper_take_writes(int fd, helper_write_fn write, void *user)
{
    taken.write = write;
    taken.user = user;
    taken.fd = fd;
}

void helper_take_reads(int fd, helper_read_fn read, const struct helper_frames *frames)
{
    taken.read = read;
    taken.frames = *frames;
    taken.read_fd = fd;
}

void helper_use_superpages(void)
{
    taken.has_superpages = true;
}

/* The definition behind ours. Without it there is nothing to call: libxenctrl is not the one this
 * program was linked with. */
static void *original(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);

    if (!found)
        abort();
    return found;
}

int writev_exact(int fd, const struct iovec *vector, int count)
{
    if (fd == taken.fd)
        return taken.write(taken.user, vector, count);
    writev_fn next;
    *(void **)&next = original("writev_exact");
    return next(fd, vector, count);
}

int write_exact(int fd, const void *data, size_t size)
{
    if (fd == taken.fd) {
        struct iovec piece = {(void *)(uintptr_t)data, size};
        return taken.write(taken.user, &piece, 1);
    }
    write_fn next;
    *(void **)&next = original("write_exact");
    return next(fd, data, size);
}

int read_exact(int fd, void *data, size_t size)
{
    if (fd == taken.read_fd)
        return taken.read(taken.frames.user, data, size);
    read_fn next;
    *(void **)&next = original("read_exact");
    return next(fd, data, size);
}

/* ---- a new domain's grants ---- */

/* Entries that a daemon has in use are written no second time: their flags say that it has. */
int xc_dom_gnttab_seed(xc_interface *xch, uint32_t guest_domid, bool is_hvm, xen_pfn_t console_gfn,
                       xen_pfn_t xenstore_gfn, uint32_t console_domid, uint32_t xenstore_domid)
{
    seed_fn next;

    if (taken.is_seeded)
        return 0;
    *(void **)&next = original("xc_dom_gnttab_seed");
    return next(xch, guest_domid, is_hvm, console_gfn, xenstore_gfn, console_domid, xenstore_domid);
}

int helper_seed(const struct helper *h, xen_pfn_t console_frame, xen_pfn_t store_frame)
{
    int rc = xc_dom_gnttab_seed(h->xc, h->args.domid, false, console_frame, store_frame,
                                h->args.console_domid, h->args.store_domid);

    taken.is_seeded = rc == 0;
    return rc;
}

/* ---- memory of a new domain ---- */

static int populate_next(xc_interface *xch, uint32_t domid, uint64_t count, unsigned int order,
                         unsigned int flags, xen_pfn_t *frames)
{
    static populate_fn next;

    if (!next)
        *(void **)&next = original("xc_domain_populate_physmap_exact");
    return next(xch, domid, count, order, flags, frames);
}

/* One superpage, or its frames one by one when there is none left. Frames of a translated domain
 * keep their numbers, so the array stays as it is. */
static int populate_super(xc_interface *xch, uint32_t domid, xen_pfn_t *frames)
{
    xen_pfn_t first = frames[0];

    if (xc_domain_populate_physmap(xch, domid, 1, SUPER_ORDER, 0, &first) == 1)
        return 0;
    return populate_next(xch, domid, SUPER_PAGES, 0, 0, frames);
}

int xc_domain_populate_physmap_exact(xc_interface *xch, uint32_t domid, unsigned long nr_extents,
                                     unsigned int extent_order, unsigned int mem_flags,
                                     xen_pfn_t *extent_start)
{
    bool is_watched = taken.frames.before && extent_order == 0;
    int rc = 0;

    if (is_watched)
        taken.frames.before(taken.frames.user, extent_start, nr_extents);
    if (!taken.has_superpages || extent_order != 0 || mem_flags != 0) {
        rc = populate_next(xch, domid, nr_extents, extent_order, mem_flags, extent_start);
        if (rc == 0 && is_watched)
            taken.frames.after(taken.frames.user, extent_start);
        return rc;
    }
    for (uint64_t at = 0; at < nr_extents && rc == 0;) {
        struct super_run run = super_next(extent_start, nr_extents, at);
        rc = run.is_super ? populate_super(xch, domid, extent_start + at)
                          : populate_next(xch, domid, run.count, 0, 0, extent_start + at);
        at += run.count;
    }
    return rc;
}

/* ---- the gate ---- */

bool helper_is_bound(void)
{
    return dlsym(RTLD_DEFAULT, "writev_exact") == (void *)(uintptr_t)&writev_exact &&
           helper_can_bind();
}
