/* SPDX-License-Identifier: Apache-2.0 */
#include "migrate/frame.h"

#include <string.h>

#define FLAG_OPTIONAL 1u

struct frame_limits {
    uint16_t type;
    const char *name;
    uint32_t size_min;
    uint32_t size_max;
};

static const struct frame_limits limits[] = {
    {FRAME_HELLO, "HELLO", FRAME_HELLO_SIZE, FRAME_CONTROL_MAX},
    {FRAME_WELCOME, "WELCOME", FRAME_WELCOME_SIZE, FRAME_CONTROL_MAX},
    {FRAME_ABORT, "ABORT", 4, 4 + FRAME_ABORT_TEXT},
    {FRAME_PING, "PING", 0, 0},
    {FRAME_SETUP, "SETUP", FRAME_SETUP_SIZE, FRAME_SETUP_SIZE},
    {FRAME_RAW, "RAW", FRAME_RAW_HEAD + 1, FRAME_RAW_HEAD + FRAME_RAW_MAX},
    {FRAME_BATCH, "BATCH", FRAME_BATCH_HEAD + 1, FRAME_BATCH_HEAD + 8 * FRAME_ENTRIES_MAX},
    {FRAME_PAGES, "PAGES", FRAME_PAGES_HEAD + 8, FRAME_PAGES_FRONT + FRAME_RAW_MAX},
    {FRAME_END, "END", 48, 48},
    {FRAME_END_ACK, "END_ACK", 24, 24},
    {FRAME_JOIN, "JOIN", 16, 16},
    {FRAME_BARRIER, "BARRIER", 8, 8},
    {FRAME_ACK, "ACK", 8, 8},
    {FRAME_PARCEL, "PARCEL", FRAME_HEADER_SIZE, FRAME_PARCEL_MAX},
};

static const struct frame_limits *limits_of(uint16_t type)
{
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        if (limits[i].type == type)
            return &limits[i];
    return NULL;
}

const char *frame_name(uint16_t type)
{
    const struct frame_limits *l = limits_of(type);

    return l ? l->name : "unknown";
}

void frame_header_encode(uint8_t *ret_bytes, const struct frame_header *header)
{
    struct ha_writer w = ha_writer_of(ret_bytes, FRAME_HEADER_SIZE);

    ha_put_u32(&w, FRAME_MAGIC);
    ha_put_u16(&w, header->type);
    ha_put_u16(&w, header->is_optional ? FLAG_OPTIONAL : 0);
    ha_put_u32(&w, header->size);
    ha_put_u32(&w, header->epoch);
    ha_put_u64(&w, header->sequence);
}

static int check_size(const struct frame_header *header, struct ha_err *err)
{
    const struct frame_limits *l = limits_of(header->type);

    if (!l && !header->is_optional)
        return ha_err_set(err, HA_E_PEER, "frame of unknown type %u", (unsigned)header->type);
    uint32_t low = l ? l->size_min : 0;
    uint32_t high = l ? l->size_max : FRAME_PAYLOAD_MAX;
    if (header->size < low || header->size > high)
        return ha_err_set(err, HA_E_PEER, "frame %s of %u bytes, allowed are %u to %u",
                          frame_name(header->type), (unsigned)header->size, (unsigned)low,
                          (unsigned)high);
    return 0;
}

int frame_header_decode(const uint8_t *bytes, struct frame_header *ret_header, struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(bytes, FRAME_HEADER_SIZE);
    uint32_t magic = ha_get_u32(&r);

    ret_header->type = ha_get_u16(&r);
    uint16_t flags = ha_get_u16(&r);
    ret_header->is_optional = (flags & FLAG_OPTIONAL) != 0;
    ret_header->size = ha_get_u32(&r);
    ret_header->epoch = ha_get_u32(&r);
    ret_header->sequence = ha_get_u64(&r);
    if (magic != FRAME_MAGIC)
        return ha_err_set(err, HA_E_PEER, "no frame where one should start");
    if ((flags & ~FLAG_OPTIONAL) != 0)
        return ha_err_set(err, HA_E_PEER, "frame with reserved flags %#x", (unsigned)flags);
    return check_size(ret_header, err);
}

