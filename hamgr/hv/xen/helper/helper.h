/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the program hamgr-xen-helper share. libxl starts it, by LIBXL_SAVE_HELPER, in
 * place of its own helper: stdin and stdout are libxl's, talk.h is their language.
 *
 * Xen's libxenguest does the work, and calls functions of this program instead of its own where
 * bytes leave and where memory of a new domain is made (interpose.c).
 */
#ifndef HAMGR_HV_XEN_HELPER_HELPER_H
#define HAMGR_HV_XEN_HELPER_HELPER_H

#include <sys/uio.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xentoollog.h>

#include "hamgr/hv/xen/helper/link.h"
#include "hamgr/hv/xen/helper/talk.h"

struct helper {
    xentoollog_logger logger; /* first: libxenctrl gives it back as this */
    struct talk_args args;
    xc_interface *xc;
    int abort_fd;                /* an eventfd */
    bool is_deserted;            /* libxl is gone, or was left: nothing is said or asked any more */
    char words[TALK_STRING_MAX]; /* the first error since */
    struct helper_link link;     /* of a restore that is divided; fd -1: it is not */
    int front_fd;                /* to the front, -1: none */
};

/* ---- ask.c: libxl ---- */
void helper_log_init(struct helper *h);
/* Says it and waits for the answer, which comes for as long as libxl lives; -1: it is gone. */
int helper_ask(struct helper *h, enum talk_type type);
int helper_ask_qemu(struct helper *h, uint32_t domid, uint32_t is_on);
int helper_ask_static_done(struct helper *h, uint32_t missing);
void helper_say_results(struct helper *h, uint64_t store_gfn, uint64_t console_gfn);
/* The last word. */
void helper_complete(struct helper *h, int outcome, int code);
void helper_error(struct helper *h, const char *text);
/* From now on all waits end. Async-signal-safe. */
void helper_abort(const struct helper *h);
/* libxl was told the last word and goes on without us. */
void helper_leave(struct helper *h);

/* ---- divide.c: a restore in two processes ---- */

/* If a worker offers it, what returns is the mover, a child of the worker; the process that libxl
 * started waits, and ends with helper_let_front_go or when the mover dies. */
void helper_divide(struct helper *h);
void helper_let_front_go(struct helper *h);

/* ---- interpose.c ---- */

/* Who writes to fd: libxenguest's vector, all of it. 0, or -1 with errno. */
typedef int (*helper_write_fn)(void *user, const struct iovec *vector, int count);
void helper_take_writes(int fd, helper_write_fn write, void *user);
/* Who reads from fd for libxenguest: all of size, or -1 with errno (0: the file's end). */
typedef int (*helper_read_fn)(void *user, void *data, size_t size);
/* Frames are populated, one page each: what was asked for, and what became of it. */
struct helper_frames {
    void (*before)(void *user, const xen_pfn_t *pfns, uint64_t count);
    void (*after)(void *user, const xen_pfn_t *frames);
    void *user;
};
void helper_take_reads(int fd, helper_read_fn read, const struct helper_frames *frames);
/* Two entries of the domain's grant table, now: libxenguest's own call, at its end, does nothing
 * then. 0, or -1 with errno. */
int helper_seed(const struct helper *h, xen_pfn_t console_frame, xen_pfn_t store_frame);
/* Superpages where whole ones are populated in a domain that is translated. */
void helper_use_superpages(void);
/* Do Xen's libraries call ours? */
bool helper_is_bound(void);

/* ---- save.c, restore.c ---- */
int helper_save(struct helper *h);
int helper_restore(struct helper *h);

#endif
