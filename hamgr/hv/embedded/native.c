/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/embedded/native.h"

#include <string.h>

#include "hamgr/base/bytes.h"
#include "hamgr/hv/embedded/workload.h"

#define LIBXL_IDENT   UINT64_C(0x4c6962786c466d74) /* "LibxlFmt", big-endian */
#define LIBXL_VERSION 2u
#define IMAGE_MARKER  UINT64_MAX
#define IMAGE_IDENT   0x58454e46u /* "XENF", big-endian */
#define IMAGE_VERSION 3u
#define DOMAIN_HVM    2u
#define PAGE_SHIFT    12u
/* The Xen whose formats these are; readers only show it. */
#define XEN_MAJOR 4u
#define XEN_MINOR 17u

static void put_be(struct ha_writer *w, uint64_t value, unsigned size)
{
    while (size-- > 0)
        ha_put_u8(w, (uint8_t)(value >> (size * 8)));
}

static uint64_t get_be(struct ha_reader *r, unsigned size)
{
    uint64_t value = 0;

    while (size-- > 0)
        value = value << 8 | ha_get_u8(r);
    return value;
}

static void put_record(struct ha_writer *w, uint32_t type, uint32_t size)
{
    ha_put_u32(w, type);
    ha_put_u32(w, size);
}

void emb_native_head(uint8_t *ret)
{
    struct ha_writer w = ha_writer_of(ret, EMB_NATIVE_HEAD);

    put_be(&w, LIBXL_IDENT, 8);
    put_be(&w, LIBXL_VERSION, 4);
    put_be(&w, 0, 4); /* options: little-endian, not converted */
    put_record(&w, EMB_LIBXL_LIBXC_CONTEXT, 0);
    put_be(&w, IMAGE_MARKER, 8);
    put_be(&w, IMAGE_IDENT, 4);
    put_be(&w, IMAGE_VERSION, 4);
    put_be(&w, 0, 8); /* options: little-endian; reserved */
    ha_put_u32(&w, DOMAIN_HVM);
    ha_put_u16(&w, PAGE_SHIFT);
    ha_put_u16(&w, 0);
    ha_put_u32(&w, XEN_MAJOR);
    ha_put_u32(&w, XEN_MINOR);
    put_record(&w, EMB_REC_STATIC_DATA_END, 0);
}

void emb_native_tail(uint8_t *ret, uint64_t page_count)
{
    struct ha_writer w = ha_writer_of(ret, EMB_NATIVE_TAIL);

    put_record(&w, EMB_REC_HVM_CONTEXT, sizeof(struct emb_context));
    ha_put_u64(&w, EMB_CONTEXT_MAGIC);
    ha_put_u32(&w, EMB_VERSION);
    ha_put_u32(&w, WL_VERSION);
    ha_put_u64(&w, page_count);
    for (unsigned n = 0; n < 5; n++)
        ha_put_u64(&w, 0);
    put_record(&w, EMB_REC_END, 0);
    put_record(&w, EMB_LIBXL_END, 0);
}

size_t emb_native_batch(uint8_t *ret, const uint64_t *pfns, uint32_t count)
{
    struct ha_writer w = ha_writer_of(ret, EMB_RECORD_HEAD + EMB_PAGE_DATA_HEAD + 8u * count);

    put_record(&w, EMB_REC_PAGE_DATA, EMB_PAGE_DATA_HEAD + count * (8u + EMB_PAGE));
    ha_put_u32(&w, count);
    ha_put_u32(&w, 0);
    for (uint32_t n = 0; n < count; n++)
        ha_put_u64(&w, pfns[n]);
    return w.position;
}

int emb_native_check_libxl_head(const uint8_t bytes[16], struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(bytes, 16);

    if (get_be(&r, 8) != LIBXL_IDENT)
        return ha_err_set(err, HA_E_PEER, "not a libxl migration stream");
    uint64_t version = get_be(&r, 4);
    if (version != LIBXL_VERSION)
        return ha_err_set(err, HA_E_PEER, "libxl stream version %llu: expected 2",
                          (unsigned long long)version);
    if (get_be(&r, 4) != 0)
        return ha_err_set(err, HA_E_PEER, "libxl stream options: expected none");
    return 0;
}