/* Reads size bytes that must be zero. */
static void get_zeros(struct ha_reader *r, size_t size)
{
    const uint8_t *bytes = ha_get_raw(r, size);

    for (size_t i = 0; bytes && i < size; i++)
        if (bytes[i] != 0)
            r->failed = true;
}

static void put_zeros(struct ha_writer *w, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ha_put_u8(w, 0);
}

static int malformed(struct ha_err *err, uint16_t type, const char *rule)
{
    return ha_err_set(err, HA_E_PEER, "malformed frame %s: %s", frame_name(type), rule);
}

void frame_hello_encode(struct ha_writer *w, const struct frame_hello *m)
{
    ha_put_u16(w, m->version_min);
    ha_put_u16(w, m->version_max);
    ha_put_u32(w, m->features);
    ha_put_uuid(w, m->cluster_id);
    ha_put_u64(w, m->generation);
    ha_put_u64(w, m->ticket);
    ha_put_uuid(w, m->guest);
    ha_put_u64(w, m->epoch);
    ha_put_raw(w, m->proof, sizeof(m->proof));
    if ((m->features & FRAME_LANES) == 0)
        return;
    ha_put_u16(w, m->connections);
    ha_put_u16(w, m->window);
    ha_put_u32(w, 0);
}

int frame_hello_decode(const uint8_t *payload, size_t size, struct frame_hello *ret,
                       struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->version_min = ha_get_u16(&r);
    ret->version_max = ha_get_u16(&r);
    ret->features = ha_get_u32(&r);
    ret->cluster_id = ha_get_uuid(&r);
    ret->generation = ha_get_u64(&r);
    ret->ticket = ha_get_u64(&r);
    ret->guest = ha_get_uuid(&r);
    ret->epoch = ha_get_u64(&r);
    const uint8_t *proof = ha_get_raw(&r, sizeof(ret->proof));
    if (r.failed || !proof)
        return malformed(err, FRAME_HELLO, "too short");
    memcpy(ret->proof, proof, sizeof(ret->proof));
    if (ret->version_min == 0 || ret->version_min > ret->version_max)
        return malformed(err, FRAME_HELLO, "empty version range");
    if ((ret->features & FRAME_LANES) == 0)
        return 0;
    ret->connections = ha_get_u16(&r);
    ret->window = ha_get_u16(&r);
    get_zeros(&r, 4);
    if (r.failed || ret->connections == 0 || ret->window < FRAME_WINDOW_MIN)
        return malformed(err, FRAME_HELLO, "its offer of connections");
    return 0;
}

void frame_welcome_encode(struct ha_writer *w, const struct frame_welcome *m)
{
    ha_put_u16(w, m->version);
    ha_put_u16(w, 0);
    ha_put_u32(w, m->features);
    ha_put_raw(w, m->proof, sizeof(m->proof));
    if ((m->features & FRAME_LANES) == 0)
        return;
    ha_put_u16(w, m->connections);
    ha_put_u16(w, m->window);
    ha_put_u32(w, m->grace_ms);
    ha_put_raw(w, m->psk, sizeof(m->psk));
}

static int get_terms(struct ha_reader *r, struct frame_welcome *m, struct ha_err *err)
{
    m->connections = ha_get_u16(r);
    m->window = ha_get_u16(r);
    m->grace_ms = ha_get_u32(r);
    const uint8_t *psk = ha_get_raw(r, sizeof(m->psk));
    if (r->failed || !psk)
        return malformed(err, FRAME_WELCOME, "too short");
    memcpy(m->psk, psk, sizeof(m->psk));
    if (m->connections == 0 || m->connections > FRAME_LANES_MAX || m->window < FRAME_WINDOW_MIN ||
        m->window > FRAME_WINDOW_MAX)
        return malformed(err, FRAME_WELCOME, "connections or window out of range");
    return 0;
}

int frame_welcome_decode(const uint8_t *payload, size_t size, struct frame_welcome *ret,
                         struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->version = ha_get_u16(&r);
    get_zeros(&r, 2);
    ret->features = ha_get_u32(&r);
    const uint8_t *proof = ha_get_raw(&r, sizeof(ret->proof));
    if (r.failed || !proof)
        return malformed(err, FRAME_WELCOME, "too short, or reserved bytes set");
    memcpy(ret->proof, proof, sizeof(ret->proof));
    return (ret->features & FRAME_LANES) != 0 ? get_terms(&r, ret, err) : 0;
}

