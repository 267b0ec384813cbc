/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/rules.h"

#include <stdio.h>
#include <string.h>

#include "hamgr/base/assert.h"

/* SHUTDOWN_* of the hypervisor's public interface, which this part does not need otherwise. */
enum { REASON_POWEROFF = 0, REASON_REBOOT, REASON_SUSPEND, REASON_CRASH, REASON_WATCHDOG };

/* Beside its memory a domain costs a shadow pool (about 1/128 of it, and 1 MiB a processor), page
 * tables and structures (a few MiB). 1/64 covers that for guests of usual size, 32 MiB for the
 * first small ones; what is really free is looked at for each promise anyway. */
#define CUSHION_PART 64u
#define CUSHION_KIB  (32u * 1024u)

enum hv_domain_state xen_state_of(const struct xen_facts *facts, bool is_building,
                                  const struct xen_ends *ends)
{
    /* Its destruction was begun and did not end: nothing of it can run, it is to be removed. */
    if (facts->is_dying)
        return HV_CRASHED;
    /* Whatever a record says. Who paused what was let go may let it go on at any time, or is
     * taking it apart: it is no copy of ours that waits to be run. */
    if (!facts->is_shutdown && (!facts->is_paused || facts->is_let_go))
        return HV_RUNNING;
    if (is_building)
        return HV_BUILDING;
    if (!facts->is_shutdown)
        return HV_PAUSED;
    switch (facts->reason) {
    case REASON_POWEROFF:
        return (enum hv_domain_state)ends->on_poweroff;
    case REASON_REBOOT:
        return (enum hv_domain_state)ends->on_reboot;
    case REASON_SUSPEND:
        return HV_SUSPENDED;
    case REASON_CRASH:
    case REASON_WATCHDOG:
    default: /* a reason nobody taught us (soft reset among them): ended, not as wanted */
        return HV_CRASHED;
    }
}

uint32_t xen_domid_after(uint32_t last)
{
    return last < XEN_DOMID_FIRST || last >= XEN_DOMID_LAST ? XEN_DOMID_FIRST : last + 1;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

uint64_t xen_memory_free(const struct xen_memory *m)
{
    uint64_t by_books = less(less(m->total, m->held), m->promised);
    uint64_t real = less(less(m->free_real, m->missing), m->promised);

    return by_books < real ? by_books : real;
}

uint64_t xen_memory_total(uint64_t free_kib, uint64_t guests_kib)
{
    uint64_t all = free_kib + guests_kib;

    return less(all, all / CUSHION_PART + CUSHION_KIB) & ~UINT64_C(3); /* whole pages */
}

uint16_t xen_cap_of(uint32_t percent, uint32_t vcpus, uint32_t cap_percent)
{
    uint64_t whole = cap_percent != 0 ? cap_percent : (uint64_t)vcpus * 100;

    ha_assert(percent >= 1 && percent <= 100);
    if (percent == 100)
        whole = cap_percent;
    else
        whole = whole * percent / 100 > 0 ? whole * percent / 100 : 1; /* 0 would be no cap */
    return whole < UINT16_MAX ? (uint16_t)whole : UINT16_MAX;
}

uint16_t xen_cap_of_use(uint32_t percent, uint32_t used_percent, uint32_t vcpus,
                        uint32_t cap_percent)
{
    uint32_t most = cap_percent != 0 ? cap_percent : vcpus * 100;
    bool is_known = used_percent > 0 && used_percent < most;

    return xen_cap_of(percent, vcpus, is_known && percent < 100 ? used_percent : cap_percent);
}

const char *xen_live_refusal(uint8_t kind, bool has_shadow, bool has_hap)
{
    if (kind == XEN_KIND_PV && !has_shadow)
        return "this hypervisor is built without shadow paging, so it can't track what a PV guest "
               "writes: such a guest can be moved only while it stands still (or be PVH)";
    if (kind != XEN_KIND_PV && !has_shadow && !has_hap)
        return "this hypervisor has neither HAP nor shadow paging: no guest can be moved live";
    return NULL;
}

uint64_t xen_still_ms(const struct hv_save_params *params)
{
    uint64_t behind_ms = params->switch_us / 1000;

    if (params->is_live || params->max_downtime_ms == 0 || params->on_slow == HV_SLOW_PAUSE)
        return UINT64_MAX;
    return params->max_downtime_ms > behind_ms ? params->max_downtime_ms - behind_ms : 0;
}

/* ---- the helper ---- */

const char *xen_helper_refusal(bool is_there, const char *here, const char *made_for, bool is_bound)
{
    if (!is_there)
        return "it is not there";
    if (strcmp(here, made_for) != 0)
        return "it is made for another release of Xen than the hypervisor's";
    return is_bound ? NULL : "Xen's libraries would not call it";
}

void xen_helper_words(bool is_ours, const char *words, char ret_text[HA_TEXT_MAX])
{
    if (is_ours && strstr(words, "save/restore helper"))
        snprintf(ret_text, HA_TEXT_MAX,
                 "hamgr-xen-helper died (%.70s): hamgr-hv's log tells more; hamgr-hv --xen-helper "
                 "stock does without it",
                 words);
    else
        snprintf(ret_text, HA_TEXT_MAX, "%s", words);
}

/* ---- Xen's command line ---- */

bool xen_is_dom0_fixed(const char *line)
{
    for (const char *at = strstr(line, "dom0_mem="); at; at = strstr(at + 1, "dom0_mem=")) {
        size_t size = strcspn(at, " ");
        const char *max = strstr(at, "max:");
        if (max && max < at + size)
            return true;
    }
    return false;
}

static bool is_word(const char *word, size_t size, const char *expected)
{
    return size == strlen(expected) && memcmp(word, expected, size) == 0;
}

/* Xen's words for no. */
static bool is_no(const char *value, size_t size)
{
    return is_word(value, size, "0") || is_word(value, size, "no") || is_word(value, size, "off") ||
           is_word(value, size, "false") || is_word(value, size, "disable");
}

bool xen_has_watchdog(const char *line)
{
    bool is_on = false;

    for (const char *at = line; *at != '\0';) {
        at += strspn(at, " \t");
        size_t size = strcspn(at, " \t");
        if (is_word(at, size, "no-watchdog"))
            is_on = false;
        else if (is_word(at, size, "watchdog"))
            is_on = true;
        else if (size > 9 && memcmp(at, "watchdog=", 9) == 0)
            is_on = !is_no(at + 9, size - 9);
        at += size;
    }
    return is_on;
}
