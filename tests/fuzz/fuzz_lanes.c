/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: data connections and the control connection beside them (STREAM.md, section 8), with
 * the real threads. The input is a script: frames, gathered in parcels, put on one of two lanes in
 * order, out of order, again, or damaged. What reaches the sink must be the beginning of a native
 * stream; a script that breaks no rule must deliver what the same frames deliver over one
 * connection. The other half is a sender whose receiver's frames on the control connection are the
 * input.
 */
#include "migrate/carry.h"
#include "migrate/lanes.h"
#include "migrate/recv.h"
#include "tests/fuzz/sink_check.h"

#include <errno.h>
#include <unistd.h>

#define LANES    2u
#define WIRE_MAX (1u << 20)

struct wire {
    uint8_t *bytes;
    size_t size;
};

struct script {
    struct wire lane[LANES];
    struct wire plain; /* the frames, for one connection */
    uint8_t *parcel;
    size_t used;
    uint64_t sequence; /* of the next frame */
    uint64_t number;   /* of the next parcel */
    bool is_lawful;    /* parcels and frame headers are, whatever the frames hold */
};

static void append(struct wire *wire, const void *data, size_t size)
{
    if (size == 0 || wire->size + size > WIRE_MAX)
        return;
    memcpy(wire->bytes + wire->size, data, size);
    wire->size += size;
}

static void put_header(uint8_t *at, uint16_t type, size_t size, uint64_t sequence)
{
    struct frame_header h = {.type = type, .size = (uint32_t)size, .sequence = sequence};

    frame_header_encode(at, &h);
}

/* A frame into the open parcel; off: how far its sequence is wrong. */
static void add_frame(struct script *s, struct fuzz_input *in, uint8_t off)
{
    uint16_t type = fuzz_u8(in) & 63u;
    size_t size = fuzz_u16(in);
    const uint8_t *payload = fuzz_bytes(in, &size);
    size_t room = FRAME_PARCEL_MAX - s->used;

    if (room < FRAME_HEADER_SIZE + size || s->plain.size + FRAME_HEADER_SIZE + size > WIRE_MAX)
        return;
    uint8_t *at = s->parcel + s->used;
    put_header(at, type, size, s->sequence);
    if (size > 0)
        memcpy(at + FRAME_HEADER_SIZE, payload, size);
    append(&s->plain, at, FRAME_HEADER_SIZE + size);
    put_header(at, type, size, s->sequence++ + off);
    s->used += FRAME_HEADER_SIZE + size;
    /* On one connection BARRIER has no meaning and others do: not to be compared. */
    s->is_lawful = s->is_lawful && off == 0 && type >= FRAME_SETUP && type <= FRAME_END;
}

static void put_parcel(struct script *s, unsigned lane, uint64_t number)
{
    uint8_t header[FRAME_HEADER_SIZE];
    struct wire *wire = &s->lane[lane % LANES];

    if (s->used == 0 || wire->size + FRAME_HEADER_SIZE + s->used > WIRE_MAX) {
        s->is_lawful = s->is_lawful && s->used == 0;
        return;
    }
    put_header(header, FRAME_PARCEL, s->used, number);
    append(wire, header, sizeof(header));
    append(wire, s->parcel, s->used);
    /* A sender waits for acknowledgements; a script that is longer than the window does not. */
    s->is_lawful = s->is_lawful && number < FRAME_WINDOW;
}

static void step(struct script *s, struct fuzz_input *in)
{
    uint8_t op = fuzz_u8(in);
    unsigned lane = op >> 7;
    uint8_t junk[32] = {0};
    size_t size;

    switch (op & 7u) {
    case 4: /* closed: the next in order, sometimes twice */
        put_parcel(s, lane, s->number);
        if (op & 8u)
            put_parcel(s, !lane, s->number);
        s->number += s->used > 0 ? 1u : 0u;
        s->used = 0;
        break;
    case 5: /* closed, with another number */
        put_parcel(s, lane, s->number + fuzz_u8(in) - 64u);
        s->used = 0;
        s->is_lawful = false;
        break;
    case 6: /* bytes that are no parcel */
        size = op >> 3 & 15u;
        memcpy(junk, fuzz_bytes(in, &size), size);
        append(&s->lane[lane], junk, size);
        s->is_lawful = false;
        break;
    case 7:
        add_frame(s, in, op >> 3);
        break;
    default:
        add_frame(s, in, 0);
        break;
    }
}

/* ---- the receiver ---- */

/* Ends the migration when both lanes' input is used up and nothing more can be taken. */
struct closer {
    struct attendant attendant; /* first */
    struct lanes *lanes;
    int ready_fd; /* always readable */
    unsigned lost;
    unsigned turns;
};

static unsigned watch(struct attendant *a, struct pollfd *fds, unsigned room)
{
    struct closer *c = (struct closer *)a;

    if (c->lost < LANES || room == 0)
        return 0;
    fds[0] = (struct pollfd){.fd = c->ready_fd, .events = POLLIN};
    return 1;
}

