/* SPDX-License-Identifier: Apache-2.0
 *
 * The verbs of the gate: a few hypercalls each. Nothing here waits for xenstored or anybody else.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hamgr/hv/xen/work.h"

/* The hypervisor counts pauses of the controller up to 255: a worker and the gate may both have
 * asked. */
#define PAUSES_MAX 256u

/* libxl waits up to 40 s for a device's script and 10 s for a device: two of each in a row. */
#define XEN_PLAIN_MS 100000u

int xen_caps(struct hv *hv, struct hv_caps *ret_caps)
{
    struct hv_xen *x = xen_of(hv);

    *ret_caps = (struct hv_caps){.driver = "xen",
                                 .mem_kib = x->mem_kib,
                                 .has_live_migration = x->has_hap || x->has_shadow,
                                 .has_throttle = true,
                                 .has_ring_feed = xen_use_helper(x),
                                 .plain_ms = XEN_PLAIN_MS};
    memcpy(ret_caps->version, x->version, sizeof(ret_caps->version));
    return 0;
}

/* ---- list ---- */

struct listing {
    struct hv_domain *domains;
    uint32_t capacity, count;
};

static void take_domain(void *user, const struct xen_look *look)
{
    struct listing *l = user;

    if (l->count == l->capacity)
        return;
    struct hv_domain *d = &l->domains[l->count++];
    *d = (struct hv_domain){.domid = look->domid,
                            .is_labelled = look->is_ours,
                            .label = look->record.label,
                            .state = (uint8_t)look->state,
                            .mem_kib = look->is_ours ? look->record.mem_kib : look->max_kib};
    memcpy(d->name, look->record.name, sizeof(d->name));
    if (!look->is_ours)
        snprintf(d->name, sizeof(d->name), "domain-%u", look->domid);
}

int xen_list(struct hv *hv, struct hv_domain *ret_domains, uint32_t capacity)
{
    struct listing l = {.domains = ret_domains, .capacity = capacity};
    int rc = xen_look_all(xen_of(hv), take_domain, &l);

    return rc < 0 ? rc : (int)l.count;
}

/* ---- run and pause ---- */

enum hv_outcome xen_run(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct xen_look look;

    for (unsigned n = 0; n < PAUSES_MAX; n++) {
        if (!xen_look_ours(x, domid, &look, err))
            return n == 0 ? HV_FAILED : HV_UNKNOWN;
        if (look.state == HV_RUNNING) {
            /* After, not before: one that is paused and marked would never be run again. */
            xen_record_let_go(x->dir_fd, domid);
            return HV_OK;
        }
        if (look.state != HV_PAUSED)
            return n == 0 ? hv_failed(err, HA_E_REFUSED,
                                      "domain %u is being built, suspended, or has ended", domid)
                          : HV_OK; /* it ran, and ended at once */
        if (xc_domain_unpause(x->xc, domid) != 0)
            return n == 0 ? hv_failed(err, errno, "unpause domain %u: %s", domid, strerror(errno))
                          : hv_unknown(err, errno, "unpause domain %u: %s", domid, strerror(errno));
    }
    return hv_unknown(err, HA_E_UNKNOWN, "domain %u stays paused", domid);
}

/* A pause by another ends when that other wants: it takes one of our own. */
static bool is_still(const struct xen_look *look)
{
    bool is_held = look->facts.is_paused && !look->facts.is_let_go;

    return is_held || look->facts.is_shutdown || look->facts.is_dying;
}

enum hv_outcome xen_pause_now(struct hv_xen *x, uint32_t domid, struct ha_err *err)
{
    struct xen_look look;
    int rc = xen_look_at(x, domid, &look);

    if (rc == 0)
        return hv_failed(err, HA_E_NOT_FOUND, "no domain %u", domid);
    if (rc == 1 && is_still(&look))
        return HV_OK;
    (void)xen_record_hold(x->dir_fd, domid);
    /* It returns when every processor of the domain has stopped. */
    int paused = xc_domain_pause(x->xc, domid);
    int code = errno;
    rc = xen_look_at(x, domid, &look);
    if (rc == 0 || (rc == 1 && is_still(&look)))
        return HV_OK;
    return hv_unknown(err, code, "pause domain %u: %s", domid,
                      paused != 0 ? strerror(code) : "it is not seen paused");
}

enum hv_outcome xen_pause(struct hv *hv, uint32_t domid, struct ha_err *err)
{
    return xen_pause_now(xen_of(hv), domid, err);
}

/* ---- throttle ---- */

static int set_credit(struct hv_xen *x, uint32_t domid, uint16_t cap)
{
    struct xen_domctl_sched_credit params;

    if (xc_sched_credit_domain_get(x->xc, domid, &params) != 0)
        return -errno;
    params.cap = cap;
    return xc_sched_credit_domain_set(x->xc, domid, &params) == 0 ? 0 : -errno;
}

static int set_credit2(struct hv_xen *x, uint32_t domid, uint16_t cap)
{
    struct xen_domctl_sched_credit2 params;

    if (xc_sched_credit2_domain_get(x->xc, domid, &params) != 0)
        return -errno;
    params.cap = cap;
    return xc_sched_credit2_domain_set(x->xc, domid, &params) == 0 ? 0 : -errno;
}

