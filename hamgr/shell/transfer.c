/* SPDX-License-Identifier: Apache-2.0
 *
 * State transfer to a member that lacks more than the log still holds: snapshot and definitions as
 * one blob, in chunks of at most HA_CHUNK_MAX bytes, one window ahead of the receiver's
 * acknowledgements, so that heartbeats and entries always get through between them.
 *
 * Blob: u32 state size, state, u32 definition count, then per definition its digest and a blob.
 *
 * A receiver takes all of it or nothing: everything is checked before anything is stored, and the
 * state in use is replaced when the store has the new one, in the turn in which the log hears of
 * it.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>

#include "hamgr/base/assert.h"

#define WINDOW_BYTES (4u * HA_CHUNK_MAX)
#define STALL_MS     3000u  /* sender: no acknowledgement for that long -> the last window again */
#define GIVE_UP_MS   30000u /* nothing at all for that long -> the transfer is dropped */
#define TRANSFER_MAX (256u << 20) /* bytes a receiver accepts */

struct transfer {
    struct transfer *next;
    bool is_sender;
    uint32_t node; /* the other end */
    uint64_t number;
    uint64_t index;
    struct ha_digest digest;
    struct log_view view;
    uint8_t *data;
    uint64_t total;
    uint64_t sent;     /* sender: offset of the next chunk */
    uint64_t received; /* sender: acknowledged; receiver: in order so far */
    uint64_t moved_ms; /* last progress */
    uint64_t token;    /* receiver: store write under way */
};

static void put_chunk(struct ha_writer *w, const void *m)
{
    peer_chunk_encode(w, m);
}

static struct transfer **find(struct hamgrd *d, bool is_sender, uint32_t node)
{
    struct transfer **place = &d->transfers;

    while (*place && ((*place)->is_sender != is_sender || (*place)->node != node))
        place = &(*place)->next;
    return place;
}

static void drop(struct transfer **place)
{
    struct transfer *t = *place;

    *place = t->next;
    free(t->data);
    free(t);
}

static struct transfer *add(struct hamgrd *d, bool is_sender, uint32_t node)
{
    struct transfer *t = calloc(1, sizeof(*t));

    ha_assert(t);
    t->is_sender = is_sender;
    t->node = node;
    t->moved_ms = shell_now_ms();
    t->next = d->transfers;
    d->transfers = t;
    shell_tick_soon(d);
    return t;
}

/* ---- sender ------------------------------------------------------------------------------------
 */

static size_t blob_bound(const struct hamgrd *d)
{
    size_t size = ha_state_encoded_max(&d->state) + 64;

    for (uint32_t i = 0; i < d->state.guest_count; i++)
        size += d->state.guests[i].definition_size + 32u;
    return size;
}

static int64_t encode_blob(struct hamgrd *d, uint8_t *data, size_t size)
{
    if (size < 4)
        return -HA_E_LIMIT;
    int64_t used = ha_state_encode(&d->state, data + 4, size - 4);
    if (used < 0)
        return used;
    struct ha_writer w = ha_writer_of(data, size);
    ha_put_u32(&w, (uint32_t)used);
    w.position += (size_t)used;
    ha_put_u32(&w, d->state.guest_count);
    for (uint32_t i = 0; i < d->state.guest_count; i++) {
        size_t definition_size = 0;
        const uint8_t *bytes =
            store_definition(d->store, d->state.guests[i].definition, &definition_size);
        ha_put_digest(&w, d->state.guests[i].definition);
        ha_put_blob(&w, bytes, definition_size);
    }
    return w.failed ? -HA_E_LIMIT : (int64_t)w.position;
}

static void send_window(struct hamgrd *d, struct transfer *t)
{
    while (t->sent < t->total && t->sent - t->received < WINDOW_BYTES) {
        size_t size =
            t->total - t->sent < HA_CHUNK_MAX ? (size_t)(t->total - t->sent) : HA_CHUNK_MAX;
        struct peer_chunk chunk = {.transfer = t->number,
                                   .index = t->index,
                                   .digest = t->digest,
                                   .view = t->view,
                                   .total = t->total,
                                   .offset = t->sent,
                                   .data = t->data + t->sent,
                                   .size = size};
        peers_send(d, PEER_SNAPSHOT, t->node, put_chunk, &chunk);
        t->sent += size;
    }
}