static int turn(struct attendant *a, const struct pollfd *fds, unsigned count, struct ha_err *err)
{
    struct closer *c = (struct closer *)a;
    struct ha_err why;

    (void)fds;
    (void)count;
    while (lanes_take_loss(c->lanes, &why) > 0)
        c->lost++;
    /* What came before the loss is taken first: who waits looks again in between. */
    if (c->lost == LANES && c->turns++ > 1)
        return ha_err_set(err, ECONNRESET, "the input has ended");
    return 1;
}

static int receive_lanes(const struct script *s, int ready_fd, struct sink_check *sink)
{
    struct ha_err err = {0};
    struct session session;
    struct receiver *receiver = receiver_new(0, &err);
    struct lanes *lanes = lanes_new(false, LANES, &err);
    struct closer closer = {{.watch = watch, .turn = turn}, lanes, ready_fd, 0, 0};

    REQUIRE(lanes && receiver && session_init(&session, -1, 20000, 0, &err) == 0);
    lanes_agree(lanes, LANES, FRAME_WINDOW);
    session_use_lanes(&session, lanes, false, FRAME_WINDOW, 20000);
    session.attendant = &closer.attendant;
    for (unsigned i = 0; i < LANES; i++) {
        struct chan *chan = chan_mem_new(s->lane[i].bytes, s->lane[i].size);
        REQUIRE(chan);
        lanes_connect(lanes, i + 1, chan);
    }
    int rc = recv_stream(receiver, &session, sink_check_init(sink), &err);
    REQUIRE(rc < 0 || (native_is_done(&sink->native) && sink->carry_size == 0));
    REQUIRE(rc == 0 || err.text[0] != '\0');
    lanes_free(lanes);
    session.attendant = NULL;
    session.lanes = NULL;
    session_fini(&session);
    receiver_free(receiver);
    return rc;
}

static int receive_plain(const struct script *s, struct sink_check *sink)
{
    struct ha_err err = {0};
    struct session session;
    struct receiver *receiver = receiver_new(0, &err);

    REQUIRE(receiver && session_init(&session, -1, 20000, 0, &err) == 0);
    session.chan = chan_mem_new(s->plain.bytes, s->plain.size);
    REQUIRE(session.chan);
    int rc = recv_stream(receiver, &session, sink_check_init(sink), &err);
    session_fini(&session);
    receiver_free(receiver);
    return rc;
}

static void try_receiver(struct fuzz_input *in)
{
    static uint8_t memory[LANES + 1][WIRE_MAX], parcel[FRAME_PARCEL_MAX];
    static struct sink_check over_lanes, over_one;
    static int ready[2] = {-1, -1};
    struct script s = {.plain.bytes = memory[LANES], .parcel = parcel, .is_lawful = true};

    if (ready[0] < 0)
        REQUIRE(pipe(ready) == 0 && write(ready[1], "x", 1) == 1);
    for (unsigned i = 0; i < LANES; i++)
        s.lane[i].bytes = memory[i];
    while (in->size > 0)
        step(&s, in);
    put_parcel(&s, 0, s.number);
    int rc = receive_lanes(&s, ready[0], &over_lanes);
    if (!s.is_lawful)
        return;
    int plain_rc = receive_plain(&s, &over_one);
    REQUIRE((rc == 0) == (plain_rc == 0));
    REQUIRE(over_lanes.total == over_one.total && over_lanes.sum == over_one.sum);
}

/* ---- the sender ---- */

/* Parcels are queued, none is sent: an acknowledgement of any is a lie. */
static void try_sender(struct fuzz_input *in, bool is_ending)
{
    struct ha_err err = {0};
    struct session session;
    struct lanes *lanes = lanes_new(true, 1, &err);
    uint8_t *bytes = malloc(in->size * FRAME_HEADER_SIZE + 1);
    struct wire wire = {bytes, 0};
    uint64_t sequence = 0, queued = fuzz_u8(in) % 8;

    REQUIRE(lanes && bytes && session_init(&session, -1, 20000, 0, &err) == 0);
    lanes_agree(lanes, 1, FRAME_WINDOW);
    session_use_lanes(&session, lanes, true, FRAME_WINDOW, 20000);
    for (uint64_t i = 0; i < queued; i++) {
        REQUIRE(session_begin(&session, 16, &err));
        REQUIRE(session_commit(&session, FRAME_RAW, 16, NULL, 0, &err) == 0);
        REQUIRE(session_flush(&session, &err) == 0);
    }
    while (in->size > 2) {
        uint16_t type = fuzz_u8(in) & 63u;
        size_t size = fuzz_u8(in);
        const uint8_t *payload = fuzz_bytes(in, &size);
        put_header(bytes + wire.size, type, size, sequence++);
        memcpy(bytes + wire.size + FRAME_HEADER_SIZE, payload, size);
        wire.size += FRAME_HEADER_SIZE + size;
    }
    session.chan = chan_mem_new(bytes, wire.size);
    session.is_ending = is_ending;
    REQUIRE(session.chan);
    int rc = carry_hear(&session, &err);
    REQUIRE(session.taken == 0);
    REQUIRE(rc == 0 || err.text[0] != '\0');
    REQUIRE(!session.is_acked || is_ending);
    lanes_free(lanes);
    session.lanes = NULL;
    session_fini(&session);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    uint8_t mode = fuzz_u8(&in);

    if (mode & 1u)
        try_sender(&in, (mode & 2u) != 0);
    else
        try_receiver(&in);
    return 0;
}
