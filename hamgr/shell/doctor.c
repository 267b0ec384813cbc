/* SPDX-License-Identifier: Apache-2.0
 *
 * Who asks whom for doctor: a question goes to all nodes over the group; each lets its hamgr-hv
 * look at the host (a worker, which may hang without harm), adds what its hamgrd knows, and tells
 * it. Who does not answer in time is told as silent.
 */
#include "hamgr/shell/shell.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hamgr/base/assert.h"

/* A look takes 0.1 s, and the start of a worker on a busy node. One that hangs is told without. */
#define LOOK_MS    5000u
#define ANSWER_MS  8000u
#define ASKED_MAX  16u /* askers served by one look */
#define ROUNDS_MAX 4u  /* of our own operators at once */

struct round {
    struct round *next;
    uint64_t id, due_ms, asked_wall_ms;
    doctor_fn done;
    void *user;
    uint32_t asked[HA_NODES_MAX], asked_count; /* who was there to be asked */
    uint32_t told_count;
    struct told {
        uint32_t node;
        uint64_t wall_ms;
        struct ha_facts facts;
    } told[]; /* HA_NODES_MAX */
};

struct shell_doctor {
    struct round *rounds;
    uint64_t id_high;
    struct {
        uint32_t node;
        uint64_t id;
    } askers[ASKED_MAX];
    uint32_t asker_count;
    uint64_t look_request; /* not 0: under way at hamgr-hv */
    uint64_t look_due_ms;  /* not 0: askers wait for it until then */
    int look_fd;
    struct look_ask ask;
    struct look_tell tell;
    struct ha_facts facts;
    struct ha_doctor_input input;
};

void doctor_open(struct hamgrd *d)
{
    d->doctor = calloc(1, sizeof(*d->doctor));
    ha_assert(d->doctor);
    d->doctor->look_fd = -1;
}

bool doctor_is_busy(const struct hamgrd *d)
{
    return d->doctor->rounds || d->doctor->look_due_ms > 0;
}

/* ---- rounds: questions of our own --------------------------------------------------------------
 */

static void fill_node(const struct hamgrd *d, const struct round *round, const struct ha_node *node,
                      struct ha_doctor_node *ret)
{
    bool was_asked = false;

    ret->id = node->id;
    memcpy(ret->name, node->name, sizeof(ret->name));
    ret->asked_wall_ms = round->asked_wall_ms;
    for (uint32_t i = 0; i < round->told_count; i++) {
        if (round->told[i].node == node->id) {
            ret->facts = &round->told[i].facts;
            ret->told_wall_ms = round->told[i].wall_ms;
            return;
        }
    }
    for (uint32_t i = 0; i < round->asked_count; i++)
        was_asked = was_asked || round->asked[i] == node->id;
    if (was_asked)
        snprintf(ret->silence, sizeof(ret->silence), "no answer within %u s", ANSWER_MS / 1000);
    else
        snprintf(ret->silence, sizeof(ret->silence), "its hamgrd is not in the group%s",
                 d->member_count == 0 ? " (this node is in none)" : "");
}

static void end_round(struct hamgrd *d, struct round **place)
{
    struct round *round = *place;
    struct ha_doctor_input *in = &d->doctor->input;

    *place = round->next;
    memset(in, 0, sizeof(*in));
    shell_refresh(d);
    in->state = &d->state;
    in->rt = &d->rt;
    in->wall_ms = shell_wall_ms();
    in->guest_count = things_guests(d, &in->guests);
    for (uint32_t i = 0; i < d->state.node_count; i++)
        fill_node(d, round, &d->state.nodes[i], &in->nodes[in->node_count++]);
    round->done(round->user, in);
    free(round);
}

static bool is_complete(const struct round *round)
{
    return round->told_count >= round->asked_count;
}

static void take(struct hamgrd *d, uint32_t from, uint64_t id, const struct ha_facts *facts)
{
    for (struct round *round = d->doctor->rounds; round; round = round->next) {
        if (round->id != id || round->told_count == HA_NODES_MAX)
            continue;
        for (uint32_t i = 0; i < round->told_count; i++)
            if (round->told[i].node == from)
                return;
        struct told *told = &round->told[round->told_count++];
        told->node = from;
        told->wall_ms = shell_wall_ms();
        told->facts = *facts;
        shell_tick_soon(d); /* the round ends there, not inside of what told us */
        return;
    }
}

void doctor_told(struct hamgrd *d, uint32_t from, uint64_t id, const struct ha_facts *facts)
{
    take(d, from, id, facts);
}

static uint32_t count_rounds(const struct shell_doctor *doctor)
{
    uint32_t count = 0;

    for (const struct round *round = doctor->rounds; round; round = round->next)
        count++;
    return count;
}

/* ---- answers -----------------------------------------------------------------------------------
 */

static void put_facts(struct ha_writer *w, const void *m)
{
    peer_facts_encode(w, m);
}

