/* SPDX-License-Identifier: Apache-2.0
 *
 * Restore: a guest process that is built and stopped, its memory filled from outside with the pages
 * of a native stream. Pages are read straight into the guest's memory, or copied there from a ring
 * (migrate/STREAM.md, section 6); everything else of the stream is checked before it is believed,
 * and every page must have come at least once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hamgr/hv/embedded/embedded_priv.h"
#include "hamgr/hv/embedded/native.h"
#include "hamgr/hv/embedded/proc.h"
#include "migrate/native.h"
#include "migrate/ring.h"

#define IOV_MAX_HERE      512
#define PROGRESS_EVERY_NS 100000000u

struct restore {
    struct emb_domain d;
    int fd;
    uint8_t *memory;
    uint64_t page_count;
    struct ring *ring; /* NULL: all pages are in the stream */
    uint64_t *seen;    /* bitmap */
    uint64_t *entries; /* EMB_BATCH_MAX */
    uint64_t seen_count;
    bool has_static_end;
    bool has_context;
    hv_progress_fn progress;
    void *user;
    struct hv_progress now;
    uint64_t told_ns;
    struct ha_err *err;
};

static int read_vector(struct restore *r, struct iovec *iov, int count)
{
    while (count > 0) {
        ssize_t n = readv(r->fd, iov, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ha_err_set(r->err, errno, "read the stream: %s", strerror(errno));
        if (n == 0)
            return ha_err_set(r->err, HA_E_PEER, "the stream ended early");
        r->now.bytes += (uint64_t)n;
        while (count > 0 && (size_t)n >= iov->iov_len) {
            n -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

static int read_exact(struct restore *r, void *to, size_t size)
{
    struct iovec iov = {.iov_base = to, .iov_len = size};

    return size == 0 ? 0 : read_vector(r, &iov, 1);
}

static void tell(struct restore *r, enum hv_progress_phase phase)
{
    uint64_t now_ns = emb_now_ns();

    if (!r->progress || (phase == HV_LIVE && now_ns - r->told_ns < PROGRESS_EVERY_NS))
        return;
    r->told_ns = now_ns;
    r->now.phase = (uint8_t)phase;
    r->progress(r->user, &r->now);
}

static void mark_seen(struct restore *r, uint64_t pfn)
{
    uint64_t bit = UINT64_C(1) << (pfn % 64);

    r->seen_count += (r->seen[pfn / 64] & bit) == 0;
    r->seen[pfn / 64] |= bit;
}

/* Reads the data pages of r->entries: neighbours in the guest become one piece. */
static int read_pages(struct restore *r, uint32_t count)
{
    struct iovec iov[IOV_MAX_HERE];
    int pieces = 0;

    for (uint32_t n = 0; n < count; n++) {
        uint64_t pfn = r->entries[n] & EMB_PFN_MASK;
        uint8_t *page = r->memory + pfn * EMB_PAGE;
        mark_seen(r, pfn);
        if (emb_entry_type(r->entries[n]) == EMB_TYPE_XALLOC) {
            memset(page, 0, EMB_PAGE);
            continue;
        }
        struct iovec *last = pieces > 0 ? &iov[pieces - 1] : NULL;
        if (last && (uint8_t *)last->iov_base + last->iov_len == page) {
            last->iov_len += EMB_PAGE;
            continue;
        }
        if (pieces == IOV_MAX_HERE) {
            int rc = read_vector(r, iov, pieces);
            if (rc != 0)
                return rc;
            pieces = 0;
        }
        iov[pieces++] = (struct iovec){.iov_base = page, .iov_len = EMB_PAGE};
    }
    return pieces > 0 ? read_vector(r, iov, pieces) : 0;
}

static int take_page_data(struct restore *r, uint32_t size)
{
    uint8_t head[EMB_PAGE_DATA_HEAD];
    uint32_t count = 0, data_pages = 0;
    int rc;

    if (!r->has_static_end || r->has_context)
        return ha_err_set(r->err, HA_E_PEER, "PAGE_DATA out of order");
    if (size < EMB_PAGE_DATA_HEAD)
        return ha_err_set(r->err, HA_E_PEER, "PAGE_DATA of %u bytes", size);
    rc = read_exact(r, head, sizeof(head));
    if (rc == 0)
        rc = emb_native_check_count(size, head, &count, r->err);
    if (rc == 0)
        rc = read_exact(r, r->entries, count * sizeof(r->entries[0]));
    if (rc == 0)
        rc = emb_native_check_pfns(size, r->entries, count, r->page_count, &data_pages, r->err);
    if (rc == 0)
        rc = read_pages(r, count);
    r->now.pages_sent += count;
    tell(r, HV_LIVE);
    return rc;
}

/* The pages of r->entries from the ring. Another process may write there meanwhile: they are bytes,
 * nothing else. */
static void copy_pages(struct restore *r, uint32_t count, const uint8_t *pages)
{
    for (uint32_t n = 0; n < count; n++) {
        uint64_t pfn = r->entries[n] & EMB_PFN_MASK;
        uint8_t *page = r->memory + pfn * EMB_PAGE;
        mark_seen(r, pfn);
        if (emb_entry_type(r->entries[n]) == EMB_TYPE_XALLOC) {
            memset(page, 0, EMB_PAGE);
        } else {
            memcpy(page, pages, EMB_PAGE);
            pages += EMB_PAGE;
        }
    }
}

/* A PAGE_DATA record that is in the ring. */
static int take_marker(struct restore *r, uint32_t size)
{
    uint8_t bytes[NATIVE_MARKER_SIZE - EMB_RECORD_HEAD];
    struct ring_batch batch;
    uint32_t data_pages = 0;

    if (!r->ring)
        return ha_err_set(r->err, HA_E_PEER, "page marker where there is no ring");
    if (!r->has_static_end || r->has_context || size != sizeof(bytes))
        return ha_err_set(r->err, HA_E_PEER, "page marker out of order, or malformed");
    int rc = read_exact(r, bytes, sizeof(bytes));
    if (rc != 0)
        return rc;
    struct ha_reader in = ha_reader_of(bytes, sizeof(bytes));
    uint64_t number = ha_get_u64(&in);
    uint32_t slot = ha_get_u32(&in);
    if (ha_get_u32(&in) != 0)
        return ha_err_set(r->err, HA_E_PEER, "malformed page marker");
    rc = ring_take(r->ring, number, slot, &batch, r->err);
    if (rc != 0)
        return rc;
    uint32_t record = EMB_PAGE_DATA_HEAD + 8u * batch.count + (uint32_t)EMB_PAGE * batch.data_count;
    memcpy(r->entries, batch.entries, batch.count * sizeof(r->entries[0]));
    rc = emb_native_check_pfns(record, r->entries, batch.count, r->page_count, &data_pages, r->err);
    if (rc != 0)
        return rc;
    copy_pages(r, batch.count, batch.pages);
    ring_release(r->ring);
    r->now.pages_sent += batch.count;
    r->now.bytes += EMB_RECORD_HEAD + record - NATIVE_MARKER_SIZE;
    tell(r, HV_LIVE);
    return 0;
}

static int take_context(struct restore *r, uint32_t size)
{
    uint8_t bytes[sizeof(struct emb_context)];
    int rc;

    if (!r->has_static_end || r->has_context)
        return ha_err_set(r->err, HA_E_PEER, "HVM_CONTEXT out of order");
    if (size != sizeof(bytes))
        return ha_err_set(r->err, HA_E_PEER, "HVM_CONTEXT of %u bytes: not an embedded guest's",
                          size);
    rc = read_exact(r, bytes, sizeof(bytes));
    r->has_context = true;
    return rc != 0 ? rc : emb_native_check_context(bytes, sizeof(bytes), r->page_count, r->err);
}

static int skip_optional(struct restore *r, struct emb_record_head head)
{
    uint8_t bytes[4096];
    uint64_t left = ((uint64_t)head.size + 7) & ~UINT64_C(7);

    if (head.size > EMB_SKIP_MAX)
        return ha_err_set(r->err, HA_E_PEER, "optional record of %u bytes", head.size);
    while (left > 0) {
        size_t size = left < sizeof(bytes) ? (size_t)left : sizeof(bytes);
        int rc = read_exact(r, bytes, size);
        if (rc != 0)
            return rc;
        left -= size;
    }
    return 0;
}

/* One record of the libxc image. Returns 1 at its END, 0 to go on, or an error. */
static int take_record(struct restore *r)
{
    uint8_t bytes[EMB_RECORD_HEAD];
    int rc = read_exact(r, bytes, sizeof(bytes));

    if (rc != 0)
        return rc;
    struct emb_record_head head = emb_native_record_head(bytes);
    if (head.type == NATIVE_MARKER_TYPE)
        return take_marker(r, head.size);
    if ((head.type & EMB_REC_OPTIONAL) != 0)
        return skip_optional(r, head);
    switch (head.type) {
    case EMB_REC_PAGE_DATA:
        return take_page_data(r, head.size);
    case EMB_REC_HVM_CONTEXT:
        return take_context(r, head.size);
    case EMB_REC_STATIC_DATA_END:
        if (head.size != 0 || r->has_static_end)
            return ha_err_set(r->err, HA_E_PEER, "STATIC_DATA_END out of order");
        r->has_static_end = true;
        return 0;
    case EMB_REC_END:
        if (head.size != 0 || !r->has_context)
            return ha_err_set(r->err, HA_E_PEER, "END out of order");
        return 1;
    default:
        return ha_err_set(r->err, HA_E_PEER, "record type 0x%x: not an embedded guest's",
                          head.type);
    }
}

static int take_stream(struct restore *r)
{
    uint8_t bytes[40];
    struct emb_record_head head;
    int rc = read_exact(r, bytes, 16);

    if (rc == 0)
        rc = emb_native_check_libxl_head(bytes, r->err);
    if (rc == 0)
        rc = read_exact(r, bytes, EMB_RECORD_HEAD);
    if (rc != 0)
        return rc;
    head = emb_native_record_head(bytes);
    if (head.type != EMB_LIBXL_LIBXC_CONTEXT || head.size != 0)
        return ha_err_set(r->err, HA_E_PEER, "libxl record %u: expected LIBXC_CONTEXT", head.type);
    rc = read_exact(r, bytes, 40);
    if (rc == 0)
        rc = emb_native_check_image_head(bytes, r->err);
    while (rc == 0)
        rc = take_record(r);
    if (rc < 0)
        return rc;
    rc = read_exact(r, bytes, EMB_RECORD_HEAD);
    if (rc != 0)
        return rc;
    head = emb_native_record_head(bytes);
    if (head.type != EMB_LIBXL_END || head.size != 0)
        return ha_err_set(r->err, HA_E_PEER, "libxl record %u: expected END", head.type);
    if (r->seen_count != r->page_count)
        return ha_err_set(r->err, HA_E_PEER, "%llu of %llu pages never came",
                          (unsigned long long)(r->page_count - r->seen_count),
                          (unsigned long long)r->page_count);
    return 0;
}

static int fill(struct hv_embedded *e, struct restore *r)
{
    void *memory = NULL;
    int rc = emb_domain_map(&r->d, true, &memory, r->err);

    if (rc != 0)
        return rc;
    r->memory = memory;
    e->kept_memory = memory;
    e->kept_size = r->d.record.memory_size;
    r->page_count = r->d.record.memory_size / EMB_PAGE;
    r->now.pages_total = r->page_count;
    r->seen = calloc(emb_bitmap_words(r->page_count), sizeof(r->seen[0]));
    r->entries = calloc(EMB_BATCH_MAX, sizeof(r->entries[0]));
    if (!r->seen || !r->entries)
        rc = ha_err_set(r->err, HA_E_NO_MEMORY, "restore");
    if (rc == 0)
        rc = take_stream(r);
    if (rc == 0)
        rc = emb_build_finish(&r->d, r->err);
    free(r->seen);
    free(r->entries);
    return rc;
}

enum hv_outcome emb_restore(struct hv *hv, const struct hv_label *label, const char *name,
                            const uint8_t *definition, size_t size, int fd, int ring_fd,
                            hv_progress_fn progress, void *user, uint32_t *ret_domid,
                            struct ha_err *err)
{
    struct hv_embedded *e = emb_of(hv);
    struct ha_err own = {0}, remove_err = {0};
    struct restore r = {.fd = fd, .progress = progress, .user = user, .err = err ? err : &own};

    emb_release_kept(e);
    if (ring_fd > 0 && (r.ring = ring_map(ring_fd, r.err)) == NULL)
        return HV_FAILED;
    enum hv_outcome outcome = emb_build(e, label, name, definition, size, true, &r.d, r.err);
    int rc = outcome == HV_OK ? fill(e, &r) : 0;
    ring_free(r.ring);
    if (outcome != HV_OK)
        return outcome;
    if (rc == 0) {
        *ret_domid = r.d.record.domid;
        tell(&r, HV_COMPLETE);
        emb_domain_close(&r.d);
        return HV_OK;
    }
    ha_err_prefix(r.err, "restore %.64s", name);
    emb_release_kept(e);
    if (emb_remove(e, &r.d, &remove_err) == HV_OK)
        return HV_FAILED;
    return hv_unknown(err, remove_err.code, "restore %.64s failed, and so did removing it: %.120s",
                      name, remove_err.text);
}
