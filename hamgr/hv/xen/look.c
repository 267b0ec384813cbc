/* SPDX-License-Identifier: Apache-2.0
 *
 * What the hypervisor shows, joined with the records: one hypercall for many domains, and a small
 * file for each.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "hamgr/hv/xen/xen_priv.h"

#define INFOS_MAX 256u

uint64_t xen_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* dom0 and a domain that is xenstore itself are no guests: stopping either stops the node. */
static bool is_guest(const xc_domaininfo_t *info)
{
    return info->domain != 0 && info->domain < DOMID_FIRST_RESERVED &&
           (info->flags & XEN_DOMINF_xs_domain) == 0;
}

static void fill(struct hv_xen *x, const xc_domaininfo_t *info, struct xen_look *ret)
{
    *ret = (struct xen_look){
        .domid = info->domain,
        .facts = {.is_dying = (info->flags & XEN_DOMINF_dying) != 0,
                  .is_shutdown = (info->flags & XEN_DOMINF_shutdown) != 0,
                  .is_paused = (info->flags & XEN_DOMINF_paused) != 0,
                  .reason = (uint8_t)((info->flags >> XEN_DOMINF_shutdownshift) &
                                      XEN_DOMINF_shutdownmask)},
        .tot_kib = info->tot_pages * PAGE_KIB,
        .max_kib = info->max_pages * PAGE_KIB,
        .outstanding_kib = info->outstanding_pages * PAGE_KIB,
    };
    memcpy(ret->handle.b, info->handle, sizeof(ret->handle.b));
    ret->is_ours = xen_record_read(x->dir_fd, info->domain, &ret->record) &&
                   ha_uuid_equal(ret->record.label.guest, ret->handle);
    ret->facts.is_let_go =
        ret->is_ours && ret->facts.is_paused && xen_record_is_let_go(x->dir_fd, info->domain);
    if (!ret->is_ours)
        ret->record = (struct xen_record){.ends = {HV_POWEROFF, HV_REBOOT}};
    ret->state = xen_state_of(&ret->facts, ret->is_ours && ret->record.phase == XEN_BUILDING,
                              &ret->record.ends);
}

int xen_look_at(struct hv_xen *x, uint32_t domid, struct xen_look *ret)
{
    xc_domaininfo_t info;

    if (domid == 0 || domid >= DOMID_FIRST_RESERVED)
        return 0;
    int count = xc_domain_getinfolist(x->xc, domid, 1, &info);
    if (count < 0)
        return errno != 0 ? -errno : -HA_E_UNKNOWN;
    if (count == 0 || info.domain != domid || !is_guest(&info))
        return 0;
    fill(x, &info, ret);
    return 1;
}

bool xen_look_ours(struct hv_xen *x, uint32_t domid, struct xen_look *ret, struct ha_err *err)
{
    int rc = xen_look_at(x, domid, ret);

    if (rc < 0)
        ha_err_set(err, -rc, "the hypervisor does not tell of domain %u: %s", domid,
                   strerror(errno));
    else if (rc == 0 || !ret->is_ours)
        ha_err_set(err, HA_E_NOT_FOUND, "no domain %u of ours", domid);
    return rc == 1 && ret->is_ours;
}

int xen_look_all(struct hv_xen *x, void (*visit)(void *user, const struct xen_look *look),
                 void *user)
{
    xc_domaininfo_t infos[INFOS_MAX];
    struct xen_look look;
    uint32_t next = 1;
    int count;

    do {
        count = xc_domain_getinfolist(x->xc, next, INFOS_MAX, infos);
        if (count < 0)
            return errno != 0 ? -errno : -HA_E_UNKNOWN;
        for (int n = 0; n < count; n++) {
            next = infos[n].domain + 1u;
            if (!is_guest(&infos[n]))
                continue;
            fill(x, &infos[n], &look);
            visit(user, &look);
        }
    } while (count == (int)INFOS_MAX && next < DOMID_FIRST_RESERVED);
    return 0;
}
