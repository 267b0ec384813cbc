/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/native.h"

#include <string.h>

#include "hamgr/base/assert.h"

/*
 *  LIBXL_HEADER -> LIBXL_RECORD <-------------------------------+
 *                     | LIBXC_CONTEXT      | other: BODY -> PAD -+
 *                     v                    | END: DONE
 *                  IMAGE_HEADER -> DOMAIN_HEADER -> XC_RECORD <----------+
 *                                                     | other: XC_BODY -> XC_PAD -+
 *                                                     | PAGE_DATA: PAGES --------+
 *                                                     | END: LIBXL_RECORD
 */
enum native_state {
    LIBXL_HEADER = 0,
    LIBXL_RECORD,
    LIBXL_BODY,
    LIBXL_PAD,
    IMAGE_HEADER,
    DOMAIN_HEADER,
    XC_RECORD,
    XC_BODY,
    XC_PAD,
    XC_PAGES,
    DONE,
};

#define LIBXL_IDENT       UINT64_C(0x4c6962786c466d74) /* "LibxlFmt" */
#define LIBXL_HEADER_SIZE 16u
#define IMAGE_HEADER_SIZE 24u
#define IMAGE_ID          0x58454e46u /* "XENF" */
#define DOMAIN_SIZE       16u
#define RECORD_SIZE       8u
#define OPTIONAL_BIT      0x80000000u

enum { GUEST_PV = 1, GUEST_HVM = 2 };
enum { FOR_PV = 1, FOR_HVM = 2, FOR_ALL = 3 };

enum { LIBXL_END = 0, LIBXL_LIBXC = 1, LIBXL_EMU_STORE = 2, LIBXL_EMU_CONTEXT = 3 };
enum { LIBXL_CHECKPOINT_END = 4, LIBXL_CHECKPOINT_STATE = 5 };
enum { XC_END = 0, XC_PAGE_DATA = 1, XC_CHECKPOINT = 14, XC_CHECKPOINT_PFNS = 15 };
enum { XC_VERIFY = 13, XC_STATIC_END = 16 };

/* length = base + n * step, at least min; step 0: exactly base. guests: where the record may be. */
struct record_rule {
    uint32_t type;
    const char *name;
    uint32_t base;
    uint32_t step;
    uint32_t min;
    uint8_t guests;
};

static const struct record_rule xc_rules[] = {
    {XC_END, "END", 0, 0, 0, FOR_ALL},
    {XC_PAGE_DATA, "PAGE_DATA", 8, 8, 16, FOR_ALL},
    {2, "X86_PV_INFO", 8, 0, 8, FOR_PV},
    {3, "X86_PV_P2M_FRAMES", 8, 8, 8, FOR_PV},
    {4, "X86_PV_VCPU_BASIC", 8, 1, 8, FOR_PV},
    {5, "X86_PV_VCPU_EXTENDED", 8, 1, 8, FOR_PV},
    {6, "X86_PV_VCPU_XSAVE", 8, 1, 8, FOR_PV},
    {7, "SHARED_INFO", 4096, 0, 4096, FOR_PV},
    {8, "X86_TSC_INFO", 24, 0, 24, FOR_ALL},
    {9, "HVM_CONTEXT", 0, 1, 1, FOR_HVM},
    {10, "HVM_PARAMS", 8, 16, 8, FOR_HVM},
    {12, "X86_PV_VCPU_MSRS", 8, 1, 8, FOR_PV},
    {XC_VERIFY, "VERIFY", 0, 0, 0, FOR_ALL},
    {XC_STATIC_END, "STATIC_DATA_END", 0, 0, 0, FOR_ALL},
    {17, "X86_CPUID_POLICY", 0, 24, 0, FOR_ALL},
    {18, "X86_MSR_POLICY", 0, 16, 0, FOR_ALL},
};