static void answer_all(struct hamgrd *d, const char *why_not)
{
    struct shell_doctor *doctor = d->doctor;

    memset(&doctor->facts, 0, sizeof(doctor->facts));
    ownfacts_fill(d, &doctor->facts);
    if (why_not)
        ha_facts_say(&doctor->facts, HA_TEXT_LOOK_WHY, why_not);
    else
        ha_facts_merge(&doctor->facts, &doctor->tell.facts);
    for (uint32_t i = 0; i < doctor->asker_count; i++) {
        struct peer_facts m = {.id = doctor->askers[i].id, .facts = &doctor->facts};
        if (doctor->askers[i].node == d->identity.node)
            take(d, d->identity.node, m.id, &doctor->facts);
        else
            peers_send(d, PEER_FACTS_TELL, doctor->askers[i].node, put_facts, &m);
    }
    doctor->asker_count = 0;
    doctor->look_due_ms = 0;
}

static bool read_tell(struct shell_doctor *doctor)
{
    static uint8_t bytes[LOOK_TELL_BYTES_MAX];
    ssize_t size = pread(doctor->look_fd, bytes, sizeof(bytes), 0);

    return size > 0 && look_tell_decode(bytes, (size_t)size, &doctor->tell) == 0;
}

/* False: hamgr-hv can't be asked. */
static bool send_look(struct hamgrd *d)
{
    struct shell_doctor *doctor = d->doctor;
    int memfd = memfd_create("hamgr-look", MFD_CLOEXEC);
    int theirs = memfd < 0 ? -1 : dup(memfd);

    if (theirs >= 0) {
        ownfacts_ask(d, &doctor->ask);
        things_ask(d, &doctor->ask);
        doctor->look_request = hvlink_look(d, &doctor->ask, theirs);
    }
    doctor->look_fd = doctor->look_request ? memfd : -1;
    if (memfd >= 0 && !doctor->look_request)
        close(memfd);
    return doctor->look_request != 0;
}

static void drop_look(struct shell_doctor *doctor)
{
    if (doctor->look_fd >= 0)
        close(doctor->look_fd);
    doctor->look_fd = -1;
    doctor->look_request = 0;
}

static void begin_look(struct hamgrd *d)
{
    struct shell_doctor *doctor = d->doctor;

    doctor->look_due_ms = shell_now_ms() + LOOK_MS;
    shell_tick_soon(d);
    /* One that is under way answers these as well. */
    if (!doctor->look_request && !send_look(d))
        doctor->look_due_ms = 1; /* answered with the next tick, without */
}

void doctor_hv_done(struct hamgrd *d, uint64_t request, const struct hvp_done *done)
{
    struct shell_doctor *doctor = d->doctor;

    if (!doctor || request == 0 || request != doctor->look_request)
        return;
    bool is_read = done->outcome == HV_OK && read_tell(doctor);
    drop_look(doctor);
    if (done->outcome == HV_FAILED && strncmp(done->text, "busy", 4) == 0)
        return; /* the look for the guests' things is under way: again with the next tick */
    if (done->outcome == HV_OK)
        answer_all(d, is_read ? NULL : "its answer is damaged");
    else
        answer_all(d, done->text);
}

void doctor_asked(struct hamgrd *d, uint32_t from, uint64_t id)
{
    struct shell_doctor *doctor = d->doctor;

    if (doctor->asker_count == ASKED_MAX)
        return;
    doctor->askers[doctor->asker_count].node = from;
    doctor->askers[doctor->asker_count++].id = id;
    if (doctor->look_due_ms == 0)
        begin_look(d);
}

void doctor_begin(struct hamgrd *d, doctor_fn done, void *user)
{
    struct shell_doctor *doctor = d->doctor;
    struct round *round = calloc(1, sizeof(*round) + HA_NODES_MAX * sizeof(struct told));

    ha_assert(round);
    round->done = done;
    round->user = user;
    round->asked_wall_ms = shell_wall_ms();
    round->id = d->nonce ^ ++doctor->id_high;
    round->next = doctor->rounds;
    bool has_room = count_rounds(doctor) < ROUNDS_MAX;
    round->due_ms = has_room ? shell_now_ms() + ANSWER_MS : 0;
    doctor->rounds = round;
    shell_tick_soon(d);
    if (!has_room)
        return; /* it ends with the next tick, with nobody asked */
    round->asked[round->asked_count++] = d->identity.node;
    for (uint32_t i = 0; i < d->member_count; i++) {
        if (d->members[i] != d->identity.node && round->asked_count < HA_NODES_MAX)
            round->asked[round->asked_count++] = d->members[i];
    }
    struct peer_facts ask = {.id = round->id};
    peers_send(d, PEER_FACTS_ASK, 0, put_facts, &ask);
    doctor_asked(d, d->identity.node, round->id);
}

void doctor_tick(struct hamgrd *d)
{
    struct shell_doctor *doctor = d->doctor;
    uint64_t now_ms = shell_now_ms();
    struct round **place = &doctor->rounds;

    /* hamgr-hv kills a look that hangs, and says so; if hamgr-hv itself went, nobody will. */
    if (doctor->look_request && !d->is_hv_welcomed)
        drop_look(doctor);
    if (doctor->look_due_ms > 0 && now_ms >= doctor->look_due_ms)
        answer_all(d, d->is_hv_welcomed ? "the look hangs: storage that does not answer?"
                                        : "hamgr-hv does not answer");
    else if (doctor->look_due_ms > 0 && !doctor->look_request)
        (void)send_look(d);
    while (*place) {
        if (now_ms >= (*place)->due_ms || is_complete(*place))
            end_round(d, place);
        else
            place = &(*place)->next;
    }
}
