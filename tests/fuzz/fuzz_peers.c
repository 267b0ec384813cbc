/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: whatever may come in over the group: messages of logs with entries and proposals
 * inside, messages between shells, and the digest around both. What decodes must encode to the very
 * bytes it was decoded from, or two versions of one message would mean different things.
 */
#include "tests/fuzz/fuzz.h"

#include "hamgr/shell/message.h"
#include "quorum/msg.h"

#define OUT_MAX (1u << 18)
static uint8_t out[OUT_MAX];

static void require_same(const struct ha_writer *w, const uint8_t *data, size_t size)
{
    REQUIRE(!w->failed && w->position == size);
    REQUIRE(memcmp(w->data, data, size) == 0);
}

/* The lists inside: walked once by the decoder already, so each element must be readable. */
static void walk_entries(const struct log_entries *m)
{
    struct ha_reader r = ha_reader_of(m->list, m->list_size);
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct log_entry entry;

    for (uint16_t i = 0; i < m->count; i++) {
        REQUIRE(log_entry_decode(&r, &entry) == 0);
        REQUIRE(entry.index == m->prev_index + 1 + i && entry.body_size <= HA_ENTRY_MAX);
        log_entry_encode(&w, &entry);
    }
    REQUIRE(ha_reader_is_done(&r));
    require_same(&w, m->list, m->list_size);
}

static void walk_proposals(const struct log_propose *m)
{
    struct ha_reader r = ha_reader_of(m->list, m->list_size);
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct log_proposal proposal;

    for (uint16_t i = 0; i < m->count; i++) {
        REQUIRE(log_proposal_decode(&r, &proposal) == 0);
        log_proposal_encode(&w, &proposal);
    }
    REQUIRE(ha_reader_is_done(&r));
    require_same(&w, m->list, m->list_size);
}

static void try_log(const uint8_t *data, size_t size)
{
    static struct log_msg msg;
    struct ha_writer w = ha_writer_of(out, sizeof(out));

    if (log_msg_decode(data, size, &msg) < 0)
        return;
    log_msg_encode(&w, &msg);
    require_same(&w, data, size);
    if (msg.header.type == LOG_MSG_ENTRIES)
        walk_entries(&msg.u.entries);
    if (msg.header.type == LOG_MSG_PROPOSE)
        walk_proposals(&msg.u.propose);
}

static void try_entry(const uint8_t *data, size_t size)
{
    struct ha_reader r = ha_reader_of(data, size);
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct log_entry entry;
    struct log_open open;
    struct log_voter_change change;

    if (log_entry_decode(&r, &entry) == 0) {
        log_entry_encode(&w, &entry);
        require_same(&w, data, r.position);
    }
    w = ha_writer_of(out, sizeof(out));
    if (log_open_decode(data, size, &open) == 0) {
        log_open_encode(&w, &open);
        require_same(&w, data, size);
    }
    w = ha_writer_of(out, sizeof(out));
    if (log_voter_change_decode(data, size, &change) == 0) {
        log_voter_change_encode(&w, &change);
        require_same(&w, data, size);
    }
}

/* True if the body was one; it is then in w again. */
static bool again_report(struct ha_reader *r, struct ha_writer *w)
{
    struct ha_report m;

    if (peer_report_decode(r, &m) < 0)
        return false;
    peer_report_encode(w, &m);
    return true;
}

static bool again_devices(struct ha_reader *r, struct ha_writer *w)
{
    static struct peer_devices m;

    if (peer_devices_decode(r, &m) < 0)
        return false;
    peer_devices_encode(w, &m);
    return true;
}

static bool again_fence(struct ha_reader *r, struct ha_writer *w)
{
    struct peer_fence m;

    if (peer_fence_decode(r, &m) < 0)
        return false;
    peer_fence_encode(w, &m);
    return true;
}

static bool again_ready(struct ha_reader *r, struct ha_writer *w)
{
    struct peer_move_ready m;

    if (peer_move_ready_decode(r, &m) < 0)
        return false;
    peer_move_ready_encode(w, &m);
    return true;
}

