/* SPDX-License-Identifier: Apache-2.0
 *
 * Is any I/O of a guest that stands still outstanding in this dom0? Proven only for block devices
 * behind the kernel's own backend (blkback): the device counts nothing in flight, every ring has as
 * many responses as requests, and the device again counts nothing. A guest can write into its
 * rings, so they alone would prove nothing; the count alone misses what the backend has not
 * submitted yet.
 *
 * Which ring is which stands in xenstore. It is asked with a bound; no answer means no proof, and
 * that is the safe side: guests are paused by then, and the watchdog does the rest.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hamgr/hv/xen/xen_priv.h"
#include "hamgr/hv/xen/xs.h"

#define BACKENDS   "/sys/bus/xen-backend/devices"
#define DEPTH_MAX  8u  /* of devices upon devices */
#define QUEUES_MAX 64u /* of one vbd */

/* The head of every ring of xen/io/ring.h. */
struct ring_head {
    uint32_t request_produced, request_event;
    uint32_t response_produced, response_event;
};

static enum hv_quiet say(char *ret_why, enum hv_quiet quiet, const char *what, const char *name)
{
    snprintf(ret_why, HA_TEXT_MAX, "%.60s: %.150s", name, what);
    return quiet;
}

static bool read_text(const char *path, char *ret, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, ret, capacity - 1);

    if (fd >= 0)
        close(fd);
    if (size < 0)
        return false;
    ret[size] = '\0';
    return true;
}

/* ---- the device behind ---- */

static bool has(const char *device, const char *name)
{
    char path[512];
    int size = snprintf(path, sizeof(path), "%s/%s", device, name);

    return size < (int)sizeof(path) && access(path, F_OK) == 0;
}

/* A loop device and a cache may hold writes in this dom0's memory after they were answered. */
static bool is_unbuffered(const char *device, unsigned depth)
{
    char path[512];
    struct dirent *entry;
    bool is_right = depth > 0 && !has(device, "loop") && !has(device, "bcache");

    if (has(device, "partition")) {
        int size = snprintf(path, sizeof(path), "%s/..", device);
        return is_right && size < (int)sizeof(path) && is_unbuffered(path, depth - 1);
    }
    snprintf(path, sizeof(path), "%.480s/slaves", device);
    DIR *dir = opendir(path);
    while (is_right && dir && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        int size = snprintf(path, sizeof(path), "%s/slaves/%s", device, entry->d_name);
        is_right = size < (int)sizeof(path) && is_unbuffered(path, depth - 1);
    }
    if (dir)
        closedir(dir);
    return is_right;
}

static bool read_device(const char *backend, char *ret_device, size_t capacity)
{
    char path[512], text[64];
    unsigned major, minor;

    snprintf(path, sizeof(path), BACKENDS "/%.255s/physical_device", backend);
    if (!read_text(path, text, sizeof(text)) || sscanf(text, "%x:%x", &major, &minor) != 2)
        return false;
    snprintf(ret_device, capacity, "/sys/dev/block/%u:%u", major, minor);
    return true;
}

/* Requests in flight at the device, of whoever; -1 if it does not tell. */
static long in_flight(const char *device)
{
    char path[512], text[64];
    unsigned long reads, writes;

    snprintf(path, sizeof(path), "%.480s/inflight", device);
    if (!read_text(path, text, sizeof(text)) || sscanf(text, "%lu %lu", &reads, &writes) != 2)
        return -1;
    return (long)(reads + writes);
}

/* ---- rings ---- */

static enum hv_quiet ring_is_even(struct hv_xen *x, uint32_t domid, uint32_t reference,
                                  const char *name, char *ret_why)
{
    if (!x->gnttab)
        x->gnttab = xengnttab_open(NULL, 0);
    const volatile struct ring_head *head =
        x->gnttab ? xengnttab_map_grant_ref(x->gnttab, domid, reference, PROT_READ) : NULL;
    if (!head)
        return say(ret_why, HV_BUSY, "its ring can't be mapped", name);
    bool is_even = head->request_produced == head->response_produced;
    xengnttab_unmap(x->gnttab, (void *)(uintptr_t)head, 1);
    return is_even ? HV_QUIET : say(ret_why, HV_BUSY, "requests are outstanding", name);
}

/* A number the frontend wrote: 1 = found, 0 = there is none, negative: not known. */
static int read_number(struct hv_xen *x, const char *front, const char *key, uint32_t *ret)
{
    char path[256], text[32], *end = NULL;

    snprintf(path, sizeof(path), "%.200s/%.40s", front, key);
    int rc = xs_client_read(x->xs, path, text, sizeof(text));
    if (rc == -ENOENT)
        return 0;
    if (rc < 0)
        return rc;
    *ret = (uint32_t)strtoul(text, &end, 10);
    return end != text && *end == '\0' ? 1 : -EPROTO;
}