void transfer_begin(struct hamgrd *d, uint32_t node, uint64_t have)
{
    struct transfer **old = find(d, true, node);

    if (*old || d->state.applied <= have)
        return; /* one at a time; it asks again when it still lacks something */
    size_t size = blob_bound(d);
    uint8_t *data = malloc(size);
    int64_t used = data ? encode_blob(d, data, size) : -HA_E_NO_MEMORY;
    if (used < 0) {
        free(data);
        return;
    }
    const struct log_entry *last = log_entry_at(d->log, d->state.applied);
    struct transfer *t = add(d, true, node);
    t->number = shell_wall_ms();
    t->index = d->state.applied;
    t->digest = d->state.digest;
    t->view = last ? last->view : d->state.view;
    t->data = data;
    t->total = (uint64_t)used;
    qb_log(LOG_NOTICE, "state transfer to %s begins | index=%" PRIu64 " bytes=%" PRIu64,
           shell_node_name(d, node), t->index, t->total);
    send_window(d, t);
}

void transfer_ack(struct hamgrd *d, uint32_t from, const struct peer_chunk *chunk)
{
    struct transfer **place = find(d, true, from);
    struct transfer *t = *place;

    if (!t || t->number != chunk->transfer || chunk->offset > t->sent)
        return;
    if (chunk->offset > t->received) {
        t->received = chunk->offset;
        t->moved_ms = shell_now_ms();
    }
    if (t->received == t->total)
        drop(place);
    else
        send_window(d, t);
}

/* ---- receiver ----------------------------------------------------------------------------------
 */

/* Reads the definitions behind the state. is_dry: only whether they can be read to the end. */
static int read_definitions(struct hamgrd *d, struct ha_reader r, bool is_dry)
{
    uint32_t count = ha_get_u32(&r);

    if (count > HA_GUESTS_MAX)
        return -HA_E_CORRUPT;
    for (uint32_t i = 0; i < count && !r.failed; i++) {
        size_t size = 0;
        struct ha_digest digest = ha_get_digest(&r);
        const uint8_t *bytes = ha_get_blob(&r, HA_DEFINITION_MAX, &size);
        if (!is_dry && bytes &&
            ha_digest_equal(ha_digest_bytes((struct ha_digest){0}, bytes, size), digest))
            store_put_definition(d->store, digest, bytes, size);
    }
    return ha_reader_is_done(&r) ? 0 : -HA_E_CORRUPT;
}

/* Tells the log that the snapshot replaced everything; NULL: nothing was replaced. */
static void tell_log(struct hamgrd *d, const struct transfer *t)
{
    struct log_event event = {.type = LOG_EV_SNAPSHOT};
    struct log_loaded voters;

    if (t) {
        apply_voters(&d->state, &voters);
        event.u.snapshot.index = t->index;
        event.u.snapshot.digest = t->digest;
        event.u.snapshot.log_view = t->view;
        event.u.snapshot.proto = voters.proto;
        event.u.snapshot.voter_count = voters.voter_count;
        for (uint32_t i = 0; i < voters.voter_count; i++) {
            event.u.snapshot.voters[i].node = voters.voters[i].node;
            event.u.snapshot.voters[i].store_id = voters.voters[i].store_id;
        }
    }
    shell_log_event(d, &event);
}

/* Decodes into a state of its own: a damaged blob must not cost the one in use. */
static int try_state(struct hamgrd *d, const struct transfer *t, const uint8_t *bytes, size_t size,
                     struct log_loaded *ret_voters)
{
    struct ha_guest *guests = calloc(d->state.guest_capacity, sizeof(*guests));
    struct ha_state *state = calloc(1, sizeof(*state));
    int rc = guests && state ? 0 : -HA_E_NO_MEMORY;

    if (rc == 0) {
        ha_state_init(state, guests, d->state.guest_capacity);
        rc = ha_state_decode(state, bytes, size);
    }
    if (rc == 0 && (state->applied != t->index || !ha_digest_equal(state->digest, t->digest) ||
                    !ha_uuid_equal(state->cluster_id, d->identity.cluster_id)))
        rc = -HA_E_CORRUPT;
    if (rc == 0)
        apply_voters(state, ret_voters);
    free(state);
    free(guests);
    return rc;
}

