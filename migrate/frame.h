/* SPDX-License-Identifier: Apache-2.0
 *
 * The frames of the page stream (STREAM.md, section 3): encoding, and decoding with every check
 * that needs no more than the frame itself. Order between frames is the business of send.c and
 * recv.c. Pure: no I/O, no clock, no allocation.
 */
#ifndef HAMGR_MIGRATE_FRAME_H
#define HAMGR_MIGRATE_FRAME_H

#include "hamgr/base/bytes.h"
#include "hamgr/base/err.h"

#define FRAME_MAGIC        0x31534d48u /* "HMS1" */
#define FRAME_HEADER_SIZE  24u
#define FRAME_PAYLOAD_MAX  266240u
#define FRAME_VERSION      1u
#define FRAME_PAGE_SIZE    4096u
#define FRAME_GROUP_PAGES  64u     /* pages with content of one PAGES frame */
#define FRAME_PAGES_MAX    1024u   /* pages of one PAGES frame, zero ones included */
#define FRAME_RAW_MAX      262144u /* bytes a RAW or PAGES frame decodes to */
#define FRAME_DELTA_MAX    2048u   /* bytes one delta may take */
#define FRAME_CACHE_MAX    262144u /* pages of the mirrored cache: 1 GiB */
#define FRAME_SECRET_SIZE  192u
#define FRAME_ENTRIES_MAX  32768u /* entries of one BATCH */
#define FRAME_ABORT_TEXT   200u
#define FRAME_PROOF_SIZE   32u
#define FRAME_HELLO_SIZE   96u
#define FRAME_WELCOME_SIZE 40u
#define FRAME_RAW_HEAD     8u
#define FRAME_BATCH_HEAD   24u
#define FRAME_SETUP_SIZE   (8u + FRAME_SECRET_SIZE)
#define FRAME_PAGES_HEAD   24u /* kinds and slots follow, each padded to 8 */
#define FRAME_PAGES_FRONT  (FRAME_PAGES_HEAD + FRAME_PAGES_MAX + 4u * FRAME_GROUP_PAGES)
/* A block holds a parcel: its header and up to FRAME_PARCEL_MAX bytes; or, FRAME_FRONT bytes from
 * its beginning, the content of one frame with all heads to be written before it. */
#define FRAME_BLOCK       270400u
#define FRAME_FRONT       1408u /* two headers and a PAGES head, rounded up to 64 */
#define FRAME_CONTROL_MAX 1024u /* payload of every frame but RAW, BATCH, PAGES and PARCEL */

/* Several connections (STREAM.md, sections 7 and 8). */
#define FRAME_LANES         1u   /* feature bit: HELLO offers, WELCOME accepts */
#define FRAME_HELLO_LANES   104u /* HELLO and WELCOME with that bit */
#define FRAME_WELCOME_LANES 80u
#define FRAME_LANES_MAX     8u /* data connections */
#define FRAME_WINDOW_MIN    4u /* parcels that may be unacknowledged */
#define FRAME_WINDOW_MAX    64u
#define FRAME_WINDOW        48u     /* what we offer and grant: 12.4 MiB of parcels at either end */
#define FRAME_PARCEL_MAX    270336u /* holds any one frame, and many small ones */
#define FRAME_PSK_SIZE      32u

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_WELCOME = 2,
    FRAME_ABORT = 3,
    FRAME_PING = 4,
    FRAME_SETUP = 7,
    FRAME_RAW = 8,
    FRAME_BATCH = 9,
    FRAME_PAGES = 10,
    FRAME_END = 11,
    FRAME_END_ACK = 12,
    FRAME_JOIN = 32,
    FRAME_BARRIER = 33,
    FRAME_ACK = 34,
    FRAME_PARCEL = 35,
};

