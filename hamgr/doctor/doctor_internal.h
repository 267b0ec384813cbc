/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the diagnosis share.
 */
#ifndef HAMGR_DOCTOR_DOCTOR_INTERNAL_H
#define HAMGR_DOCTOR_DOCTOR_INTERNAL_H

#include "hamgr/doctor/doctor.h"

struct doctor {
    const struct ha_doctor_input *in;
    struct ha_diagnosis *out;
    struct ha_finding scrap; /* taken when the list is full */
};

/* A new finding; what and fix are the caller's to fill in. Never NULL. */
struct ha_finding *doctor_find(struct doctor *d, enum ha_finding_code code,
                               enum ha_severity severity, uint32_t node);

/* Per node that answered. */
void doctor_host(struct doctor *d, const struct ha_doctor_node *node);
void doctor_watchdog(struct doctor *d, const struct ha_doctor_node *node);
void doctor_time(struct doctor *d, const struct ha_doctor_node *node);
void doctor_trust(struct doctor *d, const struct ha_doctor_node *node);
/* Between nodes. */
void doctor_cpus(struct doctor *d);
void doctor_fencing(struct doctor *d);
void doctor_cluster(struct doctor *d);

#endif