static const struct record_rule libxl_rules[] = {
    {LIBXL_END, "END", 0, 0, 0, FOR_ALL},
    {LIBXL_LIBXC, "LIBXC_CONTEXT", 0, 0, 0, FOR_ALL},
    {LIBXL_EMU_STORE, "EMULATOR_XENSTORE_DATA", 8, 1, 8, FOR_ALL},
    {LIBXL_EMU_CONTEXT, "EMULATOR_CONTEXT", 8, 1, 8, FOR_ALL},
};

static uint64_t be(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    return value;
}

static uint64_t le(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static const struct record_rule *find_rule(const struct record_rule *rules, size_t count,
                                           uint32_t type)
{
    for (size_t i = 0; i < count; i++)
        if (rules[i].type == type)
            return &rules[i];
    return NULL;
}

void native_init(struct native *p, bool is_ring)
{
    memset(p, 0, sizeof(*p));
    p->is_ring = is_ring;
}

static void take_raw(struct native_token *token, size_t size)
{
    token->kind = NATIVE_RAW;
    token->size = size;
}

static int need_more(struct native_token *token, size_t size)
{
    token->kind = NATIVE_MORE;
    token->size = size;
    return 0;
}

static int libxl_header(struct native *p, const uint8_t *data, struct native_token *token,
                        struct ha_err *err)
{
    if (be(data, 8) != LIBXL_IDENT)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: not a libxl stream");
    if (be(data + 8, 4) != 2)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: libxl version %u, wanted 2",
                          (unsigned)be(data + 8, 4));
    if (be(data + 12, 4) != 0)
        return ha_err_set(err, HA_E_CORRUPT,
                          "native stream: libxl options %#x (big-endian or legacy) not supported",
                          (unsigned)be(data + 12, 4));
    p->state = LIBXL_RECORD;
    take_raw(token, LIBXL_HEADER_SIZE);
    return 0;
}

/* Type and length against the rule; unknown optional records pass. */
static int check_record(const struct native *p, const struct record_rule *rule, uint32_t type,
                        uint32_t length, const char *layer, struct ha_err *err)
{
    if (length > NATIVE_RECORD_MAX)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: %s record %#x of %u bytes is too long",
                          layer, (unsigned)type, (unsigned)length);
    if (type == NATIVE_MARKER_TYPE)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: page marker where there is no ring");
    if (!rule && (type & OPTIONAL_BIT) != 0)
        return 0;
    if (!rule)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: unknown mandatory %s record %#x",
                          layer, (unsigned)type);
    bool fits = rule->step == 0 ? length == rule->base
                                : length >= rule->min && (length - rule->base) % rule->step == 0;
    if (!fits)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: %s record %s of %u bytes", layer,
                          rule->name, (unsigned)length);
    if (p->guest_type == GUEST_PV && (rule->guests & FOR_PV) == 0)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: record %s in a PV guest", rule->name);
    if (p->guest_type == GUEST_HVM && (rule->guests & FOR_HVM) == 0)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: record %s in an HVM guest",
                          rule->name);
    return 0;
}

static void enter_body(struct native *p, uint32_t length, uint8_t body_state, uint8_t next)
{
    p->body_left = length;
    p->pad_size = (uint8_t)((8u - length % 8u) % 8u);
    p->state = length > 0 ? body_state : next;
    ha_assert(length > 0 || p->pad_size == 0);
}

static int libxl_record(struct native *p, const uint8_t *data, struct native_token *token,
                        struct ha_err *err)
{
    uint32_t type = (uint32_t)le(data, 4);
    uint32_t length = (uint32_t)le(data + 4, 4);
    size_t rules = sizeof(libxl_rules) / sizeof(libxl_rules[0]);

    if (type == LIBXL_CHECKPOINT_END || type == LIBXL_CHECKPOINT_STATE)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: checkpointed streams not supported");
    int rc = check_record(p, find_rule(libxl_rules, rules, type), type, length, "libxl", err);
    if (rc < 0)
        return rc;
    if (type == LIBXL_LIBXC && p->has_image)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: second LIBXC_CONTEXT");
    if (type == LIBXL_END && !p->has_image)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: END without a guest's image");
    take_raw(token, RECORD_SIZE);
    if (type == LIBXL_END)
        p->state = DONE;
    else if (type == LIBXL_LIBXC)
        p->state = IMAGE_HEADER;
    else
        enter_body(p, length, LIBXL_BODY, LIBXL_RECORD);
    p->has_image = p->has_image || type == LIBXL_LIBXC;
    return 0;
}

