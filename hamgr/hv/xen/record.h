/* SPDX-License-Identifier: Apache-2.0
 *
 * The records of domains: run_dir/domains/<domid>, one small file each, replaced as a whole. Root's
 * only; a damaged one is no record.
 */
#ifndef HAMGR_HV_XEN_RECORD_H
#define HAMGR_HV_XEN_RECORD_H

#include "hamgr/base/err.h"
#include "hamgr/hv/hv.h"
#include "hamgr/hv/xen/rules.h"

enum xen_phase { XEN_BUILDING = 1, XEN_COMPLETE };

struct xen_record {
    uint32_t magic;
    uint32_t domid;
    uint8_t phase; /* enum xen_phase */
    uint8_t kind;  /* enum xen_kind */
    uint8_t disks; /* enum xen_disks */
    struct xen_ends ends;
    uint8_t is_restored;
    uint8_t padding[2];
    uint32_t vcpus;
    uint32_t cap_percent;
    uint32_t builder; /* pid of who builds it */
    uint32_t padding2;
    uint64_t mem_kib;
    struct hv_label label;
    char name[HA_NAME_MAX];
    uint64_t digest; /* of all before */
};

/* Makes run_dir and what is in it. The directory's fd or a negative error. */
int xen_records_open(const char *run_dir, struct ha_err *err);

/* Gives record->domid the next domid no file has, and writes it. 0 or a negative error. */
int xen_record_add(int dir_fd, struct xen_record *record, struct ha_err *err);
int xen_record_write(int dir_fd, struct xen_record *record, struct ha_err *err);
/* False: there is none, or it can't be believed. */
bool xen_record_read(int dir_fd, uint32_t domid, struct xen_record *ret);
void xen_record_remove(int dir_fd, uint32_t domid);
/* The mark of a domain that hamgr let go: set when it was made runnable, taken off before it is
 * paused. One that is missing (no room for it) means only that a pause by another is not told from
 * ours. The record's removal takes it along. */
bool xen_record_is_let_go(int dir_fd, uint32_t domid);
void xen_record_let_go(int dir_fd, uint32_t domid);
/* True: it was let go until now. */
bool xen_record_hold(int dir_fd, uint32_t domid);
/* Removes the records that name no domain any more: is_there is asked for each whose builder is
 * gone. */
void xen_records_sweep(int dir_fd, bool (*is_there)(void *user, uint32_t domid), void *user);

#endif
