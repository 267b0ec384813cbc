/* SPDX-License-Identifier: Apache-2.0
 *
 * The native stream of the embedded driver, in Xen's published formats (docs/specs/libxl-migration-
 * stream and libxc-migration-stream), so that one page stream serves both drivers:
 *
 *   libxl header v2, record LIBXC_CONTEXT
 *     libxc image header v3, domain header (type 2, x86 HVM)
 *     STATIC_DATA_END, PAGE_DATA ..., HVM_CONTEXT (struct emb_context), END
 *   libxl record END
 *
 * Pure: encodes to and checks bytes. Every check is strict: what this file does not write, it does
 * not accept, but for more than EMB_BATCH pages in a record, pages without data (a page stream may
 * merge batches and mark zero pages so) and optional records, which are skipped.
 */
#ifndef HAMGR_HV_EMBEDDED_NATIVE_H
#define HAMGR_HV_EMBEDDED_NATIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "hamgr/hv/embedded/guestabi.h"

#define EMB_BATCH          1024u  /* pages of a PAGE_DATA record we write */
#define EMB_BATCH_MAX      16384u /* pages of one we accept: 64 MiB */
#define EMB_NATIVE_HEAD    72u
#define EMB_NATIVE_TAIL    (8u + (uint32_t)sizeof(struct emb_context) + 8u + 8u)
#define EMB_RECORD_HEAD    8u
#define EMB_PAGE_DATA_HEAD 8u
#define EMB_SKIP_MAX       1048576u /* bytes of an optional record */

/* Record types of the libxc stream that we know. Bit 31: optional. */
#define EMB_REC_END             0x00u
#define EMB_REC_PAGE_DATA       0x01u
#define EMB_REC_HVM_CONTEXT     0x09u
#define EMB_REC_STATIC_DATA_END 0x10u
#define EMB_REC_OPTIONAL        0x80000000u
/* Of the libxl stream. */
#define EMB_LIBXL_END           0u
#define EMB_LIBXL_LIBXC_CONTEXT 1u

/* Page types: bits 63..60 of an entry. */
#define EMB_PFN_MASK    ((UINT64_C(1) << 52) - 1)
#define EMB_TYPE_NORMAL UINT64_C(0x0)
#define EMB_TYPE_XALLOC UINT64_C(0xe) /* present, contents all zero, no data in the record */

struct emb_record_head {
    uint32_t type;
    uint32_t size; /* of the body, without padding */
};

/* Everything before the first page: ret[EMB_NATIVE_HEAD]. */
void emb_native_head(uint8_t *ret);
/* Everything behind the last page: ret[EMB_NATIVE_TAIL]. */
void emb_native_tail(uint8_t *ret, uint64_t page_count);
/* Record header, count and pfn array of a PAGE_DATA with count full pages; the pages follow.
 * ret[16 + 8 * count]. Returns its size. */
size_t emb_native_batch(uint8_t *ret, const uint64_t *pfns, uint32_t count);

/* 0, or -HA_E_PEER and what is wrong. */
int emb_native_check_libxl_head(const uint8_t bytes[16], struct ha_err *err);
int emb_native_check_image_head(const uint8_t bytes[40], struct ha_err *err); /* image + domain */
struct emb_record_head emb_native_record_head(const uint8_t bytes[EMB_RECORD_HEAD]);
/* Checks the fixed part and the pfn array of a PAGE_DATA body of body_size bytes. pfns: the count
 * entries as they came; *ret_data_pages: how many pages of data follow. */
int emb_native_check_count(uint32_t body_size, const uint8_t bytes[EMB_PAGE_DATA_HEAD],
                           uint32_t *ret_count, struct ha_err *err);
int emb_native_check_pfns(uint32_t body_size, const uint64_t *entries, uint32_t count,
                          uint64_t page_count, uint32_t *ret_data_pages, struct ha_err *err);
int emb_native_check_context(const uint8_t *bytes, size_t size, uint64_t page_count,
                             struct ha_err *err);

static inline uint64_t emb_entry_type(uint64_t entry)
{
    return entry >> 60;
}

#endif