static int image_header(struct native *p, const uint8_t *data, struct native_token *token,
                        struct ha_err *err)
{
    if (be(data, 8) != UINT64_MAX || be(data + 8, 4) != IMAGE_ID)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: no libxc image");
    uint32_t version = (uint32_t)be(data + 12, 4);
    if (version < 2 || version > 3)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: libxc version %u, wanted 2 or 3",
                          (unsigned)version);
    if (!is_zero(data + 16, 8))
        return ha_err_set(err, HA_E_CORRUPT, "native stream: libxc options not supported");
    p->version = (uint8_t)version;
    p->state = DOMAIN_HEADER;
    take_raw(token, IMAGE_HEADER_SIZE);
    return 0;
}

static int domain_header(struct native *p, const uint8_t *data, struct native_token *token,
                         struct ha_err *err)
{
    uint32_t type = (uint32_t)le(data, 4);

    if (type != GUEST_PV && type != GUEST_HVM)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: guest type %u", (unsigned)type);
    if (le(data + 4, 2) != 12 || le(data + 6, 2) != 0)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: page shift %u, wanted 12",
                          (unsigned)le(data + 4, 2));
    p->guest_type = (uint8_t)type;
    p->state = XC_RECORD;
    take_raw(token, DOMAIN_SIZE);
    return 0;
}

int native_check_entries(const struct native *p, const uint8_t *entries, uint32_t count,
                         uint32_t *ret_data_count, struct ha_err *err)
{
    uint32_t data_count = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t entry = le(entries + 8 * (size_t)i, 8);
        unsigned type = (unsigned)(entry >> 60);
        uint64_t pfn = entry & ((UINT64_C(1) << 60) - 1);
        bool is_table = (type >= 1 && type <= 4) || (type >= 9 && type <= 12);
        if (pfn >= NATIVE_PFN_LIMIT)
            return ha_err_set(err, HA_E_CORRUPT, "native stream: page number %#llx out of range",
                              (unsigned long long)pfn);
        if (type >= 5 && type <= 8)
            return ha_err_set(err, HA_E_CORRUPT, "native stream: page type %u", type);
        if (is_table && p->guest_type != GUEST_PV)
            return ha_err_set(err, HA_E_CORRUPT, "native stream: page table in an HVM guest");
        data_count += type < 13 ? 1u : 0u;
    }
    *ret_data_count = data_count;
    return 0;
}

static int page_data(struct native *p, const uint8_t *data, size_t size, struct native_token *token,
                     struct ha_err *err)
{
    uint32_t length = (uint32_t)le(data + 4, 4);

    if (p->version >= 3 && !p->is_static_done)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: pages before STATIC_DATA_END");
    if (size < NATIVE_BATCH_HEAD)
        return need_more(token, NATIVE_BATCH_HEAD);
    uint32_t count = (uint32_t)le(data + 8, 4);
    if (count == 0 || count > NATIVE_ENTRIES_MAX || le(data + 12, 4) != 0)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: PAGE_DATA of %u entries",
                          (unsigned)count);
    size_t head = NATIVE_BATCH_HEAD + 8 * (size_t)count;
    if (length < head - RECORD_SIZE)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: PAGE_DATA too short");
    if (size < head)
        return need_more(token, head);
    uint32_t data_count = 0;
    int rc = native_check_entries(p, data + NATIVE_BATCH_HEAD, count, &data_count, err);
    if (rc < 0)
        return rc;
    if (length != head - RECORD_SIZE + (uint64_t)data_count * NATIVE_PAGE_SIZE)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: PAGE_DATA of %u bytes for %u pages",
                          (unsigned)length, (unsigned)data_count);
    token->kind = NATIVE_BATCH;
    token->size = head;
    token->count = count;
    token->data_count = data_count;
    token->entries = data + NATIVE_BATCH_HEAD;
    p->pages_left = data_count;
    p->state = data_count > 0 ? XC_PAGES : XC_RECORD;
    return 0;
}

