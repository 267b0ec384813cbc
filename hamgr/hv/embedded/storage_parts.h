/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of hamgr-storage share. Private to it.
 *   hamgr-storage.c   nodes: connections, waiting requests, answers; options and loop
 *   storage_ctl.c     the control socket: commands and reports
 */
#ifndef HAMGR_HV_EMBEDDED_STORAGE_PARTS_H
#define HAMGR_HV_EMBEDDED_STORAGE_PARTS_H

#include <qb/qbloop.h>

#include "hamgr/hv/embedded/storage.h"

#define STORAGE_RULES      64u
#define STORAGE_VIOLATIONS 1024u /* remembered one by one; all are counted */
#define STORAGE_DISKS_MAX  8192u

/* A path from a node. */
struct storage_path {
    struct storage_path *next;
    struct storage *storage;
    int fd;
    uint32_t node; /* 0 until its hello */
    bool is_ending;
};

/* A request that has not reached the disk. */
struct storage_wait {
    struct storage_wait *next;
    struct storage_path *path; /* NULL: its node is gone */
    uint32_t node;
    uint64_t id;
    uint64_t due_ns; /* by delays */
    uint64_t end_ns; /* its node is gone: vanishes then; 0 = no end */
    struct storagep_request m;
};

/* hold or delay; a zero filter matches everything. */
struct storage_rule {
    bool is_hold;
    uint32_t delay_ms;
    uint32_t node;
    struct ha_uuid guest;
};

struct storage_violation {
    uint64_t wall_ms;
    struct ha_uuid guest;
    uint32_t node, owner_node;
    uint64_t epoch, owner_epoch;
    uint64_t sequence;
    uint8_t verdict; /* enum storage_verdict */
};

struct storage {
    qb_loop_t *loop;
    const char *dir;
    uint32_t end_ms;
    int listen_fd;
    int control_fd;
    struct storage_path *paths;
    struct storage_wait *first, **end; /* in order of arrival */
    uint32_t wait_count;
    qb_loop_timer_handle timer;
    struct storage_rule rules[STORAGE_RULES];
    uint32_t rule_count;
    uint32_t cut_nodes[HA_NODES_MAX]; /* disconnected by command */
    uint32_t cut_count;
    struct storage_disk **disks; /* sorted by guest */
    uint32_t disk_count;
    uint64_t write_count, head_count, vanished_count;
    struct storage_violation violations[STORAGE_VIOLATIONS];
    uint32_t violation_count; /* in the array */
    uint64_t violation_total;
};

/* hamgr-storage.c */
uint64_t storage_now_ns(void);
/* The disk of a guest; made if is_new. NULL: there is none, or no memory. */
struct storage_disk *storage_disk_of(struct storage *s, struct ha_uuid guest, bool is_new);
void storage_forget(struct storage *s, struct ha_uuid guest);
/* Judges and applies a request now; the answer in *ret_ack. */
void storage_do(struct storage *s, uint32_t node, const struct storagep_request *m,
                struct storagep_ack *ret_ack);
/* Lets through what no rule keeps any more. */
void storage_pump(struct storage *s);
bool storage_is_cut(const struct storage *s, uint32_t node);
/* Ends the paths of a node; what waited from it is the node's again. */
void storage_cut(struct storage *s, uint32_t node);

/* storage_ctl.c */
int storage_control_open(struct storage *s, struct ha_err *err);

#endif
