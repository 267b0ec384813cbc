/* SPDX-License-Identifier: Apache-2.0
 *
 * What Xen tells about itself, for doctor: paging, its command line, and what the
 * processor offers to guests. Hypercalls only; what fails stays unknown.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hamgr/doctor/facts.h"
#include "hamgr/hv/xen/xen_priv.h"

#include <xenguest.h> /* behind xenctrl.h, which it needs */

/* "178bfbff:f6f83203:...", cut to whole words. */
static void tell_features(struct hv_xen *x, uint32_t set, enum ha_fact_text fact,
                          struct ha_facts *facts)
{
    uint32_t words[32] = {0}, count = sizeof(words) / sizeof(words[0]);
    char text[HA_FACT_TEXT_MAX] = "";
    size_t used = 0;

    if (xc_get_cpu_featureset(x->xc, set, &count, words) != 0)
        return;
    for (uint32_t i = 0; i < count && i < 32 && used + 10 < sizeof(text); i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%08x", i > 0 ? ":" : "",
                                 words[i]);
    ha_facts_say(facts, fact, text);
}

void xen_tell(struct hv *hv, struct ha_facts *facts)
{
    struct hv_xen *x = xen_of(hv);
    xen_commandline_t line = "";

    ha_facts_set(facts, HA_FACT_HAS_SHADOW, x->has_shadow);
    ha_facts_set(facts, HA_FACT_HAS_HAP, x->has_hap);
    if (xc_version(x->xc, XENVER_commandline, line) == 0) {
        line[sizeof(line) - 1] = '\0';
        ha_facts_set(facts, HA_FACT_IS_DOM0_FIXED, xen_is_dom0_fixed(line));
        ha_facts_set(facts, HA_FACT_HAS_XEN_WATCHDOG, xen_has_watchdog(line));
    }
    tell_features(x, XEN_SYSCTL_cpu_featureset_pv, HA_TEXT_CPU_PV, facts);
    tell_features(x, XEN_SYSCTL_cpu_featureset_hvm, HA_TEXT_CPU_HVM, facts);
    tell_features(x, XEN_SYSCTL_cpu_featureset_pv_max, HA_TEXT_CPU_PV_MAX, facts);
    tell_features(x, XEN_SYSCTL_cpu_featureset_hvm_max, HA_TEXT_CPU_HVM_MAX, facts);
}
