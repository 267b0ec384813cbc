/* SPDX-License-Identifier: Apache-2.0
 *
 * Dirty tracking as the kernel offers it: userfaultfd write-protect, asynchronous with PAGEMAP_SCAN
 * (Linux 6.7 and later) or synchronous. What Debian 12's headers lack is defined here, after the
 * kernel's documentation (admin-guide/mm/userfaultfd, admin-guide/mm/pagemap).
 */
#ifndef HAMGR_HV_EMBEDDED_UFFD_H
#define HAMGR_HV_EMBEDDED_UFFD_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include "hamgr/hv/embedded/guestabi.h"

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* Names of our own, so that newer headers don't collide. */
#define EMB_PAGE_IS_WRITTEN  (UINT64_C(1) << 1)
#define EMB_SCAN_WP_MATCHING (UINT64_C(1) << 0)
#define EMB_SCAN_WP_ASYNC    (UINT64_C(1) << 1) /* fail where asynchronous protection is not on */

struct emb_page_region {
    uint64_t start, end, categories;
};

struct emb_scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define EMB_PAGEMAP_SCAN _IOWR('f', 16, struct emb_scan_arg)

/* Opens a userfaultfd of the calling process with the best tracking there is (never the
 * asynchronous kind if is_sync). Returns the fd (CLOEXEC, non-blocking) and the kind, or -1 and
 * EMB_TRACK_NONE: guests then are moved stopped only. */
int emb_uffd_open(bool is_sync, enum emb_tracking *ret_tracking);

/* Write-protects [start, start + size) of the fd's process, or lifts it and wakes who waits.
 * Returns 0 or -errno. */
int emb_uffd_protect(int uffd, uint64_t start, uint64_t size, bool is_protected);

#endif
