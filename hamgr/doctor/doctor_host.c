/* SPDX-License-Identifier: Apache-2.0
 *
 * Findings about one host: hypervisor, kernel, memory, disks, watchdog, clock.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hamgr/doctor/doctor_internal.h"

#define XEN_LEAST ((4u << 16) | 17u)
/* Wall clocks of healthy hosts agree to milliseconds; the question's own way is not counted. */
#define CLOCKS_DIFFER_MS 1000u
#define SLEW_PPM_MOST    5000u /* half a percent, what hamgr allows for clocks in its own times */

/* ---- hypervisor ---- */

static bool has_kind(const struct doctor *d, uint8_t kind)
{
    for (uint32_t i = 0; i < d->in->guest_count; i++) {
        if (d->in->guests[i].kind == kind)
            return true;
    }
    return false;
}

static void judge_paging(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    struct ha_finding *f;

    if (ha_facts_is_not(facts, HA_FACT_HAS_SHADOW)) {
        bool is_used = has_kind(d, HA_KIND_PV);
        f = doctor_find(d, HA_FINDING_NO_PV_LIVE, is_used ? HA_SEVERITY_WARNING : HA_SEVERITY_NOTE,
                        node->id);
        snprintf(f->what, sizeof(f->what),
                 "%s: its Xen has no shadow paging: PV guests move with a pause only", node->name);
        snprintf(
            f->fix, sizeof(f->fix),
            "make the guests PVH (type = \"pvh\"), or rebuild Xen with CONFIG_SHADOW_PAGING=y");
    }
    if (ha_facts_is_not(facts, HA_FACT_HAS_HAP)) {
        bool is_used = has_kind(d, HA_KIND_HVM) || has_kind(d, HA_KIND_PVH);
        f = doctor_find(d, HA_FINDING_NO_HAP, is_used ? HA_SEVERITY_WARNING : HA_SEVERITY_NOTE,
                        node->id);
        snprintf(f->what, sizeof(f->what), "%s: no hardware assisted paging", node->name);
        snprintf(f->fix, sizeof(f->fix),
                 "switch on VT-x with EPT (AMD: SVM with NPT) in %s's firmware", node->name);
    }
}

