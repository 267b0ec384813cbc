/* SPDX-License-Identifier: Apache-2.0
 *
 * How much of a processor a guest may use, enforced by the kernel: a control group of its own with
 * a quota (cpu.max, or cfs_quota_us on the older hierarchy). The guest is moved there when it is
 * slowed down first and back where it was afterwards; what must be undone stands in its domain's
 * directory before it is done, so that whoever finds a killed worker's domain can undo it.
 *
 * The quota's period is chosen as short as the kernel's smallest quota (1 ms) allows, so that a
 * slowed guest stumbles often and shortly rather than long.
 */
#ifndef HAMGR_HV_EMBEDDED_CAP_H
#define HAMGR_HV_EMBEDDED_CAP_H

#include "hamgr/hv/embedded/embedded_priv.h"

#define EMB_FILE_CAP      "cap"
#define EMB_CAP_LEAST     10u /* permille of a processor: 1 ms in the longest period, 100 ms */
#define EMB_CAP_PERIOD_US UINT64_C(100000) /* the longest */
#define EMB_CAP_PERMILLES 1000u /* one whole processor: all a guest of one thread can use */

/* Does this node let us? Asked once per process. */
bool emb_cap_is_offered(void);
/* At most permille of one processor from now on; less than EMB_CAP_LEAST counts as that. */
int emb_cap_set(const struct emb_domain *d, uint32_t permille, struct ha_err *err);
/* Full speed at once; the group stays for emb_cap_off. For who must stop the guest now: a guest
 * whose quota is used up would see the signal only in its next period. */
void emb_cap_lift(const struct emb_domain *d);
/* As if it never had been slowed down. Idempotent; the process may be gone. */
int emb_cap_off(const struct emb_domain *d, struct ha_err *err);
/* Processor time the guest's process used so far, in nanoseconds; 0 when that can't be read. */
uint64_t emb_cap_used_ns(const struct emb_domain *d);

#endif
