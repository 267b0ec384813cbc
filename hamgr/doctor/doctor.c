/* SPDX-License-Identifier: Apache-2.0
 *
 * The frame of the diagnosis: every node that answered is judged, those that did not are named, and
 * the most serious findings come first.
 */
#include "hamgr/doctor/doctor_internal.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *why;
} findings[] = {
#define X(symbol, name, why) {name, why},
    HA_FINDINGS(X)
#undef X
};

#define FINDING_COUNT (sizeof(findings) / sizeof(findings[0]))

const char *ha_finding_name(uint8_t code)
{
    return code < FINDING_COUNT ? findings[code].name : "unknown";
}

const char *ha_finding_why(uint8_t code)
{
    return code < FINDING_COUNT ? findings[code].why : "";
}

const char *ha_severity_name(uint8_t severity)
{
    static const char *const names[] = {"", "note", "warning", "error"};

    return severity <= HA_SEVERITY_ERROR ? names[severity] : "";
}

struct ha_finding *doctor_find(struct doctor *d, enum ha_finding_code code,
                               enum ha_severity severity, uint32_t node)
{
    struct ha_finding *f = &d->scrap;

    if (d->out->count < HA_FINDINGS_MAX)
        f = &d->out->list[d->out->count++];
    else
        d->out->is_cut = true;
    memset(f, 0, sizeof(*f));
    f->code = (uint8_t)code;
    f->severity = (uint8_t)severity;
    f->node = node;
    return f;
}

static void say_silent(struct doctor *d, const struct ha_doctor_node *node)
{
    struct ha_finding *f = doctor_find(d, HA_FINDING_NODE_SILENT, HA_SEVERITY_ERROR, node->id);

    snprintf(f->what, sizeof(f->what), "%s could not be asked: %.150s", node->name, node->silence);
    snprintf(f->fix, sizeof(f->fix), "on %s: systemctl status corosync hamgrd", node->name);
}

/* What could not be looked at is said once, not check by check. */
static void say_blind(struct doctor *d, const struct ha_doctor_node *node)
{
    const struct ha_facts *facts = node->facts;
    struct ha_finding *f;

    if (ha_facts_is_not(facts, HA_FACT_IS_HV_READY)) {
        f = doctor_find(d, HA_FINDING_HV_SILENT, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: hamgr-hv does not answer", node->name);
        snprintf(f->fix, sizeof(f->fix), "on %s: journalctl -u hamgr-hv", node->name);
    }
    if (ha_facts_is(facts, HA_FACT_IS_LOOKED))
        return;
    f = doctor_find(d, HA_FINDING_NOT_LOOKED, HA_SEVERITY_WARNING, node->id);
    snprintf(f->what, sizeof(f->what), "%s: its host could not be looked at: %.130s", node->name,
             facts->text[HA_TEXT_LOOK_WHY][0] ? facts->text[HA_TEXT_LOOK_WHY]
                                              : "hamgr-hv did not do it");
    snprintf(f->fix, sizeof(f->fix), "on %s: journalctl -u hamgr-hv", node->name);
}

static void judge_node(struct doctor *d, const struct ha_doctor_node *node)
{
    struct ha_finding *f;

    if (!node->facts) {
        say_silent(d, node);
        return;
    }
    if (node->facts->text[HA_TEXT_ALARM][0]) {
        f = doctor_find(d, HA_FINDING_ALARM, HA_SEVERITY_ERROR, node->id);
        snprintf(f->what, sizeof(f->what), "%s: %s", node->name, node->facts->text[HA_TEXT_ALARM]);
        snprintf(f->fix, sizeof(f->fix), "hactl status, and on %s: journalctl -u hamgrd",
                 node->name);
    }
    if (node->facts->is_cut) {
        f = doctor_find(d, HA_FINDING_CUT, HA_SEVERITY_NOTE, node->id);
        snprintf(f->what, sizeof(f->what), "%s: only its first %u things are told", node->name,
                 HA_FACT_ITEMS_MAX);
        snprintf(f->fix, sizeof(f->fix), "mend these, then run hactl doctor again");
    }
    say_blind(d, node);
    doctor_host(d, node);
    doctor_watchdog(d, node);
    doctor_time(d, node);
    doctor_trust(d, node);
}

static bool is_before(const struct ha_finding *a, const struct ha_finding *b)
{
    return a->severity > b->severity;
}

/* Stable: within a severity they stay in the order of nodes and checks. */
static void sort(struct ha_diagnosis *out)
{
    for (uint32_t i = 1; i < out->count; i++) {
        struct ha_finding f = out->list[i];
        uint32_t place = i;
        for (; place > 0 && is_before(&f, &out->list[place - 1]); place--)
            out->list[place] = out->list[place - 1];
        out->list[place] = f;
    }
}

void ha_doctor(const struct ha_doctor_input *in, struct ha_diagnosis *ret)
{
    struct doctor d = {.in = in, .out = ret};

    ret->count = 0;
    ret->is_cut = false;
    for (uint32_t i = 0; i < in->node_count; i++)
        judge_node(&d, &in->nodes[i]);
    doctor_cpus(&d);
    if (in->state) {
        doctor_fencing(&d);
        doctor_cluster(&d);
    }
    sort(ret);
}