static int marker(struct native *p, const uint8_t *data, size_t size, struct native_token *token,
                  struct ha_err *err)
{
    if (p->version >= 3 && !p->is_static_done)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: pages before STATIC_DATA_END");
    if (le(data + 4, 4) != NATIVE_MARKER_SIZE - RECORD_SIZE)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: malformed page marker");
    if (size < NATIVE_MARKER_SIZE)
        return need_more(token, NATIVE_MARKER_SIZE);
    if (le(data + 20, 4) != 0)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: malformed page marker");
    token->kind = NATIVE_MARKER;
    token->size = NATIVE_MARKER_SIZE;
    token->marker_batch = le(data + 8, 8);
    token->marker_slot = (uint32_t)le(data + 16, 4);
    return 0;
}

static int xc_record(struct native *p, const uint8_t *data, size_t size, struct native_token *token,
                     struct ha_err *err)
{
    uint32_t type = (uint32_t)le(data, 4);
    uint32_t length = (uint32_t)le(data + 4, 4);
    size_t rules = sizeof(xc_rules) / sizeof(xc_rules[0]);

    if (type == XC_CHECKPOINT || type == XC_CHECKPOINT_PFNS)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: checkpointed streams not supported");
    if (type == NATIVE_MARKER_TYPE && p->is_ring)
        return marker(p, data, size, token, err);
    int rc = check_record(p, find_rule(xc_rules, rules, type), type, length, "libxc", err);
    if (rc < 0)
        return rc;
    if (type == XC_PAGE_DATA)
        return page_data(p, data, size, token, err);
    if (type == XC_STATIC_END && p->is_static_done)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: second STATIC_DATA_END");
    if (type == XC_END && p->version >= 3 && !p->is_static_done)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: image without STATIC_DATA_END");
    p->is_static_done = p->is_static_done || type == XC_STATIC_END;
    p->is_verifying = p->is_verifying || type == XC_VERIFY;
    take_raw(token, RECORD_SIZE);
    if (type == XC_END)
        p->state = LIBXL_RECORD;
    else
        enter_body(p, length, XC_BODY, XC_RECORD);
    return 0;
}

/* A record's body passes in whatever pieces it comes. */
static int body(struct native *p, size_t size, struct native_token *token)
{
    bool is_libxl = p->state == LIBXL_BODY;
    size_t taken = size < p->body_left ? size : p->body_left;

    if (taken == 0)
        return need_more(token, 1);
    taken = taken < NATIVE_RAW_MAX ? taken : NATIVE_RAW_MAX;
    p->body_left -= (uint32_t)taken;
    if (p->body_left == 0 && p->pad_size > 0)
        p->state = is_libxl ? LIBXL_PAD : XC_PAD;
    else if (p->body_left == 0)
        p->state = is_libxl ? LIBXL_RECORD : XC_RECORD;
    take_raw(token, taken);
    return 0;
}

static int padding(struct native *p, const uint8_t *data, struct native_token *token,
                   struct ha_err *err)
{
    if (!is_zero(data, p->pad_size))
        return ha_err_set(err, HA_E_CORRUPT, "native stream: padding is not zero");
    take_raw(token, p->pad_size);
    p->state = p->state == LIBXL_PAD ? LIBXL_RECORD : XC_RECORD;
    return 0;
}

static int pages(struct native *p, size_t size, struct native_token *token)
{
    size_t count = size / NATIVE_PAGE_SIZE;

    if (count == 0)
        return need_more(token, NATIVE_PAGE_SIZE);
    count = count < p->pages_left ? count : p->pages_left;
    count = count < NATIVE_GROUP_MAX ? count : NATIVE_GROUP_MAX;
    token->kind = NATIVE_PAGES;
    token->size = count * NATIVE_PAGE_SIZE;
    token->count = (uint32_t)count;
    p->pages_left -= (uint32_t)count;
    p->state = p->pages_left > 0 ? XC_PAGES : XC_RECORD;
    return 0;
}

