/* SPDX-License-Identifier: Apache-2.0
 *
 * What the xen driver decides, apart from Xen itself: what a domain's flags mean, which domid comes
 * next, how much memory is free, what to claim, what cap a throttle is. Pure.
 */
#ifndef HAMGR_HV_XEN_RULES_H
#define HAMGR_HV_XEN_RULES_H

#include "hamgr/hv/hv.h"

enum xen_kind { XEN_KIND_PV = 1, XEN_KIND_PVH, XEN_KIND_HVM };

/* What can be said of a guest's writable disks when nothing runs in it any more. */
enum xen_disks {
    XEN_DISKS_NONE = 1,
    XEN_DISKS_BLOCK, /* block devices behind the kernel's own backend: rings and counts prove it */
    XEN_DISKS_OTHER, /* files, loops, emulated or scripted: never proven quiet */
};

/* What a guest's own end means for its owner. */
struct xen_ends {
    uint8_t on_poweroff; /* enum hv_domain_state: POWEROFF or REBOOT */
    uint8_t on_reboot;
};

/* Our domains are numbered from here, Xen's own counter begins at 1: they meet only when one has
 * come round, and then the hypervisor says so. */
#define XEN_DOMID_FIRST 0x1000u
#define XEN_DOMID_LAST  0x7fefu

/* Of a domain as the hypervisor shows it. */
struct xen_facts {
    bool is_dying;
    bool is_shutdown;
    bool is_paused; /* by the controller */
    /* hamgr made it runnable and did not pause it since: if it is paused, another did that. `xl
     * destroy` begins so, then takes the devices away; only its end is seen as is_dying. */
    bool is_let_go;
    uint8_t reason; /* SHUTDOWN_* of xen/sched.h, when is_shutdown */
};

/* is_building: its record says that a worker has not completed it. */
enum hv_domain_state xen_state_of(const struct xen_facts *facts, bool is_building,
                                  const struct xen_ends *ends);

/* The domid after last, coming round at the end. */
uint32_t xen_domid_after(uint32_t last);

/* All of KiB. */
struct xen_memory {
    uint64_t total;     /* for guests, fixed at start */
    uint64_t held;      /* by what the domains here may use */
    uint64_t promised;  /* to copies that are not there yet */
    uint64_t free_real; /* what the hypervisor has neither given away nor claimed */
    uint64_t missing;   /* to domains being built, of what they may use, unclaimed */
};

/* Memory for one more promise: by the books and by what is really there. */
uint64_t xen_memory_free(const struct xen_memory *m);
/* Memory for guests at start: what is free and what guests hold, without a cushion for what each
 * domain costs beside its memory (page tables, shadow pool, its structures). */
uint64_t xen_memory_total(uint64_t free_kib, uint64_t guests_kib);

/* The scheduler's cap (percent of one processor, 0 = none) for a throttle of percent (1..100) of
 * vcpus processors; cap_percent is the guest's own. */
uint16_t xen_cap_of(uint32_t percent, uint32_t vcpus, uint32_t cap_percent);

/* The same for a guest that used used_percent of a processor when nobody slowed it down (0: not
 * known): half of a guest that sleeps most of the time is half of what it used. */
uint16_t xen_cap_of_use(uint32_t percent, uint32_t used_percent, uint32_t vcpus,
                        uint32_t cap_percent);

/* Why a live save can't be had for a guest of that kind here; NULL: it can. */
const char *xen_live_refusal(uint8_t kind, bool has_shadow, bool has_hap);
/* How long a save of a guest that stands still may take for max_downtime to be kept with what comes
 * behind it; UINT64_MAX: as long as it takes (it is live, or on_slow says so). */
uint64_t xen_still_ms(const struct hv_save_params *params);

/* Why hamgr's own save helper will not do; NULL: it will. here, made_for: releases of the
 * hypervisor and of the libraries it was built with ("4.17"). is_bound: the libraries here would
 * call it. */
const char *xen_helper_refusal(bool is_there, const char *here, const char *made_for,
                               bool is_bound);
/* What libxl says of a save or restore that failed, for people: if it says that its helper died and
 * that was ours, with where more is told and how to do without. */
void xen_helper_words(bool is_ours, const char *words, char ret_text[HA_TEXT_MAX]);

/* Xen's command line: does it fix dom0's memory (dom0_mem=2G,max:2G; with several given, Xen takes
 * each)? Does it switch Xen's own watchdog on (the last word counts)? */
bool xen_is_dom0_fixed(const char *line);
bool xen_has_watchdog(const char *line);

#endif
