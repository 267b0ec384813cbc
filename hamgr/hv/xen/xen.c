/* SPDX-License-Identifier: Apache-2.0
 *
 * The handle of the xen driver: opening, what the hypervisor can, and the verb table.
 */
#include "hamgr/hv/xen/xen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/xen/xen_priv.h"
#include "hamgr/hv/xen/xs.h"

#define CAPABILITIES_PATH "/proc/xen/capabilities"
#define HYPERVISOR_PATH   "/sys/hypervisor/type"

static void say_nothing(struct xentoollog_logger *logger, xentoollog_level level, int errnoval,
                        const char *context, const char *format, va_list args)
{
    (void)logger;
    (void)level;
    (void)errnoval;
    (void)context;
    (void)format;
    (void)args;
}

static void keep(struct xentoollog_logger *logger)
{
    (void)logger;
}

/* libxenctrl would log to stderr what is an ordinary answer here (no such domain). */
static xentoollog_logger quiet_log = {.vmessage = say_nothing, .destroy = keep};

static void xen_close(struct hv *hv)
{
    struct hv_xen *x = xen_of(hv);

    xen_lx_close(x->lx);
    xs_client_close(x->xs);
    if (x->gnttab)
        xengnttab_close(x->gnttab);
    if (x->xc)
        xc_interface_close(x->xc);
    if (x->dir_fd >= 0)
        close(x->dir_fd);
    free(x->promises);
    free(x);
}

static int no_event_fd(struct hv *hv)
{
    /* The virtual interrupt that tells of ended domains has one taker, xenstored, and its watches
     * are as dependable as xenstored is. The gate polls: one hypercall each P. */
    (void)hv;
    return -1;
}

static void no_event_clear(struct hv *hv)
{
    (void)hv;
}

static const struct hv_ops OPS = {
    .name = "xen",
    .caps = xen_caps,
    .list = xen_list,
    .run = xen_run,
    .pause = xen_pause,
    .quiet = xen_quiet,
    .throttle = xen_throttle,
    .event_fd = no_event_fd,
    .event_clear = no_event_clear,
    .reserve = xen_reserve,
    .release = xen_release,
    .create = xen_create,
    .shutdown = xen_shutdown,
    .destroy = xen_destroy,
    .suspend = xen_suspend,
    .drain = xen_drain,
    .save = xen_save,
    .restore = xen_restore,
    .resume_prepare = xen_resume_prepare,
    .dirty_sample = xen_dirty_sample,
    .log_dirty_off = xen_log_dirty_off,
    .tell = xen_tell,
    .checkpoint = xen_checkpoint,
    .close = xen_close,
};

static bool read_word(const char *path, char *ret, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, ret, capacity - 1);

    if (fd >= 0)
        close(fd);
    if (size < 0)
        return false;
    ret[size] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
    return true;
}

/* Said before libraries are asked, who would only say that a device is missing. */
static int check_place(struct ha_err *err)
{
    char word[64];

    if (!read_word(HYPERVISOR_PATH, word, sizeof(word)) || strcmp(word, "xen") != 0)
        return ha_err_set(err, HA_E_REFUSED,
                          "this machine does not run on Xen (" HYPERVISOR_PATH
                          "): boot it under the hypervisor, or set hypervisor = embedded");
    if (!read_word(CAPABILITIES_PATH, word, sizeof(word)))
        return ha_err_set(err, HA_E_REFUSED,
                          "no " CAPABILITIES_PATH ": mount xenfs (modprobe xenfs; mount -t xenfs "
                          "xenfs /proc/xen)");
    if (!strstr(word, "control_d"))
        return ha_err_set(err, HA_E_REFUSED,
                          "this is a guest of Xen, not its dom0 (" CAPABILITIES_PATH ")");
    return 0;
}