void frame_join_encode(struct ha_writer *w, const struct frame_join *m)
{
    ha_put_u64(w, m->ticket);
    ha_put_u16(w, m->lane);
    ha_put_u16(w, 0);
    ha_put_u32(w, m->attempt);
}

int frame_join_decode(const uint8_t *payload, size_t size, struct frame_join *ret,
                      struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->ticket = ha_get_u64(&r);
    ret->lane = ha_get_u16(&r);
    get_zeros(&r, 2);
    ret->attempt = ha_get_u32(&r);
    if (!ha_reader_is_done(&r) || ret->lane > FRAME_LANES_MAX)
        return malformed(err, FRAME_JOIN, "wrong size, reserved bytes or lane");
    return 0;
}

int frame_number_decode(uint16_t type, const uint8_t *payload, size_t size, uint64_t *ret,
                        struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    *ret = ha_get_u64(&r);
    return ha_reader_is_done(&r) ? 0 : malformed(err, type, "wrong size");
}

void frame_abort_encode(struct ha_writer *w, const struct frame_abort *m)
{
    size_t length = strlen(m->text);

    length = length > FRAME_ABORT_TEXT ? FRAME_ABORT_TEXT : length;
    ha_put_u16(w, m->code);
    ha_put_u16(w, (uint16_t)length);
    ha_put_raw(w, m->text, length);
}

int frame_abort_decode(const uint8_t *payload, size_t size, struct frame_abort *ret,
                       struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->code = ha_get_u16(&r);
    uint16_t length = ha_get_u16(&r);
    const uint8_t *text = length <= FRAME_ABORT_TEXT ? ha_get_raw(&r, length) : NULL;
    if (!text || !ha_reader_is_done(&r))
        return malformed(err, FRAME_ABORT, "text does not fill it");
    for (uint16_t i = 0; i < length; i++)
        ret->text[i] = text[i] >= 0x20 && text[i] < 0x7f ? (char)text[i] : '?';
    ret->text[length] = '\0';
    return 0;
}

void frame_setup_encode(struct ha_writer *w, const struct frame_setup *m)
{
    ha_put_u32(w, m->cache_pages);
    put_zeros(w, 4);
    ha_put_raw(w, m->secret, sizeof(m->secret));
}

int frame_setup_decode(const uint8_t *payload, size_t size, struct frame_setup *ret,
                       struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->cache_pages = ha_get_u32(&r);
    get_zeros(&r, 4);
    const uint8_t *secret = ha_get_raw(&r, sizeof(ret->secret));
    if (!secret || !ha_reader_is_done(&r))
        return malformed(err, FRAME_SETUP, "wrong size, or reserved bytes set");
    if (ret->cache_pages > FRAME_CACHE_MAX)
        return malformed(err, FRAME_SETUP, "the cache is too large");
    memcpy(ret->secret, secret, sizeof(ret->secret));
    return 0;
}

/* Takes what is left as encoded bytes and checks codec and sizes against each other: nothing is
 * decoded into more than raw_size, and a stored block is exactly its raw bytes. */
static void get_encoded(struct ha_reader *r, uint8_t codec, uint32_t raw_size,
                        const uint8_t **ret_data, uint32_t *ret_size)
{
    size_t left = r->failed ? 0 : r->size - r->position;

    *ret_data = ha_get_raw(r, left);
    *ret_size = (uint32_t)left;
    if (codec == FRAME_STORE && left != raw_size)
        r->failed = true;
    if (codec != FRAME_STORE && (left == 0 || raw_size == 0))
        r->failed = true;
    if (codec > FRAME_RUNS)
        r->failed = true;
}

void frame_raw_encode(struct ha_writer *w, const struct frame_raw *m)
{
    ha_put_u8(w, m->codec);
    put_zeros(w, 3);
    ha_put_u32(w, m->raw_size);
}