/* Bytes the state must see at once. */
static size_t wanted(const struct native *p)
{
    switch ((enum native_state)p->state) {
    case LIBXL_HEADER:
        return LIBXL_HEADER_SIZE;
    case IMAGE_HEADER:
        return IMAGE_HEADER_SIZE;
    case DOMAIN_HEADER:
        return DOMAIN_SIZE;
    case LIBXL_RECORD:
    case XC_RECORD:
        return RECORD_SIZE;
    case LIBXL_PAD:
    case XC_PAD:
        return p->pad_size;
    case LIBXL_BODY:
    case XC_BODY:
    case XC_PAGES:
    case DONE:
        break;
    }
    return 0;
}

int native_next(struct native *p, const uint8_t *data, size_t size, struct native_token *ret_token,
                struct ha_err *err)
{
    memset(ret_token, 0, sizeof(*ret_token));
    if (size < wanted(p))
        return need_more(ret_token, wanted(p));
    switch ((enum native_state)p->state) {
    case LIBXL_HEADER:
        return libxl_header(p, data, ret_token, err);
    case LIBXL_RECORD:
        return libxl_record(p, data, ret_token, err);
    case IMAGE_HEADER:
        return image_header(p, data, ret_token, err);
    case DOMAIN_HEADER:
        return domain_header(p, data, ret_token, err);
    case XC_RECORD:
        return xc_record(p, data, size, ret_token, err);
    case LIBXL_BODY:
    case XC_BODY:
        return body(p, size, ret_token);
    case LIBXL_PAD:
    case XC_PAD:
        return padding(p, data, ret_token, err);
    case XC_PAGES:
        return pages(p, size, ret_token);
    case DONE:
        break;
    }
    if (size > 0)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: bytes behind its end");
    ret_token->kind = NATIVE_END;
    return 0;
}

int native_skip_pages(struct native *p, uint32_t count, struct ha_err *err)
{
    if (p->state != XC_PAGES || count > p->pages_left)
        return ha_err_set(err, HA_E_CORRUPT, "native stream: %u pages where %u are due",
                          (unsigned)count, (unsigned)(p->state == XC_PAGES ? p->pages_left : 0));
    p->pages_left -= count;
    p->state = p->pages_left > 0 ? XC_PAGES : XC_RECORD;
    return 0;
}

bool native_is_between(const struct native *p)
{
    return p->state == LIBXL_RECORD || p->state == XC_RECORD || p->state == DONE;
}

bool native_is_in_batch(const struct native *p)
{
    return p->state == XC_PAGES;
}

uint32_t native_pages_left(const struct native *p)
{
    return p->state == XC_PAGES ? p->pages_left : 0;
}

bool native_is_verifying(const struct native *p)
{
    return p->is_verifying;
}

bool native_is_hvm(const struct native *p)
{
    return p->guest_type == GUEST_HVM;
}

bool native_is_done(const struct native *p)
{
    return p->state == DONE;
}

void native_batch_head(uint8_t *ret_bytes, uint32_t count, uint32_t data_count)
{
    struct ha_writer w = ha_writer_of(ret_bytes, NATIVE_BATCH_HEAD);

    ha_put_u32(&w, XC_PAGE_DATA);
    ha_put_u32(&w, 8 + 8 * count + NATIVE_PAGE_SIZE * data_count);
    ha_put_u32(&w, count);
    ha_put_u32(&w, 0);
}

void native_marker(uint8_t *ret_bytes, uint64_t batch, uint32_t slot)
{
    struct ha_writer w = ha_writer_of(ret_bytes, NATIVE_MARKER_SIZE);

    ha_put_u32(&w, NATIVE_MARKER_TYPE);
    ha_put_u32(&w, NATIVE_MARKER_SIZE - RECORD_SIZE);
    ha_put_u64(&w, batch);
    ha_put_u32(&w, slot);
    ha_put_u32(&w, 0);
}