static int read_version(struct hv_xen *x, struct ha_err *err)
{
    xen_extraversion_t extra = "";
    int version = xc_version(x->xc, XENVER_version, NULL);

    if (version < 0 || xc_version(x->xc, XENVER_extraversion, extra) != 0)
        return ha_err_set(err, errno, "the hypervisor does not tell its version: %s",
                          strerror(errno));
    snprintf(x->version, sizeof(x->version), "Xen %d.%d%.15s%s%s", version >> 16, version & 0xffff,
             extra, x->has_hap ? ", hap" : "", x->has_shadow ? ", shadow" : ", no shadow paging");
    return 0;
}

static void add_tot(void *user, const struct xen_look *look)
{
    *(uint64_t *)user += look->tot_kib + look->outstanding_kib;
}

static int read_machine(struct hv_xen *x, struct ha_err *err)
{
    xc_physinfo_t info = {0};
    uint64_t guests_kib = 0;

    if (xc_physinfo(x->xc, &info) != 0)
        return ha_err_set(err, errno, "the hypervisor does not tell what it is: %s",
                          strerror(errno));
    x->has_shadow = (info.capabilities & XEN_SYSCTL_PHYSCAP_shadow) != 0;
    x->has_hap = (info.capabilities & XEN_SYSCTL_PHYSCAP_hap) != 0;
    int rc = xen_look_all(x, add_tot, &guests_kib);
    if (rc != 0)
        return ha_err_set(err, -rc, "the hypervisor does not list its domains: %s", strerror(-rc));
    uint64_t free_pages =
        info.free_pages > info.outstanding_pages ? info.free_pages - info.outstanding_pages : 0;
    x->mem_kib = xen_memory_total(free_pages * PAGE_KIB, guests_kib);
    return read_version(x, err);
}

static bool is_there(void *user, uint32_t domid)
{
    struct xen_look look;

    return xen_look_at(user, domid, &look) != 0;
}

static int open_all(struct hv_xen *x, const struct hv_xen_options *options, struct ha_err *err)
{
    int rc = check_place(err);

    if (rc == 0 && strlen(options->allow_path) >= sizeof(x->allow_path))
        rc = ha_err_set(err, HA_E_USAGE, "%.80s is too long", options->allow_path);
    if (rc == 0 && options->helper && strlen(options->helper) >= sizeof(x->helper))
        rc = ha_err_set(err, HA_E_USAGE, "%.80s is too long", options->helper);
    if (rc != 0)
        return rc;
    snprintf(x->allow_path, sizeof(x->allow_path), "%s", options->allow_path);
    if (options->helper)
        snprintf(x->helper, sizeof(x->helper), "%s", options->helper);
    x->is_verifying = options->is_verifying;
    x->dir_fd = xen_records_open(options->run_dir, err);
    if (x->dir_fd < 0)
        return x->dir_fd;
    x->xc = xc_interface_open(&quiet_log, &quiet_log, 0);
    if (!x->xc)
        return ha_err_set(err, errno, "the hypervisor can't be reached: %s", strerror(errno));
    rc = read_machine(x, err);
    if (rc == 0)
        xen_records_sweep(x->dir_fd, is_there, x);
    return rc;
}

struct hv *hv_xen_open(const struct hv_xen_options *options, struct ha_err *err)
{
    struct hv_xen *x = calloc(1, sizeof(*x));

    if (!x) {
        ha_err_set(err, HA_E_NO_MEMORY, "xen driver");
        return NULL;
    }
    x->hv.ops = &OPS;
    x->dir_fd = -1;
    x->promises = calloc(HA_GUESTS_MAX, sizeof(*x->promises));
    x->xs = xs_client_new(XS_SOCKET);
    if (x->promises && x->xs && open_all(x, options, err) == 0)
        return &x->hv;
    if (!x->promises || !x->xs)
        ha_err_set(err, HA_E_NO_MEMORY, "xen driver");
    ha_err_prefix(err, "xen");
    xen_close(&x->hv);
    return NULL;
}
