/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: a guest's stream as the embedded driver reads it, into memory of eight pages. The
 * stream has passed another node's hands: whatever it says, nothing outside that memory is written,
 * and a guest is complete only if every page came and the context fits. The same of a ring beside
 * it, whose other end may write there what it likes.
 */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* Its loop over records is private to the file, and all there is to fuzz. */
#include "hamgr/hv/embedded/restore.c"

#include "hamgr/base/bytes.h"

#define PAGES 8u

/* Never reached from the stream's loop; the file's other half needs them. */
uint64_t emb_now_ns(void)
{
    return 0;
}
void emb_release_kept(struct hv_embedded *e)
{
    (void)e;
}
enum hv_outcome emb_build(struct hv_embedded *e, const struct hv_label *label, const char *name,
                          const uint8_t *definition, size_t size, bool is_restored,
                          struct emb_domain *ret, struct ha_err *err)
{
    (void)e, (void)label, (void)name, (void)definition, (void)size, (void)is_restored, (void)ret;
    (void)err;
    return HV_FAILED;
}
int emb_domain_map(const struct emb_domain *d, bool is_writable, void **ret, struct ha_err *err)
{
    (void)d, (void)is_writable, (void)ret;
    return ha_err_set(err, HA_E_USAGE, "not here");
}
int emb_build_finish(struct emb_domain *d, struct ha_err *err)
{
    (void)d;
    return ha_err_set(err, HA_E_USAGE, "not here");
}
void emb_domain_close(struct emb_domain *d)
{
    (void)d;
}
enum hv_outcome emb_remove(struct hv_embedded *e, struct emb_domain *d, struct ha_err *err)
{
    (void)e, (void)d, (void)err;
    return HV_FAILED;
}

/* A ring in which the input says what was published; its pages are zeros. */
static struct ring *make_ring(struct fuzz_input *in, int *ret_fd)
{
    const off_t slot_size = 4096 + 4096 + PAGES * EMB_PAGE; /* STREAM.md, section 6 */
    struct ring *ring = ring_create(2, PAGES, ret_fd, NULL);
    uint32_t head = fuzz_u8(in);

    REQUIRE(ring && pwrite(*ret_fd, &head, sizeof(head), 64) == sizeof(head));
    for (uint64_t slot = 0; slot < 2; slot++) {
        const off_t at = 4096 + (off_t)slot * slot_size;
        const uint8_t lie = fuzz_u8(in);
        const uint64_t batch = slot ^ (lie & 1u);
        const uint32_t counts[2] = {fuzz_u8(in) % (PAGES + 2), fuzz_u8(in) % (PAGES + 2)};
        REQUIRE(pwrite(*ret_fd, &batch, sizeof(batch), at) == sizeof(batch));
        REQUIRE(pwrite(*ret_fd, counts, sizeof(counts), at + 8) == sizeof(counts));
        for (unsigned i = 0; i < PAGES; i++) {
            const uint8_t what = fuzz_u8(in);
            const uint64_t entry = (uint64_t)(what >> 4) << 60 | (what & 15u);
            REQUIRE(pwrite(*ret_fd, &entry, sizeof(entry), at + 4096 + 8 * (off_t)i) ==
                    sizeof(entry));
        }
    }
    return ring;
}

/* Good heads in front, so that the fuzzer works on records; `flags` leave some of them out. */
static size_t make_stream(uint8_t *stream, size_t capacity, uint8_t flags, const uint8_t *data,
                          size_t size)
{
    size_t used = 0;

    if (flags & 1u) {
        emb_native_head(stream);
        used = EMB_NATIVE_HEAD;
    }
    if (flags & 2u) { /* every page, without data */
        uint64_t pfns[PAGES];
        struct ha_writer w = ha_writer_of(stream + used, capacity - used);
        ha_put_u32(&w, EMB_REC_PAGE_DATA);
        ha_put_u32(&w, EMB_PAGE_DATA_HEAD + sizeof(pfns));
        ha_put_u32(&w, PAGES);
        ha_put_u32(&w, 0);
        for (uint64_t pfn = 0; pfn < PAGES; pfn++)
            ha_put_u64(&w, EMB_TYPE_XALLOC << 60 | pfn);
        used += w.position;
    }
    for (uint32_t slot = 0; (flags & 16u) && slot < 2; slot++) {
        native_marker(stream + used, slot, slot);
        used += NATIVE_MARKER_SIZE;
    }
    if (size > 0)
        memcpy(stream + used, data, size);
    used += size;
    if (flags & 4u) {
        emb_native_tail(stream + used, PAGES);
        used += EMB_NATIVE_TAIL;
    }
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct ha_err err = {0};
    uint8_t flags = fuzz_u8(&in);
    struct restore r = {.err = &err, .page_count = PAGES};
    int ring_fd = -1;

    if (flags & 8u)
        r.ring = make_ring(&in, &ring_fd);
    uint8_t *stream = malloc(in.size + 4096);
    REQUIRE(stream);
    size_t total = make_stream(stream, in.size + 4096, flags, in.data, in.size);
    r.fd = memfd_create("stream", MFD_CLOEXEC);
    REQUIRE(r.fd >= 0 && write(r.fd, stream, total) == (ssize_t)total);
    REQUIRE(lseek(r.fd, 0, SEEK_SET) == 0);
    r.memory = malloc(PAGES * EMB_PAGE);
    r.seen = calloc(1, sizeof(r.seen[0]));
    r.entries = calloc(EMB_BATCH_MAX, sizeof(r.entries[0]));
    REQUIRE(r.memory && r.seen && r.entries);
    int rc = take_stream(&r);
    REQUIRE(rc <= 0 && (rc == 0 || err.text[0] != '\0'));
    REQUIRE(rc < 0 || (r.has_context && r.seen_count == PAGES && r.seen[0] == 0xff));
    REQUIRE(r.ring || r.now.bytes <= total);
    close(r.fd);
    ring_free(r.ring);
    if (ring_fd >= 0)
        close(ring_fd);
    free(r.memory);
    free(r.seen);
    free(r.entries);
    free(stream);
    return 0;
}