int frame_raw_decode(const uint8_t *payload, size_t size, struct frame_raw *ret, struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->codec = ha_get_u8(&r);
    get_zeros(&r, 3);
    ret->raw_size = ha_get_u32(&r);
    if (ret->raw_size == 0 || ret->raw_size > FRAME_RAW_MAX)
        return malformed(err, FRAME_RAW, "size out of range");
    get_encoded(&r, ret->codec, ret->raw_size, &ret->data, &ret->data_size);
    if (ret->codec > FRAME_ZSTD)
        r.failed = true;
    return ha_reader_is_done(&r) ? 0 : malformed(err, FRAME_RAW, "codec and sizes disagree");
}

void frame_batch_encode(struct ha_writer *w, const struct frame_batch *m)
{
    ha_put_u64(w, m->batch);
    ha_put_u32(w, m->count);
    ha_put_u32(w, m->data_count);
    ha_put_u8(w, m->codec);
    put_zeros(w, 3);
    ha_put_u32(w, 8 * m->count);
}

int frame_batch_decode(const uint8_t *payload, size_t size, struct frame_batch *ret,
                       struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->batch = ha_get_u64(&r);
    ret->count = ha_get_u32(&r);
    ret->data_count = ha_get_u32(&r);
    ret->codec = ha_get_u8(&r);
    get_zeros(&r, 3);
    uint32_t raw_size = ha_get_u32(&r);
    if (ret->count == 0 || ret->count > FRAME_ENTRIES_MAX || ret->data_count > ret->count)
        return malformed(err, FRAME_BATCH, "count out of range");
    if (raw_size != 8 * ret->count)
        return malformed(err, FRAME_BATCH, "size does not follow from the count");
    get_encoded(&r, ret->codec, raw_size, &ret->data, &ret->data_size);
    return ha_reader_is_done(&r) ? 0 : malformed(err, FRAME_BATCH, "codec and sizes disagree");
}

/* A run: u64 first entry, u32 how many. */
size_t frame_runs_encode(const uint8_t *entries, uint32_t count, uint8_t *dst, size_t capacity)
{
    struct ha_reader r = ha_reader_of(entries, 8 * (size_t)count);
    struct ha_writer w = ha_writer_of(dst, capacity);
    uint64_t next = ha_get_u64(&r);

    for (uint32_t done = 0; done < count && !w.failed;) {
        uint64_t first = next;
        uint32_t length = 0;
        do {
            length++;
            done++;
            next = ha_get_u64(&r);
        } while (done < count && next == first + length);
        ha_put_u64(&w, first);
        ha_put_u32(&w, length);
    }
    return w.failed ? 0 : w.position;
}

int frame_runs_decode(const uint8_t *src, size_t size, uint8_t *ret_entries, uint32_t count,
                      struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(src, size);
    struct ha_writer w = ha_writer_of(ret_entries, 8 * (size_t)count);
    uint32_t left = count;

    while (r.position < size && !r.failed) {
        uint64_t entry = ha_get_u64(&r);
        uint32_t length = ha_get_u32(&r);
        if (r.failed || length == 0 || length > left)
            return malformed(err, FRAME_BATCH, "runs do not make its entries");
        for (uint32_t i = 0; i < length; i++)
            ha_put_u64(&w, entry + i);
        left -= length;
    }
    return left == 0 && !r.failed ? 0 : malformed(err, FRAME_BATCH, "runs do not make its entries");
}

static void put_padding(struct ha_writer *w, uint32_t size)
{
    put_zeros(w, (8u - size % 8u) % 8u);
}

void frame_pages_encode(struct ha_writer *w, const struct frame_pages *m)
{
    ha_put_u64(w, m->batch);
    ha_put_u32(w, m->first);
    ha_put_u16(w, m->count);
    ha_put_u8(w, m->codec);
    ha_put_u8(w, 0);
    ha_put_u32(w, m->raw_size);
    ha_put_u32(w, m->delta_size);
    ha_put_raw(w, m->kind, m->count);
    put_padding(w, m->count);
    for (uint32_t i = 0; i < m->slot_count; i++)
        ha_put_u32(w, m->slot[i]);
    put_padding(w, 4 * m->slot_count);
}