static void judge_xen(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    uint64_t version = facts->number[HA_FACT_XEN_VERSION];
    struct ha_finding *f;

    if (ha_facts_is_not(facts, HA_FACT_IS_XEN)) {
        f = doctor_find(d, HA_FINDING_NOT_XEN, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s does not run on Xen", node->name);
        snprintf(f->fix, sizeof(f->fix),
                 "apt install xen-system-amd64, then boot the entry \"with Xen hypervisor\"");
        return;
    }
    if (ha_facts_is_not(facts, HA_FACT_IS_DOM0)) {
        f = doctor_find(d, HA_FINDING_NOT_DOM0, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s is a guest of Xen, or its xenfs is not mounted",
                 node->name);
        snprintf(f->fix, sizeof(f->fix), "in dom0: modprobe xenfs; mount -t xenfs xenfs /proc/xen");
    }
    if (facts->is_known[HA_FACT_XEN_VERSION] && version < XEN_LEAST) {
        f = doctor_find(d, HA_FINDING_XEN_OLD, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s runs Xen %u.%u", node->name,
                 (unsigned)(version >> 16), (unsigned)(version & 0xffff));
        snprintf(f->fix, sizeof(f->fix), "upgrade Xen to 4.17 or later");
    }
    judge_paging(d, node);
}

/* ---- kernel ---- */

static void judge_kernel(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    struct ha_finding *f;

    if (ha_facts_is_not(facts, HA_FACT_HAS_KERNEL_CONFIG)) {
        f = doctor_find(d, HA_FINDING_KERNEL_UNKNOWN, HA_SEVERITY_NOTE, node->id);
        snprintf(f->what, sizeof(f->what), "%s: there is no /boot/config-%.60s", node->name,
                 facts->text[HA_TEXT_KERNEL]);
        snprintf(f->fix, sizeof(f->fix), "install the kernel's configuration beside it");
    }
    for (uint32_t i = 0; i < facts->item_count; i++) {
        const struct ha_fact_item *item = &facts->items[i];
        if (item->list != HA_LIST_OPTION_MISSING)
            continue;
        f = doctor_find(d, HA_FINDING_KERNEL_OPTION,
                        item->value ? HA_SEVERITY_ERROR : HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s: dom0's kernel %.40s has no %.60s", node->name,
                 facts->text[HA_TEXT_KERNEL], item->subject);
        snprintf(f->fix, sizeof(f->fix), "boot a kernel with %.60s=y or m (Debian's has it)",
                 item->subject);
    }
}

/* ---- memory, disks ---- */

static void judge_memory(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    struct ha_finding *f;

    if (ha_facts_is_not(facts, HA_FACT_IS_DOM0_FIXED)) {
        f = doctor_find(d, HA_FINDING_DOM0_MEMORY, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s: Xen's command line has no dom0_mem=SIZE,max:SIZE",
                 node->name);
        snprintf(f->fix, sizeof(f->fix),
                 "/etc/default/grub: GRUB_CMDLINE_XEN_DEFAULT=\"dom0_mem=2G,max:2G\", update-grub, "
                 "reboot");
    }
    if (ha_facts_is(facts, HA_FACT_HAS_AUTOBALLOON)) {
        f = doctor_find(d, HA_FINDING_AUTOBALLOON, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s: /etc/xen/xl.conf has autoballoon on", node->name);
        snprintf(f->fix, sizeof(f->fix), "/etc/xen/xl.conf: autoballoon=\"off\"");
    }
}

static void judge_swap(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    bool has_any = false, has_real = false;
    struct ha_finding *f;

    for (uint32_t i = 0; i < facts->item_count; i++) {
        const struct ha_fact_item *item = &facts->items[i];
        if (item->list != HA_LIST_SWAP)
            continue;
        has_any = true;
        has_real = has_real || strcmp(item->text, "memory") != 0;
        if (strcmp(item->text, "shared") != 0)
            continue;
        f = doctor_find(d, HA_FINDING_SWAP_SHARED, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s: dom0 swaps to %.90s, on shared storage", node->name,
                 item->subject);
        snprintf(f->fix, sizeof(f->fix),
                 "on %s: swapoff %.90s, take it out of /etc/fstab, and swap to a disk in the host",
                 node->name, item->subject);
    }
    if (has_real || !ha_facts_is(facts, HA_FACT_IS_SWAP_KNOWN))
        return;
    f = doctor_find(d, HA_FINDING_NO_SWAP, HA_SEVERITY_NOTE, node->id);
    snprintf(f->what, sizeof(f->what), "%s: dom0 has no swap%s", node->name,
             has_any ? " but in its memory (zram)" : "");
    snprintf(f->fix, sizeof(f->fix),
             "on %s: mkswap and swapon a partition of a disk in the host, and its line in "
             "/etc/fstab",
             node->name);
}

static void judge_disks(struct doctor *d, const struct ha_doctor_node *node)
{
    struct ha_finding *f;

    for (uint32_t i = 0; i < node->facts->item_count; i++) {
        const struct ha_fact_item *item = &node->facts->items[i];
        if (item->list == HA_LIST_SCHEDULER) {
            f = doctor_find(d, HA_FINDING_SCHEDULER, HA_SEVERITY_WARNING, node->id);
            snprintf(f->what, sizeof(f->what),
                     "%s: %.60s, with guests' disks on it, is scheduled by %.30s", node->name,
                     item->subject, item->text);
            snprintf(f->fix, sizeof(f->fix),
                     "echo none > /sys/block/%.60s/queue/scheduler, and a udev rule that keeps it",
                     item->subject);
        } else if (item->list == HA_LIST_VOLATILE) {
            f = doctor_find(d, HA_FINDING_VOLATILE, HA_SEVERITY_ERROR, node->id);
            snprintf(f->what, sizeof(f->what), "%s: a guest's disk %.90s is in memory", node->name,
                     item->subject);
            snprintf(f->fix, sizeof(f->fix), "put it on storage that all nodes share");
        }
    }
}

void doctor_host(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;

    if (ha_facts_is(facts, HA_FACT_IS_WITNESS))
        return; /* it runs no guests */
    if (ha_facts_is_not(facts, HA_FACT_IS_XEN_WANTED)) {
        struct ha_finding *f = doctor_find(d, HA_FINDING_EMBEDDED, HA_SEVERITY_NOTE, node->id);
        snprintf(f->what, sizeof(f->what), "%s: hypervisor = embedded", node->name);
        judge_disks(d, node);
        return;
    }
    judge_xen(d, node);
    judge_kernel(d, node);
    judge_memory(d, node);
    judge_swap(d, node);
    judge_disks(d, node);
}

/* ---- watchdog ---- */

static bool is_arming_expected(const struct doctor *d, uint32_t id)
{
    const struct ha_node *node = d->in->state ? ha_state_node(d->in->state, id) : NULL;

    if (!d->in->state)
        return true;
    return !d->in->state->is_disarmed && node && node->status == HA_NODE_MEMBER && !node->is_frozen;
}

/* Beside a watchdog of the board Xen's own is a second string; Xen's timer of dom0 needs it, for
 * who hangs would be the one to fire. */
static void judge_xen_watchdog(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    bool is_alone = ha_facts_is(facts, HA_FACT_IS_XEN_DOG);

    if (!ha_facts_is_not(facts, HA_FACT_HAS_XEN_WATCHDOG) ||
        !ha_facts_is(facts, HA_FACT_IS_XEN_WANTED))
        return;
    struct ha_finding *f = doctor_find(d, HA_FINDING_XEN_WATCHDOG,
                                       is_alone ? HA_SEVERITY_WARNING : HA_SEVERITY_NOTE, node->id);
    snprintf(f->what, sizeof(f->what),
             is_alone ? "%s: its watchdog is Xen's timer of dom0, and Xen's own is off: nothing "
                        "resets a host whose hypervisor hangs"
                      : "%s: Xen's command line has no watchdog",
             node->name);
    snprintf(f->fix, sizeof(f->fix),
             "/etc/default/grub: add watchdog to GRUB_CMDLINE_XEN_DEFAULT, update-grub, reboot");
}

void doctor_watchdog(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    struct ha_finding *f;

    if (ha_facts_is(facts, HA_FACT_IS_WITNESS))
        return;
    if (ha_facts_is_not(facts, HA_FACT_IS_KEEPER_KNOWN)) {
        f = doctor_find(d, HA_FINDING_KEEPER_SILENT, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: hamgr-watchdog does not answer", node->name);
        snprintf(f->fix, sizeof(f->fix), "on %s: journalctl -u hamgr-watchdog", node->name);
    } else if (ha_facts_is_not(facts, HA_FACT_IS_ARMED) && is_arming_expected(d, node->id)) {
        f = doctor_find(d, HA_FINDING_NOT_ARMED, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: its watchdog is not armed: %.130s", node->name,
                 facts->text[HA_TEXT_KEEPER]);
        snprintf(f->fix, sizeof(f->fix),
                 "a watchdog device ([watchdog] device of hamgr.conf), then on %s: systemctl "
                 "restart hamgr-watchdog",
                 node->name);
    }
    judge_xen_watchdog(d, node);
    if (ha_facts_is(facts, HA_FACT_HAS_SOFTDOG)) {
        f = doctor_find(d, HA_FINDING_SOFTDOG, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s: its watchdog is software (softdog)", node->name);
        snprintf(
            f->fix, sizeof(f->fix),
            "use the board's (modprobe iTCO_wdt, ipmi_watchdog, ...) and set [watchdog] device");
    }
}

/* ---- clock ---- */

/* The answer was made between question and arrival: only what lies outside is a difference. */
static uint64_t clock_difference_ms(const struct ha_doctor_node *node, uint64_t wall_ms)
{
    if (wall_ms < node->asked_wall_ms)
        return node->asked_wall_ms - wall_ms;
    return wall_ms > node->told_wall_ms ? wall_ms - node->told_wall_ms : 0;
}

void doctor_time(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    struct ha_finding *f;
    uint64_t off_ms = clock_difference_ms(node, facts->number[HA_FACT_WALL_MS]);

    if (facts->is_known[HA_FACT_WALL_MS] && off_ms > CLOCKS_DIFFER_MS) {
        f = doctor_find(d, HA_FINDING_CLOCKS_DIFFER, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what), "%s: its clock is %" PRIu64 ".%" PRIu64 " s off ours",
                 node->name, off_ms / 1000, off_ms % 1000 / 100);
        snprintf(f->fix, sizeof(f->fix), "on %s: chronyc makestep, then chronyc tracking",
                 node->name);
    }
    if (ha_facts_is_not(facts, HA_FACT_HAS_TIME_SYNC)) {
        f = doctor_find(d, HA_FINDING_NO_TIME_SYNC, HA_SEVERITY_WARNING, node->id);
        snprintf(f->what, sizeof(f->what),
                 "%s: nothing keeps its clock (no chrony, ntpd, timesyncd)", node->name);
        snprintf(f->fix, sizeof(f->fix), "on %s: apt install chrony", node->name);
    }
    if (facts->is_known[HA_FACT_SLEW_PPM] && facts->number[HA_FACT_SLEW_PPM] > SLEW_PPM_MOST) {
        f = doctor_find(d, HA_FINDING_SLEW, HA_SEVERITY_NOTE, node->id);
        snprintf(f->what, sizeof(f->what), "%s: chrony may steer its clock by %" PRIu64 " ppm",
                 node->name, facts->number[HA_FACT_SLEW_PPM]);
        snprintf(f->fix, sizeof(f->fix), "/etc/chrony/chrony.conf: maxslewrate 500");
    }
}