/* The state's bytes, borrowed from the blob; ret_rest: what is behind them. */
static const uint8_t *state_bytes(const struct transfer *t, uint32_t *ret_size,
                                  struct ha_reader *ret_rest)
{
    *ret_rest = ha_reader_of(t->data, t->total);
    *ret_size = ha_get_u32(ret_rest);
    return ha_get_raw(ret_rest, *ret_size);
}

/* A complete blob: checked, then into the store; the rest is transfer_stored's. */
static int install(struct hamgrd *d, struct transfer *t)
{
    struct ha_reader definitions;
    struct log_loaded voters;
    uint32_t size = 0;
    const uint8_t *bytes = state_bytes(t, &size, &definitions);

    int rc = bytes ? try_state(d, t, bytes, size, &voters) : -HA_E_CORRUPT;
    if (rc == 0)
        rc = read_definitions(d, definitions, true);
    if (rc < 0)
        return rc;
    if (!log_snapshot_begin_at(d->log, t->index, t->view))
        return -HA_E_STALE; /* it has more than that by now */
    /* In front of the state that names them. */
    (void)read_definitions(d, definitions, false);
    uint64_t token = --d->token_high;
    rc = store_install(d->store, token, t->index, t->digest, t->view, bytes, size, &voters);
    if (rc < 0)
        tell_log(d, NULL);
    else
        t->token = token;
    return rc;
}

/* The store has it. The bytes are those that were tried. */
static void replace_state(struct hamgrd *d, const struct transfer *t)
{
    struct ha_reader rest;
    uint32_t size = 0;
    const uint8_t *bytes = state_bytes(t, &size, &rest);
    int rc = ha_state_decode(&d->state, bytes, size);

    ha_assert(rc == 0);
    d->snapshot_index = t->index;
}

void transfer_chunk(struct hamgrd *d, uint32_t from, const struct peer_chunk *chunk)
{
    struct transfer **place = find(d, false, from);

    if (*place && (*place)->number != chunk->transfer && !(*place)->token)
        drop(place);
    place = find(d, false, from);
    if (!*place) {
        if (chunk->offset != 0 || chunk->total == 0 || chunk->total > TRANSFER_MAX ||
            chunk->index <= d->state.applied)
            return;
        struct transfer *fresh = add(d, false, from);
        fresh->number = chunk->transfer;
        fresh->index = chunk->index;
        fresh->digest = chunk->digest;
        fresh->view = chunk->view;
        fresh->total = chunk->total;
        fresh->data = malloc(chunk->total);
        place = find(d, false, from);
        if (!fresh->data) { /* a total nobody has: not worth dying for */
            drop(place);
            return;
        }
    }
    struct transfer *t = *place;
    if (t->token)
        return;
    if (chunk->offset == t->received && chunk->size <= t->total - t->received) {
        memcpy(t->data + t->received, chunk->data, chunk->size);
        t->received += chunk->size;
        t->moved_ms = shell_now_ms();
    }
    struct peer_chunk ack = {.transfer = t->number, .offset = t->received};
    peers_send(d, PEER_SNAPSHOT_ACK, from, put_chunk, &ack);
    int rc = t->received == t->total ? install(d, t) : 0;
    if (rc < 0) {
        qb_log(LOG_ERR, "the snapshot from %s is not taken, another is asked for if need be: %s",
               shell_node_name(d, from), ha_err_text(rc));
        drop(find(d, false, from));
    }
}

bool transfer_is_storing(const struct hamgrd *d)
{
    const struct transfer *t = d->transfers;

    while (t && !t->token)
        t = t->next;
    return t != NULL;
}

bool transfer_stored(struct hamgrd *d, const struct store_done *done)
{
    struct transfer **place = &d->transfers;

    while (*place && (*place)->token != done->token)
        place = &(*place)->next;
    if (!*place)
        return false;
    struct transfer *t = *place;
    if (done->is_ok)
        replace_state(d, t);
    tell_log(d, done->is_ok ? t : NULL);
    drop(find(d, false, t->node));
    return true;
}

void transfer_tick(struct hamgrd *d)
{
    uint64_t now_ms = shell_now_ms();
    struct transfer **place = &d->transfers;

    while (*place) {
        struct transfer *t = *place;
        if (!t->token && now_ms > t->moved_ms + GIVE_UP_MS) {
            drop(place);
            continue;
        }
        if (t->is_sender && now_ms > t->moved_ms + STALL_MS && t->sent > t->received) {
            t->sent = t->received;
            send_window(d, t);
        }
        place = &t->next;
    }
}