int xen_set_cap(struct hv_xen *x, uint32_t domid, uint16_t cap, struct ha_err *err)
{
    int scheduler = 0;
    int rc = xc_sched_id(x->xc, &scheduler) == 0 ? -ENOTSUP : -errno;

    if (scheduler == XEN_SCHEDULER_CREDIT)
        rc = set_credit(x, domid, cap);
    else if (scheduler == XEN_SCHEDULER_CREDIT2)
        rc = set_credit2(x, domid, cap);
    return rc == 0 ? 0 : ha_err_set(err, -rc, "cap of domain %u: %s", domid, strerror(-rc));
}

enum hv_outcome xen_throttle(struct hv *hv, uint32_t domid, uint32_t percent, struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct xen_look look;

    if (percent < 1 || percent > 100)
        return hv_failed(err, HA_E_USAGE, "throttle %u: expected 1 to 100 percent", percent);
    if (!xen_look_ours(x, domid, &look, err))
        return HV_FAILED;
    uint16_t cap = xen_cap_of(percent, look.record.vcpus, look.record.cap_percent);
    return xen_set_cap(x, domid, cap, err) == 0 ? HV_OK : HV_FAILED;
}

/* ---- memory ---- */

static bool is_label_equal(const struct hv_label *a, const struct hv_label *b)
{
    return ha_uuid_equal(a->cluster_id, b->cluster_id) && a->generation == b->generation &&
           ha_uuid_equal(a->guest, b->guest) && a->epoch == b->epoch;
}

static uint32_t promise_place(const struct hv_xen *x, const struct hv_label *label)
{
    uint32_t n = 0;

    while (n < x->promise_count && !is_label_equal(&x->promises[n].label, label))
        n++;
    return n;
}

struct sum {
    struct hv_xen *x;
    struct xen_memory memory;
};

static void count_domain(void *user, const struct xen_look *look)
{
    struct sum *s = user;
    uint64_t may_use = look->is_ours ? look->record.mem_kib : look->max_kib;
    uint64_t has = look->tot_kib + look->outstanding_kib;

    s->memory.held += may_use;
    if (look->state == HV_BUILDING && may_use > has)
        s->memory.missing += may_use - has;
    if (!look->is_ours)
        return;
    /* What was promised for it is held by it now. */
    uint32_t at = promise_place(s->x, &look->record.label);
    if (at < s->x->promise_count)
        s->memory.promised -= s->x->promises[at].mem_kib;
}

static int count_memory(struct hv_xen *x, struct xen_memory *ret)
{
    struct sum s = {.x = x, .memory = {.total = x->mem_kib}};
    xc_physinfo_t info = {0};

    for (uint32_t n = 0; n < x->promise_count; n++)
        s.memory.promised += x->promises[n].mem_kib;
    if (xc_physinfo(x->xc, &info) != 0)
        return -errno;
    int rc = xen_look_all(x, count_domain, &s);
    uint64_t claimed =
        info.outstanding_pages < info.free_pages ? info.outstanding_pages : info.free_pages;
    s.memory.free_real = (info.free_pages - claimed) * PAGE_KIB;
    *ret = s.memory;
    return rc;
}

enum hv_outcome xen_reserve(struct hv *hv, const struct hv_label *label, uint64_t mem_kib,
                            struct ha_err *err)
{
    struct hv_xen *x = xen_of(hv);
    struct xen_memory memory;
    uint32_t at = promise_place(x, label);
    struct xen_promise before = {0};

    if (at == HA_GUESTS_MAX)
        return hv_failed(err, HA_E_LIMIT, "%u memory promises", HA_GUESTS_MAX);
    if (at < x->promise_count) { /* asked again: the old promise is part of what is free */
        before = x->promises[at];
        x->promises[at].mem_kib = 0;
    }
    int rc = count_memory(x, &memory);
    uint64_t free_kib = rc == 0 ? xen_memory_free(&memory) : 0;
    if (rc == 0 && mem_kib <= free_kib) {
        x->promises[at] = (struct xen_promise){.label = *label, .mem_kib = mem_kib};
        x->promise_count += at == x->promise_count;
        return HV_OK;
    }
    if (at < x->promise_count)
        x->promises[at] = before;
    if (rc != 0)
        return hv_failed(err, -rc, "the hypervisor does not tell its memory: %s", strerror(-rc));
    return hv_failed(err, HA_E_NO_MEMORY, "%llu MiB wanted, %llu of %llu MiB are free",
                     (unsigned long long)(mem_kib >> 10), (unsigned long long)(free_kib >> 10),
                     (unsigned long long)(x->mem_kib >> 10));
}

void xen_release(struct hv *hv, const struct hv_label *label)
{
    struct hv_xen *x = xen_of(hv);
    uint32_t at = promise_place(x, label);

    if (at < x->promise_count)
        x->promises[at] = x->promises[--x->promise_count];
}