int emb_native_check_image_head(const uint8_t bytes[40], struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(bytes, 40);

    if (get_be(&r, 8) != IMAGE_MARKER || get_be(&r, 4) != IMAGE_IDENT)
        return ha_err_set(err, HA_E_PEER, "not a libxc image");
    uint64_t version = get_be(&r, 4);
    if (version != IMAGE_VERSION || get_be(&r, 8) != 0)
        return ha_err_set(err, HA_E_PEER, "libxc image version %llu or its options: expected 3, 0",
                          (unsigned long long)version);
    uint32_t type = ha_get_u32(&r);
    if (type != DOMAIN_HVM)
        return ha_err_set(err, HA_E_PEER,
                          "domain type %u: expected 2, embedded guests have no other", type);
    if (ha_get_u16(&r) != PAGE_SHIFT || ha_get_u16(&r) != 0)
        return ha_err_set(err, HA_E_PEER, "page shift: expected 12");
    return 0;
}

struct emb_record_head emb_native_record_head(const uint8_t bytes[EMB_RECORD_HEAD])
{
    struct ha_reader r = ha_reader_of(bytes, EMB_RECORD_HEAD);
    uint32_t type = ha_get_u32(&r);

    return (struct emb_record_head){.type = type, .size = ha_get_u32(&r)};
}

int emb_native_check_count(uint32_t body_size, const uint8_t bytes[EMB_PAGE_DATA_HEAD],
                           uint32_t *ret_count, struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(bytes, EMB_PAGE_DATA_HEAD);
    uint32_t count = ha_get_u32(&r);

    if (ha_get_u32(&r) != 0)
        return ha_err_set(err, HA_E_PEER, "PAGE_DATA: reserved bits are set");
    if (count < 1 || count > EMB_BATCH_MAX)
        return ha_err_set(err, HA_E_PEER, "PAGE_DATA of %u pages: expected 1 to %u", count,
                          EMB_BATCH_MAX);
    if (body_size < EMB_PAGE_DATA_HEAD + 8u * count)
        return ha_err_set(err, HA_E_PEER, "PAGE_DATA: %u bytes for %u pages", body_size, count);
    *ret_count = count;
    return 0;
}

int emb_native_check_pfns(uint32_t body_size, const uint64_t *entries, uint32_t count,
                          uint64_t page_count, uint32_t *ret_data_pages, struct ha_err *err)
{
    uint32_t data_pages = 0;

    for (uint32_t n = 0; n < count; n++) {
        uint64_t type = emb_entry_type(entries[n]);
        uint64_t pfn = entries[n] & EMB_PFN_MASK;
        if (type != EMB_TYPE_NORMAL && type != EMB_TYPE_XALLOC)
            return ha_err_set(err, HA_E_PEER, "PAGE_DATA: page type %llu",
                              (unsigned long long)type);
        if ((entries[n] & ~EMB_PFN_MASK & ~(UINT64_C(0xf) << 60)) != 0)
            return ha_err_set(err, HA_E_PEER, "PAGE_DATA: reserved bits of an entry are set");
        if (pfn >= page_count)
            return ha_err_set(err, HA_E_PEER, "PAGE_DATA: pfn %llu of a guest of %llu pages",
                              (unsigned long long)pfn, (unsigned long long)page_count);
        data_pages += type == EMB_TYPE_NORMAL;
    }
    if (body_size != EMB_PAGE_DATA_HEAD + 8u * count + EMB_PAGE * data_pages)
        return ha_err_set(err, HA_E_PEER, "PAGE_DATA: %u bytes for %u pages with data", body_size,
                          data_pages);
    *ret_data_pages = data_pages;
    return 0;
}

int emb_native_check_context(const uint8_t *bytes, size_t size, uint64_t page_count,
                             struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(bytes, size);

    if (size != sizeof(struct emb_context) || ha_get_u64(&r) != EMB_CONTEXT_MAGIC)
        return ha_err_set(err, HA_E_PEER, "HVM_CONTEXT: not of an embedded guest");
    uint32_t version = ha_get_u32(&r);
    uint32_t workload = ha_get_u32(&r);
    if (version != EMB_VERSION || workload != WL_VERSION)
        return ha_err_set(err, HA_E_VERSION, "HVM_CONTEXT: version %u.%u: expected %u.%u", version,
                          workload, EMB_VERSION, WL_VERSION);
    uint64_t pages = ha_get_u64(&r);
    if (pages != page_count)
        return ha_err_set(err, HA_E_PEER, "HVM_CONTEXT: %llu pages, the definition says %llu",
                          (unsigned long long)pages, (unsigned long long)page_count);
    for (unsigned n = 0; n < 5; n++)
        if (ha_get_u64(&r) != 0)
            return ha_err_set(err, HA_E_PEER, "HVM_CONTEXT: reserved bits are set");
    return 0;
}