/* Reads the kinds with their padding and counts them. */
static void get_kinds(struct ha_reader *r, struct frame_pages *m)
{
    const uint8_t *kinds = ha_get_raw(r, m->count);
    uint32_t of_kind[FRAME_DELTA + 1u] = {0};

    get_zeros(r, (8u - m->count % 8u) % 8u);
    for (uint16_t i = 0; kinds && i < m->count; i++) {
        if (kinds[i] > FRAME_DELTA)
            r->failed = true;
        else
            of_kind[kinds[i]]++;
        m->kind[i] = kinds[i];
    }
    m->full_count = of_kind[FRAME_DATA] + of_kind[FRAME_KEEP];
    m->delta_count = of_kind[FRAME_DELTA];
    m->slot_count = of_kind[FRAME_KEEP] + of_kind[FRAME_DELTA];
}

static void get_slots(struct ha_reader *r, struct frame_pages *m)
{
    for (uint32_t i = 0; i < m->slot_count; i++)
        m->slot[i] = ha_get_u32(r);
    get_zeros(r, (8u - 4u * m->slot_count % 8u) % 8u);
}

int frame_pages_decode(const uint8_t *payload, size_t size, struct frame_pages *ret,
                       struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->batch = ha_get_u64(&r);
    ret->first = ha_get_u32(&r);
    ret->count = ha_get_u16(&r);
    ret->codec = ha_get_u8(&r);
    get_zeros(&r, 1);
    ret->raw_size = ha_get_u32(&r);
    ret->delta_size = ha_get_u32(&r);
    if (ret->count == 0 || ret->count > FRAME_PAGES_MAX)
        return malformed(err, FRAME_PAGES, "count out of range");
    get_kinds(&r, ret);
    if (r.failed)
        return malformed(err, FRAME_PAGES, "unknown kind, or reserved bytes set");
    if (ret->full_count + ret->delta_count > FRAME_GROUP_PAGES)
        return malformed(err, FRAME_PAGES, "too many pages with content");
    get_slots(&r, ret);
    if (r.failed)
        return malformed(err, FRAME_PAGES, "slots do not follow from the kinds");
    if (ret->delta_size > ret->delta_count * FRAME_DELTA_MAX ||
        ret->raw_size != ret->full_count * FRAME_PAGE_SIZE + ret->delta_size)
        return malformed(err, FRAME_PAGES, "size does not follow from the kinds");
    get_encoded(&r, ret->codec, ret->raw_size, &ret->data, &ret->data_size);
    if (ret->codec > FRAME_ZSTD)
        r.failed = true;
    return ha_reader_is_done(&r) ? 0 : malformed(err, FRAME_PAGES, "codec and sizes disagree");
}

void frame_end_encode(struct ha_writer *w, const struct frame_end *m)
{
    ha_put_u64(w, m->raw_bytes);
    ha_put_u64(w, m->batches);
    ha_put_u64(w, m->pages);
    ha_put_u8(w, m->digest_kind);
    put_zeros(w, 7);
    ha_put_digest(w, m->digest);
}

int frame_end_decode(const uint8_t *payload, size_t size, struct frame_end *ret, struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->raw_bytes = ha_get_u64(&r);
    ret->batches = ha_get_u64(&r);
    ret->pages = ha_get_u64(&r);
    ret->digest_kind = ha_get_u8(&r);
    get_zeros(&r, 7);
    ret->digest = ha_get_digest(&r);
    if (!ha_reader_is_done(&r) || ret->digest_kind > FRAME_PAGE_HASHES)
        return malformed(err, FRAME_END, "wrong size, digest kind or reserved bytes");
    return 0;
}

void frame_end_ack_encode(struct ha_writer *w, const struct frame_end_ack *m)
{
    ha_put_u64(w, m->raw_bytes);
    ha_put_digest(w, m->digest);
}

int frame_end_ack_decode(const uint8_t *payload, size_t size, struct frame_end_ack *ret,
                         struct ha_err *err)
{
    struct ha_reader r = ha_reader_of(payload, size);

    ret->raw_bytes = ha_get_u64(&r);
    ret->digest = ha_get_digest(&r);
    return ha_reader_is_done(&r) ? 0 : malformed(err, FRAME_END_ACK, "wrong size");
}