enum frame_codec { FRAME_STORE = 0, FRAME_ZSTD = 1, FRAME_RUNS = 2 /* BATCH only */ };
/* KEEP: content that goes into a slot of the cache too. DELTA: changes to a slot's content. */
enum frame_kind { FRAME_ZERO = 0, FRAME_DATA = 1, FRAME_KEEP = 2, FRAME_DELTA = 3 };
enum frame_digest { FRAME_NO_DIGEST = 0, FRAME_XXH3_128 = 1, FRAME_PAGE_HASHES = 2 };

enum frame_abort_code {
    FRAME_ABORT_VERSION = 1,
    FRAME_ABORT_CLUSTER,
    FRAME_ABORT_GENERATION,
    FRAME_ABORT_TICKET,
    FRAME_ABORT_GUEST,
    FRAME_ABORT_EPOCH,
    FRAME_ABORT_SECRET,
    FRAME_ABORT_CANCELLED,
    FRAME_ABORT_ENDPOINT, /* source or sink failed */
    FRAME_ABORT_PROTOCOL,
    FRAME_ABORT_TIMEOUT,
    FRAME_ABORT_INTERNAL,
};

struct frame_header {
    uint16_t type;
    bool is_optional;
    uint32_t size; /* payload bytes */
    uint32_t epoch;
    uint64_t sequence;
};

struct frame_hello {
    uint16_t version_min;
    uint16_t version_max;
    uint32_t features;
    struct ha_uuid cluster_id;
    uint64_t generation;
    uint64_t ticket;
    struct ha_uuid guest;
    uint64_t epoch;
    uint8_t proof[FRAME_PROOF_SIZE];
    uint16_t connections; /* with FRAME_LANES: data connections wished */
    uint16_t window;      /* with FRAME_LANES: parcels the sender would keep */
};

struct frame_welcome {
    uint16_t version;
    uint32_t features;
    uint8_t proof[FRAME_PROOF_SIZE];
    uint16_t connections; /* with FRAME_LANES: granted, as the rest */
    uint16_t window;
    uint32_t grace_ms; /* a lost connection may come back this long */
    uint8_t psk[FRAME_PSK_SIZE];
};

/* The first frame of every connection after the first. */
struct frame_join {
    uint64_t ticket;
    uint16_t lane;    /* 0: control; 1..connections: data */
    uint32_t attempt; /* grows with each connection of a lane */
};

struct frame_abort {
    uint16_t code;                    /* enum frame_abort_code, or a later version's */
    char text[FRAME_ABORT_TEXT + 1u]; /* printable ASCII after decoding, whatever was sent */
};

struct frame_setup {
    uint32_t cache_pages;              /* slots of the mirrored cache, 0 = none */
    uint8_t secret[FRAME_SECRET_SIZE]; /* of the page hashes */
};

/* Encoded bytes are borrowed from the payload when decoding, and not part of the head encoders. */
struct frame_raw {
    uint8_t codec;
    uint32_t raw_size;
    const uint8_t *data;
    uint32_t data_size;
};

struct frame_batch {
    uint64_t batch;
    uint32_t count;
    uint32_t data_count;
    uint8_t codec;
    const uint8_t *data; /* raw size is 8 * count */
    uint32_t data_size;
};

struct frame_pages {
    uint64_t batch;
    uint32_t first;
    uint16_t count;
    uint8_t codec;
    uint32_t raw_size;    /* 4096 for each DATA and KEEP, then delta_size */
    uint32_t delta_size;  /* all deltas, in order of their pages, behind those */
    uint32_t full_count;  /* DATA and KEEP */
    uint32_t delta_count; /* DELTA */
    uint32_t slot_count;  /* KEEP and DELTA */
    uint8_t kind[FRAME_PAGES_MAX];
    uint32_t slot[FRAME_GROUP_PAGES]; /* of KEEP and DELTA pages, in order */
    const uint8_t *data;
    uint32_t data_size;
};

struct frame_end {
    uint64_t raw_bytes;
    uint64_t batches;
    uint64_t pages;
    uint8_t digest_kind; /* enum frame_digest */
    struct ha_digest digest;
};