/* The first page of a ring holds its counters, however many it has. */
static enum hv_quiet queue_is_even(struct hv_xen *x, uint32_t domid, const char *front,
                                   const char *name, bool *ret_is_there, char *ret_why)
{
    uint32_t reference = 0;
    int rc = read_number(x, front, "ring-ref", &reference);

    if (rc == 0)
        rc = read_number(x, front, "ring-ref0", &reference);
    if (rc < 0)
        return say(ret_why, HV_BUSY, "xenstored does not tell its ring", name);
    *ret_is_there = rc == 1;
    return rc == 0 ? HV_QUIET : ring_is_even(x, domid, reference, name, ret_why);
}

static bool is_connected(const char *backend)
{
    char path[512], text[64] = "";

    snprintf(path, sizeof(path), BACKENDS "/%.255s/state", backend);
    return !read_text(path, text, sizeof(text)) || strncmp(text, "Connected", 9) == 0;
}

static enum hv_quiet rings_are_even(struct hv_xen *x, uint32_t domid, const char *backend,
                                    char *ret_why)
{
    const char *number = strrchr(backend, '-');
    char front[128], queue[160];
    uint32_t queues = 0, found = 0;
    bool is_there = false;

    snprintf(front, sizeof(front), "/local/domain/%u/device/vbd/%.32s", domid,
             number ? number + 1 : "");
    int rc = read_number(x, front, "multi-queue-num-queues", &queues);
    if (rc < 0 || queues > QUEUES_MAX)
        return say(ret_why, HV_BUSY, "xenstored does not tell its rings", backend);
    enum hv_quiet quiet = HV_QUIET;
    if (rc == 0)
        quiet = queue_is_even(x, domid, front, backend, &is_there, ret_why);
    found = is_there;
    for (uint32_t n = 0; n < queues && quiet == HV_QUIET; n++) {
        snprintf(queue, sizeof(queue), "%s/queue-%u", front, n);
        quiet = queue_is_even(x, domid, queue, backend, &is_there, ret_why);
        found += is_there;
    }
    if (quiet == HV_QUIET && is_connected(backend) && (found == 0 || found < queues))
        return say(ret_why, HV_BUSY, "its rings are not told", backend);
    return quiet;
}

static enum hv_quiet backend_quiet(struct hv_xen *x, uint32_t domid, const char *backend,
                                   char *ret_why)
{
    char device[64];

    if (!read_device(backend, device, sizeof(device)))
        return is_connected(backend) ? say(ret_why, HV_BUSY, "its device is not known", backend)
                                     : HV_QUIET;
    if (!is_unbuffered(device, DEPTH_MAX))
        return say(ret_why, HV_NEVER_QUIET, "its disk is a loop or cached device", backend);
    if (in_flight(device) != 0)
        return say(ret_why, HV_BUSY, "its device has requests in flight", backend);
    enum hv_quiet quiet = rings_are_even(x, domid, backend, ret_why);
    if (quiet != HV_QUIET)
        return quiet;
    return in_flight(device) == 0
               ? HV_QUIET
               : say(ret_why, HV_BUSY, "its device has requests in flight", backend);
}

static enum hv_quiet backends_quiet(struct hv_xen *x, uint32_t domid, char *ret_why)
{
    enum hv_quiet quiet = HV_QUIET;
    struct dirent *entry;
    char prefix[32];

    snprintf(prefix, sizeof(prefix), "vbd-%u-", domid);
    DIR *dir = opendir(BACKENDS);
    if (!dir) /* no backend driver was ever loaded, so none has requests */
        return errno == ENOENT ? HV_QUIET
                               : say(ret_why, HV_BUSY, "the backends can't be listed", BACKENDS);
    while (quiet == HV_QUIET && (entry = readdir(dir)) != NULL)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            quiet = backend_quiet(x, domid, entry->d_name, ret_why);
    closedir(dir);
    return quiet;
}

enum hv_quiet xen_quiet(struct hv *hv, uint32_t domid, char ret_why[HA_TEXT_MAX])
{
    struct hv_xen *x = xen_of(hv);
    struct xen_look look;
    int rc = xen_look_at(x, domid, &look);

    ret_why[0] = '\0';
    if (rc == 0)
        return HV_QUIET;
    if (rc < 0)
        return say(ret_why, HV_BUSY, "the hypervisor does not tell its state", "domain");
    if (look.state == HV_RUNNING)
        return say(ret_why, HV_BUSY, "it is not paused", "domain");
    if (!look.is_ours)
        return say(ret_why, HV_NEVER_QUIET, "it can't be identified, so neither can its disks",
                   "domain");
    if (look.record.disks == XEN_DISKS_OTHER)
        return say(ret_why, HV_NEVER_QUIET,
                   "a disk of it is a file, emulated or scripted: its writes can't be counted",
                   "domain");
    return backends_quiet(x, domid, ret_why);
}
