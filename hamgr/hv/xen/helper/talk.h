/* SPDX-License-Identifier: Apache-2.0
 *
 * What libxl and a save or restore helper say to each other (LIBXL_SAVE_HELPER; Xen 4.16 to 4.21
 * agree on it): the helper's arguments, and its messages. Pure.
 *
 *   message  u16 size | u16 type | arguments, in the machine's byte order (x86: little)
 *   answer   i32, behind the messages marked *
 */
#ifndef HAMGR_HV_XEN_HELPER_TALK_H
#define HAMGR_HV_XEN_HELPER_TALK_H

#include "hamgr/base/bytes.h"
#include "hamgr/base/err.h"

#define TALK_STRING_MAX  1024u /* longer ones are cut */
#define TALK_MESSAGE_MAX (2 * TALK_STRING_MAX + 64u)

enum talk_type {
    TALK_LOG = 1,
    TALK_PROGRESS,
    TALK_SUSPEND,         /* * 1 suspended, 0 not */
    TALK_POSTCOPY,        /* * */
    TALK_CHECKPOINT,      /* * */
    TALK_WAIT_CHECKPOINT, /* * */
    TALK_QEMU_LOGDIRTY,   /* * 0 done */
    TALK_STATIC_DONE,     /* * 0 done */
    TALK_RESULTS,
    TALK_COMPLETE, /* * */
};

/* --save-domain FD BACK DOMID FLAGS CALLBACKS STREAM
 * --restore-domain FD BACK DOMID EVTCHN DOMID EVTCHN DOMID CALLBACKS STREAM */
struct talk_args {
    bool is_restore;
    int fd;
    uint32_t domid;
    uint32_t flags; /* XCFLAGS_* */
    uint32_t store_evtchn, store_domid;
    uint32_t console_evtchn, console_domid;
    uint32_t callbacks;   /* bits 1 << talk_type: what libxl answers */
    uint32_t stream_type; /* 0 plain */
};

/* argv without the program's name. 0 or -HA_E_USAGE. */
int talk_args_parse(int count, char *const *words, struct talk_args *ret, struct ha_err *err);

void talk_log(struct ha_writer *w, uint32_t level, uint32_t code, const char *context,
              const char *text);
void talk_progress(struct ha_writer *w, const char *context, const char *what, uint64_t done,
                   uint64_t total);
/* SUSPEND, POSTCOPY, CHECKPOINT, WAIT_CHECKPOINT. */
void talk_plain(struct ha_writer *w, enum talk_type type);
void talk_qemu_logdirty(struct ha_writer *w, uint32_t domid, uint32_t is_on);
void talk_static_done(struct ha_writer *w, uint32_t missing);
void talk_results(struct ha_writer *w, uint64_t store_gfn, uint64_t console_gfn);
void talk_complete(struct ha_writer *w, int32_t outcome, int32_t code);

#endif