struct frame_end_ack {
    uint64_t raw_bytes;
    struct ha_digest digest;
};

/* Where the encoded bytes start behind a PAGES head with count kinds and slot_count slots. */
static inline uint32_t frame_pages_head(uint32_t count, uint32_t slot_count)
{
    return FRAME_PAGES_HEAD + ((count + 7u) & ~7u) + ((4u * slot_count + 7u) & ~7u);
}

/* The name of a type, "unknown" for others. static */
const char *frame_name(uint16_t type);

/* Writes 24 bytes. */
void frame_header_encode(uint8_t *ret_bytes, const struct frame_header *header);
/* Checks magic, flags and the size against the limits of the type (unknown optional types: any size
 * up to FRAME_PAYLOAD_MAX; unknown others are refused). 0 or -HA_E_PEER. */
int frame_header_decode(const uint8_t *bytes, struct frame_header *ret_header, struct ha_err *err);

/* Payloads. The encoders append to w. The decoders take exactly one payload and return 0 or
 * -HA_E_PEER with the rule that was broken in err; *ret is then undefined. */
void frame_hello_encode(struct ha_writer *w, const struct frame_hello *m);
int frame_hello_decode(const uint8_t *payload, size_t size, struct frame_hello *ret,
                       struct ha_err *err);
void frame_welcome_encode(struct ha_writer *w, const struct frame_welcome *m);
int frame_welcome_decode(const uint8_t *payload, size_t size, struct frame_welcome *ret,
                         struct ha_err *err);
void frame_join_encode(struct ha_writer *w, const struct frame_join *m);
int frame_join_decode(const uint8_t *payload, size_t size, struct frame_join *ret,
                      struct ha_err *err);
/* BARRIER and ACK: one number. */
int frame_number_decode(uint16_t type, const uint8_t *payload, size_t size, uint64_t *ret,
                        struct ha_err *err);
void frame_abort_encode(struct ha_writer *w, const struct frame_abort *m);
int frame_abort_decode(const uint8_t *payload, size_t size, struct frame_abort *ret,
                       struct ha_err *err);
void frame_setup_encode(struct ha_writer *w, const struct frame_setup *m);
int frame_setup_decode(const uint8_t *payload, size_t size, struct frame_setup *ret,
                       struct ha_err *err);
/* Heads only: the caller puts the encoded bytes behind them. */
void frame_raw_encode(struct ha_writer *w, const struct frame_raw *m);
int frame_raw_decode(const uint8_t *payload, size_t size, struct frame_raw *ret,
                     struct ha_err *err);
void frame_batch_encode(struct ha_writer *w, const struct frame_batch *m);
int frame_batch_decode(const uint8_t *payload, size_t size, struct frame_batch *ret,
                       struct ha_err *err);
/* Codec RUNS: entries[count] (u64 little-endian each) as runs of neighbours. Returns the encoded
 * size, or 0 when that takes more than capacity. */
size_t frame_runs_encode(const uint8_t *entries, uint32_t count, uint8_t *dst, size_t capacity);
/* Into exactly count entries; 0 or -HA_E_PEER. */
int frame_runs_decode(const uint8_t *src, size_t size, uint8_t *ret_entries, uint32_t count,
                      struct ha_err *err);
void frame_pages_encode(struct ha_writer *w, const struct frame_pages *m);
int frame_pages_decode(const uint8_t *payload, size_t size, struct frame_pages *ret,
                       struct ha_err *err);
void frame_end_encode(struct ha_writer *w, const struct frame_end *m);
int frame_end_decode(const uint8_t *payload, size_t size, struct frame_end *ret,
                     struct ha_err *err);
void frame_end_ack_encode(struct ha_writer *w, const struct frame_end_ack *m);
int frame_end_ack_decode(const uint8_t *payload, size_t size, struct frame_end_ack *ret,
                         struct ha_err *err);

#endif