static bool again_progress(struct ha_reader *r, struct ha_writer *w)
{
    struct ha_move_progress m;

    if (peer_progress_decode(r, &m) < 0)
        return false;
    peer_progress_encode(w, &m);
    return true;
}

static bool again_chunk(struct ha_reader *r, struct ha_writer *w)
{
    struct peer_chunk m;

    if (peer_chunk_decode(r, &m) < 0)
        return false;
    REQUIRE(m.size <= HA_CHUNK_MAX);
    peer_chunk_encode(w, &m);
    return true;
}

static bool again_forecast(struct ha_reader *r, struct ha_writer *w)
{
    struct peer_forecast m;

    if (peer_forecast_decode(r, &m) < 0)
        return false;
    peer_forecast_encode(w, &m);
    return true;
}

static bool again_probe(struct ha_reader *r, struct ha_writer *w)
{
    struct peer_probe m;

    if (peer_probe_decode(r, &m) < 0)
        return false;
    peer_probe_encode(w, &m);
    return true;
}

static bool again_things(struct ha_reader *r, struct ha_writer *w)
{
    static struct peer_things m;

    if (peer_things_decode(r, &m) < 0)
        return false;
    peer_things_encode(w, &m);
    return true;
}

static struct peer_facts_ask ask;
static struct peer_facts_tell tell;

static bool again(uint8_t type, struct ha_reader *r, struct ha_writer *w)
{
    switch ((enum peer_type)type) {
    case PEER_REPORT:
        return again_report(r, w);
    case PEER_DEVICES:
        return again_devices(r, w);
    case PEER_FENCE_RUN:
    case PEER_FENCE_RESULT:
        return again_fence(r, w);
    case PEER_MOVE_READY:
        return again_ready(r, w);
    case PEER_MOVE_PROGRESS:
        return again_progress(r, w);
    case PEER_SNAPSHOT:
    case PEER_SNAPSHOT_ACK:
        return again_chunk(r, w);
    case PEER_FORECAST_ASK:
    case PEER_FORECAST_TELL:
        return again_forecast(r, w);
    case PEER_FACTS_ASK:
        (void)peer_facts_ask_decode(r, &ask);
        break;
    case PEER_FACTS_TELL: /* what is not known here is skipped: it does not come out the same */
        (void)peer_facts_tell_decode(r, &tell);
        break;
    case PEER_THINGS:
        return again_things(r, w);
    case PEER_PROBE_READY:
        return again_probe(r, w);
    case PEER_HANDOVER:
    case PEER_PROBE_ASK:
        break; /* one number, read in place */
    }
    return false;
}

static void try_peer(const uint8_t *data, size_t size)
{
    struct ha_reader r = ha_reader_of(data, size);
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    struct peer_header header;

    if (peer_header_decode(&r, &header) < 0)
        return;
    REQUIRE(peer_is_message(data, size));
    peer_header_encode(&w, &header);
    require_same(&w, data, r.position);
    if (again(header.type, &r, &w))
        require_same(&w, data, size);
}

/* The digest: what was sealed is whole for its sender, and for nobody else, and in no other form.
 */
static void try_seal(const uint8_t *data, size_t size)
{
    struct ha_writer w = ha_writer_of(out, sizeof(out));
    size_t length = size;

    if (size == 0)
        return;
    if (peer_is_whole(1, data, &length)) {
        REQUIRE(length == size - sizeof(struct ha_digest));
    } else {
        REQUIRE(length == size);
    }
    ha_put_raw(&w, data, size);
    ha_put_digest(&w, peer_digest(2, data, size));
    REQUIRE(!w.failed);
    length = w.position;
    REQUIRE(peer_is_whole(2, out, &length) && length == size);
    length = w.position;
    REQUIRE(!peer_is_whole(3, out, &length) && length == w.position);
    out[(data[0] * 7919u) % w.position] ^= (uint8_t)(1u << (data[0] % 8));
    REQUIRE(!peer_is_whole(2, out, &length) && length == w.position);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = fuzz_copy(data, size);

    try_log(copy, size);
    try_peer(copy, size);
    try_entry(copy, size);
    try_seal(copy, size);
    free(copy);
    return 0;
}
