/* SPDX-License-Identifier: Apache-2.0
 *
 * Will Xen's libraries, as they are loaded in this process, call functions that a program defines
 * in place of their own? So do all that were not linked to prefer their own.
 */
#ifndef HAMGR_HV_XEN_HELPER_BOUND_H
#define HAMGR_HV_XEN_HELPER_BOUND_H

#include <stdbool.h>

bool helper_can_bind(void);

#endif
